"""Gates that only root can be tested at: whose file, whose process."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.privileged.outcome import fault_of

from banger.privileged.dispatch import perform
from banger.privileged.faults import Fault, FaultCode
from banger.privileged.gates import binaries, processes
from banger.privileged.ops import (
    GrantSocket,
    Process,
    RemoveJail,
    ResolveBinaries,
    Signal,
    SignalProcess,
)
from banger.privileged.site import Site, installed

OWNER, OTHER = 1000, 1001
SITE = Site(owner_uid=OWNER, owner_gid=OWNER, roots=("/srv/state",), jails="/srv/jail")


def code_of(path: str) -> FaultCode | None:
    return fault_of(lambda: binaries.program(path, "firecracker"))


def programs_are_roots_alone() -> None:
    place = Path("/srv/opt/bin")
    place.mkdir(parents=True)
    program = place / "firecracker"
    program.write_text("")
    program.chmod(0o755)
    path = str(program)
    assert code_of(path) is None

    for spoilt, mode in (
        (program, 0o775),
        (program, 0o757),
        (place, 0o777),
        (place.parent, 0o1777),
    ):
        before = spoilt.stat().st_mode
        spoilt.chmod(mode)
        assert code_of(path) is FaultCode.REFUSED, (spoilt, mode)
        spoilt.chmod(before)

    for spoilt in (program, place, place.parent):
        os.chown(spoilt, OTHER, 0)
        assert code_of(path) is FaultCode.REFUSED, spoilt
        os.chown(spoilt, 0, 0)

    program.chmod(0o644)
    assert code_of(path) is FaultCode.REFUSED, "not executable"
    program.chmod(0o755)

    Path("/srv/way").symlink_to("opt")
    Path("/srv/linked").mkdir()
    Path("/srv/linked/firecracker").symlink_to(program)
    for other in ("/srv/way/bin/firecracker", "/srv/linked/firecracker", "/srv/opt/../opt/bin/x"):
        assert code_of(other) is FaultCode.REFUSED, other

    program.rename(place / "other")
    assert code_of(path) is FaultCode.NOT_FOUND
    assert code_of(str(place / "other")) is FaultCode.REFUSED, "of another name"
    program.mkdir()
    assert code_of(path) is FaultCode.REFUSED, "a directory"
    with contextlib.suppress(Fault):
        perform(SITE, ResolveBinaries())
        raise AssertionError("found what is not installed")


def whoever_may_write_on_the_way_spoils_a_program() -> None:
    program = Path("/srv/opt/bin/firecracker")
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)

    @settings(database=None, max_examples=300)
    @given(
        spoilt=st.sampled_from([program, program.parent, program.parent.parent]),
        uid=st.sampled_from([0, 0, 0, OWNER, 65534]),
        mode=st.integers(0, 0o7777),
    )
    def it_runs_only_if_root_alone_made_it(spoilt: Path, uid: int, mode: int) -> None:
        before = spoilt.stat()
        os.chown(spoilt, uid, 0)
        spoilt.chmod(mode)
        fine = uid == 0 and not mode & 0o022 and (spoilt is not program or mode & 0o100 != 0)
        assert code_of(str(program)) is (None if fine else FaultCode.REFUSED)
        os.chown(spoilt, 0, 0)
        spoilt.chmod(before.st_mode)

    it_runs_only_if_root_alone_made_it()


def the_owner_is_whom_root_wrote_down() -> None:
    path = Path("/srv/etc/install.toml")
    path.parent.mkdir()
    path.write_text('owner_user = "ada"\nowner_uid = 1000\nowner_gid = 1001\n')
    site = installed(str(path))
    assert (site.owner_uid, site.owner_gid) == (1000, 1001)

    for content in (
        "", "owner_uid = 0\nowner_gid = 5", "owner_uid = -1\nowner_gid = 5", "owner_uid = ",
        "owner_uid = true\nowner_gid = 5", 'owner_uid = "1000"\nowner_gid = 5',
        "owner_uid = 4294967295\nowner_gid = 5", "owner_uid = 1000",
    ):  # fmt: skip
        path.write_text(content)
        _refuses(path)

    path.write_text("owner_uid = 1000\nowner_gid = 1000\n")
    os.chown(path, OWNER, 0)
    _refuses(path)


def _refuses(path: Path) -> None:
    assert fault_of(lambda: installed(str(path))) is FaultCode.REFUSED, path.read_text()


def sockets_are_given_to_nobody_but_the_owner() -> None:
    Path("/srv/state").mkdir()
    os.chown("/srv/state", OWNER, OWNER)
    for name, uid in (("mine", OWNER), ("roots", 0), ("hard", OWNER)):
        os.mknod(f"/srv/state/{name}", 0o140755)
        os.chown(f"/srv/state/{name}", uid, 0)

    os.link("/srv/state/hard", "/srv/hard")
    Path("/srv/state/link").symlink_to("/srv/state/mine")
    Path("/srv/state/file").touch()
    os.chown("/srv/state/file", OWNER, OWNER)
    perform(SITE, GrantSocket(path="/srv/state/mine"))
    info = Path("/srv/state/mine").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (OWNER, OWNER, 0o600)

    for name in ("roots", "hard", "link", "file", "../hard"):
        before = os.lstat(f"/srv/state/{name}")
        request = GrantSocket(path=f"/srv/state/{name}")
        assert fault_of(functools.partial(perform, SITE, request)) is FaultCode.REFUSED, name
        assert os.lstat(f"/srv/state/{name}") == before


@contextlib.contextmanager
def living(root: str, uid: int) -> Iterator[Process]:
    """A process of `uid` whose root directory is `root`."""
    if not Path(root, "firecracker").exists():
        Path(root).mkdir(parents=True, exist_ok=True)
        shutil.copy(shutil.which("busybox") or "", f"{root}/firecracker")

    child = os.fork()
    if child == 0:
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.execv("/firecracker", ["sleep", "1000"])

    while b"sleep" not in Path(f"/proc/{child}/cmdline").read_bytes():
        time.sleep(0.005)

    found = processes.process(child)
    assert found is not None
    try:
        yield found
    finally:
        os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def home(jail: str) -> str:
    return f"/srv/jail/firecracker/{jail}/root"


def a_vmm_is_found_by_where_it_lives() -> None:
    Path("/srv/jail").mkdir(mode=0o700)
    Path(home("empty")).mkdir(parents=True)
    with (
        living(home("v1"), OWNER) as vmm,
        living(home("v2"), OTHER),
        living(home("v3"), 0),
        living("/srv/elsewhere", OWNER) as stray,
    ):
        assert processes.find(SITE, "v1") == vmm
        for jail in ("v2", "v3", "empty", "none"):
            assert processes.find(SITE, jail) is None, jail

        assert not processes.is_vmm(SITE, "v1", stray.pid)
        assert not processes.is_vmm(SITE, "v1", os.getpid())
        assert perform_code(RemoveJail(jail="v1")) is FaultCode.BUSY
        # Without CAP_SYS_PTRACE the kernel shows root no links of another user's process.
        program = (
            "from tests.unit.privileged.scenes_gates import SITE\n"
            "from banger.privileged.gates import processes\n"
            f"assert processes.find(SITE, 'v1').pid == {vmm.pid}\n"
        )
        fewer = ["setpriv", "--bounding-set", "-sys_ptrace", sys.executable, "-c", program]
        subprocess.run(fewer, check=True)

    assert processes.find(SITE, "v1") is None
    perform(SITE, RemoveJail(jail="v1"))
    perform(SITE, RemoveJail(jail="v1"))
    assert not Path(home("v1")).exists()
    assert Path(home("v2")).exists()


def perform_code(request: RemoveJail | SignalProcess) -> FaultCode | bool:
    try:
        done = perform(SITE, request)
    except Fault as fault:
        return fault.code

    return getattr(done, "delivered", True)


def only_the_vmm_that_is_meant_is_signalled() -> None:
    Path("/srv/jail").mkdir(mode=0o700)
    with living(home("v1"), OWNER) as vmm, living(home("v2"), OWNER) as other:
        me = processes.process(os.getpid())
        assert me is not None
        innocent = {p.pid: p.start_time for p in (other, me)}

        @settings(database=None, max_examples=200)
        @given(
            pid=st.sampled_from([0, 1, -1, vmm.pid, *innocent]) | st.integers(-(2**31), 2**31),
            ticks=st.sampled_from([0, vmm.start_time + 1, *innocent.values()]),
            sent=st.sampled_from(Signal),
        )
        def nothing_else_is_hit(pid: int, ticks: int, sent: Signal) -> None:
            target = Process(pid=pid, start_time=ticks)
            if target == vmm:
                return

            asked = SignalProcess(jail="v1", process=target, signal=sent)
            assert perform_code(asked) in (False, FaultCode.REFUSED)
            assert processes.process(other.pid) == other
            assert processes.process(vmm.pid) == vmm

        nothing_else_is_hit()
        other_jail = SignalProcess(jail="v2", process=vmm, signal=Signal.KILL)
        assert perform_code(other_jail) is FaultCode.REFUSED
        kill = SignalProcess(jail="v1", process=vmm, signal=Signal.KILL)
        assert perform_code(kill) is True
        while processes.process(vmm.pid) is not None:
            time.sleep(0.005)

        assert perform_code(kill) is False, "a zombie"


def a_jail_is_removed_without_leaving_it() -> None:
    Path(home("v1")).mkdir(parents=True)
    Path("/srv/precious").mkdir()
    Path("/srv/precious/file").write_text("kept")
    Path(home("v1"), "way").symlink_to("/srv/precious")
    Path(home("v1"), "deep/er").mkdir(parents=True)
    Path(home("v1"), "deep/er/way").symlink_to("../../../../../../precious")
    os.link("/srv/precious/file", f"{home('v1')}/hard")
    perform(SITE, RemoveJail(jail="v1"))
    assert Path("/srv/precious/file").read_text() == "kept"

    Path(home("v2"), "mounted").mkdir(parents=True)
    subprocess.run(["mount", "--bind", "/srv/precious", f"{home('v2')}/mounted"], check=True)
    assert perform_code(RemoveJail(jail="v2")) is FaultCode.BUSY
    assert Path("/srv/precious/file").read_text() == "kept"
    subprocess.run(["umount", f"{home('v2')}/mounted"], check=True)
    Path("/srv/jail/firecracker/v3").symlink_to("/srv/precious")
    with contextlib.suppress(Fault):
        perform(SITE, RemoveJail(jail="v3"))

    assert Path("/srv/precious/file").read_text() == "kept"
