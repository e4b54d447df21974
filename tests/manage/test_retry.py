"""A call is repeated where that is worth it and safe, and never beyond its deadline."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from manage.scripted import Clock, Log, Scripted, Step

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Question
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
    RateLimited,
    RemoteProtocolError,
    ServerError,
    SessionExpired,
    TooManyRequests,
)
from mcp_sync.manage.retry import SAFE_METHODS, Retrying, Times
from mcp_sync.observe import Retried
from mcp_sync.policies import Policies, Retry, gather
from mcp_sync.protocol.eras import Opening
from mcp_sync.testing.tools import PATIENCE, Background

DONE: dict[str, Any] = {"done": True}
READ, ACT = "tools/list", "tools/call"


class Bench:
    """A Retrying around a script, by a clock of its own; without jitter unless told otherwise."""

    def __init__(self, *steps: Step, chance: float = 0.5, **policy: Any) -> None:
        self.clock, self.log, self.caller = Clock(), Log(), Scripted(*steps)
        self.retrying = Retrying(
            self.caller,
            Retry(**{"repeats": 3, "jitter": 0.0, **policy}),
            emit=self.log,
            sleep=self.clock.sleep,
            chance=lambda: chance,
        )

    def ask(self, method: str = READ, timeout: float = 100.0, **meaning: Any) -> dict[str, Any]:
        return self.retrying.call(Question(method, **meaning), self.clock.deadline(timeout))

    def tell(self) -> None:
        self.retrying.notify("words", None, self.clock.deadline())


def lost(may_have_run: bool | None = None, **details: Any) -> MCPConnectionError:
    return MCPConnectionError("lost", details=details, may_have_run=may_have_run)


def status(code: int, may_have_run: bool | None = None, after: float | None = None) -> HTTPStatusError:
    kind = {401: AuthError, 429: RateLimited}.get(code, ServerError if code >= 500 else HTTPStatusError)
    return kind("no", code, after, may_have_run=may_have_run)


# Is it worth it?

WORTH = [
    lost(),
    SessionExpired("gone", may_have_run=False),
    status(429),
    status(502),
    status(503),
    status(504),
]
NOT_WORTH = [
    lost(phase="closed"),
    ForkedClientError("forked", may_have_run=False),
    MCPTimeoutError("late"),
    MCPTimeoutError("late", may_have_run=False),
    status(500),
    status(404),
    status(401, may_have_run=False),
    JSONRPCError(-32603, "no"),
    LocalProtocolError("no", may_have_run=False),
    RemoteProtocolError("what"),
    TooManyRequests("no", may_have_run=False),
    CircuitOpen("no", 0.1),
    KeyboardInterrupt(),
    ZeroDivisionError(),
]


@pytest.mark.parametrize("error", WORTH, ids=repr)
def test_what_may_pass_is_repeated(error: MCPError) -> None:
    bench = Bench(error, DONE)
    assert bench.ask() == DONE
    assert bench.caller.attempts == 2


@pytest.mark.parametrize("error", NOT_WORTH, ids=repr)
def test_what_will_not_pass_is_raised_at_once(error: BaseException) -> None:
    bench = Bench(error, DONE)
    with pytest.raises(type(error)) as caught:
        bench.ask()
    assert caught.value is error
    assert (bench.caller.attempts, bench.clock.naps, bench.log) == (1, [], [])


def test_the_policy_says_which_statuses_are_worth_it() -> None:
    assert Bench(status(500), DONE, statuses=(500,)).ask() == DONE
    with pytest.raises(RateLimited):
        Bench(status(429), DONE, statuses=(500,)).ask()


def test_the_policy_may_name_further_errors() -> None:
    assert Bench(JSONRPCError(-32603, "no"), DONE, errors=(JSONRPCError,)).ask() == DONE
    assert Bench(status(500), DONE, errors=(ServerError,)).ask() == DONE
    with pytest.raises(JSONRPCError):
        Bench(JSONRPCError(-32603, "no"), DONE, errors=(JSONRPCError,)).ask(ACT)


@pytest.mark.parametrize(
    "error", [MCPTimeoutError("late"), ForkedClientError("forked"), lost(phase="closed")], ids=repr
)
def test_a_few_errors_are_final_whatever_the_policy_names(error: MCPError) -> None:
    bench = Bench(error, DONE, errors=(MCPError,))
    with pytest.raises(type(error)):
        bench.ask()
    assert bench.caller.attempts == 1


def test_a_caller_that_is_over_is_not_asked_again() -> None:
    bench = Bench(lost(False), DONE)
    bench.caller.dead = True
    with pytest.raises(MCPConnectionError):
        bench.ask()
    assert bench.caller.attempts == 1


# Is it safe?


@pytest.mark.parametrize("method", sorted(SAFE_METHODS))
def test_what_only_reads_is_repeated_though_it_may_have_run(method: str) -> None:
    assert Bench(lost(None), DONE).ask(method) == DONE


@pytest.mark.parametrize(
    "method",
    [ACT, "initialize", "logging/setLevel", "resources/subscribe", "tasks/cancel", "tasks/update", "tasks/result", "x"],
)
@pytest.mark.parametrize("may_have_run", [None, True])
def test_what_may_have_run_is_not_repeated(method: str, may_have_run: bool | None) -> None:
    bench = Bench(lost(may_have_run), DONE)
    with pytest.raises(MCPConnectionError):
        bench.ask(method)
    assert bench.caller.attempts == 1


@pytest.mark.parametrize("error", [lost(False), SessionExpired("gone", may_have_run=False), status(503, False)])
def test_what_did_not_run_is_repeated_whatever_it_is(error: MCPError) -> None:
    assert Bench(error, DONE).ask(ACT) == DONE


def test_the_application_may_say_that_a_call_is_repeatable() -> None:
    assert Bench(lost(None), DONE).ask(ACT, repeatable=True) == DONE


def test_a_call_is_sent_again_only_until_it_may_have_run() -> None:
    bench = Bench(lost(False), lost(None), DONE)
    with pytest.raises(MCPConnectionError) as caught:
        bench.ask(ACT)
    assert caught.value.may_have_run is None
    assert bench.caller.attempts == 2


@pytest.mark.parametrize(
    ("first", "last", "both"),
    [
        (False, False, False),
        (None, False, None),
        (True, False, True),
        (True, None, True),
        (None, True, True),
        (False, None, None),
    ],
)
def test_the_error_at_the_end_speaks_for_all_attempts(first: bool | None, last: bool | None, both: bool | None) -> None:
    bench = Bench(lost(first), status(400, last))
    with pytest.raises(HTTPStatusError) as caught:
        bench.ask()
    assert caught.value.may_have_run is both


def test_a_notification_is_repeated_only_if_nothing_of_it_was_said() -> None:
    bench = Bench(lost(False), lost(False), DONE)
    bench.tell()
    assert bench.caller.attempts == 3
    bench = Bench(lost(None), DONE)
    with pytest.raises(MCPConnectionError):
        bench.tell()
    assert bench.caller.attempts == 1


def test_a_future_is_not_repeated() -> None:
    bench = Bench(lost(False), DONE)
    with pytest.raises(MCPConnectionError):
        bench.retrying.submit(Question(READ), bench.clock.deadline())
    future = bench.retrying.submit(Question(READ), bench.clock.deadline())
    future.settle(None, status(503))
    assert isinstance(future.exception(0), ServerError)
    assert (bench.caller.attempts, bench.log) == (2, [])


# How often, and when?


def test_it_is_repeated_as_often_as_the_policy_says_and_the_last_error_is_raised() -> None:
    errors = [status(503), lost(), status(502), status(504)]
    bench = Bench(*errors, repeats=3)
    with pytest.raises(ServerError) as caught:
        bench.ask()
    assert caught.value is errors[-1]
    assert bench.caller.attempts == 4
    assert bench.log == [
        Retried("calc", READ, 1, "ServerError", 0.5),
        Retried("calc", READ, 2, "MCPConnectionError", 1.0),
        Retried("calc", READ, 3, "ServerError", 2.0),
    ]


def test_by_default_nothing_is_repeated() -> None:
    bench = Bench(lost(False), DONE, repeats=Retry().repeats)
    with pytest.raises(MCPConnectionError):
        bench.ask()
    assert bench.caller.attempts == 1


@pytest.mark.parametrize(
    ("policy", "naps"),
    [
        ({}, [0.5, 1.0, 2.0, 4.0]),
        ({"delay": 0.0}, [0.0] * 4),
        ({"delay": 1.0, "growth": 3.0, "longest": 5.0}, [1.0, 3.0, 5.0, 5.0]),
        ({"delay": 9.0, "longest": 2.0}, [2.0] * 4),
        ({"growth": 1.0}, [0.5] * 4),
        ({"jitter": 0.5, "chance": 0.0}, [0.5, 1.0, 2.0, 4.0]),
        ({"jitter": 0.5, "chance": 1.0}, [0.25, 0.5, 1.0, 2.0]),
        ({"jitter": 1.0, "chance": 0.5}, [0.25, 0.5, 1.0, 2.0]),
    ],
)
def test_delays_grow_up_to_the_longest_less_what_is_left_to_chance(policy: dict[str, Any], naps: list[float]) -> None:
    bench = Bench(lost(), lost(), lost(), lost(), DONE, **{"repeats": 4, **policy})
    assert bench.ask() == DONE
    assert bench.clock.naps == naps


def test_delays_grow_for_ever_without_overflow() -> None:
    bench = Bench(lost(), repeats=2000, growth=1000.0, longest=0.5)
    with pytest.raises(MCPConnectionError):
        bench.ask(timeout=1e6)
    assert bench.clock.naps == [0.5] * 2000


@pytest.mark.parametrize(
    ("after", "policy", "nap"),
    [
        (7.0, {}, 7.0),
        (0.2, {}, 0.5),
        (0.0, {}, 0.5),
        (60.0, {"longest": 1.0}, 60.0),
        (7.0, {"jitter": 0.5, "chance": 1.0}, 7.25),
        (0.4, {"jitter": 0.5, "chance": 1.0}, 0.65),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_the_server_is_left_alone_for_as_long_as_it_asks(
    code: int, after: float, policy: dict[str, Any], nap: float
) -> None:
    bench = Bench(status(code, after=after), DONE, **policy)
    assert bench.ask() == DONE
    assert bench.clock.naps == [pytest.approx(nap)]


def test_a_refusal_that_the_policy_names_is_repeated_when_it_is_over() -> None:
    bench = Bench(CircuitOpen("no", 12.0), DONE, errors=(CircuitOpen,))
    assert bench.ask(ACT) == DONE
    assert bench.clock.naps == [12.0]


@pytest.mark.parametrize(("timeout", "attempts"), [(0.5, 1), (0.51, 2), (1.5, 2), (1.51, 3)])
def test_a_wait_that_does_not_fit_into_the_deadline_is_not_begun(timeout: float, attempts: int) -> None:
    bench = Bench(lost())
    with pytest.raises(MCPConnectionError):
        bench.ask(timeout=timeout)
    assert bench.caller.attempts == attempts
    assert len(bench.log) == attempts - 1
    assert sum(bench.clock.naps) < timeout


@pytest.mark.parametrize("after", [31.0, 1e300, float("inf")])
def test_a_server_that_asks_for_more_than_there_is_gets_no_repeat(after: float) -> None:
    bench = Bench(status(429, after=after), DONE)
    with pytest.raises(RateLimited) as caught:
        bench.ask(timeout=30)
    assert caught.value.retry_after == after
    assert bench.clock.naps == []


# Interruptions.


@pytest.mark.parametrize("end", [Retrying.close, Retrying.hang_up])
def test_closing_ends_the_wait_with_the_error_at_hand(end: Any) -> None:
    waiting = threading.Event()
    caller = Scripted(lost(None), DONE)
    retrying = Retrying(caller, Retry(repeats=3, delay=1000.0, longest=1000.0), emit=lambda event: waiting.set())
    call = Background(lambda: retrying.call(Question(READ), Deadline(1e6)))
    assert waiting.wait(PATIENCE)
    end(retrying, Deadline(1))
    assert isinstance(call.error(), MCPConnectionError)
    assert (caller.attempts, caller.closed) == (1, 1)


def test_once_closed_nothing_is_repeated() -> None:
    bench = Bench(lost(False), DONE)
    bench.retrying.close(bench.clock.deadline())
    with pytest.raises(MCPConnectionError):
        bench.ask()
    assert (bench.caller.attempts, bench.log) == (1, [])


def test_ctrl_c_ends_the_wait() -> None:
    def interrupted(event: threading.Event, seconds: float) -> bool:
        raise KeyboardInterrupt

    caller = Scripted(lost(), DONE)
    retrying = Retrying(caller, Retry(repeats=3), emit=Log(), sleep=interrupted)
    with pytest.raises(KeyboardInterrupt):
        retrying.call(Question(READ), Deadline(10))
    assert caller.attempts == 1


def test_in_a_forked_child_it_waits_by_an_event_of_its_own() -> None:
    bench = Bench(lost(), DONE)
    bench.retrying._times.stop()
    bench.retrying._times.forked()
    assert bench.ask() == DONE


def test_anything_may_be_tried_several_times() -> None:
    clock, log, script = Clock(), Log(), Scripted(lost(False, phase="connect"), DONE)
    times = Times(Retry(repeats=1, jitter=0.0), "calc", log, sleep=clock.sleep)
    assert times.repeat(script._act, "connect", True, clock.deadline()) == DONE
    assert log == [Retried("calc", "connect", 1, "MCPConnectionError", 0.5)]


def test_everything_else_is_passed_on() -> None:
    bench = Bench()
    retrying = bench.retrying
    assert (retrying.name, retrying.over, retrying.counters, retrying.explain()) == ("calc", False, {}, {})
    assert retrying.run(lambda: None)
    retrying.post(lambda: None)
    retrying.dress(Opening())
    assert repr(retrying).startswith("<Retrying <manage.scripted.Scripted")


# Keywords.


class Transport:
    def __init__(self, **knobs: Any) -> None: ...


def policies(**knobs: Any) -> Policies:
    return gather(Transport, [Retry], None, knobs)


def test_the_defaults_pass_their_own_checks() -> None:
    assert policies()[Retry] == Retry()


def test_keywords_become_the_policy() -> None:
    known = policies(
        max_retries=2,
        retry_delay=1,
        retry_backoff_multiplier=3,
        max_retry_delay=9,
        retry_jitter=0,
        retry_on_status_codes=[500],
        retry_on_exceptions=[JSONRPCError],
    )
    assert known[Retry] == Retry(2, 1.0, 3.0, 9.0, 0.0, (500,), (JSONRPCError,))


@pytest.mark.parametrize(
    ("knob", "value", "error", "text"),
    [
        ("max_retries", -1, ValueError, "must be 0 or more"),
        ("retry_backoff_multiplier", 0.5, ValueError, "must be a number from 1 to 1000, not 0.5"),
        ("retry_backoff_multiplier", float("nan"), ValueError, "must be a number from 1"),
        ("retry_backoff_multiplier", True, TypeError, "must be a number, not bool"),
        ("retry_jitter", 1.5, ValueError, "must be a number from 0 to 1, not 1.5"),
        ("retry_jitter", "0.1", TypeError, "must be a number, not str"),
        ("retry_on_status_codes", 503, TypeError, "must be a list of HTTP statuses, not int"),
        ("retry_on_status_codes", "503", TypeError, "must be a list of HTTP statuses, not str"),
        ("retry_on_status_codes", [99], ValueError, "must be 100 or more, not 99"),
        ("retry_on_status_codes", [600], ValueError, "must be 599 or less, not 600"),
        ("retry_on_status_codes", ["503"], TypeError, "must be a whole number, not str"),
        ("retry_on_exceptions", JSONRPCError, TypeError, "must be a list of subclasses of MCPError, not type"),
        ("retry_on_exceptions", ["JSONRPCError"], TypeError, "must hold only subclasses of MCPError"),
        ("retry_on_exceptions", [TimeoutError], TypeError, "not <class 'TimeoutError'>"),
    ],
)
def test_a_wrong_value_is_refused(knob: str, value: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{knob} ") as caught:
        policies(**{knob: value})
    assert text in str(caught.value)
