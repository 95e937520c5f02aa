"""VMs on an installed host: what root makes for them is made before it is used, and never left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.daemon.vms.installed import Root
from tests.unit.daemon.vms.world import (
    Daemon,
    FakeHypervisor,
    daemon,
    failed_with,
    killed_at,
    leftovers,
)

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.models import CreateVM, PortForward, UpdateVM, VMState
from banger.daemon.paths.base import Seams
from banger.daemon.paths.steps import HeardLaunch, Known, RootDevice, Tap
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.autostart import start_after_boot
from banger.daemon.vms.create import CREATE_STEPS
from banger.daemon.vms.start import Initrd, Ready, RunDirectory
from banger.host.config import Config, NetworkSection
from banger.hypervisor.base import ExitReason
from banger.privileged import ops

RUN = [step.name for step in (RunDirectory, Tap, Known, RootDevice, Initrd, HeardLaunch)]
CREATE = [step.name for step in CREATE_STEPS]
PLACES = [
    *(("create", name) for name in CREATE),
    *(("start", name) for name in (*RUN, Ready.name)),
    *(("stop", name) for name in RUN),
    *(("delete", name) for name in (*RUN, *CREATE)),
]


@pytest.fixture
def life(tmp_path: Path, root: Root) -> Callable[..., AbstractAsyncContextManager[Daemon]]:
    return partial(daemon, tmp_path, root.processes, path=root.open)


@pytest.fixture
async def host(life: Callable[..., Any]) -> AsyncIterator[Daemon]:
    async with life() as one:
        yield one


def held(root: Root) -> tuple[int, int, int]:
    """How many VMMs, root devices, and guests that may speak there are."""
    return len(root.processes.alive), len(root.snapshots), len(root.speakers)


async def test_a_vm_runs_on_what_root_made_for_it(host: Daemon, root: Root) -> None:
    assert failed_with(await host.create("dev")) is None

    vm = await host.vms.show("dev")
    [plan] = root.plans.values()
    [disk, work] = plan.disks
    assert held(root) == (1, 1, 1)
    assert disk.device == f"fc-rootfs-{vm.id}"
    assert disk.path.suffix == ".cow"
    assert (work.device, work.format) == (None, "raw")
    assert root.policy is not None
    [guest] = root.policy.guests
    assert (guest.address, guest.egress) == (vm.address, ops.Egress.NONE)


async def test_nobody_speaks_after_a_launch_that_failed_while_the_filter_was_told(
    host: Daemon, root: Root
) -> None:
    assert isinstance(host.site.hypervisor, FakeHypervisor)
    host.site.hypervisor.failing.add("launch")
    root.slow.add(ops.ApplyPolicy)

    assert failed_with(await host.create("dev")) is ErrorCode.LAUNCH_FAILED

    await asyncio.sleep(0.2)
    assert held(root) == (0, 0, 0)


async def test_it_is_reached_at_its_own_address_and_by_its_name(host: Daemon) -> None:
    await host.create("dev")
    vm = await host.vms.show("dev")
    endpoint = await host.vms.ssh("dev")

    assert (endpoint.host, endpoint.port) == (vm.address, 22)
    assert (vm.ssh_host, vm.ssh_port, vm.hostname) == (vm.address, 22, "dev.vm")
    assert await host.site.store.leases("port") == set()


async def test_a_plain_ssh_knows_the_guest_by_its_name_while_it_runs(host: Daemon) -> None:
    names = host.site.paths.ssh_names
    await host.create("dev")
    public = Path((await host.vms.ssh("dev")).known_hosts_file).read_text().split()[1:]
    assert (names / "dev.vm").read_text().split() == ["dev.vm", *public]

    await host.done(await host.vms.stop("dev"))
    assert list(names.iterdir()) == []


async def test_stopping_and_deleting_give_everything_back(
    host: Daemon, root: Root, tmp_path: Path
) -> None:
    await host.create("dev")
    await host.done(await host.vms.stop("dev"))
    assert held(root) == (0, 0, 0)
    assert (await host.site.store.find_vm("dev")).handles.tap == ""

    await host.done(await host.vms.delete("dev"))
    assert leftovers(tmp_path, root.processes) == []
    assert list((tmp_path / "state/disks").iterdir()) == []


async def test_a_tap_serves_one_vm_and_goes(host: Daemon, root: Root) -> None:
    await host.create("dev")
    [used] = root.speakers
    await host.done(await host.vms.restart("dev"))

    assert used not in root.taps
    assert root.speakers != {used}


async def test_what_a_guest_may_reach_is_said_to_the_packet_filter(
    host: Daemon, root: Root
) -> None:
    allowed = ("192.0.2.0/24", "198.51.100.7/32")
    await host.done(await host.vms.create(CreateVM(name="dev", allow=allowed)))
    assert _egress(root) == [(ops.Egress.ALLOW, allowed)]

    await host.done(await host.vms.stop("dev"))
    await host.done(await host.vms.update("dev", UpdateVM(nat=True)))
    await host.done(await host.vms.start("dev"))
    assert _egress(root) == [(ops.Egress.NAT, ())]
    assert (await host.vms.show("dev")).spec.allow == ()


@pytest.mark.parametrize(
    "wanted",
    [
        {"allow": ("169.254.169.254",)},
        {"allow": ("somewhere",)},
        {"allow": ("192.0.2.0/24",), "nat": True},
        {"ports": (PortForward(host_port=8080, guest_port=80, host_ip="224.0.0.1"),)},
        {"ports": (PortForward(host_port=8080, guest_port=80, host_ip="localhost"),)},
        {"ports": tuple(PortForward(host_port=n, guest_port=80) for n in range(2000, 2300))},
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_done(
    host: Daemon, wanted: dict[str, Any]
) -> None:
    with pytest.raises(CallerError):
        await host.vms.create(CreateVM(name="dev", **wanted))

    assert await host.vms.list() == []


async def test_a_root_disk_is_looked_at_after_an_end_that_was_not_clean(
    host: Daemon, root: Root
) -> None:
    await host.create("dev")
    await host.done(await host.vms.restart("dev"))
    assert root.checked == []

    [handle] = root.processes.alive.values()
    host.hypervisor.end(handle, ExitReason.DIED)
    await host.quiet()
    await host.done(await host.vms.start("dev"))
    assert len(root.checked) == 1


async def test_a_guest_that_powers_off_gives_everything_back(host: Daemon, root: Root) -> None:
    await host.create("dev")
    [handle] = root.processes.alive.values()
    host.hypervisor.end(handle, ExitReason.GUEST_POWEROFF)
    await host.quiet()

    assert held(root) == (0, 0, 0)
    await host.done(await host.vms.start("dev"))
    assert root.checked == []


async def test_a_guest_that_reboots_gets_another_vmm(host: Daemon, root: Root) -> None:
    await host.create("dev")
    before = await host.vms.show("dev")
    [handle] = root.processes.alive.values()
    host.hypervisor.end(handle, ExitReason.GUEST_REBOOT)
    await host.quiet()

    after = await host.vms.show("dev")
    assert (after.state, after.address) == (VMState.RUNNING, before.address)
    assert after.pid != before.pid
    assert after.boot_id != before.boot_id
    assert held(root) == (1, 1, 1)
    assert root.checked == []

    [handle] = root.processes.alive.values()
    host.hypervisor.end(handle, ExitReason.GUEST_POWEROFF)
    await host.quiet()
    assert (await host.vms.show("dev")).reason == "guest powered off"


async def test_many_at_once_get_taps_and_addresses_of_their_own(host: Daemon, root: Root) -> None:
    names = [f"vm-{number}" for number in range(12)]
    await asyncio.gather(*(host.create(name) for name in names))

    assert held(root) == (len(names),) * 3
    assert len({vm.address for vm in await host.vms.list()}) == len(names)


async def test_a_vm_that_runs_keeps_all_it_has_over_a_restart_of_the_daemon(
    life: Callable[..., Any], root: Root
) -> None:
    async with life() as before:
        await before.create("dev")
        old = await before.vms.show("dev")

    speakers = root.speakers
    async with life() as after:
        await after.quiet()
        assert (await after.vms.show("dev")).pid == old.pid
        assert root.speakers == speakers
        assert held(root) == (1, 1, 1)
        await after.create("other")
        assert held(root) == (2, 2, 2)
        await after.done(await after.vms.delete("dev"))
        assert held(root) == (1, 1, 1)


async def test_after_a_reboot_of_the_host_vms_start_with_what_is_new(
    life: Callable[..., Any], root: Root
) -> None:
    async with life() as before:
        await before.create("one")
        await before.create("two")

    root.reboot()
    async with life(host_boot_id="boot 2") as after:
        # The taps of those that ran are not taken from whoever has their names next.
        assert failed_with(await after.create("three")) is None
        await after.quiet()
        assert {vm.state for vm in await after.vms.list() if vm.name != "three"} == {
            VMState.STOPPED
        }
        assert held(root) == (1, 1, 1)
        assert failed_with(await after.done(await after.vms.start("one"))) is None
        assert held(root) == (2, 2, 2)


async def test_what_belongs_to_no_vm_is_removed_when_the_daemon_starts(
    life: Callable[..., Any], root: Root, tmp_path: Path
) -> None:
    stray = ops.CreateSnapshot(name="fc-rootfs-0123456789ab", base="", cow="", size=0)
    root.snapshots[stray.name] = stray
    async with life():
        assert held(root) == (0, 0, 0)


async def test_the_network_stays_while_vms_have_addresses_of_it(
    life: Callable[..., Any], root: Root
) -> None:
    async with life() as before:
        await before.create("dev", start=False)
        subnet = (await before.site.store.find_vm("dev")).handles.subnet

    async def elsewhere(
        hypervisor: FakeHypervisor, config: Config, rows: Sequence[VMRow], boot_id: str
    ) -> Seams:
        network = NetworkSection(subnet=IPv4Network("172.31.0.0/16"))
        changed = msgspec.structs.replace(config, network=network)
        return await root.open(hypervisor, changed, rows, boot_id)

    async with life(path=elsewhere) as after:
        await after.create("new", start=False)
        assert (await after.site.store.find_vm("new")).handles.subnet == subnet
        for name in ("dev", "new"):
            await after.done(await after.vms.delete(name))

    async with life(path=elsewhere) as last:
        await last.create("newer", start=False)
        assert (await last.site.store.find_vm("newer")).handles.subnet == "172.31.0.0/16"


async def test_autostart_starts_once_after_each_boot_of_the_host(
    life: Callable[..., Any], root: Root
) -> None:
    async with life() as one:
        for name, wanted in (("always", True), ("never", False)):
            request = CreateVM(name=name, autostart=wanted, start=False)
            await one.done(await one.vms.create(request))

        await start_after_boot(one.site, one.vms, one.operations)
        assert await _running(one) == ["always"]
        await one.done(await one.vms.stop("always"))
        await start_after_boot(one.site, one.vms, one.operations)
        assert await _running(one) == []

    root.reboot()
    async with life(host_boot_id="boot 2") as two:
        await start_after_boot(two.site, two.vms, two.operations)
        assert await _running(two) == ["always"]


@pytest.mark.parametrize("place", PLACES, ids=":".join)
async def test_a_failure_at_any_step_is_taken_back_or_finished_when_asked_again(
    place: tuple[str, str], life: Callable[..., Any], root: Root, tmp_path: Path
) -> None:
    async def hook(label: str, step: str) -> None:
        if (label, step) == place:
            raise PermanentError(ErrorCode.INTERNAL, "injected")

    label, _ = place
    async with life(hook=hook) as one:
        made = failed_with(await one.create("dev")) is None
        assert made == (label not in ("create", "start"))
        if label == "stop":
            assert failed_with(await one.done(await one.vms.stop("dev"))) is not None

        if label == "delete":
            assert failed_with(await one.done(await one.vms.delete("dev"))) is not None

    async with life() as two:
        await two.quiet()
        assert held(root) == (0, 0, 0)
        states = [vm.state for vm in await two.vms.list()]
        assert states == ([VMState.STOPPED] if label == "stop" else [])

    assert (leftovers(tmp_path, root.processes) == []) == (label != "stop")


@pytest.mark.parametrize("place", PLACES, ids=":".join)
def test_a_daemon_that_is_killed_at_any_step_is_cleaned_up_after(
    place: tuple[str, str], root: Root, tmp_path: Path
) -> None:
    async def work(one: Daemon) -> None:
        await one.create("dev")
        verb = one.vms.stop if place[0] == "stop" else one.vms.delete
        await one.done(await verb("dev"))

    assert killed_at(place, tmp_path, root.processes, work, path=root.open)

    async def after() -> None:
        async with daemon(tmp_path, root.processes, path=root.open) as two:
            await two.quiet()
            assert held(root) == (0, 0, 0)
            for vm in await two.vms.list():
                assert vm.state is VMState.STOPPED
                assert failed_with(await two.done(await two.vms.start(vm.id))) is None
                assert held(root) == (1, 1, 1)
                assert failed_with(await two.done(await two.vms.delete(vm.id))) is None

            assert held(root) == (0, 0, 0)

    asyncio.run(after())
    assert leftovers(tmp_path, root.processes) == []


@pytest.mark.parametrize("how", ["failing", "unanswered"])
@pytest.mark.parametrize("request_type", [ops.ApplyPolicy, ops.CreateSnapshot])
async def test_a_start_that_root_does_not_help_with_leaves_nothing(
    host: Daemon, root: Root, how: str, request_type: type
) -> None:
    await host.create("dev", start=False)
    async with _trouble(root, how, request_type):
        assert failed_with(await host.done(await host.vms.start("dev"))) is not None

    await host.done(await host.vms.stop("dev"))
    assert held(root) == (0, 0, 0)
    assert failed_with(await host.done(await host.vms.start("dev"))) is None


@pytest.mark.parametrize("request_type", [ops.ApplyPolicy, ops.RemoveSnapshot, ops.DeleteTaps])
async def test_a_stop_that_root_does_not_help_with_is_finished_when_asked_again(
    host: Daemon, root: Root, request_type: type
) -> None:
    await host.create("dev")
    async with _trouble(root, "unanswered", request_type):
        assert failed_with(await host.done(await host.vms.stop("dev"))) is not None

    assert failed_with(await host.done(await host.vms.stop("dev"))) is None
    assert held(root) == (0, 0, 0)


def _egress(root: Root) -> list[tuple[ops.Egress, tuple[str, ...]]]:
    assert root.policy is not None
    return [(guest.egress, guest.allow) for guest in root.policy.guests]


async def _running(one: Daemon) -> list[str]:
    return [vm.name for vm in await one.vms.list() if vm.state is VMState.RUNNING]


@asynccontextmanager
async def _trouble(root: Root, how: str, request_type: type) -> AsyncIterator[None]:
    troubled = root.failing if how == "failing" else root.unanswered
    troubled.add(request_type)
    yield
    troubled.remove(request_type)
