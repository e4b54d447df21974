"""Interrupts: Ctrl-C is an exception between any two steps of the main thread, and must leave nothing half done.

Most code need not care: whoever waits is in a ``try``, and leaves properly. Three things are left: a lock that was
taken with a timeout (``let_go``), the complaint of ``Condition.wait`` about a lock that it just lost (``what_broke``),
and work that must not be cut in two (``dispatch.uninterrupted``).
"""

from __future__ import annotations

import threading


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


def what_broke(broken: RuntimeError) -> BaseException:
    """Return the Ctrl-C that came where ``Condition.wait`` could only complain about its lock (cpython issue 29988)."""
    return broken.__context__ if isinstance(broken.__context__, KeyboardInterrupt) else broken


class Latch:
    """Opens once, and stays open: an Event for where Ctrl-C may come, which has no lock that it could leave locked.

    (``Event.set`` takes its lock in a ``__enter__`` written in Python: Ctrl-C there, and nobody gets it any more.)

    Attributes:
        is_open: Whether it is.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._door = threading.Lock()  # guards nothing: whoever waits does so before it
        self._door.acquire()

    def open(self) -> None:
        """Let all pass, now and from now on."""
        self.is_open = True
        try:
            self._door.release()
        except RuntimeError:
            pass  # it is open already

    def wait(self, seconds: float) -> bool:
        """Wait until it is open; False: the seconds passed first."""
        if not self.is_open and self._door.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self._door.release()  # for the next; if Ctrl-C keeps us from that, there is is_open
        return self.is_open


SLICE_SECONDS = 1.0
"""Ctrl-C that comes in the instant in which the main thread goes to sleep is noticed when it wakes up."""


def await_event(event: threading.Event, seconds: float | None = None) -> bool:
    """Wait for an event; False: the seconds passed first. Ctrl-C comes out as what it is."""
    try:
        while seconds is None:
            if event.wait(SLICE_SECONDS):
                return True
        return event.wait(seconds)
    except RuntimeError as broken:
        raise what_broke(broken) from None
