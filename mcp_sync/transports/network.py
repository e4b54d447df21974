"""NetworkTransport: what the transports that reach a server over a network have in common.

A conversation over a network outlives its connections, repeats what may be repeated, and leaves a failing server alone,
by the transport's own policies; whoever began it, a session or a Client.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

from ..deadlines import Deadline, as_timeout
from ..engine.caller import Caller, Handler
from ..engine.channel import Channel
from ..engine.connect import Introduction, converse
from ..engine.dispatch import Lane
from ..exceptions import MCPConnectionError
from ..manage.breaker import Circuit
from ..manage.fortify import Connecting, fortify
from ..manage.reconnect import Reconnecting
from ..observe import Feed, Reconnected
from ..policies import Breaker, Limits, Policies, Reconnect, Retry
from .lasting import LastingTransport
from .passport import Passport
from .transport import CLOSE_SECONDS


class NetworkTransport(LastingTransport):
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
        limits = self._policies[Limits]
        # What is kept for later connections must not keep what the user holds: a handler is, and `opened` may be, that.
        later = replace(introduction, handler=None, opened=None, meanwhile=None, joined=None)
        lane = Lane(f"mcp-{self.transport_type}-events")
        emit = Feed(self._observers, lane.offer).emit
        connecting = Connecting(self._policies[Retry], self.name, emit)

        def note(caller: Caller) -> None:
            connecting.opened(caller)
            if introduction.opened is not None:
                introduction.opened(connecting)

        firsts, here = [replace(introduction, opened=note)], self._line

        def dial(
            handler: Handler | None, version: str, opened: Callable[[Caller], object], deadline: Deadline
        ) -> Caller:
            if firsts:
                caller = self._begin(replace(firsts[0], handler=handler), deadline)
                firsts.clear()
                return caller
            again = replace(later, handler=handler, opened=opened, expected=version or None)
            caller = converse(self._dial_again(deadline), again, limits, deadline)
            emit(Reconnected(self.name))
            return caller

        policy = self._policies[Reconnect]

        def connect() -> Reconnecting:
            return Reconnecting(firsts[0].handler, dial, policy, later.renewed, deadline, lane.close)

        try:
            if introduction.opened is not None:
                introduction.opened(connecting)  # the first attempt may take its time before there is a connection
            whole = connecting.repeat(connect, deadline)
        except BaseException:
            lane.close(Deadline(CLOSE_SECONDS))
            raise
        self._conversations.add(whole)
        self._began(whole, here)
        return fortify(whole, self._policies, self._circuit, emit)

    def _dial_again(self, deadline: Deadline) -> Channel:
        """Return a fresh channel for a conversation that had one before."""
        return self.dial(deadline)

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
        line = self._line
        if line is not None and not line.over and not line.claimed:  # else it is a conversation's, and has been renewed
            self.disconnect()
            self.connect(max(deadline.remaining, 0.001))

    def refresh_auth(self, timeout: float | None = None) -> bool:
        """Have the auth provider fetch new credentials; False: there is none, or it has none.

        Args:
            timeout: Seconds; None means the transport's own.

        Raises:
            MCPTimeoutError: It did not do so within the timeout.
            LocalProtocolError: It failed.
        """
        deadline = Deadline(as_timeout(timeout, default=self.timeout))
        return self._passport.renew(self._passport.generation, deadline)
