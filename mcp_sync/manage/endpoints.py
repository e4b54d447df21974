"""Endpoints and groups: what has a name and can be reached, and which endpoints are alternatives of each other."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..deadlines import Deadline
from ..engine.caller import Caller
from ..engine.connect import Introduction
from ..exceptions import MCPConnectionError, NoEndpoint, TooManyRequests
from .health import PAUSED, Change, Health
from .orderings import Ordering, Standing, chosen

if TYPE_CHECKING:
    from .links import Line, Link

Tell: TypeAlias = Callable[[str, Mapping[str, Any]], object]
"""Is told of an event: its name, and what is known of it."""


class Reaches(Protocol):
    """What an endpoint needs of a transport."""

    @property
    def name(self) -> str:
        """Whom it reaches, for people."""

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation."""


ENDED, LOST, SPARE, USED = range(4)
"""What a connection is worth: it is over; it has to be made again first; only checks have used it; it is needed."""


class Place:
    """The leave to have one connection.

    Attributes:
        worth: What the connection will be worth that is being made.
        link: The connection, once it is there.
    """

    __slots__ = ("__weakref__", "link", "worth")

    def __init__(self, worth: int) -> None:
        self.worth = worth
        self.link: Link | None = None

    @property
    def value(self) -> int:
        """What would be lost with it."""
        return self.worth if self.link is None else self.link.worth


class Places:
    """How many connections there may be at once.

    Where all are taken, whoever needs one has that of a connection which is worth less: else one that has ended would
    keep out what is to replace it, and those of checks would keep out callers. A place that nobody refers to any more,
    as Ctrl-C may have it, is free.

    Locks: ``_lock``, held for a few instructions.

    Args:
        most: So many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child, where nothing is connected."""
        self._lock = threading.Lock()  # guards _taken
        self._taken: weakref.WeakSet[Place] = weakref.WeakSet()

    @property
    def taken(self) -> int:
        """How many are."""
        return len(self._taken)

    def take(self, worth: int = USED) -> Place:
        """Return one for a connection of such worth; raises TooManyRequests where there is none to be had."""
        place = Place(worth)
        with self._lock:
            others = list(self._taken)
            if len(others) < self._most:
                self._taken.add(place)
                return place
        values = {other: other.value for other in others}
        for other in sorted(others, key=values.__getitem__):
            if values[other] < worth and self._replaced(other, place):
                return place
        text = f"there are {self.taken} connections already; max_concurrent_connections is {self._most}"
        raise TooManyRequests(text, may_have_run=False)

    def _replaced(self, other: Place, place: Place) -> bool:
        with self._lock:
            if other not in self._taken:
                return False
            self._taken.discard(other)
            self._taken.add(place)
        if other.link is not None:
            other.link.line.drop(other.link)  # else whoever makes it will find out
        return True

    def holds(self, place: Place) -> bool:
        """Return whether nobody else has had it."""
        return place in self._taken

    def give(self, place: Place) -> None:
        """Give one back. Idempotent."""
        with self._lock:
            self._taken.discard(place)


class Endpoint:
    """What has a name and can be reached: a transport, and what is known of its health.

    Attributes:
        name: Its name.
        transport: How to reach it.
        weight: Its share of the load.
        group: Where its alternatives are.
        health: What is known of it.
        places: Where connections have their places.
        lines: The lines that lead here, whoever has them.
        seen_well: How many checks have found that it works: after each there is no reason to wait before connecting.
        gone: Whether it was unregistered.
    """

    def __init__(
        self, name: str, transport: Reaches, weight: int, group: Group, health: Health, places: Places
    ) -> None:
        self.name = name
        self.transport = transport
        self.weight = weight
        self.group = group
        self.health = health
        self.places = places
        self.lines: weakref.WeakSet[Line] = weakref.WeakSet()
        self.seen_well = 0
        self.gone = False

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} ({self.transport.name}): {self.health.status}>"

    def enter(self, seconds: float) -> int:
        """Return the leave to make a call that is over in so many seconds; raises MCPConnectionError: not now."""
        passage = self.health.enter(seconds)
        if passage is None:
            raise self.resting(self.health.pause_left)
        return passage

    def resting(self, seconds: float) -> MCPConnectionError:
        """Return the error that says that it is left alone for so many seconds, and why."""
        last = self.health.error
        why = "" if last is None else f": {last}"
        return MCPConnectionError(
            f"{self.name} failed, and is left alone for {max(seconds, 0.1):.1f} s more{why}",
            details={**(last.details if last is not None else {}), "phase": PAUSED, "endpoint": self.name},
            may_have_run=False,
        )

    def succeeded(self, passage: int, seconds: float) -> None:
        """Take note that a call took so many seconds, and that it worked."""
        change = self.health.succeeded(passage, seconds)
        if change is not None:
            self.changed(change)

    def failed(self, passage: int, error: BaseException) -> None:
        """Take note of how a call failed."""
        change = self.health.failed(passage, error)
        if change is not None:
            self.changed(change)

    def lived(self, passage: int) -> None:
        """Take note that it lives, though no call is over."""
        change = self.health.lived(passage)
        if change is not None:
            self.changed(change)

    def changed(self, change: Change) -> None:
        """Tell the group, and whoever wants to know, that the status has changed."""
        report = self.health.report()
        data = {"endpoint": self.name, "group": self.group.name, "status": change.after, "previous": change.before}
        self.group.noticed(self)
        self.group.tell(change.after, {**data, "error_type": report["error_type"], "error": report["error"]})


class Group:
    """Endpoints that are alternatives of each other, and the order in which they are tried.

    Locks: ``_lock``, held for a few instructions; only the locks of healths are taken under it.

    Args:
        name: Its name.
        ordering: The strategy.
        tell: Is told of events.

    Attributes:
        version: A number that is another one whenever the order may be.
    """

    def __init__(self, name: str, ordering: Ordering, tell: Tell) -> None:
        self.name = name
        self.tell = tell
        self.version = 1
        self._ordering = ordering
        self._lock = threading.Lock()  # guards version, _endpoints, _standings, _standby
        self._endpoints: dict[str, Endpoint] = {}
        self._standings: dict[str, Standing] = {}
        self._standby: dict[str, str] = {}  # by the name of one that was put aside, that of its stand-in

    def __len__(self) -> int:
        return len(self._endpoints)

    def add(self, endpoint: Endpoint) -> None:
        """Add an endpoint."""
        with self._lock:
            self._endpoints = {**self._endpoints, endpoint.name: endpoint}
            self._standings[endpoint.name] = Standing(endpoint.name, endpoint.weight)
            self.version += 1

    def remove(self, endpoint: Endpoint) -> None:
        """Remove an endpoint."""
        with self._lock:
            self._endpoints = {name: one for name, one in self._endpoints.items() if one is not endpoint}
            self._standings.pop(endpoint.name, None)
            self._standby = {aside: by for aside, by in self._standby.items() if endpoint.name not in (aside, by)}
            self.version += 1

    def order(self, home: str | None) -> list[Endpoint]:
        """Return all endpoints, best first.

        Args:
            home: The one to begin with, as long as it works and was not put aside; None leaves it to the strategy.
        """
        with self._lock:
            names = self._ordering(self._now())
            front = self._front(home)
            if front is not None and front in names and self._endpoints[front].health.usable:
                names = [front, *(name for name in names if name != front)]
            return [self._endpoints[name] for name in names]

    def front(self, home: str | None) -> Endpoint | None:
        """Return the endpoint that stands for this one now: itself, or the one that was switched to."""
        with self._lock:
            name = self._front(home)
            return None if name is None else self._endpoints.get(name)

    def choose(self) -> Endpoint:
        """Return the endpoint whose turn it is; raises NoEndpoint where there is none."""
        with self._lock:
            standings = self._now()
            if not standings:
                raise NoEndpoint(f"no endpoint is registered in the group {self.name!r}", may_have_run=False)
            name = self._ordering(standings)[0]
            self._standings = {one.name: one for one in chosen(standings, name)}
            return self._endpoints[name]

    def took(self, endpoint: Endpoint) -> None:
        """Take note that an endpoint has had its turn."""
        with self._lock:
            if endpoint.name in self._standings:
                self._standings = {one.name: one for one in chosen(self._now(), endpoint.name)}

    def switch(self, home: str | None) -> tuple[str, str]:
        """Put an endpoint aside, and return its name and that of the one that stands for it now.

        Args:
            home: The endpoint; None: whichever comes first.

        Raises:
            NoEndpoint: It has no alternative.
        """
        with self._lock:
            names = self._ordering(self._now())
            home = self._front(home) or next(iter(names), None)
            others = [name for name in names if name != home]
            if home is None or not others:
                raise NoEndpoint(f"{home!r} has no alternative in the group {self.name!r}", may_have_run=False)
            asides = [aside for aside, by in self._standby.items() if by == home]
            self._standby = {aside: by for aside, by in self._standby.items() if aside != others[0] and by != home}
            self._standby |= {aside: others[0] for aside in (*asides, home) if aside != others[0]}
            self.version += 1
            return home, others[0]

    def switch_back(self, home: str) -> bool:
        """Let an endpoint stand for itself again; False: it does."""
        with self._lock:
            self.version += 1
            return self._standby.pop(home, None) is not None

    def noticed(self, endpoint: Endpoint) -> None:
        """Take note that an endpoint's health has changed; whoever stands in and fails, stands in no more."""
        with self._lock:
            self.version += 1
            failed = [] if endpoint.health.usable else [a for a, by in self._standby.items() if by == endpoint.name]
            for aside in failed:
                del self._standby[aside]
        for aside in failed:
            self.tell("backup_failed", {"endpoint": aside, "backup": endpoint.name, "group": self.name})

    def forked(self) -> None:
        """In a forked child: the lock may be held by a thread that stayed behind."""
        self._lock = threading.Lock()  # guards as before
        for endpoint in self._endpoints.values():
            endpoint.health.forked()

    def _front(self, home: str | None) -> str | None:
        return None if home is None else self._standby.get(home, home)

    def _now(self) -> list[Standing]:
        return [
            replace(
                self._standings[name],
                usable=endpoint.health.usable,
                aside=name in self._standby,
                latency=endpoint.health.latency,
            )
            for name, endpoint in self._endpoints.items()
        ]
