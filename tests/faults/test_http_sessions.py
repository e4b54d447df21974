"""Sessions of the handshake era: named by the server, shown to nobody, and begun anew, once, when it forgets them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from faults.http_server import Exchange, Manner, late, replies, silent, streams
from faults.http_streams import Broken, Keeper, Stream, conversing, event, gathers, message, news, part, refusing
from faults.http_tools import CANARY, NOW, Gate, T, closes, is_silent_about, resets, serving, unconnected
from faults.tools import PATIENCE, adds_up, tool, until, within, works

from mcp_sync import (
    JSONRPCError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    Notification,
    RemoteProtocolError,
    SessionExpired,
)
from mcp_sync.exceptions import HTTPStatusError
from mcp_sync.testing import in_threads
from mcp_sync.transports import streamable

CALLERS = 8


# -- a session that is gone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tools/list", "ping"])
def test_eight_calls_that_find_the_session_gone_share_one_new_session_and_get_their_results(method: str) -> None:
    """I10, 5.2: single flight; what only reads is asked again, once."""
    with conversing(on={method: [gathers(CALLERS)] * CALLERS}) as (client, server):
        server.forget_sessions()
        with within(NOW):
            results = in_threads(CALLERS, lambda _: client.request(method, timeout=PATIENCE))
        assert all(isinstance(result, dict) for result in results)
        assert len(server.posts("initialize")) == 2
        assert [request.session for request in server.posts(method)] == ["session-1"] * 8 + ["session-2"] * 8
        works(client)
        adds_up(client.counters)


def test_eight_calls_of_a_tool_that_find_the_session_gone_are_told_so_and_not_sent_again() -> None:
    """I10: whoever called decides; the error says that nothing has run."""
    with conversing(on={"work": [gathers(CALLERS)] * CALLERS}) as (client, server):
        server.forget_sessions()

        def call(_: int) -> SessionExpired:
            with pytest.raises(SessionExpired) as found:
                client.call_tool("work")
            return found.value

        with within(NOW):
            errors = in_threads(CALLERS, call)
        assert {error.may_have_run for error in errors} == {False}
        assert len({id(error) for error in errors}) == CALLERS  # I2: each has its own
        assert all(error.details["status"] == 404 and error.details["method"] == "tools/call" for error in errors)
        assert len(server.calls("work")) == CALLERS
        assert len(server.posts("initialize")) == 2
        works(client)
        assert server.calls("echo")[-1].session == "session-2"


def test_calls_of_both_kinds_find_the_session_gone_at_once() -> None:
    """5.2: each gets what is its due, and there is one new session."""
    manners = {"work": [gathers(4)] * 4, "tools/list": [gathers(4)] * 4}
    with conversing(on=manners) as (client, server):
        server.forget_sessions()

        def call(number: int) -> str:
            try:
                if number % 2:
                    client.request("tools/list")
                else:
                    client.call_tool("work")
            except SessionExpired:
                return "expired"
            return "ok"

        with within(NOW):
            assert in_threads(CALLERS, call) == ["expired", "ok"] * 4
        assert len(server.posts("initialize")) == 2
        assert len(server.calls("work")) == 4
        works(client)


def test_a_call_of_a_tool_is_repeated_where_the_user_wants_repeats() -> None:
    """I10: a server that has forgotten the session has not run it, so a repeat is safe."""
    with conversing(on={"work": [gathers(CALLERS)] * CALLERS}, max_retries=2, retry_delay=0.01) as (client, server):
        server.forget_sessions()
        with within(NOW):
            assert in_threads(CALLERS, lambda n: tool(client, "work", n=n)) == [{"n": n} for n in range(CALLERS)]
        assert len(server.posts("initialize")) == 2
        assert len(server.calls("work")) == 2 * CALLERS
        assert len([request for request in server.calls("work") if request.session == "session-2"]) == CALLERS


def test_submitted_calls_are_told_too_and_the_next_call_begins_a_new_session() -> None:
    """I2, I10: each is sent once, be it in the old session or in the new one."""
    with conversing(on={"work": [gathers(CALLERS)] * CALLERS}) as (client, server):
        server.forget_sessions()
        futures = [client.submit_tool("work") for _ in range(CALLERS)]
        with within(NOW):
            errors = [future.exception(PATIENCE) for future in futures]
        assert all(isinstance(error, SessionExpired) and error.may_have_run is False for error in errors)
        assert client.submit_tool("echo", {"a": 1}).result(NOW).text == '{"a": 1}'
        works(client)
        assert len(server.posts("initialize")) == 2
        assert len(server.calls("work")) == CALLERS


def test_a_call_that_is_under_way_in_the_old_session_is_not_disturbed_by_the_new_one() -> None:
    """I4: its answer comes the way it was asked for."""
    gate = Gate()
    with conversing(on={"work": gate}) as (client, server):
        future = client.submit_tool("work", {"n": 1})
        until(lambda: gate.waiting)
        server.live.add("kept")  # what was asked before may be answered: the manner asks for the answer later
        server.forget_sessions()
        client.ping()
        server.live.add("session-1")
        gate.open()
        assert json.loads(future.result(PATIENCE).text) == {"n": 1}
        works(client)
        assert len(server.posts("initialize")) == 2


HOW_IT_IS_SAID: dict[str, Manner] = {
    "nothing": replies(404, "", content_type=None),
    "a page": replies(404, "<h1>Not found</h1>", content_type="text/html"),
    "an error without an id": replies(
        404, '{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "no"}}'
    ),
    "an error with our id": replies(404, '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32001, "message": "no"}}'),
    "an error with an id of its own": replies(
        404, '{"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "no"}}'
    ),
    "other JSON": replies(404, '{"detail": "Not Found"}'),
}


@pytest.mark.parametrize("how", HOW_IT_IS_SAID)
def test_a_lost_session_is_told_by_the_status_whatever_comes_with_it(how: str) -> None:
    """D11"""
    with conversing(on={"work": [HOW_IT_IS_SAID[how]]}) as (client, server):
        with within(NOW), pytest.raises(SessionExpired):
            client.call_tool("work")
        works(client)
        assert len(server.posts("initialize")) == 2


def test_not_found_that_says_it_is_the_method_is_no_lost_session() -> None:
    """E12, W 1: an unknown method is that and nothing else."""
    body = '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32601, "message": "Method not found"}}'
    with conversing(on={"work": replies(404, body)}) as (client, server):
        with pytest.raises(JSONRPCError, match="not found"):
            client.call_tool("work")
        works(client)
        assert len(server.posts("initialize")) == 1


def test_a_bad_request_is_no_lost_session() -> None:
    """D11: only 404 says so."""
    with conversing(on={"work": replies(400, "Bad Request: Missing session ID", content_type="text/plain")}) as pair:
        client, server = pair
        with pytest.raises(HTTPStatusError, match="400"):
            client.call_tool("work")
        works(client)
        assert len(server.posts("initialize")) == 1


GONE = replies(404, "gone", content_type="text/plain")


@pytest.mark.parametrize("repeats", [0, 2])
def test_a_server_that_forgets_every_session_at_once_is_not_asked_for_ever(repeats: int) -> None:
    """5.2: as many attempts as the user wants, and one new session for each."""
    with conversing(on={"work": GONE, "tools/list": GONE}, max_retries=repeats, retry_delay=0.01) as (client, server):
        for number, ask in enumerate([lambda: client.call_tool("work"), lambda: client.request("tools/list")]):
            before = len(server.requests)
            with within(NOW), pytest.raises(SessionExpired) as found:
                ask()
            assert found.value.may_have_run is False
            assert len(server.posts("initialize")) <= 1 + (number + 1) * 2 * (repeats + 1)
            assert len(server.requests) - before <= (repeats + 1) * 10
        works(client)


def test_a_server_that_forgets_a_session_before_it_has_begun_is_left_alone_in_time() -> None:
    """I1, I9: attempts to reconnect have a pause between them, and one timeout for all."""
    with conversing(timeout=T * 2, reconnect_interval=0.1) as (client, server):
        server.set(**{"notifications/initialized": GONE})
        server.forget_sessions()
        with within(T * 2), pytest.raises(MCPError) as found:
            client.ping()
        assert isinstance(found.value, (MCPConnectionError, MCPTimeoutError))
        assert len(server.posts("initialize")) <= 6
        server.on.clear()
        client.ping()
        works(client)


BEGINNINGS: dict[str, Manner] = {
    "refused": replies(500, "sorry", content_type="text/plain"),
    "closed": closes,
    "reset": resets,
    "silent": silent,
}


@pytest.mark.parametrize("how", BEGINNINGS)
def test_a_new_session_that_does_not_begin_fails_all_who_wait_in_time_and_later_ones_are_fine(how: str) -> None:
    """I1, I2: nobody waits beyond his own time."""
    with conversing(on={"ping": [gathers(CALLERS)] * CALLERS}, reconnect_interval=0.05) as (client, server):
        server.forget_sessions()
        server.set(initialize=BEGINNINGS[how])

        def call(_: int) -> MCPError:
            with within(T), pytest.raises(MCPError) as found:
                client.ping(T)
            return found.value

        errors = in_threads(CALLERS, call)
        assert all(error.may_have_run is not True for error in errors)
        server.on.clear()
        with within(NOW):
            client.ping()
        works(client)
        adds_up(client.counters)


def test_whoever_waits_for_the_new_session_waits_no_longer_than_his_own_timeout() -> None:
    """I1: one caller has patience and renews, the other has not."""
    with conversing(on={"ping": [gathers(2)] * 2}) as (client, server):
        server.forget_sessions()
        server.set(initialize=late(T * 2))

        def call(number: int) -> None:
            if number:
                client.ping(PATIENCE)
                return
            with within(T), pytest.raises(MCPTimeoutError):
                client.ping(T)

        in_threads(2, call)
        assert 2 <= len(server.posts("initialize")) <= 3  # who was first may have been the impatient one
        works(client)


def test_a_session_that_is_lost_while_nobody_asks_is_noticed_by_the_stream_of_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D11, 5.5: a GET carries the session too; the next call begins a new one before it is sent.

    What was listened to in the old one ends with an error, not in silence.
    """
    monkeypatch.setattr(streamable, "STREAM_PAUSE", 0.1)
    stream = Stream()
    with conversing(on={"GET": stream}) as (client, server):
        until(lambda: stream.lines)
        subscription = client.listen(tools_list_changed=True)
        server.forget_sessions()
        server.set(GET=[GONE, stream])
        stream.end()
        until(lambda: len(server.verbs("GET")) == 2)
        until(lambda: not server.busy)
        assert tool(client, "work", NOW, n=1) == {"n": 1}
        assert len(server.posts("initialize")) == 2
        assert len(server.calls("work")) == 1
        with within(NOW), pytest.raises(MCPConnectionError):
            subscription.next(2.0)
        subscription.close()


def test_a_notification_that_finds_the_session_gone_begins_a_new_one() -> None:
    """D11: whoever sent it is told, for the new session may need it no more."""
    with conversing() as (client, server):
        server.forget_sessions()
        with within(NOW), pytest.raises(SessionExpired) as found:
            client.notify("notifications/roots/list_changed")
        assert found.value.may_have_run is False
        works(client)
        assert len(server.posts("initialize")) == 2


# -- what the server knew of us ----------------------------------------------------------------------------------------


def test_a_new_session_is_told_what_was_subscribed_to_and_the_log_level() -> None:
    """C6, M7: the application has not to say it again."""
    heard: list[Notification] = []
    stream = Stream()
    with conversing(on={"GET": stream}, log_level="warning", on_notification=heard.append) as (client, server):
        client.subscribe("file:///a")
        client.subscribe("file:///b")
        client.unsubscribe("file:///b")
        server.forget_sessions()
        client.ping()
        told = [r for r in server.posts() if r.session == "session-2"]
        assert [r.params for r in told if r.method == "resources/subscribe"] == [{"uri": "file:///a"}]
        assert [r.params for r in told if r.method == "logging/setLevel"] == [{"level": "warning"}]
        until(lambda: len(stream.lines) == 2)
        stream.say(event(method="notifications/resources/updated", params={"uri": "file:///a"}))
        until(lambda: heard)
        assert heard[-1].params == {"uri": "file:///a"}


def test_a_new_session_is_told_the_log_level_that_was_set_last() -> None:
    """C6: not only the one that the client was made with."""
    with conversing() as (client, server):
        client.set_logging_level("error")
        server.forget_sessions()
        client.ping()
        levels = [r.params["level"] for r in server.posts("logging/setLevel") if r.session == "session-2"]
        assert levels == ["error"]


def test_news_that_is_listened_to_ends_with_an_error_when_the_session_is_lost_though_calls_go_on() -> None:
    """5.5: never silently: what happened meanwhile has to be looked up."""
    stream = Stream()
    with conversing(on={"GET": stream}) as (client, server):
        subscription = client.listen(tools_list_changed=True, resource_subscriptions=["file:///a"])
        until(lambda: stream.lines)
        stream.say(event(method="notifications/tools/list_changed"))
        assert subscription.next(NOW) is not None
        server.forget_sessions()
        client.ping()
        with within(NOW), pytest.raises(MCPConnectionError):
            subscription.next(PATIENCE)
        subscription.close()
        works(client)


def test_a_server_that_no_longer_knows_a_resource_does_not_keep_the_new_session_from_beginning() -> None:
    """I10: no hidden request turns a success into an error."""
    with conversing() as (client, server):
        client.subscribe("file:///a")
        server.set(
            **{
                "resources/subscribe": replies(
                    200, '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32002, "message": "unknown"}}'
                )
            }
        )
        server.forget_sessions()
        assert client.request("tools/list")["tools"]
        works(client)


# -- names of sessions -------------------------------------------------------------------------------------------------

GOOD = ["!", "~", "a" * 4000, "".join(map(chr, range(0x21, 0x7F))), "1", '"quoted"', "a,b;c=d"]


@pytest.mark.parametrize("name", GOOD, ids=range(len(GOOD)))
def test_a_session_is_called_what_the_server_calls_it(name: str) -> None:
    """D11: visible ASCII; repeated to the letter, everywhere."""
    stream = Stream()
    with conversing(names=lambda _: name, on={"GET": stream}) as (client, server):
        works(client)
        until(lambda: stream.lines)
    later = [request for request in server.requests if request.method not in ("server/discover", "initialize")]
    assert {request.session for request in later} == {name}
    assert {request.verb for request in later} == {"POST", "GET", "DELETE"}


BAD: dict[str, str] = {
    "a blank inside": f"{CANARY} b",
    "a tab inside": f"{CANARY}\tb",
    "a control character": f"{CANARY}\x01",
    "DEL": f"{CANARY}\x7f",
    "no ASCII": f"{CANARY}é",
    "UTF-8": f"{CANARY}日本".encode().decode("latin-1"),
    "nothing": "",
    "60 kB": CANARY + "a" * 60_000,
    "twice": f"{CANARY}\r\nMcp-Session-Id: {CANARY}2",
}


@pytest.mark.parametrize("how", BAD)
def test_a_session_with_an_impossible_name_is_refused_at_once_and_the_name_not_shown(how: str) -> None:
    """I12, 5.2: at connect, with a text that says what is wrong."""
    body = '{"jsonrpc": "2.0", "id": $ID, "result": {"protocolVersion": "2025-11-25", "capabilities": {}, '
    body += '"serverInfo": {"name": "x", "version": "1"}}}'
    begins = replies(200, body, f"Mcp-Session-Id: {BAD[how]}")
    with unconnected("handshake", on={"initialize": begins}) as (client, server):
        with within(NOW), pytest.raises(RemoteProtocolError, match="session id") as found:
            client.connect()
        is_silent_about(CANARY, found.value, client)
        assert not server.posts("notifications/initialized")
        assert not [request for request in server.requests if request.session is not None]


def test_the_name_of_a_session_is_in_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """I12: not in logs of ours or of the libraries below, in reprs, events, or errors of any kind."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    events: list[Any] = []
    manners: dict[str, Manner] = {
        "lost": [GONE],
        "failing": replies(500, "it is broken", content_type="text/plain"),
        "no answer": replies(200, "no", content_type="text/plain"),
        "silent": silent,
        "cut": closes,
    }
    with conversing(names=lambda number: f"{CANARY}-{number}", on=manners) as (client, server):
        client.transport.observe(events.append)
        for name in manners:
            with pytest.raises(MCPError) as found:
                client.call_tool(name, timeout=T)
            is_silent_about(CANARY, found.value)
        is_silent_about(CANARY, client, client._asker.caller, client.transport)  # type: ignore[union-attr]
        works(client)
        assert len(server.posts("initialize")) == 2
    is_silent_about(CANARY, caplog.text.encode(), *events)


ECHOES: dict[str, Manner] = {
    "the session is gone": replies(404, f"there is no session {CANARY}", content_type="text/plain"),
    "gone, in JSON": replies(404, message(id=None, error={"code": -32600, "message": f"no session {CANARY}"})),
    "a failure": replies(500, f"session {CANARY} is broken", content_type="text/plain"),
    "no answer": replies(200, f"session {CANARY} is fine", content_type="text/plain"),
    "an event that is none": streams(event(f"session {CANARY}"), answer=False),
}


@pytest.mark.parametrize("how", ECHOES)
def test_a_server_that_repeats_the_name_of_the_session_does_not_make_us_repeat_it(how: str) -> None:
    """I12: it is as good as a password, and errors end up in logs."""
    with conversing(names=lambda _: CANARY, on={"work": [ECHOES[how]]}) as (client, _):
        with pytest.raises(MCPError) as found:
            client.call_tool("work")
        is_silent_about(CANARY, found.value)
        works(client)


def test_only_the_answer_to_initialize_names_a_session() -> None:
    """W 25: whatever other replies say."""
    other = "Mcp-Session-Id: another"

    def dressed(exchange: Exchange) -> None:
        answer = exchange.answer
        exchange.reply(answer.status, answer.body, other, content_type=answer.content_type)

    stream = [part(news(1), then="close")]
    keys = ("tools/list", "ping", "notifications/initialized", "server/discover", "work", "resources/subscribe")
    manners: dict[str, Any] = dict.fromkeys(keys, dressed)
    manners["fails"] = replies(500, "no", other, content_type="text/plain")
    manners["GET"] = lambda exchange: stream[0](exchange, None)
    with conversing(on=manners) as (client, server):
        client.request("tools/list")
        client.ping()
        client.call_tool("work")
        client.subscribe("file:///a")
        with pytest.raises(HTTPStatusError):
            client.call_tool("fails")
        works(client)
    later = [request for request in server.requests if request.method not in ("server/discover", "initialize")]
    assert {request.session for request in later} == {"session-1"}
    assert not [r for r in server.requests if r.session and r.method in ("server/discover", "initialize")]


def test_an_initialize_that_is_refused_names_no_session() -> None:
    """D11: it is on the InitializeResult, which an error is not."""
    refusal = {"code": -32602, "message": "Unsupported protocol version", "data": {"supported": ["2025-06-18"]}}
    body = json.dumps({"jsonrpc": "2.0", "id": "$ID", "error": refusal}).replace('"$ID"', "$ID")
    refused = replies(200, body, "Mcp-Session-Id: never-mine")
    options = {"version": "2025-06-18", "sessions": False, "on": {"initialize": [refused]}}
    with serving("handshake", **options) as (client, server):  # type: ignore[arg-type]
        works(client)
        assert client.protocol_version == "2025-06-18"
    assert not [request for request in server.requests if request.session is not None]
    assert not server.verbs("DELETE")


def test_every_request_of_a_session_says_so_and_none_before_it() -> None:
    """D11, D13, W 3, W 25: POST, GET, DELETE, notifications and answers, with the version."""
    stream = Stream()
    with conversing(on={"GET": stream}, version="2025-06-18", roots=list) as (client, server):
        works(client)
        until(lambda: stream.lines)
        stream.say(event(id="q", method="roots/list"), event(id=7, method="ping"))
        until(lambda: len([r for r in server.posts() if not r.method]) == 2)
        client.notify("notifications/roots/list_changed")
    first = [r for r in server.requests if r.method in ("server/discover", "initialize")]
    assert [r.session for r in first] == [None, None]
    assert [r.headers.get("mcp-protocol-version") for r in first] == ["2026-07-28", None]
    rest = [r for r in server.requests if r not in first]
    assert {(r.session, r.headers.get("mcp-protocol-version")) for r in rest} == {("session-1", "2025-06-18")}
    assert [r.verb for r in rest].count("DELETE") == 1
    assert not [r for r in rest if "mcp-method" in r.headers]


def test_a_stateless_server_is_shown_no_session_and_assigns_none() -> None:
    """E1"""

    def dressed(exchange: Exchange) -> None:
        exchange.reply(200, exchange.body, "Mcp-Session-Id: never-mine")

    with serving(on={"server/discover": dressed, "work": dressed, "tools/list": dressed}) as (client, server):
        client.call_tool("work")
        client.list_tools()
    assert not [request for request in server.requests if request.session is not None]
    assert {request.verb for request in server.requests} == {"POST"}


# -- the end of a session ----------------------------------------------------------------------------------------------


def test_close_ends_the_session_on_the_server_once() -> None:
    """D12"""
    with conversing() as (client, server):
        works(client)
        in_threads(CALLERS, lambda _: client.close())
        assert [request.session for request in server.verbs("DELETE")] == ["session-1"]
        client.close()
        assert len(server.verbs("DELETE")) == 1
        assert not server.live


def test_a_session_that_the_server_has_forgotten_is_not_ended_there() -> None:
    """D12: only the one that took its place."""
    with conversing() as (client, server):
        server.forget_sessions()
        client.ping()
    assert [request.session for request in server.verbs("DELETE")] == ["session-2"]


def test_a_server_without_sessions_is_sent_no_delete() -> None:
    """D12"""
    with serving("handshake", sessions=False) as (client, server):
        works(client)
    assert not server.verbs("DELETE")
    assert not [request for request in server.requests if request.session is not None]


def endless(exchange: Exchange) -> None:
    exchange.send(exchange.head(200, "Transfer-Encoding: chunked", content_type="text/plain"))
    while True:
        exchange.chunk(b"x" * 1000)
        exchange.pause(0.001)


def dripping(exchange: Exchange) -> None:
    exchange.drip(b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 10_000, every=0.02)


FAREWELLS: dict[str, tuple[Any, float]] = {
    "405": (replies(405, "", content_type=None), 0.5),
    "404": (GONE, 0.5),
    "500": (replies(500, "x" * 100_000, content_type="text/plain"), 0.5),
    "a body without end": (endless, 0.5),
    "closed": (closes, 0.5),
    "reset": (resets, 0.5),
    "silent": (silent, 0.8),
    "a head that drips": (dripping, 0.8),
}


@pytest.fixture
def short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer than 0.8 s for the end of a session; else it is 2 s, less than the 5 s that close() may take."""
    assert streamable.FAREWELL_SECONDS == 2.0
    monkeypatch.setattr(streamable, "FAREWELL_SECONDS", 0.8)


@pytest.mark.usefixtures("short_farewell")
@pytest.mark.parametrize("how", FAREWELLS)
def test_whatever_the_server_says_to_the_end_close_is_done_in_time(how: str) -> None:
    """I7: the time for a farewell at the very most; 0.5 s where it answers."""
    manner, seconds = FAREWELLS[how]
    with conversing(on={"DELETE": manner}) as (client, _):
        works(client)
        with within(seconds):
            client.close()


def test_close_with_a_timeout_of_its_own_waits_no_longer_for_the_end_of_the_session() -> None:
    """I1, I7"""
    with conversing(on={"DELETE": silent}) as (client, server):
        works(client)
        with within(0.2):
            client.close(0.2)
        until(lambda: server.abandoned)


@pytest.mark.usefixtures("short_farewell")
def test_a_session_that_ends_while_its_calls_are_under_way_ends_each_of_them_once() -> None:
    """I2, I7: with the DELETE that hangs; nobody waits for it but close itself."""
    with conversing(on={"DELETE": silent, "work": silent}) as (client, server):
        began = threading.Event()

        def call(number: int) -> float:
            if number == CALLERS:
                until(lambda: len(server.calls("work")) == CALLERS)
                began.set()
                client.close()
                return 0.0
            with pytest.raises(MCPConnectionError, match="closed"):
                client.call_tool("work")
            return time.monotonic()

        started = time.monotonic()
        with within(0.8 + 0.3):
            ended = in_threads(CALLERS + 1, call)[:CALLERS]
        assert max(ended) - started < 0.7
        adds_up(client.counters)


# -- many at once ------------------------------------------------------------------------------------------------------


def test_sessions_that_are_lost_again_and_again_under_load_lose_no_call() -> None:
    """I2, I3, I10, I20: what only reads has its result always; a tool runs once, or not at all."""
    with conversing(on={"DELETE": GONE}) as (client, server):
        over = threading.Event()
        outcomes: list[str] = []

        def call(number: int) -> None:
            if number == CALLERS:
                for _ in range(10):
                    time.sleep(0.03)
                    server.forget_sessions()
                over.set()
                return
            count = 0
            while not over.is_set():
                count += 1
                try:
                    if number % 2:
                        assert tool(client, "echo", n=(number, count)) == {"n": [number, count]}
                    else:
                        client.ping()
                    outcomes.append("ok")
                except SessionExpired as error:
                    outcomes.append(f"expired, {error.may_have_run}")

        in_threads(CALLERS + 1, call, PATIENCE)
        assert outcomes.count("ok") > 20
        assert set(outcomes) <= {"ok", "expired, False"}
        assert len(server.posts("initialize")) <= 1 + 2 * 10
        ran = [tuple(r.arguments["n"]) for r in server.calls("echo")]
        assert len(ran) == len(set(ran))
        works(client)
        adds_up(client.counters)


def test_a_resumed_reply_that_finds_the_session_gone_is_an_error_now_and_nobody_knows_whether_it_ran() -> None:
    """I10, 5.2: it had been taken up before the session was lost."""
    broken = Broken(part("id: e1\ndata:\n\n", then="cut"), refusing(404, "gone", content_type="text/plain"))
    with conversing(on=broken.on, max_retries=2, retry_delay=0.01) as (client, server):
        with within(NOW), pytest.raises(SessionExpired) as found:
            client.call_tool("work")
        assert found.value.may_have_run is None
        assert len(server.calls("work")) == 1
        works(client)
        assert len(server.posts("initialize")) == 2


def test_a_session_that_two_clients_share_a_server_for_is_each_ones_own() -> None:
    """I3"""
    make: Callable[[int], str] = "session-{}".format
    with conversing(names=make) as (client, server), conversing(names=make) as (other, elsewhere):
        assert isinstance(server, Keeper)
        server.forget_sessions()
        client.ping()
        other.ping()
        assert len(server.posts("initialize")) == 2
        assert len(elsewhere.posts("initialize")) == 1
