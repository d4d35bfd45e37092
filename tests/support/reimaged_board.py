"""A board that is installed again and again: the real installer, against the real controller, on a medium
that loses power.

The installer's client hands its messages to the controller in this process, in the form in which they go
over the wire. Its reports are sent at once instead of from a thread of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest
from agent_images import FakeImage
from cutting_disk import Medium, PowerCut
from fakes_fleet import FakeImages, hardware_of
from fleet_story import see
from reimage_room import Room

from agent.client import ControlClient, Refused
from agent.errors import AgentError
from agent.hardware import Disk
from agent.installer import run as installer
from agent.installer.cmdline import InstallerConfig
from agent.installer.kept import RECORD_OFFSET, Kept, add_entries, encode_record
from agent.installer.layout import grow_root
from agent.installer.occupant import MARKER_OFFSET
from agent.protocol import (
    DiskSelector,
    Hello,
    ImageSource,
    InstallComplete,
    InstallProgress,
    InstallStep,
    Patch,
    Proof,
)
from agent.wire import decode, encode
from fleet.boots import BootStage
from fleet.installs import PlannedImage, PlanRequest
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec

Answer = TypeVar("Answer")
SERIAL = "F1"


class ServedImages(FakeImages):
    """The image room with one real, small image behind a real content server."""

    def __init__(self, image: FakeImage, url: str) -> None:
        super().__init__()
        self.image, self.url = image, url
        self.signature = 0

    def plan_for(self, request: PlanRequest) -> PlannedImage:
        super().plan_for(request)
        self.signature = request.disk_signature
        source = ImageSource(
            image_url=f"{self.url}/image.zst", index_url=f"{self.url}/index.json", **self.image.source_fields
        )
        patch = Patch(440, request.disk_signature.to_bytes(4, "little").hex())
        return PlannedImage(source, DiskSelector(request.node.disk.kind.value), (patch,))


class DirectClient(ControlClient):
    """Speaks to the controller without a wire."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.token: str | None = None

    def get(self, path: str, kind: type[Answer]) -> Answer:
        assert path == "/v1/install/plan"
        return self._answer(lambda: self._room.controller.installs.plan(self.token or ""), kind)

    def post(self, path: str, message: Any, kind: type[Answer]) -> Answer:
        admission = self._room.controller.admission
        if path == "/v1/hello":
            return self._answer(lambda: admission.hello(decode(Hello, encode(message))), kind)
        return self._answer(lambda: admission.prove(decode(Proof, encode(message)), None), kind)

    def send(self, path: str, message: Any) -> None:
        installs, token = self._room.controller.installs, self.token or ""
        try:
            if path.endswith("progress"):
                installs.progress(token, decode(InstallProgress, encode(message)))
            else:
                installs.complete(token, decode(InstallComplete, encode(message)))
        except RefusedError as error:
            raise Refused(error.status, error.code, error.message, error.hint) from None

    @staticmethod
    def _answer(ask: Callable[[], Any], kind: type[Answer]) -> Answer:
        try:
            return decode(kind, encode(ask()))
        except RefusedError as error:
            raise Refused(error.status, error.code, error.message, error.hint) from None


class InlineReporter:
    """`agent.installer.report.Reporter` without its thread: each step's first report, and failures."""

    def __init__(self, send: Callable[[InstallProgress], None]) -> None:
        self._send = send
        self._step: InstallStep | None = None

    def __enter__(self) -> InlineReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def put(self, progress: InstallProgress) -> None:
        if progress.step is not self._step or progress.failed:
            self._step = progress.step
            self._send(progress)

    def check(self) -> None:
        return


@dataclass
class Board:
    """One node's board.

    Attributes:
        kept: What every installation has to leave alone.
        starts: What each start of it booted: `installer` or `disk`.
    """

    room: Room
    node: NodeSpec
    image: FakeImage
    medium: Medium
    kept: tuple[Kept, ...] = ()
    starts: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def start(self, *, cut_at: int | None = None) -> bool:
        """Power on. The server's answer decides what it boots; False: the power went while it was installed.

        What boots from the disk is looked at: it has to be a whole image.
        """
        intent = next(
            state.install_intent
            for state in self.room.controller.boot_states()
            if state.name == self.node.name
        )
        see(self.room.fleet, self.node)
        if intent is None:
            self.starts.append("disk")
            self.require_whole()
            return True
        see(self.room.fleet, self.node, BootStage.KERNEL)
        self.starts.append("installer")
        if self.may_install() is None:
            return False  # that start was one too many: it is quarantined
        self.medium.power_on(cut_at=cut_at)
        try:
            self._install(intent)
        except PowerCut:
            if self.medium.boots:
                self.require_whole()
            return False
        return True

    def may_install(self) -> int | None:
        """Number of the open intent, as the boot server sees it."""
        return next(
            state.install_intent
            for state in self.room.controller.boot_states()
            if state.name == self.node.name
        )

    def _install(self, intent: int) -> InstallComplete:
        device = Disk(
            path=Path("/dev/nvme0n1"),
            kind="nvme",
            size_bytes=len(self.medium.data),
            model="cutting disk",
            serial=SERIAL,
            wwn=f"eui.{SERIAL}",
        )
        now = itertools.count()
        around = installer.Surroundings(
            hardware=hardware_of(self.node),
            boot_id=f"boot-{next(self._numbers)}",
            find_disks=lambda: [device],
            say=lambda _line: None,
            sleep=lambda _seconds: None,
            clock=lambda: float(next(now)),
        )
        return installer.install(
            InstallerConfig(control_urls=(), pin="", intent=intent), DirectClient(self.room), around
        )

    def require_whole(self) -> None:
        """Every byte that the image, the delta and COMMIT put there."""
        assert self.medium.boots, "the board is sent to its disk and nothing boots there"
        data, raw = self.medium.data, bytearray(self.image.raw)
        raw[440:444] = data[440:444]
        end = min([len(data), *(one.range.offset for one in self.kept)])
        raw[:512] = add_entries(grow_root(bytes(raw[:512]), end), self.kept)
        if self.kept:
            raw[RECORD_OFFSET : RECORD_OFFSET + 512] = encode_record(self.kept)
        raw[MARKER_OFFSET : MARKER_OFFSET + 512] = data[MARKER_OFFSET : MARKER_OFFSET + 512]
        for offset, length in [(0, 1 << 20), *self.image.chunks]:
            end = offset + length
            assert data[offset:end] == raw[offset:end], f"half an image at {offset}"


def use_direct_surroundings(monkeypatch: pytest.MonkeyPatch, medium: Medium) -> None:
    """The installer of this process writes to `medium`."""
    monkeypatch.setattr(installer, "TargetDisk", medium.opened())
    monkeypatch.setattr(installer, "Reporter", InlineReporter)


__all__ = ["AgentError", "Board", "ServedImages", "use_direct_surroundings"]
