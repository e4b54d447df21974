"""What becomes of an answer that is wrong: plainly to our question, that call fails at once; the rest is dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_sync.exceptions import JSONRPCError, RemoteProtocolError
from mcp_sync.protocol.eras import Handshake, Identity, Stateless
from mcp_sync.protocol.messages import INVALID_REQUEST, PARSE_ERROR, Batch, Failure, Malformed, Message, Result, decode
from mcp_sync.protocol.session import Dropped, Effect, Reply, Session, Settle

ERROR = {"code": -1, "message": "x"}


def answer(**members: Any) -> bytes:
    """Return an answer to request 1 with some members changed; None leaves one out."""
    whole = {"jsonrpc": "2.0", "id": 1, **members}
    return json.dumps({name: value for name, value in whole.items() if value is not LEFT_OUT}).encode()


LEFT_OUT = object()
GOOD = answer(result={})


def asked(version: str = "2025-11-25") -> Session[str]:
    """Return a session that waits for the answer to request 1."""
    session: Session[str] = Session(Handshake(version))
    session.ask("tools/call", {}, "ticket")
    return session


def hear(session: Session[str], raw: bytes) -> list[Effect]:
    message = decode(raw)
    several: list[Message] = session.unpack(message) if isinstance(message, Batch) else [message]
    return [session.received(each) for each in several]


FAILS_THE_CALL = {
    "no jsonrpc": (answer(jsonrpc=LEFT_OUT, result={}), "jsonrpc is None, not '2.0'"),
    "jsonrpc 1.0": (answer(jsonrpc="1.0", result={}), "jsonrpc is '1.0', not '2.0'"),
    "jsonrpc as a number": (answer(jsonrpc=2.0, result={}), "jsonrpc is 2.0, not '2.0'"),
    "both result and error": (answer(result={}, error=ERROR), "both a result and an error"),
    "neither result nor error": (answer(), "neither a method, nor a result, nor an error"),
    "result a string": (answer(result="x"), "result is a JSON string"),
    "result a number": (answer(result=5), "result is a JSON number"),
    "result a fraction": (answer(result=0.5), "result is a JSON number"),
    "result null": (answer(result=None), "result is a JSON null"),
    "result true": (answer(result=True), "result is a JSON boolean"),
    "result a list": (answer(result=[]), "result is a JSON array"),
    "error a string": (answer(error="x"), "error is a JSON string, not an object"),
    "error null": (answer(error=None), "error is a JSON null, not an object"),
    "error a list": (answer(error=[]), "error is a JSON array, not an object"),
    "code a string": (answer(error={"code": "-1", "message": "x"}), "error.code is '-1', not an integer"),
    "code a fraction": (answer(error={"code": -1.0, "message": "x"}), "error.code is -1.0, not an integer"),
    "code true": (answer(error={"code": True, "message": "x"}), "error.code is True, not an integer"),
    "no code": (answer(error={"message": "x"}), "error.code is None, not an integer"),
    "no message": (answer(error={"code": -1}), "error.message is None, not a string"),
    "message a number": (answer(error={"code": -1, "message": 5}), "error.message is 5, not a string"),
    "truncated": (answer(result={"a": "b"})[:-4], "invalid JSON: Unterminated string"),
    "trailing garbage": (GOOD + b" bye", "invalid JSON: Extra data"),
    "two on one line": (GOOD + GOOD, "invalid JSON: Extra data"),
    "invalid UTF-8": (answer(result={"a": "?"}).replace(b"?", b"\xff"), "invalid UTF-8 at byte 45"),
    "half a character": (answer(result={"a": "?"}).replace(b"?", b"\xc3"), "invalid UTF-8 at byte 45"),
    "a surrogate in UTF-8": (answer(result={"a": "?"}).replace(b"?", b"\xed\xa0\x80"), "invalid UTF-8 at byte 45"),
    "NaN": (answer(result={"a": float("nan")}), "invalid JSON: NaN is not JSON"),
    "Infinity": (answer(result={"a": float("inf")}), "invalid JSON: Infinity is not JSON"),
    "minus Infinity": (answer(result={"a": float("-inf")}), "invalid JSON: -Infinity is not JSON"),
    "a number beyond all floats": (
        answer(result={"a": "?"}).replace(b'"?"', b"1e999"),
        "invalid JSON: a number that no float can hold",
    ),
    "a long number beyond all floats": (
        answer(result={"a": "?"}).replace(b'"?"', b"-" + b"9" * 400 + b".0"),
        "invalid JSON: a number that no float can hold",
    ),
    "a lone surrogate": (answer(result={"a": "\ud800"}), "a lone surrogate, which is no character"),
    "a lone surrogate in capitals": (
        b'{"jsonrpc":"2.0","id":1,"result":{"a":"\\uD800"}}',
        "a lone surrogate, which is no character",
    ),
    "a lone surrogate as a key": (answer(result={"\udfff": 1}), "a lone surrogate, which is no character"),
    "a number of 5000 digits": (
        answer(result={"a": "?"}).replace(b'"?"', b"1" * 5000),
        "invalid JSON: Exceeds the limit",
    ),
    "a bomb of arrays": (
        answer(result={"a": "?"}).replace(b'"?"', b"[" * 10**5 + b"]" * 10**5),
        "nested more than 128",
    ),
    "a bomb that stays open": (answer(result={"a": "?"}).replace(b'"?"', b"[" * 10**5), "nested more than 128 levels"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "invalid JSON: it begins with a byte order mark"),
    "single quotes": (b'{"jsonrpc":"2.0","id":1,"result":{\'a\':1}}', "invalid JSON"),
    "a trailing comma": (b'{"jsonrpc":"2.0","id":1,"result":{},}', "invalid JSON"),
    "a comment": (b'{"jsonrpc":"2.0","id":1,/* hi */"result":{}}', "invalid JSON"),
    "a raw tab in a string": (
        b'{"jsonrpc":"2.0","id":1,"result":{"a":"\t"}}',
        "invalid JSON: Invalid control character",
    ),
    "a batch": (b"[" + GOOD + b"]", "a batch, which protocol version 2025-11-25 does not allow"),
    "a malformed answer in a batch": (b"[" + answer(result=5) + b"]", "result is a JSON number"),
}


@pytest.mark.parametrize(("raw", "reason"), FAILS_THE_CALL.values(), ids=FAILS_THE_CALL)
def test_what_is_plainly_our_answer_but_wrong_fails_the_call_at_once(raw: bytes, reason: str) -> None:
    session = asked()
    [effect] = hear(session, raw)
    assert isinstance(effect, Settle)
    assert effect.ticket == "ticket"
    assert isinstance(effect.error, RemoteProtocolError)
    assert str(effect.error).startswith("tools/call: unreadable answer: ")
    assert reason in str(effect.error)
    assert effect.error.may_have_run is True
    assert (session.pending, session.counters.error, session.counters.parse_errors) == (0, 1, 1)


IS_DROPPED = {
    "id true": answer(id=True, result={}),
    "id 1.0": answer(id=1.0, result={}),
    "id null": answer(id=None, result={}),
    "id a list": answer(id=[1], result={}),
    "id an object": answer(id={"id": 1}, result={}),
    "id as text": answer(id="1", result={}),
    "id left out": answer(id=LEFT_OUT, result={}),
    "id of somebody else": answer(id=7, result={}),
    "id 0": answer(id=0, result={}),
    "id -1": answer(id=-1, result={}),
    "an error with id true": answer(id=True, error=ERROR),
    "an error with id 1.0": answer(id=1.0, error=ERROR),
    "an error with id as text": answer(id="1", error=ERROR),
    "an error with id null": answer(id=None, error=ERROR),
    "an error without id": answer(id=LEFT_OUT, error=ERROR),
    "a wrong answer with id true": answer(id=True, result=5),
    "NaN with id 1.0": answer(id=1.0, result=float("nan")),
    "NaN with id true": answer(id=True, result=float("nan")),
    "NaN with id as text": answer(id="1", result=float("nan")),
    "truncated within its id": b'{"jsonrpc":"2.0","result":{},"id":1',
    "truncated before its id": b'{"jsonrpc":"2.0","result":{"id":1',
    "an id alone": b'{"id":1}',
    "null": b"null",
    "a number": b"1",
    "a string": b'"id"',
    "an empty object": b"{}",
    "an empty array": b"[]",
    "a batch of numbers": b"[1]",
    "a batch in a batch": b"[[" + GOOD + b"]]",
    "a batch with id true": b"[" + answer(id=True, result={}) + b"]",
    "too large a batch": b"[" + b",".join([GOOD] * 1001) + b"]",
    "noise": b"Listening on port 8080",
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a NUL": b"\0",
}


@pytest.mark.parametrize("raw", IS_DROPPED.values(), ids=IS_DROPPED)
def test_what_is_not_plainly_our_answer_is_dropped_counted_and_hurts_nobody(raw: bytes) -> None:
    session = asked()
    [effect] = hear(session, raw)
    assert isinstance(effect, Dropped)
    counters = session.counters
    assert counters.parse_errors + counters.dropped_late + counters.dropped_unknown == 1
    assert hear(session, GOOD) == [Settle("ticket", {}, None)]


def test_a_reply_with_a_true_id_is_not_taken_for_id_1() -> None:
    session = asked()
    assert isinstance(hear(session, answer(id=True, result={"wrong": True}))[0], Dropped)
    assert session.pending == 1


def test_an_array_is_a_batch_in_the_one_version_that_has_them() -> None:
    session = asked("2025-03-26")
    session.ask("tools/list", None, "second")
    raw = b"[" + answer(id=2, error=ERROR) + b"," + GOOD + b"]"
    second, first = hear(session, raw)
    assert first == Settle("ticket", {}, None)
    assert isinstance(second, Settle)
    assert isinstance(second.error, JSONRPCError)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25"])
def test_a_batch_of_several_fails_each_call_it_answers(version: str) -> None:
    session = asked(version)
    session.ask("tools/list", None, "second")
    raw = b"[" + answer(id=2, error=ERROR) + b"," + GOOD + b',{"jsonrpc":"2.0","method":"n"}]'
    effects = hear(session, raw)
    assert [effect.ticket for effect in effects if isinstance(effect, Settle)] == ["second", "ticket"]
    assert (session.pending, session.counters.notifications_received) == (0, 0)


def test_in_the_stateless_era_too_a_batch_fails_the_calls_it_answers() -> None:
    session: Session[str] = Session(Stateless(Identity()))
    session.ask("tools/call", {}, "ticket")
    [effect] = hear(session, b"[" + GOOD + b"]")
    assert isinstance(effect, Settle)
    assert "protocol version 2026-07-28 does not allow" in str(effect.error)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"m","params":{', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":5,"method":"m","params":NaN}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":5,"method":"m","params":[]}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":5,"method":"m"}', INVALID_REQUEST),
        (b'[{"jsonrpc":"2.0","id":5,"method":"m"}]', INVALID_REQUEST),
    ],
    ids=["truncated", "not JSON", "params an array", "method a number", "version 1.0", "in a batch"],
)
def test_a_request_that_cannot_be_read_is_refused(raw: bytes, code: int) -> None:
    session = asked()
    [effect] = hear(session, raw)
    assert isinstance(effect, Reply)
    assert isinstance(effect.message, Failure)
    assert (effect.message.id, effect.message.code) == (5, code)
    assert session.pending == 1


def test_a_request_over_the_limit_is_refused_as_invalid_for_it_may_well_be_json() -> None:
    effect = asked().received(Malformed("longer than 10 bytes", asks=5, too_large=10))
    assert effect == Reply(Failure(5, INVALID_REQUEST, "longer than 10 bytes"))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":null,"method":"m"}',
        b'{"jsonrpc":"2.0","id":true,"method":"m"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"m"}',
        b'{"jsonrpc":"2.0","method":"n","params":[]}',
        b'{"jsonrpc":"2.0","method":null}',
    ],
    ids=["id null", "id true", "id 1.5", "a notification with an array", "method null"],
)
def test_a_question_that_nobody_can_answer_is_dropped(raw: bytes) -> None:
    assert isinstance(hear(asked(), raw)[0], Dropped)


def test_in_the_stateless_era_no_request_is_refused_for_a_client_writes_no_answers() -> None:
    session: Session[str] = Session(Stateless(Identity()))
    assert isinstance(hear(session, b'{"jsonrpc":"2.0","id":5,"method":7}')[0], Dropped)


def test_the_last_of_two_equal_members_counts_as_python_reads_json() -> None:
    raw = b'{"jsonrpc":"2.0","id":9,"id":1,"result":{"a":1},"result":{"a":2}}'
    assert hear(asked(), raw) == [Settle("ticket", {"a": 2}, None)]


def test_a_good_answer_is_no_parse_error() -> None:
    session = asked()
    assert decode(GOOD) == Result(1, {})
    hear(session, GOOD)
    assert session.counters.parse_errors == 0
