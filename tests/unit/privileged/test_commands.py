"""Command lines that only the smoke VM can run for real: what they say, and in which order."""

from __future__ import annotations

from dataclasses import replace

from banger.privileged import jailer, resolver, scope
from banger.privileged.ops import JailFile, Launch, Limits
from banger.privileged.site import Site

SITE = Site(owner_uid=1000, owner_gid=100, jails="/var/lib/banger-root/jail")
LAUNCH = Launch(
    jail="3f2b-1",
    firecracker="/usr/bin/firecracker",
    jailer="/usr/bin/jailer",
    run_dir="/run/banger/vm/3f2b",
    console="/var/lib/banger/vms/3f2b/console.log",
    files=(JailFile(name="kernel", path="/var/lib/banger/kernels/x/vmlinux"),),
)


def test_the_jailer_gets_the_installations_ids_and_no_path_of_the_callers() -> None:
    assert jailer.command(SITE, LAUNCH, 0) == [
        "/usr/bin/jailer", "--id", "3f2b-1", "--exec-file", "/usr/bin/firecracker",
        "--uid", "1000", "--gid", "100", "--chroot-base-dir", "/var/lib/banger-root/jail",
        "--cgroup-version", "2", "--", "--api-sock", "/run/api.sock",
    ]  # fmt: skip


def test_no_file_of_a_vmm_outgrows_its_disks_and_its_memory() -> None:
    limited = replace(LAUNCH, limits=Limits(memory=2**30, cpu_percent=250, tasks=64))

    for largest, bound in ((0, 2**30), (2**33, 2**33)):
        words = jailer.command(SITE, limited, largest)
        assert words[words.index("--resource-limit") + 1] == f"fsize={bound}"
        assert words.index("--resource-limit") < words.index("--")


def test_resolved_gets_no_server_before_the_domain_that_bounds_it() -> None:
    commands = resolver.commands("br-fc", "127.0.0.1:42069")

    assert commands == [
        ["resolvectl", "default-route", "br-fc", "false"],
        ["resolvectl", "domain", "br-fc", "~vm"],
        ["resolvectl", "dns", "br-fc", "127.0.0.1:42069"],
    ]


def test_a_scope_has_the_limits_of_the_request() -> None:
    words = scope.command(
        "3f2b-1", 4711, Limits(memory=2**30, cpu_percent=250, tasks=64, cpu_weight=1)
    )

    assert words[:8] == [
        "busctl", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))",
    ]  # fmt: skip
    assert words[8:10] == ["banger-vm-3f2b-1.scope", "fail"]
    text = " ".join(words)
    assert "PIDs au 1 4711" in text
    assert "MemoryMax t 1073741824" in text
    # Microseconds of processor time a second.
    assert "CPUQuotaPerSecUSec t 2500000" in text
    assert "CPUWeight t 1" in text
    assert "TasksMax t 64" in text
    assert words[-1] == "0"
    counted = sum(text.count(f" {kind} ") for kind in ("t", "s", "au", "as", "i"))
    assert int(words[10]) == counted


def test_a_scope_is_killed_at_once_when_the_host_ends_but_after_guests_were_asked() -> None:
    text = " ".join(scope.command("3f2b-1", 4711, None))
    assert "Before as 1 banger-guests.service" in text
    assert "KillSignal i 9" in text
