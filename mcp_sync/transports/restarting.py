"""RestartingTransport: what the transports that start their server have in common: one that has ended is started again.

It is the next call that starts it, which then begins a conversation of its own; nothing that was under way is repeated.
A server that ends again and again is started more and more slowly, and after ``max_restarts`` in a row no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.caller import Caller, Handler
from ..engine.channel import last_words
from ..engine.connect import Introduction, converse
from ..engine.dispatch import Lane
from ..engine.interrupts import let_go
from ..engine.lifetimes import tell_of_forks
from ..exceptions import MCPConnectionError, MCPError
from ..manage.reconnect import Reconnecting
from ..observe import Feed, Restarted
from ..policies import Limits, Reconnect, Restart
from .lasting import LastingTransport
from .transport import CLOSE_SECONDS

LONG_LIFE_SECONDS = 60.0
"""A server that has run for so long is no part of a row of restarts."""
GROWTH = 2.0
"""How many times longer each further pause of a row is."""
LONGEST_PAUSE = 30.0
"""Seconds that no pause between two starts exceeds, unless ``restart_delay`` is longer itself."""


class RestartingTransport(LastingTransport):
    """How to reach a server by starting it."""

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation; if ``max_restarts`` says so, one that outlives its server."""
        policy = self._policies[Restart]
        if not policy.attempts:
            return self._begin(introduction, deadline)
        here = self._line
        starts = _Starts(self, introduction, policy)
        once = Reconnect(interval=policy.delay, attempts=1)
        try:
            whole = Reconnecting(introduction.handler, starts.dial, once, introduction.renewed, deadline, starts.close)
        except BaseException:
            starts.close(Deadline(CLOSE_SECONDS))
            raise
        self._began(whole, here)
        return whole


class _Starts:
    """The starts of a server for one conversation.

    Threads: ``dial`` blocks for the pause that is due, and while the server starts; at most until its deadline.
    Locks: ``_dialling`` is held meanwhile; so nothing is started any more once ``close`` has returned.
    """

    def __init__(self, transport: RestartingTransport, introduction: Introduction, policy: Restart) -> None:
        self._transport = transport
        self._firsts = [introduction]
        # What is kept for later starts must not keep what the user holds.
        self._later = replace(introduction, handler=None, opened=None, meanwhile=None)
        self._row = Row(policy, transport.name)
        self._last: Caller | None = None
        self._lane = Lane(f"mcp-{transport.transport_type}-events")
        self._feed = Feed(transport._observers, self._lane.offer)
        self._renew_locks()
        tell_of_forks(self)

    def _renew_locks(self) -> None:
        self._closed = interrupts.Event()
        self._dialling = threading.RLock()  # guards the making of a connection, so that closing can wait for it

    def dial(
        self, handler: Handler | None, version: str, opened: Callable[[Caller], object], deadline: Deadline
    ) -> Caller:
        """Start the server and begin a conversation; what ``Reconnecting`` calls, one thread at a time."""
        try:
            with self._dialling:
                self._check_open()
                if self._firsts:
                    return self._first(handler, deadline)
                self._last = self._again(handler, version, opened, deadline)
                return self._last
        except BaseException:
            let_go(self._dialling)
            raise

    def _first(self, handler: Handler | None, deadline: Deadline) -> Caller:
        self._row.begin()
        self._last = self._transport._begin(replace(self._firsts[0], handler=handler), deadline)
        self._firsts.clear()
        return self._last

    def _again(
        self, handler: Handler | None, version: str, opened: Callable[[Caller], object], deadline: Deadline
    ) -> Caller:
        last, self._last = self._last, None
        if last is not None:
            self._row.ended(last.explain())
        pause = self._row.pause()
        if pause >= deadline.remaining:
            raise self._row.too_soon(pause)
        self._closed.wait(pause)
        self._check_open()
        self._feed.emit(Restarted(self._transport.name, self._row.next()))
        again = replace(self._later, handler=handler, opened=opened, expected=version or None)
        try:
            return converse(self._transport.dial(deadline), again, self._transport._policies[Limits], deadline)
        except MCPError as error:
            self._row.failed(error)
            raise

    def _check_open(self) -> None:
        if self._closed.is_set():
            text = f"the connection to {self._transport.name} is closed"
            raise MCPConnectionError(text, details={"phase": "closed"}, may_have_run=False)

    def close(self, deadline: Deadline) -> None:
        """Start nothing any more, and wait for the start that is under way, which has been told to end."""
        self._closed.set()
        if self._dialling.acquire(timeout=deadline.remaining):
            self._dialling.release()
        self._lane.close(deadline)

    def forked(self) -> None:
        """In a forked child: the server is the parent's, and none is started in its place."""
        self._renew_locks()
        self._closed.set()
        self._lane.forked()


class Row:
    """A row of restarts: how many there have been, and how the last one ended.

    Threads: one at a time, whoever dials.

    Args:
        policy: How many there may be, and how fast.
        name: What is restarted, for people.
    """

    def __init__(self, policy: Restart, name: str) -> None:
        self._policy = policy
        self._name = name
        self._count = 0
        self._age = Deadline(0)
        self._why = ""
        self._cause: MCPError | None = None

    def begin(self) -> None:
        """Take note of a start."""
        self._age = Deadline(LONG_LIFE_SECONDS)

    def ended(self, details: Mapping[str, Any]) -> None:
        """Take note of the end of one with which there was a conversation; ``details`` is what explains it."""
        if details.get("lived", self._age.elapsed) >= LONG_LIFE_SECONDS:
            self._count = 0
        self._why, self._cause = f"{_fate(details)}{last_words(details)}", None

    def failed(self, error: MCPError) -> None:
        """Take note that there came no conversation of a start."""
        self._why, self._cause = str(error), error

    def pause(self) -> float:
        """Return after how many seconds the next start is due; raises when there were enough."""
        if self._count >= self._policy.attempts:
            raise MCPConnectionError(
                f"{self._name} ended {self._count + 1} times in a row; max_restarts is {self._policy.attempts}; "
                f"the last time: {self._why}",
                details={"phase": "connect", "restarts": self._count, "cause": self._why},
                may_have_run=False,
            ) from self._cause
        if not self._count:
            return 0.0
        delay = self._policy.delay
        pause = min(delay * GROWTH ** min(self._count - 1, 60), max(delay, LONGEST_PAUSE))
        return max(0.0, pause - self._age.elapsed)

    def too_soon(self, pause: float) -> MCPConnectionError:
        """Return the error for a call that cannot wait so long."""
        return MCPConnectionError(
            f"{self._name} is not started again before {pause:.1f} s have passed (restart_delay), which is more than "
            f"the timeout leaves; the last time: {self._why}",
            details={"phase": "connect", "restarts": self._count, "cause": self._why, "retry_after": pause},
            may_have_run=False,
        )

    def next(self) -> int:
        """Return the number of the restart that begins now."""
        self._count += 1
        self.begin()
        return self._count


def _fate(details: Mapping[str, Any]) -> str:
    """Return how it ended, from what explains an end."""
    if "resource" in details:
        return f"it used too much: {details['resource']} {details['value']:.1f}; the limit is {details['limit']:g}"
    if details.get("out_of_memory"):
        return "it ran out of memory"
    status = details.get("exit_status")
    if status is None:
        return "it ended, and its exit status is not known"
    return f"it was killed by signal {-status}" if status < 0 else f"it ended with exit status {status}"
