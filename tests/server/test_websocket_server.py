"""The WebSocket host: who is let in, what a client may say, what becomes of who misbehaves, and how it all ends."""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import websocket
from faults.http_tls import client_context, server_context
from faults.tools import ROOT, growing_less_than, until, within
from faults.ws_server import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, made
from server.ws_guests import KEY, PATIENCE, RawClient, guest, hosting, port_of
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mcp_sync import AuthError, MCPConnectionError, ServerError, WebSocketTransport
from mcp_sync.credentials import APIKeyAuth, BearerTokenAuth
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Incoming
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.peer import Peer
from mcp_sync.exceptions import ClosedByServer, MCPTimeoutError, MessageTooLarge, RemoteProtocolError
from mcp_sync.policies import Limits
from mcp_sync.protocol.messages import Malformed, Notification, Request
from mcp_sync.server import door, framed
from mcp_sync.server.security import TransportSecuritySettings
from mcp_sync.server.websocket import WebSocketHost
from mcp_sync.testing import CallerContract, ChannelContract, Partner
from mcp_sync.testing.caller import Answering
from mcp_sync.testing.tools import Background, Collector, in_threads
from peers import install

NOW = 2.0
GOODBYE = 0.3
LIMIT = 10_000
EMPTY = b'{"jsonrpc":"2.0","method":"x"}'


@pytest.fixture(autouse=True)
def _short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw clients seldom answer a close frame, and the host waits for that."""
    monkeypatch.setattr(framed, "CLOSE_SECONDS", GOODBYE)


# -- the contracts, with the server's end of a connection --------------------------------------------------------------


class ClientWire:
    """The wire of a Partner at the client's end."""

    def __init__(self, client: RawClient) -> None:
        self._client = client

    def read(self) -> bytes | None:
        """Return the next message; None is the end."""
        try:
            while (frame := self._client.frame()) is not None:
                first, payload = frame
                if first & 0x0F == TEXT:
                    return payload
                if first & 0x0F == CLOSE:
                    self._client.send(CLOSE, payload[:2])
        except OSError:
            pass
        return None

    def write(self, data: bytes) -> None:
        """Send a message. What is no text cannot be one here: invalid UTF-8 would end the connection."""
        try:
            self._client.send(TEXT, data.decode("utf-8", "replace").encode())
        except OSError:
            pass

    def idle(self) -> None:
        """Read nothing until the server has gone."""
        hung_up = select.poll()
        hung_up.register(self._client.sock, getattr(select, "POLLRDHUP", 0))
        hung_up.poll()

    def close(self) -> None:
        """Say goodbye, and wait for the answer."""
        try:
            self._client.bid_farewell()
        except OSError:
            pass
        self._client.sock.close()

    def die(self) -> None:
        """End it rudely."""
        self._client.vanish()


class AtTheServersEnd:
    """What the contracts share: hosts that nobody serves, whose channels are what is tested."""

    tls: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _hosts(self) -> Iterator[None]:
        with ExitStack() as self._stack:
            yield

    def channel(self, limits: Limits) -> Channel:
        """Return the channel of a client that is a Partner."""
        context = server_context() if self.tls else None
        host, hall = self._stack.enter_context(hosting(served=False, limits=limits, ssl_context=context))
        client = RawClient(port_of(host), self.tls)
        client.upgrade()
        self.run_partner(ClientWire(client))  # type: ignore[attr-defined]
        found: Channel = hall.next()
        return found


class TestServersChannel(AtTheServersEnd, ChannelContract):
    def connect(self) -> Channel:
        return self.channel(Limits(message_size=self.message_size))

    def test_an_answer_over_the_limit_is_known_for_what_it_is_and_the_connection_lives(self) -> None:
        """Unlike a client, a server closes (1009): it owes nobody an explanation of what it asked for."""
        with self.connected() as (channel, sink):
            channel.send(Request(7, "oversize", {"size": 2 * self.message_size}), Deadline(PATIENCE))
            error = sink.end()
            assert isinstance(error, MessageTooLarge)
            assert error.details["limit"] == self.message_size


class TestServersChannelOverTLS(TestServersChannel):
    tls = True


class TestPeerAtTheServersEnd(AtTheServersEnd, CallerContract):
    def run_partner(self, wire: Any) -> None:
        thread = threading.Thread(target=Partner(wire).run, name="partner")
        thread.start()
        self._stack.callback(thread.join, PATIENCE)

    def connect(self, limits: Limits) -> Channel:
        return self.channel(limits)

    def test_an_answer_over_the_limit_fails_that_call_alone(self) -> None:
        """It fails that call; but a server ends the connection."""
        with self.calling() as caller:
            with pytest.raises(MessageTooLarge) as found:
                self._ask(caller, "oversize", size=2 * self.message_size)
            assert found.value.details["limit"] == self.message_size


# -- who is let in -----------------------------------------------------------------------------------------------------


def test_a_client_gets_its_websocket_and_the_subprotocol_that_it_offers() -> None:
    with hosting() as (host, hall), RawClient(port_of(host)) as client:
        headers = client.upgrade(Sec_WebSocket_Protocol="soap, mcp", X_Trace="abc")
        assert headers["sec-websocket-protocol"] == "mcp"
        assert "server" not in headers
        client.echo(a=1)
        channel = hall.next()
        assert channel.headers["x-trace"] == "abc"
        assert channel.principal is None
        assert channel.explain()["subprotocol"] == "mcp"
        assert client.bid_farewell() == 1000


@pytest.mark.parametrize("offer", [{}, {"Sec_WebSocket_Protocol": "soap"}])
def test_a_client_that_does_not_offer_the_subprotocol_is_served_without(offer: dict[str, str]) -> None:
    with hosting() as (host, _), RawClient(port_of(host)) as client:
        assert "sec-websocket-protocol" not in client.upgrade(**offer)
        client.echo()
        client.bid_farewell()


REFUSED: dict[str, tuple[dict[str, Any], int | tuple[int, ...], str]] = {
    "another path": ({"path": "/other"}, 404, "/mcp"),
    "a path that only begins so": ({"path": "/mcp2?a=/mcp"}, 404, "/mcp"),
    "a foreign origin": ({"Origin": "https://evil.example"}, 403, "allowed_origins"),
    "the origin null": ({"Origin": "null"}, 403, "allowed_origins"),
    "a foreign host, as after DNS rebinding": ({"Host": "evil.example"}, 421, "allowed_hosts"),
    "no host": ({"without": ("Host",)}, 400, "Host"),
    "no upgrade": ({"without": ("Upgrade", "Connection")}, 426, "WebSocket"),
    "another method": ({"method": "PUT"}, (405, 400), ""),  # 400 by old versions of the library
    "a post with a body": ({"method": "POST", "Content_Length": "2"}, 400, "no request for a WebSocket"),
    "no key": ({"without": ("Sec-WebSocket-Key",)}, 400, "Key"),
    "a key that is none": ({"Sec_WebSocket_Key": "abc"}, 400, "Key"),
    "another version": ({"Sec_WebSocket_Version": "8"}, 400, "Version"),
    "a header that is none": ({"Sec_WebSocket_Extensions": "a;;=,"}, 400, "Extensions"),
    "a line that is too long": ({"X_Long": "x" * 9000}, (431, 400), ""),
    "too many headers": ({f"X{n}": "1" for n in range(130)}, (431, 400), ""),
    "a head that is too long": ({f"X{n}": "x" * 8000 for n in range(10)}, 431, "longer than 65536"),
    "a path that is no ASCII": ({"path": "/mcp\xe4"}, (400, 404), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_who_is_not_let_in_is_told_why_with_a_status(name: str) -> None:
    about, status, word = REFUSED[name]
    with hosting() as (host, hall), RawClient(port_of(host)) as client:
        with within(NOW):
            found, headers, body = client.ask(client.head(**about))
        assert found in (status if isinstance(status, tuple) else (status,))
        assert headers["connection"] == "close"
        assert word in body.decode()
        assert client.ended(NOW)
        assert host.connections == 0
        assert hall.channels == []


def test_two_hosts_or_origins_are_none() -> None:
    with hosting() as (host, _):
        for twice in (b"Host: 127.0.0.1", b"Origin: https://evil.example"):
            with RawClient(port_of(host)) as client:
                plain = client.head(Origin=f"http://127.0.0.1:{client.port}")
                assert client.ask(plain[:-2] + twice + b"\r\n\r\n")[0] in (400, 403)


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0\0\0\0", b"SSH-2.0-x\r\n", b"get "]
)
def test_what_is_not_http_is_told_so_at_once(said: bytes) -> None:
    with hosting() as (host, _), RawClient(port_of(host)) as client, within(NOW):
        assert client.ask(said)[0] == 400
        assert client.ended(NOW)


def test_pages_of_this_machine_are_let_in_and_others_where_they_are_named() -> None:
    settings = TransportSecuritySettings(allowed_origins=["https://app.example"], allowed_hosts=["mcp.example"])
    with hosting(security=settings) as (host, _):
        for origin, name in (("http://localhost:3000", "localhost"), ("https://app.example", "mcp.example")):
            with RawClient(port_of(host)) as client:
                client.upgrade(Origin=origin, Host=name)
                client.bid_farewell()


def test_a_head_that_comes_in_drips_and_frames_that_come_with_it_are_understood() -> None:
    with hosting() as (host, _), RawClient(port_of(host)) as client:
        for byte in client.head():
            client.sock.sendall(bytes([byte]))
        assert client.response()[0] == 101
        client.echo()
        client.bid_farewell()
        with RawClient(port_of(host)) as hasty:
            request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"n": 1}}).encode()
            hasty.sock.sendall(hasty.head() + made(TEXT, request, key=KEY))
            assert hasty.response()[0] == 101
            assert hasty.message()["result"] == {"n": 1}
            hasty.bid_farewell()
        with RawClient(port_of(host)) as fickle:  # it says goodbye before it knows
            fickle.sock.sendall(fickle.head() + made(CLOSE, b"\x03\xe8", key=KEY))
            assert fickle.response()[0] == 101
            assert fickle.closed() == 1000


def test_credentials_are_asked_for_and_say_who_it_is() -> None:
    tokens = BearerTokenAuth({"ann": "t0ken-of-ann", "bob": "t0ken-of-bob"})
    with hosting(authenticator=tokens) as (host, hall):
        for wrong in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Bearer t0ken-of-ann, Bearer x"}):
            with RawClient(port_of(host)) as client:
                status, headers, body = client.ask(client.head(**wrong))
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
                assert b"t0ken" not in body
        with guest(host, Authorization="Bearer t0ken-of-bob") as client:
            assert hall.next().principal == "bob"
            client.bid_farewell()
        assert len(hall.channels) == 1


def test_an_authenticator_that_fails_is_for_the_servers_log_and_not_for_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def authenticate(self, headers: Any) -> str | None:
            raise ConnectionError("the directory d1rectory.internal is down")

    with hosting(authenticator=Broken()) as (host, _), RawClient(port_of(host)) as client:
        with caplog.at_level(logging.ERROR, "mcp_sync"):
            status, _, body = client.ask(client.head())
        assert status == 500
        assert b"internal" not in body
        assert "d1rectory.internal" in caplog.text


def test_a_slow_authenticator_delays_no_others_and_no_conversation() -> None:
    free = threading.Event()

    class Slow:
        def authenticate(self, headers: Any) -> str | None:
            if "x-slow" in headers:
                free.wait(PATIENCE)
            return "somebody"

    with hosting(authenticator=Slow()) as (host, _), ExitStack() as stack:
        waiting = [stack.enter_context(RawClient(port_of(host))) for _ in range(5)]
        for client in waiting:
            client.sock.sendall(client.head(X_Slow="1"))
        with within(NOW), guest(host) as quick:
            quick.echo()
            quick.bid_farewell()
        free.set()
        for client in waiting:
            assert client.response()[0] == 101
            client.bid_farewell()


def test_credentials_are_in_no_log_not_even_that_of_the_library(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), hosting(authenticator=APIKeyAuth("c4naryS3cret")) as (host, hall):
        for key in ("c4naryS3cret", "c4naryS3cret2"):
            with RawClient(port_of(host)) as client:
                if client.ask(client.head(X_API_Key=key))[0] == 101:
                    client.echo(secret="no")
                    client.bid_farewell()
        channel = hall.next()
        assert "c4nary" not in f"{caplog.text} {host!r} {channel!r} {channel.explain()}"


def test_beyond_the_most_connections_one_is_told_to_come_again_and_can() -> None:
    with hosting(max_connections=2) as (host, _), guest(host) as first, guest(host) as second:
        first.echo()
        with RawClient(port_of(host)) as third:
            status, headers, _ = third.ask(third.head())
            assert (status, headers["retry-after"]) == (503, "5")
        assert host.connections == 2
        second.bid_farewell()
        until(lambda: host.connections == 1, PATIENCE)
        with guest(host) as again:
            again.echo()
            again.bid_farewell()
        first.echo(2)
        first.bid_farewell()
        until(lambda: host.connections == 0, PATIENCE)


# -- who never comes in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("said", [b"", b"GET /mcp HTT", b"\x16\x03\x01"])
def test_who_does_not_say_what_it_wants_is_let_go(tls: bool, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.4)
    with hosting(ssl_context=server_context() if tls else None) as (host, _), RawClient(port_of(host)) as client:
        client.sock.sendall(said)
        assert client.ended(NOW)


def test_a_drip_does_not_win_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.5)
    with hosting() as (host, _), RawClient(port_of(host)) as client, within(NOW):
        dripped = 0
        try:
            for byte in client.head(X_Long="x" * 5000):
                client.sock.sendall(bytes([byte]))
                dripped += 1
                if client.ended(0.02):
                    break
        except ConnectionError:
            pass
        assert dripped < 1000


def test_300_clients_that_hang_in_the_door_delay_nobody_and_cost_no_thread() -> None:
    with hosting() as (host, _), ExitStack() as stack:
        for number in range(300):
            half = stack.enter_context(RawClient(port_of(host)))
            half.sock.sendall(half.head()[: number % 100])
        before = threading.active_count()
        with within(NOW), guest(host) as client:
            client.echo()
            client.bid_farewell()
        assert threading.active_count() <= before + 6


def test_of_too_many_in_the_door_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_GUESTS", 20)
    with hosting() as (host, _), ExitStack() as stack:
        halves = [stack.enter_context(RawClient(port_of(host))) for _ in range(40)]
        assert halves[0].ended(NOW)
        with within(NOW), guest(host) as client:
            client.echo()
            client.bid_farewell()


def test_without_descriptors_nobody_spins_and_later_all_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with hosting() as (host, _), guest(host) as first:
        first.echo()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with ExitStack() as stack:
            late = [stack.enter_context(RawClient(port_of(host))) for _ in range(3)]
            lowest = os.dup(0)
            os.close(lowest)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
                for client in late:
                    client.sock.sendall(client.head())
                spent = time.process_time()
                first.echo(2)
                threading.Event().wait(0.6)
                assert time.process_time() - spent < 0.4
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with within(NOW), guest(host) as client:
            client.echo()
            client.bid_farewell()
        first.bid_farewell()


# -- what a client may say ---------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, int]] = {
    "a frame without a mask": (made(TEXT, EMPTY), 1002),
    "an unasked extension (RSV1)": (made(TEXT, EMPTY, rsv=4, key=KEY), 1002),
    "RSV2": (made(TEXT, EMPTY, rsv=2, key=KEY), 1002),
    "opcode 3": (made(3, EMPTY, key=KEY), 1002),
    "a continuation of nothing": (made(CONTINUATION, EMPTY, key=KEY), 1002),
    "a message within another": (made(TEXT, b"{", fin=False, key=KEY) + made(TEXT, b"}", key=KEY), 1002),
    "a control frame in pieces": (made(PING, b"a", fin=False, key=KEY), 1002),
    "a control frame that is long": (made(PING, b"a" * 126, key=KEY), 1002),
    "a close code that is none": (made(CLOSE, b"\x03\xed", key=KEY), 1002),
    "a close code of one byte": (made(CLOSE, b"\x03", key=KEY), 1002),
    "a binary message": (made(BINARY, EMPTY, key=KEY), 1003),
    "a binary message in pieces": (made(BINARY, b"{", fin=False, key=KEY), 1003),
    "a text that is not UTF-8": (made(TEXT, b"\xff\xfe", key=KEY), 1007),
    "a text cut within a character": (made(TEXT, b"\xc3", fin=False, key=KEY) + made(CONTINUATION, key=KEY), 1007),
    "a frame over the limit": (made(TEXT, b"x" * (LIMIT + 1), key=KEY), 1009),
    "the announcement of a TiB": (made(TEXT, length=1 << 40, width=8, key=KEY), 1009),
    "the announcement of everything": (made(TEXT, length=(1 << 64) - 1, width=8, key=KEY), 1009),
    "frames over the limit in sum": (
        made(TEXT, b"x" * LIMIT, fin=False, key=KEY) + made(CONTINUATION, b"x", key=KEY),
        1009,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_who_breaks_the_protocol_is_told_with_a_code_and_the_others_go_on(name: str) -> None:
    data, code = BROKEN[name]
    with hosting(served=False, limits=Limits(message_size=LIMIT)) as (host, hall), guest(host) as client:
        channel, sink = hall.next(), Collector()
        channel.start(sink)
        client.sock.sendall(made(TEXT, EMPTY, key=KEY) + data)
        with within(NOW):
            assert client.closed() == code
            error = sink.end()
        assert sink.next() == Notification("x")  # what came before it counts
        assert isinstance(error, MessageTooLarge if code == 1009 else RemoteProtocolError)
        assert error.details["code"] == code
        with guest(host) as other:
            hall.next().start(Collector())
            assert other.bid_farewell(4000) == 4000


def test_a_tib_that_is_announced_and_sent_as_fast_as_possible_costs_no_memory() -> None:
    with hosting() as (host, _), guest(host) as client, growing_less_than(40), within(NOW):
        try:
            client.send(TEXT, length=1 << 40, width=8)
            while True:
                client.sock.sendall(b"x" * 65536)
        except ConnectionError:
            pass


def test_a_message_in_a_hundred_thousand_pieces_is_one_message_and_pings_may_come_between() -> None:
    with hosting() as (host, _), guest(host) as client:
        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"text": "x" * 100_000}}).encode()
        pieces = [made(CONTINUATION, request[at : at + 1], fin=False, key=KEY) for at in range(1, len(request))]
        pieces.insert(500, made(PING, b"there?", key=KEY))
        with growing_less_than(60):
            client.sock.sendall(made(TEXT, request[:1], fin=False, key=KEY) + b"".join(pieces))
            client.send(CONTINUATION)
            assert client.frame() == (0x8A, b"there?")
            assert client.message()["result"] == {"text": "x" * 100_000}
        client.bid_farewell()


def test_texts_that_are_no_messages_arrive_as_such_and_the_connection_lives() -> None:
    texts = (b"", b"{", b"[]", b"null", b'{"jsonrpc":"2.0"}', b'{"a":' * 2000)
    with hosting(served=False) as (host, hall), guest(host) as client:
        sink = Collector()
        hall.next().start(sink)
        for text in (*texts, EMPTY):
            client.send(TEXT, text)
        assert all(isinstance(sink.next(), Malformed) for _ in texts)
        assert sink.next() == Notification("x")
        client.bid_farewell()


def test_a_ping_is_answered_and_of_many_the_newest() -> None:
    with hosting() as (host, _), guest(host) as client:
        client.send(PING, b"one")
        assert client.frame() == (0x8A, b"one")
        client.sock.sendall(b"".join(made(PING, str(n).encode(), key=KEY) for n in range(500)))
        last = b""
        while last != b"499":
            frame = client.frame()
            assert frame is not None
            assert frame[0] == 0x8A
            last = frame[1]
        client.send(PONG, b"unasked")
        client.echo()
        client.bid_farewell()


@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_of_pings_ends_the_connection_and_costs_nothing(reads: bool) -> None:
    with hosting() as (host, _), guest(host) as client, guest(host) as other:
        flood = b"".join(made(PING, b"x" * 125, key=KEY) for _ in range(5000))
        with growing_less_than(40), within(2 * NOW):
            try:
                for _ in range(100):
                    client.sock.sendall(flood)
            except ConnectionError:
                pass
            assert client.ended() if not reads else client.closed() in (0, 1008)
        other.echo()
        other.bid_farewell()


def test_compression_is_agreed_on_and_only_what_is_worth_it_is_compressed() -> None:
    offer = {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}
    with hosting(compression_threshold=1000) as (host, _), guest(host) as plain, RawClient(port_of(host)) as client:
        answer = client.upgrade(**offer)["sec-websocket-extensions"]
        assert "server_no_context_takeover" in answer
        assert "client_no_context_takeover" in answer
        firsts = []
        for one, size in ((client, 10), (client, 5000), (plain, 5000)):
            one.say(id=1, method="echo", params={"text": "x" * size})
            frame = one.frame()
            assert frame is not None
            firsts.append(frame[0])
        plain.bid_farewell()
        client.bid_farewell()
        assert firsts == [0x81, 0xC1, 0x81]
    with hosting(compression_threshold=None) as (host, _), RawClient(port_of(host)) as client:
        assert "sec-websocket-extensions" not in client.upgrade(**offer)
        client.bid_farewell()


def test_a_bomb_is_refused_before_it_bursts() -> None:
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(packer.compress(b"x" * (1 << 20)) for _ in range(100)) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 1 << 20
    with hosting(limits=Limits(message_size=1 << 20)) as (host, _), RawClient(port_of(host)) as client:
        client.upgrade(Sec_WebSocket_Extensions="permessage-deflate")
        with growing_less_than(40), within(NOW):
            client.send(TEXT, bomb, rsv=4)
            assert client.closed() == 1009


def test_the_largest_message_goes_there_and_back_in_bounded_memory() -> None:
    limit = 16 << 20
    with hosting() as (host, _), WebSocketTransport(host.url).create_session() as session:
        text = "x" * (limit - 1000)
        with growing_less_than(16 * 16):  # both ends, the Partner's own copies, and the JSON
            assert session.send_request("echo", {"text": text})["text"] == text


# -- who does not read, or is not there --------------------------------------------------------------------------------


def filled(channel: Channel, timeout: float = 0.2) -> int:
    """Send to a client that does not read until that fails; return how many messages will arrive, if it reads on."""
    message = Notification("words", {"text": "x" * 100_000})
    for number in range(1000):
        try:
            channel.send(message, Deadline(timeout))
        except MCPTimeoutError as error:
            return number + (error.may_have_run is None)
    raise AssertionError("100 MB were sent to somebody who does not read")


def test_what_was_left_half_written_goes_on_when_the_client_reads_again_though_nobody_writes() -> None:
    with hosting(served=False) as (host, hall), guest(host) as client:
        channel = hall.next()
        channel.start(Collector())
        words = filled(channel)
        for _ in range(words):
            assert client.message()["method"] == "words"
        until(lambda: not channel._pipe._line.blocked, PATIENCE)
        channel.send(Notification("more"), Deadline(PATIENCE))
        assert client.message()["method"] == "more"
        client.bid_farewell()


def test_a_client_that_takes_nothing_is_given_up_however_much_it_says() -> None:
    with hosting(served=False, ping_timeout=0.5) as (host, hall), guest(host) as client:
        channel, sink = hall.next(), Collector()
        channel.start(sink)
        filled(channel)
        began = time.monotonic()
        while not sink.ended:
            assert time.monotonic() - began < 3 * NOW
            try:
                client.send(TEXT, EMPTY)
            except ConnectionError:
                break
            sink._ended.wait(0.05)
        assert "reads nothing" in str(sink.end())


def test_a_client_that_asks_and_never_reads_costs_bounded_memory_and_the_others_nothing() -> None:
    def answer(incoming: Incoming) -> dict[str, Any]:
        return {"text": "x" * 200_000}

    handler, peers = Answering(answer), []

    def serve(channel: Channel) -> None:
        peers.append(Peer(channel, handler, Limits()))
        channel.start(peers[-1])

    host = WebSocketHost(serve, port=0)
    host.start()
    try:
        with guest(host) as deaf, guest(host) as other, growing_less_than(60):
            deaf.sock.settimeout(0.5)
            try:
                for number in range(20_000):
                    deaf.say(id=number, method="echo")
            except OSError:
                pass  # it is not read from any more, or was closed
            with within(NOW):
                other.say(id=1, method="echo")
                assert len(other.message()["result"]["text"]) == 200_000
            other.bid_farewell()
    finally:
        host.close(Deadline(PATIENCE))
        for peer in peers:
            peer.close(Deadline(PATIENCE))


def test_a_client_that_is_gone_without_a_word_is_found_out() -> None:
    """A process that is stopped keeps its connection, as does one behind a cable that was cut."""
    code = """
        import sys
        from websockets.sync.client import connect
        with connect(sys.argv[1]) as socket:
            for message in socket: pass
        """
    with hosting(served=False, ping_interval=0.3, ping_timeout=0.5) as (host, hall):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), host.url])
        try:
            channel, sink = hall.next(), Collector()
            channel.start(sink)
            threading.Event().wait(1.2)
            assert not sink.ended  # it answers pings
            os.kill(child.pid, signal.SIGSTOP)
            with within(NOW):
                assert "is silent" in str(sink.end())
        finally:
            child.kill()
            child.wait()


def test_a_client_that_dies_or_hangs_up_is_forgotten() -> None:
    with hosting() as (host, hall):
        for rudely in (False, True):
            with guest(host) as client:
                client.echo()
                if rudely:
                    client.vanish()
            until(lambda: host.connections == 0, PATIENCE)
        until(lambda: not host._channels, PATIENCE)
        assert [channel.ending for channel in hall.channels] == [True, True]


def test_when_a_client_has_gone_the_threads_of_its_callbacks_go_too_long_before_they_would_retire() -> None:
    def callbacks() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.endswith(("-lane", "-events"))]

    with hosting(served=False) as (host, hall):
        with guest(host) as client:
            channel = hall.next()
            channel.start(Collector())
            for lane in (channel.lane, channel.events):
                lane.post(lambda: None)
            assert len(callbacks()) == 2
            client.bid_farewell()
        until(lambda: not callbacks(), 3 * NOW)


def test_its_own_close_comes_back_to_a_client_and_then_the_end() -> None:
    with hosting() as (host, _):
        for code in (1000, 1001, 3000, 4999):
            with guest(host) as client, within(NOW):
                assert client.bid_farewell(code) == code
        with guest(host) as client:
            client.send(CLOSE)
            assert client.closed() == 1005


# -- the end -----------------------------------------------------------------------------------------------------------


def test_closing_tells_everybody_that_we_are_going_away() -> None:
    with hosting() as (host, _), ExitStack() as stack:
        clients = [stack.enter_context(guest(host)) for _ in range(20)]
        codes = Background(lambda: [_polite(client) for client in clients])
        with within(NOW):
            host.close(Deadline(PATIENCE))
        assert codes.result() == [1001] * 20
        assert (host.connections, host._channels) == (0, {})
        with pytest.raises(ConnectionRefusedError):
            RawClient(port_of(host))


def _polite(client: RawClient) -> int:
    frame = client.frame()
    assert frame is not None
    assert frame[0] == 0x88
    client.send(CLOSE, frame[1])
    assert client.frame() is None
    return int.from_bytes(frame[1][:2], "big")


def test_closing_ends_though_clients_are_in_every_state() -> None:
    held = threading.Event()

    class Holding:
        def authenticate(self, headers: Any) -> str | None:
            if "x-slow" in headers:
                held.wait(PATIENCE)
            return "somebody"

    with hosting(authenticator=Holding()) as (host, hall), ExitStack() as stack:
        clients = {
            name: stack.enter_context(RawClient(port_of(host))) for name in ("silent", "half", "held", "refused")
        }
        clients["half"].sock.sendall(b"GET /mcp HTTP/1.1\r\nHost:")
        clients["held"].sock.sendall(clients["held"].head(X_Slow="1"))
        clients["refused"].sock.sendall(clients["refused"].head(path="/"))
        deaf, chatty, half = (stack.enter_context(guest(host)) for _ in range(3))
        deaf.say(id=1, method="oversize", params={"size": 15_000_000})
        half.send(TEXT, b"x", fin=False)
        half.sock.sendall(b"\x81\xfe")
        over = threading.Event()

        def chat() -> None:
            try:
                while not over.is_set():
                    chatty.send(TEXT, EMPTY)
            except OSError:
                pass

        chatting = Background(chat)
        until(lambda: host.connections == 3, PATIENCE)
        threading.Timer(0.3, held.set).start()
        with within(2 * NOW):
            host.close(Deadline(PATIENCE))
        over.set()
        chatting.result()
        assert host._channels == {}
        assert all(client.ended(NOW) for client in clients.values())


def test_eight_threads_may_close_it_at_once_and_for_each_it_is_over() -> None:
    with hosting() as (host, _), guest(host) as client:
        client.echo()

        def close(_: int) -> list[str]:
            host.close(Deadline(PATIENCE))
            ours = f"mcp-websocket-{port_of(host)}-"
            return [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)]

        with within(NOW):
            assert in_threads(8, close) == [[]] * 8


def test_it_may_be_closed_by_the_very_thread_that_serves_or_delivers() -> None:
    closed = threading.Event()

    class Closing(Collector):
        def received(self, message: object) -> None:
            host.close(Deadline(1.0))
            closed.set()

    with hosting(served=False) as (host, hall), guest(host) as client:
        hall.next().start(Closing())
        client.send(TEXT, EMPTY)
        assert closed.wait(PATIENCE)


def test_a_host_can_be_started_once_and_not_after_it_was_closed() -> None:
    with hosting() as (host, _), pytest.raises(RuntimeError):
        host.start()
    unused = WebSocketHost(lambda channel: None)
    unused.close(Deadline(1.0))
    with pytest.raises(RuntimeError):
        unused.start()


def test_a_port_that_is_taken_is_an_error_and_nothing_is_left() -> None:
    with hosting() as (host, _):
        second = WebSocketHost(lambda channel: None, port=port_of(host))
        with pytest.raises(OSError, match="in use"):
            second.run()
        assert second.over


def test_a_server_that_cannot_serve_a_channel_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    def serve(channel: Channel) -> None:
        raise MemoryError("no more")

    host = WebSocketHost(serve, port=0)
    host.start()
    try:
        with guest(host) as client:
            assert client.closed() == 1001
        assert "could not be served" in caplog.text
        until(lambda: host.connections == 0, PATIENCE)
    finally:
        host.close(Deadline(PATIENCE))


def test_run_serves_on_the_calling_thread_until_it_is_closed() -> None:
    host = WebSocketHost(lambda channel: channel.start(Collector()), port=0)
    running = Background(host.run)
    until(lambda: port_of(host), PATIENCE)
    with guest(host) as client:
        client.send(PING, b"x")
        assert client.frame() == (0x8A, b"x")
        assert running.thread.is_alive()
        host.close(Deadline(PATIENCE))
        running.result()


PROGRAM = """
    import os, signal, sys, threading
    from mcp_sync.server.websocket import WebSocketHost
    from mcp_sync.testing.tools import Collector, PartnerServer

    host = WebSocketHost(lambda channel: channel.start(Collector()), port=0)
    """


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[str]]:
    """Give a program that makes a host; the rest of it is given. It does not outlive the block."""
    whole = textwrap.dedent(PROGRAM) + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    child = subprocess.Popen(
        [sys.executable, "-c", whole],
        text=True,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def test_ctrl_c_ends_run_and_says_goodbye() -> None:
    code = """
        def tell():
            while ":0/" in host.url:
                host._over.wait(0.01)
            print(host.url, flush=True)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
        threading.Thread(target=tell, daemon=True).start()
        try:
            host.run()
        except KeyboardInterrupt:
            print([thread.name for thread in threading.enumerate() if thread.name.startswith("mcp-websocket")])
        """
    with program(code) as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        with connect(url) as client:
            child.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosed) as found:
                client.recv(timeout=PATIENCE)
            assert found.value.rcvd is not None
            assert found.value.rcvd.code == 1001
        said, errors = child.communicate(timeout=PATIENCE)
        assert (child.returncode, said.strip(), errors) == (0, "[]", "")


def test_a_program_that_forgets_to_close_ends_and_says_goodbye() -> None:
    code = """
        host.start()
        print(host.url, flush=True)
        sys.stdin.readline()
        """
    with program(code) as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        with connect(url) as client, within(2 * NOW):
            _, errors = child.communicate("\n", timeout=PATIENCE)
            assert (child.returncode, errors) == (0, "")
            with pytest.raises(ConnectionClosed) as found:
                client.recv(timeout=PATIENCE)
            assert found.value.rcvd is not None
            assert found.value.rcvd.code == 1001


def test_a_forked_child_has_nothing_of_the_parents_and_hurts_nothing() -> None:
    code = """
        from mcp_sync import WebSocketTransport

        host = WebSocketHost(PartnerServer().serve, port=0)
        host.start()
        session = WebSocketTransport(host.url).create_session()
        child = os.fork()
        if not child:
            os.close(0)
            links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd") if int(name) > 2]
            found = [os.readlink(link) for link in links if os.path.lexists(link)]
            print([one for one in found if "socket" in one or "event" in one], host.over, flush=True)
            from mcp_sync.deadlines import Deadline
            host.close(Deadline(1.0))
            os._exit(0)
        os.waitpid(child, 0)
        print(session.send_request("echo", {"a": 1}), flush=True)
        session.close()
        """
    with program(code) as child:
        said, errors = child.communicate("\n", timeout=PATIENCE)
        assert said.splitlines() == ["[] True", "{'a': 1}"], errors


# -- what it is made with ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "error", "word"),
    [
        ({"path": "mcp"}, ValueError, "path"),
        ({"path": "/mcp?x"}, ValueError, "path"),
        ({"path": None}, TypeError, "path"),
        ({"port": 70_000}, ValueError, "port"),
        ({"port": "80"}, TypeError, "port"),
        ({"max_connections": 0}, ValueError, "max_connections"),
        ({"ping_interval": 0}, ValueError, "ping_interval"),
        ({"ping_timeout": "1"}, TypeError, "ping_timeout"),
        ({"compression_threshold": -1}, ValueError, "compression_threshold"),
        ({"ssl_context": True}, TypeError, "ssl_context"),
        ({"ssl_context": client_context()}, ValueError, "client"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(knobs: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        WebSocketHost(lambda channel: None, **knobs)


def test_its_url_says_where_to_connect_to() -> None:
    def url(**knobs: Any) -> str:
        return WebSocketHost(lambda channel: None, **knobs).url

    assert url() == "ws://127.0.0.1:8765/mcp"
    assert url(host="::1", port=1, path="/") == "ws://[::1]:1/"
    assert url(host="localhost", ssl_context=server_context()) == "wss://localhost:8765/mcp"


def test_without_the_library_the_extra_is_named_and_importing_needs_it_not() -> None:
    code = """
        import sys
        sys.modules["websockets"] = None
        from mcp_sync.server.websocket import WebSocketHost
        try:
            WebSocketHost(print)
        except ImportError as error:
            print(error.name, error)
        """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env)
    assert "mcp-sync-transports[server]" in done.stdout, done.stderr
    assert done.stdout.startswith("websockets ")


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_it_listens_on_ipv6_too() -> None:
    host = WebSocketHost(lambda channel: channel.start(Collector()), "::1", 0)
    try:
        host.start()
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")
    try:
        with connect(host.url) as client:
            assert client.ping().wait(PATIENCE)
    finally:
        host.close(Deadline(PATIENCE))


# -- clients of others, and our own ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("compression", [False, True])
def test_our_own_client_talks_to_it(tls: bool, compression: bool) -> None:
    knobs = {"ssl_context": client_context()} if tls else {}
    with hosting(ssl_context=server_context() if tls else None) as (host, _):
        transport = WebSocketTransport(host.url, enable_compression=compression, compression_threshold=0, **knobs)
        with transport.create_session() as session:
            for size in (0, 1, 125, 126, 65_535, 65_536, 2_000_000):
                text = ("grüße " * (size // 6 + 1))[:size]
                assert session.send_request("echo", {"text": text}) == {"text": text}
            answers = in_threads(16, lambda n: [session.send_request("echo", {"n": n * k})["n"] for k in range(20)])
            assert answers == [[n * k for k in range(20)] for n in range(16)]


def test_our_own_client_is_told_why_it_is_not_let_in_and_why_it_has_to_go() -> None:
    with hosting(authenticator=BearerTokenAuth("right"), max_connections=1) as (host, _):
        with pytest.raises(AuthError) as found:
            WebSocketTransport(host.url, auth_header="Bearer wrong").create_session()
        assert found.value.status == 401
        with WebSocketTransport(host.url, auth_header="Bearer right").create_session() as session:
            with pytest.raises(ServerError) as busy:
                WebSocketTransport(host.url, auth_header="Bearer right", max_retries=0).create_session()
            assert (busy.value.status, busy.value.retry_after) == (503, 5)
            host.close(Deadline(PATIENCE))
            with pytest.raises(MCPConnectionError) as end:
                next(session.listen())
            assert isinstance(end.value, ClosedByServer)
            assert end.value.code == 1001


def test_our_own_client_and_it_ping_each_other() -> None:
    with hosting(ping_interval=0.1, ping_timeout=1.0) as (host, _):
        transport = WebSocketTransport(host.url, ping_interval=0.07, ping_timeout=1.0)
        with transport.create_session() as session:
            threading.Event().wait(0.6)
            assert session.send_request("echo", {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("tls", [False, True])
def test_websocket_client_talks_to_it(tls: bool) -> None:
    with hosting(ssl_context=server_context() if tls else None) as (host, _):
        options = {"sslopt": {"context": client_context()}} if tls else {}
        client = websocket.create_connection(host.url, subprotocols=["mcp"], timeout=PATIENCE, **options)
        try:
            assert client.getsubprotocol() == "mcp"
            for text in ("", "x", "grüße" * 50_000):
                client.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"text": text}}))
                assert json.loads(client.recv())["result"] == {"text": text}
            client.ping("there?")
            assert client.recv_data_frame(control_frame=True)[1].data == b"there?"
        finally:
            client.close()


def test_the_client_of_websockets_talks_to_it_compressed() -> None:
    with hosting(compression_threshold=0) as (host, _), connect(host.url, subprotocols=["mcp"]) as client:
        assert (client.subprotocol, [one.name for one in client.protocol.extensions]) == ("mcp", ["permessage-deflate"])
        for text in ("", "x", "grüße" * 50_000):
            request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"text": text}})
            client.send([request[:5], request[5:]])
            assert json.loads(client.recv(timeout=PATIENCE))["result"] == {"text": text}
        assert client.ping().wait(PATIENCE)


NODES = {"ws": ("node", lambda: install._stamp("node")[1]), "global": ("conformance", lambda: install.conformance()[0])}


@pytest.mark.interop
@pytest.mark.parametrize("kind", NODES)
def test_clients_on_node_talk_to_it(kind: str) -> None:
    environment, program = NODES[kind]
    install.demand(environment)
    env = {**os.environ, "NODE_PATH": os.path.join(install.VENVS, "node", "node_modules")}
    script = Path(install.HERE) / "ws_client.cjs"
    with hosting() as (host, hall):
        done = subprocess.run(
            [program(), str(script), kind, host.url], env=env, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        sizes = [0, 1, 125, 126, 65_535, 65_536, 2_000_000]
        assert told == {"protocol": "mcp", "deflate": True, "sizes": sizes, "news": 100, "closed": 1000}
        until(lambda: host.connections == 0, PATIENCE)
        assert "permessage-deflate" in hall.next().headers["sec-websocket-extensions"]


# -- many of them ------------------------------------------------------------------------------------------------------


def test_clients_come_and_go_by_the_hundred_and_nothing_is_left() -> None:
    with hosting(served=False) as (host, hall):

        def come_and_go(number: int) -> int:
            with guest(host) as client:
                hall.next().start(Collector())
                if number % 3 == 0:
                    client.vanish()
                elif number % 3 == 1:
                    return client.bid_farewell()
                return 0

        for _ in range(10):
            in_threads(20, come_and_go)
        until(lambda: host.connections == 0 and not host._channels, PATIENCE)
        assert not [thread for thread in threading.enumerate() if thread.name.endswith("-reader")]


def test_who_answers_pings_is_kept_for_as_long_as_it_likes() -> None:
    with hosting(served=False, ping_interval=0.5, ping_timeout=0.5) as (host, hall), ExitStack() as stack:
        clients = [stack.enter_context(guest(host)) for _ in range(100)]
        sinks = [Collector() for _ in clients]
        for sink in sinks:
            hall.next().start(sink)
        answering = select.epoll()
        stack.callback(answering.close)
        by_number = {client.sock.fileno(): client for client in clients}
        for number in by_number:
            answering.register(number, select.EPOLLIN)
        pings, ends = 0, time.monotonic() + 2.2
        while time.monotonic() < ends:
            for number, _ in answering.poll(0.1):
                frame = by_number[number].frame()
                assert frame is not None
                by_number[number].send(PONG, frame[1])
                pings += 1
        assert pings > 200
        assert [sink.ends for sink in sinks if sink.ended] == []


@pytest.mark.slow
@pytest.mark.alone
def test_a_thousand_idle_clients_cost_a_thread_each_and_a_hundred_kilobytes_and_are_asked_and_closed() -> None:
    code = """
        host.start()
        print(host.url, flush=True)
        sys.stdin.readline()
        resident = int(open("/proc/self/statm").read().split()[1]) * 4
        print(host.connections, threading.active_count(), len(os.listdir("/proc/self/fd")), resident, flush=True)
        sys.stdin.readline()
        from mcp_sync.deadlines import Deadline
        host.close(Deadline(5))
        print(host.connections, flush=True)
        """
    with program(code) as child, ExitStack() as stack:
        assert child.stdout is not None
        assert child.stdin is not None
        port = int(child.stdout.readline().rpartition(":")[2].partition("/")[0])

        def look() -> list[int]:
            assert child.stdout is not None
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
            return [int(word) for word in child.stdout.readline().split()]

        for _ in range(1000):
            client = RawClient(port)
            stack.enter_context(client)
            client.upgrade()
        with RawClient(port) as next_one:
            assert next_one.ask(next_one.head())[0] == 503
        connections, threads, descriptors, _ = look()
        assert connections == 1000
        assert threads < 1000 + 20
        assert descriptors < 2 * 1000 + 50
        assert look() == [0]
