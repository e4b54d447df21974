"""Decorators of a transport (T6): what they are called with, where they run, and that they hurt nothing."""

from __future__ import annotations

import queue
import sys
import threading
from typing import Any

import pytest
from faults.http_server import Server, replies, streams
from faults.tools import works

from mcp_sync import Client, JSONRPCError, MCPConnectionError, RateLimited, ServerError, StdioTransport
from mcp_sync import StreamableHTTPTransport as HTTP

T = 10.0


class Heard:
    """Keeps what a listener is called with, and on which thread."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.threads: set[str] = set()

    def __call__(self, *args: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.put(args)

    def next(self) -> tuple[Any, ...]:
        return self.calls.get(timeout=T)

    def names(self, count: int) -> list[Any]:
        return [self.next()[0] for _ in range(count)]


def test_a_connection_and_its_life_are_told() -> None:
    with Server("handshake") as server:
        transport = HTTP(server.url)
        connection, life = Heard(), Heard()
        assert transport.on_connection_event(connection) is connection
        assert transport.on_lifecycle_event(life) is life
        with Client(transport, timeout=T) as client:
            works(client)
        assert life.names(3) == ["connecting", "connected", "disconnected"]
        name, data = connection.next()
        assert (name, data["version"]) == ("connected", "2025-11-25")
        assert connection.next()[0] == "disconnected"
        assert all("events" in thread for thread in connection.threads | life.threads)


@pytest.mark.parametrize(
    ("status", "header", "error", "kind"),
    [(503, "X: y", ServerError, "server_error"), (429, "Retry-After: 7", RateLimited, "rate_limited")],
)
def test_trouble_is_told_by_its_name(status: int, header: str, error: type[Exception], kind: str) -> None:
    with Server(on={"work": replies(status, "no", header, content_type="text/plain")}) as server:
        transport, heard = HTTP(server.url), Heard()
        transport.on_error(heard)
        with Client(transport, timeout=T) as client, pytest.raises(error):
            client.call_tool("work")
        told, data = heard.next()
        assert (told, data["status"], data.get("retry_after")) == (kind, status, 7.0 if status == 429 else None)


def test_a_lost_connection_is_told() -> None:
    with Server() as server:
        url = server.url
    transport, heard = HTTP(url), Heard()
    transport.on_error(heard)
    with pytest.raises(MCPConnectionError):
        Client(transport, timeout=T).connect()
    assert heard.next()[0] == "connection_lost"


def test_each_retry_is_told_with_its_number_and_its_delay() -> None:
    with Server(on={"tools/list": [replies(503, "no", content_type="text/plain")] * 2}) as server:
        transport, heard = HTTP(server.url, max_retries=2, retry_delay=0.01, retry_jitter=0.0), Heard()
        transport.on_retry_attempt(heard)
        with Client(transport, timeout=T) as client:
            client.list_tools()
        assert [heard.next(), heard.next()] == [(1, "ServerError", 0.01), (2, "ServerError", 0.02)]


def test_a_message_is_given_to_who_wants_its_method_and_one_that_raises_hurts_nobody() -> None:
    news = 'data: {"jsonrpc": "2.0", "method": "notifications/weather", "params": {"rain": true}}\n\n'
    with Server("handshake", on={"work": streams(news, news)}) as server:
        transport, heard = HTTP(server.url), Heard()

        @transport.route_message("notifications/weather")
        def broken(message: dict[str, Any]) -> None:
            raise ValueError(message)

        transport.route_message("notifications/weather")(heard)
        transport.route_message("notifications/other")(pytest.fail)
        with Client(transport, timeout=T) as client:
            client.call_tool("work")
            assert heard.next()[0]["params"] == {"rain": True}
            assert heard.next()[0]["method"] == "notifications/weather"


def test_a_process_is_told_when_it_starts_and_when_it_ends() -> None:
    transport, heard = StdioTransport([sys.executable, "-m", "mcp_sync.testing.partner"]), Heard()
    transport.on_process_event(heard)
    with transport.create_session(T):
        name, data = heard.next()
        assert name == "process_started"
        assert data["pid"] > 0
    assert heard.next()[0] == "process_ended"


@pytest.mark.parametrize("name", ["on_error", "on_retry_attempt", "on_connection_event", "on_streaming_progress"])
def test_what_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="an observer must be callable, not str"):
        getattr(HTTP("http://127.0.0.1:1/"), name)("me")


def test_the_method_to_route_is_not_forgotten() -> None:
    with pytest.raises(TypeError, match="write @transport.route_message"):
        HTTP("http://127.0.0.1:1/").route_message(print)  # type: ignore[arg-type]


def test_a_tool_whose_headers_have_changed_is_listed_again_and_called_again_once() -> None:
    """E18, SEP-2243: the server refuses the call before it runs."""
    refusal = replies(400, '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32020, "message": "no Mcp-Param-Region"}}')
    with Server(on={"work": [refusal]}) as server, Client(server.url, timeout=T) as client:
        client.call_tool("work")
        assert len(server.calls("work")) == 2
        assert len(server.posts("tools/list")) == 1
    with Server(on={"work": [refusal, refusal]}) as server, Client(server.url, timeout=T) as client:
        with pytest.raises(JSONRPCError, match="no Mcp-Param-Region"):
            client.call_tool("work")
        assert len(server.calls("work")) == 2


def test_a_streaming_request_over_http_yields_what_comes_and_then_the_result() -> None:
    """T4"""
    log = 'data: {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}\n\n'
    with Server("handshake", on={"work": streams(log)}) as server, HTTP(server.url).create_session(T) as session:
        items = list(session.send_streaming_request("tools/call", {"name": "work", "arguments": {}}))
        assert [item.get("method", "result") for item in items] == ["notifications/message", "result"]
