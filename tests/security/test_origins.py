"""Origins are never crossed, whatever a server says, wherever it says it; beside faults/test_http_origins.py.

Another server stands on a port of its own and remembers every byte. It must not even be connected to, but where the
user allowed it; and there it is shown no secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import requests
from faults import ws_server
from faults.http_server import Exchange, Manner, Server, replies, streams
from faults.http_streams import Broken, Keeper, OldServer, conversing, event, part, result, sse
from faults.http_tools import NOW
from faults.tools import ERAS, PATIENCE, tool, until, within, works
from security.canaries import Canaries
from security.test_canary_http import by_headers, by_provider, by_session, by_url

from mcp_sync import Client, HttpTransport, MCPConnectionError, MCPError, StreamableHTTPTransport, TransportManager
from mcp_sync.exceptions import AuthError, HTTPStatusError, RemoteProtocolError

PLACES = [by_headers, by_url, by_provider, by_session]
FOREIGN = '{"jsonrpc": "2.0", "id": $ID, "result": {"resultType": "complete", "content": []}}'


@contextmanager
def other() -> Iterator[Server]:
    """Give a server that nobody may connect to."""
    with Server(on={"POST": replies(200, FOREIGN), "GET": replies(200, "{}")}) as server:
        yield server
        assert server.accepted == 0, server.heard[:500]


def client_of(server: Server, canaries: Canaries, place: Callable[[Canaries], dict[str, Any]], **more: Any) -> Client:
    """Return a client with secrets."""
    knobs = {**place(canaries), **more}
    return Client(StreamableHTTPTransport(knobs.pop("url", server.url).format(port=server.port), **knobs))


def headed(status: int, *lines: str, body: str = "", plainly: bool = False) -> Manner:
    """Answer with these headers; plainly, that is with the true answer."""

    def act(exchange: Exchange) -> None:
        if plainly:
            exchange.reply(200, exchange.body, *lines)
        else:
            exchange.reply(status, body, *lines, content_type="text/plain" if body else None)

    return act


# -- headers that name another place -----------------------------------------------------------------------------------

NAMING = [
    "Location: {}",
    "Content-Location: {}",
    "Refresh: 0; url={}",
    "Link: <{}>; rel=preload, <{}>; rel=canonical",
    'Alt-Svc: h2="{host}"; ma=3600, http/1.1="{host}"',
    'WWW-Authenticate: Bearer resource_metadata="{}", authorization_uri="{}", realm="{}"',
    "Access-Control-Allow-Origin: {}",
    "Set-Cookie: a=1; Domain={host}; Path=/",
    "MCP-Endpoint: {}",
    "Retry-After: {}",
    "Proxy-Authenticate: Basic realm={}",
    'Clear-Site-Data: "*"',
    'NEL: {{"report_to": "{}"}}',
]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 300, 304, 305, 401, 403, 407, 421, 503])
def test_no_header_of_an_answer_sends_us_elsewhere(status: int) -> None:
    """I11: Location in a 202 neither, nor the metadata that a 401 names."""
    canaries = Canaries()
    with other() as elsewhere, Server() as server, client_of(server, canaries, by_headers) as client:
        host = f"127.0.0.1:{elsewhere.port}"
        for line in NAMING:
            about = line.format(elsewhere.url, elsewhere.url, elsewhere.url, host=host)
            server.on["work"] = headed(status, about, plainly=status == 200)
            if status == 200:
                assert tool(client, "work", a=1) == {"a": 1}
            else:
                with within(NOW), pytest.raises(MCPError):
                    client.call_tool("work")
            works(client)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__[3:])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_shows_another_server_any_kind_of_secret(
    status: int, place: Callable[[Canaries], dict[str, Any]]
) -> None:
    """I11: be it given as a header, in the URL, by a provider or with a session of requests."""
    canaries = Canaries()
    with other() as elsewhere, Server() as server, client_of(server, canaries, place) as client:
        name = canaries.plant("userinfo of a redirect")
        place_of = f"{name}@127.0.0.1:{elsewhere.port}"
        for where in (elsewhere.url, f"//{place_of}/mcp", f"http://x:{place_of}"):
            server.on["work"] = headed(status, f"Location: {where}")
            with pytest.raises(MCPError) as found:
                client.call_tool("work", {"secret": canaries.plant("an argument")})
            assert name not in f"{found.value!r} {found.value.details}"


@pytest.mark.parametrize("place", [by_headers, by_url, by_provider], ids=lambda place: place.__name__[3:])
def test_an_allowed_origin_gets_the_message_and_no_credentials(place: Callable[[Canaries], dict[str, Any]]) -> None:
    """I11: allowed_origins says where messages may go, not who may know us."""
    canaries = Canaries()
    with Server() as elsewhere, Server() as server:
        with client_of(server, canaries, place, allowed_origins=[elsewhere.origin]) as client:
            works(client)
            server.on["work"] = headed(307, f"Location: {elsewhere.url}")
            assert tool(client, "work", a=1) == {"a": 1}
            works(client)
        assert len(elsewhere.calls("work")) == 1
        assert canaries.planted_in(elsewhere.heard) == set()
        assert canaries.planted_in(server.heard) == canaries.names


def test_a_session_of_requests_goes_to_no_other_origin_even_if_it_is_allowed() -> None:
    """I11: nobody knows which of what it holds is for whom."""
    with other() as elsewhere, Server(on={"work": headed(307, f"Location: {elsewhere.url}")}) as server:
        client = client_of(server, Canaries(), by_session, allowed_origins=[elsewhere.origin])
        with client, pytest.raises(HTTPStatusError):
            client.call_tool("work")


def test_an_origin_that_is_allowed_cannot_allow_another() -> None:
    """I11: a redirect of a redirect is one as well."""
    canaries = Canaries()
    with other() as third, Server() as second, Server() as server:
        second.on["work"] = headed(307, f"Location: {third.url}")
        server.on["work"] = headed(307, f"Location: {second.url}")
        with client_of(server, canaries, by_headers, allowed_origins=[second.origin]) as client:
            with pytest.raises(HTTPStatusError):
                client.call_tool("work")
            works(client)
        assert canaries.planted_in(second.heard) == set()


def test_an_allowed_origin_that_wants_credentials_gets_none_however_often_it_asks() -> None:
    """I11: it would be told one token after the other."""
    refreshed = []

    class Provider:
        def headers(self) -> dict[str, str]:
            return {"Authorization": "Bearer kept-secret"}

        def refresh(self) -> bool:
            refreshed.append(1)
            return True

    with Server(on={"work": headed(401, 'WWW-Authenticate: Bearer realm="mine"')}) as elsewhere, Server() as server:
        transport = StreamableHTTPTransport(server.url, auth_provider=Provider(), allowed_origins=[elsewhere.origin])
        with Client(transport) as client:
            server.on["work"] = headed(307, f"Location: {elsewhere.url}")
            with pytest.raises(AuthError):
                client.call_tool("work")
        assert len(refreshed) <= 1
        assert b"kept-secret" not in elsewhere.heard


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_reply_that_broke_off_is_not_resumed_elsewhere(status: int) -> None:
    """I11: neither the session's id nor the id of the event goes there."""
    canaries = Canaries()
    broken = Broken(part("id: e1\nretry: 10\ndata:\n\n"), part(event(result({"a": 1}))))

    def moved(exchange: Exchange) -> None:
        headed(status, f"Location: {elsewhere.url}")(exchange)

    on = {"work": broken, "GET": moved}
    with other() as elsewhere, conversing(on=on, auth_header="Bearer x") as (client, server):
        with within(NOW + 1), pytest.raises(MCPError):
            client.call_tool("work", {"secret": canaries.plant("an argument")}, timeout=1.0)
        assert server.verbs("GET")


def test_no_field_of_an_event_sends_us_elsewhere() -> None:
    """I11: endpoint is an event of the old binding; an id may look like a URL."""
    with other() as elsewhere, Server() as server, Client(server.url) as client:
        for field in ("event: endpoint\ndata: {}", "event: redirect\ndata: {}", "id: {}\ndata:", "url: {}\ndata:"):
            server.on["work"] = streams(f"{field.format(elsewhere.url)}\n\n")
            assert tool(client, "work", a=1) == {"a": 1}


def test_a_second_endpoint_event_does_not_move_an_old_conversation() -> None:
    """I11: not even to where it could have been in the first place, let alone elsewhere."""
    canaries = Canaries()
    with other() as elsewhere, OldServer() as server:
        transport = sse(server.url, auth_header=f"Bearer {canaries.plant('auth_header')}")
        with Client(transport, timeout=PATIENCE) as client:
            works(client)
            server.say(f"event: endpoint\ndata: {elsewhere.origin}/messages\n\n")
            works(client)
        assert len({request.headers["host"] for request in server.requests}) == 1


def test_a_post_of_the_old_binding_is_not_redirected_elsewhere() -> None:
    """I11"""
    canaries = Canaries()
    auth = f"Bearer {canaries.plant('auth_header')}"
    with other() as elsewhere, OldServer() as server, Client(sse(server.url, auth_header=auth)) as client:
        for status in (302, 307, 308):
            server.on["work"] = headed(status, f"Location: {elsewhere.origin}/messages?line=0")
            with within(NOW), pytest.raises(MCPError):
                client.call_tool("work", {"secret": canaries.plant("an argument")})
        works(client)


def test_no_later_message_moves_a_websocket() -> None:
    """I11: nor does a close with a reason that looks like a place."""
    canaries = Canaries()

    def says_goodbye(exchange: ws_server.Exchange) -> None:
        exchange.send(ws_server.closing(1012, f"moved to {elsewhere.url}"))
        exchange.close()

    with other() as elsewhere, ws_server.Server(on={"work": [says_goodbye]}) as server:
        url = f"ws://127.0.0.1:{server.port}/mcp"
        with Client(url, auth_header=f"Bearer {canaries.plant('auth_header')}", timeout=PATIENCE) as client:
            with pytest.raises(MCPConnectionError):
                client.call_tool("work")
            works(client)
        assert server.accepted == 2


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_nothing_that_a_result_names_is_fetched() -> None:
    """I11: schemas, icons, links, sizes: whoever wants them may go there."""
    with other() as elsewhere, Server() as server:
        url = elsewhere.url
        schema = {"$schema": url, "$id": url, "$ref": f"{url}#/a", "type": "object", "properties": {"a": {"$ref": url}}}
        local = {"$schema": url, "type": "object", "$defs": {"b": {"$ref": url}}}
        icons = [{"src": url, "mimeType": "image/png"}]
        server.tools = [
            {"name": "work", "inputSchema": local, "outputSchema": schema, "icons": icons},
            {"name": "echo", "inputSchema": local, "icons": icons, "annotations": {"url": url}},
        ]
        link = {"type": "resource_link", "uri": url, "name": "x", "icons": icons}
        embedded = {"type": "resource", "resource": {"uri": url, "text": "x"}}
        content = {"content": [link, embedded], "structuredContent": {"a": 1}, "resultType": "complete"}
        server.on["work"] = replies(200, f'{{"jsonrpc": "2.0", "id": $ID, "result": {json.dumps(content)}}}')
        with Client(server.url, timeout=PATIENCE) as client:
            client.list_tools()
            with suppress(RemoteProtocolError):  # the schema cannot be checked, and is not fetched
                client.call_tool("work")
            works(client)


# -- several servers ---------------------------------------------------------------------------------------------------


@ERAS
def test_what_goes_on_elsewhere_goes_with_the_credentials_of_that_place(era: str) -> None:
    """I11: by failover; cookies, sessions, queries and passwords stay where they belong."""
    first, second = Canaries(), Canaries()
    with Server(era) as near, Server(era) as far:
        near.on["tools/list"] = headed(503, f"Set-Cookie: a={first.plant('a cookie of the server')}")
        with TransportManager(health_check_interval=None, failover_threshold=1) as manager:
            for name, server, canaries in (("near", near, first), ("far", far, second)):
                query = f"?token={canaries.plant('query')}"
                headers = {"X-Api-Key": canaries.plant("headers")}
                auth = f"Bearer {canaries.plant('auth_header')}"
                manager.register_transport(name, HttpTransport(server.url + query, auth_header=auth, headers=headers))
            manager.send_request("near", "tools/list")
            manager.send_request("far", "tools/list")
        assert first.planted_in(far.heard) == set()
        assert second.planted_in(near.heard) == set()
        assert first.planted_in(near.heard) >= first.names - {"a cookie of the server"}
        assert second.planted_in(far.heard) == second.names


def test_a_session_of_requests_that_two_transports_share_shows_neither_what_the_other_was_given() -> None:
    """I11: headers of one transport, cookies of one server."""
    first, second = Canaries(), Canaries()
    session = requests.Session()
    with Keeper(names=lambda number: first.plant("session id")) as one, Keeper() as two:
        cookie = f"Set-Cookie: sid={first.plant('a cookie of the server')}; Path=/"
        one.on["tools/list"] = headed(200, cookie, plainly=True)
        with Client(one.url, session=session, auth_header=first.plant("auth_header", "Bearer {}")) as client:
            client.list_tools()
            with Client(two.url, session=session, headers={"X-Api-Key": second.plant("headers")}) as another:
                works(another)
            works(client)
    assert first.planted_in(two.heard) == set()
    assert second.planted_in(one.heard) == set()
    assert "sid" not in session.cookies
    assert "Authorization" not in session.headers


def test_what_a_server_asks_with_a_url_is_opened_by_nobody() -> None:
    """I11: a URL to open is the user's decision; so is what it is opened with."""
    with other() as elsewhere, conversing(elicitation=lambda params: {"action": "decline"}) as (client, server):
        asked = {"mode": "url", "url": elsewhere.url, "message": "?", "elicitationId": "1"}
        server.on["work"] = streams(event(id=9, method="elicitation/create", params=asked))
        assert tool(client, "work", a=1) == {"a": 1}
        until(lambda: [request for request in server.posts() if request.message.get("id") == 9])


def test_the_health_endpoint_is_on_the_servers_own_origin() -> None:
    """I11: whatever it is called; and it is not redirected elsewhere."""
    canaries = Canaries()
    with other() as elsewhere, Server(on={"GET": headed(302, f"Location: {elsewhere.url}")}) as server:
        for path in ("/health", f"//127.0.0.1:{elsewhere.port}/", elsewhere.url, "@127.0.0.1:9/"):
            auth = f"Bearer {canaries.plant('auth_header')}"
            with pytest.raises((MCPError, ValueError)):
                StreamableHTTPTransport(server.url, auth_header=auth, health_endpoint=path).check_health()
