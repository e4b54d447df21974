"""The models of the protocol, and what makes models of type hints.

This is the one module that imports ``mcp_types`` and ``pydantic``. It takes 100 ms and more, so others import it when
they need it: a client while its server starts, a server when a function is registered.

Source: the package ``mcp-types``, the official wire types of both eras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import mcp_types as types
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_json, to_jsonable_python
from typing_extensions import NotRequired, ReadOnly, Required, TypedDict, get_type_hints, is_typeddict

__all__ = [
    "BaseModel",
    "ConfigDict",
    "Field",
    "FieldInfo",
    "GenerateJsonSchema",
    "NotRequired",
    "ReadOnly",
    "Required",
    "TypeAdapter",
    "TypedDict",
    "ValidationError",
    "create_model",
    "dump",
    "get_type_hints",
    "is_typeddict",
    "linear_matcher",
    "to_json",
    "to_jsonable_python",
    "types",
]


def dump(value: BaseModel | Mapping[str, Any], name: str = "the value") -> dict[str, Any]:
    """Return a model, or a dict, as it goes on the wire.

    Args:
        value: The model, or a dict that is on the wire as it is.
        name: What to call it in the message.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, mode="json", exclude_none=True)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{name} must be a dict or a model, not {type(value).__name__} ({value!r})")


@lru_cache(maxsize=256)
def linear_matcher(pattern: str) -> Callable[[str], bool] | None:
    """Return what tells whether a regular expression is found in a text, in linear time; None: it cannot be matched so.

    The engine is Rust's ``regex``, which pydantic has; it knows no look-around and no back references.
    """
    try:
        adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except Exception:  # SchemaError of pydantic_core; too large, too deep, or simply no expression
        return None

    def matches(text: str) -> bool:
        try:
            adapter.validate_python(text)
        except ValidationError:
            return False
        return True

    return matches
