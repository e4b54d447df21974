"""The stdio binding keeps the contracts."""

from __future__ import annotations

import sys
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.policies import Limits
from mcp_sync.testing import CallerContract, ChannelContract, TransportContract
from mcp_sync.transports.stdio import StdioTransport
from mcp_sync.transports.transport import MCPTransport

PARTNER = [sys.executable, "-m", "mcp_sync.testing.partner"]


def transport(**knobs: Any) -> StdioTransport:
    return StdioTransport(PARTNER, environment_filter=["PATH", "PYTHONPATH"], **knobs)


class TestStdioChannel(ChannelContract):
    def connect(self) -> Channel:
        return transport(max_message_size=self.message_size).dial(Deadline(10))


class TestStdioTransport(TransportContract):
    def make(self, **knobs: Any) -> MCPTransport:
        return transport(**knobs)


class TestPeerOverStdio(CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return transport(policies=[limits]).dial(Deadline(10))
