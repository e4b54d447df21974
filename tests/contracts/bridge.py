"""A bridge from HTTP to the Partner of the contracts: a server whose every conversation is with a scripted other side.

``Bridge("handshake")`` and ``Bridge("stateless")`` speak Streamable HTTP, ``Bridge("sse")`` HTTP+SSE. What the Partner
says while it handles a request goes the way of that request, its answers go the way of what they answer; over HTTP+SSE
everything goes by the one stream. In the handshake era each session has a Partner of its own, and so has each stream
of HTTP+SSE; all that comes without a session is for one Partner, who is replaced when he has ended.

Raw sockets, the standard library only. A thread accepts, each connection has its own, and so has each Partner; all
have ended when ``close`` returns.
"""

from __future__ import annotations

import itertools
import json
import queue
import socket
import struct
import threading
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.dispatch import join, start_thread
from mcp_sync.testing import Partner

META = "io.modelcontextprotocol/"
STATELESS = "2026-07-28"
JSON, EVENTS = "application/json", "text/event-stream"
PATIENCE = 10.0


class Way:
    """The way back of one request: nothing, one JSON reply, or a stream of events. Written by the Partner's thread."""

    def __init__(self, connection: Connection, streams: bool) -> None:
        self._connection = connection
        self._streams = streams
        self._begun = False
        self.over = False

    def say(self, data: bytes) -> None:
        """Send what is not the last."""
        self.begin()
        self._send(_chunk(b"data: " + data + b"\n\n"))

    def finish(self, data: bytes) -> None:
        """Send the answer."""
        if self._begun or self._streams:
            self.say(data)
            self._send(b"0\r\n\r\n")
        else:
            self._send(_head(200, JSON, len(data)) + data)
        self.over = True

    def begin(self) -> None:
        """Make a stream of it."""
        if not self._begun:
            self._begun = True
            self._send(_head(200, EVENTS, None))

    def cut(self) -> None:
        """End it rudely."""
        self.over = True
        self._connection.reset()

    def _send(self, data: bytes) -> None:
        if not self.over:
            self._connection.send(data)


class RequestWire:
    """The wire of a Partner whose answers go the ways that the requests came."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._incoming: queue.Queue[tuple[bytes, Way] | None] = queue.Queue()
        self._ways: dict[Any, tuple[Way, Any]] = {}  # by the Partner's id, with the client's
        self._numbers = itertools.count(1)
        self._now: Way | None = None
        self._ended = threading.Event()
        self.over = False
        self.thread = start_thread("partner", Partner(self).run)

    def put(self, body: bytes, way: Way) -> None:
        """Hand a message to the Partner."""
        self._incoming.put((body, way))

    def hung_up(self, way: Way) -> None:
        """The client has gone; in the stateless era that means that it does not want the answer."""
        way.over = True
        for request_id, (one, _) in list(self._ways.items()):
            if one is way and self._bridge.era == "stateless":
                note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}
                self.put(json.dumps(note).encode(), way)

    def end(self) -> None:
        """Say nothing more to the Partner."""
        self.over = True
        self._ended.set()
        self._incoming.put(None)

    # -- for the Partner

    def read(self) -> bytes | None:
        item = self._incoming.get()
        if item is None:
            return None
        body, self._now = item
        message = json.loads(body)
        if "method" in message and "id" in message:
            theirs = message["id"]
            if self._bridge.era == "stateless":  # where several clients may have the same
                message["id"] = next(self._numbers)
                body = json.dumps(message, ensure_ascii=False).encode()
            self._ways[message["id"]] = self._now, theirs
        return body

    def write(self, data: bytes) -> None:
        assert self._now is not None
        try:
            message = json.loads(data)
        except ValueError:  # an answer that nobody can read
            self._now.finish(data)
            return
        if "method" in message:
            self._now.say(data)
        elif (found := self._ways.pop(message["id"], None)) is not None:
            way, message["id"] = found
            way.finish(json.dumps(message, ensure_ascii=False).encode())

    def idle(self) -> None:
        self._ended.wait()

    def close(self) -> None:
        self.over = True
        for way, _ in self._ways.values():
            way.cut()

    die = close


class StreamWire:
    """The wire of a Partner all of whose words go by one stream of events."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._incoming: queue.Queue[bytes | None] = queue.Queue()
        self._ended = threading.Event()
        self.over = False
        self.thread = start_thread("partner", Partner(self).run)

    def put(self, body: bytes, way: Way) -> None:
        """Hand a message to the Partner, and say that it has come."""
        self._incoming.put(body)

    def hung_up(self, way: Way) -> None:
        """The client has gone."""
        if way is self._way:
            self.end()

    def end(self) -> None:
        """Say nothing more to the Partner."""
        self.over = self._way.over = True
        self._ended.set()
        self._incoming.put(None)

    # -- for the Partner

    def read(self) -> bytes | None:
        return self._incoming.get()

    def write(self, data: bytes) -> None:
        self._way.say(data)

    def idle(self) -> None:
        self._ended.wait()

    def close(self) -> None:
        self.over = True
        if not self._way.over:
            self._way._send(b"0\r\n\r\n")
        self._way.over = True

    def die(self) -> None:
        self.over = True
        self._way.cut()


class Connection:
    """One connection, on a thread of its own."""

    def __init__(self, bridge: Bridge, sock: socket.socket) -> None:
        self._bridge = bridge
        self._sock = sock
        self._pending = b""
        self.way: Way | None = None
        self.wire: RequestWire | StreamWire | None = None

    def run(self) -> None:
        """Serve until the client hangs up."""
        try:
            while (request := self._read()) is not None:
                self._bridge.serve(self, *request)
        except OSError:
            pass
        finally:
            if self.way is not None and self.wire is not None and not self.way.over:
                self.wire.hung_up(self.way)
            self._sock.close()
            self._bridge.gone(self)

    def _read(self) -> tuple[str, str, dict[str, str], bytes] | None:
        while b"\r\n\r\n" not in self._pending:
            if not self._more():
                return None
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        while len(self._pending) < size:
            if not self._more():
                return None
        body, self._pending = self._pending[:size], self._pending[size:]
        verb, target, _ = first.split(" ")
        return verb, target, headers, body

    def _more(self) -> bool:
        data = self._sock.recv(1 << 16)
        self._pending += data
        return bool(data)

    def send(self, data: bytes) -> None:
        """Send, if anybody is there."""
        try:
            self._sock.sendall(data)
        except OSError:
            pass

    def reply(self, status: int, *headers: str) -> None:
        """Answer without a body."""
        self.send(_head(status, None, 0, *headers))

    def reset(self) -> None:
        """End it with RST."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.interrupt()

    def interrupt(self) -> None:
        """Let the thread end."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended


class Bridge:
    """A server on a port of 127.0.0.1.

    Args:
        era: ``handshake``, ``stateless`` or ``sse``.
        streams: Whether every reply is a stream of events; else those are JSON that can be.
    """

    def __init__(self, era: str, streams: bool = False) -> None:
        self.era, self._streams = era, streams
        self._lock = threading.Lock()  # guards all below
        self._threads: list[threading.Thread] = []
        self._connections: list[Connection] = []
        self._wires: dict[str, RequestWire | StreamWire] = {}
        self._numbers = itertools.count(1)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(512)
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = start_thread("bridge", self._accept)

    @property
    def url(self) -> str:
        """Where a transport of its kind connects to."""
        return f"{self.origin}/{'sse' if self.era == 'sse' else 'mcp'}"

    def close(self) -> None:
        """End, with all threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        join(self._acceptor, Deadline(PATIENCE))
        self._listener.close()
        with self._lock:
            wires, connections, threads = list(self._wires.values()), list(self._connections), list(self._threads)
        for wire in wires:
            wire.end()
        for connection in connections:
            connection.interrupt()
        threads += [wire.thread for wire in wires]
        assert all(join(thread, Deadline(PATIENCE)) for thread in threads), "a bridge does not end"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, sock)
            with self._lock:
                self._connections.append(connection)
                self._threads.append(start_thread("bridge-connection", connection.run))

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""
        with self._lock:
            self._connections.remove(connection)

    # -- requests

    def serve(self, connection: Connection, verb: str, target: str, headers: dict[str, str], body: bytes) -> None:
        """Do what one request wants."""
        if self.era == "sse":
            self._serve_sse(connection, verb, target, body)
        elif verb == "POST":
            self._post(connection, headers, body)
        elif verb == "DELETE":
            self._end(connection, headers.get("mcp-session-id", ""))
        elif self.era == "handshake" and headers.get("mcp-session-id", "") in self._wires:
            Way(connection, True).begin()  # and never a word
        else:
            connection.reply(405)

    def _post(self, connection: Connection, headers: dict[str, str], body: bytes) -> None:
        message = json.loads(body)
        if self.era == "stateless":
            if message.get("method") in ("server/discover", "initialize"):
                self._discover(connection, message)
                return
            body = json.dumps(_undressed(message), ensure_ascii=False).encode()
        session = headers.get("mcp-session-id", "")
        new = self.era == "handshake" and message.get("method") == "initialize"
        if new:
            session = f"s{next(self._numbers)}"
        wire = self._wire(session, new or not session)
        if wire is None:
            connection.reply(404)
            return
        way = connection.way = _First(connection, session) if new else Way(connection, self._streams)
        connection.wire = wire
        if "id" not in message or "method" not in message:
            wire.put(body, way)
            way.over = True
            connection.reply(202)
            return
        wire.put(body, way)

    def _wire(self, session: str, make: bool) -> RequestWire | StreamWire | None:
        with self._lock:
            wire = self._wires.get(session)
            if make and (wire is None or wire.over):
                wire = self._wires[session] = RequestWire(self)
            return None if wire is None or wire.over else wire

    def _discover(self, connection: Connection, message: dict[str, Any]) -> None:
        if message["method"] == "initialize":
            answer: dict[str, Any] = {"error": {"code": -32601, "message": "unknown"}}
        else:
            info = {META + "serverInfo": {"name": "partner", "version": "1"}}
            answer = {"result": {"supportedVersions": [STATELESS], "capabilities": {}, "_meta": info}}
        data = json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}).encode()
        connection.send(_head(200, JSON, len(data)) + data)

    def _end(self, connection: Connection, session: str) -> None:
        with self._lock:
            wire = self._wires.get(session)
        if wire is not None:
            wire.end()
        connection.reply(404 if wire is None else 200)

    def _serve_sse(self, connection: Connection, verb: str, target: str, body: bytes) -> None:
        if verb == "GET":
            session = str(next(self._numbers))
            way = connection.way = Way(connection, True)
            wire = connection.wire = StreamWire(way)
            with self._lock:
                self._wires[session] = wire
            way.begin()
            connection.send(_chunk(f"event: endpoint\ndata: /messages?session={session}\n\n".encode()))
            return
        known = self._wires.get(target.rpartition("=")[2])
        if known is None or known.over:
            connection.reply(404)
        else:
            known.put(body, Way(connection, True))
            connection.reply(202)


class _First(Way):
    """The way of an initialize, whose reply assigns a session."""

    def __init__(self, connection: Connection, session: str) -> None:
        super().__init__(connection, False)
        self._session = session

    def finish(self, data: bytes) -> None:
        """Send the answer."""
        self._send(_head(200, JSON, len(data), f"Mcp-Session-Id: {self._session}") + data)
        self.over = True


def _undressed(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of the stateless era as it was before the era dressed it."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    if not isinstance(params, dict) or not isinstance(meta, dict):
        return message
    kept = {key: value for key, value in meta.items() if not key.startswith(META)}
    bare = {key: value for key, value in params.items() if key != "_meta"}
    return {**message, "params": {**bare, **({"_meta": kept} if kept else {})}}


def _head(status: int, content_type: str | None, length: int | None, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Indeed", *headers]
    lines += [] if content_type is None else [f"Content-Type: {content_type}"]
    lines += ["Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
