"""Sealing: state that a client carries for us and cannot change (basic/patterns/mrtr: requestState).

The state is signed, not hidden: whoever holds it can read it. It is good for one request (method, name, arguments), one
principal and a limited time; all processes that have the same key take it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any

KEY_VARIABLE = "MCP_SYNC_SECRET_KEY"
"""Where the key is looked for when none is given, so that all workers of a host share it."""
STATE_SECONDS = 3600.0
MAX_STATE = 1 << 20
"""Characters of a state that are looked at at all."""
_VERSION = "v1"


class Seal:
    """Signs state, and checks it.

    Args:
        key: A secret of any length; None takes that of the environment variable KEY_VARIABLE, else a random one of
            this process and its forks.
        clock: Seconds since 1970; tests hand in their own.

    Attributes:
        is_random: Whether no other process can know the key.
    """

    def __init__(self, key: str | bytes | None = None, *, clock: Callable[[], float] = time.time) -> None:
        given = key if key is not None else os.environ.get(KEY_VARIABLE)
        if given is not None and not isinstance(given, (str, bytes)):
            raise TypeError(f"secret_key must be str or bytes, not {type(given).__name__}")
        if given is not None and not given:
            raise ValueError("secret_key must not be empty")
        raw = os.urandom(32) if given is None else given.encode() if isinstance(given, str) else given
        self.is_random = given is None
        self._key = hashlib.sha256(b"mcp_sync request state\0" + raw).digest()  # the same key may serve other ends
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Seal with a {'random' if self.is_random else 'given'} key>"

    def close(self, state: Mapping[str, Any], bound: str, seconds: float = STATE_SECONDS) -> str:
        """Return the state as text to be carried.

        Args:
            state: What JSON can say.
            bound: What it is good for.
            seconds: For how long.

        Raises:
            TypeError: JSON cannot say it.
            ValueError: It is too large; whoever opened it would refuse it.
        """
        content = {"s": dict(state), "e": int(self._clock() + seconds)}
        body = _packed(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())
        text = f"{_VERSION}.{body}.{self._signature(body, bound)}"
        if len(text) > MAX_STATE:
            raise ValueError(f"the state of a request has {len(text)} characters; it may have {MAX_STATE}")
        return text

    def open(self, text: object, bound: str) -> dict[str, Any]:
        """Return the state.

        Raises:
            ValueError: It is not what we sealed, or not for this, or too old; the text never says which.
        """
        if isinstance(text, str) and len(text) <= MAX_STATE and text.isascii():
            version, _, rest = text.partition(".")
            body, _, signature = rest.partition(".")
            if version == _VERSION and hmac.compare_digest(signature, self._signature(body, bound)):
                content = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
                if self._clock() < content["e"]:
                    state: dict[str, Any] = content["s"]
                    return state
        raise ValueError("not a valid state")

    def _signature(self, body: str, bound: str) -> str:
        return _packed(hmac.new(self._key, f"{body}\0{bound}".encode(), hashlib.sha256).digest())


def _packed(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def digest(value: Any) -> str:
    """Return a short text that stands for what JSON can say, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
