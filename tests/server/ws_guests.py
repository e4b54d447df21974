"""What the tests of the WebSocket host share: hosts that end with the test, and a raw client that misbehaves as told.

The client speaks over a plain socket with the standard library only, and masks its frames unless told otherwise.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faults.http_tls import client_context
from faults.ws_server import CLOSE, CONTINUATION, PING, PONG, TEXT, made

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.server.websocket import WebSocketHost
from mcp_sync.testing.tools import PartnerServer

PATIENCE = 10.0
KEY = b"\x12\x34\x56\x78"


class Hall(PartnerServer):
    """A server whose every conversation is with a Partner, or, where ``served`` is off, with nobody yet."""

    def __init__(self, served: bool = True) -> None:
        super().__init__()
        self.arrived: queue.Queue[Channel] = queue.Queue()
        self._served = served

    def serve(self, channel: Channel) -> None:
        """Note that somebody has come."""
        if self._served:
            super().serve(channel)
        self.arrived.put(channel)

    def next(self) -> Any:
        """Return the next channel, waiting for it."""
        return self.arrived.get(timeout=PATIENCE)


@contextmanager
def hosting(served: bool = True, **knobs: Any) -> Iterator[tuple[WebSocketHost, Hall]]:
    """Give a host that listens, and who is served there; nothing of both is left afterwards."""
    hall = Hall(served)
    host = WebSocketHost(hall.serve, port=0, **knobs)
    try:
        host.start()
        yield host, hall
    finally:
        host.close(Deadline(PATIENCE))


class RawClient:
    """A client by hand."""

    def __init__(self, port: int, tls: bool = False) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = client_context().wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.port = port
        self._pending = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # -- the upgrade

    def head(self, path: str = "/mcp", method: str = "GET", without: tuple[str, ...] = (), **more: str) -> bytes:
        """Return the head of a request for a WebSocket; ``Origin="..."`` adds a header or replaces one."""
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        lines = [f"{name}: {value}" for name, value in headers.items() if name not in without]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")

    def ask(self, head: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send the head of a request; return status, headers and body of the response, or what is left of it."""
        self.sock.sendall(head)
        return self.response()

    def response(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (names in lower case) and body."""
        while b"\r\n\r\n" not in self._pending:
            assert self._more(), f"no response: {self._pending!r}"
        answer, _, self._pending = self._pending.partition(b"\r\n\r\n")
        first, *lines = answer.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = self._exactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body or b""

    def upgrade(self, **more: str) -> dict[str, str]:
        """Make a WebSocket of it; return the headers of the response."""
        status, headers, body = self.ask(self.head(**more))  # type: ignore[arg-type]
        assert status == 101, (status, body)
        return headers

    # -- frames

    def send(self, opcode: int, payload: bytes = b"", **lies: Any) -> None:
        """Send a frame."""
        self.sock.sendall(made(opcode, payload, **{"key": KEY, **lies}))

    def say(self, **members: Any) -> None:
        """Send a message."""
        self.send(TEXT, json.dumps({"jsonrpc": "2.0", **members}).encode())

    def frame(self) -> tuple[int, bytes] | None:
        """Return the first byte and the payload of the next frame; None: the end."""
        head = self._exactly(2)
        if head is None:
            return None
        size = head[1]
        assert size < 0x80, "a server must not mask"
        if size >= 126:
            more = self._exactly(2 if size == 126 else 8)
            assert more is not None
            size = int.from_bytes(more, "big")
        payload = self._exactly(size)
        return None if payload is None else (head[0], payload)

    def message(self) -> dict[str, Any]:
        """Return the next message, and answer pings before it."""
        while (frame := self.frame()) is not None:
            first, payload = frame
            if first & 0x0F == PING:
                self.send(PONG, payload)
            elif first & 0x0F in (TEXT, CONTINUATION):
                found: dict[str, Any] = json.loads(payload)
                return found
        raise AssertionError("the connection has ended")

    def echo(self, number: int = 1, **params: Any) -> None:
        """Ask for an echo, and see that it comes."""
        self.say(id=number, method="echo", params=params)
        assert self.message() == {"jsonrpc": "2.0", "id": number, "result": params}

    def closed(self) -> int:
        """Return the code of the close frame; what comes before it is dropped. Then the connection has to end."""
        code = 0
        try:
            while (frame := self.frame()) is not None:
                if frame[0] & 0x0F == CLOSE:
                    code = int.from_bytes(frame[1][:2], "big") if frame[1] else 1005
        except ConnectionError:
            pass  # rudely, but it has ended
        return code

    def bid_farewell(self, code: int = 1000) -> int:
        """Close properly; return the code of the server's answer."""
        self.send(CLOSE, code.to_bytes(2, "big"))
        return self.closed()

    # -- below

    def ended(self, seconds: float = PATIENCE) -> bool:
        """Whether the server ends the connection within so many seconds, whatever it says before."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.sock], [], [], left)[0]:
                return False
            try:
                if not self.sock.recv(1 << 16):
                    return True
            except ConnectionError:
                return True
        return False

    def vanish(self) -> None:
        """End it with RST, and no word."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _exactly(self, size: int) -> bytes | None:
        while len(self._pending) < size:
            if not self._more():
                return None
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def _more(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except ssl.SSLEOFError:
            data = b""
        self._pending += data
        return bool(data)


@contextmanager
def guest(host: WebSocketHost, **more: str) -> Iterator[RawClient]:
    """Give a raw client that has its WebSocket."""
    with RawClient(port_of(host), tls=host.url.startswith("wss")) as client:
        client.upgrade(**more)
        yield client


def port_of(host: WebSocketHost) -> int:
    """Return where a host listens."""
    return int(host.url.rpartition(":")[2].partition("/")[0])
