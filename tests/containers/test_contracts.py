"""The Docker binding keeps the contracts."""

from __future__ import annotations

from typing import Any

from containers.tools import transport

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.policies import Limits
from mcp_sync.testing import CallerContract, ChannelContract, TransportContract
from mcp_sync.transports.transport import MCPTransport


class TestDockerChannel(ChannelContract):
    def connect(self) -> Channel:
        return transport(max_message_size=self.message_size).dial(Deadline(10))


class TestDockerTransport(TransportContract):
    def make(self, **knobs: Any) -> MCPTransport:
        return transport(**knobs)


class TestPeerOverDocker(CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return transport(policies=[limits]).dial(Deadline(10))
