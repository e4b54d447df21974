"""close(): in every state, from everywhere, any number of times; it returns once all is over."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import nullcontext
from typing import Any

import pytest
from faults.tools import (
    PATIENCE,
    T,
    adds_up,
    command,
    host,
    manner,
    pid_of,
    reaped,
    serving,
    talking,
    tool,
    until,
    within,
)

from mcp_sync import Client, MCPConnectionError, MCPError, StdioTransport
from mcp_sync.observe import Called
from mcp_sync.testing import in_threads

SILENT = {"initialize": manner("silent"), "server/discover": manner("silent")}


def test_during_connect() -> None:
    """I7: whoever connects is told; the process is gone."""
    client = Client(command(**SILENT), timeout=PATIENCE, shutdown_timeout=0.3)

    def work(number: int) -> None:
        if number:
            until(lambda: client._opening is not None)
            client.close()
            return
        with pytest.raises(MCPConnectionError, match="closed"):
            client.connect()

    with within(1.0):
        in_threads(2, work)
    with pytest.raises(MCPConnectionError, match="closed"):
        client.connect()


def test_during_a_write() -> None:
    """I2, I7, B20: close() does not wait for the writer, it wakes it."""
    with serving(work=manner("deaf"), shutdown_timeout=0.3) as client:
        tool(client, "work")

        def work(number: int) -> None:
            if number:
                until(lambda: client.counters["pending"])
                client.close()
                return
            with pytest.raises(MCPConnectionError, match="closed"):
                client.call_tool("echo", {"x": "y" * 1_000_000})

        with within(1.0):
            in_threads(2, work)


CALLBACKS = ["on_notification", "on_log", "sampling", "roots", "on_progress", "done-callback", "stderr", "observer"]


@pytest.mark.parametrize("where", CALLBACKS)
def test_in_a_callback(where: str) -> None:
    """I7, B31: of whichever kind; the call that waits meanwhile fails, and nothing is left."""
    closed = threading.Event()

    def leave(*_: Any) -> list[str]:
        client.close()
        closed.set()
        return []

    works: dict[str, Any] = {
        "on_notification": manner("flood", count=5, method="notifications/news"),
        "on_log": manner("flood", count=5, method="notifications/message", params={"level": "info", "data": 1}),
        "sampling": manner("asks", method="sampling/createMessage", params={"messages": [], "maxTokens": 1}),
        "roots": manner("asks", method="roots/list"),
        "on_progress": manner("progress", times=5, seconds=0.01),
        "stderr": manner("babble", count=1000, size=500),
    }
    knobs = {where: leave} if where in ("on_notification", "on_log", "sampling", "roots", "stderr") else {}
    transport_knobs = {"stderr": knobs.pop("stderr")} if where == "stderr" else {}
    transport = StdioTransport(
        command(work=works.get(where, manner("silent"))), shutdown_timeout=1.0, **transport_knobs
    )
    client = Client(transport, timeout=PATIENCE, **knobs)
    with client:
        if where == "observer":
            transport.observe(lambda event: isinstance(event, Called) and leave())
        future = client.submit_tool("work", on_progress=leave if where == "on_progress" else None)
        if where == "done-callback":
            future.add_done_callback(leave)
            future.cancel()
        with within(2.0):
            assert closed.wait(PATIENCE)
        assert future.done() or isinstance(future.exception(PATIENCE), MCPConnectionError)
        assert not client.connected
        adds_up(client.counters)


def test_by_eight_threads_at_once() -> None:
    """I7: each returns when it is over, not before."""
    with serving(work=manner("unkillable"), shutdown_timeout=0.5) as client:
        tool(client, "work")
        child = pid_of(client)

        def work(_: int) -> bool:
            client.close()
            return reaped(child)

        with within(0.5 + 0.2):
            assert in_threads(8, work) == [True] * 8


def test_while_eight_threads_call() -> None:
    """I2: each call has a result or an error, and none a private type."""
    with serving() as client:
        results: list[Any] = []

        def work(number: int) -> None:
            if number == 8:
                until(lambda: client.counters["ok"] > 50)
                client.close()
                return
            while True:
                try:
                    results.append(client.call_tool("echo", {"n": number}))
                except MCPConnectionError as error:
                    results.append(error)
                    return

        with within(3.0):
            in_threads(9, work)
        assert sum(isinstance(result, MCPConnectionError) for result in results) == 8


def test_after_death_again_and_again() -> None:
    """I7"""
    with serving(work=manner("killed")) as client:
        child = pid_of(client)
        with pytest.raises(MCPConnectionError):
            client.call_tool("work")
        for _ in range(5):
            with within(0.2):
                client.close()
        assert reaped(child)


def test_with_hardly_any_time() -> None:
    """I1, I7: a close in a hurry kills at once, and still waits for what it killed."""
    with serving(work=manner("unkillable")) as client:
        tool(client, "work")
        child = pid_of(client)
        with within(0.3):
            client.close(timeout=0.2)
        until(lambda: reaped(child), 2.0)


def test_of_a_transport_while_its_messages_are_received() -> None:
    """I2, I7"""
    transport = StdioTransport(command(), timeout=PATIENCE).connect()

    def work(number: int) -> None:
        if number == 4:
            transport.disconnect()
            return
        with pytest.raises(MCPConnectionError):
            transport.receive_message()

    with within(1.0):
        in_threads(5, work)


def test_of_the_transport_ends_its_session_too() -> None:
    """I7"""
    with StdioTransport(command(work=manner("silent")), timeout=PATIENCE) as transport:
        session = transport.create_session()
        future = session.submit_request("tools/call", {"name": "work"})
        with within(0.5):
            transport.disconnect()
        assert isinstance(future.exception(PATIENCE), MCPConnectionError)
        with within(0.2):
            session.close()


def test_ends_a_session_that_is_listened_to() -> None:
    """I2, I7"""
    with talking() as session:

        def work(number: int) -> list[Any]:
            if number:
                session.close()
                return []
            return list(session.listen())

        with within(1.0):
            assert in_threads(2, work) == [[], []]


@pytest.mark.parametrize("cyclic", [False, True], ids=["let go", "collected"])
def test_in_del(cyclic: bool) -> None:
    """I7, B32: a __del__ of the user's closes; in a cycle the collector forgets the client first, with a warning."""

    class Holder:
        def __init__(self) -> None:
            self.client = Client(command(), timeout=PATIENCE).connect()
            self.itself = self if cyclic else None

        def __del__(self) -> None:
            self.client.close()
            closed.append(self.client.counters["pending"])

    closed: list[int] = []
    holder = [Holder()]
    child = pid_of(holder[0].client)
    with pytest.warns(ResourceWarning) if cyclic else nullcontext(), within(1.0):
        holder.clear()
        gc.collect()
    assert closed == [0]
    assert reaped(child)


@pytest.mark.parametrize("how", ["in a with statement", "in atexit", "in atexit, of a deaf server", "twice", "never"])
def test_at_exit(how: str) -> None:
    """I15, B27: the exit takes no 2 s, changes no exit code, prints nothing, and leaves no server."""
    deaf = manner("unkillable") if "deaf" in how else manner("answer")
    texts = {
        "in a with statement": "with session: tool(session, 'work')",
        "in atexit": "import atexit; atexit.register(session.close); tool(session, 'work')",
        "in atexit, of a deaf server": "import atexit; atexit.register(session.close, 0.8); tool(session, 'work')",
        "twice": "import atexit; atexit.register(session.close); session.close(); session.close()",
        "never": "tool(session, 'work')",
    }
    began = time.monotonic()
    program = f"""
        session = StdioTransport(COMMAND, timeout=20).create_session()
        print(session._caller.explain()["pid"])
        {texts[how]}
        print(time.monotonic())
        sys.exit(7)
        """
    pid, last = host(program, *command(work=deaf), code=7)
    assert reaped(int(pid))
    assert time.monotonic() - float(last) < 2.0 + 0.5
    assert time.monotonic() - began < PATIENCE


def test_a_close_that_ctrl_c_cuts_short_can_be_finished() -> None:
    """I16"""
    host(
        """
        session = StdioTransport(COMMAND, timeout=20, shutdown_timeout=3.0).create_session()
        tool(session, "work")
        main = threading.main_thread().ident
        threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
        began = time.monotonic()
        try: session.close()
        except KeyboardInterrupt: pass
        else: raise AssertionError("not interrupted")
        assert time.monotonic() - began < 0.3 + 0.2 + 0.5
        session.close(1.0)
        deadline = time.monotonic() + 5
        while (children() or threads()) and time.monotonic() < deadline: time.sleep(0.01)
        assert not children() and not threads(), (children(), threads())
        """,
        *command(work=manner("unkillable")),
    )


def test_closing_never_raises_whatever_the_server_was_like() -> None:
    """I7, I20"""
    ways = ("exit", "killed", "mute", "endless", "deaf_flood", "stall")

    def work(number: int) -> None:
        client = Client(command(work=manner(ways[number])), timeout=PATIENCE, shutdown_timeout=0.3).connect()
        future = client.submit_tool("work", timeout=T)
        with pytest.raises(MCPError):
            client.call_tool("echo", {"x": "y" * 1_000_000}, timeout=T)
        assert future.exception(PATIENCE) is None or isinstance(future.exception(0), MCPError)
        with within(1.0):
            client.close()
        adds_up(client.counters)

    in_threads(len(ways), work)
