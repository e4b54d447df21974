"""The line before the seat, at its narrowest: in each of these moments a caller could be forgotten for ever.

There is no keeper here, who would make up for it a moment later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Question
from mcp_sync.engine.seat import Seat
from mcp_sync.engine.tickets import Ticket

PATIENCE = 20.0
SOON = 5.0
"""Who is forgotten waits for so long."""


def ticket() -> Ticket:
    return Ticket(Question("ask"))


def answered(call: Ticket, deadline: Deadline) -> bool:
    """Read: the answer is there at once."""
    call.settle({}, None)
    return True


@contextmanager
def somebody_reading(seat: Seat) -> Iterator[Callable[[], None]]:
    """Have a thread read; give what makes it get up, and returns when it is gone."""
    sits, go = threading.Event(), threading.Event()

    def read(call: Ticket, deadline: Deadline) -> bool:
        sits.set()
        assert go.wait(PATIENCE)
        return answered(call, deadline)

    reader = threading.Thread(target=lambda: seat.wait(ticket(), Deadline(PATIENCE), read))

    def get_up() -> None:
        go.set()
        reader.join(PATIENCE)

    reader.start()
    assert sits.wait(PATIENCE)
    try:
        yield get_up
    finally:
        get_up()


class Watched:
    """The place to sit on; tells how often the main thread has tried it in vain."""

    def __init__(self, place: Any, in_vain: Callable[[int], None]) -> None:
        self._place = place
        self._in_vain = in_vain
        self.tries = 0

    def acquire(self, blocking: bool = True) -> bool:
        """Try it."""
        if self._place.acquire(blocking=blocking):
            return True
        self.tries += 1
        self._in_vain(self.tries)
        return False

    def release(self) -> None:
        """Get up."""
        self._place.release()


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_who_tries_in_vain_just_before_the_reader_goes_is_not_forgotten(moment: int) -> None:
    seat = Seat("x")
    with somebody_reading(seat) as get_up:
        seat._place = watched = Watched(seat._place, lambda tries: get_up() if tries == moment else None)  # type: ignore[assignment]
        assert seat.wait(ticket(), Deadline(SOON), answered)
        assert watched.tries >= moment, "nobody got up while it tried"


class Sleeper(Ticket):
    """A call whose caller sleeps as the test says."""

    def __init__(self, sleep: Callable[[Ticket], bool]) -> None:
        super().__init__(Question("ask"))
        self._sleep = sleep

    def sleep(self, timeout: float) -> bool:
        """Sleep so."""
        return self._sleep(self)


@pytest.mark.parametrize("answered_meanwhile", [False, True], ids=["its time is over", "its answer has come"])
def test_who_is_called_and_has_no_use_for_the_seat_calls_the_next(answered_meanwhile: bool) -> None:
    seat = Seat("x")
    in_line, next_is_done = threading.Event(), threading.Event()
    now = [0.0]
    deadline = Deadline(1.0, lambda: now[0])

    def wait_behind() -> None:
        def sleep(call: Ticket) -> bool:
            in_line.set()
            return Ticket.sleep(call, SOON)

        if seat.wait(Sleeper(sleep), Deadline(SOON), answered):
            next_is_done.set()

    behind = threading.Thread(target=wait_behind)
    with somebody_reading(seat) as get_up:

        def sleep(call: Ticket) -> bool:
            behind.start()
            assert in_line.wait(PATIENCE)
            get_up()  # who calls us, the first in the line; and in that very moment:
            if answered_meanwhile:
                call.settle({}, None)
            else:
                now[0] = deadline.at
            return answered_meanwhile

        assert seat.wait(Sleeper(sleep), deadline, answered) is answered_meanwhile
        behind.join(PATIENCE)
    assert next_is_done.is_set(), "the next in the line was never called"
