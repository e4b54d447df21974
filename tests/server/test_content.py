"""What functions return, as the wire has it."""
# ruff: noqa: UP007, UP045  # people write both

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import re
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Optional, Union

import mcp_types as types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field
from typing_extensions import NotRequired, TypedDict

from mcp_sync.client.answers import ToolResult
from mcp_sync.protocol.messages import Result, encode
from mcp_sync.server.content import (
    AssistantMessage,
    Audio,
    File,
    Image,
    UnfitResult,
    UserMessage,
    prompt_result,
    resource_contents,
    tool_result,
)
from mcp_sync.server.schema import Signature

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
WAV = b"RIFF$\0\0\0WAVEfmt " + bytes(28)
IMAGE = {"type": "image", "data": base64.b64encode(PNG).decode(), "mimeType": "image/png"}
AUDIO = {"type": "audio", "data": base64.b64encode(WAV).decode(), "mimeType": "audio/wav"}


def shown(value: object) -> str:
    """The id of a test; without addresses, for it has to stay the same."""
    return re.sub(r" at 0x\w+", "", repr(value))[:40]


class Context:
    """What is injected; nothing here."""


def signature(kind: Any = None, **more: Any) -> Signature:
    """The signature of a tool that returns this type; of one that does not say where there is none."""

    def tool() -> Any: ...

    tool.__annotations__ = {} if kind is None else {"return": kind}
    return Signature(tool, what="tool 'tool'", context=Context, **more)


SILENT = signature()


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def result_of(value: Any, kind: Any = None, **more: Any) -> dict[str, Any]:
    """The result of a tool, which any client of ours reads, and which matches its output schema."""
    made = signature(kind, **more)
    result = tool_result(value, made)
    encode(Result(1, result))
    types.CallToolResult.model_validate(result)
    if made.output_schema is not None and not result["isError"]:
        Draft202012Validator(made.output_schema).validate(result["structuredContent"])
    return result


class Colour(enum.Enum):
    RED = "red"


class Named(str, enum.Enum):
    A = "a"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Measured:
    value: float


class Person(BaseModel):
    class_name: str = Field(alias="className")
    born: datetime.date | None = None


class Student(Person):
    school: str = ""


class Filter(TypedDict):
    name: str
    values: NotRequired[list[int]]


class Plain:
    x: int
    y: str = "y"

    def __init__(self, x: int) -> None:
        self.x = x


class Opaque:
    pass


# -- tools ------------------------------------------------------------------------------------------------------------

EMBEDDED = {"type": "resource", "resource": {"uri": "a:b", "mimeType": "text/plain", "text": "c"}}

UNSTRUCTURED: list[tuple[Any, list[dict[str, Any]]]] = [
    (None, []),
    ("", [text("")]),
    ("sunny, 20 °C", [text("sunny, 20 °C")]),
    (Named.A, [text("a")]),
    ("file \udcff", [text("file \\udcff")]),
    (5, [text("5")]),
    (True, [text("true")]),
    (1.5, [text("1.5")]),
    (math.nan, [text("NaN")]),
    ({"é": [1, None]}, [text('{"é": [1, null]}')]),
    ({1: "a", None: 2}, [text('{"1": "a", "None": 2}')]),
    ([1, {"a": 2}], [text('[1, {"a": 2}]')]),
    ([], []),
    (["a", "b"], [text("a"), text("b")]),
    (("a", 1), [text('["a", 1]')]),
    ({"b"}, [text('["b"]')]),
    (Point(1), [text('{"x": 1, "y": 0}')]),
    (Person(className="a", born=datetime.date(2000, 1, 2)), [text('{"className": "a", "born": "2000-01-02"}')]),
    (Colour.RED, [text("red")]),
    (datetime.datetime(2024, 5, 1, 10), [text("2024-05-01T10:00:00")]),
    (uuid.UUID(int=1), [text("00000000-0000-0000-0000-000000000001")]),
    (decimal.Decimal("1.50"), [text("1.50")]),
    (pathlib.Path("/a"), [text("/a")]),
    (b"text", [text("text")]),
    ([Point(1), {"when": datetime.date(2024, 5, 1)}], [text('[{"x": 1, "y": 0}, {"when": "2024-05-01"}]')]),
    (Image(PNG), [IMAGE]),
    (Audio(WAV), [AUDIO]),
    (File("a:b", text="c"), [EMBEDDED]),
    (["a", Image(PNG), 5, None, {"b": 1}, ["c"]], [text("a"), IMAGE, text("5"), text('{"b": 1}'), text('["c"]')]),
    ((Image(PNG), "a"), [IMAGE, text("a")]),
    (types.TextContent(text="a"), [text("a")]),
    (types.ImageContent(data="YQ==", mime_type="image/x"), [{"type": "image", "data": "YQ==", "mimeType": "image/x"}]),
    (
        types.ResourceLink(uri="a:b", name="n", mime_type="text/plain"),
        [{"type": "resource_link", "uri": "a:b", "name": "n", "mimeType": "text/plain"}],
    ),
    (
        types.EmbeddedResource(resource=types.TextResourceContents(uri="a:b", mime_type="text/plain", text="c")),
        [EMBEDDED],
    ),
    (types.TextResourceContents(uri="a:b", mime_type="text/plain", text="c"), [EMBEDDED]),
    (
        types.TextContent(text="a", annotations=types.Annotations(audience=["user"]), _meta={"k": None}),
        [{"type": "text", "text": "a", "annotations": {"audience": ["user"]}, "_meta": {"k": None}}],
    ),
    (EMBEDDED, [EMBEDDED]),
    ([text("a"), IMAGE], [text("a"), IMAGE]),
    ({"type": "image", "url": "x"}, [text('{"type": "image", "url": "x"}')]),
    ({"type": "text"}, [text('{"type": "text"}')]),
    ({"type": "text", "text": 5}, [text('{"type": "text", "text": 5}')]),
    ({"type": ["text"]}, [text('{"type": ["text"]}')]),
]


@pytest.mark.parametrize(("value", "content"), UNSTRUCTURED, ids=shown)
def test_anything_becomes_content(value: Any, content: list[dict[str, Any]]) -> None:
    assert result_of(value) == {"content": content, "isError": False}
    assert result_of(value, int, structured_output=False) == {"content": content, "isError": False}


STRUCTURED: list[tuple[Any, Any, Any, list[dict[str, Any]]]] = [
    (str, "a", {"result": "a"}, [text("a")]),
    (str, Named.A, {"result": "a"}, [text("a")]),
    (int, 5, {"result": 5}, [text("5")]),
    (int, True, {"result": 1}, [text("1")]),
    (float, 5, {"result": 5.0}, [text("5.0")]),
    (bool, False, {"result": False}, [text("false")]),
    (Optional[str], None, {"result": None}, []),
    (Optional[str], "a", {"result": "a"}, [text("a")]),
    (Union[int, str], "a", {"result": "a"}, [text("a")]),
    (list[int], [1, 2], {"result": [1, 2]}, [text("[1, 2]")]),
    (list[int], (1, 2), {"result": [1, 2]}, [text("[1, 2]")]),
    (list[str], ["a", "é"], {"result": ["a", "é"]}, [text('["a", "é"]')]),
    (list[int], [], {"result": []}, [text("[]")]),
    (set[str], {"a"}, {"result": ["a"]}, [text('["a"]')]),
    (tuple[int, str], (1, "a"), {"result": [1, "a"]}, [text('[1, "a"]')]),
    (bytes, b"abc", {"result": "abc"}, [text("abc")]),
    (Colour, Colour.RED, {"result": "red"}, [text("red")]),
    (datetime.date, datetime.date(2024, 5, 1), {"result": "2024-05-01"}, [text("2024-05-01")]),
    (decimal.Decimal, decimal.Decimal("1.5"), {"result": "1.5"}, [text("1.5")]),
    (dict, {"a": {1}}, {"a": [1]}, [text('{"a": [1]}')]),
    (dict[str, int], {"a": 1}, {"a": 1}, [text('{"a": 1}')]),
    (dict[int, str], {1: "a"}, {"1": "a"}, [text('{"1": "a"}')]),
    (dict[str, Any], text("a"), text("a"), [text('{"type": "text", "text": "a"}')]),
    (Point, Point(1), {"x": 1, "y": 0}, [text('{"x": 1, "y": 0}')]),
    (Point, {"x": 1}, {"x": 1, "y": 0}, [text('{"x": 1, "y": 0}')]),
    (list[Point], [Point(1)], {"result": [{"x": 1, "y": 0}]}, [text('[{"x": 1, "y": 0}]')]),
    (Optional[Point], None, {"result": None}, []),
    (Filter, {"name": "a"}, {"name": "a"}, [text('{"name": "a"}')]),
    (Plain, Plain(1), {"x": 1, "y": "y"}, [text('{"x": 1, "y": "y"}')]),
    (Annotated[int, Field(ge=1)], 1, {"result": 1}, [text("1")]),
    (list[Any], [1, "a", None], {"result": [1, "a", None]}, [text('[1, "a", null]')]),
    (
        Person,
        Person(className="a"),
        {"className": "a", "born": None},
        [text('{"className": "a", "born": null}')],
    ),
    (Person, {"class_name": "a"}, {"className": "a", "born": None}, [text('{"className": "a", "born": null}')]),
    (
        Person,
        Student(className="a", school="b"),
        {"className": "a", "born": None},
        [text('{"className": "a", "born": null}')],
    ),
]


@pytest.mark.parametrize(("kind", "value", "structured", "content"), STRUCTURED, ids=shown)
def test_what_has_a_structure_is_structured_and_text(
    kind: Any, value: Any, structured: Any, content: list[dict[str, Any]]
) -> None:
    result = result_of(value, kind)
    assert result == {"content": content, "structuredContent": structured, "isError": False}
    assert json.dumps(result["structuredContent"]) == json.dumps(structured)  # 1 is not true there


BEGINNING = "the tool returned what its output schema does not allow: "


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, "a", "result: Input should be a valid integer, unable to parse string as an integer, got 'a'"),
        (int, None, "result: Input should be a valid integer, got None"),
        (str, 5, "result: Input should be a valid string, got 5"),
        (list[int], [1, None], "result[1]: Input should be a valid integer, got None"),
        (list[int], None, "result: Input should be a valid list, got None"),
        (Point, {"y": 1}, "x: Field required"),
        (Point, "a", "Input should be an object, got 'a'"),
        (list[Filter], [{"name": 1}], "result[0].name: Input should be a valid string, got 1"),
        (Colour, "blue", "result: Input should be 'red', got 'blue'"),
        (dict[str, int], 5, "Input should be an object, got 5"),
        (Annotated[int, Field(ge=1)], 0, "result: Input should be greater than or equal to 1, got 0"),
        (list[Any], [Opaque()], "it holds what JSON cannot say"),
        (list[Any], [Image(PNG)], "it holds what JSON cannot say"),
        (bytes, b"\xff", "it holds what JSON cannot say"),
    ],
    ids=shown,
)
def test_what_the_output_schema_does_not_allow_is_told(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(UnfitResult) as caught:
        result_of(value, kind)
    assert str(caught.value) == BEGINNING + message


def test_the_text_of_an_enum_is_but_a_text() -> None:
    for kind in (None, str):
        [block] = result_of(Named.A, kind)["content"]
        assert type(block["text"]) is str


def test_an_instance_that_was_spoilt_later_is_told() -> None:
    person = Person(className="a")
    person.class_name = 5  # type: ignore[assignment]
    with pytest.raises(UnfitResult, match=BEGINNING):
        result_of(person, Person)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_structured_content_has_no_nan(value: float) -> None:
    for kind, full in [
        (float, value),
        (list[float], [1.0, value]),
        (set[float], {1.0, value}),
        (dict, {"a": {"b": value}}),
        (dict[str, Any], {"a": [Measured(value)]}),
        (list[Measured], [Measured(value)]),
        (Optional[float], value),
    ]:
        with pytest.raises(UnfitResult, match="NaN or infinity"):
            tool_result(full, signature(kind))


@pytest.mark.parametrize(("kind", "value"), [(str, "\ud800"), (list[str], ["\ud800"]), (dict, {"\ud800": 1})])
def test_structured_content_has_no_half_characters(kind: Any, value: Any) -> None:
    with pytest.raises(UnfitResult):
        tool_result(value, signature(kind))


@pytest.mark.parametrize("value", [Opaque(), [Opaque()], {"a": Opaque()}, object, print, b"\xff", {(1, 2): Opaque()}])
def test_what_json_cannot_say_is_told_without_its_inside(value: Any) -> None:
    with pytest.raises(UnfitResult, match="that JSON cannot say") as caught:
        tool_result(value, SILENT)
    assert "0x" not in str(caught.value)


def test_what_holds_itself_is_told() -> None:
    value: list[Any] = []
    value.append(value)
    for kind in (None, list[Any], dict):
        with pytest.raises(UnfitResult):
            tool_result(value if kind is not dict else {"a": value}, signature(kind))


async def waits() -> int:
    return 1


@pytest.mark.parametrize("kind", [None, int])
def test_what_has_to_be_awaited_is_told_and_closed(kind: Any) -> None:
    coroutine = waits()
    with pytest.raises(UnfitResult, match="there is no event loop here"):
        tool_result(coroutine, signature(kind))
    assert coroutine.cr_frame is None


# -- ready results


def test_a_ready_result_stays_what_it_is() -> None:
    ready = types.CallToolResult(
        content=[types.TextContent(text="a")], structured_content={"a": None}, is_error=True, _meta={"k": 1}
    )
    raw = {"content": [text("a")], "structuredContent": {"a": None}, "isError": True, "_meta": {"k": 1}}
    for kind in (None, int, types.CallToolResult):
        assert result_of(ready, kind) == raw
    assert result_of(ToolResult(content=[types.TextContent(text="a")])) == {"content": [text("a")], "isError": False}


def test_a_ready_result_is_compared_with_the_output_schema() -> None:
    kind = Annotated[types.CallToolResult, Point]
    good = types.CallToolResult(content=[], structured_content={"x": 1, "y": 2})
    assert result_of(good, kind)["structuredContent"] == {"x": 1, "y": 2}
    for bad in ({"x": "a"}, None, []):
        with pytest.raises(UnfitResult, match=BEGINNING):
            result_of(types.CallToolResult(content=[], structured_content=bad), kind)
    assert result_of(types.CallToolResult(content=[], structured_content={"result": 1}), int)
    for bad in (1, {"result": "a"}, {"result": 1, "more": 2}, None):
        with pytest.raises(UnfitResult, match=BEGINNING):
            result_of(types.CallToolResult(content=[], structured_content=bad), int)
    failed = types.CallToolResult(content=[], is_error=True)
    assert result_of(failed, kind) == {"content": [], "isError": True}


def test_a_result_of_another_kind_keeps_its_type() -> None:
    asked = types.InputRequiredResult(request_state="s")
    assert tool_result(asked, signature(int)) == {"resultType": "input_required", "requestState": "s"}


# -- by a schema of somebody's


def test_an_output_schema_by_hand_is_kept_to() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert result_of({"a": 1}, output_schema=schema)["structuredContent"] == {"a": 1}
    with pytest.raises(UnfitResult, match=f"{BEGINNING}a: 'x' is not of type 'integer'"):
        result_of({"a": "x"}, output_schema=schema)
    with pytest.raises(UnfitResult, match="'a' is a required property"):
        result_of({}, output_schema=schema)
    point = {"type": "object", "properties": {"x": {"type": "integer"}}}
    assert result_of(Point(1), output_schema=point)["structuredContent"] == {"x": 1, "y": 0}


def test_an_output_schema_by_hand_may_be_that_of_anything() -> None:
    assert result_of([1, 2], output_schema={"type": "array"}) == {
        "content": [text("[1, 2]")],
        "structuredContent": [1, 2],
        "isError": False,
    }
    assert result_of(None, output_schema={"type": "null"})["structuredContent"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("kind", [None, Any, dict, list[Any], dict[str, Any], str, Union[int, str, None], Point])
def test_whatever_is_returned_is_sent_or_refused(kind: Any) -> None:
    made = signature(kind)

    @settings(deadline=None)
    @given(JSON)
    def check(value: Any) -> None:
        try:
            result = tool_result(value, made)
        except UnfitResult:
            return
        encode(Result(1, result))
        types.CallToolResult.model_validate(result)
        assert ("structuredContent" in result) == (made.output_schema is not None)
        if made.output_schema is not None:
            Draft202012Validator(made.output_schema).validate(result["structuredContent"])

    check()


# -- images, sounds, files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0abc", "image/jpeg"),
        (b"GIF89a...", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"BM......", "image/bmp"),
        (b"\0\0\0 ftypavif", "image/avif"),
        (b"<?xml version='1.0'?><svg></svg>", "image/svg+xml"),
    ],
)
def test_the_type_of_an_image_is_found(data: bytes, mime_type: str) -> None:
    assert Image(data).block()["mimeType"] == mime_type
    assert Image(bytearray(data)).block()["data"] == base64.b64encode(data).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [
        (WAV, "audio/wav"),
        (b"ID3\3", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"OggS\0", "audio/ogg"),
        (b"fLaC", "audio/flac"),
        (b"\0\0\0 ftypM4A ", "audio/mp4"),
        (b"\xff\xf1", "audio/aac"),
    ],
)
def test_the_type_of_a_sound_is_found(data: bytes, mime_type: str) -> None:
    assert Audio(data).block()["mimeType"] == mime_type


def test_a_type_that_is_said_is_believed() -> None:
    assert Image(PNG, mime_type="image/x-mine").block()["mimeType"] == "image/x-mine"
    assert Image(b"?", mime_type="image/x-mine").block()["mimeType"] == "image/x-mine"
    assert Audio(b"?", mime_type="audio/wav").block()["mimeType"] == "audio/wav"


def test_a_file_is_read_when_it_is_sent(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.jpeg"
    image = Image(path=path)
    with pytest.raises(FileNotFoundError):
        image.block()
    path.write_bytes(b"anything")
    assert image.block() == {"type": "image", "data": "YW55dGhpbmc=", "mimeType": "image/jpeg"}
    path.write_bytes(PNG)  # what is in it goes before what it is called
    assert Image(path=str(path)).block() == IMAGE
    assert repr(image) == f"<Image {path}>"
    assert repr(Image(PNG)) == f"<Image of {len(PNG)} bytes>"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Image(), TypeError, "Image takes exactly one of data and path, not none"),
        (lambda: Image(PNG, "a.png"), TypeError, "Image takes exactly one of data and path, not data and path"),
        (lambda: Image("a.png"), TypeError, "data of Image must be bytes, not str"),
        (lambda: Audio(path=5), TypeError, "path of Audio must be a path, not int"),
        (lambda: Image(b"?"), ValueError, "nothing tells the type of this image; say it"),
        (lambda: Image(WAV), ValueError, "nothing tells the type of this image; say it"),
        (lambda: Image(path="a.wav", mime_type="audio/wav"), ValueError, "mime_type of Image must begin with image/"),
        (lambda: File("a:b"), TypeError, "File takes exactly one of text and data and path, not none"),
        (lambda: File(text="a"), TypeError, "File needs a uri, unless it has a path"),
        (lambda: File("a:b", text=b"a"), TypeError, "text of File must be a str, not bytes"),
    ],
)
def test_an_image_a_sound_or_a_file_that_cannot_be_is_refused(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_file_is_text_or_bytes(tmp_path: pathlib.Path) -> None:
    assert File("a:b.md", text="x").block()["resource"] == {"uri": "a:b.md", "mimeType": "text/markdown", "text": "x"}
    assert File("a:b", data=b"x").block()["resource"] == {
        "uri": "a:b",
        "mimeType": "application/octet-stream",
        "blob": "eA==",
    }
    for name, data, part in [
        ("a.json", b"{}", {"mimeType": "application/json", "text": "{}"}),
        ("a.txt", "é".encode(), {"mimeType": "text/plain", "text": "é"}),
        ("a.txt", b"\xff", {"mimeType": "text/plain", "blob": "/w=="}),
        ("a.png", PNG, {"mimeType": "image/png", "blob": IMAGE["data"]}),
        ("unknown", b"a", {"mimeType": "text/plain", "text": "a"}),
        ("unknown", b"\xff", {"mimeType": "application/octet-stream", "blob": "/w=="}),
    ]:
        (tmp_path / name).write_bytes(data)
        assert File(path=tmp_path / name).block() == {
            "type": "resource",
            "resource": {"uri": (tmp_path / name).as_uri(), **part},
        }
    assert File("mine:a", path=tmp_path / "a.json", mime_type="text/x").block()["resource"]["uri"] == "mine:a"
    assert repr(File("a:b", text="x")) == "<File a:b>"


# -- prompts ----------------------------------------------------------------------------------------------------------


def user(content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


PROMPTS: list[tuple[Any, list[dict[str, Any]]]] = [
    ("a", [user(text("a"))]),
    (["a", "b"], [user(text("a")), user(text("b"))]),
    (("a", "b"), [user(text("a")), user(text("b"))]),
    (("assistant", "b"), [assistant(text("b"))]),
    ([("user", "a"), ("assistant", Image(PNG))], [user(text("a")), assistant(IMAGE)]),
    ([], []),
    (Image(PNG), [user(IMAGE)]),
    (UserMessage("a"), [user(text("a"))]),
    ([AssistantMessage(File("a:b", text="c"))], [assistant(EMBEDDED)]),
    ({"role": "assistant", "content": "a"}, [assistant(text("a"))]),
    ({"role": "user", "content": IMAGE}, [user(IMAGE)]),
    (text("a"), [user(text("a"))]),
    (types.PromptMessage(role="assistant", content=types.TextContent(text="a")), [assistant(text("a"))]),
    ([types.TextContent(text="a")], [user(text("a"))]),
    (
        types.GetPromptResult(messages=[types.PromptMessage(role="user", content=types.TextContent(text="a"))]),
        [user(text("a"))],
    ),
]


@pytest.mark.parametrize(("value", "messages"), PROMPTS, ids=shown)
def test_a_prompt_becomes_messages(value: Any, messages: list[dict[str, Any]]) -> None:
    result = prompt_result(value, None)
    encode(Result(1, result))
    types.GetPromptResult.model_validate(result)
    assert result == {"messages": messages}


def test_a_prompt_has_its_description() -> None:
    assert prompt_result("a", "What for")["description"] == "What for"
    ready = types.GetPromptResult(messages=[], description="Its own")
    assert prompt_result(ready, "What for") == {"messages": [], "description": "Its own"}


@pytest.mark.parametrize(
    "value",
    [
        *(None, 5, b"a", {"a": 1}, {"role": "system", "content": "a"}, [("system", "a")], [["a"]]),
        *(UserMessage(None), Point(1)),
    ],
)
def test_what_is_no_message_is_told(value: Any) -> None:
    with pytest.raises(UnfitResult, match="which is neither a message nor its content"):
        prompt_result(value)


def test_a_prompt_is_not_awaited() -> None:
    with pytest.raises(UnfitResult, match="no event loop"):
        prompt_result(waits())


def test_messages_show_what_they_say() -> None:
    assert repr(UserMessage("a")) == "UserMessage('a')"


# -- resources --------------------------------------------------------------------------------------------------------

URI = "test://a"
READ: list[tuple[Any, dict[str, Any]]] = [
    ("a", {"mimeType": "text/plain", "text": "a"}),
    (b"a", {"mimeType": "application/octet-stream", "blob": "YQ=="}),
    (bytearray(b"a"), {"mimeType": "application/octet-stream", "blob": "YQ=="}),
    (memoryview(b"a"), {"mimeType": "application/octet-stream", "blob": "YQ=="}),
    ({"é": 1}, {"mimeType": "application/json", "text": '{"é": 1}'}),
    ([1, 2], {"mimeType": "application/json", "text": "[1, 2]"}),
    ([], {"mimeType": "application/json", "text": "[]"}),
    (5, {"mimeType": "application/json", "text": "5"}),
    (Point(1), {"mimeType": "application/json", "text": '{"x": 1, "y": 0}'}),
    (Person(className="a"), {"mimeType": "application/json", "text": '{"className": "a", "born": null}'}),
    (Image(PNG), {"mimeType": "image/png", "blob": IMAGE["data"]}),
    (Audio(WAV), {"mimeType": "audio/wav", "blob": AUDIO["data"]}),
]


@pytest.mark.parametrize(("value", "parts"), READ, ids=shown)
def test_what_is_read_becomes_contents(value: Any, parts: dict[str, Any]) -> None:
    contents = resource_contents(value, URI, None)
    types.ReadResourceResult.model_validate({"contents": contents, "ttlMs": 0, "cacheScope": "private"})
    assert contents == [{"uri": URI, **parts}]


@pytest.mark.parametrize("value", ["a", b"a", {"a": 1}])
def test_a_type_that_was_registered_is_kept(value: Any) -> None:
    assert resource_contents(value, URI, "text/mine")[0]["mimeType"] == "text/mine"


def test_ready_contents_stay_what_they_are() -> None:
    one = types.TextResourceContents(uri="b:c", text="a")
    two = types.BlobResourceContents(uri="b:d", mime_type="image/png", blob="YQ==")
    raw = [{"uri": "b:c", "text": "a"}, {"uri": "b:d", "mimeType": "image/png", "blob": "YQ=="}]
    assert resource_contents(one, URI, "text/mine") == raw[:1]
    assert resource_contents([one, two], URI) == raw
    assert resource_contents(types.ReadResourceResult(contents=[one, two]), URI) == raw
    assert resource_contents([File("b:e", text="x"), one], URI) == [
        {"uri": "b:e", "mimeType": "text/plain", "text": "x"},
        raw[0],
    ]


def test_what_cannot_be_read_is_told() -> None:
    for value in (None, math.nan, {"a": math.inf}, Opaque(), waits()):
        with pytest.raises(UnfitResult):
            resource_contents(value, URI)
    assert resource_contents("a\udcff", URI)[0]["text"] == "a\\udcff"
