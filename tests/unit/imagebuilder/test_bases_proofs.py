"""Lists of digests, verdicts over signatures, key files, and the catalogue that pins them. All pure."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.spec.validate.files import BASE_CATALOGUE
from imagebuilder.bases.catalogue import (
    CATALOGUE,
    KEYS_DIR,
    CatalogueError,
    UnknownBase,
    catalogue,
    parse_catalogue,
    release_order,
    require_recipe,
)
from imagebuilder.bases.http import FetchError, check_redirect, check_url, redact
from imagebuilder.bases.meter import Meter
from imagebuilder.bases.openpgp import (
    BadSignature,
    KeyFileError,
    dearmor,
    judge,
    primary_fingerprints,
    read_key_file,
)
from imagebuilder.bases.origins import Origin, Proof, parse_origin
from imagebuilder.bases.sums import SumsError, parse_sums

A, B = "a" * 64, "b" * 64
KEY = "843938DF228D22F7B3742BC0D94AA3F0EFE21092"
OTHER = "C5986B4F1257FFA86632CBA746181433FBB75451"
TEXT = CATALOGUE.read_text(encoding="utf-8")


def test_list_is_read_in_every_form() -> None:
    data = f"\ufeff# comment\r\n{A}  one.img\r\n{B.upper()} *dir/two.img\r\n\r\nSHA256 (three) = {A}\r\n"
    sums = parse_sums(data.encode(), "SHA256SUMS")
    assert sums.by_name == {"one.img": A, "two.img": B, "three": A}
    assert parse_sums(f"{A}\n".encode(), "x").require("anything") == A


def test_list_names_everything_that_is_wrong_with_it() -> None:
    data = f"{A}  one\n{B}  one\n{A[:40]}  two\n{A[:63]}  three\nnot a line\n"
    with pytest.raises(SumsError) as caught:
        parse_sums(data.encode(), "SUMS")
    assert [line.partition(": ")[2] for line in caught.value.message.splitlines()] == [
        "line 2: 'one' is listed a second time with another digest",
        "line 3: aaaaaaaaaaaaaaaa… is a SHA-1 digest, expected SHA-256",
        "line 4: aaaaaaaaaaaaaaaa… has 63 hex digits, a SHA-256 digest has 64",
        "line 5: 'not a line' is not a digest and a file name",
    ]


@pytest.mark.parametrize("data", [b"", b"\n\n", f"{A}\n{B}\n".encode(), f"{A}\n{B}  name\n".encode()])
def test_list_that_says_nothing_definite_is_an_error(data: bytes) -> None:
    with pytest.raises(SumsError):
        parse_sums(data, "SUMS")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_an_error(data: bytes) -> None:
    try:
        sums = parse_sums(data, "SUMS")
    except SumsError:
        return
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in sums.by_name.values())


def status(*lines: str) -> str:
    return "".join(f"[GNUPG:] {line}\n" for line in lines)


def valid(fingerprint: str, primary: str) -> str:
    return f"VALIDSIG {fingerprint} 2026-01-01 1767225600 0 4 0 1 10 00 {primary}"


def test_good_signature_of_a_pinned_key_counts_also_by_its_subkey() -> None:
    good = status("NEWSIG", "GOODSIG D94AA3F0EFE21092 Name", valid("F" * 40, KEY))
    assert judge(good, [KEY], "SUMS").fingerprint == KEY
    unknown_first = status("NEWSIG", "ERRSIG 46181433FBB75451 17 10 00 1 9 -", "NO_PUBKEY 46181433FBB75451")
    assert judge(unknown_first + good, [KEY], "SUMS").fingerprint == KEY


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param((), "there is no signature", id="none"),
        pytest.param(("NEWSIG", "BADSIG 1234 Name"), "does not fit the file", id="bad"),
        pytest.param(("NEWSIG", "EXPKEYSIG 1234 Name", valid(KEY, KEY)), "has expired", id="expired key"),
        pytest.param(("NEWSIG", "REVKEYSIG 1234 Name", valid(KEY, KEY)), "was revoked", id="revoked key"),
        pytest.param(("NEWSIG", "EXPSIG 1234 Name", valid(KEY, KEY)), "signature by key 1234", id="expired"),
        pytest.param(("NEWSIG", "ERRSIG 1234 1 8 00 1 9"), "not among the publisher's", id="unknown key"),
        pytest.param(("NEWSIG", "GOODSIG 1 N", valid(OTHER, OTHER)), "not one of the pub", id="other"),
        pytest.param((valid(KEY, KEY),), "there is no signature", id="valid without good"),
        pytest.param(
            ("NEWSIG", "GOODSIG 1 N", valid(OTHER, OTHER), "NEWSIG", "EXPKEYSIG 2 N", valid(KEY, KEY)),
            "has expired",
            id="good by another, expired by ours",
        ),
        pytest.param(
            ("NEWSIG", "GOODSIG 1 N", valid(KEY, KEY)[:-40] + OTHER), OTHER, id="our key as their subkey"
        ),
    ],
)
def test_everything_else_is_refused_with_the_reason(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadSignature, match=re.escape(message)):
        judge(status(*lines), [KEY], "SUMS")


def test_words_of_a_user_id_cannot_pass_for_a_verdict() -> None:
    forged = status(
        "NEWSIG", f"ERRSIG 1234 1 8 00 1 9 {valid(KEY, KEY)}", f"BADARMOR GOODSIG {valid(KEY, KEY)}"
    )
    with pytest.raises(BadSignature):
        judge(forged, [KEY], "SUMS")


def test_shipped_keys_are_the_pinned_ones() -> None:
    publishers = {image.publisher.name: image.publisher for image in catalogue().stock.values()}
    named = {name for publisher in publishers.values() for name in publisher.key_files}
    assert named == {path.name for path in KEYS_DIR.iterdir()}
    for publisher in publishers.values():
        for name in publisher.key_files:
            assert set(primary_fingerprints(read_key_file(KEYS_DIR / name))) <= set(publisher.keys)


def armour(data: bytes, checksum: bytes | None = None) -> bytes:
    lines = [b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"Comment: x", b""]
    lines += [base64.b64encode(data[at : at + 48]) for at in range(0, len(data), 48)]
    lines += [b"=" + base64.b64encode(checksum)] if checksum else []
    return b"\r\n".join([*lines, b"-----END PGP PUBLIC KEY BLOCK-----", b""])


def test_armour_is_undone_and_checked() -> None:
    binary = (KEYS_DIR / "ubuntu-cdimage-2012.gpg").read_bytes()
    assert dearmor(binary) == binary
    assert dearmor(b"Read me first\n" + armour(binary) + armour(binary)) == binary * 2
    with pytest.raises(KeyFileError, match="checksum"):
        dearmor(armour(binary, b"\0\0\0"))
    with pytest.raises(KeyFileError, match="damaged"):
        dearmor(armour(binary).replace(b"mQ", b"m*", 1))


@given(st.binary(max_size=200))
def test_any_bytes_hold_some_keys_or_none(data: bytes) -> None:
    assert all(re.fullmatch("[0-9A-F]{40}", found) for found in primary_fingerprints(data))


def test_file_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a key")
    with pytest.raises(KeyFileError, match="no OpenPGP public keys"):
        read_key_file(tmp_path / "text")
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_key_file(tmp_path)


def test_catalogue_knows_the_bases_of_the_documentation() -> None:
    known = catalogue()
    assert known.names == [
        *("debian-trixie", "raspios-lite-bookworm", "raspios-lite-trixie"),
        *("ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04"),
    ]
    assert list(BASE_CATALOGUE) == known.names, "what cluster.yaml may name"
    for file, name, release in (
        ("2025-12-04-raspios-trixie-arm64-lite.img.xz", "raspios-lite-trixie", "2025-12-04"),
        ("2026-04-13-raspios-bookworm-arm64-lite.img.xz", "raspios-lite-bookworm", "2026-04-13"),
        ("ubuntu-24.04.4-preinstalled-server-arm64+raspi.img.xz", "ubuntu-24.04", "24.04.4"),
        ("ubuntu-26.04-preinstalled-server-arm64+raspi.img.xz", "ubuntu-26.04", "26.04"),
        ("ubuntu-22.04.5-preinstalled-server-arm64+raspi.img.xz", "ubuntu-22.04", "22.04.5"),
    ):
        assert {
            base: image.release_of(file) for base, image in known.stock.items() if image.release_of(file)
        } == {name: release}
    for other in (
        "2025-12-04-raspios-trixie-arm64.img.xz",
        "2025-12-04-raspios-trixie-armhf-lite.img.xz",
        "ubuntu-24.04.4-preinstalled-desktop-arm64+raspi.img.xz",
        "ubuntu-24.04.4-preinstalled-server-armhf+raspi.img.xz",
        "ubuntu-24.04.4-preinstalled-server-arm64+raspi.img.xz.zsync",
    ):
        assert not any(image.release_of(other) for image in known.stock.values())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("version = 1", "version = 2", "version is 2, expected 1"),
        ("version = 1", "version = ", "not TOML"),
        ('locate = "sums"', 'locate = "guess"', "'guess' is not one of sums, releases"),
        ('publisher = "ubuntu"', 'publisher = "nobody"', "'nobody' is not described"),
        ("max_disk_mib = 16384", "", "max_disk_mib: missing"),
        ("max_disk_mib = 16384", "max_disk_mb = 1", "max_disk_mb: unknown key"),
        (r"(?P<release>26\.04(\.\d+)?)", "26", "no group named 'release'"),
        (r"(?P<release>26\.04(\.\d+)?)", "(?P<release>[)", "not a regular expression"),
        (f'keys = ["{KEY}"]', 'keys = ["8439"]', "'8439' is not a fingerprint"),
        (f'keys = ["{KEY}"]', "keys = []", "nobody signs"),
        ('"https://cdimage.ubuntu.com/"', '"http://cdimage.ubuntu.com"', "not an https URL"),
        ('recipes = ["debian-trixie"]', 'recipes = ["debian-sid"]', "'debian-sid' is not one of"),
        ('latest = "raspios_lite_arm64_latest"', "", "needs `latest`"),
    ],
)
def test_catalogue_that_is_not_understood_is_refused(before: str, after: str, message: str) -> None:
    assert before in TEXT
    with pytest.raises(CatalogueError, match=re.escape(message)):
        parse_catalogue(TEXT.replace(before, after))


def test_releases_sort_by_their_numbers() -> None:
    assert sorted(["24.04.10", "24.04", "24.04.9", ""], key=release_order) == [
        "",
        "24.04",
        "24.04.9",
        "24.04.10",
    ]
    assert max(["2025-12-04", "2026-01-31", "2025-05-13"], key=release_order) == "2026-01-31"


def test_recipe_of_a_stock_image_says_what_to_type() -> None:
    with pytest.raises(UnknownBase) as caught:
        require_recipe("ubuntu-24.04")
    assert caught.value.hint == "Type: bramble base fetch ubuntu-24.04"
    with pytest.raises(UnknownBase, match=r"'ubuntu-24\.4'") as caught:
        require_recipe("ubuntu-24.4")
    assert "'ubuntu-24.04'?" in caught.value.hint


def test_redirects_never_leave_https_for_http_nor_the_web() -> None:
    assert check_redirect("https://a/x", "https://b/y") == "https://b/y"
    assert check_redirect("http://a/x", "https://b/y") == "https://b/y"
    assert check_redirect("http://a/x", "http://b/y") == "http://b/y"
    for source, target in (
        ("https://a/x", "http://a/x"),
        ("http://a/x", "file:///etc/passwd"),
        ("https://a/x", "ftp://b/y"),
        ("http://a/x", "http:///y"),
    ):
        with pytest.raises(FetchError):
            check_redirect(source, target)


def test_passwords_do_not_reach_messages() -> None:
    assert redact("https://user:secret@host:8443/p/f.img?token=secret#x") == "https://host:8443/p/f.img"
    with pytest.raises(FetchError) as caught:
        check_url("ftp://user:secret@host/f")
    assert "secret" not in str(caught.value)


def test_rate_is_that_of_the_last_seconds_and_resumed_bytes_are_no_speed() -> None:
    meter = Meter("downloading x", 0.0)
    assert meter.at(500_000_000, 600_000_000, 0.1).rate is None
    step = meter.at(510_000_000, 600_000_000, 1.0)
    assert step.rate == pytest.approx(10_000_000)
    assert step.left_s == pytest.approx(9.0)
    assert step.share == pytest.approx(0.85)
    assert str(step) == "downloading x: 510 of 600 MB, 10.0 MB/s, 0:09 left"
    for second in range(2, 30):
        step = meter.at(510_000_000 + (second - 1) * 1_000_000, 600_000_000, float(second))
    assert step.rate == pytest.approx(1_000_000)
    assert str(Meter("x", 0.0).at(5_000_000, None, 0.0)) == "x: 5 MB"


def test_origin_survives_a_round_trip() -> None:
    origin = Origin(
        name="ubuntu-24.04",
        release="24.04.4",
        source="https://x/y.img.xz",
        file_sha256=A,
        file_bytes=5,
        base_id=f"sha256-{B}",
        proof=Proof.SIGNATURE,
        evidence="signed",
        fetched_at="2026-11-25T00:00:00+00:00",
    )
    assert parse_origin(origin.render()) == origin
    for text in ("{}", "[]", "{", origin.render().replace("signature", "hearsay", 1)):
        with pytest.raises((ValueError, TypeError, KeyError)):
            parse_origin(text)
