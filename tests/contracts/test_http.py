"""Streamable HTTP keeps the contracts, in both eras; and so does what stands around its Peer to outlive connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from contracts.bridge import Bridge

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Caller, Handler
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.connect import Introduction, converse
from mcp_sync.manage.reconnect import Reconnecting
from mcp_sync.policies import Connections, Limits, Reconnect
from mcp_sync.testing import CallerContract, ChannelContract, TransportContract
from mcp_sync.testing.tools import PATIENCE
from mcp_sync.transports.http import StreamableHTTPTransport
from mcp_sync.transports.transport import MCPTransport

MANY = 200


class OverHttp:
    """What all of these share: bridges, which end with the test."""

    era: ClassVar[str] = "handshake"
    streams: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def bridges(self) -> Iterator[None]:
        self._bridges: list[Bridge] = []
        yield
        for bridge in self._bridges:
            bridge.close()

    def transport(self, **knobs: Any) -> StreamableHTTPTransport:
        self._bridges.append(Bridge(self.era, self.streams))
        return StreamableHTTPTransport(self._bridges[-1].url, **knobs)


class TestHttpChannel(OverHttp, ChannelContract):
    bounded = False  # the bridge always reads; tests/faults has servers that do not
    hangs_up = True  # as long as nothing was agreed, which a raw channel does not do
    shared = False
    ends = False

    def connect(self) -> Channel:
        return self.transport(max_message_size=self.message_size).dial(Deadline(10))


class TestHttpChannelWithStreams(TestHttpChannel):
    streams = True


class TestStreamableHTTPTransport(OverHttp, TransportContract):
    bounded = False
    in_order = False
    shared = False
    ends = False

    def make(self, **knobs: Any) -> MCPTransport:
        return self.transport(**knobs)


class TestStreamableHTTPTransportStateless(TestStreamableHTTPTransport):
    era = "stateless"
    streams = True
    remembers = False


class TestPeerOverHttp(OverHttp, CallerContract):
    shared = False
    ends = False
    in_flight = MANY

    def connect(self, limits: Limits) -> Channel:
        return self.transport(policies=[limits, Connections(in_flight=MANY + 10)]).dial(Deadline(10))


class TestPeerOverHttpStateless(TestPeerOverHttp):
    era = "stateless"
    streams = True
    version = "2026-07-28"
    asks = False


class TestReconnectingOverHttp(TestPeerOverHttp):
    streams = True

    def make(self, handler: Handler | None, limits: Limits) -> Caller:
        def dial(ear: Handler | None, version: str, opened: Callable[[Caller], object], deadline: Deadline) -> Caller:
            introduction = Introduction(version=self.version, handler=ear, opened=opened)
            return converse(self.connect(limits), introduction, limits, deadline)

        return Reconnecting(handler, dial, Reconnect(), None, Deadline(PATIENCE))
