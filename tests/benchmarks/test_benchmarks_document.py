"""What is measured comes into the documentation."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import document
from cases import CASES, ENTRIES, STARTS


def rows(*, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return a row for each contender of each case; the limit takes 10 us, the next of them a half more, and so on."""
    found = []
    for case, one in CASES.items():
        names = [name for name, entry in ENTRIES.items() if one.binding in entry.bindings and name not in one.without]
        for number, name in enumerate(names if case not in without else []):
            ratio = 1.0 + number / 2
            known = {"wall": 10e-6 * ratio, "wall_x": ratio, "wall_x_low": ratio, "wall_x_high": 2 * ratio, "rounds": 5}
            found.append({"case": case, "contender": name, **known})
    return found


STARTED = [{"start": key, "cpu": 1.0, "low": 0.5, "high": 2.0, "rss": 3.0} for key in STARTS]


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of README.rst, to be written into."""
    copy = tmp_path / "README.rst"
    copy.write_text(document.README.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(document, "README", copy)
    monkeypatch.setattr(document, "PICTURE", tmp_path / "figures.svg")
    return copy


def write(found: list[dict[str, Any]]) -> list[str]:
    return document.write(found, STARTED, 5, ("0.10 0.10 0.10", "0.90 0.50 0.20"), {"sdk2": "2.3.0"})


def test_each_table_is_written_in_its_place_and_the_rest_stays(readme: Path) -> None:
    before = readme.read_text("utf-8")
    assert len(write(rows())) == len(document.TABLES) + 2  # the table of starts, and the picture
    after = readme.read_text("utf-8")
    for name in (*document.TABLES, "start"):
        block = re.search(rf"^\.\. figures: {name}\n(.*?)^\.\. end of figures$", after, re.S | re.M)
        assert block is not None
        assert "load average 0.10 0.10 0.10 to 0.90 0.50 0.20" in block[1]
    assert "- tiny call, one caller\n     - 10 us\n     - 1.50 (1.50 - 3.00)\n" in after
    assert "mcp 2.3.0" in after
    marks = re.compile(r"^\.\. figures: \w+\n.*?^\.\. end of figures$", re.S | re.M)
    assert marks.sub("", after) == marks.sub("", before)
    write(rows())
    assert readme.read_text("utf-8") == after


def test_a_table_of_which_something_was_not_measured_stays(readme: Path) -> None:
    before = readme.read_text("utf-8")
    written = write(rows(without=("text1", "docker")))
    assert "README.rst, http" in written
    assert not {"README.rst, stdio", "README.rst, docker"} & set(written)
    for name in ("stdio", "docker"):
        place = re.compile(rf"^\.\. figures: {name}\n.*?^\.\. end of figures$", re.S | re.M)
        assert place.findall(readme.read_text("utf-8")) == place.findall(before)
    assert not document.PICTURE.exists()


def test_the_picture_has_a_bar_for_each_of_ours_and_of_the_peers(readme: Path) -> None:
    write(rows())
    drawn = ElementTree.parse(document.PICTURE).getroot()
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert set(document.DRAWN.values()) <= set(texts)
    for colour in document.COLOURS.values():
        bars = [one for one in drawn.iter("{http://www.w3.org/2000/svg}rect") if one.get("fill") == colour]
        assert len(bars) > len(document.DRAWN) / 2
