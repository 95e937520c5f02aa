"""What Firecracker's authors ask of a host that runs other people's code (prod-host-setup.md).

None of it keeps a VM from running: with one's own code in the guests all may be ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from banger.api.models import Check
from banger.daemon.doctor.findings import passed, warned

_CONNTRACK_FULL = 0.8
_NO_HUGE_PAGES = "never"
# proc_sys_kernel(5), printk: what is more important than this is written to the console.
_ERRORS = 4
_SLOW = ("ttyS", "ttyAMA", "hvc")
# The kernel's own default.
_TIMER_US = 200


async def memory_sharing(root: Path = Path("/")) -> Check:
    """Guests' memory is neither merged with others' nor written to a disk."""
    problems, fixes = [], []
    if _read(root, "sys/kernel/mm/ksm/run") == "1":
        problems.append("same pages of different guests are merged (KSM), which tells them apart")
        fixes.append("echo 2 | sudo tee /sys/kernel/mm/ksm/run")

    swaps = [line.split()[0] for line in _read(root, "proc/swaps").splitlines()[1:]]
    disks = [swap for swap in swaps if "zram" not in swap and "/dm-" not in swap]
    if disks:
        problems.append(f"guests' memory may be written to {', '.join(disks)}")
        fixes.append("sudo swapoff --all, or encrypt the swap")

    summary = "guests' memory is not merged (KSM) and not swapped to an open disk"
    return _verdict("memory isolation", summary, problems, fixes)


async def processor(root: Path = Path("/")) -> Check:
    """Guests cannot learn from the processor what others do with it."""
    problems, fixes = [], []
    if _read(root, "sys/devices/system/cpu/smt/active") == "1":
        problems.append("two guests may share a core's threads (SMT)")
        fixes.append("echo off | sudo tee /sys/devices/system/cpu/smt/control")

    open_ones = list(_vulnerabilities(root))
    if open_ones:
        problems.append(f"the kernel calls the processor vulnerable: {', '.join(open_ones)}")
        fixes.append("update microcode and kernel; do not boot with mitigations=off")

    summary = "no SMT, and the kernel knows of no open hole in the processor"
    return _verdict("processor isolation", summary, problems, fixes)


async def huge_pages(root: Path = Path("/")) -> Check:
    """KVM neither splits huge pages nor stalls on it; see nx_huge_pages in the kernel's manual."""
    splits = _read(root, "sys/module/kvm/parameters/nx_huge_pages") in ("Y", "force")
    affected = "Not affected" not in _read(
        root, "sys/devices/system/cpu/vulnerabilities/itlb_multihit"
    )
    problems, fixes = [], []
    if splits and not affected:
        problems.append(
            "kvm.nx_huge_pages is on, which this processor does not need: slower starts"
        )
        fixes.append("kvm.nx_huge_pages=never on the kernel's command line")

    if f"[{_NO_HUGE_PAGES}]" in _read(root, "sys/kernel/mm/transparent_hugepage/enabled"):
        problems.append("transparent huge pages are off: guests' memory is slower")
        fixes.append("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")

    return _verdict("huge pages", "as KVM likes them", problems, fixes)


async def console(root: Path = Path("/")) -> Check:
    """What guests can have the kernel say does not go out by a slow line."""
    lines = _read(root, "proc/consoles").splitlines()
    slow = [name for name in (line.split()[0] for line in lines) if name.startswith(_SLOW)]
    level = _read(root, "proc/sys/kernel/printk").split()[:1]
    problems, fixes = [], []
    if slow and level and int(level[0]) > _ERRORS:
        problems.append(f"the kernel writes all it has to say to {', '.join(slow)}, and waits")
        fixes.append("quiet loglevel=1 on the kernel's command line")

    summary = "no serial console that guests could have the kernel fill"
    return _verdict("kernel console", summary, problems, fixes)


async def timers(root: Path = Path("/")) -> Check:
    """A guest's timer interrupts cost the host no more than a bounded part of a processor."""
    shortest = _read(root, "sys/module/kvm/parameters/min_timer_period_us")
    problems, fixes = [], []
    if shortest and int(shortest) < _TIMER_US:
        problems.append(f"a guest may have the host run a timer every {shortest} us")
        fixes.append(f"kvm.min_timer_period_us={_TIMER_US} on the kernel's command line")

    return _verdict("guests' timers", "bounded by KVM", problems, fixes)


async def connections(root: Path = Path("/")) -> Check:
    """There is room in the table of connections, which all guests with egress share."""
    used = _read(root, "proc/sys/net/netfilter/nf_conntrack_count")
    most = _read(root, "proc/sys/net/netfilter/nf_conntrack_max")
    if not used or not most:
        return passed("connections", "nothing tracks connections yet")

    summary = f"{used} of {most} connections are tracked"
    if int(used) < _CONNTRACK_FULL * int(most):
        return passed("connections", summary)

    fix = f"sudo sysctl net.netfilter.nf_conntrack_max={2 * int(most)}"
    return warned("connections", f"{summary}: soon none more can be made", fix)


def _verdict(name: str, summary: str, problems: list[str], fixes: list[str]) -> Check:
    if not problems:
        return passed(name, summary)

    first, *others = problems
    why = "matters when guests run code of different people, and can be ignored otherwise"
    return warned(name, first, "; ".join(fixes), *others, why)


def _vulnerabilities(root: Path) -> Iterator[str]:
    directory = root / "sys/devices/system/cpu/vulnerabilities"
    for file in sorted(directory.glob("*")):
        if file.read_text().startswith("Vulnerable"):
            yield file.name


def _read(root: Path, name: str) -> str:
    try:
        return (root / name).read_text().strip()
    except OSError:
        return ""
