"""Answers that nobody can read, noise between the messages, and lines too long."""

from __future__ import annotations

from typing import Any

import pytest
from faults.tools import (
    ERAS,
    NOISE,
    PATIENCE,
    T,
    adds_up,
    growing_less_than,
    manner,
    pid_of,
    reaped,
    serving,
    tells,
    tool,
    within,
    works,
)

from mcp_sync import MCPConnectionError, MCPError, MCPTimeoutError, MessageTooLarge, RemoteProtocolError

NOW = 0.1

# One character is one byte on the wire; a list holds pairs: a text, and how often it comes.
MALFORMED: dict[str, Any] = {
    "no JSON": '{"jsonrpc": "2.0", "id": $ID, "result": {]}',
    "cut off": '{"jsonrpc": "2.0", "id": $ID, "result": {"a": ',
    "single quotes": '{"jsonrpc": "2.0", "id": $ID, "result": {\'a\': 1}}',
    "a comma too many": '{"jsonrpc": "2.0", "id": $ID, "result": {"a": 1,}}',
    "NaN": '{"jsonrpc": "2.0", "id": $ID, "result": {"a": NaN}}',
    "a lone surrogate": '{"jsonrpc": "2.0", "id": $ID, "result": {"a": "\\ud800"}}',
    "bad UTF-8": '{"jsonrpc": "2.0", "id": $ID, "result": {"a": "caf\xe9"}}',
    "5,000 digits": '{"jsonrpc": "2.0", "id": $ID, "result": {"a": ' + "9" * 5000 + "}}",
    "500 levels": '{"jsonrpc": "2.0", "id": $ID, "result": {"a": ' + "[" * 500 + "]" * 500 + "}}",
    "100,000 levels": [
        ('{"jsonrpc": "2.0", "id": $ID, "result": {"a": ', 1),
        ("[", 100_000),
        ("]", 100_000),
        ("}}", 1),
    ],
    "no version": '{"id": $ID, "result": {}}',
    "version 1.0": '{"jsonrpc": "1.0", "id": $ID, "result": {}}',
    "a list as result": '{"jsonrpc": "2.0", "id": $ID, "result": []}',
    "null as result": '{"jsonrpc": "2.0", "id": $ID, "result": null}',
    "a result and an error": '{"jsonrpc": "2.0", "id": $ID, "result": {}, "error": {"code": 1, "message": "x"}}',
    "neither of them": '{"jsonrpc": "2.0", "id": $ID}',
    "a text as error": '{"jsonrpc": "2.0", "id": $ID, "error": "no"}',
    "a code in words": '{"jsonrpc": "2.0", "id": $ID, "error": {"code": "E1", "message": "x"}}',
    "an array around it": '[{"jsonrpc": "2.0", "id": $ID, "result": {}}]',
    "no content": '{"jsonrpc": "2.0", "id": $ID, "result": {"resultType": "complete", "content": 7}}',
}


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_malformed_answer_fails_its_call_at_once_and_the_next_is_fine(malformed: str) -> None:
    """I4, I5, B34: RemoteProtocolError, not silence; and nobody else notices."""
    work, hold = manner("says", texts=[MALFORMED[malformed], "\n"], then=False), manner("answer", seconds=0.05)
    with serving(work=work, hold=hold) as client:
        other = client.submit_tool("hold", {"b": 2})
        with within(NOW), pytest.raises(RemoteProtocolError) as found:
            client.call_tool("work", timeout=PATIENCE)
        assert "tools/call" in str(found.value)
        assert found.value.may_have_run is True
        works(client)
        adds_up(client.counters)
        assert other.result(PATIENCE).text == '{"b": 2}'


@ERAS
def test_malformed_answers_of_every_kind_one_after_the_other(era: str) -> None:
    """I4, I5: in both eras, the connection goes on."""
    on = {kind: manner("says", texts=[text, "\n"], then=False) for kind, text in MALFORMED.items()}
    with serving(era, on=on, hold=manner("answer", seconds=T, b=2)) as client:
        other = client.submit_tool("hold")
        for kind in on:
            with within(NOW), pytest.raises(RemoteProtocolError):
                client.call_tool(kind, timeout=PATIENCE)
            works(client)
        assert other.result(PATIENCE).text == '{"b": 2}'
        adds_up(client.counters)


def test_an_error_without_an_id_is_nobodys_and_times_out_its_caller_only() -> None:
    """I4, I20: it cannot be said whose it is, so it is counted, and each keeps its own deadline."""
    text = '{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "parse error"}}\n'
    with serving(work=manner("says", texts=[text], then=False)) as client:
        with within(T + 0.1), pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=T)
        assert client.counters["dropped_unknown"] == 1
        works(client)


NOISE_LINES: dict[str, Any] = {
    "words": "Server listening on stdio\n",
    "bad UTF-8": "\xff\xfe caf\xe9 \xc3\x28\n",
    "blank lines": "\n \t \n\r\n",
    "half an object": '{"jsonrpc": "2.0", "resu\n',
    "a log line in JSON": '{"level": "info", "id": $ID, "msg": "handling"}\n',
    "other JSON": 'null\n17\n"ready"\n[]\n[1, 2]\n{}\nNaN\n',
    "a deep stack of brackets": [("[", 50_000), ("\n", 1)],
    "NUL bytes": "\0" * 100 + "\n",
    "a terminal's colours": "\x1b[32mINFO\x1b[0m ready\r\n",
    "a long line": [("x", 1_000_000), ("\n", 1)],
    "UTF-16": "\xff\xfe{\0}\0\n\0\n",
    "a progress bar": "\rLoading 10 %\rLoading 20 %\rLoading 100 %\n",
}


@pytest.mark.parametrize("noise", NOISE_LINES)
def test_noise_between_messages_is_skipped_and_the_result_comes(noise: str) -> None:
    """I4, B34: one bad byte in a log line does not end the session."""
    text = NOISE_LINES[noise]
    before, work = manner("says", texts=[text], then=False), manner("says", texts=[text, text])
    with serving(before=before, work=work) as client:
        for _ in range(3):
            assert tool(client, "work", b=1) == {"b": 1}
        assert client.counters["error"] == 1  # the probe
        works(client)


def test_noise_of_every_kind_in_the_stateless_era() -> None:
    """I4"""
    on = {kind: manner("says", texts=[text, text]) for kind, text in NOISE_LINES.items()}
    with serving("stateless", on=on) as client:
        for kind in on:
            assert tool(client, kind, b=1) == {"b": 1}
        assert client.counters["error"] == 0


def test_noise_that_looks_like_an_answer_to_nobody_reaches_nobody() -> None:
    """I3, I20: foreign ids, ids as text, ids that are true, replies twice."""
    texts = [
        '{"jsonrpc": "2.0", "id": 4711, "result": {"content": []}}\n',
        '{"jsonrpc": "2.0", "id": "$ID", "result": {"content": []}}\n',
        '{"jsonrpc": "2.0", "id": true, "result": {"content": []}}\n',
        '{"jsonrpc": "2.0", "id": $ID.0, "result": {"content": []}}\n',
        '{"jsonrpc": "2.0", "id": null, "result": {"content": []}}\n',
        '{"jsonrpc": "2.0", "id": 1, "result": {"content": []}}\n',
        '{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": $ID}}\n',
        '{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": [], "progress": 1}}\n',
    ]
    with serving(work=manner("says", texts=texts), twice=manner("answer", times=3)) as client:
        assert tool(client, "work", b=2) == {"b": 2}
        assert client.counters["dropped_unknown"] == 2  # 4711, and the id as text
        assert client.counters["dropped_late"] == 1  # 1 was that of the probe
        assert tool(client, "twice", c=3) == {"c": 3}
        works(client)
        assert client.counters["dropped_late"] == 3


LIMIT = 1 << 20


@ERAS
def test_an_answer_over_the_limit_fails_its_call_at_once_and_no_other(era: str) -> None:
    """I4, I5, I8: MessageTooLarge names the limit; what is left of the line is skipped."""
    work = manner("long", size=3 * LIMIT)
    with serving(era, work=work, max_message_size=LIMIT) as client, growing_less_than(LIMIT / 2**20 + 32):
        with within(0.5), pytest.raises(MessageTooLarge, match=str(LIMIT)) as found:
            client.call_tool("work")
        tells(found.value, "tools/call", "parse", limit=LIMIT)
        works(client)


ENDLESS = {
    "an answer": {},
    "no message": {"text": "x"},
    "an answer whose id nobody knows yet": {"text": '{"jsonrpc": "2.0", "result": {"content": ["'},
}


@pytest.mark.parametrize("how", ENDLESS)
@pytest.mark.parametrize("limit", [LIMIT, 16 * LIMIT])
def test_a_line_without_end_ends_the_connection_and_names_the_limit(how: str, limit: int) -> None:
    """I2, I7, I8: after four times the limit nobody waits for its end."""
    knobs = {} if limit == 16 * LIMIT else {"max_message_size": limit}  # which is the default
    with serving(work=manner("endless", **ENDLESS[how]), shutdown_timeout=0.5, **knobs) as client:
        child = pid_of(client)
        with growing_less_than(limit / 2**20 + 32):
            with within(0.5), pytest.raises((MessageTooLarge, MCPConnectionError), match=str(limit)) as found:
                client.call_tool("work")
            if isinstance(found.value, MessageTooLarge):
                assert found.value.details["limit"] == limit
            with within(1.0), pytest.raises(MCPError, match=str(limit)):
                client.submit_tool("echo").result(PATIENCE)
        client.close()
        assert reaped(child)


def test_the_biggest_message_that_is_allowed_is_fine_and_one_byte_more_is_not_sent() -> None:
    """I4"""
    with serving(max_message_size=LIMIT) as client:
        with pytest.raises(MessageTooLarge, match=str(LIMIT)) as found:
            client.call_tool("echo", {"x": "y" * LIMIT})
        assert found.value.may_have_run is False
        tells(found.value, "tools/call", "send", limit=LIMIT)
        text = "y" * (LIMIT - 1000)
        assert tool(client, "echo", x=text)["x"] == text
        assert NOISE > 0
