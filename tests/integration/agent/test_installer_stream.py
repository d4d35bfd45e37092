"""The pipeline from a real content server to a file: whoever gives up, everything of it ends."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
from agent_images import MIB, ContentServer, FakeImage

from agent.errors import AgentError
from agent.installer.device import VIEWS_KEPT, TargetDisk
from agent.installer.index import ImageIndex, parse_index
from agent.installer.layout import parse_partitions
from agent.installer.occupant import encode_marker
from agent.installer.stream import ImageStream
from agent.installer.writer import ImageWriter
from agent.protocol import Occupant

pytestmark = pytest.mark.integration

MARKER = encode_marker(Occupant("attic", "pi-1", "cafe0123", "1a" * 16))
DEADLINE_S = 60.0


@pytest.fixture
def index(image: FakeImage) -> ImageIndex:
    return parse_index(image.index)


def stream_of(content: ContentServer) -> ImageStream:
    return ImageStream(f"{content.url}/image.zst", sleep=lambda _: None)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("image-", "disk-"))]


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_stream_that_is_closed_leaves_neither_thread_nor_connection(
    content: ContentServer, index: ImageIndex, taken: int
) -> None:
    held = threading.Event()

    def hold(position: int) -> None:
        if position > len(content.image.compressed) // 2:
            held.wait(DEADLINE_S)  # the server has more to send, and the client waits for it

    content.faults.on_bytes = hold
    with closing(stream_of(content).chunks(index.chunks)) as chunks:
        for _ in range(taken):
            next(chunks)
    assert threads() == []
    held.set()


@pytest.mark.parametrize("error", ["No space left on device", "Input/output error"])
@pytest.mark.parametrize("number", [1, 7])
def test_disk_that_refuses_in_the_middle_ends_the_download_and_boots_nothing(
    content: ContentServer, index: ImageIndex, tmp_path: Path, error: str, number: int
) -> None:
    class Failing(TargetDisk):
        writes = 0

        def write_at(self, offset: int, data: bytes | memoryview) -> None:
            if offset >= 2 * MIB and offset < index.size_bytes:
                self.writes += 1
            if self.writes == number:
                raise AgentError(f"{self.path}: writing at {offset} bytes failed: {error}")
            super().write_at(offset, data)

    path = tmp_path / "disk"
    path.write_bytes(b"\xff" * (index.size_bytes + MIB))
    with Failing(path) as disk:
        writer = ImageWriter(disk, index, (), stream_of(content).chunks, marker=MARKER)
        writer.invalidate()
        with pytest.raises(AgentError, match=error):
            writer.write(lambda done, total: None)
    assert threads() == []
    assert content.faults.requests == 1
    assert parse_partitions(path.read_bytes()[:512]) == ()


def test_install_that_is_called_off_ends_the_download(
    content: ContentServer, index: ImageIndex, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(index.size_bytes + MIB))

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise AgentError("the intent is closed")

    with TargetDisk(path) as disk:
        writer = ImageWriter(disk, index, (), stream_of(content).chunks, marker=MARKER)
        writer.invalidate()
        with pytest.raises(AgentError, match="closed"):
            writer.write(stop)
    assert threads() == []
    assert parse_partitions(path.read_bytes()[:512]) == ()


def test_views_of_what_was_read_back_stay_valid_while_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    pieces = [bytes([number]) * 5000 for number in range(2 * (VIEWS_KEPT + 1))]
    path.write_bytes(b"".join(pieces))
    with TargetDisk(path) as disk:
        views: list[memoryview] = []
        for number in range(len(pieces)):
            views.append(disk.read_back(5000 * number, 5000))
            first = max(0, number - VIEWS_KEPT)
            assert [bytes(view) for view in views[first:]] == pieces[first : number + 1]
