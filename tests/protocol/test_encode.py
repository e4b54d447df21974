"""Messages to bytes, or the place of what JSON cannot say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from protocol.strategies import json_values

from mcp_sync.exceptions import LocalProtocolError
from mcp_sync.protocol.messages import Failure, Request, encode, find_unsayable

LOOP: list[Any] = []
LOOP.append(LOOP)


class Grumpy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


UNSAYABLE = {
    "bytes": ({"b": b"x"}, "params.a.b is of type bytes (b'x'); pass a str"),
    "a set in a list": ([1, {2}], "params.a[1] is of type set ({2}); pass a str"),
    "NaN": (float("nan"), "params.a is of type float (nan) (Out of range"),
    "infinity": (float("inf"), "params.a is of type float (inf) (Out of range"),
    "a lone surrogate": ("\ud800", "params.a is of type str ('\\ud800') ("),
    "a lone surrogate as a key": ({"\ud800": 1}, "a key of params.a is of type str ('\\ud800') ("),
    "a key that is a tuple": ({(1, 2): 3}, "a key of params.a is of type tuple ((1, 2)); keys must be str"),
    "what holds itself": (LOOP, f"params.a{'[0]' * 127} is nested more than 128 levels deep, or holds itself"),
    "a number of too many digits": (10**5000, "params.a is of type int; pass a str"),
    "an object without a repr": (Grumpy(), "params.a is of type Grumpy; pass a str"),
    "long bytes": (b"x" * 500, f"params.a is of type bytes (b'{'x' * 78}...); pass a str"),
}


@pytest.mark.parametrize(("value", "text"), UNSAYABLE.values(), ids=UNSAYABLE)
def test_what_json_cannot_say_is_refused_with_its_place(value: object, text: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        encode(Request(1, "m", {"good": 1, "a": value}))
    assert str(caught.value).startswith(f"cannot be sent as JSON: {text}")
    assert caught.value.may_have_run is False
    str(caught.value).encode()


@given(json_values)
def test_nothing_is_found_in_what_json_can_say(content: Any) -> None:
    assert find_unsayable(content) is None


def test_messages_are_sent_in_utf8_and_without_spaces() -> None:
    assert (
        encode(Request(1, "m", {"a": "\u00fc\n"}))
        == '{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"ü\\n"}}'.encode()
    )


def test_an_error_to_nobody_is_sent_with_an_id_of_null() -> None:
    assert encode(Failure(None, 1, "x")) == b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}'
