"""Asking: a request, and whatever conversation it takes until its result is final.

In the stateless era a result may be a question (protocol/rounds.py). ``Asker`` drives those rounds, for a caller that
waits on its own thread, and for a future on whichever thread the news arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.caller import Caller, CallFuture, Question
from ..engine.dispatch import Job, reaper
from ..exceptions import JSONRPCError, MCPError, MCPTimeoutError, RemoteProtocolError, TooManyRequests
from ..protocol.messages import HEADER_MISMATCH, INVALID_PARAMS
from ..protocol.rounds import METHODS, Call, Gather, Pause, rounds
from .cache import AnswerCache
from .callbacks import Callbacks
from .watching import Watching

R = TypeVar("R")

_OFFERED_BY = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}


class Asker:
    """Asks a Caller, and answers what it asks back.

    Threads: callbacks run on the Caller's request threads, so that one that never returns cannot outlive the deadline.
    """

    def __init__(self, caller: Caller, callbacks: Callbacks, cache: AnswerCache | None = None) -> None:
        self.caller = caller
        self._callbacks = callbacks
        self._cache = cache
        self.watching = Watching()

    def ask(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the final result; raises as Caller.call says."""
        if self.caller.agreement.era.server_asks:  # then answers are not kept, nor do they take rounds
            return self.caller.call(question, deadline)
        try:
            return self._ask_or_know(question, deadline)
        except JSONRPCError as error:
            if error.code != HEADER_MISMATCH or question.method != "tools/call":
                raise
        # The tool has changed since it was listed, and with it the headers that repeat its arguments (SEP-2243).
        if self._cache is not None:
            self._cache.forget("tools/list")
        for _ in self.pages("tools/list", "tools", deadline):
            pass
        return self._ask_or_know(question, deadline)

    def _ask_or_know(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        cache = self._cache
        if cache is None:
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
            return self.caller.call(question, deadline), True
        talk = rounds(question.method, question.params)
        step, steps = next(talk), 1
        while True:
            try:
                step = talk.send(self._take(step, question, deadline))
                steps += 1
            except StopIteration as end:
                return end.value, steps == 1

    def pages(self, method: str, key: str, deadline: Deadline) -> Iterator[dict[str, Any]]:
        """Yield the items of every page (server/utilities/pagination).

        Raises:
            RemoteProtocolError: A page is not valid, or a cursor comes back: there would be no end.
            MCPError: As ``ask``; the deadline is for all pages.
        """
        seen: set[str] = set()
        params: dict[str, Any] | None = None
        while True:
            page = self.ask(Question(method, params), deadline)
            items = page.get(key)
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise RemoteProtocolError(f"{method}: the server's result has no list of objects named {key!r}")
            yield from items
            cursor = page.get("nextCursor")
            # An empty cursor is one like any other since 2026-07-28; before, some servers mean the end by it.
            if cursor is None or (cursor == "" and self.caller.agreement.era.server_asks):
                return
            if not isinstance(cursor, str):
                raise RemoteProtocolError(f"{method}: the server's nextCursor is {cursor!r:.80}, not a string")
            if cursor in seen:
                raise RemoteProtocolError(f"{method}: the server's pages never end, the cursor {cursor!r} came twice")
            seen.add(cursor)
            params = {"cursor": cursor}

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future of the final result."""
        if not self._in_rounds(question.method):
            return self.caller.submit(question, deadline)
        return _FutureRounds(self, question, deadline).start()

    def _in_rounds(self, method: str) -> bool:
        return method in METHODS and not self.caller.agreement.era.server_asks

    def _take(self, step: Call | Gather | Pause, question: Question[Any], deadline: Deadline) -> Any:
        if isinstance(step, Call):
            return self.caller.call(replace(question, params=step.params), deadline)
        return self.reply(step, deadline)

    def reply(self, step: Gather | Pause, deadline: Deadline) -> Any:
        """Do what the server wants between two calls; blocks, at most until the deadline."""
        if isinstance(step, Pause):
            interrupts.Event().wait(min(step.seconds, deadline.remaining))
            return None
        return self._gather(step.requests, deadline)

    def _gather(self, requests: Mapping[str, Mapping[str, Any]], deadline: Deadline) -> dict[str, Any]:
        """Ask the callbacks all at once, and wait for all."""
        finished = interrupts.Event()
        answering = self.answering(requests, lambda answering: finished.set())
        if not finished.wait(deadline.remaining):
            raise MCPTimeoutError(
                f"the callback for {answering.slow} took longer than the call may take (limit {deadline.limit:g} s)",
                details={"limit": deadline.limit, "phase": "callback", "elapsed": round(deadline.elapsed, 3)},
            )
        return answering.outcome()

    def answering(self, requests: Mapping[str, Mapping[str, Any]], then: Callable[[Answering], object]) -> Answering:
        """Ask the callbacks all at once, and call ``then`` when all have answered, or one has failed.

        Raises:
            RemoteProtocolError: The server asks for what was not offered; nobody is asked.
            TooManyRequests: So many callbacks cannot run at once.
        """
        for request in requests.values():
            self._check_offered(request["method"])
        answering = Answering(self._callbacks, requests, then)
        for key in requests:
            if not self.caller.run(partial(answering.run, key)):
                raise TooManyRequests(
                    "too many callbacks run already; max_concurrent_callbacks is the limit", may_have_run=None
                )
        return answering

    def _check_offered(self, method: str) -> None:
        if _OFFERED_BY.get(method) not in self._callbacks.capabilities:
            raise RemoteProtocolError(f"the server asks for {method}, which this client does not offer")


class Answering:
    """What the server asked for in one round, while callbacks answer it, each on a thread of its own.

    Locks: ``_lock``, held for a few instructions.
    """

    def __init__(
        self, callbacks: Callbacks, requests: Mapping[str, Mapping[str, Any]], then: Callable[[Answering], object]
    ) -> None:
        self._callbacks = callbacks
        self._requests = requests
        self._then: Callable[[Answering], object] | None = then
        self._lock = threading.Lock()  # guards _answers, _error, _then
        self._answers: dict[str, dict[str, Any]] = {}
        self._error: BaseException | None = None

    @property
    def slow(self) -> str:
        """What has not been answered yet."""
        return ", ".join(request["method"] for key, request in self._requests.items() if key not in self._answers)

    def run(self, key: str) -> None:
        """Answer one request; on a thread of its own."""
        request = self._requests[key]
        answer, error = {}, None
        try:
            answer = self._callbacks.answer(request["method"], request.get("params") or {})
        except BaseException as failure:  # SystemExit too: whoever asked must not wait for ever, nor send {}
            error = failure
        self._note(key, answer, error)

    def _note(self, key: str, answer: dict[str, Any], error: BaseException | None) -> None:
        with self._lock:
            if error is None:
                self._answers[key] = answer
            elif self._error is None:
                self._error = error
            then = self._then if error is not None or len(self._answers) == len(self._requests) else None
            if then is not None:
                self._then = None
        if then is not None:
            then(self)

    def outcome(self) -> dict[str, dict[str, Any]]:
        """Return the answers, in the order of the requests, or raise what the first callback to fail has raised."""
        if self._error is not None:
            raise self._error
        return {key: self._answers[key] for key in self._requests}


class _FutureRounds:
    """Rounds for a call that nobody waits for; owns the future that the application holds.

    Threads: goes on wherever the last answer arrived: on the reader with a result, on a callback's thread with answers.
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
        """Ask for the first time; raises as Caller.submit does where there is no connection."""
        first = next(self._talk)
        assert isinstance(first, Call)
        self._ask(first)
        try:
            self._future.expire(self._deadline, self._expire)
        except TooManyRequests as error:
            self._drop_inner()
            self._end(None, error)
        return self._future

    # -- Owner of the future ------------------------------------------------------------------------------------------

    def withdraw(self, future: CallFuture[Any]) -> bool:
        if not self._claim():
            return False
        self._drop_inner()
        return True

    def post(self, job: Job) -> None:
        self._asker.caller.post(job)

    # -- one step after the other -------------------------------------------------------------------------------------

    def _go(self, step: Call | Gather | Pause) -> None:
        if self._over:
            return
        try:
            if isinstance(step, Call):
                self._ask(step)
            elif isinstance(step, Pause):
                reaper.at(self._deadline.sooner(step.seconds), lambda: self._elsewhere(lambda: self._send(None)))
            else:
                self._asker.answering(step.requests, self._reply)
        except MCPError as error:
            self._end(None, error)

    def _ask(self, step: Call) -> None:
        question = replace(self._question, params=step.params, convert=None, then=self._answered)
        inner = self._asker.caller.submit(question, self._deadline)
        with self._lock:
            self._inner = inner
            over = self._over
        if over:
            inner.cancel()

    def _elsewhere(self, job: Job) -> None:
        """Run what may take a moment, but runs no callback: on a request thread, or else on the lane."""
        if not self._asker.caller.run(job):
            self._asker.caller.post(job)

    def _answered(self, inner: CallFuture[Any]) -> None:
        """Go on with the result; on the reader thread, so never wait, and never write."""
        try:
            result = inner.raw()
        except MCPError as error:
            self._end(None, error)
            return
        self._send(result)

    def _reply(self, answering: Answering) -> None:
        try:
            answers = answering.outcome()
        except BaseException as error:
            self._end(None, error)
            return
        self._send(answers)

    def _send(self, answer: dict[str, Any] | None) -> None:
        """Hand over what the last step brought, and take the next one; after a result that is never a Call."""
        if self._over:
            return
        try:
            step = self._talk.send(answer)
        except StopIteration as end:
            self._end(end.value, None)
        except MCPError as error:
            self._end(None, error)
        else:
            self._go(step)

    def _end(self, result: dict[str, Any] | None, error: BaseException | None) -> None:
        if self._claim():
            self._future.settle(result, error)

    def _expire(self) -> None:
        if not self._claim():
            return
        self._drop_inner()
        limit, method, server = self._deadline.limit, self._question.method, self._asker.caller.name
        details = {"method": method, "server": server, "limit": limit, "elapsed": round(self._deadline.elapsed, 3)}
        text = f"{method} to {server}: timed out (limit {limit:g} s), no final result"
        self._future.settle(None, MCPTimeoutError(text, details={**self._asker.caller.explain(), **details}))

    def _claim(self) -> bool:
        with self._lock:
            mine, self._over = not self._over, True
            return mine

    def _drop_inner(self) -> None:
        with self._lock:
            inner = self._inner
        if inner is not None:
            inner.cancel()
