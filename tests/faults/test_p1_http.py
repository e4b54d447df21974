"""HTTP and HTTP+SSE under load: all places taken, too much submitted, stale connections, endless polls.

FAULTS.md, 5.2, the rows of P1, as far as no other file here shows them.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import pytest
from faults.http_server import Exchange, Server, silent
from faults.http_streams import ANSWER, Broken, Stream, conversing, event, listening, news, part
from faults.http_tools import NOW, Gate, T, closes, resets, serving
from faults.tools import PATIENCE, growing_less_than, tool, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPTimeoutError, TooManyRequests
from mcp_sync.testing import in_threads
from mcp_sync.transports import errands, streamable
from mcp_sync.transports.errands import Courier

Way = Callable[..., AbstractContextManager[tuple[Client, Server]]]


def stateless(**about: Any) -> AbstractContextManager[tuple[Client, Server]]:
    return serving("stateless", **about)


WAYS: dict[str, Way] = {"stateless": stateless, "handshake": conversing, "HTTP+SSE": listening}  # type: ignore[dict-item]
EACH_WAY = pytest.mark.parametrize("way", WAYS)


# -- all places taken --------------------------------------------------------------------------------------------------


@EACH_WAY
def test_64_callers_that_find_all_places_taken_end_at_their_own_time_and_send_nothing(way: str) -> None:
    """I1, I6: whoever waits for a place knows that nothing of his call has left."""
    gate, errors = Gate(), list[MCPTimeoutError]()
    with WAYS[way](on={"held": gate}, max_connections_per_host=4) as (client, server):
        held = [client.submit_tool("held", {"n": number}) for number in range(4)]
        until(lambda: gate.waiting == 4)

        def call(_: int) -> None:
            with within(T), pytest.raises(MCPTimeoutError) as found:
                client.call_tool("work", timeout=T)
            errors.append(found.value)

        in_threads(64, call, PATIENCE)
        assert {error.may_have_run for error in errors} == {False}
        assert not server.calls("work")
        gate.open()
        assert [future.result(PATIENCE).text for future in held] == [f'{{"n": {n}}}' for n in range(4)]
        works(client)
        assert not server.calls("work")


@EACH_WAY
def test_what_is_submitted_beyond_what_may_wait_is_refused_at_once_and_sends_nothing(way: str) -> None:
    """I8: one is under way, a thousand wait, and the next is told so."""
    with WAYS[way](on={"held": silent}, enable_request_pipelining=False) as (client, server):
        first = client.submit_tool("held", timeout=PATIENCE)
        until(lambda: server.calls("held"))
        waiting = [client.submit_tool("work", timeout=PATIENCE) for _ in range(1000)]
        with within(NOW):
            refusal = client.submit_tool("work", timeout=PATIENCE).exception(PATIENCE)
        assert isinstance(refusal, TooManyRequests)
        assert "under way, or wait" in str(refusal)
        assert refusal.may_have_run is False
        works(client)  # whoever waits for the answer has a thread: his own
        assert all(future.cancel() for future in (*waiting, first))
        assert not server.calls("work")


# -- connections that have ended ---------------------------------------------------------------------------------------


def test_posts_of_http_sse_on_connections_that_the_server_has_closed_meanwhile_run_once() -> None:
    """I10: the next takes a new one."""

    def accepts_first(exchange: Exchange) -> None:
        exchange.reply(202, "Accepted", content_type="text/plain")
        exchange.pause(0.01)  # or we may have hung up, having our answer, before that is read
        exchange.server.respond(exchange.request)  # type: ignore[attr-defined]

    closed = 0
    with listening(on={"work": accepts_first}) as (client, server):
        for number in range(20):
            assert tool(client, "work", NOW, n=number) == {"n": number}
            until(lambda: server.busy == 1)  # the stream
            closed += server.hang_up()
        assert closed >= 15
        assert [request.arguments["n"] for request in server.calls("work")] == list(range(20))
        assert len(server.verbs("GET")) == 1


@pytest.mark.parametrize("how", [closes, resets])
def test_a_post_of_http_sse_whose_connection_ends_once_it_was_read_is_not_sent_again(how: Any) -> None:
    """I10: the tool may have run."""
    with listening(on={"work": [None, how]}) as (client, server):
        assert tool(client, "work", n=1) == {"n": 1}
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work", {"n": 2})
        assert found.value.may_have_run is None
        assert [request.arguments["n"] for request in server.calls("work")] == [1, 2]
        works(client)


# -- pace --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", ["0", "-1", "soon", "", "99999999999999999999"])
def test_whatever_the_stream_of_news_says_of_time_it_is_opened_ten_times_a_second_at_most(
    retry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: news comes each time, so nothing else slows it down; and a time that is too long affects no call."""
    monkeypatch.setattr(streamable, "STREAM_PAUSE", 0.1)  # and not a second
    stream = Stream(f"retry: {retry}\n\n", news("$LINE"))
    with conversing(on={"GET": stream}) as (client, server):
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            if stream.lines:
                stream.end()
            with within(0.1):
                works(client)
            threading.Event().wait(0.01)
        times = [request.at for request in server.verbs("GET")]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(pauses) == 0 if len(retry) > 5 else 1 <= len(pauses) <= 5
        assert all(pause >= 0.09 for pause in pauses)
        with within(0.5):
            client.close()


class Poll:
    """Instead of the reply to a GET: a stream with one event.

    Args:
        text: The event.
    """

    status = 200
    headers = {"Content-Type": "text/event-stream"}

    def __init__(self, text: str) -> None:
        self._pieces = [text.encode()]
        self.exchange = self

    def read(self, size: int) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    def drain(self, seconds: float, size: int) -> None: ...

    def close(self) -> None: ...


class Polled:
    """Instead of whatever sends a GET: so many streams in a row, each of which ends after an event of its own.

    Attributes:
        polls: How many there have been.
        depths: How deep the stack was.
        over: Is set once there have been all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int, last: Callable[[], str]) -> None:
        self.polls, self.most, self.last = 0, most, last
        self.depths: set[int] = set()
        self.over = threading.Event()
        self._send, pause = Courier.send, errands.Cursor.pause
        monkeypatch.setattr(errands.Cursor, "pause", lambda *args: pause(*args) * 0.0)
        monkeypatch.setattr(Courier, "send", lambda *args, **about: self.send(*args, **about))

    def send(self, courier: Courier, method: str, *args: Any, **about: Any) -> Any:
        if method != "GET":
            return self._send(courier, method, *args, **about)
        self.polls += 1
        if self.polls % 1000 == 0:
            self.depths.add(sum(1 for _ in frames(sys._getframe())))
        if self.polls == self.most:
            self.over.set()
            return Poll(self.last())
        return Poll(f"id: {'e' * 100}{self.polls}\ndata:\n\n")


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_100_000_polls_for_the_rest_of_an_answer_take_neither_memory_nor_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5.2, I8: without the pauses, which would make it a day, and without a socket for each."""
    with conversing(on=Broken(part("id: e1\ndata:\n\n")).on) as (client, server):
        polled = Polled(monkeypatch, 100_000, lambda: ANSWER.replace("$ID", str(server.calls("work")[0].id)))
        with growing_less_than(16):
            assert tool(client, "work", 50.0) == "done"
        assert polled.polls == 100_000
        assert len(polled.depths) == 1


@pytest.mark.slow
def test_100_000_streams_of_news_one_after_the_other_take_neither_memory_nor_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5.2, I8: and what comes on the last one is heard."""
    heard: list[Any] = []
    with serving("handshake", on={"GET": silent}) as (_, server):
        polled = Polled(monkeypatch, 100_000, lambda: news("the last"))
        with growing_less_than(16), Client(server.url, on_notification=heard.append, timeout=PATIENCE) as client:
            assert polled.over.wait(50.0)
            until(lambda: heard)
            works(client)
        assert len(polled.depths) == 1
        assert Counter(one.method for one in heard) == {"notifications/message": 1}


# -- one that never answers --------------------------------------------------------------------------------------------


@EACH_WAY
def test_a_post_whose_answer_drips_for_ever_delays_neither_callers_nor_close(way: str) -> None:
    """I4, I7"""

    def drips(exchange: Exchange) -> None:
        exchange.drip(exchange.head(200) + event("x" * 10_000).encode(), every=0.02)

    with WAYS[way](on={"work": drips}) as (client, server):
        future = client.submit_tool("work", timeout=PATIENCE)
        until(lambda: server.calls("work"))
        for number in range(10):
            with within(0.1):
                assert tool(client, "echo", n=number) == {"n": number}
        assert not future.done()
        with within(0.5):
            client.close()
        assert future.done()
