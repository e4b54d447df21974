"""A server that does not read, and one that talks without end as well."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from faults.tools import (
    NOISE,
    PATIENCE,
    T,
    adds_up,
    growing_less_than,
    manner,
    pid_of,
    reaped,
    serving,
    talking,
    tells,
    tool,
    within,
    works,
)

from mcp_sync import MCPConnectionError, MCPTimeoutError
from mcp_sync.engine import channel
from mcp_sync.testing import in_threads

BIG = "y" * 3_000_000

DEAF = {"deaf": manner("deaf"), "deaf and flooding": manner("deaf_flood")}


@pytest.mark.parametrize("how", DEAF)
def test_a_big_call_to_a_deaf_server_ends_at_its_timeout_and_so_does_the_next(how: str) -> None:
    """I1, I2, I7, I8, B20: the timeout covers the write; memory is bounded; closing takes no 5 s."""
    with serving(work=DEAF[how], shutdown_timeout=1.0) as client:
        child = pid_of(client)
        tool(client, "work")
        with growing_less_than(150):
            with within(T + 0.1), pytest.raises(MCPTimeoutError) as found:
                client.call_tool("echo", {"x": BIG}, timeout=T)
            tells(found.value, "tools/call", "send", limit=T)
            assert "bytes written, the server reads no more" in str(found.value)
            assert found.value.may_have_run is None
            with within(T + 0.1), pytest.raises(MCPTimeoutError) as found:
                client.call_tool("echo", {"x": 1}, timeout=T)
            assert found.value.may_have_run is False  # of this one nothing was written
            assert client.submit_tool("echo", {"x": BIG}, timeout=T).exception(PATIENCE).__class__ is MCPTimeoutError
            adds_up(client.counters)
            with within(5.0):
                client.close()
        assert reaped(child)
        assert client.counters["timeout"] == 3


@pytest.mark.parametrize("how", DEAF)
def test_many_callers_of_a_deaf_server_all_keep_their_own_timeouts(how: str) -> None:
    """I1, I4: whoever waits for the one that writes waits no longer than its own timeout."""
    with serving(work=DEAF[how], shutdown_timeout=0.5) as client:
        tool(client, "work")

        def call(number: int) -> float:
            timeout = T if number else T * 4  # the first writes; or not, it is all the same
            began = time.monotonic()
            with pytest.raises(MCPTimeoutError):
                client.call_tool("echo", {"x": BIG if number < 2 else number}, timeout=timeout)
            return time.monotonic() - began - timeout

        with within(T * 4 + 0.1):
            overruns = in_threads(6, call)
        assert max(overruns) < 0.1 + NOISE * 2  # six threads and a flood on two processors


def test_the_timeout_covers_the_write_and_the_wait_together() -> None:
    """I1: most of it passes while writing, and the rest while nobody answers."""
    with serving(work=manner("deaf_for", seconds=T * 2), hold=manner("silent")) as client:
        tool(client, "work")
        with within(T * 2.5 + 0.1), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("hold", {"x": BIG}, timeout=T * 2.5)
        tells(found.value, "tools/call", "wait", limit=T * 2.5)


@pytest.mark.alone
def test_in_a_flood_each_of_many_short_calls_keeps_its_time() -> None:
    """I1: threads that hand the interpreter to each other do not make a third one starve."""
    with serving(work=DEAF["deaf and flooding"], shutdown_timeout=0.5) as client:
        tool(client, "work")
        with within(20 * 0.05 + 0.2):
            for _ in range(20):
                with pytest.raises(MCPTimeoutError):
                    client.call_tool("echo", timeout=0.05)


def test_in_a_flood_the_reader_gives_everybody_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: what the one above shows most of the time, for certain; where there is no flood it costs nothing."""
    turns: list[float] = []
    monkeypatch.setattr(channel, "time", SimpleNamespace(sleep=turns.append))
    with serving(work=manner("flood", count=5000, method="notifications/news")) as client:
        for _ in range(20):
            works(client)
        assert turns == []
        tool(client, "work")
    assert turns
    assert set(turns) == {0}


def test_a_slow_reader_does_not_make_others_wait_beyond_its_own_moment() -> None:
    """I4: a second thread gets its turn as soon as the first message is through."""
    with serving(work=manner("deaf_for", seconds=T)) as client:
        tool(client, "work")
        big = client.submit_tool  # writes on this thread
        with within(T + 1.0):
            future = big("echo", {"x": BIG})
            works(client)
            assert len(future.result(PATIENCE).text) > len(BIG)


def test_what_a_timeout_cut_in_two_is_finished_before_anything_else_is_written() -> None:
    """I3, I4, B20: no line is torn."""
    with talking(work=manner("deaf_for", seconds=T * 2)) as session:
        tool(session, "work")
        with within(T + 0.1), pytest.raises(MCPTimeoutError):
            tool(session, "echo", T, x=BIG)
        works(session)
        assert session.counters["timeout"] == 1
        assert session.counters["parse_errors"] == 0


@pytest.mark.parametrize("how", DEAF)
def test_closing_while_threads_write_to_a_deaf_server_releases_them_all(how: str) -> None:
    """I2, I7"""
    with serving(work=DEAF[how], shutdown_timeout=0.5) as client:
        tool(client, "work")
        started = threading.Barrier(5)

        def call(number: int) -> None:
            started.wait(PATIENCE)
            if number == 0:
                client.close()
                return
            with pytest.raises(MCPConnectionError, match="closed"):
                client.call_tool("echo", {"x": BIG})

        with within(0.5 + 0.5):
            in_threads(5, call)


def test_a_deaf_server_takes_what_the_pipe_holds_and_the_answer_is_waited_for() -> None:
    """I1: a small message fits into the pipe, so it is the wait that times out."""
    with serving(work=manner("deaf"), shutdown_timeout=0.3) as client:
        tool(client, "work")
        with within(T + 0.1), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("echo", timeout=T)
        tells(found.value, "tools/call", "wait", limit=T)
        assert found.value.may_have_run is None
