"""The contract suites: inherit one, say how to connect, and its tests say whether your part does what its kind must.

::

    from mcp_sync.testing import ChannelContract, Partner

    class TestMyChannel(ChannelContract):
        def connect(self):
            ours, theirs = my_pair(max_message_size=self.message_size)
            self.run_partner(MyWire(theirs))
            return ours

The other end is always the same: the Partner, a scripted server that does what it is asked, bad manners included. Run
it in your process over anything that passes messages, or as a child: ``python -m mcp_sync.testing.partner``.

The suites are plain classes; pytest is imported late, if at all. Names are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME_OF = {
    "CallerContract": "caller",
    "ChannelContract": "channel",
    "ChannelWire": "tools",
    "Collector": "tools",
    "Partner": "partner",
    "PartnerServer": "tools",
    "SessionStoreContract": "store",
    "TransportContract": "transport",
    "Wire": "partner",
    "in_threads": "tools",
}

__all__ = [
    "CallerContract",
    "ChannelContract",
    "ChannelWire",
    "Collector",
    "Partner",
    "PartnerServer",
    "SessionStoreContract",
    "TransportContract",
    "Wire",
    "in_threads",
]

if TYPE_CHECKING:
    from .caller import CallerContract as CallerContract
    from .channel import ChannelContract as ChannelContract
    from .partner import Partner as Partner
    from .partner import Wire as Wire
    from .store import SessionStoreContract as SessionStoreContract
    from .tools import ChannelWire as ChannelWire
    from .tools import Collector as Collector
    from .tools import PartnerServer as PartnerServer
    from .tools import in_threads as in_threads
    from .transport import TransportContract as TransportContract
else:

    def __getattr__(name):
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
