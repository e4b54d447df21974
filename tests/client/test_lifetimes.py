"""The end of a Client: closed in odd places, forgotten, forked."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ALL_COMPLETED, wait
from typing import Any

import pytest
from client.children import program, server
from client.scripted import HANDSHAKE, LATER, STATELESS, Asked, Scripted

from mcp_sync import Client, MCPConnectionError
from mcp_sync.deadlines import Deadline

ERAS = pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])


@ERAS
def test_closing_fails_every_call_in_flight_and_says_why(era: str) -> None:
    scripted = Scripted({"tools/call": lambda ask: LATER}, era=era)
    errors: list[MCPConnectionError] = []

    def work() -> None:
        try:
            client.call_tool("t")
        except MCPConnectionError as error:
            errors.append(error)

    with Client(scripted) as client:
        futures = [client.submit_tool("t") for _ in range(20)]
        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        scripted.asked("tools/call", 40)
        client.close()
        for thread in threads:
            thread.join(20)
    assert wait(futures, 10, ALL_COMPLETED).not_done == set()
    errors += [future.exception(0) for future in futures]  # type: ignore[misc]
    assert len(errors) == 40
    assert {type(error) for error in errors} == {MCPConnectionError}
    assert all("tools/call" in str(error) and "closed" in str(error) for error in errors)
    assert {error.may_have_run for error in errors} == {None}
    assert len({id(error) for error in errors}) == 40  # each its own


@ERAS
def test_a_client_may_be_closed_in_each_of_its_callbacks(era: str) -> None:
    def answer(ask: Asked) -> Any:
        ask.report(1)
        return LATER

    scripted = Scripted({"tools/call": answer}, era=era)
    over = threading.Event()
    noting = Client(scripted, on_notification=lambda news: noting.close())
    with noting:
        future = noting.submit_tool("t")
        scripted.tell("notifications/custom")
        assert "closed" in str(future.exception(10))
    with Client(scripted) as client, pytest.raises(MCPConnectionError, match="closed"):
        client.call_tool("t", on_progress=lambda *report: client.close())
    with Client(scripted) as client:
        future = client.submit_tool("t")
        future.add_done_callback(lambda future: (client.close(), over.set()))
        future.cancel()
        assert over.wait(10)
        assert not client.connected


@ERAS
def test_a_client_may_be_closed_while_it_answers_the_server(era: str) -> None:
    def answer(ask: Asked) -> Any:
        if era == STATELESS:
            return {"resultType": "input_required", "inputRequests": {"a": {"method": "roots/list"}}}
        scripted.line.send({"jsonrpc": "2.0", "id": "s", "method": "roots/list"}, Deadline(5))
        return LATER

    def leave() -> list[str]:
        client.close()
        return []

    scripted = Scripted({"tools/call": answer}, era=era)
    client = Client(scripted, roots=leave)
    with client, pytest.raises(MCPConnectionError, match="closed"):
        client.call_tool("t")


def test_closing_from_many_threads_at_once_is_closing_once() -> None:
    client = Client(server(), timeout=20)
    client.connect()
    threads = [threading.Thread(target=client.close) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not client.connected


def test_a_forgotten_client_is_closed_with_a_warning() -> None:
    def forget() -> None:
        Client(server(), timeout=20).connect()
        gc.collect()

    with pytest.warns(ResourceWarning, match=r"<Client .*> was never closed; use it in a with statement"):
        forget()


def test_a_forgotten_client_that_is_part_of_a_circle_is_closed_too() -> None:
    def forget() -> None:
        client = Client(Scripted(), on_notification=lambda news: client.close())
        client.connect()

    def forget_for_good() -> None:
        forget()
        gc.collect()

    with pytest.warns(ResourceWarning, match="was never closed"):
        forget_for_good()


def test_a_closed_client_is_forgotten_without_a_word() -> None:
    client = Client(Scripted())
    client.connect()
    client.close()
    del client
    gc.collect()  # warnings are errors here


def test_a_program_that_forgets_to_close_still_ends_and_its_server_too() -> None:
    done = program(
        """
        import sys
        from mcp_sync import Client
        client = Client(sys.argv[1:], timeout=20)
        print(client.call_tool("hello").text)
        print(client._asker.caller.explain()["pid"])
        """,
        *server(),
    )
    assert done.returncode == 0, done.stderr
    words, pid = done.stdout.split()
    assert words == "hello"
    assert "Traceback" not in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)  # no signal, only the question whether there is such a process


FORKING = """
    import os, sys, threading
    from mcp_sync import Client

    client = Client(sys.argv[1:], timeout=20)
    assert client.call_tool("parent").text == "parent"
    theirs = client._asker.caller.explain()["pid"]
    stop = threading.Event()

    def busy():
        while not stop.wait(0.001):  # a pause, or three busy threads starve the children of a small machine
            assert client.call_tool("busy").text == "busy"

    threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
    for thread in threads: thread.start()
    for generation in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert client.call_tool("child").text == "child"
                assert client._asker.caller.explain()["pid"] != theirs
                grandchild = os.fork()
                if grandchild == 0:
                    code = 2
                    assert client.call_tool("grandchild").text == "grandchild"
                    client.close()
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
                assert client.call_tool("child").text == "child"
                client.close()
                code = 0
            finally:
                if code:
                    import traceback
                    traceback.print_exc()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.set()
    for thread in threads: thread.join()
    assert client.call_tool("parent").text == "parent"
    assert client._asker.caller.explain()["pid"] == theirs
    assert client.counters["error"] == 0
    client.close()
    print("fine")
"""


def test_a_fork_leaves_the_parent_unharmed_and_the_children_dial_anew() -> None:
    done = program(FORKING, *server())
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_future_of_the_parent_fails_in_a_forked_child_and_comes_in_the_parent() -> None:
    held = """
        if method == "server/discover":
            answer(id, result={"supportedVersions": ["2026-07-28"], "capabilities": {}})
        elif params.get("name") == "slow":
            slow = id
        elif method == "tools/call":
            answer(id, result={"content": [{"type": "text", "text": "quick"}]})
            answer(slow, result={"content": [{"type": "text", "text": "slow"}]})
    """
    done = program(
        """
        import os, sys
        from mcp_sync import Client, ForkedClientError

        client = Client(sys.argv[1:], timeout=20)
        future = client.submit_tool("slow")
        child = os.fork()
        if child == 0:
            os._exit(0 if isinstance(future.exception(10), ForkedClientError) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.call_tool("quick").text == "quick"
        assert future.result(10).text == "slow"
        client.close()
        print("fine")
        """,
        *server(held),
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_subscription_of_the_parent_breaks_off_in_a_forked_child() -> None:
    old = """
        if method == "initialize":
            answer(id, result={"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}})
        elif method == "ping":
            tell("notifications/tools/list_changed")
            answer(id, result={})
        elif id is not None:
            answer(id, error={"code": -32601, "message": "no"})
    """
    done = program(
        """
        import os, sys
        from mcp_sync import Client, ForkedClientError

        client = Client(sys.argv[1:], timeout=20)
        news = client.listen(tools_list_changed=True)
        child = os.fork()
        if child == 0:
            try:
                news.next(10)
            except ForkedClientError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.ping()
        assert news.next(10).method == "notifications/tools/list_changed"
        client.close()
        print("fine")
        """,
        *server(old),
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_client_that_was_closed_before_the_fork_is_closed_in_the_child() -> None:
    done = program(
        """
        import os, sys
        from mcp_sync import Client, MCPConnectionError

        client = Client(sys.argv[1:], timeout=20)
        client.connect()
        client.close()
        child = os.fork()
        if child == 0:
            try:
                client.ping()
            except MCPConnectionError as error:
                os._exit(0 if "is closed" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print("fine")
        """,
        *server(),
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# -- what is imported when --------------------------------------------------------------------------------------------


def test_a_session_in_plain_dicts_never_imports_the_models() -> None:
    done = program(
        """
        import sys
        from mcp_sync import StdioTransport

        with StdioTransport(sys.argv[1:], timeout=20) as transport, transport.create_session() as session:
            assert session.send_request("tools/call", {"name": "hi"})["content"][0]["text"] == "hi"
            assert list(session.send_streaming_request("tools/call", {"name": "hi"}))
            assert session.submit_request("tools/call", {"name": "hi"}).result()
        heavy = {"mcp_types", "pydantic", "jsonschema", "referencing", "asyncio"} & set(sys.modules)
        assert not heavy, heavy
        print("fine")
        """,
        *server(),
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_the_schema_library_is_imported_with_the_first_output_schema_only() -> None:
    done = program(
        """
        import sys
        from mcp_sync import Client

        with Client(sys.argv[1:], timeout=20) as client:
            client.call_tool("hi")
        assert "mcp_types" in sys.modules
        assert "jsonschema" not in sys.modules
        assert "asyncio" not in sys.modules
        print("fine")
        """,
        *server(),
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
