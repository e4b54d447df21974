"""What the tests of this folder generate: JSON values, and whole messages made of them."""

from __future__ import annotations

from hypothesis import strategies as st

from mcp_sync.protocol.messages import Failure, Notification, Request, Result

characters = st.characters(exclude_categories=["Cs"])  # no lone surrogates
text = st.text(characters, max_size=20)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
objects = st.dictionaries(text, json_values, max_size=4)
ids = st.integers() | text
whole_messages = st.one_of(
    st.builds(Request, ids, text, st.none() | objects),
    st.builds(Notification, text, st.none() | objects),
    st.builds(Result, ids, objects),
    st.builds(Failure, st.none() | ids, st.integers(), text, json_values),
)
