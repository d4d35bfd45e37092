"""Several media at once: a thread each, one error list, and a stop that leaves every medium resumable.

The work is waiting for media and hashing, both of which run beside each other in threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.errors import ImageBuilderError
from imagebuilder.flash.errors import FlashError
from imagebuilder.flash.source import Patch, RawImage
from imagebuilder.flash.target import FlashTarget
from imagebuilder.flash.writer import FlashJob, Outcome, Phase

OnBatchProgress = Callable[[int, Phase, int, int], None]
"""Called from the threads: number of the order, phase, bytes done and in total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One medium to write; `grow` lets the root partition reach to its end."""

    path: Path
    patches: tuple[Patch, ...] = field(default=(), repr=False)
    marker: bytes = field(default=b"", repr=False)
    grow: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """How one order ended: exactly one of the two is there."""

    outcome: Outcome | None
    error: ImageBuilderError | None


def flash_all(
    source: RawImage,
    orders: Sequence[Order],
    *,
    verify: bool = True,
    on_progress: OnBatchProgress = lambda number, phase, done, total: None,
    on_end: Callable[[int, Result], None] = lambda number, result: None,
) -> list[Result]:
    """Write all media; one that fails does not keep the others from ending.

    Args:
        on_end: called from the threads when an order has ended.

    Raises:
        KeyboardInterrupt: after every thread has stopped; the media do not boot, and can be gone on with.
    """
    stop = threading.Event()

    def work(number: int, order: Order) -> Result:
        def report(phase: Phase, done: int, total: int) -> None:
            if stop.is_set() and phase in (Phase.WRITE, Phase.VERIFY):
                raise FlashError(
                    f"{order.path}: stopped", "Run the same command again: it goes on from here."
                )
            on_progress(number, phase, done, total)

        try:
            with FlashTarget(order.path) as target:
                job = FlashJob(
                    source,
                    target,
                    order.patches,
                    marker=order.marker,
                    verify=verify,
                    grow=order.grow,
                    on_progress=report,
                )
                result = Result(job.run(), None)
                target.reread_partitions()
        except ImageBuilderError as error:
            result = Result(None, error)
        on_end(number, result)
        return result

    with ThreadPoolExecutor(max(1, len(orders)), thread_name_prefix="flash") as pool:
        futures: list[Future[Result]] = [
            pool.submit(work, number, order) for number, order in enumerate(orders)
        ]
        try:
            wait(futures)
        except KeyboardInterrupt:
            stop.set()
            raise
    return [future.result() for future in futures]
