"""Exchanges: one request over HTTP and its reply, and how it is ended at its deadline, or at any other moment.

``requests`` alone bounds single reads, not the whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..engine.dispatch import Alarm, reaper
from ..policies import Connections, Replies
from .slots import Slots


class Cut(Exception):
    """The exchange was cut before it had a connection."""


class Cuttable(Protocol):
    """A connection that can be shut down while others use it."""

    def belong_to(self, exchange: Exchange | None) -> None:
        """Be the exchange's, and nobody else's: one that had it before can no longer cut it. None: nobody's."""

    def cut(self, exchange: Exchange) -> None:
        """Shut it down, if it is still the exchange's."""

    def hurry(self, exchange: Exchange, seconds: float) -> None:
        """Let no single wait be longer, if it is still the exchange's."""


class Exchange:
    """One request and its reply, until somebody cuts it.

    At its deadline, or at any moment from any thread, it is *cut*: its socket is shut down, so that whatever it is
    doing ends, be it connecting, shaking hands, sending, or reading a head that never ends.

    Threads: ``cut`` from any; all else by the one that has the exchange.

    Args:
        deadline: When it is cut; None never.
        settings: What its connection is to be like, if a new one has to be made.
        replies: Likewise.

    Attributes:
        sent: Whether anything of the request may have left this process.
        counted: Whether it counts as one of the requests under way; one that stays open does not.
        why: Why it was cut: ``timeout`` or ``closed``; empty as long as it was not.
        failure: What kept the connection from being made.
        via: The proxy that it goes through.
        slots: Where its place is.
    """

    def __init__(
        self, deadline: Deadline | None, settings: Connections | None = None, replies: Replies | None = None
    ) -> None:
        self.deadline = deadline
        self.settings = settings or Connections()
        self.replies = replies or Replies()
        self.sent = False
        self.counted = True
        self.why = ""
        self.failure: BaseException | None = None
        self.via = ""
        self.slots: Slots | None = None
        self._wire: Cuttable | None = None
        self._response: Any = None
        self._alarm: Alarm | None = None
        self._interrupt: Callable[[], object] = _nothing

    def begin(self) -> None:
        """Have it cut at its deadline; raises as Reaper.at does."""
        if self.deadline is not None:
            # Weakly: an exchange that Ctrl-C has torn from its owner is to go at once, and its place with it.
            known = weakref.ref(self)
            self._alarm = reaper.at(self.deadline, lambda: _expire(known))

    def unbound(self) -> None:
        """Let it go on for ever."""
        self._call_off()
        self.deadline = None

    def end(self) -> None:
        """Nothing is left to cut; its place is free."""
        try:
            self._call_off()
        finally:
            self._wire = self._response = None
            if self.slots is not None:
                self.slots.give(self)

    def take(self, wire: Cuttable) -> None:
        """Use this connection; raises Cut where it is too late for that."""
        self._wire = wire
        wire.belong_to(self)
        if self.why:
            raise Cut

    def watch(self, response: Any) -> None:
        """Cut this response of requests', where the connection is none of ours."""
        if self._wire is None:
            self._response = response

    def cut(self, why: str = "closed") -> None:
        """End it, whatever it is doing. From any thread, at any time."""
        self.why = self.why or why
        self._interrupt()
        wire, response = self._wire, self._response
        if wire is not None:
            wire.cut(self)
        elif response is not None:
            try:
                response.raw.shutdown()
            except Exception:  # whatever the user's adapter made of it; then its own timeouts have to do
                pass

    def hurry(self, seconds: float) -> None:
        """Let no single wait be longer from now on."""
        if self._wire is not None:
            self._wire.hurry(self, seconds)

    @contextmanager
    def interrupting(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Have a cut call this meanwhile; raises Cut where it came before."""
        self._interrupt = interrupt
        try:
            if self.why:
                raise Cut
            yield
        finally:
            self._interrupt = _nothing

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return LONGEST_TIMEOUT if self.deadline is None else self.deadline.remaining

    def was_cut(self) -> bool:
        """Tell whether somebody has cut it; may change from one moment to the next."""
        return bool(self.why)

    @property
    def late(self) -> bool:
        """Whether it was cut at its deadline, or would be now."""
        return self.why == "timeout" or (not self.why and self.deadline is not None and self.deadline.expired)

    def expire(self) -> None:
        """Cut it because its time, or that of a part of it, has passed."""
        self.cut("timeout")

    def _call_off(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            reaper.call_off(alarm)


def _expire(known: weakref.ref[Exchange]) -> None:
    exchange = known()
    if exchange is not None:
        exchange.expire()


def _nothing() -> None:
    """Do nothing."""
