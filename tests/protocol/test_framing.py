"""Lines out of a stream, wherever it is cut."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from house import growth
from mcp_sync.protocol.framing import KEPT_HEAD, KEPT_TAIL, LineSplitter, Overlong

streams = st.lists(
    st.sampled_from([b"\n", b"\r\n", b" ", b"\t", b"\x0b", b"a", b"bcd", b"\xff", "\u2028\u0085".encode()])
).map(b"".join)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[start:end] for start, end in zip(places, places[1:], strict=False)]


def lines_of(splitter: LineSplitter, chunks: list[bytes]) -> list[bytes | Overlong]:
    return [line for chunk in chunks for line in splitter.feed(chunk)]


@given(streams, st.lists(st.integers(0, 60), max_size=8))
def test_the_lines_are_those_of_the_whole_wherever_it_is_cut(data: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter(limit=1000)
    *complete, rest = data.split(b"\n")
    assert lines_of(splitter, cut(data, cuts)) == [line.strip(b" \t\r") for line in complete if line.strip(b" \t\r")]
    assert splitter.flush() == rest


@given(streams, st.lists(st.integers(0, 60), max_size=8), st.integers(1, 6))
def test_a_line_over_the_limit_is_reported_at_once_and_at_its_end_and_the_next_is_whole(
    data: bytes, cuts: list[int], limit: int
) -> None:
    splitter = LineSplitter(limit)
    *complete, rest = data.split(b"\n")
    expected = []
    for line in complete:
        expected += [line, line] if len(line) > limit else [line.strip(b" \t\r")]
    expected += [rest] if len(rest) > limit else []
    got = lines_of(splitter, cut(data, cuts))
    for line, whole in zip(got, filter(None, expected), strict=True):
        if isinstance(line, Overlong):
            assert whole.startswith(line.head)
            assert whole.endswith(line.tail) if line.ended else line.tail == b""
            assert limit < len(line.head) <= len(whole)
        else:
            assert line == whole
            assert len(line) <= limit
    assert splitter.skipped == (len(rest) if len(rest) > limit else 0)
    assert splitter.flush() == (b"" if len(rest) > limit else rest)


@pytest.mark.parametrize(("size", "over"), [(9, False), (10, False), (11, True)])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_limit_is_the_longest_line_without_its_end(size: int, over: bool, chunk: int) -> None:
    data = b"x" * size + b"\n"
    lines = lines_of(LineSplitter(10), [data[n : n + chunk] for n in range(0, len(data), chunk)])
    assert [isinstance(line, Overlong) for line in lines] == ([True, True] if over else [False])


def test_an_overlong_line_is_reported_before_its_end_is_there() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"x" * 11) == [Overlong(b"x" * 11, 10)]
    assert splitter.feed(b"y" * 100) == []
    assert splitter.skipped == 111
    whole = b"x" * 11 + b"y" * 100 + b"z"
    assert splitter.feed(b"z\nnext\n") == [Overlong(b"x" * 11, 10, whole, ended=True), b"next"]
    assert splitter.skipped == 0


def test_only_the_beginning_and_the_end_of_an_overlong_line_are_kept() -> None:
    _, line = LineSplitter(KEPT_HEAD * 2).feed(b"x" * (KEPT_HEAD * 3) + b"y" * KEPT_TAIL + b"\n")
    assert isinstance(line, Overlong)
    assert len(line.head) == KEPT_HEAD
    assert line.tail == b"y" * KEPT_TAIL


def test_a_line_is_bytes_that_no_later_chunk_changes() -> None:
    splitter = LineSplitter(100)
    splitter.feed(b"one ")
    [line] = splitter.feed(b"line\ntwo")
    splitter.feed(b" more\n")
    assert line == b"one line"
    assert type(line) is bytes


def test_what_is_flushed_is_gone() -> None:
    splitter = LineSplitter(100)
    splitter.feed(b"half a li")
    assert [splitter.flush(), splitter.flush()] == [b"half a li", b""]
    assert splitter.feed(b"ne\n") == [b"ne"]


@pytest.mark.parametrize("piece", [1, 2, 7, 4096])
def test_memory_is_bounded_by_the_limit_however_small_the_pieces(piece: int) -> None:
    limit = 1 << 16
    splitter, chunk = LineSplitter(limit), b"x" * piece
    tracemalloc.start()
    try:
        for _ in range(3 * limit // piece):
            splitter.feed(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert splitter.skipped > limit
    assert peak < 4 * limit


@pytest.mark.alone
@pytest.mark.parametrize(("piece", "length"), [(1, 1 << 16), (3, 1 << 16), (1000, 1 << 20)])
def test_cutting_is_linear_in_the_length(piece: int, length: int) -> None:
    def feed(length: int) -> None:
        splitter, chunk = LineSplitter(1 << 23), b"x" * piece
        for _ in range(length // piece):
            splitter.feed(chunk)

    growth.at_most(lambda: feed(length), lambda: feed(4 * length), times=6, slack=0.02)
