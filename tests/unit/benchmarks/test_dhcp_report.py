"""perfdhcp's statistics are read as they stand, or not at all."""

from __future__ import annotations

import pytest

from benchmarks.cases.dhcp import parse_report
from benchmarks.errors import BenchmarkError

TEXT = """\
***Rate statistics***
Rate: 1998.07 4-way exchanges/second, expected rate: 2000

***Statistics for: DISCOVER-OFFER***
sent packets: 9999
received packets: 9996
drops: 3
avg delay: 0.350 ms

***Statistics for: REQUEST-ACK***
sent packets: 9996
received packets: 9989
drops: 7
avg delay: 4.526 ms
"""


def test_both_halves_count() -> None:
    report = parse_report(TEXT)
    assert (report.rate, report.begun, report.lost) == (1998.07, 9999, 10)
    assert report.lost_percent == pytest.approx(0.1, rel=0.01)
    assert report.delays_ms == (0.35, 4.526)


@pytest.mark.parametrize("text", ["", "Rate: 3\n", TEXT.replace("drops: 7\n", "")])
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(BenchmarkError, match="no statistics"):
        parse_report(text)
