"""Fuzz target: a whole client against a server that follows a program of faults; I1 to I8 of FAULTS.md.

The server is no thread: whatever the client writes, it reacts to at once, on the thread that writes. What it says goes
through the line splitter, in pieces of any size, as over a pipe.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fuzz.provider import Provider, kept
from fuzz.stage import nothing_fails

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, MCPTransport
from mcp_sync.client.answers import ToolResult
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import CallFuture
from mcp_sync.engine.channel import Channel, Pipe, PipeChannel
from mcp_sync.policies import Limits
from mcp_sync.protocol.framing import LineSplitter, Overlong

LIMIT = 5000
LONG, SHORT = 30.0, 0.03
"""Seconds: a call with the first must not need them; one that nobody answers has the second."""
GRACE = 5.0
"""Seconds by which a machine that others use may be late."""
MOST_CALLS = 6
MOST_BYTES = 4 * LIMIT + (1 << 17)
STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"

SILENT = ("never", "late", "half", "stuck")
"""What leaves a call without an answer; all other faults have to end it at once, with a result or an error."""
FAULTS = (
    *("good", "good", "error", "twice", "foreign", "malformed", "noise", "never", "late", "close", "half"),
    *("close after", "overlong", "progress", "news", "asks", "shape", "raw", "refuse", "stuck", "fails", "batch"),
    *("null id", "wrong type", "surrogate", "deep", "cancels", "flood", "bom", "half and close"),
)
OPENINGS = ("good", "good", "good", "good", "error", "raw", "close", "malformed", "shape", "never")
FINE = ("good", "twice", "foreign", "noise", "news", "asks", "progress", "flood", "null id", "cancels", "bom")
"""What a call has to outlive."""
ENDINGS = {"close", "half and close", "fails", "stuck", "overlong", "close after", *SILENT}
"""What others may not outlive."""


class Script:
    """What the server does with each call, in order, and what it has seen.

    Attributes:
        dials: How many connections were made.
        written: How often a call with a token was written (I10).
        faults: What became of the call with a token.
    """

    def __init__(self, feed: Provider) -> None:
        self.feed = feed
        self.stateless = not feed.flag()
        self.how = feed.byte()
        self.opening = feed.pick(OPENINGS)
        self.listing = feed.pick(("good", "good", "error", "malformed", "shape", "close"))
        self.dials = 0
        self.written: Counter[str] = Counter()
        self.faults: dict[str, str] = {}
        self.raw = b""
        self.pipe: ScriptedPipe | None = None
        self._lock = threading.Lock()  # guards all above

    def calls(self) -> list[str]:
        """Return the faults of all calls to make."""
        return [self.feed.pick(FAULTS) for _ in range(1 + self.feed.below(MOST_CALLS))]


class ScriptedPipe(Pipe):
    """The client's end of a connection to nobody."""

    kind = "scripted"

    def __init__(self, script: Script) -> None:
        self.name = f"scripted-{script.dials}"
        self._script = script
        self._splitter = LineSplitter(LIMIT)
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._late: list[bytes] = []

    # -- the client's side

    def read(self) -> Sequence[bytes | Overlong]:
        while (chunk := self._chunks.get()) is not None:
            lines = self._splitter.feed(chunk)
            assert kept(self._splitter) <= MOST_BYTES
            if lines:
                return lines
        return []

    def write(self, data: bytes, deadline: Deadline) -> None:
        message = json.loads(data)
        if "id" in message and "method" in message:
            self._react(message)

    def hang_up(self, deadline: Deadline) -> None:
        self._chunks.put(None)

    def epitaph(self) -> MCPConnectionError:
        return MCPConnectionError(f"{self.name}: the script has ended it")

    # -- the server's side

    def say(self, data: bytes) -> None:
        """Send bytes, in pieces."""
        for piece in Provider(bytes([self._script.how])).pieces(data):
            self._chunks.put(piece)

    def tell(self, **members: Any) -> None:
        """Send a message."""
        self.say(json.dumps({"jsonrpc": "2.0", **members}).encode() + b"\n")

    def _react(self, message: dict[str, Any]) -> None:
        method, id_ = message["method"], message["id"]
        if method == "tools/call":
            token = message["params"]["arguments"]["token"]
            with self._script._lock:
                self._script.written[token] += 1
            for late in self._late:
                self.say(late)
            self._late = []
            self._fault(self._script.faults[token], id_, token)
        elif method == "tools/list":
            self._hidden(self._script.listing, id_, {"tools": []})
        elif method in ("server/discover", "initialize"):
            self._open(method, id_)
        else:
            self.tell(id=id_, result={})

    def _open(self, method: str, id_: Any) -> None:
        info = {"name": "scripted", "version": "1"}
        if method == "server/discover" and not self._script.stateless:
            self.tell(id=id_, error={"code": -32601, "message": "what?"})
            return
        version = STATELESS if self._script.stateless else HANDSHAKE
        whole = {"protocolVersion": version, "supportedVersions": [version], "capabilities": {"tools": {}}}
        self._hidden(self._script.opening, id_, {**whole, "serverInfo": info, "_meta": {}, "resultType": "complete"})

    def _hidden(self, fault: str, id_: Any, result: dict[str, Any]) -> None:
        """Answer what the caller has not asked for himself."""
        if fault == "error":
            self.tell(id=id_, error={"code": -32000, "message": "no"})
        elif fault == "malformed":
            self.say(b'{"jsonrpc":"2.0","id":%s,"result":{"tools":tru}}\n' % json.dumps(id_).encode())
        elif fault == "shape":
            self.tell(id=id_, result={"tools": [{"name": 1}, None], "protocolVersion": 1, "supportedVersions": "x"})
        elif fault == "raw":
            self.say(self._script.raw + b"\n")
            self.tell(id=id_, result=result)
        elif fault == "close":
            self._chunks.put(None)
        elif fault != "never":
            self.tell(id=id_, result={**result, "ttlMs": 0, "cacheScope": "private"})

    def _fault(self, fault: str, id_: Any, token: str) -> None:
        own = json.dumps(id_).encode()
        good, other, unknown = (_result(one, token) for one in (id_, 987654, "x"))
        before = {
            "twice": good,
            "foreign": other.replace(token.encode(), b"foreign") + unknown,
            "noise": b"INFO starting\n\xff\xfe\n{\n[]\nnull\n" + b'{"level":"info"}\n',
            "raw": self._script.raw + b"\n",
            "news": b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n' * 3,
            "flood": b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}\n' * 300,
            "bom": b"\xef\xbb\xbf\n",
        }
        instead = {
            "malformed": b'{"jsonrpc":"2.0","id":%b,"result":{"content":tru}}\n' % own,
            "half": good[: len(good) // 2],
            "overlong": good.replace(token.encode(), b"x" * (LIMIT + 1)),
            "shape": b'{"jsonrpc":"2.0","id":%b,"result":{"content":7}}\n' % own,
            "wrong type": b'{"jsonrpc":"2.0","id":%b,"result":[]}\n' % own,
            "surrogate": good.replace(token.encode(), rb"\ud800"),
            "deep": b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (own, b'{"a":' * 300 + b"1" + b"}" * 300),
            "batch": b"[" + good.strip() + b"]\n",
        }
        if fault in before:
            self.say(before[fault] + good)
        elif fault in instead:
            self.say(instead[fault])
        elif fault == "late":
            self._late.append(good)
        elif fault in ("close", "close after", "half and close"):
            self.say({"close after": good, "half and close": good[:-5]}.get(fault, b""))
            self._chunks.put(None)
        elif fault == "fails":
            raise MCPConnectionError(f"{self.name} cannot be written to", may_have_run=None)
        elif fault == "stuck":
            raise MCPTimeoutError(f"{self.name} does not read", may_have_run=False)
        else:
            self._odd(fault, id_, good)

    def _odd(self, fault: str, id_: Any, good: bytes) -> None:
        if fault == "error":
            self.tell(id=id_, error={"code": -32000, "message": "no", "data": {"a": 1}})
        elif fault == "null id":
            self.tell(id=None, error={"code": -32700, "message": "what was that?"})
            self.say(good)
        elif fault == "refuse":
            self.tell(id=id_, error={"code": "x", "message": None})
        elif fault == "asks":
            self.tell(id="q", method="elicitation/create", params={"message": 1})
            self.tell(id="q", method="ping")
            self.tell(id=id_, method="roots/list")
            self.say(good)
        elif fault == "progress":
            for progress in (1, 1, 0, -1, 1e300, "x"):
                self.tell(method="notifications/progress", params={"progressToken": id_, "progress": progress})
            self.say(good)
        elif fault == "cancels":
            self.tell(method="notifications/cancelled", params={"requestId": id_})
            self.say(good)
        elif fault != "never":
            self.say(good)


def _result(id_: Any, text: str) -> bytes:
    result = {"content": [{"type": "text", "text": text}], "resultType": "complete"}
    return json.dumps({"jsonrpc": "2.0", "id": id_, "result": result}).encode() + b"\n"


class Scripted(MCPTransport):
    """Dials into a script."""

    transport_type = "scripted"

    def __init__(self, script: Script) -> None:
        super().__init__(LONG)
        self.script = script

    def dial(self, deadline: Deadline) -> Channel:
        self.script.dials += 1
        pipe = ScriptedPipe(self.script)
        return PipeChannel(pipe, Limits(message_size=LIMIT), self._observers)


def client_and_faults(data: bytes) -> None:
    """Every call ends once, in time, with its own result or an MCPError; nothing is sent twice, and nothing is left."""
    feed = Provider(data)
    script = Script(feed)
    faults = script.calls()
    at_once = feed.flag()
    script.raw = feed.line()
    script.faults = {f"token-{number}": fault for number, fault in enumerate(faults)}
    threads = threading.active_count()
    with nothing_fails():
        client = Client(Scripted(script))
        try:
            if _opens(client, script):
                (_together if at_once else _one_by_one)(client, script)
                _check_counters(client)
        finally:
            client.close(GRACE)
            client.close()
    assert all(count == 1 for count in script.written.values()), script.written
    assert script.dials <= 2 + len(faults), script.dials
    _left_nothing(threads)


def _opens(client: Client, script: Script) -> bool:
    silent = script.opening == "never"
    deadline = Deadline(SHORT if silent else LONG)
    try:
        client.connect(SHORT if silent else LONG)
    except MCPError as error:
        said = error
        assert script.opening not in ("good", "raw") or (script.opening == "raw" and script.raw.strip()), said
        assert silent or not isinstance(said, MCPTimeoutError), (script.opening, said)
        assert deadline.elapsed < deadline.limit + GRACE
        return False
    return True


def _timeout_of(script: Script, fault: str) -> float:
    """What half a message is followed by is lost with it, whichever call it answers."""
    return SHORT if fault in SILENT or "half" in script.faults.values() else LONG


def _one_by_one(client: Client, script: Script) -> None:
    for token, fault in script.faults.items():
        began = time.monotonic()
        try:
            answer: ToolResult | MCPError = client.call_tool("t", {"token": token}, timeout=_timeout_of(script, fault))
        except MCPError as error:
            answer = error
        _check(script, token, fault, answer, time.monotonic() - began)


def _together(client: Client, script: Script) -> None:
    began = time.monotonic()
    futures: dict[str, CallFuture[ToolResult] | MCPError] = {}
    for token, fault in script.faults.items():
        try:
            futures[token] = client.submit_tool("t", {"token": token}, timeout=_timeout_of(script, fault))
        except MCPError as error:
            futures[token] = error
    for token, future in futures.items():
        try:
            answer = future if isinstance(future, MCPError) else future.result()
        except MCPError as error:
            answer = error
        _check(script, token, script.faults[token], answer, time.monotonic() - began)


def _check(script: Script, token: str, fault: str, answer: Any, seconds: float) -> None:
    shared = "half" in script.faults.values()  # whose end is the beginning of the next message
    broken = shared or script.raw.strip() or script.listing != "good"
    assert seconds < LONG, f"{fault}: {seconds} s"
    if isinstance(answer, MCPError):
        assert fault in SILENT or shared or not isinstance(answer, MCPTimeoutError), (fault, answer)
        assert answer.may_have_run in (True, False, None)
        str(answer).encode("utf-8", "replace")
        assert fault not in FINE or broken or ENDINGS & set(script.faults.values()), (fault, answer)
        return
    assert isinstance(answer, ToolResult)
    raw = script.raw.strip() and "raw" in (fault, script.opening)
    assert fault != "never"
    assert answer.text == token or raw, f"{fault}: {answer.text!r} is not the answer of {token}"


def _check_counters(client: Client) -> None:
    counters = client.counters
    ended = sum(counters[kind] for kind in ("ok", "error", "timeout", "cancelled"))
    assert counters["sent"] == ended + counters["pending"], counters


def _left_nothing(threads: int) -> None:
    until = time.monotonic() + GRACE
    while threading.active_count() > threads + 1 and time.monotonic() < until:  # one more may watch over deadlines
        time.sleep(0.005)
    assert threading.active_count() <= threads + 1, threading.enumerate()
