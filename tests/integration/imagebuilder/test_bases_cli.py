"""``bramble base``, ``bramble gc`` and ``bramble store`` as a person or a script calls them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from image_site import Site
from stock_sites import packed_disk, put_ubuntu, raw_sha256

from imagebuilder.store import Store

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return packed_disk(tmp_path_factory.mktemp("disk"), "ubuntu")


@pytest.fixture
def bramble(tmp_path: Path) -> Bramble:
    return Bramble(tmp_path)


class Bramble:
    """The command with a cache of its own, in a directory of its own."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.cache = work / "cache"

    def __call__(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bramble.cli", *words],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.work,
            env={
                **os.environ,
                "BRAMBLE_CACHE_DIR": str(self.cache),
                "PYTHONPATH": str(Path(__file__).parents[3]),
                **(env or {}),
            },
        )

    def json(self, *words: str, env: dict[str, str] | None = None) -> object:
        done = self(*words, "--json", env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def test_base_from_a_mirror_is_fetched_shown_and_removed(bramble: Bramble, site: Site, packed: bytes) -> None:
    put_ubuntu(site, packed, None)
    refused = bramble("base", "fetch", "ubuntu-24.04", "--mirror", site.url)
    assert refused.returncode == 1
    assert "no SHA256SUMS.gpg" in refused.stderr
    assert "--unverified ubuntu-24.04" in refused.stderr
    assert not bramble.cache.joinpath("bases").exists()
    misnamed = bramble("base", "fetch", "ubuntu-24.04", "--mirror", site.url, "--unverified", "ubuntu-22.04")
    assert misnamed.returncode == 2
    mirror = {"BRAMBLE_UBUNTU_IMAGE_MIRROR": site.url}
    done = bramble("base", "fetch", "ubuntu-24.04", "--unverified", "ubuntu-24.04", env=mirror)
    assert done.returncode == 0, done.stderr
    assert "ubuntu-24.04 24.04.4\n" in done.stdout
    assert "proof      unverified: there is no SHA256SUMS.gpg" in done.stdout
    assert "downloading ubuntu-24.04.4" in done.stderr
    again = bramble("base", "fetch", "ubuntu-24.04", "--unverified", "ubuntu-24.04", env=mirror)
    assert "(unchanged)" in again.stdout
    assert again.stderr == ""
    listed = bramble("base", "list")
    assert "ubuntu-24.04             24.04.4, kernel" in listed.stdout
    assert "bramble base fetch ubuntu-22.04" in listed.stdout
    shown = bramble.json("base", "show", "ubuntu-24.04")
    assert isinstance(shown, dict)
    assert shown["id"] == f"sha256-{raw_sha256(packed)}"
    assert shown["origins"][0]["proof"] == "unverified"
    assert shown["image"]["dialect"] == "ubuntu"
    for what in (shown["id"], shown["disk_sha256"][:12]):
        text = bramble("base", "show", what)
        assert "first boot: ubuntu" in text.stdout, text.stderr
    asked = bramble("base", "remove", "ubuntu-24.04")
    assert asked.returncode == 2
    assert bramble.cache.joinpath("bases", shown["id"]).is_dir()
    removed = bramble("base", "remove", "ubuntu-24.04", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert not any(bramble.cache.glob("bases/*"))
    assert not any(bramble.cache.glob("base-origins/*"))
    gone = bramble("base", "show", "ubuntu-24.04")
    assert gone.returncode == 1
    assert "no base 'ubuntu-24.04' is in the cache" in gone.stderr


def test_url_and_file_of_one_image_share_it(bramble: Bramble, site: Site, packed: bytes) -> None:
    site.put("/own.img.xz", packed)
    url = f"{site.url}own.img.xz"
    digest = hashlib.sha256(packed).hexdigest()
    without = bramble("base", "fetch", url)
    assert without.returncode == 2
    assert "needs --sha256" in without.stderr
    odd = bramble("base", "fetch", url, "--sha256", "abc")
    assert odd.returncode == 2
    one = bramble.json("base", "fetch", url, "--sha256", digest.upper())
    file = bramble.work / "own.img.xz"
    file.write_bytes(packed)
    two = bramble.json("base", "fetch", "./own.img.xz")
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert (one["downloaded"], two["downloaded"]) == (True, False)
    assert one["id"] == two["id"]
    assert two["name"] == str(file)
    assert "secret" not in json.dumps(one)
    assert bramble("base", "remove", url, "--yes").returncode == 0
    assert len([*bramble.cache.glob("bases/*")]) == 1  # the file's name for it is still there
    assert bramble("base", "remove", "own.img.xz", "--yes").returncode == 0
    assert not any(bramble.cache.glob("bases/*"))


def test_base_in_use_is_not_removed(bramble: Bramble, packed: bytes) -> None:
    (bramble.work / "own.img.xz").write_bytes(packed)
    found = bramble.json("base", "fetch", "own.img.xz")
    assert isinstance(found, dict)
    user = Store(bramble.cache)
    assert user.find("bases", found["id"]) is not None
    kept = bramble("base", "remove", "own.img.xz", "--yes")
    assert kept.returncode == 1
    assert "in use by another process" in kept.stderr
    assert len([*bramble.cache.glob("base-origins/*")]) == 1
    report = bramble.json("gc", "--unused", "0d")
    assert isinstance(report, dict)
    assert report["busy"] == [f"bases/{found['id']}"]
    del user
    assert bramble("base", "remove", "own.img.xz", "--yes").returncode == 0


def test_gc_keeps_what_the_cluster_needs_and_frees_the_rest(
    bramble: Bramble, site: Site, packed: bytes
) -> None:
    (bramble.work / "own.img.xz").write_bytes(packed)
    kept = bramble.json("base", "fetch", "own.img.xz")
    put_ubuntu(site, packed_disk(bramble.work, "debian"), None)
    words = ("base", "fetch", "ubuntu-24.04", "--mirror", site.url, "--unverified", "ubuntu-24.04")
    other = bramble.json(*words)
    assert isinstance(kept, dict)
    assert isinstance(other, dict)
    assert bramble("init").returncode == 0
    spec = bramble.work / "cluster.yaml"
    text = spec.read_text()
    assert "base: raspios-lite-trixie" in text
    spec.write_text(text.replace("base: raspios-lite-trixie", "base: {path: ./own.img.xz}"))
    leftover = bramble.cache / "tmp/images.dead"
    leftover.mkdir(parents=True, exist_ok=True)
    tried = bramble.json("gc", "--unused", "0d", "--dry-run")
    assert leftover.is_dir()
    done = bramble.json("gc", "--unused", "0d")
    assert isinstance(tried, dict)
    assert isinstance(done, dict)
    assert done["needed"] == [f"bases/{kept['id']}"]
    assert {entry["id"] for entry in done["removed"]} >= {other["id"], "dead"}
    assert {entry["id"] for entry in tried["removed"]} <= {entry["id"] for entry in done["removed"]}
    assert not leftover.exists()
    assert [path.name for path in bramble.cache.glob("bases/*")] == [kept["id"]]
    full = bramble("gc", "--budget", "1k")
    assert full.returncode == 0
    assert "needed by the cluster" in full.stderr
    (bramble.work / "own.img.xz").write_bytes(packed + b"changed")
    spec.write_text(
        text.replace(
            "base: raspios-lite-trixie", f"base: {{path: ./own.img.xz, sha256: {kept['file_sha256']}}}"
        )
    )
    broken = bramble("gc")
    assert broken.returncode == 1
    assert "what this cluster needs cannot be told" in broken.stderr
    assert "--no-cluster" in broken.stderr
    gone = bramble("gc", "--no-cluster", "--budget", "1k", env={"COLUMNS": "200"})
    assert "over the budget" in gone.stdout
    assert not any(bramble.cache.glob("bases/*"))


def test_verify_names_what_is_damaged_and_removes_it_when_told(bramble: Bramble, packed: bytes) -> None:
    (bramble.work / "own.img.xz").write_bytes(packed)
    found = bramble.json("base", "fetch", "own.img.xz")
    assert isinstance(found, dict)
    sound = bramble("store", "verify")
    assert sound.returncode == 0
    assert f"ok  bases/{found['id']}" in sound.stdout
    with Path(found["path"]).open("r+b") as disk:
        disk.seek(3_000_000)
        disk.write(b"flipped")
    damaged = bramble("store", "verify")
    assert damaged.returncode == 1
    assert f"damaged  bases/{found['id']}" in damaged.stdout
    assert "store verify --remove" in damaged.stderr
    assert bramble("store", "verify", "--json").returncode == 1
    removed = bramble("store", "verify", "--remove")
    assert removed.returncode == 0, removed.stdout
    assert not any(bramble.cache.glob("bases/*"))
    listed = bramble.json("store", "list")
    assert isinstance(listed, list)
    assert [item["faulty"] for item in listed] == ["its base is gone"]


def test_odd_sizes_and_times_are_usage_errors(bramble: Bramble) -> None:
    for words in (("--budget", "lots"), ("--unused", "soon"), ("--budget", "-1")):
        assert bramble("gc", *words).returncode == 2
    empty = bramble("gc", env={"BRAMBLE_CACHE_BUDGET": "20G"})
    assert empty.returncode == 0
    assert "0 MB are free again" in empty.stdout
