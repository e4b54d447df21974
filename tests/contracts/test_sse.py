"""HTTP+SSE keeps the contracts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contracts.bridge import Bridge

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.policies import Connections, Limits
from mcp_sync.testing import CallerContract, ChannelContract, TransportContract
from mcp_sync.transports.sse import SSETransport
from mcp_sync.transports.transport import MCPTransport


class OverSse:
    """What all of these share: bridges, which end with the test."""

    @pytest.fixture(autouse=True)
    def bridges(self) -> Iterator[None]:
        self._bridges: list[Bridge] = []
        yield
        for bridge in self._bridges:
            bridge.close()

    def transport(self, **knobs: Any) -> SSETransport:
        self._bridges.append(Bridge("sse"))
        return SSETransport(self._bridges[-1].origin, **knobs)


class TestSseChannel(OverSse, ChannelContract):
    bounded = False  # the bridge always reads

    def connect(self) -> Channel:
        return self.transport(max_message_size=self.message_size).dial(Deadline(10))


class TestSSETransport(OverSse, TransportContract):
    bounded = False
    in_order = False

    def make(self, **knobs: Any) -> MCPTransport:
        return self.transport(**knobs)


class TestPeerOverSse(OverSse, CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return self.transport(policies=[limits, Connections(in_flight=32)]).dial(Deadline(10))
