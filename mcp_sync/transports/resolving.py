"""Resolving: looking up the addresses of a host; nothing can cut that, so another thread does it."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.dispatch import Crew
from ..exceptions import MCPConnectionError, TooManyRequests

RESOLVERS = 64
"""Names that may be looked up at once; a look-up outlives its caller when the resolver hangs."""

_resolvers = Crew("mcp-resolve", RESOLVERS, idle=0.0)


def look_up(
    host: str,
    port: int,
    patience: Deadline,
    interruptible: Callable[[Callable[[], object]], AbstractContextManager[None]] = lambda interrupt: nullcontext(),
) -> list[Any]:
    """Return the addresses of a host, as ``socket.getaddrinfo`` does.

    Args:
        host: A name, or an address.
        port: The port.
        patience: How long it may take.
        interruptible: Is given what makes the wait end at once, and is entered meanwhile.

    Raises:
        TimeoutError: It takes longer.
        OSError: The name is not known.
        TooManyRequests: Too many names are being looked up already.
        MCPConnectionError: The wait was interrupted.
    """
    work = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if is_address(host):
        return list(work())  # nobody is asked
    found: list[Any] = []
    done = interrupts.Event()

    def ask() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)
        done.set()

    if not _resolvers.start(ask):
        raise TooManyRequests(f"{RESOLVERS} host names are being looked up already", may_have_run=False)
    with interruptible(done.set):
        if not done.wait(patience.remaining):
            raise TimeoutError(f"looking up {host} takes too long")
    if not found:
        raise MCPConnectionError(f"nobody waits for the addresses of {host} any more", may_have_run=False)
    if isinstance(found[0], Exception):
        raise found[0]
    return list(found[0])


def is_address(host: str) -> bool:
    """Tell whether a host is an address, not a name."""
    return ":" in host or host.replace(".", "").isdigit()


def _renew() -> None:
    global _resolvers
    _resolvers = Crew("mcp-resolve", RESOLVERS, idle=0.0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
