"""A plan that the cluster has to be asked for, and what is said where that takes too long."""

from __future__ import annotations

import asyncio

import pytest

from bramble.dashboard.planning import in_time
from fleet.refusal import RefusedError

pytestmark = pytest.mark.asyncio


async def planned() -> str:
    return "the plan"


async def test_a_plan_that_is_there_in_time_is_taken() -> None:
    assert await in_time(planned(), 60.0) == "the plan"


async def test_a_page_does_not_wait_for_ever_for_a_plan() -> None:
    with pytest.raises(RefusedError, match="there was no plan within 0 s") as refused:
        await in_time(asyncio.Event().wait(), 0.01)
    assert (refused.value.status, refused.value.hint) == (503, "Try again.")
