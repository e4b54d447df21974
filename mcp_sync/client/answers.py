"""Typed answers: the models of ``mcp-types``, and what a caller of a tool wants at hand.

Importing it brings ``models`` (100 ms and more), so others do it when they need it, which the start of a server usually
hides.

Source: server/tools (structured content, output schema), client/{sampling,elicitation,roots}.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from ..exceptions import RemoteProtocolError, ToolError
from ..models import BaseModel, TypeAdapter, ValidationError, dump, types
from ..validation import JSONSchema, Mismatch

M = TypeVar("M", bound=BaseModel)

__all__ = ["OutputSchema", "ToolResult", "dump", "parse", "tool_result", "types"]


class ToolResult(types.CallToolResult):
    """What a tool answered: a ``mcp_types.CallToolResult`` with what a caller wants at hand.

    Attributes:
        content: The blocks of content.
        structured_content: The structured content as it came, or None.
        is_error: Whether the tool reports failure.
        data: The structured content; a lone ``{"result": x}`` is unwrapped where the tool's output schema says that
            it is a wrapper. None where there is none.
    """

    # Not private attributes, which cost more than all the rest of a small result: tool_result puts them into the
    # instance's __dict__, where pydantic expects what functools.cached_property leaves there, and passes it over.
    _tool: ClassVar[str | None] = None
    _data: ClassVar[Any] = None

    @property
    def text(self) -> str:
        """All text blocks, joined by newlines."""
        return "\n".join(block.text for block in self.content if isinstance(block, types.TextContent))

    @property
    def data(self) -> Any:
        """The structured content, unwrapped; see the class."""
        return self._data

    def raise_for_error(self) -> ToolResult:
        """Return the result itself, unless the tool reports failure.

        Raises:
            ToolError: It does; the text is the tool's.
        """
        if self.is_error:
            raise ToolError(self.text or "(no text)", tool=self._tool, result=self)
        return self


def tool_result(raw: dict[str, Any], tool: str, schema: OutputSchema | None) -> ToolResult:
    """Return a tool's answer as a model.

    Args:
        raw: The result as it came.
        tool: The tool's name.
        schema: Its output schema, where it is known and has one.

    Raises:
        RemoteProtocolError: It is not what a tool may answer, or does not match the output schema.
    """
    result = parse(ToolResult, raw, "tools/call")
    data = result.structured_content
    if schema is not None and not result.is_error and "structuredContent" in raw:
        schema.check(tool, data, raw)
        data = schema.unwrap(data)
    result.__dict__.update(_tool=tool, _data=data)
    return result


def parse(model: type[M], raw: Mapping[str, Any], method: str) -> M:
    """Return a result as a model.

    Raises:
        RemoteProtocolError: It does not fit; the text names the first field that does not.
    """
    try:
        parsed: M = model.__pydantic_validator__.validate_python(raw)  # what model_validate does, and no more
    except ValidationError as error:
        raise _misfit(error, method) from None
    return parsed


def _misfit(error: ValidationError, method: str) -> RemoteProtocolError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return RemoteProtocolError(
        f"{method}: the server's result is not valid: {where}: {first['msg']}{more}",
        details={"method": method, "field": where},
        may_have_run=True,
    )


class OutputSchema:
    """A tool's output schema, ready to check with.

    Nothing is ever fetched: a ``$ref`` to somewhere else is an error (basic/index, JSON Schema usage).
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._compiled = JSONSchema(schema)

    @property
    def wraps(self) -> bool:
        """Whether the schema is that of a wrapper, made because a result had to be an object."""
        properties = self._schema.get("properties")
        return bool(self._schema.get("x-fastmcp-wrap-result")) or (
            isinstance(properties, Mapping) and set(properties) == {"result"}
        )

    def unwrap(self, value: Any) -> Any:
        """Return what a wrapper holds; anything else as it is."""
        return value["result"] if self.wraps and isinstance(value, dict) and set(value) == {"result"} else value

    def check(self, tool: str, value: Any, raw: Any) -> None:
        """Compare a tool's structured content with the schema.

        Raises:
            RemoteProtocolError: It does not match, or the schema itself cannot be used; ``details["result"]`` has the
                result as it came.
        """
        details = {"tool": tool, "result": raw}
        try:
            self._compiled.compare(value)
        except Mismatch as mismatch:
            raise RemoteProtocolError(
                f"tool {tool!r} returned structured content that does not match its output schema: "
                f"{mismatch.json_path}: {mismatch.message[:200]}",
                details=details,
                may_have_run=True,
            ) from None
        except Exception as flaw:  # a schema can be wrong in as many ways as there are keywords
            raise RemoteProtocolError(
                f"tool {tool!r} has an output schema that cannot be used: {flaw}", details=details, may_have_run=True
            ) from flaw


# -- what the server asks of us ---------------------------------------------------------------------------------------

_elicitation: TypeAdapter[types.ElicitRequestURLParams | types.ElicitRequestFormParams] = TypeAdapter(
    types.ElicitRequestURLParams | types.ElicitRequestFormParams
)


def elicitation_params(params: Mapping[str, Any]) -> types.ElicitRequestURLParams | types.ElicitRequestFormParams:
    """Return the params of ``elicitation/create`` as a model; raises ValueError where they do not fit."""
    return _elicitation.validate_python({"mode": "form", **params})


def elicitation_answer(params: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """Return what to answer to ``elicitation/create``, from what the callback returned.

    In a form, a dict is the content, accepted; values that the schema has defaults for are filled in. None declines.
    A URL is accepted only by saying so: ``{"action": "accept"}`` or an ElicitResult.
    """
    explicit = _explicit_action(answer)
    if explicit is None and answer is not None and not isinstance(answer, Mapping):
        raise TypeError(f"an elicitation callback returns a dict, an ElicitResult or None, not {answer!r}")
    if params.get("mode", "form") == "url":
        return explicit or {"action": "decline"}
    result = explicit or ({"action": "decline"} if answer is None else {"action": "accept", "content": dict(answer)})
    if result["action"] != "accept":
        return {"action": result["action"]}
    properties = (params.get("requestedSchema") or {}).get("properties") or {}
    defaults = {name: part["default"] for name, part in properties.items() if "default" in part}
    return {**result, "content": {**defaults, **(result.get("content") or {})}}


def _explicit_action(answer: Any) -> dict[str, Any] | None:
    if isinstance(answer, types.ElicitResult):
        return dump(answer)
    if isinstance(answer, Mapping) and answer.get("action") in ("accept", "decline", "cancel"):
        return dict(answer) if set(answer) <= {"action", "content", "_meta"} else None
    return None


def sampling_params(params: Mapping[str, Any]) -> types.CreateMessageRequestParams:
    """Return the params of ``sampling/createMessage`` as a model; raises ValueError where they do not fit."""
    return types.CreateMessageRequestParams.model_validate(params)


def sampling_answer(answer: Any) -> dict[str, Any]:
    """Return what to answer to ``sampling/createMessage``, from what the callback returned: a str is the text."""
    if isinstance(answer, str):
        block = {"type": "text", "text": answer}
        return {"role": "assistant", "content": block, "model": "unknown", "stopReason": "endTurn"}
    if isinstance(answer, BaseModel):
        return dump(answer)
    if isinstance(answer, Mapping):
        return dict(answer)
    raise TypeError(f"a sampling callback returns a str, a dict or a CreateMessageResult, not {answer!r}")


def roots_answer(roots: Any) -> dict[str, Any]:
    """Return what to answer to ``roots/list``: paths, ``file://`` URIs, dicts or Roots, in any mixture."""
    return {"roots": [_root(root) for root in roots]}


def _root(root: Any) -> dict[str, Any]:
    if isinstance(root, BaseModel):
        return dump(root)
    if isinstance(root, Mapping):
        return dict(root)
    if isinstance(root, str) and root.startswith("file://"):
        return {"uri": root}
    if isinstance(root, (str, os.PathLike)):
        return {"uri": pathlib.Path(os.path.abspath(os.path.expanduser(root))).as_uri()}
    raise TypeError(f"a root is a path, a file:// URI, a dict or a Root, not {root!r}")


def log_params(params: Mapping[str, Any]) -> types.LoggingMessageNotificationParams:
    """Return the params of ``notifications/message`` as a model; raises ValueError where they do not fit."""
    return types.LoggingMessageNotificationParams.model_validate(params)
