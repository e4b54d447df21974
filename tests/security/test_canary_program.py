"""The canary run of whole programs: what a crash, a thread's end, a fork and a forgotten client leave on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from faults.http_server import Exchange, Server
from faults.tools import ROOT
from security.canaries import Canaries, Evidence, check
from security.test_canary_http import said_back
from security.test_canary_stdio import TELLTALE

SETTINGS = ("URL", "TOKEN", "ARGUMENT", "API_KEY")
BEGINNING = """
import faulthandler, logging, os, signal, sys, threading, warnings
logging.basicConfig(level=logging.DEBUG)
warnings.simplefilter("always")
faulthandler.enable()
from mcp_sync import Client, MCPError, StdioTransport
def http(**more):
    headers = {"X-Api-Key": os.environ["MY_API_KEY"]}
    return Client(os.environ["MY_URL"], auth_header="Bearer " + os.environ["MY_TOKEN"], headers=headers, **more)
def stdio(**more):
    env = {"CANARY_TOKEN": os.environ["MY_TOKEN"], "CANARY_API_KEY": os.environ["MY_API_KEY"]}
    return Client([sys.executable, "-I", os.environ["TELLTALE"], "--token", os.environ["MY_TOKEN"]], env=env, **more)
def arguments(how):
    return {"how": how, "password": os.environ["MY_ARGUMENT"]}
"""
PROGRAMS: dict[str, tuple[str, int]] = {
    "an error that nobody catches": ("make().call_tool('work', arguments('crash'))", 1),
    "a thread that ends by an error": (
        "threading.Thread(target=lambda: make().call_tool('work', arguments('stderr_and_death'))).start()",
        0,
    ),
    "a future that nobody asks": (
        """
        client = make()
        future = client.submit_tool("work", arguments("crash"))
        future.add_done_callback(lambda done: done.result())
        future.exception(20)
        client.close()
        """,
        0,
    ),
    "a client that is forgotten": (
        """
        client = make().connect()
        del client
        import gc; gc.collect()
        """,
        0,
    ),
    "a client that is never closed": ("client = make().connect()", 0),
    "all stacks, while a call waits": (
        """
        client = make().connect()
        future = client.submit_tool("work", arguments("nothing"))
        faulthandler.dump_traceback(all_threads=True)
        print(client, future, file=sys.stderr)
        future.cancel()
        """,
        0,
    ),
    "an abort": ("client = make().connect(); os.abort()", -6),
    "a fork": (
        """
        session = make().transport.create_session()
        import time; time.sleep(0.3)  # who forks while another thread writes to stderr has a child that never can
        child = os.fork()
        if not child:
            try:
                session.send_request("tools/list", {})
            finally:
                sys.stderr.flush()
        os.waitpid(child, 0)
        """,
        0,
    ),
    "an error with its locals": (
        """
        import traceback
        try:
            make().call_tool("work", arguments("crash"))
        except MCPError as error:
            print(*traceback.TracebackException.from_exception(error, compact=True).format(), file=sys.stderr)
        """,
        0,
    ),
}


def fails(exchange: Exchange) -> None:
    """Refuse, with all that was said."""
    exchange.reply(500, said_back(exchange.request), content_type="text/plain")


@pytest.mark.parametrize("kind", ["stdio", "http"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_secret_is_left_on_stderr(kind: str, name: str, tmp_path: Path) -> None:
    """I12: whatever ends the program; the log is there, too, at DEBUG."""
    canaries, evidence = Canaries(), Evidence()
    text, code = PROGRAMS[name]
    with Server(on={"work": fails}) as server:
        url = f"http://me:{canaries.plant('password')}@127.0.0.1:{server.port}/mcp?key={canaries.plant('query')}"
        known = {"MY_URL": url, **{f"MY_{one}": canaries.plant(one) for one in SETTINGS[1:]}, "TELLTALE": TELLTALE}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
        program = f"{BEGINNING}\nmake = {kind}\n{textwrap.dedent(text)}"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**kept, **known, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            cwd=tmp_path,
        )
    assert done.returncode == code, done.stderr
    assert "mcp_sync" in done.stderr
    evidence.add("stderr", done.stderr)
    evidence.add("stdout", done.stdout)
    check(canaries, evidence)
