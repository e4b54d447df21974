"""Arguments: what a caller gave, compared with what a function takes, and made into it.

``typed`` goes by type hints, ``written`` by a schema that somebody wrote. What does not fit is told in the words of
JSON, for whoever sent it: nothing in it is of our inside.

Source: server/tools (inputSchema; input validation errors).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Problem: TypeAlias = "tuple[str, str]"
"""Where, such as ``filters[0].name`` (empty for all of it), and what is wrong there."""


class InvalidArguments(ValueError):
    """What a caller gave does not fit what the function takes. The text is for the caller.

    Args:
        problems: Where, such as ``filters[0].name``, and what is wrong there; see the attribute.
        untold: How many more there are.

    Attributes:
        problems: The first problems, as pairs of path and message.
    """

    def __init__(self, problems: Sequence[Problem], untold: int = 0) -> None:
        super().__init__(problems, untold)
        self.problems = list(problems)
        self._untold = untold

    def __str__(self) -> str:
        told = "; ".join(f"{path}: {message}" if path else message for path, message in self.problems)
        return f"invalid arguments: {told}" + (f"; and {self._untold} more" if self._untold else "")


class Arguments(ABC):
    """What a function takes.

    Attributes:
        schema: The JSON Schema of an object.
    """

    schema: dict[str, Any]

    @abstractmethod
    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function is called with, by the names of its parameters.

        Raises:
            InvalidArguments: It does not fit.
        """
