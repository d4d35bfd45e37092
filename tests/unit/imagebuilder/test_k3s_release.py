"""A release is used only when every byte of it is the published one."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import zstandard
from fakes_image import VERSION, make_release, make_tar, write_sums

from imagebuilder.digests import DigestCache, hash_file
from imagebuilder.k3s_release import (
    K3sRelease,
    K3sReleaseError,
    ReleaseFile,
    fetch_release,
    find_fetched,
    open_release,
    release_url,
    verify_archive,
    verify_payload,
)
from imagebuilder.manifest import K3sRecord
from imagebuilder.store import Store


def opened(directory: Path, *, airgap: bool = True) -> K3sRelease:
    return open_release(directory, VERSION, airgap=airgap, digests=DigestCache(directory.parent / "digests"))


def test_a_sound_release(tmp_path: Path) -> None:
    release = opened(make_release(tmp_path / "k3s", simulator=False))
    assert not release.simulator
    assert release.airgap is not None
    verify_archive(release.airgap)
    assert opened(tmp_path / "k3s", airgap=False).airgap is None


def test_a_simulator_says_so(tmp_path: Path) -> None:
    assert opened(make_release(tmp_path / "k3s")).simulator
    assert (
        K3sRecord(version=VERSION, simulator=True, airgap_images=None).title == f"k3s {VERSION} (simulator)"
    )


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    directory = make_release(tmp_path / "k3s", simulator=False)
    binary, archive = directory / "k3s-arm64", directory / "k3s-airgap-images-arm64.tar.zst"
    expected = hash_file(binary)
    binary.write_bytes(b"other")
    archive.write_bytes(b"other")
    with pytest.raises(K3sReleaseError) as caught:
        opened(directory)
    assert len(caught.value.problems) == 2
    assert (
        f"k3s-arm64 is damaged: its sha256 is {hash_file(binary)}, sha256sum-arm64.txt says {expected}"
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("machine", "simulator", "fault"),
    [(62, False, "not for arm64 (ELF machine 62"), (183, False, None), (62, True, None)],
    ids=["amd64", "arm64", "simulator"],
)
def test_only_a_simulator_may_be_no_arm64_program(
    tmp_path: Path, machine: int, simulator: bool, fault: str | None
) -> None:
    directory = make_release(tmp_path / "k3s", simulator=simulator, elf_machine=machine)
    if fault is None:
        assert opened(directory).simulator is simulator
    else:
        with pytest.raises(K3sReleaseError) as caught:
            opened(directory)
        assert fault in caught.value.message


def test_missing_files_are_named(tmp_path: Path) -> None:
    directory = make_release(tmp_path / "k3s", airgap=False)
    (directory / "k3s-arm64").unlink()
    (directory / "sha256sum-arm64.txt").unlink()
    with pytest.raises(K3sReleaseError) as caught:
        opened(directory)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "sha256sum-arm64.txt",
        "k3s-arm64",
        "no",
    ]


def test_a_file_that_the_list_does_not_name_is_not_used(tmp_path: Path) -> None:
    directory = make_release(tmp_path / "k3s", airgap=False)
    (directory / "k3s-airgap-images-arm64.tar").write_bytes(make_tar())
    with pytest.raises(K3sReleaseError, match="is not listed"):
        opened(directory)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_other_forms_of_the_archive_are_read_too(tmp_path: Path, suffix: str) -> None:
    directory = make_release(tmp_path / "k3s", airgap=False)
    data = gzip.compress(make_tar()) if suffix else make_tar()
    archive = directory / f"k3s-airgap-images-arm64.tar{suffix}"
    archive.write_bytes(data)
    write_sums(directory)
    release = opened(directory)
    assert release.airgap is not None
    verify_archive(release.airgap)
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(K3sReleaseError, match="does not unpack"):
        verify_archive(release.airgap)


def test_an_unchanged_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"one")
    cache = DigestCache(tmp_path / "digests")
    first = cache.sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr("imagebuilder.digests.hash_file", lambda _: pytest.fail("it was read again"))
        assert DigestCache(tmp_path / "digests").sha256(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert cache.sha256(path) == hash_file(path) != first
    for entry in (tmp_path / "digests").iterdir():
        entry.write_text("torn {")
    assert cache.sha256(path) == hash_file(path)


class Body(io.BytesIO):
    """What urllib3 reads from a connection."""

    def read(self, size: int | None = -1, *, decode_content: bool = False) -> bytes:
        return super().read(size)


class Answers:
    """Stands in for a web server: URL → bytes."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        self.pages = pages
        self.asked: list[str] = []

    def request(self, _method: str, url: str, **_: Any) -> requests.Response:
        self.asked.append(url)
        answer = requests.Response()
        answer.url = url
        answer.status_code = 200 if url in self.pages else 404
        answer.raw = Body(self.pages.get(url, b""))
        return answer


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    directory = make_release(tmp_path / "published")
    pages = Answers({f"https://k3s.invalid/r/{path.name}": path.read_bytes() for path in directory.iterdir()})
    monkeypatch.setattr(
        requests.Session, "request", lambda _session, *args, **rest: pages.request(*args, **rest)
    )
    return pages


def test_a_release_is_downloaded_once_and_checked(tmp_path: Path, answers: Answers) -> None:
    store = Store(tmp_path / "store")
    source = "https://k3s.invalid/r"
    assert find_fetched(source, VERSION, airgap=True, store=store) is None
    directory = fetch_release(source, VERSION, airgap=True, store=store)
    assert find_fetched(source, VERSION, airgap=True, store=store) == directory
    asked = len(answers.asked)
    assert fetch_release(source, VERSION, airgap=True, store=store) == directory
    assert len(answers.asked) == asked
    assert (directory / "k3s-arm64").is_file()


def test_a_damaged_download_is_not_kept(tmp_path: Path, answers: Answers) -> None:
    store = Store(tmp_path / "store")
    answers.pages["https://k3s.invalid/r/k3s-arm64"] += b"!"
    with pytest.raises(K3sReleaseError, match="k3s-arm64 is damaged"):
        fetch_release("https://k3s.invalid/r/", VERSION, airgap=True, store=store)
    assert store.entries("k3s") == []


def test_a_release_that_is_not_there_is_told_with_its_url(tmp_path: Path, answers: Answers) -> None:
    answers.pages.clear()
    with pytest.raises(
        K3sReleaseError, match=r"https://k3s\.invalid/r/sha256sum-arm64\.txt: cannot be downloaded"
    ):
        fetch_release("https://k3s.invalid/r", VERSION, airgap=True, store=Store(tmp_path / "store"))


def test_the_plus_of_a_tag_is_escaped_in_the_upstream_url() -> None:
    assert release_url("upstream", VERSION).endswith("/releases/download/v1.33.5%2Bk3s1/")


def with_binary(directory: Path, content: bytes) -> K3sRelease:
    make_release(directory, simulator=False, airgap=False)
    binary = directory / "k3s-arm64"
    binary.write_bytes(binary.read_bytes() + content)
    write_sums(directory)
    return opened(directory, airgap=False)


@pytest.mark.parametrize(
    "content",
    [b"\0v1.33.5+k3s1\0", b"-X version.Version=v1.33.5+k3s1v1.32.0+k3s1", b"no version at all"],
    ids=["plain", "next to others", "of one's own"],
)
def test_a_binary_of_the_declared_version_is_accepted(tmp_path: Path, content: bytes) -> None:
    verify_payload(with_binary(tmp_path / "k3s", content))


def test_a_binary_of_another_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(K3sReleaseError, match=r"k3s-arm64 is v1\.32\.9\+k3s1, cluster.yaml says v1\.33\.5"):
        verify_payload(with_binary(tmp_path / "k3s", b"\0v1.32.9+k3s1\0"))


@pytest.mark.parametrize("suffix", [".zst", ".gz", ""])
def test_an_archive_cut_at_any_sixteenth_is_found(tmp_path: Path, suffix: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {
        ".zst": zstandard.compress,
        ".gz": gzip.compress,
        "": bytes,
    }
    whole = packers[suffix](make_tar())
    path = tmp_path / f"k3s-airgap-images-arm64.tar{suffix}"
    for sixteenth in range(16):
        path.write_bytes(whole[: len(whole) * sixteenth // 16])
        with pytest.raises(K3sReleaseError):
            verify_archive(ReleaseFile(name=path.name, path=path, sha256="", size_bytes=0))
    path.write_bytes(whole)
    verify_archive(ReleaseFile(name=path.name, path=path, sha256="", size_bytes=0))


def test_a_tar_without_images_is_no_airgap_archive(tmp_path: Path) -> None:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("etc/passwd"))
    path = tmp_path / "k3s-airgap-images-arm64.tar"
    path.write_bytes(body.getvalue())
    with pytest.raises(K3sReleaseError, match=r"neither manifest\.json nor index\.json \(etc/passwd\)"):
        verify_archive(ReleaseFile(name=path.name, path=path, sha256="", size_bytes=0))
