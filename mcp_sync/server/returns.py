"""What a function returns, as structured content: its JSON Schema, and values made to match it.

What is no object is wrapped into one, ``{"result": x}``, which clients take off again: the convention of the official
SDK. What a model reads (images, resources, ready results) is content and has no structure.

Source: server/tools (outputSchema, structuredContent).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin

from ..models import BaseModel, ConfigDict, ValidationError, create_model, get_type_hints, to_jsonable_python, types
from ..validation import JSONSchema, Mismatch
from .blocks import CONTENTS, MODELS, Content, UnfitResult
from .functions import NOTHING, Function
from .hints import annotated, arms, bare, is_kind_of
from .typed import TerseSchema, told

_CONTENT: tuple[type, ...] = (Content, *MODELS, *CONTENTS, types.Result)
_MANY: tuple[type, ...] = (list, tuple, Sequence, Iterable)
_SHAPELESS = (Any, object, None, type(None), NoReturn, list, tuple, set, frozenset, Sequence, Iterable)


class Structure(ABC):
    """What a function returns, as structured content.

    Attributes:
        schema: The output schema.
        wraps: Whether the value is wrapped, ``{"result": x}``.
    """

    schema: dict[str, Any]
    wraps = False

    def structured(self, value: Any) -> Any:
        """Return a value as structured content.

        Raises:
            UnfitResult: The output schema does not allow it.
        """
        made = self._made(value)
        return {"result": made} if self.wraps else made

    def check(self, structured: Any) -> None:
        """Make sure that structured content is what the schema allows.

        Raises:
            UnfitResult: It is not.
        """
        if self.wraps and (not isinstance(structured, Mapping) or set(structured) != {"result"}):
            raise _unfit("", "it should be an object with a result, and nothing else")
        self._made(structured["result"] if self.wraps else structured)

    @abstractmethod
    def _made(self, value: Any) -> Any:
        """Return a value, not wrapped, in the types of JSON."""


class TypedStructure(Structure):
    """What a function returns by its type hint.

    Args:
        hint: The hint.
        names: What names mean, where the hint has such in it.

    Raises:
        Exception: There is no JSON Schema for it.
    """

    def __init__(self, hint: Any, names: Mapping[str, Any]) -> None:
        self._model: type[BaseModel] = create_model("Returned", result=(hint, ...))
        if not self._model.__pydantic_complete__:
            self._model.model_rebuild(raise_errors=True, _types_namespace=dict(names))
        whole = self._model.model_json_schema(mode="serialization", schema_generator=_OutputSchema)
        inner = _inlined(whole)
        self.wraps = inner.get("type") != "object"
        self.schema = whole if self.wraps else inner
        self._may_be_nan = any(part in json.dumps(self.schema) for part in ('"number"', "{}", "true"))
        self._same = hint if any(hint is one for one in (str, int, float, bool)) else NOTHING

    def _made(self, value: Any) -> Any:
        if type(value) is self._same:
            return value
        try:
            read = self._model.model_validate({"result": value}, by_alias=True, by_name=True)
            if self._may_be_nan:
                _refuse_nan(read.model_dump(warnings=False))
            return read.model_dump(mode="json", by_alias=True, warnings="error")["result"]
        except UnfitResult:
            raise
        except ValidationError as error:
            path, message = told(error, {"result": value})[0]
            raise _unfit(path if self.wraps else path.removeprefix("result").removeprefix("."), message) from error
        except (ValueError, TypeError, RecursionError) as error:  # pydantic's own are ValueErrors
            raise _unfit("", "it holds what JSON cannot say") from error


class WrittenStructure(Structure):
    """What a function returns by a schema that somebody wrote; the value is never wrapped.

    Args:
        schema: The schema.
        what: What to call the function.

    Raises:
        TypeError: The schema cannot be used.
    """

    def __init__(self, schema: Mapping[str, Any], what: str) -> None:
        self.schema = dict(schema)
        self._compiled = JSONSchema(schema, trusted=True)
        try:
            self._compiled.check()
        except ValueError as flaw:
            raise TypeError(f"{what}: its output_schema cannot be used: {flaw}") from None

    def _made(self, value: Any) -> Any:
        made = jsonable(value)
        try:
            self._compiled.compare(made)
        except Mismatch as mismatch:
            raise _unfit(mismatch.path, mismatch.message) from mismatch
        return made


class _OutputSchema(TerseSchema):
    """JSON Schema that leaves out nothing: what is promised has to be all there is."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        if kind == "skipped-choice":
            raise TypeError(detail)


def structure_of(
    function: Function, schema: Mapping[str, Any] | None = None, wanted: bool | None = None
) -> Structure | None:
    """Return what a function returns as structured content; None where it has none.

    Args:
        function: The function.
        schema: A schema that somebody wrote for it.
        wanted: True: there must be one. False: there is none. None: there is one if the type hint gives one.

    Raises:
        TypeError: There must be one, and there is not; or ``schema`` cannot be used.
    """
    if schema is not None:
        if wanted is False:
            raise TypeError(f"{function.what}: an output_schema makes no sense with structured_output=False")
        return WrittenStructure(schema, function.what)
    if wanted is False:
        return None
    hint = _promised(function.returns())
    if wanted is None and (hint is NOTHING or _is_shapeless(hint) or is_content(hint)):
        return None
    return _typed_structure(function, hint, wanted)


def _typed_structure(function: Function, hint: Any, wanted: bool | None) -> Structure | None:
    if hint is NOTHING:
        raise TypeError(f"{function.what}: structured_output=True needs a return annotation")
    try:
        try:
            return TypedStructure(hint, function.names)
        except Exception:  # types bring code of their own, which raises what it likes
            if not isinstance(hint, type):
                raise
            return TypedStructure(_by_attributes(hint, function.names), function.names)
    except Exception as flaw:  # as above
        if wanted is None:
            return None
        raise TypeError(f"{function.what}: JSON Schema has nothing for what it returns, {hint!r:.100}") from flaw


def _promised(hint: Any) -> Any:
    """Return what structured content is promised to be: of ``Annotated[CallToolResult, X]`` it is X."""
    metadata = getattr(hint, "__metadata__", ())
    if is_kind_of(bare(hint), types.CallToolResult) and metadata:
        return annotated(metadata[0], metadata[1:]) if metadata[1:] else metadata[0]
    return hint


def _is_shapeless(hint: Any) -> bool:
    kind = get_origin(hint) if not get_args(hint) and get_origin(hint) else hint  # typing.List is list
    return any(kind is one for one in _SHAPELESS) or getattr(kind, "__name__", "") == "Never"


def is_content(hint: Any) -> bool:
    """Tell whether a hint is that of content, or of several, or may be."""
    for arm in arms(hint):
        if is_kind_of(arm, _CONTENT):
            return True
        if get_origin(arm) in _MANY and any(is_content(part) for part in get_args(arm) if part is not ...):
            return True
    return False


def _by_attributes(kind: type, names: Mapping[str, Any]) -> type[BaseModel]:
    """Return a model of a class that has annotations, and nothing else that pydantic knows."""
    hints = get_type_hints(kind, localns=dict(names), include_extras=True)
    fields: dict[str, Any] = {
        name: (hint, getattr(kind, name, ...)) for name, hint in hints.items() if not name.startswith("_")
    }
    if not fields:
        raise TypeError(f"{kind.__name__} has no annotations")
    return create_model(kind.__name__, __config__=ConfigDict(from_attributes=True), **fields)


def _inlined(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the value alone, with its definition at the root: an object has to say there that it is."""
    inner = dict(whole["properties"]["result"])
    definitions = dict(whole.get("$defs", {}))
    name = inner.pop("$ref", "").removeprefix("#/$defs/")
    if name:
        inner = {**definitions[name], **inner}
        rest = {key: value for key, value in definitions.items() if key != name}
        definitions = rest if f"'#/$defs/{name}'" not in repr([inner, rest]) else definitions
    return {**inner, "$defs": definitions} if definitions else inner


def _refuse_nan(value: Any) -> None:
    """Refuse a number that pydantic would make null of, which the schema does not allow."""
    try:
        json.dumps(value, allow_nan=False, skipkeys=True, default=_parts)
    except ValueError as flaw:
        raise UnfitResult("NaN or infinity was returned, which JSON cannot say") from flaw


def _parts(value: Any) -> Any:
    return list(value) if isinstance(value, (set, frozenset, Sequence)) else None


def jsonable(value: Any) -> Any:
    """Return a value in the types of JSON: dataclasses, models, enums, dates, sets as what stands for them.

    Raises:
        UnfitResult: Nothing in JSON stands for something in it.
    """
    try:
        return to_jsonable_python(value)
    except (ValueError, TypeError, RecursionError) as flaw:  # pydantic's own are ValueErrors
        raise UnfitResult(f"a {type(value).__name__} was returned, or is in what was, that JSON cannot say") from flaw


def _unfit(path: str, message: str) -> UnfitResult:
    where = f"{path}: " if path else ""
    return UnfitResult(f"the tool returned what its output schema does not allow: {where}{message}")
