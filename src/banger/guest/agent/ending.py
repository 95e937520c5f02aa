"""Standing still and ending: the requests `freeze`, `thaw`, `sync`, `poweroff` and `reboot`."""

from __future__ import annotations

import posix as os
import time
from fcntl import ioctl

from banger.guest.agent.fields import field, seconds_field, strings
from banger.guest.agent.process import Process
from banger.guest.agent.system import S_IFDIR, kind_of, quietly, read_text, write_text
from banger.guest.agent.wire import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from banger.guest.agent.loop import Loop
    from banger.guest.agent.port import Port
    from banger.guest.agent.wire import Body

# linux/fs.h
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
THAW_SECONDS = 10.0
CGROUPS = "/sys/fs/cgroup"
# systemd(1), "Signals": SIGRTMIN+4, +14, +5 and +15, where glibc's SIGRTMIN is 34.
POWEROFF_SIGNALS = {"clean": 38, "fast": 48}
REBOOT_SIGNALS = {"clean": 39, "fast": 49}


class Freezer:
    """File systems and processes that stand still. They go on by themselves after a while."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.paths: list[str] = []
        self.groups: list[str] = []
        self.cancel: Callable[[], None] | None = None

    def frozen(self) -> list[str]:
        return [*self.paths, *self.groups]

    def hold(self, paths: list[str], *, processes: bool, seconds: float) -> None:
        """Know what is about to be frozen, so that it is thawed whatever happens."""
        if self.cancel is not None:
            raise AgentError("busy", "the guest is frozen already")

        self.groups = other_groups() if processes else []
        self.paths = paths
        self.cancel = self.loop.after(seconds, self.thaw)

    def freeze(self) -> Body:
        """Returns when all of it stands still."""
        for group in self.groups:
            quietly(write_text, f"{group}/cgroup.freeze", "1")

        for group in self.groups:
            wait_until_frozen(group)

        for path in self.paths:
            change_file_system(path, FIFREEZE)

        return {"frozen": self.frozen()}

    def settle(self, status: int) -> None:
        if status != 0:
            self.thaw()

    def thaw(self) -> None:
        """As much as can be: what is thawed already is no failure."""
        if self.cancel is not None:
            self.cancel()
            self.cancel = None

        for path in self.paths:
            quietly(change_file_system, path, FITHAW)

        for group in self.groups:
            quietly(write_text, f"{group}/cgroup.freeze", "0")

        self.paths, self.groups = [], []


def other_groups() -> list[str]:
    """The control groups (cgroups(7), version 2) that hold all but this process and init.

    What it has started is in its own group, so both move into groups below that, which systemd
    leaves to a service with Delegate=.
    """
    own = read_text("/proc/self/cgroup").rpartition(":")[2].strip("/").removesuffix("/agent")
    if not own:
        raise AgentError("unsupported", "the agent has no control group of its own")

    unit = f"{CGROUPS}/{own}"
    for name in ("agent", "started"):
        quietly(os.mkdir, f"{unit}/{name}")

    write_text(f"{unit}/agent/cgroup.procs", "0")
    for place in (unit, f"{unit}/agent"):
        for pid in read_text(f"{place}/cgroup.procs").split():
            if int(pid) != os.getpid():
                quietly(write_text, f"{unit}/started/cgroup.procs", pid)

    return list(groups_beside(f"{own}/agent"))


def groups_beside(own: str) -> Iterator[str]:
    at = CGROUPS
    for part in own.split("/"):
        for name in os.listdir(at):
            if name not in (part, "init.scope") and kind_of(f"{at}/{name}") == S_IFDIR:
                yield f"{at}/{name}"

        at = f"{at}/{part}"


def wait_until_frozen(group: str) -> None:
    for _ in range(500):
        try:
            if "frozen 1" in read_text(f"{group}/cgroup.events"):
                return
        except FileNotFoundError:
            # Its last process has ended.
            return

        time.sleep(0.002)

    raise AgentError("failed", f"the processes of {group} do not freeze")


def change_file_system(path: str, request: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ioctl(fd, request, 0)
    finally:
        os.close(fd)


def serve_freeze(port: Port, request: Body) -> Body | None:
    """In a worker if there are file systems: they may take long to write what they have to.

    Processes stop at once, and a worker would cost more time than they take.
    """
    freezer = port.agent.freezer
    paths, processes = strings(request, "paths"), field(request, "processes", False)
    seconds = seconds_field(request, "timeout") or THAW_SECONDS
    freezer.hold(paths, processes=processes, seconds=seconds)
    if paths:
        port.stream = Process(port, freezer.freeze, worker=True, then=freezer.settle)
        return None

    try:
        return freezer.freeze()
    except AgentError:
        freezer.thaw()
        raise


def serve_thaw(port: Port, request: Body) -> Body:
    freezer = port.agent.freezer
    thawed = freezer.frozen()
    freezer.thaw()
    return {"thawed": thawed}


def serve_sync(port: Port, request: Body) -> None:
    port.stream = Process(port, synchronise, worker=True)


def synchronise() -> Body:
    os.sync()
    return {}


def serve_poweroff(port: Port, request: Body) -> None:
    end_system(port, request, POWEROFF_SIGNALS)


def serve_reboot(port: Port, request: Body) -> None:
    end_system(port, request, REBOOT_SIGNALS)


def end_system(port: Port, request: Body, signals: dict[str, int]) -> None:
    """Answer when everything is on disk, then ask init, whether or not the host still listens."""
    how = field(request, "how", "fast")
    if how not in signals:
        raise AgentError("bad_request", f"how is one of: {', '.join(signals)}")

    port.agent.freezer.thaw()
    port.stream = Process(port, synchronise, worker=True, then=lambda _: os.kill(1, signals[how]))
