"""Why a VMM ended: what its guest said last on the console, or itself in its log.

A guest can end Firecracker by a reset alone, and the kernel says so. Whether it was to be off or to
boot again is said before, by the last program that systemd runs (files/optional/shutdown). Of what
a guest cannot say, what KVM told the VMM is in its log (src/vmm/src/vstate/vcpu.rs of Firecracker).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from banger.hypervisor.base import ExitReason
from banger.hypervisor.firecracker import record as records

_TAIL = 1 << 16

# At the beginning of a line, after the kernel's time.
_STAMP = r"^(?:\[ *\d+\.\d+\] )?"
_PANIC = re.compile(_STAMP + "Kernel panic - not syncing", re.MULTILINE)
_ENDING = re.compile(
    _STAMP + r"(?:banger: (?P<how>poweroff|halt|reboot|kexec|.*; powering off)"
    r"|reboot: (?P<kernel>Restarting system|System halted|Power down))\r?$",
    re.MULTILINE,
)
_KVM = re.compile(
    r"Received KVM_EXIT_(?:(?P<fault>SHUTDOWN)|FAIL_ENTRY|INTERNAL_ERROR) signal"
    r"|Unexpected exit reason on vcpu run"
)


def read(run_dir: Path) -> ExitReason:
    """Why the VMM of `run_dir` ended, as far as it can be told."""
    record = records.read(run_dir)
    reason = None if record is None else guests_reason(_tail(Path(record.console), record.said))
    if reason is not None:
        return reason

    if records.was_stopped(run_dir):
        return ExitReason.STOPPED

    return vmms_reason(_tail(run_dir / records.LOG, 0)) or ExitReason.DIED


def guests_reason(console: str) -> ExitReason | None:
    """What a guest's console says of its end; None if nothing."""
    endings = list(_ENDING.finditer(console))
    if not any(ending["kernel"] for ending in endings):
        return ExitReason.GUEST_PANIC if _PANIC.search(console) else None

    hows = [ending["how"] for ending in endings if ending["how"]]
    if hows:
        rebooted = hows[-1] in ("reboot", "kexec")
    else:
        rebooted = endings[-1]["kernel"] == "Restarting system"

    return ExitReason.GUEST_REBOOT if rebooted else ExitReason.GUEST_POWEROFF


def vmms_reason(log: str) -> ExitReason | None:
    """What a VMM's log says of its end; None if nothing."""
    found = _KVM.search(log)
    if found is None:
        return None

    return ExitReason.TRIPLE_FAULT if found["fault"] else ExitReason.KVM_FAILED


def _tail(path: Path, said: int) -> str:
    """The end of what was written to `path` after its first `said` bytes."""
    try:
        with path.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            # It is shorter if it was emptied meanwhile.
            start = said if said <= size else 0
            log.seek(max(start, size - _TAIL))
            return log.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""
