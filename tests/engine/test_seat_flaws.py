"""The seat where it was once mistaken: lent never again, held in a signal handler, looked at in passing."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
from engine.test_seat import T, ask, at_once, conversing, result, until

from mcp_sync import LocalProtocolError, MCPConnectionError, MCPTimeoutError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Question
from mcp_sync.engine.channel import LARGE


def lends_again(peer: Any, wire: Any) -> bool:
    for _ in range(5):
        ask(peer)
    wire.readers.clear()
    for _ in range(50):
        ask(peer)
    return bool(wire.readers.count("MainThread") > 25)


def test_a_keeper_that_was_called_while_it_sat_leaves_the_seat_again() -> None:
    with conversing(at_once) as (peer, wire):
        until(lambda: peer._channel._seat.kept)  # type: ignore[attr-defined]
        ask(peer, "x" * LARGE)
        assert lends_again(peer, wire)


def test_a_future_that_could_not_be_sent_is_expected_no_more() -> None:
    with conversing(at_once) as (peer, wire):
        with pytest.raises(LocalProtocolError):
            peer.submit(Question("ask", {"n": {1}}), Deadline(T)).result(T)
        assert not peer._channel._expected  # type: ignore[attr-defined]
        assert lends_again(peer, wire)


def test_a_request_of_the_other_side_is_not_taken_for_the_answer_with_its_id() -> None:
    with conversing(None) as (peer, wire):
        future = peer.submit(Question("ask", {"n": 0}), Deadline(T))
        until(lambda: wire.written)
        wire.say({"jsonrpc": "2.0", "id": wire.written[0]["id"], "method": "ping"})
        until(lambda: len(wire.written) == 2)
        assert peer._channel._expected == {wire.written[0]["id"]}  # type: ignore[attr-defined]
        wire.say(result(wire.written[0]))
        assert future.result(T)["of"]["n"] == 0


def test_who_only_looked_around_calls_who_lined_up_meanwhile() -> None:
    """Without the keeper, who would come after a while, and hide it."""
    with conversing(None) as (peer, wire):
        seat = peer._channel._seat  # type: ignore[attr-defined]
        with pytest.raises(MCPTimeoutError):
            ask(peer, 0, 0.01)
        called: list[Any] = []

        class Waiting:
            over = False

            def beckon(self) -> None:
                called.append(self)

        def look() -> bool:
            seat._line.append(Waiting())
            return False

        until(lambda: not seat.kept and seat.glance(look) is False and called)


def test_a_signal_handler_may_close_while_the_call_that_it_interrupts_reads() -> None:
    with conversing(None) as (peer, wire):
        took: list[float] = []

        def handler(number: int, frame: Any) -> None:
            began = time.monotonic()
            peer.close(Deadline(T))
            took.append(time.monotonic() - began)

        before = signal.signal(signal.SIGALRM, handler)
        try:
            with pytest.raises(MCPTimeoutError):
                ask(peer, 0, 0.01)  # the keeper is not in the seat now
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            with pytest.raises(MCPConnectionError):
                ask(peer, 1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert took[0] < T / 2


def test_the_main_thread_leaves_the_seat_for_good_once_the_answers_are_for_others() -> None:
    with conversing(lambda request: at_once(request) if request["params"]["n"] else []) as (peer, wire):
        answered: list[Any] = []

        def others() -> None:
            until(lambda: wire.written)
            for number in range(1, 101):
                answered.append(ask(peer, number))
            wire.say(result(wire.written[0]))

        thread = threading.Thread(target=others)
        thread.start()
        assert ask(peer, 0) == 0
        thread.join(T)
        assert answered == list(range(1, 101))
        assert wire.readers.count("MainThread") < 10
        assert not peer._channel._expected  # type: ignore[attr-defined]
