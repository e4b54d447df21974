"""Lines: connected sockets, plain or TLS, that never wait: what is possible at once is done, the rest is for a poll.

Looking up the host, connecting and shaking hands share one deadline; each wait is in ``poll`` or bounded by what is
left. TLS is done in memory: one lock is held for each call into OpenSSL, for an object that is read and written at once
breaks (FAULTS.md, B15), and none of these calls can wait or touch the socket.

Ctrl-C may come between any two steps of Python. What was handed over to be written, and how much of it was, is noted in
the same step in which it happens; so nothing is written twice, or torn, or lost behind something that was encrypted.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from collections import deque

from ..deadlines import Deadline
from ..exceptions import MCPTimeoutError
from ..policies import SocketBuffers
from ..protocol.origins import Origin
from .resolving import look_up

POLL_SECONDS = 3600.0
"""How long one poll may take; its argument is a C int of milliseconds."""
READ_BYTES = 1 << 16
MANY_WRITES = 64


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

    def read(self, size: int) -> bytes:
        """Return what has come, about so many bytes at most; b"" is the end.

        Raises:
            BlockingIOError: Nothing has.
            OSError: The connection is broken.
        """
        return self._sock.recv(size)

    @property
    def blocked(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting)

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
                sent.extend(map(self._sock.send, (memoryview(data)[done:],)))
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
    """A connected socket with TLS, by which ``shake_hands`` has been called.

    Locks: ``_lock`` is held for one call into OpenSSL, none of which waits.

    Args:
        line: The connection, which is of no use by itself any more.
        context: What TLS is to be like.
        host: Whose certificate it has to be.
    """

    def __init__(self, line: Line, context: ssl.SSLContext, host: str) -> None:
        super().__init__(line._sock)
        self._lock = threading.Lock()  # guards _tls, which is for one thread at a time
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shake_hands(self, deadline: Deadline) -> None:
        """Shake hands.

        Raises:
            OSError: The connection is broken, or the other side has no TLS; ssl.SSLError among them.
            MCPTimeoutError: Not by the deadline.
        """
        doing = "hands were not shaken (TLS)"
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            while not self.flush():
                await_line(self, select.POLLOUT, deadline, doing)
            if done:
                return
            await_line(self, select.POLLIN, deadline, doing)
            try:
                self._take_in(READ_BYTES)
            except BlockingIOError:
                pass

    def read(self, size: int) -> bytes:
        """Return what has come, decrypted; nothing of it is kept back, so a poll may follow."""
        while True:
            self._take_in(size)
            pieces: list[bytes] = []
            ended = self._decrypt(pieces, size)
            if pieces or ended:
                return b"".join(pieces)

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
    """Wait until a line can be read or written; False: the wake descriptor was hung up.

    Raises:
        MCPTimeoutError: Not by the deadline; its text begins with what was being done.
    """
    poll = select.poll()
    poll.register(line.fileno(), events)
    if wake >= 0:
        poll.register(wake, 0)
    ready = [descriptor for descriptor, _ in poll.poll(min(deadline.remaining, POLL_SECONDS) * 1000)]
    if wake in ready:
        return False
    if not ready and deadline.expired:
        raise MCPTimeoutError(f"{doing} in time", may_have_run=False)
    return True


def connect(origin: Origin, buffers: SocketBuffers, deadline: Deadline) -> Line:
    """Return a line in the clear to a server; the addresses of its host share the time there is.

    Args:
        origin: The server.
        buffers: The socket's own.
        deadline: For looking up the host, and connecting.

    Raises:
        OSError: It cannot be reached; socket.gaierror among them.
        MCPTimeoutError: Not by the deadline.
        TooManyRequests: Too many hosts are being looked up.
    """
    try:
        addresses = look_up(origin.host, origin.port, deadline)
    except TimeoutError as error:
        raise MCPTimeoutError(str(error), may_have_run=False) from None
    broken: OSError = OSError(f"{origin.host} has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            _set_options(sock, buffers)
            sock.settimeout(max(0.001, deadline.remaining / (len(addresses) - number)))
            sock.connect(address)
            return Line(sock)
        except OSError as error:
            broken = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    if isinstance(broken, TimeoutError):
        raise MCPTimeoutError(f"no connection to {origin} in time", may_have_run=False)
    raise broken


def _set_options(sock: socket.socket, buffers: SocketBuffers) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, size in ((socket.SO_SNDBUF, buffers.send), (socket.SO_RCVBUF, buffers.receive)):
        if size is not None:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
