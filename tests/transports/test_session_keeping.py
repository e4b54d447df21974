"""Sessions of the handshake era, on the client: none at all, so many at once, and not longer than they are used."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from faults.http_server import Exchange, Server, replies, streams
from faults.http_streams import Keeper, Stream, event
from faults.http_tools import Gate, never
from faults.tools import PATIENCE, until, within

from mcp_sync import (
    Client,
    HTTPStatusError,
    MCPConnectionError,
    ServerError,
    SessionExpired,
    SSETransport,
    StreamableHTTPTransport,
    TooManyRequests,
)
from mcp_sync.observe import Event, Reconnected
from mcp_sync.testing import in_threads
from mcp_sync.transports.http import UrlTransport

SHORT = {"session_timeout": 0.15, "session_cleanup_interval": 0.03}


def reach(server: Server, **knobs: Any) -> StreamableHTTPTransport:
    return StreamableHTTPTransport(server.url, timeout=PATIENCE, **knobs)


def sessions(server: Server, method: str) -> list[str | None]:
    return [request.session for request in server.posts(method)]


# -- none at all ------------------------------------------------------------------------------------------------------


def carefree(exchange: Exchange) -> None:
    """Answer plainly, whether a session is named or not."""
    server, exchange.server.sessions = exchange.server, False
    answer = exchange.plain
    server.sessions = True
    exchange.send(answer)


def test_without_session_management_the_id_is_never_sent_nor_kept() -> None:
    methods = ("notifications/initialized", "tools/list", "tools/call", "ping", "GET", "DELETE")
    with Server("handshake", on=dict.fromkeys(methods, carefree)) as server:
        transport = reach(server, session_management=False)
        with Client(transport) as client:
            client.ping()
            client.call_tool("echo")
            assert client.list_tools()
            assert transport.session_id is None
        assert server.live == {"session-1"}  # it was offered one, and did not take it
        assert {request.session for request in server.requests} == {None}
        assert {request.headers["mcp-protocol-version"] for request in server.posts("ping")} == {"2025-11-25"}
        assert server.verbs("DELETE") == []


def test_an_id_that_nobody_keeps_need_not_be_one() -> None:
    bad = "caf\xe9 \x01"

    def offers(exchange: Exchange) -> None:
        plain = exchange.plain
        exchange.send(plain.replace(b"Mcp-Session-Id: session-1", f"Mcp-Session-Id: {bad}".encode("latin-1")))

    on = {"initialize": offers, "ping": carefree, "notifications/initialized": carefree}
    with Server("handshake", on=on) as server, Client(reach(server, session_management=False)) as client:
        client.ping()


def test_a_server_that_insists_on_its_session_is_an_error_that_says_so() -> None:
    with Server("handshake") as server:
        client = Client(reach(server, session_management=False))
        with pytest.raises(HTTPStatusError, match="Missing session ID"):
            client.connect()
        client.close()


def test_to_go_on_with_a_session_and_to_have_none_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match="session_management"):
        StreamableHTTPTransport(
            "http://127.0.0.1:1/", session_management=False, session_id="x", session_version="2025-11-25"
        )


# -- so many at once --------------------------------------------------------------------------------------------------


def test_past_the_most_sessions_a_conversation_is_refused_and_no_session_asked_for() -> None:
    with Server("handshake") as server, ExitStack() as stack:
        transport = reach(server, max_sessions=2)
        first = stack.enter_context(transport.create_session())
        stack.enter_context(Client(transport))
        with pytest.raises(TooManyRequests, match="2 conversations have a session already.*max_sessions") as found:
            transport.create_session()
        assert found.value.may_have_run is False
        assert len(server.posts("initialize")) == 2
        first.close()
        stack.enter_context(transport.create_session())
        assert len(server.live) == 2


def test_of_many_that_begin_at_once_no_more_than_the_most_come_in() -> None:
    gate = Gate()
    with Server("handshake", on={"initialize": gate}) as server, ExitStack() as stack:
        transport = reach(server, max_sessions=3)

        def begin(_: int) -> int:
            try:
                stack.enter_context(transport.create_session())
            except TooManyRequests:
                gate.open()
                return 0
            return 1

        assert sum(in_threads(8, begin)) == 3
        assert len(server.live) == 3


def test_renewing_a_session_takes_no_second_place() -> None:
    with Server("handshake") as server:
        transport = reach(server, max_sessions=1)
        with Client(transport) as client:
            server.forget_sessions()
            client.ping()
            transport.reconnect()  # while the old one is still there
            client.ping()
            assert len(server.posts("initialize")) == 3
            with pytest.raises(TooManyRequests):
                transport.create_session()
        transport.create_session().close()


def test_a_beginning_that_fails_gives_its_place_back() -> None:
    with Server("handshake", on={"initialize": [replies(500, "no")] * 2}) as server:
        transport = reach(server, max_sessions=1)
        for _ in range(2):
            with pytest.raises(ServerError, match="500"):
                transport.create_session()
        transport.create_session().close()


@pytest.mark.parametrize(("era", "about"), [("stateless", {}), ("handshake", {"sessions": False})])
def test_conversations_without_a_session_are_not_counted(era: str, about: dict[str, Any]) -> None:
    with Server(era, **about) as server, ExitStack() as stack:
        transport = reach(server, max_sessions=1, **SHORT)
        begun = [stack.enter_context(transport.create_session()) for _ in range(4)]
        time.sleep(0.3)  # longer than session_timeout
        for session in begun:
            session.send_request("tools/list")
        assert len(server.posts("server/discover" if era == "stateless" else "initialize")) <= 4
        assert server.verbs("DELETE") == []


def test_a_forgotten_session_gives_its_place_back() -> None:
    with Server("handshake") as server:
        transport = reach(server, max_sessions=1)
        held = [transport.create_session()]
        with pytest.warns(ResourceWarning):
            held.clear()
        until(lambda: not server.live)

        def begins() -> bool:
            try:
                transport.create_session().close()
            except TooManyRequests:
                return False
            return True

        until(begins)


# -- not longer than it is used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_reconnects", [0, 5])
def test_an_idle_session_is_ended_and_the_next_call_begins_a_new_one(max_reconnects: int) -> None:
    seen: list[Event] = []
    with Server("handshake") as server:
        transport = reach(server, max_reconnects=max_reconnects, **SHORT)
        transport.observe(seen.append)
        with Client(transport) as client:
            assert client.call_tool("echo")
            until(lambda: server.verbs("DELETE"))
            assert not server.live
            assert client.call_tool("echo", {"again": True})  # not even a method that may not be repeated fails
            assert client.call_tool("echo")
            assert sessions(server, "tools/call") == ["session-1", "session-2", "session-2"]
            assert [request.session for request in server.verbs("DELETE")] == ["session-1"]
        until(lambda: any(isinstance(one, Reconnected) for one in seen))
        assert len(server.verbs("DELETE")) == 2
        assert not server.live


def test_a_session_in_use_is_not_idle_whatever_its_calls_take() -> None:
    gate = Gate()
    with Server("handshake", on={"work": gate}) as server, Client(reach(server, **SHORT)) as client:
        future = client.submit_tool("work")
        until(lambda: gate.waiting)
        time.sleep(0.4)  # longer than session_timeout
        assert server.verbs("DELETE") == []
        gate.open()
        assert future.result(PATIENCE)
        for _ in range(8):
            client.ping()
            time.sleep(0.05)
        assert server.verbs("DELETE") == []
        assert len(server.posts("initialize")) == 1


def test_a_session_that_hears_news_is_not_idle_and_its_stream_ends_with_it() -> None:
    news = Stream()
    with Keeper(on={"GET": news}) as server, Client(server.url, timeout=PATIENCE, **SHORT) as client:
        until(lambda: news.lines)
        for _ in range(8):
            news.say(event(method="notifications/message", params={"level": "info", "data": 1}))
            time.sleep(0.05)
        assert server.verbs("DELETE") == []
        until(lambda: server.verbs("DELETE"))
        until(lambda: [one.verb for one in server.abandoned] == ["GET"])
        client.ping()
        until(lambda: len(news.lines) == 2)


@pytest.mark.parametrize("max_reconnects", [0, 5])
def test_calls_of_many_threads_at_the_very_moment_are_all_answered_and_sent_once(max_reconnects: int) -> None:
    with Server("handshake") as server:
        transport = reach(server, max_reconnects=max_reconnects, session_timeout=0.02, session_cleanup_interval=0.01)
        with Client(transport) as client:

            def work(number: int) -> None:
                for turn in range(12):
                    client.call_tool("echo", {"n": [number, turn]})
                    time.sleep(0.02 + 0.001 * number)  # about as long as the timeout

            in_threads(4, work)
            sent = [str(request.arguments) for request in server.calls("echo")]
            assert len(sent) == len(set(sent)) == 48
        assert not server.live


def test_who_finds_the_session_ended_is_told_at_once_and_nothing_is_sent_to_it() -> None:
    with Server("handshake") as server:
        transport = reach(server, max_reconnects=0, **SHORT)
        with transport.create_session() as session:
            session.send_request("ping")
            until(lambda: server.verbs("DELETE"))
            future = session.submit_request("ping")  # which is not sent again by itself
            error = future.exception(PATIENCE)
            assert isinstance(error, SessionExpired)
            assert error.may_have_run is False
            assert "session_timeout" in str(error)
            with pytest.raises(SessionExpired):
                session.send_notification("notifications/odd")
            with within(0.5):
                assert session.send_request("tools/call", {"name": "echo", "arguments": {}})
        assert server.posts("notifications/odd") == []
        assert sessions(server, "ping") == ["session-1"]


def test_what_was_told_to_the_old_session_is_told_to_the_new_one() -> None:
    with Keeper() as server, Client(server.url, timeout=PATIENCE, log_level="error", **SHORT) as client:
        client.ping()
        until(lambda: server.verbs("DELETE"))
        client.ping()
        assert len(server.posts("logging/setLevel")) == 2


def test_a_session_that_is_left_to_somebody_else_is_not_ended_when_idle() -> None:
    with Server("handshake") as server:
        transport = reach(server, **SHORT)
        with pytest.raises(MCPConnectionError, match="no session"):
            transport.leave_session()
        with transport.create_session() as session:
            known = transport.leave_session()
            time.sleep(0.4)
            assert session.send_request("ping") == {}
        assert server.verbs("DELETE") == []
        with reach(server, **SHORT, **known).create_session() as session:
            session.send_request("ping")
            until(lambda: server.verbs("DELETE"))  # this one has not left it
            session.send_request("ping")
        assert sessions(server, "ping") == ["session-1", "session-1", "session-2"]


def test_a_server_that_does_not_care_to_be_told_is_no_trouble() -> None:
    with Server("handshake", on={"DELETE": streams("no")}) as server, Client(reach(server, **SHORT)) as client:
        until(lambda: server.verbs("DELETE"))
        client.ping()


def test_single_messages_belong_to_whoever_sends_them() -> None:
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    with Server("handshake") as server, reach(server, max_sessions=1, **SHORT) as transport:
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin})
        assert transport.receive_message()["id"] == 1
        with pytest.raises(TooManyRequests):
            StreamableHTTPTransport.create_session(_other(transport))
        time.sleep(0.3)
        assert server.verbs("DELETE") == []


def _other(transport: StreamableHTTPTransport) -> StreamableHTTPTransport:
    """Return the transport with its line taken, so that it dials anew."""
    assert transport._line is not None
    transport._line.claimed = True
    return transport


def test_a_forked_child_ends_no_session_of_its_parents() -> None:
    """I14."""
    with Server("handshake") as server, Client(reach(server, max_sessions=1, **SHORT)) as client:
        client.ping()
        pid = os.fork()
        if not pid:
            try:
                client.ping()  # by a session of its own, which is the first here
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        deleted = [request.session for request in server.verbs("DELETE")]
        assert len(deleted) == len(set(deleted))
        client.ping()


def test_closing_while_it_is_being_ended_is_quick_and_ends_it_once() -> None:
    gate = Gate()
    with Server("handshake", on={"DELETE": gate}) as server:
        client = Client(reach(server, **SHORT)).connect()
        until(lambda: gate.waiting)
        threading.Timer(0.1, gate.open).start()
        with within(2.5):
            client.close()
        assert len(server.verbs("DELETE")) == 1


@pytest.mark.parametrize("kind", [StreamableHTTPTransport, UrlTransport], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("knob", "bad"),
    [
        ("session_timeout", 0),
        ("session_timeout", -1),
        ("max_sessions", 0),
        ("max_sessions", True),
        ("session_cleanup_interval", 0),
        ("session_cleanup_interval", None),
    ],
)
def test_values_that_make_no_sense_are_refused(kind: Callable[..., Any], knob: str, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=knob):
        kind("http://127.0.0.1:1/", **{knob: bad})


def test_where_there_are_no_such_sessions_the_keywords_mean_nothing() -> None:
    with pytest.raises(TypeError, match="max_sessions"):
        SSETransport("http://127.0.0.1:1/", max_sessions=1)


def test_nothing_is_looked_for_where_sessions_do_not_expire() -> None:
    with Server("handshake", on={"DELETE": [None, never]}) as server:
        transport = reach(server, session_cleanup_interval=0.01)
        with Client(transport) as client:
            client.ping()
            assert transport._keeper is not None
            assert transport._keeper._alarm is None
            assert transport._keeper.taken == 1
        assert transport._keeper.taken == 0
