"""The client over stdio against server-everything, which shows all that the handshake era has."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from servers.others import HANDSHAKES, PATIENCE, STATELESS, Inbox, Server

from mcp_sync import Client, JSONRPCError, LocalProtocolError, MCPTimeoutError, RemoteProtocolError, ToolError

pytestmark = pytest.mark.interop

TOOLS = {
    *("echo", "get-annotated-message", "get-env", "get-resource-links", "get-resource-reference"),
    *("get-structured-content", "get-sum", "get-tiny-image", "gzip-file-as-resource", "simulate-research-query"),
    *("toggle-simulated-logging", "toggle-subscriber-updates", "trigger-long-running-operation"),
}
ON_DEMAND = {
    *("get-roots-list", "trigger-elicitation-request", "trigger-url-elicitation", "trigger-sampling-request"),
}
TEXT = "demo://resource/dynamic/text/"
BLOB = "demo://resource/dynamic/blob/"


def connect(env: dict[str, str] | None = None, **options: Any) -> Client:
    # It has timers, of up to minutes, that keep it alive after the end of its stdin; so it is often ended by a signal.
    return Server("everything", env=env, shutdown_timeout=1.0).client(**options)


@pytest.mark.parametrize("version", [None, *HANDSHAKES])
def test_every_version_that_it_speaks_does(version: str | None) -> None:
    with connect(protocol_version=version) as client:
        assert client.protocol_version == (version or HANDSHAKES[-1])
        assert client.server_info.name == "mcp-servers/everything"
        assert "Everything Server" in str(client.instructions)
        assert {tool.name for tool in client.list_tools()} == TOOLS
        assert client.call_tool("echo", {"message": "hé\u2028\U0001f600"}).text == "Echo: hé\u2028\U0001f600"
        assert client.call_tool("get-sum", {"a": 1, "b": 2.5}).text == "The sum of 1 and 2.5 is 3.5."
        client.ping()


@pytest.mark.parametrize("server", ["everything", "memory"])
def test_the_version_that_it_does_not_speak_is_said_to_be_the_matter(server: str) -> None:
    started = Server(server)
    with pytest.raises(RemoteProtocolError, match=f"does not speak {STATELESS}.*leave protocol_version out"):
        started.client(protocol_version=STATELESS).connect()
    assert started.ends.next() == 0


def test_the_tools_that_ask_are_listed_for_a_client_that_answers() -> None:
    with connect(sampling=str, elicitation=dict, roots=[]) as client:
        tools = {tool.name: tool for tool in client.list_tools()}
    assert set(tools) == TOOLS | ON_DEMAND
    research = tools["simulate-research-query"]
    assert research.execution is not None
    assert research.execution.task_support == "required"
    assert tools["get-structured-content"].output_schema is not None
    assert tools["echo"].annotations is not None
    assert tools["echo"].annotations.read_only_hint is True


def test_structured_content_is_checked_and_returned() -> None:
    with connect() as client:
        weather = client.call_tool("get-structured-content", {"location": "Chicago"})
    assert weather.data == {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}
    assert json.loads(weather.text) == weather.structured_content


def test_content_of_every_kind_arrives() -> None:
    with connect() as client:
        before, picture, after = client.call_tool("get-tiny-image").content
        assert (before.type, picture.type, after.type) == ("text", "image", "text")
        assert base64.b64decode(picture.data).startswith(b"\x89PNG")

        arguments = {"messageType": "error", "includeImage": True}
        text, annotated = client.call_tool("get-annotated-message", arguments).content
        assert (text.annotations.priority, text.annotations.audience) == (1.0, ["user", "assistant"])
        assert (annotated.type, annotated.annotations.audience) == ("image", ["user"])

        _, *links = client.call_tool("get-resource-links", {"count": 2}).content
        assert {link.type for link in links} == {"resource_link"}
        assert [link.uri for link in links] == [BLOB + "1", TEXT + "2"]
        assert base64.b64decode(client.read_resource(links[0].uri).contents[0].blob).startswith(b"Resource 1")

        arguments = {"resourceType": "Text", "resourceId": 3}
        _, embedded, _ = client.call_tool("get-resource-reference", arguments).content
        assert embedded.resource.uri == TEXT + "3"
        assert embedded.resource.text.startswith("Resource 3: ")


def test_a_resource_that_a_tool_makes_is_announced_and_can_be_read() -> None:
    with connect() as client, client.listen(resources_list_changed=True) as news:
        arguments = {"name": "a.gz", "data": "data:text/plain,hello"}
        (link,) = client.call_tool("gzip-file-as-resource", arguments).content
        assert news.next(PATIENCE).method == "notifications/resources/list_changed"
        assert link.uri in {resource.uri for resource in client.list_resources()}
        (content,) = client.read_resource(link.uri).contents
        assert content.mime_type == "application/gzip"
        assert gzip.decompress(base64.b64decode(content.blob)) == b"hello"
        (whole,) = client.call_tool("gzip-file-as-resource", {**arguments, "outputType": "resource"}).content
        assert whole.resource.blob == content.blob


def test_the_server_sees_only_the_variables_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2")
    with connect(env={"GREETING": "hello"}) as client:
        seen = json.loads(client.call_tool("get-env").text)
    assert seen["GREETING"] == "hello"
    assert "PATH" in seen
    assert "SOME_API_KEY" not in seen


def test_failures_say_what_was_wrong() -> None:
    with connect() as client:
        with pytest.raises(ToolError, match="expected number, received string"):
            client.call_tool("get-sum", {"a": "x", "b": 1}).raise_for_error()
        with pytest.raises(ToolError, match="no-such-tool"):
            client.call_tool("no-such-tool").raise_for_error()
        with pytest.raises(JSONRPCError, match="not found") as missing:
            client.read_resource("demo://none")
        assert missing.value.code == -32602
        with pytest.raises(JSONRPCError, match="Unknown resource"):
            client.read_resource(TEXT + "x")
        with pytest.raises(JSONRPCError, match="city"):
            client.get_prompt("args-prompt")
        with pytest.raises(JSONRPCError) as unknown:
            client.request("no/such/method")
        assert unknown.value.code == -32601
        assert client.call_tool("echo", {"message": "still here"}).text == "Echo: still here"


def test_a_long_operation_reports_progress_and_can_be_given_up() -> None:
    reports: list[tuple[float, float | None]] = []
    going = Inbox()
    with connect() as client:
        arguments = {"duration": 0.2, "steps": 4}
        client.call_tool("trigger-long-running-operation", arguments, on_progress=lambda *now: reports.append(now[:2]))
        assert reports == [(1, 4), (2, 4), (3, 4), (4, 4)]

        endless = {"duration": 60, "steps": 600}
        future = client.submit_tool("trigger-long-running-operation", endless, on_progress=lambda *now: going.put(now))
        going.next()
        assert future.cancel()
        with pytest.raises(MCPTimeoutError):
            client.call_tool("trigger-long-running-operation", {"duration": 60, "steps": 1}, timeout=0.2)
        assert client.call_tool("echo", {"message": "still here"}).text == "Echo: still here"
        assert (client.counters["cancelled"], client.counters["timeout"], client.counters["pending"]) == (1, 1, 0)


def test_a_hundred_calls_at_once_get_their_own_answers() -> None:
    with connect() as client:
        futures = [client.submit_tool("echo", {"message": str(n)}) for n in range(100)]
        assert [future.result(PATIENCE).text for future in futures] == [f"Echo: {n}" for n in range(100)]


def test_a_long_form_is_filled_in_with_defaults_where_the_user_says_nothing() -> None:
    asked = Inbox()
    answers: list[Any] = [{"name": "Ada", "check": True, "integer": 7}, None, {"action": "cancel"}]

    def fill_in(params: Any) -> Any:
        asked.put(params)
        return answers.pop(0)

    with connect(elicitation=fill_in) as client:
        accepted = client.call_tool("trigger-elicitation-request")
        raw = json.loads(accepted.content[-1].text.partition("Raw result:")[2])
        assert raw["action"] == "accept"
        assert raw["content"] == {
            "name": "Ada",
            "check": True,
            "integer": 7,
            "number": 3.14,
            "firstLine": "It was a dark and stormy night.",
            "untitledSingleSelectEnum": "Monica",
            "untitledMultipleSelectEnum": ["Guitar"],
            "titledSingleSelectEnum": "hero-1",
            "titledMultipleSelectEnum": ["fish-1"],
            "legacyTitledEnum": "pet-1",
        }
        schema = asked.next().requested_schema
        assert schema["properties"]["email"]["format"] == "email"
        assert "declined" in client.call_tool("trigger-elicitation-request").text
        assert "cancelled" in client.call_tool("trigger-elicitation-request").text


def test_a_link_is_opened_only_where_the_user_says_so() -> None:
    arguments = {"url": "https://example.org/form", "elicitationId": "e-1"}
    asked = Inbox()
    answers: list[Any] = [{"action": "accept"}, {"yes": "please"}, None]

    def visit(params: Any) -> Any:
        asked.put(params)
        return answers.pop(0)

    with connect(elicitation=visit) as client:
        assert "User completed" in client.call_tool("trigger-url-elicitation", arguments).text
        params = asked.next()
        assert (params.mode, params.url, params.elicitation_id) == ("url", arguments["url"], "e-1")
        assert "declined" in client.call_tool("trigger-url-elicitation", arguments).text
        assert "declined" in client.call_tool("trigger-url-elicitation", arguments).text
        with pytest.raises(JSONRPCError, match="browser-based") as wanted:
            client.call_tool("trigger-url-elicitation", {**arguments, "errorPath": True})
        assert wanted.value.code == -32042
        assert wanted.value.data["elicitations"][0]["mode"] == "url"


def test_the_model_of_the_client_is_asked() -> None:
    def think(params: Any) -> str:
        assert (params.system_prompt, params.max_tokens) == ("You are a helpful test server.", 30)
        return params.messages[0].content.text.upper()

    with connect(sampling=think) as client:
        result = client.call_tool("trigger-sampling-request", {"prompt": "threads", "maxTokens": 30})
    assert "CONTEXT: THREADS" in result.text


def test_the_roots_of_the_client_are_asked_for_again_when_they_have_changed(tmp_path: Path) -> None:
    roots: list[Any] = [{"uri": tmp_path.as_uri(), "name": "work"}]
    logged = Inbox()
    with connect(roots=lambda: roots, on_log=lambda record: logged.put(record.data)) as client:
        assert f"1. work\n   URI: {tmp_path.as_uri()}" in client.call_tool("get-roots-list").text
        logged.line("Roots updated: 1 root(s)")
        roots.append("file:///elsewhere")
        client.send_roots_list_changed()
        logged.line("Roots updated: 2 root(s)")
        assert "URI: file:///elsewhere" in client.call_tool("get-roots-list").text


def test_resources_and_templates_are_listed() -> None:
    with connect() as client:
        documents = {resource.name: resource for resource in client.list_resources()}
        templates = {template.uri_template for template in client.list_resource_templates()}
        instructions = client.read_resource(documents["instructions.md"].uri)
        assert instructions.contents[0].mime_type == "text/markdown"
        assert instructions.contents[0].text == client.instructions
    assert templates == {TEXT + "{resourceId}", BLOB + "{resourceId}"}


def test_changes_of_a_resource_are_told_to_those_who_subscribed() -> None:
    heard = Inbox()

    def hear(news: Any) -> None:
        if news.method == "notifications/resources/updated":
            heard.put(news.params["uri"])

    with connect(on_notification=hear) as client:
        with client.listen(resource_subscriptions=[TEXT + "1"]) as news:
            client.subscribe(TEXT + "2")
            client.call_tool("toggle-subscriber-updates")
            assert news.next(PATIENCE).params in ({"uri": TEXT + "1"}, {"uri": TEXT + "2"})
            assert {heard.next(), heard.next()} == {TEXT + "1", TEXT + "2"}
        client.call_tool("toggle-subscriber-updates")
        client.unsubscribe(TEXT + "1")
        client.call_tool("toggle-subscriber-updates")
        assert heard.next() == TEXT + "2"
        client.unsubscribe(TEXT + "2")
        client.call_tool("toggle-subscriber-updates")
        client.ping()
    assert heard.empty()


def test_log_messages_below_the_level_are_not_sent() -> None:
    logged = Inbox()
    with connect(on_log=logged.put, log_level="emergency") as client:
        client.subscribe(TEXT + "1")  # of which it would log a message of level info
        client.ping()
        assert logged.empty()
        client.set_logging_level("debug")
        client.subscribe(TEXT + "2")
        record = logged.next()
        assert (record.level, TEXT + "2" in record.data) == ("info", True)
        client.call_tool("toggle-simulated-logging")
        assert logged.next().level in {
            *("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
        }
        client.call_tool("toggle-simulated-logging")


def test_prompts_are_filled_in_and_completed() -> None:
    with connect() as client:
        assert {prompt.name for prompt in client.list_prompts()} == {
            *("simple-prompt", "args-prompt", "completable-prompt", "resource-prompt")
        }
        assert "simple prompt" in client.get_prompt("simple-prompt").messages[0].content.text
        weather = client.get_prompt("args-prompt", {"city": "Lyon", "state": "Rhône"})
        assert weather.messages[0].content.text == "What's weather in Lyon, Rhône?"
        embedded = client.get_prompt("resource-prompt", {"resourceType": "Blob", "resourceId": "3"}).messages[1].content
        assert (embedded.type, embedded.resource.uri) == ("resource", BLOB + "3")

        team = {"type": "ref/prompt", "name": "completable-prompt"}
        departments = client.complete(team, {"name": "department", "value": "S"}).completion
        assert (departments.values, departments.total, departments.has_more) == (["Sales", "Support"], 2, False)
        name = {"name": "name", "value": ""}
        assert client.complete(team, name, {"department": "Sales"}).completion.values == ["David", "Eve", "Frank"]
        assert client.complete(team, name).completion.values == []
        template = {"type": "ref/resource", "uri": TEXT + "{resourceId}"}
        assert client.complete(template, {"name": "resourceId", "value": "12"}).completion.values == ["12"]


def test_a_task_asks_what_it_needs_and_ends_with_a_result() -> None:
    with connect(elicitation=lambda params: {"interpretation": "snake"}) as client:
        cancelled = client.start_task("simulate-research-query", {"topic": "gone"})
        cancelled.cancel()
        task = client.start_task("simulate-research-query", {"topic": "python", "ambiguous": True}, ttl=60_000)
        assert (task.status, task.done) == ("working", False)
        report = task.result()
        assert "python (snake)" in report.text
        assert task.refresh().status == "completed"
        assert client.get_task(cancelled.task_id).status == "cancelled"
        assert {task.task_id for task in client.list_tasks()} == {task.task_id, cancelled.task_id}
        with pytest.raises(JSONRPCError):
            client.get_task("no-such-task")


def test_what_must_be_a_task_and_what_must_not_is_refused() -> None:
    with connect() as client:
        with pytest.raises(ToolError, match="requires task augmentation"):
            client.call_tool("simulate-research-query", {"topic": "x"}).raise_for_error()
        with pytest.raises(JSONRPCError, match="task") as refused:
            client.start_task("echo", {"message": "x"})
        assert refused.value.code == -32602
    with connect(protocol_version="2025-06-18") as client, pytest.raises(LocalProtocolError, match="no tasks"):
        client.start_task("simulate-research-query", {"topic": "x"})
