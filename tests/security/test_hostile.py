"""Peers that mean harm: what they say gives no orders to a terminal, forges no line of a log, adds no header."""

from __future__ import annotations

import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from faults import ws_server
from faults.http_server import Exchange, Server, replies
from faults.tools import PATIENCE, tool, works
from server.web import META, Web

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPError, StdioTransport, ToolError
from mcp_sync.exceptions import printable
from mcp_sync.server import Server as Application

EVIL = "\x1b[2J\x1b]0;owned\x07\r\nCRITICAL root: all is well\r\n\x9b31m\u202e\x00\x7f"
ORDERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Lines(logging.Handler):
    """Keeps the lines of a log as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Give the messages that were logged; in the end none may have held an order or a line that is not ours."""
    handler, log = Lines(), logging.getLogger("mcp_sync")
    log.addHandler(handler)
    before, log.level = log.level, logging.DEBUG
    yield handler.written
    log.removeHandler(handler)
    log.setLevel(before)
    assert [text for text in handler.written if ORDERS.search(text) or "\n" in text] == []


def gives_no_orders(error: BaseException) -> None:
    """Check what a terminal is shown of an error."""
    __tracebackhide__ = True
    assert ORDERS.search(str(error)) is None, ascii(str(error))
    assert ORDERS.search(repr(error)) is None


# -- servers that mean harm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500, 503])
def test_no_text_of_a_server_over_http_gives_orders_to_a_terminal(status: int, lines: list[str]) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "error": {"code": -32000, "message": EVIL, "data": EVIL}})
    pages = {
        "application/json": body.replace('"id": 0', '"id": $ID'),
        "text/plain": EVIL,
        "text/html": f"<pre>{EVIL}",
    }
    with Server() as server, Client(server.url, timeout=PATIENCE) as client:
        for content_type, page in pages.items():
            server.on["work"] = replies(status, page, content_type=content_type)
            with pytest.raises(MCPError) as found:
                client.call_tool("work")
            gives_no_orders(found.value)
        works(client)


def test_what_a_server_said_is_still_there_for_programs() -> None:
    error = JSONRPCError(-32000, EVIL, {"a": EVIL})
    assert (error.message, error.args[0], error.data) == (EVIL, EVIL, {"a": EVIL})
    gives_no_orders(error)
    assert str(JSONRPCError(-1, "two\nlines,\tß and 日本")) == "two\nlines,\tß and 日本 (JSON-RPC error -1)"
    gives_no_orders(ToolError(EVIL, tool="x"))


@pytest.mark.parametrize("text", ["", "plain", "ß日本", "a\nb\tc"])
def test_a_text_without_orders_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", [EVIL, "\ud800", "\u2028", "\x85", "\r"])
def test_a_text_with_orders_is_written_out(text: str) -> None:
    shown = printable(text, kept="")
    assert shown.isprintable()
    assert len(shown) > len(text)


def test_the_reason_of_a_websockets_end_gives_no_orders(lines: list[str]) -> None:
    def leaves(exchange: ws_server.Exchange) -> None:
        exchange.send(ws_server.closing(1008, EVIL[:40]))
        exchange.close()

    with ws_server.Server(on={"work": leaves}) as server, Client(server.url, timeout=PATIENCE) as client:
        with pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        gives_no_orders(found.value)


PROGRAM = """
import json, sys
evil = json.loads(sys.argv[1])
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        about = {"capabilities": {"tools": {}}, "serverInfo": {"name": evil, "version": evil}, "instructions": evil}
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"protocolVersion": "2025-11-25", **about}}
        print(json.dumps(answer), flush=True)
    elif message.get("method") == "tools/call":
        print("noise", evil.replace("\\n", ""), flush=True)
        print(evil, file=sys.stderr, flush=True)
        sys.exit(3)
    elif "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -1, "message": evil}}), flush=True)
"""


def test_the_stderr_of_a_server_gives_no_orders(lines: list[str]) -> None:
    command = [sys.executable, "-I", "-c", textwrap.dedent(PROGRAM), json.dumps(EVIL)]
    with Client(StdioTransport(command, timeout=PATIENCE)) as client:
        assert ORDERS.search(repr(client)) is None
        with pytest.raises(MCPConnectionError) as found:
            client.call_tool("work")
        gives_no_orders(found.value)


def test_no_argument_and_no_name_adds_a_header() -> None:
    """basic/transports (2026-07-28): names and marked arguments are mirrored in headers."""
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    heard: list[dict[str, str]] = []

    def note(exchange: Exchange) -> None:
        heard.append(exchange.request.headers)
        exchange.send(exchange.plain)

    evil = "a\r\nX-Evil: 1\r\n\r\nPOST /evil HTTP/1.1\r\n\r\n"
    with Server(tools=[{"name": "work", "inputSchema": schema}], on={"work": note}) as server:
        with Client(server.url, timeout=PATIENCE) as client:
            client.list_tools()
            for value in (evil, "\x00", " a ", "é\u20ac", "=?base64?" + "x" * 20):
                assert tool(client, "work", region=value) == {"region": value}
            for name in (evil, "work\n", "\x00"):
                with pytest.raises((MCPError, ValueError)):
                    client.call_tool(name)
            works(client)
        assert len(heard) == 5
        assert not [request for request in server.requests if "x-evil" in request.headers]
        assert {request.target for request in server.requests} == {"/mcp"}


# -- clients that mean harm --------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[Web]:
    """Give a mounted server."""
    server = Application("target")

    @server.tool()
    def greet(name: str) -> str:
        if "fail" in name:
            raise LookupError("no such name")
        return f"hello {name}"

    @server.resource("notes://{name}")
    def note(name: str) -> str:
        raise LookupError("no such note")

    app = server.wsgi_app()
    yield Web(app)
    app.close()


def test_no_client_chooses_the_id_of_its_session(web: Web) -> None:
    """Or one could be talked into a session that another knows."""
    chosen = "A" * 43
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    given = web.post(message, {"Mcp-Session-Id": chosen}).headers["Mcp-Session-Id"]
    assert given != chosen
    assert len(given) == 43
    assert web.request("GET", {"Accept": "text/event-stream", "Mcp-Session-Id": chosen}).status == 404


def test_no_two_sessions_look_alike(web: Web) -> None:
    ids = {str(web.greet().session_id) for _ in range(50)}
    assert len({one[:6] for one in ids}) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", one) for one in ids)


def test_no_client_writes_into_the_log(web: Web, lines: list[str]) -> None:
    evil = EVIL + "fail"
    calls = [
        ("tools/call", {"name": evil, "arguments": {}}),
        ("tools/call", {"name": "greet", "arguments": {"name": evil}}),
        ("tools/call", {"name": "greet", "arguments": {evil: 1}}),
        ("resources/read", {"uri": f"notes://{evil}"}),
        ("resources/read", {"uri": "notes://a%0d%0aCRITICAL%1b[2J"}),
        ("prompts/get", {"name": evil}),
        (evil, {}),
    ]
    for method, params in calls:
        assert web.ask(method, params, headers={"Mcp-Name": None, "Mcp-Method": None}).status in (200, 400, 404)
        visit = web.greet()
        assert visit.ask(method, params).content
    assert web.ask("tools/list", meta={META + "clientInfo": {"name": evil, "version": evil}}).status == 200
    assert web.post(evil.encode()).status == 400


def test_nothing_that_a_client_says_is_in_a_header_of_the_answer(web: Web) -> None:
    said: dict[str, str] = dict.fromkeys(("Origin", "Host", "Last-Event-ID", "Mcp-Session-Id", "Accept"), "evil-canary")
    for name, value in said.items():
        for reply in (web.ask("tools/list", headers={name: value}), web.request("GET", {name: value})):
            assert "evil-canary" not in repr(reply.headers), name
            assert all(set(text).isdisjoint("\r\n\0") for pair in reply.headers.items() for text in pair)


def test_a_tool_may_fail_with_any_text_and_the_client_is_safe(lines: list[str]) -> None:
    server: Any = Application("target")

    @server.tool()
    def work() -> str:
        raise ValueError(EVIL)

    logging.getLogger("mcp_sync").setLevel(logging.CRITICAL)  # the traceback is the application's, line by line
    with Client(server) as client:
        result = client.call_tool("work")
        with pytest.raises(ToolError) as found:
            result.raise_for_error()
        gives_no_orders(found.value)
