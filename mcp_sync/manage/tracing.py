"""Tracing: a span of OpenTelemetry for each request, and its context in the request's ``_meta``, for the server.

::

    tracing = Tracing()                    # the global providers; or tracer_provider=..., meter_provider=...
    client = tracing.instrument(Client("https://host/mcp"))

Who does not ask for it pays nothing: what is not instrumented knows nothing of this module. The only one that imports
``opentelemetry``, and of that only the API: without an SDK nothing is recorded, nor sent.

Source: OpenTelemetry, semantic conventions for MCP (status: development); basic/index (2026-07-28): ``traceparent``,
``tracestate`` and ``baggage`` in ``_meta``; W3C Trace Context, W3C Baggage.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..deadlines import Deadline
from ..engine.caller import Caller, CallFuture, Question
from ..engine.connect import Introduction
from ..exceptions import HTTPStatusError, JSONRPCError, MCPTimeoutError
from ..observe import Called, Event
from ..policies import flag
from ..protocol.origins import origin_of
from ..protocol.redact import redact_url
from .wrapper import Wrapper

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, TracerProvider

R = TypeVar("R")
T = TypeVar("T")

BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of ``mcp.client.operation.duration``, in seconds, as the conventions want them."""
OF_THE_SPAN_ALONE = {"jsonrpc.request.id", "mcp.session.id", "mcp.resource.uri"}
"""Attributes of which there are too many for a metric."""
LONGEST_CONTEXT = 8192
"""Characters: the most that anybody has to take of a context; the API would log the whole of what it refuses."""
LONGEST_TEXT = 200
"""Characters of an error's text that become the description of a status."""

_PIPES = {"stdio", "docker", "memory"}
_PROTOCOLS = {"http": "http", "sse": "http", "websocket": "websocket"}


class Tracing:
    """Spans for the requests of clients, by the conventions for MCP.

    A span is named ``tools/call NAME``, ``prompts/get NAME``, or by its method; it is of the kind CLIENT, current while
    a blocking call lasts, and covers all its repeats. Its attributes are ``mcp.method.name``,
    ``mcp.protocol.version``, ``jsonrpc.request.id``, ``gen_ai.operation.name``, ``gen_ai.tool.name``,
    ``gen_ai.prompt.name``, ``mcp.resource.uri`` (without secrets), ``network.transport``, ``network.protocol.name``,
    ``server.address``, ``server.port``, and for a failure ``error.type`` and ``rpc.response.status_code``. Arguments
    and results are never recorded. The same without what is never the same twice is the metric
    ``mcp.client.operation.duration``. How a conversation begins (``initialize``) has no span.

    Args:
        tracer_provider: Makes spans; None is the global one.
        meter_provider: Makes metrics; None is the global one.
        propagator: Says the context; None is the global one, which is W3C's, of traces and baggage, unless configured.
        session_ids: Whether ``mcp.session.id`` is recorded; who knows the id of a session may be able to use it.

    Raises:
        ImportError: The API of OpenTelemetry is not installed: the extra is ``[otel]``.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
        session_ids: bool = False,
    ) -> None:
        trace, metrics, self._propagate = _library()
        self._trace = trace
        self._tracer = trace.get_tracer("mcp_sync", tracer_provider=tracer_provider)
        self._propagator = propagator or self._propagate
        self._session_ids = flag("session_ids", session_ids)
        meter = metrics.get_meter("mcp_sync", meter_provider=meter_provider)
        self._durations = meter.create_histogram(
            "mcp.client.operation.duration",
            unit="s",
            description="The duration of a request or notification, from when it was sent to its answer.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )

    def instrument(self, target: T) -> T:
        """Trace all conversations that begin from now on.

        Args:
            target: A Client, not yet connected, or a transport.

        Returns:
            The same.

        Raises:
            TypeError: It is neither.
            ValueError: It is traced already, or is a client that is connected.
        """
        transport = _transport_of(target)
        if "converse" in vars(transport):
            raise ValueError(f"{target!r} is traced already")
        if getattr(target, "transport", None) is transport and getattr(target, "connected", False):
            raise ValueError(f"{target!r} is connected already; trace it before that")
        plain = weakref.WeakMethod(transport.converse)
        numbers = RequestNumbers()
        place = _place_of(transport)
        session_id = partial(_session_id, weakref.ref(transport)) if self._session_ids else lambda: None

        def converse(introduction: Introduction, deadline: Deadline) -> Caller:
            begin = plain()
            assert begin is not None  # whoever calls this has the transport
            caller: Caller = begin(introduction, deadline)
            return Traced(caller, self, place, numbers, session_id)

        if callable(getattr(transport, "observe", None)):
            transport.observe(numbers)
        transport.converse = converse
        return target

    def uninstrument(self, target: T) -> T:
        """Trace no conversation that begins from now on; those that have begun still are."""
        vars(_transport_of(target)).pop("converse", None)
        return target

    @staticmethod
    def context_of(meta: Mapping[str, Any]) -> Context:
        """Return the context that came in the ``_meta`` of a request: the parent for the spans of a server.

        Args:
            meta: What is no text, is very long, or cannot be encoded is ignored: it comes from a client.

        Raises:
            ImportError: The API of OpenTelemetry is not installed.
        """
        context: Context = _library()[2].extract({key: one for key, one in meta.items() if _may_be_context(one)})
        return context

    # -- for Traced ---------------------------------------------------------------------------------------------------

    def begin(self, name: str, attributes: dict[str, Any]) -> Span:
        """Start a span."""
        span: Span = self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT, attributes=attributes)
        return span

    def dressed(self, span: Span, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return params that say the context in their ``_meta``, unless the application has said one."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=self._trace.set_span_in_context(span))
        meta = (params or {}).get("_meta", {})
        if not carrier or not isinstance(meta, Mapping) or "traceparent" in meta:
            return params
        return {**(params or {}), "_meta": {**carrier, **meta}}

    def current(self, span: Span) -> Any:
        """Return a context manager within which a span is the current one; what is raised there is none of its."""
        return self._trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)

    def failed(self, span: Span, description: str) -> None:
        """Give a span the status of a failure."""
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, description))

    def measure(self, seconds: float, attributes: Mapping[str, Any]) -> None:
        """Record a duration."""
        self._durations.record(seconds, {k: v for k, v in attributes.items() if k not in OF_THE_SPAN_ALONE})


def instrument(target: T, **about: Any) -> T:
    """Trace a Client or a transport, and return it: ``Tracing(**about).instrument(target)``."""
    return Tracing(**about).instrument(target)


class Operation:
    """One request, from when it is sent to its end.

    Attributes:
        method: Its method.
        params: Its params, with the context.
        span: Its span.
        request_id: The id of the last attempt, once there is one.
    """

    def __init__(
        self, tracing: Tracing, method: str, params: Mapping[str, Any] | None, attributes: dict[str, Any]
    ) -> None:
        self._tracing = tracing
        self._begun = time.perf_counter()
        self.method = method
        self.request_id: int | str | None = None
        said = _said_of(method, params or {})
        self._attributes = {"mcp.method.name": method, **attributes, **said}
        target = said.get("gen_ai.tool.name") or said.get("gen_ai.prompt.name")
        self.span = tracing.begin(f"{method} {target}" if target else method, self._attributes)
        self.params = tracing.dressed(self.span, params)

    def end(
        self,
        result: Mapping[str, Any] | None = None,
        error: BaseException | None = None,
        at: tuple[float, int] | None = None,
    ) -> None:
        """Take note of how it ended, and when: by ``perf_counter``, and in nanoseconds since 1970; None is now."""
        seconds, nanoseconds = at or (time.perf_counter(), time.time_ns())
        found: dict[str, Any] = {}
        if error is not None:
            found["error.type"] = _type_of(error)
            if isinstance(error, JSONRPCError):
                found["rpc.response.status_code"] = str(error.code)
            self._tracing.failed(self.span, redact_url(getattr(error, "message", str(error)))[:LONGEST_TEXT])
        elif result is not None and result.get("isError") is True:
            found["error.type"] = "tool_error"
            self._tracing.failed(self.span, "")
        self._tracing.measure(seconds - self._begun, {**self._attributes, **found})
        if self.request_id is not None:
            found["jsonrpc.request.id"] = str(self.request_id)
        self.span.set_attributes(found)
        self.span.end(nanoseconds)


class RequestNumbers:
    """The observer that knows the ids of requests: who calls is told on its own thread."""

    inline = True  # observe.py: it takes no time

    def __init__(self) -> None:
        self._here = threading.local()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Called):
            operation = getattr(self._here, "operation", None)
            if operation is not None and operation.method == event.method:
                operation.request_id = event.id

    @contextmanager
    def told_to(self, operation: Operation) -> Iterator[None]:
        """Tell the operation the ids of the requests that this thread sends meanwhile."""
        before = getattr(self._here, "operation", None)
        self._here.operation = operation
        try:
            yield
        finally:
            self._here.operation = before


class Traced(Wrapper):
    """A Caller whose requests have spans.

    Threads: the spans of calls that nobody waits for end on the lane.

    Args:
        caller: The one inside, with all its repeats.
        tracing: Makes spans.
        place: The attributes that say where the server is.
        numbers: Knows the ids of requests.
        session_id: Returns the id of the session, if it is to be recorded.
    """

    def __init__(
        self,
        caller: Caller,
        tracing: Tracing,
        place: Mapping[str, Any],
        numbers: RequestNumbers,
        session_id: Callable[[], str | None],
    ) -> None:
        super().__init__(caller)
        self._tracing = tracing
        self._place = place
        self._numbers = numbers
        self._session_id = session_id

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result; raises as Caller.call says."""
        operation = self._begin(question.method, question.params)
        asked = replace(question, params=operation.params)
        with self._watched(operation) as results:
            results.append(self._caller.call(asked, deadline))
        return results[0]

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer; raises as Caller.notify says."""
        operation = self._begin(method, params)
        with self._watched(operation):
            self._caller.notify(method, operation.params, deadline)

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future."""
        operation = self._begin(question.method, question.params)
        try:
            with self._tracing.current(operation.span):
                future = self._caller.submit(replace(question, params=operation.params), deadline)
        except BaseException as error:
            operation.end(error=error)
            raise
        operation.request_id = future.request_id
        # Not the future's own method, which would tell the time only when the lane comes to it.
        concurrent.futures.Future.add_done_callback(future, partial(self._over, operation))
        return future

    def _over(self, operation: Operation, future: concurrent.futures.Future[Any]) -> None:
        """End the span soon: on a reader thread an exporter must not take its time."""
        at = (time.perf_counter(), time.time_ns())
        self._caller.post(lambda: operation.end(*_outcome(future), at))

    def _begin(self, method: str, params: Mapping[str, Any] | None) -> Operation:
        attributes = {"mcp.protocol.version": self._caller.agreement.era.version, **self._place}
        session_id = self._session_id()
        if session_id:
            attributes["mcp.session.id"] = session_id
        return Operation(self._tracing, method, params, attributes)

    @contextmanager
    def _watched(self, operation: Operation) -> Iterator[list[dict[str, Any]]]:
        """Have the span be the current one, and end it; gives a list for the result."""
        results: list[dict[str, Any]] = []
        try:
            with self._tracing.current(operation.span), self._numbers.told_to(operation):
                yield results
        except BaseException as error:
            operation.end(error=error)
            raise
        operation.end(results[0] if results else None)


def _outcome(future: concurrent.futures.Future[Any]) -> tuple[Mapping[str, Any] | None, BaseException | None]:
    """Return the result of a future that is done, and its error; as they came, nothing is converted."""
    if future.cancelled():
        return None, concurrent.futures.CancelledError("cancelled by the caller")
    error = concurrent.futures.Future.exception(future, 0)
    return (None, error) if error is not None else (concurrent.futures.Future.result(future, 0), None)


# -- what is said of a request ----------------------------------------------------------------------------------------


def _said_of(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that its params give: what it is about, never what it is given."""
    name, uri = params.get("name"), params.get("uri")
    if method == "tools/call" and isinstance(name, str):
        return {"gen_ai.tool.name": name, "gen_ai.operation.name": "execute_tool"}
    if method == "prompts/get" and isinstance(name, str):
        return {"gen_ai.prompt.name": name}
    if method.startswith("resources/") and isinstance(uri, str):
        return {"mcp.resource.uri": redact_url(uri)}
    return {}


def _type_of(error: BaseException) -> str:
    if isinstance(error, JSONRPCError):
        return str(error.code)
    if isinstance(error, HTTPStatusError):
        return str(error.status)
    return "timeout" if isinstance(error, MCPTimeoutError) else type(error).__name__


def _transport_of(target: Any) -> Any:
    for one in (target, getattr(target, "transport", None)):
        if callable(getattr(one, "converse", None)) and hasattr(one, "__dict__") and not isinstance(one, type):
            return one
    raise TypeError(f"there is nothing to trace in {target!r}: give a Client or a transport")


def _place_of(transport: Any) -> dict[str, Any]:
    """Return the attributes that say where a server is, as far as its transport tells."""
    kind = getattr(transport, "transport_type", "")
    found: dict[str, Any] = {}
    if kind in _PIPES:
        found["network.transport"] = "pipe"
    if kind in _PROTOCOLS:
        found |= {"network.transport": "tcp", "network.protocol.name": _PROTOCOLS[kind]}
    url = getattr(transport, "url", None)
    if isinstance(url, str):
        origin = origin_of(url)
        found |= {"server.address": origin.host, "server.port": origin.port}
    return found


def _session_id(transport: Callable[[], Any]) -> str | None:
    found = getattr(transport(), "session_id", None)
    return found if isinstance(found, str) else None


def _may_be_context(value: object) -> bool:
    if not isinstance(value, str) or len(value) > LONGEST_CONTEXT:
        return False
    try:
        value.encode()
    except UnicodeError:  # half of a pair of surrogates, which JSON can say
        return False
    return True


def _library() -> tuple[Any, Any, Any]:
    try:
        from opentelemetry import metrics, propagate, trace
    except ImportError as error:
        text = "Tracing needs the API of OpenTelemetry: pip install 'mcp-sync-transports[otel]'"
        raise ImportError(text, name="opentelemetry") from error
    return trace, metrics, propagate
