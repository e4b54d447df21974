"""Commands that are no servers, and servers that no client can talk to: what the error says about it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from client.children import python, server

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError, StdioTransport

DISCOVERED = 'answer(id, result={"supportedVersions": ["2026-07-28"], "capabilities": {}})'


def failure_of(command: Any, **options: Any) -> MCPError:
    """Return the error that connecting ends with; nothing may be left behind, and the client can be closed."""
    client = Client(command, **{"timeout": 20, **options})
    try:
        with pytest.raises(MCPError) as caught:
            client.connect()
        assert not client.connected
        assert caught.value.may_have_run is False
    finally:
        client.close()
    return caught.value


def test_a_command_that_does_not_exist_is_named() -> None:
    error = failure_of(["no-such-mcp-server", "--port", "1"])
    assert isinstance(error, MCPConnectionError)
    assert "no program 'no-such-mcp-server'; check the spelling and PATH" in str(error)
    assert isinstance(error.__cause__, FileNotFoundError)


def test_a_whole_command_line_in_one_word_is_explained() -> None:
    assert "give the words as a list" in str(failure_of(StdioTransport("python server.py")))


def test_a_command_that_may_not_be_executed_is_named(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text("#!/bin/sh\n")
    error = failure_of([str(script)])
    assert f"{str(script)!r} may not be executed; chmod +x it" in str(error)
    assert isinstance(error.__cause__, PermissionError)


def test_a_working_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "the working directory" in str(failure_of([sys.executable], cwd=str(tmp_path / "nowhere")))


def test_a_command_that_prints_help_and_exits_shows_the_help() -> None:
    error = failure_of(python("print('usage: server [-h] --root ROOT'); raise SystemExit(2)"))
    assert isinstance(error, MCPConnectionError)
    assert "ended with exit status 2" in str(error)
    assert "usage: server [-h] --root ROOT" in str(error)
    assert error.details["exit_status"] == 2


def test_a_command_that_complains_and_exits_shows_the_end_of_its_complaint() -> None:
    error = failure_of(python("import sys; sys.exit('no licence found')"))
    assert "ended with exit status 1" in str(error)
    assert "no licence found" in str(error)
    assert error.details["stderr"] == ["no licence found"]


def test_a_command_that_ends_without_a_word_shows_its_exit_status() -> None:
    assert "ended with exit status 0" in str(failure_of(python("pass")))


def test_a_server_that_never_answers_is_a_timeout_that_says_what_was_asked() -> None:
    error = failure_of(python("import sys\nfor line in sys.stdin: pass"), timeout=1)
    assert isinstance(error, MCPTimeoutError)
    assert "initialize" in str(error)
    assert "limit 1 s" in str(error)


def test_a_server_that_prints_instead_of_answering_is_a_timeout_that_shows_it() -> None:
    error = failure_of(python("import sys\nprint('Listening ...', flush=True)\nfor line in sys.stdin: pass"), timeout=1)
    assert isinstance(error, MCPTimeoutError)
    assert "Listening ..." in str(error)


UNKNOWN_VERSIONS = {
    "initialize is answered with a version of the future": """
        if method == "initialize":
            answer(id, result={"protocolVersion": "2099-01-01", "capabilities": {}, "serverInfo": {}})
        elif id is not None:
            answer(id, error={"code": -32601, "message": "no"})
    """,
    "discover is refused with versions nobody knows": """
        answer(id, error={"code": -32022, "message": "no", "data": {"supported": ["2099-01-01"], "requested": "x"}})
    """,
    "discover offers versions nobody knows": """
        answer(id, result={"supportedVersions": ["2099-01-01"], "capabilities": {}})
    """,
    "initialize is refused with versions nobody knows": """
        if method == "initialize":
            answer(id, error={"code": -32602, "message": "no", "data": {"supported": ["2099-01-01"]}})
        else:
            answer(id, error={"code": -32601, "message": "no"})
    """,
}


@pytest.mark.parametrize("reaction", UNKNOWN_VERSIONS.values(), ids=UNKNOWN_VERSIONS)
def test_a_server_of_another_protocol_version_is_an_error_with_both_sides_versions(reaction: str) -> None:
    error = failure_of(server(reaction))
    assert isinstance(error, RemoteProtocolError)
    assert "the server speaks 2099-01-01, this client speaks 2024-11-05" in str(error)
    assert "a newer mcp_sync or another version of the server may help" in str(error)
    assert error.details["server_versions"] == ["2099-01-01"]


def test_a_version_that_was_asked_for_and_is_not_spoken_is_an_error_that_says_what_to_do() -> None:
    reaction = 'if id is not None: answer(id, error={"code": -32601, "message": "no such method"})'
    error = failure_of(server(reaction), protocol_version="2026-07-28")
    assert isinstance(error, RemoteProtocolError)
    assert "does not speak 2026-07-28" in str(error)
    assert "leave protocol_version out" in str(error)


def test_a_server_that_refuses_to_begin_is_an_error_with_its_words() -> None:
    error = failure_of(server('if id is not None: answer(id, error={"code": -32000, "message": "not today"})'))
    assert isinstance(error, MCPConnectionError)
    assert "the server refused initialize" in str(error)
    assert "not today" in str(error)


def test_an_answer_to_initialize_that_makes_no_sense_is_an_error() -> None:
    reaction = """
        if method == "initialize": answer(id, result={"capabilities": []})
        elif id is not None: answer(id, error={"code": -32601, "message": "no"})
    """
    error = failure_of(server(reaction))
    assert isinstance(error, RemoteProtocolError)
    assert "None" in str(error)


def test_noise_between_the_messages_is_skipped() -> None:
    noisy = server("print('Loading ...', flush=True)\n" + DISCOVERED)
    with Client(noisy, timeout=20) as client:
        assert client.protocol_version == "2026-07-28"
        client.ping()


def test_a_server_that_dies_between_two_calls_says_so_at_the_next_one() -> None:
    reaction = f"""
        if method == "server/discover": {DISCOVERED}
        elif method == "bye": sys.exit("gone fishing")
    """
    with Client(server(reaction), timeout=20) as client:
        waiting = client.submit("never/answered")
        client.notify("bye")
        assert isinstance(waiting.exception(20), MCPConnectionError)
        with pytest.raises(MCPConnectionError, match="ended with exit status 1.*gone fishing") as caught:
            client.ping()
        assert caught.value.details["exit_status"] == 1
        assert caught.value.may_have_run is False
        assert client.connect().connected
