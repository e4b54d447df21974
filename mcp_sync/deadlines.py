"""A Deadline is one point in time, handed down through every layer of a call.

Nothing below a public method sees a timeout: it sees how much of the one deadline is left. Time is monotonic, so a
clock that somebody sets does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable

DEFAULT_TIMEOUT = 30.0
"""Seconds that any call may take unless told otherwise."""
LONGEST_TIMEOUT = 1e9
"""Thirty years. The platform's waits overflow somewhere beyond."""


class Deadline:
    """One point in time by which something has to be over.

    Args:
        seconds: How long from now, 0 or more.
        clock: Seconds, monotonic; tests hand in their own.

    Attributes:
        limit: The seconds it was made with.
    """

    __slots__ = ("_clock", "at", "limit")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = seconds
        self._clock = clock
        self.at = clock() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        left = self.at - self._clock()
        return left if left > 0.0 else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return self.limit - (self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the point in time has come."""
        return self._clock() >= self.at

    def sooner(self, seconds: float) -> Deadline:
        """Return a deadline in so many seconds from now, or this one's end if that comes first."""
        return Deadline(min(seconds, self.remaining), self._clock)

    def __repr__(self) -> str:
        return f"<Deadline {self.remaining:.3f} s of {self.limit:g} s left>"


def as_timeout(value: object, name: str = "timeout", default: float = DEFAULT_TIMEOUT) -> float:
    """Return a timeout in seconds, checked: None means the default, never "for ever".

    Raises:
        TypeError: It is not a number.
        ValueError: It is not above zero, or longer than LONGEST_TIMEOUT.
    """
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__} ({value!r})")
    if not 0 < value <= LONGEST_TIMEOUT:
        raise ValueError(f"{name} must be a number of seconds above 0 and up to {LONGEST_TIMEOUT:g}, not {value!r:.80}")
    return float(value)
