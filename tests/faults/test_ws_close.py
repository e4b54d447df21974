"""Ends of WebSockets: what the server says at the end is told, nothing is left, and nobody waits for the rude."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from faults.tools import PATIENCE, tool, until, within, works
from faults.ws_server import CLOSE, PING, TEXT, Connection, Exchange, Manner, Server, closing, made, sends
from faults.ws_tools import NOW, serving, speaks, tells, unconnected

from mcp_sync import Client, MCPConnectionError, MCPError, WebSocketTransport
from mcp_sync.deadlines import Deadline
from mcp_sync.exceptions import ClosedByServer
from mcp_sync.testing.tools import Background, Collector, in_threads

CODES = [1000, 1001, 1003, 1008, 1009, 1011, 1012, 1013, 3000, 4001, 4999]


@pytest.mark.parametrize("code", CODES)
def test_the_code_and_the_reason_of_a_close_are_told_and_answered(code: int) -> None:
    with serving(on={"work": sends(closing(code, "for a reason"))}) as (client, server):
        with within(NOW), pytest.raises(ClosedByServer) as found:
            client.call_tool("work", {})
        error = found.value
        tells(error, server, code=code, reason="for a reason")
        assert (error.code, error.reason, error.may_have_run) == (code, "for a reason", None)
        assert str(code) in str(error)
        assert "for a reason" in str(error)
        until(lambda: server.connected == 0)
        assert [frame.code for frame in server.frames if frame.opcode == CLOSE] == [code]
        works(client)
        assert server.accepted == 2


def test_a_close_without_a_code_is_one_as_well() -> None:
    with serving(on={"work": sends(closing(None))}) as (client, server):
        with within(NOW), pytest.raises(ClosedByServer) as found:
            client.call_tool("work", {})
        assert found.value.code == 1005
        until(lambda: server.connected == 0)
        assert [frame.payload for frame in server.frames if frame.opcode == CLOSE] == [b""]


RUDE: dict[str, Manner] = {
    "closed": sends(then="close"),
    "reset": sends(then="reset"),
    "closed in a head": sends(b"\x81\x7e\x01", then="close"),
    "closed in a payload": sends(made(TEXT, b"{" * 1000)[:500], then="close"),
    "reset in a payload": sends(made(TEXT, b"{" * 1000)[:500], then="reset"),
    "closed between fragments": sends(made(TEXT, b"{", fin=False), then="close"),
    "closed in a close frame": sends(closing(1001, "x")[:3], then="close"),
}


@pytest.mark.parametrize("name", RUDE)
@pytest.mark.parametrize("tls", [False, True])
def test_an_end_without_a_close_frame_is_a_connection_error_at_once(name: str, tls: bool) -> None:
    with serving(on={"work": RUDE[name]}, tls=tls) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work", {})
        tells(found.value, server, code=1006)
        assert not isinstance(found.value, ClosedByServer)
        assert found.value.may_have_run is None
        works(client)


def test_what_came_before_a_close_is_delivered_before_it() -> None:
    on = {"work": lambda exchange: exchange.send(made(TEXT, exchange.plain) + closing(1001))}
    with serving(on=on) as (client, _):
        for n in range(20):
            assert tool(client, "work", a=n) == {"a": n}


def test_what_comes_after_a_close_is_not_read() -> None:
    on = {"work": lambda exchange: exchange.send(closing(1000) + made(TEXT, exchange.plain))}
    with serving(on=on) as (client, _), within(NOW), pytest.raises(ClosedByServer):
        client.call_tool("work", {})


# -- our end -----------------------------------------------------------------------------------------------------------


def test_closing_says_goodbye_and_waits_for_the_answer() -> None:
    with serving() as (client, server):
        works(client)
        with within(0.5):
            client.close()
        until(lambda: server.connected == 0)
        assert [frame.code for frame in server.frames if frame.opcode == CLOSE] == [1000]


def silent(connection: Connection) -> None:
    connection.hold(3600)


def chatty(connection: Connection) -> None:
    while True:
        connection.send(made(TEXT, b'{"jsonrpc":"2.0","method":"notifications/message"}') * 100)


def pinging(connection: Connection) -> None:
    while True:
        connection.send(made(PING, b"are you there") * 100)


@pytest.mark.alone
@pytest.mark.parametrize("manner", [silent, chatty, pinging, speaks()])
@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_ignores_the_close_is_not_waited_for_long(manner: Any, tls: bool) -> None:
    """I7: close is bounded, whatever the server does."""
    with unconnected(converse=manner, tls=tls, goodbye=0.3) as (client, server):
        transport = client.transport
        transport.connect()
        with within(0.6):
            transport.disconnect()
        assert not transport.connected
        until(lambda: server.connected == 0)


def test_the_seconds_for_a_goodbye_are_few_by_default() -> None:
    with Server(converse=silent) as server:
        channel = WebSocketTransport(server.url).dial(Deadline(PATIENCE))
        channel.start(Collector())
        with within(1.2):
            channel.close(Deadline(PATIENCE))


def test_close_keeps_the_deadline_it_is_given() -> None:
    with Server(converse=silent) as server:
        channel = WebSocketTransport(server.url).dial(Deadline(PATIENCE))
        channel.start(Collector())
        with within(0.2):
            channel.close(Deadline(0.2))


STATES: dict[str, Manner | None] = {
    "idle": None,
    "waiting": lambda exchange: exchange.hold(),
    "inside a frame": sends(made(TEXT, b"{" * 1000)[:500], then="hold"),
    "between fragments": sends(made(TEXT, b"{", fin=False), then="hold"),
    "inside an over-long message": sends(made(TEXT, b"{", length=20 << 20), then="hold"),
    "under a flood": lambda exchange: chatty(exchange.connection),
    "after a close of the server's": sends(closing(1001), then="hold"),
    "after a flaw of the server's": sends(b"\xff\xff", then="hold"),
}


@pytest.mark.parametrize("name", STATES)
def test_it_may_be_closed_in_every_state_by_many_at_once(name: str) -> None:
    """I7: from any thread, twice at once; all calls under way end, and nothing is left (the fixture looks)."""
    with serving(on={"work": STATES[name]} if STATES[name] else {}) as (client, _):
        asked = [client.submit_tool("work", {}) for _ in range(3)] if STATES[name] else []
        threading.Event().wait(0.05)
        with within(1.0):
            in_threads(4, lambda _: client.close())
        for one in asked:
            assert isinstance(one.exception(PATIENCE), MCPError)


def test_it_may_be_closed_while_a_large_message_is_written() -> None:
    with serving(on={"work": lambda exchange: exchange.hold()}, max_message_size=1 << 27) as (client, _):
        client.submit_tool("work", {})
        writer = Background(lambda: client.call_tool("work", {"x": "x" * (1 << 25)}))
        threading.Event().wait(0.2)
        with within(1.0):
            client.close()
        assert isinstance(writer.error(), MCPConnectionError)


def test_the_server_may_close_while_a_large_message_is_written() -> None:
    def goes(exchange: Exchange) -> None:
        exchange.send(closing(1001))
        exchange.hold(0.1)

    with serving(on={"go": goes}, max_message_size=1 << 27) as (client, _):
        gone = client.submit_tool("go", {})
        large = Background(lambda: client.call_tool("work", {"x": "x" * (1 << 25)}))
        assert isinstance(gone.exception(PATIENCE), MCPConnectionError)
        assert isinstance(large.error(), (MCPConnectionError, type(None)))  # on the old connection, or on a new one


# -- nothing is left ---------------------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_thousand_closes_by_the_server_leave_no_descriptor() -> None:
    """B12: recv() of the library gives "" for a close frame, and its close() then leaves the descriptor open."""

    def leaves(connection: Connection) -> None:
        connection.send(closing(1000 if connection.number % 2 else 1001, "bye"))
        connection.read_frame()

    with Server(converse=leaves) as server:
        transport = WebSocketTransport(server.url, max_reconnects=0)

        def go_round() -> None:
            channel = transport.dial(Deadline(PATIENCE))
            sink = Collector()
            channel.start(sink)
            assert isinstance(sink.end(), ClosedByServer)
            channel.close(Deadline(PATIENCE))
            channel.lane.close(Deadline(PATIENCE))
            channel.events.close(Deadline(PATIENCE))

        go_round()
        until(lambda: server.connected == 0)
        before, threads = descriptors(), threading.active_count()
        began = time.monotonic()
        for _ in range(1000):
            go_round()
        until(lambda: server.connected == 0)
        assert descriptors() == before
        assert threading.active_count() <= threads
        assert time.monotonic() - began < 30


def test_upgrades_that_fail_leave_no_descriptor() -> None:
    from faults.ws_server import declines

    with Server(on={"upgrade": [declines(403), sends(then="reset"), sends(b"SSH", then="close")] * 20}) as server:
        client = Client(server.url, timeout=PATIENCE)
        with pytest.raises(MCPError):
            client.connect()
        before = descriptors()
        for _ in range(59):
            with pytest.raises(MCPError):
                client.connect()
        until(lambda: server.connected == 0)
        assert descriptors() <= before
        client.close()
