"""Many at once, and no room left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from tests.e2e.harness import Banger, eventually, short_directory, state_of

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


@contextmanager
def cramped_installation(images: Path, templates: str) -> Iterator[Banger]:
    """So small a file system that there is soon no room."""
    with short_directory() as home, ExitStack() as mounts:
        state = home / "state"
        _mount(mounts, state, "-t", "tmpfs", "-o", "size=768m,mode=0700", "tmpfs")
        for kind in ("images", "kernels"):
            _mount(mounts, state / kind, "--bind", str(images / kind))

        limits = f'[limits]\ntemplates_size = "{templates}"\nstandby = false\n'
        (home / "config.toml").write_text(limits)
        banger = Banger(home)
        yield banger
        assert banger.close() == []


@pytest.fixture(scope="module")
def cramped(images: Path) -> Iterator[Banger]:
    """One VM that runs."""
    with cramped_installation(images, "0") as banger:
        banger.ok("vm", "create", "--name", "dev", "--memory", "256M")
        banger.ok("vm", "exec", "dev", "--", "sh", "-c", "echo precious > /root/file; sync")
        yield banger


@pytest.fixture(scope="module")
def bare(images: Path) -> Iterator[Banger]:
    """Nothing yet."""
    with cramped_installation(images, "1G") as banger:
        yield banger


def _fails_for_want_of_room(banger: Banger, place: str, command: tuple[str, ...]) -> None:
    """Run `command`; the disk is full from `place` on, and has room again afterwards."""
    banger.run("daemon", "stop")
    banger.env["BANGER_FAULT"] = f"{place}:stop"
    daemon = banger.daemon_pid()
    with banger.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        eventually(lambda: state_of(daemon) == "T", "the daemon stands still")
        ballast = _fill(banger.state_dir)
        os.kill(daemon, signal.SIGCONT)
        _, complaint = asked.communicate(timeout=240)

    ballast.unlink()
    banger.ok("daemon", "stop")
    del banger.env["BANGER_FAULT"]
    assert asked.returncode != 0
    assert b"no space left" in complaint or b"disk space" in complaint, complaint
    assert b"Traceback" not in complaint


@pytest.mark.parametrize("step", ["save", "convert", "disks"])
def test_a_disk_that_fills_while_a_template_is_made_costs_that_template_alone(
    bare: Banger, step: str
) -> None:
    _fails_for_want_of_room(bare, f"template:{step}", ("template", "make", "--memory", "256M"))

    assert bare.json("template", "list") == []
    eventually(lambda: not bare.vmms(), "its VMM is gone")
    bare.ok("gc")
    assert list((bare.state_dir / "templates").glob("*")) == []
    assert list((bare.state_dir / "disks").glob("*")) == []
    assert not list(bare.state_dir.rglob("*.part"))


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("snapshot:disks", ("vm", "snapshot", "create", "dev", "doomed")),
        ("snapshot:save", ("vm", "snapshot", "create", "dev", "doomed")),
        ("snapshot:keep memory", ("vm", "snapshot", "create", "dev", "doomed")),
        ("fork:save", ("vm", "fork", "dev", "--count", "2")),
        ("fork:keep memory", ("vm", "fork", "dev", "--count", "2")),
        ("start:initrd", ("vm", "fork", "dev", "--count", "2")),
        ("suspend:save", ("vm", "suspend", "dev")),
        ("suspend:keep memory", ("vm", "suspend", "dev")),
    ],
)
def test_a_disk_that_fills_while_a_moment_is_kept_costs_that_moment_alone(
    cramped: Banger, place: str, command: tuple[str, ...]
) -> None:
    _fails_for_want_of_room(cramped, place, command)

    eventually(lambda: cramped.vm("dev")["state"] == "running", "the VM runs on")
    assert cramped.ok("vm", "exec", "dev", "--", "cat", "/root/file") == "precious"
    assert [vm["name"] for vm in cramped.json("vm", "list")] == ["dev"]
    assert cramped.json("vm", "snapshot", "list") == []
    cramped.ok("gc")
    assert list((cramped.state_dir / "snapshots").glob("*")) == []
    assert not list(cramped.state_dir.rglob("*.part"))
