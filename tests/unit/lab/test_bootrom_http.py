"""The HTTP boot mode over the emulation's own TCP, against a model web server on a virtual clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from fakes_boot_server import SERVER_IP, run_boot
from fakes_fat import make_fat
from fakes_http_server import ModelWebServer, answer
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.boards import BoardModel, BootMode, MacAddress, Serial
from lab.bootloader.client import FIRST_PORT, NetworkBoot, NetworkOutcome, make_boot
from lab.bootloader.files import BoardStuckError, BootFiles, ModeFailedError
from lab.bootloader.profile import CM4, PI4_2021, PI4_2023, PI5_2025, BoardIdentity, EepromProfile, Family
from lab.bootloader.settings import EepromSettings
from lab.bootloader.signature import RsaPublicKey, SignatureFileError, parse_signature_file, verify

FILES = {
    "config.txt": b"kernel=kernel8.img\n",
    "start4.elf": b"firmware",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "bcm2711-rpi-4-b.dtb": b"dtb",
    "bcm2711-rpi-cm4.dtb": b"dtb",
    "kernel8.img": bytes(range(256)) * 40,
    "cmdline.txt": b"quiet",
}
IMAGE = make_fat(FILES, 12)
HTTP = EepromSettings(http_host=str(SERVER_IP), http_path="net")


@cache
def _key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _public(key: rsa.RSAPrivateKey) -> RsaPublicKey:
    numbers = key.public_key().public_numbers()
    return RsaPublicKey(numbers.n, numbers.e)


def _sign(image: bytes, key: rsa.RSAPrivateKey) -> bytes:
    signature = key.sign(image, padding.PKCS1v15(), SHA256()).hex()
    return f"{hashlib.sha256(image).hexdigest()}\nts: 1734010524\nrsa2048: {signature}\n".encode()


def _run(
    server: ModelWebServer,
    profile: EepromProfile = PI5_2025,
    chosen: EepromSettings = HTTP,
    *,
    key: RsaPublicKey | None = None,
    copies: Callable[[], int] = lambda: 1,
) -> NetworkOutcome | None:
    model = BoardModel.PI5
    if profile.family is Family.BCM2711:
        model = BoardModel.CM4 if profile.name == "cm4" else BoardModel.PI4
    board = BoardIdentity(
        model=model,
        serial=Serial.parse("10000000d03114aa"),
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        revision=model.revision_codes[-1],
    )
    used = profile.with_settings(chosen)
    boot = make_boot(board, used, BootMode.HTTP, public_key=key or _public(_key()))
    machine = NetworkBoot(board, used, xid=7, first_port=FIRST_PORT, now=0.0, boot=boot)
    if machine.outcome is None:
        run_boot(machine, server, copies)
    return machine.outcome


def _server(**pages: bytes) -> ModelWebServer:
    content = {"boot.sig": _sign(IMAGE, _key()), "boot.img": IMAGE}
    content |= {name.replace("_", "."): data for name, data in pages.items()}
    return ModelWebServer({f"/net/{name}": data for name, data in content.items()})


@pytest.mark.parametrize("profile", [PI4_2023, CM4, PI5_2025], ids=lambda profile: profile.name)
def test_a_signed_image_is_fetched_and_booted(profile: EepromProfile) -> None:
    server = _server()
    outcome = _run(server, profile)

    assert isinstance(outcome, BootFiles)
    assert (outcome.kernel, outcome.cmdline) == (FILES["kernel8.img"], "quiet")
    assert (outcome.source, outcome.from_ramdisk) == (BootMode.HTTP, True)
    assert server.asked == ["/net/boot.sig", "/net/boot.img"]
    assert server.requested == []  # nothing over TFTP


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0, 1, 1, 1, 1, 2]), max_size=120))
def test_losses_and_duplicates_end_in_the_same_image(fates: list[int]) -> None:
    drawn = iter(fates)
    outcome = _run(_server(), copies=lambda: next(drawn, 1))
    if not isinstance(outcome, BootFiles):
        assert fates.count(0) >= 8  # only where the 30 s of one file ran out
    else:
        assert outcome.kernel == FILES["kernel8.img"]


def test_a_connection_that_breaks_off_is_continued_where_it_was() -> None:
    server = _server()
    server.cut_after = 100_000
    assert isinstance(_run(server), BootFiles)
    assert server.asked[:2] == ["/net/boot.sig", "/net/boot.img"]
    assert server.asked[2].startswith("/net/boot.img bytes=9")  # 100,000 less the header
    assert len(server.asked) == 3


def test_a_missing_file_is_the_next_modes_turn_and_on_a_cm4_the_end() -> None:
    assert isinstance(_run(ModelWebServer({})), ModeFailedError)
    stuck = _run(ModelWebServer({}), CM4)
    assert isinstance(stuck, BoardStuckError)
    assert str(stuck) == "boot.sig: HTTP 404"


def test_nobody_at_the_port_is_the_next_modes_turn_at_once() -> None:
    outcome = _run(ModelWebServer({}, port=81))
    assert isinstance(outcome, ModeFailedError)
    assert "refused" in str(outcome)


def _redirect(to: str) -> Callable[[str, Mapping[str, str]], bytes]:
    return lambda path, headers: answer("302 Found", Location=to)


@pytest.mark.parametrize(
    ("location", "ends_well"),
    [
        ("/moved/boot.sig", True),
        (f"http://{SERVER_IP}/moved/boot.sig", True),
        ("http://10.77.0.9/moved/boot.sig", False),
        ("http://10.77/moved/boot.sig", False),
        (f"http://{SERVER_IP}:{'9' * 5000}/moved/boot.sig", False),
        ("https://example.org/boot.sig", False),
        ("/net/boot.sig", False),
        ("", False),
    ],
    ids=["relative", "same-server", "other-server", "no-address", "no-port", "https", "loop", "nowhere"],
)
def test_one_redirect_on_the_same_server_is_followed(location: str, ends_well: bool) -> None:
    server = _server()
    server.pages["/moved/boot.sig"] = _sign(IMAGE, _key())
    server.pages["/net/boot.sig"] = _redirect(location)
    assert isinstance(_run(server), BootFiles) is ends_well


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (lambda path, headers: answer("200 OK", IMAGE, Transfer_Encoding="chunked"), "chunked"),
        (lambda path, headers: answer("500 Oops"), "HTTP 500"),
        (lambda path, headers: b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (lambda path, headers: b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 2000, "never ends"),
        (lambda path, headers: answer("200 OK", b"", Content_Length="999999999"), "File is too large"),
        (lambda path, headers: answer("200 OK", b"short", Content_Length="4000"), "broke off"),
    ],
    ids=["chunked", "error", "another-protocol", "endless-header", "too-large", "always-short"],
)
def test_an_answer_that_is_none_ends_the_mode(
    page: Callable[[str, Mapping[str, str]], bytes], reason: str
) -> None:
    server = _server()
    server.pages["/net/boot.img"] = page
    outcome = _run(server)
    assert isinstance(outcome, ModeFailedError)
    assert reason in str(outcome)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    server = _server()
    server.pages["/net/boot.img"] = lambda path, headers: answer("200 OK", IMAGE, Content_Length="")
    assert isinstance(_run(server), BootFiles)


@pytest.mark.parametrize(
    ("sig", "reason"),
    [
        (_sign(IMAGE + b"x", _key()), "another SHA-256"),
        (_sign(IMAGE, _key(1)), "not by the key"),
        (f"{hashlib.sha256(IMAGE).hexdigest()}\nts: 1\n".encode(), "holds no signature"),
        (b"nothing\n", "not a SHA-256"),
        (b"x" * 2000, "at most 1024"),
    ],
    ids=["other-image", "other-key", "unsigned", "garbage", "too-long"],
)
def test_an_image_that_the_key_did_not_sign_is_not_started(sig: bytes, reason: str) -> None:
    outcome = _run(_server(boot_sig=sig))
    assert isinstance(outcome, ModeFailedError)
    assert reason in str(outcome)


@pytest.mark.parametrize(
    ("profile", "chosen", "reason"),
    [
        (PI4_2021, HTTP, "Unsupported boot order 7"),
        (PI5_2025, EepromSettings(), "HTTP_HOST is not set"),
        (PI5_2025, replace(HTTP, http_host="boot.example.org"), "HTTP: dns failed"),
        (PI5_2025, replace(HTTP, http_cacert_hash="ab" * 32), "HTTPS is not emulated"),
    ],
    ids=["too-old", "no-host", "name", "https"],
)
def test_what_the_mode_does_not_do_is_said_at_once(
    profile: EepromProfile, chosen: EepromSettings, reason: str
) -> None:
    server = _server()
    outcome = _run(server, profile, chosen)
    assert isinstance(outcome, ModeFailedError)
    assert reason in str(outcome)
    assert server.dhcp_discovers == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"ab\n", b"a" * 64 + b"\nts: now\n", b"a" * 64 + b"\nrsa2048: 12\n", b"A" * 64, b"a" * 1025],
)
def test_a_sig_file_that_is_none_is_named(data: bytes) -> None:
    with pytest.raises(SignatureFileError):
        parse_signature_file(data)


def test_a_signature_proves_the_file_and_nothing_else() -> None:
    signature = parse_signature_file(_sign(b"file", _key()))
    assert signature.timestamp == 1734010524
    verify(signature, b"file", _public(_key()))
    with pytest.raises(SignatureFileError, match="SHA-256"):
        verify(signature, b"File", _public(_key()))
    with pytest.raises(SignatureFileError, match="no public key"):
        verify(signature, b"file", None)
