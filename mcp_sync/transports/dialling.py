"""Dialling: a socket to a host, and how to end whatever is being done on one."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..policies import Connections, Replies
from .exchanges import Cut, Exchange
from .resolving import look_up


def dial(host: str, port: int, exchange: Exchange, hold: Callable[[socket.socket], None]) -> socket.socket:
    """Return a connected socket; the addresses of the host share the time there is.

    Args:
        host: A name, or an address.
        port: The port.
        exchange: What it is for.
        hold: Is given each socket before it is used, so that it can be shut down; may raise Cut.

    Raises:
        OSError: There is no connection.
        TimeoutError: Not in time.
        Cut: It is too late for one.
    """
    settings = exchange.settings
    patience = Deadline(min(exchange.remaining, LONGEST_TIMEOUT if settings.patience is None else settings.patience))
    addresses = look_up(host, port, patience, exchange.interrupting)
    broken: OSError = OSError(f"{host} has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        if exchange.why:
            raise Cut
        line = socket.socket(family, kind, protocol)
        try:
            hold(line)
            _set_options(line, settings, exchange.replies)
            line.settimeout(max(0.001, patience.remaining / (len(addresses) - number)))
            line.connect(address)
            line.settimeout(None)  # the exchange ends every wait
            return line
        except OSError as error:
            broken = error
            line.close()
        except BaseException:
            line.close()
            raise
    raise broken


def _set_options(line: socket.socket, settings: Connections, replies: Replies) -> None:
    if settings.nodelay:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.keepalive:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if replies.buffer is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, replies.buffer)


def shut_down(line: socket.socket | None) -> None:
    """End what is being done on a socket, here and on the other side. From any thread."""
    if line is not None:
        try:
            # Whoever still sends is to hear of it at once: closing resets the connection.
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Not an SSLSocket's own: that forgets its TLS object, and a reader would get what was encrypted.
            socket.socket.shutdown(line, socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already, or was never connected
