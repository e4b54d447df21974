"""Events out of a stream of bytes: what the WHATWG text says, wherever it is cut; and why sseclient-py is not alone."""

from __future__ import annotations

import io
import logging
import random
import tracemalloc
from collections.abc import Callable, Iterable

import pytest
import sseclient
from protocol.whatwg import MARK, NOT_TEXT, TOO_LONG, Item, cut, cuttings, decode, pulp, stream

from house import growth
from mcp_sync.protocol.sse import RETRY_CAP, Event, NotText, TooLong
from mcp_sync.transports.events import EventReader

LIMIT = 1 << 24


def read(chunks: Iterable[bytes], limit: int = LIMIT) -> list[Item]:
    reader = EventReader(limit)
    return [named(item) for chunk in chunks for item in reader.feed(chunk)]


def named(item: Event | TooLong | NotText) -> Item:
    if isinstance(item, Event):
        return item
    return NOT_TEXT if isinstance(item, NotText) else TOO_LONG


def plain(chunks: Iterable[bytes]) -> list[Event]:
    """What sseclient-py makes of it by itself."""
    found = sseclient.SSEClient(iter(chunks)).events()
    return [Event(one.event, one.data, one.id, one.retry) for one in found]


@pytest.mark.parametrize("seed", range(20))
def test_the_events_are_those_of_the_whatwg_text_wherever_the_stream_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    for number in range(1000):
        data = pulp(chance) if number % 4 == 0 else stream(chance, bad=number % 4 == 1)
        limit = 15 if number % 10 == 0 else LIMIT
        expected = decode(data, limit)
        assert read([data], limit) == expected, data
        for chunks in cuttings(data, chance):
            assert read(chunks, limit) == expected, chunks


@pytest.mark.parametrize("seed", range(6))
def test_long_streams_with_long_lines_are_read_alike(seed: int) -> None:
    chance = random.Random(seed)
    data = b""
    while len(data) < 60_000:
        data += stream(chance, bad=seed % 2 == 1, fields=30)
        data += b"data: " + b"x" * chance.randrange(5000) + chance.choice([b"\n", b"\r\n\r\n"])
    for limit in (LIMIT, 2000):
        expected = decode(data, limit)
        assert len(expected) > 50
        for size in (1, 7, 1024, 65536, len(data)):
            assert read((data[start : start + size] for start in range(0, len(data), size)), limit) == expected


def test_every_event_has_come_out_when_the_chunk_is_in() -> None:
    reader = EventReader(LIMIT)
    assert reader.feed(b"data: 1\n\ndata: 2\r\n\r\ndata: 3\r") == [Event("message", "1"), Event("message", "2")]
    assert reader.pending
    assert reader.feed(b"\r") == [Event("message", "3")]
    assert not reader.pending


def test_the_order_holds_among_good_and_bad() -> None:
    data = b"data: 1\n\n" + b"data: \xff\n\n" + b"data: 2\n\n" + b"x" * 100 + b"\n\n" + b"data: 3\n\n"
    assert [getattr(item, "data", item) for item in read([data], 50)] == ["1", NOT_TEXT, "2", TOO_LONG, "3"]


def test_the_priming_event_has_no_data() -> None:
    assert read([b"id: 1\ndata:\n\n"]) == [Event("message", "", "1")]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), ("007", 7), (str(RETRY_CAP), RETRY_CAP), (str(RETRY_CAP + 1), RETRY_CAP), ("1" * 10_000, RETRY_CAP)],
)
def test_a_retry_time_is_a_number_and_capped(text: str, milliseconds: int) -> None:
    assert read([b"retry: %b\n\n" % text.encode()]) == [Event("message", "", None, milliseconds)]


def test_no_payload_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        read([b"data: secret\n\nsecret: x\ndata: secret\ndata: secret\n\nid: secret\nevent: secret\ndata: secret\n\n"])
    assert "secret" not in caplog.text


# What sseclient-py gets wrong alone: (the stream, what it ought to be). Should one of these turn out right one day, the
# cutter has one thing less to do.
B9 = {
    "a blank line of CRLF after LF merges two events": (
        b"data: a\n\r\ndata: b\n\n",
        [Event("message", "a"), Event("message", "b")],
    ),
    "a blank line of CRLF after CR merges two events": (
        b"data: a\r\r\ndata: b\n\n",
        [Event("message", "a"), Event("message", "b")],
    ),
    "a byte order mark loses the first event": (MARK + b"data: a\n\n", [Event("message", "a")]),
    "half an event is dispatched at the end": (b"data: half", []),
    "an event without its blank line is dispatched at the end": (b"data: unfinished\n", []),
    "an id alone is dropped": (b"id: 7\n\n", [Event("message", "", "7")]),
    "a retry time alone is dropped": (b"retry: 7\n\n", [Event("message", "", None, 7)]),
    "an id with NUL is kept": (b"id: 1\nid: a\0b\ndata: x\n\n", [Event("message", "x", "1")]),
    "a retry time is any text": (b"retry: soon\ndata: x\n\n", [Event("message", "x")]),
    "a retry time is not a number": (b"retry: 10\ndata: x\n\n", [Event("message", "x", None, 10)]),
    "one bad byte kills the stream": (b"data: \xff\n\ndata: x\n\n", [NOT_TEXT, Event("message", "x")]),
}


@pytest.mark.parametrize("name", B9)
def test_b9_what_sseclient_gets_wrong_alone_is_right_here(name: str) -> None:
    data, expected = B9[name]
    for chunks in ([data], cut(data, *range(len(data)))):
        assert decode(data) == read(chunks) == expected
    try:
        assert plain([data]) != expected
    except UnicodeDecodeError:
        assert NOT_TEXT in expected


def test_b9_a_crlf_cut_in_two_ends_no_event_for_sseclient() -> None:
    chunks = [b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n"]
    assert plain([b"".join(chunks)]) == read(chunks) == [Event("message", "a\nb")]
    chunks = [b"data: a\r\n\r", b"\ndata: b\r\n\r\n"]
    assert read(chunks) == [Event("message", "a"), Event("message", "b")]
    assert read(chunks[:1]) == [Event("message", "a")]  # and at once


def test_b9_sseclient_alone_is_wrong_on_many_streams() -> None:
    chance = random.Random(9)
    wrong = raised = 0
    for number in range(2000):
        data = stream(chance, bad=bool(number % 2))
        try:
            wrong += plain([data]) != decode(data)
        except UnicodeDecodeError:
            raised += 1
    assert wrong > 200
    assert raised > 200


class Wire(io.RawIOBase):
    """A connection on which a small event has come, and then nothing for ever."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._pieces:
            raise TimeoutError("would wait for ever")
        piece = self._pieces.pop(0)
        buffer[: len(piece)] = piece
        return len(piece)


def test_b10_a_small_event_is_held_back_by_reading_128_bytes_and_not_here() -> None:
    held = io.BufferedReader(Wire(b"data: x\n\n"))
    with pytest.raises(TimeoutError):  # so does a response of requests when it is iterated
        plain(iter(lambda: held.read(128), b""))
    open_stream = io.BufferedReader(Wire(b"data: x\n\n"))
    assert EventReader(LIMIT).feed(open_stream.read1(65536)) == [Event("message", "x")]


def lines_of_data(size: int) -> list[bytes]:
    return [b"data: " + b"\ndata: ".join([b"x" * 7] * (size // 14)) + b"\n\n"]


def one_line(size: int) -> list[bytes]:
    return [b"data: ", *[b"x" * 512] * (size // 512), b"\n\n"]


@pytest.mark.alone
@pytest.mark.parametrize("shape", [lines_of_data, one_line])
def test_b10_one_large_event_takes_sseclient_quadratic_time(shape: Callable[[int], list[bytes]]) -> None:
    size = 150_000 if shape is lines_of_data else 600_000
    small, large = shape(size), shape(4 * size)
    growth.at_least(lambda: plain(small), lambda: plain(large), times=7)


@pytest.mark.alone
@pytest.mark.parametrize("shape", [lines_of_data, one_line])
def test_b10_four_times_the_event_takes_four_times_as_long_here(shape: Callable[[int], list[bytes]]) -> None:
    small, large = shape(2_500_000), shape(10_000_000)
    # Six times for one line: blocks so large are new memory each time. Sixteen would be quadratic.
    growth.at_most(lambda: read(small), lambda: read(large), times=8, slack=0.02)


def test_b10_one_event_of_120_000_lines_takes_no_twenty_seconds() -> None:
    data = b"data: " + b"\ndata: ".join([b"x" * 77] * 120_000) + b"\n\n"
    chunks = cut(data, *range(0, len(data), 65536))
    assert growth.seconds(lambda: read(chunks)) < 1.5  # 0.1 s on a quiet machine
    assert read(chunks) == [Event("message", "\n".join(["x" * 77] * 120_000))]


@pytest.mark.alone
def test_thirty_thousand_events_take_little_longer_than_in_sseclient_alone() -> None:
    data = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n' * 30_000
    chunks = cut(data, *range(0, len(data), 65536))
    growth.at_most(lambda: plain(chunks), lambda: read(chunks), times=3)


def peak_of(read_all: Callable[[Iterable[bytes]], object], chunk: bytes, count: int) -> int:
    tracemalloc.start()
    try:
        read_all(chunk for _ in range(count))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunk", [b": still here\n" * 300, b":" + b"x" * 4000])
def test_b10_comments_without_a_blank_line_grow_in_sseclient_and_not_here(chunk: bytes) -> None:
    assert peak_of(plain, chunk, 200) > 200 * len(chunk)
    assert peak_of(read, chunk, 200) < 20 * len(chunk)


def test_b10_sseclient_has_no_limit() -> None:
    chunk = b"data: " + b"x" * 4000
    assert peak_of(plain, chunk, 200) > 200 * len(chunk)
    assert peak_of(lambda chunks: read(chunks, 16_000), chunk, 200) < 100_000
