"""The official SDKs' servers as child processes, and what a test wants at hand to talk to them."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcp_sync import Client
from peers import install

FOLDER = Path(install.__file__).parent
PATIENCE = 20.0


@dataclass(frozen=True)
class Peer:
    """One server, and the protocol version to ask it for."""

    sdk: str
    version: str | None
    agreed: str

    @property
    def is_stateless(self) -> bool:
        """Whether the server never asks by itself."""
        return self.agreed == "2026-07-28"

    @property
    def command(self) -> list[str]:
        """What starts it."""
        return [install.python_of(self.sdk), str(FOLDER / f"{self.sdk}_server.py")]

    def client(self, **options: Any) -> Client:
        """Return a client, not connected yet."""
        return Client(self.command, **{"timeout": PATIENCE, "protocol_version": self.version, **options})


PEERS = {
    "sdk2-stateless": Peer("sdk2", None, "2026-07-28"),
    "sdk2-handshake": Peer("sdk2", "2025-11-25", "2025-11-25"),
    "sdk1": Peer("sdk1", None, "2025-11-25"),
}


def demand(peer: Peer) -> Peer:
    """Return the peer, or fail: a test that is skipped proves nothing."""
    if not install.is_installed(peer.sdk):
        pytest.fail(f"no peer {peer.sdk} is installed; run: {sys.executable} tests/peers/install.py", pytrace=False)
    return peer


class Journal:
    """What the server's tools write down, line by line, as it happens."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._descriptor = os.open(path, os.O_RDWR)  # not O_RDONLY: the end of one writer is not the end
        self._unread = b""

    def next_line(self) -> str:
        """Return the next line, waiting for it."""
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._descriptor], [], [], PATIENCE)
            assert ready, "the server wrote nothing into its journal"
            self._unread += os.read(self._descriptor, 4096)
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


@contextmanager
def journal(folder: Path) -> Iterator[Journal]:
    """Open a journal in a folder."""
    opened = Journal(folder / "journal")
    try:
        yield opened
    finally:
        opened.close()
