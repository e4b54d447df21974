"""Breaking: leaves a server alone that fails again and again, so that calls fail at once and it can recover.

``Circuit`` is the state, pure but for its lock; ``Breaking`` puts it around a Caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

from ..deadlines import Deadline
from ..engine.caller import Caller, CallFuture, Question
from ..engine.lifetimes import tell_of_forks
from ..exceptions import (
    CircuitOpen,
    ForkedClientError,
    HTTPStatusError,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    RateLimited,
    Refused,
    RemoteProtocolError,
    ServerError,
    SessionExpired,
)
from ..observe import CircuitChanged, Event
from ..protocol.messages import Notification
from .wrapper import Wrapper

R = TypeVar("R")

State: TypeAlias = Literal["closed", "open", "half-open"]

GRACE_SECONDS = 1.0
"""How long after its deadline a probe that nobody heard of still keeps others out."""


@dataclass(frozen=True, slots=True)
class Passage:
    """The leave to make one call.

    Attributes:
        period: When it was given; what comes of it counts only in the same period.
        change: The state that giving it led to, if that is another one than before.
    """

    period: int
    change: State | None = None


class Circuit:
    """Whether a server may be asked. Every call enters, and leaves with what it has found out.

    * *closed*: everybody may. So many failures in a row open it.
    * *open*: nobody may, for a while.
    * *half-open*: the first who comes after that while may, and nobody else: the probe. A living server closes the
      circuit, a failure opens it again; who leaves without having found out anything lets the next one try. Whoever
      never leaves keeps others out until its deadline, and no longer.

    Only calls that entered in the present period count: a call from before the circuit opened says nothing about the
    server of today.

    Locks: ``_lock``, held for a few instructions, so that entering and leaving happen one at a time; a reader may
    take it.

    Args:
        threshold: How many failures in a row.
        timeout: For how many seconds nobody may.
        clock: Seconds, monotonic.
    """

    def __init__(self, threshold: int, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()  # guards _state, _period, _failures, _until
        self._state: State = "closed"
        self._period = 0
        self._failures = 0
        self._until = 0.0  # open: nobody may before; half-open: nobody else may before

    def __repr__(self) -> str:
        return f"<Circuit {self._state}, {self._failures} of {self._threshold} failures>"

    @property
    def state(self) -> State:
        """Closed, open or half-open; it stays open until somebody tries."""
        return self._state

    def enter(self, seconds: float) -> Passage:
        """Return the leave to make a call that is over in so many seconds.

        Raises:
            CircuitOpen: Not now.
        """
        with self._lock:
            if self._state == "closed":
                return Passage(self._period)
            now, before = self._clock(), self._state
            if now < self._until:
                raise CircuitOpen(self._why(), min(self._until - now, self._timeout))
            self._become("half-open", now + seconds + GRACE_SECONDS)
            return Passage(self._period, "half-open" if before == "open" else None)

    def leave(self, passage: Passage, alive: bool | None) -> State | None:
        """Take note of what a call has found out.

        Args:
            passage: What ``enter`` returned.
            alive: Whether the server is; None: nobody knows.

        Returns:
            The state that this led to, if it is another one than before.
        """
        with self._lock:
            if passage.period != self._period:
                return None
            if alive is None:
                self._release()
                return None
            return self._close() if alive else self._fail()

    def forked(self) -> None:
        """In a forked child: be as new, for the lock may be held by a thread that stayed behind."""
        self._lock = threading.Lock()  # guards as before
        self._failures = 0
        self._become("closed", 0.0)

    def _release(self) -> None:
        if self._state == "half-open":
            self._become("half-open", self._clock())

    def _close(self) -> State | None:
        self._failures = 0
        if self._state == "closed":
            return None
        return self._become("closed", 0.0)

    def _fail(self) -> State | None:
        self._failures += 1
        if self._state == "closed" and self._failures < self._threshold:
            return None
        return self._become("open", self._clock() + self._timeout)

    def _become(self, state: State, until: float) -> State:
        self._state, self._until = state, until
        self._period += 1
        return state

    def _why(self) -> str:
        failed = f"{self._failures} calls in a row have failed"
        if self._state == "open":
            return f"{failed}; it is left alone for {self._until - self._clock():.1f} s more"
        return f"{failed}; another call is finding out whether it is back"


class Breaking(Wrapper):
    """A Caller that fails at once, with CircuitOpen, while its circuit says so.

    Who changes the circuit tells the observers, after the change.

    Args:
        caller: The one inside.
        circuit: The state; callers of the same server may share it.
        emit: Is told when the state changes.
    """

    def __init__(self, caller: Caller, circuit: Circuit, *, emit: Callable[[Event], object]) -> None:
        super().__init__(caller)
        self._circuit = circuit
        self._emit = emit
        tell_of_forks(circuit)

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result; raises CircuitOpen, and as Caller.call says."""
        passage = self._enter(question.method, deadline)
        try:
            result = self._caller.call(question, deadline)
        except BaseException as error:  # Ctrl-C too: the next one may try
            self._leave(passage, shows_life(error))
            raise
        self._leave(passage, True)
        return result

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future, whose outcome counts; raises CircuitOpen.

        What is pushed to an open-ended question, whose outcome may take for ever, shows that the server lives.
        """
        passage = self._enter(question.method, deadline)
        if question.open_ended:
            question = replace(question, on_push=self._heard(question.on_push, passage))
        try:
            future = self._caller.submit(question, deadline)
            # Not by Question.then, which does not hear of cancel(); nor by the future's own method, which takes
            # application code to the lane. This runs at once, on whatever thread ends the call.
            Future.add_done_callback(future, lambda over: self._leave(passage, _found(over)))
        except BaseException as error:
            self._leave(passage, shows_life(error))
            raise
        return future

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer; raises CircuitOpen. That it could be sent says nothing of the server."""
        passage = self._enter(method, deadline)
        try:
            self._caller.notify(method, params, deadline)
        except BaseException as error:
            self._leave(passage, shows_life(error))
            raise
        self._leave(passage, None)

    def _enter(self, method: str, deadline: Deadline) -> Passage:
        try:
            passage = self._circuit.enter(deadline.remaining)
        except CircuitOpen as refusal:
            raise refusal.about(
                f"{method} to {self.name}",
                may_have_run=False,
                server=self.name,
                method=method,
                phase="send",
                elapsed=round(deadline.elapsed, 3),
                limit=deadline.limit,
            ) from None
        self._tell(passage.change)
        return passage

    def _heard(
        self, on_push: Callable[[Notification], None] | None, passage: Passage
    ) -> Callable[[Notification], None]:
        def push(notification: Notification) -> None:
            self._leave(passage, True)
            if on_push is not None:
                on_push(notification)

        return push

    def _leave(self, passage: Passage, alive: bool | None) -> None:
        self._tell(self._circuit.leave(passage, alive))

    def _tell(self, state: State | None) -> None:
        if state is not None:
            self._emit(CircuitChanged(self.name, state))


def shows_life(error: BaseException | None) -> bool | None:
    """Return whether a call that ended so shows a server that works; None: it shows nothing."""
    if error is None or isinstance(error, (JSONRPCError, SessionExpired)):
        return True
    if not isinstance(error, MCPError) or error.details.get("phase") == "closed":
        return None
    if isinstance(error, (Refused, LocalProtocolError, ForkedClientError)):
        return None  # all our own doing
    if isinstance(error, (MCPConnectionError, MCPTimeoutError, ServerError, RateLimited)):
        return False
    if isinstance(error, (HTTPStatusError, RemoteProtocolError)):
        return True
    return True if error.may_have_run else None


def _found(future: Future[Any]) -> bool | None:
    if future.cancelled():
        return None
    return shows_life(Future.exception(future, 0))  # that of CallFuture converts the result, which may take its time
