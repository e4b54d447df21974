"""HTTP+SSE: where the server wants to be posted to, and how a client finds out that it is a server of that kind."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from faults.http_server import EVENTS, PATH, Answer, Exchange, Manner, Request, Server, replies, silent
from faults.http_streams import OldServer, listening, sse
from faults.http_tools import CANARY, NOW, T, closes, is_silent_about, resets
from faults.tools import PATIENCE, close, tool, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError, SseTransport
from mcp_sync.exceptions import AuthError, HTTPStatusError, ServerError
from mcp_sync.testing import in_threads

# -- the endpoint ------------------------------------------------------------------------------------------------------

ENDPOINTS = {
    "a path": "/messages?line=$LINE",
    "a relative one": "messages?line=$LINE",
    "a relative one with dots": "./a/../messages?line=$LINE",
    "a whole URL": "$ORIGIN/messages?line=$LINE",
    "without a scheme": "//127.0.0.1:$PORT/messages?line=$LINE",
    "with a fragment": "/messages?line=$LINE#part",
    "with a query of odd characters": "/messages?line=$LINE&a=%2F&b=c+d&c=~",
}


def told(server: OldServer, endpoint: str) -> None:
    """Have the server name this endpoint."""
    text = endpoint.replace("$ORIGIN", server.origin).replace("$PORT", str(server.port))
    server.stream.first = (f"event: endpoint\ndata: {text}\n\n",)


@pytest.mark.parametrize("how", ENDPOINTS)
def test_an_endpoint_on_the_servers_own_origin_is_posted_to(how: str) -> None:
    """F1: resolved against the URL of the stream."""
    with OldServer() as server:
        told(server, ENDPOINTS[how])
        client = Client(sse(server.url), timeout=PATIENCE)
        works(client)
        assert client.protocol_version == "2024-11-05"
        assert {request.target.partition("?")[0] for request in server.posted} == {"/messages"}
        assert not [request for request in server.requests if "#" in request.target]
        close(client)


def test_an_endpoint_may_come_in_any_form_of_an_event() -> None:
    """B9: CR LF, no blank, a comment before it, an id, news right behind it."""
    forms = [
        "event: endpoint\r\ndata: /messages?line=$LINE\r\n\r\n",
        ": hello\n\nevent:endpoint\ndata:/messages?line=$LINE\n\n",
        "\ufeffdata: /messages?line=$LINE\nevent: endpoint\nid: 1\nretry: 10\n\n",
        'event: endpoint\ndata: /messages?line=$LINE\n\ndata: {"jsonrpc": "2.0", "method": "notifications/x"}\n\n',
    ]
    for form in forms:
        with listening(first=(form,)) as (client, _):
            works(client)


ELSEWHERE = {
    "another port": "http://127.0.0.1:$OTHER/messages",
    "another host": "http://localhost:$PORT/messages",
    "another scheme": "https://127.0.0.1:$PORT/messages",
    "another port without a scheme": "//127.0.0.1:$OTHER/messages",
    "a name before it": "http://127.0.0.1:$PORT@127.0.0.1:$OTHER/messages",
    "a user": "http://user:pass@127.0.0.1:$PORT/messages",
    "a backslash": "http://127.0.0.1:$OTHER\\@127.0.0.1:$PORT/messages",
    "an address in one number": "http://2130706433:$PORT/messages",
    "another scheme altogether": "ftp://127.0.0.1:$PORT/messages",
    "a script": "javascript:alert(1)",
    "a file": "file:///etc/passwd",
    "a control character": "/mess\x01ages",
}


@pytest.mark.parametrize("how", ELSEWHERE)
def test_an_endpoint_elsewhere_is_refused_and_nothing_is_sent_there(how: str) -> None:
    """F5, I11: no credential, no body, not even a connection."""
    with OldServer() as server, Server() as other:
        told(server, ELSEWHERE[how].replace("$OTHER", str(other.port)))
        client = Client(sse(server.url, auth_header=f"Bearer {CANARY}"), timeout=PATIENCE)
        with within(NOW), pytest.raises(MCPError) as found:
            client.connect()
        assert isinstance(found.value, (RemoteProtocolError, MCPConnectionError))
        assert found.value.may_have_run is False
        is_silent_about(CANARY, found.value)
        client.close()
        assert not other.accepted
        assert {request.verb for request in server.requests} == {"GET"}
        until(lambda: not server.connected)


@pytest.mark.parametrize("how", ["allowed_origins", "validate_origin"])
def test_an_endpoint_elsewhere_that_is_allowed_gets_messages_but_no_credentials(how: str) -> None:
    """I11: they are for the server that the user named."""
    with OldServer() as server, Elsewhere(server) as other:
        told(server, f"{other.origin}/messages?line=$LINE")
        knobs: dict[str, Any] = {"allowed_origins": [other.origin]} if how == "allowed_origins" else {}
        knobs |= {"validate_origin": False} if how == "validate_origin" else {}
        secrets = {"auth_header": f"Bearer {CANARY}", "headers": {"X-Api-Key": CANARY}}
        client = Client(sse(server.url, **knobs, **secrets), timeout=PATIENCE)
        works(client)
        assert len(other.requests) >= 3
        assert CANARY.encode() not in other.heard
        assert CANARY.encode() in server.heard
        close(client)


class Elsewhere(Server):
    """Takes messages for an OldServer at another origin."""

    def __init__(self, home: OldServer) -> None:
        self.home = home
        super().__init__()

    def answer_to(self, request: Request) -> Answer:
        self.home.respond(request)
        return Answer(202)


def test_an_endpoint_that_is_known_is_not_waited_for() -> None:
    """SseTransport(sse_url, post_url)"""

    def make(server: OldServer) -> Any:
        return SseTransport(server.url, f"{server.origin}/messages?line=-1")

    with listening(first=(), transport=make) as (client, _):
        works(client)


# -- no endpoint -------------------------------------------------------------------------------------------------------


def says(*data: bytes, then: str = "hold") -> Manner:
    def act(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS))
        for item in data:
            exchange.send(item)
        if then == "hold":
            exchange.hold()
        exchange.reset() if then == "reset" else exchange.close()

    return act


WRONG: dict[str, tuple[Manner, type[BaseException]]] = {
    "another event first": (says(b'data: {"jsonrpc": "2.0", "method": "x"}\n\n'), MCPError),
    "an event of another name first": (says(b"event: hello\ndata: world\n\n"), MCPError),
    "an event that is no text": (says(b"event: endpoint\ndata: \xff\n\n"), MCPError),
    "an event that is too large": (says(b"event: endpoint\ndata: /" + b"x" * 20_000 + b"\n\n"), MCPError),
    "an endless event": (says(*[b"data: " + b"x" * 5000 + b"\n"] * 10), MCPError),
    "closed before": (says(then="close"), MCPConnectionError),
    "reset before": (says(then="reset"), MCPConnectionError),
    "half of it": (says(b"event: endpoint\ndata: /messages", then="close"), MCPConnectionError),
    "without its blank line": (says(b"event: endpoint\ndata: /messages\n", then="close"), MCPConnectionError),
    "closed without a word": (closes, MCPConnectionError),
    "reset without a word": (resets, MCPConnectionError),
    "a page": (replies(200, "<html>", content_type="text/html"), RemoteProtocolError),
    "JSON": (replies(200, "{}"), RemoteProtocolError),
    "an empty page": (replies(200, "", content_type="text/html"), MCPError),
    "no content": (replies(204, "", content_type=None), MCPError),
    "401": (replies(401, "", content_type=None), AuthError),
    "403": (replies(403, "", content_type=None), AuthError),
    "404": (replies(404, "", content_type=None), HTTPStatusError),
    "405": (replies(405, "", content_type=None), HTTPStatusError),
    "500": (replies(500, "", content_type=None), ServerError),
    "302": (replies(302, "", "Location: /elsewhere", content_type=None), HTTPStatusError),
    "307 elsewhere": (replies(307, "", "Location: http://localhost:1/mcp", content_type=None), HTTPStatusError),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_stream_that_is_none_of_this_kind_is_an_error_at_once(how: str) -> None:
    """5.2, B6: with nothing left open, and nothing posted."""
    manner, kind = WRONG[how]
    with OldServer(on={"GET": manner}) as server:
        client = Client(sse(server.url, max_message_size=10_000), timeout=PATIENCE)
        with within(NOW), pytest.raises(kind) as found:
            client.connect()
        assert isinstance(found.value, MCPError)
        assert found.value.may_have_run is False
        assert not isinstance(found.value, MCPTimeoutError)
        assert str(server.port) in str(found.value)
        client.close()
        assert not server.posts()
        until(lambda: not server.connected)


def drips(exchange: Exchange) -> None:
    exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS))
    while True:
        exchange.send(b":\n\n")
        exchange.pause(0.02)


SLOW: dict[str, Manner] = {
    "no head": silent,
    "no event": says(),
    "comments for ever": drips,
    "half an event": says(b"event: endpoint\ndata: /mess"),
    "events with nothing in them": says(b"id: 1\ndata:\n\n" * 3),
}


@pytest.mark.parametrize("how", SLOW)
def test_an_endpoint_that_does_not_come_is_a_timeout_on_time(how: str) -> None:
    """I1"""
    with OldServer(on={"GET": SLOW[how]}) as server:
        client = Client(sse(server.url), timeout=T)
        with within(T), pytest.raises(MCPTimeoutError):
            client.connect()
        client.close()
        until(lambda: not server.connected)
        server.set(GET=server.stream)
        again = Client(sse(server.url), timeout=PATIENCE)
        works(again)
        close(again)


def test_an_initialize_that_is_not_answered_on_the_stream_is_a_timeout_on_time() -> None:
    """I1: accepted, and that was all."""
    with OldServer(on={"initialize": replies(202, "", content_type=None)}) as server:
        client = Client(sse(server.url), timeout=T)
        with within(T), pytest.raises(MCPTimeoutError):
            client.connect()
        client.close()
        until(lambda: not server.connected)


@pytest.mark.parametrize("step", ["GET", "initialize", "notifications/initialized"])
def test_close_while_connecting_tells_whoever_connects(step: str) -> None:
    """I7: at whichever step; nothing is left when close() has returned."""
    with OldServer(on={step: silent}) as server:
        client = Client(sse(server.url), timeout=2.0)

        def work(number: int) -> None:
            if number:
                until(lambda: [r for r in server.requests if step in (r.method, r.verb)])
                with within(0.5):
                    client.close()
                until(lambda: not server.connected, 0.5)
                return
            with within(NOW), pytest.raises(MCPConnectionError, match="closed"):
                client.ping()

        in_threads(2, work)


# -- falling back to it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [400, 404, 405])
def test_a_url_whose_server_does_not_know_posts_is_tried_with_get(refusal: int) -> None:
    """F3, F4: server/discover, initialize, GET; and later calls do not begin all over."""
    with OldServer(refusal=refusal) as server:
        client = Client(server.url, timeout=PATIENCE)
        works(client)
        assert client.protocol_version == "2024-11-05"
        assert [(r.verb, r.method) for r in server.requests[:4]] == [
            ("POST", "server/discover"),
            ("POST", "initialize"),
            ("GET", ""),
            ("POST", "initialize"),
        ]
        works(client)
        assert len(server.verbs("GET")) == 1
        close(client)


NO_FALLBACK: dict[str, Manner] = {
    "401": replies(401, "", content_type=None),
    "403": replies(403, "", content_type=None),
    "402": replies(402, "", content_type=None),
    "406": replies(406, "", content_type=None),
    "410": replies(410, "", content_type=None),
    "429": replies(429, "", content_type=None),
    "500": replies(500, "", content_type=None),
    "503": replies(503, "", content_type=None),
    "200 in HTML": replies(200, "<html>", content_type="text/html"),
    "404 of a modern server": replies(
        404, '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32601, "message": "Method not found"}}'
    ),
    "400 of a modern server": replies(
        400,
        '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32022, "message": "no", "data": '
        '{"supported": ["2099-01-01"], "requested": "2026-07-28"}}}',
    ),
    "400 about headers": replies(400, '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32020, "message": "no"}}'),
    "closed": closes,
    "reset": resets,
}


@pytest.mark.parametrize("how", NO_FALLBACK)
def test_a_url_whose_server_says_something_else_is_not_tried_with_get(how: str) -> None:
    """F3, W 1, W 2: whatever it says, it is no verdict of that kind."""
    with OldServer(on={"POST": NO_FALLBACK[how]}) as server:
        server.set(**{"server/discover": NO_FALLBACK[how], "initialize": NO_FALLBACK[how]})
        client = Client(server.url, timeout=PATIENCE)
        with within(NOW), pytest.raises(MCPError):
            client.connect()
        assert not server.verbs("GET")
        client.close()


def test_a_method_that_a_modern_server_does_not_know_is_no_reason_to_try_with_get() -> None:
    """W 1: 404 with -32601 to a call."""
    with Server() as server:
        client = Client(server.url, timeout=PATIENCE).connect()
        with pytest.raises(MCPError, match="not found"):
            client.request("no/such")
        assert not server.verbs("GET")
        works(client)
        close(client)


@pytest.mark.parametrize("how", ["404", "a page", "no endpoint"])
def test_a_url_with_nothing_behind_it_is_an_error_that_tells_of_both_attempts(how: str) -> None:
    """I6"""
    manner = {
        "404": replies(404, "nothing here", content_type="text/plain"),
        "a page": replies(200, "<html>", content_type="text/html"),
        "no endpoint": says(b"data: x\n\n"),
    }[how]
    with OldServer(on={"GET": manner}, refusal=404) as server:
        client = Client(server.url, timeout=PATIENCE)
        with within(NOW), pytest.raises(MCPError) as found:
            client.connect()
        assert "404" in str(found.value)
        assert found.value.may_have_run is False
        if how != "404":
            whole = f"{found.value} {found.value.__cause__}"
            assert "endpoint" in whole or "no stream" in whole
        client.close()
        until(lambda: not server.connected)


@pytest.mark.parametrize("slow", ["server/discover", "initialize", "GET"])
def test_all_attempts_share_one_timeout(slow: str) -> None:
    """I1: a hang is none of the answers that lead further; that it was refused before may say more."""
    with OldServer() as server:
        if slow == "GET":
            server.set(GET=silent)
        else:
            server.set(**{slow: silent})
        client = Client(server.url, timeout=T)
        with within(T), pytest.raises((MCPTimeoutError, HTTPStatusError) if slow == "GET" else MCPTimeoutError):
            client.connect()
        client.close()
        until(lambda: not server.connected)


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_a_second_client_of_a_server_of_the_handshake_era_does_not_probe_again() -> None:
    """B15: an era belongs to the server."""
    with Server("handshake") as server:
        for _ in range(3):
            with Client(server.url, timeout=PATIENCE) as client:
                works(client)
        assert len(server.posts("server/discover")) == 1
        assert len(server.posts("initialize")) == 3


def test_a_second_client_of_a_server_of_http_with_sse_does_not_probe_again() -> None:
    """B15, F4: neither by server/discover, nor by an initialize that leads nowhere."""
    with OldServer() as server:
        for _ in range(3):
            with Client(server.url, timeout=PATIENCE) as client:
                works(client)
        assert len(server.posts("server/discover")) == 1
        assert len([r for r in server.posts("initialize") if r.target == PATH]) == 1
        assert len(server.verbs("GET")) == 3


def test_a_server_that_is_another_one_by_now_is_found_out() -> None:
    """B15: probed anew when what was remembered does not hold."""
    with Server("handshake") as server:
        with Client(server.url, timeout=PATIENCE) as client:
            works(client)
        server.era = "stateless"
        with Client(server.url, timeout=PATIENCE) as client:
            works(client)
            assert client.protocol_version == "2026-07-28"
        server.era = "handshake"
        with Client(server.url, timeout=PATIENCE) as client:
            works(client)
            assert client.protocol_version == "2025-11-25"


def test_a_server_of_http_with_sse_that_has_become_a_newer_one_is_found_out() -> None:
    """B15"""
    with OldServer() as server:
        client = Client(server.url, timeout=PATIENCE)
        works(client)
        close(client)
        server.on.pop("GET")
        answers = Server("handshake")
        server.answer_to = answers.answer_to  # type: ignore[method-assign]
        client = Client(server.url, timeout=PATIENCE)
        works(client)
        assert client.protocol_version == "2025-11-25"
        close(client)
        answers.close()


def test_a_beginning_that_fails_is_nothing_to_remember() -> None:
    """W 2: a server that was down when it was first asked is not taken for an old one."""
    with Server() as server:
        server.set(**{"server/discover": [replies(500, "", content_type=None)]})
        client = Client(server.url, timeout=PATIENCE)
        with pytest.raises(ServerError):
            client.connect()
        client.close()
        with Client(server.url, timeout=PATIENCE) as client:
            assert client.protocol_version == "2026-07-28"
            works(client)


def test_connecting_costs_no_more_than_it_has_to() -> None:
    """F4: three requests more than the handshake, and no wait."""
    with OldServer() as server:
        client = Client(server.url, timeout=PATIENCE)
        began = time.monotonic()
        client.connect()
        assert time.monotonic() - began < NOW
        assert len(server.requests) == 5
        assert json.loads(server.posted[0].body)["params"]["protocolVersion"] == "2025-11-25"
        assert tool(client, "echo", a=1) == {"a": 1}
        close(client)
