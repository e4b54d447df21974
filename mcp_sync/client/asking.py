"""Asking: a request, and whatever conversation it takes until its result is final.

In the stateless era a result may be a question (protocol/rounds.py). ``Asker`` drives those rounds, for a caller that
waits on its own thread, and for a future on whichever thread the news arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..deadlines import Deadline
from ..engine.caller import CallFuture, Question
from ..engine.dispatch import Job
from ..engine.peer import Peer
from ..exceptions import JSONRPCError, MCPError, MCPTimeoutError, RemoteProtocolError, TooManyRequests
from ..protocol.messages import INVALID_PARAMS
from ..protocol.rounds import METHODS, Call, Gather, Pause, rounds
from .cache import AnswerCache
from .callbacks import Callbacks

R = TypeVar("R")

_OFFERED_BY = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}


class Asker:
    """Asks a Peer, and answers what it asks back.

    Threads: callbacks run on the Peer's request threads, so that one that never returns cannot outlive the deadline.
    """

    def __init__(self, peer: Peer, callbacks: Callbacks, cache: AnswerCache | None = None) -> None:
        self.peer = peer
        self._callbacks = callbacks
        self._cache = cache

    def ask(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the final result; raises as Caller.call says."""
        cache = self._cache
        if cache is None or self.peer.agreement.era.server_asks:
            return self._ask(question, deadline)[0]
        fresh = cache.get(question.method, question.params)
        if fresh is not None:
            return fresh
        generation = cache.generation
        try:
            result, at_once = self._ask(question, deadline)
        except JSONRPCError as error:
            if error.code == INVALID_PARAMS and "cursor" in (question.params or {}):
                cache.forget(question.method)  # the pages before it are of another time (server/utilities/caching)
            raise
        if at_once:
            cache.put(question.method, question.params, result, generation)
        return result

    def _ask(self, question: Question[Any], deadline: Deadline) -> tuple[dict[str, Any], bool]:
        """Return the final result, and whether it came at once: one that took rounds must not be kept."""
        if not self._in_rounds(question.method):
            return self.peer.call(question, deadline), True
        talk = rounds(question.method, question.params)
        step, steps = next(talk), 1
        while True:
            try:
                step = talk.send(self._take(step, question, deadline))
                steps += 1
            except StopIteration as end:
                return end.value, steps == 1

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future of the final result."""
        if not self._in_rounds(question.method):
            return self.peer.submit(question, deadline)
        return _FutureRounds(self, question, deadline).start()

    def _in_rounds(self, method: str) -> bool:
        return method in METHODS and not self.peer.agreement.era.server_asks

    def _take(self, step: Call | Gather | Pause, question: Question[Any], deadline: Deadline) -> Any:
        if isinstance(step, Call):
            return self.peer.call(replace(question, params=step.params), deadline)
        return self.reply(step, deadline)

    def reply(self, step: Gather | Pause, deadline: Deadline) -> Any:
        """Do what the server wants between two calls; blocks, at most until the deadline."""
        if isinstance(step, Pause):
            threading.Event().wait(min(step.seconds, deadline.remaining))
            return None
        return self._gather(step.requests, deadline)

    def _gather(self, requests: Mapping[str, Mapping[str, Any]], deadline: Deadline) -> dict[str, Any]:
        """Ask the callbacks all at once, and wait for all."""
        for request in requests.values():
            self._check_offered(request["method"])
        tasks = {key: _Task(self._callbacks, request) for key, request in requests.items()}
        for task in tasks.values():
            if not self.peer.run(task.run):
                raise TooManyRequests("too many callbacks run already", may_have_run=None)
        return {key: task.result(deadline) for key, task in tasks.items()}

    def _check_offered(self, method: str) -> None:
        if _OFFERED_BY.get(method) not in self._callbacks.capabilities:
            raise RemoteProtocolError(f"the server asks for {method}, which this client does not offer")


class _Task:
    """One callback on its way."""

    def __init__(self, callbacks: Callbacks, request: Mapping[str, Any]) -> None:
        self._callbacks = callbacks
        self._request = request
        self._done = threading.Event()
        self._answer: dict[str, Any] = {}
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._answer = self._callbacks.answer(self._request["method"], self._request.get("params") or {})
        except Exception as error:
            self._error = error
        finally:
            self._done.set()

    def result(self, deadline: Deadline) -> dict[str, Any]:
        if not self._done.wait(deadline.remaining):
            raise MCPTimeoutError(
                f"the callback for {self._request['method']} took longer than the call may take "
                f"(limit {deadline.limit:g} s)",
                details={"limit": deadline.limit, "phase": "callback", "elapsed": round(deadline.elapsed, 3)},
            )
        if self._error is not None:
            raise self._error
        return self._answer


class _FutureRounds:
    """Rounds for a call that nobody waits for; owns the future that the application holds.

    Threads: goes on wherever the last answer arrived, and on a request thread where something has to be waited for.
    Locks: ``_lock``, held for a few instructions; whoever sets ``_over`` resolves the future.
    """

    def __init__(self, asker: Asker, question: Question[Any], deadline: Deadline) -> None:
        self._asker = asker
        self._question = question
        self._deadline = deadline
        self._talk = rounds(question.method, question.params)
        self._lock = threading.Lock()  # guards _over, _inner
        self._over = False
        self._inner: CallFuture[Any] | None = None
        self._future: CallFuture[Any] = CallFuture(question, self)

    def start(self) -> CallFuture[Any]:
        self._future.expire(self._deadline, self._expire)
        self._go(next(self._talk))
        return self._future

    # -- Owner of the future ------------------------------------------------------------------------------------------

    def withdraw(self, future: CallFuture[Any]) -> bool:
        if not self._claim():
            return False
        self._drop_inner()
        return True

    def post(self, job: Job) -> None:
        self._asker.peer.post(job)

    # -- one step after the other -------------------------------------------------------------------------------------

    def _go(self, step: Call | Gather | Pause) -> None:
        if not isinstance(step, Call):
            if not self._asker.peer.run(lambda: self._reply(step)):
                self._end(None, TooManyRequests("too many callbacks run already", may_have_run=None))
            return
        question = replace(self._question, params=step.params, convert=None, then=self._answered)
        try:
            inner = self._asker.peer.submit(question, self._deadline)
        except MCPError as error:
            self._end(None, error)
            return
        with self._lock:
            self._inner = inner
            over = self._over
        if over:
            inner.cancel()

    def _answered(self, inner: CallFuture[Any]) -> None:
        """Go on with the result; on the reader thread, so never wait here."""
        try:
            result = inner.raw()
        except MCPError as error:
            self._end(None, error)
            return
        self._send(result, None)

    def _reply(self, step: Gather | Pause) -> None:
        try:
            answer = self._asker.reply(step, self._deadline)
        except Exception as error:
            self._end(None, error)
            return
        self._send(None, answer)

    def _send(self, result: dict[str, Any] | None, answer: Any) -> None:
        try:
            step = self._talk.send(result if result is not None else answer)
        except StopIteration as end:
            self._end(end.value, None)
        except MCPError as error:
            self._end(None, error)
        else:
            if result is not None and isinstance(step, Call):  # a reader must not write
                self._asker.peer.run(lambda: self._go(step))
            else:
                self._go(step)

    def _end(self, result: dict[str, Any] | None, error: BaseException | None) -> None:
        if self._claim():
            self._future.settle(result, error)

    def _expire(self) -> None:
        if not self._claim():
            return
        self._drop_inner()
        limit = self._deadline.limit
        text = f"{self._question.method} to {self._asker.peer.name}: timed out (limit {limit:g} s)"
        self._future.settle(None, MCPTimeoutError(text, details={"limit": limit, "elapsed": limit}))

    def _claim(self) -> bool:
        with self._lock:
            mine, self._over = not self._over, True
            return mine

    def _drop_inner(self) -> None:
        with self._lock:
            inner = self._inner
        if inner is not None:
            inner.cancel()
