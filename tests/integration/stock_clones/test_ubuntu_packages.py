"""Packages in an Ubuntu image: its own apt, from its own sources, verified with its own keyring.

The archive is ours, laid out as ports.ubuntu.com is and signed with a key that lies where Ubuntu's does; the
apt in the clone is Debian's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_archive import Deb, build_archive, serving
from image_site import SigningKey, end_agent, make_key
from stock_clones import ready_clone
from stock_clones.ubuntu import KEYRING

from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.edits import PutFile
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.packages.apply import apply_layer, layer_room_bytes
from imagebuilder.packages.install import AptAccess, PackageRequest, PackagesError, make_layer
from imagebuilder.packages.volumes import open_volumes
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

PORTS = "http://ports.ubuntu.com/ubuntu-ports"
SUITES = ("noble", "noble-updates", "noble-backports", "noble-security")
COMPONENTS = ("main", "universe", "restricted", "multiverse")
POSTINST = """\
#!/bin/sh
set -e
uname -m > /etc/hello-machine
echo "$FLASH_KERNEL_SKIP" > /etc/hello-flash-kernel
systemctl enable hello.service
"""
UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
HELLO = Deb(
    name="hello-node",
    files={"/usr/lib/systemd/system/hello.service": (0o644, UNIT.encode())},
    scripts={"postinst": POSTINST},
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SigningKey, SigningKey]]:
    """That of the archive, and another one."""
    home = tmp_path_factory.mktemp("gpg")
    yield make_key(home, "archive"), make_key(home, "stranger")
    end_agent(home)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, keys: tuple[SigningKey, SigningKey]) -> Path:
    """The clone with the archive's key where Ubuntu has its own."""
    directory = tmp_path_factory.mktemp("ubuntu")
    (directory / "scratch").mkdir()
    copy_sparse(ready_clone("ubuntu-24.04").disk, directory / "stock.img")
    disk = DiskImage(directory / "stock.img", directory / "scratch")
    disk.put_root([PutFile(path=KEYRING, content=keys[0].public)])
    return disk.path


def request(base: Path, address: str) -> PackageRequest:
    access = AptAccess(mirror="http://127.0.0.1:9/debian", replacements=f"{PORTS}={address}/ubuntu-ports")
    return PackageRequest(base_id="noble", base_disk=base, packages=("hello-node",), access=access)


def test_packages_come_from_ubuntus_sources_and_its_key_proves_them(
    base: Path, keys: tuple[SigningKey, SigningKey], tmp_path: Path
) -> None:
    archive = tmp_path / "site" / "ubuntu-ports"
    build_archive(archive, [HELLO], suites=SUITES, components=COMPONENTS, sign=keys[0].sign_clearly)
    asked: list[str] = []
    with serving(tmp_path / "site", asked) as address:
        stored = make_layer(request(base, address), store=Store(tmp_path / "store"))
    assert {f"/ubuntu-ports/dists/{suite}/InRelease" for suite in SUITES} <= set(asked)
    assert "/ubuntu-ports/pool/hello-node_1.0_arm64.deb" in asked
    assert stored.layer.installed == {"hello-node": "1.0"}
    assert len(stored.layer.archives) == len(SUITES)
    copy_sparse(base, tmp_path / "disk.img")
    (tmp_path / "scratch").mkdir()
    disk = DiskImage(tmp_path / "disk.img", tmp_path / "scratch")
    disk.grow_root(layer_room_bytes(stored.layer))
    apply_layer(stored, disk)
    disk.check()
    with open_volumes(base) as before, open_volumes(disk.path) as after:
        assert after.read_text("/etc/hello-machine") == "aarch64\n"
        assert after.read_text("/etc/hello-flash-kernel") == "true\n"
        wanted = "/etc/systemd/system/multi-user.target.wants/hello.service"
        assert after.root.find(wanted, follow=False) is not None
        for path in ("/etc/apt/sources.list", "/etc/apt/sources.list.d/ubuntu.sources"):
            assert after.read_text(path) == before.read_text(path)
        assert PORTS in after.read_text("/etc/apt/sources.list.d/ubuntu.sources")


def test_an_archive_that_another_key_signed_is_refused(
    base: Path, keys: tuple[SigningKey, SigningKey], tmp_path: Path
) -> None:
    archive = tmp_path / "site" / "ubuntu-ports"
    build_archive(archive, [HELLO], suites=SUITES, components=COMPONENTS, sign=keys[1].sign_clearly)
    store = Store(tmp_path / "store")
    asked: list[str] = []
    with serving(tmp_path / "site", asked) as address, pytest.raises(PackagesError) as caught:
        make_layer(request(base, address), store=store)
    assert "nothing proves what an archive says" in caught.value.message
    assert f"{address}/ubuntu-ports" in caught.value.hint
    assert not any(path.endswith(".deb") for path in asked)
    assert store.entries("layers") == []
    assert list(store.root.glob("tmp/*")) == []
