"""Joins the modules of banger.guest.agent into the one file that runs in a guest.

Each module's own docstring and its imports are left out; the imports of the standard library are
collected at the top. What remains is the source as it was written.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import re
import sys
from importlib import resources
from importlib.resources.abc import Traversable

_PACKAGE = "banger.guest.agent"
# Each after those whose names it uses while it is being loaded.
_ORDER = (
    "system",
    "wire",
    "fields",
    "text",
    "loop",
    "port",
    "resuming",
    "process",
    "programs",
    "archive",
    "files",
    "waiting",
    "status",
    "identity",
    "ending",
    "main",
)
_DIRECTORY = "/run/banger"


def agent_source() -> str:
    """The agent as one self-contained program for Python 3.9 or later.

    Raises ValueError when two modules name the same thing, since they would share a namespace.
    """
    folder = resources.files(_PACKAGE)
    trees = {name: _source(folder / f"{name}.py") for name in _ORDER}
    imports = sorted({line for source in trees.values() for line in _library_imports(source)})
    _check_names(trees)
    head = [f'"""{ast.get_docstring(ast.parse(_source(folder / "__init__.py")))}\n"""']
    head += ["from __future__ import annotations", "\n".join(imports), "TYPE_CHECKING = False"]
    return "\n\n".join([*head, *(_body(source) for source in trees.values())]) + "\n"


def agent_bytecode(source: str) -> tuple[str, bytes]:
    """The name and the content of a .pyc of `source` for interpreters like this one (PEP 552).

    A guest of the same Python version need not compile the agent, which while it boots takes
    longer than everything else the agent does. Other versions ignore the file.
    """
    code = compile(source, f"{_DIRECTORY}/agent.py", "exec", dont_inherit=True, optimize=2)
    # Flags 0b01: checked against nothing; the hash is then of no consequence.
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    return f"__pycache__/agent.{sys.implementation.cache_tag}.pyc", header + marshal.dumps(code)


def _source(file: Traversable) -> str:
    return file.read_text(encoding="utf-8")


def _library_imports(source: str) -> list[str]:
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom) and not _is_own(node):
            found += lines[node.lineno - 1 : node.end_lineno]

    return found


def _is_own(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
        (_PACKAGE, "__future__")
    )


def _is_typing(node: ast.stmt) -> bool:
    names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
    condition = node.test if isinstance(node, ast.If) else None
    return names == ["TYPE_CHECKING"] or (
        isinstance(condition, ast.Name) and condition.id == "TYPE_CHECKING"
    )


def _body(source: str) -> str:
    lines = source.splitlines()
    for index, node in enumerate(ast.parse(source).body):
        docstring = index == 0 and isinstance(node, ast.Expr)
        if docstring or isinstance(node, ast.Import | ast.ImportFrom) or _is_typing(node):
            assert node.end_lineno is not None
            for line in range(node.lineno - 1, node.end_lineno):
                lines[line] = ""

    # Where imports stood there are holes now.
    return re.sub(r"\n{3,}", "\n\n\n", "\n".join(lines)).strip("\n")


def _check_names(sources: dict[str, str]) -> None:
    owner: dict[str, str] = {}
    for module, source in sources.items():
        for name in _names(ast.parse(source)):
            if owner.setdefault(name, module) != module:
                raise ValueError(f"{name} is both in {owner[name]} and in {module}")


def _names(tree: ast.Module) -> list[str]:
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not _is_typing(node):
            variables = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
            names += [part.id for part in variables if isinstance(part.ctx, ast.Store)]

    return names
