"""What the packet filter is written in: libnftables-json(5), in a table called `banger`."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

TABLE = "banger"

Json = dict[str, object]


class Chain:
    """A base chain, and the rules that are added to it. Nothing that matches no rule is touched."""

    def __init__(self, family: str, name: str, kind: str, hook: str, priority: int) -> None:
        self._place: Json = {"family": family, "table": TABLE}
        self._name = name
        hooked = {"type": kind, "hook": hook, "prio": priority, "policy": "accept"}
        self.definition: Json = {"add": {"chain": self._place | {"name": name} | hooked}}

    def rule(self, *expression: Json) -> Json:
        return {"add": {"rule": self._place | {"chain": self._name, "expr": list(expression)}}}


def new_set(
    family: str,
    name: str,
    kind: str | list[str],
    elements: Iterable[object],
    interval: bool = False,
) -> Json:
    content: Json = {"family": family, "table": TABLE, "name": name, "type": kind}
    if interval:
        content["flags"] = ["interval"]

    if listed := list(elements):
        content["elem"] = listed

    return {"add": {"set": content}}


def match(left: Json, right: object, operator: str = "==") -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def among(left: list[Json], name: str) -> Json:
    return match(left[0] if len(left) == 1 else {"concat": left}, f"@{name}")


def meta(key: str) -> Json:
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def prefix(network: IPv4Network) -> Json:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


ACCEPT: Json = {"accept": None}
DROP: Json = {"drop": None}
ESTABLISHED = match({"ct": {"key": "state"}}, {"set": ["established", "related"]}, "in")
IP_SOURCE = payload("ip", "saddr")
IP_DESTINATION = payload("ip", "daddr")
