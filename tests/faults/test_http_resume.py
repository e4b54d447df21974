"""Replies that break off: gone on with by GET where the server gives events ids (2025-11-25), else an error at once.

In the stateless era nothing is resumed: whether the request has run, nobody knows.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from faults.http_server import Exchange, streams
from faults.http_streams import ANSWER, Broken, Part, conversing, event, news, part, progress, refusing, result
from faults.http_tools import NOW, T, serving, tells
from faults.tools import PATIENCE, adds_up, growing_less_than, tool, until, within, works

from mcp_sync import (
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
    StreamableHTTPTransport,
)
from mcp_sync.exceptions import AuthError, HTTPStatusError, RateLimited, ServerError
from mcp_sync.testing import in_threads
from mcp_sync.transports import errands

PRIMING = "id: e1\ndata:\n\n"
CUTS = pytest.mark.parametrize("how", ["close", "cut", "reset"])


@CUTS
def test_a_reply_that_breaks_off_after_an_event_id_is_resumed_by_get(how: str) -> None:
    """D7, D10, 5.2: always by GET, with the last id, in the same session; the request is not sent again."""
    broken = Broken(part(PRIMING, progress(1, at="e2"), then=how), part(event(result(), at="e3")))
    seen: list[float] = []
    with conversing(on=broken.on) as (client, server):
        with within(NOW):
            outcome = client.call_tool("work", on_progress=lambda number, *_: seen.append(number))
        assert outcome.text == '"done"'
        assert broken.cursors == ["e2"]
        assert seen == [1]
        resumed = broken.resumed[0]
        assert resumed.session == "session-1"
        assert resumed.headers["mcp-protocol-version"] == "2025-11-25"
        assert "text/event-stream" in resumed.headers["accept"]
        assert resumed.body == b""
        assert len(server.calls("work")) == 1
        assert not server.posts("notifications/cancelled")
        works(client)
        adds_up(client.counters)


@CUTS
def test_a_resumed_reply_may_break_off_again_and_again(how: str) -> None:
    """D10: each time from where it was."""
    parts = [part(progress(number, at=f"e{number}"), then=how) for number in range(2, 5)]
    broken = Broken(part(PRIMING, then=how), *parts, part(event(result(), at="e9")))
    seen: list[float] = []
    with conversing(on=broken.on) as (client, _):
        with within(PATIENCE):
            client.call_tool("work", on_progress=lambda number, *_: seen.append(number))
        assert seen == [2, 3, 4]
        assert broken.cursors == ["e1", "e2", "e3", "e4"]


@CUTS
@pytest.mark.parametrize("said", ["nothing", "news", "progress", "an id that was taken back", "half an event"])
def test_a_reply_that_breaks_off_without_an_event_id_is_an_error_at_once(how: str, said: str) -> None:
    """D7, I10: nothing could be resumed, and whether it ran is unknown."""
    blocks = {
        "nothing": [],
        "news": [news(1)],
        "progress": [progress(1)],
        "an id that was taken back": [PRIMING, "id:\ndata:\n\n"],
        "half an event": ["id: e1\ndata: {"],
    }[said]
    broken = Broken(part(*blocks, then=how), part(ANSWER))
    with conversing(on=broken.on) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        assert found.value.may_have_run is None
        tells(found.value, server, phase="wait")
        assert not broken.resumed
        assert len(server.calls("work")) == 1
        works(client)
        adds_up(client.counters)


@CUTS
def test_in_the_stateless_era_a_reply_that_breaks_off_is_an_error_at_once(how: str) -> None:
    """E6: no resumption there, event ids or not."""
    broken = Broken(part(PRIMING, progress(1, at="e2"), then=how), part(ANSWER))
    with serving(on=broken.on) as (client, server):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        assert found.value.may_have_run is None
        tells(found.value, server)
        assert {request.verb for request in server.requests} == {"POST"}
        assert len(server.calls("work")) == 1
        works(client)
        adds_up(client.counters)


REFUSALS: dict[str, tuple[Part, type[MCPError]]] = {
    "500": (refusing(500, "", content_type=None), ServerError),
    "405": (refusing(405, "", "Allow: POST", content_type=None), MCPError),
    "400": (refusing(400, "what event?", content_type="text/plain"), HTTPStatusError),
    "401": (refusing(401, "", content_type=None), AuthError),
    "410": (refusing(410, "", content_type=None), HTTPStatusError),
    "429": (refusing(429, "", "Retry-After: 60", content_type=None), RateLimited),
    "200 in JSON": (refusing(200, "{}"), MCPError),
    "200 in HTML": (refusing(200, "<html>", content_type="text/html"), MCPError),
    "202": (refusing(202, "", content_type=None), MCPError),
    "204": (refusing(204, "", content_type=None), MCPError),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_reply_that_cannot_be_resumed_is_an_error_at_once(how: str) -> None:
    """5.2: 405 and its like; whether the request ran, nobody knows."""
    refusal, kind = REFUSALS[how]
    broken = Broken(part(PRIMING, then="cut"), refusal)
    with conversing(on=broken.on) as (client, server):
        with within(NOW), pytest.raises(kind) as found:
            client.call_tool("work")
        assert not isinstance(found.value, MCPTimeoutError)
        assert found.value.may_have_run is None
        assert len(broken.resumed) == 1
        assert len(server.calls("work")) == 1
        works(client)
        adds_up(client.counters)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_that_fails_once_when_asked_for_the_rest_is_an_error_or_asked_again(status: int) -> None:
    """I9: either is honest; but it is no silence, and no flood of requests."""
    broken = Broken(part(PRIMING, then="cut"), refusing(status, "", content_type=None))
    with conversing(on=broken.on) as (client, _):
        began = time.monotonic()
        with within(T), pytest.raises((ServerError, MCPTimeoutError)) as found:
            client.call_tool("work", timeout=T)
        assert found.value.may_have_run is None
        assert len(broken.resumed) <= 1 + (time.monotonic() - began) * 10
        works(client)


def closed(exchange: Exchange, _: Any) -> None:
    exchange.close()


def reset(exchange: Exchange, _: Any) -> None:
    exchange.reset()


def hangs(exchange: Exchange, _: Any) -> None:
    exchange.hold()


@pytest.mark.parametrize("how", [closed, reset])
def test_a_get_that_breaks_before_it_has_begun_is_tried_again(how: Part) -> None:
    """D7: the server may be starting anew; the rest is as good as ever."""
    broken = Broken(part(PRIMING, then="cut"), how, how, part(event(result(), at="e2")))
    with conversing(on=broken.on) as (client, _):
        with within(2.0):
            assert tool(client, "work") == "done"
        assert broken.cursors == ["e1"] * 3


def test_a_get_that_hangs_ends_with_the_timeout_of_the_call() -> None:
    """I1: and the server is told that nobody waits any more."""
    broken = Broken(part(PRIMING, then="close"), hangs)
    with conversing(on=broken.on) as (client, server):
        with within(T), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("work", timeout=T)
        assert found.value.may_have_run is None
        until(lambda: server.posts("notifications/cancelled"))
        until(lambda: not server.busy)
        works(client)
        assert len(server.posts("notifications/cancelled")) == 1


def test_a_server_that_cannot_be_reached_any_more_is_an_error_before_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I9: not asked for ever; in some seven seconds, which are shortened here."""
    monkeypatch.setattr(errands, "LONGEST_PAUSE", 0.1)
    broken = Broken(part(PRIMING, then="hold"))
    with conversing(on=broken.on) as (client, server):
        future = client.submit_tool("work", timeout=PATIENCE)
        until(lambda: server.calls("work"))
        time.sleep(0.05)
        with server.refusing():
            with within(1.5):
                error = future.exception(PATIENCE)
            assert isinstance(error, MCPConnectionError)
            assert error.may_have_run is None
        works(client)


# -- replays -----------------------------------------------------------------------------------------------------------


def test_an_event_that_is_replayed_is_handled_once() -> None:
    """5.2: by its id; progress does not go backwards."""
    replayed = [PRIMING, progress(1, at="e2"), progress(2, at="e3")]
    broken = Broken(
        part(*replayed, then="cut"),
        part(*replayed, progress(3, at="e4"), then="cut"),
        part(*replayed, progress(3, at="e4"), progress(4, at="e5"), event(result(), at="e6")),
    )
    seen: list[float] = []
    heard: list[Any] = []
    with conversing(on=broken.on, on_notification=heard.append) as (client, _):
        outcome = client.call_tool("work", on_progress=lambda number, *_: seen.append(number))
        assert outcome.text == '"done"'
        assert seen == [1, 2, 3, 4]
        assert broken.cursors == ["e3", "e4"]


def test_a_question_of_the_server_that_is_replayed_is_answered_once() -> None:
    """5.2: a form is not shown to the user twice."""
    asked: list[int] = []

    def roots() -> list[str]:
        asked.append(1)
        return ["/tmp"]

    question = event(at="e2", id="q1", method="roots/list")
    broken = Broken(part(PRIMING, question, then="close"), part(PRIMING, question, event(result(), at="e3")))
    with conversing(on=broken.on, roots=roots) as (client, server):
        assert tool(client, "work") == "done"
        until(lambda: [r for r in server.posts() if not r.method])
        works(client)
        assert len(asked) == 1
        assert len([r for r in server.posts() if not r.method]) == 1


def test_the_same_id_on_two_streams_is_two_events() -> None:
    """I3, D10: an id is that of an event of one stream; what one call has seen says nothing of another."""
    first = Broken(part(PRIMING, progress(1, at="e2"), then="close"), part(event(result("one"), at="e3")))
    second = streams(PRIMING, event(result("two"), at="e3"), answer=False)
    with conversing(on={**first.on, "other": second}) as (client, _):
        assert tool(client, "work") == "one"
        assert tool(client, "other") == "two"


@pytest.mark.parametrize("how", ["one stream", "resumed"])
def test_an_answer_is_an_answer_whatever_the_id_of_its_event(how: str) -> None:
    """I5: a server that numbers badly is no reason to throw the result away, and wait for it."""
    parts = [[PRIMING, progress(1, at="e1"), event(result(), at="e1")]]
    if how == "resumed":
        parts = [[PRIMING], [PRIMING, event(result(), at="e1")]]
    broken = Broken(*(part(*blocks) for blocks in parts))
    with conversing(on=broken.on) as (client, server):
        with within(NOW):
            assert tool(client, "work", 2.0) == "done"
        assert len(server.calls("work")) == 1


def test_a_foreign_answer_on_a_resumed_stream_is_an_error_at_once() -> None:
    """I3, D10: another stream's messages are not to be replayed here."""
    broken = Broken(part(PRIMING, then="close"), part(event(result("no", id=999), at="e2"), then="hold"))
    with conversing(on=broken.on) as (client, _):
        with within(NOW), pytest.raises(RemoteProtocolError):
            client.call_tool("work")
        works(client)


@pytest.mark.parametrize("what", ["too large", "no JSON", "no text"])
def test_what_a_resumed_stream_says_is_judged_as_on_any_other(what: str) -> None:
    """I5, I8"""
    bad = {"too large": event(result("x" * 20_000)), "no JSON": event("{"), "no text": event("{}")}[what]
    broken = Broken(part(PRIMING, then="close"), part(bad, then="hold"))
    kind = MessageTooLarge if what == "too large" else RemoteProtocolError
    with conversing(on=broken.on, max_message_size=10_000) as (client, _):
        with within(NOW), pytest.raises(kind):
            client.call_tool("work")
        works(client)


IDS = {
    "blanks inside": "a b c",
    "a colon": "a:b",
    "latin-1": "é",
    "beyond latin-1": "日本 ☃",
    "an emoji": "\U0001f600",
    "JSON": '{"stream": 1, "event": "x"}',
    "2 kB": "e" * 2000,
    "a number": "0",
}


@pytest.mark.parametrize("what", IDS)
def test_an_event_id_is_repeated_as_it_is_whatever_it_looks_like(what: str) -> None:
    """D10: in UTF-8, as the text of WHATWG has it."""
    broken = Broken(part(f"id: {IDS[what]}\ndata:\n\n", then="close"), part(ANSWER))
    with conversing(on=broken.on) as (client, _):
        with within(NOW):
            assert tool(client, "work", 2.0) == "done"
        assert [cursor.encode("latin-1").decode() for cursor in broken.cursors] == [IDS[what]]


# -- pace --------------------------------------------------------------------------------------------------------------


def pauses(broken: Broken, posted: float) -> list[float]:
    times = [posted, *(request.at for request in broken.resumed)]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("said", ["with the id", "before the id", "on its own"])
def test_the_time_to_wait_that_the_server_asks_for_is_respected_as_a_minimum(said: str) -> None:
    """D7, I9: `retry: 500`; the conformance suite allows 50 ms less and 200 ms more."""
    blocks = {
        "with the id": ["id: e1\nretry: 500\ndata:\n\n"],
        "before the id": ["retry: 500\n\n", PRIMING],
        "on its own": [PRIMING, "retry: 500\n\n"],
    }[said]
    broken = Broken(part(*blocks), part(event(result(), at="e2")))
    with conversing(on=broken.on) as (client, server):
        assert tool(client, "work") == "done"
        pause = pauses(broken, server.calls("work")[0].at)[0]
        assert 0.45 <= pause <= 0.7 + 0.25  # noise


@pytest.mark.parametrize("retry", ["0", "-1", "soon", "1e3", "٣", "", "5.5"])
def test_a_time_to_wait_that_is_none_makes_no_flood(retry: str) -> None:
    """5.2: at most ten a second at first, then fewer."""
    broken = Broken(part(f"retry: {retry}\nid: e1\ndata:\n\n"), part("\n"))
    with conversing(on=broken.on) as (client, server):
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=T)
        found = pauses(broken, server.calls("work")[0].at)
        assert 1 <= len(found) <= 4
        assert min(found) >= 0.09
        works(client)


@pytest.mark.parametrize("retry", ["60000", "99999999999999999999", "9" * 4000])
def test_a_time_to_wait_that_is_too_long_ends_with_the_timeout_of_the_call(retry: str) -> None:
    """I1"""
    broken = Broken(part(f"retry: {retry}\nid: e1\ndata:\n\n"), part(ANSWER))
    with conversing(on=broken.on) as (client, server):
        with within(T), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("work", timeout=T)
        assert found.value.may_have_run is None
        assert not broken.resumed
        until(lambda: server.posts("notifications/cancelled"))
        works(client)


def test_a_server_that_has_nothing_new_is_asked_less_and_less_often() -> None:
    """I9, 5.2: at most ten a second, then twice as long each time."""
    broken = Broken(part(PRIMING), part("\n"))
    with conversing(on=broken.on) as (client, server):
        with within(1.2), pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=1.2)
        found = pauses(broken, server.calls("work")[0].at)
        assert 3 <= len(found) <= 5
        assert found[0] >= 0.09
        assert all(later > earlier * 1.5 for earlier, later in itertools.pairwise(found))
        until(lambda: len(server.posts("notifications/cancelled")) == 1)


def test_a_server_that_has_something_new_each_time_is_asked_ten_times_a_second_at_most() -> None:
    """I9: news is no reason to hurry."""
    numbers = itertools.count(2)

    def more(exchange: Exchange, request_id: Any) -> None:
        number = next(numbers)
        part(progress(number, at=f"e{number}"))(exchange, request_id)

    broken = Broken(part(PRIMING), more)
    seen: list[float] = []
    with conversing(on=broken.on) as (client, server):
        with pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=1.0, on_progress=lambda number, *_: seen.append(number))
        found = pauses(broken, server.calls("work")[0].at)
        assert 5 <= len(found) <= 11
        assert min(found) >= 0.09
        assert seen == sorted(seen)
        assert len(seen) >= 5


@pytest.mark.slow
def test_thousands_of_polls_take_neither_memory_nor_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.2, I8: what the pace would make last a day."""
    monkeypatch.setattr(errands.Cursor, "pause", lambda self, least=0.0: 0.0)
    numbers = itertools.count(2)
    polls = 5000

    def more(exchange: Exchange, request_id: Any) -> None:
        number = next(numbers)
        last = [event(result(), at="end")] if number == polls else []
        part(f"id: {'e' * 100}{number}\ndata:\n\n", *last)(exchange, request_id)

    broken = Broken(part(PRIMING), more)
    broken.resumed = Few()
    with conversing(on=broken.on) as (client, server):
        server.requests = Few()
        with growing_less_than(16):
            assert tool(client, "work", 50.0) == "done"
        works(client)


class Few(list[Any]):
    """A list that keeps the last few only."""

    def append(self, item: Any) -> None:
        super().append(item)
        del self[:-100]


# -- others meanwhile --------------------------------------------------------------------------------------------------


def test_a_reply_that_is_being_resumed_holds_up_nobody() -> None:
    """I4: not even where only few requests may be under way at once."""
    broken = Broken(part("\n"))

    def breaks(exchange: Exchange) -> None:
        part(PRIMING)(exchange, None)

    with conversing(on={"work": breaks, "GET": broken}, max_connections_per_host=2) as (client, server):
        futures = [client.submit_tool("work", timeout=PATIENCE) for _ in range(4)]
        until(lambda: len(broken.resumed) >= 2)
        for number in range(10):
            with within(0.1):
                assert tool(client, "echo", n=number) == {"n": number}
        assert all(future.cancel() for future in futures)
        until(lambda: len(server.posts("notifications/cancelled")) == 4)
        before = len(broken.resumed)
        time.sleep(0.5)
        assert len(broken.resumed) <= before + 1
        works(client)
        adds_up(client.counters)


def test_sixteen_replies_that_break_off_at_once_are_each_resumed_as_their_own() -> None:
    """I3: the cursor of one is not that of another."""
    said: dict[str, Any] = {}

    def breaks(exchange: Exchange) -> None:
        number = exchange.request.arguments["n"]
        said[f"s{number}-1"] = (exchange.request.id, number)
        part(f"id: s{number}-1\ndata:\n\n", then="cut")(exchange, None)

    def resumes(exchange: Exchange) -> None:
        cursor = exchange.request.headers.get("last-event-id")
        if cursor is None:
            exchange.reply(405, "", content_type=None)
            return
        request_id, number = said[cursor]
        part(event(result({"n": number}), at=cursor + "x"))(exchange, request_id)

    with conversing(on={"work": breaks, "GET": resumes}) as (client, server):
        with within(2.0):
            assert in_threads(16, lambda n: tool(client, "work", n=n)) == [{"n": n} for n in range(16)]
        assert len(server.calls("work")) == 16
        adds_up(client.counters)


def test_a_session_in_plain_dicts_resumes_as_well_and_so_does_a_future() -> None:
    """D10"""
    with conversing(on=Broken(part(PRIMING, then="cut"), part(ANSWER)).on) as (client, _):
        assert client.submit_tool("work").result(PATIENCE).text == '"done"'
    with conversing(on=Broken(part(PRIMING, then="cut"), part(ANSWER)).on) as (_, server):
        session = StreamableHTTPTransport(server.url).create_session(PATIENCE)
        assert session.send_request("tools/call", {"name": "work"})["content"]
        session.close()


def test_a_reply_in_json_that_breaks_off_is_not_resumed() -> None:
    """D7: only streams are."""

    def breaks(exchange: Exchange, _: Any) -> None:
        exchange.send(exchange.head(200, "X-Event: e1", length=500) + b"{")
        exchange.close()

    broken = Broken(breaks, part(ANSWER))
    with conversing(on=broken.on) as (client, _):
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        assert found.value.may_have_run is None
        assert not broken.resumed
        works(client)


def test_an_initialize_that_breaks_off_is_an_error_or_resumed_and_the_end_is_told_in_time() -> None:
    """D7, I1: before a session has begun there is nothing to resume."""

    def breaks(exchange: Exchange) -> None:
        part(PRIMING, then="cut")(exchange, None)

    with serving("handshake") as (_, server):
        server.set(initialize=breaks)
        other = StreamableHTTPTransport(server.url, timeout=PATIENCE)
        with within(NOW), pytest.raises(MCPConnectionError):
            other.create_session()
