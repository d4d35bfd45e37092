"""The clones are what they claim: the layouts of the stock images, readable by tools that are not ours."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from stock_clones import CLONES, Clone, make_clone, ready_clone

from bramble.paths import store
from imagebuilder.bases import DEBIAN_TRIXIE, find_base
from imagebuilder.runner import run
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

VERSIONS = {
    "raspios-lite-trixie": ("debian", "13"),
    "raspios-lite-bookworm": ("debian", "12"),
    "ubuntu-22.04": ("ubuntu", "22.04"),
    "ubuntu-24.04": ("ubuntu", "24.04"),
    "ubuntu-26.04": ("ubuntu", "26.04"),
}


@pytest.fixture(scope="module", params=CLONES)
def clone(request: pytest.FixtureRequest) -> Clone:
    return ready_clone(request.param)


def _root(clone: Clone, command: str) -> str:
    place = f"{clone.disk}?offset={clone.layout.root_start * 512}"
    return run(["debugfs", "-R", command, place]).stdout.decode()


def _boot(clone: Clone, name: str) -> str:
    place = f"{clone.disk}@@{clone.layout.boot_start * 512}"
    return run(["mtype", "-i", place, f"::/{name}"], env={"MTOOLSRC": "/dev/null"}).stdout.decode()


def test_sfdisk_and_e2fsprogs_see_the_stock_layout(clone: Clone) -> None:
    layout = clone.layout
    table = json.loads(run(["sfdisk", "--json", clone.disk]).stdout)["partitiontable"]
    assert table["id"] == f"0x{layout.signature:08x}"
    assert [(part["start"], part["size"], part["type"]) for part in table["partitions"]] == [
        (layout.boot_start, layout.boot_sectors, "c"),
        (layout.root_start, layout.root_sectors, "83"),
    ]
    assert clone.disk.stat().st_size == layout.disk_sectors * 512
    header = run(["dumpe2fs", "-h", f"{clone.disk}?offset={layout.root_start * 512}"]).stdout.decode()
    features = next(line for line in header.splitlines() if line.startswith("Filesystem features:")).split()
    assert ("64bit" in features) == ("huge_file" in features) == layout.ext4_64bit
    assert ("orphan_file" in features) == ("orphan_file" not in layout.ext4_features)


def test_the_root_is_of_its_distribution_and_finds_its_disk(clone: Clone) -> None:
    distribution, version = VERSIONS[clone.name]
    release = _root(clone, "cat /usr/lib/os-release")
    assert f"ID={distribution}\n" in release
    assert f'VERSION_ID="{version}"' in release
    cmdline = _boot(clone, "current/cmdline.txt" if clone.name == "ubuntu-26.04" else "cmdline.txt")
    fstab = _root(clone, "cat /etc/fstab")
    root = "LABEL=writable" if distribution == "ubuntu" else f"PARTUUID={clone.layout.partuuid(2)}"
    assert f"root={root} " in cmdline
    assert root in fstab
    assert "\n" not in cmdline.rstrip("\n"), "the firmware reads one line"
    assert ("resize" in cmdline.split()) == (clone.name == "raspios-lite-trixie")
    assert ("init=/usr/lib/raspberrypi-sys-mods/firstboot" in cmdline) == (
        clone.name == "raspios-lite-bookworm"
    )


def test_nothing_of_bramble_is_left_in_a_stock_image(clone: Clone) -> None:
    for path in ("/etc/cloud/cloud.cfg.d/90_bramble.cfg", "/etc/systemd/system-preset/00-bramble.preset"):
        assert (
            "File not found"
            in run(
                ["debugfs", "-R", f"stat {path}", f"{clone.disk}?offset={clone.layout.root_start * 512}"]
            ).stderr.decode()
        )
    has_cloud_init = "Package: cloud-init\n" in _root(clone, "cat /var/lib/dpkg/status")
    assert has_cloud_init == (clone.name != "raspios-lite-bookworm")


def test_two_makings_give_the_same_bytes(tmp_path: Path) -> None:
    name = "ubuntu-24.04"
    clone = ready_clone(name)
    base = find_base(DEBIAN_TRIXIE.name, store())
    assert base is not None
    other = Store(tmp_path / "store")
    (other.root / "bases").mkdir(parents=True)
    (other.root / "bases" / base.id).symlink_to(base.disk.parent)
    assert _digest(make_clone(name, other).disk) == _digest(clone.disk)
    shutil.rmtree(other.root)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
