"""Blocks out of a stream of events, wherever it is cut: whole, bounded, valid, in normal form."""

from __future__ import annotations

import random
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.whatwg import MARK, cut, cuttings, pulp, stream

from house import growth
from mcp_sync.protocol.framing import KEPT_HEAD
from mcp_sync.protocol.sse import RETRY_CAP, Block, BlockCutter, NotText, TooLong

LIMIT = 1 << 24
RARE = bytes(code for code in range(32) if code not in b"\r\n")


def blocks_of(chunks: list[bytes], limit: int = LIMIT) -> list[Block | TooLong | NotText]:
    cutter = BlockCutter(limit)
    return [item for chunk in chunks for item in cutter.feed(chunk)]


def raws_of(*chunks: bytes) -> list[bytes]:
    return [item.raw for item in blocks_of(list(chunks)) if isinstance(item, Block)]


def unfolded(block: Block) -> str:
    [data] = [line for line in block.raw.decode().split("\n") if line.startswith("data:")]
    value = data.removeprefix("data:").removeprefix(" ")
    return value.replace(block.separator, "\n") if block.separator else value


@pytest.mark.parametrize("seed", range(5))
def test_the_blocks_are_those_of_the_whole_wherever_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    for number in range(400):
        data = stream(chance, bad=bool(number % 2)) if number % 4 else pulp(chance)
        limit = chance.choice([LIMIT, 30, 7, 0])
        whole = blocks_of([data], limit)
        for chunks in cuttings(data, chance):
            assert blocks_of(chunks, limit) == whole, (limit, chunks)


@given(st.lists(st.sampled_from([*b"\r\n:a \xff\xef\xbb\xbf"])).map(bytes), st.lists(st.integers(0, 40), max_size=5))
def test_cuts_make_no_difference_to_hypothesis_either(data: bytes, places: list[int]) -> None:
    for limit in (LIMIT, 2):
        assert blocks_of(cut(data, *places), limit) == blocks_of([data], limit)


@pytest.mark.parametrize("seed", range(3))
def test_every_block_is_in_normal_form(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(500):
        for item in blocks_of([stream(chance)]):
            assert isinstance(item, Block)
            *lines, last, blank = item.raw.decode().split("\n")
            assert (last, blank) == ("", "")
            assert "" not in lines
            names = [line.partition(":")[0] for line in lines]
            assert names.count("data") == 1
            assert {"data", "event", "id", "retry"} >= set(names)
            assert all("\0" not in line for line in lines if line.startswith("id"))
            assert all(re.fullmatch("retry: [0-9]{1,8}", line) for line in lines if line.startswith("retry"))


@pytest.mark.parametrize(
    ("sent", "raw"),
    {
        "the usual one": (b"event: message\ndata: {}\n\n", b"data: {}\n\n"),
        "with an id before": (b"id: 3\nevent:message\ndata: {}\n\n", b"id: 3\ndata: {}\n\n"),
        "nearly the usual one": (b"event: messages\ndata: {}\n\n", b"event: messages\ndata: {}\n\n"),
        "as it is": (b"event: n\nid:3\ndata:{}\n\n", b"event: n\nid:3\ndata:{}\n\n"),
        "fields behind the data": (b"data: {}\nid: 3\n\n", b"data: {}\nid: 3\n\n"),
        "only an id": (b"id: 3\n\n", b"id: 3\ndata: \n\n"),
        "only a retry": (b"retry: 3\n\n", b"retry: 3\ndata: \n\n"),
        "an empty id": (b"id\n\n", b"id: \ndata: \n\n"),
        "two lines of data": (b"data: a\ndata:b\n\n", b"data: a\x1fb\n\n"),
        "what is to be ignored": (b"x\nid: 1\nid: \0\nretry: x\ndata: d\ny:\n\n", b"id: 1\ndata: d\n\n"),
        "the last of each counts": (b"id: 1\nid:\nretry: 1\nretry: 02\ndata\n\n", b"id: \nretry: 2\ndata: \n\n"),
        "a long retry": (b"retry: " + b"9" * 5000 + b"\ndata\n\n", b"retry: %d\ndata: \n\n" % RETRY_CAP),
    }.items(),
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_the_normal_form(sent: str, raw: tuple[bytes, bytes]) -> None:
    assert raws_of(raw[0]) == [raw[1]], sent


@pytest.mark.parametrize("nothing", [b"event: n\n\n", b": c\n\n", b"\n\n", b"x: y\n\n", b"id: \0\n\n", b"retry: x\n\n"])
def test_a_block_that_says_nothing_is_left_out(nothing: bytes) -> None:
    assert raws_of(nothing + b"data\n\n") == [b"data: \n\n"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_block_comes_out_with_the_byte_that_ends_it(end: bytes) -> None:
    cutter = BlockCutter(LIMIT)
    data = b"data: x" + end + end
    found = [cutter.feed(bytes([byte])) for byte in data]
    first = data.index(b"x") + len(end) + 1  # the CR of CRLF is an end of a line by itself
    assert [number for number, items in enumerate(found) if items] == [first]
    assert cutter.pending is False


def test_the_lf_after_a_cr_may_come_later() -> None:
    assert raws_of(b"data: a\r", b"", b"\ndata: b\r", b"\n", b"\r", b"\ndata: c\n", b"\n") == [
        b"data: a\x1fb\n\n",
        b"data: c\n\n",
    ]


@pytest.mark.parametrize("place", range(4))
def test_a_byte_order_mark_is_taken_off_once_also_in_pieces(place: int) -> None:
    data = MARK + b"data: a\n\n" + MARK + b"data: b\n\n"
    assert raws_of(*cut(data, place)) == raws_of(*cut(data, 1, 2, place)) == [b"data: a\n\n"]


def test_what_begins_like_a_byte_order_mark_is_kept() -> None:
    [item] = blocks_of([b"\xef", b"\xbb", b"data\n\n"])
    assert isinstance(item, NotText)
    assert item.head == b"\xef\xbbdata"


@pytest.mark.parametrize(
    ("sent", "pending"),
    [
        (b"", False),
        (b"\xef\xbb", True),
        (MARK, False),
        (b"data: x\n\n", False),
        (b"\n", False),
        (b": a comment", False),
        (b"data: x\n\n: a comment\n", False),
        (b"d", True),
        (b"data: x\n", True),
        (b"data: x\n: a comment", True),
        (b"data: over the limit of thirty bytes", True),
        (b"data: over the limit of thirty bytes\n", True),
        (b"data: over the limit of thirty bytes\n\n", False),
    ],
)
def test_it_knows_whether_a_block_is_unfinished(sent: bytes, pending: bool) -> None:
    whole, slow = BlockCutter(30), BlockCutter(30)
    whole.feed(sent)
    for byte in sent:
        slow.feed(bytes([byte]))
    assert (whole.pending, slow.pending) == (pending, pending)


@pytest.mark.parametrize(("size", "over"), [(29, False), (30, False), (31, True)])
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_the_limit_is_a_block_without_comments_and_ends(size: int, over: bool, end: bytes, piece: int) -> None:
    block = b"id: 1\ndata: ".ljust(size, b"x")
    text = b": a comment\n" + block.replace(b"\n", b"\n:and another\n") + b"\n:the last\n\n"
    data = text.replace(b"\n", end) + b"data: next" + end + end
    items = blocks_of([data[place : place + piece] for place in range(0, len(data), piece)], 30)
    assert items == [TooLong(30, block[:30]) if over else Block(block + b"\n\n"), Block(b"data: next\n\n")]


def test_a_block_over_the_limit_is_reported_once_before_it_ends_and_skipped() -> None:
    cutter = BlockCutter(10)
    assert cutter.feed(b"data: 1234") == []
    assert cutter.feed(b"5") == [TooLong(10, b"data: 1234")]
    assert cutter.feed(b"\ndata: x" * 1000) == []
    assert cutter.feed(b"\n: and a comment\n") == []
    assert cutter.feed(b"\ndata: y\n\n") == [Block(b"data: y\n\n")]


def test_only_the_head_of_what_is_thrown_away_is_kept() -> None:
    long, bad = blocks_of([b"x" * (KEPT_HEAD * 3) + b"\n\n" + b"\xff" * KEPT_HEAD * 2 + b"\n\n"], KEPT_HEAD * 2)
    assert isinstance(long, TooLong)
    assert long.head == b"x" * KEPT_HEAD
    assert isinstance(bad, NotText)
    assert bad.head == b"\xff" * KEPT_HEAD


def test_bad_bytes_are_told_of_and_those_in_a_comment_forgiven() -> None:
    assert blocks_of([b"data: a\xff\nid: 1\n\n:\xff\ndata: b\n\n"]) == [
        NotText("invalid start byte at byte 7", b"data: a\xff\nid: 1"),
        Block(b"data: b\n\n"),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        [b"a", b"", b" b", b"  c "],
        [b"\x1f", b"\x1f\x1f"],
        [RARE, b"x"],
        [RARE, b"\x1f00000000\x01", b"\x1f0000000", b"0\x01", b"\x1f", b"00000000\x01"],
        [RARE, *(b"\x1f%08x\x01" % number for number in range(300, -1, -1)), b"\x1f0000012"],
    ],
)
def test_folded_lines_unfold(lines: list[bytes]) -> None:
    block = b"".join(b"data: %b\n" % line for line in lines)
    [item] = blocks_of([block + b"\n"])
    assert isinstance(item, Block)
    assert item.separator.encode() not in block
    assert unfolded(item) == b"\n".join(lines).decode()


ENDLESS = {
    "comment": b"x" * 4096,
    "comments": b":" + b"x" * 79 + b"\n",
    "empty comments in CRLF": b":\r\n" * 100,
    "comments inside a block": b"\n:" + b"x" * 79,
    "blank lines": b"\n" * 4096,
    "line": b"data: " + b"x" * 4096,
    "line in small pieces": b"xyzzy",
    "lines of data": b"\ndata: x" * 512,
    "lines that say nothing": b"\nx\n:y" * 16,
    "line of bad bytes": b"\xff" * 4096,
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("before", [b":", b"data: x"])
def test_memory_is_bounded_whatever_never_ends(name: str, before: bytes) -> None:
    limit, piece = 1 << 14, ENDLESS[name]
    cutter = BlockCutter(limit)
    cutter.feed(before)
    tracemalloc.start()
    try:
        sent = 0
        while sent < 8 * limit:
            cutter.feed(piece)
            sent += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * limit + (1 << 16)


@pytest.mark.parametrize("line", [b"id:\n", b"data\n", b"data: xy\n", b"event: x\n", b"x\n", b"data: " + RARE + b"\n"])
def test_a_block_of_the_longest_kind_takes_a_few_times_its_length(line: bytes) -> None:
    block = line * ((1 << 18) // len(line)) + b"\n"
    cutter = BlockCutter(1 << 18)
    tracemalloc.start()
    try:
        for start in range(0, len(block), 4096):
            cutter.feed(block[start : start + 4096])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 18


LARGE = {
    "many small events": (b'event: message\ndata: {"jsonrpc":"2.0","method":"x"}\n\n', b"", 65536),
    "many events in CRLF": (b"id: 1\r\nevent: n\r\ndata: {}\r\n\r\n", b"", 65536),
    "one line in small pieces": (b"x" * 4096, b"data: ", 1024),
    "one event of many lines": (b"data: " + b"x" * 77 + b"\n", b"", 65536),
    "one event of many lines in small pieces": (b"data: " + b"x" * 77 + b"\n", b"", 256),
    "one event of empty lines": (b"data:\ndata: xyz\n", b"", 65536),
    "every rare byte": (b"data: " + RARE + b"\n", b"", 65536),
    "comments": (b": comment\n", b"", 65536),
    "blank lines": (b"\n", b"", 65536),
    "bad bytes": (b"data: \xff" + b"x" * 1000 + b"\n\n", b"", 65536),
}


def feed(data: bytes, piece: int) -> None:
    cutter = BlockCutter(LIMIT)
    for start in range(0, len(data), piece):
        cutter.feed(data[start : start + piece])


@pytest.mark.alone
@pytest.mark.parametrize("name", LARGE)
def test_four_times_the_bytes_take_four_times_as_long(name: str) -> None:
    text, before, piece = LARGE[name]
    small, large = (before + text * (size // len(text)) + b"\n\n" for size in (2_500_000, 10_000_000))
    growth.at_most(lambda: feed(small, piece), lambda: feed(large, piece), times=6, slack=0.02)


@pytest.mark.alone
def test_separators_made_up_beforehand_are_no_trap() -> None:
    made_up = [b"\x1f%08x\x01" % number for number in range(200_000)]
    small, large = (b"data: " + RARE + b"".join(made_up[:size][::-1]) + b"\ndata\n\n" for size in (50_000, 200_000))
    growth.at_most(lambda: feed(small, 65536), lambda: feed(large, 65536), times=6, slack=0.02)
