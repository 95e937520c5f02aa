"""Why a VMM ended, from what real guests have said last."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.hypervisor.base import ExitReason
from banger.hypervisor.firecracker import postmortem, record

RESET = "[   72.917785] reboot: Restarting system\r\n"


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        (f"banger: poweroff\r\n{RESET}", ExitReason.GUEST_POWEROFF),
        (f"banger: halt\r\n{RESET}", ExitReason.GUEST_POWEROFF),
        (f"banger: reboot\r\n{RESET}", ExitReason.GUEST_REBOOT),
        (f"banger: no disk with serial 'root'; powering off\r\n{RESET}", ExitReason.GUEST_POWEROFF),
        (RESET, ExitReason.GUEST_REBOOT),
        ("[ 6.543255] reboot: System halted\r\n", ExitReason.GUEST_POWEROFF),
        ("[ 1.0] Kernel panic - not syncing: sysrq\r\n", ExitReason.GUEST_PANIC),
        ("login: \r\n", None),
        ("somebody says banger: poweroff\r\n", None),
        ("", None),
    ],
)
def test_the_console_says_why(console: str, reason: ExitReason | None) -> None:
    assert postmortem.guests_reason(console) is reason


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[a-1:fc_vcpu 0] Received KVM_EXIT_SHUTDOWN signal\n", ExitReason.TRIPLE_FAULT),
        ("[a-1:fc_vcpu 1] Received KVM_EXIT_FAIL_ENTRY signal: 5\n", ExitReason.KVM_FAILED),
        ("[a-1:fc_vcpu 1] Received KVM_EXIT_INTERNAL_ERROR signal\n", ExitReason.KVM_FAILED),
        ("Unexpected exit reason on vcpu run: Hypercall\n", ExitReason.KVM_FAILED),
        ("[a-1:main] Vmm is stopping.\n", ExitReason.DIED),
    ],
)
def test_of_what_the_guest_cannot_say_the_vmms_log_tells(
    home: Path, said: str, reason: ExitReason
) -> None:
    run_dir = noted(home, said=0)
    (run_dir / record.LOG).write_text(said)
    assert postmortem.read(run_dir) is reason

    record.note_stop(run_dir)
    assert postmortem.read(run_dir) is ExitReason.STOPPED


def noted(home: Path, *, said: int) -> Path:
    run_dir = home / "run"
    run_dir.mkdir(exist_ok=True)
    found = record.Record(
        jail="a-1",
        firecracker="/usr/bin/firecracker",
        console=str(home / "console.log"),
        said=said,
        saving=str(home / "saving"),
        memory=1 << 20,
        disks={},
    )
    record.write(run_dir, found)
    assert record.read(run_dir) == found
    return run_dir


def test_what_an_earlier_vmm_said_does_not_count(home: Path) -> None:
    earlier = f"banger: reboot\r\n{RESET}"
    (home / "console.log").write_text(earlier)
    run_dir = noted(home, said=len(earlier))
    assert postmortem.read(run_dir) is ExitReason.DIED
    with (home / "console.log").open("a") as log:
        log.write(f"banger: poweroff\r\n{RESET}")

    assert postmortem.read(run_dir) is ExitReason.GUEST_POWEROFF


def test_a_log_that_was_emptied_is_read_from_its_beginning(home: Path) -> None:
    (home / "console.log").write_text(f"banger: poweroff\r\n{RESET}")
    assert postmortem.read(noted(home, said=10_000)) is ExitReason.GUEST_POWEROFF


def test_a_stop_by_banger_is_noted_until_the_next_start(home: Path) -> None:
    run_dir = noted(home, said=0)
    record.note_stop(run_dir)
    assert postmortem.read(run_dir) is ExitReason.STOPPED
    assert postmortem.read(noted(home, said=0)) is ExitReason.DIED


def test_without_a_record_nothing_is_known(home: Path) -> None:
    assert postmortem.read(home) is ExitReason.DIED
    record.note_stop(home / "gone")
