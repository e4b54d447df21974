"""What http_server.py lacks for long-lived connections: streams that are told what to say, and a server of HTTP+SSE.

::

    with conversing(on={"GET": (news := Stream())}) as (client, server):
        until(lambda: news.lines)
        news.say(event(method="notifications/message", params={"level": "info", "data": 1}))

A ``Stream`` is a manner that opens a stream of events and says on it what the test tells it to, from any thread. A
``Broken`` reply ends before the answer, and a GET that names its last event gets the next part of it. ``Keeper`` is a
server of the handshake era that also knows log levels and subscriptions; ``OldServer`` one of 2024-11-05.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from faults.http_server import EVENTS, PATH, Answer, Exchange, HungUp, Manner, Request, Server
from faults.http_tools import SERVER_OPTIONS
from faults.tools import PATIENCE, close, until

from mcp_sync import Client

TICK = 0.005
POSTS = "/messages"


# -- what is said ------------------------------------------------------------------------------------------------------


def message(**members: Any) -> str:
    """Return a JSON-RPC message as text; an id of ``"$ID"`` stands for that of the request."""
    return json.dumps({"jsonrpc": "2.0", **members}).replace('"$ID"', "$ID")


def result(text: Any = "done", id: Any = "$ID") -> str:
    """Return the answer to a tool call, whose text is this in JSON; it does in both eras."""
    content = [{"type": "text", "text": json.dumps(text)}]
    return message(id=id, result={"resultType": "complete", "content": content})


def event(data: str | None = None, /, *, at: str | None = None, **members: Any) -> str:
    """Return an event with this text, or with the message of these members; ``at`` is the id of the event."""
    text = message(**members) if data is None else data
    head = "" if at is None else f"id: {at}\n"
    return f"{head}data: {text}\n\n"


def progress(number: float, at: str | None = None) -> str:
    """Return an event with progress of the request."""
    params = {"progressToken": "$ID", "progress": number}
    return event(at=at, method="notifications/progress", params=params)


def news(number: Any, at: str | None = None) -> str:
    """Return an event with a log message."""
    return event(at=at, method="notifications/message", params={"level": "info", "data": number})


ANSWER = event(result())


# -- streams -----------------------------------------------------------------------------------------------------------


class Stream:
    """A manner: a stream of events that says what it is told.

    Args:
        first: Blocks for the beginning; ``$LINE`` is the number of the line, ``$ID`` the id of the request.

    Attributes:
        lines: The exchanges that it was asked for in, in order.
    """

    def __init__(self, *first: str) -> None:
        self.first = first
        self.lines: list[Exchange] = []
        self._ends: dict[int, str] = {}
        self._lock = threading.Lock()  # guards the sockets, so that no two write at once

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            number = len(self.lines)
            exchange.send(exchange.head(200, "Transfer-Encoding: chunked", content_type=EVENTS))
            for block in self.first:
                exchange.chunk(_filled(block, exchange, number))
            self.lines.append(exchange)
        while number not in self._ends:
            exchange.hold(TICK)
        end(exchange, self._ends[number])

    def say(self, *blocks: str, line: int = -1) -> None:
        """Say this on a line, by default the newest."""
        with self._lock:
            exchange = self.lines[line]
            for block in blocks:
                exchange.chunk(_filled(block, exchange, line))

    def end(self, how: str = "close", line: int = -1) -> None:
        """End a line: ``close`` the stream in good order, ``cut`` the connection, ``reset`` it."""
        self._ends[line % len(self.lines)] = how


def _filled(block: str, exchange: Exchange, number: int) -> bytes:
    return block.replace("$LINE", str(number)).replace("$ID", json.dumps(exchange.request.id)).encode()


def end(exchange: Exchange, how: str) -> None:
    """End a chunked reply: ``close`` in good order, ``cut``, ``reset``; ``hold`` does not end it."""
    if how == "close":
        exchange.chunk(b"")
    elif how == "cut":
        exchange.close()
    elif how == "reset":
        exchange.pause(0.05)  # or the reset overtakes what was said
        exchange.reset()
    else:
        exchange.hold()


Part = Callable[[Exchange, Any], None]


def part(*blocks: str, then: str = "close") -> Part:
    """Return a part of a reply: these events, ``$ID`` is the id of the request; then how it ends."""

    def act(exchange: Exchange, request_id: Any) -> None:
        exchange.send(exchange.head(200, "Transfer-Encoding: chunked", content_type=EVENTS))
        for block in blocks:
            exchange.chunk(block.replace("$ID", json.dumps(request_id)).encode())
        end(exchange, then)

    return act


def refusing(status: int, body: str = "", *headers: str, **about: Any) -> Part:
    """Return a part that is a whole reply with this status."""
    return lambda exchange, _: exchange.reply(status, body, *headers, **about)


class Broken:
    """A reply in parts: the first to the POST, the next to each GET that names an event, the last one again and again.

    Attributes:
        resumed: The GETs that named an event.
    """

    def __init__(self, *parts: Part) -> None:
        self.parts = list(parts)
        self.resumed: list[Request] = []
        self._id: Any = None

    def __call__(self, exchange: Exchange) -> None:
        if exchange.request.verb == "POST":
            self._id = exchange.request.id
        elif "last-event-id" not in exchange.request.headers:
            exchange.reply(405, "", "Allow: POST", content_type=None)
            return
        else:
            self.resumed.append(exchange.request)
        next_part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        next_part(exchange, self._id)

    @property
    def cursors(self) -> list[str]:
        """The events that were named."""
        return [request.headers["last-event-id"] for request in self.resumed]

    @property
    def on(self) -> dict[str, Manner]:
        """As what it is to be given to a server: the tool ``work``, and GET."""
        return {"work": self, "GET": self}


def gathers(count: int) -> Manner:
    """Answer plainly once so many requests are here."""
    here = threading.Semaphore(0)
    waiting: list[Exchange] = []

    def act(exchange: Exchange) -> None:
        waiting.append(exchange)
        if len(waiting) == count:
            for _ in range(count):
                here.release()
        while not here.acquire(timeout=TICK):
            exchange.hold(TICK)
        exchange.send(exchange.plain)

    return act


# -- servers -----------------------------------------------------------------------------------------------------------


class Keeper(Server):
    """A server of the handshake era that keeps something for each session: its log level, its subscriptions.

    Args:
        names: Makes the id of a session of its number.
        **about: As for Server.
    """

    def __init__(self, *, names: Callable[[int], str] = "session-{}".format, **about: Any) -> None:
        self._names = names
        super().__init__("handshake", **about)

    def _begin(self, request: Request) -> Answer:
        answer = super()._begin(request)
        assert answer.message is not None
        about = {"capabilities": {"tools": {}, "logging": {}, "resources": {"subscribe": True, "listChanged": True}}}
        whole = {**answer.message, "result": {**answer.message["result"], **about}}
        if not self.sessions:
            return Answer(200, whole)
        made = answer.headers["Mcp-Session-Id"]
        self.live.discard(made)
        name = self._names(int(made.rpartition("-")[2]))
        self.live.add(name)
        return Answer(200, whole, headers={"Mcp-Session-Id": name})

    def _answer_to_method(self, request: Request) -> Answer:
        if request.method in ("logging/setLevel", "resources/subscribe", "resources/unsubscribe"):
            return Answer(200, {"jsonrpc": "2.0", "id": request.id, "result": {}})
        return super()._answer_to_method(request)


@contextmanager
def conversing(*, on: Mapping[str, Any] | None = None, url: str = "", **about: Any) -> Iterator[tuple[Client, Keeper]]:
    """Give a client and its Keeper, as ``http_tools.serving`` does."""
    options = {key: about.pop(key) for key in (*SERVER_OPTIONS, "names") if key in about}
    about.setdefault("timeout", PATIENCE)
    with Keeper(on=on, **options) as server:
        client = Client(url.format(port=server.port) if url else server.url, **about)
        try:
            client.connect()
            yield client, server
        finally:
            close(client)


class OldServer(Server):
    """A server of HTTP+SSE: the stream is at /mcp, and what is posted to /messages is answered on it.

    Args:
        endpoint: What the first event says; ``$LINE`` is the number of the stream.
        refusal: The status for a POST to the stream's URL.
        **about: As for Server.

    Attributes:
        stream: The stream.
    """

    def __init__(
        self,
        *,
        on: Mapping[str, Any] | None = None,
        endpoint: str = f"{POSTS}?line=$LINE",
        refusal: int = 405,
        first: tuple[str, ...] | None = None,
        **about: Any,
    ) -> None:
        self.stream = Stream(*(first if first is not None else (f"event: endpoint\ndata: {endpoint}\n\n",)))
        self.refusal = refusal
        super().__init__(
            "handshake", sessions=False, on={"GET": self.stream, **(on or {})}, **{"version": "2024-11-05", **about}
        )

    def answer_to(self, request: Request) -> Answer:
        """Accept a message, and say its answer on the stream."""
        path = urlsplit(request.target).path
        if request.verb == "POST" and path == POSTS:
            self.respond(request)
            return Answer(202, text="Accepted")
        if request.verb == "POST" and path == PATH:
            return Answer(self.refusal, text="nothing to be posted here")
        return Answer(404, text="there is nothing here")

    def respond(self, request: Request, delay: float = 0.0) -> None:
        """Say the plain answer to a request on its stream."""
        if delay and self.over.wait(delay):
            return
        if request.method and request.id is not None:
            answer = self._answer_to_method(request)
            self.say(event(json.dumps(answer.message)), line=line_of(request))

    def say(self, *blocks: str, line: int = -1) -> None:
        """Say this on a stream; if its client has gone, nobody hears it."""
        try:
            self.stream.say(*blocks, line=line)
        except (HungUp, OSError):
            pass

    @property
    def posted(self) -> list[Request]:
        """The POSTs to the endpoint."""
        return [request for request in self.posts() if urlsplit(request.target).path == POSTS]


def line_of(request: Request) -> int:
    """Return the number of the stream that a message belongs to."""
    return int(parse_qs(urlsplit(request.target).query).get("line", ["-1"])[0])


def answers_without_accepting(exchange: Exchange) -> None:
    """Answer on the stream, and never the POST."""
    server = exchange.server
    assert isinstance(server, OldServer)
    server.respond(exchange.request)
    exchange.hold()


def accepts(exchange: Exchange) -> None:
    """Accept the message, and never answer it."""
    exchange.reply(202, "Accepted", content_type="text/plain")


@contextmanager
def listening(
    *, on: Mapping[str, Any] | None = None, transport: Callable[[OldServer], Any] | None = None, **about: Any
) -> Iterator[tuple[Client, OldServer]]:
    """Give a connected client of HTTP+SSE and its server.

    Keywords are those of the server, and of the client or its transport; ``transport`` makes the latter.
    """
    options = {key: about.pop(key) for key in (*SERVER_OPTIONS, "endpoint", "refusal", "first") if key in about}
    own = {key: about.pop(key) for key in CLIENT_OPTIONS if key in about}
    own.setdefault("timeout", PATIENCE)
    with OldServer(on=on, **options) as server:
        made = transport(server) if transport is not None else sse(server.url, **about)
        client = Client(made, **own)
        try:
            client.connect()
            yield client, server
        finally:
            close(client)


CLIENT_OPTIONS = ("timeout", "elicitation", "sampling", "roots", "on_notification", "on_log", "log_level")


def sse(url: str, **knobs: Any) -> Any:
    """Return the transport for the stream at a URL."""
    from mcp_sync import SSETransport

    return SSETransport(url, "", **knobs)


def quiet(server: Server) -> bool:
    """Wait until no connection of the server is busy."""
    return bool(until(lambda: not server.busy))
