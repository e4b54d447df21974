"""What both ends of Streamable HTTP agree on about headers: values, what mirrors a body, what replies say."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sync.exceptions import LocalProtocolError
from mcp_sync.protocol.eras import VERSION_KEY, Identity, Stateless
from mcp_sync.protocol.headers import (
    MAX_SESSION_ID,
    Mirror,
    annotated,
    assigns_session,
    declared_version,
    decode_value,
    encode_value,
    header_flaw,
    media_type,
    mirrored,
    retry_after,
    routing_headers,
    session_id_flaw,
    stays_open,
    version_of,
)
from mcp_sync.protocol.messages import MAX_DEPTH, Failure, Message, Notification, Request, Result

CANARY = "c4nary"
META = {VERSION_KEY: "2026-07-28"}
characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, max_size=40)


def refusal(function: Callable[..., object], *arguments: object) -> ValueError | None:
    try:
        function(*arguments)
    except ValueError as error:
        return error
    return None


def asked(method: str, **params: Any) -> Request:
    return Request(1, method, {**params, "_meta": META})


# -- values -----------------------------------------------------------------------------------------------------------

PLAIN = [
    *("", "a", "us-west1", "a b  c", "!~", "=?base64?", "?=", "=?base64?x", "=?BASE64?eA==?=", "=?base64?eA==?"),
    *("file:///a%20b?id=1", "https://h/a,b;c", '"quoted"', "=?utf-8?B?eA==?="),
]
WRAPPED = {
    # the examples of the specification
    "Hello, 世界": "=?base64?SGVsbG8sIOS4lueVjA==?=",
    " padded ": "=?base64?IHBhZGRlZCA=?=",
    "line1\nline2": "=?base64?bGluZTEKbGluZTI=?=",
    "=?base64?literal?=": "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=",
    # every other reason
    " ": "=?base64?IA==?=",
    "\ta": "=?base64?CWE=?=",
    "a ": "=?base64?YSA=?=",
    "a\tb": "=?base64?YQli?=",
    "\r\n": "=?base64?DQo=?=",
    "\x00": "=?base64?AA==?=",
    "\x7f": "=?base64?fw==?=",
    "é": "=?base64?w6k=?=",
    "\u2028": "=?base64?4oCo?=",
    "=?base64?=": "=?base64?PT9iYXNlNjQ/PQ==?=",
    "=?base64??=": "=?base64?PT9iYXNlNjQ/Pz0=?=",
}


@pytest.mark.parametrize("text", PLAIN, ids=repr)
def test_what_a_header_can_carry_goes_as_it_is(text: str) -> None:
    assert encode_value(text) == text
    assert decode_value(text) == text


@pytest.mark.parametrize(("text", "value"), WRAPPED.items(), ids=map(repr, WRAPPED))
def test_what_would_not_arrive_unharmed_goes_in_base64(text: str, value: str) -> None:
    assert encode_value(text) == value
    assert decode_value(value) == text


@given(texts | st.builds("=?base64?{}?=".format, texts) | st.text(st.sampled_from(list(" \t=?base64")), max_size=14))
def test_every_text_arrives_as_it_was(text: str) -> None:
    value = encode_value(text)
    assert decode_value(value) == text
    assert value.isascii()
    assert value == value.strip()
    assert value.isprintable()


BAD_VALUES = {
    "no padding": "=?base64?eA?=",
    "half the padding": "=?base64?eA=?=",
    "too much padding": "=?base64?eA===?=",
    "another alphabet": "=?base64?_-8=?=",
    "blanks": "=?base64?e A==?=",
    "a line break": "=?base64?eA==\n?=",
    "characters of no alphabet": "=?base64?e!A==?=",
    "bits that say nothing": "=?base64?eB==?=",
    "no ASCII": "=?base64?é?=",
    "no UTF-8": "=?base64?/w==?=",
    "half a surrogate": f"=?base64?{base64.b64encode(chr(0xD800).encode('utf-8', 'surrogatepass')).decode()}?=",
    "text after the padding": "=?base64?eA==eA==?=",
}


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)
def test_base64_that_is_not_canonical_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ValueError, match="not the canonical one") as caught:
        decode_value(value)
    assert value not in str(caught.value)


def test_a_lone_surrogate_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="a lone surrogate"):
        encode_value(f"{CANARY}\ud800")


@given(st.text(max_size=30) | st.text(max_size=20).map("=?base64?{}?=".format))
def test_decoding_ends_in_text_or_a_value_error(value: str) -> None:
    assert type(refusal(decode_value, value)) in (type(None), ValueError)


GOOD_HEADERS = [
    *(("X-Api-Key", "secret"), ("authorization", "Bearer a.b-c_d"), ("x", ""), ("!#$%&'*+-.^_`|~9", "é ÿ")),
    ("X-Tab", "a\tb"),
]


@pytest.mark.parametrize(("name", "value"), GOOD_HEADERS)
def test_a_header_that_can_be_sent_has_no_flaw(name: str, value: str) -> None:
    assert header_flaw(name, value) is None


@pytest.mark.parametrize("name", ["", " ", "X Api", "X-Api:", "X\r\nY", "Ü", "X\x00", "(x)", "a/b", "a\n"], ids=repr)
def test_a_header_needs_a_name_that_is_a_token(name: str) -> None:
    assert "name" in str(header_flaw(name, "x"))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((f"{CANARY}\r\nX: y", "line break"), (f"{CANARY}\n", "line break"), (f"\x00{CANARY}", "control")),
        *(
            (f"{CANARY}\x7f", "control"),
            (f"{CANARY}\x85", "control"),
            (f" {CANARY}", "blank"),
            (f"{CANARY}\t", "blank"),
        ),
        *((f"{CANARY}€", "latin-1"), (f"{CANARY}\ud800", "latin-1"), (" ", "blank")),
    ],
    ids=repr,
)
def test_a_flaw_tells_the_header_and_not_its_value(value: str, why: str) -> None:
    flaw = header_flaw("X-Api-Key", value)
    assert flaw is not None
    assert why in flaw
    assert "X-Api-Key" in flaw
    assert CANARY not in flaw


@pytest.mark.parametrize(("name", "value"), [(b"X", "y"), ("X", 1), ("X", None), (None, CANARY)], ids=repr)
def test_a_header_is_text_and_text(name: object, value: object) -> None:
    assert "is a str and a str, not" in str(header_flaw(name, value))


@given(st.text(max_size=10), st.text(max_size=20))
def test_a_header_without_a_flaw_can_be_written(name: str, value: str) -> None:
    if header_flaw(name, value) is None:
        line = f"{name}: {value}".encode("latin-1")
        assert line.splitlines() == [line]
        assert line.strip() == line or not value


# -- what a message says by its method --------------------------------------------------------------------------------

ROUTED: list[tuple[Message, dict[str, str]]] = [
    (asked("tools/list"), {"Mcp-Method": "tools/list"}),
    (asked("tools/call", name="add"), {"Mcp-Method": "tools/call", "Mcp-Name": "add"}),
    (asked("prompts/get", name="Review"), {"Mcp-Method": "prompts/get", "Mcp-Name": "Review"}),
    (asked("resources/read", uri="f:///a%20b?id="), {"Mcp-Method": "resources/read", "Mcp-Name": "f:///a%20b?id="}),
    (asked("tasks/get", taskId="t1"), {"Mcp-Method": "tasks/get", "Mcp-Name": "t1"}),
    (asked("tasks/update", taskId="t1"), {"Mcp-Method": "tasks/update", "Mcp-Name": "t1"}),
    (asked("tasks/cancel", taskId="t1"), {"Mcp-Method": "tasks/cancel", "Mcp-Name": "t1"}),
    (asked("tools/call", name="ü"), {"Mcp-Method": "tools/call", "Mcp-Name": "=?base64?w7w=?="}),
    (asked("tools/call", name=""), {"Mcp-Method": "tools/call", "Mcp-Name": ""}),
    (asked("tools/call"), {"Mcp-Method": "tools/call"}),
    (asked("tools/call", name=7, uri="x"), {"Mcp-Method": "tools/call"}),
    (asked("tools/list", name="x", uri="y", taskId="z"), {"Mcp-Method": "tools/list"}),
    (asked("resources/subscribe", uri="x"), {"Mcp-Method": "resources/subscribe"}),
    (asked("my/method\r\nX: y"), {"Mcp-Method": "=?base64?bXkvbWV0aG9kDQpYOiB5?="}),
    (Notification("notifications/x", {"_meta": META}), {"Mcp-Method": "notifications/x"}),
]


@pytest.mark.parametrize(("message", "headers"), ROUTED, ids=[repr(message)[:60] for message, _ in ROUTED])
def test_a_stateless_message_is_routed_by_its_headers(message: Message, headers: dict[str, str]) -> None:
    assert routing_headers(message) == {"MCP-Protocol-Version": "2026-07-28", **headers}
    assert Mirror().headers(message) == routing_headers(message)


HANDSHAKE: list[Message] = [
    Request(1, "initialize", {"protocolVersion": "2025-11-25"}),
    Request(1, "tools/call", {"name": "add"}),
    Request(1, "tools/call", {"name": "add", "_meta": {"progressToken": 1}}),
    Request(1, "tools/call", {"name": "add", "_meta": None}),
    Request(1, "tools/call", {"name": "add", "_meta": [VERSION_KEY]}),
    Request(1, "tools/call", {"name": "add", "_meta": {VERSION_KEY: 20260728}}),
    Request(1, "ping"),
    Notification("notifications/initialized"),
    Result(1, {"_meta": META}),
    Failure(1, -32603, "x", {"_meta": META}),
]


@pytest.mark.parametrize("message", HANDSHAKE, ids=[repr(message)[:80] for message in HANDSHAKE])
def test_a_message_of_the_handshake_era_is_not_mirrored(message: Message) -> None:
    assert routing_headers(message) == {}
    assert Mirror().headers(message) == {}
    assert declared_version(message) is None


def test_the_version_in_the_header_is_the_one_in_the_body() -> None:
    request = Request(1, "ping", Stateless(Identity(), version="2027-01-01").dress(None))
    assert declared_version(request) == "2027-01-01"
    assert routing_headers(request)["MCP-Protocol-Version"] == "2027-01-01"


def test_only_the_reply_to_initialize_assigns_a_session_and_a_version() -> None:
    initialize, call = Request(1, "initialize", {}), Request(1, "tools/call", {})
    assert assigns_session(initialize)
    assert version_of(initialize, {"protocolVersion": "2025-06-18"}) == "2025-06-18"
    assert version_of(initialize, {"protocolVersion": 1}) is None
    assert version_of(initialize, {}) is None
    assert version_of(call, {"protocolVersion": "2025-06-18"}) is None
    assert not any(map(assigns_session, [call, Notification("initialize"), Result(1, {})]))


def test_only_the_reply_to_listen_stays_open() -> None:
    assert stays_open(Request(1, "subscriptions/listen"))
    assert not stays_open(Notification("subscriptions/listen"))
    assert not stays_open(Request(1, "tools/call"))


# -- the arguments of tools -------------------------------------------------------------------------------------------

REGION = {"type": "string", "x-mcp-header": "Region"}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


ANNOTATED: dict[str, tuple[object, dict[tuple[str, ...], str]]] = {
    "no schema": (None, {}),
    "a boolean schema": (True, {}),
    "no annotation": (schema(a={"type": "string"}), {}),
    "text": (schema(region=REGION), {("region",): "Region"}),
    "every type": (
        schema(
            a={"type": "string", "x-mcp-header": "A"},
            b={"type": "integer", "x-mcp-header": "B"},
            c={"type": "boolean", "x-mcp-header": "C"},
        ),
        {("a",): "A", ("b",): "B", ("c",): "C"},
    ),
    "inside objects": (schema(a=schema(b=schema(c=REGION))), {("a", "b", "c"): "Region"}),
    "a name that is also a header's": (schema(a={**REGION, "x-mcp-header": "Method"}), {("a",): "Method"}),
    "every character of a token": (
        schema(a={**REGION, "x-mcp-header": "!#$%&'*+-.^_`|~0Az"}),
        {("a",): "!#$%&'*+-.^_`|~0Az"},
    ),
    "properties called like keywords": (
        schema(**{"default": REGION, "items": {"type": "string"}, "x-mcp-header": {"type": "string"}}),
        {("default",): "Region"},
    ),
    "a property called properties": (schema(properties=schema(a=REGION)), {("properties", "a"): "Region"}),
    "data": (
        {
            "properties": {"a": {"type": "object", "default": {"x-mcp-header": "not a token"}}},
            "default": {"properties": {"a": REGION}},
            "examples": [{"x-mcp-header": ""}],
            "enum": [{"x-mcp-header": 1}],
            "const": {"x-mcp-header": None},
        },
        {},
    ),
    "unknown keywords": ({"x-other": {"x-mcp-header": "A"}, "x-list": [REGION]}, {}),
    "a reference": ({"$ref": "https://evil.example/x-mcp-header", **schema(a=REGION)}, {("a",): "Region"}),
    "keywords that hold nonsense": (
        {"properties": [REGION], "$defs": "x", "allOf": None, "items": 1, "not": "x", "if": [1, None]},
        {},
    ),
}


@pytest.mark.parametrize(("given_schema", "found"), ANNOTATED.values(), ids=ANNOTATED)
def test_annotated_arguments_are_found(given_schema: object, found: dict[tuple[str, ...], str]) -> None:
    assert annotated(given_schema) == found


INVALID: dict[str, tuple[object, str]] = {
    "an empty name": (schema(a={**REGION, "x-mcp-header": ""}), "cannot be part of a header's name"),
    "a blank": (schema(a={**REGION, "x-mcp-header": "My Region"}), "cannot be part"),
    "a colon": (schema(a={**REGION, "x-mcp-header": "Region:"}), "cannot be part"),
    "not ASCII": (schema(a={**REGION, "x-mcp-header": "Région"}), "cannot be part"),
    "a line break": (schema(a={**REGION, "x-mcp-header": "Region\r\nX: y"}), "cannot be part"),
    "a line break at the end": (schema(a={**REGION, "x-mcp-header": "Region\n"}), "cannot be part"),
    "a control character": (schema(a={**REGION, "x-mcp-header": "Re\x01gion"}), "cannot be part"),
    "no text": (schema(a={**REGION, "x-mcp-header": True}), "'a' is not text"),
    "null": (schema(a={**REGION, "x-mcp-header": None}), "'a' is not text"),
    "a huge number": (schema(a={**REGION, "x-mcp-header": 10**5000}), "'a' is not text"),
    "twice": (schema(a=REGION, b=REGION), "is also that of"),
    "twice but for the case": (schema(a=REGION, b={**REGION, "x-mcp-header": "REGION"}), "is also that of"),
    "twice on different levels": (schema(a=REGION, b=schema(a=REGION)), "is also that of"),
    "a number": (schema(a={"type": "number", "x-mcp-header": "A"}), "type 'number' is not"),
    "an object": (schema(a={"type": "object", "x-mcp-header": "A"}), "type 'object' is not"),
    "an array": (schema(a={"type": "array", "x-mcp-header": "A"}), "type 'array' is not"),
    "the type null": (schema(a={"type": "null", "x-mcp-header": "A"}), "type 'null' is not"),
    "no type": (schema(a={"x-mcp-header": "A"}), "exactly one type"),
    "a list of types": (schema(a={"type": ["string"], "x-mcp-header": "A"}), "exactly one type"),
    "text or null": (schema(a={"type": ["string", "null"], "x-mcp-header": "A"}), "exactly one type"),
    "beside a reference": (schema(a={"$ref": "#/$defs/A", "x-mcp-header": "A"}), "exactly one type"),
    "the root": ({"type": "string", "x-mcp-header": "A"}, "the root of the schema"),
    "one good, one bad": (schema(a=REGION, b={**REGION, "x-mcp-header": ""}), "cannot be part"),
}
ELSEWHERE: dict[str, object] = {
    **{keyword: {keyword: REGION} for keyword in ("items", "contains", "additionalItems", "unevaluatedItems")},
    **{keyword: {keyword: REGION} for keyword in ("additionalProperties", "unevaluatedProperties", "propertyNames")},
    **{keyword: {keyword: REGION} for keyword in ("not", "if", "then", "else", "contentSchema")},
    **{keyword: {keyword: [True, REGION]} for keyword in ("allOf", "anyOf", "oneOf", "prefixItems")},
    **{keyword: {keyword: {"a": REGION}} for keyword in ("$defs", "definitions", "patternProperties")},
    **{keyword: {keyword: {"a": REGION}} for keyword in ("dependentSchemas", "dependencies")},
    "items, as a list": {"items": [REGION]},
    "properties below something else": {"allOf": [schema(a=REGION)]},
    "something else below properties": schema(a={"type": "array", "items": REGION}),
    "properties of items": schema(a={"items": schema(b=REGION)}),
}


@pytest.mark.parametrize(("given_schema", "why"), INVALID.values(), ids=INVALID)
def test_an_annotation_that_is_not_valid_is_told(given_schema: object, why: str) -> None:
    with pytest.raises(ValueError, match="x-mcp-header") as caught:
        annotated(given_schema)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("given_schema", ELSEWHERE.values(), ids=ELSEWHERE)
def test_an_annotation_that_no_chain_of_properties_reaches_is_not_valid(given_schema: object) -> None:
    for below in (given_schema, schema(x=given_schema)):
        with pytest.raises(ValueError, match="where no chain of properties leads"):
            annotated(below)


def test_a_schema_may_be_deep_but_must_end() -> None:
    deep: dict[str, Any] = REGION
    for _ in range(MAX_DEPTH):
        deep = schema(a=deep)
    assert annotated(deep) == {("a",) * MAX_DEPTH: "Region"}
    endless = schema()
    endless["properties"]["a"] = endless
    for too_deep in (schema(a=deep), endless):
        with pytest.raises(ValueError, match="nested more than 128 levels deep"):
            annotated(too_deep)


keywords = st.sampled_from(["properties", "items", "allOf", "$defs", "default", "type", "x-mcp-header", "$ref", "a"])
scalars = st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "integer", "A", "B", "a b", ""])
schemas = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=5),
    max_leaves=25,
)


@given(schemas)
def test_any_json_is_a_schema_or_a_value_error(given_schema: object) -> None:
    error = refusal(annotated, given_schema)
    assert str(error).isprintable()
    if error is None:
        names = annotated(given_schema).values()
        assert len({name.lower() for name in names}) == len(names)


class Color(str, Enum):
    RED = "red"


VALUES: dict[str, tuple[object, str | None]] = {
    "text": ("us-west1", "us-west1"),
    "empty text": ("", ""),
    "text with blanks around": (" x", "=?base64?IHg=?="),
    "text that is not ASCII": ("é", "=?base64?w6k=?="),
    "an Enum": (Color.RED, "red"),
    "zero": (0, "0"),
    "a negative integer": (-42, "-42"),
    "the largest integer": (2**53 - 1, "9007199254740991"),
    "the smallest integer": (1 - 2**53, "-9007199254740991"),
    "an integer with a point": (42.0, "42"),
    "negative zero": (-0.0, "0"),
    "true, which is an int in Python": (True, "true"),
    "false": (False, "false"),
    "null": (None, None),
    "a fraction": (0.5, None),
    "infinity": (float("inf"), None),
    "not a number": (float("nan"), None),
    "an array": (["x"], None),
    "an object": ({"x": "y"}, None),
}


@pytest.mark.parametrize(("value", "sent"), VALUES.values(), ids=VALUES)
def test_an_argument_is_mirrored_by_its_value(value: object, sent: str | None) -> None:
    headers = mirrored({("a",): "A"}, {"a": value, "other": "x"})
    assert headers == ({} if sent is None else {"Mcp-Param-A": sent})
    assert all(type(text) is str for text in headers.values())


@pytest.mark.parametrize("value", [2**53, -(2**53), 10**5000, 1e300], ids=["above", "below", "huge", "a float"])
def test_an_integer_that_not_everybody_can_count_to_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^the argument 'a.b': it is an integer beyond 2\*\*53 - 1"):
        mirrored({("a", "b"): "A"}, {"a": {"b": value}})


def test_a_lone_surrogate_in_an_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="^the argument 'a': it holds a lone surrogate"):
        mirrored({("a",): "A"}, {"a": "\ud800"})


ABSENT: list[object] = [None, {}, {"b": 1}, {"a": 1}, {"a": None}, {"a": []}, {"a": {}}, {"a": {"c": 1}}, [], "a", 1]


@pytest.mark.parametrize("arguments", ABSENT, ids=repr)
def test_an_argument_that_is_not_there_has_no_header(arguments: object) -> None:
    assert mirrored({("a", "b"): "A"}, arguments) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=8,
)


@given(json_values)
def test_whatever_the_arguments_the_headers_can_be_written(arguments: object) -> None:
    names = {("a",): "A", ("a", "b"): "AB", ("b",): "B"}
    if error := refusal(mirrored, names, arguments):
        assert "beyond 2**53 - 1" in str(error)
        return
    assert all(header_flaw(name, value) is None for name, value in mirrored(names, arguments).items())


# -- what a client knows of a server's tools --------------------------------------------------------------------------


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": schema(**properties)}


def listed(*cursor: str) -> Request:
    return asked("tools/list", **({"cursor": cursor[0]} if cursor else {}))


GOOD = tool("good", region=REGION)
BAD = tool("bad", region={**REGION, "x-mcp-header": "a b"})
PLAIN_TOOL = tool("plain")


def test_arguments_of_a_tool_that_was_listed_are_mirrored() -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [GOOD, PLAIN_TOOL]})
    call = asked("tools/call", name="good", arguments={"region": "us-west1", "query": "SELECT 1"})
    assert mirror.headers(call) == {**routing_headers(call), "Mcp-Param-Region": "us-west1"}
    other = asked("tools/call", name="plain", arguments={"region": "us-west1"})
    assert mirror.headers(other) == routing_headers(other)
    assert mirror.headers(asked("prompts/get", name="good", arguments={"region": "x"})).keys() == {
        "MCP-Protocol-Version",
        "Mcp-Method",
        "Mcp-Name",
    }


@pytest.mark.parametrize("params", [{}, {"name": "good"}, {"name": "good", "arguments": None}, {"name": 1}], ids=repr)
def test_a_call_without_arguments_has_no_headers_for_them(params: dict[str, Any]) -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [GOOD]})
    call = asked("tools/call", **params)
    assert mirror.headers(call) == routing_headers(call)


def test_a_tool_nobody_has_listed_is_called_without_headers_of_its_own() -> None:
    call = asked("tools/call", name="good", arguments={"region": "x"})
    assert Mirror().headers(call) == routing_headers(call)


def test_a_tool_that_is_not_valid_is_dropped_and_the_others_stay() -> None:
    mirror = Mirror()
    result = {"tools": [GOOD, BAD, PLAIN_TOOL, BAD], "ttlMs": 1, "nextCursor": "x"}
    kept, dropped = mirror.learn(listed(), result)
    assert kept == {"tools": [GOOD, PLAIN_TOOL], "ttlMs": 1, "nextCursor": "x"}
    assert [name for name, _ in dropped] == ["bad", "bad"]
    assert "x-mcp-header 'a b' of the property 'region'" in dropped[0][1]
    assert result["tools"] == [GOOD, BAD, PLAIN_TOOL, BAD]


def test_a_dropped_tool_cannot_be_called() -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [GOOD, BAD]})
    with pytest.raises(LocalProtocolError, match="tools/call: the tool 'bad' cannot be called over HTTP") as caught:
        mirror.headers(asked("tools/call", name="bad", arguments={}))
    assert "x-mcp-header 'a b' of the property 'region'" in str(caught.value)
    assert caught.value.may_have_run is False
    assert mirror.headers(asked("tools/call", name="good"))


@pytest.mark.parametrize("value", [2**53, "\ud800"], ids=["an integer", "a surrogate"])
def test_a_value_that_cannot_be_sent_is_an_error_of_this_side(value: object) -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [tool("t", a={"type": "integer", "x-mcp-header": "A"})]})
    with pytest.raises(LocalProtocolError, match="tools/call: the argument 'a'") as caught:
        mirror.headers(asked("tools/call", name="t", arguments={"a": value}))
    assert caught.value.may_have_run is False
    with pytest.raises(LocalProtocolError, match="lone surrogate"):
        mirror.headers(asked("tools/call", name="\ud800"))


UNTOUCHED: list[tuple[Request, dict[str, Any]]] = [
    (listed(), {"tools": [GOOD, PLAIN_TOOL]}),
    (listed(), {"tools": []}),
    (listed(), {}),
    (listed(), {"tools": None}),
    (listed(), {"tools": "x"}),
    (listed(), {"tools": [None, 1, "x", {}, {"name": 1}, {"inputSchema": 1}]}),
    (asked("prompts/list"), {"tools": [BAD]}),
    (Request(1, "tools/list"), {"tools": [BAD]}),  # the handshake era knows no such annotation
    (Request(1, "tools/list", {}), {"tools": [BAD]}),
]


@pytest.mark.parametrize(("request_", "result"), UNTOUCHED, ids=repr)
def test_a_reply_without_a_tool_to_drop_is_the_same_dict(request_: Request, result: dict[str, Any]) -> None:
    kept, dropped = Mirror().learn(request_, result)
    assert kept is result
    assert dropped == []


def test_in_the_handshake_era_every_tool_can_be_called() -> None:
    mirror = Mirror()
    mirror.learn(Request(1, "tools/list"), {"tools": [GOOD, BAD]})
    assert mirror.headers(Request(2, "tools/call", {"name": "bad", "arguments": {"region": "x"}})) == {}


def test_a_tool_without_a_name_is_dropped_all_the_same() -> None:
    kept, dropped = Mirror().learn(listed(), {"tools": [{"inputSchema": BAD["inputSchema"]}, GOOD]})
    assert kept == {"tools": [GOOD]}
    assert [name for name, _ in dropped] == [""]


def region_of(mirror: Mirror, name: str) -> str | None:
    return mirror.headers(asked("tools/call", name=name, arguments={"region": "x"})).get("Mcp-Param-Region")


def test_a_page_does_not_forget_what_other_pages_taught() -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [tool("a", region=REGION)], "nextCursor": ""})
    mirror.learn(listed(""), {"tools": [tool("b", region=REGION), BAD], "nextCursor": "2"})
    mirror.learn(listed("2"), {"tools": [tool("c", region=REGION)]})
    assert [region_of(mirror, name) for name in "abc"] == ["x", "x", "x"]
    with pytest.raises(LocalProtocolError):
        region_of(mirror, "bad")


def test_a_new_listing_starts_anew() -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [tool("a", region=REGION), tool("b", region=REGION), BAD]})
    mirror.learn(listed(), {"tools": [tool("a")]})
    assert region_of(mirror, "a") is None
    assert region_of(mirror, "b") is None
    assert region_of(mirror, "bad") is None


def test_until_a_new_listing_is_complete_the_one_before_counts_for_the_rest() -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [tool("a", region=REGION), tool("b", region=REGION), BAD]})
    mirror.learn(listed(), {"tools": [tool("a")], "nextCursor": "2"})
    assert region_of(mirror, "a") is None
    assert region_of(mirror, "b") == "x"
    with pytest.raises(LocalProtocolError):
        region_of(mirror, "bad")
    mirror.learn(listed("2"), {"tools": []})
    assert region_of(mirror, "b") is None
    assert region_of(mirror, "bad") is None


def test_a_tool_that_has_been_mended_can_be_called_again() -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [BAD]})
    mirror.learn(listed(), {"tools": [tool("bad", region=REGION)], "nextCursor": "2"})
    assert region_of(mirror, "bad") == "x"


def test_no_page_is_lost_when_threads_list_at_once() -> None:
    mirror = Mirror()
    mirror.learn(listed(), {"tools": [], "nextCursor": "0"})
    names = [[f"t{thread}-{number}" for number in range(100)] for thread in range(8)]

    def list_tools(mine: list[str]) -> None:
        for name in mine:
            mirror.learn(listed(name), {"tools": [tool(name, region=REGION)], "nextCursor": "more"})

    threads = [threading.Thread(target=list_tools, args=(mine,), daemon=True) for mine in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert all(region_of(mirror, name) == "x" for mine in names for name in mine)


# -- what replies say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "!~", "1868a90c-5e2f", "a" * MAX_SESSION_ID, "a,b;c=d"], ids=lambda v: v[:20])
def test_a_session_id_is_visible_ascii(value: str) -> None:
    assert session_id_flaw(value) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *(("", "empty"), ("a" * (MAX_SESSION_ID + 1), "4097 characters"), (f"{CANARY} x", "visible ASCII")),
        *((f"{CANARY}\n", "visible ASCII"), (f"{CANARY}\x7f", "visible ASCII"), (f"{CANARY}é", "visible ASCII")),
        *((f"\x00{CANARY}", "visible ASCII"), (f"{CANARY}\ud800", "visible ASCII")),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_bad_session_id_is_told_and_not_shown(value: str, why: str) -> None:
    flaw = session_id_flaw(value)
    assert flaw is not None
    assert why in flaw
    assert CANARY not in flaw


MEDIA_TYPES = {
    None: "",
    "": "",
    ";": "",
    "application/json": "application/json",
    "Application/JSON; charset=utf-8": "application/json",
    " text/event-stream ;x": "text/event-stream",
    'TEXT/EVENT-STREAM;charset="a;b"': "text/event-stream",
    "text/html": "text/html",
    "application/jsonp": "application/jsonp",
    "application/json, text/html": "application/json, text/html",
}


@pytest.mark.parametrize(("value", "kind"), MEDIA_TYPES.items(), ids=repr)
def test_a_media_type_is_compared_without_case_and_parameters(value: str | None, kind: str) -> None:
    assert media_type(value) == kind


NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110
RETRY_AFTER: dict[str | None, float | None] = {
    None: None,
    "": None,
    "0": 0.0,
    "120": 120.0,
    " 007 ": 7.0,
    "86400": 86400.0,
    "86401": 86400.0,
    "9" * 5000: 86400.0,
    "-1": None,
    "+1": None,
    "1.5": None,
    "1e3": None,
    "0x10": None,
    "1_000": None,
    "٣": None,
    "soon": None,
    "120, 120": None,
    "nan": None,
    "inf": None,
    "Sun, 06 Nov 1994 08:49:37 GMT": 0.0,
    "Sun, 06 Nov 1994 08:50:37 GMT": 60.0,
    "sun, 06 nov 1994 08:50:37 gmt": 60.0,
    "Sunday, 06-Nov-94 08:50:37 GMT": 60.0,
    "Sun Nov  6 08:50:37 1994": 60.0,
    "Sun Nov 06 08:50:37 1994": 60.0,
    "Sun, 06 Nov 1994 08:49:60 GMT": 22.0,
    "Sun, 06 Nov 1994 08:49:36 GMT": 0.0,
    "Thu, 01 Jan 1970 00:00:00 GMT": 0.0,
    "Mon, 01 Jan 0001 00:00:00 GMT": 0.0,
    "Friday, 01-Jan-69 00:00:00 GMT": 86400.0,
    "Mon, 07 Nov 1994 08:49:37 GMT": 86400.0,
    "Fri, 31 Dec 9999 23:59:59 GMT": 86400.0,
    "Sun, 32 Nov 1994 08:49:37 GMT": None,
    "Sun, 00 Nov 1994 08:49:37 GMT": None,
    "Sun, 30 Feb 1994 08:49:37 GMT": None,
    "Sun, 06 Foo 1994 08:49:37 GMT": None,
    "Sun, 06 Nov 0000 08:49:37 GMT": None,
    "Sun, 06 Nov 1994 24:49:37 GMT": None,
    "Sun, 06 Nov 1994 08:60:37 GMT": None,
    "Sun, 06 Nov 1994 08:49:37 +0100": None,
    "Sun, 06 Nov 1994 08:49:37": None,
    "1994-11-06T08:49:37Z": None,
    "Sun Nov    08:50:37 1994": None,
}


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER.items(), ids=lambda value: repr(value)[:40])
def test_retry_after_is_a_number_of_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


two = st.integers(0, 99).map("{:02}".format)
dates = st.builds("Sun, {} {} {:04} {}:{}:{} GMT".format, two, st.sampled_from(["Nov", "Feb", "x", "Foo"]),
                  st.integers(0, 9999), two, two, two)  # fmt: skip


@given(st.none() | st.text(max_size=40) | dates | st.text("0123456789 .-", max_size=400), st.floats())
def test_what_replies_say_never_raises(value: str | None, now: float) -> None:
    seconds = retry_after(value, now)
    assert seconds is None or 0.0 <= seconds <= 86400.0
    assert media_type(value) == media_type(media_type(value))
    assert isinstance(session_id_flaw(value or ""), (str, type(None)))
