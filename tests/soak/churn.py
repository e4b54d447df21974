"""A child of the tests: connects, calls and closes again and again; ``churn.py KIND URL CYCLES`` prints what is left.

A process of its own, which remembers nothing of other tests: what it holds after warming up must not grow.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from mcp_sync import Client, HttpTransport, MemoryTransport, SSETransport, WebSocketTransport
from mcp_sync.testing.tools import PartnerServer

WARM = 0.15
"""The share of the cycles before anything is measured."""
EVERY = 25


class Forgetful(PartnerServer):
    """A server in memory that does not keep its channels."""

    def serve(self, channel: Any) -> None:
        super().serve(channel)
        self.channels.clear()


MAKERS = {
    "memory": lambda url: MemoryTransport(Forgetful()),
    "stateless": HttpTransport,
    "handshake": HttpTransport,
    "sse": lambda url: SSETransport(url, ""),
    "ws-stateless": WebSocketTransport,
    "ws-handshake": WebSocketTransport,
}


def cycle(kind: str, url: str) -> None:
    with Client(MAKERS[kind](url), timeout=20.0) as client:
        if kind == "memory":
            client.request("echo", {"n": 1})
        else:
            client.call_tool("echo", {"n": 1})


def resident() -> float:
    """Return the memory of this process in kilobytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e3


def held() -> dict[str, int]:
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}


def main(kind: str, url: str, cycles: int) -> None:
    for _ in range(int(cycles * WARM)):
        cycle(kind, url)
    gc.collect()
    before, points = held(), []
    for number in range(cycles):
        cycle(kind, url)
        if number % EVERY == EVERY - 1:
            gc.collect()
            points.append((number, resident()))
    print(json.dumps({"before": before, "after": held(), "points": points}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
