"""Door: where clients come in: one thread that accepts, and reads the heads of requests, as many at once as there are.

A client that has said nothing yet, or not all, costs a socket and the bytes it has sent, but no thread: whoever opens
connections and lets them hang delays nobody. Each has HEAD_SECONDS for TLS and its head, however it drips; when there
are too many of them, or no more descriptors, the oldest goes.

What is not HTTP is let in all the same, to be told so. Who is turned away hears why before the connection ends.
"""

from __future__ import annotations

import errno
import logging
import re
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.lines import Bell, Line, SecureLine

log = logging.getLogger("mcp_sync")

HEAD_SECONDS = 10.0
"""For TLS and the head of the request."""
HEAD_BYTES = 1 << 16
LEAVING_SECONDS = 1.0
"""How long somebody who was turned away has to end the connection."""
MOST_GUESTS = 1000
"""How many may be on their way in, and as many on their way out."""
PAUSE_SECONDS = 0.5
"""How long nobody is let in where no more connections can be had."""
ACCEPTS_AT_ONCE = 64
READ_BYTES = 1 << 14

_HEAD_END = re.compile(rb"\n\r?\n")
_METHOD = re.compile(rb"[A-Z]{1,20}(?: |\Z)")
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Guest:
    """A connection that has not yet got what it came for.

    Attributes:
        line: The connection.
        address: Where it comes from: host and port.
        deadline: When it has to have said what it wants; later, when it has to have left.
        head: What it has said; once that is all of the head, only this.
        rest: What came behind the head.
    """

    def __init__(self, line: Line, address: tuple[str, int]) -> None:
        self.line = line
        self.address = address
        self.deadline = Deadline(HEAD_SECONDS)
        self.head = b""
        self.rest = b""
        self._shaken = False

    def hear(self) -> bool:
        """Read what has come; True: all of the head, or what will never be one.

        Raises:
            OSError: The connection is broken, or has ended.
        """
        self._shaken = self._shaken or self.line.shake()
        if not self._shaken:
            return False
        try:
            chunk = self.line.read(READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            raise ConnectionError("the client has gone")
        searched = max(0, len(self.head) - 2)
        self.head += chunk
        end = _HEAD_END.search(self.head, searched)
        if end is not None:
            self.head, self.rest = self.head[: end.end()], self.head[end.end() :]
        return end is not None or len(self.head) > HEAD_BYTES or not _METHOD.match(self.head[:21])

    def say(self, answer: bytes) -> None:
        """Answer, if it is still there."""
        try:
            self.line.put(answer)
            self.line.flush()  # a head fits into the buffer of any socket
        except OSError:
            pass  # who reads next will find out

    def see_out(self) -> bool:
        """Drop what comes; False: it has gone."""
        try:
            return bool(self.line.read(READ_BYTES))
        except BlockingIOError:
            return True


class Door:
    """Lets guests in, and sees those out who were turned away.

    Threads: one runs ``run``; ``admit`` is called there, and must not wait. All else by any thread; ``wait`` blocks
    until that one has ended.
    Locks: ``_lock``, held for a few instructions.

    Args:
        listener: A socket that listens; the door's from now on.
        context: For TLS, or None.
        admit: Is given whoever has sent a whole head; from then on, until ``dismiss`` or ``entrust``, the guest is
            somebody else's.
    """

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext | None, admit: Callable[[Guest], object]
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._context = context
        self._admit = admit
        self._bell = Bell()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ, self._bell.hush)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._coming: dict[Guest, None] = {}  # both in the order of their deadlines
        self._leaving: dict[Guest, None] = {}
        self._inside: set[Guest] = set()
        self._resume_at: float | None = None
        self._lock = threading.Lock()  # guards _inside, _dismissed, _begun, _over
        self._dismissed: deque[Guest] = deque()
        self._closing = self._begun = self._over = False
        self._ended = interrupts.Event()

    def run(self) -> None:
        """Let guests in until ``close`` is called, and then close what is the door's."""
        if not self._may_begin():
            return
        try:
            while not self._closing:
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._see_out_dismissed()
                self._look_at_clock()
        finally:
            self._give_back()

    def close(self) -> None:
        """Let ``run`` end soon. Idempotent."""
        self._closing = True
        self._bell.ring()

    def wait(self, deadline: Deadline) -> bool:
        """Wait until everything is closed, once ``close`` was called; False: the deadline came first."""
        if self._may_begin():  # nobody ran it, and nobody will
            self._give_back()
        return self._ended.wait(deadline.remaining)

    def _may_begin(self) -> bool:
        with self._lock:
            begun, self._begun = self._begun, True
        return not begun

    def entrust(self, guest: Guest) -> None:
        """Take note that the guest's connection belongs to somebody else."""
        with self._lock:
            self._inside.discard(guest)

    def dismiss(self, guest: Guest, answer: bytes = b"") -> None:
        """Turn the guest away with an answer."""
        guest.say(answer)
        guest.line.say_goodbye()
        with self._lock:
            self._inside.discard(guest)
            if not self._over:
                self._dismissed.append(guest)
                self._bell.ring()
                return
        guest.line.close()

    # -- on its thread ------------------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """Return the seconds until the clock has to be looked at; None: for ever."""
        dues = [next(iter(guests)).deadline.at for guests in (self._coming, self._leaving) if guests]
        dues += [] if self._resume_at is None else [self._resume_at]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _look_at_clock(self) -> None:
        for guests in (self._coming, self._leaving):
            while guests and next(iter(guests)).deadline.expired:
                self._drop(next(iter(guests)))
        if self._resume_at is not None and time.monotonic() >= self._resume_at:
            self._resume_at = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED and not self._made_room():
                    self._pause(error)
                    return
                continue  # this one has gone already, or there is room now
            self._greet(sock, (str(address[0]), int(address[1])))

    def _greet(self, sock: socket.socket, address: tuple[str, int]) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            line = Line(sock)
            guest = Guest(line if self._context is None else SecureLine(line, self._context, None), address)
            self._selector.register(sock, selectors.EVENT_READ, partial(self._hear, guest))
        except OSError:
            sock.close()
            return
        self._coming[guest] = None
        if len(self._coming) > MOST_GUESTS:
            self._drop(next(iter(self._coming)))

    def _made_room(self) -> bool:
        """Drop the oldest guest; False: there is none."""
        for guests in (self._leaving, self._coming):
            if guests:
                self._drop(next(iter(guests)))
                return True
        return False

    def _pause(self, why: OSError) -> None:
        log.warning("no more clients can be let in for now: %s", why.strerror)
        self._selector.unregister(self._listener)
        self._resume_at = time.monotonic() + PAUSE_SECONDS

    def _hear(self, guest: Guest) -> None:
        try:
            if not guest.hear():
                return
        except OSError:  # ssl.SSLError is one
            self._drop(guest)
            return
        self._selector.unregister(guest.line)
        del self._coming[guest]
        with self._lock:
            self._inside.add(guest)
        self._admit(guest)

    def _see_out_dismissed(self) -> None:
        while self._dismissed:
            guest = self._dismissed.popleft()
            guest.deadline = Deadline(LEAVING_SECONDS)
            self._leaving[guest] = None
            self._selector.register(guest.line, selectors.EVENT_READ, partial(self._see_out, guest))
            if len(self._leaving) > MOST_GUESTS:
                self._drop(next(iter(self._leaving)))

    def _see_out(self, guest: Guest) -> None:
        try:
            stays = guest.see_out()
        except OSError:
            stays = False
        if not stays:
            self._drop(guest)

    def _drop(self, guest: Guest) -> None:
        if guest in self._coming or guest in self._leaving:  # else it went earlier in this very turn
            self._selector.unregister(guest.line)
            self._coming.pop(guest, None)
            self._leaving.pop(guest, None)
            guest.line.close()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _give_back(self) -> None:
        with self._lock:
            self._over = True
            guests = [*self._coming, *self._leaving, *self._dismissed]
        self._selector.close()
        self._listener.close()
        for guest in guests:
            guest.line.close()
        self._bell.close()
        self._ended.set()

    def disown(self) -> None:
        """In a forked child: close our copies of all descriptors, whoever held the lock."""
        self._closing = self._over = True
        self._selector.close()
        self._listener.close()
        for guest in {*self._coming, *self._leaving, *self._dismissed, *self._inside}:
            guest.line.disown()
        self._bell.disown()
