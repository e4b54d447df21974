"""Forms: the flat schemas that a user fills in, made of types (client/elicitation: requestedSchema)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..models import TypeAdapter
from .hints import readable

_PRIMITIVE = frozenset({"string", "number", "integer", "boolean"})


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(readable(kind))


def form_schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a form for this type: a dataclass, TypedDict or pydantic model of plain fields.

    Raises:
        TypeError: It has a field that no form can hold.
    """
    schema = _adapter(kind).json_schema()
    definitions = schema.pop("$defs", {})
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), dict):
        raise TypeError(f"{kind!r:.80} makes no form: it has no fields")
    schema["properties"] = {
        name: _flat(name, field, definitions, kind) for name, field in schema["properties"].items()
    }
    return {key: value for key, value in schema.items() if key in ("type", "properties", "required")}


def _flat(name: str, field: dict[str, Any], definitions: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    if "$ref" in field:
        meant = definitions[field["$ref"].rsplit("/", 1)[-1]]
        field = {**meant, **{key: value for key, value in field.items() if key != "$ref"}}
    if "anyOf" in field:  # Optional: a form leaves it out
        choices = [choice for choice in field["anyOf"] if choice.get("type") != "null"]
        if len(choices) == 1:
            rest = {k: v for k, v in field.items() if k != "anyOf" and not (k == "default" and v is None)}
            field = {**_flat(name, choices[0], definitions, kind), **rest}
    if "const" in field:  # a choice of one
        rest = {key: value for key, value in field.items() if key != "const"}
        field = {"type": "string", **rest, "enum": [field["const"]]}
    if isinstance(field.get("items"), Mapping):
        field = {**field, "items": _flat(name, dict(field["items"]), definitions, kind)}
    if not _is_fillable(field):
        raise TypeError(f"{kind!r:.80} makes no form: its field {name!r} is not text, a number, a choice or yes and no")
    return field


def _is_fillable(field: Mapping[str, Any]) -> bool:
    if "enum" in field and field.get("type") != "string":
        return False  # a choice is one of texts
    if field.get("type") == "array":
        return isinstance(field.get("items"), Mapping) and "enum" in field["items"]
    return field.get("type") in _PRIMITIVE


def as_type(kind: Any, content: Mapping[str, Any]) -> Any:
    """Return what the user filled in as an object of the type.

    Raises:
        ValueError: It does not fit.
    """
    try:
        return _adapter(kind).validate_python(dict(content))
    except ValueError as flaw:  # pydantic's is one
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in flaw.errors()]  # type: ignore[attr-defined]
        raise ValueError("; ".join(problems)) from None
