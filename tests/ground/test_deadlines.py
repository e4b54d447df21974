"""One point in time, on a clock that the test turns."""

from __future__ import annotations

import math
import threading

import pytest

from mcp_sync.deadlines import DEFAULT_TIMEOUT, LONGEST_TIMEOUT, Deadline, as_timeout


class Clock:
    """A clock that stands still until somebody turns it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_and_what_has_passed_add_up_to_the_limit() -> None:
    clock = Clock()
    deadline = Deadline(10.0, clock)
    assert (deadline.remaining, deadline.elapsed, deadline.expired) == (10.0, 0.0, False)
    clock.now += 4.0
    assert (deadline.remaining, deadline.elapsed, deadline.expired) == (6.0, 4.0, False)


def test_a_deadline_has_expired_at_its_very_point_in_time() -> None:
    clock = Clock()
    deadline = Deadline(10.0, clock)
    clock.now = deadline.at
    assert (deadline.remaining, deadline.expired) == (0.0, True)


def test_past_the_deadline_nothing_is_left_and_time_goes_on() -> None:
    clock = Clock()
    deadline = Deadline(10.0, clock)
    clock.now += 15.0
    assert (deadline.remaining, deadline.elapsed, deadline.limit) == (0.0, 15.0, 10.0)


def test_a_deadline_of_no_seconds_has_expired_when_it_is_made() -> None:
    assert Deadline(0.0, Clock()).expired


@pytest.mark.parametrize(
    ("passed", "wanted", "given"),
    [(0.0, 3.0, 3.0), (0.0, 30.0, 10.0), (9.0, 3.0, 1.0), (11.0, 3.0, 0.0)],
    ids=["sooner", "not later", "what is left", "nothing left"],
)
def test_a_sooner_deadline_is_never_later_than_the_one_it_is_made_of(
    passed: float, wanted: float, given: float
) -> None:
    clock = Clock()
    whole = Deadline(10.0, clock)
    clock.now += passed
    part = whole.sooner(wanted)
    assert part.limit == given
    clock.now += given
    assert part.expired


def test_a_deadline_shows_what_is_left_of_what() -> None:
    clock = Clock()
    deadline = Deadline(10.0, clock)
    clock.now += 0.5
    assert repr(deadline) == "<Deadline 9.500 s of 10 s left>"


@pytest.mark.parametrize(("given", "seconds"), [(2, 2.0), (0.5, 0.5), (1e-9, 1e-9), (None, DEFAULT_TIMEOUT)])
def test_a_timeout_is_a_number_of_seconds_and_none_means_the_default(given: object, seconds: float) -> None:
    got = as_timeout(given)
    assert got == seconds
    assert type(got) is float


def test_the_default_may_be_another() -> None:
    assert as_timeout(None, default=5.0) == 5.0


@pytest.mark.parametrize(
    "given", [0, -1, 0.0, math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**400)], ids=lambda v: str(v)[:9]
)
def test_a_timeout_that_cannot_be_waited_for_is_refused_by_name(given: float) -> None:
    with pytest.raises(ValueError, match="^call_timeout must be a number of seconds above 0"):
        as_timeout(given, "call_timeout")


@pytest.mark.parametrize("given", [True, False, "5", [5], 5j, object()], ids=lambda given: type(given).__name__)
def test_a_timeout_that_is_no_number_is_refused_by_name(given: object) -> None:
    with pytest.raises(TypeError, match="^call_timeout must be a number of seconds, not"):
        as_timeout(given, "call_timeout")


def test_the_longest_timeout_can_be_waited_for() -> None:
    event = threading.Event()
    event.set()
    assert LONGEST_TIMEOUT < threading.TIMEOUT_MAX
    assert event.wait(LONGEST_TIMEOUT)
