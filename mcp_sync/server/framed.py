"""A WebSocket as a Pipe, at the server's end: frames by the sans-I/O half of the library websockets, sockets by us.

One thread, the channel's reader, owns the socket: it waits in one ``poll`` for what comes and for the bell, it alone
closes descriptors, and it keeps the time of pings. It never writes while the connection lives: what the protocol wants
said (pings, pongs, its close frame) is put down, and written by the next thread that writes, or by the host's outlet,
one Lane for all connections whose jobs never wait. Of pongs only the newest is kept (RFC 6455, 5.5.3).

What of a message could not be written by its deadline goes on as the client reads, by the outlet, and before all else;
so no frame is ever torn. A client that takes nothing for ``ping_timeout`` while something waits for it is given up.

Source: RFC 6455, sections 5 (frames), 7 (closing), 8.1 (UTF-8).
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline
from ..engine.channel import Pipe
from ..engine.dispatch import Lane
from ..engine.interrupts import let_go
from ..engine.lines import POLL_SECONDS, Bell, Line, await_line
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError, MessageTooLarge, RemoteProtocolError
from ..policies import Keepalive
from ..protocol import frames

if TYPE_CHECKING:
    from websockets.frames import Frame
    from websockets.server import ServerProtocol

READ_BYTES, LARGE_READ_BYTES = 1 << 16, 1 << 18
"""How much is read at once, and how much after a read that was full."""
PINGS_PER_SECOND = 1000
"""Who sends more of them than that only means to keep us busy."""
CLOSE_SECONDS = 1.0
"""How long saying goodbye may take at most: what waits to be written, our close frame, and the client's."""
FLAWED_SECONDS = 0.3
"""The same where the client has broken the protocol: it is told, but not waited for."""
PARTING_SECONDS = 0.25
"""How long the client has to end the connection once both sides have closed it; we go first (RFC 6455, 7.1.1)."""
RINGING_SECONDS = 0.02
"""How long the bell may ring for the reader alone."""
STALLED_SECONDS = 20.0
"""How long a client may take nothing of what waits for it, where pings have no timeout."""


class WebSocketPipe(Pipe):
    """Messages to and from a client over one WebSocket.

    Threads: the channel's reader runs ``read``, ``epitaph``, ``end_writing`` and ``finish``; the outlet's worker writes
    what nobody waits for.
    Locks: ``_sending`` is held while frames are written, always acquired with a deadline, after the channel's write
    lock and before the line's; ``_framing`` is held while the protocol makes or reads frames, which is no I/O;
    ``_ending`` is held for a few instructions. The last two are taken last.

    Args:
        line: The connection.
        protocol: The library's side of it, with the answer to the upgrade yet to be sent.
        rest: What came behind the request for the upgrade.
        name: For people; without secrets.
        limit: The longest message in bytes.
        keepalive: When to ask whether the client is still there.
        outlet: Where what nobody waits for is written.
        gone: Is called when everything was given back.
    """

    kind = "websocket"

    def __init__(
        self,
        line: Line,
        protocol: ServerProtocol,
        rest: bytes,
        name: str,
        limit: int,
        keepalive: Keepalive,
        outlet: Lane,
        gone: Callable[[], object],
    ) -> None:
        self.name = name
        self._line = line
        self._protocol = protocol
        self._rest = rest
        self._limit = limit
        self._keepalive = keepalive
        self._outlet = outlet
        self._gone = gone
        self._bell = Bell()
        self._poll = select.poll()
        self._poll.register(self._bell.fileno(), select.POLLIN)
        self._poll.register(line.fileno(), select.POLLIN)
        self._ending = threading.Lock()  # guards _deadline, and the bell against being hushed once that is set
        self._deadline: Deadline | None = None
        self._framing = threading.Lock()  # guards _protocol
        self._sending = threading.RLock()  # guards the write side of _line; an RLock, for let_go
        self._heard = self._moved = time.monotonic()
        self._asked: float | None = None
        self._pings = (0, self._heard)
        self._read_bytes = READ_BYTES
        self._message = bytearray()
        self._greeting = deque([b"".join(protocol.data_to_send())])
        self._ping: deque[bytes] = deque(maxlen=1)
        self._pong: deque[bytes] = deque(maxlen=1)
        self._goodbye = b""
        self._posted = self._busy = False
        self._closing: frames.Closing | None = None
        self._flaw: frames.Flaw | None = None
        self._why = ""
        self._broken: OSError | None = None
        self._parting = self._said_goodbye = False

    def greet(self) -> None:
        """Send the answer to the upgrade; whoever writes first would do it otherwise."""
        self._write_now()

    # -- reading, on the reader thread --------------------------------------------------------------------------------

    def read(self) -> Sequence[bytes]:
        """Wait for at least one message; an empty answer is the end.

        Raises:
            RemoteProtocolError: The client broke the protocol.
            MessageTooLarge: It sends a message over the limit.
        """
        while self._deadline is None and not self._ended:
            chunk = self._rest or self._next_chunk()
            self._rest = b""
            messages = self._sorted(self._fed(chunk)) if chunk else []
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
        blocked = self._line.blocked
        self._poll.modify(self._line.fileno(), self._events(blocked))
        ready = dict(self._poll.poll(min(self._patience(blocked), POLL_SECONDS) * 1000))
        if self._bell.fileno() in ready and self._is_over():
            return b""
        if blocked or not ready:
            self._look_at_clock()
        happened = ready.get(self._line.fileno(), 0)
        if happened & select.POLLOUT:
            self._write_soon()
        return self._received() if happened & ~select.POLLOUT else b""

    def _events(self, blocked: bool) -> int:
        """Return what to wait for: also for room, where something is left to be written and nobody is about to."""
        left = blocked and not self._posted and not self._busy
        return select.POLLIN | select.POLLOUT if left else select.POLLIN

    def _is_over(self) -> bool:
        """Tell whether the bell rings for the end; if not, hush it."""
        with self._ending:
            if self._deadline is None:
                self._bell.hush()
            return self._deadline is not None

    def _received(self) -> bytes:
        try:
            chunk = self._line.read(self._read_bytes)
        except BlockingIOError:
            return b""
        except OSError as error:
            self._broken, self._why = error, "broke"
            return b""
        if not chunk:
            self._why = "ended without a close frame"
            return b""
        self._read_bytes = READ_BYTES if len(chunk) < self._read_bytes else LARGE_READ_BYTES
        self._heard, self._asked = time.monotonic(), None
        return chunk

    def _fed(self, chunk: bytes) -> list[Any]:
        """Return the frames that a chunk completes."""
        with self._framing:
            self._protocol.receive_data(chunk)
            found = self._protocol.events_received()
            wanted = self._protocol.data_to_send()
            self._take_note(self._protocol.parser_exc)
        self._put_down(wanted)
        return found

    def _sorted(self, found: list[Frame]) -> list[bytes]:
        """Return the messages, and take note of all else."""
        messages: list[bytes] = []
        pings = 0
        for frame in found:
            if frame.opcode == frames.PING:
                pings += 1
            elif frame.opcode == frames.CLOSE:
                closing = self._protocol.close_rcvd
                self._closing = frames.Closing(closing.code, closing.reason) if closing else None
            elif frame.opcode != frames.PONG and not self._joined(frame, messages):
                return messages
        if pings and self._too_many(pings):
            self._fail(frames.Flaw(frames.POLICY, f"more than {PINGS_PER_SECOND} pings in a second"))
        return messages

    def _joined(self, frame: Frame, messages: list[bytes]) -> bool:
        """Put a frame to those before it, and a whole message to the others; False: it must not be."""
        if frame.opcode == frames.BINARY:
            self._fail(frames.Flaw(frames.UNSUPPORTED, "a binary message: only text is MCP"))
            return False
        if frame.fin and not self._message:
            whole = bytes(frame.data)
        else:
            self._message += frame.data
            if not frame.fin:
                return True
            whole, self._message = bytes(self._message), bytearray()
        if not _is_text(whole):
            self._fail(frames.Flaw(frames.NO_TEXT, "a text that is not UTF-8"))
            return False
        messages.append(whole)
        return True

    def _fail(self, flaw: frames.Flaw) -> None:
        """Have the protocol refuse all that follows."""
        with self._framing:
            self._protocol.fail(flaw.code, flaw.why)
            wanted = self._protocol.data_to_send()
        self._flaw = self._flaw or flaw
        self._put_down(wanted)

    def _take_note(self, broken: Exception | None) -> None:
        """Keep what the protocol found wrong, in our words where it knows too much."""
        sent = self._protocol.close_sent
        if broken is None or sent is None or self._flaw is not None:
            return
        if sent.code == frames.TOO_BIG:
            self._flaw = frames.Flaw(sent.code, f"a message over max_message_size, which is {self._limit}")
        else:
            self._flaw = frames.Flaw(sent.code, sent.reason or "what cannot be read")

    def _too_many(self, pings: int) -> bool:
        count, since = self._pings
        now = time.monotonic()
        self._pings = (count + pings, since) if now - since < 1.0 else (pings, now)
        return self._pings[0] > PINGS_PER_SECOND

    def _put_down(self, wanted: list[bytes]) -> None:
        """Keep frames that the protocol wants sent; of pongs the newest."""
        for frame in wanted:
            opcode = frame[0] & 0x0F if frame else None  # b"" asks to end the connection; that comes by itself
            if opcode == frames.PONG:
                self._pong.append(frame)
            elif opcode == frames.PING:
                self._ping.append(frame)
            elif opcode == frames.CLOSE:
                self._goodbye = frame
        if self._ping or self._pong:
            self._write_soon()

    # -- whether anybody is there -------------------------------------------------------------------------------------

    def _patience(self, blocked: bool) -> float:
        """Return the seconds until the clock has to be looked at."""
        return max(0.0, min(self._next_ping(), self._doomsday(blocked)) - time.monotonic())

    def _next_ping(self) -> float:
        interval = self._keepalive.interval
        return float("inf") if interval is None or self._asked is not None else self._heard + interval

    def _doomsday(self, blocked: bool) -> float:
        """Return when the client counts as lost if nothing comes, and nothing goes."""
        timeout = self._keepalive.timeout
        silent = float("inf") if self._asked is None or timeout is None else self._asked + timeout
        return min(silent, self._moved + (timeout or STALLED_SECONDS)) if blocked else silent

    def _look_at_clock(self) -> None:
        """Ask whether the client is there, or give it up."""
        blocked = self._line.blocked  # looked at now, and before the clock: the outlet may be at it, for a moment
        now = time.monotonic()
        if now >= self._doomsday(blocked):
            silent, stuck = now - self._heard, now - self._moved
            doing = f"reads nothing: {stuck:.1f} s" if blocked and stuck > silent else f"is silent: {silent:.1f} s"
            self._why = f"{doing} (ping_timeout)"
        elif now >= self._next_ping():
            self._asked = now
            with self._framing:
                self._protocol.send_ping(os.urandom(4))
                wanted = self._protocol.data_to_send()
            self._put_down(wanted)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write one message; what was left half written goes first."""
        whole = self._framed(data)
        try:
            if not self._sending.acquire(timeout=deadline.remaining):
                raise MCPTimeoutError("another frame is still being written", may_have_run=False)
            try:
                self._busy = True
                self._flush_left(deadline)
                self._put_controls()
                self._write_message(whole, deadline)
            finally:
                self._busy = False
                self._sending.release()
        except BaseException as error:
            if not isinstance(error, MCPError):
                let_go(self._sending)
            if self._line.blocked:
                self._bell.ring()  # the reader sees that there is something left, and to it that it goes on
            raise
        if self._ping or self._pong:
            self._write_soon()

    def _framed(self, data: bytes) -> bytes:
        with self._framing:
            if self._protocol.state.name != "OPEN":
                raise MCPConnectionError(f"the connection to {self.name} is closing", may_have_run=False)
            self._protocol.send_text(data)
            return b"".join(self._protocol.data_to_send())

    def _write_message(self, whole: bytes, deadline: Deadline) -> None:
        try:
            self._put(whole)
            self._flush(deadline)
        except BaseException as error:
            if not self._line.take_back() and isinstance(error, MCPTimeoutError):
                raise MCPTimeoutError("the client reads no more, in the middle of the message") from error
            raise

    def _put(self, whole: bytes) -> None:
        if not self._line.blocked:
            self._moved = time.monotonic()
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
        while not self._pushed():
            self._await_room(deadline, wake)

    def _await_room(self, deadline: Deadline, wake: bool) -> None:
        doing = "the client does not read"
        while not await_line(self._line, select.POLLOUT, deadline, doing, self._bell.fileno() if wake else -1):
            if self._deadline is not None:
                raise MCPConnectionError(f"the connection to {self.name} is closed")
            try:  # it rings for the reader, who is about to hush it
                await_line(self._line, select.POLLOUT, deadline.sooner(RINGING_SECONDS), doing)
                return
            except MCPTimeoutError:
                if deadline.expired:
                    raise

    def _pushed(self) -> bool:
        """Write what is possible at once; True: that was all."""
        before = self._line.unsent
        try:
            return self._line.flush()
        except OSError as error:
            raise self._broken_by(error) from error
        finally:
            if self._line.unsent != before:
                self._moved = time.monotonic()

    def _broken_by(self, error: OSError) -> MCPConnectionError:
        """Let the reader see that nothing can be written any more, and return what the writer is to raise."""
        self._line.shut_down()
        return MCPConnectionError(f"the connection to {self.name} is broken ({error.strerror or type(error).__name__})")

    def _put_controls(self) -> None:
        """Have what was put down written; under ``_sending``, when nothing is half written."""
        for waiting in (self._greeting, self._ping, self._pong):
            while waiting:
                self._put(waiting.popleft())

    # -- on the outlet ------------------------------------------------------------------------------------------------

    def _write_soon(self) -> None:
        """Have what waits written by the outlet, as far as that is possible at once."""
        if not self._posted:
            self._posted = True
            if not self._outlet.offer(self._write_now):
                self._posted = False

    def _write_now(self) -> None:
        self._posted = False
        if not self._sending.acquire(blocking=False):  # who has it looks for more when it is done
            return
        try:
            if not self._parting:
                self._flush_left(Deadline(0.0), wake=False)
                self._put_controls()
                self._pushed()
        except MCPError:
            pass  # there is no room yet; or it is broken, of which the reader hears by itself
        finally:
            self._sending.release()
        if self._line.blocked:
            self._bell.ring()
        elif (self._ping or self._pong) and not self._parting:  # put down meanwhile
            self._write_soon()

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self, deadline: Deadline) -> None:
        """Wake whoever reads or writes; saying goodbye has until the deadline, at most CLOSE_SECONDS."""
        seconds = CLOSE_SECONDS if self._flaw is None else FLAWED_SECONDS
        ours = deadline.sooner(min(deadline.remaining * 0.8, seconds))
        with self._ending:
            if self._deadline is None or ours.at < self._deadline.at:
                self._deadline = ours
        self._bell.ring()

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended."""
        if self._closing is not None:
            text = f"{self.name} closed the connection with {self._closing}"
        elif self._broken is not None:
            why = self._broken.strerror or type(self._broken).__name__
            text = f"the connection to {self.name} broke: {why}"
        else:
            text = f"{self.name} {self._why}"
        error = MCPConnectionError(text, details=self.explain())
        error.__cause__ = self._broken
        return error

    def _flawed(self, flaw: frames.Flaw) -> MCPError:
        if flaw.code == frames.TOO_BIG:
            return MessageTooLarge(f"{self.name} sends {flaw.why}", details={**self.explain(), "limit": self._limit})
        return RemoteProtocolError(f"{self.name} breaks the rules of WebSocket: {flaw.why}", details=self.explain())

    def explain(self) -> dict[str, Any]:
        """Return what is known of the connection: subprotocol; code and reason of the end."""
        details: dict[str, Any] = {"client": self.name, "subprotocol": self._protocol.subprotocol}
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
        self._parting = True
        patience = Deadline(self._deadline.remaining / 2)
        if self._why or not self._sending.acquire(timeout=patience.remaining):
            return
        try:
            self._flush_left(patience, wake=False)
            self._put_controls()
            self._put(self._last_words())
            self._flush(patience, wake=False)
            self._said_goodbye = True
        except MCPError:
            pass  # then it goes without
        finally:
            self._sending.release()

    def _last_words(self) -> bytes:
        if not self._goodbye:
            with self._framing:
                self._protocol.send_close(frames.GOING_AWAY)
                return b"".join(self._protocol.data_to_send())
        return self._goodbye

    def finish(self) -> None:
        """Wait a moment for the client's close frame and its end of the connection; then close everything."""
        assert self._deadline is not None
        if self._said_goodbye:
            while not (self._closing or self._flaw) and self._hears_out(self._deadline):
                pass
            self._line.say_goodbye()
            parting = self._deadline if self._flaw else self._deadline.sooner(PARTING_SECONDS)
            while self._hears_out(parting):
                pass
        self._sending.acquire(timeout=PARTING_SECONDS)  # the outlet may be at it, for a moment; it is over anyway
        self._line.close(rudely=not (self._closing or self._why))  # or who never reads would never hear of it
        self._bell.close()
        self._gone()

    def _hears_out(self, patience: Deadline) -> bool:
        """Read and drop what still comes; False: that was all, or the time is over."""
        try:
            await_line(self._line, select.POLLIN, patience, "the client does not end the connection")
            chunk = self._line.read(READ_BYTES)
        except BlockingIOError:
            return not patience.expired
        except (OSError, MCPTimeoutError):
            return False
        if chunk and not (self._closing or self._flaw):
            self._sorted(self._fed(chunk))
        return bool(chunk) and not patience.expired

    def disown(self) -> None:
        """In a forked child: close our copies of the descriptors; the connection is the parent's."""
        self._line.disown()
        self._bell.disown()


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
