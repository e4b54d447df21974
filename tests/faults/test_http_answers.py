"""What comes as an answer: JSON and events that are somebody else's, malformed, too many, too large, or none at all.

Each call gets its own answer or an error at once, and never another's data. What a whole reply in JSON may be like is
in test_http_statuses.py too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from faults.http_server import EVENTS, JSON, Exchange, Manner, replies, streams
from faults.http_streams import ANSWER, conversing, event, gathers, message, news, progress, result
from faults.http_tools import NOW, serving, tells
from faults.tools import ERAS, PATIENCE, adds_up, tool, until, within, works

from mcp_sync import JSONRPCError, MCPConnectionError, MCPError, MessageTooLarge, Notification, RemoteProtocolError
from mcp_sync.testing import in_threads

LINES = "application/x-ndjson"
SECRET = "of somebody else"


# -- answers to somebody else ------------------------------------------------------------------------------------------

FOREIGN: dict[str, str] = {
    "a larger id": result(SECRET, id=999_999),
    "an id of long ago": result(SECRET, id=1),
    "zero": result(SECRET, id=0),
    "the id as text": '{"jsonrpc": "2.0", "id": "$ID", "result": {"resultType": "complete", "content": []}}',
    "text": result(SECRET, id="another"),
    "an empty text": result(SECRET, id=""),
    "an id with a fraction": result(SECRET, id=1.5),
    "True": result(SECRET, id=True),
    "null": result(SECRET, id=None),
    "a list": result(SECRET, id=[1]),
    "no id": message(result={"resultType": "complete", "content": [{"type": "text", "text": SECRET}]}),
    "an error to somebody else": message(id=999_999, error={"code": -32000, "message": SECRET}),
}
FORMS: dict[str, Any] = {
    "JSON": lambda text: replies(200, text, content_type=JSON),
    "lines": lambda text: replies(200, text + "\n", content_type=LINES),
    "a stream": lambda text: streams(event(text), answer=False),
    "a stream that stays open": lambda text: streams(event(text), answer=False, then="hold"),
}


@ERAS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whose", FOREIGN)
def test_an_answer_to_somebody_else_is_an_error_for_this_call_at_once(era: str, form: str, whose: str) -> None:
    """I3, I5, 5.2: whoever was asked did not say this to us."""
    with serving(era, on={"work": FORMS[form](FOREIGN[whose])}) as (client, server):
        with within(NOW), pytest.raises(RemoteProtocolError) as found:
            client.call_tool("work")
        assert found.value.may_have_run is not False
        tells(found.value, server, phase="parse")
        assert len(server.calls("work")) == 1
        works(client)
        adds_up(client.counters)


@ERAS
@pytest.mark.parametrize("form", ["JSON", "a stream", "a stream that stays open"])
def test_two_calls_whose_answers_are_swapped_both_fail_and_neither_gets_the_others(era: str, form: str) -> None:
    """I3: each answer came the wrong way."""
    asked: list[Exchange] = []

    def swaps(exchange: Exchange) -> None:
        asked.append(exchange)
        until(lambda: len(asked) == 2)
        other = next(one for one in asked if one is not exchange).request.id
        FORMS[form](result(SECRET, id=other))(exchange)

    with serving(era, on={"work": swaps}) as (client, _):

        def call(_: int) -> None:
            with within(NOW), pytest.raises(RemoteProtocolError):
                client.call_tool("work")

        in_threads(2, call)
        works(client)
        adds_up(client.counters)


ERRORS: dict[str, str] = {
    "the id": message(id="$ID", error={"code": -32050, "message": "no"}),
    "null": message(id=None, error={"code": -32050, "message": "no"}),
    "no id": message(error={"code": -32050, "message": "no"}),
}


@ERAS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whose", ERRORS)
def test_an_error_without_an_id_is_that_of_the_call_it_came_to(era: str, form: str, whose: str) -> None:
    """A4, W 24: correlated by the request itself."""
    with serving(era, on={"work": FORMS[form](ERRORS[whose])}) as (client, _):
        with within(NOW), pytest.raises(JSONRPCError) as found:
            client.call_tool("work")
        assert found.value.code == -32050
        works(client)


@ERAS
def test_errors_without_an_id_reach_each_of_many_calls(era: str) -> None:
    """I3: not the oldest, nor anybody's else."""
    numbered = [gathers(8)]

    def fails(exchange: Exchange) -> None:
        number = exchange.request.arguments["n"]
        exchange.reply(200, message(id=None, error={"code": -number, "message": "no"}))

    with serving(era, on={"work": fails, "wait": numbered[0]}) as (client, _):

        def call(number: int) -> None:
            with pytest.raises(JSONRPCError) as found:
                client.call_tool("work", {"n": number + 1})
            assert found.value.code == -number - 1

        in_threads(8, call)
        works(client)


# -- what cannot be read -----------------------------------------------------------------------------------------------

UNREADABLE: dict[str, str] = {
    "no JSON": "this is no JSON",
    "half of it": result()[:-20],
    "no object": '"done"',
    "a number": "42",
    "null": "null",
    "an empty object": "{}",
    "a result that is a list": message(id="$ID", result=[]),
    "a result and an error": message(id="$ID", result={}, error={"code": 1, "message": "no"}),
    "an error that is text": message(id="$ID", error="no"),
    "another JSON-RPC": result().replace('"2.0"', '"1.0"'),
    "not a number": '{"jsonrpc": "2.0", "id": $ID, "result": {"content": [], "x": NaN}}',
    "nested too deep": '{"jsonrpc": "2.0", "id": $ID, "result": {"content": ' + "[" * 500 + "]" * 500 + "}}",
    "half a character": '{"jsonrpc": "2.0", "id": $ID, "result": {"content": [], "x": "\\ud800"}}',
    "two at once": f"{result()} {result()}",
}


@ERAS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_as_an_answer_is_an_error_at_once(era: str, form: str, what: str) -> None:
    """I4, I5: never silence; the connection and the other calls are fine."""
    with serving(era, on={"work": FORMS[form](UNREADABLE[what])}) as (client, server):
        with within(NOW), pytest.raises((RemoteProtocolError, MCPConnectionError)) as found:
            client.call_tool("work")
        assert found.value.may_have_run is not False
        assert len(server.calls("work")) == 1
        works(client)
        adds_up(client.counters)


BYTES: dict[str, bytes] = {
    "a byte that is no UTF-8": b'{"jsonrpc": "2.0", "id": $ID, "result": {"content": [], "x": "\xff"}}',
    "half of a character": b'{"jsonrpc": "2.0", "id": $ID, "result": {"content": [], "x": "\xe6\x97"}}',
    "latin-1": '{"jsonrpc": "2.0", "id": $ID, "result": {"content": [], "x": "é"}}'.encode("latin-1"),
}


@ERAS
@pytest.mark.parametrize("form", [JSON, EVENTS, LINES])
@pytest.mark.parametrize("what", BYTES)
def test_an_answer_that_is_no_text_is_an_error_at_once(era: str, form: str, what: str) -> None:
    """I5, W 31: one bad byte ends one call."""
    body = b"data: " + BYTES[what] + b"\n\n" if form == EVENTS else BYTES[what] + b"\n"
    with serving(era, on={"work": replies(200, body, content_type=form)}) as (client, _):
        with within(NOW), pytest.raises(RemoteProtocolError):
            client.call_tool("work")
        works(client)


NOTHINGS: dict[str, Manner] = {
    "JSON": replies(200, "", content_type=JSON),
    "blanks": replies(200, "  \r\n ", content_type=JSON),
    "a stream": streams(answer=False),
    "a stream of comments": streams(": hello\n\n", ": again\n\n", answer=False),
    "a stream of news": streams(news(1), answer=False),
    "a stream of blank lines": streams("\n\n\n\n", answer=False),
    "half an event": streams(f"data: {result()}\n", answer=False),
    "an event without its end": streams(f"data: {result()}", answer=False),
    "lines": replies(200, "", content_type=LINES),
    "a batch of news": replies(200, f"[{message(method='notifications/x')}]", content_type=JSON),
    "lines of news": replies(200, message(method="notifications/x") + "\n", content_type=LINES),
    "a request, where an answer is due": replies(200, message(id=5, method="ping"), content_type=JSON),
    "a notification, where an answer is due": replies(200, message(method="notifications/x"), content_type=JSON),
}


@ERAS
@pytest.mark.parametrize("what", NOTHINGS)
def test_no_answer_at_all_is_an_error_at_once(era: str, what: str) -> None:
    """B6, I5: an event that is not ended is none (WHATWG)."""
    with serving(era, on={"work": NOTHINGS[what]}) as (client, server):
        with within(NOW), pytest.raises((RemoteProtocolError, MCPConnectionError)) as found:
            client.call_tool("work")
        assert found.value.may_have_run is not False
        assert len(server.calls("work")) == 1
        works(client)
        adds_up(client.counters)


# -- too much ----------------------------------------------------------------------------------------------------------


@ERAS
def test_an_answer_that_comes_twice_is_one_answer(era: str) -> None:
    """I2: the second is for nobody, and no later call gets it."""
    twice = streams(ANSWER, event(result("again")), answer=False)
    lines = replies(200, f"{result()}\n{result('again')}\n", content_type=LINES)
    with serving(era, on={"work": [twice, lines] * 10}) as (client, _):
        for _ in range(20):
            assert tool(client, "work", NOW) == "done"
        works(client)
        adds_up(client.counters)


@ERAS
@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_what_comes_after_the_answer_on_its_stream_delays_nobody(era: str, pause: float) -> None:
    """I4, D5: a stream ought to end with the answer; one that goes on is left."""

    def goes_on(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Transfer-Encoding: chunked", content_type=EVENTS))
        exchange.chunk(ANSWER.replace("$ID", str(exchange.request.id)).encode())
        while True:
            exchange.pause(pause)
            exchange.chunk(news(1).encode())

    with serving(era, on={"work": goes_on}) as (client, server):
        for _ in range(5):
            with within(0.2):
                assert tool(client, "work") == "done"
        until(lambda: len(server.abandoned) == 5)
        works(client)


@ERAS
def test_an_answer_that_comes_after_the_timeout_is_for_nobody(era: str) -> None:
    """I2, W 40: nor for the next call."""

    def late(exchange: Exchange) -> None:
        exchange.pause(0.3)
        exchange.send(exchange.plain)

    with serving(era, on={"work": late}) as (client, server):
        with within(0.2), pytest.raises(MCPError):
            client.call_tool("work", {"n": 1}, 0.2)
        for number in range(10):
            assert tool(client, "echo", n=number) == {"n": number}
        until(lambda: not server.busy)
        adds_up(client.counters)


LIMIT = 10_000


@ERAS
@pytest.mark.parametrize("how", ["ended", "endless line", "many lines", "endless lines"])
def test_an_event_that_is_too_large_is_an_error_at_once_that_names_the_limit(era: str, how: str) -> None:
    """I8: as soon as it is known, not when it ends."""

    def act(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Transfer-Encoding: chunked", content_type=EVENTS))
        if how == "ended":
            exchange.chunk(event(result("x" * LIMIT)).replace("$ID", str(exchange.request.id)).encode())
            exchange.hold()
        exchange.chunk(b"data: x\n")
        for _ in range(2 if how == "many lines" else 10**9):
            exchange.chunk(b"data: x\n" * 1000 if "lines" in how else b"data: " + b"x" * 5000)
        exchange.hold()

    with serving(era, on={"work": act}, max_message_size=LIMIT) as (client, _):
        with within(NOW), pytest.raises(MessageTooLarge, match=str(LIMIT)) as found:
            client.call_tool("work")
        assert found.value.details["limit"] == LIMIT
        works(client)


@ERAS
def test_an_answer_just_within_the_limit_is_fine_in_one_event_of_many_lines(era: str) -> None:
    """I8, B10: folded in linear time."""
    text = "\n".join(f"data: {line}" for line in json.dumps(json.loads(result(id=0)), indent=1).splitlines())
    body = text.replace('"id": 0', '"id": $ID') + "\n\n"
    with serving(era, on={"work": streams(body, answer=False)}, max_message_size=len(body) + 1024) as (client, _):
        assert tool(client, "work", NOW) == "done"


# -- what is fine ------------------------------------------------------------------------------------------------------

FINE: dict[str, Manner] = {
    "comments": streams(": hello\n", ":\n\n", ": x" * 1000 + "\n\n", ANSWER, answer=False),
    "events with other names": streams(f"event: other\ndata: {result('no')}\n\n", "event: ping\ndata: {}\n\n", ANSWER),
    "the name that counts": streams(f"event: message\ndata: {result()}\n\n", answer=False),
    "an event without data": streams("id: 1\n\n", "retry: 10\n\n", "event: x\n\n", ANSWER, answer=False),
    "a priming event": streams("id: 1\ndata:\n\n", ANSWER, answer=False),
    "a priming event without a colon": streams("id: 1\ndata\n\n", ANSWER, answer=False),
    "CR": streams(f"data: {result()}\r\r", answer=False),
    "CR LF": streams(f": x\r\n\r\ndata: {result()}\r\n\r\n", answer=False),
    "no blank after the colon": streams(f"data:{result()}\n\n", answer=False),
    "data in lines": streams("data: " + result().replace(", ", ",\ndata: ") + "\n\n", answer=False),
    "a byte order mark": streams(f"\ufeffdata: {result()}\n\n", answer=False),
    "fields nobody knows": streams(f"foo: bar\ndata: {result()}\nbaz\n\n", answer=False),
    "lines": replies(200, f"{news(1)[6:].strip()}\n\n{result()}\n", content_type=LINES),
    "lines with CR": replies(200, f"{result()}\r\n", content_type=LINES),
    "a last line without its end": replies(200, result(), content_type=LINES),
    "JSON lines of another name": replies(200, result() + "\n", content_type="application/jsonl"),
    "JSON with blanks around it": replies(200, f"\r\n {result()}\n\n"),
    "a type in capitals": streams(ANSWER, answer=False),
    "until the connection ends": streams(ANSWER, answer=False, chunked=False),
    "a stream that stays open": streams(ANSWER, answer=False, then="hold"),
    "a stream that is reset after it": streams(ANSWER, answer=False, then="hold"),
    "requests in the stateless era, or of what is not offered": streams(
        event(id=7, method="sampling/createMessage", params={}), ANSWER, answer=False
    ),
}


@ERAS
@pytest.mark.parametrize("what", FINE)
def test_an_answer_in_a_form_that_is_allowed_is_the_result(era: str, what: str) -> None:
    """B9, W 31, E5: nothing else on the stream matters."""
    with serving(era, on={"work": FINE[what]}) as (client, _):
        with within(NOW):
            outcome = client.call_tool("work")
        assert outcome.text in ('"done"', "{}")
        works(client)
        adds_up(client.counters)


@ERAS
def test_an_answer_is_delivered_at_once_though_the_stream_is_a_small_one_that_stays_open(era: str) -> None:
    """B10, W 33: a small event on a stream of any kind is not held back."""

    def act(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS))
        exchange.send(ANSWER.replace("$ID", str(exchange.request.id)).encode())
        exchange.hold()

    with serving(era, on={"work": act}) as (client, _), within(0.1):
        assert tool(client, "work") == "done"


@ERAS
@pytest.mark.parametrize("size", [1, 7])
def test_a_stream_in_tiny_pieces_is_the_same_stream(era: str, size: int) -> None:
    """B9: wherever it is cut."""

    def act(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Transfer-Encoding: chunked", content_type=EVENTS))
        text = f"\ufeff: x\r\n\r\nid: é\r\ndata:\r\n\r\ndata: {result('é日本')}\r\n\r\n"
        data = text.replace("$ID", str(exchange.request.id)).encode()
        for start in range(0, len(data), size):
            exchange.chunk(data[start : start + size])
        exchange.chunk(b"")

    with serving(era, on={"work": act}) as (client, _), within(NOW):
        assert tool(client, "work") == "é日本"


@ERAS
def test_progress_and_news_on_the_stream_of_a_call_come_before_its_result(era: str) -> None:
    """I13: in order, and only those of the call are its progress."""
    heard: list[Any] = []
    seen: list[float] = []
    blocks = [block for number in range(1, 21) for block in (progress(number), news(number))]

    def note(notification: Notification) -> None:
        heard.append((notification.params or {})["data"])

    with serving(era, on={"work": streams(*blocks, ANSWER, answer=False)}, on_notification=note) as (client, _):
        outcome = client.call_tool("work", on_progress=lambda number, *_: seen.append(number))
        assert outcome.text == '"done"'
        assert seen == list(range(1, 21))
        until(lambda: len(heard) == 20)
        assert heard == list(range(1, 21))


# -- batches -----------------------------------------------------------------------------------------------------------


def batch(*messages: str) -> str:
    return f"[{', '.join(messages)}]"


BATCHES: dict[str, tuple[str, bool]] = {
    "the answer alone": (batch(result()), True),
    "news and the answer": (batch(message(method="notifications/x"), result()), True),
    "the answer and news": (batch(result(), message(method="notifications/x")), True),
    "a question and the answer": (batch(message(id=9, method="ping"), result()), True),
    "the answer twice": (batch(result(), result("again")), True),
    "nothing": ("[]", False),
    "an answer to somebody else": (batch(result(SECRET, id=999_999)), False),
    "a list in a list": (f"[{batch(result())}]", False),
    "too many": (batch(*[message(method="notifications/x")] * 2000), False),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", BATCHES)
def test_a_batch_is_taken_apart_where_the_version_has_batches(form: str, what: str) -> None:
    """A9, W 29: 2025-03-26, in JSON and in events."""
    text, fine = BATCHES[what]
    with serving("handshake", on={"work": FORMS[form](text)}, version="2025-03-26") as (client, _):
        if fine:
            assert tool(client, "work", NOW) in ("done", "again")
        else:
            with within(NOW), pytest.raises((RemoteProtocolError, MCPConnectionError)):
                client.call_tool("work")
        works(client)
        adds_up(client.counters)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", "2026-07-28"])
def test_a_batch_is_an_error_at_once_where_the_version_has_none(form: str, version: str) -> None:
    """A9: removed with 2025-06-18."""
    era = "stateless" if version == "2026-07-28" else "handshake"
    options = {} if era == "stateless" else {"version": version}
    manner = FORMS[form](batch(result()))
    with serving(era, on={"work": manner}, **options) as (client, _):  # type: ignore[arg-type]
        with within(NOW), pytest.raises(RemoteProtocolError, match="batch"):
            client.call_tool("work")
        works(client)


# -- many at once ------------------------------------------------------------------------------------------------------


@ERAS
def test_calls_with_bad_answers_harm_none_with_good_ones(era: str) -> None:
    """I4, I20: of every kind, all at once."""
    bad = [*(FORMS["a stream"](text) for text in FOREIGN.values()), *(FORMS["JSON"](t) for t in UNREADABLE.values())]
    manners: dict[str, Any] = {f"bad-{number}": manner for number, manner in enumerate(bad)}
    with serving(era, on=manners) as (client, _):

        def call(number: int) -> None:
            for round_ in range(5):
                if number % 2:
                    with pytest.raises(MCPError):
                        client.call_tool(f"bad-{(number * 7 + round_) % len(bad)}")
                else:
                    assert tool(client, "echo", n=number) == {"n": number}

        with within(5.0):
            in_threads(24, call, PATIENCE)
        works(client)
        adds_up(client.counters)


def test_a_question_of_the_server_on_the_stream_of_a_call_is_answered_by_a_post_of_its_own() -> None:
    """D5, D15, W 28: while the call waits, and though its answer depends on it."""
    stream: list[Exchange] = []

    def asks(exchange: Exchange) -> None:
        stream.append(exchange)
        exchange.send(exchange.head(200, "Transfer-Encoding: chunked", content_type=EVENTS))
        exchange.chunk(event(id="q1", method="roots/list").encode())
        server = exchange.server
        until(lambda: [r for r in server.posts() if r.message.get("id") == "q1"])
        exchange.chunk(ANSWER.replace("$ID", str(exchange.request.id)).encode())
        exchange.chunk(b"")

    with conversing(on={"work": asks}, roots=lambda: ["/tmp"]) as (client, server):
        with within(NOW):
            assert tool(client, "work") == "done"
        answer = next(r for r in server.posts() if r.message.get("id") == "q1")
        assert answer.message["result"]["roots"][0]["uri"] == "file:///tmp"
        assert answer.session == "session-1"
