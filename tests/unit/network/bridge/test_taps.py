"""The pool of taps: any order of events, crashes included; the kernel is a set of names."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from banger.network.bridge.taps import Found, TapPool, Work

TARGET, MOST = 3, 8


def warmed(target: int = 4, most: int = 100) -> TapPool:
    pool = TapPool(target, most)
    pool.made(pool.plan().make)
    return pool


def test_it_is_filled_at_once_and_refilled_when_one_is_taken() -> None:
    pool = warmed()
    assert (pool.idle, pool.plan()) == (4, Work())
    name = pool.take("vm")
    assert name is not None
    assert len(pool.plan().make) == 1


def test_an_owner_who_asks_again_has_the_same() -> None:
    pool = warmed()

    assert pool.take("vm") == pool.take("vm")
    assert pool.take("other") not in (None, pool.take("vm"))


def test_a_tap_serves_one_vm_and_is_removed() -> None:
    pool = warmed()
    name = pool.take("vm")
    assert name is not None
    pool.give_back(name)
    work = pool.plan()
    assert work.remove == (name,)
    assert name not in work.make
    pool.removed(work.remove)
    assert not pool.knows(name)


def test_those_who_wait_are_planned_for() -> None:
    assert len(TapPool(2).plan(waiting=5).make) == 7
    assert len(TapPool(2).plan(waiting=500).make) == 16, "and a batch keeps none waiting for all"


def test_what_failed_may_exist_and_is_removed_under_its_name() -> None:
    pool = TapPool(2)
    make = pool.plan().make
    pool.failed(make)
    work = pool.plan()

    assert set(work.remove) == set(make)
    assert not set(work.make) & set(make)


def test_after_a_crash_what_is_owned_stays_what_is_unused_is_idle_what_is_not_goes() -> None:
    pool = TapPool(2)
    found = [Found("tap-fc-7", False), Found("tap-fc-8", True), Found("tap-fc-9", False)]
    pool.adopt(found, {"tap-fc-7": "vm", "tap-fc-1": "gone with the host's last boot"})

    assert pool.take("vm") == "tap-fc-7"
    assert pool.take("new") == "tap-fc-8"
    work = pool.plan()
    assert work.remove == ("tap-fc-9",)
    assert work.make == ("tap-fc-10", "tap-fc-11")


def test_no_more_unused_ones_are_kept_than_are_wanted() -> None:
    pool = TapPool(1)
    pool.adopt([Found(f"tap-fc-{n}", True) for n in range(3)], {})

    assert (pool.idle, pool.plan().remove) == (1, ("tap-fc-1", "tap-fc-2"))


def test_names_start_again_when_they_are_used_up() -> None:
    pool = TapPool(2)
    pool.adopt([Found("tap-fc-99999999", True), Found("tap-fc-0", True)], {})
    pool.take("a")
    pool.take("b")

    assert pool.plan().make == ("tap-fc-1", "tap-fc-2")


class PoolMachine(RuleBasedStateMachine):
    """VMs come and go, work succeeds and fails halfway, the daemon dies and starts again."""

    @initialize()
    def begin(self) -> None:
        self.kernel: set[str] = set()
        self.used: set[str] = set()
        self.rows: dict[str, str] = {}
        self.pool = TapPool(TARGET, MOST)
        self.work = Work()

    @rule(owner=st.sampled_from("abcdefghij"))
    def take(self, owner: str) -> None:
        name = self.pool.take(owner)
        if name is None:
            assert owner not in self.rows
            return

        assert name in self.kernel
        assert self.rows.get(owner, name) == name
        if owner not in self.rows:
            assert name not in self.used, "a tap never serves two VMs"

        self.rows[owner] = name
        self.used.add(name)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.rows)))
        self.pool.give_back(self.rows.pop(owner))

    @precondition(lambda self: not self.work)
    @rule(waiting=st.integers(0, 3))
    def plan(self, waiting: int) -> None:
        self.work = self.pool.plan(waiting)
        assert not set(self.work.make) & self.kernel
        assert not set(self.work.remove) & set(self.rows.values())

    @precondition(lambda self: self.work)
    @rule()
    def succeed(self) -> None:
        self.kernel |= set(self.work.make)
        self.kernel -= set(self.work.remove)
        # A name may be used again once its tap is gone.
        self.used -= set(self.work.remove)
        self.pool.made(self.work.make)
        self.pool.removed(self.work.remove)
        self.work = Work()

    @precondition(lambda self: self.work)
    @rule(share=st.floats(0, 1))
    def fail_halfway(self, share: float) -> None:
        self._do_some(share)
        self.pool.failed(self.work.make)
        self.pool.failed(self.work.remove)
        self.work = Work()

    @rule(share=st.floats(0, 1))
    def crash(self, share: float) -> None:
        self._do_some(share)
        self.work = Work()
        self.pool = TapPool(TARGET, MOST)
        found = [Found(name, name not in self.used) for name in sorted(self.kernel)]
        self.pool.adopt(found, {tap: owner for owner, tap in self.rows.items()})

    @rule()
    def settle(self) -> None:
        """With nothing in the way, what there is is exactly what there should be."""
        if self.work:
            self.succeed()

        while work := self.pool.plan():
            self.work = work
            self.succeed()

        idle = min(TARGET, MOST - len(self.rows))
        assert self.pool.idle >= idle
        assert len(self.kernel) == len(self.rows) + self.pool.idle

    def _do_some(self, share: float) -> None:
        made = int(len(self.work.make) * share)
        removed = int(len(self.work.remove) * share)
        self.kernel |= set(self.work.make[:made])
        self.kernel -= set(self.work.remove[:removed])
        self.used -= set(self.work.remove[:removed])

    @invariant()
    def no_more_than_the_bridge_takes(self) -> None:
        assert len(self.kernel) <= MOST

    @invariant()
    def nothing_is_unknown(self) -> None:
        assert all(self.pool.knows(name) for name in self.kernel - set(self.work.make))


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPoolMachine = PoolMachine.TestCase
