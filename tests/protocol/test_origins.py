"""Which URLs belong together: a secret meant for one server never goes to another, whatever the URL looks like."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sync.protocol.origins import (
    Origin,
    allowed,
    check_url,
    is_loopback,
    join_url,
    origin_of,
    resolve,
    same_origin,
    without_userinfo,
)

CANARY = "c4nary"
HTTP = ("https", "http")

ORIGINS = {
    "http://host": Origin("http", "host", 80),
    "https://host/": Origin("https", "host", 443),
    "ws://host?x": Origin("ws", "host", 80),
    "wss://host#x": Origin("wss", "host", 443),
    "http://host:8080/a?b#c": Origin("http", "host", 8080),
    "http://host:/a": Origin("http", "host", 80),
    "http://host:080/": Origin("http", "host", 80),
    "HTTPS://Example.COM:443/Path": Origin("https", "example.com", 443),
    "https://example.com./": Origin("https", "example.com", 443),
    "https://my_service-1.internal": Origin("https", "my_service-1.internal", 443),
    "http://127.0.0.1:1": Origin("http", "127.0.0.1", 1),
    "http://1.2.3.4./": Origin("http", "1.2.3.4", 80),
    "http://[::1]:8000/": Origin("http", "::1", 8000),
    "http://[0:0:0:0:0:0:0:1]/": Origin("http", "::1", 80),
    "http://[2001:DB8::00FF]/": Origin("http", "2001:db8::ff", 80),
    "https://bücher.example/": Origin("https", "xn--bcher-kva.example", 443),
    "https://BÜCHER.example./": Origin("https", "xn--bcher-kva.example", 443),
    "https://bu\u0308cher.example/": Origin("https", "xn--bcher-kva.example", 443),
    "https://XN--bcher-kva.example/": Origin("https", "xn--bcher-kva.example", 443),
    "https://例え.テスト/": Origin("https", "xn--r8jz45g.xn--zckzah", 443),
    "https://me:secret@host/": Origin("https", "host", 443),
    "https://a@evil.example@host/": Origin("https", "host", 443),
    "https://host:1@evil.example/": Origin("https", "evil.example", 443),
}


@pytest.mark.parametrize(("url", "origin"), ORIGINS.items(), ids=ORIGINS)
def test_a_url_has_one_origin_however_it_is_written(url: str, origin: Origin) -> None:
    assert origin_of(url) == origin
    assert origin_of(str(origin)) == origin


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("https", "host", 443), "https://host"),
        (Origin("https", "host", 80), "https://host:80"),
        (Origin("ws", "::1", 8000), "ws://[::1]:8000"),
    ],
    ids=str,
)
def test_an_origin_is_shown_as_the_beginning_of_a_url(origin: Origin, text: str) -> None:
    assert str(origin) == text


BAD_URLS = {
    "": "begin with",
    "host": "begin with",
    "//host/": "begin with",
    "host:80/": "begin with",
    "http:/host": "begin with",
    "http:host": "begin with",
    "ftp://host": "begin with",
    "file:///etc/passwd": "begin with",
    "javascript://host/": "begin with",
    "http+unix://host": "begin with",
    "http://": "no host",
    "http:///path": "no host",
    "http://?x": "no host",
    "http://:80/": "no host",
    "http://me@/": "no host",
    "http://./": "no host",
    "http://a..b/": "no name",
    "http://.a/": "no name",
    "http://a../": "no name",
    "http://ex%61mple.com/": "no name",
    "http://a,b/": "no name",
    "http://*/": "no name",
    "http://<host>/": "no name",
    f"http://{'a' * 64}/": "no name",
    f"http://{'a.' * 127}a/": "more than 253 characters",
    f"http://{'ü.' * 60}a/": "no name",
    "http://host:x/": "no number",
    "http://host:-1/": "no number",
    "http://host:8 0/": "blank",
    "http://host:٣/": "no number",
    "http://host:0/": "between",
    "http://host:65536/": "between",
    "http://host:99999999999999999999/": "between",
    "http://::1/": "brackets",
    "http://[::1/": "brackets",
    "http://[::1]x/": "brackets",
    "http://[]/": "IPv6",
    "http://[host]/": "IPv6",
    "http://[127.0.0.1]/": "IPv6",
    "http://[::1%25eth0]/": "zone",
    "http://127.1/": "IPv4",
    "http://2130706433/": "IPv4",
    "http://0177.0.0.1/": "IPv4",
    "http://0x7f.0.0.1/": "IPv4",
    "http://a.0x7f/": "IPv4",
    "http://256.0.0.1/": "IPv4",
    "http://1.2.3.4.5/": "IPv4",
    "http://host\\@evil/": "backslash",
    "http:\\\\host/": "backslash",
    " http://host/": "blank",
    "http://host/a b": "blank",
    "http://ho\tst/": "blank",
    "http://host/\r\nX: y": "blank",
    "http://host/\x00": "blank",
    "http://host/\u00a0": "blank",
    "http://host/\u2028": "blank",
    "http://host/\ud800": "blank",
    "http://faß.example/": "two different names",
    "http://ΟΔΟΣ.example/": "two different names",
    "http://ｅxample.com/": "two different names",
    "http://example。com/": "two different names",
    "http://exam\u00adple.com/": "two different names",
    "http://a\u200db.com/": "two different names",
    "http://ⅷ.example/": "two different names",
    f"http://{'ü' * 200}/": "two different names",
    f"http://{'ü.' * 5000}/": "more than 253 characters",
}


@pytest.mark.parametrize(("url", "why"), BAD_URLS.items(), ids=lambda text: repr(text)[:40])
def test_a_url_that_could_be_read_in_two_ways_has_no_origin(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        origin_of(url)
    assert not same_origin(url, url)


SAME = [
    ("http://host/a", "HTTP://HOST:80/b?c"),
    ("https://host", "https://host:443/"),
    ("https://me:pw@host", "https://you@host./"),
    ("http://[::1]", "http://[0::0001]:80"),
    ("https://bücher.example", "https://XN--BCHER-KVA.example"),
]


@pytest.mark.parametrize(("a", "b"), SAME, ids=str)
def test_the_way_it_is_written_does_not_matter(a: str, b: str) -> None:
    assert same_origin(a, b)
    assert same_origin(b, a)


DIFFERENT = [
    ("http://host", "https://host"),
    ("http://host", "ws://host"),
    ("http://host:80", "http://host:81"),
    ("http://host", "https://host:80"),
    ("http://localhost", "http://localhost.evil"),
    ("http://localhost", "http://localhost@evil"),
    ("http://localhost:80", "http://localhost:80@evil"),
    ("http://localhost", "http://evil/localhost"),
    ("http://localhost", "http://127.0.0.1"),
    ("http://127.0.0.1", "http://[::1]"),
    ("http://127.0.0.1", "http://[::ffff:127.0.0.1]"),
    ("http://host", "http://sub.host"),
    ("http://host", "http://host.host"),
    ("http://host", "http://host\\@evil"),
    ("http://fass.example", "http://faß.example"),
    ("http://example.com", "http://ｅxample.com"),
    ("http://apple.com", "http://аpple.com"),  # a Cyrillic a
    ("http://xn--bcher-kva.example", "http://bucher.example"),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=str)
def test_two_servers_are_never_taken_for_one(a: str, b: str) -> None:
    assert not same_origin(a, b)
    assert not same_origin(b, a)


@pytest.mark.parametrize("thing", [None, 1, b"http://host", ["http://host"]], ids=repr)
def test_what_is_no_text_has_the_origin_of_nothing(thing: object) -> None:
    assert not same_origin(thing, thing)  # type: ignore[arg-type]


labels = st.text("abzAZ09-_", min_size=1, max_size=8).filter(lambda label: not label.lower()[-1:].isdigit())
foreign = st.sampled_from(
    ["bücher", "BÜCHER", "xn--bcher-kva", "faß", "fass", "ος", "οσ", "ｅxample", "example", "ex。ample"]
)
names = st.lists(labels | foreign, min_size=1, max_size=3).map(".".join)
v4 = st.tuples(*[st.integers(0, 255)] * 4).map(lambda parts: ".".join(map(str, parts)))
v6 = st.sampled_from(["[::1]", "[2001:db8::1]", "[2001:DB8:0::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])
hosts = st.one_of(names, v4, v6)
ports = st.none() | st.integers(1, 65535)
triples = st.tuples(st.sampled_from(["http", "https", "ws", "wss"]), hosts, ports)
userinfos = st.sampled_from(["", "me@", "me:pw@", "localhost@", "http%3A%2F%2Fhost@", "a@b@", ":80@"])
ends = st.sampled_from(["", "/", "/@other", "?@other", "#@other", "/http://other/", "//other"])


def written(triple: tuple[str, str, int | None], userinfo: str, end: str) -> str:
    scheme, host, port = triple
    return f"{scheme}://{userinfo}{host}{'' if port is None else f':{port}'}{end}"


@given(triples, triples, userinfos, userinfos, ends, ends)
def test_different_triples_never_have_one_origin(
    a: tuple[str, str, int | None],
    b: tuple[str, str, int | None],
    user_a: str,
    user_b: str,
    end_a: str,
    end_b: str,
) -> None:
    equal = same_origin(written(a, user_a, end_a), written(b, user_b, end_b))
    if equal:
        assert a[0] == b[0]
        assert effective(a) == effective(b)
        assert same_host(a[1], b[1])


def effective(triple: tuple[str, str, int | None]) -> int:
    return triple[2] or {"http": 80, "ws": 80}.get(triple[0], 443)


def same_host(a: str, b: str) -> bool:
    """Say so by other means: an IPv6 address by its number, a name by its letters."""
    from ipaddress import IPv6Address

    if a.startswith("[") and b.startswith("["):
        return int(IPv6Address(a[1:-1])) == int(IPv6Address(b[1:-1]))
    return [*map(letters, a.split("."))] == [*map(letters, b.split("."))]


def letters(label: str) -> str:
    plain = label.lower()
    return plain[4:].encode().decode("punycode") if plain.startswith("xn--") else plain


@given(triples, userinfos, userinfos, ends, ends, st.booleans())
def test_users_paths_case_and_the_last_dot_are_no_part_of_an_origin(
    triple: tuple[str, str, int | None], user_a: str, user_b: str, end_a: str, end_b: str, dotted: bool
) -> None:
    scheme, host, port = triple
    try:
        origin_of(written(triple, "", ""))
    except ValueError:
        return
    other = host if host.startswith("[") or not dotted else f"{host}."
    shouted = (scheme.upper(), other.upper() if other.isascii() else other, effective(triple))
    assert same_origin(written(triple, user_a, end_a), written(shouted, user_b, end_b))


url_like = st.text(st.sampled_from(list("htps:/@.[]%?#\\ ab01-\t\u00fc\ud800")), max_size=30)
anything = st.text(max_size=40) | url_like | url_like.map("http://{}".format)


@given(anything, anything)
def test_comparing_never_raises(a: str, b: str) -> None:
    assert same_origin(a, b) in (True, False)
    assert allowed(a, b, [a]) in (True, False)


TOTAL: list[Callable[[str], object]] = [
    origin_of,
    without_userinfo,
    lambda url: check_url(url, HTTP),
    lambda url: join_url(url, "/mcp"),
    lambda url: join_url("http://host/", url),
    lambda url: resolve(url, "../x"),
    lambda url: resolve("http://host/a", url),
]


@pytest.mark.parametrize("function", TOTAL)
@given(anything)
def test_whatever_the_text_it_is_a_url_or_a_value_error(function: Callable[[str], object], text: str) -> None:
    assert type(refusal(function, text)) in (type(None), ValueError)  # a UnicodeError would carry the whole text


def refusal(function: Callable[[str], object], text: str) -> ValueError | None:
    try:
        function(text)
    except ValueError as error:
        return error
    return None


@pytest.mark.parametrize("function", TOTAL)
@pytest.mark.parametrize("piece", ["a", ".", "@", "a.", "ü.", "/..", "[", ":", "%41", "?#", "//", "1."], ids=repr)
def test_a_long_text_takes_no_long_time(function: Callable[[str], object], piece: str) -> None:
    began = perf_counter()
    for text in (piece * 20_000, f"http://{piece * 20_000}", f"http://h/{piece * 20_000}"):
        refusal(function, text)
    assert perf_counter() - began < 1.0


SECRET_URLS = [
    f"http://me:{CANARY}@host:x/",
    f"http://{CANARY}@host:99999/",
    f"http://me:p/{CANARY}@host/",
    f"http://me:p?{CANARY}@host:x/",
    f"http://me:p#{CANARY}@/",
    f"http://me:{CANARY}/x@host",
    f"http://me:{CANARY}@@",
    f"ftp://me:{CANARY}@host/",
    f"me:{CANARY}@host/",
    f"host/?token={CANARY}",
    f"host#{CANARY}",
    f"http://host:x/?token={CANARY}",
    f"http://host:x/#{CANARY}",
    f"http://ho st/?token={CANARY}",
    f"http:\\\\me:{CANARY}@host",
    f"ftp://host/?{CANARY}",
    f"http://host:x/?mail=a@{CANARY}",
    f"http://host\ud800/?{CANARY}",
]


@pytest.mark.parametrize("function", TOTAL)
@pytest.mark.parametrize("url", SECRET_URLS, ids=ascii)
def test_no_error_shows_who_or_what_is_asked(function: Callable[[str], object], url: str) -> None:
    error = refusal(function, url)
    assert CANARY not in str(error)
    assert error is None or error.__cause__ is None
    assert error is None or error.__suppress_context__ or error.__context__ is None


LOOPBACK = [
    *("localhost", "LocalHost", "localhost.", "a.localhost", "a.b.localhost.", "127.0.0.1", "127.0.0.1."),
    *("127.255.255.254", "::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "[::FFFF:7f00:1]"),
]
NOT_LOOPBACK = [
    *("", ".", "[", "[]", "host", "localhost.evil", "notlocalhost", "localhost..", ".localhost", "a..localhost"),
    *("128.0.0.1", "127.0.0.256", "127.0.0.1.evil", "127.evil", "127.1", "2130706433", "0177.0.0.1", "0.0.0.0"),
    *("::", "::2", "::ffff:128.0.0.1", "[::1%25lo]", "[::1]:80", "localhost:80", "127.0.0.1:80", "ｌocalhost"),
    *("local\u00adhost", "localhost\x00", "localhost\n", "user@localhost", "localhost/", "10.0.0.1", "\ud800"),
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", NOT_LOOPBACK, ids=ascii)
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_loopback(host)


@given(st.text(max_size=30) | url_like)
def test_asking_for_this_machine_never_raises(host: str) -> None:
    assert is_loopback(host) in (True, False)


@pytest.mark.parametrize("url", ["http://host", "https://host:1/a?b#c", "HTTP://Host/ü", "http://me:pw@[::1]/"])
def test_a_good_url_is_returned_without_the_blanks_around_it(url: str) -> None:
    assert check_url(url, HTTP) == url
    assert check_url(f" \t{url}\r\n", HTTP) == url


@pytest.mark.parametrize("thing", [None, 1, b"http://host", ["http://host"]], ids=repr)
def test_a_url_that_is_no_text_is_a_type_error(thing: object) -> None:
    with pytest.raises(TypeError, match="base_url must be a str such as 'https://host/mcp', not"):
        check_url(thing, HTTP, "base_url")


CHECKED = {
    "api.example.com/mcp": "did you mean 'https://api.example.com/mcp'?",
    "api.example.com:8443": "did you mean 'https://api.example.com:8443'?",
    "localhost:8000/mcp": "did you mean 'http://localhost:8000/mcp'?",
    "127.0.0.1": "did you mean 'http://127.0.0.1'?",
    "[::1]:8000": "did you mean 'http://[::1]:8000'?",
    "//host/mcp": "did you mean 'https://host/mcp'?",
    "https:/host": "did you mean 'https://host'?",
    "http:host": "did you mean 'https://host'?",
    "me:pw@host": "did you mean 'https://***'?",
    "": "url '' does not begin with https:// or http://",
    "ftp://host": "url 'ftp://host' must begin with https:// or http://",
    "ws://host": "url 'ws://host' must begin with https:// or http://",
    "http://": "url 'http://' has no host",
    "http://a b/": "url 'http://a b/' holds a blank",
    "a b": "url 'a b' holds a blank",
    "http://host\\path": "holds a blank, a control character or a backslash",
    "http://host/\x1b[2J": "holds a blank, a control character or a backslash",
    "http://host:70000": "between 1 and 65535",
}


@pytest.mark.parametrize(("url", "why"), CHECKED.items(), ids=ascii)
def test_a_bad_url_is_told_with_what_to_write_instead(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        check_url(url, HTTP)


def test_a_websocket_url_is_suggested_where_one_is_wanted() -> None:
    with pytest.raises(ValueError, match="did you mean 'wss://host/'"):
        check_url("host/", ["wss", "ws"])
    with pytest.raises(ValueError, match="did you mean 'ws://localhost/'"):
        check_url("localhost/", ["wss", "ws"])
    with pytest.raises(ValueError, match="did you mean 'https://localhost/'"):
        check_url("localhost/", ["https"])


WITHOUT_USERINFO = {
    "http://host": ("http://host", None, None),
    "http://host/a?b=c@d": ("http://host/a?b=c@d", None, None),
    "http://host/a?b#c": ("http://host/a?b", None, None),
    "http://me@host:80/": ("http://host:80/", "me", None),
    "http://me:pw@host#x": ("http://host", "me", "pw"),
    "http://:pw@host": ("http://host", "", "pw"),
    "http://me:@host": ("http://host", "me", ""),
    "http://@host": ("http://host", "", None),
    "http://me:a:b@host": ("http://host", "me", "a:b"),
    "http://me:p@ss@host": ("http://host", "me", "p@ss"),
    "http://a%40b:%C3%BC%25@[::1]:1": ("http://[::1]:1", "a@b", "ü%"),
    "http://a%ff%zz@host": ("http://host", "a\ufffd%zz", None),
}


@pytest.mark.parametrize(("url", "parts"), WITHOUT_USERINFO.items(), ids=WITHOUT_USERINFO)
def test_who_asks_is_taken_out_of_a_url(url: str, parts: tuple[str, str | None, str | None]) -> None:
    assert without_userinfo(url) == parts


JOINED = [
    ("http://h/a", "/mcp", "http://h/a/mcp"),
    ("http://h/a/", "/mcp", "http://h/a/mcp"),
    ("http://h/a/", "mcp", "http://h/a/mcp"),
    ("http://h", "mcp", "http://h/mcp"),
    ("http://h/", "/mcp/", "http://h/mcp/"),
    ("http://h/a", "", "http://h/a"),
    ("http://localhost:1", "", "http://localhost:1"),
    ("http://h/a?x=1#y", "", "http://h/a?x=1#y"),
    ("http://h/a", "/", "http://h/a/"),
    ("http://h/a?key=1", "/mcp", "http://h/a/mcp?key=1"),
    ("http://h?key=1", "mcp?v=2", "http://h/mcp?v=2&key=1"),
    ("http://h/a", "?v=2", "http://h/a?v=2"),
    ("http://h?", "/mcp", "http://h/mcp"),
    ("http://h/a#f", "/mcp", "http://h/a/mcp"),
    ("http://me:pw@h", "/mcp", "http://me:pw@h/mcp"),
    ("http://h", "//evil/x", "http://h/evil/x"),
    ("http://h", "@evil", "http://h/@evil"),
    ("http://h", ":80", "http://h/:80"),
    ("http://h", ".evil", "http://h/.evil"),
    ("http://h", "mcp?next=http://x/", "http://h/mcp?next=http://x/"),
]


@pytest.mark.parametrize(("base", "path", "joined"), JOINED, ids=str)
def test_an_endpoint_is_below_its_base(base: str, path: str, joined: str) -> None:
    assert join_url(base, path) == joined


@pytest.mark.parametrize("path", ["http://evil/", "/a b", "/a\\b", "/a\r\nb", "/a#b"], ids=repr)
def test_an_endpoint_that_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="endpoint_path must be a path such as '/mcp', not"):
        join_url("http://h/", path)


@given(triples, ends, st.text(max_size=20) | url_like)
def test_joining_never_leaves_the_server(triple: tuple[str, str, int | None], end: str, path: str) -> None:
    base = written(triple, "", end)
    try:
        joined = join_url(base, path)
    except ValueError:
        return
    assert same_origin(base, joined)


RFC_3986_5_4 = {
    "g": "http://a/b/c/g",
    "./g": "http://a/b/c/g",
    "g/": "http://a/b/c/g/",
    "/g": "http://a/g",
    "//g": "http://g",
    "?y": "http://a/b/c/d;p?y",
    "g?y": "http://a/b/c/g?y",
    "#s": "http://a/b/c/d;p?q#s",
    "g#s": "http://a/b/c/g#s",
    "g?y#s": "http://a/b/c/g?y#s",
    ";x": "http://a/b/c/;x",
    "g;x": "http://a/b/c/g;x",
    "g;x?y#s": "http://a/b/c/g;x?y#s",
    "": "http://a/b/c/d;p?q",
    ".": "http://a/b/c/",
    "./": "http://a/b/c/",
    "..": "http://a/b/",
    "../": "http://a/b/",
    "../g": "http://a/b/g",
    "../..": "http://a/",
    "../../": "http://a/",
    "../../g": "http://a/g",
    "../../../g": "http://a/g",
    "../../../../g": "http://a/g",
    "/./g": "http://a/g",
    "/../g": "http://a/g",
    "g.": "http://a/b/c/g.",
    ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..",
    "..g": "http://a/b/c/..g",
    "./../g": "http://a/b/g",
    "./g/.": "http://a/b/c/g/",
    "g/./h": "http://a/b/c/g/h",
    "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y",
    "g;x=1/../y": "http://a/b/c/y",
    "g?y/./x": "http://a/b/c/g?y/./x",
    "g?y/../x": "http://a/b/c/g?y/../x",
    "g#s/./x": "http://a/b/c/g#s/./x",
    "g#s/../x": "http://a/b/c/g#s/../x",
}


@pytest.mark.parametrize(("reference", "url"), RFC_3986_5_4.items(), ids=repr)
def test_a_reference_means_what_the_rfc_says(reference: str, url: str) -> None:
    assert resolve("http://a/b/c/d;p?q", reference) == url
    assert resolve("http://a/b/c/d;p?q", f" {reference}\n") == url


RESOLVED = [
    ("http://h", "messages?id=1", "http://h/messages?id=1"),
    ("http://h/sse", "/messages/?session_id=1", "http://h/messages/?session_id=1"),
    ("https://h/sse", "https://evil/x/../y", "https://evil/y"),
    ("https://h/sse", "//evil/x", "https://evil/x"),
    ("https://h/sse", "HTTP://evil", "HTTP://evil"),
    ("https://me:pw@h/sse", "/x", "https://me:pw@h/x"),
    ("http://h/a", "?", "http://h/a?"),
    ("http://h/a", ":x", "http://h/:x"),
    ("http://h/a", "/.//x", "http://h//x"),
    ("http://h/a/b", "/x?u=http://y:1/", "http://h/x?u=http://y:1/"),
]


@pytest.mark.parametrize(("base", "reference", "url"), RESOLVED, ids=str)
def test_a_reference_is_resolved_against_the_url_it_was_found_at(base: str, reference: str, url: str) -> None:
    assert resolve(base, reference) == url


@pytest.mark.parametrize(
    "reference",
    [
        *("ftp://h/", "javascript:alert(1)", "file:///etc/passwd", "mailto:a@b", "http:g", "a:b", "1:2"),
        *("//", "///x", "http://", "//h:x/", "//h:99999", "/a b", "/a\\b", "\\\\evil\\x", "/a\r\nX: y", "//127.1"),
    ],
    ids=repr,
)
def test_a_reference_that_leads_nowhere_is_a_value_error(reference: str) -> None:
    with pytest.raises(ValueError, match="the reference"):
        resolve("http://h/a", reference)


paths = st.lists(st.sampled_from(["a", "b", ".", "..", "c;d", "%2e", "e.f"]), max_size=6).map("/".join)


@given(paths, paths.filter(bool), st.booleans())
def test_paths_resolve_as_the_standard_library_resolves_them(base: str, reference: str, absolute: bool) -> None:
    path = f"/{reference}" if absolute else reference
    assert resolve(f"http://h/{base}", path) == urljoin(f"http://h/{base}", path)


@given(triples, st.text(st.sampled_from(list("abc./?#:@[]%")), max_size=20))
def test_only_a_reference_that_names_a_server_leads_to_another(
    triple: tuple[str, str, int | None], reference: str
) -> None:
    base = written(triple, "", "/a")
    try:
        found = resolve(base, reference)
    except ValueError:
        return
    assert reference.startswith("//") or same_origin(base, found)


def test_what_is_meant_for_home_goes_home_and_where_it_is_allowed() -> None:
    home, extra = "https://home/mcp", ["https://cdn.example", "nonsense"]
    assert allowed("https://HOME:443/other", home)
    assert allowed("https://cdn.example/x", home, extra)
    assert not allowed("https://cdn.example/x", home)
    assert not allowed("http://home/mcp", home, extra)
    assert not allowed("https://home.evil/", home, extra)
    assert not allowed("nonsense", home, extra)
