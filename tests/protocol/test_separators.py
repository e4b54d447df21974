"""Whatever else may end a line of text, only a newline ends one of ours (basic/transports/stdio)."""

from __future__ import annotations

import pytest

from mcp_sync.protocol.framing import LineSplitter

# What str.splitlines takes for an end, too.
OTHERS = ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"]


@pytest.mark.parametrize("other", OTHERS, ids=ascii)
def test_only_a_newline_ends_a_line(other: str) -> None:
    line = f"a{other}b".encode()
    data = line + b"\n" + line + b"\n"
    for place in range(len(data) + 1):
        splitter = LineSplitter(limit=100)
        assert splitter.feed(data[:place]) + splitter.feed(data[place:]) == [line, line]
