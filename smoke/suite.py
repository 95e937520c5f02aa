"""Running scenarios, one after another on one host; a failure keeps its logs and takes another."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from banger.hypervisor.base import ExitReason
from smoke import layers
from smoke.host import Host
from smoke.image import CACHE
from smoke.world import World

FAILURES = CACHE / "failures"
_SETTLE_SECONDS = 30.0
# fmt: off
_LOGS = {
    "journal": ["journalctl", "--no-pager", "--output", "short-precise", "--boot", "all"],
    "census": ["/usr/local/lib/smoke/census.sh"],
    "processes": ["ps", "axfww", "-o", "pid,ppid,user,stat,start,args"],
    "network": ["sh", "-c", "ip -d addr; ip route; nft list ruleset; resolvectl status"],
    "vms": ["sudo", "-u", "dev", "banger", "vm", "list", "--json"],
    "bangerd.log": ["cat", "/var/lib/banger/bangerd.log"],
    "consoles": ["sh", "-c", "cd /var/lib/banger && tail -n 200 vms/*/*.log failed/* | cat -v"],
}
# fmt: on


class When(Enum):
    """In which runs a scenario is played: in short ones too, in whole ones, or by name alone."""

    CORE = "core"
    ALL = "all"
    NAMED = "by name"


@dataclass(frozen=True, slots=True)
class Scenario:
    """`name` as typed, what it shows, and the function that shows it on an installed host."""

    name: str
    shows: str
    play: Callable[[World], None]
    when: When

    @classmethod
    def of(cls, function: Callable[[World], None], when: When) -> Scenario:
        assert function.__doc__, function
        return cls(function.__name__.replace("_", "-"), function.__doc__, function, when)


def play(scenarios: Sequence[Scenario], *, keep: bool, at_once: bool) -> list[str]:
    """Play them all; the names of those that failed. `keep`: leave the host as it is then.

    `at_once` makes a host in one go: sooner ready, but for this time only. A scenario in which the
    emulation of this host's processors has ended a guest is played once more, on another host.
    """
    failed = []
    suite = _Suite(keep=keep, at_once=at_once)
    for scenario in scenarios:
        fault = suite.try_out(scenario)
        if fault is Fault.EMULATION:
            fault = suite.try_out(scenario)

        if fault is not None:
            failed.append(scenario.name)
            if keep:
                return failed

    if not keep:
        suite.host.remove()

    return failed


class Fault(Enum):
    """Whose fault it is: what is tried out, or QEMU's emulation of what VMs are made with."""

    OURS = "FAIL"
    EMULATION = "lost"


class _Suite:
    def __init__(self, *, keep: bool, at_once: bool) -> None:
        self._keep = keep
        self._at_once = at_once
        self.host = Host("suite", base=None if at_once else layers.installed())

    def try_out(self, scenario: Scenario) -> Fault | None:
        began = time.monotonic()
        try:
            _play(scenario, self._ready())
        except Exception:  # whatever went wrong, the next scenario gets its chance
            fault = self._fault()
            print(f"{fault.value}  {scenario.name}  {time.monotonic() - began:.0f} s", flush=True)
            traceback.print_exc()
            with contextlib.suppress(subprocess.TimeoutExpired):
                print(f"      logs: {_keep_logs(self.host, scenario)}", flush=True)

            if not self._keep:
                self.host.remove()

            return fault

        print(f"pass  {scenario.name}  {time.monotonic() - began:.0f} s", flush=True)
        return None

    def _ready(self) -> World:
        if self.host.pid is None:
            if self._at_once:
                self.host = layers.at_once(self.host.name)
            else:
                self.host.remove()
                self.host.start()

            World(self.host).furnish()

        return World(self.host)

    def _fault(self) -> Fault:
        try:
            said = self.host.run(["cat", "/var/lib/banger/bangerd.log"], check=False, timeout=120)
        except subprocess.TimeoutExpired:
            # All of the host stands still.
            return Fault.EMULATION

        ended = (ExitReason.TRIPLE_FAULT, ExitReason.KVM_FAILED)
        emulation = any(reason.value in said.stdout.decode(errors="replace") for reason in ended)
        return Fault.EMULATION if emulation or self._has_panicked() else Fault.OURS

    def _has_panicked(self) -> bool:
        """Of a guest with two processors the host's kernel has faulted in every page fault."""
        return b"Kernel panic" in self.host.console.read_bytes()


def _play(scenario: Scenario, world: World) -> None:
    before = _settled(world)
    scenario.play(world)
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (after := world.census()) != before and time.monotonic() < deadline:
        time.sleep(1)

    assert after == before, f"left: {sorted(after - before)}; gone: {sorted(before - after)}"


def _settled(world: World) -> set[str]:
    """The census once it stays the same: after a start the daemon still makes taps."""
    before = world.census()
    while True:
        time.sleep(1)
        after = world.census()
        if after == before:
            return after

        before = after


def _keep_logs(host: Host, scenario: Scenario) -> Path:
    directory = FAILURES / scenario.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "failure.log").write_text(traceback.format_exc())
    if host.console.exists():
        shutil.copy(host.console, directory / "console.log")

    if host.pid is not None:
        for name, command in _LOGS.items():
            outcome = host.run(command, check=False, timeout=120)
            (directory / f"{name.removesuffix('.log')}.log").write_bytes(
                outcome.stdout + outcome.stderr
            )

    return directory
