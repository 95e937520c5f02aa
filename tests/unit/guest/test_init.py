"""What init does to a root file system, run by the very shell it has in the guest."""

from __future__ import annotations

import subprocess
import time
from importlib import resources
from pathlib import Path

import pytest

from banger.guest.initramfs import BUSYBOX

INIT = (resources.files("banger.guest") / "files" / "init").read_text()
# Up to here it only says how; from here on it does.
FUNCTIONS, DOING = INIT.split("\numask 022\n")
IDENTITY = {"machine_id": "0" * 32, "dns": "10.213.0.3", "hostname": "dev"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("etc/init.d", "lib/systemd/system", "tmp", "var/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/fstab").write_text("# UNCONFIGURED FSTAB FOR BASE SYSTEM\n")
    return tmp_path


def run(root: Path, commands: str, **settings: str) -> str:
    """Run `commands` with init's functions at hand, as if `root` were the mounted root."""
    values = "\n".join(f"{name}='{value}'" for name, value in settings.items())
    paths = f"root={root}; applied=$root/var/lib/banger"
    script = f"{FUNCTIONS}\n{paths}\n{values}\n{commands}"
    words = [str(BUSYBOX), "sh", "-c", script]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def apply_identity(root: Path, **changes: str) -> None:
    run(root, "apply_identity || :", **{**IDENTITY, **changes})


def unmasked(root: Path) -> list[str]:
    """The generators that are left to run."""
    return run(root, "unmask() { echo $1; }; keep_needed_generators").split()


def test_it_is_a_script_the_guests_shell_understands() -> None:
    subprocess.run([BUSYBOX, "sh", "-n"], input=INIT.encode(), check=True)


def test_what_it_does_ends_with_the_guests_own_init() -> None:
    assert DOING.rstrip().endswith("switch_root $root /sbin/init")


def tick_is_right(tmp_path: Path, multiplier: int | None, *, age: int) -> bool:
    """What init makes of a tick that the kernel has timed so, `age` s after the VMM's start."""
    timers = tmp_path / "timer_list"
    lines = "" if multiplier is None else f" mult:           {multiplier}\n shift:          32\n"
    timers.write_text(f"Broadcast device\nClock Event Device: <NULL>\n{lines}")
    started = int(time.time()) - age
    asked = f"timers={timers}; if tick_is_right {started}; then echo yes; else echo no; fi"
    return run(tmp_path, asked) == "yes\n"


@pytest.mark.parametrize("age", [0, 1000])
def test_a_tick_that_was_timed_well_is_right(tmp_path: Path, age: int) -> None:
    assert tick_is_right(tmp_path, 268_453_709, age=age)


@pytest.mark.parametrize("multiplier", [482_227_116, 200_000_000])
def test_a_tick_that_is_off_is_accepted_when_all_boots_come_out_alike(
    tmp_path: Path, multiplier: int
) -> None:
    assert not tick_is_right(tmp_path, multiplier, age=5)
    assert tick_is_right(tmp_path, multiplier, age=100)


@pytest.mark.parametrize("multiplier", [None, 0, 250_000])
@pytest.mark.parametrize("age", [0, 1000])
def test_without_a_tick_no_guest_goes_on(tmp_path: Path, multiplier: int | None, age: int) -> None:
    assert not tick_is_right(tmp_path, multiplier, age=age)


def test_a_new_guest_gets_its_identity(root: Path) -> None:
    apply_identity(root)
    assert (root / "etc/hostname").read_text() == "dev\n"
    assert (root / "etc/machine-id").read_text() == "0" * 32 + "\n"
    assert (root / "etc/resolv.conf").read_text() == "nameserver 10.213.0.3\n"
    assert "127.0.1.1 dev\n" in (root / "etc/hosts").read_text()


def test_every_name_server_gets_its_line(root: Path) -> None:
    apply_identity(root, dns="10.213.0.3 10.213.0.4")
    lines = (root / "etc/resolv.conf").read_text().splitlines()
    assert lines == ["nameserver 10.213.0.3", "nameserver 10.213.0.4"]


@pytest.mark.parametrize("name", ["hostname", "machine-id", "resolv.conf", "hosts"])
def test_what_the_user_wrote_survives_the_next_boot(root: Path, name: str) -> None:
    apply_identity(root)
    (root / "etc" / name).write_text("mine\n")
    apply_identity(root)
    assert (root / "etc" / name).read_text() == "mine\n"


def test_a_new_name_takes_effect_and_keeps_the_users_lines(root: Path) -> None:
    apply_identity(root)
    hosts = root / "etc/hosts"
    hosts.write_text(hosts.read_text() + "192.0.2.1 mine\n")
    apply_identity(root, hostname="other")
    assert (root / "etc/hostname").read_text() == "other\n"
    assert "127.0.1.1 other\n" in hosts.read_text()
    assert "192.0.2.1 mine\n" in hosts.read_text()
    assert "dev" not in hosts.read_text()


def test_without_a_name_it_keeps_the_one_it_has(root: Path) -> None:
    apply_identity(root)
    apply_identity(root, hostname="")
    assert (root / "etc/hostname").read_text() == "dev\n"
    assert "127.0.1.1 dev\n" in (root / "etc/hosts").read_text()


def test_a_hosts_file_without_the_line_gets_it(root: Path) -> None:
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    apply_identity(root)
    assert (root / "etc/hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 dev\n"


def test_a_link_is_replaced_and_not_followed_out_of_the_root(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (root / "etc/resolv.conf").symlink_to(outside)
    apply_identity(root)
    assert not outside.exists()
    assert not (root / "etc/resolv.conf").is_symlink()


def test_tmp_is_emptied_hidden_files_too(root: Path) -> None:
    (root / "tmp/a/b").mkdir(parents=True)
    for name in (".x", "..y", "with space"):
        (root / "tmp" / name).touch()
    run(root, "empty_tmp")
    assert list((root / "tmp").iterdir()) == []


def test_tmp_is_left_alone_when_the_user_has_rules_for_it(root: Path) -> None:
    (root / "etc/tmpfiles.d").mkdir()
    (root / "etc/tmpfiles.d/tmp.conf").touch()
    (root / "tmp/keep").touch()
    run(root, "empty_tmp || :")
    assert (root / "tmp/keep").exists()


def test_only_the_stock_motd_is_dropped(root: Path) -> None:
    folder = root / "etc/update-motd.d"
    folder.mkdir()
    (folder / "10-uname").touch()
    (folder / "20-mine").touch()
    run(root, "drop_stock_motd")
    assert (folder / "10-uname").exists()
    (folder / "20-mine").unlink()
    run(root, "drop_stock_motd")
    assert not folder.exists()


def test_a_stock_image_needs_no_generator(root: Path) -> None:
    (root / "etc/init.d/hwclock.sh").touch()
    (root / "lib/systemd/system/hwclock.service").touch()
    assert unmasked(root) == []


@pytest.mark.parametrize(
    ("path", "text", "generator"),
    [
        ("etc/fstab", "# mine\ntmpfs /mnt tmpfs defaults 0 0\n", "fstab"),
        ("etc/crypttab", "", "cryptsetup"),
        ("etc/integritytab", "", "integritysetup"),
        ("etc/veritytab", "", "veritysetup"),
        ("etc/rc.local", "#!/bin/sh\n", "rc-local"),
        ("etc/init.d/legacy", "#!/bin/sh\n", "sysv"),
    ],
)
def test_a_generator_runs_as_soon_as_it_has_something_to_do(
    root: Path, path: str, text: str, generator: str
) -> None:
    (root / path).write_text(text)
    assert unmasked(root) == [generator]


def test_an_offline_update_is_not_missed(root: Path) -> None:
    (root / "system-update").symlink_to("var/lib/system-update")
    assert unmasked(root) == ["system-update"]


@pytest.mark.parametrize(
    ("sshd", "kept"),
    [(b"\x7fELF\0sd_listen_fds\0", True), (b"\0LISTEN_FDS\0", True), (b"\x7fELF\0listen\0", False)],
)
def test_the_port_is_left_to_an_sshd_that_cannot_take_it_from_systemd(
    root: Path, sshd: bytes, kept: bool
) -> None:
    units = root / "units"
    for folder in (root / "usr/sbin", units):
        folder.mkdir(parents=True)

    (root / "usr/sbin/sshd").write_bytes(sshd)
    (units / "banger-ssh.socket").touch()
    run(root, f"cp() {{ touch $2/${{1##*/}}; }}; units={units}; check_sshd")

    assert (units / "banger-ssh.socket").exists() is kept
    assert (units / "banger-agent.service.d/after-ssh.conf").exists() is not kept


def test_a_guest_without_resolvers_has_its_file_left_alone_too(root: Path) -> None:
    apply_identity(root, dns="")
    (root / "etc/resolv.conf").write_text("mine\n")
    apply_identity(root, dns="")
    assert (root / "etc/resolv.conf").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("serials", "wanted", "found"),
    [
        ({"vda": "work", "vdb": "root"}, "root vda", "/dev/vdb"),
        ({"vda": "work", "vdb": "root"}, "work vdb", "/dev/vda"),
        ({"vda": "root"}, "work vdb", ""),
        ({"vda": "2049-0-131", "vdb": "2049-0-132"}, "root vda", "/dev/vda"),
        ({"vda": "2049-0-131", "vdb": "2049-0-132"}, "work vdb", "/dev/vdb"),
        ({"vda": "2049-0-131"}, "work vdb", ""),
    ],
)
def test_disks_are_found_by_serial_or_where_those_are_not_ours_by_order(
    tmp_path: Path, serials: dict[str, str], wanted: str, found: str
) -> None:
    for name, serial in serials.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "serial").write_text(serial)

    functions = FUNCTIONS.replace("/sys/block/", f"{tmp_path}/")
    functions = functions.replace('[ -b "$device" ]', f'[ -d "{tmp_path}/${{device##*/}}" ]')
    script = f"{functions}\nfind_disk {wanted} && echo $device || :"
    words = [str(BUSYBOX), "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


def test_what_systemd_runs_last_is_a_script_too() -> None:
    script = resources.files("banger.guest") / "files/optional/shutdown"
    subprocess.run([BUSYBOX, "sh", "-n"], input=script.read_bytes(), check=True)
