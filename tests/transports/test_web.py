"""Requests within bounds: cut in every phase, few at once, never astray; with sessions of the user's as they are."""

from __future__ import annotations

import contextlib
import gc
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from faults.http_server import Exchange as Hearing
from faults.http_server import Server, deaf_port, replies, silent
from faults.http_tls import authority_file, client_context
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool

from mcp_sync.deadlines import LONGEST_TIMEOUT, Deadline
from mcp_sync.exceptions import (
    HTTPStatusError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    RemoteProtocolError,
)
from mcp_sync.policies import Connections, Replies, Trust
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import PATIENCE, SLACK, Background
from mcp_sync.transports import web as web_module
from mcp_sync.transports.web import Adapter, Exchange, Reply, Web, tls_context

SECONDS = 0.2
BODY = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
LARGE = b" " * (8 << 20)
OK = replies(200, "hello", content_type="text/plain")


@contextmanager
def web_to(url: str, session: Any = None, context: Any = None, verify: Any = True, **policies: Any) -> Iterator[Web]:
    """Give a Web, closed afterwards; keywords are fields of its policies."""
    chosen = [
        kind(**{key: policies.pop(key) for key in tuple(policies) if key in kind.__dataclass_fields__})
        for kind in (Connections, Trust, Replies)
    ]
    assert not policies
    web = Web(url, *chosen, verify, None, context, session)
    try:
        yield web
    finally:
        web.close()


def post(web: Web, seconds: float | None = PATIENCE, body: bytes = BODY, url: str = "", **headers: str) -> Reply:
    exchange = web.exchange(None if seconds is None else Deadline(seconds))
    return web.send("POST", url or web.url, headers, body, exchange)


def whole(reply: Reply) -> bytes:
    """Read a body, and close the reply."""
    data = b""
    try:
        while piece := reply.read(1 << 16):
            data += piece
    finally:
        reply.close()
    return data


# -- what is used of urllib3 beyond its documentation -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (HTTPConnection, "_new_conn"),
        (HTTPSConnection, "_new_conn"),
        (HTTPConnectionPool, "_new_conn"),
        (HTTPConnectionPool, "_get_conn"),
        (HTTPConnectionPool, "_put_conn"),
        (HTTPAdapter, "build_connection_pool_key_attributes"),
        (HTTPAdapter, "cert_verify"),
        (urllib3.HTTPResponse, "read1"),
        (urllib3.HTTPResponse, "shutdown"),
    ],
)
def test_the_hooks_that_we_use_are_still_there(owner: type, name: str) -> None:
    assert callable(getattr(owner, name))


def test_urllib3_still_calls_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for kind, name in (
        (web_module._PlainWire, "_new_conn"),
        (web_module._PlainPool, "_get_conn"),
        (web_module._PlainPool, "_put_conn"),
    ):
        original = getattr(kind, name)

        def spy(self: Any, *args: Any, original: Any = original, name: str = name, **kwargs: Any) -> Any:
            called.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, spy)
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        assert whole(post(web)) == b"hello"
    assert called == ["_get_conn", "_new_conn", "_put_conn"]


def test_a_pool_still_has_its_queue_under_the_name_that_we_know() -> None:
    with HTTPConnectionPool("127.0.0.1", 9) as pool:
        assert pool.pool is not None
    assert pool.pool is None


# -- cut in every phase -----------------------------------------------------------------------------------------------


def drips_its_head(hearing: Hearing) -> None:
    hearing.send(b"HTTP/1.1 200 OK\r\n")
    hearing.drip(b"X-Slow: and slow\r\n" * 1000, 0.02, 4)


def stops_in_its_body(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, length=1000) + b"only this")
    hearing.hold()


def drips_its_body(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, length=1000))
    hearing.drip(b"x" * 1000, 0.02)


@contextmanager
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    over, original = threading.Event(), socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.test":
            over.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_NONAME, "gone")
        return original(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        yield "http://slow.test/mcp"
    finally:
        over.set()


@contextmanager
def unready(scheme: str) -> Iterator[str]:
    with deaf_port() as port:
        yield f"{scheme}://127.0.0.1:{port}/mcp"


@contextmanager
def listening_only(scheme: str) -> Iterator[str]:
    """Give a URL whose connections are made, but never served."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/mcp"


@contextmanager
def serving(manner: Any) -> Iterator[str]:
    with Server(on={"POST": manner}) as server:
        yield server.url


PHASES: dict[str, tuple[Callable[[], Any] | None, bool | None]] = {
    "looking up the host": (None, False),
    "connecting": (lambda: unready("http"), False),
    "shaking hands": (lambda: listening_only("https"), False),
    "sending": (lambda: listening_only("http"), None),
    "waiting for the head": (lambda: serving(silent), None),
    "reading the head": (lambda: serving(drips_its_head), None),
    "waiting for the body": (lambda: serving(stops_in_its_body), None),
    "reading the body": (lambda: serving(drips_its_body), None),
}


@pytest.fixture(params=PHASES)
def stuck(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, bool | None]]:
    """Give a URL where a POST gets as far as the phase and no further, and whether it may have run then."""
    place, may_have_run = PHASES[request.param]
    with place() if place is not None else hanging_resolver(monkeypatch) as url:
        yield url, may_have_run


def test_at_its_deadline_an_exchange_is_cut_in_whatever_phase(stuck: tuple[str, bool | None]) -> None:
    url, may_have_run = stuck
    with web_to(url) as web:
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError) as found:
            whole(post(web, SECONDS, LARGE))
        assert SECONDS * 0.9 < time.monotonic() - began < SECONDS + SLACK
        assert found.value.may_have_run is may_have_run
        assert found.value.details["phase"] == ("connect" if may_have_run is False else "wait")
        assert found.value.details["url"] == url


def test_from_another_thread_an_exchange_is_cut_in_whatever_phase(stuck: tuple[str, bool | None]) -> None:
    url, may_have_run = stuck
    with web_to(url) as web:
        exchange = web.exchange(Deadline(PATIENCE))
        work = Background(lambda: whole(web.send("POST", url, {}, LARGE, exchange)))
        time.sleep(SECONDS)  # to get there
        began = time.monotonic()
        exchange.cut()
        if "slow.test" in url:  # nothing can cut that: whoever waits for it waits until his deadline
            return
        error = work.error()
        assert time.monotonic() - began < SLACK
        assert isinstance(error, MCPConnectionError)
        assert "closed" in str(error)
        assert error.details["phase"] == "closed"
        assert error.may_have_run is may_have_run


def test_a_head_that_was_cut_at_the_deadline_is_no_head() -> None:
    """http.client takes the end of what there is for the blank line, and half a head for a whole one."""
    with Server(on={"POST": drips_its_head}) as server, web_to(server.url) as web:
        with pytest.raises(MCPTimeoutError) as found:
            post(web, SECONDS).close()
        assert found.value.may_have_run is None


def test_an_exchange_that_was_cut_before_it_began_sends_nothing() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        exchange = web.exchange(Deadline(PATIENCE))
        exchange.cut()
        with pytest.raises(MCPConnectionError) as found:
            web.send("POST", web.url, {}, BODY, exchange)
        assert found.value.may_have_run is False
        assert server.requests == []


def test_one_whose_deadline_has_passed_is_late_at_once() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError):
            whole(post(web, 0.0))
        assert time.monotonic() - began < SLACK


def test_cutting_it_twice_or_when_it_is_over_does_nothing() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        exchange = web.exchange(Deadline(PATIENCE))
        assert whole(web.send("POST", web.url, {}, BODY, exchange)) == b"hello"
        exchange.cut()
        exchange.cut("timeout")
        assert exchange.why == "closed"
        assert whole(post(web)) == b"hello"
        assert server.accepted == 1  # what it had was not its own any more


def test_an_exchange_that_is_unbound_outlives_its_deadline() -> None:
    def late(hearing: Hearing) -> None:
        hearing.send(hearing.head(200, length=5))
        hearing.pause(SECONDS * 2)
        hearing.send(b"hello")

    with Server(on={"POST": late}) as server, web_to(server.url) as web:
        reply = post(web, SECONDS)
        reply.exchange.unbound()
        assert reply.exchange.remaining == LONGEST_TIMEOUT
        assert whole(reply) == b"hello"


def test_an_exchange_without_a_deadline_waits_and_can_be_cut() -> None:
    with Server(on={"POST": silent}) as server, web_to(server.url) as web:
        exchange = web.exchange(None)
        work = Background(lambda: web.send("POST", web.url, {}, BODY, exchange))
        time.sleep(SECONDS)
        assert not exchange.late
        exchange.cut()
        assert isinstance(work.error(), MCPConnectionError)


def test_connection_timeout_bounds_connecting_and_nothing_else() -> None:
    with deaf_port() as port, web_to(f"http://127.0.0.1:{port}/", patience=SECONDS) as web:
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError, match="no connection in time"):
            post(web)
        assert time.monotonic() - began < SECONDS + SLACK

    def late(hearing: Hearing) -> None:
        hearing.pause(SECONDS)
        hearing.reply(200, "hello")

    with Server(on={"POST": late}) as server, web_to(server.url, patience=SECONDS / 2) as web:
        assert whole(post(web)) == b"hello"


# -- bodies -----------------------------------------------------------------------------------------------------------


def test_a_read_gives_what_there_is_and_never_more_than_was_asked_for() -> None:
    gate = threading.Event()

    def in_two(hearing: Hearing) -> None:
        hearing.send(hearing.head(200, length=10) + b"hello")
        gate.wait(PATIENCE)
        hearing.send(b"world")

    with Server(on={"POST": in_two}) as server, web_to(server.url) as web:
        reply = post(web)
        assert reply.read(3) == b"hel"
        assert reply.read(100) == b"lo"
        gate.set()
        assert whole(reply) == b"world"


@pytest.mark.parametrize(
    ("manner", "kind", "text"),
    [
        (replies(200, b"this is no gzip", "Content-Encoding: gzip"), RemoteProtocolError, "cannot be decompressed"),
        (lambda hearing: hearing.send(b"SMTP ready\r\n\r\n"), MCPConnectionError, "is no HTTP"),
        (lambda hearing: hearing.close(), MCPConnectionError, "closed the connection without a reply"),
        (lambda hearing: hearing.reset(), MCPConnectionError, "the connection to"),
        (
            lambda hearing: (hearing.send(hearing.head(200, length=10) + b"half"), hearing.close()),
            MCPConnectionError,
            "broke",
        ),
        (
            lambda hearing: hearing.send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
            RemoteProtocolError,
            "the head of the reply",
        ),
        (
            lambda hearing: hearing.send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
            RemoteProtocolError,
            "the head of the reply",
        ),
    ],
    ids=["no gzip", "no HTTP", "closes", "resets", "half a body", "many headers", "a long header"],
)
def test_what_goes_wrong_is_said_in_our_own_words(manner: Any, kind: type[MCPError], text: str) -> None:
    with Server(on={"POST": manner}) as server, web_to(server.url) as web:
        with pytest.raises(kind, match=text) as found:
            whole(post(web))
        assert type(found.value) is kind
        assert found.value.may_have_run is None
        assert server.url in str(found.value)


def test_a_reply_that_was_read_gives_its_connection_back_and_one_that_was_not_closes_it() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        for _ in range(5):
            assert whole(post(web)) == b"hello"
        assert server.accepted == 1
        server.on["POST"] = replies(200, LARGE)
        post(web).close()
        server.on["POST"] = OK
        assert whole(post(web)) == b"hello"
        assert server.accepted == 2


def test_closing_a_reply_twice_gives_back_once() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url, most=1) as web:
        reply = post(web)
        reply.close()
        reply.close()
        first = post(web)
        with pytest.raises(MCPTimeoutError):
            post(web, 0.05)
        first.close()


def test_draining_reads_on_to_an_end_that_is_about_to_come_and_waits_no_longer() -> None:
    def late(hearing: Hearing) -> None:
        hearing.send(hearing.head(200, "Transfer-Encoding: chunked"))
        hearing.chunk(b"answer")
        hearing.pause(0.001)
        hearing.chunk(b"")

    with Server(on={"POST": [late, silent_end, None]}) as server, web_to(server.url) as web:
        reply = post(web)
        assert reply.read(100) == b"answer"
        reply.drain(SECONDS, 1000)
        reply.close()
        reply = post(web)
        assert server.accepted == 1  # the first was read to its end in time
        assert reply.read(100) == b"answer"
        began = time.monotonic()
        reply.drain(0.02, 1000)
        reply.close()
        assert time.monotonic() - began < 0.02 + SLACK


def silent_end(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, "Transfer-Encoding: chunked"))
    hearing.chunk(b"answer")
    hearing.hold()


def test_after_a_drain_a_large_request_on_the_same_connection_has_all_its_time() -> None:
    """The time that a drain may take is nobody else's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        def serve() -> int:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1 << 16)
                peer.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
                time.sleep(SECONDS * 2)  # somebody who is slow to read
                size = 0
                while size < len(LARGE):
                    piece = peer.recv(1 << 20)
                    if not piece:
                        return size
                    size += len(piece)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                return size

        server = Background(serve)
        with web_to(url) as web:
            reply = post(web)
            reply.drain(0.02, 1000)
            reply.close()
            assert whole(post(web, body=LARGE)) == b"hello"
        assert server.result() >= len(LARGE)


def test_after_a_drain_the_next_reply_on_the_same_connection_has_all_its_time() -> None:
    def ends_late(hearing: Hearing) -> None:
        hearing.send(hearing.head(200, "Transfer-Encoding: chunked"))
        hearing.chunk(b"answer")
        hearing.pause(0.001)
        hearing.chunk(b"")

    def late(hearing: Hearing) -> None:
        hearing.pause(SECONDS)
        hearing.reply(200, "hello")

    with Server(on={"POST": [ends_late, late]}) as server, web_to(server.url) as web:
        reply = post(web)
        assert reply.read(100) == b"answer"
        reply.hurry(SECONDS / 2)
        with contextlib.suppress(MCPTimeoutError):
            assert reply.read(100) == b""
        reply.close()
        assert whole(post(web)) == b"hello"


# -- straight from the connection, or by urllib3 ----------------------------------------------------------------------


class Spied:
    """A socket whose every sending is noted."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)
        self.line.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.line, name)


def test_a_request_is_one_piece_unless_it_is_a_large_one() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        assert whole(post(web)) == b"hello"
        [wire] = [one for one in web._routes[web.url].pool.pool._items if one is not None]
        wire.sock = spied = Spied(wire.sock)
        assert whole(post(web)) == b"hello"
        assert len(spied.sent) == 1
        assert spied.sent[0].endswith(b"\r\n\r\n" + BODY)
        assert whole(post(web, body=LARGE)) == b"hello"
        assert [len(data) for data in spied.sent[2:]] == [len(LARGE)]
        assert server.accepted == 1


def in_chunks(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, "Transfer-Encoding: chunked"))
    hearing.chunk(b"hel")
    hearing.chunk(b"lo")
    hearing.chunk(b"")


def zipped(hearing: Hearing) -> None:
    body = gzip.compress(b"hello")
    hearing.send(hearing.head(200, "Content-Encoding: gzip", length=len(body)) + body)


def hinted(hearing: Hearing) -> None:
    hearing.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + hearing.head(200, length=5) + b"hello")


def in_pieces(hearing: Hearing) -> None:
    hearing.drip(hearing.head(200, length=5) + b"hello", 0.001, 7)


def old(hearing: Hearing) -> None:
    hearing.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")


@pytest.mark.parametrize("manner", [OK, in_chunks, zipped, hinted, in_pieces, old])
def test_after_a_whole_reply_of_whatever_form_its_connection_is_used_again(manner: Any) -> None:
    with Server(on={"POST": manner}) as server, web_to(server.url) as web:
        for _ in range(3):
            assert whole(post(web)) == b"hello"
        assert server.accepted == 1


def says_more(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, length=5) + b"hello" + hearing.head(200, length=4) + b"evil")


def says_more_in_chunks(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 evil\r\n")


def says_more_in_gzip(hearing: Hearing) -> None:
    body = gzip.compress(b"hello")
    hearing.send(hearing.head(200, "Content-Encoding: gzip", length=len(body)) + body + hearing.head(200, length=0))


def frames_twice(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, "Transfer-Encoding: chunked", length=3) + b"5\r\nhello\r\n0\r\n\r\n")


def tells_two_lengths(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, "Content-Length: 5", length=5) + b"hello")


def wants_to_close(hearing: Hearing) -> None:
    hearing.send(hearing.head(200, "Connection: close", length=5) + b"hello")


@pytest.mark.parametrize(
    "manner",
    [says_more, says_more_in_chunks, says_more_in_gzip, frames_twice, tells_two_lengths, wants_to_close],
)
def test_a_connection_whose_next_reply_could_be_another_one_is_not_used_again(manner: Any) -> None:
    with Server(on={"POST": manner}) as server, web_to(server.url) as web:
        for number in range(1, 4):
            assert whole(post(web)) == b"hello"
            assert server.accepted == number


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("coding", ["identity", "none"])
def test_what_comes_behind_a_long_body_is_no_reply_to_the_next_request(tls: bool, coding: str) -> None:
    """It is decrypted together with the end of the body, and then the system has nothing more to tell of."""
    long = b"x" * 20_000

    def smuggles(hearing: Hearing) -> None:
        coded = [] if coding == "none" else [f"Content-Encoding: {coding}"]  # that is for urllib3 to read
        hearing.send(hearing.head(200, *coded, length=len(long)) + long + hearing.head(200, length=4) + b"evil")

    with (
        Server(tls=tls, on={"POST": smuggles}) as server,
        web_to(server.url, context=client_context() if tls else None) as web,
    ):
        for number in range(1, 4):
            assert whole(post(web)) == long
            assert server.accepted == number


def test_a_body_that_breaks_off_is_an_error_and_its_connection_goes() -> None:
    def cut(hearing: Hearing) -> None:
        hearing.send(hearing.head(200, length=1000) + b"only this")
        hearing.close()

    with Server(on={"POST": [cut, OK]}) as server, web_to(server.url) as web:
        reply = post(web)
        assert reply.read(100) == b"only this"
        with pytest.raises(MCPConnectionError, match="broke"):
            reply.read(100)
        reply.close()
        assert whole(post(web)) == b"hello"
        assert server.accepted == 2


@pytest.mark.parametrize("body", [b"5\r\nhello!\r\n", b"zz\r\nhello", b"5\nhello\n0\n\n"])
def test_chunks_that_are_none_are_an_error_at_once(body: bytes) -> None:
    def broken(hearing: Hearing) -> None:
        hearing.send(hearing.head(200, "Transfer-Encoding: chunked") + body)
        hearing.hold()

    with Server(on={"POST": broken}) as server, web_to(server.url) as web:
        began = time.monotonic()
        with pytest.raises(MCPConnectionError, match="chunks"):
            whole(post(web))
        assert time.monotonic() - began < SLACK


def test_a_cookie_goes_back_to_the_server_that_set_it() -> None:
    with Server(on={"POST": replies(200, "hello", "Set-Cookie: cake=sweet")}) as server, web_to(server.url) as web:
        for _ in range(2):
            assert whole(post(web)) == b"hello"
        assert [one.headers.get("cookie") for one in server.requests] == [None, "cake=sweet"]
        assert server.accepted == 1


def test_headers_of_the_users_take_the_place_of_ours() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        assert whole(post(web)) == b"hello"
        said = {"user-agent": "mine", "host": "other.test", "content-length": "1", "transfer-encoding": "chunked"}
        assert whole(post(web, **said)) == b"hello"
        ours, mine = (one.headers for one in server.requests)
        assert (ours["host"], ours["content-length"]) == (f"127.0.0.1:{server.port}", str(len(BODY)))
        assert ours["user-agent"].startswith("mcp-sync/")
        assert (mine["host"], mine["user-agent"]) == ("other.test", "mine")
        assert (mine["content-length"], mine.get("transfer-encoding")) == (str(len(BODY)), None)
        assert server.requests[1].body == BODY


def test_a_header_that_would_be_two_is_not_sent() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        with pytest.raises(MCPConnectionError, match="cannot be sent") as found:
            post(web, **{"X-Name": "a\r\nX-Evil: c4nary"})
        assert found.value.may_have_run is False
        assert "c4nary" not in str(found.value) + str(found.value.details)
        assert server.requests == []


def test_of_many_urls_only_a_few_are_remembered() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url) as web:
        for number in range(web_module.ROUTES * 2 + 1):
            assert whole(post(web, url=f"{server.url}?n={number}")) == b"hello"
            assert len(web._routes) <= web_module.ROUTES
        assert server.accepted == 1
        assert server.requests[-1].target == f"/mcp?n={number}"


# -- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [307, 308])
def test_within_the_origin_a_redirect_that_keeps_the_method_is_followed(status: int) -> None:
    with (
        Server(on={"POST": [replies(status, "", "Location: ../mcp?again=1"), OK]}) as server,
        web_to(server.url) as web,
    ):
        assert whole(post(web, **{"X-Key": "kept"})) == b"hello"
        assert [(one.verb, one.target, one.body) for one in server.requests] == [
            ("POST", "/mcp", BODY),
            ("POST", "/mcp?again=1", BODY),
        ]
        assert server.requests[1].headers["x-key"] == "kept"


@pytest.mark.parametrize(
    ("status", "where"),
    [
        (301, "/mcp"),
        (302, "/mcp"),
        (303, "/mcp"),
        (307, "http://localhost:{port}/mcp"),
        (308, "https://127.0.0.1:{port}/mcp"),
        (307, "http://127.0.0.1:1/mcp"),
        (307, "//elsewhere.test/mcp"),
        (307, "ftp://127.0.0.1/mcp"),
        (307, "http://127.0.0.1:port/"),
    ],
)
def test_every_other_redirect_is_an_error_that_says_where_to(status: int, where: str) -> None:
    with Server() as server, web_to(server.url) as web:
        place = where.format(port=server.port)
        server.on["POST"] = replies(status, "", f"Location: {place}")
        with pytest.raises(HTTPStatusError, match="redirect") as found:
            post(web, Authorization="Bearer secret")
        assert (found.value.status, found.value.may_have_run) == (status, False)
        assert "location" in found.value.details
        assert len(server.requests) == 1


def test_a_redirect_with_a_password_is_not_shown() -> None:
    where = "Location: http://joe:c4nary@elsewhere.test/?token=c4nary"
    with Server(on={"POST": replies(307, "", where)}) as server, web_to(server.url) as web:
        with pytest.raises(HTTPStatusError) as found:
            post(web)
        assert "c4nary" not in str(found.value) + str(found.value.details)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_circle_ends_after_max_redirects(most: int) -> None:
    with (
        Server(on={"POST": replies(307, "", "Location: /mcp")}) as server,
        web_to(server.url, redirects=most, most=1) as web,
    ):
        with pytest.raises(HTTPStatusError, match=f"max_redirects={most}"):
            post(web)
        assert len(server.requests) == most + 1
        with pytest.raises(HTTPStatusError):  # the one slot there is was given back
            post(web)


def test_a_redirect_without_a_place_is_a_reply_as_any_other() -> None:
    with Server(on={"POST": replies(307, "nowhere")}) as server, web_to(server.url) as web:
        reply = post(web)
        assert (reply.status, reply.redirect, whole(reply)) == (307, None, b"nowhere")


# -- slots ------------------------------------------------------------------------------------------------------------


def test_who_comes_when_all_slots_are_taken_waits_until_his_deadline_and_has_sent_nothing() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url, most=2) as web:
        held = [post(web), post(web)]
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError, match="max_connections_per_host") as found:
            post(web, SECONDS)
        assert SECONDS * 0.9 < time.monotonic() - began < SECONDS + SLACK
        assert found.value.may_have_run is False
        waiting = Background(lambda: whole(post(web)))
        held[0].close()
        assert waiting.result() == b"hello"
        held[1].close()
        assert len(server.requests) == 3


def test_never_more_are_under_way_than_there_are_slots() -> None:
    under_way, most, lock = [0], [0], threading.Lock()

    def count(hearing: Hearing) -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        hearing.pause(0.01)
        with lock:
            under_way[0] -= 1
        hearing.reply(200, "hello")

    with Server(on={"POST": count}) as server, web_to(server.url, most=3) as web:
        assert in_threads(20, lambda _: whole(post(web))) == [b"hello"] * 20
        assert most[0] == 3


def test_an_exchange_that_stays_open_takes_no_slot() -> None:
    with Server(on={"POST": OK}) as server, web_to(server.url, most=1) as web:
        exchange = web.exchange(Deadline(PATIENCE))
        exchange.counted = False
        open_one = web.send("GET", web.url, {}, None, exchange)
        assert whole(post(web)) == b"hello"
        open_one.close()
        held = post(web)
        with pytest.raises(MCPTimeoutError):
            post(web, 0.05)
        held.close()


def test_a_request_that_fails_gives_its_slot_back() -> None:
    with Server(on={"POST": [lambda hearing: hearing.close(), OK]}) as server, web_to(server.url, most=1) as web:
        with pytest.raises(MCPConnectionError):
            post(web)
        assert whole(post(web, 1.0)) == b"hello"


# -- the end ----------------------------------------------------------------------------------------------------------


def test_closing_ends_idle_connections_without_waiting_for_the_garbage_collector() -> None:
    with Server(on={"POST": OK, "GET": silent_end}) as server:
        gc.disable()
        try:
            with web_to(server.url) as web:
                exchange = web.exchange(None)
                exchange.counted = False
                stream = web.send("GET", web.url, {}, None, exchange)  # so that not all of them are given back
                assert stream.read(100) == b"answer"
                assert whole(post(web)) == b"hello"
                exchange.cut()
                with pytest.raises(MCPError):
                    stream.read(100)
                stream.close()
            patience = Deadline(SLACK)
            while server.connected and not patience.expired:
                time.sleep(0.01)
            assert server.connected == 0
        finally:
            gc.enable()


# -- sessions of the user's -------------------------------------------------------------------------------------------


def snapshot(session: requests.Session) -> dict[str, Any]:
    known = {name: value for name, value in vars(session).items() if name != "adapters"}
    mappings = (dict, requests.structures.CaseInsensitiveDict)
    copies = {name: dict(value) for name, value in known.items() if isinstance(value, mappings)}
    return {
        **{name: id(value) for name, value in known.items()},
        "copies": copies,
        "cookies": sorted((cookie.name, cookie.value) for cookie in session.cookies),
        "adapters": [(prefix, id(adapter), dict(vars(adapter))) for prefix, adapter in session.adapters.items()],
    }


def test_a_plain_session_is_used_as_it_is_and_not_changed() -> None:
    seen: list[requests.Response] = []
    with requests.Session() as session, Server(on={"POST": OK}) as server:
        session.headers["X-Mine"] = "1"
        session.headers["Authorization"] = "overruled by auth"
        session.auth = ("joe", "pw")
        session.cookies.set("cake", "sweet")
        session.params = {"k": "v"}
        session.hooks["response"].append(lambda response, **_: seen.append(response))
        session.trust_env = False
        before = snapshot(session)
        with web_to(server.url, session=session) as web:
            assert whole(post(web, **{"X-Ours": "2"})) == b"hello"
            assert whole(post(web)) == b"hello"
        assert snapshot(session) == before
        request = server.requests[0]
        assert (request.headers["x-mine"], request.headers["x-ours"]) == ("1", "2")
        assert request.headers["authorization"].startswith("Basic ")
        assert request.headers["cookie"] == "cake=sweet"
        assert request.target == "/mcp?k=v"
        assert len(seen) == 2
        assert session.post(server.url).text == "hello"  # it is his, and goes on


def test_a_plain_session_is_cut_as_our_own_is() -> None:
    with requests.Session() as session, Server(on={"POST": silent}) as server:
        session.trust_env = False
        with web_to(server.url, session=session) as web:
            began = time.monotonic()
            with pytest.raises(MCPTimeoutError):
                post(web, SECONDS)
            assert time.monotonic() - began < SECONDS + SLACK


def test_a_plain_session_with_an_adapter_for_one_host_is_cut_as_well() -> None:
    with requests.Session() as session, Server(on={"POST": silent}) as server:
        session.trust_env = False
        session.mount(server.origin, HTTPAdapter())
        with web_to(server.url, session=session) as web:
            exchange = web.exchange(Deadline(SECONDS))
            work = Background(lambda: web.send("POST", web.url, {}, BODY, exchange))
            time.sleep(SECONDS + SLACK / 2)
            in_time = not work.thread.is_alive()
            server.hang_up(idle_only=False)
            assert in_time
            assert isinstance(work.error(), MCPTimeoutError)


def test_a_plain_session_follows_no_redirect() -> None:
    with requests.Session() as session, Server() as other, Server() as server:
        server.on["POST"] = replies(307, "", f"Location: {other.url}")
        with web_to(server.url, session=session) as web, pytest.raises(HTTPStatusError):
            post(web)
        assert other.requests == []


def test_the_certificates_of_a_plain_session_hold(tmp_path: Path) -> None:
    with requests.Session() as session, Server(tls=True, on={"POST": OK}) as server:
        session.trust_env = False
        with web_to(server.url, session=session) as web, pytest.raises(MCPConnectionError, match="cannot be trusted"):
            post(web)
        session.verify = str(authority_file(tmp_path))
        with web_to(server.url, session=session) as web:
            assert whole(post(web)) == b"hello"


class Counting(requests.Session):
    """A session of a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.sent = 0

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self.sent += 1
        return super().send(*args, **kwargs)


class Marked(HTTPAdapter):
    """An adapter of the user's."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.headers["X-Adapter"] = "mine"
        return super().send(request, *args, **kwargs)


def with_adapter() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", Marked())
    return session


def with_retries() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", HTTPAdapter(max_retries=1))
    return session


OTHERS = pytest.mark.parametrize("make", [Counting, with_adapter, with_retries])


@OTHERS
def test_any_other_session_sends_itself_and_is_not_changed(make: Any) -> None:
    with make() as session, Server(on={"POST": OK}) as server:
        before = snapshot(session)
        with web_to(server.url, session=session) as web:
            assert whole(post(web)) == b"hello"
        after = snapshot(session)
        if isinstance(session, Counting):
            assert session.sent == 1
            before["sent"] = after["sent"]
        assert {**after, "adapters": 0} == {**before, "adapters": 0}
        assert [one[:2] for one in after["adapters"]] == [one[:2] for one in before["adapters"]]
        assert not any(isinstance(adapter, Adapter) for adapter in session.adapters.values())
        assert ("x-adapter" in server.requests[0].headers) is (make is with_adapter)
        assert session.post(server.url).text == "hello"  # still open


@OTHERS
@pytest.mark.parametrize("manner", [silent, stops_in_its_body, drips_its_body])
def test_what_any_other_session_reads_is_bounded_all_the_same(make: Any, manner: Any) -> None:
    with make() as session, Server(on={"POST": manner}) as server, web_to(server.url, session=session) as web:
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError):
            whole(post(web, SECONDS))
        assert time.monotonic() - began < (2 if make is with_retries else 1) * SECONDS + SLACK


@OTHERS
def test_what_any_other_session_reads_can_be_cut(make: Any) -> None:
    with (
        make() as session,
        Server(on={"POST": stops_in_its_body}) as server,
        web_to(server.url, session=session) as web,
    ):
        reply = post(web)
        assert reply.read(100) == b"only this"
        work = Background(lambda: reply.read(100))
        time.sleep(0.05)
        reply.exchange.cut()
        assert isinstance(work.error(), MCPConnectionError)
        reply.close()


# -- TLS --------------------------------------------------------------------------------------------------------------


def test_the_context_of_the_same_files_is_the_same(tmp_path: Path) -> None:
    file = str(authority_file(tmp_path))
    assert tls_context(True, None) is tls_context(True, None)
    assert tls_context(file, None) is tls_context(file, None)
    contexts = {id(tls_context(verify, None)) for verify in (True, False, file, str(tmp_path))}
    assert len(contexts) == 4
    assert tls_context(True, None).verify_mode is ssl.CERT_REQUIRED
    assert tls_context(False, None).verify_mode is ssl.CERT_NONE


def test_a_context_of_the_users_is_used_itself() -> None:
    context = client_context()
    with Server(tls=True, on={"POST": OK}) as server:
        with web_to(server.url, context=context) as web:
            assert whole(post(web)) == b"hello"
        assert context.session_stats()["connect"] == 1
        with web_to(server.url) as web, pytest.raises(MCPConnectionError, match="cannot be trusted"):
            post(web)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_certificate_that_nobody_wants_to_see_is_not_looked_at() -> None:
    with Server(tls=True, on={"POST": OK}) as server, web_to(server.url, verify=False) as web:
        assert whole(post(web)) == b"hello"


def test_ours_and_the_users_adapters_verify_by_the_same_files(tmp_path: Path) -> None:
    file = str(authority_file(tmp_path))
    with Server(tls=True, on={"POST": OK}) as server, web_to(server.url, verify=file) as web:
        assert whole(post(web)) == b"hello"
        assert whole(post(web)) == b"hello"
        assert server.accepted == 1


def test_an_exchange_has_the_settings_of_its_web() -> None:
    with web_to("http://127.0.0.1:9/", nodelay=False, buffer=4096) as web:
        exchange = web.exchange(None)
        assert (exchange.settings.nodelay, exchange.replies.buffer) == (False, 4096)
    assert isinstance(Exchange(None).settings, Connections)
