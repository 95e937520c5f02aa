"""Snapshots, forks, templates: what each command asks of the daemon, prints, and exits with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest
from tests.unit.cli.conftest import Banger
from tests.unit.cli.test_promises import complete
from tests.unit.client.fake_daemon import FakeDaemon, make_vm, succeeded

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.models import Garbage, Operation, OperationState, Snapshot, Template, VMState

MIB = 1 << 20
GIB = 1 << 30
DEV = "/v1/vms/dev"


def sent(daemon: FakeDaemon, method: str) -> list[tuple[str, Any]]:
    return [(path, body) for used, path, body in daemon.requests if used == method]


def make_snapshot(name: str, vm: str = "dev", *, age: float = 60, memory: bool = True) -> Snapshot:
    return Snapshot(
        id=f"id-{name}",
        name=name,
        vm_id="aaaa00000000",
        vm=vm,
        created_at=time.time() - age,
        memory=memory,
        spec=make_vm("x", "x").spec,
        allocated_bytes=3 * MIB,
    )


def make_template(key: str) -> Template:
    return Template(
        key=key,
        image="debian",
        image_id="i1",
        kernel_id="k1",
        vcpus=2,
        memory=GIB,
        root_size=8 * GIB,
        disk_size=4 * GIB,
        created_at=time.time() - 7200,
        used_at=time.time() - 60,
        clones=3,
        allocated_bytes=140 * MIB,
    )


def operation(daemon: FakeDaemon, kind: str, **changes: Any) -> Operation:
    """One that will have succeeded."""
    done = msgspec.structs.replace(succeeded(kind), id=f"op-{kind}", **changes)
    daemon.operations[done.id] = done
    return done


@pytest.fixture
def snapshots(daemon: FakeDaemon) -> FakeDaemon:
    """`dev` has two snapshots, `web` none."""
    first = make_snapshot("first", age=7200, memory=False)
    second = make_snapshot("second")
    daemon.replies["GET", f"{DEV}/snapshots"] = lambda _: [first, second]
    daemon.replies["GET", "/v1/vms/aaaa00000000/snapshots"] = lambda _: [first, second]
    daemon.replies["GET", "/v1/vms/bbbb00000000/snapshots"] = lambda _: []
    daemon.replies["GET", f"{DEV}/snapshots/first"] = lambda _: first
    daemon.replies["GET", f"{DEV}/snapshots/second"] = lambda _: second
    for method, path, kind in (
        ("POST", f"{DEV}/snapshots", "snapshot.create"),
        ("POST", f"{DEV}/snapshots/second/restore", "snapshot.restore"),
        ("DELETE", f"{DEV}/snapshots/first", "snapshot.delete"),
        ("DELETE", f"{DEV}/snapshots/second", "snapshot.delete"),
    ):
        daemon.replies[method, path] = lambda _, kind=kind: operation(daemon, kind)  # type: ignore[misc]

    return daemon


@pytest.fixture
def templates(daemon: FakeDaemon) -> list[Template]:
    """What the daemon has; a test may change it."""
    found = [make_template("3fa8c1"), make_template("77d0e2")]
    daemon.replies["GET", "/v1/templates"] = lambda _: found
    return found


@pytest.mark.parametrize(
    ("verb", "done"),
    [
        ("pause", "paused"),
        ("resume", "resumed"),
        ("reclaim", "reclaimed"),
        ("suspend", "suspended"),
    ],
)
def test_many_vms_are_changed_together(
    banger: Banger, daemon: FakeDaemon, verb: str, done: str
) -> None:
    ended = banger("vm", verb, "web", "dev")

    assert ended.status == 0
    assert daemon.asked("POST") == [f"/v1/vms/bbbb00000000/{verb}", f"/v1/vms/aaaa00000000/{verb}"]
    assert f"dev {done} in 4.2 s" in ended.err
    assert json.loads(banger("vm", verb, "dev", "--json").out)["name"] == "dev"


def test_a_fork_prints_the_names_alone(banger: Banger, daemon: FakeDaemon) -> None:
    made = ("try-1", "try-2")
    daemon.add(make_vm("cccc00000000", "try-1"), make_vm("dddd00000000", "try-2"))
    daemon.replies["POST", f"{DEV}/fork"] = lambda _: operation(daemon, "vm.fork", made=made)

    ended = banger("vm", "fork", "dev", "--count", "2", "--name", "try-{n}", "--snapshot", "s")

    assert (ended.status, ended.out) == (0, "try-1\ntry-2\n")
    assert "2 copies running: banger vm exec try-1; took 4.2 s" in ended.err
    assert sent(daemon, "POST") == [
        (f"{DEV}/fork", {"count": 2, "name": "try-{n}", "snapshot": "s"})
    ]


def test_one_fork_needs_nothing_but_its_vm(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.add(make_vm("cccc00000000", "dev-1"))
    daemon.replies["POST", f"{DEV}/fork"] = lambda _: operation(daemon, "vm.fork", made=("dev-1",))

    assert banger("vm", "fork", "-q", "dev") == (0, "dev-1\n", "")
    assert "dev-1 running: banger vm exec dev-1" in banger("vm", "fork", "dev").err
    assert [vm["name"] for vm in json.loads(banger("vm", "fork", "dev", "--json").out)] == ["dev-1"]
    assert [body for _, body in sent(daemon, "POST")] == [{}, {}, {}]


def test_copies_of_a_stopped_vm_are_to_be_started(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.add(make_vm("cccc00000000", "off-1", VMState.STOPPED))
    daemon.replies["POST", f"{DEV}/fork"] = lambda _: operation(daemon, "vm.fork", made=("off-1",))

    assert "off-1 made: banger vm start off-1" in banger("vm", "fork", "dev").err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("vm fork dev --count 2 --name same", "invalid_name"),
        ("vm fork dev --name Bad_{n}", "invalid_name"),
        ("vm fork dev --count 0", "invalid_request"),
        ("vm fork", "invalid_request"),
        ("vm pause", "invalid_request"),
        ("vm snapshot create dev Bad_Name", "invalid_name"),
        ("vm snapshot delete dev", "invalid_request"),
        ("vm snapshot restore dev", "invalid_request"),
        ("template make --memory 0", "invalid_size"),
        ("template make --vcpu 0", "invalid_request"),
        ("template delete", "invalid_request"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    banger: Banger, daemon: FakeDaemon, words: str, code: str
) -> None:
    ended = banger(*words.split(), "--json")

    assert ended.status in (1, 2)
    assert json.loads(ended.out)["error"]["code"] == code
    assert daemon.requests == []


def test_the_longest_of_the_names_must_be_one(banger: Banger, daemon: FakeDaemon) -> None:
    pattern = "a" * 61 + "{n}"
    daemon.replies["POST", f"{DEV}/fork"] = lambda _: operation(daemon, "vm.fork", made=("dev",))

    assert banger("vm", "fork", "dev", "--count", "99", "--name", pattern).status == 0
    assert "is not valid" in banger("vm", "fork", "dev", "--count", "100", "--name", pattern).err
    assert len(daemon.asked("POST")) == 1


def test_a_snapshot_prints_its_name(banger: Banger, snapshots: FakeDaemon) -> None:
    ended = banger("vm", "snapshot", "create", "dev", "first")

    assert (ended.status, ended.out) == (0, "first\n")
    assert "dev: snapshot first made in 4.2 s" in ended.err
    assert sent(snapshots, "POST") == [(f"{DEV}/snapshots", {"name": "first"})]


def test_a_name_that_was_made_up_is_printed_too(banger: Banger, snapshots: FakeDaemon) -> None:
    assert banger("vm", "snapshot", "create", "dev", "-q") == (0, "second\n", "")
    assert json.loads(banger("vm", "snapshot", "create", "dev", "--json").out)["name"] == "second"
    assert [body for _, body in sent(snapshots, "POST")] == [{}, {}]


def test_snapshots_are_listed_for_one_vm_or_for_all(banger: Banger, snapshots: FakeDaemon) -> None:
    head, first, second = banger("vm", "snapshot", "list", "dev").out.splitlines()

    assert " ".join(head.split()) == "VM NAME HOLDS MEM ON DISK AGE"
    assert " ".join(first.split()) == "dev first disks - 3M 2h"
    assert " ".join(second.split()) == "dev second memory, disks 1G 3M 1m"
    assert banger("vm", "snapshot", "list").out.splitlines()[1:] == [first, second]
    assert [row["name"] for row in json.loads(banger("vm", "snapshot", "list", "--json").out)] == [
        "first",
        "second",
    ]


def test_a_vm_deleted_while_all_are_listed_is_no_error(
    banger: Banger, snapshots: FakeDaemon
) -> None:
    def gone(_: object) -> object:
        raise CallerError(ErrorCode.UNKNOWN_VM, "there is no VM")

    snapshots.replies["GET", "/v1/vms/bbbb00000000/snapshots"] = gone
    ended = banger("vm", "snapshot", "list")

    assert (ended.status, len(ended.out.splitlines())) == (0, 3)


def test_a_snapshot_is_shown(banger: Banger, snapshots: FakeDaemon) -> None:
    assert "dev (aaaa00000000)" in banger("vm", "snapshot", "show", "dev", "first").out
    assert json.loads(banger("vm", "snapshot", "show", "dev", "first", "--json").out)["memory"] is (
        False
    )


def test_restoring_says_what_the_vm_is_now(banger: Banger, snapshots: FakeDaemon) -> None:
    assert "dev restored in 4.2 s; it is running" in (
        banger("vm", "snapshot", "restore", "dev", "second").err
    )
    assert banger("vm", "snapshot", "restore", "dev", "second", "--disks-only").status == 0
    assert [body for _, body in sent(snapshots, "POST")] == [{}, {"memory": False}]


def test_one_snapshot_that_cannot_be_deleted_does_not_keep_the_others(
    banger: Banger, snapshots: FakeDaemon
) -> None:
    def unknown(_: object) -> object:
        raise CallerError(ErrorCode.UNKNOWN_SNAPSHOT, "dev has no snapshot 'none'")

    snapshots.replies["DELETE", f"{DEV}/snapshots/none"] = unknown
    ended = banger("vm", "snapshot", "delete", "dev", "none", "first", "second")

    assert ended.status == 1
    assert "banger: dev has no snapshot 'none'" in ended.err
    assert "first deleted" in ended.err
    assert "second deleted" in ended.err


def test_templates_are_listed(banger: Banger, templates: list[Template]) -> None:
    head, first, _ = banger("template", "list").out.splitlines()

    assert " ".join(head.split()) == "KEY IMAGE VCPU MEM ROOT WORK VMS ON DISK AGE USED"
    assert " ".join(first.split()) == "3fa8c1 debian 2 1G 8G 4G 3 140M 2h 1m ago"
    assert json.loads(banger("template", "list", "--json").out)[1]["key"] == "77d0e2"


def test_a_template_is_made_and_its_key_printed(
    banger: Banger, daemon: FakeDaemon, templates: list[Template]
) -> None:
    daemon.replies["POST", "/v1/templates"] = lambda _: operation(
        daemon, "template.make", target="3fa8c1"
    )

    assert banger("template", "make", "-q", "--vcpu", "2", "--memory", "1G").out == "3fa8c1\n"
    assert json.loads(banger("template", "make", "--json").out)["clones"] == 3
    assert [body for _, body in sent(daemon, "POST")] == [{"vcpus": 2, "memory": GIB}, {}]


def test_templates_are_deleted_by_key(
    banger: Banger, daemon: FakeDaemon, templates: list[Template]
) -> None:
    daemon.replies["DELETE", "/v1/templates/3fa8c1"] = lambda _: operation(
        daemon, "template.delete"
    )
    ended = banger("template", "delete", "3fa8c1", "0000")

    assert ended.status == 1
    assert "3fa8c1 deleted in 4.2 s" in ended.err


def test_pruning_templates_says_which_went_and_what_that_freed(
    banger: Banger, daemon: FakeDaemon, templates: list[Template]
) -> None:
    def prune(body: Any) -> Operation:
        del templates[0 if body else 1 :]
        return operation(daemon, "template.prune")

    daemon.replies["POST", "/v1/templates/prune"] = prune

    ended = banger("template", "prune")
    assert (ended.status, ended.out) == (0, "77d0e2\n")
    assert ended.err.endswith("1 deleted, 140M freed\n")
    assert [
        row["key"] for row in json.loads(banger("template", "prune", "--all", "--json").out)
    ] == ["3fa8c1"]
    assert banger("template", "prune").err.endswith("nothing to delete\n")
    assert [body for _, body in sent(daemon, "POST")] == [{}, {"all": True}, {}]


def test_collecting_garbage_says_what_was_freed(banger: Banger, daemon: FakeDaemon) -> None:
    garbage = Garbage(removed=("/s/disks/1.qcow2", "/s/disks/2.raw"), freed_bytes=5 * MIB)
    daemon.replies["POST", "/v1/gc"] = lambda _: garbage

    assert banger("gc") == (0, "/s/disks/1.qcow2\n/s/disks/2.raw\n", "2 removed, 5M freed\n")
    assert json.loads(banger("gc", "--json").out)["freed_bytes"] == 5 * MIB
    daemon.replies["POST", "/v1/gc"] = lambda _: Garbage()
    assert banger("gc") == (0, "", "nothing to remove\n")
    assert banger("gc", "-q") == (0, "", "")


def test_cold_goes_with_a_new_vm(banger: Banger, daemon: FakeDaemon) -> None:
    assert banger("vm", "create", "--cold").status == 0
    assert banger("vm", "run", "-d", "--cold").status == 0
    assert [body for _, body in sent(daemon, "POST")] == [{"cold": True}, {"cold": True}]


def test_the_list_tells_what_vms_really_take_and_where_they_stand(
    banger: Banger, daemon: FakeDaemon
) -> None:
    vm = make_vm("aaaa00000000", "dev", VMState.SUSPENDED)
    daemon.add(msgspec.structs.replace(vm, allocated_bytes=12 * MIB))
    _, dev, web = banger("vm", "list").out.splitlines()

    assert dev.split()[2] == "suspended"
    assert dev.split()[8] == "12M"
    assert web.split()[8] == "-"


def test_show_tells_where_a_vm_came_from(banger: Banger, daemon: FakeDaemon) -> None:
    vm = make_vm("aaaa00000000", "dev", VMState.PAUSED)
    daemon.add(msgspec.structs.replace(vm, template="3fa8c1", parent="bbbb00000000"))
    orphan = make_vm("cccc00000000", "orphan")
    daemon.add(msgspec.structs.replace(orphan, parent="dddd00000000"))
    shown = dict(re.split(r" {2,}", line) for line in banger("vm", "show", "dev").out.splitlines())

    assert shown["state"] == "paused"
    assert shown["template"] == "3fa8c1"
    assert shown["fork of"] == "web (bbbb00000000)"
    assert "dddd00000000 (deleted)" in banger("vm", "show", "orphan").out


def test_a_refused_restore_is_one_line_and_a_hint(banger: Banger, snapshots: FakeDaemon) -> None:
    def refuse(_: object) -> object:
        raise PermanentError(ErrorCode.RESTORE_FAILED, "QEMU has changed", hint="--disks-only")

    snapshots.replies["POST", f"{DEV}/snapshots/second/restore"] = refuse
    ended = banger("vm", "snapshot", "restore", "dev", "second")

    assert ended == (1, "", "banger: QEMU has changed\nhint: --disks-only\n")


@pytest.mark.parametrize(
    ("words", "cancelled"),
    [
        ("vm fork dev", True),
        ("vm snapshot create dev", True),
        ("vm suspend dev", True),
        ("template make", True),
        ("vm snapshot restore dev second", False),
        ("vm pause dev", False),
    ],
)
def test_ctrl_c_takes_back_what_makes_something(
    snapshots: FakeDaemon, words: str, cancelled: bool
) -> None:
    kinds = {"snapshot.create", "snapshot.restore", "vm.fork", "template.make", "suspend", "pause"}
    snapshots.holding |= kinds
    for path, kind in ((f"{DEV}/fork", "vm.fork"), ("/v1/templates", "template.make")):
        snapshots.replies["POST", path] = lambda _, kind=kind: operation(snapshots, kind)  # type: ignore[misc]

    for request, reply in list(snapshots.replies.items()):
        if request[0] == "POST":
            snapshots.replies[request] = lambda body, reply=reply: running(reply(body))  # type: ignore[misc]

    program = [sys.executable, "-c", "from banger.cli.main import main; main()", *words.split()]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        while not any(method == "POST" for method, _, _ in snapshots.requests):
            time.sleep(0.01)

        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()

    assert process.returncode == 130
    assert ("nothing is left of it" in complaint) is cancelled
    assert ("goes on without you" in complaint) is not cancelled


def running(answer: Any) -> Operation:
    assert isinstance(answer, Operation)
    return msgspec.structs.replace(answer, state=OperationState.RUNNING, finished_at=None)


def test_names_of_snapshots_and_templates_are_completed(
    snapshots: FakeDaemon, templates: list[Template]
) -> None:
    assert complete("banger", "vm", "snapshot", "show", "dev", "f").stdout == "plain,first\n"
    assert complete("banger", "vm", "fork", "dev", "--snapshot", "s").stdout == "plain,second\n"
    assert complete("banger", "template", "delete", "7").stdout == "plain,77d0e2\n"
