"""Tools that go on in the background: the extension io.modelcontextprotocol/tasks (WIRE.md O5 to O7, SEP-2663)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import mcp_types as types
import pytest
from server.wire import HANDSHAKE, META, PATIENCE, Wire, wire_to

from mcp_sync import Client, JSONRPCError, MCPError, MCPTimeoutError, ToolError
from mcp_sync.deadlines import Deadline
from mcp_sync.server import Context, Elicit, MemorySessionStore, Roots, Server, Withdrawn
from mcp_sync.server import tasks as tasks_module
from mcp_sync.server.hub import Notice

TASKS = META + "tasks"
KNOWN: dict[str, Any] = {"extensions": {TASKS: {}}}
ASKABLE: dict[str, Any] = {**KNOWN, "elicitation": {}}
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
ACCEPT = {"action": "accept", "content": {"name": "Ann"}}


class Tools:
    """A server whose tools run as tasks, and what the test has to do with them."""

    def __init__(self, **options: Any) -> None:
        self.server = server = Server("s")
        server.use_tasks(poll_interval=0.01, **options)
        self.go, self.entered, self.ended = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
        self.saw: list[Any] = []
        for function, mode in [(self.work, "optional"), (self.must, "required"), (self.fail, "optional")]:
            server.add_tool(function, task=mode)
        for function in (self.name, self.both, self.again, self.places, self.impatient):
            server.add_tool(function, task="optional")
        server.add_tool(self.later)
        server.add_tool(self.later, "at_once", task="optional")

    def work(self, context: Context, label: str = "") -> str:
        self.entered.release()
        try:
            while not self.go.is_set():
                context.check()
                context.wait(0.005)
        except Withdrawn:
            self.saw.append("withdrawn")
            raise
        finally:
            self.ended.release()
        return f"worked {label}"

    def must(self) -> str:
        return "had to"

    def fail(self, how: str) -> Any:
        if how == "sentence":
            raise ToolError("no luck")
        if how == "error":
            raise JSONRPCError(-32050, "broken", {"why": 1})
        if how == "leave":
            raise SystemExit(2)
        return types.CallToolResult(content=[types.TextContent(text="\ud800")])

    def name(self, context: Context) -> str:
        answer = context.elicit("Name?", NAME)
        return f"{answer.action} {answer.content}"

    def both(self, context: Context) -> str:
        found = context.ask(one=Elicit("One?", NAME), two=Elicit("Two?", NAME))
        return f"{found['one'].data} {found['two'].action}"

    def again(self, context: Context) -> str:
        keys = ["same", "same-2", "same"]
        return " ".join(context.ask(**{key: Elicit(key, NAME)})[key].data["name"] for key in keys)

    def places(self, context: Context) -> str:
        return str(context.ask(places=Roots()))

    def impatient(self, context: Context) -> str:
        try:
            context.elicit("Name?", NAME, timeout=0.05)
        except MCPTimeoutError:
            self.entered.release()
            assert self.go.wait(PATIENCE)
        return "never mind"

    def later(self, context: Context, ask: bool = False) -> str:
        name = context.elicit("Name?", NAME).data["name"] if ask else "you"

        def rest(context: Context) -> str:
            inner: str = context.as_task(lambda context: f"for {name}")  # a task begins none
            return self.work(context, inner)

        done: str = context.as_task(rest)
        return done

    def await_entered(self) -> None:
        assert self.entered.acquire(timeout=PATIENCE)

    def await_ended(self) -> None:
        assert self.ended.acquire(timeout=PATIENCE)

    def all_over(self) -> None:
        """Wait until no task runs any more."""
        patience = Deadline(PATIENCE)
        while self.server.tasks._links:  # type: ignore[union-attr]
            assert not patience.expired
            threading.Event().wait(0.005)


@pytest.fixture
def tools() -> Iterator[Tools]:
    tools = Tools()
    yield tools
    tools.go.set()
    tools.server.close(PATIENCE)


@pytest.fixture
def wire(tools: Tools) -> Iterator[Wire]:
    with wire_to(tools.server, **ASKABLE) as wire:
        yield wire


def start(wire: Wire, tool: str, **arguments: Any) -> str:
    started = wire.call(tool, arguments)
    assert started["resultType"] == "task", started
    return str(started["taskId"])


def state_of(wire: Wire, task_id: str, *until: str) -> dict[str, Any]:
    """Return how a task stands, as soon as it stands like that."""
    patience = Deadline(PATIENCE)
    while True:
        state = wire.result("tasks/get", {"taskId": task_id})
        assert state["resultType"] == "complete"
        if not until or state["status"] in until:
            return state
        assert not patience.expired, state
        threading.Event().wait(0.005)


def update(wire: Wire, task_id: str, **answers: Any) -> None:
    result = wire.result("tasks/update", {"taskId": task_id, "inputResponses": answers})
    assert {key for key in result if key != "_meta"} == {"resultType"}


def text_of(state: dict[str, Any]) -> str:
    return str(state["result"]["content"][0]["text"])


# -- from the beginning to the end ------------------------------------------------------------------------------------


def test_a_task_is_begun_asked_about_and_completed(tools: Tools, wire: Wire) -> None:
    assert wire.result("server/discover")["capabilities"]["extensions"] == {TASKS: {}}
    started = wire.call("work", {"label": "hard"})
    del started["_meta"]
    times = {"createdAt", "lastUpdatedAt"}
    assert set(started) == {"resultType", "taskId", "status", "ttlMs", "pollIntervalMs", *times}
    assert (started["resultType"], started["status"]) == ("task", "working")
    assert (started["ttlMs"], started["pollIntervalMs"]) == (3_600_000, 10)
    assert len(started["taskId"]) >= 32
    assert all(datetime.fromisoformat(started[name].replace("Z", "+00:00")).tzinfo for name in times)
    working = state_of(wire, started["taskId"])
    assert set(working) - {"_meta"} == set(started)
    tools.go.set()
    done = state_of(wire, started["taskId"], "completed")
    assert set(done) - {"_meta"} == {*started, "result"}
    assert done["result"] == {
        "content": [{"type": "text", "text": "worked hard"}],
        "structuredContent": {"result": "worked hard"},
        "isError": False,
    }
    assert done["createdAt"] == started["createdAt"]
    assert done["lastUpdatedAt"] >= started["lastUpdatedAt"]


@pytest.mark.parametrize(
    ("how", "status", "error"),
    [
        ("sentence", "completed", None),
        ("error", "failed", {"code": -32050, "message": "broken", "data": {"why": 1}}),
        ("leave", "failed", {"code": -32603, "message": "internal error"}),
        ("unsayable", "failed", {"code": -32603, "message": "internal error"}),
    ],
)
def test_what_goes_wrong_in_a_task_is_its_outcome(
    wire: Wire, how: str, status: str, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of(wire, start(wire, "fail", how=how), "completed", "failed")
    assert (state["status"], state.get("error")) == (status, error)
    if error is None:
        assert (state["result"]["isError"], text_of(state)) == (True, "no luck")


def test_arguments_that_do_not_fit_are_told_as_ever(wire: Wire) -> None:
    state = state_of(wire, start(wire, "fail"), "completed")
    assert state["result"]["isError"] is True
    assert text_of(state).startswith("invalid arguments: how: ")


def test_who_does_not_know_tasks_gets_results_or_is_told_what_is_missing(tools: Tools) -> None:
    tools.go.set()
    missing = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
    for capabilities in ({}, {"extensions": {}}, {"extensions": [TASKS]}, {"extensions": {TASKS: True}}):
        with wire_to(tools.server, **capabilities) as wire:
            assert wire.call("work")["structuredContent"] == {"result": "worked "}
            assert wire.call("later")["content"][0]["text"] == "worked for you"
            for method, params in [
                ("tools/call", {"name": "must"}),
                *((f"tasks/{verb}", {"taskId": "x", "inputResponses": {}}) for verb in ("get", "update", "cancel")),
            ]:
                error = wire.error(method, params)
                assert (error["code"], error["data"]) == (-32021, missing), method
    with wire_to(tools.server, HANDSHAKE, **KNOWN) as wire:  # where this extension does not exist
        assert wire.call("work")["structuredContent"] == {"result": "worked "}
        assert wire.call("later")["content"][0]["text"] == "worked for you"
        assert wire.error("tools/call", {"name": "must"})["code"] == -32602
        assert wire.error("tasks/get", {"taskId": "x"})["code"] == -32601


def test_whether_it_becomes_a_task_is_for_the_server_to_say(tools: Tools, wire: Wire) -> None:
    tools.server.add_tool(lambda: "at once", "plain")
    result = wire.result("tools/call", {"name": "plain", "task": {"ttl": 5}})
    assert (result["resultType"], result["content"][0]["text"]) == ("complete", "at once")
    for method in ("tasks/list", "tasks/result"):
        assert wire.error(method, {"taskId": "x"})["code"] == -32601


def test_a_task_that_does_not_exist_is_invalid(wire: Wire) -> None:
    for task_id in ("none", "", None, 5, ["x"], {}):
        for verb in ("get", "update", "cancel"):
            error = wire.error(f"tasks/{verb}", {"taskId": task_id, "inputResponses": {}})
            assert error["code"] == -32602


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_is_told_so_and_stays_cancelled(tools: Tools, wire: Wire) -> None:
    task_id = start(wire, "work")
    tools.await_entered()
    result = wire.result("tasks/cancel", {"taskId": task_id})
    assert {key for key in result if key != "_meta"} == {"resultType"}
    assert state_of(wire, task_id)["status"] == "cancelled"
    tools.await_ended()
    assert tools.saw == ["withdrawn"]
    for _ in range(2):
        wire.result("tasks/cancel", {"taskId": task_id})
        update(wire, task_id, anything={})
        state = state_of(wire, task_id)
        assert state["status"] == "cancelled"
        assert "result" not in state


def test_a_task_that_does_not_care_is_cancelled_all_the_same(tools: Tools, wire: Wire) -> None:
    tools.server.add_tool(lambda: tools.go.wait(PATIENCE), "stubborn", task="optional")
    task_id = start(wire, "stubborn")
    wire.ask("subscriptions/listen", {"notifications": {"taskIds": [task_id]}})
    wire.next()
    wire.ask("tasks/cancel", {"taskId": task_id})
    assert wire.news("notifications/tasks")["params"]["status"] == "cancelled"
    tools.go.set()
    tools.all_over()
    assert [message for message in wire.rest() if "method" in message] == []  # that it has ended is no news any more
    assert state_of(wire, task_id)["status"] == "cancelled"


def test_completed_is_for_ever_too(tools: Tools, wire: Wire) -> None:
    tools.go.set()
    task_id = start(wire, "work")
    done = state_of(wire, task_id, "completed")
    wire.result("tasks/cancel", {"taskId": task_id})
    assert state_of(wire, task_id) == done


def test_cancelling_the_call_does_not_cancel_the_task(tools: Tools, wire: Wire) -> None:
    id_ = wire.ask("tools/call", {"name": "work"})
    task_id = wire.answer(id_)["result"]["taskId"]
    tools.await_entered()
    wire.cancel(id_)
    assert wire.rest() == []
    tools.go.set()
    assert state_of(wire, task_id, "completed", "cancelled")["status"] == "completed"


def test_a_task_outlives_the_connection_that_began_it(tools: Tools) -> None:
    with Client(tools.server, timeout=PATIENCE) as first:
        task = first.start_task("work", {"label": "on"})
        task_id = task.task_id  # type: ignore[union-attr]
    tools.await_entered()
    tools.go.set()
    with Client(tools.server, timeout=PATIENCE) as second:
        assert second.get_task(task_id).result().text == "worked on"


def test_closing_the_server_stops_what_runs_and_what_has_ended_is_kept(tools: Tools, wire: Wire) -> None:
    tools.go.set()
    done = start(wire, "work")
    state_of(wire, done, "completed")
    tools.go.clear()
    running, asking = start(wire, "work"), start(wire, "name")
    state_of(wire, asking, "input_required")
    tools.server.close(PATIENCE)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mcp-task")]
    with wire_to(tools.server, **KNOWN) as after:
        states = [state_of(after, task_id)["status"] for task_id in (done, running, asking)]
        assert states == ["completed", "cancelled", "cancelled"]
        tools.go.set()
        state_of(after, start(after, "work"), "completed")  # it can be used again


# -- asking -----------------------------------------------------------------------------------------------------------


def test_a_task_asks_when_it_is_asked_about(wire: Wire) -> None:
    task_id = start(wire, "name")
    asked = state_of(wire, task_id, "input_required")
    params = {"mode": "form", "message": "Name?", "requestedSchema": NAME}
    assert asked["inputRequests"] == {"elicit-1": {"method": "elicitation/create", "params": params}}
    assert "requestState" not in asked
    update(wire, task_id, **{"elicit-1": ACCEPT})
    done = state_of(wire, task_id, "completed")
    assert text_of(done) == "accept {'name': 'Ann'}"
    assert "inputRequests" not in done


def test_two_questions_at_once_may_be_answered_one_by_one_and_each_once(wire: Wire) -> None:
    task_id = start(wire, "both")
    assert set(state_of(wire, task_id, "input_required")["inputRequests"]) == {"one", "two"}
    update(wire, task_id, one=ACCEPT, other=ACCEPT)
    update(wire, task_id, one={"action": "accept", "content": {"name": "Eve"}})  # too late
    state = state_of(wire, task_id)
    assert (state["status"], set(state["inputRequests"])) == ("input_required", {"two"})
    update(wire, task_id, two={"action": "decline"})
    assert text_of(state_of(wire, task_id, "completed")) == "{'name': 'Ann'} decline"


def test_no_key_is_used_twice_in_the_life_of_a_task(wire: Wire) -> None:
    task_id, keys = start(wire, "again"), []
    for name in "abc":
        state = state_of(wire, task_id, "input_required")
        while set(state.get("inputRequests", keys)) <= set(keys):  # the answer has not sunk in yet
            state = state_of(wire, task_id, "input_required")
        (key,) = state["inputRequests"]
        keys.append(key)
        update(wire, task_id, **{key: {"action": "accept", "content": {"name": name}}})
    assert text_of(state_of(wire, task_id, "completed")) == "a b c"
    assert len(set(keys)) == 3


def test_answers_that_make_no_sense_are_refused_or_fail_the_tool(wire: Wire) -> None:
    task_id = start(wire, "name")
    state_of(wire, task_id, "input_required")
    for responses in (None, [], "x", 5, {"elicit-1": 5}, {"elicit-1": None}, {"other": []}):
        error = wire.error("tasks/update", {"taskId": task_id, "inputResponses": responses})
        assert error["code"] == -32602
    assert wire.error("tasks/update", {"taskId": task_id})["code"] == -32602
    assert state_of(wire, task_id)["status"] == "input_required"
    update(wire, task_id, **{"elicit-1": {"action": "perhaps"}})
    assert state_of(wire, task_id, "completed")["result"]["isError"] is True


def test_what_is_not_answered_in_time_is_asked_no_more(tools: Tools, wire: Wire) -> None:
    task_id = start(wire, "impatient")
    tools.await_entered()
    state = state_of(wire, task_id)
    assert (state["status"], state.get("inputRequests")) == ("working", None)
    tools.go.set()
    assert text_of(state_of(wire, task_id, "completed")) == "never mind"


def test_a_task_does_not_ask_for_what_the_client_has_not_declared(wire: Wire) -> None:
    error = state_of(wire, start(wire, "places"), "failed")["error"]
    assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {"roots": {}}})


def test_a_task_that_is_cancelled_while_it_asks_ends(tools: Tools, wire: Wire) -> None:
    task_id = start(wire, "name")
    state_of(wire, task_id, "input_required")
    wire.result("tasks/cancel", {"taskId": task_id})
    state = state_of(wire, task_id)
    assert (state["status"], state.get("inputRequests")) == ("cancelled", None)
    tools.all_over()


def test_our_client_answers_what_a_task_asks(tools: Tools) -> None:
    asked = []

    def fill_in(params: Any) -> dict[str, Any]:
        asked.append(params.message)
        return {"name": "Bob"}

    with Client(tools.server, timeout=PATIENCE, elicitation=fill_in) as client:
        assert client.start_task("both").result().text == "{'name': 'Bob'} accept"  # type: ignore[union-attr]
        assert sorted(asked) == ["One?", "Two?"]
        tools.go.set()
        assert client.call_tool("name").text == "accept {'name': 'Bob'}"
        assert client.start_task("must").result().text == "had to"  # type: ignore[union-attr]
        task = client.start_task("fail", {"how": "error"})
        with pytest.raises(JSONRPCError, match="broken"):
            task.result()  # type: ignore[union-attr]


def test_our_client_cancels_a_task(tools: Tools) -> None:
    with Client(tools.server, timeout=PATIENCE) as client:
        task = client.start_task("work")
        tools.await_entered()
        task.cancel()  # type: ignore[union-attr]
        with pytest.raises(MCPError, match="cancelled"):
            task.result()  # type: ignore[union-attr]
    tools.await_ended()


# -- a tool that decides for itself -----------------------------------------------------------------------------------


def test_a_tool_may_go_on_in_the_background(tools: Tools, wire: Wire) -> None:
    task_id = start(wire, "later")
    tools.go.set()
    assert text_of(state_of(wire, task_id, "completed")) == "worked for you"


def test_what_is_in_the_background_already_goes_on_there(tools: Tools, wire: Wire) -> None:
    task_id = start(wire, "at_once")
    tools.go.set()
    assert text_of(state_of(wire, task_id, "completed")) == "worked for you"


def test_a_tool_may_ask_first_and_then_go_on_in_the_background(tools: Tools, wire: Wire) -> None:
    params: dict[str, Any] = {"name": "later", "arguments": {"ask": True}}
    asked = wire.result("tools/call", params)
    assert (asked["resultType"], set(asked["inputRequests"])) == ("input_required", {"elicit-1"})
    started = wire.result("tools/call", {**params, "inputResponses": {"elicit-1": ACCEPT}})
    assert started["resultType"] == "task"
    assert "requestState" not in started
    tools.go.set()
    assert text_of(state_of(wire, started["taskId"], "completed")) == "worked for Ann"


def test_two_tools_that_go_on_at_once_share_one_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    server, ready = Server("s"), threading.Barrier(4, timeout=PATIENCE)

    def slowly() -> MemorySessionStore:
        threading.Event().wait(0.05)
        return MemorySessionStore()

    monkeypatch.setattr(tasks_module, "MemorySessionStore", slowly)

    @server.tool()
    def later(context: Context) -> str:
        ready.wait()
        done: str = context.as_task(lambda context: "done")
        return done

    with wire_to(server, **KNOWN) as wire:
        for id_ in range(4):
            wire.ask("tools/call", {"name": "later"}, id_=id_)
        assert {wire.next()["result"]["resultType"] for _ in range(4)} == {"task"}
    assert len(server.extensions) == 1


# -- whose they are, how long, how many -------------------------------------------------------------------------------


def test_a_task_is_its_principals_alone(tools: Tools, wire: Wire) -> None:
    wire.conversation._principal = "ann"
    task_id = start(wire, "work")
    for other in ("bob", None, "Ann"):
        wire.conversation._principal = other
        for verb in ("get", "update", "cancel"):
            error = wire.error(f"tasks/{verb}", {"taskId": task_id, "inputResponses": {}})
            assert (error["code"], error["message"]) == (-32602, "there is no such task")
        listening = wire.ask("subscriptions/listen", {"notifications": {"taskIds": [task_id]}})
        assert wire.next()["params"]["notifications"] == {}
        wire.cancel(listening)
    wire.conversation._principal = "ann"
    assert state_of(wire, task_id)["status"] == "working"
    assert not [key for key in state_of(wire, task_id) if key in ("principal", "answers", "asked")]


def test_a_task_is_forgotten_when_nobody_asks_about_it(tools: Tools, wire: Wire) -> None:
    now = [1000.0]
    tools.server.store = MemorySessionStore(clock=lambda: now[0])
    tools.go.set()
    task_id = start(wire, "work")
    state_of(wire, task_id, "completed")
    now[0] += 3000
    state_of(wire, task_id)
    now[0] += 3000
    state_of(wire, task_id)
    now[0] += 3601
    assert wire.error("tasks/get", {"taskId": task_id})["code"] == -32602


def test_there_are_not_endlessly_many_tasks(caplog: pytest.LogCaptureFixture) -> None:
    few, busy = Tools(max_tasks=2), Tools(max_running=1)
    with wire_to(few.server, **KNOWN) as wire:
        few.go.set()
        for _ in range(2):
            state_of(wire, start(wire, "work"), "completed")
        assert wire.error("tools/call", {"name": "work"})["code"] == -32603
    with wire_to(busy.server, **KNOWN) as wire:
        start(wire, "work")
        assert wire.error("tools/call", {"name": "work"})["code"] == -32603
        assert len(busy.server.tasks.store._records) == 1  # type: ignore[union-attr]  # of the refused one nothing is kept
        busy.go.set()


# -- notices ----------------------------------------------------------------------------------------------------------


def test_who_listens_hears_every_state_of_a_task(tools: Tools, wire: Wire) -> None:
    task_id, other = start(wire, "name"), start(wire, "name")
    state_of(wire, task_id, "input_required")
    state_of(wire, other, "input_required")
    wanted = {"taskIds": [task_id, "none", ""], "toolsListChanged": True}
    listening = wire.ask("subscriptions/listen", {"notifications": wanted}, id_="l")
    honoured = {"toolsListChanged": True, "taskIds": [task_id]}
    assert wire.next()["params"] == {"_meta": {META + "subscriptionId": listening}, "notifications": honoured}
    wire.ask("tasks/update", {"taskId": task_id, "inputResponses": {"elicit-1": ACCEPT}}, id_=1)
    told = []
    while not told or told[-1]["status"] != "completed":
        message = wire.next()
        if "method" in message:
            assert message["method"] == "notifications/tasks"
            assert message["params"].pop("_meta") == {META + "subscriptionId": listening}
            told.append(message["params"])
    done = state_of(wire, task_id)
    assert told[-1] == {key: value for key, value in done.items() if key not in ("resultType", "_meta")}
    assert {state["status"] for state in told[:-1]} == {"working"}  # answered, and then read
    assert {state["taskId"] for state in told} == {task_id}
    wire.cancel(listening)


def test_task_ids_make_sense_or_are_not_honoured(tools: Tools, wire: Wire) -> None:
    task_id = start(wire, "work")
    for ids in (5, "x", {}, [5], [None], [[task_id]]):
        assert wire.error("subscriptions/listen", {"notifications": {"taskIds": ids}})["code"] == -32602
    wire.capabilities = {}
    wire.ask("subscriptions/listen", {"notifications": {"taskIds": [task_id]}})
    assert wire.next()["params"]["notifications"] == {}


def test_what_a_task_says_of_its_progress_is_its_status_message(tools: Tools, wire: Wire) -> None:
    @tools.server.tool(task="optional")
    def report(context: Context) -> None:
        context.progress(1, 2, "half of it")
        context.info("this goes nowhere")
        tools.entered.release()
        assert tools.go.wait(PATIENCE)

    started = wire.call("report", meta={"progressToken": 5, META + "logLevel": "debug"})
    tools.await_entered()
    assert state_of(wire, started["taskId"])["statusMessage"] == "half of it"
    assert wire.rest() == []
    tools.go.set()


# -- several processes ------------------------------------------------------------------------------------------------


def test_another_process_with_the_same_store_answers_for_a_task(tools: Tools, wire: Wire) -> None:
    other, store = Tools(), MemorySessionStore()

    def relay(notice: Notice) -> None:
        for server in (tools.server, other.server):
            server.hub.deliver(Notice.decode(notice.encode()))

    for server in (tools.server, other.server):
        server.store, server.hub.relay = store, relay
    with wire_to(other.server, **ASKABLE) as there:
        asking, working = start(wire, "name"), start(wire, "work")
        assert set(state_of(there, asking, "input_required")["inputRequests"]) == {"elicit-1"}
        there.ask("subscriptions/listen", {"notifications": {"taskIds": [asking]}})
        there.next()
        update(there, asking, **{"elicit-1": ACCEPT})
        assert there.news("notifications/tasks")["params"]["taskId"] == asking
        assert text_of(state_of(there, asking, "completed")) == "accept {'name': 'Ann'}"
        there.result("tasks/cancel", {"taskId": working})
        tools.await_ended()
        assert tools.saw == ["withdrawn"]

