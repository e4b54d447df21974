"""JSON Schemas that somebody else wrote, and values to compare with them.

This is the one module that imports ``jsonschema`` and ``referencing``, when the first schema is used. Nothing is ever
fetched: a ``$ref`` to somewhere else cannot be used (basic/index, JSON Schema usage).
"""

from __future__ import annotations

import os
import re
import reprlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

MOST_PROBLEMS = 20
"""How many problems of one value are told; a list of a million wrong items has a million."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxlevel = 3


class Mismatch(ValueError):
    """A value does not match a schema.

    Attributes:
        path: Where, such as ``filters[0].name``; empty for the whole value.
        message: What is wrong there.
        json_path: The path as JSONPath, such as ``$.filters[0].name``.
    """

    def __init__(self, path: str, message: str, json_path: str = "$") -> None:
        super().__init__(path, message, json_path)
        self.path = path
        self.message = message
        self.json_path = json_path

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class JSONSchema:
    """A JSON Schema, made ready when it is first used.

    Args:
        schema: The schema; its dialect is the one it names as ``$schema``, otherwise 2020-12.
        trusted: Whether it is our own. Of somebody else's, patterns that can only be matched by trying again and again
            (look-around, back references) are passed over: they might hold the interpreter for hours. All others are
            matched in linear time.
    """

    def __init__(self, schema: Mapping[str, Any], trusted: bool = False) -> None:
        self._schema = dict(schema)
        self._trusted = trusted

    def check(self) -> None:
        """Make sure that the schema can be used, and that all its references lead somewhere.

        Raises:
            ValueError: It cannot; the text says why.
        """
        try:
            _ = self._validator
            unknown = next(_dead_ends(self._schema), None)
        except Exception as flaw:  # a schema can be wrong in as many ways as there are keywords
            raise ValueError(_first_line(flaw)) from None
        if unknown is not None:
            raise ValueError(f"its $ref {unknown!r:.200} leads nowhere; nothing is ever fetched")

    def compare(self, value: Any) -> None:
        """Compare a value with the schema.

        Raises:
            Mismatch: It does not match; this is the problem that says most.
            Exception: The schema itself cannot be used.
        """
        from jsonschema.exceptions import best_match

        worst = best_match(self._validator.iter_errors(value))
        if worst is not None:
            raise _mismatch(worst)

    def mismatches(self, value: Any) -> list[Mismatch]:
        """Return what does not match, MOST_PROBLEMS at most; in an order that stays the same.

        Raises:
            Exception: The schema itself cannot be used.
        """
        from jsonschema.exceptions import best_match

        found = islice(self._validator.iter_errors(value), MOST_PROBLEMS)
        return [_mismatch(best_match([error]) or error) for error in found]

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for
        from referencing import Registry

        dialect = self._schema.get("$schema")
        kind = validator_for(self._schema, default=Draft202012Validator)
        if dialect is not None and kind.META_SCHEMA.get("$schema", "").rstrip("#") != str(dialect).rstrip("#"):
            raise ValueError(f"its dialect {dialect!r} is not supported")
        kind.check_schema(self._schema)
        # unevaluatedProperties looks for patterns by itself
        wary = not self._trusted and "patternProperties" in repr(self._schema)
        with _making:
            made = _safe_kind(kind, self._trusted, wary)
        return made(self._schema, registry=Registry())


_making = threading.Lock()  # guards the making of classes, for which attrs is not made (without a GIL it fails)


def _renew_lock() -> None:
    global _making
    _making = threading.Lock()  # guards as before; the old one may be held by a thread that stayed behind


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@lru_cache(maxsize=64)
def _safe_kind(kind: Any, trusted: bool, wary: bool) -> Any:
    """Return a kind of validator that no schema and no value can keep busy for long."""
    from jsonschema.validators import extend

    patterns = _Patterns(kind.VALIDATORS, trusted).keywords(wary)
    return extend(kind, {"uniqueItems": _unique_items, **patterns})  # type: ignore[no-untyped-call]


class _Patterns:
    """The keywords that match patterns. The library's own do it by ``re``, which may never come to an end.

    Args:
        theirs: The library's keywords.
        trusted: As in JSONSchema.
    """

    def __init__(self, theirs: Mapping[str, Any], trusted: bool) -> None:
        self._theirs = theirs
        self._trusted = trusted

    def keywords(self, wary: bool) -> dict[str, Any]:
        """Return those that stand for the library's; if wary, without the one that would match patterns by itself."""
        ours: dict[str, Any] = {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
        }
        if wary:
            ours["unevaluatedProperties"] = _nothing
        return {keyword: function for keyword, function in ours.items() if keyword in self._theirs}

    def _pattern(self, validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        from jsonschema.exceptions import ValidationError

        if validator.is_type(value, "string") and self._found(wanted, value) is False:
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    def _pattern_properties(self, validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        for name, item in value.items() if validator.is_type(value, "object") else ():
            for pattern in wanted:
                if self._found(pattern, name):
                    yield from validator.descend(item, wanted[pattern], path=name, schema_path=pattern)

    def _additional_properties(self, validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        if validator.is_type(value, "object"):
            patterns = schema.get("patternProperties", ())
            rest = {
                name: item
                for name, item in value.items()
                if all(self._found(pattern, name) is False for pattern in patterns)
            }
            others = {keyword: one for keyword, one in schema.items() if keyword != "patternProperties"}
            yield from self._theirs["additionalProperties"](validator, wanted, rest, others)

    def _found(self, pattern: str, text: str) -> bool | None:
        """Return whether a pattern is found in a text; None: that is for nobody to know."""
        from .models import linear_matcher

        matches = linear_matcher(pattern)
        if matches is not None:
            return matches(text)
        return re.search(pattern, text) is not None if self._trusted else None


def _nothing(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Find nothing wrong."""
    return iter(())


def _unique_items(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Compare items by what they are made of: the library compares each with each, which takes quadratic time."""
    from jsonschema.exceptions import ValidationError

    if wanted and validator.is_type(value, "array") and len({_frozen(item) for item in value}) < len(value):
        yield ValidationError(f"{value!r} has non-unique elements")


def _frozen(value: Any) -> Any:
    """Return what is equal for equal values, and can be kept in a set; to JSON true is not 1, but 1.0 is."""
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return (bool, value) if isinstance(value, bool) else value


def _dead_ends(schema: Mapping[str, Any]) -> Iterator[str]:
    """The references that lead nowhere, wherever a schema may stand: not in the data of an ``enum`` or ``default``."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
    from referencing import Resource
    from referencing.jsonschema import DRAFT202012

    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    return _dead_ends_of(resource, REGISTRY.resolver_with_root(resource))


def _dead_ends_of(resource: Any, resolver: Any) -> Iterator[str]:
    from referencing.exceptions import Unresolvable

    for keyword in ("$ref", "$dynamicRef"):
        if isinstance(resource.contents, Mapping) and keyword in resource.contents:
            try:
                resolver.lookup(resource.contents[keyword])
            except Unresolvable:
                yield resource.contents[keyword]
    for part in resource.subresources():
        yield from _dead_ends_of(part, resolver.in_subresource(part))


def _mismatch(error: Any) -> Mismatch:
    message = str(error.message)
    long = repr(error.instance)
    if len(long) > 80:  # the reason comes after the value, and is what matters
        message = message.replace(long, shortened(error.instance))
    return Mismatch(path_text(error.absolute_path), message, error.json_path)


def path_text(steps: Iterable[str | int]) -> str:
    """Return where something is, such as ``filters[0].name``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step:.80}" for step in steps).removeprefix(".")


def shortened(value: Any) -> str:
    """Return a value in at most 80 characters."""
    text = _short.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first_line(flaw: Exception) -> str:
    return (str(getattr(flaw, "message", flaw)).strip().splitlines() or [type(flaw).__name__])[0][:300]
