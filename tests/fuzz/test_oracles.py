"""Each target can fail: what is broken on purpose is found out, by the corpus or by made-up inputs."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fuzz import clients, servers, sockets, stage
from fuzz.inventing import Flawed, invent
from fuzz.targets import TARGETS

from mcp_sync.engine.lines import Line
from mcp_sync.engine.peer import Peer
from mcp_sync.protocol import (
    deflate,
    demux,
    frames,
    framing,
    headers,
    http1,
    messages,
    origins,
    redact,
    serving,
    session,
    sse,
)
from mcp_sync.server import sealing, uris, wsgi
from mcp_sync.validation import JSONSchema

Break = Callable[[pytest.MonkeyPatch], None]


def replaced(owner: Any, name: str, new: Any) -> Break:
    """Return what puts something else in the place of an attribute."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, new)


def _splits_at_any_end(self: Any, chunk: bytes) -> list[Any]:
    *lines, rest = (bytes(self._rest) + chunk).decode("latin-1").splitlines(keepends=True) or [""]
    self._rest = bytearray(rest.encode("latin-1"))
    return [line.strip().encode("latin-1") for line in lines if line.strip()]


def _limits_after_joining(self: Any, piece: bytes, lines: list[Any]) -> None:
    self._rest += piece


def _keeps_what_it_skips(self: Any, piece: bytes, items: list[Any]) -> None:
    self._head += piece
    self._tail = bytes(self._head)


def _takes_any_id(raw: bytes) -> tuple[Any, Any]:
    found = re.search(rb'"id":(\d+)', raw)
    return (int(found[1]) if found else None), None


def _from_the_front(parts: Any) -> origins.Origin:
    host = parts.authority.partition("@")[0].partition(":")[0].lower()
    return origins.Origin(parts.scheme.lower(), host or "x", origins.PORTS[parts.scheme.lower()])


def _answers_twice(peer: Any, message: Any, original: Any = Peer._post_out) -> None:
    original(peer, message)
    original(peer, message)


def _takes_everything_back(line: Any) -> bool:
    return bool(line._waiting)


def _forgets_the_rest(line: Any) -> bool:
    while line._waiting:
        try:
            line._sock.send(line._waiting.popleft()[0])
        except BlockingIOError:
            return False
    return True


def _finishes_anyhow(chunks: Any, data: bytes, pieces: list[bytes]) -> int:
    pieces.append(data[: chunks._owed])
    taken = min(len(data), chunks._owed)
    chunks._owed -= taken
    return taken


def _says_nothing(self: Any, message: Any) -> Any:
    return session.Dropped("noise", message)


def _settles_anybody(self: Any, message: Any) -> Any:
    if not self._pending:
        return session.Dropped("nobody", message)
    self.counters.ok += 1
    return session.Settle(self._pending.popitem()[1][0], message.result, None)


def _all_at_once(self: Any, packed: bytes, most: int) -> Iterator[bytes]:
    yield zlib.decompressobj(-15).decompress(packed + b"\x00\x00\xff\xff")


def _reads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_decoder", json.JSONDecoder())
    monkeypatch.setattr(messages, "_scan", json.JSONDecoder().scan_once)  # type: ignore[attr-defined]


def _raises(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a flaw")


def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "PATIENCE", 0.5)
    monkeypatch.setattr(sockets, "PATIENCE", 0.5)
    monkeypatch.setattr(clients, "LONG", 0.5)


def both(*breaks: Break) -> Break:
    """Return what breaks several things."""
    return lambda monkeypatch: [one(monkeypatch) for one in breaks] and None


BROKEN: dict[str, tuple[str, Break]] = {
    "lines end where text ends": ("lines", replaced(framing.LineSplitter, "feed", _splits_at_any_end)),
    "the limit of a line comes late": ("lines", replaced(framing.LineSplitter, "_keep", _limits_after_joining)),
    "a CR does not end a line": ("sse", replaced(sse.BlockCutter, "_with_plain_ends", lambda self, chunk: chunk)),
    "events have no limit": ("sse", replaced(sse.BlockCutter, "_too_long", lambda self, block: sse.NotText("", b""))),
    "frames are not checked": ("websocket_frames", replaced(frames.FrameCutter, "_check", lambda *_: None)),
    "control frames are long": ("websocket_frames", replaced(frames.FrameCutter, "_check_control", lambda *_: None)),
    "what is skipped is kept": ("websocket_frames", replaced(frames._Skipped, "take", _keeps_what_it_skips)),
    "any close code will do": ("websocket_frames", replaced(frames, "may_be_sent", lambda code: True)),
    "heads are six bytes": ("docker_streams", replaced(demux, "HEADER_BYTES", 6)),
    "any extension is agreed to": ("compression", replaced(deflate, "_makes_sense", lambda name, value: 1 // 0)),
    "pieces are of any size": ("compression", replaced(deflate.Inflater, "pieces", _all_at_once)),
    "depth is not looked at": ("messages", replaced(messages, "too_deep", lambda raw, limit: False)),
    "numbers are infinite": ("messages", _reads_anything),
    "True is an id": ("messages", replaced(messages, "_is_id", lambda value: isinstance(value, (int, str)))),
    "what cannot be sent is a TypeError": ("unsayable", replaced(messages, "find_unsayable", _raises)),
    "no id is ever found": ("salvage", replaced(messages, "salvage_id", lambda raw: (None, None))),
    "any id is one": ("salvage", replaced(messages, "salvage_id", _takes_any_id)),
    "time runs backwards": ("response_heads", replaced(headers, "MAX_RETRY_SECONDS", -1.0)),
    "a session is anything": ("response_heads", replaced(headers, "session_id_flaw", lambda value: None)),
    "two lengths are one": ("http_replies", replaced(http1, "_end", lambda status, fields: (0, False))),
    "a chunk is as long as it likes": ("http_replies", replaced(http1.Chunks, "_finish", _finishes_anyhow)),
    "nothing is wrapped": ("request_heads", replaced(headers, "encode_value", lambda text: text)),
    "the user is the host": ("url_origins", replaced(origins, "_origin", _from_the_front)),
    "ports do not matter": ("url_origins", replaced(origins, "_port", lambda digits: None)),
    "a secret is written in one way": ("redactor", replaced(redact, "mask", lambda text, secrets: text)),
    "queries are shown": ("redactor", replaced(redact, "redact_url", lambda text: text)),
    "folders can be left": ("uri_templates", replaced(uris.UriTemplate, "_is_harmless", lambda self, values: True)),
    "everything matches": ("json_schemas", replaced(JSONSchema, "compare", lambda self, value: None)),
    "nothing is taken back": ("socket_lines", replaced(Line, "take_back", _takes_everything_back)),
    "a part is written": ("socket_lines", both(_impatient, replaced(Line, "flush", _forgets_the_rest))),
    "any signature will do": ("sealed_state", replaced(sealing.hmac, "compare_digest", lambda one, other: True)),
    "answers come twice": ("server_conversation", replaced(Peer, "_post_out", _answers_twice)),
    "noise is not answered": (
        "server_conversation",
        both(_impatient, replaced(serving.ServerSession, "_malformed", _says_nothing)),
    ),
    "a request raises": ("wsgi_requests", replaced(wsgi, "admit_post", _raises)),
    "a WebSocket answers twice": ("websocket_requests", replaced(Peer, "_post_out", _answers_twice)),
    "any answer is mine": ("client_and_faults", replaced(session.Session, "_result", _settles_anybody)),
    "a malformed answer is silence": (
        "client_and_faults",
        both(_impatient, replaced(session.Session, "_malformed", _says_nothing)),
    ),
}


@pytest.fixture(autouse=True)
def _nothing_stands() -> Iterator[None]:
    yield
    stage.clear()


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, break_it = BROKEN[what]
    break_it(monkeypatch)
    assert _is_found(name), f"{name} does not notice that {what}"


def _is_found(name: str) -> bool:
    target = TARGETS[name]
    for path in target.inputs():
        try:
            target.function(path.read_bytes())
        except Exception:  # whatever it is: an assertion, or what the broken thing raises
            return True
    try:
        invent(target, target.examples, shrink=False)
    except Flawed:
        return True
    return False


def test_every_target_is_seen_to_fail() -> None:
    assert {name for name, _ in BROKEN.values()} == set(TARGETS)
