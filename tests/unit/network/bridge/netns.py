"""Throw-away network namespaces, each the private world of one thread.

A thread that has left the machine's own namespaces stays out: what runs on it, and every program it
starts, sees that world alone. Worlds end with their threads, however the test run ends.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000


class World:
    """A network namespace, with a /sys that shows its interfaces."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.namespace = self.do(_leave)
        self.sh("mount --make-rprivate / && mount -t sysfs sysfs /sys && ip link set lo up")
        # IPv6 addresses that are usable at once.
        self.sh(
            "for each in all default; do echo 0 > /proc/sys/net/ipv6/conf/$each/accept_dad; done"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function`, in this world."""
        return self._thread.submit(function, *args, **kwargs).result()

    def sh(self, script: str) -> str:
        """A shell script, in this world; raises when a command fails."""
        return self.do(_sh, script)

    def adopt(self, interface: str, other: World, name: str) -> None:
        """Join this world and `other` by a cable: `interface` here, `name` there."""
        self.sh(f"ip link add {interface} type veth peer name {name}")
        self.sh(f"ip link set {name} netns {other.namespace}")


def possible() -> bool:
    """Whether this process may make such worlds."""
    if os.geteuid() != 0:
        return False

    try:
        with World("probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _leave() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")

    return str(threading.get_native_id())


def _sh(script: str) -> str:
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, script, done.stdout, done.stderr)

    return done.stdout
