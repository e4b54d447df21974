"""What the manager costs a call, beside what a call over stdio takes.

Both are the best of many tries, so a busy machine makes the second larger and the first no smaller than it is.
``tests/benchmarks/manager_cost.py`` measures the same end to end, for which the machine has to be quiet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from manage.scripted import Scripted

from mcp_sync import Client, StdioTransport, TransportManager
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Caller, Question
from mcp_sync.engine.connect import Introduction
from mcp_sync.testing.tools import PATIENCE

SERVER = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "benchmarks" / "server.py")]
SHARE = 0.05


class Instant:
    """A transport to what answers at once."""

    name = "instant"

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        return Scripted({})


def best(act: Callable[[], object], clock: Callable[[], float], calls: int, tries: int) -> float:
    """Return the seconds of one call in the fastest of so many rows of calls."""

    def row() -> float:
        began = clock()
        for _ in range(calls):
            act()
        return (clock() - began) / calls

    return min(row() for _ in range(tries))


@pytest.mark.alone
def test_the_manager_costs_less_than_a_twentieth_of_a_call_over_stdio() -> None:
    with Client(StdioTransport(SERVER)) as direct:
        whole = best(lambda: direct.call_tool("bench_tiny", {}), time.perf_counter, 20, 50)
    bare, question, deadline = Scripted({}), Question[object]("tools/call"), Deadline(PATIENCE * 10)
    with TransportManager(health_check_interval=None) as manager:
        for name in ("one", "two"):
            manager.register_transport(name, Instant())
        managed = manager.endpoint("one").converse(Introduction(), Deadline(PATIENCE))
        both = [
            best(lambda caller=caller: caller.call(question, deadline), time.thread_time, 200, 100)  # type: ignore[misc]
            for caller in (bare, managed)
        ]
    cost = both[1] - both[0]
    print(f"{cost * 1e6:.2f} of {whole * 1e6:.1f} us: {cost / whole:.1%}")
    assert 0 < cost < SHARE * whole
