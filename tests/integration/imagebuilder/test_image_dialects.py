"""Each first-boot dialect from base to one node's own image: what the board would read at its first boot."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from fakes_image import (
    SSH_KEY,
    make_agent,
    make_base,
    make_disk,
    make_node,
    make_release,
    make_spec,
)
from fakes_systems import SIGNATURE, SYSTEMS, FakeSystem

from fleet.boards import BoardModel
from fleet.spec.model import PackagesAt
from imagebuilder.build import Image, build_image
from imagebuilder.delta import disk_signature
from imagebuilder.dialects import MANNERS
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.source import open_source
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.editable import NotEditable, require_editable
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect import ImageFacts, inspect_image
from imagebuilder.inspect.config_txt import evaluate
from imagebuilder.render import node_values
from imagebuilder.runner import run
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

NODE = make_node()
SIGNATURE_OF_NODE = disk_signature("attic", NODE.name, 1)


@pytest.fixture(scope="module", autouse=True)
def _small_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
        yield


@dataclass
class Made:
    """An image, and a disk with the delta of ``NODE`` laid over it."""

    name: str
    image: Image
    disk: DiskImage
    facts: ImageFacts

    def root(self, path: str) -> str:
        return (self.disk.read_root(path) or b"").decode()

    def boot(self, path: str) -> str:
        return (self.disk.read_boot(path) or b"").decode()

    def inode(self, path: str) -> tuple[int, int, int]:
        with open_source(self.disk.path) as source:
            inode = Ext4Volume(source, self.facts.root.offset).require(path)
            return inode.mode & 0o7777, inode.uid, inode.gid

    def link(self, path: str) -> str | None:
        with open_source(self.disk.path) as source:
            volume = Ext4Volume(source, self.facts.root.offset)
            inode = volume.find(path, follow=False)
            return volume.read_link(inode) if inode is not None and inode.is_symlink else None


def make(directory: Path, name: str, *, packages: tuple[str, ...] = ("jq",)) -> Made:
    store = Store(directory / "store")
    make_base(store, SYSTEMS[name])
    release = make_release(directory / "k3s")
    spec = make_spec(release, packages=packages, path=directory / "cluster.yaml")
    mirrors = {"mirrors": {"docker.io": {"endpoint": ["https://mirror.example.org"]}}}
    spec = replace(
        spec,
        k3s=replace(spec.k3s, registries=mirrors),
        image=replace(spec.image, packages_at=PackagesAt.FIRST_BOOT),
    )
    image = build_image(spec, store=store, agent_package=make_agent(directory))
    values = node_values(
        spec,
        NODE,
        control_urls=["https://10.77.0.1:7443"],
        ca_pem="PEM",
        ticket="ab" * 32,
        disk_signature=SIGNATURE_OF_NODE,
        instance_id="attic-1",
    )
    copy_sparse(image.disk, directory / "node.img")
    with (directory / "node.img").open("r+b") as file:
        for offset, data in image.render_delta(values):
            file.seek(offset)
            file.write(data)
    (directory / "scratch").mkdir()
    disk = DiskImage(directory / "node.img", directory / "scratch")
    disk.check()
    return Made(name, image, disk, inspect_image(disk.path))


@pytest.fixture(scope="module", params=sorted(SYSTEMS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp(request.param), request.param)


def test_the_disk_is_found_by_the_nodes_own_signature_alone(made: Made) -> None:
    assert made.facts.table.disk_id == f"{SIGNATURE_OF_NODE:08x}" != f"{SIGNATURE:08x}"
    assert all(reference.names.startswith("PARTUUID=") for reference in made.facts.references)
    assert {(r.mount, r.partition) for r in made.facts.references} == {("/", 2), ("/boot/firmware", 1)}
    require_editable(made.facts, "1.47.0")


def test_the_command_line_has_cgroups_and_nothing_that_rewrites_the_disk(made: Made) -> None:
    for path in made.facts.cmdlines:
        words = made.boot(path).split()
        assert "cgroup_enable=memory" in words
        assert not any(word in ("resize", "firstboot") or word.startswith("init=") for word in words)


def test_the_nodes_name_network_and_ticket_are_where_its_dialect_looks(made: Made) -> None:
    assert json.loads(made.root("/etc/bramble/node.json"))["ticket"] == "ab" * 32
    assert made.inode("/etc/bramble/node.json") == (0o600, 0, 0)
    if made.facts.dialect.has_cloud_init:
        assert yaml.safe_load(made.boot("meta-data"))["local-hostname"] == "pi5-master-1.attic.internal"
        network = yaml.safe_load(made.boot("network-config"))["network"]
        assert network["ethernets"]["eth0"]["addresses"] == ["10.77.0.33/24"]
    else:
        assert made.root("/etc/hostname").strip() == "pi5-master-1"
        assert "127.0.1.1 pi5-master-1.attic.internal pi5-master-1\n" in made.root("/etc/hosts")
        connection = "/etc/NetworkManager/system-connections/bramble.nmconnection"
        assert "address1=10.77.0.33/24,10.77.0.1\n" in made.root(connection)
        assert made.inode(connection) == (0o600, 0, 0)
        assert made.disk.read_boot("user-data") is None


def test_login_keys_and_time_zone_come_by_cloud_init_or_in_place(made: Made) -> None:
    if made.facts.dialect.has_cloud_init:
        user_data = yaml.safe_load(made.boot("user-data"))
        assert user_data["users"][0]["ssh_authorized_keys"] == [SSH_KEY]
        assert user_data["timezone"] == "Europe/Madrid"
        assert "seedfrom: file:///boot/firmware/" in made.root("/etc/cloud/cloud.cfg.d/95-bramble.cfg")
        assert made.root("/etc/bramble/packages") == ""
    else:
        assert made.root("/home/pi/.ssh/authorized_keys") == f"{SSH_KEY}\n"
        assert made.inode("/home/pi/.ssh/authorized_keys") == (0o600, 1000, 1000)
        assert made.link("/etc/localtime") == "/usr/share/zoneinfo/Europe/Madrid"
        assert made.root("/etc/bramble/packages") == "jq\n"
    passwd = {line.split(":")[0]: line.split(":") for line in made.root("/etc/passwd").splitlines()}
    assert passwd.get("pi", ["/bin/bash"])[-1] == "/bin/bash"


def test_k3s_agent_and_registries_are_in_place(made: Made) -> None:
    assert made.root("/usr/local/bin/k3s").startswith("#!")
    assert made.link("/usr/local/bin/kubectl") == "k3s"
    registries = yaml.safe_load(made.root("/etc/rancher/k3s/registries.yaml"))
    assert registries == {"mirrors": {"docker.io": {"endpoint": ["https://mirror.example.org"]}}}
    assert made.inode("/etc/rancher/k3s/registries.yaml")[0] == 0o600
    assert json.loads(made.root("/etc/bramble/image.json"))["dialect"] == made.facts.dialect.value


def test_every_enabled_unit_is_there_and_k3s_is_not_enabled(made: Made) -> None:
    with open_source(made.disk.path) as source:
        volume = Ext4Volume(source, made.facts.root.offset)
        wants = dict(volume.walk("/etc/systemd/system/multi-user.target.wants"))
        for path in wants:
            assert volume.find(path) is not None, f"{path} leads nowhere"
    names = {path.rpartition("/")[2] for path in wants}
    assert "bramble-agent.service" in names
    assert not names & {"k3s.service", "k3s-agent.service"}
    assert ("ssh.service" in names) == made.name.startswith(("raspios", "rpi"))
    assert ("bramble-grow-root.service" in names) == made.name.startswith(("raspios", "rpi"))


def test_swap_and_journal_are_kind_to_cards(made: Made) -> None:
    assert "SyncIntervalSec=15m" in made.root("/etc/systemd/journald.conf.d/bramble.conf")
    if made.name == "raspios-trixie":
        assert "Mechanism=zram" in made.root("/etc/rpi/swap.conf.d/bramble.conf")
    if made.name == "raspios-bookworm":
        assert made.link("/etc/systemd/system/userconfig.service") == "/dev/null"


def test_every_board_boots_small_pages_with_the_initramfs_of_its_kernel(made: Made) -> None:
    for board in made.facts.boards:
        if board.problem is None:
            assert board.page_bytes == 4096
            assert board.initramfs is not None
            assert (
                board.initramfs.endswith("initramfs8" if "raspios" in made.name else "") or "rpi" in made.name
            )


def test_the_boot_tree_starts_one_kernel_on_every_board_without_a_prefix(made: Made) -> None:
    tree = made.image.boot_tree
    config = (tree / "config.txt").read_text()
    for model in BoardModel:
        settings = evaluate(config, model)
        assert "os_prefix" not in settings.values
        assert (tree / settings.values["kernel"]) == made.image.installer_kernel
        assert settings.initramfs is None
    assert made.image.installer_kernel.is_file()
    assert (tree / "bcm2712-rpi-5-b.dtb").is_file()
    assert not (tree / "current").exists()
    assert made.image.installer_initramfs.is_file()


def test_the_delta_is_small(made: Made) -> None:
    slots = made.image.manifest.slots
    assert {slot.name for slot in slots.files} == {slot.name for slot in MANNERS[made.facts.dialect].slots}
    assert sum(slot.size_bytes for slot in slots.files) < 32 * 1024


def test_a_second_build_of_another_directory_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("raspios-bookworm", "ubuntu-ab"):
        one = make(tmp_path / f"{name}-1", name)
        # The same base: mke2fs, which made it for the test, would choose other UUIDs.
        shutil.copytree(tmp_path / f"{name}-1/store/bases", tmp_path / f"{name}-2/store/bases")
        two = make(tmp_path / f"{name}-2", name)
        assert one.image.id == two.image.id
        assert one.image.manifest.render() == two.image.manifest.render()


# A GPT in place of the MBR


def as_gpt(path: Path) -> Path:
    """Give a disk a GPT with the same partitions, written by sfdisk."""
    script = "label: gpt\nunit: sectors\nfirst-lba: 34\n"
    for entry in inspect_image(path).table.partitions:
        script += f"{entry.number} : start={entry.start_lba}, size={entry.sectors}\n"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**20)
    run(["sfdisk", "--quiet", "--wipe=never", path], input=script.encode())
    return path


def test_a_gpt_becomes_an_mbr_and_its_partuuids_follow(tmp_path: Path) -> None:
    system = SYSTEMS["ubuntu"]
    disk = as_gpt(make_disk(tmp_path / "gpt.img", system=system))
    facts = inspect_image(disk)
    assert facts.table.kind.value == "gpt"
    require_editable(facts, "1.47.0")
    made = make_from(tmp_path, disk)
    assert made.facts.table.kind.value == "mbr"
    assert made.facts.table.disk_id == f"{SIGNATURE_OF_NODE:08x}"
    assert {(r.mount, r.partition) for r in made.facts.references} == {("/", 2), ("/boot/firmware", 1)}
    run(["sfdisk", "--verify", made.disk.path])
    with open_source(made.disk.path) as source:
        assert source.read_at(512, 33 * 512) == bytes(33 * 512)
        assert b"EFI PART" not in source.read_at(made.facts.size_bytes - 4096, 4096)


def make_from(directory: Path, disk: Path) -> Made:
    """As ``make``, from a disk that is there."""

    def copy(into: Path, *, system: FakeSystem) -> Path:
        copy_sparse(disk, into)
        return into

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fakes_image.make_disk", copy)
        return make(directory / "world", "ubuntu")


# Bases that are understood and cannot be used


def changed(**files: bytes | str) -> Callable[[FakeSystem], FakeSystem]:
    names = {name.replace("__", "/").replace("_", "."): content for name, content in files.items()}
    return lambda system: replace(
        system,
        boot={**system.boot, **{k: v for k, v in names.items() if isinstance(v, bytes)}},
        root={**system.root, **{k: v for k, v in names.items() if isinstance(v, str)}},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed(cmdline_txt=b"root=PARTUUID=00000000-02\n"),
            "no partition of this disk; expected partition 2",
        ),
        (changed(cmdline_txt=b"root=LABEL=bootfs\n"), "which is partition 1; expected partition 2"),
        (changed(cmdline_txt=b"console=tty1\n"), "no word root="),
        (changed(etc__fstab="LABEL=gone / ext4 defaults 0 1\n"), "mounts / from LABEL=gone"),
    ],
    ids=["foreign signature", "wrong partition", "no root", "fstab"],
)
def test_a_base_that_would_not_find_its_root_is_refused(
    change: Callable[[FakeSystem], FakeSystem], message: str, tmp_path: Path
) -> None:
    disk = make_disk(tmp_path / "disk.img", system=change(SYSTEMS["debian"]))
    with pytest.raises(NotEditable, match=message):
        require_editable(inspect_image(disk), "1.47.0")


def test_an_unclean_fat_and_partitions_behind_the_root_are_told_together(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.img")
    facts = inspect_image(disk)
    with disk.open("r+b") as file:
        file.truncate(facts.size_bytes + 2**21)
        file.seek(446 + 32)
        file.write(struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), facts.size_bytes // 512, 2048))
        file.seek(facts.boot.offset + 32 * 512 + 7)
        file.write(b"\xf7")
    with pytest.raises(NotEditable) as caught:
        require_editable(inspect_image(disk), "1.47.0")
    assert "partition 3 lies behind the root" in caught.value.message
    assert "the FAT at byte 1048576 is unclean" in caught.value.message


def test_tools_that_are_too_old_for_the_base_are_named(tmp_path: Path) -> None:
    facts = inspect_image(make_disk(tmp_path / "new.img"))
    with pytest.raises(NotEditable, match=r"orphan_file, which e2fsprogs 1\.46\.5 does not know"):
        require_editable(facts, "1.46.5")
    old = inspect_image(make_disk(tmp_path / "old.img", features="^64bit,^huge_file,^orphan_file"))
    require_editable(old, "1.46.5")


def test_a_foreign_base_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    debian = SYSTEMS["debian"]
    without = {path: text for path, text in debian.root.items() if path != "usr/bin/cloud-init"}
    store = Store(tmp_path / "store")
    make_base(store, replace(debian, root=without))
    spec = make_spec(make_release(tmp_path / "k3s"), path=tmp_path / "cluster.yaml")
    with pytest.raises(NotUnderstood, match="nothing that Bramble knows would apply settings"):
        build_image(spec, store=store, agent_package=make_agent(tmp_path))
    assert store.entries("images") == []
