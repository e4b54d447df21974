"""Custom: a transport of the user's own, made of any object that can pass messages (objects.py)."""

from __future__ import annotations

import io
from typing import Any, ClassVar

from ..deadlines import Deadline
from ..engine.channel import Channel
from ..policies import Limits, gather, with_knobs
from .objects import dial_object, end_of, is_custom
from .transport import MCPTransport


@with_knobs(Limits)
class CustomTransport(MCPTransport):
    """A transport made of a user's object; ``Client`` makes one by itself.

    Args:
        target: The object; ``mcp_sync.transports.objects`` says what it may look like.
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        **knobs: ``max_message_size`` and the other limits of ``mcp_sync.policies.Limits``.
    """

    transport_type: ClassVar[str] = "custom"

    def __init__(self, target: Any, *, timeout: float | None = None, **knobs: Any) -> None:
        super().__init__(timeout, gather(CustomTransport, (Limits,), None, knobs))
        if isinstance(target, io.IOBase):
            raise TypeError(
                f"{target!r} cannot pass messages: it is a file of bytes or lines, and its close() may wait for its "
                "read(); wrap it in an object whose read() returns one message, and whose close() ends a waiting read()"
                " (of a socket: socket.shutdown())"
            )
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
        """Return a channel over the object.

        Raises:
            MCPConnectionError: Another conversation has it, or its ``connect`` fails.
            MCPTimeoutError: Not by the deadline.
            ForkedClientError: The process that this one was forked from has it, and it cannot connect anew.
        """
        return dial_object(self, self._target, end_of(self._target), deadline)
