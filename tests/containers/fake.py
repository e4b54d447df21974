"""A small Docker engine on a unix socket or TCP: it has no containers, and misbehaves at whatever step it is told to.

The server in its "containers" is a Partner on a thread. ``faults`` says at which step what goes wrong:

======  ================================================================================================================
hang    nothing is answered until the engine ends
close   the connection is closed without an answer
cut     half an answer comes, and the connection is closed
drip    the answer comes byte by byte, one in 50 ms, without end
junk    what comes is no HTTP
odd     what comes is JSON of another shape
int     an answer with that status, and a message
======  ================================================================================================================
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mcp_sync.testing import Partner

STEPS = {
    "version": ("GET", r"/version"),
    "list": ("GET", r"/containers/json"),
    "pull": ("POST", r"/images/create"),
    "create": ("POST", r"/containers/create"),
    "attach": ("POST", r"/containers/([^/]+)/attach"),
    "start": ("POST", r"/containers/([^/]+)/start"),
    "inspect": ("GET", r"/containers/([^/]+)/json"),
    "kill": ("POST", r"/containers/([^/]+)/kill"),
    "remove": ("DELETE", r"/containers/([^/]+)"),
}
PHRASES = {200: "OK", 201: "Created", 204: "No Content", 404: "Not Found", 409: "Conflict"}


class FrameWire:
    """The Wire of a Partner behind an attached connection: lines in, frames out."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    def read(self) -> bytes | None:
        """Return the next line."""
        try:
            return self._lines.readline() or None
        except OSError:
            return None

    def write(self, data: bytes) -> None:
        """Write one frame of stdout."""
        self.frame(1, data + b"\n")

    def frame(self, stream: int, payload: bytes) -> None:
        """Write one frame."""
        try:
            self._connection.sendall(struct.pack(">BxxxL", stream, len(payload)) + payload)
        except OSError:
            pass

    def idle(self) -> None:
        """Read nothing until the other side has closed."""

    def close(self) -> None:
        """End the streams, as an engine does when the container has ended."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._lines.close()

    def die(self) -> None:
        """The same."""
        self.close()


class FakeEngine:
    """The engine; a context.

    Args:
        faults: What goes wrong at which step.
        tcp: Whether it listens on TCP; or with which TLS context.
        serve: What the server in a container does, given its wire; by default it is a Partner.

    Attributes:
        host: For DOCKER_HOST.
        log: The steps that were asked for, each with the container's name or id, or what else there was.
        containers: What is there now: id by name.
        stuck: Is set when something hangs.
    """

    def __init__(
        self, serve: Callable[[FrameWire], object] | None = None, tcp: bool | ssl.SSLContext = False, **faults: Any
    ) -> None:
        self.faults = faults
        self.log: list[tuple[str, str]] = []
        self.containers: dict[str, str] = {}
        self.created: list[str] = []
        self.state: dict[str, Any] = {"Running": False, "ExitCode": 0, "OOMKilled": False}
        self.listed: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.stuck = threading.Event()
        self._serve = serve or (lambda wire: Partner(wire).run())
        self._over = threading.Event()
        self._numbers = itertools.count(1)
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._folder = tempfile.mkdtemp(prefix="fake-")
        self._context = tcp if isinstance(tcp, ssl.SSLContext) else None
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.host = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            path = str(Path(self._folder) / "s")
            self.host = f"unix://{path}"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(50)
        self._start(self._accept)

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for one in (self._listener, *self._connections):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()
        for thread in self._threads:
            thread.join(10)
        shutil.rmtree(self._folder)

    def steps(self) -> list[str]:
        """Return the names of the steps so far."""
        return [step for step, _ in self.log]

    def _start(self, work: Callable[..., object], *args: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=args, name="fake-engine"))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        if self._context is not None:
            try:
                connection = self._context.wrap_socket(connection, server_side=True)
            except OSError:
                return
        self._connections.append(connection)
        reader = connection.makefile("rb")
        try:
            while (request := self._request(reader)) is not None:
                if not self._answer(connection, *request):
                    break
        except (OSError, ValueError):
            pass  # closed by either side
        finally:
            reader.close()
            connection.close()

    def _request(self, reader: Any) -> tuple[str, str, bytes] | None:
        line = reader.readline().split()
        if len(line) < 3:
            return None
        length = 0
        while (header := reader.readline().strip()) != b"":
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        return line[0].decode(), line[1].decode(), reader.read(length)

    def _answer(self, connection: socket.socket, method: str, target: str, body: bytes) -> bool:
        """Answer one request; False: the connection is of no more use."""
        url = urlsplit(target)
        path = re.sub(r"^/v[\d.]+", "", url.path)
        for step, (verb, pattern) in STEPS.items():
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                about = found[1] if found.groups() else parse_qs(url.query).get("name", [""])[0]
                self.log.append((step, about))
                return self._do(step, about, connection, body)
        self._reply(connection, 404, {"message": "page not found"})
        return True

    def _do(self, step: str, about: str, connection: socket.socket, body: bytes) -> bool:
        fault = self.faults.get(step)
        if fault is None or (isinstance(fault, str) and fault.startswith("after ")):
            answer = getattr(self, "_start_container" if step == "start" else f"_{step}")
            done = bool(answer(connection, about, body)) if fault is None else self._late(step, about, body)
            return done if fault is None else self._misbehave(fault[6:], connection)
        return self._misbehave(fault, connection)

    def _late(self, step: str, about: str, body: bytes) -> bool:
        """Do it, though the answer will never arrive."""
        nobody, other = socket.socketpair()
        with nobody, other:
            return bool(getattr(self, "_start_container" if step == "start" else f"_{step}")(nobody, about, body))

    def _misbehave(self, fault: Any, connection: socket.socket) -> bool:
        if callable(fault):
            fault()
        elif isinstance(fault, int):
            self._reply(connection, fault, {"message": f"the fake says {fault}"})
            return True
        elif isinstance(fault, tuple):
            self._reply(connection, *fault)
            return True
        elif fault == "hang":
            self.stuck.set()
            self._over.wait(60)
        elif fault == "cut":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
        elif fault == "drip":
            self.stuck.set()
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not self._over.wait(0.05):
                connection.sendall(b"x")
        elif fault == "junk":
            connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        elif fault == "odd":
            self._reply(connection, 200, ["odd"])
            return True
        return False

    def _reply(self, connection: socket.socket, status: int, body: Any = None) -> bool:
        text = b"" if body is None else json.dumps(body).encode()
        kind = b"Content-Type: application/json\r\n" if body is not None else b""
        head = f"HTTP/1.1 {status} {PHRASES.get(status, 'Whatever')}\r\nContent-Length: {len(text)}\r\n".encode()
        connection.sendall(head + kind + b"\r\n" + text)
        return True

    # -- the steps -----------------------------------------------------------------------------------------------------

    def _version(self, connection: socket.socket, about: str, body: bytes) -> bool:
        return self._reply(connection, 200, {"ApiVersion": "1.41", "Version": "20.10.0"})

    def _list(self, connection: socket.socket, about: str, body: bytes) -> bool:
        return self._reply(connection, 200, self.listed)

    def _pull(self, connection: socket.socket, about: str, body: bytes) -> bool:
        return self._reply(connection, 200, {"status": "Downloaded"})

    def _create(self, connection: socket.socket, about: str, body: bytes) -> bool:
        self.requests.append(json.loads(body))
        self.containers[about] = id_ = f"{next(self._numbers):064x}"
        self.created.append(id_)
        return self._reply(connection, 201, {"Id": id_, "Warnings": []})

    def _attach(self, connection: socket.socket, about: str, body: bytes) -> bool:
        head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
        connection.sendall(head + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        self._serve(FrameWire(connection))
        return False

    def _nothing(self, connection: socket.socket, about: str, body: bytes) -> bool:
        return self._reply(connection, 204)

    _start_container = _kill = _nothing

    def _inspect(self, connection: socket.socket, about: str, body: bytes) -> bool:
        return self._reply(connection, 200, {"Id": about, "State": self.state, "Config": {}})

    def _remove(self, connection: socket.socket, about: str, body: bytes) -> bool:
        names = [name for name, id_ in self.containers.items() if about in (name, id_)]
        for name in names:
            del self.containers[name]
        return self._reply(connection, *((204,) if names else (404, {"message": f"No such container: {about}"})))
