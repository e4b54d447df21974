"""From a live channel to a conversation: drives the negotiation of protocol/negotiation.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..deadlines import Deadline
from ..exceptions import JSONRPCError, MCPError, MCPTimeoutError, RemoteProtocolError
from ..observe import Connected
from ..policies import Limits
from ..protocol.eras import Identity
from ..protocol.negotiation import PROBE_SECONDS, PROBE_SHARE, Agreement, Answer, Ask, negotiate
from .caller import Handler, Question
from .channel import Channel, Relay
from .lifetimes import close_at_exit
from .peer import Peer

CLOSE_SECONDS, CLOSE_LATE_SECONDS = 5.0, 0.05
"""How long closing may take after a failure; the second where there is no time left."""
INTERRUPTED_SECONDS = 0.2
"""The same after Ctrl-C: somebody waits at a keyboard."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """How a conversation is to begin.

    Attributes:
        identity: What we say of ourselves.
        version: The protocol version to ask for; None tries the newest first.
        handler: What answers the other side.
        meanwhile: Work to do while the other side starts up.
        opened: Is given the Peer before the negotiation begins, so that it can be closed meanwhile.
    """

    identity: Identity = field(default_factory=Identity)
    version: str | None = None
    handler: Handler | None = None
    meanwhile: Callable[[], object] | None = None
    opened: Callable[[Peer], object] | None = None


def converse(
    channel: Channel,
    introduction: Introduction,
    limits: Limits,
    deadline: Deadline,
    relay: Relay | None = None,
) -> Peer:
    """Begin a conversation on a channel; on failure the channel is closed.

    Args:
        channel: The connection.
        introduction: How to begin.
        limits: How much may wait.
        deadline: For all of it.
        relay: The sink of a channel that has been started; None starts it.

    Raises:
        MCPConnectionError: The server ended, or refused.
        MCPTimeoutError: The deadline passed.
        RemoteProtocolError: There is no protocol version in common.
    """
    whole: Channel | Peer = channel
    done: Callable[[], object] | None = None
    try:
        whole = peer = Peer(channel, introduction.handler, limits)
        done = close_at_exit(peer)
        if relay is None:
            channel.start(peer)
        else:
            relay.swap(peer)
            channel.resume()
        if introduction.opened is not None:
            introduction.opened(peer)
        if introduction.meanwhile is not None:
            introduction.meanwhile()
        agreement = _negotiate(peer, introduction, deadline)
        peer.agree(agreement)
        if agreement.greeting:
            peer.notify(agreement.greeting, None, deadline)
        channel.feed.emit(Connected(peer.name, agreement.era.version))
    except BaseException as error:
        whole.close(Deadline(max(CLOSE_LATE_SECONDS, min(closing_time(error), deadline.remaining))))
        if isinstance(error, MCPError):
            raise error.about("cannot connect", may_have_run=False, phase="connect") from error.__cause__
        raise
    finally:
        if done is not None:
            done()
    return peer


def closing_time(error: BaseException) -> float:
    """Return how many seconds closing may take after this."""
    return CLOSE_SECONDS if isinstance(error, Exception) else INTERRUPTED_SECONDS


def _negotiate(peer: Peer, introduction: Introduction, deadline: Deadline) -> Agreement:
    talk = negotiate(introduction.identity, introduction.version)
    ask = next(talk)
    while True:
        answer = _put(peer, ask, deadline)
        try:
            ask = talk.send(answer)
        except StopIteration as end:
            agreement: Agreement = end.value
            return agreement


def _put(peer: Peer, ask: Ask, deadline: Deadline) -> Answer:
    """Put one question; an error that tells something about the other side's era is an answer."""
    patience = deadline.sooner(min(deadline.limit * PROBE_SHARE, PROBE_SECONDS)) if ask.probe else deadline
    question: Question[Any] = Question(ask.method, ask.params)
    try:
        return peer.call(question, patience)
    except (JSONRPCError, RemoteProtocolError, MCPTimeoutError) as error:
        return error
