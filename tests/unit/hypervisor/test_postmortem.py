"""Why a VMM ended, from what it wrote to standard error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.hypervisor.base import ExitReason
from banger.hypervisor.qemu import postmortem
from banger.hypervisor.qemu.postmortem import exit_reason

SIGNAL = "qemu-system-x86_64: terminating on signal 15 from pid 5788 (bash)\n"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("qemu_system_shutdown_request reason=6\n", ExitReason.GUEST_POWEROFF),
        ("77@1700000000.123:qemu_system_shutdown_request reason=6\n", ExitReason.GUEST_POWEROFF),
        ("qemu_system_shutdown_request reason=8\n", ExitReason.GUEST_PANIC),
        ("qemu_system_shutdown_request reason=2\n", ExitReason.STOPPED),
        ("qemu_system_shutdown_request reason=1\n", ExitReason.DIED),
        (SIGNAL, ExitReason.STOPPED),
        ("", ExitReason.DIED),
        ("qemu-system-x86_64: Slirp: Failed to send packet\n", ExitReason.DIED),
    ],
)
def test_each_end_has_its_reason(output: str, reason: ExitReason) -> None:
    assert exit_reason(output) is reason


@given(st.text(st.characters(exclude_characters="\n")))
def test_other_lines_do_not_hide_the_reason(line: str) -> None:
    assert exit_reason(f"{line}\nqemu_system_shutdown_request reason=6\n") is (
        ExitReason.GUEST_POWEROFF
    )


def test_a_kill_by_banger_is_told_from_a_death(tmp_path: Path) -> None:
    postmortem.log_file(tmp_path).write_text("a warning without an end of line")

    postmortem.note_kill(tmp_path)

    assert exit_reason(postmortem.read_log(tmp_path)) is ExitReason.STOPPED


def test_a_run_directory_that_is_gone_has_nothing_to_tell(tmp_path: Path) -> None:
    postmortem.note_kill(tmp_path / "gone")

    assert postmortem.read_log(tmp_path / "gone") == ""
