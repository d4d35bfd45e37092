"""What a finished debian-trixie base promises. It is built if the user's store does not hold it (minutes)."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagebuilder.bases import DEBIAN_TRIXIE, Base, build_base, find_base
from imagebuilder.bases.catalogue import recipe_id
from imagebuilder.bases.layout import check_filesystems
from imagebuilder.disk.mbr import Mbr, parse_mbr
from imagebuilder.runner import run
from imagebuilder.store import Store

pytestmark = pytest.mark.integration


class Root:
    """Reads the base's root filesystem through debugfs, as no user of it."""

    def __init__(self, disk: Path, mbr: Mbr) -> None:
        self._where = f"{disk}?offset={mbr.partition(2).offset}"

    def _ask(self, request: str) -> str:
        done = run(["debugfs", "-R", request, self._where])
        answer = done.stdout.decode()
        assert "File not found" not in done.stderr.decode() + answer, request
        return answer

    def text(self, path: str) -> str:
        return self._ask(f"cat {path}")

    def names(self, path: str) -> list[str]:
        # Lines of "ls -p": /inode/mode/uid/gid/name/size/
        rows = [line.split("/") for line in self._ask(f"ls -p {path}").splitlines() if line.startswith("/")]
        return sorted(row[5] for row in rows if row[5] not in (".", ".."))

    def owner_and_mode(self, path: str) -> tuple[int, int, int]:
        found = re.search(
            r"Mode:\s+(\d+).*?User:\s+(\d+)\s+Group:\s+(\d+)", self._ask(f"stat {path}"), re.DOTALL
        )
        assert found is not None
        return int(found[2]), int(found[3]), int(found[1], 8)


@pytest.fixture(scope="module")
def base() -> Base:
    store = Store.default()
    return find_base("debian-trixie", store) or build_base(
        DEBIAN_TRIXIE, store=store, progress=lambda _step: None
    )


@pytest.fixture(scope="module")
def mbr(base: Base) -> Mbr:
    with base.disk.open("rb") as file:
        return parse_mbr(file.read(512), disk_bytes=base.disk.stat().st_size)


@pytest.fixture(scope="module")
def root(base: Base, mbr: Mbr) -> Root:
    return Root(base.disk, mbr)


@pytest.fixture(scope="module")
def boot_files(base: Base, mbr: Mbr, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bootfs")
    run(["mcopy", "-s", "-m", "-i", f"{base.disk}@@{mbr.partition(1).offset}", "::*", target])
    return target


def test_layout_is_that_of_raspberry_pi_os_trixie(base: Base, mbr: Mbr) -> None:
    boot, system = mbr.partition(1), mbr.partition(2)
    assert (boot.type, boot.start_lba, boot.sectors) == (0x0C, 16384, 1_048_576)
    assert (system.type, system.start_lba) == (0x83, 1_064_960)
    assert system.size_bytes % (8 * 2**20) == 0
    assert base.disk.stat().st_size == system.offset + system.size_bytes
    assert mbr.signature == base.info.disk_signature
    assert [(part.start_lba, part.sectors) for part in base.info.layout] == [
        (boot.start_lba, boot.sectors),
        (system.start_lba, system.sectors),
    ]


def test_both_filesystems_are_clean_and_labelled(base: Base, mbr: Mbr) -> None:
    check_filesystems(mbr, base.disk)
    label = run(["mlabel", "-s", "-i", f"{base.disk}@@{mbr.partition(1).offset}", "::"]).stdout
    assert b"bootfs" in label
    superblock = run(["debugfs", "-R", "stats -h", f"{base.disk}?offset={mbr.partition(2).offset}"]).stdout
    assert re.search(rb"Filesystem volume name:\s+rootfs\n", superblock)
    features = next(line for line in superblock.splitlines() if line.startswith(b"Filesystem features:"))
    assert b"orphan_file" in features.split()
    assert b"64bit" not in features.split()


def test_image_is_sparse_and_lean(base: Base) -> None:
    occupied = base.disk.stat().st_blocks * 512
    assert occupied < 750 * 2**20
    assert occupied < base.disk.stat().st_size


def test_fstab_and_cmdline_name_this_disk(root: Root, boot_files: Path, mbr: Mbr) -> None:
    fstab = [line.split() for line in root.text("/etc/fstab").splitlines()]
    assert [f"PARTUUID={mbr.partuuid(1)}", "/boot/firmware", "vfat", "defaults", "0", "2"] in fstab
    assert [f"PARTUUID={mbr.partuuid(2)}", "/", "ext4", "defaults,noatime", "0", "1"] in fstab
    assert (boot_files / "cmdline.txt").read_text() == (
        f"console=serial0,115200 console=tty1 root=PARTUUID={mbr.partuuid(2)} "
        "rootfstype=ext4 fsck.repair=yes rootwait\n"
    )


def test_boot_partition_holds_what_the_firmware_of_a_pi_4_and_a_pi_5_asks_for(boot_files: Path) -> None:
    names = {path.name for path in boot_files.iterdir()}
    assert {"start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb"} <= names
    assert {"kernel8.img", "initramfs8", "config.txt", "cmdline.txt"} <= names
    assert {"meta-data", "user-data", "network-config"} <= names
    # "ARM\x64" at byte 56: an uncompressed arm64 Image. Source: Linux Documentation/arch/arm64/booting.rst
    assert (boot_files / "kernel8.img").read_bytes()[56:60] == b"ARM\x64"
    config = (boot_files / "config.txt").read_text().splitlines()
    assert {"arm_64bit=1", "kernel=kernel8.img", "initramfs initramfs8 followkernel"} <= set(config)


def test_kernel_on_the_boot_partition_is_the_installed_one_with_its_modules(
    base: Base, root: Root, boot_files: Path
) -> None:
    version = base.info.kernel_version
    assert version.encode() in (boot_files / "kernel8.img").read_bytes()
    assert root.names("/usr/lib/modules") == [version]
    modules = root.text(f"/usr/lib/modules/{version}/modules.dep")
    assert "kernel/drivers/nvme/host/nvme.ko" in modules
    assert f"linux-image-{version}" in base.info.packages


def test_initramfs_or_kernel_has_the_drivers_of_every_board_and_disk(
    base: Base, root: Root, boot_files: Path
) -> None:
    # One or more cpio parts, the last one compressed by zstd (its magic number is 28 b5 2f fd).
    data = (boot_files / "initramfs8").read_bytes()
    start = data.find(b"\x28\xb5\x2f\xfd")
    archive = data[:start] + run(["zstd", "-dc"], input=data[start:]).stdout
    loadable = {Path(name.decode()).name for name in re.findall(rb"usr/lib/modules/[\w./+-]+?\.ko", archive)}
    builtin = root.text(f"/usr/lib/modules/{base.info.kernel_version}/modules.builtin").split()
    present = {
        name.removesuffix(".ko").replace("-", "_") for name in loadable | {Path(b).name for b in builtin}
    }
    disks = {"nvme", "sdhci_pci", "sdhci_iproc", "mmc_block", "usb_storage", "uas", "virtio_blk"}
    assert disks | {"macb", "genet", "virtio_net", "virtio_pci", "ext4"} <= present
    assert "nvme.ko" in loadable  # the expression above does find what is in the archive


def test_image_is_nobodys_in_particular(root: Root) -> None:
    assert root.text("/etc/machine-id") == "uninitialized\n"
    assert [name for name in root.names("/etc/ssh") if name.startswith("ssh_host_")] == []
    assert root.text("/etc/hostname") == "raspberrypi\n"
    assert "random-seed" not in root.names("/var/lib/systemd")
    assert root.names("/boot/firmware") == []


def test_account_pi_exists_and_nobody_can_log_in_with_a_password(root: Root) -> None:
    passwd = {line.split(":")[0]: line.split(":") for line in root.text("/etc/passwd").splitlines()}
    assert passwd["pi"][2:4] == ["1000", "1000"]
    shadow = {line.split(":")[0]: line.split(":")[1] for line in root.text("/etc/shadow").splitlines()}
    assert all(secret.startswith(("!", "*")) for secret in shadow.values())


def test_owners_and_special_modes_survived_the_way_into_the_image(root: Root) -> None:
    assert root.owner_and_mode("/usr/bin/sudo") == (0, 0, 0o4755)
    assert root.owner_and_mode("/etc/shadow") == (0, 42, 0o640)
    assert root.owner_and_mode("/home/pi")[:2] == (1000, 1000)
    assert root.owner_and_mode("/tmp")[2] == 0o1777


def test_nothing_of_the_build_is_left(root: Root) -> None:
    assert "policy-rc.d" not in root.names("/usr/sbin")
    assert [name for name in root.names("/etc/apt/apt.conf.d") if "mmdebstrap" in name] == []
    assert root.names("/var/lib/apt/lists") == []
    assert root.names("/etc/apt/sources.list.d") == ["debian.sources"]


def test_first_boot_finds_byte_code_and_caches_ready(root: Root) -> None:
    compiled = root.names("/usr/lib/python3/dist-packages/cloudinit/__pycache__")
    assert "util.cpython-313.pyc" in compiled
    assert ".updated" in root.names("/etc")
    assert ".updated" in root.names("/var")


def test_first_boot_enables_no_unit_that_the_image_did_not(root: Root) -> None:
    presets = root.text("/etc/systemd/system-preset/00-bramble.preset").splitlines()
    assert [line for line in presets if line and not line.startswith("#")] == ["disable *"]
    wanted = root.names("/etc/systemd/system/multi-user.target.wants")
    assert {"ssh.service", "systemd-networkd.service"} <= set(wanted)
    assert "apt-daily.timer" in root.names("/etc/systemd/system")


def test_packages_that_k3s_and_the_agent_call_are_listed_with_versions(base: Base) -> None:
    for name in ("iptables", "nftables", "conntrack", "ipset", "python3", "openssl", "cloud-init"):
        assert re.match(r"\d", base.info.packages[name]), name
    assert "man-db" not in base.info.packages


def test_interrupted_build_leaves_no_entry_no_process_and_no_mount(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from imagebuilder.bases import DEBIAN_TRIXIE, build_base
from imagebuilder.store import Store
build_base(DEBIAN_TRIXIE, store=Store(Path({str(tmp_path)!r})), progress=lambda s: print(s.phase, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "downloading packages\n"
        builder.kill()
    marker = str(tmp_path).encode()
    deadline = time.monotonic() + 120
    while any(marker in words for words in _command_lines()):
        assert time.monotonic() < deadline, "a process of the build is still there"
        time.sleep(0.05)
    assert Store(tmp_path).find("bases", recipe_id(DEBIAN_TRIXIE)) is None
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def _command_lines() -> list[bytes]:
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes())
        except OSError:
            continue
    return lines
