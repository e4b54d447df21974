"""The canary run on the server: what it was given, and what clients bring, is in no log, repr or error."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from security.canaries import Canaries, Evidence, check, threads_and_objects, watching
from server.web import META, STATELESS, Web

from mcp_sync import APIKeyAuth, BearerTokenAuth, JSONRPCError, JWTAuth, MCPError
from mcp_sync.credentials import Authenticator
from mcp_sync.server import Context, Server
from mcp_sync.server.legacy import SseApp
from mcp_sync.server.sealing import Seal
from mcp_sync.server.stores import MemorySessionStore

SCHEMA = {"type": "object", "properties": {"pin": {"type": "string"}}, "required": ["pin"]}


def offering(canaries: Canaries) -> Server:
    """Return a server that handles secrets."""
    server = Server("vault", secret_key=canaries.plant("secret_key"))

    @server.tool()
    def take(number: int, password: str = "") -> str:
        return "taken"

    @server.tool()
    def give() -> str:
        return canaries.plant("a result")

    @server.tool()
    def fail(password: str) -> str:
        raise LookupError("no such user")

    @server.tool()
    def refuse(password: str) -> str:
        raise JSONRPCError(-32000, "refused")

    @server.tool()
    def ask(context: Context) -> str:
        context.state["asked"] = True
        answer = context.elicit("Your PIN?", SCHEMA)
        return "thanks" if answer.accepted else "well"

    @server.tool()
    def keep(context: Context, password: str) -> str:
        context.info("kept")
        return "kept"

    @server.resource("vault://{name}{?token}")
    def secret(name: str, token: str = "") -> str:
        raise KeyError("nothing here")

    return server


def authenticators(canaries: Canaries) -> dict[str, tuple[Authenticator, dict[str, str]]]:
    """Return who says who somebody is, and what proves it."""
    plant = canaries.plant
    token, key, bob = plant("token"), plant("api key"), plant("the token of another")
    signed = JWTAuth(plant("the secret of a JWT", "{}-at-least-32-bytes-long"), subject="alice")
    return {
        "bearer": (BearerTokenAuth({"alice": token, "bob": bob}), {"Authorization": f"Bearer {token}"}),
        "function": (BearerTokenAuth(lambda: token), {"Authorization": f"Bearer {token}"}),
        "key": (APIKeyAuth({"alice": key, "bob": bob}), {"X-API-Key": key}),
        "jwt": (signed, dict(signed.headers())),
    }


@pytest.fixture(params=["bearer", "function", "key", "jwt"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Canaries, Evidence, Web, dict[str, str]]]:
    """Give a mounted server that wants credentials of one kind; in the end nothing may have come out."""
    canaries = Canaries()
    with watching() as evidence:
        server = offering(canaries)
        auth, proof = authenticators(canaries)[request.param]
        app = server.wsgi_app(auth=auth)
        brought = {"Cookie": f"sid={canaries.plant('a cookie')}", "X-Forwarded-For": canaries.plant("a header")}
        try:
            yield canaries, evidence, Web(app), {**proof, **brought}
            evidence.look("the server", server, app, auth, server.seal, app._store, app._gate, app._sessions)
            evidence.add("live objects", threads_and_objects())
        finally:
            app.close()
    check(canaries, evidence)


Place = tuple[Canaries, Evidence, Web, Mapping[str, str]]

CALLS: dict[str, dict[str, Any]] = {
    "take": {"number": 1},
    "arguments that do not fit": {"number": "x"},
    "fail": {},
    "refuse": {},
    "keep": {},
    "no such tool": {},
}


def test_no_secret_of_a_call_comes_out_in_the_stateless_era(place: Place) -> None:
    """I12: whatever comes of it; what a tool was given is nobody's but the tool's."""
    canaries, evidence, web, headers = place
    for name, arguments in CALLS.items():
        tool = "take" if "fit" in name else name
        given = {**arguments, "password": canaries.plant(f"an argument of {name}")}
        reply = web.ask("tools/call", {"name": tool, "arguments": given}, headers=headers)
        evidence.add(f"the answer to {name}", reply.content)
    assert canaries.planted_in(web.ask("tools/call", {"name": "give", "arguments": {}}, headers=headers).content)


def test_the_query_of_a_uri_that_cannot_be_read_is_in_no_log() -> None:
    """I12"""
    canaries = Canaries()
    with watching() as evidence:
        app = offering(canaries).wsgi_app()
        uri = f"vault://{canaries.plant('a user')}@x?token={canaries.plant('a query')}"
        assert b"error" in Web(app).ask("resources/read", {"uri": uri}).content
        app.close()
    check(canaries, evidence)


def test_no_secret_comes_out_of_a_request_of_two_rounds(place: Place) -> None:
    """I12: the answer to a question is in no state and in no log."""
    canaries, evidence, web, headers = place
    able = {"elicitation": {"form": {}}}
    params: dict[str, Any] = {"name": "ask", "arguments": {}}
    asked = web.ask("tools/call", params, headers=headers, capabilities=able).json["result"]
    evidence.add("the state", json.dumps(asked))
    ((key, _),) = asked["inputRequests"].items()
    answers = {key: {"action": "accept", "content": {"pin": canaries.plant("a PIN")}}}
    again = {**params, "inputResponses": answers, "requestState": asked["requestState"]}
    reply = web.ask("tools/call", again, headers=headers, capabilities=able)
    evidence.add("the last answer", reply.content)
    assert reply.json["result"]["content"][0]["text"] == "thanks"
    forged = {**again, "requestState": asked["requestState"] + canaries.plant("a forged state")}
    evidence.add("the refusal", web.ask("tools/call", forged, headers=headers, capabilities=able).content)


def test_no_secret_of_a_session_comes_out(place: Place) -> None:
    """I12: nor its id, which is as good as a token where nobody has a name."""
    canaries, evidence, web, headers = place
    visit = web.greet(headers=headers)
    known = canaries.know("session id", str(visit.session_id))
    for name, arguments in CALLS.items():
        tool = "take" if "fit" in name else name
        params = {"name": tool, "arguments": {**arguments, "password": canaries.plant(f"an argument of {name}")}}
        message = {"jsonrpc": "2.0", "id": name, "method": "tools/call", "params": params}
        evidence.add(f"the answer to {name}", visit.post(message).content)
    assert visit.post({"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"a": canaries.plant("junk")}}).content
    evidence.add("a wrong session", web.post({}, {**headers, "Mcp-Session-Id": known + "x"}).content)


WRONG: dict[str, dict[str, str]] = {
    "no credentials": {},
    "a wrong token": {"Authorization": "Bearer {}"},
    "a wrong scheme": {"Authorization": "Basic {}"},
    "a wrong key": {"X-API-Key": "{}"},
    "a foreign host": {"Host": "{}.example"},
    "a foreign origin": {"Origin": "https://{}.example"},
    "a wrong type": {"Content-Type": "text/{}"},
    "a wrong accept": {"Accept": "text/{}"},
    "a wrong version": {"MCP-Protocol-Version": "{}"},
    "a wrong method": {"Mcp-Method": "{}"},
    "an unknown event": {"Last-Event-ID": "{}.1"},
    "a wrong session": {"Mcp-Session-Id": "{}"},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_is_in_no_log(place: Place, name: str) -> None:
    """I12: a password that was mistyped is one as well."""
    canaries, evidence, web, headers = place
    secret = canaries.plant("what is wrong")
    wrong = {header: value.format(secret) for header, value in WRONG[name].items()}
    proven = {} if name in ("no credentials", "a wrong token", "a wrong scheme", "a wrong key") else headers
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    listening = {**proven, "Accept": "text/event-stream", **wrong}
    for reply in (web.post(message, {**proven, **wrong}), web.request("GET", listening)):
        assert reply.status >= 400
        evidence_of_others = Evidence()
        evidence_of_others.add("the answer", reply.content)
        evidence_of_others.add("its headers", repr(reply.headers))
        check(canaries, evidence_of_others, but=["what is wrong"])


BODIES = [b"{}", b'"{}', b'{"jsonrpc": "2.0", "id": 1, "method": "{}"', b'{"{}": 1}', b"\xff{}"]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_no_message_is_in_no_log(place: Place, body: bytes) -> None:
    """I12"""
    canaries, evidence, web, headers = place
    whole = body.replace(b"{}", canaries.plant("a body").encode())
    assert web.post(whole, headers).status >= 400


class Broken(MemorySessionStore):
    """A store that cannot be reached, and says why with all that it was given."""

    def load(self, kind: str, key: str) -> Any:
        raise MCPError(f"cannot load a {kind}")


def test_a_store_that_fails_tells_nobody_of_a_session() -> None:
    """I12: the log has the reason, and neither the id nor the token."""
    canaries = Canaries()
    with watching() as evidence:
        server = offering(canaries)
        app = server.wsgi_app(auth=BearerTokenAuth(canaries.plant("token")), store=Broken())
        headers = {"Authorization": f"Bearer {canaries.plant('token')}", "Mcp-Session-Id": canaries.plant("session id")}
        reply = Web(app).post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, headers)
        assert reply.status == 503
        evidence.add("the answer", reply.content)
        app.close()
    check(canaries, evidence)
    assert any("cannot load a session" in text for _, text in evidence.texts())


def test_a_seal_and_an_application_of_http_with_sse_tell_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """I12: wherever the key came from."""
    canaries, evidence = Canaries(), Evidence()
    monkeypatch.setenv("MCP_SYNC_SECRET_KEY", canaries.plant("MCP_SYNC_SECRET_KEY"))
    seal, server = Seal(), offering(canaries)
    with pytest.raises(ValueError, match="not a valid state") as found:
        seal.open(f"v1.e30.{canaries.plant('a signature')}", "x")
    app = SseApp(server, auth=APIKeyAuth(canaries.plant("key")))
    evidence.look("objects", seal, server, app, seal.close({"a": 1}, "x"))
    evidence.look("an error", found.value)
    check(canaries, evidence)


def test_what_a_stateless_client_says_of_itself_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """I12: nor what stands in _meta."""
    canaries = Canaries()
    caplog.set_level(logging.DEBUG)
    app = offering(canaries).wsgi_app()
    info = {"name": canaries.plant("a name"), "version": STATELESS}
    meta = {META + "clientInfo": info, "x/token": canaries.plant("meta")}
    assert Web(app).ask("tools/list", meta=meta).status == 200
    app.close()
    evidence = Evidence()
    evidence.add("the log", caplog.text)
    check(canaries, evidence)
