"""How messages lie in a stream of bytes: one to a line, ended by a newline (basic/transports/stdio).

Only ``\\n`` ends a line. U+2028, U+2029 and NEL are legal inside a JSON string, and ``\\r`` before the newline is
forgiven.
"""

from __future__ import annotations

from dataclasses import dataclass

KEPT_HEAD, KEPT_TAIL = 65536, 512
"""Bytes of an over-long message that are kept, of its beginning and its end, to find out whose answer it was."""


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line longer than the limit; it is skipped to its end.

    Reported twice: as soon as it is known to be too long, and when it has ended; only then is there a tail.
    """

    head: bytes
    limit: int
    tail: bytes = b""
    ended: bool = False


class LineSplitter:
    """Cuts a stream into lines; linear in its length whatever the cuts, bounded in memory by the limit.

    Args:
        limit: The longest line in bytes, without its end.

    Attributes:
        skipped: Bytes thrown away of the over-long line we are in; 0 outside one.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped = 0
        self._head = b""
        self._tail = b""
        self._rest = bytearray()  # not a list of pieces: a piece of two bytes would take fifty

    @property
    def idle(self) -> bool:
        """Whether nothing has come of the next line."""
        return not self._rest and not self.skipped

    def feed(self, chunk: bytes) -> list[bytes | Overlong]:
        """Return the lines that the chunk completes, without their ends; blank ones are left out."""
        lines: list[bytes | Overlong] = []
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._finish(chunk[start:end], lines)
            start = end + 1
        if start < len(chunk):
            self._keep(chunk[start:] if start else chunk, lines)
        return lines

    def flush(self) -> bytes:
        """Return what has come of a line that will never end."""
        rest = bytes(self._rest)
        self._reset()
        return rest

    def _finish(self, piece: bytes, lines: list[bytes | Overlong]) -> None:
        if self._rest or self.skipped or len(piece) > self.limit:
            self._keep(piece, lines)
            if self.skipped:
                lines.append(Overlong(self._head, self.limit, self._tail, ended=True))
                self._reset()
                return
            piece = self.flush()
        line = piece.strip(b" \t\r")
        if line:
            lines.append(line)

    def _keep(self, piece: bytes, lines: list[bytes | Overlong]) -> None:
        if self.skipped:
            self.skipped += len(piece)
            self._tail = (self._tail + piece[-KEPT_TAIL:])[-KEPT_TAIL:]
            return
        self._rest += piece
        if len(self._rest) > self.limit:
            self._head, self._tail = bytes(self._rest[:KEPT_HEAD]), bytes(self._rest[-KEPT_TAIL:])
            lines.append(Overlong(self._head, self.limit))
            self.skipped = len(self._rest)
            self._rest = bytearray()

    def _reset(self) -> None:
        self._rest = bytearray()
        self.skipped = 0
