"""Under which names a server lets itself be reached, and which pages may talk to it (T1, traps 47 and D14)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_sync.protocol.admission import Refusal
from mcp_sync.protocol.hosts import ANYWHERE, Doors, Place, host_and_origin_flaw, host_place, origin_place
from mcp_sync.protocol.messages import INVALID_REQUEST

NEAR = ["127.0.0.1", "127.8.9.10", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "", None, "localhost", "<local>"]
FAR = ["10.0.0.7", "172.17.0.1", "203.0.113.9", "2001:db8::7", "::ffff:10.0.0.7", "fe80::1%eth0", "fe80::1"]
UNCERTAIN = ["unix:/run/app.sock", "127.0.0.1:5000", "evil.example.com", "127.1", "0x7f.1", "\x00"]
LOOPBACK = [
    *("localhost", "localhost:8000", "LocalHost:1", "localhost.", "app.localhost:8000", "127.0.0.1", "127.0.0.1:8000"),
    *("127.1.2.3:65535", "[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]:8000", "[::ffff:127.0.0.1]:80", "localhost:"),
]
FOREIGN = [
    *(
        "evil.example.com",
        "evil.example.com:8000",
        "localhost.evil.com",
        "localhost.evil.com:8000",
        "127.0.0.1.evil.com",
    ),
    *("notlocalhost", "localhost-evil.com", "10.0.0.7", "[2001:db8::7]:8000", "[::]", "0.0.0.0", "128.0.0.1"),
    *("xn--lcalhost-90a.com", "evil.com.", "app.localhost.evil"),
]
SENSELESS = [
    *("", " ", "localhost@evil.com", "evil.com@localhost", "user:pw@localhost", "localhost/", "localhost/path", "a b"),
    *("localhost,evil.com", "localhost, localhost", "localhost:8000,localhost:8000", "http://localhost", "localhost#x"),
    *("localhost?x", "localhost\\evil.com", "localhost:x", "localhost:99999", "localhost:0", "localhost:-1", ":8000"),
    *(
        "localhost:80:80",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1%eth0]",
        "[fe80::1%25eth0]",
        "[localhost]",
        "localhost..",
    ),
    *(".localhost", "127.1", "0177.0.0.1", "0x7f000001", "2130706433", "127.0.0.256", "lоcalhost", "b\xfccher.example"),
    *("local\x00host", "localhost\n", "\x1blocalhost", "lo%63alhost", "*", "*.example.com", "x" * 300, "a." * 200),
]


def flaw(
    host: str | None, origin: str | None = None, peer: str | None = "127.0.0.1", doors: Doors | None = None
) -> int | None:
    """Return the status of the refusal, or None."""
    found = host_and_origin_flaw(host, origin, peer, doors or Doors())
    return found.status if found else None


def let_in(hosts: list[str] | None = None, origins: list[str] | None = None) -> Doors:
    return Doors(tuple(map(host_place, hosts or [])), tuple(map(origin_place, origins or [])))


EVERYWHERE = Doors(everywhere=True)


# -- Host -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", LOOPBACK)
def test_T1_from_this_machine_every_loopback_name_is_let_in(host: str) -> None:
    assert [flaw(host, peer=peer) for peer in NEAR] == [None] * len(NEAR)


@pytest.mark.parametrize("host", FOREIGN)
def test_T1_from_this_machine_no_other_name_is(host: str) -> None:
    assert {flaw(host, peer=peer) for peer in [*NEAR, *UNCERTAIN]} == {421}


@pytest.mark.parametrize("host", [*LOOPBACK, *FOREIGN])
def test_from_elsewhere_every_name_is_let_in(host: str) -> None:
    assert {flaw(host, peer=peer) for peer in FAR} == {None}


@pytest.mark.parametrize("peer", [*NEAR, *FAR, *UNCERTAIN])
def test_where_names_are_looked_at_everywhere_only_loopback_names_and_the_allowed_are(peer: str | None) -> None:
    assert {flaw(host, peer=peer, doors=EVERYWHERE) for host in LOOPBACK} == {None}
    assert {flaw(host, peer=peer, doors=EVERYWHERE) for host in FOREIGN} == {421}
    doors = Doors((host_place("evil.example.com"),), everywhere=True)
    assert flaw("evil.example.com:1", peer=peer, doors=doors) is None


@pytest.mark.parametrize("host", [None, *SENSELESS])
def test_a_host_that_is_missing_repeated_or_senseless_is_400_wherever_it_comes_from(host: str | None) -> None:
    doors = let_in(["*"], ["*"])
    assert {flaw(host, peer=peer, doors=doors) for peer in ["127.0.0.1", "10.0.0.7"]} == {400}


ALLOWED_HOSTS: list[tuple[str, list[str], list[str]]] = [
    (
        "example.com",
        ["example.com", "example.com:8443", "EXAMPLE.com", "example.com.", "example.com:80"],
        ["www.example.com", "example.com.evil", "evilexample.com", "example.org"],
    ),
    ("Example.COM:*", ["example.com", "example.com:1"], ["a.example.com"]),
    ("example.com:8443", ["example.com:8443"], ["example.com", "example.com:443", "example.com:844"]),
    ("example.com:443", ["example.com", "example.com:443"], ["example.com:80", "example.com:8443"]),
    (
        "*.example.com",
        ["a.example.com", "a.b.example.com:9", "xn--bcher-kva.example.com"],
        ["example.com", "aexample.com", "a.example.com.evil"],
    ),
    ("*.example.com:8443", ["a.example.com:8443"], ["a.example.com", "example.com:8443"]),
    ("bücher.example", ["xn--bcher-kva.example:8"], ["bcher.example"]),
    ("10.0.0.7", ["10.0.0.7", "10.0.0.7:8000"], ["10.0.0.70"]),
    ("[2001:db8:0:0::7]:*", ["[2001:db8::7]", "[2001:DB8::7]:80"], ["[2001:db8::8]"]),
    ("[2001:db8::7]", ["[2001:db8::7]:80"], ["[2001:db8::8]"]),
    ("*", FOREIGN, []),
]


@pytest.mark.parametrize(("entry", "inside", "outside"), ALLOWED_HOSTS)
def test_an_allowed_host_is_let_in_and_nothing_that_looks_like_it(
    entry: str, inside: list[str], outside: list[str]
) -> None:
    doors = let_in([entry])
    assert {flaw(host, doors=doors) for host in inside} == {None}
    assert {flaw(host, doors=doors) for host in outside} <= {421}


NO_HOSTS = [
    *("", " ", "example.com ", "http://example.com", "https://example.com:1", "example.com/mcp", "user@example.com"),
    *("example.com:x", "example.com:99999", "example.com:0", "::1", "[::1", ".example.com", "*example.com", "a.*.com"),
    *("**", "*.", "*:8443", "*.*.com", "*.10.0.0.7", "*.[::1]", "a,b", "a?b", "fußball.example", "127.1", "x:*:*"),
    *("x\n", "a\\b", "example.com:8443:1", "[::1]:x", "[example.com]"),
]


@pytest.mark.parametrize("entry", NO_HOSTS)
def test_an_entry_that_is_no_host_is_told_what_to_write(entry: str) -> None:
    with pytest.raises(ValueError, match=r"write 'example\.com'"):
        host_place(entry)


# -- Origin -----------------------------------------------------------------------------------------------------------

NEVER = [
    *("null", "", " ", "localhost:8000", "http://", "http:localhost", "http:///localhost", "//localhost", "file://"),
    *("http://localhost@evil.com", "http://user:pw@localhost", "http://localhost:8000/", "http://localhost/x"),
    *("http://localhost http://localhost", "http://localhost,http://evil.com", "http://localhost, http://localhost"),
    *("http://localhost#", "http://localhost?", "http://localhost\\", "http://localhost:x", "http://localhost:99999"),
    *("http://[::1", "http://[::1%lo]", "http://::1", "http://127.1", "http://lоcalhost", "http://lo\x00calhost"),
    *("http://localhost\n", "javascript://localhost", "data://localhost", "chrome-extension://localhost"),
    *("http://*", "http://*.localhost", "ftp://localhost:8000", "http://http://localhost"),
]
FOREIGN_PAGES = [
    *("http://evil.example.com", "https://evil.example.com", "http://evil.example.com:8000", "http://localhost.evil"),
    *("http://127.0.0.1.evil.com", "http://localhost.evil.com:8000", "http://10.0.0.7:8000", "http://[2001:db8::7]"),
]


@pytest.mark.parametrize("peer", ["127.0.0.1", "", "172.17.0.1"])
@pytest.mark.parametrize("host", LOOPBACK)
def test_T1_pages_of_this_machine_may_talk_to_a_server_there_whatever_their_port(host: str, peer: str) -> None:
    pages = [f"{scheme}://{name}" for scheme in ("http", "https", "HTTP") for name in LOOPBACK]
    assert {flaw(host, page, peer) for page in pages} == {None}
    assert {flaw(host, page, peer) for page in [*NEVER, *FOREIGN_PAGES]} == {403}


def test_a_request_without_origin_is_no_page() -> None:
    assert flaw("localhost", None) is None


@pytest.mark.parametrize(
    ("host", "own", "others"),
    [
        (
            "mcp.example.com",
            [
                "http://mcp.example.com",
                "https://mcp.example.com",
                "https://MCP.example.com:443",
                "http://mcp.example.com.:80",
            ],
            [
                "https://example.com",
                "https://mcp.example.com:8443",
                "http://mcp.example.com:443",
                "https://a.example.com",
            ],
        ),
        (
            "mcp.example.com:8443",
            ["http://mcp.example.com:8443", "https://mcp.example.com:8443"],
            ["https://mcp.example.com", "https://mcp.example.com:8444"],
        ),
        ("mcp.example.com:443", ["https://mcp.example.com"], ["http://mcp.example.com"]),
        ("10.0.0.7:80", ["http://10.0.0.7"], ["https://10.0.0.7", "http://localhost", "http://127.0.0.1"]),
        ("[2001:db8::7]", ["http://[2001:db8::7]", "https://[2001:DB8:0::7]:443"], ["http://[::1]"]),
    ],
)
def test_the_servers_own_pages_may_talk_to_it_and_no_others(host: str, own: list[str], others: list[str]) -> None:
    assert {flaw(host, page, "10.0.0.9") for page in own} == {None}
    assert {flaw(host, page, "10.0.0.9") for page in [*others, *NEVER]} == {403}


ALLOWED_ORIGINS: list[tuple[str, list[str], list[str]]] = [
    (
        "https://app.example.com",
        ["https://app.example.com", "https://APP.example.com:443", "HTTPS://app.example.com."],
        [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil",
            "https://x.app.example.com",
        ],
    ),
    ("https://app.example.com:8443", ["https://app.example.com:8443"], ["https://app.example.com"]),
    ("http://app.example.com:*", ["http://app.example.com", "http://app.example.com:9"], ["https://app.example.com"]),
    (
        "https://*.example.com",
        ["https://a.example.com", "https://a.b.example.com"],
        ["https://example.com", "https://aexample.com", "http://a.example.com", "https://a.example.com:8443"],
    ),
    ("https://*.example.com:*", ["https://a.example.com:8443"], ["https://example.com:8443"]),
    ("http://localhost:6274", ["http://localhost:6274"], ["http://localhost:6275", "http://127.0.0.1:6274"]),
    ("https://bücher.example", ["https://xn--bcher-kva.example"], ["https://bücher.example"]),
    (
        "chrome-extension://abcdef",
        ["chrome-extension://abcdef", "Chrome-Extension://ABCDEF"],
        ["chrome-extension://abcde", "moz-extension://abcdef", "http://abcdef", "chrome-extension://abcdef/x"],
    ),
    ("vscode-webview://*", ["vscode-webview://0a-1", "vscode-webview://*"], ["vscode://0a", "https://vscode-webview"]),
    ("*", [*FOREIGN_PAGES, "null", "vscode-webview://x", "http://localhost"], []),
]


@pytest.mark.parametrize(("entry", "inside", "outside"), ALLOWED_ORIGINS)
def test_an_allowed_origin_is_let_in_and_nothing_that_looks_like_it(
    entry: str, inside: list[str], outside: list[str]
) -> None:
    doors = let_in(["mcp.example.com"], [entry])
    assert {flaw("mcp.example.com", page, doors=doors) for page in inside} == {None}
    assert {flaw("mcp.example.com", page, doors=doors) for page in outside} <= {403}


def test_an_allowed_origin_opens_no_door_for_a_host() -> None:
    assert flaw("evil.com", "https://app.example.com", doors=let_in([], ["https://app.example.com", "*"])) == 421


def test_an_allowed_host_opens_no_door_for_pages_of_elsewhere() -> None:
    assert flaw("mcp.example.com", "https://evil.com", doors=let_in(["mcp.example.com", "*"])) == 403


NO_ORIGINS = {
    "": "is no origin",
    "app.example.com": "with its scheme",
    "app.example.com:8443": "with its scheme",
    "https://": "is no origin",
    "https://app.example.com/": "has a path, which no origin has: write 'https://app.example.com'",
    "https://app.example.com/x": "is no origin",
    "https://user@app.example.com": "is no origin",
    "https://app.example.com?x": "is no origin",
    "https://app.example.com:x": "is no origin",
    "https://*": "is no origin",
    "https://*:8443": "is no origin",
    "https://*.10.0.0.7": "is no origin",
    " https://app.example.com": "is no origin",
    "https://app.example.com\n": "is no origin",
    "ws://app.example.com": "is no origin",
    "wss://app.example.com": "is no origin",
    "null": "what any page can make itself",
    "NULL": "what any page can make itself",
    "chrome-extension://a/b": "is no origin",
    "chrome extension://a": "is no origin",
    "*.example.com": "is no origin",
    "//app.example.com": "is no origin",
}


@pytest.mark.parametrize(("entry", "reason"), NO_ORIGINS.items())
def test_an_entry_that_is_no_origin_is_told_what_to_write(entry: str, reason: str) -> None:
    with pytest.raises(ValueError, match="write '") as raised:
        origin_place(entry)
    assert reason in str(raised.value)


# -- what is said, and whatever comes ---------------------------------------------------------------------------------


def test_a_refusal_says_how_to_allow() -> None:
    assert host_and_origin_flaw("evil.com:1", None, "", Doors()) == Refusal(
        421,
        INVALID_REQUEST,
        "Host 'evil.com:1' is not allowed here; to allow it, pass allowed_hosts=[...] to the server",
    )
    assert host_and_origin_flaw("localhost", "http://evil.com", "", Doors()) == Refusal(
        403,
        INVALID_REQUEST,
        "Origin 'http://evil.com' is not allowed here; to allow it, pass allowed_origins=[...] to the server",
    )


@pytest.mark.parametrize(
    ("host", "origin"), [("x" * 60 + "." + "y" * 60, None), ("\x1b\r\né" * 99, None), ("localhost", "é\x00" * 999)]
)
def test_a_refusal_repeats_little_and_nothing_harmful(host: str, origin: str | None) -> None:
    found = host_and_origin_flaw(host, origin, "", Doors())
    assert found is not None
    shown = found.message.split("'")[1]
    assert len(shown) <= 80
    assert all(" " <= character <= "~" for character in found.message)


names = st.sampled_from(["localhost", "127.0.0.1", "[::1]", "evil.com", "mcp.example.com", "a.example.com", "10.0.0.7"])
odd = st.text(max_size=20) | st.text("localhst.:/@[]%*,1270x\\-#?", max_size=24)
hosts = st.one_of(
    odd, names, st.builds("{}:{}".format, names, st.integers(-1, 70000)), st.builds("{}{}".format, names, odd)
)
pages = st.one_of(odd, st.builds("{}://{}".format, st.sampled_from(["http", "https", "ws", "x-y", ""]), hosts))
peers = st.none() | odd | st.sampled_from([peer for peer in [*NEAR, *FAR, *UNCERTAIN] if peer])
all_doors = st.builds(
    Doors,
    st.lists(st.sampled_from(["mcp.example.com", "*.example.com:*", "*"]), max_size=2).map(
        lambda entries: tuple(map(host_place, entries))
    ),
    st.lists(st.sampled_from(["https://a.example.com", "https://*.example.com:*", "x-y://*", "*"]), max_size=2).map(
        lambda entries: tuple(map(origin_place, entries))
    ),
    st.booleans(),
)


@given(st.none() | hosts, st.none() | pages, peers, all_doors)
@example("a:" + "1" * 5000, None, None, Doors())
@example("[" + ":" * 5000 + "]", "http://[" + "1:" * 5000 + "]", "1:" * 5000, Doors())
def test_whatever_comes_is_let_in_or_refused(
    host: str | None, origin: str | None, peer: str | None, doors: Doors
) -> None:
    found = host_and_origin_flaw(host, origin, peer, doors)
    assert found is None or found.status in (400, 403, 421)
    assert found is None or found.message.isascii()


@given(hosts)
def test_from_this_machine_nothing_is_let_in_that_does_not_begin_like_a_loopback_name(host: str) -> None:
    if flaw(host) is None:
        bare = host.lower().rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host.lower().removesuffix(":")
        bare = bare.removesuffix(".")
        assert bare in ("localhost", "[::1]") or bare.endswith(".localhost") or bare.startswith(("127.", "[")), host


@given(pages)
def test_a_page_that_is_let_in_is_on_the_same_machine(origin: str) -> None:
    if flaw("localhost:8000", origin) is None:
        assert origin.lower().startswith(("http://", "https://"))
        assert flaw(origin.partition("://")[2]) is None


def read(reader: Callable[[str], Place], entry: str) -> Place | str:
    try:
        return reader(entry)
    except ValueError as error:
        return str(error)


@given(odd | hosts)
def test_whatever_is_written_is_a_place_or_an_error_that_says_what_to_write(entry: str) -> None:
    for found in (read(host_place, entry), read(origin_place, entry)):
        assert (found == ANYWHERE) == (entry == "*")
        assert isinstance(found, Place) or "write '" in found
