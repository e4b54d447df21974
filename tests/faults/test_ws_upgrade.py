"""What may come instead of a WebSocket: the error says what the server said, in time, and secrets stay here."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from faults.http_tls import client_context
from faults.http_tools import is_silent_about
from faults.tools import ERAS, PATIENCE, within, works
from faults.ws_server import TEXT, Exchange, Manner, Server, declines, header_of, made, sends, upgraded
from faults.ws_tools import CANARY, NOW, T, serving, unconnected

from mcp_sync import (
    AuthError,
    Client,
    HTTPStatusError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    RateLimited,
    RemoteProtocolError,
    ServerError,
    WebSocketTransport,
)
from mcp_sync.deadlines import Deadline

SECRETS = {"Authorization": f"Bearer {CANARY}", "X-Api-Key": CANARY}


@ERAS
def test_a_client_reaches_a_server_of_either_era(era: str) -> None:
    with serving(era) as (client, server):
        works(client)
        assert [tool.name for tool in client.list_tools()] == ["work"]
        request = server.requests[0].decode()
        assert request.startswith("GET /mcp HTTP/1.1\r\n")
        assert header_of(server.requests[0], "Host") == f"127.0.0.1:{server.port}"
        assert header_of(server.requests[0], "Sec-WebSocket-Protocol") == "mcp"
        assert header_of(server.requests[0], "User-Agent").startswith("mcp-sync/")
        assert "Origin" not in request
        assert "Sec-WebSocket-Extensions" not in request


def test_frames_that_come_right_behind_the_upgrade_are_not_lost() -> None:
    note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"early"}}'
    on = {"upgrade": lambda exchange: exchange.send(exchange.head + made(TEXT, note))}
    with Server(on=on) as server, WebSocketTransport(server.url) as transport:
        assert transport.receive_message(PATIENCE) == json.loads(note)
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert transport.receive_message(PATIENCE)["id"] == 1


# -- answers that are no upgrade ---------------------------------------------------------------------------------------

STATUSES = [
    (200, HTTPStatusError),
    (204, HTTPStatusError),
    (400, HTTPStatusError),
    (401, AuthError),
    (403, AuthError),
    (404, HTTPStatusError),
    (407, AuthError),
    (426, HTTPStatusError),
    (429, RateLimited),
    (500, ServerError),
    (503, ServerError),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_a_refusal_is_an_error_with_its_status_and_the_beginning_of_its_body(
    status: int, kind: type[HTTPStatusError]
) -> None:
    body = "no WebSockets here, \x1b[31mtry next door " + "x" * 10_000
    with unconnected(on={"upgrade": declines(status, body, "Content-Type: text/plain")}) as (client, server):
        with within(NOW), pytest.raises(kind) as found:
            client.connect()
        assert type(found.value) is kind
        assert found.value.status == found.value.details["status"] == status
        assert found.value.may_have_run is False
        assert "no WebSockets here" in found.value.details["body"]
        assert "no WebSockets here" in str(found.value)
        assert str(server.port) in str(found.value)
        assert len(str(found.value)) < 1000


def test_a_server_that_asks_for_patience_says_how_much() -> None:
    with unconnected(on={"upgrade": declines(429, "", "Retry-After: 7")}) as (client, _):
        with pytest.raises(RateLimited) as found:
            client.connect()
        assert found.value.retry_after == 7


def test_a_body_without_end_or_that_never_comes_is_not_waited_for() -> None:
    """B11: the library reads all that is announced."""

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 500 Oops\r\n\r\n")
        while True:
            exchange.send(b"sorry " * 1000)

    silent: Manner = sends(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000000000\r\n\r\nsor", then="hold")
    for manner in (endless, silent):
        with unconnected(on={"upgrade": manner}) as (client, _):
            with within(NOW), pytest.raises(ServerError) as found:
                client.connect()
            assert found.value.details["body"].startswith("sor")


NONSENSE: dict[str, bytes] = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x28",
    "a status that is no number": b"HTTP/1.1 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "HTTP/2": b"HTTP/2 101\r\n\r\n",
    "no Upgrade": b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: mcp\r\n\r\n",
    "only the status line": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 101 X\r\nUpgrade\r\nSec-WebSocket-Protocol: mcp\r\n\r\n",
    "a header that is no text": b"HTTP/1.1 101 X\r\nUpgrade: \xff\xfe\r\nSec-WebSocket-Protocol: mcp\r\n\r\n",
    "a head without end": b"HTTP/1.1 101 X\r\n" + b"X-A: b\r\n" * 20_000,
    "one endless header": b"HTTP/1.1 101 X\r\nX-A: " + b"b" * 200_000,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_called_that_at_once(name: str) -> None:
    with unconnected(on={"upgrade": sends(NONSENSE[name], then="hold")}) as (client, server):
        with within(NOW), pytest.raises(RemoteProtocolError) as found:
            client.connect()
        assert str(server.port) in str(found.value)
        assert found.value.details["phase"] == "connect"
        assert found.value.may_have_run is False


def answers(*headers: str, **about: Any) -> Manner:
    return lambda exchange: (
        exchange.send(upgraded(exchange.connection.request, *headers, **about)) or exchange.until_gone()
    )


@pytest.mark.parametrize(
    ("manner", "word"),
    [
        (answers(accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "no WebSocket"),
        (answers(accept="none"), "no WebSocket"),
        (answers(subprotocol="graphql-ws"), "graphql-ws"),
        (answers(subprotocol="mcp, other"), "subprotocol"),
        (answers(subprotocol=None), "subprotocols=()"),
        (answers("Sec-WebSocket-Extensions: permessage-deflate"), "extension"),
        (answers("Sec-WebSocket-Extensions: x-unknown; a=1"), "x-unknown"),
    ],
)
def test_what_was_not_asked_for_is_refused(manner: Manner, word: str) -> None:
    with unconnected(on={"upgrade": manner}) as (client, _):
        with within(NOW), pytest.raises(RemoteProtocolError) as found:
            client.connect()
        assert word in str(found.value)


def test_an_answer_to_the_offer_of_compression_that_makes_no_sense_is_refused() -> None:
    manner = answers("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=9")
    with unconnected(on={"upgrade": manner}, enable_compression=True) as (client, server):
        with within(NOW), pytest.raises(RemoteProtocolError) as found:
            client.connect()
        assert "client_max_window_bits" in str(found.value)
        assert "permessage-deflate" in header_of(server.requests[0], "Sec-WebSocket-Extensions")


def test_without_subprotocols_none_is_asked_for_and_none_may_be_chosen() -> None:
    with serving(subprotocols=(), subprotocol=None) as (client, server):
        works(client)
        assert header_of(server.requests[0], "Sec-WebSocket-Protocol") == ""
    with unconnected(subprotocols=()) as (client, _):
        with pytest.raises(RemoteProtocolError) as found:
            client.connect()
        assert "'mcp'" in str(found.value)


def test_of_several_subprotocols_the_server_chooses() -> None:
    with serving(subprotocols=["mcp2", "mcp"]) as (client, server):
        works(client)
        assert header_of(server.requests[0], "Sec-WebSocket-Protocol").replace(" ", "") == "mcp2,mcp"


def test_provisional_answers_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    on = {"upgrade": lambda exchange: exchange.send(early + exchange.head)}
    with serving(on=on) as (client, _):
        works(client)


# -- in time -----------------------------------------------------------------------------------------------------------

SLOW: dict[str, tuple[str, Manner]] = {
    "a connection and no word": ("accept", lambda exchange: exchange.hold()),
    "no answer": ("upgrade", lambda exchange: exchange.hold()),
    "half a status line": ("upgrade", sends(b"HTTP/1.1 1", then="hold")),
    "half a head": ("upgrade", lambda exchange: exchange.send(exchange.head[:-4]) or exchange.hold()),
    "a head that drips": ("upgrade", lambda exchange: exchange.drip(exchange.head, 0.05)),
    "headers without end": (
        "upgrade",
        lambda exchange: exchange.drip(b"HTTP/1.1 101 X\r\n" + b"X-A: b\r\n" * 5000, 0.01, 8),
    ),
    "provisional answers without end": (
        "upgrade",
        lambda exchange: exchange.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, 0.001, 250),
    ),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("tls", [False, True])
def test_the_upgrade_is_bounded_as_a_whole(name: str, tls: bool) -> None:
    """B11, I1: the library's timeout is one of each read."""
    key, manner = SLOW[name]
    with unconnected(on={key: manner}, tls=tls, timeout=T) as (client, _):
        with within(T), pytest.raises(MCPTimeoutError) as found:
            client.connect()
        assert found.value.may_have_run is False
        assert found.value.details["phase"] == "connect"


def test_a_flood_instead_of_an_answer_is_bounded_as_well() -> None:
    def flood(exchange: Exchange) -> None:
        while True:
            exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with unconnected(on={"upgrade": flood}, timeout=T) as (client, _), within(T), pytest.raises(MCPTimeoutError):
        client.connect()


@pytest.mark.parametrize("key", ["accept", "upgrade"])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_server_that_hangs_up_is_a_connection_error(key: str, then: str) -> None:
    with unconnected(on={key: sends(then=then)}) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.connect()
        assert str(server.port) in str(found.value)
        assert found.value.may_have_run is False


def test_nobody_there_is_said_at_once() -> None:
    with Server() as server:
        port = server.port
    with within(NOW), pytest.raises(MCPConnectionError, match="nobody listens"):
        Client(f"ws://127.0.0.1:{port}").connect()


def test_a_host_that_nobody_knows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with within(NOW), pytest.raises(MCPConnectionError, match="is not known"):
        Client("ws://nowhere.invalid/mcp").connect()


def test_looking_up_a_host_is_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        over.wait(PATIENCE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with within(T), pytest.raises(MCPTimeoutError):
            Client("ws://slow.invalid/mcp", timeout=T).connect()
    finally:
        over.set()


# -- redirects, secrets, cookies ---------------------------------------------------------------------------------------


def redirects(target: str, status: int = 302) -> Manner:
    return lambda exchange: declines(status, "", f"Location: {target.format(port=exchange.server.port)}")(exchange)


@pytest.mark.parametrize("scheme", ["ws", "http", "wss"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_server_is_not_followed_and_no_secret_goes_there(scheme: str, status: int) -> None:
    """B11, I11."""
    with Server() as evil:
        on = {"upgrade": redirects(f"{scheme}://127.0.0.1:{evil.port}/mcp", status)}
        with unconnected(on=on, headers=SECRETS) as (client, _):
            with within(NOW), pytest.raises(HTTPStatusError) as found:
                client.connect()
            assert found.value.status == status
            assert str(evil.port) in str(found.value)
            is_silent_about(CANARY, found.value)
        assert evil.accepted == 0


def test_an_allowed_origin_is_followed_without_credentials() -> None:
    with Server() as other:
        on = {"upgrade": redirects(other.url)}
        with serving(on=on, headers=SECRETS, allowed_origins=[other.origin.replace("ws", "http")]) as (client, server):
            works(client)
            assert (len(server.requests), len(other.requests)) == (1, 1)
            assert CANARY in server.requests[0].decode()
            assert CANARY not in other.requests[0].decode()


def test_a_redirect_on_the_same_origin_is_followed_with_credentials_a_few_times() -> None:
    with serving(on={"upgrade": [redirects("/there?a=1"), None]}, headers=SECRETS) as (client, server):
        works(client)
        assert server.requests[1].startswith(b"GET /there?a=1 HTTP/1.1\r\n")
        assert header_of(server.requests[1], "X-Api-Key") == CANARY
    with unconnected(on={"upgrade": redirects("/again")}) as (client, server):
        with within(NOW), pytest.raises(HTTPStatusError, match="max_redirects"):
            client.connect()
        assert len(server.requests) == 6
    with unconnected(on={"upgrade": redirects("/again")}, max_redirects=0) as (client, server):
        with pytest.raises(HTTPStatusError):
            client.connect()
        assert len(server.requests) == 1


def test_a_redirect_never_leads_from_tls_into_the_clear() -> None:
    with Server() as plain:
        on = {"upgrade": redirects(plain.url)}
        with unconnected(on=on, tls=True, validate_origin=False) as (client, _), pytest.raises(HTTPStatusError):
            client.connect()
        assert plain.accepted == 0


def test_cookies_of_one_connection_are_not_sent_on_another() -> None:
    """B13: the library's cookie jar is one for the whole process."""
    import websocket

    cookie = f"Set-Cookie: a={CANARY}; Domain=127.0.0.1"
    on = {"upgrade": lambda exchange: exchange.send(upgraded(exchange.connection.request, cookie))}
    with serving(on=on) as (client, server):
        works(client)
        with Client(server.url) as again:
            works(again)
        theirs = websocket.create_connection(server.url, subprotocols=["mcp"])  # which fills the jar
        theirs.close()
        theirs = websocket.create_connection(server.url, subprotocols=["mcp"])
        theirs.close()
        with Client(server.url, headers={"Cookie": "mine=1"}) as third:
            works(third)
        assert [header_of(request, "Cookie") for request in server.requests] == ["", "", "", f"a={CANARY}", "mine=1"]


def test_what_is_refused_shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """I12."""
    caplog.set_level(logging.DEBUG)
    url = f"ws://user:{CANARY}@127.0.0.1:{{port}}/mcp?token={CANARY}#{CANARY}"
    for manner in (declines(401, "who?"), sends(b"SSH"), answers(subprotocol="x"), redirects("/a")):
        with unconnected(on={"upgrade": manner}, url=url, headers={"X-Api-Key": CANARY}) as (client, server):
            with pytest.raises(MCPError) as found:
                client.connect()
            is_silent_about(CANARY, found.value, client)
            assert f"?token={CANARY} HTTP" in server.requests[0].decode()
            basic = header_of(server.requests[0], "Authorization").removeprefix("Basic ")
            assert base64.b64decode(basic).decode() == f"user:{CANARY}"
    is_silent_about(CANARY, caplog.text)


def test_new_credentials_are_fetched_once_when_the_server_wants_others() -> None:
    class Provider:
        tokens = ["older", "old", "new"]

        def headers(self) -> dict[str, str]:
            return {"Authorization": f"Bearer {self.tokens[0]}"}

        def refresh(self) -> bool:
            del self.tokens[0]
            return True

    with serving(on={"upgrade": [declines(401), None]}, auth_provider=Provider()) as (client, server):
        works(client)
        assert [header_of(one, "Authorization") for one in server.requests] == ["Bearer older", "Bearer old"]
    with unconnected(on={"upgrade": declines(401)}, auth_provider=Provider()) as (client, server):
        with pytest.raises(AuthError):
            client.connect()
        assert len(server.requests) == 2


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_over_tls_everything_works_with_a_context_or_the_authority(tmp_path: Any) -> None:
    from faults.http_tls import authority_file

    with serving(tls=True) as (client, _):
        works(client)
    with serving(tls=True, verify_ssl=authority_file(tmp_path)) as (client, _):
        works(client)
    with serving(tls=True, verify_ssl=False) as (client, _):
        works(client)


@pytest.mark.parametrize(("tls", "word"), [("expired", "expired"), ("elsewhere", "not valid"), ("here", "issuer")])
def test_a_certificate_that_cannot_be_trusted_is_an_error_that_says_why(tls: str, word: str) -> None:
    context = None if tls == "here" else client_context()
    with unconnected(tls=tls, ssl_context=context) as (client, _):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.connect()
        assert "certificate" in str(found.value)
        assert word in str(found.value)


def test_tls_with_a_server_that_speaks_none_is_said() -> None:
    on = {"accept": sends(b"HTTP/1.1 400 Bad Request\r\n\r\n", then="hold")}
    with unconnected(on=on, url="wss://127.0.0.1:{port}/mcp") as (client, _):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.connect()
        assert "does the server speak wss" in str(found.value)


@pytest.mark.parametrize("reply", [b"", b"\x16\x03\x03\x00"])
def test_tls_hands_that_are_not_shaken_end_at_the_deadline(reply: bytes) -> None:
    """B1, in the way of WebSocket."""
    on = {"accept": sends(reply, then="hold")}
    with unconnected(on=on, url="wss://127.0.0.1:{port}/mcp", timeout=T) as (client, _):
        with within(T), pytest.raises(MCPTimeoutError) as found:
            client.connect()
        assert "TLS" in str(found.value)


# -- proxies -----------------------------------------------------------------------------------------------------------


@contextmanager
def proxy(answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Iterator[tuple[int, list[bytes]]]:
    """Give the port of a proxy that leads on one connection, and the heads of what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += sock.recv(4096)
                asked.append(head)
                sock.sendall(answer)
                if b" 200 " not in answer:
                    return
                port = int(head.split(b" ")[1].rpartition(b":")[2])
                with socket.create_connection(("127.0.0.1", port)) as there:
                    back = threading.Thread(target=pass_on, args=(there, sock))
                    back.start()
                    pass_on(sock, there)
                    back.join(PATIENCE)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies, and a host that is no loopback to proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_of_the_environment_leads_on_where_that_is_asked_for(tls: bool, named: pytest.MonkeyPatch) -> None:
    scheme = "wss" if tls else "ws"
    url = f"{scheme}://server.test:{{port}}/mcp"
    with proxy() as (port, asked):
        named.setenv("https_proxy" if tls else "http_proxy", f"http://me:pw@127.0.0.1:{port}")
        knobs = {"verify_ssl": False} if tls else {}
        with serving(tls=tls, url=url, trust_env=True, headers=SECRETS, **knobs) as (client, server):
            works(client)
            assert asked[0].startswith(f"CONNECT server.test:{server.port} HTTP/1.1\r\n".encode())
            assert header_of(asked[0], "Proxy-Authorization") == "Basic " + base64.b64encode(b"me:pw").decode()
            assert CANARY.encode() not in asked[0]


def test_a_proxy_is_not_asked_unless_that_is_wanted_and_never_for_loopback(named: pytest.MonkeyPatch) -> None:
    """B13: the library would ask it."""
    with proxy() as (port, asked):
        named.setenv("http_proxy", f"http://127.0.0.1:{port}")
        for knobs in ({}, {"trust_env": True}):
            with serving(**knobs) as (client, _):
                works(client)
        assert asked == []


def test_a_proxy_that_does_not_lead_on_is_an_error_with_its_status(named: pytest.MonkeyPatch) -> None:
    with proxy(b"HTTP/1.1 407 Who?\r\nContent-Length: 5\r\n\r\nlogin") as (port, _):
        named.setenv("http_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(AuthError) as found:
            WebSocketTransport("ws://server.test/mcp", trust_env=True).dial(Deadline(PATIENCE))
        assert found.value.status == 407
        assert "proxy" in str(found.value)


def test_an_https_proxy_is_refused_for_what_it_is(named: pytest.MonkeyPatch) -> None:
    named.setenv("http_proxy", "https://127.0.0.1:1")
    with pytest.raises(MCPError, match="trust_env"):
        WebSocketTransport("ws://server.test/mcp", trust_env=True).dial(Deadline(PATIENCE))
