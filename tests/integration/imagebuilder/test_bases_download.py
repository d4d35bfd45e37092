"""One large file from a site that drops, lies, redirects, changes its mind and comes back."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_image import VERSION, make_release
from image_site import Site, image_site

from imagebuilder.bases.containers import DamagedArchive
from imagebuilder.bases.download import ATTEMPTS, JOURNAL_NAME, PART_NAME, content_range, download
from imagebuilder.bases.fetch import WrongDigest, fetch_url
from imagebuilder.bases.http import SMALL_WAIT_S, FetchError, Http, TransientError
from imagebuilder.errors import NoSpace
from imagebuilder.k3s_release import K3sReleaseError, fetch_release
from imagebuilder.store import DOWNLOADS, Store

pytestmark = pytest.mark.integration

BODY = random.Random(3).randbytes(5_000_000)
LIMIT = 1 << 24


@pytest.fixture
def site() -> Iterator[Site]:
    with image_site() as found:
        found.put("/disk.img.xz", BODY)
        yield found


class Client(Http):
    """Waits without time passing, and remembers for how long."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        super().__init__(wait=self.waits.append)


def get(
    site: Site, directory: Path, *, path: str = "disk.img.xz", known: bool = True, limit: int = LIMIT
) -> bytes:
    seen: list[tuple[int, int | None]] = []
    with Client() as http:
        file = download(
            http,
            site.url + path,
            directory,
            same_bytes_anywhere=known,
            limit_bytes=limit,
            on_progress=lambda done, total: seen.append((done, total)),
        )
    assert not (directory / PART_NAME).exists()
    assert not (directory / JOURNAL_NAME).exists()
    assert not seen or seen[-1][0] == file.stat().st_size
    return file.read_bytes()


def ranges(site: Site) -> list[str | None]:
    return [wanted for _, wanted, _ in site.seen]


def test_broken_connection_goes_on_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.pages["/disk.img.xz"].drop_after = [1_500_000, 0, 1_000_000]
    assert get(site, tmp_path) == BODY
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in ranges(site)[1:] if wanted]
    assert len(starts) == 3
    assert 0 < starts[0] == starts[1] < starts[2]


def test_k3s_release_goes_on_where_its_download_broke(site: Site, tmp_path: Path) -> None:
    published = make_release(tmp_path / "published", simulator=False)
    for file in published.iterdir():
        site.put(f"/k3s/{file.name}", file.read_bytes())
    site.pages["/k3s/sha256sum-arm64.txt"].fail = [503]
    site.pages["/k3s/k3s-arm64"].drop_after = [50_000] + [0] * ATTEMPTS
    store = Store(tmp_path / "store")
    with pytest.raises(K3sReleaseError, match=r"k3s/k3s-arm64: cannot be downloaded: .*tried"):
        fetch_release(f"{site.url}k3s", VERSION, airgap=True, store=store, http=Client())
    assert store.entries("k3s") == []
    site.pages["/k3s/k3s-arm64"].drop_after.clear()
    found = fetch_release(f"{site.url}k3s", VERSION, airgap=True, store=store, http=Client())
    assert site.seen[-2][:2] == ("/k3s/k3s-arm64", "bytes=50000-")
    for file in found.iterdir():
        assert file.read_bytes() == (published / file.name).read_bytes()
    assert list((store.root / DOWNLOADS).iterdir()) == []


def test_progress_resets_the_patience_and_no_progress_ends_it(site: Site, tmp_path: Path) -> None:
    page = site.pages["/disk.img.xz"]
    page.drop_after = [300_000] * (ATTEMPTS + 5)
    assert get(site, tmp_path / "a") == BODY
    page.drop_after = [2_000_000, *[0] * ATTEMPTS]
    with pytest.raises(FetchError, match=f"tried {ATTEMPTS} times") as caught:
        get(site, tmp_path / "b")
    assert "What came is kept" in caught.value.hint
    assert (tmp_path / "b" / PART_NAME).stat().st_size > 0
    page.drop_after = []
    before = len(site.seen)
    assert get(site, tmp_path / "b") == BODY
    assert site.seen[before][1] is not None  # the next run goes on, too


def test_file_that_changed_meanwhile_is_begun_again(site: Site, tmp_path: Path) -> None:
    page = site.pages["/disk.img.xz"]
    page.drop_after = [1_500_000]
    other = BODY[::-1]

    def replace() -> None:
        page.body = other
        page.hook = None

    page.hook = replace
    # The answer that is under way keeps the old body's first bytes; the second has another ETag.
    assert get(site, tmp_path, known=False) == other
    assert site.seen[1][2] == 200


def test_part_without_a_validator_is_only_continued_when_the_digest_is_known(
    site: Site, tmp_path: Path
) -> None:
    page = site.pages["/disk.img.xz"]
    page.etag = None
    page.drop_after = [1_500_000]
    assert get(site, tmp_path / "a", known=False) == BODY
    assert ranges(site) == [None, None]
    page.drop_after = [1_500_000]
    assert get(site, tmp_path / "b", known=True) == BODY
    assert ranges(site)[2] is None
    assert ranges(site)[3] is not None


def test_another_mirror_continues_a_file_of_known_digest(site: Site, tmp_path: Path) -> None:
    page = site.pages["/disk.img.xz"]
    page.drop_after = [2_000_000, *[0] * ATTEMPTS]
    with pytest.raises(FetchError):
        get(site, tmp_path)
    with image_site() as mirror:
        mirror.put("/disk.img.xz", BODY).etag = '"another"'
        assert get(mirror, tmp_path) == BODY
        assert ranges(mirror)[0] is not None


def test_server_without_ranges_is_started_over(site: Site, tmp_path: Path) -> None:
    page = site.pages["/disk.img.xz"]
    page.ranges = False
    page.drop_after = [1_500_000]
    assert get(site, tmp_path) == BODY
    assert [status for _, _, status in site.seen] == [200, 200]


def test_complete_part_is_recognised_by_the_416(site: Site, tmp_path: Path) -> None:
    tag = site.pages["/disk.img.xz"].tag
    (tmp_path / PART_NAME).write_bytes(BODY)
    journal = {"url": f"{site.url}disk.img.xz", "validator": tag, "total_bytes": len(BODY)}
    (tmp_path / JOURNAL_NAME).write_text(json.dumps(journal))
    assert get(site, tmp_path) == BODY
    assert [status for _, _, status in site.seen] == [416]
    (tmp_path / "file").unlink()
    (tmp_path / PART_NAME).write_bytes(BODY + b"too much")
    (tmp_path / JOURNAL_NAME).write_text(json.dumps(journal))
    assert get(site, tmp_path) == BODY
    assert [status for _, _, status in site.seen] == [416, 416, 200]


@pytest.mark.parametrize("journal", ["", "{", "[]", '{"url": 1}', '{"a": 1}', "\0\0\0\0"])
def test_damaged_journal_means_starting_over(site: Site, tmp_path: Path, journal: str) -> None:
    (tmp_path / PART_NAME).write_bytes(b"?" * 1000)
    (tmp_path / JOURNAL_NAME).write_text(journal)
    assert get(site, tmp_path) == BODY


@pytest.mark.parametrize("announce", [len(BODY) + 1_000, len(BODY) * 2])
def test_length_that_promises_too_much_is_not_believed(site: Site, tmp_path: Path, announce: int) -> None:
    page = site.pages["/disk.img.xz"]
    page.announce, page.ranges = announce, False
    with pytest.raises(FetchError):
        get(site, tmp_path / "a")
    assert not (tmp_path / "a" / "file").exists()
    page.ranges = True  # asked for the rest, this server says how long the file really is
    assert get(site, tmp_path / "b") == BODY


def test_length_that_promises_too_little_ends_in_a_wrong_digest(site: Site, tmp_path: Path) -> None:
    site.pages["/disk.img.xz"].announce = 1000
    with pytest.raises(WrongDigest, match="expected"):
        fetch_url(
            f"{site.url}disk.img.xz",
            hashlib.sha256(BODY).hexdigest(),
            store=Store(tmp_path / "store"),
            http=Client(),
        )
    assert not list((tmp_path / "store").glob("downloads/*/file*"))


def test_more_than_allowed_is_refused_before_and_while_it_comes(site: Site, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="at most 1000000 bytes"):
        get(site, tmp_path, limit=1_000_000)
    assert (tmp_path / PART_NAME).stat().st_size == 0
    assert len(site.seen) == 1


def test_no_room_is_noticed_before_the_transfer(site: Site, tmp_path: Path) -> None:
    site.pages["/disk.img.xz"].announce = 1 << 59
    with pytest.raises(NoSpace):
        get(site, tmp_path, limit=1 << 62)


def test_wrong_content_range_is_not_written(site: Site, tmp_path: Path) -> None:
    page = site.pages["/disk.img.xz"]
    page.drop_after = [1_500_000]
    page.headers["Content-Range"] = f"bytes 7-{len(BODY) - 1}/{len(BODY)}"
    assert get(site, tmp_path) == BODY
    assert [status for _, _, status in site.seen] == [200, 206, 200]


@pytest.mark.parametrize("number", ["²", "9" * 5000], ids=["superscript", "endless"])
def test_numbers_that_are_none_are_passed_over(site: Site, tmp_path: Path, number: str) -> None:
    site.put("/busy", b"").status = 503
    site.pages["/busy"].headers["Retry-After"] = number
    site.put("/small", b"text").headers["Content-Length"] = number
    with Client() as http:
        with pytest.raises(TransientError):
            http.read(f"{site.url}busy", 100)
        with http.get(f"{site.url}small") as answer:
            assert answer.length is None
        assert http.waits == [SMALL_WAIT_S, 2 * SMALL_WAIT_S]


def test_states_that_pass_are_waited_for_as_the_server_says(site: Site, tmp_path: Path) -> None:
    page = site.pages["/disk.img.xz"]
    page.fail = [503, 429, 500]
    page.headers["Retry-After"] = "7"
    with Client() as http:
        download(
            http,
            f"{site.url}disk.img.xz",
            tmp_path,
            same_bytes_anywhere=True,
            limit_bytes=LIMIT,
            on_progress=lambda done, total: None,
        )
        assert http.waits == [7.0, 7.0, 7.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_states_that_do_not_pass_end_it_at_once(site: Site, tmp_path: Path, status: int) -> None:
    site.pages["/disk.img.xz"].status = status
    with pytest.raises(FetchError, match=str(status)) as caught:
        get(site, tmp_path)
    assert caught.value.status == status
    assert len(site.seen) == 1


def test_redirects_are_followed_and_bounded(site: Site, tmp_path: Path) -> None:
    site.put("/latest", b"").location = "/next"
    site.put("/next", b"").location = f"{site.url}disk.img.xz"
    assert get(site, tmp_path / "a", path="latest") == BODY
    site.put("/loop", b"").location = "/loop"
    with pytest.raises(FetchError, match="more than 8 redirects"):
        get(site, tmp_path / "b", path="loop")
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "http:///x"):
        site.put("/away", b"").location = target
        with pytest.raises(FetchError):
            get(site, tmp_path / "c", path="away")
    assert not (tmp_path / "c" / "file").exists()


def test_encoding_that_the_site_claims_is_not_undone(site: Site, tmp_path: Path) -> None:
    site.pages["/disk.img.xz"].headers["Content-Encoding"] = "gzip"
    assert get(site, tmp_path) == BODY


def test_dead_site_is_named(tmp_path: Path) -> None:
    with image_site() as gone:
        pass
    with pytest.raises(FetchError, match=r"no answer: .*refused"):
        get(gone, tmp_path)


def test_resumed_file_that_is_wrong_is_downloaded_once_more(site: Site, tmp_path: Path) -> None:
    """A part whose last writes were lost with the power has zeros in it."""
    digest = hashlib.sha256(BODY).hexdigest()
    store = Store(tmp_path)
    directory = store.path("downloads", digest)
    directory.mkdir(parents=True)
    (directory / PART_NAME).write_bytes(BODY[:1_000_000] + bytes(500_000))
    journal = {"url": f"{site.url}disk.img.xz", "validator": site.pages["/disk.img.xz"].tag, "total_bytes": 1}
    (directory / JOURNAL_NAME).write_text(json.dumps(journal))
    with pytest.raises(DamagedArchive, match="starts with"):  # its digest is right; it is no image, though
        fetch_url(f"{site.url}disk.img.xz", digest, store=store, http=Client())
    assert [status for _, _, status in site.seen] == [206, 200]
    assert (directory / "file").read_bytes() == BODY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", (0, 10, 10)),
        ("bytes 5-9/*", (5, 10, None)),
        ("bytes */10", (-1, -1, 10)),
        ("bytes 9-5/10", None),
        ("bytes 0-10/10", None),
        ("bits 0-9/10", None),
        (f"bytes 0-9/{'9' * 5000}", None),
        ("bytes 0-9/1²", None),
        ("", None),
    ],
)
def test_content_range_is_parsed(text: str, expected: object) -> None:
    assert content_range(text) == expected
