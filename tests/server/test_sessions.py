"""The handshake era over HTTP: sessions, their streams, what is asked of clients, coming back for the rest.

WIRE.md D, H; FAULTS.md 5.6 (WSGI: no session 400, unknown 404, another's session 404, caps, idle expiry).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from server.web import STATELESS, Web

from mcp_sync.credentials import APIKeyAuth
from mcp_sync.server import Context, Elicit, MemorySessionStore, Roots, Server

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
    server.tools_changed()
    server.resource_updated("config://app")
    assert visit.ask("resources/subscribe", {"uri": "config://app"}).json["result"] == {}
    server.resource_updated("config://app/part")
    assert visit.ask("resources/unsubscribe", {"uri": "config://app"}).json["result"] == {}
    server.resource_updated("config://app")
    server.resources_changed()
    events = stream.events()
    found = [next(events) for _ in range(3)]
    assert ["tools/list_changed" in found[0]["data"], "updated" in found[1]["data"]] == [True, True]
    assert "resources/list_changed" in found[2]["data"]
    stream.close()
    again = visit.get(found[0]["id"])
    replayed = again.events()
    assert [next(replayed), next(replayed)] == found[1:]
    server.prompts_changed()
    assert "prompts/list_changed" in next(replayed)["data"]
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
