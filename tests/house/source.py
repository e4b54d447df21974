"""The modules of mcp_sync as the laws read them: parsed, never imported."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "mcp_sync"


@dataclass(frozen=True)
class Import:
    """One imported name: `from a.b import c` is a.b.c, whether c is a module or a value."""

    target: str
    line: int
    typing_only: bool  # under `if TYPE_CHECKING:`

    @property
    def top(self) -> str:
        """The distribution's side of the name: `concurrent` of concurrent.futures."""
        return self.target.partition(".")[0]

    @property
    def is_third_party(self) -> bool:
        """Neither of the standard library nor ours."""
        return self.top not in sys.stdlib_module_names and self.top != PACKAGE


@dataclass(frozen=True)
class Module:
    """One parsed file of the package."""

    name: str  # mcp_sync.engine.peer
    file: str  # mcp_sync/engine/peer.py
    text: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, self.file)

    @property
    def room(self) -> str:
        """The folder (or top-level module) it belongs to; "" for mcp_sync/__init__.py."""
        return self.name.split(".")[1] if "." in self.name else ""

    @cached_property
    def imports(self) -> list[Import]:
        """Every import, wherever it stands: in functions, under conditions, by import_module("...")."""
        return list(self._imports_in(self.tree, False))

    @cached_property
    def calls(self) -> list[ast.Call]:
        """Every call."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        """Every class, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    @cached_property
    def comments(self) -> dict[int, str]:
        """The comment of each line that has one."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    def at(self, line: int) -> str:
        """Where, as an editor understands it."""
        return f"{self.file}:{line}"

    def meaning(self, expression: ast.expr) -> str:
        """The full dotted name that an expression stands for: `t.Lock` after `import threading as t`."""
        if isinstance(expression, ast.Subscript):
            return self.meaning(expression.value)
        if isinstance(expression, ast.Attribute):
            return f"{self.meaning(expression.value)}.{expression.attr}"
        if isinstance(expression, ast.Name):
            return self._aliases.get(expression.id, expression.id)
        return ""

    @cached_property
    def _aliases(self) -> dict[str, str]:
        known = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                known.update({name.asname or name.name: f"{node.module}.{name.name}" for name in node.names})
            elif isinstance(node, ast.Import):
                known.update({name.asname: name.name for name in node.names if name.asname})
        return known

    def _imports_in(self, node: ast.AST, typing_only: bool) -> Iterator[Import]:
        for target in self._targets(node):
            yield Import(target, getattr(node, "lineno", 0), typing_only)
        for child, child_typing_only in self._children(node, typing_only):
            yield from self._imports_in(child, child_typing_only)

    def _children(self, node: ast.AST, typing_only: bool) -> Iterator[tuple[ast.AST, bool]]:
        condition = _typing_condition(node)
        if not isinstance(node, ast.If) or condition is None:
            yield from ((child, typing_only) for child in ast.iter_child_nodes(node))
            return
        yield from ((child, condition or typing_only) for child in node.body)
        yield from ((child, not condition or typing_only) for child in node.orelse)

    def _targets(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [name.name for name in node.names]
        if isinstance(node, ast.ImportFrom):
            start = self._absolute(node.level, node.module or "")
            return [f"{start}.{name.name}" for name in node.names]
        if isinstance(node, ast.Call) and self.meaning(node.func) in {"importlib.import_module", "__import__"}:
            return self._named_in(node)
        return []

    def _named_in(self, call: ast.Call) -> list[str]:
        first = call.args[0] if call.args else None
        if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
            return []  # a computed name: not for us to know
        name = first.value.lstrip(".")
        return [self._absolute(len(first.value) - len(name), name)]

    def _absolute(self, level: int, module: str) -> str:
        if not level:
            return module
        parts = self.name.split(".")
        parents = parts[: len(parts) - level + self.is_package]
        return ".".join([*parents, module] if module else parents)


def modules(root: Path) -> list[Module]:
    """All modules of the package that lies in `root`."""
    return [_module(root, path) for path in sorted((root / PACKAGE).rglob("*.py"))]


def _module(root: Path, path: Path) -> Module:
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name, path.relative_to(root).as_posix(), path.read_text("utf-8"), is_package)


def _typing_condition(node: ast.AST) -> bool | None:
    """True for `if TYPE_CHECKING:`, False for `if not TYPE_CHECKING:`, None for anything else."""
    if not isinstance(node, ast.If):
        return None
    if isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
        return False if _is_type_checking(node.test.operand) else None
    return True if _is_type_checking(node.test) else None


def _is_type_checking(expression: ast.expr) -> bool:
    if isinstance(expression, ast.Attribute):
        return expression.attr == "TYPE_CHECKING"
    return isinstance(expression, ast.Name) and expression.id == "TYPE_CHECKING"
