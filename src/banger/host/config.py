"""The user's settings: `config.toml`, read strictly, and what is used where it says nothing.

The structs are the schema. docs/config.md explains every key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.api.models import Name, Vcpus
from banger.api.sizes import GIB, MIB, parse_size
from banger.host.resources import Host, read_host

DEFAULT_IMAGE = "debian-bookworm"
LOG_LEVEL_VARIABLE = "BANGER_LOG_LEVEL"

LogLevel = Literal["debug", "info", "warning", "error"]


class Size(int):
    """Bytes, written in the file as text such as "4G"."""


class Quota(Size):
    """A size, or "0" for none at all."""


class Section(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One table of the file; keys that are not fields are refused."""


class DefaultsSection(Section, frozen=True):
    """`[defaults]`: what a new VM gets; None leaves it to the host's size."""

    image: Name | None = None
    vcpus: Vcpus | None = None
    memory: Size | None = None
    disk_size: Size | None = None
    root_size: Size | None = None


class HypervisorSection(Section, frozen=True):
    """`[hypervisor]`: which QEMU, and whether it may use KVM; which Firecracker.

    Without a path, firecracker and jailer are looked for where programs are installed.
    """

    qemu_binary: Annotated[str, Meta(min_length=1)] = "qemu-system-x86_64"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    firecracker: str = ""
    jailer: str = ""


class NetworkSection(Section, frozen=True):
    """`[network]`: guest addresses, and the host ports that reach the guests' sshd.

    On an installed host `spare_taps` are kept ready, so that nobody waits for one.
    """

    subnet: IPv4Network = IPv4Network("10.213.0.0/16")
    ssh_ports: range = range(22000, 24000)
    spare_taps: Annotated[int, Meta(ge=0, le=64)] = 4


class LimitsSection(Section, frozen=True):
    """`[limits]`: running VMs may be promised `memory_overcommit` times the host's memory.

    `templates_size` is what all templates together may take on the disk; with 0 there are none.
    With `standby` one VM of the template used last is kept ready.
    """

    memory_overcommit: Annotated[float, Meta(ge=0.1, le=16.0)] = 2.0
    templates_size: Quota = Quota(8 * GIB)
    standby: bool = True


class Config(Section, frozen=True):
    """All settings. `Config()` is what holds without a file."""

    log_level: LogLevel = "info"
    defaults: DefaultsSection = DefaultsSection()
    hypervisor: HypervisorSection = HypervisorSection()
    network: NetworkSection = NetworkSection()
    limits: LimitsSection = LimitsSection()


_SIZE = 'a size in quotes such as "512M" or "4G"'

# Plain words for what each key takes; a unit test holds this and the structs together.
ALLOWED: Mapping[str, str] = {
    "log_level": '"debug", "info", "warning" or "error"',
    "defaults.image": 'the name of an image in quotes, such as "debian-bookworm"',
    "defaults.vcpus": "a whole number from 1 to 64",
    "defaults.memory": _SIZE,
    "defaults.disk_size": _SIZE,
    "defaults.root_size": _SIZE,
    "hypervisor.qemu_binary": "the name or path of a program in quotes",
    "hypervisor.accelerator": '"auto", "kvm" or "tcg"',
    "hypervisor.firecracker": "the path of a program in quotes",
    "hypervisor.jailer": "the path of a program in quotes",
    "network.subnet": 'a private IPv4 network from /8 to /24, such as "10.213.0.0/16"',
    "network.ssh_ports": 'two ports from 1024 to 65535, such as "22000-23999"',
    "network.spare_taps": "a whole number from 0 to 64",
    "limits.memory_overcommit": "a number from 0.1 to 16",
    "limits.templates_size": f'{_SIZE}, or "0" for no templates',
    "limits.standby": "true or false",
}


class Source(StrEnum):
    """Where a default comes from: the file, this host's size, or banger itself."""

    CONFIG = "config"
    AUTO = "auto"
    BUILTIN = "builtin"


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM gets for everything its creator did not say. Sizes in bytes."""

    image: str
    vcpus: int
    memory: int
    disk_size: int
    root_size: int
    sources: Mapping[str, Source]


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """The settings in `path`, or all defaults when it does not exist.

    $BANGER_LOG_LEVEL overrides the file. Raises CallerError(config_invalid) naming the file, the
    key, and what it takes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        config = Config()
    except OSError as error:
        raise _invalid(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _invalid(str(path), "is not UTF-8 text") from None
    else:
        config = parse_config(text, str(path))

    return _override_log_level(config, environment)


def parse_config(text: str, name: str) -> Config:
    """The settings in `text`; errors call it `name`. Raises CallerError(config_invalid)."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(name, f"is not valid TOML: {error}") from None
    try:
        return msgspec.convert(values, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _explain(name, values, str(error)) from None


def resolve_defaults(config: Config, host: Host | None = None) -> Defaults:
    """What new VMs get on this host, each field with where it comes from."""
    host = host or read_host()
    fallback: dict[str, tuple[Any, Source]] = {
        "image": (DEFAULT_IMAGE, Source.BUILTIN),
        "vcpus": (min(4, host.cpus), Source.AUTO),
        "memory": (_memory_for(host.memory), Source.AUTO),
        "disk_size": (8 * GIB, Source.BUILTIN),
        "root_size": (8 * GIB, Source.BUILTIN),
    }
    named = {
        field: (value, Source.CONFIG)
        for field, value in msgspec.structs.asdict(config.defaults).items()
        if value is not None
    }
    chosen = fallback | named
    return Defaults(
        **{field: value for field, (value, _) in chosen.items()},
        sources={field: source for field, (_, source) in chosen.items()},
    )


def _memory_for(total: int) -> int:
    """A sixteenth of the host's, 1 GiB if that is no more than a quarter; 512 MiB to 8 GiB."""
    wanted = max(total // 16, min(GIB, total // 4))
    return min(8 * GIB, max(512 * MIB, wanted // (512 * MIB) * (512 * MIB)))


def _override_log_level(config: Config, environment: Mapping[str, str]) -> Config:
    level = environment.get(LOG_LEVEL_VARIABLE)
    if not level:
        return config

    try:
        return msgspec.structs.replace(config, log_level=msgspec.convert(level.lower(), LogLevel))
    except msgspec.ValidationError:
        problem = f"it cannot be {level!r}: it takes {ALLOWED['log_level']}"
        raise _invalid(f"${LOG_LEVEL_VARIABLE}", problem) from None


def _decode(kind: type, value: object) -> object:
    """msgspec's hook for the types it does not know; a ValueError becomes its ValidationError."""
    if not isinstance(value, str):
        raise ValueError("not text")  # noqa: TRY004

    if kind is Quota and value == "0":
        return Quota(0)

    if issubclass(kind, Size):
        return kind(_size(value))

    return _ports(value) if kind is range else _subnet(value)


def _size(text: str) -> Size:
    try:
        return Size(parse_size(text))
    except BangerError as error:
        raise ValueError(error.message) from None


def _ports(text: str) -> range:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    if match is None:
        raise ValueError("not a range")

    first, last = int(match[1]), int(match[2])
    if not 1024 <= first <= last <= 65535:
        raise ValueError("not a range of unprivileged ports")

    return range(first, last + 1)


def _subnet(text: str) -> IPv4Network:
    network = IPv4Network(text)
    if not 8 <= network.prefixlen <= 24 or not network.is_private:
        raise ValueError("not for guests")

    return network


# "Object contains unknown field `x` - at `$.network`"; at the top the place is left out.
_COMPLAINT = re.compile(
    r"(?:Object contains unknown field `(?P<unknown>.*?)`|.*?)(?: - at `\$\.?(?P<key>[^`]*)`)?",
    re.DOTALL,
)


def _explain(name: str, values: Mapping[str, Any], complaint: str) -> CallerError:
    found = _COMPLAINT.fullmatch(complaint)
    key = (found and found["key"]) or ""
    if found and found["unknown"] is not None:
        prefix = f"{key}." if key else ""
        return _invalid(name, f"unknown key {prefix}{found['unknown']}; {_known_keys(prefix)}")

    value: Any = values
    for part in key.split("."):
        value = value[part]

    takes = f"it takes {ALLOWED[key]}" if key in ALLOWED else f"it is a table; {_known_keys(key)}"
    return _invalid(name, f"{key} cannot be {value!r}: {takes}")


def _known_keys(prefix: str) -> str:
    below = (key.removeprefix(prefix).lstrip(".") for key in ALLOWED if key.startswith(prefix))
    return f"known keys are {', '.join(dict.fromkeys(key.split('.')[0] for key in below))}"


def _invalid(name: str, problem: str) -> CallerError:
    return CallerError(
        ErrorCode.CONFIG_INVALID,
        " ".join(f"{name}: {problem}".split()),
        hint=f"correct {name}, then check with: banger doctor (docs/config.md has every key)",
    )
