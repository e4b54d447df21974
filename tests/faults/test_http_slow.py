"""Servers, networks and resolvers that take their time: MCPTimeoutError at T, whatever trickles in meanwhile."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faults.http_server import EVENTS, PATH, Exchange, Manner, Server, deaf_port, late, says, silent, streams
from faults.http_tls import authority_file
from faults.http_tools import (
    CANARY,
    NOW,
    T,
    drips,
    event_stream,
    goes_on,
    goes_on_in_chunks,
    never,
    sends,
    serving,
    tells,
    unconnected,
)
from faults.tools import ERAS, PATIENCE, adds_up, tool, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPTimeoutError, StreamableHTTPTransport, TooManyRequests
from mcp_sync.testing import in_threads

pytestmark = pytest.mark.alone

NEWS = b'data: {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}\n\n'


@contextmanager
def timing_out(seconds: float = T) -> Iterator[pytest.ExceptionInfo[MCPTimeoutError]]:
    """Check that the block times out, at its time: neither later than the bound allows, nor earlier."""
    __tracebackhide__ = True
    began = time.monotonic()
    with within(seconds), pytest.raises(MCPTimeoutError) as found:
        yield found
    assert time.monotonic() - began >= seconds * 0.95


def chunked_head(exchange: Exchange) -> bytes:
    return exchange.head(200, "Transfer-Encoding: chunked")


SLOW: dict[str, Manner] = {
    "silence": silent,
    "a status line that drips": says("HTTP/1.1 2", then="hold"),
    "headers that drip": drips(lambda exchange: exchange.plain),
    "headers without end, slowly": goes_on(lambda exchange: exchange.head(200)[:-2], b"X-More: 1\r\n", 0.05),
    "silence after the headers": sends(lambda exchange: exchange.head(200, length=1000), "hold"),
    "silence after the headers, without a length": sends(lambda exchange: exchange.head(200), "hold"),
    "a body that drips": lambda exchange: (
        exchange.send(exchange.plain[: -len(exchange.body)]),
        exchange.drip(exchange.body, 0.01),
    ),
    "a body that drips at its end": lambda exchange: (
        exchange.send(exchange.plain[:-20]),
        exchange.drip(exchange.plain[-20:], 0.1),
    ),
    "chunks that drip": goes_on(chunked_head, b"1\r\n \r\n", 0.02),
    "a size of a chunk that drips": goes_on(chunked_head, b"0", 0.02),
    "an extension of a chunk that drips": goes_on(lambda exchange: chunked_head(exchange) + b"5;a=", b"b", 0.02),
    "100 Continue without end": goes_on(lambda exchange: b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.002),
    "a body of blanks that drips": goes_on(lambda exchange: exchange.head(200, length=10**6), b" ", 0.02),
    "comments without end": goes_on(event_stream, b": ping\n\n", 0.01),
    "comments without end, as fast as can be": goes_on(event_stream, b": ping\n\n" * 4000),
    "comments in chunks without end, as fast as can be": goes_on_in_chunks(200, more=b":\r\n\r\n", content_type=EVENTS),
    "an event that drips": drips(lambda exchange: event_stream(exchange) + b"data: " + exchange.body + b"\n\n", 0.01),
    "an event of which only the data drips": lambda exchange: (
        exchange.send(event_stream(exchange) + b"data: "),
        exchange.drip(exchange.body, 0.01),
    ),
    "news without end": goes_on(event_stream, NEWS, 0.01),
    "a stream of events that is silent": streams(then="hold", answer=False),
    "a stream that asks for patience": goes_on(event_stream, b"retry: 10\n\n", 0.01),
}


@pytest.mark.parametrize("how", SLOW)
def test_a_call_that_is_answered_too_slowly_times_out_on_time_and_the_next_is_fine(how: str) -> None:
    """I1, I4, I10, B1: whatever arrives meanwhile; asked once, and the server sees that nobody waits any more."""
    with serving(on={"work": SLOW[how]}) as (client, server):
        with timing_out() as found:
            client.call_tool("work", timeout=T)
        tells(found.value, server, limit=T)
        assert found.value.may_have_run is None
        works(client)
        assert len(server.calls("work")) == 1
        if "fast" not in how:  # such a server is in the middle of sending, and the system may let it wait
            until(lambda: [request.tool for request in server.abandoned] == ["work"], 3.0)
        adds_up(client.counters)


@ERAS
def test_calls_that_are_answered_too_slowly_in_every_way_at_once_time_out_on_time(era: str) -> None:
    """I1, I4, I20: the floods among them, too; and whoever calls meanwhile is answered."""
    with serving(era, on=SLOW) as (client, server):

        def call(number: int) -> None:
            if number == len(SLOW):
                works(client)
                return
            with timing_out(T * 2):
                client.call_tool([*SLOW][number], timeout=T * 2)

        in_threads(len(SLOW) + 1, call, PATIENCE)
        works(client)
        assert len(server.calls()) == len(SLOW) + 2
        until(lambda: len(server.abandoned) >= len([how for how in SLOW if "fast" not in how]), 5.0)
        if era == "handshake":
            assert len(until(lambda: server.posts("notifications/cancelled"))) <= len(SLOW)


@ERAS
def test_a_call_that_is_given_up_is_cancelled_as_its_era_wants_it(era: str) -> None:
    """I10: by hanging up, or by a notification where there is a session. The late answer is nobody's."""
    with serving(era, on={"work": late(T + 0.3)}) as (client, server):
        with timing_out():
            client.call_tool("work", timeout=T)
        if era == "handshake":
            (notice,) = until(lambda: server.posts("notifications/cancelled"))
            assert notice.params["requestId"] == server.calls("work")[0].id
        works(client)
        time.sleep(0.35)
        works(client)
        assert era == "handshake" or not server.posts("notifications/cancelled")


@ERAS
def test_slow_calls_delay_no_other_and_each_keeps_its_own_time(era: str) -> None:
    """I1, I4"""
    with serving(era, on={"work": silent}) as (client, server):
        futures = [client.submit_tool("work", {}, T * times) for times in (1, 2, 3)]
        for times, future in enumerate(futures, 1):
            works(client, NOW)
            with within(T * times), pytest.raises(MCPTimeoutError) as found:
                future.result(PATIENCE)
            assert found.value.details["limit"] == pytest.approx(T * times)
        assert len(server.calls("work")) == 3


@ERAS
def test_a_request_that_nobody_reads_times_out_while_it_is_sent(era: str) -> None:
    """I1: the timeout covers the write; 16 MB do not fit into any buffer."""
    with serving(era, max_message_size=64 << 20) as (client, server):
        until(lambda: not server.busy)
        server.hang_up()
        server.on["accept"] = lambda exchange: exchange.hold()
        with timing_out() as found:
            client.call_tool("work", {"x": "y" * (16 << 20)}, timeout=T)
        tells(found.value, server, limit=T)
        assert found.value.may_have_run is not True
        del server.on["accept"]
        works(client)


# -- beginnings --------------------------------------------------------------------------------------------------------

LATE_BEGINNINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "silence on the probe": ("stateless", {"server/discover": silent, "initialize": never}),
    "headers that drip on the probe": (
        "stateless",
        {"server/discover": SLOW["headers that drip"], "initialize": never},
    ),
    "comments on the probe": ("stateless", {"server/discover": SLOW["comments without end"], "initialize": never}),
    "silence on initialize": ("handshake", {"initialize": silent}),
    "a body that drips on initialize": ("handshake", {"initialize": SLOW["chunks that drip"]}),
    "everything takes two thirds": ("handshake", {"server/discover": late(T * 0.7), "initialize": late(T * 0.7)}),
    "silence on the connection": ("stateless", {"accept": silent}),
}


@pytest.mark.parametrize("how", LATE_BEGINNINGS)
def test_a_beginning_that_takes_too_long_times_out_on_time_and_says_nothing_of_the_era(how: str) -> None:
    """I1, I6: one T for all of it; and the client may try again."""
    era, on = LATE_BEGINNINGS[how]
    with unconnected(era, on=on) as (client, server):
        with timing_out() as found:
            client.connect(timeout=T)
        assert found.value.details["phase"] == "connect"
        assert found.value.may_have_run is False
        assert not client.connected
        server.on.clear()
        works(client)


def test_a_beginning_whose_last_notification_is_never_answered_times_out_or_is_fine() -> None:
    """I1: in one T."""
    with unconnected("handshake", on={"notifications/initialized": silent}) as (client, server), within(T):
        try:
            client.connect(timeout=T)
        except MCPTimeoutError:
            server.on.clear()
    assert server.posts("initialize")


def test_a_session_without_a_client_times_out_likewise() -> None:
    """I1"""
    with Server(on={"server/discover": silent, "initialize": never}) as server, timing_out():
        StreamableHTTPTransport(server.url, timeout=T).create_session()


def test_a_first_call_shares_its_timeout_with_the_beginning() -> None:
    """I1"""
    with unconnected(on={"server/discover": late(T * 0.7), "work": late(T * 0.7)}) as (client, _):
        with timing_out():
            client.call_tool("work", timeout=T)
        works(client)


def test_a_port_that_accepts_nobody_times_out_on_time_when_a_call_comes_to_it() -> None:
    """I1: the queue is full; nothing was sent."""
    with serving() as (client, server):
        with server.deaf():
            for _ in range(2):
                with timing_out() as found:
                    client.call_tool("work", timeout=T)
                assert found.value.may_have_run is False
                tells(found.value, server, limit=T)
        works(client)
        assert not server.calls("work")


def test_a_port_that_accepts_nobody_times_out_on_time_and_by_its_own_timeout_where_there_is_one() -> None:
    """I1: connection_timeout ends the attempt to connect, timeout all of it."""
    with deaf_port() as port:
        for knobs, seconds in ({"timeout": T}, T), ({"timeout": PATIENCE, "connection_timeout": T}, T):
            client = Client(f"http://127.0.0.1:{port}{PATH}", **knobs)
            with timing_out(seconds) as found:
                client.connect()
            assert found.value.may_have_run is False
            client.close()


STALLS: dict[str, Manner] = {
    "silence": silent,
    "half a record": says(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76", then="hold"),
    "a record that drips": goes_on(lambda exchange: b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03", b"\x00", 0.02),
}


@pytest.mark.parametrize("how", STALLS)
def test_a_tls_handshake_that_stalls_times_out_on_time(how: str, tmp_path: Path) -> None:
    """I1, B1: for a call on a client that is connected, and for the first connection."""
    knobs: dict[str, Any] = {"tls": True, "verify_ssl": str(authority_file(tmp_path))}
    with serving(**knobs) as (client, server):
        until(lambda: not server.busy)
        server.hang_up()
        server.on["accept"] = STALLS[how]
        with timing_out() as found:
            client.call_tool("work", timeout=T)
        assert found.value.may_have_run is False
        del server.on["accept"]
        works(client)
    with unconnected(on={"accept": STALLS[how]}, **knobs) as (client, server), timing_out():
        client.connect(timeout=T)


@pytest.mark.parametrize("how", ["silence", "a body that drips", "comments without end", "an event that drips"])
def test_a_slow_answer_under_tls_times_out_on_time(how: str, tmp_path: Path) -> None:
    """I1, B1: the reaper needs the descriptor that TLS took over."""
    with serving(tls=True, verify_ssl=str(authority_file(tmp_path)), on={"work": SLOW[how]}) as (client, server):
        with timing_out():
            client.call_tool("work", timeout=T)
        works(client)
        until(lambda: server.abandoned, 3.0)


# -- names -------------------------------------------------------------------------------------------------------------


class Resolver:
    """Stands in for socket.getaddrinfo: names in ``.test`` are at 127.0.0.1, but not before it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.released = threading.Event()
        self._original = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, port: Any, *args: Any, **keywords: Any) -> Any:
        if not str(host).rstrip(".").endswith(".test"):
            return self._original(host, port, *args, **keywords)
        self.asked += 1
        self.released.wait(30.0)
        return self._original("127.0.0.1", port, *args, **keywords)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver(monkeypatch)
    yield resolver
    resolver.released.set()
    until(lambda: not resolving(), 5.0)


def resolving() -> list[str]:
    names = [one.name for one in threading.enumerate()]
    return [name for name in names if re.search("(?i)resol|dns|addrinfo", name) and "pytest" not in name]


def test_a_name_that_is_never_resolved_times_out_on_time_and_nobody_is_told_anything_later(resolver: Resolver) -> None:
    """I1, B1: whoever still waits for the resolver then makes no connection."""
    with Server() as server:
        client = Client(f"http://slow.test:{server.port}/mcp", auth_header=f"Bearer {CANARY}", timeout=PATIENCE)
        with timing_out() as found:
            client.connect(timeout=T)
        assert found.value.may_have_run is False
        assert "slow.test" in str(found.value)
        resolver.released.set()
        time.sleep(0.2)
        assert server.accepted == 0
        works(client)
        client.close()


def test_a_name_that_is_not_resolved_any_more_times_out_on_time_when_a_call_comes_to_it(resolver: Resolver) -> None:
    """I1, I4: the connection that is kept needs no name."""
    resolver.released.set()
    with serving(url="http://slow.test:{port}/mcp") as (client, server):
        resolver.released.clear()
        works(client)
        until(lambda: not server.busy)
        server.hang_up()
        with timing_out() as found:
            client.call_tool("work", timeout=T)
        assert found.value.may_have_run is False
        tells(found.value, server, limit=T)
        resolver.released.set()
        works(client)


def test_a_resolver_that_hangs_does_not_collect_threads_without_limit(resolver: Resolver) -> None:
    """I8: eighty attempts, fewer threads; each attempt ends on time all the same, and later all is well."""
    with Server() as server:
        client = Client(f"http://slow.test:{server.port}/mcp", timeout=PATIENCE)
        before = threading.active_count()
        for _ in range(80):
            with within(0.01), pytest.raises((MCPTimeoutError, TooManyRequests)) as found:
                client.connect(timeout=0.01)
            assert found.value.may_have_run is not True
        assert threading.active_count() - before <= 65
        resolver.released.set()
        until(lambda: threading.active_count() - before <= 1)
        works(client)
        client.close()


def test_a_client_that_is_closed_while_a_name_is_resolved_is_closed_at_once(resolver: Resolver) -> None:
    """I7"""
    client = Client("http://slow.test:1/mcp", timeout=5.0)
    ended: list[BaseException] = []

    def connect() -> None:
        try:
            client.connect()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    until(lambda: resolver.asked)
    with within(0.5):
        client.close()
        thread.join(PATIENCE)
    assert isinstance(ended[0], MCPConnectionError)


# -- redirects and pauses that add up ----------------------------------------------------------------------------------


def test_hops_and_waits_of_one_call_share_its_timeout() -> None:
    """I1: a redirect begins no new T."""

    def sends_on(exchange: Exchange) -> None:
        exchange.pause(T * 0.4)
        exchange.reply(307, "", f"Location: {PATH}?hop", content_type=None)

    with serving(on={"work": sends_on}) as (client, server):
        with timing_out():
            client.call_tool("work", timeout=T)
        assert len(server.calls("work")) <= 3
        works(client)


def test_a_call_that_is_answered_just_in_time_is_answered() -> None:
    """I1: nothing that was meant for an earlier call ends a later one on the same connection."""
    with serving(on={"work": late(T * 0.5)}) as (client, server):
        for _ in range(4):
            assert tool(client, "work", T, a=1) == {"a": 1}
        time.sleep(T)
        works(client)
        assert server.accepted == 1
