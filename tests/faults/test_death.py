"""A server that dies, in eight ways and at several moments: the error says how, soon, and nothing is left."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from faults.tools import ERAS, PATIENCE, T, adds_up, manner, pid_of, reaped, serving, tells, tool, until, within, works

from mcp_sync import Client, MCPConnectionError

NOW = 0.5

DEATHS: dict[str, tuple[Any, str, int | None]] = {
    "killed": (manner("killed"), "killed by signal 9 (SIGKILL)", -9),
    "crashed": (manner("killed", number=int(signal.SIGSEGV)), "killed by signal 11 (SIGSEGV)", -11),
    "exit 0": (manner("exit", code=0), "exit status 0", 0),
    "exit 1": (manner("exit", code=1), "exit status 1", 1),
    "stdout closed, but alive": (manner("mute"), "closed its stdout, though it is still running", None),
    "half a line": (
        manner("exit", code=4, text='{"jsonrpc": "2.0", "id": $ID, "result": {"con'),
        "exit status 4",
        4,
    ),
    "a grandchild holds the pipes": (manner("orphaning", code=5), "exit status 5", 5),
    "a stubborn grandchild holds the pipes": (manner("orphaning", code=5, ignores=True), "exit status 5", 5),
}


@ERAS
@pytest.mark.parametrize("death", DEATHS)
def test_death_in_a_call_is_told_at_once_with_its_cause(death: str, era: str) -> None:
    """I2, I5, I6, B22: MCPConnectionError within 0.5 s, with the exit status and the end of stderr."""
    how, says, status = DEATHS[death]
    with serving(era, work=how, shutdown_timeout=0.5) as client:
        child = pid_of(client)
        with within(NOW), pytest.raises(MCPConnectionError, match="tools/call") as found:
            client.call_tool("work")
        error = found.value
        assert says in str(error)
        assert "last words" in str(error)
        assert error.details["stderr"] == ["last words"]
        assert error.details.get("exit_status") == status
        assert error.may_have_run is None
        tells(error, "tools/call", "wait")
        adds_up(client.counters)
        with within(0.1), pytest.raises(MCPConnectionError) as found:
            client.call_tool("echo")
        assert says in str(found.value)
        assert found.value.may_have_run is False
        client.close()
        assert reaped(child)


@pytest.mark.parametrize("code", [0, 7])
def test_a_whole_last_line_without_its_newline_is_the_result(code: int) -> None:
    """I5: a server that says all it has to say, and goes, has answered."""
    text = '{"jsonrpc": "2.0", "id": $ID, "result": {"content": [{"type": "text", "text": "1"}]}}'
    with serving(work=manner("exit", code=code, text=text)) as client:
        with within(NOW):
            assert tool(client, "work") == 1
        with pytest.raises(MCPConnectionError, match=f"exit status {code}"):
            client.call_tool("echo")


def test_death_in_the_middle_of_a_big_write_is_told_with_its_cause() -> None:
    """I6, B20: what the writer notices first is a broken pipe; what it raises is why."""
    with serving(dies_at=300_000) as client:
        with within(NOW), pytest.raises(MCPConnectionError, match="SIGKILL") as found:
            client.call_tool("work", {"x": "y" * 5_000_000})
        assert found.value.details["stderr"] == ["last words"]
        assert found.value.details["exit_status"] == -9
        assert found.value.may_have_run is None
        adds_up(client.counters)


def test_death_fails_every_call_in_flight_once_each_with_an_error_of_its_own() -> None:
    """I2, I6, I20"""
    with serving(hold=manner("silent"), work=manner("exit", code=3)) as client:
        futures = [client.submit_tool("hold") for _ in range(20)]
        ended: list[Any] = []
        for future in futures:
            future.add_done_callback(ended.append)
        with within(NOW), pytest.raises(MCPConnectionError):
            client.call_tool("work")
        errors = [future.exception(PATIENCE) for future in futures]
        assert {type(error) for error in errors} == {MCPConnectionError}
        assert len({id(error) for error in errors}) == 20
        assert all("exit status 3" in str(error) for error in errors)
        client.close()
        assert len(ended) == 20
        assert client.counters["error"] >= 21


def test_between_two_calls_death_is_found_out_by_the_next_and_connect_dials_anew() -> None:
    """I3, I4: a dead connection stays dead, and what the next one answers is its own."""
    with serving(work=manner("answer"), on={"bye": manner("answer")}) as client:
        works(client)
        first = pid_of(client)
        import os

        os.kill(first, signal.SIGKILL)
        until(lambda: not client.connected)
        with within(0.1), pytest.raises(MCPConnectionError, match="SIGKILL") as found:
            client.call_tool("echo")
        assert found.value.may_have_run is False
        assert reaped(first) or until(lambda: reaped(first))
        client.connect()
        assert pid_of(client) != first
        works(client)


def test_death_while_another_thread_holds_the_future_only() -> None:
    """I2: nobody waits; the future is resolved all the same."""
    with serving(hold=manner("silent"), work=manner("exit", code=0)) as client:
        future = client.submit_tool("hold", timeout=PATIENCE)
        gone = client.submit_tool("work", timeout=T)
        with within(NOW):
            assert isinstance(gone.exception(PATIENCE), MCPConnectionError)
            assert isinstance(future.exception(PATIENCE), MCPConnectionError)


def test_a_client_that_was_never_connected_has_nothing_to_close() -> None:
    """I7"""
    client = Client(["no-such-program-anywhere"])
    with within(0.1):
        client.close()
        client.close()
