"""Servers that cannot be started: a typed error at once, and nothing left: the leak check sees to that."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.tools import PATIENCE, T, command, host, within

from mcp_sync import Client, MCPConnectionError, StdioTransport
from mcp_sync.transports import process

NOW = 0.3

WAYS_TO_CONNECT: dict[str, Callable[[StdioTransport], Any]] = {
    "Client.connect": lambda transport: Client(transport, timeout=PATIENCE).connect(),
    "create_session": lambda transport: transport.create_session(PATIENCE),
    "transport.connect": lambda transport: transport.connect(PATIENCE),
}


def refused(target: Any, **knobs: Any) -> MCPConnectionError:
    """Return the error that each way to connect ends with."""
    errors = []
    for connect in WAYS_TO_CONNECT.values():
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            connect(StdioTransport(target, **knobs))
        errors.append(found.value)
    assert all(error.may_have_run is False for error in errors)
    assert all(error.details["phase"] == "connect" for error in errors)
    assert isinstance(errors[0].__cause__, OSError)
    assert len({str(error).removeprefix("cannot connect: ") for error in errors}) == 1
    return errors[0]


def executable(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_enoent() -> None:
    """I6"""
    error = refused(["no-such-server-anywhere", "--port", "1"])
    assert error.details["errno"] == errno.ENOENT
    assert "no-such-server-anywhere" in str(error)


def test_eacces_of_a_file_that_is_not_executable(tmp_path: Path) -> None:
    """I6"""
    script = tmp_path / "server"
    script.write_text("#!/bin/sh\n")
    error = refused([str(script)])
    assert error.details["errno"] == errno.EACCES
    assert "chmod +x" in str(error)


def test_eacces_of_a_directory(tmp_path: Path) -> None:
    """I6"""
    assert "is a directory" in str(refused([str(tmp_path)]))


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    """I6"""
    error = refused([executable(tmp_path / "server", b"\0not a program")])
    assert error.details["errno"] == errno.ENOEXEC
    assert "#!" in str(error)


def test_an_interpreter_that_is_missing(tmp_path: Path) -> None:
    """I6"""
    assert "interpreter" in str(refused([executable(tmp_path / "server", b"#!/no/such/interpreter\n")]))


def test_etxtbsy(tmp_path: Path) -> None:
    """I6: somebody still writes the program."""
    program = executable(tmp_path / "server", Path(sys.executable).resolve().read_bytes()[:4096])
    with open(program, "r+b"):
        error = refused([program])
    assert error.details["errno"] == errno.ETXTBSY
    assert "busy" in str(error).lower()


def test_a_working_directory_that_is_missing(tmp_path: Path) -> None:
    """I6"""
    assert "working directory" in str(refused(command(), cwd=tmp_path / "nowhere"))


def test_e2big() -> None:
    """I6"""
    error = refused([sys.executable, "-c", "", "x" * 200_000])
    assert error.details["errno"] == errno.E2BIG
    assert len(str(error)) < 5000


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN])
def test_no_memory_or_no_process_to_fork(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6, I7: as the system would say it; it is not ours to use all of its memory."""
    import _posixsubprocess

    def fork_exec(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "_fork_exec", fork_exec, raising=False)
    monkeypatch.setattr(_posixsubprocess, "fork_exec", fork_exec)
    error = refused(command())
    assert error.details["errno"] == number
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize("connect", WAYS_TO_CONNECT.values(), ids=WAYS_TO_CONNECT)
@pytest.mark.parametrize("whose", ["mcp-", "-reader"], ids=["any thread", "the reader"])
def test_no_thread_can_be_started(
    whose: str, connect: Callable[[StdioTransport], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7: the process was started, and nobody can read from it."""
    ours: list[Any] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if whose in thread.name:
            ours.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    transport = StdioTransport(command(), timeout=PATIENCE, shutdown_timeout=T)
    with within(T + 0.5), pytest.raises(MCPConnectionError, match="can't start new thread") as found:
        connect(transport)
    assert "no more threads" in str(found.value)
    assert found.value.may_have_run is False
    assert found.value.details["phase"] == "connect"
    assert not transport.connected
    assert ours


def test_no_wake_pipe_for_a_process_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: EMFILE at the last of all; the process is ended again."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process.ChildPipe, "__init__", refuse)
    assert refused(command()).details["errno"] == errno.EMFILE


def test_emfile_at_each_descriptor_in_turn() -> None:
    """I6, I7: whichever it is that there is no room for, the error says so and nothing is left."""
    done = host("""
        import resource
        def descriptors(): return sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]
        StdioTransport(COMMAND, timeout=20).create_session().close()  # whatever is imported late, is now
        import errno, gc
        before, hard = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        free = [number for number in range(200) if number not in before]
        refused = worked = 0
        for room in range(16):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
            error = None
            began = time.monotonic()
            try:
                session = StdioTransport(COMMAND, timeout=20).create_session()
                assert tool(session, "echo", a=1) == {"a": 1}
                session.close()
                worked += 1
            except MCPConnectionError as flaw:
                error = flaw
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            if error is not None:
                refused += 1
                assert error.details["errno"] in (errno.EMFILE, errno.ENFILE), (room, error)
                assert error.may_have_run is False
                assert "too many open files" in str(error), error
                assert time.monotonic() - began < 2
            del error
            gc.collect()
            assert descriptors() == before, (room, descriptors(), before)
            assert not children(), room
            assert not threads(), threads()
        print(refused, worked)
        """)
    refusals, successes = map(int, done[-1].split())
    assert refusals >= 6
    assert successes >= 2
