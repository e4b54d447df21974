"""The store in memory keeps the contract, and what is true of it alone."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from typing import Any

import pytest

from mcp_sync.server.stores import Bounds, EventLog, Gone, MemorySessionStore, SessionStore, stream_of
from mcp_sync.testing import SessionStoreContract
from mcp_sync.testing.caller import verdict_of_child
from mcp_sync.testing.tools import PATIENCE, Background
from peers.running import until


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestMemorySessionStore(SessionStoreContract):
    def make(self, bounds: Bounds) -> SessionStore:
        self.clock = FakeClock()
        return MemorySessionStore(bounds=bounds, clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Any:
    with MemorySessionStore(clock=clock) as made:
        yield made


def test_a_record_that_is_read_is_not_idle_however_long_that_takes(store: MemorySessionStore, clock: FakeClock) -> None:
    store.create("session", "a", {}, 10)
    reading = Background(lambda: store.read("session", "a", "s", None, PATIENCE * 3))
    assert until(lambda: store._records["session", "a"].bells)
    for _ in range(5):
        clock.now += 11
        assert store.create("session", f"b{clock.now}", {}, 1)  # which removes what has expired
    event = store.append("session", "a", "s", b"x")
    assert reading.result() == ([(event, b"x")], False)
    clock.now += 9
    assert store.load("session", "a") == {}
    clock.now += 11
    assert store.load("session", "a") is None


def test_an_event_wakes_nobody_who_reads_another_stream(store: MemorySessionStore, monkeypatch: Any) -> None:
    looks: list[str] = []
    look = store._look

    def counted(kind: str, record: Any, stream: str, number: int) -> Any:
        looks.append(stream)
        return look(kind, record, stream, number)

    monkeypatch.setattr(store, "_look", counted)
    for key in ("a", "b"):
        store.create("session", key, {}, 10)
    waiting = [Background(lambda n=n: store.read("session", "a", f"s{n}", None, PATIENCE * 3)) for n in range(3)]
    assert until(lambda: len(looks) == 3)
    for _ in range(100):
        store.append("session", "b", "s0", b"")
        store.append("session", "a", "other", b"")
    assert len(looks) == 3
    for number, reading in enumerate(waiting):
        store.append("session", "a", f"s{number}", b"")
        assert reading.result()[1] is False


def test_a_thousand_streams_wait_and_each_gets_its_own(store: MemorySessionStore) -> None:
    for number in range(1000):
        store.create("session", str(number), {}, 10)
    readings = [
        Background(lambda n=n: store.read("session", str(n), "s", None, PATIENCE * 3))  # type: ignore[misc]
        for n in range(1000)
    ]
    for number in range(1000):
        store.append("session", str(number), "s", b"%d" % number)
    assert [reading.result()[0] for reading in readings] == [[("s.1", b"%d" % number)] for number in range(1000)]


def test_readers_leave_nothing_behind(store: MemorySessionStore) -> None:
    store.create("session", "a", {}, 10)
    for number in range(50):
        store.read("session", "a", f"s{number}", None, 0)
    record = store._records["session", "a"]
    assert record.bells == {}
    assert record.readers == 0
    assert record.log.after("s0", 0) == ([], False)


def test_records_that_come_and_go_leave_nothing_behind(store: MemorySessionStore, clock: FakeClock) -> None:
    for number in range(5000):
        store.create("session", str(number), {}, 1000, owner=str(number))
        store.drop("session", str(number))
    assert len(store._due) < 200
    for number in range(5000):
        clock.now += 1
        store.create("task", str(number), {}, 10, owner=str(number))
    assert len(store._records) <= 11
    assert len(store._due) < 300
    assert len(store._count) <= 12


def test_a_session_takes_no_more_memory_than_its_bounds_whatever_a_tool_says(store: MemorySessionStore) -> None:
    store.create("session", "a", {}, 10)
    data = [bytes(4096) + b"%d" % n for n in range(64)]
    tracemalloc.start()
    try:
        for number in range(30_000):
            payload = data[number % 64] + b"." if number % 10 == 0 else b"%d" % number
            store.append("session", "a", f"call{number // 3}", payload, last=number % 3 == 2)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < Bounds().size * 1.5


def test_an_append_to_a_full_record_costs_no_more_than_to_an_empty_one() -> None:
    steps = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal steps
        steps += 1

    log = EventLog(Bounds(events=2000, stream_events=1000))
    costs = []
    for number in range(6000):
        steps = 0
        sys.setprofile(count)
        log.append(f"s{number // 2}", b"", float(number), last=number % 2 == 1)
        sys.setprofile(None)
        costs.append(steps)
    assert max(costs) < 100


@pytest.mark.parametrize(
    "wrong",
    [{"events": 0}, {"size": -1}, {"stream_events": 5000}, {"stream_size": 9 << 20}, {"events": True}, {"seconds": 9}],
)
def test_bounds_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Bounds(**wrong)


@pytest.mark.parametrize(
    ("event", "stream"), [("a.1", "a"), ("a.b.12", "a.b"), ("a", None), ("a.x", None), ("a b.1", None), ("a.0", None)]
)
def test_an_event_id_names_its_stream(event: str, stream: str | None) -> None:
    assert stream_of(event) == stream


def test_what_says_that_a_record_is_gone_does_not_say_its_key(store: MemorySessionStore) -> None:
    with pytest.raises(Gone) as caught:
        store.append("session", "secret-key", "a", b"")
    assert "secret-key" not in str(caught.value)


def test_a_child_does_not_wait_for_a_lock_that_nobody_will_give_back(store: MemorySessionStore) -> None:
    store.create("session", "a", {}, 10)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            held.set()
            over.wait(PATIENCE * 2)

    holding = Background(hold)
    assert held.wait(PATIENCE)
    assert verdict_of_child(lambda: store.create("session", "b", {}, 10)) == "fine"
    over.set()
    holding.result()
    assert store.load("session", "a") == {}


def test_a_torn_table_is_not_used_in_a_child(store: MemorySessionStore) -> None:
    store.create("session", "a", {}, 10)
    store._lock.acquire()  # as a thread would that is not there any more
    store.forked()
    assert store.load("session", "a") is None
    assert store.create("session", "a", {}, 10)
