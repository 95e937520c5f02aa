"""Which processor this host has, as far as software can tell two apart."""

from __future__ import annotations

from pathlib import Path

# The keys of proc(5) cpuinfo that do not change from one boot or one moment to the next.
_LASTING = frozenset(("vendor_id", "cpu family", "model", "model name", "stepping", "flags"))

# For one processor and part of the next.
_ENOUGH = 8192


def cpu_identity(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model and features of the first processor, as one text. The others are taken to be alike."""
    # Unbuffered: the kernel makes up no more of the file than is asked for, and it may be long.
    with cpuinfo.open("rb", buffering=0) as file:
        first = file.read(_ENOUGH).decode().partition("\n\n")[0]

    pairs = (line.partition(":") for line in first.splitlines())
    lasting = {key.strip(): value.strip() for key, _, value in pairs if key.strip() in _LASTING}
    return "\n".join(f"{key}: {value}" for key, value in sorted(lasting.items()))
