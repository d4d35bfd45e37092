"""How many TFTP workers there are where nobody says it."""

from __future__ import annotations

import pytest

from pxe.tftp.settings import default_workers


@pytest.mark.parametrize(
    ("boards", "processors", "workers"),
    [(1, 4, 1), (16, 4, 1), (17, 4, 2), (500, 64, 2), (500, 2, 1), (500, 1, 1)],
)
def test_a_second_worker_needs_boards_and_a_processor_of_its_own(
    boards: int, processors: int, workers: int
) -> None:
    assert default_workers(boards, processors) == workers
