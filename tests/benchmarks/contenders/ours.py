"""mcp_sync: a session in plain dicts by method name, and the Client with typed results."""

from __future__ import annotations

import threading
from typing import Any

from contenders.contender import BACKLOG, LIMIT, VERSIONS, Contender

from mcp_sync import Client, DockerTransport, MCPTransport, StdioTransport, StreamableHTTPTransport, WebSocketTransport
from mcp_sync.protocol import messages

LIMITS = {"max_message_size": LIMIT, "max_backlog": BACKLOG}


def transport_to(server: Any) -> MCPTransport:
    """Return a transport to a command, a URL, or an image."""
    if isinstance(server, dict):
        return DockerTransport(server["image"], server["command"], network="none", **LIMITS)
    if isinstance(server, list):
        return StdioTransport(server, **LIMITS)
    return (WebSocketTransport if server.startswith("ws:") else StreamableHTTPTransport)(server, **LIMITS)


class SessionConnection:
    """``transport.create_session()``."""

    def __init__(self, server: Any, era: str) -> None:
        self.session = transport_to(server).create_session(protocol_version=VERSIONS[era])
        self.messages = self.session.listen()

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.session.send_request("tools/call", {"name": tool, "arguments": arguments})

    def submit(self, tool: str, arguments: dict[str, Any]) -> Any:
        return self.session.submit_request("tools/call", {"name": tool, "arguments": arguments})

    def collect(self, number: int) -> None:
        for _ in range(number):
            next(self.messages)
        assert not self.session.dropped

    def close(self) -> None:
        self.session.close()


class ClientConnection:
    """``Client``."""

    def __init__(self, server: Any, era: str) -> None:
        self.arrived = threading.Semaphore(0)
        self.client = Client(
            transport_to(server),
            protocol_version=VERSIONS[era],
            on_notification=lambda notification: self.arrived.release(),
        ).connect()
        self.call = self.client.call_tool
        self.submit = self.client.submit_tool

    def collect(self, number: int) -> None:
        for _ in range(number):
            if not self.arrived.acquire(timeout=10):
                raise RuntimeError(f"notifications were lost: {self.client.counters}")

    def close(self) -> None:
        self.client.close()


class FastSession(Contender):
    """mcp_sync in plain dicts, with the extra [fast]."""

    def connect(self, era: str) -> SessionConnection:
        return SessionConnection(self.server, era)


class Session(FastSession):
    """mcp_sync in plain dicts."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        messages._quick_parse = None  # as where there is no msgspec


class TypedClient(Contender):
    """mcp_sync with typed results."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        messages._quick_parse = None  # likewise

    def connect(self, era: str) -> ClientConnection:
        return ClientConnection(self.server, era)
