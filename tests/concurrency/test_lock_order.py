"""Locks are taken in one order, and none is held while somebody waits or application code runs (DESIGN, law 3)."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from concurrency import application
from concurrency.locks import Recorder, Threading, Watched, recorded
from faults.tools import PATIENCE, command, manner
from soak import soak

from mcp_sync import (
    Client,
    HttpTransport,
    MCPError,
    MemoryTransport,
    StdioTransport,
    TransportManager,
    WebSocketTransport,
)
from mcp_sync.deadlines import Deadline
from mcp_sync.testing import in_threads

ROOT = Path(__file__).resolve().parents[2]

WAITS_ARE_PERMITTED = {
    # Whoever reads has these, and is the one who waits; callers try the seat and never wait for it, the keeper may.
    "engine/seat.py Seat._place": "one thread reads, or ends what was read",
    "engine/channel.py PipeChannel._reading": "likewise",
    # The write locks of law 3: acquired with the deadline of whoever writes, which bounds the write, too.
    "engine/channel.py PipeChannel._writing": "one message is written",
    "engine/peer.py Peer._flushing": "what waits is written before; taken before the channel's own, never after",
    "server/framed.py WebSocketPipe._sending": "one message is written",
    "transports/framed.py WebSocketPipe._sending": "one message is written",
    # Of many threads that want a connection one makes it, and the others wait for it, each until its own deadline.
    "client/client.py Client._connecting": "a connection is made",
    "manage/links.py Line._dialling": "a connection is made",
    "manage/reconnect.py Reconnecting._renewing": "a connection is made",
    "transports/restarting.py _Starts._dialling": "a process is started",
    "client/schemas.py ToolIndex._listing": "the tools are listed, likewise by one for all",
    "engine/caller.py CallFuture._converting": "a result is converted, likewise; that may have to list the tools",
    # Sent without waiting, to a client that keeps up; with one that does not, somebody else takes over.
    "server/exchange.py Companion._lock": "a piece of an answer is written",
    # A write to a descriptor that does not block, so that whoever closes it does not close somebody else's.
    "engine/lines.py Bell._lock": "a bell is rung",
    "transports/process.py ChildPipe._ending": "a bell is rung",
    "transports/framed.py WebSocketPipe._ending": "a bell is rung",
    "server/framed.py WebSocketPipe._ending": "a bell is rung",
    "server/waitress_parts.py WebServer._bell": "a bell is rung",
}
STARTERS = ("engine/dispatch.py", "manage/checks.py")
"""The modules whose locks may be held while a thread is started: so there is one, and whoever starts it knows it."""
"""The locks that may be held while waiting, and why."""


# -- the recorder finds what it is for ---------------------------------------------------------------------------------


class Small:
    """A recorder, and what a module of mcp_sync would see as ``threading``."""

    def __init__(self) -> None:
        self.recorder = Recorder((__file__,))
        self.threading = Threading(self.recorder)
        self.a, self.b, self.c = (Watched(self.recorder, threading.RLock(), name) for name in "abc")

    def flaws(self, **permitted: str) -> list[str]:
        self.recorder.stop()
        return self.recorder.flaws(permitted)

    @contextmanager
    def watching(self) -> Iterator[None]:
        sys.setprofile(self.recorder.profile)
        try:
            yield
        finally:
            sys.setprofile(None)


@pytest.fixture
def small() -> Small:
    return Small()


def test_two_locks_in_two_orders_are_a_cycle(small: Small) -> None:
    with small.a, small.b:
        pass
    assert small.recorder.cycles() == []
    with small.b, small.a:
        pass
    [flaw] = small.flaws()
    assert flaw.startswith("cycle: a -> b -> a; ")


def test_three_threads_make_a_cycle_of_which_each_knows_one_edge(small: Small) -> None:
    pairs = [(small.a, small.b), (small.b, small.c), (small.c, small.a)]

    def take(number: int) -> None:
        one, other = pairs[number]
        with one, other:
            pass

    for number in range(3):
        in_threads(1, lambda _, number=number: take(number))  # type: ignore[misc]
    [flaw] = small.flaws()
    assert flaw.startswith("cycle: a -> b -> c -> a; ")


def test_one_lock_twice_and_a_try_that_does_not_wait_are_no_cycle(small: Small) -> None:
    with small.a, small.a, small.b:
        assert small.a.acquire(blocking=False)
        small.a.release()
    assert small.flaws() == []


def test_two_objects_of_one_kind_have_no_order(small: Small) -> None:
    one, other = (Watched(small.recorder, threading.Lock(), "Peer._lock") for _ in range(2))
    with one, other:
        pass
    [flaw] = small.flaws()
    assert flaw.startswith("nesting: Peer._lock in another")


READER, WRITER = os.pipe()

WAITS: dict[str, Callable[[], object]] = {
    "posix.write": lambda: os.write(WRITER, b"x"),
    "time.sleep": lambda: time.sleep(0),
    "waiting for an event": lambda: threading.Event().wait(0.001),
    "waiting for a thread": lambda: threading.current_thread() and _ended().join(1.0),
    "application code, callback": lambda: callback(),
}


def callback() -> None:
    """Stand for application code: this file was named as such."""


def _ended() -> threading.Thread:
    thread = threading.Thread(target=callback)
    thread.start()
    return thread


@pytest.mark.parametrize("what", WAITS)
def test_what_waits_under_a_lock_is_found(small: Small, what: str) -> None:
    waits = WAITS[what]
    with small.watching():
        waits()  # under no lock
        with small.a:
            waits()
    found = [flaw for flaw in small.flaws() if flaw.startswith(f"{what}, under a")]
    assert found
    assert not [flaw for flaw in small.flaws(a="it may") if what in flaw]


def test_a_condition_gives_its_own_lock_back_while_it_waits(small: Small) -> None:
    condition = threading.Condition(Watched(small.recorder, threading.Lock(), "own"))  # type: ignore[arg-type]
    with small.watching(), condition:
        condition.wait(0.001)
    assert not [flaw for flaw in small.flaws() if "event" in flaw]


def test_a_condition_that_waits_under_another_lock_is_found(small: Small) -> None:
    condition = threading.Condition(Watched(small.recorder, threading.Lock(), "own"))  # type: ignore[arg-type]
    with small.watching(), small.a, condition:
        condition.wait(0.001)
    assert [flaw for flaw in small.flaws() if flaw.startswith("waiting for an event, under a")]


def test_locks_are_known_by_where_they_are_made_and_what_they_say_they_guard(tmp_path: Path) -> None:
    file = tmp_path / "mcp_sync" / "made.py"
    file.parent.mkdir()
    file.write_text(
        textwrap.dedent("""
            class Thing:
                def __init__(self, threading):
                    self._lock = threading.Lock()  # guards it
                    self._bell = threading.Lock()  # guards nothing: somebody waits for it to be released
                    # guards reading; never given back
                    self._claim = threading.Lock()
            """)
    )
    small, scope = Small(), dict[str, Any]()
    exec(compile(file.read_text(), str(file), "exec"), scope)
    thing = scope["Thing"](small.threading)
    assert repr(thing._lock) == "<Watched made.py Thing._lock>"
    assert type(thing._bell) is type(threading.Lock())
    assert thing._claim.acquire(blocking=False)
    assert small.flaws() == []
    thing._claim.acquire(timeout=0.001)
    assert "waits for it" in small.flaws()[0]


# -- the library -------------------------------------------------------------------------------------------------------


def everything(stack: ExitStack, ears: application.Ears) -> list[Client]:
    """Return connected clients of our own server, over all that it can be reached by."""
    from mcp_sync.server.hosting import HttpHost
    from mcp_sync.server.websocket import WebSocketHost

    server = application.server()
    stack.callback(server.close)
    app = server.wsgi_app(allowed_hosts=["127.0.0.1"])
    web = HttpHost(app, port=0, on_close=app.close)
    web.start()
    stack.callback(lambda: web.close(Deadline(PATIENCE)))
    socket = WebSocketHost(server.serve, port=0)
    socket.start()
    stack.callback(lambda: socket.close(Deadline(PATIENCE)))
    targets: list[tuple[Any, str | None]] = []
    for version in ("2025-11-25", None):
        targets += [(MemoryTransport(server), version), (HttpTransport(web.url), version)]
        targets += [(WebSocketTransport(socket.url), version)]
    clients = []
    for target, version in targets:
        target.observe(ears.observe)
        client = Client(target, timeout=PATIENCE, protocol_version=version, **application.hooks(ears))
        clients.append(stack.enter_context(client))
    return clients


def everyday(ears: application.Ears) -> None:
    """Use our own server and client, by threads that share the clients."""
    with ExitStack() as stack:
        clients = everything(stack, ears)
        in_threads(len(clients) * 2, lambda n: application.use(clients[n // 2], ears, threading.Event()), 50.0)


def managed(ears: application.Ears) -> None:
    """Use a manager, one of whose servers is killed."""
    with TransportManager(2.0, health_check_interval=0.2) as manager:
        manager.on_health_event(ears.health)
        for name in ("one", "two"):
            transport = StdioTransport(command(dies=manner("killed")), stderr=ears.stderr, shutdown_timeout=0.3)
            manager.register_transport(name, transport)
        with Client(manager.endpoint("one"), timeout=PATIENCE) as client:

            def work(number: int) -> None:
                for n in range(30):
                    try:
                        client.call_tool("dies" if n == 3 and number == 0 else "echo", {}, 2.0)
                    except MCPError:
                        pass

            in_threads(4, work, 50.0)
        manager.get_health_report()


def misbehaving(ears: application.Ears) -> None:
    """Let every fault of the soak happen, for a while."""
    report = soak.soak(6.0, threads=12, seed=1, storms=False)
    assert report.figures.problems == []
    assert sum(report.figures.outcomes["stdio"].values()) > 20


WORKLOADS = {"everyday": everyday, "managed": managed, "misbehaving": misbehaving}


@pytest.mark.alone
@pytest.mark.timeout(150)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_locks_of_the_library_have_one_order_and_nothing_waits_under_them(workload: str) -> None:
    """I1, I4, B32"""
    ears = application.Ears()
    with recorded(application.__file__) as recorder:
        WORKLOADS[workload](ears)
    assert sum(recorder.taken.values()) > 100, "hardly anything was seen"
    flaws = recorder.flaws(WAITS_ARE_PERMITTED, STARTERS)
    print("\n".join(f"{one} -> {other}" for one, other in sorted(recorder.edges)))  # shown when it fails
    assert not flaws, "\n".join(flaws)
