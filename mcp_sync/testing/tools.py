"""What the suites share: threads that report back, a Sink that remembers, bounded waits."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..deadlines import Deadline
from ..engine.channel import Channel
from ..engine.dispatch import join, start_thread
from ..exceptions import MCPError
from ..protocol.messages import Batch, Failure, Message, RequestId, Result, encode
from .partner import Partner

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that anything may take that has to happen at all, on a loaded machine."""
SLACK = 1.0
"""Seconds by which a deadline may be overrun on a loaded machine, before a test says so."""


def in_threads(count: int, work: Callable[[int], T], patience: float = PATIENCE * 2) -> list[T]:
    """Run ``work(number)`` on so many threads at once; return what they return, or raise what the first raises."""
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    go = threading.Event()

    def run(number: int) -> None:
        go.wait(PATIENCE)
        try:
            results[number] = work(number)
        except BaseException as error:  # all of it is the test's to see
            errors.append(error)

    threads = [start_thread(f"mcp-contract-{number}", run, number) for number in range(count)]
    go.set()
    deadline = Deadline(patience)
    ended = [join(thread, deadline) for thread in threads]
    if errors:
        raise errors[0]
    assert all(ended), f"{ended.count(False)} of {count} threads have not ended"
    return [results[number] for number in range(count)]


class Background:
    """A piece of work on a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._result: list[Any] = []
        self._error: BaseException | None = None
        self.thread = start_thread("mcp-contract-background", self._run)

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:
            self._error = error

    def result(self, patience: float = PATIENCE) -> Any:
        """Return what the work returned, or raise what it raised."""
        assert join(self.thread, Deadline(patience)), "the work has not ended"
        if self._error is not None:
            raise self._error
        return self._result[0]

    def error(self, patience: float = PATIENCE) -> BaseException | None:
        """Return what the work raised, or None."""
        assert join(self.thread, Deadline(patience)), "the work has not ended"
        return self._error


class Collector:
    """A Sink that keeps what it is told."""

    def __init__(self) -> None:
        self._items: queue.Queue[Message] = queue.Queue()
        self._ended = threading.Event()
        self.ends: list[MCPError] = []
        self.losses: list[tuple[RequestId | None, MCPError]] = []
        self._lost: queue.Queue[tuple[RequestId | None, MCPError]] = queue.Queue()
        self.threads: set[str] = set()

    def received(self, message: Message) -> None:
        """Keep it."""
        self.threads.add(threading.current_thread().name)
        for item in message.messages if isinstance(message, Batch) else (message,):
            self._items.put(item)

    def lost(self, request_id: RequestId | None, error: MCPError) -> None:
        """Keep it."""
        self.losses.append((request_id, error))
        self._lost.put((request_id, error))

    def closed(self, error: MCPError) -> None:
        """Keep it."""
        self.ends.append(error)
        self._ended.set()

    def next(self, patience: float = PATIENCE) -> Message:
        """Return the next message, of whatever kind."""
        return self._items.get(timeout=patience)

    def loss(self, patience: float = PATIENCE) -> tuple[RequestId | None, MCPError]:
        """Return which request's answer is lost, and why, waiting for it."""
        return self._lost.get(timeout=patience)

    def answer(self, request_id: RequestId, patience: float = PATIENCE) -> Result | Failure:
        """Return the answer to a request; what comes before it is forgotten."""
        deadline = Deadline(patience)
        while True:
            message = self._items.get(timeout=deadline.remaining)
            if isinstance(message, (Result, Failure)) and message.id == request_id:
                return message

    def end(self, patience: float = PATIENCE) -> MCPError:
        """Return why the connection ended, waiting for it."""
        assert self._ended.wait(patience), "the connection has not ended"
        return self.ends[0]

    @property
    def ended(self) -> bool:
        """Whether the end has come."""
        return self._ended.is_set()


@contextmanager
def raises(kind: type[T]) -> Iterator[list[T]]:
    """Check that the block raises such an error, which is in the list afterwards; as pytest.raises, without pytest."""
    found: list[T] = []
    try:
        yield found
    except BaseException as error:
        if not isinstance(error, kind):
            raise
        found.append(error)
    else:
        raise AssertionError(f"no {kind.__name__} was raised")


class ChannelWire(Collector):
    """The Wire of a Partner that has a Channel to speak through: it can send no garbage, and is never deaf."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        channel.start(self)

    def closed(self, error: MCPError) -> None:
        """Keep it, behind what has come before."""
        super().closed(error)
        self._items.put(Batch(()))

    def read(self) -> bytes | None:
        """Return the next message; None is the end."""
        message = self._items.get()
        return None if isinstance(message, Batch) else encode(message)

    def write(self, data: bytes) -> None:
        """Send a message."""
        try:
            self._channel.send(json.loads(data), Deadline(PATIENCE))
        except MCPError:
            pass  # nobody is there any more to read it

    def idle(self) -> None:
        """Wait until the other side has closed; the channel reads on."""
        self._ended.wait()

    def close(self) -> None:
        """Close the channel and all that belongs to it."""
        self._channel.close(Deadline(PATIENCE))
        self._channel.lane.close(Deadline(PATIENCE))
        self._channel.events.close(Deadline(PATIENCE))

    die = close


class PartnerServer:
    """A server whose every conversation is with a Partner; for whatever takes an object with ``serve(channel)``."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []

    def serve(self, channel: Channel) -> None:
        """Run a Partner on a thread of its own, until the channel is closed."""
        self.channels.append(channel)
        start_thread("mcp-contract-partner", lambda: Partner(ChannelWire(channel)).run())
