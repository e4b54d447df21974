"""The client over TLS: an authority of our own, certificates that will not do, and servers that want one of ours."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from interop.authority import DAY, Authority, Certificate
from interop.proxy import Proxy, proxying

from mcp_sync import Client, MCPConnectionError, MCPError
from mcp_sync.exceptions import HTTPStatusError
from peers.running import PATIENCE, Fleet, Running, running, script

pytestmark = pytest.mark.interop

STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"
SOON = 3.0


@dataclass
class Papers:
    """Who certifies, and what was certified."""

    authority: Authority
    good: Certificate
    wrong_host: Certificate
    expired: Certificate
    client: Certificate
    stranger: Certificate

    @property
    def ca(self) -> str:
        return str(self.authority.file)


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    another = Authority(tmp_path_factory.mktemp("another"), "another")
    return Papers(
        authority=authority,
        good=authority.certify("good"),
        wrong_host=authority.certify("wrong_host", ("elsewhere.example",)),
        expired=authority.certify("expired", valid=(-2 * DAY, -DAY)),
        client=authority.certify("client", for_clients=True),
        stranger=another.certify("stranger", for_clients=True),
    )


def site(server: Running, certificate: Certificate, more: str = "") -> str:
    return f"""
    listen HERE ssl;
    ssl_certificate {certificate.certificate};
    ssl_certificate_key {certificate.key};
    {more}
    location / {{
        proxy_pass http://127.0.0.1:{server.port};
        proxy_http_version 1.1;
        proxy_set_header Connection '';
        proxy_buffering off;
    }}"""


@pytest.fixture(scope="module")
def proxy(fleet: Fleet, papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    server = fleet.server("sdk2", PEER_PAGE_SIZE="4")
    older = fleet.server("sdk1", "sse")
    sites = {
        "good": site(server, papers.good),
        "tls12": site(server, papers.good, "ssl_protocols TLSv1.2;"),
        "wrong-host": site(server, papers.wrong_host),
        "expired": site(server, papers.expired),
        "mutual": site(server, papers.good, f"ssl_verify_client on; ssl_client_certificate {papers.ca};"),
        "sse": site(older, papers.good),
        "plain": f"listen HERE; location / {{ proxy_pass http://127.0.0.1:{server.port}; }}",
    }
    with proxying(tmp_path_factory.mktemp("nginx") / "tls", sites) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def mutual(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that speaks TLS by itself, with Python's ssl, and wants a certificate of its client."""
    env = {"PEER_TLS": " ".join((*papers.good.pair, papers.ca))}
    with running(script("sdk2"), tmp_path_factory.mktemp("mutual") / "server", env) as server:
        yield server


@pytest.fixture(params=[STATELESS, HANDSHAKE], ids=["stateless", "handshake"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(url: str, **options: Any) -> Client:
    return Client(url, **{"timeout": PATIENCE, **options})


def assert_refused(client: Client, pattern: str) -> MCPConnectionError:
    """See that it is refused at once, that nothing was sent, and why."""
    __tracebackhide__ = True
    begin = time.monotonic()
    with pytest.raises(MCPConnectionError, match=pattern) as caught:
        client.connect()
    assert time.monotonic() - begin < SOON
    assert caught.value.may_have_run is False
    return caught.value


# -- who the server is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("site", ["good", "tls12"])
def test_an_authority_of_our_own_is_trusted_where_we_say_so(site: str, host: str, proxy: Proxy, papers: Papers) -> None:
    with connect(proxy.url(site, "https", host), verify_ssl=papers.ca) as client:
        assert client.protocol_version == STATELESS
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_all_that_goes_over_http_goes_over_tls(version: str, proxy: Proxy, papers: Papers) -> None:
    reports: list[float] = []

    def work(thread: int) -> list[str]:
        return [client.call_tool("echo", {"text": f"{thread}/{n}"}).text for n in range(4)]

    with ExitStack() as stack:
        client = stack.enter_context(
            connect(
                proxy.url("good", "https"),
                verify_ssl=papers.ca,
                protocol_version=version,
                elicitation=lambda asked: {"name": "Ada"},
            )
        )
        client.call_tool("count", {"n": 3}, on_progress=lambda now, *_: reports.append(now))
        assert reports == [1, 2, 3]
        assert client.call_tool("ask_name").text == "hello Ada"
        assert client.call_tool("big", {"n": 1_000_000}).text == "x" * 1_000_000
        assert client.call_tool("echo", {"text": "\u00fc" * 400_000}).data == "\u00fc" * 400_000
        pool = stack.enter_context(ThreadPoolExecutor(16))
        assert list(pool.map(work, range(16))) == [[f"{thread}/{n}" for n in range(4)] for thread in range(16)]
        news = stack.enter_context(client.listen(resource_subscriptions=["memo://greeting"]))
        client.call_tool("touch_resource", {"uri": "memo://greeting"})
        assert news.next(PATIENCE) is not None
        with pytest.raises(MCPError):
            client.call_tool("slow", {"seconds": 60}, timeout=0.3)
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_the_older_binding_goes_over_tls_too(proxy: Proxy, papers: Papers) -> None:
    with connect(f"{proxy.origin('sse', 'https')}/sse", verify_ssl=papers.ca) as client:
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_an_unknown_authority_is_not_trusted(proxy: Proxy) -> None:
    assert_refused(connect(proxy.url("good", "https")), "(?i)certificate")
    assert_refused(connect(proxy.url("good", "https"), verify_ssl=True), "(?i)certificate")


def test_a_certificate_for_another_host_will_not_do(proxy: Proxy, papers: Papers) -> None:
    for host in ("localhost", "127.0.0.1"):
        client = connect(proxy.url("wrong-host", "https", host), verify_ssl=papers.ca)
        assert_refused(client, f"(?i)certificate.*{host}|{host}.*certificate")


def test_a_certificate_that_has_expired_will_not_do(proxy: Proxy, papers: Papers) -> None:
    assert_refused(connect(proxy.url("expired", "https"), verify_ssl=papers.ca), "(?i)expired")


@pytest.mark.parametrize("site", ["good", "wrong-host", "expired"])
def test_whoever_does_not_want_to_know_may_say_so(site: str, proxy: Proxy) -> None:
    with connect(proxy.url(site, "https"), verify_ssl=False) as client:
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_a_context_of_the_application_is_used_as_it_is(proxy: Proxy, papers: Papers) -> None:
    context = ssl.create_default_context(cafile=papers.ca)
    with connect(proxy.url("good", "https"), ssl_context=context) as client:
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
    assert_refused(connect(proxy.url("good", "https"), ssl_context=ssl.create_default_context()), "(?i)certificate")


# -- who the client is ------------------------------------------------------------------------------------------------


def test_a_server_that_wants_a_certificate_gets_it(version: str, proxy: Proxy, mutual: Running, papers: Papers) -> None:
    context = ssl.create_default_context(cafile=papers.ca)
    context.load_cert_chain(*papers.client.pair)
    for url in (proxy.url("mutual", "https"), mutual.url.replace("http:", "https:")):
        for ways in ({"verify_ssl": papers.ca, "cert": papers.client.pair}, {"ssl_context": context}):
            with connect(url, protocol_version=version, **ways) as client:
                assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_a_server_that_wants_a_certificate_and_gets_none_or_a_strangers_says_no(
    who: str, proxy: Proxy, mutual: Running, papers: Papers
) -> None:
    cert = papers.stranger.pair if who == "stranger" else None
    with pytest.raises(HTTPStatusError, match="HTTP 400.*SSL certificate"):
        connect(proxy.url("mutual", "https"), verify_ssl=papers.ca, cert=cert, timeout=5).connect()
    with pytest.raises(MCPConnectionError, match="(?i)certificate|TLS|closed|reset"):
        connect(mutual.url.replace("http:", "https:"), verify_ssl=papers.ca, cert=cert, timeout=5).connect()


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_the_wrong_scheme_is_found_out_at_once(proxy: Proxy, papers: Papers) -> None:
    begin = time.monotonic()
    with pytest.raises(MCPConnectionError, match="(?i)ssl|tls"):
        connect(proxy.url("plain", "https"), verify_ssl=papers.ca).connect()
    with pytest.raises(MCPError, match="400"):
        connect(proxy.url("good", "http")).connect()
    assert time.monotonic() - begin < SOON


@pytest.mark.parametrize("options", [{"verify_ssl": "none.pem"}, {"cert": ("none.pem", "none.key")}])
def test_a_file_that_is_not_there_is_named(options: dict[str, Any], proxy: Proxy, tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match="none.pem"):
        connect(proxy.url("good", "https"), **options).connect()
