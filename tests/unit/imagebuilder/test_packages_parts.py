"""Package layers, pure parts: apt sources, dpkg's database, layer.json, progress, what counts as changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import NotUnderstood
from imagebuilder.packages.capture import compare, is_ignored, snapshot
from imagebuilder.packages.dpkg import changed_versions, parse_status
from imagebuilder.packages.layer import Entry, Layer, LayerError, parse_entries, require_placeable
from imagebuilder.packages.progress import InstallProgress
from imagebuilder.packages.sources import (
    SourceFile,
    debian_replacements,
    find_uris,
    parse_replacements,
    with_replacements,
)

MIRROR = debian_replacements("http://10.0.0.1/debian/", "http://10.0.0.1/debian-security")
ONE_LINE = """\
# a comment with http://ftp.debian.org/debian
deb http://ftp.debian.org/debian/ trixie main contrib
deb [signed-by=/usr/share/keyrings/raspberrypi.pgp] http://archive.raspberrypi.com/debian/ trixie main
deb-src https://ftp.debian.org/debian trixie main
deb http://security.debian.org/debian-security/ trixie-security main
"""
UBUNTU_LIST = """\
deb http://ports.ubuntu.com/ubuntu-ports jammy main restricted universe multiverse
# deb-src http://ports.ubuntu.com/ubuntu-ports jammy main
deb http://ports.ubuntu.com/ubuntu-ports/ jammy-security main
"""
UBUNTU = """\
# See the manual of sources.list
Types: deb
URIs: http://ports.ubuntu.com/ubuntu-ports/
Suites: noble noble-updates noble-backports
Components: main universe restricted multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

## Security
Types: deb
URIs: http://ports.ubuntu.com/ubuntu-ports/
Suites: noble-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBFufwdoBEADv/Gxytx/LcSXYuM0MwKojbBye81s0G1nEx+lz6VAUpIUZnbkq
 -----END PGP PUBLIC KEY BLOCK-----
"""
DEB822 = """\
Types: deb
URIs: http://ftp.debian.org/debian/
 http://ports.ubuntu.com/ubuntu-ports
Suites: trixie
Components: main
"""


def test_debian_comes_from_the_mirror_and_other_archives_stay() -> None:
    [moved] = with_replacements([SourceFile("sources.list", ONE_LINE)], MIRROR)
    assert moved.text.splitlines() == [
        "# a comment with http://ftp.debian.org/debian",
        "deb http://10.0.0.1/debian/ trixie main contrib",
        ONE_LINE.splitlines()[2],
        "deb-src http://10.0.0.1/debian trixie main",
        "deb http://10.0.0.1/debian-security/ trixie-security main",
    ]
    assert find_uris([SourceFile("sources.list", ONE_LINE)])[1] == "http://archive.raspberrypi.com/debian/"


def test_stanzas_are_moved_too_and_keep_their_other_fields() -> None:
    ports = parse_replacements("http://ports.ubuntu.com/ubuntu-ports=https://mirror.example.org/ports/")
    source = SourceFile("sources.list.d/debian.sources", DEB822)
    [moved] = with_replacements([source], {**MIRROR, **ports})
    assert find_uris([moved]) == ["http://10.0.0.1/debian/", "https://mirror.example.org/ports"]
    assert moved.text.startswith("Types: deb\nURIs: http://10.0.0.1/debian/\n https://")
    assert moved.text.endswith("Suites: trixie\nComponents: main\n")
    assert moved.flat_name == "debian.sources"


def test_ubuntus_sources_of_both_forms_are_moved_and_nothing_else_of_them() -> None:
    ports = parse_replacements("http://ports.ubuntu.com/ubuntu-ports=http://10.0.0.1/ports")
    for source in (
        SourceFile("sources.list", UBUNTU_LIST),
        SourceFile("sources.list.d/ubuntu.sources", UBUNTU),
    ):
        [moved] = with_replacements([source], {**MIRROR, **ports})
        assert {uri.rstrip("/") for uri in find_uris([moved])} == {"http://10.0.0.1/ports"}
        before = source.text.splitlines()
        changed = [line for line in before if line not in moved.text.splitlines()]
        assert all("ports.ubuntu.com" in line for line in changed)
        assert len(moved.text.splitlines()) == len(before)


def test_without_a_security_mirror_security_stays_where_it_is() -> None:
    [moved] = with_replacements(
        [SourceFile("sources.list", ONE_LINE)], debian_replacements("http://10.0.0.1/debian", None)
    )
    assert "deb http://security.debian.org/debian-security/" in moved.text


@pytest.mark.parametrize("text", ["http://a", "a=http://b", "http://a=b", "=", "file:/x=http://a"])
def test_replacements_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="FROM=TO"):
        parse_replacements(text)


STATUS = """\
Package: libc6
Status: install ok installed
Architecture: arm64
Source: glibc (2.41-12)
Version: 2.41-12+b1
Description: GNU C Library
 with a long text

Package: gone
Status: deinstall ok config-files
Architecture: arm64
Version: 1

Package: kept
Status: hold ok installed
Architecture: all
Version: 2

Package: half
Status: install ok half-configured
Architecture: arm64
Version: 3
"""


def test_dpkgs_database_tells_what_is_installed() -> None:
    found = {package.name: package for package in parse_status(STATUS)}
    assert sorted(found) == ["half", "kept", "libc6"]
    assert (found["libc6"].source, found["libc6"].source_version) == ("glibc", "2.41-12")
    assert (found["kept"].source, found["kept"].source_version) == ("kept", "2")
    assert found["libc6"].description == "GNU C Library"
    assert [found[name].is_installed for name in ("half", "kept", "libc6")] == [False, True, True]


def test_only_new_and_upgraded_packages_count_as_changed() -> None:
    after = (
        STATUS.replace("Version: 2\n", "Version: 4\n")
        + "\nPackage: new\nStatus: install ok installed\nVersion: 1\n"
    )
    assert changed_versions(STATUS, after) == {"kept": "4", "new": "1"}


def layer(*entries: Entry, removed: tuple[str, ...] = ()) -> Layer:
    return Layer(
        key="k",
        packages=("less",),
        installed={"less": "1"},
        archives={"Release": "00"},
        epoch=1,
        entries=entries,
        removed=removed,
    )


def entry(path: str = "/usr/bin/less", **changes: object) -> Entry:
    values: dict[str, object] = {"path": path, "mode": 0o100755, "uid": 0, "gid": 0, "mtime": 1, **changes}
    return Entry(**values)  # type: ignore[arg-type]  # the fields are typed one by one by the tests


def test_a_layer_survives_its_file() -> None:
    whole = layer(
        entry(sha256="ab", size_bytes=0, attributes={"security.capability": b"\x01\x00"}),
        entry("/usr/bin/\udcff", mode=0o120777, target="less"),
        entry("/usr/bin/more", same_as="/usr/bin/less"),
        removed=("/usr/bin/pg",),
    )
    assert Layer.parse(whole.render()) == whole


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "entries": [{}]}'])
def test_a_layer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood, match="package layer"):
        Layer.parse(text)


def test_all_that_an_image_cannot_hold_is_told_at_once() -> None:
    with pytest.raises(LayerError) as caught:
        require_placeable(
            layer(
                entry('/etc/"quoted"', sha256="ab"),
                entry("/etc/two\nlines", sha256="ab"),
                entry("/boot/firmware/link", mode=0o120777, target="x"),
                entry("/boot/firmware/fine", sha256="ab"),
                entry("/boot/firmware/directory", mode=0o40755),
            )
        )
    assert len(caught.value.message.splitlines()) == 4
    require_placeable(layer(entry("/etc/back\\slash", sha256="ab")))


def test_changes_of_a_tree_are_files_links_directories_and_removals(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("etc", "usr/bin", "var/log", "run"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/kept").write_text("kept")
    (tree / "etc/changed").write_text("old")
    (tree / "usr/bin/removed").write_text("x")
    before = snapshot(str(tree))
    (tree / "etc/changed").write_text("new")
    os.utime(tree / "etc/changed", (5_000, 5_000))
    (tree / "usr/bin/removed").unlink()
    (tree / "usr/bin/added").write_text("added")
    (tree / "usr/bin/twin").hardlink_to(tree / "usr/bin/added")
    (tree / "usr/bin/link").symlink_to("added")
    (tree / "var/log/x.log").write_text("log")
    (tree / "var/log/app").mkdir()
    (tree / "run/x").write_text("gone at boot")
    (tree / "etc").chmod(0o750)
    changes = compare(str(tree), before, tmp_path / "out", epoch=10_000)
    found = {one.path: one for one in parse_entries(changes["entries"])}
    assert sorted(found) == [
        "/etc",
        "/etc/changed",
        "/usr/bin/added",
        "/usr/bin/link",
        "/usr/bin/twin",
        "/var/log/app",
    ]
    assert changes["removed"] == ["/usr/bin/removed"]
    assert found["/etc"].mode & 0o7777 == 0o750
    assert found["/etc/changed"].mtime == 5_000
    assert found["/usr/bin/added"].mtime == 10_000, (
        "a time after the archive's is the build's, and is not kept"
    )
    assert found["/usr/bin/twin"].same_as == "/usr/bin/added"
    assert found["/usr/bin/link"].target == "added"
    digest = found["/etc/changed"].sha256
    assert digest is not None
    assert (tmp_path / "out" / "files" / digest).read_text() == "new"


def test_what_belongs_to_the_build_or_to_one_node_is_ignored() -> None:
    for path in (
        "/etc/machine-id",
        "/etc/nvme/hostnqn",
        "/etc/resolv.conf",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/shadow-",
        "/var/lib/dpkg/status-old",
        "/var/lib/apt/lists/x/y",
        "/usr/sbin/policy-rc.d",
    ):
        assert is_ignored(path, 0o100644), path
    for path in ("/etc/shadow", "/var/lib/dpkg/status", "/etc/resolv.conf.d/x", "/etc/x-"):
        assert not is_ignored(path, 0o100644), path


def test_progress_counts_packages_once_apt_has_said_how_many() -> None:
    reader = InstallProgress(1)
    steps = [
        reader.read(line)
        for line in (
            "bramble: extract",
            "bramble: nonsense",
            "bramble: install",
            "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
            "Unpacking a (1) ...",
            "Unpacking b (1) ...",
            "Setting up a (1) ...",
            "Setting up b (1) ...",
            "bramble: complete",
        )
    ]
    shares = [step[1] for step in steps if step]
    assert shares == sorted(shares)
    assert steps[1] is None
    assert steps[-1] == ("packages installed", 1.0)
    assert steps[5] is not None
    assert 0.6 < steps[5][1] < 0.8


@given(st.lists(st.text(max_size=40)))
def test_progress_never_falls_whatever_is_printed(lines: list[str]) -> None:
    reader = InstallProgress(3)
    shares = [step[1] for line in ["bramble: install", *lines] if (step := reader.read(line))]
    assert shares == sorted(shares)
