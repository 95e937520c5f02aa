"""A plan to begin with."""

from __future__ import annotations

from pathlib import Path

from banger.hypervisor.base import LaunchPlan, UserNic


def new_plan(home: Path, kernel: bytes) -> LaunchPlan:
    """A VM with `kernel` that keeps all it has in `home`."""
    run_dir = home / "run"
    run_dir.mkdir(mode=0o700)
    (home / "kernel").write_bytes(kernel)
    (home / "initrd").write_bytes(b"\0" * 4096)
    return LaunchPlan(
        vm_id="0123456789ab",
        name="dev",
        vcpus=1,
        memory=64 << 20,
        kernel=home / "kernel",
        initrd=home / "initrd",
        cmdline="quiet",
        disks=(),
        nic=UserNic(
            mac="52:54:00:12:34:56",
            cidr="10.213.0.0/16",
            gateway="10.213.0.2",
            dns="10.213.0.3",
            address="10.213.0.17",
            egress=False,
        ),
        run_dir=run_dir,
        console_log=home / "console.log",
    )
