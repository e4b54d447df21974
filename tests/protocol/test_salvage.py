"""Whose answer was this? Only the outermost object's own id counts; any other would fail somebody else's call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_sync.protocol.messages import salvage_id, too_large

NOBODY = (None, None)

PLAIN = {
    "a truncated result": (b'{"jsonrpc":"2.0","id":7,"result":{"a":', (7, None)),
    "an id after a truncated nothing": (b'{"result":{},"jsonrpc":"2.0","id":7,"x', (7, None)),
    "an id after a nested object": (b'{"result":{"id":9,"x":[{"id":8}]},"id":7,"jsonrpc":', (7, None)),
    "an id that is text": (b'{"jsonrpc":"2.0","id":"seven","result":', ("seven", None)),
    "an id beyond ASCII": ('{"jsonrpc":"2.0","id":"süben","result":'.encode(), ("süben", None)),
    "a negative id": (b'{"jsonrpc":"2.0","id":-7,"result":', (-7, None)),
    "id 0": (b'{"jsonrpc":"2.0","id":0,"result":', (0, None)),
    "a truncated request": (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{', (None, 7)),
    "a bare word": (b'{"jsonrpc":"2.0","id":7,"result":NaN}', (7, None)),
    "an id at the very end": (b'{"result":NaN,"jsonrpc":"2.0","id":7}', (7, None)),
    "bytes that are not UTF-8": (b'{"jsonrpc":"2.0","id":7,"result":{"a":"\xff"}}', (7, None)),
    "a byte order mark": (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":7,"result":{}}', (7, None)),
    "spaces before": (b' \t {"jsonrpc" : "2.0" , "id" : 7 , "result":', (7, None)),
    "a word too many": (b'{"jsonrpc":"2.0","id":7,"result":{}} bye', (7, None)),
    "a second message on the line": (b'{"jsonrpc":"2.0","id":7,"result":{}}{"jsonrpc":"2.0","id":8,', (7, None)),
    "a long result": (b'{"jsonrpc":"2.0","id":7,"result":"' + b"x" * 100_000, (7, None)),
    "a long string before the id": (b'{"jsonrpc":"2.0","result":"' + b'\\"id\\":9,' * 50 + b'","id":7,"x', (7, None)),
}

NOT_PLAIN = {
    "an id in a string": b'{"jsonrpc":"2.0","result":"\\"id\\":7,',
    "an id in a string of braces": b'{"jsonrpc":"2.0","result":"}{\\"id\\":7,',
    "an id behind an escaped backslash": b'{"jsonrpc":"2.0","result":"\\\\\\",\\"id\\":7,\\"',
    "an id in a nested object": b'{"jsonrpc":"2.0","result":{"id":7,"jsonrpc":"2.0"',
    "an id in an array": b'{"jsonrpc":"2.0","result":[{"id":7}],',
    "an id in a batch": b'[{"jsonrpc":"2.0","id":7,"result":{}}',
    "a value called id": b'{"jsonrpc":"2.0","result":"id","x":7,',
    "an id that is a value and then a colon": b'{"jsonrpc":"2.0","result": "id":7},"id":3}',
    "a number that may go on": b'{"jsonrpc":"2.0","result":{},"id":1',
    "a number that may go on behind a space": b'{"jsonrpc":"2.0","result":{},"id":1 ',
    "an id of two words": b'{"jsonrpc":"2.0","id":1 2,"result":{}}',
    "an id of 1.0": b'{"jsonrpc":"2.0","id":1.0,"result":NaN}',
    "an id of 1e3": b'{"jsonrpc":"2.0","id":1e3,"result":NaN}',
    "an id of 01": b'{"jsonrpc":"2.0","id":01,"result":{}}',
    "an id of 1x": b'{"jsonrpc":"2.0","id":1x,"result":{}}',
    "an id of true": b'{"jsonrpc":"2.0","id":true,"result":NaN}',
    "an id of null": b'{"jsonrpc":"2.0","id":null,"result":NaN}',
    "an id that is a list": b'{"jsonrpc":"2.0","id":[7],"result":NaN}',
    "an id that is an object": b'{"jsonrpc":"2.0","id":{"id":7},"result":NaN}',
    "an id of twenty digits": b'{"jsonrpc":"2.0","id":12345678901234567890,"result":NaN}',
    "an id of five thousand digits": b'{"jsonrpc":"2.0","id":' + b"1" * 5000 + b',"result":{}}',
    "an id with an escape": b'{"jsonrpc":"2.0","id":"\\u0037","result":NaN}',
    "an id with an escaped quote": b'{"jsonrpc":"2.0","id":"a\\"b","result":NaN}',
    "an id that is not UTF-8": b'{"jsonrpc":"2.0","id":"\xff","result":NaN}',
    "an id that is too long": b'{"jsonrpc":"2.0","id":"' + b"7" * 65 + b'","result":NaN}',
    "an id that never ends": b'{"jsonrpc":"2.0","result":{},"id":"7',
    "two ids": b'{"jsonrpc":"2.0","id":7,"id":8,"result":NaN}',
    "an id alone": b'{"id":7,"name":NaN}',
    "no id": b'{"jsonrpc":"2.0","result":NaN}',
    "an id after brackets that do not match": b'{"jsonrpc":"2.0","result":{"a":[1},"id":7,"x":1',
    "an id after a bracket that closes the wrong one": b'{"jsonrpc":"2.0","result":{"a":1],"id":7,"x":1',
    "an id after the end": b'{"jsonrpc":"2.0","result":{}},"id":7,',
    "an escaped line in a string": b'{"jsonrpc":"2.0","result":"\\\n","x":",","y":"id","id',
    "an escaped line in a string with quotes behind it": b'{"jsonrpc":"2.0","a":"\\\nb,"id":7,"c":NaN',
    "JSON in JSON, unescaped": b'{"jsonrpc":"2.0","result":{"text":"{"id":7,"jsonrpc":"2.0"}"}}',
    "JSON escaped as a whole": b'{\\"jsonrpc\\":\\"2.0\\",\\"id\\":7,\\"result\\":{}}',
    "UTF-16": '{"jsonrpc":"2.0","id":7,"result":{}}'.encode("utf-16-le"),
    "a line of a table": b'  "id": 7, "result": 1,',
    "noise": b"INFO id: 7 result: ok",
    "an id too far away": b'{"jsonrpc":"2.0","result":"' + b"x" * 70_000 + b'","id":7,"x":NaN}',
    "nothing": b"",
}


@pytest.mark.parametrize(("raw", "found"), PLAIN.values(), ids=PLAIN)
def test_an_id_at_the_top_level_is_found(raw: bytes, found: tuple[object, object]) -> None:
    assert salvage_id(raw) == found


@pytest.mark.parametrize("raw", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plainly_an_id_is_left_alone(raw: bytes) -> None:
    assert salvage_id(raw) == NOBODY


bait = st.sampled_from(
    [
        *(
            "id",
            '"id":9,',
            '\\"id\\":9',
            "\\",
            '"',
            '\\"',
            '","id":9,"',
            '"}',
            "{",
            "}",
            "]",
            ":",
            ",",
            '{"id":9,"method":""}',
        ),
        *("result", "jsonrpc", "\n", "\u2028", "x" * 70),
    ]
)
baits = st.lists(bait, max_size=4).map("".join)
values = st.recursive(
    baits | st.just(9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("id") | baits, inner, max_size=3),
    max_leaves=8,
)
own_ids = st.integers(-(10**6), 10**6) | st.text(max_size=5) | baits
keys = st.sampled_from(["jsonrpc", "result", "error", "method", "x"])


@st.composite
def broken(draw: st.DrawFn, own: bool) -> tuple[object, bytes]:
    """Return a message's own id, and its text with something wrong behind a certain place."""
    members: dict[str, Any] = draw(st.dictionaries(keys, values, min_size=1))
    wanted = draw(own_ids) if own else None
    if own:
        members["id"] = wanted
    ordered = dict(draw(st.permutations(list(members.items()))))
    raw = json.dumps(ordered, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))).encode(
        "utf-8", "replace"
    )
    return wanted, raw[: draw(st.integers(0, len(raw)))] + draw(st.sampled_from([b"", b"\xff", b" "]))


@given(broken(own=True))
@settings(max_examples=500)
def test_no_other_id_than_the_messages_own_is_ever_found(case: tuple[object, bytes]) -> None:
    wanted, raw = case
    for found in salvage_id(raw):
        assert found is None or (found == wanted and type(found) is type(wanted))


@given(broken(own=False))
@settings(max_examples=300)
def test_a_message_without_an_id_of_its_own_answers_nobody(case: tuple[object, bytes]) -> None:
    assert salvage_id(case[1]) == NOBODY


@given(st.binary(max_size=300))
def test_any_bytes_are_searched_without_an_error(raw: bytes) -> None:
    salvage_id(raw)


@pytest.mark.parametrize(
    ("head", "tail", "answers"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"a":"xxx', b'xxx"}}', 7),
        (b'{"result":{"a":"xxx', b'xxx"}},"jsonrpc":"2.0","id":7}', 7),
        (b'{"result":{"a":"xxx', b'xxx"}},"id":"seven","jsonrpc":"2.0"}', "seven"),
        (b'{"error":{"a":"xxx', b'xxx"}},"jsonrpc":"2.0","id":7}', 7),
        (b'{"method":"m","params":{"a":"xxx', b'xxx"}},"jsonrpc":"2.0","id":7}', None),
        (b'{"result":{"a":"xxx', b'xxx","id":7}}', None),
        (b'{"result":{"a":"xxx', b'xxx,\\"id\\":7}"}}', None),
        (b'{"a":"xxx', b'xxx","id":7}', None),
        (b"xxx", b',"id":7}', None),
    ],
)
def test_of_a_message_over_the_limit_the_id_is_known_by_its_beginning_or_its_end(
    head: bytes, tail: bytes, answers: object
) -> None:
    found = too_large(head, tail, 10)
    assert (found.answers, found.asks, found.too_large) == (answers, None, 10)
