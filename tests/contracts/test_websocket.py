"""The WebSocket binding keeps the contracts, plain and over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from faults.http_tls import client_context
from faults.ws_server import TEXT, Connection, HungUp, Server, closing, made

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.policies import Limits
from mcp_sync.testing import CallerContract, ChannelContract, Partner, TransportContract
from mcp_sync.transports.transport import MCPTransport
from mcp_sync.transports.websocket import WebSocketTransport


class FrameWire:
    """The wire of a Partner at the other end of a WebSocket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self) -> bytes | None:
        """Return the next message; None is the end."""
        try:
            return self._connection.read_message()
        except OSError:
            return None

    def write(self, data: bytes) -> None:
        """Send a message. What is no text cannot be one here: invalid UTF-8 would end the connection."""
        try:
            self._connection.send(made(TEXT, data.decode("utf-8", "replace").encode()))
        except (OSError, HungUp):
            pass

    def idle(self) -> None:
        """Read nothing until the client has gone."""
        try:
            self._connection.hold(3600)
        except HungUp:
            pass
        self._connection.over = True

    def close(self) -> None:
        """Say goodbye, and wait for the answer."""
        try:
            if not self._connection.over:
                self._connection.send(closing(1000))
                self._connection.read_message()
        except (OSError, HungUp):
            pass
        self._connection.over = True

    def die(self) -> None:
        """End it rudely."""
        self._connection.reset()


class OverWebSocket:
    """What all of these share: a server, which ends with the test."""

    tls: ClassVar[bool] = False
    knobs: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def server(self) -> Iterator[None]:
        with Server(converse=lambda connection: Partner(FrameWire(connection)).run(), tls=self.tls) as self._server:
            yield

    def transport(self, **knobs: Any) -> WebSocketTransport:
        if self.tls:
            knobs = {"ssl_context": client_context(), **knobs}
        return WebSocketTransport(self._server.url, **{**self.knobs, **knobs})


class TestWebSocketChannel(OverWebSocket, ChannelContract):
    def connect(self) -> Channel:
        return self.transport(max_message_size=self.message_size).dial(Deadline(10))


class TestWebSocketChannelOverTLS(TestWebSocketChannel):
    tls = True


class TestWebSocketTransport(OverWebSocket, TransportContract):
    def make(self, **knobs: Any) -> MCPTransport:
        return self.transport(**knobs)


class TestPeerOverWebSocket(OverWebSocket, CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return self.transport(policies=[limits]).dial(Deadline(10))
