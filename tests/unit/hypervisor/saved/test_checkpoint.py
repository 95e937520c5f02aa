"""Guests saved and restored by real QEMU processes, with disks of layers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.hypervisor import tiny_kernel
from tests.unit.hypervisor.checkpoints import checkpoint, disk, elsewhere, overlay, read, write
from tests.unit.hypervisor.guests import (
    LETTERS,
    digest,
    goes_on,
    image_and_letter,
    refused,
    spoken,
    stands_still,
)
from tests.unit.hypervisor.waiting import until

from banger.api.errors import ErrorCode, PermanentError
from banger.hypervisor.base import ExitReason, LaunchPlan, VMMHandle
from banger.hypervisor.qemu import blocks, runstate
from banger.hypervisor.qemu import checkpoint as loading
from banger.hypervisor.qemu.driver import Qemu
from banger.hypervisor.qemu.qmp import Qmp

CLUSTER = 65536


async def test_a_paused_guest_stands_still_until_it_is_resumed(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan
) -> None:
    assert not await qemu.paused(running)

    await qemu.pause(running)
    await qemu.pause(running)

    assert await qemu.paused(running)
    assert await stands_still(qemu, running, plan)
    await qemu.resume(running)
    await qemu.resume(running)
    assert not await qemu.paused(running)
    await goes_on(plan)


async def test_the_next_daemon_can_let_a_guest_go_on(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan
) -> None:
    await qemu.pause(running)
    qemu.close()
    second = Qemu()

    await second.resume(running)

    await goes_on(plan)
    second.close()


async def test_a_guest_that_was_saved_goes_on(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    await checkpoint(qemu, running, home)

    assert not await qemu.paused(running)
    await goes_on(plan)
    assert spoken(plan) in LETTERS


async def test_a_restored_guest_waits_and_then_goes_on_where_it_was(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    image, letter = await image_and_letter(qemu, running, plan, home)
    clone = elsewhere(plan, "clone", restore=image)

    handle = await qemu.launch(clone)

    assert await qemu.paused(handle)
    assert await stands_still(qemu, handle, clone)
    assert spoken(clone) == b""
    await qemu.resume(handle)
    await goes_on(clone)
    assert spoken(clone).startswith(letter)
    assert spoken(clone) in LETTERS


async def test_many_run_from_one_image_which_does_not_change(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    image = await checkpoint(qemu, running, home)
    await qemu.kill(running, signal.SIGKILL)
    before = digest(image.memory), digest(image.state)
    clones = [elsewhere(plan, name, restore=image, disks=()) for name in ("one", "two")]
    clones = [
        replace(clone, disks=tuple(disk(s, overlay(clone.run_dir / s)) for s in ("root", "work")))
        for clone in clones
    ]

    for clone in clones:
        await qemu.resume(await qemu.launch(clone))

    for clone in clones:
        await goes_on(clone)

    first, second = (spoken(clone)[:3] for clone in clones)
    assert first == second
    assert (digest(image.memory), digest(image.state)) == before


async def test_empty_memory_takes_no_room(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    image = await checkpoint(qemu, running, home)

    info = image.memory.stat()
    assert info.st_size == plan.memory
    assert info.st_blocks * 512 < plan.memory // 8
    assert {path.stat().st_mode & 0o777 for path in (image.memory, image.state)} == {0o600}


async def test_a_restored_guest_can_be_saved_and_restored_again_and_again(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    handle, parent = running, plan
    for generation in range(3):
        image, letter = await image_and_letter(qemu, handle, parent, home)
        parent = elsewhere(plan, f"generation{generation}", restore=image)
        handle = await qemu.launch(parent)
        await qemu.resume(handle)
        await goes_on(parent)

        assert spoken(parent).startswith(letter)


async def test_a_restored_guest_that_reboots_boots_its_own_kernel(
    qemu: Qemu, plan: LaunchPlan, home: Path
) -> None:
    plan.kernel.write_bytes(tiny_kernel.reboot_later())
    first = await qemu.launch(plan)
    image = await checkpoint(qemu, first, home)
    await qemu.kill(first, signal.SIGKILL)
    kernel = home / "own"
    kernel.write_bytes(tiny_kernel.idle())
    clone = elsewhere(plan, "clone", restore=image, kernel=kernel)

    await qemu.resume(await qemu.launch(clone))

    await until(lambda: spoken(clone) == b"up\n")


async def test_disks_go_over_to_overlays_and_what_was_stays_as_it_was(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    root, work = home / "root", home / "work"
    await write(qemu, running, "root", 1)
    await write(qemu, running, "work", 2)
    tops = {s: overlay(home / f"{s}, 2: 1", home / s) for s in ("root", "work")}

    await qemu.save(running, home / "stream", [disk(s, p) for s, p in tops.items()], resume=True)
    before = digest(root), digest(work)
    await write(qemu, running, "root", 3)
    await write(qemu, running, "work", 4, at=4096)

    assert [await qemu.top(running, s) for s in tops] == list(tops.values())
    await qemu.terminate(running, 10)
    assert (digest(root), digest(work)) == before
    assert (read(root), read(work)) == (1, 2)
    assert (read(tops["root"]), read(tops["work"]), read(tops["work"], 4096)) == (3, 2, 4)


async def test_one_disk_can_go_over_alone_and_again(
    qemu: Qemu, running: VMMHandle, home: Path
) -> None:
    over = home / "root"
    for number in range(3):
        await write(qemu, running, "root", number + 1)
        top = overlay(home / f"layer{number}", over)
        await qemu.save(running, home / f"stream{number}", [disk("root", top)], resume=True)
        over = top

    assert await qemu.top(running, "root") == over
    assert await qemu.top(running, "work") == home / "work"
    await qemu.kill(running, signal.SIGKILL)
    layers = [home / "root", home / "layer0", home / "layer1", home / "layer2"]
    assert [read(layer) for layer in layers] == [1, 2, 3, 3]


async def test_nobody_else_can_write_to_what_a_vm_has_left_behind(
    qemu: Qemu, running: VMMHandle, home: Path
) -> None:
    top = overlay(home / "top", home / "root")
    await qemu.save(running, home / "stream", [disk("root", top)], resume=True)

    opened = Path(f"/proc/{running.pid}/fd")
    modes = {
        (opened.parent / "fdinfo" / link.name).read_text().split("flags:")[1].split()[0][-1]
        for link in opened.iterdir()
        if link.readlink() == home / "root"
    }
    assert modes == {"0"}  # O_RDONLY


async def test_a_saved_guest_that_need_not_go_on_is_paused_for_good(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    await qemu.save(running, home / "stream", [], resume=False)

    assert await qemu.paused(running)
    assert await stands_still(qemu, running, plan)
    await qemu.terminate(running, 10)
    assert qemu.exit_reason(running) is ExitReason.STOPPED


async def test_a_paused_guest_stays_paused_when_it_is_saved_twice_and_can_go_on(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    await qemu.pause(running)
    for number in range(2):
        top = overlay(home / f"top{number}", await qemu.top(running, "root"))
        await qemu.save(running, home / f"s{number}", [disk("root", top)], resume=True)
        assert await qemu.paused(running)

    assert await stands_still(qemu, running, plan)
    await write(qemu, running, "root", 7)
    await qemu.resume(running)
    await goes_on(plan)


async def test_an_overlay_that_is_missing_leaves_all_as_it_was(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    top = overlay(home / "top", home / "root")
    overlays = [disk("root", top), disk("work", home / "none")]

    with pytest.raises(PermanentError) as raised:
        await qemu.save(running, home / "stream", overlays, resume=True)

    assert raised.value.code is ErrorCode.SAVE_FAILED
    assert "No such file" in raised.value.message
    assert not (home / "stream").exists()
    assert await qemu.top(running, "root") == home / "root"
    await goes_on(plan)
    # Nothing holds it.
    await qemu.save(running, home / "stream", [disk("root", top)], resume=True)


async def test_a_stream_that_exists_is_not_touched(
    qemu: Qemu, running: VMMHandle, home: Path
) -> None:
    (home / "stream").write_text("somebody's")

    with pytest.raises(FileExistsError):
        await qemu.save(running, home / "stream", [], resume=True)

    assert (home / "stream").read_text() == "somebody's"


async def test_a_vmm_killed_while_it_is_saved_is_a_clean_error(
    qemu: Qemu, running: VMMHandle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> None:
        os.kill(running.pid, signal.SIGKILL)

    monkeypatch.setattr(blocks.Switch, "do", killed)

    with pytest.raises(PermanentError) as raised:
        await qemu.save(running, home / "stream", [], resume=True)

    assert raised.value.code is ErrorCode.SAVE_FAILED
    assert "the VM has ended" in raised.value.message
    assert not (home / "stream").exists()


@pytest.mark.parametrize("when", ["before", "during", "after"])
async def test_a_vmm_killed_while_a_guest_is_loaded_is_a_clean_error(
    qemu: Qemu, plan: LaunchPlan, home: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    first = await qemu.launch(plan)
    image = await checkpoint(qemu, first, home)
    await qemu.kill(first, signal.SIGKILL)
    clone = elsewhere(plan, "clone", restore=image)
    load = loading.load

    async def killed(qmp: Qmp, state: Path) -> None:
        async with asyncio.timeout(30):
            # For a moment after execve(2) has closed what it should a process has no command line.
            while (vmm := await qemu.find(clone.run_dir)) is None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)

        if when == "after":
            await load(qmp, state)

        if when == "during":
            # Its commands are on their way, and it is too slow to be done with them.
            os.kill(vmm.pid, signal.SIGSTOP)

        task = asyncio.create_task(load(qmp, state))
        if when != "before":
            await asyncio.sleep(0)

        os.kill(vmm.pid, signal.SIGKILL)
        await task

    monkeypatch.setattr(loading, "load", killed)

    with pytest.raises(PermanentError) as raised:
        await qemu.launch(clone)

    assert raised.value.code is ErrorCode.RESTORE_FAILED
    assert await qemu.find(clone.run_dir) is None
    assert not list(clone.run_dir.glob("*.sock"))


async def test_a_save_that_is_cancelled_lets_the_guest_go_on(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    for steps in range(0, 60, 4):
        saving = asyncio.create_task(qemu.save(running, home / "stream", [], resume=True))
        for _ in range(steps):
            await asyncio.sleep(0.0005)

        saving.cancel()
        try:
            await saving
        except asyncio.CancelledError:
            assert not (home / "stream").exists()
        else:
            (home / "stream").unlink()

        assert not await qemu.paused(running)

    await goes_on(plan)


async def test_a_save_that_is_cancelled_while_the_guest_is_let_go_on_lets_it_go_on(
    qemu: Qemu, running: VMMHandle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = runstate.go_on
    calls = 0

    async def interrupted(qmp: Qmp) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            saving.cancel()
            await asyncio.sleep(0)

        await go_on(qmp)

    monkeypatch.setattr(runstate, "go_on", interrupted)
    saving = asyncio.create_task(qemu.save(running, home / "stream", [], resume=True))

    with pytest.raises(asyncio.CancelledError):
        await saving

    assert not await qemu.paused(running)
    assert not (home / "stream").exists()


@pytest.mark.parametrize("name", ["memory", "state"])
async def test_an_image_that_is_incomplete_is_refused(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path, name: str
) -> None:
    image = await checkpoint(qemu, running, home)
    (image.directory / name).unlink()

    error = await refused(qemu, elsewhere(plan, "clone", restore=image))

    assert error.code is ErrorCode.RESTORE_FAILED
    assert not (image.directory / name).exists()


async def test_an_image_of_another_size_or_another_machine_is_refused(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    image = await checkpoint(qemu, running, home)
    await qemu.kill(running, signal.SIGKILL)
    larger = elsewhere(plan, "larger", restore=image, memory=plan.memory * 2)
    other = elsewhere(plan, "other", restore=image, disks=plan.disks[:1])

    for clone in (larger, other):
        assert (await refused(qemu, clone)).code is ErrorCode.RESTORE_FAILED


async def test_a_state_that_is_cut_short_is_refused_in_qemus_words(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    image = await checkpoint(qemu, running, home)
    await qemu.kill(running, signal.SIGKILL)
    os.truncate(image.state, image.state.stat().st_size // 2)

    error = await refused(qemu, elsewhere(plan, "clone", restore=image))

    assert error.code is ErrorCode.RESTORE_FAILED
    assert "load of migration failed" in error.message


async def test_a_disk_in_use_is_told_when_a_restored_guest_is_to_run(
    qemu: Qemu, running: VMMHandle, plan: LaunchPlan, home: Path
) -> None:
    image = await checkpoint(qemu, running, home)
    handle = await qemu.launch(elsewhere(plan, "clone", restore=image))

    with pytest.raises(PermanentError, match="in use by another process"):
        await qemu.resume(handle)


async def test_a_vm_in_the_background_gets_only_what_is_left_over(
    qemu: Qemu, plan: LaunchPlan
) -> None:
    handle = await qemu.launch(replace(plan, background=True))
    await until(lambda: len(spoken(plan)) > 3)

    threads = [int(entry.name) for entry in Path(f"/proc/{handle.pid}/task").iterdir()]
    assert len(threads) > 2
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
    assert "qemu" in handle.executable
    assert await Qemu().find(plan.run_dir) == handle


async def test_a_vm_that_is_gone_can_neither_be_paused_nor_saved_nor_asked(
    qemu: Qemu, running: VMMHandle, home: Path
) -> None:
    await qemu.kill(running, signal.SIGKILL)

    for call in (
        qemu.pause(running),
        qemu.resume(running),
        qemu.paused(running),
        qemu.top(running, "root"),
    ):
        with pytest.raises(PermanentError) as raised:
            await call

        assert raised.value.code is ErrorCode.VM_NOT_RUNNING

    with pytest.raises(PermanentError, match="ended") as raised:
        await qemu.save(running, home / "stream", [], resume=True)

    assert raised.value.code is ErrorCode.SAVE_FAILED
