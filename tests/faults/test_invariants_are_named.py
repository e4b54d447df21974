"""Each invariant and each trap of the plan that concerns stdio or WebSocket is named in the docstring of a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
INVARIANTS = [f"I{number}" for number in (*range(1, 10), *range(13, 18), 20)]
TRAPS = [f"B{number}" for number in (*range(11, 16), *range(20, 36))]


def named() -> Iterator[str]:
    """Yield every id that a test of this folder names in its docstring."""
    for path in (TESTS / "faults").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield from re.findall(r"\b[IB]\d+\b", ast.get_docstring(node) or "")


def test_each_is_named_by_some_test() -> None:
    assert set(INVARIANTS + TRAPS) - set(named()) == set()
