"""What one VM's guest is told: the small archive appended to its initrd, and the command line."""

from __future__ import annotations

import hashlib
import shlex

import msgspec

from banger.guest import cpio

# machine-id(5): 32 lower-case hex digits.
_MACHINE_ID_LENGTH = 32


class GuestConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One guest's identity. `address`, `gateway` and `dns` are plain IPv4 addresses.

    `mac` is in lower case, as the kernel shows it. `authorized_key` is a line of authorized_keys;
    `host_key` an OpenSSH private key and `host_key_public` its public line. With `grow_root` the
    root file system is grown to its disk at boot. An empty `hostname` leaves that as it is.
    """

    vm_id: str
    hostname: str
    mac: str
    address: str
    prefix: int
    gateway: str
    dns: tuple[str, ...]
    authorized_key: str
    host_key: bytes
    host_key_public: str
    grow_root: bool = False


def vm_archive(config: GuestConfig) -> bytes:
    """The newc archive with this VM's files, settings for init and what goes into /run/banger.

    It holds the VM's private host key: whoever writes it to a file keeps others from reading that.
    """
    return cpio.archive(
        [
            cpio.directory("vm", 0o700),
            _text("vm/settings", _settings(config)),
            cpio.directory("guest"),
            cpio.directory("guest/run"),
            cpio.directory("guest/run/banger"),
            _text("guest/run/banger/authorized_keys", config.authorized_key),
            _text("guest/run/banger/ssh_host_ed25519_key.pub", config.host_key_public),
            cpio.file("guest/run/banger/ssh_host_ed25519_key", config.host_key, 0o600),
        ]
    )


def machine_id(vm_id: str) -> str:
    """The machine-id(5) of a VM: its own, and the same at every boot."""
    return hashlib.sha256(b"banger machine-id " + vm_id.encode()).hexdigest()[:_MACHINE_ID_LENGTH]


def kernel_cmdline(*, emulated: bool, extra: str = "") -> str:
    """The kernel command line; docs/boot.md says what every word is for and what it saves.

    `emulated` is for a guest whose CPU is emulated by a program (TCG): mitigations of hardware
    flaws cost time there and protect nothing. The hypervisor adds what it alone knows (the rate of
    the emulated clock).
    """
    words = ["console=ttyS0", "quiet", "panic=-1", "net.ifnames=0"]
    words += ["cryptomgr.notests", "systemd.unit=banger.target"]
    if emulated:
        words += ["mitigations=off", "no_timer_check"]

    return " ".join([*words, *extra.split()])


def _settings(config: GuestConfig) -> str:
    values = {
        "hostname": config.hostname,
        "mac": config.mac,
        "address": f"{config.address}/{config.prefix}",
        "gateway": config.gateway,
        "dns": " ".join(config.dns),
        "machine_id": machine_id(config.vm_id),
        "grow_root": "yes" if config.grow_root else "",
    }
    return "\n".join(f"{name}={shlex.quote(value)}" for name, value in values.items())


def _text(name: str, text: str) -> cpio.Entry:
    return cpio.file(name, text.rstrip("\n").encode() + b"\n")
