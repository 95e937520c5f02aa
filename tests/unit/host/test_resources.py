"""What the host can give, in and out of containers, and what is refused before it is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError
from banger.api.sizes import GIB, MIB
from banger.host.resources import Host, check_disk, check_memory, free_bytes, read_host

HOST = Host(cpus=4, memory=8 * GIB, memory_available=4 * GIB)


class Root:
    """A host's /proc and /sys, as files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(
            "proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nHugePages: 0\n"
        )

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def group(self, name: str, **files: str) -> None:
        for file, text in files.items():
            self.write(f"sys/fs/cgroup/{name}/{file.replace('__', '.')}", text)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_memory_is_what_the_kernel_says(root: Root) -> None:
    host = read_host(root.path)
    assert (host.memory, host.memory_available) == (16 * GIB, 8 * GIB)


def test_a_cgroup2_limit_counts_without_idle_page_cache(root: Root) -> None:
    root.write("proc/self/cgroup", "0::/app\n")
    root.group(
        "app",
        memory__max=str(2 * GIB),
        memory__current=str(GIB),
        memory__stat=f"anon 5\ninactive_file {512 * MIB}\n",
    )
    host = read_host(root.path)
    assert (host.memory, host.memory_available) == (2 * GIB, 1536 * MIB)


def test_the_tightest_limit_on_the_way_up_counts(root: Root) -> None:
    root.write("proc/self/cgroup", "0::/slice/app\n")
    root.group("slice", memory__max=str(GIB), memory__current="0")
    root.group("slice/app", memory__max="max", memory__current="0")
    assert read_host(root.path).memory == GIB


def test_a_container_whose_group_is_not_mounted_still_has_its_limit(root: Root) -> None:
    root.write("proc/self/cgroup", "5:memory:/docker/abc\n")
    root.group("memory", memory__limit_in_bytes=str(3 * GIB), memory__usage_in_bytes=str(GIB))
    host = read_host(root.path)
    assert (host.memory, host.memory_available) == (3 * GIB, 2 * GIB)


def test_cgroup1_without_a_limit_limits_nothing(root: Root) -> None:
    root.write("proc/self/cgroup", "5:memory:/\n")
    root.group("memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="1")
    assert read_host(root.path).memory == 16 * GIB


def test_a_limit_that_is_used_up_leaves_nothing(root: Root) -> None:
    root.write("proc/self/cgroup", "0::/\n")
    root.group(".", memory__max=str(GIB), memory__current=str(2 * GIB))
    assert read_host(root.path).memory_available == 0


def test_a_processor_quota_counts(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    assert read_host(root.path).cpus == 8
    root.write("proc/self/cgroup", "0::/\n")
    root.group(".", cpu__max="150000 100000")
    assert read_host(root.path).cpus == 2
    root.group(".", cpu__max="max 100000")
    assert read_host(root.path).cpus == 8


def test_a_cgroup1_processor_quota_counts(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    root.write("proc/self/cgroup", "3:cpu,cpuacct:/x\n")
    root.group("cpu", cpu__cfs_quota_us="10000", cpu__cfs_period_us="100000")
    assert read_host(root.path).cpus == 1
    root.group("cpu", cpu__cfs_quota_us="-1")
    assert read_host(root.path).cpus == 8


def test_this_host_can_be_read() -> None:
    host = read_host()
    assert 0 < host.memory_available <= host.memory
    assert host.cpus >= 1


def test_memory_that_is_there_is_granted() -> None:
    check_memory(2 * GIB, host=HOST)
    check_memory(2 * GIB, committed=6 * GIB, overcommit=1.0, host=HOST)


@pytest.mark.parametrize(
    ("wanted", "committed", "kind", "code", "words"),
    [
        (64 * MIB, 0, CallerError, ErrorCode.INVALID_SIZE, "64M of memory is too little"),
        (9 * GIB, 0, CallerError, ErrorCode.INSUFFICIENT_MEMORY, "9G .* this host has 8G"),
        (4 * GIB, 0, PermanentError, ErrorCode.INSUFFICIENT_MEMORY, "4G .*3.8G can be had now"),
        (2 * GIB, 15 * GIB, PermanentError, ErrorCode.INSUFFICIENT_MEMORY, "promised 15G .* 2 tim"),
    ],
)
def test_memory_that_is_not_there_is_refused_with_figures(
    wanted: int, committed: int, kind: type[BangerError], code: ErrorCode, words: str
) -> None:
    with pytest.raises(kind, match=words) as refusal:
        check_memory(wanted, committed=committed, overcommit=2.0, host=HOST)
    assert refusal.value.code is code
    assert refusal.value.hint


def test_free_space_of_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


def test_disk_space_that_is_not_there_is_refused_with_figures(tmp_path: Path) -> None:
    check_disk(tmp_path, 1)
    with pytest.raises(
        PermanentError, match=r"1048576.0T of disk space needed in .* are free"
    ) as no:
        check_disk(tmp_path, 2**60)
    assert no.value.code is ErrorCode.INSUFFICIENT_DISK
