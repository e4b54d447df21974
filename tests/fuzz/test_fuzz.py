"""Fuzz targets as tests: what was found before, a few inputs made up anew, and some seconds of atheris where it is.

The long run is ``make fuzz``; see run.py. FAULTS.md, section 8.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import run, stage, targets
from fuzz.inventing import Flawed, invent
from fuzz.provider import Provider
from fuzz.targets import CORPUS, TARGETS, Target

from mcp_sync.protocol.headers import media_type, session_id_flaw

SECONDS = 3
MOST_BYTES = 4096
RUNNER = Path(run.__file__)

each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@pytest.fixture(autouse=True)
def _nothing_stands() -> Iterator[None]:
    """Give back what targets keep from one input to the next."""
    yield
    stage.clear()


@each_target
def test_what_is_in_the_corpus_finds_nothing(target: Target) -> None:
    for path in target.inputs():
        try:
            target.function(path.read_bytes())
        except Exception as flaw:
            raise AssertionError(f"python {RUNNER} --target {target.name} --input {path}") from flaw


@each_target
def test_what_is_made_up_finds_nothing(target: Target) -> None:
    invent(target, target.examples)


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    for target in TARGETS.values():
        assert 5 <= len(target.inputs()) <= run.MOST_KEPT
        assert all(path.stat().st_size <= MOST_BYTES for path in target.inputs())
        assert target.function.__doc__


needs_atheris = pytest.mark.skipif(not run.has_atheris(), reason="atheris is not installed")


@needs_atheris
@pytest.mark.alone  # it has so many seconds, and beside others it would spend them waiting
def test_atheris_finds_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    done = _in_a_child(tmp_path, f"run.fuzz('messages', {SECONDS}, 1)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stat::number_of_executed_units" in done.stderr


PLANTED = """
def planted(data):
    try:
        agreed = deflate.agreed(data.decode("latin-1"), True)
    except ValueError:
        return
    assert agreed is None

TARGETS["planted"] = Target(planted, longest=30)
"""


@needs_atheris
@pytest.mark.alone  # it has so many seconds, and beside others it would spend them waiting
def test_atheris_finds_the_way_to_a_planted_flaw(tmp_path: Path) -> None:
    """Nobody tells it that the name is permessage-deflate."""
    done = _in_a_child(tmp_path, PLANTED + "run.fuzz('planted', 30, 1)")
    assert done.returncode == run.FLAWED, done.stdout + done.stderr
    [kept] = (tmp_path / "planted").glob("crash-*")
    assert kept.read_bytes().strip().lower().startswith(b"permessage-deflate")


def test_hypothesis_finds_a_planted_flaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def planted(data: bytes) -> None:
        assert b"flaw" not in data

    monkeypatch.setitem(TARGETS, "planted", Target(planted, words=(b"fla", b"w")))
    monkeypatch.setattr(run, "has_atheris", lambda: False)
    monkeypatch.setattr(run, "FOUND", tmp_path)
    assert run.fuzz("planted", 30, 1) == run.FLAWED
    [kept] = (tmp_path / "planted").glob("crash-*")
    assert kept.read_bytes() == b"flaw"
    assert "b'flaw' fails the target; it is in " in capsys.readouterr().err


WATCHED = """
import sys
sys.path[:0] = {places!r}
from fuzz import run
run.FOUND = run.Path({found!r})
with run.watched():
    from fuzz.targets import TARGETS, Target
    from mcp_sync.protocol import deflate
"""


def _in_a_child(found: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program that imports what it fuzzes as the runner does, so that atheris sees it."""
    first = WATCHED.format(places=[str(RUNNER.parents[1]), str(RUNNER.parents[2])], found=str(found))
    command = [sys.executable, "-c", first + program]
    return subprocess.run(command, capture_output=True, text=True, cwd=found, timeout=55)


def test_of_what_was_found_only_what_reaches_more_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def heads(data: bytes) -> None:
        media_type(data.decode("latin-1"))
        if data.startswith(b"x"):
            session_id_flaw(data.decode("latin-1"))

    target = Target(heads)
    monkeypatch.setitem(TARGETS, "heads", target)
    monkeypatch.setattr(targets, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(run, "FOUND", tmp_path)
    found = tmp_path / "heads" / "corpus"
    found.mkdir(parents=True)
    for number, data in enumerate((b"a", b"ab", b"x", b"xy", b"x y")):
        (found / str(number)).write_bytes(data)
    assert {path.read_bytes() for path in run.keep("heads")} == {b"a", b"x", b"x y"}
    assert run.keep("heads") == []


def test_an_input_can_be_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--target", "lines", "--input", str(TARGETS["lines"].inputs()[0])]) == 0
    assert "lines finds nothing wrong" in capsys.readouterr().out


def test_a_target_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--target", "nothing"]) == 2
    assert "there is no target nothing" in capsys.readouterr().err


# -- what the targets stand on ----------------------------------------------------------------------------------------


def test_the_same_bytes_mean_the_same_thing() -> None:
    feed = Provider(b"1a\\nb\nrest")
    assert (feed.flag(), feed.line(), feed.left, feed.rest()) == (True, b"a\nb", 4, b"rest")
    assert (feed.flag(), feed.byte(), feed.line(), feed.text(), feed.rest(), feed.pick("ab")) == (
        False,
        ord("0"),
        b"",
        "",
        b"",
        "a",
    )


@pytest.mark.parametrize("how", [0, 1, 7, 20, 21, 63])
def test_pieces_are_the_whole(how: int) -> None:
    data = bytes(range(200))
    pieces = Provider(bytes([how + 48])).pieces(data)
    assert b"".join(pieces) == data
    assert all(pieces)


def test_what_fails_is_told_with_the_smallest_input_that_does() -> None:
    def fails(data: bytes) -> None:
        assert b"\n" not in data

    with pytest.raises(Flawed) as caught:
        invent(Target(fails), 500)
    assert caught.value.data == b"\n"
