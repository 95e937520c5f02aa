"""Real Firecracker in real jails. No guest boots: that takes KVM, and is the smoke VM's."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from tests.unit.privileged.outcome import fault_of
from tests.unit.privileged.scenes_helper import Running, ask

from banger.privileged.codec import convert, encode_call
from banger.privileged.dispatch import perform
from banger.privileged.faults import Fault, FaultCode
from banger.privileged.gates import processes
from banger.privileged.ops import (
    ApplyPolicy,
    CreateTaps,
    DeleteTaps,
    EnsureBridge,
    FindProcess,
    Found,
    JailFile,
    Launch,
    ListOwned,
    Owned,
    Process,
    RemoveBridge,
    RemoveJail,
    RemovePolicy,
    Request,
    Signal,
    SignalProcess,
)
from banger.privileged.site import Site

OWNER = 1000
SITE = Site(owner_uid=OWNER, owner_gid=OWNER, roots=("/srv/state",), jails="/srv/jail")
LAUNCH = Launch(
    jail="v1-1",
    firecracker="/srv/bin/firecracker",
    jailer="/srv/bin/jailer",
    run_dir="/srv/state/run",
    console="/srv/state/console",
    files=(
        JailFile(name="kernel", path="/srv/state/kernel"),
        JailFile(name="out", path="/srv/state/out", readonly=False),
    ),
)


def _site(binaries: str) -> None:
    os.umask(0o077)
    Path("/srv/jail").mkdir()
    Path("/srv/bin").mkdir()
    for name in ("firecracker", "jailer"):
        shutil.copy(Path(binaries, name), "/srv/bin")
        Path("/srv/bin", name).chmod(0o755)

    for directory in ("", "run", "out"):
        Path("/srv/state", directory).mkdir()

    for file in ("kernel", "console"):
        Path("/srv/state", file).touch()

    subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", "/srv/state"], check=True)


def _launch() -> Process:
    process = perform(SITE, LAUNCH)
    assert isinstance(process, Process)
    return process


def _end(process: Process) -> None:
    perform(SITE, SignalProcess(jail=LAUNCH.jail, process=process, signal=Signal.KILL))
    while processes.process(process.pid) is not None:
        time.sleep(0.005)


def a_vmm_is_jailed_as_the_owner_and_leaves_nothing(binaries: str) -> None:
    _site(binaries)
    process = _launch()
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert f"Uid:\t{OWNER}\t{OWNER}\t{OWNER}\t{OWNER}" in status
    assert "CapEff:\t0000000000000000" in status
    assert "\nGroups:\t \n" in status
    mounts = {
        fields[4]: fields[5]
        for fields in map(
            str.split, Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
        )
    }
    assert set(mounts) == {"/", "/run", "/files/kernel", "/files/out"}
    assert "ro" in mounts["/files/kernel"].split(",")
    for place in ("/run", "/files/kernel", "/files/out"):
        assert {"nosuid", "nodev", "noexec"} <= set(mounts[place].split(","))

    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/srv/state/run/api.sock")
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b'"id":"v1-1"' in client.recv(4096)

    assert Path("/srv/state/run/api.sock").stat().st_uid == OWNER
    assert "Running Firecracker" in Path("/srv/state/console").read_text()
    assert perform(SITE, FindProcess(jail="v1-1")) == Found(process=process)
    assert "/srv/jail" not in Path("/proc/self/mountinfo").read_text()
    assert _fault(LAUNCH) is FaultCode.BUSY
    _end(process)
    assert perform(SITE, FindProcess(jail="v1-1")) == Found(process=None)

    Path("/srv/state/run/api.sock").unlink()
    assert _fault(LAUNCH) is FaultCode.BUSY, "the id has been used"
    perform(SITE, RemoveJail(jail="v1-1"))
    assert _nothing_left()
    _end(_launch())


def a_launch_that_fails_takes_itself_back(binaries: str) -> None:
    _site(binaries)
    for spoilt in (
        replace(LAUNCH, files=(JailFile(name="kernel", path="/srv/state/none"),)),
        replace(LAUNCH, run_dir="/srv/state/none"),
        replace(LAUNCH, run_dir="/srv/elsewhere"),
        replace(LAUNCH, console="/srv/state/run"),
        replace(LAUNCH, console="/etc/passwd"),
        replace(LAUNCH, files=(JailFile(name="..", path="/srv/state/kernel"),)),
        replace(LAUNCH, files=LAUNCH.files + LAUNCH.files),
        replace(LAUNCH, firecracker="/srv/state/kernel"),
        replace(LAUNCH, jailer="/srv/bin/firecracker"),
    ):
        assert _fault(spoilt) in (FaultCode.REFUSED, FaultCode.NOT_FOUND), spoilt
        assert _nothing_left(), spoilt

    # The jailer runs, and what it becomes ends at once.
    shutil.copy(shutil.which("busybox") or "", "/srv/bin/firecracker")
    assert "applet not found" in _complaint(LAUNCH)
    assert _nothing_left()
    # The jailer is no program.
    Path("/srv/bin/jailer").write_text("")
    assert _fault(LAUNCH) is FaultCode.FAILED
    assert _nothing_left()


# docs/privileges.md: what the helper's unit keeps of root.
CAPABILITIES = "chown dac_override fowner kill mknod net_admin setgid setuid sys_admin"


def a_few_capabilities_are_enough(binaries: str) -> None:
    _site(binaries)
    kept = ",".join(["-all", *(f"+{name}" for name in CAPABILITIES.split())])
    running = Running("setpriv", "--bounding-set", kept, "--no-new-privs")
    start: tuple[Request[object], ...] = (
        EnsureBridge(bridge="br-fc", address="172.16.0.1", prefix=24),
        CreateTaps(bridge="br-fc", taps=("tap-fc-1",)),
        ApplyPolicy(bridge="br-fc", address="172.16.0.1", prefix=24),
        LAUNCH,
    )
    for request in start:
        ask(encode_call(request, "op"))

    reply = ask(encode_call(FindProcess(jail=LAUNCH.jail), "op"))
    process = convert(Found, reply["result"], "result").process
    end: tuple[Request[object], ...] = (
        SignalProcess(jail=LAUNCH.jail, process=process, signal=Signal.KILL),
        RemovePolicy(),
        DeleteTaps(taps=("tap-fc-1",)),
        RemoveBridge(bridge="br-fc"),
    )
    for request in end:
        ask(encode_call(request, "op"))

    while processes.process(process.pid) is not None:
        time.sleep(0.005)

    ask(encode_call(RemoveJail(jail=LAUNCH.jail), "op"))
    assert {line["outcome"] for line in running.audit()} == {"ok"}, running.audit()
    running.process.terminate()
    running.process.wait(10)
    Path("/srv/state/run/api.sock").unlink()
    assert _nothing_left()


def a_helper_killed_in_a_launch_leaves_nothing_that_is_not_found(binaries: str) -> None:
    _site(binaries)
    met = [_come_as_far_as_a_vmm(number) for number in range(60)]
    # On a host that is busy a launch takes longer.
    later = (_come_as_far_as_a_vmm(number) for number in range(60, 6000, 60))
    assert not all(met), "killed before there was a VMM"
    assert any(itertools.chain(met, later)), "killed after"


def _come_as_far_as_a_vmm(number: int) -> bool:
    """Kill a helper in a launch, the later the greater `number`, and clear up after it."""
    request = replace(LAUNCH, jail=f"v1-{number}")
    worker = os.fork()
    if worker == 0:
        perform(SITE, request)
        os._exit(0)

    time.sleep(number * 0.0004)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    found = _clear(request.jail)
    Path("/srv/state/run/api.sock").unlink(missing_ok=True)
    assert _nothing_left()
    return found


def _clear(jail: str) -> bool:
    """What reconciliation does until it is done; whether a VMM was found."""
    seen = False
    while True:
        found = perform(SITE, FindProcess(jail=jail))
        assert isinstance(found, Found)
        if found.process is not None:
            seen = True
            perform(SITE, SignalProcess(jail=jail, process=found.process, signal=Signal.KILL))

        if fault_of(lambda: perform(SITE, RemoveJail(jail=jail))) is None:
            break

        time.sleep(0.002)

    # Whoever was about to become the jailer finds no jail, and ends.
    deadline = time.monotonic() + 10
    while _others():
        assert time.monotonic() < deadline, _others()
        time.sleep(0.002)

    return seen


def _others() -> list[str]:
    """The processes there are beside this one."""
    return [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal()
        and int(entry.name) != os.getpid()
        and processes.process(int(entry.name)) is not None
    ]


def _fault(request: Launch) -> FaultCode:
    try:
        perform(SITE, request)
    except Fault as fault:
        return fault.code

    raise AssertionError(request)


def _complaint(request: Launch) -> str:
    try:
        perform(SITE, request)
    except Fault as fault:
        return fault.message

    raise AssertionError(request)


def _nothing_left() -> bool:
    return (
        perform(SITE, ListOwned()) == Owned(bridges=(), taps=(), snapshots=(), jails=())
        and list(Path("/srv/jail").glob("firecracker/*")) == []
        and not Path("/srv/state/run/api.sock").exists()
    )
