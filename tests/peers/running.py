"""Servers that others wrote, reached over HTTP: child processes, each on a port of its own, of which nothing stays."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from peers import install

HERE = Path(__file__).parent
PATIENCE = 20.0
PAUSE = 0.02  # seconds between two looks
PORTS = range(20_000, 32_000)  # below those that the system gives to clients

LEASH = '("$@"; kill -9 -$$) & read -r _; kill -9 -$$'
"""The shell that leads a server's process group: it ends all when the server does, or when we do, in whatever way."""

Command = Callable[[int], "list[str]"]
"""What starts a server on a port."""


def script(peer: str, binding: str = "http") -> Command:
    """What starts one of the servers in this folder, over ``http`` or ``sse``."""
    install.demand(peer)
    return lambda port: [install.python_of(peer), str(HERE / f"{peer}_server.py"), binding, str(port)]


def everything(binding: str) -> Command:
    """What starts server-everything, over ``streamableHttp`` or ``sse``; it takes its port from PORT."""
    command = install.command_of("server-everything")
    return lambda port: [*command, binding]


@dataclass
class Running:
    """A server that is running.

    Attributes:
        port: It listens there, on 127.0.0.1.
        process: The shell that leads the server's process group.
    """

    port: int
    process: subprocess.Popen[bytes]
    _output: Path
    _journal: Journal

    @property
    def origin(self) -> str:
        """The URL without its path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The MCP endpoint."""
        return f"{self.origin}/mcp"

    @property
    def output(self) -> list[str]:
        """The lines that it wrote to stdout and stderr so far; the Python ones write one for each HTTP request."""
        return self._output.read_text(errors="replace").splitlines()

    def mark(self) -> int:
        """Where its output ends now, for `since`."""
        return len(self.output)

    def since(self, mark: int, part: str) -> list[str]:
        """The lines that it wrote after a mark and that contain a text."""
        return [line for line in self.output[mark:] if part in line]

    def wait_for(self, part: str, mark: int = 0, times: int = 1) -> list[str]:
        """Return the lines that contain a text once there are so many of them; fails when they do not come."""
        until(lambda: len(self.since(mark, part)) >= times)
        found = self.since(mark, part)
        assert len(found) >= times, f"{part!r} came {len(found)} times of {times}: {self.output[mark:][-40:]}"
        return found

    def journal(self) -> str:
        """The next line that a tool wrote into the journal; waits for it."""
        return self._journal.next_line()

    def forget_journal(self) -> None:
        """Drop what is in the journal."""
        self._journal.drain()

    def kill(self) -> None:
        """End it at once, with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not accepts(self.port))  # the shell was our child, the server is not
        if self.process.stdin is not None:
            self.process.stdin.close()


@contextmanager
def running(
    command: Command, folder: Path, env: Mapping[str, str] | None = None, port: int | None = None
) -> Iterator[Running]:
    """Start a server and wait until it accepts connections; it is killed at the end.

    Args:
        command: What starts it.
        folder: Where its output and its journal go.
        env: Variables, beside a few harmless ones of ours.
        port: Where to listen; None finds a port that is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / f"journal-{len(list(folder.iterdir()))}")
    try:
        server = _start(command, folder, {**(env or {}), "PEER_JOURNAL": journal.path}, port, journal)
        try:
            yield server
        finally:
            server.kill()
    finally:
        journal.close()


class Fleet:
    """Servers that many tests share. Each is started when it is first asked for, and killed when all is over.

    To be asked from fixtures of module scope or wider, lest a test be blamed for a process that stays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._servers: dict[tuple[str, ...], Running] = {}

    def server(self, peer: str, binding: str = "http", **env: str) -> Running:
        """Return the server of a peer in this folder, or ``everything``, that has such an environment."""
        key = (peer, binding, *(f"{name}={value}" for name, value in sorted(env.items())))
        if key not in self._servers:
            command = everything(binding) if peer == "everything" else script(peer, binding)
            folder = self._folder / str(len(self._servers))
            self._servers[key] = self._running.enter_context(running(command, folder, env))
        return self._servers[key]

    def end(self) -> None:
        """Kill them all."""
        self._running.close()


def _start(command: Command, folder: Path, env: Mapping[str, str], port: int | None, journal: Journal) -> Running:
    for _ in range(5):
        chosen = port or free_port()
        server = spawn(command(chosen), chosen, folder, env, journal)
        if until(lambda server=server: server.process.poll() is not None or accepts(server.port)):  # type: ignore[misc]
            if server.process.poll() is None:
                return server
            if port is None and any("in use" in line for line in server.output):
                continue  # somebody was faster
        server.kill()
        break
    raise AssertionError(f"{command(chosen)} does not serve: {server.output}")


def spawn(command: list[str], port: int, folder: Path, env: Mapping[str, str], journal: Journal) -> Running:
    """Start a server, and do not wait for it."""
    output = folder / f"output-{port}-{len(list(folder.iterdir()))}"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", LEASH, "sh", *command],
            env={**_harmless(), "PORT": str(port), "PYTHONUNBUFFERED": "1", **env},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(port, process, output, journal)


def _harmless() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def until(met: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Wait until a condition is met; False: it was not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("a hundred ports in a row are taken")


def accepts(port: int) -> bool:
    """Whether somebody on this machine accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


class Journal:
    """What the tools of a server write down, line by line, as it happens."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._descriptor = os.open(path, os.O_RDWR)  # not O_RDONLY: the end of one writer is not the end
        self._unread = b""

    def next_line(self) -> str:
        """Return the next line, waiting for it."""
        while b"\n" not in self._unread:
            assert self._read(PATIENCE), "the server wrote nothing into its journal"
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def drain(self) -> None:
        """Drop what was written so far."""
        while self._read(0):
            pass
        self._unread = b""

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def _read(self, patience: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], patience)
        if ready:
            self._unread += os.read(self._descriptor, 4096)
        return bool(ready)
