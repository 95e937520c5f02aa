"""What a process uses, measured on this one."""

from __future__ import annotations

import os
import time

from banger.host.process import ProcessRef, reference
from banger.hypervisor.qemu.tsc import measure_tsc_khz
from banger.hypervisor.usage import read_usage


def test_the_usage_of_this_process_is_plausible() -> None:
    me = reference(os.getpid())
    assert me is not None

    usage = read_usage(me)

    assert usage is not None
    assert 0 < usage.cpu_seconds <= time.process_time() + 1
    assert 0 < usage.pss_bytes <= usage.rss_bytes
    assert usage.uptime_seconds > 0
    assert usage.cpu_percent == 100 * usage.cpu_seconds / usage.uptime_seconds


def test_a_process_that_only_has_the_same_pid_uses_nothing() -> None:
    assert read_usage(ProcessRef(pid=os.getpid(), start_time=1)) is None


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert read_usage(ProcessRef(pid=2**22 + 1, start_time=1)) is None


def test_the_rate_of_the_counter_is_the_same_twice() -> None:
    first, second = measure_tsc_khz(), measure_tsc_khz()

    assert first is not None
    assert second is not None
    assert abs(first - second) < first / 1000
