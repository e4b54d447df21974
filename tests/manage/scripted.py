"""A Caller that does what a script says, and a clock that stands still until it is moved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Caller, CallFuture, Question
from mcp_sync.engine.dispatch import Job
from mcp_sync.observe import Event
from mcp_sync.protocol.eras import Era, Opening
from mcp_sync.protocol.negotiation import Agreement

R = TypeVar("R")
Step = BaseException | Mapping[str, Any] | Callable[[], Any]


class Clock:
    """Seconds; a nap moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, event: threading.Event, seconds: float) -> bool:
        """Let the time pass, unless the event has come already."""
        if event.is_set():
            return True
        self.naps.append(seconds)
        self.now += seconds
        return False

    def deadline(self, seconds: float = 30.0) -> Deadline:
        """Return a deadline by this clock."""
        return Deadline(seconds, self)


class Scripted(Caller):
    """Every attempt takes the next step of the script, the last one again and again; futures wait to be settled."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps) or [{}]
        self.attempts = 0
        self.futures: list[CallFuture[Any]] = []
        self.dead = False
        self.closed = 0

    def _act(self) -> Any:
        step = self.steps[min(self.attempts, len(self.steps) - 1)]
        self.attempts += 1
        if isinstance(step, BaseException):
            raise step
        return step() if callable(step) else step

    @property
    def name(self) -> str:
        return "calc"

    @property
    def agreement(self) -> Agreement:
        return Agreement(Opening())

    @property
    def over(self) -> bool:
        return self.dead

    @property
    def counters(self) -> dict[str, int]:
        return {}

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        result: dict[str, Any] = self._act()
        return result

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        self._act()
        future = CallFuture(question, self)
        self.futures.append(future)
        return future

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        self._act()

    def withdraw(self, future: CallFuture[Any]) -> bool:
        """Take a call back."""
        return not future.done()

    def close(self, deadline: Deadline) -> None:
        self.closed += 1

    def hang_up(self, deadline: Deadline) -> None:
        self.closed += 1

    def dress(self, era: Era) -> None: ...

    def run(self, job: Job) -> bool:
        job()
        return True

    def post(self, job: Job) -> None:
        job()

    def explain(self) -> dict[str, Any]:
        return {}


class Log(list[Event]):
    """An ``emit`` that remembers."""

    def __call__(self, event: Event) -> None:
        self.append(event)
