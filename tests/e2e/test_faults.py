"""A failure or the daemon's death at any step: rolled back or converged, nothing leaked or lost."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Installer
from tests.e2e.harness import Banger, eventually, installation, state_of

from banger.daemon.paths.embedded import RUN_STEPS
from banger.daemon.vms.create import CREATE_STEPS
from banger.daemon.vms.lifecycle import start_steps

CREATE = [f"create:{step.name}" for step in CREATE_STEPS]
START = [f"start:{step.name}" for step in start_steps(RUN_STEPS)]
STOP = [f"stop:{step.name}" for step in RUN_STEPS]
DELETE = [f"delete:{step.name}" for steps in (RUN_STEPS, CREATE_STEPS) for step in steps]
ENDINGS = ["raise", "kill"]


def places(steps: list[str]) -> list[str]:
    return [f"{place}:{ending}" for place, ending in itertools.product(steps, ENDINGS)]


def faulty(banger: Banger, place: str) -> None:
    """Make the next daemon fail at `place`; the one that runs now is stopped."""
    banger.ok("daemon", "stop")
    banger.env["BANGER_FAULT"] = place


def healthy(banger: Banger) -> None:
    banger.run("daemon", "stop")
    del banger.env["BANGER_FAULT"]


@pytest.mark.parametrize("place", places(CREATE))
def test_a_creation_that_fails_leaves_nothing(install: Installer, place: str) -> None:
    banger = install({"BANGER_FAULT": place})

    outcome = banger.run("vm", "create", "--no-start", "--name", "doomed")

    assert outcome.status != 0
    healthy(banger)
    eventually(lambda: banger.json("vm", "list") == [], "nothing is left")
    assert banger.leftovers() == []
    banger.ok("vm", "create", "--no-start", "--name", "doomed")


@pytest.mark.sweep
@pytest.mark.parametrize("place", places(START))
def test_a_start_that_fails_leaves_a_stopped_vm_that_starts(install: Installer, place: str) -> None:
    banger = install()
    banger.ok("vm", "create", "--no-start", "--name", "doomed")
    faulty(banger, place)

    assert banger.run("vm", "start", "doomed").status != 0

    healthy(banger)
    _settles(banger, "doomed")
    if place.startswith("start:boot"):
        banger.ok("vm", "start", "doomed")


@pytest.fixture(scope="module")
def survivor(images: Path) -> Iterator[Banger]:
    """One VM for all faults of stop: each must leave it startable."""
    with installation(images) as banger:
        banger.ok("vm", "create", "--name", "survivor")
        banger.sh("survivor", "echo precious > /root/file; sync")
        yield banger


@pytest.mark.sweep
@pytest.mark.parametrize("place", places(STOP))
def test_a_stop_that_fails_is_finished_later_and_loses_nothing(
    survivor: Banger, place: str
) -> None:
    survivor.ok("vm", "start", "survivor")
    faulty(survivor, place)

    survivor.run("vm", "stop", "survivor")

    healthy(survivor)
    survivor.ok("vm", "stop", "survivor")
    _settles(survivor, "survivor")
    survivor.ok("vm", "start", "survivor")
    assert survivor.sh("survivor", "cat /root/file") == "precious"


@pytest.mark.parametrize("place", places(DELETE))
def test_a_deletion_that_fails_is_finished_later(install: Installer, place: str) -> None:
    banger = install()
    banger.ok("vm", "create", "--no-start", "--name", "doomed")
    faulty(banger, place)

    banger.run("vm", "delete", "doomed")

    healthy(banger)
    eventually(lambda: banger.json("vm", "list") == [], "the next daemon has deleted it")
    assert banger.leftovers() == []


@pytest.mark.parametrize("place", ["delete:launch:kill", "delete:directory:raise"])
def test_a_deletion_of_a_running_vm_that_fails_is_finished_later(
    install: Installer, place: str
) -> None:
    banger = install()
    banger.ok("vm", "create", "--name", "doomed")
    faulty(banger, place)

    banger.run("vm", "delete", "doomed")

    healthy(banger)
    eventually(lambda: banger.json("vm", "list") == [], "the next daemon has deleted it")
    assert banger.leftovers() == []


def _settles(banger: Banger, name: str) -> None:
    """After a crash the VM is stopped, and nothing of a running one is there."""
    eventually(lambda: banger.vm(name)["state"] == "stopped", "it is stopped")
    assert banger.vmms() == []
    run_files = [path for path in (banger.run_dir / "vm").rglob("*") if not path.is_dir()]
    assert run_files == []


def test_a_stranger_that_takes_the_ssh_port_at_the_last_moment_gets_it(install: Installer) -> None:
    """Another user's daemon chooses from the same ports."""
    banger = install()
    banger.ok("vm", "create", "--no-start", "--name", "dev")
    chosen = banger.vm("dev")["ssh_port"]
    faulty(banger, "start:launch:stop")
    daemon = banger.daemon_pid()
    with (
        banger.start("vm", "start", "dev", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked,
        socket.socket() as stranger,
    ):
        eventually(lambda: state_of(daemon) == "T", "the daemon stands still")
        stranger.bind(("127.0.0.1", chosen))
        stranger.listen()
        os.kill(daemon, signal.SIGCONT)
        _, complaint = asked.communicate(timeout=240)

    assert asked.returncode == 0, complaint
    assert banger.vm("dev")["ssh_port"] != chosen
    assert banger.ok("vm", "ssh", "dev", "--", "hostname") == "dev"
    healthy(banger)
