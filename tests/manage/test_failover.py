"""A conversation with several endpoints is one conversation: the contract of every Caller, and what failover adds."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from contracts.test_memory import connect
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from manage.scripted import Clock, Scripted

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Caller, Handler, Question
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.connect import Introduction, converse
from mcp_sync.engine.dispatch import Workers, start_thread
from mcp_sync.exceptions import (
    AllTransportsFailed,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    SessionExpired,
    TooManyRequests,
)
from mcp_sync.manage.endpoints import Endpoint, Group, Places
from mcp_sync.manage.failover import Failover
from mcp_sync.manage.health import FIRST_PAUSE, LONGEST_PAUSE, PAUSED, Health
from mcp_sync.manage.links import JITTER
from mcp_sync.manage.orderings import priority
from mcp_sync.manage.reconnect import Reconnecting
from mcp_sync.manage.retry import Retrying
from mcp_sync.policies import Limits, Reconnect, Retry
from mcp_sync.protocol.eras import Handshake
from mcp_sync.protocol.negotiation import Agreement
from mcp_sync.testing import CallerContract, Partner
from mcp_sync.testing.caller import Answering
from mcp_sync.testing.tools import PATIENCE, in_threads


class Once:
    """A transport to a server that can be reached once."""

    name = "once"

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.dialled = 0

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        self.dialled += 1
        if self.dialled > 1:
            raise MCPConnectionError("nobody is there any more", details={"phase": "connect"}, may_have_run=False)
        channel = connect(self.limits, lambda wire: start_thread("partner", Partner(wire).run))
        return converse(channel, introduction, self.limits, deadline)


class Refusing:
    """A transport to where nobody is."""

    name = "refusing"

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        raise MCPConnectionError("nobody is there", details={"phase": "connect"}, may_have_run=False)


class Closing(Failover):
    """A Failover that ends the threads that close its connections when it is closed itself."""

    workers: Workers

    def close(self, deadline: Deadline) -> None:
        super().close(deadline)
        self.workers.close(deadline)


def failover(
    *transports: object, handler: Handler | None = None, version: str | None = None, threshold: int = 3
) -> Failover:
    """Return a Failover over these transports, named a, b, c ..., begun."""
    group = Group("default", priority, lambda event, data: None)
    for name, transport in zip("abcdefgh", transports, strict=False):
        group.add(Endpoint(name, transport, 1, group, Health(threshold), Places(100)))  # type: ignore[arg-type]
    workers = Workers("mcp-manager", 2)
    whole = Closing(group, "a", Introduction(version=version, handler=handler), workers.offer)
    whole.workers = workers
    whole.begin(Deadline(PATIENCE))
    return whole


class TestFailoverOfOne(CallerContract):
    def connect(self, limits: Limits) -> Channel:
        raise NotImplementedError

    def make(self, handler: Handler | None, limits: Limits) -> Caller:
        return failover(Once(limits), handler=handler, version=self.version)


class TestFailoverOfTwo(CallerContract):
    def make(self, handler: Handler | None, limits: Limits) -> Caller:
        return failover(Refusing(), Once(limits), handler=handler, version=self.version)


# FAULTS 5.5, and what else failover has to do. Scripted endpoints, by a clock of their own.

T = 9.0
ACT: Question[Any] = Question("tools/call")
READ: Question[Any] = Question("tools/list")
UP, REFUSING, HANGING, DYING, MUTE, INTERRUPTED = "up", "refusing", "hanging", "dying", "mute", "interrupted"
"""Works; takes no connection; lets who connects wait; ends after it has read a request; reads and never answers; lets
the user lose patience."""


class Site:
    """A transport to a server that is in one of a few conditions.

    Attributes:
        ran: What it has run, in order; of what died or was not answered nobody else knows.
        shares: How much time each had that came while it was hanging or mute.
    """

    def __init__(self, name: str, clock: Clock, condition: str = UP) -> None:
        self.name = name
        self.clock = clock
        self.condition = condition
        self.dials: list[float] = []
        self.ran: list[str] = []
        self.shares: list[float] = []
        self.connections: list[Connected] = []

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        self.dials.append(self.clock.now)
        if self.condition == REFUSING:
            raise MCPConnectionError(f"{self.name} refuses")
        if self.condition == HANGING:
            self.hang(deadline)
            raise MCPTimeoutError(f"{self.name} hangs")
        if self.condition == INTERRUPTED:
            raise KeyboardInterrupt
        self.connections.append(Connected(self, introduction))
        return self.connections[-1]

    def hang(self, deadline: Deadline) -> None:
        """Let all the time pass."""
        self.shares.append(deadline.remaining)
        self.clock.now += deadline.remaining

    @property
    def living(self) -> int:
        """How many connections there are that nobody has closed."""
        return sum(not one.dead for one in self.connections)


class Connected(Scripted):
    """A connection to a site."""

    def __init__(self, site: Site, introduction: Introduction) -> None:
        super().__init__()
        self.site = site
        self.handler = introduction.handler
        self.waiting = 0

    @property
    def counters(self) -> dict[str, int]:
        return {"pending": self.waiting}

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def agreement(self) -> Agreement:
        return Agreement(Handshake("2025-11-25"), {"name": self.site.name})

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        if self.dead or self.site.condition in (REFUSING, HANGING):
            self.dead = True
            raise MCPConnectionError(f"{self.site.name} is gone", may_have_run=False)
        self.site.ran.append(question.method)
        if self.site.condition == DYING:
            self.dead = True
            raise MCPConnectionError(f"{self.site.name} died", may_have_run=None)
        if self.site.condition == MUTE:
            self.site.hang(deadline)
            raise MCPTimeoutError(f"{self.site.name} is mute", may_have_run=None)
        return {"by": self.site.name}

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        self.call(Question(method, params), deadline)

    def close(self, deadline: Deadline) -> None:
        super().close(deadline)
        self.dead = True


class Bench:
    """Three sites in one group, a conversation at home in the first, and all that was told of it."""

    def __init__(self, *conditions: str, threshold: int = 3, home: str = "a", **introduction: Any) -> None:
        self.clock = Clock()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.group = Group("default", priority, lambda event, data: self.told.append((event, dict(data))))
        self.places = Places(100)
        self.sites: list[Site] = []
        for name, condition in zip("abcdefgh", conditions, strict=False):
            self.sites.append(Site(name, self.clock, condition))
            health = Health(threshold, 30.0, self.clock)
            self.group.add(Endpoint(name, self.sites[-1], 1, self.group, health, self.places))
        self.caller = Failover(self.group, home, Introduction(**introduction), lambda job: False)

    def begin(self) -> Bench:
        self.caller.begin(self.clock.deadline(T))
        return self

    def ask(self, question: Question[Any] = ACT, limit: float = T) -> str:
        """Ask, and return who answered; it is over by the deadline."""
        began = self.clock.now
        try:
            return str(self.caller.call(question, self.clock.deadline(limit))["by"])
        finally:
            assert self.clock.now <= began + limit + 1e-6

    def events(self, *names: str) -> list[tuple[str, str]]:
        return [(event, data["endpoint"]) for event, data in self.told if event in names]

    def health(self, name: str) -> Health:
        return next(one for one in self.group.order(None) if one.name == name).health


@pytest.mark.parametrize("question", [ACT, READ])
def test_one_call_three_endpoints_first_refuses_second_hangs_third_good(question: Question[Any]) -> None:
    bench = Bench(UP, HANGING, UP).begin()
    bench.sites[0].condition = REFUSING
    began = bench.clock.now
    assert bench.ask(question) == "c"
    [share] = bench.sites[1].shares
    assert share <= T / 2
    assert bench.clock.now - began <= T


def test_connecting_goes_on_too_and_the_hang_gets_its_share() -> None:
    bench = Bench(REFUSING, HANGING, UP).begin()
    assert bench.caller.endpoint == "c"
    assert bench.sites[1].shares == [pytest.approx(T / 2)]


def test_a_question_that_may_be_repeated_leaves_a_mute_server_after_its_share() -> None:
    bench = Bench(MUTE, UP, UP).begin()
    assert bench.ask(READ) == "b"
    assert bench.sites[0].shares == [pytest.approx(T / 3)]
    assert bench.caller.endpoint == "a"  # one slow answer is no reason to leave
    assert bench.ask(replace(ACT, repeatable=True)) == "b"


def test_a_call_that_may_not_be_repeated_has_all_the_time_once_it_is_sent() -> None:
    bench = Bench(MUTE, UP, UP).begin()
    with pytest.raises(MCPTimeoutError) as caught:
        bench.ask(ACT)
    assert caught.value.may_have_run is None
    assert bench.sites[0].shares == [pytest.approx(T)]
    assert bench.sites[1].ran == bench.sites[2].ran == []


def test_so_it_has_when_it_had_to_connect_first() -> None:
    bench = Bench(UP, UP, UP).begin()
    bench.sites[0].connections[0].dead = True
    bench.sites[0].condition = MUTE
    bench.clock.now += 1
    with pytest.raises(MCPTimeoutError):
        bench.ask(ACT)
    assert bench.sites[0].shares == [pytest.approx(T)]
    assert bench.sites[1].ran == bench.sites[2].ran == []


def test_the_write_began_then_the_link_died() -> None:
    bench = Bench(DYING, UP).begin()
    with pytest.raises(MCPConnectionError) as caught:
        bench.ask(ACT)
    assert type(caught.value) is MCPConnectionError
    assert caught.value.may_have_run is None
    assert caught.value.details["endpoint"] == "a"
    assert bench.sites[1].ran == []
    assert bench.sites[0].ran == ["tools/call"]
    assert bench.ask(READ) == "b"  # which may be asked twice, goes on


def test_all_down_names_each_cause_within_the_deadline_and_the_next_call_fails_fast() -> None:
    bench = Bench(UP, UP, UP, threshold=1).begin()
    for site, condition in zip(bench.sites, (MUTE, DYING, REFUSING), strict=True):
        site.condition = condition
    with pytest.raises(AllTransportsFailed) as caught:
        bench.ask(READ)
    causes = caught.value.causes
    assert {name: type(cause) for name, cause in causes.items()} == {
        "a": MCPTimeoutError, "b": MCPConnectionError, "c": MCPConnectionError
    }  # fmt: skip
    assert "b died" in str(caught.value)
    assert caught.value.may_have_run is None
    began, dials = bench.clock.now, [len(site.dials) for site in bench.sites]
    with pytest.raises(AllTransportsFailed) as again:
        bench.ask(READ)
    assert bench.clock.now == began
    assert dials == [len(site.dials) for site in bench.sites]
    assert again.value.may_have_run is False
    assert {cause.details["phase"] for cause in again.value.causes.values()} == {PAUSED}
    assert "b died" in str(again.value.causes["b"])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), set(copy.causes)) == (str(caught.value), {"a", "b", "c"})


def test_with_one_endpoint_its_error_is_the_error() -> None:
    bench = Bench(UP, threshold=1).begin()
    bench.sites[0].condition = DYING
    with pytest.raises(MCPConnectionError, match="a died"):
        bench.ask(READ)
    with pytest.raises(MCPConnectionError, match="left alone for 0.1 s more: a died") as caught:
        bench.ask(READ)
    assert caught.value.may_have_run is False


def test_what_another_endpoint_would_not_mend_is_raised_at_once() -> None:
    bench = Bench(UP, UP).begin()
    for error in (JSONRPCError(-1, "no"), LocalProtocolError("no", may_have_run=False), ZeroDivisionError("no")):
        bench.sites[0].connections[0].call = fail_with(error)  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            bench.ask(READ)
    assert bench.sites[1].ran == []
    assert bench.health("a").status == "healthy"


def fail_with(error: Exception) -> Any:
    def call(question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        raise error

    return call


def test_it_goes_home_when_home_works_again_and_tells_of_every_move() -> None:
    renewed: list[str | None] = []
    handler = Answering()
    bench = Bench(
        UP, UP, threshold=1, handler=handler, renewed=lambda deadline: renewed.append(bench.caller.endpoint)
    ).begin()  # fmt: skip
    bench.sites[0].condition = REFUSING
    assert bench.ask() == "b"
    assert renewed == ["b"]
    assert bench.events("session_lost", "unhealthy") == [("unhealthy", "a"), ("session_lost", "a")]
    assert bench.told[-1][1]["moved_to"] == "b"
    lost = handler.ends.get(timeout=PATIENCE)
    assert isinstance(lost, SessionExpired)
    assert lost.details["moved_to"] == "b"
    left = bench.sites[0].connections[0]
    assert left.handler is not None
    left.handler.closed(MCPConnectionError("closed"))  # what was subscribed to at b is not lost with it
    assert handler.ends.empty()
    bench.sites[0].condition = UP
    bench.clock.now += 60
    assert bench.ask() == "b"  # nobody has found out yet that it works
    change = bench.health("a").checked(bench.health("a").look(), 1.0, None, 0.0)
    assert change is not None
    bench.group.order(None)[-1].changed(change)
    assert bench.ask() == "a"
    assert renewed == ["b", "a"]
    assert [site.living for site in bench.sites] == [1, 0]  # no double session


def test_after_a_check_that_went_well_nobody_waits_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_sync.manage.links.JITTER", 0.0)
    bench = Bench(UP).begin()
    [endpoint] = bench.group.order(None)
    for wait in (1.0, 0.3, 0.5, 0.9):  # the pauses have grown by then
        bench.clock.now += wait
        bench.sites[0].connections[-1].dead = True
        assert bench.ask() == "a"
    bench.clock.now += 0.3
    bench.sites[0].connections[-1].dead = True
    with pytest.raises(MCPConnectionError, match="left alone"):
        bench.ask()
    endpoint.seen_well += 1
    assert bench.ask() == "a"


def test_a_connection_that_we_have_ended_ourselves_is_no_reason_to_wait() -> None:
    bench = Bench(UP, UP, threshold=1).begin()
    for _ in range(5):
        bench.group.switch("a")
        assert bench.ask() == "b"
        bench.group.switch_back("a")
        assert bench.ask() == "a"  # though its last connection was made a moment ago
    bench.sites[0].connections[-1].dead = True
    assert bench.ask() == "b"  # one that has failed is
    assert len(bench.sites[0].dials) == 6


def test_what_is_closed_while_it_begins_connects_to_nothing() -> None:
    bench = Bench(UP, UP)
    order = bench.group.order

    def late(home: str | None) -> list[Endpoint]:
        bench.caller.close(bench.clock.deadline())
        return order(home)

    bench.group.order = late  # type: ignore[method-assign]
    with pytest.raises(MCPConnectionError, match="is closed"):
        bench.begin()
    assert [site.dials for site in bench.sites] == [[], []]


def test_ctrl_c_while_it_connects_is_no_failure() -> None:
    bench = Bench(UP).begin()
    bench.clock.now += 100
    bench.sites[0].connections[0].dead = True
    bench.sites[0].condition = INTERRUPTED
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            bench.ask()
    bench.sites[0].condition = UP
    assert bench.ask() == "a"  # at once
    assert bench.places.taken == 1


def test_a_place_from_before_a_fork_is_not_given_back_after_it() -> None:
    bench = Bench(UP).begin()
    link = bench.caller._here
    assert link is not None
    assert bench.places.taken == 1
    bench.places.forked()
    link.close(bench.clock.deadline())
    assert bench.places.taken == 0


def test_a_lost_connection_is_made_again_at_home_and_the_server_is_told_again() -> None:
    renewed: list[Deadline] = []
    bench = Bench(UP, UP, renewed=renewed.append).begin()
    bench.sites[0].connections[0].dead = True
    bench.clock.now += 1
    assert bench.ask() == "a"
    assert len(renewed) == 1
    assert len(bench.sites[0].dials) == 2


def test_calls_that_are_under_way_where_it_was_end_there() -> None:
    bench = Bench(UP, UP, threshold=1).begin()
    left = bench.sites[0].connections[0]
    left.waiting = 1
    change = bench.health("a").failed(bench.health("a").look(), MCPConnectionError("no"))
    assert change is not None
    bench.group.order(None)[-1].changed(change)
    assert bench.ask() == "b"
    assert not left.closed
    left.waiting = 0
    assert bench.ask() == "b"
    assert left.closed


def test_what_is_asked_while_the_new_server_is_told_goes_to_that_server_and_no_further() -> None:
    def tell(deadline: Deadline) -> None:
        bench.sites[1].condition = DYING
        with pytest.raises(MCPConnectionError, match="b died"):
            bench.caller.call(READ, deadline)
        bench.sites[1].condition = UP

    bench = Bench(UP, UP, threshold=9, renewed=tell).begin()
    bench.sites[0].condition = REFUSING
    with pytest.raises(AllTransportsFailed):  # its connection died while it was being told
        bench.ask()
    bench.clock.now += 1


def test_flapping_up_100_ms_down_100_ms_for_60_s() -> None:
    bench = Bench(UP, threshold=3).begin()
    [site] = bench.sites
    answers = losses = 0
    for _ in range(300):
        for condition in (UP, REFUSING):
            site.condition = condition
            for one in site.connections:
                one.dead = True
            for _ in range(10):
                bench.clock.now += 0.01
                try:
                    answers += bench.ask(limit=0.5) == "a"
                except MCPConnectionError:
                    losses += 1
            assert site.living <= 1  # no double session
    pauses = [later - earlier for earlier, later in itertools.pairwise(site.dials)]
    assert min(pauses) >= FIRST_PAUSE - 1e-9
    assert len(site.dials) <= 60 / FIRST_PAUSE / 2
    assert answers + losses == 300 * 20
    site.condition = UP
    bench.clock.now += LONGEST_PAUSE * (1 + JITTER)
    assert bench.ask() == "a"
    bench.caller.close(Deadline(1))
    assert bench.places.taken == 0  # no leak
    assert site.living == 0


def test_a_connection_beyond_the_limit_is_refused_and_nothing_is_sent() -> None:
    bench = Bench(UP, UP)
    place = (places := Places(1)).take()
    for endpoint in bench.group.order(None):
        endpoint.places = places
    with pytest.raises(AllTransportsFailed) as caught:
        bench.begin()
    assert {type(cause) for cause in caught.value.causes.values()} == {TooManyRequests}
    assert [site.dials for site in bench.sites] == [[], []]
    assert bench.health("a").status == "healthy"  # it is we who said no
    places.give(place)
    assert bench.ask() == "a"  # and at once: nothing was tried


def test_a_transport_that_raises_anything_is_one_that_cannot_be_reached() -> None:
    bench = Bench(UP, UP)
    bench.sites[0].converse = lambda introduction, deadline: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert bench.begin().ask() == "b"


def test_a_submitted_question_goes_on_only_until_it_is_sent() -> None:
    bench = Bench(UP, UP).begin()
    bench.sites[0].condition = REFUSING
    bench.sites[0].connections[0].dead = True
    future = bench.caller.submit(ACT, bench.clock.deadline(T))
    [sent] = bench.sites[1].connections[0].futures
    assert future is sent
    sent.settle(None, MCPConnectionError("lost", may_have_run=None))
    assert bench.health("b").report()["consecutive_failures"] == 1
    assert bench.sites[0].connections[0].futures == []


def test_the_end_of_an_open_question_on_a_server_that_was_left_says_so() -> None:
    ends: list[BaseException | None] = []
    bench = Bench(UP, UP, threshold=1).begin()
    question: Question[Any] = Question(
        "subscriptions/listen", open_ended=True, then=lambda future: ends.append(future.exception(0))
    )
    bench.caller.submit(question, bench.clock.deadline(T))
    connection = bench.sites[0].connections[0]
    bench.sites[0].condition = REFUSING
    assert bench.ask() == "b"
    assert connection.dead  # nobody else waits there
    connection.futures[0].settle(None, MCPConnectionError("closed", details={"phase": "closed"}))
    assert [type(end) for end in ends] == [SessionExpired]


def test_a_notification_is_said_elsewhere_only_if_nothing_of_it_was_said() -> None:
    bench = Bench(UP, UP).begin()
    bench.sites[0].condition = REFUSING
    bench.caller.notify("words", None, bench.clock.deadline(T))
    assert bench.sites[1].ran == ["words"]
    bench.sites[1].condition = DYING
    with pytest.raises(MCPConnectionError):
        bench.caller.notify("words", None, bench.clock.deadline(T))


class Machine(RuleBasedStateMachine):
    """Three sites in any conditions, any calls and any pauses; what must hold holds after each."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(UP, UP, UP, threshold=2).begin()

    @rule(n=st.integers(0, 2), condition=st.sampled_from([UP, UP, REFUSING, HANGING, DYING, MUTE]))
    def change(self, n: int, condition: str) -> None:
        self.bench.sites[n].condition = condition

    @rule(n=st.integers(0, 2))
    def lose(self, n: int) -> None:
        for one in self.bench.sites[n].connections:
            one.dead = True

    @rule(seconds=st.sampled_from([0.05, 0.2, 3.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    @rule(n=st.integers(0, 2))
    def check(self, n: int) -> None:
        endpoint = next(one for one in self.bench.group.order(None) if one.name == "abc"[n])
        works = self.bench.sites[n].condition == UP
        found = None if works else MCPConnectionError("down", may_have_run=False)
        change = endpoint.health.checked(endpoint.health.look(), 1.0, found, 0.0)
        if change is not None:
            endpoint.changed(change)

    @rule(question=st.sampled_from([ACT, READ]))
    def ask(self, question: Question[Any]) -> None:
        sites, before = self.bench.sites, [len(site.ran) for site in self.bench.sites]
        up = {site.name for site in sites if site.condition == UP}
        try:
            by = self.bench.ask(question)
        except MCPError as error:
            self.has_failed(question, error, up, [len(site.ran) for site in sites] != before)
        else:
            assert by in up
        runs = sum(len(site.ran) for site in sites) - sum(before)
        assert question is READ or runs <= 1

    def has_failed(self, question: Question[Any], error: MCPError, up: set[str], ran: bool) -> None:
        """Check that a call had every reason to fail, and says so."""
        assert error.may_have_run is (None if ran else False)
        if not isinstance(error, AllTransportsFailed):
            assert question is ACT
            assert ran
            return
        assert set(error.causes) == {"a", "b", "c"}
        rested = {name for name in up if error.causes[name].details.get("phase") == PAUSED}
        assert up <= rested | {name for name in up if "is gone" in str(error.causes[name])}

    @invariant()
    def there_is_one_session(self) -> None:
        here = self.bench.caller.endpoint
        assert all(site.living <= 1 for site in self.bench.sites)
        assert here in ("a", "b", "c")

    def teardown(self) -> None:
        for site in self.bench.sites:
            site.condition = UP
        for endpoint in self.bench.group.order(None):
            change = endpoint.health.checked(endpoint.health.look(), 1.0, None, 0.0)
            if change is not None:
                endpoint.changed(change)
        self.bench.clock.now += 60
        assert self.bench.ask() == "a"  # when all is well it is at home, and answers
        self.bench.caller.close(Deadline(1))
        assert self.bench.places.taken == 0


TestAnyOrder = Machine.TestCase


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from([UP, UP, REFUSING, DYING]), min_size=3, max_size=3), min_size=1, max_size=8))
def test_eight_threads_in_changing_conditions_run_nothing_twice_and_lose_nothing(plan: list[list[str]]) -> None:
    bench = Bench(UP, UP, UP, threshold=2).begin()
    came: list[str] = []
    failed: list[str] = []
    unknown: list[str] = []

    def work(who: int) -> None:
        for turn, conditions in enumerate(plan):
            if who == 0:
                bench.clock.now += 0.3
                for site, condition in zip(bench.sites, conditions, strict=True):
                    site.condition = condition
            for n in range(3):
                ident = f"act-{who}-{turn}-{n}"
                try:
                    bench.caller.call(Question(ident), Deadline(PATIENCE, bench.clock))
                    came.append(ident)
                except MCPError as error:
                    (failed if error.may_have_run is False else unknown).append(ident)

    in_threads(8, work)
    runs = Counter(ident for site in bench.sites for ident in site.ran)
    assert max(runs.values(), default=0) <= 1
    assert all(runs[ident] for ident in came)
    assert not any(runs[ident] for ident in failed)
    assert len(came) + len(failed) + len(unknown) == 8 * 3 * len(plan)
    bench.caller.close(Deadline(PATIENCE))
    assert bench.places.taken == 0


def test_a_transport_that_connects_again_by_itself_has_its_share_for_that_and_no_more() -> None:
    bench = Bench(UP, UP)
    site = bench.sites[0]
    plain = site.converse

    def reconnecting(introduction: Introduction, deadline: Deadline) -> Caller:
        def dial(handler: Any, version: str, opened: Any, deadline: Deadline) -> Caller:
            return plain(replace(introduction, handler=handler), deadline)

        return Retrying(Reconnecting(None, dial, Reconnect(0.0, 5), None, deadline), Retry(), emit=lambda event: None)

    site.converse = reconnecting  # type: ignore[method-assign]
    bench.begin()
    assert bench.ask(ACT) == "a"
    site.connections[0].dead = True
    site.condition = HANGING
    assert bench.ask(ACT) == "b"
    assert site.shares == [pytest.approx(T / 2)]
