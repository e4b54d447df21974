"""The soak: every transport at once, many threads, random faults; ``python tests/soak/soak.py [--minutes 30]``.

Threads call servers that misbehave by the name of the tool (servers.py, faults/server.py), with timeouts of 0.05 to
2 s. Meanwhile a gremlin kills, stops and restarts servers, resets their connections, and closes clients under those who
call. A child goes through a storm of signals (storm.py). At the end a table is printed, and the exit status is 1 if

* a call, a connect or a close was over BAR_OVERRUN later than it had to be;
* a thread, a descriptor, a child process or a container was left;
* memory grew by BAR_SLOPE or more (judged in soaks of SLOPE_MINUTES or longer). Every REST_SECONDS all rest for a
  moment; then it is measured, after the collector and the allocator have given back what they keep;
* for some client ``sent`` was not ``ok + error + timeout + cancelled + pending``, or something was pending at its end;
* an answer was somebody else's, an exception was not one of ours, or a callback did not come exactly once.

The seed that is printed gives the same dice to the same threads; when they are thrown is the machine's affair. The
machine may be slow itself: a witness, a process that only sleeps, notes when it was not woken in time. What it noted is
taken off an overrun that it coincides with; both are printed.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from faults.tools import command, manner

from house import leakcheck
from mcp_sync import (
    Client,
    HttpTransport,
    JSONRPCError,
    MCPConnectionError,
    MCPTimeoutError,
    MCPTransport,
    MemoryTransport,
    MessageTooLarge,
    ProtocolError,
    Refused,
    SSETransport,
    StdioTransport,
    TransportManager,
    WebSocketTransport,
)
from mcp_sync.engine.channel import Channel
from mcp_sync.exceptions import HTTPStatusError
from mcp_sync.testing.partner import Partner
from mcp_sync.testing.tools import ChannelWire, start_thread
from peers.running import accepts, free_port

HERE = Path(__file__).resolve().parent
BAR_OVERRUN = 0.25
"""Seconds; FAULTS.md, section 6."""
BAR_SLOPE = 1.0
"""Megabytes an hour, over the second half."""
REST_SECONDS = 30.0
"""How often memory is measured while nobody calls."""
SLOPE_MINUTES = 15.0
"""A shorter soak says nothing of it: the noise of one second is more."""
TIMEOUTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
CONNECT = 5.0
SHUTDOWN = 0.5
CLOSE = SHUTDOWN + 1.0
"""Seconds that closing may take: the server's time, then that of those who read."""
PAUSE = 0.03
"""Seconds between two calls of a thread, on average: a machine that is always busy keeps nobody's deadlines."""
LIMIT = 200_000
PAYLOADS = (1, 100, 5_000, 150_000)
GREMLINS = 2
SAID = 20
"""So many problems are printed whole."""

SOFT = ("late", "silent", "bad", "foreign", "no", "long", "twice", "flood", "drip", "stalls")
HTTP_SOFT = (*SOFT, "endless", "half", "dies", "reset", "garbage", "moved", "cut", "mute")
HTTP_SOFT = (*HTTP_SOFT, "e500", "e503", "e429", "e403", "lost")
STDIO: dict[str, Any] = {
    "late": manner("answer", seconds=0.3, late=True),
    "silent": manner("silent"),
    "bad": manner("says", texts=['{"jsonrpc": "2.0", "id": $ID, "result": [}\n'], then=False),
    "garbage": manner("says", texts=["INFO \xff\n", '{"level": "info"}\n', "\x00\n"]),
    "foreign": manner("says", texts=['{"jsonrpc": "2.0", "id": "other", "result": {}}\n']),
    "long": manner("long", size=300_000),
    "no": manner("refuse"),
    "flood": manner("flood", count=500, method="notifications/news"),
    "asks": manner("flood", count=100, method="ping", ask=True),
    "words": manner("babble", count=200_000),
    "twice": manner("answer", times=3),
    "drip": manner("drip", seconds=0.0005, rest=True),
    "stalls": manner("stall"),
    "deaf": manner("deaf_for", seconds=0.3),
    "dies": manner("killed"),
    "half": manner("killed", text='{"jsonrpc": "2.0", "id": $ID, "res'),
    "leaves": manner("exit", code=1),
    "mute": manner("mute"),
}
PARTNER: dict[str, tuple[str, dict[str, Any]]] = {
    "silent": ("hold", {}),
    "release": ("release", {}),
    "bad": ("malformed", {}),
    "garbage": ("garbage", {}),
    "foreign": ("foreign", {}),
    "twice": ("twice", {}),
    "no": ("fail", {"code": -1, "message": "no"}),
    "long": ("oversize", {"size": 300_000}),
    "flood": ("notify", {"count": 500}),
    "progress": ("progress", {"count": 5}),
    "deaf": ("deaf", {}),
    "dies": ("die", {}),
    "leaves": ("close", {}),
}


# -- what is counted ---------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """All that is counted, by any thread."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    late: list[tuple[float, float, str, str]] = field(default_factory=list)  # by, when it had to end, transport, what
    counters: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    futures: int = 0
    callbacks: int = 0
    clients: int = 0
    said: Counter[str] = field(default_factory=Counter)

    def ended(
        self, transport: str, outcome: str, began: float, limit: float, what: str, error: BaseException | None = None
    ) -> None:
        """Note how something ended, which had so many seconds."""
        over = time.monotonic() - began - limit
        with self.lock:
            self.outcomes.setdefault(transport, Counter())[outcome] += 1
            if over > 0.02:
                said = f" ({error!s:.300})" if error is not None and over > BAR_OVERRUN else ""
                self.late.append((over, began + limit, transport, f"{what}: {outcome}, {limit:g} s{said}"))

    def problem(self, text: str) -> None:
        with self.lock:
            self.problems.append(text)

    def called_back(self, future: Future[Any]) -> None:
        with self.lock:
            self.callbacks += 1

    def account(self, transport: str, client: Client) -> None:
        """Add the counters of a client that was closed."""
        try:
            counters = client.counters
        except MCPConnectionError:
            return  # it was never connected
        ends = sum(counters[key] for key in ("ok", "error", "timeout", "cancelled"))
        if counters["pending"] or counters["sent"] != ends:
            self.problem(f"{transport}: the counters do not add up: {counters}")
        with self.lock:
            self.clients += 1
            self.counters.update(counters)


class Listener(logging.Handler):
    """Counts what the library has to say, by the text of its author."""

    def __init__(self, said: Counter[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said[f"{record.levelname.lower()}: {record.msg:.60}"] += 1


KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (MCPTimeoutError, "timeout"),
    (HTTPStatusError, "status"),
    (MCPConnectionError, "connection"),
    (MessageTooLarge, "too large"),
    (Refused, "refused"),
    (ProtocolError, "protocol"),
    (JSONRPCError, "rpc error"),
    (CancelledError, "cancelled"),
)


def outcome_of(error: BaseException) -> str | None:
    """Return the name of an expected end; None: nobody may see such an exception."""
    return next((name for kind, name in KINDS if isinstance(error, kind)), None)


# -- the machine -------------------------------------------------------------------------------------------------------

WATCH = """
import sys, time
slept = time.monotonic()
while True:
    time.sleep(0.005)
    now = time.monotonic()
    if now - slept > 0.02:
        print(slept + 0.005, now, flush=True)
    slept = now
"""


class Witness:
    """Notes when the machine stood still: in a process of its own, which does nothing but wake up."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", WATCH], stdout=subprocess.PIPE, text=True)
        self.stalls: list[tuple[float, float]] = []
        self._reader = threading.Thread(target=self._read, name="witness")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            began, ended = map(float, line.split())
            self.stalls.append((began, ended))

    def close(self) -> None:
        self.process.kill()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()

    def stolen(self, began: float, ended: float) -> float:
        """Return for how many seconds between two moments the machine stood still."""
        return sum(max(0.0, min(ended, last) - max(began, first)) for first, last in self.stalls)


class Sleeper:
    """Notes when a thread of this process, which only sleeps, was not woken in time: the others had the interpreter."""

    def __init__(self) -> None:
        self.pauses: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sleep, name="sleeper")
        self._thread.start()

    def _sleep(self) -> None:
        began = time.monotonic()
        while not self._over.wait(0.01):
            now = time.monotonic()
            if now - began > 0.1:
                self.pauses.append((began + 0.01, now))
            began = now

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def give_back() -> None:
    """Have the collector and the allocator give back to the system what is free, where they can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> float:
    """Return the memory of this process in megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def slope(points: list[tuple[float, float]]) -> float:
    """Return the growth of the second per one of the first (least squares)."""
    n = len(points)
    if n < 2:
        return 0.0
    middle_x, middle_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    over = sum((x - middle_x) * (y - middle_y) for x, y in points)
    return over / (sum((x - middle_x) ** 2 for x, _ in points) or 1.0)


# -- servers -----------------------------------------------------------------------------------------------------------


class Site:
    """A server that listens, in a process of its own, which may be killed and started again at the same port."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.port = free_port()
        self.lock = threading.Lock()  # guards process
        self.restarting = threading.Lock()  # guards the restart, so that there is one at a time
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'ws' if self.kind.startswith('ws-') else 'http'}://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        words = [sys.executable, str(HERE / "servers.py"), self.kind, str(self.port)]
        with self.lock:
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def await_it(self) -> None:
        end = time.monotonic() + 20.0
        while not accepts(self.port):
            if time.monotonic() > end:
                raise RuntimeError(f"the {self.kind} server does not listen")
            time.sleep(0.02)

    def kill(self) -> None:
        with self.lock:
            process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def signal(self, number: int) -> None:
        with self.lock:
            if self.process is not None:
                self.process.send_signal(number)


class InMemory:
    """A server in this process, for MemoryTransport."""

    def serve(self, channel: Channel) -> None:
        start_thread("mcp-contract-partner", lambda: Partner(ChannelWire(channel)).run())


# -- ways to reach them ------------------------------------------------------------------------------------------------


class Reach:
    """One transport, some clients of it, and how to ask them.

    Args:
        name: The transport, in the table.
        make: Makes what a client is given.
        soft: Faults that leave the connection as it is, or that are nothing special for it.
        hard: Those that end it.
        clients: How many there are.
    """

    def __init__(
        self, name: str, make: Callable[[], Any], soft: tuple[str, ...], hard: tuple[str, ...], clients: int = 2
    ) -> None:
        self.name = name
        self._make = make
        self.faults = ["echo", *soft, *hard]
        self.weights = [1.5 * len(soft) + 4.0, *[1.0] * len(soft), *[0.12] * len(hard)]
        self.clients: list[Client] = [self.fresh() for _ in range(clients)]

    def fresh(self) -> Client:
        """Return a client that has not connected yet."""
        return Client(self._make(), timeout=CONNECT)

    def question(self, fault: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the method and the params."""
        return "tools/call", {"name": fault, "arguments": arguments}

    def answered(self, result: dict[str, Any]) -> Any:
        """Return what an echo has said."""
        return json.loads(result["content"][0]["text"])


class PartnerReach(Reach):
    """One whose servers are Partners."""

    def question(self, fault: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return PARTNER.get(fault, (fault, arguments))

    def answered(self, result: dict[str, Any]) -> Any:
        return {key: value for key, value in result.items() if not key.startswith("_")}


class ManagedReach(Reach):
    """One over a manager, which is asked directly, too."""

    manager: TransportManager


def child() -> StdioTransport:
    return StdioTransport(command(**STDIO), max_message_size=LIMIT, shutdown_timeout=SHUTDOWN)


def modern_child() -> StdioTransport:
    return StdioTransport(command("stateless", **STDIO), max_message_size=LIMIT, shutdown_timeout=SHUTDOWN)


def restarting_child() -> StdioTransport:
    knobs: dict[str, Any] = {"max_restarts": 1000, "restart_delay": 0.05}
    return StdioTransport(command(**STDIO), max_message_size=LIMIT, shutdown_timeout=SHUTDOWN, **knobs)


def reaches(sites: dict[str, Site], stack: ExitStack, docker: bool) -> list[Reach]:
    """Return all there are."""
    hard = ("dies", "leaves", "half", "mute")
    soft = tuple(name for name in STDIO if name not in hard)
    socket_hard = ("half", "dies", "leaves", "reset", "garbage", "binary", "long")
    socket_soft = ("late", "silent", "bad", "foreign", "no", "twice", "flood", "pings", "drip", "deaf", "stalls")
    sse_soft = ("late", "silent", "unaccepted", "bad", "foreign", "no", "garbage", "twice", "flood", "e500", "e429")
    said_properly = tuple(name for name in PARTNER if name not in ("bad", "garbage", "deaf", "dies", "leaves"))
    # In memory nobody is deaf either: what a Partner does not read, its wire keeps.
    knobs: dict[str, Any] = {"max_message_size": LIMIT}

    def web(kind: str) -> Callable[[], MCPTransport]:
        return lambda: HttpTransport(sites[kind].url, max_pipeline_size=32, **knobs)

    def socket(kind: str) -> Callable[[], MCPTransport]:
        return lambda: WebSocketTransport(sites[kind].url, reconnect_interval=0.1, **knobs)

    found = [
        Reach("stdio", child, soft, hard, 4),
        Reach("stdio, stateless", modern_child, soft, hard),
        Reach("stdio, restarting", restarting_child, soft, hard),
        Reach("http, stateless", web("stateless"), HTTP_SOFT, ()),
        Reach("http, handshake", web("handshake"), HTTP_SOFT, ()),
        Reach("sse", lambda: SSETransport(sites["sse"].url, "", **knobs), sse_soft, ("cut", "dies", "reset", "stalls")),
        Reach("websocket", socket("ws-handshake"), socket_soft, socket_hard),
        Reach("websocket, stateless", socket("ws-stateless"), socket_soft, socket_hard),
        PartnerReach("memory", lambda: MemoryTransport(InMemory(), **knobs), said_properly, ("dies", "leaves")),
        managed(sites, stack, web, socket),
    ]
    return [*found, *([dockered(stack)] if docker else [])]


def managed(sites: dict[str, Site], stack: ExitStack, web: Any, socket: Any) -> Reach:
    """Return the one over a manager with three endpoints."""
    manager = stack.enter_context(TransportManager(CONNECT, health_check_interval=1.0))
    manager.register_transport("child", child())
    manager.register_transport("web", web("stateless")())
    manager.register_transport("socket", socket("ws-handshake")())
    names = iter(range(1_000_000))
    soft = ("late", "silent", "bad", "foreign", "no", "twice", "flood", "drip", "stalls")
    entrance = ("child", "web", "socket")
    reach = ManagedReach("manager", lambda: manager.endpoint(entrance[next(names) % 3]), soft, ("dies", "half"), 3)
    reach.manager = manager
    return reach


def dockered(stack: ExitStack) -> Reach:
    """Return the one over containers; there has to be an engine, or the right to start one."""
    from containers import engines, images, tools

    host = stack.enter_context(engines.running())
    if host is not None:
        os.environ["DOCKER_HOST"] = host
    images.build()
    stack.callback(images.remove)
    soft = tuple(name for name in PARTNER if name not in ("deaf", "dies", "leaves"))

    def make() -> MCPTransport:
        return tools.transport(max_message_size=LIMIT, shutdown_timeout=SHUTDOWN)

    return PartnerReach("docker", make, soft, ("dies", "leaves"), 1)


# -- the work ----------------------------------------------------------------------------------------------------------


class Soak:
    """Clients that are shared, killed and replaced, while many threads call them."""

    def __init__(self, found: list[Reach], sites: dict[str, Site], seconds: float, seed: int, threads: int) -> None:
        self.reaches = found
        self.sites = sites
        self.seed = seed
        self.began = time.monotonic()
        self.over = self.began + seconds
        self.figures = Figures()
        self.lock = threading.Lock()  # guards the lists of clients
        self.places = [threading.Lock() for _ in range(threads)]  # each guards what one thread does between two pauses

    @property
    def going(self) -> bool:
        return time.monotonic() < self.over

    @contextmanager
    def at_rest(self) -> Any:
        """Have nobody call, and nobody do mischief; who is at it ends that first."""
        with ExitStack() as stack:
            for place in self.places:
                stack.enter_context(place)
            yield

    # -- callers

    def work(self, number: int) -> None:
        """Call, until it is over."""
        dice = random.Random(f"{self.seed}-{number}")
        wait = threading.Event().wait
        while self.going:
            reach = dice.choice(self.reaches)
            slot = dice.randrange(len(reach.clients))
            with self.places[number]:
                client = reach.clients[slot]
                try:
                    if client.connected or self.connect(reach, client, dice):
                        self.call(reach, client, dice)
                    if not client.connected and dice.random() < 0.5:
                        self.replace(reach, slot, client)
                except Exception:
                    self.figures.problem(f"{reach.name}: nobody may see this:\n{traceback.format_exc()}")
                del client
            wait(dice.expovariate(1 / PAUSE))

    def connect(self, reach: Reach, client: Client, dice: random.Random) -> bool:
        """Connect, or connect again; others may be doing so, too."""
        limit, began = dice.choice([0.2, 0.5, 1.0, 2.0]), time.monotonic()
        try:
            client.connect(limit)
        except Exception as error:
            if (outcome := outcome_of(error)) is None:
                raise
            self.figures.ended(reach.name, f"not connected: {outcome}", began, limit, "connect", error)
            return False
        self.figures.ended(reach.name, "connected", began, limit, "connect")
        return True

    def call(self, reach: Reach, client: Client, dice: random.Random) -> None:
        """Call something, in some way, with some timeout; it must end by then, with its own answer if with any."""
        fault = dice.choices(reach.faults, reach.weights)[0]
        limit = dice.choice(TIMEOUTS)
        arguments = {"n": dice.getrandbits(48), "x": "y" * dice.choice(PAYLOADS)} if fault == "echo" else {}
        method, params = reach.question(fault, arguments)
        way = self.directly if isinstance(reach, ManagedReach) and dice.random() < 0.3 else self.by_client
        began = time.monotonic()
        try:
            result = way(reach, client, method, params, limit, dice)
        except Exception as error:
            if (outcome := outcome_of(error)) is None:
                raise
            self.figures.ended(reach.name, outcome, began, limit, fault, error)
            return
        self.figures.ended(reach.name, "ok", began, limit, fault)
        if fault == "echo" and reach.answered(result) != arguments:
            self.figures.problem(f"{reach.name}: the answer to {arguments['n']} was {str(result):.200}")

    def by_client(
        self, reach: Reach, client: Client, method: str, params: dict[str, Any], limit: float, dice: random.Random
    ) -> Any:
        if dice.random() < 0.7:
            return client.request(method, params, limit)
        future = client.submit(method, params, limit)
        future.add_done_callback(self.figures.called_back)
        with self.figures.lock:
            self.figures.futures += 1
        if dice.random() < 0.15:
            future.cancel()
        return future.result()

    def directly(
        self, reach: Reach, client: Client, method: str, params: dict[str, Any], limit: float, dice: random.Random
    ) -> Any:
        assert isinstance(reach, ManagedReach)
        name = dice.choice(["child", "web", "socket", "default"])
        return reach.manager.send_request(name, method, params, limit)

    # -- the ends of clients

    def replace(self, reach: Reach, slot: int, old: Client) -> None:
        """Put a new client in the place of one, unless somebody else does."""
        with self.lock:
            if reach.clients[slot] is not old:
                return
            reach.clients[slot] = reach.fresh()
        self.end(reach, old)

    def end(self, reach: Reach, client: Client) -> None:
        """Close a client, in time, and account for its calls."""
        began = time.monotonic()
        client.close()
        self.figures.ended(reach.name, "closed", began, CLOSE, "close")
        self.figures.account(reach.name, client)

    # -- the gremlin

    def mischief(self, number: int) -> None:
        """Do something to the servers and the clients every now and then."""
        dice = random.Random(f"{self.seed}-gremlin-{number}")
        deeds = [self.kill_child, self.stop_child, self.kill_site, self.stop_site, self.reset_site, self.close_client]
        while self.going:
            threading.Event().wait(dice.uniform(0.05, 0.6))
            deed = dice.choice(deeds)
            with self.places[-1 - number]:
                try:
                    deed(dice)
                except Exception:
                    self.figures.problem(f"{deed.__name__}:\n{traceback.format_exc()}")
                self.figures.deeds[deed.__name__] += 1

    def a_child(self, dice: random.Random) -> int | None:
        """Return the number of some server over stdio: a child of ours that is neither a site nor the witness."""
        pids = [pid for pid in leakcheck.take().children if b"server.py" in _command_line(pid)]
        return dice.choice(sorted(pids)) if pids else None

    def kill_child(self, dice: random.Random) -> None:
        if (pid := self.a_child(dice)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV]))

    def stop_child(self, dice: random.Random) -> None:
        if (pid := self.a_child(dice)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                threading.Event().wait(dice.uniform(0.05, 1.0))
                os.kill(pid, signal.SIGCONT)

    def kill_site(self, dice: random.Random) -> None:
        if dice.random() < 0.5:  # they take long to come back
            site = self.sites[dice.choice(sorted(self.sites))]
            with site.restarting:
                site.kill()
                threading.Event().wait(dice.uniform(0.0, 0.5))
                site.start()

    def stop_site(self, dice: random.Random) -> None:
        site = self.sites[dice.choice(sorted(self.sites))]
        site.signal(signal.SIGSTOP)
        threading.Event().wait(dice.uniform(0.05, 1.0))
        site.signal(signal.SIGCONT)

    def reset_site(self, dice: random.Random) -> None:
        self.sites[dice.choice(sorted(self.sites))].signal(signal.SIGUSR1)

    def close_client(self, dice: random.Random) -> None:
        """Close a client under those who call it, perhaps twice at once."""
        reach = dice.choice(self.reaches)
        slot = dice.randrange(len(reach.clients))
        client = reach.clients[slot]
        if dice.random() < 0.3:
            start_thread("soak-closer", client.close).join(20.0)
        self.replace(reach, slot, client)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# -- from beginning to end ---------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of it."""

    figures: Figures
    witness: Witness
    seconds: float
    memory: list[tuple[float, float]]
    leaks: list[str]
    storm: dict[str, Any]
    unended: list[str]
    at_rest: list[tuple[float, float]]
    processor: float
    pauses: list[tuple[float, float]]
    began: float
    bar: float = BAR_OVERRUN

    def overruns(self) -> list[tuple[float, float, float, str, str]]:
        """Return the overruns: what is left of them, what they were, when it was due, the transport, what it was."""
        found = []
        for over, due, transport, what in self.figures.late:
            found.append((over - self.witness.stolen(due, due + over), over, due, transport, what))
        return sorted(found, reverse=True)

    @property
    def growth(self) -> float:
        """Megabytes an hour in the second half."""
        return slope([(at / 3600.0, mb) for at, mb in self.at_rest if at >= self.seconds / 2])

    def failures(self) -> list[str]:
        """Return what the bar says no to."""
        figures, found = self.figures, list(self.figures.problems[:SAID])
        found += [f"a thread did not end: {name}" for name in self.unended]
        found += [f"left behind: {leak}" for leak in self.leaks]
        found += [
            f"{over:.3f} s late (as it came {raw:.3f}) at {due - self.began:.1f} s: {transport}, {what}"
            for over, raw, due, transport, what in self.overruns()[:SAID]
            if over > self.bar
        ]
        if figures.callbacks != figures.futures:
            found.append(f"{figures.futures} futures, and {figures.callbacks} callbacks")
        if self.seconds >= SLOPE_MINUTES * 60 and self.growth >= BAR_SLOPE:
            found.append(f"memory grew by {self.growth:.2f} MB an hour")
        return found + self.storm_failures()

    def storm_failures(self) -> list[str]:
        storm = self.storm
        bad = [name for name in ("wrong", "harmed", "overran") if storm.get(name)]
        good = storm.get("alive") and storm.get("adds_up") and storm.get("raised") == storm.get("caught")
        return [] if good and not bad and storm["worst"] < self.bar else [f"the storm of signals: {storm}"]

    def table(self) -> str:
        """Return the figures for people."""
        figures = self.figures
        names = [name for _, name in KINDS]
        columns = ["ok", *names]
        worst: dict[str, tuple[float, float]] = {}
        for over, raw, _, transport, _ in reversed(self.overruns()):
            worst[transport] = (over, max(raw, worst.get(transport, (0.0, 0.0))[1]))
        lines = ["transport".ljust(22) + "".join(f"{name:>11}" for name in [*columns, "connects", "late ms", "raw ms"])]
        for transport, counts in sorted(figures.outcomes.items()):
            connects = counts["connected"]
            over, raw = worst.get(transport, (0.0, 0.0))
            cells = [*(counts[name] for name in columns), connects, round(over * 1000), round(raw * 1000)]
            lines.append(transport.ljust(22) + "".join(f"{cell:>11}" for cell in cells))
        return "\n".join([*lines, "", *self.sums()])

    def sums(self) -> list[str]:
        figures, counters = self.figures, self.figures.counters
        over, raw, _, transport, what = (self.overruns() or [(0.0, 0.0, 0.0, "none", "none")])[0]
        still = [ended - began for began, ended in self.witness.stalls]
        own = [ended - began for began, ended in self.pauses]
        ends = ("ok", "error", "timeout", "cancelled", "pending")
        curve, rest = (
            ", ".join(f"{points[(len(points) - 1) * tenth // 10][1]:.0f}" for tenth in range(11))
            for points in (self.memory, self.at_rest)
        )
        judged = "" if self.seconds >= SLOPE_MINUTES * 60 else f" (not judged below {SLOPE_MINUTES:g} minutes)"
        return [
            f"worst overrun     {over * 1000:.0f} ms, as it came {raw * 1000:.0f} ms: {transport}, {what}",
            f"the machine       stood still {len(still)} times, {max(still, default=0) * 1000:.0f} ms at the longest",
            f"                  {sum(still):.1f} s in all; load average {os.getloadavg()[0]:.1f}",
            f"this process      used {self.processor:.0f} s of processor time in {self.seconds:.0f} s",
            f"                  let a sleeper wait {len(own)} times, {max(own, default=0) * 1000:.0f} ms at most",
            f"left behind       {len(self.leaks)}",
            f"memory            {curve} MB resident",
            f"                  {rest} MB at rest",
            f"                  {self.growth:+.2f} MB an hour in the second half{judged}",
            f"sent              {counters['sent']} = " + " + ".join(f"{counters[key]} {key}" for key in ends),
            "dropped           " + ", ".join(f"{counters[key]} {key}" for key in sorted(counters) if "drop" in key),
            f"futures           {figures.futures}, {figures.callbacks} callbacks",
            f"clients           {figures.clients}",
            f"log               {figures.said}",
            f"mischief          {', '.join(f'{count} {name}' for name, count in sorted(figures.deeds.items()))}",
            f"storm of signals  {self.storm}",
        ]


@contextmanager
def storming(seconds: float, seed: int) -> Any:
    """Have a child in a storm of signals; what it has counted is in the dict in the end."""
    words = [sys.executable, str(HERE / "storm.py"), str(seconds), str(seed)]
    found: dict[str, Any] = {}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield found
        out, err = process.communicate(timeout=60)
        found.update(json.loads(out) if process.returncode == 0 and out else {"failed": err[-2000:]})
        found.update({"said": err[-2000:]} if err else {})
    finally:
        process.kill()
        process.wait()


def soak(seconds: float, threads: int, seed: int, docker: bool = False, storms: bool = True) -> Report:
    """Run it; without ``storms`` there is no child in a storm of signals."""
    gc.collect()
    gc.freeze()
    before = leakcheck.take()
    faulthandler.dump_traceback_later(seconds + 240, exit=True)
    with ExitStack() as stack:
        witness = Witness()
        stack.callback(witness.close)
        sites = {kind: Site(kind) for kind in ("stateless", "handshake", "sse", "ws-stateless", "ws-handshake")}
        for site in sites.values():
            stack.callback(site.kill)
            site.start()
        for site in sites.values():
            site.await_it()
        found = reaches(sites, stack, docker)
        with Client(MemoryTransport(InMemory())) as first:  # which imports what the first one has to
            first.request("echo", {})
        with storming(seconds * 0.9, seed) if storms else nullcontext({}) as storm:
            run = Soak(found, sites, seconds, seed, threads + GREMLINS)
            used, own = time.process_time(), Sleeper()
            listener = Listener(run.figures.said)
            log = logging.getLogger("mcp_sync")
            log.addHandler(listener)
            log.propagate = False
            memory, at_rest, unended = drive(run, threads)
            used = time.process_time() - used
            own.close()
            for reach in found:
                for client in reach.clients:
                    run.end(reach, client)
    faulthandler.cancel_dump_traceback_later()
    log.removeHandler(listener)
    log.propagate = True
    leaks = leakcheck.leaks_since(before, 10.0)
    return Report(run.figures, witness, seconds, memory, leaks, storm, unended, at_rest, used, own.pauses, run.began)


Curve = list[tuple[float, float]]


def drive(run: Soak, threads: int) -> tuple[Curve, Curve, list[str]]:
    """Let them call and do mischief until it is over.

    Returns:
        How memory was, how it was at rest, and which threads did not end.
    """
    workers = [threading.Thread(target=run.work, args=(n,), name=f"soak-{n}", daemon=True) for n in range(threads)]
    for n in range(GREMLINS):
        workers.append(threading.Thread(target=run.mischief, args=(n,), name=f"gremlin-{n}", daemon=True))
    began, memory, at_rest = time.monotonic(), [], []
    for worker in workers:
        worker.start()
    while run.going:
        threading.Event().wait(min(1.0, max(0.0, run.over - time.monotonic())))
        at = time.monotonic() - began
        memory.append((at, resident()))
        if not at_rest or at - at_rest[-1][0] >= REST_SECONDS:
            with run.at_rest():
                give_back()
                at_rest.append((at, resident()))
    end = time.monotonic() + 30.0
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
    return memory, at_rest, [worker.name for worker in workers if worker.is_alive()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, help="instead of --minutes")
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--bar", type=float, default=BAR_OVERRUN, help="seconds of overrun: more on a loaded machine")
    parser.add_argument("--docker", action="store_true", help="containers, too: needs an engine, or root to start one")
    wanted = parser.parse_args()
    seconds = wanted.seconds if wanted.seconds is not None else wanted.minutes * 60
    print(f"soak: {seconds:g} s, {wanted.threads} threads, seed {wanted.seed}", flush=True)
    report = soak(seconds, wanted.threads, wanted.seed, wanted.docker)
    report.bar = wanted.bar
    print(report.table(), flush=True)
    failures = report.failures()
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{len(failures)} failures" if failures else "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
