"""What the tests of the official SDKs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peers.running import Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Servers over HTTP that many tests share; for fixtures of module scope."""
    ships = Fleet(tmp_path_factory.mktemp("fleet"))
    yield ships
    ships.end()
