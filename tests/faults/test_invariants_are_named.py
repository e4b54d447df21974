"""Each invariant and each trap of the plan is named in the docstring of a test; and all tests are watched."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
INVARIANTS = [f"I{number}" for number in range(1, 21)]
TRAPS = [f"B{number}" for number in range(1, 36)]  # B36 is about Windows, which is not supported
WATCH = "nothing_left_behind"
"""The fixture of tests/conftest.py that looks at every test."""


def files(pattern: str) -> Iterator[Path]:
    """Yield the files of the suite; what is installed below it is not ours."""
    for path in TESTS.rglob(pattern):
        if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(TESTS).parts):
            yield path


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a file, methods included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def named() -> Iterator[str]:
    """Yield every id that some test names in its docstring."""
    for path in files("test_*.py"):
        for function in functions(path):
            if function.name.startswith("test_"):
                yield from re.findall(r"\b[IB]\d+\b", ast.get_docstring(function) or "")


def test_each_is_named_by_some_test() -> None:
    assert set(INVARIANTS + TRAPS) - set(named()) == set()


def test_no_test_is_named_after_what_does_not_exist() -> None:
    assert set(named()) - set(INVARIANTS + TRAPS) == set()


def test_every_test_that_was_collected_is_watched(request: pytest.FixtureRequest) -> None:
    """The fixture is autouse, and no folder or class has one of the same name, which would replace it."""
    unwatched = [item.nodeid for item in request.session.items if WATCH not in getattr(item, "fixturenames", [])]
    assert unwatched == []
    homes = [path for path in files("*.py") for function in functions(path) if function.name == WATCH]
    assert homes == [TESTS / "conftest.py"]
