"""NetworkTransport: what the transports that reach a server over a network have in common.

A conversation over a network outlives its connections, repeats what may be repeated, and leaves a failing server alone,
by the transport's own policies; whoever began it, a session or a Client.
"""

from __future__ import annotations

import weakref
from dataclasses import replace

from ..deadlines import Deadline, as_timeout
from ..engine.caller import Caller, Handler
from ..engine.connect import Introduction, converse
from ..engine.dispatch import Lane
from ..exceptions import MCPConnectionError
from ..manage.breaker import Circuit
from ..manage.fortify import fortify, patiently
from ..manage.reconnect import Reconnecting
from ..observe import Feed
from ..policies import Breaker, Limits, Policies, Reconnect, Retry
from .passport import Passport
from .transport import CLOSE_SECONDS, MCPTransport


class NetworkTransport(MCPTransport):
    """How to reach a server over a network.

    Attributes:
        url: Where, without user, password and fragment.
    """

    url: str
    _passport: Passport

    def __init__(self, timeout: float | None, policies: Policies) -> None:
        super().__init__(timeout, policies)
        breaker = policies[Breaker]
        self._circuit = Circuit(breaker.threshold, breaker.timeout) if breaker.on else None
        self._conversations: weakref.WeakSet[Reconnecting] = weakref.WeakSet()

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation that is fortified by the transport's policies."""
        limits, introduced = self._policies[Limits], introduction
        begun: list[Caller] = []

        def dial(handler: Handler | None, version: str, deadline: Deadline) -> Caller:
            by_now = replace(introduced, handler=handler, expected=version or introduced.expected)
            if not begun:
                begun.append(self._begin(by_now, deadline))
                return begun[0]
            by_now = replace(by_now, opened=None, meanwhile=None, joined=None)
            return converse(self.dial(deadline), by_now, limits, deadline)

        lane = Lane(f"mcp-{self.transport_type}-events")
        emit = Feed(self._observers, lane.offer).emit
        policy = self._policies[Reconnect]

        def connect() -> Reconnecting:
            return Reconnecting(introduced.handler, dial, policy, introduced.renewed, deadline, lane.close)

        try:
            whole = patiently(connect, self._policies[Retry], self.name, deadline, emit)
        except BaseException:
            lane.close(Deadline(CLOSE_SECONDS))
            raise
        self._conversations.add(whole)
        return fortify(whole, self._policies, self._circuit, emit)

    def reconnect(self, timeout: float | None = None) -> None:
        """Have a new connection take the place of each that conversations have now; calls under way are not disturbed.

        Args:
            timeout: Seconds for all of them; None means the transport's own.

        Raises:
            MCPConnectionError: The server cannot be reached; or there is nothing to reconnect.
            MCPTimeoutError: Not within the timeout.
        """
        deadline = Deadline(as_timeout(timeout, default=self.timeout))
        living = [one for one in self._conversations if not one.over]
        if not living and not self.connected:
            raise MCPConnectionError(f"{self.name}: nothing is connected", may_have_run=False)
        for one in living:
            one.renew(deadline)
        if self.connected:
            self.disconnect()
            self.connect(timeout)

    def refresh_auth(self, timeout: float | None = None) -> bool:
        """Have the auth provider fetch new credentials; False: there is none, or it has none.

        Args:
            timeout: Seconds to wait for another thread that does so already; None means the transport's own.
        """
        deadline = Deadline(as_timeout(timeout, default=self.timeout))
        return self._passport.renew(self._passport.generation, deadline)
