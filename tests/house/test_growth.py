"""The comparison of times tells linear from quadratic, whatever else the machine does."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from house import growth

LATER = 100  # rounds: more than there are


class Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, *took: float) -> Callable[[], None]:
        """Make work that takes so many seconds: each time the next of them, and then always the last."""
        left = list(took)

        def work() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(growth, "time", SimpleNamespace(thread_time=lambda: clock.now))
    return clock


def test_linear_work_passes_after_two_rounds(clock: Clock) -> None:
    growth.at_most(clock.work(0.1), clock.work(0.4), times=6)
    assert clock.now == pytest.approx(2 * 0.5)


def test_linear_work_passes_though_its_first_rounds_were_disturbed(clock: Clock) -> None:
    growth.at_most(clock.work(0.1), clock.work(0.9, 0.8, 0.7, 0.4), times=6)
    assert clock.now == pytest.approx(4 * 0.1 + 2.8)


def test_quadratic_work_fails_in_the_last_round_with_its_best_times(clock: Clock) -> None:
    with pytest.raises(AssertionError) as found:
        growth.at_most(clock.work(0.03, 0.02), clock.work(0.4, 0.32), times=6, slack=0.02)
    assert str(found.value) == "0.3200 s are 16.0 times 0.0200 s, not at most 6 times and 0.02 s: the best of 8"


@pytest.mark.parametrize("disturbed", range(growth.ROUNDS))
def test_quadratic_work_fails_though_one_round_of_the_small_was_disturbed(clock: Clock, disturbed: int) -> None:
    small = [0.02] * LATER
    small[disturbed] = 1.0
    with pytest.raises(AssertionError):
        growth.at_most(clock.work(*small), clock.work(0.32), times=6, slack=0.02)


def test_something_quadratic_that_takes_very_long_fails_without_being_repeated(clock: Clock) -> None:
    with pytest.raises(AssertionError, match="the best of 1$"):
        growth.at_most(clock.work(1.0), clock.work(16.0), times=6)
    assert clock.now == 17.0


def test_something_linear_that_takes_very_long_passes(clock: Clock) -> None:
    growth.at_most(clock.work(5.0), clock.work(20.0), times=6)
    assert clock.now == 25.0


def test_what_is_said_to_be_slow_passes_as_soon_as_the_small_work_is_undisturbed(clock: Clock) -> None:
    growth.at_least(clock.work(0.1, 0.1, 0.02), clock.work(0.32), times=7)
    assert clock.now == pytest.approx(0.22 + 3 * 0.32)


def test_what_is_said_to_be_slow_and_is_not_fails(clock: Clock) -> None:
    with pytest.raises(AssertionError, match=r"4\.0 times 0\.1000 s, not at least 7 times: the best of 8$"):
        growth.at_least(clock.work(0.1), clock.work(0.4), times=7)


def linear(size: int) -> Callable[[], object]:
    return lambda: sum(range(size * 500))


def quadratic(size: int) -> Callable[[], object]:
    return lambda: [sum(range(size)) for _ in range(size)]


@pytest.mark.alone
def test_by_the_real_clock_linear_and_quadratic_are_told_apart() -> None:
    growth.at_most(linear(400), linear(1600), times=6)
    growth.at_least(quadratic(400), quadratic(1600), times=6)
    with pytest.raises(AssertionError):
        growth.at_most(quadratic(400), quadratic(1600), times=6)
    with pytest.raises(AssertionError):
        growth.at_least(linear(400), linear(1600), times=6)


def test_only_the_work_of_this_thread_counts_and_waiting_is_none() -> None:
    assert growth.seconds(lambda: threading.Event().wait(0.2)) < 0.1


def test_while_something_is_measured_nothing_is_collected_and_then_it_is_again() -> None:
    seen: list[bool] = []
    growth.seconds(lambda: seen.append(gc.isenabled()))
    assert seen == [False]
    assert gc.isenabled()


def test_work_that_raises_does_not_leave_the_collector_off() -> None:
    with pytest.raises(ZeroDivisionError):
        growth.seconds(lambda: 1 / 0)
    assert gc.isenabled()
