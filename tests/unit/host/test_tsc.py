"""The rate of the host's time stamp counter."""

from __future__ import annotations

import mmap
import platform
from pathlib import Path

import pytest

from banger.host.tsc import tsc_khz

CPUINFO = Path("/proc/cpuinfo").read_text()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 alone has this counter")
async def test_two_measurements_agree() -> None:
    first, second = await tsc_khz(), await tsc_khz()
    assert first is not None
    assert second is not None
    assert abs(first - second) < first / 1000


# With this flag the kernel did not have to measure, and "cpu MHz" is the counter's rate.
@pytest.mark.skipif("tsc_known_freq" not in CPUINFO, reason="the kernel measured it itself")
async def test_it_is_the_rate_the_kernel_knows() -> None:
    (line, *_) = (line for line in CPUINFO.splitlines() if line.startswith("cpu MHz"))
    assert await tsc_khz() == pytest.approx(float(line.split(":")[1]) * 1000, rel=1e-3)


async def test_without_leave_to_make_code_there_is_no_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> mmap.mmap:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert await tsc_khz() is None


async def test_other_architectures_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert await tsc_khz() is None
