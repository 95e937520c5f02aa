"""What one VM's archive and command line say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from banger.guest.config import GuestConfig, kernel_cmdline, machine_id, vm_archive

CONFIG = GuestConfig(
    vm_id="0123456789ab",
    hostname="dev",
    mac="52:54:00:00:00:01",
    address="10.213.0.15",
    prefix=16,
    gateway="10.213.0.2",
    dns=("10.213.0.3", "10.213.0.4"),
    authorized_key="ssh-ed25519 AAAA banger\n",
    host_key=b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
    host_key_public="ssh-ed25519 BBBB",
)


def unpacked(config: GuestConfig, folder: Path) -> Path:
    subprocess.run(
        ["cpio", "--extract", "--quiet", "--make-directories"],
        input=vm_archive(config),
        cwd=folder,
        check=True,
    )
    return folder / "vm"


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    return unpacked(CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hostname", "dev\n"),
        ("resolv.conf", "nameserver 10.213.0.3\nnameserver 10.213.0.4\n"),
        ("authorized_keys", "ssh-ed25519 AAAA banger\n"),
        ("ssh_host_ed25519_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
        ("ssh_host_ed25519_key.pub", "ssh-ed25519 BBBB\n"),
    ],
)
def test_each_file_says_what_the_configuration_does(vm: Path, name: str, text: str) -> None:
    assert (vm / name).read_text() == text


def test_the_name_stands_in_hosts(vm: Path) -> None:
    assert "127.0.1.1 dev\n" in (vm / "hosts").read_text()


def test_nobody_but_root_reads_any_of_it(vm: Path) -> None:
    assert {path.stat().st_mode & 0o077 for path in [vm, *vm.iterdir()]} == {0}


def test_settings_are_shell_and_quoted(tmp_path: Path) -> None:
    settings = unpacked(msgspec.structs.replace(CONFIG, gateway="$(reboot)"), tmp_path) / "settings"
    said = subprocess.run(
        ["sh", "-c", f'. {settings}; echo "$address|$gateway|$grow_root"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "10.213.0.15/16|$(reboot)|\n"


def test_growing_the_root_is_asked_for_only_when_wanted(tmp_path: Path) -> None:
    vm = unpacked(msgspec.structs.replace(CONFIG, grow_root=True), tmp_path)
    assert "grow_root=yes\n" in (vm / "settings").read_text()


def test_a_machine_id_is_a_vms_own_and_stays() -> None:
    assert machine_id("0123456789ab") == machine_id("0123456789ab")
    assert machine_id("0123456789ab") != machine_id("0123456789ac")
    assert len(bytes.fromhex(machine_id("0123456789ab"))) == 16


def test_the_same_configuration_is_the_same_archive() -> None:
    assert vm_archive(CONFIG) == vm_archive(msgspec.structs.replace(CONFIG))


def test_only_a_virtualized_guest_pays_for_mitigations() -> None:
    assert "mitigations=off" in kernel_cmdline(emulated=True).split()
    assert "mitigations" not in kernel_cmdline(emulated=False)


def test_extra_words_come_last_so_that_they_win() -> None:
    assert kernel_cmdline(emulated=True, extra="loglevel=7 foo").endswith(" loglevel=7 foo")
