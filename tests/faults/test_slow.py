"""What takes long: thousands of connections, a thousand killed servers, and 45 seconds of everything at once."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest
from faults.tools import NOISE, PATIENCE, command, host, is_alive, manner, pid_of, reaped, tool

from mcp_sync import (
    Client,
    JSONRPCError,
    MCPConnectionError,
    MCPError,
    MCPSession,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
    StdioTransport,
)
from mcp_sync.testing import in_threads

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_2000_connections_leave_nothing_behind() -> None:
    """I7, I8: descriptors, threads and children +0; less than a kilobyte each. In a process that remembers nothing."""
    lines = host(
        """
        import gc
        faulthandler.cancel_dump_traceback_later()
        def cycle(number):
            with StdioTransport(COMMAND, timeout=20).create_session() as session:
                assert tool(session, "echo", n=number) == {"n": number}
        def resident():
            with open("/proc/self/status") as status:
                return [float(line.split()[1]) for line in status if line.startswith("VmRSS")][0]
        def held(): return len(os.listdir("/proc/self/fd")), threading.active_count(), children()
        for number in range(300): cycle(number)
        gc.collect()
        before, points = held(), []
        for number in range(2000):
            cycle(number)
            if number % 50 == 49:
                gc.collect()
                points.append([number, resident()])
        assert held() == before, (held(), before)
        print(json.dumps(points))
        """,
        limit=500.0,
    )
    points = json.loads(lines[-1])
    assert slope(points) < 1.0, points


def slope(points: list[list[float]]) -> float:
    """Return how much the second grows per one of the first (least squares)."""
    n = len(points)
    middle_x, middle_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    over = sum((x - middle_x) * (y - middle_y) for x, y in points)
    return over / sum((x - middle_x) ** 2 for x, _ in points)


def test_1000_servers_killed_under_load_at_random_moments() -> None:
    """I2, I7, I20: every call is resolved once, with a result or an MCPConnectionError, and nothing is left."""
    kills, workers = 1000, 4
    seen: Counter[str] = Counter()
    counted = threading.Lock()

    def kill_and_call(worker: int) -> None:
        dice = random.Random(worker)
        for _ in range(kills // workers):
            session = StdioTransport(command(), timeout=PATIENCE, shutdown_timeout=1.0).create_session()
            child = pid_of(session)
            outcomes: Counter[str] = Counter()
            resolved: list[Any] = []
            victim = threading.Timer(dice.uniform(0.0, 0.03), os.kill, (child, signal.SIGKILL))
            victim.start()
            call_until_it_dies(session, dice, outcomes, resolved)
            victim.join()
            session.close()
            assert reaped(child)
            counters = session.counters
            ends = sum(counters[key] for key in ("ok", "error", "timeout", "cancelled"))
            assert counters["sent"] == ends, counters
            assert counters["pending"] == counters["timeout"] == 0, counters
            assert len(resolved) == len(set(map(id, resolved))) == outcomes["submitted"]
            with counted:
                seen.update(outcomes)

    in_threads(workers, kill_and_call, 500.0)
    assert seen["died"] >= kills
    assert seen["ok"] > kills


def call_until_it_dies(session: MCPSession, dice: random.Random, outcomes: Counter[str], resolved: list[Any]) -> None:
    """Call and submit, small and large, until the connection is over; then wait for all that was submitted."""
    futures = []
    while True:
        text = "x" * dice.choice([1, 100, 5_000, 100_000])
        try:
            if dice.random() < 0.5:
                future = session.submit_request("tools/call", {"name": "echo", "arguments": {"x": text}})
                future.add_done_callback(resolved.append)
                futures.append((future, text))
            else:
                assert tool(session, "echo", x=text) == {"x": text}
                outcomes["ok"] += 1
        except MCPConnectionError as error:
            outcomes["died" if error.may_have_run is not True else "odd"] += 1
            break
    for future, text in futures:
        error = future.exception(PATIENCE)
        if error is None:
            assert text in future.result(0)["content"][0]["text"]
        else:
            assert isinstance(error, MCPConnectionError)
        outcomes["submitted"] += 1
    deadline = time.monotonic() + PATIENCE
    while len(resolved) < len(futures):
        assert time.monotonic() < deadline
        time.sleep(0.001)


SOAK_SECONDS = 45.0
THREADS = 16
WORST = 0.5
FAULTS = {
    "late": manner("answer", seconds=0.3, late=True),
    "silent": manner("silent"),
    "bad": manner("says", texts=['{"jsonrpc": "2.0", "id": $ID, "result": [}\n'], then=False),
    "noisy": manner("says", texts=["INFO \xff\n", '{"level": "info"}\n']),
    "long": manner("long", size=300_000),
    "no": manner("refuse"),
    "flood": manner("flood", count=2_000, method="notifications/news"),
    "asks": manner("flood", count=200, method="ping", ask=True),
    "words": manner("babble", count=200_000),
    "twice": manner("answer", times=3),
    "drip": manner("drip", seconds=0.0005, rest=True),
    "deaf": manner("deaf_for", seconds=0.3),
    "dies": manner("killed"),
    "leaves": manner("exit", code=1),
    "mute": manner("mute"),
}
EXPECTED: tuple[type[Exception], ...] = (
    MCPConnectionError,
    MCPTimeoutError,
    RemoteProtocolError,
    MessageTooLarge,
    JSONRPCError,
)


class Soak:
    """Clients that are shared, killed and replaced, while sixteen threads call them."""

    def __init__(self, clients: int) -> None:
        self.over = time.monotonic() + SOAK_SECONDS
        self.lock = threading.Lock()
        self.clients = [self.fresh() for _ in range(clients)]
        self.pids: set[int] = {pid_of(client) for client in self.clients}
        self.totals: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.overruns: list[tuple[float, str]] = []

    @staticmethod
    def fresh() -> Client:
        transport = StdioTransport(command(**FAULTS), max_message_size=200_000, shutdown_timeout=0.5)
        return Client(transport, timeout=PATIENCE).connect()

    def work(self, number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < self.over:
            slot = dice.randrange(len(self.clients))
            client = self.clients[slot]
            self.call(client, dice)
            if not client.connected:
                self.replace(slot, client)

    def call(self, client: Client, dice: random.Random) -> None:
        """Call something, in some way, with some timeout; it must end by then, and as expected."""
        kind = dice.choices([*FAULTS, "echo"], [1] * (len(FAULTS) - 4) + [0.15] * 4 + [12])[0]
        timeout = dice.choice([0.05, 0.1, 0.3, 1.0, 2.0])
        arguments = {"x": "y" * dice.choice([1, 100, 150_000])} if kind == "echo" else {}
        began = time.monotonic()
        try:
            if dice.random() < 0.3:
                future = client.submit_tool(kind, arguments, timeout)
                if dice.random() < 0.1:
                    future.cancel()
                else:
                    future.result()
            else:
                client.call_tool(kind, arguments, timeout)
            outcome = "ok"
        except EXPECTED as error:
            outcome = type(error).__name__
        overrun = time.monotonic() - began - timeout
        with self.lock:
            self.kinds[f"{kind} {outcome}"] += 1
            self.overruns.append((overrun, f"{kind} {outcome} {timeout}"))

    def replace(self, slot: int, old: Client) -> None:
        """Put a new client in the place of one whose connection is over."""
        with self.lock:
            if self.clients[slot] is not old:
                return
            self.clients[slot] = self.fresh()
            self.pids.add(pid_of(self.clients[slot]))
        self.end(old)

    def end(self, client: Client) -> None:
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 0.5 + WORST
        counters = client.counters
        assert counters["pending"] == 0
        assert counters["sent"] == sum(counters[key] for key in ("ok", "error", "timeout", "cancelled")), counters
        with self.lock:
            self.totals.update(counters)


def test_everything_at_once_for_45_seconds() -> None:
    """I1, I2, I4, I7, I20: the worst overrun is what a loaded machine costs, and the counters add up."""
    soak = Soak(clients=6)
    in_threads(THREADS, soak.work, SOAK_SECONDS + 60)
    for client in soak.clients:
        soak.end(client)
    worst, what = max(soak.overruns)
    assert worst < WORST + NOISE, what
    assert soak.totals["sent"] == sum(soak.totals[key] for key in ("ok", "error", "timeout", "cancelled"))
    assert soak.totals["ok"] > 1000
    assert len(soak.pids) > 10, "hardly any server died"
    assert not any(map(is_alive, soak.pids))
    assert issubclass(MCPTimeoutError, MCPError)
