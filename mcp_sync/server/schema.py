"""Signature: what a function takes and gives, as JSON Schema, and how it is called.

For tools, prompts and templates of resources alike. Everything is made once, when a function is registered, and
whatever is wrong with it is said there::

    functions.Function      the function: its parameters, their types, its docstring
    typed, written          what it takes: by type hints, or by a schema that somebody wrote
    returns.Structure       what it gives

Source: server/tools (inputSchema, outputSchema), basic/index (JSON Schema usage: 2020-12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .arguments import Arguments, InvalidArguments
from .blocks import UnfitResult
from .functions import Function
from .returns import Structure, structure_of
from .typed import TextArguments, TypedArguments
from .written import WrittenArguments

__all__ = ["InvalidArguments", "Parameter", "Signature", "Structure", "UnfitResult"]


@dataclass(frozen=True)
class Parameter:
    """One thing that a function takes.

    Attributes:
        name: What callers call it.
        description: What it is; empty where nothing is said.
        required: Whether it has to be there.
    """

    name: str
    description: str
    required: bool


class Signature:
    """What a function takes and gives.

    Args:
        function: Anything that can be called: no coroutine function, no generator.
        what: What to call it in messages to its author, such as ``tool 'get_weather' (weather.get_weather)``.
        context: The class of Context: parameters of this type are filled by us, and are not part of the schema.
        input_schema: What it takes, where type hints do not say it: a JSON Schema of an object, kept as it is. The
            function gets the arguments as they came, by name; or as one dict, if it has a single parameter that may
            be one, and the schema has no property of that name.
        output_schema: What it gives, likewise.
        structured_output: Whether it gives structured content; None: if its return annotation has a structure.
        texts: Whether all arguments are texts (prompts, URIs), which become what type hints say. Otherwise they are
            JSON, and a text is no number.

    Raises:
        TypeError: The function cannot be offered; the text names it, the parameter, and why.

    Attributes:
        input_schema: What it takes, as JSON Schema of an object.
        output_schema: What it gives, as JSON Schema; None where there is no structure.
        structure: What makes structured content of what it gives; None likewise.
        description: What the docstring says, without what it says of parameters; empty where there is none.
        parameters: What it takes, one by one, as far as the schema's root tells.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        what: str,
        context: type,
        input_schema: Mapping[str, Any] | None = None,
        output_schema: Mapping[str, Any] | None = None,
        structured_output: bool | None = None,
        texts: bool = False,
    ) -> None:
        self._function = Function(function, what=what, context=context)
        self._arguments = _arguments(self._function, input_schema, TextArguments if texts else TypedArguments)
        self.structure = structure_of(self._function, output_schema, False if texts else structured_output)
        self._function.settle()
        self.input_schema = self._arguments.schema
        self.output_schema = self.structure.schema if self.structure else None
        self.description = self._function.description
        self.parameters = _parameters(self.input_schema)

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function is called with: all of it, converted, by the names of its parameters.

        Args:
            arguments: What the caller gave.

        Raises:
            InvalidArguments: It does not fit; the text is for the caller.
        """
        return self._arguments.bind(arguments)

    def call(self, bound: Mapping[str, Any], context: Any) -> Any:
        """Call the function.

        Args:
            bound: What ``bind`` returned.
            context: What fills the parameters that are ours.

        Returns:
            What it returns; raises what it raises.
        """
        return self._function.call(bound, context)


def _arguments(function: Function, schema: Mapping[str, Any] | None, by_hints: type[TypedArguments]) -> Arguments:
    return by_hints(function) if schema is None else WrittenArguments(function, schema)


def _parameters(schema: Mapping[str, Any]) -> list[Parameter]:
    required = schema.get("required", ())
    return [
        Parameter(name, str(part.get("description", "")) if isinstance(part, Mapping) else "", name in required)
        for name, part in schema.get("properties", {}).items()
    ]
