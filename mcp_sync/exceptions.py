"""Every error that this package raises: one root, and attributes instead of parsing of text.

::

    MCPError                                .details .may_have_run
      JSONRPCError(code, message, data)     the other side answered with an error
      ToolError                             raise_for_error() on a result whose is_error is true
      MCPTransportError
        MCPConnectionError                  it never started, or stopped before the answer
          ForkedClientError                 this process is a fork of the one that connected
          SessionExpired                    the server has forgotten the session; it did not run the request
          ClosedByServer(.code, .reason)    the server closed a WebSocket, with a code
          AllTransportsFailed(.causes)      of several endpoints none could answer
        MCPTimeoutError (TimeoutError)      the deadline passed
        HTTPStatusError(.status)            an HTTP status that is an error, or makes no sense there
          AuthError                         401, 403, 407
          RateLimited(.retry_after)         429
          ServerError(.retry_after)         5xx
        MessageTooLarge                     names the limit, in either direction
      Refused                               one of our own limits said no; nothing was sent
        TooManyRequests
        CircuitOpen(.retry_after)           the server failed too often, and is left alone for a while
        NoEndpoint                          no endpoint has what is wanted
      ProtocolError
        LocalProtocolError                  we were asked to say something the protocol forbids
        RemoteProtocolError                 the other side said something the protocol forbids

``details`` is a plain dict of what is known: ``transport``, ``server``, ``method``, ``phase`` (connect, send, wait,
parse), ``elapsed`` and ``limit`` in seconds, ``exit_status``, ``stderr``; over HTTP ``url`` (without secrets),
``status``, ``content_type`` and ``body``, the beginning of what came; of a WebSocket ``code`` and ``reason`` of its
close. ``may_have_run`` answers "is a repeat safe?": False (nothing of the request left this process), True (the server
answered), None (nobody can know).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self


E = TypeVar("E", bound="MCPError")


def _rebuild(cls: type[E], args: tuple[Any, ...], state: dict[str, Any]) -> E:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class MCPError(Exception):
    """The root of every error of this package; catch it to catch them all.

    Args:
        message: What happened and what to try.
        details: What is known, as a plain dict (module docstring).
        may_have_run: Whether the request may have taken effect: True, False, or None for unknown.
    """

    def __init__(
        self, message: str = "", *, details: Mapping[str, Any] | None = None, may_have_run: bool | None = None
    ) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = dict(details or {})
        self.may_have_run = may_have_run

    def __str__(self) -> str:
        """Return what happened; control characters, which may be the other side's, are written out."""
        return printable(self._text())

    def _text(self) -> str:
        return super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)

    def about(self, note: str, *, may_have_run: bool | None, **details: Any) -> Self:
        """Return a copy of this error for one call: each caller gets an instance of its own.

        Args:
            note: What the call was; it goes in front of the text.
            may_have_run: Whether that call may have taken effect.
            **details: Added to the details.
        """
        text = f"{note}: {self.args[0]}" if note else self.args[0]
        state = {**self.__dict__, "details": {**self.details, **details}, "may_have_run": may_have_run}
        copy = _rebuild(type(self), (text,), state)  # not by the constructor: those of subclasses want other things
        copy.__cause__ = self.__cause__
        return copy


class JSONRPCError(MCPError):
    """The other side answered a request with a JSON-RPC error object (JSON-RPC 2.0, section 5.1).

    Raise it in a callback to answer the server with this very error.

    Args:
        code: The error code; -32700 to -32603 are JSON-RPC's own, -32020 to -32099 the protocol's.
        message: One sentence for people.
        data: Any JSON value that the sender added, or None.
        method: The method that was asked, where it is known.
    """

    def __init__(self, code: int, message: str, data: Any = None, *, method: str | None = None) -> None:
        super().__init__(message, may_have_run=True)
        self.code = code
        self.message = message
        self.data = data
        self.method = method

    def _text(self) -> str:
        asked = f"{self.method}: " if self.method else ""
        extra = "" if self.data is None else f", data {_short(self.data)}"
        return f"{asked}{self.args[0]} (JSON-RPC error {self.code}{extra})"


class ToolError(MCPError):
    """A tool ran and reported failure (``is_error``); raised by ``ToolResult.raise_for_error()``.

    Attributes:
        tool: The tool's name, where it is known.
        result: The whole ToolResult.
    """

    def __init__(self, message: str, *, tool: str | None = None, result: Any = None) -> None:
        super().__init__(message, may_have_run=True)
        self.tool = tool
        self.result = result

    def _text(self) -> str:
        named = f"tool {self.tool!r}" if self.tool else "the tool"
        return f"{named} reported an error: {self.args[0]}"


class MCPTransportError(MCPError):
    """Something between us and the other side failed."""


class MCPConnectionError(MCPTransportError):
    """The connection could not be made, or ended before the answer came."""


class ForkedClientError(MCPConnectionError):
    """The connection belongs to the process that this one was forked from.

    A Client dials anew by itself; a bare session or transport must be made again in the child.
    """


class SessionExpired(MCPConnectionError):
    """The server has forgotten the session (HTTP 404), and did not run the request: ``may_have_run`` is False."""


class ClosedByServer(MCPConnectionError):
    """The server closed a WebSocket.

    Args:
        message: What happened and what to try.
        code: Why: a number (RFC 6455, 7.4), such as 1001: it is going away; 1008: a policy of its; 1011: it failed;
            1012: it restarts; 1013: later, please; those from 3000 on are the server's own.
        reason: Why, in its own words; perhaps empty.
        details: As MCPError.
        may_have_run: As MCPError.
    """

    def __init__(
        self,
        message: str,
        code: int,
        reason: str = "",
        *,
        details: Mapping[str, Any] | None = None,
        may_have_run: bool | None = None,
    ) -> None:
        super().__init__(message, details=details, may_have_run=may_have_run)
        self.code = code
        self.reason = reason


class AllTransportsFailed(MCPConnectionError):
    """Of several endpoints that are alternatives of each other, none could answer.

    Args:
        message: What was asked; what each said is added to the text.
        causes: By the name of the endpoint, why it could not.
        details: As MCPError.
        may_have_run: As MCPError, of all attempts together.
    """

    def __init__(
        self,
        message: str,
        causes: Mapping[str, MCPError],
        *,
        details: Mapping[str, Any] | None = None,
        may_have_run: bool | None = None,
    ) -> None:
        told = "; ".join(f"{name}: {_short_text(str(cause))}" for name, cause in causes.items())
        super().__init__(f"{message}: {told}", details=details, may_have_run=may_have_run)
        self.causes = dict(causes)


class MCPTimeoutError(MCPTransportError, TimeoutError):
    """The deadline passed; ``details`` has ``elapsed`` and ``limit`` in seconds."""


class HTTPStatusError(MCPTransportError):
    """A reply whose HTTP status is an error, or makes no sense there.

    Args:
        message: What happened and what to try.
        status: The HTTP status.
        retry_after: Seconds after which the server wants to be asked again, if it said so (RFC 9110, section 10.2.3).
        details: As MCPError.
        may_have_run: As MCPError.
    """

    def __init__(
        self,
        message: str,
        status: int,
        retry_after: float | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        may_have_run: bool | None = None,
    ) -> None:
        super().__init__(message, details=details, may_have_run=may_have_run)
        self.status = status
        self.retry_after = retry_after


class AuthError(HTTPStatusError):
    """The server, or a proxy, does not accept the credentials: 401, 403, 407."""


class RateLimited(HTTPStatusError):
    """The server has been asked too often: 429; ``retry_after`` has seconds, where it said."""


class ServerError(HTTPStatusError):
    """Something is wrong on the server, or on the way to it: 5xx."""


class MessageTooLarge(MCPTransportError):
    """A message is longer than ``max_message_size`` bytes; ``details`` has ``limit`` and ``size`` where known."""


class Refused(MCPError):
    """One of our own limits said no; nothing was sent."""


class TooManyRequests(Refused):
    """More requests are in flight than the limit allows."""


class CircuitOpen(Refused):
    """The server failed too often, and is left alone until ``retry_after`` seconds have passed.

    Args:
        message: What happened.
        retry_after: Seconds.
        details: As MCPError.
    """

    def __init__(self, message: str, retry_after: float, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, details=details, may_have_run=False)
        self.retry_after = retry_after


class NoEndpoint(Refused):
    """No endpoint is there that has what is wanted; nothing was sent."""


class ProtocolError(MCPError):
    """Something was said that the protocol forbids."""


class LocalProtocolError(ProtocolError):
    """We were asked to say something that the protocol forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side said something that the protocol forbids."""


def printable(text: str, kept: str = "\n\t") -> str:
    """Return a text that no terminal takes orders from: what is not printable is written out, but for what is kept."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in kept else one.encode("unicode_escape").decode() for one in text)


def _short(value: Any, limit: int = 200) -> str:
    return _short_text(repr(value), limit)


def _short_text(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
