"""Whatever Ctrl-C cuts in two on the main thread, no other thread ever waits for it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import as_completed
from concurrent.futures import wait as wait_for
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from concurrency.interrupting import interrupted
from faults.tools import PATIENCE, adds_up, manner, serving, until

from mcp_sync import Client
from mcp_sync.engine import interrupts
from mcp_sync.engine.caller import CallFuture, Question

MOMENT = 0.001
"""Seconds that an action waits for what does not come; it is interrupted meanwhile."""


def in_time(work: Callable[[], object]) -> bool:
    """Whether another thread gets through this."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


class Nobody:
    """Owns futures, and does nothing for them."""

    def withdraw(self, future: CallFuture[Any]) -> bool:
        return False

    def post(self, job: Callable[[], object]) -> None:
        job()


def quietly(action: Callable[[Any], object], thing: Any) -> None:
    with suppress(FutureTimeoutError, queue.Empty, RuntimeError):  # the last: cpython issue 29988, in wait()
        action(thing)


OURS: dict[str, Callable[[CallFuture[Any]], object]] = {
    "result": lambda future: future.result(MOMENT),
    "exception": lambda future: future.exception(MOMENT),
    "done": lambda future: future.done(),
    "cancel": lambda future: future.cancel(),
    "callback": lambda future: future.add_done_callback(str),
}
THEIRS: dict[str, Callable[[CallFuture[Any]], object]] = {
    "wait": lambda future: wait_for([future], MOMENT),
    "as_completed": lambda future: list(as_completed([future], MOMENT)),
}


@pytest.mark.parametrize("action", OURS.values(), ids=OURS)
def test_nobody_waits_for_who_was_interrupted_at_a_future(action: Any) -> None:
    """I16: who settles it is a reader, or the one thread that keeps deadlines."""
    future: CallFuture[Any]

    def begin() -> Callable[[], None]:
        nonlocal future
        future = CallFuture(Question("test"), Nobody())
        return partial(quietly, action, future)

    for where in interrupted(begin):
        assert in_time(future.done), where
        assert in_time(partial(future.settle, {}, None)), where
        assert not settling(), where


@pytest.mark.parametrize("action", THEIRS.values(), ids=THEIRS)
def test_who_settles_a_future_never_waits_for_what_others_left_locked(action: Any) -> None:
    """I16."""
    future: CallFuture[Any]

    def begin() -> Callable[[], None]:
        nonlocal future
        future = CallFuture(Question("test"), Nobody())
        return partial(quietly, action, future)

    for where in interrupted(begin):
        assert in_time(partial(future.settle, {}, None)), where
        give_back(future)
        assert future.result(0) == {}, where


def settling() -> list[threading.Thread]:
    """Return the threads that were given the settling of a future."""
    return [thread for thread in threading.enumerate() if thread.name == "mcp-future"]


def give_back(future: CallFuture[Any]) -> None:
    """Free what ``concurrent.futures`` has left locked, and with it the thread that was given the settling."""
    interrupts.let_go(future._condition)  # type: ignore[arg-type]
    for thread in settling():
        thread.join(0.05)
        for waiter in future._waiters if thread.is_alive() else []:
            waiter.event._cond.release()  # type: ignore[attr-defined]
        thread.join()


def test_nobody_waits_for_who_was_interrupted_at_an_event() -> None:
    event: interrupts.Event

    def begin() -> Callable[[], object]:
        nonlocal event
        event = interrupts.Event()
        return partial(event.wait, MOMENT)

    for where in interrupted(begin):
        assert in_time(event.set), where
        assert event.wait(0)


class SetMeanwhile(list[Any]):
    """The doors of an event that is set before the first of them is there."""

    def __init__(self, event: interrupts.Event) -> None:
        self._event = event

    def append(self, door: Any) -> None:
        self._event._set = True
        super().append(door)


def test_an_event_that_is_set_while_somebody_goes_to_sleep_wakes_it() -> None:
    event = interrupts.Event()
    event._doors = SetMeanwhile(event)
    began = time.monotonic()
    assert event.wait(PATIENCE)
    assert time.monotonic() - began < 1.0
    assert not event._doors


@pytest.mark.parametrize("seconds", [0, 0.01, -1])
def test_an_event_says_in_time_that_it_was_not_set(seconds: float) -> None:
    event = interrupts.Event()
    assert not event.wait(seconds)
    event.set()
    assert event.wait(seconds)
    event.clear()
    assert not event.wait(seconds)
    assert not event.is_set()


def test_an_event_wakes_all_who_wait_and_all_who_come() -> None:
    event = interrupts.Event()
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.append(event.wait())) for _ in range(20)]
    for thread in threads[:10]:
        thread.start()
    until(lambda: len(event._doors) == 10)
    event.set()
    for thread in threads[10:]:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert passed == [True] * 20


def test_a_condition_wakes_as_many_as_it_is_told_in_their_order() -> None:
    condition = interrupts.Condition()
    woken: list[int] = []

    def wait(number: int) -> None:
        with condition:
            assert condition.wait(PATIENCE)
            woken.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: len(condition._doors) == number + 1)
    with condition:
        assert not condition.wait(0.01)
        condition.notify()
    threads[0].join(PATIENCE)
    assert woken == [0]
    with condition:
        condition.notify_all()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(woken) == [0, 1, 2]
    assert condition.acquire(blocking=False)
    condition.release()


def test_nobody_waits_for_who_was_interrupted_at_a_queue() -> None:
    waiting: interrupts.Queue[int]

    def begin() -> Callable[[], object]:
        nonlocal waiting
        waiting = interrupts.Queue()
        return partial(quietly, lambda waiting: waiting.get(timeout=MOMENT), waiting)

    for where in interrupted(begin):
        assert in_time(partial(waiting.put, 1)), where
        assert waiting.get(timeout=0) == 1


CALLS: dict[str, Callable[[Client], object]] = {
    "call": lambda client: client.call_tool("echo", {"a": 1}, PATIENCE),
    "late": lambda client: client.call_tool("late", {"a": 1}, PATIENCE),
    "submit": lambda client: client.submit_tool("late", {"a": 1}, PATIENCE).result(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_that_is_interrupted_anywhere_costs_the_connection_nothing(call: Any) -> None:
    """I2, I16, I20."""
    with serving(late=manner("answer", seconds=0.002)) as client:
        points = 0
        answers: list[Any] = []

        def ask() -> None:
            answers.append(json.loads(client.call_tool("echo", {"n": points}, PATIENCE).text))

        for where in interrupted(lambda: partial(call, client)):
            points += 1
            if not client.connected:  # half a message was written
                client.connect()
            assert in_time(ask), where
            assert answers.pop() == {"n": points}, where
        assert points > 50
        until(lambda: client.counters["pending"] == 0)
        adds_up(client.counters)
