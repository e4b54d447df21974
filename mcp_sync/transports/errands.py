"""Errands: what an HTTP transport does about one message: an exchange, and perhaps another, until it has its answer.

Also how a reply is judged: which status means what, how much of a body is read, and what is said of it in an error.
"""

from __future__ import annotations

import functools
import gzip
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..engine import interrupts
from ..exceptions import (
    AuthError,
    HTTPStatusError,
    MCPConnectionError,
    MCPError,
    MessageTooLarge,
    RateLimited,
    RemoteProtocolError,
    ServerError,
)
from ..policies import Packing, Replies
from ..protocol.headers import SESSION_ID, media_type, retry_after
from ..protocol.messages import Failure, Malformed, RequestId, decode
from ..protocol.origins import same_origin
from ..protocol.redact import MASK, mask, names_a_secret, redact_url
from ..protocol.sse import Event
from .exchanges import Exchange
from .passport import SHORT, Passport, forms, hide, secrets_in_query
from .web import Reply, Web

JSON, EVENTS, LINES = "application/json", "text/event-stream", ("application/x-ndjson", "application/jsonl")

ERROR_BYTES, ERROR_SECONDS = 1 << 16, 0.5
"""How much of the body of an error is read, and how long: its status says the most."""
SHOWN_BYTES = 200
"""How much of it is shown."""
DRAIN_SECONDS, DRAIN_BYTES = 0.02, 1 << 16
"""How long, and how far, a reply is read on after the answer: the connection can be used again when it has ended."""
SEEN_EVENTS = 1000
"""Event ids that are remembered, so that an event that is replayed is not handled twice."""
LONGEST_ID = 8192
"""Characters of an event id; a longer one counts as none, for no server takes a header that long."""
LEAST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds between two attempts to resume a stream: the first pause and the longest."""


class Errand:
    """One message under way: the exchange that it is at, and whether anybody still wants the answer.

    Threads: ``drop`` from any; all else by the one that runs it.

    Args:
        deadline: When it has to be over; None never.

    Attributes:
        dropped: Whether nobody wants the answer any more.
    """

    def __init__(self, deadline: Deadline | None) -> None:
        self.deadline = deadline
        self.dropped = False
        self._sleeper: interrupts.Event | None = None  # few errands ever sleep, and making one takes its time
        self._exchange: Exchange | None = None
        self._interrupt: Callable[[], object] | None = None

    def on(self, exchange: Exchange) -> Exchange:
        """Be at this exchange from now on, and return it."""
        self._exchange = exchange
        if self.dropped:
            exchange.cut()
        return exchange

    def drop(self) -> None:
        """Give it up. From any thread, at any time."""
        self.dropped = True
        interrupt, exchange, sleeper = self._interrupt, self._exchange, self._sleeper
        if sleeper is not None:
            sleeper.set()
        if interrupt is not None:
            interrupt()
        if exchange is not None:
            exchange.cut()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Call this when it is dropped meanwhile, or was before."""
        self._interrupt = interrupt
        try:
            if self.dropped:
                interrupt()
            yield
        finally:
            self._interrupt = None

    def sleep(self, seconds: float) -> bool:
        """Wait; False: it has been dropped, or its time has passed."""
        left = LONGEST_TIMEOUT if self.deadline is None else self.deadline.remaining
        self._sleeper = interrupts.Event()
        if not self.dropped:  # else whoever dropped it may have seen no sleeper
            self._sleeper.wait(min(seconds, left, threading.TIMEOUT_MAX))
        return not self.dropped and seconds <= left


class Cursor:
    """How far one stream has been read (basic/transports: resumability).

    Attributes:
        last_id: The id of its last event that had one; None: it cannot be resumed.
        fruitless: How many times in a row it was opened for nothing.
    """

    def __init__(self) -> None:
        self.last_id: str | None = None
        self.fruitless = 0
        self._retry = 0.0
        self._seen: dict[int, None] = {}  # hashes, oldest first: ids may be long
        self._before: frozenset[int] = frozenset()

    def takes(self, event: Event) -> bool:
        """Take note of an event; False: it is one that came before the stream was opened again."""
        if event.retry is not None:
            self._retry = event.retry / 1000
        if event.id is None or len(event.id) > LONGEST_ID:
            return True
        if hash(event.id) in self._before:
            return False
        self.last_id = event.id or None
        if event.id:
            self._seen[hash(event.id)] = None
            if len(self._seen) > SEEN_EVENTS:
                del self._seen[next(iter(self._seen))]
        return True

    def pause(self, least: float = LEAST_PAUSE) -> float:
        """Return the seconds to wait before opening it again: what the server said, and longer each time in vain."""
        self._before = frozenset(self._seen)
        patience = min(LONGEST_PAUSE, least * 2.0 ** min(self.fruitless, 20))
        self.fruitless += 1
        return max(self._retry, patience)


# -- sending ----------------------------------------------------------------------------------------------------------


class Courier:
    """Brings requests to a server: shows it the passport, which is renewed once where it is refused.

    No error that comes of a request, or is made of its reply, tells the secrets that it was shown.

    Args:
        web: Makes the requests.
        passport: Of the server.
    """

    def __init__(self, web: Web, passport: Passport) -> None:
        self._web = web
        self._passport = passport

    def send(
        self,
        method: str,
        errand: Errand,
        headers: Callable[[], Mapping[str, str]],
        body: bytes | None = None,
        *,
        url: str = "",
        counted: bool = True,
    ) -> Reply:
        """Send a request and return the reply, which is no 401.

        Args:
            method: The HTTP method.
            errand: What it is for.
            headers: Returns the headers; is called again when the credentials were renewed.
            body: The body.
            url: Where to; empty is the server's.
            counted: Whether it counts as one of the requests under way.

        Raises:
            AuthError: 401; the credentials could not be renewed, or the new ones were refused as well.
            MCPError: As Web.send, Passport.headers and Passport.renew.
        """
        url = url or self._web.url
        for last in (False, True):
            generation = self._passport.generation
            exchange = errand.on(self._web.exchange(errand.deadline))
            exchange.counted = counted
            reply = self._bring(method, url, headers(), body, exchange)
            if reply.status != 401:
                return reply
            try:
                refusal = status_error(reply, read_start(reply))
            finally:
                reply.close()  # now: it takes the place of another request
            if last or not self._renewed(url, generation, errand):
                raise refusal
        raise AssertionError  # the last one returned, or raised

    def _renewed(self, url: str, generation: int, errand: Errand) -> bool:
        """Have the credentials renewed; those of another origin are none of ours."""
        if not same_origin(url, self._web.url):
            return False
        return self._passport.renew(generation, errand.deadline, errand.interrupting)

    def _bring(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange
    ) -> Reply:
        try:
            reply = self._web.send(method, url, headers, body, exchange)
        except MCPError as error:
            hide(error, self._told(url, headers))
            raise
        reply.told = functools.partial(self._told, url, headers)  # only errors want to know, and it takes time
        return reply

    def _told(self, url: str, headers: Mapping[str, str]) -> set[str]:
        """Return what a request tells that is secret: what it says itself, and what the passport knows."""
        said = {value for name, value in headers.items() if names_a_secret(name) or name == SESSION_ID}
        return forms(said | secrets_in_query(url)) | self._passport.secrets


# -- bodies -----------------------------------------------------------------------------------------------------------


def read_whole(
    reply: Reply, limit: int, replies: Replies, report: Callable[[int, int | None], object] | None = None
) -> bytes:
    """Return a whole body.

    Args:
        reply: The reply.
        limit: Bytes, decompressed.
        replies: How it is read.
        report: Is told how many bytes of how many have come, beyond the threshold.

    Raises:
        MessageTooLarge: It is longer than the limit.
        MCPError: As Reply.read.
    """
    announced = length_of(reply)
    if announced is not None and announced > limit:
        raise _too_large(reply, limit)
    pieces: list[bytes] = []
    size = 0
    while not reply.ended and (piece := reply.read(replies.piece)):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise _too_large(reply, limit)
        if report is not None and size > replies.threshold:
            report(size, announced)
    return b"".join(pieces) if len(pieces) != 1 else pieces[0]


def compressed(body: bytes, packing: Packing) -> tuple[bytes, dict[str, str]]:
    """Return the body of a request as it is to be sent, and the header that says so."""
    if not packing.on or len(body) < packing.threshold:
        return body, {}
    return gzip.compress(body, packing.level, mtime=0), {"Content-Encoding": "gzip"}


def length_of(reply: Reply) -> int | None:
    """Return how long the server says the body is; None where it does not, or what it says is of no use."""
    text = reply.headers.get("Content-Length", "")
    encoded = reply.headers.get("Content-Encoding", "identity") not in ("", "identity")
    return int(text[:18]) if text.isascii() and text.isdigit() and not encoded else None


def read_start(reply: Reply) -> bytes:
    """Return the beginning of a body, for an error: what comes soon, whatever goes wrong."""
    start, patience = b"", Deadline(ERROR_SECONDS)
    wanted = ERROR_BYTES if media_type(reply.headers.get("Content-Type")) == JSON else SHOWN_BYTES * 4
    try:
        while len(start) < wanted and not patience.expired:
            reply.hurry(patience.remaining)
            piece = reply.read(wanted - len(start))
            if not piece:
                break
            start += piece
    except MCPError:
        pass
    return start


def _too_large(reply: Reply, limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the reply is longer than max_response_size, {limit} bytes",
        details={**known_of(reply), "limit": limit, "phase": "parse"},
        may_have_run=True,
    )


def shown(body: bytes, secrets: Iterable[str] = ()) -> str:
    """Return the beginning of a body, on one line, without control characters and without secrets."""
    start = body[: SHOWN_BYTES * 4]
    text = start.decode("utf-8", "replace")
    if len(start) == SHOWN_BYTES * 4:
        text = _without_half(text, secrets)
    text = mask(text, secrets)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:SHOWN_BYTES]


def _without_half(text: str, secrets: Iterable[str]) -> str:
    """Return a text that was cut, without the beginning of a secret at its end."""
    halves = (secret[:n] for secret in secrets for n in range(SHORT, len(secret)) if text.endswith(secret[:n]))
    longest = max(halves, key=len, default="")
    return text.removesuffix(longest) + MASK if longest else text


def secrets_of(reply: Reply) -> set[str]:
    """Return what must not be told of a reply: what its request told the server, as far as it is known."""
    return forms({*reply.told(), *reply.secrets, *secrets_in_query(reply.url)})


def unreadable(reply: Reply, flaw: Malformed, body: bytes, method: str) -> MCPError:
    """Return the error for a body that is no message."""
    secrets = secrets_of(reply)
    details = {**known_of(reply), "phase": "parse", "body": shown(body, secrets)}
    if flaw.parsed or reply.ends_by_itself:
        error: MCPError = flaw.as_error(method)
        error.details = {**error.details, **details}
        return hide(error, secrets)
    text = f"{method}: the reply from {details['url']} broke off: {flaw.reason}"
    return hide(MCPConnectionError(text, details=details, may_have_run=None), secrets)


def known_of(reply: Reply) -> dict[str, Any]:
    """Return what is known of a reply, for the details of an error."""
    return {
        "url": redact_url(reply.url),
        "status": reply.status,
        "content_type": mask(reply.headers.get("Content-Type", ""), secrets_of(reply))[:SHOWN_BYTES],
    }


# -- verdicts ---------------------------------------------------------------------------------------------------------


def failure_in(reply: Reply, body: bytes, request_id: RequestId) -> Failure | None:
    """Return the JSON-RPC error that the body of an error status is, if it is one and answers this request."""
    if media_type(reply.headers.get("Content-Type")) != JSON:
        return None
    message = decode(body)
    if not isinstance(message, Failure) or (message.id is None and reply.status >= 500):
        return None
    if message.id is not None and (message.id != request_id or type(message.id) is not type(request_id)):
        return None
    return Failure(request_id, message.code, mask(message.message, secrets_of(reply)), message.data)


def status_error(reply: Reply, body: bytes) -> HTTPStatusError:
    """Return the error for a status, with the beginning of the body, and what may help."""
    status = reply.status
    wait = retry_after(reply.headers.get("Retry-After"), time.time())
    start = shown(body, secrets_of(reply))
    details = {**known_of(reply), "body": start, "phase": "wait"}
    if wait is not None:
        details["retry_after"] = wait
    text = f"{details['url']} answered HTTP {status}{_hint(status, wait)}"
    if start:
        text += f"; the reply begins: {start}"
    kind = _kind(status)
    return kind(text, status, wait, details=details, may_have_run=None if status >= 500 else False)


def _kind(status: int) -> type[HTTPStatusError]:
    if status in (401, 403, 407):
        return AuthError
    if status == 429:
        return RateLimited
    return ServerError if status >= 500 else HTTPStatusError


_HINTS = {
    401: "; it wants credentials: give auth_header or auth_provider",
    403: "; the credentials are not enough, or this origin is not allowed",
    404: "; is the path right?",
    405: "; is this the path of an MCP server?",
    406: "; it does not speak JSON or event streams",
    413: "; the request is too large for it",
    415: "; it does not take this content type, or no compressed requests (enable_compression)",
    421: "; it does not serve this host name",
    431: "; the headers are too large for it",
    502: ", which a proxy says whose server does not answer",
    503: ", it is not available at the moment",
    504: ", which a proxy says whose server takes too long",
}


def _hint(status: int, wait: float | None) -> str:
    hint = _HINTS.get(status, "")
    return f"{hint}; it asks for {wait:g} s of patience" if wait is not None else hint


def no_answer(reply: Reply, why: str, body: bytes = b"") -> MCPError:
    """Return the error for a good status without an answer."""
    details = {**known_of(reply), "phase": "parse"}
    if body:
        details["body"] = shown(body, secrets_of(reply))
        why += f"; it begins: {details['body']}"
    text = f"{details['url']} answered HTTP {reply.status}, but {why}"
    if reply.status in (202, 204) or body:
        return RemoteProtocolError(text, details=details, may_have_run=True)
    return MCPConnectionError(text, details=details, may_have_run=None)


def trouble(error: MCPError) -> str:
    """Return the name that users know a failure by; empty where it has none."""
    if isinstance(error, AuthError):
        return "auth_failed"
    if isinstance(error, RateLimited):
        return "rate_limited"
    if isinstance(error, HTTPStatusError):
        return "server_error" if error.status >= 500 else ""
    return "connection_lost" if isinstance(error, MCPConnectionError) else ""
