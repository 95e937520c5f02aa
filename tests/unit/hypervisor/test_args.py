"""The command line that a launch plan becomes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from banger.hypervisor.base import Disk, Forward, LaunchPlan, MemoryImage
from banger.hypervisor.qemu import args
from banger.hypervisor.qemu.args import Surroundings, command_line, option


def argv(
    plan: LaunchPlan, accelerator: Literal["kvm", "tcg"] = "tcg", tsc_khz: int | None = None
) -> list[str]:
    around = Surroundings("qemu", accelerator, monitor=8, tsc_khz=tsc_khz, now=1_800_000_000)
    return command_line(plan, around)


def test_each_stream_of_the_agent_is_a_port_of_its_own(plan: LaunchPlan) -> None:
    around = Surroundings("qemu", "tcg", monitor=8, agents=(20, 21))
    words = command_line(plan, around)

    for number in range(2):
        backend = f"socket,id=agent{number},fd=2{number},server=on,wait=off"
        device = f"virtserialport,chardev=agent{number},name=banger.agent.{number}"
        assert backend in values(words, "-chardev")
        assert device in values(words, "-device")


def values(words: list[str], name: str) -> list[str]:
    return [value for key, value in pairwise(words) if key == name]


def read_option(text: str) -> list[str]:
    """The fields of an option as QEMU's parser takes it apart (util/keyval.c)."""
    placeholder = "\0"
    fields = text.replace(",,", placeholder).split(",")
    return [field.replace(placeholder, ",") for field in fields]


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1)))
def test_no_value_can_add_or_change_another_field(texts: list[str]) -> None:
    fields = [(f"k{number}", text) for number, text in enumerate(texts)]

    found = read_option(option("head", *fields))

    assert found == ["head", *(f"{key}={value}" for key, value in fields)]


@given(name=st.text(st.characters(categories=["L", "P", "Zs"]), min_size=1))
def test_a_console_log_is_found_in_the_command_line_whatever_its_name(name: str) -> None:
    words = ["-chardev", option("file", ("id", "console"), ("append", True), ("path", name))]

    assert args.console_log(words) == Path(name)


def test_the_plan_is_in_the_command_line(plan: LaunchPlan) -> None:
    words = argv(replace(plan, vcpus=3, memory=512 << 20))

    assert words[0] == "qemu"
    assert values(words, "-smp") == ["3"]
    assert values(words, "-m") == [f"size={512 << 20}b"]
    assert values(words, "-kernel") == [str(plan.kernel)]
    assert values(words, "-initrd") == [str(plan.initrd)]
    assert values(words, "-append") == ["quiet banger.started=1800000000"]
    assert values(words, "-pidfile") == [str(plan.run_dir / "qemu.pid")]
    assert args.console_log(words) == plan.console_log


def test_nothing_comes_from_outside_the_command_line(plan: LaunchPlan) -> None:
    words = argv(plan)

    assert {"-nodefaults", "-no-user-config"} <= set(words)
    assert values(words, "-display") == ["none"]


def test_a_guest_that_reboots_is_not_ended(plan: LaunchPlan) -> None:
    assert not {"-no-reboot", "-no-shutdown", "-action"} & set(argv(plan))


def test_a_vmm_can_neither_run_programs_nor_gain_privileges(plan: LaunchPlan) -> None:
    (sandbox,) = values(argv(plan), "-sandbox")

    assert {"on", "spawn=deny", "elevateprivileges=deny"} <= set(sandbox.split(","))


def test_emulation_and_kvm_differ_in_cpu_and_accelerator(plan: LaunchPlan) -> None:
    emulated, native = argv(plan, "tcg"), argv(plan, "kvm")

    assert values(emulated, "-accel")[0].startswith("tcg,")
    assert values(native, "-accel") == ["kvm"]
    assert values(native, "-cpu") == ["host"]
    assert (args.accelerator(emulated), args.accelerator(native)) == ("tcg", "kvm")


def test_only_an_emulated_guest_is_told_the_rate_of_its_clock(plan: LaunchPlan) -> None:
    started = "quiet banger.started=1800000000"
    told = f"{started} tsc_early_khz=2700000 tsc=reliable lpj=10800000"

    assert values(argv(plan, "tcg", 2700000), "-append") == [told]
    assert values(argv(plan, "tcg", None), "-append") == [started]
    assert values(argv(plan, "kvm", 2700000), "-append") == ["quiet"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(categories=["L", "P", "Zs"]), min_size=1))
def test_a_restored_guest_has_the_memory_of_its_image_and_waits(
    plan: LaunchPlan, name: str
) -> None:
    image = MemoryImage(directory=Path("/images") / name.replace("/", "_"))
    words = argv(replace(plan, memory=512 << 20, restore=image))

    (backend,) = (read_option(text) for text in values(words, "-object") if "memory" in text)
    assert backend[0] == "memory-backend-file"
    assert {"size=536870912b", f"mem-path={image.memory}", "share=off"} <= set(backend)
    (identity,) = (field for field in backend if field.startswith("id="))
    assert f"memory-backend={identity[3:]}" in values(words, "-machine")[0].split(",")
    assert values(words, "-incoming") == ["defer"]
    assert "-S" in words
    # All a reboot needs.
    assert {"-kernel", "-initrd", "-append"} <= set(words)


def test_a_guest_that_boots_is_not_waited_for(plan: LaunchPlan) -> None:
    assert not {"-S", "-incoming"} & set(argv(plan))


def test_disks_are_found_by_serial_and_durable(plan: LaunchPlan) -> None:
    disk = Disk(serial="work", path=Path("/d/a,b.raw"), format="raw")

    words = argv(replace(plan, disks=(disk,)))

    assert "virtio-blk-device,id=work,drive=work,serial=work" in values(words, "-device")
    (backend,) = values(words, "-blockdev")
    assert {
        "driver=raw",
        "read-only=off",
        "file.filename=/d/a,b.raw",
        "file.locking=on",
        "cache.no-flush=off",
        "discard=unmap",
    } <= set(read_option(backend))


def test_a_read_only_disk_is_attached_read_only(plan: LaunchPlan) -> None:
    disk = Disk(serial="seed", path=Path("/d/seed"), format="raw", readonly=True)

    (backend,) = values(argv(replace(plan, disks=(disk,))), "-blockdev")

    assert "read-only=on" in backend.split(",")


@pytest.mark.parametrize(("egress", "restrict"), [(False, "on"), (True, "off")])
def test_a_guest_reaches_the_world_only_with_egress(
    plan: LaunchPlan, egress: bool, restrict: str
) -> None:
    (backend,) = values(argv(replace(plan, nic=replace(plan.nic, egress=egress))), "-netdev")

    assert f"restrict={restrict}" in backend.split(",")
    assert "ipv6=off" in backend.split(",")


def test_forwards_name_both_ends(plan: LaunchPlan) -> None:
    forwards = (
        Forward(host_ip="127.0.0.1", host_port=2201, guest_port=22),
        Forward(host_ip="0.0.0.0", host_port=5353, guest_port=53, protocol="udp"),
    )

    (backend,) = values(argv(replace(plan, nic=replace(plan.nic, forwards=forwards))), "-netdev")

    assert [field for field in backend.split(",") if field.startswith("hostfwd=")] == [
        "hostfwd=tcp:127.0.0.1:2201-10.213.0.17:22",
        "hostfwd=udp:0.0.0.0:5353-10.213.0.17:53",
    ]
