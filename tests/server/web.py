"""A WSGI application called as a host would, without a socket: what goes in and what comes out, exactly."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

STATELESS = "2026-07-28"
META = "io.modelcontextprotocol/"


@dataclass
class Reply:
    """What the application answered; the body is read as far as it is asked for."""

    status: int
    headers: Mapping[str, str]
    body: Iterable[bytes] = field(repr=False)

    @property
    def content(self) -> bytes:
        """All of the body."""
        return b"".join(self.body)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of events."""
        return self.headers.get("Content-Type") == "text/event-stream"

    def events(self) -> Iterator[dict[str, str]]:
        """Yield the events of a stream as they come: their fields, comments left out."""
        for block in _blocks(iter(self.body)):
            fields = dict(line.split(": ", 1) if ": " in line else (line.rstrip(":"), "") for line in block.split("\n"))
            fields.pop("", None)
            if fields:
                yield fields

    def messages(self) -> Iterator[Any]:
        """Yield the messages of a stream."""
        return (json.loads(event["data"]) for event in self.events() if event.get("data"))

    def close(self) -> None:
        """End it, as a host does, whether it is read to its end or the client is gone."""
        close = getattr(self.body, "close", None)
        if close is not None:
            close()


def _blocks(pieces: Iterator[bytes]) -> Iterator[str]:
    text = ""
    for piece in pieces:
        text += piece.decode()
        *blocks, text = text.split("\n\n")
        yield from (block for block in blocks if not block.startswith(":"))
    assert not text


class Web:
    """Calls an application."""

    def __init__(self, app: Any, **environ: Any) -> None:
        self.app = app
        self._environ = environ

    def request(
        self, method: str, headers: Mapping[str, str] | None = None, body: bytes = b"", **environ: Any
    ) -> Reply:
        """Send a request as it is given."""
        fields = {"Host": "localhost:8000", **(headers or {})}
        known = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "/mcp",
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": io.BytesIO(body),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.url_scheme": "http",
            **({"CONTENT_LENGTH": str(len(body))} if body else {}),
        }
        for name, value in fields.items():
            key = name.upper().replace("-", "_")
            known[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        begun: list[tuple[str, list[tuple[str, str]]]] = []
        result = self.app({**known, **self._environ, **environ}, lambda status, fields: begun.append((status, fields)))
        ((status, answered),) = begun
        assert len({name for name, _ in answered}) == len(answered)
        return Reply(int(status.split()[0]), dict(answered), result)

    def post(self, message: Any, headers: Mapping[str, str | None] | None = None, **environ: Any) -> Reply:
        """Post a message, with the headers that every client sends; None takes one away."""
        usual: dict[str, str | None] = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **(headers or {}),
        }
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.request("POST", {k: v for k, v in usual.items() if v is not None}, body, **environ)

    def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        request_id: Any = 1,
        capabilities: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | None] | None = None,
        **environ: Any,
    ) -> Reply:
        """Ask by the rules of the stateless era."""
        declared = dict(capabilities or {})
        own = {META + "protocolVersion": STATELESS, META + "clientCapabilities": declared, **(meta or {})}
        message = {
            "jsonrpc": "2.0",
            "id": request_id,
            "method": method,
            "params": {**(params or {}), "_meta": own},
        }
        key = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}.get(
            method, "taskId" if method.startswith("tasks/") else None
        )
        named = {"Mcp-Name": (params or {}).get(key)} if key else {}
        mirrored = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": method, **named, **(headers or {})}
        return self.post(message, mirrored, **environ)

    def greet(self, version: str = "2025-11-25", capabilities: Mapping[str, Any] | None = None, **more: Any) -> Visit:
        """Begin a session."""
        info = {"name": "t", "version": "1"}
        params = {"protocolVersion": version, "capabilities": dict(capabilities or {}), "clientInfo": info}
        reply = self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, **more)
        assert reply.status == 200, reply.content
        result = reply.json["result"]
        visit = Visit(self, reply.headers.get("Mcp-Session-Id"), result["protocolVersion"], result, more)
        assert visit.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).status == 202
        return visit


@dataclass
class Visit:
    """A session of the handshake era."""

    web: Web
    session_id: str | None
    version: str
    result: Mapping[str, Any]
    more: Mapping[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        """Those of every request."""
        own = {"Mcp-Session-Id": self.session_id} if self.session_id else {}
        return {**own, "MCP-Protocol-Version": self.version, **(self.more.get("headers") or {})}

    def post(self, message: Any, **headers: str | None) -> Reply:
        """Post a message."""
        return self.web.post(message, {**self.headers, **headers}, **self._environ)

    def ask(self, method: str, params: Mapping[str, Any] | None = None, request_id: Any = 1) -> Reply:
        """Ask."""
        return self.post({"jsonrpc": "2.0", "id": request_id, "method": method, "params": dict(params or {})})

    def get(self, last_event_id: str | None = None, **environ: Any) -> Reply:
        """Open a stream."""
        more = {"Last-Event-ID": last_event_id} if last_event_id else {}
        headers = {"Accept": "text/event-stream", **self.headers, **more}
        return self.web.request("GET", headers, **{**self._environ, **environ})

    def delete(self) -> Reply:
        """End the session."""
        return self.web.request("DELETE", self.headers, **self._environ)

    @property
    def _environ(self) -> dict[str, Any]:
        return {key: value for key, value in self.more.items() if key != "headers"}
