"""Memory: two ends in one process, joined by queues; for tests, and for a server that lives beside its client."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from ..deadlines import Deadline
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


class MemoryPipe(Pipe):
    """One end of two queues."""

    kind = "memory"

    def __init__(self, name: str, incoming: queue.Queue[bytes | None], outgoing: queue.Queue[bytes | None]) -> None:
        self.name = name
        self._incoming = incoming
        self._outgoing = outgoing

    def read(self) -> Sequence[bytes]:
        """Wait for one message; an empty answer is the end."""
        item = self._incoming.get()
        return [] if item is None else [item]

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Put one message on its way."""
        try:
            self._outgoing.put(data, timeout=deadline.remaining)
        except queue.Full:
            raise MCPTimeoutError("the other end does not read", may_have_run=False) from None

    def hang_up(self, deadline: Deadline) -> None:
        """End both directions."""
        for direction in (self._incoming, self._outgoing):
            with direction.mutex:  # queue.Queue's own: the end must get in, however full it is
                direction.queue.append(None)
                direction.not_empty.notify_all()

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended."""
        return MCPConnectionError(f"{self.name}: the other end closed the connection")


def memory_pair(
    limits: Limits | None = None, observers: Observers | None = None
) -> tuple[PipeChannel, PipeChannel]:
    """Return the two ends of a connection: (client's, server's)."""
    number = next(_numbers)
    there: queue.Queue[bytes | None] = queue.Queue(CAPACITY)
    back: queue.Queue[bytes | None] = queue.Queue(CAPACITY)
    ours = PipeChannel(MemoryPipe(f"memory-{number}", back, there), limits, observers)
    theirs = PipeChannel(MemoryPipe(f"memory-{number}-server", there, back), limits)
    return ours, theirs


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
