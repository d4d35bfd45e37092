"""The order of test files that are run side by side."""

from __future__ import annotations

from long_files import LONGEST_FIRST, TESTS, rank


def test_every_file_that_comes_first_is_there_once() -> None:
    assert [name for name in LONGEST_FIRST if not (TESTS / name).is_file()] == []
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)


def test_the_long_ones_come_first_and_the_others_keep_their_places() -> None:
    short = [TESTS / "integration/fleet/test_apply.py", TESTS / "integration/pxe/test_dns_service.py"]
    longest = TESTS / LONGEST_FIRST[0]
    assert sorted([*short, longest], key=rank) == [longest, *short]
