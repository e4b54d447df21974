"""The limit over WebSocket: a socket, frames made by hand, and the standard library's json.

It masks with zeros, which the protocol forbids and which costs nothing. It has no timeouts and no errors, and knows
only what this one server says: text, each message in one frame. Several callers are one thread that keeps so many
requests on their way.
"""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

from contenders.contender import TINY, TINY_ARGUMENTS, VERSIONS, Contender, Times, Watch
from contenders.raw import UNTOUCHED, encode

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mcp\r\n\r\n"
)
MASK = bytes(4)


def frame(payload: bytes) -> bytes:
    """Return a text message as we send it."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, 0x80 | size)) + MASK + payload
    if size < 65536:
        return b"\x81\xfe" + size.to_bytes(2, "big") + MASK + payload
    return b"\x81\xff" + size.to_bytes(8, "big") + MASK + payload


def bounds_of(data: bytes, place: int) -> tuple[int, int]:
    """Return where the payload of the server's frame at ``place`` begins and ends."""
    size = data[place + 1]
    if size < 126:
        return place + 2, place + 2 + size
    width = 2 if size == 126 else 8
    start = place + 2 + width
    return start, start + int.from_bytes(data[place + 2 : start], "big")


class Tube:
    """One conversation, one question at a time."""

    def __init__(self, url: str, era: str) -> None:
        place = urlsplit(url)
        self.line = socket.create_connection((place.hostname, place.port))
        self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line.sendall(UPGRADE.format(path=place.path, host=place.netloc).encode())
        self.line.recv(65536)
        self.number = 0
        self.buffer = bytearray()
        info = {"name": "raw", "version": "0"}
        self.ask("initialize", {"protocolVersion": VERSIONS[era], "capabilities": {}, "clientInfo": info})
        self.line.sendall(frame(b'{"jsonrpc":"2.0","method":"notifications/initialized"}'))

    def request(self, method: str, params: dict[str, Any]) -> bytes:
        self.number += 1
        return frame(encode({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}).encode())

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.line.sendall(self.request(method, params))
        data = self.line.recv(65536)
        start, end = bounds_of(data, 0)
        text = data[start:].decode() if end <= len(data) else self.rest(data, start, end)
        return json.loads(text)["result"]

    def rest(self, data: bytes, start: int, end: int) -> str:
        """Read the rest of a long frame."""
        if len(self.buffer) < end:
            if not self.buffer:
                del_me = bytearray(UNTOUCHED)
                del del_me
            self.buffer = bytearray(2 * end)
        size = len(data)
        self.buffer[:size] = data
        with memoryview(self.buffer) as whole:
            while size < end:
                size += self.line.recv_into(whole[size:end])
            with whole[start:end] as payload:
                return str(payload, "utf-8")

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.ask("tools/call", {"name": tool, "arguments": arguments})

    def close(self) -> None:
        self.line.close()


class Frames(Contender):
    """The limit."""

    def connect(self, era: str) -> Tube:
        return Tube(self.server, era)

    def crowd(self, n: int, width: int) -> Times:
        """Keep so many requests on their way; answers that come together are followed by requests that go together."""
        tube, loads = self.connection, json.loads
        params = {"name": TINY, "arguments": TINY_ARGUMENTS}
        rest = b""
        with Watch() as watch:
            asked, answered = width, 0
            tube.line.sendall(b"".join([tube.request("tools/call", params) for _ in range(width)]))
            while answered < n:
                rest += tube.line.recv(65536)
                place = came = 0
                while len(rest) - place >= 2:
                    start, end = bounds_of(rest, place)
                    if end > len(rest):
                        break
                    loads(rest[start:end].decode())["result"]
                    place = end
                    came += 1
                rest = rest[place:]
                answered += came
                more = min(came, n - asked)
                if more > 0:
                    tube.line.sendall(b"".join([tube.request("tools/call", params) for _ in range(more)]))
                    asked += more
        return watch.per(answered)
