"""What a server says to each method, through ``Client(server)`` in memory, in every protocol version.

WIRE.md A6, A13, B2, B3, B8, K1, N1, Q1 to Q4, S; issue 6 (errors of a tool become results, nothing of our inside).
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import mcp_types as types
import pytest
from server.wire import HANDSHAKE, STATELESS, wire_to

from mcp_sync import Client, JSONRPCError, ToolError
from mcp_sync.protocol.eras import HANDSHAKE_VERSIONS, VERSIONS
from mcp_sync.server import Context, Image, Server, UserMessage

ERAS = pytest.mark.parametrize("version", VERSIONS)
ONE_OF_EACH = pytest.mark.parametrize("version", [STATELESS, HANDSHAKE])
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
PROMPT, VALUE = {"type": "ref/prompt", "name": "review"}, {"name": "code", "value": ""}
SECRET = "hunter2-in-the-database-url"


@dataclass
class Place:
    name: str
    height: int = 0


def everything(**options: Any) -> Server:
    server = Server(
        **{"name": "all", "version": "1.2", "title": "All", "instructions": "Be kind.", "cache_ttl_ms": 500, **options}
    )

    @server.tool(title="Adder", annotations=types.ToolAnnotations(read_only_hint=True), meta={"x/y": 1})
    def add(a: int, b: int = 2) -> int:
        """Add.

        Args:
            a: One.
            b: The other.
        """
        return a + b

    @server.tool()
    def place(name: str) -> Place:
        return Place(name, 7)

    @server.tool()
    def mixed() -> list[str | Image]:
        return ["a text", Image(b"\x89PNG\r\n\x1a\n")]

    @server.tool()
    def ready() -> types.CallToolResult:
        return types.CallToolResult(content=[], is_error=True, meta={"mine": 1})

    @server.tool()
    def fails(how: str) -> str:
        raise {"value": ValueError(SECRET), "mute": KeyError(), "tool": ToolError("told you")}[how]

    @server.tool()
    def refuses(upstream: bool) -> str:
        method = "tools/list" if upstream else None
        raise JSONRPCError(-32050, "no such luck", {"why": "bad"}, method=method)

    @server.tool()
    def leaves() -> str:
        raise SystemExit(3)

    @server.tool()
    def lies() -> Place:
        return "no place"  # type: ignore[return-value]

    @server.tool()
    def unsayable() -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(text="\ud800")])

    server.add_resource("text://a", "some text", title="T", size=9)
    server.add_resource("bin://a", b"\x00\xff", name="bin", mime_type="application/x-a")

    @server.resource("data://place")
    def data() -> dict[str, Any]:
        """Where it is."""
        return {"height": 7}

    @server.resource("broken://a")
    def broken() -> str:
        raise OSError(SECRET)

    @server.resource("users://{id}/posts{?limit}", mime_type="text/markdown")
    def posts(id: int, limit: int = 10) -> str:
        return f"{limit} posts of {id}"

    @server.prompt()
    def review(code: str, strict: bool = False) -> list[Any]:
        """Review code.

        Args:
            code: The code.
        """
        return [UserMessage(f"Review {code}"), ("assistant", f"strictly: {strict}")]

    @server.prompt()
    def breaks() -> str:
        raise OSError(SECRET)

    @server.completion("review", "code")
    def codes(value: str, known: Mapping[str, str]) -> list[str]:
        return [f"{value}{number}{known.get('strict', '')}" for number in range(150)]

    @server.completion("users://{id}/posts{?limit}", "id")
    def ids(value: str) -> list[str]:
        return [value + "0"]

    @server.completion("breaks", "x")
    def unlucky(value: str) -> list[str]:
        raise OSError(SECRET)

    return server


usual = functools.cache(everything)
"""The one server of most tests: to make its models takes longer than they do."""


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    with ExitStack() as open_clients:

        def connected(version: str, server: Server | None = None, **options: Any) -> Client:
            server = server or usual()
            open_clients.callback(server.close)  # so that its threads have ended when the test has
            return open_clients.enter_context(Client(server, protocol_version=version, timeout=10, **options))

        yield connected


def error_of(client: Client, method: str, params: Mapping[str, Any] | None = None) -> JSONRPCError:
    with pytest.raises(JSONRPCError) as refusal:
        client.request(method, params)
    return refusal.value


# -- the shape of a result --------------------------------------------------------------------------------------------

LISTS = {"tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources"}
LISTS["resources/templates/list"] = "resourceTemplates"


@ERAS
def test_a_result_says_what_its_era_demands_and_nothing_of_another(
    connect: Callable[..., Client], version: str
) -> None:
    client = connect(version, enable_response_caching=False)
    cached = [*LISTS, "resources/read"]
    for method in (*cached, "tools/call", "prompts/get", "completion/complete"):
        params = {
            "resources/read": {"uri": "text://a"},
            "tools/call": {"name": "add", "arguments": {"a": 1}},
            "prompts/get": {"name": "review", "arguments": {"code": "x"}},
            "completion/complete": {"ref": PROMPT, "argument": VALUE},
        }.get(method)
        result = client.request(method, params)
        told = {key: result.get(key) for key in ("resultType", "_meta", "ttlMs", "cacheScope")}
        if version != STATELESS:
            assert set(told.values()) == {None}, method
            continue
        assert told["resultType"] == "complete"
        assert told["_meta"] == {SERVER_INFO: {"name": "all", "version": "1.2", "title": "All"}}
        kept = (500, "private") if method in cached else (None, None)  # no other results are kept
        assert (told["ttlMs"], told["cacheScope"]) == kept, method


def test_discovery_tells_the_versions_the_capabilities_and_how_to_use_it(connect: Callable[..., Client]) -> None:
    found = connect(STATELESS).request("server/discover")
    assert found == {
        "resultType": "complete",
        "supportedVersions": [STATELESS],
        "capabilities": {
            "tools": {"listChanged": True},
            "resources": {"subscribe": True, "listChanged": True},
            "prompts": {"listChanged": True},
            "completions": {},
            "logging": {},
        },
        "instructions": "Be kind.",
        "ttlMs": 500,
        "cacheScope": "private",
        "_meta": {SERVER_INFO: {"name": "all", "version": "1.2", "title": "All"}},
    }


@ERAS
def test_a_client_gets_the_version_it_wants_and_hears_who_answers(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    assert client.protocol_version == version
    assert (client.server_info.name, client.server_info.version) == ("all", "1.2")
    assert client.instructions == "Be kind."
    client.ping()


def test_a_client_without_a_wish_speaks_the_newest(connect: Callable[..., Client]) -> None:
    assert connect(None).protocol_version == STATELESS  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        *zip(HANDSHAKE_VERSIONS, HANDSHAKE_VERSIONS, strict=True),
        *((other, HANDSHAKE_VERSIONS[-1]) for other in ("", "1999-01-01", "2025-11-26", STATELESS, "9999-99-99")),
    ],
)
def test_initialize_agrees_on_the_wanted_version_or_on_the_newest_that_has_a_handshake(wanted: str, given: str) -> None:
    with wire_to(usual()) as wire:
        result = wire.greet(wanted)
    assert result["protocolVersion"] == given
    assert set(result) == {"protocolVersion", "capabilities", "serverInfo", "instructions"}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"protocolVersion": 20251125},
        {"protocolVersion": None},
        {"protocolVersion": HANDSHAKE, "capabilities": []},
        {"protocolVersion": HANDSHAKE, "capabilities": None},
        {"protocolVersion": HANDSHAKE, "clientInfo": "me"},
    ],
)
def test_an_initialize_that_makes_no_sense_is_refused_and_another_may_follow(params: Any) -> None:
    with wire_to(usual()) as wire:
        wire.version = None
        assert wire.error("initialize", params)["code"] == -32602
        assert wire.error("tools/list")["code"] == -32600
        assert wire.greet()["protocolVersion"] == HANDSHAKE


# -- lists ------------------------------------------------------------------------------------------------------------


@ERAS
def test_lists_have_what_was_registered_in_its_order(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    tools = {tool["name"]: tool for tool in client.request("tools/list")["tools"]}
    assert list(tools)[:3] == ["add", "place", "mixed"]
    add = tools["add"]
    assert (add["title"], add["description"], add["annotations"]) == ("Adder", "Add.", {"readOnlyHint": True})
    assert add["inputSchema"]["properties"]["a"]["description"] == "One."
    assert (add["inputSchema"]["required"], add["_meta"]) == (["a"], {"x/y": 1})
    assert tools["place"]["outputSchema"]["type"] == "object"
    resources = client.request("resources/list")["resources"]
    assert resources[0] == {"uri": "text://a", "name": "text://a", "title": "T", "size": 9}
    assert resources[2] == {"uri": "data://place", "name": "data", "description": "Where it is."}
    (template,) = client.request("resources/templates/list")["resourceTemplates"]
    assert template == {"uriTemplate": "users://{id}/posts{?limit}", "name": "posts", "mimeType": "text/markdown"}
    arguments = [{"name": "code", "description": "The code.", "required": True}, {"name": "strict", "required": False}]
    (review, _) = client.request("prompts/list")["prompts"]
    assert review == {"name": "review", "description": "Review code.", "arguments": arguments}
    assert [len(client.list_tools()), len(client.list_prompts()), len(client.list_resources())] == [9, 2, 4]


@ONE_OF_EACH
@pytest.mark.parametrize("method", LISTS)
def test_pages_hold_everything_once_and_a_foreign_cursor_is_refused(
    connect: Callable[..., Client], version: str, method: str
) -> None:
    server = Server("pages", page_size=3)
    for number in range(7):
        server.add_tool(lambda: None, f"t{number}")
        server.add_prompt(lambda: "", f"p{number}")
        server.add_resource(f"r://{number}", "text")
        server.add_resource(f"t{number}://{{a}}", lambda a: a, name=f"t{number}")
    client, pages, cursor = connect(version, server), [], {}
    while True:
        page = client.request(method, cursor)
        pages.append(page[LISTS[method]])
        if "nextCursor" not in page:
            break
        cursor = {"cursor": page["nextCursor"]}
    names = [item["name"] for page in pages for item in page]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len(set(names)) == 7
    for foreign in ("", "x", "5", "LTE=", "é", "OTk5OTk5OTk5OTk5OTk5", 3, True, ["MA=="], {}):
        assert error_of(client, method, {"cursor": foreign}).code == -32602, foreign
    assert client.request(method, {"cursor": None})[LISTS[method]] == pages[0]


# -- capabilities -----------------------------------------------------------------------------------------------------

OFFERS: dict[str, tuple[Callable[[Server], object], list[str]]] = {
    "tools": (lambda server: server.add_tool(lambda: None, "t"), ["tools/list", "tools/call"]),
    "prompts": (lambda server: server.add_prompt(lambda: "", "p"), ["prompts/list", "prompts/get"]),
    "resources": (
        lambda server: server.add_resource("a://b", "text"),
        ["resources/list", "resources/read", "resources/templates/list"],
    ),
    "completions": (lambda server: server.completion("p", "a")(lambda value: []), ["completion/complete"]),
}


@ERAS
@pytest.mark.parametrize("offered", [*OFFERS, None])
def test_what_is_not_declared_is_no_method_and_what_is_declared_is_one(
    connect: Callable[..., Client], version: str, offered: str | None
) -> None:
    server = Server("s")
    if offered is not None:
        OFFERS[offered][0](server)
    client = connect(version, server)
    declared = client.server_capabilities.model_dump(exclude_none=True)
    assert set(declared) == {"logging", *([offered] if offered else [])}
    watching = ["resources/subscribe", "resources/unsubscribe"] if version != STATELESS else []
    for name, (_, methods) in OFFERS.items():
        for method in [*methods, *(watching if name == "resources" else [])]:
            try:
                client.request(method, {"uri": "a://b"})
                code = None
            except JSONRPCError as error:
                code = error.code
            assert (code == -32601) == (name != offered), (method, code)


def test_what_was_declared_once_stays_declared(connect: Callable[..., Client]) -> None:
    server = Server("s")
    server.add_tool(lambda: None, "t")
    server.remove_tool("t")
    assert connect(STATELESS, server).request("tools/list")["tools"] == []
    assert connect(HANDSHAKE, server).list_tools() == []


GONE = ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list"]


UNKNOWN = ["tasks/get", "tasks/result", "skills/list", "unknown/method", "", "tools", "tools/list/"]


@pytest.mark.parametrize(
    ("version", "methods"),
    [
        (STATELESS, [*GONE, *UNKNOWN]),
        *((version, ["server/discover", "subscriptions/listen", *UNKNOWN]) for version in HANDSHAKE_VERSIONS),
    ],
)
def test_a_method_of_another_era_or_of_none_does_not_exist(version: str, methods: list[str]) -> None:
    with wire_to(usual(), version) as wire:
        for method in methods:
            assert wire.error(method, {"level": "info", "uri": "text://a", "notifications": {}})["code"] == -32601


# -- tools ------------------------------------------------------------------------------------------------------------


@ERAS
def test_what_a_tool_returns_becomes_content_and_structured_content(
    connect: Callable[..., Client], version: str
) -> None:
    client = connect(version)
    assert client.call_tool("add", {"a": 1}).data == 3
    raw = client.request("tools/call", {"name": "place", "arguments": {"name": "Rome"}})
    assert raw["structuredContent"] == {"name": "Rome", "height": 7}
    assert json.loads(raw["content"][0]["text"]) == raw["structuredContent"]
    assert raw["isError"] is False
    kinds = [block["type"] for block in client.request("tools/call", {"name": "mixed"})["content"]]
    assert kinds == ["text", "image"]
    ready = client.request("tools/call", {"name": "ready", "arguments": None})
    assert (ready["isError"], ready["_meta"]["mine"]) == (True, 1)


@ERAS
def test_arguments_that_do_not_fit_are_told_by_field_as_a_result(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    for arguments, said in [
        ({}, "a: "),
        ({"a": "one"}, "a: "),
        ({"a": "1"}, "a: "),
        ({"a": 1, "b": None}, "b: "),
        ({"a": 1, "c": 3}, "c: "),
    ]:
        result = client.call_tool("add", arguments)
        assert result.is_error
        assert result.text.startswith(f"invalid arguments: {said}")
        assert "integer" in result.text or "c" in arguments
        assert "pydantic" not in result.text


@ONE_OF_EACH
def test_arguments_that_are_no_object_are_an_error_of_the_protocol(
    connect: Callable[..., Client], version: str
) -> None:
    client = connect(version)
    for arguments in ([], "a", "", 1, 0, True, False, [["a", 1]]):
        for method, name in (("tools/call", "add"), ("prompts/get", "review")):
            assert error_of(client, method, {"name": name, "arguments": arguments}).code == -32602


@ERAS
def test_an_unknown_tool_is_an_error_of_the_protocol(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    for name in ("none", "", None, 5, ["add"], {"add": 1}, "x" * 100_000):
        error = error_of(client, "tools/call", {"name": name, "arguments": {}})
        assert error.code == -32602
        assert len(error.message) < 300


@ERAS
def test_what_a_tool_raises_is_a_result_and_its_traceback_is_in_the_log_alone(
    connect: Callable[..., Client], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(version)
    with caplog.at_level(logging.ERROR, "mcp_sync"):
        raw = client.request("tools/call", {"name": "fails", "arguments": {"how": "value"}})
    assert raw["isError"] is True
    assert raw["content"] == [{"type": "text", "text": SECRET}]
    assert "Traceback" in caplog.text
    assert __file__ in caplog.text
    assert "Traceback" not in json.dumps(raw)
    assert __file__ not in json.dumps(raw)
    caplog.clear()
    assert client.call_tool("fails", {"how": "tool"}).text == "told you"
    assert caplog.text == ""  # a ToolError is meant
    assert client.call_tool("fails", {"how": "mute"}).text == "KeyError"


@ONE_OF_EACH
def test_details_of_errors_can_be_kept_from_clients(
    connect: Callable[..., Client], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(version, everything(mask_error_details=True))
    assert client.call_tool("fails", {"how": "value"}).text == "the tool 'fails' failed"
    assert client.call_tool("lies").text == "the tool 'lies' failed"
    assert client.call_tool("fails", {"how": "tool"}).text == "told you"
    assert "invalid arguments" in client.call_tool("add").text
    assert SECRET in caplog.text


@ONE_OF_EACH
def test_an_error_of_the_protocol_that_a_tool_raises_is_the_answer_but_not_one_of_another_server(
    connect: Callable[..., Client], version: str
) -> None:
    client = connect(version)
    error = error_of(client, "tools/call", {"name": "refuses", "arguments": {"upstream": False}})
    assert (error.code, error.message, error.data) == (-32050, "no such luck", {"why": "bad"})
    result = client.call_tool("refuses", {"upstream": True})
    assert (result.is_error, result.text) == (True, "no such luck")


@ONE_OF_EACH
def test_whatever_a_tool_does_there_is_an_answer(
    connect: Callable[..., Client], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(version)
    assert error_of(client, "tools/call", {"name": "leaves"}).code == -32603
    assert "output schema" in client.call_tool("lies").text
    assert error_of(client, "tools/call", {"name": "unsayable"}).code == -32603
    assert client.call_tool("add", {"a": 1}).data == 3


@ONE_OF_EACH
def test_an_answer_that_is_too_large_is_an_error_and_the_connection_goes_on(
    connect: Callable[..., Client], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server("s")

    @server.tool()
    def long(fail: bool) -> str:
        if fail:
            raise JSONRPCError(-32050, "x" * 6000)
        return "x" * 6000

    client = connect(version, server, max_message_size=5000)  # of both ends: there is one process
    for fail in (False, True):
        assert error_of(client, "tools/call", {"name": "long", "arguments": {"fail": fail}}).code == -32603
    client.ping()


# -- resources --------------------------------------------------------------------------------------------------------


@ERAS
def test_a_resource_is_read_as_what_it_is(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    for uri, contents in {
        "text://a": {"mimeType": "text/plain", "text": "some text"},
        "bin://a": {"mimeType": "application/x-a", "blob": "AP8="},
        "data://place": {"mimeType": "application/json", "text": '{"height": 7}'},
        "users://5/posts": {"mimeType": "text/markdown", "text": "10 posts of 5"},
        "users://5/posts?limit=3": {"mimeType": "text/markdown", "text": "3 posts of 5"},
    }.items():
        assert client.request("resources/read", {"uri": uri})["contents"] == [{"uri": uri, **contents}]


@ERAS
def test_a_resource_that_does_not_exist_has_the_code_of_the_era(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    for uri in ("none://", "text://b", "users://5", "users:///posts", "", "users://%2e%2e/posts"):
        error = error_of(client, "resources/read", {"uri": uri})
        assert (error.code, error.data) == (-32602 if version == STATELESS else -32002, {"uri": uri})


@ONE_OF_EACH
def test_what_does_not_fit_a_template_is_told_by_field(connect: Callable[..., Client], version: str) -> None:
    error = error_of(connect(version), "resources/read", {"uri": "users://ann/posts?limit=x"})
    assert (error.code, error.data) == (-32602, {"uri": "users://ann/posts?limit=x"})
    assert "id: " in error.message
    assert "limit: " in error.message


@ONE_OF_EACH
def test_a_resource_or_a_prompt_that_fails_says_nothing_of_why(
    connect: Callable[..., Client], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(version)
    asking = {"ref": {"type": "ref/prompt", "name": "breaks"}, "argument": {"name": "x", "value": ""}}
    for method, params in [
        ("resources/read", {"uri": "broken://a"}),
        ("prompts/get", {"name": "breaks"}),
        ("completion/complete", asking),
    ]:
        caplog.clear()
        error = error_of(client, method, params)
        assert error.code == -32603
        assert SECRET not in str(error)
        assert SECRET in caplog.text, method


@ONE_OF_EACH
def test_a_uri_that_is_no_text_is_refused(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    methods = ["resources/read", *([] if version == STATELESS else ["resources/subscribe", "resources/unsubscribe"])]
    for method in methods:
        for uri in (None, 5, ["text://a"], {}):
            assert error_of(client, method, {"uri": uri}).code == -32602


# -- prompts and completion -------------------------------------------------------------------------------------------


@ERAS
def test_a_prompt_is_made_of_its_arguments_which_are_texts(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    result = client.request("prompts/get", {"name": "review", "arguments": {"code": "x=1", "strict": "true"}})
    assert result["description"] == "Review code."
    assert result["messages"] == [
        {"role": "user", "content": {"type": "text", "text": "Review x=1"}},
        {"role": "assistant", "content": {"type": "text", "text": "strictly: True"}},
    ]


@ERAS
def test_a_prompt_that_does_not_exist_or_fit_is_an_error_of_the_protocol(
    connect: Callable[..., Client], version: str
) -> None:
    client = connect(version)
    for params, said in [
        ({"name": "none"}, "no prompt 'none'"),
        ({}, "no prompt"),
        ({"name": ["review"]}, "no prompt"),
        ({"name": "review"}, "code: "),
        ({"name": "review", "arguments": {"code": 5}}, "code: "),
        ({"name": "review", "arguments": {"code": "x", "strict": "perhaps"}}, "strict: "),
    ]:
        error = error_of(client, "prompts/get", params)
        assert error.code == -32602
        assert said in error.message


@ERAS
def test_completion_gives_a_hundred_values_and_says_how_many_there_are(
    connect: Callable[..., Client], version: str
) -> None:
    client = connect(version)
    found = client.complete(
        {"type": "ref/prompt", "name": "review"}, {"name": "code", "value": "c"}, {"strict": "!"}
    ).completion
    assert (found.values[0], len(found.values), found.total, found.has_more) == ("c0!", 100, 150, True)
    template = {"type": "ref/resource", "uri": "users://{id}/posts{?limit}"}
    found = client.complete(template, {"name": "id", "value": "1"}).completion
    assert (found.values, found.total, found.has_more) == (["10"], 1, False)
    for reference in ({"type": "ref/prompt", "name": "review"}, {"type": "ref/resource", "uri": "text://a"}):
        assert client.complete(reference, {"name": "other", "value": ""}).completion.values == []


NO_REFERENCES: list[Any] = [None, [], {}, "review", {"type": "ref/prompt", "name": "none"}, {"type": "ref/prompt"}]
NO_REFERENCES += [{"type": "ref/resource", "uri": uri} for uri in ("none://", None, ["a"])]
NO_REFERENCES += [{"type": "ref/other", "name": "review"}, {"name": "review"}]
NO_VALUES: list[Any] = [None, [], {}, {"name": "code"}, {"name": 1, "value": ""}, {"name": "code", "value": 5}]


@ONE_OF_EACH
def test_a_completion_of_nothing_that_is_offered_is_refused(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    for params in [
        *({"ref": reference, "argument": VALUE} for reference in NO_REFERENCES),
        *({"ref": PROMPT, "argument": value} for value in NO_VALUES),
        {},
    ]:
        assert error_of(client, "completion/complete", params).code == -32602, params


@ONE_OF_EACH
def test_what_is_known_already_may_be_missing_or_nonsense(connect: Callable[..., Client], version: str) -> None:
    client = connect(version)
    for known in (None, [], "x", {}, {"arguments": None}, {"arguments": []}):
        found = client.request("completion/complete", {"ref": PROMPT, "argument": VALUE, "context": known})
        assert found["completion"]["values"][0] == "0"


# -- what the stateless era demands of every request ------------------------------------------------------------------

META = "io.modelcontextprotocol/"


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({META + "protocolVersion": STATELESS}, -32602),
        ({META + "clientCapabilities": {}}, -32602),
        ({META + "clientCapabilities": {}, META + "protocolVersion": None}, -32602),
        ({META + "clientCapabilities": {}, META + "protocolVersion": 2026}, -32602),
        ({META + "clientCapabilities": [], META + "protocolVersion": STATELESS}, -32602),
        ({META + "clientCapabilities": {}, META + "protocolVersion": STATELESS, META + "logLevel": "loud"}, -32602),
        ({META + "clientCapabilities": {}, META + "protocolVersion": STATELESS, META + "logLevel": ["info"]}, -32602),
        ({META + "clientCapabilities": {}, META + "protocolVersion": "1900-01-01"}, -32022),
        ({META + "clientCapabilities": {}, META + "protocolVersion": HANDSHAKE}, -32022),
    ],
)
def test_a_request_that_does_not_say_what_it_has_to_is_refused(meta: dict[str, Any], code: int) -> None:
    with wire_to(usual()) as wire:
        wire.version = None
        for method in ("tools/list", "server/discover", "subscriptions/listen", "no/such"):
            error = wire.error(method, meta=meta)
            assert error["code"] == code
            if code == -32022:
                assert error["data"] == {"supported": [STATELESS], "requested": meta[META + "protocolVersion"]}


def test_nobody_has_to_say_who_he_is() -> None:
    with wire_to(usual()) as wire:  # which says no clientInfo
        assert wire.call("add", {"a": 1})["structuredContent"] == {"result": 3}
        assert wire.call("add", {"a": 1}, meta={META + "clientInfo": "nobody"})["isError"] is False


def test_a_tool_sees_who_asks(connect: Callable[..., Client]) -> None:
    server, seen = Server("s"), []

    @server.tool()
    def who(context: Context) -> str:
        seen.append((context.protocol_version, dict(context.client_info), context.meta.get("x/y"), context.principal))
        assert context.headers == {}
        assert context.session_id is None
        return f"{context.request_id}"

    for version in VERSIONS:
        client = connect(version, server, client_info={"name": "me", "version": "3"})
        client.call_tool("who", meta={"x/y": version})
    assert seen == [(version, {"name": "me", "version": "3"}, version, None) for version in VERSIONS]
