"""The canary run over HTTP+SSE and WebSocket: what a server says back on its stream, in its refusal, in its goodbye."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest
from faults import ws_server
from faults.http_server import Exchange, Manner, silent
from faults.http_streams import OldServer, accepts, event
from faults.tools import PATIENCE, works
from faults.ws_server import closing as goodbye
from faults.ws_server import declines
from faults.ws_server import made as frame
from security.canaries import Canaries, Evidence, check, threads_and_objects, watching
from security.test_canary_http import SOON, by_function, by_headers, by_provider, by_url, one_line, said_back, says_back

from mcp_sync import Client, MCPError, SSETransport, WebSocketTransport

PLACES = pytest.mark.parametrize(
    "place", [by_headers, by_url, by_provider, by_function], ids=lambda place: place.__name__[3:]
)


# -- HTTP+SSE ----------------------------------------------------------------------------------------------------------


def on_the_stream(make: Callable[[str, Any], str]) -> Manner:
    """Accept the message, and say something of it on the stream."""

    def act(exchange: Exchange) -> None:
        server = exchange.server
        assert isinstance(server, OldServer)
        accepts(exchange)
        server.say(make(one_line(said_back(exchange.request)), exchange.request.id))

    return act


def cut(exchange: Exchange) -> None:
    """Accept the message, and end the stream."""
    accepts(exchange)
    exchange.server.stream.end()  # type: ignore[attr-defined]


SSE_BREAKS: dict[str, Manner | None] = {
    "silent": accepts,
    **{f"{status}": says_back(status) for status in (400, 401, 403, 404, 429, 500)},
    **{f"{status} in the headers": says_back(status, where="headers") for status in (401, 503)},
    "no answer to the POST": silent,
    "an answer of no kind": on_the_stream(lambda told, i: event(json.dumps({"jsonrpc": "2.0", "id": i, "x": told}))),
    "an answer that is cut": on_the_stream(lambda told, i: event(f'{{"jsonrpc": "2.0", "id": {i}, "result": "{told}')),
    "the stream is cut": cut,
}


@PLACES
def test_no_secret_comes_out_over_http_with_sse(place: Callable[[Canaries], dict[str, Any]]) -> None:
    """I12"""
    canaries = Canaries()
    knobs = place(canaries)
    endpoint = f"/messages?line=$LINE&session_id={canaries.plant('the query of the endpoint')}"
    with watching() as evidence, OldServer(endpoint=endpoint) as server:
        url = knobs.pop("url", server.url).format(port=server.port)
        transport = SSETransport(url, **knobs)
        with closing(Client(transport, timeout=PATIENCE)) as client:
            watch(transport, evidence)
            client.connect()
            for name, manner in SSE_BREAKS.items():
                server.on["work"] = manner
                failing(client, name, canaries, evidence, "silent" in name or "no answer" in name)
            works(client)
            evidence.look("at the end", client, transport)
            evidence.add("live objects", threads_and_objects())
        check(canaries, evidence)
        assert canaries.planted_in(server.heard) == canaries.names


# -- WebSocket ---------------------------------------------------------------------------------------------------------


def asked(exchange: ws_server.Exchange) -> str:
    """Return what the request for this WebSocket told."""
    head: str = exchange.connection.request.decode("latin-1")
    return f"{head}; {json.dumps(head)}; {quote(head)}"


def saying(make: Callable[[str, Any], bytes], then: str = "go on") -> ws_server.Manner:
    """Send a frame that holds what was asked."""

    def act(exchange: ws_server.Exchange) -> None:
        exchange.send(make(one_line(asked(exchange)), exchange.message["id"]))
        ws_server.finish(exchange, then)

    return act


def text(told: str) -> bytes:
    """Return a message."""
    return frame(ws_server.TEXT, told.encode())


WS_BREAKS: dict[str, ws_server.Manner] = {
    "silent": saying(lambda told, i: text("[]")),
    "an answer of no kind": saying(lambda told, i: text(json.dumps({"jsonrpc": "2.0", "id": i, "told": told}))),
    "an answer that is cut": saying(lambda told, i: text(f'{{"jsonrpc": "2.0", "id": {i}, "result": "{told}')),
    "goodbye": saying(lambda told, i: goodbye(1008, told[:120]), "close"),
    "a broken frame": saying(lambda told, i: b"\x7f" + told.encode(), "close"),
    "hung up on": saying(lambda told, i: b"", "close"),
}


@PLACES
def test_no_secret_comes_out_over_websocket(place: Callable[[Canaries], dict[str, Any]]) -> None:
    """I12"""
    canaries = Canaries()
    knobs = place(canaries)
    with watching() as evidence, ws_server.Server() as server:
        url = knobs.pop("url", server.url).format(port=server.port).replace("http:", "ws:")
        transport = WebSocketTransport(url, **knobs)
        with closing(Client(transport, timeout=PATIENCE)) as client:
            watch(transport, evidence)
            client.connect()
            for name, manner in WS_BREAKS.items():
                server.on["work"] = manner
                failing(client, name, canaries, evidence, name == "silent")
            works(client)
            evidence.look("at the end", client, transport)
            evidence.add("live objects", threads_and_objects())
        check(canaries, evidence)
        assert canaries.planted_in(b"".join(server.requests)) >= canaries.names - {"an argument"}


@PLACES
@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 500])
def test_no_secret_comes_out_when_a_websocket_is_refused(
    status: int, place: Callable[[Canaries], dict[str, Any]]
) -> None:
    """I12: in the page, in the headers of the refusal, in the Location."""
    canaries = Canaries()
    knobs = place(canaries)

    def refuse(exchange: ws_server.Exchange) -> None:
        told = one_line(asked(exchange))
        headers = (f"Location: http://127.0.0.1:9/?{told}", f"WWW-Authenticate: {told}", f"Content-Type: a/{told}")
        declines(status, told, *headers)(exchange)

    with watching() as evidence, ws_server.Server(on={"upgrade": refuse}) as server:
        url = knobs.pop("url", server.url).format(port=server.port).replace("http:", "ws:")
        with closing(Client(WebSocketTransport(url, **knobs), timeout=PATIENCE)) as client:
            watch(client.transport, evidence)
            with pytest.raises(MCPError) as found:
                client.connect()
            evidence.look("the refusal", found.value, client)
        check(canaries, evidence)


# -- both --------------------------------------------------------------------------------------------------------------


def watch(transport: Any, evidence: Evidence) -> None:
    """Look at every event."""
    transport.observe(lambda one: evidence.look("an event", one))


def failing(client: Client, name: str, canaries: Canaries, evidence: Evidence, is_slow: bool) -> None:
    """Have a call fail, and keep what it raises."""
    with pytest.raises(MCPError) as found:
        client.call_tool("work", {"password": canaries.plant("an argument")}, timeout=SOON if is_slow else PATIENCE)
    evidence.look(name, found.value)
