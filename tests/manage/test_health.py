"""The health of an endpoint is what its model says, in any order of events and on eight threads; one call may probe."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from manage.scripted import Clock
from manage.test_breaker import Event, hasty, in_one_order

from mcp_sync.exceptions import (
    AuthError,
    CircuitOpen,
    HTTPStatusError,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    RateLimited,
    RemoteProtocolError,
    ServerError,
    SessionExpired,
    TooManyRequests,
)
from mcp_sync.manage.breaker import GRACE_SECONDS
from mcp_sync.manage.health import FIRST_PAUSE, PAUSED, Change, Health, kind_of, works
from mcp_sync.testing.tools import PATIENCE, in_threads

__all__ = ["hasty"]  # a fixture

THREADS = 8
THRESHOLD, LONGEST = 2, 1.0
ERRORS: dict[bool | None, MCPError] = {
    False: MCPConnectionError("lost", may_have_run=None),
    None: TooManyRequests("we", may_have_run=False),
}


@dataclass(frozen=True)
class Model:
    """A health as a value. ``inside`` are those whose outcome counts, ``looking`` the checks whose outcome does."""

    now: float = 0.0
    usable: bool = True
    failures: int = 0
    pause: float = 0.0
    until: float = 0.0
    inside: frozenset[int] = frozenset()
    looking: frozenset[int] = frozenset()

    def enter(self, who: int, seconds: float) -> tuple[Model, str]:
        """Return the model after somebody came, and ``in`` or ``refused``."""
        if self.usable:
            return replace(self, inside=self.inside | {who}), "in"
        if self.now < self.until:
            return self, "refused"
        return replace(self, until=self.now + seconds + GRACE_SECONDS, inside=frozenset({who})), "in"

    def leave(self, who: int, worked: bool | None) -> tuple[Model, str]:
        """Return the model after somebody left, and the status that this led to, or nothing."""
        if who not in self.inside:
            return self, ""
        rest = replace(self, inside=self.inside - {who})
        if worked is None:
            return (rest if self.usable else replace(rest, until=self.now)), ""
        return rest._recover() if worked else rest._fail(probe=not self.usable)

    def look(self, who: int) -> tuple[Model, str]:
        """Return the model after a check began."""
        return replace(self, looking=self.looking | {who}), ""

    def checked(self, who: int, worked: bool) -> tuple[Model, str]:
        """Return the model after a check ended, and the status that this led to, or nothing."""
        if who not in self.looking:
            return self, ""
        rest = replace(self, looking=self.looking - {who})
        return rest._recover() if worked else rest._fail(probe=False)

    def pass_time(self, seconds: float) -> tuple[Model, str]:
        """Return the model later."""
        return replace(self, now=self.now + seconds), ""

    def _recover(self) -> tuple[Model, str]:
        after = replace(self, usable=True, failures=0, pause=0.0)
        if not self.usable:
            after = replace(after, inside=frozenset(), looking=frozenset())
        return after, "healthy" if self.failures else ""

    def _fail(self, probe: bool) -> tuple[Model, str]:
        after = replace(self, failures=self.failures + 1)
        if not probe and (not self.usable or after.failures < THRESHOLD):
            return after, "degraded" if self.usable and not self.failures else ""
        pause = min(max(2 * self.pause, FIRST_PAUSE), LONGEST)
        after = replace(after, usable=False, pause=pause, until=self.now + pause, inside=frozenset())
        if self.usable:
            after = replace(after, looking=frozenset())
        return after, "unhealthy" if self.usable else ""


def settle(health: Health, passage: int, worked: bool | None) -> Change | None:
    """End a call."""
    return health.succeeded(passage, 0.0) if worked else health.failed(passage, ERRORS[worked])


class Driven(RuleBasedStateMachine):
    """A Health and its model; eight callers who enter and leave in any order, and checks."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.health = Health(THRESHOLD, LONGEST, self.clock)
        self.model = Model(now=self.clock.now)
        self.inside: dict[int, int] = {}
        self.looking: dict[int, int] = {}

    @precondition(lambda self: len(self.inside) < THREADS)
    @rule(seconds=st.sampled_from([0.0, 3.0]))
    def enter(self, seconds: float) -> None:
        who = next(who for who in range(THREADS) if who not in self.inside)
        self.model, said = self.model.enter(who, seconds)
        passage = self.health.enter(seconds)
        assert (passage is None) == (said == "refused")
        if passage is not None:
            self.inside[who] = passage

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), worked=st.sampled_from([True, False, False, None]))
    def leave(self, data: st.DataObject, worked: bool | None) -> None:
        who = data.draw(st.sampled_from(sorted(self.inside)))
        self.model, said = self.model.leave(who, worked)
        assert after(settle(self.health, self.inside.pop(who), worked)) == said

    @precondition(lambda self: len(self.looking) < 3)
    @rule()
    def look(self) -> None:
        who = next(who for who in range(3) if who not in self.looking)
        self.model, _ = self.model.look(who)
        self.looking[who] = self.health.look()

    @precondition(lambda self: self.looking)
    @rule(data=st.data(), worked=st.booleans())
    def checked(self, data: st.DataObject, worked: bool) -> None:
        who = data.draw(st.sampled_from(sorted(self.looking)))
        self.model, said = self.model.checked(who, worked)
        error = None if worked else ERRORS[False]
        assert after(self.health.checked(self.looking.pop(who), 1.0, error, 0.0)) == said

    @rule(seconds=st.sampled_from([0.05, 0.1, 0.5, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.model, _ = self.model.pass_time(seconds)

    @invariant()
    def they_agree(self) -> None:
        expected = "unhealthy" if not self.model.usable else "degraded" if self.model.failures else "healthy"
        assert self.health.status == expected
        assert self.health.usable is self.model.usable
        assert self.health.report()["consecutive_failures"] == self.model.failures
        assert self.health.pause_left == pytest.approx(
            0.0 if self.model.usable else max(0.0, self.model.until - self.model.now)
        )


TestTheModel = Driven.TestCase


def after(change: Change | None) -> str:
    """Return the status that something led to, or nothing."""
    return "" if change is None else change.after


class Witness:
    """One thread's view of a health."""

    def __init__(self, who: int, health: Health, ticks: Any) -> None:
        self.who, self.health, self.ticks = who, health, ticks
        self.events: list[Event] = []

    def call(self, worked: bool | None) -> None:
        """Enter, and leave with that."""
        began = next(self.ticks)
        passage = self.health.enter(3.0)
        self._note(began, lambda model: model.enter(self.who, 3.0), "refused" if passage is None else "in")
        if passage is not None:
            began = next(self.ticks)
            change = settle(self.health, passage, worked)
            self._note(began, lambda model: model.leave(self.who, worked), after(change))

    def check(self, worked: bool) -> None:
        """Look, and take note."""
        began = next(self.ticks)
        passage = self.health.look()
        self._note(began, lambda model: model.look(self.who), "")
        began = next(self.ticks)
        change = self.health.checked(passage, 1.0, None if worked else ERRORS[False], 0.0)
        self._note(began, lambda model: model.checked(self.who, worked), after(change))

    def wait(self, clock: Clock, seconds: float) -> None:
        """Let the time pass; one thread only."""
        began = next(self.ticks)
        clock.now += seconds
        self._note(began, lambda model: model.pass_time(seconds), "")

    def _note(self, began: int, act: Any, came: str) -> None:
        self.events.append(Event(began, next(self.ticks), act, came))


acts = st.lists(
    st.tuples(st.sampled_from(["call", "call", "call", "check"]), st.sampled_from([True, False, False])),
    min_size=1,
    max_size=5,
)


@pytest.mark.usefixtures("hasty")
def test_what_eight_threads_see_can_be_put_into_one_order() -> None:
    met: set[str] = set()

    @settings(max_examples=60, deadline=None)
    @given(st.lists(acts, min_size=THREADS, max_size=THREADS), st.lists(st.sampled_from([0.1, 0.3, 5.0]), max_size=4))
    def check(plans: list[list[tuple[str, bool]]], pauses: list[float]) -> None:
        clock, ticks = Clock(), itertools.count()
        health = Health(THRESHOLD, LONGEST, clock)
        witnesses = [Witness(who, health, ticks) for who in range(THREADS)]
        together = threading.Barrier(THREADS)

        def work(who: int) -> None:
            together.wait(PATIENCE)
            for turn, (act, worked) in enumerate(plans[who]):
                if who == 0 and turn < len(pauses):
                    witnesses[0].wait(clock, pauses[turn])
                getattr(witnesses[who], act)(worked)

        in_threads(THREADS, work)
        assert in_one_order(Model(now=1000.0), tuple(tuple(one.events) for one in witnesses))  # type: ignore[arg-type]
        met.update(event.came for one in witnesses for event in one.events)

    check()
    assert met >= {"in", "refused", "unhealthy", "degraded"}


@pytest.mark.usefixtures("hasty")
def test_of_eight_who_come_at_once_one_may_probe() -> None:
    clock = Clock()
    health = Health(1, LONGEST, clock)
    for _ in range(50):
        passage = health.enter(1.0)
        assert passage is not None
        health.failed(passage, ERRORS[False])
        clock.now += LONGEST + 10
        [probe] = [found for found in in_threads(THREADS, lambda _: health.enter(1.0)) if found is not None]
        assert after(health.succeeded(probe, 0.0)) == "healthy"


@pytest.mark.parametrize(
    ("error", "kind", "verdict"),
    [
        (MCPConnectionError("x"), "connection_failed", False),
        (MCPTimeoutError("x"), "timeout", False),
        (AuthError("x", 401, may_have_run=False), "auth_expired", False),
        (RateLimited("x", 429), "rate_limited", False),
        (ServerError("x", 503), "server_error", False),
        (HTTPStatusError("x", 400), "server_error", True),
        (HTTPStatusError("x", 404, details={"phase": "connect"}), "server_error", False),
        (RemoteProtocolError("x"), "protocol_error", False),
        (LocalProtocolError("x"), "protocol_error", None),
        (CircuitOpen("x", 1.0), "connection_failed", False),
        (SessionExpired("x"), "connection_failed", True),
        (JSONRPCError(1, "x"), "connection_failed", True),
        (MCPConnectionError("x", details={"phase": "closed"}), "connection_failed", None),
        (MCPConnectionError("x", details={"phase": PAUSED}), "connection_failed", None),
        (KeyboardInterrupt(), "connection_failed", None),
    ],
)
def test_what_an_error_says_of_an_endpoint(error: BaseException, kind: str, verdict: bool | None) -> None:
    assert kind_of(error) == kind
    assert works(error) is verdict


def test_one_that_has_become_slow_is_degraded_until_it_is_fast_again() -> None:
    health = Health(3)
    passage = health.look()
    for _ in range(50):
        assert health.succeeded(passage, 0.05) is None
    changes = [change for _ in range(4) if (change := health.succeeded(passage, 3.0)) is not None]
    assert [change.after for change in changes] == ["degraded"]
    assert health.usable
    changes = [change for _ in range(50) if (change := health.succeeded(passage, 0.05)) is not None]
    assert [change.after for change in changes] == ["healthy"]


def test_a_kept_error_keeps_no_frames() -> None:
    health = Health(1)

    def fail() -> None:
        try:
            raise MCPConnectionError("lost") from ValueError("why")
        except MCPConnectionError as error:
            health.failed(health.look(), error)

    fail()
    assert health.error is not None
    assert health.error.__traceback__ is None
    assert health.error.__cause__ is None
    assert health.report()["error_type"] == "connection_failed"


def test_in_a_forked_child_the_lock_is_a_new_one() -> None:
    health = Health(1)
    health._lock.acquire()
    health.forked()
    assert health.status == "healthy"
