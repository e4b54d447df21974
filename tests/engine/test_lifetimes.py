"""Forgotten objects, the interpreter's exit, and forks: each in a process of its own where it has to be."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path
from textwrap import dedent

import pytest

from mcp_sync import JSONRPCError, MCPConnectionError, MCPSession, MCPTimeoutError, MemoryTransport
from mcp_sync.deadlines import Deadline
from mcp_sync.engine import lifetimes
from mcp_sync.engine.lifetimes import close_when_forgotten, tell_of_forks
from mcp_sync.testing import PartnerServer
from mcp_sync.testing.caller import verdict_of_child

ROOT = Path(__file__).parents[2]
T = 5.0


class Thing:
    """What is behind something a user holds."""

    def __init__(self) -> None:
        self.over = False
        self.closed = 0
        self.ended = threading.Event()

    def hang_up(self, deadline: Deadline) -> None:
        pass

    def close(self, deadline: Deadline) -> None:
        self.over = True
        self.closed += 1
        self.ended.set()


class Holder:
    """What a user holds."""


# -- forgotten -------------------------------------------------------------------------------------------------------


def test_what_is_behind_a_forgotten_object_is_closed_with_a_warning() -> None:
    held, behind = [Holder()], Thing()
    close_when_forgotten(held[0], behind, "<Holder>")
    with pytest.warns(ResourceWarning, match="<Holder> was never closed"):
        held.clear()
    assert behind.ended.wait(T)
    assert behind.closed == 1


def test_it_is_closed_even_where_the_warning_is_an_error() -> None:
    holder, behind = Holder(), Thing()
    close_when_forgotten(holder, behind, "<Holder>")
    unraisable: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del holder
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert behind.ended.wait(T)
    assert len(unraisable) == 1


def test_what_was_closed_in_the_proper_way_or_has_ended_is_no_matter_for_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holder, behind = Holder(), Thing()
        close_when_forgotten(holder, behind, "<Holder>")()
        del holder
        gc.collect()
        assert behind.closed == 0
        holder, behind = Holder(), Thing()
        close_when_forgotten(holder, behind, "<Holder>")
        behind.over = True
        del holder
        gc.collect()
        assert behind.ended.wait(T)


def test_a_session_that_is_part_of_a_cycle_is_closed_whoever_runs_the_collector() -> None:
    # The collector may run on the reader's thread, in the middle of what it does under its locks.
    transport = MemoryTransport(PartnerServer())
    for _ in range(20):
        session = transport.create_session(T)
        session.itself = session  # type: ignore[attr-defined]
        keep_calling = transport.create_session(T)
        del session
        with pytest.warns(ResourceWarning, match="MCPSession"):
            call_while_collecting(keep_calling)
        keep_calling.close()


def call_while_collecting(session: MCPSession) -> None:
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for n in range(50):
            assert session.send_request("echo", {"n": n}) == {"n": n}
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()


def test_a_session_that_is_forgotten_is_gone_at_once_whatever_was_said_and_whatever_failed() -> None:
    gc.collect()
    gc.disable()
    try:
        session = MemoryTransport(PartnerServer()).create_session(T)
        session.send_request("notify", {"count": 3})
        with pytest.raises(JSONRPCError):
            session.send_request("what")
        with pytest.raises(JSONRPCError):
            session.submit_request("what").result(T)
        with pytest.raises(MCPTimeoutError):
            session.send_request("hold", timeout=0.01)
        list(session.send_streaming_request("echo"))
        gone = weakref.ref(session)
        held = [session]
        del session
        with pytest.warns(ResourceWarning, match="MCPSession"):
            let_go(held)
        assert gone() is None
    finally:
        gc.enable()


def let_go(held: list[object]) -> None:
    held.clear()
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        gc.collect()  # without a GIL not everything goes when the last reference does


# -- exit ------------------------------------------------------------------------------------------------------------

PREAMBLE = """
import os, sys, threading
from mcp_sync import MCPError, StdioTransport
from mcp_sync.testing import Partner

def transport(program=("-m", "mcp_sync.testing.partner"), **knobs):
    return StdioTransport([sys.executable, *program], environment_filter=["PATH", "PYTHONPATH"], **knobs)

def pid_of(session):
    return session._caller._channel._pipe._pid
"""

DEAF = """
import signal, sys, json
signal.signal(signal.SIGTERM, signal.SIG_IGN)
line = json.loads(sys.stdin.readline())
if line["method"] == "server/discover":
    print(json.dumps({"jsonrpc": "2.0", "id": line["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
    line = json.loads(sys.stdin.readline())
print(json.dumps({"jsonrpc": "2.0", "id": line["id"], "result": {"protocolVersion": "2025-11-25",
    "capabilities": {}, "serverInfo": {"name": "deaf", "version": "1"}}}), flush=True)
while True:
    signal.pause()
"""


def run(script: str, timeout: float = 20.0) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a script to its end; return what it did, and the seconds from its last printed word to its end."""
    program = dedent(PREAMBLE) + dedent(script)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]  # 3.12 has one against forks
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    ended = time.monotonic()
    began = float(done.stdout.split()[-1]) if done.stdout.split() else ended
    return done, ended - began


EXITS = {
    "a session": "session = transport().create_session()",
    "a connected transport": "held = transport().connect()",
    "calls in flight": """
        session = transport().create_session()
        held = [session.submit_request("hold") for _ in range(5)]
        threading.Thread(target=lambda: session.send_request("hold"), daemon=True).start()
        """,
    "five servers deaf to everything": f"""
        sessions = [transport(("-c", {DEAF!r})).create_session() for _ in range(5)]
        session = sessions[0]
        """,
    "a reference from a module": """
        session = transport().create_session()
        sys.modules["keep"] = session
        """,
    "a cycle": """
        session = transport().create_session()
        session.itself = session
        """,
    "an observer": """
        seen = []
        it = transport()
        it.observe(seen.append)
        session = it.create_session()
        """,
}


@pytest.mark.parametrize("what", EXITS)
def test_a_script_that_forgets_to_close_still_ends_and_its_children_with_it(what: str) -> None:
    script = dedent(EXITS[what]) + dedent(
        """
        import subprocess, time
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True)
        print("children", children.stdout.replace("\\n", " "))
        print(time.monotonic(), flush=True)
        """
    )
    done, seconds = run(script)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr
    assert seconds < 2.0 + 1.0
    children = [int(word) for word in done.stdout.splitlines()[-2].split()[1:]]
    assert children
    assert [pid for pid in children if is_a_server(pid)] == []


def is_a_server(pid: int) -> bool:
    try:
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_an_exit_code_and_a_traceback_are_the_scripts_own() -> None:
    done, _ = run("session = transport().create_session(); sys.exit(7)")
    assert (done.returncode, done.stderr) == (7, "")
    done, _ = run("session = transport().create_session(); 1 / 0")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "ZeroDivisionError" in done.stderr


def test_what_the_user_closes_in_atexit_is_closed() -> None:
    done, seconds = run(
        """
        import atexit, time
        session = transport().create_session()
        atexit.register(session.close)
        print(time.monotonic(), flush=True)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 3.0


# -- forks -----------------------------------------------------------------------------------------------------------


def test_whoever_wants_to_know_of_forks_is_told_in_the_child_even_if_another_fails() -> None:
    class Told:
        def __init__(self, fail: bool = False) -> None:
            self.told = 0
            self._fail = fail

        def forked(self) -> None:
            self.told += 1
            if self._fail:
                raise ZeroDivisionError("on purpose")

    several = [Told(fail=n == 1) for n in range(4)]
    for one in several:
        tell_of_forks(one)

    def in_child() -> None:
        assert [one.told for one in several] == [1, 1, 1, 1]

    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        assert verdict_of_child(in_child) == "fine"
    finally:
        sys.unraisablehook = hook
    assert [one.told for one in several] == [0, 0, 0, 0]


def test_a_forked_child_may_connect_anew_whatever_the_parent_was_doing() -> None:
    transport = MemoryTransport(PartnerServer())
    with transport:
        transport._doors.line.acquire()  # as another thread of the parent might hold them
        transport._doors.dialling.acquire()

        def in_child() -> None:
            with transport.create_session(T) as session:
                assert session.send_request("echo", {"a": 1}) == {"a": 1}
            with transport:
                assert transport.connected

        assert verdict_of_child(in_child) == "fine"
        transport._doors.line.release()
        transport._doors.dialling.release()
        assert transport.connected


def test_in_a_forked_child_single_messages_are_refused_and_leaving_is_no_matter() -> None:
    with MemoryTransport(PartnerServer()) as transport:

        def in_child() -> None:
            with pytest.raises(MCPConnectionError):
                transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
            transport.disconnect()

        assert verdict_of_child(in_child) == "fine"
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
        assert transport.receive_message(T)["id"] == 1


def test_a_forked_child_exits_without_touching_the_parents_server() -> None:
    done, _ = run(
        """
        import time
        session = transport().create_session()
        held = session.submit_request("hold", {"a": 1})
        child = os.fork()
        if child == 0:
            sys.exit(3)  # runs atexit, finalizers and all
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert session.send_request("release") == {"count": 1}
        assert held.result() == {"a": 1}
        assert session.send_request("seen")["notifications"][1:] == []
        os.kill(pid_of(session), 0)
        session.close()
        print(time.monotonic(), flush=True)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_closes_no_descriptor_that_is_not_its_connections() -> None:
    done, _ = run(
        """
        import time
        session = transport().create_session()
        channel = session._caller._channel
        session.close()  # its descriptors' numbers are free now ...
        files = [open(os.devnull) for _ in range(20)]  # ... and soon used again
        child = os.fork()
        if child == 0:
            for file in files:
                os.fstat(file.fileno())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(time.monotonic(), flush=True)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_left_registered_after_a_proper_end() -> None:
    before = len(lifetimes._open)
    with MemoryTransport(PartnerServer()) as transport, transport.create_session(T):
        pass
    MemoryTransport(PartnerServer()).create_session(T).close()
    assert len(lifetimes._open) == before
