"""Keeping: the sessions that one HTTP transport has with its server, how many at once, and for how long when idle.

A session is an HTTP server's of the handshake era. Who has none, in the stateless era or with a server that keeps none,
takes no place here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..deadlines import Deadline
from ..engine.dispatch import Alarm, reaper
from ..engine.lifetimes import tell_of_forks
from ..exceptions import TooManyRequests
from ..policies import Sessions

if TYPE_CHECKING:
    from .streamable import HttpChannel


class SessionKeeper:
    """The sessions of one transport. It holds connections weakly.

    Threads: none; idle sessions are looked for on the process's one clock, as long as there are any, and each is given
    up on a thread of its connection's.
    Locks: ``_lock``, held for a few instructions.

    Args:
        policy: How many, and for how long.
        name: Whose they are, for people.
    """

    def __init__(self, policy: Sessions, name: str) -> None:
        self._policy = policy
        self._name = name
        self.forked()
        tell_of_forks(self)

    def forked(self) -> None:
        """Be as new: at first, and in a forked child, whose sessions are the parent's."""
        self._lock = threading.Lock()  # guards _kept, _alarm
        self._kept: weakref.WeakSet[HttpChannel] = weakref.WeakSet()
        self._alarm: Alarm | None = None

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return len(self._kept)

    def enter(self, channel: HttpChannel, replaces: bool) -> None:
        """Take a place, before a session is asked for.

        Args:
            channel: Whose session it will be.
            replaces: Whether it comes in place of another, which will leave; then there is a place in any case.

        Raises:
            TooManyRequests: All are taken.
        """
        with self._lock:
            most = self._policy.most
            if most is not None and not replaces and channel not in self._kept and len(self._kept) >= most:
                raise TooManyRequests(
                    f"{self._name}: {most} conversations have a session already (max_sessions)", may_have_run=False
                )
            self._kept.add(channel)

    def leave(self, channel: HttpChannel) -> None:
        """Give the place back, if there is one."""
        with self._lock:
            self._kept.discard(channel)
            alarm = None if self._kept else self._alarm
            if alarm is not None:
                self._alarm = None
        if alarm is not None:
            reaper.call_off(alarm)

    def watch(self) -> None:
        """Look for idle ones from now on, if they are to be given up."""
        if self._policy.patience is None:
            return
        with self._lock:
            if self._alarm is not None or not self._kept:
                return
            try:
                self._alarm = reaper.at(Deadline(self._policy.interval), self._look_weakly())
            except TooManyRequests:  # no more threads: then they are ended when they are closed
                pass

    def _look_weakly(self) -> Callable[[], None]:
        keeper = weakref.ref(self)

        def look() -> None:
            living = keeper()
            if living is not None:
                living._look()

        return look

    def _look(self) -> None:
        """Have the idle ones given up; on the clock's thread, so wait for nothing."""
        with self._lock:
            self._alarm = None
            kept = list(self._kept)
        for channel in kept:
            channel.expire(self._policy.patience or 0.0)
        self.watch()
