"""HTTP+SSE: the stream, the POSTs, and that both end together. WIRE.md F."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from server.web import Reply, Web

from mcp_sync.credentials import APIKeyAuth
from mcp_sync.server import Context, Server
from mcp_sync.server.legacy import SseApp


def tools() -> Server:
    server = Server("old", version="1.0")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def name(context: Context) -> str:
        return f"{context.principal} {context.elicit('?', {'type': 'object', 'properties': {}}).action}"

    return server


@pytest.fixture
def mount() -> Iterator[Callable[..., Web]]:
    servers = []

    def mounted(**options: Any) -> Web:
        servers.append(tools())
        return Web(SseApp(servers[-1], **options), SCRIPT_NAME="/old")

    yield mounted
    for server in servers:
        server.close()


class Stream:
    """An open stream, and the way to POST to it."""

    def __init__(self, web: Web, reply: Reply, headers: dict[str, str]) -> None:
        self._web, self._headers = web, headers
        self.reply = reply
        self.events = reply.events()
        self.endpoint = next(self.events)

    def post(self, message: Any, **headers: str) -> Reply:
        path, _, query = self.endpoint["data"].partition("?")
        assert path == "/old/messages"
        own = {"Content-Type": "application/json", **self._headers, **headers}
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self._web.request("POST", own, body, PATH_INFO="/messages", QUERY_STRING=query)

    def ask(self, method: str, params: dict[str, Any], request_id: int = 1) -> Any:
        assert self.post({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).status == 202
        return json.loads(next(self.events)["data"])


def stream_of(web: Web, **headers: str) -> Stream:
    reply = web.request("GET", {"Accept": "text/event-stream", **headers}, PATH_INFO="/sse")
    assert reply.is_stream, reply.content
    return Stream(web, reply, headers)


def greeted(web: Web, **headers: str) -> Stream:
    stream = stream_of(web, **headers)
    params = {"protocolVersion": "2024-11-05", "capabilities": {"elicitation": {}}, "clientInfo": {"name": "t"}}
    assert stream.ask("initialize", params)["result"]["protocolVersion"] == "2024-11-05"
    return stream


def test_the_first_event_says_where_to_post(mount: Callable[..., Web]) -> None:
    stream = stream_of(mount())
    assert stream.endpoint["event"] == "endpoint"
    assert stream.endpoint["data"].startswith("/old/messages?session_id=")
    stream.reply.close()


def test_answers_and_questions_come_on_the_stream(mount: Callable[..., Web]) -> None:
    stream = greeted(mount())
    assert stream.ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})["result"]["isError"] is False
    asked = stream.ask("tools/call", {"name": "name"}, 7)
    assert asked["method"] == "elicitation/create"
    answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}
    assert stream.post(answer).status == 202
    answered = json.loads(next(stream.events)["data"])
    assert (answered["id"], answered["result"]["content"][0]["text"]) == (7, "None decline")
    stream.reply.close()


def test_what_cannot_be_read_is_answered_on_the_stream(mount: Callable[..., Web]) -> None:
    stream = greeted(mount())
    assert stream.post(b"{").status == 202
    assert json.loads(next(stream.events)["data"])["error"]["code"] == -32700
    assert stream.post(b"{}", **{"Content-Type": "text/plain"}).status == 415
    stream.reply.close()


def test_a_session_ends_with_its_stream(mount: Callable[..., Web]) -> None:
    web = mount()
    stream = greeted(web)
    stream.reply.close()
    assert stream.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 404


def test_a_session_is_its_principals_alone(mount: Callable[..., Web]) -> None:
    web = mount(auth=APIKeyAuth({"ann": "key-of-ann", "bob": "key-of-bob"}))
    assert web.request("GET", {"Accept": "text/event-stream"}, PATH_INFO="/sse").status == 401
    stream = greeted(web, **{"X-API-Key": "key-of-ann"})
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert stream.post(ping, **{"X-API-Key": "key-of-bob"}).status == 404
    assert stream.post(ping, **{"X-API-Key": "none"}).status == 401
    assert stream.post(ping).status == 202
    stream.reply.close()


def test_streams_are_capped(mount: Callable[..., Web]) -> None:
    web = mount(max_streams=1)
    stream = stream_of(web)
    reply = web.request("GET", {"Accept": "text/event-stream"}, PATH_INFO="/sse")
    assert reply.status == 503
    assert "Retry-After" in reply.headers
    stream.reply.close()
    stream_of(web).reply.close()


def test_paths_and_methods(mount: Callable[..., Web]) -> None:
    web = mount()
    assert web.request("GET", PATH_INFO="/other").status == 404
    assert web.request("POST", {"Content-Type": "application/json"}, b"{}", PATH_INFO="/sse").status == 405
    assert web.request("GET", PATH_INFO="/messages").status == 405
    assert web.request("GET", {"Origin": "http://evil.example.com"}, PATH_INFO="/sse").status == 403
    for path in ("sse", "/", 5):
        with pytest.raises(ValueError, match="sse_path must begin with a slash"):
            SseApp(tools(), sse_path=path)  # type: ignore[arg-type]
