"""Fuzz targets: schemas, templates of URIs and sealed state: texts that are compared, and must not take long.

How long something takes is looked at only where it is much: then four times as much of it must not take more than eight
times as long (house/growth.py), on whatever machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from fuzz.provider import Provider

from house import growth
from mcp_sync.server import sealing
from mcp_sync.server.uris import MAX_URI, UriTemplate
from mcp_sync.validation import JSONSchema, Mismatch

MUCH = 0.05
"""Seconds for ten kilobytes, of processor time: where less is needed, nothing has to be measured."""


def linear(work: Callable[[int], object], size: int) -> None:
    """Fail if the work on so many pieces takes MUCH, and more than twice as long for each as that on a quarter."""
    began = time.thread_time()
    work(size)
    if time.thread_time() - began > MUCH:
        growth.at_most(lambda: work(size // 4), lambda: work(size), times=8)


# -- templates of URIs ------------------------------------------------------------------------------------------------

PARTS = ("a", "/", "{x}", "{+y}", "{z*}", "{?q,r}", "://", ".", "-", "%2e", "{", "}", "(a+)+", "x{w}", "//")


def uri_templates(data: bytes) -> None:
    """What a template matches has its form, leads nowhere else, and is found out soon."""
    feed = Provider(data)
    text = "".join(feed.pick(PARTS) for _ in range(feed.below(10))) or feed.text()
    try:
        template = UriTemplate(text)
    except ValueError:
        return
    uri = feed.text()
    _check_match(template, uri)
    before, again, after = feed.text(), feed.text() or "/", feed.text()
    linear(lambda many: template.match((before + again * many)[: MAX_URI - len(after)] + after), MAX_URI // len(again))


def _check_match(template: UriTemplate, uri: str) -> None:
    found = template.match(uri)
    assert template.match(uri + "x" * (MAX_URI + 1)) is None
    if found is None:
        return
    assert set(template.names) - set(template.optional) <= set(found) <= set(template.names)
    for value in found.values():
        assert "\0" not in value
        assert ".." not in value.replace("\\", "/").split("/")
    for name in set(found) - set(template.optional):
        assert found[name] in unquote(uri) or "%" in found[name]  # half an escape, before a literal f, is text


# -- schemas ----------------------------------------------------------------------------------------------------------

KEYWORDS = ("type", "properties", "items", "enum", "const", "minLength", "maximum", "required", "anyOf", "not", "$ref")
KEYWORDS += ("uniqueItems", "additionalProperties", "propertyNames", "if", "then", "format", "multipleOf", "$schema")
KEYWORDS += ("allOf", "oneOf", "prefixItems", "contains", "dependentRequired", "$defs", "default", "minItems", "x")
WORDS = ("string", "object", "array", "integer", "#", "#/$defs/a", "#/properties/a", "http://other.example/x", "a", "b")
WORDS += ("https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#", "email", "date")


def json_schemas(data: bytes) -> None:
    """Somebody's schema can be used or not, and a value matches or not; it is said in few words, and soon."""
    feed = Provider(data)
    schema = {feed.pick(KEYWORDS): _part(feed, 0) for _ in range(feed.below(6))}
    compiled = JSONSchema(schema)
    try:
        compiled.check()
    except ValueError as flaw:
        said = str(flaw)
    else:
        said = ""
        _compare(compiled, feed)
    assert len(said) <= 400, said


def _compare(compiled: JSONSchema, feed: Provider) -> None:
    value = _part(feed, 0)
    try:
        problems = compiled.mismatches(value)
        matches = _matches(compiled, value)
    except RecursionError:
        return  # a schema that refers to itself, which whoever compares has to expect
    assert matches == (not problems)
    assert len(problems) <= 20
    for problem in problems:
        assert problem.json_path.startswith("$")
    many = feed.pick((1, 100, 2000))
    linear(lambda count: _matches(compiled, [{"a": number} for number in range(count)]), many)
    linear(lambda count: _matches(compiled, {"a": [value] * count, "b": "a" * count}), many)


def _matches(compiled: JSONSchema, value: Any) -> bool:
    try:
        compiled.compare(value)
    except Mismatch:
        return False
    return True


def _part(feed: Provider, depth: int) -> Any:
    kind = feed.below(6) if depth < 5 else 3
    if kind == 0:
        return {feed.pick((*KEYWORDS, "a", "b", "")): _part(feed, depth + 1) for _ in range(feed.below(4))}
    if kind == 1:
        return [_part(feed, depth + 1) for _ in range(feed.below(4))]
    if kind == 2:
        return feed.text().encode("utf-8", "replace").decode()
    if kind == 3:
        return feed.pick(WORDS)
    return feed.pick((1, 0, -1, 1.5, True, False, None, 10**30, {}, []))


# -- sealed state -----------------------------------------------------------------------------------------------------


def sealed_state(data: bytes) -> None:
    """What is opened is what was sealed, for the same thing and in time; of all else comes one and the same error."""
    feed = Provider(data)
    now = [1000.0]
    seal, other = sealing.Seal(b"key", clock=lambda: now[0]), sealing.Seal(b"another", clock=lambda: now[0])
    bound, state = feed.text(), {"a": feed.text(), "b": [feed.byte(), None, {"c": feed.flag()}]}
    try:
        text = seal.close(state, bound, 60)
    except ValueError:  # a lone surrogate, which JSON of a request never has
        return
    assert seal.open(text, bound) == state
    _refused(other, text, bound)
    if (elsewhere := feed.text()) != bound:
        _refused(seal, text, elsewhere)
    changed = _changed(feed, text)
    if changed != text:
        _refused(seal, changed, bound)
    now[0] += 61
    _refused(seal, text, bound)


def _changed(feed: Provider, text: str) -> Any:
    what, at = feed.below(6), feed.byte() * len(text) // 256
    new = feed.text()
    if what == 0:
        return text[:at] + new + text[at:]
    if what == 1:
        return text[:at] + new + text[at + 1 :]
    if what == 2:
        return text[:at] + text[at + 1 :]
    if what == 3:
        return new
    version, _, rest = text.partition(".")
    body, _, signature = rest.partition(".")
    return feed.pick((f"{version}.{new}.{signature}", f"{version}.{body}.{new}", f"{text}=", None, 1, [text], b""))


def _refused(seal: sealing.Seal, text: Any, bound: str) -> None:
    try:
        state = seal.open(text, bound)
    except UnicodeEncodeError:
        return  # what it is bound to cannot be said; the caller has it from JSON, where that never is
    except ValueError as flaw:
        said = str(flaw)
    else:
        raise AssertionError(f"{text!r} was opened: {state}")
    assert said == "not a valid state"
