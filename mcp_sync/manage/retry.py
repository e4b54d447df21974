"""Retrying: repeats a call that failed, where that is worth it and cannot make it happen twice.

Two questions, and both have to be answered with yes. Is it *worth* it? The policy says: a lost connection, an expired
session, a few HTTP statuses, what else it names. Is it *safe* (I10, at most once)? The error says, when nothing of the
request was done (``may_have_run`` is False); else the method does, or the application.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.caller import Caller, Question
from ..engine.lifetimes import tell_of_forks
from ..exceptions import ForkedClientError, HTTPStatusError, MCPConnectionError, MCPError, MCPTimeoutError
from ..observe import Event, Retried
from ..policies import Retry
from .wrapper import Wrapper

T = TypeVar("T")

SAFE_METHODS = frozenset(
    {
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
        "tasks/list",
        "tasks/get",
    }
)
"""What only reads, so that asking twice does no more than asking once (I10's table).

Left out on purpose: ``initialize`` makes a session; ``logging/setLevel`` and ``resources/subscribe`` may, when they
come late, undo what was said after them; ``tasks/result`` hands over once what waited for the client.
"""


class Times:
    """The loop: tries something as often as a policy allows, as long as there is time.

    One deadline holds for all attempts: a delay that would not fit is not begun, the error comes at once instead; and
    a timeout is final. What is raised in the end is the last attempt's error, whose ``may_have_run`` speaks for all
    attempts.

    Args:
        policy: What to repeat, and how often.
        name: Whom it asks, for events.
        emit: Is told of every repeat.
        over: Whether no further attempt can succeed.
        sleep: Waits for an event, so many seconds; returns whether it came.
        chance: Gives a number from 0 to 1.
    """

    def __init__(
        self,
        policy: Retry,
        name: str,
        emit: Callable[[Event], object],
        *,
        over: Callable[[], bool] = lambda: False,
        sleep: Callable[[interrupts.Event, float], bool] = interrupts.Event.wait,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._name = name
        self._emit = emit
        self._over = over
        self._sleep = sleep
        self._chance = chance
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child, where nobody else waits any more."""
        self._stopped = interrupts.Event()

    def stop(self) -> None:
        """Repeat nothing any more; whoever waits raises the error at hand."""
        self._stopped.set()

    def repeat(self, attempt: Callable[[], T], method: str, safe: bool, deadline: Deadline) -> T:
        """Return what the attempt returns, or raise what the last one raised.

        Args:
            attempt: What to do.
            method: What it is called, for events.
            safe: Whether it may be done again though it may have been done.
            deadline: For all of it.
        """
        delay, repeat = min(self._policy.delay, self._policy.longest), 0
        ran: bool | None = False
        while True:
            try:
                return attempt()
            except MCPError as error:
                error.may_have_run = ran = _either(ran, error.may_have_run)
                repeat += 1
                pause = self._pause(error, delay)
                if not self._worth_it(error, repeat) or not (safe or ran is False) or pause >= deadline.remaining:
                    raise
                self._emit(Retried(self._name, method, repeat, type(error).__name__, pause))
                if self._sleep(self._stopped, pause):
                    raise
            delay = min(delay * self._policy.growth, self._policy.longest)

    def _worth_it(self, error: MCPError, repeat: int) -> bool:
        if repeat > self._policy.repeats or self._stopped.is_set() or self._over():
            return False
        if isinstance(error, (MCPTimeoutError, ForkedClientError)) or error.details.get("phase") == "closed":
            return False  # whatever the policy names: neither time nor a connection comes back
        if isinstance(error, HTTPStatusError) and error.status in self._policy.statuses:
            return True
        return isinstance(error, (MCPConnectionError, *self._policy.errors))

    def _pause(self, error: MCPError, delay: float) -> float:
        """Return how long to wait: a little less than the delay, but more than the server asks for."""
        by_chance = delay * self._policy.jitter * self._chance()
        asked = getattr(error, "retry_after", None)
        return max(delay - by_chance, asked + by_chance) if asked else delay - by_chance


class Retrying(Wrapper):
    """A Caller that repeats calls. Progress and pushed notifications of a repeated call begin anew.

    Futures are not repeated: it is a reader thread that learns of their failure, and readers must not wait.

    Threads: none. ``call`` and ``notify`` block between attempts, too, until ``close`` or ``hang_up`` at most: then the
    error at hand is raised.

    Args:
        caller: The one inside; a repeat is of use where it connects again by itself.
        policy: What to repeat, and how often.
        emit: Is told of every repeat.
        sleep: As Times.
        chance: As Times.
    """

    def __init__(
        self,
        caller: Caller,
        policy: Retry,
        *,
        emit: Callable[[Event], object],
        sleep: Callable[[interrupts.Event, float], bool] = interrupts.Event.wait,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(caller)
        self._times = Times(policy, caller.name, emit, over=lambda: caller.over, sleep=sleep, chance=chance)
        tell_of_forks(self._times)

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result; raises as Caller.call says."""
        safe = question.repeatable or question.method in SAFE_METHODS
        return self._times.repeat(lambda: self._caller.call(question, deadline), question.method, safe, deadline)

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer; again only if for sure nothing of it was said."""
        self._times.repeat(lambda: self._caller.notify(method, params, deadline), method, False, deadline)

    def close(self, deadline: Deadline) -> None:
        """End it, and every wait for the next attempt."""
        self._times.stop()
        super().close(deadline)

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it, and every wait for the next attempt."""
        self._times.stop()
        super().hang_up(deadline)


def _either(one: bool | None, other: bool | None) -> bool | None:
    """Return what is known of two attempts together, given what is of each."""
    if one or other:
        return True
    return None if None in (one, other) else False
