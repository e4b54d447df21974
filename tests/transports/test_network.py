"""What network transports have in common: conversations that are renewed, credentials, retries, a breaker."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from contracts.bridge import Bridge
from faults.http_server import Exchange, Server, replies
from faults.http_streams import OldServer

from mcp_sync import (
    BearerTokenAuth,
    Client,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPSession,
    MCPTimeoutError,
)
from mcp_sync.exceptions import AuthError, CircuitOpen, HTTPStatusError, ServerError, SessionExpired
from mcp_sync.observe import CircuitChanged, Event, Retried
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import PATIENCE, SLACK, Background
from mcp_sync.transports.http import StreamableHTTPTransport, UrlTransport
from mcp_sync.transports.sse import SSETransport
from mcp_sync.transports.transport import MCPTransport
from mcp_sync.transports.websocket import WebSocketTransport

ERAS = pytest.mark.parametrize("era", ["handshake", "stateless"])
KINDS = pytest.mark.parametrize("kind", ["handshake", "stateless", "sse"])


@contextmanager
def bridged(kind: str, **knobs: Any) -> Iterator[Any]:
    """Give a transport to a Partner."""
    bridge = Bridge(kind)
    try:
        yield SSETransport(bridge.origin, **knobs) if kind == "sse" else StreamableHTTPTransport(bridge.url, **knobs)
    finally:
        bridge.close()


def dials_of(transport: MCPTransport) -> list[Any]:
    dials: list[Any] = []
    dial = transport.dial

    def counted(deadline: Any) -> Any:
        dials.append(dial(deadline))
        return dials[-1]

    transport.dial = counted  # type: ignore[method-assign]
    return dials


def echo(session: MCPSession, n: int = 0) -> bool:
    return bool(session.send_request("echo", {"n": n}, timeout=PATIENCE)["n"] == n)


def await_held(session: MCPSession, count: int) -> None:
    for _ in range(1000):
        if session.send_request("count").get("hold", 0) >= count:
            return
        threading.Event().wait(0.005)
    raise AssertionError("the call has not reached the partner")


# -- reconnect --------------------------------------------------------------------------------------------------------


@KINDS
def test_reconnecting_gives_each_conversation_a_new_connection(kind: str) -> None:
    with (
        bridged(kind) as transport,
        transport.create_session(PATIENCE) as first,
        transport.create_session(PATIENCE) as second,
    ):
        dials = dials_of(transport)
        transport.reconnect()
        assert len(dials) == 2
        assert echo(first)
        assert echo(second)
        assert len(dials) == 2


@KINDS
def test_reconnecting_disturbs_no_call_that_is_under_way(kind: str) -> None:
    with bridged(kind) as transport, transport.create_session(PATIENCE) as session:
        held = session.submit_request("hold", {"a": 1}, timeout=PATIENCE)
        await_held(session, 1)
        transport.reconnect()
        assert not held.done()
        if kind == "stateless":  # elsewhere whoever could let it go is gone
            assert session.send_request("release")["count"] == 1
            assert held.result(PATIENCE) == {"a": 1}


@KINDS
def test_reconnecting_disturbs_no_call_of_a_session_on_the_transports_own_connection(kind: str) -> None:
    with bridged(kind) as transport, transport, transport.create_session(PATIENCE) as session:
        held = session.submit_request("hold", {"a": 1}, timeout=PATIENCE)
        await_held(session, 1)
        transport.reconnect()
        assert not held.done()
        assert echo(session)


@KINDS
def test_reconnecting_renews_the_connection_for_single_messages(kind: str) -> None:
    with bridged(kind) as transport, transport:
        dials = dials_of(transport)
        transport.reconnect()
        assert len(dials) == 1
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
        assert transport.receive_message(PATIENCE)["id"] == 1


def test_where_nothing_is_connected_there_is_nothing_to_reconnect() -> None:
    with bridged("stateless") as transport:
        with pytest.raises(MCPConnectionError, match="nothing is connected"):
            transport.reconnect()
        transport.create_session(PATIENCE).close()
        with pytest.raises(MCPConnectionError, match="nothing is connected"):
            transport.reconnect()


def test_reconnecting_to_a_server_that_is_gone_is_an_error_and_the_conversation_lives() -> None:
    with Server() as server:
        transport = StreamableHTTPTransport(server.url, max_reconnects=1)
        with transport.create_session(PATIENCE) as session:
            with server.refusing(), pytest.raises(MCPConnectionError):
                transport.reconnect(1)
            assert session.send_request("tools/list")["tools"]
            with server.deaf(), pytest.raises(MCPTimeoutError):
                transport.reconnect(0.2)
            assert session.send_request("tools/list")["tools"]


@KINDS
def test_disconnecting_ends_the_conversation_on_that_connection_and_no_other(kind: str) -> None:
    with bridged(kind) as transport:
        with transport:
            mine, other = transport.create_session(PATIENCE), transport.create_session(PATIENCE)
        with pytest.raises(MCPConnectionError):
            echo(mine)
        assert echo(other)
        mine.close()
        other.close()


def test_a_conversation_whose_connection_was_lost_goes_on_though_the_transport_connects_again() -> None:
    with bridged("sse", reconnect_interval=0.0) as transport:
        transport.connect()
        session = transport.create_session(PATIENCE)
        with pytest.raises(MCPConnectionError):
            session.send_request("die")
        transport.connect()
        assert echo(session)
        transport.disconnect()
        assert echo(session)
        session.close()


@pytest.mark.parametrize("attempts", [0, 3])
def test_max_reconnects_says_whether_a_lost_stream_is_made_again(attempts: int) -> None:
    with (
        bridged("sse", max_reconnects=attempts, reconnect_interval=0.0) as transport,
        transport.create_session(PATIENCE) as session,
    ):
        with pytest.raises(MCPConnectionError):
            session.send_request("die")
        if attempts:
            assert echo(session)
        else:
            with pytest.raises(MCPConnectionError):
                echo(session)


def test_a_session_that_the_server_has_forgotten_is_begun_again() -> None:
    with Server("handshake") as server, Client(server.url, timeout=PATIENCE) as client:
        server.forget_sessions()
        assert client.list_tools()
        server.forget_sessions()
        with pytest.raises(SessionExpired) as found:
            client.call_tool("echo")
        assert found.value.may_have_run is False
        assert client.call_tool("echo")
        assert len(server.posts("initialize")) == 3


# -- a session of another process --------------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [False, True])
def test_a_session_that_is_handed_over_is_gone_on_with_connected_or_not(connected: bool) -> None:
    with Server("handshake") as server:
        first = StreamableHTTPTransport(server.url, timeout=PATIENCE)
        with first.create_session() as session:
            assert session.send_request("tools/list")["tools"]
            known = first.leave_session()
            assert known == {"session_id": first.session_id, "session_version": first.session_version}
        second = StreamableHTTPTransport(server.url, timeout=PATIENCE, **known)
        with second if connected else nullcontext(), second.create_session() as session:
            assert session.send_request("tools/list")["tools"]
            assert session.protocol_version == known["session_version"]
        assert [one.session for one in server.posts("tools/list")] == [known["session_id"]] * 2
        assert len(server.posts("initialize")) == 1
        with second.create_session() as session:  # another one begins anew
            assert session.send_request("tools/list")["tools"]
        assert len(server.posts("initialize")) == 2


# -- falling back to HTTP+SSE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remembered", [False, True])
def test_a_conversation_that_fell_back_to_http_sse_belongs_to_its_transport(remembered: bool) -> None:
    with OldServer() as server:
        if remembered:
            UrlTransport(server.url, timeout=PATIENCE).create_session().close()
        transport = UrlTransport(server.url, timeout=PATIENCE)
        for _ in range(2):
            with transport:
                session = transport.create_session()
                assert session.send_request("tools/list")["tools"]
                assert transport.connected
                streams = len(server.verbs("GET"))
                transport.reconnect()
                assert len(server.verbs("GET")) == streams + 1
                assert session.send_request("tools/list")["tools"]
            assert not transport.connected
            with pytest.raises(MCPConnectionError, match="closed"):
                session.send_request("tools/list")
            session.close()
        with transport.create_session() as session:  # which has a connection of its own
            assert session.send_request("tools/list")["tools"]
            assert not transport.connected


def test_single_messages_go_by_http_sse_too_once_that_is_known() -> None:
    with OldServer() as server:
        transport = UrlTransport(server.url, timeout=PATIENCE)
        transport.create_session().close()
        with transport:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert transport.receive_message(PATIENCE)["id"] == 1


# -- credentials ------------------------------------------------------------------------------------------------------


class Door:
    """A manner that lets in whoever has the right token."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.refused = 0
        self.together: threading.Barrier | None = None

    def __call__(self, exchange: Exchange) -> None:
        if exchange.request.headers.get("authorization") == f"Bearer {self.token}":
            exchange.send(exchange.plain)
            return
        self.refused += 1
        if self.together is not None:
            self.together.wait(PATIENCE)
        exchange.reply(401, "no")


class Tokens:
    """An auth provider whose tokens are t0, t1 ..."""

    def __init__(self, renewed: Any = True) -> None:
        self.number = 0
        self.renewed = renewed

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer t{self.number}"}

    def refresh(self) -> Any:
        if isinstance(self.renewed, Exception):
            raise self.renewed
        self.number += 1
        return self.renewed


@ERAS
def test_what_is_refused_with_401_is_asked_again_once_with_renewed_credentials(era: str) -> None:
    door, tokens = Door("t0"), Tokens()
    with Server(era, on={"POST": door}) as server, Client(server.url, auth_provider=tokens, timeout=PATIENCE) as client:
        door.token = "t1"
        assert client.call_tool("echo", {"a": 1}).text == '{"a": 1}'
        assert (tokens.number, door.refused) == (1, 1)
        assert client.call_tool("echo")
        assert door.refused == 1


@ERAS
def test_the_very_first_request_may_be_refused_too(era: str) -> None:
    door, tokens = Door("t1"), Tokens()
    with Server(era, on={"POST": door}) as server, Client(server.url, auth_provider=tokens, timeout=PATIENCE) as client:
        assert client.call_tool("echo")
        assert tokens.number == 1


def test_eight_threads_that_are_refused_at_once_renew_once() -> None:
    door, tokens = Door("t0"), Tokens()
    with Server(on={"work": door}) as server, Client(server.url, auth_provider=tokens, timeout=PATIENCE) as client:
        door.token, door.together = "t1", threading.Barrier(8)
        in_threads(8, lambda n: client.call_tool("work", {"n": n}))
        assert (tokens.number, door.refused) == (1, 8)
        assert len(server.calls("work")) == 16


@pytest.mark.parametrize("renewed", [True, False, None])
def test_who_is_refused_again_or_has_nothing_new_gets_the_error(renewed: Any) -> None:
    door, tokens = Door("t0"), Tokens(renewed)
    with Server(on={"work": door}) as server, Client(server.url, auth_provider=tokens, timeout=PATIENCE) as client:
        door.token = "none"
        with pytest.raises(AuthError) as found:
            client.call_tool("work")
        assert (found.value.status, found.value.may_have_run) == (401, False)
        assert (tokens.number, door.refused) == (1, 2 if renewed else 1)


def test_a_provider_that_fails_fails_the_call_and_no_other() -> None:
    door, tokens = Door("t0"), Tokens(RuntimeError("c4nary"))
    with Server(on={"work": door}) as server, Client(server.url, auth_provider=tokens, timeout=PATIENCE) as client:
        door.token = "t1"
        with pytest.raises(LocalProtocolError, match="auth_provider") as found:
            client.call_tool("work")
        assert "c4nary" not in str(found.value)
        assert client.call_tool("echo")


def test_403_is_no_reason_to_renew() -> None:
    tokens = Tokens()
    with (
        Server(on={"work": replies(403, "no")}) as server,
        Client(server.url, auth_provider=tokens, timeout=PATIENCE) as client,
        pytest.raises(AuthError),
    ):
        client.call_tool("work")
    assert tokens.number == 0


def test_a_function_that_gives_tokens_is_asked_again_when_they_are_refused() -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append(f"t{len(asked)}")
        return asked[-1]

    door = Door("t0")
    with (
        Server(on={"work": door}) as server,
        Client(server.url, auth_provider=BearerTokenAuth(token), timeout=PATIENCE) as client,
    ):
        client.call_tool("work")
        assert asked == ["t0"]
        door.token = "t1"
        client.call_tool("work")
        assert asked == ["t0", "t1"]


def test_refresh_auth_renews_at_once_whether_connected_or_not() -> None:
    tokens = Tokens()
    with Server() as server:
        transport = StreamableHTTPTransport(server.url, auth_provider=tokens)
        assert transport.refresh_auth() is True
        with transport.create_session(PATIENCE) as session:
            assert transport.refresh_auth(timeout=1) is True
            session.send_request("tools/list")
            assert server.requests[-1].headers["authorization"] == "Bearer t2"
        assert StreamableHTTPTransport(server.url).refresh_auth() is False
        assert StreamableHTTPTransport(server.url, auth_header="Bearer x").refresh_auth() is False


def test_the_stream_of_http_sse_is_asked_for_again_with_renewed_credentials() -> None:
    tokens = Tokens()
    stream = b"event: endpoint\ndata: /post\n\n"

    def door(exchange: Exchange) -> None:
        if exchange.request.headers["authorization"] != "Bearer t1":
            exchange.reply(401, "no")
            return
        exchange.send(exchange.head(200, "Connection: close", content_type="text/event-stream") + stream)
        exchange.hold()

    with Server(on={"GET": door}) as server, SSETransport(server.url, "", auth_provider=tokens) as transport:
        assert transport.connected
        assert [one.headers["authorization"] for one in server.requests] == ["Bearer t0", "Bearer t1"]


# -- retries ----------------------------------------------------------------------------------------------------------

NO = replies(503, "not now")


@ERAS
def test_max_retries_holds_for_connecting(era: str) -> None:
    first = "server/discover" if era == "stateless" else "initialize"
    events: list[Event] = []
    for repeats in (0, 2):
        with Server(era, on={first: [NO, NO]}) as server:
            transport = StreamableHTTPTransport(server.url, max_retries=repeats, retry_delay=0.0, timeout=PATIENCE)
            transport.observe(events.append)
            if not repeats:
                with pytest.raises(MCPError):
                    transport.create_session()
                continue
            with transport.create_session() as session:
                assert session.send_request("tools/list")["tools"]
            assert len(server.posts(first)) == 3
    assert [(event.method, event.attempt) for event in events if isinstance(event, Retried)] == [
        ("connect", 1),
        ("connect", 2),
    ]


@pytest.mark.parametrize("kind", [UrlTransport, SSETransport, WebSocketTransport], ids=lambda kind: kind.__name__)
def test_close_ends_the_wait_between_two_attempts_to_connect(kind: Any) -> None:
    with Server() as server, server.refusing():
        url = server.url.replace("http:", "ws:") if kind is WebSocketTransport else server.url
        transport = kind(url, max_retries=50, retry_delay=PATIENCE, max_retry_delay=PATIENCE, timeout=PATIENCE * 4)
        repeated = threading.Event()
        transport.observe(lambda event: repeated.set() if isinstance(event, Retried) else None)
        client = Client(transport)
        connecting = Background(client.connect)
        assert repeated.wait(PATIENCE)
        client.close()
        assert isinstance(connecting.error(SLACK), MCPConnectionError)


def test_an_attempt_to_connect_that_begins_after_close_is_the_last() -> None:
    with Server() as server:
        attempts, closed = threading.Event(), threading.Event()
        transport = StreamableHTTPTransport(server.url, max_retries=50, retry_delay=0.0, timeout=PATIENCE)
        dials, dial = dials_of(transport), transport.dial

        def waits(deadline: Any) -> Any:
            attempts.set()
            assert closed.wait(PATIENCE)
            return dial(deadline)

        transport.dial = waits  # type: ignore[method-assign]
        client = Client(transport)
        connecting = Background(client.connect)
        assert attempts.wait(PATIENCE)
        client.close()
        closed.set()
        error = connecting.error(SLACK)
        assert isinstance(error, MCPConnectionError)
        assert error.details["phase"] == "closed"
        assert len(dials) == 1
        assert server.requests == []


def test_a_server_that_starts_late_is_reached_by_retries() -> None:
    with Server() as server:
        with server.refusing():
            transport = StreamableHTTPTransport(
                server.url, max_retries=50, retry_delay=0.02, retry_backoff_multiplier=1
            )
            connecting = Background(lambda: transport.create_session(PATIENCE))
            threading.Event().wait(0.1)
        connecting.result().close()


def test_what_is_safe_is_repeated_and_what_may_have_run_is_not() -> None:
    with Server(on={"tools/list": [NO, NO], "work": [NO]}) as server:
        transport = StreamableHTTPTransport(server.url, max_retries=2, retry_delay=0.0)
        with Client(transport, timeout=PATIENCE) as client:
            assert client.list_tools()
            assert len(server.posts("tools/list")) == 3
            with pytest.raises(ServerError) as found:
                client.call_tool("work")
            assert found.value.may_have_run is None
            assert len(server.calls("work")) == 1


def test_retry_on_status_codes_says_which_statuses_are_worth_it() -> None:
    with Server(on={"tools/list": [replies(500, "x"), NO]}) as server:
        with Client(
            server.url, max_retries=3, retry_delay=0.0, retry_on_status_codes=[500], timeout=PATIENCE
        ) as client:
            with pytest.raises(ServerError) as found:
                client.request("tools/list", {})
            assert found.value.status == 503
        assert len(server.posts("tools/list")) == 2


def test_retry_after_is_waited_for_and_told_to_observers() -> None:
    busy = replies(429, "busy", "Retry-After: 1")
    told: list[tuple[int, str, float]] = []
    with Server(on={"tools/list": [busy]}) as server:
        transport = StreamableHTTPTransport(server.url, max_retries=1, retry_delay=0.0, retry_jitter=0.0)
        transport.on_retry_attempt(lambda *what: told.append(what))
        with transport.create_session(PATIENCE) as session:
            session.send_request("tools/list")
            first, second = server.posts("tools/list")
            assert 1.0 <= second.at - first.at < 1.0 + SLACK
    assert told == [(1, "RateLimited", 1.0)]


# -- the breaker ------------------------------------------------------------------------------------------------------


def test_a_server_that_fails_is_left_alone_by_all_conversations_of_the_transport() -> None:
    events: list[Event] = []
    with Server(on={"work": NO}) as server:
        transport = StreamableHTTPTransport(
            server.url, circuit_breaker_enabled=True, circuit_breaker_threshold=2, circuit_breaker_timeout=60.0
        )
        transport.observe(events.append)
        with Client(transport, timeout=PATIENCE) as client, transport.create_session(PATIENCE) as session:
            for _ in range(2):
                with pytest.raises(ServerError):
                    client.call_tool("work")
            heard = len(server.requests)
            for ask in (lambda: client.call_tool("work"), lambda: session.send_request("tools/list")):
                with pytest.raises(CircuitOpen) as found:
                    ask()
                assert 0 < found.value.retry_after <= 60
            assert len(server.requests) == heard
    assert [event.state for event in events if isinstance(event, CircuitChanged)] == ["open"]


def test_without_the_keyword_no_circuit_opens() -> None:
    with Server(on={"work": NO}) as server, Client(server.url, timeout=PATIENCE) as client:
        for _ in range(8):
            with pytest.raises(HTTPStatusError):
                client.call_tool("work")
        assert len(server.calls("work")) == 8


def test_an_answer_that_is_an_error_opens_no_circuit() -> None:
    with (
        bridged("handshake", circuit_breaker_enabled=True, circuit_breaker_threshold=1) as transport,
        transport.create_session(PATIENCE) as session,
    ):
        for _ in range(3):
            with pytest.raises(JSONRPCError):
                session.send_request("what")
