"""Monitoring: what a child process, and everything that it starts, uses of memory and processors. Imports psutil.

One look a second at all that is watched in this process, on one thread, set off by the process's one clock. A look asks
for the numbers of all processes, and of the new ones which session they are in: it is inherited, so that of a server
holds its descendants, also when their parents have ended; who begins one of its own is known by its parent. What
escapes is a descendant which began a session of its own, and whose parent ended, between two looks.

Memory is the resident memory of each process, so what several share counts several times.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline
from ..engine.dispatch import Alarm, Lane, reaper
from ..engine.lifetimes import tell_of_forks
from ..policies import Monitoring

if TYPE_CHECKING:
    import psutil

log = logging.getLogger("mcp_sync")

LOOK_SECONDS = 1.0
"""Between two looks."""
FIRST_SECONDS = 0.1
"""Before the first look at a process that has just started; the next comes when it is twice as old, and so on."""
PROCESSOR_SECONDS = 5.0
"""Over so many seconds the use of processors is averaged, or a moment's work would be too much."""
LEAVE_SECONDS = 1.0
"""For the look that is under way when nothing is to be watched any more."""
MIB = 1 << 20


def load() -> ModuleType:
    """Return psutil.

    Raises:
        ImportError: It is not installed; the text names the extra.
    """
    try:
        import psutil
    except ImportError as error:
        text = "enable_process_monitoring, memory_limit_mb and cpu_limit_percent need psutil"
        raise ImportError(f"{text}: pip install 'mcp-sync-transports[monitor]'", name="psutil") from error
    return psutil


@dataclass(frozen=True)
class Usage:
    """What a process and all that it started use.

    Attributes:
        memory: MiB.
        processor: Percent of one processor; None: it has not been watched for long enough.
        processes: How many they are.
    """

    memory: float
    processor: float | None
    processes: int

    def details(self) -> dict[str, Any]:
        """Return it for the details of an error."""
        found: dict[str, Any] = {"memory_mb": round(self.memory, 1), "processes": self.processes}
        if self.processor is not None:
            found["cpu_percent"] = round(self.processor, 1)
        return found


@dataclass(frozen=True)
class Excess:
    """A limit, and what is used in spite of it.

    Attributes:
        resource: ``memory_mb`` or ``cpu_percent``.
        limit: In its unit.
        value: Likewise.
    """

    resource: str
    limit: float
    value: float

    @property
    def fate(self) -> str:
        """What becomes of the process, for a sentence that begins with its name."""
        if self.resource == "memory_mb":
            used, knob = f"{self.value:.1f} MiB of memory", "memory_limit_mb"
        else:
            used, knob = f"{self.value:.1f} % of a processor over {PROCESSOR_SECONDS:g} s", "cpu_limit_percent"
        return f"was ended because it used {used}; {knob} is {self.limit:g}"


class Tree:
    """A process, and all that it started. Used by one thread at a time."""

    def __init__(self, pid: int) -> None:
        self._psutil = load()
        self._leader = pid
        self._members: dict[int, psutil.Process] = {}
        self._sessions: dict[int, int] = {}  # of each member
        self._used: deque[tuple[float, float]] = deque()
        self._total = 0.0
        self._admit(pid, pid)

    def admit(self, newcomers: Mapping[int, tuple[int, int]]) -> None:
        """Take those in that belong here, given the session of each, and the parent where that says more."""
        waiting = dict(newcomers)
        while found := [pid for pid, origin in waiting.items() if self._belongs(*origin)]:
            for pid in found:
                _, session = waiting.pop(pid)
                self._admit(pid, session)

    def _belongs(self, parent: int, session: int) -> bool:
        ours = session == self._leader or session in self._members or session in self._sessions.values()
        return ours or parent in self._members

    def _admit(self, pid: int, session: int) -> None:
        try:
            self._members.setdefault(pid, self._psutil.Process(pid))
            self._sessions[pid] = session
        except self._psutil.Error:
            pass  # gone already

    def measure(self, now: float) -> Usage:
        """Look at each of them."""
        memory, total = 0, 0.0
        for pid, member in list(self._members.items()):
            try:
                if not member.is_running():  # another process may have its number by now
                    del self._members[pid], self._sessions[pid]
                    continue
                with member.oneshot():
                    memory += member.memory_info().rss
                    total += sum(member.cpu_times()[:4])  # its own, and of children that it has collected
            except (self._psutil.Error, OSError):
                continue  # it is just ending; or it is not ours to look at
        return Usage(memory / MIB, self._processor(now, total), len(self._members))

    def _processor(self, now: float, total: float) -> float | None:
        before = self._used[-1][1] if self._used else 0.0
        self._used.append((now, before + max(0.0, total - self._total)))
        self._total = total
        while len(self._used) > 2 and now - self._used[1][0] >= PROCESSOR_SECONDS:
            self._used.popleft()
        since, then = self._used[0]
        return 100 * (self._used[-1][1] - then) / (now - since) if now - since >= PROCESSOR_SECONDS else None

    def kill(self) -> None:
        """Kill all of them that are known; never somebody who has got the number of one."""
        for member in list(self._members.values()):
            try:
                member.kill()
            except (self._psutil.Error, OSError):
                pass


class Watch:
    """The watch over one process tree.

    Threads: the monitor's looks; any other may ask for ``usage``, or end it.

    Args:
        pid: Whose tree.
        limits: What it may use.
        tell: A bound method that is told, once, of what is too much; must not wait. Its object is not kept alive.
    """

    def __init__(self, pid: int, limits: Monitoring, tell: Callable[[Excess], object]) -> None:
        self.tree = Tree(pid)
        self.usage: Usage | None = None
        self._limits = limits
        self._tell: weakref.WeakMethod[Callable[[Excess], object]] | None = weakref.WeakMethod(tell)
        self._since = time.monotonic()

    @property
    def age(self) -> float:
        """For how many seconds there has been a watch."""
        return time.monotonic() - self._since

    def look(self, newcomers: Mapping[int, tuple[int, int]]) -> None:
        """Look at the tree, and tell if it uses too much; what was found then stays as it was."""
        if self._tell is None:
            return
        self.tree.admit(newcomers)
        self.usage = usage = self.tree.measure(time.monotonic())
        excess = self._excess(usage)
        tell = self._tell()
        if excess is not None and tell is not None:
            self._tell = None
            tell(excess)

    def _excess(self, usage: Usage) -> Excess | None:
        memory, processor = self._limits.memory, self._limits.processor
        if memory is not None and usage.memory > memory:
            return Excess("memory_mb", memory, usage.memory)
        if processor is not None and usage.processor is not None and usage.processor > processor:
            return Excess("cpu_percent", processor, usage.processor)
        return None

    @property
    def pointless(self) -> bool:
        """Whether whoever wanted to be told is no more."""
        return self._tell is not None and self._tell() is None

    def begin(self) -> None:
        """Begin to look."""
        _monitor.add(self)

    def end(self) -> None:
        """Look no more. Idempotent."""
        _monitor.remove(self)


class _Monitor:
    """All watches of this process.

    Threads: one while there are any, ``mcp-monitor``, which looks; the reaper's thread says when.
    Locks: ``_lock``, held for a few instructions.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()  # guards _watches, _lane, _alarm, _known
        self._watches: list[Watch] = []
        self._lane: Lane | None = None
        self._alarm: Alarm | None = None
        self._known: set[int] = set()

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._watches.append(watch)
            self._known = set()  # a child that it already has may have been taken for a stranger's
            if self._lane is None:
                self._lane = Lane("mcp-monitor")
                tell_of_forks(self)
            if not self._is_due_within(FIRST_SECONDS):
                self._set_alarm(FIRST_SECONDS)

    def remove(self, watch: Watch) -> None:
        with self._lock:
            self._watches = [other for other in self._watches if other is not watch]
            lane = None
            if not self._watches:
                lane, self._lane = self._lane, None
                self._call_off()
        if lane is not None:
            lane.close(Deadline(LEAVE_SECONDS))

    def _is_due_within(self, seconds: float) -> bool:
        alarm = self._alarm
        return alarm is not None and alarm.job is not None and alarm.at <= time.monotonic() + seconds

    def _set_alarm(self, seconds: float) -> None:
        """Look in so many seconds, and not before; under the lock."""
        self._call_off()
        lane = self._lane
        if lane is not None:
            self._alarm = reaper.at(Deadline(seconds), lambda: lane.offer(lambda: self._look(lane)))

    def _call_off(self) -> None:
        if self._alarm is not None:
            reaper.call_off(self._alarm)
        self._alarm = None

    def _look(self, lane: Lane) -> None:
        with self._lock:
            if lane is not self._lane:
                return
            watches = self._watches = [watch for watch in self._watches if not watch.pointless]
            known, self._known = self._known, set()
        pids, newcomers = _census(known)
        for watch in watches:
            try:
                watch.look(newcomers)
            except Exception:  # the others are to be looked at all the same
                log.exception("a process could not be looked at")
        self._look_again(lane, pids)

    def _look_again(self, lane: Lane, pids: set[int]) -> None:
        with self._lock:
            if lane is not self._lane:
                return
            if not self._watches:  # nobody was there any more to end them
                self._lane = None
                lane.close(Deadline(0))
            elif not self._is_due_within(FIRST_SECONDS):  # else somebody has come meanwhile
                self._known = pids
                youngest = min(watch.age for watch in self._watches)
                self._set_alarm(min(LOOK_SECONDS, max(FIRST_SECONDS, youngest)))

    def forked(self) -> None:
        """In a forked child: the processes are the parent's."""
        self._renew()


_monitor = _Monitor()


def _census(known: set[int]) -> tuple[set[int], dict[int, tuple[int, int]]]:
    """Return the numbers of all processes, and of those not known the session, and its leader's parent; else 0."""
    psutil = load()
    pids = set(psutil.pids())
    newcomers: dict[int, tuple[int, int]] = {}
    for pid in pids - known:
        try:
            session = os.getsid(pid)
            newcomers[pid] = (psutil.Process(pid).ppid() if session == pid else 0, session)
        except (psutil.Error, OSError):
            continue  # gone already; or it is not ours to look at
    return pids, newcomers
