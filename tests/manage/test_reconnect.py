"""A conversation outlives its connections: what ended is dialled again, what was forgotten is begun anew, for all."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from manage.scripted import Scripted, Step

from mcp_sync.deadlines import Deadline
from mcp_sync.engine import interrupts
from mcp_sync.engine.caller import Caller, Handler, Incoming, Question
from mcp_sync.exceptions import (
    HTTPStatusError,
    JSONRPCError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    SessionExpired,
)
from mcp_sync.manage import reconnect
from mcp_sync.manage.reconnect import Ear, Reconnecting
from mcp_sync.policies import Reconnect
from mcp_sync.protocol.eras import Era, Handshake, Identity, Stateless
from mcp_sync.protocol.messages import Notification, Request
from mcp_sync.protocol.negotiation import Agreement
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import PATIENCE, SLACK, Background

DONE: dict[str, Any] = {"done": True}
READ, ACT = "tools/list", "tools/call"
ZERO = {"sent": 0, "ok": 0, "error": 0, "timeout": 0, "cancelled": 0, "pending": 0}


class Connection(Scripted):
    """A connection that does what its script says; it counts, and keeps what it is given."""

    def __init__(self, *steps: Step, era: Era | None = None) -> None:
        super().__init__(*(steps or (DONE,)))
        self.era = era or Handshake("2025-11-25")
        self.counted = dict(ZERO)
        self.dressed: list[Era] = []
        self.handler: Handler | None = None
        self.deadlines: list[float] = []

    @property
    def agreement(self) -> Agreement:
        return Agreement(self.era, {"name": "calc"})

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.counted)

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        self.counted["sent"] += 1
        self.deadlines.append(deadline.remaining)
        try:
            result = super().call(question, deadline)
        except MCPError:
            self.counted["error"] += 1
            raise
        self.counted["ok"] += 1
        return result

    def dress(self, era: Era) -> None:
        self.dressed.append(era)

    def end(self) -> None:
        """End by itself."""
        self.dead = True

    def close(self, deadline: Deadline) -> None:
        super().close(deadline)
        self.dead = True


class Listening:
    """A Handler that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Notification] = []
        self.ends: list[MCPError] = []

    def offers(self, method: str) -> bool:
        return method == "what"

    def request(self, incoming: Incoming) -> dict[str, Any]:
        return {"asked": incoming.request.method}

    def notification(self, notification: Notification) -> None:
        self.told.append(notification)

    def closed(self, error: MCPError) -> None:
        self.ends.append(error)


class Bench:
    """A Reconnecting whose every dial takes the next of its connections; errors among them are raised."""

    def __init__(
        self,
        *connections: Connection | BaseException,
        handler: Handler | None = None,
        renewed: Callable[[Deadline], object] | None = None,
        **policy: Any,
    ) -> None:
        self.connections = list(connections) or [Connection()]
        self.dials: list[tuple[str, float]] = []
        self.ended: list[Deadline] = []
        self.waiting = threading.Event()
        self.release = threading.Event()
        self.release.set()
        self.caller = Reconnecting(
            handler,
            self._dial,
            Reconnect(**{"interval": 0.0, **policy}),
            renewed,
            Deadline(PATIENCE),
            self.ended.append,
        )

    def _dial(
        self, handler: Handler | None, version: str, opened: Callable[[Caller], object], deadline: Deadline
    ) -> Caller:
        found = self.connections[min(len(self.dials), len(self.connections) - 1)]
        if isinstance(found, Connection):
            opened(found)
        if self.dials:
            self.waiting.set()
            self.release.wait(PATIENCE)
        self.dials.append((version, deadline.remaining))
        if isinstance(found, BaseException):
            raise found
        found.handler = handler
        return found

    def ask(self, method: str = READ, timeout: float = PATIENCE, **meaning: Any) -> dict[str, Any]:
        return self.caller.call(Question(method, **meaning), Deadline(timeout))


def expired() -> SessionExpired:
    return SessionExpired("forgotten", may_have_run=False)


# -- a connection that has ended --------------------------------------------------------------------------------------


def test_as_long_as_the_connection_lives_there_is_one() -> None:
    bench = Bench()
    assert [bench.ask() for _ in range(3)] == [DONE] * 3
    assert len(bench.dials) == 1


def test_the_next_call_after_the_end_dials_again_and_tells_which_version_was_spoken() -> None:
    first, second = Connection(), Connection()
    bench = Bench(first, second)
    first.end()
    assert bench.ask(ACT) == DONE
    assert [version for version, _ in bench.dials] == ["", "2025-11-25"]
    assert (first.attempts, second.attempts) == (0, 1)
    assert first.closed == 1


def test_a_call_during_which_the_connection_ends_fails_and_is_not_repeated() -> None:
    first, second = Connection(MCPConnectionError("lost")), Connection()
    bench = Bench(first, second)
    with pytest.raises(MCPConnectionError, match="lost"):
        bench.ask(READ)
    assert second.attempts == 0


@pytest.mark.parametrize("how", ["call", "submit", "notify"])
def test_whatever_is_asked_next_dials_again(how: str) -> None:
    first, second = Connection(), Connection()
    bench = Bench(first, second)
    first.end()
    if how == "call":
        bench.ask()
    elif how == "submit":
        bench.caller.submit(Question(READ), Deadline(PATIENCE))
    else:
        bench.caller.notify("words", None, Deadline(PATIENCE))
    assert (first.attempts, second.attempts) == (0, 1)


def test_eight_threads_that_find_the_end_dial_once() -> None:
    first, second = Connection(), Connection()
    bench = Bench(first, second)
    first.end()
    assert in_threads(8, lambda _: bench.ask()) == [DONE] * 8
    assert len(bench.dials) == 2


def test_dialling_is_tried_as_often_as_the_policy_says_and_no_longer_than_the_deadline() -> None:
    down = MCPConnectionError("down", may_have_run=False)
    first = Connection()
    bench = Bench(first, down, down, Connection(), attempts=3)
    first.end()
    assert bench.ask() == DONE
    assert len(bench.dials) == 4

    first = Connection()
    bench = Bench(first, down, attempts=3)
    first.end()
    with pytest.raises(MCPConnectionError, match="down"):
        bench.ask()
    assert len(bench.dials) == 4
    with pytest.raises(MCPConnectionError, match="down"):  # the next call tries anew
        bench.ask()
    assert len(bench.dials) == 7


def test_a_pause_that_would_outlast_the_deadline_is_not_begun() -> None:
    first = Connection()
    bench = Bench(first, MCPConnectionError("down"), attempts=5, interval=3600.0)
    first.end()
    deadline = Deadline(PATIENCE)
    with pytest.raises(MCPConnectionError, match="down"):
        bench.caller.call(Question(READ), deadline)
    assert deadline.elapsed < SLACK


def test_pauses_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def nap(event: interrupts.Event, seconds: float | None = None) -> bool:
        naps.append(seconds or 0.0)
        return False

    monkeypatch.setattr(interrupts.Event, "wait", nap)
    first = Connection()
    bench = Bench(first, MCPConnectionError("down"), attempts=8, interval=1.0)
    first.end()
    with pytest.raises(MCPConnectionError):
        bench.ask(timeout=3600)
    assert naps == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("flaw", [MCPTimeoutError("late"), HTTPStatusError("no", 403), ZeroDivisionError("on purpose")])
def test_what_another_dial_would_not_mend_is_raised_at_once(flaw: Exception) -> None:
    first = Connection()
    bench = Bench(first, flaw, Connection())
    first.end()
    with pytest.raises(type(flaw)):
        bench.ask()
    assert len(bench.dials) == 2
    assert bench.ask() == DONE  # and nothing is held


def test_the_first_connection_is_tried_once() -> None:
    with pytest.raises(MCPConnectionError, match="down"):
        Bench(MCPConnectionError("down"), Connection())


def test_with_no_attempts_the_end_is_the_end() -> None:
    first = Connection(DONE, MCPConnectionError("it is over", may_have_run=False))
    bench = Bench(first, Connection(), attempts=0)
    bench.ask()
    first.end()
    assert bench.caller.over
    with pytest.raises(MCPConnectionError, match="it is over"):
        bench.ask()
    assert len(bench.dials) == 1


def test_it_is_not_over_as_long_as_it_can_dial() -> None:
    first = Connection()
    bench = Bench(first, Connection())
    first.end()
    assert not bench.caller.over
    bench.caller.close(Deadline(1))
    assert bench.caller.over


def test_waiting_for_another_threads_dial_ends_at_the_deadline() -> None:
    first = Connection()
    bench = Bench(first, Connection())
    first.end()
    bench.release.clear()
    dialling = Background(bench.ask)
    assert bench.waiting.wait(PATIENCE)
    with pytest.raises(MCPTimeoutError, match="another thread is still reconnecting") as found:
        bench.ask(timeout=0.1)
    assert found.value.may_have_run is False
    bench.release.set()
    assert dialling.result() == DONE


# -- a session that is forgotten --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "repeated"),
    [({"method": READ}, True), ({"method": ACT}, False), ({"method": ACT, "repeatable": True}, True)],
)
def test_a_forgotten_session_is_begun_again_and_what_is_safe_is_asked_again(question: Any, repeated: bool) -> None:
    first, second = Connection(expired()), Connection()
    bench = Bench(first, second)
    if repeated:
        assert bench.ask(**question) == DONE
    else:
        with pytest.raises(SessionExpired):
            bench.ask(**question)
    assert (len(bench.dials), second.attempts) == (2, int(repeated))
    assert bench.ask(ACT) == DONE  # the next one finds the new session


def test_a_session_that_is_forgotten_again_at_once_is_an_error() -> None:
    first, second = Connection(expired()), Connection(expired())
    bench = Bench(first, second)
    with pytest.raises(SessionExpired):
        bench.ask(READ)
    assert len(bench.dials) == 2


def test_of_eight_who_find_the_session_forgotten_one_begins_it_again() -> None:
    together = threading.Barrier(8)

    def forgotten() -> Any:
        together.wait(PATIENCE)
        raise expired()

    bench = Bench(Connection(forgotten), Connection())
    assert in_threads(8, lambda _: bench.ask(READ)) == [DONE] * 8
    assert len(bench.dials) == 2


def test_a_notification_that_finds_the_session_forgotten_begins_it_again_and_fails() -> None:
    first, second = Connection(expired()), Connection()
    bench = Bench(first, second)
    with pytest.raises(SessionExpired):
        bench.caller.notify("words", None, Deadline(PATIENCE))
    assert (len(bench.dials), second.attempts) == (2, 0)


def test_where_no_new_session_can_be_had_that_is_the_error() -> None:
    bench = Bench(Connection(expired()), MCPConnectionError("down"), attempts=1)
    with pytest.raises(MCPConnectionError, match="down"):
        bench.ask(READ)


def test_dialling_and_asking_again_share_one_deadline() -> None:
    first, second = Connection(expired()), Connection()
    bench = Bench(first, second)
    bench.ask(READ, timeout=5.0)
    assert 0 < second.deadlines[0] <= bench.dials[1][1] <= 5.0


# -- what the server was told before ----------------------------------------------------------------------------------


def test_a_new_connection_is_told_what_the_one_before_was_told() -> None:
    told: list[float] = []
    first = Connection()
    bench = Bench(first, Connection(), renewed=lambda deadline: told.append(deadline.remaining))
    assert told == []
    first.end()
    bench.ask(timeout=5.0)
    assert len(told) == 1
    assert 0 < told[0] <= 5.0


def test_telling_again_may_use_the_caller_and_never_ends_in_a_circle() -> None:
    first, second = Connection(), Connection(expired(), DONE)
    bench: Bench

    def tell(deadline: Deadline) -> None:
        bench.caller.call(Question("logging/setLevel"), deadline)

    bench = Bench(first, second, renewed=tell)
    first.end()
    assert bench.ask() == DONE
    assert (len(bench.dials), second.attempts) == (2, 2)


def test_telling_again_that_fails_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def tell(deadline: Deadline) -> None:
        raise MCPConnectionError("deaf")

    first = Connection()
    bench = Bench(first, Connection(), renewed=tell)
    first.end()
    assert bench.ask() == DONE
    assert "could not be told all: deaf" in caplog.text


def test_the_log_level_of_the_stateless_era_goes_along() -> None:
    era = Stateless(Identity()).at_level("debug")
    first, second = Connection(era=era), Connection(era=Stateless(Identity()))
    bench = Bench(first, second)
    first.end()
    bench.ask()
    assert second.dressed == [era]


def test_another_era_is_not_dressed_like_the_one_before() -> None:
    first, second = Connection(era=Stateless(Identity())), Connection()
    bench = Bench(first, second)
    first.end()
    bench.ask()
    assert second.dressed == []
    assert bench.caller.agreement.era.version == "2025-11-25"


# -- the handler ------------------------------------------------------------------------------------------------------


def test_what_is_said_on_either_connection_reaches_the_handler() -> None:
    handler = Listening()
    first, second = Connection(), Connection()
    bench = Bench(first, second, handler=handler)
    news = Notification("news", {})
    assert first.handler is not None
    first.handler.notification(news)
    first.end()
    bench.ask()
    assert second.handler is not None
    second.handler.notification(news)
    assert handler.told == [news, news]
    assert second.handler.offers("what")
    assert not second.handler.offers("else")
    assert second.handler.request(Incoming(Request(1, "what", {}))) == {"asked": "what"}


def test_the_handler_is_told_once_of_each_connection_that_ended_and_of_one_that_was_replaced() -> None:
    handler = Listening()
    first, second = Connection(expired()), Connection()
    bench = Bench(first, second, handler=handler)
    bench.ask()
    assert [type(error) for error in handler.ends] == [SessionExpired]
    assert first.handler is not None
    first.handler.closed(MCPConnectionError("closed later"))
    assert len(handler.ends) == 1
    assert second.handler is not None
    second.handler.closed(MCPConnectionError("gone"))
    assert [str(error) for error in handler.ends] == ["forgotten", "gone"]


def test_a_handler_that_is_gone_is_not_kept_and_offers_nothing() -> None:
    handler = Listening()
    ear = Ear(handler)
    assert ear.offers("what")
    del handler
    assert not ear.offers("what")
    ear.notification(Notification("news", {}))
    ear.closed(MCPConnectionError("gone"))
    with pytest.raises(MCPConnectionError):
        ear.request(Incoming(Request(1, "what", {})))
    assert not Ear(None).offers("what")


# -- connections that were replaced -----------------------------------------------------------------------------------


def test_calls_under_way_on_a_connection_that_was_replaced_are_not_disturbed() -> None:
    first, second = Connection(), Connection(expired(), DONE)
    bench = Bench(first, second, Connection())
    first.counted["pending"] = 1
    bench.caller.renew(Deadline(PATIENCE))
    assert (first.closed, len(bench.dials)) == (0, 2)
    first.counted["pending"] = 0
    bench.ask(READ)  # which finds the session forgotten, and looks after what was replaced before
    assert first.closed == 1
    bench.caller.close(Deadline(PATIENCE))
    assert first.closed == 1


def test_what_the_server_asks_on_a_connection_that_was_replaced_is_heard_until_it_is_closed() -> None:
    """B4: a Peer holds its handler weakly, so that somebody has to hold it."""
    handler = Listening()
    first = Connection()
    bench = Bench(first, Connection(), handler=handler)
    ear = weakref.ref(first.handler)  # type: ignore[arg-type]
    first.handler = None
    first.counted["pending"] = 1
    bench.caller.renew(Deadline(PATIENCE))
    heard = ear()
    assert heard is not None
    assert heard.request(Incoming(Request(1, "what", {}))) == {"asked": "what"}
    del heard
    first.counted["pending"] = 0
    bench.ask()
    assert (first.closed, ear()) == (1, None)


@pytest.mark.parametrize("end", [DONE, JSONRPCError(-32603, "no")], ids=["result", "error"])
def test_the_last_call_on_a_connection_that_was_replaced_closes_it(end: Any) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow() -> Any:
        first.counted["pending"] = 1
        begun.set()
        assert release.wait(PATIENCE)
        first.counted["pending"] = 0
        if isinstance(end, Exception):
            raise end
        return end

    first = Connection(slow)
    bench = Bench(first, Connection())
    call = Background(bench.ask)
    assert begun.wait(PATIENCE)
    bench.caller.renew(Deadline(PATIENCE))
    assert first.closed == 0
    release.set()
    assert (call.result() if end is DONE else call.error()) is end
    assert first.closed == 1


def test_a_call_that_has_no_time_left_leaves_the_closing_to_the_next() -> None:
    first = Connection()
    bench = Bench(first, Connection())
    first.counted["pending"] = 1
    bench.caller.renew(Deadline(PATIENCE))
    first.counted["pending"] = 0
    bench.ask(timeout=reconnect.CLOSE_LEAST_SECONDS / 2)
    assert first.closed == 0
    bench.ask()
    assert first.closed == 1


def test_while_a_connection_that_was_replaced_is_closed_no_counter_goes_backwards() -> None:
    seen: list[int] = []

    class Slow(Connection):
        def close(self, deadline: Deadline) -> None:
            seen.append(bench.caller.counters["sent"])
            super().close(deadline)

    bench = Bench(Slow(), Connection())
    bench.ask()
    bench.caller.renew(Deadline(PATIENCE))
    assert [*seen, bench.caller.counters["sent"]] == [1, 1]


def test_closing_closes_every_connection_and_tells_who_wants_to_know() -> None:
    first, second = Connection(), Connection()
    bench = Bench(first, second)
    first.counted["pending"] = 1
    bench.caller.renew(Deadline(PATIENCE))
    bench.caller.close(Deadline(PATIENCE))
    assert (first.closed, second.closed) == (1, 1)
    assert bench.ended
    assert bench.caller.over


def test_after_closing_nothing_is_dialled() -> None:
    first = Connection(MCPConnectionError("closed", may_have_run=False))
    bench = Bench(first, Connection())
    bench.caller.close(Deadline(PATIENCE))
    with pytest.raises(MCPConnectionError):
        bench.ask()
    assert len(bench.dials) == 1


def test_closing_while_another_thread_dials_closes_what_it_brings() -> None:
    first, second = Connection(), Connection(MCPConnectionError("closed"))
    bench = Bench(first, second)
    first.end()
    bench.release.clear()
    dialling = Background(bench.ask)
    assert bench.waiting.wait(PATIENCE)
    bench.caller.close(Deadline(PATIENCE))
    bench.release.set()
    assert isinstance(dialling.error(), MCPConnectionError)
    assert second.closed >= 1


@pytest.mark.parametrize("how", ["close", "hang_up"])
def test_closing_reaches_a_connection_that_is_still_being_made(how: str) -> None:
    first, second = Connection(), Connection(MCPConnectionError("closed"))
    bench = Bench(first, second)
    first.end()
    bench.release.clear()
    dialling = Background(bench.ask)
    assert bench.waiting.wait(PATIENCE)
    getattr(bench.caller, how)(Deadline(PATIENCE))
    assert second.closed == 1
    bench.release.set()
    assert isinstance(dialling.error(), MCPConnectionError)


def test_closing_ends_the_pause_between_two_dials() -> None:
    first = Connection()
    bench = Bench(first, MCPConnectionError("down"), attempts=5, interval=PATIENCE)
    first.end()
    dialling = Background(lambda: bench.ask(timeout=PATIENCE * 3))
    while len(bench.dials) < 2:
        bench.waiting.wait(PATIENCE)
    bench.caller.close(Deadline(PATIENCE))
    assert isinstance(dialling.error(SLACK), MCPConnectionError)


def test_counters_are_those_of_all_connections() -> None:
    first, second = Connection(expired()), Connection()
    bench = Bench(first, second)
    bench.ask()
    bench.ask()
    assert bench.caller.counters == {**ZERO, "sent": 3, "ok": 2, "error": 1}
    bench.caller.close(Deadline(PATIENCE))
    assert bench.caller.counters == {**ZERO, "sent": 3, "ok": 2, "error": 1}


def test_an_error_of_a_renewal_leaves_the_connection_that_there_was() -> None:
    first = Connection()
    bench = Bench(first, MCPConnectionError("down"), attempts=1)
    with pytest.raises(MCPConnectionError, match="down"):
        bench.caller.renew(Deadline(PATIENCE))
    assert bench.ask() == DONE
    assert first.attempts == 1


def test_in_a_forked_child_nothing_is_dialled() -> None:
    first = Connection(MCPConnectionError("forked", may_have_run=False))
    bench = Bench(first, Connection())
    bench.caller.forked()
    first.end()
    with pytest.raises(MCPConnectionError, match="forked"):
        bench.ask()
    assert len(bench.dials) == 1


def test_its_repr_and_name_are_the_connections() -> None:
    bench = Bench()
    assert bench.caller.name == "calc"
    assert repr(bench.caller).startswith("<Reconnecting <")
    assert bench.caller.explain() == {}
