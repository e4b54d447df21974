"""Beginning a conversation: the negotiation over a real channel, and what is left when it fails."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mcp_sync import MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import PipeChannel
from mcp_sync.engine.connect import Introduction, converse
from mcp_sync.engine.dispatch import start_thread
from mcp_sync.engine.peer import Peer
from mcp_sync.policies import Limits
from mcp_sync.transports.memory import MemoryPipe, memory_pipes

T = 5.0
SERVER = {"serverInfo": {"name": "s", "version": "1"}, "capabilities": {}}


class Script:
    """The other side: answers each method by a function, keeps what it has heard, and ends with the connection."""

    def __init__(self, **answers: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        self.heard: list[str] = []
        self.greeted = threading.Event()
        self._answers = {name.replace("__", "/"): answer for name, answer in answers.items()}

    def serve(self, pipe: MemoryPipe) -> None:
        while pieces := pipe.read():
            message = json.loads(pieces[0])
            self.heard.append(message["method"])
            if message["method"] == "notifications/initialized":
                self.greeted.set()
            answer = self._answers.get(message["method"], self._refuse)
            if "id" in message and (said := answer(message.get("params", {}))) is not None:
                if said == {"hang": "up"}:
                    pipe.hang_up(Deadline(1))
                    return
                pipe.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}).encode(), Deadline(T))

    def _refuse(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"code": -32601, "message": "no such method"}}


def silent(params: dict[str, Any]) -> None:
    return None


def initialized(params: dict[str, Any]) -> dict[str, Any]:
    return {"result": {"protocolVersion": params["protocolVersion"], **SERVER}}


def discovered(params: dict[str, Any]) -> dict[str, Any]:
    return {"result": {"supportedVersions": ["2026-07-28"], "resultType": "complete", **SERVER}}


def connect(script: Script, timeout: float = T, **introduction: Any) -> Peer:
    ours, theirs = memory_pipes()
    start_thread("script", script.serve, theirs)
    return converse(PipeChannel(ours), Introduction(**introduction), Limits(), Deadline(timeout))


def test_a_server_of_the_stateless_era_is_asked_once() -> None:
    script = Script(server__discover=discovered)
    peer = connect(script)
    assert peer.agreement.era.version == "2026-07-28"
    assert script.heard == ["server/discover"]
    peer.close(Deadline(T))


def test_a_server_of_the_handshake_era_is_greeted() -> None:
    script = Script(initialize=initialized)
    peer = connect(script)
    assert peer.agreement.era.version == "2025-11-25"
    assert script.greeted.wait(T)
    assert script.heard == ["server/discover", "initialize", "notifications/initialized"]
    assert peer.agreement.server_info["name"] == "s"
    peer.close(Deadline(T))


def test_a_server_that_is_silent_on_the_probe_is_asked_the_old_way_within_one_timeout() -> None:
    script = Script(server__discover=silent, initialize=initialized)
    began = time.monotonic()
    peer = connect(script, timeout=0.9)
    assert time.monotonic() - began < 0.9
    assert peer.agreement.era.version == "2025-11-25"
    assert "notifications/cancelled" not in script.heard  # a probe is just dropped
    peer.close(Deadline(T))


def test_work_is_done_meanwhile_and_the_peer_is_shown_before() -> None:
    seen: list[Any] = []
    peer = connect(Script(initialize=initialized), opened=seen.append, meanwhile=lambda: seen.append("meanwhile"))
    assert seen == [peer, "meanwhile"]
    peer.close(Deadline(T))


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (lambda _: {"error": {"code": -32000, "message": "not today"}}, MCPConnectionError, "not today"),
        (lambda _: {"result": {"protocolVersion": "1999-01-01", **SERVER}}, RemoteProtocolError, "1999-01-01"),
        (lambda _: {"result": {}}, RemoteProtocolError, "no protocol version in common"),
        (lambda _: {"result": [1]}, RemoteProtocolError, "array"),
        (lambda _: {"hang": "up"}, MCPConnectionError, "closed the connection"),
        (silent, MCPTimeoutError, "timed out"),
    ],
    ids=["refusal", "unknown version", "nothing", "malformed", "end", "silence"],
)
def test_a_negotiation_that_fails_says_why_and_leaves_nothing_behind(
    answer: Any, kind: type[MCPError], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(initialize=answer)
    began = time.monotonic()
    with caplog.at_level(logging.CRITICAL, "mcp_sync"), pytest.raises(kind, match=says) as found:
        connect(script, timeout=0.6)
    assert time.monotonic() - began < 0.6 + 0.5
    assert found.value.may_have_run in (False, None, True)
    assert "notifications/cancelled" not in script.heard  # initialize must not be cancelled


def test_what_goes_wrong_meanwhile_closes_the_connection() -> None:
    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError):
        connect(Script(), meanwhile=fail)


def test_an_end_of_our_own_is_told_as_that_and_is_no_failure_to_connect() -> None:
    def closed(peer: Peer) -> None:
        raise MCPConnectionError("the client is closed", details={"phase": "closed"})

    with pytest.raises(MCPConnectionError) as found:
        connect(Script(), opened=closed)
    assert found.value.details["phase"] == "closed"
    with pytest.raises(MCPConnectionError) as found:
        connect(Script(initialize=lambda _: {"hang": "up"}))
    assert found.value.details["phase"] == "connect"


def test_a_peer_that_is_closed_while_it_negotiates_says_so() -> None:
    def closing(peer: Peer) -> None:
        start_thread("closer", lambda: (heard.wait(T), peer.close(Deadline(T))))

    heard = threading.Event()

    def hear(params: dict[str, Any]) -> None:
        heard.set()

    with pytest.raises(MCPConnectionError, match="closed"):
        connect(Script(server__discover=hear), opened=closing)
