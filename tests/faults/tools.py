"""What the fault tests share: a client with a server that misbehaves as told, and bounds that are asserted.

A bound is a number of seconds plus NOISE plus what the machine took from us, measured: the time our threads, and those
of our children, were ready to run and had no processor (``/proc/*/schedstat``). So bounds are tight on an idle machine
and do not fail on a loaded one.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_sync import Client, MCPError, MCPSession, StdioTransport

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
T = 0.3
"""The timeout of a call that is meant to time out."""
PATIENCE = 20.0
"""For whatever has to happen at all."""
NOISE = float(os.environ.get("MCP_SYNC_TEST_MS", "750")) / 1000
"""What a deadline may be overrun by on a loaded machine (FAULTS.md, I1); the promise is 0.25 s."""
PAUSE = 0.01

ERAS = pytest.mark.parametrize("era", ["handshake", "stateless"])

Manner = list[Any]


def manner(name: str, **parameters: Any) -> Manner:
    """Name a manner of server.py, with its parameters."""
    return [name, parameters]


def command(era: str = "handshake", log: Path | None = None, **about: Any) -> list[str]:
    """Return the command that starts a server; keywords are tools or methods, and the manner in which they answer.

    ``before`` is a manner shown before anything is read, ``dies_at`` how many bytes of one message it survives.
    """
    own = {key: about.pop(key) for key in ("before", "dies_at") if key in about}
    told = {"era": era, "on": about, **own, **({} if log is None else {"log": str(log)})}
    return [sys.executable, "-I", "-S", str(HERE / "server.py"), json.dumps(told)]


KNOBS = (
    *("max_message_size", "max_backlog", "max_concurrent_callbacks", "max_pending_messages", "shutdown_timeout"),
    *("kill_tree", "stderr", "env", "cwd", "timeout", "on_notification", "on_log", "sampling", "roots"),
    "protocol_version",
)


@contextmanager
def serving(era: str = "handshake", *, on: Mapping[str, Manner] | None = None, **about: Any) -> Iterator[Client]:
    """Give a connected client; afterwards it is closed, in time, and its counters add up."""
    knobs = {key: about.pop(key) for key in KNOBS if key in about}
    knobs.setdefault("timeout", PATIENCE)
    client = Client(command(era, **about, **(on or {})), **knobs).connect()
    try:
        yield client
    finally:
        close(client)


@contextmanager
def talking(era: str = "handshake", *, on: Mapping[str, Manner] | None = None, **about: Any) -> Iterator[MCPSession]:
    """Give a session in plain dicts, likewise."""
    knobs = {key: about.pop(key) for key in KNOBS if key in about}
    knobs.setdefault("timeout", PATIENCE)
    session = StdioTransport(command(era, **about, **(on or {})), **knobs).create_session()
    try:
        yield session
    finally:
        close(session)


def close(either: Client | MCPSession) -> None:
    """Close, within 5 s whatever the server is like; nothing is pending then, and the counters add up."""
    with within(5.0):
        either.close()
    counters = either.counters
    assert counters["pending"] == 0
    adds_up(counters)


def adds_up(counters: Mapping[str, int]) -> None:
    """Check I20."""
    __tracebackhide__ = True
    ends = sum(counters[key] for key in ("ok", "error", "timeout", "cancelled", "pending"))
    assert counters["sent"] == ends, counters


def tool(either: Client | MCPSession, name: str, timeout: float | None = None, **arguments: Any) -> Any:
    """Call a tool, and return what the server put into its text."""
    if isinstance(either, Client):
        return json.loads(either.call_tool(name, arguments, timeout).text)
    answer = either.send_request("tools/call", {"name": name, "arguments": arguments}, timeout)
    return json.loads(answer["content"][0]["text"])


def works(either: Client | MCPSession, timeout: float = PATIENCE) -> None:
    """Check that the next call is fine."""
    assert tool(either, "echo", timeout, a=1) == {"a": 1}


def pid_of(either: Client | MCPSession) -> int:
    """Return the number of the server's process, without asking it."""
    peer = either._asker.caller if isinstance(either, Client) else either._caller  # type: ignore[union-attr]
    return int(peer.explain()["pid"])


# -- time --------------------------------------------------------------------------------------------------------------


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check that the block takes no longer than so many seconds, plus noise; that it ends as it ends."""
    __tracebackhide__ = True
    before, began = delays(), time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - began
        if took > seconds:
            stolen = sum(max(0.0, later - before.get(task, 0.0)) for task, later in delays().items())
            assert took <= seconds + NOISE + stolen, f"{took:.3f} s, not {seconds:g} s (+{NOISE:g} +{stolen:.3f})"


def delays() -> dict[str, float]:
    """Return for each thread of ours and of our children how long it has waited for a processor, and steal time."""
    found = {"steal": _steal()}
    for process in ("self", *_children()):
        for thread in _listed(f"/proc/{process}/task"):
            words = _read(f"/proc/{process}/task/{thread}/schedstat").split()
            if len(words) == 3:
                found[thread] = int(words[1]) / 1e9
    return found


def _steal() -> float:
    words = _read("/proc/stat").split("\n", 1)[0].split()
    return int(words[8]) / os.sysconf("SC_CLK_TCK") if len(words) > 8 else 0.0


def _children() -> set[str]:
    return {child for task in _listed("/proc/self/task") for child in _read(f"/proc/self/task/{task}/children").split()}


def until(met: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until a condition is met, and return what met it."""
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(PAUSE)
    return found


# -- memory ------------------------------------------------------------------------------------------------------------


@contextmanager
def growing_less_than(megabytes: float) -> Iterator[None]:
    """Check that the most memory that the block needs at any moment is no more than this above what there was."""
    gc.collect()
    if not _forget_peak():
        pytest.skip("the peak of resident memory cannot be reset here")
    before = _status("VmRSS")
    yield
    grown = (_status("VmHWM") - before) / 1024
    assert grown < megabytes, f"{grown:.0f} MB"


def _forget_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> float:
    for words in map(str.split, _read("/proc/self/status").splitlines()):
        if words[0] == name + ":":
            return float(words[1])
    return 0.0


# -- processes ---------------------------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"], ["X"])


def gone(*pids: int) -> bool:
    """Wait until none of these lives: killed they are, but who adopted them has to notice."""
    return bool(until(lambda: not any(map(is_alive, pids)), 2.0))


def reaped(pid: int) -> bool:
    """Whether a child of ours is gone, and not even a zombie."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def noted(log: Path, method: str) -> list[str]:
    """Return the ids of the messages of a method that a server has noted so far."""
    words = [entry.split() for entry in log.read_text().splitlines()] if log.exists() else []
    return [entry[1] for entry in words if entry[0] == method]


HOST = """
import faulthandler, json, os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
faulthandler.dump_traceback_later(30, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where a shell started us in the background
from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, StdioTransport
COMMAND = json.loads(sys.argv[1])
def tool(session, name, timeout=None, **arguments):
    answer = session.send_request("tools/call", {"name": name, "arguments": arguments}, timeout)
    return json.loads(answer["content"][0]["text"])
def children():
    found = []
    for task in os.listdir("/proc/self/task"):
        try: found += open(f"/proc/self/task/{task}/children").read().split()
        except OSError: pass  # a thread that has just ended
    return found
def threads():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("mcp-") and name != "mcp-deadlines"]
"""


def host(text: str, *server: str, code: int = 0, stderr: str | None = "", limit: float = 30.0) -> list[str]:
    """Run a program of its own that uses the library, and return its lines; it has ``COMMAND`` and ``tool``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    program = [sys.executable, "-c", HOST + textwrap.dedent(text), json.dumps(list(server) or command())]
    done = subprocess.run(
        program, env={**kept, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=limit + 30
    )
    assert done.returncode == code, done.stdout + done.stderr
    if stderr is not None:
        assert done.stderr == stderr, done.stderr
    return done.stdout.splitlines()


# -- errors ------------------------------------------------------------------------------------------------------------


def tells(error: MCPError, method: str, phase: str, **more: Any) -> None:
    """Check I6: what an error has to tell."""
    __tracebackhide__ = True
    details = error.details
    assert details["transport"] == "stdio"
    assert "server.py" in details["server"]
    assert details["method"] == method
    assert details["phase"] == phase
    assert 0 <= details["elapsed"] < PATIENCE
    assert method in str(error)
    for key, value in more.items():
        assert details[key] == value, (key, details)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
