"""Web: HTTP requests within bounds; the one module that imports requests, and urllib3 below it.

Our own requests go straight from the pool's connection to the socket and back: the head and the body in one piece, and
a reply whose head is as nearly all are is read right here (protocol/http1.py). Any other reply is left to urllib3, with
the bytes that have come. Through a proxy, and with a session of the user's, requests sends and urllib3 reads.

What is used of urllib3 beyond its documentation: ``_new_conn`` of its connections and pools, ``_get_conn`` and
``_put_conn`` of its pools (seen to work with 2.8; tests/transports/test_web.py looks whether they are still there).
"""

from __future__ import annotations

import functools
import http.client
import logging
import os
import queue
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header
from requests.hooks import default_hooks
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ClosedPoolError, NewConnectionError
from urllib3.util.connection import is_connection_dropped

from ..deadlines import Deadline
from ..engine.dispatch import reaper
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
from ..protocol.http1 import read_head, request_head
from ..protocol.origins import allowed, is_loopback, origin_of, resolve, same_origin
from ..protocol.redact import mask, names_a_secret, redact_url
from .bodies import Body, HeadReader, SlimBody
from .dialling import dial, shut_down
from .exchanges import Cut, Exchange
from .passport import forms, secrets_in_query
from .secure import in_words, tls_context
from .slots import Slots

HARMLESS = frozenset({"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"})
"""Headers that may be shown to another origin, beside those that repeat what is in the body."""
ROUTES = 16
"""How many URLs are remembered with the way to them."""
COOKIES, COOKIE_BYTES = 50, 4096
"""How many cookies of a server are kept, and how large each may be (RFC 6265, section 6.1)."""
READ_BYTES = 1 << 16
"""How much of a reply is read at first."""
JOINED_BYTES = 1 << 14
"""A body that is shorter is sent in one piece with its head."""

GARBLED = (urllib3.exceptions.DecodeError, requests.exceptions.ContentDecodingError, zlib.error)
"""What the libraries raise of a body that cannot be decompressed; the last at its end, as urllib3 lets it."""
BROKEN = (
    *(requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException),
    *(OSError, ValueError, *GARBLED),
)
"""What the libraries raise."""


class _Current(threading.local):
    """The exchange that the thread is busy with; urllib3 hands nothing through to its connections."""

    exchange: Exchange | None = None


_current = _Current()


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Keep urllib3 from logging our requests, whose URLs may hold secrets; what others do with it is their affair."""
    return _current.exchange is None


for _name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_is_not_ours)


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
        self._hurried = False
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
                shut_down(self._line)

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
            self._hurried = True
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

    def is_stale(self, idle: float) -> bool:
        """Tell whether it must not be used again: it was idle for longer, or the server has closed it."""
        return time.monotonic() - self.idle_since > idle or is_connection_dropped(self)  # type: ignore[arg-type]

    def unhurried(self) -> None:
        """Let a wait be as long as it may, again."""
        if self._hurried:
            self.sock.settimeout(None)
            self._hurried = False

    def ask(self, head: bytes, body: bytes) -> bytes:
        """Send a request and return the beginning of the reply."""
        if self.sock is None:
            self.connect()
        exchange = self._owner
        assert exchange is not None
        exchange.sent = True
        try:
            if len(body) < JOINED_BYTES:
                self.sock.sendall(head + body)
            else:
                self.sock.sendall(head)
                self.sock.sendall(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # perhaps it has said why
        data: bytes = self.sock.recv(READ_BYTES)
        if not data:
            raise http.client.RemoteDisconnected("nothing")
        return data

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
            return dial(self._dns_host, self.port, exchange, self._hold)  # type: ignore[attr-defined]
        except Exception as error:
            exchange.failure = error
            raise NewConnectionError(self, "no connection") from None  # type: ignore[arg-type]

    def _hold(self, line: socket.socket) -> None:
        """Take note of what to shut down; raises Cut where it is too late."""
        with self._guard:
            self._line = line
            if self._owner is not None and self._owner.why:
                raise Cut


class _PlainWire(_Wire, HTTPConnection):
    """A connection in the clear."""

    response_class = HeadReader


class _SecureWire(_Wire, HTTPSConnection):
    """A connection with TLS.

    While hands are shaken, the socket is detached from the object that we have: the twin is a duplicate of its
    descriptor. Through a proxy that speaks TLS itself there is no other all the time.
    """

    response_class = HeadReader
    _twin: socket.socket | None = None

    def connect(self) -> None:
        """Connect and shake hands."""
        try:
            super().connect()
            if isinstance(self.sock, socket.socket):
                self._hold(self.sock)
                self._drop_twin()
        except BaseException as error:
            _close_half_made(error)
            if self._owner is not None and self._owner.failure is None and isinstance(error, Exception):
                self._owner.failure = error
            self._drop_twin()
            raise

    def is_stale(self, idle: float) -> bool:
        """Tell whether it must not be used again; what is decrypted already, the system knows nothing of."""
        pending = getattr(self.sock, "pending", None)
        return super().is_stale(idle) or (pending is not None and pending() > 0)

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
        wire = self._idle_one() or self._new_conn()  # type: ignore[attr-defined]
        try:
            exchange.take(wire)
            if wire.sock is not None:
                if wire.is_stale(exchange.settings.idle):
                    wire.close()  # it connects anew by itself
                else:
                    wire.unhurried()
        except BaseException:
            wire.close()
            raise
        return wire

    def _idle_one(self) -> Any:
        try:
            return self.pool.get()
        except queue.Empty:
            return None
        except AttributeError:
            raise ClosedPoolError(self, "it is closed") from None  # type: ignore[arg-type]

    def done(self, wire: Any, whole: bool) -> None:
        """Take a connection back, or close it."""
        if whole:
            self._put_conn(wire)
        else:
            wire.close()

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


def _close_half_made(error: BaseException) -> None:
    """Close the SSLSocket that ``ssl`` forgets where the other side resets the connection before hands are shaken."""
    trace = error.__traceback__
    while trace is not None:
        made = trace.tb_frame.f_locals.get("self")
        if isinstance(made, ssl.SSLSocket):
            made.close()
        trace = trace.tb_next


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
            _close_pools(manager)
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


def _close_pools(manager: Any) -> None:
    for key in list(manager.pools.keys()):
        pool = manager.pools.get(key)
        if pool is not None:
            pool.close()


class _Jar(RequestsCookieJar):
    """Cookies of one server: a few, and small ones, whatever it sends.

    Attributes:
        filled: Whether there may be any.
    """

    filled = False

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
        self.filled = True
        return super().set_cookie(cookie, *args, **kwargs)


class _Session(requests.Session):
    """A session of requests that never follows a redirect, nor reads the body of one to find out where it leads."""

    def get_redirect_target(self, resp: Any) -> None:
        """Return None."""


# -- requests and replies ---------------------------------------------------------------------------------------------


class _Route(NamedTuple):
    """The way to a URL.

    Attributes:
        pool: Where its connections are.
        target: What of it stands in a request.
        defaults: The headers of a request that has none of that name.
    """

    pool: _PlainPool | _SecurePool
    target: str
    defaults: dict[str, str]

    def __repr__(self) -> str:
        return f"<_Route of {self.pool!r}>"  # the rest may hold secrets


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
        self._context = (lambda: context or tls_context(trusted, cert)) if ours_only else None
        self._given = session
        told = self._theirs and (verify is not True or cert is not None)
        self._files: dict[str, Any] = {"verify": None if verify is True else verify, "cert": cert} if told else {}
        if self._theirs and context is not None:
            raise TypeError("ssl_context means nothing to a session that sends itself; mount an adapter that uses it")
        self._jar = _Jar()
        self._manager = urllib3.PoolManager(num_pools=4, maxsize=settings.kept)
        _make_ours(self._manager)
        self._routes: dict[str, _Route] = {}
        self._session: requests.Session | None = None
        if session is not None or self._proxies:
            self._session = session if session is not None and self._theirs else self._make_session(session, bundle)

    def _make_session(self, given: requests.Session | None, bundle: bool | str) -> requests.Session:
        ours = _Session()
        if given is None:
            ours.headers.clear()
        else:
            # One of requests' own: used as it is, but for the adapter, which could not be cut; for the environment,
            # which was looked at already; and for new cookies, which are this server's only.
            ours.__dict__.update(given.__dict__)
            ours.adapters = type(given.adapters)(given.adapters)  # type: ignore[call-arg]
            self._jar.set_policy(given.cookies.get_policy())
            self._jar.update(given.cookies)
            ours.proxies = {**self._proxies, **given.proxies}
            ours.verify = bundle if given.verify is True else given.verify
        ours.cookies = self._jar
        ours.trust_env = False
        for prefix in {"http://", "https://", *ours.adapters}:
            ours.mount(prefix, Adapter(self.settings.kept, self._context))
        return ours

    def exchange(self, deadline: Deadline | None) -> Exchange:
        """Return an exchange, to be handed to ``send``."""
        return Exchange(deadline, self.settings, self.replies)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange) -> Reply:
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
            reply = self._send(method, url, headers, body, exchange)
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

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange) -> Reply:
        failure: MCPError | None = None
        before, _current.exchange = _current.exchange, exchange  # an auth of the user's may ask another server of ours
        try:
            route = self._route(url)
            if route is not None:
                return self._ask(route, method, url, headers, body, exchange)
            response = self._request(method, url, headers, body, exchange)
            sent = getattr(response.request, "headers", {})
            return Reply(response.status_code, response.headers, str(response.url), _Theirs(response), exchange, sent)
        except (*BROKEN, Cut) as broken:
            failure = as_error(broken, exchange, url)
        finally:
            _current.exchange = before
        raise failure  # out here, where no context of it shows URLs and headers

    def _route(self, url: str) -> _Route | None:
        """Return the way to a URL; None: a session has to go it."""
        known = self._routes.get(url)
        if known is None and self._given is None and not requests.utils.select_proxy(url, self._proxies):
            if len(self._routes) >= ROUTES:
                self._routes.clear()
            known = self._routes[url] = self._new_route(url)
        return known

    def _new_route(self, url: str) -> _Route:
        assert self._context is not None
        parts = urllib3.util.parse_url(url)
        context = self._context() if parts.scheme == "https" else None
        tls = {} if context is None else {"ssl_context": context, "cert_reqs": context.verify_mode}
        pool: Any = self._manager.connection_from_url(url, pool_kwargs=tls)
        place = (parts.host or "").rstrip(".")
        if parts.port not in (None, pool.ConnectionCls.default_port):
            place += f":{parts.port}"
        defaults = {"host": f"Host: {place}", "accept-encoding": "Accept-Encoding: identity"}
        defaults["user-agent"] = f"User-Agent: {_user_agent()}"
        return _Route(pool, parts.request_uri, defaults)

    def _ask(
        self,
        route: _Route,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        exchange: Exchange,
    ) -> Reply:
        if self._jar.filled:
            headers = self._with_cookie(url, headers)
        asked = request_head(method, route.target, route.defaults, headers, None if body is None else len(body))
        wire = route.pool._get_conn()
        try:
            heard = wire.ask(asked, body or b"")
            head = read_head(heard)
            done = functools.partial(route.pool.done, wire)
            if head is not None:
                body_of = SlimBody(wire.sock, head, heard, done)
                return Reply(head.status, head.fields, url, body_of, exchange, headers)
            odd = _Odd(wire.sock, method, heard, done)
            if "Set-Cookie" in odd.raw.headers:
                extract_cookies_to_jar(  # type: ignore[no-untyped-call]
                    self._jar, _prepared(method, url, headers), odd.raw
                )
            return Reply(odd.raw.status, odd.raw.headers, url, odd, exchange, headers)
        except BaseException:
            wire.close()
            raise

    def _with_cookie(self, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        if not same_origin(url, self.url):
            return headers
        cookie = get_cookie_header(self._jar, _prepared("GET", url, headers))  # type: ignore[no-untyped-call]
        return {**headers, "Cookie": cookie} if cookie else headers

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange
    ) -> requests.Response:
        assert self._session is not None
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
        prepared = _prepared(method, url, self._with_cookie(url, headers) if self._jar.filled else headers)
        prepared.body = body
        if body is not None:
            prepared.headers["Content-Length"] = str(len(body))
        prepared.headers.setdefault("User-Agent", _user_agent())
        return self._session.send(
            prepared, stream=True, allow_redirects=False, timeout=None, proxies=self._proxies, verify=True
        )

    def close(self) -> None:
        """Close the idle connections."""
        for route in list(self._routes.values()):
            route.pool.close()
        _close_pools(self._manager)
        if self._session is not None and not self._theirs:
            for adapter in self._session.adapters.values():
                if isinstance(adapter, Adapter):
                    adapter.close_pools()


class _Odd:
    """A body that urllib3 reads, with the bytes of it that have been read already.

    Attributes:
        raw: The response of urllib3.
    """

    ended = False

    def __init__(self, line: socket.socket, method: str, heard: bytes, done: Callable[[bool], object]) -> None:
        self._done: Callable[[bool], object] | None = done
        self._stays = True
        self._original = HeadReader(line, method=method, ahead=heard)
        try:
            self._original.begin()
        except BaseException:
            self._original.close()
            raise
        self.raw = urllib3.HTTPResponse(
            self._original,
            urllib3.HTTPHeaderDict(self._original.headers.items()),
            self._original.status,
            preload_content=False,
            original_response=self._original,
            request_method=method,
        )

    def read1(self, size: int) -> bytes:
        data: bytes = self.raw.read1(size, decode_content=True)
        return data

    def spoil(self) -> None:
        self._stays = False

    def close(self) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        original = self._original
        whole = original.isclosed() and self._stays and not original.will_close
        self.raw.close()
        done(whole and not original.lines.left)


class _Theirs:
    """A body that came to a session of requests."""

    ended = False

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def read1(self, size: int) -> bytes:
        data: bytes = self._response.raw.read1(size, decode_content=True)
        return data

    def spoil(self) -> None:
        self._response.raw.close()

    def close(self) -> None:
        self._response.close()


class Reply:
    """The head of a reply, and its body to be read.

    Attributes:
        status: The HTTP status.
        headers: The headers; names in any case.
        url: Where it came from.
        exchange: What it belongs to.
        told: Returns what the request told the server that is secret, as far as whoever sent it knows.
    """

    told: Callable[[], Iterable[str]] = tuple

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        url: str,
        body: Body,
        exchange: Exchange,
        sent: Mapping[str, Any],
    ) -> None:
        self.status = status
        self.headers = headers
        self.url = url
        self.exchange = exchange
        self._body = body
        self._sent = sent

    @property
    def secrets(self) -> set[str]:
        """What of the request usually is a secret, and must not be shown where the server repeats it."""
        known = [value for name, value in self._sent.items() if names_a_secret(name)]
        texts = {value if isinstance(value, str) else value.decode("latin-1") for value in known}
        return forms(texts | secrets_in_query(self.url))

    @property
    def redirect(self) -> str | None:
        """Where it redirects to, if it does."""
        if self.status not in (301, 302, 303, 307, 308):
            return None
        target = self.headers.get("Location")
        if target is None:
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
            data = self._body.read1(size)
            if data or not self.exchange.was_cut():
                return data
            failure = as_error(Cut(), self.exchange, self.url)
        except (*BROKEN, AttributeError) as broken:
            failure = as_error(broken, self.exchange, self.url)
        raise failure

    @property
    def ended(self) -> bool:
        """Whether all of the body has been read; False where that is not known yet."""
        return self._body.ended

    @property
    def ends_by_itself(self) -> bool:
        """Whether a cut would be noticed: the server says where the body ends, and it is not compressed."""
        coded = self.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
        framed = "Content-Length" in self.headers or "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        return framed and not coded

    def spoil(self) -> None:
        """Let the connection never be used again: what comes next on it belongs to nobody."""
        self._body.spoil()

    def discard(self) -> None:
        """Close it, but let the next request go on within the same exchange."""
        self._body.close()

    def hurry(self, seconds: float) -> None:
        """Let no single read of what is left wait longer; a read that would raises MCPTimeoutError."""
        self.exchange.hurry(seconds)

    def drain(self, seconds: float, most: int) -> None:
        """Read on to an end that is about to come, so that the connection can be used again."""
        patience = Deadline(seconds)
        try:
            while most > 0 and not self._body.ended and not patience.expired:
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
            self._body.close()
        finally:
            self.exchange.end()


def _is_harmless(name: str) -> bool:
    known = name.lower()
    return known in HARMLESS or (known.startswith("mcp-") and known != "mcp-session-id")


def _user_agent() -> str:
    from .. import __version__

    return f"mcp-sync/{__version__}"


def _prepared(method: str, url: str, headers: Mapping[str, str]) -> requests.PreparedRequest:
    prepared = requests.PreparedRequest()
    prepared.method, prepared.url = method, url
    prepared.headers = CaseInsensitiveDict(headers)
    prepared.hooks = default_hooks()
    prepared._cookies = RequestsCookieJar()  # type: ignore[attr-defined]
    return prepared


def _in_circles(url: str, status: int, most: int) -> HTTPStatusError:
    shown = redact_url(url)
    return HTTPStatusError(
        f"{shown} redirects in circles (max_redirects={most})",
        status,
        details={"status": status, "url": shown},
        may_have_run=False,
    )


def _astray(reply: Reply, target: str) -> HTTPStatusError:
    shown = mask(redact_url(target), reply.secrets)
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
    if isinstance(broken, GARBLED):
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
