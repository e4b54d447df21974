"""Caller: anything that can be asked: a Peer; a Peer with retries; ten Peers with failover.

And what passes through one: a Question goes in, a dict or a CallFuture comes out. Beside it the other narrow waist,
Handler: anything that answers.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..exceptions import MCPError
from ..protocol.eras import Era
from ..protocol.messages import Notification, Request, RequestId
from ..protocol.negotiation import Agreement
from . import interrupts
from .dispatch import Alarm, Crew, Job, reaper

R = TypeVar("R")

HELD_UP_SECONDS = 0.05
"""A future's own lock is held for a few instructions; if for longer, whoever holds it is gone."""


@dataclass(slots=True)  # not frozen, which would make it four times as dear; nobody changes one all the same
class Question(Generic[R]):
    """One request, as the application means it.

    Attributes:
        method: The method.
        params: Its params; the era adds what it needs.
        on_progress: Application code, given ``(progress, total, message)``.
        on_push: Our own code, given each notification that belongs to this request; must not wait.
        convert: Makes of the result what the application wants, by a deadline; runs in the thread that asks for it.
        then: Our own code, run by whoever resolves the future, right after; must not wait.
        open_ended: Whether the answer may take for ever, as that to ``subscriptions/listen``; only for ``submit``.
        repeatable: Whether the application says that asking twice does no more than asking once.
    """

    method: str
    params: Mapping[str, Any] | None = None
    on_progress: Callable[[float, float | None, str | None], Any] | None = None
    on_push: Callable[[Notification], None] | None = None
    convert: Callable[[dict[str, Any], Deadline], R] | None = None
    then: Callable[[CallFuture[R]], None] | None = None
    open_ended: bool = False
    repeatable: bool = False


class Owner(Protocol):
    """Who resolves a CallFuture."""

    def withdraw(self, future: CallFuture[Any]) -> bool:
        """Take the call back; False: it is over already."""

    def post(self, job: Job) -> None:
        """Run application code where it may take its time."""


class CallFuture(Future[R]):
    """The answer to one request, when it comes: a ``concurrent.futures.Future``.

    ``wait`` and ``as_completed`` see it at once. Callbacks run on the dispatch lane, where they may call the same
    client. ``cancel()`` tells whoever waits, then the server.

    Attributes:
        question: What was asked.
        request_id: The id of the request on the wire.
    """

    def __init__(self, question: Question[R], owner: Owner) -> None:
        super().__init__()
        self._condition = interrupts.Condition()  # type: ignore[assignment]  # guards what is the Future's own
        self.question = question
        self.request_id: RequestId | None = None
        self._owner = owner
        self._alarm: Alarm | None = None
        self._converting = threading.Lock()  # guards _converted
        self._converted: list[R] = []

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self.done() else "pending"
        return f"<CallFuture {self.question.method} #{self.request_id} {state}>"

    def cancel(self) -> bool:
        """Stop waiting, and tell the server; False: the call is over."""
        if not self._owner.withdraw(self):
            return self.cancelled()
        self._let_go()
        super().cancel()
        self.set_running_or_notify_cancel()  # without it, wait() and as_completed() would never hear
        return True

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Call ``fn(future)`` on the dispatch lane when the call is over."""
        super().add_done_callback(lambda future: self._owner.post(lambda: fn(future)))

    def result(self, timeout: float | None = None) -> R:
        """Return the result, waiting for it.

        Args:
            timeout: Seconds to wait; None waits for the call's own deadline.

        Raises:
            concurrent.futures.TimeoutError: It did not come within ``timeout``; the call goes on.
            MCPError: The call failed.
        """
        try:
            raw = super().result(timeout)
        except BaseException:
            del self  # which holds the error, whose traceback refers to this frame
            raise
        if self.question.convert is None:
            return raw
        if self._converted:
            return self._converted[0]
        patience = Deadline(LONGEST_TIMEOUT if timeout is None else max(timeout, 0.0))
        if not self._converting.acquire(timeout=min(patience.remaining, threading.TIMEOUT_MAX)):
            raise concurrent.futures.TimeoutError
        try:
            if not self._converted:
                self._converted.append(self.question.convert(cast("dict[str, Any]", raw), patience))
            return self._converted[0]
        finally:
            self._converting.release()

    def raw(self) -> dict[str, Any]:
        """Return the result of a call that is over as it came, or raise its error."""
        try:
            return cast("dict[str, Any]", super().result(0))
        finally:
            del self  # as above

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error the call ended with, or None."""
        error = super().exception(timeout)
        if error is None and self.question.convert is not None:
            try:
                self.result()
            except Exception as flaw:  # whatever converting raises is how the call ended
                return flaw
        return error

    def wait(self, timeout: float) -> bool:
        """Wait until the call is over; False: the timeout came first."""
        try:
            super().exception(timeout)
        except concurrent.futures.CancelledError:
            return True
        except concurrent.futures.TimeoutError:
            return self.done()
        return True

    def settle(self, result: dict[str, Any] | None, error: BaseException | None) -> None:
        """End the call. For whoever took it out of the Session, and nobody else."""
        self._let_go()
        if not self._condition.acquire(timeout=HELD_UP_SECONDS):
            if _settlers.start(lambda: self._settle_late(result, error)):
                return
            self._condition.acquire()
        try:
            self._settle(result, error)
        except BaseException:  # Ctrl-C
            interrupts.let_go(self._condition)  # type: ignore[arg-type]
            raise

    def _settle_late(self, result: dict[str, Any] | None, error: BaseException | None) -> None:
        self._condition.acquire()
        self._settle(result, error)

    def _settle(self, result: dict[str, Any] | None, error: BaseException | None) -> None:
        """End the call, and give back the lock.

        What ``concurrent.futures.wait`` and ``as_completed`` wait for are locks that Ctrl-C may have left locked. So
        those are told last, by a thread that has nothing else to do. Callbacks do not run under the lock.
        """
        waiters, self._waiters = self._waiters, []
        callbacks, self._done_callbacks = self._done_callbacks, []  # type: ignore[has-type]
        settled = False
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(cast("R", result))
            settled = True
        except concurrent.futures.InvalidStateError:  # whoever holds the future resolved it; that is no matter of ours
            pass
        self._waiters, self._done_callbacks = waiters, callbacks
        told = list(waiters) if settled else []
        self._condition.release()
        if settled:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        if told and not _settlers.start(lambda: self._tell(told)):
            self._tell(told)
        if self.question.then is not None:
            self.question.then(self)

    def _tell(self, waiters: list[Any]) -> None:
        for waiter in waiters:
            if self._exception is not None:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)

    def expire(self, deadline: Deadline, job: Job) -> None:
        """Run the job at the deadline, unless the call is over by then."""
        self._alarm = reaper.at(deadline, job)
        if self.done():
            self._let_go()

    def reborn(self) -> None:
        """In a forked child: be as new, for a lock of ours may be held by a thread that stayed behind."""
        super().__init__()
        self._condition = interrupts.Condition()  # type: ignore[assignment]  # guards as before
        self._alarm = None

    def _let_go(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            reaper.call_off(alarm)


_settlers = Crew("mcp-future", limit=10_000, idle=0.1)
"""The process's own; a forked child gets new ones. Each stays for a moment: answers come in crowds."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_settlers.forked)


class Caller(ABC):
    """Anything that can be asked. All methods may be called from any thread."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Whom it asks, for people."""

    @property
    @abstractmethod
    def agreement(self) -> Agreement:
        """What was negotiated."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing can be asked any more."""

    @property
    def must_connect(self) -> bool:
        """Whether the next question has to connect first, or cannot be asked any more."""
        return self.over

    def ready(self, deadline: Deadline) -> None:
        """Connect, where the connection is lost and can be made again; raises as that does. Nothing is asked."""

    @property
    @abstractmethod
    def counters(self) -> dict[str, int]:
        """What has happened so far; ``sent == ok + error + timeout + cancelled + pending``."""

    @abstractmethod
    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result.

        Raises:
            JSONRPCError: The other side answered with an error.
            MCPTimeoutError: The deadline passed; the other side has been told.
            MCPConnectionError: The connection is over.
            ProtocolError: One side said something that the protocol forbids.
        """

    @abstractmethod
    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return at once; the future is resolved by the deadline in any case."""

    @abstractmethod
    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer."""

    @abstractmethod
    def close(self, deadline: Deadline) -> None:
        """End it, and every call in flight with an error. Idempotent."""

    @abstractmethod
    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it, and wait for nothing."""

    @abstractmethod
    def dress(self, era: Era) -> None:
        """Let requests be dressed by this era from now on: another log level."""

    @abstractmethod
    def run(self, job: Job) -> bool:
        """Run application code on a thread of its own; False: too many run already."""

    @abstractmethod
    def post(self, job: Job) -> None:
        """Run application code on the lane, after what is there."""

    @abstractmethod
    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end, for the details of an error."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request of the other side, while it is being answered. ``withdrawn`` is set when it is cancelled."""

    request: Request
    withdrawn: interrupts.Event = field(default_factory=interrupts.Event)


class Handler(Protocol):
    """What the application does with what the other side says. Never called on a reader thread, or under a lock."""

    def offers(self, method: str) -> bool:
        """Whether ``request`` has anything to say to it; our own code, called on a reader thread, must not wait."""

    def request(self, incoming: Incoming) -> dict[str, Any] | None:
        """Return the result, or None to give it later; a JSONRPCError becomes the answer as it is."""

    def notification(self, notification: Notification) -> None:
        """Take note."""

    def closed(self, error: MCPError) -> None:
        """Take note that the conversation is over, and why."""
