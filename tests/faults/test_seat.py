"""Ctrl-C at any moment, while the main thread reads for itself and others do, too (trap 14)."""

from __future__ import annotations

import random
import signal
import threading
from typing import Any

import pytest
from faults.tools import ERAS, PATIENCE, adds_up, talking, tool, until


def raise_interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@ERAS
@pytest.mark.parametrize("interrupts", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_interrupts_at_any_moment_cost_nobody_else_an_answer(era: str, interrupts: int) -> None:
    """I2, I16, I20: the main thread is interrupted again and again; the others lose nothing, nor does it afterwards."""
    with talking(era) as session:
        stop = threading.Event()
        done = [0] * 3
        failed: list[BaseException] = []

        def work(thread: int) -> None:
            try:
                while not stop.is_set():
                    assert tool(session, "echo", PATIENCE, a=[thread, done[thread]]) == {"a": [thread, done[thread]]}
                    done[thread] += 1
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        assert interrupt_calls(session, interrupts) == interrupts
        so_far = list(done)
        until(lambda: failed or all(now > before for now, before in zip(done, so_far, strict=True)))
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not failed
        assert tool(session, "echo", PATIENCE, a="after") == {"a": "after"}
        assert session.counters["pending"] == 0
        adds_up(session.counters)


def interrupt_calls(session: Any, times: int) -> int:
    """Call on this thread, and interrupt it so often at moments that differ; return how often it was."""
    chance = random.Random(7)
    before = signal.signal(signal.SIGALRM, raise_interrupt)
    interrupted = 0
    try:
        while interrupted < times:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + chance.random() * 0.003)
                while True:
                    tool(session, "echo", PATIENCE, a=interrupted)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return interrupted
