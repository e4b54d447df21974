"""LastingTransport: what the transports have in common whose conversations outlive a connection."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from ..deadlines import Deadline
from ..manage.reconnect import Reconnecting
from .transport import MCPTransport

if TYPE_CHECKING:
    from .transport import _Line


class LastingTransport(MCPTransport):
    """How to reach a server with which a conversation goes on, on another connection, when one has ended."""

    _begun_here: weakref.ref[Reconnecting] | None = None

    def _began(self, whole: Reconnecting, here: _Line | None) -> None:
        """Take note of a conversation, if it began on the transport's own line: it ends with that."""
        if here is not None and here.peer is not None and here is self._line and whole.is_on(here.peer):
            self._begun_here = weakref.ref(whole)

    def _dial_line(self, deadline: Deadline) -> None:
        if not self.connected:  # whoever had a conversation on the connection that was goes on without it
            self._begun_here = None
        super()._dial_line(deadline)

    def _end_line(self, deadline: Deadline) -> None:
        """Close the line, and the conversation that began on it, which would only connect again."""
        whole = self._begun_here() if self._begun_here is not None else None
        if whole is not None:
            whole.close(deadline)
        super()._end_line(deadline)
