"""The system path: Firecracker in jails, a bridge, dm snapshots, through the root helper."""

from __future__ import annotations

from pathlib import Path

from banger.daemon.log import current_operation
from banger.daemon.paths.base import Seams
from banger.daemon.paths.opening import open_seams
from banger.daemon.paths.patience import Patient
from banger.daemon.store import Store
from banger.host.boot import host_boot_id
from banger.host.config import Config
from banger.host.files import write_atomic
from banger.host.paths import Paths, ensure_private
from banger.hypervisor.firecracker.driver import Firecracker
from banger.privileged.client import RootClient
from banger.privileged.helper import SOCKET

# ssh_config(5): %n is the name as it was typed.
_SSH_CONFIG = """\
Host *.vm
  User root
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {names}/%n
  StrictHostKeyChecking yes
"""


async def open_system(paths: Paths, config: Config, store: Store) -> Seams:
    """The seams of an installed daemon, once the host's network agrees with the store.

    Raises PermanentError(network_collision), and what the root helper answers.
    """
    _write_ssh_config(paths)
    ops = Patient(RootClient(Path(SOCKET), current_operation.get))
    hypervisor = Firecracker(ops, config.hypervisor.firecracker, config.hypervisor.jailer)
    return await open_seams(ops, hypervisor, config, await store.vms(), host_boot_id())


def _write_ssh_config(paths: Paths) -> None:
    ensure_private(paths.ssh_config.parent)
    text = _SSH_CONFIG.format(key=paths.ssh_key, names=paths.ssh_names)
    write_atomic(paths.ssh_config, text.encode())
