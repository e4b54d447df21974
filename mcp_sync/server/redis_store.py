"""A session store in Redis, for servers of several processes or machines; the only module that imports ``redis``.

Every change is one Lua script, which Redis runs as one step, by the clock of Redis. Whoever waits for events does so in
``XREAD BLOCK``, each on a connection of its own, a second at a time. Keys, all of which begin with the prefix:

* ``record:<kind>:<key>``, a hash: ``v`` the value, ``w`` its version, ``s`` how many milliseconds it may be idle, ``g``
  the name of its log, ``o`` the owner's index; of all its streams ``n`` the newest number, ``k`` how many events and
  ``b`` how many bytes are kept, ``c`` and ``d`` how many of those are of complete streams, ``f`` how often one was
  emptied, ``r`` when the log's keys were last told to live on.
* ``index:<kind>`` and ``owner:<kind>:<digest>``, sorted sets: when each record expires, for the caps.
* ``log:<g>:``, the streams of a record, bounded as in stores.py: ``e:<stream>`` the events, a Redis stream;
  ``i:<stream>`` their numbers and sizes, while it is not complete; ``open``, ``done`` and ``spent``, sorted sets of the
  streams that go on, that are complete, and of which nothing is kept; ``s``, a hash: for each stream its number of
  events (k), their bytes (b), its newest number (z), the newest that is lost (x), when it was completed (t); ``end``, a
  Redis stream with an entry when the record is dropped, which wakes all readers.
* ``secret:<name>``; and the channel ``notices:<database>``.

All but the secrets expire. Redis should not be told to evict keys (``maxmemory-policy noeviction``). A Redis Cluster is
not supported, as the keys of one script lie on several nodes; Sentinel is.

Source: redis.io/docs: commands, "Scripting with Lua", "Redis Streams", "Redis Pub/Sub".
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline, as_timeout
from ..engine import interrupts
from ..engine.dispatch import join, run_guarded, start_thread
from ..engine.lifetimes import close_when_forgotten, tell_of_forks
from ..exceptions import MCPConnectionError
from ..protocol.redact import mask, redact_url
from .stores import (
    FRESH_SECONDS,
    Bounds,
    Events,
    Gone,
    SessionStore,
    check_data,
    check_record,
    check_stream,
    number_after,
    pack,
    parse_event_id,
    unpack,
)

if TYPE_CHECKING:
    import redis

log = logging.getLogger("mcp_sync")

SLICE_SECONDS = 1.0
"""A reader waits no longer at once, so that the record it reads does not expire meanwhile, and closing ends it."""
LISTEN_SECONDS = 0.5
"""The listener waits no longer at once, so that closing ends it."""
BEAT_SECONDS = 5.0
"""When nothing has come for so long the listener asks whether Redis is there, and waits as long for the answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between attempts to listen again."""
FAILURE_SECONDS = 1.0
"""So long after an attempt to listen has failed, nobody waits for the next one."""
END_SECONDS = 60
"""So long a dropped record says to its readers that it is dropped."""
MANY = 1 << 20
"""Connections: there are no more than threads that use the store, and whoever has so many threads needs them."""

_SETTINGS = {
    *("host", "port", "path", "db", "socket_type", "socket_keepalive_options"),
    *("username", "password", "credential_provider", "client_name", "redis_connect_func"),
}

# -- scripts ----------------------------------------------------------------------------------------------------------

_PRELUDE = """
local call = redis.call
local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function put(set, score, member, ms)
  call('ZADD', set, score, member)
  if call('PTTL', set) < ms then call('PEXPIRE', set, ms) end
end
-- The streams in a log of which something is kept.
local function streams(logged)
  local found = call('ZRANGE', logged .. 'open', 0, -1)
  for _, stream in ipairs(call('ZRANGE', logged .. 'done', 0, -1)) do found[#found + 1] = stream end
  return found
end
-- All keys of a log live twice as long as the record may be idle, and are told so again after a quarter of that.
local function live_on(logged, ms)
  for _, set in ipairs({'open', 'done', 'spent', 's'}) do call('PEXPIRE', logged .. set, ms) end
  for _, stream in ipairs(streams(logged)) do
    call('PEXPIRE', logged .. 'e:' .. stream, ms)
    call('PEXPIRE', logged .. 'i:' .. stream, ms)
  end
end
-- Start the idle time anew; return the name of the log and the milliseconds, or nil.
local function touch(record, index, key, logs)
  local found = call('HMGET', record, 'g', 's', 'o', 'r')
  if not found[1] then return nil end
  local at, ms = now(), tonumber(found[2])
  call('PEXPIRE', record, ms)
  put(index, at + ms, key, ms)
  if found[3] then put(found[3], at + ms, key, ms) end
  if found[4] and at - found[4] > ms / 2 then
    live_on(logs .. found[1] .. ':', 2 * ms)
    call('HSET', record, 'r', at)
  end
  return found[1], ms
end
"""

# Keys: record, index, the owner's index. Arguments: key, value, milliseconds, name of the log, most, most per owner,
# whether there is an owner.
_CREATE = """
if call('EXISTS', KEYS[1]) == 1 then return 0 end
local at, ms = now(), tonumber(ARGV[3])
local function full(index, most)
  call('ZREMRANGEBYSCORE', index, '-inf', at)
  return most > 0 and call('ZCARD', index) >= most
end
if full(KEYS[2], tonumber(ARGV[5])) then return 0 end
local owned = ARGV[7] == '1'
if owned and full(KEYS[3], tonumber(ARGV[6])) then return 0 end
call('HSET', KEYS[1], 'v', ARGV[2], 'w', 0, 's', ms, 'g', ARGV[4])
call('PEXPIRE', KEYS[1], ms)
put(KEYS[2], at + ms, ARGV[1], ms)
if owned then
  call('HSET', KEYS[1], 'o', KEYS[3])
  put(KEYS[3], at + ms, ARGV[1], ms)
end
return 1
"""

# Keys: record, index. Arguments: key, logs.
_LOAD = """
if not touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2]) then return false end
return call('HMGET', KEYS[1], 'v', 'w')
"""

# Keys: record, index. Arguments: key, logs, value, the version it must have or ''.
_SAVE = """
if not touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2]) then return 0 end
if ARGV[4] ~= '' and call('HGET', KEYS[1], 'w') ~= ARGV[4] then return 0 end
call('HSET', KEYS[1], 'v', ARGV[3])
call('HINCRBY', KEYS[1], 'w', 1)
return 1
"""

# Keys: record, index. Arguments: key, logs, seconds that the end is told.
_DROP = """
local found = call('HMGET', KEYS[1], 'g', 'o')
if not found[1] then return 0 end
local logged = ARGV[2] .. found[1] .. ':'
for _, stream in ipairs(streams(logged)) do call('DEL', logged .. 'e:' .. stream, logged .. 'i:' .. stream) end
call('DEL', KEYS[1], logged .. 'open', logged .. 'done', logged .. 'spent', logged .. 's')
call('ZREM', KEYS[2], ARGV[1])
if found[2] then call('ZREM', found[2], ARGV[1]) end
call('XADD', logged .. 'end', '*', 'gone', 1)
call('EXPIRE', logged .. 'end', ARGV[3])
return 1
"""

# Keys: record. Arguments: logs, stream, data, whether it is the last, most events and bytes of a stream, of the record,
# milliseconds that a complete stream is fresh, and is kept. This is EventLog.append in stores.py.
_APPEND = """
local record, stream, data, last = KEYS[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local most, size, all_most, all_size = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local found = call('HMGET', record, 'g', 's')
if not found[1] then return -1 end
local logged, ms, at = ARGV[1] .. found[1] .. ':', 2 * tonumber(found[2]), now()
local state = logged .. 's'
if call('HEXISTS', state, 't' .. stream) == 1 then return -2 end

local all_kept, all_bytes
local function count(name, events, bytes)
  all_kept, all_bytes = call('HINCRBY', record, 'k', events), call('HINCRBY', record, 'b', bytes)
  return call('HINCRBY', state, 'k' .. name, events), call('HINCRBY', state, 'b' .. name, bytes)
end
local function count_complete(events, bytes)
  call('HINCRBY', record, 'c', events)
  call('HINCRBY', record, 'd', bytes)
end
local function spend(name, lost, set)
  call('DEL', logged .. 'e:' .. name, logged .. 'i:' .. name)
  call('ZREM', logged .. set, name)
  put(logged .. 'spent', call('HINCRBY', record, 'f', 1), name, ms)
  call('HSET', state, 'x' .. name, lost)
end
local function discard(name, set)
  local had = call('HMGET', state, 'k' .. name, 'b' .. name, 'z' .. name)
  if set == 'done' then count_complete(0 - (had[1] or 0), 0 - (had[2] or 0)) end
  spend(name, had[3] or 0, set)
  return count(name, 0 - (had[1] or 0), 0 - (had[2] or 0))
end
local function shorten(name)
  local oldest = call('LPOP', logged .. 'i:' .. name)
  if not oldest then return discard(name, 'open') end
  local lost, bytes = oldest:match('(%d+) (%d+)')
  call('XDEL', logged .. 'e:' .. name, lost .. '-0')
  call('HSET', state, 'x' .. name, lost)
  local head = call('LINDEX', logged .. 'i:' .. name, 0)
  if head then put(logged .. 'open', head:match('%d+'), name, ms) else spend(name, lost, 'open') end
  return count(name, -1, 0 - bytes)  -- -0 would be no integer
end

local number = call('HINCRBY', record, 'n', 1)
if number == 1 then call('HSET', record, 'r', at) end
local events, index = logged .. 'e:' .. stream, logged .. 'i:' .. stream
call('XADD', events, number .. '-0', 'd', data, 'l', ARGV[4])
call('RPUSH', index, number .. ' ' .. #data)
call('HSET', state, 'z' .. stream, number)
local kept, bytes = count(stream, 1, #data)
if kept == 1 then
  call('ZREM', logged .. 'spent', stream)
  put(logged .. 'open', number, stream, ms)
  for _, key in ipairs({events, index, state}) do call('PEXPIRE', key, ms) end
end
while kept > 1 and (kept > most or bytes > size) do kept, bytes = shorten(stream) end
if last then
  call('HSET', state, 't' .. stream, at)
  count_complete(kept, bytes)
  call('DEL', index)
  call('ZREM', logged .. 'open', stream)
  put(logged .. 'done', number, stream, ms)
end

local function oldest_done()
  local name = call('ZRANGE', logged .. 'done', 0, 0)[1]
  return name, name and at - (call('HGET', state, 't' .. name) or 0)
end
local done, age = oldest_done()
while done and age >= tonumber(ARGV[10]) do
  discard(done, 'done')
  done, age = oldest_done()
end
while all_kept > all_most or all_bytes > all_size do
  local open = call('ZRANGE', logged .. 'open', 0, 0, 'WITHSCORES')
  done, age = oldest_done()
  if done == stream then done = nil end
  if tonumber(open[2]) == number then open = {} end
  local complete = call('HMGET', record, 'c', 'd')
  local many = 2 * (complete[1] or 0) > all_most or 2 * (complete[2] or 0) > all_size
  if done and (many or age >= tonumber(ARGV[9])) then discard(done, 'done')
  elseif open[1] then shorten(open[1])
  elseif done then discard(done, 'done')
  else break end
end
while call('ZCARD', logged .. 'spent') > all_most do
  local name = call('ZPOPMIN', logged .. 'spent')[1]
  call('HDEL', state, 'k' .. name, 'b' .. name, 'z' .. name, 'x' .. name, 't' .. name)
end
return number
"""

# Keys: record, index. Arguments: key, logs, stream, number of the event that was had last.
_READ = """
local name, ms = touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if not name then return false end
local logged = ARGV[2] .. name .. ':'
local state, stream = logged .. 's', ARGV[3]
local over = call('HEXISTS', state, 't' .. stream)
if ARGV[4] ~= '0' and call('HEXISTS', state, 'z' .. stream) == 0 then over = 1 end
return {name, ms, over, call('XRANGE', logged .. 'e:' .. stream, ARGV[4] .. '-1', '+')}
"""

# Keys: record. Arguments: logs, stream, number.
_KNOWS = """
local name = call('HGET', KEYS[1], 'g')
if not name then return 0 end
local logged = ARGV[1] .. name .. ':'
if call('HGET', logged .. 's', 'x' .. ARGV[2]) == ARGV[3] then return 1 end
return #call('XRANGE', logged .. 'e:' .. ARGV[2], ARGV[3] .. '-0', ARGV[3] .. '-0')
"""


class _Script:
    """A script, and the digest by which Redis knows it once it has run."""

    def __init__(self, text: str) -> None:
        self.text = (_PRELUDE + text).encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


CREATE, LOAD, SAVE, DROP, APPEND, READ, KNOWS = map(
    _Script, (_CREATE, _LOAD, _SAVE, _DROP, _APPEND, _READ, _KNOWS)
)


# -- the connection ---------------------------------------------------------------------------------------------------


class _Line:
    """Connections to one Redis, with settings of our own. Nothing is sent twice: a repeat would append twice.

    Locks: none of its own; the pool has one.

    Args:
        url_or_client: Where; a client is not touched, its settings are taken.
        timeout: Seconds for every answer, and for connecting.

    Attributes:
        name: What it is called in errors, without secrets.
        timeout: As given.
    """

    def __init__(self, url_or_client: str | redis.Redis, timeout: float) -> None:
        self._redis = _library()
        self.timeout = timeout
        self._class, self._settings, self._sentinels = self._taken(url_or_client)
        self.name = redact_url(url_or_client) if isinstance(url_or_client, str) else self._shown()
        self._secrets = [str(self._settings[name]) for name in ("password", "ssl_password") if self._settings.get(name)]
        self.database = int(self._settings.get("db") or 0)
        self._open()

    def _taken(self, url_or_client: str | redis.Redis) -> tuple[Any, dict[str, Any], Any]:
        """Return the class of connections, their settings, and the pool that asks sentinels, if there are any."""
        if isinstance(url_or_client, str):
            settings = self._parsed(url_or_client)
            return settings.pop("connection_class", self._redis.Connection), settings, None
        if not isinstance(url_or_client, self._redis.Redis):
            text = f"RedisSessionStore wants a URL or a redis.Redis, not {type(url_or_client).__name__}"
            raise TypeError(text + " (a Redis Cluster is not supported)")
        pool: Any = url_or_client.connection_pool
        settings = {name: pool.connection_kwargs[name] for name in _known(pool.connection_kwargs)}
        sentinels = pool if isinstance(pool, self._redis.sentinel.SentinelConnectionPool) else None
        return pool.connection_class, settings, sentinels

    def _parsed(self, url: str) -> dict[str, Any]:
        settings: dict[str, Any] | None = None
        try:
            settings = self._redis.connection.parse_url(url)
        except ValueError:
            pass
        if settings is None:  # raised here and not above, so that nothing that has seen the password hangs on the error
            text = "is no redis://, rediss:// or unix:// (in a password, / is written %2F, and @ is written %40)"
            raise ValueError(f"the URL of the session store {text}")
        if unknown := sorted(set(settings) - _known(settings) - {"connection_class"}):
            raise ValueError(f"the URL of the session store has an option that cannot be set there: {unknown[0]}")
        return settings

    def _shown(self) -> str:
        database = self._settings.get("db") or 0
        if self._sentinels is not None:
            return f"sentinel://{self._sentinels.service_name}/{database}"
        if "path" in self._settings:
            return f"unix://{self._settings['path']}?db={database}"
        return f"redis://{self._settings.get('host', 'localhost')}:{self._settings.get('port', 6379)}/{database}"

    def _open(self) -> None:
        self._pool = self._new_pool()
        self.client = self._redis.Redis(connection_pool=self._pool)

    def _new_pool(self) -> Any:
        retry = self._redis.retry.Retry(self._redis.backoff.NoBackoff(), 0)
        settings = {**self._settings, "socket_timeout": self.timeout, "retry": retry, "protocol": 2}
        if not issubclass(self._class, self._redis.UnixDomainSocketConnection):
            settings |= {"socket_connect_timeout": self.timeout, "socket_keepalive": True}
        settings |= {"connection_class": self._class, "max_connections": MANY}
        if self._sentinels is None:
            return self._redis.ConnectionPool(**settings)
        names = (self._sentinels.service_name, self._sentinels.sentinel_manager)
        return self._redis.sentinel.SentinelConnectionPool(*names, **settings)

    def ask(self, *command: Any) -> Any:
        """Send a command and return the answer; raises MCPConnectionError."""
        try:
            return self.client.execute_command(*command)
        except (self._redis.RedisError, OSError) as error:
            raise self.told(error) from error

    def run(self, script: _Script, keys: list[bytes], *arguments: Any) -> Any:
        """Run a script and return its answer; raises MCPConnectionError."""
        try:
            return self.ask("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except MCPConnectionError as error:
            if not isinstance(error.__cause__, self._redis.exceptions.NoScriptError):
                raise
        return self.ask("EVAL", script.text, len(keys), *keys, *arguments)  # it has not run: Redis did not know it

    def told(self, error: Exception) -> MCPConnectionError:
        """Return an error of the library as one of ours, without secrets."""
        text = mask(" ".join(f"{type(error).__name__}: {error}".split()), self._secrets)
        away = isinstance(error, (self._redis.ConnectionError, self._redis.TimeoutError, OSError))
        what = "cannot be reached" if away else "refuses what it is asked"
        return MCPConnectionError(f"the session store {self.name} {what}: {text}", details={"store": self.name})

    def subscription(self) -> Any:
        """Return a way to listen, not yet connected."""
        return self.client.pubsub()

    def close_idle(self) -> None:
        """Close the connections that nobody uses just now."""
        self._pool.disconnect(inuse_connections=False)

    def forked(self) -> None:
        """Give back what was inherited; a lock of the old pool may be held for ever."""
        for connections in ("_available_connections", "_in_use_connections"):
            for connection in list(getattr(self._pool, connections, ())):
                connection.disconnect()  # in a process that did not make it, that closes and says nothing
        self._open()


def _library() -> ModuleType:
    try:
        import redis
        import redis.backoff
        import redis.connection
        import redis.retry
        import redis.sentinel
    except ImportError as error:
        text = "RedisSessionStore needs redis: pip install 'mcp-sync-transports[redis]'"
        raise ImportError(text, name="redis") from error
    return redis


def _known(settings: Iterable[str]) -> set[str]:
    """Return which settings of a connection say where it goes, and who asks; the others are ours to set."""
    return {name for name in settings if name in _SETTINGS or name.startswith("ssl_")}


# -- the listener -----------------------------------------------------------------------------------------------------


class _Listener:
    """Hears the notices, over a connection of its own, and connects again when that is lost.

    Threads: one, ``mcp-store-listener``, from ``start`` to ``close``; it refers to the callbacks, not to the store.
    Locks: ``_lock``, held for a few instructions.

    An attempt to listen either succeeds or fails, and both sets ``_tried``, which then is replaced.

    Args:
        line: The connections.
        channel: What to listen to.
    """

    def __init__(self, line: _Line, channel: str) -> None:
        self._line = line
        self._channel = channel
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards _callbacks, _thread, _tried, _fault, _failed
        self._callbacks: dict[int, Callable[[bytes], None]] = {}
        self._thread: threading.Thread | None = None
        self._renew()

    def _renew(self) -> None:
        self._hears = interrupts.Event()
        self._ended = interrupts.Event()
        self._bell = interrupts.Event()
        self._tried = interrupts.Event()
        self._fault: Exception | None = None
        self._failed = 0.0

    @property
    def started(self) -> bool:
        """Whether there is, or was, a thread."""
        return self._thread is not None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self._thread is None:
                self._thread = start_thread("mcp-store-listener", self._work)

    def add(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Have notices handed to a callback; returns what ends that."""
        with self._lock:
            number = next(self._numbers)
            self._callbacks[number] = callback

        def end() -> None:
            with self._lock:
                self._callbacks.pop(number, None)

        return end

    def await_hearing(self) -> None:
        """Wait until nothing that is sent from now on is missed; raises MCPConnectionError."""
        with self._lock:
            tried, fault = self._tried, self._fault
            fresh = time.monotonic() < self._failed + FAILURE_SECONDS
        if self._hears.is_set():
            return
        if fault is None or not fresh:
            self._bell.set()  # the next attempt is now, and not after a pause
            if not tried.wait(self._line.timeout):
                raise MCPConnectionError(f"the session store {self._line.name} does not answer")
            fault = self._fault
        if not self._hears.is_set() and fault is not None:
            raise self._line.told(fault) from fault

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it."""
        self._ended.set()
        self._bell.set()

    def close(self, deadline: Deadline) -> None:
        """End the thread and wait for it."""
        self.hang_up(deadline)
        join(self._thread, deadline)

    def forked(self) -> None:
        """Be usable in a forked child: listen there too, if it listened here."""
        self._lock = threading.Lock()  # guards as before
        started, self._thread = self.started and not self.over, None
        self._renew()
        if started:
            self.start()

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while not self.over:
            self._bell.clear()
            try:
                self._hear()
            except Exception as error:
                pause = FIRST_PAUSE if self._hears.is_set() else min(2 * pause, LONGEST_PAUSE)
                self._lost(error)
            if not self.over:
                self._bell.wait(pause)

    def _lost(self, error: Exception) -> None:
        if not self.over and (self._hears.is_set() or self._fault is None):  # or it is no news
            log.warning("notices are missed until Redis is back: %s", self._line.told(error))
        self._hears.clear()
        self._has_tried(error)

    def _has_tried(self, fault: Exception | None) -> None:
        with self._lock:
            tried, self._tried = self._tried, interrupts.Event()
            self._fault, self._failed = fault, time.monotonic()
        tried.set()

    def _hear(self) -> None:
        subscription = self._line.subscription()
        try:
            subscription.subscribe(self._channel)
            silence = Deadline(BEAT_SECONDS)
            asked = False
            while not self.over:
                message = subscription.get_message(timeout=LISTEN_SECONDS)
                if message is not None:
                    silence, asked = Deadline(BEAT_SECONDS), False
                    self._take(message)
                elif silence.expired:
                    if asked:
                        raise ConnectionError(f"no answer for {BEAT_SECONDS:g} s")
                    subscription.ping("mcp")
                    silence, asked = Deadline(BEAT_SECONDS), True
        finally:
            subscription.close()

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._hears.set()
            self._has_tried(None)
        elif message["type"] == "message":
            with self._lock:
                callbacks = list(self._callbacks.values())
            for callback in callbacks:
                run_guarded(partial(callback, message["data"]))


# -- the store --------------------------------------------------------------------------------------------------------


class RedisSessionStore(SessionStore):
    """Keeps everything in Redis (5.0 or later), for all processes and machines that use the same one.

    Nothing is connected before it is first used, or kept over a fork. A Redis that does not answer costs a caller
    ``timeout`` seconds for connecting and as many for each answer, then there is an MCPConnectionError.

    Threads: one, ``mcp-store-listener``, from the first ``listen`` on.
    Locks: ``_lock``, held while the listener is started.

    Args:
        url_or_client: ``redis://``, ``rediss://`` or ``unix://``; or a ``redis.Redis``, whose settings are taken, but
            not its connections.
        prefix: What all keys begin with. Servers that share nothing want different ones.
        bounds: How much is kept of the streams of one record.
        timeout: Seconds for connecting, and for each answer.

    Raises:
        ImportError: The package ``redis`` is missing: ``pip install 'mcp-sync-transports[redis]'``.
        ValueError: The URL is none.
    """

    shared = True

    def __init__(
        self,
        url_or_client: str | redis.Redis,
        *,
        prefix: str = "mcp-sync:",
        bounds: Bounds | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._bounds = bounds or Bounds()
        self._prefix = prefix
        self._line = _Line(url_or_client, as_timeout(timeout))
        self._logs = self._key("log:")
        self._channel = f"{prefix}notices:{self._line.database}"
        self._closed = interrupts.Event()
        self._lock = threading.Lock()  # guards _done, and the start of the listener
        self._listener = _Listener(self._line, self._channel)
        self._done: Callable[[], None] | None = None
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"<RedisSessionStore {self._line.name}{', closed' * self._closed.is_set()}>"

    def _key(self, *parts: str) -> bytes:
        # Keys come from outside, and JSON can hold half a character.
        return (self._prefix + ":".join(parts)).encode("utf-8", "surrogatepass")

    def _record(self, kind: str, key: str) -> bytes:
        return self._key("record", kind, key)

    def _through(self, send: Callable[..., Any], *arguments: Any) -> Any:
        if self._closed.is_set():
            raise MCPConnectionError("the session store is closed", may_have_run=False)
        try:
            return send(*arguments)
        finally:
            if self._closed.is_set():
                self._line.close_idle()  # the connection came back after the others had been closed

    def _ask(self, *command: Any) -> Any:
        return self._through(self._line.ask, *command)

    def _run(self, script: _Script, keys: list[bytes], *arguments: Any) -> Any:
        return self._through(self._line.run, script, keys, *arguments)

    def _use(self, script: _Script, kind: str, key: str, *arguments: Any) -> Any:
        """Run a script that starts the idle time of a record anew."""
        keys = [self._record(kind, key), self._key("index", kind)]
        return self._run(script, keys, key.encode("utf-8", "surrogatepass"), self._logs, *arguments)

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
        digest = hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        keys = [self._record(kind, key), self._key("index", kind), self._key("owner", kind, digest)]
        name, milliseconds = secrets.token_hex(8), max(1, round(seconds * 1000))
        member = key.encode("utf-8", "surrogatepass")
        caps = (most, most_per_owner, int(bool(owner)))
        return bool(self._run(CREATE, keys, member, pack(value), milliseconds, name, *caps))

    def load(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the value of a record; see SessionStore."""
        found = self._versioned(kind, key)
        return None if found is None else unpack(found[0])

    def save(self, kind: str, key: str, value: Mapping[str, Any]) -> bool:
        """Replace the value of a record; see SessionStore."""
        return bool(self._use(SAVE, kind, key, pack(value), ""))

    def _versioned(self, kind: str, key: str) -> tuple[bytes, int] | None:
        found = self._use(LOAD, kind, key)
        return None if found is None else (found[0], int(found[1]))

    def _swap(self, kind: str, key: str, raw: bytes, version: int) -> bool:
        return bool(self._use(SAVE, kind, key, raw, version))

    def drop(self, kind: str, key: str) -> bool:
        """Remove a record and its streams; see SessionStore."""
        return bool(self._use(DROP, kind, key, END_SECONDS))

    # -- streams -------------------------------------------------------------------------------------------------------

    def append(self, kind: str, key: str, stream: str, data: bytes, *, last: bool = False) -> str:
        """Add an event to a stream of a record; see SessionStore."""
        check_stream(stream)
        check_data(data)
        most = self._bounds
        bounds = (most.stream_events, most.stream_size, most.events, most.size)
        times = (int(FRESH_SECONDS * 1000), most.seconds * 1000)
        number = self._run(APPEND, [self._record(kind, key)], self._logs, stream, data, int(last), *bounds, *times)
        if number == -1:
            raise Gone(f"there is no such {kind}", may_have_run=False)
        if number == -2:
            raise ValueError(f"the stream {stream!r} is complete")
        return f"{stream}.{number}"

    def read(self, kind: str, key: str, stream: str, after: str | None, timeout: float) -> tuple[Events, bool]:
        """Return events of a stream, waiting for them; see SessionStore."""
        number = number_after(stream, after)
        deadline = Deadline(timeout)
        while True:
            found = self._use(READ, kind, key, stream, number)
            if found is None:
                raise Gone(f"there is no such {kind}", may_have_run=None)
            name, milliseconds, over, entries = found
            if entries or over or deadline.expired:
                return _page(stream, [(entry, _pairs(fields)) for entry, fields in entries], bool(over))
            patience = min(deadline.remaining, SLICE_SECONDS, self._line.timeout / 2, milliseconds / 3000)
            if entries := self._await(kind, self._logs + name + b":", stream, number, patience):
                return _page(stream, entries, False)

    def _await(self, kind: str, logged: bytes, stream: str, number: int, patience: float) -> Any:
        """Wait until something comes, or the record is dropped."""
        end = logged + b"end"
        keys = (logged + b"e:" + stream.encode(), end, f"{number}-0", "0-0")
        block = max(1, int(patience * 1000))  # 0 would be for ever
        found = self._ask("XREAD", "BLOCK", block, "STREAMS", *keys) or []
        came = dict(found.items() if isinstance(found, Mapping) else found)
        if end in came:
            raise Gone(f"the {kind} has ended", may_have_run=None)
        return next(iter(came.values()), [])

    def knows(self, kind: str, key: str, event_id: str) -> bool:
        """Tell whether all events that came after this one are kept; see SessionStore."""
        stream, number = parse_event_id(event_id) or ("-", 0)
        return bool(self._run(KNOWS, [self._record(kind, key)], self._logs, stream, number))

    # -- notices, and the store ----------------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> None:
        """Send a notice to all who listen; see SessionStore."""
        check_data(data)
        self._ask("PUBLISH", self._channel, data)

    def listen(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Have each notice from now on handed to a callback, on the listener's thread; see SessionStore.

        Raises:
            MCPConnectionError: Redis cannot be reached. Once it listens, it goes on listening when Redis is back.
        """
        with self._lock:
            if self._closed.is_set():
                raise MCPConnectionError("the session store is closed", may_have_run=False)
            self._start_listening()
        end = self._listener.add(callback)
        try:
            self._listener.await_hearing()
        except BaseException:
            end()
            raise
        return end

    def _start_listening(self) -> None:
        if self._done is None:
            self._done = close_when_forgotten(self, self._listener, repr(self))
        self._listener.start()

    def secret(self, name: str) -> bytes | None:
        """Return 32 random bytes for a name; see SessionStore."""
        key = self._key("secret", name)
        self._ask("SET", key, secrets.token_bytes(32), "NX")
        found: bytes | None = self._ask("GET", key)
        return found

    def close(self) -> None:
        """Close the connections and end the listener; what is in Redis stays. See SessionStore."""
        with self._lock:
            self._closed.set()
            done, self._done = self._done, None
        self._listener.close(Deadline(self._line.timeout + 2 * LISTEN_SECONDS))
        if done is not None:
            done()
        self._line.close_idle()

    def forked(self) -> None:
        """Be usable in a forked child: with connections of its own, listening if the parent listens."""
        self._lock = threading.Lock()  # guards as before
        self._line.forked()
        self._listener.forked()
        if self._done is not None:
            self._done()
            self._done = None  # until the next listen
        tell_of_forks(self)


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _page(stream: str, entries: Any, over: bool) -> tuple[Events, bool]:
    """Return the events in entries of a Redis stream; it is over with its last event, or where none is left."""
    events = [(f"{stream}.{entry.partition(b'-')[0].decode()}", fields[b"d"]) for entry, fields in entries]
    ended = over and not entries or any(fields[b"l"] == b"1" for _, fields in entries)
    return events, ended
