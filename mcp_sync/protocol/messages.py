"""A Message is one JSON-RPC request, notification, result or failure: frozen data.

``decode`` is a total function: whatever bytes it is given, it returns Messages, and never raises. What cannot be
read becomes Malformed, which says whether the bytes were plainly an answer to somebody (then that call must fail now,
not at its timeout) or just noise.

Source: JSON-RPC 2.0; the protocol's basic/index; RFC 8259 (JSON), of which we take the strict reading: UTF-8 only, no
NaN, no number that is infinite to Python, no lone surrogates, bounded depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from typing import Any, TypeAlias

from ..exceptions import JSONRPCError, LocalProtocolError, MessageTooLarge, RemoteProtocolError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

MAX_DEPTH = 128
"""Levels of arrays and objects in one message. The C parser recurses; a thread's stack is finite."""
LARGE, FEW = 65536, 1000
"""Bytes of a message, and values in it, from and to which its strings are looked at one by one."""
MAX_BATCH = 1000
"""Messages in one array. Each takes a turn of the reader, and of memory fifty times its text."""

RequestId: TypeAlias = "int | str"


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants an answer."""

    id: RequestId
    method: str
    params: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON-RPC object."""
        if self.params is None:
            return {"jsonrpc": "2.0", "id": self.id, "method": self.method}
        return {"jsonrpc": "2.0", "id": self.id, "method": self.method, "params": self.params}


@dataclass(frozen=True, slots=True)
class Notification:
    """Somebody says something; no answer is allowed. ``size`` is its length on the wire in bytes, where known."""

    method: str
    params: dict[str, Any] | None = None
    size: int = field(default=0, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON-RPC object."""
        head: dict[str, Any] = {"jsonrpc": "2.0", "method": self.method}
        return head if self.params is None else {**head, "params": self.params}


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a request."""

    id: RequestId
    result: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON-RPC object."""
        return {"jsonrpc": "2.0", "id": self.id, "result": self.result}


@dataclass(frozen=True, slots=True)
class Failure:
    """The answer to a request, when it is an error. An id of None: the sender could not read whose."""

    id: RequestId | None
    code: int
    message: str
    data: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON-RPC object."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return {"jsonrpc": "2.0", "id": self.id, "error": error}

    def as_error(self, method: str | None = None) -> JSONRPCError:
        """Return it as an exception."""
        return JSONRPCError(self.code, self.message, self.data, method=method)


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are no message.

    Attributes:
        reason: What is wrong, for people.
        raw: The beginning of the bytes.
        answers: The id of the request that this was plainly meant to answer, or None.
        asks: The id of the request that this plainly was, or None.
        parsed: Whether it was JSON at all.
        too_large: The limit in bytes, where that is what was wrong; otherwise 0.
    """

    reason: str
    raw: bytes = b""
    answers: RequestId | None = None
    asks: RequestId | None = None
    parsed: bool = False
    too_large: int = 0

    def as_error(self, method: str | None = None) -> RemoteProtocolError | MessageTooLarge:
        """Return it as an exception; ``method`` is what it answers, where that is known."""
        details: dict[str, Any] = {"raw": self.raw[:200].decode("utf-8", "replace")}
        asked = ""
        if method:
            asked, details["method"] = f"{method}: ", method
        if self.too_large:
            details["limit"] = self.too_large
            return MessageTooLarge(f"{asked}{self.reason}", details=details, may_have_run=True)
        return RemoteProtocolError(f"{asked}unreadable answer: {self.reason}", details=details, may_have_run=True)


@dataclass(frozen=True, slots=True)
class Batch:
    """Several messages in one array: only 2025-03-26 allows it, and only to be received (basic/index)."""

    messages: tuple[Message, ...]


Message: TypeAlias = "Request | Notification | Result | Failure | Malformed | Batch"
_KINDS = frozenset({Request, Notification, Result, Failure})


# -- out --------------------------------------------------------------------------------------------------------------

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=True)


def _encode(value: Any) -> str:
    """Return the value as JSON: what JSONEncoder.encode does, without its detours."""
    if c_make_encoder is None:
        return _encoder.encode(value)
    inside: dict[int, Any] = {}  # a new one each time: it is how circles are found, and threads must not share it
    pieces = c_make_encoder(inside, _encoder.default, encode_basestring, None, ":", ",", False, False, False)(value, 0)
    return "".join(pieces)


def encode(message: Message | Mapping[str, Any] | list[Any]) -> bytes:
    """Return the message as UTF-8 JSON on one line, without the line's end.

    Keys that are numbers, booleans or None become text, as everywhere in Python's JSON.

    Raises:
        LocalProtocolError: It holds something JSON cannot say; the text names where.
    """
    content: Any = message.as_dict() if type(message) in _KINDS else message  # type: ignore[union-attr]
    try:
        raw = _encode(content).encode("utf-8")
        if len(raw) > 2 * MAX_DEPTH and _has_brackets(raw, MAX_DEPTH) and too_deep(raw, MAX_DEPTH):
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        return raw
    except (TypeError, ValueError, RecursionError) as error:
        where = find_unsayable(content)
        raise LocalProtocolError(f"cannot be sent as JSON: {where or error}", may_have_run=False) from error


def find_unsayable(value: Any, path: str = "", depth: int = 0) -> str | None:
    """Return where in the value sits what JSON cannot say, and what it is; None where there is nothing."""
    if depth > MAX_DEPTH:
        return f"{path or 'the value'} is nested more than {MAX_DEPTH} levels deep, or holds itself"
    if isinstance(value, Mapping):
        return _first(_unsayable_item(key, item, path, depth) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return _first(find_unsayable(item, f"{path}[{n}]", depth + 1) for n, item in enumerate(value))
    try:
        _encode(value).encode("utf-8")
    except (TypeError, ValueError) as error:
        hint = f" ({error})" if isinstance(value, (str, float)) else "; pass a str, number, bool, None, list or dict"
        return f"{path or 'the value'} is {_named(value)}{hint}"
    return None


def _unsayable_item(key: Any, item: Any, path: str, depth: int) -> str | None:
    if not isinstance(key, (str, int, float, type(None))):
        return f"a key of {path or 'the value'} is {_named(key)}; keys must be str"
    if isinstance(key, str) and (flaw := find_unsayable(key)):
        return flaw.replace("the value", f"a key of {path or 'the value'}", 1)
    return find_unsayable(item, f"{path}.{key}" if path else str(key), depth + 1)


def _named(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # an int of more digits than Python prints, or somebody's own __repr__
        return f"of type {type(value).__name__}"
    return f"of type {type(value).__name__} ({text if len(text) < 80 else text[:80] + '...'})"


def _first(found: Iterable[str | None]) -> str | None:
    return next((text for text in found if text), None)


# -- in ---------------------------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number:  # infinity less infinity is NaN, which is true; everything else is 0
        raise ValueError("a number that no float can hold, and nothing could send on")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_scan = _decoder.scan_once  # type: ignore[attr-defined]
_BOM = b"\xef\xbb\xbf"
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_STEPS = {ord("["): 1, ord("]"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_find_lone = re.compile("[\ud800-\udfff]").search
_find_surrogate = re.compile(rb"\\u[dD]").search  # in a megabyte four times as fast as two searches with ``in``


def decode(raw: bytes, max_depth: int = MAX_DEPTH) -> Message:
    """Return what the bytes say; never raises."""
    try:
        # What closes needs a bracket for each that opens. The parser can stand some more that do not.
        if len(raw) > 2 * max_depth and _has_brackets(raw, max_depth) and too_deep(raw, max_depth):
            raise ValueError(f"nested more than {max_depth} levels deep")
        content = _parse(raw) if (quick := _quick_parse) is None else _parse_by(quick, raw)
    except (ValueError, RecursionError) as error:
        return _unreadable(raw, error)
    if type(content) is dict and len(content) == 3 and content.get("jsonrpc") == "2.0":  # by far the most frequent
        id_, result = content.get("id"), content.get("result")
        if type(result) is dict and (type(id_) is int or type(id_) is str):
            return Result(id_, result)
    return _as_message(content, raw)


def _find_quick_parse(raw: bytes) -> Any:
    """Look for msgspec, the extra ``[fast]``, with the first message; it takes 10 ms to import."""
    global _quick_parse
    try:
        from msgspec.json import Decoder
    except ImportError:
        _quick_parse = None
        return _parse(raw)
    _quick_parse = Decoder().decode
    return _quick_parse(raw)


_quick_parse: Callable[[bytes], Any] | None = _find_quick_parse
"""msgspec's: it accepts nothing that ``_parse`` refuses, and gives the same values (tests/protocol/test_fast.py)."""


def _parse_by(quick: Callable[[bytes], Any], raw: bytes) -> Any:
    """Return what bytes say, by msgspec; what that refuses the standard library accepts, or says why not."""
    try:
        return quick(raw)
    except Exception:  # its own, or a RecursionError
        return _parse(raw)


def _parse(raw: bytes) -> Any:
    """Return what bytes say, by the standard library; raises a ValueError where nothing could send it on."""
    content = _parse_text(raw.decode("utf-8"))
    if b"\\" in raw:
        _refuse_surrogates(content, raw)
    return content


def _parse_text(text: str) -> Any:
    """Return what a text says, as JSONDecoder.decode does, but without looking for white space before it first."""
    try:
        content, end = _scan(text, 0)
        if end == len(text) or not text[end:].strip(" \t\r\n"):
            return content
    except StopIteration:  # no value begins there: white space does, or nonsense
        pass
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark (RFC 8259, section 8.1)")
    return _decoder.decode(text)


def _refuse_surrogates(content: Any, raw: bytes) -> None:
    """Raise a ValueError where there is a lone surrogate, which nothing could send on."""
    if len(raw) > LARGE and _is_sayable(content):
        return
    if _find_surrogate(raw):
        _encode(content).encode("utf-8")


def _is_sayable(content: Any) -> bool:
    """Tell that there is no lone surrogate, where there is little to look at; False: there is much, or one.

    Of a long string this is known at once if it is ASCII; to look for an escape in its bytes takes as long as a third
    of parsing them.
    """
    left = [content]
    for _ in range(FEW):
        if not left:
            return True
        value = left.pop()
        if isinstance(value, str):
            if not value.isascii() and _find_lone(value):
                return False
        elif isinstance(value, (dict, list)):
            if len(value) > FEW:
                return False
            left += value
            left += value.values() if isinstance(value, dict) else ()
    return False


def _has_brackets(raw: bytes, limit: int) -> bool:
    """Tell whether there are more opening brackets than the limit, in strings or outside."""
    if len(raw) < 4096:
        return raw.count(b"[") + raw.count(b"{") > limit
    left = limit  # to find a byte is thirty times as fast as to count it, and a large text has few of these
    for bracket in (b"[", b"{"):
        at = raw.find(bracket)
        while at >= 0:
            left -= 1
            if left < 0:
                return True
            at = raw.find(bracket, at + 1)
    return False


def too_deep(raw: bytes, limit: int) -> bool:
    """Tell whether arrays and objects are nested deeper than the limit: no recursion, linear whatever the nesting."""
    outside_strings = b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside_strings.translate(_BRACKETS, _NO_BRACKETS)
    return any(level > limit for level in accumulate(map(_STEPS.__getitem__, brackets)))


def _unreadable(raw: bytes, error: Exception) -> Malformed:
    if isinstance(error, UnicodeDecodeError):
        reason = f"invalid UTF-8 at byte {error.start}"
    elif isinstance(error, UnicodeEncodeError):
        reason = "a lone surrogate, which is no character"
    else:
        reason = f"invalid JSON: {error}"
    answers, asks = salvage_id(raw)
    return Malformed(reason, raw[:1024], answers=answers, asks=asks)


def _as_message(content: Any, raw: bytes) -> Message:
    head = raw[:1024]  # one for all of a batch
    if type(content) is not list:
        return _as_single(content, head, len(raw))
    if not content:
        return Malformed("an empty array", head, parsed=True)
    if len(content) > MAX_BATCH:
        return Malformed(f"an array of {len(content)}, more than {MAX_BATCH} messages", head, parsed=True)
    size = len(raw) // len(content)
    return Batch(tuple(_as_single(item, head, size) for item in content))


def _as_single(content: Any, head: bytes, size: int) -> Message:
    """Sort one parsed value; the frequent kind, a good result, first."""
    if type(content) is not dict:
        return Malformed(f"a JSON {_json_type(content)} where an object is due", head, parsed=True)
    if "method" in content:
        return _as_call(content, head, size)
    if "result" in content or "error" in content:
        return _as_answer(content, head)
    answers = content.get("id") if "jsonrpc" in content and _is_id(content.get("id")) else None
    return Malformed("neither a method, nor a result, nor an error", head, answers=answers, parsed=True)


def _as_answer(content: dict[str, Any], head: bytes) -> Message:
    id_: Any = content.get("id")
    flaw = _answer_flaw(content)
    if flaw:
        return Malformed(flaw, head, answers=id_ if _is_id(id_) else None, parsed=True)
    if "result" in content:
        return Result(id_, content["result"])
    error = content["error"]
    return Failure(id_, error["code"], error["message"], error.get("data"))


def _answer_flaw(content: dict[str, Any]) -> str | None:
    if content.get("jsonrpc") != "2.0":
        return f"jsonrpc is {content.get('jsonrpc')!r:.80}, not '2.0'"
    if "result" in content and "error" in content:
        return "both a result and an error"
    if "result" in content:
        if not _is_id(content.get("id")):
            return f"a result whose id is {content.get('id')!r:.80}"
        return None if type(content["result"]) is dict else f"result is a JSON {_json_type(content['result'])}"
    if content.get("id") is not None and not _is_id(content["id"]):
        return f"an error whose id is {content['id']!r:.80}"
    return _error_flaw(content["error"])


def _error_flaw(error: Any) -> str | None:
    if type(error) is not dict:
        return f"error is a JSON {_json_type(error)}, not an object"
    if type(error.get("code")) is not int:
        return f"error.code is {error.get('code')!r:.80}, not an integer"
    if type(error.get("message")) is not str:
        return f"error.message is {error.get('message')!r:.80}, not a string"
    return None


def _as_call(content: dict[str, Any], head: bytes, size: int) -> Message:
    id_, method, params = content.get("id"), content["method"], content.get("params")
    flaw = None
    if content.get("jsonrpc") != "2.0":
        flaw = f"jsonrpc is {content.get('jsonrpc')!r:.80}, not '2.0'"
    elif type(method) is not str:
        flaw = f"method is a JSON {_json_type(method)}, not a string"
    elif params is not None and type(params) is not dict:
        flaw = f"params is a JSON {_json_type(params)}, not an object"
    elif "id" in content and not _is_id(id_):
        flaw = f"a request whose id is {id_!r:.80}"
    if flaw:
        return Malformed(flaw, head, asks=id_ if _is_id(id_) else None, parsed=True)
    if "id" in content:
        return Request(id_, method, params)  # type: ignore[arg-type]  # _is_id said so
    return Notification(method, params, size)


def _is_id(value: Any) -> bool:
    return type(value) is int or type(value) is str  # not isinstance: True is an int


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")


# -- whose answer was this? -------------------------------------------------------------------------------------------

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.){0,64}"|"|[\[\]{}:,]|[^\s"\[\]{}:,]+', re.DOTALL)
_SALVAGE_BYTES = 65536
_UNKNOWN = b"\x00\x00"
"""Stands for an escaped quote, an escaped backslash or a long string; whoever has it is neither a key nor an id."""


def salvage_id(raw: bytes) -> tuple[RequestId | None, RequestId | None]:
    """Return the ids that unreadable bytes plainly answer, and plainly ask with: (answers, asks).

    Only an ``"id"`` key of the outermost object counts, once, and only beside other keys of JSON-RPC. An id inside a
    string or a nested object is somebody's data; mistaking it would fail a call that is still being worked on.
    """
    head = raw[:_SALVAGE_BYTES].removeprefix(_BOM).lstrip()
    if not head.startswith(b"{"):
        return None, None
    keys = _top_level_members(_blank_strings(head))
    ids = [value for key, value in keys if key == b"id"]
    names = {key for key, _ in keys}
    found = _as_id(ids[0]) if len(ids) == 1 else None
    if found is None or not names & {b"jsonrpc", b"result", b"error", b"method"}:
        return None, None
    return (None, found) if b"method" in names else (found, None)


_ID_AT_THE_END = re.compile(
    rb',\s*"id"\s*:\s*(?P<id>-?\d{1,18}|"[^"\\]{1,64}")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z'
)


def too_large(head: bytes, tail: bytes, limit: int) -> Malformed:
    """Say of a message over the limit whose answer it was, as far as its beginning and its end tell.

    Some implementations write the id last: the last brace of a line closes the outermost object, so an id right before
    it is the message's own.
    """
    reason = f"a message is longer than max_message_size, {limit} bytes"
    answers, asks = salvage_id(head)
    if answers is None and asks is None and (found := _ID_AT_THE_END.search(tail)):
        names = {key for key, _ in _top_level_members(_blank_strings(head))}
        if names & {b"result", b"error"} and b"method" not in names:
            answers = _as_id(found["id"])
    return Malformed(reason, head[:1024], answers=answers, asks=asks, too_large=limit)


def _blank_strings(head: bytes) -> bytes:
    """Shorten every string too long to be a key or an id, so that no later step looks inside one."""
    parts = head.replace(b"\\\\", _UNKNOWN).replace(b'\\"', _UNKNOWN).split(b'"')
    parts[1::2] = [part if len(part) <= 64 else _UNKNOWN for part in parts[1::2]]
    return b'"'.join(parts)


def _top_level_members(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return (key, first token of the value) of the outermost object, as far as the text goes."""
    members: list[tuple[bytes, bytes]] = []
    candidate: list[tuple[bytes, bytes]] = []  # a member, but a number may go on where the text ends: 1 of 12
    expected: list[bytes] = []  # the brackets that have to close, innermost last
    recent = [b"", b"", b"", b""]
    for match in _TOKEN.finditer(head):
        token = match.group()
        if token in (b",", b"}"):
            members += candidate
        recent = [*recent[1:], token] if len(expected) == 1 else [b"", b"", b"", token]
        before, key, colon, value = recent
        is_member = before in (b"{", b",") and len(key) > 2 and key[:1] == b'"' and colon == b":"
        candidate = [(key[1:-1], value)] if is_member else []
        if token in (b"[", b"{"):
            members += candidate
            candidate = []
            expected.append(b"]" if token == b"[" else b"}")
        elif token in (b"]", b"}") and (expected.pop() != token or not expected):
            break  # the end of the object, or nobody knows any more what is its top level
    return members


def _as_id(token: bytes) -> RequestId | None:
    if re.fullmatch(rb"-?(0|[1-9]\d{0,17})", token):
        return int(token)
    if token[:1] != b'"' or len(token) < 2 or b"\\" in token or b"\x00" in token:  # escapes: it stands for another id
        return None
    try:
        return token[1:-1].decode("utf-8")
    except UnicodeDecodeError:
        return None
