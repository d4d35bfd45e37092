"""Curves of nodes' health."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from bramble.dashboard.vitals import FIGURES, HEIGHT, KEPT, WIDTH, Vitals, draw
from fleet.store.database import Store

TEMPERATURE = FIGURES[0]


def make_vitals() -> Vitals:
    return Vitals(Store.__new__(Store))  # nothing is read here


def health(**values: object) -> dict[str, object]:
    return {"health": values}


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e9),
            st.one_of(st.floats(-50, 150), st.just(float("nan")), st.just(float("inf"))),
        ),
        max_size=50,
    )
)
def test_a_curve_stays_in_its_box(points: list[tuple[float, float]]) -> None:
    times = sorted(at for at, _ in points)
    spark = draw(TEMPERATURE, times, [value for _, value in points])
    if spark is None:
        return
    places = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", spark.path)]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_one_reading_is_no_curve() -> None:
    assert draw(TEMPERATURE, [1.0], [50.0]) is None


def test_noise_is_not_drawn_as_a_drama() -> None:
    spark = draw(TEMPERATURE, [0.0, 10.0], [50.0, 50.1])
    assert spark is not None
    (_, first), (_, last) = re.findall(r"([\d.]+) ([\d.]+)", spark.path)
    assert abs(float(first) - float(last)) < 0.5


def test_what_a_board_does_not_offer_has_no_curve() -> None:
    vitals = make_vitals()
    for number in range(3):
        vitals.take("pi", float(number), health(load1=0.5, temperature_c=None))
    assert [spark.title for spark in vitals.sparks("pi")] == ["Load"]


def test_only_the_recent_past_is_kept() -> None:
    vitals = make_vitals()
    for number in range(2 * KEPT):
        vitals.take("pi", float(number), health(load1=float(number)))
    (spark,) = vitals.sparks("pi")
    assert spark.low == f"{KEPT:.2f}"


def test_a_report_that_is_late_or_malformed_changes_nothing() -> None:
    vitals = make_vitals()
    for number in (1.0, 2.0):
        vitals.take("pi", number, health(load1=1.0))
    vitals.take("pi", 1.5, health(load1=99.0))
    vitals.take("pi", 3.0, {"health": "none"})
    vitals.take("pi", 4.0, None)
    vitals.take("pi", 5.0, health(load1="high", temperature_c=True))
    (spark,) = vitals.sparks("pi")
    assert spark.high == "1.00"


def test_a_node_that_was_never_heard_has_no_curves() -> None:
    assert make_vitals().sparks("nobody") == []
