"""Packages in the image: the base's own apt under emulation, from an archive on loopback.

The base is debian-trixie with one file changed: its sources name an archive that is served here. The
packages do what real ones do wrong: they start services by every door there is, run arm64 programs, and ship
odd files.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_archive import SUITE, Deb, build_archive, serving
from fakes_image import make_agent, make_release, make_spec

from fleet.spec.model import PackagesAt
from imagebuilder.bases import DEBIAN_TRIXIE, Base, build_base, find_base
from imagebuilder.bases.base import DISK_NAME, INFO_NAME, KIND
from imagebuilder.build import Image, build_image, find_image
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.edits import PutFile
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.packages.apply import apply_layer, layer_room_bytes
from imagebuilder.packages.install import (
    AptAccess,
    PackageRequest,
    PackagesError,
    StoredLayer,
    find_layer,
    make_layer,
)
from imagebuilder.packages.volumes import Volumes, open_volumes
from imagebuilder.sandbox import SandboxError
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

NAMED_ARCHIVE = "http://archive.example.org/local"
SOURCES = f"Types: deb\nURIs: {NAMED_ARCHIVE}/\nSuites: {SUITE}\nComponents: main\nTrusted: yes\n"
UNIT = "[Service]\nExecStart=/usr/sbin/hellod\n[Install]\nWantedBy=multi-user.target\n"
POSTINST = """\
#!/bin/sh
set -e
uname -m > /etc/hello/machine
groupadd --system hello
useradd --system --gid hello --no-create-home --shell /usr/sbin/nologin hello
chown hello:hello /var/lib/hello
chmod 2750 /var/lib/hello
deb-systemd-helper enable hello.service
invoke-rc.d hello start || true
deb-systemd-invoke start hello.service || true
systemctl start hello.service || true
service hello start || true
start-stop-daemon --start --exec /bin/touch -- /etc/hello/started
mkfifo /var/lib/hello/pipe
date > /var/log/hello.log
mkdir -p /etc/iscsi
drawn=$(od -An -N6 -tx1 /dev/urandom | tr -d ' ')
echo "InitiatorName=iqn.1993-08.org.debian:01:$drawn" > /etc/iscsi/initiatorname.iscsi
chmod 600 /etc/iscsi/initiatorname.iscsi
date > /tmp/hello
"""
INIT_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides: hello
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop:
### END INIT INFO
[ "$1" != start ] || touch /etc/hello/started
"""
PACKAGES = [
    Deb(
        name="hello-node",
        fields={"Depends": "hello-data", "Conflicts": "less", "Homepage": "https://example.org/hello"},
        files={
            "/etc/hello/hello.conf": (0o640, b"greeting = hello\n"),
            "/etc/init.d/hello": (0o755, INIT_SCRIPT.encode()),
            "/usr/lib/systemd/system/hello.service": (0o644, UNIT.encode()),
            "/usr/lib/systemd/system/system-hello\\x2dnode.slice": (0o644, b"[Slice]\n"),
            "/usr/bin/hello": (0o4755, b"#!/bin/sh\necho hello\n"),
            "/usr/bin/hello-link": (0o777, b"-> hello"),
            "/usr/share/hello/name with spaces and \u00fc": (0o644, b"odd\n"),
            "/usr/share/hello/sparse": (0o644, b"a" + bytes(300_000) + b"z"),
            "/var/lib/hello/state": (0o600, b"state\n"),
            "/boot/firmware/overlays/hello/hello.dtbo": (0o644, b"overlay\n"),
        },
        hard_links={"/usr/bin/hello-twin": "/usr/bin/hello"},
        scripts={"postinst": POSTINST},
    ),
    Deb(name="hello-data", files={"/usr/share/hello/data": (0o644, b"x" * 100_000)}),
    Deb(name="hello-broken", scripts={"postinst": "#!/bin/sh\necho the disk is on fire >&2\nexit 3\n"}),
]


@pytest.fixture(scope="module")
def debian() -> Base:
    store = Store.default()
    return find_base("debian-trixie", store) or build_base(
        DEBIAN_TRIXIE, store=store, progress=lambda _step: None
    )


@pytest.fixture(scope="module")
def store(debian: Base, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the base whose packages come from the archive here."""
    root = tmp_path_factory.mktemp("packages")

    def build(into: Path) -> None:
        copy_sparse(debian.disk, into / DISK_NAME)
        (into / INFO_NAME).write_text(debian.info.render())
        (root / "scratch").mkdir()
        DiskImage(into / DISK_NAME, root / "scratch").put_root(
            [PutFile(path="/etc/apt/sources.list.d/debian.sources", content=SOURCES.encode())]
        )

    store = Store(root / "store")
    store.get_or_create(KIND, debian.id, build)
    return store


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AptAccess]:
    with serving(build_archive(tmp_path_factory.mktemp("archive"), PACKAGES)) as address:
        yield AptAccess(replacements=f"{NAMED_ARCHIVE}={address}")


def request(store: Store, *packages: str, access: AptAccess) -> PackageRequest:
    base = find_base("debian-trixie", store)
    assert base is not None
    return PackageRequest(base_id=base.id, base_disk=base.disk, packages=packages, access=access)


@pytest.fixture(scope="module")
def layer(store: Store, access: AptAccess) -> StoredLayer:
    return make_layer(request(store, "hello-node", access=access), store=store)


@pytest.fixture(scope="module")
def image(
    store: Store, access: AptAccess, layer: StoredLayer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("inputs")
    spec = make_spec(make_release(root / "k3s"), packages=("hello-node",), path=root / "cluster.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
        agent = make_agent(root)
        built = build_image(spec, store=store, agent_package=agent, apt=access)
        assert find_image(spec, store=store, agent_package=agent, apt=access) == built
        later = replace(spec, image=replace(spec.image, packages_at=PackagesAt.FIRST_BOOT))
        assert find_image(later, store=store, agent_package=agent, apt=access) is None
        yield built


@pytest.fixture
def volumes(image: Image) -> Iterator[Volumes]:
    with open_volumes(image.disk) as volumes:
        yield volumes


def test_the_package_and_what_it_needs_are_installed(volumes: Volumes, layer: StoredLayer) -> None:
    assert layer.layer.installed == {"hello-node": "1.0", "hello-data": "1.0"}
    status = volumes.read_text("/var/lib/dpkg/status")
    assert "Package: hello-node\nStatus: install ok installed\n" in status
    assert volumes.read_text("/usr/share/hello/data") == "x" * 100_000


def test_maintainer_scripts_ran_arm64_programs_and_started_nothing(volumes: Volumes) -> None:
    assert volumes.read_text("/etc/hello/machine") == "aarch64\n"
    assert volumes.root.find("/etc/hello/started") is None
    enabled = volumes.root.find("/etc/systemd/system/multi-user.target.wants/hello.service", follow=False)
    assert enabled is not None
    assert enabled.is_symlink
    preset = volumes.read_text("/etc/systemd/system-preset/00-bramble.preset")
    assert preset.endswith("disable *\n")  # as it was


def test_owners_modes_links_and_odd_names_are_kept(volumes: Volumes) -> None:
    root = volumes.root
    uid, gid = next(
        map(int, line.split(":")[2:4])
        for line in volumes.read_text("/etc/passwd").splitlines()
        if line.startswith("hello:")
    )
    state = root.require("/var/lib/hello")
    assert (state.uid, state.gid, stat.S_IMODE(state.mode)) == (uid, gid, 0o2750)
    assert stat.S_IMODE(root.require("/var/lib/hello/state").mode) == 0o600
    assert stat.S_ISFIFO(root.require("/var/lib/hello/pipe").mode)
    hello, twin = root.require("/usr/bin/hello"), root.require("/usr/bin/hello-twin")
    assert (hello.number, stat.S_IMODE(hello.mode)) == (twin.number, 0o4755)
    link = root.find("/usr/bin/hello-link", follow=False)
    assert link is not None
    assert root.read_link(link) == "hello"
    assert root.read("/usr/lib/systemd/system/system-hello\\x2dnode.slice") == b"[Slice]\n"
    assert root.read("/usr/share/hello/name with spaces and \u00fc") == b"odd\n"
    assert root.read("/usr/share/hello/sparse") == b"a" + bytes(300_000) + b"z"


def test_files_of_the_boot_partition_go_to_the_boot_partition(volumes: Volumes, image: Image) -> None:
    assert volumes.boot.read("/overlays/hello/hello.dtbo") == b"overlay\n"
    assert (image.boot_tree / "overlays/hello/hello.dtbo").read_bytes() == b"overlay\n"
    assert volumes.root.find("/boot/firmware/overlays") is None


def test_what_apt_removed_is_gone(volumes: Volumes, layer: StoredLayer) -> None:
    assert "/usr/bin/less" in layer.layer.removed
    assert volumes.root.find("/usr/bin/less", follow=False) is None


def test_no_two_nodes_get_the_name_of_one_iscsi_initiator(volumes: Volumes) -> None:
    name = volumes.root.require("/etc/iscsi/initiatorname.iscsi")
    assert volumes.read_text("/etc/iscsi/initiatorname.iscsi") == "GenerateName=yes\n"
    assert stat.S_IMODE(name.mode) == 0o600


def test_nothing_of_the_build_is_left(volumes: Volumes, debian: Base) -> None:
    root = volumes.root
    for path in ("/usr/sbin/policy-rc.d", "/var/log/hello.log", "/tmp/hello", "/run/bramble"):
        assert root.find(path, follow=False) is None, path
    for path in ("/var/lib/apt/lists", "/var/cache/apt/archives"):
        assert root.list_directory(root.require(path)) == {}, path
    assert volumes.read_text("/etc/apt/sources.list.d/debian.sources") == SOURCES
    with open_volumes(debian.disk) as before:
        for path in ("/etc/resolv.conf", "/etc/machine-id"):
            old, new = before.root.find(path, follow=False), root.find(path, follow=False)
            assert (old and old.mode) == (new and new.mode), path
        assert before.read_text("/etc/machine-id") == volumes.read_text("/etc/machine-id")


def test_the_manifest_tells_what_the_packages_changed(image: Image) -> None:
    changed = {(change.volume, change.path) for change in image.manifest.changes}
    assert {("root", "/usr/bin/hello"), ("boot", "/overlays/hello/hello.dtbo")} <= changed


def test_a_second_run_elsewhere_gives_the_same_layer(
    store: Store, access: AptAccess, layer: StoredLayer, tmp_path: Path
) -> None:
    other = make_layer(request(store, "hello-node", access=access), store=Store(tmp_path / "store"))
    assert (other.layer.epoch, other.sha256) == (layer.layer.epoch, layer.sha256)


def test_a_layer_is_found_again_without_network_or_sandbox(
    store: Store, access: AptAccess, layer: StoredLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagebuilder.packages.install.stream", None)
    monkeypatch.setattr("imagebuilder.packages.install.require_sandbox", None)
    found = find_layer(request(store, "hello-node", access=access), store)
    assert found == layer
    assert find_layer(request(store, "hello-data", access=access), store) is None


def test_a_package_that_no_archive_has_is_named(store: Store, access: AptAccess) -> None:
    with pytest.raises(PackagesError) as caught:
        make_layer(request(store, "hello-node", "helo-node", access=access), store=store)
    assert "no package 'helo-node'" in caught.value.message
    assert access.replacements.partition("=")[2] in caught.value.message


def test_a_package_that_does_not_install_shows_its_words(store: Store, access: AptAccess) -> None:
    before = store.entries("layers")
    with pytest.raises(PackagesError) as caught:
        make_layer(request(store, "hello-broken", access=access), store=store)
    assert "hello-broken" in caught.value.message
    assert "image.packages_at: first-boot" in caught.value.hint
    assert store.entries("layers") == before
    assert list((store.root / "tmp").iterdir()) == []


def test_an_archive_that_does_not_answer_names_the_ways_around(store: Store) -> None:
    nowhere = AptAccess(replacements=f"{NAMED_ARCHIVE}=http://127.0.0.1:9")
    with pytest.raises(PackagesError) as caught:
        make_layer(request(store, "hello-node", access=nowhere), store=store)
    assert "cannot be reached" in caught.value.message
    for way in ("BRAMBLE_MIRROR", "BRAMBLE_APT_MIRRORS", "image.packages_at: first-boot"):
        assert way in caught.value.hint


def test_a_host_without_user_namespaces_names_the_ways_around(
    store: Store, access: AptAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise SandboxError("this kernel does not let user 1000 make a user namespace", "Allow it.")

    monkeypatch.setattr("imagebuilder.packages.install.require_sandbox", refuse)
    with pytest.raises(SandboxError) as caught:
        make_layer(request(store, "hello-data", access=access), store=store)
    assert "image.packages: apt cannot run for the image on this machine" in caught.value.message
    assert caught.value.hint.startswith("Allow it.")
    assert "image.packages_at: first-boot" in caught.value.hint


def test_a_package_of_debian_keeps_its_file_capabilities(debian: Base, tmp_path: Path) -> None:
    """arping may open raw sockets because of an attribute of its file. From the mirror that the host uses."""
    wanted = PackageRequest(base_id=debian.id, base_disk=debian.disk, packages=("iputils-arping",))
    stored = make_layer(wanted, store=Store(tmp_path / "store"))
    copy_sparse(debian.disk, tmp_path / "disk.img")
    (tmp_path / "scratch").mkdir()
    disk = DiskImage(tmp_path / "disk.img", tmp_path / "scratch")
    disk.grow_root(layer_room_bytes(stored.layer))
    apply_layer(stored, disk)
    disk.check()
    with open_volumes(disk.path) as volumes:
        arping = volumes.root.require("/usr/bin/arping")
        # CAP_NET_RAW (13), permitted, revision 2 (linux/capability.h)
        raw = bytes.fromhex("0100000200200000" + "00" * 12)
        assert volumes.root.attributes(arping) == {"security.capability": raw}
