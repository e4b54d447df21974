"""A call whose result may be a question: what is sent, in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_sync.exceptions import RemoteProtocolError
from mcp_sync.protocol.rounds import MAX_ROUNDS, METHODS, Call, Gather, Pause, rounds

PARAMS = {"name": "book", "arguments": {"seat": 1}}
ASKS = {"who": {"method": "elicitation/create", "params": {"message": "Who?"}}}
ANSWERS = {"who": {"action": "accept", "content": {"name": "Ada"}}}
DONE = {"resultType": "complete", "content": []}


def wanted(**more: Any) -> dict[str, Any]:
    return {"resultType": "input_required", **more}


def play(
    received: list[Any], method: str = "tools/call", params: dict[str, Any] | None = PARAMS
) -> tuple[list[Any], Any]:
    """Return the steps that were taken, and the final result or the error."""
    talk = rounds(method, params)
    steps = [next(talk)]
    for given in received[:-1]:
        steps.append(talk.send(given))
    try:
        talk.send(received[-1])
    except StopIteration as end:
        return steps, end.value
    except RemoteProtocolError as error:
        return steps, error
    raise AssertionError("it has more to do")


FINAL = {
    "complete": DONE,
    "of no type": {"content": []},
    "a task": {"resultType": "task", "taskId": "t"},
}


@pytest.mark.parametrize("result", FINAL.values(), ids=FINAL)
@pytest.mark.parametrize("method", ["tools/call", "tools/list"])
def test_a_final_result_takes_one_call(method: str, result: dict[str, Any]) -> None:
    assert play([result], method) == ([Call(PARAMS)], result)


def test_a_call_without_params_sends_an_empty_object() -> None:
    assert play([DONE], params=None) == ([Call({})], DONE)


CONVERSATIONS: dict[str, tuple[list[Any], list[Any]]] = {
    "questions": (
        [wanted(inputRequests=ASKS), ANSWERS, DONE],
        [Call(PARAMS), Gather(ASKS), Call({**PARAMS, "inputResponses": ANSWERS})],
    ),
    "questions and a state": (
        [wanted(inputRequests=ASKS, requestState="s\u00e9\n"), ANSWERS, DONE],
        [Call(PARAMS), Gather(ASKS), Call({**PARAMS, "inputResponses": ANSWERS, "requestState": "s\u00e9\n"})],
    ),
    "a state alone": (
        [wanted(requestState="s"), None, DONE],
        [Call(PARAMS), Pause(0.05), Call({**PARAMS, "requestState": "s"})],
    ),
    "a state and empty questions": (
        [wanted(requestState="s", inputRequests={}), None, DONE],
        [Call(PARAMS), Pause(0.05), Call({**PARAMS, "requestState": "s"})],
    ),
    "an empty state": (
        [wanted(requestState=""), None, DONE],
        [Call(PARAMS), Pause(0.05), Call({**PARAMS, "requestState": ""})],
    ),
    "a state of one round is not sent in the next": (
        [wanted(requestState="s"), None, wanted(inputRequests=ASKS), ANSWERS, DONE],
        [
            Call(PARAMS),
            Pause(0.05),
            Call({**PARAMS, "requestState": "s"}),
            Gather(ASKS),
            Call({**PARAMS, "inputResponses": ANSWERS}),
        ],
    ),
    "answers of one round are not sent in the next": (
        [wanted(inputRequests=ASKS), ANSWERS, wanted(requestState="s"), None, DONE],
        [
            Call(PARAMS),
            Gather(ASKS),
            Call({**PARAMS, "inputResponses": ANSWERS}),
            Pause(0.1),
            Call({**PARAMS, "requestState": "s"}),
        ],
    ),
    "a question without params": (
        [wanted(inputRequests={"r": {"method": "roots/list"}}), {"r": {"roots": []}}, DONE],
        [
            Call(PARAMS),
            Gather({"r": {"method": "roots/list"}}),
            Call({**PARAMS, "inputResponses": {"r": {"roots": []}}}),
        ],
    ),
}


@pytest.mark.parametrize(("received", "steps"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_same_request_is_asked_again_with_what_was_wanted(received: list[Any], steps: list[Any]) -> None:
    assert play(received) == (steps, DONE)
    assert PARAMS == {"name": "book", "arguments": {"seat": 1}}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_three_methods_may_ask_for_input(method: str) -> None:
    assert play([wanted(inputRequests=ASKS), ANSWERS, DONE], method)[1] == DONE


WRONG = {
    "a method that may not ask": ("tools/list", wanted(inputRequests=ASKS), "may not ask for input here"),
    "nothing that is wanted": ("tools/call", wanted(), "neither requests nor a state"),
    "no questions, no state": ("tools/call", wanted(inputRequests={}), "neither requests nor a state"),
    "questions of null": ("tools/call", wanted(inputRequests=None), "neither requests nor a state"),
    "questions in a list": ("tools/call", wanted(inputRequests=[ASKS]), "not an object of requests"),
    "an empty list beside a state": ("tools/call", wanted(inputRequests=[], requestState="s"), "not an object of"),
    "a question that is text": ("tools/call", wanted(inputRequests={"a": "?"}), "not an object of requests"),
    "a question without a method": ("tools/call", wanted(inputRequests={"a": {}}), "not an object of requests"),
    "a method that is a number": (
        "tools/call",
        wanted(inputRequests={"a": {"method": 1}}),
        "not an object of requests",
    ),
    "params in a list": ("tools/call", wanted(inputRequests={"a": {"method": "m", "params": []}}), "not an object of"),
}


@pytest.mark.parametrize(("method", "result", "text"), WRONG.values(), ids=WRONG)
def test_a_question_against_the_rules_is_an_error_of_the_server(method: str, result: dict[str, Any], text: str) -> None:
    steps, error = play([result], method)
    assert steps == [Call(PARAMS)]
    assert isinstance(error, RemoteProtocolError)
    assert str(error).startswith(f"{method}: ")
    assert text in str(error)


def test_a_server_may_ask_so_many_rounds() -> None:
    received = [wanted(inputRequests=ASKS), ANSWERS] * MAX_ROUNDS + [DONE]
    steps, result = play(received)
    assert result == DONE
    assert sum(isinstance(step, Gather) for step in steps) == MAX_ROUNDS


def test_a_server_that_never_stops_asking_is_an_error() -> None:
    received = [wanted(inputRequests=ASKS), ANSWERS] * MAX_ROUNDS + [wanted(inputRequests=ASKS)]
    _, error = play(received)
    assert isinstance(error, RemoteProtocolError)
    assert "still asks for input after 10 rounds" in str(error)
    assert error.may_have_run is True


def test_pauses_grow_to_a_quarter_of_a_second() -> None:
    received = [wanted(requestState="s"), None] * 5 + [DONE]
    steps, _ = play(received)
    assert [step.seconds for step in steps if isinstance(step, Pause)] == [0.05, 0.1, 0.2, 0.25, 0.25]
