"""The process around us: what it lacks, what it has too much of, and what a server may see of it."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

import pytest
from faults.tools import PATIENCE, command, host, manner, serving, talking, tool, works

from mcp_sync import Client, MCPConnectionError, StdioTransport


class Notebook(io.StringIO):
    """A stderr as Jupyter has it: without a descriptor."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@pytest.mark.parametrize("stream", [None, Notebook()], ids=["None", "without a descriptor"])
def test_a_stderr_that_is_none_or_has_no_descriptor(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """B26: the child's stderr is a pipe of our own, whatever ours is."""
    for name in ("stderr", "stdout", "stdin"):
        monkeypatch.setattr(sys, name, stream)
    with serving(work=manner("exit", code=3)) as client:
        works(client)
        with pytest.raises(MCPConnectionError, match="last words"):
            client.call_tool("work")


def test_without_standard_descriptors_at_all() -> None:
    """B26, I17: the pipes then have the numbers 0 to 2; the child's are still its own."""
    host(
        """
        kept = os.dup(1)
        for number in (0, 1, 2): os.close(number)
        try:
            with StdioTransport(COMMAND, timeout=20) as transport, transport.create_session() as session:
                assert tool(session, "echo", a=1) == {"a": 1}
        except BaseException as error:
            os.write(kept, repr(error).encode())
            os._exit(1)
        os._exit(0)
        """,
    )


def test_where_sigchld_is_ignored_a_status_is_unknown_and_never_0() -> None:
    """B25, I6, I7"""
    host(
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        session = StdioTransport(COMMAND, timeout=20).create_session()
        assert tool(session, "echo", a=1) == {"a": 1}
        try:
            tool(session, "work")
        except MCPConnectionError as error:
            assert error.details["exit_status"] is None, error.details
            assert "unknown" in str(error), error
            assert "last words" in str(error), error
        else:
            raise AssertionError("it did not die")
        session.close()
        other = StdioTransport(COMMAND, timeout=20, shutdown_timeout=1.0).create_session()
        began = time.monotonic()
        other.close()
        assert time.monotonic() - began < 1.5
        assert not children() and not threads()
        """,
        *command(work=manner("exit", code=3)),
    )


def test_where_somebody_else_waits_for_every_child() -> None:
    """B22, B25: nobody is killed by a number that is somebody else's by now."""
    host(
        """
        def collect():
            while True:
                try: os.wait()
                except ChildProcessError: time.sleep(0.001)
        threading.Thread(target=collect, daemon=True).start()
        for n in range(10):
            session = StdioTransport(COMMAND, timeout=20).create_session()
            if n % 2:
                try: tool(session, "work")
                except MCPConnectionError as error: assert error.details["exit_status"] in (None, 3), error.details
            else:
                assert tool(session, "echo", a=1) == {"a": 1}
            session.close()
        os._exit(0)
        """,
        *command(work=manner("exit", code=3)),
    )


def test_with_more_than_1024_descriptors_in_use() -> None:
    """B20: poll, not select."""
    host(
        """
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3000), hard))
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
        with StdioTransport(COMMAND, timeout=20) as transport, transport.create_session() as session:
            assert session._caller._channel._pipe._stdout > 1024
            assert tool(session, "echo", x="y" * 3_000_000)["x"] == "y" * 3_000_000
            try: tool(session, "work")
            except MCPConnectionError as error: assert "exit status 3" in str(error)
        """,
        *command(work=manner("exit", code=3)),
    )


def test_what_a_child_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """I17: an allow-list of variables, descriptors 0 to 2, a session of its own, no shell."""
    monkeypatch.setenv("FAULTS_API_TOKEN", "sesame")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    code = (
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n"
        "    seen = {'env': dict(os.environ), 'fds': sorted(map(int, os.listdir('/proc/self/fd'))), 'argv': sys.argv,\n"
        "            'sid': os.getsid(0), 'pid': os.getpid(), 'pgid': os.getpgid(0)}\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': {'supportedVersions': ['2026-07-28'],\n"
        "        'capabilities': {}, 'seen': seen}}), flush=True)\n"
    )
    words = ["$HOME", "a b", "*", ";", "'"]
    try:
        transport = StdioTransport(
            [sys.executable, "-I", "-S", "-c", code, *words], env={"MINE": "1"}, timeout=PATIENCE
        )
        with transport.create_session() as session:
            seen = session.send_request("anything")["seen"]
    finally:
        os.close(reading)
        os.close(writing)
    assert seen["fds"][:3] == [0, 1, 2]
    assert len(seen["fds"]) == 4  # and the one that lists the folder
    assert seen["pid"] == seen["sid"] == seen["pgid"]
    assert seen["argv"][1:] == words
    assert seen["env"]["MINE"] == "1"
    allowed = {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "MINE"}
    assert set(seen["env"]) <= allowed


def test_ten_servers_see_nothing_of_each_other() -> None:
    """I17, I7: no server holds the pipe of another, so each notices its own end."""
    clients = [Client(command(), timeout=PATIENCE).connect() for _ in range(10)]
    try:
        pids = {tool(client, "pid")["pid"] for client in clients}
        assert len(pids) == 10
        for client in clients:
            links = {os.readlink(f"/proc/{tool(client, 'pid')['pid']}/fd/{number}") for number in (0, 1, 2)}
            assert len(links) == 3
    finally:
        for client in clients:
            client.close()
    assert json.dumps(sorted(pids))


def test_a_limit_on_descriptors_that_is_reached_later_harms_no_connection_that_is_open() -> None:
    """I4"""
    host("""
        import resource
        session = StdioTransport(COMMAND, timeout=20).create_session()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (5, hard))  # poll itself wants so many
        assert tool(session, "echo", a=1) == {"a": 1}
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        session.close()
        assert not children()
        """)


def test_an_environment_without_path_and_home() -> None:
    """I17"""
    host(
        """
        os.environ.clear()
        with StdioTransport(COMMAND, timeout=20).create_session() as session:
            assert tool(session, "echo", a=1) == {"a": 1}
        """,
    )


def test_a_session_needs_no_models_and_a_client_no_network() -> None:
    """I10: nothing is asked of the server that the application did not ask for."""
    with talking() as session:
        works(session)
        assert session.counters["sent"] == 3  # the probe, initialize, the call
