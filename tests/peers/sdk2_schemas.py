"""Functions, and the JSON Schemas that the official SDK 2.x makes of them: printed as JSON, by name.

Runs in the environment `sdk2`; imported elsewhere, it is only the functions.
"""
# ruff: noqa: UP007, UP045  # people write both

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import sys
import uuid
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, Field
from typing_extensions import NotRequired, TypedDict


class Colour(enum.Enum):
    """What is seen."""

    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Person(BaseModel):
    """Somebody."""

    name: str = Field(min_length=1, description="What they are called")
    age: int = Field(ge=0, default=0)
    friends: list[Person] = []


class Filter(TypedDict):
    field: str
    values: NotRequired[list[str]]


class Renamed(BaseModel):
    class_name: str = Field(alias="className")


class Plain:
    x: int
    y: str = "a"

    def __init__(self, x: int) -> None:
        self.x = x


def nothing() -> str: ...


def scalars(a: str, b: int, c: float, d: bool) -> int: ...


def defaults(a: str = "x", b: int = 1, c: float = 1.5, d: bool = False, e: Any = None) -> float: ...


def optional(a: Optional[int], b: int | None = None, c: Union[int, str] = 1) -> str | None: ...


def lists(a: list[int], b: list[list[str]], c: dict[str, int], d: tuple[int, str], e: set[str]) -> list[int]: ...


def bare(a: list, b: dict) -> dict[str, int]: ...  # type: ignore[type-arg]


def choices(a: Literal["x", "y"], b: Literal[1, 2], c: Colour, d: Level, e: Colour = Colour.RED) -> Colour: ...


def constrained(
    a: Annotated[int, Field(ge=1, le=10, description="A number")],
    b: Annotated[str, Field(pattern="^a")] = "a",
    c: str = Field("x", max_length=3, title="Sea"),
    d: Annotated[list[int], Field(min_length=1)] = [],  # noqa: B006
) -> Annotated[int, Field(description="A count")]: ...


def times(
    a: datetime.datetime,
    b: datetime.date,
    c: datetime.timedelta,
    d: uuid.UUID,
    e: pathlib.Path,
    f: decimal.Decimal,
    g: bytes,
) -> datetime.date: ...


def point(a: Point, b: list[Point]) -> Point: ...


def person(a: Person, b: Person | None = None) -> Person: ...


def filters(a: list[Filter], b: dict[str, Filter]) -> Filter: ...


def either(a: Person | Point) -> Person | Point: ...


def aliased(a: str = Field(alias="class"), b: int = Field(1, alias="for")) -> Renamed: ...


def header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> list[Person]: ...


def names(json: str, schema: str, copy: bool, dict: int) -> bool: ...


def plain(a: int) -> Plain: ...


def people() -> dict[str, Person]: ...


def text() -> bytes: ...


def pairs() -> tuple[int, str]: ...


def anything() -> Any: ...


def silent(a: int): ...


def unshaped() -> list: ...  # type: ignore[type-arg]


def numbers() -> list[float] | None: ...


FUNCTIONS = [
    *(nothing, scalars, defaults, optional, lists, bare, choices, constrained, times, point, person, filters),
    *(either, aliased, header, names, plain, people, text, pairs, anything, silent, unshaped, numbers),
]


def main() -> None:
    from mcp.server.mcpserver.utilities.func_metadata import func_metadata

    found = {}
    for function in FUNCTIONS:
        made = func_metadata(function)
        found[function.__name__] = [made.arg_model.model_json_schema(by_alias=True), made.output_schema]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
