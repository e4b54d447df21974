"""Custom: a transport of the user's own, made of any object that can pass messages (objects.py)."""

from __future__ import annotations

from typing import Any, ClassVar

from ..deadlines import Deadline
from ..engine.channel import Channel, PipeChannel
from ..policies import Limits, gather, with_knobs
from .objects import ObjectPipe, check_free, is_custom, pipe_over
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
        if not is_custom(target):
            raise TypeError(
                f"{target!r} cannot pass messages: it has neither read, write and close, "
                "nor send_message and receive_message"
            )
        self._target = target
        self._pipe: ObjectPipe | None = None

    @property
    def name(self) -> str:
        """The type of the user's object."""
        return type(self._target).__name__

    def dial(self, deadline: Deadline) -> Channel:
        """Return a channel over the object.

        Raises:
            MCPConnectionError: Another conversation has it, or its ``connect`` fails.
        """
        check_free(self._pipe, self.name)
        self._pipe = pipe_over(self._target, self.name)
        return PipeChannel(self._pipe, self._policies[Limits], self._observers)
