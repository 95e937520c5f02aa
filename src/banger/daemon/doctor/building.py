"""Whether guests' first stage can be put together, and whether and how images can be built."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from banger.api.errors import BangerError
from banger.api.models import Check
from banger.daemon.doctor.findings import passed, warned
from banger.daemon.doctor.programs import install
from banger.guest import initramfs
from banger.host.runner import locate
from banger.image.isolation import isolation

_PROGRAMS = {"mmdebstrap": "mmdebstrap", "newuidmap": "uidmap", "newgidmap": "uidmap"}


async def first_stage() -> Check:
    """The busybox every guest begins with is there. Raises PermanentError(tool_missing)."""
    await asyncio.to_thread(initramfs.fingerprint)
    return passed("initramfs", f"{initramfs.BUSYBOX} is statically linked")


async def image_building() -> Check:
    """mmdebstrap is there, and this user can be root inside a tree, if only in a namespace."""
    name, root = "image building", os.geteuid() == 0
    needed = ("mmdebstrap",) if root else tuple(_PROGRAMS)
    missing = [program for program in needed if locate(program) is None]
    if missing:
        return _not_installed(missing)

    try:
        around = await isolation()
    except BangerError as error:
        return warned(name, error.message, error.hint)
    if not root:
        return passed(name, "with mmdebstrap, in a user namespace")

    details = () if around.mounts else ("this root may not mount: builds go without /proc",)
    return passed(name, "with mmdebstrap, as root", *details)


async def building_service(probe: Callable[[], Awaitable[None]]) -> Check:
    """The service that builds for an installed daemon starts and has what a build needs."""
    name = "image building"
    missing = [program for program in _PROGRAMS if locate(program) is None]
    if missing:
        return _not_installed(missing)

    try:
        await probe()
    except BangerError as error:
        return warned(name, error.message, error.hint)
    return passed(name, "with mmdebstrap, in a service of its own")


def _not_installed(missing: list[str]) -> Check:
    summary = f"not installed: {', '.join(missing)} (VMs of images that are there still work)"
    return warned("image building", summary, install(missing, _PROGRAMS))
