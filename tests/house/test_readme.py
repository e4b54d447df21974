"""What README.rst says of tests is true."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_is_named_exists() -> None:
    """By its folder; those of faults and security by their files alone."""
    named = re.findall(r"``((?:\w+/)?test_\w+\.py)::(test_\w+)``", (ROOT / "README.rst").read_text())
    assert len(named) > 20
    for file, test in named:
        assert any(f"def {test}(" in text for text in texts_of(file)), f"{file}::{test}"


def test_every_file_of_tests_that_is_named_exists() -> None:
    named = re.findall(r"``((?:tests/)?(?:\w+/)?test_[\w*]+\.py)``", (ROOT / "README.rst").read_text())
    assert len(named) > 5
    for file in named:
        assert texts_of(file), file


def texts_of(file: str) -> list[str]:
    return [path.read_text() for path in (ROOT / "tests").glob(f"*/{Path(file).name}")]


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
