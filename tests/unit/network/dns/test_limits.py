"""Token buckets on a clock of the test's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from banger.network.dns.limits import Bucket, Limits, SourceBuckets


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    bucket = Bucket(10.0, 5.0, clock)

    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    clock.now += 0.25
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_a_reservation_says_how_long_to_wait() -> None:
    clock = Clock()
    bucket = Bucket(10.0, 1.0, clock)

    assert [bucket.reserve(), bucket.reserve(), bucket.reserve()] == [0.0, 0.1, 0.2]
    assert not bucket.take()


@given(st.lists(st.floats(0, 3), max_size=60))
def test_never_more_than_burst_and_rate_allow(steps: list[float]) -> None:
    clock = Clock()
    bucket = Bucket(2.0, 3.0, clock)
    taken = 0
    for step in steps:
        clock.now += step
        taken += bucket.take()

    assert taken <= 3.0 + 2.0 * (clock.now - 100.0) + 1e-6


def test_each_source_has_its_own() -> None:
    sources = SourceBuckets(Limits(source_rate=1.0, source_burst=1.0), Clock())

    assert [sources.of("a").take(), sources.of("a").take()] == [True, False]
    assert sources.of("b").take()


def test_only_so_many_sources_are_kept_in_mind() -> None:
    sources = SourceBuckets(Limits(sources=10), Clock())
    for number in range(1000):
        sources.of(str(number))

    assert len(sources) == 10


def test_whoever_keeps_asking_is_not_forgotten() -> None:
    sources = SourceBuckets(Limits(source_burst=1.0, sources=3), Clock())
    assert sources.of("flood").take()
    for number in range(10):
        sources.of(str(number))
        assert not sources.of("flood").take()
