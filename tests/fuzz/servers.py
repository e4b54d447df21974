"""Fuzz targets: whatever a client says to a server, over whichever binding: one answer for each id, and no exception.

I18 of FAULTS.md: one bad request never stops the loop, every request with an id gets exactly one response. What a
request is, and what is none, is told by ``decode``, which has a target of its own (messages.py).
"""

from __future__ import annotations

import io
import json
import os
import queue
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faults.ws_server import CLOSE, CONTINUATION, PING, TEXT, made
from fuzz.provider import Provider
from fuzz.stage import nothing_fails, standing
from server.ws_guests import KEY, RawClient

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import PipeChannel
from mcp_sync.engine.dispatch import join, start_thread
from mcp_sync.exceptions import MCPError
from mcp_sync.policies import Limits
from mcp_sync.protocol.messages import Batch, Malformed, Message, Notification, Request, decode
from mcp_sync.protocol.session import LISTEN
from mcp_sync.server import Context, Server
from mcp_sync.server.stdio import StdioChannel, StdioPipe
from mcp_sync.server.websocket import WebSocketHost
from mcp_sync.server.wsgi import WsgiApp
from mcp_sync.transports.memory import memory_pipes

PATIENCE = 10.0
LIMIT = 20_000
STATELESS = "2026-07-28"
META = "io.modelcontextprotocol/"
LAST = "the last one"
METHODS = ("tools/call", "ping", "tools/list", "initialize", "server/discover", "resources/read", "prompts/get")
METHODS += ("completion/complete", "logging/setLevel", "resources/subscribe", LISTEN, "tasks/get", "x", "prompts/list")
NOTES = ("notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/x")


def make_server() -> Server:
    """Return a server that has a little of everything."""
    server = Server("fuzzed", max_message_size=LIMIT, secret_key="fuzz")

    @server.tool()
    def echo(value: Any = None) -> dict[str, Any]:
        return {"value": value}

    @server.tool()
    def add(a: int, b: int = 1) -> int:
        return a + b

    @server.tool()
    def ask(context: Context, question: str = "?") -> str:
        try:
            return context.elicit(question, {"type": "object", "properties": {}}).action
        except MCPError as why:  # it cannot be asked, or has gone
            return str(why)

    @server.resource("a://{x}")
    def read(x: str) -> str:
        return x

    @server.prompt()
    def prompt(x: str) -> str:
        return x

    return server


@contextmanager
def _server() -> Iterator[Server]:
    server = make_server()
    try:
        yield server
    finally:
        server.close()


# -- what a client says -----------------------------------------------------------------------------------------------


def _said(feed: Provider) -> bytes:
    """Return one message, or what should be one: bytes as they are, a request, a notification, or an answer."""
    kind = feed.below(6)
    if kind == 0:
        return feed.line()
    if kind == 1:
        return b"[" + b",".join(_said(feed) for _ in range(feed.below(4))) + b"]"
    message: dict[str, Any] = {"jsonrpc": "2.0"} if feed.byte() != ord("x") else {}
    if kind in (2, 3):
        message |= {"id": _id(feed), "method": feed.pick(METHODS), "params": _params(feed)}
    elif kind == 4:
        message |= {"method": feed.pick(NOTES), "params": {"requestId": _id(feed), "progressToken": 1, "progress": 1}}
    else:
        message |= {"id": _id(feed), feed.pick(("result", "error")): _value(feed, 0)}
    return json.dumps(message).replace('"1e999"', "1e999").encode()  # a number that Python's JSON would not write


def _id(feed: Provider) -> Any:
    return feed.pick((1, 2, "a", 1, 3, None, 1.0, True, [], 10**20, "", "server-1", 0, -1))


def _params(feed: Provider) -> Any:
    kind = feed.below(8)
    if kind == 7:
        return _value(feed, 0)
    tool = feed.pick(("echo", "add", "ask", "nothing", ""))
    if tool == "add":
        arguments: Any = {"a": _value(feed, 2), "b": _value(feed, 2)}
    else:
        name = feed.pick(("value", "question", "x"))
        arguments = _value(feed, 0) if feed.byte() == ord("?") else {name: _value(feed, 0)}
    params = {"name": tool, "arguments": arguments, "uri": feed.pick(("a://b", "x", _value(feed, 3))), "level": "debug"}
    if kind in (1, 2, 3):
        version = feed.pick((STATELESS, STATELESS, STATELESS, "2025-11-25", "x", _value(feed, 3)))
        capabilities = feed.pick(({}, {"elicitation": {"form": {}}}, _value(feed, 3)))
        params["_meta"] = {META + "protocolVersion": version, META + "clientCapabilities": capabilities}
    if kind in (3, 4):
        params |= {feed.pick(("requestState", "inputResponses", "cursor", "ref", "taskId")): _value(feed, 0)}
    version = feed.pick(("2025-11-25", "2025-03-26", "2024-11-05", "x"))
    info = {"name": "f", "version": ""}
    params |= {"protocolVersion": version, "capabilities": {"elicitation": {}}, "clientInfo": info}
    return {**params, "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["a://b"]}}


def _value(feed: Provider, depth: int) -> Any:
    kind = feed.below(5) if depth < 3 else 2
    if kind == 0:
        names = ("a", "value", "action", "content", "")
        return {feed.pick(names): _value(feed, depth + 1) for _ in range(feed.below(3))}
    if kind == 1:
        return [_value(feed, depth + 1) for _ in range(feed.below(3))]
    if kind == 2:
        return feed.pick(("", "a", "\ud800", "\x00", "é\U0001f600", 0, 1, -1, 1.5, 10**30, None, True, False, "1e999"))
    return feed.text()


# -- who is owed what -------------------------------------------------------------------------------------------------


class Debts:
    """How many answers a client may expect, of which id, by what it has said."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._free: set[str] = set()
        self._least = self._most = 0
        self._given: Counter[str] = Counter()
        self.flaws: list[str] = []

    def said(self, message: Message, in_batch: bool = False) -> None:
        """Take note of what the client says."""
        if isinstance(message, Request):
            self._asked[_key(message.id)] += 1
            self._owe(1)
            if message.method == LISTEN:  # is answered when it ends
                self._free.add(_key(message.id))
        elif isinstance(message, Batch):
            for one in message.messages:
                self.said(one, in_batch=True)
        elif isinstance(message, Malformed):
            if message.asks is not None:
                self._asked[_key(message.asks)] += 1
                self._free.add(_key(message.asks))  # may have the id of one that is being answered
            self._owe(1)
        elif isinstance(message, Notification) and message.method == "notifications/cancelled":
            self._free.add(_key((message.params or {}).get("requestId")))
        if in_batch and not isinstance(message, (Request, Malformed)):
            self._most += 1  # where there are no batches, each part of one is told so

    def _owe(self, count: int) -> None:
        self._least += count
        self._most += count

    def heard(self, raw: bytes) -> dict[str, Any] | None:
        """Take note of what the server says; a question of its own is returned."""
        message = json.loads(raw)
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self.flaws.append(f"no message of JSON-RPC: {raw[:200]!r}")
        elif "method" in message:
            return message if "id" in message else None
        elif "id" not in message or ("result" in message) == ("error" in message) or b"Traceback" in raw:
            self.flaws.append(f"no answer: {raw[:200]!r}")
        else:
            self._given[_key(message["id"])] += 1
        return None

    def __repr__(self) -> str:
        return f"asked {dict(self._asked)}, given {dict(self._given)}, at least {self._least}, free {self._free}"

    @property
    def paid(self) -> bool:
        """Whether all that is owed for certain has come."""
        if self.flaws:
            return True
        free = sum(count for key, count in self._asked.items() if key in self._free)
        each = all(self._given[key] for key in self._asked if key not in self._free)
        return each and sum(self._given.values()) >= self._least - free

    def check(self) -> None:
        """Fail if somebody got too much, or what nobody asked for."""
        assert not self.flaws, self.flaws
        for key, count in self._given.items():
            if key != "null":
                assert count <= self._asked[key], f"{count} answers for {key}, which was asked {self._asked[key]} times"
        assert sum(self._given.values()) <= self._most, (self._given, self._asked, self._most)


def _key(request_id: Any) -> str:
    return json.dumps(request_id)


_META = {META + "protocolVersion": STATELESS, META + "clientCapabilities": {}}
_LAST = json.dumps({"jsonrpc": "2.0", "id": LAST, "method": "server/discover", "params": {"_meta": _META}}).encode()


class Talk:
    """A client's end of a connection: what it says, and what it hears.

    Attributes:
        debts: Who is owed what.
    """

    def __init__(self) -> None:
        self.debts = Debts()
        self._came: queue.Queue[bytes | None] = queue.Queue()
        self._reader = start_thread("mcp-fuzz-reader", self._read_on)

    def say(self, data: bytes) -> None:
        """Send one message."""
        raise NotImplementedError

    def hear(self) -> list[bytes]:
        """Wait for messages; an empty answer is the end."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """End the connection, so that the server notices; and give back what was had for it."""
        raise NotImplementedError

    def _read_on(self) -> None:
        while messages := self.hear():
            for message in messages:
                self._came.put(message)
        self._came.put(None)

    def converse(self, messages: list[bytes]) -> None:
        """Say all this, answer what is asked, wait for all that is owed, and see that nothing more comes."""
        for message in [*messages, _LAST]:
            self.debts.said(decode(message))
            self.say(message)
        try:
            self._settle()
        finally:
            self.hang_up()
        while (raw := self._came.get(timeout=PATIENCE)) is not None:
            self.debts.heard(raw)
        assert join(self._reader, Deadline(PATIENCE))
        self.debts.check()

    def _settle(self) -> None:
        while not self.debts.paid:
            try:
                raw = self._came.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"nothing came for {PATIENCE} s, but this is owed: {self.debts}") from None
            assert raw is not None, "the server has hung up"
            question = self.debts.heard(raw)
            if question is not None:
                answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
                self.say(json.dumps(answer).encode())


# -- memory and stdio -------------------------------------------------------------------------------------------------


class _Memory(Talk):
    def __init__(self, server: Server) -> None:
        self._pipe, theirs = memory_pipes()
        self._conversation = server.serve(PipeChannel(theirs, Limits(message_size=LIMIT)))
        super().__init__()

    def say(self, data: bytes) -> None:
        self._pipe.write(data, Deadline(PATIENCE))

    def hear(self) -> list[bytes]:
        return list(self._pipe.read())  # type: ignore[arg-type]

    def hang_up(self) -> None:
        self._pipe.hang_up(Deadline(PATIENCE))
        assert self._conversation.wait(PATIENCE), "the conversation has not ended"


class _Stdio(Talk):
    """Lines over two pipes, in pieces of any size."""

    def __init__(self, server: Server, feed: Provider) -> None:
        (reads, self._writes), (self._reads, writes) = os.pipe(), os.pipe()
        self._cut = feed.byte
        self._conversation = server.serve(StdioChannel(StdioPipe(reads, writes, LIMIT), Limits(message_size=LIMIT)))
        os.close(reads)
        os.close(writes)
        self._rest = b""
        super().__init__()

    def say(self, data: bytes) -> None:
        for piece in Provider(bytes([self._cut()])).pieces(data.replace(b"\n", b" ") + b"\n"):
            os.write(self._writes, piece)

    def hear(self) -> list[bytes]:
        while chunk := os.read(self._reads, 1 << 16):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if lines:
                return lines
        os.close(self._reads)
        return []

    def hang_up(self) -> None:
        os.close(self._writes)
        assert self._conversation.wait(PATIENCE), "the conversation has not ended"


def server_conversation(data: bytes) -> None:
    """A server in memory, or over pipes, answers each request once, whatever comes before, after and between."""
    feed = Provider(data)
    stdio = feed.flag()
    said = [_said(feed).replace(b"\n", b" ") for _ in range(feed.below(8))]
    messages = [message for message in said if message.strip(b" \t\r")]
    with nothing_fails():
        server = standing(_server)
        (_Stdio(server, feed) if stdio else _Memory(server)).converse(messages)


# -- WSGI -------------------------------------------------------------------------------------------------------------

STATUSES = {200, 202, 204, 400, 403, 404, 405, 406, 408, 411, 413, 415, 421, 503}
HEADERS = ("HTTP_ACCEPT", "CONTENT_TYPE", "HTTP_MCP_PROTOCOL_VERSION", "HTTP_MCP_SESSION_ID", "HTTP_MCP_METHOD")
HEADERS += ("HTTP_MCP_NAME", "HTTP_LAST_EVENT_ID", "HTTP_ORIGIN", "HTTP_HOST", "CONTENT_LENGTH", "REMOTE_ADDR")
HEADERS += ("QUERY_STRING", "HTTP_AUTHORIZATION", "HTTP_CONTENT_ENCODING", "REQUEST_METHOD", "HTTP_TRANSFER_ENCODING")
HEADERS += ("PATH_INFO",)
VALUES = ("2025-11-25", STATELESS, "text/event-stream", "tools/call", "echo", "0", "localhost", "gzip")


@contextmanager
def _wsgi() -> Iterator[WsgiApp]:
    with _server() as server:
        app = server.wsgi_app(max_body_size=LIMIT)
        try:
            yield app
        finally:
            app.close()


def wsgi_requests(data: bytes) -> None:
    """A WSGI application answers any environ once, with a status and a body that belong together."""
    feed = Provider(data)
    app = standing(_wsgi)
    method = feed.pick(("POST", "POST", "POST", "GET", "DELETE", "HEAD", "PUT", feed.latin()))
    given = {}
    for _ in range(feed.below(6)):
        given[feed.pick(HEADERS)] = feed.pick(VALUES) if feed.flag() else feed.latin().replace("\0", "")
    body = _said(feed)
    if isinstance(message := decode(body), Request) and feed.below(4) != 3:
        given = {**_mirrored(message), **given}
    with nothing_fails():
        status, headers, content = _called(app, {**_environ(method, body), **given}, body)
    assert status in STATUSES, status
    assert content is None or len(content) == int(headers.get("Content-Length", len(content)))
    if content:
        _check_body(content, decode(body), headers)


def _environ(method: str, body: bytes) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "/mcp",
        "PATH_INFO": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost:8000",
        "HTTP_ACCEPT": "application/json, text/event-stream",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
    }


def _mirrored(message: Request) -> dict[str, str]:
    params = message.params or {}
    meta = params.get("_meta")
    if not isinstance(meta, dict) or meta.get(META + "protocolVersion") != STATELESS:
        return {}
    name = params.get("uri" if message.method.startswith("resources/") else "name")
    named = {"HTTP_MCP_NAME": name} if isinstance(name, str) and name.isascii() else {}
    return {"HTTP_MCP_PROTOCOL_VERSION": STATELESS, "HTTP_MCP_METHOD": message.method, **named}


def _called(app: WsgiApp, environ: dict[str, Any], body: bytes) -> tuple[int, dict[str, str], bytes | None]:
    """Return status, headers and body; None where that is a stream, of which nothing is read but what is there."""
    begun: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
        assert not begun, "the response was begun twice"
        begun.append((status, headers))

    result = app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)  # type: ignore[arg-type]
    try:
        ((status, fields),) = begun
        headers = dict(fields)
        assert len(headers) == len(fields)
        assert all((name + value).isprintable() and value.isascii() for name, value in fields), fields
        stream = headers.get("Content-Type") == "text/event-stream"
        return int(status.split()[0]), headers, None if stream else b"".join(result)
    finally:
        getattr(result, "close", lambda: None)()


def _check_body(content: bytes, message: Message, headers: dict[str, str]) -> None:
    if headers.get("Content-Type") != "application/json":
        return
    answers = json.loads(content)
    for answer in answers if isinstance(answers, list) else [answers]:
        assert answer["jsonrpc"] == "2.0"
        assert ("result" in answer) != ("error" in answer)
        assert b"Traceback" not in content
        if isinstance(message, Request) and answer["id"] is not None:
            assert _key(answer["id"]) == _key(message.id)


# -- WebSocket --------------------------------------------------------------------------------------------------------


@contextmanager
def _websocket() -> Iterator[WebSocketHost]:
    with _server() as server:
        host = WebSocketHost(server.serve, port=0, limits=Limits(message_size=LIMIT))
        host.start()
        try:
            yield host
        finally:
            host.close(Deadline(PATIENCE))


class _WebSocket(Talk):
    """Frames over a socket of the loopback interface, a message in one or in several."""

    def __init__(self, host: WebSocketHost, feed: Provider) -> None:
        self._client = RawClient(int(host.url.rpartition(":")[2].partition("/")[0]))
        self._client.upgrade()
        self._host, self._feed = host, feed
        super().__init__()

    def say(self, data: bytes) -> None:
        first, *rest = Provider(bytes([self._feed.byte()])).pieces(data) if data else [b""]
        frames = made(TEXT, first, fin=not rest, key=KEY)
        for number, piece in enumerate(rest, 1):
            frames += made(PING, b"p", key=KEY) + made(CONTINUATION, piece, fin=number == len(rest), key=KEY)
        self._client.sock.sendall(frames)

    def hear(self) -> list[bytes]:
        while (frame := self._client.frame()) is not None:
            if frame[0] & 0x0F == TEXT:
                return [frame[1]]
        return []

    def hang_up(self) -> None:
        self._client.send(CLOSE, b"\x03\xe8")
        assert join(self._reader, Deadline(PATIENCE)), "the server has not closed"
        self._client.sock.close()


def websocket_requests(data: bytes) -> None:
    """A WebSocket host answers each request once; and whoever breaks the protocol is sent away, and nobody else."""
    feed = Provider(data)
    what = feed.below(3)
    with nothing_fails():
        host = standing(_websocket)
        if what == 0:
            messages = [message for _ in range(feed.below(6)) if _is_text(message := _said(feed))]
            _WebSocket(host, feed).converse(messages)
        else:
            _misbehave(host, feed, upgraded=what == 1)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _misbehave(host: WebSocketHost, feed: Provider, upgraded: bool) -> None:
    """Send whatever there is, instead of frames or of a head; the server has to end the connection."""
    with RawClient(int(host.url.rpartition(":")[2].partition("/")[0])) as client:
        if upgraded:
            client.upgrade()
        elif feed.flag():
            client.sock.sendall(client.head(**{feed.pick(("Host", "Origin", "Upgrade", "Connection")): feed.latin()}))
        client.sock.sendall(feed.rest())
        client.sock.shutdown(socket.SHUT_WR)
        said = b""
        try:
            while chunk := client.sock.recv(1 << 16):
                said += chunk
        except ConnectionError:
            pass  # it had not read all of it
        assert upgraded or not said or said.startswith(b"HTTP/1.1 "), said[:100]
