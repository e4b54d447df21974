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
from faults.tools import PATIENCE, adds_up, host, manner, serving, until

from mcp_sync import Client
from mcp_sync.deadlines import Deadline
from mcp_sync.engine import caller, interrupts
from mcp_sync.engine.caller import CallFuture, Question
from mcp_sync.transports.memory import Way

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
    with suppress(FutureTimeoutError, queue.Empty):
        action(thing)


def theirs(action: Callable[[Any], object], thing: Any) -> None:
    """Do something in which the standard library may complain about a lock (cpython issue 29988)."""
    with suppress(RuntimeError):
        quietly(action, thing)


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
    """I16; and whoever asks the future itself hears of it in time."""
    future: CallFuture[Any]

    def begin() -> Callable[[], None]:
        nonlocal future
        future = CallFuture(Question("test"), Nobody())
        return partial(theirs, action, future)

    for where in interrupted(begin):
        assert in_time(partial(future.settle, {}, None)), where
        assert future.result(PATIENCE) == {}, where
        give_back(future)


def test_a_crowd_that_waits_for_a_crowd_is_told_of_each() -> None:
    futures = [CallFuture(Question("test"), Nobody()) for _ in range(500)]
    found: list[Any] = []
    waiting = [
        threading.Thread(target=lambda: found.append(len(wait_for(futures, PATIENCE).done))),
        threading.Thread(target=lambda: found.append(len(list(as_completed(futures, PATIENCE))))),
    ]
    for thread in waiting:
        thread.start()
    until(lambda: len(futures[-1]._waiters) == 2)
    for future in futures:
        future.settle({}, None)
        assert future.done()
    for thread in waiting:
        thread.join(PATIENCE)
    assert found == [500, 500]
    until(lambda: not settling())


def test_a_future_is_settled_where_there_can_be_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller._settlers, "start", lambda job: False)
    future: CallFuture[Any] = CallFuture(Question("test"), Nobody())
    waiting = threading.Thread(target=wait_for, args=([future], PATIENCE))
    waiting.start()
    until(lambda: future._waiters)
    assert in_time(partial(future.settle, {}, None))
    assert future.done()
    waiting.join(PATIENCE)


def test_callbacks_of_a_future_do_not_run_under_its_lock() -> None:
    future: CallFuture[Any] = CallFuture(Question("test"), Nobody())
    seen: list[bool] = []
    future.add_done_callback(lambda done: seen.append(in_time(done.result)))
    future.settle({}, None)
    assert seen == [True]


def settling() -> list[threading.Thread]:
    """Return the threads that were given the settling of a future."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("mcp-future")]


def give_back(future: CallFuture[Any]) -> None:
    """Free what ``concurrent.futures`` has left locked, and with it the threads that were given the telling."""
    interrupts.let_go(future._condition)  # type: ignore[arg-type]
    for thread in settling():
        thread.join(0.05)
        for waiter in future._waiters if thread.is_alive() else []:
            if waiter.event._cond._lock.locked():  # type: ignore[attr-defined]
                waiter.event._cond.release()  # type: ignore[attr-defined]
    until(lambda: not settling())


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


def test_a_condition_wakes_all_who_wait_and_is_theirs_then() -> None:
    condition = interrupts.Condition()
    inside: list[int] = []
    together: list[bool] = []

    def wait(number: int) -> None:
        with condition, condition:  # however often it was taken
            assert condition.wait(PATIENCE)
            inside.append(number)
            together.append(len(inside) > 1)
            inside.remove(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: len(condition._doors) == number + 1)
    with condition:
        assert not condition.wait(0.01)
        condition.notify()
    for thread in threads:
        thread.join(PATIENCE)
    assert together == [False] * 5
    assert not condition._doors
    assert in_time(condition.acquire)


def test_ctrl_c_while_the_lock_is_taken_again_comes_out_as_what_it_is_and_the_lock_is_free() -> None:
    host(
        """
        from mcp_sync.engine import caller, interrupts
        condition, told = interrupts.Condition(), threading.Event()
        def notify():
            with condition:
                condition.notify_all()
                told.set()
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
        thread = threading.Thread(target=notify)
        try:
            with condition:
                thread.start()
                condition.wait(20)
            raise AssertionError
        except KeyboardInterrupt:
            assert told.is_set()
        thread.join()
        assert condition.acquire(blocking=False)
        """
    )


SETTERS: dict[str, tuple[Callable[[], Any], Callable[[Any], object], Callable[[Any], object]]] = {
    "event": (interrupts.Event, lambda event: event.wait(), lambda event: event.set()),
    "queue": (interrupts.Queue, lambda waiting: waiting.get(), lambda waiting: waiting.put(1)),
    "way": (Way, lambda way: way.get(), lambda way: way.put(b"x", Deadline(PATIENCE))),
}


@pytest.mark.parametrize("kind", SETTERS)
def test_who_is_interrupted_while_waking_somebody_wakes_it_the_next_time(kind: str) -> None:
    make, wait, wake = SETTERS[kind]
    thing: Any
    waiting: threading.Thread

    def begin() -> Callable[[], object]:
        nonlocal thing, waiting
        thing = make()
        waiting = threading.Thread(target=wait, args=(thing,))
        waiting.start()
        until(lambda: getattr(thing, "mutex", getattr(thing, "_change", thing))._doors)
        return partial(wake, thing)

    for where in interrupted(begin):
        assert in_time(partial(wake, thing)), where
        waiting.join(PATIENCE)
        assert not waiting.is_alive(), where


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
        assert points > 20
        until(lambda: client.counters["pending"] == 0)
        adds_up(client.counters)
