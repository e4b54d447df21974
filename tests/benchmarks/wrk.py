"""wrk, the load over HTTP: so many connections, each with one request after the other, every answer looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

MARK = "100000000"
"""Stands for the id in a body; ids have as many digits, and no other."""

_SCRIPT = Template(
    """
local BODY, MARK, EXPECTED, LEAST = $body, $mark, {$expected}, $least
local parts, pending = {}, {}
number, wrong, example = tonumber(MARK), 0, ""
wrk.method = "POST"
$headers

function setup(thread) worker = thread end

function init()
  local whole, place = wrk.format(nil, nil, nil, BODY), 1
  repeat
    local first, last = whole:find(MARK, place, true)
    parts[#parts + 1] = whole:sub(place, (first or 0) - 1)
    place = (last or 0) + 1
  until not first
end

function request()
  number = number + 1
  pending[tostring(number)] = true
  return table.concat(parts, number)
end

local function flaw_of(status, body)
  if status ~= 200 then return "status " .. status end
  local id = body:match('"id":%s*(%d+)')
  if not id or not pending[id] then return "an id that is not asked for" end
  pending[id] = nil
  if #body < LEAST then return "only " .. #body .. " bytes" end
  local place = 0
  for _, part in ipairs(EXPECTED) do
    _, place = body:find(part, place + 1, true)
    if not place then return "lacks " .. part end
  end
end

function response(status, headers, body)
  local flaw = flaw_of(status, body)
  if flaw then wrong, example = wrong + 1, flaw end
end

function done(summary, latency, requests)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format('\\n{"calls": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, ', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
  io.write(string.format('"wrong": %d, "broken": %d, "example": "%s"}', worker:get("wrong"), broken,
    (worker:get("example"):gsub('[%c"\\\\]', "'"))))
end
"""
)


def path() -> str | None:
    """Return where wrk is, or None."""
    return shutil.which("wrk")


def run(
    url: str,
    headers: Mapping[str, str],
    body: str,
    expected: Sequence[str],
    least: int,
    connections: int,
    seconds: int,
) -> dict[str, Any]:
    """Ask again and again; return how many answers came in which time, and how many of them were wrong.

    Args:
        url: Where to.
        headers: Of each request.
        body: Of each request, with MARK for its id.
        expected: What each answer has in it, in this order.
        least: Bytes that each answer has.
        connections: How many there are.
        seconds: How long.
    """
    script = _SCRIPT.substitute(
        body=_quoted(body),
        mark=_quoted(MARK),
        expected=", ".join(map(_quoted, expected)),
        least=least,
        headers="\n".join(f"wrk.headers[ {_quoted(name)} ] = {_quoted(value)}" for name, value in headers.items()),
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        options = ["--threads", "1", "--timeout", "10s", "--connections", str(connections)]
        command = ["wrk", *options, "--duration", f"{seconds}s", "--script", file.name, url]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or done.stderr:  # where the script is wrong, there is only the latter
        return {"error": (done.stderr or done.stdout).strip()[-60:]}
    return json.loads(done.stdout.splitlines()[-1])


def _quoted(text: str) -> str:
    return f"[==[{text}]==]"
