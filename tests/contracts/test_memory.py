"""The memory binding keeps the contracts."""

from __future__ import annotations

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel, PipeChannel
from mcp_sync.exceptions import MCPConnectionError
from mcp_sync.policies import Limits
from mcp_sync.testing import ChannelContract
from mcp_sync.transports.memory import MemoryPipe, memory_pipes


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


class TestMemoryChannel(ChannelContract):
    def connect(self) -> Channel:
        ours, theirs = memory_pipes()
        self.run_partner(MemoryWire(theirs))
        return PipeChannel(ours, Limits(message_size=self.message_size))
