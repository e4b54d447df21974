"""Interrupts: Ctrl-C is an exception between any two steps of the main thread, and must leave nothing half done.

Most code need not care: whoever waits is in a ``try``, and leaves properly. What is left: a lock that was taken with a
timeout (``let_go``), work that must not be cut in two (``dispatch.uninterrupted``), and what ``threading`` builds of
locks. There ``with condition:`` runs a method written in Python; Ctrl-C in it leaves the lock locked, and every thread
that comes to it later waits for ever (cpython issue 29988). ``with lock:`` is one step. So what the main thread may
wait for is an Event, a Condition or a Queue from here.

Each who waits sleeps before a door of its own, which is in a list until its owner takes it out. So whoever is
interrupted while opening doors has opened fewer, and nobody is forgotten: all that are left are opened the next time.
"""

from __future__ import annotations

import _thread
import queue
import threading
from typing import TypeVar

T = TypeVar("T")

SLICE_SECONDS = 1.0
"""Ctrl-C that comes in the instant in which the main thread goes to sleep for good is noticed when it wakes up."""


def let_go(lock: threading.RLock) -> None:
    """Give back what the calling thread holds of a lock, if anything; for when Ctrl-C may have kept it from doing so.

    Between taking a lock with a timeout and the ``try`` that follows, or between the end of that and giving it back,
    nothing but the lock itself knows who has it. An RLock does, and says so.
    """
    try:
        while True:
            lock.release()
    except RuntimeError:
        pass  # this thread does not hold it


def on_main_thread() -> bool:
    """Whether this is the thread to which Ctrl-C comes."""
    return threading.get_ident() == threading.main_thread().ident  # current_thread() makes one up for a bare thread


def _shut_door() -> threading.Lock:
    door = threading.Lock()  # guards nothing: a thread sleeps before it
    door.acquire()
    return door


def _open(doors: list[threading.Lock]) -> None:
    for door in doors.copy():
        try:
            door.release()
        except RuntimeError:
            pass  # it is open already


def _sleep(door: threading.Lock, seconds: float | None) -> bool:
    """Wait until the door is opened; False: the seconds passed first."""
    if seconds is not None:
        return door.acquire(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))
    if not on_main_thread():
        return door.acquire()
    while not door.acquire(timeout=SLICE_SECONDS):
        pass
    return True


class Event:
    """A ``threading.Event`` without a lock of its own."""

    __slots__ = ("_doors", "_set")

    def __init__(self) -> None:
        self._set = False
        self._doors: list[threading.Lock] = []

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """Let all pass who wait, and whoever comes."""
        self._set = True  # first: who comes now sees it, and who came before is in the list
        _open(self._doors)

    def clear(self) -> None:
        """Let whoever comes wait."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False: so many seconds passed first."""
        if self._set:
            return True
        door = _shut_door()
        try:
            self._doors.append(door)
            return self.is_set() or _sleep(door, timeout)
        finally:
            if door in self._doors:
                self._doors.remove(door)


class Condition(_thread.RLock):  # type: ignore[misc]  # final for those who only read the stubs
    """A ``threading.Condition`` that is its own lock, and wakes all who wait, who have to look for themselves."""

    def __init__(self) -> None:
        self._doors: list[threading.Lock] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait for a notification, and take the lock; False: so many seconds passed first."""
        door, held = _shut_door(), (1, threading.get_ident())
        self._doors.append(door)
        try:
            held = self._release_save()  # type: ignore[attr-defined]  # however often it was taken
            woken = _sleep(door, timeout)
        finally:
            self._acquire_restore(held)  # type: ignore[attr-defined]  # which nothing interrupts
            if door in self._doors:
                self._doors.remove(door)
        return woken

    def notify_all(self) -> None:
        """Wake all who wait."""
        _open(self._doors)

    def notify(self, n: int = 1) -> None:
        """Wake all who wait: of who was interrupted, a door may be there for which nobody cares."""
        _open(self._doors)


class Queue(queue.Queue[T]):
    """A ``queue.Queue`` without bounds: nobody waits to put something in."""

    def __init__(self) -> None:
        super().__init__()
        self.mutex = self.not_empty = self.not_full = self.all_tasks_done = Condition()  # type: ignore[assignment]
