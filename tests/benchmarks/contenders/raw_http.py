"""The limit over HTTP: a socket, one ``sendall`` and mostly one ``recv`` a call, and the standard library's json.

It has no timeouts and no errors, and knows only what this one server says: a JSON body with its length, or a stream
whose chunks it does not look at but for the lines of data in them. Each thread has a socket of its own.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from contenders.contender import VERSIONS, Contender
from contenders.raw import META, encode

HEAD = (
    "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    "Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {version}\r\nContent-Length: "
)
END = b"\r\n0\r\n\r\n"
"""Of a stream."""


class Wire:
    """One conversation; ``call`` from any thread."""

    def __init__(self, url: str, era: str) -> None:
        place = urlsplit(url)
        self.address = (place.hostname, place.port)
        self.head = HEAD.format(path=place.path, host=place.netloc, version=VERSIONS[era])
        self.stateless = era == "stateless"
        self.local = threading.local()
        self.sockets: list[socket.socket] = []
        if self.stateless:
            self.ask("server/discover", {"_meta": META})
        else:
            info = {"name": "raw", "version": "0"}
            self.ask("initialize", {"protocolVersion": VERSIONS[era], "capabilities": {}, "clientInfo": info})
            line = self.line()
            line.sendall(self.request(b'{"jsonrpc":"2.0","method":"notifications/initialized"}'))
            line.recv(65536)
        if place.path == "/stream":
            news = self.connect()
            news.sendall(f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
            news.recv(65536)

    def connect(self) -> socket.socket:
        line = socket.create_connection(self.address)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(line)
        return line

    def line(self) -> socket.socket:
        """Return this thread's socket."""
        try:
            return self.local.line
        except AttributeError:
            self.local.line = self.connect()
            return self.local.line

    def request(self, body: bytes) -> bytes:
        return f"{self.head}{len(body)}\r\n\r\n".encode() + body

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        line = self.line()
        line.sendall(self.request(encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()))
        chunk = line.recv(65536)
        head, _, body = chunk.partition(b"\r\n\r\n")
        place = head.find(b"Content-Length: ")
        if place < 0:
            return self.answer_in(line, body)
        length = int(head[place + 16 :].partition(b"\r\n")[0])
        if len(body) < length:
            body = self.rest(line, body, length)
        return json.loads(body.decode())["result"]

    def rest(self, line: socket.socket, start: bytes, length: int) -> bytearray:
        whole = bytearray(length)
        whole[: len(start)] = start
        size = len(start)
        with memoryview(whole) as view:
            while size < length:
                size += line.recv_into(view[size:])
        return whole

    def answer_in(self, line: socket.socket, start: bytes) -> dict[str, Any]:
        """Return the last message of a stream; all others are decoded, too."""
        parts = [start]
        while not parts[-1].endswith(END):
            parts.append(line.recv(1 << 18))
        message: dict[str, Any] = {}
        for event in b"".join(parts).split(b"\n\n"):
            data = event.partition(b"\ndata: ")[2]
            if data:
                message = json.loads(data.replace(b"\ndata: ", b"\n").decode())
        return message["result"]

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        params = {"name": tool, "arguments": arguments}
        return self.ask("tools/call", {**params, "_meta": META} if self.stateless else params)

    def collect(self, number: int) -> None:
        """All notifications have been decoded before the answer."""

    def close(self) -> None:
        for line in self.sockets:
            line.close()


class Socket(Contender):
    """The limit."""

    def connect(self, era: str) -> Wire:
        return Wire(self.server, era)
