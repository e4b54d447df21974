"""A child of the soak: calls over stdio in a storm of signals; ``storm.py SECONDS SEED`` prints what it has counted.

SIGALRM comes every few milliseconds. Half of the time its handler does nothing, and every system call is interrupted
(EINTR); half of the time it raises KeyboardInterrupt out of whatever the main thread does, as Ctrl-C would. None may be
swallowed, each has to end the call at once, and the calls of the other threads must not notice.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from faults.tools import command, manner

from mcp_sync import Client, MCPError

OTHERS = 3
LIMIT = 2.0
"""Seconds that a call may take."""


class Storm:
    """What comes every few milliseconds, and what became of it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.armed = False
        self.raised_at = 0.0
        self.counts: Counter[str] = Counter()
        self.worst = 0.0

    def begin(self) -> None:
        signal.signal(signal.SIGALRM, self.hear)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)

    def end(self) -> None:
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def hear(self, *_: object) -> None:
        self.counts["signals"] += 1
        if self.armed and self.dice.random() < 0.1:
            self.armed = False
            self.counts["raised"] += 1
            self.raised_at = time.monotonic()
            raise KeyboardInterrupt

    def caught(self) -> None:
        self.worst = max(self.worst, time.monotonic() - self.raised_at)
        self.counts["caught"] += 1


def fresh() -> Client:
    transport = command(silent=manner("silent"), late=manner("answer", seconds=0.02))
    return Client(transport, timeout=20.0, shutdown_timeout=0.5).connect()


def in_the_storm(storm: Storm, client: Client, armed: bool) -> None:
    """Make a call on the main thread, which may be interrupted anywhere."""
    kind, timeout = storm.dice.choice([("echo", LIMIT), ("late", LIMIT), ("silent", 0.05)])
    text = "x" * storm.dice.choice([1, 1000, 100_000])
    try:
        try:
            storm.armed = armed
            if storm.dice.random() < 0.3:
                client.submit_tool(kind, {"x": text}, timeout).result()
            else:
                client.call_tool(kind, {"x": text}, timeout)
        finally:
            storm.armed = False
        storm.counts["calls"] += 1
    except KeyboardInterrupt:
        storm.caught()
    except MCPError:
        storm.counts["calls"] += 1
        storm.counts["errors"] += 1


def beside(storm: Storm, box: list[Client], over: threading.Event, number: int) -> None:
    """Make calls on another thread, which must not notice; but that a client was closed."""
    n = 0
    while not over.wait(0.001):
        n += 1
        client, began = box[0], time.monotonic()
        try:
            text = client.call_tool("echo", {"n": n, "thread": number}, LIMIT).text
            if json.loads(text) != {"n": n, "thread": number}:
                storm.counts["wrong"] += 1
            storm.counts[f"beside-{number}"] += 1
        except MCPError as error:
            if client is box[0] and client.connected:
                storm.counts["harmed"] += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
        storm.counts["overran"] += time.monotonic() - began > LIMIT + 0.5


def weather(seconds: float, seed: int) -> dict[str, Any]:
    """Make calls in the storm for so long, and count."""
    storm, box, over = Storm(seed), [fresh()], threading.Event()
    others = [threading.Thread(target=beside, args=(storm, box, over, number)) for number in range(OTHERS)]
    for thread in others:
        thread.start()
    end = time.monotonic() + seconds
    storm.begin()
    while time.monotonic() < end:
        in_the_storm(storm, box[0], armed=storm.dice.random() < 0.5)
        if not box[0].connected:
            storm.counts["replaced"] += 1
            old, box[0] = box[0], fresh()
            old.close()
    storm.end()
    over.set()
    for thread in others:
        thread.join(20.0)
    client = box[0]
    alive = json.loads(client.call_tool("echo", {"a": 1}, 20.0).text) == {"a": 1}
    counters = client.counters
    client.close()
    ended = sum(counters[key] for key in ("ok", "error", "timeout", "cancelled", "pending"))
    return {**storm.counts, "worst": storm.worst, "alive": alive, "adds_up": counters["sent"] == ended}


if __name__ == "__main__":
    print(json.dumps(weather(float(sys.argv[1]), int(sys.argv[2]))), flush=True)
