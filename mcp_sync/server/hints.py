"""Type hints, made of what stands in the source: text becomes types, and types become what pydantic can read.

Names are looked for where the function was written: in its module, and in the functions that are running while it is
registered, for types are often defined beside a function that is itself defined in a function.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from types import FrameType, SimpleNamespace
from typing import Annotated, Any, Union, get_args, get_origin

from ..models import NotRequired, ReadOnly, Required, TypedDict, get_type_hints, is_typeddict

# Made at run time, of what no type checker can see.
_annotated: Any = Annotated
_union: Any = Union
_typed_dict: Any = TypedDict


def resolved(hint: Any, names: Mapping[str, Any]) -> Any:
    """Return a hint as a type; ``Any`` where there is none.

    Args:
        hint: As it stands in the signature; text where it is quoted, or where annotations are postponed.
        names: What names mean.

    Raises:
        Exception: Something in it means nothing; it is what evaluating it raised.
    """
    if hint is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"it": hint})
    return readable(typing.get_type_hints(holder, dict(names), {}, include_extras=True)["it"])


def names_around(function: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return what names mean where a function was written.

    Args:
        function: The function.
        more: What is known besides, where it is not known there; some types are imported for type checkers alone.
    """
    module = getattr(function, "__globals__", {})
    parameters = {one.__name__: one for one in getattr(function, "__type_params__", ())}
    return {**more, **module, **_locals_around(function, module), **parameters}


def _locals_around(function: Any, module: Mapping[str, Any]) -> dict[str, Any]:
    """The local names of those functions around one that are running; the innermost win."""
    outer = getattr(function, "__qualname__", "").split(".")[:-1]
    frame: FrameType | None = sys._getframe()
    found: list[Mapping[str, Any]] = []
    while frame is not None:
        if frame.f_globals is module and frame.f_code.co_name in outer:
            found.append(frame.f_locals)
        frame = frame.f_back
    return {name: value for names in reversed(found) for name, value in names.items()}


def bare(hint: Any) -> Any:
    """Return a hint without its ``Annotated``."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def annotated(kind: Any, metadata: Iterable[Any]) -> Any:
    """Return ``Annotated`` of a type and its metadata."""
    parts = (kind, *metadata)
    return _annotated[parts]


def arms(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type that it is; each without its ``Annotated``."""
    hint = bare(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for one in get_args(hint) for inner in arms(one))
    return (hint,)


def is_kind_of(hint: Any, kinds: type | tuple[type, ...]) -> bool:
    """Tell whether a hint is one of these classes, or inherits from one; generic ones too."""
    cls = get_origin(hint) or hint
    return isinstance(cls, type) and issubclass(cls, kinds)


# -- what pydantic can read -------------------------------------------------------------------------------------------


def readable(hint: Any) -> Any:
    """Return a hint as pydantic can read it.

    Before Python 3.12, ``typing.TypedDict`` lacks what it needs. Of an Iterable, it would look at the items only when
    the function does, which is too late.
    """
    return _rebuilt(hint, frozenset())


def _rebuilt(hint: Any, outer: frozenset[Any]) -> Any:
    if is_typeddict(hint):
        is_old = sys.version_info < (3, 12) and type(hint).__module__ == "typing"
        return _rebuilt_dict(hint, outer) if is_old and hint not in outer else hint
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return annotated(_rebuilt(parts[0], outer), parts[1:])
    made = () if origin is typing.Literal else tuple(_rebuilt(part, outer) for part in parts)
    if origin is Iterable and made:
        return types.GenericAlias(list, made)
    if all(new is old for new, old in zip(made, parts, strict=False)):
        return hint
    if origin in (Union, types.UnionType):
        return _union[made]
    return hint.copy_with(made) if hasattr(hint, "copy_with") else types.GenericAlias(origin, made)


def _rebuilt_dict(old: Any, outer: frozenset[Any]) -> Any:
    keys = {}
    for name, hint in get_type_hints(old, include_extras=True).items():
        kind, required = _unqualified(hint, name in old.__required_keys__)
        kind = _rebuilt(kind, outer | {old})
        keys[name] = kind if required else NotRequired[kind]
    made = _typed_dict(old.__name__, keys)
    for attribute in ("__doc__", "__module__", "__qualname__", "__pydantic_config__"):
        if hasattr(old, attribute):
            setattr(made, attribute, getattr(old, attribute))
    return made


def _unqualified(hint: Any, required: bool) -> tuple[Any, bool]:
    """Return the type of a key, and whether it has to be there; what its qualifier says goes before the class's."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, required = _unqualified(parts[0], required)
        return annotated(kind, parts[1:]), required
    if origin in (NotRequired, Required, ReadOnly):
        return _unqualified(parts[0], required if origin is ReadOnly else origin is Required)
    return hint, required
