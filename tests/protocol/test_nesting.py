"""What reading costs at worst: levels, seconds for a megabyte, bytes for a byte."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from house import growth
from mcp_sync.protocol.messages import MAX_BATCH, MAX_DEPTH, Batch, Malformed, Request, decode, too_deep


def depth_of(content: Any) -> int:
    if isinstance(content, dict):
        return 1 + max(map(depth_of, content.values()), default=0)
    if isinstance(content, list):
        return 1 + max(map(depth_of, content), default=0)
    return 0


tricky = st.text(st.sampled_from('[]{}"\\,:a'), max_size=8)
nested = st.recursive(
    tricky | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky, inner, max_size=3),
    max_leaves=30,
)


@given(nested, st.sampled_from([None, 1]), st.integers(0, 6))
def test_too_deep_is_what_counting_the_levels_says(content: Any, indent: int | None, limit: int) -> None:
    assert too_deep(json.dumps(content, indent=indent).encode(), limit) == (depth_of(content) > limit)


@given(nested, st.data())
def test_a_text_that_is_cut_off_is_no_deeper_than_its_brackets(content: Any, data: st.DataObject) -> None:
    raw = json.dumps(content).encode()
    assert not too_deep(raw[: data.draw(st.integers(0, len(raw)))], depth_of(content))


@pytest.mark.parametrize(
    ("opening", "core", "closing"), [("[", "1", "]"), ('{"a":', "1", "}")], ids=["arrays", "objects"]
)
@pytest.mark.parametrize(("levels", "readable"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False)])
def test_a_message_may_be_nested_so_deep_and_no_deeper(
    opening: str, core: str, closing: str, levels: int, readable: bool
) -> None:
    inner = levels - 2  # the message itself is a level, its params another
    params = f'{{"a":{opening * inner}{core}{closing * inner}}}'
    message = decode(f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{params}}}'.encode())
    assert isinstance(message, Request if readable else Malformed)


SIZE = 1 << 18
WORST = {
    "opening brackets": b"[" * SIZE,
    "all opening, then all closing": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "closing brackets": b"[" * 127 + b"]" * SIZE,
    "a zigzag": b"[" + b"[][" * (SIZE // 3),
    "deep nests side by side": b"[" + b",".join([b"[" * 127 + b"]" * 127] * (SIZE // 255)) + b"]",
    "a batch of numbers": b"[" + b"1," * (SIZE // 2) + b"1]",
    "a batch of nothing": b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "quotes": b'["' + b'","' * (SIZE // 3) + b'"]',
    "backslashes": b'["' + b"\\" * SIZE + b'"]',
    "digits": b'{"id":' + b"1" * SIZE + b"}",
    "many long numbers": b"[[" + b",".join([b"1" * 4300] * (SIZE // 4301)) + b"]]",
    "surrogates": b'["' + b"\\ud83d\\ude00" * (SIZE // 12) + b'"]',
    "an object that never ends": b'{"id":1,' + b'"a":1,' * (SIZE // 6),
    "spaces": b" " * SIZE,
    "a string that never ends": b'{"id":1,"result":"' + b"a" * SIZE,
}


@pytest.mark.alone
@pytest.mark.parametrize("raw", WORST.values(), ids=WORST)
def test_reading_takes_less_than_a_second_for_a_megabyte(raw: bytes) -> None:
    bound = len(raw) / (1 << 20)
    took = [growth.seconds(lambda: decode(raw))]
    while min(took) >= bound and len(took) < 5:  # whatever else goes on makes it slower, never faster
        took.append(growth.seconds(lambda: decode(raw)))
    assert min(took) < bound


@pytest.mark.parametrize("raw", WORST.values(), ids=WORST)
def test_reading_takes_no_more_memory_than_the_values_themselves(raw: bytes) -> None:
    tracemalloc.start()
    try:
        message = decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 64 * len(raw)  # an empty array in an array: 64 bytes
    finally:
        tracemalloc.stop()
    del message


def test_a_batch_of_too_many_messages_is_one_malformed_message() -> None:
    item = b'{"jsonrpc":"2.0","method":"n"}'
    assert isinstance(decode(b"[" + b",".join([item] * MAX_BATCH) + b"]"), Batch)
    message = decode(b"[" + b",".join([item] * (MAX_BATCH + 1)) + b"]")
    assert message == Malformed(f"an array of 1001, more than {MAX_BATCH} messages", message.raw, parsed=True)  # type: ignore[union-attr]
