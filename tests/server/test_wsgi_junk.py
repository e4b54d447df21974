"""Whatever arrives over HTTP, there is one answer to it, of the protocol's own kind, and the next request is served.

FAULTS.md 8: request bytes through a WSGI environment; I18.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server.web import META, STATELESS, Web

from mcp_sync.server import Context, Server

STATUSES = {200, 202, 204, 400, 401, 403, 404, 405, 406, 413, 415, 421, 503}
METHODS = ["tools/list", "tools/call", "server/discover", "initialize", "ping", "resources/read", "completion/complete"]
METHODS += ["logging/setLevel", "tasks/get", "notifications/cancelled", "notifications/initialized", "prompts/get", "x"]


@pytest.fixture
def web() -> Iterator[Web]:
    server = Server("junk")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def ask(context: Context) -> str:
        return context.elicit("?", {"type": "object", "properties": {}}).action

    @server.resource("a://{x}")
    def read(x: str) -> str:
        return x

    @server.prompt()
    def prompt(x: str) -> str:
        return x

    app = server.wsgi_app(max_body_size=100_000)
    yield Web(app)
    app.close()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
ids = st.none() | st.integers(-5, 5) | st.text(max_size=5) | st.booleans() | st.floats() | st.just([])
names = st.sampled_from(["add", "ask", "prompt", "a://b", "", "nothing", "é" * 9, "\x00"])
metas = st.fixed_dictionaries(
    {},
    optional={
        META + "protocolVersion": st.sampled_from([STATELESS, "2025-11-25", "x"]) | values,
        META + "clientCapabilities": st.just({"elicitation": {}}) | values,
        "progressToken": values,
    },
)
params = st.fixed_dictionaries(
    {},
    optional={
        "_meta": metas | values,
        "name": names | values,
        "uri": names | values,
        "arguments": st.fixed_dictionaries({}, optional={"a": values, "b": values, "x": values}) | values,
        "cursor": values,
        "level": values,
        "requestState": values,
        "inputResponses": values,
        "protocolVersion": st.sampled_from(["2025-11-25", "2025-03-26"]) | values,
        "ref": values,
        "argument": values,
        "requestId": values,
        "taskId": values,
    },
)
messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | values},
    optional={"id": ids, "method": st.sampled_from(METHODS) | values, "params": params | values, "result": values},
)
bodies = (
    st.binary(max_size=200)
    | st.lists(messages, max_size=4).map(lambda one: json.dumps(one).encode())
    | messages.map(lambda one: json.dumps(one).encode())
)
texts = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.just("application/json") | texts,
        "Accept": st.just("application/json, text/event-stream") | texts,
        "MCP-Protocol-Version": st.sampled_from([STATELESS, "2025-11-25", "2025-03-26"]) | texts,
        "Mcp-Session-Id": texts,
        "Mcp-Method": st.sampled_from(METHODS) | texts,
        "Mcp-Name": names.filter(str.isascii) | texts,
        "Last-Event-ID": texts,
        "Origin": texts,
        "Content-Length": texts,
    },
)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(method=st.sampled_from(["POST", "POST", "POST", "GET", "DELETE"]) | texts, body=bodies, headers=headers)
def test_whatever_comes_is_answered(web: Web, method: str, body: bytes, headers: dict[str, str]) -> None:
    usual = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    reply = web.request(method, {**usual, **headers}, body)
    content: Any = reply.content
    reply.close()
    assert reply.status in STATUSES
    if content and not reply.is_stream:
        answers = json.loads(content)
        for answer in answers if isinstance(answers, list) else [answers]:
            assert answer["jsonrpc"] == "2.0"
            assert ("result" in answer) != ("error" in answer)
            assert "Traceback" not in str(answer)
    good = web.ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    assert good.json["result"]["structuredContent"] == {"result": 3}
