"""The command line of the smoke suite."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from smoke import layers
from smoke.host import Host
from smoke.scenarios import SCENARIOS
from smoke.suite import Scenario, When, play

_BASES = {"bare": lambda: None, "prepared": layers.prepared, "installed": layers.installed}


def main() -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(prog="./smoke/run", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME", help="scenarios; without, all of them")
    parser.add_argument("--core", action="store_true", help="the few that tell the most")
    parser.add_argument("--list", action="store_true", help="show the scenarios there are")
    parser.add_argument("--at-once", action="store_true", help="prepare a host and do not keep it")
    parser.add_argument("--keep", action="store_true", help="leave the host running")
    parser.add_argument("--shell", action="store_true", help="a shell, or a command, in a host")
    parser.add_argument("--user", default="root", help="of the shell: root, dev or stranger")
    parser.add_argument("--on", choices=_BASES, default="bare", help="what the shell's host has")
    chosen = parser.parse_args()
    if chosen.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:42} {scenario.when.value:8} {scenario.shows}")

        return 0

    if chosen.shell:
        return shell(chosen.words, chosen.user, _BASES[chosen.on](), keep=chosen.keep)

    usual = (When.CORE,) if chosen.core else (When.CORE, When.ALL)
    scenarios = named(chosen.words, usual, parser)
    return len(play(scenarios, keep=chosen.keep, at_once=chosen.at_once))


def named(
    words: list[str], usual: tuple[When, ...], parser: argparse.ArgumentParser
) -> list[Scenario]:
    """The scenarios called so, in the order they are listed in; without a name the `usual` ones."""
    unknown = set(words) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))} (see --list)")

    return [
        scenario
        for scenario in SCENARIOS
        if (scenario.name in words if words else scenario.when in usual)
    ]


def shell(argv: list[str], user: str, base: Path | None, *, keep: bool) -> int:
    """A shell in a host, which is started when it does not run."""
    host = Host("shell", base=base)
    running = host.pid is not None
    if not running:
        host.remove()
        host.start()

    try:
        return host.shell(argv, user=user)
    finally:
        if not running and not keep:
            host.remove()


sys.exit(main())
