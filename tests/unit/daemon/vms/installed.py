"""An installed host whose root helper keeps in memory what it would have made.

Only for what happens when something fails: what root really does is tested in
tests/unit/privileged, and all of it together on the smoke host.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from tests.unit.daemon.vms.world import FakeHypervisor, Processes

from banger.api.errors import ErrorCode, OutcomeUnknown, PermanentError, TransientError
from banger.daemon.paths.base import Seams
from banger.daemon.paths.opening import open_seams
from banger.daemon.store.rows import VMRow
from banger.daemon.templates.making import HOSTNAME
from banger.host.config import Config
from banger.hypervisor.base import LaunchPlan, TapNic, VMMHandle
from banger.privileged import ops
from banger.privileged.gates import ports

R = TypeVar("R")

_MOMENT = 0.05


@dataclass
class Root:
    """What is on the host by root's hand; it outlives daemons, and a reboot takes all of it.

    What is named in `failing` fails without being done; what is in `unanswered` is done, and then
    nobody hears of it. The next of what is in `slow` is done a moment later, also for whoever has
    hung up meanwhile.
    """

    processes: Processes
    taps: dict[str, None] = field(default_factory=dict)
    snapshots: dict[str, ops.CreateSnapshot] = field(default_factory=dict)
    policy: ops.ApplyPolicy | None = None
    bridge: ops.EnsureBridge | None = None
    resolver: ops.RouteResolver | None = None
    checked: list[str] = field(default_factory=list)
    flushed: list[str] = field(default_factory=list)
    plans: dict[str, LaunchPlan] = field(default_factory=dict)
    failing: set[type] = field(default_factory=set)
    unanswered: set[type] = field(default_factory=set)
    slow: set[type] = field(default_factory=set)

    def reboot(self) -> None:
        """The host begins anew."""
        self.processes.alive.clear()
        self.processes.guests.clear()
        self.taps.clear()
        self.snapshots.clear()
        self.policy = self.bridge = self.resolver = None

    @property
    def speakers(self) -> set[str]:
        """The taps from which guests may speak."""
        return set() if self.policy is None else {guest.tap for guest in self.policy.guests}

    async def call(self, request: ops.Request[R]) -> R:
        """See PrivilegedOps.call."""
        if type(request) in self.failing:
            raise PermanentError(ErrorCode.TOOL_FAILED, f"injected: {type(request).__name__}")

        reply = await asyncio.shield(asyncio.ensure_future(self._do(request)))
        if type(request) in self.unanswered:
            raise OutcomeUnknown(ErrorCode.HELPER_UNREACHABLE, "no answer")

        return cast("R", reply)

    async def _do(self, request: ops.Request[R]) -> object:
        if type(request) in self.slow:
            self.slow.remove(type(request))
            await asyncio.sleep(_MOMENT)

        return self._handlers[type(request)](request)

    @property
    def _handlers(self) -> dict[type, Callable[..., object]]:
        return {
            ops.EnsureBridge: self._ensure_bridge,
            ops.CreateTaps: self._create_taps,
            ops.DeleteTaps: self._delete_taps,
            ops.ApplyPolicy: self._apply_policy,
            ops.RouteResolver: self._route_resolver,
            ops.CreateSnapshot: self._create_snapshot,
            ops.RemoveSnapshot: self._remove_snapshot,
            ops.FlushSnapshot: self._flush_snapshot,
            ops.CheckSnapshot: self._check_snapshot,
            ops.FindProcess: self._find_process,
            ops.SignalProcess: self._signal_process,
            ops.RemoveJail: self._remove_jail,
            ops.ListOwned: self._list_owned,
        }

    def _ensure_bridge(self, request: ops.EnsureBridge) -> None:
        self.bridge = request

    def _create_taps(self, request: ops.CreateTaps) -> None:
        assert self.policy is not None, "a tap before there is a packet filter"
        assert not self._used(request.taps), "a tap that a VMM has open"
        self.taps |= dict.fromkeys(request.taps)

    def _delete_taps(self, request: ops.DeleteTaps) -> None:
        assert not self._used(request.taps), "a tap that a VMM has open"
        for tap in request.taps:
            self.taps.pop(tap, None)

    def _apply_policy(self, request: ops.ApplyPolicy) -> None:
        wanted = (one for guest in request.guests for one in guest.published)
        ports.published(wanted, os.getuid())
        self.policy = request

    def _route_resolver(self, request: ops.RouteResolver) -> None:
        self.resolver = request

    def _create_snapshot(self, request: ops.CreateSnapshot) -> ops.Device:
        assert Path(request.base).stat().st_size <= request.size
        assert Path(request.cow).stat().st_size >= request.size
        if request.name in self.snapshots:
            raise TransientError(ErrorCode.HELPER_BUSY, f"{request.name} exists already")

        self.snapshots[request.name] = request
        return ops.Device(path=f"/dev/mapper/{request.name}", major=252, minor=0)

    def _remove_snapshot(self, request: ops.RemoveSnapshot) -> None:
        for plan in self._living():
            assert request.name not in {disk.device for disk in plan.disks}, "in use"

        self.snapshots.pop(request.name, None)

    def _flush_snapshot(self, request: ops.FlushSnapshot) -> None:
        assert request.name in self.snapshots
        self.flushed.append(request.name)

    def _check_snapshot(self, request: ops.CheckSnapshot) -> ops.CheckResult:
        assert request.name in self.snapshots
        self.checked.append(request.name)
        return ops.CheckResult(repaired=False)

    def _list_owned(self, _: ops.ListOwned) -> ops.Owned:
        return ops.Owned(
            bridges=(),
            taps=tuple(self.taps),
            snapshots=tuple(self.snapshots),
            jails=tuple(f"{plan.vm_id}-0" for plan in self._living()),
        )

    def _find_process(self, request: ops.FindProcess) -> ops.Found:
        handle = self._vmm(request.jail)
        if handle is None:
            return ops.Found(process=None)

        return ops.Found(process=ops.Process(pid=handle.pid, start_time=handle.start_time))

    def _signal_process(self, request: ops.SignalProcess) -> ops.Delivery:
        handle = self._vmm(request.jail)
        assert handle is not None
        self.processes.alive.pop(handle.run_dir)
        self.processes.guests.pop(handle.run_dir)
        return ops.Delivery(delivered=True)

    def _remove_jail(self, request: ops.RemoveJail) -> None:
        assert self._vmm(request.jail) is None, "somebody lives in it"

    def _vmm(self, jail: str) -> VMMHandle | None:
        for run_dir, handle in self.processes.alive.items():
            if self.plans[run_dir].vm_id == jail.removesuffix("-0"):
                return handle

        return None

    def _living(self) -> list[LaunchPlan]:
        return [self.plans[run_dir] for run_dir in self.processes.alive]

    def _used(self, taps: tuple[str, ...]) -> set[str]:
        nics = [plan.nic for plan in self._living()]
        return {nic.tap for nic in nics if isinstance(nic, TapNic)} & set(taps)

    async def open(
        self, hypervisor: FakeHypervisor, config: Config, rows: Sequence[VMRow], boot_id: str
    ) -> Seams:
        """The system path on this host: an `Opener` for `world.daemon`."""
        jailed = Jailed(self, hypervisor)
        return await open_seams(self, jailed, config, rows, boot_id, dns_port=0)


class Jailed(FakeHypervisor):
    """VMMs that get what root has made, or do not start. Other than that `inner`."""

    def __init__(self, root: Root, inner: FakeHypervisor) -> None:
        super().__init__(inner.processes)
        self._root = root
        # Whoever ends a VMM by the one wakes who watches it by the other.
        self._watches = inner._watches

    async def launch(self, plan: LaunchPlan) -> VMMHandle:
        """Start it if all that it is to have is there."""
        assert isinstance(plan.nic, TapNic)
        assert plan.nic.tap in self._root.taps
        devices = [disk.device for disk in plan.disks if disk.device is not None]
        assert devices
        assert set(devices) <= self._root.snapshots.keys()
        self._root.plans[str(plan.run_dir)] = plan
        return await super().launch(plan)

    async def resume(self, handle: VMMHandle) -> None:
        """A guest that goes on speaks at once; to one that becomes a template nobody does."""
        plan = self._root.plans[handle.run_dir]
        assert isinstance(plan.nic, TapNic)
        assert (plan.nic.tap in self._root.speakers) == (plan.name != HOSTNAME)
        await super().resume(handle)
