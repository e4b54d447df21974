"""Streams: what is said while a request over HTTP is being answered, on its way to the thread that writes it.

The application speaks on threads of ours; the host's own thread iterates the response. Between the two stands an
Outbox, bounded in bytes: a client that does not read makes the application wait, and nothing grows.

Source: HTML Standard, server-sent events; basic/transports/streamable-http (keep-alive comments).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Protocol

from ..deadlines import Deadline
from ..engine import interrupts

OUTBOX_BYTES = 1 << 20
POLL_SECONDS = 0.4
"""How often a silent stream looks whether its client is still there."""
LOOK_SECONDS = 15.0
"""How often a stream looks whether its client's credentials are still in force."""
SHARE_LEFT = 8
"""One in so many streams is left to others than the client who has most of them."""

HEARTBEAT = b": \n\n"
SSE_HEADERS = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
]


def event(data: bytes, event_id: str | None = None, retry: float | None = None) -> bytes:
    """Return a server-sent event; the data has no line breaks, as JSON on one line has none."""
    head = f"id: {event_id}\n".encode() if event_id else b""
    pause = b"retry: %d\n" % round(retry * 1000) if retry is not None else b""
    return b"".join((b"event: message\n" if data else b"", head, pause, b"data: ", data, b"\n\n"))


class Outbox:
    """Pieces of a response, from those who speak to the one who writes.

    Locks: ``_change``; ``put`` waits for room, ``take`` for pieces, each at most as long as it is told.
    """

    def __init__(self, limit: int = OUTBOX_BYTES) -> None:
        self._limit = limit
        self._change = interrupts.Condition()  # guards _pieces, _bytes, _ended, _left
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._left = False

    @property
    def over(self) -> bool:
        """Whether nobody writes any more what is put here."""
        return self._left or self._ended

    def put(self, piece: bytes, deadline: Deadline) -> bool:
        """Have a piece written; False: nobody does any more, or there was no room by the deadline."""
        with self._change:
            while self._bytes and self._bytes + len(piece) > self._limit and not self._left and not self._ended:
                if not self._change.wait(deadline.remaining) and deadline.expired:
                    return False
            return self._add(piece)

    def put_now(self, piece: bytes) -> bool:
        """Have a piece written if there is room for it; never waits."""
        with self._change:
            return not (self._bytes and self._bytes + len(piece) > self._limit) and self._add(piece)

    def _add(self, piece: bytes) -> bool:
        if self._left or self._ended:
            return False
        self._pieces.append(piece)
        self._bytes += len(piece)
        self._change.notify_all()
        return True

    def end(self) -> None:
        """Let nothing more in; what is there will be written."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def leave(self) -> None:
        """Take note that nobody writes any more."""
        with self._change:
            self._left = True
            self._pieces.clear()
            self._bytes = 0
            self._change.notify_all()

    def take(self, seconds: float) -> bytes | None:
        """Return all that is there, waiting for something so long; b"" if nothing came, None at the end."""
        end = time.monotonic() + seconds
        with self._change:
            while not self._pieces and not self.over and (left := end - time.monotonic()) > 0:
                self._change.wait(left)
            if not self._pieces:
                return None if self.over else b""
            taken = b"".join(self._pieces)
            self._pieces.clear()
            self._bytes = 0
            self._change.notify_all()
            return taken


class Source(Protocol):
    """What an EventStream writes: an Outbox, or something that is read like one."""

    def take(self, wait: float, /) -> bytes | None:
        """Return all that is there, waiting for something so long; b"" if nothing came, None at the end."""

    def leave(self) -> None:
        """Take note that nobody writes any more."""


class EventStream:
    """A response of server-sent events, as WSGI wants it: iterated by the host's thread, closed by the host.

    A silent stream says a comment every half ``heartbeat``: the first write to a client that is gone is lost without
    an error, the second is not; so it is noticed within one heartbeat, even where the host gives no other way to.

    Args:
        source: What there is to write.
        gone: Tells whether the client has hung up, as far as the host lets us see.
        heartbeat: Seconds.
        closed: Called once, when nothing is written any more, whatever the reason.
        welcome: Tells whether the client's credentials are still in force; asked every LOOK_SECONDS.
    """

    def __init__(
        self,
        source: Source,
        gone: Callable[[], bool],
        heartbeat: float,
        closed: Callable[[], object],
        welcome: Callable[[], bool] | None = None,
    ) -> None:
        self._source = source
        self._gone = gone
        self._pause = heartbeat / 2
        self._closed: Callable[[], object] | None = closed
        self._welcome = welcome
        self._spoke = self._looked = time.monotonic()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while True:
            left = self._spoke + self._pause - time.monotonic()
            piece = self._source.take(max(0.0, min(POLL_SECONDS, left)))
            if piece is None or (not piece and self._gone()) or self._is_unwelcome():
                self.close()
                raise StopIteration
            if piece or time.monotonic() >= self._spoke + self._pause:
                self._spoke = time.monotonic()
                return piece or HEARTBEAT

    def _is_unwelcome(self) -> bool:
        if self._welcome is None or time.monotonic() < self._looked + LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return not self._welcome()

    def close(self) -> None:
        """Take note that nothing is written any more. Idempotent; the host calls it."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._source.leave()
            closed()


class Slots:
    """How many streams may be open at once, for each of them keeps one of the host's threads busy.

    A client that is known by its name or its address leaves one in SHARE_LEFT to others.

    Locks: ``_lock``, held for a few instructions.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child."""
        self._lock = threading.Lock()  # guards taken, _by_client
        self.taken = 0
        self._by_client: Counter[str] = Counter()

    def take(self, most: int, client: str = "") -> bool:
        """Take one, if fewer than so many are taken, and fewer than its share by this client; "" is nobody."""
        with self._lock:
            if self.taken >= most or (client and self._by_client[client] >= share_of(most)):
                return False
            self.taken += 1
            self._by_client[client] += 1
            return True

    def give_back(self, client: str = "") -> None:
        """Give one back, of the same client."""
        with self._lock:
            self.taken -= 1
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]


def share_of(most: int) -> int:
    """Return how many of all there may be are one client's at the most: all but one in SHARE_LEFT, and at least one."""
    return max(1, most - max(1, most // SHARE_LEFT))
