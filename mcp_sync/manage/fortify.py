"""Fortify: the order in which Callers stand around a Caller, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..deadlines import Deadline
from ..engine.caller import Caller
from ..exceptions import MCPConnectionError
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


class Connecting:
    """Connects, again and again as the policy allows: nothing has run before there is a connection.

    Closing it ends the attempt that is under way, and the wait for the next.

    Args:
        policy: How often to try.
        name: Whom it connects to, for events.
        emit: Is told of every repeat.
    """

    def __init__(self, policy: Retry, name: str, emit: Callable[[Event], object]) -> None:
        self._name = name
        self._times = Times(policy, name, emit)
        self._caller: Caller | None = None
        self._closed = False

    def repeat(self, connect: Callable[[], T], deadline: Deadline) -> T:
        """Return what connecting returns, or raise what the last attempt raised."""
        return self._times.repeat(connect, "connect", True, deadline)

    def opened(self, caller: Caller) -> None:
        """Take note of the connection that is being made; raises MCPConnectionError where nobody wants it any more."""
        self._caller = caller
        if self._closed:
            raise MCPConnectionError(f"{self._name} was closed", details={"phase": "closed"}, may_have_run=False)

    def close(self, deadline: Deadline) -> None:
        """End all attempts, and what the present one has made. Idempotent, from any thread."""
        self._stop()
        if self._caller is not None:
            self._caller.close(deadline)

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end them, and wait for nothing."""
        self._stop()
        if self._caller is not None:
            self._caller.hang_up(deadline)

    def _stop(self) -> None:
        self._closed = True  # before the caller is looked at: whoever brings one later sees it
        self._times.stop()
