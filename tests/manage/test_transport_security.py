"""URLs of others are looked at before anybody goes there; TLS has no compromises; logs have no secrets."""

from __future__ import annotations

import io
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.http_server import Server
from faults.http_tls import authority_file
from faults.tools import PATIENCE, within
from hypothesis import given
from hypothesis import strategies as st

from mcp_sync import (
    Client,
    HTTPStatusError,
    MCPConnectionError,
    MCPTimeoutError,
    RedactingFilter,
    StreamableHTTPTransport,
    TransportSecurity,
)
from mcp_sync.manage.security import redact_text
from mcp_sync.protocol.addresses import LOOPBACK, NEVER, PRIVATE, danger_of_address, disguise_of

validate = TransportSecurity.validate_url

# -- URLs that pass ---------------------------------------------------------------------------------------------------

PASS = {
    "https://example.com/mcp": "https://example.com/mcp",
    "HTTPS://Example.COM:443/mcp?x=1#part": "https://example.com/mcp?x=1",
    "https://example.com": "https://example.com/",
    "https://example.com?x=1": "https://example.com/?x=1",
    "https://example.com./mcp": "https://example.com/mcp",
    "wss://example.com:8443/mcp": "wss://example.com:8443/mcp",
    "https://8.8.8.8/mcp": "https://8.8.8.8/mcp",
    "https://[2606:4700::1111]/mcp": "https://[2606:4700::1111]/mcp",
    "https://b\u00fccher.de/mcp": "https://xn--bcher-kva.de/mcp",
    "https://\u4f8b\u3048.jp/mcp": "https://xn--r8jz45g.jp/mcp",
    "https://\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444/": "https://xn--e1afmkfd.xn--p1ai/",
    "https://\ud55c\uad6d.kr/": "https://xn--3e0b707e.kr/",
    "  https://example.com/mcp\n": "https://example.com/mcp",
}


@pytest.mark.parametrize("url", PASS)
def test_a_url_of_the_internet_passes_in_its_usual_form(url: str) -> None:
    assert validate(url) == PASS[url]
    assert validate(PASS[url]) == PASS[url]


# -- URLs that do not -------------------------------------------------------------------------------------------------

REFUSED = {
    # schemes
    "http://example.com/": "not encrypted",
    "ws://example.com/": "not encrypted",
    "ftp://example.com/": "https://",
    "file:///etc/passwd": "https://",
    "javascript:alert(1)": "https://",
    "example.com": "did you mean",
    "": "does not begin",
    # who asks, and where one might think it goes
    "https://user:pass@example.com/": "user name or a password",
    "https://user@example.com/": "user name or a password",
    "https://@example.com/": "user name or a password",
    "https://good.example@evil.example/": "user name or a password",
    "https://evil.example\\@good.example/": "backslash",
    "https://good.example%40evil.example/": "no name",
    "https://good.example\t.evil.example/": "control character",
    "https://good.example /": "blank",
    # this machine
    "https://localhost/": "this machine",
    "https://LOCALHOST./": "this machine",
    "https://a.b.localhost/": "this machine",
    "https://127.0.0.1/": "this machine",
    "https://127.1.2.3./": "this machine",
    "https://[::1]/": "this machine",
    "https://[::ffff:127.0.0.1]/": "stands for 127.0.0.1",
    "https://[::ffff:7f00:1]/": "stands for 127.0.0.1",
    "https://[::127.0.0.1]/": "stands for 127.0.0.1",
    "https://[64:ff9b::7f00:1]/": "stands for 127.0.0.1",
    "https://[64:ff9b:1::808:808]/": "nowhere on the Internet",
    "https://[64:ff9b:1:7f00:0:100:808:808]/": "nowhere on the Internet",
    "https://[3fff::1]/": "nowhere on the Internet",
    "https://192.0.0.8/": "nowhere on the Internet",
    "https://kubernetes.default.svc/": "in one network only",
    "https://web.service.consul/": "in one network only",
    "https://[2002:7f00:1::]/": "stands for 127.0.0.1",
    "https://0.0.0.0/": "no address to connect to",
    "https://[::]/": "no address to connect to",
    # as one number, in octal, hexadecimal, or with parts left out
    "https://2130706433/": "no IPv4 address of four decimal numbers",
    "https://0x7f000001/": "no IPv4 address of four decimal numbers",
    "https://017700000001/": "no IPv4 address of four decimal numbers",
    "https://0177.0.0.1/": "no IPv4 address of four decimal numbers",
    "https://0x7f.0.0.1/": "no IPv4 address of four decimal numbers",
    "https://127.1/": "no IPv4 address of four decimal numbers",
    "https://127.0.0.1../": "no name",
    "https://\u2460\u2461\u2466.0.0.1/": "two different names",
    "https://169\u3002254\u3002169\u3002254/": "two different names",
    # private, link-local, and where clouds tell credentials
    "https://10.0.0.1/": "private network",
    "https://172.16.0.1/": "private network",
    "https://192.168.1.1/": "private network",
    "https://100.64.0.1/": "provider",
    "https://[fc00::1]/": "private network",
    "https://[fec0::1]/": "private network",
    "https://169.254.1.1/": "link-local",
    "https://[fe80::1]/": "link-local",
    "https://[fe80::1%25eth0]/": "zone",
    "https://169.254.169.254/latest/meta-data/": "credentials",
    "https://[::ffff:169.254.169.254]/": "credentials",
    "https://[::ffff:a9fe:a9fe]/": "credentials",
    "https://[fd00:ec2::254]/": "credentials",
    "https://100.100.100.200/": "credentials",
    "https://metadata.google.internal/": "credentials",
    "https://Metadata/": "credentials",
    "https://224.0.0.1/": "group",
    "https://255.255.255.255/": "reserved",
    "https://240.0.0.1/": "reserved",
    "https://router/": "no dot",
    "https://printer.local/": "one network only",
    "https://db.internal/": "one network only",
    "https://nas.home.arpa/": "one network only",
    # names that look like others
    "https://\u0430pple.com/": "mixes scripts: cyrillic, latin",
    "https://xn--pple-43d.com/": "mixes scripts: cyrillic, latin",
    "https://\u0430\u0440\u0440\u04cf\u0435.com/": "cyrillic letters that look like latin",
    "https://xn--80ak6aa92e.com/": "cyrillic letters that look like latin",
    "https://g\u03bf\u03bfgle.com/": "mixes scripts: greek, latin",
    "https://xn--a.com/": "xn--a",
    "https://xn--example-.com/": "needs no encoding",
    "https://xn--\x7f.com/": "control character",
    "https://ab--cd.com/": "hyphens",
    "https://\uff45xample.com/": "two different names",
    "https://exam\u200bple.com/": "two different names",
    "https://example\u2044path.com/": "has characters that are no letters",
}


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_leads_where_it_should_not_is_refused_with_the_reason(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[url])) as found:
        validate(url)
    assert "pass@" not in str(found.value)


@pytest.mark.parametrize("url", [7, None, b"https://example.com/"])
def test_what_is_no_str_is_refused(url: Any) -> None:
    with pytest.raises(TypeError, match="url must be a str"):
        validate(url)


def test_what_is_allowed_is_allowed_and_nothing_else() -> None:
    assert validate("http://localhost:8000/mcp", allow_loopback=True) == "http://localhost:8000/mcp"
    assert validate("http://127.0.0.1:8000/mcp", allow_loopback=True) == "http://127.0.0.1:8000/mcp"
    assert validate("ws://[::1]:8000/", allow_loopback=True) == "ws://[::1]:8000/"
    assert validate("https://10.1.2.3/", allow_private=True) == "https://10.1.2.3/"
    assert validate("https://[::ffff:10.1.2.3]/", allow_private=True)
    assert validate("https://db.internal/", allow_private=True) == "https://db.internal/"
    for refused, about in (
        ("http://10.1.2.3/", {"allow_private": True}),
        ("https://127.0.0.1/", {"allow_private": True}),
        ("https://10.1.2.3/", {"allow_loopback": True}),
        ("http://example.com/", {"allow_loopback": True, "allow_private": True}),
        ("https://169.254.169.254/", {"allow_loopback": True, "allow_private": True}),
        ("https://metadata.google.internal/", {"allow_loopback": True, "allow_private": True}),
        ("https://0.0.0.0/", {"allow_loopback": True, "allow_private": True}),
    ):
        with pytest.raises(ValueError, match="must not be asked"):
            validate(refused, **about)
    with pytest.raises(TypeError, match="allow_private"):
        validate("https://example.com/", allow_private="yes")  # type: ignore[arg-type]


@given(st.ip_addresses())
def test_every_address_of_the_special_registries_is_dangerous(address: Any) -> None:
    danger, why = danger_of_address(str(address))
    assert bool(danger) == bool(why)
    assert danger in ("", LOOPBACK, PRIVATE, NEVER)
    if not danger:
        assert address.is_global or getattr(address, "sixtofour", None)  # what 6to4 leads to is looked at by itself
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_as_dangerous_in_ipv6(address: Any) -> None:
    plain, _ = danger_of_address(str(address))
    for wrapped in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert danger_of_address(wrapped)[0] == plain


@given(st.text(max_size=30), st.text(alphabet="abcxyz-.0123456789", max_size=30))
def test_whatever_a_name_is_the_answer_is_a_reason_or_none(text: str, name: str) -> None:
    assert isinstance(disguise_of(f"xn--{name}.com"), str)
    try:
        validate(f"https://{text}/")
    except ValueError:
        pass


# -- names that are looked up -----------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """The addresses of some names, as a resolver would tell them."""
    known: dict[str, list[str]] = {}
    hanging = threading.Event()

    def getaddrinfo(host: str, port: int, **about: Any) -> list[Any]:
        if host == "slow.example":
            hanging.wait(PATIENCE)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield known
    hanging.set()


def test_a_name_is_looked_up_only_if_asked_and_every_address_has_to_pass(names: dict[str, list[str]]) -> None:
    names["fine.example"] = ["8.8.8.8", "2606:4700::1111"]
    names["mixed.example"] = ["8.8.8.8", "10.0.0.1"]
    names["rebinding.example"] = ["169.254.169.254"]
    names["mine.example"] = ["127.0.0.1", "fe80::1%eth0"]
    assert validate("https://rebinding.example/") == "https://rebinding.example/"
    assert validate("https://fine.example/", resolve=True) == "https://fine.example/"
    with pytest.raises(ValueError, match=r"leads to 10\.0\.0\.1, which is in a private network"):
        validate("https://mixed.example/", resolve=True)
    assert validate("https://mixed.example/", resolve=True, allow_private=True)
    for name in ("rebinding", "mine"):
        with pytest.raises(ValueError, match="leads to"):
            validate(f"https://{name}.example/", resolve=True, allow_private=True, allow_loopback=True)
    assert validate("https://8.8.8.8/", resolve=True)  # nobody is asked


def test_a_name_that_nobody_knows_is_an_error(names: dict[str, list[str]]) -> None:
    with pytest.raises(MCPConnectionError, match=r"nobody\.example is not known"):
        validate("https://nobody.example/", resolve=True)


def test_a_resolver_that_hangs_is_waited_for_no_longer_than_the_timeout(names: dict[str, list[str]]) -> None:
    """I1."""
    with within(0.3), pytest.raises(MCPTimeoutError, match="looking up"):
        validate("https://slow.example/", resolve=True, timeout=0.2)


# -- TLS --------------------------------------------------------------------------------------------------------------


def test_the_context_is_strict(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    context = TransportSecurity.create_secure_ssl_context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.keylog_filename is None
    assert context.cert_store_stats()["x509_ca"] > 50
    weak = [one["name"] for one in context.get_ciphers() if not one["aead"] or "RSA-AES" in one["name"][:7]]
    assert weak == []
    with pytest.raises(FileNotFoundError):
        TransportSecurity.create_secure_ssl_context(tmp_path / "missing")


def test_a_real_connection_is_made_with_the_right_authority_only(tmp_path: Path) -> None:
    with Server("stateless", tls=True) as server:
        right = TransportSecurity.create_secure_ssl_context(authority_file(tmp_path))
        with Client(StreamableHTTPTransport(server.url, ssl_context=right, timeout=PATIENCE)) as client:
            assert client.list_tools()
        wrong = TransportSecurity.create_secure_ssl_context()
        client = Client(StreamableHTTPTransport(server.url, ssl_context=wrong, timeout=PATIENCE))
        with pytest.raises((MCPConnectionError, HTTPStatusError), match="certificate"):
            client.connect()
        client.close()


# -- logs -------------------------------------------------------------------------------------------------------------

CANARY = "c4naryS3cret"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"

LINES = {
    f"Authorization: Bearer {CANARY}": "Authorization: ***",
    f"GET https://user:{CANARY}@h/p?q={CANARY}#x": "GET https://h/p?***#***",
    f"{{'Authorization': 'Basic {CANARY}', 'Accept': 'a/b'}}": "{'Authorization': '***', 'Accept': 'a/b'}",
    f'{{"password": "{CANARY}", "user": "ann"}}': '{"password": "***", "user": "ann"}',
    f"token={CANARY}&user=ann": "token=***&user=ann",
    f"API_KEY={CANARY} LANG=C": "API_KEY=*** LANG=C",
    f"cookie: a={CANARY}; b={CANARY}": "cookie: ***",
    f"Mcp-Session-Id: {CANARY}": "Mcp-Session-Id: ***",
    f"used bearer {CANARY} for it": "used bearer *** for it",
    f"got {JWT} back": "got *** back",
    f"npx server --api-key {CANARY} --verbose": "npx server --api-key *** --verbose",
    f"['npx', '--token', '{CANARY}', 'x']": "['npx', '--token', '***', 'x']",
    f"token => {CANARY}": "token => ***",
    f"mcp_session_id={CANARY}": "mcp_session_id=***",
    f"key sk-ant-{CANARY * 2} is used": "key *** is used",
    f"with ghp_{'a1B2c3' * 6}": "with ***",
    "npx server --token --verbose --port 8000": "npx server --token --verbose --port 8000",
    "the task-force of sk-learn, risk-free": "the task-force of sk-learn, risk-free",
    "nothing to hide: 3 tools, 0.8 ms": "nothing to hide: 3 tools, 0.8 ms",
    "> tools/call #7 (python server.py)": "> tools/call #7 (python server.py)",
}


@pytest.mark.parametrize("line", LINES)
def test_what_usually_is_a_secret_is_masked_and_nothing_else(line: str) -> None:
    assert redact_text(line) == LINES[line]
    assert redact_text(LINES[line]) == LINES[line]


@pytest.fixture
def heard() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger below ``mcp_sync``, and what its parent's handler writes."""
    stream, parent = io.StringIO(), logging.getLogger("mcp_sync")
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter(["own-s3cret"]))
    parent.addHandler(handler)
    yield logging.getLogger("mcp_sync.test"), stream
    parent.removeHandler(handler)


def test_a_record_is_without_secrets_in_its_text_exception_and_stack(
    heard: tuple[logging.Logger, io.StringIO],
) -> None:
    """I12."""
    logger, stream = heard
    try:
        raise ValueError(f"token={CANARY}")
    except ValueError:
        logger.exception("with %s and %s", f"password={CANARY}", "own-s3cret", stack_info=True)
    logger.warning("url %s", f"https://u:{CANARY}@h/")
    logger.error("does not fit %s %s", "one")
    text = stream.getvalue()
    assert CANARY not in text
    assert "own-s3cret" not in text
    assert "ValueError: token=***" in text
    assert "does not fit" in text
    assert "Stack (most recent call last)" in text


def test_a_filter_shows_no_secret_of_its_own_and_wants_a_list() -> None:
    assert "own" not in repr(RedactingFilter(["own-s3cret"]))
    with pytest.raises(TypeError, match="list"):
        RedactingFilter("own-s3cret")


@pytest.mark.parametrize(
    "unit", ["a", "a=", "-eyJ", "'", 'a="', "token='", "://", "bearer ", "cookie:", "a: ", "\\", "x.", '"\\"']
)
def test_long_lines_take_linear_time(unit: str) -> None:
    def takes(size: int) -> float:
        text = unit * (size // len(unit))
        begun = time.process_time()
        redact_text(text)
        return time.process_time() - begun

    takes(1000)
    assert takes(200_000) < 1.0


@given(st.text(max_size=200))
def test_redacting_never_fails_and_is_stable(text: str) -> None:
    once = redact_text(text)
    assert len(redact_text(once)) <= len(once) + 12
