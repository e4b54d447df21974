"""Answers that are far too large, or have no end: an error that says so within a second, and memory that is bounded."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from faults.http_server import EVENTS, JSON, Exchange, Manner, Server, replies
from faults.http_tls import authority_file
from faults.http_tools import (
    ENDLESS_RESULT,
    NOW,
    T,
    announced,
    bomb,
    event_stream,
    goes_on,
    goes_on_in_chunks,
    gzipped,
    sends,
    serving,
    unconnected,
    zipped_bomb,
)
from faults.tools import ERAS, NOISE, growing_less_than, host, within, works

from mcp_sync import MCPConnectionError, MCPError, MCPTimeoutError, MessageTooLarge, ProtocolError
from mcp_sync.exceptions import AuthError, HTTPStatusError, ServerError

MANY = 100_000


def start_of_result(exchange: Exchange) -> bytes:
    return exchange.head(200, "Connection: close") + ENDLESS_RESULT.replace("$ID", str(exchange.request.id)).encode()


def many_headers(exchange: Exchange) -> bytes:
    return exchange.head(200, *(f"X-{number}: {'y' * 50}" for number in range(10_000)), length=0)


def chunked(exchange: Exchange) -> bytes:
    return exchange.head(200, "Transfer-Encoding: chunked")


def blank_bomb(exchange: Exchange) -> bytes:
    body = zipped_bomb(b"", 1024)
    return exchange.head(200, "Content-Encoding: gzip", length=len(body)) + body


def one_in_three(exchange: Exchange) -> bytes:
    body = gzipped(gzipped(zipped_bomb(b"", 4096)))
    return exchange.head(200, "Content-Encoding: gzip", "Content-Encoding: gzip, gzip", length=len(body)) + body


def zipped_events(exchange: Exchange) -> bytes:
    body = zipped_bomb(b"data: ", 1024)
    return exchange.head(200, "Content-Encoding: gzip", content_type=EVENTS, length=len(body)) + body


TOO_LARGE = ("MessageTooLarge",)
ANY = ("MessageTooLarge", "ProtocolError", "RemoteProtocolError", "MCPConnectionError")
# What a tool of that name answers, and the errors that this may be.
BOMBS: dict[str, tuple[Manner, tuple[str, ...]]] = {
    "1 GiB of gzip": (bomb("gzip"), TOO_LARGE),
    "1 GiB of gzip in chunks": (lambda exchange: gzip_in_chunks(exchange), TOO_LARGE),
    "1 GiB of blanks in gzip": (sends(blank_bomb, "keep"), TOO_LARGE),
    "gzip in gzip": (bomb("gzip, gzip", 4096), ANY),
    "gzip in gzip in gzip": (sends(one_in_three, "keep"), ANY),
    "1 GiB of deflate": (bomb("deflate"), ANY),
    "1 GiB of gzip without a content type": (bomb("gzip", content_type=None), ANY),
    "br": (bomb("br"), ANY),
    "zstd": (bomb("zstd"), ANY),
    "100 MB, announced": (announced(100_000_000), TOO_LARGE),
    "8 EiB, announced": (sends(lambda exchange: exchange.head(200, length=1 << 63), "hold"), TOO_LARGE),
    "a length of a thousand digits": (sends(lambda exchange: exchange.head(200, length=10**1000), "hold"), ANY),
    "a body without end": (goes_on(start_of_result), TOO_LARGE),
    "blanks without end": (goes_on(lambda exchange: exchange.head(200), b" " * 65536), TOO_LARGE),
    "a body without end in chunks": (goes_on_in_chunks(first=ENDLESS_RESULT), TOO_LARGE),
    "one chunk without end": (goes_on(lambda exchange: chunked(exchange) + b"7fffffffffffffff\r\n"), ANY),
    "a chunk size without end": (goes_on(chunked, b"0" * 65536), ANY),
    "an extension of a chunk without end": (goes_on(lambda exchange: chunked(exchange) + b"5;a="), ANY),
    "a status line without end": (goes_on(lambda exchange: b"HTTP/1.1 200 O"), ANY),
    "a header without end": (goes_on(lambda exchange: exchange.head(200)[:-2] + b"X-Long: "), ANY),
    "a header name without end": (goes_on(lambda exchange: exchange.head(200)[:-2] + b"X"), ANY),
    "headers without end": (goes_on(lambda exchange: exchange.head(200)[:-2], b"X-More: 1\r\n" * 5000), ANY),
    "ten thousand headers": (sends(many_headers, "keep"), ANY),
    "a header of folded lines without end": (
        goes_on(lambda exchange: exchange.head(200)[:-2] + b"X-Long: ", b" y\r\n" * 5000),
        ANY,
    ),
    "an event without end": (goes_on(lambda exchange: event_stream(exchange) + b"data: "), TOO_LARGE),
    "an event of lines without end": (goes_on(event_stream, b"data: x\n" * 8000), TOO_LARGE),
    "an event of empty lines of data without end": (goes_on(event_stream, b"data\n" * 12_000), TOO_LARGE),
    "a field nobody knows without end": (goes_on(event_stream), TOO_LARGE),
    "an event id without end": (goes_on(lambda exchange: event_stream(exchange) + b"id: "), TOO_LARGE),
    "events in 1 GiB of gzip": (sends(zipped_events, "keep"), ANY),
    "an event of a hundred megabytes": (
        goes_on_in_chunks(first="data: " + ENDLESS_RESULT, content_type=EVENTS),
        TOO_LARGE,
    ),
    "deep brackets": (replies(200, "[" * MANY), ANY),
    "a deep object": (replies(200, '{"jsonrpc": "2.0", "id": $ID, "result": ' + '{"a":' * MANY), ANY),
    "a number of a million digits": (
        replies(200, '{"jsonrpc": "2.0", "id": $ID, "result": {"x": ' + "1" * 10 * MANY + "}}"),
        ANY,
    ),
    "an endless page of an error": (goes_on_in_chunks(500, content_type="text/html"), ("ServerError",)),
    "an endless page of an error of no length": (
        goes_on(lambda exchange: exchange.head(503, content_type="text/html")),
        ("ServerError",),
    ),
    "an endless error in JSON": (
        goes_on_in_chunks(400, '{"jsonrpc": "2.0", "id": $ID, "error": {"code": 1, "message": "'),
        ("HTTPStatusError", "MessageTooLarge"),
    ),
    "1 GiB of gzip as a page of an error": (bomb(status=500, content_type="text/html"), ("ServerError",)),
    "an endless redirect": (goes_on_in_chunks(302, content_type="text/html"), ("HTTPStatusError", *ANY)),
    "an endless redirect that is followed": (
        goes_on(lambda exchange: exchange.head(307, "Location: /mcp")),
        ("HTTPStatusError", *ANY),
    ),
    "an endless page": (goes_on_in_chunks(200, content_type="text/html"), ("HTTPStatusError", *ANY)),
    "an endless nothing": (goes_on_in_chunks(202), ("HTTPStatusError", *ANY)),
}


def gzip_in_chunks(exchange: Exchange) -> None:
    start = ENDLESS_RESULT.replace("$ID", str(exchange.request.id)).encode()
    data = zipped_bomb(start, 1024)
    exchange.send(exchange.head(200, "Content-Encoding: gzip", "Transfer-Encoding: chunked"))
    for at in range(0, len(data), 1000):
        exchange.chunk(data[at : at + 1000])
    exchange.send(b"0\r\n\r\n")


VICTIM = """
import resource
from mcp_sync import Client
url, limit, names = COMMAND[0], int(COMMAND[1]), json.loads(COMMAND[2])
def forget():
    try: open("/proc/self/clear_refs", "w").write("5")
    except OSError: pass  # then the peaks add up, which is stricter
def status(name):
    with open("/proc/self/status") as lines:
        return [int(line.split()[1]) / 1024 for line in lines if line.startswith(name)][0]
faulthandler.cancel_dump_traceback_later()
with Client(url, timeout=2.5, max_message_size=limit) as client:
    assert client.call_tool("echo", {"a": 1}).text
    before = status("VmRSS")
    for name in names:
        forget()
        began, error = time.monotonic(), None
        try: client.call_tool(name)
        except MCPError as caught: error = caught
        took = time.monotonic() - began
        peak = min(status("VmHWM"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        details = getattr(error, "details", {})
        print(json.dumps([name, type(error).__name__, took, peak - before, len(str(error)), details.get("status")]))
        error = details = None
        assert client.call_tool("echo", {"a": 1}).text == '{"a": 1}'
"""


def survive(era: str, limit: int, bombs: list[str], **options: Any) -> dict[str, Any]:
    """Let a program of its own call all these tools, and return for each error, seconds, megabytes, length, status."""
    with Server(era, on={name: BOMBS[name][0] for name in bombs}, **options) as server:
        lines = host(VICTIM, server.url, str(limit), json.dumps(bombs), limit=120.0)
        for name in bombs:
            assert len(server.calls(name)) <= 6, name
    return {name: tuple(found) for name, *found in map(json.loads, lines)}


@pytest.mark.parametrize(("era", "limit"), [("stateless", 4 << 20), ("handshake", 16 << 20)])
def test_what_is_far_too_large_is_an_error_within_a_second_and_takes_no_more_memory_than_the_limit(
    era: str, limit: int
) -> None:
    """I8, B4: within the limit + 64 MB, and the client goes on. In a process whose memory is its own."""
    found = survive(era, limit, list(BOMBS))
    flaws = []
    for name, (kind, seconds, megabytes, length, _) in found.items():
        if kind not in BOMBS[name][1]:
            flaws.append(f"{name}: {kind}")
        if seconds > NOW + 2 * NOISE:
            flaws.append(f"{name}: {seconds:.2f} s")
        if megabytes > limit / 2**20 + 64:
            flaws.append(f"{name}: {megabytes:.0f} MB")
        if length > 4000:
            flaws.append(f"{name}: an error text of {length} characters")
    assert set(found) == set(BOMBS)
    assert not flaws, "\n".join(flaws)


FRUITLESS: dict[str, Manner] = {
    "a body without end in chunks of a byte": goes_on(chunked, b"1\r\n[\r\n" * 10_000),
    "trailers without end": goes_on(lambda exchange: chunked(exchange) + b"0\r\n", b"X-Sum: 1\r\n" * 5000),
    "a comment without end": goes_on(lambda exchange: event_stream(exchange) + b":"),
    "empty events without end": goes_on(event_stream, b"\n" * 65536),
    "events without data": goes_on(event_stream, b"event: x\n\n" * 6000),
    "events of another kind": goes_on(event_stream, b"event: x\ndata: y\n\n" * 3000),
    "an event id after the other": goes_on(event_stream, b"".join(b"id: %d\n\n" % number for number in range(5000))),
    "chunks of nothing but extensions": goes_on(chunked, b"1;a=%s\r\n \r\n" % (b"b" * 60_000)),
}


@pytest.mark.parametrize("how", FRUITLESS)
def test_what_goes_on_for_ever_and_comes_to_nothing_ends_on_time_and_takes_no_memory(how: str) -> None:
    """I1, I8: it is below every limit, so this may be found out before T, or at T."""
    limit = 1 << 20
    with serving(on={"work": FRUITLESS[how]}, max_message_size=limit) as (client, server):
        kinds = (MCPTimeoutError, MessageTooLarge, ProtocolError, MCPConnectionError)
        with growing_less_than(limit / 2**20 + 64), within(T), pytest.raises(kinds):
            client.call_tool("work", timeout=T)
        assert len(server.calls("work")) == 1
        works(client)


@ERAS
def test_what_is_too_large_names_the_limit(era: str) -> None:
    """I4, I6, I8"""
    limit = 1 << 20
    with serving(era, on={"work": announced(limit * 2)}, max_message_size=limit) as (client, server):
        with within(NOW), pytest.raises(MessageTooLarge, match=str(limit)) as found:
            client.call_tool("work")
        assert found.value.details["limit"] == limit
        assert found.value.may_have_run is not False
        assert len(server.calls("work")) == 1
        works(client)


def test_a_response_may_be_limited_more_than_a_message() -> None:
    """I8: max_response_size, by its own name."""
    with serving(on={"work": announced(300_000), "small": announced(90_000)}, max_response_size=100_000) as (client, _):
        with within(NOW), pytest.raises(MessageTooLarge, match="100000"):
            client.call_tool("work")
        client.call_tool("small")


@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize("form", ["json", "events"])
def test_the_largest_answer_that_is_allowed_is_fine_and_one_byte_more_is_not(form: str, coding: str) -> None:
    """I8: what counts is the size of the message once it is unpacked."""
    limit = 200_000
    frame = 20 if form == "events" else 0  # what an event has besides its data may count, too

    def of_size(size: int) -> Manner:
        def act(exchange: Exchange) -> None:
            start = ENDLESS_RESULT.replace("$ID", str(exchange.request.id))
            text = start + "y" * (size - len(start) - 3) + '"}}'
            body = (f"data: {text}\n\n" if form == "events" else text).encode()
            lines = [f"Content-Encoding: {coding}"] if coding else []
            body = gzipped(body) if coding else body
            exchange.reply(200, body, *lines, content_type=EVENTS if form == "events" else JSON)

        return act

    with serving(on={"fits": of_size(limit - frame), "not": of_size(limit + 1)}, max_message_size=limit) as (client, _):
        client.call_tool("fits")
        with within(NOW), pytest.raises(MessageTooLarge, match=str(limit)):
            client.call_tool("not")
        client.call_tool("fits")


def test_many_events_that_are_small_are_no_bomb() -> None:
    """I8: the limit is one of a message, not of a stream."""
    params = {"level": "info", "data": "x" * 900}
    news = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params})

    def talks(exchange: Exchange) -> None:
        exchange.send(event_stream(exchange))
        for _ in itertools.repeat(None, 500):
            exchange.send(f"data: {news}\n\n".encode())
        exchange.send(b"data: " + exchange.body + b"\n\n")
        exchange.close()

    limits = {"max_message_size": 100_000, "max_response_size": 100_000_000}
    with serving(on={"work": talks}, **limits) as (client, _), within(NOW):
        assert client.call_tool("work", {"a": 1}).text == '{"a": 1}'


def test_the_codings_we_ask_for_are_those_whose_size_we_can_limit() -> None:
    """B4: identity, or gzip only."""
    with serving("handshake") as (client, server):
        works(client)
    for request in server.requests:
        asked = {word.split(";")[0].strip() for word in request.headers.get("accept-encoding", "missing").split(",")}
        assert asked <= {"identity", "gzip", "deflate"}
        assert asked - {"deflate"}


PAGES: dict[str, tuple[int, type[MCPError]]] = {
    "of a server that is ill": (500, ServerError),
    "of a gateway": (502, ServerError),
    "of a doorkeeper": (401, AuthError),
    "of nobody": (410, HTTPStatusError),
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("every", [0.0, 0.05])
def test_a_page_of_an_error_that_never_ends_is_told_at_once_by_its_status(page: str, every: float) -> None:
    """I5, I8: whether it comes fast or drips, nobody waits for the rest of it."""
    status, kind = PAGES[page]
    manner = goes_on(lambda exchange: exchange.head(status, content_type="text/html") + b"<h1>Sorry", b"!", every)
    with serving(on={"work": manner}) as (client, server):
        with within(NOW), pytest.raises(kind) as found:
            client.call_tool("work")
        assert found.value.details["status"] == status
        assert len(server.calls("work")) == 1
        works(client)


@pytest.mark.parametrize("where", ["server/discover", "initialize", "notifications/initialized"])
def test_a_beginning_without_end_is_an_error_at_once_or_none(where: str) -> None:
    """I1, I8: nobody reads what follows a 202."""
    era = "stateless" if where == "server/discover" else "handshake"
    about: dict[str, Any] = {"status": 202} if "notifications" in where else {}
    with unconnected(era, on={where: goes_on_in_chunks(**about)}, max_message_size=1 << 20) as (client, server):
        with within(NOW):
            try:
                client.connect()
            except (MessageTooLarge, ProtocolError, MCPConnectionError):
                server.on.clear()
        works(client)


def test_the_other_side_of_close_may_talk_as_long_as_it_likes() -> None:
    """I7, I8: an endless answer to DELETE, or to a cancellation, is not read."""
    comments = goes_on(event_stream, b":\n", 0.01)
    on = {"DELETE": goes_on_in_chunks(200), "notifications/cancelled": goes_on_in_chunks(202), "work": comments}
    with serving("handshake", on=on) as (client, server):
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=T)
        works(client)
        with within(0.5):
            client.close()
    assert server.calls("work")


def test_a_bomb_under_tls_is_one_too(tmp_path: Path) -> None:
    """I8"""
    on = {"work": goes_on(start_of_result), "zipped": bomb("gzip")}
    knobs = {"verify_ssl": str(authority_file(tmp_path)), "max_message_size": 1 << 20}
    with serving(tls=True, on=on, **knobs) as (client, _):
        for name in on:
            with within(NOW), pytest.raises(MessageTooLarge):
                client.call_tool(name)
            works(client)
