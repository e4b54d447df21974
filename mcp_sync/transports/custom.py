"""Custom: a transport of the user's own, made of any object that can pass messages.

Three shapes are understood: ``read()``, ``write(message)``, ``close()``; ``send_message(dict)``,
``receive_message()`` with ``connect()`` and ``disconnect()`` or ``close()`` where there are such; and a subclass of
MCPTransport that defines the latter.
"""

from __future__ import annotations

import inspect
import json
import queue
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ..deadlines import Deadline
from ..engine.channel import Channel, Pipe, PipeChannel
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError
from ..policies import Limits, gather, with_knobs
from ..protocol.messages import encode
from .transport import MCPTransport

POLL_SECONDS = 1.0
"""How long one ``receive_message`` may wait, where it takes a timeout; then it is asked again."""


class ObjectPipe(Pipe):
    """A Pipe over functions of the user's.

    Args:
        name: For people.
        read: Returns one message (dict, str or bytes), waiting for it; None, ``""`` or EOFError is the end.
        write: Takes one message.
        close: Ends both, and makes a waiting ``read`` return or raise.
        as_text: Whether ``write`` wants JSON text, not a dict.
    """

    kind = "custom"

    def __init__(
        self, name: str, read: Callable[[], Any], write: Callable[[Any], Any], close: Callable[[], Any]
    ) -> None:
        self.name = name
        self._read = read
        self._write = write
        self._close = close
        self._reason: BaseException | None = None
        self._hung_up = False

    def read(self) -> Sequence[bytes]:
        """Wait for one message; an empty answer is the end."""
        while not self._hung_up:
            try:
                item = self._read()
            except (EOFError, StopIteration):
                return []
            except (MCPTimeoutError, TimeoutError, queue.Empty):
                continue  # nothing came yet
            except Exception as error:
                self._reason = error
                return []
            return _as_bytes(item)
        return []

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Hand one message over, as a dict."""
        try:
            self._write(json.loads(data))
        except MCPError:
            raise
        except TimeoutError as error:
            raise MCPTimeoutError(f"{self.name}: {error}") from error
        except Exception as error:
            raise MCPConnectionError(f"{self.name}: sending failed: {error!r}") from error

    def hang_up(self, deadline: Deadline) -> None:
        """End both directions; what closing raises is of no interest any more."""
        if self._hung_up:
            return
        self._hung_up = True
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


@with_knobs(Limits)
class CustomTransport(MCPTransport):
    """A transport made of a user's object; ``Client`` makes one by itself.

    Args:
        target: The object; see the module's docstring for what it may look like.
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        **knobs: ``max_message_size`` and the other limits of ``mcp_sync.policies.Limits``.
    """

    transport_type: ClassVar[str] = "custom"

    def __init__(self, target: Any, *, timeout: float | None = None, **knobs: Any) -> None:
        super().__init__(timeout, gather(CustomTransport, (Limits,), None, knobs))
        if not is_custom(target):
            raise TypeError(
                f"{target!r} cannot pass messages: it has neither read, write and close, "
                "nor send_message and receive_message"
            )
        self._target = target

    @property
    def name(self) -> str:
        """The type of the user's object."""
        return type(self._target).__name__

    def dial(self, deadline: Deadline) -> Channel:
        """Return a channel over the object."""
        pipe = _pipe_over(self._target, self.name)
        return PipeChannel(pipe, self._policies[Limits], self._observers)


def is_custom(target: Any) -> bool:
    """Tell whether the object can pass messages in one of the shapes that are understood."""
    return _has(target, "read", "write", "close") or _has(target, "send_message", "receive_message")


def dial_by_messages(transport: MCPTransport, deadline: Deadline) -> Channel:
    """Be the ``dial`` of a subclass that defines ``send_message`` and ``receive_message``."""
    return PipeChannel(_pipe_over(transport, transport.name), transport._policies[Limits], transport._observers)


def _pipe_over(target: Any, name: str) -> ObjectPipe:
    if _has(target, "read", "write", "close"):
        return ObjectPipe(name, target.read, target.write, target.close)
    if _has(target, "connect") and not getattr(target, "connected", False):
        target.connect()
    close = getattr(target, "disconnect", None) or getattr(target, "close", None) or (lambda: None)
    return ObjectPipe(name, _patient(target.receive_message), target.send_message, close)


def _patient(receive: Callable[..., Any]) -> Callable[[], Any]:
    """Return a function that asks for a message, a little at a time where that is possible."""
    try:
        takes_timeout = "timeout" in inspect.signature(receive).parameters
    except (TypeError, ValueError):
        takes_timeout = False
    return (lambda: receive(timeout=POLL_SECONDS)) if takes_timeout else receive


def _has(target: Any, *names: str) -> bool:
    return all(callable(getattr(target, name, None)) for name in names)
