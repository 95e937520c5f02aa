"""What a plan becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from banger.hypervisor.base import LaunchPlan, MemoryImage, UserNic
from banger.hypervisor.firecracker import config
from banger.hypervisor.firecracker.model import (
    Action,
    BootSource,
    Drive,
    Logger,
    NetworkInterface,
    NetworkLimit,
    NetworkOverride,
    SnapshotLoad,
)
from banger.privileged.gates import names

PROGRAM = config.Program("/usr/bin/firecracker", "/usr/bin/jailer", confined=True)


def test_a_jail_has_what_the_guest_needs_and_no_more(plan: LaunchPlan) -> None:
    request = config.launch_request(plan, "0123456789ab-1", PROGRAM)
    assert {file.name: file.readonly for file in request.files} == {
        "saving": False,
        "work": False,
        "kernel": True,
        "initrd": True,
    }
    assert [(device.name, device.snapshot) for device in request.devices] == [
        ("root", "fc-rootfs-0123456789ab")
    ]
    for name in (*(f.name for f in request.files), *(d.name for d in request.devices)):
        assert names.file_name(name)


def test_limits_follow_from_the_plan(plan: LaunchPlan) -> None:
    bounds = config.limits(plan)
    aside = config.limits(replace(plan, background=True))
    assert (bounds.cpu_weight, aside.cpu_weight) == (100, 1)
    assert bounds.memory > plan.memory
    assert bounds.cpu_percent == 300
    unconfined = config.Program("/usr/bin/firecracker", "/usr/bin/jailer", confined=False)
    assert config.launch_request(plan, "a", unconfined).limits is None


def test_disks_are_given_in_their_order_by_the_names_they_have_in_the_jail(
    plan: LaunchPlan,
) -> None:
    drives = [setting for setting in config.settings(plan) if isinstance(setting, Drive)]
    assert [drive.path_on_host for drive in drives] == ["/devices/root", "/files/work"]
    assert {drive.cache_type for drive in drives} == {"Writeback"}, "a flush is an fsync(2)"


def test_the_guest_is_told_how_it_can_end(plan: LaunchPlan) -> None:
    source = next(s for s in config.settings(plan) if isinstance(s, BootSource))
    assert source.boot_args.startswith(plan.cmdline)
    assert "reboot=k" in source.boot_args.split()


def test_it_writes_a_log_of_its_own_from_the_first_and_starts_last(plan: LaunchPlan) -> None:
    first, *_, last = config.settings(plan)
    assert first == Logger(level="Info", log_path="/run/log")
    assert last == Action(action_type="InstanceStart")


def test_a_restored_guest_gets_its_own_tap_and_disks_and_no_kernel(plan: LaunchPlan) -> None:
    saved = replace(plan, restore=MemoryImage(directory=Path("/snapshots/a")))
    *_, load = config.settings(saved)
    assert isinstance(load, SnapshotLoad)
    assert load.network_overrides == (NetworkOverride(iface_id="eth0", host_dev_name="tap-fc-1"),)
    assert not load.resume_vm
    files = config.launch_request(saved, "a", PROGRAM).files
    assert {file.name: file.readonly for file in files} == {
        "saving": False,
        "work": False,
        "restored": True,
    }


def test_another_network_is_a_mistake(plan: LaunchPlan) -> None:
    alone = UserNic(
        mac="06:00:00:00:00:11",
        cidr="10.0.0.0/16",
        gateway="10.0.0.2",
        dns="10.0.0.3",
        address="10.0.0.9",
        egress=False,
    )
    with pytest.raises(TypeError):
        config.settings(replace(plan, nic=alone))


def test_rates_bound_every_disk_and_both_directions_of_the_nic(plan: LaunchPlan) -> None:
    bounded = replace(plan, disk_rate=1 << 20, net_rate=1 << 10)
    drives = [setting for setting in config.settings(bounded) if isinstance(setting, Drive)]
    assert {drive.rate_limiter for drive in drives} == {config.rate_limiter(1 << 20)}
    (nic,) = (each for each in config.settings(bounded) if isinstance(each, NetworkInterface))
    assert nic.rx_rate_limiter == nic.tx_rate_limiter == config.rate_limiter(1 << 10)
    assert config.rate_limiter(0) is None


def test_a_restored_guest_is_bounded_before_it_goes_on(plan: LaunchPlan) -> None:
    saved = replace(plan, restore=MemoryImage(directory=Path("/snapshots/a")))
    bounded = replace(saved, disk_rate=1 << 20, net_rate=1 << 10)
    *_, load, root, work, nic = config.settings(bounded)
    assert isinstance(load, SnapshotLoad)
    assert [root.target, work.target] == ["/drives/root", "/drives/work"]
    assert isinstance(nic, NetworkLimit)
    assert {root.method, work.method, nic.method} == {"PATCH"}
