"""Fuzz: by atheris, which sees what an input reaches in mcp_sync and goes on from there; else by hypothesis, blindly.

::

    python tests/fuzz/run.py                              # all targets, a minute each
    python tests/fuzz/run.py --seconds 600 --target sse   # one, ten minutes
    python tests/fuzz/run.py --target sse --input FILE    # what one input does, once
    python tests/fuzz/run.py --target sse --seconds 60 --keep   # and put what is new into the corpus

atheris (https://github.com/google/atheris) is an optional extra: ``pip install atheris``. Each target has a process of
its own, one at a time. What it finds on its way is kept below ``.fuzz/`` and is where the next run begins; an input
that fails a target is put there, too, and shown. The corpus of the repository (``corpus/<target>/``) is read and,
but for ``--keep``, never written.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOUND = ROOT / ".fuzz"
MOST_KEPT = 40
"""Files in the corpus of a target."""
SLOW_SECONDS = 20
"""How long one input may take; far more than the slowest needs, for others use the machine, too."""
MEGABYTES = 2048
FLAWED = 77
"""What libFuzzer exits with when a target has failed."""

if str(ROOT) not in sys.path:
    sys.path[:0] = [str(HERE.parent), str(ROOT)]
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != HERE]  # our messages.py is no top level

if TYPE_CHECKING:
    from fuzz.targets import Target


def has_atheris() -> bool:
    """Tell whether atheris can be imported."""
    from importlib.util import find_spec

    return find_spec("atheris") is not None


# -- one target, in this process --------------------------------------------------------------------------------------


def fuzz(name: str, seconds: int, seed: int) -> int:
    """Fuzz one target in this process, which does not return where atheris does it; see libFuzzer's own exit codes."""
    if has_atheris():
        _by_atheris(name, seconds, seed)
    return _by_hypothesis(name, seconds, seed)


def watched() -> AbstractContextManager[None]:
    """Return a block in which what is imported of mcp_sync is watched by atheris, if that is there."""
    if not has_atheris():
        return nullcontext()
    import atheris

    watch: AbstractContextManager[None] = atheris.instrument_imports(include=["mcp_sync"], enable_loader_override=False)
    return watch


def _by_atheris(name: str, seconds: int, seed: int) -> None:
    import atheris

    with watched():
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *_options(target, seconds, seed)], target.function)
    atheris.Fuzz()


def _options(target: Target, seconds: int, seed: int) -> list[str]:
    """Return what to tell libFuzzer."""
    found = FOUND / target.name
    (found / "corpus").mkdir(parents=True, exist_ok=True)
    words = found / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words or (b"0",)))  # libFuzzer wants one
    limits = [f"-timeout={SLOW_SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={target.longest}"]
    places = [f"-artifact_prefix={found}/", str(found / "corpus"), *([str(target.corpus)] if target.inputs() else [])]
    return [f"-max_total_time={seconds}", f"-seed={seed}", f"-dict={words}", *limits, "-print_final_stats=1", *places]


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _by_hypothesis(name: str, seconds: int, seed: int) -> int:
    from fuzz.inventing import Flawed, invent
    from fuzz.targets import TARGETS

    target, until, count = TARGETS[name], time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            count += invent(target, 500, seed + count)
        except Flawed as flaw:
            path = FOUND / name / f"crash-{hashlib.sha1(flaw.data).hexdigest()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(flaw.data)
            print(f"{flaw.data!r} fails the target; it is in {path}", file=sys.stderr)
            import traceback

            traceback.print_exception(flaw.__cause__)
            return FLAWED
    print(f"{count} inputs, without a flaw", file=sys.stderr)
    return 0


# -- all of them, one after the other ---------------------------------------------------------------------------------


def fuzz_all(names: list[str], seconds: int, seed: int) -> list[str]:
    """Fuzz targets in processes of their own; return the names of those that failed."""
    failed = []
    for name in names:
        command = [sys.executable, str(HERE / "run.py"), "--here", "--target", name, "--found", str(FOUND)]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--seconds", str(seconds), "--seed", str(seed)], capture_output=True, text=True, errors="replace"
        )
        print(f"{name:20} {time.monotonic() - began:6.0f} s  {_summary(done)}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-4000:] + done.stderr[-6000:], flush=True)
    return failed


def _summary(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        return f"FAILED ({done.returncode})"
    lines = done.stderr.splitlines()
    stats = {part[0]: part[1].strip() for line in lines if line.startswith("stat::") and (part := line[6:].split(":"))}
    last = next((line for line in reversed(lines) if " cov: " in line), "")
    if not stats:
        return lines[-1] if lines else "nothing was done"
    return f"{stats.get('number_of_executed_units')} inputs, {' '.join(last.split()[2:8])}"


def keep(name: str) -> list[Path]:
    """Put what is new into the corpus of the repository: of what was found, the smallest that reach more; return it."""
    from fuzz.targets import TARGETS

    target, kept = TARGETS[name], list[Path]()
    reached = set[tuple[str, int]]().union(*(_reached(target, path.read_bytes()) for path in target.inputs()))
    found = {path.read_bytes() for path in (FOUND / name / "corpus").glob("*")}
    for data in sorted(found, key=lambda one: (len(one), one)):
        if len(target.inputs()) < MOST_KEPT and (more := _reached(target, data) - reached):
            reached |= more
            target.corpus.mkdir(parents=True, exist_ok=True)
            kept.append(target.corpus / f"found-{hashlib.sha1(data).hexdigest()[:8]}")
            kept[-1].write_bytes(data)
    return kept


def _reached(target: Target, data: bytes) -> set[tuple[str, int]]:
    """Return the lines of mcp_sync that an input reaches, on whichever thread."""
    reached: set[tuple[str, int]] = set()
    ours = str(ROOT / "mcp_sync") + os.sep

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(ours):
            return None
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        target.function(data)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    return reached


def try_input(name: str, path: str) -> None:
    """Give one input to a target; raises what that raises."""
    from fuzz.targets import TARGETS

    TARGETS[name].function(Path(path).read_bytes())
    print(f"{name} finds nothing wrong with {path}")


def _arguments(argv: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", action="append", help="what to fuzz; may be there more than once; else everything")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--input", help="try one input, and nothing else")
    parser.add_argument("--keep", action="store_true", help="put what is new into the corpus")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--found", type=Path, default=FOUND, help="where to keep what is found; default: %(default)s")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    global FOUND
    given = _arguments(argv)
    FOUND = given.found.resolve()
    seed = given.seed or int.from_bytes(os.urandom(3), "big") + 1
    if given.here:
        return fuzz(given.target[0], given.seconds, seed)
    from fuzz.targets import TARGETS

    names = given.target or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        print(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if given.list:
        for target in TARGETS.values():
            print(f"{target.name:20} {(target.function.__doc__ or '').splitlines()[0]}")
        return 0
    if given.input:
        try_input(names[0], given.input)
        return 0
    print(f"by {'atheris' if has_atheris() else 'hypothesis'}, seed {seed}, {given.seconds} s each", flush=True)
    failed = fuzz_all(names, given.seconds, seed)
    if given.keep and not failed:
        for path in (path for name in names for path in keep(name)):
            print(f"kept: {path}")
    print(f"failed: {', '.join(failed)}" if failed else "nothing was found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
