"""The extra [fast]: msgspec reads nothing that the standard library would not, and reads it alike."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sync.protocol import messages
from mcp_sync.protocol.messages import Malformed, Result, decode

msgspec = pytest.importorskip("msgspec", reason="there is no msgspec for this interpreter")
quick_parse: Callable[[bytes], Any] = msgspec.json.Decoder().decode

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"

TRAPS = [
    *("NaN", "-NaN", "Infinity", "-Infinity", "[NaN]", "nan", "1e999", "-1e999", "1E400", "1" + "0" * 400 + ".0"),
    *("18446744073709551615", "18446744073709551616", "-9223372036854775809", "9" * 30, "9" * 4300, "9" * 5000),
    *("-0", "-0.0", "0.1", "1.0", "1e5", "5e-324", "1e-999", "9007199254740993", "9007199254740993.0", "0e1"),
    *("2.2250738585072011e-308", "0.30000000000000004", "1" * 25 + ".5", "01", "-", "+1", ".5", "1.", "1e", "0x1"),
    *(r'"\ud800"', r'"\ude00\ud83d"', r'"\ud83d\ude00"', r'{"\ud800": 1}', r'"\u12G4"', r'"\x"', r'"\/"', r'"\u0000"'),
    *('"a\x01b"', '"a\tb"', '"\x7f"', '"\u2028"', '"\u00e9"', '"', '"\\', '"\\u00'),
    *('{"a": 1, "a": 2}', '{"a": 1,}', "[1,]", "[1 2]", '{"a" 1}', "{1: 2}", "{} x", " \n{} \r\n", "\x0c{}", "{}\x00"),
    *("\ufeff{}", "", " ", "true", "nul", "[" * 200 + "]" * 200, "[" * 5000 + "]" * 5000, "[" * 5000, '{"a":' * 5000),
    *("/* */ {}", "{'a': 1}", "[1, // 2\n]", "undefined", '{"__proto__": {}}', "1 2", "[]]"),
]
BYTES = [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b'{"\xff": 1}', b"\x00{}", b"\xff\xfe{"]


def agree(raw: bytes) -> None:
    """Fail where msgspec accepts something that the standard library refuses, or reads it as something else."""
    if messages.too_deep(raw, messages.MAX_DEPTH):
        return  # which is found before
    try:
        quick = quick_parse(raw)
    except Exception:
        return  # then the standard library has the last word
    slow = messages._parse(raw)
    assert exactly(quick) == exactly(slow)


def exactly(value: Any) -> Any:
    """Return a value so that 1, 1.0 and True are different, as are 0.0 and -0.0, and the order of names counts."""
    if isinstance(value, dict):
        return [(key, exactly(item)) for key, item in value.items()]
    if isinstance(value, list):
        return list(map(exactly, value))
    return type(value), repr(value)


@pytest.mark.parametrize("raw", [*(text.encode() for text in TRAPS), *BYTES], ids=lambda raw: repr(raw[:30]))
def test_traps(raw: bytes) -> None:
    agree(raw)


def test_numbers() -> None:
    dice = random.Random(1)
    for _ in range(20_000):
        whole, part = (dice.randrange(10 ** dice.randrange(1, 25)) for _ in range(2))
        agree(f"{dice.choice(['', '-'])}{whole}.{part}e{dice.randrange(-400, 400)}".encode())
        agree(f"{dice.choice(['', '-'])}{whole}".encode())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_whatever_can_be_written(value: Any, ascii_only: bool) -> None:
    agree(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


@given(VALUES, st.data())
def test_whatever_somebody_has_tampered_with(value: Any, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2) | st.sampled_from(EDGES))
    agree(bytes(raw))


EDGES = [b"\\u", b"\\ud8", b"e9", b"9" * 20, b"NaN", b"-", b",", b'"', b"{", b"]", b"\xff", b"0", b"."]


def test_whatever_the_fuzzers_keep() -> None:
    files = [file for file in CORPUS.rglob("*") if file.is_file()]
    assert len(files) > 20
    for file in files:
        raw = file.read_bytes()
        for line in [raw, *raw.split(b"\n")]:
            agree(line)


@pytest.fixture(params=["standard library", "msgspec"])
def _either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_quick_parse", quick_parse if request.param == "msgspec" else None)


@pytest.mark.usefixtures("_either")
def test_messages_are_the_same_with_either() -> None:
    assert decode(b'{"jsonrpc":"2.0","id":1,"result":{"a":[1,1.5,"\xc3\xa9"]}}') == Result(1, {"a": [1, 1.5, "\u00e9"]})
    for wrong, why in (
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}', "NaN is not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":"\\ud800"}}', "a lone surrogate"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":"\xff"}}', "invalid UTF-8 at byte"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"a":1e999}}', "a number that no float can hold"),
        (b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 999 + b"]" * 999 + b"}", "levels deep"),
    ):
        message = decode(wrong)
        assert isinstance(message, Malformed)
        assert why in message.reason
        assert message.answers == 1


@pytest.mark.parametrize("there", [True, False])
def test_it_is_used_where_it_is_there_and_looked_for_with_the_first_message(there: bool) -> None:
    program = f"""
import sys
if not {there}: sys.modules["msgspec"] = None
import mcp_sync
from mcp_sync.protocol import messages
assert "msgspec.json" not in sys.modules
print(messages.decode(b'{{"jsonrpc":"2.0","id":1,"result":{{}}}}').id, messages._quick_parse is not None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", str(there)]
