"""Channel: one live connection: born open, used once, never reconnects.

A Channel pushes: it delivers what arrives to a Sink, on the thread that read it. Bindings that carry a stream of whole
messages (stdio, memory, a user's own) only write a Pipe, and share the one PipeChannel here.

::

    Peer.call()  -> PipeChannel.send() -> Pipe.write()                   the caller's thread
                 -> Seat.wait() -> PipeChannel <- Pipe.fetch()           the same, if nobody else reads
    Peer, Inbox  <- Relay <- pump() <- PipeChannel <- Pipe.read()        the keeper, whenever no caller reads
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..deadlines import Deadline
from ..exceptions import ForkedClientError, MCPConnectionError, MCPError, MCPTimeoutError, MessageTooLarge
from ..observe import Feed, Observers, Unreadable
from ..policies import Limits
from ..protocol.eras import Era
from ..protocol.framing import KEPT_HEAD, KEPT_TAIL, Overlong
from ..protocol.messages import (
    Batch,
    Failure,
    Malformed,
    Message,
    Request,
    RequestId,
    Result,
    decode,
    encode,
    salvage_id,
    too_large,
)
from . import interrupts
from .blocks import LARGE_BYTES, learn_to_keep
from .dispatch import Lane, stand_still
from .interrupts import let_go
from .lifetimes import tell_of_forks
from .seat import Seat

if TYPE_CHECKING:
    from .tickets import Ticket

log = logging.getLogger("mcp_sync")

FINISH_SECONDS = 5.0
"""For ending what is behind a pipe that ended by itself; ``close`` may bring it forward."""
PAUSE_SECONDS = 1.0
"""How long reading pauses before a look whether it is to go on, which it would have been told."""
VERDICT_SECONDS = 1.0
"""How long a writer who sees that the connection has ended waits for the keeper to say why."""
EVENTS_SECONDS = 1.0
"""How long after the end observers that are not up to date are still told of what they have missed."""
ANSWERS = (Result, Failure)
CAREFUL_SECONDS = 0.02
"""For so long the main thread waits in the seat; a hop is nothing to a call that takes longer."""
LARGE = 32768
"""Bytes of a message that may fill the pipe: while it is written somebody has to read, or both sides may wait."""
FLOOD = 100
"""After so many messages in one read everybody else has a turn: a reader and a lane that are both busy hand the
interpreter to each other, and a third thread, which wants to keep its deadline, starves for up to a second."""


class Sink(Protocol):
    """Who is told what arrives. Called on reader threads: never raises, never waits."""

    def received(self, message: Message) -> None:
        """A message has arrived."""

    def lost(self, request_id: RequestId | None, error: MCPError) -> None:
        """The answer to this request will never come.

        None: it is about no request. What was sent did not arrive; or what the other side said unasked has been missed.
        """

    def closed(self, error: MCPError) -> None:
        """Nothing more will come. Called once, last."""


class Channel(ABC):
    """One live connection. All methods may be called from any thread.

    Args:
        name: What it is connected to, for people; without secrets.
        kind: The binding: ``stdio``, ``memory`` ...
        observers: Whom to tell of events.
        backlog: How many notifications may wait for callbacks.
        threads: What its threads are called, ``mcp-<threads>-...``; empty means the name.

    Attributes:
        in_order: Whether all messages go the same way, one after the other. If not, each goes its own way, and a
            question that is not answered says nothing of the other side's era.
        origin: Where it leads to, for remembering what is spoken there; empty where nothing is to be remembered.
        name: As given.
        kind: As given.
        threads: As given.
        lane: Where application code about this connection runs. Whoever closes the channel for good closes it after.
        events: Where observers run; likewise.
        feed: Where events go.
    """

    in_order: ClassVar[bool] = True
    origin: str = ""

    def __init__(
        self, name: str, kind: str, observers: Observers | None = None, backlog: int = 1000, threads: str = ""
    ) -> None:
        self.name = name
        self.kind = kind
        self.threads = threads or name
        self.lane = Lane(f"mcp-{self.threads}-lane", backlog)
        self.events = Lane(f"mcp-{self.threads}-events", grace=EVENTS_SECONDS)
        self.feed = Feed(observers, self.events.offer)

    @abstractmethod
    def start(self, sink: Sink) -> None:
        """Begin delivering to the sink."""

    @abstractmethod
    def send(self, message: Message | Mapping[str, Any], deadline: Deadline) -> None:
        """Send one whole message.

        Raises:
            LocalProtocolError: It cannot be said in JSON.
            MessageTooLarge: It is over the limit.
            MCPConnectionError: The connection is over.
            MCPTimeoutError: The deadline passed; ``may_have_run`` is False where not a byte was sent.
        """

    def submit(self, message: Message | Mapping[str, Any], deadline: Deadline, open_ended: bool = False) -> None:
        """Send one whole message whose answer nobody on this thread waits for; raises as ``send``.

        Args:
            message: The message.
            deadline: By when it has to be answered, where the answer comes the way the message went.
            open_ended: Whether the answer may take for ever; then the deadline is for its beginning.

        Raises:
            TooManyRequests: Too many wait to be sent.
        """
        self.send(message, deadline)

    @abstractmethod
    def close(self, deadline: Deadline) -> None:
        """End the connection and what is behind it, and release every waiter. Idempotent."""

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to close, and wait for nothing; ``close`` does the rest."""

    def abandon(self, request_id: RequestId) -> bool:
        """Signal in the binding's own way that an answer is no longer wanted; False: it has none."""
        return False

    def agreed(self, era: Era, deadline: Deadline) -> None:
        """Take note of what was negotiated, once the conversation has begun."""

    @property
    def ending(self) -> bool:
        """Whether nothing can be sent any more, though the sink may not have been told yet."""
        return False

    def expect(self, request_id: RequestId | None) -> None:
        """Note that an answer will come for which nobody calls ``wait``."""

    def wait(self, call: Ticket, deadline: Deadline) -> bool:
        """Wait on the calling thread until the call is over; False: the deadline came first."""
        return call.wait(deadline.remaining)

    def pause(self) -> None:
        """Stop reading for now; what arrives waits on the other side."""

    def resume(self) -> None:
        """Read on."""

    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end, for the details of an error."""
        return {}


class Pipe(ABC):
    """A two-way stream of whole messages as bytes; PipeChannel makes a Channel of it.

    ``read``, ``epitaph``, ``end_writing`` and ``finish`` are called by the keeper of the seat only; ``write`` by one
    thread at a time, and never after ``end_writing``; ``hang_up`` by any.

    A pipe that ``lends`` may be read by callers, too, one at a time, in small steps that Ctrl-C cannot tear: bytes are
    fetched and kept in one instruction, and stay until they were cut up, or taken in whole; ``read`` begins with them.
    """

    name: str
    kind: str
    lends: bool = False

    @abstractmethod
    def read(self) -> Sequence[bytes | Overlong]:
        """Wait for at least one message; an empty answer is the end."""

    def fetch(self, seconds: float) -> bool:
        """Wait so long for bytes, and keep them; False: none came, or there is something else for ``read`` to see to.

        Some that came may be a part of a message.
        """
        return False

    def whole(self) -> bytes | None:
        """Return what was fetched, if it is one whole message and nothing else; it stays."""
        return None

    def partial(self) -> bool:
        """Whether what was fetched is the beginning of one message."""
        return False

    def taken(self) -> None:
        """Forget what was fetched; it has been delivered."""

    def cut(self) -> Sequence[bytes | Overlong]:
        """Return the messages in what was fetched, which are ours to deliver now; the rest stays here."""
        return []

    def is_over(self) -> bool:
        """Whether the end is in sight, as far as can be told without waiting or reading."""
        return False

    @abstractmethod
    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write one message; raises as Channel.send does."""

    @abstractmethod
    def hang_up(self, deadline: Deadline) -> None:
        """Make ``read`` and ``write`` end soon, without waiting; ``finish`` has until the deadline. Idempotent."""

    @abstractmethod
    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended; may wait a moment to find out."""

    def end_writing(self) -> None:
        """Close the write side; nobody writes any more."""

    def finish(self) -> None:
        """End what is behind the stream and give everything back."""

    def pause(self) -> bool:
        """Let ``read`` give no messages until ``resume``, but see to all else; False: it cannot, so do not call it.

        Both by any thread.
        """
        return False

    def resume(self) -> None:
        """Let ``read`` give messages again."""

    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end."""
        return {}

    def masked(self, raw: bytes) -> bytes:
        """Return bytes that arrived without the secrets that are known here, to be shown."""
        return raw

    def disown(self) -> None:
        """In a forked child: give the inherited copies back, touching nothing of the parent's."""


def pump(messages: Iterable[Message], sink: Sink) -> None:
    """Deliver messages until they end, then say why; what every reader thread runs.

    Messages that end do so by raising an MCPError, the reason.
    """
    error: MCPError = MCPConnectionError("the connection is closed")
    try:
        for message in messages:
            sink.received(message)
    except MCPError as reason:
        error = reason
    except BaseException as crash:  # a waiting caller must hear of it, whatever it is
        log.exception("a reader failed")
        error = MCPConnectionError(f"the reader failed: {crash!r}")
        error.__cause__ = crash
    sink.closed(error)


class PipeChannel(Channel):
    """A Channel over a Pipe.

    Threads: the Seat's keeper, and callers who ``wait`` and borrow the seat. ``send`` blocks while another thread
    writes, and while the other side does not read; ``close`` blocks until the keeper has given everything back; all at
    most until their deadline.
    Locks: ``_writing`` is held while one message is written, always acquired with the deadline. ``_reading`` is taken
    once, without waiting, by whoever reads or finishes, and never given back.
    """

    def __init__(
        self, pipe: Pipe, limits: Limits | None = None, observers: Observers | None = None, threads: str = ""
    ) -> None:
        limits = limits or Limits()
        super().__init__(pipe.name, pipe.kind, observers, limits.backlog, threads or pipe.name)
        self._pipe = pipe
        self._limit = limits.message_size
        self._seat = Seat(f"mcp-{self.threads}")
        self._writing = threading.RLock()  # guards the pipe's write side; an RLock, for let_go
        self._paused = False
        self._resumed = threading.Lock()  # guards nothing: the keeper waits for it to be released
        self._closing = False
        self._forked = False
        self._end: MCPConnectionError | None = None
        self._known_over = interrupts.Event()
        self._given_back = interrupts.Event()
        self._reading = threading.Lock()  # guards the end: who takes it keeps the seat, or finishes
        self._sink: Sink | None = None
        self._expected: set[RequestId] = set()
        self._main = threading.main_thread().ident
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"<PipeChannel {self.name}{' closing' if self._closing else ''}>"

    def start(self, sink: Sink) -> None:
        """Begin delivering to the sink.

        Raises:
            MCPConnectionError: There can be no more threads.
        """
        self._sink = sink
        try:
            self._seat.fill(lambda: self._read_all(sink))
        except RuntimeError as error:
            text = f"no more threads can be started, and nobody would read from {self.name} ({error})"
            raise MCPConnectionError(text, details={"phase": "connect"}, may_have_run=False) from error

    def send(self, message: Message | Mapping[str, Any], deadline: Deadline) -> None:
        """Send one whole message; raises as Channel.send says."""
        try:
            data = encode(message)
            if len(data) > self._limit:
                raise MessageTooLarge(
                    f"the message has {len(data)} bytes; max_message_size is {self._limit}",
                    details={"size": len(data), "limit": self._limit, "phase": "send"},
                    may_have_run=False,
                )
            if self._pipe.lends and (len(data) > LARGE or self._seat.stale):
                self._look_ahead(len(data), deadline)
            self._write(data, deadline)
        except BaseException as error:
            self._unexpect(message)
            if isinstance(error, MCPConnectionError):
                self._seat.call_keeper()  # to find out why
                stand_still(FINISH_SECONDS)
            elif not isinstance(error, MCPError):
                let_go(self._writing)
                self._seat.get_up()
            raise

    def _unexpect(self, message: Message | Mapping[str, Any]) -> None:
        """Expect no answer to what could not be sent, or the keeper would never leave the seat again."""
        if isinstance(message, Request):
            self._expected.discard(message.id)

    def _look_ahead(self, size: int, deadline: Deadline) -> None:
        """See to it that somebody reads while a large message is written, and that what is over is known to be."""
        if size > LARGE:  # the other side may talk before it listens, until the pipe is full
            self._seat.call_keeper()
        elif self._seat.glance(self._pipe.is_over):
            self._known_over.wait(min(VERDICT_SECONDS, deadline.remaining))

    def submit(self, message: Message | Mapping[str, Any], deadline: Deadline, open_ended: bool = False) -> None:
        """Send one whole message whose answer nobody on this thread waits for; raises as ``send``."""
        if not open_ended and isinstance(message, Request):
            self.expect(message.id)
        self.send(message, deadline)

    def expect(self, request_id: RequestId | None) -> None:
        """Note that an answer will come for which nobody calls ``wait``; the keeper reads until then."""
        if request_id is not None and self._pipe.lends:
            self._expected.add(request_id)  # first: a keeper who gets up looks at it
            if not self._seat.kept:
                self._seat.call_keeper()

    def abandon(self, request_id: RequestId) -> bool:
        """Expect no answer any more; a pipe has no way of its own to say so."""
        self._expected.discard(request_id)
        return False

    def _write(self, data: bytes, deadline: Deadline) -> None:
        if self._closing:
            self._check_open()
        writing = self._writing
        if not (writing.acquire(blocking=False) or writing.acquire(timeout=deadline.remaining)):
            self._check_open()
            raise MCPTimeoutError("another thread's message is still being written", may_have_run=False)
        try:
            if self._closing:
                self._check_open()
            self._pipe.write(data, deadline)
        finally:
            writing.release()

    def _check_open(self) -> None:
        if not self._closing:
            return
        if self._end is not None:
            raise self._end.about("", may_have_run=False)
        raise MCPConnectionError(f"the connection to {self.name} is closed", may_have_run=False)

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to close, and wait for nothing."""
        if self._forked:
            return
        self._closing = True
        self._pipe.hang_up(deadline)
        self._read_on()
        self._seat.call_keeper()

    def close(self, deadline: Deadline) -> None:
        """End the connection and what is behind it. Idempotent."""
        if self._forked:
            return
        self.hang_up(deadline)
        if self._reading.acquire(blocking=False):
            self._finish()
        if self._seat.is_borrowed_here:  # by the call that a signal handler has interrupted: its end is awaited
            return
        if not self._seat.is_mine:
            self._given_back.wait(deadline.remaining)
        self._seat.vacate(deadline)

    def wait(self, call: Ticket, deadline: Deadline) -> bool:
        """Wait on the calling thread until the call is over, and read meanwhile if nobody else does."""
        if not self._pipe.lends:
            return call.wait(deadline.remaining)
        try:
            return self._seat.wait(call, deadline, self._read_for)
        finally:
            if self._expected and call.request_id is not None:
                self._expected.discard(call.request_id)

    def pause(self) -> None:
        """Stop reading for now; what arrives waits in the pipe."""
        if self._pipe.pause():
            return
        self._paused = True

    def resume(self) -> None:
        """Read on."""
        self._pipe.resume()
        self._read_on()

    def _read_on(self) -> None:
        self._paused = False
        try:
            self._resumed.release()
        except RuntimeError:
            pass  # it has been told already

    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end."""
        return self._pipe.explain()

    @property
    def ending(self) -> bool:
        """Whether nothing can be sent any more, though the sink may not have been told yet."""
        return self._closing

    def forked(self) -> None:
        """In a forked child: give back what was inherited."""
        self._forked = self._closing = True
        self._end = ForkedClientError(f"{self.name} was connected by the process that this one was forked from")
        self._pipe.disown()

    def _read_all(self, sink: Sink) -> None:
        if not self._reading.acquire(blocking=False):  # closed before it began
            sink.closed(MCPConnectionError(f"the connection to {self.name} is closed", details={"phase": "closed"}))
            return
        try:
            pump(self._messages(), sink)
        finally:
            self._finish()

    def _finish(self) -> None:
        self._closing = True
        self._known_over.set()
        self._seat.keep_for_good()
        self._pipe.hang_up(Deadline(FINISH_SECONDS))  # a writer that waits for room lets go of the lock
        if self._writing.acquire(timeout=FINISH_SECONDS):
            self._pipe.end_writing()
            self._writing.release()
        else:
            log.warning("%s: a write goes on though the connection is closed", self.name)
        self._pipe.finish()
        self._given_back.set()

    def _messages(self) -> Iterator[Message]:
        """Read, on the keeper, whenever nobody else does; with the end, the seat is the keeper's for good."""
        self._seat.keep()
        while pieces := self._pipe.read():
            for message in self._decoded(pieces):
                if self._expected:
                    self._met(message)
                yield message
            if len(pieces) >= FLOOD:
                time.sleep(0)
            while self._paused and not self._closing:
                self._resumed.acquire(timeout=PAUSE_SECONDS)
            if self._pipe.lends and self._seat.offer(lambda: bool(self._expected) or self._pipe.is_over()):
                self._seat.keep()
        if self._closing:
            raise MCPConnectionError(
                f"the connection to {self.name} was closed on this side",
                details={**self._pipe.explain(), "phase": "closed"},
            )
        self._end = self._pipe.epitaph()
        self._closing = True
        self._known_over.set()
        raise self._end

    def _read_for(self, call: Ticket, deadline: Deadline) -> bool:
        """Read, on a caller's thread, until the call is over, or its time is; False: something is for the keeper.

        Ctrl-C may come between any two steps of the main thread. So that takes in its own answer and nothing else:
        what is lost then is lost to nobody but the one who was interrupted.
        """
        pipe = self._pipe
        careful = threading.get_ident() == self._main
        while not call.over:
            if not pipe.fetch(min(deadline.remaining, CAREFUL_SECONDS) if careful else deadline.remaining):
                return deadline.expired or (careful and self._leave_to_keeper(call))
            raw = pipe.whole()
            message = self._decode(raw) if raw is not None else None
            if type(message) in ANSWERS and message.id == call.request_id:  # type: ignore[union-attr]
                self._deliver(message)  # type: ignore[arg-type]
                pipe.taken()
            elif careful:
                if not pipe.partial():
                    return self._leave_to_keeper(call)
            elif self._deliver_all(pipe.cut()) >= FLOOD or self._closing or deadline.expired:
                return False
        return not self._expected

    def _leave_to_keeper(self, call: Ticket) -> bool:
        """Have the keeper read for this call from now on, and return False.

        The main thread would have to hand everything that is for others to the keeper, again and again; and in its poll
        a signal handler could neither ask nor close.
        """
        if call.request_id is not None:
            self._expected.add(call.request_id)
        return False

    def _deliver_all(self, pieces: Sequence[bytes | Overlong]) -> int:
        for message in self._decoded(pieces):
            self._deliver(message)
        return len(pieces)

    def _deliver(self, message: Message) -> None:
        assert self._sink is not None
        if self._expected:
            self._met(message)
        self._sink.received(message)

    def _decoded(self, pieces: Sequence[bytes | Overlong]) -> Iterator[Message]:
        for piece in pieces:
            if self._closing:  # a flood must not delay the end
                break
            message = self._decode(piece)
            if isinstance(message, Malformed):
                message = replace(message, raw=self._pipe.masked(message.raw))
                self.feed.emit(Unreadable(self.name, message.reason, message.raw))
            if message is not None:
                yield message

    def _met(self, message: Message) -> None:
        """Expect it no more."""
        if type(message) is Batch:
            for item in message.messages:
                self._met(item)
        elif type(message) in ANSWERS:
            self._expected.discard(message.id or 0)  # type: ignore[union-attr]
        elif type(message) is Malformed:
            self._expected.discard(message.answers or 0)

    def _decode(self, piece: bytes | Overlong) -> Message | None:
        if isinstance(piece, bytes):
            if len(piece) <= self._limit:
                if len(piece) >= LARGE_BYTES:
                    learn_to_keep(len(piece))
                return decode(piece)
            return too_large(piece[:KEPT_HEAD], piece[-KEPT_TAIL:], self._limit)
        known_at_once = salvage_id(piece.head) != (None, None)
        if known_at_once == piece.ended:  # it has been said, or its end may tell more
            return None
        return too_large(piece.head, piece.tail, piece.limit)


def last_words(details: Mapping[str, Any]) -> str:
    """Return the end of a sentence about what the other side wrote last, from the details of an error."""
    said = ""
    if details.get("stderr"):
        said += "; the end of its stderr: " + " | ".join(details["stderr"][-3:])
    if details.get("stdout"):
        said += "; it printed what is no message: " + " | ".join(details["stdout"][-3:])
    return said


def as_end(error: MCPError) -> MCPConnectionError:
    """Return the error that those get who come after the end of a connection, whatever ended it."""
    if isinstance(error, MCPConnectionError):
        return error
    end = MCPConnectionError(f"the connection has ended: {error}", details=error.details)
    end.__cause__ = error
    return end
