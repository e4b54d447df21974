"""Lines: connected sockets, plain or TLS, of either end, that never wait: what is possible at once is done.

The rest is for a poll. TLS is done in memory: one lock is held for each call into OpenSSL, for an object that is read
and written at once breaks (FAULTS.md, B15), and none of these calls can wait or touch the socket.

Ctrl-C may come between any two steps of Python. What was handed over to be written, and how much of it was, is noted in
the same step in which it happens; so nothing is written twice, or torn, or lost behind something that was encrypted.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import sys
import threading
from collections import deque

from ..deadlines import Deadline
from ..exceptions import MCPTimeoutError

POLL_SECONDS = 3600.0
"""How long one poll may take; its argument is a C int of milliseconds."""
READ_BYTES = 1 << 16
MANY_WRITES = 64


class Bell:
    """A descriptor that wakes whoever polls it, until it is hushed.

    Threads: ``ring`` by any; all else by the one that polls.
    Locks: ``_lock``, held for one write that cannot wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _rope against being written to when it is closed, and another's
        if sys.platform == "linux":
            self._ear = self._rope = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._ear, self._rope = os.pipe()
            os.set_blocking(self._ear, False)
            os.set_blocking(self._rope, False)

    def fileno(self) -> int:
        """Return the descriptor, to be polled for reading."""
        return self._ear

    def ring(self) -> None:
        """Wake whoever polls it, now and from now on."""
        with self._lock:
            if self._rope >= 0:
                try:
                    os.write(self._rope, struct.pack("=Q", 1))
                except BlockingIOError:
                    pass  # it rings already

    def hush(self) -> None:
        """Wake nobody any more."""
        try:
            os.read(self._ear, READ_BYTES)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        with self._lock:
            self._close()

    def disown(self) -> None:
        """In a forked child: close our copy, whoever held the lock."""
        self._close()

    def _close(self) -> None:
        ear, rope, self._ear, self._rope = self._ear, self._rope, -1, -1
        for descriptor in {ear, rope} - {-1}:
            os.close(descriptor)


class Line:
    """A connected socket in the clear.

    Threads: one may read while another writes; ``shut_down`` by any.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._waiting: deque[tuple[bytes, list[int]]] = deque()  # what to write, and how much of it was at each try

    def fileno(self) -> int:
        """Return the descriptor, to be polled."""
        return self._sock.fileno()

    def shake(self) -> bool:
        """Go on with what has to be said before the first byte, as far as is possible at once; True: that was all.

        Raises:
            OSError: The connection is broken, or the other side has no TLS; ssl.SSLError among them.
        """
        return True

    def read(self, size: int) -> bytes:
        """Return what has come, about so many bytes at most; b"" is the end.

        Raises:
            BlockingIOError: Nothing has.
            OSError: The connection is broken.
        """
        return self._sock.recv(size)

    def read_to(self, pieces: deque[bytes], size: int) -> None:
        """Add what ``read`` returns to the pieces, in one step for the interpreter: Ctrl-C cannot come in between."""
        pieces.extend(map(self._sock.recv, (size,)))

    def peek(self, size: int) -> bytes | None:
        """Return the first bytes of what has come, which stay; b"" is the end, None: nothing has."""
        try:
            return self._sock.recv(size, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    @property
    def blocked(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting)

    @property
    def unsent(self) -> int:
        """How many bytes wait to be written."""
        return sum(len(data) - sum(sent) for data, sent in self._waiting)

    def put(self, data: bytes) -> None:
        """Have it written behind what waits already."""
        self._waiting.append((data, []))

    def take_back(self) -> bool:
        """Drop what was put last, if it waits and not a byte of it was written; False: it cannot be."""
        if self._waiting and not self._waiting[-1][1]:
            self._waiting.pop()
            return True
        return False

    def flush(self) -> bool:
        """Write what is possible at once; True: that was all.

        Raises:
            OSError: The connection is broken.
        """
        while self._waiting:
            data, sent = self._waiting[0]
            done = sum(sent)
            if done == len(data):
                self._waiting.popleft()
                continue
            if len(sent) > MANY_WRITES:
                sent[:] = [done]
            try:
                # One call for the interpreter: Ctrl-C cannot come between writing and taking note of how much.
                sent.extend(map(self._sock.send, (memoryview(data)[done:] if done else data,)))
            except BlockingIOError:
                return False
        return True

    def say_goodbye(self) -> None:
        """Say that nothing more will be written; the other side may go on."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended

    def shut_down(self) -> None:
        """End both directions, whoever waits."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended

    def close(self, rudely: bool = False) -> None:
        """Give the descriptor back; rudely: what was written and not yet sent is dropped, and the other side told."""
        if rudely:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass  # it has ended
        self._sock.close()

    def disown(self) -> None:
        """In a forked child: close our copy of the descriptor; the connection is the parent's."""
        if self._sock.fileno() >= 0:
            os.close(self._sock.detach())


class SecureLine(Line):
    """A connected socket with TLS, to be used once hands were shaken: ``shake``, or ``shake_hands``.

    Locks: ``_lock`` is held for one call into OpenSSL, none of which waits.

    Args:
        line: The connection, which is of no use by itself any more.
        context: What TLS is to be like.
        host: Whose certificate the other side's has to be; None: we are the server.
    """

    def __init__(self, line: Line, context: ssl.SSLContext, host: str | None) -> None:
        super().__init__(line._sock)
        self._lock = threading.Lock()  # guards _tls, which is for one thread at a time
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = host is None
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=host)

    def shake(self) -> bool:
        """Go on with the handshake as far as is possible at once; True: hands were shaken.

        Raises:
            OSError: The connection is broken, or the other side has no TLS; ssl.SSLError among them.
        """
        try:
            self._take_in(READ_BYTES)
        except BlockingIOError:
            pass
        return self._shake() and not self.blocked

    def shake_hands(self, deadline: Deadline) -> None:
        """Shake hands.

        Raises:
            OSError: As ``shake``.
            MCPTimeoutError: Not by the deadline.
        """
        doing = "hands were not shaken (TLS)"
        while True:
            done = self._shake()
            while not self.flush():
                await_line(self, select.POLLOUT, deadline, doing)
            if done:
                return
            await_line(self, select.POLLIN, deadline, doing)
            try:
                self._take_in(READ_BYTES)
            except BlockingIOError:
                pass

    def _shake(self) -> bool:
        try:
            with self._lock:
                self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        finally:
            self.flush()  # of an error, too, the other side is told
        return done

    def read(self, size: int) -> bytes:
        """Return what has come, decrypted; nothing of it is kept back, so a poll may follow."""
        while True:
            pieces: list[bytes] = []
            ended = self._decrypt(pieces, size)  # first: it may have come with the end of the handshake
            if pieces or ended:
                return b"".join(pieces)
            self._take_in(size)

    def read_to(self, pieces: deque[bytes], size: int) -> None:
        """Add what ``read`` returns to the pieces; not for the main thread, for it takes several steps."""
        pieces.append(self.read(size))

    def _take_in(self, size: int) -> None:
        encrypted = self._sock.recv(size)
        with self._lock:
            if encrypted:
                self._incoming.write(encrypted)
            else:
                self._incoming.write_eof()

    def _decrypt(self, pieces: list[bytes], size: int) -> bool:
        """Add to the pieces all that can be decrypted; True: that was the end."""
        while True:
            try:
                with self._lock:
                    piece = self._tls.read(size)
            except ssl.SSLWantReadError:
                return False
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return True
            if not piece:
                return True
            pieces.append(piece)

    @property
    def blocked(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting or self._outgoing.pending)

    @property
    def unsent(self) -> int:
        """How many bytes wait to be written."""
        return super().unsent + self._outgoing.pending

    def put(self, data: bytes) -> None:
        """Encrypt it, and have it written behind what waits already."""
        with self._lock:
            written = self._tls.write(data)  # into memory: all of it, or, if Ctrl-C comes before, nothing
        if written != len(data):
            raise OSError("TLS has taken only a part of what was to be written")

    def take_back(self) -> bool:
        """Say that it cannot be: what was encrypted has its number."""
        return False

    def flush(self) -> bool:
        """Write what is possible at once; True: that was all."""
        if self._outgoing.pending:
            with self._lock:
                # One call for the interpreter, as in Line.flush.
                self._waiting.extend(zip(map(self._outgoing.read, (-1,)), ([],)))  # noqa: B905
        return super().flush()

    def say_goodbye(self) -> None:
        """Say so in TLS, too."""
        try:
            with self._lock:
                self._tls.unwrap()
        except (OSError, ValueError):
            pass  # it does not wait for the answer, or has ended
        try:
            self.flush()
        except OSError:
            pass  # it has ended
        super().say_goodbye()


def await_line(line: Line, events: int, deadline: Deadline, doing: str, wake: int = -1) -> bool:
    """Wait until a line can be read or written; False: the wake descriptor was hung up, or is ringing.

    Raises:
        MCPTimeoutError: Not by the deadline; its text begins with what was being done.
    """
    poll = select.poll()
    poll.register(line.fileno(), events)
    if wake >= 0:
        poll.register(wake, select.POLLIN)
    ready = [descriptor for descriptor, _ in poll.poll(min(deadline.remaining, POLL_SECONDS) * 1000)]
    if wake in ready:
        return False
    if not ready and deadline.expired:
        raise MCPTimeoutError(f"{doing} in time", may_have_run=False)
    return True
