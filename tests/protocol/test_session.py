"""What a message means, case by case; what must hold in any order is in test_session_machine.py."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_sync.exceptions import JSONRPCError, MCPConnectionError, RemoteProtocolError
from mcp_sync.protocol.eras import SUBSCRIPTION_KEY, VERSION_KEY, Era, Handshake, Identity, Opening, Stateless
from mcp_sync.protocol.messages import Batch, Failure, Notification, Request, Result
from mcp_sync.protocol.session import (
    Dropped,
    Effect,
    Progressed,
    Pushed,
    Reply,
    Serve,
    Session,
    Settle,
    Told,
    Withdrawn,
)

HANDSHAKE, STATELESS = Handshake("2025-11-25"), Stateless(Identity())


def asked(era: Era = HANDSHAKE, method: str = "tools/call") -> Session[str]:
    session: Session[str] = Session(era)
    assert session.ask(method, {}, "ticket").id == 1
    return session


def told(session: Session[str], method: str, **params: Any) -> Effect:
    return session.received(Notification(f"notifications/{method}", params))


# -- what we say ------------------------------------------------------------------------------------------------------


def test_requests_are_numbered_from_one() -> None:
    session: Session[str] = Session()
    assert [session.ask("ping", None, "t") for _ in range(3)] == [Request(n, "ping") for n in (1, 2, 3)]


@pytest.mark.parametrize("params", [None, {}, {"_meta": None}, {"a": 1, "_meta": {"x": 1}}], ids=repr)
@pytest.mark.parametrize("era", [Opening(), HANDSHAKE, STATELESS], ids=["opening", "handshake", "stateless"])
def test_the_token_for_progress_is_the_id_of_the_request(era: Era, params: dict[str, Any] | None) -> None:
    request = Session[str](era).ask("tools/call", params, "t", progress=True)
    assert request.params is not None
    assert request.params["_meta"]["progressToken"] == request.id
    assert params in (None, {}, {"_meta": None}, {"a": 1, "_meta": {"x": 1}})


def test_a_request_is_dressed_as_the_era_wants_it() -> None:
    session: Session[str] = Session()
    assert session.ask("ping", None, "t").params is None
    session.era = STATELESS
    assert (session.ask("ping", None, "t").params or {})["_meta"][VERSION_KEY] == "2026-07-28"


def test_a_notification_is_sent_as_it_is_and_counted() -> None:
    session: Session[str] = Session(STATELESS)
    assert session.tell("notifications/x", {"a": 1}) == Notification("notifications/x", {"a": 1})
    assert session.tell("notifications/x", None) == Notification("notifications/x")
    assert session.counters.notifications_sent == 2


@pytest.mark.parametrize("method", ["initialize", "server/discover"])
def test_nobody_is_told_that_a_negotiation_is_no_longer_wanted(method: str) -> None:
    session: Session[str] = Session()
    assert session.cancel_notice(1, method, "late") is None
    assert session.counters.notifications_sent == 0


def test_the_other_side_is_told_which_call_is_no_longer_wanted_and_why() -> None:
    notice = asked().cancel_notice(1, "tools/call", "timed out")
    assert notice == Notification("notifications/cancelled", {"requestId": 1, "reason": "timed out"})


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_result_settles_its_call() -> None:
    assert asked().received(Result(1, {"x": 1})) == Settle("ticket", {"x": 1}, None)


def test_an_error_settles_its_call_with_the_method_in_its_text() -> None:
    effect = asked().received(Failure(1, -32602, "bad", [1]))
    assert isinstance(effect, Settle)
    assert isinstance(effect.error, JSONRPCError)
    assert (effect.error.code, effect.error.data, effect.error.method) == (-32602, [1], "tools/call")


def test_an_answer_that_comes_twice_is_late_the_second_time() -> None:
    session = asked()
    session.received(Result(1, {}))
    for again in (Result(1, {}), Failure(1, -1, "x")):
        assert session.received(again) == Dropped("an answer that came too late, or twice", again)
    assert session.counters.dropped_late == 2


@pytest.mark.parametrize("request_id", ["1", 2, 0, -1, "", 10**30])
def test_an_answer_to_nothing_is_counted(request_id: int | str) -> None:
    session = asked()
    assert isinstance(session.received(Result(request_id, {})), Dropped)
    assert (session.counters.dropped_unknown, session.counters.dropped_late, session.pending) == (1, 0, 1)


@pytest.mark.parametrize("why", ["timeout", "cancelled", "error"])
def test_whoever_gives_up_is_the_one_who_counts(why: str) -> None:
    session = asked()
    assert session.give_up(1, why) == "ticket"
    assert session.give_up(1, why) is None
    assert isinstance(session.received(Result(1, {})), Dropped)
    assert getattr(session.counters, why) == 1
    assert (session.counters.ok, session.counters.dropped_late) == (0, 1)


def test_an_answer_that_is_lost_fails_its_call_once() -> None:
    session, error = asked(), MCPConnectionError("cut")
    assert session.lost(1, error) == Settle("ticket", None, error)
    assert isinstance(session.lost(1, error), Dropped)
    assert (session.counters.error, session.counters.parse_errors) == (1, 0)


def test_an_unknown_type_of_result_fails_its_call_in_the_stateless_era() -> None:
    session = asked(STATELESS)
    effect = session.received(Result(1, {"resultType": "partial"}))
    assert isinstance(effect, Settle)
    assert isinstance(effect.error, RemoteProtocolError)
    assert str(effect.error) == "tools/call: the result is not valid in 2026-07-28: resultType is 'partial'"
    assert (session.counters.ok, session.counters.error) == (0, 1)


def test_an_error_without_id_answers_the_one_question_of_a_negotiation() -> None:
    effect = asked(Opening(), "server/discover").received(Failure(None, -32600, "Missing session ID"))
    assert isinstance(effect, Settle)
    assert isinstance(effect.error, JSONRPCError)


def test_an_error_without_id_answers_nobody_when_two_questions_are_open() -> None:
    session = asked(Opening())
    session.ask("ping", None, "second")
    assert isinstance(session.received(Failure(None, -32600, "x")), Dropped)
    assert session.pending == 2


@pytest.mark.parametrize("era", [HANDSHAKE, STATELESS], ids=["handshake", "stateless"])
def test_an_error_without_id_answers_nobody_once_a_version_is_agreed(era: Era) -> None:
    session = asked(era)
    assert isinstance(session.received(Failure(None, -32600, "x")), Dropped)
    assert (session.pending, session.counters.dropped_unknown) == (1, 1)


def test_a_batch_that_was_not_unpacked_is_dropped() -> None:
    assert isinstance(asked().received(Batch((Result(1, {}),))), Dropped)


def test_the_end_hands_back_all_who_wait_once() -> None:
    session = asked()
    session.ask("ping", None, "second")
    assert (session.close(), session.close()) == (["ticket", "second"], [])
    assert session.closed
    assert (session.counters.error, session.pending) == (2, 0)


# -- questions --------------------------------------------------------------------------------------------------------


def test_a_request_is_served_and_answered_once() -> None:
    session: Session[str] = Session(HANDSHAKE)
    request = Request("a", "roots/list")
    assert session.received(request) == Serve(request)
    assert session.answer("a", {"roots": []}) == Result("a", {"roots": []})
    assert session.answer("a", {"roots": []}) is None
    assert session.refuse("a", -1, "x") is None


def test_a_request_may_be_refused_instead() -> None:
    session: Session[str] = Session(HANDSHAKE)
    session.received(Request("a", "roots/list"))
    assert session.refuse("a", -32601, "no", {"x": 1}) == Failure("a", -32601, "no", {"x": 1})
    assert session.answer("a", {}) is None


def test_what_was_never_asked_is_not_answered() -> None:
    session: Session[str] = Session(HANDSHAKE)
    assert session.answer(1, {}) is None
    assert session.refuse("1", -1, "x") is None


def test_a_withdrawn_question_is_not_answered_any_more() -> None:
    session: Session[str] = Session(HANDSHAKE)
    session.received(Request("a", "roots/list"))
    assert told(session, "cancelled", requestId="a") == Withdrawn("a")
    assert session.answer("a", {}) is None
    assert isinstance(told(session, "cancelled", requestId="a"), Dropped)


def test_a_ping_is_answered_at_once_and_not_served() -> None:
    session: Session[str] = Session(HANDSHAKE)
    assert session.received(Request("p", "ping")) == Reply(Result("p", {}))
    assert session.answer("p", {}) is None


def test_a_request_with_the_id_of_one_that_is_served_is_dropped() -> None:
    session: Session[str] = Session(HANDSHAKE)
    session.received(Request(5, "roots/list"))
    assert isinstance(session.received(Request(5, "roots/list")), Dropped)
    assert isinstance(session.received(Request("5", "roots/list")), Serve)
    assert (session.counters.requests_received, session.counters.requests_refused) == (3, 1)


def test_ids_of_the_two_sides_are_not_mixed_up() -> None:
    session = asked()
    session.received(Request(1, "roots/list"))
    assert session.received(Result(1, {})) == Settle("ticket", {}, None)
    assert session.answer(1, {}) == Result(1, {})


@pytest.mark.parametrize("method", ["sampling/createMessage", "ping"])
def test_in_the_stateless_era_a_server_that_asks_is_not_even_refused(method: str) -> None:
    session: Session[str] = Session(STATELESS)
    assert isinstance(session.received(Request(1, method)), Dropped)
    assert session.counters.requests_refused == 1


def test_after_the_end_no_question_is_answered() -> None:
    session: Session[str] = Session(HANDSHAKE)
    session.received(Request(5, "roots/list"))
    session.close()
    assert session.answer(5, {}) is None


# -- what is just said ------------------------------------------------------------------------------------------------


def test_a_notification_is_told() -> None:
    news = Notification("notifications/tools/list_changed")
    session: Session[str] = Session(HANDSHAKE)
    assert session.received(news) == Told(news)
    assert session.counters.notifications_received == 1


def test_progress_reaches_the_call_it_is_about() -> None:
    params = {"progressToken": 1, "progress": 0.5, "total": 1}
    assert told(asked(), "progress", **params) == Progressed("ticket", params, 0)


@pytest.mark.parametrize("token", ["1", True, 1.0, 2, None, [1], {}], ids=repr)
def test_progress_for_another_token_is_dropped(token: object) -> None:
    assert isinstance(told(asked(), "progress", progressToken=token, progress=1), Dropped)


@pytest.mark.parametrize("progress", ["1", True, None, [1]], ids=repr)
def test_progress_that_is_no_number_is_dropped(progress: object) -> None:
    assert isinstance(told(asked(), "progress", progressToken=1, progress=progress), Dropped)


def test_progress_after_the_answer_is_dropped() -> None:
    session = asked()
    session.received(Result(1, {}))
    assert isinstance(told(session, "progress", progressToken=1, progress=1), Dropped)


@pytest.mark.parametrize("request_id", ["a", 1, True, None, [1], {}], ids=repr)
def test_the_cancel_of_what_is_not_served_is_dropped(request_id: object) -> None:
    session = asked()  # our own request 1 is nothing that the other side may cancel
    assert isinstance(told(session, "cancelled", requestId=request_id), Dropped)
    assert session.pending == 1


def test_true_does_not_cancel_request_1() -> None:
    session: Session[str] = Session(HANDSHAKE)
    session.received(Request(1, "roots/list"))
    assert isinstance(told(session, "cancelled", requestId=True), Dropped)
    assert session.answer(1, {}) == Result(1, {})


@pytest.mark.parametrize("method", ["progress", "cancelled"])
def test_a_notification_without_params_is_dropped(method: str) -> None:
    assert isinstance(asked().received(Notification(f"notifications/{method}")), Dropped)


def test_news_of_a_subscription_reach_it() -> None:
    session = asked(STATELESS, "subscriptions/listen")
    news = Notification("notifications/tools/list_changed", {"_meta": {SUBSCRIPTION_KEY: 1}})
    assert session.received(news) == Pushed("ticket", news)


@pytest.mark.parametrize("subscription", ["1", True, 1.0, 2, None, [1]], ids=repr)
def test_news_of_another_subscription_do_not(subscription: object) -> None:
    session = asked(STATELESS, "subscriptions/listen")
    assert isinstance(told(session, "tools/list_changed", _meta={SUBSCRIPTION_KEY: subscription}), Dropped)


def test_a_call_that_is_no_subscription_gets_no_news() -> None:
    session = asked(STATELESS, "tools/call")
    assert isinstance(told(session, "tools/list_changed", _meta={SUBSCRIPTION_KEY: 1}), Dropped)


@pytest.mark.parametrize("meta", [None, [], "x", {}], ids=repr)
def test_metadata_without_a_subscription_changes_nothing(meta: object) -> None:
    assert isinstance(told(asked(), "tools/list_changed", _meta=meta), Told)


def test_a_server_may_end_a_subscription_by_cancelling_it_and_by_its_result_but_once() -> None:
    session = asked(STATELESS, "subscriptions/listen")
    assert told(session, "cancelled", requestId=1) == Settle("ticket", {"resultType": "complete"}, None)
    assert isinstance(session.received(Result(1, {})), Dropped)
    assert (session.counters.ok, session.counters.dropped_late) == (1, 1)


def test_an_error_ends_a_subscription_too() -> None:
    effect = asked(STATELESS, "subscriptions/listen").received(Failure(1, -32000, "Connection closed"))
    assert isinstance(effect, Settle)
    assert isinstance(effect.error, JSONRPCError)


def test_news_of_a_subscription_that_has_ended_are_dropped() -> None:
    session = asked(STATELESS, "subscriptions/listen")
    session.received(Result(1, {}))
    assert isinstance(told(session, "tools/list_changed", _meta={SUBSCRIPTION_KEY: 1}), Dropped)
