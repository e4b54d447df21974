"""Lane, Crew and Reaper: where application code and deadlines run."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from mcp_sync.deadlines import Deadline
from mcp_sync.engine import dispatch
from mcp_sync.engine.dispatch import Crew, Lane, Reaper, join, start_thread
from mcp_sync.testing import in_threads

T = 5.0


@pytest.fixture
def lane() -> Iterator[Lane]:
    lane = Lane("mcp-test-lane", backlog=5, backlog_bytes=1000)
    yield lane
    lane.close(Deadline(T))


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Let threads take turns as often as is possible, so that what can go wrong between two steps does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Gate:
    """A job that runs until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        self._open.wait(T)

    def open(self) -> None:
        self._open.set()


def finished(lane: Lane) -> None:
    """Wait until the lane has run what it has."""
    done = threading.Event()
    lane.post(done.set)
    assert done.wait(T)


# -- Lane ------------------------------------------------------------------------------------------------------------


def test_a_lane_starts_its_thread_with_the_first_job_and_runs_jobs_in_order(lane: Lane) -> None:
    assert not any(thread.name == "mcp-test-lane" for thread in threading.enumerate())
    seen: list[tuple[int, str]] = []
    for n in range(100):
        lane.post(lambda n=n: seen.append((n, threading.current_thread().name)))  # type: ignore[misc]
    finished(lane)
    assert seen == [(n, "mcp-test-lane") for n in range(100)]


def test_a_lane_knows_whether_it_is_the_current_thread(lane: Lane) -> None:
    seen: list[bool] = []
    lane.post(lambda: seen.append(lane.is_current))
    finished(lane)
    assert seen == [True]
    assert lane.is_current is False


def test_jobs_posted_from_many_threads_all_run_one_at_a_time(lane: Lane) -> None:
    running, most, ran = [0], [0], [0]

    def job() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        ran[0] += 1
        running[0] -= 1

    in_threads(10, lambda _: [lane.post(job) for _ in range(100)])
    finished(lane)
    assert (most[0], ran[0]) == (1, 1000)


@pytest.mark.parametrize("error", [ZeroDivisionError("on purpose"), SystemExit(3), KeyboardInterrupt()])
def test_a_job_that_raises_is_logged_and_the_next_one_runs(
    lane: Lane, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    with caplog.at_level(logging.ERROR, "mcp_sync"):
        lane.post(fail)
        finished(lane)
    assert [type(error).__name__ in str(record.exc_info) for record in caplog.records] == [True]


def test_offers_beyond_the_backlog_are_declined_and_posts_never(lane: Lane) -> None:
    gate, seen = Gate(), []
    lane.post(gate)
    assert gate.entered.wait(T)
    taken = [lane.offer(lambda n=n: seen.append(n)) for n in range(8)]  # type: ignore[misc]
    for n in range(100, 120):
        lane.post(lambda n=n: seen.append(n))  # type: ignore[misc]
    gate.open()
    finished(lane)
    assert taken == [True] * 5 + [False] * 3
    assert seen == [*range(5), *range(100, 120)]
    assert lane.offer(lambda: None)


def test_offers_are_counted_in_bytes_as_well_but_one_always_fits(lane: Lane) -> None:
    gate = Gate()
    lane.post(gate)
    assert gate.entered.wait(T)
    assert lane.offer(lambda: None, size=5000)  # over the limit, and alone
    assert not lane.offer(lambda: None, size=1)
    gate.open()
    finished(lane)
    assert lane.offer(lambda: None, size=999)
    finished(lane)


def test_closing_a_lane_runs_what_was_posted_and_drops_what_was_offered(lane: Lane) -> None:
    gate, seen = Gate(), []
    lane.post(gate)
    assert gate.entered.wait(T)
    lane.offer(lambda: seen.append("offered"))
    lane.post(lambda: seen.append("posted"))
    closing = start_thread("mcp-test-closing", lane.close, Deadline(T))
    while lane.offer(lambda: seen.append("offered")):  # until close() has begun
        pass
    gate.open()
    assert join(closing, Deadline(T))
    assert seen == ["posted"]


def test_closing_a_lane_with_grace_still_runs_what_was_offered_before() -> None:
    lane = Lane("mcp-test-lane", grace=T)
    gate, seen = Gate(), []
    lane.post(gate)
    assert gate.entered.wait(T)
    lane.offer(lambda: seen.append("offered"))
    closing = start_thread("mcp-test-closing", lane.close, Deadline(T))
    while lane.offer(lambda: None):  # until close() has begun
        pass
    gate.open()
    assert join(closing, Deadline(T))
    assert seen == ["offered"]


def test_a_lane_with_grace_begins_what_was_offered_before_it_ends() -> None:
    lane, gate, seen = Lane("mcp-test-graceful", grace=T), Gate(), []
    lane.post(gate)
    assert gate.entered.wait(T)
    assert all(lane.offer(lambda n=n: seen.append(n)) for n in range(50))  # type: ignore[misc]
    closing = start_thread("mcp-test-closing", lane.close, Deadline(T))
    while lane.offer(lambda: None):  # until close() has begun
        pass
    gate.open()
    assert join(closing, Deadline(T))
    assert seen == list(range(50))


def test_on_a_closed_lane_a_post_runs_here_and_now_and_an_offer_is_declined(lane: Lane) -> None:
    lane.close(Deadline(T))
    seen: list[str] = []
    lane.post(lambda: seen.append(threading.current_thread().name))
    assert seen == [threading.current_thread().name]
    assert lane.offer(lambda: seen.append("offered")) is False


def test_a_lane_may_be_closed_by_its_own_job_and_by_many_threads_at_once(lane: Lane) -> None:
    closed = threading.Event()

    def close() -> None:
        lane.close(Deadline(T))
        closed.set()

    lane.post(close)
    in_threads(5, lambda _: lane.close(Deadline(T)))
    assert closed.wait(T)


def test_closing_a_lane_waits_for_a_job_no_longer_than_the_deadline(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    lane.post(gate)
    assert gate.entered.wait(T)
    with caplog.at_level(logging.WARNING, "mcp_sync"):
        lane.close(Deadline(0.05))
    assert "mcp-test-lane" in caplog.text  # a survivor is named
    gate.open()


def test_an_idle_lane_retires_and_the_next_job_starts_it_again(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "IDLE_SECONDS", 0.02)
    for _ in range(3):
        workers: list[threading.Thread] = []
        lane.post(lambda workers=workers: workers.append(threading.current_thread()))  # type: ignore[misc]
        finished(lane)
        assert join(workers[0], Deadline(T))


def test_an_idle_lane_does_not_keep_its_last_job_alive(lane: Lane) -> None:
    class Something:
        pass

    something = Something()
    gone = weakref.ref(something)
    lane.post(lambda something=something: None)  # type: ignore[misc]
    finished(lane)
    del something
    gc.collect()
    assert gone() is None


def test_where_no_thread_can_be_started_a_post_runs_here_and_an_offer_is_declined(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(dispatch, "start_thread", refuse)
    seen: list[int] = []
    lane.post(lambda: seen.append(1))
    assert lane.offer(lambda: seen.append(2)) is False
    assert seen == [1]
    assert Crew("mcp-test-crew", 3).start(lambda: None) is False


# -- Crew ------------------------------------------------------------------------------------------------------------


def test_a_crew_runs_jobs_at_once_and_says_no_beyond_its_limit() -> None:
    crew = Crew("mcp-test-crew", 3)
    gates = [Gate() for _ in range(4)]
    assert [crew.start(gate) for gate in gates] == [True, True, True, False]
    assert all(gate.entered.wait(T) for gate in gates[:3])
    gates[0].open()
    patience = Deadline(T)
    while not crew.start(gates[3]):
        assert not patience.expired
    for gate in gates:
        gate.open()
    crew.close(Deadline(T))
    assert crew.start(Gate()) is False


def test_a_job_of_a_crew_that_raises_gives_its_place_back(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew("mcp-test-crew", 1)
    patience = Deadline(T)
    for _ in range(3):
        while not crew.start(lambda: sys.exit(3)):
            assert not patience.expired
    crew.close(Deadline(T))
    assert "a callback failed" in caplog.text


def test_a_crew_may_be_closed_by_its_own_job() -> None:
    crew = Crew("mcp-test-crew", 2)
    closed = threading.Event()

    def close() -> None:
        crew.close(Deadline(T))
        closed.set()

    assert crew.start(close)
    assert closed.wait(T)
    crew.close(Deadline(T))


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_a_crew_keeps_its_threads_for_the_next_jobs() -> None:
    crew = Crew("mcp-test-kept", 5)
    ran = threading.Semaphore(0)
    for _ in range(50):
        assert crew.start(ran.release)
        assert ran.acquire(timeout=T)
    assert 1 <= len(threads_named("mcp-test-kept")) <= 2  # a job is over a moment before its thread is free
    crew.close(Deadline(T))
    assert threads_named("mcp-test-kept") == []
    crew.close(Deadline(T))


def test_no_job_of_a_crew_waits_behind_another(fast_switching: None) -> None:
    crew = Crew("mcp-test-crew", 6)
    for _ in range(30):
        together = threading.Barrier(7, timeout=T)
        assert all(crew.start(together.wait) for _ in range(6))  # whatever threads are idle, each has one of its own
        together.wait()
        patience = Deadline(T)
        while crew._placed:
            assert not patience.expired
    crew.close(Deadline(T))


def test_an_idle_crew_retires_keeps_nothing_alive_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "IDLE_SECONDS", 0.02)

    class Something:
        def __call__(self) -> None:
            ran.release()

    crew, ran = Crew("mcp-test-idle", 3), threading.Semaphore(0)
    for _ in range(3):
        something = Something()
        gone = weakref.ref(something)
        assert all(crew.start(something) for _ in range(3))
        assert all(ran.acquire(timeout=T) for _ in range(3))
        del something
        assert all(join(thread, Deadline(T)) for thread in threads_named("mcp-test-idle"))
        gc.collect()
        assert gone() is None
    crew.close(Deadline(T))


def test_a_job_that_has_only_to_say_that_it_is_over_gives_its_place_to_another() -> None:
    crew = Crew("mcp-test-crew", 2)
    gates = [Gate() for _ in range(5)]

    def ending(gate: Gate) -> None:
        crew.give_place()
        crew.give_place()  # it has but one
        gate()

    for gate in gates[:2]:
        assert crew.start(lambda gate=gate: ending(gate))  # type: ignore[misc]
        assert gate.entered.wait(T)
    assert [crew.start(gate) for gate in gates[2:]] == [True, True, False]
    assert all(gate.entered.wait(T) for gate in gates[2:4])
    for gate in gates:
        gate.open()
    crew.close(Deadline(T))
    assert crew._placed == 0


def test_jobs_that_do_not_come_to_their_end_are_not_endlessly_many() -> None:
    crew = Crew("mcp-test-crew", 3)
    gates = [Gate() for _ in range(7)]

    def ending(gate: Gate) -> None:
        crew.give_place()
        gate()

    started = []
    for gate in gates:
        started.append(crew.start(lambda gate=gate: ending(gate)))  # type: ignore[misc]
        assert not started[-1] or gate.entered.wait(T)
    assert started == [True] * 6 + [False]
    for gate in gates:
        gate.open()
    crew.close(Deadline(T))


def test_nobody_gives_a_place_that_he_does_not_have() -> None:
    crew, other = Crew("mcp-test-crew", 1), Crew("mcp-test-other", 1)
    gate = Gate()
    assert crew.start(gate)
    assert gate.entered.wait(T)
    crew.give_place()  # from outside
    done = threading.Event()

    def meddle() -> None:
        crew.give_place()
        done.set()

    assert other.start(meddle)
    assert done.wait(T)
    assert not crew.start(gate)
    gate.open()
    crew.close(Deadline(T))
    other.close(Deadline(T))


def test_a_crew_runs_every_job_it_takes_once_and_never_more_than_allowed(fast_switching: None) -> None:
    crew, running, most, ran = Crew("mcp-test-crew", 4), [0], [0], []
    counting = threading.Lock()  # guards the three

    def job() -> None:
        with counting:
            running[0] += 1
            most[0] = max(most[0], running[0])
        with counting:
            running[0] -= 1
            ran.append(1)

    taken = in_threads(8, lambda _: sum(crew.start(job) for _ in range(100)))
    crew.close(Deadline(T))
    assert len(ran) == sum(taken) > 0
    assert most[0] <= 4


def test_a_crew_that_was_renewed_does_not_count_what_still_runs(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew("mcp-test-crew", 1)
    stubborn, gate = Gate(), Gate()
    assert crew.start(stubborn)
    assert stubborn.entered.wait(T)
    (survivor,) = threads_named("mcp-test-crew")
    crew.close(Deadline(0.01))
    crew.forked()
    for _ in range(2):
        done = threading.Event()
        assert crew.start(done.set)
        assert done.wait(T)
        stubborn.open()
        assert join(survivor, Deadline(T))
        patience = Deadline(T)
        while crew._busy:
            assert not patience.expired
    assert [crew.start(gate), crew.start(gate)] == [True, False]
    gate.open()
    crew.close(Deadline(T))


# -- Reaper ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reaper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reaper]:
    monkeypatch.setattr(dispatch, "IDLE_SECONDS", 0.02)
    return Reaper()


def test_jobs_run_when_their_time_has_come_the_soonest_first(reaper: Reaper) -> None:
    seen: list[float] = []
    over = threading.Event()
    for seconds in (0.15, 0.05, 0.1, 0.0):
        reaper.at(Deadline(seconds), lambda seconds=seconds: seen.append(seconds))  # type: ignore[misc]
    reaper.at(Deadline(0.2), over.set)
    assert over.wait(T)
    assert seen == [0.0, 0.05, 0.1, 0.15]


def test_a_job_that_was_called_off_does_not_run_and_is_let_go_at_once(reaper: Reaper) -> None:
    class Something:
        def __call__(self) -> None:
            seen.append("ran")

    seen: list[str] = []
    something = Something()
    gone = weakref.ref(something)
    alarm = reaper.at(Deadline(0.05), something)
    del something
    reaper.call_off(alarm)
    reaper.call_off(alarm)
    assert gone() is None
    over = threading.Event()
    reaper.at(Deadline(0.1), over.set)
    assert over.wait(T)
    assert seen == []


def test_alarms_that_were_called_off_do_not_pile_up(reaper: Reaper) -> None:
    far = reaper.at(Deadline(3600), lambda: None)
    for _ in range(10_000):
        reaper.call_off(reaper.at(Deadline(1800), lambda: None))
    assert len(reaper._alarms) < 200
    over = threading.Event()
    reaper.at(Deadline(0.0), over.set)
    assert over.wait(T)
    reaper.call_off(far)
    reaper.at(Deadline(0.0), lambda: None)  # wakes it, so that it sees there is nothing left and retires


def test_a_job_of_the_reaper_that_raises_does_not_end_it(reaper: Reaper, caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()
    reaper.at(Deadline(0.0), lambda: sys.exit(1))
    reaper.at(Deadline(0.01), over.set)
    assert over.wait(T)
    assert "a callback failed" in caplog.text


def test_many_threads_may_set_alarms_and_call_them_off(reaper: Reaper) -> None:
    ran = threading.Semaphore(0)

    def set_alarms(number: int) -> None:
        for n in range(50):
            alarm = reaper.at(Deadline(0.001 * (n % 7)), ran.release)
            unwanted = reaper.at(Deadline(60), ran.release)
            reaper.call_off(unwanted)
            assert alarm is not unwanted

    in_threads(8, set_alarms)
    assert all(ran.acquire(timeout=T) for _ in range(400))
    assert not ran.acquire(blocking=False)


# -- threads ---------------------------------------------------------------------------------------------------------


def test_every_thread_is_a_daemon_and_has_a_name() -> None:
    thread = start_thread("mcp-test", lambda: None)
    assert thread.daemon
    assert thread.name == "mcp-test"
    assert join(thread, Deadline(T))


def test_joining_no_thread_or_the_current_one_is_no_wait() -> None:
    assert join(None, Deadline(0.0))
    assert join(threading.current_thread(), Deadline(0.0))
