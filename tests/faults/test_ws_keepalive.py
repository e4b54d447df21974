"""Whether anybody is there: pings are sent when it is silent, by no thread of their own, and silence ends it."""

from __future__ import annotations

import inspect
import threading
import time

import pytest
from faults.tools import PATIENCE, until, within, works
from faults.ws_server import PING, PONG, TEXT, Connection, Exchange, made
from faults.ws_tools import serving, tells

from mcp_sync import MCPConnectionError, WebSocketTransport
from mcp_sync.observe import Disconnected, Event, Trouble


def pings(server: object) -> list[bytes]:
    return [frame.payload for frame in server.frames if frame.opcode == PING]  # type: ignore[attr-defined]


def test_by_default_it_takes_forty_seconds() -> None:
    parameters = inspect.signature(WebSocketTransport).parameters
    assert parameters["ping_interval"].default == parameters["ping_timeout"].default == 20.0


def test_a_server_that_answers_pings_stays_connected() -> None:
    with serving(ping_interval=0.05, ping_timeout=0.3) as (client, server):
        until(lambda: len(pings(server)) >= 8)
        works(client)
        assert server.accepted == 1
        assert len(set(pings(server))) == len(pings(server))


def test_a_server_that_falls_silent_is_noticed_and_the_next_call_reconnects() -> None:
    """A blackholed peer is found within both times."""
    events: list[Event] = []
    on = {"work": lambda exchange: exchange.hold()}
    with serving(on=on, ping_interval=0.2, ping_timeout=0.2) as (client, server):
        client.transport.observe(events.append)
        began = time.monotonic()
        with within(0.5), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work", {})
        assert time.monotonic() - began > 0.38
        tells(found.value, server, code=1006)
        assert "ping_timeout" in str(found.value)
        works(client)
        assert server.accepted == 2
        until(lambda: any(isinstance(event, Disconnected) for event in events))
        assert any(isinstance(event, Trouble) and event.kind == "connection_lost" for event in events)


def test_a_server_that_sends_is_there_even_if_it_answers_no_ping() -> None:
    def talks(exchange: Exchange) -> None:
        for _ in range(30):
            exchange.send(made(TEXT, b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'))
            exchange.hold(0.02)
        exchange.answer()

    with serving(on={"work": talks}, ping_interval=0.05, ping_timeout=0.1) as (client, server):
        client.call_tool("work", {})
        assert server.accepted == 1


def test_one_that_drips_a_message_is_there_as_well() -> None:
    on = {"work": lambda exchange: exchange.drip(made(TEXT, exchange.plain), 0.01)}
    with serving(on=on, ping_interval=0.1, ping_timeout=0.1) as (client, server):
        client.call_tool("work", {})
        assert server.accepted == 1


@pytest.mark.parametrize("knobs", [{"ping_interval": None}, {"ping_timeout": None, "ping_interval": 0.05}])
def test_without_one_of_the_two_silence_is_no_end(knobs: dict[str, float | None]) -> None:
    over = threading.Event()
    on = {"work": lambda exchange: over.wait(PATIENCE) and exchange.answer()}
    with serving(on=on, **{"ping_timeout": 0.05, **knobs}) as (client, server):
        future = client.submit_tool("work", {})
        threading.Event().wait(0.3)
        assert not future.done()
        over.set()
        future.result(PATIENCE)
        until(lambda: bool(pings(server)) == ("ping_timeout" in knobs))


def test_the_pings_of_a_server_are_answered_though_nobody_calls() -> None:
    got: list[bytes] = []

    def keeps_time(exchange: Exchange) -> None:
        exchange.answer()
        for n in range(5):
            exchange.send(made(PING, b"%d" % n))
            frame = exchange.listen()
            assert frame is not None
            assert frame.opcode == PONG
            got.append(frame.payload)

    with serving(on={"work": keeps_time}) as (client, _):
        client.call_tool("work", {})
        until(lambda: len(got) == 5)
        assert got == [b"0", b"1", b"2", b"3", b"4"]


def test_while_nobody_receives_silence_is_not_counted() -> None:
    """A full inbox pauses reading; what waits in the socket is read before anybody is given up."""

    def converse(connection: Connection) -> None:
        for n in range(50):
            connection.send(made(TEXT, b'{"jsonrpc":"2.0","method":"news","params":{"n":%d}}' % n))
        connection.converse()

    from faults.ws_server import Server

    with Server(converse=converse) as server:
        transport = WebSocketTransport(server.url, max_pending_messages=1, ping_interval=0.05, ping_timeout=0.05)
        with transport:
            threading.Event().wait(0.4)
            assert [transport.receive_message(PATIENCE)["params"]["n"] for _ in range(50)] == list(range(50))
            assert transport.connected


def test_an_idle_connection_has_one_thread_and_no_timer_faster_than_its_pings() -> None:
    """I9."""
    before = set(threading.enumerate())
    with serving(ping_interval=60) as (client, server):
        works(client)
        ours = {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("mcp-")}
        assert [name for name in ours if "reader" in name] == [f"mcp-websocket-{server.port}-reader"]
        assert not [name for name in ours if "outlet" in name]
        cpu = time.process_time()
        threading.Event().wait(0.5)
        assert time.process_time() - cpu < 0.05
