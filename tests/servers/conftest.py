"""What the tests of servers share."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.others import PATIENCE

from peers.running import Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Servers over HTTP that many tests share; for fixtures of module scope."""
    ships = Fleet(tmp_path_factory.mktemp("fleet"))
    yield ships
    ships.end()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """What a server writes into tmp_path/journal: each call waits for the next line."""
    os.mkfifo(tmp_path / "journal")
    descriptor = os.open(tmp_path / "journal", os.O_RDWR)  # not O_RDONLY: the end of one writer is not the end
    unread = b""

    def next_line() -> str:
        nonlocal unread
        while b"\n" not in unread:
            ready, _, _ = select.select([descriptor], [], [], PATIENCE)
            assert ready, "the server wrote nothing into its journal"
            unread += os.read(descriptor, 4096)
        line, _, unread = unread.partition(b"\n")
        return line.decode()

    yield next_line
    os.close(descriptor)
