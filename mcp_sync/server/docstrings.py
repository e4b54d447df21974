"""What a docstring says of a function, and of each of its parameters: in Google's, NumPy's or Sphinx's way.

Any text is understood somehow; what is in none of these ways belongs to the description.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence

_GOOGLE = re.compile(r"(?:Args|Arguments|Params|Parameters|Keyword Args|Keyword Arguments|Other Parameters):\s*")
_GOOGLE_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:(?:\s+(.*)|\s*)")
_NUMPY = re.compile(r"(?:Other )?Parameters\s*")
_NUMPY_ITEM = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_DASHES = re.compile(r"-{3,}\s*|={3,}\s*")
_SPHINX = re.compile(r":(param|parameter|arg|argument|key|keyword|type)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)")

Parts = tuple[str, str]
"""The name of a parameter, and something that is said of it."""


def split_docstring(doc: str | None) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of the function, and what it says of its parameters, by name."""
    lines = inspect.cleandoc(doc or "").splitlines()
    kept: list[str] = []
    said: dict[str, list[str]] = {}
    while lines:
        taken, parts = _section(lines)
        if not parts:
            kept.append(lines[0])
            taken = 1
        for name, text in parts:
            said.setdefault(name, []).append(text)
        lines = lines[taken:]
    described = {name: " ".join(" ".join(texts).split()) for name, texts in said.items()}
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip(), {name: text for name, text in described.items() if text}


def _section(lines: Sequence[str]) -> tuple[int, list[Parts]]:
    """Return how many of the next lines are about parameters, and what they say; no parts where they are not."""
    if _GOOGLE.fullmatch(lines[0]):
        block = list(_indented(lines[1:]))
        return len(block) + 1, list(_google_items(block))
    if len(lines) > 1 and _NUMPY.fullmatch(lines[0]) and _DASHES.fullmatch(lines[1]):
        block = list(_numpy_block(lines[2:]))
        return len(block) + 2, list(_numpy_items(block))
    if field := _SPHINX.fullmatch(lines[0]):
        block = list(_indented(lines[1:]))
        kind, name, text = field.groups()
        return len(block) + 1, [(name, "" if kind == "type" else " ".join([text, *block]))]
    return 1, []


def _indented(lines: Iterable[str]) -> Iterator[str]:
    """The lines that belong to a heading at the left margin; empty lines after them as well."""
    for line in lines:
        if line.strip() and not line[0].isspace():
            return
        yield line


def _google_items(block: Sequence[str]) -> Iterator[Parts]:
    margin = min((_margin(line) for line in block if line.strip()), default=0)
    name = ""
    for line in block:
        item = _GOOGLE_ITEM.fullmatch(line.strip()) if line.strip() and _margin(line) == margin else None
        if item:
            name = item[1]
            yield name, item[2] or ""
        elif name:
            yield name, line


def _numpy_block(lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        at_margin = bool(line.strip()) and not line[0].isspace()
        if at_margin and (_DASHES.fullmatch(following) or not _NUMPY_ITEM.fullmatch(line)):
            return
        yield line


def _numpy_items(block: Sequence[str]) -> Iterator[Parts]:
    names: list[str] = []
    for line in block:
        if line.strip() and not line[0].isspace():
            item = _NUMPY_ITEM.fullmatch(line)
            names = [name.strip().lstrip("*") for name in item[1].split(",")] if item else []
            yield from ((name, "") for name in names)
        else:
            yield from ((name, line) for name in names)


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())
