"""Partner: the scripted other side of every contract test; a server that does what it is asked, bad manners included.

Its methods, with their params. Each is answered with ``{}`` unless it says otherwise; what has no such name is refused.

===========  ===========================================================================================================
initialize   agrees to 2025-11-25, so that whole sessions can be held with it
echo         answers with its params
fail         answers with the error ``{code, message, data}``
hold         is not answered ...
release      ... until this answers all that is held, the newest first, with their params; then itself: ``{count}``
notify       sends ``{count}`` notifications ``news`` with ``{n}`` from 0, then answers
progress     reports progress 1 to ``{count}`` under the request's token, then answers, or with ``{hold: true}`` holds
ask          sends the request ``{method, params}`` ``{times}`` times (1) at once, and answers when all have been
             answered: ``{answers: [{result} or {error}, ...]}`` in the order of asking
withdraw     sends the request ``{method, params}``, cancels it at once, and answers
seen         answers with all notifications that have come: ``{notifications: [{method, params}, ...]}``
count        answers with the number of each method's requests so far: ``{echo: 3, ...}``
garbage      writes lines that are no messages, then answers
malformed    answers with what is plainly an answer, and cannot be read
twice        answers, and answers again
foreign      answers something that nobody asked, then this
oversize     answers with a string of ``{size}`` characters
deaf         answers, and reads no more
close        answers, and closes its end
die          ends at once without an answer; as a program with exit status 3, having said ``last words`` on stderr
===========  ===========================================================================================================

Only the standard library is imported: as a child program it has to start fast.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

GARBAGE = (b"Server ready.", b"{", b'{"a": 1', b"[]", b"null", b'"text"', b"\xff\xfe\x00", b"{}", b"[1, 2]", b"NaN")
"""Lines that are no messages, and no answers to anything either."""


class Wire(Protocol):
    """How a Partner passes messages as bytes."""

    def read(self) -> bytes | None:
        """Return the next message, waiting for it; None is the end."""

    def write(self, data: bytes) -> None:
        """Pass a message, or what is none. Nobody need be there any more to read it."""

    def idle(self) -> None:
        """Read nothing until the other side has closed."""

    def close(self) -> None:
        """Close this end."""

    def die(self) -> None:
        """End as rudely as there is a way to."""


class Partner:
    """The scripted other side; see the module's docstring.

    Threads: none; ``run`` keeps the one it is called on until the conversation is over.

    Args:
        wire: How to pass messages.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._over = False
        self._held: list[tuple[Any, Any]] = []
        self._seen: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._asked: dict[str, _Round] = {}
        self._methods: dict[str, Callable[[Any, dict[str, Any]], object]] = {
            "initialize": self._initialize,
            "echo": self._answer,
            "fail": self._fail,
            "hold": lambda id_, params: self._held.append((id_, params)),
            "release": self._release,
            "notify": self._notify,
            "progress": self._progress,
            "ask": self._ask,
            "withdraw": self._withdraw,
            "seen": lambda id_, _: self._answer(id_, {"notifications": self._seen}),
            "count": lambda id_, _: self._answer(id_, dict(self._counts)),
            "garbage": self._garbage,
            "malformed": self._malformed,
            "twice": self._twice,
            "foreign": self._foreign,
            "oversize": lambda id_, params: self._answer(id_, {"text": "x" * params["size"]}),
            "deaf": self._deaf,
            "close": self._close,
            "die": self._die,
        }

    def run(self) -> None:
        """Converse until either side ends it."""
        while not self._over and (data := self._wire.read()) is not None:
            self.handle(json.loads(data))
        self._wire.close()

    def handle(self, message: dict[str, Any]) -> None:
        """Do what one message asks."""
        method, id_ = message.get("method"), message.get("id")
        if method is None:
            self._answered(message)
        elif "id" not in message:
            self._seen.append({"method": method, "params": message.get("params")})
        else:
            self._counts[method] += 1
            self._methods.get(method, self._refuse)(id_, message.get("params") or {})

    # -- words ---------------------------------------------------------------------------------------------------------

    def _say(self, **members: Any) -> None:
        self._wire.write(json.dumps({"jsonrpc": "2.0", **members}, ensure_ascii=False).encode())

    def _tell(self, method: str, params: dict[str, Any]) -> None:
        self._say(method=method, params=params)

    def _answer(self, id_: Any, result: dict[str, Any]) -> None:
        self._say(id=id_, result=result)

    def _done(self, id_: Any) -> None:
        self._answer(id_, {})

    # -- manners -------------------------------------------------------------------------------------------------------

    def _initialize(self, id_: Any, params: dict[str, Any]) -> None:
        info = {"name": "partner", "version": "1"}
        self._answer(id_, {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": info})

    def _refuse(self, id_: Any, params: dict[str, Any]) -> None:
        self._say(id=id_, error={"code": -32601, "message": "the partner has no such method"})

    def _fail(self, id_: Any, params: dict[str, Any]) -> None:
        self._say(id=id_, error=params)

    def _release(self, id_: Any, params: dict[str, Any]) -> None:
        held, self._held = self._held, []
        for held_id, held_params in reversed(held):
            self._answer(held_id, held_params)
        self._answer(id_, {"count": len(held)})

    def _notify(self, id_: Any, params: dict[str, Any]) -> None:
        for n in range(params["count"]):
            self._tell("news", {"n": n})
        self._done(id_)

    def _progress(self, id_: Any, params: dict[str, Any]) -> None:
        count = params["count"]
        token = (params.get("_meta") or {}).get("progressToken")
        for n in range(1, count + 1):
            report = {"progressToken": token, "progress": n, "total": count, "message": f"step {n}"}
            self._tell("notifications/progress", report)
        if params.get("hold"):
            self._held.append((id_, {}))
        else:
            self._done(id_)

    def _ask(self, id_: Any, params: dict[str, Any]) -> None:
        questions = [f"p{id_}-{n}" for n in range(params.get("times", 1))]
        round_ = _Round(id_, questions)
        for question in questions:
            self._asked[question] = round_
            self._say(id=question, method=params["method"], params=params.get("params") or {})

    def _answered(self, message: dict[str, Any]) -> None:
        round_ = self._asked.pop(str(message.get("id")), None)
        if round_ is not None and round_.take(message):
            self._answer(round_.id, {"answers": round_.answers})

    def _withdraw(self, id_: Any, params: dict[str, Any]) -> None:
        self._say(id=f"w{id_}", method=params["method"], params=params.get("params") or {})
        self._tell("notifications/cancelled", {"requestId": f"w{id_}", "reason": "changed my mind"})
        self._done(id_)

    # -- bad manners ---------------------------------------------------------------------------------------------------

    def _garbage(self, id_: Any, params: dict[str, Any]) -> None:
        for line in GARBAGE:
            self._wire.write(line)
        self._done(id_)

    def _malformed(self, id_: Any, params: dict[str, Any]) -> None:
        self._wire.write(b'{"jsonrpc": "2.0", "id": ' + json.dumps(id_).encode() + b', "result": {"a": tru}}')

    def _twice(self, id_: Any, params: dict[str, Any]) -> None:
        self._done(id_)
        self._done(id_)

    def _foreign(self, id_: Any, params: dict[str, Any]) -> None:
        self._done(987654321)
        self._done("not yours")
        self._done(id_)

    def _deaf(self, id_: Any, params: dict[str, Any]) -> None:
        self._done(id_)
        self._wire.idle()
        self._over = True

    def _close(self, id_: Any, params: dict[str, Any]) -> None:
        self._done(id_)
        self._over = True

    def _die(self, id_: Any, params: dict[str, Any]) -> None:
        self._over = True
        self._wire.die()


class _Round:
    """Requests of the partner that are waiting for their answers."""

    def __init__(self, id_: Any, questions: Iterable[str]) -> None:
        self.id = id_
        self._waiting = list(questions)
        self._found: dict[str, dict[str, Any]] = {}

    def take(self, message: dict[str, Any]) -> bool:
        """Keep an answer; True: it was the last."""
        self._found[message["id"]] = {key: message[key] for key in ("result", "error") if key in message}
        return len(self._found) == len(self._waiting)

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [self._found[question] for question in self._waiting]


class StdioWire:
    """Lines on stdin and stdout."""

    def __init__(self) -> None:
        self._lines = sys.stdin.buffer

    def read(self) -> bytes | None:
        """Return the next line; None is the end."""
        return self._lines.readline() or None

    def write(self, data: bytes) -> None:
        """Write one line."""
        line = memoryview(data + b"\n")
        try:
            while line:
                line = line[os.write(1, line) :]
        except BrokenPipeError:
            pass

    def idle(self) -> None:
        """Wait until the other end of stdin is closed."""
        closed = select.poll()
        closed.register(0, 0)
        closed.poll()

    def close(self) -> None:
        """Close stdout; the program ends right after."""
        os.close(1)

    def die(self) -> None:
        """End at once."""
        os.write(2, b"last words\n")
        os._exit(3)


if __name__ == "__main__":
    Partner(StdioWire()).run()
    os._exit(0)  # stdout is closed; leave the interpreter nothing to flush
