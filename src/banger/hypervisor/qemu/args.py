"""From a launch plan to QEMU's command line. Pure: nothing is looked up, nothing is started.

qemu(1) has the options; docs/hypervisor.md says why each is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from banger.channel.serial import port_name
from banger.hypervisor.base import Disk, Forward, LaunchPlan, TapNic, UserNic

# What QEMU calls a microvm's memory when it makes that itself; streams name it.
MEMORY = "microvm.ram"

# MiB of translated code kept. QEMU's own default is 1 GiB, which a long-lived guest does fill.
_TB_SIZE = 64

# Without what costs more than it gives when emulated: `rep movsb` is done byte by byte, so a kernel
# must not think it fast, and SMAP makes each of its copies from and to programs slower.
_EMULATED_CPU = "max,-erms,-fsrm,-smap"

# A guest that breaks out of the VMM finds no way to run programs or to gain privileges.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

Value = str | int | bool | Path


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a VMM gets beside its plan.

    `monitor` and `agents` are file descriptors of listening sockets it inherits; each of the last
    is a stream of the guest's agent. `tsc_khz` is the rate of the host's time-stamp counter, for
    emulated guests; `now` is in seconds since 1970.
    """

    program: str
    accelerator: Literal["kvm", "tcg"]
    monitor: int
    agents: tuple[int, ...] = ()
    tsc_khz: int | None = None
    now: int = 0


def pidfile(run_dir: Path) -> Path:
    """Its path in a command line is what marks a process as the VMM of that run directory."""
    return run_dir / "qemu.pid"


def command_line(plan: LaunchPlan, around: Surroundings) -> list[str]:
    """The argument vector that runs `plan`."""
    return [
        around.program,
        *("-name", option("", ("guest", plan.name), ("debug-threads", True))),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", _SANDBOX),
        *("-pidfile", str(pidfile(plan.run_dir))),
        # The one line about a guest's shutdown on standard error: postmortem.py reads it.
        *("-trace", "qemu_system_shutdown_request"),
        *_machine(plan, around),
        *_memory(plan),
        *("-kernel", str(plan.kernel), "-initrd", str(plan.initrd)),
        *("-append", _kernel_command_line(plan, around)),
        *_serial(plan, around),
        *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng"),
        *(word for disk in plan.disks for word in _disk(disk)),
        *_nic(plan.nic),
    ]


def option(head: str, *fields: tuple[str, Value]) -> str:
    """One `head,key=value,...` argument in the syntax of QemuOpts, where a comma is doubled."""
    words = [head] if head else []
    for key, value in fields:
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        words.append(f"{key}={text.replace(',', ',,')}")

    return ",".join(words)


def console_log(argv: Sequence[str]) -> Path | None:
    """The console log that the VMM of this command line writes."""
    head = "file,id=console,append=on,path="
    paths = (word.removeprefix(head) for word in argv if word.startswith(head))
    return next((Path(path.replace(",,", ",")) for path in paths), None)


def accelerator(argv: Sequence[str]) -> str:
    """What the VMM of this command line runs its guest on: `kvm` or `tcg`."""
    return "kvm" if "kvm" in argv else "tcg"


def _machine(plan: LaunchPlan, around: Surroundings) -> list[str]:
    # With ACPI a guest can power itself off; microvm without it has no way to.
    machine = option("microvm", ("acpi", True), ("rtc", True), *_backend(plan))
    emulator = option("tcg", ("thread", "multi"), ("tb-size", _TB_SIZE))
    emulated = around.accelerator == "tcg"
    return [
        *("-machine", machine),
        *("-accel", emulator if emulated else "kvm"),
        *("-cpu", _EMULATED_CPU if emulated else "host"),
        *("-smp", str(plan.vcpus)),
        *("-m", f"size={plan.memory}b"),
        # Legacy virtio-mmio is the default, and slower.
        *("-global", "virtio-mmio.force-legacy=false"),
    ]


def _backend(plan: LaunchPlan) -> Iterator[tuple[str, Value]]:
    if plan.restore is not None:
        yield "memory-backend", MEMORY


def _memory(plan: LaunchPlan) -> Iterator[str]:
    if plan.restore is None:
        return

    # Not shared: pages are the file's until they are written to, and then the VM's own.
    backend = option(
        "memory-backend-file",
        ("id", MEMORY),
        ("size", f"{plan.memory}b"),
        ("mem-path", plan.restore.memory),
        ("share", False),
        ("x-use-canonical-path-for-ramblock-id", False),
    )
    yield from ("-object", backend, "-incoming", "defer", "-S")


def _kernel_command_line(plan: LaunchPlan, around: Surroundings) -> str:
    if around.accelerator == "kvm":
        return plan.cmdline

    # For `check_tick` of guest/files/init.
    words = [plan.cmdline, f"banger.started={around.now}"]
    if around.tsc_khz is not None:
        # `reliable`: all emulated CPUs read the host's one counter, which the kernel cannot know.
        # `lpj` is that rate per tick of 1/250 s (Debian's kernels): each CPU but the first measures
        # it again.
        words += [f"tsc_early_khz={around.tsc_khz}", "tsc=reliable", f"lpj={around.tsc_khz * 4}"]

    return " ".join(words)


def _serial(plan: LaunchPlan, around: Surroundings) -> Iterator[str]:
    # Appending lets console.py shorten the file under QEMU.
    console = option("file", ("id", "console"), ("append", True), ("path", plan.console_log))
    yield from ("-chardev", console, "-serial", "chardev:console")
    yield from ("-chardev", _listener("monitor", around.monitor))
    yield from ("-mon", "chardev=monitor,mode=control")
    yield from ("-device", "virtio-serial-device")
    for number, descriptor in enumerate(around.agents):
        yield from ("-chardev", _listener(f"agent{number}", descriptor))
        port = f"virtserialport,chardev=agent{number},name={port_name(number)}"
        yield from ("-device", port)


def _listener(name: str, descriptor: int) -> str:
    return option("socket", ("id", name), ("fd", descriptor), ("server", True), ("wait", False))


def _disk(disk: Disk) -> Iterator[str]:
    # Writes go to the page cache, where the end of the VMM cannot reach them, and a guest's flush
    # is an fdatasync(2). What the guest discards is punched out of the file.
    backend = option(
        "",
        ("driver", disk.format),
        ("node-name", disk.serial),
        ("read-only", disk.readonly),
        ("discard", "unmap"),
        ("cache.direct", False),
        ("cache.no-flush", False),
        ("file.driver", "file"),
        ("file.filename", disk.path),
        ("file.aio", "threads"),
        ("file.discard", "unmap"),
        ("file.locking", True),
    )
    device = option(
        "virtio-blk-device", ("id", disk.serial), ("drive", disk.serial), ("serial", disk.serial)
    )
    yield from ("-blockdev", backend, "-device", device)


def _nic(nic: UserNic | TapNic) -> Iterator[str]:
    device = option("virtio-net-device", ("netdev", "nic"), ("mac", nic.mac))
    yield from ("-netdev", _network(nic), "-device", device)


def _network(nic: UserNic | TapNic) -> str:
    if isinstance(nic, TapNic):
        up = (("script", "no"), ("downscript", "no"))
        return option("tap", ("id", "nic"), ("ifname", nic.tap), *up)

    return option(
        "user",
        ("id", "nic"),
        ("ipv6", False),
        ("net", nic.cidr),
        ("host", nic.gateway),
        ("dns", nic.dns),
        ("restrict", not nic.egress),
        *(("hostfwd", _forward(forward, nic.address)) for forward in nic.forwards),
    )


def _forward(forward: Forward, guest: str) -> str:
    host = f"{forward.protocol}:{forward.host_ip}:{forward.host_port}"
    return f"{host}-{guest}:{forward.guest_port}"
