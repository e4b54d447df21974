"""Frames: cut as the library websockets cuts them, whatever the pieces; built so that it understands them."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from faults.ws_server import made
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets import frames as theirs
from websockets.exceptions import ProtocolError
from websockets.streams import StreamReader

from mcp_sync.protocol import frames
from mcp_sync.protocol.deflate import Inflater, deflate
from mcp_sync.protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Closing,
    Flaw,
    FrameCutter,
    Item,
    Ping,
    Pong,
    frame,
    may_be_sent,
)
from mcp_sync.protocol.framing import KEPT_HEAD, KEPT_TAIL, Overlong

LIMIT = 1000
KEY = b"\x01\x80\xff\x00"


def cut(data: bytes, limit: int = LIMIT, inflater: Inflater | None = None, at: int = 0) -> list[Item]:
    """Return what is cut out of the data, at once or in pieces of so many bytes."""
    cutter = FrameCutter(limit, inflater)
    pieces = [data[start : start + at] for start in range(0, len(data), at)] if at else [data]
    return [item for piece in pieces for item in cutter.feed(piece)]


def read(parser: Iterator[None], reader: StreamReader) -> theirs.Frame | None:
    """Drive their parser; None: there is no whole frame."""
    try:
        next(parser)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    return None


# -- what is well-formed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
@pytest.mark.parametrize("at", [0, 1, 7, 4096])
def test_a_text_is_cut_whatever_its_length_and_the_pieces_it_comes_in(size: int, at: int) -> None:
    payload = b"x" * size
    assert cut(made(TEXT, payload) * 2, 200_000, at=at) == [payload, payload]


def test_fragments_are_joined_and_control_frames_between_them_come_at_once() -> None:
    data = made(TEXT, b"gr\xc3", fin=False) + made(PING, b"p") + made(CONTINUATION, b"\xbc", fin=False)
    data += made(PONG) + made(CONTINUATION, b"\xc3", fin=False) + made(CONTINUATION, b"\x9fe")
    for at in (0, 1, 2, 3):
        assert cut(data, at=at) == [Ping(b"p"), Pong(b""), "grüße".encode()]


def test_empty_fragments_are_no_end() -> None:
    data = made(TEXT, fin=False) + made(CONTINUATION, fin=False) * 3 + made(CONTINUATION, b"a") + made(TEXT)
    for at in (0, 1):
        assert cut(data, at=at) == [b"a", b""]


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_frame_is_the_last_that_is_read(code: int) -> None:
    data = made(CLOSE, code.to_bytes(2, "big") + "bis später".encode())
    assert cut(data + made(TEXT, b"more")) == [Closing(code, "bis später")]
    assert str(code) in str(Closing(code, "bis später"))


def test_a_close_frame_may_be_empty() -> None:
    assert cut(made(CLOSE)) == [Closing(1005, "")]


# -- what is not -------------------------------------------------------------------------------------------------------

FLAWED = {
    "masked": (made(TEXT, b"hello", key=KEY), 1002),
    "masked control": (made(PING, b"hello", key=KEY), 1002),
    "rsv1": (made(TEXT, b"a", rsv=4), 1002),
    "rsv2": (made(TEXT, b"a", rsv=2), 1002),
    "rsv3": (made(TEXT, b"a", rsv=1), 1002),
    "rsv1 in a ping": (made(PING, b"a", rsv=4), 1002),
    **{f"opcode {opcode}": (bytes([0x80 | opcode, 0]), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a continuation of nothing": (made(CONTINUATION, b"a"), 1002),
    "a continuation after a whole message": (made(TEXT, b"a") + made(CONTINUATION, b"a"), 1002),
    "a message within another": (made(TEXT, b"a", fin=False) + made(TEXT, b"b"), 1002),
    "a binary message within another": (made(TEXT, b"a", fin=False) + made(BINARY, b"b"), 1002),
    "a ping in pieces": (made(PING, b"a", fin=False), 1002),
    "a close in pieces": (made(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a long ping": (made(PING, b"a" * 126), 1002),
    "a length of 64 bits": (b"\x81\x7f" + b"\xff" * 8, 1002),
    "a close code of one byte": (made(CLOSE, b"\x03"), 1002),
    "a binary message": (made(BINARY, b"{}"), 1003),
    "an empty binary message": (made(BINARY), 1003),
    "a binary message in pieces": (made(BINARY, b"{", fin=False), 1003),
    "a reason that is not UTF-8": (made(CLOSE, b"\x03\xe8\xff"), 1007),
    **{
        f"close code {code}": (made(CLOSE, code.to_bytes(2, "big")), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", FLAWED)
@pytest.mark.parametrize("at", [0, 1])
def test_what_breaks_the_protocol_is_a_flaw_with_its_code_and_the_end(name: str, at: int) -> None:
    data, code = FLAWED[name]
    *before, flaw = cut(data + made(TEXT, b"more"), at=at)
    assert isinstance(flaw, Flaw)
    assert flaw.code == code
    assert all(isinstance(item, bytes) for item in before)


def test_a_flaw_is_known_by_the_first_two_bytes_of_a_head() -> None:
    for first in (b"\x82\x7f", b"\x81\xff", b"\xc1\x7f", b"\x80\x00", b"\x89\x7e"):
        assert isinstance(cut(first)[0], Flaw)


# Autobahn's section 6, in short: what is UTF-8, and what looks like it.
VALID = ["κόσμε", "\x00", "\x7f", "\x80", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff"]
VALID += ["\ud7ff", "\ue000", "\ufffd", "\ufffe", "\ufdd0", "\U0001fffe", "Hello-µ@ßöäüàá-UTF-8!!"]
INVALID = ["cebae1bdb9cf83cebceda080656469746564", "80", "bf", "80bf80bf80bf80", "c0", "c0af", "c1bf", "e080af"]
INVALID += ["e09fbf"]
INVALID += ["f08080af", "f08fbfbf", "eda080", "edafbf", "edb080", "edbfbf", "eda080edb080", "f4908080", "f888808080"]
INVALID += ["fc8080808080", "fe", "ff", "fefeffff", "c3", "e282", "f09f98", "c328", "e28228", "f09f2880", "61c3"]


@pytest.mark.parametrize("text", VALID)
def test_text_is_taken_whole_and_in_fragments_of_one_byte(text: str) -> None:
    raw = text.encode()
    pieces = [raw[at : at + 1] for at in range(len(raw))]
    split = made(TEXT, fin=False) + b"".join(made(CONTINUATION, piece, fin=False) for piece in pieces)
    assert cut(made(TEXT, raw) + split + made(CONTINUATION)) == [raw, raw]


@pytest.mark.parametrize("raw", INVALID)
def test_what_is_not_utf_8_is_a_flaw_whole_and_in_fragments(raw: str) -> None:
    data = bytes.fromhex(raw)
    for whole in (made(TEXT, data), made(TEXT, data[:1], fin=False) + made(CONTINUATION, data[1:])):
        assert [type(item) for item in cut(whole)] == [Flaw]
        assert cut(whole)[0].code == 1007  # type: ignore[union-attr]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_message_of_the_limit_is_whole_and_one_more_is_skipped() -> None:
    first, message = made(TEXT, b"x" * LIMIT), b'{"id":1}' + b"x" * LIMIT
    found = cut(first + made(TEXT, message) + first, at=300)
    tail = message[-KEPT_TAIL:]
    assert found[1:3] == [Overlong(message, LIMIT), Overlong(message, LIMIT, tail, ended=True)]
    assert found[0] == found[3] == b"x" * LIMIT


def test_a_joined_message_over_the_limit_is_skipped_and_reported_as_soon_as_its_head_is_there() -> None:
    limit, part = KEPT_HEAD * 2, b"y" * KEPT_HEAD
    cutter = FrameCutter(limit)
    assert cutter.feed(made(TEXT, part, fin=False) + made(CONTINUATION, part, fin=False)) == []
    assert not cutter.skipping
    assert cutter.feed(made(CONTINUATION, b"z" * 600, fin=False)) == [Overlong(part, limit)]
    assert cutter.skipping
    assert cutter.feed(made(CONTINUATION, b"e")) == [Overlong(part, limit, b"z" * 511 + b"e", ended=True)]
    assert cutter.feed(made(TEXT, b"next")) == [b"next"]


@pytest.mark.parametrize("size", [4 * LIMIT + 1, 1 << 32, 1 << 40, (1 << 63) - 1])
def test_a_message_that_announces_to_be_far_over_the_limit_is_a_flaw_before_a_byte_of_it(size: int) -> None:
    [flaw] = cut(b"\x81\x7f" + size.to_bytes(8, "big"))
    assert isinstance(flaw, Flaw)
    assert flaw.code == 1009
    assert str(LIMIT) in flaw.why


def test_fragments_that_add_up_to_far_over_the_limit_are_a_flaw() -> None:
    piece = made(CONTINUATION, b"x" * LIMIT, fin=False)
    items = cut(made(TEXT, fin=False) + piece * 5)
    assert isinstance(items[-1], Flaw)
    assert items[-1].code == 1009


def test_an_endless_message_takes_no_memory() -> None:
    limit = 1 << 20
    cutter = FrameCutter(limit)
    cutter.feed(b"\x01\x7f" + (4 * limit - 1).to_bytes(8, "big"))
    tracemalloc.start()
    try:
        block = b"x" * 65536
        for _ in range(4 * limit // len(block) - 1):
            cutter.feed(block)
        assert tracemalloc.get_traced_memory()[1] < 3 * KEPT_HEAD + len(block)
    finally:
        tracemalloc.stop()


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 50])
def test_compressed_messages_are_decompressed_also_in_fragments_and_plain_ones_may_come_between(at: int) -> None:
    text = b'{"a":"' + b"x" * 500 + b'"}'
    packed = deflate(text, 6)
    pieces = made(TEXT, packed[:3], fin=False, rsv=4) + made(PING) + made(CONTINUATION, packed[3:])
    data = made(TEXT, packed, rsv=4) + made(TEXT, b"plain") + pieces
    assert cut(data, inflater=Inflater(False), at=at) == [text, b"plain", Ping(b""), text]


def test_a_message_that_goes_on_where_the_last_one_ended_is_understood() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    texts = [f"message {n}, much like the one before it".encode() for n in range(20)]
    packed = [(packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4] for text in texts]
    assert len(packed[5]) < len(deflate(texts[5], 9))
    assert cut(b"".join(made(TEXT, one, rsv=4) for one in packed), inflater=Inflater(True)) == texts


def test_a_block_that_says_it_is_the_last_is_no_end_of_the_message() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    ended = packer.compress(b"hello ") + packer.flush(zlib.Z_FINISH)
    assert cut(made(TEXT, ended + deflate(b"world", 6), rsv=4), inflater=Inflater(False)) == [b"hello world"]
    [flaw] = cut(made(TEXT, ended * 30, rsv=4), inflater=Inflater(False))
    assert isinstance(flaw, Flaw)


def test_a_bomb_over_the_limit_is_skipped_and_one_far_over_it_is_a_flaw() -> None:
    packed = deflate(b'{"id":7}' + b"x" * (2 * LIMIT), 9)
    first, last = cut(made(TEXT, packed, rsv=4), inflater=Inflater(False))
    assert isinstance(first, Overlong)
    assert isinstance(last, Overlong)
    assert first.head.startswith(b'{"id":7}')
    assert last.ended
    [flaw] = cut(made(TEXT, deflate(b"x" * (5 * LIMIT), 9), rsv=4), inflater=Inflater(False))[-1:]
    assert isinstance(flaw, Flaw)
    assert flaw.code == 1009


def test_a_bomb_takes_no_more_memory_than_a_few_messages() -> None:
    packed = deflate(b"\0" * (64 << 20), 9)
    cutter = FrameCutter(1 << 20, Inflater(False))
    tracemalloc.start()
    try:
        assert isinstance(cutter.feed(made(TEXT, packed, rsv=4))[-1], Flaw)
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [b"\xff\xff\xff", b"hello", b"\x07" * 10])
def test_what_cannot_be_decompressed_is_a_flaw(packed: bytes) -> None:
    [flaw] = cut(made(TEXT, packed, rsv=4), inflater=Inflater(False))
    assert isinstance(flaw, Flaw)
    assert flaw.code == 1007


def test_compressed_text_that_is_not_utf_8_is_a_flaw() -> None:
    assert [type(item) for item in cut(made(TEXT, deflate(b"\xff", 6), rsv=4), inflater=Inflater(False))] == [Flaw]


def test_only_the_first_frame_of_a_text_may_say_that_it_is_compressed() -> None:
    packed = deflate(b"hello hello hello", 6)
    inside = made(TEXT, packed[:2], fin=False, rsv=4) + made(CONTINUATION, packed[2:], rsv=4)
    for data in (inside, made(PING, b"a", rsv=4)):
        assert isinstance(cut(data, inflater=Inflater(False))[-1], Flaw)


# -- against the library websockets ------------------------------------------------------------------------------------

texts = st.text(max_size=200).map(str.encode)
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Item]]:
    """Return valid frames, and what is in them."""
    data, expected = b"", []
    for _ in range(draw(st.integers(0, 5))):
        text = draw(texts)
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for number, part in enumerate(parts):
            data += made(CONTINUATION if number else TEXT, part, fin=number == len(parts) - 1)
            if number < len(parts) - 1 and draw(st.booleans()):
                opcode, payload = draw(controls)
                data += made(opcode, payload)
                expected.append((Ping if opcode == PING else Pong)(payload))
        expected.append(text)
    return data, expected


@given(streams(), st.integers(1, 40))
def test_any_valid_stream_is_cut_alike_whatever_the_pieces(stream: tuple[bytes, list[Item]], at: int) -> None:
    data, expected = stream
    assert cut(data) == cut(data, at=at) == expected


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Return frames with a few bytes changed."""
    data = bytearray(draw(streams())[0])
    for _ in range(draw(st.integers(0, 3)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@settings(max_examples=300)
@given(st.binary(max_size=300) | spoilt(), st.integers(1, 20))
def test_any_bytes_are_frames_exactly_as_long_as_the_other_library_says_so(data: bytes, at: int) -> None:
    items = cut(data)
    assert items == cut(data, at=at)
    reader = StreamReader()
    reader.feed_data(data)
    inside, whole = False, b""
    found: list[object] = []
    while True:
        try:
            one = read(theirs.Frame.parse(reader.read_exact, mask=False), reader)
        except ProtocolError:
            found.append(Flaw)
            break
        if one is None:
            break
        verdict = _verdict(one, inside)
        if verdict is Flaw:
            found.append(Flaw)
            break
        if one.opcode in (theirs.Opcode.PING, theirs.Opcode.PONG):
            found.append(Ping(bytes(one.data)) if one.opcode == theirs.Opcode.PING else Pong(bytes(one.data)))
        elif one.opcode == theirs.Opcode.CLOSE:
            found.append(Closing)
            break
        else:
            whole, inside = whole + bytes(one.data), not one.fin
            if one.fin:
                try:
                    whole.decode()
                except UnicodeDecodeError:
                    found.append(Flaw)
                    break
                found.append(whole)
                whole = b""
    ours = [type(item) if isinstance(item, (Flaw, Closing)) else item for item in items]
    # We may know of a flaw, or a length over the limit, while they still wait for the rest of a frame.
    assert ours[: len(found)] == found
    assert ours[len(found) :] in ([], [Flaw])


def _verdict(one: theirs.Frame, inside: bool) -> type[Flaw] | None:
    if one.rsv1 or one.rsv2 or one.rsv3 or one.opcode == theirs.Opcode.BINARY:
        return Flaw
    if one.opcode == theirs.Opcode.CLOSE:
        try:
            theirs.Close.parse(bytes(one.data))
        except (ProtocolError, UnicodeDecodeError):
            return Flaw
    if (one.opcode == theirs.Opcode.CONT) != inside and one.opcode < theirs.Opcode.CLOSE:
        return Flaw
    return None


@given(st.sampled_from([TEXT, PING, PONG]), st.binary(max_size=125), st.binary(min_size=4, max_size=4))
def test_what_we_build_the_other_library_reads(opcode: int, payload: bytes, key: bytes) -> None:
    _is_read(opcode, payload, key)


@pytest.mark.parametrize("size", [126, 65535, 65536, frames.XOR_BYTES, frames.XOR_BYTES + 1, 3 * frames.XOR_BYTES - 1])
def test_what_we_build_the_other_library_reads_however_long(size: int) -> None:
    _is_read(TEXT, bytes(at * 7 % 251 for at in range(size)), KEY)


def _is_read(opcode: int, payload: bytes, key: bytes) -> None:
    reader = StreamReader()
    reader.feed_data(frame(opcode, payload, key))
    found = read(theirs.Frame.parse(reader.read_exact, mask=True), reader)
    assert found is not None
    assert (found.opcode, bytes(found.data), found.fin, found.rsv1) == (opcode, payload, True, False)
    assert not reader.buffer


def test_a_compressed_frame_says_so() -> None:
    assert frame(TEXT, b"a", KEY, packed=True)[0] == 0xC1


@given(st.integers(0, 70_000))
def test_the_codes_that_may_be_sent_are_those_that_the_other_library_takes(code: int) -> None:
    if code < 65536:
        try:
            theirs.Close.parse(code.to_bytes(2, "big"))
        except ProtocolError:
            assert not may_be_sent(code)
        else:
            assert may_be_sent(code)


def test_a_reason_is_cut_to_what_fits_and_not_within_a_character() -> None:
    payload = frames.close_payload(1002, "ü" * 200)
    assert len(payload) == 124
    assert theirs.Close.parse(payload).reason == "ü" * 61
    assert frames.close_payload(1005) == b""
