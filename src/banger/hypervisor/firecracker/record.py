"""What is written down about a VMM in its run directory before there is one.

The jail's id is in it: whatever happens, the VMM and the jail are found again by that.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from banger.host.files import write_atomic

METRICS, LOG = "metrics", "log"
"""Their names in the run directory: of what the VMM counts, and says of itself."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One VMM. `said` is how long the console log was before it; `disks` are paths by serial."""

    jail: str
    firecracker: str
    console: str
    said: int
    saving: str
    memory: int
    disks: dict[str, str]


def write(run_dir: Path, record: Record) -> None:
    """Note the VMM that is about to be started."""
    _stopped(run_dir).unlink(missing_ok=True)
    write_atomic(_file(run_dir), msgspec.json.encode(record), durable=False)


def read(run_dir: Path) -> Record | None:
    """The VMM of `run_dir`, whatever has become of it; None if it never had one."""
    try:
        return msgspec.json.decode(_file(run_dir).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def note_stop(run_dir: Path) -> None:
    """Record that banger is about to end the VMM, of which nothing else leaves a trace."""
    try:
        _stopped(run_dir).touch()
    except FileNotFoundError:
        # Whoever removed the run directory does not ask for a reason.
        return


def was_stopped(run_dir: Path) -> bool:
    """Whether banger has ended the VMM."""
    return _stopped(run_dir).exists()


def remove(run_dir: Path) -> None:
    """Forget the VMM."""
    for path in (_file(run_dir), _stopped(run_dir), run_dir / METRICS, run_dir / LOG):
        path.unlink(missing_ok=True)


def _file(run_dir: Path) -> Path:
    return run_dir / "vmm.json"


def _stopped(run_dir: Path) -> Path:
    return run_dir / "stopped"
