"""The benchmark of servers: what a call costs whoever answers it, in mcp_sync and beside the official SDK and fastmcp.

::

    python tests/benchmarks/serving.py                      # everything, under five minutes
    python tests/benchmarks/serving.py --cases stateless,stdio --rounds 9
    python tests/benchmarks/serving.py --list

All servers run all the time, each in processes of its own, and offer the same twenty tools (served/). One of them at a
time is under load, in rounds and in an order that rotates; ratios are formed inside a round, to the best of the peers,
and to the best of those that run as they come. Over HTTP the load is wrk, over stdio a loop of ``os.write`` and
``os.read``; both look at every answer, and one that is wrong fails the case. CPU is that of all processes of a server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import select
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import install as own
import wrk
from contenders.contender import VERSIONS, popen_pipes, write_all
from contenders.raw import META, encode
from run import HERE, Answer, duration, load, some_of, table

from hosts import install as hosts  # beside peers; run.py has seen to both
from peers import install as peers
from peers import running

ROOT = HERE.parents[1]
SERVED = HERE / "served"
PATIENCE_MS = 20_000
WARM_UP = 20
"""Calls that come first, and do not count."""

# -- who takes part, and in what --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A server.

    Attributes:
        label: For the table.
        where: Whose interpreter runs it: an environment of tests/peers, ``hosts`` or ``tuned``; empty means our own.
        command: What serves over stdio.
        http: What is added to serve over HTTP.
        packages: Whose versions are worth knowing.
        stdio: Whether it takes part over stdio.
    """

    label: str
    where: str
    command: tuple[str, ...]
    http: tuple[str, ...]
    packages: tuple[str, ...]
    stdio: bool = True

    @property
    def is_ours(self) -> bool:
        return self.label.startswith("mcp_sync")


_GUNICORN = ("-m", "gunicorn", "--worker-class", "gthread", "--threads", "64", "--chdir", str(SERVED))
_OURS = (str(SERVED / "our_server.py"),)


def _peer(label: str, name: str, where: str, *form: str) -> Entry:
    packages = ("fastmcp", "mcp", "uvicorn") if name == "fastmcp" else ("mcp", "uvicorn")
    more = ("uvloop", "httptools") if where == "tuned" else ()
    command = (str(SERVED / "peer_server.py"), name)
    return Entry(label, where, command, ("{port}", *form), (*packages, *more), stdio=not form)


SERVERS = {
    "ours": Entry("mcp_sync", "", _OURS, ("{port}",), ("waitress",)),
    "gunicorn": Entry(
        "mcp_sync under gunicorn",
        "hosts",
        _GUNICORN,
        ("--bind", "127.0.0.1:{port}", "our_server:application"),
        ("gunicorn",),
        stdio=False,
    ),
    "sdk2": _peer("official SDK 2", "sdk2", "sdk2"),
    "sdk2-tuned": _peer("official SDK 2, tuned", "sdk2", "tuned", "json"),
    "sdk1": _peer("official SDK 1", "sdk1", "sdk1"),
    "fastmcp": _peer("fastmcp", "fastmcp", "fastmcp"),
    "fastmcp-tuned": _peer("fastmcp, tuned", "fastmcp", "tuned", "json"),
}
"""Under ``run("http")``, gunicorn or uvicorn, one process each. Tuned means JSON, uvloop and httptools."""


@dataclass(frozen=True)
class Case:
    """One kind of work.

    Attributes:
        title: For the table.
        params: Of the request.
        expected: What every answer has in it, in this order.
        method: Of the request.
        width: How many requests are on their way at once, each on a connection of its own over HTTP.
        least: Bytes of every answer.
        era: Of the protocol.
        binding: ``http`` or ``stdio``.
        without: Who does not take part, and why.
    """

    title: str
    params: Mapping[str, Any]
    expected: tuple[str, ...]
    method: str = "tools/call"
    width: int = 1
    least: int = 0
    era: str = "handshake"
    binding: str = "http"
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> str:
        """The request, with MARK for its id."""
        params = {**self.params, "_meta": META} if self.era == "stateless" else self.params
        return encode({"jsonrpc": "2.0", "id": int(wrk.MARK), "method": self.method, "params": params})

    def headers(self, session_id: str) -> dict[str, str]:
        """Return those of a request over HTTP."""
        found = {**HEADERS, "MCP-Protocol-Version": VERSIONS[self.era]}
        if self.era == "stateless":
            return {**found, "Mcp-Method": self.method, **({"Mcp-Name": self.params["name"]} if self.params else {})}
        return {**found, "Mcp-Session-Id": session_id}


HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
_TINY = {"params": {"name": "bench_tiny", "arguments": {"a": 1, "b": 2}}, "expected": ('"3"',)}
_TEXT = {"name": "bench_text", "arguments": {"number": 100_000}}
_STEPS = {"name": "bench_steps", "arguments": {"number": 3}, "_meta": {"progressToken": int(wrk.MARK)}}
_STATELESS = {"era": "stateless", "without": {"sdk1": "knows no 2026-07-28"}}
_NO_PROGRESS = "JSON has no room for progress"

CASES = {
    "stateless": Case("stateless: tiny call, 1 client", **_TINY, **_STATELESS),
    "stateless32": Case("stateless: tiny call, 32 clients", **_TINY, **_STATELESS, width=32),
    "session": Case("session: tiny call, 1 client", **_TINY),
    "session32": Case("session: tiny call, 32 clients", **_TINY, width=32),
    "text": Case("session: 100 kB result, 32 clients", _TEXT, ("It was the best of times",), width=32, least=100_000),
    "steps": Case(
        "session: 3 reports and an answer, 32 clients",
        _STEPS,
        (*3 * ("notifications/progress",), '"done"'),
        width=32,
        without={"sdk2-tuned": _NO_PROGRESS, "fastmcp-tuned": _NO_PROGRESS},
    ),
    "list": Case("session: list of 20 tools, 32 clients", {}, ("bench_tiny", "bench_spare_16"), "tools/list", 32),
    "stdio": Case("stdio: tiny call, 1 caller", **_TINY, binding="stdio"),
    "stdio32": Case("stdio: tiny call, 32 on their way", **_TINY, binding="stdio", width=32),
}


def takes_part(name: str, case: Case) -> bool:
    return name not in case.without and (case.binding == "http" or SERVERS[name].stdio)


def why_absent(name: str) -> str:
    """Return why it cannot take part, or an empty str."""
    where = SERVERS[name].where
    if not where:
        return "" if find_spec("waitress") else "needs waitress"
    script = {"hosts": "tests/hosts/install.py", "tuned": "tests/benchmarks/install.py"}
    if {"hosts": hosts.is_installed, "tuned": own.is_installed}.get(where, lambda: peers.is_installed(where))():
        return ""
    return f"is not installed; run {script.get(where, 'tests/peers/install.py')}"


def command_of(name: str) -> list[str]:
    where = SERVERS[name].where
    python = {"": sys.executable, "hosts": hosts.PYTHON, "tuned": own.PYTHON}.get(where) or peers.python_of(where)
    return [python, *SERVERS[name].command]


def environ_of(name: str) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "SCRIPT_NAME": "/mcp"} if SERVERS[name].is_ours else {}  # the latter for gunicorn


# -- the servers ------------------------------------------------------------------------------------------------------


class Web:
    """A server that listens, and its load."""

    first_mb = 0.0

    def __init__(self, server: running.Running) -> None:
        self.url = server.url
        self.session = server.process.pid
        self._session_id = ""

    def warm_up(self, case: Case) -> None:
        """Begin a session, if none has begun, and ask a few times."""
        if case.era == "handshake" and not self._session_id:
            self._session_id = self._post(case, HELLO)["Mcp-Session-Id"]
            self._post(case, READY)
        for number in range(WARM_UP):
            self._post(case, case.body.replace(wrk.MARK, str(number + 1)))

    def load(self, case: Case, seconds: int) -> Answer:
        """Ask again and again."""
        headers = case.headers(self._session_id)
        return wrk.run(self.url, headers, case.body, case.expected, case.least, case.width, seconds)

    def _post(self, case: Case, body: str) -> Message:
        headers = {name: value for name, value in case.headers(self._session_id).items() if value}
        request = urllib.request.Request(self.url, body.encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE_MS / 1000) as response:
            response.read()
            return response.headers


class Pipe:
    """A server at two pipes, and its load."""

    first_mb = 0.0

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        environ = {**os.environ, **environ}
        self._process, self._stdin, self._stdout = popen_pipes(command, env=environ, start_new_session=True)
        self.session = self._process.pid
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._rest = b""
        self._id = int(wrk.MARK)
        self._ready = False

    def warm_up(self, case: Case) -> None:
        """Begin, if that has not happened, and ask a few times."""
        if not self._ready:
            self._ready = True
            write_all(self._stdin, HELLO.encode() + b"\n")
            self._lines()
            write_all(self._stdin, READY.encode() + b"\n")
        self._ask(case, WARM_UP, 0.0)

    def load(self, case: Case, seconds: float) -> Answer:
        """Ask again and again; what was answered together is followed by requests that go together."""
        return self._ask(case, case.width, seconds)

    def _ask(self, case: Case, width: int, seconds: float) -> Answer:
        parts = (case.body + "\n").encode().split(wrk.MARK.encode())
        expected = [part.encode() for part in case.expected]
        clock = time.perf_counter
        since: dict[bytes, float] = {}
        times: list[float] = []
        flaws: list[str] = []
        began = clock()
        missing = width
        while True:
            if missing:
                write_all(self._stdin, b"".join([self._request(parts, since, clock()) for _ in range(missing)]))
            lines = self._lines()
            now = clock()
            for line in lines:
                found = find_id(line)
                asked = since.pop(found[1], None) if found else None
                if asked is None or not all(part in line for part in expected):
                    flaws.append(line.decode()[:50])
                else:
                    times.append(now - asked)
            missing = len(lines) if now - began < seconds else 0
            if not missing and not since:
                break
        return {"calls": len(times), "seconds": clock() - began, **_percentiles(times), **_told(flaws)}

    def _request(self, parts: list[bytes], since: dict[bytes, float], now: float) -> bytes:
        self._id += 1
        number = b"%d" % self._id
        since[number] = now
        return number.join(parts)

    def _lines(self) -> list[bytes]:
        """Return the lines that come next, one at least."""
        lines: list[bytes] = []
        while not lines:
            if not self._poll.poll(PATIENCE_MS):
                raise TimeoutError("no answer came")
            chunk = os.read(self._stdout, 65536)
            if not chunk:
                raise EOFError("the server ended")
            lines = (self._rest + chunk).split(b"\n")
            self._rest = lines.pop()
        return lines

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_MS / 1000)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


_INFO = {"protocolVersion": VERSIONS["handshake"], "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
HELLO = encode({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": _INFO})
READY = encode({"jsonrpc": "2.0", "method": "notifications/initialized"})
find_id = re.compile(rb'"id":\s*(\d+)').search


def _percentiles(times: list[float]) -> dict[str, float]:
    times.sort()
    last = len(times) - 1
    return {"p50": times[last // 2], "p99": times[last * 99 // 100]} if times else {}


def _told(flaws: list[str]) -> Answer:
    return {"wrong": len(flaws), "broken": 0, "example": flaws[0] if flaws else ""}


def usage(session: int) -> tuple[float, float]:
    """Return the CPU seconds and the resident MB of all processes of a session, but not of a shell that leads it."""
    ticks = pages = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = file.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        values = rest.split()
        if int(values[3]) == session and not head.endswith("(sh"):
            ticks += int(values[11]) + int(values[12])
            pages += int(values[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextlib.contextmanager
def serving(keys: list[tuple[str, str]]) -> Iterator[dict[tuple[str, str], Web | Pipe]]:
    """Start these servers, by name and binding; they end with the block."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(key: tuple[str, str]) -> Web | Pipe:
            name, binding = key
            if binding == "stdio":
                pipe = Pipe(command_of(name), environ_of(name))
                stack.callback(pipe.close)
                return pipe
            command, added = command_of(name), SERVERS[name].http
            server = running.running(
                lambda port: [*command, *(part.format(port=port) for part in added)], folder / name, environ_of(name)
            )
            return Web(stack.enter_context(server))

        with ThreadPoolExecutor(4) as pool:
            started = list(pool.map(start, keys))
        yield dict(zip(keys, started, strict=True))


# -- measuring --------------------------------------------------------------------------------------------------------


def measure(case: Case, servers: Mapping[str, Web | Pipe], rounds: int, seconds: int) -> list[Answer]:
    """Return a row for each server."""
    answers: dict[str, list[Answer]] = {name: [] for name in servers}
    for name, server in servers.items():
        with _failing(answers[name]):
            server.warm_up(case)
            server.first_mb = server.first_mb or usage(server.session)[1]
    for number in range(rounds):
        turn = number % max(1, len(servers))
        for name in [*servers][turn:] + [*servers][:turn]:
            if not any("error" in answer for answer in answers[name]):
                with _failing(answers[name]):
                    answers[name].append(one_round(case, servers[name], seconds))
    return [{"contender": name, **row} for name, row in rows_of(answers).items()]


@contextlib.contextmanager
def _failing(answers: list[Answer]) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        answers.append({"error": f"{type(error).__name__}: {error}"[:60]})


def one_round(case: Case, server: Web | Pipe, seconds: int) -> Answer:
    """Return what one round took: calls a second, and the CPU seconds of the server for a thousand."""
    before, _ = usage(server.session)
    answer = server.load(case, seconds)
    if "error" in answer:
        return answer
    if answer["wrong"] or answer["broken"] or not answer["calls"]:
        return {"error": "{wrong} wrong, {broken} broken of {calls}: {example}".format(**answer)}
    cpu = usage(server.session)[0] - before
    return {
        "rate": answer["calls"] / answer["seconds"],
        "p50": answer["p50"],
        "p99": answer["p99"],
        "cpu": cpu * 1000 / answer["calls"],
    }


def rows_of(answers: Mapping[str, list[Answer]]) -> dict[str, Answer]:
    """Return medians, and ratios, round by round: ``x`` to the best peer, ``x_plain`` to the best that is not tuned."""
    rows: dict[str, Answer] = {}
    for name, found in answers.items():
        error = next((answer["error"] for answer in found if "error" in answer), None)
        rows[name] = {"error": error} if error else {key: median(one[key] for one in found) for key in found[0]}
        rows[name]["rounds"] = len(found)
    fine = [name for name, row in rows.items() if "rate" in row]
    peers = [name for name in fine if not SERVERS[name].is_ours]
    for key, rivals in (("x", peers), ("x_plain", [name for name in peers if SERVERS[name].where != "tuned"])):
        if rivals:
            best = max(rivals, key=lambda name: rows[name]["rate"])
            for name in fine:
                ratios = [one["rate"] / its["rate"] for one, its in zip(answers[name], answers[best], strict=True)]
                rows[name] |= {key: [median(ratios), min(ratios), max(ratios)], f"{key}_to": best}
    return rows


# -- printing ---------------------------------------------------------------------------------------------------------


def show_case(case: Case, rows: list[Answer]) -> str:
    ratios = ["x best peer", "(min - max)", "x untuned", "(min - max)"]
    head = [case.title, "calls/s", *ratios, "p50", "p99", "cpu s / 1000", "rounds"]
    lines = [_cells(row) for row in rows]
    lines += [[SERVERS[name].label, "-", "-", f"left out: {why}", *6 * [""]] for name, why in case.without.items()]
    return table(head, lines)


def _cells(row: Answer) -> list[str]:
    label = SERVERS[row["contender"]].label
    if "error" in row:
        return [label, "-", "-", row["error"], *6 * [""]]
    times = [duration(row["p50"]), duration(row["p99"]), f"{row['cpu']:.3f}"]
    return [label, f"{row['rate']:,.0f}", *_ratio(row, "x"), *_ratio(row, "x_plain"), *times, str(row["rounds"])]


def _ratio(row: Answer, key: str) -> list[str]:
    if key not in row:
        return ["-", ""]
    middle, low, high = row[key]
    return [f"{middle:.2f}", f"({low:.2f} - {high:.2f})"]


def show_memory(rows: list[Answer]) -> str:
    lines = [[f"{SERVERS[row['contender']].label}, {row['binding']}", *_memory(row)] for row in rows]
    return table(["resident memory", "MB at first", "MB at last"], lines)


def _memory(row: Answer) -> list[str]:
    return [f"{row['first']:.0f}", f"{row['last']:.0f}"]


def versions(names: list[str]) -> str:
    """Return the versions of the packages that matter."""
    found: dict[str, None] = {}
    for name in names:
        script = f"import importlib.metadata as m; print(*(p + ' ' + m.version(p) for p in {SERVERS[name].packages}))"
        done = subprocess.run([command_of(name)[0], "-c", script], capture_output=True, text=True)
        found[f"{SERVERS[name].label}: {done.stdout.strip()}"] = None
    return "\n".join(found)


# -- the command ------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run what the command line asks for."""
    options = parse()
    keys = options.cases or list(CASES)
    if wrk.path() is None:
        print("wrk is not installed; run tests/benchmarks/install.py", file=sys.stderr)
        keys = [key for key in keys if CASES[key].binding != "http"]
    names = [name for name in options.contenders or SERVERS if any(takes_part(name, CASES[key]) for key in keys)]
    for name in list(names):
        if why := why_absent(name):
            print(f"{SERVERS[name].label} {why}", file=sys.stderr)
            names.remove(name)
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load average {load()}\n{versions(names)}")
    report = run(keys, names, options.rounds, options.seconds)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1), "utf-8")
    return 1 if any("error" in row for row in report["rows"]) else 0


def run(keys: list[str], names: list[str], rounds: int, seconds: int) -> dict[str, list[Answer]]:
    """Measure, and print what was measured."""
    report: dict[str, list[Answer]] = {"rows": [], "memory": []}
    began = time.perf_counter()
    wanted = {(name, CASES[key].binding): None for name in names for key in keys if takes_part(name, CASES[key])}
    with serving(list(wanted)) as servers:
        for key in keys:
            case = CASES[key]
            chosen = {n: s for (n, binding), s in servers.items() if binding == case.binding and takes_part(n, case)}
            rows = [{"case": key, **row} for row in measure(case, chosen, rounds, seconds)]
            report["rows"] += rows
            print(f"\n{show_case(case, rows)}", flush=True)
        for (name, binding), server in servers.items():
            memory = {"first": server.first_mb, "last": usage(server.session)[1]}
            report["memory"].append({"contender": name, "binding": binding, **memory})
    print(f"\n{show_memory(report['memory'])}\n\n{time.perf_counter() - began:.0f} s, load average {load()}")
    return report


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=some_of(list(CASES)), help="comma-separated; see --list")
    parser.add_argument("--contenders", type=some_of(list(SERVERS)), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1, help="of a round")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument("--list", action="store_true", help="print cases and contenders")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{key:16} {case.title}" for key, case in CASES.items()))
        print("\n".join(f"{key:16} {entry.label}" for key, entry in SERVERS.items()))
        parser.exit()
    return options


if __name__ == "__main__":
    sys.exit(main())
