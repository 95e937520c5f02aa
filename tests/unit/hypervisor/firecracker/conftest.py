"""The real Firecracker, up to where it would need KVM."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.hypervisor.base import Disk, LaunchPlan, TapNic


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory short enough for sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="bf-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def plan(home: Path) -> LaunchPlan:
    """A VM whose root disk is a device and whose work disk is a file."""
    (home / "run").mkdir()
    return LaunchPlan(
        vm_id="0123456789ab",
        name="dev",
        vcpus=2,
        memory=256 << 20,
        kernel=home / "vmlinux",
        initrd=home / "initrd",
        cmdline="console=ttyS0 quiet",
        disks=(
            Disk(serial="root", path=home / "cow", format="raw", device="fc-rootfs-0123456789ab"),
            Disk(serial="work", path=home / "work", format="raw"),
        ),
        nic=TapNic(mac="06:00:00:00:00:11", tap="tap-fc-1"),
        run_dir=home / "run",
        console_log=home / "console.log",
    )


@pytest.fixture
def vmm(home: Path) -> Iterator[Path]:
    """The run directory of a Firecracker that nothing was asked of yet."""
    place = os.environ.get("BANGER_FIRECRACKER_DIR")
    program = Path(place, "firecracker") if place else shutil.which("firecracker")
    if program is None or not Path(program).exists():
        pytest.skip("needs firecracker: set BANGER_FIRECRACKER_DIR")

    api = home / "api.sock"
    process = subprocess.Popen(
        [program, "--api-sock", api], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not _listens(api):
        assert process.poll() is None
        time.sleep(0.005)

    yield home
    process.kill()
    process.wait()


def _listens(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(str(path)) == 0
