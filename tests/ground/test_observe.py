"""Events reach observers through a lane that may say no, and hold nothing alive."""

from __future__ import annotations

import dataclasses
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from mcp_sync import observe
from mcp_sync.observe import (
    Called,
    CircuitChanged,
    Connected,
    Connecting,
    ContainerEnded,
    ContainerStarted,
    Disconnected,
    Event,
    Feed,
    Finished,
    Ignored,
    LimitExceeded,
    Observers,
    ProcessEnded,
    ProcessStarted,
    Reconnected,
    Restarted,
    Retried,
    Streaming,
    Trouble,
    Unreadable,
    write_log,
)

EVENT = Connected("calc", "2026-07-28")


class Lane:
    """Keeps what it is offered, and runs it when told."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.jobs: list[Callable[[], Any]] = []

    def offer(self, job: Callable[[], Any]) -> bool:
        if len(self.jobs) >= self.room:
            return False
        self.jobs.append(job)
        return True

    def run(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


@pytest.fixture
def quiet() -> None:
    """Keep the log out of it, whatever level the run has set."""
    logger = logging.getLogger("mcp_sync")
    assert not logger.isEnabledFor(logging.DEBUG)


def test_every_observer_is_told_in_the_order_in_which_they_asked(quiet: None) -> None:
    told: list[str] = []
    observers = Observers([lambda event: told.append("first"), lambda event: told.append("second")])
    lane = Lane()
    Feed(observers, lane.offer).emit(EVENT)
    assert told == []  # never on the thread that says it
    lane.run()
    assert told == ["first", "second"]


def test_an_observer_added_later_is_told_from_then_on(quiet: None) -> None:
    told: list[Event] = []
    observers, lane = Observers(), Lane()
    feed = Feed(observers, lane.offer)
    feed.emit(EVENT)
    observers.append(told.append)
    feed.emit(EVENT)
    lane.run()
    assert told == [EVENT]


def test_nobody_watches_until_somebody_does(quiet: None) -> None:
    observers = Observers()
    feed = Feed(observers, Lane().offer)
    assert not feed.watched
    observers.append(print)
    assert feed.watched


def test_without_observers_nothing_is_offered(quiet: None) -> None:
    lane = Lane()
    Feed(Observers(), lane.offer).emit(EVENT)
    Feed(None, lane.offer).emit(EVENT)
    assert lane.jobs == []


def test_a_feed_without_a_lane_swallows_events() -> None:
    Feed(Observers([print])).emit(EVENT)


def test_what_a_full_lane_refuses_is_counted(quiet: None) -> None:
    told: list[Event] = []
    observers, lane = Observers([told.append] * 3), Lane(room=1)
    feed = Feed(observers, lane.offer)
    feed.emit(EVENT)
    lane.run()
    assert len(told) == 1
    assert feed.missed == 2


def test_a_feed_keeps_no_observer_alive(quiet: None) -> None:
    observers = Observers([lambda event: None])
    gone = weakref.ref(observers)
    feed = Feed(observers, Lane().offer)
    del observers
    gc.collect()
    assert gone() is None
    assert not feed.watched


def test_the_log_alone_makes_a_feed_watched(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="mcp_sync")
    lane = Lane()
    feed = Feed(None, lane.offer)
    assert feed.watched
    feed.emit(EVENT)
    lane.run()
    assert len(caplog.records) == 1


class Tally(list[Event]):
    """An observer that counts."""

    inline = True

    def __call__(self, event: Event) -> None:
        self.append(event)
        if len(self) == 2:
            raise RuntimeError("on purpose")


def test_an_observer_that_counts_is_told_at_once_and_misses_nothing(quiet: None) -> None:
    tally, lane = Tally(), Lane(room=0)
    observers = Observers([tally, print])
    feed = Feed(observers, lane.offer)
    feed.emit(EVENT)
    assert tally == [EVENT]
    assert feed.missed == 1  # the other one


def test_an_observer_that_counts_and_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    observers = Observers([tally])
    feed = Feed(observers, Lane().offer)
    for _ in range(3):
        feed.emit(EVENT)
    assert len(tally) == 3
    assert "on purpose" in caplog.text


LINES = [
    (Called("calc", "tools/call", 7), "> tools/call #7 (calc)"),
    (Finished("calc", "tools/call", 7, 0.0008), "< #7 0.8 ms"),
    (Finished("calc", "tools/call", 7, 2.5, "MCPTimeoutError"), "< #7 2500.0 ms MCPTimeoutError"),
    (Disconnected("calc", None), "= closed (calc)"),
    (Disconnected("calc", "exit status 3"), "= closed (calc) exit status 3"),
    (Unreadable("calc", "invalid JSON", b"canary"), "? invalid JSON (calc)"),
    (Retried("calc", "ping", 1, "ServerError", 0.5), "~ ping again in 0.50 s, retry 1: ServerError (calc)"),
    (CircuitChanged("calc", "half-open"), "= circuit half-open (calc)"),
    (Streaming("calc", 2048, 4096), "< 2048 of 4096 bytes (calc)"),
    (Streaming("calc", 2048, None), "< 2048 of ? bytes (calc)"),
    (Trouble("calc", "rate_limited", {"retry_after": 3.0}), "! rate_limited (calc)"),
    (Connecting("calc"), "= Connecting(server='calc')"),
    (EVENT, "= Connected(server='calc', version='2026-07-28')"),
    (Ignored("calc", "late"), "= Ignored(server='calc', why='late')"),
    (ProcessStarted("calc", 4711), "= ProcessStarted(server='calc', pid=4711)"),
    (ContainerStarted("calc", "0af3"), "= ContainerStarted(server='calc', container='0af3')"),
    (
        ContainerEnded("calc", "0af3", 137, True),
        "= ContainerEnded(server='calc', container='0af3', status=137, out_of_memory=True)",
    ),
    (Restarted("calc", 2), "= Restarted(server='calc', attempt=2)"),
    (Reconnected("calc"), "= Reconnected(server='calc')"),
    (LimitExceeded("calc", "memory_mb", 512.0, 612.34), "! memory_mb 612.3, more than 512 (calc)"),
    (ProcessEnded("calc", 4711, -9), "= ProcessEnded(server='calc', pid=4711, status=-9)"),
]


@pytest.mark.parametrize(("event", "line"), LINES, ids=[line for _, line in LINES])
def test_an_event_is_one_line_of_the_log(event: Event, line: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="mcp_sync")
    write_log(event)
    assert caplog.messages == [line]


def test_every_event_has_its_line_in_the_table() -> None:
    events = {value for value in vars(observe).values() if dataclasses.is_dataclass(value)}
    assert {type(event) for event, _ in LINES} == events


def test_above_debug_nothing_is_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mcp_sync")
    write_log(EVENT)
    assert caplog.messages == []


@pytest.mark.parametrize("event", [event for event, _ in LINES], ids=[line for _, line in LINES])
def test_an_event_cannot_be_changed(event: Event) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.server = "other"  # type: ignore[misc]
