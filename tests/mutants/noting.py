"""A plugin for pytest that notes what becomes of each test, line by line, so that even a hang leaves a trace.

And that sees to it that the library under test is the mutated copy, whatever is installed beside it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

HOME, NOTES = "MCP_SYNC_MUTANT_HOME", "MCP_SYNC_MUTANT_NOTES"


def pytest_configure() -> None:
    import mcp_sync

    home = Path(os.environ[HOME]).resolve()
    if not Path(mcp_sync.__file__).resolve().is_relative_to(home):
        raise pytest.UsageError(f"mcp_sync is imported from {mcp_sync.__file__}, not from the copy in {home}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _note("collect", report.nodeid, _text(report))


def pytest_runtest_logstart(nodeid: str) -> None:
    _note("begin", nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _note(report.when or "call", report.nodeid, _text(report))
    elif report.skipped:
        _note("skipped", report.nodeid, str(report.longrepr))
    elif report.when == "call":
        _note("passed", report.nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    _note("end", nodeid)


def _text(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)[:2000]


def _note(what: str, test: str, text: str = "") -> None:
    with open(os.environ[NOTES], "a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, "test": test, "text": text}) + "\n")
