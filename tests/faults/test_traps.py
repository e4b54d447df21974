"""Traps in the building blocks (FAULTS.md, section 3, B20 to B35): those that no fault of a server shows."""

from __future__ import annotations

import ast
import gc
import os
import queue
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.tools import (
    NOISE,
    PATIENCE,
    T,
    adds_up,
    command,
    gone,
    host,
    is_alive,
    manner,
    pid_of,
    reaped,
    serving,
    talking,
    tool,
    until,
    within,
    works,
)

import mcp_sync
from mcp_sync import Client, MCPConnectionError, MCPTimeoutError, RemoteProtocolError, StdioTransport
from mcp_sync.policies import Limits
from mcp_sync.transports import process

SOURCES = sorted(Path(mcp_sync.__file__).parent.rglob("*.py"))


def names_in(path: Path) -> Iterator[str]:
    """Yield every name, attribute and keyword of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield f"{ast.unparse(node.value)}.{node.attr}"
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.keyword) and node.arg:
            yield f"{node.arg}="


# -- pipes -------------------------------------------------------------------------------------------------------------


def test_a_write_to_a_full_pipe_is_given_up_at_the_deadline_and_close_waits_for_nobody() -> None:
    """B20: non-blocking descriptors and poll, no buffer of ours behind them."""
    with serving(work=manner("deaf"), shutdown_timeout=0.3) as client:
        pipe = client._asker.caller._channel._pipe  # type: ignore[union-attr]
        for descriptor in (pipe._stdin, pipe._stdout, pipe._stderr):
            assert not os.get_blocking(descriptor)
        tool(client, "work")
        with within(T + 0.1), pytest.raises(MCPTimeoutError):
            client.call_tool("echo", {"x": "y" * 1_000_000}, timeout=T)
        with within(0.3):
            client.close()


def test_closing_wakes_the_reader_and_closes_no_descriptor_of_anybody_else() -> None:
    """B21: the numbers that become free are used again at once, by threads that open and close all the time."""
    over, broken = threading.Event(), list[OSError]()

    def open_and_close() -> None:
        while not over.is_set():
            reading, writing = os.pipe()
            try:
                os.write(writing, b"x")
                if os.read(reading, 10) != b"x":
                    raise OSError("somebody else's bytes")
            except OSError as error:
                broken.append(error)
            os.close(reading)
            os.close(writing)

    threads = [threading.Thread(target=open_and_close) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(12):
            with talking() as session:
                works(session)
                with within(0.5):
                    session.close()
                if round_ % 2:
                    session.close()
    except OSError as error:
        broken.append(error)
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert broken == []


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_group_is_killed_while_its_leader_still_holds_its_number() -> None:
    """B22: after a clean exit too; a number that was given back could be somebody else's group."""
    with serving(beget=manner("parent", count=2, ignores=True), work=manner("exit", code=0)) as client:
        family = tool(client, "beget")["family"]
        child = pid_of(client)
        order: list[str] = []
        killpg, waitpid = os.killpg, os.waitpid

        def kill(number: int, signal_: int) -> None:
            order.append("kill" if Path(f"/proc/{number}").exists() else "too late")
            killpg(number, signal_)

        def wait(number: int, options: int) -> Any:
            if number == child:
                order.append("reap")
            return waitpid(number, options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "killpg", kill)
            patch.setattr(os, "waitpid", wait)
            with pytest.raises(MCPConnectionError, match="exit status 0"):
                client.call_tool("work")
            client.close()
        assert order[-1] == "reap"
        assert "kill" in order
        assert "too late" not in order
        assert gone(*family)


WAYS_TO_BEGIN: dict[str, Callable[[], Any]] = {
    "Client.connect": lambda: Client(command(), timeout=PATIENCE).connect(),
    "create_session": lambda: StdioTransport(command(), timeout=PATIENCE).create_session(),
    "transport.connect": lambda: greeted(StdioTransport(command(), timeout=PATIENCE).connect()),
}


def greeted(transport: StdioTransport) -> StdioTransport:
    """Wait until the server is up."""
    transport.send_message({"jsonrpc": "2.0", "id": 0, "method": "ping"})
    assert transport.receive_message()["id"] == 0
    return transport


@pytest.mark.parametrize("begin", WAYS_TO_BEGIN.values(), ids=WAYS_TO_BEGIN)
def test_a_server_outlives_the_thread_that_started_it(begin: Callable[[], Any]) -> None:
    """B23: no PDEATHSIG, which fires when that thread ends."""
    begun: queue.Queue[Any] = queue.Queue()
    thread = threading.Thread(target=lambda: begun.put(begin()))
    thread.start()
    either = begun.get(timeout=PATIENCE)
    thread.join(PATIENCE)
    until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists())  # join returns a little earlier
    try:
        if isinstance(either, StdioTransport):
            either = either.create_session()
        for _ in range(5):
            works(either)
        assert is_alive(pid_of(either))
    finally:
        either.close()


def test_no_code_of_ours_runs_between_fork_and_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    """B24: preexec_fn with a lock that another thread holds never comes back."""
    asked: list[dict[str, Any]] = []
    popen = subprocess.Popen

    def note(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return popen(*args, **kwargs)

    monkeypatch.setattr(process.subprocess, "Popen", note)
    with serving() as client:
        works(client)
    assert len(asked) == 1
    assert asked[0].get("preexec_fn") is None
    assert asked[0]["start_new_session"] is True
    assert asked[0]["bufsize"] == 0
    assert not [path for path in SOURCES if "preexec_fn=" in names_in(path)]


# -- streams and exits -------------------------------------------------------------------------------------------------


def test_nothing_here_uses_the_hosts_own_streams_when_it_talks_to_a_child() -> None:
    """B26, B28: no inherited stderr, and no reading of the buffered stdin, which aborts at exit."""
    for path in SOURCES:
        if not {"testing", "server"} & set(path.parts):
            assert not {"sys.stdin", "sys.stderr", "sys.stdout", "sys.__stderr__"} & set(names_in(path)), path


@pytest.mark.parametrize("closing", ["", "atexit.register(session.close, 0.5)"], ids=["forgotten", "closed"])
def test_the_end_of_the_interpreter_needs_no_new_thread(closing: str) -> None:
    """B27, B29: 3.12.1 refuses them from then on; servers that only we can end are ended all the same, in time."""
    *pids, last = host(
        f"""
        import _thread, atexit
        def refuse(*_, **__): raise RuntimeError("can't create new thread at interpreter shutdown")
        def shut_down(shut_down=threading._shutdown):
            threading.Thread.start = _thread.start_new_thread = refuse
            shut_down()
        threading._shutdown = shut_down  # with which the end begins
        session = StdioTransport(COMMAND, timeout=20).create_session()
        client = Client(COMMAND, timeout=20).connect()
        print(tool(session, "unkillable")["pid"])
        print(json.loads(client.call_tool("unkillable").text)["pid"])
        {closing}
        print(time.monotonic(), flush=True)
        sys.exit(7)
        """,
        *command(unkillable=manner("unkillable")),
        code=7,
    )
    assert time.monotonic() - float(last) < 2.0 + 0.5
    assert gone(*map(int, pids))


def test_every_thread_of_ours_is_a_daemon_and_none_is_of_an_executor() -> None:
    """B27: a thread that is none keeps the interpreter from ending."""
    with serving(
        work=manner("asks", method="sampling/createMessage", params={"messages": [], "maxTokens": 1})
    ) as client:
        client.submit_tool("echo").add_done_callback(lambda _: None)
        client.submit_tool("work").result(PATIENCE)
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("mcp-")]
        assert ours
        assert all(thread.daemon for thread in ours)
    assert not [path for path in SOURCES if "ThreadPoolExecutor" in " ".join(names_in(path))]


def test_a_fork_finds_no_lock_held_for_ever() -> None:
    """B30: whatever other threads held at that moment, the child can dial, and call, and exit."""
    host(
        """
        client = Client(COMMAND, timeout=20).connect()
        stop = threading.Event()
        def work():
            while not stop.is_set(): client.call_tool("echo", {"x": "y" * 200_000})
        workers = [threading.Thread(target=work, daemon=True) for _ in range(3)]
        for worker in workers: worker.start()
        for round in range(8):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    client.call_tool("echo", {"a": 1}, timeout=10)
                    client.close()
                    code = 0
                finally: os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for worker in workers: worker.join()
        assert client.counters["error"] <= 1, client.counters
        client.close()
        """
    )


# -- futures and the collector -----------------------------------------------------------------------------------------


def test_a_result_that_comes_after_a_cancel_harms_no_reader_and_a_callback_may_call() -> None:
    """B31: a done-callback runs on the lane; a call in it is legal, and the reader goes on."""
    with serving(slow=manner("answer", seconds=0.1, late=True)) as client:
        futures = [client.submit_tool("slow") for _ in range(10)]
        assert all(future.cancel() for future in futures)
        until(lambda: client.counters["dropped_late"] == 10)
        answers: queue.Queue[Any] = queue.Queue()
        readers: list[str] = []

        def again(future: Any) -> None:
            readers.append(threading.current_thread().name)
            answers.put(tool(client, "echo", a=2))

        client.submit_tool("echo").add_done_callback(again)
        with within(1.0):
            assert answers.get(timeout=PATIENCE) == {"a": 2}
        assert "reader" not in readers[0]
        own = client.submit_tool("slow")
        own.set_running_or_notify_cancel()
        own.set_result("the application's own")  # type: ignore[arg-type]
        works(client)


def test_a_client_in_a_cycle_is_collected_though_its_threads_live() -> None:
    """B32: no thread holds what users hold; the finalizer takes no lock, whoever runs the collector."""

    def forget() -> tuple[weakref.ref[Client], int]:
        client = Client(command(work=manner("silent")), timeout=PATIENCE, on_notification=lambda _: client)
        client.connect()
        client.itself = client  # type: ignore[attr-defined]
        client.submit_tool("echo").result(PATIENCE)
        return weakref.ref(client), pid_of(client)

    forgotten = [forget()]
    with pytest.warns(ResourceWarning, match="never closed"):
        gc.collect()
    ((client, child),) = forgotten
    assert client() is None
    until(lambda: reaped(child))


def test_a_collection_under_every_lock_of_ours_ends() -> None:
    """B32: the collector runs at any moment, in the reader too; what it finds closes itself elsewhere."""
    with talking() as session:
        for _ in range(3):
            other = [StdioTransport(command(), timeout=PATIENCE).create_session()]
            other[0].itself = other[0]  # type: ignore[attr-defined]
            other.clear()
            with pytest.warns(ResourceWarning, match="never closed"):
                call_while_collecting(session)


def call_while_collecting(session: Any) -> None:
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        with within(2.0):
            for n in range(30):
                assert tool(session, "echo", n=n) == {"n": n}
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()


class Broken:
    """An object that passes messages, until reading raises what no reader expects."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._answers: queue.Queue[Any] = queue.Queue()

    def read(self) -> Any:
        item = self._answers.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def write(self, message: dict[str, Any]) -> None:
        if message.get("method") == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
            self._answers.put({"jsonrpc": "2.0", "id": message["id"], "result": result})
        elif "id" in message:
            self._answers.put(self._error)

    def close(self) -> None:
        self._answers.put(None)


@pytest.mark.parametrize("error", [SystemExit(3), MemoryError(), RecursionError(), KeyboardInterrupt()], ids=repr)
def test_whatever_ends_the_reader_every_call_hears_of_it(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """B33: BaseException, not Exception; nobody waits for a thread that is gone."""
    with Client(Broken(error), timeout=PATIENCE) as client:
        with within(0.2), pytest.raises(MCPConnectionError, match=type(error).__name__):
            client.request("never/answered")
        with pytest.raises(MCPConnectionError, match=type(error).__name__):
            client.request("another")
        adds_up(client.counters)
        caplog.clear()


# -- JSON --------------------------------------------------------------------------------------------------------------

STRICT = {
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": -Infinity}',
    "10,000 levels": [('{"a": ', 1), ("[", 10_000), ("]", 10_000), ("}", 1)],
    "129 levels": [('{"a": ', 1), ("[", 129), ("]", 129), ("}", 1)],
    "5,000 digits": [('{"a": ', 1), ("9", 5_000), ("}", 1)],
    "a lone surrogate": '{"a": "\\ud800"}',
    "a lone surrogate as key": '{"\\udfff": 1}',
    "bad UTF-8": '{"a": "\xc3\x28"}',
    "an encoded surrogate": '{"a": "\xed\xa0\x80"}',
    "an overlong encoding": '{"a": "\xc0\xaf"}',
}


@pytest.mark.parametrize("what", STRICT)
def test_json_is_read_strictly(what: str) -> None:
    """B34: at once, and never as something else later."""
    begin, value = '{"jsonrpc": "2.0", "id": $ID, "result": ', STRICT[what]
    texts = [begin, value, "}\n"]
    with serving(work=manner("says", texts=texts, then=False)) as client:
        with within(0.1), pytest.raises(RemoteProtocolError, match="unreadable answer"):
            client.request("tools/call", {"name": "work"})
        works(client)


def test_messages_in_utf_16_are_noise() -> None:
    """B34: json.loads would take them as they are."""
    text = '{"jsonrpc": "2.0", "id": $ID, "result": {}}\n'
    wide = "".join(f"\0{letter}" for letter in text.replace("$ID", "5"))
    with serving(work=manner("says", texts=[wide])) as client:
        assert tool(client, "work", a=1) == {"a": 1}
        assert client.counters["parse_errors"] >= 1


def test_deep_nesting_on_a_small_stack_is_an_error_and_no_crash() -> None:
    """B34: the C parser recurses, and a host may have asked for small stacks; which we never change."""
    deep = [('{"jsonrpc": "2.0", "id": $ID, "result": {"a": ', 1), ("[", 990), ("]", 990), ("}}\n", 1)]
    host(
        """
        from mcp_sync import RemoteProtocolError
        threading.stack_size(256 * 1024)
        session = StdioTransport(COMMAND, timeout=20).create_session()
        for _ in range(3):
            try: tool(session, "work")
            except RemoteProtocolError as error: assert "levels" in str(error)
            else: raise AssertionError("that was too deep")
        assert tool(session, "echo", a=1) == {"a": 1}
        session.close()
        assert threading.stack_size() == 256 * 1024
        """,
        *command(work=manner("says", texts=[deep], then=False)),
    )
    assert not [path for path in SOURCES if "threading.stack_size" in names_in(path)]


def test_the_default_limit_bounds_how_long_decoding_stalls_other_threads() -> None:
    """B35: 16 MiB, with the interpreter's lock held while it is decoded."""
    over, longest = threading.Event(), [0.0]

    def tick() -> None:
        before = time.monotonic()
        while not over.wait(0.005):
            longest[0] = max(longest[0], time.monotonic() - before - 0.005)
            before = time.monotonic()

    size = (16 << 20) - 1000
    with serving(work=manner("long", size=size)) as client:
        works(client)
        thread = threading.Thread(target=tick)
        thread.start()
        try:
            assert len(client.request("tools/call", {"name": "work"})["content"][0]["text"]) == size + 2
        finally:
            over.set()
            thread.join(PATIENCE)
        assert longest[0] < 0.5 + NOISE * 2
        assert client.transport._policies[Limits].message_size == 16 << 20
