"""The rules of the house as tests: linters, types, shell scripts, sizes, documents that agree."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import banger
from banger.api.errors import ErrorCode

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src/banger").rglob("*.py"))
PYTHON = [
    path for folder in ("src", "tests", "bench", "smoke") for path in (ROOT / folder).rglob("*.py")
]
SCRIPTS = [
    "scripts/quickstart",
    "scripts/test",
    "scripts/fetch-firecracker",
    "scripts/lib.sh",
    ".ci/run",
    "bench/run",
    "smoke/run",
    "smoke/host.sh",
    "smoke/inside/census.sh",
]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SPEC.md", "COMPATIBILITY.md"]
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 100


def check(*argv: str | Path) -> None:
    """Run a linter in the repository; show what it says when it objects."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def test_ruff_has_no_complaint() -> None:
    check(tool("ruff"), "check", ".")


def test_everything_is_formatted() -> None:
    check(tool("ruff"), "format", "--check", ".")


def test_types_are_sound() -> None:
    check(tool("mypy"))


def test_layers_are_kept() -> None:
    check(tool("lint-imports"))


def test_shell_scripts_are_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")

    check("shellcheck", "-x", *SCRIPTS)


@pytest.mark.parametrize("path", sorted(PYTHON), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]

    assert text.count("\n") <= MAX_FILE_LINES
    assert long == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_stands_for_nothing(path: Path) -> None:
    named = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]

    assert [name for name in named if re.search(r"Manager|Helper|Util|Impl$", name)] == []
    assert "util" not in path.stem


def test_no_todo_is_left() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX)\b")

    assert [path for path in SOURCES if marker.search(path.read_text())] == []


def test_a_broad_except_gives_its_reason() -> None:
    bare = re.compile(r"except (Exception|BaseException)[^#]*:\s*$|except:\s*$", re.MULTILINE)
    unexplained = []
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if bare.search(line) and not _explained(lines, number):
                unexplained.append(f"{path.relative_to(ROOT)}:{number + 1}")

    assert unexplained == []


def _explained(lines: list[str], number: int) -> bool:
    """A reason is a comment beside it, or a bare `raise` that lets the error go on."""
    following = []
    indent = len(lines[number]) - len(lines[number].lstrip())
    for line in lines[number + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break

        following.append(line.strip())

    around = [lines[number - 1].strip(), *following]
    return "raise" in following or any(line.startswith("#") for line in around)


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()

    assert [code for code in ErrorCode if f"`{code}`" not in text] == []


def test_every_promise_names_what_enforces_it() -> None:
    text = (ROOT / "SPEC.md").read_text()
    named = set(re.findall(r"`((?:tests|bench)/[\w/.]+?)(?:::(\w+))?`", text))

    assert named
    for name, function in named:
        path = ROOT / name
        assert path.exists(), name
        assert not function or re.search(rf"def {function}\b", path.read_text()), (
            f"{name}::{function}"
        )


@pytest.mark.parametrize("name", [*DOCUMENTS, "docs/architecture.md", "docs/state.md"])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    document = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_version_is_the_changelogs_newest() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest is not None
    assert newest[1] == banger.__version__


def test_what_the_scripts_install_is_what_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert project["project"]["requires-python"] == ">=3.11"
    assert "(3, 11)" in (ROOT / "scripts/lib.sh").read_text()
