"""What a server asks and says, and what plain callbacks make of it."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from client.scripted import HANDSHAKE, STATELESS, Scripted, text

from mcp_sync import Client, JSONRPCError, Notification
from mcp_sync.protocol.messages import Failure, Result

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "default": 30}, "ok": {"default": True}},
}
FORM = {"message": "Who?", "requestedSchema": SCHEMA}
URL = {"mode": "url", "message": "Sign in", "url": "https://example.org/sign-in", "elicitationId": "e-1"}
SAMPLE = {"messages": [{"role": "user", "content": {"type": "text", "text": "hm"}}], "maxTokens": 5}


def reply_to(method: str, params: Any, **callbacks: Any) -> Any:
    """Return what a client with these callbacks answers to a server that asks."""
    server = Scripted(era=HANDSHAKE)
    with Client(server, **callbacks):
        answer = server.ask(method, params)
    return answer.result if isinstance(answer, Result) else answer


# -- elicitation ------------------------------------------------------------------------------------------------------

FORMS = {
    "a dict is the content, with defaults filled in": (
        {"name": "Ada"},
        {"action": "accept", "content": {"age": 30, "ok": True, "name": "Ada"}},
    ),
    "what is given wins over the defaults": (
        {"age": 5, "ok": False},
        {"action": "accept", "content": {"age": 5, "ok": False}},
    ),
    "an empty dict accepts the defaults": ({}, {"action": "accept", "content": {"age": 30, "ok": True}}),
    "None declines": (None, {"action": "decline"}),
    "an explicit decline": ({"action": "decline"}, {"action": "decline"}),
    "an explicit cancel": ({"action": "cancel", "content": {"x": 1}}, {"action": "cancel"}),
    "an explicit accept": (
        {"action": "accept", "content": {"name": "A"}},
        {"action": "accept", "content": {"age": 30, "ok": True, "name": "A"}},
    ),
    "a model": (
        types.ElicitResult(action="accept", content={"name": "B"}),
        {"action": "accept", "content": {"age": 30, "ok": True, "name": "B"}},
    ),
    "a model that declines": (types.ElicitResult(action="decline"), {"action": "decline"}),
    "a field that is called action": (
        {"action": "jump", "name": "C"},
        {"action": "accept", "content": {"age": 30, "ok": True, "action": "jump", "name": "C"}},
    ),
}


@pytest.mark.parametrize(("answer", "sent"), FORMS.values(), ids=FORMS)
def test_a_form_is_answered_by_what_the_callback_returns(answer: Any, sent: Any) -> None:
    assert reply_to("elicitation/create", FORM, elicitation=lambda asked: answer) == sent


URLS = {
    "None declines": (None, {"action": "decline"}),
    "a dict that says nothing of it does not accept": ({}, {"action": "decline"}),
    "content does not accept": ({"name": "Ada"}, {"action": "decline"}),
    "an explicit accept": ({"action": "accept"}, {"action": "accept"}),
    "a model": (types.ElicitResult(action="accept"), {"action": "accept"}),
    "an explicit cancel": ({"action": "cancel"}, {"action": "cancel"}),
}


@pytest.mark.parametrize(("answer", "sent"), URLS.values(), ids=URLS)
def test_a_url_is_accepted_only_by_saying_so(answer: Any, sent: Any) -> None:
    assert reply_to("elicitation/create", URL, elicitation=lambda asked: answer) == sent


def test_the_callback_is_given_the_params_as_a_model_of_the_mode() -> None:
    asked: list[Any] = []
    reply_to("elicitation/create", FORM, elicitation=asked.append)
    reply_to("elicitation/create", URL, elicitation=asked.append)
    form, url = asked
    assert isinstance(form, types.ElicitRequestFormParams)
    assert form.requested_schema == SCHEMA
    assert isinstance(url, types.ElicitRequestURLParams)
    assert url.url == "https://example.org/sign-in"


def test_params_that_make_no_sense_are_refused_and_nobody_is_asked() -> None:
    answer = reply_to("elicitation/create", {"message": 5}, elicitation=lambda asked: pytest.fail("asked"))
    assert isinstance(answer, Failure)
    assert answer.code == -32602


def test_an_answer_of_the_wrong_type_is_an_error_for_the_server_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = reply_to("elicitation/create", FORM, elicitation=lambda asked: "Ada")
    assert isinstance(answer, Failure)
    assert answer.code == -32603
    assert "returns a dict, an ElicitResult or None, not 'Ada'" in caplog.text


# -- sampling ---------------------------------------------------------------------------------------------------------

TEXT = {"type": "text", "text": "deep"}
SAMPLES = {
    "a str is the text": ("deep", {"role": "assistant", "content": TEXT, "model": "unknown", "stopReason": "endTurn"}),
    "a dict is the answer": (
        {"role": "assistant", "content": TEXT, "model": "m"},
        {"role": "assistant", "content": TEXT, "model": "m"},
    ),
    "a model is the answer": (
        types.CreateMessageResult(role="assistant", content=types.TextContent(text="deep"), model="m"),
        {"role": "assistant", "content": TEXT, "model": "m"},
    ),
}


@pytest.mark.parametrize(("answer", "sent"), SAMPLES.values(), ids=SAMPLES)
def test_sampling_is_answered_by_what_the_callback_returns(answer: Any, sent: Any) -> None:
    got = reply_to("sampling/createMessage", SAMPLE, sampling=lambda asked: answer)
    assert sent.items() <= got.items()


def test_sampling_is_given_the_params_as_a_model() -> None:
    got = reply_to("sampling/createMessage", SAMPLE, sampling=lambda it: f"{it.max_tokens} {it.messages[0].role}")
    assert got["content"]["text"] == "5 user"


# -- roots ------------------------------------------------------------------------------------------------------------


def test_roots_are_paths_uris_dicts_and_models_in_any_mixture(tmp_path: Path) -> None:
    roots = [
        tmp_path,
        str(tmp_path / "a b"),
        "file:///u",
        {"uri": "file:///d", "name": "D"},
        types.Root(uri="file:///m", name="M"),
    ]
    assert reply_to("roots/list", None, roots=roots) == {
        "roots": [
            {"uri": tmp_path.as_uri()},
            {"uri": (tmp_path / "a b").as_uri()},
            {"uri": "file:///u"},
            {"uri": "file:///d", "name": "D"},
            {"uri": "file:///m", "name": "M"},
        ]
    }


def test_roots_may_be_a_function_that_is_asked_each_time() -> None:
    server = Scripted(era=HANDSHAKE)
    answers = iter([["file:///a"], []])
    with Client(server, roots=lambda: next(answers)) as client:
        assert server.ask("roots/list").result == {"roots": [{"uri": "file:///a"}]}  # type: ignore[union-attr]
        client.send_roots_list_changed()
        server.told("notifications/roots/list_changed")
        assert server.ask("roots/list").result == {"roots": []}  # type: ignore[union-attr]


def test_changed_roots_are_not_announced_in_the_stateless_era() -> None:
    server = Scripted()
    with Client(server, roots=[]) as client:
        client.send_roots_list_changed()
        client.ping()
    assert server.heard("notifications/roots/list_changed") == 0


# -- what is offered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
def test_a_client_offers_what_it_has_callbacks_for(era: str) -> None:
    def offered(**callbacks: Any) -> Any:
        server = Scripted(era=era)
        with Client(server, **callbacks) as client:
            client.list_tools()
        if era == HANDSHAKE:
            return server.asked("initialize")[0].params["capabilities"]
        return server.asked("tools/list")[0].meta["io.modelcontextprotocol/clientCapabilities"]

    assert offered() == {}
    assert offered(sampling=lambda asked: "") == {"sampling": {}}
    assert offered(elicitation=lambda asked: None) == {"elicitation": {"form": {}, "url": {}}}
    assert offered(roots=[]) == {"roots": {"listChanged": True} if era == HANDSHAKE else {}}


@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list", "what/ever"])
def test_what_is_not_offered_is_refused(method: str) -> None:
    answer = reply_to(method, {})
    assert isinstance(answer, Failure)
    assert answer.code == -32601
    assert method in answer.message


def test_a_server_may_ping() -> None:
    assert reply_to("ping", None) == {}


def test_an_error_that_a_callback_raises_goes_to_the_server_as_it_is() -> None:
    def refuse(asked: Any) -> Any:
        raise JSONRPCError(-1, "the user said no", {"why": "secret"})

    answer = reply_to("sampling/createMessage", SAMPLE, sampling=refuse)
    assert answer == Failure("server-1", -1, "the user said no", {"why": "secret"})


@pytest.mark.parametrize("crash", [ZeroDivisionError, SystemExit])
def test_a_callback_that_crashes_is_logged_and_the_server_gets_an_error_without_its_text(
    crash: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(asked: Any) -> Any:
        raise crash("my secret")

    answer = reply_to("sampling/createMessage", SAMPLE, sampling=fail)
    assert isinstance(answer, Failure)
    assert answer.code == -32603
    assert "secret" not in answer.message
    assert "my secret" in caplog.text


def test_a_callback_may_call_the_same_client() -> None:
    server = Scripted({"tools/call": lambda ask: text("inner")}, era=HANDSHAKE)
    client = Client(server, sampling=lambda asked: client.call_tool("t").text)
    with client:
        answer = server.ask("sampling/createMessage", SAMPLE)
    assert isinstance(answer, Result)
    assert answer.result["content"]["text"] == "inner"


def test_a_server_of_the_stateless_era_that_asks_by_itself_gets_no_answer() -> None:
    server = Scripted()
    with Client(server, roots=lambda: pytest.fail("asked")) as client:
        server.line.send({"jsonrpc": "2.0", "id": 7, "method": "roots/list"}, _soon())
        client.ping()
        assert client.counters["requests_refused"] == 1
    assert not any(isinstance(message, (Result, Failure)) for message in server._log)


def _soon() -> Any:
    from mcp_sync.deadlines import Deadline

    return Deadline(5)


# -- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
def test_every_notification_goes_to_on_notification_in_order(era: str) -> None:
    news: queue.Queue[Notification] = queue.Queue()
    server = Scripted(era=era)
    with Client(server, on_notification=news.put):
        for number in range(50):
            server.tell("notifications/custom", {"n": number})
        assert [(news.get(timeout=10).params or {})["n"] for _ in range(50)] == list(range(50))


def test_a_log_message_goes_to_on_log_as_a_model_and_one_that_is_none_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records: queue.Queue[Any] = queue.Queue()
    server = Scripted(era=HANDSHAKE)
    with Client(server, on_log=records.put):
        server.tell("notifications/message", {"level": "shriek", "data": 1})
        server.tell("notifications/message", {"level": "info", "data": {"a": 1}, "logger": "db"})
        record = records.get(timeout=10)
    assert (record.level, record.data, record.logger) == ("info", {"a": 1}, "db")
    assert "a log message of the server is not valid" in caplog.text


def test_callbacks_that_fail_hurt_nothing(caplog: pytest.LogCaptureFixture) -> None:
    come = threading.Event()

    def fail(anything: Any) -> None:
        raise ZeroDivisionError

    def note(news: Notification) -> None:
        if news.method == "last":
            come.set()
        raise ZeroDivisionError

    server = Scripted({"tools/call": lambda ask: text("ok")}, era=HANDSHAKE)
    with Client(server, on_log=fail, on_notification=note) as client:
        server.tell("notifications/message", {"level": "info", "data": 1})
        server.tell("last")
        assert come.wait(10)
        assert client.call_tool("t").text == "ok"
    assert "the callback on_log failed" in caplog.text


def test_a_progress_callback_that_fails_does_not_cost_the_result(caplog: pytest.LogCaptureFixture) -> None:
    def answer(ask: Any) -> Any:
        ask.report(1)
        return text("ok")

    def fail(*report: Any) -> None:
        raise ZeroDivisionError

    with Client(Scripted({"tools/call": answer})) as client:
        assert client.call_tool("t", on_progress=fail).text == "ok"
    assert "a progress callback failed" in caplog.text


# -- log levels -------------------------------------------------------------------------------------------------------

LEVEL = "io.modelcontextprotocol/logLevel"


def test_the_log_level_goes_with_every_request_of_the_stateless_era() -> None:
    server = Scripted()
    with Client(server, log_level="warning") as client:
        client.list_tools()
        client.set_logging_level("error")
        client.list_tools()
    assert [ask.meta[LEVEL] for ask in server.asked("tools/list", 2)] == ["warning", "error"]
    assert server.heard("logging/setLevel") == 0


def test_all_log_messages_are_wanted_in_the_stateless_era_where_there_is_an_on_log() -> None:
    loud, quiet = Scripted(), Scripted()
    with Client(loud, on_log=print) as one, Client(quiet) as other:
        one.list_tools()
        other.list_tools()
    assert loud.asked("tools/list")[0].meta[LEVEL] == "debug"
    assert LEVEL not in quiet.asked("tools/list")[0].meta


def test_the_log_level_is_set_once_in_the_handshake_era() -> None:
    server = Scripted({"logging/setLevel": lambda ask: {}}, era=HANDSHAKE, capabilities={"logging": {}})
    with Client(server, log_level="warning") as client:
        client.set_logging_level("error")
    assert [ask.params for ask in server.asked("logging/setLevel", 2)] == [{"level": "warning"}, {"level": "error"}]


def test_a_server_without_logging_is_not_asked_for_a_level() -> None:
    server = Scripted(era=HANDSHAKE)
    with Client(server, log_level="warning", on_log=print) as client:
        client.ping()
    assert server.heard("logging/setLevel") == 0


def test_a_server_that_refuses_the_log_level_leaves_nothing_behind() -> None:
    def refuse(ask: Any) -> Any:
        raise JSONRPCError(-32603, "no logging today")

    server = Scripted({"logging/setLevel": refuse}, era=HANDSHAKE, capabilities={"logging": {}})
    client = Client(server, log_level="warning")
    try:
        with pytest.raises(JSONRPCError, match="no logging today"):
            client.connect()
        assert not client.connected
    finally:
        client.close()
