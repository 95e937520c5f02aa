"""Eight running copies of a running VM, and how long that VM stands still for it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.e2e.harness import Banger

from banger.channel.calls import GuestCalls
from banger.channel.frames import Kind
from banger.channel.requests import Exec, Exited
from bench.measure import Bar, Report, Series, stopwatch
from bench.raw import RawGuest, raw_guest
from bench.scene import calls_into, run_true

COUNT = 8
MEMORY = "512M"
PAUSE_LIMIT_SECONDS = 0.3
# By hand there is no checkpoint to be made first, and no guest becomes another one.
FORK_LIMIT = 2.5
MIB = 1 << 20

# Writes a byte as often as an emulated guest manages to.
_TICKER = "import os, time\nwhile True: os.write(1, b'.'); time.sleep(0.005)"


class _Round(NamedTuple):
    """Seconds: a restore by hand, eight of them, a fork in eight, the gap of one in one, a copy of
    its memory.
    """

    floor: float
    eight: float
    fork: float
    gap: float
    copy: float


class _Pulse:
    """When a program in the guest was heard."""

    def __init__(self) -> None:
        self._beats: list[float] = []

    def beat(self, kind: Kind, data: bytes) -> None:
        self._beats.append(time.perf_counter())

    def longest_gap(self, since: float) -> float:
        beats = [beat for beat in self._beats if beat >= since]
        return max(later - earlier for earlier, later in pairwise(beats))

    def going(self) -> bool:
        return len(self._beats) > 100


def fork_running(runs: int) -> Report:
    """`banger vm fork --count 8`, all eight having answered, against one restore by hand."""
    with raw_guest("--memory", MEMORY) as (banger, guest):
        parent = banger.ok("vm", "create", "-q", "--memory", MEMORY)
        # The first warms the caches.
        rounds = [_round(banger, guest, parent) for _ in range(runs + 1)][1:]
        saved = _memory_in_use(banger, parent)

    series = (
        Series("restore by hand", "s", tuple(one.floor for one in rounds)),
        Series(f"{COUNT} restores by hand", "s", tuple(one.eight for one in rounds)),
        Series(f"fork --count {COUNT}, all answered", "s", tuple(one.fork for one in rounds)),
        Series("parent's longest gap", "s", tuple(one.gap for one in rounds)),
        Series("copy of its memory", "s", tuple(one.copy for one in rounds)),
    )
    floor, eight, fork, gap, copy = (one.median for one in series)
    return Report(
        f"Fork of a running {MEMORY} VM",
        series,
        (
            Bar(f"fork --count {COUNT} / {COUNT} restores by hand", fork / eight, FORK_LIMIT),
            Bar("parent's gap in seconds", gap, PAUSE_LIMIT_SECONDS),
            Bar("parent's gap / (restore + copy of its memory)", gap / (floor + copy), 1.0),
        ),
        (
            f"in restores by hand: {fork / floor:.1f}; {COUNT} by hand: {eight / floor:.1f}",
            f"on {os.cpu_count()} processors",
            f"the parent has written {saved:.0f} MiB of memory",
            "the gap is how long a program in the parent was not heard of while it was forked once",
        ),
    )


def _round(banger: Banger, guest: RawGuest, parent: str) -> _Round:
    floor = guest.restore()
    eight = guest.restore_many(COUNT)
    with stopwatch() as elapsed:
        children = banger.ok("vm", "fork", "-q", parent, "--count", str(COUNT)).split()
        with ThreadPoolExecutor(COUNT) as pool:
            list(pool.map(lambda child: run_true(calls_into(banger, child)), children))

        took = elapsed()

    assert len(children) == COUNT
    banger.ok("vm", "delete", "-q", *children)
    copy = _copy_seconds(_memory_in_use(banger, parent))
    return _Round(floor, eight, took, _pause(banger, parent), copy)


def _pause(banger: Banger, parent: str) -> float:
    """How long a program in the parent is not heard of while it is forked."""
    with _ticking(calls_into(banger, parent)) as pulse:
        began = time.perf_counter()
        child = banger.ok("vm", "fork", "-q", parent)
        gap = pulse.longest_gap(began)

    # It has the program, too.
    banger.ok("vm", "delete", "-q", child)
    return gap


@contextmanager
def _ticking(calls: GuestCalls) -> Iterator[_Pulse]:
    pulse = _Pulse()
    request = Exec(argv=("timeout", "60", "python3", "-c", _TICKER))
    thread = threading.Thread(target=lambda: calls.ask(request, Exited, sink=pulse.beat))
    thread.start()
    try:
        while not pulse.going():
            time.sleep(0.05)

        yield pulse
    finally:
        calls.ask(Exec(argv=("pkill", "-f", "os.write")), Exited)
        thread.join()


def _memory_in_use(banger: Banger, vm: str) -> float:
    """MiB of memory that the process of a VM has written: the guest's, nearly all of it."""
    text = Path(f"/proc/{banger.vm(vm)['pid']}/smaps_rollup").read_text()
    written = re.search(r"^Private_Dirty: +(\d+) kB", text, re.MULTILINE)
    assert written is not None
    return int(written[1]) / 1024


def _copy_seconds(mebibytes: float) -> float:
    """How long so much memory takes to be copied."""
    source = bytearray(int(mebibytes * MIB))
    source[::4096] = b"x" * len(range(0, len(source), 4096))
    with stopwatch() as elapsed:
        bytes(source)
        return elapsed()
