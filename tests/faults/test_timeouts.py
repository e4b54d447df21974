"""Calls that run out of time: when they end, what the server is told, and what comes too late."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest
from faults.tools import (
    ERAS,
    PATIENCE,
    T,
    adds_up,
    command,
    manner,
    noted,
    serving,
    talking,
    tells,
    tool,
    until,
    within,
    works,
)

from mcp_sync import Client, JSONRPCError, MCPError, MCPTimeoutError
from mcp_sync.testing import in_threads

SLOW = {
    "no reply": manner("silent"),
    "a stall in the middle of the answer": manner("stall"),
    "one byte at a time": manner("drip"),
    "an answer that comes late": manner("answer", seconds=T * 2),
    "progress without end": manner("progress", times=2000, seconds=0.002),
    "a flood of progress": manner("progress", times=20_000),
}
TORN = ("a stall in the middle of the answer", "one byte at a time")  # of which the next answer becomes a part


BOTH = [(how, "handshake") for how in SLOW] + [("no reply", "stateless"), ("progress without end", "stateless")]


@pytest.mark.parametrize(("how", "era"), BOTH)
def test_a_call_ends_at_its_timeout_and_the_server_is_told_once(how: str, era: str, tmp_path: Path) -> None:
    """I1, I2, I6, I20: progress extends nothing, and there is exactly one notifications/cancelled."""
    log = tmp_path / "log"
    seen: list[float] = []
    with serving(era, work=SLOW[how], log=log) as client:
        with within(T + 0.1), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("work", timeout=T, on_progress=lambda progress, *_: seen.append(progress))
        tells(found.value, "tools/call", "wait", limit=T)
        assert isinstance(found.value, TimeoutError)
        assert T <= found.value.details["elapsed"] < T + 5
        assert found.value.may_have_run is None
        until(lambda: noted(log, "notifications/cancelled"))
        if how not in TORN:
            works(client)
        adds_up(client.counters)
        assert client.counters["timeout"] == 1
    call = noted(log, "tools/call")[0]
    assert noted(log, "notifications/cancelled") == [call]
    assert seen == sorted(seen)
    if "progress" in how:
        assert seen


@ERAS
def test_a_late_reply_is_dropped_and_counted(era: str) -> None:
    """I2, I3, I20: nobody gets it, not even the next caller."""
    with serving(era, work=manner("answer", seconds=T + 0.2, late=True)) as client:
        with pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=T)
        assert client.counters["dropped_late"] == 0
        works(client)
        until(lambda: client.counters["dropped_late"] == 1)
        works(client)
        assert client.counters["dropped_unknown"] == 0


def test_an_answer_that_drips_but_comes_in_time_is_a_result() -> None:
    """I1: bytes are no reason for anything, only the deadline is."""
    with serving(work=manner("drip", seconds=0.0005, rest=True)) as client:
        assert "drip" in tool(client, "work")


def test_a_slow_call_harms_no_other(tmp_path: Path) -> None:
    """I4: each call has a deadline of its own."""
    with serving(work=manner("silent"), log=tmp_path / "log") as client:
        slow = [client.submit_tool("work", timeout=T + n / 10) for n in range(3)]
        for _ in range(50):
            with within(0.2):
                works(client)
        with within(T + 0.3):
            errors = [future.exception(PATIENCE) for future in slow]
        assert {type(error) for error in errors} == {MCPTimeoutError}
        until(lambda: len(noted(tmp_path / "log", "notifications/cancelled")) == 3)


def test_every_way_to_wait_ends_at_the_timeout() -> None:
    """I1, I2: call, future, request, session, stream, ping."""
    quiet = manner("silent")
    with serving(work=quiet, on={"ping": quiet, "tools/list": quiet, "prompts/list": quiet}) as client:
        ways = {
            "call_tool": lambda: client.call_tool("work", timeout=T),
            "request": lambda: client.request("tools/list", timeout=T),
            "list_tools": lambda: client.list_tools(timeout=T),
            "ping": lambda: client.ping(timeout=T),
            "future": lambda: client.submit_tool("work", timeout=T).result(),
            "list_prompts": lambda: client.list_prompts(timeout=T),
        }

        def work(number: int) -> None:
            with pytest.raises(MCPTimeoutError):
                list(ways.values())[number]()

        with within(T + 0.1):
            in_threads(len(ways), work)
    with talking(work=quiet) as session:
        params = {"name": "work"}
        with within(T + 0.1), pytest.raises(MCPTimeoutError):
            session.send_request("tools/call", params, T)
        with within(T + 0.1), pytest.raises(MCPTimeoutError):
            list(session.send_streaming_request("tools/call", params, T))


def test_a_callback_that_hangs_delays_the_call_to_its_timeout_and_no_longer() -> None:
    """I1: in the middle of a progress callback."""
    release = threading.Event()
    with serving(work=manner("progress", times=3, then=True)) as client:
        with within(T + 0.1), contextlib.suppress(MCPTimeoutError):
            client.call_tool("work", timeout=T, on_progress=lambda *_: release.wait(PATIENCE))
        release.set()
        works(client)


def test_a_callback_for_the_server_that_hangs_does_not_delay_other_calls() -> None:
    """I4, B31"""
    release = threading.Event()
    work = manner("asks", method="sampling/createMessage", params={"messages": [], "maxTokens": 1})
    with serving(work=work, sampling=lambda _: release.wait(PATIENCE) and "x") as client:
        future = client.submit_tool("work", timeout=PATIENCE)
        for _ in range(20):
            with within(0.2):
                works(client)
        release.set()
        assert "assistant" in future.result(PATIENCE).text


def test_a_lock_that_another_caller_holds_is_waited_for_no_longer_than_the_timeout() -> None:
    """I1: many threads that connect by their first call, to a server that says nothing."""
    client = Client(command(initialize=manner("silent")), timeout=T, shutdown_timeout=0.3)
    took: list[float] = []

    def call() -> None:
        began = time.monotonic()
        with pytest.raises(MCPError):
            client.call_tool("echo", timeout=T)
        took.append(time.monotonic() - began)

    with within(T + 0.5):
        in_threads(8, lambda _: call())
    client.close()
    assert len(took) == 8


@pytest.mark.parametrize("how", ["initialize", "server/discover"])
def test_what_begins_a_conversation_is_never_cancelled(how: str, tmp_path: Path) -> None:
    """I2: the specification forbids it for initialize, and a probe is just dropped."""
    log = tmp_path / "log"
    client = Client(command(log=log, **{how: manner("silent")}), timeout=T * 2, shutdown_timeout=1.0)
    if how == "initialize":
        with within(T * 2 + 0.1), pytest.raises(MCPTimeoutError):
            client.connect()
    else:
        with within(T * 2):
            client.connect()
        works(client)
    client.close()
    assert noted(log, how)
    assert noted(log, "notifications/cancelled") == []


def test_an_error_is_an_answer_and_no_reason_to_cancel(tmp_path: Path) -> None:
    """I6, I20"""
    log = tmp_path / "log"
    with serving(work=manner("refuse", code=-32050, message="no"), log=log) as client:
        with within(0.2), pytest.raises(JSONRPCError, match="-32050") as found:
            client.call_tool("work")
        tells(found.value, "tools/call", "wait")
        assert found.value.may_have_run is True
        works(client)
    assert noted(log, "notifications/cancelled") == []


def test_a_thousand_timeouts_leave_nothing_behind() -> None:
    """I8, I20"""
    with serving(work=manner("silent")) as client:
        futures = [client.submit_tool("work", timeout=T + n / 5000) for n in range(1000)]
        with within(T + 1.0):
            assert {type(future.exception(PATIENCE)) for future in futures} == {MCPTimeoutError}
        assert client.counters["timeout"] == 1000
        assert client.counters["pending"] == 0
        works(client)
