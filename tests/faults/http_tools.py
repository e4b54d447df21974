"""What the fault tests of HTTP share: a client of a scripted server, manners that spoil a response, assertions.

The bounds are those of faults.tools: ``within(seconds)`` adds noise and what the machine took from us.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import pickle
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from faults.http_server import EVENTS, Exchange, Manner, Server, finish
from faults.tools import PATIENCE, close, within

from mcp_sync import Client, MCPError

T = 0.25
"""The timeout of a call that is meant to time out."""
NOW = 1.0
"""What has to be said at once is said within so many seconds."""
CANARY = "c4naryS3cret"
BLOCK = b"x" * 65536

SERVER_OPTIONS = ("tls", "sessions", "version", "tools", "max_body", "family", "port")


@contextmanager
def serving(
    era: str = "stateless", *, on: Mapping[str, Any] | None = None, url: str = "", **about: Any
) -> Iterator[tuple[Client, Server]]:
    """Give a connected client and its server; afterwards both are closed, in time, and the counters add up.

    Keywords are those of the server and of the client; ``on`` holds from the first request of the client on.
    ``url`` may say where the client connects to; ``{port}`` in it is the port.
    """
    options = {key: about.pop(key) for key in SERVER_OPTIONS if key in about}
    about.setdefault("timeout", PATIENCE)
    with Server(era, on=on, **options) as server:
        client = Client(url.format(port=server.port) if url else server.url, **about)
        try:
            client.connect()
            yield client, server
        finally:
            close(client)


@contextmanager
def unconnected(
    era: str = "stateless", *, on: Mapping[str, Any] | None = None, url: str = "", **about: Any
) -> Iterator[tuple[Client, Server]]:
    """Give a client that has not connected yet, likewise."""
    options = {key: about.pop(key) for key in SERVER_OPTIONS if key in about}
    about.setdefault("timeout", PATIENCE)
    with Server(era, on=on, **options) as server:
        client = Client(url.format(port=server.port) if url else server.url, **about)
        try:
            yield client, server
        finally:
            with within(5.0):
                client.close()


# -- manners that spoil a response -------------------------------------------------------------------------------------


def sends(make: Callable[[Exchange], bytes], then: str = "close") -> Manner:
    """Send what a function makes of the exchange; then ``close``, ``reset``, ``hold`` or ``keep``."""

    def act(exchange: Exchange) -> None:
        exchange.send(make(exchange))
        finish(exchange, then)

    return act


def closes(exchange: Exchange) -> None:
    """Close, without a word."""
    exchange.close()


def resets(exchange: Exchange) -> None:
    """Reset the connection, without a word."""
    exchange.reset()


def gzipped(data: bytes) -> bytes:
    """Return a gzip file."""
    return gzip.compress(data, mtime=0)


def dressed(exchange: Exchange, body: bytes, *headers: str, length: int | None = None, **more: Any) -> bytes:
    """Return a whole response with this body, and a Content-Length which may lie."""
    return exchange.head(200, *headers, length=len(body) if length is None else length, **more) + body


def chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


def drips(make: Callable[[Exchange], bytes], every: float = 0.05, size: int = 1) -> Manner:
    """Send what a function makes, a little at a time."""
    return lambda exchange: exchange.drip(make(exchange), every, size)


def goes_on(start: Callable[[Exchange], bytes], more: bytes = BLOCK, every: float = 0.0) -> Manner:
    """Send a beginning, and then the same bytes for ever."""

    def act(exchange: Exchange) -> None:
        exchange.send(start(exchange))
        while True:
            exchange.send(more)
            if every:
                exchange.pause(every)

    return act


def goes_on_in_chunks(status: int = 200, first: str = "", more: bytes = BLOCK, **about: Any) -> Manner:
    """Send a chunked body without end; ``$ID`` in its beginning is the request's id."""

    def act(exchange: Exchange) -> None:
        exchange.send(exchange.head(status, "Transfer-Encoding: chunked", **about))
        if first:
            exchange.chunk(first.replace("$ID", str(exchange.request.id)).encode())
        while True:
            exchange.chunk(more)

    return act


ENDLESS_RESULT = '{"jsonrpc": "2.0", "id": $ID, "result": {"resultType": "complete", "content": [], "x": "'


def zipped_bomb(start: bytes, megabytes: int, wbits: int = 31) -> bytes:
    """Return a beginning and so many MiB of blanks, compressed a thousandfold without making them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    beginning = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    unit = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return beginning + unit * megabytes


def bomb(coding: str = "gzip", megabytes: int = 1024, status: int = 200, **about: Any) -> Manner:
    """Answer with a bomb; ``gzip, gzip`` is one in another."""

    def act(exchange: Exchange) -> None:
        start = ENDLESS_RESULT.replace("$ID", str(exchange.request.id)).encode()
        data = zipped_bomb(start, megabytes, 15 if coding == "deflate" else 31)
        for _ in range(coding.count(",")):
            data = gzipped(data)
        exchange.send(exchange.head(status, f"Content-Encoding: {coding}", length=len(data), **about) + data)

    return act


def event_stream(exchange: Exchange) -> bytes:
    """Return the head of a stream of events that ends with the connection."""
    return exchange.head(200, "Connection: close", content_type=EVENTS)


def announced(size: int) -> Manner:
    """Answer with a result of so many bytes, well-formed and announced."""

    def act(exchange: Exchange) -> None:
        start = ENDLESS_RESULT.replace("$ID", str(exchange.request.id)).encode()
        exchange.send(exchange.head(200, length=size) + start)
        left = size - len(start) - 3
        for _ in itertools.repeat(None, left // len(BLOCK)):
            exchange.send(BLOCK)
        exchange.send(BLOCK[: left % len(BLOCK)] + b'"}}')

    return act


def never(exchange: Exchange) -> None:
    """Fail the test: this should not have been asked for."""
    raise AssertionError(f"asked for {exchange.request.verb} {exchange.request.target} {exchange.request.method}")


class Gate:
    """A manner that answers plainly once it is opened."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = False

    def __call__(self, exchange: Exchange) -> None:
        self.waiting += 1
        while not self._open:
            exchange.hold(0.005)
        exchange.send(exchange.plain)

    def open(self) -> None:
        """Let all pass."""
        self._open = True


# -- what is asserted --------------------------------------------------------------------------------------------------


def tells(error: MCPError, server: Server, method: str = "tools/call", **more: Any) -> None:
    """Check I6: the error names the transport, the server, the method, the phase and the times."""
    __tracebackhide__ = True
    details = error.details
    assert "http" in str(details["transport"]), details
    assert str(server.port) in f"{details.get('server', '')} {details.get('url', '')}", details
    assert details["method"] == method, details
    assert details["phase"] in ("connect", "send", "wait", "parse"), details
    assert 0 <= details["elapsed"] < PATIENCE, details
    assert method in str(error)
    for key, value in more.items():
        assert details[key] == value, (key, details)


def spellings(secret: str) -> Iterator[bytes]:
    """Yield how a secret may look when it is found where it does not belong."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    for shift in range(3):  # in the middle of something in base64, at each of its three offsets
        text = base64.b64encode(b"\0" * shift + secret.encode())[4:]
        yield text.rstrip(b"=")[:-1]


def is_silent_about(secret: str, *where: Any) -> None:
    """Check I12: neither texts, objects' reprs, nor errors with all that hangs on them, tell the secret."""
    __tracebackhide__ = True
    for one in where:
        for spelling in spellings(secret):
            assert spelling not in _everything_about(one), f"{spelling!r} in {type(one).__name__}"


def _everything_about(one: Any) -> bytes:
    if isinstance(one, bytes):
        return one
    texts = [str(one), repr(one)]
    found = b""
    if isinstance(one, BaseException):
        texts += traceback.format_exception(type(one), one, one.__traceback__)
        texts += [repr(getattr(one, "details", None)), repr(vars(one))]
        found = pickle.dumps(one)
    return "\n".join(texts).encode(errors="replace") + found
