"""The one file that runs in guests: self-contained, for old Pythons, with few imports."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from banger.guest import bundle
from banger.guest.bundle import agent_bytecode, agent_source


def test_it_imports_only_what_every_python_has_built_in() -> None:
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(agent_source()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }

    assert imported == {
        *("__future__", "_signal", "_socket", "fcntl", "posix", "pwd", "select", "sys", "time"),
    }


def test_it_is_in_the_language_of_python_3_9() -> None:
    ast.parse(agent_source(), feature_version=(3, 9))


def test_it_is_the_same_every_time() -> None:
    assert agent_source() == agent_source()
    assert agent_bytecode(agent_source()) == agent_bytecode(agent_source())


def test_an_interpreter_of_this_version_takes_the_bytecode_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("raise SystemExit('compiled from source')")
    name, code = agent_bytecode("print(__doc__, 'from bytecode')")
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(code)
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import agent",
    ]
    done = subprocess.run(argv, capture_output=True, check=True)

    assert done.stdout == b"None from bytecode\n"
    assert code.startswith(importlib.util.MAGIC_NUMBER)


def test_two_modules_must_not_name_the_same_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"one": "def name() -> None: ...", "two": "name: int = 1"}
    with pytest.raises(ValueError, match="name is both in one and in two"):
        bundle._check_names(sources)
