"""How many times as long one piece of work takes as another, on a machine that others use, too.

Four times the work takes four times as long where the cost is linear, and sixteen times where it is quadratic. Whatever
else goes on makes work slower, never faster. So the two take turns, and of each the best time counts: no disturbance
hits every round, and no round makes up for a square.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FEWEST = 2  # rounds: if the only small one had been disturbed, the large one might take any time
ROUNDS = 8
ENOUGH = 10.0  # seconds: then no more rounds, for so long are only those of something quadratic; a test has a minute

Work = Callable[[], object]


def at_most(small: Work, large: Work, *, times: float, slack: float = 0.0) -> None:
    """Fail if the large work takes more than so many times as long as the small one, and `slack` seconds more."""
    __tracebackhide__ = True
    _compare(small, large, lambda few, many: many <= times * few + slack, f"at most {times:g} times and {slack:g} s")


def at_least(small: Work, large: Work, *, times: float) -> None:
    """Fail if the large work takes less than so many times as long as the small one."""
    __tracebackhide__ = True
    _compare(small, large, lambda few, many: many >= times * few, f"at least {times:g} times")


def seconds(work: Work) -> float:
    """Return the processor time that this thread spends on it, without that of the garbage collector.

    The collector looks at whatever is in this process, so what it takes depends on all the tests before.
    """
    with _nothing_collected():
        began = time.thread_time()
        work()
        return time.thread_time() - began


def _compare(small: Work, large: Work, fits: Callable[[float, float], bool], claim: str) -> None:
    __tracebackhide__ = True
    few = many = math.inf
    spent, done = 0.0, 0
    while done < FEWEST or (done < ROUNDS and not fits(few, many)):
        took = seconds(small), seconds(large)
        few, many = min(few, took[0]), min(many, took[1])
        spent, done = spent + sum(took), done + 1
        if spent > ENOUGH:
            break
    if not fits(few, many):
        raise AssertionError(f"{many:.4f} s are {many / few:.1f} times {few:.4f} s, not {claim}: the best of {done}")


@contextmanager
def _nothing_collected() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
