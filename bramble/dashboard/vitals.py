"""The recent past of each node's health, for its curves: in memory, since this server began.

The store keeps the last report only. Every ten seconds the reports that are new are read, and a few figures
of each are kept, for half an hour.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Final

from fleet.errors import FleetError
from fleet.store.database import Store
from fleet.store.glance import reports_since

log = logging.getLogger(__name__)

EVERY_S: Final = 10.0
KEPT: Final = 180
MAX_NODES: Final = 5000
WIDTH: Final = 160
HEIGHT: Final = 36
_MARGIN: Final = 3.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One curve: what of a report it shows, and how.

    Attributes:
        least: The scale spans at least so much, so that noise of a tenth does not look like a drama.
    """

    key: str
    title: str
    unit: str
    scale: float
    digits: int
    least: float


FIGURES: Final = (
    Figure("temperature_c", "Temperature", "°C", 1.0, 0, 20.0),
    Figure("load1", "Load", "", 1.0, 2, 1.0),
    Figure("memory_available_bytes", "Memory free", "GiB", 2.0**-30, 1, 0.5),
    Figure("root_free_bytes", "Disk free", "GiB", 2.0**-30, 1, 1.0),
)


@dataclass(frozen=True, slots=True)
class Spark:
    """A curve ready to be drawn: `path` is the `d` of an SVG path in a box of `WIDTH` × `HEIGHT`."""

    title: str
    now: str
    low: str
    high: str
    path: str
    area: str
    minutes: int


class Vitals:
    """Keeps the curves. One per server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_to = 0.0
        self._kept: dict[str, tuple[array[float], ...]] = {}

    async def run(self) -> None:
        """Read what is new, every ten seconds, until cancelled."""
        while True:
            try:
                self.read()
            except FleetError as error:
                log.debug("nodes' reports cannot be read: %s", error.message)
            except Exception:  # a mistake of ours must not end the curves of all
                log.exception("nodes' reports cannot be read")
            await asyncio.sleep(EVERY_S)

    def read(self) -> None:
        """Take every report that arrived since the last time."""
        with self._store.read() as reader:
            found = reports_since(reader, self._read_to)
        for name, at, status in found:
            self.take(name, at, status)
            self._read_to = max(self._read_to, at)

    def take(self, name: str, at: float, status: Mapping[str, Any] | None) -> None:
        """Keep the figures of one report."""
        health = (status or {}).get("health")
        if not isinstance(health, Mapping):
            return
        series = self._kept.get(name)
        if series is None:
            if len(self._kept) >= MAX_NODES:
                return
            series = self._kept[name] = tuple(array("d") for _ in range(len(FIGURES) + 1))
        if series[0] and at <= series[0][-1]:
            return
        series[0].append(at)
        for values, figure in zip(series[1:], FIGURES, strict=True):
            values.append(_number(health.get(figure.key)) * figure.scale)
        for values in series:
            del values[:-KEPT]

    def sparks(self, name: str) -> list[Spark]:
        """The curves of a node; of figures that its board does not offer there is none."""
        series = self._kept.get(name)
        if series is None:
            return []
        drawn = (draw(figure, series[0], values) for figure, values in zip(FIGURES, series[1:], strict=True))
        return [spark for spark in drawn if spark is not None]


def draw(figure: Figure, times: Sequence[float], values: Sequence[float]) -> Spark | None:
    """A curve over its own range; None with fewer than two readings."""
    points = [(at, value) for at, value in zip(times, values, strict=True) if isfinite(value)]
    if len(points) < 2:
        return None
    low, high = min(value for _, value in points), max(value for _, value in points)
    begin, length = points[0][0], max(points[-1][0] - points[0][0], 1.0)
    middle, reach = (low + high) / 2, max(high - low, figure.least)
    room = HEIGHT - 2 * _MARGIN
    places = [
        (
            (at - begin) / length * WIDTH,
            HEIGHT - _MARGIN - ((value - middle) / reach + 0.5) * room,
        )
        for at, value in points
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return Spark(
        title=figure.title,
        now=_text(figure, points[-1][1]),
        low=f"{low:.{figure.digits}f}",
        high=_text(figure, high),
        path=path,
        area=f"{path}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z",
        minutes=max(round(length / 60), 1),
    )


def _text(figure: Figure, value: float) -> str:
    return f"{value:.{figure.digits}f} {figure.unit}".strip()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan
