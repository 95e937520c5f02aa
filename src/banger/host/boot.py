"""Which boot of the host this is."""

from __future__ import annotations

import os
from pathlib import Path

# random(4): a new value each time the kernel starts.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

BOOT_ID_FILE_VARIABLE = "BANGER_BOOT_ID_FILE"


def host_boot_id(path: Path | None = None) -> str:
    """The id of the host's current boot: a handle recorded under another one means nothing.

    Read from `path`, else from the file $BANGER_BOOT_ID_FILE names (tests reboot the host that
    way), else from the kernel.
    """
    named = os.environ.get(BOOT_ID_FILE_VARIABLE)
    return (path or (Path(named) if named else _BOOT_ID)).read_text(encoding="ascii").strip()
