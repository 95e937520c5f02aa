"""A running smoke host: an emulated machine with systemd and a working /dev/kvm, over ssh."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.harness import Outcome, alive, eventually, free_port

from smoke.image import CACHE, HostImage, host_image

HOSTS = CACHE / "hosts"
START_SECONDS = 240.0
_PIECE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Disk:
    """Another disk of the host, read only there: /dev/disk/by-id/virtio-<serial>."""

    serial: str
    path: Path


class Host:
    """One host by its name; another process may use one that this one has started.

    Its disk is a layer on `base` (a qcow2, or the image as built), and is gone after `remove`.
    """

    def __init__(
        self, name: str = "default", *, base: Path | None = None, disks: Sequence[Disk] = ()
    ) -> None:
        self.name = name
        self.directory = HOSTS / name
        self.image = host_image()
        self._base = base
        self._disks = tuple(disks)

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def console(self) -> Path:
        """What the host said on its serial port, all starts together."""
        return self.directory / "console.log"

    @property
    def pid(self) -> int | None:
        """The process of QEMU, when it lives."""
        try:
            pid: int = self._record()["pid"]
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None

        return pid if alive(pid) and os.fsencode(self.disk) in line else None

    def start(self) -> None:
        """Boot, on the disk as it was left or on a new one, and wait until ssh answers."""
        assert self.pid is None, f"host {self.name} runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.disk.exists():
            self._make_disk()

        port = free_port()
        with self.console.open("ab") as console:
            process = subprocess.Popen(
                _command(self.image, self.disk, self._disks, port, self.console),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        process.returncode = 0
        (self.directory / "host.json").write_text(json.dumps({"pid": process.pid, "port": port}))
        self._write_known_hosts(port)
        self.wait()

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Wait until root can log in and the host has settled, as after a start or a restart."""
        deadline = time.monotonic() + seconds
        while self.run(["true"], check=False, timeout=30).status != 0:
            assert self.pid is not None, f"the host ended: see {self.console}"
            assert time.monotonic() < deadline, f"no ssh: see {self.console}"
            time.sleep(_PIECE_SECONDS)

        self.run(["systemctl", "is-system-running", "--wait"], check=False)

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        stdin: bytes = b"",
        check: bool = True,
        timeout: float = 300,
    ) -> Outcome:
        """Run `argv` in the host to its end, as `user`: root, dev (the owner) or stranger."""
        done = subprocess.run(
            [*self._ssh(user), shlex.join(argv)], input=stdin, capture_output=True, timeout=timeout
        )
        outcome = Outcome(tuple(argv), done.returncode, done.stdout, done.stderr)
        assert not check or outcome.status == 0, outcome
        return outcome

    def sh(self, script: str, *, user: str = "root", timeout: float = 300) -> str:
        """Run a shell script, which must succeed; its standard output, stripped."""
        return self.run(["sh", "-ec", script], user=user, timeout=timeout).text

    def start_command(self, argv: Sequence[str], *, user: str = "root") -> subprocess.Popen[bytes]:
        """Start `argv` in the host, its streams pipes, and leave it to the caller."""
        return subprocess.Popen(
            [*self._ssh(user), shlex.join(argv)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @contextlib.contextmanager
    def lead_back(self, port: int, here: int) -> Iterator[None]:
        """For a while 127.0.0.1:`port` in the host leads to port `here` of this machine."""
        ssh, route = self._ssh("root"), f"127.0.0.1:{port}:127.0.0.1:{here}"
        subprocess.run([*ssh, "-O", "forward", "-R", route], check=True, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            subprocess.run([*ssh, "-O", "cancel", "-R", route], capture_output=True)

    def put(self, local: Path, remote: str, *, user: str = "root") -> None:
        """Copy a file, or a directory and all below it."""
        self._scp(os.fspath(local), f"{user}@smoke:{remote}")

    def get(self, remote: str, local: Path, *, user: str = "root") -> None:
        """Copy a file or directory of the host's here."""
        self._scp(f"{user}@smoke:{remote}", os.fspath(local))

    def shell(self, argv: Sequence[str] = (), *, user: str = "root") -> int:
        """A login shell, or `argv`, on this terminal; the status it ended with."""
        words = [shlex.join(argv)] if argv else []
        return subprocess.run([*self._ssh(user), *words]).returncode

    def reboot(self) -> None:
        """Shut down and boot again, in the same QEMU."""
        before = self.boot_id()
        self.run(["systemctl", "reboot"], check=False)
        self._hang_up()
        eventually(lambda: self._boot_id_now() not in ("", before), "another boot", START_SECONDS)
        self.wait()

    def boot_id(self) -> str:
        return self.run(["cat", "/proc/sys/kernel/random/boot_id"]).text

    def power_off(self) -> None:
        """Shut down as a user would; the disk keeps everything."""
        self.run(["systemctl", "poweroff"], check=False)
        self._hang_up()
        eventually(lambda: self.pid is None, "the host is off", fatal=False)
        self.stop()

    def stop(self) -> None:
        """Pull the plug."""
        pid = self.pid
        self._hang_up()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

            eventually(lambda: not alive(pid), "QEMU is gone")

    def remove(self) -> None:
        """Stop it and forget its disk."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def keep_disk(self, target: Path) -> None:
        """Make its disk `target`, a base for others; the cache may be moved or copied with both."""
        base, kind = self._below()
        name = os.path.relpath(base, target.parent)
        subprocess.run(["qemu-img", "rebase", "-u", "-F", kind, "-b", name, self.disk], check=True)
        self.disk.rename(target)

    def _make_disk(self) -> None:
        base, kind = self._below()
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", base, self.disk],
            check=True,
        )

    def _below(self) -> tuple[Path, str]:
        return (self._base, "qcow2") if self._base else (self.image.disk, "raw")

    def _boot_id_now(self) -> str:
        outcome = self.run(["cat", "/proc/sys/kernel/random/boot_id"], check=False, timeout=30)
        return outcome.text

    def _record(self) -> dict[str, int]:
        record: dict[str, int] = json.loads((self.directory / "host.json").read_text())
        return record

    def _write_known_hosts(self, port: int) -> None:
        (self.directory / "known_hosts").write_text(f"smoke {self.image.host_key}\n")
        (self.directory / "ssh_config").write_text(
            f"""Host smoke
  HostName 127.0.0.1
  Port {port}
  HostKeyAlias smoke
  UserKnownHostsFile {self.directory}/known_hosts
  IdentityFile {self.image.client_key}
  IdentitiesOnly yes
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 20
  ServerAliveInterval 30
  ServerAliveCountMax 4
  LogLevel ERROR
  ControlMaster auto
  ControlPath {self.directory}/%r.ssh
  ControlPersist 600
"""
        )

    def _ssh(self, user: str) -> list[str]:
        return ["ssh", "-F", f"{self.directory}/ssh_config", "-l", user, "smoke"]

    def _scp(self, source: str, target: str) -> None:
        subprocess.run(
            ["scp", "-q", "-r", "-p", "-F", f"{self.directory}/ssh_config", source, target],
            check=True,
        )

    def _hang_up(self) -> None:
        for socket in self.directory.glob("*.ssh"):
            subprocess.run(
                ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "smoke"],
                capture_output=True,
            )
            socket.unlink(missing_ok=True)


def _command(
    image: HostImage, disk: Path, disks: Sequence[Disk], port: int, console: Path
) -> list[str]:
    # TCG emulates AMD's SVM and nothing of Intel's VMX.
    extra = [
        word
        for entry in disks
        for word in (
            "-drive",
            f"file={entry.path},format=raw,if=none,readonly=on,id={entry.serial}",
            "-device",
            f"virtio-blk-pci,drive={entry.serial},serial={entry.serial}",
        )
    ]
    # fmt: off
    return [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512",
        "-cpu", "EPYC,+svm", "-smp", "2", "-m", "3072", "-nodefaults", "-no-user-config",
        "-display", "none", "-kernel", os.fspath(image.kernel), "-initrd", os.fspath(image.initrd),
        "-append", "root=/dev/vda rw console=ttyS0 loglevel=4 mitigations=off",
        "-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console",
        "-drive", f"file={disk},if=none,id=root,cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,drive=root,serial=root", *extra,
        "-netdev", f"user,id=outside,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=outside,romfile=", "-device", "virtio-rng-pci",
    ]
    # fmt: on
