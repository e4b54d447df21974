"""The circuit does what its model says, in any order of events and on eight threads; one call at a time may probe."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from manage.scripted import Clock, Log, Scripted, Step

from mcp_sync.deadlines import LONGEST_TIMEOUT, Deadline
from mcp_sync.engine.caller import CallFuture, Question
from mcp_sync.exceptions import (
    AuthError,
    CircuitOpen,
    ForkedClientError,
    HTTPStatusError,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MCPTransportError,
    MessageTooLarge,
    RateLimited,
    RemoteProtocolError,
    ServerError,
    SessionExpired,
    TooManyRequests,
)
from mcp_sync.manage.breaker import GRACE_SECONDS, Breaking, Circuit, Passage, shows_life
from mcp_sync.observe import CircuitChanged
from mcp_sync.policies import Breaker, gather
from mcp_sync.protocol.messages import Notification
from mcp_sync.testing.tools import PATIENCE, Background, in_threads

DONE: dict[str, Any] = {"done": True}
THREADS = 8
ASK: Question[Any] = Question("tools/call")
DOWN = MCPConnectionError("lost")


# The model: what a circuit is, said a second time, as a pure step from one value to the next.


@dataclass(frozen=True)
class Model:
    """A circuit as a value. Each caller is known by a number; ``inside`` are those whose outcome counts."""

    threshold: int
    timeout: float
    now: float = 0.0
    state: str = "closed"
    failures: int = 0
    until: float = 0.0
    inside: frozenset[int] = frozenset()

    def enter(self, who: int, seconds: float) -> tuple[Model, str]:
        """Return the model after somebody came, and ``in`` or ``refused``."""
        if self.state == "closed":
            return replace(self, inside=self.inside | {who}), "in"
        if self.now < self.until:
            return self, "refused"
        until = self.now + seconds + GRACE_SECONDS
        return replace(self, state="half-open", until=until, inside=frozenset({who})), "in"

    def leave(self, who: int, alive: bool | None) -> tuple[Model, str]:
        """Return the model after somebody left, and the state that this led to, or nothing."""
        if who not in self.inside:
            return self, ""
        rest = replace(self, inside=self.inside - {who})
        if alive is None:
            return replace(rest, until=self.now), ""
        if alive:
            closed = replace(rest, state="closed", failures=0)
            return closed, "closed" if self.state != "closed" else ""
        failures = self.failures + 1
        if self.state == "closed" and failures < self.threshold:
            return replace(rest, failures=failures), ""
        until = self.now + self.timeout
        return replace(rest, state="open", failures=failures, until=until, inside=frozenset()), "open"

    def pass_time(self, seconds: float) -> tuple[Model, str]:
        """Return the model later."""
        return replace(self, now=self.now + seconds), ""


class Driven(RuleBasedStateMachine):
    """A Circuit and its model, and eight callers who enter and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.circuit = Circuit(2, 10.0, self.clock)
        self.model = Model(2, 10.0, now=self.clock.now)
        self.inside: dict[int, Passage] = {}

    def outside(self) -> int:
        return next(who for who in range(THREADS) if who not in self.inside)

    @precondition(lambda self: len(self.inside) < THREADS)
    @rule(seconds=st.sampled_from([0.0, 3.0, 20.0]))
    def enter(self, seconds: float) -> None:
        who, before = self.outside(), self.circuit.state
        self.model, said = self.model.enter(who, seconds)
        if said == "refused":
            with pytest.raises(CircuitOpen) as caught:
                self.circuit.enter(seconds)
            assert 0 < caught.value.retry_after <= 10.0
        else:
            self.inside[who] = passage = self.circuit.enter(seconds)
            assert passage.change == (self.circuit.state if self.circuit.state != before else None)

    @precondition(lambda self: self.inside)
    @rule(place=st.integers(0, THREADS - 1), alive=st.sampled_from([True, False, None]))
    def leave(self, place: int, alive: bool | None) -> None:
        who = sorted(self.inside)[place % len(self.inside)]
        self.model, change = self.model.leave(who, alive)
        assert self.circuit.leave(self.inside.pop(who), alive) == (change or None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 10.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.model, _ = self.model.pass_time(seconds)

    @rule()
    def fork(self) -> None:
        self.circuit.forked()
        self.model = replace(self.model, state="closed", failures=0, inside=frozenset())

    @invariant()
    def it_is_as_its_model(self) -> None:
        assert self.circuit.state == self.model.state
        assert self.circuit._failures == self.model.failures
        assert self.model.state != "half-open" or len(self.model.inside) <= 1


TestCircuit = Driven.TestCase
TestCircuit.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


# Eight threads at once: what they saw can be put into one order that the model allows.


@dataclass(frozen=True)
class Event:
    """What one thread did, when it began and ended, and what came of it."""

    began: int
    ended: int
    act: Callable[[Model], tuple[Model, str]]
    came: str


def in_one_order(model: Model, lanes: tuple[tuple[Event, ...], ...]) -> bool:
    """Return whether the events, each lane in its order, can have happened one at a time (Wing and Gong)."""
    hopeless: set[tuple[Model, tuple[int, ...]]] = set()

    def search(model: Model, places: tuple[int, ...]) -> bool:
        nexts = [(n, lane[places[n]]) for n, lane in enumerate(lanes) if places[n] < len(lane)]
        if not nexts:
            return True
        if (model, places) in hopeless:
            return False
        first_end = min(event.ended for _, event in nexts)
        for n, event in nexts:
            if event.began <= first_end:
                after, came = event.act(model)
                moved = tuple(place + (n == other) for other, place in enumerate(places))
                if came == event.came and search(after, moved):
                    return True
        hopeless.add((model, places))
        return False

    return search(model, (0,) * len(lanes))


class Witness:
    """One thread's view of the circuit."""

    def __init__(self, who: int, circuit: Circuit, ticks: Iterator[int]) -> None:
        self.who, self.circuit, self.ticks = who, circuit, ticks
        self.events: list[Event] = []

    def call(self, alive: bool | None) -> None:
        """Enter, and leave with that."""
        began = next(self.ticks)
        try:
            passage = self.circuit.enter(3.0)
        except CircuitOpen:
            self._note(began, lambda model: model.enter(self.who, 3.0), "refused")
            return
        self._note(began, lambda model: model.enter(self.who, 3.0), "in")
        began = next(self.ticks)
        change = self.circuit.leave(passage, alive)
        self._note(began, lambda model: model.leave(self.who, alive), change or "")

    def wait(self, clock: Clock, seconds: float) -> None:
        """Let the time pass; one thread only."""
        began = next(self.ticks)
        clock.now += seconds
        self._note(began, lambda model: model.pass_time(seconds), "")

    def _note(self, began: int, act: Callable[[Model], tuple[Model, str]], came: str) -> None:
        self.events.append(Event(began, next(self.ticks), act, came))


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


outcomes = st.lists(st.sampled_from([True, False, False, None]), min_size=1, max_size=6)


@pytest.mark.usefixtures("hasty")
def test_what_eight_threads_see_can_be_put_into_one_order() -> None:
    met: set[str] = set()

    @settings(max_examples=100, deadline=None)
    @given(st.lists(outcomes, min_size=THREADS, max_size=THREADS), st.lists(st.sampled_from([1.0, 5.0, 10.0])))
    def check(plans: list[list[bool | None]], pauses: list[float]) -> None:
        clock, ticks = Clock(), itertools.count()
        circuit = Circuit(2, 10.0, clock)
        witnesses = [Witness(who, circuit, ticks) for who in range(THREADS)]
        together = threading.Barrier(THREADS)

        def work(who: int) -> None:
            together.wait(PATIENCE)
            for turn, alive in enumerate(plans[who]):
                if who == 0 and turn < len(pauses):
                    witnesses[0].wait(clock, pauses[turn])
                witnesses[who].call(alive)

        in_threads(THREADS, work)
        assert in_one_order(Model(2, 10.0, now=1000.0), tuple(tuple(one.events) for one in witnesses))
        met.update(event.came for one in witnesses for event in one.events)

    check()
    assert met >= {"in", "refused", "open"}


def test_an_order_that_the_model_forbids_is_found() -> None:
    def fail(model: Model) -> tuple[Model, str]:
        return model.leave(0, False)

    def come(model: Model) -> tuple[Model, str]:
        return model.enter(0, 1.0)

    history = (Event(0, 1, come, "in"), Event(2, 3, fail, "open"), Event(4, 5, come, "in"))
    assert not in_one_order(Model(1, 10.0), (history,))
    assert in_one_order(Model(1, 10.0), ((*history[:2], Event(4, 5, come, "refused")),))
    assert in_one_order(Model(1, 10.0), (history[:2], (Event(0, 9, come, "refused"),)))


@pytest.mark.usefixtures("hasty")
def test_of_eight_who_come_at_once_one_may_probe() -> None:
    clock = Clock()
    circuit = Circuit(1, 10.0, clock)
    for _ in range(100):
        circuit.leave(circuit.enter(1.0), False)
        clock.now += 10.0

        def come(_: int) -> Passage | None:
            try:
                return circuit.enter(1.0)
            except CircuitOpen:
                return None

        [probe] = [passage for passage in in_threads(THREADS, come) if passage is not None]
        assert probe.change == "half-open"
        assert circuit.leave(probe, True) == "closed"


# Around a caller.


class Bench:
    """A Breaking around a script, by a clock of its own: opens at the second failure, for ten seconds."""

    def __init__(self, *steps: Step) -> None:
        self.clock, self.log, self.caller = Clock(), Log(), Scripted(*steps)
        self.circuit = Circuit(2, 10.0, self.clock)
        self.breaking = Breaking(self.caller, self.circuit, emit=self.log)

    @property
    def changes(self) -> list[str]:
        return [event.state for event in self.log if isinstance(event, CircuitChanged)]

    def ask(self, timeout: float = 3.0) -> dict[str, Any]:
        return self.breaking.call(ASK, self.clock.deadline(timeout))

    def submit(self, question: Question[Any] = ASK) -> CallFuture[Any]:
        return self.breaking.submit(question, self.clock.deadline(3.0))

    def open(self, seconds: float = 0.0) -> None:
        """Let it have opened so many seconds ago."""
        for _ in range(2):
            self.circuit.leave(self.circuit.enter(1.0), False)
        self.clock.now += seconds


SHOWS: list[tuple[BaseException | None, bool | None]] = [
    (None, True),
    (JSONRPCError(-32603, "no"), True),
    (SessionExpired("gone", may_have_run=False), True),
    (AuthError("who", 401), True),
    (HTTPStatusError("what", 404), True),
    (HTTPStatusError("moved", 301, may_have_run=False), True),
    (RemoteProtocolError("what"), True),
    (MessageTooLarge("long", may_have_run=True), True),
    (MCPConnectionError("lost"), False),
    (MCPConnectionError("cannot connect", may_have_run=False), False),
    (MCPTimeoutError("late"), False),
    (MCPTimeoutError("late", may_have_run=False), False),
    (ServerError("down", 500), False),
    (RateLimited("often", 429, 1.0), False),
    (MCPConnectionError("closed", details={"phase": "closed"}), None),
    (ForkedClientError("forked"), None),
    (TooManyRequests("no"), None),
    (CircuitOpen("no", 1.0), None),
    (LocalProtocolError("no", may_have_run=False), None),
    (MessageTooLarge("long", may_have_run=False), None),
    (MCPTransportError("not on this system", may_have_run=False), None),
    (MCPError("who knows"), None),
    (KeyboardInterrupt(), None),
    (ZeroDivisionError(), None),
]


@pytest.mark.parametrize(("error", "alive"), SHOWS, ids=[f"{type(row[0]).__name__}-{row[1]}" for row in SHOWS])
def test_what_an_end_shows_of_the_server(error: BaseException | None, alive: bool | None) -> None:
    assert shows_life(error) is alive


@pytest.mark.parametrize(("error", "alive"), SHOWS, ids=[f"{type(row[0]).__name__}-{row[1]}" for row in SHOWS])
@pytest.mark.parametrize("how", ["call", "submit", "settle", "notify"])
def test_a_probe_closes_opens_or_makes_room_for_the_next(
    how: str, error: BaseException | None, alive: bool | None
) -> None:
    bench = Bench(error if error is not None and how != "settle" else DONE)
    bench.open(10.0)

    def probe() -> None:
        if how == "notify":
            bench.breaking.notify("words", None, bench.clock.deadline())
        elif how == "call":
            bench.ask()
        else:
            future = bench.submit()
            future.settle(None if error else DONE, error)

    if error is None or how == "settle":
        probe()
        alive = None if how == "notify" else alive  # what could be sent was not heard yet
    else:
        with pytest.raises(type(error)) as caught:
            probe()
        assert caught.value is error
    last = {True: ["closed"], False: ["open"], None: []}[alive]
    assert bench.changes == ["half-open", *last]
    assert bench.circuit.state == bench.changes[-1]
    if alive is None:
        bench.circuit.enter(1.0)


def test_it_opens_after_so_many_failures_in_a_row_and_then_sends_nothing() -> None:
    bench = Bench(DOWN, DONE, DOWN, DOWN, DONE)
    for outcome in (DOWN, None, DOWN, DOWN):
        if outcome is None:
            assert bench.ask() == DONE
        else:
            with pytest.raises(MCPConnectionError):
                bench.ask()
    assert bench.changes == ["open"]
    bench.clock.now += 4.0
    for ask in (bench.ask, bench.submit, lambda: bench.breaking.notify("words", None, bench.clock.deadline())):
        with pytest.raises(CircuitOpen) as caught:
            ask()
        assert caught.value.retry_after == 6.0
        assert caught.value.may_have_run is False
        assert caught.value.details["server"] == "calc"
        assert "to calc: 2 calls in a row have failed; it is left alone for 6.0 s more" in str(caught.value)
    assert bench.caller.attempts == 4
    bench.clock.now += 6.0
    assert bench.ask() == DONE
    assert bench.changes == ["open", "half-open", "closed"]


def test_the_refusal_says_which_call_it_was() -> None:
    bench = Bench()
    bench.open()
    with pytest.raises(CircuitOpen, match=r"^tools/call to calc: ") as caught:
        bench.ask()
    details = {"server": "calc", "method": "tools/call", "phase": "send", "elapsed": 0.0, "limit": 3.0}
    assert caught.value.details == details


def test_while_one_probes_nothing_else_is_sent() -> None:
    probing, release = threading.Event(), threading.Event()

    def answer() -> dict[str, Any]:
        probing.set()
        assert release.wait(PATIENCE)
        return DONE

    bench = Bench(answer)
    bench.open(10.0)
    probe = Background(bench.ask)
    assert probing.wait(PATIENCE)

    def refused(_: int) -> float:
        with pytest.raises(CircuitOpen, match="another call is finding out") as caught:
            bench.ask()
        return caught.value.retry_after

    assert in_threads(THREADS, refused) == [3.0 + GRACE_SECONDS] * THREADS
    release.set()
    assert probe.result() == DONE
    assert bench.caller.attempts == 1
    assert bench.ask() == DONE


def test_a_probe_that_fails_opens_it_for_another_while() -> None:
    bench = Bench(DOWN, DONE)
    bench.open(10.0)
    with pytest.raises(MCPConnectionError):
        bench.ask()
    bench.clock.now += 9.9
    with pytest.raises(CircuitOpen):
        bench.ask()
    bench.clock.now += 0.2
    assert bench.ask() == DONE
    assert bench.changes == ["half-open", "open", "half-open", "closed"]


def test_a_probe_that_is_cancelled_makes_room_for_the_next() -> None:
    bench = Bench()
    bench.open(10.0)
    probe = bench.submit()
    with pytest.raises(CircuitOpen):
        bench.submit()
    assert probe.cancel()
    bench.submit().settle(DONE, None)
    assert bench.changes == ["half-open", "closed"]


def test_a_probe_that_nobody_hears_of_keeps_others_out_until_its_deadline() -> None:
    bench = Bench()
    bench.open(10.0)
    lost = bench.submit()
    bench.clock.now += 3.0
    with pytest.raises(CircuitOpen):
        bench.ask()
    bench.clock.now += GRACE_SECONDS
    second = bench.submit()
    lost.settle(None, DOWN)
    assert bench.circuit.state == "half-open"
    second.settle(DONE, None)
    assert bench.changes == ["half-open", "closed"]


@pytest.mark.parametrize("seconds", [0.0, LONGEST_TIMEOUT])
def test_a_probe_may_have_any_deadline(seconds: float) -> None:
    bench = Bench()
    bench.open(10.0)
    bench.circuit.enter(seconds)
    with pytest.raises(CircuitOpen) as caught:
        bench.ask()
    assert 0.0 < caught.value.retry_after <= 10.0


def test_a_call_from_before_it_opened_says_nothing_of_today() -> None:
    bench = Bench()
    old = [bench.submit() for _ in range(3)]
    bench.open()
    old[0].settle(DONE, None)
    assert bench.circuit.state == "open"
    bench.clock.now += 10.0
    probe = bench.submit()
    old[1].settle(None, DOWN)
    assert bench.circuit.state == "half-open"
    probe.settle(DONE, None)
    old[2].settle(None, DOWN)
    assert bench.circuit._failures == 0


def test_a_future_keeps_its_own_sequel_and_its_question_is_as_it_was() -> None:
    told: list[CallFuture[Any]] = []
    converted: list[Any] = []
    question: Question[Any] = Question("x", then=told.append, convert=lambda raw, deadline: converted.append(raw))
    bench = Bench()
    bench.open(10.0)
    future = bench.submit(question)
    future.settle(DONE, None)
    assert (told, converted) == ([future], [])
    assert future.question is question
    assert bench.circuit.state == "closed"


def test_an_open_ended_question_probes_until_something_is_pushed_to_it() -> None:
    """B3: its outcome may take for ever, and would keep all others out meanwhile."""
    bench = Bench()
    heard: list[Notification] = []
    bench.open(10.0)
    listen: Question[Any] = Question("subscriptions/listen", open_ended=True, on_push=heard.append)
    future = bench.submit(listen)
    with pytest.raises(CircuitOpen):
        bench.ask()
    assert future.question.on_push is not None
    acknowledged = Notification("notifications/subscriptions/acknowledged", {})
    future.question.on_push(acknowledged)
    assert heard == [acknowledged]
    assert bench.ask() == {}
    future.settle(None, DOWN)
    assert bench.circuit.state == "closed"
    assert bench.changes == ["half-open", "closed"]


def test_a_future_counts_though_nobody_waits_for_it() -> None:
    bench = Bench()
    for future in [bench.submit(), bench.submit()]:
        future.settle(None, MCPTimeoutError("late"))
    assert bench.changes == ["open"]


def test_ctrl_c_between_asking_and_hearing_frees_the_probe() -> None:
    bench = Bench(KeyboardInterrupt(), KeyboardInterrupt(), DONE)
    bench.open(10.0)
    for ask in (bench.ask, bench.submit):
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert bench.ask() == DONE


def test_callers_of_one_server_may_share_a_circuit() -> None:
    bench = Bench(DOWN)
    other = Breaking(Scripted(DONE), bench.circuit, emit=bench.log)
    for _ in range(2):
        with pytest.raises(MCPConnectionError):
            bench.ask()
    with pytest.raises(CircuitOpen):
        other.call(ASK, Deadline(1))


def test_in_a_forked_child_it_begins_anew_though_the_lock_is_held() -> None:
    bench = Bench(DONE)
    bench.open()
    bench.circuit._lock.acquire()
    bench.circuit.forked()
    assert bench.ask() == DONE
    assert repr(bench.circuit) == "<Circuit closed, 0 of 2 failures>"


def test_the_policy_knows_its_keywords() -> None:
    class Transport:
        def __init__(self, **knobs: Any) -> None: ...

    def breaker(**knobs: Any) -> Breaker:
        return gather(Transport, [Breaker], None, knobs)[Breaker]

    assert breaker() == Breaker() == Breaker(on=False, threshold=5, timeout=30.0)
    known = breaker(circuit_breaker_enabled=True, circuit_breaker_threshold=1, circuit_breaker_timeout=0)
    assert known == Breaker(True, 1, 0.0)
    for wrong in ({"circuit_breaker_threshold": 0}, {"circuit_breaker_timeout": -1}):
        with pytest.raises(ValueError, match="^circuit_breaker_"):
            breaker(**wrong)
    with pytest.raises(TypeError, match="^circuit_breaker_enabled must be True or False"):
        breaker(circuit_breaker_enabled=1)
