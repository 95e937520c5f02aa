"""Disks of hosts on which the slow steps have been done, each a layer on the one before."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path

from smoke import release
from smoke.host import Disk, Host
from smoke.image import CACHE

LAYERS = CACHE / "layers"
_IMAGES = "/srv/banger"


def prepared() -> Path:
    """A host with the release in /opt/banger, Firecracker, and an image in /srv/banger.

    The owner can go on with: sudo /opt/banger/bin/banger system install --owner dev.
    """
    wheels, images = release.wheels(), release.guest_images()
    programs = release.firecracker()

    def make(host: Host) -> None:
        prepare(host, wheels, programs)

    return _layer("prepared", with_images(images), [wheels.name, images.name], prepare, make)


def with_images(images: Path) -> Path:
    """A host with the image in /srv/banger, the owner's."""
    return _layer("images", None, [images.name], copy, copy, Disk("images", images))


def installed() -> Path:
    """A host on which `banger system install` has been run, with an image to make VMs of."""
    return _layer("installed", prepared(), [], install, install)


def at_once(name: str) -> Host:
    """A host that runs, and has what `installed` has: made in one go, and not kept."""
    wheels, images = release.wheels(), release.guest_images()
    host = Host(name, disks=(Disk("images", images),))
    host.remove()
    host.start()
    copy(host)
    prepare(host, wheels, release.firecracker())
    install(host)
    return host


def copy(host: Host) -> None:
    """Copy the image off the disk that has it."""
    host.sh(
        f"mount -o ro /dev/disk/by-id/virtio-images /mnt && mkdir {_IMAGES}"
        f" && cp -a --sparse=always /mnt/images /mnt/kernels {_IMAGES}"
        f" && umount /mnt && chown -R dev: {_IMAGES}",
        timeout=600,
    )


def prepare(host: Host, wheels: Path, programs: Path) -> None:
    """Put the release and Firecracker where a user would."""
    host.put(wheels, "/tmp/wheels")
    host.sh(
        "python3 -m venv /opt/banger"
        " && /opt/banger/bin/pip -q install --disable-pip-version-check --no-compile --no-index"
        " --find-links /tmp/wheels banger && rm -r /tmp/wheels",
        timeout=900,
    )
    for name in ("firecracker", "jailer"):
        host.put(programs / name, f"/usr/local/bin/{name}")

    host.sh("chown root: /usr/local/bin/* && chmod 755 /usr/local/bin/*")


def without_templates(host: Host) -> None:
    """Have no templates made: that would go on for minutes after each scenario that runs a VM."""
    settings = '[limits]\\ntemplates_size = "0"\\n'
    host.sh(f"mkdir -p /etc/banger && printf '{settings}' >/etc/banger/config.toml")


def install(host: Host) -> None:
    """Install banger for the owner as a user would, and give it the image."""
    without_templates(host)
    host.run(
        ["sudo", "/opt/banger/bin/banger", "system", "install", "--owner", "dev"],
        user="dev",
        timeout=600,
    )
    host.sh(
        f"cp -alf {_IMAGES}/images {_IMAGES}/kernels /var/lib/banger && rm -r {_IMAGES}/*",
        user="dev",
    )


def _layer(
    name: str,
    base: Path | None,
    inputs: list[str],
    source: Callable[..., None],
    make: Callable[[Host], None],
    *disks: Disk,
) -> Path:
    """A disk that `make` has made, kept for as long as `source` and the inputs are the same."""
    host = Host(f"making-{name}", base=base, disks=disks)
    parts = [
        name,
        host.image.directory.name,
        base.name if base else "",
        *inputs,
        inspect.getsource(source),
    ]
    target = LAYERS / f"{name}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}.qcow2"
    if target.exists():
        return target

    print(f"==> making the host's layer {name!r}", flush=True)
    LAYERS.mkdir(parents=True, exist_ok=True)
    host.remove()
    try:
        host.start()
        make(host)
        host.power_off()
        host.keep_disk(target)
    finally:
        host.remove()

    return target
