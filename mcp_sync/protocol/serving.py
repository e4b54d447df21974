"""The bookkeeping of a conversation as the side keeps it that is asked: a Session for servers. Pure.

Both eras share one connection: a request that brings its own metadata is of the stateless era, whatever came before
it; all others belong to what ``initialize`` began (basic/versioning: a server may serve both at once).

Source: JSON-RPC 2.0, sections 4 and 5; basic/index; basic/versioning; FAULTS of a server: one answer for each id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from . import session as effects
from .eras import VERSION_KEY
from .messages import INVALID_REQUEST, PARSE_ERROR, Failure, Malformed, Message, Request, Result
from .session import Session

T = TypeVar("T")


def envelope_of(params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the metadata that makes a request one of the stateless era, or None."""
    meta = params.get("_meta") if params else None
    return meta if isinstance(meta, Mapping) and VERSION_KEY in meta else None


class ServerSession(Session[T]):
    """Who owes whom an answer, on a server: what cannot be read is answered, too."""

    def _malformed(self, message: Message) -> effects.Effect:
        if not isinstance(message, Malformed) or message.answers in self._pending:
            return super()._malformed(message)
        self.counters.parse_errors += 1
        if message.asks is not None and message.asks in self._serving:
            return effects.Dropped("an unreadable request with the id of one that is being answered", message)
        shaped = message.parsed or message.too_large
        return effects.Reply(Failure(message.asks, INVALID_REQUEST if shaped else PARSE_ERROR, message.reason))

    def _request(self, message: Request) -> effects.Effect:
        self.counters.requests_received += 1
        if message.id in self._serving:  # to answer it under its id would answer the one before it
            self.counters.requests_refused += 1
            text = f"the id {message.id!r:.80} is that of a request which is still being answered"
            return effects.Reply(Failure(None, INVALID_REQUEST, text))
        if message.method == "ping" and envelope_of(message.params) is None:
            return effects.Reply(Result(message.id, {}))
        self._serving.add(message.id)
        return effects.Serve(message)
