"""Bytes to messages: what is well-formed, that nothing raises, and that nothing is lost on the way there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.strategies import whole_messages

from mcp_sync.exceptions import JSONRPCError, MessageTooLarge, RemoteProtocolError
from mcp_sync.protocol import messages
from mcp_sync.protocol.messages import Batch, Failure, Malformed, Message, Notification, Request, Result, decode, encode

WELL_FORMED = {
    "a request": (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":[]}}', Request(1, "m", {"a": []})),
    "a request without params": (b'{"jsonrpc":"2.0","id":1,"method":"m"}', Request(1, "m")),
    "params of null": (b'{"jsonrpc":"2.0","id":1,"method":"m","params":null}', Request(1, "m")),
    "an id that is text": (b'{"jsonrpc":"2.0","id":"1","method":"m"}', Request("1", "m")),
    "an empty id": (b'{"jsonrpc":"2.0","id":"","method":"m"}', Request("", "m")),
    "id 0": (b'{"jsonrpc":"2.0","id":0,"method":"m"}', Request(0, "m")),
    "a negative id": (b'{"jsonrpc":"2.0","id":-3,"method":"m"}', Request(-3, "m")),
    "a notification": (b'{"jsonrpc":"2.0","method":"n","params":{}}', Notification("n", {})),
    "a result": (b'{"jsonrpc":"2.0","id":1,"result":{"x":1}}', Result(1, {"x": 1})),
    "members in another order": (b'{"result":{},"id":1,"jsonrpc":"2.0"}', Result(1, {})),
    "members nobody knows": (b'{"jsonrpc":"2.0","id":1,"result":{},"took":3}', Result(1, {})),
    "spaces all over": (b' \t{ "jsonrpc" : "2.0" ,\r "id" : 1, "result" : { } } ', Result(1, {})),
    "an error": (b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"}}', Failure(1, -1, "x")),
    "an error with data": (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"","data":[0]}}',
        Failure(1, -1, "", [0]),
    ),
    "an error to nobody": (b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}', Failure(None, 1, "x")),
    "an error without id": (b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"}}', Failure(None, 1, "x")),
    "letters beyond ASCII": (
        '{"jsonrpc":"2.0","method":"\u00fc\u2028\U0001f600"}'.encode(),
        Notification("\u00fc\u2028\U0001f600"),
    ),
    "an escaped pair": (b'{"jsonrpc":"2.0","method":"\\ud83d\\ude00"}', Notification("\U0001f600")),
    "a batch": (
        b'[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","method":"n"}]',
        Batch((Result(1, {}), Notification("n"))),
    ),
}


@pytest.mark.parametrize(("raw", "message"), WELL_FORMED.values(), ids=WELL_FORMED)
def test_a_well_formed_message_is_read(raw: bytes, message: Message) -> None:
    assert decode(raw) == message


def test_a_notification_knows_its_length_on_the_wire() -> None:
    raw = WELL_FORMED["a notification"][0]
    assert getattr(decode(raw), "size", None) == len(raw)


def test_the_notifications_of_a_batch_share_its_length() -> None:
    raw = b"[" + b",".join([b'{"jsonrpc":"2.0","method":"n"}'] * 50) + b"]"
    batch = decode(raw)
    assert isinstance(batch, Batch)
    assert len(raw) * 0.9 < sum(item.size for item in batch.messages if isinstance(item, Notification)) <= len(raw)


mutilated = st.builds(
    lambda message, cut, junk, end: encode(message)[:cut] + junk + encode(message)[end:],
    *(whole_messages, st.integers(0, 80), st.binary(max_size=6), st.integers(0, 80)),
)
ALPHABET = [
    b'"',
    b"\\",
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
    b",",
    b"id",
    b"1",
    b"result",
    b"method",
    b'"id":',
    b"null",
    b"\n",
]


@given(st.binary() | mutilated | st.lists(st.sampled_from(ALPHABET)).map(b"".join))
@settings(max_examples=500)
def test_any_bytes_are_a_message_or_malformed_but_nothing_is_raised(raw: bytes) -> None:
    message = decode(raw)
    assert isinstance(message, (Request, Notification, Result, Failure, Malformed, Batch))
    if isinstance(message, Malformed):
        message.as_error()


@given(whole_messages)
def test_what_is_encoded_is_decoded_to_the_same(message: Message) -> None:
    raw = encode(message)
    assert b"\n" not in raw
    assert decode(raw) == message


@given(st.lists(whole_messages, min_size=1, max_size=5))
def test_a_batch_is_decoded_to_what_is_in_it(several: list[Any]) -> None:
    assert decode(encode([message.as_dict() for message in several])) == Batch(tuple(several))


def test_what_is_malformed_shows_its_beginning_and_no_more() -> None:
    message = decode(b"x" * 5000)
    assert isinstance(message, Malformed)
    assert message.raw == b"x" * 1024
    assert message.as_error().details["raw"] == "x" * 200


def test_an_error_about_an_answer_says_what_was_asked() -> None:
    error = Malformed("invalid JSON", answers=1).as_error("tools/call")
    assert isinstance(error, RemoteProtocolError)
    assert str(error) == "tools/call: unreadable answer: invalid JSON"
    assert (error.details["method"], error.may_have_run) == ("tools/call", True)


def test_an_answer_over_the_limit_is_an_error_of_its_own() -> None:
    error = Malformed("longer than 10 bytes", too_large=10).as_error()
    assert isinstance(error, MessageTooLarge)
    assert error.details["limit"] == 10


def test_a_failure_becomes_an_exception_with_all_it_says() -> None:
    error = Failure(1, -32602, "bad", {"a": 1}).as_error("ping")
    assert isinstance(error, JSONRPCError)
    assert (error.code, error.message, error.data, error.method) == (-32602, "bad", {"a": 1}, "ping")


@pytest.mark.parametrize("member", ["jsonrpc", "id", "method", "error"])
def test_a_reason_is_short_however_long_what_is_wrong(member: str) -> None:
    content = {"jsonrpc": "2.0", "id": 1, "method": "m", "error": {"code": "x" * 10_000}, member: ["x" * 10_000]}
    if member in ("jsonrpc", "error"):
        del content["method"]
    for variant in (content, {**content, "error": {"code": "x" * 10_000}}):
        message = decode(json.dumps(variant).encode())
        assert isinstance(message, Malformed)
        assert len(message.reason) < 200


def test_the_codes_are_those_of_the_specification() -> None:
    assert (messages.PARSE_ERROR, messages.INVALID_REQUEST, messages.METHOD_NOT_FOUND) == (-32700, -32600, -32601)
    assert (messages.INVALID_PARAMS, messages.INTERNAL_ERROR) == (-32602, -32603)
    assert (messages.HEADER_MISMATCH, messages.MISSING_CAPABILITY, messages.UNSUPPORTED_VERSION) == (
        -32020,
        -32021,
        -32022,
    )
