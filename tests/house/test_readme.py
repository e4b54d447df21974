"""What README.rst says of tests is true."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_fault_table_names_exists() -> None:
    named = re.findall(r"``(test_\w+\.py)::(test_\w+)``", (ROOT / "README.rst").read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / "faults" / file).read_text(), f"{file}::{test}"
