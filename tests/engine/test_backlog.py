"""What waits is bounded in items and in bytes, and what is refused is counted."""

from __future__ import annotations

import queue

import pytest

from mcp_sync.engine.backlog import Backlog


def test_items_come_out_in_the_order_they_went_in() -> None:
    backlog: Backlog[int] = Backlog()
    assert all(backlog.offer(n) for n in range(3))
    backlog.put(3)
    assert [backlog.get() for _ in range(4)] == [0, 1, 2, 3]
    assert backlog.empty()
    with pytest.raises(queue.Empty):
        backlog.get(timeout=0.01)


def test_beyond_so_many_items_it_says_no_and_counts() -> None:
    backlog: Backlog[int] = Backlog(items=2)
    assert [backlog.offer(n) for n in range(4)] == [True, True, False, False]
    assert backlog.dropped == 2
    backlog.get()
    assert backlog.offer(9)


def test_beyond_so_many_bytes_it_says_no() -> None:
    backlog: Backlog[str] = Backlog(size=100)
    assert [backlog.offer("x", 60), backlog.offer("y", 60), backlog.offer("z", 40)] == [True, False, True]
    backlog.get()
    assert backlog.offer("y", 60)


def test_one_item_is_taken_however_large() -> None:
    backlog: Backlog[str] = Backlog(size=100)
    assert backlog.offer("x", 1000)
    assert not backlog.offer("y", 1)


def test_an_answer_or_the_end_is_always_taken() -> None:
    backlog: Backlog[str] = Backlog(items=0)
    backlog.put("the end")
    assert backlog.get() == "the end"
