"""What a function takes and gives, as JSON Schema, and how it is called."""
# ruff: noqa: UP006, UP007, UP037, UP045  # people write types in every way there is

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import itertools
import json
import math
import pathlib
import pickle
import re
import subprocess
import threading
import types
import typing
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcp_types import CallToolResult, EmbeddedResource, ImageContent, TextContent
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field
from typing_extensions import Never, NotRequired, TypedDict, Unpack

from mcp_sync.server.content import Audio, File, Image
from mcp_sync.server.docstrings import split_docstring
from mcp_sync.server.schema import InvalidArguments, Parameter, Signature
from peers import install, sdk2_schemas

if TYPE_CHECKING:
    from mcp_sync.server import Context as Unimported


def shown(value: object) -> str:
    """The id of a test; without addresses, for it has to stay the same."""
    return re.sub(r" at 0x\w+", "", repr(value))[:40]


class Context:
    """What is injected."""


class Special(Context):
    """A kind of it."""


def signature(function: Any, **more: Any) -> Signature:
    return Signature(function, what=f"tool {getattr(function, '__name__', 'it')!r}", context=Context, **more)


def schema_of(function: Any, **more: Any) -> dict[str, Any]:
    return signature(function, **more).input_schema


def problems_of(function: Any, arguments: Any, **more: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidArguments) as caught:
        signature(function, **more).bind(arguments)
    return caught.value.problems


def run(function: Any, arguments: dict[str, Any], context: Any = None, **more: Any) -> Any:
    made = signature(function, **more)
    return made.call(made.bind(arguments), context)


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Person(BaseModel):
    name: str
    age: int = Field(0, ge=0)
    friends: list[Person] = []


class Filter(TypedDict):
    name: str
    values: NotRequired[list[int]]


class StandardFilter(typing.TypedDict):
    """Of the standard library, which pydantic refuses before Python 3.12."""

    name: Annotated[str, Field(min_length=1)]
    inner: list[StandardInner]


class StandardInner(typing.TypedDict, total=False):
    a: int


# -- schemas ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    """What the official SDK says of the functions in `peers.sdk2_schemas`: input and output schemas."""
    install.demand("sdk2")
    command = [install.python_of("sdk2"), sdk2_schemas.__file__]
    done = subprocess.run(command, capture_output=True, timeout=50, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def untitled(schema: Any, is_names: bool = False) -> Any:
    if isinstance(schema, list):
        return [untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: untitled(part, key in ("properties", "$defs"))
        for key, part in schema.items()
        if is_names or key != "title" or not isinstance(part, str)
    }


OUTPUTS_OF_OURS = {"choices", "times"}  # enums and dates: the official SDK has no output schema for them


@pytest.mark.interop
@pytest.mark.parametrize("function", sdk2_schemas.FUNCTIONS, ids=lambda function: function.__name__)
def test_schemas_are_those_of_the_official_sdk(function: Any, official: dict[str, Any]) -> None:
    ours = signature(function)
    inputs, outputs = official[function.__name__]
    assert untitled(ours.input_schema) == {**untitled(inputs), "additionalProperties": False}
    if function.__name__ not in OUTPUTS_OF_OURS:
        assert untitled(ours.output_schema) == untitled(outputs)


@pytest.mark.parametrize("function", sdk2_schemas.FUNCTIONS, ids=lambda function: function.__name__)
def test_schemas_are_valid_and_json(function: Any) -> None:
    ours = signature(function)
    for schema in (ours.input_schema, ours.output_schema):
        if schema is not None:
            Draft202012Validator.check_schema(schema)
            assert json.loads(json.dumps(schema)) == schema
            assert schema["type"] == "object"


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    def ping() -> None: ...

    assert schema_of(ping) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert run(ping, {}) is None


def test_titles_are_those_of_the_user_alone() -> None:
    class Titled(BaseModel):
        model_config = {"title": "A title"}
        x: int = Field(title="An x")

    class Untitled(BaseModel):
        title: str

    def tool(
        a: Annotated[int, Field(title="An a")], b: Titled, c: Untitled, title: Colour, e: Literal["x"]
    ) -> None: ...

    text = json.dumps(schema := schema_of(tool))
    assert schema["properties"]["a"]["title"] == "An a"
    assert schema["$defs"]["Titled"]["title"] == "A title"
    assert schema["$defs"]["Titled"]["properties"]["x"]["title"] == "An x"
    assert schema["$defs"]["Untitled"]["properties"] == {"title": {"type": "string"}}
    assert text.count('"title": "') == 3


def test_a_class_titled_with_its_own_name_keeps_its_title() -> None:
    class Same(BaseModel):
        model_config = {"title": "Same"}

    def tool(a: Same) -> None: ...

    assert schema_of(tool)["$defs"]["Same"]["title"] == "Same"


def test_descriptions_come_from_the_field_then_the_annotation_then_the_docstring() -> None:
    def tool(
        a: Annotated[int, "of the annotation", Field(description="of the field")],
        b: Annotated[int, "of the annotation"],
        c: int,
        d: int,
        e: int = Field(1, description="of the default"),
    ) -> None:
        """Do.

        Args:
            a: of the docstring
            b: of the docstring
            c: of the docstring
            e: of the docstring
        """

    made = signature(tool)
    assert [part.get("description") for part in made.input_schema["properties"].values()] == [
        *("of the field", "of the annotation", "of the docstring", None, "of the default"),
    ]
    assert made.parameters == [
        Parameter("a", "of the field", True),
        Parameter("b", "of the annotation", True),
        Parameter("c", "of the docstring", True),
        Parameter("d", "", True),
        Parameter("e", "of the default", False),
    ]


def test_a_header_annotation_reaches_the_property() -> None:
    def tool(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> None: ...

    assert schema_of(tool)["properties"]["region"] == {"type": "string", "x-mcp-header": "Region"}


def test_a_default_that_json_cannot_say_is_not_said() -> None:
    marker = object()
    assert schema_of(lambda a=marker: a) == {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    assert run(lambda a=marker: a, {}) is marker


@pytest.mark.parametrize("name", ["json", "model_config", "schema", "copy", "model_dump", "_private", "__dunder", "p0"])
def test_any_name_of_a_parameter_will_do(name: str) -> None:
    space: dict[str, Any] = {}
    exec(f"def tool({name}: int, p1: int = 2): return [{name}, p1]", space)
    assert list(schema_of(space["tool"])["properties"]) == [name, "p1"]
    assert run(space["tool"], {name: 5}) == [5, 2]
    assert problems_of(space["tool"], {name: "5"}) == [(name, "Input should be a valid integer, got '5'")]


def test_an_alias_is_the_name_that_callers_use() -> None:
    def tool(kind: Annotated[str, Field(alias="class")], way: int = Field(1, alias="from")) -> Any:
        return [kind, way]

    assert list(schema_of(tool)["properties"]) == ["class", "from"]
    assert signature(tool).parameters == [Parameter("class", "", True), Parameter("from", "", False)]
    assert run(tool, {"class": "a", "from": 2}) == ["a", 2]
    assert problems_of(tool, {"kind": "a"}) == [
        ("class", "Field required (string)"),
        ("kind", "Unknown argument; it takes class, from"),
    ]


def test_the_first_of_several_aliases_is_the_name() -> None:
    def tool(a: Annotated[int, Field(validation_alias=AliasChoices("one", "uno"))]) -> int:
        return a

    assert list(schema_of(tool)["properties"]) == ["one"]
    assert run(tool, {"one": 1}) == 1


def test_a_tree_has_its_definition() -> None:
    def tool(root: Person) -> Person:
        return root

    made = signature(tool)
    assert made.input_schema["properties"]["root"] == {"$ref": "#/$defs/Person"}
    assert made.input_schema["$defs"]["Person"]["properties"]["friends"]["items"] == {"$ref": "#/$defs/Person"}
    assert made.output_schema is not None
    assert made.output_schema["type"] == "object"
    assert "Person" in made.output_schema["$defs"]
    Draft202012Validator(made.output_schema).validate({"name": "a", "age": 1, "friends": [{"name": "b"}]})


# -- where type hints come from ---------------------------------------------------------------------------------------


def test_types_that_are_defined_beside_the_function_are_found() -> None:
    @dataclasses.dataclass
    class Inner:
        a: int
        more: Inner | None = None

    class Outer(BaseModel):
        inner: list[Inner]

    def tool(outer: Outer, inner: Inner, quoted: list[Inner], again: Optional["Inner"] = None) -> Inner:
        return outer.inner[0]

    made = signature(tool)
    inner = {"a": 1, "more": {"a": 2}}
    bound = made.bind({"outer": {"inner": [inner]}, "inner": inner, "quoted": [inner]})
    assert made.call(bound, None) == Inner(1, Inner(2))
    assert made.output_schema is not None


def test_types_that_are_defined_after_those_that_name_them_are_found() -> None:
    class First(BaseModel):
        second: list[Second]

    class Second(BaseModel):
        a: int

    def tool(first: First) -> First:
        return first

    made = signature(tool)
    first = made.call(made.bind({"first": {"second": [{"a": 1}]}}), None)
    assert first.second == [Second(a=1)]
    assert made.structure is not None
    assert made.structure.structured(first) == {"second": [{"a": 1}]}


def registered_elsewhere(function: Any) -> Signature:
    Beside = int  # noqa: F841
    return signature(function)


def test_whoever_registers_a_function_does_not_change_what_its_types_mean() -> None:
    @dataclasses.dataclass
    class Beside:
        a: int

    @functools.lru_cache
    def tool(beside: Beside) -> int:
        return beside.a

    assert "$defs" in registered_elsewhere(tool).input_schema


def of_the_module(a: Point) -> Colour:
    return Colour.RED


def test_the_names_of_a_function_are_not_taken_from_whoever_registers_it() -> None:
    Point = int  # noqa: F841
    Colour = str  # noqa: F841
    made = signature(of_the_module)
    assert made.bind({"a": {"x": 1}}) == {"a": globals()["Point"](1)}
    assert made.structure is not None
    assert made.structure.structured(globals()["Colour"].RED) == {"result": "red"}


def test_what_a_signature_keeps_is_not_the_frame_it_was_made_in() -> None:
    class Large:
        pass

    def register() -> tuple[Signature, weakref.ref[Large]]:
        large = Large()

        def tool(a: int) -> int:
            return a

        return signature(tool), weakref.ref(large)

    made, large = register()
    gc.collect()
    assert large() is None
    assert made.bind({"a": 1}) == {"a": 1}


def test_typed_dicts_of_the_standard_library_work_on_every_python() -> None:
    def tool(one: StandardFilter, many: list[StandardFilter], maybe: StandardInner | None = None) -> StandardFilter:
        return one

    made = signature(tool)
    schema = made.input_schema["$defs"]["StandardFilter"]
    assert schema["required"] == ["name", "inner"]
    assert schema["description"].startswith("Of the standard library")
    assert "required" not in made.input_schema["$defs"]["StandardInner"]
    good: Any = {"name": "a", "inner": [{"a": 1}, {}]}
    assert made.bind({"one": good, "many": [good]})["one"] == good
    with pytest.raises(InvalidArguments, match=r"many\[0\].name: String should have at least 1 character, got ''"):
        made.bind({"one": good, "many": [{**good, "name": ""}]})
    assert made.output_schema is not None
    assert set(made.output_schema["properties"]) == {"name", "inner"}


def test_a_type_that_is_imported_for_type_checkers_alone_is_told() -> None:
    def tool(a: Unimported) -> None: ...

    with pytest.raises(TypeError, match="tool 'tool': parameter 'a': its annotation 'Unimported' means nothing here"):
        signature(tool)


def test_a_context_that_is_imported_for_type_checkers_alone_is_known() -> None:
    space: dict[str, Any] = {"__name__": "elsewhere"}
    exec("def tool(a: int, context: 'Context'): return context", space)
    assert list(schema_of(space["tool"])["properties"]) == ["a"]
    assert run(space["tool"], {"a": 1}, "the context") == "the context"


class Counter:
    """An object that counts."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, by: int, ctx: Context) -> int:
        """Add some.

        Args:
            by: How much.
        """
        self.count += by
        return self.count

    @classmethod
    def make(cls, start: int) -> int:
        return cls(start).count

    @staticmethod
    def fixed(a: int) -> int:
        return a

    def __call__(self, by: int) -> int:
        return self.add(by, Context())


def doubled(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> int:
        return 2 * function(*args, **kwargs)

    return wrapper


@doubled
def wrapped(a: int) -> int:
    """Wrapped."""
    return a


@functools.lru_cache
def cached(a: int) -> int:
    return a


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        (Counter(5).add, {"by": 2}, 7),
        (Counter.make, {"start": 3}, 3),
        (Counter.fixed, {"a": 3}, 3),
        (Counter(1), {"by": 2}, 3),
        (functools.partial(Counter(1).add, 4), {}, 5),
        (functools.partial(Counter(1).add, by=4), {}, 5),
        (functools.partial(Counter(1)), {"by": 2}, 3),
        (wrapped, {"a": 3}, 6),
        (cached, {"a": 3}, 3),
        (lambda a=2: a, {}, 2),
        (math.floor, {"x": 2.5}, 2),
        (types.SimpleNamespace(f=lambda a: a).f, {"a": [1]}, [1]),
    ],
)
def test_whatever_can_be_called_can_be_offered(function: Any, arguments: dict[str, Any], result: Any) -> None:
    assert run(function, arguments) == result


def test_what_a_partial_has_filled_is_neither_shown_nor_changed() -> None:
    def fetch(path: str, key: str, **more: Any) -> Any:
        return path, key, more

    tool = functools.partial(fetch, key="secret")
    assert "secret" not in json.dumps(schema_of(tool))
    assert run(tool, {"path": "a", "b": 1}) == ("a", "secret", {"b": 1})
    for more in ({}, {"input_schema": {"type": "object", "properties": {"path": {}}}}):
        assert [path for path, _ in problems_of(tool, {"path": "a", "key": "mine"}, **more)] == ["key"]


def test_a_class_can_be_offered() -> None:
    made = signature(Counter)
    assert made.input_schema["properties"] == {"start": {"default": 0, "type": "integer"}}
    assert made.call(made.bind({"start": 4}), None).count == 4


@pytest.mark.parametrize(
    ("function", "description"),
    [
        (Counter(5).add, "Add some."),
        (functools.partial(Counter(5).add, 1), "Add some."),
        (Counter(5), "An object that counts."),
        (wrapped, "Wrapped."),
        (lambda: None, ""),
    ],
)
def test_the_description_is_that_of_the_function_behind(function: Any, description: str) -> None:
    assert signature(function).description == description


# -- the context ------------------------------------------------------------------------------------------------------


def takes_plain(ctx: Context, a: int) -> Any:
    return ctx


def takes_quoted(a: int, ctx: "Context") -> Any:
    return ctx


def takes_optional(a: int, ctx: Context | None = None) -> Any:
    return ctx


def takes_old_optional(a: int, ctx: Optional[Context] = None) -> Any:
    return ctx


def takes_annotated(a: int, ctx: Annotated[Context, "mine"]) -> Any:
    return ctx


def takes_special(a: int, *, ctx: Special) -> Any:
    return ctx


def takes_positional(ctx: Context, a: int, /) -> Any:
    return ctx


def takes_more(ctx: Context, **more: Any) -> Any:
    return ctx


TAKERS = [
    *(takes_plain, takes_quoted, takes_optional, takes_old_optional, takes_annotated, takes_special),
    *(takes_positional, takes_more),
]


@pytest.mark.parametrize("function", TAKERS)
@pytest.mark.parametrize("texts", [False, True])
def test_a_context_is_injected_and_not_in_the_schema(function: Any, texts: bool) -> None:
    assert "ctx" not in schema_of(function)["properties"]
    context = Context()
    assert run(function, {"a": "1" if texts else 1}, context, texts=texts) is context


@pytest.mark.parametrize("function", TAKERS)
def test_a_caller_cannot_fill_the_context(function: Any) -> None:
    assert [path for path, _ in problems_of(function, {"a": 1, "ctx": "mine"})] == ["ctx"]


def test_several_contexts_are_all_filled() -> None:
    def tool(a: Context, b: Context) -> Any:
        return a is b

    assert run(tool, {}, Context()) is True


# -- what cannot be offered -------------------------------------------------------------------------------------------


async def waits(a: int) -> int:
    return a


async def streams(a: int) -> Any:
    yield a


def generates(a: int) -> Iterator[int]:
    yield a


class Waiter:
    async def __call__(self, a: int) -> int:
        return a

    async def wait(self) -> None: ...


class Opaque:
    pass


def takes_opaque(a: int, b: Opaque) -> None: ...


def takes_nested(a: list[dict[str, Opaque]]) -> None: ...


def takes_function(a: Callable[[int], int]) -> None: ...


def takes_lock(lock: threading.Event) -> None: ...


def takes_typo(a: int, b: NoSuchType) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def takes_number(a: int, b: 5) -> None: ...  # type: ignore[valid-type]


def takes_many(a: int, *args: int) -> None: ...


def takes_unpacked(**more: Unpack[Filter]) -> None: ...


def gives_typo() -> NoSuchType: ...  # type: ignore[name-defined]  # noqa: F821


def bad_default(a: Annotated[int, Field(default=1, default_factory=int)]) -> None: ...  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (waits, "waits is async, and there is no event loop here"),
        (streams, "streams is async"),
        (generates, "generates is a generator"),
        (functools.partial(waits, 1), "waits is async"),
        (Waiter(), "Waiter.__call__ is async"),
        (Waiter().wait, "Waiter.wait is async"),
        (Counter.add, "parameter 'self': the method Counter.add belongs to no object yet"),
        (takes_opaque, "parameter 'b': JSON Schema has nothing for its type: .*Opaque"),
        (takes_nested, "parameter 'a': JSON Schema has nothing for its type"),
        (takes_function, "parameter 'a': JSON Schema has nothing for its type"),
        (takes_lock, "parameter 'lock': JSON Schema has nothing for its type"),
        (takes_typo, "parameter 'b': its annotation 'NoSuchType' means nothing here: name 'NoSuchType' is not defined"),
        (takes_number, "parameter 'b': "),
        (takes_unpacked, "parameter 'more': JSON Schema has nothing for its type: .*Unpack"),
        (takes_many, r"parameter 'args': arguments have names, so nothing can fill \*args"),
        (gives_typo, "its return annotation 'NoSuchType' means nothing here"),
        (5, "must be a function, not int"),
        (type.__call__, "tool '__call__'"),
    ],
)
def test_what_cannot_be_offered_is_refused_by_name(function: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text) as caught:
        signature(function)
    assert str(caught.value).startswith("tool ")
    assert "errors.pydantic.dev" not in str(caught.value)


def test_what_a_prompt_returns_is_not_looked_at() -> None:
    assert signature(gives_typo, texts=True).output_schema is None


def test_a_return_annotation_that_nobody_wants_is_not_looked_at() -> None:
    assert signature(gives_typo, structured_output=False).output_schema is None


# -- arguments --------------------------------------------------------------------------------------------------------

GOOD = [
    (int, 5, 5),
    (int, 10**400, 10**400),
    (int, 5.0, 5),
    (list[int], [1.0, 2], [1, 2]),
    (float, 5, 5.0),
    (bool, True, True),
    (str, "", ""),
    (Any, {"a": [None]}, {"a": [None]}),
    (Optional[int], None, None),
    (Union[int, str], "5", "5"),
    (Union[int, str], 5, 5),
    (Union[float, int], 5, 5),
    (Literal["a", 1], 1, 1),
    (Colour, "red", Colour.RED),
    (Level, 2, Level.HIGH),
    (Point, {"x": 1}, Point(1)),
    (list[Point], [{"x": 1.0, "y": 2}], [Point(1, 2)]),
    (dict[str, Point], {"a": {"x": 1}}, {"a": Point(1)}),
    (Filter, {"name": "a", "values": [1]}, {"name": "a", "values": [1]}),
    (Person, {"name": "a", "friends": [{"name": "b"}]}, Person(name="a", friends=[Person(name="b")])),
    (tuple[int, str], [1, "a"], (1, "a")),
    (set[str], ["a", "a"], {"a"}),
    (frozenset[int], [1], frozenset({1})),
    (bytes, "é", b"\xc3\xa9"),
    (datetime.datetime, "2024-05-01T10:00:00", datetime.datetime(2024, 5, 1, 10)),
    (datetime.date, "2024-05-01", datetime.date(2024, 5, 1)),
    (datetime.timedelta, "PT1H", datetime.timedelta(hours=1)),
    (uuid.UUID, "12345678123456781234567812345678", uuid.UUID("12345678123456781234567812345678")),
    (pathlib.Path, "/a/b", pathlib.Path("/a/b")),
    (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
    (decimal.Decimal, 1.5, decimal.Decimal("1.5")),
    (dict[int, str], {"1": "a"}, {1: "a"}),
    (Iterable[int], [1], [1]),
    (Optional[Iterable[int]], [1.0], [1]),
    (typing.Iterable[int], [1], [1]),
    (typing.List, [1], [1]),
    (typing.Dict, {"a": 1}, {"a": 1}),
    (Annotated[int, Field(ge=1)], 1, 1),
    (Annotated[str, BeforeValidator(str)], 5, "5"),
    (Annotated[str, AfterValidator(str.upper)], "a", "A"),
]


def takes(kind: Any) -> Callable[..., Any]:
    def tool(a: Any) -> Any:
        return a

    tool.__annotations__["a"] = kind
    return tool


@pytest.mark.parametrize(("kind", "given", "wanted"), GOOD, ids=shown)
def test_what_fits_is_made_into_the_type(kind: Any, given: Any, wanted: Any) -> None:
    bound = signature(takes(kind)).bind({"a": given})
    assert bound == {"a": wanted}
    assert type(bound["a"]) is type(wanted)


BAD = [
    (int, "5", "Input should be a valid integer, got '5'"),
    (int, True, "Input should be a valid integer, got True"),
    (int, 5.5, "Input should be a valid integer, got 5.5"),
    (int, None, "Input should be a valid integer, got None"),
    (float, "5", "Input should be a valid number, got '5'"),
    (float, True, "Input should be a valid number, got True"),
    (bool, 1, "Input should be a valid boolean, got 1"),
    (bool, "true", "Input should be a valid boolean, got 'true'"),
    (str, 5, "Input should be a valid string, got 5"),
    (Iterable[int], ["1"], None),
    (list[int], "[1]", "Input should be a valid array, got '[1]'"),
    (dict[str, int], "{}", "Input should be an object, got '{}'"),
    (Point, "x", "Input should be an object, got 'x'"),
    (Person, [], "Input should be an object, got []"),
    (Filter, 5, "Input should be an object, got 5"),
    (Colour, "blue", "Input should be 'red' or 'green', got 'blue'"),
    (Literal["a", "b"], "c", "Input should be 'a' or 'b', got 'c'"),
    (Union[int, str], [], "Input should be a valid integer or a valid string, got []"),
    (Union[int, list[int]], "x", "Input should be a valid integer or a valid array, got 'x'"),
    (Optional[int], "x", "Input should be a valid integer, got 'x'"),
    (Annotated[int, Field(ge=1)], 0, "Input should be greater than or equal to 1, got 0"),
    (Annotated[int, Field(ge=1)], 0.0, "Input should be greater than or equal to 1, got 0"),
    (datetime.datetime, 5, "Input should be a valid datetime, got 5"),
    (pathlib.Path, 5, "Input should be a valid string, got 5"),
    (str, "x" * 500, None),
]


@pytest.mark.parametrize(("kind", "given", "message"), BAD, ids=shown)
def test_what_does_not_fit_is_told(kind: Any, given: Any, message: str | None) -> None:
    if message is None and isinstance(given, list):
        assert problems_of(takes(kind), {"a": given}) == [("a[0]", "Input should be a valid integer, got '1'")]
        return
    if message is None:
        kind = Annotated[str, Field(max_length=3)]
        [(path, told)] = problems_of(takes(kind), {"a": given})
        assert (path, len(told) < 150) == ("a", True)
        return
    assert problems_of(takes(kind), {"a": given}) == [("a", message)]


def test_every_field_that_does_not_fit_is_told_with_its_place() -> None:
    def tool(city: str, days: int, filters: list[Filter], where: Point | None = None) -> None: ...

    given = {"days": "3", "filters": [{"name": "a", "values": [1, "x"]}, {}], "where": {"x": "1"}, "cit": "a"}
    with pytest.raises(InvalidArguments) as caught:
        signature(tool).bind(given)
    assert caught.value.problems == [
        ("city", "Field required (string)"),
        ("days", "Input should be a valid integer, got '3'"),
        ("filters[0].values[1]", "Input should be a valid integer, got 'x'"),
        ("filters[1].name", "Field required"),
        ("where.x", "Input should be a valid integer, got '1'"),
        ("cit", "Unknown argument; did you mean 'city'?"),
    ]
    assert str(caught.value) == "invalid arguments: " + "; ".join(f"{a}: {b}" for a, b in caught.value.problems)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_a_validator_says_is_told_as_it_is() -> None:
    def check(value: int) -> int:
        if value % 2:
            raise ValueError("must be even, by law")
        if not value:
            raise AssertionError("must not be zero")
        return value

    tool = takes(Annotated[int, AfterValidator(check)])
    assert problems_of(tool, {"a": 3}) == [("a", "must be even, by law, got 3")]
    assert problems_of(tool, {"a": 0}) == [("a", "must not be zero, got 0")]


def test_an_unknown_argument_is_refused_with_what_is_known() -> None:
    def tool(alpha: int = 0, beta: int = 0) -> None: ...

    assert problems_of(tool, {"zzz": 1}) == [("zzz", "Unknown argument; it takes alpha, beta")]
    assert problems_of(tool, {"alhpa": 1}) == [("alhpa", "Unknown argument; did you mean 'alpha'?")]
    assert problems_of(lambda: None, {"x": 1}) == [("x", "Unknown argument; it takes none")]


def test_a_long_value_is_shortened() -> None:
    for value in ("x" * 10_000, list(range(10_000)), {"a" * 5000: "b" * 5000}, [[["x" * 99]]]):
        [(_, message)] = problems_of(takes(int), {"a": value})
        assert len(message) < 130


def test_a_million_problems_are_not_all_told() -> None:
    with pytest.raises(InvalidArguments) as caught:
        signature(takes(list[int])).bind({"a": ["x"] * 1000})
    assert len(caught.value.problems) == 20
    assert str(caught.value).endswith("; and 980 more")


def test_nothing_of_our_inside_is_told() -> None:
    class Hidden:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from pydantic_core import core_schema

            python = core_schema.is_instance_schema(cls)
            return core_schema.json_or_python_schema(core_schema.int_schema(), python)

    kinds = (int, Point, Person, Filter, Colour, Union[Person, Point], pathlib.Path, Hidden, dict[str, Point])
    values: tuple[Any, ...] = (None, "x", [], {}, {"x": "y", "name": 1}, 1.5)
    for texts, kind, value in itertools.product((False, True), kinds, values):
        told = told_of(signature(takes(kind), texts=texts), {"a": value})
        for inside in ("pydantic", "<class", "__main__", "test_schema", "Hidden", "Point", "Person", "p0"):
            assert inside not in told


def told_of(made: Signature, arguments: dict[str, Any]) -> str:
    try:
        return repr(made.bind(arguments))[:0]
    except InvalidArguments as error:
        return str(error)


def test_defaults_are_the_users_own_and_mutable_ones_are_copied() -> None:
    marker = object()

    def tool(a: Any = marker, b: list[int] = [], c: Level = Level.LOW) -> Any:  # noqa: B006
        b.append(1)
        return a, b, c

    made = signature(tool)
    for _ in range(2):
        a, b, c = made.call(made.bind({}), None)
        assert a is marker
        assert (b, c) == ([1], Level.LOW)
    assert tool.__defaults__ is not None
    assert tool.__defaults__[1] == []


def test_a_function_cannot_change_the_request() -> None:
    def tool(a: Any, b: dict, c: list[Any], d: list[list[int]]) -> None:  # type: ignore[type-arg]
        a["x"].append(1)
        b["x"].append(1)
        c[0].append(1)
        d[0].append(1)

    request: dict[str, Any] = {"a": {"x": []}, "b": {"x": []}, "c": [[]], "d": [[]]}
    run(tool, request)
    run(tool, request, input_schema={"type": "object", "properties": dict.fromkeys("abcd", {})})
    assert request == {"a": {"x": []}, "b": {"x": []}, "c": [[]], "d": [[]]}


def test_arguments_may_be_any_mapping() -> None:
    assert signature(takes(int)).bind(types.MappingProxyType({"a": 1})) == {"a": 1}


def test_positional_parameters_are_filled_by_name() -> None:
    def tool(a: int, b: int = 2, /, c: int = 3, *, d: int) -> Any:
        return [a, b, c, d]

    assert run(tool, {"d": 4, "a": 1}) == [1, 2, 3, 4]
    schema = {"type": "object", "properties": dict.fromkeys("abcd", {"type": "integer"}), "required": ["a", "d"]}
    assert run(tool, {"d": 4, "a": 1}, input_schema=schema) == [1, 2, 3, 4]


def test_more_keywords_are_anything_or_of_their_type() -> None:
    def anything(a: int, **more: Any) -> Any:
        return a, more

    def numbers(a: int = 0, **more: Annotated[int, Field(ge=1)]) -> Any:
        return a, more

    def points(**more: Point) -> Any:
        return more

    assert schema_of(anything)["additionalProperties"] is True
    assert run(anything, {"a": 1, "b": [1], "c": None}) == (1, {"b": [1], "c": None})
    assert schema_of(numbers)["additionalProperties"] == {"type": "integer", "minimum": 1}
    assert run(numbers, {"b": 2.0}) == (0, {"b": 2})
    assert problems_of(numbers, {"b": 0}) == [("b", "Input should be greater than or equal to 1, got 0")]
    assert schema_of(points)["additionalProperties"] == {"$ref": "#/$defs/Point"}
    assert run(points, {"p": {"x": 1}}) == {"p": Point(1)}
    assert problems_of(points, {"p": {}}) == [("p.x", "Field required")]
    Draft202012Validator(schema_of(points)).validate({"p": {"x": 1}})


def test_more_keywords_cannot_fill_a_parameter_that_has_another_name() -> None:
    def tool(kind: Annotated[int, Field(alias="class")] = 0, **more: Any) -> Any:
        return kind, more

    assert run(tool, {"class": 1, "b": 2}) == (1, {"b": 2})
    assert [path for path, _ in problems_of(tool, {"kind": 5})] == ["kind"]


def test_types_in_types_take_what_their_author_lets_them_take() -> None:
    def tool(a: Point, **more: Any) -> Any:
        return a

    assert run(tool, {"a": {"x": 1, "unknown": 2}}) == Point(1)
    assert "additionalProperties" not in schema_of(tool)["$defs"]["Point"]


def test_what_is_no_json_is_refused() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for value in (deep, "\ud800", {"a": object()}):
        with pytest.raises(InvalidArguments):
            signature(takes(list[str])).bind({"a": value})
        with pytest.raises(InvalidArguments):
            signature(takes(dict[str, Point])).bind({"a": {"x": value}})
    for value in (deep, object()):
        with pytest.raises(InvalidArguments):
            signature(takes(Any)).bind({"a": value})


def test_many_threads_may_bind_at_once() -> None:
    made = signature(takes(list[Point]))
    flaws: list[Any] = []

    def work(number: int) -> None:
        for _ in range(200):
            if made.bind({"a": [{"x": number}]}) != {"a": [Point(number)]}:
                flaws.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flaws == []


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        (str, "5", "5"),
        (int, "5", 5),
        (float, "1.5", 1.5),
        (bool, "true", True),
        (Optional[int], "5", 5),
        (Any, "5", "5"),
        (Colour, "red", Colour.RED),
        (Level, "2", Level.HIGH),
        (Literal["a", "b"], "a", "a"),
        (datetime.date, "2024-05-01", datetime.date(2024, 5, 1)),
        (pathlib.Path, "a/b", pathlib.Path("a/b")),
        (uuid.UUID, "12345678123456781234567812345678", uuid.UUID("12345678123456781234567812345678")),
        (decimal.Decimal, "1.5", decimal.Decimal("1.5")),
        (bytes, "a", b"a"),
    ],
)
def test_texts_become_what_the_hints_say(kind: Any, text: str, wanted: Any) -> None:
    assert signature(takes(kind), texts=True).bind({"a": text}) == {"a": wanted}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (int, "x", "Input should be a valid integer, unable to parse string as an integer, got 'x'"),
        (Colour, "blue", "Input should be 'red' or 'green', got 'blue'"),
        (Point, "x", "Input should be an object, got 'x'"),
        (str, 5, "Input should be a valid string, got 5"),
    ],
)
def test_texts_that_mean_nothing_are_told(kind: Any, text: Any, message: str) -> None:
    assert problems_of(takes(kind), {"a": text}, texts=True) == [("a", message)]


def test_texts_have_names_too() -> None:
    def prompt(topic: str, length: int = 3) -> str:
        """Write.

        Args:
            topic: About what.
        """
        return topic * length

    made = signature(prompt, texts=True)
    assert made.parameters == [Parameter("topic", "About what.", True), Parameter("length", "", False)]
    assert run(prompt, {"topic": "a", "length": "2"}, texts=True) == "aa"
    assert problems_of(prompt, {"topc": "a"}, texts=True) == [
        ("topic", "Field required (string)"),
        ("topc", "Unknown argument; did you mean 'topic'?"),
    ]


# -- what is returned -------------------------------------------------------------------------------------------------


def gives(kind: Any) -> Callable[..., Any]:
    def tool() -> Any: ...

    tool.__annotations__["return"] = kind
    return tool


@pytest.mark.parametrize(
    "kind",
    [
        *(None, type(None), Any, object, list, typing.List, tuple, set, typing.NoReturn, Never),
        *(Image, Audio, File, TextContent, ImageContent, EmbeddedResource, CallToolResult),
        *(list[Image], list[Union[str, Image]], tuple[str, ImageContent], Optional[Image], Union[str, TextContent]),
        *(tuple[Image, ...], Annotated[Image, "seen"], list[Annotated[Image, "seen"]], Optional[list[Image]]),
        *(Opaque, Callable[[], int], Union[int, Callable[[], int]]),
    ],
)
def test_content_and_what_has_no_shape_has_no_output_schema(kind: Any) -> None:
    assert signature(gives(kind)).output_schema is None


def test_a_function_that_does_not_say_has_no_output_schema() -> None:
    assert signature(lambda: 1).output_schema is None


RESULT = {"type": "object", "required": ["result"]}


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (str, {**RESULT, "properties": {"result": {"type": "string"}}}),
        (int, {**RESULT, "properties": {"result": {"type": "integer"}}}),
        (list[int], {**RESULT, "properties": {"result": {"type": "array", "items": {"type": "integer"}}}}),
        (
            Optional[int],
            {**RESULT, "properties": {"result": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}},
        ),
        (dict, {"type": "object", "additionalProperties": True}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (
            Filter,
            {
                "type": "object",
                "properties": {"name": {"type": "string"}, "values": {"type": "array", "items": {"type": "integer"}}},
                "required": ["name"],
            },
        ),
        (
            Point,
            {
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
                "required": ["x"],
            },
        ),
        (
            list[Point],
            {
                **RESULT,
                "properties": {"result": {"type": "array", "items": {"$ref": "#/$defs/Point"}}},
                "$defs": {
                    "Point": {
                        "type": "object",
                        "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
                        "required": ["x"],
                    }
                },
            },
        ),
        (Annotated[CallToolResult, dict[str, int]], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Annotated[int, Field(description="How many")], None),
    ],
    ids=shown,
)
def test_the_return_annotation_gives_the_output_schema(kind: Any, schema: Any) -> None:
    if schema is None:
        schema = {**RESULT, "properties": {"result": {"type": "integer", "description": "How many"}}}
    assert signature(gives(kind)).output_schema == schema


def test_structured_output_can_be_refused_or_demanded() -> None:
    assert signature(gives(int), structured_output=False).output_schema is None
    assert signature(gives(list), structured_output=True).output_schema is not None
    with pytest.raises(TypeError, match="structured_output=True needs a return annotation"):
        signature(lambda: 1, structured_output=True)
    with pytest.raises(TypeError, match="tool 'tool': JSON Schema has nothing for what it returns, .*Opaque"):
        signature(gives(Opaque), structured_output=True)
    with pytest.raises(TypeError, match="makes no sense"):
        signature(gives(int), structured_output=False, output_schema={"type": "object"})


def test_an_output_schema_by_hand_is_kept() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array",
        "items": {"$ref": "#/$defs/a"},
        "$defs": {"a": {"type": "integer"}},
    }
    assert signature(lambda: [1], output_schema=schema).output_schema == schema


# -- schemas by hand --------------------------------------------------------------------------------------------------

WRITTEN: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$anchor": "root",
    "type": "object",
    "$defs": {"address": {"$anchor": "address", "type": "object", "properties": {"street": {"type": "string"}}}},
    "properties": {
        "name": {"type": "string", "description": "Who"},
        "address": {"$ref": "#address"},
        "way": {"type": "string", "enum": ["phone", "mail"]},
        "phone": {"type": "string"},
    },
    "required": ["name"],
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["address"]}]}],
    "if": {"properties": {"way": {"const": "phone"}}, "required": ["way"]},
    "then": {"required": ["phone"]},
    "else": {"properties": {"phone": {"maxLength": 3}}},
    "additionalProperties": False,
}


def test_a_schema_by_hand_is_kept_verbatim() -> None:
    made = signature(lambda **more: more, input_schema=WRITTEN)
    assert made.input_schema == WRITTEN
    assert list(made.input_schema) == list(WRITTEN)
    assert made.parameters[:2] == [Parameter("name", "Who", True), Parameter("address", "", False)]


def test_a_schema_by_hand_is_what_arguments_are_compared_with() -> None:
    made = signature(lambda **more: more, input_schema=WRITTEN)
    good = {"name": "a", "way": "phone", "phone": "12345"}
    assert made.call(made.bind(good), None) == good
    for bad, path, message in [
        ({"name": 1, "phone": "1"}, "name", "1 is not of type 'string'"),
        ({"phone": "1"}, "", "'name' is a required property"),
        ({"name": "a", "address": {"street": 5}}, "address.street", "5 is not of type 'string'"),
        ({"name": "a", "address": {}, "way": "phone"}, "", "'phone' is a required property"),
        ({"name": "a", "phone": "1234"}, "phone", "'1234' is too long"),
        ({"name": "a", "phone": "1", "x": 1}, "", "Additional properties are not allowed ('x' was unexpected)"),
    ]:
        with pytest.raises(InvalidArguments) as caught:
            made.bind(bad)
        assert (path, message) in caught.value.problems


def test_a_long_value_does_not_hide_what_is_wrong_with_it() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    [(path, message)] = problems_of(takes(int), {"a": "x" * 10_000}, input_schema=schema)
    assert path == "a"
    assert message.endswith("is not of type 'integer'")
    assert len(message) < 130


def test_a_function_gets_them_by_name_or_as_one_dict() -> None:
    schema = {"type": "object", "properties": {"a": {}, "b": {}}}
    given = {"a": 1, "b": [2]}

    def by_name(a: int, b: Any = 5, *, ctx: Context) -> Any:
        return a, b, ctx

    def as_dict(ctx: Context, arguments: dict[str, Any]) -> Any:
        return arguments

    def as_anything(arguments) -> Any:  # type: ignore[no-untyped-def]
        return arguments

    def with_more(a: int, **more: Any) -> Any:
        return a, more

    assert run(by_name, given, "ctx", input_schema=schema) == (1, [2], "ctx")
    assert run(by_name, {"a": 1}, "ctx", input_schema=schema) == (1, 5, "ctx")
    assert run(as_dict, given, input_schema=schema) == given
    assert run(as_anything, given, input_schema=schema) == given
    assert run(with_more, given, input_schema=schema) == (1, {"b": [2]})
    named = {"type": "object", "properties": {"arguments": {"type": "object"}}}
    assert run(as_dict, {"arguments": {"x": 1}}, input_schema=named) == {"x": 1}


def test_what_the_schema_allows_and_the_function_does_not_take_is_told() -> None:
    def tool(a: int, b: int) -> None: ...

    open_schema = {"type": "object", "properties": {"a": {}, "b": {}}}
    assert problems_of(tool, {"c": 1, "b": 1}, input_schema=open_schema) == [
        ("c", "Unknown argument"),
        ("a", "Field required"),
    ]

    def more(ctx: Context, **more: Any) -> None: ...

    assert problems_of(more, {"ctx": 1}, input_schema={"type": "object"}) == [("ctx", "Unknown argument")]


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, "input_schema must be that of an object"),
        ({"type": "array"}, "input_schema must be that of an object"),
        ({"type": ["object", "null"]}, "input_schema must be that of an object"),
        ({"type": "object", "properties": 5}, "its input_schema cannot be used: 5 is not of type 'object'"),
        ({"type": "object", "required": "a"}, "its input_schema cannot be used: 'a' is not of type 'array'"),
        ({"type": "object", "$schema": "https://example.com/mine"}, "its dialect 'https://example.com/mine' is not"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, "its .ref '#/.defs/none' leads nowhere"),
        ({"type": "object", "allOf": [{"$ref": "https://example.com/x"}]}, "x' leads nowhere; nothing is ever fetched"),
        ({"type": "object", "properties": {"b": {}, "a": {}}}, "it has no parameter 'b', which its input_schema has"),
        ({"type": "object", "properties": {}}, "parameter 'a': its input_schema has no such property"),
    ],
)
def test_a_schema_by_hand_that_cannot_be_used_is_refused(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text) as caught:
        signature(takes(int), input_schema=schema)
    assert str(caught.value).startswith("tool 'tool'")


def test_references_that_lead_somewhere_are_fine_and_data_is_no_reference() -> None:
    schema = {
        "type": "object",
        "$id": "https://example.com/root",
        "properties": {
            "a": {"$ref": "#/$defs/tree"},
            "b": {"enum": [{"$ref": "nowhere"}], "default": {"$ref": "nowhere"}},
            "c": {"$ref": "https://json-schema.org/draft/2020-12/schema"},
            "d": {"$ref": "other#/properties/x"},
            "e": {"$dynamicRef": "#node"},
        },
        "$defs": {
            "tree": {"$dynamicAnchor": "node", "type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}},
            "other": {"$id": "other", "properties": {"x": {"type": "integer"}}},
        },
    }
    made = signature(lambda **more: more, input_schema=schema)
    assert made.bind({"a": {"next": {"next": {}}}, "b": {"$ref": "nowhere"}, "c": {"type": "string"}, "d": 1})
    with pytest.raises(InvalidArguments):
        made.bind({"a": {"next": {"next": 5}}})
    with pytest.raises(InvalidArguments):
        made.bind({"d": "x"})


def test_an_endless_value_is_refused_by_a_schema_that_has_no_end_either() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"$ref": "#"}}}
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"a": deep}
    assert problems_of(lambda **more: more, deep, input_schema=schema) == [("", "Input is nested too deeply")]


# -- docstrings -------------------------------------------------------------------------------------------------------

GOOGLE = """Get the weather.

    It is sunny.

    Args:
        city (str): Where,
            with the country.
        days: How many: at most 5.

            Or so.
        *more: Rest.

    Returns:
        Text.

    Raises:
        ValueError: Never.
    """
NUMPY = """Get the weather.

    It is sunny.

    Parameters
    ----------
    city : str, optional
        Where,
        with the country.
    days, hours : int
        How many.
    **more
        Rest.

    Returns
    -------
    str
        Text.
    """
SPHINX = """Get the weather.

    It is sunny.

    :param city: Where,
        with the country.
    :type city: str
    :param int days: How many.
    :returns: Text.
    """


@pytest.mark.parametrize(
    ("doc", "description", "said"),
    [
        (None, "", {}),
        ("", "", {}),
        ("One line.", "One line.", {}),
        (
            GOOGLE,
            "Get the weather.\n\nIt is sunny.\n\nReturns:\n    Text.\n\nRaises:\n    ValueError: Never.",
            {"city": "Where, with the country.", "days": "How many: at most 5. Or so.", "more": "Rest."},
        ),
        (
            NUMPY,
            "Get the weather.\n\nIt is sunny.\n\nReturns\n-------\nstr\n    Text.",
            {"city": "Where, with the country.", "days": "How many.", "hours": "How many.", "more": "Rest."},
        ),
        (
            SPHINX,
            "Get the weather.\n\nIt is sunny.\n\n:returns: Text.",
            {"city": "Where, with the country.", "days": "How many."},
        ),
        ("\nArgs:\n    a: One.\n    b:\n        Two.", "", {"a": "One.", "b": "Two."}),
        ("\nArgs:\n    a: One,\n        b: of two.", "", {"a": "One, b: of two."}),
        ("\nArgs:\n    nothing that is an item", "Args:\n    nothing that is an item", {}),
        ("The Args: are few.", "The Args: are few.", {}),
        ("Parameters\n\nare few.", "Parameters\n\nare few.", {}),
        ("Parameters\n----------\na\nand so on, in words", "and so on, in words", {}),
    ],
)
def test_docstrings_are_understood(doc: str | None, description: str, said: dict[str, str]) -> None:
    assert split_docstring(doc) == (description, said)


DOCUMENTED = st.lists(
    st.sampled_from([
        *("Args:", "    a: x", "    a (int): y", "        more", "Parameters", "----------", "a : int", "    text", ""),
        *(":param a: x", ":param int a:", ":type a: int", "Returns:", "Returns", "  odd", "a, b", "\t", "\x0c", "é:"),
    ]),
    max_size=12,
).map("\n".join)


@settings(deadline=None)
@given(st.one_of(st.text(), DOCUMENTED))
def test_any_text_is_a_docstring(doc: str) -> None:
    description, said = split_docstring(doc)
    assert isinstance(description, str)
    assert all(name.isidentifier() or name.isalnum() for name in said)
    assert all(text.strip() for text in said.values())


# -- anything at all --------------------------------------------------------------------------------------------------


def everything(
    a: int,
    b: str = "",
    c: list[int] | None = None,
    d: Point | None = None,
    e: list[Filter] = [],  # noqa: B006
    f: dict[str, float] = {},  # noqa: B006
    g: Union[int, str, list[bool]] = 1,
    h: Person | None = None,
    i: Any = None,
    j: tuple[int, str] | None = None,
) -> None: ...


def more_or_less(a: int = 0, **more: list[Point]) -> None: ...


def loose(a: datetime.datetime | None, b: Colour | Level = Colour.RED, c: decimal.Decimal | bytes = b"") -> None: ...


def written(**more: Any) -> None: ...


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["x", "y", "name", "age", "values", "friends", "other"]), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([*"abcdefghij", "name", "phone", "address", "way", "other"])
ARGUMENTS = st.dictionaries(NAMES, JSON, max_size=6)
LIKELY = st.fixed_dictionaries(
    {"a": st.integers() | st.floats(allow_nan=False, allow_infinity=False)},
    optional={
        "b": st.text(),
        "c": st.lists(st.integers() | st.booleans(), max_size=3),
        "d": st.fixed_dictionaries({"x": st.integers() | st.text()}, optional={"y": st.integers() | st.none()}),
        "e": st.lists(st.fixed_dictionaries({"name": st.text()}, optional={"values": st.lists(st.integers())})),
        "f": st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.integers()),
        "g": st.integers() | st.text() | st.lists(st.booleans()) | st.none(),
        "h": st.fixed_dictionaries({"name": st.text()}, optional={"age": st.integers(), "friends": st.just([{}])}),
        "i": JSON,
        "j": st.tuples(st.integers(), st.text()).map(list),
    },
)
FUNCTIONS = [
    (signature(everything), True),
    (signature(more_or_less), True),
    (signature(loose), False),
    (signature(written, input_schema=WRITTEN), True),
    (signature(everything, texts=True), False),
]


@pytest.mark.parametrize(("made", "is_exact"), FUNCTIONS, ids=["everything", "more", "loose", "written", "texts"])
def test_any_arguments_are_bound_or_refused_as_the_schema_says(made: Signature, is_exact: bool) -> None:
    validator = Draft202012Validator(made.input_schema)

    @settings(deadline=None)
    @given(st.one_of(ARGUMENTS, LIKELY))
    @example({"a": 1, "h": {"name": "x", "age": -1}})
    @example({"a": 2.0, "j": [1.0, "x"], "g": [True]})
    def check(arguments: dict[str, Any]) -> None:
        before = json.dumps(arguments)
        told = told_of(made, arguments)
        assert told.startswith("invalid arguments: ") or not told
        assert not is_exact or validator.is_valid(arguments) == (not told)
        assert json.dumps(arguments) == before

    check()
