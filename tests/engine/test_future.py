"""CallFuture: a concurrent.futures.Future with nobody's thread behind it."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_sync import JSONRPCError, MCPConnectionError, RemoteProtocolError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import CallFuture, Question
from mcp_sync.engine.dispatch import Lane
from mcp_sync.testing import in_threads

T = 5.0


class Desk:
    """An owner of futures: gives each back once."""

    def __init__(self) -> None:
        self.lane = Lane("mcp-test-lane")
        self._open: set[int] = set()
        self._lock = threading.Lock()
        self.withdrawn: list[Any] = []

    def ask(self, question: Question[Any] | None = None) -> CallFuture[Any]:
        future: CallFuture[Any] = CallFuture(question or Question("echo"), self)
        self._open.add(id(future))
        return future

    def take(self, future: CallFuture[Any]) -> bool:
        with self._lock:
            if id(future) not in self._open:
                return False
            self._open.discard(id(future))
            return True

    def withdraw(self, future: CallFuture[Any]) -> bool:
        if not self.take(future):
            return False
        self.withdrawn.append(future)
        return True

    def post(self, job: Any) -> None:
        self.lane.post(job)

    def finished(self) -> None:
        done = threading.Event()
        self.lane.post(done.set)
        assert done.wait(T)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.lane.close(Deadline(T))


def test_it_is_a_future_that_wait_and_as_completed_know(desk: Desk) -> None:
    future = desk.ask()
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()
    future.settle({"a": 1}, None)
    assert future.done()
    assert future.result(0) == {"a": 1}
    assert future.exception(0) is None
    assert concurrent.futures.wait([future], 0).done == {future}
    assert list(concurrent.futures.as_completed([future], 0)) == [future]


def test_an_error_is_raised_and_can_be_looked_at(desk: Desk) -> None:
    future = desk.ask()
    error = JSONRPCError(-1, "no")
    future.settle(None, error)
    assert future.exception(0) is error
    with pytest.raises(JSONRPCError, match="no"):
        future.result(0)
    with pytest.raises(JSONRPCError):
        future.raw()


def test_waiting_for_it_ends_at_the_timeout_and_the_call_goes_on(desk: Desk) -> None:
    future = desk.ask()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    assert future.wait(0.01) is False
    future.settle({}, None)
    assert future.wait(0) is True


def test_cancelling_takes_the_call_back_and_wakes_everybody(desk: Desk) -> None:
    future = desk.ask()
    assert future.cancel() is True
    assert future.cancelled()
    assert desk.withdrawn == [future]
    assert concurrent.futures.wait([future], 0).done == {future}
    assert future.wait(0) is True
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)
    assert future.cancel() is True
    assert desk.withdrawn == [future]


def test_what_is_over_cannot_be_cancelled(desk: Desk) -> None:
    future = desk.ask()
    assert desk.take(future)
    future.settle({}, None)
    assert future.cancel() is False
    assert future.result(0) == {}


def test_of_many_threads_that_cancel_and_one_that_answers_exactly_one_wins(desk: Desk) -> None:
    for _ in range(100):
        future = desk.ask()

        def race(number: int, future: CallFuture[Any] = future) -> bool:
            if number:
                return future.cancel()
            if taken := desk.take(future):
                future.settle({"won": True}, None)
            return taken

        answered = in_threads(4, race)[0]
        assert future.done()
        assert future.cancelled() is not answered
        assert answered is (future not in desk.withdrawn)


def test_done_callbacks_run_on_the_lane_and_never_where_it_is_settled(desk: Desk) -> None:
    threads: list[str] = []

    def note(_: object) -> None:
        threads.append(threading.current_thread().name)

    for end in (lambda f: f.settle({}, None), lambda f: f.settle(None, JSONRPCError(-1, "no")), lambda f: f.cancel()):
        future = desk.ask()
        future.add_done_callback(note)
        end(future)
        future.add_done_callback(note)  # when it is over already, too
    desk.finished()
    assert threads == ["mcp-test-lane"] * 6


def test_what_whoever_holds_it_does_to_it_hurts_nobody_else(desk: Desk) -> None:
    for vandalise in (
        lambda future: future.set_result({"forged": True}),
        lambda future: future.set_exception(ZeroDivisionError()),
        lambda future: concurrent.futures.Future.cancel(future),
        lambda future: future.set_running_or_notify_cancel(),
    ):
        future = desk.ask()
        vandalise(future)
        future.settle({}, None)  # on the reader's thread: it must not raise
        assert future.done()


def test_a_result_is_converted_once_and_in_the_thread_that_asks(desk: Desk) -> None:
    threads: list[int] = []

    def convert(raw: dict[str, Any], patience: Deadline) -> list[int]:
        threads.append(threading.get_ident())
        return [raw["n"]]

    future = desk.ask(Question("echo", convert=convert))
    future.settle({"n": 7}, None)
    assert threads == []
    first = future.result(0)
    assert first == [7]
    assert all(result is first for result in in_threads(5, lambda _: future.result(0)))
    assert threads == [threading.get_ident()]
    assert future.raw() == {"n": 7}


def test_a_result_that_cannot_be_converted_is_the_futures_error(desk: Desk) -> None:
    def convert(raw: dict[str, Any], patience: Deadline) -> Any:
        raise RemoteProtocolError("no such result")

    future = desk.ask(Question("echo", convert=convert))
    future.settle({}, None)
    assert isinstance(future.exception(0), RemoteProtocolError)
    with pytest.raises(RemoteProtocolError):
        future.result(0)


def test_what_comes_then_comes_after_the_result(desk: Desk) -> None:
    seen: list[bool] = []
    future = desk.ask(Question("echo", then=lambda future: seen.append(future.done())))
    future.settle({}, None)
    assert seen == [True]


def test_its_deadline_is_kept_though_nobody_waits_and_called_off_when_it_is_over(desk: Desk) -> None:
    late, in_time = desk.ask(), desk.ask()
    over = threading.Event()

    def expire() -> None:
        late.settle(None, MCPConnectionError("too late"))
        over.set()

    ran: list[str] = []
    in_time.expire(Deadline(0.02), lambda: ran.append("in time"))
    in_time.settle({}, None)
    late.expire(Deadline(0.05), expire)
    assert over.wait(T)
    assert ran == []
    assert isinstance(late.exception(0), MCPConnectionError)


def test_its_repr_says_what_it_is(desk: Desk) -> None:
    future = desk.ask()
    future.request_id = 7
    assert repr(future) == "<CallFuture echo #7 pending>"
    future.settle({}, None)
    assert repr(future) == "<CallFuture echo #7 done>"
    other = desk.ask()
    other.cancel()
    assert "cancelled" in repr(other)
