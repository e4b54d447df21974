"""Stores: where a server keeps what outlives one HTTP request: handshake sessions, tasks, the events of their streams.

A store keeps **records**: small JSON objects that expire when they are idle. A record has **streams** of events, each
with an id, so that a client that lost its connection goes on where it was. Streams are bounded, in what one of them and
what all of one record may hold: first go complete streams, the oldest first. Those that were completed just now have
half of the room, and only then go the oldest events of streams that go on. What was added last is always kept. And a
store carries **notices** to every process that uses it.

``MemorySessionStore`` is for one process; ``RedisSessionStore`` (redis_store.py) for several, on several machines.

Source: basic/transports (2025-11-25), "Session Management" and "Resumability and Redelivery".
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..engine import interrupts
from ..engine.lifetimes import tell_of_forks
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError
from ..protocol.messages import encode

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("mcp_sync")

FRESH_SECONDS = 10.0
"""So long after its last event a stream's reader may not have had it yet."""
UPDATE_SECONDS = 10.0
"""For an update of a record that others change all the time."""

Events: TypeAlias = "list[tuple[str, bytes]]"
Change: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any] | None]"

_STREAM = re.compile(r"[!-~]{1,200}")
_EVENT_ID = re.compile(r"([!-~]{1,200})\.([1-9][0-9]{0,14})")


class Gone(MCPError):
    """The record is not there: it was dropped, it expired, or it never was."""


@dataclass(frozen=True)
class Bounds:
    """How much is kept of the streams of one record; a single event is kept however large it is.

    Attributes:
        events: Events of all streams.
        size: Bytes of all streams.
        stream_events: Events of one stream.
        stream_size: Bytes of one stream.
        seconds: How long a complete stream is kept at least, if there is room; it goes with the next event after that.
    """

    events: int = 2000
    size: int = 8 << 20
    stream_events: int = 1000
    stream_size: int = 4 << 20
    seconds: int = 300

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{one.name} must be a whole number, not {type(value).__name__} ({value!r})")
            if value < 1:
                raise ValueError(f"{one.name} must be 1 or more, not {value}")
        if self.seconds < FRESH_SECONDS:
            raise ValueError(f"seconds must be {FRESH_SECONDS:g} or more, not {self.seconds}")
        if self.stream_events > self.events or self.stream_size > self.size:
            raise ValueError("one stream must not be allowed more than all streams of a record together")


class SessionStore(ABC):
    """Records, their streams of events, and notices; usable from many threads.

    Every method may raise MCPConnectionError where the store cannot be reached, and once it is closed.

    Attributes:
        shared: Whether other processes see what is in it.
    """

    shared: ClassVar[bool]

    # -- records -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def create(
        self,
        kind: str,
        key: str,
        value: Mapping[str, Any],
        seconds: float,
        *,
        owner: str = "",
        most: int = 0,
        most_per_owner: int = 0,
    ) -> bool:
        """Keep a new record until it has been idle for so many seconds; False: a cap is reached, or the key is taken.

        A record is idle while nobody loads, saves, updates or reads it. Those that have expired do not count.

        Args:
            kind: What it is: ``session``, ``task`` ...
            key: Its name, unguessable, and unique in its kind.
            value: Small, and sayable in JSON.
            seconds: Above 0.
            owner: Whose it is; "" is nobody's.
            most: How many of its kind there may be; 0 is no cap.
            most_per_owner: How many of its kind its owner may have, if it has one; 0 is no cap.

        Raises:
            LocalProtocolError: JSON cannot say the value.
            TypeError, ValueError: An argument is none.
        """

    @abstractmethod
    def load(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the value of a record, whose idle time starts anew; None: it is gone."""

    @abstractmethod
    def save(self, kind: str, key: str, value: Mapping[str, Any]) -> bool:
        """Replace the value of a record, whose idle time starts anew; False: it is gone."""

    def update(self, kind: str, key: str, change: Change) -> dict[str, Any] | None:
        """Change the value of a record as if nobody else did meanwhile; its idle time starts anew.

        Args:
            kind: As for ``create``.
            key: As for ``create``.
            change: Is given the value, as a copy of its own, and returns the new one, or None to leave it. It is asked
                again where somebody else was faster, and holds no lock.

        Returns:
            The value that is in force; None: the record is gone.

        Raises:
            MCPTimeoutError: Others changed it all the time, for UPDATE_SECONDS.
        """
        deadline = Deadline(UPDATE_SECONDS)
        while (found := self._versioned(kind, key)) is not None:
            raw, version = found
            new = change(json.loads(raw))
            if new is None:
                return unpack(raw)
            packed = pack(new)
            if self._swap(kind, key, packed, version):
                return unpack(packed)
            if deadline.expired:
                raise MCPTimeoutError(f"a {kind} is changed by too many at once", may_have_run=False)
        return None

    @abstractmethod
    def _versioned(self, kind: str, key: str) -> tuple[bytes, int] | None:
        """Return the packed value of a record and its version, which every change makes another; None: it is gone."""

    @abstractmethod
    def _swap(self, kind: str, key: str, raw: bytes, version: int) -> bool:
        """Replace the value if its version is still that; False: it is not, or the record is gone."""

    @abstractmethod
    def drop(self, kind: str, key: str) -> bool:
        """Remove a record and its streams, and wake who reads them; False: it is gone already."""

    # -- streams -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def append(self, kind: str, key: str, stream: str, data: bytes, *, last: bool = False) -> str:
        """Add an event to a stream of a record; the idle time goes on.

        Args:
            kind: As for ``create``.
            key: As for ``create``.
            stream: Its name: up to 200 printable ASCII characters without spaces. It begins with its first event.
            data: What happened; may be empty.
            last: Whether the stream is complete with it.

        Returns:
            The event's id, ``<stream>.<number>``; the numbers of a record rise, over all its streams.

        Raises:
            Gone: The record is gone.
            ValueError: The stream is complete already, or has no such name.
        """

    @abstractmethod
    def read(self, kind: str, key: str, stream: str, after: str | None, timeout: float) -> tuple[Events, bool]:
        """Return all events of a stream that are kept, in order; where there is none, wait for the next.

        Who reads, even in vain, uses the record.

        Args:
            kind: As for ``create``.
            key: As for ``create``.
            stream: Its name; it need not have begun.
            after: The id of the event that was had last; None: begin with the oldest that is kept.
            timeout: Seconds to wait, 0 or more.

        Returns:
            Events, each with its id, none if none came in time; and whether the stream is over, so that nothing more
            comes. What came before the oldest event that is kept is passed over: ask ``knows`` first.

        Raises:
            Gone: The record is gone, or is dropped meanwhile.
            ValueError: ``after`` is no id of this stream, or the stream has no such name.
        """

    @abstractmethod
    def knows(self, kind: str, key: str, event_id: str) -> bool:
        """Tell whether all events that came after this one in its stream are kept; any text may be asked about."""

    # -- notices -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def broadcast(self, data: bytes) -> None:
        """Send a notice to all who listen, in this process and in others that use the store."""

    @abstractmethod
    def listen(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Have each notice from now on handed to a callback, which must not wait; returns what ends that.

        What a callback raises goes to the log. Nobody can know what was missed while a store could not be reached.
        """

    # -- the store -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def secret(self, name: str) -> bytes | None:
        """Return 32 random bytes that all who use the store share, for each name others; None: it is not shared."""

    @abstractmethod
    def close(self) -> None:
        """End what the store runs, and wake who reads. Idempotent; the store cannot be used any more."""

    @abstractmethod
    def forked(self) -> None:
        """Be usable in a forked child (lifetimes.py)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -- what all stores share --------------------------------------------------------------------------------------------


def stream_of(event_id: str) -> str | None:
    """Return the stream that an event's id names; None: it is no such id."""
    found = _EVENT_ID.fullmatch(event_id)
    return found[1] if found else None


def parse_event_id(event_id: str) -> tuple[str, int] | None:
    """Return the stream and the number in an event's id; None: it is no such id."""
    found = _EVENT_ID.fullmatch(event_id)
    return (found[1], int(found[2])) if found else None


def number_after(stream: str, after: str | None) -> int:
    """Return the number of an event of this stream, 0 for None; raises ValueError."""
    check_stream(stream)
    if after is None:
        return 0
    named, number = parse_event_id(after) or (None, 0)
    if named != stream:
        raise ValueError(f"{after!r:.100} is no event of the stream {stream!r}")
    return number


def check_stream(stream: str) -> None:
    """Check the name of a stream: it goes into a header of HTTP and a line of an event."""
    if not _STREAM.fullmatch(stream):
        raise ValueError(f"a stream has 1 to 200 printable ASCII characters for a name, not {stream!r:.100}")


def check_data(data: bytes) -> None:
    """Check that an event or a notice is bytes."""
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")


def check_record(seconds: float, most: int, most_per_owner: int) -> None:
    """Check the numbers that a record is created with."""
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise ValueError(f"seconds must be above 0 and up to {LONGEST_TIMEOUT:g}, not {seconds!r:.80}")
    if most < 0 or most_per_owner < 0:
        raise ValueError(f"a cap must be 0 (none) or more, not {min(most, most_per_owner)}")


def pack(value: Mapping[str, Any]) -> bytes:
    """Return the value of a record as bytes; raises TypeError or LocalProtocolError."""
    if not isinstance(value, Mapping):
        raise TypeError(f"the value of a record must be a dict, not {type(value).__name__}")
    return encode(value)


def unpack(raw: bytes) -> dict[str, Any]:
    """Return what ``pack`` made bytes of."""
    value: dict[str, Any] = json.loads(raw)
    return value


def tell(callback: Callable[[bytes], None], data: bytes) -> None:
    """Hand a notice to a callback; what it raises goes to the log and hurts nobody."""
    try:
        callback(data)
    except Exception:
        log.exception("a callback for notices failed")


# -- in memory --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Stream:
    """What is kept of one stream.

    Attributes:
        events: With their numbers, oldest first.
        size: Their bytes.
        newest: The number of the last event that came, kept or not.
        lost: The number of the newest event that is not kept any more.
        completed: When its last event came, or None.
    """

    events: list[tuple[int, bytes]] = field(default_factory=list)  # a deque would take 0.6 KB, were it empty
    size: int = 0
    newest: int = 0
    lost: int = 0
    completed: float | None = None


class EventLog:
    """The streams of one record, within bounds. Does no I/O, and knows no clock and no lock.

    Args:
        bounds: How much is kept.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._number = 0
        self._events = 0
        self._size = 0
        self._complete_events = 0
        self._complete_size = 0
        self._streams: dict[str, _Stream] = {}
        self._open: OrderedDict[int, str] = OrderedDict()  # the events of streams that go on, oldest first
        self._complete: OrderedDict[str, None] = OrderedDict()  # streams, first those that were completed first
        self._spent: OrderedDict[str, None] = OrderedDict()  # streams of which no event is kept

    def append(self, name: str, data: bytes, now: float, *, last: bool) -> int:
        """Add an event and return its number; raises ValueError where the stream is complete."""
        stream = self._streams.setdefault(name, _Stream())
        if stream.completed is not None:
            raise ValueError(f"the stream {name!r} is complete")
        self._number += 1
        self._keep(name, stream, data)
        if last:
            self._finish(name, stream, now)
        self._discard_older(now - self._bounds.seconds)
        while self._events > self._bounds.events or self._size > self._bounds.size:
            if not self._make_room(name, now):
                break
        self._forget()
        return self._number

    def _keep(self, name: str, stream: _Stream, data: bytes) -> None:
        stream.events.append((self._number, data))
        stream.newest = self._number
        self._count(stream, 1, len(data))
        self._open[self._number] = name
        self._spent.pop(name, None)
        most, size = self._bounds.stream_events, self._bounds.stream_size
        while len(stream.events) > 1 and (len(stream.events) > most or stream.size > size):
            self._shorten(name)

    def _finish(self, name: str, stream: _Stream, now: float) -> None:
        stream.completed = now
        for number, _ in stream.events:
            del self._open[number]
        self._complete[name] = None
        self._complete_events += len(stream.events)
        self._complete_size += stream.size

    def _discard_older(self, when: float) -> None:
        """Let the complete streams go that were completed until then."""
        while self._complete:
            oldest = next(iter(self._complete))
            completed = self._streams[oldest].completed
            if completed is None or completed > when:
                break
            self._discard(oldest)

    def _make_room(self, newest: str, now: float) -> bool:
        """Let one complete stream go, or one event of another; False: only the newest event is left."""
        complete = next(iter(self._complete), newest)
        number = next(iter(self._open), self._number)
        if complete != newest and self._may_go(complete, now):
            self._discard(complete)
        elif number != self._number:
            self._shorten(self._open[number])
        elif complete != newest:
            self._discard(complete)
        else:
            return False
        return True

    def _may_go(self, complete: str, now: float) -> bool:
        """Tell whether the oldest of the complete streams goes before an event of one that goes on."""
        completed = self._streams[complete].completed
        settled = completed is not None and completed <= now - FRESH_SECONDS
        bounds = self._bounds
        return settled or 2 * self._complete_events > bounds.events or 2 * self._complete_size > bounds.size

    def _shorten(self, name: str) -> None:
        """Let the oldest event of a stream go that is not complete."""
        stream = self._streams[name]
        number, data = stream.events.pop(0)
        del self._open[number]
        stream.lost = number
        self._count(stream, -1, -len(data))
        if not stream.events:
            self._spent[name] = None

    def _discard(self, name: str) -> None:
        """Let all events of a complete stream go."""
        stream = self._streams[name]
        self._complete_events -= len(stream.events)
        self._complete_size -= stream.size
        self._count(stream, -len(stream.events), -stream.size)
        stream.events.clear()
        stream.lost = stream.newest
        del self._complete[name]
        self._spent[name] = None

    def _count(self, stream: _Stream, events: int, size: int) -> None:
        stream.size += size
        self._events += events
        self._size += size

    def _forget(self) -> None:
        while len(self._spent) > self._bounds.events:
            del self._streams[self._spent.popitem(last=False)[0]]

    def after(self, name: str, number: int) -> tuple[Events, bool]:
        """Return the events of a stream that came after a number, 0 for all; and whether nothing more will come."""
        stream = self._streams.get(name)
        if stream is None:
            return [], number > 0  # there was such an event: it is over and forgotten
        newer = itertools.takewhile(lambda event: event[0] > number, reversed(stream.events))
        events = [(f"{name}.{one}", data) for one, data in newer]
        return events[::-1], stream.completed is not None

    def knows(self, name: str, number: int) -> bool:
        """Tell whether all that came after the event of this number is kept."""
        stream = self._streams.get(name)
        return stream is not None and (stream.lost == number or any(one == number for one, _ in stream.events))


class _Record:
    """What a MemorySessionStore keeps, guarded by its lock.

    Attributes:
        raw: The value.
        seconds: How long it may be idle.
        owner: Whose it is.
        expires: When it expires, if nobody reads it then.
        version: How often its value has changed.
        log: Its streams.
        bells: Who waits for which stream.
        readers: How many read.
        gone: Whether it is in the store no more.
    """

    def __init__(self, raw: bytes, seconds: float, owner: str, bounds: Bounds) -> None:
        self.raw = raw
        self.seconds = seconds
        self.owner = owner
        self.expires = 0.0
        self.version = 0
        self.log = EventLog(bounds)
        self.gone = False
        self.forked()

    def forked(self) -> None:
        """Forget who read it."""
        self.bells: dict[str, set[interrupts.Event]] = {}
        self.readers = 0

    def wake_all(self) -> None:
        """Wake who reads any stream."""
        for bells in self.bells.values():
            for bell in bells:
                bell.set()

    def wake(self, stream: str) -> None:
        """Wake who reads this one."""
        for bell in self.bells.get(stream, ()):
            bell.set()


class MemorySessionStore(SessionStore):
    """Keeps everything in this process. After a fork each process has a copy, and goes its own way.

    Locks: ``_lock``, held for a few instructions; never while a reader waits, or while a callback runs. Each reader
    waits for an event of its own, so that nobody is woken for what others read.

    Args:
        bounds: How much is kept of the streams of one record.
        clock: Seconds, monotonic, for what expires; tests hand in their own.
    """

    shared = False

    def __init__(self, *, bounds: Bounds | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._lock = threading.Lock()  # guards all that is below, and the records
        self._numbers = itertools.count()
        self._callbacks: dict[int, Callable[[bytes], None]] = {}
        self._closed = False
        self._empty()
        tell_of_forks(self)

    def _empty(self) -> None:
        self._records: dict[tuple[str, str], _Record] = {}
        self._count: Counter[tuple[str, ...]] = Counter()  # of a kind, and of a kind and an owner
        self._due: list[tuple[float, int, tuple[str, str], _Record]] = []  # a heap: each record once
        self._dead = 0  # how many in the heap are gone

    def forked(self) -> None:
        """Be usable in a forked child: nobody reads here, and nobody holds the lock."""
        torn = self._lock.locked()  # by a thread that is not here to finish what it was changing
        self._lock = threading.Lock()  # guards as before
        if torn:
            self._empty()
        for record in self._records.values():
            record.forked()
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"<MemorySessionStore {len(self._records)} records{', closed' * self._closed}>"

    # -- records -------------------------------------------------------------------------------------------------------

    def create(
        self,
        kind: str,
        key: str,
        value: Mapping[str, Any],
        seconds: float,
        *,
        owner: str = "",
        most: int = 0,
        most_per_owner: int = 0,
    ) -> bool:
        """Keep a new record; see SessionStore."""
        check_record(seconds, most, most_per_owner)
        record = _Record(pack(value), seconds, owner, self._bounds)
        with self._lock:
            now = self._now()
            self._expire(now)
            full = _reached(most, self._count[kind,]) or (owner and _reached(most_per_owner, self._count[kind, owner]))
            if full or (kind, key) in self._records:
                return False
            self._records[kind, key] = record
            self._count.update(_counters(kind, owner))
            record.expires = now + seconds
            self._schedule((kind, key), record)
        return True

    def load(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the value of a record; see SessionStore."""
        found = self._versioned(kind, key)
        return None if found is None else unpack(found[0])

    def save(self, kind: str, key: str, value: Mapping[str, Any]) -> bool:
        """Replace the value of a record; see SessionStore."""
        raw = pack(value)
        with self._lock:
            record = self._touched(kind, key)
            if record is not None:
                record.raw = raw
                record.version += 1
        return record is not None

    def _versioned(self, kind: str, key: str) -> tuple[bytes, int] | None:
        with self._lock:
            record = self._touched(kind, key)
            return None if record is None else (record.raw, record.version)

    def _swap(self, kind: str, key: str, raw: bytes, version: int) -> bool:
        with self._lock:
            record = self._touched(kind, key)
            if record is None or record.version != version:
                return False
            record.raw = raw
            record.version += 1
            return True

    def drop(self, kind: str, key: str) -> bool:
        """Remove a record and its streams; see SessionStore."""
        with self._lock:
            if self._find(kind, key) is None:
                return False
            self._remove(kind, key)
            self._dead += 1
            if self._dead > 64 and self._dead * 2 > len(self._due):
                self._due = [due for due in self._due if not due[3].gone]
                heapq.heapify(self._due)
                self._dead = 0
            return True

    # -- streams -------------------------------------------------------------------------------------------------------

    def append(self, kind: str, key: str, stream: str, data: bytes, *, last: bool = False) -> str:
        """Add an event to a stream of a record; see SessionStore."""
        check_stream(stream)
        check_data(data)
        with self._lock:
            record = self._present(kind, key)
            number = record.log.append(stream, data, self._clock(), last=last)
            record.wake(stream)
        return f"{stream}.{number}"

    def read(self, kind: str, key: str, stream: str, after: str | None, timeout: float) -> tuple[Events, bool]:
        """Return events of a stream, waiting for them; see SessionStore."""
        number = number_after(stream, after)
        deadline = Deadline(timeout)
        bell = interrupts.Event()
        record = self._begin_reading(kind, key, stream, bell)
        try:
            while True:
                bell.clear()
                events, over = self._look(kind, record, stream, number)
                if events or over or not bell.wait(deadline.remaining):
                    return events, over
        finally:
            self._end_reading(record, stream, bell)

    def _begin_reading(self, kind: str, key: str, stream: str, bell: interrupts.Event) -> _Record:
        with self._lock:
            record = self._present(kind, key)
            record.readers += 1
            record.bells.setdefault(stream, set()).add(bell)
            return record

    def _look(self, kind: str, record: _Record, stream: str, number: int) -> tuple[Events, bool]:
        with self._lock:
            if record.gone:
                raise Gone(f"the {kind} has ended", may_have_run=None)
            return record.log.after(stream, number)

    def _end_reading(self, record: _Record, stream: str, bell: interrupts.Event) -> None:
        with self._lock:
            record.readers -= 1
            record.expires = self._clock() + record.seconds
            bells = record.bells.get(stream, set())
            bells.discard(bell)
            if not bells:
                record.bells.pop(stream, None)

    def knows(self, kind: str, key: str, event_id: str) -> bool:
        """Tell whether all events that came after this one are kept; see SessionStore."""
        parsed = parse_event_id(event_id)
        with self._lock:
            record = self._find(kind, key)
            return record is not None and parsed is not None and record.log.knows(*parsed)

    # -- notices, and the store ----------------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> None:
        """Send a notice to all who listen, on the calling thread; see SessionStore."""
        check_data(data)
        with self._lock:
            self._now()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            tell(callback, data)

    def listen(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Have each notice from now on handed to a callback; see SessionStore."""
        with self._lock:
            self._now()
            number = next(self._numbers)
            self._callbacks[number] = callback

        def end() -> None:
            with self._lock:
                self._callbacks.pop(number, None)

        return end

    def secret(self, name: str) -> bytes | None:
        """Return None: nobody shares it."""
        return None

    def close(self) -> None:
        """Drop everything; see SessionStore."""
        with self._lock:
            self._closed = True
            for kind, key in list(self._records):
                self._remove(kind, key)
            self._callbacks.clear()
            self._empty()

    # -- under the lock ------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        if self._closed:
            raise MCPConnectionError("the session store is closed", may_have_run=False)
        return self._clock()

    def _find(self, kind: str, key: str) -> _Record | None:
        now = self._now()
        record = self._records.get((kind, key))
        if record is not None and _is_idle(record, now):
            self._expire(now)
            return None
        return record

    def _present(self, kind: str, key: str) -> _Record:
        record = self._find(kind, key)
        if record is None:
            raise Gone(f"there is no such {kind}", may_have_run=False)
        return record

    def _touched(self, kind: str, key: str) -> _Record | None:
        record = self._find(kind, key)
        if record is not None:
            record.expires = self._clock() + record.seconds
        return record

    def _expire(self, now: float) -> None:
        """Remove what has expired: of those that might have, the ones that have not are scheduled anew."""
        while self._due and self._due[0][0] <= now:
            _, _, name, record = heapq.heappop(self._due)
            if record.gone:
                self._dead = max(0, self._dead - 1)
            elif _is_idle(record, now):
                self._remove(*name)
            else:
                record.expires = max(record.expires, now + record.seconds * (record.readers > 0))
                self._schedule(name, record)

    def _schedule(self, name: tuple[str, str], record: _Record) -> None:
        heapq.heappush(self._due, (record.expires, next(self._numbers), name, record))

    def _remove(self, kind: str, key: str) -> None:
        record = self._records.pop((kind, key))
        for counter in _counters(kind, record.owner):
            self._count[counter] -= 1
            if not self._count[counter]:
                del self._count[counter]
        record.gone = True
        record.wake_all()


def _counters(kind: str, owner: str) -> list[tuple[str, ...]]:
    return [(kind,), (kind, owner)] if owner else [(kind,)]


def _reached(most: int, count: int) -> bool:
    return 0 < most <= count


def _is_idle(record: _Record, now: float) -> bool:
    return record.expires <= now and not record.readers
