"""Output schemas: what the tools of a server promise to return, looked up once and kept.

Source: server/tools (output schema); a result that is there must not be lost because looking this up fails.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline
from ..exceptions import MCPError, MCPTimeoutError
from ..protocol.messages import Notification
from .asking import Asker

if TYPE_CHECKING:
    from .answers import OutputSchema

LOOK_UP_SECONDS = 5.0
"""How long a result may be kept waiting for the list of tools that has its output schema."""


class ToolIndex:
    """The output schemas of a server's tools, as last listed.

    Locks: ``_lock``, held for a few instructions; ``_listing``, held while tools are looked up, acquired with the
    deadline.
    """

    def __init__(self) -> None:
        self._listing = threading.Lock()  # guards the looking up, so that it is done once
        self._lock = threading.Lock()  # guards _schemas, generation
        self._schemas: dict[str, OutputSchema | None] = {}
        self.generation = 0

    def tools(self, asker: Asker, deadline: Deadline) -> list[dict[str, Any]]:
        """Return the server's tools as they came, and remember their output schemas; raises as ``Asker.ask``."""
        generation = self.generation
        found = list(asker.pages("tools/list", "tools", deadline))
        self._learn(found, generation)
        return found

    def output_schema(self, asker: Asker, name: str, deadline: Deadline) -> OutputSchema | None:
        """Return a tool's output schema, if it has one; the server is asked once. None also where that failed."""
        if name and name not in self._schemas:
            self._look_up(asker, name, deadline.sooner(LOOK_UP_SECONDS))
        return self._schemas.get(name)

    def _look_up(self, asker: Asker, name: str, patience: Deadline) -> None:
        if not self._listing.acquire(timeout=patience.remaining):
            return
        try:
            if name not in self._schemas:
                self.tools(asker, patience)
                self._miss(name)
        except MCPTimeoutError:
            pass  # perhaps next time
        except MCPError:
            self._miss(name)
        finally:
            self._listing.release()

    def _miss(self, name: str) -> None:
        """Take note that a tool was looked for; one that is not listed has no schema, and is not looked for again."""
        with self._lock:
            self._schemas.setdefault(name, None)

    def _learn(self, tools: Sequence[Mapping[str, Any]], generation: int) -> None:
        """Take a list of tools, unless the tools have changed since it was asked for."""
        from . import answers

        schemas = {
            str(tool.get("name")): answers.OutputSchema(tool["outputSchema"])
            if isinstance(tool.get("outputSchema"), Mapping)
            else None
            for tool in tools
        }
        with self._lock:
            if generation == self.generation:
                self._schemas = schemas

    def forget(self) -> None:
        """Know nothing any more."""
        with self._lock:
            self._schemas = {}
            self.generation += 1

    def overhear(self, news: Notification | MCPError) -> None:
        """Forget what has changed."""
        if isinstance(news, Notification) and news.method == "notifications/tools/list_changed":
            self.forget()
