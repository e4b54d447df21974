"""Blocks: large messages in memory that is used again.

glibc gives a block of 128 KB and more back to the system when it is freed, and the next one costs a page fault for each
4 KB: for a megabyte that takes longer than reading and parsing it. When such a block of up to 32 MB is freed, it learns
to keep blocks of that size, and twice as much in all (mallopt(3), M_MMAP_THRESHOLD: "dynamic"). We free one, unused,
with the first large message, and a larger one with the first that is larger; otherwise messages would do nearly the
same, but for room for the two or three copies that each is made of. Who wants it otherwise sets MALLOC_MMAP_THRESHOLD_
or MALLOC_TRIM_THRESHOLD_ in the environment, and glibc learns nothing.
"""

from __future__ import annotations

LARGE_BYTES = 1 << 17
LARGER_BYTES = 2 << 20
KEPT_BYTES = 8 << 20
MOST_KEPT_BYTES = (32 << 20) - 8192

_learned = 0


def learn_to_keep(size: int) -> None:
    """Have blocks kept from now on: a message of so many bytes has come, LARGE_BYTES at least."""
    global _learned
    wanted = MOST_KEPT_BYTES if size >= LARGER_BYTES else KEPT_BYTES
    if wanted > _learned:
        _learned = wanted
        bytes(wanted)  # zeros, which the system has at hand: no page of it is touched
