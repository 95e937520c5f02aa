"""Every file that an installation writes beside the program itself."""

from __future__ import annotations

import grp
from collections.abc import Mapping
from pathlib import Path

from banger.install import layout, units
from banger.install.owner import Owner

# loop and dm_mod are there before the helper is, because a unit's DeviceAllow= knows only those
# kinds of device that the kernel has when it starts.
MODULES = ("kvm", "tun", "loop", "dm_mod", "dm_snapshot", "bridge")

_MODULES_HEAD = "# What banger's VMs are made of; see modules-load.d(5).\n"
_TMPFILES_HEAD = """\
# Kept while the services are restarted: running VMs have their sockets there. See tmpfiles.d(5).
"""


def host_files(owner: Owner) -> Mapping[Path, str]:
    """What goes where for `owner`'s installation; all of it root's, 0644."""
    return {
        layout.TMPFILES: _TMPFILES_HEAD + _runtime_directories(owner),
        layout.MODULES: _MODULES_HEAD + "".join(f"{name}\n" for name in MODULES),
        layout.UNITS / layout.HELPER_UNIT: units.helper_unit(),
        layout.UNITS / layout.BUILD_LISTENER: units.build_listener(owner),
        layout.UNITS / layout.BUILD_UNIT: units.build_unit(owner),
        layout.UNITS / layout.DAEMON_UNIT: units.daemon_unit(owner, kvm_group()),
        layout.UNITS / layout.GUESTS_UNIT: units.guests_unit(owner),
    }


def kvm_group(device: Path = Path("/dev/kvm")) -> str | None:
    """The group that may open /dev/kvm, if that is not root's own."""
    try:
        group = grp.getgrgid(device.stat().st_gid).gr_name
    except (OSError, KeyError):
        return None
    return None if group == "root" else group


def _runtime_directories(owner: Owner) -> str:
    # A host may know the owner's group by nothing but its number.
    return f"d {layout.RUN} 0700 {owner.uid} {owner.gid} -\nd {layout.ROOT_RUN} 0711 root root -\n"
