"""A control group for each VMM, made by systemd, to which the hierarchy belongs.

As a scope it is no part of the helper's own unit: restarting that touches no VM, and its limits are
not theirs. It is gone when the VMM is.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from banger.privileged.faults import failed
from banger.privileged.ops import Limits
from banger.privileged.run import run

SLICE = "banger.slice"
GUESTS = "banger-guests.service"
"""What asks the guests to end when the host does; see `install/units.py`."""

_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
_INTERFACE = "org.freedesktop.systemd1.Manager"
_SECONDS = 10.0
_POLL_SECONDS = 0.002


def confine(jail: str, pid: int, limits: Limits | None) -> None:
    """Put process `pid` into a scope of its own, with `limits` if there are any.

    Raises Fault(failed), also when the process ends meanwhile.
    """
    # sd_booted(3)
    if not os.path.isdir("/run/systemd/system"):  # noqa: PTH112
        if limits is None:
            return

        raise failed("limits need systemd, which this host does not run")

    run(command(jail, pid, limits))
    # systemd answers when it has taken the job, not when it has done it.
    deadline = time.monotonic() + _SECONDS
    while not (group := _group(pid)).endswith(f"/{_unit(jail)}"):
        if not group or time.monotonic() > deadline:
            raise failed(f"systemd did not make {_unit(jail)} within {_SECONDS:g} s")

        time.sleep(_POLL_SECONDS)


def command(jail: str, pid: int, limits: Limits | None) -> list[str]:
    """StartTransientUnit of org.freedesktop.systemd1(5), as busctl(1) takes it."""
    properties: list[tuple[str, ...]] = [
        ("Description", "s", f"banger VMM {jail}"),
        ("Slice", "s", SLICE),
        ("PIDs", "au", "1", str(pid)),
        *_bounds(limits),
        # Units stop in the reverse of the order in which they start: first the guests are asked.
        # What is left then takes no other signal, as the first process of its pid namespace.
        ("Before", "as", "1", GUESTS),
        ("After", "as", "1", "local-fs.target"),
        ("KillSignal", "i", "9"),
        ("CollectMode", "s", "inactive-or-failed"),
    ]
    return [
        *("busctl", "--quiet", "call", *_MANAGER, _INTERFACE, "StartTransientUnit"),
        *("ssa(sv)a(sa(sv))", _unit(jail), "fail"),
        *(str(len(properties)), *(word for entry in properties for word in entry)),
        "0",
    ]


def _bounds(limits: Limits | None) -> list[tuple[str, str, str]]:
    if limits is None:
        return []

    return [
        ("MemoryMax", "t", str(limits.memory)),
        ("MemorySwapMax", "t", "0"),
        ("CPUQuotaPerSecUSec", "t", str(limits.cpu_percent * 10_000)),
        ("TasksMax", "t", str(limits.tasks)),
        ("CPUWeight", "t", str(limits.cpu_weight)),
    ]


def _unit(jail: str) -> str:
    return f"banger-vm-{jail}.scope"


def _group(pid: int) -> str:
    """The control group of process `pid` in the unified hierarchy; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # cgroups(7): hierarchy 0 is version 2's.
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
