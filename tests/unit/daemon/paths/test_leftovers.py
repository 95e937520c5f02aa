"""What root made for VMs that are gone is removed; what lives and is known is left alone."""

from __future__ import annotations

from typing import TypeVar, cast

from banger.api.errors import ErrorCode, PermanentError
from banger.daemon.paths.leftovers import remove_leftovers
from banger.privileged import ops

R = TypeVar("R")

KNOWN, GONE = "0123456789ab", "ba9876543210"
OWNED = ops.Owned(
    bridges=("br-fc",),
    taps=(),
    snapshots=(f"fc-rootfs-{KNOWN}", f"fc-rootfs-{GONE}"),
    jails=(f"{KNOWN}-1", f"{KNOWN}-2", f"{GONE}-1", f"{GONE}-2"),
)


class Helper:
    """Jails with a process in those that are `alive`; what is `stuck` cannot be removed."""

    def __init__(self, alive: set[str], stuck: str = "") -> None:
        self.alive = alive
        self.stuck = stuck
        self.removed: set[str] = set()

    async def call(self, request: ops.Request[R]) -> R:
        reply: object = None
        match request:
            case ops.FindProcess(jail=jail):
                found = ops.Process(pid=1, start_time=1) if jail in self.alive else None
                reply = ops.Found(process=found)
            case ops.SignalProcess(jail=jail, signal=ops.Signal.KILL):
                self.alive.remove(jail)
                reply = ops.Delivery(delivered=True)
            case ops.RemoveJail(jail=name) | ops.RemoveSnapshot(name=name):
                assert name not in self.alive
                if name == self.stuck:
                    raise PermanentError(ErrorCode.TOOL_FAILED, "busy")

                self.removed.add(name)

        return cast("R", reply)


async def test_the_vmm_of_a_vm_that_exists_is_left_to_reconciliation() -> None:
    helper = Helper({f"{KNOWN}-2", f"{GONE}-2"})
    await remove_leftovers(helper, OWNED, {KNOWN})

    assert helper.alive == {f"{KNOWN}-2"}
    assert helper.removed == {f"{KNOWN}-1", f"{GONE}-1", f"{GONE}-2", f"fc-rootfs-{GONE}"}


async def test_one_that_cannot_be_removed_keeps_no_other() -> None:
    helper = Helper(set(), stuck=f"{GONE}-1")
    await remove_leftovers(helper, OWNED, {KNOWN})
    assert f"fc-rootfs-{GONE}" in helper.removed
