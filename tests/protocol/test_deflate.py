"""Deflate: what a server may answer to the offer, and that messages come out as they went in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from mcp_sync.protocol.deflate import Agreed, Inflater, agreed, deflate

NAME = "permessage-deflate"


@pytest.mark.parametrize(
    ("answer", "goes_on"),
    [
        (NAME, True),
        (f"{NAME}; server_no_context_takeover", False),
        (f"{NAME};client_no_context_takeover ; server_no_context_takeover", False),
        ("Permessage-Deflate; server_max_window_bits=10; server_no_context_takeover", False),
        (f'{NAME}; server_max_window_bits="15"', True),
    ],
)
def test_what_a_server_may_answer_is_understood(answer: str, goes_on: bool) -> None:
    assert agreed(answer, True) == Agreed(goes_on)


def test_no_answer_is_no_compression() -> None:
    assert agreed("", True) is None
    assert agreed(" ", False) is None


@pytest.mark.parametrize(
    "answer",
    [
        "x-webkit-deflate-frame",
        f"{NAME}, {NAME}",
        f"{NAME}; client_max_window_bits=10",
        f"{NAME}; server_max_window_bits",
        f"{NAME}; server_max_window_bits=7",
        f"{NAME}; server_max_window_bits=16",
        f"{NAME}; server_max_window_bits=1000000000000",
        f"{NAME}; server_no_context_takeover=1",
        f"{NAME}; server_no_context_takeover; server_no_context_takeover",
        f"{NAME}; mux",
        f"{NAME};",
        "; a",
    ],
)
def test_what_was_not_offered_is_refused(answer: str) -> None:
    with pytest.raises(ValueError):
        agreed(answer, True)


def test_nothing_may_be_answered_to_no_offer() -> None:
    with pytest.raises(ValueError, match="not offered"):
        agreed(NAME, False)


@given(st.lists(st.binary(max_size=500)), st.booleans(), st.integers(1, 600))
def test_messages_come_out_as_they_went_in_however_much_is_taken_at_once(
    messages: list[bytes], goes_on: bool, most: int
) -> None:
    inflater = Inflater(goes_on)
    for message in messages:
        pieces = list(inflater.pieces(deflate(message, 6), most))
        assert b"".join(pieces) == message
        assert all(0 < len(piece) <= most for piece in pieces)


@given(st.lists(st.text(max_size=300).map(str.encode)), st.booleans())
def test_the_other_library_understands_ours_and_we_understand_theirs(messages: list[bytes], alone: bool) -> None:
    server = PerMessageDeflate(alone, alone, 15, 15)
    inflater = Inflater(not alone)
    for message in messages:
        ours = Frame(Opcode.TEXT, deflate(message, 6), rsv1=True)
        assert bytes(server.decode(ours).data) == message
        theirs = server.encode(Frame(Opcode.TEXT, message))
        assert b"".join(inflater.pieces(bytes(theirs.data), 1000)) == message
