"""`bramble boot-image`, with real mkfs.vfat and mtools, on a small image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fakes_bramble import CONTROL, make_image, node_boot
from fakes_image import make_node, make_spec

from bramble import boot_sources
from bramble.boot_image_command import boot_image
from bramble.boot_images import find_boot_image, purpose_of
from bramble.boot_sources import BootSources
from fleet.boards import BoardModel
from lab.bootloader.fat import FatImage
from lab.bootloader.signature import RsaPublicKey, parse_signature_file, verify

pytestmark = pytest.mark.integration

Run = Callable[..., Result]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BootSources:
    """Two nodes: one whose install is open, one that is installed."""
    image = make_image(tmp_path / "image")
    boot = tmp_path / "image" / "boot"
    for name in ("kernel8.img", "bcm2712-rpi-5-b.dtb", "start4.elf", "bcm2711-rpi-4-b.dtb", "user-data"):
        (boot / name).write_bytes(name.encode())
    (tmp_path / "image" / "installer").mkdir()
    image.installer_initramfs.write_bytes(b"installer")
    nodes = (make_node("pi5-1"), make_node("pi5-2"))
    made = BootSources(
        spec=make_spec(nodes=nodes),
        image=image,
        control=CONTROL,
        states=[node_boot("pi5-1", intent=4), node_boot("pi5-2", intent=None)],
        boot_images=tmp_path / "served",
    )
    monkeypatch.setattr(boot_sources, "load_sources", lambda file: made)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1734010524")
    return made


def _run(*words: str) -> Result:
    return CliRunner().invoke(boot_image, list(words))


def test_a_signed_image_lies_where_the_server_looks_for_it(sources: BootSources, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    assert _run("--new-key", str(key)).exit_code == 0
    done = _run("--node", "pi5-1", "--key", str(key), "--json")

    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)
    assert (result["node"], result["intent"], result["signed"]) == ("pi5-1", 4, True)
    (state, _) = sources.states
    served = find_boot_image(sources.boot_images, purpose_of(state, sources.image, CONTROL))
    assert set(served) == {"boot.img", "boot.sig"}
    public = serialization.load_pem_public_key((tmp_path / "key.pub.pem").read_bytes())
    assert isinstance(public, rsa.RSAPublicKey)
    numbers = public.public_numbers()
    signature = parse_signature_file(served["boot.sig"].read_bytes())
    verify(signature, served["boot.img"].read_bytes(), RsaPublicKey(numbers.n, numbers.e))
    assert signature.timestamp == 1734010524
    volume = FatImage(served["boot.img"].read_bytes())
    assert b"bramble.intent=4" in (volume.read("cmdline.txt") or b"")
    assert volume.read("installer.img") == b"installer"
    assert volume.read("user-data") is volume.read("start4.elf") is None


def test_all_is_all_nodes_whose_install_is_open(sources: BootSources, tmp_path: Path) -> None:
    done = _run("--all", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0
    assert "pi5-1: " in done.stdout
    assert "UNSIGNED" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pi5-1"]
    assert not sources.boot_images.exists()


def test_boards_of_another_model_are_left_out(sources: BootSources) -> None:
    assert sources.spec.nodes[0].board is BoardModel.PI5
    done = _run("--all", "--board", "pi4")
    assert done.exit_code == 0
    assert "nothing was made" in done.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "Name nodes with --node, or take all"),
        (("--node", "pi5-1", "--all"), "Name nodes with --node, or take all"),
        (("--node", "pi5-9"), "there is no node 'pi5-9'"),
        (("--node", "pi5-2"), "no install is open for node pi5-2: installed"),
        (("--all", "--board", "pi7"), "'pi7' is not a board"),
        (("--all", "--key", "/no/such/key"), "can not be read"),
    ],
)
def test_what_can_not_be_made_is_explained(
    sources: BootSources, words: tuple[str, ...], problem: str
) -> None:
    done = _run(*words)
    assert done.exit_code != 0
    assert problem in done.output + str(done.exception)
    assert not sources.boot_images.exists()


def test_a_new_key_comes_with_what_goes_into_the_eeprom(tmp_path: Path) -> None:
    done = _run("--new-key", str(tmp_path / "key.pem"))
    for wanted in (
        "HTTP_HOST=",
        "HTTP_PORT=7080",
        "HTTP_PATH=boot/",
        "--pubkey",
        "HTTP_CACERT_HASH stays empty",
    ):
        assert wanted in done.stdout
