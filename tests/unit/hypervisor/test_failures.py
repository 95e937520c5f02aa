"""QEMU's last words as banger's errors. The texts are those of QEMU 7.2."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import CallerError, ErrorCode
from banger.hypervisor.qemu.failures import explain

FORWARD = (
    "qemu-system-x86_64: -netdev user,id=nic: "
    "Could not set up host forwarding rule 'tcp:127.0.0.1:2201-10.213.0.17:22'\n"
)
LOCK = (
    'qemu-system-x86_64: -blockdev driver=qcow2: Failed to get "write" lock\n'
    "Is another process using the image [/vms/a/root.qcow2]?\n"
)
MEMORY = "qemu-system-x86_64: cannot set up guest memory 'microvm.ram': Cannot allocate memory\n"


def test_a_forward_in_use_names_the_port() -> None:
    error = explain(FORWARD, "exit status 1")

    assert isinstance(error, CallerError)
    assert error.code is ErrorCode.PORT_TAKEN
    assert "127.0.0.1:2201" in error.message
    assert ":2201" in (error.hint or "")


def test_a_locked_disk_is_named() -> None:
    error = explain(LOCK, "exit status 1")

    assert error.message == "/vms/a/root.qcow2 is in use by another process"
    assert error.hint == "see which: fuser -v /vms/a/root.qcow2"


def test_memory_the_host_does_not_have() -> None:
    assert explain(MEMORY, "exit status 1").code is ErrorCode.INSUFFICIENT_MEMORY


def test_anything_else_is_said_in_qemus_own_last_line() -> None:
    error = explain("a warning\nqemu-system-x86_64: -device x: no such thing\n\n", "status 1")

    assert error.code is ErrorCode.LAUNCH_FAILED
    assert error.message == "QEMU did not start: -device x: no such thing"


def test_an_end_without_a_word_tells_how_it_ended() -> None:
    assert explain("\n", "killed by signal 9").message.endswith("killed by signal 9")


@given(st.text())
def test_every_output_gives_one_line(output: str) -> None:
    error = explain(output, "exit status 1")

    assert error.message
    assert error.hint
    assert len(error.message.splitlines()) == 1
