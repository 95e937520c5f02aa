"""Interfaces: whatever is set on them, only a bridge or a tap with banger's mark passes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.privileged.outcome import fault_of

from banger.privileged.faults import FaultCode
from banger.privileged.gates import links

OWNER = 1000
ALIASES = st.sampled_from(["banger", "", "Banger", "banger2", "bang"])


@given(
    alias=ALIASES,
    bridge=st.booleans(),
    flags=st.sampled_from([None, "0x1", "0x2", "0x1002", "0x5002", "0x1001", "0x0"]),
    owner=st.sampled_from(["1000", "-1", "0", "1001", "10000"]),
)
def test_only_marked_bridges_and_taps_of_the_owners_pass(
    alias: str, bridge: bool, flags: str | None, owner: str
) -> None:
    with tempfile.TemporaryDirectory() as top, pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "_INTERFACES", Path(top))
        place = Path(top, "x")
        place.mkdir()
        (place / "ifalias").write_text(f"{alias}\n")
        if bridge:
            (place / "bridge").mkdir()

        if flags is not None:
            (place / "tun_flags").write_text(f"{flags}\n")
            (place / "owner").write_text(f"{owner}\n")

        ours = alias == "banger"
        tap = flags in ("0x2", "0x1002", "0x5002") and owner == "1000"
        assert (fault_of(lambda: links.require_bridge("x")) is None) == (ours and bridge)
        assert (fault_of(lambda: links.require_tap("x", OWNER)) is None) == (ours and tap)


def test_an_interface_that_is_not_there_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_INTERFACES", tmp_path)

    assert not links.present("br-fc")
    assert fault_of(lambda: links.require_bridge("br-fc")) is FaultCode.REFUSED
    assert fault_of(lambda: links.require_tap("tap-fc-1", OWNER)) is FaultCode.REFUSED
    assert links.marked("bridge") == ()
