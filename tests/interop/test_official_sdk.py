"""The client over stdio against the servers of the official SDKs: 2.x in both eras, 1.x."""

from __future__ import annotations

import base64
import queue
from concurrent.futures import ALL_COMPLETED, CancelledError, as_completed, wait
from pathlib import Path

import pytest
from interop.official import PATIENCE, PEERS, Peer, demand, journal

from mcp_sync import (
    Client,
    JSONRPCError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    Notification,
    StdioTransport,
    ToolError,
)

pytestmark = pytest.mark.interop

TOOLS = {
    *("add", "point", "echo", "fail", "image", "big", "die", "slow", "count", "shout"),
    *("touch_resource", "grow", "ask_name", "think", "where"),
}


@pytest.fixture(params=list(PEERS))
def peer(request: pytest.FixtureRequest) -> Peer:
    return demand(PEERS[request.param])


def test_both_sides_agree_on_the_newest_version_and_say_who_they_are(peer: Peer) -> None:
    with peer.client() as client:
        assert client.protocol_version == peer.agreed
        assert client.server_info.name.startswith("peer")
        assert client.instructions == "A peer for tests."
        assert client.server_capabilities.tools is not None
        assert client.connected
    assert not client.connected


def test_tools_are_listed_from_every_page(peer: Peer) -> None:
    with peer.client(env={"PEER_PAGE_SIZE": "4"}) as client:
        tools = client.list_tools()
        first = client.request("tools/list")
    assert {tool.name for tool in tools} == TOOLS
    assert len(tools) == len(TOOLS)
    assert tools[0].input_schema["type"] == "object"
    assert (len(first["tools"]), first["nextCursor"]) == (4, "page-4")


def test_a_call_returns_text_and_structured_output(peer: Peer) -> None:
    with peer.client() as client:
        sum_ = client.call_tool("add", {"a": 1, "b": 2})
        assert (sum_.data, sum_.text, sum_.is_error) == (3, "3", False)
        assert sum_.structured_content == {"result": 3}  # as it came; data has it unwrapped
        assert client.call_tool("point", {"x": 1, "y": 2}).data == {"x": 1.0, "y": 2.0}
        assert client.call_tool("echo", {"text": "a\u2028b\U0001f600\n"}).data == "a\u2028b\U0001f600\n"


def test_a_call_returns_pictures_and_long_texts(peer: Peer) -> None:
    with peer.client() as client:
        picture = client.call_tool("image")
        assert picture.data is None
        assert base64.b64decode(picture.content[0].data).startswith(b"\x89PNG")
        assert client.call_tool("big", {"n": 1_000_000}).text == "x" * 1_000_000


def test_a_tool_that_fails_gives_a_result_that_raises_on_demand(peer: Peer) -> None:
    with peer.client() as client:
        result = client.call_tool("fail", {"message": "no luck"})
        assert result.is_error
        with pytest.raises(ToolError, match="'fail' reported an error.*no luck") as caught:
            result.raise_for_error()
        assert caught.value.result is result


def test_an_unknown_tool_is_named_by_the_server(peer: Peer) -> None:
    with peer.client() as client:
        try:
            said = client.call_tool("no_such_tool").text
        except JSONRPCError as error:
            said = str(error)
    assert "no_such_tool" in said


def test_progress_is_reported_before_the_call_returns(peer: Peer) -> None:
    reports: list[tuple[float, float | None, str | None]] = []
    with peer.client() as client:
        client.call_tool("count", {"n": 3}, on_progress=lambda *report: reports.append(report))
        assert reports == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


def test_cancelling_a_future_cancels_the_tool(peer: Peer, tmp_path: Path) -> None:
    with journal(tmp_path) as written, peer.client(env={"PEER_JOURNAL": written.path}) as client:
        future = client.submit_tool("slow", {"seconds": 60})
        assert written.next_line() == "started slow"
        assert future.cancel()
        assert written.next_line() == "cancelled slow"
        assert wait([future], PATIENCE).done == {future}
        with pytest.raises(CancelledError):
            future.result(0)
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_a_call_that_times_out_is_cancelled_on_the_server(peer: Peer, tmp_path: Path) -> None:
    with journal(tmp_path) as written, peer.client(env={"PEER_JOURNAL": written.path}) as client:
        client.ping()
        with pytest.raises(MCPTimeoutError, match=r"tools/call .*timed out.*limit 1 s") as caught:
            client.call_tool("slow", {"seconds": 60}, timeout=1)
        assert caught.value.may_have_run is None
        assert caught.value.details["limit"] == 1
        assert [written.next_line(), written.next_line()] == ["started slow", "cancelled slow"]


def test_log_messages_from_the_wanted_level_on_arrive(peer: Peer) -> None:
    records: queue.Queue[tuple[str, object]] = queue.Queue()
    with peer.client(on_log=lambda it: records.put((it.level, it.data)), log_level="info") as client:
        client.call_tool("shout", {"text": "hey"})
        assert [records.get(timeout=PATIENCE) for _ in range(3)] == [(level, "hey") for level in LEVELS[1:]]
        client.set_logging_level("error")
        client.call_tool("shout", {"text": "ho"})
        assert records.get(timeout=PATIENCE) == ("error", "ho")


LEVELS = ("debug", "info", "warning", "error")


def test_the_server_may_ask_for_sampling_elicitation_and_roots(peer: Peer, tmp_path: Path) -> None:
    with peer.client(
        sampling=lambda asked: f"I think: {asked.messages[0].content.text}",
        elicitation=lambda asked: {"name": "Ada"},
        roots=[tmp_path],
    ) as client:
        assert client.call_tool("think", {"prompt": "hm"}).text == "I think: hm"
        assert client.call_tool("ask_name").text == "hello Ada"
        assert client.call_tool("where").text == tmp_path.as_uri()
        futures = [client.submit_tool("ask_name"), client.submit_tool("think", {"prompt": "ah"})]
        assert [future.result().text for future in futures] == ["hello Ada", "I think: ah"]


def test_an_elicitation_can_be_declined_or_cancelled(peer: Peer) -> None:
    answers = iter([None, {"action": "cancel"}])
    with peer.client(elicitation=lambda asked: next(answers)) as client:
        assert client.call_tool("ask_name").text == "declined"
        assert client.call_tool("ask_name").text == "cancelled"


def test_a_tool_that_needs_what_the_client_does_not_offer_fails_at_once(peer: Peer) -> None:
    with peer.client() as client:
        with pytest.raises((JSONRPCError, ToolError)):
            client.call_tool("ask_name").raise_for_error()
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_resources_templates_prompts_and_completion_work(peer: Peer) -> None:
    with peer.client() as client:
        assert {str(resource.uri) for resource in client.list_resources()} == {"memo://greeting", "memo://binary"}
        assert [template.uri_template for template in client.list_resource_templates()] == ["memo://note/{name}"]
        assert client.read_resource("memo://greeting").contents[0].text == "hello"
        assert base64.b64decode(client.read_resource("memo://binary").contents[0].blob) == bytes(range(256))
        assert client.read_resource("memo://note/x").contents[0].text == "note x"
        assert [prompt.name for prompt in client.list_prompts()] == ["greet"]
        assert client.get_prompt("greet", {"name": "Bo"}).messages[0].content.text == "Say hello to Bo."
        found = client.complete({"type": "ref/prompt", "name": "greet"}, {"name": "name", "value": "al"})
        assert found.completion.values == ["alice", "albert"]
        with pytest.raises(JSONRPCError):
            client.read_resource("memo://missing")


def test_a_subscribed_resource_is_reported_until_it_is_unsubscribed(peer: Peer) -> None:
    uris: queue.Queue[str] = queue.Queue()

    def note(news: Notification) -> None:
        if news.method == "notifications/resources/updated":
            uris.put((news.params or {})["uri"])

    with peer.client(on_notification=note) as client:
        client.subscribe("memo://greeting")
        client.call_tool("touch_resource", {"uri": "memo://greeting"})
        assert uris.get(timeout=PATIENCE) == "memo://greeting"
        client.unsubscribe("memo://greeting")
        client.call_tool("touch_resource", {"uri": "memo://greeting"})
        client.subscribe("memo://binary")
        client.call_tool("touch_resource", {"uri": "memo://binary"})
        assert uris.get(timeout=PATIENCE) == "memo://binary"  # and nothing of the other in between


def test_listen_iterates_changes_of_tools_and_resources(peer: Peer) -> None:
    with peer.client() as client:
        before = len(client.list_tools())
        with client.listen(tools_list_changed=True, resource_subscriptions=["memo://greeting"]) as news:
            assert news.honoured == {"toolsListChanged": True, "resourceSubscriptions": ["memo://greeting"]}
            client.call_tool("grow")
            first = news.next(PATIENCE)
            client.call_tool("touch_resource", {"uri": "memo://greeting"})
            second = news.next(PATIENCE)
        assert first is not None
        assert first.method == "notifications/tools/list_changed"
        assert second is not None
        assert (second.params or {})["uri"] == "memo://greeting"
        assert list(news) == []  # closed
        assert len(client.list_tools()) == before + 1


def test_ping_and_many_futures_work_on_one_connection(peer: Peer) -> None:
    with peer.client() as client:
        client.ping()
        futures = {client.submit_tool("add", {"a": n, "b": 1}): n for n in range(100)}
        assert all(future.result().data == futures[future] + 1 for future in as_completed(futures, PATIENCE))
        counters = client.counters
        assert counters["pending"] == 0
        assert counters["sent"] == sum(counters[name] for name in ("ok", "error", "timeout", "cancelled"))


def test_a_server_that_dies_fails_the_calls_in_flight_with_its_exit_status(peer: Peer, tmp_path: Path) -> None:
    with journal(tmp_path) as written, peer.client(env={"PEER_JOURNAL": written.path}) as client:
        waiting = [client.submit_tool("slow", {"seconds": 60}) for _ in range(3)]
        assert [written.next_line() for _ in waiting] == ["started slow"] * 3
        with pytest.raises(MCPConnectionError, match="exit status 7.*about to die") as caught:
            client.call_tool("die", {"code": 7})
        assert caught.value.details["exit_status"] == 7
        assert caught.value.may_have_run is None
        assert wait(waiting, PATIENCE, ALL_COMPLETED).not_done == set()
        assert {type(future.exception()) for future in waiting} == {MCPConnectionError}
        with pytest.raises(MCPConnectionError, match="exit status 7") as caught:
            client.call_tool("add", {"a": 1, "b": 2})
        assert caught.value.may_have_run is False
        assert not client.connected
        client.connect()
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_a_session_of_the_transport_speaks_plain_dicts(peer: Peer) -> None:
    with (
        StdioTransport(peer.command, timeout=PATIENCE) as transport,
        transport.create_session(protocol_version=peer.version) as session,
    ):
        assert session.protocol_version == peer.agreed
        assert {tool["name"] for tool in session.send_request("tools/list", {})["tools"]} == TOOLS
        *progress, result = session.send_streaming_request("tools/call", {"name": "count", "arguments": {"n": 2}})
        assert [report["params"]["progress"] for report in progress] == [1, 2]
        assert result["content"][0]["text"] == "counted 2"


def test_a_session_iterates_log_messages_and_changes_in_plain_dicts(peer: Peer) -> None:
    with (
        StdioTransport(peer.command, timeout=PATIENCE) as transport,
        transport.create_session(protocol_version=peer.version) as session,
    ):
        *logs, result = session.send_streaming_request("tools/call", {"name": "shout", "arguments": {"text": "hey"}})
        assert {item["params"]["level"] for item in logs} == {"debug", "info", "warning", "error"}
        assert result["content"][0]["text"] == "shouted"
        news = session.listen()
        session.send_request("tools/call", {"name": "grow", "arguments": {}})
        methods = iter(item["method"] for item in news)
        assert next(method for method in methods if method != "notifications/message") == (
            "notifications/tools/list_changed"
        )


def test_arguments_that_do_not_fit_are_explained(peer: Peer) -> None:
    with peer.client() as client:
        try:
            said = client.call_tool("add", {"a": "one"}).raise_for_error().text
        except MCPError as error:
            said = str(error)
    assert "a" in said
    assert "valid" in said


def test_the_2x_server_is_asked_for_the_handshake_era_by_name() -> None:
    peer = demand(PEERS["sdk2-handshake"])
    with Client(peer.command, timeout=PATIENCE, protocol_version="2025-06-18") as client:
        assert client.protocol_version == "2025-06-18"
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
