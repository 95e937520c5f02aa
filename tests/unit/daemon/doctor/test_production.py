"""What is asked of a host that runs other people's code, read from files as the kernel has them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from banger.api.models import Check, CheckStatus
from banger.daemon.doctor import production

KSM = "sys/kernel/mm/ksm/run"
SWAPS = "proc/swaps"
SMT = "sys/devices/system/cpu/smt/active"
HOLE = "sys/devices/system/cpu/vulnerabilities/retbleed"
MULTIHIT = "sys/devices/system/cpu/vulnerabilities/itlb_multihit"
NX = "sys/module/kvm/parameters/nx_huge_pages"
THP = "sys/kernel/mm/transparent_hugepage/enabled"
COUNT = "proc/sys/net/netfilter/nf_conntrack_count"
CONSOLES = "proc/consoles"
PRINTK = "proc/sys/kernel/printk"
TIMER = "sys/module/kvm/parameters/min_timer_period_us"
MOST = "proc/sys/net/netfilter/nf_conntrack_max"

GOOD = {
    KSM: "0\n",
    SWAPS: "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n",
    SMT: "0\n",
    HOLE: "Mitigation: untrained return thunk\n",
    MULTIHIT: "Not affected\n",
    NX: "N\n",
    THP: "always [madvise] never\n",
    CONSOLES: "tty0 -WU (EC p  ) 4:7\n",
    PRINTK: "7\t4\t1\t7\n",
    TIMER: "200\n",
    COUNT: "3\n",
    MOST: "65536\n",
}
SWAP = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"
ALL = (
    production.memory_sharing,
    production.processor,
    production.huge_pages,
    production.console,
    production.timers,
    production.connections,
)
Look = Callable[[Path], Awaitable[Check]]


def host(root: Path, values: dict[str, str]) -> Path:
    for name, text in values.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return root


def examine(look: Look, root: Path) -> Check:
    async def asked() -> Check:
        return await look(root)

    return asyncio.run(asked())


@pytest.mark.parametrize("look", ALL)
def test_a_good_host_passes(tmp_path: Path, look: Look) -> None:
    assert examine(look, host(tmp_path, GOOD)).status is CheckStatus.PASS


@pytest.mark.parametrize("look", ALL)
def test_a_kernel_without_the_feature_passes(tmp_path: Path, look: Look) -> None:
    assert examine(look, tmp_path).status is CheckStatus.PASS


@pytest.mark.parametrize(
    ("look", "name", "value", "said", "fix"),
    [
        (production.memory_sharing, KSM, "1\n", "merged", "ksm/run"),
        (production.memory_sharing, SWAPS, SWAP, "/dev/sda2", "swapoff"),
        (production.processor, SMT, "1\n", "SMT", "smt/control"),
        (production.processor, HOLE, "Vulnerable\n", "retbleed", "microcode"),
        (production.huge_pages, NX, "Y\n", "nx_huge_pages", "never"),
        (production.huge_pages, THP, "always madvise [never]\n", "transparent", "madvise"),
        (production.console, CONSOLES, "ttyS0 -W- (EC a) 4:64\n", "ttyS0", "loglevel=1"),
        (production.timers, TIMER, "20\n", "every 20 us", "min_timer_period_us=200"),
        (production.connections, COUNT, "65000\n", "65000 of 65536", "131072"),
    ],
)
def test_each_recommendation_is_a_warning_with_its_fix(
    tmp_path: Path, look: Look, name: str, value: str, said: str, fix: str
) -> None:
    found = examine(look, host(tmp_path, GOOD | {name: value}))
    assert found.status is CheckStatus.WARN
    assert said in found.summary
    assert fix in (found.fix or "")


def test_a_serial_console_that_hears_of_errors_alone_is_fine(tmp_path: Path) -> None:
    values = GOOD | {CONSOLES: "ttyS0 -W- (EC a) 4:64\n", PRINTK: "1\t4\t1\t7\n"}
    assert examine(production.console, host(tmp_path, values)).status is CheckStatus.PASS


def test_a_processor_that_needs_it_may_split_huge_pages(tmp_path: Path) -> None:
    values = GOOD | {NX: "Y\n", MULTIHIT: "KVM: Mitigation: Split huge pages\n"}
    found = examine(production.huge_pages, host(tmp_path, values))
    assert found.status is CheckStatus.PASS
