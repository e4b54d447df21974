"""Multi-round requests (2026-07-28): a call whose result is a question, asked by waiting and by futures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
from client.scripted import LATER, Asked, Scripted, text

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPTimeoutError, RemoteProtocolError, ToolResult

FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}
ELICIT = {"method": "elicitation/create", "params": FORM}
SAMPLE = {
    "method": "sampling/createMessage",
    "params": {"messages": [{"role": "user", "content": {"type": "text", "text": "hm"}}], "maxTokens": 5},
}
ROOTS = {"method": "roots/list"}
STATE = "\u00e9\u2028 +/=\x00 \U0001f600 not ours to read"

Call = Callable[..., ToolResult]


def waiting(client: Client, *args: Any, **options: Any) -> ToolResult:
    return client.call_tool(*args, **options)


def by_future(client: Client, *args: Any, **options: Any) -> ToolResult:
    return client.submit_tool(*args, **options).result(10)


@pytest.fixture(params=[waiting, by_future])
def call(request: pytest.FixtureRequest) -> Call:
    function: Call = request.param
    return function


def needs(requests: Any = None, **more: Any) -> dict[str, Any]:
    """Return a result that is a question."""
    asked = {} if requests is None else {"inputRequests": requests}
    return {"resultType": "input_required", **asked, **more}


def conversation(*steps: dict[str, Any]) -> Scripted:
    """Answer the first call with the first step, and so on."""
    left = iter(steps)
    return Scripted({"tools/call": lambda ask: next(left)})


def test_a_question_is_answered_and_the_call_repeated_with_the_answer(call: Call) -> None:
    server = conversation(needs({"who": ELICIT}, requestState=STATE), text("hello"))
    with Client(server, elicitation=lambda asked: {"name": asked.message}) as client:
        assert call(client, "t", {"x": [1]}, meta={"example.org/k": 1}).text == "hello"
    first, second = server.asked("tools/call", 2)
    assert second.id != first.id
    assert second.params.pop("inputResponses") == {"who": {"action": "accept", "content": {"name": "Who?"}}}
    assert second.params.pop("requestState") == STATE
    assert second.params == first.params


def test_there_is_no_state_in_the_repeated_call_where_there_was_none(call: Call) -> None:
    server = conversation(needs({"who": ROOTS}), text("hello"))
    with Client(server, roots=[]) as client:
        call(client, "t")
    assert "requestState" not in server.asked("tools/call", 2)[1].params


def test_several_questions_are_asked_at_once(call: Call) -> None:
    together = threading.Barrier(2)

    def elicit(asked: Any) -> dict[str, Any]:
        together.wait(10)
        return {"name": "Ada"}

    def sample(asked: Any) -> str:
        together.wait(10)
        return "deep"

    server = conversation(needs({"a": ELICIT, "b": SAMPLE, "c": ROOTS}), text("ok"))
    with Client(server, elicitation=elicit, sampling=sample, roots=["file:///r"]) as client:
        assert call(client, "t").text == "ok"
    answers = server.asked("tools/call", 2)[1].params["inputResponses"]
    assert answers["a"] == {"action": "accept", "content": {"name": "Ada"}}
    assert answers["b"]["content"] == {"type": "text", "text": "deep"}
    assert answers["c"] == {"roots": [{"uri": "file:///r"}]}


def test_each_round_carries_the_state_and_the_answers_of_the_one_before_it_only(call: Call) -> None:
    server = conversation(
        needs({"a": ROOTS}, requestState="1"), needs({"b": ROOTS}), needs(requestState="3"), text("done")
    )
    with Client(server, roots=[]) as client:
        assert call(client, "t").text == "done"
    said = [
        (ask.params.get("requestState"), list(ask.params.get("inputResponses", {})))
        for ask in server.asked("tools/call", 4)
    ]
    assert said == [(None, []), ("1", ["a"]), (None, ["b"]), ("3", [])]


def test_a_state_without_questions_is_sent_back_after_a_moment(call: Call) -> None:
    server = conversation(needs(requestState="wait"), needs(requestState="more"), text("done"))
    with Client(server) as client:
        assert call(client, "t").text == "done"
    assert [ask.params.get("requestState") for ask in server.asked("tools/call", 3)] == [None, "wait", "more"]
    assert all("inputResponses" not in ask.params for ask in server.asked("tools/call"))


def test_prompts_and_resources_may_ask_too() -> None:
    answers = iter([needs({"a": ROOTS}), {"messages": []}, needs({"a": ROOTS}), {"contents": []}])
    server = Scripted({"prompts/get": lambda ask: next(answers), "resources/read": lambda ask: next(answers)})
    with Client(server, roots=[]) as client:
        assert client.get_prompt("p").messages == []
        assert client.read_resource("memo://x").contents == []


def test_a_list_may_not_ask() -> None:
    with (
        Client(Scripted({"tools/list": lambda ask: needs({"a": ROOTS})}), roots=[]) as client,
        pytest.raises(RemoteProtocolError, match="tools/list"),
    ):
        client.list_tools()


def test_a_question_that_was_not_offered_to_answer_is_refused(call: Call) -> None:
    server = conversation(needs({"a": ROOTS, "b": SAMPLE}))
    with (
        Client(server, roots=lambda: pytest.fail("one of the questions is not allowed, so none is asked")) as client,
        pytest.raises(RemoteProtocolError, match="asks for sampling/createMessage, which this client does not"),
    ):
        call(client, "t")
    assert len(server.asked("tools/call")) == 1


@pytest.mark.parametrize(
    "question",
    [
        needs(),
        needs({}),
        needs([]),
        needs("x", requestState="s"),
        needs({"a": "x"}),
        needs({"a": {"method": 5}}),
        needs({"a": {"method": "roots/list", "params": []}}),
    ],
    ids=str,
)
def test_a_question_that_makes_no_sense_is_an_error(call: Call, question: dict[str, Any]) -> None:
    with Client(conversation(question), roots=[]) as client, pytest.raises(RemoteProtocolError, match="tools/call"):
        call(client, "t")


def test_a_server_that_never_stops_asking_is_an_error(call: Call) -> None:
    server = Scripted({"tools/call": lambda ask: needs({"a": ROOTS})})
    with (
        Client(server, roots=[]) as client,
        pytest.raises(RemoteProtocolError, match="still asks for input after 10 rounds"),
    ):
        call(client, "t")
    assert len(server.asked("tools/call")) == 11


def test_what_a_callback_raises_is_raised_by_the_call(call: Call) -> None:
    def fail(asked: Any) -> Any:
        raise ZeroDivisionError("in my own code")

    server = conversation(needs({"who": ELICIT}), text("fine"))
    with Client(server, elicitation=fail) as client:
        with pytest.raises(ZeroDivisionError, match="in my own code"):
            call(client, "t")
        assert call(client, "t").text == "fine"
    assert len(server.asked("tools/call")) == 2


def test_a_callback_that_wants_to_exit_ends_the_call_and_sends_no_empty_answer(call: Call) -> None:
    def leave(asked: Any) -> Any:
        raise SystemExit(3)

    server = conversation(needs({"who": ELICIT}), text("must not be reached"))
    with Client(server, elicitation=leave) as client, pytest.raises(SystemExit):
        call(client, "t")
    assert len(server.asked("tools/call")) == 1


def test_an_answer_that_json_cannot_say_is_an_error_with_its_place(call: Call) -> None:
    server = conversation(needs({"who": ELICIT}))
    with (
        Client(server, elicitation=lambda asked: {"name": object()}) as client,
        pytest.raises(Exception, match=r"params\.inputResponses\.who\.content\.name is of type object"),
    ):
        call(client, "t")


def test_a_callback_that_is_slower_than_the_call_may_be_is_left_behind(call: Call) -> None:
    release = threading.Event()
    server = conversation(needs({"who": ELICIT}))
    with Client(server, elicitation=lambda asked: {"name": str(release.wait(10))}) as client:
        try:
            with pytest.raises(MCPTimeoutError) as caught:
                call(client, "t", timeout=0.3)
        finally:
            release.set()
        assert caught.value.details["limit"] == 0.3
    assert len(server.asked("tools/call")) == 1


def test_an_error_in_a_later_round_is_raised(call: Call) -> None:
    answers = iter([needs({"a": ROOTS})])

    def answer(ask: Asked) -> Any:
        for result in answers:
            return result
        raise JSONRPCError(-32602, "bad state")

    with Client(Scripted({"tools/call": answer}), roots=[]) as client, pytest.raises(JSONRPCError, match="bad state"):
        call(client, "t")


def test_progress_is_reported_in_every_round(call: Call) -> None:
    answers = iter([needs({"a": ROOTS}), text("ok")])
    reports: list[Any] = []
    come = threading.Semaphore(0)

    def answer(ask: Asked) -> Any:
        ask.report(1, message=str(ask.id))
        return next(answers)

    def note(*report: Any) -> None:
        reports.append(report)
        come.release()

    server = Scripted({"tools/call": answer})
    with Client(server, roots=[]) as client:
        call(client, "t", on_progress=note)
        assert all(come.acquire(timeout=10) for _ in range(2))
    assert [report[2] for report in reports] == [str(ask.id) for ask in server.asked("tools/call", 2)]


# -- futures, between the rounds --------------------------------------------------------------------------------------


def test_a_future_cancelled_while_its_callback_runs_never_repeats_the_call() -> None:
    running, release = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def elicit(asked: Any) -> dict[str, Any]:
        threads.append(threading.current_thread())
        running.set()
        release.wait(10)
        return {"name": "late"}

    server = conversation(needs({"who": ELICIT}))
    with Client(server, elicitation=elicit) as client:
        future = client.submit_tool("t")
        assert running.wait(10)
        assert future.cancel()
        assert wait([future], 10).done == {future}
        release.set()
        threads[0].join(10)
        client.ping()
        with pytest.raises(CancelledError):
            future.result(0)
    assert server.heard("tools/call") == 1


def test_a_future_cancelled_in_a_later_round_is_cancelled_on_the_wire() -> None:
    answers = iter([needs({"a": ROOTS}), LATER])
    server = Scripted({"tools/call": lambda ask: next(answers)})
    with Client(server, roots=[]) as client:
        future = client.submit_tool("t")
        second = server.asked("tools/call", 2)[1]
        assert future.cancel()
        assert (server.told("notifications/cancelled")[0].params or {})["requestId"] == second.id
        assert client.counters["pending"] == 0


def test_a_future_times_out_in_a_later_round_and_is_cancelled_on_the_wire() -> None:
    answers = iter([needs({"a": ROOTS}), LATER])
    server = Scripted({"tools/call": lambda ask: next(answers)})
    with Client(server, roots=[]) as client:
        future = client.submit_tool("t", timeout=0.5)
        assert isinstance(future.exception(10), MCPTimeoutError)
        second = server.asked("tools/call", 2)[1]
        assert (server.told("notifications/cancelled")[0].params or {})["requestId"] == second.id


def test_a_future_whose_connection_ends_between_the_rounds_fails() -> None:
    running, release = threading.Event(), threading.Event()

    def elicit(asked: Any) -> dict[str, Any]:
        running.set()
        release.wait(10)
        return {"name": "late"}

    server = conversation(needs({"who": ELICIT}))
    with Client(server, elicitation=elicit) as client:
        future = client.submit_tool("t")
        assert running.wait(10)
        server.hang_up()
        release.set()
        assert isinstance(future.exception(10), MCPConnectionError)


def test_a_hundred_futures_may_be_asked_to_come_back_later() -> None:
    answered: set[str] = set()

    def answer(ask: Asked) -> dict[str, Any]:
        name = ask.params["name"]
        if ask.params.get("requestState") == name:
            return text(name)
        answered.add(name)
        return needs(requestState=name)

    with Client(Scripted({"tools/call": answer})) as client:
        futures = {str(number): client.submit_tool(str(number)) for number in range(100)}
        assert {name: future.result(10).text for name, future in futures.items()} == {name: name for name in futures}


def test_as_many_futures_may_ask_at_once_as_callbacks_may_run() -> None:
    together = threading.Barrier(4)

    def elicit(asked: Any) -> dict[str, Any]:
        together.wait(10)
        return {"name": "x"}

    def answer(ask: Asked) -> dict[str, Any]:
        return text("ok") if "inputResponses" in ask.params else needs({"who": ELICIT})

    with Client(_over(Scripted({"tools/call": answer}), callbacks=4), elicitation=elicit) as client:
        futures = [client.submit_tool("t") for _ in range(4)]
        assert [future.result(10).text for future in futures] == ["ok"] * 4


def test_more_questions_than_callbacks_may_run_are_refused_with_the_limit(call: Call) -> None:
    release = threading.Event()
    server = conversation(needs({str(number): ELICIT for number in range(5)}))
    with Client(_over(server, callbacks=4), elicitation=lambda asked: {"name": str(release.wait(10))}) as client:
        try:
            with pytest.raises(Exception, match="max_concurrent_callbacks"):
                call(client, "t")
        finally:
            release.set()


def _over(server: Scripted, callbacks: int) -> Any:
    from mcp_sync import MemoryTransport

    return MemoryTransport(server, max_concurrent_callbacks=callbacks)
