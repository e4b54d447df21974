"""Inputs made up by hypothesis: bytes, words, and what is in the corpus, changed here and there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

if TYPE_CHECKING:
    from fuzz.targets import Target


class Flawed(Exception):
    """A target has failed.

    Attributes:
        data: The smallest input that was found to do so.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


def inputs_of(target: Target) -> st.SearchStrategy[bytes]:
    """Return what makes up inputs for a target."""
    known = [path.read_bytes() for path in target.inputs()] or [b""]
    bits = st.sampled_from(target.words or (b"0",)) | st.binary(max_size=4) | st.sampled_from([b"0", b"1", b"2", b"\n"])
    fresh = st.lists(bits, max_size=30).map(b"".join) | st.binary(max_size=64)
    return (_changed(known, bits) | fresh).map(lambda data: data[: target.longest])


@st.composite
def _changed(draw: st.DrawFn, known: list[bytes], bits: st.SearchStrategy[bytes]) -> bytes:
    """One of those that are known, with something put in, taken out, or replaced, a few times."""
    data = draw(st.sampled_from(known))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.sampled_from([0, 0, 1, 1, 4, 30]))
        new = draw(st.one_of(bits, st.just(b""), st.just(data[start:end] * 2), st.sampled_from(known)))
        data = data[:start] + new + data[end:]
    return data


def invent(target: Target, count: int, seed: int | None = None, shrink: bool = True) -> int:
    """Try so many inputs, and return how many there were.

    Args:
        target: What to try them with.
        count: How many.
        seed: Where to begin; None: always the same ones.
        shrink: Whether to look for a smaller input that fails, too.

    Raises:
        Flawed: The target failed; its cause is what the target raised.
    """
    tried: list[bytes] = []

    @given(inputs_of(target))
    @settings(
        max_examples=count,
        derandomize=seed is None,
        database=None,
        deadline=None,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
    )
    def run(data: bytes) -> None:
        tried.append(data)
        target.function(data)

    try:
        (run if seed is None else seeded(seed)(run))()
    except Exception as flaw:
        raise Flawed(tried[-1]) from flaw
    return len(tried)
