"""The floor under every start of a VM: the same guest, by Firecracker's jailer and API by hand.

No daemon, no helper, no store, no steps. What a VM needs is made ready before the clock starts: a
device-mapper snapshot, a work disk, a tap, an initrd, a jail with all of it in place. Then jailer,
API and the first answer of the guest's agent are what is measured.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from banger.api.errors import BangerError
from banger.channel.calls import GuestCalls
from banger.channel.requests import GuestHealth, Health
from banger.channel.vsock import VsockChannel
from banger.guest.config import GuestConfig, kernel_cmdline, vm_archive
from banger.guest.initramfs import write_initrd
from banger.hypervisor.base import Disk, LaunchPlan, MemoryImage, TapNic
from banger.hypervisor.firecracker import config
from banger.hypervisor.firecracker.model import RunState
from banger.hypervisor.firecracker.record import LOG, METRICS
from banger.privileged import devicemapper
from banger.privileged.ops import CreateSnapshot, FlushSnapshot, RemoveSnapshot
from banger.privileged.site import Site
from banger.storage.cow import cow_length

STATE, CACHE = Path("/var/lib/banger"), Path("/var/cache/banger")
YARD, SAVED = STATE / "bench", STATE / "bench-saved"
JAILS = Path("/var/lib/banger-bench")
TAP = "bench0"
VM_ID = "0123456789ab"
DEVICE = f"fc-rootfs-{VM_ID}"
MAC = "02:fc:0a:0b:0c:0d"
PROGRAMS = Path("/usr/local/bin")
PATIENCE = 600.0
_DISKS, _MEMORY = ("root.cow", "work.raw"), ("state", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the VMs are that banger makes beside it; sizes in bytes."""

    vcpus: int
    memory: int
    root_size: int
    disk_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The files of image and kernel, and the part of an initrd that all VMs share."""

    rootfs: Path
    work_seed: Path
    vmlinux: Path
    initramfs: Path
    root_size: int


def parts() -> Parts:
    """Of the one image that the host has; it has been used, so that all of it is there."""
    (image,) = (path for path in (STATE / "images").glob("*") if (path / "rootfs.ext4").exists())
    (kernel,) = (path for path in (STATE / "kernels").glob("*") if (path / "vmlinux").exists())
    (initramfs,) = (CACHE / "initramfs").glob("*.cpio")
    return Parts(
        rootfs=image / "rootfs.ext4",
        root_size=(image / "rootfs.ext4").stat().st_size,
        work_seed=image / "work.ext4",
        vmlinux=kernel / "vmlinux",
        initramfs=initramfs,
    )


@dataclass(slots=True)
class ByHand:
    """Guests of `shape`, one at a time."""

    site: Site
    shape: Shape
    parts: Parts
    steps: dict[str, list[float]] = field(default_factory=dict)

    def boot(self) -> float:
        """Seconds from nothing running to the agent's first answer."""
        with ExitStack() as stack:
            root = stack.enter_context(self._made_ready(self._make_disks))
            seconds, _ = self._run(stack, root, self._plan(root, None))
            return seconds

    def save(self) -> None:
        """Keep a guest that has booted, memory and disks of one moment, for `resume`."""
        with ExitStack() as stack:
            root = stack.enter_context(self._made_ready(self._make_disks))
            _, api = self._run(stack, root, self._plan(root, None))
            calls = GuestCalls(VsockChannel(root / "run"), patience=PATIENCE)
            while calls.ask(Health(system=True), GuestHealth).system not in ("running", "degraded"):
                time.sleep(1)

            _send(api, "PATCH", "/vm", RunState(state="Paused"))
            _send(api, "PUT", "/snapshot/create", config.snapshot())
            devicemapper.flush_snapshot(self.site, FlushSnapshot(name=DEVICE))
            shutil.rmtree(SAVED, ignore_errors=True)
            SAVED.mkdir(mode=0o700)
            for name in _DISKS:
                _run("cp", "--sparse=always", YARD / name, SAVED / name)

            for name in _MEMORY:
                _run("cp", "--sparse=always", root / "files" / "saving" / name, SAVED / name)

            for path in (SAVED, *SAVED.iterdir()):
                os.chown(path, *self._owner)

    def resume(self) -> float:
        """Seconds from nothing running to the agent's first answer, of the guest that was saved."""
        with ExitStack() as stack:
            root = stack.enter_context(self._made_ready(self._copy_disks))
            restored = root / "files" / "restored"
            restored.mkdir()
            for name in _MEMORY:
                os.link(SAVED / name, restored / name)

            os.chown(restored, *self._owner)
            return self._run(stack, root, self._plan(root, MemoryImage(directory=SAVED)))[0]

    def _run(self, stack: ExitStack, root: Path, plan: LaunchPlan) -> tuple[float, socket.socket]:
        console = stack.enter_context((YARD / "console").open("wb"))
        began = time.perf_counter()
        process = subprocess.Popen(
            [
                PROGRAMS / "jailer", "--id", VM_ID, "--exec-file", PROGRAMS / "firecracker",
                "--uid", str(self.site.owner_uid), "--gid", str(self.site.owner_gid),
                "--chroot-base-dir", JAILS, "--cgroup-version", "2",
                "--", "--api-sock", "/run/api.sock",
            ],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        api = stack.enter_context(_connected(root / "run" / "api.sock", process))
        self._note("jailer until the API is there", began)
        configured = time.perf_counter()
        for setting in config.settings(plan):
            _send(api, setting.method, setting.target, setting)

        if plan.restore is not None:
            _send(api, "PATCH", "/vm", RunState(state="Resumed"))

        self._note("API until the guest runs", configured)
        running = time.perf_counter()
        calls = GuestCalls(VsockChannel(root / "run"), patience=PATIENCE)
        assert calls.ask(Health(), GuestHealth).boot_id
        self._note("guest until its agent answers", running)
        return time.perf_counter() - began, api

    def _note(self, step: str, began: float) -> None:
        self.steps.setdefault(step, []).append(time.perf_counter() - began)

    def _plan(self, root: Path, restore: MemoryImage | None) -> LaunchPlan:
        return LaunchPlan(
            vm_id=VM_ID,
            name="byhand",
            vcpus=self.shape.vcpus,
            memory=self.shape.memory,
            kernel=self.parts.vmlinux,
            initrd=YARD / "initrd",
            cmdline=kernel_cmdline(emulated=False),
            disks=(
                Disk(serial="root", path=YARD / "root.cow", format="raw", device=DEVICE),
                Disk(serial="work", path=YARD / "work.raw", format="raw"),
            ),
            nic=TapNic(mac=MAC, tap=TAP),
            run_dir=root / "run",
            console_log=YARD / "console",
            restore=restore,
        )

    @contextmanager
    def _made_ready(self, make_disks: Callable[[], None]) -> Iterator[Path]:
        """Disks, tap and jail of a VM, until the block ends; the jail's root."""
        with ExitStack() as stack:
            shutil.rmtree(YARD, ignore_errors=True)
            YARD.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, YARD)
            make_disks()
            self._make_device()
            stack.callback(self._remove_device)
            _run("ip", "tuntap", "add", "dev", TAP, "mode", "tap", "user", str(self._owner[0]))
            stack.callback(_run, "ip", "link", "delete", "dev", TAP)
            _run("ip", "link", "set", "dev", TAP, "up")
            shutil.rmtree(JAILS, ignore_errors=True)
            stack.callback(shutil.rmtree, JAILS)
            yield self._make_jail()

    def _make_disks(self) -> None:
        os.truncate(_new(YARD / "root.cow"), cow_length(self.shape.root_size))
        _run("cp", "--sparse=always", self.parts.work_seed, YARD / "work.raw")
        _run("chmod", "600", YARD / "work.raw")
        _run("e2fsck", "-fp", YARD / "work.raw")
        os.truncate(YARD / "work.raw", self.shape.disk_size)
        _run("resize2fs", YARD / "work.raw")
        write_initrd(self.parts.initramfs, vm_archive(self._guest()), YARD / "initrd")

    def _copy_disks(self) -> None:
        for name in _DISKS:
            _run("cp", "--sparse=always", SAVED / name, YARD / name)

        (YARD / "initrd").touch()

    def _make_device(self) -> None:
        for path in (YARD, *YARD.iterdir()):
            os.chown(path, *self._owner)

        device = CreateSnapshot(
            name=DEVICE,
            base=str(self.parts.rootfs),
            cow=str(YARD / "root.cow"),
            size=self.shape.root_size,
        )
        devicemapper.create_snapshot(self.site, device)

    def _remove_device(self) -> None:
        for _ in range(50):
            try:
                devicemapper.remove_snapshot(self.site, RemoveSnapshot(name=DEVICE))
            except BangerError:
                # The kernel lets go of it a moment after the VMM has ended.
                time.sleep(0.2)
            else:
                return

    def _make_jail(self) -> Path:
        root = JAILS / "firecracker" / VM_ID / "root"
        for name in ("run", "files", "files/saving", "devices"):
            (root / name).mkdir(parents=True)

        for name in (METRICS, LOG):
            (root / "run" / name).touch()

        for name, source in (
            ("initrd", YARD / "initrd"),
            ("work", YARD / "work.raw"),
        ):
            os.link(source, root / "files" / name)

        # Not a link: banger takes a kernel whose inode changes for one that was touched.
        shutil.copyfile(self.parts.vmlinux, root / "files" / "kernel")

        number = Path(f"/dev/mapper/{DEVICE}").stat().st_rdev
        os.mknod(root / "devices" / "root", stat.S_IFBLK | 0o600, number)
        for path in root.rglob("*"):
            os.chown(path, *self._owner)

        return root

    def _guest(self) -> GuestConfig:
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", YARD / "key")
        return GuestConfig(
            vm_id=VM_ID,
            hostname="byhand",
            mac=MAC,
            address="10.11.12.13",
            prefix=24,
            gateway="10.11.12.1",
            dns=("10.11.12.1",),
            authorized_key=(STATE / "ssh" / "id_ed25519.pub").read_text(),
            host_key=(YARD / "key").read_bytes(),
            host_key_public=(YARD / "key.pub").read_text(),
            grow_root=self.shape.root_size > self.parts.root_size,
        )

    @property
    def _owner(self) -> tuple[int, int]:
        return self.site.owner_uid, self.site.owner_gid


@contextmanager
def _connected(path: Path, process: subprocess.Popen[bytes]) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        while process.poll() is None:
            try:
                connection.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.002)
            else:
                yield connection
                return

    raise SystemExit(f"the VMM ended: {(YARD / 'console').read_text(errors='replace')}")


def _send(api: socket.socket, method: str, target: str, body: msgspec.Struct) -> None:
    text = msgspec.json.encode(body)
    head = f"{method} {target} HTTP/1.1\r\nHost: vmm\r\nContent-Length: {len(text)}\r\n\r\n"
    api.sendall(head.encode() + text)
    answer = api.recv(1 << 16)
    if not answer.startswith(b"HTTP/1.1 204"):
        raise SystemExit(f"{target}: {answer!r}")


def _new(path: Path) -> Path:
    path.touch(mode=0o600)
    return path


def _run(*argv: str | os.PathLike[str]) -> None:
    done = subprocess.run(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise SystemExit(f"{argv}: {done.stderr.decode()}")
