"""The kernel command line in every form it was seen in, and the mounts."""

from __future__ import annotations

import pytest
from fakes_facts import make_context, make_fake_disk
from fakes_systems import BOOT, ROOT, SYSTEMS

from imagebuilder.dialects import MANNERS
from imagebuilder.disk.edits import PutBootFile, PutFile
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect.facts import Dialect
from imagebuilder.steps.cmdline import CmdlineStep, FstabStep, decode_cmdline, edit_cmdline, edit_fstab

ADDED = MANNERS[Dialect.DEBIAN].cmdline
TAIL = "cgroup_enable=cpuset cgroup_enable=memory ds=nocloud"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("root=X rootwait resize", f"root=R rootwait {TAIL}"),
        ("cgroup_enable=memory root=X cgroup_disable=memory", f"root=R cgroup_disable=memory {TAIL}"),
        ("a  b\tc", f"a b c {TAIL}"),
        ("cgroup_memory=1 a", f"a {TAIL}"),
        ("a ds=nocloud;i=rpi-imager-1761234", f"a {TAIL}"),
        ("quiet a init=/usr/lib/raspberrypi-sys-mods/firstboot", f"a {TAIL}"),
        ("a init=/usr/lib/raspi-config/init_resize.sh", f"a {TAIL}"),
        (
            "a systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot "
            "systemd.unit=kernel-command-line.target",
            f"a {TAIL}",
        ),
        ("a systemd.unit=rescue.target resizefs", f"a systemd.unit=rescue.target resizefs {TAIL}"),
    ],
)
def test_our_words_come_last_and_first_boot_programs_go(before: str, after: str) -> None:
    assert edit_cmdline(before, ADDED, "R") == after
    assert edit_cmdline(after, ADDED, "R") == after


@pytest.mark.parametrize(
    "data",
    [
        b"root=X rootwait",
        b"root=X rootwait\n",
        b"root=X rootwait\r\n",
        b"\xef\xbb\xbfroot=X rootwait\n",
        b"root=X rootwait\nthe firmware ignores this\n",
        b"root=X rootwait\0\0",
        b"root=X rootwait \0\n\0",
        b"root=X rootwait\t\n",
    ],
    ids=["bare", "LF", "CRLF", "BOM", "two lines", "NUL", "NUL and more", "tab"],
)
def test_every_form_of_the_line_is_read_as_the_same(data: bytes) -> None:
    assert decode_cmdline(data).strip() == "root=X rootwait"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\nroot=X\n", "is empty"),
        (b" \r\n", "is empty"),
        ("root=X".encode("utf-16-le"), "control character 00 at byte 1"),
        (b"root=X \x1b[0m", "control character 1b"),
        (b"root=\xff", "not UTF-8: byte 5 is ff"),
    ],
)
def test_a_line_that_is_none_is_told(data: bytes, message: str) -> None:
    with pytest.raises(NotUnderstood, match=message):
        decode_cmdline(data)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_dialect_names_its_root_by_partuuid_in_every_cmdline(name: str) -> None:
    edits = CmdlineStep().edits(make_context(name))
    assert [edit.path for edit in edits] == [
        "/current/cmdline.txt" if name == "ubuntu-ab" else "/cmdline.txt"
    ]
    for edit in edits:
        assert isinstance(edit, PutBootFile)
        words = edit.content.decode().split()
        assert edit.content.count(b"\n") == 1
        assert [word for word in words if word.startswith("root=")] == [f"root={ROOT}"]
        has_seed = MANNERS[Dialect(name.removesuffix("-ab"))].templates is not None
        assert ("ds=nocloud" in words) == has_seed
        assert not {"resize", "quiet", "init=/usr/lib/raspberrypi-sys-mods/firstboot"} & set(words)


def test_a_line_that_is_too_long_for_the_firmware_is_refused() -> None:
    disk = make_fake_disk("debian")
    disk.boot["cmdline.txt"] = b"root=X " + b"x" * 1000
    with pytest.raises(NotUnderstood, match="the firmware takes 1023"):
        CmdlineStep().edits(make_context("debian", disk))


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_fstab_names_both_partitions_by_partuuid(name: str) -> None:
    (edit,) = FstabStep().edits(make_context(name))
    assert isinstance(edit, PutFile)
    assert isinstance(edit.content, bytes)
    devices = {line.split()[1]: line.split()[0] for line in edit.content.decode().splitlines()}
    assert devices["/"] == ROOT
    assert devices["/boot/firmware"] == BOOT


def test_other_lines_of_fstab_stay_and_swap_files_go() -> None:
    text = (
        "# LABEL=writable / ext4\nLABEL=writable  /\text4 defaults 0 1\n/swapfile none swap sw 0 0\n"
        "/dev/sda3 none swap sw 0 0\n\ntmpfs /tmp tmpfs defaults 0 0"
    )
    assert edit_fstab(text, {"LABEL=writable": "PARTUUID=1-02"}) == (
        "# LABEL=writable / ext4\nPARTUUID=1-02  /\text4 defaults 0 1\n"
        "/dev/sda3 none swap sw 0 0\n\ntmpfs /tmp tmpfs defaults 0 0\n"
    )


def test_a_base_without_mounts_is_refused() -> None:
    disk = make_fake_disk("debian")
    del disk.root["etc/fstab"]
    with pytest.raises(NotUnderstood, match="does not name a partition"):
        FstabStep().edits(make_context("debian", disk))
