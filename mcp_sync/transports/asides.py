"""Asides: what a server says beside its messages: its stderr, and lines on stdout that are none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..protocol.framing import LineSplitter, Overlong
from ..protocol.redact import mask
from .outlet import Outlet

STDERR_BYTES = 8192
"""How much of the end of stderr is kept, to be shown in errors."""
STDERR_LINES = 20
NOISE_LINES = 5
"""How many lines of stdout that are no messages are kept, to be shown in errors."""
LINE_BYTES = 65536
"""How much of a line of stderr an outlet gets."""


class Asides:
    """Keeps the end of what a server says beside its messages, and gives its stderr to whoever wants it.

    Threads: one at a time, the reader's.

    Args:
        secrets: What must not be shown.

    Attributes:
        outlet: Takes stderr, line by line; None: nobody wants it.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self.outlet: Outlet | None = None
        self._secrets = secrets
        self._errors = LineSplitter(LINE_BYTES)
        self._tail = bytearray()
        self._noise: list[str] = []

    def take_stderr(self, chunk: bytes) -> None:
        """Keep some of its stderr."""
        self._tail += chunk
        del self._tail[:-STDERR_BYTES]
        if self.outlet is not None:
            lines = self._errors.feed(chunk)
            heads = (line if isinstance(line, bytes) else line.head if not line.ended else b"" for line in lines)
            self._pass_on([line for line in heads if line])

    def end_stderr(self) -> None:
        """Pass on what has come of a line that will never end."""
        self._pass_on([rest] if (rest := self._errors.flush()) else [])

    def take_stdout(self, lines: Iterable[bytes | Overlong]) -> None:
        """Keep the lines that are no messages."""
        for line in lines:
            if isinstance(line, bytes) and line[:1] not in (b"{", b"["):
                self._noise.append(self.shown(line[:2000])[:500])  # masked before it is cut, so no secret is halved
                del self._noise[:-NOISE_LINES]

    def shown(self, raw: bytes) -> str:
        """Return bytes as a text without secrets."""
        return mask(raw.decode("utf-8", "replace"), self._secrets)

    def masked(self, raw: bytes) -> bytes:
        """Return bytes without secrets."""
        return self.shown(raw).encode() if self._secrets else raw

    def explain(self) -> dict[str, Any]:
        """Return the last lines of both, for the details of an error."""
        lines = self.shown(bytes(self._tail)).splitlines()
        if len(self._tail) == STDERR_BYTES:
            lines = lines[1:] or lines
        details: dict[str, Any] = {"stderr": lines[-STDERR_LINES:], "stdout": list(self._noise)}
        if self.dropped:
            details["stderr_dropped"] = self.dropped
        return details

    @property
    def dropped(self) -> int:
        """How many lines of stderr were taken too slowly to be given."""
        return 0 if self.outlet is None else self.outlet.dropped

    def _pass_on(self, lines: Sequence[bytes]) -> None:
        if lines and self.outlet is not None:
            self.outlet.take([self.shown(line) for line in lines])
