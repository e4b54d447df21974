"""Nothing meant for one origin reaches another: redirects, netrc, proxies, cookies, names and passwords in URLs."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from faults.http_server import PATH, Exchange, Manner, Server, replies, says, silent
from faults.http_tls import authority_file
from faults.http_tools import CANARY, NOW, T, closes, is_silent_about, never, serving, spellings, tells, unconnected
from faults.tools import ERAS, PATIENCE, tool, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from mcp_sync.exceptions import AuthError, HTTPStatusError

SECRETS: dict[str, Any] = {"headers": {"X-Api-Key": CANARY, "Cookie": f"a={CANARY}"}, "auth_header": f"Bearer {CANARY}"}
FOREIGN = '{"jsonrpc": "2.0", "id": $ID, "result": {"resultType": "complete", "content": []}}'


def moved(status: int, where: str | Callable[[Exchange], str], *headers: str) -> Manner:
    """Redirect, to where may depend on the exchange."""

    def act(exchange: Exchange) -> None:
        location = where if isinstance(where, str) else where(exchange)
        exchange.reply(status, "moved", f"Location: {location}", *headers, content_type="text/plain")

    return act


def untouched(*servers: Server) -> None:
    """Check that nobody even connected."""
    __tracebackhide__ = True
    for server in servers:
        assert server.accepted == 0, server.requests
        assert server.heard == b""


# -- redirects ---------------------------------------------------------------------------------------------------------

STATUSES = [301, 302, 303, 307, 308]
# Where to, with the ports of a second server of http, of one of https, and our own.
ELSEWHERE = {
    "another port": "http://127.0.0.1:{other}/mcp",
    "another host": "http://localhost:{own}/mcp",
    "another host and port": "http://localhost:{other}/mcp",
    "another scheme": "https://127.0.0.1:{safe}/mcp",
    "another scheme on the same port": "https://127.0.0.1:{own}/mcp",
    "another host without a scheme": "//localhost:{other}/mcp",
    "another port behind a name that looks like ours": "http://127.0.0.1:{own}@127.0.0.1:{other}/mcp",
    "another port behind a backslash": "http:\\\\127.0.0.1:{other}\\mcp",
    "another port behind two slashes and a backslash": "/\\127.0.0.1:{other}/mcp",
    "another port in upper case": "HTTP://127.0.0.1:{other}/mcp",
    "another port with a blank in front": " \thttp://127.0.0.1:{other}/mcp",
    "a number that is our address": "http://2130706433:{other}/mcp",
    "a file": "file:///etc/hostname",
    "another protocol": "ftp://127.0.0.1:{other}/mcp",
    "a port that is none": "http://127.0.0.1:{other}0000/mcp",
    "an address that is cut": "http://[::1/mcp",
    "binary": "\xff\xfe\x00",
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("where", ["another port", "another host", "another scheme"])
def test_a_redirect_to_another_origin_is_refused_at_once(status: int, where: str, tmp_path: Path) -> None:
    """I10, I11, B2: neither credentials, nor the session's id, nor the body, nor so much as a connection."""
    refused(status, where, tmp_path, "handshake")


@pytest.mark.parametrize("where", [where for where in ELSEWHERE if where not in ("another port", "another host")])
def test_a_redirect_that_does_not_stay_where_it_is_is_refused_at_once(where: str, tmp_path: Path) -> None:
    """I11, B2: whatever way it is written."""
    refused(307, where, tmp_path, "stateless")


def refused(status: int, where: str, folder: Path, era: str) -> None:
    with Server(on={"POST": replies(200, FOREIGN)}) as other, Server(tls=True) as safe:
        with serving(era, verify_ssl=str(authority_file(folder)), **SECRETS) as (client, server):
            location = ELSEWHERE[where].format(other=other.port, safe=safe.port, own=server.port)
            server.on["work"] = moved(status, location)
            with within(NOW), pytest.raises((HTTPStatusError, RemoteProtocolError, MCPConnectionError)) as found:
                client.call_tool("work", {"secret": CANARY})
            assert found.value.details["status"] == status
            is_silent_about(CANARY, found.value)
            assert len(server.calls("work")) == 1
            assert b"\x16\x03" not in server.heard
            assert not [r for r in server.requests if r.headers["host"] != f"127.0.0.1:{server.port}"]
            works(client)
        untouched(other, safe)


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize(
    "where", ["{origin}/mcp?moved", "/mcp?moved", "?moved", "mcp?moved", "//127.0.0.1:{port}/mcp?moved"]
)
@ERAS
def test_a_redirect_within_the_origin_is_followed_with_the_same_method_and_body(
    era: str, where: str, status: int
) -> None:
    """B2: 307 and 308 keep both."""

    def once(exchange: Exchange) -> None:
        if exchange.request.target == PATH:
            moved(status, where.format(origin=exchange.server.origin, port=exchange.server.port))(exchange)
        else:
            exchange.send(exchange.plain)

    with serving(era, on={"work": once}, **SECRETS) as (client, server):
        with within(NOW):
            assert tool(client, "work", a=1) == {"a": 1}
        first, second = server.calls("work")
        assert (first.target, second.target) == (PATH, f"{PATH}?moved")
        assert first.body == second.body
        assert first.verb == second.verb == "POST"
        for name in ("authorization", "x-api-key", "mcp-session-id", "mcp-method", "accept", "content-type"):
            assert first.headers.get(name) == second.headers.get(name)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 399])
def test_a_redirect_that_would_make_a_get_of_a_post_is_refused(status: int) -> None:
    """I10, B2: not even within the origin; nobody sends a GET, nor the POST again."""

    def answers_to_get(exchange: Exchange) -> None:
        exchange.reply(200, FOREIGN.replace("$ID", "2"))

    on = {"work": moved(status, f"{PATH}?moved"), "GET": answers_to_get}
    with serving(on=on) as (client, server):
        with within(NOW), pytest.raises((HTTPStatusError, RemoteProtocolError, MCPConnectionError)) as found:
            client.call_tool("work")
        assert found.value.details["status"] == status
        assert [request.verb for request in server.requests if "moved" in request.target] == []
        assert len(server.calls("work")) == 1
        works(client)


@pytest.mark.parametrize("where", [PATH, f"{PATH}?again", ""])
@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_in_a_circle_ends_at_once(status: int, where: str) -> None:
    """B2: at most five hops."""
    with serving(on={"work": moved(status, where)}) as (client, server):
        with within(NOW), pytest.raises((HTTPStatusError, RemoteProtocolError, MCPConnectionError)) as found:
            client.call_tool("work")
        tells(found.value, server, status=status)
        assert len(server.calls("work")) <= 6
        works(client)


@pytest.mark.parametrize("how", ["without Location", "with two of them"])
def test_a_redirect_to_nowhere_is_refused_at_once(how: str) -> None:
    """B2"""
    with Server() as other, serving() as (client, server):
        lines = [f"Location: {PATH}?moved", f"Location: {other.url}"] if how == "with two of them" else []
        server.on["work"] = replies(307, "moved", *lines, content_type="text/plain")
        with within(NOW), pytest.raises((HTTPStatusError, RemoteProtocolError, MCPConnectionError)):
            client.call_tool("work")
        works(client)
        untouched(other)


@ERAS
def test_a_redirect_at_the_beginning_is_refused_and_says_nothing_of_the_era(era: str) -> None:
    """I11"""
    with Server(on={"POST": replies(200, FOREIGN)}) as other:
        on = {"server/discover": moved(307, other.url), "initialize": moved(302, other.url)}
        with unconnected(era, on=on, **SECRETS) as (client, _):
            with within(NOW), pytest.raises(MCPError) as found:
                client.connect()
            is_silent_about(CANARY, found.value)
        untouched(other)


def test_get_and_delete_are_not_redirected_elsewhere_either() -> None:
    """I11: the session's id stays where it is from."""
    with Server() as other:
        on = {"GET": moved(307, other.url), "DELETE": moved(307, other.url)}
        with serving("handshake", on=on, **SECRETS) as (client, server):
            works(client)
            if server.verbs("GET"):
                works(client)
        untouched(other)


def test_a_message_for_another_message_does_not_send_us_elsewhere() -> None:
    """I11: headers that browsers obey."""
    with Server() as other, serving() as (client, server):
        lines = [f"{name}: {other.url}" for name in ("Location", "Content-Location", "Refresh", "Link", "Alt-Svc")]
        server.on["work"] = replies(200, FOREIGN, *lines)
        for _ in range(2):
            client.call_tool("work")
        untouched(other)


# -- the environment ---------------------------------------------------------------------------------------------------


def put_netrc(monkeypatch: pytest.MonkeyPatch, folder: Path, how: str) -> None:
    file = folder / ".netrc"
    file.write_text("".join(f"machine {host} login me password {CANARY}\n" for host in ("127.0.0.1", "localhost")))
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(folder))
    if how == "NETRC":
        monkeypatch.setenv("NETRC", str(file))
    else:
        monkeypatch.delenv("NETRC", raising=False)


@pytest.mark.parametrize("how", ["HOME", "NETRC"])
@pytest.mark.parametrize("knobs", [{}, {"auth_header": "Bearer mine"}, {"trust_env": True}, {"session": True}], ids=str)
def test_netrc_is_never_read(how: str, knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """I11, B3: neither instead of what the caller says, nor where the caller says nothing."""
    put_netrc(monkeypatch, tmp_path, how)
    given = dict(knobs)
    if "session" in given:
        given["session"] = requests.Session()
    with serving(**given) as (client, server):
        works(client)
        for request in server.requests:
            assert request.headers.get("authorization") == knobs.get("auth_header")
        is_silent_about(CANARY, server.heard)
    if "session" in given:
        given["session"].close()


PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def put_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("knobs", [{}, {"trust_env": True}, {"trust_env": False}, {"session": True}], ids=str)
def test_what_goes_to_this_machine_goes_through_no_proxy_of_the_environment(
    knobs: dict[str, Any], host: str, scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """I11, B3"""
    with Server() as proxy:
        put_proxy(monkeypatch, proxy.origin)
        about = {"tls": scheme == "https", "verify_ssl": str(authority_file(tmp_path)), **SECRETS, **knobs}
        with requests.Session() as session:
            if "session" in about:
                about["session"] = session
            with serving(url=f"{scheme}://{host}:{{port}}{PATH}", **about) as (client, _):
                works(client)
        untouched(proxy)


def resolve_everything_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    original = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, *args, **more: original("127.0.0.1", port, *args, **more)
    )


def test_what_goes_elsewhere_goes_through_no_proxy_where_the_environment_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I11, B3"""
    resolve_everything_to_loopback(monkeypatch)
    with Server() as proxy:
        put_proxy(monkeypatch, proxy.origin)
        with serving(url=f"http://far.test:{{port}}{PATH}", trust_env=False, **SECRETS) as (client, _):
            works(client)
        untouched(proxy)


def test_what_goes_elsewhere_goes_through_the_proxy_where_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """B3: a proxy that was meant is used, with no_proxy respected."""
    resolve_everything_to_loopback(monkeypatch)
    with Server() as proxy:
        put_proxy(monkeypatch, proxy.origin)
        with Client(f"http://far.test{PATH}", trust_env=True, timeout=PATIENCE) as client:
            works(client)
        assert {request.headers["host"] for request in proxy.requests} == {"far.test"}
        monkeypatch.setenv("no_proxy", "far.test")
        heard = len(proxy.requests)
        with serving(url=f"http://far.test:{{port}}{PATH}", trust_env=True) as (client, _):
            works(client)
        assert len(proxy.requests) == heard


# -- cookies -----------------------------------------------------------------------------------------------------------

COOKIES = [
    f"a={CANARY}",
    f"b={CANARY}; Path=/",
    f"c={CANARY}; Path=/; Domain=127.0.0.1",
    f"d={CANARY}; Domain=localhost; Path=/",
    f"e={CANARY}; Domain=.local; Path=/",
    f"__Host-f={CANARY}; Path=/; Secure",
]


def bakes(exchange: Exchange) -> None:
    """Answer plainly, with every cookie."""
    head, _, body = exchange.plain.partition(b"\r\n\r\n")
    lines = "".join(f"\r\nSet-Cookie: {cookie}" for cookie in COOKIES)
    exchange.send(head + lines.encode() + b"\r\n\r\n" + body)


@pytest.mark.parametrize("shared", [False, True], ids=["own sessions", "a shared session"])
@ERAS
def test_a_cookie_of_one_server_never_reaches_another_port(era: str, shared: bool) -> None:
    """I11, B2, B8: cookie jars know no ports."""
    with requests.Session() as session:
        knobs = {"session": session} if shared else {}
        everything = dict.fromkeys(("server/discover", "initialize", "tools/list", "work", "echo", "GET"), bakes)
        with serving(era, on=everything, **knobs) as (baker, _), serving(era, **knobs) as (client, server):
            for _ in range(2):
                works(baker)
                baker.call_tool("work")
                baker.list_tools()
                works(client)
            is_silent_about(CANARY, server.heard)
            assert b"ookie:" not in server.heard


def test_a_cookie_that_a_redirect_sets_reaches_nobody_else() -> None:
    """I11, B2"""
    with Server() as other, serving() as (client, server):
        server.on["work"] = moved(307, other.url, *(f"Set-Cookie: {cookie}" for cookie in COOKIES))
        with pytest.raises(MCPError):
            client.call_tool("work")
        with Client(other.url, timeout=PATIENCE) as friend:
            works(friend)
        is_silent_about(CANARY, other.heard)


# -- secrets in URLs and headers ---------------------------------------------------------------------------------------

BREAKS: dict[str, Manner] = {
    "refused": replies(500, "no"),
    "forbidden": replies(403, "no", content_type="text/plain"),
    "closed": closes,
    "junk": says("junk\r\n\r\n"),
    "wrong type": replies(200, "<html>", content_type="text/html"),
    "redirected": moved(307, "http://127.0.0.1:9/"),
    "too slow": silent,
}
URLS = {
    "userinfo": f"http://me:{CANARY}@127.0.0.1:{{port}}{PATH}",
    "a name alone": f"http://{CANARY}@127.0.0.1:{{port}}{PATH}",
    "a query": f"http://127.0.0.1:{{port}}{PATH}?token={CANARY}&b=1",
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("where", [*URLS, "headers"])
def test_no_error_tells_a_secret_of_the_url_or_of_the_headers(
    where: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """I12, B7: neither text, nor traceback, nor what it was caused by, nor the log."""
    caplog.set_level(logging.DEBUG, "mcp_sync")
    about: dict[str, Any] = {"url": URLS[where]} if where in URLS else SECRETS
    with serving("handshake", on={"work": BREAKS[how]}, **about) as (client, server):
        with pytest.raises(MCPError) as found:
            client.call_tool("work", timeout=0.05 if how == "too slow" else PATIENCE)
        assert CANARY.encode() in server.heard or any(one in server.heard for one in spellings(CANARY))
        is_silent_about(CANARY, found.value, client, client.transport, client.transport.name, repr(server.port))
    is_silent_about(CANARY, *(record.getMessage() for record in caplog.records if record.name.startswith("mcp_sync")))


@pytest.mark.parametrize("where", URLS)
def test_an_error_of_the_beginning_tells_no_secret_of_the_url(where: str) -> None:
    """I12, B7: where nobody listens, urllib3 and requests would tell."""
    with Server() as server:
        url = URLS[where].format(port=server.port)
    client = Client(url, timeout=PATIENCE)
    with pytest.raises(MCPConnectionError, match=str(server.port)) as found:
        client.connect()
    is_silent_about(CANARY, found.value, client)
    client.close()


def test_no_library_below_us_logs_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """I12, B7: urllib3 logs every request's path and query at DEBUG, if it is let."""
    caplog.set_level(logging.DEBUG)
    with serving(url=URLS["a query"], **SECRETS) as (client, _):
        works(client)
    is_silent_about(CANARY, caplog.text)


def test_name_and_password_of_the_url_are_sent_to_its_origin_as_basic_auth() -> None:
    """I11: decoded, as RFC 7617 wants them, and nowhere else; the request line and Host do not hold them."""
    url = "http://m%40e:p%3Aw%2F%C3%A9@127.0.0.1:{port}" + PATH
    with Server() as other, serving(url=url) as (client, server):
        works(client)
        basic = "Basic " + base64.b64encode("m@e:p:w/é".encode()).decode()
        assert {request.headers.get("authorization") for request in server.requests} == {basic}
        assert {request.headers["host"] for request in server.requests} == {f"127.0.0.1:{server.port}"}
        assert {request.target for request in server.requests} == {PATH}
        server.on["work"] = moved(307, other.url)
        with pytest.raises(MCPError):
            client.call_tool("work")
        untouched(other)


def test_a_token_of_the_query_is_sent_with_every_request() -> None:
    with serving("handshake", url=URLS["a query"]) as (client, server):
        works(client)
    assert {request.target for request in server.requests} == {f"{PATH}?token={CANARY}&b=1"}


@pytest.mark.parametrize(
    "knobs",
    [
        {"auth_header": f"Bearer {CANARY}\r\nX-Evil: 1"},
        {"headers": {"X-Api-Key": f"{CANARY}\n"}},
        {"headers": {"X-Api-Key": f"{CANARY}\0"}},
        {"headers": {"X-Api-Key": f"{CANARY}\u2028\u20ac"}},
        {"headers": {f"X-\r\n{CANARY}": "1"}},
    ],
    ids=["CR LF", "LF", "NUL", "no Latin-1", "a name"],
)
def test_a_header_that_would_be_two_is_refused_and_not_shown(knobs: dict[str, Any]) -> None:
    """I12, B7: requests shows the value in its error."""
    with Server() as server:
        with pytest.raises((ValueError, MCPError)) as found, Client(server.url, timeout=PATIENCE, **knobs) as client:
            works(client)
        assert b"Evil" not in server.heard
        if not any(CANARY in name for name in knobs.get("headers", {})):
            is_silent_about(CANARY, str(found.value), repr(found.value))


def test_an_error_text_of_a_server_that_repeats_our_token_does_not_repeat_it() -> None:
    """I12: the beginning of the body is shown, but for what is secret in it."""

    def repeats(exchange: Exchange) -> None:
        text = f"no access for {exchange.request.headers['authorization']}, key {exchange.request.headers['x-api-key']}"
        exchange.reply(401, text, content_type="text/plain")

    with serving(on={"work": repeats}, **SECRETS) as (client, _):
        with pytest.raises(AuthError, match="no access for") as found:
            client.call_tool("work")
        is_silent_about(CANARY, found.value)


def test_a_timeout_tells_no_secret_either() -> None:
    """I12"""
    with serving(on={"work": silent, "initialize": never}, url=URLS["userinfo"]) as (client, server):
        with within(T), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("work", timeout=T)
        is_silent_about(CANARY, found.value)
        until(lambda: server.abandoned)
