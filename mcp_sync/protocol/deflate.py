"""Deflate: WebSocket messages compressed one by one: the offer, its answer, and the two directions. Pure.

We ask the server to compress each message by itself, and do so too: then no compressor's memory is kept for as long as
a connection lasts. A server that goes on where its last message ended is understood all the same.

Source: RFC 7692, section 7.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

NAME = "permessage-deflate"
OFFER = f"{NAME}; client_no_context_takeover; server_no_context_takeover"

_RAW = -15  # a window of 32 KiB, no header, no checksum
_END = b"\x00\x00\xff\xff"  # RFC 7692, 7.2.1: ends every message, and is not sent
_MOST_LAST_BLOCKS = 16
_PARAMETER = re.compile(r'([a-z_]+)(?:\s*=\s*"?([0-9]+)"?)?')


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the server answered to the offer.

    Attributes:
        goes_on: Whether the server's messages refer to those before.
    """

    goes_on: bool


def agreed(answer: str, offered: bool) -> Agreed | None:
    """Return what a server's ``Sec-WebSocket-Extensions`` means; None: it uses no extension.

    Raises:
        ValueError: It uses what was not offered, or speaks nonsense; the text ends a sentence.
    """
    name, *parameters = [part.strip() for part in answer.split(";")]
    if not name and not parameters:
        return None
    if not offered or name.lower() != NAME:
        raise ValueError(f"an extension that was not offered: {answer[:100]!r}")
    found: dict[str, str | None] = {}
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        if match is None or match[1] in found or not _makes_sense(match[1], match[2]):
            raise ValueError(f"{NAME} with {parameter[:100]!r}, which was not offered or makes no sense")
        found[match[1]] = match[2]
    return Agreed(goes_on="server_no_context_takeover" not in found)


def _makes_sense(name: str, value: str | None) -> bool:
    if name in ("client_no_context_takeover", "server_no_context_takeover"):
        return value is None
    return name == "server_max_window_bits" and value is not None and 8 <= int(value[:3]) <= 15


def deflate(data: bytes, level: int) -> bytes:
    """Return one compressed message, which refers to none before it."""
    packer = zlib.compressobj(level, zlib.DEFLATED, _RAW)
    packed = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    return packed.removesuffix(_END)


class Inflater:
    """Decompresses the messages of one connection, in order.

    Args:
        goes_on: Whether they refer to those before.
    """

    def __init__(self, goes_on: bool) -> None:
        self._goes_on = goes_on
        self._unpacker = zlib.decompressobj(_RAW)

    def pieces(self, packed: bytes, most: int) -> Iterator[bytes]:
        """Yield what is in one message, at most so many bytes at a time, and none that is empty.

        Raises:
            ValueError: It cannot be decompressed.
        """
        if not self._goes_on:
            self._unpacker = zlib.decompressobj(_RAW)
        rest = packed + _END
        last_blocks = 0
        while last_blocks <= _MOST_LAST_BLOCKS:
            try:
                piece = self._unpacker.decompress(rest, most)
            except zlib.error:
                raise ValueError("a message that cannot be decompressed") from None
            if piece:
                yield piece
            if self._unpacker.eof:  # a block that says it is the last one; more may follow (RFC 7692, 7.2.3.4)
                last_blocks += 1
                rest = self._unpacker.unused_data
                self._unpacker = zlib.decompressobj(_RAW)
                if not rest:
                    return
            else:
                rest = self._unpacker.unconsumed_tail
                if not rest and len(piece) < most:  # else it may hold some back
                    return
        raise ValueError("a message that ends again and again")
