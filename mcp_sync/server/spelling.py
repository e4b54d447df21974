"""Spelling: results as JSON, with their long texts written by a faster hand than the rest.

``protocol.messages.encode`` spells a text of 100 kB in 200 us, pydantic in 35, with the same outcome; and what a
tool returns as text is in its result twice, as content and as structured content. So long texts are taken out, spelt
once each, and put back in; all else, and whatever is wrong with a message, is for ``encode``.

Source: RFC 8259 (7: strings); server/tools (structured content), server/resources (contents).
"""

from __future__ import annotations

import secrets
from typing import Any

from ..protocol.messages import RequestId, Result, encode

LONG = 8192
"""Characters of a text that is worth the trouble."""

_LISTS = ("content", "contents")
_MARK = f"text {secrets.token_hex(16)}"
"""Stands for a text; nobody else knows it."""


def encode_result(request_id: RequestId, result: dict[str, Any]) -> bytes:
    """Return the answer to a request as ``encode`` does; raises as it does."""
    texts: list[str] = []
    rest = {**result}
    for key in _LISTS:
        if type(found := result.get(key)) is list:
            rest[key] = [_marked(one, texts) for one in found]
    rest["structuredContent"] = _marked(result.get("structuredContent"), texts)
    return encode(Result(request_id, result)) if not texts else _woven(request_id, result, rest, texts)


def _woven(request_id: RequestId, result: dict[str, Any], rest: dict[str, Any], texts: list[str]) -> bytes:
    """Return the whole, of what is left without its long texts and of those."""
    if "structuredContent" not in result:
        del rest["structuredContent"]
    pieces = encode(Result(request_id, rest)).split(f'"{_MARK}"'.encode())
    spelt = _spelt(texts)
    if spelt is None or len(pieces) != len(texts) + 1:
        return encode(Result(request_id, result))
    return b"".join([part for pair in zip(pieces, [*spelt, b""], strict=True) for part in pair])


def _marked(value: Any, texts: list[str]) -> Any:
    """Return an object with marks for its long texts, which are added to the others."""
    if type(value) is not dict:
        return value
    long = [key for key, one in value.items() if type(one) is str and len(one) > LONG]
    if not long:
        return value
    texts += [value[key] for key in long]
    return {**value, **dict.fromkeys(long, _MARK)}


def _spelt(texts: list[str]) -> list[bytes] | None:
    """Return texts as JSON; None: one of them holds what is no character."""
    from ..models import to_json

    known: dict[int, bytes] = {}
    try:
        for text in texts:
            if id(text) not in known:
                known[id(text)] = to_json(text)
    except ValueError:  # pydantic's own are such
        return None
    return [known[id(text)] for text in texts]
