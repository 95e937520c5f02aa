"""What apt and dpkg print becomes stages and numbers a person can follow."""

from __future__ import annotations

from banger.image.progress import UNPACK, WRITE, Progress


def heard(*lines: str) -> list[tuple[str, str | None]]:
    reports: list[tuple[str, str | None]] = []
    progress = Progress(lambda stage, detail: reports.append((stage, detail)))
    for line in lines:
        progress.hear(line)

    return reports


def test_the_size_of_the_download_is_told() -> None:
    assert heard("Need to get 29.7 MB of archives.") == [(UNPACK, "downloading 29.7 MB")]
    assert heard("Need to get 1,024 kB/74.3 MB of archives.") == [(UNPACK, "downloading 1,024 kB")]


def test_packages_are_counted_twice_once_for_each_half_of_the_work() -> None:
    plan = "0 upgraded, 10 newly installed, 0 to remove and 0 not upgraded."
    unpacking = [f"Unpacking lib{number} (1.0) ..." for number in range(10)]
    setting_up = [f"Setting up lib{number} (1.0) ..." for number in range(10)]

    reports = heard(plan, *unpacking, *setting_up)

    assert reports == [
        (UNPACK, "unpacking lib4 (25 %)"),
        (UNPACK, "unpacking lib9 (50 %)"),
        (UNPACK, "setting up lib4 (75 %)"),
        (UNPACK, "setting up lib9 (99 %)"),
    ]


def test_the_scripts_own_stages_come_through_and_noise_does_not() -> None:
    assert heard("Get:1 http://m.example x", "", f"banger: {WRITE}") == [(WRITE, None)]
