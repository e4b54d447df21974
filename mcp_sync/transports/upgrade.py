"""Upgrade: how an HTTP connection becomes a WebSocket, by websocket-client. The one module that imports it.

The library asks and judges the answer; it never sees our socket. What it talks to is a Door: that writes and reads by
one deadline for all of it, reads a bounded head, hands over no cookies of other connections and takes none, and shows
it no answer but an upgrade: whatever else the server says is for us to judge. The frames afterwards are ours
(protocol/frames.py).

What is used of websocket-client is documented, but for what it asks of a socket that it is given: ``send``, ``recv``,
``gettimeout``, ``settimeout`` and ``close`` (seen to work with 1.9).

Source: RFC 6455, sections 4.1 and 4.2.2.
"""

from __future__ import annotations

import io
import select
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import websocket

from ..deadlines import Deadline
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from ..protocol.deflate import OFFER, Agreed, agreed
from .lines import Line, await_line

HEAD_BYTES = 1 << 16
"""The longest head of an answer, with those of provisional answers before it."""
READ_BYTES = 1 << 16
BODY_BYTES = 1 << 12
"""How much is read of the body of an answer that is no upgrade."""
BODY_SECONDS = 0.5
"""How long that is waited for."""
UPGRADED = 101


@dataclass(frozen=True)
class Offer:
    """What we ask for.

    Attributes:
        url: Where, in ASCII.
        host: What the server is called in ``Host``.
        headers: Beside those that make a WebSocket of it.
        subprotocols: Which we speak, the best first.
        compression: Whether we offer to compress.
    """

    url: str = field(repr=False)
    host: str
    headers: Mapping[str, str] = field(repr=False)
    subprotocols: Sequence[str] = ()
    compression: bool = False


@dataclass(frozen=True)
class Upgraded:
    """What we were given.

    Attributes:
        subprotocol: What is spoken; empty where we named none.
        compression: How the server compresses; None: not at all.
        rest: What came behind the head: the first frames.
    """

    subprotocol: str
    compression: Agreed | None
    rest: bytes = field(repr=False)


class Declined(Exception):
    """The server answered, but not with an upgrade.

    Attributes:
        status: Its HTTP status.
        headers: Its headers, by names in lower case.
        body: The beginning of its body.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


def upgrade(line: Line, offer: Offer, deadline: Deadline) -> Upgraded:
    """Ask for a WebSocket, and return when the server has agreed.

    Raises:
        Declined: It answered otherwise.
        MCPConnectionError: It hung up.
        MCPTimeoutError: It was not done by the deadline.
        RemoteProtocolError: What it said makes no sense.
    """
    door = Door(line, offer, deadline)
    wanted = [f"{name}: {value}" for name, value in offer.headers.items()]
    if offer.compression:
        wanted.append(f"Sec-WebSocket-Extensions: {OFFER}")
    theirs = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
    flaw: Exception
    try:
        theirs.connect(  # type: ignore[no-untyped-call]  # it has types, but not here
            offer.url,
            socket=door,
            header=wanted,
            host=offer.host,
            subprotocols=list(offer.subprotocols) or None,
            suppress_origin=True,
            redirect_limit=0,
            http_no_proxy=["*"],
        )
        return door.upgraded()
    except (websocket.WebSocketException, OSError, ValueError, MCPError, Declined) as error:
        flaw = door.failure or RemoteProtocolError(
            f"the server's answer to the upgrade makes no WebSocket ({type(error).__name__})", may_have_run=False
        )
    raise flaw  # out here, where nothing shows the library's text, which quotes the server's headers


class Door:
    """Stands where the library expects a socket: bounded, and it lets through only what concerns the upgrade.

    Attributes:
        failure: Why it failed; the library makes something of its own of it.
    """

    def __init__(self, line: Line, offer: Offer, deadline: Deadline) -> None:
        self._line = line
        self._offer = offer
        self._deadline = deadline
        self._head: io.BytesIO | None = None
        self._rest = b""
        self._headers: dict[str, str] = {}
        self.failure: Exception | None = None

    # -- what the library calls ---------------------------------------------------------------------------------------

    def send(self, data: bytes) -> int:
        """Write all of the request, but for cookies that the library has of others."""
        given = {f"{name}: {value}" for name, value in self._offer.headers.items()}
        lines = data.decode("utf-8").split("\r\n")
        ours = [one for one in lines if not one.lower().startswith("cookie:") or one in given]
        try:
            _write(self._line, "\r\n".join(ours).encode("latin-1"), self._deadline)
        except (OSError, MCPError) as error:
            self.failure = _as_mcp(error)
            raise
        return len(data)

    def recv(self, size: int) -> bytes:
        """Read of the answer's head, when all of it has come and it is an upgrade."""
        if self._head is None:
            try:
                self._head = io.BytesIO(self._read_answer())
            except (OSError, MCPError, Declined) as error:
                self.failure = _as_mcp(error)
                raise OSError("no upgrade") from None
        return self._head.read(size)

    def gettimeout(self) -> float | None:
        """Return None: the deadline is ours to keep."""
        return None

    def settimeout(self, seconds: float | None) -> None:
        """Do nothing, likewise."""

    def close(self) -> None:
        """Do nothing: the socket is ours."""

    # -- what it does -------------------------------------------------------------------------------------------------

    def upgraded(self) -> Upgraded:
        """Return what the answer says, which the library has found to be an upgrade."""
        return Upgraded(self._subprotocol(), self._compression(), self._rest)

    def _read_answer(self) -> bytes:
        """Return the head of the answer without its cookies, once it is known to be an upgrade."""
        heard = b""
        while True:
            head, heard = _read_head(self._line, heard, self._deadline)
            status = _status_of(head)
            if not 100 <= status < 200 or status == UPGRADED:
                break
        self._headers = _headers_of(head)
        if status != UPGRADED:
            raise Declined(status, self._headers, _read_body(self._line, self._headers, heard, self._deadline))
        self._rest = heard
        self._subprotocol()
        self._compression()
        kept = [one for one in head.split(b"\n") if not one.lower().startswith(b"set-cookie")]
        return b"\n".join(kept)

    def _subprotocol(self) -> str:
        """Return what the server wants to speak; raises RemoteProtocolError where that is none of what we do."""
        chosen = self._headers.get("sec-websocket-protocol", "")
        wanted = self._offer.subprotocols
        if chosen.lower() in [one.lower() for one in wanted] or (not chosen and not wanted):
            return chosen
        asked = ", ".join(wanted) or "none"
        if chosen:
            raise _nonsense(f"the server speaks the subprotocol {chosen[:100]!r}; we asked for {asked} (subprotocols)")
        raise _nonsense(
            f"the server chose no subprotocol; we asked for {asked}. If it knows none, give subprotocols=()"
        )

    def _compression(self) -> Agreed | None:
        try:
            return agreed(self._headers.get("sec-websocket-extensions", ""), self._offer.compression)
        except ValueError as flaw:
            raise _nonsense(f"the server uses {flaw}") from None


def tunnel(line: Line, place: str, credentials: str | None, deadline: Deadline) -> None:
    """Have a proxy lead a line on to a server, and return when it does (RFC 9110, section 9.3.6).

    Args:
        line: To the proxy.
        place: Host and port of the server.
        credentials: The value of ``Proxy-Authorization``.
        deadline: For all of it.

    Raises:
        Declined: The proxy does not.
        MCPConnectionError: It hung up.
        MCPTimeoutError: It was not done by the deadline.
        RemoteProtocolError: What it said makes no sense.
    """
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    lines += [] if credentials is None else [f"Proxy-Authorization: {credentials}"]
    try:
        _write(line, "\r\n".join([*lines, "", ""]).encode("ascii"), deadline)
        head, heard = _read_head(line, b"", deadline)
        status, headers = _status_of(head), _headers_of(head)
        if not 200 <= status < 300:
            raise Declined(status, headers, _read_body(line, headers, heard, deadline))
    except OSError as error:
        if isinstance(error, MCPError):
            raise
        raise _as_mcp(error) from error
    if heard:
        raise _nonsense("the proxy says something before anybody was asked")


# -- reading and writing by a deadline --------------------------------------------------------------------------------


def _write(line: Line, data: bytes, deadline: Deadline) -> None:
    line.put(data)
    while not line.flush():
        await_line(line, select.POLLOUT, deadline, "the upgrade could not be asked for")


def _read(line: Line, deadline: Deadline) -> bytes:
    while True:
        if deadline.expired:  # though there may always be something to read
            raise MCPTimeoutError("the server did not answer the upgrade in time", may_have_run=False)
        try:
            return line.read(READ_BYTES)
        except BlockingIOError:
            await_line(line, select.POLLIN, deadline, "the server did not answer the upgrade")


def _read_head(line: Line, heard: bytes, deadline: Deadline) -> tuple[bytes, bytes]:
    """Return a head with the blank line at its end, and what came behind it."""
    while True:
        for end in (b"\r\n\r\n", b"\n\n"):
            if (at := heard.find(end)) >= 0:
                return heard[: at + len(end)], heard[at + len(end) :]
        if len(heard) > HEAD_BYTES:
            raise _nonsense(f"the head of the answer is longer than {HEAD_BYTES} bytes")
        if not b"HTTP/".startswith(heard[:5]):
            raise _nonsense(f"the server does not speak HTTP; it begins with {_shown(heard)!r}")
        piece = _read(line, deadline)
        if not piece:
            text = "the server closed the connection without an answer to the upgrade"
            raise MCPConnectionError(text, may_have_run=False)
        heard += piece


def _read_body(line: Line, headers: Mapping[str, str], heard: bytes, deadline: Deadline) -> bytes:
    """Return the beginning of a body, or what of it comes in a moment."""
    patience = deadline.sooner(BODY_SECONDS)
    length = headers.get("content-length", "")
    most = min(int(length), BODY_BYTES) if length.isdigit() and len(length) < 19 else BODY_BYTES
    try:
        while len(heard) < most and (piece := _read(line, patience)):
            heard += piece
    except (OSError, MCPTimeoutError):
        pass  # what has come will do
    return heard[:BODY_BYTES]


def _as_mcp(error: Exception) -> Exception:
    if isinstance(error, (MCPError, Declined)):
        return error
    why = getattr(error, "strerror", None) or type(error).__name__
    broken = MCPConnectionError(f"the connection broke during the upgrade: {why}", may_have_run=False)
    broken.__cause__ = error
    return broken


def _nonsense(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, may_have_run=False)


def _status_of(head: bytes) -> int:
    line = head.split(b"\n", 1)[0].split(None, 2)
    if len(line) < 2 or not line[0].startswith(b"HTTP/1.") or len(line[1]) != 3 or not line[1].isdigit():
        raise _nonsense(f"the server does not speak HTTP; it begins with {_shown(head)!r}")
    return int(line[1])


def _headers_of(head: bytes) -> dict[str, str]:
    """Return the headers by their names in lower case; of one that came twice, the values with a comma between."""
    found: dict[str, str] = {}
    for one in head.decode("latin-1").split("\n")[1:]:
        name, colon, value = one.partition(":")
        name, value = name.strip().lower(), value.strip()
        if colon:
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _shown(data: bytes) -> str:
    return data[:60].decode("ascii", "replace")
