"""Exporting: does something every so many seconds, on the process's one clock, until it is stopped.

The clock (``engine.dispatch.reaper``) only rings; the work is done on a lane, one at a time, and the next is not due
before the last is over. Where there is nothing to do there is neither clock nor thread.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..deadlines import Deadline
from ..engine.dispatch import Alarm, Lane, reaper
from ..engine.lifetimes import tell_of_forks
from ..exceptions import TooManyRequests

log = logging.getLogger("mcp_sync")
figures_log = logging.getLogger("mcp_sync.metrics")

Work: TypeAlias = "Callable[[], object]"


class Ticker:
    """Does the same work again and again.

    Threads: the lane ``<name>``, as long as it ticks.
    Locks: ``_lock``, held for a few instructions.

    Args:
        name: What the lane is called.
        interval: Seconds from one time to the next.
        work: What to do; a bound method, whose object is held weakly: once it is gone, so is the work.
    """

    def __init__(self, name: str, interval: float, work: Work) -> None:
        self._interval = interval
        self._work = weakref.WeakMethod(work)
        self._lane = Lane(name)
        self._lock = threading.Lock()  # guards _alarm, _ticking
        self._alarm: Alarm | None = None
        self._ticking = False
        tell_of_forks(self)

    @property
    def ticking(self) -> bool:
        """Whether it does."""
        return self._ticking

    def start(self) -> None:
        """Begin, unless it has begun; the first time is an interval from now."""
        with self._lock:
            begins, self._ticking = not self._ticking, True
        if begins:
            self._wind()

    def stop(self, deadline: Deadline) -> None:
        """End it, and wait for what is under way. Idempotent."""
        with self._lock:
            self._ticking = False
            alarm, self._alarm = self._alarm, None
        if alarm is not None:
            reaper.call_off(alarm)
        self._lane.close(deadline)

    def forked(self) -> None:
        """In a forked child: it ticks in the parent only."""
        self._lock = threading.Lock()  # guards as before
        self._alarm, self._ticking = None, False
        self._lane.forked()

    def _wind(self) -> None:
        ticker = weakref.ref(self)

        def ring() -> None:
            living = ticker()
            if living is not None:
                living._lane.offer(living._tick)

        try:
            alarm = reaper.at(Deadline(self._interval), ring)
        except TooManyRequests:  # the interpreter is shutting down
            return
        with self._lock:
            wanted = self._ticking
            self._alarm = alarm if wanted else None
        if not wanted:
            reaper.call_off(alarm)

    def _tick(self) -> None:
        work = self._work()
        if work is None or not self._ticking:
            return
        try:
            work()
        except Exception:
            log.exception("an export failed")
        del work
        self._wind()


class JsonLines:
    """Writes each object as one line of JSON: at the end of a file, to a function, or to the log ``mcp_sync.metrics``.

    Args:
        to: A path, which is opened each time, so it may be moved away meanwhile; a function, which is given the line
            without its end; None is the log, at level INFO.

    Raises:
        TypeError: It is none of these.
    """

    def __init__(self, to: str | os.PathLike[str] | Callable[[str], object] | None) -> None:
        if to is not None and not callable(to) and not isinstance(to, (str, os.PathLike)):
            raise TypeError(f"json must be a path or a function, not {type(to).__name__} ({to!r})")
        self._to = to

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write one; raises OSError, and whatever the function raises."""
        line = json.dumps(entry, allow_nan=False, separators=(",", ":"))
        if self._to is None:
            figures_log.info("%s", line)
        elif callable(self._to):
            self._to(line)
        else:
            with open(self._to, "a", encoding="utf-8") as file:
                file.write(line + "\n")
