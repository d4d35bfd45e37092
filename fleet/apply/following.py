"""Puts a cluster.yaml in force here that another control server on the same record took.

It comes out of the database, and is trusted no more than one that comes with a token (`fleet.apply.reach`):
who can write the database still can not run a command on this machine, nor have its files sent elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from fleet.apply.changes import changes_image
from fleet.apply.in_force import FileInForce, document_in_force, file_digest, on_machine
from fleet.apply.reach import Reach
from fleet.attention import FileFault
from fleet.files import write_private
from fleet.ground import Ground
from fleet.installs import ImageProvider
from fleet.refusal import RefusedError
from fleet.spec.load import loader_surroundings
from fleet.spec.model import ClusterSpec

log = logging.getLogger(__name__)

LAST_READ: Final = "cluster-file.read"
RETRY_S: Final = 60.0
"""Between two attempts at a file that can not be used here yet: somebody builds its image or copies files."""


class Following:
    """Args:
    images: Looks for the image of another server's file; that takes seconds, and is done beside the event
        loop.
    put_in_force: Makes a spec that the record is in line with already this server's own.
    directory: The server's state; what its file said when it was read last is kept there.
    """

    def __init__(
        self,
        ground: Ground,
        images: ImageProvider,
        put_in_force: Callable[[ClusterSpec], None],
        directory: Path,
    ) -> None:
        self._ground = ground
        self._images = images
        self._put_in_force = put_in_force
        self._last_read = directory / LAST_READ
        self.path = ground.written.path.absolute()
        """Of the file that this server reads when it starts."""
        self._own = file_digest(ground.written)
        self._digested = (ground.written, self._own)
        self._tried = ("", float("-inf"))
        self._problem = ""
        self.faults: tuple[FileFault, ...] = ()
        """What a person should know of this server's file, as of the last look."""

    def begin(self) -> bool:
        """At the server's start: whether its file is an old copy, and another one is in force.

        Raises:
            StoreError: The record can not be read.
        """
        if not self._ground.store.is_shared:
            return False
        with self._ground.store.read() as reader:
            file = FileInForce.load(reader)
        last_read = self._last_read.read_text("utf-8") if self._last_read.exists() else None
        self._ground.is_behind = file is not None and file.supersedes(self._own, last_read)
        return self._ground.is_behind

    def remember(self, own: ClusterSpec) -> None:
        """The server's own file says this now, and the record has been told where that is news.

        Raises:
            PrivateFileError: The state directory can not be written.
        """
        self._own = file_digest(own)
        if self._ground.store.is_shared:
            write_private(self._last_read, self._own.encode())

    async def look(self) -> None:
        """Take what another server put in force.

        Raises:
            StoreError: The record can not be read.
        """
        ground = self._ground
        with ground.store.read() as reader:
            file = FileInForce.load(reader)
        if file is None:
            return
        if file.digest != self._running():
            await self._take(file)
        ground.is_behind = file.digest != self._running()
        self.faults = tuple(self._faults(file))

    async def _take(self, file: FileInForce) -> None:
        ground, (digest, at) = self._ground, self._tried
        if digest == file.digest and ground.clock() < at + RETRY_S:
            return
        self._tried = (file.digest, ground.clock())
        with ground.store.read() as reader:
            document = document_in_force(reader)
        spec, self._problem = await self._usable(document)
        if spec is not None:
            self._put_in_force(spec)
            log.info("the cluster.yaml that %s put in force is in force here, too", file.server)

    async def _usable(self, document: dict[str, Any]) -> tuple[ClusterSpec | None, str]:
        """The file as this machine's, or why it can not be that."""
        running = self._ground.written
        reach = Reach(running)
        around = reach.limit(loader_surroundings(self.path))
        checked = await asyncio.to_thread(on_machine, document, running, around)
        if reach.foreign:
            return None, f"it names {reach.foreign[0]}, which this server's own file does not"
        if checked.spec is None:
            return None, "; ".join(f"{one.key}: {one.message}" for one in checked.errors)
        try:
            reach.require_known_powers(checked.spec)
            reach.require_known_channels(checked.spec)
        except RefusedError:
            return None, "it has commands or secrets of its machine that this server's own file does not have"
        if checked.spec.domain != running.domain:
            return None, "cluster.domain counts from a server's next start"
        is_other = changes_image(running, checked.spec)
        if is_other and await asyncio.to_thread(self._images.prepare, checked.spec) is None:
            return None, "its image is not built on this machine"
        return checked.spec, ""

    def _running(self) -> str:
        """Digest of the file that is in force here. To make one takes milliseconds, so it is kept."""
        if self._digested[0] is not self._ground.written:
            self._digested = (self._ground.written, file_digest(self._ground.written))
        return self._digested[1]

    def _faults(self, file: FileInForce) -> Iterator[FileFault]:
        if self._ground.is_behind:
            yield FileFault(
                text=f"the cluster.yaml that {file.server} put in force can not be so here: "
                f"{self._problem or 'it is tried again soon'}",
                hint=f"Put that file at {self.path}, with all that it names, 'bramble build' it, and restart "
                "this server.",
                since=file.since,
            )
        elif file.digest != self._own:
            yield FileFault(
                text=f"{self.path} is not what is in force: {file.server} was given another file",
                hint="Put that one in its place and 'bramble apply' it; or apply this one to go back to it.",
                since=file.since,
            )
