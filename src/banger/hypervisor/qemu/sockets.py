"""The sockets of a VMM. banger makes them and QEMU inherits them listening.

So they are private from the first moment, a client can connect before QEMU serves them, and a QEMU
that dies before it does is heard of at once.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.host.paths import SOCKET_PATH_MAX


def monitor_socket(run_dir: Path) -> Path:
    """QEMU's own machine protocol (QMP)."""
    return run_dir / "qmp.sock"


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket listening at `path`, mode 0600; closed at the end, and the file stays.

    Raises PermanentError(config_invalid) when the path is longer than the kernel takes.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise PermanentError(
            ErrorCode.CONFIG_INVALID,
            f"{path} is too long for a socket: more than {SOCKET_PATH_MAX} bytes",
            hint="set BANGER_HOME to a shorter path",
        )
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)
        yield listener
