"""An image written out: every format unpacks to the image, other tools take it, and damage is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from fakes_image import is_same, make_agent, make_base, make_release, make_spec

from fleet.boards import BoardModel
from imagebuilder.build import Image, build_image
from imagebuilder.disk.source import open_source
from imagebuilder.errors import CommandFailed, NotUnderstood, StoreError
from imagebuilder.runner import feed, run
from imagebuilder.seal.bmap_reader import find_damage, load_bmap
from imagebuilder.seal.export import SUMS, Export, Format, export_image
from imagebuilder.seal.provenance import SignatureError, load_public_key
from imagebuilder.seal.verify import VerifyError, verify_exported, verify_stored
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ALL = Export(
    name="attic",
    formats=(Format.IMG, Format.ZST, Format.XZ, Format.BOOT),
    boards=(BoardModel.PI4, BoardModel.PI5),
    key=KEY,
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("outputs")
    store = Store(root / "store")
    make_base(store)
    spec = make_spec(make_release(root / "k3s"), path=root / "cluster.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
        yield build_image(spec, store=store, agent_package=make_agent(root))


@pytest.fixture(scope="module")
def exported(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported") / "attic"
    shares: list[float] = []
    export_image(image, directory, ALL, lambda text, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return directory


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """An exported directory that a test may damage."""
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def test_every_format_unpacks_to_the_image(image: Image, exported: Path, tmp_path: Path) -> None:
    assert is_same(exported / "attic.img", image.disk)
    blocks = (exported / "attic.img").stat().st_blocks * 512
    assert blocks < image.manifest.size_bytes, "it is sparse"
    for name, tool in (("attic.img.zst", "zstd"), ("attic.img.xz", "xz")):
        shutil.copy(exported / name, tmp_path / name)
        run([tool, "-q", "-d", tmp_path / name])
        assert is_same(tmp_path / "attic.img", image.disk)
        (tmp_path / "attic.img").unlink()


def test_the_boot_files_are_those_of_the_image(image: Image, exported: Path) -> None:
    assert is_same(exported / "boot" / "kernel8.img", image.boot_tree / "kernel8.img")
    assert is_same(exported / "installer" / "initramfs", image.installer_initramfs)


def test_sha256sum_accepts_the_sums_and_they_name_every_file(exported: Path) -> None:
    run(["sha256sum", "--check", "--strict", SUMS], cwd=exported)
    named = {line.split("  ", 1)[1] for line in (exported / SUMS).read_text().splitlines()}
    there = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert named == there - {SUMS}


@pytest.mark.parametrize("name", ["attic.img", "attic.img.zst", "attic.img.xz"])
def test_bmaptool_finds_the_map_beside_each_file(
    exported: Path, name: str, tmp_path: Path, image: Image
) -> None:
    run(["bmaptool", "copy", exported / name, tmp_path / "disk.img"])
    assert is_same(tmp_path / "disk.img", image.disk)


def test_a_map_of_bmaptool_is_read_and_finds_damage(exported: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.bmap"
    run(["bmaptool", "create", exported / "attic.img", "-o", theirs])
    found = load_bmap(theirs)
    with open_source(exported / "attic.img") as source:
        assert found.mapped_blocks > 0
        assert list(find_damage(found, source, found.size_bytes)) == []
    damaged = tmp_path / "damaged.img"
    run(["cp", "--sparse=always", exported / "attic.img", damaged])
    with damaged.open("r+b") as file:
        file.seek(found.bytes_of(found.ranges[-1]).start)
        file.write(b"?")
    with open_source(damaged) as source:
        [problem] = find_damage(found, source, found.size_bytes)
    assert "the block map says" in problem


def test_the_os_list_points_at_the_file_and_tells_its_digests(image: Image, exported: Path) -> None:
    [entry] = json.loads((exported / "os_list.json").read_text())["os_list"]
    assert entry["url"] == (exported / "attic.img.xz").as_uri()
    assert entry["extract_size"] == image.manifest.size_bytes
    with image.disk.open("rb") as file:
        assert entry["extract_sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    packed = (exported / "attic.img.xz").read_bytes()
    assert entry["image_download_size"] == len(packed)
    assert entry["image_download_sha256"] == hashlib.sha256(packed).hexdigest()
    assert "(simulator)" in entry["description"]


def test_the_sbom_is_read_from_the_image_and_has_every_input(image: Image, exported: Path) -> None:
    document = json.loads((exported / "sbom.spdx.json").read_text())
    sums = {
        package["name"]: package["checksums"][0]["checksumValue"]
        for package in document["packages"]
        if "checksums" in package
    }
    inputs = {one.name: one.sha256 for one in image.manifest.inputs}
    assert sums == inputs
    assert set(inputs) == {"debian-trixie", "k3s", "bramble-agent", "k3s-airgap-images"}
    names = {package["name"] for package in document["packages"]}
    assert "libc6" in names


def test_an_export_and_an_image_of_the_store_verify(image: Image, exported: Path) -> None:
    assert verify_exported(exported, KEY.public_key()).image_id == image.id
    assert verify_stored(image.root).image_id == image.id


@pytest.mark.parametrize(
    "name", ["attic.img.zst", "attic.bmap", "boot/config.txt", "manifest.json", "sbom.spdx.json"]
)
def test_a_damaged_file_is_named(copied: Path, name: str) -> None:
    path = copied / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.write_bytes(data)
    with pytest.raises((VerifyError, NotUnderstood)) as caught:
        verify_exported(copied)
    assert name in caught.value.message


def test_sums_that_were_rewritten_with_the_file_do_not_help(copied: Path) -> None:
    path = copied / "attic.img.zst"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\0")
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = copied / SUMS
    sums.write_text(sums.read_text().replace(before, after))
    with pytest.raises(VerifyError, match=r"attic\.img\.zst: provenance\.json says"):
        verify_exported(copied)


def test_a_provenance_of_another_key_is_refused(copied: Path, tmp_path: Path) -> None:
    stranger = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    path = tmp_path / "key.pub"
    path.write_bytes(
        stranger.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(SignatureError):
        verify_exported(copied, load_public_key(path))


@pytest.mark.parametrize(
    "line", ["x  /etc/passwd", f"{'0' * 64}  ../escape", f"{'0' * 64}  /etc/passwd", "nonsense"]
)
def test_sums_that_lead_out_of_the_directory_are_refused(copied: Path, line: str) -> None:
    with (copied / SUMS).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(VerifyError, match="is not a digest and a name in this directory"):
        verify_exported(copied)


def test_without_sums_nothing_was_exported(copied: Path) -> None:
    (copied / SUMS).unlink()
    with pytest.raises(NotUnderstood, match="no image was written there, or not completely"):
        verify_exported(copied)


def test_damage_in_the_store_is_named_by_its_bytes(image: Image, tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    run(["cp", "-r", "--sparse=always", image.root, entry])
    chunk = json.loads((entry / "index.json").read_text())["chunks"][2]
    with (entry / "disk.img").open("r+b") as file:
        file.seek(chunk["offset"] + 100)
        byte = file.read(1)
        file.seek(chunk["offset"] + 100)
        file.write(bytes([byte[0] ^ 1]))
        file.seek(image.manifest.size_bytes - 1)
        file.write(b"?")
    with pytest.raises(VerifyError) as caught:
        verify_stored(entry)
    first, last = caught.value.problems
    assert first.startswith(f"disk.img: bytes {chunk['offset']}–")
    assert "there is data" in last
    (entry / "disk.img.zst").write_bytes(b"damaged")
    damaged = replace(image, root=entry)
    with pytest.raises(StoreError, match="the manifest says"):
        export_image(damaged, tmp_path / "out", replace(ALL, formats=(Format.ZST,)))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_again_replaces_the_old_one_and_nothing_else(image: Image, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    plain = replace(ALL, formats=(Format.ZST, Format.BOOT), key=None, url="https://example.org/x/")
    export_image(image, tmp_path, replace(ALL, formats=(Format.BOOT,)))
    (tmp_path / "boot" / "old.txt").write_text("of an older image")
    export_image(image, tmp_path, plain)
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert not (tmp_path / "boot" / "old.txt").exists()
    [entry] = json.loads((tmp_path / "os_list.json").read_text())["os_list"]
    assert entry["url"] == "https://example.org/x/attic.img.zst"
    verify_exported(tmp_path)


@pytest.mark.parametrize(
    "moment", ["reading the image", "copying the compressed image", "copying the boot files"]
)
def test_an_interrupted_export_leaves_the_old_one_whole(image: Image, tmp_path: Path, moment: str) -> None:
    plain = replace(ALL, formats=(Format.ZST, Format.BOOT))
    export_image(image, tmp_path, plain)
    before = sorted(tmp_path.rglob("*"))

    def interrupt(text: str, share: float) -> None:
        if text == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_image(image, tmp_path, plain, interrupt)
    assert sorted(tmp_path.rglob("*")) == before
    verify_exported(tmp_path)


def test_two_exports_give_the_same_bytes(image: Image, exported: Path, tmp_path: Path) -> None:
    export_image(image, tmp_path, ALL)
    for name in ("attic.img.xz", "attic.img.zst", "sbom.spdx.json", "attic.bmap"):
        assert is_same(tmp_path / name, exported / name), name


def test_a_full_disk_leaves_nothing(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("imagebuilder.seal.export.shutil.copyfile", full)
    with pytest.raises(Exception, match="No space left on device"):
        export_image(image, tmp_path / "out", replace(ALL, formats=(Format.ZST,)))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_filter_that_fails_shows_its_words(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="not recognized"):
        feed(["xz", "--decompress", "--stdout"], pieces=[b"no xz", b"more"], stdout=tmp_path / "out")
    feed(["cat"], pieces=(bytes(1 << 20) for _ in range(5)), stdout=tmp_path / "zeros")
    assert (tmp_path / "zeros").stat().st_size == 5 << 20
