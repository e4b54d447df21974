"""Functions of the application, looked at once: what they take, with which types, and how to call them.

Anything that can be called is a function here: methods, partials, objects with ``__call__``. What cannot be offered (a
coroutine function, ``*args``, a type that means nothing) is refused with a TypeError that says where and why.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .docstrings import split_docstring
from .hints import arms, is_kind_of, names_around, resolved

NOTHING: Any = inspect.Parameter.empty
"""Where there is no default, or no annotation."""


@dataclass(frozen=True)
class Argument:
    """One parameter of a function that a caller fills.

    Attributes:
        name: What it is called in Python.
        hint: Its type; ``Any`` where it has none.
        default: Its default, or NOTHING.
        description: What the docstring says of it, or an empty text.
    """

    name: str
    hint: Any
    default: Any
    description: str


class Function:
    """A function of the application.

    Args:
        function: The function.
        what: What to call it in messages, such as ``tool 'get_weather'``.
        context: A parameter of this type is filled by us, and by nobody else.

    Raises:
        TypeError: It cannot be offered.

    Attributes:
        description: What the docstring says, without what it says of parameters; empty where there is none.
        arguments: What a caller fills.
        more: The parameter ``**kwargs``; its type is that of each value. None where there is none.
        contexts: The names of the parameters that we fill.
        reserved: The names that no caller fills: those, and what a partial has filled already, which may be a secret.
        names: What names mean where it was written, until it is settled.
    """

    def __init__(self, function: Callable[..., Any], *, what: str, context: type) -> None:
        if not callable(function):
            raise TypeError(f"{what} must be a function, not {type(function).__name__} ({function!r:.100})")
        self._function, self.what, self._context = function, what, context
        code = _code(function)
        _refuse_waiting(code, what)
        origin = inspect.unwrap(code)
        self.names = names_around(origin, {context.__name__: context})
        self.description, self._said = split_docstring(_doc(function, origin))
        self._signature = self._looked_at()
        self._refuse_self(origin)
        self._sort()

    def settle(self) -> None:
        """Let go of what names mean, once everything is made: there are whole frames behind them."""
        self.names = {}

    def _looked_at(self) -> inspect.Signature:
        try:
            return inspect.signature(self._function)
        except (TypeError, ValueError) as flaw:
            raise TypeError(f"{self.what} has no signature that Python knows: {flaw}") from None

    def _refuse_self(self, origin: Any) -> None:
        owner = getattr(origin, "__qualname__", "").rpartition(".")[0]
        first = next(iter(self._signature.parameters.values()), None)
        is_method = bool(owner) and not owner.endswith("<locals>") and not inspect.isclass(self._function)
        if is_method and first is not None and first.name in ("self", "cls") and first.annotation is NOTHING:
            reason = f"the method {origin.__qualname__} belongs to no object yet; register the method of an object"
            raise self.refused(first.name, reason)

    def _sort(self) -> None:
        filled = self._function.keywords if isinstance(self._function, functools.partial) else {}
        free = [one for one in self._signature.parameters.values() if one.name not in filled]
        hints = {one.name: self._resolved(one) for one in free}
        self.contexts = tuple(name for name, hint in hints.items() if self._is_ours(hint))
        self.reserved = frozenset({*self.contexts, *filled})
        self._placed = tuple(one.name for one in free if one.kind is one.POSITIONAL_ONLY)
        fillable = [
            (one.kind, Argument(one.name, hints[one.name], one.default, self._said.get(one.name, "")))
            for one in free
            if one.name not in self.contexts
        ]
        more = inspect.Parameter.VAR_KEYWORD
        self.arguments = tuple(argument for kind, argument in fillable if kind is not more)
        self.more = next((argument for kind, argument in fillable if kind is more), None)

    def _is_ours(self, hint: Any) -> bool:
        return any(is_kind_of(arm, self._context) for arm in arms(hint))

    def _resolved(self, parameter: inspect.Parameter) -> Any:
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise self.refused(parameter.name, "arguments have names, so nothing can fill *args")
        try:
            return resolved(parameter.annotation, self.names)
        except Exception as flaw:  # an annotation is code, and raises what it likes
            reason = f"its annotation {parameter.annotation!r:.100} means nothing here: {flaw}"
            raise self.refused(parameter.name, reason) from None

    def refused(self, name: str, reason: str) -> TypeError:
        """Return the error about a parameter that cannot be offered."""
        return TypeError(f"{self.what}: parameter {name!r}: {reason}")

    def returns(self) -> Any:
        """Return the type of what the function returns, or NOTHING where it does not say.

        Raises:
            TypeError: Its annotation means nothing.
        """
        hint = self._signature.return_annotation
        if hint is NOTHING:
            return NOTHING
        try:
            return resolved(hint, self.names)
        except Exception as flaw:  # as above
            raise TypeError(f"{self.what}: its return annotation {hint!r:.100} means nothing here: {flaw}") from None

    def call(self, values: Mapping[str, Any], context: Any) -> Any:
        """Call the function.

        Args:
            values: All that it takes, by name.
            context: What fills the parameters that are ours.

        Returns:
            What it returns; raises what it raises.
        """
        given = {**values, **dict.fromkeys(self.contexts, context)}
        placed = [given.pop(name) for name in self._placed]
        return self._function(*placed, **given)


def _code(function: Any) -> Any:
    """Return what is run in the end: behind partials and methods, and behind what an object does when it is called."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif inspect.isclass(function):
            return function.__init__
        elif inspect.isroutine(function) or hasattr(function, "__wrapped__"):
            return function
        else:
            function = type(function).__call__


def _refuse_waiting(code: Any, what: str) -> None:
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        hint = "there is no event loop here; write def instead of async def"
        raise TypeError(f"{what}: {_named(code)} is async, and {hint}")
    if inspect.isgeneratorfunction(code):
        hint = "return a list; a Context reports progress meanwhile"
        raise TypeError(f"{what}: {_named(code)} is a generator, which gives nothing at once; {hint}")


def _named(code: Any) -> str:
    return str(getattr(code, "__qualname__", None) or repr(code))


def _doc(function: Any, origin: Any) -> str | None:
    """Return the docstring; that of an object's class where its ``__call__`` has none, never one of Python's own."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return inspect.getdoc(function)
    return getattr(origin, "__doc__", None) or inspect.getdoc(type(function))
