"""Lines: connected sockets, plain or TLS, that never wait: what is possible at once is done, the rest is for a poll.

Looking up the host, connecting and shaking hands share one deadline; each wait is in ``poll`` or bounded by what is
left. Under TLS one lock is held for each call into OpenSSL, for an SSLSocket that is read and written at once breaks;
nobody waits with it (FAULTS.md, B15).
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable

from ..deadlines import Deadline
from ..exceptions import MCPTimeoutError
from ..policies import SocketBuffers
from ..protocol.origins import Origin
from .resolving import look_up

POLL_SECONDS = 3600.0
"""How long one poll may take; its argument is a C int of milliseconds."""
RECORD_BYTES = 1 << 14
"""How much goes into one TLS record (RFC 8446, 5.1)."""
STUCK_SECONDS = 0.05
"""How long a writer waits that OpenSSL wants to read for: it may be the reader who gets what it needs."""


class Line:
    """A connected socket in the clear.

    Threads: one may read while another writes; ``shut_down`` by any.

    Attributes:
        reading: What to poll for before the next ``read``.
        writing: What to poll for before the next ``write``.
        holds: Whether a write that failed has to be done again with the same bytes, for some of them may be on the way.
        in_doubt: Whether a write was cut short, and nobody knows how much of it was done.
    """

    reading = select.POLLIN
    writing = select.POLLOUT
    holds = False
    in_doubt = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)
        self.read: Callable[[int], bytes] = sock.recv
        self.write: Callable[[memoryview], int] = sock.send

    def secured(self, context: ssl.SSLContext, host: str) -> SecureLine:
        """Return a line with TLS on this socket, hands not shaken yet; this one is of no use any more."""
        return SecureLine(context.wrap_socket(self._sock, do_handshake_on_connect=False, server_hostname=host))

    def fileno(self) -> int:
        """Return the descriptor, to be polled."""
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether there is something to be read that no poll can see."""
        return False

    def say_goodbye(self) -> None:
        """Say that nothing more will be written; the other side may go on."""
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
        except OSError:
            pass  # it has ended

    def shut_down(self) -> None:
        """End both directions, whoever waits."""
        try:
            # Not an SSLSocket's own: that forgets its TLS object, and a reader would get what was encrypted.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
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
    """A connected socket with TLS.

    Locks: ``_lock`` is held for one call into OpenSSL, none of which waits.
    """

    _sock: ssl.SSLSocket

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._lock = threading.Lock()  # guards the TLS object, which is for one thread at a time
        super().__init__(sock)
        self.read = self._read
        self.write = self._write

    def shake_hands(self) -> None:
        """Go on shaking hands; raises as SSLSocket.do_handshake does where it has to wait."""
        with self._lock:
            self._sock.do_handshake()

    @property
    def pending(self) -> bool:
        """Whether something has been decrypted already, or could be at once."""
        with self._lock:
            return self._sock.pending() > 0

    def _read(self, size: int) -> bytes:
        """Return what has come, up to a few records; b"" is the end; raises BlockingIOError where nothing has."""
        pieces: list[bytes] = []
        while size > 0:
            try:
                with self._lock:
                    piece = self._sock.recv(size)
            except ssl.SSLWantReadError:
                self.reading = select.POLLIN
                break
            except ssl.SSLWantWriteError:
                self.reading = select.POLLOUT
                break
            except OSError:
                if pieces:
                    break  # the next one says so again
                raise
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            size -= len(piece)
        if not pieces:
            raise BlockingIOError
        self.reading = select.POLLIN
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def _write(self, data: memoryview) -> int:
        """Write one record, or raise BlockingIOError; then the same has to be written next."""
        try:
            self.in_doubt = True  # until whoever writes has taken note: Ctrl-C may come just before
            with self._lock:
                written = self._sock.send(data[:RECORD_BYTES])
        except ssl.SSLWantWriteError:
            self.in_doubt, self.holds, self.writing = False, True, select.POLLOUT
            raise BlockingIOError from None
        except ssl.SSLWantReadError:
            self.in_doubt, self.holds, self.writing = False, True, 0
            raise BlockingIOError from None
        self.holds, self.writing = False, select.POLLOUT
        return written

    def say_goodbye(self) -> None:
        """Say so in TLS, too."""
        try:
            with self._lock:
                self._sock.unwrap()
        except (OSError, ValueError):
            pass  # it does not wait for the answer, or has ended
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
    patience = min(deadline.remaining, POLL_SECONDS if events else STUCK_SECONDS)
    ready = [descriptor for descriptor, _ in poll.poll(patience * 1000)]
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
    return Line(_connect(origin, buffers, deadline))


def secure(line: Line, context: ssl.SSLContext, host: str, deadline: Deadline) -> SecureLine:
    """Return the line with TLS, in place of the one given.

    Raises:
        OSError: Hands could not be shaken; ssl.SSLError among them.
        MCPTimeoutError: Not by the deadline.
    """
    secured = line.secured(context, host)
    try:
        while True:
            try:
                secured.shake_hands()
                return secured
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            await_line(secured, events, deadline, "hands were not shaken (TLS)")
    except BaseException:
        secured.close(rudely=True)
        raise


def _connect(origin: Origin, buffers: SocketBuffers, deadline: Deadline) -> socket.socket:
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
            return sock
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
