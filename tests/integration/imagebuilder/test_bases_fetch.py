"""Stock images from a site on loopback: found, proven, unpacked, kept, found again without the site."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
from image_site import SigningKey, Site, end_agent, make_key
from stock_sites import (
    RASPIOS,
    UBUNTU,
    packed_disk,
    put_raspios,
    put_ubuntu,
    raw_sha256,
    stock_image,
)

from fleet.spec.model import CatalogueBase, FileBase, UrlBase
from imagebuilder.bases.fetch import (
    Fetched,
    UnverifiedBase,
    WrongDigest,
    fetch_image,
    fetch_url,
    import_file,
)
from imagebuilder.bases.http import FetchError, Http
from imagebuilder.bases.locate import NotFound
from imagebuilder.bases.meter import FetchProgress
from imagebuilder.bases.openpgp import BadSignature, KeyFileError
from imagebuilder.bases.origins import Proof
from imagebuilder.bases.resolve import BaseMissing, find_base, find_declared, require_declared
from imagebuilder.errors import ImageBuilderError, NotUnderstood
from imagebuilder.store import Store

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def client() -> Http:
    return Http(wait=lambda seconds: None)


def key_file(tmp_path: Path, key: SigningKey) -> Path:
    path = tmp_path / "publisher.asc"
    path.write_bytes(key.armoured)
    return path


def fetch_ubuntu(
    site: Site, store: Store, key: SigningKey, *files: Path, unverified: bool = False
) -> Fetched:
    image = stock_image(UBUNTU, key.fingerprint)
    return fetch_image(
        image, store=store, mirror=site.url, key_files=files, unverified=unverified, http=client()
    )


def fetch_raspios(
    site: Site, store: Store, key: SigningKey, *files: Path, unverified: bool = False
) -> Fetched:
    image = stock_image(RASPIOS, key.fingerprint)
    return fetch_image(
        image, store=store, mirror=site.url, key_files=files, unverified=unverified, http=client()
    )


def is_clean(store: Store) -> bool:
    """Nothing half-made is in the store."""
    return not [*store.root.glob("tmp/*"), *store.root.glob("downloads/*")]


def test_signed_list_proves_an_ubuntu_image(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    put_ubuntu(site, packed, key, "24.04")
    path = put_ubuntu(site, packed + b"", key, "24.04.4")
    seen: list[FetchProgress] = []
    image = stock_image(UBUNTU, key.fingerprint)
    fetched = fetch_image(
        image,
        store=store,
        mirror=site.url,
        key_files=[key_file(tmp_path, key)],
        on_progress=seen.append,
        http=client(),
    )
    assert fetched.downloaded
    assert fetched.origin.release == "24.04.4"
    assert fetched.origin.proof is Proof.SIGNATURE
    assert key.fingerprint in fetched.origin.evidence
    base = fetched.base
    assert base.id == f"sha256-{raw_sha256(packed)}" == f"sha256-{base.info.disk_sha256}"
    assert hashlib.sha256(base.disk.read_bytes()).hexdigest() == base.info.disk_sha256
    assert base.disk.stat().st_blocks * 512 < base.disk.stat().st_size / 2
    assert base.info.name == UBUNTU
    assert base.info.packages == {"libc6": "2.41"}
    assert site.bodies_sent(path) == 1
    assert {step.phase.split()[0] for step in seen} == {"downloading", "verifying", "unpacking"}
    assert is_clean(store)


def test_detached_signature_proves_a_raspberry_pi_image(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    put_raspios(site, packed, key, published="2025-12-05", built="2025-12-04")
    fetched = fetch_raspios(site, store, key, key_file(tmp_path, key))
    assert fetched.origin.release == "2025-12-04"
    assert fetched.origin.proof is Proof.SIGNATURE
    assert fetched.origin.evidence.endswith(f".sig by {key.fingerprint}")


def test_base_is_found_by_name_without_the_site(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    path = put_raspios(site, packed, key)
    fetched = fetch_raspios(site, store, key, key_file(tmp_path, key))
    again = fetch_raspios(site, store, key, key_file(tmp_path, key))
    assert not again.downloaded
    assert again.base == fetched.base
    assert site.bodies_sent(path) == 1
    site.pages.clear()
    assert find_base(RASPIOS, Store(store.root)) == fetched.base
    assert find_declared(CatalogueBase(RASPIOS), store) == fetched.base
    file_sha256 = hashlib.sha256(packed).hexdigest()
    by_digest = find_declared(UrlBase("https://gone.example.org/x.img.xz", file_sha256), store)
    assert by_digest is not None
    assert by_digest.id == fetched.base.id


def test_newest_release_wins_and_the_older_one_stays(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    file = key_file(tmp_path, key)
    put_ubuntu(site, packed, key, "24.04.9")
    fetch_ubuntu(site, store, key, file)
    newer = packed_disk(tmp_path, "ubuntu")
    put_ubuntu(site, newer, key, "24.04.10")
    fetched = fetch_ubuntu(site, store, key, file)
    assert fetched.origin.release == "24.04.10"
    found = find_base(UBUNTU, store)
    assert found is not None
    assert found.id == fetched.base.id
    assert len(store.entries("bases")) == 2


def test_mirror_without_the_redirect_is_searched_by_its_folders(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    put_raspios(site, b"old", key, published="2025-05-13", built="2025-05-13", latest=False)
    put_raspios(site, packed, key, published="2025-12-05", built="2025-12-04", latest=False)
    site.put("/raspios_lite_arm64/images/raspios_lite_arm64-2026-01-01/partial", b"still copying")
    fetched = fetch_raspios(site, store, key, key_file(tmp_path, key))
    assert fetched.origin.release == "2025-12-04"


def test_latest_of_another_debian_is_not_taken_for_ours(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    put_raspios(site, packed, key, "2026-12-01", "2026-12-01", suite="forky")
    with pytest.raises(
        NotFound, match=r"no file of raspios-lite-trixie .*newest there is 2026-12-01-raspios-forky"
    ):
        fetch_raspios(site, store, key, key_file(tmp_path, key))
    put_raspios(site, packed, key, "2026-11-01", "2026-11-01", latest=False)
    assert fetch_raspios(site, store, key, key_file(tmp_path, key)).origin.release == "2026-11-01"


def test_key_is_taken_from_its_site_when_the_fingerprint_is_the_pinned_one(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    put_raspios(site, packed, key)
    stranger = make_key(tmp_path / "g", "stranger")
    site.put("/wrong.asc", stranger.armoured)
    site.put("/right.asc", key.armoured)
    end_agent(tmp_path / "g")
    urls = (f"{site.url}gone.asc", f"{site.url}wrong.asc", f"{site.url}right.asc")
    image = stock_image(RASPIOS, key.fingerprint, key_urls=urls)
    fetched = fetch_image(image, store=store, mirror=site.url, http=client())
    assert fetched.origin.proof is Proof.SIGNATURE


def test_without_a_key_nothing_is_downloaded_until_the_base_is_named(
    site: Site, store: Store, key: SigningKey, packed: bytes
) -> None:
    path = put_ubuntu(site, packed, key)
    with pytest.raises(UnverifiedBase) as caught:
        fetch_ubuntu(site, store, key)
    assert key.fingerprint in caught.value.message
    assert f"--unverified {UBUNTU}" in caught.value.hint
    assert "--key FILE" in caught.value.hint
    assert site.bodies_sent(path) == 0
    assert store.entries("bases") == []
    fetched = fetch_ubuntu(site, store, key, unverified=True)
    assert fetched.origin.proof is Proof.NONE
    assert "was not found" in fetched.origin.evidence


def test_proof_that_comes_later_replaces_the_unverified_record(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    path = put_ubuntu(site, packed, key)
    fetch_ubuntu(site, store, key, unverified=True)
    fetched = fetch_ubuntu(site, store, key, key_file(tmp_path, key))
    assert not fetched.downloaded
    assert fetched.origin.proof is Proof.SIGNATURE
    assert site.bodies_sent(path) == 1
    assert len(store.entries("base-origins")) == 1


def test_unsigned_sidecar_does_not_vouch_for_what_came_in_unverified(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    path = put_raspios(site, packed, key)
    fetch_raspios(site, store, key, unverified=True)
    before = site.bodies_sent(path)
    fetched = fetch_raspios(site, store, key, key_file(tmp_path, key))
    assert fetched.origin.proof is Proof.SIGNATURE
    assert site.bodies_sent(path) == before + 1  # downloaded, to check it


def test_missing_signature_files_are_named(site: Site, store: Store, key: SigningKey, packed: bytes) -> None:
    put_ubuntu(site, packed, None)
    put_raspios(site, packed, None)
    with pytest.raises(UnverifiedBase, match=r"no SHA256SUMS\.gpg"):
        fetch_ubuntu(site, store, key)
    with pytest.raises(UnverifiedBase, match=r"no signature .*\.img\.xz\.sig"):
        fetch_raspios(site, store, key)


def test_wrong_signatures_are_refused_even_when_unverified_is_allowed(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    file = key_file(tmp_path, key)
    path = put_ubuntu(site, packed, key)
    folder = path.rpartition("/")[0]
    site.pages[f"{folder}/SHA256SUMS"].body += b"\n"
    with pytest.raises(BadSignature, match="does not fit"):
        fetch_ubuntu(site, store, key, file, unverified=True)
    path = put_raspios(site, packed, key)
    site.pages[f"{path}.sig"].body = key.sign(b"another file")
    with pytest.raises(BadSignature, match=r"raspios-trixie.*does not fit"):
        fetch_raspios(site, store, key, file, unverified=True)
    site.pages[f"{path}.sig"].body = b"no signature at all"
    with pytest.raises(BadSignature, match="no signature in"):
        fetch_raspios(site, store, key, file)
    assert store.entries("bases") == []


def test_signature_by_a_key_that_is_not_pinned_is_refused(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    stranger = make_key(tmp_path / "g", "stranger")
    put_ubuntu(site, packed, stranger)
    both = tmp_path / "both.gpg"
    both.write_bytes(key.public + stranger.public)
    end_agent(tmp_path / "g")
    with pytest.raises(BadSignature, match=f"{stranger.fingerprint}, which is not one of"):
        fetch_ubuntu(site, store, key, both)
    with pytest.raises(BadSignature, match="not among the publisher's"):
        fetch_ubuntu(site, store, key, key_file(tmp_path, key))
    only_stranger = tmp_path / "stranger.gpg"
    only_stranger.write_bytes(both.read_bytes().removeprefix(key.public))
    with pytest.raises(KeyFileError, match=f"{stranger.fingerprint}, none of which signs for Test"):
        fetch_ubuntu(site, store, key, only_stranger)


def test_expired_key_is_refused(site: Site, store: Store, packed: bytes, tmp_path: Path) -> None:
    old = make_key(tmp_path / "g", "old", created="20200101T000000", expires="20200201T000000")
    path = put_ubuntu(site, packed, None)
    sums = site.pages[f"{path.rpartition('/')[0]}/SHA256SUMS"].body
    words = ["--faked-system-time", "20200110T000000", "--local-user", old.fingerprint, "--detach-sign"]
    site.put(f"{path.rpartition('/')[0]}/SHA256SUMS.gpg", old._gpg(*words, data=sums))
    file = key_file(tmp_path, old)
    end_agent(tmp_path / "g")
    with pytest.raises(BadSignature, match="has expired"):
        fetch_ubuntu(site, store, old, file)


def test_file_that_is_not_the_listed_one_is_refused_and_forgotten(
    site: Site, store: Store, key: SigningKey, packed: bytes, tmp_path: Path
) -> None:
    path = put_ubuntu(site, packed, key)
    site.pages[path].body = packed[:-8] + b"tampered"
    with pytest.raises(WrongDigest, match=r"ubuntu-24\.04\.4.*expected"):
        fetch_ubuntu(site, store, key, key_file(tmp_path, key))
    assert store.entries("bases") == []
    site.pages[path].body = packed
    assert fetch_ubuntu(site, store, key, key_file(tmp_path, key)).downloaded


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        pytest.param("{digest} *{name}\r\n", None, id="binary mark and CRLF"),
        pytest.param("\ufeff{upper}  ./{name}\n", None, id="BOM, upper case, folder"),
        pytest.param("SHA256 ({name}) = {digest}\n", None, id="BSD"),
        pytest.param("{digest}\n", None, id="bare"),
        pytest.param("{digest}  {name}\n{digest}  {name}\n", None, id="listed twice, the same"),
        pytest.param("{digest}  {name}\n{other}  {name}\n", "a second time with another", id="listed twice"),
        pytest.param("{digest}  other.img.xz\n", "no digest of '2025.*it lists other", id="missing entry"),
        pytest.param("{raw}  {name}\n", "digest of the unpacked image", id="digest of the raw image"),
        pytest.param("{other}  {name}\n", "expected 2222", id="wrong"),
        pytest.param("<html>not here</html>\n", "is not a digest", id="error page"),
        pytest.param("d41d8cd98f00b204e9800998ecf8427e  {name}\n", "an MD5|a MD5", id="md5"),
    ],
)
def test_sidecars_of_every_form(
    site: Site,
    store: Store,
    key: SigningKey,
    packed: bytes,
    tmp_path: Path,
    sidecar: str,
    message: str | None,
) -> None:
    path = put_raspios(site, packed, key)
    digest = hashlib.sha256(packed).hexdigest()
    text = sidecar.format(
        digest=digest,
        upper=digest.upper(),
        name=path.rpartition("/")[2],
        other="2" * 64,
        raw=raw_sha256(packed),
    )
    site.pages[f"{path}.sha256"].body = text.encode()
    if message is None:
        assert fetch_raspios(site, store, key, key_file(tmp_path, key)).origin.file_sha256 == digest
    else:
        with pytest.raises(ImageBuilderError) as caught:
            fetch_raspios(site, store, key, key_file(tmp_path, key))
        assert re.search(message, str(caught.value))
        assert store.entries("bases") == []


def test_own_url_is_proven_by_the_digest_that_the_user_gave(site: Site, store: Store, packed: bytes) -> None:
    site.put("/own.img.xz", packed)
    url = f"{site.url.replace('//', '//user:secret@')}own.img.xz"
    digest = hashlib.sha256(packed).hexdigest()
    fetched = fetch_url(url, digest, store=store, http=client())
    assert fetched.origin.proof is Proof.DIGEST
    assert "secret" not in fetched.origin.render()
    with pytest.raises(WrongDigest, match="expected 3333"):
        fetch_url(url, "3" * 64, store=store, http=client())
    with pytest.raises(WrongDigest, match=f"digest of the unpacked image.*sha256: {digest}") as caught:
        fetch_url(url, raw_sha256(packed), store=store, http=client())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x.img", "https:///x.img", "data:,x"])
def test_other_schemes_are_refused(store: Store, url: str) -> None:
    with pytest.raises(FetchError, match="not an http or https URL"):
        fetch_url(url, "3" * 64, store=store, http=client())


def test_own_file_is_taken_into_the_store_by_a_build(store: Store, packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.img.xz"
    path.write_bytes(packed)
    assert find_declared(FileBase(path, None), store) is None
    base = require_declared(FileBase(path, None), store)
    assert base.id == f"sha256-{raw_sha256(packed)}"
    assert find_declared(FileBase(path, hashlib.sha256(packed).hexdigest()), store) == base
    with pytest.raises(WrongDigest):
        find_declared(FileBase(path, "4" * 64), store)
    raw = tmp_path / "raw.img"
    raw.write_bytes(base.disk.read_bytes())
    imported = import_file(raw, None, store=store)
    assert imported.base.id == base.id
    assert imported.origin.proof is Proof.LOCAL
    assert len(store.entries("bases")) == 1


def test_paths_that_are_no_files_are_refused(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path, "a directory"),
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/null"), "a device"),
        (tmp_path / "gone.img", "No such file"),
    ):
        with pytest.raises(ImageBuilderError, match=what):
            find_declared(FileBase(path, None), store)


def test_image_that_is_not_understood_is_named_and_not_kept(store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * 2**20)
    with pytest.raises(NotUnderstood):
        import_file(other, None, store=store)
    text = tmp_path / "page.img.xz"
    text.write_bytes(b"<html>login</html>")
    with pytest.raises(ImageBuilderError, match=r"page\.img\.xz: it is HTML"):
        import_file(text, None, store=store)
    assert store.entries("bases") == []
    assert is_clean(store)


def test_missing_bases_say_what_to_type(store: Store) -> None:
    for declared, command in (
        (CatalogueBase("debian-trixie"), "bramble base build debian-trixie"),
        (CatalogueBase("ubuntu-22.04"), "bramble base fetch ubuntu-22.04"),
        (
            UrlBase("https://x.org/i.img", "5" * 64),
            f"bramble base fetch https://x.org/i.img --sha256 {'5' * 64}",
        ),
    ):
        with pytest.raises(BaseMissing) as caught:
            require_declared(declared, store)
        assert command in caught.value.hint
