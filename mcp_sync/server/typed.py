"""Arguments by type hints: values are read as pydantic reads JSON strictly.

A number is no text and a text no number; a text is something else only where JSON has nothing better: a date, a path,
a choice. Where all arguments are texts anyway (those of a prompt, the parts of a URI), each becomes what its hint says.

Source: server/tools (inputSchema), server/prompts, server/resources (resource templates).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from ..models import (
    BaseModel,
    Field,
    GenerateJsonSchema,
    TypeAdapter,
    ValidationError,
    create_model,
    to_json,
)
from ..validation import MOST_PROBLEMS, path_text, shortened
from .arguments import Arguments, InvalidArguments, Problem
from .functions import NOTHING, Argument, Function
from .hints import annotated, arms, bare

_PLAIN = (str, int, float, bool, type(None))
_OBJECTS = frozenset({"model_type", "model_attributes_type", "dataclass_type", "dataclass_exact_type", "mapping_type"})
_WORDS = {
    "is_instance_of": "Input is not valid",
    "is_subclass_of": "Input is not valid",
    "needs_python_object": "Input is not valid",
    "path_type": "Input should be a path",
    "json_invalid": "Input is nested too deeply",
    **dict.fromkeys([*_OBJECTS, "dict_type", "arguments_type"], "Input should be an object"),
}
"""What to say where pydantic's own words are about Python."""


class TerseSchema(GenerateJsonSchema):
    """JSON Schema without the titles that repeat a name."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: the name of the field is there already."""
        return False

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a model, without the name of its class as a title."""
        return _untitled(super().model_schema(schema), schema)

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a dataclass, without its name as a title."""
        return _untitled(super().dataclass_schema(schema), schema)

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a TypedDict, without its name as a title."""
        return _untitled(super().typed_dict_schema(schema), schema)

    def generate(self, schema: Any, mode: Any = "validation") -> dict[str, Any]:
        """Return the schema, also without the names of enums as titles, which come from elsewhere."""
        made = super().generate(schema, mode)
        for name, part in made.get("$defs", {}).items():
            if ("enum" in part or "const" in part) and name.endswith(str(part.get("title"))):
                del part["title"]
        return made


def _untitled(made: dict[str, Any], core: Mapping[str, Any]) -> dict[str, Any]:
    """Remove a title that is but the name of the class; one that the user gave stays, even that."""
    cls = core.get("cls")
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
    if made.get("title") == getattr(cls, "__name__", None) and not config.get("title"):
        made.pop("title", None)
    return made


class _Reader:
    """Reads JSON, strictly.

    Args:
        kind: The type of what is read.
        plain: Whether JSON and Python mean the same by it.
    """

    def __init__(self, kind: Any, plain: bool) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
        self._plain = plain

    def read(self, given: dict[str, Any]) -> Any:
        """Return what was given as the type.

        Raises:
            ValueError: It is no JSON, or pydantic's ValidationError.
            RecursionError: It is nested too deeply.
        """
        if self._plain:
            try:
                return self._adapter.validate_python(given, strict=True)
            except ValidationError:
                pass  # said again below, in the words of JSON
        try:
            return self._adapter.validate_json(to_json(given), strict=True)
        except ValidationError as error:
            if not any(_is_whole(one["input"]) for one in error.errors() if one["type"] == "int_type"):
                raise
        return self._adapter.validate_json(to_json(_with_whole_numbers(given)), strict=True)


class _TextReader(_Reader):
    """Reads texts, which become what they are meant to be."""

    def read(self, given: dict[str, Any]) -> Any:
        """Return what was given as the type; raises as the parent."""
        return self._adapter.validate_python(given)


class TypedArguments(Arguments):
    """What a function takes by its type hints.

    Args:
        function: The function.

    Raises:
        TypeError: A parameter cannot be told in JSON Schema.
    """

    reader: type[_Reader] = _Reader

    def __init__(self, function: Function) -> None:
        self._function = function
        self._fields = {f"p{number}": one for number, one in enumerate(function.arguments)}  # clashes with nothing
        self._names = [(field, one.name) for field, one in self._fields.items()]
        self._taken = {*function.reserved, *(one.name for one in function.arguments)}
        try:
            self._make()
        except Exception as flaw:  # types bring code of their own, which raises what it likes
            raise self._refusal(flaw) from None
        self._known = frozenset(self.schema["properties"])

    def _make(self) -> None:
        model = self._model(self._fields)
        self._ours = self.reader(model, all(_is_plain(one.hint) for one in self._function.arguments))
        found = model.model_json_schema(schema_generator=TerseSchema)
        self._more, more = self._make_more()
        definitions = {**found.pop("$defs", {}), **more.pop("$defs", {})}
        self.schema = {"type": "object", "properties": {}, **found, "additionalProperties": False, **more}
        if definitions:
            self.schema["$defs"] = definitions

    def _model(self, arguments: Mapping[str, Argument]) -> type[BaseModel]:
        fields: dict[str, Any] = {field: (_hint(one), _default(one)) for field, one in arguments.items()}
        model: type[BaseModel] = create_model("Arguments", **fields)
        if not model.__pydantic_complete__:
            model.model_rebuild(raise_errors=True, _types_namespace=dict(self._function.names))
        return model

    def _make_more(self) -> tuple[_Reader | None, dict[str, Any]]:
        """Return what reads ``**kwargs``, and what the schema says of it."""
        more = self._function.more
        if more is None:
            return None, {}
        kind: Any = dict.__class_getitem__((str, more.hint))
        schema = TypeAdapter(kind).json_schema(schema_generator=TerseSchema)
        return self.reader(kind, _is_plain(kind)), {key: schema[key] for key in schema if key != "type"}

    def _refusal(self, flaw: Exception) -> TypeError:
        """Return the error that names the parameter; where none is to blame alone, the error itself."""
        more = self._function.more
        for one in self._function.arguments + (() if more is None else (more,)):
            try:
                self._model({"p": one}).model_json_schema(schema_generator=TerseSchema)
            except Exception as its_flaw:  # as above
                return self._function.refused(one.name, f"JSON Schema has nothing for its type: {_reason(its_flaw)}")
        return TypeError(f"{self._function.what}: JSON Schema has nothing for it: {_reason(flaw)}")

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function is called with; see the parent."""
        given = given if isinstance(given, dict) else dict(given)
        strays = [name for name in given if name not in self._known]
        values: dict[str, Any] = {}
        try:
            read = self._ours.read(given).__dict__
            values = {name: read[field] for field, name in self._names}
            if strays and self._more is not None:
                values = {**self._more.read({name: given[name] for name in strays}), **values}
            problems = []
        except ValidationError as error:
            problems = told(error, given, self._message)
        except (ValueError, RecursionError):  # what is no JSON
            problems = [("", "Input should be JSON, and not be nested too deeply")]
        problems += [(name, self._unknown(name)) for name in strays if self._more is None or name in self._taken]
        if problems:
            raise InvalidArguments(problems[:MOST_PROBLEMS], len(problems[MOST_PROBLEMS:]))
        return values

    def _message(self, error: Mapping[str, Any], steps: Sequence[str | int]) -> str:
        if error["type"].startswith("missing"):
            wanted = self.schema["properties"].get(steps[0], {}) if len(steps) == 1 else {}
            return f"Field required ({wanted['type']})" if isinstance(wanted.get("type"), str) else "Field required"
        return plain_words(error, steps)

    def _unknown(self, name: str) -> str:
        known = list(self.schema["properties"])
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known) or 'none'}"
        return f"Unknown argument; {hint}"


class TextArguments(TypedArguments):
    """What a function takes whose arguments are all texts: those of a prompt, the parts of a URI.

    A text becomes what the type hint says.
    """

    reader = _TextReader


def _hint(one: Argument) -> Any:
    """Return the type of a parameter, with its name and description; what the user says of it himself goes before."""
    metadata = getattr(one.hint, "__metadata__", ())
    texts = [text for text in metadata if isinstance(text, str)]
    said = texts[0] if texts else one.description
    ours = Field(alias=one.name, description=said or None)
    return annotated(bare(one.hint), [ours, *(part for part in metadata if not isinstance(part, str))])


def _default(one: Argument) -> Any:
    return ... if one.default is NOTHING else one.default


def _is_plain(hint: Any) -> bool:
    """Tell whether JSON and Python mean the same by a type, so that nothing needs to go through JSON to be read.

    ``Any`` is not: a function that changes what it was given must not change the request.
    """
    kinds = arms(hint)
    if len(kinds) > 1 or kinds[0] is not hint:
        return all(_is_plain(kind) for kind in kinds)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return all(type(part) in _PLAIN for part in parts)
    if origin is dict:
        return parts[:1] == (str,) and _is_plain(parts[1])
    return bool(parts) and _is_plain(parts[0]) if origin is list else any(hint is kind for kind in _PLAIN)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value.is_integer()


def _with_whole_numbers(value: Any) -> Any:
    """Return JSON with 5 for 5.0, which is the same to JSON Schema (validation, 6.1.1)."""
    if isinstance(value, Mapping):
        return {name: _with_whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return int(value) if _is_whole(value) else value


def plain_words(error: Mapping[str, Any], steps: Sequence[str | int]) -> str:
    """Return what is wrong, by pydantic's words as far as they are about JSON."""
    text = str(error["msg"])
    if error["type"] in ("value_error", "assertion_error"):  # of somebody's own validator
        return text.partition(", ")[2] or text
    return _WORDS.get(error["type"], text)


def told(
    error: ValidationError, given: Any, words: Callable[[Mapping[str, Any], Sequence[str | int]], str] = plain_words
) -> list[Problem]:
    """Return what is wrong, once for each place.

    Args:
        error: What pydantic found.
        given: What it was given.
        words: What says what is wrong, of a single error of pydantic's and the way there.
    """
    by_path: dict[str, list[tuple[str, Any]]] = {}
    for one in error.errors(include_url=False, include_context=False):
        steps = _steps(one["loc"], given, one["type"])
        by_path.setdefault(path_text(steps), []).append((words(dict(one), steps), one["input"]))
    return [(path, _together(messages)) for path, messages in by_path.items()]


def _steps(place: Iterable[str | int], value: Any, kind: str) -> list[str | int]:
    """Return the way to a value that is not valid; pydantic's own steps, such as the arm of a union, are left out."""
    found: list[str | int] = []
    steps = list(place)
    for number, step in enumerate(steps):
        if _has(value, step):
            value = value[step]
            found.append(step)
        elif number == len(steps) - 1 and kind.startswith("missing"):
            found.append(step)
    return found


def _has(value: Any, step: str | int) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value)


def _together(messages: Sequence[tuple[str, Any]]) -> str:
    """Return one message out of those about one value, which has a chance with each arm of a union."""
    texts = list(dict.fromkeys(text for text, _ in messages))
    rest = [text.removeprefix("Input should be ") for text in texts[1:]]
    text = " or ".join([texts[0], *rest])
    if text.startswith(("Field required", "Unknown argument")):
        return text
    return f"{text}, got {shortened(messages[0][1])}"


def _reason(flaw: Exception) -> str:
    """Return why pydantic refuses a type: its first sentence, which is the one about the type."""
    return str(flaw).strip().partition("\n")[0].partition(". ")[0][:300] or type(flaw).__name__
