"""SessionStoreContract: what every place has to do where a server keeps sessions, tasks and the events of streams."""

from __future__ import annotations

import os
import queue
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from ..deadlines import Deadline
from ..exceptions import LocalProtocolError, MCPConnectionError
from ..server.stores import FRESH_SECONDS, Bounds, Events, Gone, SessionStore, stream_of
from .caller import quiet_log, verdict_of_child
from .tools import PATIENCE, Background, in_threads, raises

ROOMY = Bounds()
NARROW = Bounds(events=40, size=4000, stream_events=20, stream_size=2000)
SECONDS = 100.0
"""How long the records of the tests may be idle, by the clock that ``pass_time`` moves."""
KIND, KEY = "session", "key"

NO_IDS = (
    *("", ".", "a", "a.", ".1", "a.0", "-.0", "a.-1", "a.1.", "a.01", "a. 1", "a.1\n", "a.\u0661", "a\ud800.1", "é.1"),
    *("a.1e3", "a." + "9" * 5000, "x" * 70_000 + ".1", "a\0.1", "a.1\r\nevil: 1"),
)
ODD_KEYS = ("", ":", "a:b", "*", "{a}", "a b\r\n", "\0", "grüße", "\ud800", "x" * 70_000)


def _instead(other: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    return other


class SessionStoreContract:
    """What every SessionStore has to do. Inherit it, and define ``make`` and ``pass_time``.

    Attributes:
        shared: Whether all stores that a test makes are the same place.
    """

    shared: ClassVar[bool] = False

    # -- for stores ----------------------------------------------------------------------------------------------------

    def make(self, bounds: Bounds) -> SessionStore:
        """Return a store: empty, or, if it is shared, with what this test has put into another."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass for all stores of this test, as far as they know."""
        raise NotImplementedError

    # -- for tests -----------------------------------------------------------------------------------------------------

    @contextmanager
    def storing(self, bounds: Bounds = ROOMY) -> Iterator[SessionStore]:
        """Give a store, which is closed afterwards."""
        with self.make(bounds) as store:
            yield store

    @contextmanager
    def holding(self, bounds: Bounds = ROOMY) -> Iterator[SessionStore]:
        """Give a store with one record."""
        with self.storing(bounds) as store:
            assert store.create(KIND, KEY, {"n": 0}, SECONDS)
            yield store

    # -- records -------------------------------------------------------------------------------------------------------

    def test_a_record_is_found_again_by_its_key(self) -> None:
        value: dict[str, Any] = {"text": "grüße \N{GRINNING FACE}", "numbers": [0, -1.5, 2**53], "deep": {"": [None]}}
        with self.storing() as store:
            assert store.create(KIND, KEY, value, SECONDS) is True
            assert store.load(KIND, KEY) == value

    def test_what_was_never_there_is_gone(self) -> None:
        with self.storing() as store:
            self._assert_gone(store)

    def _assert_gone(self, store: SessionStore) -> None:
        assert store.load(KIND, KEY) is None
        assert store.save(KIND, KEY, {}) is False
        assert store.update(KIND, KEY, lambda value: value) is None
        assert store.drop(KIND, KEY) is False
        assert store.knows(KIND, KEY, "a.1") is False
        with raises(Gone):
            store.append(KIND, KEY, "a", b"")
        with raises(Gone):
            store.read(KIND, KEY, "a", None, 0)
        with raises(Gone):
            store.read(KIND, KEY, "a", "a.1", PATIENCE)

    def test_a_key_that_is_taken_is_refused_and_what_it_names_is_unharmed(self) -> None:
        with self.holding() as store:
            assert store.create(KIND, KEY, {"n": 1}, SECONDS) is False
            assert store.load(KIND, KEY) == {"n": 0}

    def test_one_key_in_two_kinds_names_two_records(self) -> None:
        with self.holding() as store:
            assert store.create("task", KEY, {"task": True}, SECONDS)
            assert store.drop(KIND, KEY)
            assert store.load("task", KEY) == {"task": True}

    def test_a_value_that_was_loaded_is_a_copy(self) -> None:
        value: dict[str, Any] = {"list": [1]}
        with self.storing() as store:
            store.create(KIND, KEY, value, SECONDS)
            value["list"].append(2)
            found = store.load(KIND, KEY)
            assert found == {"list": [1]}
            found["list"].append(3)
            assert store.load(KIND, KEY) == {"list": [1]}

    def test_a_saved_value_replaces_the_one_before(self) -> None:
        with self.holding() as store:
            assert store.save(KIND, KEY, {"m": 1}) is True
            assert store.load(KIND, KEY) == {"m": 1}

    def test_what_json_cannot_say_is_refused_and_nothing_changes(self) -> None:
        with self.holding() as store:
            for wrong in ({"a": {1}}, {"a": float("nan")}, {"a": "\ud800"}):
                with raises(LocalProtocolError):
                    store.create(KIND, "other", wrong, SECONDS)
                with raises(LocalProtocolError):
                    store.save(KIND, KEY, wrong)
                with raises(LocalProtocolError):
                    store.update(KIND, KEY, partial(_instead, wrong))
            with raises(TypeError):
                store.save(KIND, KEY, [1])  # type: ignore[arg-type]
            assert store.load(KIND, KEY) == {"n": 0}
            assert store.load(KIND, "other") is None

    def test_any_text_can_be_a_key(self) -> None:
        with self.storing() as store:
            for number, key in enumerate(ODD_KEYS):
                assert store.create(KIND, key, {"n": number}, SECONDS), repr(key[:20])
            for number, key in enumerate(ODD_KEYS):
                assert store.load(KIND, key) == {"n": number}, repr(key[:20])
                assert store.append(KIND, key, "a", b"") == "a.1"
                assert store.drop(KIND, key)

    def test_a_dropped_record_is_gone_with_its_streams(self) -> None:
        with self.holding() as store:
            event = store.append(KIND, KEY, "a", b"old")
            assert store.drop(KIND, KEY) is True
            self._assert_gone(store)
            assert store.create(KIND, KEY, {}, SECONDS)
            assert store.knows(KIND, KEY, event) is False
            assert store.read(KIND, KEY, "a", None, 0) == ([], False)

    def test_a_record_that_makes_no_sense_is_refused(self) -> None:
        with self.storing() as store:
            for seconds in (0, -1, float("nan"), float("inf")):
                with raises(ValueError):
                    store.create(KIND, KEY, {}, seconds)
            with raises(ValueError):
                store.create(KIND, KEY, {}, SECONDS, most=-1)
            assert store.load(KIND, KEY) is None

    # -- updates -------------------------------------------------------------------------------------------------------

    def test_an_update_returns_the_value_in_force(self) -> None:
        with self.holding() as store:
            assert store.update(KIND, KEY, lambda value: {**value, "m": 1}) == {"n": 0, "m": 1}
            assert store.update(KIND, KEY, lambda value: None) == {"n": 0, "m": 1}
            assert store.load(KIND, KEY) == {"n": 0, "m": 1}

    def test_an_update_that_fails_changes_nothing(self) -> None:
        def change(value: dict[str, Any]) -> dict[str, Any]:
            value["n"] = 7
            raise ZeroDivisionError

        with self.holding() as store:
            with raises(ZeroDivisionError):
                store.update(KIND, KEY, change)
            assert store.load(KIND, KEY) == {"n": 0}

    def test_an_update_that_leaves_the_value_leaves_it_though_it_has_changed_its_copy(self) -> None:
        with self.holding() as store:
            assert store.update(KIND, KEY, lambda value: value.clear()) == {"n": 0}
            assert store.load(KIND, KEY) == {"n": 0}

    def test_an_update_is_asked_again_when_somebody_else_was_faster(self) -> None:
        seen = []

        def change(value: dict[str, Any]) -> dict[str, Any]:
            seen.append(value)
            if len(seen) == 1:
                store.save(KIND, KEY, {"n": 10})
            return {"n": value["n"] + 1}

        with self.holding() as store:
            assert store.update(KIND, KEY, change) == {"n": 11}
        assert seen == [{"n": 0}, {"n": 10}]

    def test_an_update_of_what_is_dropped_meanwhile_says_that_it_is_gone(self) -> None:
        def change(value: dict[str, Any]) -> dict[str, Any]:
            store.drop(KIND, KEY)
            return {"n": 1}

        with self.holding() as store:
            assert store.update(KIND, KEY, change) is None
            assert store.load(KIND, KEY) is None

    def test_no_update_of_many_threads_is_lost(self) -> None:
        with self.holding() as store:
            self._count(store, store)

    def _count(self, *stores: SessionStore) -> None:
        def run(number: int) -> None:
            for _ in range(25):
                stores[number % len(stores)].update(KIND, KEY, lambda value: {"n": value["n"] + 1})

        in_threads(8, run)
        assert stores[0].load(KIND, KEY) == {"n": 200}

    # -- expiry --------------------------------------------------------------------------------------------------------

    def test_a_record_that_nobody_used_for_too_long_is_gone(self) -> None:
        with self.holding() as store:
            store.append(KIND, KEY, "a", b"")
            self.pass_time(SECONDS * 1.01)
            self._assert_gone(store)

    def test_a_record_that_is_used_stays(self) -> None:
        uses: list[Callable[[SessionStore], object]] = [
            lambda store: store.load(KIND, KEY),
            lambda store: store.save(KIND, KEY, {"n": 1}),
            lambda store: store.update(KIND, KEY, lambda value: None),
            lambda store: store.update(KIND, KEY, lambda value: {"n": 2}),
            lambda store: store.read(KIND, KEY, "a", None, 0),
        ]
        with self.holding() as store:
            for use in uses * 2:
                self.pass_time(SECONDS * 0.9)
                assert use(store)
            self.pass_time(SECONDS * 0.9)
            assert store.load(KIND, KEY) == {"n": 2}

    def test_an_event_that_is_added_and_a_question_about_one_do_not_keep_a_record(self) -> None:
        with self.holding() as store:
            self.pass_time(SECONDS * 0.9)
            event = store.append(KIND, KEY, "a", b"")
            assert store.knows(KIND, KEY, event)
            self.pass_time(SECONDS * 0.2)
            assert store.load(KIND, KEY) is None

    def test_each_record_has_its_own_time(self) -> None:
        with self.holding() as store:
            store.create(KIND, "short", {}, SECONDS / 10)
            store.create(KIND, "long", {}, SECONDS * 10)
            self.pass_time(SECONDS / 2)
            assert store.load(KIND, "short") is None
            assert store.load(KIND, KEY) is not None
            self.pass_time(SECONDS * 2)
            assert store.load(KIND, KEY) is None
            assert store.load(KIND, "long") is not None

    def test_events_are_kept_as_long_as_their_record(self) -> None:
        with self.holding() as store:
            for number in range(3):
                store.append(KIND, KEY, f"s{number}", b"data", last=number == 1)
            for _ in range(12):
                self.pass_time(SECONDS * 0.45)
                assert store.load(KIND, KEY)
            for number in range(3):
                name, event = f"s{number}", f"s{number}.{number + 1}"
                assert store.knows(KIND, KEY, event)
                assert store.read(KIND, KEY, name, None, 0) == ([(event, b"data")], number == 1)

    # -- caps ----------------------------------------------------------------------------------------------------------

    def test_past_the_cap_no_record_of_the_kind_is_made(self) -> None:
        with self.storing() as store:
            assert [store.create(KIND, str(n), {}, SECONDS, most=3) for n in range(5)] == [True] * 3 + [False] * 2
            assert store.load(KIND, "3") is None
            assert store.create("task", "0", {}, SECONDS, most=3)
            assert store.create(KIND, "more", {}, SECONDS)  # no cap
            assert not store.create(KIND, "3", {}, SECONDS, most=4)

    def test_what_was_dropped_or_has_expired_does_not_count_for_a_cap(self) -> None:
        with self.storing() as store:
            assert all(store.create(KIND, str(n), {}, SECONDS, owner="ann", most=3) for n in range(3))
            assert store.drop(KIND, "1")
            assert store.create(KIND, "3", {}, SECONDS, owner="ann", most=3, most_per_owner=3)
            assert not store.create(KIND, "4", {}, SECONDS, owner="bob", most=3)
            self.pass_time(SECONDS * 1.01)
            many = [store.create(KIND, f"new{n}", {}, SECONDS, owner="ann", most=3, most_per_owner=3) for n in range(4)]
            assert many == [True] * 3 + [False]

    def test_a_record_that_is_used_goes_on_counting(self) -> None:
        with self.storing() as store:
            assert store.create(KIND, "a", {}, SECONDS, owner="ann")
            assert store.create(KIND, "b", {}, SECONDS, owner="ann")
            self.pass_time(SECONDS * 0.9)
            store.load(KIND, "a")
            self.pass_time(SECONDS * 0.9)
            assert not store.create(KIND, "c", {}, SECONDS, owner="bob", most=1)
            assert not store.create(KIND, "c", {}, SECONDS, owner="ann", most_per_owner=1)
            assert store.create(KIND, "c", {}, SECONDS, owner="ann", most=2, most_per_owner=2)

    def test_the_cap_of_one_owner_is_not_that_of_another_or_of_nobody(self) -> None:
        with self.storing() as store:

            def made(owner: str) -> list[bool]:
                return [store.create(KIND, f"{owner}{n}", {}, SECONDS, owner=owner, most_per_owner=2) for n in range(4)]

            for owner in ("ann", "bob", "ann:bob", "\ud800"):
                assert made(owner) == [True, True, False, False]
            assert made("") == [True] * 4
            assert store.create("task", "ann", {}, SECONDS, owner="ann", most_per_owner=2)

    def test_no_cap_is_passed_by_many_threads_at_once(self) -> None:
        with self.storing() as store:

            def run(number: int) -> int:
                return sum(store.create(KIND, f"{number}-{n}", {}, SECONDS, most=20) for n in range(10))

            assert sum(in_threads(8, run)) == 20

    # -- streams -------------------------------------------------------------------------------------------------------

    def test_events_come_back_in_order_each_with_an_id_that_names_its_stream(self) -> None:
        blobs = [b"", bytes(range(256)), b"data: x\n\n", "grüße".encode(), b"x" * 100_000]
        with self.holding() as store:
            ids = [store.append(KIND, KEY, "a-1.b", blob) for blob in blobs]
            assert store.read(KIND, KEY, "a-1.b", None, 0) == (list(zip(ids, blobs, strict=True)), False)
            assert {stream_of(one) for one in ids} == {"a-1.b"}

    def test_no_two_events_of_a_record_have_the_same_id(self) -> None:
        with self.holding() as store:
            ids = [store.append(KIND, KEY, f"s{n % 3}", b"") for n in range(9)]
            numbers = [int(one.partition(".")[2]) for one in ids]
            assert numbers == sorted(set(numbers))

    def test_a_stream_is_resumed_from_every_event(self) -> None:
        with self.holding() as store:
            ids = [store.append(KIND, KEY, "a", b"%d" % n) for n in range(30) if store.append(KIND, KEY, "b", b"")]
            for number, event in enumerate(ids):
                assert store.knows(KIND, KEY, event)
                events, over = store.read(KIND, KEY, "a", event, 0)
                assert [data for _, data in events] == [b"%d" % n for n in range(number + 1, 30)]
                assert over is False

    def test_a_complete_stream_is_over_and_takes_no_more(self) -> None:
        with self.holding() as store:
            first = store.append(KIND, KEY, "a", b"1")
            last = store.append(KIND, KEY, "a", b"2", last=True)
            assert store.read(KIND, KEY, "a", None, PATIENCE) == ([(first, b"1"), (last, b"2")], True)
            assert store.read(KIND, KEY, "a", first, PATIENCE) == ([(last, b"2")], True)
            assert store.read(KIND, KEY, "a", last, PATIENCE) == ([], True)
            with raises(ValueError):
                store.append(KIND, KEY, "a", b"3")
            assert store.read(KIND, KEY, "a", first, PATIENCE) == ([(last, b"2")], True)

    def test_all_that_is_kept_of_a_stream_is_read_at_once(self) -> None:
        with self.holding() as store:
            for number in range(600):
                store.append(KIND, KEY, "a", b"%d" % number, last=number == 599)
            events, over = store.read(KIND, KEY, "a", None, 0)
            assert [data for _, data in events] == [b"%d" % n for n in range(600)]
            assert over is True

    def _read_all(self, store: SessionStore, stream: str, timeout: float = PATIENCE) -> Events:
        """Read until the stream is over."""
        events: Events = []
        over = False
        deadline = Deadline(PATIENCE * 2)
        while not over:
            assert not deadline.expired, f"the stream is not over after {len(events)} events"
            more, over = store.read(KIND, KEY, stream, events[-1][0] if events else None, timeout)
            events += more
        return events

    def test_a_reader_waits_for_the_next_event(self) -> None:
        with self.holding() as store:
            reading = Background(lambda: store.read(KIND, KEY, "a", None, PATIENCE))
            other = store.append(KIND, KEY, "b", b"not for them")
            first = store.append(KIND, KEY, "a", b"1")
            assert reading.result() == ([(first, b"1")], False)
            reading = Background(lambda: store.read(KIND, KEY, "a", first, PATIENCE))
            last = store.append(KIND, KEY, "a", b"2", last=True)
            assert reading.result() == ([(last, b"2")], True)
            assert other == "b.1"

    def test_a_reader_in_vain_waits_no_longer_than_it_said(self) -> None:
        with self.holding() as store:
            began = Deadline(PATIENCE)
            assert store.read(KIND, KEY, "a", None, 0.05) == ([], False)
            assert 0.04 < began.elapsed < PATIENCE / 2

    def test_dropping_a_record_wakes_all_who_read_it_at_once(self) -> None:
        with self.holding() as store:
            after = store.append(KIND, KEY, "a", b"")
            readings = [
                Background(lambda n=n: store.read(KIND, KEY, f"s{n}", None, PATIENCE * 6))  # type: ignore[misc]
                for n in range(5)
            ]
            readings.append(Background(lambda: store.read(KIND, KEY, "a", after, PATIENCE * 6)))
            assert store.drop(KIND, KEY)
            assert [type(reading.error()) for reading in readings] == [Gone] * 6

    def test_all_readers_of_a_stream_get_all_of_it(self) -> None:
        with self.holding() as store:
            readings = [Background(lambda: self._read_all(store, "a")) for _ in range(4)]
            ids = [store.append(KIND, KEY, "a", b"%d" % n, last=n == 49) for n in range(50)]
            expected = [(one, b"%d" % n) for n, one in enumerate(ids)]
            assert [reading.result() for reading in readings] == [expected] * 4

    def test_each_of_many_readers_gets_its_own_stream(self) -> None:
        with self.holding() as store:
            readings = [Background(lambda n=n: self._read_all(store, f"s{n}")) for n in range(40)]  # type: ignore[misc]
            for number in reversed(range(40)):
                store.append(KIND, KEY, f"s{number}", b"%d" % number, last=True)
            for number, reading in enumerate(readings):
                assert [data for _, data in reading.result()] == [b"%d" % number]

    def test_of_events_that_eight_threads_add_while_eight_read_none_is_lost_or_twice(self) -> None:
        with self.holding() as store:
            self._pour(store, store)

    def _pour(self, *stores: SessionStore) -> None:
        """Have eight threads add to four streams while eight others read them."""
        left = {f"s{n}": [2] for n in range(4)}
        lock = threading.Lock()  # guards left

        def run(number: int) -> Events:
            store, stream = stores[number // 2 % len(stores)], f"s{number // 4}"
            if number % 2:
                return self._read_all(store, stream)
            for one in range(100):
                store.append(KIND, KEY, stream, b"%d %d" % (number, one))
            with lock:
                left[stream][0] -= 1
                last = not left[stream][0]
            if last:
                store.append(KIND, KEY, stream, b"end", last=True)
            return []

        self._check_poured(in_threads(16, run, PATIENCE * 4))

    def _check_poured(self, results: list[Events]) -> None:
        for number in range(1, 16, 2):
            events = results[number]
            numbers = [int(event.partition(".")[2]) for event, _ in events]
            assert numbers == sorted(set(numbers))
            assert [stream_of(event) for event, _ in events] == [f"s{number // 4}"] * 201
            for writer in (number // 4 * 4, number // 4 * 4 + 2):
                own = [data for _, data in events if data.startswith(b"%d " % writer)]
                assert own == [b"%d %d" % (writer, one) for one in range(100)]

    def test_a_name_that_no_stream_can_have_is_refused(self) -> None:
        with self.holding() as store:
            for wrong in ("", "a b", "a\n", "a\r", "a\0", "é", "\ud800", "x" * 201):
                with raises(ValueError):
                    store.append(KIND, KEY, wrong, b"")
                with raises(ValueError):
                    store.read(KIND, KEY, wrong, None, 0)

    def test_data_that_is_not_bytes_is_refused(self) -> None:
        with self.holding() as store:
            with raises(TypeError):
                store.append(KIND, KEY, "a", "text")  # type: ignore[arg-type]
            with raises(TypeError):
                store.broadcast("text")  # type: ignore[arg-type]

    def test_any_text_may_be_asked_about_and_only_an_event_is_known(self) -> None:
        with self.holding() as store:
            for stream in ("a", "-"):
                store.append(KIND, KEY, stream, b"")
            for text in (*NO_IDS, "b.1", "a.2", "a.3", "a.999999999999999"):
                assert store.knows(KIND, KEY, text) is False, repr(text[:20])
            assert store.knows(KIND, KEY, "a.1")
            assert store.knows(KIND, "other", "a.1") is False

    def test_reading_on_from_what_is_no_event_of_the_stream_is_refused(self) -> None:
        with self.holding() as store:
            store.append(KIND, KEY, "a", b"")
            for wrong in (*NO_IDS, "b.1", "aa.1"):
                with raises(ValueError):
                    store.read(KIND, KEY, "a", wrong, 0)

    # -- bounds --------------------------------------------------------------------------------------------------------

    def test_of_a_stream_no_more_events_are_kept_than_the_bound(self) -> None:
        with self.holding(NARROW) as store:
            ids = [store.append(KIND, KEY, "a", b"%d" % n) for n in range(50)]
            assert store.read(KIND, KEY, "a", None, 0)[0] == [(ids[n], b"%d" % n) for n in range(30, 50)]
            assert store.read(KIND, KEY, "a", ids[3], 0)[0] == [(ids[n], b"%d" % n) for n in range(30, 50)]
            known = [store.knows(KIND, KEY, one) for one in ids]
            assert known == [False] * 29 + [True] * 21  # all that came after the 30th are there

    def test_of_a_stream_no_more_bytes_are_kept_than_the_bound(self) -> None:
        with self.holding(NARROW) as store:
            for _ in range(10):
                store.append(KIND, KEY, "a", b"x" * 600)
            events, over = store.read(KIND, KEY, "a", None, 0)
            assert [(event, len(data)) for event, data in events] == [(f"a.{n}", 600) for n in (8, 9, 10)]
            store.append(KIND, KEY, "a", b"x" * 1500, last=True)
            assert self._kept(store, ["a"]) == {"a": ["a.11"]}

    def _kept(self, store: SessionStore, streams: list[str]) -> dict[str, list[str]]:
        found = {}
        for name in streams:
            events, _ = store.read(KIND, KEY, name, None, 0)
            found[name] = [event for event, _ in events]
        return found

    def test_streams_that_were_complete_for_a_while_go_first(self) -> None:
        with self.holding(NARROW) as store:
            opened = [store.append(KIND, KEY, "open", b"") for _ in range(10)]
            for name in ("one", "two", "three"):
                for number in range(10):
                    store.append(KIND, KEY, name, b"", last=number == 9)
            self.pass_time(FRESH_SECONDS + 1)
            new = [store.append(KIND, KEY, "new", b"") for _ in range(15)]
            kept = self._kept(store, ["open", "one", "two", "three", "new"])
            assert kept["open"] == opened
            assert kept["new"] == new
            assert (kept["one"], kept["two"], len(kept["three"])) == ([], [], 10)

    def test_a_stream_that_was_complete_for_long_goes_though_there_is_room(self) -> None:
        with self.holding(Bounds(seconds=60)) as store:
            old, going_on = store.append(KIND, KEY, "old", b"", last=True), store.append(KIND, KEY, "open", b"")
            self.pass_time(40)
            later = store.append(KIND, KEY, "later", b"", last=True)
            self.pass_time(30)
            assert store.load(KIND, KEY)
            new = store.append(KIND, KEY, "new", b"")
            kept = self._kept(store, ["old", "open", "later", "new"])
            assert kept == {"old": [], "open": [going_on], "later": [later], "new": [new]}
            assert store.read(KIND, KEY, "old", old, PATIENCE) == ([], True)

    def test_an_answer_that_was_just_given_outlives_a_flood(self) -> None:
        with self.holding(NARROW) as store:
            answers = [store.append(KIND, KEY, f"call{n}", b"answer", last=True) for n in range(10)]
            for number in range(300):
                store.append(KIND, KEY, f"flood{number % 3}", b"x" * 100)
            for number, answer in enumerate(answers):
                assert store.read(KIND, KEY, f"call{number}", None, 0) == ([(answer, b"answer")], True)

    def test_answers_in_quick_succession_leave_streams_that_go_on_half_of_the_room(self) -> None:
        with self.holding(NARROW) as store:
            opened = [store.append(KIND, KEY, f"open{n % 2}", b"") for n in range(20)]
            for number in range(100):
                store.append(KIND, KEY, f"call{number}", b"answer", last=True)
            kept = self._kept(store, ["open0", "open1"])
            assert sorted(kept["open0"] + kept["open1"], key=opened.index) == opened
            assert store.knows(KIND, KEY, "call99.120")
            assert store.read(KIND, KEY, "call80", None, 0)[0] != []
            assert store.read(KIND, KEY, "call79", None, 0) == ([], True)

    def test_where_no_stream_is_complete_the_oldest_event_goes(self) -> None:
        with self.holding(NARROW) as store:
            ids = [store.append(KIND, KEY, f"s{n % 4}", b"") for n in range(60)]
            kept = self._kept(store, [f"s{n}" for n in range(4)])
            assert sorted(sum(kept.values(), []), key=ids.index) == ids[20:]

    def test_where_only_fresh_answers_are_left_the_oldest_goes(self) -> None:
        with self.holding(NARROW) as store:
            for number in range(60):
                store.append(KIND, KEY, f"call{number}", b"", last=True)
            kept = self._kept(store, [f"call{n}" for n in range(60)])
            assert [name for name, ids in kept.items() if ids] == [f"call{n}" for n in range(20, 60)]

    def test_one_event_is_kept_however_large_it_is_until_the_next(self) -> None:
        with self.holding(NARROW) as store:
            store.append(KIND, KEY, "a", b"small")
            large = store.append(KIND, KEY, "b", b"x" * 50_000, last=True)
            assert store.read(KIND, KEY, "b", None, 0) == ([(large, b"x" * 50_000)], True)
            assert self._kept(store, ["a", "b"]) == {"a": [], "b": [large]}
            next_one = store.append(KIND, KEY, "a", b"small")
            assert self._kept(store, ["a", "b"]) == {"a": [next_one], "b": []}

    def test_a_stream_whose_end_is_kept_no_more_is_over_all_the_same(self) -> None:
        with self.holding(NARROW) as store:
            answer = store.append(KIND, KEY, "call", b"x" * 50_000, last=True)
            store.append(KIND, KEY, "other", b"")
            assert store.read(KIND, KEY, "call", None, PATIENCE) == ([], True)
            assert store.read(KIND, KEY, "call", answer, PATIENCE) == ([], True)
            with raises(ValueError):
                store.append(KIND, KEY, "call", b"")

    def test_a_stream_that_went_on_after_all_its_events_were_gone_goes_on(self) -> None:
        with self.holding(NARROW) as store:
            old = [store.append(KIND, KEY, "slow", b"") for _ in range(2)]
            for number in range(60):
                store.append(KIND, KEY, f"s{number % 4}", b"")
            assert store.read(KIND, KEY, "slow", None, 0) == ([], False)
            assert [store.knows(KIND, KEY, event) for event in old] == [False, True]
            new = store.append(KIND, KEY, "slow", b"new")
            assert store.read(KIND, KEY, "slow", old[1], 0) == ([(new, b"new")], False)
            assert [store.knows(KIND, KEY, event) for event in (*old, new)] == [False, True, True]

    def test_a_stream_that_goes_on_is_not_forgotten_though_all_its_events_were_gone_once(self) -> None:
        with self.holding(NARROW) as store:
            store.append(KIND, KEY, "slow", b"")
            for number in range(60):
                store.append(KIND, KEY, f"s{number % 4}", b"")
            for number in range(40):
                store.append(KIND, KEY, f"call{number}", b"", last=True)
            new = store.append(KIND, KEY, "slow", b"new")
            for number in range(40, 140):
                if number % 10 == 0:
                    self.pass_time(FRESH_SECONDS + 1)
                    assert store.load(KIND, KEY)
                store.append(KIND, KEY, f"call{number}", b"", last=True)
            assert store.read(KIND, KEY, "slow", None, PATIENCE) == ([(new, b"new")], False)

    def test_streams_of_which_nothing_is_kept_are_forgotten_some_day(self) -> None:
        with self.holding(NARROW) as store:
            ids = [store.append(KIND, KEY, f"call{number}", b"", last=True) for number in range(200)]
            assert store.knows(KIND, KEY, ids[0]) is False
            assert store.read(KIND, KEY, "call0", ids[0], PATIENCE) == ([], True)
            assert store.knows(KIND, KEY, ids[150])  # nothing came after it

    def test_one_record_has_no_share_in_the_bounds_of_another(self) -> None:
        with self.holding(NARROW) as store:
            store.create(KIND, "other", {}, SECONDS)
            kept = store.append(KIND, "other", "a", b"kept")
            for _ in range(100):
                store.append(KIND, KEY, "a", b"x" * 500)
            assert store.read(KIND, "other", "a", None, 0) == ([(kept, b"kept")], False)

    def test_whatever_happens_the_bounds_hold(self) -> None:
        chance = random.Random(4)
        streams: list[str] = []
        with self.holding(NARROW) as store:
            for number in range(300):
                name = f"s{number // 15}-{chance.randrange(4)}"
                if name not in streams:
                    streams.append(name)
                try:
                    size = chance.choice((0, 1, 50, 300))
                    store.append(KIND, KEY, name, b"x" * size, last=chance.random() < 0.1)
                except ValueError:
                    pass  # it was complete
                if number % 20 == 0:
                    self.pass_time(chance.choice((0.0, FRESH_SECONDS + 1)))
                    self._check_bounds(store, streams)

    def _check_bounds(self, store: SessionStore, streams: list[str]) -> None:
        kept = [store.read(KIND, KEY, name, None, 0)[0] for name in streams]
        assert max(len(events) for events in kept) <= NARROW.stream_events
        assert sum(len(events) for events in kept) <= NARROW.events
        assert sum(len(data) for events in kept for _, data in events) <= NARROW.size

    # -- notices -------------------------------------------------------------------------------------------------------

    def test_a_notice_reaches_all_who_listen_in_order(self) -> None:
        heard: list[queue.Queue[bytes]] = [queue.Queue(), queue.Queue()]
        notices = [b"", bytes(range(256)), *(b"%d" % n for n in range(20))]
        with self.storing() as store:
            for one in heard:
                store.listen(one.put)
            for notice in notices:
                store.broadcast(notice)
            for one in heard:
                assert [one.get(timeout=PATIENCE) for _ in notices] == notices

    def test_who_has_ended_listening_hears_nothing(self) -> None:
        first: queue.Queue[bytes] = queue.Queue()
        second: queue.Queue[bytes] = queue.Queue()
        with self.storing() as store:
            end = store.listen(first.put)
            store.listen(second.put)
            end()
            end()
            store.broadcast(b"a")
            assert second.get(timeout=PATIENCE) == b"a"
            assert first.empty()

    def test_nobody_need_listen(self) -> None:
        with self.storing() as store:
            store.broadcast(b"a")

    def test_a_callback_that_fails_keeps_nobody_from_hearing(self) -> None:
        heard: queue.Queue[bytes] = queue.Queue()

        def fail(data: bytes) -> None:
            raise ZeroDivisionError

        with self.storing() as store, quiet_log():
            store.listen(fail)
            store.listen(heard.put)
            for notice in (b"a", b"b"):
                store.broadcast(notice)
                assert heard.get(timeout=PATIENCE) == notice

    # -- the store -----------------------------------------------------------------------------------------------------

    def test_a_shared_store_has_secrets_to_share_and_another_none(self) -> None:
        with self.storing() as store:
            assert store.shared is self.shared
            found = [store.secret(name) for name in ("a", "b", "a")]
            if not self.shared:
                assert found == [None, None, None]
                return
            assert [len(one or b"") for one in found] == [32, 32, 32]
            assert found[0] == found[2] != found[1]

    def test_a_closed_store_says_so_and_may_be_closed_again(self) -> None:
        store = self.make(ROOMY)
        store.create(KIND, KEY, {}, SECONDS)
        store.close()
        store.close()
        uses: list[Callable[[], object]] = [
            lambda: store.create(KIND, "b", {}, SECONDS),
            lambda: store.load(KIND, KEY),
            lambda: store.save(KIND, KEY, {}),
            lambda: store.update(KIND, KEY, lambda value: None),
            lambda: store.drop(KIND, KEY),
            lambda: store.append(KIND, KEY, "a", b""),
            lambda: store.read(KIND, KEY, "a", None, 0),
            lambda: store.knows(KIND, KEY, "a.1"),
            lambda: store.broadcast(b""),
            lambda: store.listen(lambda data: None),
        ]
        for use in uses:
            with raises(MCPConnectionError) as errors:
                use()
            assert "closed" in str(errors[0])

    def test_closing_wakes_who_reads(self) -> None:
        with self.holding() as store:
            reading = Background(lambda: store.read(KIND, KEY, "a", None, PATIENCE * 6))
            store.close()
            assert isinstance(reading.error(), (Gone, MCPConnectionError))

    # -- forks ---------------------------------------------------------------------------------------------------------

    def test_a_store_made_before_a_fork_is_used_in_the_child_and_in_the_parent(self) -> None:
        if not hasattr(os, "fork"):
            return
        with self.holding() as store:
            event = store.append(KIND, KEY, "a", b"before")

            def in_child() -> None:
                assert store.load(KIND, KEY) == {"n": 0}
                assert store.read(KIND, KEY, "a", None, 0) == ([(event, b"before")], False)
                assert store.update(KIND, KEY, lambda value: {"n": value["n"] + 1}) == {"n": 1}
                self._pour_little(store)
                store.close()

            assert verdict_of_child(in_child) == "fine"
            assert store.load(KIND, KEY) == {"n": int(self.shared)}
            assert store.knows(KIND, KEY, event)

    def _pour_little(self, store: SessionStore) -> None:
        reading = Background(lambda: self._read_all(store, "child"))
        for number in range(20):
            store.append(KIND, KEY, "child", b"%d" % number, last=number == 19)
        assert len(reading.result()) == 20

    def test_a_fork_while_others_read_and_add_harms_neither_side(self) -> None:
        if not hasattr(os, "fork"):
            return
        with self.holding() as store:
            waiting = Background(lambda: store.read(KIND, KEY, "wait", None, PATIENCE * 3))
            adding = Background(lambda: [store.append(KIND, KEY, "a", b"x" * 100) for _ in range(600)])

            def in_child() -> None:
                store.create(KIND, "child", {"child": 1}, SECONDS)
                assert store.load(KIND, "child") == {"child": 1}
                store.append(KIND, "child", "b", b"")
                assert store.drop(KIND, "child")

            assert [verdict_of_child(in_child) for _ in range(4)] == ["fine"] * 4
            assert len(adding.result()) == 600
            event = store.append(KIND, KEY, "wait", b"there")
            assert waiting.result() == ([(event, b"there")], False)

    def test_a_child_of_a_process_that_listens_listens_as_well(self) -> None:
        if not hasattr(os, "fork"):
            return
        heard: queue.Queue[bytes] = queue.Queue()
        with self.storing() as store:
            store.listen(heard.put)
            store.broadcast(b"before")
            assert heard.get(timeout=PATIENCE) == b"before"

            assert verdict_of_child(lambda: self._hear_itself(store, heard)) == "fine"
            store.broadcast(b"parent")
            told = list(iter(lambda: heard.get(timeout=PATIENCE), b"parent"))
            assert set(told) == ({b"child"} if self.shared else set())

    def _hear_itself(self, store: SessionStore, heard: queue.Queue[bytes]) -> None:
        """Say something until it is heard: nobody tells when the child begins to listen."""
        deadline = Deadline(PATIENCE)
        while heard.empty():
            assert not deadline.expired
            store.broadcast(b"child")
            threading.Event().wait(0.05)
        assert heard.get() == b"child"
        store.close()

    # -- two stores in one place ---------------------------------------------------------------------------------------

    @contextmanager
    def both(self) -> Iterator[tuple[SessionStore, SessionStore]]:
        """Give two stores in one place, with one record; not where stores are not shared."""
        with self.holding() as first, self.storing() as second:
            yield first, second

    def test_what_one_store_keeps_the_other_finds(self) -> None:
        if not self.shared:
            return
        with self.both() as (first, second):
            assert second.load(KIND, KEY) == {"n": 0}
            second.save(KIND, KEY, {"n": 5})
            event = second.append(KIND, KEY, "a", b"data")
            assert first.load(KIND, KEY) == {"n": 5}
            assert first.read(KIND, KEY, "a", None, 0) == ([(event, b"data")], False)
            assert first.knows(KIND, KEY, event)
            assert first.append(KIND, KEY, "a", b"") != event
            assert first.secret("x") == second.secret("x")

    def test_one_store_wakes_the_readers_of_the_other(self) -> None:
        if not self.shared:
            return
        with self.both() as (first, second):
            reading = Background(lambda: first.read(KIND, KEY, "a", None, PATIENCE))
            event = second.append(KIND, KEY, "a", b"data")
            assert reading.result() == ([(event, b"data")], False)
            reading = Background(lambda: first.read(KIND, KEY, "a", event, PATIENCE * 6))
            assert second.drop(KIND, KEY)
            assert isinstance(reading.error(), Gone)

    def test_caps_and_updates_hold_over_both_stores(self) -> None:
        if not self.shared:
            return
        with self.both() as (first, second):
            self._count(first, second)
            made = [store.create(KIND, f"k{n}", {}, SECONDS, most=4) for n in range(3) for store in (first, second)]
            assert made == [True, False] * 3  # the second wants a key that is taken
            assert not second.create(KIND, "more", {}, SECONDS, most=4)

    def test_what_both_stores_add_both_read(self) -> None:
        if not self.shared:
            return
        with self.both() as (first, second):
            self._pour(first, second)

    def test_a_notice_of_one_store_reaches_the_other_too(self) -> None:
        if not self.shared:
            return
        heard: list[queue.Queue[bytes]] = [queue.Queue(), queue.Queue()]
        with self.both() as (first, second):
            for store, one in zip((first, second), heard, strict=True):
                store.listen(one.put)
            first.broadcast(b"a")
            assert [one.get(timeout=PATIENCE) for one in heard] == [b"a", b"a"]
            second.broadcast(b"b")
            assert [one.get(timeout=PATIENCE) for one in heard] == [b"b", b"b"]
