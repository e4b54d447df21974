"""Results whose long texts are spelt apart are, to the byte, what ``encode`` makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_sync.exceptions import LocalProtocolError
from mcp_sync.protocol.messages import Result, encode
from mcp_sync.server import spelling
from mcp_sync.server.spelling import LONG, encode_result

LONG_TEXT = 'It was "the best" of times\\,\n\tit was\x00 the \x7f worst\u2028 of \u00e9\u20ac\U0001f600 times. ' * 300

# A short piece again and again, or a long text would hardly ever be made.
texts = st.builds(
    lambda piece, times: piece * times,
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=2),
    st.sampled_from([1, 1, 1, LONG, LONG + 1]),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
results = st.fixed_dictionaries(
    {}, optional={"content": values, "contents": values, "structuredContent": values, "_meta": values}
)


@settings(max_examples=50)
@given(results)
def test_whatever_it_holds_the_bytes_are_those_of_encode(result: dict[str, Any]) -> None:
    before = repr(result)
    assert encode_result(7, result) == encode(Result(7, result))
    assert repr(result) == before


@pytest.mark.parametrize(
    "result",
    [
        {"content": [{"type": "text", "text": LONG_TEXT}], "structuredContent": {"result": LONG_TEXT}},
        {"contents": [{"uri": "a:b", "blob": LONG_TEXT}, {"uri": "c:d", "text": LONG_TEXT[1:]}]},
        {"content": [{"type": "text", "text": LONG_TEXT}, 1, None, "x"], "structuredContent": None},
        {"structuredContent": [LONG_TEXT]},
    ],
)
def test_a_long_text_is_spelt_as_encode_spells_it(result: dict[str, Any]) -> None:
    assert len(LONG_TEXT) > LONG
    assert encode_result("id", result) == encode(Result("id", result))


def test_a_text_that_is_there_twice_is_spelt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spelt: list[str] = []
    to_json = spelling._spelt

    def counted(texts: list[str]) -> list[bytes] | None:
        spelt.extend(texts)
        return to_json(texts)

    monkeypatch.setattr(spelling, "_spelt", counted)
    text = "x" * (LONG + 1)
    found = encode_result(1, {"content": [{"text": text}], "structuredContent": {"result": text}})
    assert found.count(text.encode()) == 2
    assert len(spelt) == 2
    assert spelt[0] is spelt[1]


@pytest.mark.parametrize(
    "result",
    [
        {"content": [{"text": "x" * LONG + "\ud800"}]},
        {"content": [{"text": "x" * LONG * 2, "data": object()}]},
        {"structuredContent": {"result": "x" * LONG * 2, "number": float("nan")}},
    ],
)
def test_what_json_cannot_say_is_refused_in_the_same_words(result: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError) as by_encode:
        encode(Result(1, result))
    with pytest.raises(LocalProtocolError) as found:
        encode_result(1, result)
    assert str(found.value) == str(by_encode.value)


def test_a_text_that_holds_the_mark_is_no_place_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"content": [{"text": "y" * LONG * 2}, {"text": spelling._MARK}]}  # which nobody knows
    assert encode_result(1, result) == encode(Result(1, result))
