"""The two outputs of a container out of one stream of frames, wherever it is cut."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from house import growth
from mcp_sync.protocol.demux import ENGINE, STDERR, STDIN, STDOUT, Demultiplexer
from mcp_sync.protocol.framing import LineSplitter

frames = st.lists(
    st.tuples(st.sampled_from([STDIN, STDOUT, STDERR, ENGINE]), st.binary(max_size=12) | st.just(b"\x01\0\0\0\0\0\0\1"))
)


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def naive(data: bytes) -> list[tuple[int, bytes]]:
    """Take whole frames off a stream that is all there."""
    found = []
    while data:
        stream, size = struct.unpack_from(">BxxxL", data)
        found.append((stream, data[8 : 8 + size]))
        data = data[8 + size :]
    return found


def by_stream(pieces: list[tuple[int, bytes]]) -> dict[int, bytes]:
    joined: dict[int, bytes] = {}
    for stream, piece in pieces:
        joined[stream] = joined.get(stream, b"") + piece
    return {stream: data for stream, data in joined.items() if data}


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[start:end] for start, end in zip(places, places[1:], strict=False)]


@given(frames, st.lists(st.integers(0, 200), max_size=10))
def test_what_comes_out_is_what_a_naive_one_finds_in_the_whole_wherever_it_is_cut(
    parts: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in parts)
    demux = Demultiplexer()
    pieces = [piece for chunk in cut(data, cuts) for piece in demux.feed(chunk)]
    assert by_stream(pieces) == by_stream(naive(data))
    assert demux.flaw is None
    assert demux.complete


@given(frames)
def test_whole_frames_come_out_one_by_one_and_in_order(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in parts)
    assert Demultiplexer().feed(data) == [(stream, payload) for stream, payload in parts if payload]


@given(frames)
def test_byte_by_byte_it_is_the_same(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in parts)
    demux = Demultiplexer()
    pieces = [piece for byte in data for piece in demux.feed(bytes([byte]))]
    assert by_stream(pieces) == by_stream(naive(data))


def test_a_line_in_many_frames_and_lines_in_one_frame_are_the_same_lines() -> None:
    """B19: a line of 200 kB came as 42 frames, and stderr lies in between."""
    line = b"x" * 200_000
    data = b"".join(frame(STDOUT, line[n : n + 4800]) + frame(STDERR, b"noise\n") for n in range(0, len(line), 4800))
    data += frame(STDOUT, b"\na\nb\nc") + frame(STDOUT, b"\n")
    demux, lines = Demultiplexer(), LineSplitter(1 << 20)
    found = [line for stream, piece in demux.feed(data) if stream == STDOUT for line in lines.feed(piece)]
    assert found == [line, b"a", b"b", b"c"]


def test_it_is_known_when_the_stream_ends_in_the_middle() -> None:
    demux = Demultiplexer()
    assert demux.complete
    assert demux.feed(b"\x01\0\0") == []
    assert not demux.complete
    assert demux.feed(b"\0\0\0\0\2a") == [(STDOUT, b"a")]
    assert not demux.complete
    assert demux.feed(b"b") == [(STDOUT, b"b")]
    assert demux.complete


@pytest.mark.parametrize("header", [b"\x04\0\0\0\0\0\0\1", b"\x01\0\1\0\0\0\0\1", b'{"jsonrp', b"\xff" * 8])
def test_what_is_no_frame_is_said_and_nothing_after_it_is_believed(header: bytes) -> None:
    """B19: a terminal sends no frames, and echoes."""
    demux = Demultiplexer()
    assert demux.feed(frame(STDOUT, b"fine") + header + frame(STDOUT, b"lost")) == [(STDOUT, b"fine")]
    assert demux.flaw is not None
    assert "tty" in demux.flaw
    assert repr(header) in demux.flaw
    assert demux.feed(frame(STDOUT, b"lost")) == []


def test_an_empty_frame_is_nothing() -> None:
    assert Demultiplexer().feed(frame(STDOUT, b"") + frame(STDERR, b"") + frame(STDOUT, b"a")) == [(STDOUT, b"a")]


def test_a_frame_of_four_gigabytes_takes_no_more_memory_than_its_pieces() -> None:
    demux = Demultiplexer()
    demux.feed(b"\x01\0\0\0\xff\xff\xff\xff")
    piece = bytes(1 << 16)
    tracemalloc.start()
    try:
        for _ in range(200):
            assert demux.feed(piece) == [(STDOUT, piece)]
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()


@pytest.mark.alone
def test_ten_megabytes_in_small_frames_take_time_in_proportion() -> None:
    def feed(data: bytes) -> None:
        demux = Demultiplexer()
        for start in range(0, len(data), 4096):
            demux.feed(data[start : start + 4096])

    small, large = (frame(STDOUT, b"x" * 100) * count for count in (25_000, 100_000))
    growth.at_most(lambda: feed(small), lambda: feed(large), times=6, slack=0.02)
