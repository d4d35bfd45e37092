"""Image files over HTTP: ranges, conditions, and nothing that the table does not list."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import requests
from fakes_pxe import running_server

from pxe.boot.table import BootTable, NodeBootState
from pxe.events import BoardEvent, ContentRefused, TransferDone
from pxe.server import PxeServer

pytestmark = pytest.mark.integration

IMAGE = bytes(range(256)) * 4000
WAIT_S = 30


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
