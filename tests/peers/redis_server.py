"""A Redis server of a test's own: on a port of this machine, keeping nothing on disk, of which nothing stays."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers import install
from peers.running import PATIENCE, Running, running, until

BARE = ("--save", "", "--appendonly", "no")


@contextmanager
def redis_running(folder: Path, *options: str, port: int | None = None) -> Iterator[Running]:
    """Start a Redis server, which is killed at the end; it answers when this returns.

    Args:
        folder: For its output.
        options: More of its command line.
        port: Where to listen; None finds a port that is free.
    """
    with _running(folder, [*BARE, *options], port) as server:
        yield server


@contextmanager
def sentinel_running(folder: Path, name: str, port: int) -> Iterator[Running]:
    """Start a sentinel that watches the Redis server on a port, which it calls by a name; killed at the end."""
    folder.mkdir(parents=True)
    file = folder / "sentinel.conf"
    file.write_text(f"sentinel monitor {name} 127.0.0.1 {port} 1\n")
    with _running(folder, [str(file), "--sentinel"], None) as server:
        yield server


@contextmanager
def _running(folder: Path, options: list[str], port: int | None) -> Iterator[Running]:
    try:
        install.demand("redis")
    except install.InstallError as error:
        pytest.fail(str(error), pytrace=False)
    folder.mkdir(parents=True, exist_ok=True)

    def command(port: int) -> list[str]:
        return [str(install.redis()), *options, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]

    with running(command, folder / "process", port=port) as server:
        assert until(lambda: _answers(server.port), PATIENCE), server.output
        yield server


def _answers(port: int) -> bool:
    """Whether it answers at all, though perhaps that it wants a password."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in (b"+", b"-")
    except OSError:
        return False
