"""The processes of the host tests: scripts that use the library, and servers. None outlives its test."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAUSE = 0.01  # seconds between two looks

PREAMBLE = """\
import faulthandler, json, os, signal, sys, threading, time
faulthandler.dump_traceback_later(20, exit=True)  # a script that hangs says where
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where a shell started us in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise under nohup
COMMAND = json.loads(sys.argv[1])
def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()
def last_line():
    say("last-line", time.monotonic())
"""

SESSION = """\
from mcp_sync import MCPError, StdioTransport
transport = StdioTransport(COMMAND)
session = transport.create_session()
def tool(name, timeout=None, **arguments):
    answer = session.send_request("tools/call", {"name": name, "arguments": arguments}, timeout)
    return answer["content"][0]["text"]
assert tool("add", a=1, b=2) == "3"
"""

CLIENT = """\
from mcp_sync import Client, MCPError
client = Client(COMMAND).connect()
assert client.call_tool("add", {"a": 1, "b": 2}).text == "3"
"""


def until(met: Callable[[], object], seconds: float = 5.0) -> bool:
    """Wait until a condition is met; False: it was not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


# -- interpreters -----------------------------------------------------------------------------------------------------


@lru_cache
def interpreter(version: str) -> str | None:
    """The path of a CPython of this version ("3.12"), or None."""
    return next((found for path in _candidates(version) if (found := _proved(path, version))), None)


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    if root := _pyenv_root():
        yield from sorted(map(str, root.glob(f"versions/{version}.*/bin/python{version}")), reverse=True)


@lru_cache
def _pyenv_root() -> Path | None:
    if root := os.environ.get("PYENV_ROOT"):
        return Path(root)
    if pyenv := shutil.which("pyenv"):
        root = _output([pyenv, "root"])
        return Path(root) if root else None
    return None


def _proved(path: str, version: str) -> str | None:
    """The interpreter behind a path, which may be a shim, if it runs and is what it is said to be."""
    asked = "import sys; print(*sys.version_info[:2], sep='.'); print(sys.implementation.name, sys.executable)"
    said = _output([path, "-c", asked]).split()
    return said[2] if said[:2] == [version, "cpython"] else None


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


# -- servers ----------------------------------------------------------------------------------------------------------


class Servers:
    """All servers that are started with this folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    def command(self, *words: str) -> list[str]:
        """The command that starts one."""
        return [sys.executable, "-I", "-S", str(HERE / "server.py"), str(self._folder), *words]

    @property
    def started(self) -> int:
        """How many were ever started."""
        return len(list(self._folder.iterdir()))

    def alive(self) -> list[int]:
        """The process numbers of those that live."""
        return [int(file.name) for file in self._folder.iterdir() if _is_held(file)]

    def farewells(self) -> int:
        """How many were given the time to say farewell."""
        return sum(file.read_text() == "farewell" for file in self._folder.iterdir())

    def gone(self, seconds: float = 2.0) -> bool:
        """Whether none lives, at the latest so many seconds from now."""
        return until(lambda: not self.alive(), seconds)

    def end(self) -> None:
        """Kill those that live; who holds its lock still has its number."""
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.gone(), "servers cannot be ended"


def _is_held(file: Path) -> bool:
    with file.open() as life:
        try:
            fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# -- scripts ----------------------------------------------------------------------------------------------------------


@dataclass
class Ended:
    """What became of a script."""

    code: int
    lines: list[str]
    stderr: str
    seconds: float
    """From its last line, if it announced that by ``last_line()``, to its end."""


class Script:
    """A Python script that is running, in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self._path = path

    @property
    def lines(self) -> list[str]:
        """What it printed so far."""
        return self._path.with_suffix(".stdout").read_text().splitlines()

    @property
    def stderr(self) -> str:
        """What it wrote to stderr so far."""
        return self._path.with_suffix(".stderr").read_text()

    def said(self, word: str) -> list[str]:
        """The rest of each line that begins with this word."""
        return [line.partition(" ")[2] for line in self.lines if line.partition(" ")[0] == word]

    def wait_for(self, word: str, times: int = 1, seconds: float = 15.0) -> str:
        """Wait until it has said a line that begins with a word so many times; returns the rest of the last."""
        until(lambda: len(self.said(word)) >= times or self.process.poll() is not None, seconds)
        assert len(self.said(word)) >= times, f"it never said {word!r} but {self.lines}\n{self.stderr}"
        return self.said(word)[-1]

    def signal(self, number: int) -> float:
        """Send it a signal, and return when that was."""
        moment = time.monotonic()
        self.process.send_signal(number)
        return moment

    def end(self, seconds: float = 30.0) -> Ended:
        """Wait for its end."""
        assert until(lambda: self.process.poll() is not None, seconds), f"it does not end: {self.lines}\n{self.stderr}"
        now = time.monotonic()
        moments = [float(moment) for moment in self.said("last-line")]
        return Ended(self.process.returncode, self.lines, self.stderr, now - moments[-1] if moments else 0.0)


class Scripts:
    """Starts scripts that use the library from this checkout, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Script] = []

    def start(
        self,
        text: str,
        command: list[str],
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        typed: bytes | None = None,
    ) -> Script:
        """Start a script, given after PREAMBLE; it finds the command of its server in COMMAND.

        ``typed`` is what waits on its stdin, which then stays open as long as it lives; without it there is no stdin.
        """
        path = self._folder / f"script-{len(self._running)}.py"
        path.write_text(PREAMBLE + textwrap.dedent(text))
        with path.with_suffix(".stdout").open("wb") as out, path.with_suffix(".stderr").open("wb") as errors:
            process = subprocess.Popen(
                [python, str(path), json.dumps(command)],
                env={**clean_environment(), **(env or {})},
                stdin=subprocess.DEVNULL if typed is None else subprocess.PIPE,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )
        script = Script(process, path)
        self._running.append(script)
        if process.stdin is not None:
            process.stdin.write(typed or b"")
            process.stdin.flush()
        return script

    def run(self, text: str, command: list[str], python: str = sys.executable) -> Ended:
        """Start a script and wait for its end."""
        return self.start(text, command, python).end()

    def end(self) -> None:
        """Kill what is left, forked children and all."""
        for script in self._running:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(script.process.pid, signal.SIGKILL)
            script.process.wait()
            if script.process.stdin is not None:
                script.process.stdin.close()


def clean_environment() -> dict[str, str]:
    """Ours, with the library of this checkout and nothing that changes how Python behaves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@contextmanager
def nursery(folder: Path) -> Iterator[tuple[Scripts, Servers]]:
    """Scripts and servers that are all gone at the end."""
    scripts, servers = Scripts(folder), Servers(folder / "servers")
    try:
        yield scripts, servers
    finally:
        scripts.end()
        servers.end()
