"""The memory binding keeps the contracts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel, PipeChannel
from mcp_sync.engine.dispatch import start_thread
from mcp_sync.exceptions import MCPConnectionError
from mcp_sync.policies import Limits
from mcp_sync.testing import CallerContract, ChannelContract, Partner, PartnerServer, TransportContract
from mcp_sync.transports.memory import MemoryPipe, MemoryTransport, memory_pipes
from mcp_sync.transports.transport import MCPTransport


class MemoryWire:
    """The partner's end."""

    def __init__(self, pipe: MemoryPipe) -> None:
        self.pipe = pipe

    def read(self) -> bytes | None:
        return next(iter(self.pipe.read()), None)

    def write(self, data: bytes) -> None:
        try:
            self.pipe.write(data, Deadline(30))
        except MCPConnectionError:
            pass

    def idle(self) -> None:
        self.pipe.await_end()

    def close(self) -> None:
        self.pipe.hang_up(Deadline(1))

    die = close


def connect(limits: Limits, run_partner: Callable[[MemoryWire], object]) -> Channel:
    ours, theirs = memory_pipes()
    run_partner(MemoryWire(theirs))
    return PipeChannel(ours, limits)


class TestMemoryChannel(ChannelContract):
    def connect(self) -> Channel:
        return connect(Limits(message_size=self.message_size), self.run_partner)


class TestMemoryTransport(TransportContract):
    exact = False  # its server speaks through a channel, which sends no garbage ...
    bounded = False  # ... and always reads

    def make(self, **knobs: Any) -> MCPTransport:
        return MemoryTransport(PartnerServer(), **knobs)


class TestPeerOverMemory(CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return connect(limits, lambda wire: start_thread("partner", Partner(wire).run))
