"""Web: HTTP requests within bounds; the one module that imports requests, and urllib3 below it.

An Exchange is one request and its reply. At its deadline, or at any moment from any thread, it is *cut*: its socket is
shut down, so that whatever it is doing ends, be it connecting, shaking hands, sending, or reading a head that never
ends. ``requests`` alone bounds single reads, not the whole.

What is used of urllib3 beyond its documentation: ``_new_conn`` of its connections, ``_get_conn`` and ``_put_conn`` of
its pools (seen to work with 2.8; tests/transports/test_web.py looks whether they are still there).
"""

from __future__ import annotations

import functools
import http.client
import logging
import os
import queue
import socket
import ssl
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, get_cookie_header
from requests.hooks import default_hooks
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError
from urllib3.util.connection import is_connection_dropped

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..engine.dispatch import Alarm, reaper
from ..engine.interrupts import let_go
from ..engine.lifetimes import tell_of_forks
from ..exceptions import (
    AuthError,
    HTTPStatusError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    RemoteProtocolError,
)
from ..policies import Connections, Replies, Trust
from ..protocol.origins import allowed, is_loopback, origin_of, resolve, same_origin
from ..protocol.redact import names_a_secret, redact_url
from .resolving import look_up
from .secure import in_words, tls_context
from .slots import Slots

HARMLESS = frozenset({"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"})
"""Headers that may be shown to another origin, beside those that repeat what is in the body."""
SHORT_SECRET = 6
"""Characters: what is shorter is not masked, for it would hide half of a text."""
COOKIES, COOKIE_BYTES = 50, 4096
"""How many cookies of a server are kept, and how large each may be (RFC 6265, section 6.1)."""



class Exchange:
    """One request and its reply, until somebody cuts it.

    Threads: ``cut`` from any; all else by the one that has the exchange.

    Args:
        deadline: When it is cut; None never.
        settings: What its connection is to be like, if a new one has to be made.
        replies: Likewise.

    Attributes:
        sent: Whether anything of the request may have left this process.
        counted: Whether it counts as one of the requests under way; one that stays open does not.
        why: Why it was cut: ``timeout`` or ``closed``; empty as long as it was not.
        failure: What kept the connection from being made.
        via: The proxy that it goes through.
        slots: Where its place is.
    """

    def __init__(
        self, deadline: Deadline | None, settings: Connections | None = None, replies: Replies | None = None
    ) -> None:
        self.deadline = deadline
        self.settings = settings or Connections()
        self.replies = replies or Replies()
        self.sent = False
        self.counted = True
        self.why = ""
        self.failure: BaseException | None = None
        self.via = ""
        self.slots: Slots | None = None
        self._wire: _Wire | None = None
        self._response: requests.Response | None = None
        self._alarm: Alarm | None = None
        self._interrupt: Callable[[], object] = _nothing

    def begin(self) -> None:
        """Have it cut at its deadline; raises as Reaper.at does."""
        if self.deadline is not None:
            # Weakly: an exchange that Ctrl-C has torn from its owner is to go at once, and its place with it.
            known = weakref.ref(self)
            self._alarm = reaper.at(self.deadline, lambda: _expire(known))

    def unbound(self) -> None:
        """Let it go on for ever."""
        self._call_off()
        self.deadline = None

    def end(self) -> None:
        """Nothing is left to cut; its place is free."""
        try:
            self._call_off()
        finally:
            self._wire = self._response = None
            if self.slots is not None:
                self.slots.give(self)

    def take(self, wire: _Wire) -> None:
        """Use this connection; raises Cut where it is too late for that."""
        self._wire = wire
        wire.belong_to(self)
        if self.why:
            raise Cut

    def watch(self, response: requests.Response) -> None:
        """Cut this response, where the connection is none of ours."""
        if self._wire is None:
            self._response = response

    def cut(self, why: str = "closed") -> None:
        """End it, whatever it is doing. From any thread, at any time."""
        self.why = self.why or why
        self._interrupt()
        wire, response = self._wire, self._response
        if wire is not None:
            wire.cut(self)
        elif response is not None:
            try:
                response.raw.shutdown()
            except Exception:  # whatever the user's adapter made of it; then its own timeouts have to do
                pass

    @contextmanager
    def interrupting(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Have a cut call this meanwhile; raises Cut where it came before."""
        self._interrupt = interrupt
        try:
            if self.why:
                raise Cut
            yield
        finally:
            self._interrupt = _nothing

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return LONGEST_TIMEOUT if self.deadline is None else self.deadline.remaining

    def was_cut(self) -> bool:
        """Tell whether somebody has cut it; may change from one moment to the next."""
        return bool(self.why)

    @property
    def late(self) -> bool:
        """Whether it was cut at its deadline, or would be now."""
        return self.why == "timeout" or (not self.why and self.deadline is not None and self.deadline.expired)

    def expire(self) -> None:
        """Cut it because its time, or that of a part of it, has passed."""
        self.cut("timeout")

    def _call_off(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            reaper.call_off(alarm)


class Cut(Exception):
    """The exchange was cut before it had a connection."""


class _Current(threading.local):
    """The exchange that the thread is busy with; urllib3 hands nothing through to its connections."""

    exchange: Exchange | None = None


_current = _Current()


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Keep urllib3 from logging our requests, whose URLs may hold secrets; what others do with it is their affair."""
    return _current.exchange is None


logging.getLogger("urllib3.connectionpool").addFilter(_is_not_ours)


class _Wire:
    """What is common to our connections, plain and TLS: the exchange that has one can have it cut.

    Locks: ``_guard``, held for a few instructions and a ``shutdown``, which does not wait.
    """

    sock: Any
    host: str
    port: int
    timeout: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._guard = threading.Lock()  # guards _belongs_to and _line
        self._belongs_to: weakref.ref[Exchange] | None = None  # weakly, for an exchange refers to its wire
        self._line: socket.socket | None = None
        self.idle_since = 0.0
        super().__init__(*args, **kwargs)
        tell_of_forks(self)

    def belong_to(self, exchange: Exchange | None) -> None:
        """Be the exchange's, and nobody else's: one that had it before can no longer cut it. None: nobody's."""
        with self._guard:
            self._belongs_to = None if exchange is None else weakref.ref(exchange)

    @property
    def _owner(self) -> Exchange | None:
        return self._belongs_to() if self._belongs_to is not None else None

    def cut(self, exchange: Exchange) -> None:
        """Shut the socket down, if it is still the exchange's."""
        with self._guard:
            if self._owner is exchange:
                _shut_down(self._line)

    def forked(self) -> None:
        """In a forked child: close the inherited copies of descriptors, which does nothing to the parent's."""
        for line in (self.sock, self._line):
            if isinstance(line, socket.socket) and line.fileno() >= 0:
                os.close(line.detach())

    def hurry(self, exchange: Exchange, seconds: float) -> None:
        """Let no single wait be longer, if it is still the exchange's."""
        with self._guard:
            line = self._line if self.sock is None else self.sock  # http.client may have dropped its own
            if self._owner is not exchange or line is None:
                return
            try:
                line.settimeout(max(seconds, 0.001))
            except OSError:
                pass  # it is closed already

    def connect(self) -> None:
        """Connect, within the time there is for that alone."""
        exchange = self._owner
        patience = exchange.settings.patience if exchange is not None else None
        if exchange is None or patience is None:
            super().connect()  # type: ignore[misc]
            return
        alarm = reaper.at(Deadline(patience), exchange.expire)
        try:
            super().connect()  # type: ignore[misc]
        finally:
            reaper.call_off(alarm)

    def send(self, data: Any) -> None:
        """Send; from here on nobody can say that nothing was sent."""
        if self.sock is None:
            self.connect()
        exchange = self._owner
        if exchange is not None:
            exchange.sent = True
        super().send(data)  # type: ignore[misc]

    def _new_conn(self) -> socket.socket:
        exchange = self._owner
        assert exchange is not None
        if self.proxy is not None:  # type: ignore[attr-defined]
            exchange.via = f"{self.host}:{self.port}"
        try:
            return _dial(self._dns_host, self.port, exchange, self._hold)  # type: ignore[attr-defined]
        except Exception as error:
            exchange.failure = error
            raise NewConnectionError(self, "no connection") from None  # type: ignore[arg-type]

    def _hold(self, line: socket.socket) -> None:
        """Take note of what to shut down; raises Cut where it is too late."""
        with self._guard:
            self._line = line
            if self._owner is not None and self._owner.why:
                raise Cut


class _Lines:
    """Lines of the head of a reply; knows the last one."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.last = b""

    def readline(self, limit: int = -1) -> bytes:
        """Read one line."""
        self.last = self.file.readline(limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class _Response(http.client.HTTPResponse):
    """A reply whose head has to be whole, and whose interim forerunners are skipped (RFC 9110, section 15.2)."""

    def begin(self) -> None:
        """Read the head. http.client alone takes the end of the connection for the end of it."""
        lines: Any = _Lines(self.fp)
        self.fp = lines
        try:
            super().begin()
        finally:
            if self.fp is not None:
                self.fp = lines.file
        if lines.last not in (b"\r\n", b"\n"):
            self.close()
            raise http.client.IncompleteRead(lines.last)

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status <= 101 or status >= 200:  # http.client skips 100 by itself, and nothing comes after 101
                return version, status, reason
            http.client.parse_headers(self.fp)


class _PlainWire(_Wire, HTTPConnection):
    """A connection in the clear."""

    response_class = _Response


class _SecureWire(_Wire, HTTPSConnection):
    """A connection with TLS.

    While hands are shaken, the socket is detached from the object that we have: the twin is a duplicate of its
    descriptor. Through a proxy that speaks TLS itself there is no other all the time.
    """

    response_class = _Response
    _twin: socket.socket | None = None

    def connect(self) -> None:
        """Connect and shake hands."""
        try:
            super().connect()
            if isinstance(self.sock, socket.socket):
                self._hold(self.sock)
                self._drop_twin()
        except BaseException as error:
            if self._owner is not None and self._owner.failure is None and isinstance(error, Exception):
                self._owner.failure = error
            self._drop_twin()
            raise

    def close(self) -> None:
        """Close it."""
        self._drop_twin()
        super().close()

    def _drop_twin(self) -> None:
        twin, self._twin = self._twin, None
        if twin is not None:
            twin.close()

    def _new_conn(self) -> socket.socket:
        line = super()._new_conn()
        try:
            self._twin = line.dup()
            self._hold(self._twin)
        except BaseException:
            line.close()
            raise
        return line


class _Stack:
    """What a pool keeps its idle connections in: the last one back is the first one out.

    No queue with a lock: Ctrl-C in the wrong moment would leave it locked. A deque needs none.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._most = maxsize
        self._items: deque[Any] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put one on top; raises queue.Full where there are enough."""
        if len(self._items) >= self._most > 0:
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the one on top; raises queue.Empty where there is none."""
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        """Return how many there are."""
        return len(self._items)


class _Pooled:
    """What is common to our pools."""

    QueueCls: Any = _Stack
    pool: Any

    def _get_conn(self, timeout: float | None = None) -> Any:
        exchange = _current.exchange
        assert exchange is not None
        wire = super()._get_conn(timeout)  # type: ignore[misc]
        try:
            exchange.take(wire)
            idle_for = time.monotonic() - wire.idle_since
            if wire.sock is not None and (idle_for > exchange.settings.idle or is_connection_dropped(wire)):
                wire.close()  # it connects anew by itself
        except BaseException:
            wire.close()
            raise
        return wire

    def _put_conn(self, wire: Any) -> None:
        if wire is None:
            super()._put_conn(wire)  # type: ignore[misc]
            return
        wire.idle_since = time.monotonic()
        wire.belong_to(None)
        try:
            self.pool.put(wire, block=False)
        except (AttributeError, queue.Full):  # closed meanwhile, or there are enough
            wire.close()


class _PlainPool(_Pooled, HTTPConnectionPool):
    ConnectionCls = _PlainWire


class _SecurePool(_Pooled, HTTPSConnectionPool):
    ConnectionCls = _SecureWire

    def _validate_conn(self, conn: Any) -> None:
        """Connect; without urllib3's warning about certificates, which were not to be checked."""
        if conn.is_closed:
            conn.connect()


class Adapter(HTTPAdapter):
    """An adapter of requests whose connections an Exchange can cut.

    Args:
        kept: Idle connections that are kept.
        context: The TLS context.
    """

    def __init__(self, kept: int, context: Callable[[], ssl.SSLContext] | None) -> None:
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=kept)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of our kind."""
        super().init_poolmanager(*args, **kwargs)
        _make_ours(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make the pools of our kind, behind a proxy too."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        _make_ours(manager)
        return manager

    def close_pools(self) -> None:
        """Close the idle connections; ``close`` alone would leave that to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            pools = manager.pools
            for key in list(pools.keys()):
                pool = pools.get(key)
                if pool is not None:
                    pool.close()
        self.close()

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Use the one TLS context."""
        host, files = super().build_connection_pool_key_attributes(request, verify, cert)
        if self._context is None:
            return host, files
        if host["scheme"] != "https":
            return host, {}
        context = self._context()
        return host, {"ssl_context": context, "cert_reqs": context.verify_mode}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave that to the context."""
        if self._context is None:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]


def _make_ours(manager: Any) -> None:
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}


class _Jar(RequestsCookieJar):
    """Cookies of one server: a few, and small ones, whatever it sends."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Keep what a reply sets; most set nothing, and need no lock."""
        if response.info().get("Set-Cookie") is None:
            return
        try:
            super().extract_cookies(response, request)
        except BaseException:
            let_go(self._cookies_lock)  # type: ignore[attr-defined]
            raise

    def set_cookie(self, cookie: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep one cookie, if there is room."""
        large = len(cookie.name) + len(cookie.value or "") > COOKIE_BYTES
        if large or (len(self) >= COOKIES and cookie.name not in self):
            return None
        return super().set_cookie(cookie, *args, **kwargs)


class _Session(requests.Session):
    """A session of requests that never follows a redirect, nor reads the body of one to find out where it leads."""

    def get_redirect_target(self, resp: Any) -> None:
        """Return None."""


# -- reaching a host --------------------------------------------------------------------------------------------------


def _dial(host: str, port: int, exchange: Exchange, hold: Callable[[socket.socket], None]) -> socket.socket:
    """Return a connected socket; the addresses of the host share the time there is."""
    settings = exchange.settings
    patience = Deadline(min(exchange.remaining, LONGEST_TIMEOUT if settings.patience is None else settings.patience))
    addresses = look_up(host, port, patience, exchange.interrupting)
    broken: OSError = OSError(f"{host} has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        if exchange.why:
            raise Cut
        line = socket.socket(family, kind, protocol)
        try:
            hold(line)
            _set_options(line, settings, exchange.replies)
            line.settimeout(max(0.001, patience.remaining / (len(addresses) - number)))
            line.connect(address)
            line.settimeout(None)  # the exchange ends every wait
            return line
        except OSError as error:
            broken = error
            line.close()
        except BaseException:
            line.close()
            raise
    raise broken


def _set_options(line: socket.socket, settings: Connections, replies: Replies) -> None:
    if settings.nodelay:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.keepalive:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if replies.buffer is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, replies.buffer)


def _shut_down(line: socket.socket | None) -> None:
    if line is not None:
        try:
            # Whoever still sends is to hear of it at once: closing resets the connection.
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Not an SSLSocket's own: that forgets its TLS object, and a reader would get what was encrypted.
            socket.socket.shutdown(line, socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already, or was never connected


# -- requests and replies ---------------------------------------------------------------------------------------------


class Web:
    """The requests that one connection makes.

    Threads: none; ``send`` blocks until the head of the reply has come, at most until the exchange is cut.
    Locks: none of its own; those who wait for one of its ``_slots`` do so at most until their deadline.

    Args:
        url: Where they all go.
        settings: How many connections, and what they are like.
        trust: Which other places there may be.
        replies: How much is read at once.
        context: Makes the TLS context; None for what requests does.
        session: A requests.Session of the user's.
    """

    def __init__(
        self,
        url: str,
        settings: Connections,
        trust: Trust,
        replies: Replies,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        session: requests.Session | None = None,
    ) -> None:
        self.url = url
        self.settings = settings
        self.replies = replies
        self._trust = trust
        self._slots = Slots(settings.most)
        self._theirs = session is not None and not _is_plain(session)
        looks = trust.environment and (session is None or session.trust_env)
        self._proxies = proxies_for(url) if looks else {}
        bundle = _bundle() if looks else True
        ours_only = session is None or verify is not True or cert is not None or context is not None
        trusted = bundle if verify is True else verify
        self._adapter = functools.partial(
            Adapter, settings.kept, (lambda: context or tls_context(trusted, cert)) if ours_only else None
        )
        self._given = session
        told = self._theirs and (verify is not True or cert is not None)
        self._files: dict[str, Any] = {"verify": None if verify is True else verify, "cert": cert} if told else {}
        if self._theirs and context is not None:
            raise TypeError("ssl_context means nothing to a session that sends itself; mount an adapter that uses it")
        self._session = session if session is not None and self._theirs else self._make_session(session, bundle)

    def _make_session(self, given: requests.Session | None, bundle: bool | str) -> requests.Session:
        ours = _Session()
        jar = _Jar()
        if given is None:
            ours.headers.clear()
        else:
            # One of requests' own: used as it is, but for the adapter, which could not be cut; for the environment,
            # which was looked at already; and for new cookies, which are this server's only.
            ours.__dict__.update(given.__dict__)
            ours.adapters = type(given.adapters)(given.adapters)  # type: ignore[call-arg]
            jar.set_policy(given.cookies.get_policy())
            jar.update(given.cookies)
            ours.proxies = {**self._proxies, **given.proxies}
            ours.verify = bundle if given.verify is True else given.verify
        ours.cookies = jar
        ours.trust_env = False
        for prefix in {"http://", "https://", *ours.adapters}:
            ours.mount(prefix, self._adapter())
        return ours

    def exchange(self, deadline: Deadline | None) -> Exchange:
        """Return an exchange, to be handed to ``send``."""
        return Exchange(deadline, self.settings, self.replies)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange
    ) -> Reply:
        """Send a request and return the reply, when its head has come. Of redirects, only 307 and 308 are followed.

        Raises:
            MCPConnectionError: The server cannot be reached, or hung up.
            MCPTimeoutError: The exchange was cut at its deadline.
            HTTPStatusError: It redirects to where we do not go.
            RemoteProtocolError: What came is no HTTP.
        """
        if exchange.counted:
            exchange.slots = self._slots
        try:
            if exchange.counted and not self._slots.take(exchange, Deadline(exchange.remaining)):
                raise MCPTimeoutError(
                    f"{self.settings.most} requests to {redact_url(self.url)} are under way already "
                    "(max_connections_per_host)",
                    may_have_run=False,
                )
            if exchange.late:
                raise MCPTimeoutError(f"{redact_url(url)}: too late to send anything", may_have_run=False)
            exchange.begin()
            return self._follow(method, url, headers, body, exchange)
        except BaseException:
            exchange.end()
            raise

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        exchange: Exchange,
    ) -> Reply:
        """Return the reply from wherever redirects lead to."""
        status = 0
        for _ in range(self._trust.redirects + 1):
            reply = Reply(self._send(method, url, headers, body, exchange), exchange)
            try:
                target = self._detour(reply)
                if target is None:
                    return reply
            except BaseException:
                reply.discard()
                raise
            reply.discard()
            if not same_origin(target, self.url):
                headers = {name: value for name, value in headers.items() if _is_harmless(name)}
            url, status = target, reply.status
        raise _in_circles(url, status, self._trust.redirects)

    def _detour(self, reply: Reply) -> str | None:
        """Return where a reply redirects to, if it does, and we may go there."""
        if reply.status < 200:
            reply.spoil()
        if reply.exchange.why:
            raise as_error(Cut(), reply.exchange, reply.url)
        target = reply.redirect
        if target is not None and (reply.status not in (307, 308) or not self._may_go(target)):
            raise _astray(reply, target)
        return target

    def _may_go(self, target: str) -> bool:
        """Whether a redirect may lead there: nowhere where it would be read by others, and only to known origins."""
        if same_origin(target, self.url):
            return True
        if target.partition(":")[0].lower() not in ("http", "https") or self._given is not None:
            return False  # whatever a session of the user's would add to the request
        return not self._trust.check_origin or allowed(target, self.url, self._trust.origins)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange
    ) -> requests.Response:
        failure: MCPError | None = None
        before, _current.exchange = _current.exchange, exchange  # an auth of the user's may ask another server of ours
        try:
            return self._request(method, url, headers, body, exchange)
        except (requests.RequestException, urllib3.exceptions.HTTPError, Cut, OSError, ValueError) as broken:
            failure = as_error(broken, exchange, url)
        finally:
            _current.exchange = before
        raise failure  # out here, where no context of it shows URLs and headers

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange
    ) -> requests.Response:
        if self._given is not None:
            patience = _waiting(exchange, None) if self._theirs else None
            waits = (_waiting(exchange, self.settings.patience), patience)
            response = self._session.request(
                method,
                url,
                data=body,
                headers=dict(headers),
                stream=True,
                allow_redirects=False,
                timeout=waits,
                **self._files,
            )
            exchange.watch(response)
            return response
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = method, url, body
        prepared.headers = CaseInsensitiveDict(headers)
        if body is not None:
            prepared.headers["Content-Length"] = str(len(body))
        prepared.hooks = default_hooks()
        prepared._cookies = self._session.cookies  # type: ignore[attr-defined]
        prepared.headers.setdefault("User-Agent", _user_agent())
        if len(self._session.cookies) and same_origin(url, self.url):
            cookie = get_cookie_header(self._session.cookies, prepared)  # type: ignore[no-untyped-call]
            if cookie:
                prepared.headers["Cookie"] = cookie
        return self._session.send(
            prepared, stream=True, allow_redirects=False, timeout=None, proxies=self._proxies, verify=True
        )

    def close(self) -> None:
        """Close the idle connections."""
        if not self._theirs:
            for adapter in self._session.adapters.values():
                if isinstance(adapter, Adapter):
                    adapter.close_pools()


class Reply:
    """The head of a reply, and its body to be read.

    Attributes:
        status: The HTTP status.
        headers: The headers; names in any case.
        url: Where it came from.
        exchange: What it belongs to.
    """

    def __init__(self, response: requests.Response, exchange: Exchange) -> None:
        self._response = response
        self.exchange = exchange
        self.status = response.status_code
        self.headers = response.headers
        self.url = str(response.url)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of the request usually is a secret, and must not be shown where the server repeats it."""
        sent = getattr(self._response, "request", None)
        known = [value for name, value in (sent.headers if sent is not None else {}).items() if names_a_secret(name)]
        texts = [value if isinstance(value, str) else value.decode("latin-1") for value in known]
        texts += [text.rpartition(" ")[2] for text in texts]
        query = str(sent.url if sent is not None else self.url).partition("?")[2]
        texts += [part.partition("=")[2] or part for part in query.split("&")]
        return tuple({form for text in texts for form in (text, unquote(text)) if len(form) >= SHORT_SECRET})

    @property
    def redirect(self) -> str | None:
        """Where it redirects to, if it does."""
        target = self.headers.get("Location")
        if self.status not in (301, 302, 303, 307, 308) or target is None:
            return None
        try:
            return resolve(self.url, target)
        except ValueError:
            return target

    def read(self, size: int) -> bytes:
        """Return what there is of the body, decoded and at most so many bytes, waiting for some; b"" is the end.

        Raises:
            MCPConnectionError: It broke off.
            MCPTimeoutError: The exchange was cut at its deadline.
            RemoteProtocolError: It cannot be decoded.
        """
        failure: MCPError | None = None
        if self.exchange.was_cut():  # what the system still holds of a connection that was cut is nobody's
            raise as_error(Cut(), self.exchange, self.url)
        try:
            data: bytes = self._response.raw.read1(size, decode_content=True)
            if data or not self.exchange.was_cut():
                return data
            failure = as_error(Cut(), self.exchange, self.url)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as broken:
            failure = as_error(broken, self.exchange, self.url)
        raise failure

    @property
    def ends_by_itself(self) -> bool:
        """Whether a cut would be noticed: the server says where the body ends, and it is not compressed."""
        coded = self.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
        framed = "Content-Length" in self.headers or "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        return framed and not coded

    def spoil(self) -> None:
        """Let the connection never be used again: what comes next on it belongs to nobody."""
        self._response.raw.close()

    def discard(self) -> None:
        """Close it, but let the next request go on within the same exchange."""
        self._response.close()

    def hurry(self, seconds: float) -> None:
        """Let no single read of what is left wait longer; a read that would raises MCPTimeoutError."""
        wire = self.exchange._wire
        if wire is not None:
            wire.hurry(self.exchange, seconds)

    def drain(self, seconds: float, most: int) -> None:
        """Read on to an end that is about to come, so that the connection can be used again."""
        patience = Deadline(seconds)
        try:
            while most > 0 and not patience.expired:
                self.hurry(patience.remaining)
                piece = self.read(most)
                if not piece:
                    return
                most -= len(piece)
        except (MCPError, OSError):
            pass  # then it is closed

    def close(self) -> None:
        """Give the connection back if the body was read to its end, or close it. Idempotent."""
        try:
            self._response.close()
        finally:
            self.exchange.end()


def _is_harmless(name: str) -> bool:
    known = name.lower()
    return known in HARMLESS or (known.startswith("mcp-") and known != "mcp-session-id")


def _user_agent() -> str:
    from .. import __version__

    return f"mcp-sync/{__version__}"


def _expire(known: weakref.ref[Exchange]) -> None:
    exchange = known()
    if exchange is not None:
        exchange.expire()


def _nothing() -> None:
    """Do nothing."""


def _in_circles(url: str, status: int, most: int) -> HTTPStatusError:
    shown = redact_url(url)
    return HTTPStatusError(
        f"{shown} redirects in circles (max_redirects={most})",
        status,
        details={"status": status, "url": shown},
        may_have_run=False,
    )


def _astray(reply: Reply, target: str) -> HTTPStatusError:
    shown = redact_url(target)
    return HTTPStatusError(
        f"{redact_url(reply.url)} answered {reply.status}, a redirect to {shown}; only 307 and 308 on the same origin "
        "are followed. If the server has moved, use its new URL",
        reply.status,
        details={"status": reply.status, "url": redact_url(reply.url), "location": shown},
        may_have_run=False,
    )


def _is_plain(session: requests.Session) -> bool:
    """Tell whether a session is requests' own with its own adapters, for which ours can stand in."""
    return type(session) is requests.Session and all(
        type(adapter) is HTTPAdapter and not adapter.max_retries.total for adapter in session.adapters.values()
    )


def _bundle() -> bool | str:
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


def _waiting(exchange: Exchange, most: float | None) -> float:
    return max(0.001, min(exchange.remaining, threading.TIMEOUT_MAX if most is None else most))


def proxies_for(url: str) -> dict[str, str]:
    """Return the proxies that the environment names for a URL, by scheme; a loopback address has none."""
    if is_loopback(origin_of(url).host):
        return {}
    return dict(requests.utils.get_environ_proxies(url, no_proxy=None))


# -- what went wrong --------------------------------------------------------------------------------------------------


def as_error(broken: BaseException, exchange: Exchange, url: str) -> MCPError:
    """Return the error of ours for one of requests', urllib3's or the system's; without secrets."""
    shown = redact_url(url)
    ran = None if exchange.sent else False
    details: dict[str, Any] = {"url": shown, "phase": "wait" if exchange.sent else "connect"}
    root = _root(exchange.failure or broken)
    if exchange.late or (isinstance(root, TimeoutError) and not isinstance(root, ssl.SSLError)):
        doing = "no answer" if exchange.sent else "no connection"
        return MCPTimeoutError(f"{shown}: {doing} in time", details=details, may_have_run=ran)
    if exchange.why or isinstance(root, Cut):
        return MCPConnectionError(
            f"the request to {shown} was given up: the connection was closed",
            details={**details, "phase": "closed"},
            may_have_run=ran,
        )
    if isinstance(root, MCPError):
        return root
    if isinstance(broken, (urllib3.exceptions.DecodeError, requests.exceptions.ContentDecodingError)):
        text = f"the reply from {shown} cannot be decompressed"
        return RemoteProtocolError(text, details={**details, "phase": "parse"}, may_have_run=ran)
    place = f"the proxy {exchange.via}" if exchange.via and exchange.failure is not None else shown
    if str(root).startswith("Tunnel connection failed: 407"):
        return AuthError(f"{place} wants credentials to lead to {shown}", 407, details=details, may_have_run=False)
    kind, text = in_words(root, place)
    error = kind(text, details=details, may_have_run=ran)
    error.__cause__ = root if isinstance(root, OSError) and not _tells_secrets(root) else None
    return error


def _root(error: BaseException) -> BaseException:
    """Return what is behind the wrapping of requests and urllib3."""
    for _ in range(10):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((part for part in error.args[::-1] if isinstance(part, BaseException)), None)
        if inner is None:
            return error
        error = inner
    return error


def _tells_secrets(error: BaseException) -> bool:
    return isinstance(error, requests.RequestException)
