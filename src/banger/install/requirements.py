"""What an installation needs and does not bring, looked for before anything is changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.host.config import load_config
from banger.hypervisor.firecracker.driver import Firecracker
from banger.privileged.base import PrivilegedOps


def require_firecracker(ops: PrivilegedOps, configuration: Path) -> str:
    """The version of the Firecracker that `configuration` names or the host has, with its jailer.

    Raises PermanentError: hypervisor_missing, unsupported_host; and what `load_config` raises.
    """
    named = load_config(configuration).hypervisor
    return asyncio.run(Firecracker(ops, named.firecracker, named.jailer).installed())
