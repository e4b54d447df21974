"""The canary run can fail: a leak is seen wherever it is, however it is written."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Callable
from urllib.parse import quote

import pytest
from security.canaries import Canaries, Evidence, check, watching

from mcp_sync import MCPConnectionError, MCPError

WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a sentence": "the token {} is wrong".format,
    "in upper case": str.upper,
    "its first half": lambda secret: secret[:12],
    "its second half": lambda secret: secret[13:],
    "percent-encoded": lambda secret: "".join(f"%{ord(letter):02X}" for letter in secret),
    "quoted": lambda secret: quote(f"a={secret}&b", safe=""),
    "basic auth": lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
    "base64, one further": lambda secret: base64.b64encode(f"users:{secret}:".encode()).decode(),
    "base64, two further": lambda secret: base64.urlsafe_b64encode(f"userss:{secret}x".encode()).decode(),
    "JSON": lambda secret: json.dumps({"password": f'"{secret}\n'}),
    "JSON of JSON": lambda secret: json.dumps(json.dumps({"password": secret})),
    "bytes": lambda secret: repr(secret.encode()),
    "hex": lambda secret: secret.encode().hex(),
    "backwards": lambda secret: secret[::-1],
    "escaped": lambda secret: "".join(f"\\u{ord(letter):04x}" for letter in secret),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_secret_is_found_however_it_is_written(how: str) -> None:
    """I12"""
    canaries, evidence = Canaries(), Evidence()
    secret = canaries.plant("token")
    evidence.add("a text", WRITTEN[how](secret))
    (line,) = canaries.found_in(evidence)
    assert line.startswith("token (")
    with pytest.raises(pytest.fail.Exception, match="token"):
        check(canaries, evidence)
    assert canaries.found_in(evidence, but=["token"]) == []


def raised(secret: str, how: str) -> BaseException:
    """Return an error that holds a secret somewhere."""
    try:
        try:
            if how == "its cause":
                raise ValueError(secret)
            if how == "its context":
                raise OSError(secret)
        except OSError:
            raise MCPConnectionError("lost") from None if how == "no context" else sys.exc_info()[1]
        except ValueError as error:
            raise MCPConnectionError("lost") from error
        if how == "an attribute":
            found = MCPError("lost")
            found.token = secret  # type: ignore[attr-defined]
            raise found
        raise MCPError(secret if how == "its text" else "lost", details={"x": [secret]} if how == "its details" else {})
    except MCPError as error:
        return error


@pytest.mark.parametrize("how", ["its cause", "its context", "an attribute", "its text", "its details"])
def test_a_secret_is_found_wherever_an_error_has_it(how: str) -> None:
    """I12"""
    canaries, evidence = Canaries(), Evidence()
    evidence.look("a call", raised(canaries.plant("token"), how))
    assert canaries.found_in(evidence)


class Talkative:
    """Tells what it should not."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return f"<Talkative {self._secret}>"


@pytest.mark.parametrize("name", ["mcp_sync", "mcp_sync.any", "urllib3", "another"])
def test_a_secret_is_found_in_any_log_and_in_a_repr(name: str) -> None:
    """I12: at DEBUG, with its traceback and its arguments."""
    canaries = Canaries()
    secret = canaries.plant("token")
    for leak in (
        lambda: logging.getLogger(name).debug("sent %s", secret),
        lambda: logging.getLogger(name).debug("an error", exc_info=raised(secret, "its text")),
        lambda: evidence.look("an object", Talkative(secret)),
    ):
        with watching() as evidence:
            leak()
        assert canaries.found_in(evidence)


def test_nothing_is_found_where_nothing_is() -> None:
    canaries = Canaries()
    canaries.plant("token")
    with watching() as evidence:
        logging.getLogger("mcp_sync").debug("nothing")
        evidence.look("an error", raised("none", "its text"))
    check(canaries, evidence)
