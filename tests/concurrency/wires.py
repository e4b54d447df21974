"""A server whose every message is let through by the test, over real pipes: the test holds the server's ends.

The transport starts a child, as ever; the child hands its stdin and stdout to the test and waits. So what a client has
written is read when the test says so, and what it is to read is written when and in the pieces the test says so.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.tools import PATIENCE, adds_up, until

from mcp_sync import MCPSession, StdioTransport
from mcp_sync.testing.tools import start_thread

# Hands over 0 and 1, and stays until either side hangs up.
CHILD = """
import os, select, signal, socket, sys
signal.alarm(120)
test = socket.socket(socket.AF_UNIX)
test.connect(sys.argv[1])
socket.send_fds(test, [b"!"], [0, 1])
both = select.poll()
both.register(0, select.POLLHUP)
both.register(test, select.POLLIN)
both.poll()
"""


class Wire:
    """The server's side of one connection over stdio, in the test's hands. By itself it answers
    ``server/discover``, and refuses ``subscriptions/listen``.

    Attributes:
        written: The messages that were read so far.
    """

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="mcp-")
        self._path = str(Path(self._folder.name) / "s")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen(1)
        self._reading = threading.Event()
        self._reading.set()
        self._lock = threading.Lock()  # guards the descriptors against being closed while they are used
        self._child: socket.socket | None = None
        self._stdin = self._stdout = -1
        self._over, self._stop = os.pipe()
        self._thread = start_thread("mcp-contract-wire", self._serve)

    @property
    def command(self) -> list[str]:
        """What starts the child."""
        return [sys.executable, "-I", "-S", "-c", CHILD, self._path]

    # -- what the client has written

    def _serve(self) -> None:
        ready = select.select([self._listener, self._over], [], [])[0]
        if self._listener not in ready:
            return
        self._child, _ = self._listener.accept()
        _, (self._stdin, self._stdout), _, _ = socket.recv_fds(self._child, 1, 2)
        os.set_blocking(self._stdin, False)
        self._read()

    def _read(self) -> None:
        rest = b""
        poll = select.poll()
        for descriptor in (self._stdin, self._over):
            poll.register(descriptor, select.POLLIN)
        while True:
            self._reading.wait()
            if any(descriptor == self._over for descriptor, _ in poll.poll()):
                return
            try:
                chunk = os.read(self._stdin, 1 << 16) if self._reading.is_set() else None
            except BlockingIOError:
                continue
            if chunk == b"":
                return
            *lines, rest = (rest + (chunk or b"")).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        self.written.append(message)
        try:
            if message.get("method") == "server/discover":
                self.answer(message, supportedVersions=["2026-07-28"], capabilities={})
            elif message.get("method") == "subscriptions/listen":
                self.say({"id": message["id"], "error": {"code": -32601, "message": "no"}})
        except BrokenPipeError:
            pass  # whoever asked has gone

    def asked(self, method: str, count: int = 1) -> dict[str, Any]:
        """Return the last of so many messages of a method."""
        found = until(lambda: [each for each in self.written if each["method"] == method][count - 1 :])
        return dict(found[0])

    def deaf(self) -> None:
        """Read no more, but perhaps one piece, until ``hear``."""
        self._reading.clear()

    def hear(self) -> None:
        """Read again."""
        self._reading.set()

    # -- what it is to read

    def put(self, data: bytes) -> None:
        """Write these bytes, waiting for room."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._stdout, view) :]

    def say(self, *messages: dict[str, Any]) -> None:
        """Write these messages, in one piece."""
        self.put(b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in messages))

    def answer(self, request: dict[str, Any], **result: Any) -> None:
        """Answer a request."""
        self.say(reply(request, **result))

    def die(self) -> None:
        """Close stdout, and be gone."""
        self._give_back()

    def close(self) -> None:
        """End all that is left. Idempotent."""
        self._reading.set()
        os.write(self._stop, b"!")
        self._thread.join(PATIENCE)
        self._give_back()
        self._listener.close()
        os.close(self._over)
        os.close(self._stop)
        self._folder.cleanup()

    def _give_back(self) -> None:
        with self._lock:
            stdout, self._stdout = self._stdout, -1
            child, self._child = self._child, None
            if stdout >= 0:
                os.close(stdout)
            if child is not None:
                child.close()
            if not self._thread.is_alive() and self._stdin >= 0:
                os.close(self._stdin)
                self._stdin = -1


def reply(request: dict[str, Any], **result: Any) -> dict[str, Any]:
    """Return the answer to a request."""
    return {"id": request["id"], "result": {"resultType": "complete", **result}}


def news(number: int, size: int = 0) -> dict[str, Any]:
    """Return a notification."""
    return {"method": "notifications/message", "params": {"level": "info", "data": {"n": number, "x": "x" * size}}}


@contextmanager
def wired(**knobs: Any) -> Iterator[tuple[MCPSession, Wire]]:
    """Give a session and its wire; afterwards nothing is pending, and the counters add up."""
    knobs.setdefault("timeout", PATIENCE)
    wire = Wire()
    try:
        session = StdioTransport(wire.command, **knobs).create_session()
        try:
            yield session, wire
        finally:
            wire.hear()
            session.close()
            adds_up(session.counters)
            assert session.counters["pending"] == 0
    finally:
        wire.close()


def result_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what the era adds to it."""
    return {key: value for key, value in answer.items() if key != "resultType"}
