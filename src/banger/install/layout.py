"""Where the system path's files are on a host."""

from __future__ import annotations

from pathlib import Path

from banger.privileged.scope import GUESTS

PROGRAM = Path("/usr/local/lib/banger")
"""The program itself, root's: what root runs must not be a user's to change."""

COMMANDS = Path("/usr/local/bin")
METADATA = Path("/etc/banger/install.toml")
CONFIGURATION = METADATA.parent
UNITS = Path("/etc/systemd/system")
TMPFILES = Path("/etc/tmpfiles.d/banger.conf")
MODULES = Path("/etc/modules-load.d/banger.conf")

STATE = Path("/var/lib/banger")
CACHE = Path("/var/cache/banger")
RUN = Path("/run/banger")
ROOT_STATE = Path("/var/lib/banger-root")
ROOT_RUN = Path("/run/banger-root")

SOCKET = RUN / "bangerd.sock"
HELPER_SOCKET = ROOT_RUN / "helper.sock"
BUILD_SOCKET = ROOT_RUN / "build.sock"

DAEMON_UNIT = "bangerd.service"
HELPER_UNIT = "bangerd-root.service"
BUILD_LISTENER = "banger-build.socket"
BUILD_UNIT = "banger-build@.service"
UNIT_NAMES = (HELPER_UNIT, BUILD_LISTENER, DAEMON_UNIT)
"""What always runs, in the order in which it starts; a build's unit is there while it builds."""

GUESTS_UNIT = GUESTS
"""To stop this one stops all VMs."""
