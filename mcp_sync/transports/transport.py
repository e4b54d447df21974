"""Transport: how to reach a server: a recipe whose ``dial()`` gives a fresh Channel.

It is also a small blocking facade over one connection, for those who want to send and receive messages themselves.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..deadlines import DEFAULT_TIMEOUT, Deadline, as_timeout
from ..engine.caller import Caller
from ..engine.channel import FINISH_SECONDS, Channel
from ..engine.connect import Introduction, closing_time, converse
from ..engine.dispatch import stand_still
from ..engine.inbox import Inbox, Relay
from ..engine.interrupts import let_go
from ..engine.lifetimes import close_when_forgotten, tell_of_forks
from ..engine.peer import Peer
from ..exceptions import ForkedClientError, LocalProtocolError, MCPConnectionError, MCPError, MCPTimeoutError
from ..observe import Event, Observers
from ..policies import Limits, Policies, one_of
from ..protocol.eras import VERSIONS
from . import listeners
from .objects import ObjectPipe, complete, is_inner
from .session import MCPSession

if TYPE_CHECKING:
    from typing_extensions import Self

O = TypeVar("O", bound="Callable[[Event], Any]")  # noqa: E741
F = TypeVar("F", bound="Callable[..., Any]")

CLOSE_SECONDS = 5.0
"""How long closing may take unless told otherwise."""


class _Line:
    """One dialled connection of a transport, and who uses it. It refers to nothing that users hold."""

    def __init__(self, channel: Channel, limit: int) -> None:
        self.channel = channel
        self.inbox = Inbox(limit)
        self.inbox.attend(channel)
        self.relay = Relay(self.inbox)
        self.claimed = False
        self.peer: Peer | None = None
        self._closing = False
        self._forked = False
        tell_of_forks(self)

    @property
    def over(self) -> bool:
        return self.relay.ended or self._closing or self._forked

    def check(self) -> None:
        """Raise what keeps single messages from being passed here."""
        if self._forked:
            raise ForkedClientError(f"{self.channel.name} was connected by the process this one was forked from")
        if self.claimed:
            raise LocalProtocolError(f"a session or a client has the conversation with {self.channel.name}")

    def hang_up(self, deadline: Deadline) -> None:
        self._closing = True
        self.channel.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        if self._forked:
            return
        self._closing = True
        self.channel.close(deadline)
        if self.peer is not None:
            self.peer.close(deadline)
        self.channel.lane.close(deadline)
        self.channel.events.close(deadline)

    def forked(self) -> None:
        self._forked = True


class _Doors:
    """The locks of one transport; apart from it, so that a forked child gets new ones whatever users make of theirs."""

    def __init__(self) -> None:
        self.dialling = threading.RLock()  # guards connect: held while dialling, always acquired with the deadline
        self.line = threading.Lock()  # guards _line, _closed_properly, and a line's claimed
        tell_of_forks(self)

    def forked(self) -> None:
        self.dialling = threading.RLock()  # guards as before; the old one may be held by a thread that stayed behind
        self.line = threading.Lock()  # guards as before, likewise


class MCPTransport:
    """How to reach a server.

    ``with transport:`` connects and disconnects. On a connected transport either ``create_session()`` (or
    ``Client(transport)``) has a conversation, or ``send_message`` and ``receive_message`` pass single messages.

    To write your own, subclass and define ``dial()``, which returns an engine Channel; or define ``connect``,
    ``disconnect``, ``send_message`` and ``receive_message``, and ``dial()`` is derived from them.

    Threads: those of the channel. ``connect`` blocks while dialling, ``receive_message`` while nothing arrives,
    ``send_message`` while the other side does not read, ``disconnect`` while it ends; each at most its timeout.
    Locks: ``_doors.dialling`` is held while dialling, ``_doors.line`` for a few instructions.

    Args:
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        policies: What ``gather`` made of the keywords.

    Attributes:
        transport_type: The binding, e.g. ``"stdio"``.
        timeout: Seconds.
    """

    transport_type: ClassVar[str] = "custom"
    timeout: float = DEFAULT_TIMEOUT
    _policies: Policies
    _line: _Line | None = None
    _object_pipe: ObjectPipe | None = None
    _doors: _Doors
    _observers: Observers
    _closed_properly: Callable[[], None] | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the parts that a subclass of a user's, which may not call our ``__init__``, needs as well."""
        if cls.dial is MCPTransport.dial:
            raise TypeError(
                f"{cls.__name__} cannot reach anything: define dial(), or send_message() and receive_message()"
            )
        self = super().__new__(cls)
        self._doors = _Doors()
        self._observers = Observers()
        self._policies = Policies([Limits()])
        return self

    def __init__(self, timeout: float | None = None, policies: Policies | None = None) -> None:
        self.timeout = as_timeout(timeout)
        if policies is not None:
            self._policies = policies

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        complete(cls, MCPTransport)
        if "__init__" in cls.__dict__ and "__signature__" not in cls.__dict__ and hasattr(cls, "__signature__"):
            whole = inspect.signature(cls.__init__)  # not the one that with_knobs gave the parent
            cls.__signature__ = whole.replace(parameters=list(whole.parameters.values())[1:])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' connected' if self.connected else ''}>"

    @property
    def name(self) -> str:
        """What it reaches, for people; without secrets."""
        return self.transport_type

    def dial(self, deadline: Deadline) -> Channel:
        """Return a fresh Channel, open and not yet started.

        Raises:
            MCPConnectionError: The server cannot be reached.
            MCPTimeoutError: Not by the deadline.
        """
        raise NotImplementedError  # never: __new__ refuses a class that does not define it

    # -- one connection, message by message ---------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        line = self._line
        return line is not None and not line.over

    def connect(self, timeout: float | None = None) -> Self:
        """Dial, unless connected already.

        Args:
            timeout: Seconds; None means the transport's own.

        Returns:
            The transport itself.

        Raises:
            MCPConnectionError: The server cannot be reached.
            MCPTimeoutError: Not within the timeout.
        """
        if is_inner(self):  # super().connect() in an author's own: we are called by what this would call
            return self
        deadline = Deadline(as_timeout(timeout, default=self.timeout))
        doors = self._doors
        try:
            if not doors.dialling.acquire(timeout=deadline.remaining):
                raise MCPTimeoutError(f"{self.name}: another thread is still connecting", may_have_run=False)
            try:
                self._dial_line(deadline)
            finally:
                doors.dialling.release()
        except BaseException:
            let_go(doors.dialling)
            raise
        return self

    def _dial_line(self, deadline: Deadline) -> None:
        if self._line is not None and not self._line.over:
            return
        self._end_line(Deadline(CLOSE_SECONDS))
        whole: Channel | _Line
        whole = channel = self._dialled(deadline)
        try:
            whole = line = _Line(channel, self._policies[Limits].pending)
            channel.start(line.relay)
            with self._doors.line:
                self._line = line
                self._closed_properly = close_when_forgotten(self, line, f"{self!r}")
        except BaseException as error:
            whole.close(Deadline(closing_time(error)))
            raise

    def _dialled(self, deadline: Deadline) -> Channel:
        try:
            return self.dial(deadline)
        except MCPError:
            stand_still(FINISH_SECONDS)  # at exit: what it was waiting for has just been ended
            raise

    def disconnect(self, timeout: float | None = None) -> None:
        """End the connection and what is behind it. Idempotent, from any thread.

        Args:
            timeout: Seconds; None means 5.
        """
        if not is_inner(self):
            self._end_line(Deadline(as_timeout(timeout, default=CLOSE_SECONDS)))

    def _end_line(self, deadline: Deadline) -> None:
        """Close the line; for each of several threads that do so at once, it is over afterwards."""
        line = self._line
        if line is None:
            return
        line.close(deadline)
        with self._doors.line:
            if self._line is line:
                self._line = None
                self._disclaim()

    def _disclaim(self) -> None:
        """Leave the line to whoever else closes it, or has; under ``_doors.line``."""
        closed_properly, self._closed_properly = self._closed_properly, None
        if closed_properly is not None:
            closed_properly()

    close = disconnect

    def send_message(self, message: Mapping[str, Any], timeout: float | None = None) -> None:
        """Send one JSON-RPC message.

        Args:
            message: The JSON-RPC object.
            timeout: Seconds; None means the transport's own.

        Raises:
            MCPConnectionError: Not connected, or no longer.
            MCPTimeoutError: The other side did not read within the timeout.
            LocalProtocolError: It cannot be said in JSON.
            MessageTooLarge: It is over ``max_message_size``.
        """
        if not isinstance(message, Mapping):
            raise TypeError(f"message must be a dict, not {type(message).__name__} ({message!r})")
        self._own_line().channel.submit(message, Deadline(as_timeout(timeout, default=self.timeout)))

    def receive_message(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message that arrives, waiting for it.

        Args:
            timeout: Seconds; None means the transport's own, 0 not to wait.

        Raises:
            MCPTimeoutError: None came within the timeout.
            MCPConnectionError: The connection is over, and all that came before has been received.
            RemoteProtocolError: An answer came that cannot be read.
        """
        seconds = 0.0 if timeout == 0 and not isinstance(timeout, bool) else as_timeout(timeout, default=self.timeout)
        message = self._own_line().inbox.take(seconds)
        return message.as_dict()  # type: ignore[union-attr]  # an Inbox holds neither Batch nor Malformed

    def __enter__(self) -> Self:
        self.connect()  # a subclass's own may return anything
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.disconnect()

    # -- conversations ------------------------------------------------------------------------------------------------

    def create_session(self, timeout: float | None = None, *, protocol_version: str | None = None) -> MCPSession:
        """Begin a conversation: on the connection that is open, if nobody has one there yet; else on a new one.

        Args:
            timeout: Seconds for the beginning, and the default of the session's calls; None means the transport's.
            protocol_version: The protocol version to ask for; None finds the newest that both sides speak.

        Raises:
            MCPConnectionError: The server cannot be reached, ended, or refused.
            MCPTimeoutError: Not within the timeout.
            RemoteProtocolError: There is no protocol version in common.
            ValueError: Nobody knows that protocol version.
        """
        one_of("protocol_version", protocol_version, VERSIONS)
        limit = as_timeout(timeout, default=self.timeout)
        return MCPSession(
            lambda introduction: self.converse(introduction, Deadline(limit)),
            limit,
            protocol_version,
            self.name,
            self._policies[Limits].backlog,
        )

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation with everything said about it; what ``create_session`` and ``Client`` use."""
        return self._begin(introduction, deadline)

    def _begin(self, introduction: Introduction, deadline: Deadline) -> Peer:
        """Begin a conversation on the connection that is open, or a new one."""
        limits = self._policies[Limits]
        with self._doors.line:
            line = self._line
            if line is not None and (line.over or line.claimed):
                line = None
            if line is not None:
                line.claimed = True
                self._disclaim()  # a session may outlive the transport that made it
        if line is None:
            return converse(self._dialled(deadline), introduction, limits, deadline)
        line.peer = converse(line.channel, introduction, limits, deadline, relay=line.relay)
        return line.peer

    # -- events -------------------------------------------------------------------------------------------------------

    def observe(self, observer: O) -> O:
        """Call ``observer(event)`` for every event of ``mcp_sync.observe``; usable as a decorator."""
        self._observers.append(_callable(observer))
        return observer

    def unobserve(self, observer: Callable[[Event], Any]) -> None:
        """Call this observer no more; one that is not known is no error."""
        for known in self._observers:
            if known is observer:
                self._observers.remove(known)
                return

    def on_process_event(self, function: F) -> F:
        """Call ``function(event, data)`` when a process starts or ends; so for all of these: see ``listeners``."""
        self._observers.append(listeners.named(listeners.PROCESS, _callable(function)))
        return function

    def on_connection_event(self, function: F) -> F:
        """Call ``function(event, data)`` when a connection is made, lost, or tried again."""
        self._observers.append(listeners.named(listeners.CONNECTION, _callable(function)))
        return function

    def on_lifecycle_event(self, function: F) -> F:
        """Call ``function(event, data)`` when a connection is sought, made, over, or in trouble."""
        self._observers.append(listeners.named(listeners.LIFECYCLE, _callable(function)))
        return function

    def on_streaming_progress(self, function: F) -> F:
        """Call ``function(bytes_received, total_bytes)`` while a long reply arrives; the total may be None."""
        self._observers.append(listeners.progress(_callable(function)))
        return function

    def on_retry_attempt(self, function: F) -> F:
        """Call ``function(attempt, error, delay)`` before something is tried again."""
        self._observers.append(listeners.retries(_callable(function)))
        return function

    def on_error(self, function: F) -> F:
        """Call ``function(error_type, data)`` when a request fails for a reason outside of it."""
        self._observers.append(listeners.errors(_callable(function)))
        return function

    def route_message(self, method: str) -> Callable[[F], F]:
        """Return a decorator: call the function with each notification of this method, as a dict."""
        if not isinstance(method, str):
            raise TypeError(f"method must be a str, not {type(method).__name__}; write @transport.route_message(...)")

        def decorate(function: F) -> F:
            self._observers.route(method, _callable(function))
            return function

        return decorate

    def _own_line(self) -> _Line:
        if is_inner(self):
            raise NotImplementedError(f"{type(self).__name__} passes messages itself; there is no super() that could")
        line = self._line
        if line is None:
            raise MCPConnectionError(
                f"{self.name} is not connected; call connect() or use a with statement",
                details={"transport": self.transport_type},
                may_have_run=False,
            )
        line.check()
        return line


def _callable(function: F) -> F:
    if not callable(function):
        raise TypeError(f"an observer must be callable, not {type(function).__name__}")
    return function
