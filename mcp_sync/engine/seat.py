"""The seat: the one place to read a duplex connection from, lent to callers who wait for an answer.

To wake another thread costs more than a small call itself. So a caller that waits sits down, if the seat is free, reads
until its own answer has come, hands out what is for others, and wakes the next who waits. The *keeper*, a background
thread, has the seat whenever nobody waits, and for good at the end; so nothing that the other side says is missed, and
one thread only ever ends a stream.

The rules, and why nobody is forgotten:

* A caller who finds the seat taken lines up *before* it tries once more. Whoever gets up frees the seat *before* it
  looks at the line. So one of the two sees the other.
* Who was called out of the line and does not sit down (its answer has come, its time is over, Ctrl-C) calls the next.
* The keeper stays away while callers take turns, and sits down when none has for GRACE_SECONDS; or at once when it is
  called: somebody waits who cannot read (a future), a large message is about to be written, something other than
  messages has to be seen to.
* The keeper gets up when somebody in the line has an answer: who calls once may call again, and then reads for itself.
  A lone call after a pause is answered through the keeper, those that follow are not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .dispatch import join, start_thread
from .interrupts import let_go

if TYPE_CHECKING:
    from ..deadlines import Deadline
    from .tickets import Ticket

GRACE_SECONDS = 0.02
"""For so long the keeper leaves the seat to callers after the last of them got up."""
STALE_SECONDS = 0.0005
"""When nobody has read for so long, who is about to write looks whether there is still somebody to write to."""


class Seat:
    """Who may read, and who is next.

    Threads: the keeper, ``<name>-reader``, runs ``keep``, ``offer`` and ``keep_for_good``; callers run ``wait``;
    ``call_keeper`` is for any.
    Locks: ``_place`` is held by whoever reads, also while it waits for something to come; callers never wait for it.
    ``_bell`` is a door before which the keeper sleeps.
    """

    def __init__(self, name: str) -> None:
        self._name = f"{name}-reader"
        self._keeper: threading.Thread | None = None
        self._place = threading.RLock()  # guards reading; an RLock, for let_go
        self._bell = threading.Lock()  # guards nothing: the keeper waits for it to be released
        self._bell.acquire()
        self._line: list[Ticket] = []
        self._called = False
        self._kept = False
        self._turns = 0
        self._left = 0.0
        self._reader = 0

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the keeper."""
        return self._keeper is threading.current_thread()

    @property
    def is_borrowed_here(self) -> bool:
        """Whether the calling thread reads, as a caller; so it has been interrupted by a signal handler."""
        return self._reader == threading.get_ident()

    @property
    def kept(self) -> bool:
        """Whether the keeper sits."""
        return self._kept

    @property
    def stale(self) -> bool:
        """Whether nobody may have read for a moment."""
        return not self._kept and time.monotonic() - self._left > STALE_SECONDS

    # -- the keeper ---------------------------------------------------------------------------------------------------

    def fill(self, work: Callable[[], None]) -> None:
        """Start the keeper."""

        def keep() -> None:
            self._keeper = threading.current_thread()  # Ctrl-C may keep start_thread from returning
            work()

        self._keeper = start_thread(self._name, keep)

    def keep(self) -> None:
        """Sit down, as the keeper: at once when called, otherwise when no caller wants to."""
        while not self._called:
            turns = self._turns
            if not self._bell.acquire(timeout=GRACE_SECONDS) and turns == self._turns:
                self._called = True  # nobody else sits down; who sits in the middle of a long call gets up at its end
        self._place.acquire()
        self._called, self._kept = False, True

    def offer(self, wanted: Callable[[], bool]) -> bool:
        """Get up, as the keeper, if somebody in the line may read for itself; True: so it is.

        Args:
            wanted: Whether somebody waits for the keeper, because it cannot read.
        """
        if not self._line:
            return False
        self._kept = False  # first: who comes to want the keeper looks at that, and we look once more
        if self._called or wanted():
            self._called, self._kept = False, True  # who called has been heard, or the seat would never be lent again
            return False
        self._left = time.monotonic()
        self._place.release()
        self._call_next()
        return True

    def keep_for_good(self) -> None:
        """Let nobody sit down any more: the keeper ends the stream."""
        self._called = True

    def vacate(self, deadline: Deadline) -> bool:
        """Wait for the keeper to leave."""
        return join(self._keeper, deadline)

    def call_keeper(self) -> None:
        """Have the keeper sit down as soon as the seat is free."""
        self._called = True
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it has been called already

    # -- callers ------------------------------------------------------------------------------------------------------

    def glance(self, look: Callable[[], bool]) -> bool:
        """Look around, if nobody reads; what is true then is for the keeper."""
        if not self._sit_down():
            return False
        try:
            found = look()
        finally:
            self._place.release()
        if found:
            self.call_keeper()
        elif self._line:  # somebody found the seat taken
            self._call_next()
        return found

    def get_up(self) -> None:
        """Give up the seat, if Ctrl-C has kept the calling thread from doing so."""
        if self.is_borrowed_here:
            self._reader = 0
        self._called = True  # first, or another caller sits down and waits for what has come already
        let_go(self._place)
        self.call_keeper()  # which takes over what was left in the middle

    def wait(self, call: Ticket, deadline: Deadline, read: Callable[[Ticket, Deadline], bool]) -> bool:
        """Wait until the call is over; False: the deadline came first.

        Args:
            call: The caller's own.
            deadline: The caller's own.
            read: Reads until the call is over, or its time is; False: something has come that is for the keeper.
        """
        try:
            if not self._called and self._place.acquire(blocking=False):
                self._sit(call, deadline, read)
            while not (call.over or deadline.expired):
                if self._sit_down() or self._line_up(call):
                    self._sit(call, deadline, read)
                else:
                    self._stand(call, deadline)
        except BaseException:
            self.get_up()
            self._step_aside(call)
            raise
        if not call.over and self._line:
            self._call_next()  # it may have been our turn, just when our time was over
        return call.over

    def _sit_down(self) -> bool:
        return not self._called and self._place.acquire(blocking=False)

    def _line_up(self, call: Ticket) -> bool:
        """Get into the line; True: the seat has become free meanwhile, and is ours."""
        self._line.append(call)
        if not self._sit_down():
            return False
        self._step_aside(call)
        return True

    def _step_aside(self, call: Ticket) -> bool:
        """Get out of the line; False: we were called out of it."""
        try:
            self._line.remove(call)
        except ValueError:
            return False
        return True

    def _sit(self, call: Ticket, deadline: Deadline, read: Callable[[Ticket, Deadline], bool]) -> None:
        self._turns += 1
        self._reader = threading.get_ident()
        done = False
        try:
            done = call.over or read(call, deadline)
        finally:
            if not done:  # before the seat is free: what has come and was left there is for the keeper
                self._called = True
            self._reader = 0
            self._left = time.monotonic()
            self._place.release()
        if self._called:
            self.call_keeper()
        elif self._line:
            self._call_next()

    def _stand(self, call: Ticket, deadline: Deadline) -> None:
        """Wait in the line, which we are in."""
        woken = call.sleep(deadline.remaining)
        if not self._step_aside(call) and (call.over or not woken):
            self._call_next()

    def _call_next(self) -> None:
        """Wake who has waited longest and still waits."""
        while self._line:
            try:
                call = self._line.pop(0)
            except IndexError:
                return
            if not call.over:
                call.beckon()
                return
