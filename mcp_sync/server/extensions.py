"""Extension: methods beyond the core of the protocol, which a client has to know (basic/versioning)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .calls import Call


class Extension(Protocol):
    """Something that a server offers beyond the core; of the stateless era.

    Attributes:
        name: Its identifier, such as ``io.modelcontextprotocol/tasks``.
        settings: What the server says of it among its capabilities.
        methods: What answers each of its methods.
    """

    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the server says of it."""

    @property
    def methods(self) -> Mapping[str, Callable[[Call], dict[str, Any]]]:
        """What answers its methods; raises JSONRPCError."""
