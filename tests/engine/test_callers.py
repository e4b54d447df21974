"""What a caller may rely on whatever others do: one deadline for all of its call, and who takes in whose answers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mcp_sync import MCPConnectionError, MCPTimeoutError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Question
from mcp_sync.engine.channel import Channel, Pipe, PipeChannel, Sink
from mcp_sync.engine.peer import Peer
from mcp_sync.engine.tickets import Ticket
from mcp_sync.policies import Limits
from mcp_sync.protocol.framing import Overlong
from mcp_sync.protocol.messages import Message, Notification, Result, encode
from mcp_sync.testing import Collector, in_threads

PATIENCE = 20.0
SOON = 5.0


# -- the deadline --------------------------------------------------------------------------------------------------


class Notebook(Channel):
    """A channel that notes by when each step of a call has to be over."""

    def __init__(self) -> None:
        super().__init__("notebook", "notebook")
        self.by: dict[str, float] = {}

    def start(self, sink: Sink) -> None:
        """There is nothing to read."""

    def send(self, message: Message | Mapping[str, Any], deadline: Deadline) -> None:
        """Note it."""
        self.by.setdefault("send", deadline.at)

    def wait(self, call: Ticket, deadline: Deadline) -> bool:
        """Note it; the answer does not come."""
        self.by["wait"] = deadline.at
        return False

    def close(self, deadline: Deadline) -> None:
        """There is nothing to close."""


def test_the_answer_has_only_the_time_that_writing_the_request_has_left() -> None:
    notebook = Notebook()
    peer = Peer(notebook, None, Limits())
    deadline = Deadline(SOON)
    try:
        with pytest.raises(MCPTimeoutError):
            peer.call(Question("ask"), deadline)
        assert notebook.by == {"send": deadline.at, "wait": deadline.at}
    finally:
        peer.close(Deadline(SOON))


# -- a pipe that lends ---------------------------------------------------------------------------------------------


class Line(Pipe):
    """What has arrived is there from the beginning; a write takes until the test lets it go on."""

    name = kind = "line"
    lends = True

    def __init__(self, *arrived: Message) -> None:
        self.writing, self.go_on, self._over = threading.Event(), threading.Event(), threading.Event()
        self.arrived = deque(encode(message) for message in arrived)
        self._came: list[bytes] = []

    def read(self) -> Sequence[bytes | Overlong]:
        self._over.wait(PATIENCE)
        return []

    def fetch(self, seconds: float) -> bool:
        self._came.append(self.arrived.popleft())
        return True

    def whole(self) -> bytes | None:
        return self._came[0] if len(self._came) == 1 else None

    def taken(self) -> None:
        self._came.clear()

    def cut(self) -> Sequence[bytes | Overlong]:
        came, self._came = self._came, []
        return came

    def write(self, data: bytes, deadline: Deadline) -> None:
        self.writing.set()
        assert self.go_on.wait(PATIENCE)

    def hang_up(self, deadline: Deadline) -> None:
        self._over.set()

    def epitaph(self) -> MCPConnectionError:
        return MCPConnectionError("the line is dead")


def test_who_waits_while_another_writes_waits_no_longer_than_his_own_deadline() -> None:
    line = Line()
    channel = PipeChannel(line)
    channel.start(Collector())
    errors: list[BaseException] = []

    def wait_in_vain() -> None:
        try:
            channel.send(Notification("second"), Deadline(0.1))
        except MCPTimeoutError as error:
            errors.append(error)

    first = threading.Thread(target=lambda: channel.send(Notification("first"), Deadline(PATIENCE)))
    second = threading.Thread(target=wait_in_vain)
    try:
        first.start()
        assert line.writing.wait(PATIENCE)
        second.start()
        second.join(SOON)
        assert not second.is_alive(), "it waits for the other's message to be written"
        assert [getattr(error, "may_have_run", None) for error in errors] == [False]
    finally:
        line.go_on.set()
        for thread in (first, second):
            thread.join(PATIENCE)
        channel.close(Deadline(SOON))


class Noted(Collector):
    """A sink that settles a call by its answer, and notes what it was given."""

    def __init__(self, call: Ticket) -> None:
        super().__init__()
        self._call = call
        self.given: list[Message] = []

    def received(self, message: Message) -> None:
        """Take it in."""
        self.given.append(message)
        if isinstance(message, Result) and message.id == self._call.request_id:
            self._call.settle(message.result, None)


def test_the_main_thread_leaves_the_answers_of_others_to_others() -> None:
    """What Ctrl-C tears there is then nobody else's; any other thread takes them in."""

    def read() -> tuple[bool, int]:
        call = Ticket(Question("ask"))
        call.request_id = 1
        channel, sink = PipeChannel(Line(Result(2, {}), Result(1, {}))), Noted(call)
        channel._sink = sink
        try:
            return channel._read_for(call, Deadline(SOON)), len(sink.given)
        finally:
            channel.close(Deadline(SOON))

    assert read() == (False, 0), "it is for the keeper"
    assert in_threads(1, lambda _: read()) == [(True, 2)]
