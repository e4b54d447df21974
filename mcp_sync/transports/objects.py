"""Objects of the user's that can pass messages, and what makes a transport of them.

Three shapes are understood:

* ``read()``, ``write(message)``, ``close()``;
* ``send_message(dict)``, ``receive_message()``, with ``connect()``, and ``disconnect()`` or ``close()``, where there
  are such;
* a subclass of MCPTransport that defines the latter; ``complete`` makes all the rest of it, so that it does what every
  MCPTransport does.

A message is received as a dict, str or bytes. EOFError and an empty one are the end; so is None, except from a
``receive_message`` that takes a ``timeout``: there it means, as MCPTimeoutError, TimeoutError and queue.Empty do
everywhere, that nothing has come yet. A method that has a parameter ``timeout`` is given the seconds it may take.

``close`` (or ``disconnect``) runs on a thread of its own: it may block, and we wait for it only as long as we have.
Where no thread can be had, at the exit of the interpreter, it runs in place; unless somebody is being kept waiting by
``read``, who may hold the very lock that ``close`` needs. Then it is left out, and the object ends with the process.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.channel import Channel, Pipe, PipeChannel
from ..engine.dispatch import start_thread
from ..engine.interrupts import let_go
from ..exceptions import ForkedClientError, MCPConnectionError, MCPError, MCPTimeoutError
from ..policies import Limits
from ..protocol.messages import encode

log = logging.getLogger("mcp_sync")

POLL_SECONDS = 0.25
"""How long one ``receive_message`` may wait, where it takes a timeout; then it is asked again."""
PAUSE_SECONDS = 0.01
"""How long a ``read`` that says at once that there is nothing is left alone."""


class ObjectPipe(Pipe):
    """A Pipe over functions of the user's.

    Threads: ``mcp-<name>-close``, while the user's close runs; ``finish`` blocks until it has returned, at most until
    the deadline of ``hang_up``.
    Locks: ``_closing``, taken once by whoever calls the user's close, and never given back.

    Args:
        name: For people.
        read: Returns one message (dict, str or bytes), waiting for it; None, ``""`` or EOFError is the end.
        write: Takes one message, as a dict, and how many seconds it may take.
        close: Ends both, and makes a waiting ``read`` return or raise; is given the seconds it may take. None: nothing
            has to be done.

    Attributes:
        disowned: Whether it is a forked child's copy of what the parent had open.
    """

    kind = "custom"

    def __init__(
        self,
        name: str,
        read: Callable[[], Any],
        write: Callable[[Any, float], Any],
        close: Callable[[float], Any] | None,
    ) -> None:
        self.name = name
        self.disowned = False
        self._read = read
        self._write = write
        self._close = close
        self._reason: BaseException | None = None
        self._asking = False
        self._hung_up = interrupts.Event()
        self._deadline: Deadline | None = None
        self._closing = threading.Lock()  # guards the user's close: whoever takes it calls that; never given back
        self._closed = interrupts.Event()

    @property
    def over(self) -> bool:
        """Whether it has been hung up."""
        return self._hung_up.is_set()

    def read(self) -> Sequence[bytes]:
        """Wait for one message; an empty answer is the end."""
        while not self.over:
            began = time.monotonic()
            self._asking = True
            try:
                return _as_bytes(self._read())
            except (EOFError, StopIteration):
                return []
            except (MCPTimeoutError, TimeoutError, queue.Empty):  # nothing came yet
                if time.monotonic() - began < PAUSE_SECONDS:
                    self._hung_up.wait(PAUSE_SECONDS)
            except Exception as error:
                self._reason = error
                return []
            finally:
                self._asking = False
        return []

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Hand one message over, as a dict."""
        try:
            self._write(json.loads(data), deadline.remaining)
        except MCPError:
            raise
        except TimeoutError as error:
            raise MCPTimeoutError(f"{self.name}: {error}") from error
        except Exception as error:
            raise MCPConnectionError(f"{self.name}: sending failed: {error!r}") from error

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end both directions; ``finish`` waits."""
        known = self._deadline
        if known is None or deadline.remaining < known.remaining:
            self._deadline = deadline
        self._hung_up.set()
        if self._closing.locked():
            return
        if self._close is None:
            self._closed.set()
            return
        try:
            start_thread(f"mcp-{self.name}-close", self._close_once)
        except RuntimeError:  # there are no threads any more
            if self._asking:
                log.warning("%s: no thread can be had to close it, and its read() still waits", self.name)
            else:
                self._close_once()

    def _close_once(self) -> None:
        if self._close is None or not self._closing.acquire(blocking=False):
            return
        try:
            deadline = self._deadline
            self._close(deadline.remaining if deadline else 0.0)
        except Exception as error:  # of no interest any more
            self._reason = self._reason or error
        finally:
            self._closed.set()

    def finish(self) -> None:
        """Wait for the user's close."""
        deadline = self._deadline
        if deadline is not None and not self.await_closed(deadline):
            log.warning("%s: its close() has not returned within %.1f s", self.name, deadline.limit)

    def await_closed(self, deadline: Deadline) -> bool:
        """Wait until the user's close has returned; False: the deadline passed first."""
        return self._closed.wait(deadline.remaining)

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended."""
        why = f"reading failed: {self._reason!r}" if self._reason else "the other end closed the connection"
        error = MCPConnectionError(f"{self.name}: {why}")
        error.__cause__ = self._reason
        return error

    def disown(self) -> None:
        """In a forked child: leave the object alone, it is the parent's."""
        self.disowned = self.disowned or not self.over
        self._hung_up.set()
        self._closing.acquire(blocking=False)
        self._closed.set()


def _as_bytes(item: Any) -> Sequence[bytes]:
    if item is None or item == b"" or item == "":
        return []
    if isinstance(item, (bytes, bytearray)):
        return [bytes(item)]
    if isinstance(item, str):
        return [item.encode("utf-8", "surrogatepass")]
    if isinstance(item, (Mapping, list)):
        return [encode(item)]
    raise TypeError(f"read() must return a dict, str or bytes, not {type(item).__name__}")


def is_custom(target: Any) -> bool:
    """Tell whether the object can pass messages in one of the shapes that are understood."""
    return _has(target, "read", "write", "close") or _has(target, "send_message", "receive_message")


def dial_object(transport: Any, target: Any, close: Callable[..., Any] | None, deadline: Deadline) -> Channel:
    """Return a channel over the object, which can have one conversation at a time.

    Args:
        transport: Whose ``_object_pipe`` remembers who has the object.
        target: The object.
        close: What ends its connection, if anything does.
        deadline: For all of it.

    Raises:
        MCPConnectionError: Another conversation has it, or its ``connect`` fails.
        MCPTimeoutError: Another thread is still connecting it, or its close has not returned.
        ForkedClientError: The parent process has it, and it cannot connect anew.
    """
    dialling = transport._doors.dialling
    try:
        if not dialling.acquire(timeout=deadline.remaining):
            raise MCPTimeoutError(f"{transport.name}: another thread is still connecting", may_have_run=False)
        try:
            known = transport._object_pipe
            _check_free(known, target, transport.name, deadline)
            anew = known is not None and known.disowned
            pipe = transport._object_pipe = _pipe_over(target, transport.name, close, deadline, anew)
        finally:
            dialling.release()
    except BaseException:
        let_go(dialling)
        raise
    return PipeChannel(pipe, transport._policies[Limits], transport._observers)


def _check_free(pipe: ObjectPipe | None, target: Any, name: str, deadline: Deadline) -> None:
    """Raise what keeps the object from having a conversation."""
    if pipe is None:
        return
    if pipe.disowned:
        if not _connects(target):
            raise ForkedClientError(
                f"{name} is the connection of the process that this one was forked from, and has no connect() to make "
                "one of its own",
                may_have_run=False,
            )
    elif not pipe.over:
        raise MCPConnectionError(
            f"{name} is one connection, and another conversation has it; close that first", may_have_run=False
        )
    elif not pipe.await_closed(deadline):
        raise MCPTimeoutError(f"{name}: closing the connection before has not ended yet", may_have_run=False)


def _pipe_over(target: Any, name: str, close: Callable[..., Any] | None, deadline: Deadline, anew: bool) -> ObjectPipe:
    """Return a pipe over the object, connected if it knows how; ``anew``: whatever it thinks of itself."""
    end = None if close is None else _patient(close)
    if is_stream(target):
        return ObjectPipe(name, target.read, lambda message, _: target.write(message), end)
    if _connects(target) and (anew or not getattr(target, "connected", False)):
        try:
            _patient(target.connect)(deadline.remaining)
        except MCPError:
            raise
        except Exception as error:
            raise MCPConnectionError(f"{name}: connecting failed: {error!r}", may_have_run=False) from error
    send = target.send_message
    if takes_timeout(send):
        return ObjectPipe(name, _reader(target.receive_message), lambda m, s: send(m, timeout=max(s, 0.001)), end)
    return ObjectPipe(name, _reader(target.receive_message), lambda message, _: send(message), end)


def _reader(receive: Callable[..., Any]) -> Callable[[], Any]:
    """Return a function that asks for a message, a little at a time where that is possible."""
    if not takes_timeout(receive):
        return receive

    def read() -> Any:
        message = receive(timeout=POLL_SECONDS)
        if message is None:
            raise queue.Empty
        return message

    return read


def _patient(function: Callable[..., Any]) -> Callable[[float], Any]:
    """Return a function of the seconds it may take, which are passed on where that is possible."""
    if takes_timeout(function):
        return lambda seconds: function(timeout=max(seconds, 0.001))
    return lambda _: function()


def takes_timeout(function: Callable[..., Any]) -> bool:
    """Tell whether the function has a parameter ``timeout``."""
    try:
        return "timeout" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def is_stream(target: Any) -> bool:
    """Tell whether the object has the first shape."""
    return _has(target, "read", "write", "close")


def end_of(target: Any) -> Callable[..., Any] | None:
    """Return what ends the connection of an object that is no transport."""
    return (not is_stream(target) and getattr(target, "disconnect", None)) or getattr(target, "close", None)


def _connects(target: Any) -> bool:
    return not is_stream(target) and _has(target, "connect")


def _has(target: Any, *names: str) -> bool:
    return all(callable(getattr(target, name, None)) for name in names)


# -- subclasses of MCPTransport ---------------------------------------------------------------------------------------
#
# Users call the methods of MCPTransport, and those call the author's, through an ObjectPipe, as they would call those
# of any object. So there are two objects of the author's class, which share one __dict__: the outer one, which users
# hold, and the inner one, which only the pipe holds. A method of the author's, called on the outer one, is that of
# MCPTransport; called on the inner one, also by the author's other methods and threads, it is what the author wrote.
# And the outer one can be forgotten while a thread waits in the inner one's receive_message.


def complete(cls: Any, base: Any) -> None:
    """Give a subclass of ``base``, MCPTransport, that defines how to pass messages all the rest."""
    passes = all(getattr(cls, name) is not getattr(base, name) for name in ("send_message", "receive_message"))
    if not passes or cls.dial not in (base.dial, _dial_inner):
        return
    cls.dial = _dial_inner
    for name in ("connect", "disconnect", "close", "send_message", "receive_message"):
        method = getattr(cls, name)
        if inspect.isfunction(method) and method is not getattr(base, name) and not _is_front(method):
            setattr(cls, name, _front(method, getattr(base, name)))
    if cls.connected is base.connected:
        cls.connected = property(_is_connected, _note_connected)


def _front(method: Callable[..., Any], public: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that is the author's on the inner object, and MCPTransport's on the outer one."""

    @functools.wraps(method)
    def front(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (method if is_inner(self) else public)(self, *args, **kwargs)

    front._front = front  # type: ignore[attr-defined]  # a decorator of the author's copies it, but is not it
    return front


def _is_front(method: Any) -> bool:
    return getattr(method, "_front", None) is method


def is_inner(transport: Any) -> bool:
    """Tell whether this is the object that runs the author's own methods."""
    outer = transport.__dict__.get("_outer_transport")
    return outer is not None and outer() is not transport


def _dial_inner(transport: Any, deadline: Deadline) -> Channel:
    """Be the ``dial`` of a subclass that defines ``send_message`` and ``receive_message``."""
    inner = object.__new__(type(transport))
    inner.__dict__ = transport.__dict__
    transport.__dict__["_outer_transport"] = weakref.ref(transport)
    fronts = [name for name in ("disconnect", "close") if _is_front(getattr(type(transport), name))]

    def close(timeout: float) -> None:
        _patient(getattr(inner, fronts[0]))(timeout)
        inner.__dict__["_noted_connected"] = False

    channel = dial_object(transport, inner, close if fronts else None, deadline)
    transport.__dict__["_noted_connected"] = True
    return channel


def _is_connected(transport: Any) -> bool:
    """Be ``connected``: to the author, whether ``connect`` has run; to users, whether the connection lives as well."""
    noted = bool(transport.__dict__.get("_noted_connected", False))
    if is_inner(transport):
        return noted
    line, pipe = transport._line, transport._object_pipe
    return noted and (not line.over if line is not None else pipe is not None and not pipe.over)


def _note_connected(transport: Any, state: bool) -> None:
    transport.__dict__["_noted_connected"] = state
