"""Debian's debvm as the yardstick: the same kernel, the same packages, the same emulation."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.harness import free_port

# debvm-run takes KVM wherever /dev/kvm opens. What follows its own options wins.
EMULATED = ("-snapshot", "-machine", "accel=tcg", "-cpu", "max")
KERNEL = "linux-image-cloud-amd64"
BOOT_SECONDS = 180.0


def make_key(directory: Path) -> Path:
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key


def create(image: Path, key: Path, release: str, packages: Sequence[str]) -> None:
    """`debvm-create` of `release` with `packages`, from the host's own apt sources."""
    included = ",".join(sorted({*packages, KERNEL}))
    log = image.with_suffix(".log")
    with log.open("wb") as sink:
        done = subprocess.run(
            ["debvm-create", "-k", f"{key}.pub", "-o", image, "-r", release, "-z", "8G",
             "--", f"--include={included}", *_host_sources()],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    if done.returncode != 0:
        raise SystemExit(f"debvm-create failed:\n{log.read_text()[-2000:]}")


def start_to_ssh(image: Path, key: Path) -> float:
    """Seconds from `debvm-run` until `true` has run over ssh in its guest."""
    port = free_port()
    began = time.perf_counter()
    with subprocess.Popen(
        ["debvm-run", "-i", image, "-s", str(port), "--", *EMULATED],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as vm:
        try:
            _wait_for_banner(port)
            _ssh_true(port, key)
            return time.perf_counter() - began
        finally:
            os.killpg(vm.pid, signal.SIGKILL)


def _wait_for_banner(port: int) -> None:
    """Ask often, so that the waiting adds little: kinder to debvm than its own debvm-waitssh."""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as link:
            link.settimeout(0.5)
            if link.recv(4) == b"SSH-":
                return

        time.sleep(0.05)

    raise SystemExit(f"debvm-run did not answer within {BOOT_SECONDS:.0f} s")


def _ssh_true(port: int, key: Path) -> None:
    subprocess.run(
        ["ssh", "-F", "/dev/null", "-i", key, "-p", str(port), "-o", "BatchMode=yes",
         "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
         "-o", "LogLevel=ERROR", "root@127.0.0.1", "true"],
        stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def _host_sources() -> list[str]:
    """The host's apt sources as mmdebstrap(1) takes them: files in either format."""
    listed = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.*")]
    return [str(path) for path in listed if path.is_file() and path.stat().st_size]
