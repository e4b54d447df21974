"""Servers: what is nested without end or full of keys, clients that are gone, what is promised by default, prefork.

FAULTS.md, 5.6, as far as no other file here shows it with its bound.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from faults.tools import within
from faults.ws_server import TEXT
from server.web import META, STATELESS, Web
from server.wire import wire_to
from server.ws_guests import guest

from house import growth
from mcp_sync import Client
from mcp_sync.deadlines import Deadline
from mcp_sync.policies import Limits
from mcp_sync.server import Context, Server
from mcp_sync.server.hosting import HttpHost
from mcp_sync.server.websocket import WebSocketHost

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 15.0
NOW = 1.0
DEEP = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server("s")
    made.tool(name="count")(lambda values: len(values))  # type: ignore[misc]
    yield made
    made.close()


@pytest.fixture
def web(server: Server) -> Iterator[Web]:
    with closing(server.wsgi_app()) as app:
        yield Web(app)


@contextmanager
def hosted(server: Server) -> Iterator[HttpHost]:
    app = server.wsgi_app()
    with HttpHost(app, port=0, on_close=app.close) as host:
        yield host


# -- limits before anything is done ------------------------------------------------------------------------------------


def test_what_is_nested_without_end_is_refused_at_once_by_http_websocket_and_pipes(server: Server, web: Web) -> None:
    """B34: and the next message is answered."""
    with within(NOW):
        reply = web.post(DEEP)
    assert (reply.status, reply.json["error"]["code"]) == (400, -32700)
    assert web.ask("tools/list").status == 200
    with wire_to(server) as wire, within(NOW):
        wire.raw(DEEP)
        assert wire.next()["error"]["code"] == -32700
        assert wire.result("tools/list")["tools"]
    host = WebSocketHost(server.serve, port=0)
    host.start()
    try:
        with within(NOW), guest(host) as client:
            client.send(TEXT, DEEP)
            assert client.message()["error"]["code"] == -32700
    finally:
        host.close(Deadline(PATIENCE))


def test_a_body_full_of_keys_costs_what_its_size_costs(web: Web) -> None:
    """There is no limit on keys but that on bytes, so none may cost more than its bytes."""

    def post(keys: int) -> Callable[[], object]:
        arguments = {"values": {f"key {number}": number for number in range(keys)}}
        meta = {META + "protocolVersion": STATELESS, META + "clientCapabilities": {}}
        params = {"name": "count", "arguments": arguments, "_meta": meta}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        headers = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": "tools/call", "Mcp-Name": "count"}

        def work() -> None:
            reply = web.post(body, headers)
            assert reply.status == 200, reply.content
            assert json.loads(reply.content)["result"]["content"][0]["text"] == str(keys)

        return work

    growth.at_most(post(20_000), post(80_000), times=8, slack=0.1)


# -- clients that are gone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [True, False], ids=["it goes on", "it is silent then"])
def test_a_tool_that_has_said_something_learns_within_a_second_that_its_client_is_gone(
    server: Server, goes_on: bool
) -> None:
    """By a write that fails, or by looking. A tool that has said nothing yet may learn it later: by a heartbeat."""
    began, over, heard = (threading.Event() for _ in range(3))

    def work(context: Context) -> None:
        context.progress(1)
        began.set()
        while not context.wait(0.01):
            if goes_on:
                context.progress(2)
        over.set()

    server.tool(name="work")(work)
    with hosted(server) as host:
        client = Client(host.url, protocol_version=STATELESS, timeout=PATIENCE).connect()
        client.submit_tool("work", on_progress=lambda *_: heard.set())
        assert began.wait(PATIENCE)
        assert heard.wait(PATIENCE)
        with within(NOW):
            client.close()
            assert over.wait(PATIENCE)


# -- what is promised by default ---------------------------------------------------------------------------------------


def test_by_default_a_half_open_websocket_is_found_in_forty_seconds_and_there_are_a_thousand_at_most() -> None:
    parameters = inspect.signature(WebSocketHost).parameters
    assert parameters["ping_interval"].default + parameters["ping_timeout"].default <= 40.0
    assert parameters["max_connections"].default == 1000
    assert parameters["limits"].default is None
    assert Limits().message_size == 16 << 20


# -- prefork -----------------------------------------------------------------------------------------------------------

IMPORTED = """
import os, threading
descriptors = set(os.listdir("/proc/self/fd"))
from mcp_sync.server import MemorySessionStore, Server
from mcp_sync.server.websocket import WebSocketHost
server = Server("s")
server.tool(name="add")(lambda a, b: a + b)
app = server.wsgi_app(store=MemorySessionStore())
host = WebSocketHost(server.serve, port=0)
assert threading.active_count() == 1, threading.enumerate()
assert set(os.listdir("/proc/self/fd")) == descriptors
"""


def test_a_server_that_is_only_made_starts_no_thread_and_opens_nothing() -> None:
    """So that whoever forks after the import, as gunicorn does with --preload, shares nothing by it."""
    code = textwrap.dedent(IMPORTED)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
