"""The stream of what the server says unasked (GET, handshake era): whatever it does, calls are not affected."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from faults.http_server import EVENTS, Exchange, Manner, late, replies, silent, streams
from faults.http_streams import Stream, conversing, event, message, news, result
from faults.http_tools import NOW, Gate, closes, resets, serving, unconnected
from faults.tools import PATIENCE, adds_up, tool, until, within, works

from mcp_sync import Notification
from mcp_sync.testing import in_threads
from mcp_sync.transports import streamable


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the stream again after 0.1 s, not after a second."""
    monkeypatch.setattr(streamable, "STREAM_PAUSE", 0.1)


def collector(heard: list[Any]) -> Callable[[Notification], None]:
    """Return a callback that keeps what log messages say."""
    return lambda notification: heard.append((notification.params or {}).get("data"))


# -- servers that have none, or none worth having ----------------------------------------------------------------------

NONE: dict[str, Manner] = {
    "302": replies(302, "", "Location: /elsewhere", content_type=None),
    "405": replies(405, "", "Allow: POST", content_type=None),
    "400": replies(400, "no", content_type="text/plain"),
    "401": replies(401, "", content_type=None),
    "403": replies(403, "", content_type=None),
    "406": replies(406, "", content_type=None),
    "a page": replies(200, "<h1>Hello</h1>", content_type="text/html"),
    "JSON": replies(200, "{}"),
    "nothing": replies(200, "", content_type=None),
    "204": replies(204, "", content_type=None),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", NONE)
def test_a_server_without_such_a_stream_is_asked_once_and_calls_are_fine(how: str) -> None:
    """D8, W 27: connecting does not fail, nor wait."""
    with unconnected("handshake", on={"GET": NONE[how]}) as (client, server):
        with within(0.5):
            client.connect()
            works(client)
        time.sleep(0.15)
        assert len(server.verbs("GET")) == 1
        assert len(server.posts("initialize")) == 1
        with within(0.5):
            client.close()
        adds_up(client.counters)


ENDS: dict[str, Manner] = {
    "closed at once": closes,
    "reset at once": resets,
    "closed after its head": streams(answer=False, then="close", chunked=False),
    "500": replies(500, "", content_type=None),
    "a stream that ends": streams(answer=False),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ENDS)
def test_a_stream_that_ends_at_once_harms_no_call_and_is_not_opened_again_in_a_hurry(how: str) -> None:
    """5.2, I9: after a pause, then after one twice as long."""
    with conversing(on={"GET": ENDS[how]}) as (client, server):
        began = time.monotonic()
        while time.monotonic() - began < 0.4:
            with within(0.1):
                works(client)
            time.sleep(0.02)
        assert 2 <= len(server.verbs("GET")) <= 4
        assert len(server.posts("initialize")) == 1
        with within(0.5):
            client.close()
        adds_up(client.counters)


def test_a_stream_that_ends_is_opened_again_after_a_second() -> None:
    """I9: not before; nobody is in such a hurry for news."""
    stream = Stream()
    with conversing(on={"GET": stream}) as (_, server):
        until(lambda: stream.lines)
        ended = time.monotonic()
        stream.end()
        until(lambda: len(stream.lines) == 2)
        assert 0.9 <= server.verbs("GET")[1].at - ended <= 1.5


@pytest.mark.usefixtures("at_once")
def test_a_stream_that_ends_for_nothing_is_opened_less_and_less_often() -> None:
    """I9"""
    with conversing(on={"GET": streams(answer=False)}) as (_, server):
        time.sleep(1.2)
        times = [request.at for request in server.verbs("GET")]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 2 <= len(pauses) <= 4
    assert all(later > earlier * 1.5 for earlier, later in itertools.pairwise(pauses))


@pytest.mark.parametrize(("timeout", "most"), [(2.0, 0.5), (0.8, 0.2), (30.0, 1.0)])
def test_a_stream_that_hangs_without_a_head_is_not_waited_for_long(timeout: float, most: float) -> None:
    """5.2: a second, or a quarter of the timeout."""
    with unconnected("handshake", on={"GET": silent}, timeout=timeout) as (client, server):
        began = time.monotonic()
        with within(most + 0.1):
            client.connect()
        assert time.monotonic() - began >= most * 0.8
        for _ in range(3):
            with within(0.1):
                works(client)
        with within(0.5):
            client.close()
        assert len(server.verbs("GET")) == 1


@pytest.mark.parametrize("how", ["a head that drips", "half a head", "a redirect without end"])
def test_a_stream_whose_head_never_ends_delays_no_call(how: str) -> None:
    """I1, I4"""

    def act(exchange: Exchange) -> None:
        if how == "a head that drips":
            exchange.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000, every=0.02)
        elif how == "half a head":
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
            exchange.hold()
        exchange.reply(307, "", "Location: /mcp", content_type=None)

    with unconnected("handshake", on={"GET": act}, timeout=0.8) as (client, server):
        with within(0.2 + 0.1):
            client.connect()
        for _ in range(5):
            with within(0.1):
                works(client)
        assert len(server.verbs("GET")) < 10
        with within(0.5):
            client.close()


def test_a_stream_that_begins_late_brings_its_news_all_the_same() -> None:
    """5.2: whoever did not wait for it hears it."""
    heard: list[Any] = []

    def begins_late(exchange: Exchange) -> None:
        exchange.pause(0.4)
        streams(news(1), answer=False, then="hold")(exchange)

    with conversing(on={"GET": begins_late}, timeout=0.8, on_notification=collector(heard)) as (client, _):
        works(client)
        until(lambda: heard == [1])


def test_the_stream_is_opened_once_the_conversation_has_begun() -> None:
    """B9, W 27: after `initialized`, not before."""
    with conversing(on={"GET": Stream()}) as (client, server):
        works(client)
        verbs = [(request.verb, request.method) for request in server.requests]
        assert verbs.index(("GET", "")) > verbs.index(("POST", "notifications/initialized"))


def test_in_the_stateless_era_there_is_no_such_stream() -> None:
    """E1"""
    with serving() as (client, server):
        works(client)
        time.sleep(0.1)
    assert {request.verb for request in server.requests} == {"POST"}


# -- what comes on it --------------------------------------------------------------------------------------------------


def test_a_flood_of_news_delays_no_call_beyond_its_time_and_what_is_dropped_is_counted() -> None:
    """5.2, I8, I13: 20,000 of them while the application does something else."""
    count = 20_000
    heard: list[Any] = []
    go = threading.Event()

    def slow(notification: Notification) -> None:
        go.wait(PATIENCE)
        heard.append((notification.params or {})["data"])

    def floods(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS))
        for start in range(0, count, 500):
            exchange.send("".join(news(number) for number in range(start, start + 500)).encode())
        exchange.hold()

    with conversing(on={"GET": floods}, on_notification=slow) as (client, _):
        for number in range(50):
            with within(0.3):
                assert tool(client, "echo", n=number) == {"n": number}
        until(lambda: client.counters["notifications_received"] == count)
        dropped = client.counters["dropped_backlog"]
        assert dropped >= count - 1100
        go.set()
        until(lambda: len(heard) == count - dropped)
        assert heard == sorted(heard)
        with within(0.5):
            client.close()


def test_a_flood_without_end_is_ended_by_close() -> None:
    """I7"""

    def floods(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS))
        block = news(1).encode() * 200
        while True:
            exchange.send(block)

    with conversing(on={"GET": floods}) as (client, _):
        for _ in range(5):
            with within(0.5):
                works(client)
        with within(0.5):
            client.close()


ON_IT: dict[str, str] = {
    "an answer": event(result("stolen")),
    "an error": event(id="$ID", error={"code": -32000, "message": "stolen"}),
    "a malformed answer": event(id="$ID", result=5),
    "an answer with an error": event(id="$ID", result={}, error={"code": -32000, "message": "stolen"}),
    "half an answer": event(result("stolen")[:-10]),
    "an answer of another JSON-RPC": event(result("stolen").replace('"2.0"', '"1.0"')),
    "an error without an id": event(id=None, error={"code": -32000, "message": "stolen"}),
    "a batch with an answer": event(f"[{result('stolen')}]"),
}


@pytest.mark.parametrize("what", ON_IT)
def test_an_answer_on_it_is_for_nobody(what: str) -> None:
    """D8, I3: a call has its answer on its own way, and that one counts."""
    gate = Gate()
    stream = Stream()
    with conversing(on={"GET": stream, "work": gate}) as (client, server):
        until(lambda: stream.lines)
        future = client.submit_tool("work", {"n": 1})
        until(lambda: gate.waiting)
        request_id = server.calls("work")[0].id
        stream.say(ON_IT[what].replace("$ID", str(request_id)), news("after"))
        until(lambda: client.counters["notifications_received"])
        time.sleep(0.02)
        assert not future.done()
        gate.open()
        assert future.result(PATIENCE).text == '{"n": 1}'
        works(client)
        adds_up(client.counters)


NOISE = {
    "no JSON": event("hello"),
    "nothing": "\n\n",
    "data of nothing": "data:\n\n",
    "other events": "event: other\ndata: {}\n\n",
    "comments": ": hello\n\n",
    "an answer to nothing": event(result("x", id=12345)),
    "progress of nothing": event(method="notifications/progress", params={"progressToken": 99, "progress": 1}),
    "a cancel of nothing": event(method="notifications/cancelled", params={"requestId": 99}),
    "no params": event(method="notifications/message"),
    "params that are a list": event(method="notifications/message", params=[1]),
    "too large": event(method="notifications/message", params={"level": "info", "data": "x" * 20_000}),
    "a deep one": event('{"jsonrpc": "2.0", "method": "x", "params": ' + "[" * 300 + "]" * 300 + "}"),
    "a list": event(f"[{message(method='notifications/x')}]"),
}


@pytest.mark.parametrize("what", NOISE)
def test_whatever_else_comes_on_it_harms_nothing_that_comes_after(what: str) -> None:
    """I4: the stream goes on."""
    heard: list[Any] = []
    stream = Stream()
    options: dict[str, Any] = {"max_message_size": 10_000, "on_notification": collector(heard)}
    with conversing(on={"GET": stream}, **options) as (client, server):
        until(lambda: stream.lines)
        stream.say(NOISE[what], news("after"))
        until(lambda: "after" in heard)
        works(client)
        assert len(server.verbs("GET")) == 1
        adds_up(client.counters)


def test_an_event_that_is_no_text_harms_nothing_that_comes_after() -> None:
    """I4, W 32"""
    heard: list[Any] = []

    def bad(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS))
        exchange.send(b'data: {"jsonrpc": "2.0", "method": "\xff"}\n\n' + news("after").encode())
        exchange.hold()

    with conversing(on={"GET": bad}, on_notification=collector(heard)) as (client, _):
        until(lambda: heard == ["after"])
        works(client)


def test_news_comes_in_the_order_of_the_wire_and_at_once() -> None:
    """I13, W 33"""
    heard: list[Any] = []
    stream = Stream()
    with conversing(on={"GET": stream}, on_notification=collector(heard)) as (_, _):
        until(lambda: stream.lines)
        for number in range(100):
            stream.say(news(number))
            if number % 20 == 0:
                with within(0.1):
                    until(lambda number=number: number in heard)
        until(lambda: len(heard) == 100)
        assert heard == list(range(100))


def test_a_question_on_it_is_answered_by_a_post() -> None:
    """D15: elicitation, with the session; and another while the first has not been answered."""
    go = threading.Event()

    def fill_in(asked: Any) -> dict[str, Any]:
        if asked.message == "slow":
            go.wait(PATIENCE)
        return {"name": asked.message}

    def asks(number: int, text: str) -> str:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        params = {"mode": "form", "message": text, "requestedSchema": schema}
        return event(id=f"q{number}", method="elicitation/create", params=params)

    stream = Stream()
    with conversing(on={"GET": stream}, elicitation=fill_in) as (client, server):
        until(lambda: stream.lines)

        def answers() -> dict[str, Any]:
            found = [request for request in server.posts() if not request.method]
            return {request.id: request.message["result"] for request in found}

        stream.say(asks(1, "slow"), asks(2, "quick"))
        with within(NOW):
            until(lambda: "q2" in answers())
        assert answers()["q2"] == {"action": "accept", "content": {"name": "quick"}}
        assert "q1" not in answers()
        works(client)
        go.set()
        until(lambda: "q1" in answers())
        assert {r.session for r in server.posts() if not r.method} == {"session-1"}
        stream.say(event(id=5, method="ping"), event(id=6, method="sampling/createMessage", params={}))
        until(lambda: len([request for request in server.posts() if not request.method]) == 4)
        replied = {request.id: request.message for request in server.posts() if not request.method}
        assert replied[5]["result"] == {}
        assert replied[6]["error"]["code"] == -32601


def test_a_question_whose_answer_the_server_does_not_take_harms_nothing() -> None:
    """I4: 500, silence, a reset."""
    stream = Stream()
    manners = {"POST": [replies(500, "no", content_type="text/plain"), resets, silent, None]}
    with conversing(on={"GET": stream}, roots=list) as (client, server):
        until(lambda: stream.lines)
        server.set(**manners)
        for number in range(4):
            stream.say(event(id=number, method="roots/list"))
            until(lambda number=number: len([r for r in server.posts() if not r.method]) > number)
        server.on.pop("POST")
        works(client)
        with within(0.5):
            client.close()


def test_a_callback_of_its_news_may_call_the_same_client() -> None:
    """W 28, trap 4: the reader goes on meanwhile."""
    got: list[Any] = []
    stream = Stream()
    clients: list[Any] = []

    def call(notification: Notification) -> None:
        got.append(tool(clients[0], "echo", n=(notification.params or {})["data"]))

    with conversing(on={"GET": stream}, on_notification=call) as (client, _):
        clients.append(client)
        until(lambda: stream.lines)
        stream.say(*(news(number) for number in range(20)))
        until(lambda: len(got) == 20)
        assert got == [{"n": number} for number in range(20)]
        clients.clear()


# -- when it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["close", "cut", "reset"])
def test_a_stream_that_ends_is_opened_again_where_it_was(how: str) -> None:
    """D7, D10: with the id of the last event; nothing is heard twice."""
    heard: list[Any] = []
    stream = Stream()
    with conversing(on={"GET": stream}, on_notification=collector(heard)) as (client, server):
        until(lambda: stream.lines)
        stream.say(news(1, at="n1"), news(2, at="n2"))
        until(lambda: len(heard) == 2)
        stream.end(how)
        with within(NOW):
            until(lambda: len(stream.lines) == 2)
        first, second = server.verbs("GET")
        assert "last-event-id" not in first.headers
        assert second.headers["last-event-id"] == "n2"
        assert second.session == "session-1"
        stream.say(news(2, at="n2"), news(3, at="n3"))
        until(lambda: heard == [1, 2, 3])
        works(client)
        assert len(server.posts("initialize")) == 1


@pytest.mark.usefixtures("at_once")
def test_a_stream_without_event_ids_is_opened_again_from_now_on() -> None:
    """D8"""
    heard: list[Any] = []
    stream = Stream()
    with conversing(on={"GET": stream}, on_notification=collector(heard)) as (_, server):
        until(lambda: stream.lines)
        stream.say(news(1))
        until(lambda: heard == [1])
        stream.end()
        until(lambda: len(stream.lines) == 2)
        assert "last-event-id" not in server.verbs("GET")[1].headers
        stream.say(news(1))
        until(lambda: heard == [1, 1])


@pytest.mark.usefixtures("at_once")
def test_news_of_a_server_that_gives_every_event_the_same_id_is_heard() -> None:
    """I13: an id that comes again on a stream that has not broken off is no replay."""
    heard: list[Any] = []
    stream = Stream()
    with conversing(on={"GET": stream}, on_notification=collector(heard)) as (_, _):
        until(lambda: stream.lines)
        stream.say(news(1, at="0"), news(2, at="0"), news(3, at="0"))
        until(lambda: heard == [1, 2, 3], 2.0)


@pytest.mark.usefixtures("at_once")
def test_the_time_that_the_server_asks_for_is_a_minimum_here_too() -> None:
    """D7, I9"""
    stream = Stream("retry: 500\n\n")
    with conversing(on={"GET": stream}) as (client, server):
        until(lambda: stream.lines)
        ended = time.monotonic()
        stream.end()
        until(lambda: len(stream.lines) == 2)
        assert 0.45 <= server.verbs("GET")[1].at - ended <= 1.0
        works(client)


@pytest.mark.usefixtures("at_once")
def test_a_server_that_goes_away_and_comes_back_is_listened_to_again() -> None:
    """5.5: in the same session, if it still knows it."""
    heard: list[Any] = []
    stream = Stream()
    with conversing(on={"GET": stream}, on_notification=collector(heard)) as (client, server):
        until(lambda: stream.lines)
        with server.refusing():
            time.sleep(0.15)
        until(lambda: len(stream.lines) == 2)
        stream.say(news("back"))
        until(lambda: heard == ["back"])
        works(client)
        assert len(server.posts("initialize")) == 1


# -- others meanwhile --------------------------------------------------------------------------------------------------


def test_a_stream_that_is_open_takes_no_place_of_a_call() -> None:
    """I4: even where only one request may be under way."""
    stream = Stream()
    with conversing(on={"GET": stream}, max_connections_per_host=1) as (client, _):
        until(lambda: stream.lines)
        with within(NOW):
            in_threads(8, lambda n: tool(client, "echo", n=n))
        stream.say(event(id=1, method="ping"))
        works(client)


def test_64_callers_with_an_open_stream_and_one_post_that_never_answers_get_their_own_answers() -> None:
    """I3, I4: news, questions and answers all at once."""
    stream = Stream()
    heard: list[Any] = []
    options: dict[str, Any] = {"on_notification": collector(heard), "roots": lambda: ["/tmp"]}
    with conversing(on={"GET": stream, "dead": silent, "work": late(0.01)}, **options) as (client, server):
        until(lambda: stream.lines)
        dead = client.submit_tool("dead", timeout=PATIENCE)

        def call(number: int) -> None:
            if number == 64:
                for count in range(50):
                    stream.say(news(count), event(id=f"q{count}", method="roots/list"))
                return
            for count in range(3):
                assert tool(client, "work", n=(number, count)) == {"n": [number, count]}

        with within(5.0):
            in_threads(65, call, PATIENCE)
        until(lambda: len(heard) == 50)
        until(lambda: len([r for r in server.posts() if not r.method]) == 50)
        assert heard == list(range(50))
        assert not dead.done()
        assert dead.cancel()
        works(client)
        adds_up(client.counters)
