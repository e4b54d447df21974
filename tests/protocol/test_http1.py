"""HTTP/1.1 as bytes: what is read is what http.client reads; what two readers could see otherwise is not read."""

from __future__ import annotations

import http.client
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from house import growth
from mcp_sync.protocol.http1 import (
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    MAX_TRAILER,
    BadFraming,
    BadHeader,
    Chunks,
    Fields,
    Head,
    read_head,
    request_head,
)

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
FOUR = b"Content-Length: 4\r\n"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n"


def head_of(*lines: bytes, start: bytes = OK) -> bytes:
    return start + b"".join(lines) + b"\r\n"


# -- asking -----------------------------------------------------------------------------------------------------------


def test_a_request_is_its_line_its_headers_and_a_blank_line() -> None:
    defaults = {"host": "Host: here", "user-agent": "User-Agent: us"}
    asked = request_head("POST", "/mcp?a=b", defaults, {"Accept": "x", "X-Name": "J\xf6rg"}, 3)
    assert asked == (
        b"POST /mcp?a=b HTTP/1.1\r\nHost: here\r\nUser-Agent: us\r\nAccept: x\r\nX-Name: J\xf6rg\r\n"
        b"Content-Length: 3\r\n\r\n"
    )


def test_a_request_without_a_body_tells_no_length() -> None:
    assert request_head("GET", "/", {}, {}, None) == b"GET / HTTP/1.1\r\n\r\n"
    assert request_head("POST", "/", {}, {}, 0) == b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


def test_headers_take_the_place_of_defaults_and_of_earlier_ones_in_whatever_case() -> None:
    asked = request_head("GET", "/", {"host": "Host: here"}, {"HOST": "there", "X-A": "1", "x-a": "2"}, None)
    assert asked == b"GET / HTTP/1.1\r\nHOST: there\r\nx-a: 2\r\n\r\n"


@pytest.mark.parametrize("size", [None, 4])
def test_nobody_else_says_where_the_body_ends(size: int | None) -> None:
    said = {"content-length": "9", "Transfer-Encoding": "chunked"}
    assert request_head("GET", "/", {}, said, size) == request_head("GET", "/", {}, {}, size)


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb", "a\0b", "a\r\n b"])
@pytest.mark.parametrize("where", ["name", "value", "target", "default"])
def test_what_would_be_another_header_is_refused_and_not_shown(bad: str, where: str) -> None:
    headers = {"X": bad} if where == "value" else {bad: "x"} if where == "name" else {}
    with pytest.raises(BadHeader, match="line break") as found:
        request_head("GET", bad if where == "target" else "/", {"d": bad} if where == "default" else {}, headers, None)
    assert "Evil" not in str(found.value)


def test_what_is_not_in_latin_1_is_refused() -> None:
    with pytest.raises(ValueError, match="latin-1"):
        request_head("GET", "/", {}, {"X": "\u20ac"}, None)


# -- heads ------------------------------------------------------------------------------------------------------------


def test_a_head_and_where_it_ends() -> None:
    data = head_of(JSON, FOUR, b"X-Empty:\r\n", b"X-Blanks: \t a b\r\n") + b"body"
    head = read_head(data)
    assert head is not None
    assert (head.status, head.length, head.chunked, head.stays) == (200, 4, False, True)
    assert data[head.size :] == b"body"
    assert head.fields["CONTENT-type"] == "application/json"
    assert head.fields.get("x-BLANKS") == "a b"
    assert (head.fields.get("X-Empty"), head.fields.get("X-None"), "X-Empty" in head.fields) == ("", None, True)


@pytest.mark.parametrize(
    ("data", "length", "chunked", "stays"),
    [
        (head_of(IN_CHUNKS), 0, True, True),
        (head_of(b"transfer-encoding:CHUNKED\r\n"), 0, True, True),
        (head_of(FOUR, b"Connection: close\r\n"), 4, False, False),
        (head_of(FOUR, b"connection: Keep-Alive\r\n"), 4, False, True),
        (head_of(FOUR, start=b"HTTP/1.1 200\r\n"), 4, False, True),
        (head_of(FOUR, start=b"HTTP/1.1 200 \r\n"), 4, False, True),
        (head_of(FOUR, start=b"HTTP/1.1 599 \xe9\r\n"), 4, False, True),
        (head_of(start=b"HTTP/1.1 204 No Content\r\n"), 0, False, True),
        (head_of(b"Content-Length: 000000000000000004\r\n"), 4, False, True),
    ],
)
def test_what_is_usual(data: bytes, length: int, chunked: bool, stays: bool) -> None:
    head = read_head(data)
    assert head is not None
    assert (head.length, head.chunked, head.stays, head.size) == (length, chunked, stays, len(data))


UNUSUAL = {
    "nothing": b"",
    "not all there": head_of(FOUR)[:-1],
    "no line end at all": b"HTTP/1.1 200 OK",
    "an older version": head_of(FOUR, start=b"HTTP/1.0 200 OK\r\n"),
    "a newer version": head_of(FOUR, start=b"HTTP/1.2 200 OK\r\n"),
    "a version in lower case": head_of(FOUR, start=b"http/1.1 200 OK\r\n"),
    "an interim status": head_of(start=b"HTTP/1.1 100 Continue\r\n"),
    "another protocol": head_of(FOUR, start=b"HTTP/1.1 101 Switch\r\n"),
    "a status that is none": head_of(FOUR, start=b"HTTP/1.1 600 OK\r\n"),
    "a status of four digits": head_of(FOUR, start=b"HTTP/1.1 2000 OK\r\n"),
    "a control character in the reason": head_of(FOUR, start=b"HTTP/1.1 200 O\x00K\r\n"),
    "ends of lines without a return": head_of(FOUR).replace(b"\r\n", b"\n"),
    "one end of a line without a return": OK + b"X: y\n" + FOUR + b"\r\n",
    "a return by itself": head_of(b"X: a\rb\r\n", FOUR),
    "a folded line": head_of(b"X: a\r\n b\r\n", FOUR),
    "a folded length": head_of(b"Content-Length:\r\n 4\r\n"),
    "a blank before the colon": head_of(b"Content-Length : 4\r\n"),
    "a blank before the name": OK + b" X: y\r\n" + FOUR + b"\r\n",
    "a header without a colon": head_of(b"nothing\r\n", FOUR),
    "a header without a name": head_of(b": x\r\n", FOUR),
    "a NUL": head_of(b"X: \0\r\n", FOUR),
    "a name that is not in ASCII": head_of(b"X-\xe9: y\r\n", FOUR),
    "a blank at the end": head_of(b"Transfer-Encoding: chunked \r\n"),
    "a tab at the end": head_of(b"Content-Length: 4\t\r\n"),
    "two lengths": head_of(FOUR, b"Content-Length: 5\r\n"),
    "two lengths that agree": head_of(FOUR, b"content-length: 4\r\n"),
    "two lengths in one": head_of(b"Content-Length: 4, 4\r\n"),
    "a length and chunks": head_of(FOUR, IN_CHUNKS),
    "chunks twice": head_of(IN_CHUNKS, IN_CHUNKS),
    "chunks and more": head_of(b"Transfer-Encoding: gzip, chunked\r\n"),
    "another transfer coding": head_of(b"Transfer-Encoding: identity\r\n"),
    "an almost-chunked": head_of(b"Transfer-Encoding: xchunked\r\n"),
    "neither": head_of(JSON),
    "a negative length": head_of(b"Content-Length: -4\r\n"),
    "a length with a sign": head_of(b"Content-Length: +4\r\n"),
    "a length in hexadecimal": head_of(b"Content-Length: 0x4\r\n"),
    "a length with an underscore": head_of(b"Content-Length: 1_0\r\n"),
    "a length in superscript": head_of(b"Content-Length: \xb2\r\n"),
    "no digits": head_of(b"Content-Length: \r\n"),
    "more digits than anybody has bytes": head_of(b"Content-Length: " + b"1" * 19 + b"\r\n"),
    "a length of nothing": head_of(FOUR, start=b"HTTP/1.1 204 No Content\r\n"),
    "chunks of nothing": head_of(IN_CHUNKS, start=b"HTTP/1.1 204 No Content\r\n"),
    "not modified": head_of(FOUR, start=b"HTTP/1.1 304 Not Modified\r\n"),
    "compressed": head_of(FOUR, b"Content-Encoding: gzip\r\n"),
    "not compressed, but says so": head_of(FOUR, b"Content-Encoding: identity\r\n"),
    "a cookie": head_of(FOUR, b"Set-Cookie: a=b\r\n"),
    "an upgrade": head_of(FOUR, b"Connection: upgrade\r\n"),
    "two things about the connection": head_of(FOUR, b"Connection: keep-alive, close\r\n"),
    "the connection twice": head_of(FOUR, b"Connection: keep-alive\r\n", b"Connection: close\r\n"),
    "too many": head_of(*(b"X-%d: y\r\n" % n for n in range(MAX_HEADERS)), FOUR),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_what_is_unusual_is_left_to_others(what: str) -> None:
    assert read_head(UNUSUAL[what]) is None


def test_as_many_headers_as_allowed_are_read() -> None:
    assert read_head(head_of(*(b"X-%d: y\r\n" % n for n in range(MAX_HEADERS - 1)), FOUR)) is not None


class Canned:
    """A socket on which somebody has said something."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.file


def theirs(data: bytes) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(Canned(data), method="POST")  # type: ignore[arg-type]
    response.begin()
    return response


NAMES = st.sampled_from(
    ["Content-Length", "content-length", "Transfer-Encoding", "Connection", "Content-Type", "X-A", "x-a", "X_B"]
)
VALUES = st.sampled_from(["4", "5", "04", "chunked", "gzip, chunked", "close", "keep-alive", "a, b", "", "\xe9", "4 4"])
BLANKS = st.sampled_from(["", " ", "\t", "  "])
ENDS = st.sampled_from(["\r\n"] * 8 + ["\n", "\r", " \r\n", "\r\n\t"])
LINES = st.builds(lambda *parts: "".join(parts), NAMES, st.just(":"), BLANKS, VALUES, BLANKS, ENDS)
STARTS = st.sampled_from(
    ["HTTP/1.1 200 OK\r\n"] * 5 + ["HTTP/1.1 204 No\r\n", "HTTP/1.1 404\r\n", "HTTP/1.0 200 OK\r\n"]
)


@given(STARTS, st.lists(LINES, max_size=4))
@example("HTTP/1.1 200 OK\r\n", ["Content-Length: 4\r\n"])
@example("HTTP/1.1 200 OK\r\n", ["Transfer-Encoding: chunked \r\n"])
def test_what_is_read_is_what_http_client_reads(start: str, lines: list[str]) -> None:
    data = (start + "".join(lines) + "\r\n").encode("latin-1")
    ours = read_head(data + b"body")
    if ours is None:
        return
    response = theirs(data + b"body")
    assert (ours.status, ours.chunked, ours.stays) == (response.status, response.chunked, not response.will_close)
    assert response.length == (None if ours.chunked else ours.length)
    assert ours.fields == {name.lower(): value.strip(" \t") for name, value in response.headers.items()}
    assert response.fp.read() == (data + b"body")[ours.size :]


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: OK + data))
def test_reading_a_head_never_raises(data: bytes) -> None:
    assert isinstance(read_head(data), (Head, type(None)))


@pytest.mark.alone
@pytest.mark.parametrize("piece", [b"X: y\r\n", b"X", b"X:", b"\r\n ", b"\t", b"X: y\r\n\0"])
def test_a_head_takes_time_in_proportion_to_its_length(piece: bytes) -> None:
    def read(data: bytes) -> None:
        for _ in range(30):
            read_head(data)

    few, many = (OK + piece * (size // len(piece)) + b"\r\n\r\n" for size in (1 << 13, 1 << 15))
    growth.at_most(lambda: read(few), lambda: read(many), times=8, slack=0.01)


def test_a_head_that_is_too_long_is_left_to_others() -> None:
    long = b"X: " + b"y" * (MAX_HEAD - len(head_of(FOUR)) - 5) + b"\r\n"
    assert read_head(head_of(FOUR, long)) is not None
    assert read_head(head_of(FOUR, b"x" + long)) is None


def test_a_field_is_asked_for_by_text() -> None:
    assert 4 not in Fields({"4": "x"})


# -- chunks -----------------------------------------------------------------------------------------------------------


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def fed(*data: bytes) -> tuple[bytes, Chunks]:
    chunks = Chunks()
    return b"".join([chunks.feed(one) for one in data]), chunks


SIZES = st.sampled_from(["%x", "%X", "000%x", "%x;a=b", '%x;a="b"', "%x ;a", "%x\t"])
TRAILERS = st.sampled_from([b"\r\n", b"X: y\r\n\r\n", b"X: y\r\nZ: 0\r\n\r\n"])


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=20), SIZES), max_size=5),
    st.sampled_from(["0", "00", "0;a"]),
    TRAILERS,
    st.binary(max_size=5),
    st.lists(st.integers(0, 150), max_size=6),
)
def test_a_body_is_the_same_wherever_it_is_cut(
    pieces: list[tuple[bytes, str]], last: str, trailer: bytes, beyond: bytes, places: list[int]
) -> None:
    whole = b"".join((form % len(piece)).encode() + b"\r\n" + piece + b"\r\n" for piece, form in pieces)
    whole += last.encode() + b"\r\n" + trailer
    data = whole + beyond
    cuts = sorted({0, len(data), *(place for place in places if place < len(whole))})
    chunks, body = Chunks(), b""
    for start, end in zip(cuts, cuts[1:], strict=False):
        assert not chunks.ended
        body += chunks.feed(data[start:end])
    assert body == b"".join(piece for piece, _ in pieces)
    assert (chunks.ended, chunks.beyond) == (True, beyond)


def test_byte_by_byte_it_ends_with_the_last_byte() -> None:
    data = chunked(b"hello", b"\r\n0\r\n\r\n")
    body, chunks = fed(*(bytes([byte]) for byte in data[:-1]))
    assert not chunks.ended
    assert (body + chunks.feed(data[-1:]), chunks.ended, chunks.beyond) == (b"hello\r\n0\r\n\r\n", True, b"")


BAD = {
    "no size": b"\r\nhello\r\n",
    "a word": b"zz\r\nhello",
    "a negative size": b"-5\r\nhello",
    "a size with a sign": b"+5\r\nhello",
    "a size with 0x": b"0x5\r\nhello",
    "a size with an underscore": b"1_0\r\nhello",
    "a blank before the size": b" 5\r\nhello",
    "words behind the size": b"5 5\r\nhello",
    "a size without end": b"0" * MAX_LINE,
    "a size beyond reason": b"f" * 16 + b"\r\n",
    "an extension without end": b"5;" + b"a" * MAX_LINE,
    "a line end without a return": b"5\nhello\r\n",
    "line ends without returns": b"5\nhello\n0\n\n",
    "a line end in an extension": b"5;a\nb\r\nhello\r\n",
    "a return in an extension": b"5;a\rb\r\nhello\r\n",
    "a chunk that is longer": b"5\r\nhello!\r\n",
    "a chunk that ends without a return": b"5\r\nhello\n0\r\n\r\n",
    "a chunk that ends in two returns": b"5\r\nhello\r\r0\r\n\r\n",
    "a trailer whose line ends without a return": b"0\r\nX: y\n\r\n",
    "nothing but a line feed at the end": b"0\r\n\n",
    "a bare end in the trailer": b"0\r\nX: y\nZ: 0\r\n\r\n",
    "a long trailer with an end": b"0\r\n" + b"X: y\r\n" * (MAX_TRAILER // 6 + 1) + b"\r\n",
    "a trailer without end": b"0\r\n" + b"X: y\r\n" * (MAX_TRAILER // 6 + 1),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_chunk_is_refused_at_once(what: str) -> None:
    with pytest.raises(BadFraming):
        Chunks().feed(BAD[what])
    with pytest.raises(BadFraming):
        fed(*(bytes([byte]) for byte in BAD[what]))


def test_nothing_is_kept_of_a_chunk_that_has_come() -> None:
    chunks = Chunks()
    assert chunks.feed(b"7ffffff\r\n" + b"x" * 1000) == b"x" * 1000
    assert chunks.feed(b"y" * 1000) == b"y" * 1000
    assert not any(len(value) > 10 for value in vars(chunks).values() if isinstance(value, bytes))


@pytest.mark.alone
@pytest.mark.parametrize("piece", [b"1\r\nx\r\n", b"ff\r\n" + b"x" * 255 + b"\r\n"])
@pytest.mark.parametrize("cut", [1 << 30, 100])
def test_chunks_take_time_in_proportion_to_their_number(piece: bytes, cut: int) -> None:
    def read(data: bytes) -> None:
        chunks = Chunks()
        for at in range(0, len(data), cut):
            chunks.feed(data[at : at + cut])

    few, many = (piece * (size // len(piece)) for size in (1 << 16, 1 << 18))
    growth.at_most(lambda: read(few), lambda: read(many), times=8, slack=0.01)
