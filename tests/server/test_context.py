"""What a function says and asks while it is run, in both eras: progress, log, questions, rounds, the end of interest.

WIRE.md A14, C4, J1, L1 to L8, P1 to P6, R1; basic/patterns/mrtr.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from server.wire import FORM, HANDSHAKE, META, PATIENCE, STATELESS, wire_to
from typing_extensions import TypedDict

from mcp_sync import Client, JSONRPCError, MCPTimeoutError, Notification
from mcp_sync.protocol.eras import HANDSHAKE_VERSIONS, LOG_LEVELS, VERSIONS
from mcp_sync.server import Context, Elicit, Roots, Sample, Server, Withdrawn
from mcp_sync.server.sealing import Seal
from mcp_sync.testing import in_threads

ERAS = pytest.mark.parametrize("version", VERSIONS)
ONE_OF_EACH = pytest.mark.parametrize("version", [STATELESS, HANDSHAKE])
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture
def server() -> Server:
    return Server("s", secret_key="the key")


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., Client]]:
    with ExitStack() as open_clients:

        def connected(version: str, **options: Any) -> Client:
            open_clients.callback(server.close)
            return open_clients.enter_context(Client(server, protocol_version=version, timeout=10, **options))

        yield connected


def await_callbacks(client: Client) -> None:
    """Wait until callbacks have been told all that has come: they run in order, and this is the last."""
    done = threading.Event()
    client._connected(client._deadline(None)).caller.post(done.set)
    assert done.wait(PATIENCE)


# -- saying -----------------------------------------------------------------------------------------------------------


@ERAS
def test_progress_only_ever_increases(server: Server, connect: Callable[..., Client], version: str) -> None:
    @server.tool()
    def work(context: Context) -> None:
        for done in (0, 0.5, 0.5, 0.2, math.nan, 1, -1, 3, 2, 4):
            context.progress(done, 4, f"step {done}")
        context.progress(5)

    seen: list[Any] = []
    connect(version).call_tool("work", on_progress=lambda *report: seen.append(report))
    assert seen == [*((done, 4, f"step {done}") for done in (0, 0.5, 1, 3, 4)), (5, None, None)]


@ONE_OF_EACH
def test_progress_is_told_only_to_who_asked_for_it(server: Server, version: str) -> None:
    @server.tool()
    def work(context: Context) -> None:
        context.progress(1)

    with wire_to(server, version) as wire:
        for token in (None, True, 1.5, ["t"], {}):
            meta = {} if token is None else {"progressToken": token}
            wire.ask("tools/call", {"name": "work"}, meta=meta, id_=5)
            assert wire.next()["id"] == 5, token
        for token in ("t", 0, ""):
            wire.ask("tools/call", {"name": "work"}, meta={"progressToken": token}, id_=6)
            params = {"progressToken": token, "progress": 1}
            assert wire.next() == {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            assert wire.next()["id"] == 6


@ERAS
def test_log_messages_are_sent_from_the_level_on_that_the_client_wants(
    server: Server, connect: Callable[..., Client], version: str
) -> None:
    @server.tool()
    def talk(context: Context) -> None:
        for level in LOG_LEVELS:
            context.log(level, {"level": level}, logger="tests")

    seen: list[str] = []
    client = connect(version, on_log=lambda record: seen.append(record.level))

    def heard() -> list[str]:
        seen.clear()
        client.call_tool("talk")
        await_callbacks(client)
        return list(seen)

    # a client with on_log wants all in the stateless era; in the handshake era the server begins with its own
    assert heard() == list(LOG_LEVELS if version == STATELESS else LOG_LEVELS[1:])
    for level in ("error", "debug", "emergency"):
        client.set_logging_level(level)
        assert heard() == list(LOG_LEVELS[LOG_LEVELS.index(level) :])


def test_the_stateless_era_sends_no_log_messages_unless_the_request_wants_them(server: Server) -> None:
    @server.tool()
    def talk(context: Context) -> None:
        context.debug("fine")
        context.info("well")
        context.warning("rough")
        context.error("bad", logger="me")

    with wire_to(server) as wire:
        wire.ask("tools/call", {"name": "talk"}, id_=1)
        assert wire.next()["id"] == 1
        wire.ask("tools/call", {"name": "talk"}, id_=2, meta={META + "logLevel": "warning"})
        assert wire.next()["params"] == {"level": "warning", "data": "rough"}
        assert wire.next()["params"] == {"level": "error", "logger": "me", "data": "bad"}
        assert wire.next()["id"] == 2
        wire.ask("tools/call", {"name": "talk"}, id_=3)  # it was wanted for one request, not for the connection
        assert wire.next()["id"] == 3


def test_a_level_that_does_not_exist_is_refused(server: Server) -> None:
    server.add_tool(lambda: None, "t")
    with wire_to(server, HANDSHAKE) as wire:
        for level in ("loud", "", None, 3, ["info"], "INFO"):
            assert wire.error("logging/setLevel", {"level": level})["code"] == -32602
        assert wire.result("logging/setLevel", {"level": "alert"}) == {}


@ONE_OF_EACH
def test_what_cannot_be_said_in_json_is_the_fault_of_the_tool(
    server: Server, connect: Callable[..., Client], version: str
) -> None:
    @server.tool()
    def talk(context: Context) -> None:
        context.error(object())

    result = connect(version, on_log=print).call_tool("talk")
    assert result.is_error
    assert "JSON" in result.text


@ONE_OF_EACH
def test_a_tool_may_read_the_resources_of_its_server(
    server: Server, connect: Callable[..., Client], version: str
) -> None:
    server.add_resource("a://b", "text")

    @server.tool()
    def peek(uri: str, context: Context) -> str:
        return str(context.read_resource(uri)[0]["text"])

    client = connect(version)
    assert client.call_tool("peek", {"uri": "a://b"}).text == "text"
    with pytest.raises(JSONRPCError, match="no resource 'a://c'"):
        client.call_tool("peek", {"uri": "a://c"})


# -- asking -----------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class PlainForm:
    name: str
    age: int = 30
    colour: Colour = Colour.RED
    size: Literal["s", "m"] | None = None
    tags: list[Colour] = dataclasses.field(default_factory=list)


class DictForm(TypedDict, total=False):
    name: str
    nice: bool


class ModelForm(BaseModel):
    name: str = Field(description="Who?", min_length=2)
    score: float | None = None


@ERAS
@pytest.mark.parametrize(
    ("form", "filled_in", "made"),
    [
        (NAME, {"name": "Ann"}, {"name": "Ann"}),
        (PlainForm, {"name": "Ann", "tags": ["blue"]}, PlainForm("Ann", 30, Colour.RED, None, [Colour.BLUE])),
        (PlainForm, {"name": "Ann", "age": 4, "size": "m", "colour": "blue"}, PlainForm("Ann", 4, Colour.BLUE, "m")),
        (DictForm, {"nice": True}, {"nice": True}),
        (ModelForm, {"name": "Ann", "score": 1.5}, ModelForm(name="Ann", score=1.5)),
    ],
)
def test_a_form_that_the_user_fills_in_becomes_what_it_was_made_of(
    server: Server, connect: Callable[..., Client], version: str, form: Any, filled_in: dict[str, Any], made: Any
) -> None:
    asked, got = [], []

    @server.tool()
    def ask(context: Context) -> str:
        got.append(context.elicit("Who are you?", form))
        return "done"

    def fill_in(params: Any) -> dict[str, Any]:
        asked.append(params)
        return filled_in

    assert connect(version, elicitation=fill_in).call_tool("ask").text == "done"
    (answer,) = got
    assert (answer.action, answer.accepted, answer.data) == ("accept", True, made)
    assert {key: answer.content[key] for key in filled_in} == filled_in
    (params,) = asked
    assert params.message == "Who are you?"
    assert params.requested_schema["type"] == "object"


def test_a_form_is_flat_and_has_only_what_a_client_can_show() -> None:
    (schema,) = [Elicit("?", PlainForm).params["requestedSchema"]]
    assert schema == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "title": "Name"},
            "age": {"type": "integer", "title": "Age", "default": 30},
            "colour": {"type": "string", "title": "Colour", "enum": ["red", "blue"], "default": "red"},
            "size": {"type": "string", "title": "Size", "enum": ["s", "m"]},
            "tags": {
                "type": "array",
                "title": "Tags",
                "items": {"type": "string", "title": "Colour", "enum": ["red", "blue"]},
            },
        },
        "required": ["name"],
    }


@dataclasses.dataclass
class Nested:
    inner: PlainForm


@dataclasses.dataclass
class Numbers:
    which: Literal[1, 2]


@dataclasses.dataclass
class Words:
    words: list[str]


@dataclasses.dataclass
class Either:
    what: int | str


@pytest.mark.parametrize("kind", [Nested, Numbers, Words, Either, int, list[int], dict[str, str]])
def test_what_no_form_can_hold_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="makes no form"):
        _ = Elicit("?", kind).params


@ERAS
@pytest.mark.parametrize(("reply", "action"), [(None, "decline"), ({"action": "cancel"}, "cancel")])
def test_a_user_may_decline(
    server: Server, connect: Callable[..., Client], version: str, reply: Any, action: str
) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        answer = context.elicit("?", PlainForm)
        assert (answer.content, answer.data, answer.accepted) == (None, None, False)
        return answer.action

    assert connect(version, elicitation=lambda params: reply).call_tool("ask").text == action


@ERAS
def test_several_things_are_asked_at_once(server: Server, connect: Callable[..., Client], version: str) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        found = context.ask(form=Elicit("?", NAME), words=Sample("Hi", max_tokens=5, temperature=0.5), places=Roots())
        return f"{found['form'].content} {found['words'].text} {found['places'][0].uri}"

    everybody = threading.Barrier(3, timeout=PATIENCE)  # so it is not one after the other

    def together(answer: Any) -> Callable[..., Any]:
        def callback(*_: Any) -> Any:
            if version != STATELESS:
                everybody.wait()
            return answer

        return callback

    client = connect(version, elicitation=together({"name": "A"}), sampling=together("yes"), roots=together(["/tmp"]))
    assert client.call_tool("ask").text == "{'name': 'A'} yes file:///tmp"


@ERAS
def test_a_model_is_asked_with_all_that_was_said(server: Server, connect: Callable[..., Client], version: str) -> None:
    asked = []

    @server.tool()
    def think(context: Context) -> str:
        block = {"type": "text", "text": "c"}
        messages = ["a", ("assistant", "b"), {"role": "user", "content": block}]
        answer = context.sample(messages, max_tokens=7, system_prompt="s", stop_sequences=("x",), metadata={"m": 1})
        return f"{answer.role} {answer.model} {answer.stop_reason} {answer.text}"

    def sampling(params: Any) -> str:
        asked.append(params.model_dump(by_alias=True, exclude_none=True, mode="json"))
        return "fine"

    assert connect(version, sampling=sampling).call_tool("think").text == "assistant unknown endTurn fine"
    (params,) = asked
    texts = [(message["role"], message["content"]["text"]) for message in params["messages"]]
    assert texts == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert (params["maxTokens"], params["systemPrompt"], params["stopSequences"]) == (7, "s", ["x"])


@ONE_OF_EACH
def test_a_page_to_visit_has_an_id_where_the_era_has_one(server: Server, version: str) -> None:
    @server.tool()
    def visit(context: Context) -> str:
        return context.elicit_url("Log in", "https://example.com/login").action

    with wire_to(server, version, elicitation={"url": {}}) as wire:
        ids = []
        for _ in range(2):
            id_ = wire.ask("tools/call", {"name": "visit"})
            if version == STATELESS:
                asked = wire.answer(id_)["result"]["inputRequests"]["url-1"]
            else:
                asked = wire.news("elicitation/create")
                wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}})
                assert wire.answer(id_)["result"]["content"][0]["text"] == "accept"
            params = dict(asked["params"])
            ids.append(params.pop("elicitationId", None))
            assert params == {"mode": "url", "message": "Log in", "url": "https://example.com/login"}
        assert ids == [None, None] if version == STATELESS else len({*ids, None}) == 3


def test_the_mode_of_a_form_is_said_only_since_there_are_two(server: Server) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        return context.elicit("?", NAME).action

    for version in HANDSHAKE_VERSIONS:
        with wire_to(server, version, **FORM) as wire:
            wire.ask("tools/call", {"name": "ask"})
            asked = wire.news("elicitation/create")
            assert asked["params"].get("mode") == ("form" if version == "2025-11-25" else None)
            wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "cancel"}})


# -- what the client has not declared ---------------------------------------------------------------------------------

ASKING: dict[str, tuple[Callable[[Context], object], dict[str, Any], list[dict[str, Any]]]] = {
    "form": (
        lambda context: context.elicit("?", NAME),
        {"elicitation": {"form": {}}},
        [{}, {"elicitation": {"url": {}}}, {"elicitation": None}, {"sampling": {}}],
    ),
    "url": (
        lambda context: context.elicit_url("?", "https://a"),
        {"elicitation": {"url": {}}},
        [{}, {"elicitation": {}}],
    ),
    "model": (lambda context: context.sample("?"), {"sampling": {}}, [{}, {"elicitation": {}}, {"sampling": True}]),
    "tools": (
        lambda context: context.sample("?", tools=[{"name": "t", "inputSchema": {"type": "object"}}]),
        {"sampling": {"tools": {}}},
        [{}, {"sampling": {}}],
    ),
    "roots": (lambda context: context.roots(), {"roots": {}}, [{}, {"roots": []}]),
    "two": (
        lambda context: context.ask(a=Elicit("?", NAME), b=Roots()),
        {"roots": {}},
        [{"elicitation": {}}, {"elicitation": {"form": {}}, "sampling": {}}],
    ),
}


@ONE_OF_EACH
@pytest.mark.parametrize("what", ASKING)
def test_a_client_is_not_asked_for_what_it_has_not_declared(server: Server, version: str, what: str) -> None:
    ask, needed, lacking = ASKING[what]

    @server.tool()
    def tool(context: Context) -> str:
        ask(context)
        return "asked"

    for capabilities in lacking:
        with wire_to(server, version, **capabilities) as wire:
            wire.ask("tools/call", {"name": "tool"}, id_=9)
            answer = wire.next()  # and no request comes before it
            assert answer["id"] == 9
            if version == STATELESS:
                assert answer["error"]["code"] == -32021
                assert answer["error"]["data"] == {"requiredCapabilities": needed}
            else:
                assert answer["result"]["isError"] is True
                assert next(iter(needed)) in answer["result"]["content"][0]["text"]


def test_what_was_declared_for_one_request_does_not_count_for_the_next(server: Server) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        return context.elicit("?", NAME).action

    with wire_to(server, **FORM) as wire:
        assert wire.call("ask")["resultType"] == "input_required"
        wire.capabilities = {}
        assert wire.error("tools/call", {"name": "ask"})["code"] == -32021


# -- rounds -----------------------------------------------------------------------------------------------------------


def asking_tool(server: Server, runs: list[Any]) -> None:
    @server.tool()
    def order(what: str, context: Context) -> str:
        runs.append(dict(context.state))
        context.state["round"] = context.state.get("round", 0) + 1
        name = (context.elicit("Name?", NAME, key="name").content or {}).get("name")
        context.state["greeting"] = f"Hello {name}"
        both = context.ask(sure=Elicit("Sure?", {"type": "object"}), places=Roots())
        return f"{context.state['greeting']}: {what}, {both['sure'].action}, {len(both['places'])} places"


ORDER = {"name": "order", "arguments": {"what": "tea"}}
ACCEPT = {"action": "accept", "content": {"name": "Ann"}}
ALL = {"elicitation": {}, "roots": {}, "sampling": {}}


def test_state_and_answers_are_carried_from_round_to_round(server: Server) -> None:
    runs: list[Any] = []
    asking_tool(server, runs)
    with wire_to(server, **ALL) as wire:
        first = wire.result("tools/call", ORDER)
        assert set(first) == {"resultType", "inputRequests", "requestState", "_meta"}
        assert first["resultType"] == "input_required"
        schema = {"mode": "form", "message": "Name?", "requestedSchema": NAME}
        assert first["inputRequests"] == {"name": {"method": "elicitation/create", "params": schema}}
        second = wire.result(
            "tools/call", {**ORDER, "inputResponses": {"name": ACCEPT}, "requestState": first["requestState"]}
        )
        assert set(second["inputRequests"]) == {"sure", "places"}
        assert second["requestState"] != first["requestState"]
        half = {**ORDER, "inputResponses": {"sure": {"action": "decline"}}, "requestState": second["requestState"]}
        third = wire.result("tools/call", half)  # one of two: the other is asked for again
        assert third["inputRequests"] == {"places": {"method": "roots/list", "params": {}}}
        answers = {"places": {"roots": [{"uri": "file:///a"}]}}
        last = wire.result("tools/call", {**ORDER, "inputResponses": answers, "requestState": third["requestState"]})
    assert last["resultType"] == "complete"
    assert last["content"][0]["text"] == "Hello Ann: tea, decline, 1 places"
    assert [state.get("round", 0) for state in runs] == [0, 1, 2, 3]


def test_a_client_goes_the_rounds_by_itself(server: Server, connect: Callable[..., Client]) -> None:
    asking_tool(server, [])
    client = connect(STATELESS, elicitation=lambda params: {"name": "Bob"}, roots=["/tmp", "/usr"])
    assert client.call_tool("order", {"what": "tea"}).text == "Hello Bob: tea, accept, 2 places"


def test_prompts_and_resources_go_rounds_too_and_what_was_answered_is_not_kept(
    server: Server, connect: Callable[..., Client]
) -> None:
    @server.prompt()
    def letter(context: Context) -> str:
        return f"Dear {(context.elicit('Name?', NAME).content or {})['name']}"

    @server.resource("me://name")
    def me(context: Context) -> str:
        return str((context.elicit("Name?", NAME).content or {})["name"])

    server.caching["ttlMs"] = 60_000
    client = connect(STATELESS, elicitation=lambda params: {"name": "Bob"})
    assert client.get_prompt("letter").messages[0].content.text == "Dear Bob"  # type: ignore[union-attr]
    result = client.request("resources/read", {"uri": "me://name"})
    assert result["contents"][0]["text"] == "Bob"
    assert result["ttlMs"] == 0
    with wire_to(server, **FORM) as wire:
        asked = wire.result("resources/read", {"uri": "me://name"})
        assert asked["resultType"] == "input_required"
        assert "ttlMs" not in asked


@ONE_OF_EACH
def test_a_resource_that_is_read_by_a_tool_asks_once(
    server: Server, connect: Callable[..., Client], version: str
) -> None:
    @server.resource("me://name")
    def me(context: Context) -> str:
        return str((context.elicit("Name?", NAME).content or {})["name"])

    @server.tool()
    def greet(context: Context) -> str:
        first = (context.elicit("Greeting?", NAME).content or {})["name"]
        return f"{first} {context.read_resource('me://name')[0]['text']}"

    asked = []

    def fill_in(params: Any) -> dict[str, Any]:
        asked.append(params.message)
        return {"name": {"Greeting?": "Hi", "Name?": "Bob"}[params.message]}

    assert connect(version, elicitation=fill_in).call_tool("greet").text == "Hi Bob"
    assert asked == ["Greeting?", "Name?"]


def test_answers_to_nothing_that_was_asked_are_ignored(server: Server) -> None:
    asking_tool(server, [])
    with wire_to(server, **ALL) as wire:
        for junk in ({"other": ACCEPT}, {"other": 5, "": None}, {}):
            result = wire.result("tools/call", {**ORDER, "inputResponses": junk})
            assert set(result["inputRequests"]) == {"name"}
        result = wire.result("tools/call", {**ORDER, "inputResponses": {"other": 1, "name": ACCEPT}, "unknown": [1]})
        assert set(result["inputRequests"]) == {"sure", "places"}


MALFORMED: list[Any] = [None, 5, "Ann", [], {}, {"action": "maybe"}, {"action": None}, {"content": {"name": "Ann"}}]
MALFORMED += [{"action": "accept", "content": "Ann"}, {"action": "accept", "content": {}}, {"action": "accept"}]


def test_malformed_answers_are_errors_that_name_the_answer(server: Server) -> None:
    asking_tool(server, [])
    with wire_to(server, **ALL) as wire:
        for answer in MALFORMED:
            error = wire.error("tools/call", {**ORDER, "inputResponses": {"name": answer}})
            assert error["code"] == -32602, answer
            assert "inputResponses.name" in error["message"]
        for junk in (None, 5, [], "name", [ACCEPT]):
            assert wire.error("tools/call", {**ORDER, "inputResponses": junk})["code"] == -32602
        state = wire.result("tools/call", {**ORDER, "inputResponses": {"name": ACCEPT}})["requestState"]
        for roots in ({}, {"roots": None}, {"roots": ["/tmp"]}, {"roots": [{}]}, {"roots": [{"uri": 1}]}):
            responses = {"sure": {"action": "accept"}, "places": roots}
            params = {**ORDER, "inputResponses": responses, "requestState": state}
            assert "inputResponses.places" in wire.error("tools/call", params)["message"]


@pytest.mark.parametrize("form", [PlainForm, ModelForm])
def test_a_form_that_was_filled_in_wrongly_is_told_by_field(server: Server, form: Any) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        return context.elicit("?", form).action

    answers = {"elicit-1": {"action": "accept", "content": {"name": 5}}}
    with wire_to(server, **FORM) as wire:
        error = wire.error("tools/call", {"name": "ask", "inputResponses": answers})
        assert error["code"] == -32602
        assert "inputResponses.elicit-1" in error["message"]
        assert "name: " in error["message"]
    with wire_to(server, HANDSHAKE, **FORM) as wire:
        id_ = wire.ask("tools/call", {"name": "ask"})
        asked = wire.news("elicitation/create")
        wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": answers["elicit-1"]})
        result = wire.answer(id_)["result"]
        assert result["isError"] is True
        assert "name: " in result["content"][0]["text"]


def test_a_state_that_was_changed_or_is_for_something_else_is_refused(server: Server) -> None:
    runs: list[Any] = []
    asking_tool(server, runs)

    @server.tool()
    def other(what: str, context: Context) -> str:
        return str(dict(context.state))

    with wire_to(server, **ALL) as wire:
        state = wire.result("tools/call", ORDER)["requestState"]
        begun = len(runs)
        now = Seal("the key", clock=lambda: time.time() - 7200)
        wrong = [f"{state}x", state[:-1], state.upper(), "", "v1..", "é", None, 5, ["a"], {}]
        wrong.append(now.close({"state": {"round": 9}, "answers": {}}, "x"))
        for text in wrong:
            error = wire.error("tools/call", {**ORDER, "inputResponses": {"name": ACCEPT}, "requestState": text})
            assert (error["code"], error["data"]) == (-32602, {"reason": "invalid_request_state"})
        for params in ({**ORDER, "name": "other"}, {**ORDER, "arguments": {"what": "gin"}}):
            error = wire.error("tools/call", {**params, "requestState": state})
            assert (error["code"], error["data"]) == (-32602, {"reason": "invalid_request_state"})
        assert len(runs) == begun  # nothing was run by any of them
        again = {**ORDER, "requestState": state, "inputResponses": {"name": ACCEPT}}
        assert wire.result("tools/call", again)["resultType"] == "input_required"  # the good one is as good as before


def test_a_state_expires_and_is_its_principals_alone(server: Server) -> None:
    asking_tool(server, [])
    now = [1000.0]
    server._seal = Seal("the key", clock=lambda: now[0])
    with wire_to(server, **ALL) as wire:
        state = wire.result("tools/call", ORDER)["requestState"]
        retry = {**ORDER, "inputResponses": {"name": ACCEPT}, "requestState": state}
        now[0] += 3599
        assert "inputRequests" in wire.result("tools/call", retry)
        wire.conversation._principal = "somebody else"
        assert wire.error("tools/call", retry)["data"] == {"reason": "invalid_request_state"}
        wire.conversation._principal = None
        now[0] += 2
        assert wire.error("tools/call", retry)["data"] == {"reason": "invalid_request_state"}


def test_another_process_with_the_same_key_takes_over(server: Server) -> None:
    other, stranger = Server("s", secret_key="the key"), Server("s", secret_key="another")
    for one in (server, other, stranger):
        asking_tool(one, [])
    with wire_to(server, **ALL) as here, wire_to(other, **ALL) as there, wire_to(stranger, **ALL) as elsewhere:
        state = here.result("tools/call", ORDER)["requestState"]
        retry = {**ORDER, "inputResponses": {"name": ACCEPT}, "requestState": state}
        assert set(there.result("tools/call", retry)["inputRequests"]) == {"sure", "places"}
        assert elsewhere.error("tools/call", retry)["code"] == -32602


def test_a_state_that_json_cannot_say_or_nobody_would_take_back_is_an_error(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    @server.tool()
    def hoard(what: str, context: Context) -> str:
        context.state["it"] = {"object": object(), "much": "x" * (2 << 20)}[what]
        return context.elicit("?", NAME).action

    with wire_to(server, **FORM) as wire:
        for what in ("object", "much"):
            assert wire.error("tools/call", {"name": "hoard", "arguments": {"what": what}})["code"] == -32603


def test_a_question_without_a_key_is_known_by_its_number(server: Server) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        one, two = context.elicit("1?", NAME), context.elicit("2?", NAME)
        return f"{one.data['name']} {two.data['name']} {context.sample('3?').text} {len(context.roots())}"

    keys, answers, state = [], {}, {}
    known = {
        "elicitation/create": ACCEPT,
        "sampling/createMessage": {"role": "assistant", "model": "m", "content": {"type": "text", "text": "yes"}},
        "roots/list": {"roots": []},
    }
    with wire_to(server, **ALL) as wire:
        while (result := wire.result("tools/call", {"name": "ask", **answers, **state}))["resultType"] != "complete":
            ((key, asked),) = result["inputRequests"].items()
            keys.append(key)
            answers = {"inputResponses": {key: known[asked["method"]]}}
            state = {"requestState": result["requestState"]} if "requestState" in result else {}
    assert keys == ["elicit-1", "elicit-2", "sample-1", "roots-1"]
    assert result["content"][0]["text"] == "Ann Ann yes 0"


# -- errors of those who are asked ------------------------------------------------------------------------------------


def test_an_error_of_the_client_that_was_asked_is_the_tools_to_see(
    server: Server, connect: Callable[..., Client]
) -> None:
    seen = []

    @server.tool()
    def think(catch: bool, context: Context) -> str:
        try:
            return context.sample("?").text
        except JSONRPCError as error:
            seen.append((error.code, error.message))
            if catch:
                return "without a model, then"
            raise

    def refuse(params: Any) -> str:
        raise JSONRPCError(-1, "the user said no")

    client = connect(HANDSHAKE, sampling=refuse)
    assert client.call_tool("think", {"catch": True}).text == "without a model, then"
    result = client.call_tool("think", {"catch": False})  # the client's error is no answer to the client's request
    assert (result.is_error, result.text) == (True, "the user said no")
    assert seen == [(-1, "the user said no")] * 2


def test_a_client_that_does_not_answer_is_waited_for_no_longer_than_the_timeout(server: Server) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        with pytest.raises(MCPTimeoutError):
            context.elicit("?", NAME, timeout=0.05)
        with pytest.raises(MCPTimeoutError):
            context.ask(0.05, a=Elicit("?", NAME), b=Elicit("?", NAME))
        return "nobody there"

    with wire_to(server, HANDSHAKE, **FORM) as wire:
        assert wire.call("ask")["content"][0]["text"] == "nobody there"


@pytest.mark.parametrize("answer", [{}, {"action": 5}, {"action": "accept", "content": 5}, {"action": "accept"}])
def test_an_answer_that_makes_no_sense_fails_the_tool_alone(server: Server, answer: dict[str, Any]) -> None:
    @server.tool()
    def ask(context: Context) -> str:
        return context.elicit("?", NAME).action

    with wire_to(server, HANDSHAKE, **FORM) as wire:
        id_ = wire.ask("tools/call", {"name": "ask"})
        asked = wire.news("elicitation/create")
        wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": answer})
        result = wire.answer(id_)["result"]
        assert result["isError"] is True
        assert "elicitation/create" in result["content"][0]["text"]


# -- the end of interest ----------------------------------------------------------------------------------------------


class Waiting:
    """A tool that waits until nobody wants its answer any more.

    Attributes:
        begun: Set when it runs.
        over: Set when it has ended.
        ends: What ``wait`` returned, or what ended it; and whether it was cancelled then.
    """

    def __init__(self, server: Server) -> None:
        self.begun, self.over = threading.Event(), threading.Event()
        self.ends: list[Any] = []
        server.add_tool(self.run, "wait")

    def run(self, context: Context, how: str = "wait") -> str:
        self.begun.set()
        try:
            self._wait(context, how)
        except BaseException as end:
            self.ends.append(end)
            raise
        finally:
            self.ends.append(context.cancelled)
            context.info("too late")
            context.progress(1)
            self.over.set()
        return "nobody reads this"

    def _wait(self, context: Context, how: str) -> None:
        if how == "ask":
            context.elicit("?", NAME)
        elif how == "wait":
            self.ends.append(context.wait(PATIENCE))
        else:
            while not context.wait(0.01):
                context.check()
            context.check()


@ONE_OF_EACH
@pytest.mark.parametrize("how", ["wait", "check"])
def test_a_tool_learns_that_nobody_wants_its_answer_and_none_is_sent(server: Server, version: str, how: str) -> None:
    tool = Waiting(server)
    with wire_to(server, version) as wire:
        meta = {META + "logLevel": "debug", "progressToken": 1}
        id_ = wire.ask("tools/call", {"name": "wait", "arguments": {"how": how}}, meta=meta)
        assert tool.begun.wait(PATIENCE)
        wire.cancel(id_)
        assert tool.over.wait(PATIENCE)
        assert wire.rest() == []
    assert tool.ends[-1] is True
    assert tool.ends[0] is True if how == "wait" else isinstance(tool.ends[0], Withdrawn)


def test_a_tool_that_waits_for_the_client_learns_that_too(server: Server) -> None:
    tool = Waiting(server)
    with wire_to(server, HANDSHAKE, **FORM) as wire:
        id_ = wire.ask("tools/call", {"name": "wait", "arguments": {"how": "ask"}})
        assert tool.begun.wait(PATIENCE)
        asked = wire.news("elicitation/create")
        wire.cancel(id_)
        assert tool.over.wait(PATIENCE)
        assert isinstance(tool.ends[0], Withdrawn)
        (notice,) = [message for message in wire.rest() if message.get("method") == "notifications/cancelled"]
        assert notice["params"]["requestId"] == asked["id"]  # nor is the answer to the question wanted any more


@ONE_OF_EACH
def test_a_tool_learns_that_the_client_has_gone(server: Server, version: str) -> None:
    tool = Waiting(server)
    with wire_to(server, version) as wire:
        wire.ask("tools/call", {"name": "wait"})
        assert tool.begun.wait(PATIENCE)
    assert tool.over.wait(PATIENCE)
    assert tool.ends == [True, True]


@ONE_OF_EACH
def test_who_gives_up_without_a_reason_owes_an_answer_all_the_same(
    server: Server, connect: Callable[..., Client], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    @server.tool()
    def give_up() -> str:
        raise Withdrawn

    with pytest.raises(JSONRPCError) as refusal:
        connect(version).call_tool("give_up")
    assert refusal.value.code == -32603


@ONE_OF_EACH
def test_a_cancelled_call_of_our_client_ends_the_tool(
    server: Server, connect: Callable[..., Client], version: str
) -> None:
    tool = Waiting(server)
    client = connect(version)
    future = client.submit_tool("wait")
    assert tool.begun.wait(PATIENCE)
    assert future.cancel()
    assert tool.over.wait(PATIENCE)
    assert tool.ends == [True, True]
    with pytest.raises(MCPTimeoutError):
        client.call_tool("wait", timeout=0.05)  # which is a cancellation, too


# -- from many threads ------------------------------------------------------------------------------------------------


@ONE_OF_EACH
def test_questions_of_many_calls_at_once_find_their_way_back(
    server: Server, connect: Callable[..., Client], version: str
) -> None:
    @server.tool()
    def ask(number: int, context: Context) -> int:
        schema = {"type": "object", "properties": {"number": {"type": "integer"}}}
        return int((context.elicit(str(number), schema).content or {})["number"])

    client = connect(version, elicitation=lambda params: {"number": int(params.message)})
    calls: Any = in_threads(8, lambda n: [client.call_tool("ask", {"number": 100 * n + k}).data for k in range(10)])
    assert calls == [[100 * n + k for k in range(10)] for n in range(8)]


@ONE_OF_EACH
def test_a_context_may_be_used_by_the_threads_of_a_tool(
    server: Server, connect: Callable[..., Client], version: str
) -> None:
    @server.tool()
    def work(context: Context) -> None:
        in_threads(4, lambda number: [context.warning(f"{number}-{k}") for k in range(25)])

    seen: list[str] = []
    notes: list[Notification] = []
    client = connect(version, on_log=lambda record: seen.append(record.data), on_notification=notes.append)
    client.call_tool("work")
    await_callbacks(client)
    assert len(seen) == len(notes) == 100
    for number in range(4):
        assert [text for text in seen if text.startswith(f"{number}-")] == [f"{number}-{k}" for k in range(25)]


def test_a_context_says_little_of_itself(server: Server) -> None:
    shown: list[str] = []

    @server.tool()
    def show(context: Context) -> None:
        shown.append(repr(context))

    with wire_to(server) as wire:
        wire.call("show", id_="x" * 500)
    assert shown[0].startswith("<Context of tools/call #'xxx")
    assert len(shown[0]) < 100

