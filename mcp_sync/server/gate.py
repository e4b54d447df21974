"""Gate: what every HTTP request passes before any application code runs: Host and Origin, who it is, how large it is.

Source: basic/transports (security), basic/authorization (401), RFC 9110, PEP 3333.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

from ..credentials import Authenticator
from ..deadlines import Deadline
from ..engine.dispatch import reaper
from ..policies import flag, optional, whole
from ..protocol.admission import Refusal
from ..protocol.messages import INVALID_REQUEST, encode
from ..protocol.origins import is_loopback
from .hosts import cut_off, threads_of
from .security import TransportSecuritySettings

log = logging.getLogger("mcp_sync")

BODY_SECONDS = 30.0
"""How long a body may take to arrive, as far as the host lets us see it."""
READ_BYTES = 1 << 16
STREAM_SHARE = 0.8
"""Of the host's threads; the rest is for ordinary calls."""
UNKNOWN_THREADS = 40
"""How many threads a host is taken to have that does not say; development servers have as many as they want."""


class StartResponse(Protocol):
    """What a WSGI application begins its response with (PEP 3333)."""

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> object:
        """Take the status and the headers."""


@dataclass(frozen=True)
class Visitor:
    """A request that has passed.

    Attributes:
        environ: The WSGI environment.
        headers: Its headers, names in lower case.
        principal: Who it is, where that is asked.
        authenticator: Who said so; None where nobody was asked.
    """

    environ: Mapping[str, Any]
    headers: Mapping[str, str] = field(repr=False)
    principal: str | None
    authenticator: Authenticator | None = None

    @property
    def client(self) -> str:
        """Whose share of what there is it takes: a principal's, or an address's; "" is nobody's in particular.

        A proxy on this machine brings everybody, so a loopback address tells nothing.
        """
        address = str(self.environ.get("REMOTE_ADDR", ""))
        return self.principal or ("" if not address or is_loopback(address) else f"address {address}")

    def is_welcome(self) -> bool:
        """Tell whether its credentials are still in force; a stream may outlive them."""
        if self.authenticator is None:
            return True
        try:
            return self.authenticator.authenticate(self.headers) == self.principal
        except Exception:
            log.exception("the credentials of an open stream cannot be checked; it ends")
            return False


class Gate:
    """What a request has to pass.

    Args:
        authenticator: Says who it is; None asks nobody.
        identify: Says who it is by the WSGI environment: what a framework in front has found out.
        login_required: Whether somebody whom neither of them knows is turned away.
        security: Which Hosts and Origins are allowed.
        max_body_size: Bytes.
        max_streams: How many streams may be open at once; None: 80 % of the host's threads.
        threads: How many threads the host has; None: what it says itself.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        authenticator: Authenticator | None,
        identify: Callable[[Mapping[str, Any]], str | None] | None,
        login_required: bool,
        security: TransportSecuritySettings,
        *,
        max_body_size: int,
        max_streams: int | None,
        threads: int | None,
    ) -> None:
        if authenticator is not None and not callable(getattr(authenticator, "authenticate", None)):
            kind = type(authenticator).__name__
            raise TypeError(f"auth must have a method authenticate(headers), which {kind} has not")
        self._authenticator = authenticator
        self._identify = identify
        self._login_required = flag("login_required", login_required) or authenticator is not None
        self._security = security
        self._max_body_size = whole(1024)("max_body_size", max_body_size)
        self._max_streams: int | None = optional(whole(0))("max_streams", max_streams)
        self._threads: int | None = optional(whole(1))("threads", threads)

    def admit(self, environ: Mapping[str, Any]) -> Visitor | Refusal:
        """Return who came, or why they may not."""
        refusal = self._security.check(environ)
        if refusal is not None:
            return refusal
        headers = headers_of(environ)
        principal = None if self._identify is None else self._identify(environ)
        asked = self._authenticator if principal is None else None
        if asked is not None:
            principal = asked.authenticate(headers)
        if principal is None and self._login_required:
            challenge = (("WWW-Authenticate", challenge_of(self._authenticator)),)
            return Refusal(401, INVALID_REQUEST, "missing or wrong credentials", headers=challenge)
        return Visitor(environ, headers, principal, asked)

    def body_of(self, visitor: Visitor) -> bytes | Refusal:
        """Return the whole body, or why it is not taken."""
        announced = visitor.headers.get("content-length", "")
        if announced and not (announced.isascii() and announced.isdigit() and len(announced) < 19):
            return Refusal(400, INVALID_REQUEST, "Content-Length is no number")
        if announced and int(announced) > self._max_body_size:
            return self._too_large()
        if not announced and not visitor.environ.get("wsgi.input_terminated"):
            if "transfer-encoding" in visitor.headers:
                return Refusal(411, INVALID_REQUEST, "this host needs a Content-Length")
            return b""
        return self._read(visitor.environ["wsgi.input"], int(announced) if announced else None, visitor.environ)

    def _read(self, source: Any, length: int | None, environ: Mapping[str, Any]) -> bytes | Refusal:
        deadline = Deadline(BODY_SECONDS)
        if length is not None and length < READ_BYTES and "waitress.client_disconnected" in environ:
            return self._pieces(source, length, deadline)  # it is all there already
        alarm = reaper.at(deadline, lambda: cut_off(environ))  # a read may wait for as long as bytes drip in
        try:
            return self._pieces(source, length, deadline)
        except OSError:
            return Refusal(408 if deadline.expired else 400, INVALID_REQUEST, "the body did not arrive")
        finally:
            reaper.call_off(alarm)

    def _pieces(self, source: Any, length: int | None, deadline: Deadline) -> bytes | Refusal:
        pieces: list[bytes] = []
        total = 0
        while length is None or total < length:
            piece = source.read(READ_BYTES if length is None else min(READ_BYTES, length - total))
            if not piece:
                break
            total += len(piece)
            if total > self._max_body_size:
                return self._too_large()
            if deadline.expired:
                return Refusal(408, INVALID_REQUEST, "the body took too long")
            pieces.append(piece)
        if length is not None and total < length:
            return Refusal(400, INVALID_REQUEST, "the body is shorter than its Content-Length")
        return b"".join(pieces)

    def _too_large(self) -> Refusal:
        return Refusal(413, INVALID_REQUEST, f"the body has more than {self._max_body_size} bytes")

    def most_streams(self, environ: Mapping[str, Any], start_response: object) -> int:
        """Return how many streams may be open at once under this host."""
        if self._max_streams is not None:
            return self._max_streams
        threads = self._threads or threads_of(environ, start_response) or UNKNOWN_THREADS
        return int(threads * STREAM_SHARE)


def challenge_of(authenticator: Authenticator | None) -> str:
    """Return what a refusal of theirs says in ``WWW-Authenticate``."""
    return str(getattr(authenticator, "challenge", "Bearer"))


def headers_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a request, names in lower case, blanks at the ends of values taken off (RFC 9110, 5.5)."""
    mirrored = ((key[5:], value) for key, value in environ.items() if key.startswith("HTTP_"))
    found = {key.replace("_", "-").lower(): value.strip(" \t") for key, value in mirrored}
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(key):
            found[key.replace("_", "-").lower()] = str(environ[key]).strip(" \t")
    return found


def respond(
    start_response: StartResponse, status: int, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
) -> Iterable[bytes]:
    """Begin and return a whole response."""
    own = [("Content-Length", str(len(body)))] if status not in (204, 304) else []
    kind = [("Content-Type", "application/json")] if body else []
    start_response(f"{status} {HTTPStatus(status).phrase}", [*kind, *own, *headers])
    return [body] if body else []


def refuse(start_response: StartResponse, refusal: Refusal) -> Iterable[bytes]:
    """Begin and return the response to a request that is not taken."""
    return respond(start_response, refusal.status, encode(refusal.as_failure()), refusal.headers)


def security_of(
    security: TransportSecuritySettings | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
) -> TransportSecuritySettings:
    """Return which Hosts and Origins are allowed: as a whole, or by two lists.

    Raises:
        TypeError: Both are given, or something is of the wrong type.
        ValueError: An entry means nothing.
    """
    if security is None:
        return TransportSecuritySettings(allowed_hosts=allowed_hosts, allowed_origins=allowed_origins)
    if allowed_hosts or allowed_origins:
        raise TypeError("give allowed_hosts and allowed_origins to TransportSecuritySettings, or without security=")
    return security
