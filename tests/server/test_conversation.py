"""A server at one end of a two-way connection, spoken to in raw messages: FAULTS.md 5.6 (stdio) and I18, WIRE.md M, C4.

One bad message never stops it, every request with an id gets exactly one answer, and nothing is left when it is over.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.wire import HANDSHAKE, META, PATIENCE, STATELESS, Wire, wire_to

from mcp_sync import Client, JSONRPCError, MCPConnectionError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine import peer as peer_module
from mcp_sync.engine.channel import PipeChannel
from mcp_sync.protocol.eras import HANDSHAKE_VERSIONS, VERSIONS
from mcp_sync.protocol.messages import Batch, Malformed, Request, decode
from mcp_sync.server import Context, Server, conversation
from mcp_sync.testing import in_threads
from mcp_sync.transports.memory import memory_pipes

ONE_OF_EACH = pytest.mark.parametrize("version", [STATELESS, HANDSHAKE])
SUBSCRIPTION = META + "subscriptionId"
TOOLS, PROMPTS = "notifications/tools/list_changed", "notifications/prompts/list_changed"
UPDATED, ACKNOWLEDGED = "notifications/resources/updated", "notifications/subscriptions/acknowledged"


class Gate:
    """Tools that wait until they are let go."""

    def __init__(self, server: Server) -> None:
        self.entered, self._open = threading.Semaphore(0), threading.Event()
        server.add_tool(self.run, "gate")

    def run(self, number: int = 0) -> int:
        self.entered.release()
        self._open.wait(PATIENCE)
        return number

    def await_entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=PATIENCE)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Let threads take turns as often as is possible, so that what can go wrong between two steps does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def server() -> Server:
    server = Server("s")

    @server.tool()
    def echo(text: str = "") -> str:
        return text

    @server.tool()
    def change(context: Context) -> str:
        context.server.prompts_changed()
        context.server.resource_updated("a://b/part")
        return "changed"

    server.add_resource("a://b", "text")
    server.add_prompt(lambda: "", "p")
    return server


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with wire_to(server) as wire:
        yield wire


def code_and_id(message: dict[str, Any]) -> tuple[int, Any]:
    return message["error"]["code"], message["id"]


# -- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        *((line, None) for line in (b"hello", b"{", b"[", b"\xff\xfe", b"{'a': 1}", b'{"a": NaN}', b'"\xed\xa0\x80"')),
        *((line, None) for line in (b"[" * 100_000, b"1" * 5000, b"{}{}", b"nul", b'{"a":1,}', b"\x00")),
        (b'{"jsonrpc": "2.0", "id": 7, "meth', None),  # cut before it said that it is a request
        (b'{"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {', 7),
        (b'{"jsonrpc": "2.0", "id": "a", "method": "tools/list", "params": {"x": Infinity}}', "a"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_parse_error(wire: Wire, line: bytes, id_: Any) -> None:
    wire.raw(line)
    assert code_and_id(wire.next()) == (-32700, id_)
    assert wire.call("echo", {"text": "still there"})["content"][0]["text"] == "still there"


SHAPES: list[tuple[Any, Any]] = [
    *((shape, None) for shape in (None, True, 5, "ping", 1.5, [], {}, {"jsonrpc": "2.0"}, {"method": "ping"})),
    *((shape, None) for shape in ({"jsonrpc": "2.0", "id": 5}, {"jsonrpc": "2.0", "id": None, "method": "ping"})),
    *(({"jsonrpc": "2.0", "id": id_, "method": "ping"}, None) for id_ in (1.5, True, [], {})),
    *(({"jsonrpc": version, "id": 3, "method": "ping"}, 3) for version in ("1.0", 2.0, None)),
    *(({"jsonrpc": "2.0", "id": "x", "method": method}, "x") for method in (5, None, [], {})),
    *(({"jsonrpc": "2.0", "id": 4, "method": "ping", "params": params}, 4) for params in ([], [1], "a", 5, False)),
    ({"jsonrpc": "2.0", "method": 5}, None),
    ({"jsonrpc": "2.0", "id": 5, "result": {}, "error": {}}, None),
    ({"jsonrpc": "2.0", "id": 5, "result": 5}, None),
]


def test_a_message_of_the_wrong_shape_is_an_invalid_request(wire: Wire) -> None:
    for shape, id_ in SHAPES:
        wire.send(shape)
        assert code_and_id(wire.next()) == (-32600, id_), shape
    assert wire.rest() == []


def test_answers_to_nothing_and_notifications_are_never_answered(wire: Wire) -> None:
    for message in [
        {"jsonrpc": "2.0", "id": 5, "result": {}},
        {"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": "no"}},
        {"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "no"}},
        *({"jsonrpc": "2.0", "method": method} for method in ("", "x", "notifications/initialized", "tools/list")),
        *(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id_}}
            for id_ in (5, "x", None, True, [1], {"a": 1}, 1.0)
        ),
        {"jsonrpc": "2.0", "method": "notifications/cancelled"},
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": [], "progress": "x"}},
    ]:
        wire.send(message)
    assert wire.rest() == []


def test_a_message_over_the_limit_is_refused_and_not_kept() -> None:
    server = Server("s", max_message_size=2000)
    with wire_to(server) as wire:
        wire.ask("no/such", {"text": "x" * 3000}, id_=5)
        assert code_and_id(wire.next()) == (-32600, 5)
        wire.raw(b"x" * 3000)
        assert wire.next()["id"] is None
        assert wire.rest() == []


# -- batches ----------------------------------------------------------------------------------------------------------

PING = {"jsonrpc": "2.0", "method": "ping"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_is_taken_apart_where_the_version_has_batches_and_refused_by_its_parts_elsewhere(
    server: Server, version: str
) -> None:
    with wire_to(server, version) as wire:
        call = {"method": "tools/call", "params": wire.dressed({"name": "echo", "arguments": {"text": "a"}})}
        told = {"jsonrpc": "2.0", "method": "notifications/x"}
        wire.send([{**PING, "id": 1}, told, {"jsonrpc": "2.0", "id": "2", **call}, {"jsonrpc": "2.0", "id": 3}, 7])
        if version == "2025-03-26":
            answers = {message["id"]: message for message in (wire.next(), wire.next(), wire.next(), wire.next())}
            assert answers[1]["result"] == {}
            assert answers["2"]["result"]["content"][0]["text"] == "a"
            assert code_and_id(answers[None]) == (-32600, None)
        else:
            answers = [code_and_id(wire.next()) for _ in range(5)]  # type: ignore[assignment]
            assert answers == [(-32600, id_) for id_ in (1, None, "2", None, None)]
        assert wire.rest() == []


def test_a_conversation_does_not_begin_with_a_batch(server: Server, wire: Wire) -> None:
    params = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    wire.send([{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}])
    assert code_and_id(wire.next()) == (-32600, 1)
    wire.version = None
    assert wire.error("tools/list")["code"] == -32600  # it has not begun


# -- ids --------------------------------------------------------------------------------------------------------------


@ONE_OF_EACH
def test_an_id_that_is_in_use_is_refused_without_an_id_and_the_first_is_answered_once(
    server: Server, version: str
) -> None:
    gate = Gate(server)
    with wire_to(server, version) as wire:
        wire.ask("tools/call", {"name": "gate", "arguments": {"number": 1}}, id_=7)
        gate.await_entered()
        wire.ask("tools/call", {"name": "echo"}, id_=7)
        wire.ask("no/such", id_=7)
        wire.raw(b'{"jsonrpc": "2.0", "id": 7, "method": "x", "params": {')
        assert [code_and_id(wire.next()) for _ in range(2)] == [(-32600, None)] * 2  # the third is nobody's at all
        wire.ask("tools/call", {"name": "echo", "arguments": {"text": "another"}}, id_="7")
        assert wire.next()["result"]["content"][0]["text"] == "another"
        gate.open()
        assert wire.next()["result"]["structuredContent"] == {"result": 1}
        assert wire.call("echo", {"text": "again"}, id_=7)["content"][0]["text"] == "again"
        assert wire.rest() == []


@ONE_OF_EACH
def test_an_id_that_was_cancelled_may_be_used_again_and_is_not_answered_by_the_first(
    server: Server, version: str
) -> None:
    first, second = Gate(server), None
    server.remove_tool("gate")
    server.add_tool(first.run, "first")
    second = Gate(server)
    with wire_to(server, version) as wire:
        wire.ask("tools/call", {"name": "first", "arguments": {"number": 1}}, id_=7)
        first.await_entered()
        wire.cancel(7)
        wire.ask("tools/call", {"name": "gate", "arguments": {"number": 2}}, id_=7)
        second.await_entered()
        first.open()
        assert wire.rest() == []
        second.open()
        assert wire.next()["result"]["structuredContent"] == {"result": 2}
        assert wire.rest() == []


# -- both eras on one connection --------------------------------------------------------------------------------------


def test_without_a_greeting_and_without_metadata_nothing_is_answered_but_a_ping(server: Server, wire: Wire) -> None:
    wire.version = None
    assert wire.result("ping") == {}
    for method in ("tools/list", "logging/setLevel", "resources/subscribe", "no/such", "notifications/initialized"):
        assert wire.error(method, {"level": "info", "uri": "a://b"})["code"] == -32600
    assert wire.error("server/discover")["code"] == -32602  # which can only mean the stateless era
    wire.greet()
    assert len(wire.result("tools/list")["tools"]) == 2


def test_a_ping_is_of_the_handshake_era_alone(server: Server, wire: Wire) -> None:
    assert wire.error("ping")["code"] == -32601
    for _ in HANDSHAKE_VERSIONS:
        wire.greet(_)
        assert wire.result("ping", {"_meta": {"x": 1}}) == {}


def test_both_eras_are_served_side_by_side(server: Server) -> None:
    with wire_to(server, HANDSHAKE) as wire:
        own = {META + "protocolVersion": STATELESS, META + "clientCapabilities": {}}
        for number in range(5):
            old = wire.call("echo", {"text": str(number)})
            new = wire.call("echo", {"text": str(number)}, meta=own)
            assert old["content"] == new["content"]
            assert ("resultType" in old, new["resultType"]) == (False, "complete")
        assert wire.error("ping", meta=own)["code"] == -32601
        assert wire.error("logging/setLevel", {"level": "info"}, meta=own)["code"] == -32601
        listening = wire.ask("subscriptions/listen", {"notifications": {"promptsListChanged": True}}, meta=own)
        assert wire.next()["method"] == ACKNOWLEDGED
        server.prompts_changed()
        told = [wire.next()["params"] if key else wire.next().get("params") for key in (1, 0)]
        assert told == [{"_meta": {SUBSCRIPTION: listening}}, None]  # once for each era


def test_two_clients_of_one_server_know_nothing_of_each_other(server: Server) -> None:
    with wire_to(server, HANDSHAKE) as one, wire_to(server, HANDSHAKE) as other:
        one.result("logging/setLevel", {"level": "debug"})
        one.result("resources/subscribe", {"uri": "a://b"})
        server.resource_updated("a://b")
        assert one.next()["params"] == {"uri": "a://b"}
        assert other.rest() == []


def test_who_came_is_known_to_tools(server: Server) -> None:
    seen = []

    @server.tool()
    def who(context: Context) -> None:
        seen.append((context.principal, context.headers.get("x-a")))

    ours, theirs = memory_pipes()
    channel = PipeChannel(theirs)
    channel.principal, channel.headers = "ann", {"x-a": "1"}  # type: ignore[attr-defined]
    talk = server.serve(channel)
    meta = {META + "protocolVersion": STATELESS, META + "clientCapabilities": {}}
    params = {"name": "who", "_meta": meta}
    ours.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode(), Deadline(5))
    assert b'"isError":false' in ours.read()[0]
    ours.hang_up(Deadline(5))
    assert talk.wait(PATIENCE)
    server.close()
    assert seen == [("ann", "1")]


# -- subscriptions of the stateless era -------------------------------------------------------------------------------


def listen(wire: Wire, id_: Any = None, **wanted: Any) -> Any:
    return wire.ask("subscriptions/listen", {"notifications": wanted}, id_=id_)


@pytest.mark.parametrize("id_", [40, "listen-1"])
def test_a_subscription_is_acknowledged_told_and_ended_by_a_cancel(server: Server, wire: Wire, id_: Any) -> None:
    listen(wire, id_, toolsListChanged=True, resourceSubscriptions=["a://b"], unknown=True)
    acknowledged = wire.next()
    own = {"_meta": {SUBSCRIPTION: id_}}
    honoured = {"toolsListChanged": True, "resourceSubscriptions": ["a://b"]}
    assert acknowledged == {
        "jsonrpc": "2.0",
        "method": ACKNOWLEDGED,
        "params": {**own, "notifications": honoured},
    }
    server.prompts_changed()
    server.resources_changed()
    server.resource_updated("a://bc")
    server.tools_changed()
    server.resource_updated("a://b/part")
    assert wire.next() == {"jsonrpc": "2.0", "method": TOOLS, "params": own}
    assert wire.next() == {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": "a://b/part", **own}}
    wire.cancel(id_)
    assert wire.rest() == []
    server.tools_changed()
    assert wire.rest() == []  # and there is no answer, ever


def test_subscriptions_are_told_apart_and_what_is_not_offered_is_not_honoured(wire: Wire) -> None:
    server = Server("tools alone")
    server.add_tool(lambda: None, "t")
    with wire_to(server) as wire:
        listen(wire, 1, toolsListChanged=True, promptsListChanged=True, resourceSubscriptions=["a://b"])
        listen(wire, 2, promptsListChanged=True)
        listen(wire, 3, toolsListChanged=True)
        acknowledged = [wire.next()["params"] for _ in range(3)]
        honoured = {one["_meta"][SUBSCRIPTION]: one["notifications"] for one in acknowledged}
        assert honoured == {1: {"toolsListChanged": True}, 2: {}, 3: {"toolsListChanged": True}}
        server.tools_changed()
        server.prompts_changed()
        server.resource_updated("a://b")
        assert {wire.next()["params"]["_meta"][SUBSCRIPTION] for _ in range(2)} == {1, 3}
        assert wire.rest() == []


def test_a_subscription_that_makes_no_sense_is_refused(wire: Wire) -> None:
    for wanted in (None, [], "tools", {"toolsListChanged": 1}, {"resourceSubscriptions": "a://b"}):
        assert wire.error("subscriptions/listen", {"notifications": wanted})["code"] == -32602
    assert wire.error("subscriptions/listen")["code"] == -32602


def test_a_server_that_closes_ends_its_subscriptions_in_good_order(server: Server, wire: Wire) -> None:
    for id_ in (1, "2"):
        listen(wire, id_, toolsListChanged=True)
    acknowledged = [wire.next() for _ in range(2)]
    assert {message["params"]["_meta"][SUBSCRIPTION] for message in acknowledged} == {1, "2"}
    server.tools_changed()
    server.close()
    assert [wire.next()["method"] for _ in range(2)] == [TOOLS, TOOLS]  # what was said comes before the end
    ends = sorted((wire.next() for _ in range(2)), key=lambda message: str(message["id"]))
    for id_, end in zip((1, "2"), ends, strict=True):
        result = {"resultType": "complete", "_meta": {SUBSCRIPTION: id_}}
        assert end == {"jsonrpc": "2.0", "id": id_, "result": result}
    assert wire.ended()


def test_there_are_not_endlessly_many_subscriptions(
    server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_SUBSCRIPTIONS", 2)
    for id_ in (1, 2):
        listen(wire, id_)
        assert wire.next()["method"] == ACKNOWLEDGED
    listen(wire, 3)
    assert code_and_id(wire.next()) == (-32600, 3)
    wire.cancel(1)
    listen(wire, 4)
    assert wire.next()["params"]["_meta"] == {SUBSCRIPTION: 4}
    wire.greet()
    for uri, allowed in (("a://1", True), ("a://2", True), ("a://2", True), ("a://3", False)):
        assert ("result" in wire.answer(wire.ask("resources/subscribe", {"uri": uri}))) is allowed
    wire.result("resources/unsubscribe", {"uri": "a://1"})
    wire.result("resources/subscribe", {"uri": "a://3"})


def test_a_client_that_says_too_much_of_itself_is_not_greeted(wire: Wire) -> None:
    wire.version = None
    params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "x" * 70_000, "version": "1"}}
    assert wire.error("initialize", params)["code"] == -32602
    wire.greet()


def test_one_connection_has_so_much_kept_of_all_its_subscriptions(wire: Wire) -> None:
    def subscribed(number: int, size: int) -> bool:
        answer = wire.answer(wire.ask("resources/subscribe", {"uri": f"a://{number:03}/" + "x" * size}))
        assert "result" in answer or answer["error"]["code"] == -32602
        return "result" in answer

    for id_ in range(4):
        listen(wire, id_, resourceSubscriptions=[f"a://{number}" + "x" * 2000 for number in range(100)])
        assert wire.next()["method"] == ACKNOWLEDGED
    wire.greet()
    assert not subscribed(0, 8190)
    done = [subscribed(number, 8000) for number in range(40)]
    assert sum(done) == done.index(False)
    assert 20 < sum(done) < 35
    wire.version = STATELESS
    listen(wire, 4, resourceSubscriptions=["a://" + "x" * 8100])
    assert code_and_id(wire.next()) == (-32602, 4)
    wire.cancel(0)
    listen(wire, 5, resourceSubscriptions=["a://" + "x" * 8100])
    assert wire.next()["method"] == ACKNOWLEDGED


def test_what_else_a_listen_says_is_kept_as_well_and_counts(wire: Wire) -> None:
    listen(wire, 1, padding="x" * 1_100_000)
    assert code_and_id(wire.next()) == (-32602, 1)
    listen(wire, "x" * 9000)
    assert wire.next()["error"]["code"] == -32602


def test_a_client_may_listen_with_our_client(server: Server) -> None:
    with Client(server, timeout=PATIENCE) as client, client.listen(tools_list_changed=True) as news:
        server.add_tool(lambda: None, "new")
        first = news.next(PATIENCE)
        assert first is not None
        assert first.method == TOOLS
        server.close()
        assert news.next(PATIENCE) is None


# -- changes in the handshake era -------------------------------------------------------------------------------------


def test_in_the_handshake_era_all_lists_and_what_was_subscribed_to_are_told(server: Server) -> None:
    with wire_to(server, HANDSHAKE) as wire:
        server.add_tool(lambda: None, "t")
        server.remove_tool("t")
        server.prompts_changed()
        server.add_resource("new://x", "text")
        lists = [TOOLS, TOOLS, PROMPTS, "notifications/resources/list_changed"]
        assert [wire.next() for _ in lists] == [{"jsonrpc": "2.0", "method": method} for method in lists]
        server.resource_updated("a://b")
        assert wire.rest() == []  # nobody has subscribed
        assert wire.result("resources/subscribe", {"uri": "a://b"}) == {}
        for uri in ("a://b", "a://c", "a://b/c/d", "a://bc", "a://"):
            server.resource_updated(uri)
        told = [wire.next() for _ in range(2)]
        assert [(one["method"], one["params"]) for one in told] == [
            (UPDATED, {"uri": "a://b"}),
            (UPDATED, {"uri": "a://b/c/d"}),
        ]
        assert wire.result("resources/unsubscribe", {"uri": "a://b"}) == {}
        assert wire.result("resources/unsubscribe", {"uri": "a://none"}) == {}
        server.resource_updated("a://b")
        assert wire.rest() == []


def test_what_was_not_declared_at_the_greeting_has_no_changes_to_tell() -> None:
    server = Server("later")
    server.add_prompt(lambda: "", "p")
    with wire_to(server, HANDSHAKE) as wire:
        server.add_tool(lambda: None, "t")
        server.prompts_changed()
        assert wire.next()["method"] == PROMPTS
        assert wire.rest() == []


@ONE_OF_EACH
def test_a_tool_that_changes_something_tells_before_it_answers(server: Server, version: str) -> None:
    with wire_to(server, version) as wire:
        if version == STATELESS:
            listen(wire, 1, promptsListChanged=True, resourceSubscriptions=["a://b"])
            assert wire.next()["method"] == ACKNOWLEDGED
        else:
            wire.result("resources/subscribe", {"uri": "a://b"})
        for _ in range(20):
            id_ = wire.ask("tools/call", {"name": "change"})
            assert [wire.next().get("method") for _ in range(3)] == [PROMPTS, UPDATED, None]
            assert id_


def test_what_was_said_before_comes_before_whoever_has_it_in_hand(server: Server) -> None:
    writing, go = threading.Event(), threading.Event()

    class Hesitant(PipeChannel):
        def send(self, message: Any, deadline: Deadline) -> None:
            if getattr(message, "method", "") == PROMPTS:
                writing.set()
                assert go.wait(PATIENCE)
            super().send(message, deadline)

    with wire_to(server, HANDSHAKE, channel=Hesitant) as wire:
        server.prompts_changed()
        assert writing.wait(PATIENCE)
        server.tools_changed()
        wire.ask("tools/call", {"name": "echo"})
        threading.Event().wait(0.1)  # in which the answer would overtake
        go.set()
        assert [wire.next().get("method") for _ in range(3)] == [PROMPTS, TOOLS, None]


# -- many at once -----------------------------------------------------------------------------------------------------


@ONE_OF_EACH
def test_as_many_as_allowed_run_at_once_and_the_next_is_refused_not_queued(server: Server, version: str) -> None:
    gate = Gate(server)
    with wire_to(server, version) as wire:
        for number in range(64):
            wire.ask("tools/call", {"name": "gate", "arguments": {"number": number}}, id_=number)
        gate.await_entered(64)
        for id_ in (64, 65):
            wire.ask("tools/call", {"name": "gate"}, id_=id_)
            assert code_and_id(wire.next()) == (-32603, id_)
        if version == HANDSHAKE:
            assert wire.result("ping") == {}
        gate.open()
        answers = [wire.next() for _ in range(64)]
        results = {answer["id"]: answer["result"]["structuredContent"]["result"] for answer in answers}
        assert results == {number: number for number in range(64)}
        assert wire.call("echo", {"text": "and on"})["content"][0]["text"] == "and on"


def test_who_asks_no_more_than_allowed_at_once_is_never_refused(fast_switching: None) -> None:
    server = Server("s", max_concurrent_requests=3)
    server.add_tool(lambda: 1, "one")

    def fail() -> int:
        raise JSONRPCError(-32050, "no")

    server.add_tool(fail, "fail")
    with Client(server, timeout=PATIENCE) as client:

        def work(_: int) -> list[int]:
            codes = []
            for number in range(150):
                try:
                    client.request("tools/call", {"name": ["one", "fail"][number % 2]})
                except JSONRPCError as error:
                    codes.append(error.code)
            return codes

        assert in_threads(3, work) == [[-32050] * 75] * 3
    server.close()


def test_many_clients_each_get_their_own_answers(server: Server) -> None:
    def visit(number: int) -> list[str]:
        with Client(server, timeout=PATIENCE, protocol_version=[STATELESS, HANDSHAKE][number % 2]) as client:
            return [client.call_tool("echo", {"text": f"{number}-{k}"}).text for k in range(20)]

    assert in_threads(10, visit) == [[f"{number}-{k}" for k in range(20)] for number in range(10)]
    server.close()


# -- clients that do not read -----------------------------------------------------------------------------------------


def test_a_client_that_never_reads_blocks_the_tool_and_not_the_memory(server: Server) -> None:
    said = [0]

    @server.tool()
    def talk(context: Context) -> None:
        for number in range(1_000_000):
            context.progress(number)
            said[0] = number
            context.check()

    with wire_to(server) as wire:
        wire.ask("tools/call", {"name": "talk"}, meta={"progressToken": 1})
        patience = Deadline(PATIENCE)
        while said[0] < 999:  # the pipe takes a thousand
            assert not patience.expired
            time.sleep(0.01)
        threading.Event().wait(0.1)
        assert said[0] < 1100
        assert wire.next()["params"]["progress"] == 0  # it reads after all, and all of it comes
        assert [wire.next()["params"]["progress"] for _ in range(3000)] == list(range(1, 3001))
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE / 2  # and when it hangs up, the tool is released at once
    assert said[0] < 100_000


def test_junk_of_a_client_that_never_reads_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "OUTBOX_BYTES", 1 << 18)
    monkeypatch.setattr(peer_module, "FLUSH_SECONDS", 0.1)
    wire = Wire(server)
    junk = json.dumps(["x"] * 20).encode()  # twenty refusals each
    with pytest.raises(MCPConnectionError):
        _say_for_ever(wire, junk)
    wire.close()
    server.close()


def _say_for_ever(wire: Wire, line: bytes) -> None:
    for _ in range(10_000):
        wire.raw(line)


def test_a_client_that_reads_late_still_gets_every_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "FLUSH_SECONDS", 0.02)
    with wire_to(server) as wire:
        for _ in range(1000):  # so many does the pipe take
            wire.raw(b"junk")
        for id_ in range(20):
            wire.ask("tools/call", {"name": "echo"}, id_=id_)
        for _ in range(80):
            wire.raw(b"junk")
        threading.Event().wait(0.5)  # until everybody has given up waiting for room, more than once
        heard = [wire.next() for _ in range(1100)]
        assert sum("error" in message for message in heard) == 1080
        assert sorted(message["id"] for message in heard if "result" in message) == list(range(20))
        assert wire.rest() == []


def test_closing_does_not_wait_for_a_client_that_never_reads(server: Server) -> None:
    wire = Wire(server)
    patience = Deadline(PATIENCE)
    for id_ in range(400):
        listen(wire, id_, toolsListChanged=True)
        while len(wire.conversation._subscriptions) <= id_ - 50:  # no more at once than are allowed
            assert not patience.expired
            time.sleep(0.001)
    for _ in range(3):
        server.tools_changed()
    began = time.monotonic()
    server.close(timeout=0.5)
    assert time.monotonic() - began < PATIENCE / 2
    wire.close()


# -- the end ----------------------------------------------------------------------------------------------------------


@ONE_OF_EACH
def test_nothing_is_left_when_a_connection_ends_in_the_middle(server: Server, version: str) -> None:
    released = threading.Event()

    @server.tool()
    def wait(context: Context) -> None:
        context.wait(PATIENCE)
        released.set()

    with wire_to(server, version) as wire:
        wire.ask("tools/call", {"name": "wait"})
        wire.ask("tools/call", {"name": "echo"}, id_=1)
        wire.answer(1)
        wire.hang_up()
        assert wire.conversation.wait(PATIENCE)
    assert released.wait(PATIENCE)
    assert server._conversations == {}
    assert server.hub._listeners == []


def test_a_server_ends_all_conversations_and_can_be_used_again(server: Server) -> None:
    clients = [Client(server, timeout=PATIENCE).connect() for _ in range(3)]
    server.close()
    for client in clients:
        with pytest.raises(MCPConnectionError):
            client.call_tool("echo", {"text": "?"})
        client.close()
    server.close()
    with Client(server, timeout=PATIENCE) as client:
        assert client.call_tool("echo", {"text": "again"}).text == "again"
    server.close()


def test_a_channel_that_does_not_start_is_forgotten(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MCPConnectionError("no more threads")

    monkeypatch.setattr(PipeChannel, "start", refuse)
    with pytest.raises(MCPConnectionError, match="no more threads"):
        Wire(server)
    assert server._conversations == {}
    assert server.hub._listeners == []


def test_a_conversation_may_be_closed_by_a_tool_of_its_own(server: Server) -> None:
    @server.tool()
    def leave() -> None:
        server.close(timeout=0.1)

    with wire_to(server) as wire:
        wire.ask("tools/call", {"name": "leave"})
        assert wire.ended()


def test_many_connections_come_and_go(server: Server) -> None:
    def come_and_go(number: int) -> None:
        for _ in range(10):
            wire = Wire(server)
            if number % 2:
                wire.greet()
            wire.ask("tools/call", {"name": "echo"})
            if number % 3:
                wire.next()
            wire.close()

    in_threads(6, come_and_go)
    server.close()
    assert server._conversations == {}
    assert server.hub._listeners == []


# -- I18: exactly one answer for every id -----------------------------------------------------------------------------

NUMBERS = st.integers(-5, 5) | st.floats(allow_nan=False, width=16)
SCALARS: Any = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
METHODS = st.sampled_from(["ping", "tools/list", "tools/call", "initialize", "x", "notifications/x", ""]) | SCALARS
PARAMS = st.sampled_from([{"name": "echo"}, {"_meta": {META + "protocolVersion": STATELESS}}]) | VALUES
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "1.0", 2]),
    "id": st.integers(-3, 3) | st.sampled_from(["a", "b"]) | SCALARS,
    "method": METHODS,
    "params": PARAMS,
    "result": VALUES,
    "error": st.just({"code": 1, "message": "x"}) | VALUES,
}
NEARLY = st.fixed_dictionaries({}, optional=MEMBERS)
ENCODED = st.one_of(VALUES, NEARLY, NEARLY, st.lists(NEARLY, max_size=3)).map(lambda value: json.dumps(value).encode())
CUT = st.tuples(ENCODED, st.integers(0, 40)).map(lambda pair: pair[0][: -pair[1] or None])
JUNK = st.one_of(st.binary(min_size=1, max_size=20), ENCODED, ENCODED, CUT).filter(bytes.strip)


def due(raw: bytes) -> int:
    """Return how many answers a line is owed, from a connection that has no batches."""
    message = decode(raw)
    if isinstance(message, Batch):
        return len(message.messages)  # each is told that it should have come alone
    return int(isinstance(message, (Request, Malformed)))


@settings(max_examples=120)
@given(junk=st.lists(JUNK, max_size=25), order=st.randoms(use_true_random=False))
def test_every_request_gets_exactly_one_answer_whatever_comes_between(junk: list[bytes], order: Any) -> None:
    server = Server("s")
    server.add_tool(lambda text: text, "echo")
    with wire_to(server) as wire:
        lines, owed = list(junk), sum(map(due, junk))
        good: dict[str, tuple[str, Any]] = {}
        for number in range(10):
            name = f"good-{number}"
            params = wire.dressed({"name": "echo", "arguments": {"text": name}})
            request = {"jsonrpc": "2.0", "id": name, "method": "tools/call", "params": params}
            good[name] = (name, request)
            lines.append(json.dumps(request).encode())
        order.shuffle(lines)
        for line in lines:
            wire.raw(line)
        heard = [wire.next() for _ in range(owed + len(good))]
        assert wire.rest() == []
    counts = Counter(message["id"] for message in heard if "method" not in message)
    for name in good:
        (answer,) = [message for message in heard if message.get("id") == name]
        assert answer["result"]["content"][0]["text"] == name
    asked = Counter(itertools.chain.from_iterable(map(ids_of, junk)))
    for id_, count in counts.items():
        assert id_ is None or id_ in good or count <= asked[type(id_), id_]
    for message in heard:
        assert set(message) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})


def ids_of(raw: bytes) -> Iterator[tuple[type, Any]]:
    """Yield the ids that a line asks with."""
    message = decode(raw)
    for one in message.messages if isinstance(message, Batch) else [message]:
        asks = one.id if isinstance(one, Request) else one.asks if isinstance(one, Malformed) else None
        if asks is not None:
            yield type(asks), asks
