"""The benchmark of servers works, and notices answers that are wrong. Nothing here says how fast anything has to be."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from threading import Thread
from typing import Any

import pytest

HERE = Path(__file__).parent

needs_wrk = pytest.mark.skipif(not which("wrk"), reason="wrk is not installed; run tests/benchmarks/install.py")


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program as a module; what is beside it can be imported only while a test asks for it."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("serving")


def bench(tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
    file = tmp_path / "report.json"
    command = [sys.executable, str(HERE / "serving.py"), "--json", str(file), "--rounds", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text("utf-8")), done.stdout


def check(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        assert 0 < row["rate"] < math.inf, row
        assert 0 < row["p50"] <= row["p99"], row
        assert row["cpu"] >= 0, row
        assert row["rounds"] == 1, row
        for key in {"x", "x_plain"} & row.keys():
            middle, low, high = row[key]
            assert 0 < low <= middle <= high, row
            assert row["contender"] != row[f"{key}_to"] or low == high == 1.0, row
    assert all(min(row["first"], row["last"]) > 0 for row in report["memory"])


def test_over_stdio_every_server_gets_its_row(tmp_path: Path) -> None:
    report, printed = bench(tmp_path, "--cases", "stdio32")
    check(report)
    contenders = {row["contender"] for row in report["rows"]}
    assert "ours" in contenders
    assert not {"gunicorn", "sdk2-tuned"} & contenders
    for text in ("stdio: tiny call, 32 on their way", "x best peer", "resident memory", "load average"):
        assert text in printed


def test_over_stdio_answers_that_are_wrong_are_counted(serving: Any) -> None:
    case = serving.CASES["stdio"]
    pipe = serving.Pipe([sys.executable, "-I", "-S", str(HERE / "server.py")], {})
    try:
        pipe.warm_up(case)
        found = pipe.load(case, 0.05)
        assert (found["wrong"], found["example"]) == (0, "")
        assert found["calls"] > 1
        found = pipe.load(replace(case, expected=('"4"',)), 0.05)
        assert found["wrong"] > 1
        assert found["calls"] == 0
        assert '"id":' in found["example"]
    finally:
        pipe.close()


@needs_wrk
def test_over_http_every_server_gets_its_row(tmp_path: Path) -> None:
    report, printed = bench(tmp_path, "--cases", "steps")
    check(report)
    contenders = {row["contender"] for row in report["rows"]}
    assert "ours" in contenders
    assert not {"sdk2-tuned", "fastmcp-tuned"} & contenders
    assert "left out: JSON has no room for progress" in printed


@needs_wrk
def test_the_other_cases_over_http_work_too(tmp_path: Path) -> None:
    cases = ["stateless32", "text", "list"]
    report, _ = bench(tmp_path, "--cases", ",".join(cases), "--contenders", "ours,sdk2-tuned")
    check(report)
    assert [row["case"] for row in report["rows"] if row["contender"] == "ours"] == cases


def test_a_contender_that_does_not_exist_is_named() -> None:
    command = [sys.executable, str(HERE / "serving.py"), "--contenders", "theirs"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'theirs' is none of" in done.stderr


class Parrot(BaseHTTPRequestHandler):
    """Answers with what its server has been told, and the id of the request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, text, shift = self.server.told  # type: ignore[attr-defined]
        body = json.dumps({"id": request["id"] + shift, "result": text}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def parrot() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@needs_wrk
@pytest.mark.parametrize(
    ("told", "flaw"),
    [
        ((200, "one two", 0), ""),
        ((200, "two one", 0), "lacks two"),
        ((503, "one two", 0), "status 503"),
        ((200, "one two", 7_000_000), "an id that is not asked for"),
    ],
)
def test_wrk_counts_every_answer_that_is_wrong(
    serving: Any, parrot: Any, told: tuple[int, str, int], flaw: str
) -> None:
    parrot.told, wrk = told, serving.wrk
    url = f"http://127.0.0.1:{parrot.server_port}/"
    found = wrk.run(url, {"X-Some": "header"}, f'{{"id":{wrk.MARK}}}', ["one", "two"], 35, 2, 1)
    assert found["calls"] > 0
    assert found["broken"] == 0
    assert flaw in found["example"]
    assert (found["wrong"] >= found["calls"] > 0) if flaw else (found["wrong"] == 0)


@needs_wrk
def test_wrk_that_reaches_nobody_is_an_error(serving: Any) -> None:
    found = serving.wrk.run("http://127.0.0.1:1/", {}, f'{{"id":{serving.wrk.MARK}}}', [], 0, 1, 1)
    assert "error" in found
