"""Series of measurements, what is compared with what, and the bar a ratio or a figure must meet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Measurement = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Series:
    """Repeated measurements of one thing, in `unit`."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:.4g} {self.unit} ({low:.4g} to {high:.4g}, n={len(self.values)})"

    def data(self) -> dict[str, Any]:
        return {
            "name": self.name, "unit": self.unit, "median": self.median, "values": self.values,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that must stay at or below `limit`: what SPEC.md promises."""

    what: str
    value: float
    limit: float

    @property
    def held(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "held" if self.held else "MISSED"
        return f"{self.what}: {self.value:.3g}, at most {self.limit:.3g}: {verdict}"

    def data(self) -> dict[str, Any]:
        return {"what": self.what, "value": self.value, "limit": self.limit, "held": self.held}


@dataclass(frozen=True, slots=True)
class Report:
    """What one benchmark found."""

    title: str
    series: tuple[Series, ...]
    bars: tuple[Bar, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        width = max(len(series.name) for series in self.series)
        lines = [self.title]
        lines += [f"  {series.name:<{width}}  {series}" for series in self.series]
        lines += [f"  {bar}" for bar in self.bars]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "series": [series.data() for series in self.series],
            "bars": [bar.data() for bar in self.bars],
            "notes": self.notes,
        }


def alternate(
    runs: int, unit: str, measurements: dict[str, Measurement], *, warm: bool = True
) -> dict[str, Series]:
    """Measure each in turn, `runs` times over; with `warm` a first round is thrown away."""
    values: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(-1 if warm else 0, runs):
        for name, measure in measurements.items():
            value = measure()
            if number >= 0:
                values[name].append(value)

    return {name: Series(name, unit, tuple(found)) for name, found in values.items()}


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Seconds since the block began."""
    began = time.perf_counter()
    yield lambda: time.perf_counter() - began


def load() -> float:
    """How busy the machine was in the last minute: proc_loadavg(5)."""
    return float(Path("/proc/loadavg").read_text().split()[0])
