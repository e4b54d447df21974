"""The benchmark: what a call costs, as a ratio to a raw loop over the same pipe or socket, and beside the official SDK.

::

    python tests/benchmarks/run.py                          # everything, some minutes
    python tests/benchmarks/run.py --write                  # and into README.rst, and figures.svg
    python tests/benchmarks/run.py --cases tiny,text1 --rounds 9
    python tests/benchmarks/run.py --list

Times say something about this machine at this moment; ratios carry over. Every contender works in a process of its own
against a server of its own, which is always the same (server.py, http_server.py, ws_server.py). In each round each
contender has its turn, in an order that rotates, and the ratio is formed inside the round: whatever slows the machine
down slows them all. Shown is the median of the rounds, with the smallest and the largest ratio. CPU is that of the
contender's process, all threads. The contender has a CPU of its own, and the server another, unless the case says that
they share one; containers are wherever the engine puts them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import docker_engine
import document
from cases import CASES, ENTRIES, GROWTH, LIMITS, STARTS, Case, Entry

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from peers import install  # noqa: E402  # a folder beside ours, not a package that is installed

SERVER = [sys.executable, "-I", "-S", str(HERE / "server.py")]
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""Those we may use. Where each process is put decides more than what it does, so it is not left to the scheduler."""
PORT_SERVERS = {"http": ("http_server.py", "http"), "websocket": ("ws_server.py", "ws")}
"""The file and the scheme of those that listen."""
SLOW_SECONDS = 2.0
"""A contender whose first run takes longer has had its only round."""

Answer = dict[str, Any]


class Worker:
    """A contender's process; see worker.py."""

    def __init__(self, entry: Entry, case: Case) -> None:
        self._server: subprocess.Popen[str] | None = None
        place = CPUS[:1] if case.together else CPUS[1:2]
        server: Any = [*SERVER, *map(str, place)]
        if case.binding in PORT_SERVERS:
            self._server, server = serve(case.binding, case.path)
            put(self._server, place)
        elif case.binding == "docker":
            server = docker_engine.server()
        command = [python_for(entry.peer), str(HERE / "worker.py"), entry.module, entry.cls, json.dumps(server)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        put(self._process, CPUS[:1])
        self._first: dict[str, Any] = {"era": case.era}
        self._case = case
        self.n = case.warm_up

    def run(self) -> Answer:
        """Run the case ``n`` times."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"case": self._case.method, "n": self.n, **self._case.arguments, **self._first}
        self._first = {}
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            return {"error": f"the worker ended ({type(error).__name__})"}

    def calibrate(self, total: float) -> None:
        """Choose ``n`` so that a round takes as long as it may."""
        self.n = max(1, round(self.n * self._case.seconds / max(total, 1e-6)))

    def close(self) -> None:
        self._process.communicate()
        if self._server is not None:
            self._server.kill()
            self._server.communicate()


def put(process: subprocess.Popen[str], cpus: list[int]) -> None:
    """Have a process that has one thread yet, and all that it starts, use these CPUs only."""
    if len(CPUS) > 1:
        os.sched_setaffinity(process.pid, cpus)


def serve(binding: str, path: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server that listens; return it and its URL."""
    file, scheme = PORT_SERVERS[binding]
    server = subprocess.Popen([sys.executable, "-I", "-S", str(HERE / file)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, f"{scheme}://127.0.0.1:{int(server.stdout.readline())}{path}"


def python_for(peer: str) -> str:
    return install.python_of(peer) if peer else sys.executable


def is_there(peer: str) -> bool:
    return not peer or install.is_installed(peer)


def why_absent(entry: Entry) -> str:
    """Return why it cannot take part, or an empty str."""
    if not is_there(entry.peer):
        return "is not installed; run tests/peers/install.py"
    return "is not in PATH" if entry.program and shutil.which(entry.program) is None else ""


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What one contender needed for one case.

    Attributes:
        first: For the first run, which counts only where there is no other.
        rounds: For the others.
    """

    first: Answer
    rounds: list[Answer] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Whether there is nothing to repeat: it failed, or takes too long."""
        return "error" in self.first or self.first["total"] > SLOW_SECONDS

    @property
    def counting(self) -> list[Answer]:
        return self.rounds or [self.first]

    @property
    def error(self) -> str | None:
        return next((answer["error"] for answer in (self.first, *self.rounds) if "error" in answer), None)


def measure(case: Case, names: list[str], rounds: int) -> dict[str, Record]:
    """Return what each contender needed, round by round."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in names:
            if name not in case.without and case.binding in ENTRIES[name].bindings:
                workers[name] = Worker(ENTRIES[name], case)
                stack.callback(workers[name].close)
        records = {name: Record(worker.run()) for name, worker in workers.items()}
        busy = [name for name, record in records.items() if not record.is_final]
        for name in busy:
            workers[name].calibrate(records[name].first["total"])
        for number in range(min(rounds, case.rounds)):
            turn = number % max(1, len(busy))
            for name in busy[turn:] + busy[:turn]:
                records[name].rounds.append(workers[name].run())
    return records


def rows_of(key: str, records: dict[str, Record]) -> list[Answer]:
    """Return a row for each contender: medians, and the ratios to the limit of the same round."""
    limit = records.get(LIMITS[CASES[key].binding]) or next(iter(records.values()))
    return [{"case": key, "contender": name, **_row(record, limit)} for name, record in records.items()]


def _row(record: Record, limit: Record) -> Answer:
    if error := record.error or limit.error:
        return {"error": error}
    mine, theirs = record.counting, limit.counting
    row: Answer = {item: median(answer[item] for answer in mine) for item in mine[0]}
    row["rounds"] = len(mine)
    row["best"] = {item: min(answer[item] for answer in mine) for item in ("wall", "cpu")}
    pairs = list(zip(mine, theirs, strict=True)) if len(mine) == len(theirs) else list(product(mine, theirs))
    for item in ("wall", "cpu"):
        ratios = [ours[item] / its[item] for ours, its in pairs if its[item]]
        if ratios:
            row[f"{item}_x"], row[f"{item}_x_low"], row[f"{item}_x_high"] = median(ratios), min(ratios), max(ratios)
    return row


def growth_of(rows: list[Answer]) -> list[Answer]:
    """Return how many times as much a larger result costs, for each contender; the best rounds are compared."""
    best = {(row["contender"], row["case"]): row["best"] for row in rows if "best" in row}
    found = []
    for name in ENTRIES:
        growth = {
            f"{title} {item}": best[name, larger][item] / best[name, smaller][item]
            for title, (larger, smaller) in GROWTH.items()
            for item in ("wall", "cpu")
            if (name, larger) in best and (name, smaller) in best
        }
        if growth:
            found.append({"contender": name, **growth})
    return found


_START = """
import time
SERVER, TOOL = {server!r}, "bench_tiny"
def done():
    cpu = time.process_time()
    with open("/proc/self/status") as file:
        rss = [line.split()[1] for line in file if line.startswith("VmRSS")]
    print(cpu * 1000, int(rss[0]) / 1024)
"""


def start_up(rounds: int) -> list[Answer]:
    """Return the CPU milliseconds and the memory that each start takes beyond bare Python.

    All is compiled and in the page cache: the first start of each, which sees to that, does not count.
    """
    with tempfile.TemporaryDirectory() as cache:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        return _start_up(rounds, {**env, "PYTHONPYCACHEPREFIX": cache})


def _start_up(rounds: int, env: dict[str, str]) -> list[Answer]:
    there = {key: start for key, start in STARTS.items() if is_there(start[1])}
    found: dict[str, list[tuple[float, float]]] = {key: [] for key in there}
    for number in range(rounds + 1):
        bare = (0.0, 0.0)
        for key, (_, peer, script) in there.items():
            command = [python_for(peer), "-c", _START.format(server=SERVER) + script]
            cpu, rss = map(float, subprocess.check_output(command, env=env).split())
            if key == "bare":
                bare = cpu, rss
            if number:
                found[key].append((cpu, rss) if key == "bare" else (cpu - bare[0], rss - bare[1]))
    return [
        {
            "start": key,
            "cpu": median(cpu for cpu, _ in values),
            "low": min(cpu for cpu, _ in values),
            "high": max(cpu for cpu, _ in values),
            "rss": median(rss for _, rss in values),
        }
        for key, values in found.items()
    ]


# -- printing ---------------------------------------------------------------------------------------------------------


def table(head: list[str], lines: list[list[str]]) -> str:
    """Return a table: the first column to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def one(cells: list[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join([one(head), "-" * len(one(head)), *(one(line) for line in lines)])


def show_case(key: str, rows: list[Answer], missing: dict[str, str]) -> str:
    """Return one case as a table."""
    case = CASES[key]
    if case.method == "idle":
        head = [case.title, "RSS KB each", "threads each", "RSS KB before"]
        lines = [
            [label(row), row["error"], "", ""]
            if "error" in row
            else [label(row), f"{row['wall']:.0f}", f"{row['cpu']:.2f}", f"{row['base']:.0f}"]
            for row in rows
        ]
        return table(head, lines)
    head = [case.title, f"a {case.unit}", "a second", "x limit", "(min - max)", "cpu", "x cpu", "p99", "rounds"]
    lines = [_cells(row) for row in rows]
    lines += [[ENTRIES[name].label, "-", "-", "-", f"left out: {why}", "", "", "", ""] for name, why in missing.items()]
    return table(head, lines)


def label(row: Answer) -> str:
    return ENTRIES[row["contender"]].label


def _cells(row: Answer) -> list[str]:
    if "error" in row:
        return [label(row), "-", "-", "-", row["error"], "", "", "", ""]
    return [
        label(row),
        duration(row["wall"]),
        f"{1 / row['wall']:,.0f}" if row["wall"] < 0.1 else "",
        f"{row['wall_x']:.2f}",
        f"({row['wall_x_low']:.2f} - {row['wall_x_high']:.2f})",
        duration(row["cpu"]),
        f"{row['cpu_x']:.2f}",
        duration(row["p99"]) if "p99" in row else "",
        str(row["rounds"]),
    ]


def duration(seconds: float) -> str:
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 100 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds:.2f} s"


def show_growth(found: list[Answer]) -> str:
    """Return how the cost of a result grows with its size."""
    columns = [f"{title} {item}" for title in GROWTH for item in ("wall", "cpu")]
    lines = [[label(row), *(f"{row[title]:.1f}" if title in row else "-" for title in columns)] for row in found]
    return table(["growth with the size of a result", *columns], lines)


def show_starts(found: list[Answer]) -> str:
    """Return what it takes to begin."""
    lines = [
        [STARTS[row["start"]][0], f"{row['cpu']:.1f}", f"({row['low']:.1f} - {row['high']:.1f})", f"{row['rss']:.1f}"]
        for row in found
    ]
    return table(["a new process (beyond bare Python)", "cpu ms", "(min - max)", "RSS MB"], lines)


# -- the command ------------------------------------------------------------------------------------------------------


def run(keys: list[str], names: list[str], rounds: int, no_docker: str) -> Iterator[tuple[str, list[Answer], str]]:
    """Measure; yield what was measured, as data and as text, or why it was not."""
    rows: list[Answer] = []
    for key in keys:
        if key == "start":
            starts = start_up(rounds)
            yield "starts", starts, show_starts(starts)
            continue
        case = CASES[key]
        if case.binding == "docker" and no_docker:
            yield "skipped", [{"case": key, "why": no_docker}], f"{case.title}: left out: {no_docker}"
            continue
        records = measure(case, names, rounds)
        if not records:
            continue  # nobody of those chosen speaks that
        new = rows_of(key, records)
        rows += new
        yield "rows", new, show_case(key, new, {name: why for name, why in case.without.items() if name in names})
    if growth := growth_of(rows):
        yield "growth", growth, show_growth(growth)


def main() -> int:
    """Run what the command line asks for."""
    options = parse()
    keys = options.cases or [*CASES, "start"]
    if options.quick:
        CASES.update({key: replace(case, seconds=0.02) for key, case in CASES.items()})
    names = options.contenders or list(ENTRIES)
    for name in list(names):
        if why := why_absent(ENTRIES[name]):
            print(f"{ENTRIES[name].label} {why}", file=sys.stderr)
            names.remove(name)
    loads = [load()]
    print(f"Python {platform.python_version()}, {len(CPUS)} CPUs, load average {loads[0]}")
    report: dict[str, list[Answer]] = {"rows": [], "starts": [], "growth": [], "skipped": []}
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        no_docker = stack.enter_context(docker_engine.engine()) if any(map(wants_docker, keys)) else ""
        for kind, data, text in run(keys, names, options.rounds, no_docker):
            report[kind] += data
            print(f"\n{text}", flush=True)
    loads.append(load())
    print(f"\n{time.perf_counter() - began:.0f} s, load average {loads[1]}")
    if options.write and not options.quick:
        written = document.write(report["rows"], report["starts"], options.rounds, loads, peers_of(names))
        print("\n".join(f"written: {name}" for name in written))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1), "utf-8")
    return 1 if any("error" in row for row in report["rows"]) else 0


def peers_of(names: list[str]) -> dict[str, str]:
    """Return the versions of the official SDK in the environments of those who took part."""
    script = "import importlib.metadata as m; print(m.version('mcp'))"
    peers = {ENTRIES[name].peer for name in names} - {""}
    return {peer: subprocess.check_output([python_for(peer), "-c", script], text=True).strip() for peer in peers}


def wants_docker(key: str) -> bool:
    return key in CASES and CASES[key].binding == "docker"


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=some_of([*CASES, "start"]), help="comma-separated; see --list")
    parser.add_argument("--contenders", type=some_of(list(ENTRIES)), help="comma-separated; the first is the limit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short rounds, to see whether it works")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument("--write", action="store_true", help="write into README.rst what was measured, but quickly")
    parser.add_argument("--list", action="store_true", help="print cases and contenders")
    options = parser.parse_args()
    if options.list:
        listed = {**{key: case.title for key, case in CASES.items()}, "start": "a new process, first call"}
        print("\n".join(f"{key:16} {title}" for key, title in listed.items()))
        print("\n".join(f"{key:16} {entry.label}" for key, entry in ENTRIES.items()))
        parser.exit()
    return options


def some_of(known: list[str]) -> Any:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return names


if __name__ == "__main__":
    sys.exit(main())
