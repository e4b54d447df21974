"""What every contender can do, and how it is timed.

A contender brings ``connect``, and a connection that can ``call``, ``submit`` and ``close``; then the cases below come
for nothing. One whose way of working is another (a raw loop, an event loop) overrides the cases instead. Each case
returns a dict: ``wall`` and ``cpu``, seconds for one unit of the work, and what else is worth knowing.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

Times = dict[str, float]
Order = dict[str, Any]

TINY = "bench_tiny"
TINY_ARGUMENTS = {"a": 1, "b": 2}
LIMIT = 256 << 20
"""For contenders that have a limit on the size of a message."""
BACKLOG = 200_000
"""For contenders that have one on the number of notifications that wait."""
VERSIONS = {"handshake": "2025-11-25", "stateless": "2026-07-28"}


class Watch:
    """Measures the time and the CPU time, of all threads, of ``with`` blocks."""

    def __enter__(self) -> Watch:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cpu, self.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall

    def per(self, units: int) -> Times:
        return {"wall": self.wall / units, "cpu": self.cpu / units, "total": self.wall}


def summary(watch: Watch, times: list[float]) -> Times:
    """Return the median call; a single slow one says more about the machine than about us."""
    times.sort()
    last = len(times) - 1
    found = {**watch.per(len(times)), "wall": times[last // 2]}
    return {**found, "p99": times[last * 99 // 100]} if last >= 99 else found


def failure(error: Exception) -> dict[str, str]:
    traceback.print_exc()
    return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:60]}


def arguments_of(number: int, size: int) -> dict[str, Any]:
    """Return the arguments for a tool: a number, so many bytes of text, both, or something small."""
    arguments: dict[str, Any] = {"number": number} if number else {}
    if size:
        arguments["data"] = "The quick brown fox jumps over the lazy dog.\n" * (size // 45)
    return arguments or TINY_ARGUMENTS


class Contender:
    """Somebody who takes part; this one blocks, and has threads.

    Args:
        server: The server's command as a list, or its URL, or its image and command as a dict.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self.connection: Any = None

    def connect(self, era: str) -> Any:
        raise NotImplementedError

    def serve(self, orders: Iterable[Order], answer: Callable[[Any], None]) -> None:
        """Run one case after the other, all on one connection."""
        for order in orders:
            try:
                if "era" in order:
                    self.connection = self.connect(order.pop("era"))
                answer(getattr(self, order.pop("case"))(**order))
            except Exception as error:
                answer(failure(error))
        if self.connection is not None:
            self.connection.close()

    # -- the cases ----------------------------------------------------------------------------------------------------

    def calls(self, n: int, tool: str = TINY, number: int = 0, size: int = 0) -> Times:
        """One caller, one call after the other."""
        call, arguments = self.connection.call, arguments_of(number, size)
        times = []
        clock = time.perf_counter
        with Watch() as watch:
            for _ in range(n):
                began = clock()
                call(tool, arguments)
                times.append(clock() - began)
        return summary(watch, times)

    def crowd(self, n: int, width: int) -> Times:
        """So many threads that all call."""
        gate = threading.Barrier(width + 1)
        each = max(1, n // width)

        def work() -> None:
            gate.wait()
            for _ in range(each):
                self.connection.call(TINY, TINY_ARGUMENTS)

        threads = [threading.Thread(target=work) for _ in range(width)]
        for thread in threads:
            thread.start()
        with Watch() as watch:
            gate.wait()
            for thread in threads:
                thread.join()
        return watch.per(each * width)

    def flight(self, n: int, width: int) -> Times:
        """One thread that has so many calls in flight."""
        submit = self.connection.submit
        with Watch() as watch:
            for _ in range(n):
                for future in [submit(TINY, TINY_ARGUMENTS) for _ in range(width)]:
                    future.result()
        return watch.per(n * width)

    def notifications(self, n: int, burst: int) -> Times:
        """Bursts of notifications, each delivered to the application before the next is asked for."""
        call, arguments = self.connection.call, {"number": burst}
        with Watch() as watch:
            for _ in range(n):
                call("bench_notify", arguments)
                self.connection.collect(burst)
        return watch.per(n * burst)

    def connects(self, n: int) -> Times:
        """Start the server, if it is a command; shake hands, call once, end it all."""
        times = []
        with Watch() as watch:
            for _ in range(n):
                began = time.perf_counter()
                connection = self.connect("handshake")
                connection.call(TINY, TINY_ARGUMENTS)
                connection.close()
                times.append(time.perf_counter() - began)
        return summary(watch, times)

    def starts(self, n: int) -> Times:
        """The same, but neither the time nor the CPU of ending it counts."""
        times, cpu = [], 0.0
        for _ in range(n):
            with Watch() as watch:
                connection = self.connect("handshake")
                connection.call(TINY, TINY_ARGUMENTS)
            connection.close()
            times.append(watch.wall)
            cpu += watch.cpu
        times.sort()
        return {"wall": times[(n - 1) // 2], "cpu": cpu / n, "total": sum(times)}

    def idle(self, n: int) -> Times:
        """So many connections that do nothing."""
        before = footprint()
        connections = [self.connect("handshake") for _ in range(n)]
        try:
            return growth(before, n)
        finally:
            for connection in connections:
                connection.close()


def footprint() -> dict[str, int]:
    """Return our resident memory in KB, and our threads."""
    gc.collect()
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return {"rss": int(status["VmRSS"].split()[0]), "threads": int(status["Threads"])}


def growth(before: dict[str, int], n: int) -> Times:
    after = footprint()
    per_one = {key: (after[key] - before[key]) / n for key in before}
    return {"wall": per_one["rss"], "cpu": per_one["threads"], "base": float(before["rss"]), "total": 0.0}


def popen_pipes(command: list[str], **options: Any) -> tuple[Any, int, int]:
    """Start the server; return the process and the descriptors to write to and to read from."""
    import subprocess

    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **options)
    assert process.stdin is not None
    assert process.stdout is not None
    return process, process.stdin.fileno(), process.stdout.fileno()


def write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)[written:]
        while view:
            view = view[os.write(descriptor, view) :]
