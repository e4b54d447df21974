"""Checks: a look at every endpoint now and then, in the background, one at a time for each.

A check asks on a connection that is there, if one is; else it makes one, and holds no lock meanwhile: no call ever
waits for a check. That one is kept for the next check, and for the manager's own requests, until somebody else has one.
A check has a time limit of its own, however patient callers are.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from ..deadlines import Deadline
from ..engine.caller import Caller, Question
from ..engine.dispatch import Alarm, Job, reaper
from ..exceptions import MCPError, TooManyRequests
from .endpoints import SPARE, Endpoint
from .health import works
from .links import Line, Link

log = logging.getLogger("mcp_sync")

CHECK_SECONDS = 5.0
"""How long a check may take; not longer than the time between two, but for what has to be connected first."""
CONNECT_SECONDS = 2.0
"""How long that may take at least: a server that is a process has to start."""
JITTER = 0.1
"""By how much, in parts, that time varies, so that many who watch one server do not come at once."""


class Checks:
    """The checks of all endpoints of a manager.

    Threads: none. The process's clock says when, ``run`` says where: a check may wait.
    Locks: ``_lock``, held for a few instructions.

    Args:
        interval: Seconds between two checks of an endpoint; None: there are none but those that are asked for.
        run: Runs a job elsewhere, or says no: ``Workers.offer``.
        line: Returns the line on which to connect where nobody else has.
    """

    def __init__(
        self, interval: float | None, run: Callable[[Job], bool], line: Callable[[Endpoint], Line]
    ) -> None:
        self.interval = interval
        self._run = run
        self._line = line
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child."""
        self._lock = threading.Lock()  # guards _alarms, _under_way, _stopped
        self._alarms: dict[Endpoint, Alarm] = {}
        self._under_way: set[Endpoint] = set()
        self._stopped = False

    def begin(self, endpoint: Endpoint) -> None:
        """Check an endpoint from now on."""
        if self.interval is not None and endpoint not in self._alarms:
            self._set(endpoint, self.interval * (1 + JITTER * random.uniform(-1, 1)))

    def soon(self, endpoint: Endpoint) -> None:
        """Check an endpoint now, out of turn; not if that is being done."""
        self._offer(endpoint)

    def end(self, endpoint: Endpoint) -> None:
        """Check an endpoint no more."""
        with self._lock:
            alarm = self._alarms.pop(endpoint, None)
        if alarm is not None:
            reaper.call_off(alarm)

    def stop(self) -> None:
        """Check nothing any more."""
        self._stopped = True
        for endpoint in list(self._alarms):
            self.end(endpoint)

    def _set(self, endpoint: Endpoint, seconds: float) -> None:
        with self._lock:
            if self._stopped or endpoint.gone:
                return
            try:
                self._alarms[endpoint] = reaper.at(Deadline(seconds), lambda: self._ring(endpoint))
            except TooManyRequests as error:  # there can be no more threads
                log.warning("%s is not checked: %s", endpoint.name, error)

    def _ring(self, endpoint: Endpoint) -> None:
        """On the clock's thread: must not wait."""
        self._offer(endpoint)
        if self.interval is not None:
            self._set(endpoint, self.interval * (1 + JITTER * random.uniform(-1, 1)))

    def _offer(self, endpoint: Endpoint) -> None:
        with self._lock:
            if self._stopped or endpoint in self._under_way:
                return
            self._under_way.add(endpoint)
        if not self._run(lambda: self._guarded(endpoint)):
            self._under_way.discard(endpoint)

    def _guarded(self, endpoint: Endpoint) -> None:
        try:
            if not self._stopped and not endpoint.gone:
                self.check(endpoint)
        finally:
            self._under_way.discard(endpoint)

    def check(self, endpoint: Endpoint) -> None:
        """Check an endpoint, and take note of what was found; raises nothing."""
        health = endpoint.health
        passage, found, taken = health.look(), None, 0.0
        try:
            taken = self._ask(endpoint, min(CHECK_SECONDS, self.interval or CHECK_SECONDS))
        except Exception as error:  # a user's own transport may raise anything
            found = error
        if self._stopped or endpoint.gone:
            return
        endpoint.seen_well += works(found) is True
        change = health.checked(passage, time.time(), found, taken)
        if change is not None:
            endpoint.changed(change)
        if found is not None and not isinstance(found, MCPError):
            log.warning("the check of %s failed: %r", endpoint.name, found)

    def _ask(self, endpoint: Endpoint, patience: float) -> float:
        """Return how many seconds the answer took, without those for connecting; raises as that and Caller.call do."""
        link = self._living(endpoint)
        if link is not None:
            return ask(link.caller, Deadline(patience))
        line, deadline = self._line(endpoint), Deadline(max(patience, CONNECT_SECONDS))
        link = line.dial(deadline, SPARE)
        try:
            taken = ask(link.caller, deadline)
        except BaseException:
            link.close(Deadline(CHECK_SECONDS))
            raise
        if not line.adopt(link):
            link.close(Deadline(CHECK_SECONDS))
        return taken

    def _living(self, endpoint: Endpoint) -> Link | None:
        """Return a connection that is there, if one is; one that only checks have used is let go of for another."""
        links = [link for line in list(endpoint.lines) if (link := line.link) is not None and not link.caller.over]
        spare = [link for link in links if link.spare]
        used = [link for link in links if not link.spare]
        for link in spare if used else ():
            link.line.drop(link)
        return next(iter(used or spare), None)


def ask(caller: Caller, deadline: Deadline) -> float:
    """Ask a server whether it is there, and return how many seconds that took; raises as Caller.call says."""
    question: Question[Any] = Question("ping" if caller.agreement.era.server_asks else "server/discover")
    began = time.monotonic()
    caller.call(question, deadline)
    return time.monotonic() - began
