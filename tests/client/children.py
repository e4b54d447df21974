"""Child programs that are no good servers, or barely ones; and whole programs that use the library."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import mcp_sync

ROOT = str(Path(mcp_sync.__file__).parents[1])
SECONDS = 50.0

_ANSWERING = """
import json, sys
def answer(id, **what):
    print(json.dumps({"jsonrpc": "2.0", "id": id, **what}), flush=True)
def tell(method, **params):
    print(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    id, method, params = message.get("id"), message.get("method"), message.get("params") or {}
"""

SERVER = """
if method == "server/discover":
    answer(id, result={"supportedVersions": ["2026-07-28"], "capabilities": {}})
elif method == "tools/call":
    answer(id, result={"content": [{"type": "text", "text": params["name"]}]})
elif id is not None:
    answer(id, error={"code": -32601, "message": "no"})
"""


def python(code: str) -> list[str]:
    """Return a command that runs the code, without the packages it does not need."""
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]


def server(reaction: str = SERVER) -> list[str]:
    """Return a command that runs the code for every message; it knows ``id, method, params, answer, tell``."""
    return python(_ANSWERING + textwrap.indent(textwrap.dedent(reaction), "    "))


def program(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that imports mcp_sync from where we have it, to its end."""
    env = {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, **options)
