"""A small MCP server over HTTP inside the test: it behaves, but for what it is told, and it remembers all it was sent.

::

    with Server("stateless", on={"work": [cut_in("body"), None]}) as server:
        ...server.url...
    assert [request.tool for request in server.posts("tools/call")] == ["work"]

The eras: ``stateless`` refuses initialize and GET, ``handshake`` refuses server/discover and has sessions. ``on`` says
what is done instead of a plain answer: its keys are a tool (``work``), an MCP method (``tools/list``), an HTTP method
(``GET``, ``DELETE``), or ``accept`` (a connection has come; nothing was said on it, not even TLS); the first that is
there, in this order, counts. Its values are manners: functions that are given an Exchange and do whatever they like
with it, such as those at the end of this module; or a list of them, of which each is good for one request, and None is
the plain answer, as is everything after the end of the list. ``server.on`` may be changed at any time.

Raw sockets, the standard library only. A thread accepts, and each connection has its own; all have ended when the
``with`` block is left. An error of a manner's own is raised there.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from faults.http_tls import server_context

FOREVER = 3600.0
LONGEST_HEAD = 1 << 18
REMEMBERED = 1 << 22  # bytes of a connection, for `heard`
LAST_HANDSHAKE, STATELESS = "2025-11-25", "2026-07-28"
REASONS = {200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 404: "Not Found", 405: "Not Allowed"}
JSON, EVENTS = "application/json", "text/event-stream"
PATH = "/mcp"


class HungUp(Exception):
    """The client has gone; or the server is to end."""


@dataclass(frozen=True)
class Request:
    """What one request was.

    Attributes:
        verb: POST, GET ...
        target: The path, as it was sent.
        headers: By names in lower case; of a name that came twice, the values with a comma between.
        head: All of it, up to the blank line.
        body: As it was sent.
        connection: The number of the connection that it came on, from 0.
        at: When its head had come (time.monotonic).
    """

    verb: str
    target: str
    headers: Mapping[str, str]
    head: bytes
    body: bytes = b""
    connection: int = 0
    at: float = field(default_factory=time.monotonic)

    @property
    def message(self) -> dict[str, Any]:
        """The body as JSON; empty where it is no object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def method(self) -> str:
        """The MCP method, or nothing."""
        return str(self.message.get("method", ""))

    @property
    def id(self) -> Any:
        """The JSON-RPC id, or None."""
        return self.message.get("id")

    @property
    def params(self) -> dict[str, Any]:
        """The params, or an empty dict."""
        return self.message.get("params") or {}

    @property
    def tool(self) -> str:
        """The tool that is called, or nothing."""
        return str(self.params.get("name", "")) if self.method == "tools/call" else ""

    @property
    def arguments(self) -> dict[str, Any]:
        """What the tool is given."""
        return self.params.get("arguments") or {}

    @property
    def session(self) -> str | None:
        """The session it says it belongs to."""
        return self.headers.get("mcp-session-id")


@dataclass(frozen=True)
class Answer:
    """What a well-behaved server would answer."""

    status: int = 200
    message: Mapping[str, Any] | None = None
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The bytes."""
        return self.text.encode() if self.message is None else json.dumps(self.message).encode()

    @property
    def content_type(self) -> str | None:
        """What they are."""
        return JSON if self.message is not None else "text/plain" if self.text else None


Manner = Callable[["Exchange"], None]


class Exchange:
    """One request, and the connection to answer it on. For ``accept`` there is no request."""

    def __init__(self, server: Server, connection: _Connection, request: Request | None) -> None:
        self.server, self.connection = server, connection
        self._request = request

    @property
    def request(self) -> Request:
        """What was asked."""
        assert self._request is not None, "nothing has been asked yet"
        return self._request

    # -- the plain answer, to use or to spoil

    @cached_property
    def answer(self) -> Answer:
        """What a well-behaved server would answer."""
        return self.server.answer_to(self.request)

    @property
    def body(self) -> bytes:
        """The JSON of it."""
        return self.answer.body

    def head(
        self,
        status: int = 200,
        *headers: str,
        length: int | None = None,
        content_type: str | None = JSON,
        reason: str | None = None,
        **more: str,
    ) -> bytes:
        """Return a status line, headers and a blank line; an underscore in a keyword is a hyphen."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Whatever') if reason is None else reason}"]
        lines += [] if content_type is None else [f"Content-Type: {content_type}"]
        lines += [] if length is None else [f"Content-Length: {length}"]
        lines += [*headers, *(f"{name.replace('_', '-')}: {value}" for name, value in more.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def plain(self) -> bytes:
        """The whole plain answer, as it goes over the wire."""
        answer = self.answer
        pairs = [f"{name}: {value}" for name, value in answer.headers.items()]
        head = self.head(answer.status, *pairs, length=len(answer.body), content_type=answer.content_type)
        return head + answer.body

    # -- acts

    def reply(
        self, status: int = 200, body: bytes | str = b"", *headers: str, content_type: str | None = JSON, **more: str
    ) -> None:
        """Send a whole response; the connection stays open."""
        data = body.encode() if isinstance(body, str) else body
        self.send(self.head(status, *headers, length=len(data), content_type=content_type, **more) + data)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.connection.send(data)

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def drip(self, data: bytes, every: float = 0.05, size: int = 1) -> None:
        """Send a little at a time."""
        for start in range(0, len(data), size):
            self.send(data[start : start + size])
            self.pause(every)

    def hold(self, seconds: float = FOREVER) -> None:
        """Do nothing for so long; raise HungUp once the client has gone, or the server is to end."""
        self.connection.hold(seconds)

    pause = hold

    def close(self) -> None:
        """Close the connection, as one that has ended."""
        self.connection.over = True

    def reset(self) -> None:
        """Close it with RST."""
        self.connection.reset()


class _Connection:
    """One connection, in a thread of its own."""

    def __init__(self, server: Server, sock: socket.socket, number: int) -> None:
        self.server, self.sock, self.number = server, sock, number
        self.over = False
        self.idle = True  # between two requests
        self.heard = b""
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
        if not self._perform(("accept",), None):
            return
        if self.server.context is not None:
            self.sock = self.server.context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            self.sock.do_handshake()
        while not self.over and not self.server.over.is_set():
            self.idle = True
            if (request := self._read()) is None:
                return
            keys = [key for key in (request.tool, request.method, request.verb) if key]
            if not self._perform(keys, request):
                return

    def _perform(self, keys: Any, request: Request | None) -> bool:
        """Do what is to be done; return whether the connection goes on."""
        exchange = Exchange(self.server, self, request)
        manner = self.server._manner(keys)
        try:
            if manner is not None:
                manner(exchange)
            elif request is not None:
                self.send(exchange.plain)
                self.over = self.over or request.headers.get("connection", "").lower() == "close"
        except (HungUp, OSError):
            if request is not None and not self.over and not self.server.over.is_set():
                self.server.abandoned.append(request)
            raise
        return not self.over

    def _read(self) -> Request | None:
        while b"\r\n\r\n" not in self._pending and len(self._pending) < LONGEST_HEAD:
            if not self._more():
                return None
        self.idle = False
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        request = _parsed(head, self.number)
        length = request.headers.get("content-length", "0")
        size = int(length) if length.isdigit() else 0
        if self.server.max_body is not None and size > self.server.max_body:
            self.server._remember(request)
            self._refuse_unread(request)
            return None
        chunked = "chunked" in request.headers.get("transfer-encoding", "").lower()
        body = self._chunks() if chunked else self._exactly(size)
        if body is None:
            return None
        request = Request(
            request.verb, request.target, request.headers, request.head, body, request.connection, request.at
        )
        self.server._remember(request)
        return request

    def _refuse_unread(self, request: Request) -> None:
        self.send(Exchange(self.server, self, request).head(413, "Connection: close", length=0, content_type=None))
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.settimeout(1.0)
        while self.sock.recv(1 << 16):  # or closing would be an RST, which may overtake the answer
            pass

    def _exactly(self, size: int) -> bytes | None:
        while len(self._pending) < size:
            if not self._more():
                return None
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def _chunks(self) -> bytes | None:
        whole = b""
        while True:
            while b"\r\n" not in self._pending:
                if not self._more():
                    return None
            line, _, self._pending = self._pending.partition(b"\r\n")
            data = self._exactly(int(line.split(b";")[0], 16) + 2)
            if data is None:
                return None
            if data == b"\r\n":
                return whole
            whole += data[:-2]

    def _more(self) -> bool:
        data = self.sock.recv(1 << 16)
        self._pending += data
        self.heard = (self.heard + data)[:REMEMBERED]
        return bool(data)

    def send(self, data: bytes) -> None:
        if self.over or self.server.over.is_set():
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
        on: What it does instead of plain answers (module docstring).
        tls: Whose certificate it shows (faults.http_tls): True means its own.
        sessions: Whether the handshake era has sessions here.
        version: The version that the handshake era agrees to.
        tools: What tools/list says.
        max_body: Longer bodies are refused with 413, unread.
        family: The address family; AF_INET6 listens on ::1.
        port: The port; 0 means one that no server here has had, for a client may remember what it knows of a port.

    Attributes:
        on: Likewise; may be changed.
        requests: Every request, whole, in the order of arrival.
        abandoned: Those during whose manner the client hung up.
        live: The ids of the sessions that are known.
        accepted: How many connections have come.
        over: Set when it is to end.
    """

    def __init__(
        self,
        era: str = "stateless",
        *,
        on: Mapping[str, Any] | None = None,
        tls: bool | str = False,
        sessions: bool = True,
        version: str = LAST_HANDSHAKE,
        tools: list[dict[str, Any]] | None = None,
        max_body: int | None = None,
        family: int = socket.AF_INET,
        port: int = 0,
    ) -> None:
        assert era in ("handshake", "stateless"), era
        self.era, self.sessions, self.version, self.max_body = era, sessions, version, max_body
        self.on: dict[str, Any] = {}
        self.set(**(on or {}))
        self.tools = tools if tools is not None else [{"name": "echo", "inputSchema": {"type": "object"}}]
        self.context = server_context("here" if tls is True else tls) if tls else None
        self.requests: list[Request] = []
        self.abandoned: list[Request] = []
        self.errors: list[BaseException] = []
        self.live: set[str] = set()
        self.accepted = 0
        self.over = threading.Event()
        self._family = family
        self._lock = threading.Lock()  # guards all lists, and accepted
        self._made = 0  # sessions
        self._connections: list[_Connection] = []
        self._heard: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._acceptor: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self.port = port
        self._listen()

    # -- where it is

    @property
    def host(self) -> str:
        """The address, for a URL."""
        return "[::1]" if self._family == socket.AF_INET6 else "127.0.0.1"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.context else 'http'}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Of its one endpoint."""
        return self.origin + PATH

    # -- what it has seen

    def posts(self, method: str | None = None) -> list[Request]:
        """Return the POSTs so far, of one MCP method or of all."""
        with self._lock:
            return [r for r in self.requests if r.verb == "POST" and method in (None, r.method)]

    def calls(self, tool: str | None = None) -> list[Request]:
        """Return the calls of a tool so far, or of all tools."""
        return [request for request in self.posts("tools/call") if tool in (None, request.tool)]

    def verbs(self, verb: str) -> list[Request]:
        """Return the requests with an HTTP method, e.g. ``GET``."""
        with self._lock:
            return [request for request in self.requests if request.verb == verb]

    @property
    def heard(self) -> bytes:
        """Every byte that has ever arrived here, under TLS where there is TLS; a connection after the other."""
        with self._lock:
            return b"".join([*self._heard, *(connection.heard for connection in self._connections)])

    @property
    def connected(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._connections)

    @property
    def busy(self) -> int:
        """How many of them are not between two requests."""
        with self._lock:
            return sum(not connection.idle for connection in self._connections)

    # -- what it is told

    def set(self, **manners: Any) -> None:
        """Change some manners; None is the plain one. ``server.on[...]`` does, too."""
        for key, manner in manners.items():
            self.on[key] = list(manner) if isinstance(manner, (list, tuple)) else manner

    def hang_up(self, *, idle_only: bool = True, seconds: float = 5.0) -> int:
        """Close the connections that are kept alive, or all, and return how many those were, once they are closed."""
        with self._lock:
            chosen = [one for one in self._connections if one.idle or not idle_only]
        for connection in chosen:
            connection.interrupt()
        deadline = time.monotonic() + seconds
        while any(connection in self._connections for connection in chosen):
            assert time.monotonic() < deadline, "a connection does not end"
            time.sleep(0.001)
        return len(chosen)

    def forget_sessions(self) -> None:
        """Know no session any more: 404 for all that belongs to one."""
        self.live.clear()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Listen no longer inside the block, and on the same port afterwards."""
        self._unlisten()
        self.hang_up(idle_only=False)
        yield
        self._listen()

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Accept no connection inside the block, and let new ones wait for ever: the queue is full."""
        self._unlisten()
        self.hang_up(idle_only=False)
        with deaf_port(self.port):
            yield
        self._listen()

    def close(self) -> None:
        """End, and wait until all threads have; raise what a manner raised. Idempotent."""
        self.over.set()
        self._unlisten()
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

    # -- threads

    def _listen(self) -> None:
        address = "::1" if self._family == socket.AF_INET6 else "127.0.0.1"
        self._listener = _bound(self._family, address, self.port)
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        _known_ports.add(self.port)
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name=f"server-{self.port}")
        self._acceptor.start()

    def _unlisten(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None or self._acceptor is None:
            return
        try:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        except OSError:
            pass
        self._acceptor.join(10.0)
        listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                connection = _Connection(self, sock, self.accepted)
                self.accepted += 1
                name = f"server-{self.port}-{connection.number}"
                thread = threading.Thread(target=connection.run, name=name, daemon=True)
                self._connections.append(connection)
                self._threads.append(thread)
            thread.start()

    def _done(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.remove(connection)
            self._heard.append(connection.heard)
            self._threads = [thread for thread in self._threads if thread is not threading.current_thread()]

    def _remember(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def _manner(self, keys: list[str]) -> Manner | None:
        with self._lock:
            for key in keys:
                if key in self.on:
                    manner = self.on[key]
                    if not isinstance(manner, list):
                        return manner
                    return manner.pop(0) if manner else None
        return None

    # -- MCP

    def answer_to(self, request: Request) -> Answer:
        """Return the plain answer. A new session begins here, so ask once for each initialize."""
        if urlsplit(request.target).path != PATH:  # a target may be a whole URL: proxies are asked like that
            return Answer(404, text="there is nothing here")
        if request.verb != "POST":
            return self._answer_to_verb(request)
        if not request.method:
            return Answer(202)  # an answer to a question of ours
        problem = self._complaint(request)
        if problem is not None:
            return problem
        if request.id is None:
            return Answer(202)
        return self._answer_to_method(request)

    def _answer_to_verb(self, request: Request) -> Answer:
        if request.verb == "DELETE" and self.era == "handshake" and request.session in self.live:
            self.live.discard(request.session)
            return Answer(200)
        return Answer(405, headers={"Allow": "POST"})

    def _complaint(self, request: Request) -> Answer | None:
        if self.era == "stateless":
            return self._stateless_complaint(request)
        if request.method == "initialize" or not self.sessions:
            return None
        if request.method == "server/discover" or request.session is None:
            return Answer(400, text="Bad Request: Missing session ID")
        if request.session not in self.live:
            return failure(request, -32600, "Session not found", status=404, id=None)
        return None

    def _stateless_complaint(self, request: Request) -> Answer | None:
        if request.method == "initialize":
            return failure(request, -32601, "Method not found", status=404)
        meta = request.params.get("_meta") or {}
        if request.id is not None and "io.modelcontextprotocol/protocolVersion" not in meta:
            return failure(request, -32602, "no protocol version in _meta", status=400)
        wanted = {"mcp-protocol-version": STATELESS, "mcp-method": request.method}
        if request.tool.isascii() and request.tool:
            wanted["mcp-name"] = request.tool
        for name, value in wanted.items():
            if request.headers.get(name) != value and request.id is not None:
                return failure(request, -32020, f"{name} is {request.headers.get(name)!r}, not {value!r}", status=400)
        return None

    def _answer_to_method(self, request: Request) -> Answer:
        method = request.method
        if method == "initialize":
            return self._begin(request)
        if method == "server/discover" and self.era == "stateless":
            return self._result(request, supportedVersions=[STATELESS], capabilities={"tools": {}}, ttlMs=0)
        if method == "ping" and self.era == "handshake":
            return self._result(request)
        if method == "tools/list":
            return self._result(request, tools=self.tools)
        if method == "tools/call":
            return self._result(request, content=[{"type": "text", "text": json.dumps(request.arguments)}])
        return failure(request, -32601, "Method not found", status=404 if self.era == "stateless" else 200)

    def _begin(self, request: Request) -> Answer:
        headers = {}
        if self.sessions:
            with self._lock:
                self._made += 1
                session = f"session-{self._made}"
                self.live.add(session)
            headers["Mcp-Session-Id"] = session
        about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "small", "version": "1"}}
        result = {"protocolVersion": self.version, **about}
        return Answer(200, {"jsonrpc": "2.0", "id": request.id, "result": result}, headers=headers)

    def _result(self, request: Request, **result: Any) -> Answer:
        kind = {"resultType": "complete"} if self.era == "stateless" else {}
        return Answer(200, {"jsonrpc": "2.0", "id": request.id, "result": {**kind, **result}})


_known_ports: set[int] = set()


def _bound(family: int, address: str, port: int) -> socket.socket:
    """Return a socket at this port, or, for 0, at one that was never used before, where there is one."""
    for _ in range(100):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
        except OSError:
            sock.close()
            raise
        if port or sock.getsockname()[1] not in _known_ports:
            break
        sock.close()
    return sock


@contextmanager
def deaf_port(port: int = 0) -> Iterator[int]:
    """Give a port of 127.0.0.1 that lets whoever connects wait for ever."""
    fillers: list[socket.socket] = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        try:
            while not fillers or _connects(fillers[-1]):
                assert len(fillers) < 20, "the queue of this system never gets full"
                fillers.append(socket.socket())
                fillers[-1].setblocking(False)
                fillers[-1].connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


def _connects(sock: socket.socket, seconds: float = 0.05) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def failure(request: Request, code: int, message: str, *, status: int = 200, **more: Any) -> Answer:
    """Return a JSON-RPC error as an answer; ``id=...`` for another id than that of the request."""
    known = {"jsonrpc": "2.0", "id": request.id, "error": {"code": code, "message": message}}
    return Answer(status, {**known, **more})


def _parsed(head: bytes, connection: int) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    verb, target, *_ = [*first.split(" "), "", ""]
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.strip().lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return Request(verb, target, headers, head, connection=connection)


# -- manners -----------------------------------------------------------------------------------------------------------


def silent(exchange: Exchange) -> None:
    """Say nothing until the client hangs up."""
    exchange.hold()


def late(seconds: float) -> Manner:
    """Answer plainly, after a while."""

    def act(exchange: Exchange) -> None:
        exchange.pause(seconds)
        exchange.send(exchange.plain)

    return act


def says(data: bytes | str, then: str = "close") -> Manner:
    """Send these bytes, with the request's id in place of ``$ID``; then ``close``, ``reset``, ``hold`` or ``keep``."""
    raw = data.encode("latin-1") if isinstance(data, str) else data

    def act(exchange: Exchange) -> None:
        text = raw
        if b"$ID" in raw:
            text = raw.replace(b"$ID", json.dumps(exchange.request.id).encode())
        exchange.send(text)
        finish(exchange, then)

    return act


def replies(status: int = 200, body: bytes | str = b"", *headers: str, then: str = "keep", **more: Any) -> Manner:
    """Send a whole response; ``$ID`` in the body is the request's id. Keywords are those of ``Exchange.reply``."""
    raw = body.encode() if isinstance(body, str) else body

    def act(exchange: Exchange) -> None:
        text = raw.replace(b"$ID", json.dumps(exchange.request.id).encode()) if b"$ID" in raw else raw
        exchange.reply(status, text, *headers, **more)
        finish(exchange, then)

    return act


def streams(*blocks: str, chunked: bool = True, then: str = "close", answer: bool = True) -> Manner:
    """Answer with server-sent events: these blocks (``$ID`` is the request's id), then the plain answer as an event."""

    def act(exchange: Exchange) -> None:
        how = ["Transfer-Encoding: chunked"] if chunked else ["Connection: close"]
        exchange.send(exchange.head(200, *how, content_type=EVENTS))
        put = exchange.chunk if chunked else exchange.send
        last = [f"data: {exchange.body.decode()}\n\n"] if answer else []
        for block in [*blocks, *last]:
            put(block.replace("$ID", json.dumps(exchange.request.id)).encode())
        if then == "close" and chunked:
            exchange.send(b"0\r\n\r\n")
        finish(exchange, "keep" if then == "close" and chunked else then)

    return act


def finish(exchange: Exchange, how: str) -> None:
    """``close``, ``reset``, ``hold`` until the client hangs up, or ``keep`` the connection alive."""
    acts = {"close": exchange.close, "reset": exchange.reset, "hold": exchange.hold, "keep": lambda: None}
    acts[how]()
