"""Ctrl-C at every point at which the interpreter lets a signal in, one after the other.

CPython looks for signals when a function begins, after each call and when a loop jumps back; nowhere else. So an action
is run again and again, with an interrupt at the first of these points, the second and so on, until it comes through.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

AFTER = {"CALL", "CALL_FUNCTION", "CALL_FUNCTION_EX", "CALL_FUNCTION_KW", "CALL_KW", "CALL_METHOD"}
BEFORE = {"JUMP_ABSOLUTE", "JUMP_BACKWARD"}
NOWHERE = (__file__, "weakref.py", "_weakrefset.py")
"""Code that is ours, or that nobody called who could be interrupted: what is raised in it goes nowhere."""
MOST = 3000
"""Points in one action."""

_names: dict[CodeType, dict[int, str]] = {}


def _name_at(code: CodeType, offset: int) -> str:
    if code not in _names:
        _names[code] = {each.offset: each.opname for each in dis.get_instructions(code)}
    return _names[code].get(offset, "")


class _Tracer:
    """Counts the points that the calling thread passes, and interrupts at one."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._last: dict[FrameType, str] = {}
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            self._pass(frame)
        elif event == "opcode":
            name = _name_at(frame.f_code, frame.f_lasti)
            if self._last.get(frame) in AFTER or name in BEFORE:
                self._pass(frame)
            self._last[frame] = name
        return self

    def _pass(self, frame: FrameType) -> None:
        if self.where or frame.f_code.co_filename.endswith(NOWHERE):
            return
        self._left -= 1
        if self._left < 0:
            self.where = f"{frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name}"
            self.where += f", line {frame.f_lineno} of {frame.f_code.co_filename}"
            raise KeyboardInterrupt


def interrupted_at(action: Callable[[], object], at: int) -> str:
    """Interrupt the action at one point; return where that was, or nothing if it has no such point."""
    tracer = _Tracer(at)
    before = sys.gettrace()
    try:
        sys.settrace(tracer)
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return tracer.where


def interrupted(begin: Callable[[], Callable[[], object]], every: int = 1) -> Iterator[str]:
    """Interrupt what ``begin`` returns at each point, or at one of so many; yield where after each time."""
    for at in range(0, MOST, every):
        where = interrupted_at(begin(), at)
        if not where:
            return
        yield where
    raise AssertionError(f"more than {MOST} points")
