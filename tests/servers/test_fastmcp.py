"""The client over stdio against a server made with fastmcp, in both eras, in one long conversation each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.others import PATIENCE, STATELESS, Inbox, Server

from house import leakcheck
from mcp_sync import JSONRPCError, RemoteProtocolError, ToolError

pytestmark = [
    pytest.mark.interop,
    pytest.mark.leaks("the connection is shared, for its server takes a second to start; the fixture looks for leaks"),
]


class Talk:
    """A conversation with a server, and how the client answers what it asks; a test may change that."""

    def __init__(self, version: str) -> None:
        self.is_stateless = version == STATELESS
        self.logged = Inbox()
        self.elicit: Callable[[Any], Any] = lambda params: None
        self.think: Callable[[Any], Any] = lambda params: "nothing"
        self.roots: list[Any] = []
        self.client = Server("fastmcp").client(
            protocol_version=version,
            elicitation=lambda params: self.elicit(params),
            sampling=lambda params: self.think(params),
            roots=lambda: self.roots,
            on_log=self.logged.put,
        )


@pytest.fixture(scope="module", params=[STATELESS, "2025-11-25"], ids=["stateless", "handshake"])
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    before = leakcheck.take()
    with leakcheck.uncaught_in_threads() as exceptions:
        talk = Talk(request.param)
        with talk.client:
            yield talk
    assert leakcheck.leaks_since(before) + exceptions == []


def test_results_that_were_wrapped_are_unwrapped_and_others_are_not(talk: Talk) -> None:
    client = talk.client
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


def test_content_of_every_kind_and_length_arrives(talk: Talk) -> None:
    client = talk.client
    picture, sound, file, text = client.call_tool("media").content
    assert (picture.type, picture.mime_type) == ("image", "image/png")
    assert base64.b64decode(picture.data).startswith(b"\x89PNG")
    assert (sound.type, base64.b64decode(sound.data)) == ("audio", b"RIFF")
    assert (file.type, base64.b64decode(file.resource.blob)) == ("resource", b"%PDF")
    assert (text.type, text.text) == ("text", "done")
    mixed = client.call_tool("mixed")
    assert (mixed.text, mixed.data, mixed.meta["cost"]) == ("for people", {"n": 1}, 7)
    assert client.call_tool("big", {"n": 1_000_000}).text == "x" * 1_000_000


def test_failures_say_what_was_wrong(talk: Talk) -> None:
    client = talk.client
    before = client.counters
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
    after = client.counters
    assert after["error"] == before["error"] + 1  # tools that fail have answered
    assert (after["pending"], after["parse_errors"]) == (0, 0)


def test_progress_and_log_messages_come_in_order(talk: Talk) -> None:
    reports: list[tuple[float, float | None, str | None]] = []
    client, logged = talk.client, talk.logged
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
    client.set_logging_level("debug")
    client.call_tool("shout", {"text": "at last"})
    assert logged.next().level == "debug"  # so there was nothing more at level warning


def test_the_user_accepts_declines_and_cancels(talk: Talk) -> None:
    answers: list[Any] = [{"value": "Ada"}, None, {"action": "cancel"}]
    asked = Inbox()

    def ask(params: Any) -> Any:
        asked.put(params)
        return answers.pop(0)

    client, talk.elicit = talk.client, ask
    assert client.call_tool("ask_name").data == "hello Ada"
    assert client.call_tool("ask_name").data == "decline"
    assert client.call_tool("ask_name").data == "cancel"
    params = asked.next()
    assert (params.mode, params.message) == ("form", "What is your name?")
    assert params.requested_schema["properties"]["value"]["type"] == "string"
    assert params.requested_schema["required"] == ["value"]


def test_the_user_chooses_from_a_list_where_servers_may_ask_by_themselves(talk: Talk) -> None:
    answers = [{"value": "green"}, {"value": "mauve"}]
    talk.elicit = lambda params: answers.pop(0)
    first, second = talk.client.call_tool("choose"), talk.client.call_tool("choose")
    if talk.is_stateless:
        assert "unavailable on 2026-07-28" in first.text
        assert (first.is_error, len(answers)) == (True, 2)
    else:
        assert first.data == "green"
        assert "'red' or 'green'" in second.text
        assert second.is_error


def test_several_rounds_of_questions_lead_to_one_result_where_there_are_rounds(talk: Talk) -> None:
    answers = {"Name?": {"name": "Ada"}, "Age?": {"age": 36}, "Ada, 36: sure?": {"sure": True}}
    talk.elicit = lambda params: answers[params.message]
    if talk.is_stateless:
        assert talk.client.call_tool("interview").data == "Ada, 36, True"
        assert talk.client.submit_tool("interview").result(PATIENCE).data == "Ada, 36, True"
    else:
        with pytest.raises(JSONRPCError, match="only exists at MCP 2026-07-28"):
            talk.client.call_tool("interview")


def test_the_model_and_the_roots_of_the_client_are_at_hand(talk: Talk, tmp_path: Path) -> None:
    def think(params: Any) -> str:
        assert params.system_prompt == "Be brief."
        assert params.max_tokens == 50
        return f"about {params.messages[0].content.text}"

    client, talk.think, talk.roots = talk.client, think, [tmp_path, "file:///elsewhere"]
    assert client.call_tool("think", {"prompt": "threads"}).data == "unknown: about threads"
    assert client.call_tool("where").data == [tmp_path.as_uri(), "file:///elsewhere"]
    talk.roots.pop()
    assert client.call_tool("where").data == [tmp_path.as_uri()]


def test_resources_are_listed_and_read_but_not_subscribed_to(talk: Talk) -> None:
    client = talk.client
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


def test_prompts_are_listed_filled_in_and_completed(talk: Talk) -> None:
    client = talk.client
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
