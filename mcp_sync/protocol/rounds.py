"""Multi-round requests: a call whose result may be a question, as a generator.

In the stateless era a server that needs something of the client ends the request with ``input_required``; the client
gathers the answers and asks again, with a new id and the same params. The generator yields Call, Gather and Pause, and
is sent a result, a dict of answers, or None.

Source: basic/patterns/mrtr (2026-07-28).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..exceptions import RemoteProtocolError

METHODS = frozenset({"tools/call", "prompts/get", "resources/read"})
MAX_ROUNDS = 10
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Call:
    """Send the request with these params; wants the result."""

    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gather:
    """Ask the application; wants ``{key: result}`` for every key."""

    requests: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds; wants None."""

    seconds: float


Rounds: TypeAlias = "Generator[Call | Gather | Pause, Any, dict[str, Any]]"


def rounds(method: str, params: Mapping[str, Any] | None) -> Rounds:
    """Ask until the result is final, and return it.

    Raises:
        RemoteProtocolError: The server asks where it may not, asks nothing, or never stops asking.
    """
    first = dict(params or {})
    result: dict[str, Any] = yield Call(first)
    for number in range(MAX_ROUNDS):
        if result.get("resultType") != "input_required":
            return result
        requests = _requests_of(method, result)
        answers: dict[str, Any] = {}
        if requests:
            answers["inputResponses"] = yield Gather(requests)
        else:
            yield Pause(min(FIRST_PAUSE * 2**number, LONGEST_PAUSE))
        if "requestState" in result:  # to the byte, and only if there was one
            answers["requestState"] = result["requestState"]
        result = yield Call({**first, **answers})
    if result.get("resultType") != "input_required":
        return result
    raise RemoteProtocolError(f"{method}: the server still asks for input after {MAX_ROUNDS} rounds", may_have_run=True)


def _requests_of(method: str, result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    if method not in METHODS:
        raise RemoteProtocolError(f"{method}: a server may not ask for input here", may_have_run=True)
    requests = result.get("inputRequests")
    if not requests and "requestState" not in result:
        raise RemoteProtocolError(f"{method}: input is required, but neither requests nor a state came with it")
    if requests is not None and not is_requests(requests):
        raise RemoteProtocolError(f"{method}: inputRequests is not an object of requests")
    return requests or {}


def is_requests(value: Any) -> bool:
    """Tell whether a value is what ``inputRequests`` may be."""
    return isinstance(value, dict) and all(
        isinstance(item, dict)
        and isinstance(item.get("method"), str)
        and isinstance(item.get("params", {}), (dict, type(None)))
        for item in value.values()
    )
