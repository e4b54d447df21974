"""The servers of the soak that listen: ``servers.py KIND PORT``, one process each, misbehaving by tool name.

The kinds are ``stateless``, ``handshake`` (streamable HTTP of both eras), ``sse`` (2024-11-05), ``ws-stateless`` and
``ws-handshake``. What a tool does is in the tables HTTP, SSE and WEBSOCKET; any other answers with its arguments.
SIGUSR1 resets every connection there is; the process leaves when its stdin ends.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program we know only our own folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from faults import http_server, http_streams, http_tools, ws_server

KINDS = ("stateless", "handshake", "sse", "ws-stateless", "ws-handshake")
LONG = 300_000
"""Bytes of an answer that is too long; the clients of the soak take 200,000."""
NEWS = 300
LIFETIME = 3 * 3600
NEWSLINE = '{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}'
BROKEN = '{"jsonrpc": "2.0", "id": $ID, "result": [}'
FOREIGN = '{"jsonrpc": "2.0", "id": "somebody else", "result": {"content": []}}'
REFUSED = '{"jsonrpc": "2.0", "id": $ID, "error": {"code": -32000, "message": "no"}}'


def patience() -> float:
    """How late a late answer is: some are in time, some are not."""
    return random.choice([0.01, 0.05, 0.1, 0.3, 0.6])


# -- HTTP --------------------------------------------------------------------------------------------------------------


def late(exchange: http_server.Exchange) -> None:
    http_server.late(patience())(exchange)


def half(exchange: http_server.Exchange) -> None:
    exchange.send(exchange.plain[: -len(exchange.body) // 2])
    exchange.close()


def stalls(exchange: http_server.Exchange) -> None:
    exchange.send(exchange.plain[: -len(exchange.body) // 2])
    exchange.hold()


def slowly(exchange: http_server.Exchange) -> None:
    exchange.drip(exchange.plain, 0.002, 8)


def long(exchange: http_server.Exchange) -> None:
    exchange.reply(200, json.dumps({"jsonrpc": "2.0", "id": exchange.request.id, "result": {"x": "y" * LONG}}))


def endless(exchange: http_server.Exchange) -> None:
    exchange.send(exchange.head(200, "Transfer-Encoding: chunked"))
    while True:
        exchange.chunk(b"x" * 8192)
        exchange.pause(0.001)


def forgets(exchange: http_server.Exchange) -> None:
    exchange.server.forget_sessions()
    exchange.send(exchange.plain)


def _in_events(*before: str, **how: Any) -> Callable[[http_server.Exchange], None]:
    return http_server.streams(*(f"data: {text}\n\n" for text in before), **how)


HTTP: dict[str, Callable[[http_server.Exchange], None]] = {
    "late": late,
    "silent": http_server.silent,
    "bad": http_server.replies(200, BROKEN),
    "foreign": http_server.replies(200, FOREIGN),
    "no": http_server.replies(200, REFUSED),
    "long": long,
    "endless": endless,
    "half": half,
    "stalls": stalls,
    "drip": slowly,
    "dies": http_tools.closes,
    "reset": http_tools.resets,
    "garbage": http_server.says(b"\xff\xfe\x00 220 ready\r\n\r\n"),
    "e500": http_server.replies(500, "oops", content_type="text/plain"),
    "e503": http_server.replies(503, "", "Retry-After: 1", content_type="text/plain"),
    "e429": http_server.replies(429, "", "Retry-After: 1", content_type="text/plain"),
    "e403": http_server.replies(403, "no", content_type="text/plain"),
    "moved": http_server.replies(307, "", "Location: http://127.0.0.1:1/elsewhere"),
    "lost": forgets,
    "flood": _in_events(*[NEWSLINE] * NEWS),
    "twice": _in_events('{"jsonrpc": "2.0", "id": $ID, "result": {"content": [], "resultType": "complete"}}'),
    "cut": _in_events(NEWSLINE, answer=False),
    "mute": _in_events(NEWSLINE, answer=False, then="hold"),
}


# -- HTTP+SSE: the answer comes on the stream, the POST is accepted ----------------------------------------------------


def _says(text: str, times: int = 1) -> Callable[[http_server.Exchange], None]:
    def act(exchange: http_server.Exchange) -> None:
        server = exchange.server
        assert isinstance(server, http_streams.OldServer)
        exchange.reply(202, "Accepted", content_type="text/plain")
        said = text.replace("$ID", json.dumps(exchange.request.id))
        server.say(*[f"data: {said}\n\n"] * times, line=http_streams.line_of(exchange.request))

    return act


def _later(seconds: Callable[[], float], times: int = 1) -> Callable[[http_server.Exchange], None]:
    def act(exchange: http_server.Exchange) -> None:
        server = exchange.server
        assert isinstance(server, http_streams.OldServer)
        exchange.reply(202, "Accepted", content_type="text/plain")
        for _ in range(times):
            server.respond(exchange.request, seconds())

    return act


def _ends(how: str) -> Callable[[http_server.Exchange], None]:
    def act(exchange: http_server.Exchange) -> None:
        server = exchange.server
        assert isinstance(server, http_streams.OldServer)
        exchange.reply(202, "Accepted", content_type="text/plain")
        server.stream.end(how, line=http_streams.line_of(exchange.request))

    return act


def _news(exchange: http_server.Exchange) -> None:
    _says(NEWSLINE, NEWS)(exchange)
    server = exchange.server
    assert isinstance(server, http_streams.OldServer)
    server.respond(exchange.request)


SSE: dict[str, Callable[[http_server.Exchange], None]] = {
    "late": _later(patience),
    "silent": http_streams.accepts,
    "unaccepted": http_streams.answers_without_accepting,
    "bad": _says(BROKEN),
    "foreign": _says(FOREIGN),
    "no": _says(REFUSED),
    "garbage": _says("\x00 ready"),
    "long": _says('{"jsonrpc": "2.0", "id": $ID, "result": {"x": "' + "y" * LONG + '"}}'),
    "twice": _later(lambda: 0.0, 2),
    "flood": _news,
    "cut": _ends("cut"),
    "dies": _ends("close"),
    "reset": _ends("reset"),
    "e500": HTTP["e500"],
    "e429": HTTP["e429"],
    "stalls": http_server.silent,
}


# -- WebSocket ---------------------------------------------------------------------------------------------------------


def ws_late(exchange: ws_server.Exchange) -> None:
    threading.Timer(patience(), _quietly(exchange.answer)).start()  # others are answered meanwhile


def _quietly(act: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            act()
        except (ws_server.HungUp, OSError):
            pass  # nobody waits for it any more

    return run


def _frames(*texts: str, then: str = "go on", opcode: int = ws_server.TEXT) -> Callable[[ws_server.Exchange], None]:
    def act(exchange: ws_server.Exchange) -> None:
        said = [text.replace("$ID", json.dumps(exchange.message["id"])).encode() for text in texts]
        exchange.send(b"".join(ws_server.made(opcode, text) for text in said))
        ws_server.finish(exchange, then)

    return act


def ws_news(exchange: ws_server.Exchange) -> None:
    _frames(*[NEWSLINE] * NEWS)(exchange)
    exchange.answer()


def ws_half(exchange: ws_server.Exchange) -> None:
    frame = ws_server.made(ws_server.TEXT, exchange.plain)
    exchange.send(frame[: len(frame) // 2])
    exchange.close()


def ws_stalls(exchange: ws_server.Exchange) -> None:
    frame = ws_server.made(ws_server.TEXT, exchange.plain)
    exchange.send(frame[: len(frame) // 2])
    exchange.hold(0.4)
    exchange.send(frame[len(frame) // 2 :])


def ws_slowly(exchange: ws_server.Exchange) -> None:
    exchange.drip(ws_server.made(ws_server.TEXT, exchange.plain), 0.002, 4)


def ws_twice(exchange: ws_server.Exchange) -> None:
    exchange.answer()
    exchange.answer()


def ws_pings(exchange: ws_server.Exchange) -> None:
    exchange.send(ws_server.made(ws_server.PING, b"x" * 100) * 200)
    exchange.answer()


def ws_deaf(exchange: ws_server.Exchange) -> None:
    exchange.answer()
    exchange.hold(0.5)


WEBSOCKET: dict[str, Callable[[ws_server.Exchange], None]] = {
    "late": ws_late,
    "silent": lambda exchange: None,
    "bad": _frames(BROKEN),
    "foreign": _frames(FOREIGN),
    "no": _frames(REFUSED),
    "long": _frames('{"jsonrpc": "2.0", "id": $ID, "result": {"x": "' + "y" * LONG + '"}}'),
    "twice": ws_twice,
    "flood": ws_news,
    "pings": ws_pings,
    "drip": ws_slowly,
    "deaf": ws_deaf,
    "stalls": ws_stalls,
    "half": ws_half,
    "dies": ws_server.sends(ws_server.closing(1011, "oops"), then="close"),
    "leaves": ws_server.sends(ws_server.closing(1001), then="close"),
    "reset": ws_server.sends(then="reset"),
    "garbage": ws_server.sends(b"\xff" * 64, then="listen"),
    "binary": _frames("\x00\x01", opcode=ws_server.BINARY),
}


# -- running -----------------------------------------------------------------------------------------------------------


def made(kind: str, port: int) -> Any:
    """Return a server of a kind, listening."""
    if kind == "sse":
        return http_streams.OldServer(on=SSE, port=port)
    if kind.startswith("ws-"):
        return ws_server.Server(kind[3:], on=WEBSOCKET, port=port)
    return http_server.Server(kind, on=HTTP, port=port)


def forget(server: Any) -> None:
    """Drop what a server remembers for tests, or it would grow for as long as the soak takes."""
    for name in ("requests", "abandoned", "messages", "ended", "errors", "_heard"):
        getattr(server, name, []).clear()
    for connection in list(server._connections):
        for name, nothing in (("heard", b""), ("frames", [])):
            if hasattr(connection, name):
                setattr(connection, name, nothing)


def reset(server: Any) -> None:
    """Reset every connection."""
    for connection in list(server._connections):
        try:
            connection.reset()
            connection.interrupt()
        except OSError:
            pass  # it has just ended


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    signal.alarm(LIFETIME)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    server = made(kind, port)
    wanted = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: wanted.set())
    print(f"{kind} listens at {server.url}", flush=True)
    while True:
        if wanted.wait(1.0):
            wanted.clear()
            reset(server)
        forget(server)


def leave_with_parent() -> None:
    while os.read(0, 1):
        time.sleep(0.01)
    os._exit(0)


if __name__ == "__main__":
    main()
