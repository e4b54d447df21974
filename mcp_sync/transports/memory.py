"""Memory: two ends in one process, joined by queues; for tests, and for a server that lives beside its client."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.channel import Channel, Pipe, PipeChannel
from ..exceptions import MCPConnectionError, MCPTimeoutError
from ..observe import Observers
from ..policies import Limits, gather, with_knobs
from .transport import MCPTransport

CAPACITY = 1000
"""Messages on their way in one direction, before the sender waits."""

_numbers = itertools.count(1)


class Serves(Protocol):
    """Anything that can take the other end of a connection."""

    def serve(self, channel: Channel) -> object:
        """Start serving on the channel, and return."""


class Way:
    """One direction of a connection. Once ended it takes no more, and gives what it has.

    Locks: ``_change``, held for a few instructions.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._change = interrupts.Condition()  # guards _waiting, _ended
        self._waiting: deque[bytes] = deque()
        self._ended = False

    def put(self, data: bytes, deadline: Deadline) -> None:
        """Put one message on its way; raises as Pipe.write says."""
        with self._change:
            while len(self._waiting) >= self._capacity and not self._ended:
                if not self._change.wait(deadline.remaining) and deadline.expired:
                    raise MCPTimeoutError("the other end does not read", may_have_run=False)
            if self._ended:
                raise MCPConnectionError("the connection is closed", may_have_run=False)
            self._waiting.append(data)
            self._change.notify_all()

    def get(self) -> bytes | None:
        """Wait for one message; None is the end."""
        with self._change:
            while not self._waiting and not self._ended:
                self._change.wait()
            if not self._waiting:
                return None
            self._change.notify_all()
            return self._waiting.popleft()

    def end(self) -> None:
        """Let nothing more in, and nobody wait."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def await_end(self) -> None:
        """Wait for the end, taking nothing."""
        with self._change:
            while not self._ended:
                self._change.wait()


class MemoryPipe(Pipe):
    """One end of two ways."""

    kind = "memory"

    def __init__(self, name: str, incoming: Way, outgoing: Way) -> None:
        self.name = name
        self._incoming = incoming
        self._outgoing = outgoing

    def read(self) -> Sequence[bytes]:
        """Wait for one message; an empty answer is the end."""
        message = self._incoming.get()
        return [] if message is None else [message]

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Put one message on its way."""
        self._outgoing.put(data, deadline)

    def hang_up(self, deadline: Deadline) -> None:
        """End both directions."""
        self._incoming.end()
        self._outgoing.end()

    def await_end(self) -> None:
        """Wait until either end has hung up, reading nothing."""
        self._incoming.await_end()

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended."""
        return MCPConnectionError(f"{self.name}: the other end closed the connection")


def memory_pipes() -> tuple[MemoryPipe, MemoryPipe]:
    """Return the two ends of a connection as pipes: (client's, server's)."""
    number = next(_numbers)
    there, back = Way(), Way()
    return MemoryPipe(f"memory-{number}", back, there), MemoryPipe(f"memory-{number}-server", there, back)


def memory_pair(limits: Limits | None = None, observers: Observers | None = None) -> tuple[PipeChannel, PipeChannel]:
    """Return the two ends of a connection: (client's, server's)."""
    ours, theirs = memory_pipes()
    return PipeChannel(ours, limits, observers), PipeChannel(theirs, limits)


@with_knobs(Limits)
class MemoryTransport(MCPTransport):
    """Reaches a server object in this process.

    Args:
        server: Anything with ``serve(channel)``, which starts serving and returns.
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        **knobs: ``max_message_size`` and the other limits of ``mcp_sync.policies.Limits``.
    """

    transport_type: ClassVar[str] = "memory"

    def __init__(self, server: Serves, *, timeout: float | None = None, **knobs: Any) -> None:
        super().__init__(timeout, gather(MemoryTransport, (Limits,), None, knobs))
        if not callable(getattr(server, "serve", None)):
            raise TypeError(f"server must have a method serve(channel), which {server!r} has not")
        self._server = server

    def dial(self, deadline: Deadline) -> Channel:
        """Return one end of a new connection, and hand the server the other."""
        ours, theirs = memory_pair(self._policies[Limits], self._observers)
        self._server.serve(theirs)
        return ours
