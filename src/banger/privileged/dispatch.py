"""Which function does which operation: the whole list, in one place."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import banger
from banger.privileged import bridge, devicemapper, jail, nft, ops, resolver, sockets, vmm
from banger.privileged.faults import Fault, FaultCode, failed
from banger.privileged.gates import devices, links
from banger.privileged.site import Site


def _hello(_: Site, request: ops.Hello) -> ops.Greeting:
    assert isinstance(request, ops.Hello)
    return ops.Greeting(protocol=ops.PROTOCOL, version=banger.__version__)


def _list_owned(site: Site, request: ops.ListOwned) -> ops.Owned:
    assert isinstance(request, ops.ListOwned)
    return ops.Owned(
        bridges=links.marked("bridge"),
        taps=links.marked("tun_flags"),
        snapshots=devices.snapshots(),
        jails=jail.jails(site),
    )


_DOING: dict[type[ops.Request[object]], Callable[[Site, Any], object]] = {
    ops.Hello: _hello,
    ops.EnsureBridge: bridge.ensure_bridge,
    ops.RemoveBridge: bridge.remove_bridge,
    ops.CreateTaps: bridge.create_taps,
    ops.DeleteTaps: bridge.delete_taps,
    ops.ApplyPolicy: nft.apply_policy,
    ops.RemovePolicy: nft.remove_policy,
    ops.RouteResolver: resolver.route_resolver,
    ops.RevertResolver: resolver.revert_resolver,
    ops.CreateSnapshot: devicemapper.create_snapshot,
    ops.RemoveSnapshot: devicemapper.remove_snapshot,
    ops.FlushSnapshot: devicemapper.flush_snapshot,
    ops.CheckSnapshot: devicemapper.check_snapshot,
    ops.ResolveBinaries: vmm.resolve_binaries,
    ops.Launch: vmm.launch,
    ops.GrantSocket: sockets.grant_socket,
    ops.RemoveJail: jail.remove_jail,
    ops.FindProcess: vmm.find_process,
    ops.SignalProcess: vmm.signal_process,
    ops.ListOwned: _list_owned,
}


def perform(site: Site, request: ops.Request[object]) -> object:
    """Do `request`, in this process's main thread and within its limit of time. Raises Fault."""
    signal.signal(signal.SIGALRM, _expire)
    signal.alarm(request.limit)
    try:
        return _DOING[type(request)](site, request)
    except OSError as error:
        raise failed(f"{error.strerror or error}") from error
    finally:
        signal.alarm(0)


def _expire(_number: int, _frame: FrameType | None) -> None:
    raise Fault(FaultCode.TIMEOUT, "it took too long and was given up")
