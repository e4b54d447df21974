"""Inbox and Relay: the sinks of a transport's facade, where messages are received one by one.

::

    send_message()                          -> Channel
    receive_message() <- Inbox  <- Relay    <- Channel          until somebody begins a conversation
                         Peer   <- Relay    <- Channel          from then on
"""

from __future__ import annotations

import queue
import threading
import weakref
from dataclasses import dataclass

from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError
from ..protocol.messages import Batch, Malformed, Message, RequestId
from . import interrupts
from .channel import Channel, Sink, as_end
from .dispatch import exiting


@dataclass(frozen=True, slots=True)
class _End:
    """The end of the connection, in its place in the queue."""

    error: MCPConnectionError


class Inbox:
    """A Sink whose reader threads feed a ``queue.Queue``, for those who receive one message at a time.

    When it is full, reading pauses; nothing is dropped. Errors travel through the queue, in their place; the end of
    the connection stays in it, for whoever asks next. Noise is left out: the channel has reported it.

    Args:
        limit: How many messages may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: interrupts.Queue[Message | MCPError | _End] = interrupts.Queue()
        self._channel: weakref.ref[Channel] | None = None

    def attend(self, channel: Channel) -> None:
        """Take the channel whose reading is to pause when too much is waiting."""
        self._channel = weakref.ref(channel)

    def received(self, message: Message) -> None:
        """Queue the message."""
        for item in message.messages if isinstance(message, Batch) else (message,):
            if isinstance(item, Malformed):
                if item.answers is not None:
                    self._items.put(item.as_error())
            else:
                self._items.put(item)
        channel = self._channel() if self._channel else None
        if channel is not None and self._items.qsize() >= self._limit:
            channel.pause()
            if self._items.qsize() < self._limit:  # somebody took one just before, and reading went on too early
                channel.resume()

    def lost(self, request_id: RequestId | None, error: MCPError) -> None:
        """Queue the error."""
        self._items.put(error)

    def closed(self, error: MCPError) -> None:
        """Queue the end."""
        if exiting():
            return
        if not isinstance(error, MCPConnectionError):
            self._items.put(error)
        self._items.put(_End(as_end(error)))

    def take(self, timeout: float) -> Message:
        """Return the next message.

        Raises:
            MCPTimeoutError: None came within so many seconds.
            MCPConnectionError: The connection is over, and all that came before has been taken.
            RemoteProtocolError: An answer came that cannot be read.
            MCPError: What was sent before failed, where each message goes its own way.
        """
        try:
            item = self._items.get(timeout=timeout)
        except queue.Empty:
            raise MCPTimeoutError(f"no message within {timeout:g} s", details={"limit": timeout}) from None
        channel = self._channel() if self._channel else None
        if channel is not None and self._items.qsize() < self._limit:
            channel.resume()
        if isinstance(item, _End):
            self._items.put(item)
            item = item.error
        if isinstance(item, MCPError):
            raise item.about("", may_have_run=item.may_have_run)
        return item

    def drain(self) -> list[Message | MCPError | _End]:
        """Return all that waits."""
        items = []
        while not self._items.empty():
            items.append(self._items.get_nowait())
        return items


class Relay:
    """A Sink that passes everything on to another, which can be changed while messages flow.

    Locks: ``_passing`` is held while a message is handed over, so that none is overtaken by a change.

    Attributes:
        ended: Whether the end of the connection has been passed on.
    """

    def __init__(self, sink: Sink) -> None:
        self._passing = threading.Lock()  # guards _sink
        self._sink = sink
        self.ended = False

    def swap(self, sink: Sink) -> None:
        """Pass everything on to this one from now on; what an Inbox still held goes first."""
        with self._passing:
            waiting = self._sink.drain() if isinstance(self._sink, Inbox) else []
            self._sink = sink
            for item in waiting:
                _hand_over(item, sink)

    def received(self, message: Message) -> None:
        """Pass it on."""
        with self._passing:
            self._sink.received(message)

    def lost(self, request_id: RequestId | None, error: MCPError) -> None:
        """Pass it on."""
        with self._passing:
            self._sink.lost(request_id, error)

    def closed(self, error: MCPError) -> None:
        """Pass it on, and remember."""
        self.ended = True
        with self._passing:
            self._sink.closed(error)


def _hand_over(item: Message | MCPError | _End, sink: Sink) -> None:
    if isinstance(item, _End):
        sink.closed(item.error)
    elif not isinstance(item, MCPError):
        sink.received(item)
