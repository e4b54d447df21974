"""The two outputs of a container in the one stream that a Docker engine sends: cut into frames, put apart by bytes.

A frame is eight bytes, ``[stream, 0, 0, 0, size, size, size, size]`` with the size in big endian, and so many bytes of
payload. One frame may hold several lines, and one line may lie in many frames, so lines are cut only afterwards.

Source: Docker Engine API, "Attach to a container", stream format.
"""

from __future__ import annotations

STDIN, STDOUT, STDERR, ENGINE = range(4)
"""Which stream a payload belongs to. STDIN is what the engine echoes, ENGINE its own words about a failure."""

HEADER_BYTES = 8


class Demultiplexer:
    """Puts the payloads of frames apart, whatever the cuts. It keeps no payload: never more than half a header.

    Attributes:
        flaw: What is wrong with the stream, once something is; nothing after that can be understood.
    """

    def __init__(self) -> None:
        self.flaw: str | None = None
        self._header = b""
        self._stream = STDOUT
        self._left = 0

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Return what the chunk adds to each stream, in order: pairs of a stream and some bytes."""
        pieces: list[tuple[int, bytes]] = []
        start = 0
        while start < len(chunk) and self.flaw is None:
            if not self._left:
                start = self._take_header(chunk, start)
                continue
            piece = chunk[start : start + self._left]
            pieces.append((self._stream, piece))
            self._left -= len(piece)
            start += len(piece)
        return pieces

    @property
    def complete(self) -> bool:
        """Whether the stream may end here."""
        return not self._left and not self._header

    def _take_header(self, chunk: bytes, start: int) -> int:
        """Take what there is of a header; return where the payload begins."""
        missing = HEADER_BYTES - len(self._header)
        header = self._header + chunk[start : start + missing]
        if len(header) < HEADER_BYTES:
            self._header = header
        else:
            self._header = b""
            self._begin(header)
        return start + missing

    def _begin(self, header: bytes) -> None:
        self._stream = header[0]
        self._left = int.from_bytes(header[4:], "big")
        if self._stream > ENGINE or header[1:4] != b"\0\0\0":
            self.flaw = f"{header!r} is no head of a frame; is it a terminal (tty), which has none?"
