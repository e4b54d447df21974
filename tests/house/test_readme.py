"""What README.rst says of tests is true."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_fault_table_names_exists() -> None:
    named = re.findall(r"``(test_\w+\.py)::(test_\w+)``", (ROOT / "README.rst").read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / "faults" / file).read_text(), f"{file}::{test}"


def blocks() -> list[str]:
    text = (ROOT / "README.rst").read_text()
    found = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    return [dedent(block) for block in found]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.split("\n")[0])
def test_every_block_of_code_is_python(block: str) -> None:
    compile(block, "README.rst", "exec")


def test_every_example_that_is_named_exists() -> None:
    named = re.findall(r"``(examples/[\w.]+)``", (ROOT / "README.rst").read_text())
    assert len(named) >= 3
    for path in named:
        assert (ROOT / path).exists(), path
