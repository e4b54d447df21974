"""What stands around a Peer keeps its contract."""

from __future__ import annotations

from contracts.test_memory import connect

from mcp_sync.engine.caller import Caller, Handler
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.dispatch import start_thread
from mcp_sync.manage.breaker import Breaking, Circuit
from mcp_sync.manage.retry import Retrying
from mcp_sync.observe import Event
from mcp_sync.policies import Breaker, Limits, Retry
from mcp_sync.testing import CallerContract, Partner


def unwatched(event: Event) -> None:
    """Tell nobody."""


class OverMemory(CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return connect(limits, lambda wire: start_thread("partner", Partner(wire).run))


class TestRetrying(OverMemory):
    def make(self, handler: Handler | None, limits: Limits) -> Caller:
        return Retrying(super().make(handler, limits), Retry(repeats=3, delay=0.01), emit=unwatched)


class TestBreaking(OverMemory):
    def make(self, handler: Handler | None, limits: Limits) -> Caller:
        circuit = Circuit(Breaker().threshold, Breaker().timeout)
        return Breaking(super().make(handler, limits), circuit, emit=unwatched)


class TestBreakingAroundRetrying(OverMemory):
    def make(self, handler: Handler | None, limits: Limits) -> Caller:
        retrying = Retrying(super().make(handler, limits), Retry(repeats=3, delay=0.01), emit=unwatched)
        return Breaking(retrying, Circuit(Breaker().threshold, Breaker().timeout), emit=unwatched)
