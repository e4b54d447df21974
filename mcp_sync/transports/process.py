"""A child process as a Pipe: one message to a line on its stdin and stdout, its stderr drained.

One thread, the reader, owns all descriptors: it waits in one ``poll`` for stdout, stderr, the process's end and a wake
pipe, it alone closes descriptors, and it ends the process. Everybody else only writes to stdin, under the channel's
lock, or rings the wake pipe. So nothing is closed under somebody's feet, and output is drained to the last moment.

Source: basic/transports/stdio; basic/lifecycle (shutdown).
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..deadlines import Deadline
from ..engine.channel import Pipe, last_words
from ..engine.dispatch import reaper
from ..exceptions import MCPConnectionError, MCPTimeoutError, MessageTooLarge, TooManyRequests
from ..observe import Feed, Ignored, LimitExceeded, ProcessEnded, Trouble
from ..policies import Monitoring, Shutdown
from ..protocol.framing import LineSplitter, Overlong
from .asides import Asides
from .monitoring import Excess, Watch

POLL_SECONDS = 3600.0
"""How long one poll may take; its argument is a C int of milliseconds."""
READ_BYTES = 65536
PIPE_BYTES = 1 << 20
"""The most a pipe holds, unless its reader is privileged (fcntl(2), F_SETPIPE_SZ)."""
ENDLESS_FACTOR = 4
"""A line so many times longer than the limit is given up on: it may never end."""
VERDICT_SECONDS = 0.3
"""How long the end of the process is waited for after the end of its stdout, to know the exit status."""
KILLED_SECONDS = 1.0
"""How long a killed process is waited for at least, or it would stay a zombie."""
BURIALS, BURIAL_SECONDS = 60, 1.0
"""How often it is looked for after that, in the background, and how long after each other."""
PATIENCE_SHARE = 0.8
"""Share of the time to shut down after which the process is killed; half of it passes before SIGTERM."""

_WAITING = object()


class Outgoing:
    """A message on its way, which at any moment knows how far it has come.

    Attributes:
        size: Its bytes.
    """

    __slots__ = ("_data", "_sent", "size")

    def __init__(self, data: bytes = b"") -> None:
        self.size = len(data)
        self._data = data
        self._sent: list[int] = []

    @property
    def sent(self) -> int:
        """How many bytes were written."""
        return sum(self._sent)

    def write_to(self, descriptor: int) -> bool:
        """Write what is possible at once; True: that was the rest. Raises as os.write does."""
        # One call for the interpreter: Ctrl-C cannot come between writing and taking note of how much was written.
        self._sent.extend(map(os.write, (descriptor,), (self._rest() if self._sent else self._data,)))
        return sum(self._sent) == self.size

    def write_by(self, send: Callable[[bytes | memoryview], int]) -> None:
        """Write what is possible at once by a function, ``socket.send``; raises as that does."""
        self._sent.extend(map(send, (self._rest(),)))

    def _rest(self) -> memoryview:
        return memoryview(self._data)[self.sent :]


class ChildPipe(Pipe):
    """Lines to and from a child process.

    Threads: the channel's reader runs ``read``, ``epitaph`` and ``finish``.
    Locks: ``_ending`` is held for a few instructions; writing to ``_ring`` does not wait.

    What a watch finds is only noted, by its thread: it is the reader that ends the process.

    Args:
        process: The child, just started, in a session of its own; its three streams are pipes without buffers.
        name: For people; without secrets.
        limit: The longest line in bytes.
        shutdown: How to end it.
        secrets: What must not be shown of its output.

    Attributes:
        feed: Where events go.
        asides: What it says beside its messages.
    """

    kind = "stdio"
    lends = True

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        name: str,
        limit: int,
        shutdown: Shutdown,
        secrets: Sequence[str] = (),
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.name = name
        self.feed = Feed()
        self._process = process
        self._pid = process.pid
        self._shutdown = shutdown
        self.asides = Asides(secrets)
        self._stdin, self._stdout, self._stderr = (
            stream.fileno() for stream in (process.stdin, process.stdout, process.stderr)
        )
        for descriptor in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(descriptor, False)
        self._wake, self._ring = os.pipe()
        for descriptor in (self._wake, self._ring):
            os.set_blocking(descriptor, False)
        self._paused = False
        self._pidfd = _open_pidfd(self._pid)
        self._ending = threading.Lock()  # guards _deadline, _ring
        self._deadline: Deadline | None = None
        self._lines = LineSplitter(limit)
        self._came: list[bytes] = []  # read, and not yet cut into lines
        self._outgoing: Outgoing | None = None
        self._status: Any = _WAITING
        self._since, self._lived = time.monotonic(), 0.0
        self._watch: Watch | None = None
        self._excess: Excess | None = None
        self._endless = False
        self._last_reads = PIPE_BYTES // READ_BYTES
        self._poll = select.poll()
        for descriptor in (self._stdout, self._stderr, self._wake, self._pidfd):
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)
        self._stdout_watched = True
        # Ctrl-C may come where nobody has this yet who would finish it.
        self._lost = weakref.finalize(self, discard, process, self._wake, self._ring, self._pidfd)
        self._lost.atexit = False

    # -- reading, on the reader thread --------------------------------------------------------------------------------

    def read(self) -> Sequence[bytes | Overlong]:
        """Wait for at least one line; an empty answer is the end of stdout, or of the process."""
        lines, ended = self._cut()
        if lines or ended:
            return lines
        while self._deadline is None and not self._endless and self._excess is None:
            self._watch_stdout(not self._paused)
            ready = self._wait(None if self._pidfd >= 0 else 1.0)
            if self._stderr in ready:
                self._drain_stderr()
            if self._pidfd in ready or (self._stdout not in ready and self._has_ended()):
                self._watch_stdout(True)  # paused or not: it is little, and then comes the end
                return self._last_lines()  # a grandchild may hold stdout open for ever
            if self._stdout in ready:
                lines, ended = self._read_stdout()
                if lines:
                    return lines
                if ended:
                    return []
        if self._endless:
            details = {**self.explain(), "limit": self._lines.limit}
            self.feed.emit(Trouble(self.name, "connection_lost", dict(details)))
            raise MessageTooLarge(
                f"{self.name} sends a line without end: more than {ENDLESS_FACTOR} times max_message_size, "
                f"which is {self._lines.limit} bytes",
                details=details,
            )
        return []

    def _wait(self, seconds: float | None) -> set[int]:
        ready = {descriptor for descriptor, _ in self._poll.poll(None if seconds is None else seconds * 1000)}
        if self._wake in ready:
            try:
                os.read(self._wake, READ_BYTES)
            except BlockingIOError:
                pass
        return ready

    def _watch_stdout(self, wanted: bool) -> None:
        if wanted and not self._stdout_watched:
            self._poll.register(self._stdout, select.POLLIN)
        elif self._stdout_watched and not wanted:
            self._poll.unregister(self._stdout)
        self._stdout_watched = wanted

    def pause(self) -> bool:
        """Leave stdout alone, but drain stderr and notice the process's end. By any thread."""
        self._paused = True
        return True

    def resume(self) -> None:
        """Read stdout again. By any thread."""
        if not self._paused:
            return
        self._paused = False
        self._rouse()

    def _rouse(self) -> None:
        """Make the reader look around."""
        with self._ending:
            if self._ring >= 0:
                try:
                    os.write(self._ring, b"!")
                except BlockingIOError:
                    pass  # the reader has been woken so often that it will not miss it

    def _read_stdout(self) -> tuple[list[bytes | Overlong], bool]:
        try:
            self._came.append(os.read(self._stdout, READ_BYTES))
        except BlockingIOError:
            return [], False
        except OSError:
            self._came.append(b"")
        return self._cut()

    def _cut(self) -> tuple[list[bytes | Overlong], bool]:
        """Return the lines in what has come, and whether that is the end."""
        lines: list[bytes | Overlong] = []
        while self._came:
            chunk = self._came.pop(0)
            if not chunk:
                rest = self._lines.flush().strip()
                return ([*lines, rest] if rest.endswith(b"}") else lines), True
            lines += self._lines.feed(chunk)
        self.asides.take_stdout(lines)
        self._endless = self._lines.skipped > ENDLESS_FACTOR * self._lines.limit
        return lines, False

    # -- reading in small steps, by whoever has the seat --------------------------------------------------------------

    def fetch(self, seconds: float) -> bool:
        """Wait so long for bytes from stdout alone; False: none came, or there is something else to see to."""
        if self._paused or self._deadline is not None or self._excess is not None:
            return False
        longest = POLL_SECONDS if self._pidfd >= 0 else 1.0  # then ``read`` looks whether the process has ended
        ready = self._poll.poll(min(seconds, longest) * 1000)
        if len(ready) != 1 or ready[0][0] != self._stdout:
            return False
        try:
            # One call for the interpreter: Ctrl-C cannot come between reading and keeping what was read.
            self._came.extend(map(os.read, (self._stdout,), (READ_BYTES,)))
        except OSError:
            return False
        return bool(self._came[-1])

    def whole(self) -> bytes | None:
        """Return what was fetched, if it is one line that ends there."""
        if not self._came or not self._came[-1].endswith(b"\n") or not self._lines.idle:
            return None
        if len(self._came) > 1:
            self._came[:] = [b"".join(self._came)]  # in one step, as ever; it makes room, too
        line = self._came[0]  # the line end may stay: it is JSON, too
        is_one = line.startswith(b"{") and line.find(b"\n") == len(line) - 1
        return line if is_one and len(line) <= self._lines.limit else None

    def partial(self) -> bool:
        """Whether what was fetched is the beginning of one line, and not more than may be kept."""
        if not self._came or not self._lines.idle or b"\n" in self._came[-1]:
            return False
        return len(self._came) * READ_BYTES <= self._lines.limit

    def taken(self) -> None:
        """Forget what was fetched."""
        self._came.clear()

    def cut(self) -> Sequence[bytes | Overlong]:
        """Return the lines in what was fetched."""
        return self._cut()[0]

    def is_over(self) -> bool:
        """Whether the process has ended, or closed its stdout."""
        ready = self._poll.poll(0)
        return any(descriptor == self._pidfd or event & select.POLLHUP for descriptor, event in ready)

    def _last_lines(self) -> list[bytes | Overlong]:
        """Return what the process wrote before it ended: no more than a pipe holds; what follows is a grandchild's."""
        lines: list[bytes | Overlong] = []
        ended = False
        while not ended and self._last_reads > 0 and self._stdout in self._wait(0):
            self._last_reads -= 1
            more, ended = self._read_stdout()
            lines += more
        if lines:
            return lines
        rest = self._lines.flush().strip()
        return [rest] if rest.endswith(b"}") else []

    def _drain_stderr(self) -> None:
        try:
            chunk = os.read(self._stderr, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._poll.unregister(self._stderr)
            self.asides.end_stderr()
            return
        self.asides.take_stderr(chunk)

    def masked(self, raw: bytes) -> bytes:
        """Return what it wrote without the secrets in its environment."""
        return self.asides.masked(raw)

    # -- writing, under the channel's lock ----------------------------------------------------------------------------

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Write one line. What a message before it left half written goes first, so lines are never torn."""
        if self._outgoing is not None:
            self._write_rest(self._outgoing, deadline)
        self._outgoing = message = Outgoing(data + b"\n")
        try:
            self._write_rest(message, deadline)
        except BaseException as error:
            if not message.sent:
                self._outgoing = None
            elif isinstance(error, MCPTimeoutError):
                text = f"{message.sent} of {message.size} bytes written, the server reads no more"
                raise MCPTimeoutError(text) from error
            raise

    def _write_rest(self, message: Outgoing, deadline: Deadline) -> None:
        while True:
            try:
                if message.write_to(self._stdin):
                    break
            except BlockingIOError:
                self._await_room(deadline)
            except OSError as error:
                self._outgoing = None
                if self._excess is not None:  # it has just been killed, and the reader has not said so yet
                    raise MCPConnectionError(f"{self.name} {self._fate()}", details=self.explain()) from error
                raise MCPConnectionError(f"the server's stdin is closed ({os.strerror(error.errno or 0)})") from error
        self._outgoing = None

    def _await_room(self, deadline: Deadline) -> None:
        room = select.poll()
        room.register(self._stdin, select.POLLOUT)
        room.register(self._wake, 0)  # hung up, for ever, once the pipe is to end
        ready = {descriptor for descriptor, _ in room.poll(min(deadline.remaining, POLL_SECONDS) * 1000)}
        if self._wake in ready:
            raise MCPConnectionError("the connection is closed")
        if not ready and deadline.expired:
            raise MCPTimeoutError("the server does not read its stdin", may_have_run=False)

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self, deadline: Deadline) -> None:
        """Wake whoever reads or writes; the process has until the deadline, at most ``shutdown_timeout``."""
        with self._ending:
            ours = deadline.sooner(min(deadline.remaining, self._shutdown.seconds) * PATIENCE_SHARE)
            if self._deadline is None or ours.at < self._deadline.at:
                self._deadline = ours
            ring, self._ring = self._ring, -1
        if ring >= 0:
            self._lost.detach()  # whoever hangs up sees to the rest
            os.close(ring)

    def watch(self, limits: Monitoring) -> None:
        """Have the process, and all that it starts, watched, and ended if it uses too much."""
        self._watch = Watch(self._pid, limits, self._exceeded)
        self._watch.begin()

    def _exceeded(self, excess: Excess) -> None:
        self._excess = excess
        self.feed.emit(LimitExceeded(self.name, excess.resource, excess.limit, excess.value))
        self._rouse()

    def _put_down(self) -> None:
        """Kill the process and all that it started; by the reader, so its number is still its own."""
        if self._watch is not None:
            self._watch.tree.kill()
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except OSError:
            pass  # gone already

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended, after a moment in which the process may end too."""
        if self._excess is not None:
            self._put_down()
        patience = Deadline(VERDICT_SECONDS)
        while not self._has_ended() and not patience.expired:
            self._idle(min(0.01, patience.remaining))
        while self._stderr in self._wait(0) and not patience.expired:
            self._drain_stderr()
        details = self.explain()
        self.feed.emit(Trouble(self.name, "connection_lost", dict(details)))
        return MCPConnectionError(f"{self.name} {self._fate()}{last_words(details)}", details=details)

    def _fate(self) -> str:
        if self._excess is not None:
            return self._excess.fate
        if self._status is _WAITING:
            return "closed its stdout, though it is still running"
        if self._status is None:
            return "ended; its exit status is unknown, because something else collected it"
        if self._status < 0:
            return f"was killed by signal {-self._status} ({_signal_name(-self._status)})"
        return f"ended with exit status {self._status}"

    def explain(self) -> dict[str, Any]:
        """Return what is known of the process: pid, exit_status, the last lines of stderr, noise on stdout."""
        details: dict[str, Any] = {"command": self.name, "pid": self._pid, **self.asides.explain()}
        if self._status is not _WAITING:
            details["exit_status"] = self._status
            details["lived"] = round(self._lived, 3)
        if self._watch is not None and self._watch.usage is not None:
            details.update(self._watch.usage.details())
        if self._excess is not None:
            details.update(resource=self._excess.resource, limit=self._excess.limit, value=self._excess.value)
        return details

    def end_writing(self) -> None:
        """Close the child's stdin, which asks it to end."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.close()
        except OSError:
            pass  # the process is gone already

    def finish(self) -> None:
        """End the process, and the rest of its group; then close everything."""
        self.hang_up(Deadline(self._shutdown.seconds))
        if self._watch is not None:
            self._watch.end()
        self._poll.unregister(self._wake)
        self._watch_stdout(True)  # it may be blocked on that
        self._climb_down()
        if self._shutdown.tree:
            self._signal(signal.SIGKILL)  # the leader is not reaped yet, so the group's number is still its own
        self._drain_last_words()
        self._reap()
        self._close_all()
        if self.asides.dropped:
            self.feed.emit(Ignored(self.name, f"{self.asides.dropped} lines of stderr, taken too slowly"))
        self.feed.emit(ProcessEnded(self.name, self._pid, self._status))

    def _drain_last_words(self) -> None:
        """Take what stderr still holds: no more than a pipe does, for a descendant that escaped may go on writing."""
        for _ in range(PIPE_BYTES // READ_BYTES):
            if self._stderr not in self._wait(0):
                return
            self._drain_stderr()

    def _climb_down(self) -> None:
        """Give the process time to go by itself, then SIGTERM, then SIGKILL (basic/lifecycle, shutdown)."""
        assert self._deadline is not None
        if self._outlives(Deadline(self._deadline.remaining / 2)):
            self._signal(signal.SIGTERM)
            if self._outlives(self._deadline):
                self._signal(signal.SIGKILL)
                self._outlives(Deadline(max(self._shutdown.seconds, KILLED_SECONDS)), killed=True)

    def _outlives(self, patience: Deadline, killed: bool = False) -> bool:
        """Wait for the process to end, draining its output: it may be blocked on that."""
        assert self._deadline is not None
        while not self._has_ended():
            if patience.expired or (self._deadline.expired and not killed):  # close() may bring the deadline forward
                return True
            self._idle(min(0.02, patience.remaining))
        return False

    def _idle(self, seconds: float) -> None:
        ready = self._wait(seconds)
        if self._stderr in ready:
            self._drain_stderr()
        if self._stdout in ready:
            try:
                gone = not os.read(self._stdout, READ_BYTES)
            except OSError:
                gone = False
            if gone:
                self._watch_stdout(False)

    def _signal(self, number: signal.Signals) -> None:
        try:
            if self._shutdown.tree:
                os.killpg(self._pid, number)
            elif not self._has_ended():
                os.kill(self._pid, number)
        except OSError:
            pass  # gone already; or, on macOS, a group of nothing but zombies

    def _has_ended(self) -> bool:
        """Tell whether the process has ended, and learn its status; it stays a zombie until ``_reap``."""
        if self._status is _WAITING:
            try:
                self._status = _status_of(self._pid)
            except ChildProcessError:
                self._status = None  # SIGCHLD is ignored, or somebody waits for every child: 0 would be a guess
            if self._status is not _WAITING:
                self._lived = time.monotonic() - self._since
        return self._status is not _WAITING

    def _reap(self) -> None:
        _bury(self._pid, BURIALS)
        self._process.returncode = self._status if isinstance(self._status, int) else 0  # Popen need not look again

    def _close_all(self) -> None:
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        descriptors = (self._wake, self._pidfd)
        self._wake = self._pidfd = -1  # first: a forked child must not close what has these numbers by then
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def disown(self) -> None:
        """In a forked child: close our copies of the descriptors; the process is the parent's."""
        self._lost.detach()
        self._process.returncode = 0
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        for descriptor in (self._wake, self._ring, self._pidfd):
            if descriptor >= 0:
                _close_quietly(descriptor)
        self._ring = -1


def start(argv: Sequence[str], cwd: str | None, env: dict[str, str], name: str) -> subprocess.Popen[bytes]:
    """Start a child process in a session of its own, with three pipes and no other descriptor of ours.

    Raises:
        MCPConnectionError: It cannot be started; the text says what to try.
    """
    try:
        if sys.version_info < (3, 12):
            _check_room()
        return subprocess.Popen(
            list(argv),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=env,
            start_new_session=True,
            close_fds=True,
        )
    except OSError as error:
        raise not_started(error, argv[0], cwd, name) from error


def not_started(error: OSError, program: str, cwd: str | None, name: str) -> MCPConnectionError:
    """Return the error that says why a process could not be started, and what to try."""
    details = {"transport": "stdio", "command": name, "phase": "connect", "errno": error.errno}
    text = f"cannot start {name}: {_advice(error, program, cwd)}"
    return MCPConnectionError(text, details=details, may_have_run=False)


def _check_room() -> None:
    """Raise what Popen would, but leave nothing behind: before 3.11.5 it forgets the pipes it had made by then."""
    room: list[int] = []
    try:
        for _ in range(4):  # three for the streams, and one for the child to say that it could not start
            room += os.pipe()
    finally:
        for descriptor in room:
            os.close(descriptor)


def discard(child: subprocess.Popen[bytes], *descriptors: int) -> None:
    """End a child that was started and is of no use, and close what belongs to it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        pass  # gone already
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
    for descriptor in descriptors:
        if descriptor >= 0:
            _close_quietly(descriptor)
    child.wait()


def _advice(error: OSError, program: str, cwd: str | None) -> str:
    if cwd is not None and not os.path.isdir(cwd):
        return f"the working directory {cwd!r} does not exist or is not a directory"
    if isinstance(error, FileNotFoundError):
        if " " in program.strip() and os.path.sep not in program.split()[0]:
            return f"no program is called {program!r}; give the words as a list, or the program and args apart"
        if os.path.exists(program):
            return f"{program!r} exists, but not the interpreter that its first line names"
        return f"no program {program!r}; check the spelling and PATH, or give its full path"
    if isinstance(error, PermissionError):
        if os.path.isdir(program):
            return f"{program!r} is a directory"
        return f"{program!r} may not be executed; chmod +x it, or start its interpreter with it as an argument"
    if error.errno == errno.ENOEXEC:
        return f"{program!r} is not a program; its first line should name an interpreter (#!), or start that with it"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files; close what is not needed, or raise the limit (ulimit -n)"
    return os.strerror(error.errno) if error.errno else str(error)


def _status_of(pid: int) -> Any:
    """Return the exit status of a child, negative for a signal, or _WAITING while it runs.

    Where ``waitid`` is to be had it stays a zombie, so its number stays its own; macOS has that since Python 3.13.
    """
    if not hasattr(os, "waitid"):
        ended, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else _WAITING
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return _WAITING
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _bury(pid: int, tries: int) -> None:
    """Wait for a child that has been killed, or it would stay a zombie; where the kernel is slow, again and again."""
    try:
        ended, _ = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
    if not ended and tries:
        try:
            reaper.at(Deadline(BURIAL_SECONDS), partial(_bury, pid, tries - 1))
        except TooManyRequests:  # there can be no more threads
            pass


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _open_pidfd(pid: int) -> int:
    """Return a descriptor that becomes readable when the process ends; -1 where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _close_quietly(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass
