"""Floods: the result comes all the same, soon and in bounded memory, and the counters say what was dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from faults.tools import (
    ERAS,
    PATIENCE,
    adds_up,
    growing_less_than,
    manner,
    serving,
    talking,
    tool,
    until,
    within,
    works,
)

SECONDS = 2.0
MEGABYTES = 64


@contextmanager
def soon() -> Iterator[None]:
    """Check that the block takes no more than two seconds of our own, and no more than four on the clock."""
    began = time.process_time()
    with within(SECONDS * 2):
        yield
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("listening", ["nobody", "a callback", "a callback that hangs"])
def test_100_000_notifications(listening: str) -> None:
    """I4, I8, I13, I20: those beyond the backlog are dropped and counted, the rest come in order."""
    release, seen = threading.Event(), list[int]()

    def take(news: Any) -> None:
        seen.append(news.params["n"])
        if listening == "a callback that hangs":
            release.wait(PATIENCE)

    count = 100_000
    knobs: dict[str, Any] = {} if listening == "nobody" else {"on_notification": take}
    work = manner("flood", count=count, method="notifications/news")
    with serving(work=work, **knobs) as client, growing_less_than(MEGABYTES):
        with soon():
            assert tool(client, "work") == {"sent": count}
        works(client)
        counters = client.counters
        assert counters["notifications_received"] == count
        if listening == "a callback that hangs":
            assert counters["dropped_backlog"] >= count - 1001
            assert len(seen) == 1
        release.set()
        if listening != "nobody":
            until(lambda: len(seen) + client.counters["dropped_backlog"] == count)
            assert seen == sorted(seen)
        adds_up(client.counters)


@ERAS
def test_10_000_notices_of_changed_tools(era: str) -> None:
    """I8: they end in one thing to know, not in a request each."""
    work = manner("flood", count=10_000, method="notifications/tools/list_changed")
    with serving(era, work=work) as client, growing_less_than(MEGABYTES):
        with soon():
            tool(client, "work")
        works(client)
        assert client.counters["sent"] <= 4
        assert client.counters["notifications_received"] == 10_000


@pytest.mark.parametrize("method", ["sampling/createMessage", "ping", "no/such/method"])
def test_20_000_requests_of_the_server(method: str) -> None:
    """I4, I8, I20: answered or refused, never queued without bound."""
    count = 20_000
    with serving(work=manner("flood", count=count, method=method, ask=True)) as client, growing_less_than(MEGABYTES):
        with soon():
            assert tool(client, "work") == {"sent": count}
        works(client)
        assert client.counters["requests_received"] == count
        adds_up(client.counters)


def test_20_000_requests_while_each_callback_hangs() -> None:
    """I8: at most max_concurrent_callbacks run, the rest are refused at once."""
    release, running = threading.Event(), list[int]()

    def hang(params: Any) -> str:
        running.append(1)
        release.wait(PATIENCE)
        return "x"

    work = manner(
        "flood", count=20_000, method="sampling/createMessage", params={"messages": [], "maxTokens": 1}, ask=True
    )
    with serving(work=work, sampling=hang, max_concurrent_callbacks=4) as client, growing_less_than(MEGABYTES):
        with soon():
            tool(client, "work")
        works(client)
        assert len(running) == 4
        assert client.counters["requests_refused"] == 20_000 - 4
        release.set()


def test_in_the_stateless_era_requests_of_the_server_are_ignored() -> None:
    """I8: a server may not ask there, so nothing is answered at all."""
    work = manner("flood", count=20_000, method="ping", ask=True)
    with serving("stateless", work=work) as client, growing_less_than(MEGABYTES):
        with soon():
            tool(client, "work")
        assert client.counters["requests_refused"] == 20_000
        works(client)


@pytest.mark.parametrize("taker", ["none", "a function", "a function that hangs"])
def test_50_megabytes_of_stderr(taker: str) -> None:
    """I8, B26: stderr is always drained; what nobody takes in time is dropped."""
    release, lines = threading.Event(), list[int]()

    def take(line: str) -> None:
        lines.append(len(line))
        if taker == "a function that hangs":
            release.wait(PATIENCE)

    knobs: dict[str, Any] = {} if taker == "none" else {"stderr": take}
    work = manner("babble", count=50_000_000)
    with serving(work=work, **knobs) as client, growing_less_than(MEGABYTES):
        with soon():
            tool(client, "work")
        works(client)
        release.set()
    assert taker == "none" or lines


def test_progress_floods_nobody_but_the_one_who_asked() -> None:
    """I4, I8, I13"""
    seen: list[float] = []
    with serving(work=manner("progress", times=20_000, then=True)) as client, growing_less_than(MEGABYTES):
        with soon():
            client.call_tool("work", on_progress=lambda progress, *_: seen.append(progress))
        assert seen == sorted(seen)
        assert len(seen) + client.counters["dropped_backlog"] == 20_000
        works(client)


def test_noise_without_end_is_no_reason_to_wait_or_to_grow() -> None:
    """I4, I8: lines that are no messages."""
    with serving(work=manner("says", texts=[[("INFO x\n", 100_000)]])) as client, growing_less_than(MEGABYTES):
        with soon():
            assert tool(client, "work", a=1) == {"a": 1}
        assert client.counters["parse_errors"] == 100_000
        works(client)


def test_a_session_that_nobody_listens_to_keeps_a_thousand_messages_and_no_more() -> None:
    """I8, I13"""
    with talking(work=manner("flood", count=20_000, method="notifications/news")) as session:
        tool(session, "work")
        until(lambda: session.counters["dropped_backlog"] + session.dropped + 1000 == 20_000)
        kept = session.listen()
        assert [next(kept)["params"]["n"] for _ in range(1000)] == list(range(1000))


def test_single_messages_that_nobody_receives_stay_in_the_pipe() -> None:
    """I8: reading pauses; nothing is dropped."""
    from faults.tools import command

    from mcp_sync import StdioTransport

    work = manner("flood", count=20_000, method="notifications/news")
    transport = StdioTransport(command(work=work), timeout=PATIENCE, max_pending_messages=100)
    with growing_less_than(MEGABYTES), transport:
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "work"}})
        numbers = [transport.receive_message()["params"]["n"] for _ in range(20_000)]
        assert numbers == list(range(20_000))
        assert transport.receive_message()["id"] == 1
