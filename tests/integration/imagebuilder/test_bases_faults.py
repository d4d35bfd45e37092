"""Fetching with the power cut, with several processes at once, and on disks that fail."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from image_site import SigningKey, Site
from stock_sites import RASPIOS, UBUNTU, put_raspios, put_ubuntu, raw_sha256, stock_image

from imagebuilder import store as store_module
from imagebuilder import writing
from imagebuilder.bases.fetch import fetch_image
from imagebuilder.bases.http import Http
from imagebuilder.errors import DiskFull, ImageBuilderError
from imagebuilder.store import Store
from imagebuilder.store_gc import collect
from imagebuilder.store_verify import verify_store

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[2] / "support"
DEATHS = 30


class Fetcher:
    """Starts processes that fetch."""

    def __init__(self, work: Path, site: Site, key: SigningKey, name: str) -> None:
        self.store = work / "store"
        self._work = work
        self._server: subprocess.Popen[str] | None = None
        (work / "key.asc").write_bytes(key.armoured)
        self._plan: dict[str, Any] = {
            "site": site.url,
            "store": str(self.store),
            "key_file": str(work / "key.asc"),
            "fingerprint": key.fingerprint,
            "name": name,
        }

    def start(self) -> subprocess.Popen[str]:
        plan = self._work / "plan.json"
        plan.write_text(json.dumps(self._plan))
        paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
        return subprocess.Popen(
            [sys.executable, SUPPORT / "fetch_process.py", plan],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(self._work)},
        )

    def run(self, point: int = 0) -> dict[str, int]:
        """Have one process fetch that dies at ``point``; how it ended."""
        if self._server is None:
            self._server = self.start()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{point}\n")
        self._server.stdin.flush()
        result: dict[str, int] = json.loads(self._server.stdout.readline())
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.communicate(timeout=60)


def check_store(root: Path, expected_id: str, packed: bytes) -> bool:
    """No entry is damaged, and there is none but the right one; says whether it is there."""
    store = Store(root)
    assert all(not finding.problems for finding in verify_store(store))
    ids = [entry.name for entry in store.entries("bases")]
    assert ids in ([], [expected_id])
    for whole in root.glob("downloads/*/file"):
        assert hashlib.sha256(whole.read_bytes()).hexdigest() == hashlib.sha256(packed).hexdigest()
    return bool(ids)


@pytest.mark.parametrize("name", [UBUNTU, RASPIOS])
def test_killed_at_any_point_the_store_is_sound_and_the_next_run_ends_it(
    site: Site, key: SigningKey, packed: bytes, tmp_path: Path, name: str
) -> None:
    """Half of the deaths hit an empty store, the others hit what the deaths before have left."""
    put = put_ubuntu if name == UBUNTU else put_raspios
    path = put(site, packed, key)
    expected = f"sha256-{raw_sha256(packed)}"
    with Fetcher(tmp_path, site, key, name) as fetcher:
        whole = fetcher.run()
        assert whole["status"] == 0
        total = whole["operations"]
        points = sorted(random.Random(7).sample(range(1, total), DEATHS))
        for number, point in enumerate(points):
            if number % 2 == 0:
                shutil.rmtree(fetcher.store, ignore_errors=True)
            # One connection is cut too, so that deaths meet downloads that went on.
            site.pages[path].drop_after = [len(packed) // 3]
            died = fetcher.run(point)
            assert died["status"] == -9 or number % 2, f"point {point} of {total} was not reached"
            check_store(fetcher.store, expected, packed)
        assert fetcher.run()["status"] == 0
        assert check_store(fetcher.store, expected, packed)
        assert len(Store(fetcher.store).entries("base-origins")) == 1
        report = collect(Store(fetcher.store), now=0.0)
        assert all(removal.item.faulty for removal in report.removed)
        assert not [*fetcher.store.glob("tmp/*")]
        assert check_store(fetcher.store, expected, packed)


def test_several_processes_at_once_download_once(
    site: Site, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    path = put_ubuntu(site, packed, key)
    fetcher = Fetcher(tmp_path, site, key, UBUNTU)
    processes = [fetcher.start() for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("0\n")
        process.stdin.flush()
    for process in processes:
        assert json.loads(process.communicate(timeout=120)[0])["status"] == 0
    assert site.bodies_sent(path) == 1
    assert check_store(fetcher.store, f"sha256-{raw_sha256(packed)}", packed)
    assert not [*fetcher.store.glob("tmp/*"), *fetcher.store.glob("downloads/*")]


def test_waiting_process_takes_over_when_the_first_one_is_killed(
    site: Site, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    """The first one stands in the middle of its download until the second one waits for its lock."""
    path = put_ubuntu(site, packed, key)
    held, go_on = threading.Event(), threading.Event()

    def stall() -> None:
        held.set()
        assert go_on.wait(60)

    site.pages[path].hook = stall
    fetcher = Fetcher(tmp_path, site, key, UBUNTU)
    first = fetcher.start()
    assert first.stdin is not None
    first.stdin.write("0\n")
    first.stdin.flush()
    assert held.wait(60)
    second = fetcher.start()
    assert second.stdin is not None
    second.stdin.write("0\n")
    second.stdin.flush()
    sums = f"{path.rpartition('/')[0]}/SHA256SUMS.gpg"
    deadline = time.monotonic() + 60
    while site.bodies_sent(sums) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    [child] = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    go_on.set()
    assert json.loads(first.communicate(timeout=60)[0])["status"] == -9
    assert json.loads(second.communicate(timeout=60)[0])["status"] == 0
    assert site.bodies_sent(path) == 2
    assert check_store(fetcher.store, f"sha256-{raw_sha256(packed)}", packed)


class Faults:
    """Lets the N-th write or flush fail, in one of several ways."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = 0
        self.error = 0
        self.short = False
        self._pwrite, self._fsync, self._store_fsync = writing.pwrite, writing.fsync, os.fsync
        monkeypatch.setattr(writing, "pwrite", self.pwrite)
        monkeypatch.setattr(writing, "fsync", self.fsync)
        monkeypatch.setattr(store_module, "fsync", self.fsync)

    def arm(self, at: int, error: int) -> None:
        self.count, self.at, self.error = 0, at, error

    def _due(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise OSError(self.error, os.strerror(self.error))

    def pwrite(self, descriptor: int, data: bytes | memoryview, offset: int) -> int:
        self._due()
        taken = memoryview(data)[: max(1, len(data) // 2)] if self.short else data
        return self._pwrite(descriptor, taken, offset)

    def fsync(self, descriptor: int) -> None:
        self._due()
        self._fsync(descriptor)


@pytest.fixture
def fetch(site: Site, key: SigningKey, packed: bytes, tmp_path: Path) -> Callable[[Path], None]:
    put_ubuntu(site, packed, key)
    (tmp_path / "key.asc").write_bytes(key.armoured)
    image = stock_image(UBUNTU, key.fingerprint)

    def run(root: Path) -> None:
        with Http(wait=lambda seconds: None) as http:
            fetch_image(
                image, store=Store(root), mirror=site.url, key_files=[tmp_path / "key.asc"], http=http
            )

    return run


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_write_that_fails_ends_in_an_error_and_a_sound_store(
    fetch: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    packed: bytes,
    tmp_path: Path,
    error: int,
) -> None:
    faults = Faults(monkeypatch)
    fetch(tmp_path / "counted")
    total = faults.count
    expected = f"sha256-{raw_sha256(packed)}"
    points = [1, total, *random.Random(error).sample(range(2, total), 3)]
    for at in points:
        root = tmp_path / f"store-{at}"
        faults.arm(at, error)
        with pytest.raises(ImageBuilderError) as caught:
            fetch(root)
        assert isinstance(caught.value, DiskFull) == (error in (errno.ENOSPC, errno.EDQUOT))
        assert caught.value.hint
        faults.arm(0, 0)
        check_store(root, expected, packed)
        assert not [*root.glob("tmp/*")]
        fetch(root)
        assert check_store(root, expected, packed)


def test_short_writes_are_completed(
    fetch: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, packed: bytes, tmp_path: Path
) -> None:
    faults = Faults(monkeypatch)
    faults.short = True
    fetch(tmp_path / "store")
    assert check_store(tmp_path / "store", f"sha256-{raw_sha256(packed)}", packed)


def test_damaged_entries_are_named_and_removed(
    fetch: Callable[[Path], None], packed: bytes, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    fetch(root)
    expected = f"sha256-{raw_sha256(packed)}"
    disk = root / "bases" / expected / "disk.img"
    with disk.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"flipped")
    [finding] = [finding for finding in verify_store(Store(root)) if finding.problems]
    assert finding.id == expected
    assert "disk.img: sha256 is" in finding.problems[0]
    with disk.open("r+b") as file:
        file.truncate(1000)
    [finding] = [finding for finding in verify_store(Store(root)) if finding.problems]
    assert "has 1000 bytes" in finding.problems[0]
    (root / "bases" / expected / "base.json").write_text("{}")
    [finding] = [finding for finding in verify_store(Store(root)) if finding.problems]
    assert finding.problems
    assert Store(root).evict("bases", expected)
    fetch(root)
    assert check_store(root, expected, packed)
