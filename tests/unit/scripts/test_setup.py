"""`scripts/quickstart` on machines where it cannot work: one clear line, and what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DEBIAN = 'ID=debian\nVERSION_ID="12"\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the scripts, so that logs and locks are this test's own."""
    shutil.copytree(ROOT / "scripts", tmp_path / "clone" / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "clone")
    (tmp_path / "bin").mkdir()
    pretend(tmp_path / "clone", "os-release", DEBIAN)
    return tmp_path / "clone"


def pretend(clone: Path, program: str, script: str) -> None:
    """Put a stand-in for `program` before the real one; the text alone for `os-release`."""
    path = clone.parent / "bin" / program
    path.write_text(script if program == "os-release" else f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def quickstart(clone: Path, *args: str, path: str = "/usr/bin:/bin") -> tuple[int, list[str]]:
    """Its exit status and what it said last: the complaint and its hint."""
    done = subprocess.run(
        [clone / "scripts/quickstart", *args],
        env={
            "PATH": f"{clone.parent / 'bin'}:{path}",
            "HOME": str(clone.parent),
            "BANGER_OS_RELEASE": str(clone.parent / "bin" / "os-release"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("==>", "    "))]
    return done.returncode, lines


def missing_packages(clone: Path) -> None:
    pretend(clone, "dpkg-query", "exit 1")


def test_another_operating_system_is_named(clone: Path) -> None:
    pretend(clone, "uname", 'test "$1" = -s && echo Darwin || echo x86_64')

    status, lines = quickstart(clone)

    assert status == 1
    assert lines == ["quickstart: banger runs on Linux, this is Darwin"]


def test_another_architecture_is_named(clone: Path) -> None:
    pretend(clone, "uname", 'test "$1" = -s && echo Linux || echo aarch64')

    status, lines = quickstart(clone)

    assert status == 1
    assert lines == ["quickstart: banger runs on x86_64, this is aarch64"]


def test_another_distribution_is_named(clone: Path) -> None:
    pretend(clone, "os-release", "ID=fedora\nVERSION_ID=40\n")

    status, lines = quickstart(clone)

    assert status == 1
    assert lines[0] == "quickstart: set-up knows Debian and Ubuntu, this is fedora"
    assert lines[1].startswith("  hint: ")


@pytest.mark.parametrize(
    "text", ["ID=ubuntu\nID_LIKE=debian\n", 'ID=linuxmint\nID_LIKE="ubuntu debian"\n']
)
def test_descendants_of_debian_are_known(clone: Path, text: str) -> None:
    pretend(clone, "os-release", text)
    missing_packages(clone)
    pretend(clone, "df", "echo Avail; echo 1024")

    _status, lines = quickstart(clone)

    assert "installing packages needs" in lines[0]


def test_a_full_disk_is_named_before_anything_is_installed(clone: Path) -> None:
    missing_packages(clone)
    pretend(clone, "id", "echo 0")
    pretend(clone, "df", "echo Avail; echo 1024")
    pretend(clone, "apt-get", "echo installed >> $HOME/apt-ran")

    status, lines = quickstart(clone)

    assert status == 1
    assert lines[0].startswith("quickstart: installing packages needs 1500 MiB in /usr, only 1 MiB")
    assert not (clone.parent / "apt-ran").exists()


def test_no_network_is_named(clone: Path) -> None:
    missing_packages(clone)
    pretend(clone, "id", "echo 0")
    pretend(clone, "apt-get", "echo \"E: Temporary failure resolving 'mirror'\" >&2; exit 100")

    status, lines = quickstart(clone)

    assert status == 1
    assert lines[0] == "quickstart: no network: the package servers cannot be reached"


def test_another_failure_of_apt_is_passed_on_in_one_line(clone: Path) -> None:
    missing_packages(clone)
    pretend(clone, "id", "echo 0")
    pretend(clone, "apt-get", "echo 'E: Unmet dependencies.' >&2; exit 100")

    status, lines = quickstart(clone)

    assert status == 1
    assert lines[0].endswith("failed: Unmet dependencies.")
    assert len(lines) == 2


def test_a_user_without_sudo_is_told_what_root_should_install(clone: Path) -> None:
    missing_packages(clone)
    pretend(clone, "id", "echo 1000")
    bare = clone.parent / "bare"
    bare.mkdir()
    for tool in (
        "bash",
        "env",
        "dirname",
        "basename",
        "mkdir",
        "flock",
        "uname",
        "sed",
        "tr",
        "grep",
    ):
        (bare / tool).symlink_to(f"/usr/bin/{tool}")

    status, lines = quickstart(clone, path=str(bare))

    assert status == 1
    assert "only root may install" in lines[0]
    assert "apt-get install" in lines[1]


def test_sudo_that_wants_a_password_is_not_asked_without_a_terminal(clone: Path) -> None:
    missing_packages(clone)
    pretend(clone, "id", "echo 1000")
    pretend(clone, "sudo", "exit 1")

    status, lines = quickstart(clone)

    assert status == 1
    assert "sudo wants a password" in lines[0]


def test_an_old_python_is_named(clone: Path) -> None:
    pretend(clone, "dpkg-query", "echo installed")
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        pretend(clone, name, 'test "$1" = -V && echo Python 3.10.2 && exit; exit 1')

    pretend(clone, "apt-cache", "exit 0")
    library = clone / "scripts/lib.sh"
    library.write_text(library.read_text().replace("/usr/bin/python3", "/nonexistent"))

    status, lines = quickstart(clone)

    assert status == 1
    assert lines[0] == "quickstart: Python 3.11 or newer is needed, this system has Python 3.10.2"


def test_arguments_are_refused_and_help_is_given(clone: Path) -> None:
    assert quickstart(clone, "--fast")[0] == 1
    assert quickstart(clone, "--help") == (0, [])
