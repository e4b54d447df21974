"""How events lie in a stream of bytes: fields to a block, blocks ended by a blank line (server-sent events).

A stream of events is read in two steps. `BlockCutter` finds the blocks, wherever the network has cut the stream, and
gives each a form that any parser of events gets right; a transport passes them through such a parser and makes an
`Event` of each. What an event means follows the WHATWG text, with one addition: a block without data but with an id or
a retry time is an event as well, whose data is empty, for its reader has to remember both.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream; basic/transports
(resumability: id, retry).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from .framing import KEPT_HEAD

RETRY_CAP = 86_400_000
"""The longest time to reconnect in milliseconds that is believed: a day."""

_MARK = b"\xef\xbb\xbf"  # the byte order mark, which may stand at the very beginning
_COMMENT = re.compile(rb"\n:.*")
# A block that is in normal form already, as nearly all are; the default name is no news. At most so many fields: a
# repeat of a group keeps a place to return to for each of its rounds.
_PLAIN = re.compile(
    rb"(id:[^\n\0]*\n)?(?:event: ?message\n)?"
    rb"((?:(?:event|id):[^\n\0]*\n){0,4}data:.*(?:\n(?:event|id):[^\n\0]*){0,4})"
)
_USUAL = b"event: message\n"
_FIELD = re.compile(rb"([^:\n]*)(?:: ?(.*))?\n?")
# Bytes that no JSON text holds and no parser takes for the end of a line.
_RARE = [bytes([code]) for code in (0x1F, *range(0x01, 0x09), *range(0x0E, 0x1C))]
_MADE_UP = re.compile(rb"\x1f([0-9a-f]{8})\x01")


class Event(NamedTuple):
    """One event.

    Attributes:
        name: Its type; ``message`` if the server gave it none.
        data: Its data lines, joined by ``\\n``.
        id: The id field of this very block; "" takes back an earlier one, None says nothing about it.
        retry: Milliseconds to wait before connecting again, at most RETRY_CAP.
    """

    name: str
    data: str
    id: str | None = None
    retry: int | None = None


class Block(NamedTuple):
    """One whole block in normal form: valid UTF-8, every line ended by ``\\n``, exactly one of them data.

    Attributes:
        raw: Its fields and the blank line that ends it. Nothing is in it that is to be ignored.
        separator: What stands for ``\\n`` in its data; "" if nothing does.
    """

    raw: bytes
    separator: str = ""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A block longer than the limit, reported as soon as that is known; it is skipped to its end.

    Its head is kept, to find out whose answer it was.
    """

    limit: int
    head: bytes


@dataclass(frozen=True, slots=True)
class NotText:
    """A block that is not UTF-8, and the head of it."""

    reason: str
    head: bytes


class BlockCutter:
    """Cuts a stream into blocks; linear in its length whatever the cuts, bounded in memory by the limit.

    Comments are dropped as they come: they count for nothing, however long. What the stream ends in the middle of is
    never a block.

    Args:
        limit: The longest block in bytes: its lines, comments left out, with one byte between two of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._opening: bytes | None = b""  # what may be the beginning of a byte order mark; None once that is settled
        self._ended_in_cr = False
        self._line_start = b"\n"  # b"\n" before the first byte of a line, b"\n:" inside a comment, b"" inside a field
        self._rest = bytearray()  # the unfinished block; only the last byte of it while it is being skipped
        self._skipping = False

    @property
    def pending(self) -> bool:
        """Whether a block has begun that has not ended."""
        return bool(self._rest or self._opening)

    def feed(self, chunk: bytes) -> list[Block | TooLong | NotText]:
        """Return the blocks that the chunk completes; those that say nothing are left out."""
        items: list[Block | TooLong | NotText] = []
        text = self._without_comments(self._with_plain_ends(self._without_mark(chunk)))
        if self._rest and text:
            text = self._continue(text, items)
        last = text.rfind(b"\n\n")
        if last >= 0:
            for block in text[:last].split(b"\n\n"):
                if block := block.strip(b"\n"):
                    self._finish(block, items)
            text = text[last + 2 :]
        self._keep(text.lstrip(b"\n"), items)
        return items

    def _without_mark(self, chunk: bytes) -> bytes:
        if self._opening is None:
            return chunk
        start = self._opening + chunk
        if len(start) < len(_MARK) and _MARK.startswith(start):
            self._opening = start
            return b""
        self._opening = None
        return start.removeprefix(_MARK)

    def _with_plain_ends(self, chunk: bytes) -> bytes:
        """A CR ends its line at once; the LF that may follow, in this chunk or the next, belongs to it."""
        if not chunk:
            return chunk
        if self._ended_in_cr:
            chunk = chunk.removeprefix(b"\n")
        self._ended_in_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _without_comments(self, text: bytes) -> bytes:
        """Take out each comment together with its end, as if it had never been sent."""
        before = self._line_start
        text = before + text
        last = text.rfind(b"\n")
        start = text[last : last + 2] if last >= 0 else b""
        self._line_start = start if start in (b"\n", b"\n:") else b""
        if b"\n:" in text:
            text = _COMMENT.sub(b"", text)
            if start == b"\n:":  # its end is still to come; the end of the line before it went with it
                text += b"\n"
        return text[1:] if before else text

    def _continue(self, text: bytes, items: list[Block | TooLong | NotText]) -> bytes:
        """Add to the unfinished block what belongs to it, and return what comes after it."""
        if text.startswith(b"\n") and self._rest.endswith(b"\n"):
            end, after = 0, 1
        else:
            end = text.find(b"\n\n")
            after = end + 2
        if end < 0:
            self._keep(text, items)
            return b""
        self._keep(text[:end], items)
        if not self._skipping:
            self._finish(bytes(self._rest.removesuffix(b"\n")), items)
        self._rest = bytearray()
        self._skipping = False
        return text[after:]

    def _keep(self, text: bytes, items: list[Block | TooLong | NotText]) -> None:
        self._rest += text
        if not self._skipping and len(self._rest) - self._rest.endswith(b"\n") > self.limit:
            items.append(self._too_long(self._rest))
            self._skipping = True
        if self._skipping:
            self._rest = self._rest[-1:]

    def _finish(self, block: bytes, items: list[Block | TooLong | NotText]) -> None:
        if len(block) > self.limit:
            items.append(self._too_long(block))
            return
        try:
            block.decode()
        except UnicodeDecodeError as error:
            items.append(NotText(f"{error.reason} at byte {error.start}", block[:KEPT_HEAD]))
            return
        simple = block.removeprefix(_USUAL)
        if simple.startswith(b"data: ") and b"\n" not in simple:
            items.append(Block(simple + b"\n\n"))
        elif plain := _PLAIN.fullmatch(block):
            items.append(Block(b"%b%b\n\n" % plain.groups(b"")))
        elif (folded := _folded(block)) is not None:
            items.append(folded)

    def _too_long(self, block: bytes | bytearray) -> TooLong:
        return TooLong(self.limit, bytes(block[: min(self.limit, KEPT_HEAD)]))


def _folded(block: bytes) -> Block | None:
    """The normal form of a block; None if it makes no event.

    A parser that glues the data together line by line takes quadratic time, so there is one line of it.
    """
    separator = _absent_from(block)
    fields: dict[bytes, bytes] = {}
    data = bytearray()  # not a list of lines: a line of two bytes would take forty
    for match in _FIELD.finditer(block):
        name, value = match.groups(b"")
        if name == b"data":
            data += value + separator
        elif name == b"event" or (name == b"id" and b"\0" not in value):
            fields[name] = value
        elif name == b"retry" and value.isdigit():
            fields[name] = b"%d" % min(int(value.lstrip(b"0")[:12] or b"0"), RETRY_CAP)
    if not data and b"id" not in fields and b"retry" not in fields:
        return None
    lines = [b"%b: %b\n" % field for field in fields.items()]
    raw = b"".join([*lines, b"data: ", data.removesuffix(separator), b"\n\n"])
    return Block(raw, separator.decode())


def _absent_from(block: bytes) -> bytes:
    """A short text that the block does not hold, and that no end of a line can be mistaken for the beginning of."""
    for rare in _RARE:
        if rare not in block:
            return rare
    taken = {int(number, 16) for number in _MADE_UP.findall(block)}
    return b"\x1f%08x\x01" % next(number for number in count() if number not in taken)
