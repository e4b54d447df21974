"""The handshake era over HTTP: sessions, their streams, what is asked of clients, coming back for the rest.

WIRE.md D, H; FAULTS.md 5.6 (WSGI: no session 400, unknown 404, another's session 404, caps, idle expiry).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import pytest
from server.web import STATELESS, Visit, Web

from mcp_sync.credentials import APIKeyAuth
from mcp_sync.exceptions import JSONRPCError, MCPConnectionError
from mcp_sync.server import Context, Elicit, MemorySessionStore, Roots, Server
from mcp_sync.server.calls import Asker
from mcp_sync.server.hub import Notice
from mcp_sync.testing import in_threads
from peers.running import until

WAIT = 5.0
VERSIONS = ["2025-03-26", "2025-06-18", "2025-11-25"]


def tools() -> Server:
    server = Server("tools", version="1.0")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def steps(to: int, context: Context) -> str:
        for number in range(to):
            context.progress(number + 1, to)
            context.debug("fine")
            context.warning("rough")
        return "done"

    @server.tool()
    def name(context: Context) -> str:
        answer = context.elicit("Your name?", {"type": "object", "properties": {"name": {"type": "string"}}})
        return f"{answer.action} {answer.content}"

    @server.tool()
    def both(context: Context) -> str:
        found = context.ask(place=Roots(), form=Elicit("?", {"type": "object", "properties": {}}))
        return f"{found['place'][0].uri} {found['form'].action}"

    @server.tool()
    def pause(context: Context) -> str:
        context.progress(1)
        context.close_stream(0.5)
        return "after the pause"

    @server.resource("config://app")
    def config() -> str:
        return "a"

    return server


@pytest.fixture
def mount() -> Iterator[Callable[..., Web]]:
    apps = []

    def mounted(server: Server | None = None, **options: Any) -> Web:
        app = (server or tools()).wsgi_app(**options)
        apps.append(app)
        return Web(app)

    yield mounted
    for app in apps:
        app.close()


@pytest.fixture
def web(mount: Callable[..., Web]) -> Web:
    return mount()


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_begins_with_initialize_and_ends_with_delete(web: Web, version: str) -> None:
    visit = web.greet(version)
    assert visit.result["protocolVersion"] == version
    assert visit.result["serverInfo"] == {"name": "tools", "version": "1.0"}
    assert visit.session_id is not None
    assert len(visit.session_id) >= 32
    assert all("!" <= letter <= "~" for letter in visit.session_id)
    assert visit.ask("ping").json == {"jsonrpc": "2.0", "id": 1, "result": {}}
    result = visit.ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}}).json["result"]
    assert result["structuredContent"] == {"result": 3}
    assert "resultType" not in result
    assert visit.delete().status == 204
    assert visit.ask("ping").status == 404
    assert visit.delete().status == 404


def test_a_version_that_is_not_spoken_gets_the_latest_of_the_era(web: Web) -> None:
    for asked in ("1999-01-01", STATELESS, "2024-11-05"):
        answered = "2024-11-05" if asked == "2024-11-05" else "2025-11-25"
        assert web.greet(asked).result["protocolVersion"] == answered


def test_without_a_session_it_is_400_and_with_a_dead_one_404(web: Web) -> None:
    visit = web.greet()
    for session_id, status in ((None, 400), ("", 400), ("x" * 43, 404), ("a\x00b", 404), ("é", 404)):
        visit.session_id = session_id
        for reply in (visit.ask("ping"), visit.get(), visit.delete()):
            assert (reply.status, reply.json["error"]["code"]) == (status, -32600)
        assert visit.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).status == status


def test_errors_are_answered_with_200_as_long_as_there_is_a_session(web: Web) -> None:
    visit = web.greet()
    for method, params, code in [
        ("foo/bar", {}, -32601),
        ("server/discover", {}, -32601),
        ("tools/call", {"name": "none"}, -32602),
        ("resources/read", {"uri": "none://"}, -32002),
        ("logging/setLevel", {"level": "loud"}, -32602),
    ]:
        reply = visit.ask(method, params)
        assert (reply.status, reply.json["error"]["code"]) == (200, code), method


def test_an_initialize_that_makes_no_sense_is_told_so(web: Web) -> None:
    for params in ({}, {"protocolVersion": 5}, {"protocolVersion": "2025-11-25", "capabilities": []}):
        reply = web.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        assert reply.json["error"]["code"] == -32602
        assert "Mcp-Session-Id" not in reply.headers


def test_a_version_header_that_is_not_spoken_is_400(web: Web) -> None:
    visit = web.greet()
    reply = visit.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, **{"MCP-Protocol-Version": "1.0"})
    assert reply.status == 400


def test_a_session_is_its_principals_alone(mount: Callable[..., Web]) -> None:
    web = mount(auth=APIKeyAuth({"ann": "key-of-ann", "bob": "key-of-bob"}))
    visit = web.greet(headers={"X-API-Key": "key-of-ann"})
    visit.more = {"headers": {"X-API-Key": "key-of-bob"}}
    assert [reply.status for reply in (visit.ask("ping"), visit.get(), visit.delete())] == [404, 404, 404]
    visit.more = {"headers": {"X-API-Key": "key-of-ann"}}
    assert visit.ask("ping").status == 200


def test_sessions_are_capped_and_expire_when_idle(mount: Callable[..., Web]) -> None:
    now = [1000.0]
    web = mount(store=MemorySessionStore(clock=lambda: now[0]), max_sessions=2, session_timeout=60)
    first = web.greet()
    web.greet()
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    refused = web.post({"jsonrpc": "2.0", "id": 4, "method": "initialize", "params": params})
    assert (refused.status, refused.json["id"]) == (503, 4)
    assert "Retry-After" in refused.headers
    now[0] += 40
    assert first.ask("ping").status == 200
    now[0] += 40
    assert first.ask("ping").status == 200
    web.greet()  # the other one has expired
    now[0] += 61
    assert first.ask("ping").status == 404


def test_one_principal_has_a_cap_of_its_own(mount: Callable[..., Web]) -> None:
    web = mount(auth=APIKeyAuth({"ann": "a-key", "bob": "b-key"}), max_sessions_per_principal=1)
    web.greet(headers={"X-API-Key": "a-key"})
    with pytest.raises(AssertionError):
        web.greet(headers={"X-API-Key": "a-key"})
    web.greet(headers={"X-API-Key": "b-key"})


def test_a_host_of_several_processes_without_a_shared_store_has_no_sessions(mount: Callable[..., Web]) -> None:
    web = mount()
    several = {"wsgi.multiprocess": True}
    visit = web.greet(**several)
    assert visit.session_id is None
    assert visit.result["capabilities"] == {"tools": {}, "resources": {}}
    headers = {"MCP-Protocol-Version": "2025-11-25"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    assert web.post(call, headers, **several).json["result"]["structuredContent"] == {"result": 3}
    assert web.request("GET", {**headers, "Accept": "text/event-stream"}, **several).status == 405
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "name"}}
    assert web.post(ask, headers, **several).json["result"]["isError"]
    with_sessions = mount(sessions=True)
    assert with_sessions.greet(**several).session_id is not None


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_call_that_says_something_is_a_stream_whose_events_have_ids(web: Web) -> None:
    visit = web.greet()
    params = {"name": "steps", "arguments": {"to": 2}, "_meta": {"progressToken": 1}}
    reply = visit.ask("tools/call", params)
    assert reply.is_stream
    events = list(reply.events())
    assert events[0]["data"] == ""  # 2025-11-25 primes: who is cut off now has an id to come back with
    ids = [event["id"] for event in events]
    assert len(set(ids)) == len(ids) == 6
    messages = [event["data"] for event in events[1:]]
    assert sum("notifications/progress" in one for one in messages) == 2
    assert sum("rough" in one for one in messages) == 2
    assert not any("fine" in one for one in messages)
    assert '"result"' in messages[-1]


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18"])
def test_streams_of_older_versions_begin_with_a_message(web: Web, version: str) -> None:
    params = {"name": "steps", "arguments": {"to": 1}, "_meta": {"progressToken": 1}}
    events = list(web.greet(version).ask("tools/call", params).events())
    assert all(event["data"] for event in events)


def test_the_level_of_log_messages_is_the_sessions(web: Web) -> None:
    visit, other = web.greet(), web.greet()
    assert visit.ask("logging/setLevel", {"level": "debug"}).json["result"] == {}
    params = {"name": "steps", "arguments": {"to": 1}}
    assert "fine" in visit.ask("tools/call", params).content.decode()
    assert "fine" not in other.ask("tools/call", params).content.decode()


def test_a_client_comes_back_for_the_rest_from_every_event(web: Web) -> None:
    visit = web.greet()
    params = {"name": "steps", "arguments": {"to": 3}, "_meta": {"progressToken": 1}}
    events = list(visit.ask("tools/call", params).events())
    for at, event in enumerate(events):
        assert list(visit.get(event["id"]).events()) == events[at + 1 :]
    assert visit.get(f"{events[0]['id']}99").status == 400
    assert visit.get("none.1").status == 400
    assert visit.get("../../etc").status == 400
    assert web.greet().get(events[0]["id"]).status == 400  # another session's


def test_a_call_goes_on_when_its_client_is_cut_off(mount: Callable[..., Web]) -> None:
    server = tools()
    go, noticed = threading.Event(), threading.Event()

    @server.tool()
    def patient(context: Context) -> str:
        context.progress(1)
        go.wait(WAIT)
        if context.cancelled:
            noticed.set()
        return "finished"

    visit = mount(server).greet()
    reply = visit.ask("tools/call", {"name": "patient", "_meta": {"progressToken": 1}})
    events = reply.events()
    primed = next(events)
    reply.close()
    again = visit.get(primed["id"])
    go.set()
    messages = list(again.messages())
    assert messages[-1]["result"]["content"][0]["text"] == "finished"
    assert not noticed.is_set()


def test_a_stream_that_the_server_closes_says_when_to_come_back(web: Web) -> None:
    visit = web.greet()
    reply = visit.ask("tools/call", {"name": "pause", "_meta": {"progressToken": 1}})
    events = list(reply.events())
    assert events[-1]["retry"] == "500"
    assert not any('"result"' in event["data"] for event in events)
    messages = list(visit.get(events[-1]["id"]).messages())
    assert messages[-1]["result"]["content"][0]["text"] == "after the pause"


def test_cancelling_ends_the_call_without_an_answer(mount: Callable[..., Web]) -> None:
    server = tools()
    noticed = threading.Event()

    @server.tool()
    def waits(context: Context) -> str:
        context.progress(1)
        if context.wait(WAIT):
            noticed.set()
        return "too late"

    visit = mount(server).greet()
    reply = visit.ask("tools/call", {"name": "waits", "_meta": {"progressToken": 1}}, request_id="w")
    events = reply.events()
    next(events)
    for wrong in ({"requestId": "x"}, {"requestId": ["w"]}, {}):
        assert visit.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": wrong}).status == 202
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w"}}
    assert visit.post(cancel).status == 202
    assert noticed.wait(WAIT)
    assert not any('"result"' in event["data"] for event in events)


def test_the_id_of_a_request_that_is_being_answered_is_refused(mount: Callable[..., Web]) -> None:
    server = tools()
    go = threading.Event()

    @server.tool()
    def waits(context: Context) -> str:
        context.progress(1)
        go.wait(WAIT)
        return "done"

    visit = mount(server).greet()
    reply = visit.ask("tools/call", {"name": "waits", "_meta": {"progressToken": 1}}, request_id=5)
    next(reply.events())
    twin = visit.ask("ping", request_id=5)
    assert (twin.status, twin.json["id"]) == (400, None)
    assert visit.ask("ping", request_id="5").status == 200
    go.set()
    assert list(reply.messages())[-1]["id"] == 5


# -- what is said unasked ---------------------------------------------------------------------------------------------


def test_changes_come_on_the_stream_of_a_get(mount: Callable[..., Web]) -> None:
    server = tools()
    visit = mount(server).greet()
    stream = visit.get()
    assert stream.is_stream
    events = stream.events()
    server.tools_changed()
    server.resource_updated("config://app")
    server.resources_changed()  # when this has come, the one before it has been dropped
    found = [next(events)["data"] for _ in range(2)]
    assert ["tools/list_changed" in found[0], "resources/list_changed" in found[1]] == [True, True]
    assert visit.ask("resources/subscribe", {"uri": "config://app"}).json["result"] == {}
    server.resource_updated("config://app/part")
    updated = next(events)
    assert "resources/updated" in updated["data"]
    assert visit.ask("resources/unsubscribe", {"uri": "config://app"}).json["result"] == {}
    server.resource_updated("config://app")
    server.prompts_changed()
    last = next(events)
    assert "prompts/list_changed" in last["data"]
    stream.close()
    again = visit.get(updated["id"])
    replayed = again.events()
    assert next(replayed) == last
    server.tools_changed()
    assert "tools/list_changed" in next(replayed)["data"]
    again.close()


def test_a_second_stream_takes_the_place_of_the_first(web: Web) -> None:
    visit = web.greet()
    first = visit.get()
    second = visit.get()
    assert list(first.events()) == []
    second.close()


def test_the_streams_of_a_session_end_with_it(web: Web) -> None:
    visit = web.greet()
    stream = visit.get()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, stream.events())
        assert visit.delete().status == 204
        assert reading.result(WAIT) == []


def test_get_wants_to_hear_events(web: Web) -> None:
    visit = web.greet()
    assert web.request("GET", {**visit.headers, "Accept": "application/json"}).status == 406


# -- asking the client ------------------------------------------------------------------------------------------------


def answered(visit: Any, reply: Any, results: dict[str, Any]) -> list[Any]:
    """Answer what is asked on a stream, by method; returns all messages."""
    seen = []
    for message in reply.messages():
        seen.append(message)
        if "method" in message and "id" in message:
            answer = results[message["method"]]
            assert visit.post({"jsonrpc": "2.0", "id": message["id"], **answer}).status == 202
    return seen


CAN = {"elicitation": {}, "roots": {}, "sampling": {}}


def test_the_client_is_asked_on_the_stream_of_its_call(web: Web) -> None:
    visit = web.greet(capabilities=CAN)
    reply = visit.ask("tools/call", {"name": "name"})
    accepted = {"result": {"action": "accept", "content": {"name": "Ann"}}}
    asked, last = answered(visit, reply, {"elicitation/create": accepted})
    assert asked["params"] == {
        "mode": "form",
        "message": "Your name?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
    }
    assert last["result"]["content"][0]["text"] == "accept {'name': 'Ann'}"


def test_a_version_that_knows_no_modes_is_not_told_of_one(web: Web) -> None:
    visit = web.greet("2025-06-18", capabilities=CAN)
    declined = {"elicitation/create": {"result": {"action": "decline"}}}
    asked, last = answered(visit, visit.ask("tools/call", {"name": "name"}), declined)
    assert "mode" not in asked["params"]
    assert last["result"]["content"][0]["text"] == "decline None"


def test_several_questions_are_asked_at_once(web: Web) -> None:
    visit = web.greet(capabilities=CAN)
    answers = {
        "roots/list": {"result": {"roots": [{"uri": "file:///a"}]}},
        "elicitation/create": {"result": {"action": "cancel"}},
    }
    *asked, last = answered(visit, visit.ask("tools/call", {"name": "both"}), answers)
    assert {one["method"] for one in asked} == set(answers)
    assert last["result"]["content"][0]["text"] == "file:///a cancel"


def test_an_error_of_the_client_reaches_the_tool(web: Web) -> None:
    visit = web.greet(capabilities=CAN)
    error = {"elicitation/create": {"error": {"code": -1, "message": "no user"}}}
    *_, last = answered(visit, visit.ask("tools/call", {"name": "name"}), error)
    assert last["error"] == {"code": -1, "message": "no user"}


def test_an_answer_to_nothing_and_of_another_session_is_dropped(web: Web) -> None:
    visit, other = web.greet(capabilities=CAN), web.greet(capabilities=CAN)
    reply = visit.ask("tools/call", {"name": "name"})
    messages = reply.messages()
    asked = next(messages)
    evil = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"name": "Eve"}}}
    assert other.post(evil).status == 202
    assert visit.post({"jsonrpc": "2.0", "id": "none", "result": {}}).status == 202
    own = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"name": "Ann"}}}
    assert visit.post(own).status == 202
    assert visit.post(own).status == 202
    assert "Ann" in next(messages)["result"]["content"][0]["text"]


def test_a_client_that_ends_its_session_is_asked_no_more(web: Web) -> None:
    visit = web.greet(capabilities=CAN)
    reply = visit.ask("tools/call", {"name": "name"})
    next(reply.messages())
    assert visit.delete().status == 204
    reply.close()  # and the fixture finds that no thread waits for the answer


def test_what_was_not_declared_is_not_asked(web: Web) -> None:
    result = web.greet().ask("tools/call", {"name": "name"}).json["result"]
    assert result["isError"]
    assert "elicitation" in result["content"][0]["text"]


# -- batches ----------------------------------------------------------------------------------------------------------


def test_the_one_version_with_batches_has_them_answered_in_one(web: Web) -> None:
    visit = web.greet("2025-03-26")
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 1, "b": 2}}},
        {"jsonrpc": "2.0", "id": 3, "method": "foo/bar"},
        5,
    ]
    reply = visit.post(batch)
    assert reply.status == 200
    found = reply.json
    assert isinstance(found, list)
    assert {one["id"] for one in found} == {1, 2, 3, None}
    assert visit.post(batch[1:2]).status == 202
    newer = web.greet("2025-11-25")
    assert newer.post(batch).status == 400
    assert newer.post(batch, **{"MCP-Protocol-Version": None}).status == 400


def test_a_session_that_is_listened_to_is_not_idle(
    mount: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_sync.server.sessions.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("mcp_sync.server.streams.POLL_SECONDS", 0.02)
    now = [1000.0]
    store = MemorySessionStore(clock=lambda: now[0])
    visit = mount(store=store, session_timeout=60, heartbeat=0.1).greet()
    stream = visit.get()
    body = iter(stream.body)
    for _ in range(3):
        assert next(body) == b": \n\n"
        now[0] += 40
    assert visit.ask("ping").status == 200
    assert visit.delete().status == 204
    assert list(body) == []


# -- how much a client may have us keep -------------------------------------------------------------------------------


def sessions_of(web: Web) -> Any:
    return web.app._sessions


def test_a_client_that_says_too_much_of_itself_gets_no_session(web: Web) -> None:
    for info, capabilities in (({"name": "x" * 70_000}, {}), ({}, {"experimental": {"é" * 33_000: {}}})):
        with pytest.raises(JSONRPCError, match="64 KB") as refused:
            sessions_of(web).begin(Asker("2025-11-25", False, info, capabilities))
        assert refused.value.code == -32602
    assert sessions_of(web).begin(Asker("2025-11-25", False, {"name": "x" * 60_000}))


def test_a_session_subscribes_to_no_more_than_is_kept_of_it(web: Web) -> None:
    visit = web.greet()

    def subscribes(uri: str) -> bool:
        reply = visit.ask("resources/subscribe", {"uri": uri}).json
        assert "result" in reply or reply["error"]["code"] == -32602
        return "result" in reply

    assert not subscribes("a://" + "x" * 8200)
    done = [subscribes(f"a://{number}" + "é" * 4000) for number in range(40)]
    assert sum(done) == done.index(False) == 32
    assert subscribes("a://0" + "é" * 4000)  # it is there already
    assert visit.ask("resources/unsubscribe", {"uri": "a://0" + "é" * 4000}).json["result"] == {}
    assert subscribes("a://a" + "é" * 4000)


def test_a_listen_for_too_much_is_refused(web: Web) -> None:
    for uris in (["a://b"] * 1001, ["a://" + "x" * 8200], [f"a://{number}" + "x" * 8000 for number in range(40)]):
        reply = web.ask("subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}})
        assert (reply.status, reply.json["error"]["code"]) == (400, -32602)


# -- what nobody reads in time ----------------------------------------------------------------------------------------


def test_a_stream_that_is_not_read_ends_and_its_client_comes_back_for_the_rest(mount: Callable[..., Web]) -> None:
    server = tools()
    web = mount(server)
    visit = web.greet()
    stream = visit.get()
    unasked = sessions_of(web)._streams[visit.session_id]
    for number in range(2):
        server.hub.publish(Notice("tools", "", {"number": number}))
    for _ in range(3):
        server.hub.publish(Notice("tools", "", {"much": "x" * 500_000}))
    assert until(lambda: unasked.over, WAIT)
    events = list(stream.events())
    assert ["much" in one["data"] for one in events] == [False, False, True, True]
    again = visit.get(events[1]["id"]).events()
    rest = [next(again) for _ in range(3)]
    assert [one["id"] for one in rest[:2]] == [one["id"] for one in events[2:]]
    assert "much" in rest[2]["data"]


def test_what_was_missed_comes_even_if_it_is_more_than_may_wait(web: Web) -> None:
    visit = web.greet()
    store = sessions_of(web).store
    ids = [store.append("session", visit.session_id, "get", b'"' + b"x" * 400_000 + b'"') for _ in range(6)]
    replayed = visit.get(ids[0]).events()
    assert [next(replayed)["id"] for _ in range(5)] == ids[1:]


def test_who_comes_back_for_a_call_that_was_cancelled_learns_that_it_is_over(mount: Callable[..., Web]) -> None:
    server = tools()
    said = threading.Event()

    @server.tool()
    def waits(context: Context) -> str:
        context.progress(1)
        context.wait(WAIT)
        context.progress(2)
        said.set()
        return "too late"

    visit = mount(server, heartbeat=0.1).greet()
    reply = visit.ask("tools/call", {"name": "waits", "_meta": {"progressToken": 1}}, request_id="w")
    primed = next(reply.events())
    reply.close()
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w"}}
    assert visit.post(cancel).status == 202
    pieces = [piece for _, piece in zip(range(20), visit.get(primed["id"]).body, strict=False)]
    assert len(pieces) < 20
    assert said.wait(WAIT)


def test_nothing_comes_after_the_end_of_a_stream_and_nobody_is_hurt(web: Web) -> None:
    visit = web.greet()
    assert sessions_of(web).record(visit.session_id, "s", b"", True) == "s.1"
    assert sessions_of(web).record(visit.session_id, "s", b"late", False) is None


# -- several processes ------------------------------------------------------------------------------------------------


class Shared(MemorySessionStore):
    """A store of several processes, all of which are this one. It counts, and waits when it is told to."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self.said: list[dict[str, Any]] = []
        self.listened = 0
        self.loaded = 0
        self.open = threading.Event()
        self.open.set()

    def secret(self, name: str) -> bytes:
        return name.encode().ljust(32)

    def broadcast(self, data: bytes) -> None:
        self.said.append(json.loads(data))
        super().broadcast(data)

    def listen(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        self.listened += 1
        return super().listen(callback)

    def load(self, kind: str, key: str) -> dict[str, Any] | None:
        assert self.open.wait(WAIT)
        self.loaded += 1
        return super().load(kind, key)

    def append(self, kind: str, key: str, stream: str, data: bytes, *, last: bool = False) -> str:
        assert self.open.wait(WAIT)
        return super().append(kind, key, stream, data, last=last)

    def heard(self, what: str) -> list[dict[str, Any]]:
        return [one for one in self.said if what in one]


def there(visit: Visit, web: Web) -> Visit:
    """The same session, in another process."""
    return replace(visit, web=web)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_runs_for_a_session_is_withdrawn_when_it_ends(mount: Callable[..., Web], elsewhere: bool) -> None:
    server, store = tools(), Shared()
    noticed = threading.Event()

    @server.tool()
    def waits(context: Context) -> str:
        context.progress(1)
        if context.wait(WAIT):
            noticed.set()
        return "too late"

    here, other = mount(server, store=store), mount(store=store)
    visit, bystander = here.greet(), here.greet()
    kept = bystander.ask("tools/call", {"name": "pause", "_meta": {"progressToken": 1}})
    reply = visit.ask("tools/call", {"name": "waits", "_meta": {"progressToken": 1}})
    next(reply.events())
    assert (there(visit, other) if elsewhere else visit).delete().status == 204
    assert noticed.wait(WAIT)
    assert "progress" in kept.content.decode()


def test_before_anybody_was_served_other_processes_are_neither_told_nor_heard(mount: Callable[..., Web]) -> None:
    server, store = tools(), Shared()
    web = mount(server, store=store)
    server.add_tool(lambda: "", "early")
    assert (store.said, store.listened) == ([], 0)
    web.greet()
    server.add_tool(lambda: "", "late")
    server.resource_updated("config://app")
    assert len(store.heard("notice")) == 2
    assert store.listened == 1


def test_a_resource_that_changes_is_told_by_a_process_that_serves_nobody(mount: Callable[..., Web]) -> None:
    store, writer = Shared(), tools()
    visit = mount(store=store).greet()
    stream = visit.get()
    mount(writer, store=store)
    visit.ask("resources/subscribe", {"uri": "config://app"})
    writer.resource_updated("config://app")
    assert "updated" in next(stream.events())["data"]
    stream.close()


def test_many_that_come_at_once_listen_once(mount: Callable[..., Web]) -> None:
    store = Shared()
    web = mount(store=store)
    in_threads(8, lambda number: sessions_of(web).hear())
    assert store.listened == 1
    web.app.close()
    sessions_of(web).hear()
    assert store.listened == 2


def test_who_cannot_hear_is_told_so_and_the_next_tries_again(
    mount: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Shared()
    web = mount(store=store)
    go = threading.Event()

    def refuse(callback: Callable[[bytes], None]) -> Callable[[], None]:
        assert go.wait(WAIT)
        raise MCPConnectionError("away")

    def hear(number: int) -> None:
        if number == 0:
            go.set()
        with pytest.raises(MCPConnectionError, match="away"):
            sessions_of(web).hear()

    with monkeypatch.context() as patch:
        patch.setattr(store, "listen", refuse)
        in_threads(4, hear)
    sessions_of(web).hear()
    assert store.listened == 1


def test_an_application_that_closes_while_it_begins_to_hear_does_not_go_on_hearing(
    mount: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Shared()
    web = mount(store=store)
    begun, go = threading.Event(), threading.Event()
    listen = store.listen

    def slowly(callback: Callable[[bytes], None]) -> Callable[[], None]:
        begun.set()
        assert go.wait(WAIT)
        return listen(callback)

    monkeypatch.setattr(store, "listen", slowly)
    with ThreadPoolExecutor(1) as pool:
        hearing = pool.submit(sessions_of(web).hear)
        assert begun.wait(WAIT)
        web.app.close()
        go.set()
        hearing.result(WAIT)
    assert store._callbacks == {}


def test_who_tells_of_a_change_does_not_wait_for_the_store(mount: Callable[..., Web]) -> None:
    server, store = tools(), Shared()
    visit = mount(server, store=store).greet()
    stream = visit.get()
    store.open.clear()
    with ThreadPoolExecutor(1) as pool:
        telling = pool.submit(server.tools_changed)
        done, _ = wait([telling], 2.0)
        store.open.set()
    assert done
    assert "tools/list_changed" in next(stream.events())["data"]
    stream.close()


def test_what_a_session_subscribed_to_is_not_looked_up_for_every_change(mount: Callable[..., Web]) -> None:
    server, store = tools(), Shared()
    here, other = mount(server, store=store), mount(store=store)
    visit = here.greet()
    stream = visit.get()
    assert there(visit, other).ask("resources/subscribe", {"uri": "config://app"}).json["result"] == {}
    before = store.loaded
    for number in range(20):
        server.resource_updated(f"config://app/{number}")
        server.resource_updated(f"config://other/{number}")
    events = stream.events()
    assert [f"config://app/{number}" in next(events)["data"] for number in range(20)] == [True] * 20
    assert store.loaded - before <= 1
    assert there(visit, other).ask("resources/unsubscribe", {"uri": "config://app"}).json["result"] == {}
    server.resource_updated("config://app")
    server.tools_changed()
    assert "tools/list_changed" in next(events)["data"]
    stream.close()


def test_a_stream_ends_when_a_change_finds_its_session_gone(mount: Callable[..., Web]) -> None:
    server = tools()
    for change in (server.tools_changed, lambda: server.resource_updated("config://app")):
        store = MemorySessionStore()
        visit = mount(server, store=store).greet()
        stream = visit.get()
        store.drop("session", str(visit.session_id))
        change()
        assert list(stream.events()) == []


def test_only_what_is_for_another_process_is_told_to_all(mount: Callable[..., Web]) -> None:
    store = Shared()
    here, other = mount(store=store), mount(store=store)
    visit = other.greet(capabilities=CAN)
    reply = visit.ask("tools/call", {"name": "name"})
    messages = reply.messages()
    asked = next(messages)["id"]
    mine = sessions_of(here).question_id()
    for strange in ("nobody asked", 5, "", mine, asked.replace(".", "-"), asked + "x" * 200, f"é{asked[1:]}"):
        assert there(visit, here).post({"jsonrpc": "2.0", "id": strange, "result": {}}).status == 202
    assert store.heard("answered") == []
    answer = {"action": "accept", "content": {"name": "Ann"}}
    assert there(visit, here).post({"jsonrpc": "2.0", "id": asked, "result": answer}).status == 202
    assert "Ann" in next(messages)["result"]["content"][0]["text"]
    assert len(store.heard("answered")) == 1


def test_an_answer_that_is_too_large_for_a_message_is_not_told_to_others(mount: Callable[..., Web]) -> None:
    store = Shared()
    here, other = mount(Server("small", max_message_size=2000), store=store, max_body_size=9000), mount(store=store)
    visit = here.greet()
    question = sessions_of(other).question_id()
    for size, told in ((1500, 1), (2500, 1)):
        answer = {"jsonrpc": "2.0", "id": question, "result": {"x": "y" * size}}
        assert visit.post(answer).status == 202
        assert len(store.heard("answered")) == told


def test_only_cancels_of_ids_that_are_none_too_long_are_told_to_others(mount: Callable[..., Web]) -> None:
    store = Shared()
    visit = mount(store=store).greet()
    for request_id, told in (("x" * 201, 0), (10**201, 0), ("x" * 200, 1), (7, 2)):
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}
        assert visit.post(cancel).status == 202
        assert len(store.heard("cancelled")) == told
