"""The benchmark itself works, and our cost grows with the size of a message, not with its square.

Nothing here says how fast anything has to be: the machine is shared, and nobody should wait for a quiet one.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parent / "run.py"


def bench(tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
    file = tmp_path / "report.json"
    done = subprocess.run([sys.executable, str(RUN), "--json", str(file), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text("utf-8")), done.stdout


def test_every_contender_gets_its_row_with_finite_ratios(tmp_path: Path) -> None:
    report, printed = bench(tmp_path, "--cases", "tiny,notify", "--rounds", "1", "--quick")
    rows = report["rows"]
    assert {row["contender"] for row in rows} >= {"raw", "session", "client"}
    assert {row["case"] for row in rows} == {"tiny", "notify"}
    for row in rows:
        assert 0 < row["wall_x"] < math.inf
        assert 0 <= row["cpu_x"] < math.inf
    for text in ("tiny call, one caller", "mcp_sync session", "x limit", "load average"):
        assert text in printed


def test_over_http_the_limit_is_another(tmp_path: Path) -> None:
    report, printed = bench(tmp_path, "--cases", "http,http-stream", "--rounds", "1", "--quick")
    rows = report["rows"]
    assert {row["contender"] for row in rows} >= {"socket", "requests", "session", "client"}
    assert "raw" not in {row["contender"] for row in rows}
    assert {row["wall_x"] for row in rows if row["contender"] == "socket"} == {1.0}
    assert "requests.Session alone" in printed


@pytest.mark.parametrize("case", ["http-stateless", "http-text1", "http-threads32", "http-event10", "http-connect"])
def test_our_clients_can_do_the_other_cases_over_http_too(tmp_path: Path, case: str) -> None:
    report, _ = bench(tmp_path, "--cases", case, "--contenders", "socket,session,client", "--rounds", "1", "--quick")
    assert [row["contender"] for row in report["rows"]] == ["socket", "session", "client"]


@pytest.mark.parametrize("case", ["ws", "ws-text1", "ws-both1", "ws-threads8"])
def test_over_websocket_all_contenders_can_do_all_cases(tmp_path: Path, case: str) -> None:
    rows = bench(tmp_path, "--cases", case, "--rounds", "1", "--quick")[0]["rows"]
    assert {row["contender"] for row in rows} == {"frames", "websockets", "session", "client", "fast"}
    assert {row["wall_x"] for row in rows if row["contender"] == "frames"} == {1.0}


def test_without_an_engine_the_docker_cases_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    monkeypatch.setenv("PATH", str(tmp_path))
    report, printed = bench(tmp_path, "--cases", "docker-start,docker", "--quick")
    assert [row["case"] for row in report["skipped"]] == ["docker-start", "docker"]
    assert not report["rows"]
    assert "left out: no Docker engine answers" in printed


@pytest.mark.slow
def test_in_containers_all_contenders_can_do_all_cases(tmp_path: Path) -> None:
    options = ["--cases", "docker-start,docker,docker-both1", "--rounds", "1", "--quick"]
    report, _ = bench(tmp_path, *options)
    if report["skipped"]:
        pytest.skip(report["skipped"][0]["why"])
    for case in ("docker-start", "docker", "docker-both1"):
        assert {"engine", "session", "client"} <= {row["contender"] for row in report["rows"] if row["case"] == case}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["http-events", "http-idle", "http-idle-stream"])
def test_the_long_cases_over_http_work(tmp_path: Path, case: str) -> None:
    report, _ = bench(tmp_path, "--cases", case, "--contenders", "socket,requests,client", "--rounds", "1", "--quick")
    assert [row["contender"] for row in report["rows"]] == ["socket", "requests", "client"]


@pytest.mark.parametrize("case", ["stateless", "threads8", "flight", "arg1", "connect"])
def test_our_clients_can_do_the_other_cases_too(tmp_path: Path, case: str) -> None:
    report, _ = bench(tmp_path, "--cases", case, "--contenders", "raw,session,client", "--rounds", "1", "--quick")
    assert [row["contender"] for row in report["rows"]] == ["raw", "session", "client"]


def test_the_cost_of_a_large_result_is_linear(tmp_path: Path) -> None:
    options = ["--cases", "text10,text40", "--contenders", "raw,session,client", "--rounds", "3"]
    tries: list[dict[str, float]] = []
    while not tries or not looks_linear(tries[-1]):
        assert len(tries) < 4, tries  # a disturbance goes by, a square stays
        rows = bench(tmp_path, *options)[0]["growth"]
        tries.append({row["contender"]: row["40/10 MB cpu"] for row in rows})


def looks_linear(growth: dict[str, float]) -> bool:
    # CPU time, because others may be busy here. Linear is 4, quadratic is 16; beyond 32 MB the allocator gives every
    # block back to the system, which makes everything dearer, for the raw loop as well.
    return max(growth["session"], growth["client"]) <= max(8.0, 1.25 * growth["raw"])


def test_a_case_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(RUN), "--cases", "tiney"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'tiney' is none of" in done.stderr
