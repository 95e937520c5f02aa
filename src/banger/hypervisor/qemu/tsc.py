"""How fast this host's time-stamp counter runs, for guests that emulation would keep in the dark.

A guest under TCG reads the host's counter (QEMU's cpu_get_host_ticks), but has to find out its rate
by timing loops against an emulated timer. On a busy host that fails, and on microvm with ACPI there
is no other clock: the kernel then waits for its first tick for ever. So it is told the rate.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_SECONDS = 0.03
_TRIES = 20


def measure_tsc_khz() -> int | None:
    """The rate in kHz, good to some parts per million; None where it cannot be measured.

    Blocks for about 30 ms. Pages that are both written and run may be forbidden (SELinux execmem).
    """
    if os.uname().machine != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(_READ_TSC)
    read = _function(page)
    wall_before, ticks_before = _instant(read)
    time.sleep(_SECONDS)
    wall_after, ticks_after = _instant(read)
    return round((ticks_after - ticks_before) * 1e6 / (wall_after - wall_before))


def _function(page: mmap.mmap) -> Callable[[], int]:
    # 1 MB that only hosts without KVM need.
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_uint64)(address)


def _instant(read: Callable[[], int]) -> tuple[int, int]:
    """Nanoseconds and ticks of one moment: of several tries the one least disturbed."""
    best = (1 << 62, 0, 0)
    for _ in range(_TRIES):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        ticks = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        best = min(best, (after - before, (before + after) // 2, ticks))

    return best[1], best[2]
