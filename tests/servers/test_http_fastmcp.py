"""The client over HTTP against a server made with fastmcp: in both eras over Streamable HTTP, and over HTTP+SSE."""

from __future__ import annotations

import base64
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers.others import HANDSHAKES, PATIENCE, STATELESS, Inbox

from mcp_sync import Client, JSONRPCError, MCPTimeoutError, ToolError
from peers.running import Fleet, Running

pytestmark = pytest.mark.interop


@dataclass
class Way:
    """A binding, a version to ask for, and the server."""

    binding: str
    version: str | None
    server: Running

    @property
    def agreed(self) -> str:
        return self.version or (STATELESS if self.binding == "http" else HANDSHAKES[-1])

    @property
    def is_stateless(self) -> bool:
        return self.agreed == STATELESS

    def client(self, **options: Any) -> Client:
        """Return a client, not connected yet."""
        url = self.server.url if self.binding == "http" else f"{self.server.origin}/sse"
        return Client(url, **{"timeout": PATIENCE, "protocol_version": self.version, **options})


WAYS = {"stateless": ("http", None), "handshake": ("http", HANDSHAKES[-1]), "sse": ("sse", None)}


@pytest.fixture(scope="module", params=list(WAYS))
def way(request: pytest.FixtureRequest, fleet: Fleet) -> Way:
    binding, version = WAYS[request.param]
    return Way(binding, version, fleet.server("fastmcp", binding, PEER_PAGE_SIZE="5"))


def test_the_newest_version_is_found(way: Way) -> None:
    with way.client() as client:
        assert client.protocol_version == way.agreed
        assert (client.server_info.name, client.server_info.version) == ("peer-fastmcp", "1.0")
        assert len(client.request("tools/list")["tools"]) == 5
        assert len({tool.name for tool in client.list_tools()} - {"grown_1", "grown_2", "grown_3"}) == 26
        client.ping()


def test_results_of_every_shape_arrive(way: Way) -> None:
    with way.client() as client:
        assert client.call_tool("primes", {"below": 12}).data == [2, 3, 5, 7, 11]
        assert client.call_tool("echo", {"text": "a\u2028b\U0001f600\n"}).data == "a\u2028b\U0001f600\n"
        assert client.call_tool("maybe", {"found": False}).data is None
        assert client.call_tool("big", {"n": 1_000_000}).text == "x" * 1_000_000
        assert [content.type for content in client.call_tool("media").content] == ["image", "audio", "resource", "text"]
        assert base64.b64decode(client.read_resource("memo://binary").contents[0].blob) == bytes(range(256))
        assert client.read_resource("memo://search?query=x&limit=5").contents[0].text == '{"query": "x", "limit": 5}'
        assert client.get_prompt("greet", {"name": "Ada", "times": "3"}).messages[0].content.text.endswith("3 times.")


def test_failures_say_what_was_wrong(way: Way) -> None:
    with way.client() as client:
        with pytest.raises(ToolError, match="'fail' reported an error: no luck"):
            client.call_tool("fail", {"message": "no luck"}).raise_for_error()
        with pytest.raises(ToolError, match="less than or equal to 10"):
            client.call_tool("careful", {"size": 11}).raise_for_error()
        with pytest.raises(JSONRPCError, match="not found") as missing:
            client.read_resource("memo://none")
        assert missing.value.code == -32602
        with pytest.raises(JSONRPCError) as unknown:
            client.request("no/such/method")
        assert unknown.value.code == -32601
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_progress_and_log_messages_come_in_order(way: Way) -> None:
    logged = Inbox()
    reports: list[tuple[float, float | None, str | None]] = []
    with way.client(on_log=logged.put) as client:
        client.call_tool("count", {"n": 3}, on_progress=lambda *report: reports.append(report))
        assert reports == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
        client.call_tool("shout", {"text": "hey"})
        assert [logged.next().level for _ in range(4)] == ["debug", "info", "warning", "error"]


def test_the_server_may_ask_for_sampling_elicitation_and_roots(way: Way, tmp_path: Path) -> None:
    answers: list[Any] = [{"value": "Ada"}, None, {"action": "cancel"}]
    with way.client(
        elicitation=lambda params: answers.pop(0),
        sampling=lambda params: f"about {params.messages[0].content.text}",
        roots=[tmp_path],
    ) as client:
        assert [client.call_tool("ask_name").data for _ in range(3)] == ["hello Ada", "decline", "cancel"]
        assert client.call_tool("think", {"prompt": "threads"}).data == "unknown: about threads"
        assert client.call_tool("where").data == [tmp_path.as_uri()]


def test_several_rounds_of_questions_lead_to_one_result_where_there_are_rounds(way: Way) -> None:
    answers = {"Name?": {"name": "Ada"}, "Age?": {"age": 36}, "Ada, 36: sure?": {"sure": True}}
    with way.client(elicitation=lambda params: answers[params.message]) as client:
        if way.is_stateless:
            assert client.call_tool("interview").data == "Ada, 36, True"
        else:
            with pytest.raises(JSONRPCError, match="only exists at MCP 2026-07-28"):
                client.call_tool("interview")


def test_a_new_tool_is_announced_and_can_be_called(way: Way) -> None:
    heard = Inbox()
    with way.client(on_notification=lambda news: heard.put(news.method)) as client:
        client.list_tools()
        name = client.call_tool("grow").data
        heard.next(lambda method: method == "notifications/tools/list_changed")
        assert client.call_tool(name).text == name
        assert name in {tool.name for tool in client.list_tools()}


def test_a_call_that_is_cancelled_or_late_is_stopped_on_the_server(way: Way) -> None:
    journal = way.server.journal
    way.server.forget_journal()
    with way.client() as client:
        future = client.submit_tool("slow", {"seconds": 60})
        assert journal() == "started slow"
        assert future.cancel()
        assert journal() == "cancelled slow"
        assert wait([future], PATIENCE).done == {future}
        with pytest.raises(CancelledError):
            future.result(0)
        with pytest.raises(MCPTimeoutError):
            client.call_tool("slow", {"seconds": 60}, timeout=0.5)
        assert [journal(), journal()] == ["started slow", "cancelled slow"]
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_sixteen_threads_get_their_own_answers(way: Way) -> None:
    def work(thread: int) -> list[str]:
        return [client.call_tool("echo", {"text": f"{thread}/{n}"}).data for n in range(6)]

    with way.client() as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(work, range(16)))
    assert answers == [[f"{thread}/{n}" for n in range(6)] for thread in range(16)]


def test_closing_ends_the_session_where_there_is_one(way: Way) -> None:
    mark = way.server.mark()
    with way.client() as client:
        client.ping()
    has_session = way.binding == "http" and not way.is_stateless
    if has_session:
        (line,) = way.server.wait_for('"DELETE /mcp', mark)
        assert line.endswith("200 OK")
    else:
        with way.client() as client:  # whose requests are there after anything of the client before
            client.ping()
        assert way.server.since(mark, "DELETE") == []
