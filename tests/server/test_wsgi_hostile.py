"""Clients that take more than their share, and stores that fail, over HTTP: nobody else is harmed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from server.web import Web

from mcp_sync.exceptions import MCPConnectionError
from mcp_sync.server import Context, MemorySessionStore, Server

WAIT = 5.0


@pytest.fixture
def mount() -> Iterator[Callable[..., Web]]:
    apps = []

    def mounted(server: Server, **options: Any) -> Web:
        app = server.wsgi_app(**options)
        apps.append(app)
        return Web(app)

    yield mounted
    for app in apps:
        app.close()


class FailingStore(MemorySessionStore):
    """A store that can be taken away."""

    away = False

    def append(self, *args: Any, **kwargs: Any) -> str:
        if self.away:
            raise MCPConnectionError("the store is away")
        return super().append(*args, **kwargs)


def test_an_answer_arrives_though_the_store_is_away(mount: Callable[..., Web]) -> None:
    server, store = Server("s"), FailingStore()

    @server.tool()
    def work(context: Context) -> str:
        context.progress(1)
        store.away = True
        context.progress(2)
        return "done"

    visit = mount(server, store=store).greet()
    reply = visit.ask("tools/call", {"name": "work", "_meta": {"progressToken": 1}})
    messages = list(reply.messages())
    assert [one.get("method") for one in messages] == ["notifications/progress", "notifications/progress", None]
    assert messages[-1]["result"]["content"][0]["text"] == "done"


def test_one_client_has_a_share_of_what_is_answered_at_once(mount: Callable[..., Web]) -> None:
    server = Server("s", max_concurrent_requests=2)
    go = threading.Event()

    @server.tool()
    def wait(context: Context) -> str:
        context.progress(1)
        go.wait(WAIT)
        return "done"

    web = mount(server)
    greedy, other = web.greet(), web.greet()
    params = {"name": "wait", "_meta": {"progressToken": 1}}
    held = [greedy.ask("tools/call", params, request_id=n) for n in range(2)]
    assert all(reply.is_stream for reply in held)
    refused = greedy.ask("ping", request_id=9)
    assert (refused.status, refused.json["id"]) == (503, 9)
    assert other.ask("ping").status == 200
    go.set()
    for reply in held:
        assert list(reply.messages())[-1]["result"]["isError"] is False
    assert greedy.ask("ping").status == 200


def test_the_answers_to_a_batch_are_not_larger_than_one_may_be(mount: Callable[..., Web]) -> None:
    server = Server("s", max_message_size=100_000)

    @server.tool()
    def large() -> str:
        return "x" * 40_000

    visit = mount(server).greet("2025-03-26")
    batch = [{"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": "large"}} for n in range(20)]
    content = visit.post(batch)
    found = content.json
    assert [one["id"] for one in found] == list(range(20))
    assert sum("result" in one for one in found) < 4
    assert found[-1]["error"]["code"] == -32603


def test_the_same_id_twice_in_a_batch_and_an_around_that_fails_leave_nothing(mount: Callable[..., Web]) -> None:
    server = Server("s")
    fails = [True]

    def around() -> Any:
        if fails[0]:
            raise RuntimeError("no connection to the database")
        raise AssertionError

    web = mount(server, around=around)
    visit = web.greet("2025-03-26")
    for _ in range(2):  # the id is free again
        answered = visit.ask("ping", request_id=5).json
        assert (answered["id"], answered["error"]) == (5, {"code": -32603, "message": "internal error"})
    batch = [{"jsonrpc": "2.0", "id": 5, "method": "ping"}] * 2
    assert [one["id"] for one in visit.post(batch).json] == [5, 5]  # one after the other


def test_a_slot_is_given_back_once(mount: Callable[..., Web]) -> None:
    web = mount(Server("s"), max_streams=1)
    visit = web.greet()

    def broken(status: str, headers: Any, exc_info: Any = None) -> object:
        if status.startswith("200"):
            raise OSError("the client is gone")
        return None

    request = web.request

    def fail() -> None:
        environ = dict[str, Any](
            REQUEST_METHOD="GET",
            PATH_INFO="",
            HTTP_HOST="localhost",
            HTTP_ACCEPT="text/event-stream",
            HTTP_MCP_SESSION_ID=visit.session_id,
            REMOTE_ADDR="127.0.0.1",
        )
        web.app(environ, broken)

    fail()
    stream = visit.get()
    assert stream.is_stream
    fail()
    assert request("GET", {"Accept": "text/event-stream", **visit.headers}).status == 503
    stream.close()


def test_what_is_said_after_the_answer_is_dropped_at_once(mount: Callable[..., Web]) -> None:
    server = Server("s")
    kept: list[Context] = []

    @server.tool()
    def keep(context: Context) -> str:
        kept.append(context)
        return "done"

    web = mount(server)
    assert web.ask("tools/call", {"name": "keep"}, meta={"progressToken": 1}).status == 200
    for number in range(3):
        kept[0].progress(number, message="x" * 1_000_000)  # would wait for room, if it were kept


def test_who_is_nobody_is_let_in_unless_a_login_is_required(mount: Callable[..., Web]) -> None:
    def identify(environ: Any) -> str | None:
        return environ.get("REMOTE_USER")

    assert mount(Server("s"), identify=identify).ask("server/discover").status == 200
    web = mount(Server("s"), identify=identify, login_required=True)
    assert web.ask("server/discover").status == 401
    assert web.ask("server/discover", REMOTE_USER="ann").status == 200


def test_the_state_of_one_server_is_no_good_at_another(mount: Callable[..., Web]) -> None:
    def asking(name: str) -> Web:
        server = Server(name, secret_key="the same")

        @server.tool()
        def order(context: Context) -> str:
            context.state["seen"] = True
            return context.elicit("?", {"type": "object", "properties": {}}).action

        return mount(server)

    can = {"elicitation": {}}
    state = asking("sandbox").ask("tools/call", {"name": "order"}, capabilities=can).json["result"]["requestState"]
    again = {"name": "order", "requestState": state}
    assert asking("sandbox").ask("tools/call", again, capabilities=can).status == 200
    assert asking("production").ask("tools/call", again, capabilities=can).status == 400


def test_tasks_are_not_begun_where_nobody_could_find_them_again(mount: Callable[..., Web]) -> None:
    server = Server("s")

    @server.tool(task="optional")
    def work() -> str:
        return "done"

    web = mount(server)
    can = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    assert web.ask("tools/call", {"name": "work"}, capabilities=can).json["result"]["resultType"] == "task"
    several = web.ask("tools/call", {"name": "work"}, capabilities=can, **{"wsgi.multiprocess": True})
    assert several.json["result"]["resultType"] == "complete"
    assert server.tasks is not None
    from mcp_sync.deadlines import Deadline

    server.tasks.close(Deadline(WAIT))
