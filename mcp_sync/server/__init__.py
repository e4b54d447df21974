"""Server ends: an application of tools, resources and prompts, offered over stdio, WSGI, HTTP, WebSocket or memory.

::

    app.Server -> answering.Answerer        what is said to each method; the same for every binding
                    ^ Call(request, asker, link)
    conversation.Conversation               stdio, WebSocket, memory: a Peer over a channel
    wsgi.WsgiApp                            Streamable HTTP, both eras; legacy.SseApp: HTTP+SSE

Names are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOMES = {
    "app": ("Server",),
    "calls": ("Withdrawn",),
    "content": ("AssistantMessage", "Audio", "File", "Image", "UserMessage"),
    "context": ("Context",),
    "questions": ("Elicit", "ElicitResult", "Root", "Roots", "Sample", "SampleResult"),
    "security": ("TransportSecuritySettings",),
    "stores": ("MemorySessionStore", "SessionStore"),
    "redis_store": ("RedisSessionStore",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from .app import Server as Server
    from .calls import Withdrawn as Withdrawn
    from .content import AssistantMessage as AssistantMessage
    from .content import Audio as Audio
    from .content import File as File
    from .content import Image as Image
    from .content import UserMessage as UserMessage
    from .context import Context as Context
    from .questions import Elicit as Elicit
    from .questions import ElicitResult as ElicitResult
    from .questions import Root as Root
    from .questions import Roots as Roots
    from .questions import Sample as Sample
    from .questions import SampleResult as SampleResult
    from .redis_store import RedisSessionStore as RedisSessionStore
    from .security import TransportSecuritySettings as TransportSecuritySettings
    from .stores import MemorySessionStore as MemorySessionStore
    from .stores import SessionStore as SessionStore
else:

    def __getattr__(name):
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
