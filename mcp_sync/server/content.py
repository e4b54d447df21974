"""What functions return, as the wire has it: results of tools, messages of prompts, contents of resources.

Source: server/tools (tool results), server/prompts (data types), server/resources (resource contents).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..models import dump, types
from .blocks import CONTENTS, Audio, Content, File, Image, UnfitResult, as_block, base64, text_block
from .returns import Structure, jsonable

if TYPE_CHECKING:
    from .schema import Signature

__all__ = [
    "AssistantMessage",
    "Audio",
    "File",
    "Image",
    "UnfitResult",
    "UserMessage",
    "prompt_result",
    "resource_contents",
    "tool_result",
]

ROLES = ("user", "assistant")
_DATA = frozenset({str, int, float, bool, dict, list, tuple, type(None)})
"""Types of what is neither a ready result nor waited for, as most results are."""


# -- tools ------------------------------------------------------------------------------------------------------------


def tool_result(value: Any, signature: Signature) -> dict[str, Any]:
    """Return what a tool returned as the result of ``tools/call``.

    A text becomes a block of text, content (see ``as_block``) its block, a list with content in it a block for each
    item, None nothing, anything else JSON text. Where the tool has an output schema, it is structured content as well.
    A ready ``CallToolResult`` stays what it is.

    Args:
        value: What the tool returned.
        signature: The tool's.

    Raises:
        UnfitResult: It cannot be sent, or the tool's output schema does not allow it.
        OSError: An image, a sound or a file cannot be read.
    """
    structure = signature.structure
    if type(value) not in _DATA:
        if isinstance(value, types.Result):
            return _ready(value, structure)
        _refuse_waiting(value)
    if structure is None:
        return {"content": _blocks(value), "isError": False}
    structured = structure.structured(value)
    shown = structured["result"] if structure.wraps else structured
    return {"content": _shown(shown), "structuredContent": structured, "isError": False}


def _ready(value: types.Result, structure: Structure | None = None) -> dict[str, Any]:
    if isinstance(value, types.CallToolResult) and structure is not None and not value.is_error:
        structure.check(value.structured_content)
    raw = dump(value)
    if raw.get("resultType") == "complete":  # the era says that itself, where it has a word for it
        del raw["resultType"]
    return raw


def _refuse_waiting(value: Any) -> None:
    """Refuse what nobody awaits, and close it, so that Python does not complain about it elsewhere."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise UnfitResult("a coroutine was returned, and there is no event loop here")


def _shown(structured: Any) -> list[dict[str, Any]]:
    """Return structured content as text, for a model to read, and for clients that know no other (server/tools)."""
    if structured is None:
        return []
    if isinstance(structured, str):
        return [{"type": "text", "text": _checked(structured)}]
    return [{"type": "text", "text": json_text(structured)}]


def _blocks(value: Any) -> list[dict[str, Any]]:
    """Return anything as blocks of content."""
    if value is None:
        return []
    if isinstance(value, str):
        return [text_block(value)]
    if isinstance(value, (list, tuple)):
        parts = [(item, None if isinstance(item, str) else as_block(item)) for item in value]
        if any(block for _, block in parts) or all(isinstance(item, str) for item in value):
            return [one for item, block in parts for one in ([block] if block else _data(item))]
    block = as_block(value)
    return _data(value) if block is None else [block]


def _data(value: Any) -> list[dict[str, Any]]:
    """Return data, which is no content, as text; a model may read NaN."""
    if value is None:
        return []
    made = jsonable(value)
    return [text_block(made if isinstance(made, str) else json.dumps(made, ensure_ascii=False))]


def json_text(value: Any) -> str:
    """Return JSON as text.

    Raises:
        UnfitResult: It holds NaN or infinity, or what is no character.
    """
    try:
        return _checked(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError as flaw:
        raise UnfitResult("NaN or infinity was returned, which JSON cannot say") from flaw


def _checked(text: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as flaw:
            raise UnfitResult("a lone surrogate was returned, which is no character") from flaw
    return text


# -- prompts ----------------------------------------------------------------------------------------------------------


class Message:
    """One message of a prompt.

    Args:
        content: A text, or what else is content: an Image, an Audio, a File, a block.
    """

    role: str

    def __init__(self, content: Any) -> None:
        self.content = content

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.content!r})"


class UserMessage(Message):
    """What the user says; see the parent."""

    role = "user"


class AssistantMessage(Message):
    """What the assistant says; see the parent."""

    role = "assistant"


def prompt_result(value: Any, description: str | None = None) -> dict[str, Any]:
    """Return what a prompt returned as the result of ``prompts/get``.

    Args:
        value: A message, or a list of messages: a text or other content, which the user says; a UserMessage or an
            AssistantMessage; a pair of role and content; a dict with both; a ``PromptMessage``. Or a ready
            ``GetPromptResult``.
        description: What the prompt is for.

    Raises:
        UnfitResult: It is nothing of these.
        OSError: An image, a sound or a file cannot be read.
    """
    if isinstance(value, types.Result):
        return _ready(value)
    _refuse_waiting(value)
    many = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and not _is_pair(value)
    messages = [_message(item) for item in (value if many else [value])]
    return {**({"description": description} if description else {}), "messages": messages}


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and value[0] in ROLES


def _message(value: Any) -> dict[str, Any]:
    if isinstance(value, types.PromptMessage):
        return dump(value)
    if isinstance(value, Message):
        return {"role": value.role, "content": _content(value.content)}
    if _is_pair(value):
        return {"role": value[0], "content": _content(value[1])}
    if isinstance(value, Mapping) and value.get("role") in ROLES and "content" in value:
        return {**value, "content": _content(value["content"])}
    return {"role": "user", "content": _content(value)}


def _content(value: Any) -> dict[str, Any]:
    block = text_block(value) if isinstance(value, str) else as_block(value)
    if block is None:
        raise UnfitResult(f"a {type(value).__name__} was returned, which is neither a message nor its content")
    return block


# -- resources --------------------------------------------------------------------------------------------------------


def resource_contents(value: Any, uri: str, mime_type: str | None = None) -> list[dict[str, Any]]:
    """Return what the reader of a resource returned as the contents of a ``resources/read``.

    Args:
        value: A text; bytes; an Image, an Audio or a File; the models of ``mcp_types`` for contents; a list of these
            three. Anything else becomes JSON.
        uri: What was asked for.
        mime_type: What it is; None: what the value says, or what is usual for it.

    Raises:
        UnfitResult: It cannot be sent.
        OSError: An image, a sound or a file cannot be read.
    """
    _refuse_waiting(value)
    if isinstance(value, types.ReadResourceResult):
        return [dump(one) for one in value.contents]
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, (Content, *CONTENTS)) for one in value):
        return [_one_contents(one, uri) for one in value]
    if isinstance(value, (Content, *CONTENTS)):
        return [_one_contents(value, uri)]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [{"uri": uri, "mimeType": mime_type or "application/octet-stream", "blob": base64(bytes(value))}]
    if isinstance(value, str):
        return [{"uri": uri, "mimeType": mime_type or "text/plain", "text": text_block(value)["text"]}]
    if value is None:
        raise UnfitResult("None was returned, which is no contents of a resource")
    return [{"uri": uri, "mimeType": mime_type or "application/json", "text": json_text(jsonable(value))}]


def _one_contents(value: Any, uri: str) -> dict[str, Any]:
    return value.contents(uri) if isinstance(value, Content) else dump(value)
