"""What one command costs from the shell: `banger vm list`, with few and with many VMs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.harness import PROGRAM, Banger, short_directory

from banger.api.models import VMSpec, VMState
from banger.daemon.store import Store
from banger.daemon.store.rows import DiskFile, Handles, Layers, VMRow
from bench.measure import Bar, Measurement, Report, alternate, stopwatch

ROWS = 1000
COMMAND_LIMIT = 8.0
GROWTH_LIMIT = 2.0
GIB = 1 << 30


def command_latency(runs: int) -> Report:
    """The whole command against a bare interpreter, and 1,000 VMs against none."""
    with ExitStack() as stack:
        empty = Banger(stack.enter_context(short_directory()))
        full = Banger(stack.enter_context(short_directory()))
        asyncio.run(_populate(full))
        for banger in (empty, full):
            stack.callback(banger.run, "daemon", "stop")

        assert len(full.json("vm", "list")) == ROWS
        found = alternate(
            runs * 5,
            "s",
            {
                "python3 -c pass": _command([sys.executable, "-c", "pass"]),
                "banger vm list, empty": _command([str(PROGRAM), "vm", "list"], empty),
                f"banger vm list, {ROWS:,} VMs": _command([str(PROGRAM), "vm", "list"], full),
            },
        )

    bare, few, many = found.values()
    return Report(
        "Command latency",
        tuple(found.values()),
        (
            Bar("empty list / bare python", few.median / bare.median, COMMAND_LIMIT),
            Bar(f"{ROWS:,} VMs / empty list", many.median / few.median, GROWTH_LIMIT),
        ),
    )


def _command(argv: list[str], banger: Banger | None = None) -> Measurement:
    env = banger.env if banger else None

    def measure() -> float:
        with stopwatch() as elapsed:
            subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, check=True)
            return elapsed()

    return measure


async def _populate(banger: Banger) -> None:
    """Write stopped VMs straight into the store: making a thousand pairs of disks is not timed."""
    banger.ok("daemon", "start")
    banger.ok("daemon", "stop")
    store = await Store.open(banger.state_dir / "state.db")
    try:
        for number in range(ROWS):
            await store.insert_vm(_row(banger.state_dir, banger.run_dir, number), [])
    finally:
        await store.close()


def _row(state: Path, run: Path, number: int) -> VMRow:
    vm_id = f"{number:012x}"
    return VMRow(
        id=vm_id,
        name=f"vm-{number}",
        state=VMState.STOPPED,
        spec=VMSpec(image="none", vcpus=2, memory=GIB, root_size=8 * GIB, disk_size=8 * GIB),
        image_id="none",
        kernel_id="none",
        handles=Handles(
            vm_dir=str(state / "vms" / vm_id),
            run_dir=str(run / "vm" / vm_id),
            address=f"10.213.{number // 200 + 1}.{number % 200 + 1}",
            mac="02:00:00:00:00:00",
            ssh_port=20000 + number,
            disks=Layers(
                root=DiskFile(path=str(state / "disks" / f"{vm_id}.qcow2"), format="qcow2"),
                work=DiskFile(path=str(state / "disks" / f"{vm_id}.raw"), format="raw"),
            ),
        ),
        created_at=time.time(),
        updated_at=time.time(),
    )
