"""What `call_tool` makes of a server's answer: text, data, errors, and answers that are not valid."""

from __future__ import annotations

import pickle
import socket
from typing import Any

import pytest
from client.scripted import HANDSHAKE, LATER, STATELESS, Asked, Scripted, object_of, structured, text, tool

from mcp_sync import Client, JSONRPCError, RemoteProtocolError, ToolError

NUMBER = {"type": "integer"}


def calling(result: Any, schema: Any = None, **options: Any) -> Client:
    """Return a client of a server whose one tool, `t`, answers this."""
    table = {"tools/call": lambda ask: result, "tools/list": lambda ask: {"tools": [tool("t", schema)]}}
    return Client(Scripted(table, **options))


def test_text_is_that_of_all_text_blocks() -> None:
    picture = {"type": "image", "data": "", "mimeType": "image/png"}
    blocks = [{"type": "text", "text": "a"}, picture, {"type": "text", "text": "b"}]
    with calling({"content": blocks}) as client:
        result = client.call_tool("t")
    assert result.text == "a\nb"
    assert result.content[1].mime_type == "image/png"
    assert result.data is None


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
def test_a_wrapper_is_unwrapped_where_the_output_schema_says_so(era: str) -> None:
    with calling(structured({"result": 3}), object_of(result=NUMBER), era=era) as client:
        result = client.call_tool("t")
    assert result.data == 3
    assert result.structured_content == {"result": 3}


@pytest.mark.parametrize("schema", [None, {"type": "object"}, object_of(result=NUMBER, more=NUMBER)])
def test_what_looks_like_a_wrapper_stays_where_no_schema_says_so(schema: Any) -> None:
    content = {"result": 3} if schema is None or "required" not in schema else {"result": 3, "more": 4}
    with calling(structured(content), schema) as client:
        assert client.call_tool("t").data == content


@pytest.mark.parametrize("value", [[1, 2], "x", 0, False, {}, None])
def test_structured_content_may_be_any_json_in_the_stateless_era(value: Any) -> None:
    with calling(structured(value), {}) as client:
        assert client.call_tool("t").data == value


def test_the_tools_are_listed_once_for_their_schemas() -> None:
    server = Scripted(
        {
            "tools/call": lambda ask: structured({"result": 3}),
            "tools/list": lambda ask: {"tools": [tool("t", object_of(result=NUMBER))]},
        }
    )
    with Client(server) as client:
        assert [client.call_tool("t").data for _ in range(3)] == [3, 3, 3]
        assert server.heard("tools/list") == 1


def test_a_tool_that_is_not_listed_is_not_looked_for_again_and_again() -> None:
    server = Scripted({"tools/call": lambda ask: structured({"result": 3})})
    with Client(server) as client:
        assert [client.call_tool("hidden").data for _ in range(3)] == [{"result": 3}] * 3
        assert server.heard("tools/list") == 1


def test_the_tools_are_listed_again_when_they_have_changed() -> None:
    schemas = iter([object_of(result=NUMBER), object_of(result={"type": "string"})])
    server = Scripted(
        {
            "tools/call": lambda ask: structured({"result": ask.arguments["x"]}),
            "tools/list": lambda ask: {"tools": [tool("t", next(schemas))]},
        },
        era=HANDSHAKE,
    )
    with Client(server, on_notification=lambda news: None) as client:
        assert client.call_tool("t", {"x": 1}).data == 1
        server.tell("notifications/tools/list_changed")
        client.ping()  # so that it has come; the lane comes after
        with client.listen(tools_list_changed=True) as news:
            server.tell("notifications/tools/list_changed")
            news.next(10)
        assert client.call_tool("t", {"x": "a"}).data == "a"


def test_a_list_of_tools_that_fails_does_not_cost_the_result() -> None:
    def refuse(ask: Asked) -> Any:
        raise JSONRPCError(-32603, "no list today")

    server = Scripted({"tools/call": lambda ask: structured({"result": 3}), "tools/list": refuse})
    with Client(server) as client:
        assert client.call_tool("t").data == {"result": 3}
        assert client.call_tool("t").data == {"result": 3}
        assert server.heard("tools/list") == 1


def test_a_list_of_tools_that_never_comes_does_not_cost_the_result() -> None:
    server = Scripted({"tools/call": lambda ask: structured({"result": 3}), "tools/list": lambda ask: LATER})
    with Client(server) as client:
        assert client.call_tool("t", timeout=0.5).data == {"result": 3}


def test_a_result_that_breaks_its_output_schema_is_an_error_that_has_the_result() -> None:
    raw = structured({"x": "one"}, _meta={"k": 1})
    with (
        calling(raw, object_of(x=NUMBER)) as client,
        pytest.raises(RemoteProtocolError, match=r"tool 't'.*output schema.*\$\.x.*'one'") as caught,
    ):
        client.call_tool("t")
    assert caught.value.details["result"] == raw
    assert caught.value.may_have_run is True
    assert pickle.loads(pickle.dumps(caught.value)).details["result"] == raw


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"properties": 5}, {"$schema": "https://example.org/mine"}])
def test_an_output_schema_that_cannot_be_used_is_an_error_that_has_the_result(schema: Any) -> None:
    with (
        calling(structured({"x": 1}), schema) as client,
        pytest.raises(RemoteProtocolError, match="tool 't' has an output schema that cannot be used") as caught,
    ):
        client.call_tool("t")
    assert caught.value.details["result"]["structuredContent"] == {"x": 1}


def test_a_reference_to_the_network_is_refused_and_never_followed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        schema = {"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"}
        with calling(structured({"x": 1}), schema) as client, pytest.raises(RemoteProtocolError, match="cannot be"):
            client.call_tool("t")
        with pytest.raises(BlockingIOError):  # nobody has knocked
            listener.accept()


def test_a_reference_within_the_schema_is_followed() -> None:
    schema = {"$defs": {"n": NUMBER}, **object_of(x={"$ref": "#/$defs/n"})}
    with calling(structured({"x": 1}), schema) as client:
        assert client.call_tool("t").data == {"x": 1}


def test_an_error_of_the_tool_is_not_held_against_its_output_schema() -> None:
    with calling({**text("broken"), "structuredContent": {"why": 1}, "isError": True}, object_of(x=NUMBER)) as client:
        result = client.call_tool("t")
        assert result.data == {"why": 1}
        with pytest.raises(ToolError, match="tool 't' reported an error: broken"):
            result.raise_for_error()


def test_a_good_result_raises_nothing_and_is_returned() -> None:
    with calling(text("fine")) as client:
        result = client.call_tool("t")
    assert result.raise_for_error() is result


WRONG = {
    "no content": ({}, "content"),
    "content that is no list": ({"content": "hello"}, "content"),
    "a block of unknown type": ({"content": [{"type": "smell"}]}, "content.0"),
    "a block without its text": ({"content": [{"type": "text"}]}, "content.0"),
    "an error flag that is none": ({"content": [], "isError": "perhaps"}, "isError"),
}


@pytest.mark.parametrize(("result", "field"), WRONG.values(), ids=WRONG)
def test_a_result_that_is_not_valid_is_an_error_that_names_the_field(result: Any, field: str) -> None:
    with calling(result) as client:
        with pytest.raises(RemoteProtocolError, match="tools/call: the server's result is not valid") as caught:
            client.call_tool("t")
        assert caught.value.details["field"].startswith(field)
        future = client.submit_tool("t")
        assert isinstance(future.exception(10), RemoteProtocolError)
        assert client.connected


@pytest.mark.parametrize("result", ["x", 5, None, []])
def test_a_result_that_is_no_object_fails_the_one_call_at_once(result: Any) -> None:
    with calling(result) as client:
        with pytest.raises(RemoteProtocolError, match="tools/call: unreadable answer: result is a JSON"):
            client.call_tool("t")
        assert client.connected


def test_a_result_of_unknown_type_is_an_error_in_the_stateless_era() -> None:
    with calling(text("x", resultType="surprise")) as client, pytest.raises(RemoteProtocolError, match="surprise"):
        client.call_tool("t")


METHODS = {
    "resources/read": (lambda client: client.read_resource("memo://x"), {"contents": [{"uri": 5}]}, "contents.0"),
    "prompts/get": (lambda client: client.get_prompt("p"), {"messages": {}}, "messages"),
    "completion/complete": (
        lambda client: client.complete({"type": "ref/prompt", "name": "p"}, {"name": "a", "value": ""}),
        {"completion": {"values": "abc"}},
        "completion.values",
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_other_results_that_are_not_valid_name_their_field_too(method: str) -> None:
    call, result, field = METHODS[method]
    with (
        Client(Scripted({method: lambda ask: result})) as client,
        pytest.raises(RemoteProtocolError, match=f"{method}: the server's result is not valid") as caught,
    ):
        call(client)
    assert caught.value.details["field"].startswith(field)


def test_the_arguments_go_out_as_given_with_further_metadata() -> None:
    server = Scripted({"tools/call": lambda ask: text("")})
    with Client(server) as client:
        client.call_tool("t", {"a": [1, {"b": None}], "\U0001f600": "\u2028"}, meta={"example.org/x": 1})
    (ask,) = server.asked("tools/call")
    assert ask.arguments == {"a": [1, {"b": None}], "\U0001f600": "\u2028"}
    assert ask.meta["example.org/x"] == 1
    assert ask.meta["io.modelcontextprotocol/protocolVersion"] == STATELESS
