"""TransportMetrics: figures of calls and connections, for Prometheus and as lines of JSON.

::

    metrics = TransportMetrics(manager, export_interval=15, exporters=["prometheus", "json"], json="figures.jsonl")
    application = metrics.wsgi_app()             # GET it, or let Prometheus

    @metrics.alert("many_errors")
    def many_errors(snapshot):
        return any(one["errors"] > 100 for one in snapshot["endpoints"].values())

Nothing counts but observers of the events of ``mcp_sync.observe``; a transport that nobody measures pays nothing.

=============================================  ========  ==============================  ==========================
name                                           type      labels beside ``endpoint``      counts
=============================================  ========  ==============================  ==========================
``mcp_client_requests_total``                  counter   ``method``, ``outcome``         calls that are over
``mcp_client_request_duration_seconds``        histogram ``method``                      how long they took
``mcp_client_errors_total``                    counter   ``type``                        those that failed
``mcp_client_in_flight``                       gauge                                     those that wait
``mcp_client_retries_total``                   counter   ``method``                      repeats
``mcp_client_connections_total``               counter                                   connections made
``mcp_client_connections_lost_total``          counter                                   not ended by us
``mcp_client_reconnects_total``                counter                                   conversations that went on
``mcp_client_restarts_total``                  counter                                   servers started again
``mcp_client_streamed_bytes_total``            counter                                   bytes of long replies
``mcp_client_troubles_total``                  counter   ``kind``                        failures from outside
``mcp_client_limits_exceeded_total``           counter   ``resource``                    servers that used too much
``mcp_client_breaker_state``                   gauge     ``state``                       1 for the present one
``mcp_client_alert_firing``                    gauge     (only ``alert``)                1 while it fires
=============================================  ========  ==============================  ==========================

``outcome`` is ok, error, timeout or cancelled; a tool that reports failure has answered: ok. Methods that we do not
know are ``other``, as are endpoints past ``max_endpoints``; tools, URIs and texts are never labels.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ..deadlines import LONGEST_TIMEOUT, Deadline, as_timeout
from ..engine.lifetimes import tell_of_forks
from ..exceptions import NoEndpoint
from ..observe import Called, Event, Finished, Streaming
from ..policies import number, whole
from .exporting import JsonLines, Ticker
from .figures import BUCKETS, Figures, summary

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from typing_extensions import Self

log = logging.getLogger("mcp_sync")

F = TypeVar("F", bound="Callable[..., Any]")
Predicate = TypeVar("Predicate", bound="Callable[[dict[str, Any]], object]")

EXPORTERS = ("prometheus", "json")
CLOSE_SECONDS = 5.0
LONGEST_NAME = 200

_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")


class TransportMetrics:
    """Figures of calls and connections. All methods may be called from any thread.

    In a forked child all figures begin anew, and nothing is exported but what ``wsgi_app`` is asked for.

    Threads: ``mcp-metrics``, while there is something to export: a text file, JSON, or alerts.
    Locks: ``_lock``, held for a few instructions.

    Args:
        target: What to measure: a TransportManager, a transport, a Client, a mapping of names to transports, or
            anything whose ``endpoints`` have ``name`` and ``transport``. The endpoints of a manager are measured from
            when they are registered, whichever of the two is made first; others are looked up again at each export
            and each scrape. What cannot be observed is left out there.
        export_interval: Seconds between two exports.
        exporters: ``prometheus`` (``wsgi_app``, ``textfile``) and ``json``; None is prometheus, and what else a
            destination is given for.
        textfile: A file that is replaced, as a whole, at each export: for node_exporter's textfile collector.
        json: Where each export goes as one line of JSON, the ``snapshot``: a path, a function, or None for the log
            ``mcp_sync.metrics`` at level INFO.
        name: What to call the endpoint where it has no other name; None is the transport's.
        buckets: Upper bounds of the histograms, in seconds.
        max_endpoints: How many endpoints have a label of their own; those that are no more count, for their figures
            stay.

    Raises:
        ImportError: prometheus-client is not installed: the extra is ``[metrics]``.
        TypeError: The target is nothing of the kind, or a value has the wrong type.
        ValueError: A value is out of range, or an exporter is not known.
    """

    def __init__(
        self,
        target: Any = None,
        export_interval: float = 15.0,
        exporters: Sequence[str] | None = None,
        *,
        textfile: str | os.PathLike[str] | None = None,
        json: str | os.PathLike[str] | Callable[[str], object] | None = None,
        name: str | None = None,
        buckets: Sequence[float] = BUCKETS,
        max_endpoints: int = 100,
    ) -> None:
        self._exporters = _checked_exporters(exporters, textfile, json)
        interval = number(0.01, LONGEST_TIMEOUT)("export_interval", export_interval)
        self._most = whole(1)("max_endpoints", max_endpoints)
        self._textfile = None if textfile is None else os.fspath(textfile)
        self._lines = JsonLines(json) if "json" in self._exporters else None
        self._buckets = tuple(buckets)
        self._figures = Figures(self._buckets)
        self._watchers: dict[int, _Watcher] = {}
        self._alerts: dict[str, Callable[[dict[str, Any]], object]] = {}
        self._firing: frozenset[str] = frozenset()
        self._lock = threading.Lock()  # guards _watchers, _alerts, _closed
        self._closed = False
        self._manager = target if _is_manager(target) else None  # transports belong to the user, or to a manager
        follow = getattr(self._manager, "follow", None)
        if callable(follow):
            follow(self)
        if self._manager is not None:
            self._look()
        elif target is not None:
            for endpoint, transport in _endpoints_of(target, name):
                self.watch(endpoint, transport)
        self._ticker = Ticker("mcp-metrics", interval, self.export)
        if self._textfile is not None or self._lines is not None:
            self._ticker.start()
        tell_of_forks(self)

    def __repr__(self) -> str:
        names = ", ".join(watcher.endpoint for watcher in list(self._watchers.values()))
        return f"<TransportMetrics of {names or 'nothing'}{' closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def registry(self) -> CollectorRegistry:
        """The registry of prometheus-client that the figures are in; another one in a forked child."""
        return self._figures.registry

    # -- what is measured ---------------------------------------------------------------------------------------------

    def watch(self, name: str, transport: Any) -> None:
        """Measure one more transport.

        Args:
            name: The endpoint, for the label.
            transport: Anything with ``observe``.

        Raises:
            TypeError: It has none.
        """
        if not callable(getattr(transport, "observe", None)):
            raise TypeError(f"there is nothing to measure in {transport!r}: it has no observe()")
        self._forget_dead()
        with self._lock:
            if self._closed or id(transport) in self._watchers:
                return
            endpoint = self._figures.begin(str(name)[:LONGEST_NAME], self._most)
            watcher = self._watchers[id(transport)] = _Watcher(self, endpoint, transport)
        transport.observe(watcher)

    def arrived(self, name: str, transport: Any) -> None:
        """Measure an endpoint that the manager has from now on, if that is possible."""
        if callable(getattr(transport, "observe", None)):
            self.watch(name, transport)
            watcher = self._watchers.get(id(transport))
            if watcher is not None:
                watcher.looked_up = True

    def unwatch(self, transport: Any) -> None:
        """Measure this transport no more; what was counted stays."""
        with self._lock:
            watcher = self._watchers.pop(id(transport), None)
        if watcher is not None:
            watcher.leave()
            self._figures.end(watcher.endpoint, watcher.under_way)

    def _forget_dead(self) -> None:
        """Forget transports that nobody has any more."""
        with self._lock:
            dead = [key for key, watcher in self._watchers.items() if watcher.transport() is None]
            watchers = [self._watchers.pop(key) for key in dead]
        for watcher in watchers:
            self._figures.end(watcher.endpoint, watcher.under_way)

    def _look(self) -> None:
        """Measure what the manager has by now, and no longer what it has no more."""
        self._forget_dead()
        if self._manager is None:
            return
        before = list(self._watchers.items())  # who arrives meanwhile is none of those that have left
        found = {id(transport): (name, transport) for name, transport in _endpoints_of(self._manager, None)}
        for key, watcher in before:
            transport = watcher.transport()
            if watcher.looked_up and key not in found and transport is not None:
                self.unwatch(transport)
        for name, transport in found.values():
            self.arrived(name, transport)

    # -- what the application adds ------------------------------------------------------------------------------------

    def histogram(self, name: str) -> Timer:
        """Return a decorator that measures how long each call of a function takes, in seconds, however it ends.

        It is a context manager's maker as well (``with metrics.histogram(name).time():``), and takes single values
        (``.observe(0.25)``). Two with one name are one.

        Args:
            name: As Prometheus wants it, such as ``summarize_seconds``.

        Raises:
            ValueError: It is none, or one of ours.
            TypeError: It is no str.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}; write @metrics.histogram('name')")
        if not _METRIC.fullmatch(name):
            raise ValueError(f"name must be letters, digits and _, not {name!r:.80}")
        timer = Timer(self, name)
        timer.observe_nothing()
        return timer

    def alert(self, name: str) -> Callable[[Predicate], Predicate]:
        """Return a decorator for a function that is given a ``snapshot`` at each export, and says if it is alarming.

        While it returns something true the alert fires: ``mcp_client_alert_firing`` is 1, the snapshot names it, and
        its beginning and its end are a line in the log, at level WARNING and INFO. It may as well tell somebody itself.
        One that raises is logged, and does not fire. It runs on the thread ``mcp-metrics``.

        Args:
            name: For the label.

        Raises:
            ValueError: There is one of this name, or it cannot be one.
        """

        def decorate(function: Predicate) -> Predicate:
            with self._lock:
                if name in self._alerts:
                    raise ValueError(f"there is an alert {name!r} already")
                self._alerts[name] = function
            self._figures.alerts.labels(name).set(0)
            if not self._closed:
                self._ticker.start()
            return function

        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}; write @metrics.alert('name')")
        if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise ValueError(f"name must be letters, digits, _ . : and -, not {name!r:.80}")
        return decorate

    # -- reading ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return the figures as a dict that JSON can say.

        Returns:
            ``time`` (seconds since 1970), ``alerts`` (the names of those that fire), and ``endpoints``: by name, what
            ``figures.summary`` returns.
        """
        self._look()
        endpoints = summary(self._figures.samples())
        return {"time": round(time.time(), 3), "alerts": sorted(self._firing), "endpoints": endpoints}

    def wsgi_app(self) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
        """Return a WSGI application that shows the figures, at whatever path it is mounted.

        It does not ask who wants to know; whoever must not is a matter for the server that has it.

        Raises:
            ValueError: ``prometheus`` is not among the exporters.
        """
        if "prometheus" not in self._exporters:
            raise ValueError("wsgi_app() needs 'prometheus' among the exporters")

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            self._look()
            return self._figures.application()(environ, start_response)

        return application

    # -- exporting ----------------------------------------------------------------------------------------------------

    def export(self) -> None:
        """Ask the alerts, and write the text file and the line of JSON, now."""
        snapshot = self.snapshot()
        if self._alerts:
            self._firing = frozenset(self._ask_alerts(snapshot))
            snapshot["alerts"] = sorted(self._firing)
        if self._textfile is not None:
            with _logged(f"the figures could not be written to {self._textfile}"):
                self._figures.write(self._textfile)
        if self._lines is not None:
            with _logged("the figures could not be written as JSON"):
                self._lines.write(snapshot)

    def _ask_alerts(self, snapshot: dict[str, Any]) -> Iterator[str]:
        for name, function in list(self._alerts.items()):
            fires = False
            with _logged(f"the alert {name} failed"):
                fires = bool(function(snapshot))
            if fires != (name in self._firing):
                log.log(logging.WARNING if fires else logging.INFO, "alert %s %s", name, "fires" if fires else "ended")
            self._figures.alerts.labels(name).set(fires)
            if fires:
                yield name

    def close(self, timeout: float | None = None) -> None:
        """Export once more, if anything is, and measure no more. Idempotent.

        Args:
            timeout: Seconds to wait for an export that is under way; None means 5.
        """
        deadline = Deadline(as_timeout(timeout, default=CLOSE_SECONDS))
        ticked = self._ticker.ticking
        self._ticker.stop(deadline)
        if ticked:
            self.export()
        with self._lock:
            self._closed = True
            watchers, self._watchers = self._watchers, {}
        for watcher in watchers.values():
            watcher.leave()

    def forked(self) -> None:
        """In a forked child: begin anew; locks may be held by nobody."""
        self._lock = threading.Lock()  # guards as before
        self._figures = Figures(self._buckets)
        self._firing = frozenset()
        for watcher in self._watchers.values():
            watcher.forked()
            self._figures.begin(watcher.endpoint, self._most)
        for name in self._alerts:
            self._figures.alerts.labels(name).set(0)

    @property
    def figures(self) -> Figures:
        """What is counted; for observers."""
        return self._figures


class _Watcher:
    """The observer of one endpoint. It holds nobody; the transport that is measured holds it.

    Attributes:
        endpoint: For the label.
        transport: Returns what is measured, if it is there still.
        looked_up: Whether it was found in a manager, and not handed over.
        under_way: How many calls were begun and are not over.

    Locks: ``_lock``, held for a few instructions.
    """

    inline = True  # observe.py: it counts

    def __init__(self, metrics: TransportMetrics, endpoint: str, transport: Any) -> None:
        self._metrics: Callable[[], TransportMetrics | None] = weakref.ref(metrics)
        self.endpoint = endpoint
        self.transport: Callable[[], Any] = _weakly(transport)
        self.looked_up = False
        self.forked()

    def forked(self) -> None:
        """Be as new."""
        self._lock = threading.Lock()  # guards under_way
        self.under_way = 0
        self._reply = threading.local()

    def leave(self) -> None:
        """Hear no more."""
        self._metrics = lambda: None
        forget = getattr(self.transport(), "unobserve", None)
        if callable(forget):
            forget(self)

    def __call__(self, event: Event) -> None:
        metrics = self._metrics()
        if metrics is None:
            return
        figures = metrics.figures
        if isinstance(event, Called):
            self._count_open(1)
            figures.called(self.endpoint)
        elif isinstance(event, Finished):
            self._reply.received = 0
            figures.finished(self.endpoint, event, self._count_open(-1))
        elif isinstance(event, Streaming):
            figures.streamed(self.endpoint, self._more(event.received))
        else:
            figures.take(self.endpoint, event)

    def _count_open(self, change: int) -> bool:
        """Count a call that is under way, or no more; False: it began before we looked."""
        with self._lock:
            if self.under_way + change < 0:
                return False
            self.under_way += change
            return True

    def _more(self, received: int) -> int:
        """Return how much more has come: one thread reads one reply at a time, and says how much of it there is."""
        before = getattr(self._reply, "received", 0)
        self._reply.received = received
        return received - before if received >= before else received


class Timer:
    """Measures durations into one histogram of an application's; made by ``TransportMetrics.histogram``."""

    def __init__(self, metrics: TransportMetrics, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def __call__(self, function: F) -> F:
        """Return the function, each call of which is measured."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.time():
                return function(*args, **kwargs)

        return timed  # type: ignore[return-value]

    @contextmanager
    def time(self) -> Iterator[None]:
        """Measure how long a ``with`` block takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - begun)

    def observe(self, value: float) -> None:
        """Take a single value."""
        self._metrics.figures.timed(self._name).observe(value)

    def observe_nothing(self) -> None:
        """Make the histogram, so that it is there before the first value; raises ValueError where it cannot be."""
        self._metrics.figures.timed(self._name)


def _weakly(transport: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(transport)
    except TypeError:  # a user's own, with __slots__
        return lambda: transport


@contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except Exception:  # a full disk, or what is the application's and may raise anything
        log.exception("%s", what)


# -- what users hand over ---------------------------------------------------------------------------------------------


def _checked_exporters(given: Sequence[str] | None, textfile: object, json: object) -> tuple[str, ...]:
    if given is None:
        return EXPORTERS if json is not None else EXPORTERS[:1]
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"exporters must be a list such as ['prometheus', 'json'], not {given!r:.80}")
    for one in given:
        if one not in EXPORTERS:
            raise ValueError(f"exporters must be among {', '.join(EXPORTERS)}; {one!r:.80} is not")
    for name, destination, needed in (("textfile", textfile, "prometheus"), ("json", json, "json")):
        if destination is not None and needed not in given:
            raise ValueError(f"{name} needs {needed!r} among the exporters")
    return tuple(given)


def _is_manager(target: Any) -> bool:
    single = any(callable(getattr(one, "observe", None)) for one in (target, getattr(target, "transport", None)))
    return target is not None and not single and not isinstance(target, Mapping)


def _endpoints_of(target: Any, name: str | None) -> Iterator[tuple[str, Any]]:
    """Yield name and transport of all that is to be measured."""
    if isinstance(target, Mapping):
        yield from ((str(key), getattr(one, "transport", one)) for key, one in target.items())
    elif callable(getattr(target, "observe", None)):
        yield name or target.name, target
    elif callable(getattr(getattr(target, "transport", None), "observe", None)):
        yield name or target.transport.name, target.transport
    else:
        yield from _endpoints_of_manager(target)


def _endpoints_of_manager(manager: Any) -> Iterator[tuple[str, Any]]:
    if callable(getattr(manager, "get_health_report", None)):
        for name in manager.get_health_report():
            with suppress(NoEndpoint):  # it has just been unregistered
                yield name, manager.endpoint(name).transport
        return
    found = getattr(manager, "endpoints", manager)
    found = found() if callable(found) else found
    if isinstance(found, Mapping):
        yield from _endpoints_of(found, None)
        return
    if not isinstance(found, Iterable):
        raise TypeError(
            f"there is nothing to measure in {manager!r}: give a TransportManager, a transport, a Client, or a mapping "
            "of names to transports"
        )
    for one in found:
        yield one.name, one.transport
