"""Which files go into a boot.img, and how boot.sig is made."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fleet.boards import BoardModel
from imagebuilder.boot_image.select import Content, missing_files, select_files
from imagebuilder.boot_image.sign import (
    SigningKeyError,
    load_signing_key,
    make_signing_key,
    public_key_pem,
    render_signature,
)
from lab.bootloader.signature import RsaPublicKey, SignatureFileError, parse_signature_file, verify

TREE: dict[str, Content] = {
    name: name.encode()
    for name in (
        *(
            "config.txt",
            "cmdline.txt",
            "start4.elf",
            "fixup4.dat",
            "start4cd.elf",
            "start.elf",
            "bootcode.bin",
        ),
        *("kernel8.img", "kernel_2712.img", "initramfs8", "initramfs_2712", "installer.img"),
        *("bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb", "bcm2710-rpi-3-b.dtb"),
        *("overlays/overlay_map.dtb", "overlays/vc4-kms-v3d-pi5.dtbo", "overlays/README.md"),
        *("user-data", "meta-data", "network-config", "pieeprom.upd", "pieeprom.sig", "recovery.bin"),
        *("LICENCE.broadcom", "COPYING.linux"),
    )
}
CONFIG = "kernel=kernel8.img\ninitramfs installer.img followkernel\n"


def test_a_pi_5_gets_its_own_device_trees_and_no_firmware() -> None:
    assert list(select_files(TREE, CONFIG, BoardModel.PI5)) == [
        *("bcm2712-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb", "cmdline.txt", "config.txt"),
        *("installer.img", "kernel8.img", "overlays/overlay_map.dtb", "overlays/vc4-kms-v3d-pi5.dtbo"),
    ]


def test_a_pi_4_gets_the_firmware_of_its_second_stage() -> None:
    names = set(select_files(TREE, CONFIG, BoardModel.PI4))
    assert {"start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb"} < names
    assert not {name for name in names if "2712" in name or "4cd" in name}


@pytest.mark.parametrize("board", [BoardModel.PI4, BoardModel.PI5])
def test_nothing_of_the_installed_system_and_no_bootloader_update_goes_in(board: BoardModel) -> None:
    names = set(select_files(TREE, CONFIG, board))
    assert not names & {"user-data", "meta-data", "network-config", "initramfs8"}
    assert not {name for name in names if name.startswith(("pieeprom", "recovery"))}


def test_without_a_named_kernel_the_families_own_are_kept() -> None:
    names = set(select_files(TREE, "[all]\ninitramfs installer.img followkernel\n", BoardModel.PI5))
    assert {"kernel8.img", "kernel_2712.img"} < names
    assert "kernel_2712.img" not in select_files(TREE, "", BoardModel.PI4)


def test_a_system_in_a_folder_of_its_own_keeps_its_kernel() -> None:
    tree: dict[str, Content] = {"config.txt": b"", "current/vmlinuz": b"k", "current/initrd.img": b"i"}
    config = "os_prefix=current/\nkernel=vmlinuz\ninitramfs initrd.img followkernel\n"
    assert set(select_files(tree, config, BoardModel.PI5)) == set(tree)


def test_what_a_board_can_not_boot_without_is_named_all_at_once() -> None:
    assert missing_files([], BoardModel.PI4) == ("start4.elf", "a kernel", "bcm2711-rpi-4-b.dtb")
    assert missing_files(select_files(TREE, CONFIG, BoardModel.PI4), BoardModel.PI4) == ()
    assert missing_files(select_files(TREE, CONFIG, BoardModel.CM5), BoardModel.CM5) == ()


def _key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def _public(key: rsa.RSAPrivateKey) -> RsaPublicKey:
    numbers = key.public_key().public_numbers()
    return RsaPublicKey(numbers.n, numbers.e)


def test_a_signature_is_what_the_emulated_bootloader_verifies() -> None:
    key, image = _key(), b"image" * 1000
    text = render_signature(hashlib.sha256(image).hexdigest(), 1734010524, key)

    assert text.splitlines()[1] == "ts: 1734010524"
    assert len(text.splitlines()) == 3
    verify(parse_signature_file(text.encode()), image, _public(key))
    with pytest.raises(SignatureFileError, match="not by the key"):
        verify(parse_signature_file(text.encode()), image, _public(_key()))


def test_the_unsigned_form_has_two_lines_and_proves_nothing() -> None:
    text = render_signature(hashlib.sha256(b"x").hexdigest(), 7, None)
    assert len(text.splitlines()) == 2
    with pytest.raises(SignatureFileError, match="holds no signature"):
        verify(parse_signature_file(text.encode()), b"x", _public(_key()))


def test_a_new_key_is_its_owners_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "boot-key.pem"
    public = make_signing_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert public == tmp_path / "boot-key.pub.pem"
    assert public.read_bytes() == public_key_pem(load_signing_key(path))
    before = path.read_bytes()
    with pytest.raises(SigningKeyError, match="File exists"):
        make_signing_key(path)
    assert path.read_bytes() == before


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        cipher = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "can not be read: No such file"),
        (b"", "no private key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key in PEM form"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "no RSA key"),
        (_pem(_key(3072)), "RSA key of 3072 bits, the bootloader takes 2048"),
        (_pem(_key(), b"secret"), "protected by a passphrase"),
    ],
    ids=["missing", "empty", "garbage", "elliptic", "too-long", "encrypted"],
)
def test_a_key_that_the_bootloader_could_not_use_is_refused(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SigningKeyError, match=problem) as raised:
        load_signing_key(path)
    assert raised.value.hint
