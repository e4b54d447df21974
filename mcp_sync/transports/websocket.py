"""WebSocket: a server at a ``ws://`` or ``wss://`` URL, of either era.

No revision of MCP defines this binding. It follows the rules of stdio, as the specification asks of custom transports:
one JSON-RPC message to a text message, in both directions at any time; a call is cancelled by a notification; nothing
is repeated in headers. The subprotocol is ``mcp``, and credentials are sent in ``Authorization``, as the official SDKs
of version 1 did.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict
from urllib.parse import quote

from ..deadlines import Deadline
from ..engine.channel import EVENTS_SECONDS, Channel, PipeChannel
from ..engine.dispatch import Lane
from ..exceptions import (
    HTTPStatusError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTransportError,
)
from ..observe import Feed, Trouble
from ..policies import (
    Breaker,
    Detours,
    Keepalive,
    Limits,
    Packing,
    Reconnect,
    Retry,
    SocketBuffers,
    gather,
    with_knobs,
)
from ..protocol.origins import Origin, allowed, check_url, origin_of, resolve, same_origin, without_userinfo
from ..protocol.redact import redact_url
from .network import NetworkTransport
from .passport import (
    Passport,
    basic,
    checked_auth,
    checked_headers,
    checked_provider,
    forms,
    hide,
    secrets_in_query,
)
from .secure import authorities, certificate, checked_context, in_words, tls_context
from .transport import CLOSE_SECONDS

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .lines import Line
    from .upgrade import Declined, Upgraded

WEBSOCKET_KINDS = (Limits, Keepalive, SocketBuffers, Packing, Detours, Retry, Breaker, Reconnect)

SCHEMES = ("ws", "wss")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
KEPT_IN_TARGETS = "%/:=&?~+!$,;'@()*[]"
OURS = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})
"""Headers that the upgrade itself is made of, beside ``Sec-WebSocket-...``."""


class WebSocketKnobs(TypedDict, total=False):
    """Keywords of WebSocketTransport beside those in its signature."""

    max_message_size: int
    max_pending_messages: int
    max_backlog: int
    max_concurrent_callbacks: int
    ping_interval: float | None
    ping_timeout: float | None
    send_buffer_size: int | None
    receive_buffer_size: int | None
    enable_compression: bool
    compression_threshold: int
    compression_level: int
    trust_env: bool
    validate_origin: bool
    allowed_origins: Sequence[str]
    max_redirects: int
    max_retries: int
    retry_delay: float
    retry_backoff_multiplier: float
    max_retry_delay: float
    retry_jitter: float
    retry_on_status_codes: Sequence[int]
    retry_on_exceptions: Sequence[type[MCPError]]
    circuit_breaker_enabled: bool
    circuit_breaker_threshold: int
    circuit_breaker_timeout: float
    reconnect_interval: float
    max_reconnects: int


@with_knobs(*WEBSOCKET_KINDS)
class WebSocketTransport(NetworkTransport):
    """Reaches a server over one WebSocket.

    One deadline covers looking up the host, connecting, TLS and the upgrade. Then one thread reads; whoever calls
    writes. A server that is silent is asked whether it is there (``ping_interval``), so one that is gone without a
    word is noticed within ``ping_interval`` and ``ping_timeout``. The next call after the end of a connection makes a
    new one (``max_reconnects``).

    POSIX only so far: the reader polls a pipe, which Windows cannot.

    Args:
        url: ``ws://`` or ``wss://``; user and password in it are sent as Basic credentials.
        headers: Headers for the upgrade.
        custom_headers: Likewise; they win.
        subprotocols: What we offer to speak, the best first. The server has to choose one. None are offered where this
            is empty, and none may be chosen.
        auth_header: The value of ``Authorization``.
        auth_provider: Has ``headers()``, and ``refresh()``, which is called once when the server answers 401
            (``mcp_sync.credentials``).
        verify_ssl: Whether to check the server's certificate; or a file or folder with the authorities to trust.
        ssl_context: A whole TLS context, in place of ``verify_ssl`` and ``cert``.
        cert: Our own certificate: a file with certificate and key, or a pair of files.
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        policies: Policies given whole, in place of the keywords below.
        **knobs: Their meaning stands in ``mcp_sync.policies``: ``max_message_size`` and its like (Limits);
            ``ping_interval``, ``ping_timeout`` (Keepalive); ``send_buffer_size``, ``receive_buffer_size``
            (SocketBuffers); ``enable_compression``, ``compression_threshold``, ``compression_level`` (Packing);
            ``trust_env``, ``validate_origin``, ``allowed_origins``, ``max_redirects``: through which proxies, and to
            which other servers a redirect may lead (Detours); ``max_retries``, ``retry_delay``,
            ``retry_backoff_multiplier``, ``max_retry_delay``, ``retry_jitter``, ``retry_on_status_codes``,
            ``retry_on_exceptions`` (Retry); ``circuit_breaker_enabled``, ``circuit_breaker_threshold``,
            ``circuit_breaker_timeout`` (Breaker); ``reconnect_interval``, ``max_reconnects`` (Reconnect).

    Raises:
        TypeError: A keyword is misspelt or foreign, or a value has the wrong type.
        ValueError: A value is out of range, or the URL is none.
    """

    transport_type: ClassVar[str] = "websocket"

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        custom_headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = ("mcp",),
        auth_header: str | None = None,
        auth_provider: Any = None,
        verify_ssl: bool | str | os.PathLike[str] = True,
        ssl_context: ssl.SSLContext | None = None,
        cert: str | Sequence[str] | None = None,
        timeout: float | None = None,
        policies: Sequence[Any] | None = None,
        **knobs: Unpack[WebSocketKnobs],
    ) -> None:
        super().__init__(timeout, gather(type(self), WEBSOCKET_KINDS, policies, knobs))
        self.url, user, password = without_userinfo(check_url(url, SCHEMES))
        userinfo = None if user is None else (user, password or "")
        given = {**_headers("headers", headers), **_headers("custom_headers", custom_headers)}
        self._passport = Passport(given, checked_auth(auth_header), checked_provider(auth_provider), userinfo)
        self.subprotocols = _subprotocols(subprotocols)
        self._verify = authorities(verify_ssl)
        self._context = checked_context(ssl_context)
        self._cert = certificate(cert)

    @property
    def name(self) -> str:
        """The URL, without secrets."""
        return redact_url(self.url)

    def dial(self, deadline: Deadline) -> Channel:
        """Connect, and make a WebSocket of the connection.

        Raises:
            MCPConnectionError: The server cannot be reached, or hung up.
            MCPTimeoutError: Not by the deadline.
            HTTPStatusError: The server declined; AuthError, RateLimited, ServerError among them.
            RemoteProtocolError: What it answered makes no WebSocket, or one of another subprotocol.
            MCPTransportError: Not on this platform.
        """
        if sys.platform == "win32":
            raise MCPTransportError("WebSocket is not supported on Windows yet", may_have_run=False)
        try:
            line, given = self._open(deadline)
        except MCPError as error:
            from .errands import trouble

            self._tell(Trouble(self.name, trouble(error) or "connection_lost", dict(error.details)))
            raise
        return self._channel_over(line, given)

    def _tell(self, event: Trouble) -> None:
        """Tell observers of what happened where there is no connection."""
        lane = Lane(f"mcp-{self.transport_type}-events", grace=EVENTS_SECONDS)
        Feed(self._observers, lane.offer).emit(event)
        lane.close(Deadline(CLOSE_SECONDS))

    def _channel_over(self, line: Line, given: Upgraded) -> Channel:
        from .framed import WebSocketPipe

        policies = self._policies
        limits = policies[Limits]
        threads = f"websocket-{origin_of(self.url).port}"
        try:
            pipe = WebSocketPipe(
                line,
                given,
                self.name,
                limits.message_size,
                policies[Keepalive],
                policies[Packing],
                threads,
                partial(_shown_to, self._passport, self.url),
            )
        except BaseException as error:
            line.close(rudely=True)
            if isinstance(error, OSError):  # too many open files, most likely
                raise _unreachable(error, self.name) from error
            raise
        channel = PipeChannel(pipe, limits, self._observers, threads=threads)
        channel.origin = self.name
        pipe.feed = channel.feed
        return channel

    # -- the upgrade, and what may come instead -----------------------------------------------------------------------

    def _open(self, deadline: Deadline) -> tuple[Line, Upgraded]:
        from .upgrade import Declined

        url, renewed, hops = self.url, False, 0
        while True:
            generation = self._passport.generation
            try:
                return self._attempt(url, deadline)
            except Declined as declined:
                answer = declined
            if answer.status == 401 and not renewed and self._passport.renew(generation, deadline):
                renewed = True
            elif answer.status in REDIRECTS and "location" in answer.headers:
                hops += 1
                if hops > self._policies[Detours].redirects:
                    raise _declined(url, answer, "too many redirects (max_redirects)", self._passport.secrets)
                url = self._followed(url, answer)
            else:
                raise _declined(url, answer, secrets=self._passport.secrets)

    def _attempt(self, url: str, deadline: Deadline) -> tuple[Line, Upgraded]:
        """Return a connection that was made a WebSocket; raises Declined where the server answered otherwise."""
        from .upgrade import upgrade

        shown = redact_url(url)
        try:
            line = self._reach(url, deadline)
            try:
                return line, upgrade(line, self._offer(url), deadline)
            except BaseException:
                line.close(rudely=True)
                raise
        except MCPError as error:
            about = error.about(f"cannot connect to {shown}", may_have_run=False, url=shown, phase="connect")
            raise about from error.__cause__
        except (OSError, UnicodeError) as error:
            raise _unreachable(error, shown) from error

    def _reach(self, url: str, deadline: Deadline) -> Line:
        """Return a connection to the server, by way of a proxy where there is one, and with TLS where it has to be."""
        from .lines import SecureLine, connect

        origin, proxy = origin_of(url), self._proxy_for(url)
        if proxy is None:
            line = connect(origin, self._policies[SocketBuffers], deadline)
        else:
            line = self._through(proxy, origin, deadline)
        if origin.scheme != "wss":
            return line
        try:
            secured = SecureLine(line, self._tls(), origin.host)
            secured.shake_hands(deadline)
            return secured
        except BaseException:
            line.close(rudely=True)
            raise

    def _proxy_for(self, url: str) -> str | None:
        """Return the URL of the proxy that the environment names for a server, if it may be asked and does."""
        if not self._policies[Detours].environment:
            return None
        from .web import proxies_for

        as_http = url.replace("ws", "http", 1)
        found = proxies_for(as_http)
        return found.get(as_http.partition("://")[0]) or found.get("all")

    def _through(self, proxy: str, origin: Origin, deadline: Deadline) -> Line:
        from .lines import connect
        from .upgrade import Declined, tunnel

        try:
            bare, user, password = without_userinfo(check_url(proxy, ("http",), "the proxy"))
        except ValueError as flaw:
            raise LocalProtocolError(f"{flaw} (trust_env)", may_have_run=False) from None
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        try:
            line = connect(origin_of(bare), self._policies[SocketBuffers], deadline)
        except OSError as error:
            if isinstance(error, MCPError):
                raise
            raise _unreachable(error, f"the proxy {redact_url(bare)}") from error
        try:
            tunnel(line, f"{host}:{origin.port}", None if user is None else basic(user, password or ""), deadline)
            return line
        except BaseException as error:
            line.close(rudely=True)
            if isinstance(error, Declined):
                raise _declined(bare, error, "the proxy does not lead on") from None
            raise

    def _tls(self) -> ssl.SSLContext:
        if self._context is not None:
            return self._context
        return tls_context(self._verify, self._cert)

    def _offer(self, url: str) -> Any:
        from .. import __version__
        from .upgrade import Offer

        headers = self._passport.headers() if same_origin(url, self.url) else {}
        headers.setdefault("User-Agent", f"mcp-sync/{__version__}")
        origin = origin_of(url)
        ascii_url = f"{origin}{quote(_target(url), safe=KEPT_IN_TARGETS)}"
        return Offer(
            ascii_url, str(origin).partition("://")[2], headers, self.subprotocols, self._policies[Packing].on
        )

    def _followed(self, url: str, answer: Declined) -> str:
        """Return where a redirect leads, if we go there."""
        detours = self._policies[Detours]
        try:
            target, user, _ = without_userinfo(_as_ws(resolve(url, answer.headers["location"])))
        except ValueError:
            raise _declined(url, answer, "the redirect leads nowhere", self._passport.secrets) from None
        downgrade = origin_of(url).scheme == "wss" and origin_of(target).scheme != "wss"
        elsewhere = detours.check_origin and not allowed(target, self.url, [_as_ws(one) for one in detours.origins])
        if downgrade or user or elsewhere:
            why = f"we do not follow a redirect to {redact_url(target)} (allowed_origins)"
            raise _declined(url, answer, why, self._passport.secrets)
        return target


def _as_ws(url: str) -> str:
    """Return a URL whose scheme is one of ours; a redirect may name those of HTTP."""
    scheme, colon, rest = url.partition("://")
    return {"http": "ws", "https": "wss"}.get(scheme.lower(), scheme) + colon + rest


def _target(url: str) -> str:
    """Return path and query of a URL, as they are asked for."""
    rest = url.partition("://")[2]
    found = re.search(r"[/?]", rest)
    target = rest[found.start() :] if found else "/"
    return target if target.startswith("/") else f"/{target}"


def _declined(url: str, answer: Declined, why: str = "", secrets: Iterable[str] = ()) -> HTTPStatusError:
    """Return the error for an answer that is no upgrade: its status, the beginning of its body, what may help."""
    from .errands import status_error

    headers = {"Retry-After": answer.headers.get("retry-after"), "Content-Type": answer.headers.get("content-type", "")}
    told = {*secrets, *secrets_in_query(url)}
    reply: Any = SimpleNamespace(status=answer.status, headers=headers, url=url, told=lambda: told, secrets=())
    error = status_error(reply, answer.body)
    return hide(error.about(why or "no WebSocket", may_have_run=False, phase="connect"), forms(told))


def _shown_to(passport: Passport, url: str) -> set[str]:
    """Return what a server was shown that is secret; it keeps no transport alive."""
    return passport.secrets | forms(secrets_in_query(url))


def _unreachable(error: Exception, shown: str) -> MCPConnectionError:
    """Return the error for what kept a connection from being made; the text says what to try."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLCertVerificationError):
        text = f"TLS with {shown} failed: {error.reason or type(error).__name__}; does the server speak wss?"
    else:
        _, text = in_words(error, shown)
    broken = MCPConnectionError(text, details={"url": shown, "phase": "connect"}, may_have_run=False)
    broken.__cause__ = error
    return broken


# -- what users hand over ---------------------------------------------------------------------------------------------


def _headers(name: str, headers: object) -> dict[str, str]:
    found = checked_headers(name, headers)
    for key in found:
        if key.lower() in OURS or key.lower().startswith("sec-websocket-"):
            hint = "; see subprotocols" if key.lower() == "sec-websocket-protocol" else ""
            raise ValueError(f"{name}: {key} is for the upgrade itself to say{hint}")
    return found


def _subprotocols(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"subprotocols must be a list of str, not {type(value).__name__} ({value!r})")
    for one in value:
        if not isinstance(one, str):
            raise TypeError(f"subprotocols must hold only str, not {type(one).__name__} ({one!r})")
        if not one or not one.isascii() or not all(sign.isalnum() or sign in "!#$%&'*+-.^_`|~" for sign in one):
            raise ValueError(f"subprotocols: {one!r} is no name of a subprotocol (RFC 9110, 5.6.2: a token)")
    return tuple(value)
