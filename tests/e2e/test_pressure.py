"""Many at once, and no room left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.e2e.harness import Banger, short_directory

PARALLEL = 64


def test_sixty_four_creations_at_once_get_names_ports_and_addresses_of_their_own(
    banger: Banger,
) -> None:
    banger.ok("daemon", "start")
    with ThreadPoolExecutor(PARALLEL) as pool:
        outcomes = list(
            pool.map(lambda _: banger.run("vm", "create", "--no-start"), range(PARALLEL))
        )

    assert [outcome for outcome in outcomes if outcome.status != 0] == []
    vms = banger.json("vm", "list")
    for field in ("id", "name", "ssh_port", "address"):
        assert len({vm[field] for vm in vms}) == PARALLEL, field

    banger.ok("vm", "delete", *[vm["name"] for vm in vms])
    assert banger.leftovers() == []


def test_one_daemon_serves_first_commands_that_come_at_once(banger: Banger) -> None:
    with ThreadPoolExecutor(16) as pool:
        pids = set(pool.map(lambda _: banger.daemon_pid(), range(16)))

    assert len(pids) == 1


@pytest.fixture
def small(images: Path) -> Iterator[Banger]:
    """An installation whose state, but for its images, is on a file system of 192 MiB."""
    with short_directory() as home, ExitStack() as mounts:
        state = home / "state"
        _mount(mounts, state, "-t", "tmpfs", "-o", "size=192m,mode=0700", "tmpfs")
        for kind in ("images", "kernels"):
            _mount(mounts, state / kind, "--bind", str(images / kind))

        banger = Banger(home)
        yield banger
        assert banger.close() == []


def _mount(mounts: ExitStack, directory: Path, *options: str) -> None:
    directory.mkdir(mode=0o700)
    done = subprocess.run(["mount", *options, directory], capture_output=True)
    if done.returncode != 0:
        pytest.skip("this container may not mount anything")

    mounts.callback(lambda: subprocess.run(["umount", "--lazy", directory], check=True))


def _fill(directory: Path) -> Path:
    """Use up every byte of a file system; deleting the returned file gives them back."""
    ballast = directory / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(descriptor, bytes(65536)):
            pass

    with suppress(OSError):
        while os.write(descriptor, bytes(512)):
            pass

    os.close(descriptor)
    return ballast


def test_a_disk_that_fills_while_a_vm_runs_corrupts_nothing(small: Banger) -> None:
    small.ok("vm", "create", "--name", "full")
    small.sh("full", "echo precious > /root/file; sync")
    ballast = _fill(small.state_dir)

    refused = small.run("vm", "create", "--no-start", "--name", "second")
    assert refused.status != 0
    assert "Traceback" not in refused.complaint
    with suppress(subprocess.TimeoutExpired):
        small.run(
            "vm", "ssh", "full", "--", "timeout", "10", "dd", "if=/dev/zero", "of=/root/big",
            timeout=30,
        )  # fmt: skip

    small.ok("vm", "stop", "full")
    ballast.unlink()
    small.ok("vm", "start", "full")
    assert small.sh("full", "cat /root/file") == "precious"

    _fill(small.state_dir)
    small.ok("vm", "delete", "full")
    (small.state_dir / "ballast").unlink()
    assert small.json("vm", "list") == []
