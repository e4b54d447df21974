"""Templates of URIs: what they match, what would lead out of a folder, and that no input takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sync.server.uris import MAX_URI, UriTemplate, is_template


@pytest.mark.parametrize(
    ("template", "uri", "values"),
    [
        ("users://{id}", "users://42", {"id": "42"}),
        ("users://{id}", "users://", None),
        ("users://{id}", "users://4/2", None),
        ("users://{id}", "users://a%20b%C3%A9", {"id": "a bé"}),
        ("users://{id}", "users://a%2Fb", {"id": "a/b"}),
        ("users://{id}", "users://%2541", {"id": "%41"}),  # decoded once
        ("users://{id}", "users://%FF", {"id": "\ufffd"}),
        ("users://{id}", "xusers://42", None),
        ("users://{id}", "users://42\n", {"id": "42\n"}),
        ("users://{id}/posts/{post}", "users://a/posts/b", {"id": "a", "post": "b"}),
        ("users://{id}/posts/{post}", "users://a/posts/b/c", None),
        ("d://{day}.{kind}", "d://mon.log", {"day": "mon", "kind": "log"}),
        ("d://{day}.{kind}", "d://mon.log.gz", {"day": "mon", "kind": "log.gz"}),
        ("d://(a+)+{x}", "d://(a+)+1", {"x": "1"}),  # what stands there is no pattern
        ("file:///{+path}", "file:///a/b/c.txt", {"path": "a/b/c.txt"}),
        ("file:///{path*}", "file:///a/b", {"path": "a/b"}),
        ("file:///{+path}", "file:///a?b", None),
        ("file://{+path}", "file:///etc/motd", {"path": "/etc/motd"}),
        ("file:///{+folder}/{name}.md", "file:///a/b/c.md", {"folder": "a/b", "name": "c"}),
        ("x://{a}{?b,c}", "x://1", {"a": "1"}),
        ("x://{a}{?b,c}", "x://1?c=3&b=2&d=4", {"a": "1", "b": "2", "c": "3"}),
        ("x://{a}{?b,c}", "x://1?b=&c=a+b%26", {"a": "1", "b": "", "c": "a b&"}),
        ("x://{a}{?b,c}", "x://1?", {"a": "1"}),
        ("x://all{?b}", "x://all?b=1", {"b": "1"}),
        ("x://{a}", "x://1?b=2", None),
    ],
)
def test_a_template_matches_what_has_its_form(template: str, uri: str, values: dict[str, str] | None) -> None:
    assert UriTemplate(template).match(uri) == values


@pytest.mark.parametrize("template", ["file:///{+path}", "file:///docs/{+path}", "file:///{name}", "f://x{?name}"])
@pytest.mark.parametrize(
    "value",
    [
        *("..", "../x", "a/../b", "a/..", "%2e%2e", "%2E%2e/x", "a/%2e%2e%2fb", "..%2fx", "a%2F..", "..\\x"),
        *(
            "a\\..\\b",
            "%2e%2e%5cx",
            "a%00",
            "%00",
            "\0",
            "a/b\0.txt",
            "/etc/passwd",
            "%2Fetc%2Fpasswd",
            "%5c%5chost%5cshare",
        ),
    ],
)
def test_what_would_lead_out_of_a_folder_is_no_match(template: str, value: str) -> None:
    place = next(part for part in ("{+path}", "{name}", "{?name}") if part in template)
    uri = template.replace(place, f"?name={value}" if place == "{?name}" else value)
    assert UriTemplate(template).match(uri) is None


@pytest.mark.parametrize("value", ["...", "..a", "a..b", "a/..b/c", ".", "a./b", "%2e", ".hidden"])
def test_dots_that_lead_nowhere_are_letters_like_others(value: str) -> None:
    assert UriTemplate("file:///{+path}").match(f"file:///{value}") is not None


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a://{}", "no name"),
        ("a://{a-b}", "no name"),
        ("a://{#a}", "no name"),
        ("a://{a,b}", "no name"),
        ("a://{1a}", "no name"),
        ("a://{a", "brace"),
        ("a://a}", "brace"),
        ("a://{{a}}", "no name|brace"),
        ("a://{a}/{a}", "twice"),
        ("a://{a}{?a}", "twice"),
        ("a://{a}{b}", "nothing tells where"),
        ("a://{+a}{b}", "nothing tells where"),
        ("a://{+a}/{+b}", "only one"),
        ("a://{+a}-{b}", "behind what may hold slashes"),
        ("a://{?a}/b", "nothing may follow"),
        ("a://{?a}/{b}", "behind the query"),
    ],
)
def test_a_template_that_is_not_understood_is_refused(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        UriTemplate(template)


SLOW = [
    ("s://{a}", "a" * 9000),
    ("s://{a}-{b}-{c}-{d}", "-" * 8000),
    ("s://{a}-{b}-{c}-{d}", "a-" * 4000),
    ("s://{a}b{c}b{d}", "ab" * 4000),
    ("s://{+p}", "/" * 8000),
    ("s://{+p}/{a}/{b}/{c}", "a/" * 4000),
    ("s://{+p}/x{a}y{b}", "/xy" * 2600),
    ("s://{+p}/x{a}y{b}", "/xaaay" * 1300 + "/"),
    ("s://{+p}/x{a}", "/" + "x" * 8000 + "/"),
    ("s://{a}/{+p}/end", "/end" * 2000),
    ("s://{+p}aaaaaaaaaaaaaaaab", "a" * 8000),
    ("s://{a}/{+p}.md", "a/" + ".md" * 2600 + "x"),
    ("s://x{?a,b}", "x?" + "a&" * 4000),
    ("s://x{?a,b}", "x?" + "a=b;" * 2000),
    ("s://{a}", "%" * 8000),
    ("s://{a}", "%25" * 2600),
]


@pytest.mark.parametrize(("template", "rest"), SLOW)
def test_no_uri_takes_long(template: str, rest: str) -> None:
    known = UriTemplate(template)
    for uri in (f"s://{rest}"[:MAX_URI], f"s://{rest}"[: MAX_URI - 1] + "#", f"s://{rest}"):
        best = min(_cpu_seconds(known, uri) for _ in range(3))  # the machine is busy with others
        assert best < 0.05


def _cpu_seconds(template: UriTemplate, uri: str) -> float:
    before = time.thread_time()
    template.match(uri)
    return time.thread_time() - before


def test_a_uri_that_is_too_long_is_no_match() -> None:
    assert UriTemplate("s://{a}").match("s://" + "a" * (MAX_URI - 4)) is not None
    assert UriTemplate("s://{a}").match("s://" + "a" * (MAX_URI - 3)) is None


PIECES = st.text(st.sampled_from("aA{}+*?/.-_,:%#&=\\\0é"), max_size=25)


@given(PIECES, PIECES)
def test_any_template_is_understood_or_refused_and_any_uri_matched_or_not(template: str, uri: str) -> None:
    try:
        known = UriTemplate(f"s://{template}")
    except ValueError:
        return
    values = known.match(f"s://{uri}")
    if values is not None:
        assert set(values) <= set(known.names)
        assert set(known.names) - set(known.optional) <= set(values)
        assert not any(".." in value.replace("\\", "/").split("/") for value in values.values())
    if not is_template(template):
        assert (known.match(f"s://{template}") is not None) == (len(template) <= MAX_URI)
