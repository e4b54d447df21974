"""CallerContract: what everything that can be asked has to do: a Peer, and every wrapper around one."""

from __future__ import annotations

import concurrent.futures
import os
import queue
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from ..deadlines import Deadline
from ..engine.caller import Caller, CallFuture, Handler, Incoming, Question
from ..engine.channel import Channel
from ..engine.connect import Introduction, converse
from ..exceptions import (
    ForkedClientError,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
)
from ..policies import Limits
from ..protocol.messages import INTERNAL_ERROR, METHOD_NOT_FOUND, Notification
from .tools import PATIENCE, SLACK, Background, in_threads, raises


class Answering:
    """A Handler that keeps what it is told, and answers as it is told."""

    def __init__(self, answer: Callable[[Incoming], dict[str, Any]] | None = None) -> None:
        self._answer = answer or (lambda incoming: {"asked": incoming.request.method})
        self.told: queue.Queue[Notification] = queue.Queue()
        self.ends: queue.Queue[MCPError] = queue.Queue()
        self.threads: set[str] = set()

    def offers(self, method: str) -> bool:
        """Answer everything."""
        return True

    def request(self, incoming: Incoming) -> dict[str, Any]:
        """Answer."""
        self.threads.add(threading.current_thread().name)
        return self._answer(incoming)

    def notification(self, notification: Notification) -> None:
        """Keep it."""
        self.threads.add(threading.current_thread().name)
        self.told.put(notification)

    def closed(self, error: MCPError) -> None:
        """Keep it."""
        self.ends.put(error)

    def next(self) -> Notification:
        """Return the next notification."""
        return self.told.get(timeout=PATIENCE)


class CallerContract:
    """What everything that can be asked has to do. Inherit it, and define ``connect`` or ``make``.

    Attributes:
        exact: Whether the partner can send what is no message.
        message_size: The limit of one message in bytes.
        limited: Whether the limits mean something to what ``connect`` or ``make`` returns; else nothing is tried that
            is over them.
        version: The protocol version in which ``make`` asks.
        asks: Whether the other side may ask us, which it may in all versions but the newest.
        shared: Whether all messages come one way. Else each answer comes the way of its request, and nothing comes that
            nobody waits for.
        ends: Whether the other side can end the connection; it cannot where there are only single requests.
        in_flight: How many submitted calls may be under way at once.
    """

    exact: ClassVar[bool] = True
    message_size: ClassVar[int] = 1 << 16
    limited: ClassVar[bool] = True
    version: ClassVar[str] = "2025-11-25"
    asks: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    ends: ClassVar[bool] = True
    in_flight: ClassVar[int] = 1000

    # -- for bindings --------------------------------------------------------------------------------------------------

    def connect(self, limits: Limits) -> Channel:
        """Return a Channel to a fresh Partner, not yet started, with these limits."""
        raise NotImplementedError

    def make(self, handler: Handler | None, limits: Limits) -> Caller:
        """Return a caller that asks a Partner in ``version``; by default a Peer over the channel."""
        channel = self.connect(limits)
        return converse(channel, Introduction(version=self.version, handler=handler), limits, Deadline(PATIENCE))

    def counters(self, caller: Caller) -> dict[str, int]:
        """Return what a caller has counted."""
        return caller.counters

    # -- for tests -----------------------------------------------------------------------------------------------------

    @contextmanager
    def calling(self, handler: Handler | None = None, **limits: int) -> Iterator[Caller]:
        """Give a caller; every counter adds up in the end."""
        caller = self.make(handler, Limits(message_size=self.message_size, **limits))
        try:
            yield caller
        finally:
            caller.close(Deadline(PATIENCE))
        self._check(caller)

    def _check(self, caller: Caller) -> None:
        count = self.counters(caller)
        ended = count["ok"] + count["error"] + count["timeout"] + count["cancelled"]
        assert count["sent"] == ended + count["pending"], count

    def _ask(self, caller: Caller, method: str, /, timeout: float = PATIENCE, **params: Any) -> dict[str, Any]:
        return caller.call(Question(method, params), Deadline(timeout))

    def _submit(self, caller: Caller, method: str, /, timeout: float = PATIENCE, **params: Any) -> CallFuture[Any]:
        return caller.submit(Question(method, params), Deadline(timeout))

    def _await_held(self, caller: Caller, count: int) -> None:
        """Wait until so many calls are being held."""
        patience = Deadline(PATIENCE)
        while self._ask(caller, "count").get("hold", 0) < count:
            assert not patience.expired, "the calls have not reached the partner"

    def _cancelled(self, caller: Caller, count: int = 0) -> list[Any]:
        """Return the ids that the partner was told to forget, once there are so many: it is told soon, not at once."""
        patience = Deadline(PATIENCE)
        while True:
            told = self._ask(caller, "seen")["notifications"]
            ids = [item["params"]["requestId"] for item in told if item["method"] == "notifications/cancelled"]
            if len(ids) >= count:
                return ids
            assert not patience.expired, "the partner was not told"

    # -- calls ---------------------------------------------------------------------------------------------------------

    def test_a_call_gives_the_result(self) -> None:
        with self.calling() as caller:
            assert self._ask(caller, "echo", a=[1, "zwei"]) == {"a": [1, "zwei"]}

    def test_it_knows_what_was_agreed(self) -> None:
        with self.calling() as caller:
            assert caller.agreement.era.version == self.version
            assert caller.agreement.server_info["name"] == "partner"
            assert caller.name

    def test_the_other_sides_error_is_raised_as_it_is(self) -> None:
        with self.calling() as caller:
            with raises(JSONRPCError) as found:
                self._ask(caller, "fail", code=-32000, message="no such luck", data={"a": 1})
            error = found[0]
            assert (error.code, error.message, error.data) == (-32000, "no such luck", {"a": 1})
            assert error.method == "fail"
            assert error.may_have_run is True
            with raises(JSONRPCError) as found:
                self._ask(caller, "what")
            assert found[0].code == METHOD_NOT_FOUND
            assert self._ask(caller, "echo") == {}

    def test_what_cannot_be_sent_fails_that_call_alone(self) -> None:
        with self.calling() as caller:
            with raises(LocalProtocolError) as found:
                self._ask(caller, "echo", a={1})
            assert found[0].may_have_run is False
            assert self._ask(caller, "echo") == {}

    def test_what_is_over_the_limit_fails_that_call_alone(self) -> None:
        if not self.limited:
            return
        with self.calling() as caller:
            with raises(MessageTooLarge) as large:
                self._ask(caller, "echo", a="x" * self.message_size)
            assert large[0].may_have_run is False
            assert self._ask(caller, "echo") == {}

    def test_an_answer_over_the_limit_fails_that_call_alone(self) -> None:
        if not self.limited:
            return
        with self.calling() as caller:
            with raises(MessageTooLarge) as found:
                self._ask(caller, "oversize", size=2 * self.message_size)
            assert found[0].details["limit"] == self.message_size
            assert self._ask(caller, "echo") == {}

    def test_an_unreadable_answer_fails_that_call_at_once_and_alone(self) -> None:
        if not self.exact:
            return
        with self.calling() as caller:
            held = self._submit(caller, "hold", a=1)
            self._await_held(caller, 1)
            with raises(RemoteProtocolError) as found:
                self._ask(caller, "malformed")
            assert found[0].may_have_run is True
            if self.shared:
                assert self._ask(caller, "garbage") == {}
            assert self._ask(caller, "release") == {"count": 1}
            assert held.result(PATIENCE) == {"a": 1}

    def test_answers_that_come_twice_or_to_nothing_are_dropped_and_counted(self) -> None:
        if not self.shared:
            return
        with self.calling() as caller:
            assert self._ask(caller, "twice") == {}
            assert self._ask(caller, "foreign") == {}
            assert self._ask(caller, "echo") == {}
            count = self.counters(caller)
            assert (count["dropped_late"], count["dropped_unknown"]) == (1, 2)

    def test_two_hundred_threads_may_call_at_once_and_each_gets_its_own_answer(self) -> None:
        with self.calling() as caller:

            def ask(number: int) -> list[Any]:
                return [self._ask(caller, "echo", from_=number, n=n) for n in range(5)]

            answers = in_threads(200, ask)
            assert answers == [[{"from_": number, "n": n} for n in range(5)] for number in range(200)]

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def test_a_call_ends_at_its_deadline_and_the_other_side_is_told(self) -> None:
        with self.calling() as caller:
            began = time.monotonic()
            with raises(MCPTimeoutError) as found:
                self._ask(caller, "hold", timeout=0.2)
            assert time.monotonic() - began < 0.2 + SLACK
            error = found[0]
            assert error.may_have_run is None
            assert "hold" in str(error)
            assert caller.name in str(error)
            assert error.details["method"] == "hold"
            assert error.details["limit"] == 0.2
            assert error.details["elapsed"] >= 0.19
            assert len(self._cancelled(caller, 1)) == 1
            assert self.counters(caller)["timeout"] == 1

    def test_an_answer_that_comes_too_late_is_dropped_and_counted(self) -> None:
        with self.calling() as caller:
            with raises(MCPTimeoutError):
                self._ask(caller, "hold", timeout=0.1, a=1)
            assert self._ask(caller, "release") == {"count": 1}
            assert self._ask(caller, "echo", b=2) == {"b": 2}
            assert self.counters(caller)["dropped_late"] == (1 if self.shared else 0)

    def test_a_submitted_call_is_over_at_its_deadline_though_nobody_waits(self) -> None:
        with self.calling() as caller:
            over = threading.Event()
            future = self._submit(caller, "hold", timeout=0.2)
            future.add_done_callback(lambda _: over.set())
            assert over.wait(PATIENCE)
            assert isinstance(future.exception(0), MCPTimeoutError)
            assert len(self._cancelled(caller, 1)) == 1

    def test_calls_with_different_deadlines_end_in_their_own_time(self) -> None:
        with self.calling() as caller:
            limits = [0.5, 0.1, 0.3, 0.2, 0.4]
            began = time.monotonic()
            futures = [self._submit(caller, "hold", timeout=limit) for limit in limits]
            order = [futures.index(future) for future in concurrent.futures.as_completed(futures, PATIENCE)]  # type: ignore[arg-type]
            assert order == [1, 3, 2, 4, 0]
            assert time.monotonic() - began < 0.5 + SLACK

    # -- futures -------------------------------------------------------------------------------------------------------

    def test_wait_and_as_completed_see_futures_at_once(self) -> None:
        with self.calling() as caller:
            futures = [self._submit(caller, "echo", n=n) for n in range(20)]
            done, pending = concurrent.futures.wait(futures, PATIENCE)
            assert (len(done), len(pending)) == (20, 0)
            results = [future.result(0)["n"] for future in concurrent.futures.as_completed(futures, PATIENCE)]
            assert sorted(results) == list(range(20))

    def test_a_future_holds_the_error_as_well(self) -> None:
        with self.calling() as caller:
            assert isinstance(self._submit(caller, "what").exception(PATIENCE), JSONRPCError)
            assert isinstance(self._submit(caller, "echo", a={1}).exception(PATIENCE), LocalProtocolError)

    def test_many_calls_may_be_in_flight_and_be_answered_in_another_order(self) -> None:
        with self.calling() as caller:
            futures = [self._submit(caller, "hold", n=n) for n in range(self.in_flight)]
            self._await_held(caller, self.in_flight)
            assert self._ask(caller, "release") == {"count": self.in_flight}
            assert [future.result(PATIENCE)["n"] for future in futures] == list(range(self.in_flight))
            assert self.counters(caller)["pending"] == 0

    def test_cancelling_wakes_those_who_wait_and_tells_the_other_side(self) -> None:
        with self.calling() as caller:
            future = self._submit(caller, "hold")
            self._await_held(caller, 1)
            waiting = Background(lambda: concurrent.futures.wait([future], PATIENCE))
            completing = Background(lambda: list(concurrent.futures.as_completed([future], PATIENCE)))
            resulting = Background(lambda: future.result(PATIENCE))
            assert future.cancel() is True
            assert future.cancelled()
            assert waiting.result().done == {future}
            assert completing.result() == [future]
            assert isinstance(resulting.error(), concurrent.futures.CancelledError)
            assert future.cancel() is True
            assert len(self._cancelled(caller, 1)) == 1
            assert self._ask(caller, "release") == {"count": 1}
            assert self._ask(caller, "echo") == {}
            count = self.counters(caller)
            assert (count["cancelled"], count["dropped_late"]) == (1, 1 if self.shared else 0)

    def test_what_is_over_cannot_be_cancelled(self) -> None:
        with self.calling() as caller:
            future = self._submit(caller, "echo")
            assert future.result(PATIENCE) == {}
            assert future.cancel() is False
            assert not future.cancelled()
            assert self._cancelled(caller) == []

    def test_a_done_callback_may_call_the_same_caller(self) -> None:
        with self.calling() as caller:
            answers: queue.Queue[Any] = queue.Queue()

            def call_again(future: concurrent.futures.Future[Any]) -> None:
                answers.put((future.result(0), self._ask(caller, "echo", again=True)))

            self._submit(caller, "echo", first=True).add_done_callback(call_again)
            assert answers.get(timeout=PATIENCE) == ({"first": True}, {"again": True})

    def test_a_done_callback_that_raises_hurts_nobody(self) -> None:
        with self.calling() as caller:
            over = threading.Event()

            def fail(_: object) -> None:
                over.set()
                raise ZeroDivisionError("on purpose")

            with quiet_log():
                self._submit(caller, "echo").add_done_callback(fail)
                assert over.wait(PATIENCE)
                assert self._ask(caller, "echo") == {}

    # -- progress ------------------------------------------------------------------------------------------------------

    def test_progress_callbacks_are_over_before_the_call_returns(self) -> None:
        with self.calling() as caller:
            reports: list[tuple[float, float | None, str | None]] = []
            threads: set[str] = set()

            def report(progress: float, total: float | None, message: str | None) -> None:
                threads.add(threading.current_thread().name)
                reports.append((progress, total, message))

            caller.call(Question("progress", {"count": 100}, on_progress=report), Deadline(PATIENCE))
            assert reports == [(n, 100, f"step {n}") for n in range(1, 101)]
            assert all("reader" not in name for name in threads)

    def test_a_progress_callback_may_call_and_have_progress_of_its_own(self) -> None:
        with self.calling() as caller:
            reports: list[str] = []

            def inner(progress: float, total: float | None, message: str | None) -> None:
                reports.append(f"inner {progress:g}")

            def outer(progress: float, total: float | None, message: str | None) -> None:
                reports.append(f"outer {progress:g}")
                caller.call(Question("progress", {"count": 2}, on_progress=inner), Deadline(PATIENCE))

            caller.call(Question("progress", {"count": 2}, on_progress=outer), Deadline(PATIENCE))
            assert reports == ["outer 1", "inner 1", "inner 2", "outer 2", "inner 1", "inner 2"]

    def test_a_progress_callback_that_raises_hurts_nobody(self) -> None:
        with self.calling() as caller, quiet_log():
            question: Question[Any] = Question("progress", {"count": 3}, on_progress=lambda *_: 1 / 0)
            assert caller.call(question, Deadline(PATIENCE)) == {}

    def test_a_progress_callback_that_hangs_delays_the_call_no_longer_than_its_deadline(self) -> None:
        release = threading.Event()
        with self.calling() as caller:
            began = time.monotonic()
            question: Question[Any] = Question("progress", {"count": 1}, on_progress=lambda *_: release.wait(PATIENCE))
            assert caller.call(question, Deadline(0.3)) == {}
            assert time.monotonic() - began < 0.3 + SLACK
            release.set()

    # -- the other side speaks -----------------------------------------------------------------------------------------

    def test_notifications_come_in_order_one_at_a_time_and_not_on_the_reader(self) -> None:
        handler = Answering()
        with self.calling(handler) as caller:
            self._ask(caller, "notify", count=500)
            assert [handler.next().params for _ in range(500)] == [{"n": n} for n in range(500)]
            assert len(handler.threads) == 1
            assert all("reader" not in name for name in handler.threads)

    def test_a_slow_notification_handler_does_not_delay_replies(self) -> None:
        release = threading.Event()

        class Slow(Answering):
            def notification(self, notification: Notification) -> None:
                release.wait(PATIENCE)
                super().notification(notification)

        handler = Slow()
        with self.calling(handler) as caller:
            self._ask(caller, "notify", count=10)
            assert [self._ask(caller, "echo", n=n)["n"] for n in range(20)] == list(range(20))
            assert handler.told.empty()
            release.set()
            assert [handler.next().params for _ in range(10)] == [{"n": n} for n in range(10)]

    def test_notifications_beyond_the_backlog_are_dropped_and_counted(self) -> None:
        if not self.limited:
            return
        release = threading.Event()

        class Slow(Answering):
            def notification(self, notification: Notification) -> None:
                release.wait(PATIENCE)
                super().notification(notification)

        handler = Slow()
        with self.calling(handler, backlog=10) as caller:
            self._ask(caller, "notify", count=100)
            dropped = self.counters(caller)["dropped_backlog"]
            assert 89 <= dropped <= 90  # one is being handled, unless the lane has not got that far yet
            release.set()
            kept = [(handler.next().params or {})["n"] for _ in range(100 - dropped)]
            assert kept[:10] == list(range(10))
            assert kept == sorted(kept)

    def test_a_notification_handler_that_raises_hurts_nobody(self) -> None:
        class Failing(Answering):
            def notification(self, notification: Notification) -> None:
                super().notification(notification)
                raise ZeroDivisionError("on purpose")

        handler = Failing()
        with self.calling(handler) as caller, quiet_log():
            self._ask(caller, "notify", count=2)
            assert [handler.next().params for _ in range(2)] == [{"n": 0}, {"n": 1}]
            assert self._ask(caller, "echo") == {}

    def test_a_notification_handler_may_call_the_same_caller(self) -> None:
        answers: queue.Queue[Any] = queue.Queue()

        class Calling(Answering):
            def notification(self, notification: Notification) -> None:
                answers.put(ask(notification.params))

        handler = Calling()
        with self.calling(handler) as caller:

            def ask(params: Any) -> Any:
                return caller.call(Question("echo", params), Deadline(PATIENCE))

            self._ask(caller, "notify", count=3)
            assert [answers.get(timeout=PATIENCE) for _ in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]

    def test_requests_of_the_other_side_are_answered(self) -> None:
        if not self.asks:
            return
        handler = Answering()
        with self.calling(handler) as caller:
            assert self._ask(caller, "ask", method="what") == {"answers": [{"result": {"asked": "what"}}]}
            assert all("reader" not in name for name in handler.threads)

    def test_a_ping_is_answered_whoever_handles_the_rest(self) -> None:
        if not self.asks:
            return
        with self.calling() as caller:
            assert self._ask(caller, "ask", method="ping") == {"answers": [{"result": {}}]}

    def test_without_a_handler_requests_of_the_other_side_are_refused(self) -> None:
        if not self.asks:
            return
        with self.calling() as caller:
            [answer] = self._ask(caller, "ask", method="what")["answers"]
            assert answer["error"]["code"] == METHOD_NOT_FOUND

    def test_the_handlers_error_is_the_answer_and_no_other_detail_gets_out(self) -> None:
        if not self.asks:
            return
        def answer(incoming: Incoming) -> dict[str, Any]:
            if incoming.request.method == "crash":
                raise ZeroDivisionError("a secret")
            raise JSONRPCError(-1, "the user said no", {"why": "busy"})

        handler = Answering(answer)
        with self.calling(handler) as caller, quiet_log():
            [refused] = self._ask(caller, "ask", method="sampling/createMessage")["answers"]
            assert refused == {"error": {"code": -1, "message": "the user said no", "data": {"why": "busy"}}}
            [crashed] = self._ask(caller, "ask", method="crash")["answers"]
            assert crashed["error"]["code"] == INTERNAL_ERROR
            assert "secret" not in str(crashed)

    def test_an_answer_that_cannot_be_sent_becomes_an_error(self) -> None:
        if not self.asks:
            return
        def answer(incoming: Incoming) -> dict[str, Any]:
            if incoming.request.method == "refuse":
                raise JSONRPCError(-1, "no", object())
            return {"a": object()} if incoming.request.method == "odd" else {"a": "x" * self.message_size}

        handler = Answering(answer)
        with self.calling(handler) as caller, quiet_log():
            for method in ("odd", "refuse", *(("large",) if self.limited else ())):
                [answered] = self._ask(caller, "ask", method=method)["answers"]
                assert "error" in answered, method
            assert self._ask(caller, "echo") == {}

    def test_requests_of_the_other_side_are_answered_at_the_same_time(self) -> None:
        if not self.asks:
            return
        together = threading.Barrier(5)

        def answer(incoming: Incoming) -> dict[str, Any]:
            return {"n": together.wait(PATIENCE)}

        handler = Answering(answer)
        with self.calling(handler) as caller:
            answers = self._ask(caller, "ask", method="what", times=5)["answers"]
            assert sorted(answered["result"]["n"] for answered in answers) == [0, 1, 2, 3, 4]

    def test_requests_beyond_the_limit_are_refused_not_queued(self) -> None:
        if not self.asks:
            return
        running: queue.Queue[None] = queue.Queue()
        release = threading.Event()

        def answer(incoming: Incoming) -> dict[str, Any]:
            running.put(None)
            release.wait(PATIENCE)
            return {}

        handler = Answering(answer)
        with self.calling(handler, callbacks=3) as caller:
            future = self._submit(caller, "ask", method="what", times=8)
            for _ in range(3):
                running.get(timeout=PATIENCE)
            patience = Deadline(PATIENCE)
            while self.counters(caller)["requests_refused"] < 5:
                self._ask(caller, "echo")
                assert not patience.expired
            release.set()
            answers = future.result(PATIENCE)["answers"]
            assert [answered for answered in answers if "result" in answered] == [{"result": {}}] * 3
            assert all(answered["error"]["code"] == INTERNAL_ERROR for answered in answers if "error" in answered)

    def test_a_request_handler_may_call_the_same_caller(self) -> None:
        if not self.asks:
            return
        def answer(incoming: Incoming) -> dict[str, Any]:
            return caller.call(Question("echo", {"nested": True}), Deadline(PATIENCE))

        handler = Answering(answer)
        with self.calling(handler) as caller:
            assert self._ask(caller, "ask", method="what")["answers"] == [{"result": {"nested": True}}]

    def test_a_request_that_the_other_side_withdraws_is_marked_and_not_answered(self) -> None:
        if not self.asks:
            return
        marked: queue.Queue[bool] = queue.Queue()

        def answer(incoming: Incoming) -> dict[str, Any]:
            marked.put(incoming.withdrawn.wait(PATIENCE))
            return {}

        handler = Answering(answer)
        with self.calling(handler) as caller:
            self._ask(caller, "withdraw", method="what")
            assert marked.get(timeout=PATIENCE) is True
            assert self._ask(caller, "echo") == {}

    def test_what_we_say_arrives(self) -> None:
        with self.calling() as caller:
            caller.notify("notifications/roots/list_changed", None, Deadline(PATIENCE))
            caller.notify("words", {"a": 1}, Deadline(PATIENCE))
            told = self._ask(caller, "seen")["notifications"]
            assert [item["method"] for item in told[-2:]] == ["notifications/roots/list_changed", "words"]
            assert told[-1]["params"] == {"a": 1}

    # -- the end -------------------------------------------------------------------------------------------------------

    def test_after_closing_every_call_says_so(self) -> None:
        with self.calling() as caller:
            caller.close(Deadline(PATIENCE))
            caller.close(Deadline(PATIENCE))
            for ask in (
                lambda: self._ask(caller, "echo"),
                lambda: self._submit(caller, "echo"),
                lambda: caller.notify("words", None, Deadline(1)),
            ):
                with raises(MCPConnectionError) as found:
                    ask()
                assert found[0].may_have_run is False
                assert "closed" in str(found[0])

    def test_closing_fails_every_call_in_flight(self) -> None:
        with self.calling() as caller:
            future = self._submit(caller, "hold")
            waiting = [Background(lambda: self._ask(caller, "hold", timeout=PATIENCE * 3)) for _ in range(3)]
            self._await_held(caller, 4)
            caller.close(Deadline(PATIENCE))
            errors = [future.exception(PATIENCE), *(call.error() for call in waiting)]
            assert all(isinstance(error, MCPConnectionError) for error in errors)
            assert len({id(error) for error in errors}) == 4  # each caller has one of its own
            assert all(error.may_have_run is None for error in errors if isinstance(error, MCPError))
            assert self.counters(caller)["pending"] == 0

    def test_the_end_of_the_other_side_fails_every_call_in_flight_and_the_handler_is_told(self) -> None:
        handler = Answering()
        with self.calling(handler) as caller:
            held = self._submit(caller, "hold")
            self._await_held(caller, 1)
            with raises(MCPConnectionError) as found:
                self._ask(caller, "die")
            assert found[0].may_have_run is None
            assert found[0].details["method"] == "die"
            assert isinstance(held.exception(PATIENCE), MCPConnectionError)
            if self.ends:
                assert isinstance(handler.ends.get(timeout=PATIENCE), MCPConnectionError)
                with raises(MCPConnectionError) as found:
                    self._ask(caller, "echo")
                assert found[0].may_have_run is False
        assert handler.ends.qsize() == (0 if self.ends else 1)  # it is told once, at the latest by closing

    def test_eight_threads_may_close_it_at_once(self) -> None:
        with self.calling() as caller:
            self._submit(caller, "hold")
            in_threads(8, lambda _: caller.close(Deadline(PATIENCE)))
            assert self.counters(caller)["pending"] == 0

    def test_it_may_be_closed_in_a_callback(self) -> None:
        with self.calling() as caller:
            over = threading.Event()

            def close(_: object) -> None:
                caller.close(Deadline(PATIENCE))
                over.set()

            self._submit(caller, "echo").add_done_callback(close)
            assert over.wait(PATIENCE)
            with raises(MCPConnectionError):
                self._ask(caller, "echo")

    def test_it_may_be_closed_while_a_request_of_the_other_side_is_answered(self) -> None:
        if not self.asks:
            return
        closed = threading.Event()

        def answer(incoming: Incoming) -> dict[str, Any]:
            caller.close(Deadline(PATIENCE))
            closed.set()
            return {}

        handler = Answering(answer)
        with self.calling(handler) as caller:
            with raises(MCPConnectionError):
                self._ask(caller, "ask", method="what")
            assert closed.wait(PATIENCE)

    def test_the_counters_add_up_after_all_kinds_of_ends(self) -> None:
        with self.calling() as caller:
            self._ask(caller, "echo")
            with raises(JSONRPCError):
                self._ask(caller, "what")
            with raises(MCPTimeoutError):
                self._ask(caller, "hold", timeout=0.1)
            with raises(LocalProtocolError):
                self._ask(caller, "echo", a={1})
            self._submit(caller, "hold").cancel()
            self._submit(caller, "hold")
            self._check(caller)
            assert self.counters(caller)["pending"] == 1
        count = self.counters(caller)
        assert count["timeout"] == 1
        assert count["cancelled"] == 1
        assert count["error"] == 3

    # -- forks ---------------------------------------------------------------------------------------------------------

    def test_in_a_forked_child_it_refuses_and_the_parent_goes_on(self) -> None:
        if not hasattr(os, "fork"):
            return
        with self.calling() as caller:
            held = self._submit(caller, "hold", a=1)
            self._await_held(caller, 1)

            def in_child() -> None:
                for ask in (
                    lambda: self._ask(caller, "echo"),
                    lambda: self._submit(caller, "echo"),
                    lambda: caller.notify("words", None, Deadline(1)),
                    lambda: held.result(PATIENCE),
                ):
                    with raises(ForkedClientError):
                        ask()
                caller.close(Deadline(1))

            assert verdict_of_child(in_child) == "fine"
            assert self._ask(caller, "echo", b=2) == {"b": 2}
            assert self._ask(caller, "release") == {"count": 1}
            assert held.result(PATIENCE) == {"a": 1}
            assert self._cancelled(caller) == []


def verdict_of_child(work: Callable[[], object]) -> str:
    """Fork, do the work in the child, and return ``fine`` or what it raised."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3.12: forking with threads may deadlock. That it does not is what we test
        child = os.fork()
    if child == 0:
        said = "fine"
        try:
            work()
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], PATIENCE)
        if not ready:
            os.kill(child, signal.SIGKILL)
        return os.read(reading, 4000).decode() if ready else "the child hangs"
    finally:
        os.close(reading)
        os.waitpid(child, 0)


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keep the errors that a test provokes out of the log."""
    import logging

    log = logging.getLogger("mcp_sync")
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False
