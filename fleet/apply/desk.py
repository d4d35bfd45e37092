"""Takes a new cluster.yaml while the server runs: read, compared with what runs, and put in force as a
whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet.apply.changes import Change, Kind, changes_image, compare
from fleet.apply.following import Following
from fleet.apply.reach import Reach
from fleet.ground import Ground
from fleet.installs import ImageProvider
from fleet.join.founding import FOUNDED
from fleet.spec.load import check_text, loader_surroundings
from fleet.spec.model import ClusterSpec
from fleet.spec.problems import Problem

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a file.

    Attributes:
        problems: Errors and warnings of the file itself.
        applied: It is in force now; also where nothing differed.
    """

    problems: tuple[Problem, ...]
    changes: tuple[Change, ...]
    applied: bool
    usual_path: Path
    """The file that the server reads when it starts again."""


class ApplyDesk:
    """Args:
    declare: Puts a checked spec in force.
    images: Looks for the image of a new file; that takes seconds, and is done beside the event loop.
    following: Told when the file that the server reads at its start is the one that is applied.
    """

    def __init__(
        self,
        ground: Ground,
        declare: Callable[[ClusterSpec], None],
        images: ImageProvider,
        following: Following,
    ) -> None:
        self._ground = ground
        self._declare = declare
        self._images = images
        self._following = following

    async def apply(self, text: str, path: Path, *, dry_run: bool, from_here: bool) -> Applied:
        """Compare the text of a cluster.yaml with what runs, and take it unless a change is refused.

        Args:
            path: Of the file, absolute: relative paths in it start there. From elsewhere it is on another
                machine, and they start where those of the file in force do.
            from_here: The caller is on this machine; any other reaches no file of it (`fleet.apply.reach`).

        Raises:
            RefusedError: The caller is elsewhere, and the file reaches for this machine.
        """
        running = self._ground.spec
        path = path if from_here else running.path
        reach, around = Reach(running), loader_surroundings(path)
        checked = check_text(text, path, around if from_here else reach.limit(around))
        reach.require_known_paths()
        if checked.spec is not None and not from_here:
            reach.require_known_powers(checked.spec)
            reach.require_known_channels(checked.spec)
        if checked.spec is None:
            return Applied(
                problems=checked.problems, changes=(), applied=False, usual_path=self._following.path
            )
        image: str | None = None
        if changes_image(running, checked.spec):
            facts = await asyncio.to_thread(self._images.prepare, checked.spec)
            image = None if facts is None else facts.id
            running = self._ground.spec
        with self._ground.store.read() as reader:
            records, founded = reader.nodes(), reader.value(FOUNDED) is not None
            boards = reader.bound_boards()
        changes = compare(running, checked.spec, records, founded=founded, image=image, boards=boards)
        refused = any(change.kind is Kind.REFUSED for change in changes)
        if not refused and not dry_run:
            self._declare(checked.spec)
            if from_here and path.absolute() == self._following.path:
                self._following.remember(checked.spec)
            for change in changes:
                log.info("applied: %s %s", change.kind.value, change.key)
        return Applied(
            problems=checked.problems,
            changes=changes,
            applied=not refused and not dry_run,
            usual_path=self._following.path,
        )
