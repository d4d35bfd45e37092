"""Clones from a site that serves them as their publishers do, and packages put into them by their own apt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_archive import SUITE, Deb, build_archive, serving
from fakes_image import make_agent, make_release, make_spec
from image_site import SigningKey, end_agent, image_site, make_key
from stock_clones import publish, ready_clone
from stock_sites import put_raspios, put_ubuntu, stock_image

from fleet.boards import BoardModel
from fleet.spec.model import FileBase
from imagebuilder.bases.fetch import fetch_image
from imagebuilder.bases.origins import Proof
from imagebuilder.build import build_image
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.edits import PutFile
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.inspect import inspect_image
from imagebuilder.packages.install import AptAccess
from imagebuilder.packages.volumes import open_volumes
from imagebuilder.preflight import Expected, Severity, check_image, open_evidence
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

NAMED_ARCHIVE = "http://archive.example.org/local"
SOURCES = f"Types: deb\nURIs: {NAMED_ARCHIVE}/\nSuites: {SUITE}\nComponents: main\nTrusted: yes\n"
POSTINST = "#!/bin/sh\nset -e\nuname -m > /etc/hello-machine\nsystemctl enable hello.service\n"
UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
HELLO = Deb(
    name="hello-node",
    files={
        "/usr/lib/systemd/system/hello.service": (0o644, UNIT.encode()),
        "/boot/firmware/overlays/hello.dtbo": (0o644, b"overlay\n"),
    },
    scripts={"postinst": POSTINST},
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningKey]:
    home = tmp_path_factory.mktemp("gpg")
    yield make_key(home, "publisher")
    end_agent(home)


@pytest.mark.parametrize("name", ["ubuntu-24.04", "raspios-lite-trixie"])
def test_a_whole_stock_image_comes_from_its_site_signed_and_compressed(
    name: str, key: SigningKey, tmp_path: Path
) -> None:
    """A signed list, or a signature beside the file and a redirect to the newest; the connection breaks once.

    The catalogue's own entry is used: its file names, folders and limits. Only the pinned key is another.
    """
    clone = ready_clone(name)
    published = publish(clone, tmp_path / "site", "xz")
    for sums in (published.sums, published.sidecar):  # as sha256sum reads them
        subprocess.run(["sha256sum", "--check", "--quiet", sums.name], cwd=tmp_path / "site", check=True)
    known = stock_image(name, key.fingerprint)
    image = replace(known, max_download_mib=2048, max_disk_mib=16384)
    (tmp_path / "key.asc").write_bytes(key.armoured)
    store = Store(tmp_path / "store")
    with image_site() as site:
        if name.startswith("raspios"):
            path = put_raspios(site, published.archive.read_bytes(), key)
        else:
            path = put_ubuntu(site, published.archive.read_bytes(), key, clone.file_name.split("-")[1])
        assert path.endswith(f"/{published.archive.name}"), "the site's name is the clone's"
        site.pages[path].drop_after = [published.archive.stat().st_size // 2]
        fetched = fetch_image(image, store=store, mirror=site.url, key_files=[tmp_path / "key.asc"])
        assert site.bodies_sent(path) == 2, "the second transfer went on where the first was cut"
        again = fetch_image(image, store=store, mirror=site.url, key_files=[tmp_path / "key.asc"])
        assert site.bodies_sent(path) == 2
    assert fetched.base.id == again.base.id == f"sha256-{published.raw_sha256}"
    assert fetched.base.disk.stat().st_size == published.raw_bytes
    assert fetched.base.disk.stat().st_blocks * 512 < published.raw_bytes / 2, "holes stay holes"
    [record] = (store.root / "base-origins").glob("*/origin.json")
    assert json.loads(record.read_text())["proof"] == Proof.SIGNATURE.value
    assert inspect_image(fetched.base.disk).dialect is inspect_image(clone.disk).dialect


@pytest.mark.parametrize("name", ["raspios-lite-bookworm"])
def test_packages_go_into_a_stock_image_by_its_own_apt(name: str, tmp_path: Path) -> None:
    """A base without cloud-init; a package brings a unit that is enabled and a file of the boot partition."""
    base = tmp_path / "stock.img"
    copy_sparse(ready_clone(name).disk, base)
    (tmp_path / "scratch").mkdir()
    DiskImage(base, tmp_path / "scratch").put_root(
        [PutFile(path="/etc/apt/sources.list.d/debian.sources", content=SOURCES.encode())]
    )
    spec = make_spec(make_release(tmp_path / "k3s"), packages=("hello-node",), path=tmp_path / "cluster.yaml")
    spec = replace(spec, image=replace(spec.image, base=FileBase(base, None)))
    with serving(build_archive(tmp_path / "archive", [HELLO])) as address:
        image = build_image(
            spec,
            store=Store(tmp_path / "store"),
            agent_package=make_agent(tmp_path),
            apt=AptAccess(replacements=f"{NAMED_ARCHIVE}={address}"),
        )
    assert image.manifest.packages == ("hello-node",)
    with open_volumes(image.disk) as volumes:
        assert volumes.read_text("/etc/hello-machine") == "aarch64\n"
        wanted = "/etc/systemd/system/multi-user.target.wants/hello.service"
        assert volumes.root.find(wanted, follow=False) is not None
        assert "Package: hello-node\n" in volumes.read_text("/var/lib/dpkg/status")
    assert DiskImage(image.disk, tmp_path / "scratch").read_boot("/overlays/hello.dtbo") == b"overlay\n"
    expected = Expected(
        user=spec.image.user.name,
        ssh_authorized_keys=spec.image.user.ssh_authorized_keys,
        timezone=spec.image.timezone,
    )
    with open_evidence(image.disk, (BoardModel.PI4, BoardModel.PI5), expected) as evidence:
        errors = [finding for finding in check_image(evidence) if finding.severity is Severity.ERROR]
    assert errors == []
