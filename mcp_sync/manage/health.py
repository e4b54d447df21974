"""Health: what is known of one endpoint, from calls and checks: whether it may be asked, and how it does.

* *healthy*: it works.
* *degraded*: the last calls failed, but not enough of them; or it answers much more slowly than it used to.
* *unhealthy*: so many in a row failed (``failover_threshold``). It is asked last, by one call at a time, with pauses
  between that double; the first that succeeds, call or check, makes it healthy again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..exceptions import (
    AuthError,
    CircuitOpen,
    HTTPStatusError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    ProtocolError,
    RateLimited,
    RemoteProtocolError,
)
from .breaker import GRACE_SECONDS, shows_life

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
"""Seconds for which nobody asks an endpoint that does not work; doubled each time it still does not."""
PAUSED = "paused"
"""The phase, in the details of an error, of what was not even tried: it would have been too soon."""
AVERAGE, RECENT = 1 / 32, 1 / 4
"""The weight of one call in the average latency, and in that of the last few calls."""
SLOW_FACTOR, SLOW_SECONDS = 5.0, 0.1
"""The last few calls are slow if they took so many times the average, and more than so many seconds."""

_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (AuthError, "auth_expired"),
    (RateLimited, "rate_limited"),
    (HTTPStatusError, "server_error"),
    (MCPTimeoutError, "timeout"),
    (ProtocolError, "protocol_error"),
)


def kind_of(error: BaseException) -> str:
    """Return what a health report calls an error."""
    return next((name for kind, name in _KINDS if isinstance(error, kind)), "connection_failed")


def works(error: BaseException | None) -> bool | None:
    """Return whether an endpoint works where a call ended so; None: that shows nothing.

    A breaker asks whether the server lives; here the question is whether calls are worth sending there. Not where the
    credentials are no longer good, where what comes makes no sense, where the transport's own breaker is open, or where
    no connection comes about, whatever the reason.
    """
    verdict = shows_life(error)
    if isinstance(error, MCPError) and error.details.get("phase") == PAUSED:
        return None
    if verdict and isinstance(error, MCPError) and error.details.get("phase") == "connect":
        return False
    return False if isinstance(error, (AuthError, RemoteProtocolError, CircuitOpen)) else verdict


@dataclass(frozen=True, slots=True)
class Change:
    """The status of an endpoint has changed."""

    before: Status
    after: Status


class Health:
    """Whether an endpoint may be asked, and how it does.

    Every call enters, and leaves with what it has found out; what it says counts only if the endpoint has not become
    unhealthy, or healthy again, in between: a call from before says nothing of today.

    Locks: ``_lock``, held for a few instructions, so that all that happens happens one at a time; a reader may take it.

    Args:
        threshold: How many failures in a row make it unhealthy.
        longest: The longest pause between two calls to an unhealthy one, in seconds.
        clock: Seconds, monotonic.

    Attributes:
        clock: As given.
        epoch: A number that grows when it becomes unhealthy, and when it is healthy again: even, it may be asked by
            anybody, and this is the passage; odd, it is unhealthy. May be read without the lock, and is not to be set.
        error: The last error that counted as a failure; None since the last success.
        last_check: When it was checked the last time, in seconds since 1970; None: never.
    """

    def __init__(
        self, threshold: int, longest: float = LONGEST_PAUSE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._longest = longest
        self.clock = clock
        self._lock = threading.Lock()  # guards all below but clock and last_check
        self.epoch = 2
        self._failures = 0
        self._pause = 0.0
        self._until = 0.0  # unhealthy: nobody may ask before
        self._probe = 0  # negative: the passage of the one call that may
        self._probes = 0
        self._slow = False
        self._average = self._recent = -1.0
        self._calls = self._failed = 0
        self.error: MCPError | None = None
        self.error_type: str | None = None
        self.last_check: float | None = None

    def __repr__(self) -> str:
        return f"<Health {self.status}, {self._failures} of {self._threshold} failures>"

    @property
    def usable(self) -> bool:
        """Whether it may be asked by anybody."""
        return not self.epoch & 1

    @property
    def status(self) -> Status:
        """How it does."""
        with self._lock:
            return self._status()

    @property
    def latency(self) -> float | None:
        """Seconds that a call takes on average; None before the first."""
        return self._average if self._average >= 0 else None

    @property
    def pause_left(self) -> float:
        """For how many seconds nobody may ask it."""
        return max(0.0, self._until - self.clock()) if self.epoch & 1 else 0.0

    def report(self) -> dict[str, Any]:
        """Return what is known, as a dict; all of one moment."""
        with self._lock:
            return {
                "status": self._status(),
                "error_type": self.error_type,
                "error": str(self.error) if self.error is not None else None,
                "avg_latency": round(self._average * 1000, 3) if self._average >= 0 else None,
                "last_check": self.last_check,
                "consecutive_failures": self._failures,
                "calls": self._calls,
                "failures": self._failed,
            }

    # -- calls --------------------------------------------------------------------------------------------------------

    def enter(self, seconds: float) -> int | None:
        """Return the leave to make a call that is over in so many seconds; None: not now."""
        epoch = self.epoch
        if not epoch & 1:
            return epoch
        with self._lock:
            if not self.epoch & 1:
                return self.epoch
            now = self.clock()
            if now < self._until:
                return None
            self._until = now + seconds + GRACE_SECONDS
            self._probes += 1
            self._probe = -self._probes
            return self._probe

    def succeeded(self, passage: int, seconds: float) -> Change | None:
        """Take note that a call took so many seconds, and that it worked; returns the change that this made."""
        with self._lock:
            self._calls += 1
            if passage not in (self.epoch, self._probe):
                return None
            if self._average < 0:
                self._average = self._recent = seconds
            self._average += (seconds - self._average) * AVERAGE
            self._recent += (seconds - self._recent) * RECENT
            slow = self._recent > SLOW_SECONDS and self._recent > SLOW_FACTOR * self._average
            if slow is self._slow and not self._failures:
                return None
            return self._recover(slow)

    def failed(self, passage: int, error: BaseException) -> Change | None:
        """Take note of how a call failed; returns the change that this made."""
        verdict = works(error)
        with self._lock:
            self._calls += 1
            if verdict:
                return self._lived(passage)
            if passage not in (self.epoch, self._probe):
                return None
            if verdict is None:
                self._release(passage)
                return None
            return self._fail(passage, error)

    def lived(self, passage: int) -> Change | None:
        """Take note that it lives, though no call is over; returns the change that this made."""
        with self._lock:
            return self._lived(passage)

    def nothing_found(self, passage: int) -> None:
        """Take note that a call has ended, and shows nothing."""
        with self._lock:
            self._release(passage)

    # -- checks -------------------------------------------------------------------------------------------------------

    def look(self) -> int:
        """Return the passage of a check, which needs no leave."""
        return self.epoch

    def checked(self, passage: int, at: float, error: BaseException | None, seconds: float) -> Change | None:
        """Take note of what a check has found out, at so many seconds since 1970."""
        self.last_check = at
        if error is None:
            return self.succeeded(passage, seconds)
        return self.failed(passage, error)

    def forked(self) -> None:
        """In a forked child: the lock may be held by a thread that stayed behind."""
        self._lock = threading.Lock()  # guards as before

    # -- under the lock -----------------------------------------------------------------------------------------------

    def _status(self) -> Status:
        if self.epoch & 1:
            return "unhealthy"
        return "degraded" if self._failures or self._slow else "healthy"

    def _lived(self, passage: int) -> Change | None:
        if passage not in (self.epoch, self._probe) or not self._failures:
            return None
        return self._recover(self._slow)

    def _recover(self, slow: bool) -> Change | None:
        before = self._status()
        self._failures, self._pause, self._probe, self._slow = 0, 0.0, 0, slow
        self.error, self.error_type = None, None
        self.epoch += self.epoch & 1
        return self._changed(before)

    def _fail(self, passage: int, error: BaseException) -> Change | None:
        before = self._status()
        self._failures += 1
        self._failed += 1
        self.error_type = kind_of(error)
        self.error = _bare(error)
        if passage < 0 or (not self.epoch & 1 and self._failures >= self._threshold):
            self._leave_alone()
        return self._changed(before)

    def _leave_alone(self) -> None:
        self.epoch |= 1
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), self._longest)
        self._until = self.clock() + self._pause
        self._probe = 0

    def _release(self, passage: int) -> None:
        if passage < 0 and passage == self._probe:
            self._until, self._probe = self.clock(), 0

    def _changed(self, before: Status) -> Change | None:
        after = self._status()
        return Change(before, after) if after != before else None


def _bare(error: BaseException) -> MCPError:
    """Return a copy to be kept: without a traceback, which would keep all that its frames refer to."""
    if not isinstance(error, MCPError):
        return MCPConnectionError(f"{type(error).__name__}: {error}", may_have_run=False)
    copy = error.about("", may_have_run=error.may_have_run)
    copy.__cause__ = None
    return copy
