"""Connections that break, and responses that are none: MCPConnectionError for that call, once, and life goes on."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults.http_server import EVENTS, JSON, Answer, Exchange, Manner, Server, late, replies, says, silent, streams
from faults.http_tls import authority_file, client_context
from faults.http_tools import (
    CANARY,
    NOW,
    chunks,
    closes,
    dressed,
    gzipped,
    never,
    resets,
    sends,
    serving,
    tells,
    unconnected,
)
from faults.tools import ERAS, PATIENCE, tool, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from mcp_sync.exceptions import HTTPStatusError, SessionExpired

HEAD = "HTTP/1.1 200 OK\r\n"
TYPED = HEAD + "Content-Type: application/json\r\n"
CHUNKED = "Transfer-Encoding: chunked"
WHOLE = '{"jsonrpc": "2.0", "id": $ID, "result": {"resultType": "complete", "content": []}}'


@pytest.fixture(autouse=True)
def no_tracebacks_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What urllib3 logs of headers that it cannot read holds frames, and these hold sockets."""
    caplog.set_level(logging.CRITICAL, "urllib3")


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def in_chunks(make: Callable[[bytes], bytes], then: str = "close") -> Manner:
    return sends(lambda exchange: exchange.head(200, CHUNKED) + make(exchange.body), then)


def packed(make: Callable[[bytes], bytes]) -> Manner:
    return sends(lambda exchange: dressed(exchange, make(exchange.body), "Content-Encoding: gzip"), "keep")


# What happens once the whole request has been read.
BROKEN: dict[str, Manner] = {
    "closed after the request": closes,
    "reset after the request": resets,
    "cut in the status line": says("HTTP/1.1 20"),
    "reset in the status line": says("HTTP/1.1 20", then="reset"),
    "cut after the status line": says(HEAD),
    "cut in a header": says(HEAD + "Content-Type: applica"),
    "cut between two headers": says(TYPED),
    "cut before the last header": says(TYPED + "X-Other: 1\r\n"),
    "cut in the head of a 404": says("HTTP/1.1 404 Not Found\r\nContent-Le"),
    "cut in the head of a 401": says("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bea"),
    "cut in where a redirect leads to": says("HTTP/1.1 307 Temporary Redirect\r\nLocation: /mcp?whe"),
    "cut before the body": sends(lambda exchange: dressed(exchange, b"", length=80)),
    "cut in a body of announced length": sends(
        lambda exchange: dressed(exchange, half(exchange.body), length=len(exchange.body))
    ),
    "reset in a body of announced length": sends(
        lambda exchange: dressed(exchange, half(exchange.body), length=len(exchange.body)), "reset"
    ),
    "cut in the last byte of the body": sends(lambda exchange: exchange.plain[:-1]),
    "cut in a body of no length": sends(lambda exchange: exchange.head(200) + half(exchange.body)),
    "cut in a chunk": in_chunks(lambda body: half(chunks(body))),
    "reset in a chunk": in_chunks(lambda body: half(chunks(body)), "reset"),
    "cut between two chunks": in_chunks(lambda body: chunks(half(body), end=b"")),
    "cut in the size of a chunk": in_chunks(lambda body: chunks(half(body), end=b"2")),
    "no chunk at all": in_chunks(lambda body: chunks(), "keep"),
    "a chunk size that is none": in_chunks(lambda body: b"zz\r\n" + body),
    "a negative chunk size": in_chunks(lambda body: b"-5\r\n" + body),
    "no line end after a chunk": in_chunks(lambda body: b"%x\r\n%s" % (len(half(body)), half(body)) + chunks(b"x")),
    "a chunk that says it has everything": in_chunks(lambda body: b"ffffffffffffffffff\r\n" + body),
    "a status line that is none": says("SSH-2.0-OpenSSH_9.2\r\n"),
    "a status that is no number": says("HTTP/1.1 two hundred\r\n\r\n"),
    "a status of four digits": says("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    "an answer without any head": says(WHOLE),
    "an answer of TLS": says(b"\x15\x03\x01\x00\x02\x02\x28"),
    "NUL bytes": says(b"\0" * 100),
    "an empty line and nothing else": says("\r\n"),
    "nothing but an interim answer": says("HTTP/1.1 100 Continue\r\n\r\n"),
    "an empty body": replies(200, b""),
    "an empty body of no length": sends(lambda exchange: exchange.head(200)),
    "cut gzip": packed(lambda body: half(gzipped(body))),
    "gzip of nothing": packed(lambda body: gzipped(b"")),
    "a stream of events that ends without the answer": streams(": hello\n\n", answer=False),
    "a stream of events that ends in the answer": streams("data: " + WHOLE[:50], answer=False),
    "a stream of events that ends before the answer's blank line": streams("data: " + WHOLE + "\n", answer=False),
    "a stream of events that is cut": streams("data: " + WHOLE[:50], then="reset", answer=False),
    "a stream of events of no length that is cut": streams("data: " + WHOLE[:50], chunked=False, answer=False),
    "a stream of events with no event": replies(200, b"", content_type=EVENTS),
}


@ERAS
@pytest.mark.parametrize("how", BROKEN)
def test_a_response_that_breaks_fails_its_call_at_once_and_is_not_asked_for_again(era: str, how: str) -> None:
    """I4, I5, I10, B6: MCPConnectionError, one POST, and the next call is fine."""
    with serving(era, on={"work": BROKEN[how]}) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        assert not isinstance(found.value, SessionExpired)
        assert found.value.may_have_run is not False
        tells(found.value, server)
        assert len(server.calls("work")) == 1
        works(client)
        assert len(server.calls("work")) == 1
        assert not server.posts("initialize")[1:]


@pytest.mark.parametrize("how", ["closed after the request", "cut in a chunk", "a status line that is none"])
def test_a_response_that_breaks_harms_no_other_call(how: str) -> None:
    """I4"""
    with serving(on={"work": BROKEN[how], "hold": late(0.2)}) as (client, server):
        other = client.submit_tool("hold", {"b": 2})
        until(lambda: server.calls("hold"))
        with within(NOW), pytest.raises(MCPConnectionError):
            client.call_tool("work")
        assert other.result(PATIENCE).text == '{"b": 2}'
        assert len(server.calls("hold")) == 1


# What may be read one way or another, but is said at once.
WRONG: dict[str, Manner] = {
    "a length that is too short": sends(lambda exchange: dressed(exchange, exchange.body, length=30), "keep"),
    "two lengths": sends(lambda exchange: dressed(exchange, half(exchange.body), "Content-Length: 5"), "keep"),
    "a length that is no number": sends(
        lambda exchange: exchange.head(200, "Content-Length: many") + half(exchange.body)
    ),
    "a negative length": sends(lambda exchange: exchange.head(200, "Content-Length: -5") + half(exchange.body)),
    "gzip that is none": packed(lambda body: body),
    "gzip that is broken in the middle": packed(lambda body: gzipped(body)[:20] + b"\xff" * 20 + gzipped(body)[40:]),
    "a length in superscript": sends(lambda exchange: exchange.head(200, "Content-Length: \xb2") + half(exchange.body)),
    "no content type": replies(200, WHOLE, content_type=None),
    "another protocol": says(HEAD.replace("200 OK", "101 Switch") + "Connection: upgrade\r\n\r\n" + WHOLE, "hold"),
    "a coding nobody asked for": replies(200, b"\x1b\x00\x00\xff", "Content-Encoding: br"),
    "a coding nobody knows": replies(200, b"\x00", "Content-Encoding: rot13"),
    "headers in binary": says(b"HTTP/1.1 200 OK\r\n\xff\xfe\x00\x01\r\n\xc3\x28: \xe9\r\n\r\n{}"),
    "half an object, and all that was announced": replies(200, WHOLE[:40]),
    "half an object in chunks, and the last of them": in_chunks(lambda body: chunks(half(body)), then="keep"),
    "a blank body": replies(200, b" \r\n"),
    "two objects": replies(200, WHOLE + WHOLE),
    "UTF-16": replies(200, WHOLE.encode("utf-16")),
    "bad UTF-8": replies(200, WHOLE.encode()[:-2] + b'"\xff": 1}}'),
}


@ERAS
@pytest.mark.parametrize("how", WRONG)
def test_a_response_that_makes_no_sense_is_a_typed_error_at_once(era: str, how: str) -> None:
    """I4, I5, B6: a whole JSON text of a stated type, or an error; asked once."""
    with serving(era, on={"work": WRONG[how]}) as (client, server):
        with within(NOW), pytest.raises((MCPConnectionError, RemoteProtocolError, HTTPStatusError)) as found:
            client.call_tool("work")
        tells(found.value, server)
        assert len(server.calls("work")) == 1
        works(client)


FINE: dict[str, Manner] = {
    "HTTP/1.0": sends(lambda exchange: exchange.head(200).replace(b"1.1", b"1.0") + exchange.body),
    "HTTP/1.0 that stays": sends(
        lambda exchange: exchange.plain.replace(b"1.1", b"1.0").replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1),
        "keep",
    ),
    "chunks with extensions and trailers": in_chunks(
        lambda body: b"%x;a=b\r\n%s\r\n0;c\r\nX-Sum: 1\r\n\r\n" % (len(body), body), then="keep"
    ),
    "a chunk for each byte": in_chunks(lambda body: chunks(*(body[i : i + 1] for i in range(len(body)))), then="keep"),
    "gzip": packed(gzipped),
    "an interim answer first": sends(lambda exchange: b"HTTP/1.1 100 Continue\r\n\r\n" + exchange.plain, "keep"),
    "a content type with a charset": replies(200, WHOLE, content_type="Application/JSON ;charset=ISO-8859-1"),
    "a byte order mark of no event": streams("\ufeff: hello\n\n"),
    "events without chunks": streams(": hello\n\n", chunked=False),
    "events and an open end": streams(": hello\n\n", then="hold"),
    "no reason phrase": sends(lambda exchange: exchange.plain.replace(b"200 OK", b"200 "), "keep"),
    "no space after the colon": sends(
        lambda exchange: exchange.plain.replace(b": application", b":application"), "keep"
    ),
}


@ERAS
@pytest.mark.parametrize("how", FINE)
def test_an_odd_response_that_is_whole_is_a_result(era: str, how: str) -> None:
    """I4: what HTTP allows is read; a stream that stays open after the answer holds nobody up."""
    with serving(era, on={"work": FINE[how]}) as (client, server), within(NOW):
        assert not client.call_tool("work", {}).is_error
        works(client)
        assert len(server.calls("work")) == 1


EITHER: dict[str, Manner] = {
    "gzip without its checksum": packed(lambda body: gzipped(body)[:-8]),
    "gzip with something behind it": packed(lambda body: gzipped(body) + b"junk"),
    "all chunks but the last": in_chunks(lambda body: chunks(body, end=b"")),
    "an interim answer that is not 100": lambda exchange: hints(exchange, 0.0),
    "an interim answer long before the answer": lambda exchange: hints(exchange, 0.05),
    "line ends without returns": sends(lambda exchange: exchange.plain.replace(b"\r\n", b"\n"), "keep"),
    "the last event cut before its blank line, after its line": sends(
        lambda exchange: exchange.head(200, content_type=EVENTS) + b"data: " + exchange.body + b"\n"
    ),
}


def hints(exchange: Exchange, seconds: float) -> None:
    """Say 103, and the rest later: it belongs to this request, and to no other on this connection."""
    exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    exchange.pause(seconds)
    exchange.send(exchange.plain)


@ERAS
@pytest.mark.parametrize("how", EITHER)
def test_a_response_that_is_almost_whole_is_a_result_or_an_error_at_once(era: str, how: str) -> None:
    """I4: either will do, but nobody waits, nobody asks again, and the next call is fine."""
    with serving(era, on={"work": EITHER[how]}) as (client, server):
        with within(NOW):
            try:
                assert tool(client, "work", a=1) == {"a": 1}
            except (MCPConnectionError, RemoteProtocolError, HTTPStatusError) as error:
                tells(error, server)
        assert len(server.calls("work")) == 1
        works(client)


def test_what_comes_after_the_announced_end_reaches_nobody() -> None:
    """I3: a whole second response behind the first, with the id of the call to come, is not its answer."""

    def smuggles(exchange: Exchange) -> None:
        wrong = [{"type": "text", "text": '"foreign"'}]
        after = [replies_to(exchange, exchange.request.id + more, wrong) for more in range(1, 4)]
        exchange.send(exchange.plain + b"".join(after))

    with serving(on={"work": smuggles}) as (client, _):
        for number in range(3):
            assert tool(client, "work", n=number) == {"n": number}
            works(client)


def replies_to(exchange: Exchange, number: Any, content: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "result": {"resultType": "complete", "content": content}}
    answer = Answer(200, message)
    return exchange.head(200, length=len(answer.body), content_type=JSON) + answer.body


# -- no connection at all ----------------------------------------------------------------------------------------------


@ERAS
def test_a_connection_that_is_refused_is_said_at_once_and_the_client_is_fine_once_it_is_not(era: str) -> None:
    """I6, I10: nothing was sent, so nothing can have run."""
    with serving(era) as (client, server):
        with server.refusing():
            for _ in range(2):
                with within(NOW), pytest.raises(MCPConnectionError) as found:
                    client.call_tool("work")
                assert found.value.may_have_run is False
                tells(found.value, server)
        works(client)
        assert not server.calls("work")


@ERAS
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_connection_that_ends_at_once_is_not_made_again(era: str, how: str) -> None:
    """I10: one attempt for each call."""
    with serving(era) as (client, server):
        quiet(server)
        server.hang_up()
        before = server.accepted
        server.on["accept"] = {"closed": closes, "reset": resets}[how]
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        tells(found.value, server)
        assert server.accepted - before == 1
        del server.on["accept"]
        works(client)
        assert not server.calls("work")


def quiet(server: Server) -> None:
    """Wait until nothing is under way, such as a GET that nobody waits for."""
    until(lambda: not server.busy, 5.0)


BEGINNINGS: dict[str, Any] = {
    "accept": {"closed at once": closes, "reset at once": resets},
    "server/discover": {
        how: BROKEN[how]
        for how in ("closed after the request", "cut in a chunk", "a status line that is none", "an empty body")
    },
}


@pytest.mark.parametrize(("where", "how"), [(where, how) for where, hows in BEGINNINGS.items() for how in hows])
def test_a_beginning_that_breaks_is_an_error_at_once_and_says_nothing_of_the_era(where: str, how: str) -> None:
    """I6: an outage is no reason to try initialize; and the client may try again."""
    on = {where: BEGINNINGS[where][how], "initialize": never}
    with unconnected(on=on) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.connect()
        assert found.value.may_have_run is False  # of the calls that were to come
        assert found.value.details["phase"] == "connect"
        assert not client.connected
        server.on.clear()
        works(client)


@pytest.mark.parametrize("how", ["closed after the request", "cut in a body of announced length", "an empty body"])
@pytest.mark.parametrize("step", ["initialize", "notifications/initialized"])
def test_a_handshake_that_breaks_is_an_error_at_once(step: str, how: str) -> None:
    """I6: or, where only the answer to a notification broke, no error at all."""
    with unconnected("handshake", on={step: BROKEN[how]}) as (client, server):
        with within(NOW):
            if step == "initialize":
                with pytest.raises(MCPConnectionError) as found:
                    client.connect()
                assert found.value.details["phase"] == "connect"
            else:
                with suppress(MCPConnectionError):
                    client.connect()
        server.on.clear()
        works(client)


@pytest.mark.parametrize(("before", "after"), [("handshake", "stateless"), ("stateless", "handshake")])
def test_a_server_that_has_become_one_of_the_other_era_is_asked_anew(before: str, after: str) -> None:
    """What is remembered of an origin is a hint, not a verdict (WIRE B15)."""
    with serving(before) as (client, server):
        works(client)
    with serving(after, port=server.port) as (client, server):
        works(client)
        assert client.protocol_version == {"handshake": "2025-11-25", "stateless": "2026-07-28"}[after]


def test_nobody_there_at_all_is_said_at_once() -> None:
    """I6"""
    with Server() as server:
        url = server.url
    for _ in range(2):
        client = Client(url, timeout=PATIENCE)
        with within(NOW), pytest.raises(MCPConnectionError, match=str(server.port)) as found:
            client.connect()
        assert found.value.may_have_run is False
        client.close()


def test_a_name_that_nobody_knows_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """I6"""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    client = Client("http://nowhere.test/mcp", timeout=PATIENCE)
    with within(NOW), pytest.raises(MCPConnectionError, match=r"nowhere\.test") as found:
        client.connect()
    assert found.value.may_have_run is False
    client.close()


def test_an_address_that_refuses_is_no_reason_not_to_try_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: as for localhost, where ::1 comes first and nobody listens there."""
    with Server() as server:
        closed = free_port()
        info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        addresses = [(*info, ("127.0.0.1", closed)), (*info, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with Client(f"http://twice.test:{server.port}/mcp", timeout=PATIENCE) as client, within(NOW):
            works(client)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_server_on_ipv6_is_reached() -> None:
    try:
        server = Server(family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with server, Client(server.url, timeout=PATIENCE) as client:
        works(client)
        assert f"[::1]:{server.port}" in server.calls()[0].headers["host"]


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_a_server_with_a_certificate_of_a_known_authority_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B3: what the environment says of certificates does not outdo what the caller says."""
    nothing = tmp_path / "empty.pem"
    nothing.write_text("")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(nothing))
    ways: list[dict[str, Any]] = [
        {"verify_ssl": str(authority_file(tmp_path))},
        {"ssl_context": client_context()},
    ]
    with Server(tls=True) as server:
        for way in ways:
            with Client(server.url, timeout=PATIENCE, **way) as client:
                works(client)
                works(client)
        assert server.accepted == len(ways)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("who", ["here", "expired", "elsewhere"])
def test_a_certificate_that_nobody_wants_to_see_is_not_looked_at(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """B3: not even where the environment names an authority."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().openssl_cafile)
    with serving(tls=who, verify_ssl=False) as (client, _):
        works(client)


UNTRUSTED = {
    "nobody vouches for": ("here", False),
    "has expired": ("expired", True),
    "is another's": ("elsewhere", True),
}


@pytest.mark.parametrize("how", UNTRUSTED)
def test_a_server_whose_certificate_is_not_right_is_told_nothing(how: str, tmp_path: Path) -> None:
    """I11: neither request nor token."""
    who, known = UNTRUSTED[how]
    knobs: dict[str, Any] = {"verify_ssl": str(authority_file(tmp_path))} if known else {}
    with unconnected(tls=who, auth_header=f"Bearer {CANARY}", **knobs) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError, match="(?i)certificate") as found:
            client.connect()
        assert found.value.may_have_run is False
        assert server.heard == b""


BROKEN_TLS: dict[str, Manner] = {
    "closed": closes,
    "reset": resets,
    "an alert": says(b"\x15\x03\x03\x00\x02\x02\x28"),
    "plain HTTP": says("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "half a record": says(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76"),
    "a huge record": says(b"\x16\x03\x03\xff\xff" + b"\x02" * 5000),
}


@pytest.mark.parametrize("how", BROKEN_TLS)
def test_a_tls_handshake_that_breaks_is_an_error_at_once(how: str, tmp_path: Path) -> None:
    """I6, I10"""
    with serving(tls=True, verify_ssl=str(authority_file(tmp_path))) as (client, server):
        quiet(server)
        server.hang_up()
        before = server.accepted
        server.on["accept"] = BROKEN_TLS[how]
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        assert found.value.may_have_run is False
        tells(found.value, server, phase="connect")
        assert server.accepted - before == 1
        del server.on["accept"]
        works(client)


@pytest.mark.parametrize(
    "how",
    [
        "closed after the request",
        "cut in a header",
        "cut before the last header",
        "cut in a body of announced length",
        "reset in a body of announced length",
        "cut in a body of no length",
        "cut between two chunks",
        "a stream of events that is cut",
    ],
)
def test_a_response_that_breaks_under_tls_is_an_error_at_once(how: str, tmp_path: Path) -> None:
    """I4, I10, B6: whether TLS was ended politely or not."""
    with serving(tls=True, verify_ssl=str(authority_file(tmp_path)), on={"work": BROKEN[how]}) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError):
            client.call_tool("work")
        assert len(server.calls("work")) == 1
        works(client)


def test_http_to_a_server_of_https_and_the_other_way_round_is_an_error_at_once(tmp_path: Path) -> None:
    """I6"""
    with unconnected(tls=True, url="http://127.0.0.1:{port}/mcp") as (client, _):
        fails_at_once(client)
    knobs = {"verify_ssl": str(authority_file(tmp_path))}
    with unconnected(url="https://127.0.0.1:{port}/mcp", on={"accept": tls_refusal}, **knobs) as (client, _):
        fails_at_once(client)


def fails_at_once(client: Client) -> None:
    with within(NOW), pytest.raises(MCPConnectionError):
        client.connect()


def tls_refusal(exchange: Exchange) -> None:
    """Read what a TLS client says as HTTP, as a plain server does."""
    exchange.connection.sock.recv(4096)
    exchange.send(exchange.head(400, "Connection: close", length=0, content_type=None))
    exchange.close()


# -- what else may break -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "manner", [closes, resets, replies(500, "no"), replies(404), says("junk\r\n"), replies(200, "{}")]
)
def test_a_notification_that_fails_ends_nothing(manner: Manner) -> None:
    """I4: the cancellation of a call that timed out fails in every way; the client goes on."""
    with serving("handshake", on={"work": silent, "notifications/cancelled": manner}) as (client, server):
        with within(0.05), pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=0.05)
        works(client)
        assert len(until(lambda: server.posts("notifications/cancelled"))) == 1
        works(client)


def test_a_body_that_is_refused_unread_is_an_error_and_the_client_is_fine() -> None:
    """I4: 413 while we are still sending; whether its text arrives or the reset overtakes it, it is said at once."""
    with serving(max_body=100_000) as (client, server):
        with within(NOW), pytest.raises((HTTPStatusError, MCPConnectionError)) as found:
            client.call_tool("work", {"x": "y" * 2_000_000})
        tells(found.value, server)
        assert len(server.verbs("POST")) - len(server.posts("server/discover")) == 1
        works(client)


@ERAS
def test_errors_that_are_kept_keep_no_connection_open(era: str) -> None:
    """I7: a traceback holds frames; a connection is closed all the same, and not when the last of them is forgotten."""
    with serving(era, on={**BROKEN, **WRONG}) as (client, server):
        kept = []
        for name in server.on:
            with pytest.raises(MCPError) as found:
                client.call_tool(name, timeout=PATIENCE)
            kept.append(found.value)
        works(client)
        client.close()
        until(lambda: server.connected == 0, 1.0)
        assert kept


def test_errors_of_every_kind_one_after_the_other_are_all_accounted_for() -> None:
    """I4, I20: a hundred broken responses, and the client is as good as new."""
    with serving(on={f"work {number}": BROKEN[how] for number, how in enumerate(BROKEN)}) as (client, server):
        for number in range(len(BROKEN)):
            with within(NOW), pytest.raises(MCPError):
                client.call_tool(f"work {number}")
        works(client)
        assert client.counters["error"] == len(BROKEN)
        assert client.counters["pending"] == 0
        until(lambda: server.connected <= 2)
