"""Servers that do not want to end, and what they started: all dead after close(), within 5 s."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from faults.tools import command, gone, is_alive, manner, pid_of, reaped, serving, tool, until, within

from mcp_sync import Client, MCPError

STUBBORN = {
    "polite": manner("answer"),
    "ignores the end of stdin": manner("unkillable", term=False),
    "ignores SIGTERM": manner("unkillable", eof=False),
    "ignores both": manner("unkillable"),
    "stopped": manner("unkillable", stop=True),
    "stopped, and deaf to SIGTERM": manner("unkillable", term=False, stop=True),
    "busy": manner("unkillable", spin=True),
    "has closed its stdout": manner("mute"),
    "floods": manner("deaf_flood"),
}


@pytest.mark.parametrize("how", STUBBORN)
def test_after_close_the_server_is_dead_and_reaped(how: str) -> None:
    """I7: within shutdown_timeout, whatever it ignores."""
    with serving(work=STUBBORN[how], shutdown_timeout=0.6) as client:
        child = pid_of(client)
        with contextlib.suppress(MCPError):
            client.call_tool("work", timeout=0.5)
        with within(0.5 if how == "polite" else 0.6):
            client.close()
        assert reaped(child)


@pytest.mark.slow
def test_after_close_the_server_is_dead_within_five_seconds_as_it_comes() -> None:
    """I7: the default."""
    with serving(work=STUBBORN["ignores both"]) as client:
        child = pid_of(client)
        client.call_tool("work")
        with within(5.0):
            client.close()
        assert reaped(child)


KIN = {
    "one": {"count": 1},
    "many, deaf to SIGTERM": {"count": 5, "ignores": True},
}


@pytest.mark.parametrize("kin", KIN)
@pytest.mark.parametrize("end", ["we close", "it exits", "it is killed", "it ignores both"])
def test_what_a_server_started_goes_with_it(kin: str, end: str) -> None:
    """I7, B22: the whole group is killed, after a clean exit as well, and before the leader is reaped."""
    ways = {
        "it exits": manner("exit"),
        "it is killed": manner("killed"),
        "it ignores both": manner("unkillable"),
        "we close": manner("answer"),
    }
    with serving(beget=manner("parent", **KIN[kin]), work=ways[end], shutdown_timeout=0.6) as client:
        family = tool(client, "beget")["family"]
        assert len(family) == KIN[kin]["count"]
        assert all(map(is_alive, family))
        with contextlib.suppress(MCPError):
            client.call_tool("work")
        with within(1.0):
            client.close()
        assert gone(*family)


def test_a_descendant_in_a_session_of_its_own_escapes_and_does_not_delay_the_end() -> None:
    """I7: the stated limit (README): only its parent's group is ours to kill."""
    with serving(beget=manner("parent", escapes=True)) as client:
        (escaped,) = until(lambda: tool(client, "beget")["family"][:1])
        until(lambda: os.getsid(escaped) == escaped)
        with within(0.5):
            client.close()
        assert is_alive(escaped)
        os.kill(escaped, signal.SIGKILL)


def test_with_kill_tree_false_only_the_server_is_ended() -> None:
    """What the server meant to leave, stays."""
    with serving(beget=manner("parent"), kill_tree=False, shutdown_timeout=0.6) as client:
        child, (left,) = pid_of(client), tool(client, "beget")["family"]
        client.close()
        assert reaped(child)
        assert is_alive(left)
        os.kill(left, signal.SIGKILL)


def test_a_healthy_server_is_closed_in_half_a_second() -> None:
    """I7"""
    with serving() as client:
        with within(0.5):
            client.close()
        with within(0.05):
            client.close()


def test_a_server_whose_stderr_is_full_of_words_can_end() -> None:
    """I7: what it writes while it ends is drained, so it is not blocked on that."""
    knobs = {"shutdown_timeout": 2.0}
    client = Client(command(work=manner("babble", count=5_000_000_000)), timeout=20.0, **knobs).connect()
    child = pid_of(client)
    future = client.submit_tool("work")
    with within(2.0):
        client.close()
    assert reaped(child)
    assert future.exception(0) is not None
