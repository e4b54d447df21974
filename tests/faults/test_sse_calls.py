"""HTTP+SSE: calls: accepted by a POST, answered on the stream; each its own way, whatever becomes of the others."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from faults.http_server import Exchange, Manner, late, replies, silent
from faults.http_streams import OldServer, accepts, answers_without_accepting, event, line_of, listening, news, result
from faults.http_tools import CANARY, NOW, T, closes, is_silent_about, resets
from faults.tools import PATIENCE, adds_up, tool, until, within, works

from mcp_sync import (
    JSONRPCError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    Notification,
    RemoteProtocolError,
)
from mcp_sync.exceptions import AuthError, HTTPStatusError, RateLimited, ServerError
from mcp_sync.testing import in_threads


def server_of(exchange: Exchange) -> OldServer:
    assert isinstance(exchange.server, OldServer)
    return exchange.server


def on_stream(*blocks: str) -> Manner:
    """Accept the message, and say this on the stream; ``$ID`` is the id of the request."""

    def act(exchange: Exchange) -> None:
        exchange.reply(202, "Accepted", content_type="text/plain")
        filled = [block.replace("$ID", str(exchange.request.id)) for block in blocks]
        server_of(exchange).say(*filled, line=line_of(exchange.request))

    return act


# -- the POST ----------------------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Manner, type[MCPError], bool | None]] = {
    "400": (replies(400, "no", content_type="text/plain"), HTTPStatusError, False),
    "401": (replies(401, "", content_type=None), AuthError, False),
    "403": (replies(403, "", content_type=None), AuthError, False),
    "404": (replies(404, "no session", content_type="text/plain"), HTTPStatusError, False),
    "413": (replies(413, "", content_type=None), HTTPStatusError, False),
    "429": (replies(429, "", "Retry-After: 3", content_type=None), RateLimited, False),
    "500": (replies(500, "", content_type=None), ServerError, None),
    "503": (replies(503, "", content_type=None), ServerError, None),
    "302": (replies(302, "", "Location: /elsewhere", content_type=None), HTTPStatusError, False),
    "307 elsewhere": (replies(307, "", "Location: http://localhost:1/x", content_type=None), HTTPStatusError, False),
    "closed": (closes, MCPConnectionError, None),
    "reset": (resets, MCPConnectionError, None),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_message_that_is_not_accepted_is_a_typed_error_at_once_for_its_call_only(how: str) -> None:
    """I4, I6, I10: not sent again; the stream goes on."""
    manner, kind, ran = REFUSALS[how]
    with listening(on={"work": manner, "other": late(0.0)}) as (client, server):
        with within(NOW), pytest.raises(kind) as found:
            client.call_tool("work")
        assert found.value.may_have_run is ran
        assert found.value.details["method"] == "tools/call"
        assert found.value.details["transport"] == "sse"
        assert str(server.port) in str(found.value)
        assert len(server.calls("work")) == 1
        works(client)
        assert len(server.verbs("GET")) == 1
        adds_up(client.counters)


def test_a_message_that_is_not_accepted_may_be_answered_by_a_future_too() -> None:
    """I2"""
    with listening(on={"work": REFUSALS["500"][0]}) as (client, _):
        future = client.submit_tool("work")
        with within(NOW):
            assert isinstance(future.exception(PATIENCE), ServerError)
        works(client)
        adds_up(client.counters)


ACCEPTED: dict[str, Manner] = {
    "200": replies(200, "", content_type=None),
    "200 with a page": replies(200, "<html>ok</html>", content_type="text/html"),
    "201": replies(201, "", content_type=None),
    "202": replies(202, "Accepted", content_type="text/plain"),
    "204": replies(204, "", content_type=None),
}


@pytest.mark.parametrize("how", ACCEPTED)
def test_a_message_that_is_accepted_in_any_way_is_answered_on_the_stream(how: str) -> None:
    """F2: what the POST says means nothing."""

    def act(exchange: Exchange) -> None:
        ACCEPTED[how](exchange)
        server_of(exchange).respond(exchange.request)

    with listening(on={"work": act}) as (client, _):
        with within(0.2):
            assert tool(client, "work", a=1) == {"a": 1}
        works(client)


def test_an_answer_counts_at_once_though_the_post_is_never_answered() -> None:
    """5.2: a valid result is not thrown away, nor waited with."""
    with listening(on={"work": answers_without_accepting}) as (client, server):
        for number in range(3):
            with within(0.2):
                assert tool(client, "work", n=number) == {"n": number}
        assert client.submit_tool("work", {"n": 9}).result(NOW).text == '{"n": 9}'
        until(lambda: len(server.abandoned) == 4)
        works(client)
        adds_up(client.counters)


def test_an_answer_that_comes_before_the_post_is_refused_is_the_answer() -> None:
    """I2: once."""

    def act(exchange: Exchange) -> None:
        server_of(exchange).respond(exchange.request)
        exchange.pause(0.1)
        exchange.reply(500, "too late", content_type="text/plain")

    with listening(on={"work": act}) as (client, _):
        assert tool(client, "work", a=1) == {"a": 1}
        works(client)
        time.sleep(0.12)
        adds_up(client.counters)


def test_one_post_that_is_never_answered_delays_no_other() -> None:
    """5.2, I4: nor 64 callers."""
    with listening(on={"dead": silent, "work": late(0.01)}) as (client, server):
        dead = client.submit_tool("dead", timeout=PATIENCE)
        until(lambda: server.calls("dead"))

        def call(number: int) -> None:
            if number < 4:
                with within(T * 2), pytest.raises(MCPTimeoutError):
                    client.call_tool("dead", timeout=T * 2)
                return
            for count in range(3):
                assert tool(client, "work", n=[number, count]) == {"n": [number, count]}

        with within(5.0):
            in_threads(64, call, PATIENCE)
        assert not dead.done()
        assert dead.cancel()
        works(client)
        adds_up(client.counters)


# -- timeouts and cancels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no POST reply", "accepted"])
@pytest.mark.parametrize("why", ["timeout", "cancel", "a future's timeout"])
def test_a_call_that_is_given_up_is_cancelled_by_one_notification(how: str, why: str) -> None:
    """H1, I1"""
    with listening(on={"work": silent if how == "no POST reply" else accepts}) as (client, server):
        if why == "timeout":
            with within(T), pytest.raises(MCPTimeoutError):
                client.call_tool("work", timeout=T)
        else:
            future = client.submit_tool("work", timeout=PATIENCE if why == "cancel" else T)
            until(lambda: server.calls("work"))
            if why == "cancel":
                assert future.cancel()
            else:
                with within(T), pytest.raises(MCPTimeoutError):
                    future.result(PATIENCE)
        until(lambda: server.posts("notifications/cancelled"))
        until(lambda: not [r for r in server.calls("work") if how != "accepted" and r not in server.abandoned])
        works(client)
        (notice,) = server.posts("notifications/cancelled")
        assert notice.params["requestId"] == server.calls("work")[0].id
        adds_up(client.counters)


def test_a_late_answer_is_for_nobody() -> None:
    """W 40"""

    def act(exchange: Exchange) -> None:
        accepts(exchange)
        server_of(exchange).respond(exchange.request, delay=0.3)

    with listening(on={"work": act}) as (client, _):
        with within(0.2), pytest.raises(MCPTimeoutError):
            client.call_tool("work", {"n": 1}, 0.2)
        for number in range(5):
            assert tool(client, "echo", n=number) == {"n": number}
        until(lambda: client.counters["dropped_late"] == 1)
        adds_up(client.counters)


def test_futures_that_are_cancelled_make_room_for_others() -> None:
    """I4: a worker each."""
    with listening(on={"work": silent}, max_pipeline_size=4) as (client, server):
        futures = [client.submit_tool("work", timeout=PATIENCE) for _ in range(8)]
        until(lambda: len(server.calls("work")) == 4)
        last = client.submit_tool("echo", {"a": 1})
        with within(NOW):
            assert all(future.cancel() for future in reversed(futures))
            assert last.result(PATIENCE).text == '{"a": 1}'
        assert len(server.calls("work")) == 4  # those that still waited were never sent
        adds_up(client.counters)


# -- answers -----------------------------------------------------------------------------------------------------------

FOREIGN = {
    "a larger id": event(result("no", id=999_999)),
    "the id as text": event('{"jsonrpc": "2.0", "id": "$ID", "result": {}}'),
    "null": event(result("no", id=None)),
    "an error without an id": event(id=None, error={"code": -32700, "message": "no"}),
    "no JSON": event("hello"),
    "another event": f"event: other\ndata: {result('no')}\n\n",
    "a request of the server": event(id=77, method="ping"),
    "nothing": "data:\n\n",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_answer_to_anybody_changes_nothing(what: str) -> None:
    """I3, I4: the answer comes after it."""
    with listening(on={"work": on_stream(FOREIGN[what], event(result()))}) as (client, _):
        with within(0.3):
            assert tool(client, "work") == "done"
        works(client)
        adds_up(client.counters)


UNREADABLE: dict[str, tuple[str, type[MCPError]]] = {
    "half of it": (event(result()[:-10]), RemoteProtocolError),
    "a result that is a list": (event(id="$ID", result=[]), RemoteProtocolError),
    "another JSON-RPC": (event(result().replace('"2.0"', '"1.0"')), RemoteProtocolError),
    "too deep": (event('{"jsonrpc": "2.0", "id": $ID, "result": {"x": ' + "[" * 300 + "]" * 300 + "}}"), MCPError),
    "too large": (event(result("x" * 20_000)), MessageTooLarge),
    "an error": (event(id="$ID", error={"code": -32000, "message": "no"}), JSONRPCError),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_answer_that_cannot_be_read_fails_its_call_at_once(what: str) -> None:
    """I4, I5: and no other."""
    text, kind = UNREADABLE[what]
    with listening(on={"work": on_stream(text), "other": accepts}, max_message_size=10_000) as (client, _):
        other = client.submit_tool("other", timeout=PATIENCE)
        with within(NOW), pytest.raises(kind):
            client.call_tool("work")
        assert not other.done()
        other.cancel()
        works(client)
        adds_up(client.counters)


def test_an_answer_that_comes_twice_is_one_answer() -> None:
    """I2"""
    with listening(on={"work": on_stream(event(result()), event(result("again")))}) as (client, _):
        for _ in range(10):
            assert tool(client, "work") == "done"
        until(lambda: client.counters["dropped_late"] == 10)
        works(client)
        adds_up(client.counters)


def test_answers_to_many_calls_in_any_order_reach_each_its_own() -> None:
    """I3: 16 of them, backwards, all in one piece."""
    waiting: list[Exchange] = []

    def gathers(exchange: Exchange) -> None:
        accepts(exchange)
        waiting.append(exchange)
        if len(waiting) == 16:
            said = [event(result(one.request.arguments["n"], id=one.request.id)) for one in reversed(waiting)]
            server_of(exchange).say("".join(said))

    with listening(on={"work": gathers}) as (client, _):
        with within(NOW):
            assert in_threads(16, lambda n: tool(client, "work", n=n)) == list(range(16))
        works(client)
        adds_up(client.counters)


def test_progress_news_and_questions_come_on_the_stream() -> None:
    """D15, I13: and are answered by a POST to the endpoint."""
    seen: list[float] = []
    heard: list[Any] = []
    steps = [
        event(method="notifications/progress", params={"progressToken": "$ID", "progress": number})
        for number in range(1, 4)
    ]
    blocks = [*steps, news(7), event(id="q", method="roots/list"), event(result())]

    def note(notification: Notification) -> None:
        heard.append((notification.params or {}).get("data"))

    with listening(on={"work": on_stream(*blocks)}, on_notification=note, roots=lambda: ["/tmp"]) as (client, server):
        outcome = client.call_tool("work", on_progress=lambda number, *_: seen.append(number))
        assert outcome.text == '"done"'
        assert seen == [1, 2, 3]
        until(lambda: [request for request in server.posted if not request.method])
        until(lambda: heard == [7])
        answer = next(request for request in server.posted if not request.method)
        assert answer.message["result"]["roots"][0]["uri"] == "file:///tmp"


def test_a_flood_of_news_delays_no_call() -> None:
    """I8, I13"""
    with listening() as (client, server):
        text = "".join(news(number) for number in range(500))

        def flood(number: int) -> None:
            if number:
                for _ in range(20):
                    server.say(text)
                return
            for _ in range(20):
                with within(0.5):
                    works(client)

        in_threads(2, flood)
        until(lambda: client.counters["notifications_received"] == 10_000)
        with within(0.5):
            client.close()


def test_every_request_shows_the_credentials_and_none_of_them_is_in_a_text(caplog: pytest.LogCaptureFixture) -> None:
    """G9, I12: on the stream and on every POST."""
    caplog.set_level("DEBUG")
    with listening(on={"work": REFUSALS["500"][0]}, auth_header=f"Bearer {CANARY}") as (client, server):
        works(client)
        with pytest.raises(ServerError) as found:
            client.call_tool("work")
        is_silent_about(CANARY, found.value, client, client.transport, client._asker.caller)  # type: ignore[union-attr]
    assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {CANARY}"}
    is_silent_about(CANARY, caplog.text.encode())


def test_credentials_that_are_refused_are_renewed_once_and_the_message_is_sent_again() -> None:
    """G2: 401 says that it was not accepted; eight callers at once have them renewed once."""
    provider = Provider()
    refused = threading.Event()

    def picky(exchange: Exchange) -> None:
        if exchange.request.headers.get("authorization") != f"Bearer token-{provider.wanted}":
            refused.set()
            exchange.reply(401, "", content_type=None)
            return
        server_of(exchange).respond(exchange.request)
        accepts(exchange)

    with listening(on={"work": picky}, auth_provider=provider) as (client, server):
        assert tool(client, "work", a=1) == {"a": 1}
        provider.wanted = 1
        with within(NOW):
            in_threads(8, lambda n: tool(client, "work", n=n))
        assert refused.is_set()
        assert provider.refreshed == 1
        assert len(server.verbs("GET")) == 1
        provider.wanted = 99
        with within(NOW), pytest.raises(AuthError):
            client.call_tool("work")


class Provider:
    """Gives numbered tokens."""

    def __init__(self) -> None:
        self.wanted = self.refreshed = 0

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer token-{self.refreshed}"}

    def refresh(self) -> bool:
        time.sleep(0.02)
        self.refreshed += 1
        return True


# -- close -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no POST reply", "accepted"])
def test_close_with_calls_under_way_ends_each_of_them_once(how: str) -> None:
    """I2, I7: 16 that wait, and 16 that do not."""
    with listening(on={"work": silent if how == "no POST reply" else accepts}) as (client, server):
        futures = [client.submit_tool("work", timeout=PATIENCE) for _ in range(16)]

        def call(number: int) -> None:
            if number == 16:
                until(lambda: len(server.calls("work")) == 32)
                with within(0.5):
                    client.close()
                return
            with pytest.raises(MCPConnectionError, match="closed"):
                client.call_tool("work")

        in_threads(17, call, PATIENCE)
        assert all(isinstance(future.exception(0), MCPConnectionError) for future in futures)
        assert client.counters["error"] == 32
        adds_up(client.counters)
        until(lambda: not server.connected)


@pytest.mark.parametrize("how", ["notification", "answer", "cancel"])
def test_close_while_something_is_posted_that_is_no_request_ends_that_too(how: str) -> None:
    """I1, I7"""
    on: dict[str, Any] = {"notifications/x": silent, "notifications/cancelled": silent, "work": accepts}
    with listening(on=on, roots=list) as (client, server):

        def work(number: int) -> None:
            if number:
                until(lambda: server.busy == 2)
                with within(0.5):
                    client.close()
                return
            if how == "notification":
                with pytest.raises(MCPConnectionError):
                    client.notify("notifications/x")
            elif how == "answer":
                server.set(POST=silent)
                server.say(event(id=1, method="roots/list"))
            else:
                future = client.submit_tool("work", timeout=PATIENCE)
                until(lambda: server.calls("work"))
                future.cancel()

        with within(NOW):
            in_threads(2, work)
        until(lambda: not server.connected)


@pytest.mark.parametrize("where", ["on_notification", "on_progress", "done-callback"])
def test_close_in_a_callback_ends_everything(where: str) -> None:
    """I7, B31"""
    ended = threading.Event()
    clients: list[Any] = []

    def leave(*_: Any) -> None:
        if not ended.is_set():
            clients[0].close()
            ended.set()

    step = event(method="notifications/progress", params={"progressToken": "$ID", "progress": 1})
    knobs: dict[str, Any] = {"on_notification": leave} if where == "on_notification" else {}
    with listening(on={"work": on_stream(step, news(1))}, **knobs) as (client, server):
        clients.append(client)
        future = client.submit_tool("work", on_progress=leave if where == "on_progress" else None)
        if where == "done-callback":
            future.add_done_callback(leave)
            future.cancel()
        with within(NOW):
            assert ended.wait(PATIENCE)
        assert future.done()
        until(lambda: not server.connected)
        clients.clear()


def test_close_by_eight_threads_at_once_is_over_for_each_of_them() -> None:
    """I7"""
    with listening(on={"work": accepts}, heartbeat_interval=30.0) as (client, _):
        client.submit_tool("work")

        def end(_: int) -> list[str]:
            client.close()
            return [thread.name for thread in threading.enumerate() if thread.name.startswith("mcp-sse-")]

        with within(0.5):
            assert in_threads(8, end) == [[]] * 8
