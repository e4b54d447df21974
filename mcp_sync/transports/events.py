"""Server-sent events out of a stream of bytes, parsed by sseclient-py. The one module that imports it.

A block that is one line of data and nothing else, as nearly all are, is its own event, and needs no parser. Of all
others, sseclient-py gets whole, bounded, valid blocks in normal form, and nothing else: on the open network it misses
ends of blocks, is stopped by one bad byte, delivers half an event, and takes quadratic time and unlimited memory.

Source: basic/transports (streamable HTTP); https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import logging
import threading

import sseclient

from ..protocol.sse import Block, BlockCutter, Event, NotText, TooLong


class _Current(threading.local):
    """Whether the thread is parsing for us; sseclient-py hands nothing through to its log."""

    parsing = False


_current = _Current()


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Keep sseclient-py from logging our events, which may repeat secrets; what others do with it is their affair."""
    return not _current.parsing


logging.getLogger(sseclient.__name__).addFilter(_is_not_ours)


class EventReader:
    """Makes events of one stream, piece by piece.

    Args:
        limit: The longest block in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._cutter = BlockCutter(limit)

    @property
    def pending(self) -> bool:
        """Whether an event has begun that has not ended: the stream was cut if it ends now."""
        return self._cutter.pending

    def feed(self, chunk: bytes) -> list[Event | TooLong | NotText]:
        """Return all that the chunk completes, in order; nothing complete is kept back."""
        items = [_simple(item) if type(item) is Block else item for item in self._cutter.feed(chunk)]
        blocks = [item for item in items if isinstance(item, Block)]
        if not blocks:
            return items  # type: ignore[return-value]  # there are no blocks in it
        events = iter(_parsed(blocks))
        return [next(events) if isinstance(item, Block) else item for item in items]


def _simple(block: Block) -> Event | Block:
    """Return the event of a block that is one line of data; every other block as it is."""
    raw, separator = block
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
        data = raw[6:-2].decode()
        return Event("message", data.replace(separator, "\n") if separator else data)
    return block


def _parsed(blocks: list[Block]) -> list[Event]:
    """One event for each block."""
    _current.parsing = True
    try:
        client = sseclient.SSEClient(iter([block.raw for block in blocks]))
        return [_event(block, found) for block, found in zip(blocks, client.events(), strict=True)]
    finally:
        _current.parsing = False


def _event(block: Block, found: sseclient.Event) -> Event:
    data = found.data.replace(block.separator, "\n") if block.separator else found.data
    return Event(found.event, data, found.id, None if found.retry is None else int(found.retry))
