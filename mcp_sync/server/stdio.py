"""stdio: this very process as a server, its client at the other end of stdin and stdout, one message to a line.

``StdioPipe`` speaks over two descriptors, ``Diversion`` keeps everybody else off them, and ``run_stdio`` is the life
of a process around one conversation.

* **Whose descriptors.** While serving, 0 is /dev/null and 1 leads to stderr, for ``print()``, C libraries and child
  processes alike. What was printed before and not yet written follows it there. Afterwards all is as it was.
* **Nothing is changed that others share.** Whether a read or write waits is a property not of a descriptor but of what
  is open behind it, which a terminal, a shell or the client may hold too. So no such flag is ever set, unless on
  something that was opened anew, for us alone.
* **The end.** The client closes stdin, or dies, which is the same. Requests that are under way have LAST_WORDS_SECONDS
  to be answered: a client may close its side first and still read. What runs on after that does so on daemon threads,
  which keep no process alive. Stdin is read by ``os.read`` only: a daemon thread that waits in ``sys.stdin`` makes the
  interpreter abort when it exits; so would one that is caught in the middle of a print (``_unlock_prints``). Only a
  client that never reads our stderr can hold us up: whoever prints waits for it, as in any program.
* **Signals.** There are no handlers. SIGTERM ends the process as it does any other; Ctrl-C leaves ``run_stdio`` as a
  KeyboardInterrupt, once the conversation is closed.

POSIX only so far: it polls pipes, which Windows cannot.

Source: basic/transports/stdio; basic/lifecycle (shutdown).
"""

from __future__ import annotations

import io
import logging
import os
import select
import socket
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.channel import Channel, Pipe, PipeChannel, Sink
from ..engine.dispatch import uninterrupted
from ..engine.lifetimes import tell_of_forks
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError, MCPTransportError
from ..observe import Observers
from ..policies import Limits
from ..protocol.framing import LineSplitter, Overlong
from ..protocol.messages import Batch, Failure, Malformed, Message, Notification, Request, RequestId, Result
from ..protocol.session import LISTEN

log = logging.getLogger("mcp_sync")

POLL_SECONDS = 3600.0
"""How long one poll may take; its argument is a C int of milliseconds."""
READ_BYTES = 65536
LAST_WORDS_SECONDS = 1.0
"""How long requests that are under way have to be answered when the client has closed stdin."""
CLOSE_SECONDS = 0.2
"""For closing the conversation after that. The process has two seconds in all, and the interpreter exits last."""
INTERRUPTED_SECONDS = 0.1
"""The same after Ctrl-C: somebody waits at a keyboard."""
LOOK_SECONDS = 1.0
"""Ctrl-C that comes in the moment in which the main thread goes to sleep does not wake it; so it sleeps no longer."""
MANY_WRITES = 64
THREADS = "stdio-server"
"""What the threads of the conversation are called; those of a client that speaks over stdio are stdio-<number>."""


class Served(Protocol):
    """The conversation that ``serve`` has begun."""

    def close(self, deadline: Deadline) -> None:
        """End it, and all that belongs to it, as far as that goes by the deadline. Idempotent."""


# -- who is owed an answer --------------------------------------------------------------------------------------------


class Debts:
    """The answers that this side owes; a client that has closed stdin may still be reading.

    Locks: ``_lock``, held for a few instructions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _owed, _on_their_way, _creditors_wait
        self._owed: Counter[RequestId | None] = Counter()
        self._on_their_way = 0
        self._creditors_wait = False
        self._settled = interrupts.Event()

    def received(self, message: Message) -> None:
        """Take note of what the client said; what cannot be read is answered too, if only with an id of None."""
        if isinstance(message, Request):
            if message.method != LISTEN:  # which is answered when it ends, and nobody is left to end it
                self._owe(message.id)
        elif isinstance(message, Notification):
            if message.method == "notifications/cancelled":
                self._forget((message.params or {}).get("requestId"))
        elif isinstance(message, Malformed):
            if message.answers is None:
                self._owe(message.asks)
        elif isinstance(message, Batch):
            for item in message.messages:
                self.received(item)

    def answering(self, message: Message | Mapping[str, Any]) -> bool:
        """Take note of what is about to be said to the client; True: it answers something, so call ``answered`` next.

        From now on the id may be used again, for the client may have the answer before we know that it was sent.
        """
        if isinstance(message, (Result, Failure)):
            self._pay(message.id)
        elif isinstance(message, Mapping) and "method" not in message:
            self._pay(message.get("id"))
        else:
            return False
        return True

    def answered(self) -> None:
        """Take note that an answer was given, or never will be."""
        with self._lock:
            self._on_their_way -= 1
            settled = self._creditors_wait and not self._owed and not self._on_their_way
        if settled:
            self._settled.set()

    def forgive(self) -> None:
        """Owe nothing any more."""
        with self._lock:
            self._owed.clear()
        self._settled.set()

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is owed; False: the seconds passed first."""
        with self._lock:
            if not self._owed and not self._on_their_way:
                return True
            self._creditors_wait = True
        return self._settled.wait(seconds)

    def _owe(self, request_id: RequestId | None) -> None:
        with self._lock:
            twice = request_id in self._owed  # to refuse it under its id would be to answer the one before it
            self._owed[None if twice else request_id] += 1

    def _pay(self, request_id: RequestId | None) -> None:
        with self._lock:
            left = self._owed.pop(request_id, 0) - 1
            if left > 0:
                self._owed[request_id] = left
            self._on_their_way += 1

    def _forget(self, request_id: object) -> None:
        if type(request_id) in (int, str):
            with self._lock:
                self._owed.pop(request_id, None)  # type: ignore[call-overload]  # it is one, says the line above


class _Noting:
    """A Sink in front of another one, which notes what will have to be answered, and that it is over."""

    def __init__(self, sink: Sink, debts: Debts, over: interrupts.Event) -> None:
        self._sink = sink
        self._debts = debts
        self._over = over

    def received(self, message: Message) -> None:
        self._debts.received(message)
        self._sink.received(message)

    def lost(self, request_id: RequestId | None, error: MCPError) -> None:
        self._sink.lost(request_id, error)

    def closed(self, error: MCPError) -> None:
        try:
            self._sink.closed(error)
        finally:
            self._over.set()


class StdioChannel(PipeChannel):
    """The Channel over a StdioPipe, which tells the pipe what is owed.

    Threads and locks: those of PipeChannel. ``wait_for_end`` blocks until the sink was told of the end.
    """

    def __init__(self, pipe: StdioPipe, limits: Limits | None = None, observers: Observers | None = None) -> None:
        super().__init__(pipe, limits, observers, threads=THREADS)
        self._debts = pipe.debts
        self._over = interrupts.Event()

    def wait_for_end(self) -> None:
        """Wait until nothing more will come, and the sink knows; Ctrl-C gets through."""
        while not self._over.wait(LOOK_SECONDS):
            pass

    def start(self, sink: Sink) -> None:
        """Begin delivering to the sink; raises as PipeChannel.start."""
        super().start(_Noting(sink, self._debts, self._over))

    def send(self, message: Message | Mapping[str, Any], deadline: Deadline) -> None:
        """Send one whole message; raises as Channel.send says."""
        answers = self._debts.answering(message)
        try:
            super().send(message, deadline)
        finally:
            if answers:
                self._debts.answered()


# -- the pipe ---------------------------------------------------------------------------------------------------------


class _Outgoing:
    """A message on its way, which at any moment knows how far it has come."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = memoryview(data)
        self._sent: list[int] = []

    @property
    def sent(self) -> int:
        """How many bytes were written."""
        return sum(self._sent)

    def write_to(self, outlet: _Outlet) -> None:
        """Write what is possible at once; raises as os.write does."""
        if len(self._sent) > MANY_WRITES:
            self._sent[:] = [self.sent]
        done = self.sent
        piece = self._data[done : done + outlet.most]
        # One call for the interpreter: Ctrl-C cannot come between writing and taking note of how much was written.
        self._sent.extend(map(outlet.send, (piece,), *outlet.flags))


class _Outlet:
    """A descriptor to write to that never waits, whoever else may hold what is open behind it.

    A pipe or a terminal is opened anew, for us alone, and does not wait. A socket is told so with each call. All else,
    a file, a pipe that is another user's, or wherever there is no /proc, is polled before every write of no more than
    the kernel promises to have room for.

    Attributes:
        send: Writes, given the bytes and ``flags``.
        flags: More arguments for that, as ``map`` wants them.
        most: How many bytes may be given at once.
        polled: Whether each write has to be polled for.
    """

    flags: tuple[tuple[int], ...] = ()
    most: int = sys.maxsize
    polled: bool = False

    def __init__(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        self._socket: socket.socket | None = None
        self._descriptor = -1
        self.send: Callable[..., int]
        if stat.S_ISSOCK(mode):
            self._be_socket(os.dup(descriptor))
            return
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            self._descriptor = _opened_anew(descriptor)
        if self._descriptor < 0:
            self._descriptor, self.most, self.polled = os.dup(descriptor), select.PIPE_BUF, True
        self.send = partial(os.write, self._descriptor)

    def _be_socket(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        if self._socket.gettimeout() is not None:  # socket.setdefaulttimeout() has just set the flag that others share
            self._socket.setblocking(True)
        self.send, self.flags = self._socket.send, ((socket.MSG_DONTWAIT,),)

    def fileno(self) -> int:
        """Return the descriptor, to be polled."""
        return self._socket.fileno() if self._socket is not None else self._descriptor

    def close(self) -> None:
        """Give it back. Idempotent, in a forked child too."""
        if self._socket is not None:
            self._socket.close()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _opened_anew(descriptor: int) -> int:
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # no /proc, or somebody else's
        return -1


class StdioPipe(Pipe):
    """Lines from one descriptor and to another: a pipe, a socket, a terminal, a file.

    A message has to begin by its deadline; then it goes on as long as the client reads, however slowly. If that takes
    nothing for as long as the deadline was given, in the middle of a message, the connection is over: a line that is
    never ended would leave it waiting without a reason.

    Threads: the channel's reader runs ``read``, ``epitaph`` and ``finish``.
    Locks: ``_ending`` is held for a few instructions.

    Args:
        source: Where to read from; not taken over.
        target: Where to write to; likewise.
        limit: The longest line in bytes.

    Attributes:
        debts: What the client has asked and not been answered; while there is such the stream outlives stdin a little.
        flaw: What ended the connection, if it was not the client closing it; else empty.

    Raises:
        OSError: One of the descriptors is not open, or too many are.
    """

    name = kind = "stdio"

    def __init__(self, source: int, target: int, limit: int) -> None:
        self.debts = Debts()
        self.flaw = ""
        self._lines = LineSplitter(limit)
        with ExitStack() as undoing:
            self._source = os.dup(source)
            undoing.callback(os.close, self._source)
            self._outlet = _Outlet(target)
            undoing.callback(self._outlet.close)
            self._wake, self._ring = os.pipe()
            undoing.pop_all()
        self._ending = threading.Lock()  # guards _ring
        self._mine = [self._source, self._wake]
        self._ended = False
        self._poll, self._room = select.poll(), select.poll()
        self._poll.register(self._source, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._room.register(self._outlet, select.POLLOUT)
        self._room.register(self._wake, 0)  # hung up, for ever, once the pipe is to end

    # -- reading, on the reader thread --------------------------------------------------------------------------------

    def read(self) -> Sequence[bytes | Overlong]:
        """Wait for at least one line; an empty answer is the end."""
        while not self._ended:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            if self._wake in ready:
                break
            if lines := self._take_in():
                return lines
        return []

    def _take_in(self) -> list[bytes | Overlong]:
        try:
            chunk = os.read(self._source, READ_BYTES)
        except BlockingIOError:  # somebody who shares it was faster
            return []
        except OSError as error:  # a terminal that was hung up, most likely
            self.flaw = self.flaw or f"stdin cannot be read ({os.strerror(error.errno or 0)})"
            chunk = b""
        if chunk:
            return self._lines.feed(chunk)
        self._ended = True
        rest = self._lines.flush().strip()  # whoever types a message may forget to end the line
        return [rest] if rest else []

    # -- writing, under the channel's lock ----------------------------------------------------------------------------

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write one line; raises as Channel.send says."""
        if self.flaw:
            raise MCPConnectionError(f"stdio: {self.flaw}", may_have_run=False)
        message = _Outgoing(data + b"\n")
        try:
            self._write_all(message, deadline)
        except BaseException as error:
            if not 0 < message.sent < message.size or self._ring < 0:
                raise
            self._break_off(f"{message.sent} of {message.size} bytes of a message written, the client reads no more")
            if isinstance(error, MCPTimeoutError):
                raise MCPTimeoutError(self.flaw) from error
            raise

    def _write_all(self, message: _Outgoing, deadline: Deadline) -> None:
        patience = deadline
        while message.sent < message.size:
            before = message.sent
            try:
                self._write_some(message, patience)
            except BlockingIOError:
                self._await_room(patience)
            if message.sent > before:
                patience = Deadline(deadline.limit)

    def _write_some(self, message: _Outgoing, deadline: Deadline) -> None:
        if self._outlet.polled:
            self._await_room(deadline)
        try:
            message.write_to(self._outlet)
        except BlockingIOError:
            raise
        except OSError as error:
            self._break_off(f"stdout cannot be written to ({os.strerror(error.errno or 0)})")
            raise MCPConnectionError(f"stdio: {self.flaw}") from error

    def _await_room(self, deadline: Deadline) -> None:
        ready = {descriptor for descriptor, _ in self._room.poll(min(deadline.remaining, POLL_SECONDS) * 1000)}
        if self._wake in ready:
            raise MCPConnectionError("the connection is closed")
        if not ready and deadline.expired:
            raise MCPTimeoutError("the client does not read our stdout", may_have_run=False)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _break_off(self, flaw: str) -> None:
        self.flaw = self.flaw or flaw
        self.hang_up(Deadline(0))

    def hang_up(self, deadline: Deadline) -> None:
        """Wake whoever reads or writes."""
        with self._ending:
            ring, self._ring = self._ring, -1
        if ring >= 0:
            os.close(ring)
        self.debts.forgive()

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended, once what the client has asked is answered, or LAST_WORDS_SECONDS have passed."""
        if not self.flaw:
            self.debts.settle(LAST_WORDS_SECONDS)
        return MCPConnectionError(f"stdio: {self.flaw or 'the client closed our stdin'}")

    def end_writing(self) -> None:
        """Close the write side."""
        self._outlet.close()

    def finish(self) -> None:
        """Close the rest."""
        self.hang_up(Deadline(0))
        self._close_mine()

    def disown(self) -> None:
        """In a forked child: close our copies; the conversation is the parent's."""
        ring, self._ring = self._ring, -1
        if ring >= 0:
            os.close(ring)
        self.end_writing()
        self._close_mine()

    def _close_mine(self) -> None:
        while self._mine:  # each is forgotten first: a forked child must not close what has its number by then
            os.close(self._mine.pop())


# -- the process ------------------------------------------------------------------------------------------------------

_diverted = threading.Lock()  # guards descriptors 0 and 1: who holds it has diverted them


class Diversion:
    """Descriptors 0 and 1 kept for one conversation; for all others they are /dev/null and stderr until ``undo``.

    A forked child has the diverted ones, and closes the real ones.

    Attributes:
        source: The real stdin, which no child process inherits.
        target: The real stdout, likewise.

    Raises:
        MCPConnectionError: One of them is closed, or they are diverted already.
    """

    def __init__(self) -> None:
        if not _diverted.acquire(blocking=False):
            raise _unfit("they are being served on already; a process has only one stdin")
        self.source = self.target = -1
        self._undone = self._filled = False
        self._stdout: io.TextIOWrapper | None = None
        try:
            self._filled = _fill_gaps()
            self._divert()
        except BaseException:
            self.undo()
            raise
        tell_of_forks(self)

    def _divert(self) -> None:
        self.source = os.dup(0)
        self.target = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        _flush_prints()  # now, so that it goes to stderr; before, it would have gone to the client
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.line_buffering:
            self._stdout = sys.stdout
            _buffer_lines(self._stdout, True)  # it is the log now, and logs are read while they are written

    def undo(self) -> None:
        """Put everything back. Idempotent."""
        if self._undone:
            return
        if self._stdout is not None:
            _buffer_lines(self._stdout, False)
        if self.target >= 0:
            _flush_prints()
            os.dup2(self.target, 1)
            os.dup2(self.source, 0)
        self._let_go()
        if self._filled:
            os.close(2)

    def leave(self) -> None:
        """Let everybody have the diverted ones for good: code that cannot be stopped may go on printing. Idempotent."""
        if not self._undone:
            self._let_go()

    def _let_go(self) -> None:
        self._undone = True
        for descriptor in (self.source, self.target):
            if descriptor >= 0:
                os.close(descriptor)
        _diverted.release()

    def forked(self) -> None:
        """In a forked child: close the real ones, which are the parent's."""
        self.leave()


def _unfit(why: str) -> MCPConnectionError:
    return MCPConnectionError(f"stdin and stdout cannot be served on: {why}", details={"transport": "stdio"})


def _fill_gaps() -> bool:
    """Open what is missing of stderr, or else what is opened next would be it; return whether it was missing.

    Raises:
        MCPConnectionError: Stdin or stdout is closed, so nobody can be there.
    """
    for descriptor, name in ((0, "stdin"), (1, "stdout")):
        if not _is_open(descriptor):
            raise _unfit(f"{name} is closed; a client starts its server with pipes")
    if _is_open(2):
        return False
    os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    os.set_inheritable(2, True)
    return True


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _flush_prints() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        try:
            if stream is not None:  # as under pythonw
                stream.flush()
        except Exception:  # whatever the application has put there in place of stdout; or it is closed
            log.debug("stdout cannot be flushed", exc_info=True)


def _buffer_lines(stream: io.TextIOWrapper, wanted: bool) -> None:
    try:
        stream.reconfigure(line_buffering=wanted)
    except ValueError:  # it is closed
        log.debug("stdout cannot be set up", exc_info=True)


def _unlock_prints() -> None:
    """Let no thread that is stopped by the interpreter's exit, in the middle of a print, have a lock of the streams.

    The interpreter flushes both when it exits, waits for that lock, and aborts. Streams without a buffer have none.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        try:
            if isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor:
                plain = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115  # as long as the process
                setattr(sys, name, io.TextIOWrapper(plain, stream.encoding, stream.errors, line_buffering=True))
        except (OSError, ValueError):
            pass  # it is closed


def run_stdio(
    serve: Callable[[Channel], Served], limits: Limits | None = None, observers: Observers | None = None
) -> None:
    """Serve the client at the other end of this process's stdin and stdout, until it closes stdin.

    It blocks; afterwards stdin and stdout are as they were, unless a tool cannot be stopped: then 0 stays /dev/null,
    and what 1 is given still goes to stderr, so that it can print nothing to the client. Such a tool is on a daemon
    thread, so it does not keep the process alive.

    Args:
        serve: Begins a conversation over a channel that is not started yet.
        limits: How much may be said, and may wait.
        observers: Whom to tell of events.

    Raises:
        MCPConnectionError: Stdin or stdout is closed, or served on already.
        MCPTransportError: Not on this platform.
        KeyboardInterrupt: Ctrl-C; the conversation is closed. A program that means to end without a traceback catches
            it around this call.
    """
    if sys.platform == "win32":
        raise MCPTransportError("a server cannot speak over stdio on Windows yet", may_have_run=False)
    diversion = uninterrupted("mcp-divert", Diversion, Diversion.undo)
    try:
        _converse(serve, diversion, limits or Limits(), observers)
    finally:
        uninterrupted("mcp-undo-diversion", partial(_give_back, diversion), lambda _: None)


def _converse(
    serve: Callable[[Channel], Served], diversion: Diversion, limits: Limits, observers: Observers | None
) -> None:
    try:
        pipe = StdioPipe(diversion.source, diversion.target, limits.message_size)
    except OSError as error:
        raise _unfit(os.strerror(error.errno or 0)) from error
    channel = StdioChannel(pipe, limits, observers)
    if os.isatty(diversion.source):
        log.info("serving whoever types JSON-RPC at this terminal, a message to a line; Ctrl-D ends it")
    conversation: Served | None = None
    patience = INTERRUPTED_SECONDS
    try:
        conversation = serve(channel)
        channel.wait_for_end()
        patience = CLOSE_SECONDS
    finally:
        _close(conversation, channel, Deadline(patience))
    if pipe.flaw:
        log.warning("stdio: %s", pipe.flaw)


def _close(conversation: Served | None, channel: Channel, deadline: Deadline) -> None:
    if conversation is not None:
        conversation.close(deadline)
        return
    channel.close(deadline)
    channel.lane.close(deadline)
    channel.events.close(deadline)


def _give_back(diversion: Diversion) -> None:
    if any(thread.name.startswith(f"mcp-{THREADS}-") for thread in threading.enumerate()):
        _unlock_prints()
        diversion.leave()
    else:
        diversion.undo()
