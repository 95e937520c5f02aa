"""Bad input and bad hosts: one clear line, a hint, a stable code, and nothing created."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Installer
from tests.e2e.harness import Banger, Outcome, installation

# Progress, for a request that was refused only after something had been done.
STAGE = re.compile(r" \(\d+\.\d s\)$")
CREATE = ("vm", "create", "--no-start")


def refused(banger: Banger, code: str, *args: str) -> Outcome:
    """Run a command that must be refused with `code`; check everything a refusal promises."""
    told = banger.run(*args)
    assert told.status not in (0, -1), told
    lines = [line for line in told.complaint.splitlines() if not STAGE.search(line)]
    assert len(lines) == 2, told
    assert lines[0].startswith("banger: "), told
    assert lines[1].startswith("hint: "), told

    machine = banger.run(*args, "--json")
    error = json.loads(machine.stdout)["error"]
    assert error["code"] == code, error
    assert error["hint"], error
    assert machine.status == told.status
    assert error["message"] in told.complaint
    return told


@pytest.fixture(scope="module")
def home(images: Path) -> Iterator[Banger]:
    """Shared by refusals: since nothing is ever created, none can see another's traces."""
    with installation(images) as banger:
        banger.ok(*CREATE, "--name", "taken")
        yield banger


BAD_NAMES = ["Upper", "under_score", "-dash", "dash-", "a" * 64, "dot.ted", "sp ace", "ünïcode", ""]
BAD_SIZES = ["0", "-1", "lots", "1.5G", "512X", "99999999999999999999G", ""]

TABLE = [
    *[("invalid_name", *CREATE, f"--name={name}") for name in BAD_NAMES],
    *[("invalid_size", *CREATE, f"--memory={size}") for size in BAD_SIZES],
    *[("invalid_size", *CREATE, f"--disk-size={size}") for size in BAD_SIZES],
    ("invalid_size", *CREATE, "--memory", "1M"),
    ("disk_too_small", *CREATE, "--disk-size", "1K"),
    ("insufficient_memory", "vm", "run", "-d", "--memory", "4T"),
    ("invalid_size", *CREATE, "--disk-size", "900T"),
    ("invalid_size", *CREATE, "--root-size", "900T"),
    ("invalid_size", "vm", "set", "taken", "--disk-size", "900T"),
    ("invalid_request", *CREATE, "--vcpu", "0"),
    ("invalid_request", *CREATE, "--vcpu", "1000"),
    ("unknown_image", *CREATE, "--image", "nosuch"),
    ("disk_too_small", *CREATE, "--root-size", "64M"),
    ("name_taken", *CREATE, "--name", "taken"),
    ("unknown_vm", "vm", "show", "nosuch"),
    ("unknown_vm", "vm", "start", "nosuch"),
    ("unknown_vm", "vm", "delete", "nosuch"),
    ("unknown_image", "image", "show", "nosuch"),
    ("unknown_image", "image", "delete", "nosuch"),
    ("unknown_image", "image", "build", "nosuch"),
    ("unknown_kernel", "kernel", "show", "nosuch"),
    ("invalid_request", *CREATE, "-p", "80"),
    ("invalid_request", *CREATE, "-p", "70000:80"),
    ("invalid_request", *CREATE, "-p", "0:80"),
    ("disk_too_small", "vm", "set", "taken", "--disk-size", "64M"),
    ("invalid_name", "vm", "set", "taken", "--name", "Not_A_Name"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join(row)[:60])
def test_bad_input_is_refused_and_creates_nothing(home: Banger, row: tuple[str, ...]) -> None:
    before = home.json("vm", "list")

    refused(home, *row)

    assert home.json("vm", "list") == before
    assert len(list((home.state_dir / "vms").iterdir())) == len(before)


@pytest.mark.parametrize(
    ("vm", "says"), [("nosuch", "nosuch"), ("taken", "vm start taken")], ids=["unknown", "stopped"]
)
def test_a_command_for_a_vm_that_cannot_run_it_is_refused_as_bangers_own_failure(
    home: Banger, vm: str, says: str
) -> None:
    told = home.run("vm", "ssh", vm, "--", "true")

    assert told.status == 125
    assert told.stdout == b""
    assert says in told.complaint
    assert len(told.complaint.splitlines()) == 2


def test_an_ambiguous_prefix_names_the_candidates(banger: Banger) -> None:
    # Seventeen ids of hexadecimal digits share a first digit at least once.
    for number in range(17):
        banger.ok(*CREATE, "--name", f"vm-{number}")

    ids = [vm["id"] for vm in banger.json("vm", "list")]
    prefix = next(vm_id[0] for vm_id in ids if sum(i[0] == vm_id[0] for i in ids) > 1)

    refused(banger, "ambiguous_vm", "vm", "show", prefix)


def test_a_published_port_that_is_taken_is_refused(banger: Banger) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        refused(banger, "port_taken", "vm", "run", "-d", "-p", f"{port}:80")

    assert banger.json("vm", "list") == []
    assert banger.leftovers() == []


def test_two_vms_cannot_publish_the_same_port(banger: Banger) -> None:
    banger.ok(*CREATE, "--name", "first", "-p", "18080:80")

    refused(banger, "port_taken", *CREATE, "--name", "second", "-p", "18080:81")

    assert [vm["name"] for vm in banger.json("vm", "list")] == ["first"]


@pytest.mark.parametrize("text", ["not toml [", "[vm]\nmemroy = '1G'\n", "[vm]\nmemory = 'lots'\n"])
def test_a_corrupt_config_is_refused(install: Installer, text: str) -> None:
    banger = install()
    config = banger.home / "config.toml"
    config.write_text(text)
    try:
        refused(banger, "config_invalid", "vm", "list")
    finally:
        config.unlink()

    assert banger.json("vm", "list") == []


def test_a_missing_qemu_is_named(install: Installer, tmp_path: Path) -> None:
    for directory in os.environ["PATH"].split(":"):
        if Path(directory).is_dir():
            for tool in Path(directory).iterdir():
                link = tmp_path / tool.name
                if not tool.name.startswith("qemu-system") and not link.is_symlink():
                    link.symlink_to(tool)

    banger = install({"PATH": str(tmp_path)})

    told = refused(banger, "hypervisor_missing", "vm", "run", "-d")

    assert "qemu" in told.complaint
    assert banger.json("vm", "list") == []
    assert banger.run("doctor").status != 0


def test_a_socket_directory_open_to_others_is_refused(banger: Banger) -> None:
    banger.run_dir.mkdir(mode=0o700, exist_ok=True)
    banger.run_dir.chmod(0o755)
    try:
        refused(banger, "socket_insecure", "vm", "list")
        assert not banger.socket.exists()
    finally:
        banger.run_dir.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to somebody else")
def test_a_socket_directory_of_somebody_elses_is_refused(banger: Banger) -> None:
    banger.run_dir.mkdir(mode=0o700, exist_ok=True)
    os.chown(banger.run_dir, 12345, 12345)
    try:
        refused(banger, "socket_insecure", "vm", "list")
    finally:
        os.chown(banger.run_dir, 0, 0)


def test_a_socket_directory_that_is_a_link_is_refused(banger: Banger, tmp_path: Path) -> None:
    if banger.run_dir.exists():
        shutil.rmtree(banger.run_dir)

    banger.run_dir.symlink_to(tmp_path)
    try:
        refused(banger, "socket_insecure", "vm", "list")
    finally:
        banger.run_dir.unlink()


def test_a_running_vm_refuses_what_only_a_stopped_one_can_do(shared: Banger) -> None:
    refused(shared, "vm_running", "vm", "set", "box", "--memory", "2G")


def test_a_corrupt_image_is_not_booted(install: Installer) -> None:
    banger = install()
    rootfs = next((banger.state_dir / "images").rglob("rootfs.ext4"))
    size = rootfs.stat().st_size
    rootfs.unlink()
    with rootfs.open("wb") as file:
        file.truncate(size)

    told = banger.run("vm", "run", "--", "true")

    assert told.status != 0
    assert "Traceback" not in told.complaint
    assert banger.leftovers() == []
