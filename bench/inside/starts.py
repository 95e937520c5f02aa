"""Starts of VMs on this installed host, by banger and by hand in turns.

    python -m bench.inside.starts cold|warm|template RUNS

By hand a guest boots, or goes on from saved memory. Of banger's a `cold` one boots; a `warm` one is
the VM that stands by, a `template` one goes on from saved memory, too, for none stands by.

Prints JSON: the seconds of every run, and of the steps of both. Run by root.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from banger.api.models import CreateVM, MakeTemplate, Operation
from banger.client.client import Client
from banger.privileged.gates import devices
from banger.privileged.site import installed
from bench.inside.byhand import ByHand, Shape, parts

_SOCKET = Path("/run/banger/bangerd.sock")
_OWNER = "dev"
_SETTLE_SECONDS = 2.0
# With two the emulation of what VMs are made with may end guest or host.
_VCPUS = 1
# From when there is something of a VM that is to stand by until it does.
_STANDBY_SECONDS = 20.0
_LONGEST_WAIT = 300.0


def main() -> None:
    kind, runs = sys.argv[1], int(sys.argv[2])
    client = Client(_SOCKET, timeout=900)
    times: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    hand, cold = _by_hand(client), kind == "cold"
    settle = _await_standby if kind == "warm" else _rest
    if not cold:
        hand.save()
        client.wait(client.make_template(MakeTemplate(vcpus=_VCPUS)))
        # One stands by when somebody has wanted such a VM.
        _asked(client, "first", cold=False)

    for number in range(-1, runs):
        if number == 0:
            times.clear()
            steps.clear()
            hand.steps.clear()

        settle()
        times["by hand"].append(hand.boot() if cold else hand.resume())
        settle()
        took, operations = _asked(client, f"asked{number + 1}", cold=cold)
        times["banger, asked by a program"].append(took)
        for name, operation in operations.items():
            _note(steps[name], operation)

        settle()
        times["banger vm create"].append(_typed(client, f"typed{number + 1}", cold=cold))

    print(json.dumps({"times": times, "steps": {**steps, "by hand": hand.steps}}))


def _rest() -> None:
    time.sleep(_SETTLE_SECONDS)


def _await_standby() -> None:
    """Wait, while no other VM runs, until one stands by."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while not devices.snapshots():
        assert time.monotonic() < deadline, "none stands by"
        time.sleep(1)

    time.sleep(_STANDBY_SECONDS)


def _by_hand(client: Client) -> ByHand:
    """Guests like those that banger makes, of parts that it has checked and made."""
    client.wait(client.create_vm(CreateVM(name="pattern", vcpus=_VCPUS, cold=True)))
    spec = client.vm("pattern").spec
    client.wait(client.delete_vm("pattern"))
    shape = Shape(
        vcpus=spec.vcpus, memory=spec.memory, root_size=spec.root_size, disk_size=spec.disk_size
    )
    return ByHand(installed(), shape, parts())


def _asked(client: Client, name: str, *, cold: bool) -> tuple[float, dict[str, Operation]]:
    """A VM made by a program that is running: seconds, then how it was made, stopped, deleted."""
    began = time.perf_counter()
    made = client.wait(client.create_vm(CreateVM(name=name, vcpus=_VCPUS, cold=cold)))
    took = time.perf_counter() - began
    stopped = client.wait(client.stop_vm(name))
    deleted = client.wait(client.delete_vm(name))
    return took, {"create": made, "stop": stopped, "delete": deleted}


def _typed(client: Client, name: str, *, cold: bool) -> float:
    """The same, typed at a shell."""
    command = ["runuser", "-u", _OWNER, "--", "banger", "vm", "create", "-q", "--name", name]
    command += ["--vcpu", str(_VCPUS)]
    began = time.perf_counter()
    subprocess.run([*command, *(["--cold"] * cold)], check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    client.wait(client.delete_vm(name))
    return took


def _note(steps: dict[str, list[float]], operation: Operation) -> None:
    for stage in operation.stages:
        if stage.finished_at is not None:
            steps[stage.name].append(stage.finished_at - stage.started_at)


if __name__ == "__main__":
    main()
