"""The tree of errors: its shape, its text, and that every error survives pickling and copying."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from mcp_sync import exceptions
from mcp_sync.exceptions import (
    AllTransportsFailed,
    AuthError,
    CircuitOpen,
    ClosedByServer,
    ForkedClientError,
    HTTPStatusError,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MCPTransportError,
    MessageTooLarge,
    NoEndpoint,
    ProtocolError,
    RateLimited,
    Refused,
    RemoteProtocolError,
    ServerError,
    SessionExpired,
    ToolError,
    TooManyRequests,
)

PLAIN = [
    MCPError,
    MCPTransportError,
    MCPConnectionError,
    ForkedClientError,
    SessionExpired,
    MCPTimeoutError,
    MessageTooLarge,
    Refused,
    TooManyRequests,
    NoEndpoint,
    ProtocolError,
    LocalProtocolError,
    RemoteProtocolError,
]
STATUSES = {HTTPStatusError: 404, AuthError: 401, RateLimited: 429, ServerError: 503}
EVERY = [
    *(kind("it broke", details={"phase": "wait", "limit": 2.0}, may_have_run=False) for kind in PLAIN),
    JSONRPCError(-32602, "no such tool", {"tool": "x"}, method="tools/call"),
    ToolError("out of paper", tool="print", result={"isError": True}),
    *(kind("it said no", status, 1.5, details={"status": status}) for kind, status in STATUSES.items()),
    CircuitOpen("it is left alone", 12.5, details={"server": "calc"}),
    ClosedByServer("it went away", 1001, "lunch", details={"code": 1001}),
    AllTransportsFailed("tools/call", {}, details={"method": "tools/call"}),
]
NAMES = [type(error).__name__ for error in EVERY]


def described_tree() -> dict[str, str]:
    """Return {class: its parent} as the module's docstring draws it."""
    assert exceptions.__doc__
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in exceptions.__doc__.partition("::")[2].partition("``details``")[0].splitlines():
        if line.strip():
            indent, name = len(line) - len(line.lstrip()), line.split()[0].partition("(")[0]
            path = [(other, above) for other, above in path if other < indent]
            parents[name] = path[-1][1] if path else "Exception"
            path.append((indent, name))
    return parents


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    real = {
        name: value.__bases__[0].__name__
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, MCPError)
    }
    assert described_tree() == real


def test_every_error_of_the_tree_is_tested_here() -> None:
    assert set(NAMES) == set(described_tree())


def test_a_timeout_is_a_timeout_error_of_the_standard_library_too() -> None:
    assert issubclass(MCPTimeoutError, TimeoutError)


@pytest.mark.parametrize("error", EVERY, ids=NAMES)
@pytest.mark.parametrize(
    "clone", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_a_copy_of_an_error_says_all_that_the_error_says(error: MCPError, clone: object) -> None:
    again = clone(error)  # type: ignore[operator]
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_an_error_of_a_subclass_with_a_constructor_of_its_own_pickles() -> None:
    again = pickle.loads(pickle.dumps(Busy(7, "three")))
    assert (again.queue, str(again)) == (7, "three wait")


class Busy(MCPConnectionError):
    def __init__(self, queue: int, who: str) -> None:
        super().__init__(f"{who} wait")
        self.queue = queue


@pytest.mark.parametrize("error", EVERY, ids=NAMES)
def test_each_call_gets_an_error_of_its_own_from_a_shared_one(error: MCPError) -> None:
    before = (str(error), dict(error.details))
    mine = error.about("tools/list to calc", may_have_run=None, method="tools/list")
    assert type(mine) is type(error)
    assert "tools/list to calc: " in str(mine)
    assert mine.may_have_run is None
    assert mine.details == {**error.details, "method": "tools/list"}
    assert (str(error), error.details) == before


def test_an_error_about_a_call_keeps_the_attributes_and_the_cause() -> None:
    shared = Busy(7, "three")
    shared.__cause__ = OSError("down")
    mine = shared.about("ping", may_have_run=False)
    assert (mine.queue, mine.__cause__, str(mine)) == (7, shared.__cause__, "ping: three wait")


def test_details_are_a_copy() -> None:
    details = {"server": "calc"}
    error = MCPError("x", details=details)
    details["server"] = "other"
    assert error.details == {"server": "calc"}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (JSONRPCError(-32601, "no such method"), "no such method (JSON-RPC error -32601)"),
        (JSONRPCError(5, "bad", method="ping"), "ping: bad (JSON-RPC error 5)"),
        (JSONRPCError(5, "bad", {"a": 1}), "bad (JSON-RPC error 5, data {'a': 1})"),
        (JSONRPCError(5, "bad", "x" * 999), f"bad (JSON-RPC error 5, data '{'x' * 199}...)"),
        (ToolError("out of paper", tool="print"), "tool 'print' reported an error: out of paper"),
        (ToolError("out of paper"), "the tool reported an error: out of paper"),
        (MCPTimeoutError("too late"), "too late"),
        (MCPError(), ""),
    ],
    ids=["code", "method", "data", "long data", "tool", "unnamed tool", "timeout", "empty"],
)
def test_the_text_of_an_error_is_made_of_its_attributes(error: MCPError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (JSONRPCError(1, "x"), True),
        (ToolError("x"), True),
        (MCPError("x"), None),
        (Refused("x", may_have_run=False), False),
        (CircuitOpen("x", 1.0), False),
        (ServerError("x", 503), None),
    ],
    ids=["answered", "tool ran", "unknown", "not sent", "not even tried", "nobody knows"],
)
def test_an_error_says_whether_the_request_may_have_run(error: MCPError, verdict: bool | None) -> None:
    assert error.may_have_run is verdict


@pytest.mark.parametrize("error", [error for error in EVERY if isinstance(error, (HTTPStatusError, CircuitOpen))])
def test_when_to_come_back_survives_being_told_of_a_call(error: HTTPStatusError | CircuitOpen) -> None:
    mine = error.about("tools/list", may_have_run=False)
    assert mine.retry_after == error.retry_after is not None
    assert getattr(mine, "status", None) == getattr(error, "status", None)


def test_where_the_server_said_nothing_nobody_knows_when_to_come_back() -> None:
    assert RateLimited("too often", 429).retry_after is None


def test_a_note_added_to_an_error_survives_pickling() -> None:
    error = MCPConnectionError("gone")
    error.__dict__["__notes__"] = ["while saving"]  # what add_note does from Python 3.11 on
    assert vars(pickle.loads(pickle.dumps(error)))["__notes__"] == ["while saving"]


def test_a_chain_of_errors_prints() -> None:
    error = MCPTimeoutError("late").about("ping", may_have_run=None)
    error.__cause__ = JSONRPCError(1, "why")
    assert "why (JSON-RPC error 1)" in "".join(traceback.format_exception(error))
