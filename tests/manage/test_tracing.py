"""Tracing: a span for each request, its context in the request's ``_meta``, and nothing where nobody asked for it."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from faults.http_server import Server, replies
from faults.http_streams import OldServer
from faults.http_tools import Gate, is_silent_about
from faults.tools import PATIENCE, until
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_sync import (
    Client,
    JSONRPCError,
    MCPError,
    MCPTimeoutError,
    MemoryTransport,
    StreamableHTTPTransport,
    Tracing,
    TransportManager,
)
from mcp_sync.manage.tracing import BUCKETS, instrument
from mcp_sync.server import Context
from mcp_sync.server import Server as Application
from mcp_sync.transports.http import UrlTransport

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Records:
    """What was recorded."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    @property
    def providers(self) -> dict[str, Any]:
        """For Tracing."""
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    @property
    def spans(self) -> list[ReadableSpan]:
        """All spans that have ended."""
        return list(self.exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        """The one span of a name, once it is there."""
        until(lambda: [one for one in self.spans if one.name == name])
        [found] = [one for one in self.spans if one.name == name]
        return found

    def measured(self) -> list[Any]:
        """The data points of the one metric."""
        data = self._reader.get_metrics_data()
        assert data is not None
        [metric] = data.resource_metrics[0].scope_metrics[0].metrics
        assert (metric.name, metric.unit) == ("mcp.client.operation.duration", "s")
        return list(metric.data.data_points)


@pytest.fixture
def records() -> Iterator[Records]:
    made = Records()
    yield made
    made.tracer_provider.shutdown()
    made.meter_provider.shutdown()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("stateless") as made:
        yield made


def traced(server: Server, records: Records, **about: Any) -> Client:
    client = Client(server.url, timeout=PATIENCE, **about)
    return Tracing(**records.providers).instrument(client)


# -- spans ------------------------------------------------------------------------------------------------------------


def test_a_tool_call_has_a_span_by_the_conventions(server: Server, records: Records) -> None:
    with traced(server, records) as client:
        client.call_tool("echo", {"a": "private"})
    span = records.span("tools/call echo")
    assert span.kind is trace.SpanKind.CLIENT
    assert span.status.status_code is trace.StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2026-07-28",
        "gen_ai.tool.name": "echo",
        "gen_ai.operation.name": "execute_tool",
        "jsonrpc.request.id": str(server.calls("echo")[0].id),
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "mcp_sync"


def test_the_server_is_told_the_context_and_the_applications_span_is_the_parent(
    server: Server, records: Records
) -> None:
    tracer = records.tracer_provider.get_tracer("app")
    with traced(server, records) as client, tracer.start_as_current_span("app") as parent:
        token = context.attach(baggage.set_baggage("user", "ann"))
        try:
            client.call_tool("echo", meta={"mine": 1})
        finally:
            context.detach(token)
    span = records.span("tools/call echo")
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id
    meta = server.calls("echo")[0].params["_meta"]
    assert meta["traceparent"].startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")
    assert meta["baggage"] == "user=ann"
    assert meta["mine"] == 1
    assert "io.modelcontextprotocol/protocolVersion" in meta


def test_a_context_that_the_application_says_itself_is_left_alone(server: Server, records: Records) -> None:
    with traced(server, records) as client:
        token = context.attach(baggage.set_baggage("user", "ann"))
        client.call_tool("echo", meta={"traceparent": TRACEPARENT})
        context.detach(token)
    meta = server.calls("echo")[0].params["_meta"]
    assert meta["traceparent"] == TRACEPARENT
    assert not {"tracestate", "baggage"} & set(meta)


def test_each_kind_of_request_has_its_name(records: Records) -> None:
    app = Application("s")

    @app.resource("data://{name}")
    def data(name: str) -> str:
        return name

    @app.prompt()
    def hello() -> str:
        return "hi"

    client = Tracing(**records.providers).instrument(Client(MemoryTransport(app, timeout=PATIENCE)))
    with client:
        with pytest.raises(JSONRPCError, match="no resource"):
            client.read_resource("data://user:s3cret@x?key=1")
        client.get_prompt("hello")
        client.list_prompts()
    span = records.span("resources/read")
    assert (span.attributes or {})["mcp.resource.uri"] == "data://x?***"
    assert "s3cret" not in span.to_json()
    assert (records.span("prompts/get hello").attributes or {})["gen_ai.prompt.name"] == "hello"
    attributes = records.span("prompts/list").attributes or {}
    assert attributes["network.transport"] == "pipe"
    assert "server.address" not in attributes


def test_submitted_calls_have_spans_of_their_own_which_end_in_time(server: Server, records: Records) -> None:
    gate = Gate()
    server.set(work=gate)
    with traced(server, records) as client:
        futures = [client.submit_tool("work", {"n": n}) for n in range(3)]
        until(lambda: gate.waiting == 3)
        assert not [one for one in records.spans if one.name == "tools/call work"]
        gate.open()
        for future in futures:
            future.result(PATIENCE)
        until(lambda: len(records.spans) >= 3)
    spans = [one for one in records.spans if one.name == "tools/call work"]
    asked = {request.params["_meta"]["traceparent"].split("-")[2] for request in server.calls("work")}
    assert asked == {f"{one.context.span_id:016x}" for one in spans}
    assert {(one.attributes or {})["jsonrpc.request.id"] for one in spans} == {
        str(request.id) for request in server.calls("work")
    }


def test_a_submitted_call_that_is_cancelled_has_a_span_that_says_so(server: Server, records: Records) -> None:
    gate = Gate()
    server.set(work=gate)
    with traced(server, records) as client:
        future = client.submit_tool("work")
        until(lambda: gate.waiting)
        assert future.cancel()
        assert (records.span("tools/call work").attributes or {})["error.type"] == "CancelledError"


def test_a_span_is_current_while_a_call_lasts(records: Records) -> None:
    """So that log records, and spans of whatever is called meanwhile, belong to it."""
    seen: list[int] = []
    app = Application("s")

    @app.tool()
    def work() -> str:
        return "done"

    transport = MemoryTransport(app, timeout=PATIENCE)

    class Watching:
        inline = True

        def __call__(self, event: Any) -> None:
            seen.append(trace.get_current_span().get_span_context().span_id)

    transport.observe(watching := Watching())
    with Tracing(**records.providers).instrument(Client(transport)) as client:
        client.call_tool("work")
    assert records.span("tools/call work").context.span_id in seen
    transport.unobserve(watching)


# -- failures ---------------------------------------------------------------------------------------------------------


FAILURES: dict[str, tuple[Any, dict[str, str], str]] = {
    "an error of the server": (
        replies(200, '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32602, "message": "no such thing"}}'),
        {"error.type": "-32602", "rpc.response.status_code": "-32602"},
        "no such thing",
    ),
    "a status": (replies(503, "no"), {"error.type": "503"}, "HTTP 503"),
    "a tool that failed": (
        replies(200, '{"jsonrpc":"2.0","id":$ID,"result":{"resultType":"complete","content":[],"isError":true}}'),
        {"error.type": "tool_error"},
        "",
    ),
    "silence": (Gate(), {"error.type": "timeout"}, "timed out"),
}


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("submitted", [False, True], ids=["call", "submit"])
def test_a_failure_is_one_in_its_span_and_in_the_metric(
    how: str, submitted: bool, server: Server, records: Records
) -> None:
    manner, wanted, text = FAILURES[how]
    server.set(work=manner)
    with traced(server, records) as client:
        try:
            if submitted:
                client.submit_tool("work", timeout=0.3).result()
            else:
                client.call_tool("work", timeout=0.3)
        except (JSONRPCError, MCPTimeoutError, MCPError):
            pass
        span = records.span("tools/call work")
    attributes = dict(span.attributes or {})
    assert {key: attributes.get(key) for key in wanted} == wanted
    assert ("rpc.response.status_code" in attributes) is ("rpc.response.status_code" in wanted)
    assert span.status.status_code is trace.StatusCode.ERROR
    assert text in (span.status.description or "")
    assert not span.events
    [point] = [one for one in records.measured() if one.attributes["mcp.method.name"] == "tools/call"]
    assert point.attributes["error.type"] == wanted["error.type"]


def test_the_metric_has_the_buckets_and_the_few_labels_of_the_conventions(server: Server, records: Records) -> None:
    with traced(server, records) as client:
        for _ in range(5):
            client.call_tool("echo")
    [point] = [one for one in records.measured() if one.attributes["mcp.method.name"] == "tools/call"]
    assert (point.count, tuple(point.explicit_bounds)) == (5, BUCKETS)
    assert not {"jsonrpc.request.id", "mcp.session.id", "mcp.resource.uri"} & set(point.attributes)
    assert point.attributes["gen_ai.tool.name"] == "echo"


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_neither_arguments_nor_results_nor_credentials_nor_sessions_are_recorded(records: Records) -> None:
    """I12."""
    canary = "c4naryS3cret"
    with Server("handshake", on={"broken": replies(500, canary)}) as server:
        url = server.url.replace("http://", f"http://user:{canary}@") + f"?key={canary}"
        client = Client(url, headers={"X-Api-Key": canary}, timeout=PATIENCE)
        with Tracing(**records.providers).instrument(client):
            client.call_tool("echo", {"secret": canary})
            with pytest.raises(MCPError):
                client.call_tool("broken")
    for span in records.spans:
        is_silent_about(canary, span.to_json())
        assert "session-1" not in span.to_json()


def test_the_id_of_the_session_is_recorded_for_whoever_asks_for_it(records: Records) -> None:
    with Server("handshake") as server:
        client = Client(server.url, timeout=PATIENCE)
        with Tracing(**records.providers, session_ids=True).instrument(client):
            client.ping()
    assert (records.span("ping").attributes or {})["mcp.session.id"] == "session-1"
    assert all("mcp.session.id" not in one.attributes for one in records.measured())


# -- what is traced ---------------------------------------------------------------------------------------------------


def test_what_nobody_traces_pays_nothing(server: Server) -> None:
    with Client(server.url, timeout=PATIENCE) as client:
        client.call_tool("echo")
        assert "converse" not in vars(client.transport)
        assert not client.transport._observers
    assert "traceparent" not in server.calls("echo")[0].params["_meta"]


def test_without_an_sdk_nothing_is_said_and_nothing_fails(server: Server) -> None:
    with instrument(Client(server.url, timeout=PATIENCE)) as client:
        client.call_tool("echo")
    assert "traceparent" not in server.calls("echo")[0].params["_meta"]


def test_a_session_of_an_instrumented_transport_is_traced(server: Server, records: Records) -> None:
    transport = Tracing(**records.providers).instrument(StreamableHTTPTransport(server.url, timeout=PATIENCE))
    with transport.create_session() as session:
        session.send_request("tools/call", {"name": "echo", "arguments": {}})
        session.send_notification("notifications/odd")
    assert "traceparent" in server.calls("echo")[0].params["_meta"]
    assert records.span("tools/call echo")
    assert "jsonrpc.request.id" not in (records.span("notifications/odd").attributes or {})
    assert "traceparent" in server.posts("notifications/odd")[0].params["_meta"]


def test_a_repeated_call_is_one_span(server: Server, records: Records) -> None:
    server.set(**{"tools/list": [replies(503, "no"), replies(503, "no")]})
    client = Tracing(**records.providers).instrument(
        Client(server.url, timeout=PATIENCE, max_retries=3, retry_delay=0.01)
    )
    with client:
        client.list_tools()
    attributes = records.span("tools/list").attributes or {}
    assert attributes["jsonrpc.request.id"] == str(server.posts("tools/list")[-1].id)
    assert len(server.posts("tools/list")) == 3


def test_a_conversation_that_falls_back_to_http_sse_is_traced_once(records: Records) -> None:
    with OldServer() as server:
        transport = Tracing(**records.providers).instrument(UrlTransport(server.url, timeout=PATIENCE))
        for _ in range(2):
            with Client(transport) as client:
                client.list_tools()
        until(lambda: len(records.spans) == 2)
        assert [one.name for one in records.spans] == ["tools/list"] * 2


def test_a_client_of_a_manager_is_traced_wherever_its_calls_go(server: Server, records: Records) -> None:
    with TransportManager() as manager:
        manager.register_transport("near", StreamableHTTPTransport(server.url, timeout=PATIENCE))
        with Tracing(**records.providers).instrument(Client(manager.endpoint("near"))) as client:
            client.call_tool("echo")
    assert "traceparent" in server.calls("echo")[0].params["_meta"]
    assert (records.span("tools/call echo").attributes or {})["gen_ai.tool.name"] == "echo"


def test_what_is_traced_no_more_is_as_before(server: Server, records: Records) -> None:
    tracing, transport = Tracing(**records.providers), StreamableHTTPTransport(server.url, timeout=PATIENCE)
    tracing.instrument(transport)
    with pytest.raises(ValueError, match="already"):
        tracing.instrument(transport)
    tracing.uninstrument(transport)
    with Client(transport) as client:
        client.call_tool("echo")
        with pytest.raises(ValueError, match="connected already"):
            tracing.instrument(client)
    assert records.spans == []


def test_an_instrumented_transport_is_forgotten_as_any_other(server: Server, records: Records) -> None:
    transport = Tracing(**records.providers).instrument(StreamableHTTPTransport(server.url))
    gone = weakref.ref(transport)
    gc.disable()
    try:
        del transport
        assert gone() is None  # not even a cycle
    finally:
        gc.enable()


@pytest.mark.parametrize("target", ["http://host/mcp", None, StreamableHTTPTransport])
def test_what_cannot_be_traced_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match="nothing to trace"):
        instrument(target)


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"pip install 'mcp-sync-transports\[otel\]'"):
        Tracing()


# -- the other end ----------------------------------------------------------------------------------------------------


def test_a_server_goes_on_with_the_trace(records: Records) -> None:
    app = Application("s")
    tracer = records.tracer_provider.get_tracer("server")

    @app.tool()
    def work(ctx: Context) -> str:
        with tracer.start_as_current_span("inside", context=Tracing.context_of(ctx.meta)):
            return "done"

    with Tracing(**records.providers).instrument(Client(MemoryTransport(app, timeout=PATIENCE))) as client:
        assert client.call_tool("work").text == "done"
    inside, outside = records.span("inside"), records.span("tools/call work")
    assert inside.parent is not None
    assert (inside.context.trace_id, inside.parent.span_id) == (outside.context.trace_id, outside.context.span_id)


def test_nonsense_in_meta_is_no_context(caplog: pytest.LogCaptureFixture) -> None:
    long = "a=b," * 100_000
    for meta in (
        {},
        {"traceparent": 7},
        {"traceparent": "nonsense"},
        {"traceparent": ["x"], "baggage": None},
        {"baggage": "\udfff=1", "traceparent": "\udfff"},
        {"traceparent": long, "tracestate": long, "baggage": long},
    ):
        assert not trace.get_current_span(Tracing.context_of(meta)).get_span_context().is_valid
    assert len(caplog.text) < 1000  # nobody fills our log
