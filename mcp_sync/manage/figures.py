"""Figures: what is counted of calls and connections, in a registry of prometheus-client.

The only module that imports prometheus-client. Everything that becomes a label comes from a list in this package, or
from whoever named an endpoint; nothing that a server says, no tool, no URI, no text of an error. So their number is
bounded, and they tell no secrets.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import exceptions
from ..observe import (
    CircuitChanged,
    Connected,
    Disconnected,
    Event,
    Finished,
    LimitExceeded,
    Reconnected,
    Restarted,
    Retried,
    Trouble,
)
from .retry import SAFE_METHODS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histograms of durations, in seconds."""
METHODS = SAFE_METHODS | {
    "connect",
    "initialize",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/result",
    "tasks/update",
    "tools/call",
}
"""The methods that have a label of their own; the others share one."""
OTHER = "other"
OUTCOMES = {None: "ok", "MCPTimeoutError": "timeout", "CancelledError": "cancelled"}
"""How a call ended, by the name of its error; ``error`` in all other cases."""
ERRORS = frozenset(
    name
    for name, value in vars(exceptions).items()
    if inspect.isclass(value) and issubclass(value, exceptions.MCPError)
) | {"CancelledError"}
TROUBLES = ("connection_lost", "auth_failed", "rate_limited", "server_error")
RESOURCES = ("memory_mb", "cpu_percent")
BREAKER_STATES = ("closed", "half-open", "open")

Labels = tuple[tuple[str, str], ...]


def client() -> Any:
    """Return the library.

    Raises:
        ImportError: It is not installed; the text says how to install it.
    """
    try:
        import prometheus_client
    except ImportError as error:
        text = "TransportMetrics needs prometheus-client: pip install 'mcp-sync-transports[metrics]'"
        raise ImportError(text, name="prometheus_client") from error
    return prometheus_client


class Figures:
    """All that is counted in this process, for one TransportMetrics.

    Locks: ``_lock``, held for a few instructions; beside it those of prometheus-client, likewise.

    Args:
        buckets: Upper bounds of the histograms of durations, in seconds.

    Attributes:
        registry: The ``CollectorRegistry``.
    """

    def __init__(self, buckets: Sequence[float] = BUCKETS) -> None:
        library = client()
        self._buckets = tuple(buckets)
        self._lock = threading.Lock()  # guards _timed, _shown
        self._shown: set[str] = set()
        self._timed: dict[str, Histogram] = {}
        self.registry: CollectorRegistry = library.CollectorRegistry()
        self._make(library)

    def _make(self, library: Any) -> None:
        def counter(name: str, text: str, *labels: str) -> Any:
            return library.Counter(f"mcp_client_{name}", text, ("endpoint", *labels), registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Any:
            return library.Gauge(f"mcp_client_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests", "Calls that are over", "method", "outcome")
        self._errors = counter("errors", "Calls that failed, by the type of the error", "type")
        self._retries = counter("retries", "Repeats of calls, and of attempts to connect", "method")
        self._connections = counter("connections", "Connections made")
        self._lost = counter("connections_lost", "Connections that ended otherwise than by us")
        self._reconnects = counter("reconnects", "Conversations that got a new connection")
        self._restarts = counter("restarts", "Servers started again after they had ended")
        self._bytes = counter("streamed_bytes", "Bytes of long replies (streaming_threshold), as they came")
        self._troubles = counter("troubles", "Requests that failed for a reason outside of them", "kind")
        self._limits = counter("limits_exceeded", "Servers ended because they used too much", "resource")
        self._in_flight = gauge("in_flight", "Calls that wait for their answers", "endpoint")
        self._breaker = gauge("breaker_state", "1 for the state the circuit breaker is in", "endpoint", "state")
        self.alerts = gauge("alert_firing", "1 while an alert fires", "alert")
        self._seconds = library.Histogram(
            _DURATION,
            "How long calls took, however they ended",
            ("endpoint", "method"),
            buckets=self._buckets,
            registry=self.registry,
        )

    def timed(self, name: str) -> Histogram:
        """Return the histogram of an application's, made when it is first asked for.

        Raises:
            ValueError: The name cannot be one, or is one of ours.
        """
        with self._lock:
            if name not in self._timed:
                text = "Measured by the application"
                self._timed[name] = client().Histogram(name, text, buckets=self._buckets, registry=self.registry)
            return self._timed[name]

    def begin(self, name: str, most: int) -> str:
        """Show an endpoint of which nothing has been heard yet, and return its label.

        Args:
            name: Its name, which is the label.
            most: How many have one; those past that share one. It is for ever, as what was counted is.
        """
        with self._lock:
            endpoint = name if name in self._shown or len(self._shown - {OTHER}) < most else OTHER
            known = endpoint in self._shown
            self._shown.add(endpoint)
        if not known:  # several may share a name
            self.set_breaker(endpoint, "closed")
            for one in (self._in_flight, self._connections, self._lost, self._reconnects, self._restarts, self._bytes):
                one.labels(endpoint)
        return endpoint

    def end(self, endpoint: str, under_way: int) -> None:
        """Forget calls of an endpoint whose end nobody will hear of."""
        self._in_flight.labels(endpoint).dec(under_way)

    def set_breaker(self, endpoint: str, state: str) -> None:
        """Take note of the state of a circuit breaker."""
        for one in BREAKER_STATES:
            self._breaker.labels(endpoint, one).set(one == state)

    # -- one event ----------------------------------------------------------------------------------------------------

    def called(self, endpoint: str) -> None:
        """A call is under way."""
        self._in_flight.labels(endpoint).inc()

    def finished(self, endpoint: str, event: Finished, counted: bool) -> None:
        """A call is over; ``counted``: it was counted when it began."""
        method = _method(event.method)
        if counted:
            self._in_flight.labels(endpoint).dec()
        outcome = OUTCOMES.get(event.error, "error")
        self._requests.labels(endpoint, method, outcome).inc()
        self._seconds.labels(endpoint, method).observe(event.seconds)
        if event.error is not None:
            self._errors.labels(endpoint, event.error if event.error in ERRORS else OTHER).inc()

    def streamed(self, endpoint: str, size: int) -> None:
        """So many more bytes of a long reply have come."""
        self._bytes.labels(endpoint).inc(size)

    def take(self, endpoint: str, event: Event) -> None:
        """Count any other event."""
        if isinstance(event, Retried):
            self._retries.labels(endpoint, _method(event.method)).inc()
        elif isinstance(event, Connected):
            self._connections.labels(endpoint).inc()
        elif isinstance(event, Disconnected):
            self._lost.labels(endpoint).inc(event.reason is not None)
        elif isinstance(event, Reconnected):
            self._reconnects.labels(endpoint).inc()
        elif isinstance(event, Restarted):
            self._restarts.labels(endpoint).inc()
        elif isinstance(event, CircuitChanged):
            self.set_breaker(endpoint, event.state)
        elif isinstance(event, Trouble):
            self._troubles.labels(endpoint, _known(event.kind, TROUBLES)).inc()
        elif isinstance(event, LimitExceeded):
            self._limits.labels(endpoint, _known(event.resource, RESOURCES)).inc()

    # -- reading ------------------------------------------------------------------------------------------------------

    def samples(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield the figures: name, labels and value."""
        for family in self.registry.collect():
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def application(self) -> Callable[..., Iterable[bytes]]:
        """Return a WSGI application that shows them, in the format that the request asks for."""
        whole: Callable[..., Iterable[bytes]] = client().make_wsgi_app(self.registry)
        return whole

    def write(self, path: str) -> None:
        """Replace a file by one that has them; raises OSError."""
        client().write_to_textfile(path, self.registry)


def _method(name: str) -> str:
    return name if name in METHODS else OTHER


def _known(name: str, names: Sequence[str]) -> str:
    return name if name in names else OTHER


# -- a summary, for people and for alerts -----------------------------------------------------------------------------

_SUMS = {
    "mcp_client_requests_total": "requests",
    "mcp_client_errors_total": "errors",
    "mcp_client_retries_total": "retries",
    "mcp_client_connections_total": "connections",
    "mcp_client_connections_lost_total": "connections_lost",
    "mcp_client_reconnects_total": "reconnects",
    "mcp_client_restarts_total": "restarts",
    "mcp_client_streamed_bytes_total": "streamed_bytes",
    "mcp_client_in_flight": "in_flight",
}
_DURATION = "mcp_client_request_duration_seconds"
_ASIDE = {"connect", "initialize", "ping", "server/discover"}
"""What says nothing of the calls of an application: a server has to start first, or is only asked if it is there."""
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def summary(samples: Iterable[tuple[str, dict[str, str], float]]) -> dict[str, dict[str, Any]]:
    """Return the figures by endpoint: sums over all methods and outcomes, latency in milliseconds.

    All is since the beginning. The latency is that of calls: without how conversations begin, and without checks.

    Returns:
        By endpoint: ``requests``, ``errors``, ``retries``, ``connections``, ``connections_lost``, ``reconnects``,
        ``restarts``, ``streamed_bytes``, ``in_flight``, ``breaker``, ``errors_by_type``, and ``latency_ms`` with
        ``avg``, ``p50``, ``p95`` and ``p99``; None before the first call.
    """
    found: dict[str, dict[str, Any]] = {}
    buckets: dict[str, dict[float, float]] = {}
    seconds: dict[str, float] = {}
    for name, labels, value in samples:
        endpoint = labels.get("endpoint")
        if endpoint is None:
            continue
        if endpoint not in found:
            found[endpoint] = {**dict.fromkeys(_SUMS.values(), 0), "breaker": "closed", "errors_by_type": {}}
        _note(found[endpoint], name, labels, value)
        if name == f"{_DURATION}_bucket" and labels["method"] not in _ASIDE:
            counts, bound = buckets.setdefault(endpoint, {}), float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + value
        elif name == f"{_DURATION}_sum" and labels["method"] not in _ASIDE:
            seconds[endpoint] = seconds.get(endpoint, 0.0) + value
    for endpoint, entry in found.items():
        entry["latency_ms"] = _latency(buckets.get(endpoint, {}), seconds.get(endpoint, 0.0))
    return found


def _note(entry: dict[str, Any], name: str, labels: Mapping[str, str], value: float) -> None:
    if name in _SUMS:
        entry[_SUMS[name]] += int(value)
    if name == "mcp_client_errors_total":
        entry["errors_by_type"][labels["type"]] = int(value)
    elif name == "mcp_client_breaker_state" and value:
        entry["breaker"] = labels["state"]


def _latency(buckets: Mapping[float, float], seconds: float) -> dict[str, float | None]:
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return dict.fromkeys(("avg", *_QUANTILES))
    shares = {name: round(_quantile(share * total, bounds, buckets) * 1000, 3) for name, share in _QUANTILES.items()}
    return {"avg": round(seconds / total * 1000, 3), **shares}


def _quantile(rank: float, bounds: Sequence[float], buckets: Mapping[float, float]) -> float:
    """Return the value below which so many lie, as Prometheus does: as if all in a bucket were evenly spread."""
    below, lower = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound
    return lower
