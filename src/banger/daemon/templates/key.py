"""What makes a saved guest of use for a new VM, as one short key: another key, another template."""

from __future__ import annotations

import hashlib

import msgspec

from banger.api.models import VMSpec
from banger.daemon.vms.machine import Site
from banger.daemon.vms.vmm import vmm_identity
from banger.guest.config import kernel_cmdline

# Raised whenever a guest saved by an earlier banger would not do, and nothing below shows it: the
# machine that the hypervisor makes, what is done in the guest before it is saved, the files.
FORMAT = 1

# As long as a VM's id, because both name directories with sockets, whose paths are limited.
KEY_LENGTH = 12


class Ingredients(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides how a guest has booted and where it can go on. Sizes in bytes.

    `initramfs` names the shared initial RAM file system by its content, the agent's among it; `vmm`
    is the VMM with its version and its accelerator, and the host's processor.
    """

    image: str
    kernel: str
    initramfs: str
    cmdline: str
    vcpus: int
    memory: int
    root_size: int
    disk_size: int
    vmm: str
    format: int = FORMAT


def template_key(ingredients: Ingredients) -> str:
    """The key of the template that is made of exactly these."""
    return hashlib.sha256(msgspec.json.encode(ingredients)).hexdigest()[:KEY_LENGTH]


class Keys:
    """Tells the keys of VMs that would be made on this host now."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def of(self, spec: VMSpec, image_id: str, kernel_id: str) -> str:
        """The key of the template for a VM of that image, kernel and shape.

        Its name, address, ports and egress do not count: they are given to each clone, or are the
        host's. Raises PermanentError(hypervisor_missing), CallerError(unknown_kernel).
        """
        found = await self._site.hypervisor.capabilities()
        shared = await self._site.images.initramfs(kernel_id)
        ingredients = Ingredients(
            image=image_id,
            kernel=kernel_id,
            initramfs=shared.name,
            cmdline=kernel_cmdline(emulated=found.accelerator == "tcg"),
            vcpus=spec.vcpus,
            memory=spec.memory,
            root_size=spec.root_size,
            disk_size=spec.disk_size,
            vmm=await vmm_identity(self._site),
        )
        return template_key(ingredients)
