"""A server that ends by itself is started again: by the next call, ever more slowly, and not for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from stdio.programs import ROOT, Notes, T, alive, server, until

from mcp_sync import Client, MCPConnectionError, MCPSession, StdioTransport
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.observe import Event, Trouble
from mcp_sync.policies import Restart
from mcp_sync.testing import in_threads
from mcp_sync.transports import restarting


def die(session: MCPSession, **params: Any) -> MCPConnectionError:
    """Have the server end, and return the error."""
    with pytest.raises(MCPConnectionError) as found:
        session.send_request("die", params)
    return found.value


# -- what comes back -------------------------------------------------------------------------------------------------


def test_the_next_call_starts_it_again() -> None:
    transport = server(max_restarts=3, restart_delay=0)
    notes = Notes(transport)
    session = transport.create_session()
    first = session.send_request("pid")["pid"]
    error = die(session)
    assert "ended with exit status 3" in str(error)
    assert "last words" in str(error)
    assert (error.details["exit_status"], error.details["stderr"]) == (3, ["last words"])
    second = session.send_request("pid")["pid"]
    assert second != first
    assert alive(second)
    assert not alive(first)
    session.close()
    assert not alive(second)
    assert [data["attempt"] for data in notes.of("process_restart")] == [1]
    assert len(notes.of("process_started", 2)) == 2
    assert [data["status"] for data in notes.of("process_ended", 2)] == [3, 0]


def test_a_signal_counts_as_well_as_an_exit_and_a_good_exit_as_well_as_a_bad_one() -> None:
    with_session = server(max_restarts=9, restart_delay=0).create_session()
    assert "SIGKILL" in str(die(with_session, signal=signal.SIGKILL))
    assert "status 0" in str(die(with_session, code=0))
    assert with_session.send_request("echo", {"a": 1}) == {"a": 1}
    with_session.close()


def test_without_max_restarts_the_end_is_the_end() -> None:
    session = server().create_session()
    die(session)
    with pytest.raises(MCPConnectionError, match="exit status 3") as found:
        session.send_request("echo", {"a": 1})
    assert found.value.may_have_run is False
    session.close()


def test_calls_under_way_fail_at_once_and_are_not_repeated(tmp_path: Path) -> None:
    program = f"""
    def count(id_, params):
        with open({str(tmp_path / "runs")!r}, "a") as runs:
            runs.write("x")
    """
    session = server(program, max_restarts=3, restart_delay=0).create_session()
    waiting = [session.submit_request("count", {}) for _ in range(5)]
    until(lambda: (tmp_path / "runs").exists() and (tmp_path / "runs").stat().st_size == 5)
    begin = time.monotonic()
    os.kill(session.send_request("pid")["pid"], signal.SIGKILL)
    for future in waiting:
        with pytest.raises(MCPConnectionError, match="SIGKILL") as found:
            future.result(T)
        assert found.value.may_have_run is not False
    assert time.monotonic() - begin < 5
    assert session.send_request("echo", {"a": 1}) == {"a": 1}
    assert (tmp_path / "runs").read_text() == "xxxxx"
    session.close()


def test_many_threads_find_one_new_process() -> None:
    transport = server(max_restarts=3, restart_delay=0)
    notes = Notes(transport)
    session = transport.create_session()
    for _ in range(3):
        die(session)
        pids = in_threads(8, lambda _, session=session: session.send_request("pid")["pid"])
        assert len(set(pids)) == 1
    session.close()
    assert len(notes.of("process_started", 4)) == 4


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
def test_a_client_keeps_its_subscriptions_and_callbacks(tmp_path: Path, version: str) -> None:
    script = tmp_path / "server.py"
    script.write_text(f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from mcp_sync.server import Server
server = Server("notes")

@server.resource("notes://all")
def notes() -> str:
    return "all"

@server.tool()
def change() -> str:
    server.resource_updated("notes://all")
    return "changed"

@server.tool()
def die() -> str:
    os._exit(7)

server.run("stdio")
""")
    heard: list[str] = []
    news = threading.Semaphore(0)

    def note(notification: Any) -> None:
        if notification.method == "notifications/resources/updated":
            heard.append(str(notification.params["uri"]))
            news.release()

    transport = StdioTransport(sys.executable, [str(script)], timeout=T, max_restarts=3, restart_delay=0)
    with Client(transport, on_notification=note, protocol_version=version) as client:
        client.subscribe("notes://all")
        client.call_tool("change")
        assert news.acquire(timeout=T)
        with pytest.raises(MCPConnectionError, match="status 7"):
            client.call_tool("die")
        assert client.call_tool("change").text == "changed"
        assert news.acquire(timeout=T)
    assert heard == ["notes://all", "notes://all"]


def test_a_restarted_server_can_ask_the_client(tmp_path: Path) -> None:
    program = """
    def tools_call(id_, params):
        if params["name"] == "die":
            os._exit(5)
        os.write(1, b'{"jsonrpc": "2.0", "id": "mine", "method": "roots/list"}\\n')
        reply = json.loads(sys.stdin.readline())
        answer(id_, {"content": [{"type": "text", "text": reply["result"]["roots"][0]["uri"]}]})
    """
    transport = server(program, max_restarts=3, restart_delay=0)
    with Client(transport, roots=[tmp_path], protocol_version="2025-11-25") as client:
        for _ in range(3):
            assert client.call_tool("ask").text == tmp_path.as_uri()
            with pytest.raises(MCPConnectionError, match="status 5"):
                client.call_tool("die")


# -- what does not ---------------------------------------------------------------------------------------------------


def test_a_crash_loop_is_given_up_and_its_last_cause_named() -> None:
    transport = server(max_restarts=2, restart_delay=0)
    session = transport.create_session()
    for number in range(3):
        die(session, code=10 + number, words=f"crash {number}")
    for _ in range(2):
        with pytest.raises(MCPConnectionError, match="max_restarts is 2") as found:
            session.send_request("echo")
    assert "ended with exit status 12" in str(found.value)
    assert "crash 2" in str(found.value)
    assert found.value.may_have_run is False
    assert found.value.details["restarts"] == 2
    session.close()


def test_one_that_dies_while_it_starts_is_given_up_as_well(tmp_path: Path) -> None:
    program = f"""
    if os.path.exists({str(tmp_path / "broken")!r}):
        os.write(2, b"no database\\n")
        os._exit(4)
    """
    transport = server(program, max_restarts=2, restart_delay=0)
    notes = Notes(transport)
    session = transport.create_session()
    (tmp_path / "broken").touch()
    die(session)
    for _ in range(2):
        with pytest.raises(MCPConnectionError, match="exit status 4"):
            session.send_request("echo")
    with pytest.raises(MCPConnectionError, match="max_restarts is 2") as found:
        session.send_request("echo")
    assert "no database" in str(found.value)
    assert isinstance(found.value.__cause__, MCPConnectionError)
    (tmp_path / "broken").unlink()
    with pytest.raises(MCPConnectionError, match="max_restarts is 2"):
        session.send_request("echo")
    session.close()
    assert len(notes.of("process_started", 3)) == 3


def test_a_pause_longer_than_the_timeout_is_not_waited_for() -> None:
    session = server(max_restarts=5, restart_delay=60).create_session()
    die(session)
    assert session.send_request("echo", {"a": 1}) == {"a": 1}  # the first restart of a row is at once
    die(session)
    begin = time.monotonic()
    with pytest.raises(MCPConnectionError, match="restart_delay") as found:
        session.send_request("echo", timeout=10)
    assert time.monotonic() - begin < 5
    assert 50 < found.value.details["retry_after"] <= 60
    assert "exit status 3" in str(found.value)
    assert found.value.may_have_run is False
    session.close()


def test_closing_ends_a_pause() -> None:
    session = server(max_restarts=5, restart_delay=15).create_session()
    die(session)
    session.send_request("echo")
    die(session)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            session.send_request("echo", timeout=T)
        except BaseException as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    starting = session._caller._dial.__self__  # type: ignore[attr-defined]
    until(lambda: starting._dialling.acquire(blocking=False) is False or starting._dialling.release())
    begin = time.monotonic()
    session.close()
    caller.join(T)
    assert time.monotonic() - begin < 5
    assert isinstance(errors[0], MCPConnectionError)


def test_nothing_is_started_once_close_has_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = server(max_restarts=3, restart_delay=0)
    notes = Notes(transport)
    session = transport.create_session()
    die(session)
    dialling, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    dial = transport.dial

    def slow(deadline: Deadline) -> Channel:
        dialling.set()
        assert go_on.wait(T)
        return dial(deadline)

    monkeypatch.setattr(transport, "dial", slow)
    caller = threading.Thread(target=_quietly, args=(session,))
    closer = threading.Thread(target=lambda: (session.close(), closed.set()))
    caller.start()
    assert dialling.wait(T)
    closer.start()
    assert not closed.wait(0.3)
    go_on.set()
    assert closed.wait(T)
    assert not any(alive(data["pid"]) for data in notes.of("process_started"))
    caller.join(T)
    closer.join(T)
    assert not any(alive(data["pid"]) for data in notes.of("process_started", 2))


def test_closing_and_restarting_at_once_leaves_nothing() -> None:
    for _ in range(5):
        session = server(max_restarts=100, restart_delay=0).create_session()
        die(session)
        caller = threading.Thread(target=_quietly, args=(session,))
        caller.start()
        session.close()
        caller.join(T)


def _quietly(session: MCPSession) -> None:
    try:
        session.send_request("echo")
    except MCPConnectionError:
        pass


def test_disconnecting_ends_the_conversation_that_began_on_the_connection() -> None:
    with server(max_restarts=5, restart_delay=0) as transport:
        session = transport.create_session()
        die(session)
        pid = session.send_request("pid")["pid"]
    assert not alive(pid)
    with pytest.raises(MCPConnectionError):
        session.send_request("echo")
    session.close()


# -- the row, by itself ----------------------------------------------------------------------------------------------


class _Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    found = _Clock()
    monkeypatch.setattr(restarting, "Deadline", lambda seconds: restarting_deadline(seconds, lambda: found.now))
    return found


restarting_deadline = restarting.Deadline


def test_pauses_double_up_to_a_cap(clock: _Clock) -> None:
    row = restarting.Row(Restart(attempts=9, delay=1.0), "calc")
    row.begin()
    pauses = []
    for _ in range(9):
        row.ended({"exit_status": 1, "lived": 0.0})
        pauses.append(row.pause())
        row.next()
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    row.ended({"exit_status": 1, "lived": 0.0})
    with pytest.raises(MCPConnectionError, match="ended 10 times in a row; max_restarts is 9"):
        row.pause()


def test_a_delay_beyond_the_cap_is_kept(clock: _Clock) -> None:
    row = restarting.Row(Restart(attempts=9, delay=45.0), "calc")
    row.begin()
    row.next()
    assert row.pause() == 45
    row.next()
    assert row.pause() == 45


def test_the_time_that_it_ran_is_part_of_the_pause(clock: _Clock) -> None:
    row = restarting.Row(Restart(attempts=9, delay=10.0), "calc")
    row.begin()
    row.next()
    clock.now += 4
    row.ended({"exit_status": 1, "lived": 4.0})
    assert row.pause() == 6


def test_a_minute_of_life_ends_a_row_and_a_minute_of_death_does_not(clock: _Clock) -> None:
    row = restarting.Row(Restart(attempts=1, delay=0), "calc")
    row.begin()
    row.next()
    clock.now += 100
    row.ended({"exit_status": 1, "lived": 59.0})
    with pytest.raises(MCPConnectionError, match="max_restarts is 1"):
        row.pause()
    row.ended({"exit_status": 1, "lived": 60.0})
    assert row.pause() == 0
    assert row.next() == 1


def test_the_last_cause_is_named_whatever_it_was(clock: _Clock) -> None:
    row = restarting.Row(Restart(attempts=0, delay=0), "calc")
    row.begin()
    for details, words in (
        ({"exit_status": -9, "lived": 1.0}, "killed by signal 9"),
        ({"exit_status": None}, "its exit status is not known"),
        ({"resource": "memory_mb", "limit": 512.0, "value": 612.34}, "memory_mb 612.3; the limit is 512"),
        ({"exit_status": 1, "stderr": ["no database"]}, "no database"),
    ):
        row.ended(details)
        with pytest.raises(MCPConnectionError, match=words):
            row.pause()


# -- events (T6) -----------------------------------------------------------------------------------------------------


def test_an_unexpected_end_is_an_error_event_and_an_expected_one_is_not() -> None:
    transport = server()
    kinds: list[str] = []
    life: list[str] = []
    events: list[Event] = []
    transport.on_error(lambda kind, data: kinds.append(f"{kind} {data['exit_status']}"))
    transport.on_lifecycle_event(lambda name, data: life.append(name))
    transport.observe(events.append)
    session = transport.create_session()
    session.close()
    session = transport.create_session()
    die(session)
    session.close()
    until(lambda: life.count("disconnected") == 2)
    assert kinds == ["connection_lost 3"]
    assert life.count("error") == 1
    assert sum(isinstance(event, Trouble) for event in events) == 1


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"max_restarts": -1}, ValueError),
        ({"max_restarts": True}, TypeError),
        ({"restart_delay": -1}, ValueError),
        ({"restart_delay": "1"}, TypeError),
        ({"max_restart": 1}, TypeError),
    ],
)
def test_bad_values_are_refused_at_once(knobs: dict[str, Any], problem: type[Exception]) -> None:
    with pytest.raises(problem, match="restart"):
        server(**knobs)
