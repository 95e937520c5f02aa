"""Option values in the forms people write, checked before anything is asked of the daemon."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.api.models import PortForward, Protocol

if TYPE_CHECKING:
    from banger.client.client import Client

_F = TypeVar("_F", bound=Callable[..., Any])

_FORWARD = re.compile(r"(?:(?P<ip>[^:]*):)?(?P<host>\d+):(?P<guest>\d+)(?:/(?P<protocol>\w+))?\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)


def option_json(function: _F) -> _F:
    """Give a command `--json`; its value is `App.json`, known even if parsing fails."""
    return click.option("--json", is_flag=True, expose_value=False, help="Print JSON.")(function)


def option_quiet(function: _F) -> _F:
    """Give a command `--quiet`."""
    return click.option("-q", "--quiet", is_flag=True, help="Say nothing unless it fails.")(
        function
    )


def parse_forward(text: str) -> PortForward:
    """The port forward written as `[IP:]HOST:GUEST[/tcp|/udp]`; the host's address is IPv4.

    Raises CallerError(invalid_request).
    """
    match = _FORWARD.match(text)
    protocol = (match and match["protocol"]) or "tcp"
    if match is None or protocol not in ("tcp", "udp"):
        raise _bad_forward(text)

    host_port, guest_port = int(match["host"]), int(match["guest"])
    if not (1 <= host_port <= 65535 and 1 <= guest_port <= 65535):
        raise _bad_forward(text)

    return PortForward(
        host_port=host_port,
        guest_port=guest_port,
        host_ip="127.0.0.1" if match["ip"] is None else _ipv4(match["ip"], text),
        protocol=cast("Protocol", protocol),
    )


def environment(settings: Sequence[str]) -> dict[str, str]:
    """The variables of `KEY=VAL` and `KEY` settings; a KEY alone is taken from our environment,
    and left out when it is not set there.

    Raises CallerError(invalid_request).
    """
    env: dict[str, str] = {}
    for setting in settings:
        name, given, value = setting.partition("=")
        _check_variable(name)
        if given:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]

    return env


def complete_vms(ctx: click.Context, param: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of VMs, for the shell."""
    return _completed(ctx, prefix, lambda client: [one.name for one in client.vms()])


def complete_images(
    ctx: click.Context, param: click.Parameter, prefix: str
) -> list[CompletionItem]:
    """Names of images, for the shell."""
    return _completed(ctx, prefix, lambda client: [one.name for one in client.images()])


def complete_kernels(
    ctx: click.Context, param: click.Parameter, prefix: str
) -> list[CompletionItem]:
    """Names of kernels, for the shell."""
    return _completed(ctx, prefix, lambda client: [one.name for one in client.kernels()])


def complete_snapshots(
    ctx: click.Context, param: click.Parameter, prefix: str
) -> list[CompletionItem]:
    """Names of the snapshots of the VM that was typed before, for the shell."""
    # As the value of an option it is asked for before the arguments are told apart.
    vm = ctx.params.get("vm") or next(iter(ctx.args), "")
    return _completed(ctx, prefix, lambda client: [one.name for one in client.snapshots(vm)])


def complete_templates(
    ctx: click.Context, param: click.Parameter, prefix: str
) -> list[CompletionItem]:
    """Keys of templates, for the shell."""
    return _completed(ctx, prefix, lambda client: [one.key for one in client.templates()])


def _completed(
    ctx: click.Context, prefix: str, names: Callable[[Client], Sequence[str]]
) -> list[CompletionItem]:
    from banger.client.autostart import connect

    try:
        client = connect(ctx.find_root().params.get("host"), start=False, timeout=1.0)
        found = names(client)
    except BangerError:
        # Whoever presses Tab asked for no daemon and for no error text in the command line.
        return []

    return [CompletionItem(name) for name in found if name.startswith(prefix)]


def _check_variable(name: str) -> None:
    if not _VARIABLE.match(name):
        raise CallerError(
            ErrorCode.INVALID_REQUEST,
            f"{name!r} is not the name of an environment variable",
            hint="write -e KEY=VALUE, or -e KEY to pass on your own",
        )

    # They reach the guest through ssh's environment, where the host's linker would obey them.
    if name.startswith("LD_"):
        raise CallerError(
            ErrorCode.INVALID_REQUEST,
            f"{name} cannot be set with -e",
            hint=f"set it in the guest's command: -- env {name}=... COMMAND",
        )


def _ipv4(address: str, text: str) -> str:
    from ipaddress import AddressValueError, IPv4Address

    try:
        return str(IPv4Address(address))
    except AddressValueError:
        raise _bad_forward(text) from None


def _bad_forward(text: str) -> CallerError:
    return CallerError(
        ErrorCode.INVALID_REQUEST,
        f"{text!r} is not a port forward",
        hint="write HOST:GUEST, IP:HOST:GUEST, or one of them with /udp, like 8080:80",
    )
