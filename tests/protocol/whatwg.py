"""A reference for server-sent events, written down from the WHATWG text; simple, slow, and independent of ours.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

It differs from the text where we do, and nowhere else: an id or a retry time alone make an event, a block that is not
UTF-8 is NOT_TEXT, and one over the limit is TOO_LONG. Beside it, a source of streams that are hard to read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from mcp_sync.protocol.sse import RETRY_CAP, Event

NOT_TEXT, TOO_LONG = "not text", "too long"
Item = Event | str

DIGITS = frozenset("0123456789")

FIELDS = [
    *(b"data", b"data:", b"data: ", b"data:x", b"data: y", b"data:  z ", b"data::", b"data: {}", b"data:\tt"),
    *(b"id", b"id:", b"id: ", b"id: 7", b"id:8", b"id:  9", b"id: a\0b", b"id:\0", "id: é".encode()),
    *(
        b"event",
        b"event:",
        b"event: ",
        b"event: message",
        b"event:message",
        b"event: n",
        b"event:  m",
        b"event: messages",
    ),
    *(b"retry", b"retry:", b"retry: 5", b"retry:06", b"retry: -1", b"retry: 1.5", b"retry:  7", b"retry: 5 "),
    *(b"retry: 0", b"retry: " + b"9" * 30, b"retry: 0" + b"0" * 30 + b"1", "retry: \u0661".encode()),
    *(b":", b": c", b":data: x", b":\0", b" :", b"x", b"x: y", b"Data: x", b" data: x", b"data : x", b"dat"),
    *("data: \u2028\u0085".encode(), "data: é\U0001f600".encode(), b"data: \x0b\x0c\x1c\x1e", b"data: \0"),
    *(b"data: \x1f", b"data: \x01\x1f", b"data: \x1f00000000\x01", b"data: \x1f0000000", b"data: \xef\xbb\xbf"),
    bytes(code for code in range(32) if code not in b"\r\n"),
]
BAD_FIELDS = [
    b":\xff",
    b"data: \xff",
    b"\x80",
    b"data: \xc3",
    b"id: \xed\xa0\x80",
    b"x: \xc0\xaf",
    b"data: \xf5",
    b"event: \xe2\x82",
]
ENDS = [b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\n\r\n", b"\r\n\r", b"\r\n\n", b"\r\r\n"]
MARK = b"\xef\xbb\xbf"


def decode(stream: bytes, limit: int = 1 << 60) -> list[Item]:
    """Read a whole stream that has come to its end."""
    items: list[Item] = []
    block: list[bytes] = []
    for line, ended in _lines(stream.removeprefix(MARK)):
        if line == b"" and ended:
            items += _dispatch(block, limit)
            block = []
        elif not line.startswith(b":"):
            block.append(line)
    # What is unfinished is discarded, unless it is known to be too long already.
    return items + [item for item in _dispatch(block, limit) if item == TOO_LONG]


def _lines(stream: bytes) -> Iterator[tuple[bytes, bool]]:
    """Each line, and whether it has ended."""
    line = bytearray()
    position = 0
    while position < len(stream):
        byte = stream[position : position + 1]
        position += 1
        if byte not in (b"\r", b"\n"):
            line += byte
            continue
        if byte == b"\r" and stream[position : position + 1] == b"\n":
            position += 1
        yield bytes(line), True
        line.clear()
    if line:
        yield bytes(line), False


def _dispatch(block: list[bytes], limit: int) -> list[Item]:
    if len(b"\n".join(block)) > limit:
        return [TOO_LONG]
    try:
        lines = [line.decode("utf-8", "strict") for line in block]
    except UnicodeDecodeError:
        return [NOT_TEXT]
    data, name, last_id, retry = "", "", None, None
    for line in lines:
        field, _, value = line.partition(":")
        if value.startswith(" "):
            value = value[1:]
        if field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "retry" and value and DIGITS.issuperset(value):
            retry = min(int(value), RETRY_CAP)
    if data == "" and last_id is None and retry is None:
        return []
    return [Event(name or "message", data[:-1] if data.endswith("\n") else data, last_id, retry)]


def stream(chance: random.Random, *, bad: bool = False, fields: int = 8) -> bytes:
    """A stream of whole lines, most of them followed by one of the eleven ways to end them."""
    pieces = [chance.choice([b"", b"", b"", MARK, MARK[:2] if bad else MARK, MARK + MARK])]
    known = FIELDS + BAD_FIELDS if bad else FIELDS
    for _ in range(chance.randrange(fields)):
        pieces += [chance.choice(known), chance.choice(ENDS)]
    if chance.random() < 0.2:
        pieces.append(chance.choice(known))
    return b"".join(pieces)


def pulp(chance: random.Random) -> bytes:
    """A short stream of bytes that each mean something."""
    return bytes(chance.choices(b"\r\n\n:: idaxt\0\xef\xbb\xbf\xff", k=chance.randrange(24)))


def cut(data: bytes, *places: int) -> list[bytes]:
    """The pieces between those places."""
    bounds = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]


def cuttings(data: bytes, chance: random.Random) -> Iterator[list[bytes]]:
    """Ways to cut it: all single cuts and byte by byte if it is short, else some."""
    if len(data) <= 32:
        yield from (cut(data, place) for place in range(1, len(data)))
        yield [data[place : place + 1] for place in range(len(data))]
        return
    for cuts in (1, 2, 5, 20):
        yield cut(data, *(chance.randrange(len(data)) for _ in range(cuts)))
