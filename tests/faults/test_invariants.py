"""Invariants that no other file here is about: the right answer, idleness, order, forks, exits, signals, counters."""

from __future__ import annotations

import json
import pickle
import random
import signal
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from faults.tools import (
    PATIENCE,
    T,
    adds_up,
    command,
    host,
    manner,
    serving,
    talking,
    tells,
    tool,
    until,
    within,
    works,
)

from mcp_sync import (
    Client,
    JSONRPCError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
)
from mcp_sync.testing import in_threads


def test_each_of_many_threads_gets_its_own_answers_whatever_else_happens() -> None:
    """I3, I4: results, errors, timeouts, cancels and malformed answers in one connection, at once."""
    on = {
        "late": manner("answer", seconds=0.15, late=True),
        "bad": manner("says", texts=['{"jsonrpc": "2.0", "id": $ID, "result": [}\n'], then=False),
        "no": manner("refuse"),
        "twice": manner("answer", times=2),
        "silent": manner("silent"),
    }
    with serving(on=on) as client:

        def work(number: int) -> None:
            dice = random.Random(number)
            for n in range(25):
                kind = dice.choice(["echo", "twice", "late", "bad", "no", "cancel"])
                mark = f"{number}.{n}"
                if kind in ("echo", "twice"):
                    assert tool(client, kind, mark=mark) == {"mark": mark}
                elif kind == "late":
                    with pytest.raises(MCPTimeoutError):
                        client.call_tool("late", timeout=0.05)
                elif kind == "cancel":
                    assert client.submit_tool("silent").cancel()
                else:
                    with pytest.raises(RemoteProtocolError if kind == "bad" else JSONRPCError):
                        client.call_tool(kind)

        in_threads(8, work)
        works(client)
        until(lambda: client.counters["dropped_late"] >= 1)
        assert client.counters["dropped_unknown"] == 0
        adds_up(client.counters)


def test_ids_are_never_used_again_and_a_new_connection_knows_nothing_of_the_old(tmp_path: Path) -> None:
    """I3: the generation is a connection of its own; what the old one owed is over."""
    log = tmp_path / "log"
    with serving(log=log, hold=manner("silent"), work=manner("exit")) as client:
        old = client.submit_tool("hold")
        for _ in range(20):
            works(client)
        with pytest.raises(MCPConnectionError):
            client.call_tool("work")
        assert isinstance(old.exception(PATIENCE), MCPConnectionError)
        first = log.read_text().splitlines()
        client.connect()
        works(client)
        assert old.exception(0) is not None
        ids = [line.split()[1] for line in first if line.split()[1] != "None"]
        assert len(ids) == len(set(ids)) >= 22


ERRORS: dict[str, tuple[Any, type[MCPError], str]] = {
    "refused": (manner("refuse"), JSONRPCError, "wait"),
    "unreadable": (
        manner("says", texts=['{"jsonrpc": "2.0", "id": $ID, "result": [}\n'], then=False),
        RemoteProtocolError,
        "parse",
    ),
    "too long": (manner("long", size=2 << 20), MessageTooLarge, "parse"),
    "late": (manner("silent"), MCPTimeoutError, "wait"),
    "dead": (manner("exit"), MCPConnectionError, "wait"),
}


@pytest.mark.parametrize("how", ERRORS)
def test_every_error_says_where_it_happened_and_survives_a_pickle(how: str) -> None:
    """I6: transport, server, method, phase, elapsed."""
    way, kind, phase = ERRORS[how]
    with serving(work=way, max_message_size=1 << 20) as client:
        with pytest.raises(kind) as found:
            client.call_tool("work", timeout=T)
        tells(found.value, "tools/call", phase)
        again = pickle.loads(pickle.dumps(found.value))
        assert (type(again), str(again), again.details) == (kind, str(found.value), found.value.details)
        assert again.may_have_run == found.value.may_have_run


def test_whoever_has_nothing_to_do_does_nothing() -> None:
    """I9: no timer faster than a second, and no spin on an end that nobody looks at."""
    server = command(
        die=manner("exit"),
        silent=manner("silent"),
        flood=manner("flood", count=20_000, method="notifications/news"),
        hush=manner("hush"),
    )
    lines = host(
        """
        def session(): return StdioTransport(COMMAND, timeout=20).create_session()
        idle, hushed, dead, waiting = session(), session(), session(), session()
        tool(idle, "echo")
        tool(hushed, "hush")  # its stderr is at its end
        try: tool(dead, "die")
        except MCPError: pass
        future = waiting.submit_request("tools/call", {"name": "silent"}, 15)
        client = Client(COMMAND, timeout=20).connect()
        transport = StdioTransport(COMMAND, timeout=20, max_pending_messages=10).connect()  # of which nobody receives
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "flood"}})
        transport.receive_message()
        def switches():
            found = {}
            for thread in threading.enumerate():
                try: lines = open(f"/proc/self/task/{thread.native_id}/status").read().splitlines()
                except OSError: continue
                found[thread.name] = sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
            return found
        threading.Event().wait(0.3)
        before, began = switches(), time.process_time()
        threading.Event().wait(1.0)
        took, after = time.process_time() - began, switches()
        print(json.dumps([took, {name: after[name] - before.get(name, 0) for name in after}]), flush=True)
        os._exit(0)
        """,
        *server,
    )
    seconds, wakings = json.loads(lines[-1])
    del wakings["MainThread"]
    assert len(wakings) >= 5
    assert max(wakings.values()) <= 3, wakings
    assert seconds < 0.01


def test_notifications_come_in_wire_order_and_a_slow_handler_stops_no_reply() -> None:
    """I13: a bounded queue of its own; what does not fit is dropped, and counted."""
    release, seen = threading.Event(), list[int]()

    def take(news: Any) -> None:
        release.wait(PATIENCE)
        seen.append(news.params["n"])

    with serving(work=manner("flood", count=3000, method="notifications/news"), on_notification=take) as client:
        with within(1.0):
            tool(client, "work")
            for _ in range(20):
                works(client)
        assert seen == []
        release.set()
        dropped = until(lambda: client.counters["dropped_backlog"])
        until(lambda: len(seen) + dropped == 3000)
        assert seen == sorted(seen)
        assert seen[:1000] == list(range(1000))


def test_in_a_forked_child_a_client_dials_anew_and_a_session_says_so() -> None:
    """I14, B30: the parent is unharmed, even by the child's exit, and by what the child closes."""
    host(
        """
        from mcp_sync import ForkedClientError
        client = Client(COMMAND, timeout=20).connect()
        session = StdioTransport(COMMAND, timeout=20).create_session()
        busy, stop = [], threading.Event()
        def work():
            while not stop.wait(0.001): busy.append(tool(session, "echo", a=1))
        worker = threading.Thread(target=work)
        worker.start()
        ours = json.loads(client.call_tool("pid").text)["pid"]
        for round in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    began = time.monotonic()
                    try: tool(session, "echo")
                    except ForkedClientError as error: assert error.may_have_run is False
                    else: raise AssertionError("no ForkedClientError")
                    session.close()
                    assert time.monotonic() - began < 0.5
                    theirs = json.loads(client.call_tool("pid").text)["pid"]
                    assert theirs != ours
                    client.close()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        worker.join()
        assert busy and tool(session, "echo", a=1) == {"a": 1}
        assert json.loads(client.call_tool("pid").text)["pid"] == ours
        session.close()
        client.close()
        """
    )


EXITS = {
    "nothing special": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "a daemon thread that calls": (
        """
threading.Thread(target=lambda: [tool(session, 'echo') for _ in range(10**9)], daemon=True).start()
while session.counters['ok'] < 20: time.sleep(0.001)
""",
        0,
    ),
    "a call that hangs in a daemon thread": (
        """
threading.Thread(target=tool, args=(session, 'silent'), daemon=True).start()
while not session.counters['pending']: time.sleep(0.001)
""",
        0,
    ),
    "a server deaf to everything": ("tool(session, 'unkillable')", 0),
    "a flood": ("tool(session, 'flood')", 0),
}


@pytest.mark.parametrize("what", EXITS)
def test_an_exit_without_close_is_soon_and_leaves_nothing(what: str) -> None:
    """I15, B27: within 2 s, with its own exit code, without a word, without a server."""
    text, code = EXITS[what]
    server = command(silent=manner("silent"), unkillable=manner("unkillable"), flood=manner("deaf_flood"))
    program = f"""
session = StdioTransport(COMMAND, timeout=20).create_session()
print(session._caller.explain()["pid"], flush=True)
{text}
""" + ("print(time.monotonic(), flush=True)\n" if not code else "")
    program = program.replace("sys.exit(3)", "print(time.monotonic(), flush=True); sys.exit(3)")
    lines = host(program, *server, code=code)
    assert time.monotonic() - float(lines[1]) < 2.0 + 0.5
    until(lambda: not Path(f"/proc/{lines[0]}").exists(), 2.0)


WAITS = {
    "a call": "tool(session, 'silent')",
    "a future": "session.submit_request('tools/call', {'name': 'silent'}).result()",
    "a write": "tool(session, 'deaf'); tool(session, 'echo', x='y' * 3_000_000)",
    "a connect": "StdioTransport(OTHER, timeout=20, shutdown_timeout=0.3).create_session()",
    "a close": "tool(session, 'unkillable'); session.close()",
    "listening": "next(session.listen())",
}


@pytest.mark.parametrize("what", WAITS)
def test_ctrl_c_ends_every_wait_at_once_and_leaves_what_can_be_closed(what: str) -> None:
    """I16: KeyboardInterrupt within 0.2 s; usable or closed, never half."""
    server = command(silent=manner("silent"), deaf=manner("deaf"), unkillable=manner("unkillable"))
    other = command(initialize=manner("silent"))
    host(
        f"""
OTHER = {other!r}
session = StdioTransport(COMMAND, timeout=20, shutdown_timeout=3.0).create_session()
main = threading.main_thread().ident
moments = []
def interrupt():
    moments.append(time.monotonic())
    signal.pthread_kill(main, signal.SIGINT)
threading.Timer(0.25, interrupt).start()
try: {what and WAITS[what]}
except KeyboardInterrupt: assert time.monotonic() - moments[0] < 0.2 + 0.4
else: raise AssertionError("not interrupted")
if {what!r} not in ("a write", "a close"):
    assert tool(session, "echo", a=1) == {{"a": 1}}
session.close(1.0)
deadline = time.monotonic() + 5
while (children() or threads()) and time.monotonic() < deadline: time.sleep(0.01)
assert not children() and not threads(), (children(), threads())
""",
        *server,
    )


def test_a_storm_of_signals_disturbs_nothing() -> None:
    """I16: EINTR everywhere."""
    host("""
        heard = [0]
        def hear(*_): heard[0] += 1
        signal.signal(signal.SIGALRM, hear)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        while heard[0] <= 20:
            session = StdioTransport(COMMAND, timeout=20).create_session()
            for n in range(50): assert tool(session, "echo", a=n) == {"a": n}
            assert tool(session, "echo", x="y" * 1_000_000)["x"] == "y" * 1_000_000
            session.close()
        signal.setitimer(signal.ITIMER_REAL, 0)
        """)


def test_the_counters_add_up_at_every_moment() -> None:
    """I20: also while eight threads do all there is to do, and after the end."""
    on = {"silent": manner("silent"), "no": manner("refuse"), "slow": manner("answer", seconds=0.05)}
    with serving(on=on) as client:
        over = threading.Event()

        def work(number: int) -> None:
            if number == 0:
                while not over.is_set():
                    adds_up(client.counters)
                return
            for n in range(40):
                if n % 4 == 0:
                    assert client.submit_tool("silent").cancel()
                elif n % 4 == 1:
                    with pytest.raises(JSONRPCError):
                        client.call_tool("no")
                elif n % 4 == 2:
                    with pytest.raises(MCPTimeoutError):
                        client.call_tool("silent", timeout=0.01)
                else:
                    tool(client, "slow")
            if number == 1:
                over.set()

        in_threads(8, work)
        counters = client.counters
        assert (counters["cancelled"], counters["timeout"]) == (70, 70)
        assert counters["ok"] >= 70
        waiting = [client.submit_tool("silent") for _ in range(5)]
        assert client.counters["pending"] == 5
        client.close()
        assert all(isinstance(future.exception(0), MCPConnectionError) for future in waiting)
        adds_up(client.counters)


def test_no_private_exception_comes_out_of_a_call() -> None:
    """I2: CancelledError only to whoever cancelled."""
    with serving(silent=manner("silent"), work=manner("killed", number=int(signal.SIGTERM))) as client:
        mine = client.submit_tool("silent")
        assert mine.cancel()
        with pytest.raises(CancelledError):
            mine.result(0)
        other = client.submit_tool("silent")
        with pytest.raises(MCPConnectionError, match="SIGTERM"):
            client.call_tool("work")
        assert isinstance(other.exception(PATIENCE), MCPConnectionError)


def test_many_sessions_at_once_are_no_matter_to_each_other() -> None:
    """I4: the death of one is the death of one."""
    with talking() as good, serving(work=manner("exit")) as doomed:
        with pytest.raises(MCPConnectionError):
            doomed.call_tool("work")
        works(good)
        other = Client(command(), timeout=PATIENCE)
        works(other)
        other.close()
        works(good)
