"""Which Host and Origin a server lets in: as users set it, and with the environment that a real WSGI server makes."""

from __future__ import annotations

import dataclasses
import http.client
import pickle
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sync.protocol.admission import Refusal
from mcp_sync.server.security import TransportSecuritySettings

LOCAL = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8000", "SERVER_PROTOCOL": "HTTP/1.1"}


def checked(settings: TransportSecuritySettings | None = None, **environ: Any) -> int | None:
    found = (settings or TransportSecuritySettings()).check({**LOCAL, **environ})
    return found.status if found else None


# -- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_values() -> None:
    one = TransportSecuritySettings(None, ["example.com"], ("https://example.com",))
    assert one == TransportSecuritySettings(allowed_hosts=("example.com",), allowed_origins=["https://example.com"])
    assert hash(one) == hash(pickle.loads(pickle.dumps(one)))
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == (
        "TransportSecuritySettings(enable_dns_rebinding_protection=None, allowed_hosts=('example.com',), "
        "allowed_origins=('https://example.com',))"
    )
    assert dataclasses.replace(one, allowed_hosts=[]).allowed_hosts == ()


def test_a_list_that_changes_later_changes_nothing() -> None:
    hosts = ["example.com"]
    settings = TransportSecuritySettings(allowed_hosts=hosts)
    hosts.append("evil.com")
    assert checked(settings, HTTP_HOST="evil.com") == 421


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"allowed_hosts": "example.com"}, r"allowed_hosts must be a list such as \['example.com'\], not str"),
        ({"allowed_hosts": b"example.com"}, "allowed_hosts must be a list .* not bytes"),
        ({"allowed_hosts": None}, "allowed_hosts must be a list .* not NoneType"),
        ({"allowed_hosts": {"example.com": 1}}, "allowed_hosts must be a list .* not dict"),
        ({"allowed_hosts": ["a", 5]}, r"allowed_hosts must hold str such as 'example.com', not int \(5\)"),
        ({"allowed_origins": "*"}, r"allowed_origins must be a list such as \['https://example.com'\], not str"),
        ({"allowed_origins": [None]}, r"allowed_origins must hold str .* not NoneType \(None\)"),
        ({"enable_dns_rebinding_protection": "no"}, "enable_dns_rebinding_protection must be True or False, not str"),
        ({"enable_dns_rebinding_protection": 1}, "enable_dns_rebinding_protection must be True or False, not int"),
    ],
)
def test_what_is_of_the_wrong_type_is_refused_by_name(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        TransportSecuritySettings(**given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"allowed_hosts": ["a", "https://b"]},
            "allowed_hosts: 'https://b' is an origin, not a host: write 'example.com'",
        ),
        ({"allowed_hosts": ["a b"]}, "allowed_hosts: 'a b' is no host: write"),
        ({"allowed_hosts": ["x" * 999]}, "allowed_hosts: 'x{79} is no host"),
        (
            {"allowed_origins": ["example.com"]},
            "allowed_origins: 'example.com' is no origin: write 'https://example.com'",
        ),
        ({"allowed_origins": ["https://a/"]}, "allowed_origins: 'https://a/' has a path, .* write 'https://a'"),
        ({"allowed_origins": ["null"]}, r"allowed_origins: 'null' is what any page can make itself: write '\*'"),
    ],
)
def test_an_entry_that_means_nothing_is_refused_by_name(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        TransportSecuritySettings(**given)


# -- check ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "", None])
def test_T1_without_settings_a_server_of_this_machine_is_protected(peer: str | None) -> None:
    assert checked(REMOTE_ADDR=peer) is None
    assert checked(REMOTE_ADDR=peer, HTTP_ORIGIN="http://localhost:6274") is None
    assert checked(REMOTE_ADDR=peer, HTTP_HOST="evil.example.com") == 421
    assert checked(REMOTE_ADDR=peer, HTTP_HOST="evil.example.com", HTTP_ORIGIN="http://evil.example.com") == 421
    assert checked(REMOTE_ADDR=peer, HTTP_ORIGIN="http://evil.example.com") == 403
    assert checked(REMOTE_ADDR=peer, HTTP_ORIGIN="null") == 403
    assert checked(REMOTE_ADDR=peer, HTTP_HOST=None) == 400


def test_without_settings_others_are_asked_for_their_origin_only() -> None:
    public = {"REMOTE_ADDR": "203.0.113.9", "HTTP_HOST": "mcp.example.com"}
    assert checked(**public) is None
    assert checked(**public, HTTP_ORIGIN="https://mcp.example.com") is None
    assert checked(**public, HTTP_ORIGIN="https://evil.com") == 403
    assert checked(**public, HTTP_ORIGIN="http://localhost:6274") == 403


def test_True_asks_everybody_for_the_host() -> None:
    settings = TransportSecuritySettings(True, ["mcp.example.com"])
    for peer in ("127.0.0.1", "203.0.113.9", ""):
        assert checked(settings, REMOTE_ADDR=peer, HTTP_HOST="mcp.example.com") is None
        assert checked(settings, REMOTE_ADDR=peer, HTTP_HOST="localhost") is None
        assert checked(settings, REMOTE_ADDR=peer, HTTP_HOST="evil.com") == 421


def test_False_asks_nobody_for_anything() -> None:
    settings = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    assert checked(settings, HTTP_HOST="evil.com", HTTP_ORIGIN="http://evil.com") is None
    assert checked(settings, HTTP_HOST=None, HTTP_ORIGIN="\x00") is None
    assert settings.check({}) is None


def test_behind_a_proxy_on_this_machine_the_public_name_is_allowed_by_name() -> None:
    proxied = {"HTTP_HOST": "mcp.example.com", "HTTP_X_FORWARDED_HOST": "localhost", "HTTP_X_FORWARDED_FOR": "1.2.3.4"}
    assert checked(**proxied) == 421
    settings = TransportSecuritySettings(allowed_hosts=["mcp.example.com"])
    assert checked(settings, **proxied) is None
    assert checked(settings, **proxied, HTTP_ORIGIN="https://mcp.example.com") is None
    assert checked(settings, **proxied, HTTP_ORIGIN="https://app.example.com") == 403
    settings = TransportSecuritySettings(None, ["mcp.example.com"], ["https://app.example.com"])
    assert checked(settings, **proxied, HTTP_ORIGIN="https://app.example.com") is None


def test_a_forwarded_host_lets_nobody_in() -> None:
    assert checked(HTTP_HOST="evil.com", HTTP_X_FORWARDED_HOST="localhost", HTTP_FORWARDED="host=localhost") == 421


@given(st.dictionaries(st.sampled_from([*LOCAL, "HTTP_ORIGIN"]), st.text(max_size=30) | st.integers() | st.none()))
def test_whatever_the_environment_is_it_is_decided(environ: dict[str, Any]) -> None:
    for settings in (TransportSecuritySettings(), TransportSecuritySettings(True, ["*.a.com"], ["https://*.a.com"])):
        found = settings.check(environ)
        assert found is None or isinstance(found, Refusal)


# -- a real server ----------------------------------------------------------------------------------------------------


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


class OverIPv6(WSGIServer):
    address_family = socket.AF_INET6


Ask = Callable[[list[tuple[str, str]]], int]


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    found = TransportSecuritySettings().check(environ)
    start_response(f"{found.status if found else 200} -", [("Content-Type", "text/plain")])
    return [b""]


@pytest.fixture(params=["127.0.0.1", "::1"])
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Ask a server on this machine with headers that are sent as they are."""
    try:
        server = make_server(request.param, 0, app, OverIPv6 if ":" in request.param else WSGIServer, Quiet)
    except OSError:
        pytest.skip("there is no IPv6 here")
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()

    def send(headers: list[tuple[str, str]]) -> int:
        with closing(http.client.HTTPConnection(request.param, server.server_port, timeout=10)) as connection:
            connection.putrequest("POST", "/", skip_host=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            return connection.getresponse().status

    try:
        yield send
    finally:
        server.shutdown()
        serving.join(10)
        server.server_close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Host", "localhost:3001")], 200),
        ([("Host", "127.0.0.1")], 200),
        ([("Host", "[::1]:3001")], 200),
        ([("host", "localhost:3001"), ("ORIGIN", "http://localhost:3001")], 200),
        ([("Host", "evil.example.com"), ("Origin", "http://evil.example.com")], 421),
        ([("Host", "localhost:3001"), ("Origin", "http://evil.example.com")], 403),
        ([("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "http://evil.example.com")], 403),
        ([("Host", "localhost"), ("Host", "evil.example.com")], 400),
        ([("Host", "evil.example.com"), ("X-Forwarded-Host", "localhost")], 421),
        ([("Host", "")], 400),
        ([], 400),
    ],
)
def test_T1_over_a_socket(ask: Ask, headers: list[tuple[str, str]], status: int) -> None:
    assert ask(headers) == status
