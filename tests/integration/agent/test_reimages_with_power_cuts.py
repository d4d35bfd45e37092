"""Installed again and again while the power goes: no half image boots, no loop, and every node comes back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_images import MIB, ContentServer, FakeImage, make_table, seal
from cutting_disk import Medium
from fakes_agent import running
from fleet_story import texts
from reimage_room import A1, S1, Room, open_room
from reimaged_board import Board, ServedImages, use_direct_surroundings

from agent.errors import AgentError
from agent.installer.kept import Kept, add_entries
from fleet.lifecycle import MAX_ATTEMPTS, State

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

DISK_BYTES = 12 * MIB + 512
REIMAGES = 100


def small_image(seed: int = 3) -> FakeImage:
    """Boot partition at 1 MiB, root at 2 MiB, with holes: every rule of the writer in 7 MiB."""
    rng = random.Random(seed)
    size = 7 * MIB
    raw = bytearray(size)
    raw[:512] = make_table(2048, 2048, 2 * 2048, (size - 2 * MIB) // 512)
    spans = [(0, MIB // 2), (MIB, MIB), (2 * MIB, MIB), (4 * MIB + 4096, MIB), (size - MIB // 2, MIB // 2)]
    for offset, length in spans:
        start = max(offset, 512)
        raw[start : offset + length] = rng.randbytes(offset + length - start)
    return seal(bytes(raw), spans, MIB // 2, boot_sector=MIB)


@pytest.fixture(scope="module")
def content() -> Iterator[ContentServer]:
    server = ContentServer(small_image())
    with running(server):
        yield server


@pytest.fixture
def medium(monkeypatch: pytest.MonkeyPatch) -> Medium:
    """Data everywhere, and no partition table."""
    rng = random.Random(11)
    data = bytearray(rng.randbytes(1 << 16) * (DISK_BYTES // (1 << 16) + 1))[:DISK_BYTES]
    data[510:512] = bytes(2)
    medium = Medium(data, rng)
    use_direct_surroundings(monkeypatch, medium)
    return medium


def put_board(room: Room, content: ContentServer, medium: Medium) -> Board:
    room.fleet.images = ServedImages(content.image, content.url)
    room.restart()
    return Board(room, A1, content.image, medium)


async def order(room: Room) -> None:
    room.controller.reimages.request("a1", by="anna")
    await room.rounds(State.REBOOT_TO_INSTALLER)


async def close(room: Room) -> None:
    room.come_up(A1)
    assert (await room.until_closed()).outcome == "done"


async def count_writes(room: Room, board: Board) -> list[tuple[int, int]]:
    """What one whole installation writes, in order."""
    await order(room)
    assert board.start()
    writes = list(board.medium.writes)
    await close(room)
    assert board.start()
    assert board.starts == ["installer", "disk"]
    return writes


@pytest.mark.parametrize(
    "place", ["first write", "1 %", "50 %", "99 %", "before commit", "table", "after the table"]
)
async def test_power_cut_at_any_share_of_the_write_ends_in_another_attempt(
    tmp_path: Path, content: ContentServer, medium: Medium, place: str
) -> None:
    async with open_room(tmp_path, S1, A1) as room:
        board = put_board(room, content, medium)
        writes = await count_writes(room, board)
        total = sum(length for _offset, length in writes)
        assert writes[-1] == (0, 512), "the partition table is the last write"

        def at_share(share: float) -> int:
            done = 0
            for number, (_offset, length) in enumerate(writes, start=1):
                done += length
                if done >= share * total:
                    return number
            raise AssertionError("a share is at most 1")

        held = next(number for number, (offset, _) in reversed(list(enumerate(writes, 1))) if offset >= MIB)
        cut_at = {
            "first write": 1,
            "1 %": at_share(0.01),
            "50 %": at_share(0.5),
            "99 %": at_share(0.99),
            "before commit": held,
            "table": len(writes),
            "after the table": None,
        }[place]
        await order(room)
        if cut_at is None:
            await cut_before_the_report(room, board)
        else:
            assert not board.start(cut_at=cut_at)
            assert board.start()
        await close(room)
        assert board.start()
        assert board.starts[-1] == "disk"


async def cut_before_the_report(room: Room, board: Board) -> None:
    """The disk is whole and the server has not heard of it: the power goes between the two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.controller.installs, "complete", lose_power)
        with pytest.raises(PowerLostError):
            board.start()
    board.require_whole()
    assert board.may_install() is not None, "the server does not know better than to install it again"
    assert board.start()


class PowerLostError(BaseException):
    """In the middle of the last message."""


def lose_power(*_arguments: object) -> None:
    raise PowerLostError


async def test_hundred_reimages_with_power_cuts_lose_nothing_and_end(
    tmp_path: Path, content: ContentServer, medium: Medium
) -> None:
    """Two cuts of three at random writes; the server is restarted at some; streams break and lie."""
    rng = random.Random(20261126)
    quarantines = cuts = 0
    async with open_room(tmp_path, S1, A1) as room:
        board = put_board(room, content, medium)
        writes = len(await count_writes(room, board))
        for number in range(REIMAGES):
            board.starts.clear()
            await order(room)
            installed = False
            while not installed:
                if rng.random() < 0.3:
                    room.restart()
                if rng.random() < 0.2:
                    content.faults.flip_at = rng.randrange(len(content.image.compressed))
                    content.faults.flips = 1
                if rng.random() < 0.2:
                    content.faults.truncate_after, content.faults.truncations = 500_000, 1
                cut_at = rng.randint(1, writes) if rng.random() < 0.55 else None
                installed = board.start(cut_at=cut_at)
                cuts += not installed
                if room.state_of() is State.QUARANTINED:
                    quarantines += 1
                    assert board.may_install() is None, "a quarantined node is not answered"
                    assert board.starts.count("installer") == MAX_ATTEMPTS + 1
                    room.controller.people.approve("a1")
                    board.starts.clear()
            assert board.starts.count("installer") <= MAX_ATTEMPTS, "no loop"
            await close(room)
            assert board.start()
            assert board.starts[-1] == "disk", f"re-image {number}: it boots its own disk"
            assert not board.may_install()
    assert cuts > REIMAGES // 2
    assert quarantines > 0, "the cap was met, too"


DATA = Kept("data", 9 * 2048, 3 * 2048, 0x83)
KEEPING = replace(A1, disk=replace(A1.disk, keep=("data",)))


def with_data(medium: Medium) -> bytes:
    """A file system with a label up to the disk's very end, and a table that names it third; its bytes."""
    image = small_image().raw
    sector = bytearray(image[:512])
    medium.data[:512] = add_entries(bytes(sector), [DATA])
    start = DATA.range.offset
    medium.data[start + 1080 : start + 1082] = b"\x53\xef"
    medium.data[start + 1144 : start + 1160] = b"data".ljust(16, b"\0")
    return bytes(medium.data[start : DATA.range.end])


async def test_kept_partition_survives_every_cut_byte_for_byte(
    tmp_path: Path, content: ContentServer, medium: Medium
) -> None:
    """A cut at each write of the installation, the two of the record and the table among them."""
    before = with_data(medium)
    async with open_room(tmp_path, S1, KEEPING) as room:
        board = put_board(room, content, medium)
        board.node, board.kept = KEEPING, (DATA,)
        writes = len(await count_writes(room, board))
        for cut_at in range(1, writes + 1):
            board.starts.clear()
            await order(room)
            assert not board.start(cut_at=cut_at)
            assert medium.data[DATA.range.offset : DATA.range.end] == before, f"cut at write {cut_at}"
            assert board.start()
            await close(room)
            assert board.start()
            assert board.starts[-1] == "disk"
        assert medium.data[DATA.range.offset : DATA.range.end] == before
    assert writes > 10


async def test_partition_that_is_to_be_kept_and_is_not_there_leaves_the_disk_alone(
    tmp_path: Path, content: ContentServer, medium: Medium
) -> None:
    with_data(medium)
    medium.data[DATA.range.offset + 1144 : DATA.range.offset + 1148] = b"dada"
    before = bytes(medium.data)
    async with open_room(tmp_path, S1, KEEPING) as room:
        board = put_board(room, content, medium)
        board.node, board.kept = KEEPING, (DATA,)
        await order(room)
        with pytest.raises(AgentError, match="no partition has the label 'data'"):
            board.start()
        assert medium.data == before
        assert room.state_of() is State.FAILED_IMAGING
        assert any("no partition has the label 'data'" in text for text in texts(room.fleet, "a1"))


async def test_image_that_does_not_fit_before_what_is_kept_leaves_the_disk_alone(
    tmp_path: Path, content: ContentServer, medium: Medium
) -> None:
    with_data(medium)
    early = replace(DATA, start_sector=6 * 2048, sectors=6 * 2048)
    start = early.range.offset
    medium.data[start : start + 2048] = medium.data[DATA.range.offset : DATA.range.offset + 2048]
    medium.data[:512] = add_entries(bytes(medium.data[:512]), [early])
    before = bytes(medium.data)
    async with open_room(tmp_path, S1, KEEPING) as room:
        board = put_board(room, content, medium)
        board.node = KEEPING
        await order(room)
        with pytest.raises(AgentError, match="is to be kept"):
            board.start()
        assert medium.data == before
