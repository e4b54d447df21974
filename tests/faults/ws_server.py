"""A small MCP server over WebSocket inside the test: it behaves, but for what it is told, and remembers what it heard.

::

    with Server(on={"work": sends(made(TEXT, b"\\xff"))}) as server:
        ...server.url...

``on`` says what is done instead of the plain thing. Its keys are a tool (``work``), an MCP method (``tools/list``),
``upgrade`` (a request for a WebSocket has come), or ``accept`` (a connection has come; nothing was said on it, not even
TLS). Its values are manners: functions that are given an Exchange and do what they like; or a list of them, of which
each is good for one time, and None is the plain thing, as is everything after the end of the list.

Raw sockets, the standard library only, and nothing of ours that is tested with it. A thread accepts, and each
connection has its own; all have ended when the ``with`` block is left. An error of a manner's own is raised there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import select
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from faults.http_server import _bound, _known_ports
from faults.http_tls import server_context

FOREVER = 3600.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
HANDSHAKE, STATELESS = "2025-11-25", "2026-07-28"
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class HungUp(Exception):
    """The client has gone; or the server is to end."""


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    first: int
    payload: bytes
    masked: bool

    @property
    def opcode(self) -> int:
        return self.first & 0x0F

    @property
    def code(self) -> int:
        """The code of a close frame; 1005 where there is none."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


def made(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return a frame, which may lie.

    Args:
        opcode: Four bits.
        payload: What is in it.
        fin: Whether it is the last of its message.
        rsv: Three reserved bits.
        key: The mask, which servers must not use.
        length: The length that is said; None for the true one.
        width: In how many bytes that is said: 1, 2 or 8.
    """
    said = len(payload) if length is None else length
    wide = width or (1 if said < 126 else 2 if said < 1 << 16 else 8)
    masked = 0x80 if key is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if wide == 1:
        head += bytes([masked | said])
    else:
        head += bytes([masked | (126 if wide == 2 else 127)]) + said.to_bytes(wide, "big")
    if key is not None:
        payload = key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return head + payload


def closing(code: int | None = 1000, reason: str | bytes = "") -> bytes:
    """Return a close frame."""
    raw = reason.encode() if isinstance(reason, str) else reason
    return made(CLOSE, b"" if code is None else code.to_bytes(2, "big") + raw)


class Exchange:
    """What has just come, and the connection to do something about it."""

    def __init__(self, connection: Connection, message: dict[str, Any] | None = None) -> None:
        self.connection = connection
        self.server = connection.server
        self._message = message

    @property
    def message(self) -> dict[str, Any]:
        """The message; for ``upgrade`` and ``accept`` there is none."""
        assert self._message is not None
        return self._message

    @property
    def arguments(self) -> dict[str, Any]:
        """Of a tool's call."""
        return dict(self.message["params"].get("arguments") or {})

    @property
    def plain(self) -> bytes:
        """The plain answer as JSON."""
        return json.dumps(self.server.answer_to(self.message)).encode()

    def result(self, text: str) -> bytes:
        """Return an answer with this text as JSON."""
        answer = self.server.answer_to(self.message)
        answer["result"]["content"] = [{"type": "text", "text": text}]
        return json.dumps(answer).encode()

    @property
    def head(self) -> bytes:
        """The plain answer to a request for a WebSocket."""
        return upgraded(self.connection.request, subprotocol=self.server.subprotocol)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.connection.send(data)

    def answer(self) -> None:
        """Send the plain answer."""
        self.send(made(TEXT, self.plain))

    def drip(self, data: bytes, every: float = 0.05, size: int = 1) -> None:
        """Send a little at a time."""
        for start in range(0, len(data), size):
            self.send(data[start : start + size])
            self.hold(every)

    def hold(self, seconds: float = FOREVER) -> None:
        """Do nothing for so long; raise HungUp once the client has gone, or the server is to end."""
        self.connection.hold(seconds)

    def listen(self) -> Frame | None:
        """Return the next frame; None is the end."""
        return self.connection.read_frame()

    def until_gone(self) -> None:
        """Read until the client hangs up, and answer nothing."""
        while self.connection.read_frame() is not None:
            pass

    def close(self) -> None:
        """End the connection without a close frame."""
        self.connection.over = True

    def reset(self) -> None:
        """End it with RST."""
        self.connection.reset()


Manner = Callable[[Exchange], object]


def upgraded(request: bytes, *headers: str, subprotocol: str | None = "mcp", accept: str | None = None) -> bytes:
    """Return the head that makes a WebSocket of a connection."""
    key = header_of(request, "Sec-WebSocket-Key")
    proof = accept or base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Accept: {proof}"]
    lines += [] if subprotocol is None else [f"Sec-WebSocket-Protocol: {subprotocol}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")


def header_of(request: bytes, name: str) -> str:
    """Return a header of a request; empty where it is not there."""
    for line in request.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return ""


class Connection:
    """One connection, in a thread of its own."""

    def __init__(self, server: Server, sock: socket.socket, number: int) -> None:
        self.server, self.sock, self.number = server, sock, number
        self.over = False
        self.request = b""
        self.frames: list[Frame] = []
        self._pending = b""

    def run(self) -> None:
        try:
            self._serve()
        except (HungUp, OSError):  # ssl.SSLError is one
            pass
        except BaseException as error:
            self.server.errors.append(error)
        finally:
            self.sock.close()
            self.server._done(self)

    def _serve(self) -> None:
        if self._perform(("accept",), Exchange(self)):
            return
        if self.server.context is not None:
            self.sock = self.server.context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            self.sock.do_handshake()
        while b"\r\n\r\n" not in self._pending:
            if not self._more():
                return
        self.request, _, self._pending = self._pending.partition(b"\r\n\r\n")
        self.server.requests.append(self.request)
        exchange = Exchange(self)
        if not self._perform(("upgrade",), exchange):
            self.send(exchange.head)
        if not self.over:
            self.server.converse(self)

    def converse(self) -> None:
        """Answer messages until either side ends it."""
        while not self.over and (data := self.read_message()) is not None:
            message = json.loads(data)
            self.server.messages.append(message)
            tool = message.get("params", {}).get("name", "") if message.get("method") == "tools/call" else ""
            exchange = Exchange(self, message)
            if not self._perform((tool, message.get("method", "")), exchange) and "id" in message:
                exchange.answer()

    def _perform(self, keys: tuple[str, ...], exchange: Exchange) -> bool:
        manner = self.server._manner(keys)
        if manner is not None:
            manner(exchange)
        return manner is not None

    # -- reading

    def read_frame(self) -> Frame | None:
        """Return the next frame, unmasked; None is the end of the connection."""
        head = self._exactly(2)
        if head is None:
            return None
        size = head[1] & 0x7F
        if size >= 126:
            more = self._exactly(2 if size == 126 else 8)
            if more is None:
                return None
            size = int.from_bytes(more, "big")
        masked = bool(head[1] & 0x80)
        key = self._exactly(4) if masked else b"\0\0\0\0"
        payload = self._exactly(size)
        if key is None or payload is None:
            return None
        mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
        plain = (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")
        frame = Frame(head[0], plain, masked)
        if len(self.frames) < 1000:
            self.frames.append(frame)
        return frame

    def read_message(self) -> bytes | None:
        """Return the next message; answer pings; at a close frame answer that, and return None."""
        whole = b""
        while (frame := self.read_frame()) is not None:
            if frame.opcode == PING:
                self.send(made(PONG, frame.payload))
            elif frame.opcode == CLOSE:
                self.send(made(CLOSE, frame.payload[:2]))
                self.over = True
                return None
            elif frame.opcode in (TEXT, CONTINUATION):
                whole += frame.payload
                if frame.first & 0x80:
                    return whole
        return None

    def _exactly(self, size: int) -> bytes | None:
        pieces, missing = [self._pending], size - len(self._pending)
        while missing > 0:
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            pieces.append(data)
            missing -= len(data)
        whole = b"".join(pieces)
        data, self._pending = whole[:size], whole[size:]
        return data

    def _more(self) -> bool:
        data = self.sock.recv(1 << 16)
        self._pending += data
        return bool(data)

    # -- the rest

    def send(self, data: bytes) -> None:
        if self.server.over.is_set():
            raise HungUp
        self.sock.sendall(data)

    def hold(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self.sock, getattr(select, "POLLRDHUP", select.POLLIN))  # POLLHUP and POLLERR come anyway
        if poll.poll(seconds * 1000):
            raise HungUp

    def reset(self) -> None:
        self.over = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def interrupt(self) -> None:
        self.over = True
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # not the one of SSLSocket, which forgets its state
        except OSError:
            pass  # it has ended


class Server:
    """A server on a port of 127.0.0.1.

    Args:
        era: ``handshake`` or ``stateless``.
        on: What it does instead of plain things (module docstring).
        tls: Whose certificate it shows (faults.http_tls): True means its own.
        subprotocol: What it chooses to speak, asked or not; None: nothing.
        converse: What is done with a connection that was upgraded; None answers messages.

    Attributes:
        requests: The heads of all requests for a WebSocket.
        messages: All messages that were read.
        ended: Connections that are over; their ``frames`` are what came there.
        accepted: How many connections have come.
    """

    def __init__(
        self,
        era: str = "handshake",
        *,
        on: Mapping[str, Any] | None = None,
        tls: bool | str = False,
        subprotocol: str | None = "mcp",
        converse: Callable[[Connection], object] | None = None,
        port: int = 0,
    ) -> None:
        self.era, self.subprotocol = era, subprotocol
        self.on: dict[str, Any] = {}
        for key, manner in (on or {}).items():
            self.on[key] = list(manner) if isinstance(manner, (list, tuple)) else manner
        self.converse = converse or Connection.converse
        self.context = server_context("here" if tls is True else tls) if tls else None
        self.requests: list[bytes] = []
        self.messages: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []
        self.ended: list[Connection] = []
        self.accepted = 0
        self.over = threading.Event()
        self._lock = threading.Lock()  # guards on, ended, _connections, _threads
        self._connections: list[Connection] = []
        self._threads: list[threading.Thread] = []
        self._listener = _bound(socket.AF_INET, "127.0.0.1", port)
        self._listener.listen(256)
        self.port = self._listener.getsockname()[1]
        _known_ports.add(self.port)
        self._acceptor = threading.Thread(target=self._accept, name=f"ws-server-{self.port}")
        self._acceptor.start()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'wss' if self.context else 'ws'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Of its one endpoint."""
        return f"{self.origin}/mcp"

    @property
    def connected(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._connections)

    @property
    def frames(self) -> list[Frame]:
        """All frames that came, a connection after the other; those that are over first."""
        with self._lock:
            return [frame for one in (*self.ended, *self._connections) for frame in one.frames]

    def close(self) -> None:
        """End, and wait until all threads have; raise what a manner raised. Idempotent."""
        self.over.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        except OSError:
            pass
        self._acceptor.join(10.0)
        self._listener.close()
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            connection.interrupt()
        for thread in threads:
            thread.join(10.0)
            assert not thread.is_alive(), f"{thread.name} does not end"
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                connection = Connection(self, sock, self.accepted)
                self.accepted += 1
                name = f"ws-server-{self.port}-{connection.number}"
                thread = threading.Thread(target=connection.run, name=name, daemon=True)
                self._connections.append(connection)
                self._threads.append(thread)
            thread.start()

    def _done(self, connection: Connection) -> None:
        with self._lock:
            self._connections.remove(connection)
            self.ended.append(connection)
            self._threads = [thread for thread in self._threads if thread is not threading.current_thread()]

    def _manner(self, keys: tuple[str, ...]) -> Manner | None:
        with self._lock:
            for key in keys:
                if key in self.on:
                    manner = self.on[key]
                    if not isinstance(manner, list):
                        return manner
                    return manner.pop(0) if manner else None
        return None

    # -- MCP

    def answer_to(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plain answer."""
        method, params = message["method"], message.get("params") or {}
        kind = {"resultType": "complete"} if self.era == "stateless" else {}
        about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "small", "version": "1"}}
        results: dict[str, dict[str, Any]] = {
            "ping": {},
            "tools/list": {"tools": [{"name": "work", "inputSchema": {"type": "object"}}], "ttlMs": 0},
            "tools/call": {"content": [{"type": "text", "text": json.dumps(params.get("arguments"))}]},
        }
        if self.era == "stateless":
            results["server/discover"] = {"supportedVersions": [STATELESS], "capabilities": {"tools": {}}, "ttlMs": 0}
        else:
            results["initialize"] = {"protocolVersion": HANDSHAKE, **about}
        if method not in results:
            return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "unknown"}}
        return {"jsonrpc": "2.0", "id": message["id"], "result": {**kind, **results[method]}}


# -- manners -----------------------------------------------------------------------------------------------------------


def sends(*pieces: bytes, then: str = "listen") -> Manner:
    """Send these bytes; then ``listen`` (until the client hangs up), ``close``, ``reset``, ``hold`` or ``go on``."""

    def act(exchange: Exchange) -> None:
        for piece in pieces:
            exchange.send(piece)
        finish(exchange, then)

    return act


def finish(exchange: Exchange, then: str) -> None:
    """Do what comes at the end of a manner."""
    if then == "listen":
        exchange.until_gone()
        exchange.close()
    elif then == "hold":
        exchange.hold()
    elif then == "close":
        exchange.close()
    elif then == "reset":
        exchange.reset()
    else:
        assert then == "go on", then


def declines(status: int, body: bytes | str = b"", *headers: str, length: int | None = None) -> Manner:
    """Answer the request for a WebSocket with a status, and close."""

    def act(exchange: Exchange) -> None:
        data = body.encode() if isinstance(body, str) else body
        said = len(data) if length is None else length
        lines = [f"HTTP/1.1 {status} Indeed", f"Content-Length: {said}", *headers, "", ""]
        exchange.send("\r\n".join(lines).encode("latin-1") + data)
        exchange.close()

    return act
