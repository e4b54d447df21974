"""The store in Redis keeps the contract, on a real Redis; and what is true of it alone."""

from __future__ import annotations

import json
import os
import pickle
import queue
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from interop.authority import Authority

from mcp_sync.deadlines import Deadline
from mcp_sync.exceptions import MCPConnectionError
from mcp_sync.server import Server, redis_store
from mcp_sync.server.calls import Asker
from mcp_sync.server.redis_store import RedisSessionStore
from mcp_sync.server.stores import FRESH_SECONDS, Bounds, Gone, MemorySessionStore, SessionStore
from mcp_sync.testing import SessionStoreContract, in_threads
from mcp_sync.testing.caller import verdict_of_child
from mcp_sync.testing.tools import PATIENCE, Background, raises
from peers.redis_server import redis_running, sentinel_running
from peers.running import Running, free_port, until

ROOT = Path(__file__).resolve().parents[2]


class Place:
    """A part of a Redis that is a test's own."""

    def __init__(self, server: Running) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        self.prefix = f"test-{uuid.uuid4().hex}:"
        self._client = redis.Redis.from_url(self.url, protocol=2)

    def store(self, **options: Any) -> RedisSessionStore:
        return RedisSessionStore(self.url, prefix=self.prefix, **options)

    def found(self, pattern: str = "*") -> list[bytes]:
        return list(self._client.scan_iter(f"{self.prefix}{pattern}", count=1000))

    def ask(self, *command: Any) -> Any:
        return self._client.execute_command(*command)

    def pass_time(self, seconds: float) -> None:
        """Bring everything that is going to happen nearer, and move back everything that has happened."""
        milliseconds = round(seconds * 1000)
        for key in self.found():
            self._age(key, milliseconds)

    def _age(self, key: bytes, milliseconds: int) -> None:
        name = key.decode("utf-8", "replace").removeprefix(self.prefix)
        if name.startswith(("index:", "owner:")):
            for member in self._client.zrange(key, 0, -1):
                self._client.zincrby(key, -milliseconds, member)
        elif name.startswith("record:") and self._client.hexists(key, "r"):
            self._client.hincrby(key, "r", -milliseconds)
        elif name.startswith("log:") and name.endswith(":s"):
            for field in self._client.hkeys(key):
                if field.startswith(b"t"):
                    self._client.hincrby(key, field, -milliseconds)
        self._shorten(key, milliseconds)

    def _shorten(self, key: bytes, milliseconds: int) -> None:
        left = self._client.pttl(key)
        if left >= 0:
            self._client.pexpire(key, max(0, left - milliseconds))

    def close(self) -> None:
        self._client.connection_pool.disconnect()  # which close() does since 5.0.1 only


def at(port: int, **options: Any) -> RedisSessionStore:
    return RedisSessionStore(f"redis://127.0.0.1:{port}", **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with redis_running(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def place(server: Running) -> Iterator[Place]:
    made = Place(server)
    yield made
    made.close()


@pytest.fixture
def store(place: Place) -> Iterator[RedisSessionStore]:
    with place.store() as made:
        yield made


class TestRedisSessionStore(SessionStoreContract):
    shared = True

    @pytest.fixture(autouse=True)
    def _place(self, place: Place) -> None:
        self.place = place

    def make(self, bounds: Bounds) -> SessionStore:
        return self.place.store(bounds=bounds)

    def pass_time(self, seconds: float) -> None:
        self.place.pass_time(seconds)


# -- what both stores do, they do alike -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_redis_and_memory_keep_the_same(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    events, stream_events, seconds = chance.choice((5, 30)), chance.choice((3, 5)), chance.choice((15, 30, 300))
    bounds = Bounds(events, 1000, stream_events, 700, seconds)
    now = [0.0]
    with MemorySessionStore(bounds=bounds, clock=lambda: now[0]) as memory, place.store(bounds=bounds) as remote:
        for store in (memory, remote):
            store.create("session", "a", {}, 1e6)
        ids: list[str] = []
        for number in range(200):
            stream = f"s{number // 20}-{chance.randrange(3)}"
            size, last = chance.choice((0, 10, 200, 650, 1500)), chance.random() < 0.2
            said = [_said(store.append, "session", "a", stream, b"x" * size, last=last) for store in (memory, remote)]
            assert said[0] == said[1], number
            ids += said[:1] if "." in str(said[0]) else []
            if chance.random() < 0.1:
                now[0] += FRESH_SECONDS + 1
                place.pass_time(FRESH_SECONDS + 1)
            if number % 25 == 24:
                _assert_alike(memory, remote, ids, now[0])


def _said(ask: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return ask(*arguments, **options)
    except ValueError as error:
        return str(error)


def _assert_alike(memory: SessionStore, remote: SessionStore, ids: list[str], note: float) -> None:
    for event in ids:
        stream = event.partition(".")[0]
        known = [store.knows("session", "a", event) for store in (memory, remote)]
        assert known[0] == known[1], (event, note)
        for after in (None, event):
            found = [store.read("session", "a", stream, after, 0) for store in (memory, remote)]
            assert found[0] == found[1], (event, after, note)


# -- time -------------------------------------------------------------------------------------------------------------


def test_by_the_clock_of_redis_everything_but_a_secret_expires(place: Place, store: RedisSessionStore) -> None:
    store.secret("key")
    store.create("session", "a", {}, 0.3, owner="ann", most=5, most_per_owner=5)
    store.append("session", "a", "s", b"x")
    store.append("session", "a", "t", b"x", last=True)
    store.create("session", "b", {}, 0.3)
    store.append("session", "b", "s", b"x")
    store.drop("session", "b")
    assert all(place.ask("PTTL", key) > 0 for key in place.found() if b":secret:" not in key)
    assert until(lambda: store.create("session", "a", {}, 0.3, most=1), PATIENCE)
    assert until(lambda: all(b":secret:" in key or key.endswith(b":end") for key in place.found()), PATIENCE)
    assert len(place.found("secret:*")) == 1


def test_a_record_that_is_read_is_not_idle_however_long_that_takes(store: RedisSessionStore) -> None:
    store.create("session", "a", {}, 0.6)
    reading = Background(lambda: store.read("session", "a", "s", None, 1.5))
    assert reading.result() == ([], False)
    assert store.load("session", "a") == {}


def test_a_bounded_log_has_no_more_keys_than_its_bounds(place: Place) -> None:
    with place.store(bounds=Bounds(events=10, size=10_000, stream_events=5, stream_size=5000)) as store:
        store.create("session", "a", {}, 100)
        for number in range(300):
            store.append("session", "a", f"s{number // 3}", b"x", last=number % 6 == 2)
        [state] = place.found("log:*:s")
        assert len(place.found("log:*:i:*")) <= place.ask("ZCARD", state[:-1] + b"open")
        assert len(place.found("log:*:e:*")) <= 10
        assert place.ask("HLEN", state) <= 20 * 5
        assert store.drop("session", "a")
        assert [key.rpartition(b":")[2] for key in place.found("log:*")] == [b"end"]


def test_dropping_wakes_a_reader_that_would_wait_on(store: RedisSessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "SLICE_SECONDS", 60.0)
    store._line.timeout = 120.0
    store.create("session", "a", {}, 1000)
    waiting = _blocked_readers(store)
    reading = Background(lambda: store.read("session", "a", "s", None, 60.0))
    assert until(lambda: _blocked_readers(store) > waiting)
    store.drop("session", "a")
    assert isinstance(reading.error(PATIENCE), Gone)


def _blocked_readers(store: RedisSessionStore) -> int:
    return int(store._line.client.info("clients")["blocked_clients"])


# -- other processes --------------------------------------------------------------------------------------------------

CHILD = """
import json, sys
from mcp_sync.server.redis_store import RedisSessionStore
url, prefix = sys.argv[1:]
store = RedisSessionStore(url, prefix=prefix)
said = {"loaded": store.load("session", "a"), "secret": store.secret("key").hex()}
store.update("session", "a", lambda value: {**value, "child": True})
def hear(data):
    if data == b"hello":
        store.append("session", "a", "heard", data, last=True)
store.listen(hear)
events, over = [], False
store.broadcast(b"ready")
while not over:
    more, over = store.read("session", "a", "s", events[-1][0] if events else None, 20)
    events += more
    for event, data in more:
        store.append("session", "a", "echo", data, last=data == b"end")
said["events"] = [event for event, _ in events]
store.read("session", "a", "bye", None, 20)
store.close()
print(json.dumps(said))
"""


def test_another_process_sees_records_and_events_and_hears_notices(place: Place, store: RedisSessionStore) -> None:
    store.create("session", "a", {"parent": True}, 100)
    ready: queue.Queue[bytes] = queue.Queue()
    store.listen(ready.put)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", CHILD, place.url, place.prefix]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
        try:
            assert ready.get(timeout=PATIENCE * 2) == b"ready"
            ids = [store.append("session", "a", "s", data, last=data == b"end") for data in (b"1", b"2", b"end")]
            echoed: list[bytes] = []
            after, over = None, False
            while not over:
                events, over = store.read("session", "a", "echo", after, PATIENCE)
                assert events
                after = events[-1][0]
                echoed += [data for _, data in events]
            assert echoed == [b"1", b"2", b"end"]
            store.broadcast(b"hello")
            assert store.read("session", "a", "heard", None, PATIENCE)[0][0][1] == b"hello"
            store.append("session", "a", "bye", b"")
            said = json.loads(child.communicate(timeout=PATIENCE)[0])
        finally:
            child.kill()
    assert said == {"loaded": {"parent": True}, "secret": (store.secret("key") or b"").hex(), "events": ids}
    assert store.load("session", "a") == {"parent": True, "child": True}
    assert child.returncode == 0


# -- Redis is not there -----------------------------------------------------------------------------------------------

USES = {
    "create": lambda store: store.create("session", "a", {}, 10),
    "load": lambda store: store.load("session", "a"),
    "save": lambda store: store.save("session", "a", {}),
    "update": lambda store: store.update("session", "a", lambda value: value),
    "drop": lambda store: store.drop("session", "a"),
    "append": lambda store: store.append("session", "a", "s", b""),
    "read": lambda store: store.read("session", "a", "s", None, 30),
    "knows": lambda store: store.knows("session", "a", "s.1"),
    "broadcast": lambda store: store.broadcast(b""),
    "listen": lambda store: store.listen(lambda data: None),
    "secret": lambda store: store.secret("key"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_where_nobody_listens_the_error_says_where_and_keeps_the_password(use: Any) -> None:
    port = free_port()
    with RedisSessionStore(f"redis://ann:geheim@127.0.0.1:{port}/3", timeout=0.5) as store:
        began = Deadline(PATIENCE)
        with pytest.raises(MCPConnectionError) as caught:
            use(store)
        assert not began.expired
    shown = f"{caught.value}{caught.value.details}{store!r}"
    assert f"redis://127.0.0.1:{port}/3" in shown
    assert "geheim" not in shown
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_redis_that_accepts_and_says_nothing_is_not_waited_for_long(use: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, at(deaf.getsockname()[1], timeout=0.2) as store:
        began = Deadline(PATIENCE)
        with pytest.raises(MCPConnectionError, match=r"redis://127.0.0.1:\d+ "):
            use(store)
        assert not began.expired


def test_a_redis_that_refuses_connections_is_not_waited_for() -> None:
    with at(free_port(), timeout=60.0) as store:
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(MCPConnectionError, match="cannot be reached"):
                store.listen(lambda data: None)
        assert time.monotonic() - began < 30.0


def test_those_who_wait_for_a_redis_that_says_nothing_wait_at_the_same_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as door:
        store = at(door.getsockname()[1], timeout=1.0)
        app = Server("s").wsgi_app(store=store)
        began = time.monotonic()

        def greet(number: int) -> None:
            with pytest.raises(MCPConnectionError):
                app._sessions.begin(Asker("2025-11-25", False))

        in_threads(12, greet)
        assert time.monotonic() - began < 8.0
        app.close()
        store.close()


def test_a_server_that_is_being_made_does_not_look_for_redis() -> None:
    server = Server("s")
    with at(free_port(), timeout=60.0) as store:
        app = server.wsgi_app(store=store)
        server.add_tool(lambda: "", "t")
        assert not store._listener.started
        app.close()


def test_a_redis_that_falls_silent_is_not_waited_for_long(place: Place, server: Running) -> None:
    with place.store(timeout=0.3) as store:
        store.create("session", "a", {}, 100)
        reading = Background(lambda: store.read("session", "a", "s", None, 30))
        place.ask("CLIENT", "PAUSE", 1500)
        with pytest.raises(MCPConnectionError, match="Timeout"):
            store.load("session", "a")
        assert isinstance(reading.error(), MCPConnectionError)
        assert until(lambda: _works(store), PATIENCE)


def _works(store: SessionStore) -> bool:
    try:
        return store.load("session", "a") is not None
    except MCPConnectionError:
        return False


def test_nothing_is_sent_twice_when_the_answer_does_not_come() -> None:
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as cutting:
        thread = Background(lambda: _cut_short(cutting, seen))
        with at(cutting.getsockname()[1], timeout=2.0) as store, pytest.raises(MCPConnectionError):
            store.append("session", "a", "s", b"only-once")
        cutting.shutdown(socket.SHUT_RDWR)
        thread.result()
    assert b"".join(seen).count(b"only-once") == 1


def _cut_short(door: socket.socket, seen: list[bytes]) -> None:
    """Answer +OK to all that introduces a client, and hang up on the first command that matters."""
    while True:
        try:
            connection, _ = door.accept()
        except OSError:
            return
        with connection:
            while data := connection.recv(65536):
                seen.append(data)
                if b"EVALSHA" in data:
                    break
                connection.sendall(b"+OK\r\n" * data.count(b"*"))


def test_a_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    with redis_running(tmp_path, "--requirepass", "richtig") as server:
        wrong = RedisSessionStore(f"redis://:geheim@127.0.0.1:{server.port}")
        with wrong as store, pytest.raises(MCPConnectionError) as caught:
            store.load("session", "a")
        with RedisSessionStore(f"redis://:richtig@127.0.0.1:{server.port}") as store:
            assert store.create("session", "a", {}, 10)
    assert "geheim" not in str(caught.value)
    assert "WRONGPASS" in str(caught.value) or "invalid" in str(caught.value)


def test_a_full_redis_refuses_with_its_reason(tmp_path: Path) -> None:
    def fill() -> None:
        for _ in range(20):
            store.append("session", "a", "s", b"x" * (1 << 20))

    small = redis_running(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    with small as server, at(server.port) as store:
        store.create("session", "a", {}, 100)
        with pytest.raises(MCPConnectionError, match="refuses.*maxmemory"):
            fill()
        assert store.drop("session", "a")


def test_after_a_restart_the_store_goes_on_and_the_listener_hears_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    port = free_port()
    with RedisSessionStore(f"redis://127.0.0.1:{port}", timeout=1.0) as store:
        with redis_running(tmp_path / "first", port=port):
            store.create("session", "a", {}, 100)
            store.listen(heard.put)
            reading = Background(lambda: store.read("session", "a", "s", None, 60))
            store.broadcast(b"before")
            assert heard.get(timeout=PATIENCE) == b"before"
        assert isinstance(reading.error(), MCPConnectionError)
        with pytest.raises(MCPConnectionError):
            store.load("session", "a")
        assert until(lambda: "notices are missed" in caplog.text, PATIENCE)
        with redis_running(tmp_path / "second", port=port):
            assert store.load("session", "a") is None
            assert store.create("session", "a", {}, 100)
            assert store.append("session", "a", "s", b"") == "s.1"
            assert until(lambda: _hears(store, heard), PATIENCE * 2)
    assert caplog.text.count("notices are missed") <= 3
    caplog.clear()


def _hears(store: SessionStore, heard: queue.Queue[bytes]) -> bool:
    store.broadcast(b"after")
    try:
        return heard.get(timeout=0.1) == b"after"
    except queue.Empty:
        return False


def test_a_listener_whose_connection_is_dead_without_a_word_finds_out(
    place: Place, server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_store, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(redis_store, "LISTEN_SECONDS", 0.1)
    heard: queue.Queue[bytes] = queue.Queue()
    with Valve(server.port) as valve, at(valve.port, prefix=place.prefix) as store:
        store.listen(heard.put)
        valve.swallow()
        assert until(lambda: "no answer for" in caplog.text, PATIENCE)
        valve.pass_on()
        assert until(lambda: _hears(store, heard), PATIENCE * 2)


def test_a_quiet_listener_stays_connected(
    store: RedisSessionStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_store, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(redis_store, "LISTEN_SECONDS", 0.05)
    heard: queue.Queue[bytes] = queue.Queue()
    store.listen(heard.put)
    began = time.monotonic()
    assert until(lambda: time.monotonic() - began > 1.0)
    store.broadcast(b"still there")
    assert heard.get(timeout=PATIENCE) == b"still there"
    assert caplog.text == ""


class Valve:
    """Passes connections on to a port, until it swallows what comes back."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._threads = [Background(self._accept)]

    def __enter__(self) -> Valve:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()
        for one in (self._door, *self._sockets):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.result()
        for one in (self._door, *self._sockets):
            one.close()

    def swallow(self) -> None:
        self._open.clear()

    def pass_on(self) -> None:
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._door.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [here, there]
            self._threads += [Background(lambda a=here, b=there: self._pump(a, b))]  # type: ignore[misc]
            self._threads += [Background(lambda a=there, b=here: self._pump(a, b))]  # type: ignore[misc]

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        swallowed = False
        try:
            while data := source.recv(65536):
                swallowed = swallowed or not self._open.is_set()  # for ever: what is lost is lost
                if not swallowed:
                    sink.sendall(data)
            if not swallowed:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


# -- how it is made ---------------------------------------------------------------------------------------------------


def test_nothing_is_connected_or_started_before_it_is_used() -> None:
    before = threading.active_count()
    with RedisSessionStore("redis://nowhere.invalid:1/"):
        assert threading.active_count() == before


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"pip install 'mcp-sync-transports\[redis\]'"):
        RedisSessionStore("redis://127.0.0.1")


@pytest.mark.parametrize(
    "wrong",
    ["http://h", "h:6379", "", "redis://:gehe/im@h", "redis://h?socket_timeout=1", "redis://h?db=x", "redis://h:x"],
)
def test_a_url_that_is_none_is_refused_without_being_shown(wrong: str) -> None:
    with pytest.raises(ValueError) as caught:
        RedisSessionStore(wrong)
    assert "gehe" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_what_is_neither_url_nor_client_is_refused() -> None:
    with pytest.raises(TypeError, match="not dict"):
        RedisSessionStore({})  # type: ignore[arg-type]


def test_a_client_is_not_touched_and_its_settings_are_taken(place: Place, server: Running) -> None:
    client = redis.Redis(port=server.port, db=2, decode_responses=True)
    try:
        client.set("theirs", "untouched")
        with RedisSessionStore(client, prefix=place.prefix) as store:
            assert repr(store) == f"<RedisSessionStore redis://localhost:{server.port}/2>"
            store.create("session", "a", {"n": 1}, 100)
            store.append("session", "a", "s", b"\xff")
            assert store.read("session", "a", "s", None, 0) == ([("s.1", b"\xff")], False)
            store.read("session", "a", "t", None, 0.1)
        assert client.get("theirs") == "untouched"
        assert client.exists(f"{place.prefix}record:session:a")
    finally:
        client.connection_pool.disconnect()
    with place.store() as elsewhere:
        assert elsewhere.load("session", "a") is None  # it was another database


def test_over_a_unix_socket(tmp_path: Path, place: Place) -> None:
    path = tmp_path / "redis.sock"
    server = redis_running(tmp_path / "server", "--unixsocket", str(path))
    with server, RedisSessionStore(f"unix://{path}?db=1") as store:
        store.create("session", "a", {"n": 1}, 100)
        assert store.load("session", "a") == {"n": 1}
        assert store._channel.endswith("notices:1")


def test_over_tls_an_authority_of_our_own_is_trusted_where_the_url_says_so(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "papers")
    paper = authority.certify("redis")
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(paper.certificate), "--tls-key-file", str(paper.key)]
    options += ["--tls-ca-cert-file", str(authority.file), "--tls-auth-clients", "no"]
    with redis_running(tmp_path / "server", *options):
        with RedisSessionStore(f"rediss://localhost:{port}/1?ssl_ca_certs={authority.file}") as store:
            assert store.create("session", "a", {"n": 1}, 100)
            assert store.load("session", "a") == {"n": 1}
            assert str(authority.file) not in repr(store)
        strict = RedisSessionStore(f"rediss://localhost:{port}/1")
        with strict as store, pytest.raises(MCPConnectionError, match="certificate"):
            store.load("session", "a")


def test_a_url_need_not_say_more_than_redis() -> None:
    with RedisSessionStore("redis://") as store:
        assert repr(store) == "<RedisSessionStore redis://>"


def test_behind_sentinels(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(redis_running(tmp_path / "server"))
        watcher = stack.enter_context(sentinel_running(tmp_path / "sentinel", "main", server.port))
        sentinel = redis.Sentinel([("127.0.0.1", watcher.port)])
        store = stack.enter_context(RedisSessionStore(sentinel.master_for("main")))
        assert repr(store) == "<RedisSessionStore sentinel://main/0>"
        store.create("session", "a", {"n": 1}, 100)
        assert store.load("session", "a") == {"n": 1}
        for one in sentinel.sentinels:
            one.connection_pool.disconnect()


def test_servers_with_different_prefixes_share_nothing(place: Place) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    with place.store() as ours, RedisSessionStore(place.url, prefix=place.prefix + "b:") as theirs:
        ours.create("session", "a", {}, 100)
        ours.listen(heard.put)
        assert theirs.load("session", "a") is None
        assert theirs.secret("x") != ours.secret("x")
        theirs.broadcast(b"theirs")
        ours.broadcast(b"ours")
        assert heard.get(timeout=PATIENCE) == b"ours"


def test_scripts_that_redis_has_forgotten_are_sent_again(place: Place, store: RedisSessionStore) -> None:
    store.create("session", "a", {}, 100)
    place.ask("SCRIPT", "FLUSH")
    assert store.load("session", "a") == {}
    assert store.append("session", "a", "s", b"") == "s.1"


def test_a_store_that_listens_and_is_forgotten_is_closed(place: Place) -> None:
    store = place.store()
    store.listen(lambda data: None)
    thread = store._listener._thread
    assert thread is not None
    assert thread.name == "mcp-store-listener"
    with pytest.warns(ResourceWarning, match="RedisSessionStore redis"):
        del store
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_record_whose_parts_redis_has_evicted_is_still_usable(place: Place, store: RedisSessionStore) -> None:
    store.create("session", "a", {}, 100, owner="ann")
    for pattern in ("log:*:s", "log:*:i:*", "log:*:e:*", "log:*:open", "index:*", "owner:*"):
        for name in ("s", "t"):
            store.append("session", "a", f"{name}{pattern[4:6]}", b"x" * 100)
        for key in place.found(pattern):
            place.ask("DEL", key)
        store.load("session", "a")
        store.append("session", "a", "big", b"x" * (9 << 20))
    assert store.drop("session", "a")


def test_a_forked_child_gives_back_its_copies_of_the_connections(place: Place) -> None:
    before = _sockets()
    with place.store() as store:
        store.create("session", "a", {}, 100)
        store.listen(lambda data: None)
        store.load("session", "a")
        ours = _sockets() - before
        assert len(ours) >= 2

        def in_child() -> None:
            assert not _sockets() & ours

        assert verdict_of_child(in_child) == "fine"
        assert store.load("session", "a") == {}


def _sockets() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass  # the one that listed the folder
    return {name for name in found if name.startswith("socket:")}


def test_a_closed_store_has_no_connection_once_its_readers_have_left(place: Place) -> None:
    before = _sockets()
    with place.store() as store:
        store.create("session", "a", {}, 100)
        waiting = _blocked_readers(store)
        reading = Background(lambda: store.read("session", "a", "s", None, 60.0))
        assert until(lambda: _blocked_readers(store) > waiting)
    assert isinstance(reading.error(), MCPConnectionError)
    assert _sockets() <= before


def test_no_error_of_the_library_shows_the_password() -> None:
    with RedisSessionStore("redis://ann:geheim@127.0.0.1:1/3") as store:
        told = store._line.told(redis.ResponseError("geheim is\nwrong"))
    assert str(told).endswith("refuses what it is asked: ResponseError: *** is wrong")


def test_gone_is_gone_and_no_error_of_the_connection(store: RedisSessionStore) -> None:
    with raises(Gone) as errors:
        store.append("session", "secret-key", "a", b"")
    assert "secret-key" not in str(errors[0])
