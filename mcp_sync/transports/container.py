"""A container as a Pipe: one message to a line on its stdin and stdout, over the connection that its engine gave us.

One thread, the reader, owns that connection: it waits in one ``poll`` for it and a wake pipe, puts stdout and stderr
apart, and ends the container. Everybody else only writes, under the channel's lock, or rings the wake pipe.

Source: Docker Engine API, "Attach to a container"; basic/lifecycle (shutdown).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..deadlines import Deadline
from ..engine.channel import Pipe, last_words
from ..engine.dispatch import start_thread_in_finalizer
from ..engine.interrupts import let_go
from ..exceptions import MCPConnectionError, MCPTimeoutError, MessageTooLarge, RemoteProtocolError
from ..observe import ContainerEnded, Feed, Ignored, LimitExceeded, Trouble
from ..protocol.demux import STDIN, STDOUT, Demultiplexer
from ..protocol.framing import LineSplitter, Overlong
from .asides import Asides
from .process import ENDLESS_FACTOR, PATIENCE_SHARE, POLL_SECONDS, READ_BYTES, Outgoing

log = logging.getLogger("mcp_sync")

VERDICT_SECONDS = 0.7
"""How long the engine is asked after the end of the streams how the container ended."""
REMOVE_SECONDS = 2.0
"""How long removing the container may take at least, or it would stay."""
DEAF_SECONDS = 0.3
"""How long a server that does not read its stdin may take to see that it has ended, before the signal."""
SIGNALS = {137: "killed by SIGKILL", 139: "killed by SIGSEGV", 143: "ended by SIGTERM", 134: "killed by SIGABRT"}
"""What an exit code of 128 and more means to a shell and to Docker."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the engine knows of a container's end.

    Attributes:
        running: Whether it runs still.
        status: Its exit code, if it has ended.
        out_of_memory: Whether the kernel ended it for that.
        stop_signal: The signal by which its image wants to be ended.
        removed: Whether somebody else has removed it.
        trouble: Why nothing is known.
    """

    running: bool = False
    status: int | None = None
    out_of_memory: bool = False
    stop_signal: str = "SIGTERM"
    removed: bool = False
    trouble: str = ""


class Contained(Protocol):
    """The container, as its engine has it."""

    id: str

    def look(self, deadline: Deadline) -> Verdict:
        """Return what the engine knows of it now; never raises."""

    def verdict(self, deadline: Deadline) -> Verdict:
        """Return how it ended, once the engine knows; never raises."""

    def signal(self, signal: str, deadline: Deadline) -> None:
        """Send it a signal."""

    def remove(self, deadline: Deadline) -> bool:
        """Remove it, whatever its state."""

    def leave(self) -> None:
        """Leave its engine."""


class Attachment:
    """The connection to a container's streams: a socket that its engine has given up to us.

    Threads: one reads, one writes; nobody waits here.
    Locks: ``_tls`` is held for one read or write of a TLS socket, which is not for two threads.

    Args:
        sock: The socket; does not block.
        early: What had been read from it before.
        closers: Called when it is closed, after it was shut down and before the socket itself.

    Attributes:
        half_closes: Whether our side can be closed alone, which TLS cannot.
    """

    def __init__(self, sock: socket.socket, early: bytes = b"", closers: Sequence[Callable[[], object]] = ()) -> None:
        self._sock = sock
        self._early = early
        self._closers = closers
        self._tls = threading.RLock() if isinstance(sock, ssl.SSLSocket) else None  # guards the TLS socket
        self.half_closes = self._tls is None

    def fileno(self) -> int:
        """Return the descriptor, to wait for."""
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether there is something to read that the descriptor does not know of."""
        return bool(self._early) or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    def receive(self) -> bytes | None:
        """Return what has come, None if nothing has, empty at the end."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            if self._tls is None:
                return self._sock.recv(READ_BYTES)
            with self._tls:
                return self._sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError:
            return b""

    def send(self, message: Outgoing) -> None:
        """Send what is possible at once of a message; raises BlockingIOError if nothing is, OSError at the end."""
        if self._tls is None:
            message.write_by(self._sock.send)
            return
        try:
            with self._tls:
                message.write_by(self._sock.send)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait:
            raise BlockingIOError from wait
        except BaseException:
            let_go(self._tls)
            raise

    def end_writing(self) -> None:
        """Close our side, which the container sees as the end of its stdin."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is over already

    def close(self) -> None:
        """Give the connection back: shut down, then the response, then the socket, or descriptors are left (B18)."""
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            pass  # it is over already
        for closer in self._closers:
            closer()
        self._sock.close()

    def disown(self) -> None:
        """In a forked child: close our copy, and shut nothing down: that is the parent's as well."""
        descriptor = self._sock.detach() if self._sock.fileno() >= 0 else -1
        if descriptor >= 0:
            os.close(descriptor)


class ContainerPipe(Pipe):
    """Lines to and from a container.

    Threads: the channel's reader runs ``read``, ``epitaph`` and ``finish``.
    Locks: ``_ending`` is held for a few instructions; closing ``_ring`` does not wait.

    Args:
        container: The container, started.
        attachment: The connection to its streams.
        name: For people; without secrets.
        limit: The longest line in bytes.
        grace: Seconds in which to end it.
        secrets: What must not be shown of its output.
        about: What is known of it, for the details of errors.

    Attributes:
        feed: Where events go.
        asides: What it says beside its messages.
    """

    kind = "docker"

    def __init__(
        self,
        container: Contained,
        attachment: Attachment,
        name: str,
        limit: int,
        grace: float,
        secrets: Sequence[str] = (),
        about: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.feed = Feed()
        self.asides = Asides(secrets)
        self._container = container
        self._attachment = attachment
        self._grace = grace
        self._about = {"container": container.id, **(about or {})}
        self._since = time.monotonic()
        self._lived: float | None = None
        self._wake, self._ring = os.pipe()
        self._ending = threading.Lock()  # guards _deadline, _ring
        self._deadline: Deadline | None = None
        self._demux = Demultiplexer()
        self._lines = LineSplitter(limit)
        self._outgoing = Outgoing()
        self._torn = False
        self._stalled = False
        self._streaming = True
        self._verdict: Verdict | None = None
        self._poll = select.poll()
        self._poll.register(attachment, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        # Ctrl-C may come where nobody has this yet who would finish it.
        self._lost = weakref.finalize(self, _discard_later, container, attachment, self._wake, self._ring)
        self._lost.atexit = False

    # -- reading, on the reader thread --------------------------------------------------------------------------------

    def read(self) -> Sequence[bytes | Overlong]:
        """Wait for at least one line; an empty answer is the end of the streams."""
        while self._deadline is None and self._streaming:
            if not self._attachment.pending and not self._wait(None):
                continue
            lines = self._take()
            if lines:
                return lines
            self._check()
        return []

    def _wait(self, seconds: float | None) -> bool:
        """Wait for something to read."""
        ready = self._poll.poll(None if seconds is None else seconds * 1000)
        return any(descriptor != self._wake for descriptor, _ in ready)

    def _take(self) -> list[bytes | Overlong]:
        """Take what has come; return the lines of stdout."""
        chunk = self._attachment.receive()
        if chunk is None:
            return []
        lines: list[bytes | Overlong] = []
        for stream, piece in self._demux.feed(chunk):
            if stream == STDOUT:
                lines += self._lines.feed(piece)
            elif stream != STDIN:
                self.asides.take_stderr(piece)
        if not chunk:
            self._streaming = False
            self.asides.end_stderr()
            rest = self._lines.flush().strip()
            lines += [rest] if rest.endswith(b"}") else []
        self.asides.take_stdout(lines)
        return lines

    def _check(self) -> None:
        """Raise if what comes can never make sense."""
        if self._demux.flaw is not None:
            raise RemoteProtocolError(f"{self.name}: {self._demux.flaw}", details=self.explain())
        if self._lines.skipped > ENDLESS_FACTOR * self._lines.limit:
            raise MessageTooLarge(
                f"{self.name} sends a line without end: more than {ENDLESS_FACTOR} times max_message_size, "
                f"which is {self._lines.limit} bytes",
                details={**self.explain(), "limit": self._lines.limit},
            )

    def masked(self, raw: bytes) -> bytes:
        """Return what it wrote without the secrets in its environment."""
        return self.asides.masked(raw)

    # -- writing, under the channel's lock ----------------------------------------------------------------------------

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write one line. What a message before it left half written goes first, so lines are never torn."""
        self._write_rest(self._outgoing, deadline)
        self._outgoing = message = Outgoing(data + b"\n")
        try:
            self._write_rest(message, deadline)
        except BaseException as error:
            if not message.sent and not self._torn:
                self._outgoing = Outgoing()
            elif isinstance(error, MCPTimeoutError):
                text = f"{message.sent} of {message.size} bytes written, the server reads no more"
                raise MCPTimeoutError(text) from error
            raise
        self._outgoing = Outgoing()

    def _write_rest(self, message: Outgoing, deadline: Deadline) -> None:
        while message.sent < message.size:
            if self._torn:
                raise MCPConnectionError("the write of a message was interrupted, and nobody knows where")
            while self._stalled:  # a socket takes a little more long before it says that there is room
                self._await_room(deadline)
            try:
                self._attachment.send(message)
            except BlockingIOError:
                self._stalled = True
            except OSError as error:
                self._outgoing = Outgoing()
                raise MCPConnectionError(f"the container's stdin is closed ({error.strerror or error})") from error
            except BaseException:
                self._torn = not self._attachment.half_closes  # TLS is not one step for the interpreter
                raise

    def _await_room(self, deadline: Deadline) -> None:
        room = select.poll()
        room.register(self._attachment, select.POLLOUT)
        room.register(self._wake, 0)  # hung up, for ever, once the pipe is to end
        ready = {descriptor for descriptor, _ in room.poll(min(deadline.remaining, POLL_SECONDS) * 1000)}
        if self._wake in ready:
            raise MCPConnectionError("the connection is closed")
        self._stalled = not ready
        if not ready and deadline.expired:
            raise MCPTimeoutError("the server does not read its stdin", may_have_run=False)

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self, deadline: Deadline) -> None:
        """Wake whoever reads or writes; the container has until the deadline, at most ``shutdown_timeout``."""
        with self._ending:
            ours = deadline.sooner(min(deadline.remaining, self._grace) * PATIENCE_SHARE)
            if self._deadline is None or ours.at < self._deadline.at:
                self._deadline = ours
            ring, self._ring = self._ring, -1
        if ring >= 0:
            self._lost.detach()  # whoever hangs up sees to the rest
            os.close(ring)

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended, after a moment in which the engine may learn it too."""
        self._lived = time.monotonic() - self._since
        self._verdict = self._container.verdict(Deadline(VERDICT_SECONDS))
        details = self.explain()
        limit = details.get("memory_limit_mb")
        if limit and self._verdict.out_of_memory:  # by how much it would have gone past that, nobody knows
            self.feed.emit(LimitExceeded(self.name, "memory_mb", limit, limit))
        self.feed.emit(Trouble(self.name, "connection_lost", dict(details)))
        return MCPConnectionError(f"{self.name} {self._fate(self._verdict)}{last_words(details)}", details=details)

    def _fate(self, verdict: Verdict) -> str:
        if verdict.removed:
            return "was removed by somebody else"
        if verdict.trouble:
            return f"is out of reach: its streams have ended, and {verdict.trouble}"
        if verdict.running:
            return "closed its stdout, though it is still running"
        if verdict.out_of_memory:
            limit = self._about.get("memory_limit_mb")
            more = f"memory_limit_mb is {limit}" if limit else "the host had none left"
            return f"ran out of memory and was killed (exit status {verdict.status}); {more}"
        meaning = SIGNALS.get(verdict.status or 0, "")
        return f"ended with exit status {verdict.status}{f' ({meaning})' if meaning else ''}"

    def explain(self) -> dict[str, Any]:
        """Return what is known: container, image, exit_status, the last lines of stderr, noise on stdout."""
        details: dict[str, Any] = {**self._about, **self.asides.explain()}
        verdict = self._verdict
        if verdict is not None and not verdict.running:
            details["exit_status"] = verdict.status
            details["out_of_memory"] = verdict.out_of_memory
        if self._lived is not None:
            details["lived"] = round(self._lived, 3)
        return details

    def end_writing(self) -> None:
        """Close the container's stdin, which asks it to end."""
        if self._attachment.half_closes:
            self._attachment.end_writing()

    def finish(self) -> None:
        """End the container, remove it, and close everything."""
        self.hang_up(Deadline(self._grace))
        self._poll.unregister(self._wake)
        try:
            self._climb_down()
            if self.feed.watched and self._verdict is None and not self._streaming:
                self._verdict = self._container.look(Deadline(VERDICT_SECONDS))
        finally:
            self._give_back()
        verdict = self._verdict or Verdict()
        if self.asides.dropped:
            self.feed.emit(Ignored(self.name, f"{self.asides.dropped} lines of stderr, taken too slowly"))
        self.feed.emit(ContainerEnded(self.name, self._container.id, verdict.status, verdict.out_of_memory))

    def _climb_down(self) -> None:
        """Give the server time to go by itself, then its stop signal; removing it is what kills."""
        assert self._deadline is not None
        patience = min(self._deadline.remaining / 2, DEAF_SECONDS if self._stalled else POLL_SECONDS)
        if self._attachment.half_closes and not self._outlives(Deadline(patience)):
            return
        if not self._deadline.expired:
            verdict = self._container.look(self._deadline)
            if verdict.running:
                self._container.signal(verdict.stop_signal, self._deadline)
                self._outlives(self._deadline)

    def _outlives(self, patience: Deadline) -> bool:
        """Wait for the streams to end, draining them: the server may be blocked on that."""
        assert self._deadline is not None
        while self._streaming and self._demux.flaw is None:
            if patience.expired or self._deadline.expired:  # close() may bring the deadline forward
                return True
            if self._attachment.pending or self._wait(min(0.02, patience.remaining)):
                self._take()
        return self._streaming

    def _give_back(self) -> None:
        assert self._deadline is not None
        self._container.remove(Deadline(max(self._deadline.remaining, REMOVE_SECONDS)))
        wake, self._wake = self._wake, -1  # first: a forked child must not close what has this number by then
        os.close(wake)
        self._attachment.close()
        self._container.leave()

    def disown(self) -> None:
        """In a forked child: close our copies of the descriptors; the container is the parent's."""
        self._lost.detach()
        self._attachment.disown()
        for descriptor in (self._wake, self._ring):
            if descriptor >= 0:
                try:
                    os.close(descriptor)
                except OSError:
                    pass
        self._ring = -1


def _discard_later(container: Contained, attachment: Attachment, *descriptors: int) -> None:
    """End a container that was lost; never here: the collector may have interrupted code that holds any lock."""
    start_thread_in_finalizer("mcp-janitor", _discard, container, attachment, *descriptors)


def _discard(container: Contained, attachment: Attachment, *descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    container.remove(Deadline(REMOVE_SECONDS))
    attachment.close()
    container.leave()
