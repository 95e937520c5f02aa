"""Scenes: what root does, done for real, in namespaces that are thrown away with it.

A scene runs in a Python of its own as process 1 of new pid, network, mount and UTS namespaces, with
a /dev of four harmless nodes. Nothing it makes or kills is this machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

_SETUP = """
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 none /srv
mkdir /srv/dev
for node in null urandom kvm; do [ ! -e /dev/$node ] || cp -a /dev/$node /srv/dev/; done
mkdir /srv/dev/net
cp -a /dev/net/tun /srv/dev/net/
ln -s /proc/self/fd /srv/dev/fd
ln -s /proc/self/fd/0 /srv/dev/stdin
mount --bind /srv/dev /dev
ip link set lo up
exec "$@"
"""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None or not Path("/dev/net/tun").exists(),
    reason="needs root, nftables and /dev/net/tun",
)


def play(module: str, scene: str, *arguments: str) -> None:
    """Run the function `scene` of `module` of this folder; show what it printed if it fails."""
    program = (
        f"import sys; from tests.unit.privileged import {module}; {module}.{scene}(*sys.argv[1:])"
    )
    namespaces = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [
            *namespaces, "--mount-proc", "sh", "-c", _SETUP, "sh",
            sys.executable, "-W", "error", "-c", program, *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
