"""What can be watched: frozen events, and the feed that carries them to observers.

An observer is any callable that takes one event. Observers run on a lane of their own, in order, one at a time; one
that is slow misses events (counted in ``Feed.missed``), one that raises is logged, and neither can delay a call. The
log is an observer too: it writes arrows (``> tools/call #7``) to the logger ``mcp_sync`` at level DEBUG.

What only counts must not miss anything: an observer of ours whose attribute ``inline`` is True is called at once, on
whichever thread the event happens, a reader's perhaps; so it takes microseconds, and never waits.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from .exceptions import printable

log = logging.getLogger("mcp_sync")


@dataclass(frozen=True, slots=True)
class Connecting:
    """A connection is sought."""

    server: str


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is ready for calls."""

    server: str
    version: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection is over; ``reason`` is None where we closed it."""

    server: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Called:
    """A request was sent."""

    server: str
    method: str
    id: int | str


@dataclass(frozen=True, slots=True)
class Finished:
    """A call is over, after so many seconds; ``error`` is the name of the exception's type, or None."""

    server: str
    method: str
    id: int | str
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something arrived that is no message: noise, or an answer that nobody can read. ``raw``: its beginning."""

    server: str
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message arrived that nothing follows from: a late answer, or a notification too many."""

    server: str
    why: str


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """A child process was started."""

    server: str
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """A child process is gone; ``status`` is its exit code, negative for a signal, None where nobody can know."""

    server: str
    pid: int
    status: int | None


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """A container was started."""

    server: str
    container: str


@dataclass(frozen=True, slots=True)
class ContainerEnded:
    """A container is gone; ``status`` is its exit code, None where nobody can know."""

    server: str
    container: str
    status: int | None
    out_of_memory: bool


@dataclass(frozen=True, slots=True)
class Restarted:
    """A server that had ended by itself is started for the ``attempt``-th time in a row."""

    server: str
    attempt: int


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A server uses more than it may, and is ended; ``resource``: ``memory_mb`` or ``cpu_percent``."""

    server: str
    resource: str
    limit: float
    value: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """A conversation goes on over a new connection, in place of the one that it had."""

    server: str


@dataclass(frozen=True, slots=True)
class Retried:
    """A call failed with an error of such a type, and is repeated for the ``attempt``-th time after so many seconds."""

    server: str
    method: str
    attempt: int
    error: str
    delay: float


@dataclass(frozen=True, slots=True)
class CircuitChanged:
    """The circuit breaker is in another state: ``open`` sends nothing, ``half-open`` one call, ``closed`` all."""

    server: str
    state: str


@dataclass(frozen=True, slots=True)
class Streaming:
    """So many bytes of a long reply have come; ``total`` is None where the server did not say."""

    server: str
    received: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request failed; ``kind``: connection_lost, auth_failed, rate_limited or server_error."""

    server: str
    kind: str
    details: dict[str, Any]


Event: TypeAlias = (
    "Connecting | Connected | Disconnected | Called | Finished | Unreadable | Ignored | ProcessStarted | ProcessEnded"
    " | ContainerStarted | ContainerEnded | Restarted | LimitExceeded | Reconnected | Retried | CircuitChanged"
    " | Streaming | Trouble"
)
Observer: TypeAlias = "Callable[[Event], None]"


class Observers(list[Observer]):
    """The observers of one transport, in the order in which they asked, and who wants messages of a method.

    Attributes:
        routes: By method, whom to give each notification, as a dict.
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        super().__init__(observers)
        self.routes: dict[str, list[Callable[[dict[str, Any]], Any]]] = {}

    def route(self, method: str, function: Callable[[dict[str, Any]], Any]) -> None:
        """Give the function every notification of this method."""
        self.routes.setdefault(method, []).append(function)


class Feed:
    """Carries events to observers without waiting for them, and without keeping them alive.

    Args:
        observers: Whom to tell; held weakly, they belong to what the user holds.
        offer: Runs a job elsewhere, or says no: ``Lane.offer``.
    """

    def __init__(
        self, observers: Observers | None = None, offer: Callable[[Callable[[], Any]], bool] | None = None
    ) -> None:
        self._observers = weakref.ref(observers) if observers is not None else None
        self._offer = offer
        self.missed = 0

    @property
    def watched(self) -> bool:
        """Whether anybody is looking; ask before making an event for every message."""
        return bool(self._observers and self._observers()) or log.isEnabledFor(logging.DEBUG)

    def route(self, method: str, message: Callable[[], dict[str, Any]]) -> None:
        """Give a notification to those who want its method, soon."""
        observers = self._observers() if self._observers else None
        for function in observers.routes.get(method, ()) if observers is not None and observers.routes else ():
            if self._offer is None or not self._offer(partial(function, message())):
                self.missed += 1

    def emit(self, event: Event) -> None:
        """Tell all observers, soon; those that count, now."""
        if self._offer is None or not self.watched:
            return
        for observer in (self._observers() if self._observers else None) or ():
            if getattr(observer, "inline", None) is True:
                _count(observer, event)
            else:
                self._pass_on(self._offer, observer, event)
        if log.isEnabledFor(logging.DEBUG):
            self._pass_on(self._offer, write_log, event)

    def _pass_on(self, offer: Callable[[Callable[[], Any]], bool], observer: Observer, event: Event) -> None:
        if not offer(partial(observer, event)):
            self.missed += 1


def _count(observer: Observer, event: Event) -> None:
    try:
        observer(event)
    except Exception:
        log.exception("%r failed", observer)


def write_log(event: Event) -> None:
    """Write an event as one line, with an arrow for its direction."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s", printable(_line(event), kept=""))


def _line(event: Event) -> str:
    if isinstance(event, Called):
        return f"> {event.method} #{event.id} ({event.server})"
    if isinstance(event, Finished):
        return f"< #{event.id} {event.seconds * 1000:.1f} ms {event.error or ''}".rstrip()
    if isinstance(event, Disconnected):
        return f"= closed ({event.server}) {event.reason or ''}".rstrip()
    if isinstance(event, Unreadable):
        return f"? {event.reason} ({event.server})"
    if isinstance(event, Retried):
        return f"~ {event.method} again in {event.delay:.2f} s, retry {event.attempt}: {event.error} ({event.server})"
    if isinstance(event, CircuitChanged):
        return f"= circuit {event.state} ({event.server})"
    if isinstance(event, Streaming):
        return f"< {event.received} of {event.total or '?'} bytes ({event.server})"
    if isinstance(event, LimitExceeded):
        return f"! {event.resource} {event.value:.1f}, more than {event.limit:g} ({event.server})"
    if isinstance(event, Trouble):
        return f"! {event.kind} ({event.server})"
    return f"= {event}"
