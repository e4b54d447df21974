"""Lines: how one is got: looking up the host and connecting share one deadline. What a line is: ``engine/lines.py``."""

from __future__ import annotations

import socket

from ..deadlines import Deadline
from ..engine.lines import POLL_SECONDS, Line, SecureLine, await_line
from ..exceptions import MCPTimeoutError
from ..policies import SocketBuffers
from ..protocol.origins import Origin
from .resolving import look_up

__all__ = ["POLL_SECONDS", "Line", "SecureLine", "await_line", "connect"]


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
