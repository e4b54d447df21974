"""In a notebook: a real Jupyter kernel, in which everything works that works in a script."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hosts import install
from hosts.nursery import HERE, ROOT, Servers, clean_environment, until

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
AT_ONCE = 3.0
PATIENCE = 25.0


class Jupyter:
    """The driver of tests/hosts/kernel.py, and by it a kernel."""

    def __init__(self, folder: Path) -> None:
        places = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        self._errors = folder / "driver.stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [install.demand(), str(HERE / "kernel.py")],
                env={**clean_environment(), **{place: str(folder / place) for place in places}},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def __call__(self, verb: str, argument: Any = True) -> dict[str, Any]:
        """Have the driver do something, and return what it says of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({verb: argument}).encode() + b"\n")
        self._process.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n"):
            assert select.select([self._process.stdout], [], [], PATIENCE)[0], self._errors.read_text()
            chunk = os.read(self._process.stdout.fileno(), 65536)
            assert chunk, self._errors.read_text()
            answer += chunk
        found: dict[str, Any] = json.loads(answer)
        return found

    def run(self, code: str) -> str:
        """Run a cell that must not fail, and return what it printed."""
        outcome = self("run", code)
        assert outcome["error"] == ""
        text: str = outcome["text"]
        return text

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


@pytest.fixture
def jupyter(tmp_path: Path, servers: Servers) -> Iterator[Jupyter]:
    driver = Jupyter(tmp_path)
    try:
        yield driver
    finally:
        driver.end()


def connect(servers: Servers, more: str = "") -> str:
    return f"from mcp_sync import Client\nclient = Client({servers.command('chatty')!r}{more}).connect()\n"


def test_the_example_notebook_runs_from_beginning_to_end(jupyter: Jupyter) -> None:
    outputs = jupyter("notebook", str(NOTEBOOK))
    said = {cell: "".join(texts) for cell, texts in outputs.items()}
    assert said["connect"] == "example speaks 2026-07-28\n"
    assert "weather: Forecast the weather of a city.\n" in said["tools"]
    assert said["call"] == "3"
    assert "'Lisbon'" in said["data"]
    assert said["progress"] == "1 of 3: 3...\n2 of 3: 2...\n3 of 3: 1...\n'lift-off'"
    assert said["futures"] == "[0, 2, 4, 6, 8]"
    assert said["close"] == ""


def test_a_client_calls_and_its_callbacks_print_into_the_cell(jupyter: Jupyter, servers: Servers) -> None:
    jupyter.run(connect(servers))
    assert jupyter.run("client.call_tool('add', {'a': 1, 'b': 2}).text") == "'3'"
    printed = jupyter.run("_ = client.call_tool('notify', {'n': 3}, on_progress=lambda *report: print(report))")
    assert printed == "(1, 3, None)\n(2, 3, None)\n(3, 3, None)\n"


def test_the_kernel_ends_though_nobody_closed_the_client_and_the_server_with_it(
    jupyter: Jupyter, servers: Servers
) -> None:
    jupyter.run(connect(servers))
    jupyter.end()
    assert servers.gone()


def test_what_the_server_writes_to_stderr_can_go_into_the_cells_output(jupyter: Jupyter, servers: Servers) -> None:
    jupyter.run("import sys, time")
    printed = jupyter.run(connect(servers, ", stderr=sys.stderr"))
    for _ in range(50):  # output of threads may come with a later cell
        if "called add" in printed:
            break
        printed += jupyter.run("_ = client.call_tool('add', {'a': 1, 'b': 2}); time.sleep(0.02)")
    assert printed.startswith("ready\n")
    assert "called add\n" in printed


def test_a_stderr_without_a_descriptor_breaks_nothing(jupyter: Jupyter, servers: Servers) -> None:
    jupyter.run("import io, sys\nkept, sys.stderr = sys.stderr, io.StringIO()")  # it has fileno, which raises
    jupyter.run(connect(servers, ", stderr=sys.stderr"))
    assert jupyter.run("client.call_tool('add', {'a': 1, 'b': 2}).text") == "'3'"
    jupyter.run("client.close()\nlines = sys.stderr.getvalue(); sys.stderr = kept")
    assert jupyter.run("lines") == "'ready\\ncalled add\\n'"


@pytest.mark.parametrize(
    "waiting", ["client.call_tool('hang')", "client.submit_tool('hang').result()", "client.request('tools/call', HANG)"]
)
def test_interrupting_the_kernel_ends_a_waiting_call_at_once_and_leaves_the_client_usable(
    waiting: str, jupyter: Jupyter, servers: Servers
) -> None:
    jupyter.run(connect(servers) + "HANG = {'name': 'hang'}")
    server = jupyter.run("client.call_tool('whoami').text")
    jupyter("start", f"print('waiting', flush=True)\n{waiting}")
    outcome = jupyter("interrupt")
    assert outcome["error"].startswith("KeyboardInterrupt")
    assert outcome["seconds"] < AT_ONCE
    assert jupyter.run("client.call_tool('whoami').text") == server, "the server was not interrupted"


def test_interrupting_the_kernel_while_it_connects_leaves_no_server(jupyter: Jupyter, servers: Servers) -> None:
    command = servers.command("late=15")
    jupyter("start", f"from mcp_sync import Client\nprint('connecting', flush=True)\nClient({command!r}).connect()")
    assert until(servers.alive)
    assert jupyter("interrupt")["error"].startswith("KeyboardInterrupt")
    assert servers.gone()


def test_running_the_cell_that_makes_the_client_again_leaves_one_server(jupyter: Jupyter, servers: Servers) -> None:
    for _ in range(3):
        jupyter.run(connect(servers))
    assert servers.started == 3
    assert until(lambda: len(servers.alive()) == 1)
    assert jupyter.run("client.call_tool('add', {'a': 1, 'b': 2}).text") == "'3'"


def test_a_cell_that_failed_after_it_connected_can_be_run_again(jupyter: Jupyter, servers: Servers) -> None:
    cell = connect(servers) + "1 / 0"
    for _ in range(2):
        assert jupyter("run", cell)["error"].startswith("ZeroDivisionError")
    assert until(lambda: len(servers.alive()) == 1)


def test_a_killed_kernel_takes_its_server_along(jupyter: Jupyter, servers: Servers) -> None:
    jupyter.run(connect(servers))
    kernel = int(jupyter.run("import os; os.getpid()"))
    os.kill(kernel, signal.SIGKILL)
    assert servers.gone()
