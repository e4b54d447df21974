"""TLS in both directions at once: one SSLSocket, a reader and many writers, for as long as it takes to break."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.http_tls import HERE, HERE_KEY, client_context
from faults.tools import PATIENCE, works
from faults.ws_tools import serving

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.exceptions import MCPError
from mcp_sync.protocol.messages import Message, Notification, Request, RequestId, Result
from mcp_sync.testing.tools import in_threads
from mcp_sync.transports.websocket import WebSocketTransport

SERVER = Path(__file__).with_name("duplex_server.py")
SIZES = (10, 20_000, 300, 70_000)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server that talks and listens at once."""
    chain = tmp_path / "chain.pem"
    chain.write_text(HERE + HERE_KEY)
    command = [sys.executable, str(SERVER), str(chain)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams, text=True) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


class Counting:
    """A Sink that looks whether what comes is numbered on, and keeps nothing."""

    def __init__(self) -> None:
        self.heard = 0
        self.flaws: list[object] = []
        self.answers: list[Result] = []
        self.answered = threading.Event()

    def received(self, message: Message) -> None:
        if isinstance(message, Result):
            self.answers.append(message)
            self.answered.set()
            return
        assert isinstance(message, Notification), message
        assert message.params is not None
        if message.params["n"] != self.heard or len(message.params["pad"]) != SIZES[self.heard % len(SIZES)]:
            self.flaws.append((message.params["n"], self.heard))
        self.heard += 1

    def lost(self, request_id: RequestId | None, error: MCPError) -> None:
        self.flaws.append(error)

    def closed(self, error: MCPError) -> None:
        if error.details.get("phase") != "closed":
            self.flaws.append(error)


def saturate(port: int, connections: int, seconds: float) -> None:
    """Talk on so many connections at once, as much as goes, and check that nothing breaks and nothing is torn."""
    small = {"send_buffer_size": 1 << 16, "receive_buffer_size": 1 << 16}  # or much would be left when the time is over
    transport = WebSocketTransport(
        f"wss://127.0.0.1:{port}/", ssl_context=client_context(), ping_interval=0.5, ping_timeout=None, **small
    )

    def talk(_: int) -> tuple[int, Counting]:
        channel: Channel = transport.dial(Deadline(PATIENCE * 2))
        sink = Counting()
        channel.start(sink)
        said = 0
        over = Deadline(seconds)
        try:
            while not over.expired and not sink.flaws:
                params = {"n": said, "pad": "y" * SIZES[said % len(SIZES)]}
                channel.send(Notification("words", params), Deadline(PATIENCE * 2))
                said += 1
            channel.send(Request(1, "how many", {}), Deadline(PATIENCE * 2))
            sink.answered.wait(PATIENCE * 2)
        except MCPError as error:
            sink.flaws.append(error)
        finally:
            channel.close(Deadline(5))
            channel.lane.close(Deadline(5))
            channel.events.close(Deadline(5))
        return said, sink

    for said, sink in in_threads(connections, talk, seconds + 4 * PATIENCE):
        assert sink.flaws == []
        assert sink.answers == [Result(1, {"heard": said})]
        assert said > 10 * seconds / connections
        assert sink.heard > 10 * seconds / connections


def test_a_few_connections_that_are_saturated_both_ways_over_tls_do_not_break(port: int) -> None:
    """B15: one lock for each socket, nothing waits with it."""
    saturate(port, 5, 3.0)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_thirty_connections_that_are_saturated_both_ways_over_tls_do_not_break_for_a_minute(port: int) -> None:
    """B15: 12 of 30 broke so, with one SSLSocket in two threads (Python 3.11)."""
    saturate(port, 30, 60.0)


def test_many_threads_may_call_at_once_over_tls_with_large_arguments_and_results() -> None:
    with serving(tls=True, max_message_size=1 << 24) as (client, server):

        def call(number: int) -> bool:
            for n in range(5):
                text = f"{number}-{n}" * 20_000
                assert text in client.call_tool("work", {"x": text}).text
            return True

        assert all(in_threads(8, call))
        works(client)
        assert server.accepted == 1
