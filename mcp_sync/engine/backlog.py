"""Backlog: what has arrived and waits to be taken: a ``queue.Queue`` that is bounded in items and in bytes."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from . import interrupts

T = TypeVar("T")

BACKLOG_ITEMS, BACKLOG_BYTES = 1000, 8 << 20


class Backlog(Generic[T]):
    """A queue that says no when too much waits in it; one item is taken however large it is.

    Locks: ``_lock``, held for a few instructions.

    Args:
        items: How many items that were offered may wait.
        size: How large they may be in sum.

    Attributes:
        dropped: How many were refused.
    """

    def __init__(self, items: int = BACKLOG_ITEMS, size: int = BACKLOG_BYTES) -> None:
        self._items: interrupts.Queue[tuple[T, int]] = interrupts.Queue()
        self._lock = threading.Lock()  # guards _bytes, dropped
        self._most_items = items
        self._most_bytes = size
        self._bytes = 0
        self.dropped = 0

    def offer(self, item: T, size: int = 0) -> bool:
        """Add the item, or return False: too much waits."""
        with self._lock:
            waiting = self._items.qsize()
            if waiting >= self._most_items or (waiting and self._bytes + size > self._most_bytes):
                self.dropped += 1
                return False
            self._bytes += size
        self._items.put((item, size))
        return True

    def put(self, item: T) -> None:
        """Add the item in any case: an answer, or the end."""
        self._items.put((item, 0))

    def get(self, timeout: float | None = None) -> T:
        """Return the next item, waiting for it; raises ``queue.Empty`` after so many seconds."""
        item, size = self._items.get(timeout=timeout)
        with self._lock:
            self._bytes -= size
        return item

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._items.empty()
