"""From a live channel to a conversation: drives the negotiation of protocol/negotiation.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..deadlines import Deadline
from ..exceptions import HTTPStatusError, JSONRPCError, MCPError, MCPTimeoutError, RemoteProtocolError
from ..observe import Connected, Connecting
from ..policies import Limits
from ..protocol.eras import Identity
from ..protocol.negotiation import PROBE_SECONDS, PROBE_SHARE, Agreement, Answer, Ask, negotiate
from .caller import Handler, Question
from .channel import Channel
from .inbox import Relay
from .lifetimes import close_at_exit
from .peer import Peer

CLOSE_SECONDS, CLOSE_LATE_SECONDS = 5.0, 0.05
"""How long closing may take after a failure; the second where there is no time left."""
TELLING_STATUSES = frozenset(range(400, 500)) - {401, 402, 403, 407, 408, 421, 425, 426, 429}
"""HTTP statuses by which a server may say that it does not know the question; the others are no verdict on its era."""
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
        opened: Is given, before the negotiation begins, what can be closed meanwhile: the Peer, or what ends all
            attempts.
        renewed: Is called, with a deadline, when a connection has taken the place of another: what the server was told
            has to be told again. It is kept as long as the connection, so it must not keep what the user holds.
        expected: The version that the other side spoke the last time; a hint.
        joined: Is given the connection; returns what was agreed before, by somebody else, in the session that it goes
            on with. None: it goes on with none.
    """

    identity: Identity = field(default_factory=Identity)
    version: str | None = None
    handler: Handler | None = None
    meanwhile: Callable[[], object] | None = None
    opened: Callable[[Any], object] | None = None
    renewed: Callable[[Deadline], object] | None = None
    expected: str | None = None
    joined: Callable[[Channel], Agreement | None] | None = None


KNOWN_ORIGINS = 1000
_spoken: dict[str, str] = {}
"""The era cache: the version that was last spoken with each origin (basic/versioning: an era belongs to a server)."""


def spoken(origin: str) -> str | None:
    """Return the version that was last spoken with an origin; None: nobody knows, or the last attempt failed."""
    return _spoken.get(origin)


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
    channel.feed.emit(Connecting(channel.name))
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
        joined = introduction.joined(channel) if introduction.joined is not None else None
        agreement = joined or _negotiate(peer, channel, introduction, deadline)
        peer.agree(agreement)
        if agreement.greeting and joined is None:
            peer.notify(agreement.greeting, None, deadline)
        channel.agreed(agreement.era, deadline)
        if joined is None and introduction.version in (None, introduction.expected):  # else it was not found out
            _remember(channel.origin, agreement.era.version)
        channel.feed.emit(Connected(peer.name, agreement.era.version))
    except BaseException as error:
        _remember(channel.origin, None)
        whole.close(Deadline(max(CLOSE_LATE_SECONDS, min(closing_time(error), deadline.remaining))))
        if isinstance(error, MCPError):
            phase = "closed" if error.details.get("phase") == "closed" else "connect"  # we ended it: that is final
            raise error.about("cannot connect", may_have_run=False, phase=phase) from error.__cause__
        raise
    finally:
        if done is not None:
            done()
    return peer


def closing_time(error: BaseException) -> float:
    """Return how many seconds closing may take after this."""
    return CLOSE_SECONDS if isinstance(error, Exception) else INTERRUPTED_SECONDS


def _remember(origin: str, version: str | None) -> None:
    _spoken.pop(origin, None)
    if origin and version:
        _spoken[origin] = version
        while len(_spoken) > KNOWN_ORIGINS:
            _spoken.pop(next(iter(_spoken)), None)


def _negotiate(peer: Peer, channel: Channel, introduction: Introduction, deadline: Deadline) -> Agreement:
    expected = introduction.expected or _spoken.get(channel.origin)
    talk = negotiate(introduction.identity, introduction.version, expected)
    ask = next(talk)
    while True:
        answer = _put(peer, ask, deadline, channel.in_order)
        try:
            ask = talk.send(answer)
        except StopIteration as end:
            agreement: Agreement = end.value
            return agreement


def _put(peer: Peer, ask: Ask, deadline: Deadline, silence_tells: bool) -> Answer:
    """Put one question; an error that tells something about the other side's era is an answer."""
    impatient = ask.probe and silence_tells
    patience = deadline.sooner(min(deadline.limit * PROBE_SHARE, PROBE_SECONDS)) if impatient else deadline
    question: Question[Any] = Question(ask.method, ask.params)
    try:
        return peer.call(question, patience)
    except (JSONRPCError, RemoteProtocolError) as error:
        return error
    except MCPTimeoutError as error:
        if not silence_tells:
            raise
        return error
    except HTTPStatusError as error:
        if error.status not in TELLING_STATUSES:
            raise
        return error
