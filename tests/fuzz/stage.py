"""What a target needs that takes long to make: made once, used by many inputs, and given back by whoever asked for it.

Under pytest that is after each test; a process of atheris ends with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

_known: dict[Callable[[], AbstractContextManager[Any]], Any] = {}
_open = ExitStack()


def standing(make: Callable[[], AbstractContextManager[Any]]) -> Any:
    """Return what this makes, made once."""
    if make not in _known:
        _known[make] = _open.enter_context(make())
    return _known[make]


def clear() -> None:
    """Give everything back."""
    _known.clear()
    _open.close()


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(logging.Formatter().format(record))


@contextmanager
def nothing_fails() -> Iterator[None]:
    """Fail if one of our threads ends in an exception, or anything is logged as an error."""
    handler, hook = _Errors(), threading.excepthook
    logger = logging.getLogger("mcp_sync")
    threading.excepthook = lambda failed: handler.found.append(repr(failed.exc_value))
    logger.addHandler(handler)
    spreads, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = spreads
        threading.excepthook = hook
    assert not handler.found, "\n".join(handler.found)
