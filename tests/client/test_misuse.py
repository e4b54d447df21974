"""A Client used in a wrong way says what was wrong, with what it was called, and what to try."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client.scripted import HANDSHAKE, STATELESS, Scripted, text

from mcp_sync import (
    Client,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MemoryTransport,
    MessageTooLarge,
    StdioTransport,
)

TARGETS = {
    "a number": (123, TypeError, r"cannot connect to 123 \(int\); give a URL, a command as a list"),
    "nothing": (None, TypeError, "cannot connect to None"),
    "bytes": (b"server.py", TypeError, "cannot connect to b'server.py'"),
    "an empty list": ([], TypeError, r"command must be a str or a list of str, not list \(\[\]\)"),
    "a list with a number": (["python", 3], TypeError, r"only str, not int \(3\)"),
    "a class": (StdioTransport, TypeError, "a class.*StdioTransport"),
    "a script that is not there": ("no/such.py", FileNotFoundError, "no server script 'no/such.py'"),
    "a command line": ("python server.py", FileNotFoundError, "'python server.py'; give a command as a list"),
    "a URL of another kind": ("ftp://me:x@example.org/", ValueError, r"connect to 'ftp://example.org/': .* http://"),
}


@pytest.mark.parametrize(("target", "error", "words"), TARGETS.values(), ids=TARGETS)
def test_a_target_that_is_none_is_refused(target: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Client(target)


def test_a_script_of_an_unknown_kind_is_refused_with_what_to_write(tmp_path: Path) -> None:
    script = tmp_path / "server.rb"
    script.touch()
    with pytest.raises(ValueError, match=r"no interpreter is known for .*server.rb.*as a list"):
        Client(script)


KEYWORDS = {
    "misspelt": (lambda: Client(["x"], tiemout=3), r"Client\(\) got .*'tiemout'; did you mean 'timeout'\?"),
    "misspelt, of the transport": (lambda: Client(["x"], max_mesage_size=1), "did you mean 'max_message_size'"),
    "misspelt, at the transport": (
        lambda: StdioTransport(["x"], max_mesage_size=1),
        r"StdioTransport\(\) got .*'max_mesage_size'; did you mean 'max_message_size'\?",
    ),
    "foreign": (lambda: Client(StdioTransport(["x"]), cwd="/tmp"), r"Client\(\) got an unexpected keyword.*'cwd'"),
    "foreign, in memory": (lambda: Client(Scripted(), env={}), r"Client\(\) got an unexpected keyword.*'env'"),
    "timeout of text": (lambda: Client(["x"], timeout="5"), r"timeout must be a number of seconds, not str \('5'\)"),
    "timeout of True": (lambda: Client(["x"], timeout=True), r"timeout must be .*not bool \(True\)"),
    "sampling of text": (lambda: Client(["x"], sampling="yes"), r"sampling must be a function, not str \('yes'\)"),
    "elicitation of a dict": (lambda: Client(["x"], elicitation={}), "elicitation must be a function, not dict"),
    "on_log of a list": (lambda: Client(["x"], on_log=[]), "on_log must be a function, not list"),
    "roots of text": (lambda: Client(["x"], roots="/tmp"), "roots must be a list of paths.*not '/tmp'"),
    "roots of a number": (lambda: Client(["x"], roots=5), "roots must be a list of paths.*not 5"),
    "client_info of text": (lambda: Client(["x"], client_info="me"), "client_info must be a dict.*not 'me'"),
    "client_info without name": (lambda: Client(["x"], client_info={"version": "1"}), "client_info must be a dict"),
    "env of a list": (lambda: Client(["x"], env=["A=1"]), "env must be a mapping of str to str, not list"),
    "env of numbers": (lambda: Client(["x"], env={"A": 1}), "env must map str to str; 'A' maps to int"),
}


@pytest.mark.parametrize(("make", "words"), KEYWORDS.values(), ids=KEYWORDS)
def test_a_wrong_keyword_of_the_constructor_is_a_type_error(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


VALUES = {
    "timeout of -1": (lambda: Client(["x"], timeout=-1), "timeout must be .*above 0.*not -1"),
    "timeout of 0": (lambda: Client(["x"], timeout=0), "timeout must be .*above 0.*not 0"),
    "timeout of nan": (lambda: Client(["x"], timeout=math.nan), "timeout must be .*above 0.*not nan"),
    "log_level": (lambda: Client(["x"], log_level="loud"), "log_level must be one of debug, .*not 'loud'"),
    "protocol_version": (lambda: Client(["x"], protocol_version="2.0"), "protocol_version must be one of.*not '2.0'"),
    "max_message_size": (lambda: Client(["x"], max_message_size=1), "max_message_size must be 1024 or more, not 1"),
}


@pytest.mark.parametrize(("make", "words"), VALUES.values(), ids=VALUES)
def test_a_value_out_of_range_is_a_value_error(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


CALLS: dict[str, tuple[Callable[[Client], Any], str]] = {
    "timeout": (lambda c: c.call_tool("t", timeout="5"), r"timeout must be a number of seconds, not str \('5'\)"),
    "timeout True": (lambda c: c.list_tools(timeout=True), "timeout must be .*not bool"),
    "timeout of a submit": (lambda c: c.submit_tool("t", timeout=[]), "timeout must be .*not list"),
    "timeout of a connect": (lambda c: c.connect("5"), "timeout must be .*not str"),
    "arguments": (lambda c: c.call_tool("t", [1, 2]), r"arguments must be a dict of values by name, not list"),
    "arguments of a submit": (lambda c: c.submit_tool("t", "x"), "arguments must be a dict.*not str"),
    "arguments of a prompt": (lambda c: c.get_prompt("p", [1]), "arguments must be a dict.*not list"),
    "arguments of a task": (lambda c: c.start_task("t", 5), "arguments must be a dict.*not int"),
    "name": (lambda c: c.call_tool(3), r"name must be a str, not int \(3\)"),
    "name of a submit": (lambda c: c.submit_tool(None), "name must be a str, not NoneType"),
    "name of a prompt": (lambda c: c.get_prompt(b"p"), "name must be a str, not bytes"),
    "method": (lambda c: c.request(None), "method must be a str such as 'tools/list', not None"),
    "method of a submit": (lambda c: c.submit(5), "method must be a str"),
    "method of a notification": (lambda c: c.notify(""), "method must be a str"),
    "params": (lambda c: c.request("m", [1]), r"params must be a dict, not list \(\[1\]\)"),
    "on_progress": (lambda c: c.call_tool("t", on_progress=5), "on_progress must be a function, not int"),
    "meta": (lambda c: c.call_tool("t", meta="x"), "meta must be a dict, not str"),
    "uri": (lambda c: c.read_resource(None), "uri must be a str, not NoneType"),
    "uri of a subscription": (lambda c: c.subscribe(5), "uri must be a str, not int"),
    "one URI for many": (
        lambda c: c.listen(resource_subscriptions="memo://x"),
        r"resource_subscriptions must be a list of URIs, not one str \('memo://x'\)",
    ),
    "ref": (lambda c: c.complete("greet", {"name": "a", "value": ""}), "ref must be a dict or a model, not str"),
    "argument": (lambda c: c.complete({"type": "ref/prompt", "name": "p"}, "a"), "argument must be a dict.*not str"),
    "task id": (lambda c: c.get_task(5), "task_id must be a str, not int"),
}


@pytest.mark.parametrize(("call", "words"), CALLS.values(), ids=CALLS)
def test_a_parameter_of_the_wrong_type_is_refused_before_anything_is_dialled(
    call: Callable[[Client], Any], words: str
) -> None:
    server = Scripted()
    client = Client(server)
    try:
        with pytest.raises(TypeError, match=words):
            call(client)
    finally:
        client.close()
    assert server.dials == 0


RANGES: dict[str, tuple[Callable[[Client], Any], str]] = {
    "timeout of a call": (lambda c: c.call_tool("t", timeout=-1), "timeout must be .*above 0.*not -1"),
    "timeout beyond all bounds": (lambda c: c.ping(timeout=math.inf), "timeout must be .*up to 1e.09, not inf"),
    "level": (lambda c: c.set_logging_level("loud"), "level must be one of debug, .*not 'loud'"),
    "no level": (lambda c: c.set_logging_level(None), "level must be one of debug, .*not None"),
    "nothing to listen to": (lambda c: c.listen(), "nothing to listen to; set one of tools_list_changed"),
}


@pytest.mark.parametrize(("call", "words"), RANGES.values(), ids=RANGES)
def test_a_parameter_out_of_range_is_refused_before_anything_is_dialled(
    call: Callable[[Client], Any], words: str
) -> None:
    server = Scripted()
    client = Client(server)
    try:
        with pytest.raises(ValueError, match=words):
            call(client)
    finally:
        client.close()
    assert server.dials == 0


def deep(levels: int) -> Any:
    """Return a list in a list in a list."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def holding_itself() -> Any:
    """Return a list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


UNSAYABLE = {
    "an object": ({"a": object()}, r"params\.arguments\.a is of type object"),
    "not a number": ({"a": [1, math.nan]}, r"params\.arguments\.a\[1\] is of type float \(nan\)"),
    "infinity": ({"a": -math.inf}, r"params\.arguments\.a is of type float \(-inf\)"),
    "a set": ({"a": {"b": {1}}}, r"params\.arguments\.a\.b is of type set \(\{1\}\); pass a str, number"),
    "bytes": ({"a": b"x"}, r"params\.arguments\.a is of type bytes"),
    "a lone surrogate": ({"a": "x\ud800"}, r"params\.arguments\.a is of type str .*surrogate"),
    "a lone surrogate in a key": ({"\ud800": 1}, r"a key of params\.arguments is of type str"),
    "a key that is a tuple": ({"a": {(1, 2): 3}}, r"a key of params\.arguments\.a is of type tuple.*keys must be str"),
    "nested too deep": ({"a": deep(200)}, "nested more than 128 levels deep"),
    "nested far too deep": ({"a": deep(100_000)}, "nested more than 128 levels deep"),
    "a list that holds itself": ({"a": holding_itself()}, "nested more than 128 levels deep, or holds itself"),
}


@pytest.mark.parametrize(("arguments", "words"), UNSAYABLE.values(), ids=UNSAYABLE)
def test_arguments_that_json_cannot_say_are_refused_with_their_place(arguments: Any, words: str) -> None:
    server = Scripted({"tools/call": lambda ask: text("ok")})
    with Client(server) as client:
        with pytest.raises(LocalProtocolError, match=words) as caught:
            client.call_tool("t", arguments)
        assert caught.value.may_have_run is False
        with pytest.raises(LocalProtocolError, match=words):
            client.submit_tool("t", arguments).result(10)
        assert client.call_tool("t").text == "ok"  # the connection is none the worse
        assert client.counters["pending"] == 0
    assert len(server.asked("tools/call")) == 1


def test_keys_that_are_numbers_become_text_as_everywhere_in_pythons_json() -> None:
    server = Scripted({"tools/call": lambda ask: text("ok")})
    with Client(server) as client:
        client.call_tool("t", {"a": {1: "x", None: "y"}})
    assert server.asked("tools/call")[0].arguments == {"a": {"1": "x", "null": "y"}}


def test_a_message_over_the_limit_is_refused_with_the_limit() -> None:
    server = Scripted({"tools/call": lambda ask: text("ok")})
    with Client(server, max_message_size=2048) as client:
        with pytest.raises(MessageTooLarge, match="tools/call.*max_message_size is 2048") as caught:
            client.call_tool("t", {"a": "x" * 3000})
        assert caught.value.may_have_run is False
        assert client.call_tool("t").text == "ok"


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
def test_a_closed_client_stays_closed_and_says_so(era: str) -> None:
    server = Scripted({"tools/call": lambda ask: text("ok")}, era=era)
    with Client(server) as client:
        client.call_tool("t")
    uses: list[Callable[[], Any]] = [
        lambda: client.call_tool("t"),
        lambda: client.submit_tool("t"),
        client.connect,
        client.list_tools,
        client.__enter__,
    ]
    for use in uses:
        with pytest.raises(MCPConnectionError, match="the client of memory is closed; make a new Client") as caught:
            use()
        assert caught.value.may_have_run is False
    client.close()
    assert server.dials == 1
    assert "closed" in repr(client)
    assert client.server_info.name == "scripted"  # what was, can still be read
    assert client.counters["pending"] == 0


def test_a_client_closed_before_it_was_used_never_dials() -> None:
    server = Scripted()
    client = Client(server)
    client.close()
    with pytest.raises(MCPConnectionError, match="closed"), client:
        pass
    assert server.dials == 0


def test_a_tool_that_nobody_knows_is_named_with_the_servers_reason() -> None:
    def refuse(ask: Any) -> Any:
        raise JSONRPCError(-32602, f"Unknown tool: {ask.params['name']}")

    with (
        Client(Scripted({"tools/call": refuse})) as client,
        pytest.raises(JSONRPCError, match=r"tools/call: Unknown tool: nosuch \(JSON-RPC error -32602\)") as caught,
    ):
        client.call_tool("nosuch")
    assert caught.value.code == -32602


def test_tasks_of_a_server_without_tasks_are_refused_with_what_to_use() -> None:
    with Client(Scripted(era=HANDSHAKE)) as client:
        with pytest.raises(LocalProtocolError, match="offers no tasks.*use call_tool or submit_tool"):
            client.start_task("t")
        with pytest.raises(LocalProtocolError, match="offers no tasks"):
            client.list_tasks()


def test_tasks_cannot_be_listed_in_the_stateless_era() -> None:
    with Client(Scripted()) as client, pytest.raises(LocalProtocolError, match="2026-07-28"):
        client.list_tasks()


def test_a_memory_transport_wants_something_that_serves() -> None:
    with pytest.raises(TypeError, match=r"server must have a method serve\(channel\)"):
        MemoryTransport(object())
