"""Tasks: tool calls that the server works on while nobody waits, in both eras."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from client.scripted import HANDSHAKE, LATER, Asked, Scripted, object_of, structured, text, tool

from mcp_sync import (
    Client,
    JSONRPCError,
    LocalProtocolError,
    MCPError,
    MCPTimeoutError,
    RemoteProtocolError,
    Task,
    ToolResult,
)

OFFERED = {"tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}}
EXTENSION = "io.modelcontextprotocol/tasks"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}


def state(status: str, **more: Any) -> dict[str, Any]:
    """Return how a task of the handshake era stands."""
    return {"taskId": "t-1", "status": status, "createdAt": "", "lastUpdatedAt": "", "ttl": 60000, **more}


def flat(status: str, **more: Any) -> dict[str, Any]:
    """Return how a task of the stateless era stands; it wants to be polled soon."""
    return {"taskId": "t-1", "status": status, "pollIntervalMs": 1, "ttlMs": None, **more}


def made(status: str = "working", **more: Any) -> dict[str, Any]:
    """Return what announces a task of the stateless era."""
    return {"resultType": "task", **flat(status, **more)}


# -- 2025-11-25 -------------------------------------------------------------------------------------------------------


def handshake(**table: Any) -> Scripted:
    """Return a server whose every call becomes the task t-1."""
    names = {name.replace("_", "/", 1): function for name, function in table.items()}
    begun = {"tools/call": lambda ask: {"task": state("working")}, **names}
    return Scripted(begun, era=HANDSHAKE, capabilities=OFFERED)


def test_a_task_of_the_handshake_era_is_started_and_its_result_waited_for_by_the_server() -> None:
    server = handshake(tasks_result=lambda ask: text("done"))
    with Client(server) as client:
        task = client.start_task("t", {"x": 1}, ttl=5000)
        assert isinstance(task, Task)
        assert (task.task_id, task.status, task.done) == ("t-1", "working", False)
        result = task.result()
        assert isinstance(result, ToolResult)
        assert result.text == "done"
        assert task.done
    assert server.asked("tools/call")[0].params == {"name": "t", "arguments": {"x": 1}, "task": {"ttl": 5000}}
    assert server.asked("tasks/result")[0].params == {"taskId": "t-1"}


def test_a_result_of_a_task_is_unwrapped_and_checked_like_any_other() -> None:
    server = handshake(
        tasks_result=lambda ask: structured({"result": 3}),
        tools_list=lambda ask: {"tools": [tool("t", object_of(result={"type": "integer"}))]},
    )
    with Client(server) as client:
        assert client.start_task("t").result().data == 3


def test_a_task_tells_how_it_stands_and_can_be_cancelled() -> None:
    server = handshake(
        tasks_get=lambda ask: state("working", statusMessage="half way"),
        tasks_cancel=lambda ask: state("cancelled"),
    )
    with Client(server) as client:
        task = client.start_task("t")
        assert task.refresh() is task
        assert task.state["statusMessage"] == "half way"
        task.cancel()
        assert task.status == "cancelled"
        assert task.done
        assert repr(task) == "<Task t-1 cancelled>"


def test_tasks_are_listed_and_found_again() -> None:
    server = handshake(
        tasks_list=lambda ask: {"tasks": [state("working")]} if "cursor" in ask.params else paged(state("failed")),
        tasks_get=lambda ask: {**state("completed"), "taskId": ask.params["taskId"]},
        tasks_result=lambda ask: text("old news"),
    )
    with Client(server) as client:
        assert [task.status for task in client.list_tasks()] == ["failed", "working"]
        again = client.get_task("t-9")
        assert (again.task_id, again.done) == ("t-9", True)
        assert again.result().text == "old news"


def paged(item: Any) -> dict[str, Any]:
    """Return a page that is not the last."""
    return {"tasks": [item], "nextCursor": "b"}


def test_a_task_that_nobody_knows_is_an_error_of_the_server() -> None:
    def refuse(ask: Asked) -> Any:
        raise JSONRPCError(-32602, "no such task")

    with Client(handshake(tasks_get=refuse)) as client, pytest.raises(JSONRPCError, match="tasks/get: no such task"):
        client.get_task("t-1")


def test_a_task_that_asks_while_its_result_is_waited_for_is_answered() -> None:
    asked: list[Any] = []

    def answer(ask: Asked) -> Any:
        helper = threading.Thread(target=lambda: (asked.append(server.ask("roots/list")), ask.answer(text("thanks"))))
        helper.start()
        return LATER

    server = handshake(tasks_result=answer)
    with Client(server, roots=["file:///r"]) as client:
        assert client.start_task("t").result().text == "thanks"
    assert asked[0].result == {"roots": [{"uri": "file:///r"}]}


def test_the_result_of_a_task_may_be_given_up_and_the_task_goes_on() -> None:
    server = handshake(tasks_result=lambda ask: LATER, tasks_get=lambda ask: state("working"))
    with Client(server) as client:
        task = client.start_task("t")
        with pytest.raises(MCPTimeoutError, match="tasks/result"):
            task.result(timeout=0.2)
        assert task.refresh().status == "working"
    assert server.heard("tasks/cancel") == 0


def test_older_versions_have_no_tasks() -> None:
    with (
        Client(Scripted(era="2025-06-18", capabilities=OFFERED)) as client,
        pytest.raises(LocalProtocolError, match="2025-06-18"),
    ):
        client.start_task("t")


def test_a_task_without_an_id_is_an_error() -> None:
    server = Scripted({"tools/call": lambda ask: {"task": {}}}, era=HANDSHAKE, capabilities=OFFERED)
    with Client(server) as client, pytest.raises(RemoteProtocolError, match="without a taskId"):
        client.start_task("t")


# -- 2026-07-28 -------------------------------------------------------------------------------------------------------


def stateless(*standings: dict[str, Any], **table: Any) -> Scripted:
    """Return a server whose every call becomes the task t-1, which then stands like this, one after the other."""
    names = {name.replace("_", "/", 1): function for name, function in table.items()}
    left = iter(standings)
    begun = {"tools/call": lambda ask: made(), "tasks/get": lambda ask: next(left), **names}
    return Scripted(begun)


def test_a_task_of_the_stateless_era_is_polled_until_it_is_completed() -> None:
    server = stateless(flat("working"), flat("completed", result=text("done")))
    with Client(server) as client:
        task = client.start_task("t")
        assert task.status == "working"
        assert task.result().text == "done"
        assert task.done
        assert task.result().text == "done"  # known already
    assert [ask.params["taskId"] for ask in server.asked("tasks/get", 2)] == ["t-1", "t-1"]
    assert server.heard("tasks/get") == 2


def test_every_request_about_tasks_declares_the_extension() -> None:
    server = stateless(flat("completed", result=text("")), tasks_cancel=lambda ask: {})
    with Client(server, roots=[]) as client:
        task = client.start_task("t")
        task.cancel()
        task.result()
    for method in ("tools/call", "tasks/get", "tasks/cancel"):
        (ask,) = server.asked(method)
        assert ask.meta[CAPABILITIES] == {"roots": {}, "extensions": {EXTENSION: {}}}
        assert "task" not in ask.params


def test_a_call_that_is_no_task_does_not_declare_the_extension() -> None:
    server = Scripted({"tools/call": lambda ask: text("")})
    with Client(server) as client:
        client.call_tool("t")
    assert "extensions" not in server.asked("tools/call")[0].meta[CAPABILITIES]


def test_the_server_may_answer_at_once_instead_of_making_a_task() -> None:
    with Client(Scripted({"tools/call": lambda ask: text("at once")})) as client:
        result = client.start_task("t")
    assert isinstance(result, ToolResult)
    assert result.text == "at once"


def test_a_call_that_became_a_task_unasked_returns_the_final_result() -> None:
    server = stateless(flat("completed", result=text("done")))
    with Client(server) as client:
        assert client.call_tool("t").text == "done"


def test_a_future_that_became_a_task_unasked_returns_the_final_result() -> None:
    server = stateless(flat("completed", result=text("done")))
    with Client(server) as client:
        assert client.submit_tool("t").result(10).text == "done"


def test_what_a_task_needs_is_asked_and_given_once_for_each_key() -> None:
    form = {"method": "elicitation/create", "params": FORM}
    asked: list[str] = []

    def elicit(question: Any) -> dict[str, Any]:
        asked.append(question.message)
        return {"name": "Ada"}

    server = stateless(
        flat("input_required", inputRequests={"a": form}),
        flat("input_required", inputRequests={"a": form}),  # the answer has not sunk in yet
        flat("input_required", inputRequests={"a": form, "b": {"method": "roots/list"}}),
        flat("completed", result=text("hello Ada")),
        tasks_update=lambda ask: {},
    )
    with Client(server, elicitation=elicit, roots=["file:///r"]) as client:
        assert client.start_task("t").result().text == "hello Ada"
    assert asked == ["Who?"]
    assert [ask.params["inputResponses"] for ask in server.asked("tasks/update", 2)] == [
        {"a": {"action": "accept", "content": {"name": "Ada"}}},
        {"b": {"roots": [{"uri": "file:///r"}]}},
    ]


def test_a_task_whose_callback_failed_can_be_answered_the_next_time() -> None:
    form = {"method": "elicitation/create", "params": FORM}
    answers: list[Any] = [ZeroDivisionError("not now"), {"name": "Ada"}]

    def elicit(question: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    waiting = flat("input_required", inputRequests={"a": form})
    server = stateless(waiting, flat("completed", result=text("ok")), tasks_update=lambda ask: {})
    with Client(server, elicitation=elicit) as client:
        task = client.start_task("t")
        with pytest.raises(ZeroDivisionError):
            task.result()
        assert task.result().text == "ok"
    assert len(server.asked("tasks/update")) == 1


def test_a_task_that_asks_for_what_was_not_offered_is_an_error() -> None:
    server = stateless(flat("input_required", inputRequests={"a": {"method": "roots/list"}}))
    with Client(server) as client, pytest.raises(RemoteProtocolError, match="asks for roots/list"):
        client.start_task("t").result()


def test_a_task_that_failed_raises_the_servers_error() -> None:
    error = {"code": -32603, "message": "no more paper", "data": {"tray": 2}}
    with Client(stateless(flat("failed", error=error))) as client:
        task = client.start_task("t")
        with pytest.raises(JSONRPCError, match="no more paper") as caught:
            task.result()
        assert (caught.value.code, caught.value.data) == (-32603, {"tray": 2})
        assert task.status == "failed"


def test_a_task_that_was_cancelled_raises_what_is_known() -> None:
    with (
        Client(stateless(flat("cancelled", statusMessage="by the night watch"))) as client,
        pytest.raises(MCPError, match="task t-1 was cancelled: by the night watch") as caught,
    ):
        client.start_task("t").result()
    assert not isinstance(caught.value, JSONRPCError)  # the server sent no error


ENDS = [flat("completed"), flat("completed", result=5), flat("failed"), flat("failed", error="x")]


@pytest.mark.parametrize("end", ENDS)
def test_a_task_that_ends_with_neither_result_nor_error_breaks_the_protocol(end: dict[str, Any]) -> None:
    with Client(stateless(end)) as client, pytest.raises(RemoteProtocolError, match="task t-1.*neither a result nor"):
        client.start_task("t").result()


@pytest.mark.parametrize("asked", [[1], {"a": 5}, {"a": {"method": 1}}])
def test_a_task_that_asks_in_no_known_form_breaks_the_protocol(asked: Any) -> None:
    with Client(stateless(flat("input_required", inputRequests=asked))) as client:
        task = client.start_task("t")
        with pytest.raises(RemoteProtocolError, match="inputRequests of task t-1"):
            task.result()


def test_a_result_of_a_task_that_is_an_error_of_the_tool_is_a_result() -> None:
    server = stateless(flat("completed", result=text("no", isError=True)))
    with Client(server) as client:
        assert client.start_task("t").result().is_error


def test_a_task_that_takes_longer_than_one_waits_says_that_it_goes_on() -> None:
    server = Scripted({"tools/call": lambda ask: made(), "tasks/get": lambda ask: flat("working")})
    with Client(server) as client:
        task = client.start_task("t")
        with pytest.raises(MCPTimeoutError, match=r"task t-1 is still working \(limit 0.2 s\); it goes on") as caught:
            task.result(timeout=0.2)
        assert caught.value.details["task"] == "t-1"
    assert server.heard("tasks/cancel") == 0


def test_two_threads_may_wait_for_one_task_and_each_key_is_still_answered_once() -> None:
    form = {"method": "elicitation/create", "params": FORM}
    answered = threading.Event()
    asked: list[Any] = []

    def elicit(question: Any) -> dict[str, Any]:
        asked.append(question)
        return {"name": "Ada"}

    def update(ask: Asked) -> dict[str, Any]:
        answered.set()
        return {}

    def stand(ask: Asked) -> dict[str, Any]:
        if answered.is_set():
            return flat("completed", result=text("ok"))
        return flat("input_required", inputRequests={"a": form})

    found: list[str] = []
    server = Scripted({"tools/call": lambda ask: made(), "tasks/get": stand, "tasks/update": update})
    with Client(server, elicitation=elicit) as client:
        task = client.start_task("t")
        threads = [threading.Thread(target=lambda: found.append(task.result(10).text)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == ["ok"] * 8
    assert len(asked) == 1
