"""What the fault tests of WebSocket share: a client of a scripted server, and assertions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from faults.http_tls import client_context
from faults.tools import PATIENCE, close, within
from faults.ws_server import Connection, Server

from mcp_sync import Client, MCPError
from mcp_sync.transports import framed

T = 0.3
"""The timeout of a call that is meant to time out."""
NOW = 1.0
"""What has to be said at once is said within so many seconds."""
CANARY = "c4naryS3cret"

SERVER_OPTIONS = ("tls", "subprotocol", "converse", "port")


@contextmanager
def unconnected(
    era: str = "handshake", *, on: Mapping[str, Any] | None = None, url: str = "", **about: Any
) -> Iterator[tuple[Client, Server]]:
    """Give a client that has not connected yet, and its server; afterwards both are closed, in time.

    Keywords are those of the server and of the client. ``url`` may say where the client connects to; ``{port}`` in it
    is the port. ``goodbye`` is how long the client waits for the server's close frame, which here seldom comes.
    """
    options = {key: about.pop(key) for key in SERVER_OPTIONS if key in about}
    if options.get("tls") and "verify_ssl" not in about:
        about.setdefault("ssl_context", client_context())
    about.setdefault("timeout", PATIENCE)
    goodbye = mock.patch.object(framed, "CLOSE_SECONDS", about.pop("goodbye", 0.1))
    with goodbye, Server(era, on=on, **options) as server:
        client = Client(url.format(port=server.port) if url else server.url, **about)
        try:
            yield client, server
        finally:
            with within(5.0):
                client.close()


@contextmanager
def serving(
    era: str = "handshake", *, on: Mapping[str, Any] | None = None, url: str = "", **about: Any
) -> Iterator[tuple[Client, Server]]:
    """Give a connected client, likewise; the counters add up at the end."""
    with unconnected(era, on=on, url=url, **about) as (client, server):
        client.connect()
        yield client, server
        close(client)


def tells(error: MCPError, server: Server, method: str = "tools/call", **more: Any) -> None:
    """Check I6: the error names the transport, the server, the method, the phase and the time."""
    __tracebackhide__ = True
    details = error.details
    assert details["transport"] == "websocket", details
    assert str(server.port) in details["server"], details
    assert details["method"] == method, details
    assert details["phase"] in ("connect", "send", "wait", "parse"), details
    assert 0 <= details["elapsed"] < PATIENCE, details
    assert method in str(error)
    for key, value in more.items():
        assert details[key] == value, (key, details)


def speaks(*pieces: bytes | Callable[[Connection], object]) -> Callable[[Connection], None]:
    """Return what a server does once there is a WebSocket: send these, or call these; then read until the end."""

    def converse(connection: Connection) -> None:
        for piece in pieces:
            if isinstance(piece, bytes):
                connection.send(piece)
            else:
                piece(connection)
        while connection.read_frame() is not None:
            pass

    return converse
