"""Context: what a tool, resource or prompt can say and ask while it is being run.

A function gets one by a parameter that is annotated with it. Where the client cannot be asked in between (the stateless
era over HTTP and pipes), a question ends the run; the client asks again with the answer, and the function runs from its
beginning: then the same question returns at once. So ask before doing what must be done once.
"""

from __future__ import annotations

import copy
import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline
from ..exceptions import JSONRPCError, LocalProtocolError, RemoteProtocolError
from ..protocol.eras import LOG_LEVELS, VERSIONS
from ..protocol.messages import INVALID_PARAMS, MISSING_CAPABILITY
from .calls import Call, InputRequired, Withdrawn
from .questions import ClientQuestion, Elicit, ElicitResult, Root, Roots, Sample, SampleResult

if TYPE_CHECKING:
    from .app import Server

log = logging.getLogger("mcp_sync")

ANSWER_SECONDS = 300.0
"""How long a client has for a question: there is a person behind most of them."""
_URL_MODE_SINCE = VERSIONS.index("2025-11-25")


class Context:
    """One request, for the function that answers it. Methods by any thread.

    Attributes:
        server: The server.
        outcome: How what a tool returns, or raises, becomes a result; set for tools.
        state: For the stateless era: kept from round to round of one request. The client carries it: it can read it,
            but not change it. What JSON can say.
    """

    def __init__(self, server: Server, call: Call, state: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
        self.server = server
        self.outcome: Callable[[Context, Callable[[], Any]], dict[str, Any]] | None = None
        self.state: dict[str, Any] = dict(state)
        self._call = call
        self._answers = answers
        self.asked: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}
        self._reported: list[float] = [-math.inf]

    def __repr__(self) -> str:
        return f"<Context of {self._call.request.method} #{self._call.request.id!r:.40}>"

    # -- who asks -----------------------------------------------------------------------------------------------------

    @property
    def request_id(self) -> int | str:
        """The id of the request."""
        return self._call.request.id

    @property
    def protocol_version(self) -> str:
        """The protocol version of the request."""
        return self._call.asker.version

    @property
    def client_info(self) -> Mapping[str, Any]:
        """What the client says of itself: ``name``, ``version``. For display only."""
        return self._call.asker.info

    @property
    def client_capabilities(self) -> Mapping[str, Any]:
        """What the client can be asked."""
        return self._call.asker.capabilities

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the HTTP request, names in lower case; empty where there is none."""
        return self._call.asker.headers

    @property
    def principal(self) -> str | None:
        """The name that authentication gave to the client."""
        return self._call.asker.principal

    @property
    def session_id(self) -> str | None:
        """The id of the HTTP session, where there is one."""
        return self._call.asker.session_id

    @property
    def meta(self) -> Mapping[str, Any]:
        """The metadata of the request (``_meta``)."""
        return self._call.meta

    # -- whether anybody still wants it -------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._call.link.withdrawn.is_set()

    def check(self) -> None:
        """End the function here if nobody wants the answer any more."""
        if self.cancelled:
            raise Withdrawn

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until nobody wants the answer any more; returns whether that is so."""
        return self._call.link.withdrawn.wait(seconds)

    # -- saying -------------------------------------------------------------------------------------------------------

    def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far it is, if the client wants to know; what does not exceed the last report is not said.

        Args:
            progress: How much is done.
            total: How much there is to do, where it is known.
            message: What is being done.
        """
        token = self._call.meta.get("progressToken")
        if isinstance(token, bool) or not isinstance(token, (int, str)):
            return
        if not progress > self._reported[0]:  # utilities/progress: it must increase; NaN does not
            return
        self._reported[0] = progress
        known: dict[str, Any] = {"total": total, "message": message}
        params = {"progressToken": token, "progress": progress}
        self._say("notifications/progress", {**params, **{k: v for k, v in known.items() if v is not None}})

    def log(self, level: str, data: Any, *, logger: str | None = None) -> None:
        """Send the client a log message, if it wants those of this level.

        Args:
            level: ``debug``, ``info``, ``notice``, ``warning``, ``error``, ``critical``, ``alert`` or ``emergency``.
            data: A text, or what else JSON can say. No secrets.
            logger: The name of who says it.
        """
        if level not in LOG_LEVELS:
            raise ValueError(f"level must be one of {', '.join(LOG_LEVELS)}, not {level!r}")
        wanted = self._call.asker.log_level
        if wanted not in LOG_LEVELS or LOG_LEVELS.index(level) < LOG_LEVELS.index(wanted):
            return
        self._say("notifications/message", {"level": level, **({"logger": logger} if logger else {}), "data": data})

    def debug(self, data: Any, *, logger: str | None = None) -> None:
        """Send the client a log message of level ``debug``."""
        self.log("debug", data, logger=logger)

    def info(self, data: Any, *, logger: str | None = None) -> None:
        """Send the client a log message of level ``info``."""
        self.log("info", data, logger=logger)

    def warning(self, data: Any, *, logger: str | None = None) -> None:
        """Send the client a log message of level ``warning``."""
        self.log("warning", data, logger=logger)

    def error(self, data: Any, *, logger: str | None = None) -> None:
        """Send the client a log message of level ``error``."""
        self.log("error", data, logger=logger)

    def _say(self, method: str, params: dict[str, Any]) -> None:
        if not self.cancelled:
            self._call.link.notify(method, params)

    # -- asking -------------------------------------------------------------------------------------------------------

    def elicit(
        self, message: str, schema: Any, *, key: str | None = None, timeout: float = ANSWER_SECONDS
    ) -> ElicitResult:
        """Ask the user to fill in a form.

        Args:
            message: What it is about.
            schema: A flat JSON Schema of an object; or a dataclass, TypedDict or pydantic model that makes one.
            key: What the answer is known by, in the stateless era; None counts.
            timeout: Seconds that the user has.

        Raises:
            JSONRPCError: The client cannot be asked for it (stateless era), or answered with an error.
            LocalProtocolError: The client cannot be asked for it (handshake era).
            MCPTimeoutError: The time is over.
            MCPConnectionError: The client is gone.
        """
        result: ElicitResult = self._ask_one(Elicit(message, schema), key, "elicit", timeout)
        return result

    def elicit_url(
        self, message: str, url: str, *, key: str | None = None, timeout: float = ANSWER_SECONDS
    ) -> ElicitResult:
        """Ask the user to visit a page, outside of the client; for what must not pass through it. As ``elicit``."""
        question = Elicit(message, url=url, elicitation_id=secrets.token_urlsafe(16))
        result: ElicitResult = self._ask_one(question, key, "url", timeout)
        return result

    def sample(
        self,
        messages: str | Sequence[Any],
        *,
        max_tokens: int = 1024,
        key: str | None = None,
        timeout: float = ANSWER_SECONDS,
        **options: Any,
    ) -> SampleResult:
        """Ask the client's model; ``Sample`` has the options. Raises as ``elicit``."""
        question = Sample(messages, max_tokens, **options)
        result: SampleResult = self._ask_one(question, key, "sample", timeout)
        return result

    def roots(self, *, key: str | None = None, timeout: float = ANSWER_SECONDS) -> list[Root]:
        """Ask for the places that the client offers to be worked on. Raises as ``elicit``."""
        result: list[Root] = self._ask_one(Roots(), key, "roots", timeout)
        return result

    def _ask_one(self, question: ClientQuestion, key: str | None, kind: str, timeout: float) -> Any:
        name = key or f"{kind}-{self._next(kind)}"
        return self.ask(timeout, **{name: question})[name]

    def _next(self, kind: str) -> int:
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return number

    def ask(self, timeout: float = ANSWER_SECONDS, /, **questions: ClientQuestion) -> dict[str, Any]:
        """Ask several questions at once.

        Args:
            timeout: Seconds for all of them.
            **questions: Elicit, Sample or Roots objects by key.

        Returns:
            The answers by key. Raises as ``elicit``.
        """
        for question in questions.values():
            self._check_capability(question)
        if not self._call.link.asks:
            return self._ask_by_rounds(questions)
        wire = {key: {"method": one.method, "params": self._params(one)} for key, one in questions.items()}
        raw = self._call.link.ask(wire, Deadline(timeout))
        return {key: self._result(question, raw[key]) for key, question in questions.items()}

    def _check_capability(self, question: ClientQuestion) -> None:
        if not question.allowed_by(self.client_capabilities):
            text = f"the client cannot be asked: it has not declared the capability {next(iter(question.needs))}"
            if self._call.asker.stateless:
                raise JSONRPCError(MISSING_CAPABILITY, text, {"requiredCapabilities": question.needs})
            raise LocalProtocolError(text, may_have_run=False)

    def _params(self, question: ClientQuestion) -> dict[str, Any]:
        params = question.params
        if params.get("mode") == "form" and VERSIONS.index(self.protocol_version) < _URL_MODE_SINCE:
            del params["mode"]
        if self._call.asker.stateless:  # it was removed there
            params.pop("elicitationId", None)
        return params

    def _result(self, question: ClientQuestion, raw: Mapping[str, Any]) -> Any:
        try:
            return question.answer(raw)
        except ValueError as flaw:
            raise RemoteProtocolError(f"the client's answer to {question.method} is not valid: {flaw}") from None

    def _ask_by_rounds(self, questions: Mapping[str, ClientQuestion]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        missing: dict[str, Any] = {}
        for key, question in questions.items():
            if key not in self._answers:
                missing[key] = {"method": question.method, "params": self._params(question)}
                continue
            self.asked[key] = self._answers[key]
            found[key] = self._parsed(key, question)
        if missing:
            raise InputRequired(missing)
        return found

    def _parsed(self, key: str, question: ClientQuestion) -> Any:
        raw = self._answers[key]
        try:
            if not isinstance(raw, Mapping):
                raise ValueError("not an object")
            return question.answer(raw)
        except ValueError as flaw:
            raise JSONRPCError(INVALID_PARAMS, f"inputResponses.{key:.80} is not valid: {flaw}") from None

    # -- what else ----------------------------------------------------------------------------------------------------

    def read_resource(self, uri: str) -> list[dict[str, Any]]:
        """Return the contents of a resource of this server, as the wire has them.

        Raises:
            JSONRPCError: There is no such resource.
        """
        reading = copy.copy(self)  # with what is asked and answered in common, or a question would come again for ever
        reading.outcome = None
        return self.server.answerer.contents(uri, reading)

    def close_stream(self, retry: float | None = None) -> None:
        """Hang up; the client comes back for the rest, where the binding has a way (Streamable HTTP, 2025-11-25).

        Args:
            retry: Seconds after which it should come back.
        """
        self._call.link.close_stream(retry)

    def as_task(self, function: Callable[[Context], Any]) -> Any:
        """Go on in the background, where the client knows tasks; return what this returns.

        Args:
            function: The rest of the work; is given a Context of its own. Runs here and now for a client that does
                not know tasks, and in what is a task already.
        """
        tasks, outcome = self.server.use_tasks(), self.outcome
        if outcome is None or self._call.link.background or not tasks.known_to(self._call.asker):
            return function(self)
        return tasks.start(self._call, lambda context: outcome(context, lambda: function(context)))


