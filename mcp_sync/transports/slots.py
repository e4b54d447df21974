"""Slots: how many requests may be under way at once; who comes later waits for one to end."""

from __future__ import annotations

import threading
import weakref
from collections import deque

from ..deadlines import Deadline

LOOK_SECONDS = 0.25
"""How often those who wait look for themselves: a place whose holder just vanished is free, but nobody says so."""


class Slots:
    """A number of places. Whoever has one is known, so that giving it back twice, or never, does no harm.

    Locks: ``_lock``, held for a few instructions. No semaphore: Ctrl-C in the wrong moment would leave one locked.

    Args:
        most: How many places there are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()  # guards _holders and _waiting
        self._holders: weakref.WeakSet[object] = weakref.WeakSet()
        self._waiting: deque[threading.Lock] = deque()

    def take(self, who: object, patience: Deadline) -> bool:
        """Take a place, waiting for it; False: the time has passed."""
        return self._taken(who) or self._wait(who, patience)

    def _taken(self, who: object) -> bool:
        with self._lock:
            if len(self._holders) >= self._most:
                return False
            self._holders.add(who)
            return True

    def _wait(self, who: object, patience: Deadline) -> bool:
        turn = threading.Lock()  # guards nothing: it is released when it may be our turn
        turn.acquire()
        try:
            while True:
                with self._lock:
                    if turn not in self._waiting:
                        self._waiting.append(turn)
                if self._taken(who):
                    return True
                if not turn.acquire(timeout=min(patience.remaining, LOOK_SECONDS)) and patience.expired:
                    return False
        finally:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                self._call_next()

    def give(self, who: object) -> None:
        """Give the place back, if there is one to give."""
        with self._lock:
            self._holders.discard(who)
            self._call_next()

    def _call_next(self) -> None:
        if self._waiting and len(self._holders) < self._most:
            try:
                self._waiting.popleft().release()
            except RuntimeError:
                pass  # it was called before, and has not looked yet
