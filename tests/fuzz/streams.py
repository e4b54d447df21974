"""Fuzz targets: bytes that come in pieces: lines, events, frames of WebSockets and of Docker, and compression.

Each is compared with something slow and simple that sees the whole of it at once; and what it holds on to meanwhile is
bounded by its limit.
"""

from __future__ import annotations

import zlib
from itertools import groupby
from typing import Any

from fuzz.provider import Provider, kept
from protocol import whatwg
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame
from websockets.streams import StreamReader

from mcp_sync.protocol import deflate, demux, frames
from mcp_sync.protocol.framing import KEPT_HEAD, KEPT_TAIL, LineSplitter, Overlong
from mcp_sync.protocol.sse import NotText, TooLong
from mcp_sync.transports.events import EventReader

LIMITS = (1000, 0, 1, 7, 30, 70_000)
SLACK = KEPT_HEAD + 2 * KEPT_TAIL + 64

# -- lines ------------------------------------------------------------------------------------------------------------


def lines(data: bytes) -> None:
    """The line splitter is ``split(b"\\n")``, whatever the cuts; over-long lines are told twice, and not kept."""
    feed = Provider(data)
    splitter = LineSplitter(feed.pick(LIMITS))
    pieces, found = feed.stream(), list[Any]()
    for piece in pieces:
        found += splitter.feed(piece)
        assert kept(splitter) <= splitter.limit + SLACK, kept(splitter)
    *whole, rest = b"".join(pieces).split(b"\n")
    expected = [item for line in whole for item in _line(line, splitter.limit)]
    expected += [("begins", rest)] if len(rest) > splitter.limit else []
    assert len(found) == len(expected), (found, expected)
    for one, other in zip(found, expected, strict=True):
        assert _is_line(one, other, splitter.limit), (one, other)
    assert splitter.skipped == (len(rest) if len(rest) > splitter.limit else 0)
    assert splitter.flush() == (b"" if len(rest) > splitter.limit else rest)


def _line(line: bytes, limit: int) -> list[Any]:
    if len(line) > limit:
        return [("begins", line), ("ends", line)]
    stripped = line.strip(b" \t\r")
    return [stripped] if stripped else []


def _is_line(found: Any, expected: Any, limit: int) -> bool:
    if isinstance(expected, bytes):
        return type(found) is bytes and found == expected
    what, line = expected
    if type(found) is not Overlong or found.limit != limit or found.ended != (what == "ends"):
        return False
    shortest = min(limit + 1, KEPT_HEAD)  # how much more there is of it depends on the cuts
    head = line.startswith(found.head) and shortest <= len(found.head) <= KEPT_HEAD
    return head and found.tail == (line[-KEPT_TAIL:] if found.ended else b"")


# -- events -----------------------------------------------------------------------------------------------------------


def sse(data: bytes) -> None:
    """Server-sent events are what a reader makes of them that was written down from the WHATWG text."""
    feed = Provider(data)
    limit = feed.pick(LIMITS)
    reader = EventReader(limit)
    pieces, found = feed.stream(), list[Any]()
    for piece in pieces:
        found += reader.feed(piece)
        assert kept(reader) <= limit + SLACK, kept(reader)
    named = [
        whatwg.NOT_TEXT if isinstance(item, NotText) else whatwg.TOO_LONG if isinstance(item, TooLong) else item
        for item in found
    ]
    stream = b"".join(pieces)
    if not whatwg.MARK.startswith(stream):  # of what may be the beginning of a mark nobody knows whether it is too long
        assert named == whatwg.decode(stream, limit), named


# -- WebSocket frames -------------------------------------------------------------------------------------------------

FRAME_LIMITS = (1000, 1, 30, 200, 100_000)
OPCODES = (1, 0, 2, 8, 9, 10, 3, 11)
WAYS = ((None, False), ("each", False), ("on", True))


def websocket_frames(data: bytes) -> None:
    """What a server sends over a WebSocket is cut as the library websockets cuts it, and flaws are told by their code.

    One choice is whether the bytes are frames themselves, or a program that writes frames.
    """
    feed = Provider(data)
    limit = feed.pick(FRAME_LIMITS)
    packed, goes_on = feed.pick(WAYS)
    how = feed.below(64)
    stream = _written_frames(feed, packed is not None) if feed.flag() else feed.rest()
    cutter = frames.FrameCutter(limit, deflate.Inflater(goes_on) if packed else None)
    found: list[Any] = []
    for piece in Provider(bytes([how + 48])).pieces(stream):
        items = cutter.feed(piece)
        assert not found or not isinstance(found[-1], (frames.Flaw, frames.Closing)) or not items
        found += items
        assert kept(cutter) <= limit + SLACK, kept(cutter)
    reference = _Reference(limit, packed is not None, goes_on)
    expected = reference.read(stream)
    told = [_named(item) for item in found if not (isinstance(item, Overlong) and not item.ended)]
    if reference.torn and told[-1:] == [("flaw", 1009)]:
        told[-1] = ("flaw", 1007)  # what cannot be decompressed to its end may be too long before that
    assert told == expected, (told, expected)
    begun = sum(isinstance(item, Overlong) and not item.ended for item in found)
    assert 0 <= begun - sum(isinstance(item, Overlong) and item.ended for item in found) <= 1


def _written_frames(feed: Provider, packed: bool) -> bytes:
    stream = b""
    while feed.left > 0:
        opcode, last, rsv = feed.pick(OPCODES), not feed.flag(), feed.pick((0, 0, 0, 4, 4, 2, 1))
        masked = feed.below(16) == 15
        lie = feed.pick((0, 0, 0, 0, 0, 1, -1, 100, 5000))
        payload = feed.line()
        payload = (payload * feed.pick((1, 9, 1000)))[:60_000]
        if packed and rsv == 4 and feed.below(4) != 3:
            payload = deflate.deflate(payload, 1 + feed.below(9))
        size = max(0, len(payload) + lie)
        head = bytes([(0x80 if last else 0) | rsv << 4 | opcode])
        mask = 0x80 if masked else 0
        if size < 126 and feed.below(8) != 7:
            head += bytes([mask | size])
        else:
            head += bytes([mask | 126]) + size.to_bytes(2, "big")
        stream += head + (b"\0\0\0\0" if masked else b"") + payload
    return stream


def _named(item: Any) -> Any:
    if isinstance(item, frames.Ping):
        return "ping", item.payload
    if isinstance(item, frames.Pong):
        return "pong", item.payload
    if isinstance(item, frames.Closing):
        return "close", item.code, item.reason
    if isinstance(item, frames.Flaw):
        return "flaw", item.code
    return ("overlong", item.tail) if isinstance(item, Overlong) else item


class _Stop(Exception):
    """Nothing more is read."""


class _Reference:
    """Reads a whole stream of frames: the frames by the library websockets, what they make together by RFC 6455."""

    def __init__(self, limit: int, packed: bool, goes_on: bool) -> None:
        self.limit, self.packed, self.goes_on = limit, packed, goes_on
        self.items: list[Any] = []
        self.message: bytes | None = None
        self.announced = 0
        self.is_packed = self.torn = False
        self.unpacker = zlib.decompressobj(-15)

    def read(self, stream: bytes) -> list[Any]:
        try:
            while stream:
                stream = stream[self._frame(stream) :]
        except _Stop:
            pass
        return self.items

    def _frame(self, stream: bytes) -> int:
        """Read one frame; return its length. What can be told by the beginning of a head is told before it is whole."""
        if len(stream) < 2:
            raise _Stop
        self._check_head(stream[0], stream[1])
        opcode, short = stream[0] & 0x0F, stream[1] & 0x7F
        start = 2 + {126: 2, 127: 8}.get(short, 0)
        if len(stream) < start:
            raise _Stop
        size = int.from_bytes(stream[2:start], "big") if short > 125 else short
        if size >> 63:
            self._flaw(1002)
        if opcode < 8:
            self._announce(opcode, size, bool(stream[0] & 0x40))
        if len(stream) < start + size:
            raise _Stop
        frame = _theirs(bytes([stream[0] & (0xBF if self.packed else 0xFF)]) + stream[1 : start + size])
        assert frame is not None, "the library refuses what we would take"
        self._take(frame)
        return start + size

    def _check_head(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        bad = second & 0x80 or first & 0x30 or opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        bad = bad or (first & 0x40 and not (self.packed and opcode in (1, 2)))
        bad = bad or (opcode >= 8 and (first < 0x80 or second > 125))
        bad = bad or (opcode < 8 and (opcode == 0) != (self.message is not None))
        if bad:
            of_the_frame = opcode >= 8 and first & 0x70 == 0 and second <= 125
            assert not of_the_frame or _theirs(bytes([first, second]) + bytes(125)) is None
            self._flaw(1002)
        if opcode == 2:
            self._flaw(1003)

    def _announce(self, opcode: int, size: int, packed: bool) -> None:
        if opcode == 1:
            self.is_packed, self.announced = packed, 0
        self.announced += size
        most = self.limit + self.limit // 1024 + 1024 if self.is_packed else self.limit * 4
        if self.announced > most:
            self._flaw(1009)

    def _take(self, frame: Frame) -> None:
        if frame.opcode == 9:
            self.items.append(("ping", bytes(frame.data)))
        elif frame.opcode == 10:
            self.items.append(("pong", bytes(frame.data)))
        elif frame.opcode == 8:
            self._close(bytes(frame.data))
        else:
            self.message = (self.message or b"") + frame.data
            if frame.fin:
                message, self.message = self.message, None
                self._message(self._unpacked(message) if self.is_packed else message)

    def _close(self, payload: bytes) -> None:
        try:
            Close.parse(payload[:2])  # whether the code may be sent is told before what the reason is
            close = Close.parse(payload)
        except UnicodeDecodeError:
            self._flaw(1007)
        except ProtocolError:
            self._flaw(1002)
        else:
            self.items.append(("close", int(close.code), close.reason))
            raise _Stop

    def _unpacked(self, message: bytes) -> bytes:
        if not self.goes_on:
            self.unpacker = zlib.decompressobj(-15)
        found, rest = b"", message + b"\x00\x00\xff\xff"
        for _ in range(17):
            try:
                found += self.unpacker.decompress(rest)
            except zlib.error:
                self.torn = True
                self._flaw(1007)
            if not self.unpacker.eof:
                return found
            rest = self.unpacker.unused_data
            self.unpacker = zlib.decompressobj(-15)
            if not rest:
                return found
        self.torn = True
        return self._flaw(1007)

    def _message(self, message: bytes) -> None:
        if self.is_packed and len(message) > self.limit * 4:
            self._flaw(1009)
        if len(message) > self.limit:
            self.items.append(("overlong", message[-KEPT_TAIL:]))
            return
        try:
            message.decode()
        except UnicodeDecodeError:
            self._flaw(1007)
        self.items.append(message)

    def _flaw(self, code: int) -> Any:
        self.items.append(("flaw", code))
        raise _Stop


def _theirs(raw: bytes) -> Frame | None:
    """Return what the library makes of the bytes of one frame; None: it refuses them."""
    reader = StreamReader()
    reader.feed_data(raw)
    parser = Frame.parse(reader.read_exact, mask=False, max_size=None)
    try:
        next(parser)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except ProtocolError:
        return None
    raise AssertionError("the library wants more bytes than the head of the frame says")


# -- Docker -----------------------------------------------------------------------------------------------------------


def docker_streams(data: bytes) -> None:
    """The outputs of a container are put apart as somebody would who has all of it; one choice is as above."""
    feed = Provider(data)
    how = feed.below(64)
    stream = _written_outputs(feed) if feed.flag() else feed.rest()
    apart = demux.Demultiplexer()
    found: list[tuple[int, bytes]] = []
    for piece in Provider(bytes([how + 48])).pieces(stream):
        found += apart.feed(piece)
        assert kept(apart) < demux.HEADER_BYTES
    expected, flawed, complete = _apart(stream)
    assert _joined(found) == _joined(expected)
    assert all(payload for _, payload in found)
    assert (apart.flaw is not None) == flawed
    assert flawed or apart.complete == complete


def _written_outputs(feed: Provider) -> bytes:
    stream = b""
    while feed.left > 0:
        number, lie, payload = feed.below(4), feed.pick((0, 0, 0, 0, 1, 3)), feed.line()
        stream += bytes([number, 0, 0, 0]) + (len(payload) + lie).to_bytes(4, "big") + payload
    return stream


def _apart(stream: bytes) -> tuple[list[tuple[int, bytes]], bool, bool]:
    found = []
    while len(stream) >= 8:
        if stream[0] > 3 or stream[1:4] != b"\0\0\0":
            return found, True, False
        end = 8 + int.from_bytes(stream[4:8], "big")
        found.append((stream[0], stream[8:end]))
        if end > len(stream):
            return found, False, False
        stream = stream[end:]
    return found, False, not stream


def _joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    groups = groupby((one for one in pieces if one[1]), key=lambda one: one[0])
    return [(number, b"".join(payload for _, payload in group)) for number, group in groups]


# -- compression ------------------------------------------------------------------------------------------------------

MOST = (1, 2, 100, 100_000)


def compression(data: bytes) -> None:
    """What was compressed comes out again, piece by piece; of anything else comes a ValueError, and never too much."""
    feed = Provider(data)
    what, goes_on, most = feed.below(3), feed.flag(), feed.pick(MOST)
    if what == 0:
        _answer(feed)
        return
    inflater = deflate.Inflater(goes_on)
    while feed.left > 0:
        text = feed.line()
        packed = deflate.deflate(text * 50, feed.below(10)) if what == 1 else text
        size = 0
        try:
            for piece in inflater.pieces(packed, most):
                assert 0 < len(piece) <= most
                size += len(piece)
                assert size <= 1100 * (len(packed) + 20), "more than deflate can hold"
        except ValueError:
            assert what == 2, "our own message cannot be read"
            return
        assert what == 2 or size == len(text) * 50


def _answer(feed: Provider) -> None:
    offered, answer = not feed.flag(), feed.latin()
    try:
        agreed = deflate.agreed(answer, offered)
    except ValueError:
        return
    assert agreed is None or (offered and "permessage-deflate" in answer.lower())
    assert agreed is None or "server_no_context_takeover" in answer or agreed.goes_on
