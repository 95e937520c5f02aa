"""Installations for benchmarks to measure in, and the ways into their guests without a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.harness import Banger, adopt_images, short_directory

from banger.channel.calls import GuestCalls
from banger.channel.requests import Exec, Exited
from banger.channel.serial import SerialChannel
from bench.images import built_images


@contextmanager
def warm(*shape: str, standby: bool = False) -> Iterator[Banger]:
    """An installation with the default image and a template for VMs of `shape`.

    With `standby` it keeps a VM ready as others do; without, what is there is what was asked for.
    """
    with short_directory() as home:
        adopt_images(built_images(), home / "state")
        (home / "config.toml").write_text(f"[limits]\nstandby = {str(standby).lower()}\n")
        banger = Banger(home)
        try:
            banger.ok("template", "make", "-q", *shape, timeout=900)
            yield banger
        finally:
            banger.close()


def calls_into(banger: Banger, vm: str) -> GuestCalls:
    """Requests to the agent of a running VM, by this process itself."""
    directory = banger.api("GET", f"/v1/vms/{vm}/agent").value["directory"]
    return GuestCalls(SerialChannel(Path(directory)))


def run_true(calls: GuestCalls) -> None:
    """`true` in a guest, from the request to its exit status."""
    assert calls.ask(Exec(argv=("true",)), Exited).code == 0
