"""Credentials over HTTP: never in an error, whoever repeats them; renewed once, in time, whatever was refused."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from faults.http_server import Exchange, Manner, Request
from faults.http_streams import Broken, OldServer, Stream, conversing, event, listening, news, part, result, sse
from faults.http_tools import CANARY, NOW, T, is_silent_about, serving
from faults.tools import PATIENCE, tool, until, within, works

from mcp_sync import Client, MCPError, MCPTimeoutError, Notification, StreamableHTTPTransport
from mcp_sync.exceptions import AuthError, HTTPStatusError
from mcp_sync.testing.tools import Background
from mcp_sync.transports import streamable


class Provider:
    """Gives numbered tokens; ``refresh`` counts, and may be held up."""

    def __init__(self) -> None:
        self.refreshed = 0
        self.running, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer token-{self.refreshed}"}

    def refresh(self) -> bool:
        self.running.set()
        assert self.go_on.wait(PATIENCE)
        self.refreshed += 1
        return True


class Rotating:
    """Gives another token each time."""

    def __init__(self) -> None:
        self.given = 0

    def headers(self) -> dict[str, str]:
        self.given += 1
        return {"Authorization": f"Bearer {CANARY}-{self.given:04d}"}


def picky(manner: Manner, accepted: Callable[[], str]) -> Manner:
    """Answer 401 to whoever does not show this token."""

    def act(exchange: Exchange) -> None:
        if exchange.request.headers.get("authorization") == f"Bearer {accepted()}":
            manner(exchange)
        else:
            exchange.reply(401, "", content_type=None)

    return act


def plain(exchange: Exchange) -> None:
    exchange.send(exchange.plain)


def refused(exchange: Exchange) -> None:
    exchange.reply(401, "", content_type=None)


# -- what a server repeats ---------------------------------------------------------------------------------------------


def repeats(what: Callable[[Request], str], status: int = 403, before: int = 0) -> Manner:
    """Refuse with a page that repeats something of the request."""
    return lambda exchange: exchange.reply(status, "x" * before + what(exchange.request), content_type="text/plain")


def authorization(request: Request) -> str:
    return f"bad token {request.headers['authorization']}"


def login(request: Request) -> str:
    return "no login: " + base64.b64decode(request.headers["authorization"].split()[1]).decode()


HOW: dict[str, tuple[Callable[[Request], str], dict[str, Any], str]] = {
    "the query of the URL": (lambda request: request.target, {}, "?token={secret}"),
    "a part of it": (lambda request: request.target.partition("=")[2], {}, "?{secret}&a={secret}"),
    "a header": (authorization, {"auth_header": f"Bearer {CANARY}"}, ""),
    "a token of its own": (authorization, {"auth_provider": Rotating()}, ""),
    "the password in clear": (login, {}, "userinfo"),
    "a header of no telling name": (lambda r: r.headers["x-who"], {"headers": {"X-Who": CANARY * 3}}, ""),
}


@pytest.mark.parametrize("before", [0, 190, 792])
@pytest.mark.parametrize("how", HOW)
def test_a_secret_that_the_server_repeats_is_in_no_error(how: str, before: int) -> None:
    """I12: nor half of it, where what is shown of the reply ends."""
    what, knobs, place = HOW[how]
    url = f"http://bob:{CANARY}@127.0.0.1:{{port}}/mcp" if place == "userinfo" else "http://127.0.0.1:{port}/mcp"
    url += place.format(secret=CANARY) if place.startswith("?") else ""
    with serving(on={"work": repeats(what, before=before)}, url=url, **knobs) as (client, _):
        with pytest.raises(HTTPStatusError) as found:
            client.call_tool("work")
        is_silent_about(CANARY, found.value)
        is_silent_about(CANARY[:8], found.value)
        works(client)


def test_a_token_that_is_no_longer_the_newest_is_in_no_error_either() -> None:
    """I12: the call that was refused was given its token a hundred calls ago."""
    held = threading.Event()

    def late(exchange: Exchange) -> None:
        while not held.is_set():
            exchange.hold(0.005)
        repeats(authorization)(exchange)

    with serving(on={"work": late}, auth_provider=Rotating()) as (client, server):
        slow = Background(lambda: client.call_tool("work"))
        until(lambda: server.calls("work"))
        for _ in range(100):
            works(client)
        held.set()
        with pytest.raises(HTTPStatusError) as found:
            slow.result()
        is_silent_about(CANARY, found.value)


@pytest.mark.parametrize("where", ["GET", "work"])
def test_a_token_that_a_server_of_http_with_sse_repeats_is_in_no_error(where: str) -> None:
    """I12"""
    with OldServer(on={where: repeats(authorization)}) as server:
        transport = sse(server.url, auth_header=f"Bearer {CANARY}")
        with pytest.raises(HTTPStatusError) as found, Client(transport, timeout=PATIENCE) as client:
            client.call_tool("work")
    is_silent_about(CANARY, found.value)


def test_a_token_that_the_health_endpoint_repeats_is_in_no_error() -> None:
    """I12"""
    with serving(on={"GET": repeats(authorization)}) as (_, server):
        transport = StreamableHTTPTransport(server.url, auth_header=f"Bearer {CANARY}", health_endpoint="/health")
        with pytest.raises(HTTPStatusError) as found:
            transport.check_health()
        is_silent_about(CANARY, found.value)


# -- what is renewed ---------------------------------------------------------------------------------------------------


def test_the_stream_of_news_is_opened_with_credentials_that_it_had_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """G2: as a POST is."""
    monkeypatch.setattr(streamable, "STREAM_PAUSE", 0.1)
    heard: list[Any] = []
    stream, provider, accepted = Stream(), Provider(), ["token-0"]

    def hear(notification: Notification) -> None:
        heard.append((notification.params or {}).get("data"))

    on = {"GET": picky(stream, lambda: accepted[0])}
    with conversing(on=on, auth_provider=provider, on_notification=hear) as (client, _):
        until(lambda: stream.lines)
        accepted[0] = "token-1"
        stream.end()
        until(lambda: len(stream.lines) == 2)
        stream.say(news(1))
        until(lambda: heard == [1])
        assert provider.refreshed == 1
        works(client)


def test_a_stream_of_news_that_is_refused_for_good_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: whoever relied on it has to know."""
    monkeypatch.setattr(streamable, "STREAM_PAUSE", 0.1)
    told: list[tuple[Any, MCPError]] = []
    lost = streamable.HttpChannel._lost

    def note(self: Any, key: Any, error: MCPError) -> None:
        if key is None:
            told.append((key, error))
        lost(self, key, error)

    monkeypatch.setattr(streamable.HttpChannel, "_lost", note)
    stream, accepted = Stream(), ["token"]
    with conversing(on={"GET": picky(stream, lambda: accepted[0])}, auth_header="Bearer token") as (client, server):
        until(lambda: stream.lines)
        accepted[0] = "another"
        stream.end()
        until(lambda: told)
        time.sleep(0.3)
        ((key, error),) = told
        assert key is None
        assert isinstance(error, AuthError)
        assert len(server.verbs("GET")) == 2
        works(client)


def test_a_reply_that_broke_off_is_resumed_with_credentials_that_it_had_renewed() -> None:
    """G2, D8: the call succeeds."""
    broken, provider = Broken(part("id: e1\nretry: 10\ndata:\n\n"), part(event(result({"a": 1})))), Provider()

    def rest(exchange: Exchange) -> None:
        if "last-event-id" in exchange.request.headers:
            picky(broken, lambda: "token-1")(exchange)
        else:
            broken(exchange)

    with conversing(on={"work": broken, "GET": rest}, auth_provider=provider) as (client, _):
        with within(NOW):
            assert tool(client, "work") == {"a": 1}
        assert provider.refreshed == 1


def test_a_session_is_ended_with_credentials_that_were_renewed() -> None:
    """G2, D4"""
    provider = Provider()
    with conversing(on={"DELETE": picky(plain, lambda: "token-1")}, auth_provider=provider) as (client, server):
        client.close()
        assert [request.headers["authorization"] for request in server.verbs("DELETE")] == [
            "Bearer token-0",
            "Bearer token-1",
        ]


# -- in time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "sse"])
def test_a_refresh_that_hangs_ends_with_the_timeout_of_each_call(kind: str) -> None:
    """I1: of the one that began it, and of the one that waits with it; nothing has run."""
    provider = Provider()
    provider.go_on.clear()
    begin: Any = serving if kind == "http" else listening
    with begin(on={"work": refused}, auth_provider=provider) as (client, _):
        for _ in range(2):
            with within(T), pytest.raises(MCPTimeoutError) as found:
                client.call_tool("work", timeout=T)
            assert found.value.may_have_run is False
        assert provider.running.is_set()
        assert provider.refreshed == 0
        works(client)
        provider.go_on.set()
        until(lambda: provider.refreshed)


def test_a_refresh_that_hangs_takes_no_place_of_a_request() -> None:
    """G4: the refusal has been read, and its connection is free."""
    provider = Provider()
    provider.go_on.clear()
    with serving(on={"work": refused}, auth_provider=provider, max_connections_per_host=1) as (client, _):
        future = client.submit_tool("work", timeout=PATIENCE)
        assert provider.running.wait(PATIENCE)
        with within(NOW):
            works(client)
        provider.go_on.set()
        assert isinstance(future.exception(PATIENCE), AuthError)


def test_close_does_not_wait_for_a_refresh_that_hangs() -> None:
    """I3"""
    provider = Provider()
    provider.go_on.clear()
    with serving(on={"work": refused}, auth_provider=provider) as (client, _):
        future = client.submit_tool("work", timeout=PATIENCE)
        assert provider.running.wait(PATIENCE)
        with within(0.5):
            client.close()
        assert isinstance(future.exception(NOW), MCPError)
        provider.go_on.set()
        until(lambda: provider.refreshed)


# -- pauses of our own -------------------------------------------------------------------------------------------------


def test_a_call_whose_reply_has_to_wait_for_room_ends_with_its_timeout() -> None:
    """I1, I13"""
    with serving() as (client, _):
        channel = client.transport._channel()  # type: ignore[attr-defined]
        channel.pause()
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("echo", timeout=T)
        channel.resume()
        works(client)


def test_a_pause_of_our_own_is_no_silence_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """heartbeat_interval: what has come, and was not read, is a sign of life."""
    from mcp_sync.transports.sse import SseChannel

    channels: list[SseChannel] = []
    start = SseChannel.start
    monkeypatch.setattr(SseChannel, "start", lambda self, sink: (channels.append(self), start(self, sink)))
    with listening(heartbeat_interval=T) as (client, server):
        (channel,) = channels
        channel.pause()
        server.say(": ping\n")
        time.sleep(2 * T)
        channel.resume()
        works(client)
        assert len(server.verbs("GET")) == 1


def test_a_stream_that_was_hung_up_on_stays_closed() -> None:
    """A4: whatever its reader comes to know later."""
    with listening() as (_, server), Client(sse(server.url), timeout=PATIENCE) as client:
        client.close()
        with pytest.raises(MCPError):
            client.call_tool("echo")
