"""Objects of the user's that can pass messages, and what makes a transport of them.

Three shapes are understood: ``read()``, ``write(message)``, ``close()``; ``send_message(dict)``,
``receive_message()`` with ``connect()`` and ``disconnect()`` or ``close()`` where there are such; and a subclass of
MCPTransport that defines the latter (``complete`` gives it the rest).
"""

from __future__ import annotations

import functools
import inspect
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..deadlines import Deadline
from ..engine.channel import Channel, Pipe, PipeChannel
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError
from ..policies import Limits
from ..protocol.messages import encode

POLL_SECONDS = 1.0
"""How long one ``receive_message`` may wait, where it takes a timeout; then it is asked again."""
PAUSE_SECONDS = 0.01
"""How long a ``read`` that says at once that there is nothing is left alone."""


class ObjectPipe(Pipe):
    """A Pipe over functions of the user's.

    Args:
        name: For people.
        read: Returns one message (dict, str or bytes), waiting for it; None, ``""`` or EOFError is the end.
        write: Takes one message, as a dict, and how many seconds it may take.
        close: Ends both, and makes a waiting ``read`` return or raise.
    """

    kind = "custom"

    def __init__(
        self, name: str, read: Callable[[], Any], write: Callable[[Any, float], Any], close: Callable[[], Any]
    ) -> None:
        self.name = name
        self._read = read
        self._write = write
        self._close = close
        self._reason: BaseException | None = None
        self._hung_up = threading.Event()
        self._closing = threading.Lock()  # guards the user's close: whoever takes it calls that; never given back

    @property
    def over(self) -> bool:
        """Whether it has been hung up."""
        return self._hung_up.is_set()

    def read(self) -> Sequence[bytes]:
        """Wait for one message; an empty answer is the end."""
        while not self.over:
            began = time.monotonic()
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
        """End both directions; what closing raises is of no interest any more."""
        self._hung_up.set()
        if not self._closing.acquire(blocking=False):
            return
        try:
            self._close()
        except Exception as error:
            self._reason = self._reason or error

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended."""
        why = f"reading failed: {self._reason!r}" if self._reason else "the other end closed the connection"
        error = MCPConnectionError(f"{self.name}: {why}")
        error.__cause__ = self._reason
        return error

    def disown(self) -> None:
        """In a forked child: leave the object alone, it is the parent's."""
        self._hung_up.set()
        self._closing.acquire(blocking=False)


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


def dial_by_messages(transport: Any, deadline: Deadline) -> Channel:
    """Be the ``dial`` of a subclass that defines ``send_message`` and ``receive_message``."""
    check_free(getattr(transport, "_pipe", None), transport.name)
    pipe = transport._pipe = pipe_over(transport, transport.name)
    return PipeChannel(pipe, transport._policies[Limits], transport._observers)


def complete(cls: Any) -> None:
    """Give a subclass that defines how to pass messages the rest: ``dial``, and to know whether it is connected."""
    if "dial" not in cls.__dict__:
        cls.dial = dial_by_messages
    for name, state in (("connect", True), ("disconnect", False), ("close", False)):
        if name in cls.__dict__:
            setattr(cls, name, _noting(cls.__dict__[name], state))
    if "connect" in cls.__dict__ and "connected" not in cls.__dict__:
        cls.connected = property(_is_connected, _note_connected)
    if "disconnect" in cls.__dict__ and "close" not in cls.__dict__:
        cls.close = cls.disconnect


def _noting(method: Callable[..., Any], state: bool) -> Callable[..., Any]:
    @functools.wraps(method)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        _note_connected(self, state)
        return self if result is None and state else result

    return noted


def _is_connected(transport: Any) -> bool:
    return bool(transport.__dict__.get("_noted_connected", False))


def _note_connected(transport: Any, state: bool) -> None:
    transport.__dict__["_noted_connected"] = state


def check_free(pipe: ObjectPipe | None, name: str) -> None:
    """Raise MCPConnectionError where another conversation has the object."""
    if pipe is not None and not pipe.over:
        raise MCPConnectionError(
            f"{name} is one connection, and another conversation has it; close that first", may_have_run=False
        )


def pipe_over(target: Any, name: str) -> ObjectPipe:
    """Return a pipe over the object, connected if it knows how; raises MCPConnectionError where that fails."""
    if _has(target, "read", "write", "close"):
        return ObjectPipe(name, target.read, lambda message, _: target.write(message), target.close)
    if _has(target, "connect") and not getattr(target, "connected", False):
        try:
            target.connect()
        except MCPError:
            raise
        except Exception as error:
            raise MCPConnectionError(f"{name}: connecting failed: {error!r}", may_have_run=False) from error
    close = getattr(target, "disconnect", None) or getattr(target, "close", None) or (lambda: None)
    return ObjectPipe(name, _patient_reader(target.receive_message), _patient_writer(target.send_message), close)


def _patient_reader(receive: Callable[..., Any]) -> Callable[[], Any]:
    """Return a function that asks for a message, a little at a time where that is possible."""
    return (lambda: receive(timeout=POLL_SECONDS)) if _takes_timeout(receive) else receive


def _patient_writer(send: Callable[..., Any]) -> Callable[[Any, float], Any]:
    """Return a function that passes a message, and the time it may take where that is possible."""
    if _takes_timeout(send):
        return lambda message, seconds: send(message, timeout=max(seconds, 0.001))
    return lambda message, _: send(message)


def _takes_timeout(function: Callable[..., Any]) -> bool:
    try:
        return "timeout" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _has(target: Any, *names: str) -> bool:
    return all(callable(getattr(target, name, None)) for name in names)
