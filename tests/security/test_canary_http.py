"""The canary run over HTTP: secrets wherever one may stand, a server that says them all back, and nobody tells."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest
import requests
from faults.http_server import PATH, Exchange, Manner, Request, Server, says, silent, streams
from faults.http_streams import Keeper
from faults.tools import PATIENCE, works
from prometheus_client import generate_latest
from security.canaries import Canaries, Evidence, check, threads_and_objects, watching

from mcp_sync import BearerTokenAuth, Client, JWTAuth, MCPError, StreamableHTTPTransport, TransportMetrics

SOON = 0.05
"""Seconds: the timeout of a call that is meant to time out."""


def told_in(request: Request) -> list[str]:
    """Return what a request tells."""
    told = [request.target, *(f"{name}: {value}" for name, value in request.headers.items())]
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    return [*told, base64.b64decode(value).decode("latin-1")] if kind == "Basic" else told


def said_back(request: Request) -> str:
    """Return the same, as servers write such things into their answers."""
    told = told_in(request)
    return "; ".join([*told, *map(quote, told), json.dumps(told), repr(told)])


def one_line(text: str) -> str:
    """Return a text as the value of a header."""
    return text.encode("ascii", "replace").decode().replace("\r", " ").replace("\n", " ")


def says_back(status: int, *, where: str = "body", content_type: str = "text/plain") -> Manner:
    """Answer with what was asked, in the body, or in every header that we look at."""

    def act(exchange: Exchange) -> None:
        text = said_back(exchange.request)
        if where == "body":
            exchange.reply(status, f"what you said: {text}", content_type=content_type)
            return
        value = one_line(text)
        names = ("WWW-Authenticate", "Retry-After", "Set-Cookie", "Warning", "X-Request-Id", "Server", "Allow")
        exchange.reply(status, "", *(f"{name}: {value}" for name in names), content_type=f"text/plain; a={value}")

    return act


def answers(make: Callable[[str], str], status: int = 200, content_type: str = "application/json") -> Manner:
    """Answer with a text made of what was asked; $ID is the request's id."""

    def act(exchange: Exchange) -> None:
        text = make(said_back(exchange.request)).replace("$ID", json.dumps(exchange.request.id))
        exchange.reply(status, text, content_type=content_type)

    return act


def moves(status: int, where: str) -> Manner:
    """Redirect, with what was asked in the Location."""

    def act(exchange: Exchange) -> None:
        told = quote("; ".join(told_in(exchange.request)), safe="")
        exchange.reply(status, "moved", f"Location: {where.format(told=told)}", content_type="text/plain")

    return act


def in_the_reason(exchange: Exchange) -> None:
    """Refuse; the status line says what was asked."""
    exchange.send(exchange.head(400, reason=one_line(said_back(exchange.request)), length=0))


def in_a_stream(exchange: Exchange) -> None:
    """Answer with events that hold what was asked, and no answer."""
    told = one_line(said_back(exchange.request))
    streams(f"event: {told}\ndata: {told}\n\n", f"id: {told}\ndata: {{'junk\n\n", answer=False)(exchange)


def rpc(**members: Any) -> str:
    """Return a message."""
    return json.dumps({"jsonrpc": "2.0", **members}).replace('"$ID"', "$ID")


# By what a server does: every way to fail that we tell apart.
BREAKS: dict[str, Manner | None] = {
    "nothing": None,
    "silent": silent,
    "hung up on": says(b""),
    "reset": says(b"", then="reset"),
    "junk": says("junk\r\n\r\n"),
    "a header that is none": lambda e: e.send(b"HTTP/1.1 200 OK\r\n" + said_back(e.request).encode() + b"\r\n\r\n"),
    "a status line that is none": lambda e: (e.send(said_back(e.request).encode() + b"\r\n\r\n"), e.close()),
    "the reason": in_the_reason,
    **{f"{status} in the body": says_back(status) for status in (400, 401, 403, 404, 405, 407, 415, 429, 500, 503)},
    **{f"{status} in JSON": says_back(status, content_type="application/json") for status in (400, 401, 500)},
    **{f"{status} in the headers": says_back(status, where="headers") for status in (200, 202, 401, 403, 429, 503)},
    "a page": says_back(200, content_type="text/html"),
    "JSON that is none": answers(lambda told: '{"jsonrpc": "2.0", "id": $ID, ' + told),
    "an answer that is cut": answers(lambda told: rpc(id="$ID", result={"content": [told]})[:-3]),
    "an answer to another": answers(lambda told: rpc(id=told, result={})),
    "an answer of no kind": answers(lambda told: rpc(id="$ID", told=told)),
    "an error": answers(lambda told: rpc(id="$ID", error={"code": -32000, "message": told, "data": {"told": told}})),
    "an error with 400": answers(lambda told: rpc(id="$ID", error={"code": -32602, "message": told}), 400),
    "an error for nobody": answers(lambda told: rpc(id=None, error={"code": -32600, "message": told}), 400),
    "a stream": in_a_stream,
    "moved away": moves(307, "http://127.0.0.1:9/?{told}"),
    "moved to a user": moves(308, "http://{told}@127.0.0.1:9/"),
    "moved by 302": moves(302, "http://127.0.0.1:9/?{told}#{told}"),
    "moved to nowhere": moves(307, "gopher://{told}:{told}@[/{told}"),
}
# What a tool or an error of JSON-RPC says is given to the caller as it is; the log has nothing of it, either.
SPOKEN = {"an error", "an error with 400", "an error for nobody"}


# -- where secrets stand -----------------------------------------------------------------------------------------------


class Rotating:
    """Gives another token for each request."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries, self._given = canaries, 0

    def headers(self) -> dict[str, str]:
        self._given += 1
        return {"Authorization": f"Bearer {self._canaries.plant(f'token {self._given % 3}')}"}

    def refresh(self) -> bool:
        return True


def by_headers(canaries: Canaries) -> dict[str, Any]:
    plant = canaries.plant
    return {
        "auth_header": plant("auth_header", "Bearer {}"),
        "headers": {
            "X-Api-Key": plant("headers", "\"'{}\\/+&=%41"),
            "Cookie": f"a={plant('cookie')}; b=\"{plant('another cookie')}\"",
            "X-Note": plant("a header of no telling name"),
        },
    }


def by_url(canaries: Canaries) -> dict[str, Any]:
    password, query = canaries.plant("password", "p@{}:/é"), canaries.plant("query", "{}é=/")
    user = f"{quote(canaries.plant('user'))}:{quote(password, safe='')}@"
    return {"url": f"http://{user}127.0.0.1:{{port}}{PATH}?token={quote(query)}&{canaries.plant('bare query')}"}


def by_provider(canaries: Canaries) -> dict[str, Any]:
    return {"auth_provider": Rotating(canaries), "custom_headers": {"X-Password": canaries.plant("custom_headers")}}


def by_function(canaries: Canaries) -> dict[str, Any]:
    return {"auth_provider": BearerTokenAuth(lambda: canaries.plant("what a function returns"))}


def by_jwt(canaries: Canaries) -> dict[str, Any]:
    return {"auth_provider": JWTAuth(canaries.plant("the secret of a JWT", "{}-at-least-32-bytes-long"))}


def by_session(canaries: Canaries) -> dict[str, Any]:
    session = requests.Session()
    session.headers["X-Access-Token"] = canaries.plant("a header of the session")
    session.cookies.set("sid", canaries.plant("a cookie of the session"), domain="127.0.0.1")
    session.auth = (canaries.plant("user of the session"), canaries.plant("password of the session"))
    session.params = {}
    return {"session": session}


PLACES = [by_headers, by_url, by_provider, by_function, by_jwt, by_session]
NOT_SENT = {"the secret of a JWT"}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__[3:])
@pytest.mark.parametrize("era", ["stateless", "handshake"])
def test_no_secret_comes_out_whatever_the_server_says(era: str, place: Callable[[Canaries], dict[str, Any]]) -> None:
    """I12: not in a log, an error, a repr, an event, a metric, a report, the name of a thread."""
    run(era, place, list(BREAKS))


def run(era: str, place: Callable[[Canaries], dict[str, Any]], names: list[str]) -> None:
    """Have calls fail in all of these ways, and look at all that anybody could read of it."""
    canaries = Canaries()
    knobs = place(canaries)
    with watching() as evidence, server_of(era, canaries) as server:
        transport = made(server, knobs, evidence)
        with TransportMetrics(transport) as metrics, closing(Client(transport, timeout=PATIENCE)) as client:
            client.connect()
            for name in names:
                server.on["work"] = BREAKS[name]
                failing(client, name, canaries, evidence)
            works(client)
            evidence.look("at the end", client, transport, metrics, client.counters, metrics.snapshot())
            evidence.add("the metrics", generate_latest(metrics.registry))
            evidence.add("live objects", threads_and_objects())
        evidence.look("after close", client, transport)
        check(canaries, evidence)
        assert canaries.planted_in(server.heard) >= canaries.names - NOT_SENT


def server_of(era: str, canaries: Canaries) -> Server:
    """Return a server of an era; its sessions are secrets."""
    if era == "stateless":
        return Server()
    return Keeper(names=lambda number: canaries.plant("session id", "{}" + f"-{number}"))


def made(server: Server, knobs: Mapping[str, Any], evidence: Evidence) -> StreamableHTTPTransport:
    """Return a transport with these knobs, whose events are looked at."""
    about = dict(knobs)
    transport = StreamableHTTPTransport(about.pop("url", server.url).format(port=server.port), **about)
    transport.observe(lambda event: evidence.look("an event", event))
    return transport


def failing(client: Client, name: str, canaries: Canaries, evidence: Evidence) -> None:
    """Have a call fail as it is meant to; keep what it raises, each way to ask for it."""
    argument = {"password": canaries.plant("an argument")}
    ways: list[Callable[[], Any]] = [
        lambda: client.call_tool("work", argument, timeout=SOON if name == "silent" else PATIENCE),
        lambda: client.submit_tool("work", argument, timeout=SOON if name == "silent" else PATIENCE).result(PATIENCE),
    ]
    for way in ways:
        try:
            way()
        except MCPError as error:
            if name not in SPOKEN:
                evidence.look(name, error)
        else:
            assert name == "nothing", name
