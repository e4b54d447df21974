"""What one client can take from others over HTTP: streams, sessions; and how long a stream outlives its credentials."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from server.web import Reply, Web

from mcp_sync import APIKeyAuth, BearerTokenAuth, JWTAuth
from mcp_sync.server import Server
from mcp_sync.server import streams as streaming
from mcp_sync.server.legacy import SseApp
from mcp_sync.server.streams import EventStream, Outbox, Slots, share_of
from mcp_sync.server.wsgi import WsgiApp

ELSEWHERE, FURTHER = "203.0.113.7", "203.0.113.8"
LISTENING = {"Accept": "text/event-stream"}


@pytest.mark.parametrize(("most", "share"), [(1, 1), (2, 1), (3, 2), (8, 7), (51, 45), (10_000, 8750)])
def test_one_client_leaves_something_to_others(most: int, share: int) -> None:
    assert share_of(most) == share
    slots = Slots()
    assert [slots.take(most, "one") for _ in range(share + 1)] == [True] * share + [False]
    assert [slots.take(most, "other") for _ in range(most - share + 1)] == [True] * (most - share) + [False]
    slots.give_back("one")
    assert slots.take(most, "third")


def test_who_is_nobody_in_particular_may_take_all() -> None:
    """A proxy on this machine brings everybody."""
    slots = Slots()
    assert [slots.take(3) for _ in range(4)] == [True, True, True, False]


def test_shares_are_kept_by_many_threads() -> None:
    slots, taken = Slots(), list[bool]()

    def take() -> None:
        taken.extend([slots.take(1000, "one") for _ in range(200)])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == slots.taken == share_of(1000)
    for _ in range(slots.taken):
        slots.give_back("one")
    assert slots.taken == 0
    assert not slots._by_client


class Mounted:
    """An application whose streams are closed in the end."""

    def __init__(self, app: Any) -> None:
        self.app, self.web = app, Web(app)
        self.open: list[Reply] = []

    def listen(self, headers: Mapping[str, str], address: str) -> int:
        """Open a stream, and return the status."""
        reply = self.web.request("GET", {**LISTENING, **headers}, REMOTE_ADDR=address)
        self.open.append(reply)
        return reply.status

    def close(self) -> None:
        """End all of it."""
        for reply in self.open:
            reply.close()
        self.app.close()


@pytest.fixture
def old() -> Iterator[Mounted]:
    """Give a server of HTTP+SSE with eight streams, and two clients that have names."""
    auth = BearerTokenAuth({"alice": "token-of-alice", "bob": "token-of-bob"})
    mounted = Mounted(SseApp(Server("shared"), auth=auth, sse_path="/sse", max_streams=8))
    mounted.web._environ["PATH_INFO"] = "/sse"
    yield mounted
    mounted.close()


def test_one_client_cannot_take_all_streams_of_http_with_sse(old: Mounted) -> None:
    """D20: whatever its address; and what it gives back others and itself have again."""
    alice, bob = ({"Authorization": f"Bearer token-of-{name}"} for name in ("alice", "bob"))
    assert [old.listen(alice, ELSEWHERE if number % 2 else FURTHER) for number in range(8)] == [200] * 7 + [503]
    assert old.listen(bob, ELSEWHERE) == 200
    assert old.listen(bob, ELSEWHERE) == 503
    old.open[0].close()
    assert old.listen(alice, ELSEWHERE) == 200


@pytest.fixture
def app() -> Iterator[Mounted]:
    """Give an application that asks nobody for a name, with eight sessions and eight streams."""
    mounted = Mounted(Server("shared").wsgi_app(max_sessions=8, max_streams=8))
    yield mounted
    mounted.close()


def sessions_of(app: WsgiApp, client: str, wanted: int) -> int:
    """Return how many of so many sessions this client gets."""
    from mcp_sync.server.calls import Asker

    asker = Asker("2025-11-25", False, {}, {}, {}, None)
    return sum(app._sessions.begin(asker, client) is not None for _ in range(wanted))


def test_one_address_cannot_take_all_sessions(app: Mounted) -> None:
    """D20"""
    assert sessions_of(app.app, f"address {ELSEWHERE}", 9) == 7
    assert sessions_of(app.app, f"address {FURTHER}", 2) == 1


def test_nobody_in_particular_may_take_all_sessions(app: Mounted) -> None:
    assert sessions_of(app.app, "", 9) == 8


def test_where_any_number_of_sessions_is_allowed_an_address_has_any_number() -> None:
    app = Server("shared").wsgi_app(max_sessions=0)
    assert sessions_of(app, f"address {ELSEWHERE}", 20) == 20
    app.close()


@pytest.mark.parametrize(
    ("address", "principal", "client"),
    [
        ("127.0.0.1", None, ""),
        ("::1", None, ""),
        ("::ffff:127.0.0.1", None, ""),
        ("", None, ""),
        (ELSEWHERE, None, f"address {ELSEWHERE}"),
        (ELSEWHERE, "alice", "alice"),
        ("127.0.0.1", "alice", "alice"),
    ],
)
def test_a_share_is_that_of_a_name_or_else_of_an_address(address: str, principal: str | None, client: str) -> None:
    from mcp_sync.server.gate import Visitor

    visitor = Visitor({"REMOTE_ADDR": address}, {"authorization": "Bearer kept-secret"}, principal)
    assert visitor.client == client
    assert "kept-secret" not in repr(visitor)


# -- credentials that are withdrawn ------------------------------------------------------------------------------------


def stream(auth: Any, headers: Mapping[str, str], outbox: Outbox) -> EventStream:
    """Return a stream of somebody who has just come in."""
    from mcp_sync.server.gate import Gate, Visitor, security_of

    gate = Gate(auth, None, False, security_of(), max_body_size=1 << 20, max_streams=None, threads=None)
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    visitor = gate.admit({"REMOTE_ADDR": ELSEWHERE, "HTTP_HOST": "x", **environ})
    assert isinstance(visitor, Visitor)
    return EventStream(outbox, lambda: False, 0.02, lambda: None, visitor.is_welcome)


def ends(one: EventStream, outbox: Outbox) -> bool:
    """Tell whether a stream ends, though there is something to say all the time."""
    for _ in range(50):
        outbox.put_now(b"data: x\n\n")
        if next(one, None) is None:
            return True
    return False


def test_a_stream_ends_when_its_token_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """D22"""
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.0)
    accepted, outbox = ["first"], Outbox()
    one = stream(BearerTokenAuth(lambda: accepted[0]), {"Authorization": "Bearer first"}, outbox)
    assert not ends(one, outbox)
    accepted[0] = "second"
    assert ends(one, outbox)
    assert outbox.over


def test_a_stream_ends_when_its_jwt_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """D22"""
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.0)
    now, outbox = [1e9], Outbox()
    auth = JWTAuth("a-secret-of-at-least-32-bytes-long", lifetime=60.0, leeway=0.0, clock=lambda: now[0])
    one = stream(auth, auth.headers(), outbox)
    assert not ends(one, outbox)
    now[0] += 61
    assert ends(one, outbox)


def test_a_stream_ends_when_its_credentials_cannot_be_checked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D22: as a request would be refused then."""
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.0)
    broken, outbox = [False], Outbox()

    class Directory:
        def authenticate(self, headers: Mapping[str, str]) -> str | None:
            if broken[0]:
                raise ConnectionError("the directory is away")
            return "alice"

    one = stream(Directory(), {"Authorization": "Bearer kept-secret"}, outbox)
    assert not ends(one, outbox)
    broken[0] = True
    assert ends(one, outbox)
    assert "the directory is away" in caplog.text
    assert "kept-secret" not in caplog.text


def test_credentials_of_an_open_stream_are_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with each event, for a directory may be far away."""
    asked, outbox = list[str](), Outbox()
    one = EventStream(outbox, lambda: False, 0.02, lambda: None, lambda: not asked.append(""))
    assert not ends(one, outbox)
    assert not asked
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.0)
    assert not ends(one, outbox)
    assert len(asked) >= 50


def test_a_stream_of_http_with_sse_ends_when_its_token_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """D22"""
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.0)
    accepted = ["first"]
    app = SseApp(Server("s"), auth=BearerTokenAuth(lambda: accepted[0]), heartbeat=0.05)
    reply = Web(app, PATH_INFO="/sse").request("GET", {**LISTENING, "Authorization": "Bearer first"})
    events = iter(reply.body)
    assert b"endpoint" in next(events)
    accepted[0] = "second"
    assert next(events, None) is None
    reply.close()
    app.close()


# -- what a refusal asks for -------------------------------------------------------------------------------------------


class Custom:
    """Accepts nobody."""

    def authenticate(self, headers: Mapping[str, str]) -> str | None:
        return None


@pytest.mark.parametrize(
    ("auth", "challenge"),
    [
        (BearerTokenAuth("token"), "Bearer"),
        (APIKeyAuth("key"), 'ApiKey header="X-API-Key"'),
        (APIKeyAuth("key", "X-Team"), 'ApiKey header="X-Team"'),
        (JWTAuth("a-secret-of-at-least-32-bytes-long"), "Bearer"),
        (Custom(), "Bearer"),
    ],
)
def test_a_refusal_says_what_it_wants(auth: Any, challenge: str) -> None:
    """RFC 9110, 15.5.2"""
    app = Server("s").wsgi_app(auth=auth)
    reply = Web(app).post({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, challenge)
    app.close()


# -- the same over Streamable HTTP -------------------------------------------------------------------------------------


def test_one_address_cannot_take_all_sessions_nor_all_streams_of_streamable_http(app: Mounted) -> None:
    """D20"""
    visits = [app.web.greet(REMOTE_ADDR=ELSEWHERE, headers={"Host": "x"}) for _ in range(7)]
    visits.append(app.web.greet(REMOTE_ADDR=FURTHER, headers={"Host": "x"}))
    app.open += [visit.get() for visit in visits[:7]]
    asked = {"notifications": {}}
    app.open += [app.web.ask("subscriptions/listen", asked, REMOTE_ADDR=ELSEWHERE, headers={"Host": "x"})]
    app.open += [visits[7].get()]
    assert [reply.status for reply in app.open] == [200] * 7 + [503, 200]


def test_a_stream_of_streamable_http_ends_when_its_token_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """D22"""
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.0)
    accepted = ["first"]
    app = Server("s").wsgi_app(auth=BearerTokenAuth(lambda: accepted[0]), heartbeat=0.05)
    reply = Web(app).greet(headers={"Authorization": "Bearer first"}).get()
    events = iter(reply.body)
    assert next(events)
    accepted[0] = "second"
    assert next(events, None) is None
    reply.close()
    app.close()
