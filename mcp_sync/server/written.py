"""Arguments by a JSON Schema that somebody wrote: compared with it, and left as they are.

Source: server/tools (inputSchema), basic/index (JSON Schema usage).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from ..validation import JSONSchema
from .arguments import Arguments, InvalidArguments
from .functions import NOTHING, Function
from .hints import arms, is_kind_of


class WrittenArguments(Arguments):
    """What a function takes by a schema that somebody wrote, which is kept as it is.

    The function gets the arguments as they came: by name; or all of them as one dict, if it has a single parameter
    that may be a dict, and the schema has no property of that name.

    Args:
        function: The function.
        schema: The schema.

    Raises:
        TypeError: The schema cannot be used, or does not go with the function.
    """

    def __init__(self, function: Function, schema: Mapping[str, Any]) -> None:
        self._function = function
        self.schema = dict(schema)
        self._compiled = JSONSchema(schema, trusted=True)
        self._check()
        self._whole = self._takes_all()
        self._defaults = {one.name: one.default for one in function.arguments if one.default is not NOTHING}
        self._names = {one.name for one in function.arguments}
        if self._whole is None:
            self._check_names()

    def _check(self) -> None:
        if self.schema.get("type") != "object":
            raise TypeError(f"{self._function.what}: its input_schema must be that of an object: 'type': 'object'")
        try:
            self._compiled.check()
        except ValueError as flaw:
            raise TypeError(f"{self._function.what}: its input_schema cannot be used: {flaw}") from None

    @property
    def _properties(self) -> list[str]:
        properties = self.schema.get("properties")
        return list(properties) if isinstance(properties, Mapping) else []

    def _takes_all(self) -> str | None:
        arguments = self._function.arguments
        if len(arguments) != 1 or self._function.more is not None or arguments[0].name in self._properties:
            return None
        may_be_dict = any(arm is Any or is_kind_of(arm, Mapping) for arm in arms(arguments[0].hint))
        return arguments[0].name if may_be_dict else None

    def _check_names(self) -> None:
        """Refuse what could never be called; only where all properties stand at the root, for only there they are."""
        if self._function.more is None:
            for name in self._properties:
                if name not in self._names:
                    raise TypeError(f"{self._function.what}: it has no parameter {name!r}, which its input_schema has")
        if not {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties"} & set(self.schema):
            for name in self._names - set(self._defaults):
                if name not in self._properties:
                    raise self._function.refused(name, "its input_schema has no such property")

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function is called with; see the parent."""
        try:
            found = self._compiled.mismatches(given if isinstance(given, dict) else dict(given))
        except RecursionError:
            raise InvalidArguments([("", "Input is nested too deeply")]) from None
        if found:
            raise InvalidArguments([(one.path, one.message) for one in found])
        ours = deepcopy(dict(given))  # whatever the function does to it, the request stays as it came
        if self._whole is not None:
            return {self._whole: ours}
        self._check_fit(ours)
        return {**self._defaults, **ours}

    def _check_fit(self, given: Mapping[str, Any]) -> None:
        """Refuse what the schema allows, but the function does not take."""
        unknown = set(given) & self._function.reserved
        if self._function.more is None:
            unknown = set(given) - self._names
        missing = self._names - set(self._defaults) - set(given)
        problems = [(name, "Unknown argument") for name in sorted(unknown)]
        if problems or missing:
            raise InvalidArguments([*problems, *((name, "Field required") for name in sorted(missing))])
