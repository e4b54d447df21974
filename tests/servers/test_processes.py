"""The processes of others' servers: how they end, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers.others import PATIENCE, Inbox, Server, is_gone

from mcp_sync import Client, MCPConnectionError

pytestmark = pytest.mark.interop

NAMES = ["fastmcp", "everything", "filesystem", "memory"]
ANY_CALL = {
    "fastmcp": ("add", {"a": 1, "b": 2}),
    "everything": ("echo", {"message": "hi"}),
    "filesystem": ("list_allowed_directories", {}),
    "memory": ("read_graph", {}),
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(name: str, tmp_path: Path) -> Server:
    args = [tmp_path] if name == "filesystem" else []
    return Server(name, *args, env={"MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")})


def test_a_server_whose_stdin_ends_goes_by_itself_and_leaves_nothing(name: str, server: Server) -> None:
    tool, arguments = ANY_CALL[name]
    with server.client() as client:
        assert not client.call_tool(tool, arguments).is_error
        assert not is_gone(server.pid)
    assert server.ends.next() == 0
    assert is_gone(server.pid)


def test_a_server_that_is_killed_in_a_call_fails_that_call_and_can_be_started_anew(name: str, server: Server) -> None:
    tool, arguments = ANY_CALL[name]
    with server.client() as client:
        client.connect()
        first = server.pid
        os.kill(first, signal.SIGSTOP)  # so that it surely does not answer before
        calls = [client.submit_tool(tool, arguments) for _ in range(3)]
        os.kill(first, signal.SIGKILL)
        for call in calls:
            with pytest.raises(MCPConnectionError) as caught:
                call.result(PATIENCE)
            assert caught.value.may_have_run is None
            assert caught.value.details["exit_status"] == -signal.SIGKILL
        assert server.ends.next() == -signal.SIGKILL
        assert not client.connected
        with pytest.raises(MCPConnectionError) as late:
            client.call_tool(tool, arguments)
        assert late.value.may_have_run is False

        client.connect()
        assert not client.call_tool(tool, arguments).is_error
        assert len(server.pids) == 2
        assert is_gone(first)
    assert is_gone(server.pid)


def test_a_server_that_is_killed_while_it_reports_progress_breaks_the_call_off() -> None:
    server, reports = Server("everything"), Inbox()
    with server.client() as client:
        endless = {"duration": 60, "steps": 600}
        call = client.submit_tool("trigger-long-running-operation", endless, on_progress=lambda *now: reports.put(now))
        reports.next()
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(MCPConnectionError, match="SIGKILL|signal 9|-9"):
            call.result(PATIENCE)


def test_a_subscription_to_a_server_that_is_killed_breaks_off(tmp_path: Path) -> None:
    server = Server("memory", env={"MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")})
    with server.client() as client, client.listen(resource_subscriptions=["memory://knowledge-graph"]) as news:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(MCPConnectionError, match="broke off"):
            news.next(PATIENCE)


def test_a_server_with_timers_ignores_the_end_of_its_stdin_and_is_ended_by_a_signal() -> None:
    server = Server("everything", shutdown_timeout=1.5)
    with server.client() as client:
        client.call_tool("toggle-simulated-logging")  # every five seconds from now on
    assert server.ends.next() == -signal.SIGTERM
    assert is_gone(server.pid)


def test_a_call_in_flight_does_not_hold_up_the_end(journal: Callable[[], str], tmp_path: Path) -> None:
    server = Server("fastmcp", env={"PEER_JOURNAL": str(tmp_path / "journal")})
    with server.client() as client:
        call = client.submit_tool("slow", {"seconds": 600})
        assert journal() == "started slow"
    with pytest.raises(MCPConnectionError, match="closed"):
        call.result(0)
    server.ends.next()
    assert is_gone(server.pid)


def test_all_servers_may_be_talked_to_at_once(tmp_path: Path) -> None:
    servers: dict[str, Server] = {
        name: Server(name, *([tmp_path] if name == "filesystem" else []), env={"MEMORY_FILE_PATH": str(tmp_path / "m")})
        for name in NAMES
    }
    clients: dict[str, Client] = {name: server.client() for name, server in servers.items()}
    try:
        results: list[Any] = []
        for _ in range(2):
            calls = [client.submit_tool(*ANY_CALL[name]) for name, client in clients.items()]
            results += [call.result(PATIENCE) for call in calls]
        assert not any(result.is_error for result in results)
    finally:
        for client in clients.values():
            client.close()
    assert all(is_gone(server.pid) for server in servers.values())
