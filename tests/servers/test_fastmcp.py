"""The client over stdio against a server made with fastmcp, in both eras."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import pytest
from servers.others import HANDSHAKES, PATIENCE, STATELESS, Inbox, Server

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPTimeoutError, RemoteProtocolError, ToolError

pytestmark = pytest.mark.interop

TOOLS = {
    *("add", "echo", "primes", "points", "maybe", "point", "table", "nothing", "plain", "mixed", "media", "big"),
    *("careful", "fail", "crash", "die", "slow", "count", "shout", "grow", "hide"),
    *("ask_name", "choose", "think", "where", "interview"),
}


@pytest.fixture(params=[STATELESS, "2025-11-25"], ids=["stateless", "handshake"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(version: str | None, env: dict[str, str] | None = None, **options: Any) -> Client:
    return Server("fastmcp", env=env).client(protocol_version=version, **options)


def test_the_newest_version_is_agreed_on_without_being_asked_for() -> None:
    with connect(None) as client:
        assert client.protocol_version == STATELESS
        assert (client.server_info.name, client.server_info.version) == ("peer-fastmcp", "1.0")
        assert client.instructions == "A peer for tests."
        assert client.server_capabilities.completions is not None
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


@pytest.mark.parametrize("older", HANDSHAKES)
def test_every_older_version_does_as_well(older: str) -> None:
    with connect(older) as client:
        assert client.protocol_version == older
        assert {tool.name for tool in client.list_tools()} == TOOLS
        assert client.call_tool("add", {"a": 1, "b": 2}).text == "3"
        client.ping()


def test_tools_are_listed_with_all_that_is_said_of_them(version: str) -> None:
    with connect(version, env={"PEER_PAGE_SIZE": "5"}) as client:
        assert len(client.request("tools/list")["tools"]) == 5
        tools = {tool.name: tool for tool in client.list_tools()}
        with pytest.raises(JSONRPCError, match="cursor") as caught:
            client.request("tools/list", {"cursor": "nonsense"})
    assert set(tools) == TOOLS
    assert caught.value.code == -32602
    careful = tools["careful"]
    assert (careful.title, careful.description) == ("The careful one", "Take only what fits.")
    assert careful.annotations is not None
    assert (careful.annotations.read_only_hint, careful.annotations.open_world_hint) == (True, False)
    size = {"type": "integer", "minimum": 1, "maximum": 10, "description": "How many"}
    assert careful.input_schema["properties"]["size"] == size
    assert careful.meta == {"fastmcp": {"tags": ["safe"]}}
    assert tools["add"].output_schema is not None
    assert tools["add"].output_schema["x-fastmcp-wrap-result"] is True
    assert tools["plain"].output_schema is None


def test_results_that_were_wrapped_are_unwrapped_and_others_are_not(version: str) -> None:
    with connect(version) as client:
        primes = client.call_tool("primes", {"below": 12})
        assert primes.data == [2, 3, 5, 7, 11]
        assert primes.structured_content == {"result": [2, 3, 5, 7, 11]}
        assert client.call_tool("echo", {"text": "a\u2028b\U0001f600\n"}).data == "a\u2028b\U0001f600\n"
        assert client.call_tool("points", {"n": 2}).data == [
            {"x": 0, "y": 0, "label": None},
            {"x": 1, "y": -1, "label": None},
        ]
        assert client.call_tool("maybe", {"found": True}).data == "here"
        nothing = client.call_tool("maybe", {"found": False})
        assert (nothing.data, nothing.structured_content, nothing.content) == (None, {"result": None}, [])
        assert client.call_tool("point", {"x": 1, "y": 2}).data == {"x": 1, "y": 2, "label": "p"}
        assert client.call_tool("table").data == {"one": 1, "two": 2}
        plain = client.call_tool("plain", {"text": "as it is"})
        assert (plain.data, plain.structured_content, plain.text) == (None, None, "as it is")
        assert (client.call_tool("nothing").data, client.call_tool("nothing").text) == (None, "")
        assert client.submit_tool("add", {"a": 20, "b": 22}).result(PATIENCE).data == 42


def test_content_of_every_kind_and_length_arrives(version: str) -> None:
    with connect(version) as client:
        picture, sound, file, text = client.call_tool("media").content
        assert (picture.type, picture.mime_type) == ("image", "image/png")
        assert base64.b64decode(picture.data).startswith(b"\x89PNG")
        assert (sound.type, base64.b64decode(sound.data)) == ("audio", b"RIFF")
        assert (file.type, base64.b64decode(file.resource.blob)) == ("resource", b"%PDF")
        assert (text.type, text.text) == ("text", "done")
        mixed = client.call_tool("mixed")
        assert (mixed.text, mixed.data, mixed.meta["cost"]) == ("for people", {"n": 1}, 7)
        assert client.call_tool("big", {"n": 1_000_000}).text == "x" * 1_000_000


def test_failures_say_what_was_wrong(version: str) -> None:
    with connect(version) as client:
        with pytest.raises(ToolError, match="'fail' reported an error: no luck"):
            client.call_tool("fail", {"message": "no luck"}).raise_for_error()
        with pytest.raises(ToolError, match="no such thing"):
            client.call_tool("crash").raise_for_error()
        with pytest.raises(ToolError, match="less than or equal to 10"):
            client.call_tool("careful", {"size": 11}).raise_for_error()
        with pytest.raises(ToolError, match="no_such_tool"):
            client.call_tool("no_such_tool").raise_for_error()
        with pytest.raises(RemoteProtocolError, match=r"'mixed' .*does not match its output schema: \$\.n") as misfit:
            client.call_tool("mixed", {"wrong": True})
        assert misfit.value.details["result"]["structuredContent"] == {"n": "one"}
        with pytest.raises(JSONRPCError) as unknown:
            client.request("no/such/method")
        assert unknown.value.code == -32601
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2
        counters = client.counters
    assert (counters["error"], counters["pending"], counters["parse_errors"]) == (1, 0, 0)


def test_progress_and_log_messages_come_in_order(version: str) -> None:
    reports: list[tuple[float, float | None, str | None]] = []
    logged = Inbox()
    with connect(version, on_log=logged.put) as client:
        client.call_tool("count", {"n": 3}, on_progress=lambda *report: reports.append(report))
        assert reports == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
        client.call_tool("shout", {"text": "hey"})
        records = [logged.next() for _ in range(4)]
        assert [record.level for record in records] == ["debug", "info", "warning", "error"]
        assert {record.logger for record in records} == {"peer"}
        assert records[1].data == {"msg": "hey", "extra": {"n": 1}}
        client.set_logging_level("warning")
        client.call_tool("shout", {"text": "again"})
        assert [logged.next().level, logged.next().level] == ["warning", "error"]
    assert logged.empty()


def test_the_user_accepts_declines_and_cancels(version: str) -> None:
    answers: list[Any] = [{"value": "Ada"}, None, {"action": "cancel"}]
    asked = Inbox()

    def ask(params: Any) -> Any:
        asked.put(params)
        return answers.pop(0)

    with connect(version, elicitation=ask) as client:
        assert client.call_tool("ask_name").data == "hello Ada"
        assert client.call_tool("ask_name").data == "decline"
        assert client.call_tool("ask_name").data == "cancel"
        params = asked.next()
        assert (params.mode, params.message) == ("form", "What is your name?")
        assert params.requested_schema["properties"]["value"]["type"] == "string"
        assert params.requested_schema["required"] == ["value"]


def test_the_user_chooses_from_a_list_where_servers_may_ask() -> None:
    answers = [{"value": "green"}, {"value": "mauve"}]
    with connect("2025-11-25", elicitation=lambda params: answers.pop(0)) as client:
        assert client.call_tool("choose").data == "green"
        refused = client.call_tool("choose")
        assert refused.is_error
        assert "'red' or 'green'" in refused.text


def test_several_rounds_of_questions_lead_to_one_result() -> None:
    answers = {"Name?": {"name": "Ada"}, "Age?": {"age": 36}, "Ada, 36: sure?": {"sure": True}}
    with connect(STATELESS, elicitation=lambda params: answers[params.message]) as client:
        assert client.call_tool("interview").data == "Ada, 36, True"
        assert client.submit_tool("interview").result(PATIENCE).data == "Ada, 36, True"
        assert client.call_tool("choose").is_error  # it insists on asking by itself


def test_the_model_and_the_roots_of_the_client_are_at_hand(version: str, tmp_path: Path) -> None:
    def think(params: Any) -> str:
        assert params.system_prompt == "Be brief."
        assert params.max_tokens == 50
        return f"about {params.messages[0].content.text}"

    roots = [tmp_path, "file:///elsewhere"]
    with connect(version, sampling=think, roots=lambda: roots) as client:
        assert client.call_tool("think", {"prompt": "threads"}).data == "unknown: about threads"
        assert client.call_tool("where").data == [tmp_path.as_uri(), "file:///elsewhere"]
        roots.pop()
        assert client.call_tool("where").data == [tmp_path.as_uri()]


def test_a_question_that_the_client_cannot_answer_fails_that_call_only(version: str) -> None:
    def refuse(params: Any) -> str:
        raise JSONRPCError(-1, "the user refused")

    with connect(version, sampling=refuse) as client:
        with pytest.raises((ToolError, JSONRPCError), match="the user refused"):
            client.call_tool("think", {"prompt": "no"}).raise_for_error()
        with pytest.raises((ToolError, RemoteProtocolError)):
            client.call_tool("ask_name").raise_for_error()
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_resources_are_listed_and_read_but_not_subscribed_to(version: str) -> None:
    with connect(version) as client:
        assert {resource.uri for resource in client.list_resources()} == {
            *("memo://greeting", "memo://binary", "memo://broken")
        }
        assert {template.uri_template for template in client.list_resource_templates()} == {
            *("memo://note/{name}", "memo://search{?query,limit}")
        }
        (greeting,) = client.read_resource("memo://greeting").contents
        assert (greeting.text, greeting.mime_type) == ("hello", "text/plain")
        assert base64.b64decode(client.read_resource("memo://binary").contents[0].blob) == bytes(range(256))
        assert client.read_resource("memo://note/a%20b").contents[0].text == "note a b"
        assert client.read_resource("memo://search?query=x&limit=5").contents[0].text == '{"query": "x", "limit": 5}'
        with pytest.raises(JSONRPCError, match="torn page"):
            client.read_resource("memo://broken")
        with pytest.raises(JSONRPCError, match="not found") as missing:
            client.read_resource("memo://none")
        with pytest.raises(JSONRPCError) as refused:
            client.subscribe("memo://greeting")  # it does not offer that, in either era
        assert refused.value.code == -32601
    assert (missing.value.code, missing.value.data) == (-32602, {"uri": "memo://none"})


def test_prompts_are_listed_filled_in_and_completed(version: str) -> None:
    with connect(version) as client:
        prompts = {prompt.name: prompt for prompt in client.list_prompts()}
        assert [argument.required for argument in prompts["greet"].arguments or []] == [True, False]
        (message,) = client.get_prompt("greet", {"name": "Ada", "times": "3"}).messages
        assert message.content.text == "Say hello to Ada 3 times."
        assert [message.role for message in client.get_prompt("talk", {"topic": "x"}).messages] == ["user", "assistant"]
        with pytest.raises(JSONRPCError, match="Missing required"):
            client.get_prompt("greet")
        with pytest.raises(JSONRPCError, match="no_such_prompt"):
            client.get_prompt("no_such_prompt")
        name = {"name": "name", "value": "al"}
        greet = {"type": "ref/prompt", "name": "greet"}
        assert client.complete(greet, name).completion.values == ["alice", "albert"]
        assert client.complete(greet, name, {"other": "albert"}).completion.values == ["alice"]


def test_a_new_tool_is_announced_and_can_be_called(version: str) -> None:
    heard = Inbox()
    with connect(version, on_notification=lambda news: heard.put(news.method)) as client:
        client.list_tools()
        assert client.call_tool("grow").data == "grown_1"
        heard.next(lambda method: method == "notifications/tools/list_changed")
        assert client.call_tool("grown_1").text == "grown_1"
        assert {tool.name for tool in client.list_tools()} == TOOLS | {"grown_1"}


def test_a_session_can_have_tools_hidden_from_it_where_there_is_one() -> None:
    with connect("2025-11-25") as client, client.listen(tools_list_changed=True) as news:
        assert client.call_tool("hide").data == "hidden"
        assert news.next(PATIENCE).method == "notifications/tools/list_changed"
        assert "careful" not in {tool.name for tool in client.list_tools()}
        with pytest.raises(ToolError, match="careful"):
            client.call_tool("careful", {"size": 1}).raise_for_error()


def test_a_call_that_is_cancelled_or_late_is_stopped_on_the_server(
    version: str, journal: Callable[[], str], tmp_path: Path
) -> None:
    with connect(version, env={"PEER_JOURNAL": str(tmp_path / "journal")}) as client:
        future = client.submit_tool("slow", {"seconds": 60})
        assert journal() == "started slow"
        assert future.cancel()
        assert journal() == "cancelled slow"
        assert wait([future], PATIENCE).done == {future}
        with pytest.raises(CancelledError):
            future.result(0)
        with pytest.raises(MCPTimeoutError):
            client.call_tool("slow", {"seconds": 60}, timeout=1)
        assert [journal(), journal()] == ["started slow", "cancelled slow"]
        futures = [client.submit_tool("add", {"a": n, "b": n}) for n in range(30)]
        assert [future.result(PATIENCE).data for future in futures] == [2 * n for n in range(30)]


def test_a_server_that_ends_in_a_call_is_reported_with_its_last_words(version: str) -> None:
    with connect(version) as client:
        with pytest.raises(MCPConnectionError) as caught:
            client.call_tool("die", {"code": 7})
        assert caught.value.details["exit_status"] == 7
        assert "about to die" in caught.value.details["stderr"]
        assert caught.value.may_have_run is None
        assert not client.connected
        client.connect()
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2
