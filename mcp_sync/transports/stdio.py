"""stdio: a server that is a child process, spoken to over its stdin and stdout."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from ..deadlines import Deadline
from ..engine.channel import Channel, PipeChannel
from ..engine.connect import INTERRUPTED_SECONDS
from ..engine.dispatch import uninterrupted
from ..exceptions import MCPConnectionError, MCPTransportError
from ..observe import ProcessStarted
from ..policies import (
    Confinement,
    Limits,
    Monitoring,
    Policies,
    Restart,
    Shutdown,
    Surroundings,
    encodable,
    gather,
    variables,
    with_knobs,
)
from ..protocol.redact import redact_command, secrets_of
from . import confining, monitoring, process
from .outlet import Outlet, line_writer
from .restarting import RestartingTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack

KINDS = (Limits, Shutdown, Surroundings, Restart, Monitoring, Confinement)

SAFE_VARIABLES = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""Variables of our environment that a server gets unless told otherwise; no secrets are kept in these."""


SHOWN_OF_A_WORD = 100
"""Characters of each word of the command that are shown in errors."""


class StdioKnobs(TypedDict, total=False):
    """Keywords of StdioTransport beside those in its signature."""

    max_message_size: int
    max_pending_messages: int
    max_backlog: int
    max_concurrent_callbacks: int
    shutdown_timeout: float
    kill_tree: bool
    environment_filter: Sequence[str] | None
    environment_additions: Mapping[str, str]
    max_restarts: int
    restart_delay: float
    enable_process_monitoring: bool | None
    memory_limit_mb: float | None
    cpu_limit_percent: float | None
    restrict_filesystem: bool
    allowed_paths: Sequence[str | os.PathLike[str]] | None


@with_knobs(*KINDS)
class StdioTransport(RestartingTransport):
    """Reaches a server by starting it as a child process (basic/transports/stdio).

    The child gets a session of its own, three pipes, no other descriptor, and an environment of safe variables.
    Disconnecting closes its stdin, waits, sends SIGTERM, waits, sends SIGKILL, to its whole process group; a
    descendant that made a session of its own escapes this. What it writes to stderr is always drained; the end of it
    is in the ``details["stderr"]`` of errors. Lines on stdout that are no messages are skipped and reported to
    observers.

    **Restarts.** ``max_restarts=3``: a server that has ended by itself is started again by the next call, at once; one
    that goes on ending, after ``restart_delay`` seconds (default 1), after twice that ... up to 30. Calls that were
    under way fail at once, with its exit status and the end of its stderr, and are never repeated. After so many
    restarts in a row every call fails, and names the last cause; once it has lived for a minute, a new row begins.
    Where what is left of a call's timeout is shorter than the pause, the call fails at once.

    **Limits.** ``memory_limit_mb=512``, ``cpu_limit_percent=80``: what the server and all that it starts use together
    is looked at once a second (psutil: the extra ``[monitor]``). If that is more resident memory, in MiB, or more of
    one processor on average over five seconds, then ``on_process_event`` is told ``resource_limit_exceeded``, all those
    processes are killed, and calls that wait fail with an error that names the limit and the value. After that it is a
    server that has ended. What is shared by several processes counts for each. ``enable_process_monitoring=True``
    without a limit only adds ``memory_mb``, ``cpu_percent`` and ``processes`` to the ``details`` of errors.

    **Files.** ``restrict_filesystem=True, allowed_paths=[...]``: the kernel (Landlock, Linux 6.2 or later) keeps the
    server, and all that it starts, from every file but these: the allowed paths, which may be read, written and
    executed; and, to be read and executed only, ``/usr``, ``/bin``, ``/sbin``, ``/lib*``, the loader's
    ``/etc/ld.so.cache`` and ``/etc/ld-musl-*.path``, ``/dev/null``, ``zero``, ``full``, ``random`` and ``urandom``,
    and the prefixes of our own interpreter. A server that writes to ``/dev/null``, or needs ``/tmp``, ``/etc/ssl``,
    ``/etc/resolv.conf`` or ``/proc`` (where it sees the command lines of others), has to be allowed that. Programs
    that are set-user-id run without it. Landlock has no say in what is known of a file (stat, chmod, chown, utime,
    extended attributes), nor in sockets. Where the kernel cannot do it, connecting fails; nothing is ever started
    unrestricted.

    POSIX only so far: the reader polls pipes, which Windows cannot.

    Args:
        command: The program, or the whole command as a list.
        args: Its arguments.
        env: Variables to set in the child's environment, beside those that are passed on.
        cwd: The directory to start it in; ``working_directory`` is another name for it.
        working_directory: See ``cwd``.
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        stderr: Where each line of its stderr goes: a function, a logging.Logger, or anything with ``write(str)``. It
            runs on a thread of its own, and gets the first 64 KiB of a line that is longer. If it is so slow that
            megabytes wait for it, lines are dropped; their number is in the ``details["stderr_dropped"]`` of errors,
            and in an ``Ignored`` event at the end.
        policies: Policies given whole, in place of the keywords below.
        **knobs: ``max_message_size`` (bytes of one message, default 16 MiB), ``max_pending_messages``,
            ``max_backlog``, ``max_concurrent_callbacks`` (``mcp_sync.policies.Limits``); ``shutdown_timeout`` (seconds,
            default 5), ``kill_tree`` (``Shutdown``); ``environment_filter`` (names of variables to pass on, in place
            of SAFE_VARIABLES), ``environment_additions`` (``Surroundings``); ``max_restarts``, ``restart_delay``
            (``Restart``); ``enable_process_monitoring``, ``memory_limit_mb``, ``cpu_limit_percent`` (``Monitoring``);
            ``restrict_filesystem``, ``allowed_paths`` (``Confinement``).

    Raises:
        TypeError: A keyword is misspelt or foreign, or a value has the wrong type.
        ValueError: A value is out of range, an allowed path does not exist, or two values contradict each other.
        ImportError: Monitoring needs psutil, and it is not installed.
    """

    transport_type: ClassVar[str] = "stdio"

    def __init__(
        self,
        command: str | os.PathLike[str] | Sequence[str],
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        working_directory: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        stderr: Any = None,
        policies: Sequence[Any] | None = None,
        **knobs: Unpack[StdioKnobs],
    ) -> None:
        super().__init__(timeout, _agreeing(gather(StdioTransport, KINDS, policies, knobs)))
        self.command = _argv(command, args)
        self.env = variables("env", env)
        self.cwd = _directory(cwd, working_directory)
        self._stderr = line_writer(stderr)

    @property
    def name(self) -> str:
        """The command, without secrets, on one line."""
        return " ".join(_short(word) for word in redact_command(self.command))

    def environment(self) -> dict[str, str]:
        """Return the environment that the child will have."""
        surroundings = self._policies[Surroundings]
        passed = SAFE_VARIABLES if surroundings.passed is None else surroundings.passed
        inherited = {name: os.environ[name] for name in passed if name in os.environ}
        return {**inherited, **surroundings.added, **self.env}

    def dial(self, deadline: Deadline) -> Channel:
        """Start the process.

        Raises:
            MCPConnectionError: It cannot be started.
            MCPTransportError: Not on this platform.
        """
        if sys.platform == "win32":
            raise MCPTransportError("stdio is not supported on Windows yet", may_have_run=False)
        return uninterrupted("mcp-start", self._start, lambda channel: channel.close(Deadline(INTERRUPTED_SECONDS)))

    def _start(self) -> Channel:
        environment = self.environment()
        child = self._child(environment)
        return self._channel_to(child, secrets_of(environment))

    def _child(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        confinement = self._policies[Confinement]

        def start() -> subprocess.Popen[bytes]:
            return process.start(self.command, self.cwd, environment, self.name)

        if not confinement.on:
            return start()
        try:
            return confining.confined(start, confinement, self.name)
        except MCPConnectionError as error:
            if error.details.get("errno") != errno.EACCES:
                raise
            text = f"cannot start {self.name}: {confining.outside(self.command[0], confinement.paths)}"
            raise MCPConnectionError(text, details=error.details, may_have_run=False) from error

    def _channel_to(self, child: subprocess.Popen[bytes], secrets: Sequence[str]) -> Channel:
        limits = self._policies[Limits]
        short = f"stdio-{child.pid}"
        try:
            pipe = process.ChildPipe(child, self.name, limits.message_size, self._policies[Shutdown], secrets)
        except BaseException as error:
            process.discard(child)
            if isinstance(error, OSError):  # too many open files, most likely
                raise process.not_started(error, self.command[0], self.cwd, self.name) from error
            raise
        channel = PipeChannel(pipe, limits, self._observers, threads=short)
        pipe.feed = channel.feed
        if self._stderr is not None:
            pipe.asides.outlet = Outlet(self._stderr, channel.events)
        channel.feed.emit(ProcessStarted(self.name, child.pid))
        if self._policies[Monitoring].wanted:
            try:
                pipe.watch(self._policies[Monitoring])
            except BaseException:
                channel.close(Deadline(INTERRUPTED_SECONDS))
                raise
        return channel


def _agreeing(policies: Policies) -> Policies:
    """Check what one policy alone cannot."""
    watching, confinement = policies[Monitoring], policies[Confinement]
    if watching.on is False and watching.wanted:
        raise ValueError("memory_limit_mb and cpu_limit_percent need enable_process_monitoring=True, or leave it out")
    if watching.wanted:
        monitoring.load()
    if confinement.paths is not None and not confinement.on:
        raise ValueError("allowed_paths restricts nothing without restrict_filesystem=True")
    return policies


def _argv(command: object, args: object) -> list[str]:
    words = [command] if isinstance(command, (str, os.PathLike)) else command
    if not isinstance(words, Sequence) or not words:
        raise TypeError(f"command must be a str or a list of str, not {type(command).__name__} ({command!r})")
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise TypeError(f"args must be a list of str, not {type(args).__name__} ({args!r})")
    argv = [os.fspath(word) if isinstance(word, os.PathLike) else word for word in (*words, *args)]
    for word in argv:
        if not isinstance(word, str):
            raise TypeError(f"command and args must hold only str, not {type(word).__name__} ({word!r})")
        encodable("command and args", word)
    if not argv[0]:
        raise ValueError("command must not be empty")
    return argv


def _short(word: str) -> str:
    """Return a word as it may stand in a sentence: a program given with ``-c`` would not end."""
    line = " ".join(word.split())
    return line if len(line) <= SHOWN_OF_A_WORD else f"{line[:SHOWN_OF_A_WORD]}..."


def _directory(cwd: object, working_directory: object) -> str | None:
    if cwd is not None and working_directory is not None:
        raise TypeError("give cwd or working_directory, not both: they mean the same")
    chosen = cwd if cwd is not None else working_directory
    if chosen is None:
        return None
    if not isinstance(chosen, (str, os.PathLike)):
        raise TypeError(f"cwd must be a path, not {type(chosen).__name__} ({chosen!r})")
    return encodable("cwd", os.fsdecode(chosen))


EnhancedStdioTransport = StdioTransport
