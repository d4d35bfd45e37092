"""Image files over HTTP: ranges, conditions, and nothing that the table does not list."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import requests
from fakes_pxe import running_server

from fleet.boards import Serial
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.events import BoardEvent, BootFileMissing, ContentRefused, TransferDone
from pxe.server import PxeServer

pytestmark = pytest.mark.integration

IMAGE = bytes(range(256)) * 4000
WAIT_S = 60.0


def table_of(tmp_path: Path, *nodes: NodeBootState) -> BootTable:
    path = tmp_path / "disk.img.zst"
    path.write_bytes(IMAGE)
    (tmp_path / "disk.img.zst.br").write_bytes(b"not listed")
    (tmp_path / "manifest.json").write_bytes(b"not listed")
    return BootTable(nodes, {"abc123/disk.img.zst": path, "abc123/gone": tmp_path / "gone"})


async def get(server: PxeServer, path: str, *, method: str = "GET", **headers: str) -> requests.Response:
    url = f"http://127.0.0.1:{server.ports.http}{path}"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await asyncio.to_thread(
        lambda: requests.request(
            method, url, headers={"Accept-Encoding": "identity", **names}, timeout=WAIT_S
        )
    )


@pytest.mark.asyncio
async def test_a_whole_file_and_its_parts(tmp_path: Path) -> None:
    events: list[BoardEvent] = []
    async with running_server(table_of(tmp_path), tmp_path / "state", events.append) as server:
        whole = await get(server, "/images/abc123/disk.img.zst")
        assert (whole.status_code, whole.content) == (200, IMAGE)
        assert whole.headers["Accept-Ranges"] == "bytes"

        middle = await get(server, "/images/abc123/disk.img.zst", Range="bytes=1000-1999")
        assert (middle.status_code, middle.content) == (206, IMAGE[1000:2000])
        assert middle.headers["Content-Range"] == f"bytes 1000-1999/{len(IMAGE)}"

        end = await get(server, "/images/abc123/disk.img.zst", Range="bytes=-100")
        assert (end.status_code, end.content) == (206, IMAGE[-100:])

        outside = await get(server, "/images/abc123/disk.img.zst", Range=f"bytes={len(IMAGE)}-")
        assert outside.status_code == 416

        head = await get(server, "/images/abc123/disk.img.zst", method="HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(IMAGE))

        again = await get(server, "/images/abc123/disk.img.zst", If_None_Match=whole.headers["ETag"])
        assert (again.status_code, again.content) == (304, b"")
    done = [event for event in events if isinstance(event, TransferDone)]
    assert [event.sent_bytes for event in done] == [len(IMAGE), 1000 + 100]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    [
        "/images/abc123/manifest.json",
        "/images/abc123/disk.img.zst.br",
        "/images/abc123/gone",
        "/images/abc123/",
        "/images/abc123",
        "/images/",
        "/",
        "/images/abc123/..%2f..%2fetc%2fhostname",
        "/images/../abc123/disk.img.zst",
        "/images/other/disk.img.zst",
    ],
)
async def test_only_listed_files_are_given_out(tmp_path: Path, path: str) -> None:
    async with running_server(table_of(tmp_path), tmp_path / "state") as server:
        answer = await get(server, path)
        assert answer.status_code == 404
        assert str(tmp_path) not in answer.text


@pytest.mark.asyncio
async def test_a_compressed_sibling_is_not_given_out(tmp_path: Path) -> None:
    async with running_server(table_of(tmp_path), tmp_path / "state") as server:
        answer = await get(server, "/images/abc123/disk.img.zst", Accept_Encoding="br, gzip")
        assert answer.headers.get("Content-Encoding") is None
        assert answer.content == IMAGE


@pytest.mark.asyncio
async def test_a_node_without_an_open_install_is_refused(tmp_path: Path) -> None:
    events: list[BoardEvent] = []
    local = IPv4Address("127.0.0.1")
    done = NodeBootState(name="one", address=local, reason="installed")
    async with running_server(table_of(tmp_path, done), tmp_path / "state", events.append) as server:
        assert (await get(server, "/images/abc123/disk.img.zst")).status_code == 403
        server.update(table_of(tmp_path, NodeBootState(name="one", address=local, install_intent=2)))
        assert (await get(server, "/images/abc123/disk.img.zst")).status_code == 200
    assert [event.describe() for event in events if isinstance(event, ContentRefused)] == [
        "asked for abc123/disk.img.zst: refused, it boots its own disk: installed"
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_can_be_written(tmp_path: Path, method: str) -> None:
    async with running_server(table_of(tmp_path), tmp_path / "state") as server:
        assert (await get(server, "/images/abc123/disk.img.zst", method=method)).status_code == 405


@pytest.mark.asyncio
async def test_a_part_fits_the_rest_by_the_images_tag(tmp_path: Path) -> None:
    async with running_server(table_of(tmp_path), tmp_path / "state") as server:
        path = "/images/abc123/disk.img.zst"
        tag = (await get(server, path, method="HEAD")).headers["ETag"]
        (tmp_path / "disk.img.zst").touch()  # another day, the same bytes
        part = await get(server, path, Range="bytes=5-9", If_Range=tag)
        assert (part.status_code, part.content) == (206, IMAGE[5:10])
        other = await get(server, path, Range="bytes=5-9", If_Range='"other"')
        assert (other.status_code, other.content) == (200, IMAGE)
        several = await get(server, path, Range="bytes=0-1,5-6")
        assert (several.status_code, several.content) == (200, IMAGE)
        assert (await get(server, path, If_Match='"other"')).status_code == 412


def boot_table(tmp_path: Path, *, intent: int | None = 1) -> BootTable:
    tree = tmp_path / "boot"
    (tree / "overlays").mkdir(parents=True, exist_ok=True)
    (tree / "kernel8.img").write_bytes(IMAGE)
    if not (tree / "escape").is_symlink():
        (tree / "escape").symlink_to("/etc/hostname")
    (tmp_path / "tail").write_bytes(b"tail")
    boot = BootTree(tree, {"config.txt": b"arm_64bit=1\n"}, {"boot.img": (b"head+", tmp_path / "tail")})
    return BootTable(
        (NodeBootState(name="one", serial=Serial.parse("91cdf03d"), install_intent=intent, tree=boot),)
    )


@pytest.mark.asyncio
async def test_boot_trees_have_the_same_names_as_over_tftp(tmp_path: Path) -> None:
    events: list[BoardEvent] = []
    async with running_server(boot_table(tmp_path), tmp_path / "state", events.append) as server:
        for name, content in {
            "kernel8.img": IMAGE,
            "config.txt": b"arm_64bit=1\n",
            "boot.img": b"head+tail",
        }.items():
            for path in (f"/boot/91cdf03d/{name}", f"/boot/91cdf03d//{name}"):
                answer = await get(server, path)
                assert (answer.status_code, answer.content) == (200, content)
                assert answer.headers["Cache-Control"] == "no-store"
            head = await get(server, f"/boot/91cdf03d/{name}", method="HEAD")
            assert head.headers["Content-Length"] == str(len(content))
            part = await get(server, f"/boot/91cdf03d/{name}", Range="bytes=2-4")
            assert (part.status_code, part.content) == (206, content[2:5])
            same = await get(server, f"/boot/91cdf03d/{name}", If_None_Match=head.headers["ETag"])
            assert same.status_code == 304
    assert {event.name for event in events if isinstance(event, TransferDone)} == {
        "kernel8.img",
        "config.txt",
        "boot.img",
    }


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    [
        "/boot/91cdf03d/nope",
        "/boot/91cdf03d/escape",
        "/boot/91cdf03d/overlays",
        "/boot/91cdf03d/..%2f..%2fetc%2fhostname",
        "/boot/91cdf03d/%00",
        "/boot/91cdf03d/a%0d%0aSet-Cookie:x",
        "/boot/00000001/kernel8.img",
        "/boot/kernel8.img",
        "/boot/",
    ],
)
async def test_what_a_boot_tree_does_not_have_is_not_found(tmp_path: Path, path: str) -> None:
    events: list[BoardEvent] = []
    async with running_server(boot_table(tmp_path), tmp_path / "state", events.append) as server:
        answer = await get(server, path)
        assert answer.status_code == 404
        assert str(tmp_path) not in answer.text
        assert "Set-Cookie" not in answer.headers
    assert all(event.describe().isprintable() for event in events)


@pytest.mark.asyncio
async def test_without_descriptors_a_client_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_nothing(_location: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    events: list[BoardEvent] = []
    async with running_server(boot_table(tmp_path), tmp_path / "state", events.append) as server:
        server.update(replace(boot_table(tmp_path), images=table_of(tmp_path).images))
        monkeypatch.setattr("pxe.web.files.open_content", open_nothing)
        for path in ("/boot/91cdf03d/kernel8.img", "/images/abc123/disk.img.zst"):
            answer = await get(server, path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert not [event for event in events if isinstance(event, BootFileMissing)]


@pytest.mark.asyncio
async def test_a_board_that_is_installed_gets_no_boot_files(tmp_path: Path) -> None:
    async with running_server(boot_table(tmp_path, intent=None), tmp_path / "state") as server:
        assert (await get(server, "/boot/91cdf03d/kernel8.img")).status_code == 404
        server.update(boot_table(tmp_path))
        assert (await get(server, "/boot/91cdf03d/kernel8.img")).status_code == 200
