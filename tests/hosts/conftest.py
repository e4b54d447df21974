"""Scripts and servers for the host tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.nursery import Scripts, Servers, interpreter, nursery

VERSIONS = ("3.10", pytest.param("3.11", marks=pytest.mark.slow), pytest.param("3.12", marks=pytest.mark.slow), "3.13")
"""Every commit sees the first and the last; tests without this parameter run on whatever pytest runs on."""


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[Scripts, Servers]]:
    with nursery(tmp_path) as both:
        yield both


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    """The path of an interpreter, of each version in turn."""
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"there is no CPython {request.param} here, neither on PATH nor from pyenv")
    return found


@pytest.fixture
def scripts(grown: tuple[Scripts, Servers]) -> Scripts:
    return grown[0]


@pytest.fixture
def servers(grown: tuple[Scripts, Servers]) -> Servers:
    return grown[1]
