"""Blocks: large messages in memory that is used again.

glibc gives a block of 128 KB and more back to the system when it is freed, and the next one costs a page fault for each
4 KB: for a megabyte that takes longer than reading and parsing it. When such a block of up to 32 MB is freed, it learns
to keep blocks of that size, and twice as much in all (mallopt(3), M_MMAP_THRESHOLD: "dynamic"). We free one, unused,
with the first large message; otherwise the first message of its size would do the same. Who wants it otherwise sets
MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_ in the environment, and glibc learns nothing.
"""

from __future__ import annotations

from . import interrupts

LARGE_BYTES = 1 << 17
KEPT_BYTES = 8 << 20

_learned = interrupts.Event()


def learn_to_keep() -> None:
    """Have blocks kept from now on: a message of LARGE_BYTES or more has come."""
    if not _learned.is_set():
        _learned.set()
        bytes(KEPT_BYTES)  # zeros, which the system has at hand: no page of it is touched
