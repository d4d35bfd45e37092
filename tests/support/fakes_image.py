"""Small inputs for the image builder: a disk in the layout of Raspberry Pi OS, a base, a k3s release, a
cluster, an agent.

The disk is made with the real mke2fs, mkfs.vfat and mcopy and is never booted, so what should be arm64
programs is text.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import zstandard
from fakes_systems import SIGNATURE, SYSTEMS, FakeSystem

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.spec.model import (
    CatalogueBase,
    ClusterSpec,
    DhcpMode,
    DiskSpec,
    DnsMode,
    FirstBoot,
    FirstBootPolicy,
    ImageSpec,
    K3sSpec,
    NetworkSpec,
    NodeSpec,
    PolicySpec,
    PortsSpec,
    ReimagePolicy,
    Role,
    UnknownBoards,
    UserSpec,
)
from imagebuilder.bases.base import DISK_NAME, INFO_NAME, KIND, BaseInfo
from imagebuilder.bases.catalogue import recipe_id
from imagebuilder.bases.recipe import DEBIAN_TRIXIE
from imagebuilder.disk.mbr import Mbr, Partition
from imagebuilder.runner import run
from imagebuilder.store import Store

BOOT_START_LBA = 2048
BOOT_SECTORS = 40 * 2048
ROOT_SECTORS = 96 * 2048
FEATURES = "^64bit,^huge_file,orphan_file"
VERSION = "v1.33.5+k3s1"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHZ test@example.org"


def make_disk(
    path: Path,
    *,
    root_sectors: int = ROOT_SECTORS,
    features: str = FEATURES,
    system: FakeSystem = SYSTEMS["debian"],
) -> Path:
    """MBR, a FAT32 with the files of ``system``, an ext4 with its tree, merged /usr and a Python of text."""
    work = path.parent / f"{path.name}.work"
    tree, boot_tree = work / "tree", work / "boot"
    for directory in (
        "etc",
        "usr/lib/systemd",
        "usr/bin",
        "usr/sbin",
        "usr/local/bin",
        "boot/firmware",
        "home",
    ):
        (tree / directory).mkdir(parents=True, exist_ok=True)
    for link in ("bin", "lib", "sbin"):
        (tree / link).symlink_to(f"usr/{link}")
    _write_tree(boot_tree, system.boot)
    _write_tree(tree, system.root)
    (tree / "usr/bin/python3").symlink_to("python3.13")
    _write_tree(
        tree,
        {
            "usr/bin/python3.13": "stands in for Python\n",
            "usr/bin/zstd": "stands in for zstd\n",
            "usr/lib/aarch64-linux-gnu/libzstd.so.1": "-> libzstd.so.1.5.7",
            "usr/lib/aarch64-linux-gnu/libzstd.so.1.5.7": "stands in for libzstd\n",
            "usr/lib/python3.13/os.py": "name = 'posix'\n",
            "usr/lib/python3.13/test/huge.py": "not needed\n",
            "usr/bin/scattered": hashlib.shake_256(b"scattered").digest(3_000_000),
        },
    )
    boot = Partition(start_lba=BOOT_START_LBA, sectors=BOOT_SECTORS, type=0x0C)
    root = Partition(start_lba=boot.end_lba, sectors=root_sectors, type=0x83)
    with path.open("wb") as file:
        file.write(Mbr(signature=SIGNATURE, entries=(boot, root, None, None)).encode())
        file.truncate(root.offset + root.size_bytes)
    run(["mkfs.vfat", "-F", "32", "-s", "1", "-n", system.boot_label, "-i", "1234abcd",
         "--offset", str(boot.start_lba), path, str(boot.size_bytes // 1024)])  # fmt: skip
    run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", features, "-L", system.root_label, "-d", tree,
         "-E", f"offset={root.offset},root_owner=0:0", path, f"{root.size_bytes // 4096}"])  # fmt: skip
    run(["mcopy", "-s", "-i", f"{path}@@{boot.offset}", *sorted(boot_tree.iterdir()), "::/"])
    return path


def _write_tree(top: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        place = top / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            place.symlink_to(content.removeprefix("-> "))
        else:
            place.write_bytes(content.encode() if isinstance(content, str) else content)


def make_base(store: Store, system: FakeSystem = SYSTEMS["debian"]) -> str:
    """Put the small disk into the store as if it were the debian-trixie base, and return its id."""
    entry_id = recipe_id(DEBIAN_TRIXIE)

    def build(into: Path) -> None:
        disk = make_disk(into / DISK_NAME, system=system)
        info = BaseInfo(
            id=entry_id,
            name="debian-trixie",
            distribution="debian",
            suite="trixie",
            architecture="arm64",
            kernel_version="6.12.0-test",
            packages={"python3": "3.13.5"},
            layout=(),
            size_bytes=disk.stat().st_size,
            disk_signature=SIGNATURE,
            recipe={},
            built_with={},
            disk_sha256=_digest(disk),
        )
        (into / INFO_NAME).write_text(info.render())

    store.get_or_create(KIND, entry_id, build)
    return entry_id


def make_release(
    directory: Path, *, simulator: bool = True, airgap: bool = True, elf_machine: int = 183
) -> Path:
    """A release directory with correct sums. Without ``simulator`` the binary starts like an ELF of
    ``elf_machine``."""
    directory.mkdir(parents=True, exist_ok=True)
    head = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + elf_machine.to_bytes(2, "little")
    (directory / "k3s-arm64").write_bytes(head + hashlib.shake_256(b"k3s").digest(200_000))
    if simulator:
        (directory / "SIMULATOR").write_text("stands in for k3s in tests\n")
        (directory / "k3s-arm64").write_bytes(b"#!/usr/bin/python3\n")
    if airgap:
        (directory / "k3s-airgap-images-arm64.tar.zst").write_bytes(zstandard.compress(make_tar()))
    write_sums(directory)
    return directory


def make_tar() -> bytes:
    """A tar archive with one member."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = 100_000
        archive.addfile(member, io.BytesIO(hashlib.shake_256(b"images").digest(100_000)))
    return body.getvalue()


def write_sums(directory: Path) -> None:
    """Write sha256sum-arm64.txt for the release files that are there."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(directory.glob("k3s-*"))
    ]
    (directory / "sha256sum-arm64.txt").write_text("".join(lines))


def make_agent(directory: Path) -> Path:
    """A package directory that can be packed as the agent."""
    package = directory / "agent"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys\n\nprint('agent', *sys.argv[1:])\n")
    return package


def make_node(
    name: str = "pi5-master-1",
    *,
    role: Role = Role.SERVER,
    mac: str | None = "2c:cf:67:12:34:56",
    serial: str | None = None,
    address: str | None = "10.77.0.33",
) -> NodeSpec:
    return NodeSpec(
        name=name,
        board=BoardModel.PI5,
        role=role,
        mac=MacAddress.parse(mac) if mac else None,
        serial=Serial.parse(serial) if serial else None,
        address=IPv4Address(address) if address else None,
        disk=DiskSpec(DiskKind.NVME),
        labels={},
        taints=(),
        power=None,
        memory_mib=None,
    )


def make_spec(
    release: Path | str = "upstream",
    *,
    nodes: tuple[NodeSpec, ...] | None = None,
    overlays: tuple[Path, ...] = (),
    packages: tuple[str, ...] = (),
    airgap: bool = True,
    path: Path = Path("cluster.yaml"),
) -> ClusterSpec:
    """The cluster "attic"."""
    return ClusterSpec(
        name="attic",
        domain="attic.internal",
        k3s=K3sSpec(version=VERSION, source=release, airgap_images=airgap, api_vip=None, config={}),
        image=ImageSpec(
            base=CatalogueBase("debian-trixie"),
            packages=packages,
            overlays=overlays,
            user=UserSpec("pi", (SSH_KEY,)),
            timezone="Europe/Madrid",
        ),
        network=NetworkSpec(
            interface="eth0",
            dhcp=DhcpMode.FULL,
            subnet=IPv4Network("10.77.0.0/24"),
            gateway=IPv4Address("10.77.0.1"),
            dns=(IPv4Address("10.77.0.1"), IPv4Address("10.77.0.2")),
            dns_server=DnsMode.OFF,
            pool=None,
            server_address=None,
            ports=PortsSpec(7080, 7443),
        ),
        nodes=(make_node(),) if nodes is None else nodes,
        policy=PolicySpec(
            unknown_boards=UnknownBoards.HOLD,
            first_boot=FirstBootPolicy(agent=FirstBoot.TRUST_LAN, server=FirstBoot.APPROVE),
            reimage=ReimagePolicy(when_failed=False, max_parallel=1, after_s=900),
        ),
        path=path,
    )


def is_same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    return _digest(one) == _digest(other)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
