"""Listeners: what the decorators of a transport make of a function of the user's: an observer of the right events.

=========================  =============================================================================
decorator                  is called with
=========================  =============================================================================
``on_process_event``       ``process_started``, ``process_ended``, ``process_restart`` or
                           ``resource_limit_exceeded``, and a dict: ``pid`` or ``container``, ``status``, ``attempt``;
                           ``resource`` (``memory_mb`` or ``cpu_percent``), ``limit``, ``value``
``on_connection_event``    ``connected``, ``disconnected``, ``retry`` or ``circuit``, and a dict
``on_lifecycle_event``     ``connecting``, ``connected``, ``disconnected`` or ``error``, and a dict
``on_streaming_progress``  bytes received, and total bytes or None
``on_retry_attempt``       the number of the attempt, the name of the error, the delay in seconds
``on_error``               ``connection_lost``, ``auth_failed``, ``rate_limited`` or ``server_error``, and a dict
=========================  =============================================================================

They run where observers run, one after the other, and never on a reader thread; one that raises is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..observe import (
    CircuitChanged,
    Connected,
    Connecting,
    ContainerEnded,
    ContainerStarted,
    Disconnected,
    Event,
    LimitExceeded,
    Observer,
    ProcessEnded,
    ProcessStarted,
    Restarted,
    Retried,
    Streaming,
    Trouble,
)

Named = dict[type[Any], str]

PROCESS: Named = {
    ProcessStarted: "process_started",
    ProcessEnded: "process_ended",
    ContainerStarted: "process_started",
    ContainerEnded: "process_ended",
    Restarted: "process_restart",
    LimitExceeded: "resource_limit_exceeded",
}
CONNECTION: Named = {
    Connected: "connected",
    Disconnected: "disconnected",
    Retried: "retry",
    CircuitChanged: "circuit",
}
LIFECYCLE: Named = {
    Connecting: "connecting",
    Connected: "connected",
    Disconnected: "disconnected",
    Trouble: "error",
}


def named(names: Named, function: Callable[[str, dict[str, Any]], Any]) -> Observer:
    """Return an observer of these events that calls ``function(name, data)``."""

    def observer(event: Event) -> None:
        name = names.get(type(event))
        if name is not None:
            function(name, asdict(event))

    return observer


def progress(function: Callable[[int, int | None], Any]) -> Observer:
    """Return an observer that calls ``function(received, total)``."""

    def observer(event: Event) -> None:
        if isinstance(event, Streaming):
            function(event.received, event.total)

    return observer


def retries(function: Callable[[int, str, float], Any]) -> Observer:
    """Return an observer that calls ``function(attempt, error, delay)``."""

    def observer(event: Event) -> None:
        if isinstance(event, Retried):
            function(event.attempt, event.error, event.delay)

    return observer


def errors(function: Callable[[str, dict[str, Any]], Any]) -> Observer:
    """Return an observer that calls ``function(kind, details)``."""

    def observer(event: Event) -> None:
        if isinstance(event, Trouble):
            function(event.kind, dict(event.details))

    return observer
