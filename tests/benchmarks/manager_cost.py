"""What the manager costs: a call by ``Client(manager.endpoint(name))`` beside one by ``Client(transport)``, over stdio.

::

    python tests/benchmarks/manager_cost.py                 # some seconds
    python tests/benchmarks/manager_cost.py --rounds 200    # more of them

Two clients in this process, each with a server of its own of the same kind (server.py). In each round each has a small
batch of calls, in an order that changes, and the ratio is formed inside the round: whatever slows the machine down
slows both. Shown is the median ratio with its quartiles; wall time is what a caller waits, CPU what we spend.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mcp_sync import Client, StdioTransport, TransportManager

SERVER = [sys.executable, "-I", "-S", str(Path(__file__).resolve().parent / "server.py")]
LIMIT = 1.05


def measure(ask: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the seconds that so many calls take, by the clock and of our own CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        ask()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(rounds: int, calls: int) -> dict[str, list[float]]:
    """Return the ratios of all rounds, managed to direct."""
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    with TransportManager() as manager:
        manager.register_transport("one", StdioTransport(SERVER))
        manager.register_transport("two", StdioTransport(SERVER))  # an alternative, which is never needed
        with Client(manager.endpoint("one")) as managed, Client(StdioTransport(SERVER)) as direct:
            for client in (managed, direct):
                measure(lambda: client.call_tool("bench_tiny", {}), calls * 3)  # noqa: B023
            for number in range(rounds):
                pair = {}
                for name, client in (("m", managed), ("d", direct))[:: 1 if number % 2 else -1]:
                    pair[name] = measure(lambda: client.call_tool("bench_tiny", {}), calls)  # noqa: B023
                ratios["wall"].append(pair["m"][0] / pair["d"][0])
                ratios["cpu"].append(pair["m"][1] / pair["d"][1])
    return ratios


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=100, help="calls of each client in a round")
    options = parser.parse_args()
    ratios = compare(options.rounds, options.calls)
    for name, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name:5} managed / direct: {middle:.3f}  (quartiles {low:.3f} to {high:.3f}; limit {LIMIT})")
    print(f"{options.rounds} rounds of {options.calls} calls, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
