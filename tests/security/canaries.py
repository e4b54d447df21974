"""Canaries: secrets that are found again wherever they come out, whatever was done to them; and all that may tell them.

::

    canaries = Canaries()
    with watching() as evidence:
        client = Client(url, auth_header=f"Bearer {canaries.plant('auth_header')}")
        ...
        evidence.look("client", client, error)
    assert canaries.found_in(evidence) == []

Each secret has a name of its own, so that a finding says which of them came out, where, and how it was written.
"""

from __future__ import annotations

import base64
import codecs
import gc
import json
import logging
import pickle
import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

import mcp_sync

FRAGMENT = 10
"""Characters: so much of the beginning or the end of a secret is a leak, too."""


def spellings(secret: str) -> dict[str, str]:
    """Return how a secret may look when it is found where it does not belong; all in lower case but what has cases."""
    raw = secret.encode()
    found = {
        "as it is": secret,
        "its beginning": secret[:FRAGMENT],
        "its end": secret[-FRAGMENT:],
        "backwards": secret[::-1],
        "percent-encoded": "".join(f"%{byte:02x}" for byte in raw),
        "hex": raw.hex(),
        "hex with blanks": raw.hex(" "),
        "escaped in JSON": "".join(f"\\u{ord(letter):04x}" for letter in secret),
        "escaped in Python": "".join(f"\\x{byte:02x}" for byte in raw),
        "as an entity": "".join(f"&#{ord(letter)};" for letter in secret),
        "numbers": ", ".join(map(str, raw)),
        "rot13": codecs.encode(secret, "rot13"),
        "quoted twice": quote(quote(f"%{raw[0]:02x}", safe=""), safe="") + secret[1:],
        "UTF-16": raw.decode("latin-1").encode("utf-16-le").decode("latin-1"),
    }
    for shift in range(3):  # in the middle of something, at each of its three offsets
        inner = base64.b64encode(b"\0" * shift + raw)[4:].rstrip(b"=")[:-1].decode()
        found[f"base64, {shift}"] = inner
        found[f"base64 of base64, {shift}"] = base64.b64encode(inner.encode()).rstrip(b"=")[:-2].decode()
    return found


class Canaries:
    """The secrets of one run, by their names."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}

    def plant(self, name: str, shape: str = "{}") -> str:
        """Return a secret, the same one for the same name; ``shape`` says what else stands around it."""
        known = self._secrets.setdefault(name, "kq" + secrets.token_hex(11) + "zx")
        return shape.format(known)

    def know(self, name: str, secret: str) -> str:
        """Take note of a secret that somebody else made, and return it."""
        self._secrets[name] = secret
        return secret

    @property
    def names(self) -> set[str]:
        """Their names."""
        return set(self._secrets)

    def planted_in(self, data: bytes) -> set[str]:
        """Return the names of those that are there, in any spelling: the proof that they were in use at all."""
        text = data.decode("latin-1")
        return {name for name, secret in self._secrets.items() if _spelled_in(secret, text, text.lower())}

    def found_in(self, evidence: Evidence, *, but: Iterable[str] = ()) -> list[str]:
        """Return one line for each secret and place where it came out; names in ``but`` are not sought."""
        looked, found = evidence.texts(), set()
        sought = {name: spellings(secret) for name, secret in self._secrets.items() if name not in set(but)}
        for where, text in looked:
            lower = text.lower()
            for name, known in sought.items():
                spelling = _first(known, text, lower)
                if spelling is not None:
                    at = _at(known[spelling], text, lower)
                    found.add(f"{name} ({spelling}) in {where}: ...{text[max(0, at - 70) : at + 40]!r}...")
        return sorted(found)


def _spelled_in(secret: str, text: str, lower: str) -> bool:
    return _first(spellings(secret), text, lower) is not None


def _first(known: Mapping[str, str], text: str, lower: str) -> str | None:
    return next((name for name, spelling in known.items() if _at(spelling, text, lower) >= 0), None)


def _at(spelling: str, text: str, lower: str) -> int:
    at = text.find(spelling)
    return at if at >= 0 else lower.find(spelling)


# -- what may tell -----------------------------------------------------------------------------------------------------


@dataclass
class Evidence:
    """Texts, each with where it was found."""

    _texts: list[tuple[str, str]] = field(default_factory=list)
    _pieces: list[Callable[[], tuple[str, str]]] = field(default_factory=list)

    def add(self, where: str, text: str | bytes) -> None:
        """Keep a text."""
        self._texts.append((where, text if isinstance(text, str) else text.decode("latin-1")))

    def later(self, where: str, text: Callable[[], str]) -> None:
        """Keep what a function returns in the end."""
        self._pieces.append(lambda: (where, text()))

    def look(self, where: str, *things: Any) -> None:
        """Keep all that things tell about themselves: objects, and errors with what hangs on them."""
        for thing in things:
            for how, text in told_by(thing):
                self.add(f"{where}, {how}", text)

    def texts(self) -> list[tuple[str, str]]:
        """Return all of them."""
        return [*self._texts, *(piece() for piece in self._pieces)]


def told_by(thing: Any) -> Iterator[tuple[str, str]]:
    """Yield what can be read of an object, and how."""
    kind = type(thing).__name__
    if isinstance(thing, bytes):
        yield "bytes", thing.decode("latin-1")
        return
    yield f"str of {kind}", str(thing)
    yield f"repr of {kind}", repr(thing)
    yield f"format of {kind}", f"{thing}"
    if isinstance(thing, BaseException):
        yield from _told_by_error(thing, kind)
    elif not isinstance(thing, str) and hasattr(thing, "transport") and hasattr(thing.transport, "name"):
        yield "transport.name", thing.transport.name
        yield "repr of transport", repr(thing.transport)


def _told_by_error(error: BaseException, kind: str) -> Iterator[tuple[str, str]]:
    yield f"traceback of {kind}", "".join(traceback.format_exception(type(error), error, error.__traceback__))
    yield f"log of {kind}", logging.Formatter().formatException((type(error), error, error.__traceback__))
    yield f"attributes of {kind}", repr(vars(error))
    yield f"details of {kind}", json.dumps(getattr(error, "details", None), default=repr)
    raw = pickle.dumps(error)
    yield f"pickle of {kind}", raw.decode("latin-1")
    again = pickle.loads(raw)
    yield f"{kind} out of its pickle", f"{again} {again!r} {vars(again)!r}"
    for one in (error.__cause__, None if error.__suppress_context__ else error.__context__):
        if one is not None:
            yield from ((f"{how}, behind {kind}", text) for how, text in told_by(one))


class _Notes(logging.Handler):
    """Keeps log records as they would be written."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(threadName)s %(funcName)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{self.format(record)} {record.args!r}")


@contextmanager
def watching() -> Iterator[Evidence]:
    """Collect what goes to any logger at DEBUG, what ends threads, what is raised where nobody can catch it."""
    evidence, notes = Evidence(), _Notes()
    evidence.later("the log", lambda: "\n".join(notes.lines))
    root, own = logging.getLogger(), logging.getLogger("mcp_sync")
    levels = root.level, own.level
    with _hooks(evidence):
        root.addHandler(notes)
        root.setLevel(logging.DEBUG)
        own.setLevel(logging.DEBUG)
        try:
            yield evidence
        finally:
            root.setLevel(levels[0])
            own.setLevel(levels[1])
            root.removeHandler(notes)


@contextmanager
def _hooks(evidence: Evidence) -> Iterator[None]:
    before = sys.unraisablehook
    sys.unraisablehook = lambda failure: evidence.look("unraisable", failure.exc_value, repr(failure.object))
    try:
        yield
    finally:
        sys.unraisablehook = before


PARTS = {"Server", "WsgiApp", "SseApp", "Seal", "Gate", "Passport", "Peer", "Offer", "Settings", "Visitor", "_Route"}
"""What is looked at, beside all that users hold: what knows secrets."""
DATA = {"Notification", "ToolResult"}


def threads_and_objects() -> str:
    """Return the names of all threads, and the reprs of all live objects that users hold or that know secrets."""
    wanted = ({*mcp_sync.__all__} | PARTS) - DATA
    ours = [one for one in gc.get_objects() if type(one).__name__ in wanted and not isinstance(one, BaseException)]
    shown = [_shown(one) for one in ours if str(type(one).__module__).startswith("mcp_sync.")]
    return "\n".join([*(thread.name for thread in threading.enumerate()), *shown])


def _shown(one: Any) -> str:
    try:
        return repr(one)
    except AttributeError:  # another thread is making it
        return ""


def check(canaries: Canaries, evidence: Evidence, *, but: Iterable[str] = ()) -> None:
    """Fail if a secret has come out."""
    __tracebackhide__ = True
    if found := canaries.found_in(evidence, but=but):
        lines = "\n  ".join(line[:400] for line in found[:60])
        pytest.fail(f"secrets came out, at {len(found)} places:\n  {lines}", pytrace=False)
