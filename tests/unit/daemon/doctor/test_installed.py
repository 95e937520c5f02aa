"""The doctor on an installed host: what banger put there, what answers, what guests are made of."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

import banger
from banger.api.errors import BangerError, ErrorCode, PermanentError, TransientError
from banger.api.models import CheckStatus
from banger.daemon.doctor import bridged, installed
from banger.daemon.doctor.building import building_service
from banger.daemon.doctor.findings import look
from banger.daemon.doctor.system import system_checks
from banger.host import runner
from banger.host.runner import Result
from banger.hypervisor import kvm
from banger.install import layout
from banger.install.files import host_files
from banger.install.metadata import Metadata
from banger.install.owner import Owner
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import PROTOCOL, Binaries, Greeting, Owned, Request

R = TypeVar("R")


class Helper:
    """Answers as it is told to; an error is raised."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def call(self, request: Request[R]) -> R:
        if isinstance(self._answer, BangerError):
            raise self._answer

        return cast("R", self._answer)


def greeting(version: str = banger.__version__) -> Greeting:
    return Greeting(protocol=PROTOCOL, version=version)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with an installation for a user of this machine's."""
    entry = pwd.getpwnam("daemon")
    owner = Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    metadata = Metadata(
        owner=owner.name,
        owner_uid=os.geteuid(),
        owner_gid=os.getegid(),
        version=banger.__version__,
        installed_at=0,
    )
    for path, text in {**host_files(owner), layout.METADATA: metadata.render()}.items():
        place = tmp_path / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    return tmp_path


def programs_say(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, tuple[int, str]]) -> None:
    """Have programs print what `answers` has for the first words of their command line."""

    async def run(argv: Any, **_: Any) -> Result:
        line = " ".join(map(str, argv))
        status, text = next(answers[start] for start in answers if line.startswith(start))
        return Result(tuple(argv), status, text.encode(), b"" if status == 0 else text.encode())

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "locate", lambda program: f"/usr/bin/{program}")


async def test_a_helper_of_this_version_is_fine() -> None:
    found = await installed.helper(Helper(greeting()))
    assert found.status is CheckStatus.PASS


async def test_a_helper_of_another_version_is_restarted() -> None:
    found = await installed.helper(Helper(greeting("0.0.1")))
    assert (found.status, found.fix) == (CheckStatus.FAIL, "sudo banger system restart")
    assert "0.0.1" in found.summary


async def test_a_helper_that_does_not_answer_is_a_failure_with_its_hint() -> None:
    error = TransientError(ErrorCode.HELPER_UNREACHABLE, "does not answer", hint="systemctl")
    found = await look("root helper", lambda: installed.helper(Helper(error)))
    assert (found.status, found.fix) == (CheckStatus.FAIL, "systemctl")


async def test_binaries_that_others_may_replace_are_a_failure() -> None:
    error = PermanentError(ErrorCode.HELPER_REFUSED, "others than root may write to /opt")
    found = await look("binaries", lambda: installed.binaries(Helper(error), "", ""))
    assert found.status is CheckStatus.FAIL
    good = Binaries(firecracker="/usr/bin/firecracker", jailer="/usr/bin/jailer")
    assert (await installed.binaries(Helper(good), "", "")).status is CheckStatus.PASS


@pytest.mark.parametrize(
    ("known", "left"),
    [
        ({"aaa", "bbb"}, ()),
        ({"aaa"}, ("jail bbb-2", "device fc-rootfs-bbb")),
        (set(), ("jail aaa-1", "jail bbb-2", "device fc-rootfs-aaa", "device fc-rootfs-bbb")),
    ],
)
async def test_what_root_has_of_no_vm_is_named(known: set[str], left: tuple[str, ...]) -> None:
    owned = Owned(
        bridges=("br-fc",),
        taps=("tap-fc-1",),
        snapshots=("fc-rootfs-aaa", "fc-rootfs-bbb"),
        jails=("aaa-1", "bbb-2"),
    )

    async def ids() -> set[str]:
        return known

    found = await installed.orphans(Helper(owned), ids)
    assert found.status is (CheckStatus.WARN if left else CheckStatus.PASS)
    assert found.details == left
    assert found.fix == ("sudo banger system restart daemon" if left else None)


async def test_a_vm_that_goes_while_it_is_looked_at_leaves_nothing() -> None:
    owned = Owned(bridges=(), taps=(), snapshots=("fc-rootfs-aaa",), jails=())
    answers = iter([{"aaa"}, set[str]()])

    async def ids() -> set[str]:
        return next(answers)

    assert (await installed.orphans(Helper(owned), ids)).status is CheckStatus.PASS


async def test_the_daemon_is_whom_it_was_installed_for(root: Path) -> None:
    assert (await installed.owner(root)).status is CheckStatus.PASS
    file = root / layout.METADATA.relative_to("/")
    file.write_text(file.read_text().replace(f"uid = {os.geteuid()}", "uid = 4242"))
    assert (await installed.owner(root)).status is CheckStatus.FAIL


async def test_another_version_on_disk_is_said(root: Path) -> None:
    assert (await installed.version(root)).status is CheckStatus.PASS
    file = root / layout.METADATA.relative_to("/")
    file.write_text(file.read_text().replace(f'"{banger.__version__}"', '"9.9"'))
    found = await installed.version(root)
    assert found.status is CheckStatus.WARN
    assert "9.9" in found.summary


async def test_units_as_written_that_run_are_fine(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"systemctl is-active": (0, "active\n"), "systemctl is-enabled": (0, "enabled\n")}
    programs_say(monkeypatch, answers)
    assert (await installed.units(root)).status is CheckStatus.PASS


async def test_a_unit_that_was_softened_is_seen(root: Path) -> None:
    file = root / "etc/systemd/system" / layout.HELPER_UNIT
    file.write_text(file.read_text().replace("NoNewPrivileges=yes\n", ""))
    found = await installed.units(root)
    assert found.status is CheckStatus.WARN
    assert found.details == (f"{file} differs",)


async def test_a_service_that_does_not_run_is_a_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"systemctl is-active": (3, "failed\n"), "systemctl is-enabled": (0, "enabled\n")}
    programs_say(monkeypatch, answers)
    found = await installed.units(root)
    assert found.status is CheckStatus.FAIL
    assert found.details[0] == f"{layout.HELPER_UNIT} is failed, not active"


async def test_sockets_are_the_owners_alone(tmp_path: Path) -> None:
    places = [tmp_path / path.relative_to("/") for path in (layout.SOCKET, layout.HELPER_SOCKET)]
    assert (await installed.sockets(tmp_path)).status is CheckStatus.FAIL
    listeners = []
    for place in places:
        place.parent.mkdir(parents=True)
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(str(place))
        place.chmod(0o600)

    assert (await installed.sockets(tmp_path)).status is CheckStatus.PASS
    places[0].chmod(0o666)
    found = await installed.sockets(tmp_path)
    assert "0666" in found.details[0]
    for listener in listeners:
        listener.close()


async def test_no_kvm_is_a_failure_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "probe", lambda: kvm.Verdict(False, "there is no /dev/kvm"))
    found = await bridged.virtualization()
    assert found.status is CheckStatus.FAIL
    assert "there is no /dev/kvm" in found.summary


async def test_devices_that_the_kernel_lacks_come_with_their_modules(tmp_path: Path) -> None:
    found = await bridged.devices(tmp_path)
    assert found.status is CheckStatus.FAIL
    assert "modprobe --all tun loop dm_mod" in (found.fix or "")
    for name in ("tun", "loop-control", "device-mapper"):
        (tmp_path / "sys/class/misc" / name).mkdir(parents=True)

    assert (await bridged.devices(tmp_path)).status is CheckStatus.PASS


@pytest.fixture
def bridge(tmp_path: Path) -> Path:
    link = tmp_path / "sys/class/net/br-fc"
    (link / "bridge").mkdir(parents=True)
    (link / "ifalias").write_text("banger\n")
    return tmp_path


def routes(*entries: str) -> dict[str, tuple[int, str]]:
    return {"ip ": (0, f"[{','.join(entries)}]")}


OWN = '{"dst": "10.213.0.0/16", "dev": "br-fc"}'


async def test_our_bridge_beside_other_routes_is_fine(
    bridge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs_say(monkeypatch, routes(OWN, '{"dst": "192.168.1.0/24", "dev": "eth0"}'))
    found = await bridged.bridge(bridge / "none", "br-fc", bridge)
    assert found.status is CheckStatus.PASS


async def test_a_route_into_the_guests_network_is_a_failure(
    bridge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs_say(monkeypatch, routes(OWN, '{"dst": "10.213.4.0/24", "dev": "vpn0"}'))
    found = await look("network", lambda: bridged.bridge(bridge / "none", "br-fc", bridge))
    assert found.status is CheckStatus.FAIL
    assert "vpn0" in found.summary


async def test_a_bridge_that_is_somebody_elses_is_a_failure(bridge: Path, tmp_path: Path) -> None:
    (bridge / "sys/class/net/br-fc/ifalias").write_text("mine\n")
    found = await bridged.bridge(tmp_path / "none", "br-fc", bridge)
    assert found.status is CheckStatus.FAIL
    found = await bridged.bridge(tmp_path / "none", "br-other", bridge)
    assert "no bridge br-other" in found.summary


async def nobody() -> dict[str, str]:
    return {}


async def no_vms() -> set[str]:
    return set()


def resolving(root: Path, hosts: str = "files resolve dns", server: str = "10.0.0.1") -> Path:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/nsswitch.conf").write_text(f"passwd: files\nhosts: {hosts}\n")
    (root / "etc/resolv.conf").write_text(f"nameserver {server}\n")
    return root


ROUTED = {"resolvectl domain": (0, "Link 3 (br-fc): ~vm\n")}


@pytest.mark.parametrize(
    ("hosts", "server", "status"),
    [
        ("files resolve [!UNAVAIL=return] dns", "10.0.0.1", CheckStatus.PASS),
        ("files dns", "127.0.0.53", CheckStatus.PASS),
        ("files dns", "10.0.0.1", CheckStatus.WARN),
    ],
)
async def test_programs_have_to_ask_resolved_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hosts: str,
    server: str,
    status: CheckStatus,
) -> None:
    programs_say(monkeypatch, ROUTED)
    found = await bridged.names("br-fc", nobody, resolving(tmp_path, hosts, server))
    assert found.status is status


async def test_resolved_that_was_not_told_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs_say(monkeypatch, {"resolvectl domain": (0, "Link 3 (br-fc):\n")})
    found = await bridged.names("br-fc", nobody, resolving(tmp_path))
    assert (found.status, "~vm" in found.summary) == (CheckStatus.WARN, True)


async def test_without_resolved_the_fallback_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "locate", lambda program: None)
    found = await bridged.names("br-fc", nobody)
    assert found.status is CheckStatus.WARN
    assert "docs/network.md" in (found.fix or "")


async def test_a_name_that_leads_elsewhere_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one() -> dict[str, str]:
        return {"dev": "10.213.0.16"}

    async def elsewhere(name: str) -> str:
        return "203.0.113.9"

    programs_say(monkeypatch, ROUTED)
    monkeypatch.setattr(bridged, "_resolve", elsewhere)
    found = await bridged.names("br-fc", one, resolving(tmp_path))
    assert found.status is CheckStatus.WARN
    assert "dev.vm leads to 203.0.113.9" in found.summary


async def no_complaint() -> None: ...


async def test_images_are_built_by_a_service_that_is_tried() -> None:
    async def refused() -> None:
        raise PermanentError(ErrorCode.UNSUPPORTED_HOST, "no namespaces here", hint="allow it")

    assert (await building_service(no_complaint)).status is CheckStatus.PASS
    found = await building_service(refused)
    assert (found.status, found.summary) == (CheckStatus.WARN, "no namespaces here")
    assert found.fix == "allow it"


async def test_every_check_of_an_installed_host_that_is_not_fine_says_what_to_do(
    tmp_path: Path,
) -> None:
    error = TransientError(ErrorCode.HELPER_UNREACHABLE, "does not answer", hint="systemctl")
    helper: PrivilegedOps = Helper(error)
    checks = system_checks(tmp_path / "none", helper, "br-none", nobody, no_complaint, no_vms)
    found = [await look(name, check) for name, check in checks.items()]
    assert [check.name for check in found] == list(checks)
    assert [check.name for check in found if check.status != "pass" and not check.fix] == []
