"""`./scripts/quickstart`, for real: as whoever runs the tests, and as an ordinary user."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator

import psutil
import pytest
from tests.e2e.harness import REPOSITORY, Banger

USER = "banger-e2e"


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    """A new user of this machine, with a home; removed with everything it runs."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user")

    _discard()
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", USER], check=True)
    try:
        yield pwd.getpwnam(USER)
    finally:
        _discard()


def _discard() -> None:
    """Remove the user; `userdel` refuses while one of its processes lives."""
    try:
        uid = pwd.getpwnam(USER).pw_uid
    except KeyError:
        return

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.uids().real == uid:
                process.kill()

    subprocess.run(["userdel", "--remove", "--force", USER], check=True, capture_output=True)


def _as(user: pwd.struct_passwd, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["su", "--login", user.pw_name, "--command", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
    )


def test_quickstart_ends_with_what_the_guest_said(banger: Banger) -> None:
    done = subprocess.run(
        [REPOSITORY / "scripts/quickstart"],
        env=banger.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert done.returncode == 0, done.stderr
    (answer,) = done.stdout.splitlines()
    assert answer.startswith("Linux ")
    assert "Debian" in answer
    assert "banger vm run" in done.stderr
    assert banger.leftovers() == []


@pytest.mark.slow
def test_quickstart_works_without_privileges_and_again_in_seconds(
    user: pwd.struct_passwd,
) -> None:
    clone = f"{user.pw_dir}/banger"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True,
    ).stdout  # fmt: skip
    packed = subprocess.run(
        ["tar", "--null", "--files-from=-", "-cf", "-"],
        cwd=REPOSITORY, input=files, capture_output=True, check=True,
    ).stdout  # fmt: skip
    subprocess.run(["mkdir", clone], check=True)
    subprocess.run(["tar", "-xf", "-", "-C", clone], input=packed, check=True)
    subprocess.run(["chown", "-R", USER, clone], check=True)

    first = _as(user, f"cd {clone} && ./scripts/quickstart")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Linux ")
    assert "Debian" in first.stdout

    again = _as(user, f"cd {clone} && ./scripts/quickstart")
    assert again.returncode == 0, again.stderr
    assert "Installing" not in again.stderr
    assert "Building" not in again.stderr

    run = _as(user, f"{clone}/.venv/bin/banger vm run --rm -- sh -c 'id -u; exit 42'")
    assert (run.returncode, run.stdout) == (42, "0\n"), run.stderr
    assert _as(user, f"{clone}/.venv/bin/banger vm list --json").stdout.strip() == "[]"
    assert _as(user, f"{clone}/.venv/bin/banger daemon stop").returncode == 0
