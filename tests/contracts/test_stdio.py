"""The stdio binding keeps the contracts."""

from __future__ import annotations

import sys
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.testing import ChannelContract
from mcp_sync.transports.stdio import StdioTransport

PARTNER = [sys.executable, "-m", "mcp_sync.testing.partner"]


def transport(**knobs: Any) -> StdioTransport:
    return StdioTransport(PARTNER, environment_filter=["PATH", "PYTHONPATH"], **knobs)


class TestStdioChannel(ChannelContract):
    def connect(self) -> Channel:
        return transport(max_message_size=self.message_size).dial(Deadline(10))
