"""The lock-order recorder: which lock was taken while which was held, and what was done meanwhile.

``recorded()`` puts watched locks in the place of ``threading.Lock`` and ``RLock`` in all modules of mcp_sync, and looks
at every call, of C functions too, that a thread makes while it holds one. Afterwards ``Recorder.flaws()`` tells

* cycles: two threads that take the same locks in different orders may wait for each other for ever;
* nesting: two locks of one kind, of different objects, taken one in the other, for which there is no order at all;
* calls that may wait (I/O, sleeping, waiting for an event or a thread) and application code, under a lock that is not
  made for it. Which are, says WAITS_ARE_PERMITTED, with the reason.

Locks are known by where they are made: ``engine/peer.py Peer._lock``. A lock that ``guards nothing`` is a door, which
somebody else opens, and one that is ``never given back`` is a claim: neither is watched, but that nobody waits for a
claim.
"""

from __future__ import annotations

import importlib
import linecache
import logging
import pkgutil
import re
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any

import mcp_sync

PACKAGE = "/mcp_sync/"

# What may wait: by module, or type of what it is a method of, and name. What never waits (MemoryBIO ...) is not here.
WAITING = {
    *(("posix", name) for name in ("read", "write", "readv", "writev", "waitpid", "waitid", "fsync", "fork", "open")),
    *(("time", "sleep"), ("select", "select"), ("_posixsubprocess", "fork_exec"), ("_socket", "getaddrinfo")),
    *(("select.poll", name) for name in ("poll",)),
    *(("select.epoll", name) for name in ("poll",)),
    *(("_queue.SimpleQueue", "get"), ("_thread._ThreadHandle", "join")),
}
SOCKETS = ("send", "sendall", "sendmsg", "recv", "recv_into", "recvmsg", "connect", "accept")

_ASSIGNED = re.compile(r"(\w+)\s*(?::[^=]+)?=\s*.*\.(?:Lock|RLock)\(|(\w+)=threading\.R?Lock")


class Recorder:
    """What was seen, of all threads.

    Args:
        application: The files whose functions are application code.
    """

    def __init__(self, application: tuple[str, ...] = ()) -> None:
        self.edges: dict[tuple[str, str], str] = {}
        self.waits: dict[tuple[str, str], str] = {}
        self.misused: set[str] = set()
        self.taken: dict[str, int] = defaultdict(int)
        self._application = application
        self._own = threading.local()
        self._on = True

    # -- locks, of one thread

    def held(self) -> list[Watched]:
        """Return what the calling thread holds, in the order of taking."""
        try:
            return self._own.held  # type: ignore[no-any-return]
        except AttributeError:
            self._own.held = []
            return self._own.held  # type: ignore[no-any-return]

    def wants(self, lock: Watched) -> None:
        """Note that the calling thread is about to wait for a lock."""
        if not self._on:
            return
        for other in self.held():
            if other is not lock and (other.name, lock.name) not in self.edges:
                self.edges[other.name, lock.name] = _place(sys._getframe(2))

    def got(self, lock: Watched) -> None:
        self.held().append(lock)
        self.taken[lock.name] += 1

    def gave(self, lock: Watched) -> None:
        held = self.held()
        for place in range(len(held) - 1, -1, -1):
            if held[place] is lock:
                del held[place]
                return
        self.misused.add(f"{lock.name} was given back by a thread that did not hold it")

    # -- calls

    def profile(self, frame: FrameType, event: str, function: Any) -> None:
        """Look at one call; for ``threading.setprofile``."""
        held = getattr(self._own, "held", None)
        if not held or not self._on:
            return
        if event == "c_call":
            what = _may_wait(frame, function)
        elif event == "call":
            what = self._is_application(frame)
        else:
            return
        if what is not None:
            for lock in held:
                self.waits.setdefault((lock.name, what), _place(frame))

    def _is_application(self, frame: FrameType) -> str | None:
        code = frame.f_code
        if code.co_filename in self._application:
            return f"application code, {code.co_name}"
        return _LOGS.get(code) or _JOINS.get(code)

    def stop(self) -> None:
        """Look no more."""
        self._on = False

    # -- afterwards

    def flaws(self, permitted: Mapping[str, str], starters: Container[str] = ()) -> list[str]:
        """Return what was wrong.

        Args:
            permitted: The locks that may be held while waiting, and why.
            starters: The modules whose locks may be held while a thread is started.
        """
        found = [f"cycle: {' -> '.join(cycle)}; {self._places(cycle)}" for cycle in self.cycles()]
        found += [f"nesting: {one} in another; at {at}" for (one, other), at in self.edges.items() if one == other]
        for (name, what), at in self.waits.items():
            if name not in permitted and not (what == START and name.split()[0] in starters):
                found.append(f"{what}, under {name}; at {at}")
        return sorted(found) + sorted(self.misused)

    def cycles(self) -> list[list[str]]:
        """Return the shortest cycle through each lock that is in one, each cycle once."""
        after = defaultdict(set)
        for one, other in self.edges:
            if one != other:
                after[one].add(other)
        found: dict[frozenset[str], list[str]] = {}
        for start in after:
            path = _way_back(start, after)
            if path is not None:
                found.setdefault(frozenset(path), path)
        return list(found.values())

    def _places(self, cycle: list[str]) -> str:
        return ", ".join(self.edges[pair] for pair in zip(cycle, cycle[1:], strict=False))


def _way_back(start: str, after: dict[str, set[str]]) -> list[str] | None:
    paths, seen = [[start]], {start}
    for path in paths:  # which grows
        for following in sorted(after.get(path[-1], ())):
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                paths.append([*path, following])
    return None


def _code_of(owner: type, name: str) -> CodeType:
    return getattr(owner, name).__code__  # type: ignore[no-any-return]


_LOGS = {_code_of(logging.Logger, "_log"): "the log, which may be application code"}
_JOINS = {_code_of(threading.Thread, "join"): "waiting for a thread"}
_WAITS, _STARTS = _code_of(threading.Condition, "wait"), _code_of(threading.Thread, "start")
START = "the start of a thread"
"""Which waits until that thread has begun, and for nothing that it does."""


def _may_wait(frame: FrameType, function: Any) -> str | None:
    name, owner = function.__name__, getattr(function, "__self__", None)
    if name == "acquire":
        return _condition_waits(frame)
    if isinstance(owner, socket.socket):
        return f"socket.{name}" if name in SOCKETS else None
    home = owner.__name__ if isinstance(owner, ModuleType) else f"{type(owner).__module__}.{type(owner).__qualname__}"
    return f"{home}.{name}" if (home, name) in WAITING else None


def _condition_waits(frame: FrameType) -> str | None:
    if frame.f_code is not _WAITS or "saved_state" not in frame.f_locals:  # before that it still has its own lock
        return None
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename == threading.__file__:
        if caller.f_code is _STARTS:
            return START
        caller = caller.f_back
    return "waiting for an event"


def _place(frame: FrameType | None) -> str:
    """Return where in the package, or else where at all, a call came from."""
    first = frame
    while frame is not None:
        _, package, rest = frame.f_code.co_filename.rpartition(PACKAGE)
        if package:
            return f"{rest}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{first.f_code.co_filename.rpartition('/')[2]}:{first.f_lineno}" if first is not None else "?"


class Watched:
    """A Lock or an RLock whose comings and goings are recorded."""

    def __init__(self, recorder: Recorder, real: Any, name: str) -> None:
        self.name = name
        self._recorder = recorder
        self._real = real

    def __repr__(self) -> str:
        return f"<Watched {self.name}>"

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            self._recorder.wants(self)
        taken: bool = self._real.acquire(blocking, timeout)
        if taken:
            self._recorder.got(self)
        return taken

    def release(self) -> None:
        self._real.release()
        self._recorder.gave(self)

    def locked(self) -> bool:
        return bool(self._real.locked())

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:  # for a Condition
        return any(lock is self for lock in self._recorder.held())


class Claim:
    """A lock that is never given back: whoever has it has it for good, so nobody may wait for it."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder, self._name, self._real = recorder, name, threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and timeout != 0:
            self._recorder.misused.add(f"{self._name} is never given back, and {_place(sys._getframe(1))} waits for it")
        return self._real.acquire(blocking, timeout)

    def locked(self) -> bool:
        return self._real.locked()


class Threading(ModuleType):
    """What the modules of mcp_sync see as ``threading``."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("threading")
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)

    def Lock(self) -> Any:
        return self._made(threading.Lock(), sys._getframe(1))

    def RLock(self) -> Any:
        return self._made(threading.RLock(), sys._getframe(1))

    def _made(self, real: Any, frame: FrameType) -> Any:
        name, comment = described(frame)
        if "guards nothing" in comment:
            return real
        if "never given back" in comment:
            return Claim(self._recorder, name)
        return Watched(self._recorder, real, name)


def described(frame: FrameType) -> tuple[str, str]:
    """Return the name of a lock that is being made, and the comment beside or above."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    match = _ASSIGNED.search(line)
    attribute = next(filter(None, match.groups()), "?") if match else "?"
    owner = frame.f_locals.get("self")
    of = f"{_home(type(owner), frame.f_code)}." if owner is not None else ""
    _, _, file = frame.f_code.co_filename.rpartition(PACKAGE)
    above = linecache.getline(frame.f_code.co_filename, frame.f_lineno - 1)
    comment = line.partition("#")[2] + (above if above.lstrip().startswith("#") else "")
    return f"{file.rpartition('/tests/')[2]} {of}{attribute}", comment


def _home(kind: type, code: CodeType) -> str:
    """Return the name of the class that some method of a kind of object is defined in."""
    for one in kind.__mro__:
        if any(getattr(member, "__code__", None) is code for member in vars(one).values()):
            return one.__name__
    return kind.__name__


def modules() -> Iterator[ModuleType]:
    """Yield all modules of mcp_sync that can be imported here."""
    for found in pkgutil.walk_packages(mcp_sync.__path__, "mcp_sync."):
        try:
            yield importlib.import_module(found.name)
        except ImportError:  # an extra that is not installed
            continue


@contextmanager
def recorded(*application: str) -> Iterator[Recorder]:
    """Record the locks of all that is made inside, and what threads started inside do under them."""
    from mcp_sync.engine import dispatch

    recorder = Recorder(application)
    seen = Threading(recorder)
    replaced: list[Callable[[], None]] = []
    for module in modules():
        if getattr(module, "threading", None) is threading:
            module.threading = seen  # type: ignore[attr-defined]
            replaced.append(lambda module=module: setattr(module, "threading", threading))  # type: ignore[misc]
    dispatch._renew_reaper()  # whose locks were made at import
    threading.setprofile(recorder.profile)
    sys.setprofile(recorder.profile)
    try:
        yield recorder
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        for put_back in replaced:
            put_back()
        dispatch._renew_reaper()
        recorder.stop()
