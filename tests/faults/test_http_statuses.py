"""Statuses and types that are no answer: a typed error at once, with the status and the beginning of what was said."""

from __future__ import annotations

import datetime
import email.utils
from typing import Any

import pytest
from faults.http_server import Manner, replies, silent
from faults.http_tools import CANARY, NOW, is_silent_about, never, serving, tells, unconnected
from faults.tools import ERAS, PATIENCE, adds_up, tool, until, within, works

from mcp_sync import JSONRPCError, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from mcp_sync.exceptions import AuthError, HTTPStatusError, MCPTransportError, RateLimited, ServerError

KINDS: dict[int, type[HTTPStatusError]] = {
    400: HTTPStatusError,
    401: AuthError,
    402: HTTPStatusError,
    403: AuthError,
    405: HTTPStatusError,
    406: HTTPStatusError,
    408: HTTPStatusError,
    409: HTTPStatusError,
    410: HTTPStatusError,
    413: HTTPStatusError,
    415: HTTPStatusError,
    421: HTTPStatusError,
    429: RateLimited,
    431: HTTPStatusError,
    499: HTTPStatusError,
    500: ServerError,
    501: ServerError,
    502: ServerError,
    503: ServerError,
    504: ServerError,
    599: ServerError,
}
PAGE = "<html><h1>What a pity</h1></html>"


@ERAS
@pytest.mark.parametrize("status", KINDS)
def test_a_status_that_is_an_error_is_typed_at_once_and_not_asked_for_again(era: str, status: int) -> None:
    """I4, I6, I10: the status, and the beginning of the page; no secret of the URL."""
    page = replies(status, PAGE, content_type="text/html; charset=utf-8")
    url = f"http://127.0.0.1:{{port}}/mcp?token={CANARY}"
    with serving(era, on={"work": page}, url=url) as (client, server):
        with within(NOW), pytest.raises(HTTPStatusError, match="What a pity") as found:
            client.call_tool("work")
        error = found.value
        assert type(error) is KINDS[status]
        assert isinstance(error, MCPTransportError)
        assert error.status == status
        assert str(status) in str(error)
        tells(error, server, status=status)
        assert f"127.0.0.1:{server.port}/mcp" in str(error.details)
        is_silent_about(CANARY, error)
        assert len(server.calls("work")) == 1
        works(client)
        assert not server.posts("initialize")[1:]
        adds_up(client.counters)


def test_not_found_without_a_session_is_a_status_as_any_other() -> None:
    """I4: where there is no session, none was lost."""
    for era, options in ("stateless", {}), ("handshake", {"sessions": False}):
        page = replies(404, PAGE, content_type="text/html")
        with serving(era, on={"work": page}, **options) as (client, server):
            with within(NOW), pytest.raises(HTTPStatusError, match="404") as found:
                client.call_tool("work")
            assert type(found.value) is HTTPStatusError
            assert found.value.status == 404
            assert len(server.posts("initialize")) == (era == "handshake")
            works(client)


def http_date(seconds: float) -> str:
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return email.utils.format_datetime(then, usegmt=True)


RETRY_AFTER: dict[str, tuple[Any, tuple[float, float] | None]] = {
    "seconds": ("7", (7, 7)),
    "seconds with blanks": ("  7 ", (7, 7)),
    "no time at all": ("0", (0, 0)),
    "a date": (lambda: http_date(60), (55, 61)),
    "a date that has passed": (lambda: http_date(-60), (0, 0)),
    "a date of another style": (lambda: http_date(60).replace("GMT", "+0000"), (55, 61)),
    "nothing": (None, None),
    "an empty text": ("", None),
    "words": ("soon", None),
    "a negative number": ("-5", None),
    "a fraction": ("1.5", (1, 2)),
    "not a number": ("nan", None),
    "for ever": ("inf", None),
    "an absurd number": ("9" * 400, None),
    "another absurd number": ("1e999", None),
    "digits of another script": ("٧".encode().decode("latin-1"), None),
    "a superscript": ("\xb2", None),
    "an impossible date": ("Fri, 99 Foo 2026 99:99:99 GMT", None),
    "a date of the year 1": ("Mon, 01 Jan 0001 00:00:00 GMT", (0, 0)),
    "a date without a zone": ("Fri, 01 Jan 2100 00:00:00", (0, 1e10)),
}
LENIENT = ("a fraction", "an absurd number", "a date of another style", "a date of the year 1", "a date without a zone")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("how", RETRY_AFTER)
def test_retry_after_is_seconds_or_none(how: str, status: int) -> None:
    """I6: whatever a server writes there, it is a number that can be slept, or nothing."""
    value, bounds = RETRY_AFTER[how]
    text = value() if callable(value) else value
    lines = [] if text is None else [f"Retry-After: {text}"]
    with serving(on={"work": replies(status, "slow down", *lines, content_type="text/plain")}) as (client, server):
        with within(NOW), pytest.raises(RateLimited if status == 429 else ServerError) as found:
            client.call_tool("work")
        seconds = found.value.retry_after if isinstance(found.value, RateLimited) else None
        if seconds is not None:
            assert isinstance(seconds, (int, float))
            assert 0 <= seconds <= 1e10
        if status == 429 and how not in LENIENT:
            assert (seconds is None) == (bounds is None)
        if seconds is not None and bounds is not None:
            assert bounds[0] <= seconds <= bounds[1]
        assert len(server.calls("work")) == 1
        works(client)


RESULT = '{"jsonrpc": "2.0", "id": $ID, "result": {"resultType": "complete", "content": []}}'
# What comes with a status that is no error, and is no answer: and whether it may be said without a type.
NO_ANSWERS: dict[str, tuple[int, str, str | None]] = {
    "202 with nothing": (202, "", None),
    "202 with nothing in JSON": (202, "", "application/json"),
    "204": (204, "", None),
    "205": (205, "", None),
    "200 with nothing": (200, "", None),
    "200 with nothing in JSON": (200, "", "application/json"),
    "a page": (200, PAGE, "text/html"),
    "a page that calls itself JSON": (200, PAGE, "application/json"),
    "a page that calls itself a stream": (200, PAGE, "text/event-stream"),
    "words": (200, "Hello", "text/plain; charset=utf-8"),
    "an answer that calls itself words": (200, RESULT, "text/plain"),
    "an answer that calls itself a form": (200, RESULT, "application/x-www-form-urlencoded"),
    "a picture": (200, "\x89PNG\r\n", "image/png"),
    "a type that is none": (200, RESULT, "json"),
    "a type that begins like ours": (200, RESULT, "application/jsonp"),
    "a stream of JSON lines": (200, RESULT + "\n", "application/json-seq"),
    "an empty type": (200, RESULT, ""),
}


@ERAS
@pytest.mark.parametrize("how", NO_ANSWERS)
def test_a_success_that_is_no_answer_is_an_error_at_once(era: str, how: str) -> None:
    """I4, I5, B6: with status and type, and the beginning of what was said; never silence."""
    status, body, content_type = NO_ANSWERS[how]
    with serving(era, on={"work": replies(status, body, content_type=content_type)}) as (client, server):
        with within(NOW), pytest.raises((MCPConnectionError, RemoteProtocolError, HTTPStatusError)) as found:
            client.call_tool("work")
        tells(found.value, server, status=status)
        if not body:
            assert isinstance(found.value, MCPConnectionError) or status != 200
        elif content_type and "html" in content_type:
            assert "What a pity" in str(found.value)
            assert "text/html" in f"{found.value} {found.value.details}"
        assert found.value.may_have_run is not False
        assert len(server.calls("work")) == 1
        works(client)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", 'application/json;charset="latin-1"'],
)
def test_an_answer_in_json_is_read_as_utf_8_whatever_its_type_adds(content_type: str) -> None:
    """B6"""
    result = RESULT.replace('"content": []', '"content": [{"type": "text", "text": "é€"}]')
    with serving(on={"work": replies(200, result, content_type=content_type)}) as (client, _):
        assert client.call_tool("work").text == "é€"


MALFORMED = {
    "an empty object": "{}",
    "a null": "null",
    "an array": f"[{RESULT}]",
    "an empty array": "[]",
    "a foreign id": RESULT.replace("$ID", "4711"),
    "the id as text": RESULT.replace("$ID", '"$ID"'),
    "no id": RESULT.replace('"id": $ID, ', ""),
    "a null id": RESULT.replace("$ID", "null"),
    "an id that is true": RESULT.replace("$ID", "true"),
    "no result": '{"jsonrpc": "2.0", "id": $ID}',
    "a result and an error": RESULT[:-1] + ', "error": {"code": 1, "message": "x"}}',
    "a result that is a text": '{"jsonrpc": "2.0", "id": $ID, "result": "yes"}',
    "an error that is a text": '{"jsonrpc": "2.0", "id": $ID, "error": "no"}',
    "a request": '{"jsonrpc": "2.0", "id": $ID, "method": "ping"}',
    "a notification": '{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}',
    "NaN": '{"jsonrpc": "2.0", "id": $ID, "result": {"content": [], "x": NaN}}',
    "two answers": RESULT + "\n" + RESULT,
    "half a surrogate": '{"jsonrpc": "2.0", "id": $ID, "result": {"content": 7, "x": "\\ud800"}}',
}


@pytest.mark.parametrize("form", ["json", "events"])
@pytest.mark.parametrize("how", MALFORMED)
def test_json_that_is_no_answer_is_a_protocol_error_at_once(how: str, form: str) -> None:
    """I3, I4, I5: for this call, and nobody else's data in it."""
    body, content_type = MALFORMED[how], "application/json"
    if form == "events":
        lines = "".join(f"data: {line}\n" for line in body.split("\n"))
        body, content_type = lines + "\n", "text/event-stream"
    with serving(on={"work": replies(200, body, content_type=content_type)}) as (client, server):
        kinds = (RemoteProtocolError, MCPConnectionError) if form == "events" else RemoteProtocolError
        with within(NOW), pytest.raises(kinds) as found:
            client.call_tool("work")
        assert "tools/call" in str(found.value)
        assert found.value.may_have_run is not False
        assert len(server.calls("work")) == 1
        works(client)


# -- errors in JSON-RPC ------------------------------------------------------------------------------------------------

REFUSALS = {"ours": '"id": $ID, ', "null": '"id": null, ', "none": ""}


@pytest.mark.parametrize("whose", REFUSALS)
@pytest.mark.parametrize(
    ("era", "status"),
    [
        *(("stateless", status) for status in (200, 400, 404, 405, 409, 422)),
        *(("handshake", status) for status in (200, 400, 422)),  # 404 says that the session is over
    ],
)
def test_an_error_in_json_rpc_is_that_whatever_the_status(era: str, status: int, whose: str) -> None:
    """I5, I6: its id is ours, or could not be read (WIRE A4); the POST tells whose it is."""
    body = '{"jsonrpc": "2.0", %s"error": {"code": -32602, "message": "What a pity", "data": {"x": 1}}}'
    with serving(era, on={"work": replies(status, body % REFUSALS[whose])}) as (client, server):
        with within(NOW), pytest.raises(JSONRPCError, match="What a pity") as found:
            client.call_tool("work")
        assert (found.value.code, found.value.message, found.value.data) == (-32602, "What a pity", {"x": 1})
        assert len(server.calls("work")) == 1
        works(client)


@pytest.mark.parametrize("whose", REFUSALS)
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_error_in_json_rpc_does_not_hide_a_status_that_has_a_type_of_its_own(status: int, whose: str) -> None:
    """I6: who may not, or not now, is told by a type."""
    body = '{"jsonrpc": "2.0", ' + REFUSALS[whose] + '"error": {"code": -32000, "message": "What a pity"}}'
    with serving(on={"work": replies(status, body, "Retry-After: 7")}) as (client, server):
        with within(NOW), pytest.raises((KINDS[status], JSONRPCError), match="What a pity") as found:
            client.call_tool("work")
        if isinstance(found.value, RateLimited):
            assert found.value.retry_after == 7
        assert len(server.calls("work")) == 1
        works(client)


@pytest.mark.parametrize("status", [400, 404])
def test_an_error_in_json_rpc_of_somebody_else_is_not_ours(status: int) -> None:
    """I3"""
    body = '{"jsonrpc": "2.0", "id": 4711, "error": {"code": -32602, "message": "What a pity"}}'
    with serving(on={"work": replies(status, body)}) as (client, _):
        with within(NOW), pytest.raises((HTTPStatusError, RemoteProtocolError)) as found:
            client.call_tool("work")
        assert found.value.details["status"] == status
        works(client)


@pytest.mark.parametrize(
    "body", ["{}", "null", '{"error": "no"}', '{"error": {"code": 1}}', "[", "\ufeff{}", "[]", "7"]
)
@pytest.mark.parametrize("status", [400, 404, 500])
def test_json_that_is_no_json_rpc_leaves_the_status_as_it_is(status: int, body: str) -> None:
    """I5"""
    with serving(on={"work": replies(status, body)}) as (client, _):
        with within(NOW), pytest.raises(HTTPStatusError) as found:
            client.call_tool("work")
        assert found.value.status == status
        works(client)


@pytest.mark.parametrize(
    "body", [b"\xff\xfe\x00", b"\0" * 5000, b"x" * 1_000_000, "é€".encode(), b"\x1b[31mred\r\n" * 9]
)
def test_the_beginning_of_a_page_is_shown_whatever_it_is_and_no_more(body: bytes) -> None:
    """I6: one line of a bounded length, and nothing that a terminal obeys."""
    with serving(on={"work": replies(500, body, content_type="text/plain")}) as (client, _):
        with within(NOW), pytest.raises(ServerError) as found:
            client.call_tool("work")
        text = str(found.value)
        assert len(text) < 4000
        assert "\x1b" not in text
        assert "\0" not in text


# -- at the beginning, and beside the calls ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 429, 500, 502, 503])
def test_a_status_at_the_beginning_is_typed_at_once_and_says_nothing_of_the_era(status: int) -> None:
    """I6: only a 4xx that is about the request may lead to initialize."""
    on = {"server/discover": replies(status, PAGE, "Retry-After: 7", content_type="text/html"), "initialize": never}
    with unconnected(on=on) as (client, server):
        with within(NOW), pytest.raises(KINDS[status]) as found:
            client.connect()
        assert found.value.details["status"] == status
        assert found.value.details["phase"] == "connect"
        assert found.value.may_have_run is False
        assert len(server.requests) == 1
        server.on.clear()
        works(client)


@pytest.mark.parametrize("status", [400, 404, 405, 406, 415])
def test_a_server_that_knows_no_discover_is_asked_to_initialize(status: int) -> None:
    """WIRE B14"""
    with serving("handshake", on={"server/discover": replies(status, "?", content_type="text/plain")}) as (client, _):
        assert client.protocol_version == "2025-11-25"
        works(client)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_status_of_initialize_is_typed_at_once(status: int) -> None:
    """I6"""
    with unconnected("handshake", on={"initialize": replies(status, PAGE, content_type="text/html")}) as (
        client,
        server,
    ):
        with within(NOW), pytest.raises(KINDS.get(status, HTTPStatusError)) as found:
            client.connect()
        assert found.value.details["status"] == status
        assert len(server.posts("initialize")) == 1
        server.on.clear()
        works(client)


@pytest.mark.parametrize("status", [400, 401, 404, 405, 429, 500, 202, 204])
@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_a_status_of_get_or_delete_harms_no_call_and_delays_no_end(verb: str, status: int) -> None:
    """I4, I7"""
    page: Manner = replies(status, PAGE if status > 299 else "", content_type="text/html")
    with serving("handshake", on={verb: page}) as (client, server):
        works(client)
        works(client)
        with within(0.5):
            client.close()
    assert len(server.verbs(verb)) <= 2
    assert len(server.posts("initialize")) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 200])
def test_a_status_of_a_notification_harms_no_call(status: int) -> None:
    """I4: one failed POST does not end the client."""
    on: dict[str, Any] = {"notifications/cancelled": replies(status, PAGE, content_type="text/html"), "work": silent}
    with serving("handshake", on=on) as (client, server):
        with within(0.05), pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=0.05)
        until(lambda: server.posts("notifications/cancelled"))
        assert tool(client, "echo", PATIENCE, a=1) == {"a": 1}
        works(client)


def test_a_hundred_errors_of_every_type_are_all_accounted_for() -> None:
    """I2, I20"""
    on = {f"{status}": replies(status, PAGE, content_type="text/html") for status in KINDS}
    with serving(on=on) as (client, server):
        futures = [(status, client.submit_tool(f"{status}")) for status in [*KINDS] * 5]
        for status, future in futures:
            error = future.exception(PATIENCE)
            assert type(error) is KINDS[status]
        assert isinstance(error, MCPError)
        assert len(server.calls()) == len(futures)
        assert client.counters["error"] == len(futures)
        works(client)
