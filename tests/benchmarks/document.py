"""What was measured, into the documentation: tables in README.rst, and a picture beside this file.

A table stands between ``.. figures: <name>`` and ``.. end of figures``; what is between them is written anew, if all of
it was measured. Below it stands where and when.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from itertools import accumulate
from math import log10
from pathlib import Path
from typing import Any

from cases import CASES, ENTRIES, LIMITS, STARTS

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.rst"
PICTURE = HERE / "figures.svg"

Row = dict[str, Any]
Found = Mapping[tuple[str, str], Row]
"""Rows by case and contender."""


@dataclass(frozen=True)
class Table:
    """One table of the documentation.

    Attributes:
        title: Over its first column.
        cases: Its lines: a case, and what it is called there.
        contenders: Its columns, likewise; the limit is always the first.
    """

    title: str
    cases: Mapping[str, str]
    contenders: Mapping[str, str]


_OURS = {"session": "session", "client": "``Client``"}
_SDK = {"sdk": "SDK, async", "portal": "SDK, through a portal"}
TABLES = {
    "stdio": Table(
        "stdio",
        {
            "tiny": "tiny call, one caller",
            "tiny-one-cpu": "the same, all on one CPU",
            "stateless": "tiny call, 2026-07-28",
            "text1": "1 MB result",
            "text10": "10 MB result",
            "text40": "40 MB result",
            "arg1": "1 MB argument",
            "threads8": "8 threads (async: tasks)",
            "threads64": "64 threads (async: tasks)",
            "flight": "1000 calls in flight",
            "notify": "notifications in",
            "connect": "connect, call, close",
            "idle": "KB for an idle connection",
        },
        {**_OURS, **_SDK},
    ),
    "http": Table(
        "HTTP",
        {
            "http": "tiny call, answered as JSON",
            "http-one-cpu": "the same, all on one CPU",
            "http-stateless": "tiny call, 2026-07-28",
            "http-stream": "tiny call, answered as a stream",
            "http-stream-one-cpu": "the same, all on one CPU",
            "http-text1": "1 MB result as JSON",
            "http-threads32": "32 threads (async: tasks)",
            "http-events": "100,000 events on one stream",
            "http-event10": "one event of 10 MB in 120,000 lines",
            "http-connect": "connect, call, close",
            "http-idle": "KB for an idle connection",
            "http-idle-stream": "the same with a stream",
        },
        {"requests": "``requests`` alone", **_OURS, **_SDK},
    ),
    "websocket": Table(
        "WebSocket",
        {
            "ws": "tiny call, one caller",
            "ws-one-cpu": "the same, all on one CPU",
            "ws-text1": "1 MB result",
            "ws-both1": "1 MB each way",
            "ws-threads8": "8 threads",
        },
        {"websockets": "``websockets.sync`` alone", **_OURS},
    ),
    "docker": Table(
        "Docker",
        {"docker-start": "start to first answer", "docker": "tiny call, one caller", "docker-both1": "1 MB each way"},
        {"docker": "``docker run``", **_OURS},
    ),
}
PACKAGES: dict[str, tuple[str, ...]] = {
    "start": (),
    "stdio": (),
    "http": ("requests", "urllib3"),
    "websocket": ("websockets",),
    "docker": ("docker",),
}
PEERS = {"start": ("sdk2",), "stdio": ("sdk2",), "http": ("sdk2",)}
"""Environments whose mcp took part."""


def write(
    rows: Sequence[Row], starts: Sequence[Row], rounds: int, loads: Sequence[str], peers: Mapping[str, str]
) -> list[str]:
    """Write what was measured into README.rst, and draw it.

    Args:
        rows: What was measured.
        starts: What it takes to begin.
        rounds: How often.
        loads: The load average, before and after.
        peers: Versions of the environments that took part, by their names.

    Returns:
        The names of what was written.
    """
    found: Found = {(row["case"], row["contender"]): row for row in rows if "error" not in row}
    tables = {
        name: list_table(table, found)
        for name, table in TABLES.items()
        if all(any((case, ours) in found for ours in _OURS) for case in table.cases)
    }
    if starts:
        tables["start"] = start_table(starts)
    text = README.read_text("utf-8")
    for name, table in tables.items():
        note = f"*{where(name, peers)} {rounds} rounds, load average {' to '.join(loads)}.*"
        text = put(text, name, f"{table}\n\n{note}")
    written = [f"README.rst, {name}" for name in tables]
    if {"stdio", "http", "websocket"} <= set(tables):
        PICTURE.write_text(picture(found), "utf-8")
        written.append(PICTURE.name)
    README.write_text(text, "utf-8")
    return written


def put(text: str, name: str, block: str) -> str:
    """Return the text with this in the place for it; there has to be one."""
    place = re.compile(rf"^\.\. figures: {name}\n.*?^\.\. end of figures$", re.S | re.M)
    new, times = place.subn(lambda _: f".. figures: {name}\n\n{block}\n\n.. end of figures", text)
    if times != 1:
        raise ValueError(f"there are {times} places for the figures of {name}")
    return new


def where(name: str, peers: Mapping[str, str]) -> str:
    """Say on what it was measured, and against what."""
    packages = [f"{package} {version(package)}" for package in PACKAGES[name]]
    packages += [f"mcp {peers[peer]}" for peer in PEERS.get(name, ()) if peer in peers]
    parts = [
        time.strftime("%Y-%m-%d"),
        f"{os.cpu_count()} x {processor()}",
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"{platform.python_implementation()} {platform.python_version()}",
        *packages,
    ]
    return f"{', '.join(parts)};"


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return found[1].strip() if found else platform.machine()


# -- text -------------------------------------------------------------------------------------------------------------


def list_table(table: Table, found: Found) -> str:
    """Return the table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "", f"   * - {table.title}", "     - limit"]
    lines += [f"     - {title}" for title in table.contenders.values()]
    for case, title in table.cases.items():
        limit = found.get((case, LIMITS[CASES[case].binding]))
        cells = [title, absolute(limit), *(ratio(found.get((case, name))) for name in table.contenders)]
        first, *rest = (f"- {cell}".rstrip() for cell in cells)
        lines += [f"   * {first}", *(f"     {cell}" for cell in rest)]
    return "\n".join(lines)


def start_table(starts: Sequence[Row]) -> str:
    """Return what it takes to begin, in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - a new process, beyond bare Python"]
    lines += ["     - CPU, ms", "     - MB"]
    for row in starts:
        if row["start"] != "bare":
            cpu = f"{row['cpu']:.1f} ({row['low']:.1f} - {row['high']:.1f})"
            lines += [f"   * - {STARTS[row['start']][0]}", f"     - {cpu}", f"     - {row['rss']:.1f}"]
    return "\n".join(lines)


def absolute(row: Row | None) -> str:
    """Return what the limit took: a time, or kilobytes."""
    if row is None:
        return ""
    if CASES[row["case"]].method == "idle":
        return f"{row['wall']:.0f}"
    seconds = row["wall"]
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.{1 if seconds * factor < 10 else 0}f} {unit}"
    return f"{seconds:.1f} s"


def ratio(row: Row | None) -> str:
    """Return how many times as long it took, with the smallest and the largest round; or kilobytes."""
    if row is None:
        return ""
    if CASES[row["case"]].method == "idle":
        return f"{row['wall']:.0f}"
    middle, low, high = (_short(row[key]) for key in ("wall_x", "wall_x_low", "wall_x_high"))
    return middle if row["rounds"] == 1 else f"{middle} ({low} - {high})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


# -- the picture ------------------------------------------------------------------------------------------------------

DRAWN = {
    "tiny": "stdio: tiny call",
    "tiny-one-cpu": "stdio: tiny call, one CPU",
    "text1": "stdio: 1 MB result",
    "text10": "stdio: 10 MB result",
    "threads8": "stdio: 8 threads",
    "threads64": "stdio: 64 threads",
    "notify": "stdio: notifications in",
    "http": "HTTP: tiny call as JSON",
    "http-stream": "HTTP: tiny call as a stream",
    "http-events": "HTTP: 100,000 events",
    "ws": "WebSocket: tiny call",
    "ws-text1": "WebSocket: 1 MB result",
}
COLOURS = {"session": "#1b6ca8", "client": "#63a4d4", "sdk": "#d98e4a", "portal": "#b3541e"}
BAR, GAP, LEFT, WIDE = 11, 9, 190, 560
MOST = 100.0
"""The end of the scale, which is logarithmic."""


def picture(found: Found) -> str:
    """Return bars, as SVG: how many times as long as the limit each takes."""
    groups = [
        (title, [(name, found[case, name]["wall_x"]) for name in COLOURS if (case, name) in found])
        for case, title in DRAWN.items()
    ]
    heights = [len(bars) * BAR + GAP for _, bars in groups]
    tops = [40, *accumulate(heights, initial=40)][1:]
    parts = [_legend(), *(_tick(value, tops[-1]) for value in (1, 2, 5, 10, 20, 50, 100))]
    for (title, bars), top, height in zip(groups, tops, heights, strict=False):
        middle = top + (height - GAP) / 2 + 4
        parts.append(f'<text x="{LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(title)}</text>')
        parts += [_bar(name, value, top + number * BAR) for number, (name, value) in enumerate(bars)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDE + 60}" height="{tops[-1] + 30}"'
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    return "\n".join([f"{head} {style}>", '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])


def _at(value: float) -> float:
    return LEFT + WIDE * log10(max(1.0, min(value, MOST))) / log10(MOST)


def _legend() -> str:
    return "".join(
        f'<rect x="{20 + number * 200}" y="12" width="10" height="10" fill="{colour}"/>'
        f'<text x="{20 + number * 200 + 15}" y="21">{escape(ENTRIES[name].label)}</text>'
        for number, (name, colour) in enumerate(COLOURS.items())
    )


def _tick(value: float, bottom: float) -> str:
    x = f"{_at(value):.1f}"
    line = f'<line x1="{x}" x2="{x}" y1="34" y2="{bottom}" stroke="#ccc"/>'
    return f'{line}<text x="{x}" y="{bottom + 16}" text-anchor="middle">{value} x limit</text>'


def _bar(name: str, value: float, top: float) -> str:
    width = max(1.0, _at(value) - LEFT)
    bar = f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR - 2}" fill="{COLOURS[name]}"/>'
    return f'{bar}<text x="{LEFT + width + 4:.1f}" y="{top + BAR - 3}" font-size="9">{_short(value)}</text>'
