"""JSON Schemas that somebody else wrote, and values to compare with them."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from house import growth
from mcp_sync.models import dump, types
from mcp_sync.validation import MOST_PROBLEMS, JSONSchema, Mismatch, path_text, shortened

CITY = {"type": "object", "properties": {"name": {"type": "string"}, "size": {"minimum": 0}}, "required": ["name"]}


def test_what_matches_passes() -> None:
    schema = JSONSchema(CITY)
    schema.check()
    schema.compare({"name": "a", "size": 1})
    assert schema.mismatches({"name": "a", "size": 1}) == []


def test_what_does_not_match_is_told_with_its_place() -> None:
    with pytest.raises(Mismatch, match="^name: 5 is not of type 'string'$") as caught:
        JSONSchema(CITY).compare({"name": 5})
    assert (caught.value.path, caught.value.json_path) == ("name", "$.name")
    found = JSONSchema({"items": CITY}).mismatches([{"name": 5, "size": -1}, {}])
    assert [str(one) for one in found] == [
        "[0].name: 5 is not of type 'string'",
        "[0].size: -1 is less than the minimum of 0",
        "[1]: 'name' is a required property",
    ]


def test_of_a_choice_the_problem_that_says_most_is_told() -> None:
    schema = JSONSchema({"anyOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}, {"type": "null"}]})
    [found] = schema.mismatches({"a": "x"})
    assert str(found) == "a: 'x' is not of type 'integer'"


def test_not_all_of_a_million_problems_are_told() -> None:
    assert len(JSONSchema({"items": {"type": "string"}}).mismatches([1] * 1000)) == MOST_PROBLEMS


def test_the_dialect_that_a_schema_names_is_the_one_that_counts() -> None:
    draft7: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}
    JSONSchema(draft7).compare(["a", 1])
    with pytest.raises(Mismatch):
        JSONSchema(draft7).compare([1])


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "thing"}, "'thing' is not valid under any of the given schemas"),
        ({"$schema": "https://example.com/mine"}, "its dialect 'https://example.com/mine' is not supported"),
        ({"$ref": "https://example.com/x"}, "its .ref 'https://example.com/x' leads nowhere; nothing is ever fetched"),
        ({"properties": {"a": {"items": {"$ref": "#/none"}}}}, "its .ref '#/none' leads nowhere"),
        ({"$dynamicRef": "#none"}, "its .ref '#none' leads nowhere"),
    ],
)
def test_a_schema_that_cannot_be_used_is_told(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        JSONSchema(schema).check()


def test_nothing_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        schema = JSONSchema({"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"})
        for use in (schema.check, lambda: schema.compare(1), lambda: schema.mismatches(1)):
            with pytest.raises(Exception, match=r"schema\.json"):
                use()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_paths_are_written_as_people_do() -> None:
    assert path_text([]) == ""
    assert path_text(["filters", 0, "name"]) == "filters[0].name"
    assert path_text([0, "a"]) == "[0].a"
    assert len(path_text(["x" * 1000])) == 80


@pytest.mark.parametrize("value", ["x" * 1000, 10**1000, {"a": list(range(100))}, [[[[["x" * 50] * 9]]]], object()])
def test_values_are_shortened(value: Any) -> None:
    assert len(shortened(value)) <= 80


def test_a_model_and_a_dict_go_on_the_wire() -> None:
    assert dump(types.TextContent(text="a")) == {"type": "text", "text": "a"}
    assert dump({"a": None}) == {"a": None}
    with pytest.raises(TypeError, match="answer must be a dict or a model, not int"):
        dump(5, "answer")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("mcp_sync", {"pydantic", "mcp_types", "jsonschema", "referencing"}),
        ("mcp_sync.validation", {"pydantic", "mcp_types", "jsonschema", "referencing"}),
        ("mcp_sync.models", {"jsonschema", "referencing"}),
        ("mcp_sync.client.answers", {"jsonschema", "referencing"}),
        ("mcp_sync.server.schema", {"jsonschema", "referencing"}),
    ],
)
def test_libraries_are_imported_when_they_are_needed(module: str, absent: set[str]) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert absent.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("values", [[1, 1.0], [True, True], [[1], [1.0]], [{"a": [1]}, {"a": [1]}], [None, 1, None]])
def test_items_that_are_equal_in_json_are_not_unique(values: list[object]) -> None:
    with pytest.raises(Mismatch, match="non-unique"):
        JSONSchema({"uniqueItems": True}).compare(values)


@pytest.mark.parametrize("values", [[1, True], [0, False], [[1], [True]], [{"a": 1}, {"a": True}], [[], {}, "", None]])
def test_items_that_are_equal_in_python_only_are_unique(values: list[object]) -> None:
    JSONSchema({"uniqueItems": True}).compare(values)


def test_whether_items_are_unique_is_found_out_in_linear_time() -> None:
    schema = JSONSchema({"uniqueItems": True})
    few, many = ([{"a": number} for number in range(count)] for count in (500, 2000))
    growth.at_most(lambda: schema.compare(few), lambda: schema.compare(many), times=8, slack=0.01)


# -- patterns ----------------------------------------------------------------------------------------------------------


def verdict(schema: dict[str, Any], value: object, trusted: bool = False) -> str:
    try:
        JSONSchema(schema, trusted).compare(value)
    except Mismatch as mismatch:
        return mismatch.message
    return ""


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"type": "object", "patternProperties": {"^(a+)+$": {"type": "string"}}},
        {"type": "object", "patternProperties": {"^(a+)+$": True}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False},
        {"type": "object", "propertyNames": {"pattern": "^(a+)+$"}},
    ],
)
def test_a_pattern_of_somebody_else_takes_no_more_than_linear_time(schema: dict[str, Any]) -> None:
    def compare(letters: int) -> None:
        text = "a" * letters + "!"
        verdict(schema, {text: 1} if schema.get("type") == "object" else text)

    growth.at_most(lambda: compare(5_000), lambda: compare(20_000), times=16, slack=0.05)


def test_patterns_say_what_they_always_did() -> None:
    assert verdict({"pattern": "b+c"}, "abbcd") == ""
    assert "does not match 'b+c'" in verdict({"pattern": "b+c"}, "abd")
    assert verdict({"pattern": "b"}, 7) == ""
    named = {"patternProperties": {"^x-": {"type": "integer"}}, "properties": {"a": {}}, "additionalProperties": False}
    assert verdict(named, {"x-b": 1, "a": "x"}) == ""
    assert "not of type 'integer'" in verdict(named, {"x-b": "1"})
    assert "'c'" in verdict(named, {"c": 1})
    assert "'z'" in verdict({**named, "additionalProperties": {"const": 2}}, {"c": "z"}) or "2 was expected" in verdict(
        {**named, "additionalProperties": {"const": 2}}, {"c": "z"}
    )


def test_a_pattern_that_needs_look_around_is_passed_over_unless_it_is_our_own() -> None:
    schema = {"pattern": "^(?=.*[0-9]).{8,}$"}
    assert verdict(schema, "short") == ""
    assert "does not match" in verdict(schema, "short", trusted=True)
    assert verdict(schema, "long enough 1", trusted=True) == ""
    properties = {"patternProperties": {"^(?!x)": {"type": "integer"}}, "additionalProperties": False}
    assert verdict(properties, {"a": "not looked at"}) == ""
    assert "integer" in verdict(properties, {"a": "x"}, trusted=True)
