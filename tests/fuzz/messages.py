"""Fuzz targets: bytes that should be a message, and whose answer they were if they are none."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from fuzz.provider import Provider

from mcp_sync.exceptions import LocalProtocolError
from mcp_sync.protocol import messages as subject
from mcp_sync.protocol.messages import (
    MAX_BATCH,
    MAX_DEPTH,
    Batch,
    Failure,
    Malformed,
    Notification,
    Request,
    Result,
    decode,
    encode,
)

SECONDS_PER_MEGABYTE = 1.0
LARGE = 1 << 18
TIMES = (1, 200, 3000, 1, 1, 1, 1, 1)

# -- the parser -------------------------------------------------------------------------------------------------------


def messages(data: bytes) -> None:
    """Whatever the bytes, there is a message or a Malformed, soon; it says what JSON says; and can be sent on."""
    feed = Provider(data)
    times = feed.pick(TIMES)
    before, repeated, after = (feed.line(), feed.line(), feed.rest()) if times > 1 else (b"", b"", feed.rest())
    raw = before + (repeated * times)[:LARGE] + after
    began = time.thread_time()
    message = decode(raw)
    seconds = time.thread_time() - began
    assert seconds <= SECONDS_PER_MEGABYTE * max(len(raw), LARGE) / (1 << 20) * 4, f"{seconds} s for {len(raw)} bytes"
    content = _strict(raw)
    if content is _NO_JSON:
        assert isinstance(message, Malformed), message
        assert not message.parsed, message
        return
    _check(message, content)


_NO_JSON: Any = object()


def _strict(raw: bytes) -> Any:
    """Return what the bytes say as strict JSON that we promise to read; _NO_JSON where they do not."""
    try:
        content = json.loads(raw.decode("utf-8"), parse_constant=_refused)
        if _depth(content) > MAX_DEPTH:
            return _NO_JSON
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):
        return _NO_JSON
    return content


def _refused(name: str) -> Any:
    raise ValueError(name)


def _depth(content: Any) -> int:
    deepest, level = 0, [content]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        deepest += 1
        level = [below for item in level for below in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _check(message: Any, content: Any) -> None:
    if isinstance(message, Malformed):
        assert message.parsed, message
        assert not _is_plain(content), message
        _check_ids(message, content)
    elif isinstance(message, Batch):
        assert isinstance(content, list)
        assert 0 < len(message.messages) == len(content) <= MAX_BATCH
        for one, part in zip(message.messages, content, strict=True):
            _check(one, part)
    else:
        assert isinstance(message, (Request, Notification, Result, Failure))
        assert isinstance(content, dict)
        assert type(content.get("id")) in (int, str) or "id" not in content or isinstance(message, Failure), message
        if isinstance(message, Failure):
            error = content["error"]
            content = {**content, "error": {key: error[key] for key in ("code", "message", "data") if key in error}}
            content["error"] = {key: value for key, value in content["error"].items() if value is not None}
        for key, value in message.as_dict().items():
            assert value == content.get(key), (key, message)
            assert type(value) is type(content.get(key))
        assert _typed(decode(encode(message))) == _typed(message)


def _typed(message: Any) -> str:
    return f"{type(message).__name__} {json.dumps(message.as_dict())}"  # 1, 1.0 and True are equal, but not the same


def _is_plain(content: Any) -> bool:
    """Tell whether this is a message without any doubt."""
    if not isinstance(content, dict) or content.get("jsonrpc") != "2.0":
        return False
    has_id = type(content.get("id")) in (int, str)
    if set(content) == {"jsonrpc", "id", "result"}:
        return has_id and isinstance(content["result"], dict)
    if set(content) <= {"jsonrpc", "id", "method", "params"}:
        params = content.get("params", {})
        return type(content.get("method")) is str and isinstance(params, dict) and (has_id or "id" not in content)
    return False


def _check_ids(message: Malformed, content: Any) -> None:
    """What a message answers or asks is its own id, and not both."""
    own = content.get("id") if isinstance(content, dict) else None
    for found in (message.answers, message.asks):
        assert found is None or (found == own and type(found) is type(own)), (message, own)
    assert message.answers is None or message.asks is None
    assert message.as_error("m").may_have_run is True


def unsayable(data: bytes) -> None:
    """Whatever JSON can say can be sent if it is finite, shallow and text; what is refused is a LocalProtocolError."""
    feed = Provider(data)
    value = _value(feed, 0)
    message = {"jsonrpc": "2.0", "id": 1, "result": {"v": value}}
    try:
        raw = encode(message)
    except LocalProtocolError as refused:
        ran = refused.may_have_run
        assert ran is False
        return
    assert b"\n" not in raw
    assert decode(raw) == Result(1, json.loads(raw)["result"])


def _value(feed: Provider, depth: int) -> Any:
    kind = feed.below(10)
    if kind == 0 or depth > 150:
        return feed.text()
    if kind == 1:
        return {feed.pick((feed.text(), 1, None, True, 1.5, (1,), b"")): _value(feed, depth + 1) for _ in range(2)}
    if kind == 2:
        return [_value(feed, depth + 1) for _ in range(feed.below(4))]
    if kind == 3:
        value: Any = 1
        for _ in range(feed.byte()):
            value = [value] if feed.flag() else {"a": value}
        return value
    simple = (1.5, float("inf"), float("nan"), -(10**30), 10**5000, None, True, b"bytes", {1, 2}, object, 1j)
    return feed.pick(simple)


# -- whose answer was it? ---------------------------------------------------------------------------------------------

KEYS = ("jsonrpc", "result", "id", "error", "method", "x", '"id"', "\\", "a:")
BREAKS = (b"\xff", b"", b"NaN", b"tru", b"\\", b"\x00", b"1 2", b"\xed\xa0\x80")


def salvage(data: bytes) -> None:
    """No id is found but the message's own, at the top level; and if nothing is in the way, that is found.

    The first choice is whether the bytes are the message, or a program that writes one and breaks it.
    """
    feed = Provider(data)
    if not feed.flag():
        raw = feed.rest()
        _check_found(raw, subject.salvage_id(raw), _top_level_ids(raw), all)
        return
    members, raw, whole = _broken(feed)
    own = [value for key, value in members if key == "id"]
    found = subject.salvage_id(raw)
    _check_found(raw, found, own, any)  # the other of two may stand behind the end
    assert not (whole and _is_clear(members)) or found != (None, None), raw
    half = len(raw) // 2
    said = subject.too_large(raw[:half], raw[half:][-512:], 10)
    _check_found(raw, (said.answers, said.asks), own, any)


def _check_found(raw: bytes, found: tuple[Any, Any], own: list[Any], which: Callable[[Iterable[bool]], bool]) -> None:
    answers, asks = found
    assert answers is None or asks is None
    for one in found:
        if one is not None:
            assert own, (raw, found)
            assert which(one == value and type(one) is type(value) for value in own), (raw, found, own)


def _is_clear(members: list[tuple[str, Any]]) -> bool:
    """Tell whether nobody could doubt whose id it is."""
    keys, own = [key for key, _ in members], dict(members).get("id")
    plain = type(own) is int or (isinstance(own, str) and re.fullmatch("[A-Za-z0-9 {},:]{1,60}", own))
    return bool(plain) and keys.count("id") == 1 and bool({"jsonrpc", "result", "error", "method"} & set(keys))


def _broken(feed: Provider) -> tuple[list[tuple[str, Any]], bytes, bool]:
    """Return the members of an object, its text with something wrong in it or behind it, and whether all are there."""
    members = []
    for _ in range(1 + feed.below(5)):
        key = feed.pick(KEYS)
        members.append((key, _bait(feed, 0)))
    parts = [
        json.dumps(key).encode() + feed.pick((b":", b" : ")) + json.dumps(value, ensure_ascii=feed.flag()).encode()
        for key, value in members
        if _is_sayable(value)
    ]
    breaking = feed.below(len(parts) + 2)
    if breaking < len(parts):
        parts[breaking] = parts[breaking].split(b":")[0] + b":" + feed.pick(BREAKS)
    raw = feed.pick((b"", b" ", b"\xef\xbb\xbf")) + b"{" + feed.pick((b",", b" , ")).join(parts) + b"}"
    cut = feed.flag()
    if cut:
        raw = raw[: feed.byte() * len(raw) // 256]
    # Of a member whose value was replaced nothing is known; and text that cannot be said was left out.
    known = [(key, value) for key, value in members if _is_sayable(value)]
    if breaking < len(known) and known[breaking][0] == "id":
        known[breaking] = ("id", _NO_JSON)
    raw += feed.pick((b"", b"\xff", b" bye", b'{"id":9,"jsonrpc":"2.0"'))
    return known, raw, not cut and breaking >= len(parts)


def _is_sayable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _bait(feed: Provider, depth: int) -> Any:
    kind = feed.below(8)
    if kind == 0:
        return 100 + feed.byte()
    if kind == 1 or depth > 4:
        return feed.text()
    if kind == 2:
        return {"id": _bait(feed, depth + 1), "jsonrpc": "2.0"}
    if kind == 3:
        return [_bait(feed, depth + 1) for _ in range(feed.below(4))]
    return feed.pick(("2.0", '"id":9,', '","id":9,"', '\\","id":9,"', "}", '{"id":9', None, True, 1.5, "x" * 70, {}))


def _top_level_ids(raw: bytes) -> list[Any]:
    """Return the values that could be an id of the outermost object, as somebody reads who takes one byte at a time.

    It forgives what is wrong outside strings, and says _NO_JSON for what is no id. It stops where brackets do not match
    or the object ends.
    """
    text = raw.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"{"):
        return []
    tokens, at = [], 0
    while at < len(text):
        token, at = _token(text, at)
        tokens += [token] if token else []
    open_brackets, level, members = [], [], []
    for token in tokens:
        if token in (b"{", b"["):
            level += [b"<"] if len(open_brackets) == 1 else []
            open_brackets.append(b"}" if token == b"{" else b"]")
        elif token in (b"}", b"]"):
            if not open_brackets or open_brackets.pop() != token or not open_brackets:
                break
        elif len(open_brackets) == 1:
            level.append(token)
    for start, (key, colon) in enumerate(zip(level, level[1:], strict=False)):
        if colon == b":" and _text_of(key) == "id" and (start == 0 or level[start - 1] == b","):
            members.append(_id_of(level[start + 2]) if start + 2 < len(level) else _NO_JSON)
    return members


_OUTSIDE = b'"[]{}:, \t\r\n\x0b\x0c'


def _token(text: bytes, at: int) -> tuple[bytes, int]:
    """Return what stands at a place, and where it ends; blanks are an empty token."""
    end = at + 1
    if text[at] == ord('"'):
        while end < len(text) and text[end] != ord('"'):
            end += 2 if text[end] == ord("\\") else 1
        return text[at : end + 1], end + 1
    if text[at] not in _OUTSIDE:
        while end < len(text) and text[end] not in _OUTSIDE:
            end += 1
    return text[at:end].strip(), end


def _text_of(token: bytes) -> Any:
    try:
        return json.loads(token)
    except ValueError:
        return _NO_JSON


def _id_of(token: bytes) -> Any:
    value = _text_of(token)
    return value if type(value) in (int, str) else _NO_JSON
