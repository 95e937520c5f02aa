"""Two processors are the same when model and features are, whatever they do at the moment."""

from __future__ import annotations

from pathlib import Path

from banger.host.cpu import cpu_identity

ONE = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Example 3000
cpu MHz\t\t: 2700.000
flags\t\t: fpu sse avx
bogomips\t: 5400.00
"""


def identity(tmp_path: Path, text: str) -> str:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return cpu_identity(path)


def test_what_varies_from_moment_to_moment_does_not_count(tmp_path: Path) -> None:
    later = ONE.replace("2700.000", "3100.123").replace("5400.00", "5400.12")
    assert identity(tmp_path, ONE) == identity(tmp_path, later)


def test_model_and_features_do(tmp_path: Path) -> None:
    seen = {
        identity(tmp_path, text)
        for text in (ONE, ONE.replace("3000", "3001"), ONE.replace(" avx", ""))
    }
    assert len(seen) == 3


def test_a_host_of_many_processors_is_told_by_the_first(tmp_path: Path) -> None:
    many = "\n".join(ONE.replace(": 0", f": {number}") for number in range(256))
    assert identity(tmp_path, many) == identity(tmp_path, ONE)


def test_this_host_has_one() -> None:
    assert "flags: " in cpu_identity()
