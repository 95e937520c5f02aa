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
    return folder


def settings(config: GuestConfig, folder: Path, names: str) -> str:
    """What a shell says the settings `names` are, once it has read them as init does."""
    script = f'. ./vm/settings; for name in {names}; do eval "echo \\"\\$$name\\""; done'
    root = unpacked(config, folder)
    return subprocess.run(
        ["sh", "-c", script], cwd=root, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("authorized_keys", "ssh-ed25519 AAAA banger\n"),
        ("ssh_host_ed25519_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
        ("ssh_host_ed25519_key.pub", "ssh-ed25519 BBBB\n"),
    ],
)
def test_keys_go_to_the_guests_run_directory(tmp_path: Path, name: str, text: str) -> None:
    assert (unpacked(CONFIG, tmp_path) / "guest/run/banger" / name).read_text() == text


def test_settings_say_what_the_configuration_does(tmp_path: Path) -> None:
    names = "hostname mac address gateway dns"
    lines = "dev\n52:54:00:00:00:01\n10.213.0.15/16\n10.213.0.2\n10.213.0.3 10.213.0.4\n"
    assert settings(CONFIG, tmp_path, names) == lines


def test_nobody_but_root_reads_the_private_key(tmp_path: Path) -> None:
    key = unpacked(CONFIG, tmp_path) / "guest/run/banger/ssh_host_ed25519_key"
    assert key.stat().st_mode & 0o077 == 0


def test_what_looks_like_shell_is_only_a_value(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, gateway="$(reboot)")
    assert settings(config, tmp_path, "gateway") == "$(reboot)\n"


@pytest.mark.parametrize(("wanted", "said"), [(True, "yes\n"), (False, "\n")])
def test_the_root_is_grown_only_when_wanted(tmp_path: Path, *, wanted: bool, said: str) -> None:
    config = msgspec.structs.replace(CONFIG, grow_root=wanted)
    assert settings(config, tmp_path, "grow_root") == said


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
