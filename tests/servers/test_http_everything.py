"""The client over HTTP against server-everything: Streamable HTTP with sessions and resumption, and HTTP+SSE."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers.others import HANDSHAKES, PATIENCE, STATELESS, Inbox

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPTimeoutError, RemoteProtocolError, ToolError
from peers.running import Fleet, Running, everything, running

pytestmark = pytest.mark.interop

TEXT = "demo://resource/dynamic/text/"
PATHS = {"streamableHttp": "/mcp", "sse": "/sse"}
SLOWLY = "trigger-long-running-operation"


@dataclass
class Way:
    """A binding, and the server that speaks it."""

    binding: str
    server: Running

    def client(self, **options: Any) -> Client:
        """Return a client, not connected yet."""
        return Client(self.server.origin + PATHS[self.binding], **{"timeout": PATIENCE, **options})


@pytest.fixture(scope="module", params=list(PATHS))
def way(request: pytest.FixtureRequest, fleet: Fleet) -> Way:
    return Way(request.param, fleet.server("everything", request.param))


@pytest.mark.parametrize("version", [None, *HANDSHAKES])
def test_every_version_that_it_speaks_does(version: str | None, way: Way) -> None:
    with way.client(protocol_version=version) as client:
        assert client.protocol_version == (version or HANDSHAKES[-1])
        assert client.server_info.name == "mcp-servers/everything"
        assert len(client.list_tools()) == 13
        assert client.call_tool("echo", {"message": "hé\u2028\U0001f600"}).text == "Echo: hé\u2028\U0001f600"
        assert client.call_tool("get-sum", {"a": 1, "b": 2.5}).text == "The sum of 1 and 2.5 is 3.5."
        client.ping()


def test_the_version_that_it_does_not_speak_is_said_to_be_the_matter(way: Way) -> None:
    with pytest.raises(RemoteProtocolError, match=f"does not speak {STATELESS}.*leave protocol_version out"):
        way.client(protocol_version=STATELESS).connect()


def test_results_resources_and_prompts_arrive(way: Way) -> None:
    with way.client() as client:
        weather = client.call_tool("get-structured-content", {"location": "Chicago"})
        assert weather.data == {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}
        assert [content.type for content in client.call_tool("get-tiny-image").content] == ["text", "image", "text"]
        documents = {resource.name: resource for resource in client.list_resources()}
        assert client.read_resource(documents["instructions.md"].uri).contents[0].text == client.instructions
        prompt = client.get_prompt("args-prompt", {"city": "Lyon", "state": "Rhône"})
        assert prompt.messages[0].content.text == "What's weather in Lyon, Rhône?"


def test_failures_say_what_was_wrong(way: Way) -> None:
    with way.client() as client:
        with pytest.raises(ToolError, match="expected number, received string"):
            client.call_tool("get-sum", {"a": "x", "b": 1}).raise_for_error()
        with pytest.raises(JSONRPCError, match="not found"):
            client.read_resource("demo://none")
        with pytest.raises(JSONRPCError) as unknown:
            client.request("no/such/method")
        assert unknown.value.code == -32601
        assert client.call_tool("echo", {"message": "still here"}).text == "Echo: still here"


def test_a_long_operation_reports_progress_and_can_be_given_up(way: Way) -> None:
    reports: list[tuple[float, float | None]] = []
    going = Inbox()
    with way.client() as client:
        client.call_tool(SLOWLY, {"duration": 0.2, "steps": 4}, on_progress=lambda *now: reports.append(now[:2]))
        assert reports == [(1, 4), (2, 4), (3, 4), (4, 4)]

        endless = {"duration": 60, "steps": 600}
        future = client.submit_tool(SLOWLY, endless, on_progress=lambda *now: going.put(now))
        going.next()
        assert future.cancel()
        with pytest.raises(MCPTimeoutError):
            client.call_tool(SLOWLY, {"duration": 60, "steps": 1}, timeout=0.2)
        assert client.call_tool("echo", {"message": "still here"}).text == "Echo: still here"
        assert (client.counters["cancelled"], client.counters["timeout"], client.counters["pending"]) == (1, 1, 0)


def test_sixteen_threads_get_their_own_answers(way: Way) -> None:
    def work(thread: int) -> list[str]:
        return [client.call_tool("echo", {"message": f"{thread}/{n}"}).text for n in range(6)]

    with way.client() as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(work, range(16)))
    assert answers == [[f"Echo: {thread}/{n}" for n in range(6)] for thread in range(16)]


def test_the_user_and_the_model_are_asked(way: Way) -> None:
    def think(params: Any) -> str:
        return params.messages[0].content.text.upper()

    with way.client(sampling=think, elicitation=lambda params: {"name": "Ada", "check": True}) as client:
        form = client.call_tool("trigger-elicitation-request")
        raw = json.loads(form.content[-1].text.partition("Raw result:")[2])
        assert (raw["action"], raw["content"]["name"], raw["content"]["integer"]) == ("accept", "Ada", 42)
        thought = client.call_tool("trigger-sampling-request", {"prompt": "threads", "maxTokens": 30})
        assert "CONTEXT: THREADS" in thought.text


def test_the_roots_of_the_client_are_asked_for_again_when_they_have_changed(way: Way, tmp_path: Path) -> None:
    roots: list[Any] = [{"uri": tmp_path.as_uri(), "name": "work"}]
    logged = Inbox()
    with way.client(roots=lambda: roots, on_log=lambda record: logged.put(str(record.data))) as client:
        assert f"1. work\n   URI: {tmp_path.as_uri()}" in client.call_tool("get-roots-list").text
        logged.line("Roots updated: 1 root(s)")
        roots.append("file:///elsewhere")
        client.send_roots_list_changed()
        logged.line("Roots updated: 2 root(s)")
        assert "URI: file:///elsewhere" in client.call_tool("get-roots-list").text


def test_changes_are_told_to_those_who_listen(way: Way) -> None:
    arguments = {"name": "a.gz", "data": "data:text/plain,hello"}
    with way.client() as client:
        with client.listen(resources_list_changed=True) as news:
            client.call_tool("gzip-file-as-resource", arguments)
            assert news.next(PATIENCE).method == "notifications/resources/list_changed"
        with client.listen(resource_subscriptions=[TEXT + "1"]) as news:
            client.call_tool("toggle-subscriber-updates")
            assert news.next(PATIENCE).params == {"uri": TEXT + "1"}
            client.call_tool("toggle-subscriber-updates")


@pytest.mark.slow
def test_a_task_asks_what_it_needs_and_ends_with_a_result(way: Way) -> None:
    with way.client(elicitation=lambda params: {"interpretation": "snake"}) as client:
        task = client.start_task("simulate-research-query", {"topic": "python", "ambiguous": True}, ttl=60_000)
        assert "python (snake)" in task.result().text


def test_closing_ends_the_session_on_the_server(way: Way) -> None:
    mark = way.server.mark()
    with way.client() as client:
        client.ping()
    gone = "Received session termination request" if way.binding == "streamableHttp" else "Client Disconnected"
    way.server.wait_for(gone, mark)


@pytest.mark.parametrize("binding", list(PATHS))
def test_a_server_that_dies_breaks_calls_off_soon(binding: str, tmp_path: Path) -> None:
    reports = Inbox()
    with running(everything(binding), tmp_path / "server") as server, Way(binding, server).client() as client:
        endless = {"duration": 60, "steps": 600}
        call = client.submit_tool(SLOWLY, endless, 3.0, on_progress=lambda *now: reports.put(now))
        reports.next()
        server.kill()
        # Where the stream has event ids, it is asked for until the time is over.
        with pytest.raises((MCPConnectionError, MCPTimeoutError)) as caught:
            call.result(PATIENCE)
        assert caught.value.may_have_run is None
