"""Settings are read strictly: what is not understood is refused in one line that says what is."""

from __future__ import annotations

import contextlib
import string
from ipaddress import IPv4Network
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import CallerError, ErrorCode
from banger.api.sizes import GIB, MIB
from banger.host.config import (
    ALLOWED,
    Config,
    Section,
    Source,
    load_config,
    parse_config,
    resolve_defaults,
)
from banger.host.resources import Host

ROOT = Path(__file__).resolve().parents[3]

EVERYTHING = """
log_level = "debug"
[defaults]
image = "trixie"
vcpus = 3
memory = "2G"
disk_size = "20G"
root_size = "10G"
[hypervisor]
qemu_binary = "/opt/qemu/bin/qemu-system-x86_64"
accelerator = "tcg"
[network]
subnet = "172.16.0.0/20"
ssh_ports = "40000-40009"
[limits]
memory_overcommit = 1.5
templates_size = "3G"
standby = false
"""


def refusal(text: str) -> str:
    with pytest.raises(CallerError) as error:
        parse_config(text, "config.toml")
    assert error.value.code is ErrorCode.CONFIG_INVALID
    assert error.value.hint
    assert "\n" not in error.value.message
    return error.value.message


def test_every_setting_is_read() -> None:
    config = parse_config(EVERYTHING, "config.toml")
    assert config.log_level == "debug"
    assert msgspec.structs.asdict(config.defaults) == {
        "image": "trixie",
        "vcpus": 3,
        "memory": 2 * GIB,
        "disk_size": 20 * GIB,
        "root_size": 10 * GIB,
    }
    assert config.hypervisor.qemu_binary == "/opt/qemu/bin/qemu-system-x86_64"
    assert config.hypervisor.accelerator == "tcg"
    assert config.network.subnet == IPv4Network("172.16.0.0/20")
    assert config.network.ssh_ports == range(40000, 40010)
    assert config.limits.memory_overcommit == 1.5


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.toml", {}) == Config() == parse_config("", "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log_leve = 1", "unknown key log_leve; known keys are log_level, defaults"),
        ("[defaults]\ncpus = 1", "unknown key defaults.cpus; known keys are image, vcpus, memory"),
        ('log_level = "loud"', "log_level cannot be 'loud': it takes \"debug\""),
        ("defaults = 3", "defaults cannot be 3: it is a table; known keys are image"),
        ("[defaults]\nvcpus = 0", "defaults.vcpus cannot be 0: it takes a whole number from 1"),
        ("[defaults]\nvcpus = true", "defaults.vcpus cannot be True"),
        ("[defaults]\nmemory = 512", "defaults.memory cannot be 512: it takes a size in quotes"),
        ('[defaults]\nmemory = "4Q"', "defaults.memory cannot be '4Q'"),
        ('[defaults]\nmemory = "0"', "defaults.memory cannot be '0'"),
        ('[defaults]\nimage = "No Name"', "defaults.image cannot be 'No Name'"),
        ('[hypervisor]\naccelerator = "xen"', 'it takes "auto", "kvm" or "tcg"'),
        ('[hypervisor]\nqemu_binary = ""', "hypervisor.qemu_binary cannot be ''"),
        ('[network]\nsubnet = "10.0.0.1/16"', "network.subnet cannot be '10.0.0.1/16'"),
        ('[network]\nsubnet = "8.8.0.0/16"', "it takes a private IPv4 network"),
        ('[network]\nsubnet = "10.0.0.0/30"', "network.subnet cannot be"),
        ('[network]\nsubnet = "fd00::/64"', "network.subnet cannot be"),
        ('[network]\nssh_ports = "22-23"', "network.ssh_ports cannot be '22-23'"),
        ('[network]\nssh_ports = "3000-2000"', "network.ssh_ports cannot be"),
        ('[network]\nssh_ports = "60000-70000"', "network.ssh_ports cannot be"),
        ("[limits]\nmemory_overcommit = nan", "limits.memory_overcommit cannot be nan"),
        ("[limits]\nmemory_overcommit = 0", "it takes a number from 0.1 to 16"),
        ("log_level =", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(text: str, words: str) -> None:
    message = refusal(text)
    assert message.startswith("config.toml: ")
    assert words in message


@given(st.text(string.printable, min_size=1, max_size=30), st.text(string.printable, max_size=30))
def test_any_unknown_key_is_named(key: str, value: str) -> None:
    quoted = [
        f'"{"".join(f"{chr(92)}u{ord(char):04x}" for char in text)}"' for text in (key, value)
    ]
    if key in {"log_level", *Config.__struct_fields__}:
        return
    assert " ".join(key.split()) in " ".join(refusal(" = ".join(quoted)).split())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(CallerError):
        parse_config(text, "config.toml")


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"log_level = \xff")
    with pytest.raises(CallerError, match="not UTF-8"):
        load_config(path, {})


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {})


def test_the_environment_overrides_the_log_level(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('log_level = "error"')
    assert load_config(path, {}).log_level == "error"
    assert load_config(path, {"BANGER_LOG_LEVEL": "DEBUG"}).log_level == "debug"


def test_a_wrong_log_level_in_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=r"\$BANGER_LOG_LEVEL: it cannot be 'chatty'"):
        load_config(tmp_path / "none", {"BANGER_LOG_LEVEL": "chatty"})


def keys(section: type[Section], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for field in msgspec.structs.fields(section):
        kind = field.type
        table = isinstance(kind, type) and issubclass(kind, Section)
        found |= keys(kind, f"{field.name}.") if table else {prefix + field.name}
    return found


def test_every_key_has_plain_words() -> None:
    assert set(ALLOWED) == keys(Config)


def test_the_documentation_has_every_key() -> None:
    page = (ROOT / "docs/config.md").read_text()
    assert [key for key in ALLOWED if f"`{key}`" not in page] == []


def test_what_the_file_says_wins_over_the_host() -> None:
    defaults = resolve_defaults(
        parse_config(EVERYTHING, "x"), Host(cpus=64, memory=512 * GIB, memory_available=512 * GIB)
    )
    assert (defaults.image, defaults.vcpus, defaults.memory) == ("trixie", 3, 2 * GIB)
    assert (defaults.disk_size, defaults.root_size) == (20 * GIB, 10 * GIB)
    assert set(defaults.sources.values()) == {Source.CONFIG}


@pytest.mark.parametrize(
    ("cpus", "memory", "expected"),
    [
        (1, GIB, (1, 512 * MIB)),
        (2, 2 * GIB, (2, 512 * MIB)),
        (4, 4 * GIB, (4, GIB)),
        (8, 23 * GIB, (4, GIB)),
        (16, 64 * GIB, (4, 4 * GIB)),
        (128, 1024 * GIB, (4, 8 * GIB)),
    ],
)
def test_defaults_fit_the_host(cpus: int, memory: int, expected: tuple[int, int]) -> None:
    defaults = resolve_defaults(Config(), Host(cpus=cpus, memory=memory, memory_available=memory))
    assert (defaults.vcpus, defaults.memory) == expected
    assert (defaults.disk_size, defaults.root_size) == (8 * GIB, 8 * GIB)
    assert defaults.sources["memory"] is Source.AUTO
    assert defaults.sources["image"] is Source.BUILTIN
