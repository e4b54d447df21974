"""What a fuzz target reads out of bytes: choices, texts, cuts. The same bytes mean the same thing in every engine.

A choice is one byte, and ``0`` the first choice, ``1`` the second; so inputs can be written and read by people. Behind
the end of the bytes everything is the first choice, or empty.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

ZERO = ord("0")
PIECES = 64
LONG = 150_000


class Provider:
    """Reads bytes from their beginning to their end.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self._data) - self._at

    def byte(self) -> int:
        """Return the next byte; behind the end it is a ``0``."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else ZERO

    def below(self, most: int) -> int:
        """Return a number below another, which is 256 at most."""
        return (self.byte() - ZERO) % most

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of 256 choices at most."""
        return choices[self.below(len(choices))]

    def flag(self) -> bool:
        """Return False for ``0``, and True for ``1``."""
        return self.below(2) == 1

    def take(self, size: int) -> bytes:
        """Return so many bytes, or what there is."""
        start = min(self._at, len(self._data))
        self._at = start + size
        return self._data[start : self._at]

    def line(self) -> bytes:
        r"""Return the bytes before the next ``\n``, which is skipped; ``\n`` written as two characters stays one."""
        end = self._data.find(b"\n", self._at)
        found = self.take(max(0, (end if end >= 0 else len(self._data)) - self._at))
        self._at += 1
        return found.replace(rb"\n", b"\n")

    def text(self) -> str:
        """Return a line as text; what is no UTF-8 becomes lone surrogates."""
        return self.line().decode("utf-8", "surrogateescape")

    def latin(self) -> str:
        """Return a line as the text that an HTTP library makes of a header."""
        return self.line().decode("latin-1")

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.take(max(0, self.left))

    def pieces(self, data: bytes) -> list[bytes]:
        """Return the data as the network might deliver it: at once, in equal pieces, or in pieces of any size."""
        return list(cut(data, self.below(PIECES)))

    def stream(self) -> list[bytes]:
        """Return what is left as a stream in pieces, which may be many times as long."""
        how, times = self.below(PIECES), self.pick((1, 1, 1, 1000, 1, 1, 1, 1))
        data = self.rest()
        if times == 1:
            return list(cut(data, how))
        return list(cut((data * times)[:LONG], 1 + 500 * how))


def cut(data: bytes, how: int) -> Iterator[bytes]:
    """Yield the data in pieces: 0 is all of it, up to 20 is how many bytes, and the rest are seeds of chance."""
    chance = random.Random(how)
    at = 0
    while at < len(data):
        size = len(data) if how == 0 else how if how <= 20 else chance.choice((1, 1, 2, 3, 7, 30, 200))
        yield data[at : at + size]
        at += size


def kept(thing: object) -> int:
    """Return how many bytes of bytes an object of ours holds on to, in its attributes and in theirs."""
    if isinstance(thing, (bytes, bytearray)):
        return len(thing)
    if isinstance(thing, (list, tuple, set, frozenset)):
        return sum(map(kept, thing))
    if isinstance(thing, dict):
        return sum(map(kept, thing.values()))
    if type(thing).__module__.startswith("mcp_sync"):
        return sum(map(kept, vars(thing).values())) if hasattr(thing, "__dict__") else 0
    return 0
