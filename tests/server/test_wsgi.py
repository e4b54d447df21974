"""Streamable HTTP as a WSGI application: which answer, with which status, in both eras; what bad input gets.

WIRE.md D, E, S, T; FAULTS.md 5.6 (WSGI).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from server.web import META, STATELESS, Web

from mcp_sync.credentials import APIKeyAuth
from mcp_sync.models import Field
from mcp_sync.server import Context, Server, TransportSecuritySettings

WAIT = 5.0


def weather() -> Server:
    server = Server("weather", version="1.0", instructions="Ask for the weather.")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @server.tool()
    def steps(to: int, context: Context) -> str:
        for number in range(to):
            context.progress(number + 1, to)
        return "done"

    @server.tool()
    def region(where: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        return where

    @server.tool()
    def who(context: Context) -> str:
        return f"{context.principal} {context.headers.get('x-mark')}"

    @server.tool()
    def broken() -> str:
        raise RuntimeError("the database is at db.internal")

    @server.resource("config://app", mime_type="application/json")
    def config() -> dict[str, int]:
        return {"a": 1}

    return server


@pytest.fixture
def mount() -> Iterator[Callable[..., Web]]:
    """Mount a server; closed after the test, with all its threads."""
    apps = []

    def mounted(server: Server | None = None, **options: Any) -> Web:
        app = (server or weather()).wsgi_app(**options)
        apps.append(app)
        return Web(app)

    yield mounted
    for app in apps:
        app.close()


@pytest.fixture
def web(mount: Callable[..., Web]) -> Web:
    return mount()


# -- the stateless era ------------------------------------------------------------------------------------------------


def test_a_short_call_is_answered_with_json(web: Web) -> None:
    reply = web.ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.json == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {
            "resultType": "complete",
            "content": [{"type": "text", "text": "3"}],
            "structuredContent": {"result": 3},
            "isError": False,
            "_meta": {META + "serverInfo": {"name": "weather", "version": "1.0"}},
        },
    }
    assert "Mcp-Session-Id" not in reply.headers


def test_a_call_that_says_something_is_answered_with_a_stream(web: Web) -> None:
    reply = web.ask("tools/call", {"name": "steps", "arguments": {"to": 2}}, meta={"progressToken": "p"})
    assert reply.is_stream
    assert reply.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in reply.headers
    first, second, last = reply.messages()
    assert [one["params"]["progress"] for one in (first, second)] == [1, 2]
    assert last["result"]["content"] == [{"type": "text", "text": "done"}]


def test_without_a_token_nothing_is_said_and_the_answer_is_json(web: Web) -> None:
    assert not web.ask("tools/call", {"name": "steps", "arguments": {"to": 2}}).is_stream


def test_an_error_has_its_status(web: Web) -> None:
    for method, params, status, code in [
        ("foo/bar", {}, 404, -32601),
        ("ping", {}, 404, -32601),
        ("initialize", {}, 404, -32601),
        ("prompts/list", {}, 404, -32601),
        ("tools/call", {"name": "nothing"}, 400, -32602),
        ("tools/call", {"name": "add", "arguments": [1]}, 400, -32602),
        ("resources/read", {"uri": "config://none"}, 400, -32602),
        ("tools/list", {"cursor": "x"}, 400, -32602),
    ]:
        reply = web.ask(method, params, request_id="a")
        found = reply.json
        assert (reply.status, found["error"]["code"], found["id"]) == (status, code, "a"), method


def test_what_a_tool_was_given_wrongly_is_told_by_field(web: Web) -> None:
    result = web.ask("tools/call", {"name": "add", "arguments": {"a": "x", "b": 1}}).json["result"]
    assert result["isError"]
    assert "a: Input should be a valid integer" in result["content"][0]["text"]


def test_a_traceback_goes_to_the_log_and_not_to_the_client(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    reply = web.ask("tools/call", {"name": "broken"})
    result = reply.json["result"]
    assert result["isError"]
    assert "Traceback" not in json.dumps(result)
    assert "RuntimeError: the database is at db.internal" in caplog.text


def test_details_of_errors_can_be_masked(mount: Callable[..., Web]) -> None:
    server = Server("masked", mask_error_details=True)

    @server.tool()
    def broken() -> str:
        raise RuntimeError("the database is at db.internal")

    reply = mount(server).ask("tools/call", {"name": "broken"})
    assert b"db.internal" not in reply.content


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({META + "protocolVersion": None}, -32602),
        ({META + "clientCapabilities": None}, -32602),
        ({META + "clientCapabilities": []}, -32602),
        ({META + "logLevel": "loud"}, -32602),
    ],
)
def test_metadata_that_is_not_there_is_named(web: Web, meta: dict[str, Any], code: int) -> None:
    own = {META + "protocolVersion": STATELESS, META + "clientCapabilities": {}, **meta}
    message = {
        "jsonrpc": "2.0",
        "id": 5,
        "method": "tools/list",
        "params": {"_meta": {key: value for key, value in own.items() if value is not None}},
    }
    reply = web.post(message, {"MCP-Protocol-Version": STATELESS, "Mcp-Method": "tools/list"})
    assert reply.status == 400
    assert reply.json["error"]["code"] == code


def test_headers_have_to_say_what_the_body_says(web: Web) -> None:
    arguments = {"name": "region", "arguments": {"where": "eu"}}
    for headers in (
        {"Mcp-Method": "tools/list"},
        {"Mcp-Method": None},
        {"Mcp-Name": "add"},
        {"MCP-Protocol-Version": "2025-11-25"},
        {"Mcp-Param-Region": "us"},
        {},
    ):
        reply = web.ask("tools/call", arguments, headers=headers)
        assert (reply.status, reply.json["error"]["code"]) == (400, -32020), headers
    assert web.ask("tools/call", arguments, headers={"Mcp-Param-Region": "eu"}).status == 200


def test_a_version_that_is_not_spoken_names_those_that_are(web: Web) -> None:
    old = "1900-01-01"
    reply = web.ask("tools/list", meta={META + "protocolVersion": old}, headers={"MCP-Protocol-Version": old})
    assert reply.status == 400
    assert reply.json["error"]["data"] == {"supported": [STATELESS], "requested": old}


def test_discovery_says_what_there_is(web: Web) -> None:
    found = web.ask("server/discover").json["result"]
    assert found["supportedVersions"] == [STATELESS]
    assert set(found["capabilities"]) == {"tools", "resources", "logging"}
    assert found["instructions"] == "Ask for the weather."
    assert (found["ttlMs"], found["cacheScope"]) == (0, "private")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_the_stateless_era_has_posts_only(web: Web, method: str) -> None:
    reply = web.request(method, {"MCP-Protocol-Version": STATELESS, "Accept": "text/event-stream"})
    assert (reply.status, reply.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS", "PATCH"])
def test_other_methods_are_told_which_there_are(web: Web, method: str) -> None:
    reply = web.request(method)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, POST, DELETE")


# -- bad bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, -32700),
        (b"", {}, 400, -32700),
        (b"\xff\xfe", {}, 400, -32700),
        (b"[" * 5000, {}, 400, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"n":' + b"9" * 5000 + b"}}", {}, 400, -32700),
        (b"5", {}, 400, -32600),
        (b"[]", {}, 400, -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}', {}, 400, -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}', {}, 400, -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}', {}, 400, -32600),
        (b"{}", {"Content-Type": "text/plain"}, 415, -32600),
        (b"{}", {"Content-Type": None}, 415, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}', {"Accept": "text/html"}, 406, -32600),
    ],
)
def test_a_body_that_is_no_message(
    web: Web, body: bytes, headers: dict[str, str | None], status: int, code: int
) -> None:
    reply = web.post(body, headers)
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert web.ask("tools/list").status == 200


def test_what_is_too_large_is_refused_before_it_is_read(mount: Callable[..., Web]) -> None:
    class Untouchable:
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("it was read")

    web = mount(max_body_size=2000)
    reply = web.request(
        "POST", {"Content-Type": "application/json", "Content-Length": "2001"}, **{"wsgi.input": Untouchable()}
    )
    assert reply.status == 413


def test_what_is_too_large_without_a_length_is_read_no_further(mount: Callable[..., Web]) -> None:
    class Endless:
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            return b" " * size

    source = Endless()
    reply = mount(max_body_size=100_000).request(
        "POST",
        {"Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        **{"wsgi.input": source, "wsgi.input_terminated": True},
    )
    assert reply.status == 413
    assert source.given < 300_000


@pytest.mark.parametrize("length", ["-1", "1e3", "5, 5", "99999999999999999999", "٣"])
def test_a_length_that_is_none(web: Web, length: str) -> None:
    assert web.request("POST", {"Content-Type": "application/json", "Content-Length": length}).status in (400, 413)


def test_a_body_that_ends_early(web: Web) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "100"}
    assert web.request("POST", headers, b"{}", CONTENT_LENGTH="100").status == 400


# -- who and where ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example.com", "Origin": "http://evil.example.com"}, 421),
        ({"Host": "localhost.evil.com"}, 421),
        ({"Origin": "http://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:5000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
    ],
)
def test_foreign_hosts_and_origins_are_refused_on_loopback(
    web: Web, headers: dict[str, str | None], status: int
) -> None:
    assert web.ask("tools/list", headers=headers).status == status


def test_hosts_can_be_allowed(mount: Callable[..., Web]) -> None:
    headers = {"Host": "mcp.example.com", "Origin": "https://app.example.com"}
    options = {"allowed_hosts": ["mcp.example.com"], "allowed_origins": ["https://app.example.com"]}
    assert mount(**options).ask("tools/list", headers=headers).status == 200
    assert mount(security=TransportSecuritySettings(**options)).ask("tools/list", headers=headers).status == 200
    with pytest.raises(TypeError, match="without security="):
        weather().wsgi_app(security=TransportSecuritySettings(), allowed_hosts=["a"])


def test_no_path_but_its_own(web: Web) -> None:
    assert web.ask("tools/list", PATH_INFO="/").status == 200
    assert web.ask("tools/list", PATH_INFO="/other").status == 404


def test_who_is_nobody_gets_401_and_who_is_somebody_is_known(mount: Callable[..., Web]) -> None:
    web = mount(auth=APIKeyAuth({"ann": "key-of-ann"}))
    for headers in ({}, {"X-API-Key": "wrong"}):
        reply = web.ask("tools/list", headers=headers)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'ApiKey header="X-API-Key"')
    headers = {"X-API-Key": "key-of-ann", "X-Mark": "here"}
    result = web.ask("tools/call", {"name": "who"}, headers=headers).json["result"]
    assert result["content"][0]["text"] == "ann here"


def test_a_framework_in_front_may_say_who_it_is(mount: Callable[..., Web]) -> None:
    web = mount(identify=lambda environ: environ.get("REMOTE_USER"))
    result = web.ask("tools/call", {"name": "who"}, REMOTE_USER="bob").json["result"]
    assert result["content"][0]["text"].startswith("bob")
    assert web.ask("tools/call", {"name": "who"}).json["result"]["content"][0]["text"].startswith("None")


# -- cancelling, and clients that are gone ----------------------------------------------------------------------------


def waiting(name: str = "waits") -> tuple[Server, threading.Event, threading.Event]:
    server = weather()
    began, noticed = threading.Event(), threading.Event()

    @server.tool(name)
    def waits(context: Context) -> str:
        began.set()
        context.progress(1)
        if context.wait(WAIT):
            noticed.set()
        context.check()
        return "waited"

    return server, began, noticed


def test_a_client_that_hangs_up_a_stream_has_cancelled(mount: Callable[..., Web]) -> None:
    server, began, noticed = waiting()
    reply = mount(server).ask("tools/call", {"name": "waits"}, meta={"progressToken": 1})
    assert next(reply.messages())["method"] == "notifications/progress"
    assert began.is_set()
    reply.close()
    assert noticed.wait(WAIT)


def test_a_client_that_is_gone_before_the_answer_has_cancelled(
    mount: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_sync.server.exchange.client_gone", lambda environ: lambda: True)
    server, _, noticed = waiting()
    reply = mount(server).ask("tools/call", {"name": "waits"})
    list(reply.body)
    reply.close()
    assert noticed.wait(WAIT)


def test_a_silent_call_becomes_a_stream_that_says_comments(mount: Callable[..., Web]) -> None:
    server, _, _ = waiting()
    reply = mount(server, heartbeat=0.1).ask("tools/call", {"name": "waits"})
    assert reply.is_stream
    assert next(iter(reply.body)) == b": \n\n"
    reply.close()


def test_beyond_what_can_be_answered_at_once_it_is_503(mount: Callable[..., Web]) -> None:
    server, began, _ = waiting()
    web = mount(server, max_concurrent_requests=1)
    reply = web.ask("tools/call", {"name": "waits"}, meta={"progressToken": 1})
    assert began.wait(WAIT)
    busy = web.ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}}, request_id=7)
    assert (busy.status, busy.headers["Retry-After"], busy.json["id"]) == (503, "1", 7)
    reply.close()


# -- subscriptions ----------------------------------------------------------------------------------------------------


def test_a_subscription_hears_what_it_asked_for(mount: Callable[..., Web]) -> None:
    server = weather()
    web = mount(server)
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["config://app"]}
    reply = web.ask("subscriptions/listen", {"notifications": wanted}, request_id="s")
    messages = reply.messages()
    assert next(messages) == {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {"_meta": {META + "subscriptionId": "s"}, "notifications": wanted},
    }
    server.resource_updated("other://")
    server.resources_changed()
    server.tools_changed()
    server.resource_updated("config://app/part")
    assert [next(messages)["method"] for _ in range(2)] == [
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    ]
    web.app.close()
    assert next(messages)["result"] == {"resultType": "complete", "_meta": {META + "subscriptionId": "s"}}
    assert list(messages) == []


def test_a_subscription_wants_an_object(web: Web) -> None:
    for params in ({}, {"notifications": []}, {"notifications": {"toolsListChanged": 1}}):
        reply = web.ask("subscriptions/listen", params)
        assert (reply.status, reply.json["error"]["code"]) == (400, -32602)


def test_streams_are_capped_and_calls_go_on(mount: Callable[..., Web]) -> None:
    web = mount(max_streams=2)
    open_ones = [web.ask("subscriptions/listen", {"notifications": {}}) for _ in range(2)]
    assert [reply.status for reply in open_ones] == [200, 200]
    refused = web.ask("subscriptions/listen", {"notifications": {}}, request_id=9)
    assert (refused.status, refused.json["id"]) == (503, 9)
    assert int(refused.headers["Retry-After"]) > 0
    assert web.ask("tools/list").status == 200
    open_ones[0].close()
    again = web.ask("subscriptions/listen", {"notifications": {}})
    assert again.status == 200
    for reply in (open_ones[1], again):
        reply.close()


def test_four_fifths_of_the_threads_may_be_streams(mount: Callable[..., Web]) -> None:
    web = mount(threads=5)
    replies = [web.ask("subscriptions/listen", {"notifications": {}}) for _ in range(5)]
    assert [reply.status for reply in replies] == [200] * 4 + [503]
    for reply in replies:
        reply.close()


def test_a_host_without_threads_has_no_streams(mount: Callable[..., Web]) -> None:
    web = mount()
    assert web.ask("subscriptions/listen", {"notifications": {}}, **{"wsgi.multithread": False}).status == 503
    visit = web.greet()
    assert visit.get(**{"wsgi.multithread": False}).status == 405


# -- several rounds ---------------------------------------------------------------------------------------------------


def asking(**options: Any) -> Server:
    server = Server("asking", **options)

    @server.tool()
    def order(context: Context) -> str:
        schema = {"type": "object", "properties": {"v": {"type": "string"}}, "required": ["v"]}
        what = context.elicit("What?", schema, key="what")
        number = context.elicit("How many?", schema, key="number")
        return f"{number.data['v']} {what.data['v']}"

    return server


FORMS = {"elicitation": {"form": {}}}


def test_several_rounds_each_carry_the_answers_before(mount: Callable[..., Web]) -> None:
    web = mount(asking())
    first = web.ask("tools/call", {"name": "order"}, capabilities=FORMS).json["result"]
    assert first["resultType"] == "input_required"
    assert list(first["inputRequests"]) == ["what"]
    assert "requestState" not in first
    answer = {"what": {"action": "accept", "content": {"v": "tea"}}}
    second = web.ask("tools/call", {"name": "order", "inputResponses": answer}, capabilities=FORMS).json["result"]
    assert list(second["inputRequests"]) == ["number"]
    params = {
        "name": "order",
        "inputResponses": {"number": {"action": "accept", "content": {"v": "two"}}, "what": None, "more": 5},
        "requestState": second["requestState"],
    }
    del params["inputResponses"]["what"]  # type: ignore[attr-defined]
    last = web.ask("tools/call", params, capabilities=FORMS).json["result"]
    assert last["content"][0]["text"] == "two tea"


def test_a_state_that_was_changed_is_refused(mount: Callable[..., Web]) -> None:
    web = mount(asking())
    answer = {"what": {"action": "accept", "content": {"v": "tea"}}}
    state = web.ask("tools/call", {"name": "order", "inputResponses": answer}, capabilities=FORMS).json["result"][
        "requestState"
    ]
    for changed in (state + "-TAMPERED", state[:-1], "", 5, None, "v1..", "é"):
        reply = web.ask("tools/call", {"name": "order", "requestState": changed}, capabilities=FORMS)
        assert reply.status == 400
        assert reply.json["error"]["data"] == {"reason": "invalid_request_state"}
    other = web.ask("tools/call", {"name": "order", "arguments": {}, "requestState": state}, capabilities=FORMS)
    assert other.json["error"]["code"] == -32602


def test_workers_with_one_key_take_each_others_state(
    mount: Callable[..., Web], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def state_of(web: Web) -> str:
        answer = {"what": {"action": "accept", "content": {"v": "tea"}}}
        found = web.ask("tools/call", {"name": "order", "inputResponses": answer}, capabilities=FORMS)
        return str(found.json["result"]["requestState"])

    def taken(web: Web, state: str) -> bool:
        params = {"name": "order", "requestState": state}
        return web.ask("tools/call", params, capabilities=FORMS, **{"wsgi.multiprocess": True}).status == 200

    assert taken(mount(asking(secret_key="k")), state_of(mount(asking(), secret_key="k")))
    with caplog.at_level(logging.WARNING):
        assert not taken(mount(asking()), state_of(mount(asking())))
    assert "secret_key=" in caplog.text
    monkeypatch.setenv("MCP_SYNC_SECRET_KEY", "from the environment")
    assert taken(mount(asking()), state_of(mount(asking())))


def test_a_client_that_cannot_be_asked_is_told_what_it_lacks(mount: Callable[..., Web]) -> None:
    reply = mount(asking()).ask("tools/call", {"name": "order"})
    assert (reply.status, reply.json["error"]["code"]) == (400, -32021)
    assert reply.json["error"]["data"] == {"requiredCapabilities": {"elicitation": {"form": {}}}}
