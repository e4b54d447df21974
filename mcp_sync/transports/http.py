"""Streamable HTTP: a server at a URL, of either era (basic/transports; basic/transports/streamable-http)."""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from ..deadlines import Deadline, as_timeout
from ..engine.caller import Caller
from ..engine.channel import Channel
from ..engine.connect import Introduction, closing_time, spoken
from ..exceptions import HTTPStatusError, MCPConnectionError, MCPError
from ..policies import (
    Breaker,
    Connections,
    Heartbeat,
    Limits,
    Packing,
    Reconnect,
    Replies,
    Retry,
    Sessions,
    Trust,
    gather,
    with_knobs,
)
from ..protocol.eras import HANDSHAKE_VERSIONS, Handshake
from ..protocol.headers import Mirror, session_id_flaw
from ..protocol.negotiation import Agreement
from ..protocol.origins import check_url, join_url, without_userinfo
from ..protocol.redact import redact_url
from .keeping import SessionKeeper
from .network import NetworkTransport
from .passport import Passport, checked_auth, checked_headers, checked_provider
from .secure import authorities, certificate, checked_context
from .transport import CLOSE_SECONDS

if TYPE_CHECKING:
    import requests
    from typing_extensions import Unpack

    from .streamable import HttpChannel
    from .transport import _Line

HTTP_KINDS = (Limits, Replies, Connections, Trust, Sessions, Packing, Retry, Breaker, Reconnect)
SSE_KINDS = (Limits, Replies, Connections, Trust, Packing, Retry, Breaker, Reconnect, Heartbeat)
EITHER_KINDS = (*HTTP_KINDS, Heartbeat)

FALLBACK_STATUSES = frozenset({400, 404, 405})
"""By which a server says that it does not know Streamable HTTP (basic/transports, backwards compatibility)."""


class HttpKnobs(TypedDict, total=False):
    """Keywords of the HTTP transports beside those in their signatures."""

    max_message_size: int
    max_pending_messages: int
    max_backlog: int
    max_concurrent_callbacks: int
    max_response_size: int | None
    chunk_size: int
    streaming_threshold: int
    buffer_size: int | None
    validate_content_type: bool
    connection_timeout: float | None
    connection_pool_size: int
    max_connections_per_host: int
    keep_alive_timeout: float
    tcp_nodelay: bool
    tcp_keepalive: bool
    enable_request_pipelining: bool
    max_pipeline_size: int
    trust_env: bool
    validate_origin: bool
    allowed_origins: Sequence[str]
    max_redirects: int
    session_management: bool
    session_timeout: float | None
    max_sessions: int | None
    session_cleanup_interval: float
    enable_compression: bool
    compression_threshold: int
    compression_level: int
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
    heartbeat_interval: float | None


@with_knobs(*HTTP_KINDS)
class StreamableHTTPTransport(NetworkTransport):
    """Reaches a server at a URL by Streamable HTTP. ``HttpTransport`` is another name for it.

    What the server speaks is found out by the first conversation and remembered for the process. A request is one
    POST; the calling thread sends it and reads the reply. One deadline covers looking up the host, connecting, TLS,
    sending, and the reply to its last byte. Nothing is sent twice unless that is safe, see ``max_retries``. Redirects
    are followed on the same origin only, and only those that keep the method (307, 308).

    Args:
        base_url: ``http://`` or ``https://``; user and password in it are sent as Basic credentials.
        endpoint_path: Is added to the base's path, unless that ends so already.
        url: Another name for ``base_url``, without a path to be added.
        headers: Headers for every request.
        custom_headers: Likewise; they win.
        auth_header: The value of ``Authorization``.
        auth_provider: Has ``headers()``, and ``refresh()``, which is called once when the server answers 401
            (``mcp_sync.credentials``).
        session: A ``requests.Session`` to send with: its headers, cookies, auth, hooks, certificates and proxies hold.
            It is not changed. A plain one is given an adapter of ours for our requests. One of a subclass, or with
            adapters of its own, sends itself; then what it does until the head of the reply has come is bounded by the
            timeout for each single read only, and where it follows redirects is its own affair.
        verify_ssl: Whether to check the server's certificate; or a file or folder with the authorities to trust. True
            leaves it to the session, where one is given; so does ``cert``.
        ssl_context: A whole TLS context, in place of ``verify_ssl`` and ``cert``.
        cert: Our own certificate: a file with certificate and key, or a pair of files.
        health_endpoint: The path that ``check_health`` asks.
        session_id: A session of the handshake era that the first conversation goes on with, where another process left
            it: this and the next are what its ``transport.leave_session()`` returned.
        session_version: The protocol version of that session.
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        policies: Policies given whole, in place of the keywords below.
        **knobs: Their meaning stands in ``mcp_sync.policies``: ``max_message_size`` and its like (Limits);
            ``max_response_size``, ``chunk_size``, ``streaming_threshold``, ``buffer_size``, ``validate_content_type``
            (Replies); ``connection_timeout``, ``connection_pool_size``, ``max_connections_per_host``,
            ``keep_alive_timeout``, ``tcp_nodelay``, ``tcp_keepalive``, ``enable_request_pipelining``,
            ``max_pipeline_size`` (Connections); ``trust_env``, ``validate_origin``, ``allowed_origins``,
            ``max_redirects`` (Trust); ``session_management``, ``session_timeout``, ``max_sessions``,
            ``session_cleanup_interval`` (Sessions); ``enable_compression``, ``compression_threshold``,
            ``compression_level`` (Packing); ``max_retries``, ``retry_delay``,
            ``retry_backoff_multiplier``, ``max_retry_delay``,
            ``retry_jitter``, ``retry_on_status_codes``, ``retry_on_exceptions`` (Retry); ``circuit_breaker_enabled``,
            ``circuit_breaker_threshold``, ``circuit_breaker_timeout`` (Breaker).

    Raises:
        TypeError: A keyword is misspelt or foreign, or a value has the wrong type.
        ValueError: A value is out of range, or the URL is none.
    """

    transport_type: ClassVar[str] = "http"
    _kinds: ClassVar[tuple[type[Any], ...]] = HTTP_KINDS

    def __init__(
        self,
        base_url: str | None = None,
        endpoint_path: str = "",
        *,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        custom_headers: Mapping[str, str] | None = None,
        auth_header: str | None = None,
        auth_provider: Any = None,
        session: requests.Session | None = None,
        verify_ssl: bool | str | os.PathLike[str] = True,
        ssl_context: ssl.SSLContext | None = None,
        cert: str | Sequence[str] | None = None,
        health_endpoint: str | None = None,
        session_id: str | None = None,
        session_version: str | None = None,
        timeout: float | None = None,
        policies: Sequence[Any] | None = None,
        **knobs: Unpack[HttpKnobs],
    ) -> None:
        super().__init__(timeout, gather(type(self), self._kinds, policies, knobs))
        whole = _one_url(base_url, url, endpoint_path)
        self.url, user, password = without_userinfo(whole)
        userinfo = None if user is None else (user, password or "")
        given = {**checked_headers("headers", headers), **checked_headers("custom_headers", custom_headers)}
        self._passport = Passport(given, checked_auth(auth_header), checked_provider(auth_provider), userinfo)
        self._session = _checked_session(session)
        self._verify = authorities(verify_ssl)
        self._context = checked_context(ssl_context)
        self._cert = certificate(cert)
        self._health = health_endpoint
        self._mirror = Mirror()
        self._joined = _checked_session_id(session_id, session_version)
        if self._joined is not None and not self._policies[Sessions].on:
            raise ValueError("session_id needs session_management, which is off")
        self._keeper = SessionKeeper(self._policies[Sessions], self.name) if Sessions in self._kinds else None
        self._going_on: weakref.ref[HttpChannel] | None = None
        self._channel: weakref.ref[HttpChannel] | None = None

    @property
    def name(self) -> str:
        """The URL, without secrets."""
        return redact_url(self.url)

    def dial(self, deadline: Deadline) -> Channel:
        """Return a fresh channel; nothing is sent yet."""
        from .streamable import HttpChannel

        joined, self._joined = self._joined, None
        channel = HttpChannel(
            self._web(self.url),
            self._passport,
            self._mirror,
            self._policies,
            self.name,
            self._observers,
            joined,
            self._keeper,
        )
        self._channel = weakref.ref(channel)
        if joined is not None:
            self._going_on = self._channel
        return channel

    def _dial_again(self, deadline: Deadline) -> Channel:
        from .streamable import HttpChannel

        channel = super()._dial_again(deadline)
        if isinstance(channel, HttpChannel):  # it is another with HTTP+SSE
            channel.replaces = True
        return channel

    @property
    def session_id(self) -> str | None:
        """What the server calls the session of the newest connection; None if there is none."""
        channel = self._channel() if self._channel is not None else None
        return channel.session_id or None if channel is not None else None

    @property
    def session_version(self) -> str | None:
        """The protocol version that is spoken in that session."""
        channel = self._channel() if self._channel is not None else None
        return channel.version or None if channel is not None else None

    def leave_session(self) -> dict[str, str]:
        """Leave the session of the newest connection on the server, for another process to go on with.

        It is not ended when this transport is closed, nor when it is idle.

        Returns:
            The keywords for the other transport: ``session_id`` and ``session_version``.

        Raises:
            MCPConnectionError: There is none.
        """
        channel = self._channel() if self._channel is not None else None
        session_id = channel.session_id if channel is not None else ""
        if channel is None or not session_id:
            raise MCPConnectionError(f"{self.name}: there is no session", may_have_run=False)
        channel.leave_session()
        return {"session_id": session_id, "session_version": channel.version}

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation, or go on with one that another process has begun."""
        if self._joined is not None or self._going_on is not None:
            introduction = replace(introduction, joined=self._agreed_before)
        return super().converse(introduction, deadline)

    def _agreed_before(self, channel: Channel) -> Agreement | None:
        """Return what was agreed in the session that a connection goes on with; None: it begins its own."""
        from .streamable import HttpChannel

        going_on = self._going_on() if self._going_on is not None else None
        if channel is not going_on or not isinstance(channel, HttpChannel):
            return None
        return Agreement(Handshake(channel.version))

    def _web(self, url: str) -> Any:
        from .web import Web

        policies = self._policies
        return Web(
            url,
            policies[Connections],
            policies[Trust],
            policies[Replies],
            self._verify,
            self._cert,
            self._context,
            self._session,
        )

    def check_health(self, timeout: float | None = None) -> None:
        """Ask the ``health_endpoint``, which has to answer with a status from 200 to 299.

        Args:
            timeout: Seconds; None means the transport's own.

        Raises:
            ValueError: There is none.
            HTTPStatusError: It answers otherwise.
            MCPConnectionError: It cannot be reached.
            MCPTimeoutError: Not within the timeout.
        """
        from .errands import read_start, status_error

        if self._health is None:
            raise ValueError("this transport was made without a health_endpoint")
        from ..protocol.origins import origin_of

        web = self._web(join_url(str(origin_of(self.url)), self._health))
        try:
            exchange = web.exchange(Deadline(as_timeout(timeout, default=self.timeout)))
            reply = web.send("GET", web.url, self._passport.headers(), None, exchange)
            try:
                if not 200 <= reply.status < 300:
                    raise status_error(reply, read_start(reply))
            finally:
                reply.close()
        finally:
            web.close()


def older_origin(name: str) -> str:
    """Return what a server that is spoken to by HTTP+SSE is remembered by; by another binding it is another."""
    return f"{name} by HTTP+SSE"


@with_knobs(*EITHER_KINDS)
class UrlTransport(StreamableHTTPTransport):
    """Reaches a server at a URL by Streamable HTTP, or by HTTP+SSE where it is that old. What ``Client(url)`` uses."""

    _kinds = EITHER_KINDS
    _older: NetworkTransport | None = None

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation, in the way that the server knows (basic/transports, backwards compatibility)."""
        if self._older is not None:
            return self._older.converse(introduction, deadline)
        line = self._line
        ours = line is not None and not line.over and not line.claimed  # else it is somebody else's conversation
        if spoken(older_origin(self.name)):
            try:
                return self._by_sse(introduction, deadline, ours)
            except HTTPStatusError:
                pass  # it is another server by now
        try:
            return super().converse(introduction, deadline)
        except HTTPStatusError as error:
            if error.status not in FALLBACK_STATUSES:
                raise
            refused = error
        try:
            return self._by_sse(introduction, deadline, ours)
        except MCPError as error:
            if error.details.get("phase") == "closed":
                raise
            raise refused.about("neither by Streamable HTTP nor by HTTP+SSE", may_have_run=False) from error

    def _by_sse(self, introduction: Introduction, deadline: Deadline, on_a_line: bool) -> Caller:
        """Begin a conversation by HTTP+SSE; if that works, this transport does all by it from now on."""
        older = self._as_sse()
        try:
            if on_a_line:  # then the conversation is to end with it
                older.connect(max(deadline.remaining, 0.001))
            caller = older.converse(introduction, deadline)
        except BaseException as error:
            older.disconnect(closing_time(error))
            raise
        unused = self._line
        if unused is not None and not unused.claimed:
            super()._end_line(Deadline(CLOSE_SECONDS))
        self._older = older
        return caller

    def _as_sse(self) -> NetworkTransport:
        from .sse import SSETransport

        older = SSETransport.__new__(SSETransport)
        nothing_yet = {"_line": None, "_closed_properly": None, "_begun_here": None, "_post_url": None}
        older.__dict__.update({**self.__dict__, **nothing_yet})
        older.__dict__.pop("converse", None)  # of whoever traces us (manage/tracing.py): it is we who are asked
        return older

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return super().connected if self._older is None else self._older.connected

    def reconnect(self, timeout: float | None = None) -> None:
        """Have a new connection take the place of each; as any transport over a network does."""
        if self._older is None:
            super().reconnect(timeout)
        else:
            self._older.reconnect(timeout)

    def _dial_line(self, deadline: Deadline) -> None:
        if self._older is None:
            super()._dial_line(deadline)
        else:
            self._older._dial_line(deadline)

    def _end_line(self, deadline: Deadline) -> None:
        if self._older is not None:
            self._older._end_line(deadline)
        super()._end_line(deadline)

    def _own_line(self) -> _Line:
        return super()._own_line() if self._older is None else self._older._own_line()


HttpTransport = StreamableHTTPTransport


# -- what users hand over ---------------------------------------------------------------------------------------------


def _one_url(base_url: object, url: object, endpoint_path: str) -> str:
    if (base_url is None) == (url is None):
        raise TypeError("give the URL of the server, as base_url or as url")
    if url is not None:
        return check_url(url, ("http", "https"), "url")
    base = check_url(base_url, ("http", "https"), "base_url")
    ending = "/" + endpoint_path.strip("/")
    whole = join_url(base, endpoint_path)  # which refuses what is no path
    return base if base.partition("?")[0].rstrip("/").endswith(ending) and ending != "/" else whole


def _checked_session(value: Any) -> Any:
    if value is not None and not (callable(getattr(value, "request", None)) and hasattr(value, "adapters")):
        raise TypeError(f"session must be a requests.Session, not {type(value).__name__}")
    return value


def _checked_session_id(session_id: object, version: object) -> tuple[str, str] | None:
    if session_id is None and version is None:
        return None
    if not isinstance(session_id, str) or version not in HANDSHAKE_VERSIONS:
        raise ValueError(f"session_id needs a session_version, one of {', '.join(HANDSHAKE_VERSIONS)}")
    flaw = session_id_flaw(session_id)
    if flaw:
        raise ValueError(f"session_id: {flaw}")
    return session_id, str(version)
