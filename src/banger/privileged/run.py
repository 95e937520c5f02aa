"""Where the root helper starts programs: `host/runner.py` once more, for lack of msgspec.

Programs are the system's own, by name in fixed directories, with an environment of ours.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from banger.privileged.faults import failed

_DIRECTORIES = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
_ENVIRONMENT = {"PATH": ":".join(_DIRECTORIES), "LC_ALL": "C.UTF-8", "HOME": "/"}
_LONGEST_COMPLAINT = 300


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    pass_fds: Sequence[int] = (),
    user: tuple[int, int] | None = None,
    accept: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """Run `argv` to its end, as `user` (uid, gid) if given; the caller's alarm bounds its time.

    Raises Fault(failed) with the last line it said when its exit status is not one of `accept`.
    """
    program = _locate(argv[0])
    uid, gid = (None, None) if user is None else user
    done = subprocess.run(
        [program, *argv[1:]],
        input="" if stdin is None else stdin,
        capture_output=True,
        text=True,
        errors="replace",
        env=_ENVIRONMENT,
        cwd="/",
        pass_fds=pass_fds,
        check=False,
        user=uid,
        group=gid,
        extra_groups=None if user is None else [],
    )
    if done.returncode not in accept:
        raise failed(f"{argv[0]}: {_complaint(done)}")

    return done


def _locate(name: str) -> str:
    for directory in _DIRECTORIES:
        if os.access(path := f"{directory}/{name}", os.X_OK):
            return path

    raise failed(f"{name} is not installed")


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # What nft and ip print after the first line only points into the input.
    return lines[0][:_LONGEST_COMPLAINT] if lines else f"exit status {done.returncode}"
