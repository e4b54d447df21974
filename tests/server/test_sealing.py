"""State that clients carry: nobody can change it, nor use it for something else, nor for ever (WIRE.md L5)."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_sync.server.sealing import KEY_VARIABLE, MAX_STATE, Seal, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
STATES = st.dictionaries(st.text(), JSON, max_size=5)


@given(state=STATES, bound=st.text(st.characters(codec="utf-8")), key=st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_was_sealed_is_opened_by_whoever_has_the_key(state: dict[str, object], bound: str, key: str) -> None:
    sealed = Seal(key).close(state, bound)
    assert sealed.isascii()
    assert Seal(key).open(sealed, bound) == state


SEALED = Seal("key", clock=lambda: 1000.0).close({"round": 1, "who": "ann"}, "bound")


@given(st.integers(0, len(SEALED) - 1), st.characters(codec="utf-8"))
@example(len(SEALED) - 1, "")
@example(0, "v2")
def test_a_letter_that_was_changed_makes_it_worthless(at: int, letter: str) -> None:
    changed = SEALED[:at] + letter + SEALED[at + 1 :]
    if changed != SEALED:
        with pytest.raises(ValueError, match="^not a valid state$"):
            Seal("key", clock=lambda: 1000.0).open(changed, "bound")


@given(st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text()), st.binary()))
@example("v1..")
@example("v1." + "A" * 64 + ".")
@example("v1.e30.AAAA")
@example("é" * 10)
@example(f"{SEALED}\n")
@example(f" {SEALED}")
@example(f"{SEALED}.more")
@example(f"{SEALED}=")
def test_whatever_a_client_sends_there_is_no_other_error(junk: object) -> None:
    with pytest.raises(ValueError, match="^not a valid state$"):
        Seal("key", clock=lambda: 1000.0).open(junk, "bound")


def test_it_is_good_for_one_thing_with_one_key_for_a_while() -> None:
    now = [1000.0]
    seal = Seal("key", clock=lambda: now[0])
    sealed = seal.close({"a": 1}, "this", seconds=60)
    now[0] += 59
    assert seal.open(sealed, "this") == {"a": 1}
    for other, bound in [(seal, "that"), (Seal("another", clock=lambda: now[0]), "this"), (Seal(), "this")]:
        with pytest.raises(ValueError, match="^not a valid state$"):
            other.open(sealed, bound)
    now[0] += 1
    with pytest.raises(ValueError, match="^not a valid state$"):
        seal.open(sealed, "this")


def test_a_state_that_was_made_without_the_key_is_not_taken() -> None:
    body = base64.urlsafe_b64encode(json.dumps({"s": {"admin": True}, "e": 9e9}).encode()).decode().rstrip("=")
    for signature in ("", "A" * 43, SEALED.rpartition(".")[2]):
        with pytest.raises(ValueError, match="^not a valid state$"):
            Seal("key").open(f"v1.{body}.{signature}", "bound")


def test_what_is_larger_than_would_be_opened_is_not_closed() -> None:
    with pytest.raises(ValueError, match=str(MAX_STATE)):
        Seal("key").close({"a": "x" * MAX_STATE}, "bound")
    large = {"a": "x" * (MAX_STATE // 2)}
    assert Seal("key").open(Seal("key").close(large, "bound"), "bound") == large


def test_the_key_may_come_from_the_environment_and_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "hidden-key")
    sealed = Seal().close({"a": 1}, "b")
    assert Seal("hidden-key").open(sealed, "b") == {"a": 1}
    assert Seal(b"hidden-key").open(sealed, "b") == {"a": 1}
    assert not Seal().is_random
    assert "hidden" not in repr(Seal())
    monkeypatch.delenv(KEY_VARIABLE)
    assert Seal().is_random
    with pytest.raises(ValueError, match="^not a valid state$"):
        Seal().open(sealed, "b")


@given(JSON, JSON)
def test_a_digest_is_the_same_for_equal_things_and_another_for_others(one: object, other: object) -> None:
    shuffled = json.loads(json.dumps(one), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert digest(one) == digest(shuffled)
    assert (digest(one) == digest(other)) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))
