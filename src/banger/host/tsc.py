"""The rate of this host's time stamp counter, which an emulated guest's runs at too.

A guest finds the rate by racing an emulated timer chip; on a busy host it loses, and without a rate
the microvm machine has no working clock and stops in early boot. So the host measures it and says
so on the kernel command line.
"""

from __future__ import annotations

import asyncio
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_ATTEMPTS = 20


async def tsc_khz(period: float = 0.05) -> int | None:
    """The rate in kHz, right to some parts in 10^5 after `period` seconds; None if there is none.

    None on other architectures than x86-64, and where a process may not make code (hardening).
    """
    if platform.machine() != "x86_64":
        return None
    try:
        counter = _Counter()
    except OSError:
        return None
    first_time, first_count = _sample(counter)
    await asyncio.sleep(period)
    last_time, last_count = _sample(counter)
    return round((last_count - first_count) * 1_000_000 / (last_time - first_time))


class _Counter:
    """The counter, read by four instructions in a page of memory that this object keeps mapped."""

    def __init__(self) -> None:
        import ctypes

        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(_READ_COUNTER)
        self._code = ctypes.c_char.from_buffer(page)
        self._call = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(self._code))

    def read(self) -> int:
        return int(self._call())


def _sample(counter: _Counter) -> tuple[float, int]:
    """Nanoseconds and count at one moment: the attempt that was interrupted least."""
    attempts = []
    for _ in range(_ATTEMPTS):
        before = time.monotonic_ns()
        count = counter.read()
        after = time.monotonic_ns()
        attempts.append((after - before, (before + after) / 2, count))

    _, moment, count = min(attempts)
    return moment, count
