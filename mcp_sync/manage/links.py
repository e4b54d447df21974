"""Lines and links: one conversation's way to one endpoint, and one connection there.

A line is connected when it is first needed, kept, and connected anew when the connection is over. What another link has
replaced is closed once the calls that are still under way there have ended.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..deadlines import Deadline
from ..engine.caller import Caller, Handler
from ..engine.connect import Introduction
from ..engine.dispatch import Job
from ..engine.interrupts import let_go
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError, Refused, TooManyRequests
from .endpoints import ENDED, LOST, SPARE, USED, Endpoint, Place
from .health import FIRST_PAUSE, LONGEST_PAUSE
from .reconnect import Ear

CLOSE_SECONDS = 5.0
"""How long closing a connection may take that another has replaced."""
LONG_LIFE_SECONDS = 10.0
"""A line that needed no new connection for so long begins a new row of pauses."""
JITTER = 0.25
"""By how much, in parts, a pause may be longer: so that many that have lost the same server do not come at once."""


class Voice(Ear):
    """The Ear of one link: it tells of the conversation's end only as long as the conversation is there."""

    def __init__(self, handler: Handler | None) -> None:
        super().__init__(handler)
        self._left = False

    def closed(self, error: MCPError) -> None:
        """Tell that what was subscribed to is lost."""
        self._told = True
        target = self._target()
        if target is not None and not self._left:
            target.closed(error)

    def back(self) -> None:
        """Take note that the transport itself has connected again."""
        self._told = False

    def leave(self, error: MCPError) -> None:
        """Tell, unless that was told, that what was subscribed to is lost: the conversation goes on elsewhere."""
        told, self._left = self._told or self._left, True
        target = self._target()
        if target is not None and not told:
            target.closed(error)


class Link:
    """One connection to an endpoint.

    Attributes:
        caller: Whom to ask.
        voice: What answers there.
        line: Whose it is.
        endpoint: Where it leads.
        health: That endpoint's.
        version: The group's, when it was found that there is no better one; 0: nobody has looked.
        spare: Whether a check has made it, and nobody has asked anything else there.
        listening: The open-ended questions that are under way: they never end by themselves.
        closed: Whether it was closed, or is being closed.
        counted: Whether what has happened here is in the sum of what has happened on all that are gone.
    """

    __slots__ = (
        *("caller", "closed", "counted", "endpoint", "health", "line", "listening", "spare", "version", "voice"),
        "_place",
    )

    def __init__(self, caller: Caller, voice: Voice, line: Line, place: Place) -> None:
        self.caller = caller
        self.voice = voice
        self.line = line
        self.endpoint = line.endpoint
        self.health = line.endpoint.health
        self.version = 0
        self.spare = place.worth == SPARE
        self.listening: list[str] = []
        self.closed = self.counted = False
        self._place = place
        place.link = self

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer here."""
        return not self.caller.over and self.caller.counters.get("pending", 0) > len(self.listening)

    def close(self, deadline: Deadline) -> None:
        """End it. Idempotent."""
        self.closed = True
        try:
            self.caller.close(deadline)
        finally:
            self.endpoint.places.give(self._place)

    @property
    def worth(self) -> int:
        """What it is worth."""
        if self.caller.over:
            return ENDED
        if self.caller.must_connect and not self.busy:
            return LOST
        return SPARE if self.spare else USED


class Leaving:
    """Links that another has replaced, until they are closed; and what all of them have counted.

    Threads: none; closing runs where ``run`` says, for it may wait for a process to end.
    Locks: ``_lock``, held for a few instructions.

    Args:
        run: Runs a job elsewhere, or says no: ``Workers.offer``.
    """

    def __init__(self, run: Callable[[Job], bool]) -> None:
        self._run = run
        self._past: Counter[str] = Counter()
        self._going: list[Link]
        self.waiting: list[Link]
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child, where there is nothing to close."""
        self._lock = threading.Lock()  # guards waiting, _going, _past
        self.waiting, self._going = [], []

    @property
    def counters(self) -> Counter[str]:
        """What has happened on links that were replaced."""
        with self._lock:
            total = Counter(self._past)
            for link in (*self.waiting, *self._going):
                total.update(link.caller.counters)
            return total

    def add(self, link: Link) -> None:
        """Close a link as soon as nobody waits there."""
        with self._lock:
            if link in self.waiting or link in self._going:
                return
            if link.closed:
                self._count(link)
                return
            self.waiting = [*self.waiting, link]
        self.sweep()

    def sweep(self) -> None:
        """Have those closed where nobody waits any more."""
        for link in self._take(lambda link: not link.busy):
            if not self._run(lambda link=link: self._close(link, Deadline(CLOSE_SECONDS))):  # type: ignore[misc]
                self._close(link, Deadline(CLOSE_SECONDS))

    def close(self, deadline: Deadline) -> None:
        """Close all."""
        for link in (*self._take(lambda link: True), *self._going):
            self._close(link, deadline)

    def _take(self, ready: Callable[[Link], bool]) -> list[Link]:
        with self._lock:
            found = [link for link in self.waiting if ready(link)]
            self.waiting = [link for link in self.waiting if link not in found]
            self._going = [*self._going, *found]
            return found

    def _close(self, link: Link, deadline: Deadline) -> None:
        try:
            link.close(deadline)
        finally:
            with self._lock:
                self._going = [other for other in self._going if other is not link]
                self._count(link)

    def _count(self, link: Link) -> None:
        if not link.counted:
            link.counted = True
            self._past.update(link.caller.counters)


class Line:
    """One conversation's way to one endpoint.

    Threads: none. Whoever connects blocks, and those who need the connection wait for it, at most their deadline.
    Locks: ``_dialling`` is held while connecting, always acquired with the deadline.

    Args:
        endpoint: Where it leads.
        introduction: How each conversation there begins; it must not hold what users hold.
        handler: Returns what answers the other side, while that is there.
        leaving: Where links go that are replaced.

    Attributes:
        link: The connection, if there is one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        introduction: Introduction,
        handler: Callable[[], Handler | None],
        leaving: Leaving,
    ) -> None:
        self.endpoint = endpoint
        self.link: Link | None = None
        self._introduction = introduction
        self._handler = handler
        self._leaving = leaving
        self._opening: Any = None
        self._closed = False
        self._spoken = ""
        self._tried = self._next = self._pause = 0.0
        self._unhurt = False
        self._seen = 0
        self.forked()
        endpoint.lines.add(self)

    def forked(self) -> None:
        """Be as new: at first, and in a forked child."""
        self._dialling = threading.RLock()  # guards link and the pauses, so that there is one connection

    def __repr__(self) -> str:
        return f"<Line to {self.endpoint.name}: {self.link.caller if self.link else 'not connected'!r}>"

    def connected(self, deadline: Deadline) -> Link:
        """Return the connection, a new one where there is none that lives; raises as connecting does."""
        link = self.link
        if link is not None and not link.caller.over:
            if link.caller.must_connect:  # which its transport does by itself; by our deadline, before it is asked
                self._make_ready(link, deadline)
            return link

        def connect() -> None:
            if self.link is None or self.link.caller.over:
                self._put(self._dial_in_time(deadline))

        return self._one_at_a_time(connect, deadline)

    def _one_at_a_time(self, connect: Callable[[], None], deadline: Deadline) -> Link:
        """Connect, unless another thread does so beyond the deadline, and return the connection."""
        try:
            if not self._dialling.acquire(timeout=deadline.remaining):
                text = f"{self.endpoint.name}: another thread is still connecting"
                raise MCPTimeoutError(text, details={"phase": "connect"}, may_have_run=False)
            try:
                connect()
                assert self.link is not None
                return self.link
            finally:
                self._dialling.release()
        except BaseException:
            let_go(self._dialling)
            raise

    def _make_ready(self, link: Link, deadline: Deadline) -> None:
        try:
            link.caller.ready(deadline)
        except MCPError as error:
            _while_connecting(error)
            raise

    def _dial_in_time(self, deadline: Deadline) -> Link:
        before = self._tried, self._next, self._pause, self._seen
        self._pace()
        try:
            return self.dial(deadline)
        except BaseException as error:
            if isinstance(error, Refused) or not isinstance(error, Exception):  # it is we who said no; or Ctrl-C
                self._tried, self._next, self._pause, self._seen = before
            raise

    def dial(self, deadline: Deadline, worth: int = USED) -> Link:
        """Return a new connection of such worth, which is not the line's yet; raises as connecting does."""
        endpoint, voice = self.endpoint, Voice(self._handler())
        if self._closed or endpoint.gone:
            raise self._closed_error()
        place = endpoint.places.take(worth)
        try:
            introduction = replace(
                self._introduction, handler=voice, opened=self._note_opening, renewed=self._renewed(voice),
                expected=self._spoken or None,
            )  # fmt: skip
            caller = endpoint.transport.converse(introduction, deadline)
        except BaseException as error:
            endpoint.places.give(place)
            if not isinstance(error, Exception) and self._opening is not None:  # Ctrl-C, perhaps after it was made
                self._opening.hang_up(Deadline(0))
            if isinstance(error, MCPError):
                _while_connecting(error)
            if isinstance(error, MCPError) or not isinstance(error, Exception):
                raise
            text = f"{endpoint.name}: {type(error).__name__}: {error}"  # a transport of a user's own
            raise MCPConnectionError(text, details={"phase": "connect"}, may_have_run=False) from error
        finally:
            self._opening = None
        self._spoken = caller.agreement.era.version
        link = Link(caller, voice, self, place)
        if not endpoint.places.holds(place):
            link.close(Deadline(CLOSE_SECONDS))
            raise TooManyRequests(f"{endpoint.name}: somebody needed the place more", may_have_run=False)
        return link

    def adopt(self, link: Link) -> bool:
        """Make a connection the line's own; False: it has one, or needs none."""
        if not self._dialling.acquire(blocking=False):
            return False
        try:
            if self._closed or (self.link is not None and not self.link.caller.over):
                return False
            self._put(link)
            return True
        finally:
            self._dialling.release()

    def _put(self, link: Link) -> None:
        before, self.link = self.link, link
        if before is not None:
            self._leaving.add(before)
        if self._closed:
            link.close(Deadline(CLOSE_SECONDS))

    def drop(self, link: Link) -> None:
        """Let go of a connection; the next who needs one makes a new one, at once if this one has not failed."""
        if self.link is link:
            self.link = None
            self._unhurt = not (link.caller.over or link.caller.must_connect)
        self._leaving.add(link)

    def _pace(self) -> None:
        """Raise MCPConnectionError where it is too soon to connect again: between two attempts there are pauses."""
        now, seen = self.endpoint.health.clock(), self.endpoint.seen_well
        unhurt, self._unhurt = self._unhurt, False
        if unhurt:  # it is we who ended the last one
            self._next, self._pause = now, 0.0
        if seen != self._seen or now - self._next > LONG_LIFE_SECONDS:  # it works again, or has worked for long
            self._next, self._pause, self._seen = min(self._next, self._tried + FIRST_PAUSE), 0.0, seen
        if now < self._next:
            raise self.endpoint.resting(self._next - now)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._tried, self._next = now, now + self._pause * (1 + JITTER * random.random())

    def _renewed(self, voice: Voice) -> Callable[[Deadline], object]:
        further = self._introduction.renewed

        def renewed(deadline: Deadline) -> None:
            voice.back()
            link = self.link
            if further is not None and link is not None and link.voice is voice:
                further(deadline)

        return renewed

    def _note_opening(self, opening: Any) -> None:
        self._opening = opening
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> MCPConnectionError:
        why = "was unregistered" if self.endpoint.gone else "is not to be connected any more"
        return MCPConnectionError(f"{self.endpoint.name} {why}", details={"phase": "closed"}, may_have_run=False)

    @property
    def closed(self) -> bool:
        """Whether it was ended for good."""
        return self._closed

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it for good, and wait for nothing."""
        self._closed = True
        for one in (self._opening, self.link.caller if self.link is not None else None):
            if one is not None:
                one.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        """End it for good. Idempotent."""
        self._closed = True
        opening, link = self._opening, self.link
        if opening is not None:
            opening.close(deadline)
        if link is not None:
            link.close(deadline)

    def restart(self, deadline: Deadline) -> Link:
        """End the connection, with what is under way there, then make a new one; raises as connecting does."""

        def connect_anew() -> None:
            if self.link is not None:
                self.link.close(deadline.sooner(max(deadline.remaining / 2, 0.0)))
            self._put(self.dial(deadline))

        return self._one_at_a_time(connect_anew, deadline)


def _while_connecting(error: MCPError) -> None:
    """Have an error say that nothing that anybody has asked was sent."""
    error.details.setdefault("phase", "connect")
    error.may_have_run = False
