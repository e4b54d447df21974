"""Fortify: the order in which Callers stand around a Caller, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..deadlines import Deadline
from ..engine.caller import Caller
from ..observe import Event
from ..policies import Breaker, Policies, Retry
from .breaker import Breaking, Circuit
from .retry import Retrying, Times

T = TypeVar("T")


def fortify(caller: Caller, policies: Policies, circuit: Circuit | None, emit: Callable[[Event], object]) -> Caller:
    """Return the caller with what its policies ask for around it.

    Innermost is what reconnects: it alone knows connections. Around it what repeats: each repeat may find a new
    connection. Outermost the breaker: it counts what the application sees, not every attempt, and where it is open
    nothing is repeated. Retries exist at this one level.

    Args:
        caller: Connected already.
        policies: The transport's.
        circuit: What the transport knows of its server; None: it is always asked.
        emit: Takes events.
    """
    if policies[Retry].repeats:
        caller = Retrying(caller, policies[Retry], emit=emit)
    if policies[Breaker].on and circuit is not None:
        caller = Breaking(caller, circuit, emit=emit)
    return caller


def patiently(
    connect: Callable[[], T], policy: Retry, name: str, deadline: Deadline, emit: Callable[[Event], object]
) -> T:
    """Connect, again and again as the policy allows: nothing has run before there is a connection."""
    return Times(policy, name, emit).repeat(connect, "connect", True, deadline)
