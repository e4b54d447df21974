"""Tickets: calls in flight, as a Peer knows them: one kind for a thread that waits, one for whoever holds a future."""

from __future__ import annotations

import threading
import time
from typing import Any, Generic, TypeAlias, TypeVar

from ..exceptions import MCPTransportError
from ..protocol.messages import Request, RequestId
from .backlog import Backlog
from .caller import CallFuture, Owner, Question

R = TypeVar("R")

Progress: TypeAlias = "Backlog[dict[str, Any] | None]"


class Ticket:
    """A call whose caller waits for it, on one thread, and for nothing else: a tenth of what a future costs.

    Threads: ``settle`` and ``beckon`` by any; all else by the caller's.
    Locks: ``_gate`` is a door, not a guard: the caller sleeps before it, and whoever has news opens it.

    Attributes:
        question: What is asked.
        request_id: The id of the request on the wire.
        request: What to send, until it is sent.
        started: When it was asked.
        nested: Where its progress goes when the caller is the lane itself: the caller runs the callback.
        progress_posted: Whether callbacks are on the lane that have to finish before the call returns.
        over: Whether the call is over.
        unsent: Whether it is certain that not a byte of the request was written.
    """

    __slots__ = (
        "_error",
        "_gate",
        "_result",
        "nested",
        "over",
        "progress_posted",
        "question",
        "request",
        "request_id",
        "started",
        "unsent",
    )

    def __init__(self, question: Question[Any]) -> None:
        self.question = question
        self.request_id: RequestId | None = None
        self.request: Request | None = None
        self.started = time.monotonic()
        self.nested: Progress | None = None
        self.progress_posted = False
        self.over = False
        self.unsent = False
        self._result: dict[str, Any] | None = None
        self._error: BaseException | None = None
        self._gate = threading.Lock()  # guards nothing: the caller waits for it to be opened
        self._gate.acquire()

    def __repr__(self) -> str:
        return f"<Ticket {self.question.method} #{self.request_id} {'over' if self.over else 'pending'}>"

    def settle(self, result: dict[str, Any] | None, error: BaseException | None) -> None:
        """End the call. For whoever took it out of the Session, and nobody else."""
        self._result, self._error = result, error
        self.over = True
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it is awake already

    def beckon(self) -> None:
        """Wake the caller: the call is over, or it is its turn to read."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it has been woken already

    def sleep(self, timeout: float) -> bool:
        """Wait for news; False: the timeout came first."""
        return self._gate.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))

    def wait(self, timeout: float) -> bool:
        """Wait until the call is over; False: the timeout came first."""
        end = time.monotonic() + timeout
        while not self.over and self.sleep(max(0.0, end - time.monotonic())):
            pass
        return self.over

    def raw(self) -> dict[str, Any]:
        """Return the result of a call that is over as it came, or raise its error."""
        error, self._error = self._error, None
        if error is not None:
            if self.unsent and isinstance(error, MCPTransportError):
                error.may_have_run = False  # which whoever ended the call could not know
            try:
                raise error
            finally:
                del self, error  # the error's traceback refers to this frame
        assert self._result is not None
        return self._result

    def reborn(self) -> None:
        """In a forked child: be as new, for the gate may be in the hands of a thread that stayed behind."""
        self._gate = threading.Lock()  # guards as before
        self._gate.acquire()


class FutureTicket(CallFuture[R], Generic[R]):
    """A call whose caller holds a future.

    Attributes:
        request: What to send, until it is sent.
        started: When it was asked.
        nested: None: nobody waits who could run a callback.
        progress_posted: As in a Ticket.
        unsent: Likewise.
    """

    def __init__(self, question: Question[R], owner: Owner) -> None:
        super().__init__(question, owner)
        self.request: Request | None = None
        self.started = time.monotonic()
        self.nested: Progress | None = None
        self.progress_posted = False
        self.unsent = False


AnyTicket: TypeAlias = "Ticket | FutureTicket[Any]"
