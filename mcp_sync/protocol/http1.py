"""HTTP/1.1 as bytes: the head of a request, and replies as nearly all of them are. Pure.

What is unusual in a reply's head, though it may be allowed, is not read here: whoever asked hands the same bytes to an
HTTP library that knows all of it. What is read is read strictly, for two readers that understand the ends of a message
differently are how one answer becomes another's: one length or chunks, never both; ends of lines in full; nothing
between the framing and the body.

Source: RFC 9112 (2 to 7: message format, message body length, chunks), RFC 9110 (5.5, 5.6.2: values and tokens).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_HEADERS = 100
"""As many as http.client takes."""
MAX_HEAD = 1 << 16
"""Bytes of a head; a longer one is unusual."""
MAX_LINE = 4096
"""Bytes of the line with a chunk's size, of which all but the size means nothing."""
MAX_TRAILER = 8192
"""Bytes behind the last chunk, which mean nothing either."""


class BadHeader(ValueError):
    """A header that would be another one, or two; the text does not show it."""


class BadFraming(ValueError):
    """Chunks that are none: where the body goes on, or ends, nobody can tell."""


class Fields(dict[str, str]):
    """Headers by their names in lower case, which may be asked for in any."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a header."""
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())


# -- asking -----------------------------------------------------------------------------------------------------------

FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that are ours to say: they are told by the body."""


def request_head(
    method: str, target: str, defaults: Mapping[str, str], headers: Mapping[str, str], size: int | None
) -> bytes:
    """Return the head of a request.

    Args:
        method: The method.
        target: The path and the query, in ASCII.
        defaults: Headers, whole lines by their names in lower case, for where ``headers`` has none of that name.
        headers: The headers; of one that is there in two spellings, the last counts. What they say of the body's
            length does not.
        size: The length of the body in bytes; None: there is none.

    Raises:
        BadHeader: One holds the end of a line.
        UnicodeEncodeError: One is not in latin-1.
    """
    fields = dict(defaults)
    for name, value in headers.items():
        fields[name.lower()] = f"{name}: {value}"
    for name in FRAMING:
        fields.pop(name, None)
    if size is not None:
        fields["content-length"] = f"Content-Length: {size}"
    lines = (f"{method} {target} HTTP/1.1", *fields.values())
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise BadHeader("a header holds a line break or a NUL, or the target does")
    return (text + "\r\n\r\n").encode("latin-1")


# -- the head of a reply ----------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """The head of a reply.

    Attributes:
        status: From 200 to 599.
        fields: The headers.
        length: Of the body, in bytes.
        chunked: Whether it comes in chunks instead.
        stays: Whether the connection can be used again when the body has come.
        size: Of the head, in bytes.
    """

    status: int
    fields: Fields
    length: int
    chunked: bool
    stays: bool
    size: int


_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_FIELD = rb"[!#-'*+\-.^-z|~0-9A-Z]+:" + _TEXT + rb"\r\n"
_HEAD = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: " + _TEXT + rb")?\r\n((?:" + _FIELD + rb")*)\r\n")
_LENGTH = re.compile(r"[0-9]{1,18}")


def read_head(data: bytes) -> Head | None:
    """Return the head that the bytes begin with; None where it is unusual, or not all there.

    Unusual are: another version, an interim status, a header that is repeated, folded lines, bad characters, ends of
    lines without a return, or with a blank before it; more than one way to tell where the body ends, or none; a body
    that is compressed; a header that wants to be remembered (Set-Cookie).
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD) + 4
    found = _HEAD.fullmatch(data, 0, end)
    if found is None or b" \r\n" in found[2] or b"\t\r\n" in found[2]:
        return None  # some readers take the blank at the end for a part of the value
    lines = found[2].decode("latin-1").split("\r\n")
    fields: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.lstrip(" \t")
    if len(fields) != len(lines) - 1 or len(fields) > MAX_HEADERS:
        return None
    return _framed(int(found[1]), fields, end)


def _framed(status: int, fields: dict[str, str], size: int) -> Head | None:
    stays = _STAYS.get(fields.get("connection", "keep-alive").lower())
    if stays is None or "content-encoding" in fields or "set-cookie" in fields:
        return None
    ends = _end(status, fields)
    return None if ends is None else Head(status, Fields(fields), *ends, stays, size)


_STAYS = {"keep-alive": True, "close": False}


def _end(status: int, fields: dict[str, str]) -> tuple[int, bool] | None:
    """Return the length of the body, and whether it is in chunks instead; None: that is unusual."""
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if status in (204, 304) or (length is None) == (coding is None):
        return (0, False) if status == 204 and length is None and coding is None else None
    if coding is not None:
        return (0, True) if coding.lower() == "chunked" else None
    return (int(length), False) if length is not None and _LENGTH.fullmatch(length) else None


# -- a body in chunks -------------------------------------------------------------------------------------------------

_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;" + _TEXT + rb")?")


class Chunks:
    """Takes a body out of its chunks, wherever the network has cut them; linear, and it keeps no more than a line.

    Attributes:
        ended: Whether the last chunk has come, and what belongs to it.
        beyond: What came behind that, and belongs to nobody.
    """

    def __init__(self) -> None:
        self.ended = False
        self.beyond = b""
        self._owed = 0  # bytes of the chunk that has begun, with the end of its last line
        self._held = b""  # the beginning of a line that says a size
        self._trailing = False

    def feed(self, data: bytes) -> bytes:
        """Return what of the body is in the data.

        Raises:
            BadFraming: These are no chunks.
        """
        pieces: list[bytes] = []
        at = self._finish(data, pieces) if self._owed else 0
        if self._held:
            data, at, self._held = self._held + data[at:], 0, b""
        while not self._trailing:
            end = data.find(b"\r\n", at, at + MAX_LINE)
            if end < 0:
                self._hold(data[at:])
                return b"".join(pieces)
            found = _SIZE.fullmatch(data, at, end)
            if found is None:
                raise BadFraming("the size of a chunk is none")
            size, at = int(found[1], 16), end + 2
            self._trailing = not size
            if size:
                at = self._take(data, at, size, pieces)
        self._trail(data[at:])
        return b"".join(pieces)

    def _take(self, data: bytes, at: int, size: int, pieces: list[bytes]) -> int:
        """Take a chunk, or what there is of it, and return where it ends."""
        end = at + size
        pieces.append(data[at:end])
        if len(data) >= end + 2:
            if not data.startswith(b"\r\n", end):
                raise BadFraming("a chunk is longer than its size")
            return end + 2
        self._owed = size + 2
        return at + self._finish(data[at:], [])

    def _finish(self, data: bytes, pieces: list[bytes]) -> int:
        """Go on with a chunk that has begun, and return where it ends."""
        body = max(0, self._owed - 2)
        pieces.append(data[:body])
        rest = data[body : self._owed]
        if rest != b"\r\n"[2 - (self._owed - body) :][: len(rest)]:
            raise BadFraming("a chunk is longer than its size")
        taken = min(len(data), self._owed)
        self._owed -= taken
        return taken

    def _hold(self, rest: bytes) -> None:
        if len(rest) >= MAX_LINE or b"\n" in rest:
            raise BadFraming("the size of a chunk has no end")
        self._held = rest

    def _trail(self, rest: bytes) -> None:
        end = 0 if rest.startswith(b"\r\n") else rest.find(b"\r\n\r\n") + 2
        ended = end >= 2 or rest.startswith(b"\r\n")
        trailer = rest[:end] if ended else rest.removesuffix(b"\r")
        if len(trailer) > MAX_TRAILER or trailer.count(b"\n") != trailer.count(b"\r\n"):
            raise BadFraming("what follows the last chunk has no end")
        if ended:
            self.ended, self.beyond = True, rest[end + 2 :]
        else:
            self._held = rest
