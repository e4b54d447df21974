"""Outlet: lines that one thread reads, given to a function of the user's on another, and never waited for."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..engine.dispatch import Lane, run_guarded

log = logging.getLogger("mcp_sync")

WAITING_BYTES = 16 << 20
"""How much may wait for the function, in sum."""
LINE_BYTES = 64
"""What a line takes beside its text."""
LINES_AT_ONCE = 1000
"""After so many lines others have their turn on the lane."""


class Outlet:
    """Gives lines to a function, one by one and in order, on a lane. What there is no room for is dropped and counted.

    Threads: ``take`` is called by one thread and never waits; the function runs on the lane.
    Locks: ``_lock``, held for a few instructions.

    Args:
        write: Is given each line.
        lane: Where it runs.
    """

    def __init__(self, write: Callable[[str], object], lane: Lane) -> None:
        self._write = write
        self._lane = lane
        self._lock = threading.Lock()  # guards _waiting, _size, _busy, _dropped
        self._waiting: deque[str] = deque()
        self._size = 0
        self._busy = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many lines the function has not got, and will not."""
        with self._lock:
            return self._dropped

    def take(self, lines: Sequence[str]) -> None:
        """Give the lines to the function, soon."""
        size = sum(len(line) + LINE_BYTES for line in lines)
        with self._lock:
            if self._waiting and self._size + size > WAITING_BYTES:
                self._dropped += len(lines)
                return
            self._waiting.extend(lines)
            self._size += size
            busy, self._busy = self._busy, True
        if not busy:
            self._lane.post(self._write_out)

    def _write_out(self) -> None:
        while True:
            for _ in range(LINES_AT_ONCE):
                line = self._next()
                if line is None:
                    return
                run_guarded(partial(self._write, line))
            if self._lane.last_orders is None:
                self._lane.post(self._write_out)
                return

    def _next(self) -> str | None:
        last_orders = self._lane.last_orders
        too_late = not self._lane.is_current or (last_orders is not None and last_orders.expired)
        with self._lock:
            if self._waiting and not too_late:
                line = self._waiting.popleft()
                self._size -= len(line) + LINE_BYTES
                return line
            left = len(self._waiting)
            self._dropped += left
            self._waiting.clear()
            self._size = 0
            self._busy = False
        if left:
            log.warning("%d lines of stderr were dropped: their function did not take them in time", left)
        return None


def line_writer(target: Any) -> Callable[[str], object] | None:
    """Return what takes a line of stderr, or None: it is only kept for errors."""
    if target is None:
        return None
    if isinstance(target, logging.Logger):
        return lambda line: target.info("%s", line)
    if callable(target):
        return target  # type: ignore[no-any-return]
    if callable(getattr(target, "write", None)):
        return lambda line: target.write(line + "\n")
    raise TypeError(f"stderr must be a function, a logger or have write(str), not {type(target).__name__}")
