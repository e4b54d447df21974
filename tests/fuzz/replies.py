"""Fuzz target: HTTP/1.1 as bytes (protocol/http1.py), beside http.client.

Who understands the end of a message otherwise takes the answer to one request for that to another.
"""

from __future__ import annotations

import http.client
import io
from typing import Any

from fuzz.provider import Provider, kept

from mcp_sync.protocol.http1 import MAX_LINE, MAX_TRAILER, BadFraming, BadHeader, Chunks, read_head, request_head

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Socket:
    """As much of a socket as http.client wants."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.file


def http_replies(data: bytes) -> None:
    """A head or a chunk that is read means what it means to http.client; and no header of ours becomes two."""
    feed = Provider(data)
    what = feed.below(4)
    if what == 0:
        _head(feed.rest())
    elif what == 1:
        _written_head(feed)
    elif what == 2:
        _chunks(feed)
    else:
        _request(feed)


# -- heads ------------------------------------------------------------------------------------------------------------

NAMES = (b"Content-Length", b"Transfer-Encoding", b"Connection", b"Content-Type", b"X", b"content-length", b"X\xa0")
VALUES = (b"0", b"5", b"chunked", b"close", b"keep-alive", b"+5", b"5, 5", b"0x5", b"identity", b"chunked, gzip", b"")
ENDS = (b"\r\n", b"\n", b"\r", b" \r\n", b"\r\n ", b"\r\r\n", b"\x0b\r\n")


def _written_head(feed: Provider) -> None:
    head = feed.pick((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 \r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 x\r\n", b""))
    for _ in range(feed.below(6)):
        value = feed.pick(VALUES) if feed.flag() else feed.line()
        head += feed.pick(NAMES) + feed.pick((b": ", b":", b" : ", b":\t", b"")) + value + feed.pick(ENDS)
    _head(head + b"\r\n" + feed.rest())


def _head(data: bytes) -> None:
    head = read_head(data)
    if head is None:
        return
    theirs = http.client.HTTPResponse(_Socket(data))  # type: ignore[arg-type]
    theirs.begin()
    assert (theirs.status, theirs.version) == (head.status, 11)
    assert {name.lower(): value for name, value in theirs.getheaders()} == dict(head.fields)
    assert len(theirs.getheaders()) == len(head.fields)
    assert theirs.chunked == head.chunked
    assert head.chunked or theirs.length == head.length
    assert theirs.will_close != head.stays
    assert theirs.fp.read() == data[head.size :]
    assert read_head(data[: head.size]) == head
    assert read_head(data[: head.size - 1]) is None


# -- chunks -----------------------------------------------------------------------------------------------------------


def _chunks(feed: Provider) -> None:
    how = feed.byte()
    stream, body = _written_chunks(feed) if feed.flag() else (feed.rest(), None)
    whole, parts = _read([stream]), _read(Provider(bytes([how])).pieces(stream))
    assert whole == parts, (whole, parts)
    assert body is None or whole == ("ended", body, b""), (whole, body)
    if whole[0] == "ended":
        theirs = http.client.HTTPResponse(_Socket(CHUNKED + stream))  # type: ignore[arg-type]
        theirs.begin()
        file: Any = theirs.fp
        assert theirs.read() == whole[1]
        assert file.read() == whole[2] if not file.closed else True


def _read(pieces: list[bytes]) -> tuple[str, bytes, bytes]:
    """Return how it ends, the body if it does, and what is behind it."""
    chunks, body = Chunks(), b""
    for number, piece in enumerate(pieces):
        try:
            body += chunks.feed(piece)
        except BadFraming:
            return "broken", b"", b""
        assert chunks.ended or kept(chunks) <= max(MAX_LINE, MAX_TRAILER) + len(piece)
        if chunks.ended:
            return "ended", body, chunks.beyond + b"".join(pieces[number + 1 :])
    return "unfinished", b"", b""


def _written_chunks(feed: Provider) -> tuple[bytes, bytes]:
    stream = body = b""
    for _ in range(feed.below(6)):
        payload = (feed.line() or b"x") * feed.pick((1, 300))
        size = feed.pick((b"%x", b"%X", b"000%x", b"%x ", b"%x;a=b", b'%x;a="b"')) % len(payload)
        stream += size + b"\r\n" + payload + b"\r\n"
        body += payload
    trailer = feed.pick((b"", b"X: y\r\n", b"X: y\r\nZ: \r\n"))
    return stream + feed.pick((b"0", b"000", b"0;x")) + b"\r\n" + trailer + b"\r\n", body


# -- requests ---------------------------------------------------------------------------------------------------------


def _request(feed: Provider) -> None:
    defaults = {"host": "Host: h", "accept": "Accept: */*"}
    headers = {feed.pick(("X-A", "x-a", "Content-Length", "Host", "X")): feed.latin() for _ in range(feed.below(5))}
    target, size = "/" + feed.latin(), feed.pick((None, 0, 5))
    try:
        raw = request_head("POST", target, defaults, headers, size)
    except (BadHeader, UnicodeEncodeError):
        return
    first, _, rest = raw.partition(b"\r\n")
    assert first == f"POST {target} HTTP/1.1".encode("latin-1")
    names = [line.partition(b":")[0].lower().decode("latin-1") for line in rest.split(b"\r\n")[:-2]]
    sent = {name.lower() for name in headers} - {"content-length"} | set(defaults)
    assert sorted(names) == sorted(sent | ({"content-length"} if size is not None else set()))
    assert rest.endswith(b"\r\n\r\n")
    assert rest.count(b"\n") == rest.count(b"\r") == rest.count(b"\r\n") == len(names) + 1
