"""Frames: how messages lie in a WebSocket: cut out of what a server sends, and built for what a client sends. Pure.

One message is one text message; binary ones are refused. What breaks the protocol is a Flaw, and ends the cutting: it
has the code to close with. A message over the limit is skipped, as an over-long line is; one that is far over it, or
that announces to be, is a Flaw.

Source: RFC 6455, sections 5 (frames), 7.4 (codes), 8.1 (UTF-8); RFC 7692 (compression, in deflate.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .deflate import Inflater
from .framing import KEPT_HEAD, KEPT_TAIL, Overlong

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NORMAL, GOING_AWAY, BROKEN, UNSUPPORTED, NO_CODE, NO_CLOSE = 1000, 1001, 1002, 1003, 1005, 1006
NO_TEXT, POLICY, TOO_BIG, NO_EXTENSION, INTERNAL, RESTART, TRY_LATER, GATEWAY = (*range(1007, 1015),)

CODES = {
    NORMAL: "normal closure",
    GOING_AWAY: "going away",
    BROKEN: "protocol error",
    UNSUPPORTED: "unsupported data",
    NO_CODE: "no code given",
    NO_CLOSE: "ended without a close frame",
    NO_TEXT: "invalid data",
    POLICY: "policy violation",
    TOO_BIG: "message too big",
    NO_EXTENSION: "extension missing",
    INTERNAL: "internal error",
    RESTART: "service restart",
    TRY_LATER: "try again later",
    GATEWAY: "bad gateway",
}
"""What the codes mean (RFC 6455, 7.4.1, and the registry it began)."""

LONGEST_CONTROL = 125
LONGEST_REASON = LONGEST_CONTROL - 2
ENDLESS_FACTOR = 4
"""A message so many times longer than the limit is given up on: it may never end."""
PACKED_SLACK = 1024
"""By how much a compressed message may be longer than what is in it; a 1,024th more is allowed for its blocks."""
XOR_BYTES = 1 << 14
"""How much is masked at once: what is longer leaves the processor's caches between two steps."""


@dataclass(frozen=True, slots=True)
class Ping:
    """The server wants a pong with this payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The server has answered a ping, or says so."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closing:
    """The server closes: the last of what it says."""

    code: int
    reason: str

    def __str__(self) -> str:
        """Return the code, what it means, and the reason."""
        meaning = f" ({CODES[self.code]})" if self.code in CODES else ""
        return f"code {self.code}{meaning}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Flaw:
    """The server breaks the protocol or a limit; nothing after this can be read.

    Attributes:
        code: To close with.
        why: What is wrong.
    """

    code: int
    why: str


Item: TypeAlias = "bytes | Overlong | Ping | Pong | Closing | Flaw"


class _Broken(Exception):
    """Carries a Flaw to where it becomes an item."""

    def __init__(self, why: str, code: int = BROKEN) -> None:
        super().__init__(why)
        self.flaw = Flaw(code, why)


class FrameCutter:
    """Cuts a server's stream into messages and control frames; linear in its length, bounded in memory by the limit.

    Args:
        limit: The longest message in bytes, decompressed.
        inflater: Decompresses; None: no compression was agreed.

    Attributes:
        wanted: How many bytes of the frame at hand are still to come; 0 between frames.
        over: Whether the server has closed, or there was a flaw.
    """

    def __init__(self, limit: int, inflater: Inflater | None = None) -> None:
        self.limit = limit
        self.wanted = 0
        self.over = False
        self._inflater = inflater
        self._rest = b""  # the beginning of a frame's head
        self._inside = False  # a frame whose head has been read
        self._opcode = CONTINUATION
        self._last = False  # whether it is its message's last
        self._control = bytearray()
        self._begun = False  # a message of which more frames are to come
        self._packed = False
        self._size = 0  # announced so far
        self._message = bytearray()
        self._skipped: _Skipped | None = None

    @property
    def skipping(self) -> bool:
        """Whether we are inside a message that is over the limit."""
        return self._skipped is not None

    def lone(self, data: bytes) -> tuple[int, int] | None:
        """Say of a whole message in a frame that begins with the data: the bytes of its head, and of the whole frame.

        None: it is something else, or too little, or in the middle of something: for ``feed``.
        """
        if len(data) < 2 or data[0] != 0x80 | TEXT or self._inside or self._begun or self._rest or self.over:
            return None
        size, head = data[1], 2
        if size > LONGEST_CONTROL:
            head = {126: 4, 127: 10}.get(size, 0)  # 0: it is masked, which only clients may do
            if not 0 < head <= len(data):
                return None
            size = int.from_bytes(data[2:head], "big")
        return (head, head + size) if size <= self.limit else None

    def feed(self, chunk: bytes) -> list[Item]:
        """Return all that the chunk completes, in order; a Closing or a Flaw is the last there will ever be."""
        items: list[Item] = []
        data = self._rest + chunk if self._rest else chunk
        self._rest = b""
        at = 0
        try:
            while not self.over:
                if not self._inside:
                    start = self._begin(data, at)
                    if not start:
                        self._rest = data[at:]
                        break
                    at = start
                end = at + self.wanted
                whole = end <= len(data)
                piece = data[at:end] if whole else data[at:]
                self.wanted -= len(piece)
                at += len(piece)
                self._take(piece, whole, items)
                if not whole:
                    break
                self._inside = False
        except _Broken as broken:
            items.append(broken.flaw)
            self.over = True
        return items

    # -- heads --------------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes, at: int) -> int:
        """Read the head of a frame; return where its payload begins, or 0: the head is not whole."""
        if len(data) - at < 2:
            return 0
        first, size = data[at], data[at + 1]
        self._check(first, size)
        at += 2
        if size > LONGEST_CONTROL:
            width = 2 if size == 126 else 8
            if len(data) - at < width:
                return 0
            size = int.from_bytes(data[at : at + width], "big")
            at += width
            if size >> 63:
                raise _Broken("a length of more than 63 bits")
        self._opcode, self._last = first & 0x0F, first >= 0x80
        if self._opcode < CLOSE:
            self._announce(size, bool(first & 0x40))
        self._inside = True
        self.wanted = size
        return at

    def _check(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if second & 0x80:
            raise _Broken("a masked frame, which only clients send")
        if first & 0x30 or (first & 0x40 and (self._inflater is None or opcode not in (TEXT, BINARY))):
            raise _Broken("a reserved bit, which belongs to no extension that was agreed")
        if opcode >= CLOSE:
            self._check_control(opcode, first, second)
        elif opcode == CONTINUATION:
            if not self._begun:
                raise _Broken("a continuation of nothing")
        elif self._begun:
            raise _Broken("a new message within another")
        elif opcode == BINARY:
            raise _Broken("a binary message: only text is MCP", UNSUPPORTED)
        elif opcode != TEXT:
            raise _Broken(f"the opcode {opcode}, which means nothing")

    def _check_control(self, opcode: int, first: int, size: int) -> None:
        if opcode > PONG:
            raise _Broken(f"the opcode {opcode}, which means nothing")
        if first < 0x80:
            raise _Broken("a control frame in pieces")
        if size > LONGEST_CONTROL:
            raise _Broken(f"a control frame of more than {LONGEST_CONTROL} bytes")

    def _announce(self, size: int, packed: bool) -> None:
        """Look at the length before a byte of it is read."""
        if self._opcode == TEXT:
            self._packed = packed
            self._size = 0
        self._begun = not self._last
        self._size += size
        if self._packed:
            if self._size > self.limit + self.limit // 1024 + PACKED_SLACK:
                raise self._too_big(f"at least {self._size} bytes, compressed")
        elif self._size > self.limit:
            if self._size > self.limit * ENDLESS_FACTOR:
                raise self._too_big(f"at least {self._size} bytes")
            if self._skipped is None:
                self._skipped = _Skipped(self._message, self.limit)
                self._message = bytearray()

    def _too_big(self, size: str) -> _Broken:
        return _Broken(f"a message of {size}; max_message_size is {self.limit}", TOO_BIG)

    # -- payloads -----------------------------------------------------------------------------------------------------

    def _take(self, piece: bytes, whole: bool, items: list[Item]) -> None:
        if self._opcode >= CLOSE:
            self._control += piece
            if whole:
                payload = bytes(self._control)
                self._control.clear()
                items.append(self._control_item(payload))
        elif self._skipped is not None:
            self._skipped.take(piece, items)
            if whole and self._last:
                self._skipped.finish(items)
                self._skipped = None
        elif not (whole and self._last):
            self._message += piece
        else:
            if self._message:
                self._message += piece
                piece = bytes(self._message)
                self._message = bytearray()
            self._finish(piece, items)

    def _finish(self, message: bytes, items: list[Item]) -> None:
        if self._packed:
            unpacked = self._unpacked(message, items)
            if unpacked is None:
                return
            message = unpacked
        if not message.isascii():
            try:
                str(message, "utf-8")
            except UnicodeDecodeError:
                raise _Broken("a text that is not UTF-8", NO_TEXT) from None
        items.append(message)

    def _unpacked(self, message: bytes, items: list[Item]) -> bytes | None:
        """Return what is in a compressed message; None: it was over the limit, and is reported."""
        assert self._inflater is not None
        found = bytearray()
        size = 0
        skipped: _Skipped | None = None
        try:
            for piece in self._inflater.pieces(message, self.limit + 1):
                size += len(piece)
                if size > self.limit * ENDLESS_FACTOR:
                    raise self._too_big(f"at least {size} bytes, decompressed")
                if size <= self.limit:
                    found += piece
                    continue
                skipped = skipped or _Skipped(found, self.limit)
                skipped.take(piece, items)
        except ValueError as flaw:
            raise _Broken(str(flaw), NO_TEXT) from None
        if skipped is None:
            return bytes(found)
        skipped.finish(items)
        return None

    def _control_item(self, payload: bytes) -> Item:
        if self._opcode == PING:
            return Ping(payload)
        if self._opcode == PONG:
            return Pong(payload)
        closing = _closing(payload)
        self.over = True
        return closing


class _Skipped:
    """A message over the limit: its beginning and its end are kept, to find out whose answer it was."""

    def __init__(self, start: bytearray, limit: int) -> None:
        self._limit = limit
        self._head = start[:KEPT_HEAD]
        self._tail = bytes(start[-KEPT_TAIL:])
        self._told = False

    def take(self, piece: bytes, items: list[Item]) -> None:
        """Skip some of it; report it as soon as what is kept of its beginning is whole."""
        if len(self._head) < KEPT_HEAD:
            self._head += piece[: KEPT_HEAD - len(self._head)]
        self._tail = (self._tail + piece[-KEPT_TAIL:])[-KEPT_TAIL:]
        if len(self._head) == KEPT_HEAD:
            self._tell(items)

    def finish(self, items: list[Item]) -> None:
        """Report its end."""
        self._tell(items)
        items.append(Overlong(bytes(self._head), self._limit, self._tail, ended=True))

    def _tell(self, items: list[Item]) -> None:
        if not self._told:
            self._told = True
            items.append(Overlong(bytes(self._head), self._limit))


def _closing(payload: bytes) -> Closing:
    if not payload:
        return Closing(NO_CODE, "")
    if len(payload) == 1:
        raise _Broken("a close code of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise _Broken(f"the close code {code}, which must not be sent")
    try:
        return Closing(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise _Broken("a reason to close that is not UTF-8", NO_TEXT) from None


def may_be_sent(code: int) -> bool:
    """Tell whether a close code may stand in a frame (RFC 6455, 7.4)."""
    return 3000 <= code <= 4999 or (NORMAL <= code <= GATEWAY and code not in (1004, NO_CODE, NO_CLOSE))


# -- what a client sends ----------------------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes, key: bytes, packed: bool = False) -> bytes:
    """Return a whole masked frame that is a whole message, or a control frame.

    Args:
        opcode: What it is.
        payload: What is in it; of a control frame at most 125 bytes.
        key: Four bytes of chance, for this frame only.
        packed: Whether the payload is compressed.
    """
    size = len(payload)
    first = 0xC0 | opcode if packed else 0x80 | opcode
    if size <= LONGEST_CONTROL:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return b"".join((head, key, *_masked(payload, key)))


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame; what is too long of the reason is left out."""
    if code == NO_CODE:
        return b""
    cut = reason.encode("utf-8", "replace")[:LONGEST_REASON].decode("utf-8", "ignore")
    return code.to_bytes(2, "big") + cut.encode()


def _masked(payload: bytes, key: bytes) -> list[bytes]:
    """Return the payload, masked, in pieces (RFC 6455, 5.3); one exclusive or of long numbers for each."""
    if len(payload) <= XOR_BYTES:
        return [_xor(payload, _mask(key, len(payload)))]
    mask = _mask(key, XOR_BYTES)
    full = len(payload) - len(payload) % XOR_BYTES
    pieces = [_xor(payload[at : at + XOR_BYTES], mask) for at in range(0, full, XOR_BYTES)]
    return [*pieces, _xor(payload[full:], _mask(key, len(payload) - full))]


def _mask(key: bytes, size: int) -> int:
    return int.from_bytes((key * (size // 4 + 1))[:size], "little")


def _xor(data: bytes, mask: int) -> bytes:
    return (int.from_bytes(data, "little") ^ mask).to_bytes(len(data), "little")
