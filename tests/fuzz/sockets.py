"""Fuzz target: two ends of a connection, plain or with TLS, that write and read as it comes (engine/lines.py)."""

from __future__ import annotations

import functools
import socket
import ssl
import time

from faults.http_tls import client_context, server_context
from fuzz.provider import Provider

from mcp_sync.engine.lines import Line, SecureLine

PATIENCE = 10.0
SIZES = (1, 2, 100, 5000, 40_000, 200_000)
BUFFER = 4096
"""Bytes that the system is asked to hold between the two ends; it holds a little more."""


@functools.cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return client_context(), server_context()


class _End:
    """One end: what it was given to write, and what it has read."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.given: list[bytes] = []
        self.read = b""

    def put(self, data: bytes) -> None:
        before = self.line.unsent
        self.line.put(data)
        self.given.append(data)
        assert self.line.unsent >= before
        assert self.line.blocked

    def take_back(self) -> None:
        if self.line.take_back():
            self.given.pop()

    def flush(self) -> None:
        assert self.line.flush() != self.line.blocked
        assert bool(self.line.unsent) == self.line.blocked

    def take(self, size: int) -> None:
        try:
            self.read += self.line.read(size)
        except BlockingIOError:
            pass


def socket_lines(data: bytes) -> None:
    """What is put arrives, all of it, once and in order; what could be taken back does not; nobody ever waits."""
    feed = Provider(data)
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    lines = _secure(ours, theirs) if feed.flag() else (Line(ours), Line(theirs))
    try:
        ends = [_End(line) for line in lines]
        _shake(*lines)
        while feed.left > 0:
            _act(ends[feed.below(2)], feed)
        _deliver(ends)
        assert ends[0].read == b"".join(ends[1].given)
        assert ends[1].read == b"".join(ends[0].given)
        _part(ends, feed)
    finally:
        for line in lines:
            line.close()


def _secure(ours: socket.socket, theirs: socket.socket) -> tuple[Line, Line]:
    client, server = _contexts()
    return SecureLine(Line(ours), client, "127.0.0.1"), SecureLine(Line(theirs), server, None)


def _shake(one: Line, other: Line) -> None:
    done = False
    until = time.monotonic() + PATIENCE
    while not done and time.monotonic() < until:
        done = all([one.shake(), other.shake()])  # both, whatever the first says
    assert done, "hands were not shaken"


def _act(end: _End, feed: Provider) -> None:
    what = feed.below(5)
    if what == 0:
        size = feed.pick(SIZES)
        end.put((feed.take(3) or b"x") * size)
    elif what == 1:
        end.take_back()
    elif what == 2:
        end.flush()
    else:
        end.take(feed.pick((1, 100, 65_536)))


def _deliver(ends: list[_End]) -> None:
    until = time.monotonic() + PATIENCE
    while any(end.line.blocked for end in ends) or any(_expects(*pair) for pair in (ends, ends[::-1])):
        assert time.monotonic() < until, "not everything arrives"
        for end in ends:
            end.flush()
            end.take(65_536)


def _expects(reader: _End, writer: _End) -> bool:
    return len(reader.read) < sum(map(len, writer.given))


def _part(ends: list[_End], feed: Provider) -> None:
    """One side says goodbye, or just goes; the other reads the end of the stream, or that it was torn."""
    first, second = ends if feed.flag() else ends[::-1]
    if feed.flag():
        first.line.say_goodbye()
    else:
        first.line.shut_down()
    try:
        assert second.line.read(100) == b""
    except (BlockingIOError, OSError):
        pass
