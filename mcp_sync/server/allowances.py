"""Allowances: how much of what a client says about itself, and of what it subscribes to, is kept for it.

Anybody may come and say something, and what is kept stays as long as the session or the connection does; so it is not
the size of a message that bounds it.

Source: basic/lifecycle (clientInfo, capabilities); server/resources and basic/patterns/subscriptions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ..exceptions import JSONRPCError
from ..protocol.messages import INVALID_PARAMS

MAX_SUBSCRIPTIONS = 1000
"""How many resources a session subscribes to; how many resources and tasks one listen names."""
GREETING_BYTES = 64 << 10
"""What a client says about itself, as JSON."""
URI_BYTES = 8 << 10
"""One URI, or one id of what is subscribed to."""
SUBSCRIBED_BYTES = 256 << 10
"""All that one listen, or one session, subscribes to."""
CONNECTION_BYTES = 1 << 20
"""All that one two-way connection subscribes to."""


def text_bytes(text: str) -> int:
    """Return how many bytes a text has on the wire; JSON can hold half a character."""
    return len(text.encode("utf-8", "surrogatepass"))


def json_bytes(value: Any) -> int:
    """Return how many bytes a value that came as JSON has about as such."""
    return text_bytes(json.dumps(value, ensure_ascii=False))


def check_greeting(info: Mapping[str, Any], capabilities: Mapping[str, Any]) -> None:
    """Check what a client says about itself in its ``initialize``.

    Raises:
        JSONRPCError: It is too much.
    """
    if json_bytes([info, capabilities]) > GREETING_BYTES:
        text = f"initialize: clientInfo and capabilities are more than {GREETING_BYTES >> 10} KB"
        raise JSONRPCError(INVALID_PARAMS, text)


def check_uri(uri: str) -> None:
    """Check the length of a URI that is subscribed to.

    Raises:
        JSONRPCError: It is too long.
    """
    if text_bytes(uri) > URI_BYTES:
        raise JSONRPCError(INVALID_PARAMS, f"params.uri is more than {URI_BYTES >> 10} KB")


def check_subscribed(uris: Collection[str]) -> None:
    """Check all that a session subscribes to.

    Raises:
        JSONRPCError: It is too much.
    """
    if len(uris) > MAX_SUBSCRIPTIONS:
        raise JSONRPCError(INVALID_PARAMS, f"more than {MAX_SUBSCRIPTIONS} resources are subscribed to")
    if sum(map(text_bytes, uris)) > SUBSCRIBED_BYTES:
        text = f"the resources that are subscribed to are more than {SUBSCRIBED_BYTES >> 10} KB"
        raise JSONRPCError(INVALID_PARAMS, text)


def check_listen(names: Collection[str]) -> None:
    """Check what one ``subscriptions/listen`` names: URIs, tasks, its own id.

    Raises:
        ValueError: It is too much; the text says how.
    """
    where = "params.notifications names"
    if len(names) > MAX_SUBSCRIPTIONS + 1:
        raise ValueError(f"{where} more than {MAX_SUBSCRIPTIONS} resources and tasks")
    sizes = [text_bytes(name) for name in names]
    if max(sizes, default=0) > URI_BYTES:
        raise ValueError(f"{where} something of more than {URI_BYTES >> 10} KB")
    if sum(sizes) > SUBSCRIBED_BYTES:
        raise ValueError(f"{where} more than {SUBSCRIBED_BYTES >> 10} KB")
