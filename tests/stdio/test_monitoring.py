"""What a server and all that it starts use is watched, and one that uses too much is ended and started again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from stdio.programs import ROOT, Notes, T, alive, server, until

from mcp_sync import MCPConnectionError, MCPSession, StdioTransport
from mcp_sync.policies import Monitoring
from mcp_sync.transports import monitoring

# `fill` answers, so that the call that waits is another one; `spin` and `beget` likewise.
GREEDY = """
kept = []

def fill(id_, params):
    answer(id_, {})
    for _ in range(params["mb"]):
        kept.append(b"x" * (1 << 20))

def spin(id_, params):
    answer(id_, {})
    threading.Thread(target=turn, daemon=True).start()

def turn():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass

def beget(id_, params):
    program = "import signal, time; signal.alarm(100); kept = b'x' * (%d << 20); time.sleep(100)" % params["mb"]
    grand = "import subprocess, sys; print(subprocess.Popen(%r).pid, flush=True)" % (
        [sys.executable, "-I", "-S", "-c", program],)
    if params.get("orphan"):
        pid = int(subprocess.check_output([sys.executable, "-I", "-S", "-c", grand], stdin=subprocess.DEVNULL))
    else:
        pid = subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdin=subprocess.DEVNULL,
                               start_new_session=params.get("escapes", False)).pid
    answer(id_, {"pid": pid})
"""
GREEDY = GREEDY.replace("subprocess.Popen(%r).pid", "subprocess.Popen(%r, stdout=2).pid")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Average the use of processors over one second."""
    monkeypatch.setattr(monitoring, "PROCESSOR_SECONDS", 1.0)


@pytest.fixture
def opened() -> Iterator[Callable[..., tuple[MCPSession, Notes]]]:
    """Return what opens a session with a greedy server; it is closed in any case."""
    sessions: list[MCPSession] = []

    def begin(**knobs: Any) -> tuple[MCPSession, Notes]:
        transport = server(GREEDY, **knobs)
        notes = Notes(transport)
        sessions.append(transport.create_session())
        return sessions[-1], notes

    yield begin
    for session in sessions:
        session.close()


Opened = Callable[..., tuple[MCPSession, Notes]]


def failure(session: MCPSession, method: str = "hang") -> MCPConnectionError:
    """Return the error of a call that waits while the server is ended."""
    with pytest.raises(MCPConnectionError) as found:
        session.send_request(method)
    return found.value


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mb", [300, pytest.param(2048, marks=[pytest.mark.slow, pytest.mark.alone])])
def test_one_that_needs_too_much_memory_is_ended_and_started_again(opened: Opened, mb: int) -> None:
    session, notes = opened(memory_limit_mb=100, max_restarts=3, restart_delay=0)
    first = session.send_request("pid")["pid"]
    session.send_request("fill", {"mb": mb})
    error = failure(session)
    told = time.monotonic()
    (found,) = notes.of("resource_limit_exceeded")
    assert (found["resource"], found["limit"]) == ("memory_mb", 100)
    assert found["value"] > 100
    assert "memory_limit_mb is 100" in str(error)
    assert f"{found['value']:.1f} MiB" in str(error)
    assert error.details["value"] == found["value"]
    assert error.details["memory_mb"] > 100
    assert session.send_request("pid")["pid"] != first
    assert time.monotonic() - told < 10
    assert not alive(first)
    assert [data["attempt"] for data in notes.of("process_restart")] == [1]


def test_callers_are_told_within_a_second_of_the_finding(opened: Opened) -> None:
    found: list[float] = []
    transport = server(GREEDY, memory_limit_mb=60)
    original = transport.on_process_event
    original(lambda name, data: found.append(time.monotonic()) if name == "resource_limit_exceeded" else None)
    session = transport.create_session()
    waiting = [session.submit_request("hang") for _ in range(8)]
    session.send_request("fill", {"mb": 200})
    for future in waiting:
        with pytest.raises(MCPConnectionError, match="memory_limit_mb is 60"):
            future.result(T)
    told = time.monotonic()
    until(lambda: found)
    assert told - found[0] < 1
    session.close()


def test_who_writes_to_one_that_was_just_ended_is_told_why(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = opened(memory_limit_mb=60)
    until(lambda: _watch_of(session).usage)
    pipe = session._caller._channel._pipe  # type: ignore[attr-defined]
    go_on = threading.Event()
    epitaph = pipe.epitaph

    def late() -> MCPConnectionError:
        pipe._put_down()
        until(lambda: not alive(pipe._pid))
        assert go_on.wait(T)
        error: MCPConnectionError = epitaph()
        return error

    monkeypatch.setattr(pipe, "epitaph", late)
    pipe._exceeded(monitoring.Excess("memory_mb", 60.0, 612.34))
    until(lambda: not alive(pipe._pid))
    assert "used 612.3 MiB of memory; memory_limit_mb is 60" in str(failure(session))
    go_on.set()
    assert "used 612.3 MiB of memory; memory_limit_mb is 60" in str(failure(session))


@pytest.mark.parametrize("how", [{}, {"escapes": True}, {"orphan": True}], ids=["child", "own session", "orphan"])
def test_what_it_has_started_counts_and_goes_with_it(opened: Opened, how: dict[str, bool]) -> None:
    session, _ = opened(memory_limit_mb=100)
    if "orphan" in how:
        with_pid = session.send_request("beget", {"mb": 0, **how})
    else:
        with_pid = {}
    grandchild = session.send_request("beget", {"mb": 200, **how})["pid"]
    error = failure(session)
    assert "memory_limit_mb is 100" in str(error)
    assert error.details["processes"] >= 2
    for pid in (grandchild, *with_pid.values()):
        until(lambda pid=pid: not alive(pid))


def test_who_belongs_to_a_tree_is_known_by_session_and_parent() -> None:
    ours, late, theirs, other = (os.getpid(), os.getppid(), 1, 2)  # numbers that exist; what they are does not matter
    tree = monitoring.Tree(ours)
    tree.admit({late: (0, late), theirs: (late, theirs), other: (0, 99)})
    assert set(tree._members) == {ours}
    tree.admit({theirs: (0, late), other: (theirs, other), late: (ours, late)})  # in whatever order they come
    assert set(tree._members) == {ours, late, theirs} | ({other} & set(psutil.pids()))
    del tree._members[late], tree._sessions[late]
    tree.admit({os.getpid(): (0, late)})  # of a session whose leader has ended
    assert tree._sessions[os.getpid()] == late


def test_a_limit_below_what_it_needs_at_all_is_said_at_once() -> None:
    begin = time.monotonic()
    transport = server("time.sleep(30)", memory_limit_mb=2)
    with pytest.raises(MCPConnectionError, match="memory_limit_mb is 2"):
        transport.create_session()
    assert time.monotonic() - begin < 5


def test_a_crash_loop_by_a_limit_names_it(opened: Opened) -> None:
    session, _ = opened(memory_limit_mb=60, max_restarts=1, restart_delay=0)
    for _ in range(2):
        session.send_request("fill", {"mb": 200})
        failure(session)
    assert "memory_mb" in str(failure(session))
    assert "the limit is 60" in str(failure(session))


# -- processors ------------------------------------------------------------------------------------------------------


def test_one_that_spins_is_reported_and_ended(opened: Opened, quick: None) -> None:
    session, notes = opened(cpu_limit_percent=20, max_restarts=1)
    session.send_request("spin")
    error = failure(session)
    (found,) = notes.of("resource_limit_exceeded")
    assert (found["resource"], found["limit"]) == ("cpu_percent", 20)
    assert found["value"] > 20
    assert "cpu_limit_percent is 20" in str(error)
    assert session.send_request("echo", {"a": 1}) == {"a": 1}


def test_one_that_idles_or_works_for_a_moment_is_left_alone(opened: Opened, quick: None) -> None:
    session, notes = opened(cpu_limit_percent=90, memory_limit_mb=500)
    for _ in range(20):
        session.send_request("echo", {"a": 1})
    watch = _watch_of(session)
    until(lambda: watch.usage is not None and watch.usage.processor is not None)
    assert watch.usage is not None
    assert watch.usage.processes == 1
    assert 1 < watch.usage.memory < 100
    assert session.send_request("echo", {"a": 1}) == {"a": 1}
    assert "resource_limit_exceeded" not in [name for name, _ in notes.all]


def _watch_of(session: MCPSession) -> monitoring.Watch:
    return session._caller._channel._pipe._watch  # type: ignore[attr-defined,no-any-return]


def test_an_average_needs_its_time_and_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = monitoring.Tree(os.getpid())
    spent = iter([10.0, 10.5, 11.0, 13.0, 14.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    found = [tree._processor(now, next(spent)) for now in (0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0)]
    assert found[:4] == [None] * 4
    assert found[4] == pytest.approx(80)
    assert found[5] == pytest.approx(70)  # what ended took its time along: no less than nothing
    assert found[-1] == 0


# -- watching, and what it costs -------------------------------------------------------------------------------------


def test_one_thread_watches_all_of_them_and_goes_with_the_last(opened: Opened) -> None:
    many = [opened(enable_process_monitoring=True)[0] for _ in range(5)]
    until(lambda: all(_watch_of(session).usage for session in many))
    assert [thread.name for thread in threading.enumerate()].count("mcp-monitor") == 1
    for session in many[1:]:
        session.close()
    assert [thread.name for thread in threading.enumerate()].count("mcp-monitor") == 1
    many[0].close()
    assert "mcp-monitor" not in [thread.name for thread in threading.enumerate()]


def test_without_a_limit_the_figures_are_in_the_errors(opened: Opened) -> None:
    session, _ = opened(enable_process_monitoring=True)
    until(lambda: _watch_of(session).usage)
    error = failure(session, "die")
    assert error.details["processes"] == 1
    assert 1 < error.details["memory_mb"] < 100
    assert error.details["exit_status"] == 3


def test_a_look_costs_less_than_a_thousandth_of_a_second_or_two(opened: Opened) -> None:
    session, _ = opened(enable_process_monitoring=True)
    until(lambda: _watch_of(session).usage)
    pids, _ = monitoring._census(set())
    tree = monitoring.Tree(session.send_request("pid")["pid"])
    begin = time.thread_time()
    for _ in range(50):
        _, newcomers = monitoring._census(pids)
        tree.admit(newcomers)
        tree.measure(time.monotonic())
    assert (time.thread_time() - begin) / 50 < 0.002 + 5e-6 * len(pids)  # 0.3 ms where there are 130 processes


def test_processes_that_vanish_or_are_not_ours_to_look_at_are_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"])
    tree = monitoring.Tree(child.pid)
    tree.admit({2**22 + 1: (child.pid, child.pid)})  # gone by the time it is looked at
    assert tree.measure(0.0).processes == 1
    with monkeypatch.context() as patch:
        patch.setattr(psutil.Process, "memory_info", _denied)
        assert tree.measure(1.0).memory == 0
    child.kill()
    until(lambda: not alive(child.pid))
    assert tree.measure(2.0).memory == 0  # a zombie
    child.wait()
    assert tree.measure(3.0).processes == 0
    tree.kill()  # nobody
    assert monitoring.Tree(child.pid).measure(0.0).processes == 0


def _denied(self: psutil.Process) -> None:
    raise psutil.AccessDenied(self.pid)


_denied.cache_activate = _denied.cache_deactivate = lambda process: None  # type: ignore[attr-defined]  # for oneshot()


def test_a_watch_whose_owner_is_no_more_ends_by_itself() -> None:
    class Owner:
        def tell(self, excess: monitoring.Excess) -> None:
            raise AssertionError

    owner = Owner()
    watch = monitoring.Watch(os.getpid(), Monitoring(memory=1.0), owner.tell)
    del owner
    gc.collect()
    watch.begin()
    until(lambda: monitoring._monitor._lane is None)
    assert monitoring._monitor._watches == []


def test_who_comes_later_has_its_children_looked_for_among_all(opened: Opened) -> None:
    opened(enable_process_monitoring=True)
    until(lambda: monitoring._monitor._known)
    with monitoring._monitor._lock:
        assert os.getpid() in monitoring._monitor._known
    for _ in range(20):  # a look may come in between
        opened(enable_process_monitoring=True)
        if not monitoring._monitor._known:
            return
    pytest.fail("who is known was not forgotten")


def test_many_begin_and_end_at_once(opened: Opened) -> None:
    def run(number: int) -> None:
        for _ in range(20):
            watch = monitoring.Watch(os.getpid(), Monitoring(), owner.tell)
            watch.begin()
            threading.Event().wait(0.001 * number)
            watch.end()
            watch.end()

    class Owner:
        def tell(self, excess: monitoring.Excess) -> None:
            raise AssertionError

    owner = Owner()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(T)
    assert monitoring._monitor._watches == []
    assert monitoring._monitor._lane is None


def test_a_forked_child_watches_nothing_and_the_parent_goes_on(opened: Opened) -> None:
    session, _ = opened(memory_limit_mb=100)
    until(lambda: _watch_of(session).usage)
    child = os.fork()
    if not child:
        os._exit(1 if monitoring._monitor._watches or monitoring._monitor._lane else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    session.send_request("fill", {"mb": 200})
    assert "memory_limit_mb" in str(failure(session))


# -- what is said at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "problem", "words"),
    [
        ({"memory_limit_mb": 0}, ValueError, "memory_limit_mb"),
        ({"memory_limit_mb": "512"}, TypeError, "memory_limit_mb"),
        ({"memory_limit_mb": float("nan")}, ValueError, "memory_limit_mb"),
        ({"cpu_limit_percent": 0}, ValueError, "cpu_limit_percent"),
        ({"cpu_limit_percent": True}, TypeError, "cpu_limit_percent"),
        ({"enable_process_monitoring": 1}, TypeError, "enable_process_monitoring"),
        ({"enable_process_monitoring": False, "memory_limit_mb": 9}, ValueError, "enable_process_monitoring=True"),
    ],
)
def test_bad_values_are_refused(knobs: dict[str, Any], problem: type[Exception], words: str) -> None:
    with pytest.raises(problem, match=words):
        StdioTransport("server", **knobs)


def test_without_psutil_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ImportError, match=r"mcp-sync-transports\[monitor\]"):
        StdioTransport("server", memory_limit_mb=512)
    StdioTransport("server")


def test_psutil_is_imported_only_where_it_is_needed() -> None:
    program = "import sys; from mcp_sync import StdioTransport; StdioTransport('x'); sys.exit('psutil' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=T)
