"""A server that does not begin as it should: a typed error with its cause, in one timeout, and the process reaped."""

from __future__ import annotations

import time
from typing import Any

import pytest
from faults.tools import ERAS, PATIENCE, T, command, manner, reaped, serving, tells, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError, StdioTransport
from mcp_sync.observe import ProcessStarted

GARBAGE = manner("says", texts=['{"jsonrpc": "2.0", "id": $ID, "result": {]}\n'], then=False)
SILENT = manner("silent")
OTHER = manner("version")

# What the server does when it is asked to begin; and what comes of it: an error, words in its text, or None.
BEGINNINGS: dict[str, tuple[str, dict[str, Any], type[MCPError] | None, str]] = {
    "it never answers anything": (
        "handshake",
        {"server/discover": SILENT, "initialize": SILENT},
        MCPTimeoutError,
        "initialize",
    ),
    "it never answers initialize": ("handshake", {"initialize": SILENT}, MCPTimeoutError, "initialize"),
    "it is silent on the probe only": ("handshake", {"server/discover": SILENT}, None, ""),
    "it stalls in the middle of the probe's answer": (
        "stateless",
        {"server/discover": manner("stall"), "initialize": SILENT},
        MCPTimeoutError,
        "initialize",
    ),
    "it answers with garbage": ("handshake", {"initialize": GARBAGE}, RemoteProtocolError, "unreadable"),
    "it answers the probe with garbage, too": (
        "stateless",
        {"server/discover": GARBAGE, "initialize": GARBAGE},
        RemoteProtocolError,
        "unreadable",
    ),
    "it talks, but not to us": (
        "handshake",
        {
            "server/discover": manner("says", texts=["hello\n"], then=False),
            "initialize": manner("says", texts=["ready\n"], then=False),
        },
        MCPTimeoutError,
        "ready",
    ),
    "it answers with an error": (
        "handshake",
        {"initialize": manner("refuse", code=-32000, message="not today")},
        MCPConnectionError,
        "not today",
    ),
    "it dies": ("handshake", {"initialize": manner("exit", code=3)}, MCPConnectionError, "exit status 3"),
    "it dies of the probe": ("stateless", {"server/discover": manner("killed")}, MCPConnectionError, "SIGKILL"),
    "it closes its stdout": ("handshake", {"server/discover": manner("mute")}, MCPConnectionError, "stdout"),
    "it speaks another version": ("handshake", {"initialize": OTHER}, RemoteProtocolError, "2099-01-01"),
    "it offers another version": ("stateless", {"server/discover": OTHER}, RemoteProtocolError, "2099-01-01"),
    "it answers without end": (
        "handshake",
        {"server/discover": manner("endless", text="x")},
        MCPError,
        "16777216",
    ),
}
AT_ONCE = 0.5


@pytest.mark.parametrize("how", BEGINNINGS)
def test_a_bad_beginning_is_a_typed_error_in_one_timeout_and_the_process_is_reaped(how: str) -> None:
    """I1, I6, I7: probe and fallback share one T; the leak check sees to the process."""
    era, on, kind, says = BEGINNINGS[how]
    limit = T * 2 if kind else T * 4  # where it comes to a connection, the process has to start in time
    transport = StdioTransport(command(era, **on), shutdown_timeout=0.3)
    events: list[Any] = []
    transport.observe(events.append)
    client = Client(transport, timeout=limit)
    with within(limit + 0.1):
        if kind is None:
            client.connect()
            works(client)
        else:
            with pytest.raises(kind, match=says) as found:
                client.connect()
            assert found.value.may_have_run is False
            assert found.value.details["phase"] == "connect"
    client.close()
    (started,) = until(lambda: [event for event in events if isinstance(event, ProcessStarted)])
    until(lambda: reaped(started.pid), 2.0)


@pytest.mark.parametrize("how", [how for how in BEGINNINGS if BEGINNINGS[how][2] not in (None, MCPTimeoutError)])
def test_what_is_known_at_once_is_said_at_once(how: str) -> None:
    """I5: a failed beginning does not wait for its timeout. The clock starts when the process has."""
    era, on, kind, says = BEGINNINGS[how]
    client = Client(command(era, **on), timeout=PATIENCE, shutdown_timeout=0.3)
    with within(AT_ONCE + 0.3), pytest.raises(kind or MCPError, match=says):
        client.connect()
    client.close()


@ERAS
def test_a_beginning_that_is_answered_twice_is_one_beginning(era: str) -> None:
    """I2, I3, I20: the second answer is dropped and counted."""
    twice = '{"jsonrpc": "2.0", "id": $ID, "result": %s}\n'
    results = {
        "handshake": '{"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x"}}',
        "stateless": '{"supportedVersions": ["2026-07-28"], "capabilities": {}}',
    }
    texts = [twice % results[era]] * 2
    method = {"handshake": "initialize", "stateless": "server/discover"}[era]
    with serving(era, **{method: manner("says", texts=texts, then=False)}) as client:
        works(client)
        assert client.counters["dropped_late"] == 1


def test_an_answer_to_the_probe_that_comes_after_the_fallback_is_dropped() -> None:
    """I3: the server that was slow to wake up is not taken for one of the other era."""
    late = manner("refuse")
    slow = [manner("later", texts=['{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32601, "message": "x"}}\n'])]
    assert late
    slow[0][1]["seconds"] = T * 1.5
    with serving(timeout=T * 3, **{"server/discover": slow[0]}) as client:
        assert client.protocol_version == "2025-11-25"
        until(lambda: client.counters["dropped_late"] == 1)
        works(client)


def test_a_server_that_answers_nothing_after_the_beginning_times_out_call_by_call() -> None:
    """I1: it stalls right after discover."""
    with serving("stateless", on={"tools/call": manner("silent"), "tools/list": manner("silent")}) as client:
        for _ in range(2):
            with within(T + 0.1), pytest.raises(MCPTimeoutError) as found:
                client.list_tools(timeout=T)
            tells(found.value, "tools/list", "wait", limit=T)


@pytest.mark.parametrize("facade", ["session", "transport"])
def test_the_same_holds_without_a_client(facade: str) -> None:
    """I1, I7"""
    transport = StdioTransport(
        command(**{"initialize": SILENT, "server/discover": SILENT}), timeout=T, shutdown_timeout=0.3
    )
    if facade == "session":
        with within(T + 0.1), pytest.raises(MCPTimeoutError) as found:
            transport.create_session()
        assert found.value.details["phase"] == "connect"
        return
    with transport, within(T + 0.1), pytest.raises(MCPTimeoutError) as found:
        transport.create_session()
    assert not transport.connected


def test_what_a_failed_beginning_leaves_is_a_client_that_may_try_again() -> None:
    """I16: usable or closed, never half."""
    client = Client(command(initialize=SILENT), timeout=T, shutdown_timeout=0.3)
    for _ in range(3):
        began = time.monotonic()
        with within(T + 0.1), pytest.raises(MCPTimeoutError):
            client.call_tool("echo")
        assert time.monotonic() - began >= T * 0.9
        assert not client.connected
    client.close()
    with within(0.1), pytest.raises(MCPConnectionError, match="closed"):
        client.call_tool("echo")
