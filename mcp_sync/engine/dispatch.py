"""Where code runs: the one place that starts threads, and the ways to get work onto one.

* ``Lane``: jobs one at a time, in order: notifications, progress, done-callbacks, observers.
* ``Crew``: jobs at once, up to a limit and never queued: requests of the other side.
* ``Workers``: jobs at once, up to a limit, and more that wait: requests over HTTP that nobody waits for.
* ``Reaper``: one thread for the whole process that ends what has a deadline and nobody waiting for it.

Every thread has a name beginning with ``mcp-``, is a daemon, and is joined by whoever closes its owner.
"""

from __future__ import annotations

import _thread
import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from ..deadlines import Deadline
from ..exceptions import TooManyRequests
from . import interrupts

log = logging.getLogger("mcp_sync")

Job: TypeAlias = "Callable[[], object]"
R = TypeVar("R")

IDLE_SECONDS = 10.0
"""A worker with nothing to do for so long ends; the next job starts a new one."""


def start_thread(name: str, target: Callable[..., object], *args: Any) -> threading.Thread:
    """Start a daemon thread; the only call of ``threading.Thread`` in the package.

    Raises:
        RuntimeError: There can be no more threads, or the interpreter is shutting down.
    """
    thread = threading.Thread(name=name, target=target, args=args, daemon=True)
    if not interrupts.on_main_thread():
        thread.start()
        return thread
    # Ctrl-C in ``start`` may keep the new thread from ever beginning (see interrupts.py); so a bare thread calls that.
    flaws: list[RuntimeError] = []
    begun = interrupts.Event()

    def start() -> None:
        try:
            thread.start()
        except RuntimeError as flaw:
            flaws.append(flaw)
        begun.set()

    _thread.start_new_thread(start, ())
    begun.wait()
    if flaws:
        raise flaws.pop()
    return thread


def start_thread_in_finalizer(name: str, target: Callable[..., object], *args: Any) -> None:
    """Start a daemon thread from a place where no lock may be taken.

    The garbage collector may call a finalizer while this very thread holds a lock, of ours or of ``threading``; so a
    bare thread, which takes none, starts the real one. When the interpreter is shutting down there is neither.
    """

    def start() -> None:
        try:
            start_thread(name, target, *args)
        except RuntimeError:  # the shutdown began after the bare thread did, or there can be no more threads
            pass

    try:
        _thread.start_new_thread(start, ())
    except RuntimeError:
        pass


def uninterrupted(name: str, work: Callable[[], R], undo: Callable[[R], object]) -> R:
    """Do work that Ctrl-C must not cut in two; if it comes meanwhile, whoever is last undoes the result.

    Signals interrupt the main thread only, so another one does it.

    Args:
        name: What to call the thread.
        work: What to do; has to end by itself.
        undo: Is given the result that nobody wants.
    """
    if not interrupts.on_main_thread():
        return work()
    errand = _Errand(work, undo)
    try:
        try:
            start_thread(name, errand.run)
        except RuntimeError:  # the interpreter is shutting down, or there can be no more threads
            return work()
        return errand.wait()
    except BaseException:
        errand.abandon()
        raise


class _Errand(Generic[R]):
    """Work that one thread does for another.

    Locks: ``_lock``, held for a few instructions.
    """

    def __init__(self, work: Callable[[], R], undo: Callable[[R], object]) -> None:
        self._work = work
        self._undo = undo
        self._over = interrupts.Event()
        self._lock = threading.Lock()  # guards _results, _unwanted
        self._results: list[R] = []
        self._error: BaseException | None = None
        self._unwanted = False

    def run(self) -> None:
        results: list[R] = []
        try:
            results.append(self._work())
        except BaseException as error:
            self._error = error
        with self._lock:
            self._results = results
        self._over.set()
        if self._unwanted:
            self.abandon()

    def wait(self) -> R:
        self._over.wait()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._results[0]
        finally:
            del error  # its traceback refers to this frame

    def abandon(self) -> None:
        with self._lock:
            self._unwanted = True
            results, self._results = self._results, []
        for result in results:
            self._undo(result)


def join(thread: threading.Thread | None, deadline: Deadline) -> bool:
    """Wait for a thread to end, unless it is the one we are on; a survivor is logged by name."""
    if thread is None or thread is threading.current_thread():
        return True
    thread.join(deadline.remaining)
    if thread.is_alive():
        log.warning("thread %s has not ended within %.1f s", thread.name, deadline.limit)
        return False
    return True


_exit_began = interrupts.Event()


def begin_exit() -> None:
    """Note that the interpreter exits: threads are joined no more, and none is told what we end."""
    _exit_began.set()


def exiting() -> bool:
    """Whether the interpreter exits; every thread that is still there is a daemon, and ends with it."""
    return _exit_began.is_set()


def stand_still(seconds: float) -> None:
    """At exit, hold a daemon thread where it is: that we end its connection is no news for it to act on."""
    if exiting() and threading.current_thread() is not threading.main_thread():
        interrupts.Event().wait(seconds)


def run_guarded(job: Job) -> None:
    """Run application code; what it raises goes to the log and hurts nothing."""
    try:
        job()
    except BaseException:  # sys.exit() too: the thread has other jobs to do
        log.exception("a callback failed")


class Lane:
    """Runs jobs one at a time and in order, on a thread that starts with the first and retires when idle.

    A job that was ``offered`` may be dropped, when more of them wait than the limits allow or when the lane closes and
    has no grace, or no more.
    A job that was ``posted`` always runs.

    Threads: one worker, ``name``; it refers to the lane, never to those who post.
    Locks: ``_lock``, held for a few instructions.

    Args:
        name: The worker's name.
        backlog: How many offered jobs may wait.
        backlog_bytes: How large the offered jobs that wait may be in sum, by the size their callers give.
        grace: For how many seconds after closing offered jobs that wait are still begun, at most until the deadline.
    """

    def __init__(self, name: str, backlog: int = 1000, backlog_bytes: int = 8 << 20, grace: float = 0.0) -> None:
        self._name = name
        self._backlog = backlog
        self._backlog_bytes = backlog_bytes
        self._grace = grace
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child, where the worker and perhaps a held lock stayed behind."""
        self._jobs: queue.SimpleQueue[tuple[Job, int | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards _offered, _offered_bytes, _worker, _closed, _last_orders
        self._offered = 0
        self._offered_bytes = 0
        self._worker: threading.Thread | None = None
        self._closed = False
        self._last_orders: Deadline | None = None

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is the lane's."""
        return threading.current_thread() is self._worker

    @property
    def last_orders(self) -> Deadline | None:
        """Until when offered jobs that wait are still begun; None as long as the lane is not closed."""
        return self._last_orders

    def post(self, job: Job) -> None:
        """Run the job after those before it. Where no thread can do it any more, it runs here and now."""
        with self._lock:
            if not self._closed and self._put(job, None):
                return
        run_guarded(job)

    def offer(self, job: Job, size: int = 0) -> bool:
        """Run the job after those before it, or return False: too much is waiting."""
        with self._lock:
            full = self._offered >= self._backlog or self._offered_bytes + size > self._backlog_bytes
            if self._closed or (full and self._offered) or not self._put(job, size):
                return False
            self._offered += 1
            self._offered_bytes += size
            return True

    def _put(self, job: Job, size: int | None) -> bool:
        if self._worker is None:
            try:
                self._worker = start_thread(self._name, self._work)
            except RuntimeError:  # the interpreter is shutting down, or there can be no more threads
                return False
        self._jobs.put((job, size))
        return True

    def close(self, deadline: Deadline) -> None:
        """Run what was posted, drop what was offered when the grace is over, and wait for the worker to end."""
        with self._lock:
            worker, self._closed = self._worker, True
            if self._last_orders is None:
                self._last_orders = deadline.sooner(self._grace)
            if worker is not None:
                self._jobs.put((_stop, None))  # each time: Ctrl-C may have kept the first from doing so
        if not exiting():
            join(worker, deadline)

    def _work(self) -> None:
        with self._lock:
            if self._worker is None and not self._closed:  # Ctrl-C kept start_thread from returning
                self._worker = threading.current_thread()
        while self.is_current:
            try:
                job, size = self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if self._retire():
                    return
                continue
            if job is _stop:
                return
            if size is None or self._take(size):
                run_guarded(job)
            del job  # or the last job's objects would live as long as the idle worker

    def _take(self, size: int) -> bool:
        with self._lock:
            self._offered -= 1
            self._offered_bytes -= size
            return self._last_orders is None or not self._last_orders.expired

    def _retire(self) -> bool:
        with self._lock:
            if self._jobs.empty():
                self._worker = None
                return True
            return False


def _stop() -> None:
    """Mark the end of a lane's jobs."""


class Crew:
    """Runs jobs at once, each on a thread that has no other; past the limit it says no.

    Threads: ``<name>-<number>``, started on demand, retired when idle for a while.
    Locks: ``_lock``, held for a few instructions.

    Args:
        name: What the threads are called.
        limit: How many jobs have a place; as many more may be at their end, having given theirs back.
        idle: Seconds after which a thread with nothing to do ends; None: IDLE_SECONDS.
    """

    def __init__(self, name: str, limit: int, idle: float | None = None) -> None:
        self._name = name
        self._limit = limit
        self._idle = idle
        self._numbers = itertools.count(1)
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, in a forked child, and after closing; what still runs then counts no more."""
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards _threads, _busy, _placed, _closed
        self._threads: set[threading.Thread] = set()
        self._busy = 0
        self._placed = 0
        self._holds = threading.local()
        self._closed = False

    def start(self, job: Job) -> bool:
        """Run the job now, or return False: the limit is reached, or the crew is closed."""
        with self._lock:
            if self._closed or self._placed >= self._limit or self._busy >= 2 * self._limit:
                return False
            if self._busy == len(self._threads):
                try:
                    self._threads.add(start_thread(f"{self._name}-{next(self._numbers)}", self._work, self._jobs))
                except RuntimeError:  # the interpreter is shutting down, or there can be no more threads
                    return False
            self._busy += 1
            self._placed += 1
            self._jobs.put(job)
            return True

    def give_place(self) -> None:
        """Let another job have the place of the one that calls this, which has only to tell somebody that it is over.

        Who hears that may come with the next job before this one has ended, and would be told no.
        """
        if getattr(self._holds, "place", False):
            self._holds.place = False
            with self._lock:
                self._placed -= 1

    def close(self, deadline: Deadline) -> None:
        """Take no more jobs and wait for those that run."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
            for _ in threads:
                self._jobs.put(_stop)
        for thread in [] if exiting() else threads:
            join(thread, deadline)

    def _work(self, jobs: queue.SimpleQueue[Job]) -> None:
        while jobs is self._jobs:
            try:
                job = jobs.get(timeout=IDLE_SECONDS if self._idle is None else self._idle)
            except queue.Empty:
                if self._retire(jobs):
                    return
                continue
            if job is _stop:
                return
            self._holds.place = True
            run_guarded(job)
            del job  # or the last job's objects would live as long as the idle worker
            self.give_place()
            with self._lock:
                self._busy -= jobs is self._jobs

    def _retire(self, jobs: queue.SimpleQueue[Job]) -> bool:
        with self._lock:
            if not jobs.empty():
                return False
            self._threads.discard(threading.current_thread())
            return True


class Workers:
    """Runs jobs on up to so many threads; more wait, up to a limit, and past that it says no.

    Threads: ``<name>-<number>``, started on demand, retired when idle; they refer to the workers, not to who offers.
    Locks: ``_lock``, held for a few instructions.

    Args:
        name: What the threads are called.
        threads: How many of them there may be.
        backlog: How many jobs may wait.
    """

    def __init__(self, name: str, threads: int, backlog: int = 1000) -> None:
        self._name = name
        self._most = threads
        self._backlog = backlog
        self._numbers = itertools.count(1)
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child."""
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards _threads, _unclaimed, _closed
        self._threads: set[threading.Thread] = set()
        self._unclaimed = 0
        self._idle = 0
        self._closed = False

    def offer(self, job: Job) -> bool:
        """Run the job soon, or return False: too many wait, or there can be no thread."""
        with self._lock:
            if self._closed or self._unclaimed >= self._backlog:
                return False
            if self._idle <= self._unclaimed and len(self._threads) < self._most:
                try:
                    self._threads.add(start_thread(f"{self._name}-{next(self._numbers)}", self._work))
                    self._idle += 1
                except RuntimeError:  # the interpreter is shutting down, or there can be no more threads
                    if not self._threads:
                        return False
            self._unclaimed += 1
            self._jobs.put(job)
            return True

    def close(self, deadline: Deadline) -> None:
        """Take no more jobs, run those that wait, and wait for the threads to end."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
            for _ in threads:
                self._jobs.put(_stop)
        for thread in [] if exiting() else threads:
            join(thread, deadline)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if self._leave():
                    return
                continue
            if job is _stop:
                return
            with self._lock:
                self._unclaimed -= 1
                self._idle -= 1
            run_guarded(job)
            del job
            with self._lock:
                self._idle += 1

    def _leave(self) -> bool:
        with self._lock:
            if not self._jobs.empty():
                return False
            self._idle -= 1
            self._threads.discard(threading.current_thread())
            return True


class Alarm:
    """A job that the reaper runs at a point in time, unless it is called off first."""

    __slots__ = ("at", "job", "number")

    def __init__(self, at: float, number: int, job: Job) -> None:
        self.at = at
        self.number = number
        self.job: Job | None = job

    def __lt__(self, other: Alarm) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Reaper:
    """Ends what has a deadline and nobody waiting for it: futures that were submitted, exchanges over HTTP.

    Threads: one for the process, ``mcp-deadlines``, started with the first alarm, retired when there are none.
    Locks: ``_lock``, held for a few instructions; jobs run outside it and must not block.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _alarms, _dead, _worker
        self._bell = threading.Lock()  # guards nothing: the worker waits for it to be released
        self._bell.acquire()
        self._alarms: list[Alarm] = []
        self._dead = 0
        self._numbers = itertools.count()
        self._worker: threading.Thread | None = None

    def at(self, deadline: Deadline, job: Job) -> Alarm:
        """Run the job when the deadline has come; keep the alarm to call it off.

        Raises:
            TooManyRequests: There can be no more threads, or the interpreter is shutting down.
        """
        alarm = Alarm(deadline.at, next(self._numbers), job)
        with self._lock:
            if self._worker is None:
                self._worker = self._start()
            heapq.heappush(self._alarms, alarm)
            first = self._alarms[0] is alarm
        if first:
            self._ring()
        return alarm

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it rings already

    def _start(self) -> threading.Thread:
        try:
            return start_thread("mcp-deadlines", self._work)
        except RuntimeError as error:
            text = f"nobody can keep the deadline of a call that is not waited for: {error}"
            raise TooManyRequests(text, may_have_run=False) from error

    def call_off(self, alarm: Alarm) -> None:
        """Forget the alarm, and let go at once of what its job refers to."""
        with self._lock:
            if alarm.job is None:
                return
            alarm.job = None
            self._dead += 1
            if self._dead > 64 and self._dead * 2 > len(self._alarms):
                self._alarms = [other for other in self._alarms if other.job]
                heapq.heapify(self._alarms)
                self._dead = 0

    def _work(self) -> None:
        with self._lock:
            if self._worker is None:  # Ctrl-C kept start_thread from returning
                self._worker = threading.current_thread()
        while self._worker is threading.current_thread():
            job, patience = self._next_job()
            if job is not None:
                run_guarded(job)
            elif not self._bell.acquire(timeout=patience) and self._retire():
                return
            del job

    def _next_job(self) -> tuple[Job | None, float]:
        """Return the job whose time has come; if there is none, how long to wait for one."""
        with self._lock:
            while self._alarms and self._alarms[0].job is None:
                heapq.heappop(self._alarms)
                self._dead = max(0, self._dead - 1)
            if not self._alarms:
                return None, IDLE_SECONDS
            left = self._alarms[0].at - time.monotonic()
            if left > 0:
                return None, min(left, threading.TIMEOUT_MAX)
            alarm = heapq.heappop(self._alarms)
            job, alarm.job = alarm.job, None
            return job, 0.0

    def _retire(self) -> bool:
        with self._lock:
            if self._alarms:
                return False
            self._worker = None
            return True


reaper = Reaper()
"""The process's own; a forked child gets a new one."""


def _renew_reaper() -> None:
    reaper.__init__()  # type: ignore[misc]  # its thread and perhaps a held lock stayed in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_reaper)
