"""Wrapper: a Caller around a Caller, which passes everything on; what stands around another inherits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..deadlines import Deadline
from ..engine.caller import Caller, CallFuture, Question
from ..engine.dispatch import Job
from ..protocol.eras import Era
from ..protocol.negotiation import Agreement

R = TypeVar("R")


class Wrapper(Caller):
    """A Caller around a Caller.

    Args:
        caller: The one inside.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._caller!r}>"

    @property
    def name(self) -> str:
        """Whom it asks, for people."""
        return self._caller.name

    @property
    def agreement(self) -> Agreement:
        """What was negotiated."""
        return self._caller.agreement

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._caller.over

    @property
    def must_connect(self) -> bool:
        """Whether the next question has to connect first."""
        return self._caller.must_connect

    def ready(self, deadline: Deadline) -> None:
        """Connect, where the connection is lost."""
        self._caller.ready(deadline)

    @property
    def counters(self) -> dict[str, int]:
        """What has happened so far."""
        return self._caller.counters

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result."""
        return self._caller.call(question, deadline)

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future."""
        return self._caller.submit(question, deadline)

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer."""
        self._caller.notify(method, params, deadline)

    def close(self, deadline: Deadline) -> None:
        """End it."""
        self._caller.close(deadline)

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it."""
        self._caller.hang_up(deadline)

    def dress(self, era: Era) -> None:
        """Let requests be dressed by this era from now on."""
        self._caller.dress(era)

    def run(self, job: Job) -> bool:
        """Run application code on a thread of its own."""
        return self._caller.run(job)

    def post(self, job: Job) -> None:
        """Run application code on the lane."""
        self._caller.post(job)

    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end."""
        return self._caller.explain()
