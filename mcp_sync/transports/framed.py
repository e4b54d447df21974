"""A WebSocket as a Pipe: one message to a text frame, over a Line that was upgraded.

One thread, the reader, owns the socket: it waits in one ``poll`` for what comes and for the end, it alone closes
descriptors, and it keeps the time of pings. It never writes while the connection lives: pings and pongs are put down,
and written by the next thread that writes, or by an outlet, a Lane that starts when there is something to write. Of
pongs only the newest is kept (RFC 6455, 5.5.3), so neither a flood of pings nor a server that does not read can block
anybody or fill anything.

What of a message could not be written by its deadline goes before the next one, so no frame is ever torn.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..engine.channel import Pipe
from ..engine.dispatch import Lane
from ..engine.interrupts import let_go
from ..exceptions import (
    ClosedByServer,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
)
from ..observe import Feed, Trouble
from ..policies import Keepalive, Packing
from ..protocol import frames
from ..protocol.deflate import Inflater, deflate
from ..protocol.framing import Overlong
from ..protocol.redact import mask
from .lines import POLL_SECONDS, Line, await_line
from .passport import masked
from .upgrade import Upgraded

READ_BYTES, LARGE_READ_BYTES = 1 << 16, 1 << 18
"""How much is read at once, and how much inside a frame that is longer."""
SMALLEST_PIECE = 4096
"""Pieces that are shorter on average are not kept beyond the limit's share of them."""
CLOSE_SECONDS = 1.0
"""How long saying goodbye may take at most: what waits to be written, our close frame, and the server's."""
FLAWED_SECONDS = 0.3
"""The same where the server has broken the protocol: it is told, but not waited for."""
SKIP_SECONDS = 0.5
"""A message over the limit that does not come on for so long is given up."""
PARTING_SECONDS = 0.25
"""How long the server has to end the connection once both sides have closed it; it goes first (RFC 6455, 7.1.1)."""
OUTLET_SECONDS = 1.0
"""How long the outlet is waited for; it has been told to end."""


class WebSocketPipe(Pipe):
    """Messages to and from a server over one WebSocket.

    Threads: the channel's reader runs ``read``, ``epitaph``, ``end_writing`` and ``finish``; the outlet's worker writes
    control frames.
    Locks: ``_sending`` is held while frames are written, always acquired with a deadline, after the channel's write
    lock and before the line's; ``_ending`` is held for a few instructions.

    Args:
        line: The connection.
        given: What was agreed in the upgrade.
        name: For people; without secrets.
        limit: The longest message in bytes.
        keepalive: When to ask whether the server is still there.
        packing: From when on messages are compressed, if that was agreed.
        threads: What its thread is called, ``mcp-<threads>-outlet``.
        secrets: Returns what must not be shown of what the server says.

    Attributes:
        feed: Where events go.
    """

    kind = "websocket"

    def __init__(
        self,
        line: Line,
        given: Upgraded,
        name: str,
        limit: int,
        keepalive: Keepalive,
        packing: Packing,
        threads: str = "websocket",
        secrets: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.name = name
        self.feed = Feed()
        self._secrets = secrets
        self._line = line
        self._given = given
        self._limit = limit
        self._keepalive = keepalive
        self._packing = packing if given.compression is not None else None
        inflater = Inflater(given.compression.goes_on) if given.compression is not None else None
        self._cutter = frames.FrameCutter(limit, inflater)
        self.lends = type(line) is Line  # to decrypt takes several steps, which Ctrl-C may tear
        self._came: deque[bytes] = deque([given.rest] if given.rest else [])  # read, and not yet cut into messages
        self._wake, self._ring = os.pipe()  # never written to: it is hung up, for ever, when the pipe is to end
        self._lost = weakref.finalize(self, _discard, line, self._wake, self._ring)  # Ctrl-C, before anybody has this
        self._lost.atexit = False
        self._poll = select.poll()
        self._poll.register(self._wake, 0)
        self._poll.register(line.fileno(), select.POLLIN)
        self._ending = threading.Lock()  # guards _deadline, _ring
        self._deadline: Deadline | None = None
        self._heard = time.monotonic()
        self._asked: float | None = None
        self._closing: frames.Closing | None = None
        self._flaw: frames.Flaw | None = None
        self._why = ""
        self._broken: OSError | None = None
        self._sending = threading.RLock()  # guards the write side of _line; an RLock, for let_go
        self._controls: tuple[deque[bytes], deque[bytes]] = (deque(maxlen=1), deque(maxlen=1))
        self._outlet = Lane(f"mcp-{threads}-outlet", backlog=1)
        self._said_goodbye = False

    # -- reading, on the reader thread --------------------------------------------------------------------------------

    def read(self) -> Sequence[bytes | Overlong]:
        """Wait for at least one message; an empty answer is the end.

        Raises:
            RemoteProtocolError: The server broke the protocol.
            MessageTooLarge: It sends a message far over the limit, or one over it that does not come on.
        """
        while self._deadline is None and not self._ended:
            chunk = self._next_chunk()
            messages = self._sorted(self._cutter.feed(chunk)) if chunk else []
            if messages:
                return messages
        if self._flaw is not None and self._deadline is None:
            raise self._flawed(self._flaw)
        return []

    @property
    def _ended(self) -> bool:
        return bool(self._closing or self._flaw or self._why)

    def _next_chunk(self) -> bytes:
        """Return what comes next; b"" where nothing did yet, or never will."""
        if not self._came:
            if not self._poll.poll(min(self._patience(), POLL_SECONDS) * 1000):
                self._look_at_clock()
                return b""
            if self._deadline is not None or not self._keep(self._cutter.wanted):
                return b""
        chunk = self._came.popleft()
        if not chunk:
            self._why = "ended without a close frame"
            return b""
        self._heard, self._asked = time.monotonic(), None
        return chunk

    def _keep(self, wanted: int) -> bool:
        """Keep what can be read at once; False: nothing can."""
        try:
            self._line.read_to(self._came, READ_BYTES if wanted < READ_BYTES else LARGE_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self._broken, self._why = error, "broke"
            return False
        return True

    # -- reading in small steps, by whoever has the seat --------------------------------------------------------------

    def fetch(self, seconds: float) -> bool:
        """Wait so long for bytes, and keep them; False: none came, or there is something else to see to."""
        if self._deadline is not None or self._ended or self._asked is not None or self._cutter.skipping:
            return False
        if self._came and not self.partial():  # it came right behind the upgrade, or was left by Ctrl-C
            return False
        if self._keepalive.interval is not None:
            seconds = min(seconds, max(0.0, self._heard + self._keepalive.interval - time.monotonic()))
        ready = self._poll.poll(min(seconds, POLL_SECONDS) * 1000)
        if len(ready) != 1 or ready[0][0] == self._wake or not self._keep(READ_BYTES if self._came else 0):
            return False
        self._heard = time.monotonic()
        return bool(self._came[-1])

    def whole(self) -> bytes | None:
        """Return what was fetched, if it is one frame and that is one message."""
        came = self._came
        lone = self._cutter.lone(came[0]) if came else None
        if lone is None or lone[1] != sum(map(len, came)):
            return None
        return b"".join((memoryview(came[0])[lone[0] :], *list(came)[1:])) if len(came) > 1 else came[0][lone[0] :]

    def partial(self) -> bool:
        """Whether what was fetched is the beginning of one message."""
        came = self._came
        if not came or len(came) * SMALLEST_PIECE > self._limit:  # of many small pieces the cutter makes less work
            return False
        lone = self._cutter.lone(came[0])
        return lone is not None and lone[1] > sum(map(len, came))

    def taken(self) -> None:
        """Forget what was fetched."""
        self._came.clear()

    def cut(self) -> Sequence[bytes | Overlong]:
        """Return the messages in what was fetched, and take note of all else."""
        messages: list[bytes | Overlong] = []
        while self._came and not self._ended:
            messages += self._sorted(self._cutter.feed(self._came.popleft()))
        return messages

    def is_over(self) -> bool:
        """Whether the server has closed the connection, or is about to."""
        if self._ended:
            return True
        if self._came or not self._poll.poll(0):
            return False
        return self._line.peek(1) in (b"", bytes([0x80 | frames.CLOSE]))

    def _sorted(self, items: list[frames.Item]) -> list[bytes | Overlong]:
        """Return the messages, and take note of all else."""
        messages: list[bytes | Overlong] = []
        for item in items:
            if isinstance(item, (bytes, Overlong)):
                messages.append(item)
            elif isinstance(item, frames.Ping):
                self._put_down(frames.PONG, item.payload)
            elif isinstance(item, frames.Closing):
                self._closing = replace(item, reason=mask(item.reason, self._secrets()))
            elif isinstance(item, frames.Flaw):
                self._flaw = item
        return messages

    # -- whether anybody is there -------------------------------------------------------------------------------------

    def _patience(self) -> float:
        """Return the seconds until the clock has to be looked at."""
        due = min(self._next_ping(), self._doomsday())
        return max(0.0, due - time.monotonic())

    def _next_ping(self) -> float:
        interval = self._keepalive.interval
        if interval is None or self._asked is not None:
            return self._heard + LONGEST_TIMEOUT
        return self._heard + interval

    def _doomsday(self) -> float:
        """Return when the connection counts as lost if nothing comes."""
        ends = [self._heard + LONGEST_TIMEOUT]
        if self._asked is not None and self._keepalive.timeout is not None:
            ends.append(self._asked + self._keepalive.timeout)
        if self._cutter.skipping:
            ends.append(self._heard + SKIP_SECONDS)
        return min(ends)

    def _look_at_clock(self) -> None:
        """Ask whether the server is there, or give it up."""
        now = time.monotonic()
        if now >= self._doomsday():
            if self._cutter.skipping:
                text = f"a message over max_message_size, which is {self._limit}, that does not come on"
                self._flaw = frames.Flaw(frames.TOO_BIG, text)
                return
            self._why = f"does not answer: nothing came for {now - self._heard:.1f} s (ping_timeout)"
        elif now >= self._next_ping():
            self._asked = now
            self._put_down(frames.PING, os.urandom(4))

    def _put_down(self, opcode: int, payload: bytes) -> None:
        """Have a control frame written soon, by somebody else."""
        self._controls[opcode == frames.PONG].append(payload)
        self._outlet.offer(self._write_controls)  # False: the outlet, or the next who writes, will find it

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write one message; what was left half written goes first."""
        whole = self._framed(data)
        sending = self._sending
        try:
            if not (sending.acquire(blocking=False) or sending.acquire(timeout=deadline.remaining)):
                raise MCPTimeoutError("a control frame is still being written", may_have_run=False)
            try:
                if self._line.blocked:
                    self._flush_left(deadline)
                if any(self._controls):
                    self._take_controls(deadline)
                self._write_message(whole, deadline)
            finally:
                sending.release()
        except MCPError:
            raise
        except BaseException:
            let_go(self._sending)
            raise

    def _framed(self, data: bytes) -> bytes:
        packing = self._packing
        if packing is not None and len(data) >= packing.threshold:
            packed = deflate(data, packing.level)
            if len(packed) < len(data):
                return frames.frame(frames.TEXT, packed, os.urandom(4), packed=True)
        return frames.frame(frames.TEXT, data, os.urandom(4))

    def _write_message(self, whole: bytes, deadline: Deadline) -> None:
        try:
            self._put(whole)
            self._flush(deadline)
        except BaseException as error:
            if not self._line.take_back() and isinstance(error, MCPTimeoutError):
                raise MCPTimeoutError("the server reads no more, in the middle of the message") from error
            raise

    def _put(self, whole: bytes) -> None:
        try:
            self._line.put(whole)
        except OSError as error:  # TLS has come to an end
            raise self._broken_by(error) from error

    def _flush_left(self, deadline: Deadline, wake: bool = True) -> None:
        """Write what somebody else has left half written; a little room there may be is not for what follows."""
        if self._line.blocked:
            self._await_room(deadline, wake)
            self._flush(deadline, wake)

    def _flush(self, deadline: Deadline, wake: bool = True) -> None:
        """Write all that was put."""
        try:
            while not self._line.flush():
                self._await_room(deadline, wake)
        except MCPError:
            raise
        except OSError as error:
            raise self._broken_by(error) from error

    def _broken_by(self, error: OSError) -> MCPConnectionError:
        """Let the reader see that nothing can be written any more, and return what the writer is to raise."""
        self._line.shut_down()
        return MCPConnectionError(f"the connection to {self.name} is broken ({error.strerror or type(error).__name__})")

    def _await_room(self, deadline: Deadline, wake: bool) -> None:
        line = self._line
        if not await_line(line, select.POLLOUT, deadline, "the server does not read", self._wake if wake else -1):
            raise MCPConnectionError("the connection is closed")

    def _take_controls(self, deadline: Deadline, wake: bool = True) -> None:
        """Write the control frames that were put down; under ``_sending``, when nothing is half written."""
        for opcode, payloads in zip((frames.PING, frames.PONG), self._controls, strict=True):
            while payloads:
                self._put(frames.frame(opcode, payloads.popleft(), os.urandom(4)))
                self._flush(deadline, wake)

    def _write_controls(self) -> None:
        """Write control frames on the outlet; waits as long as the server does not read, or until the end."""
        forever = Deadline(LONGEST_TIMEOUT)
        if not self._sending.acquire(timeout=POLL_SECONDS):  # who has it ends by its deadline, or at the end
            return
        try:
            self._flush_left(forever)
            self._take_controls(forever)
        except MCPError:
            pass  # the reader hears of it by itself
        finally:
            self._sending.release()

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self, deadline: Deadline) -> None:
        """Wake whoever reads or writes; saying goodbye has until the deadline, at most CLOSE_SECONDS."""
        with self._ending:
            seconds = CLOSE_SECONDS if self._flaw is None else FLAWED_SECONDS
            ours = deadline.sooner(min(deadline.remaining * 0.8, seconds))
            if self._deadline is None or ours.at < self._deadline.at:
                self._deadline = ours
            ring, self._ring = self._ring, -1
        if ring >= 0:
            self._lost.detach()  # whoever hangs up sees to the rest
            os.close(ring)

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended."""
        closing = self._closing
        details = self.explain()
        if closing is not None:
            error: MCPConnectionError = ClosedByServer(
                f"{self.name} closed the connection with {closing}", closing.code, closing.reason, details=details
            )
        elif self._broken is not None:
            why = self._broken.strerror or type(self._broken).__name__
            error = MCPConnectionError(f"the connection to {self.name} broke: {why}", details=details)
            error.__cause__ = self._broken
        else:
            error = MCPConnectionError(f"{self.name} {self._why}", details=details)
        self.feed.emit(Trouble(self.name, "connection_lost", details))
        return error

    def _flawed(self, flaw: frames.Flaw) -> MCPError:
        details = self.explain()
        self.feed.emit(Trouble(self.name, "connection_lost", details))
        if flaw.code == frames.TOO_BIG:
            return MessageTooLarge(f"{self.name} sends {flaw.why}", details={**details, "limit": self._limit})
        return RemoteProtocolError(f"{self.name} breaks the WebSocket protocol: it sends {flaw.why}", details=details)

    def masked(self, raw: bytes) -> bytes:
        """Return what the server said without the secrets that it was shown."""
        return masked(raw, self._secrets())

    def explain(self) -> dict[str, Any]:
        """Return what is known of the connection: url, subprotocol; code and reason of the server's close."""
        details: dict[str, Any] = {"url": self.name, "subprotocol": self._given.subprotocol}
        if self._closing is not None:
            details.update(code=self._closing.code, reason=self._closing.reason)
        elif self._flaw is not None:
            details.update(code=self._flaw.code, reason=self._flaw.why)
        elif self._why:
            details.update(code=frames.NO_CLOSE, reason="")
        return details

    def end_writing(self) -> None:
        """Say goodbye: a close frame, behind what was left half written."""
        assert self._deadline is not None
        patience = Deadline(self._deadline.remaining / 2)
        if self._why or not self._sending.acquire(timeout=patience.remaining):
            return
        try:
            self._flush_left(patience, wake=False)
            self._put(frames.frame(frames.CLOSE, self._last_words(), os.urandom(4)))
            self._flush(patience, wake=False)
            self._said_goodbye = True
        except MCPError:
            pass  # then it goes without
        finally:
            self._sending.release()

    def _last_words(self) -> bytes:
        if self._flaw is not None:
            return frames.close_payload(self._flaw.code, self._flaw.why)
        if self._closing is not None:
            return frames.close_payload(self._closing.code)
        return frames.close_payload(frames.NORMAL)

    def finish(self) -> None:
        """Wait a moment for the server's close frame and its end of the connection; then close everything."""
        assert self._deadline is not None
        if self._said_goodbye:
            if self._flaw is not None:
                self._line.say_goodbye()
            while not self._cutter.over and self._hears_out(self._deadline):
                pass
            parting = self._deadline.sooner(PARTING_SECONDS)
            while self._hears_out(parting):
                pass
            self._line.say_goodbye()
        self._outlet.close(Deadline(OUTLET_SECONDS))
        wake, self._wake = self._wake, -1  # first: a forked child must not close what has this number by then
        self._line.close(rudely=not (self._cutter.over or self._why))  # or who never reads would never hear of it
        os.close(wake)

    def _hears_out(self, patience: Deadline) -> bool:
        """Read and drop what still comes; False: that was all, or the time is over."""
        try:
            await_line(self._line, select.POLLIN, patience, "the server does not end the connection")
            chunk = self._line.read(READ_BYTES)
        except BlockingIOError:
            return not patience.expired
        except (OSError, MCPTimeoutError):
            return False
        self._cutter.feed(chunk)
        return bool(chunk) and not patience.expired

    def disown(self) -> None:
        """In a forked child: close our copies of the descriptors; the connection is the parent's."""
        self._lost.detach()
        self._line.disown()
        for descriptor in (self._wake, self._ring):
            if descriptor >= 0:
                _close_quietly(descriptor)
        self._ring = -1


def _discard(line: Line, *descriptors: int) -> None:
    """Close what belongs to a connection that is of no use."""
    line.close(rudely=True)
    for descriptor in descriptors:
        _close_quietly(descriptor)


def _close_quietly(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass
