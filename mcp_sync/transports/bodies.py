"""Bodies: how replies are read that come on a connection of ours.

Source: RFC 9112 (6: message body), RFC 9110 (15.2: interim statuses).
"""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable
from typing import Any, Protocol

from ..protocol.http1 import Chunks, Head


class Body(Protocol):
    """The body of a reply, to be read."""

    @property
    def ended(self) -> bool:
        """Whether all of it has been read, as far as is known without waiting."""

    def read1(self, size: int) -> bytes:
        """Return what there is, at most so many bytes, waiting for some; b"" is the end."""

    def spoil(self) -> None:
        """Let the connection never be used again."""

    def close(self) -> None:
        """Give the connection back if all was read, or close it. Idempotent."""


class SlimBody:
    """A body straight from its connection: of a known length, or in chunks.

    Args:
        line: The connection's socket, which waits as long as it takes.
        head: The head of the reply.
        heard: What has come so far, the head included.
        done: Is told once when nothing more is read, and whether the connection can be used again.
    """

    def __init__(self, line: socket.socket, head: Head, heard: bytes, done: Callable[[bool], object]) -> None:
        self._line = line
        self._done: Callable[[bool], object] | None = done
        self._stays = head.stays
        self._chunks = Chunks() if head.chunked else None
        self._left = head.length
        self._ready, self._at = b"", 0
        self._take(heard[head.size :])

    @property
    def _over(self) -> bool:
        return self._left == 0 if self._chunks is None else self._chunks.ended

    @property
    def ended(self) -> bool:
        """Whether all of it has been read."""
        return self._at == len(self._ready) and self._over

    def read1(self, size: int) -> bytes:
        """Return what there is; raises IncompleteRead where it broke off, and BadFraming."""
        while self._at == len(self._ready):
            if self._over:
                return b""
            data = self._line.recv(size if self._chunks is not None else min(size, self._left))
            if not data:
                raise http.client.IncompleteRead(b"")
            self._take(data)
        ready, at = self._ready, self._at
        if at == 0 and len(ready) <= size:
            self._ready = b""
            return ready
        self._at = min(at + size, len(ready))
        return ready[at : self._at]

    def _take(self, data: bytes) -> None:
        self._at = 0
        if self._chunks is not None:
            self._ready = self._chunks.feed(data)
            self._stays = self._stays and not self._chunks.beyond
            return
        self._ready = data if len(data) <= self._left else data[: self._left]
        self._stays = self._stays and len(data) <= self._left
        self._left -= len(self._ready)

    def spoil(self) -> None:
        """Let the connection never be used again."""
        self._stays = False

    def close(self) -> None:
        """Be done with the connection, which can be used again where all has come and nothing else."""
        done, self._done = self._done, None
        if done is not None:
            done(self._over and self._stays)


# -- what is unusual --------------------------------------------------------------------------------------------------


class _Rest(io.RawIOBase):
    """What is still to be read of a connection, and before that what has been read already: ``ahead``."""

    def __init__(self, file: io.RawIOBase, ahead: bytes) -> None:
        self._file = file
        self.ahead = ahead
        self.over = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read some; nothing when it is over, without looking."""
        if self.over:
            return 0
        if not self.ahead:
            return self._file.readinto(buffer)
        piece, self.ahead = self.ahead[: len(buffer)], self.ahead[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close it, but not the connection."""
        self._file.close()
        super().close()


class _Reader(io.BufferedReader):
    """Reads a reply; knows the last line of its head, and whether anything was left when it was closed."""

    def __init__(self, rest: _Rest) -> None:
        super().__init__(rest)
        self._rest = rest
        self.last = b""
        self.left = False

    def readline(self, limit: int | None = -1) -> bytes:
        """Read one line."""
        self.last = super().readline(limit)
        return self.last

    def close(self) -> None:
        """Close it."""
        if not self.closed:
            self._rest.over = True
            self.left = bool(self._rest.ahead or self.peek(1))
        super().close()


class HeadReader(http.client.HTTPResponse):
    """A reply whose head has to be whole, and whose interim forerunners are skipped (RFC 9110, section 15.2).

    Attributes:
        lines: What it is read from.
    """

    def __init__(self, sock: Any, *args: Any, ahead: bytes = b"", **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp: Any
        self.lines = self.fp = _Reader(_Rest(self.fp.detach(), ahead))

    def begin(self) -> None:
        """Read the head. http.client alone takes the end of the connection for the end of it."""
        super().begin()
        if self.lines.last not in (b"\r\n", b"\n"):
            self.close()
            raise http.client.IncompleteRead(self.lines.last)
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) > 1 or (lengths and "Transfer-Encoding" in self.headers):
            self.will_close = True  # others may see another end of it (RFC 9112, section 6.3)

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status <= 101 or status >= 200:  # http.client skips 100 by itself, and nothing comes after 101
                return version, status, reason
            http.client.parse_headers(self.fp)
