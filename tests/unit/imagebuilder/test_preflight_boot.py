"""The preflight's rules over firmware and kernel."""

from __future__ import annotations

import pytest
from fakes_preflight import (
    CMDLINE,
    SIGNATURE,
    faults,
    make_device_tree,
    make_evidence,
    make_facts,
    rules,
)

from fleet.boards import BoardModel
from imagebuilder.inspect import RootReference
from imagebuilder.preflight import Severity, check_image
from imagebuilder.preflight.devicetree import DeviceTreeError, read_bootargs


def test_a_good_image_has_neither_errors_nor_warnings() -> None:
    assert faults(make_evidence()) == []


def test_a_board_that_was_asked_for_must_boot_and_others_only_get_a_warning() -> None:
    facts = make_facts(seeds=("user-data", "meta-data"), problem="no kernel: looked for kernel8.img")
    asked = faults(make_evidence(facts=facts))
    assert [(f.rule, f.severity) for f in asked if f.rule == "board-boots"] == [
        ("board-boots", Severity.ERROR)
    ]
    everything = faults(make_evidence(facts=facts, models=tuple(BoardModel)))
    assert {f.severity for f in everything if f.rule == "board-boots"} == {Severity.WARNING}


def test_large_pages_are_told_once_for_all_boards_with_the_mend() -> None:
    facts = make_facts(seeds=("user-data", "meta-data"), page_bytes=16384)
    found = [f for f in faults(make_evidence(facts=facts, models=tuple(BoardModel))) if f.rule == "page-size"]
    assert len(found) == 1
    assert "16 KiB" in found[0].message
    assert "kernel=kernel8.img" in found[0].mend


def test_a_kernel_without_its_modules_is_an_error() -> None:
    facts = make_facts(seeds=("user-data", "meta-data"), modules=("6.6.0-other",))
    assert "kernel-modules" in rules(make_evidence(facts=facts))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"\xef\xbb\xbf" + CMDLINE, "cmdline-bom"),
        (CMDLINE + b"cgroup_enable=memory\n", "cmdline-one-line"),
        (CMDLINE.replace(b"\n", b"\r\n"), "cmdline-cr"),
        (CMDLINE.rstrip() + b"\0rest", "cmdline-nul"),
        (CMDLINE.rstrip() + b" x=" + b"y" * 2048, "cmdline-length"),
        (b"console=tty1 cgroup_enable=memory\n", "cmdline-root"),
        (b"root=/dev/sda2 " + CMDLINE, "cmdline-root"),
        (CMDLINE.rstrip() + b" systemd.run=/boot/firmware/firstrun.sh\n", "systemd-run"),
    ],
    ids=["bom", "two lines", "cr", "nul", "too long", "no root", "two roots", "script is gone"],
)
def test_command_line_faults_are_named(content: bytes, rule: str) -> None:
    assert rule in rules(make_evidence(boot={"/cmdline.txt": content}))


@pytest.mark.parametrize("content", [CMDLINE.rstrip(), CMDLINE + b"\n", CMDLINE.replace(b" ", b"\t")])
def test_harmless_forms_of_the_command_line_pass(content: bytes) -> None:
    assert faults(make_evidence(boot={"/cmdline.txt": content})) == []


@pytest.mark.parametrize("word", ["resize", "init=/usr/lib/raspberrypi-sys-mods/firstboot"])
def test_a_word_that_rewrites_the_signature_is_an_error_on_our_images_only(word: str) -> None:
    line = {"/cmdline.txt": CMDLINE.rstrip() + b" " + word.encode() + b"\n"}
    assert "disk-signature" not in rules(make_evidence(boot=line))
    assert "disk-signature" in {finding.rule for finding in check_image(make_evidence(boot=line))}
    ours = {"/etc/bramble/image.json": "{}", "/usr/local/bin/k3s": "x"}
    assert "disk-signature" in rules(make_evidence(boot=line, root=ours))


@pytest.mark.parametrize(
    ("bootargs", "words", "is_on"),
    [
        ("", "", True),
        ("cgroup_disable=memory", "", False),
        ("cgroup_disable=memory", "cgroup_enable=memory", True),
        ("cgroup_disable=memory", "cgroup_memory=1", False),
        ("", "cgroup_enable=memory cgroup_disable=memory", False),
        ("", "cgroup_disable=pressure,memory", False),
        ("", "cgroup_disable=pressure", True),
        ("cgroup_disable=memory", "cgroup_enable=cpuset", False),
    ],
)
def test_the_last_word_about_the_memory_cgroup_counts(bootargs: str, words: str, is_on: bool) -> None:
    line = {"/cmdline.txt": f"root=PARTUUID={SIGNATURE}-02 {words}".encode()}
    found = faults(make_evidence(boot=line, bootargs=bootargs))
    assert ("memory-cgroup" not in {f.rule for f in found}) == is_on
    if not is_on:
        assert {f.severity for f in found} == {Severity.WARNING}
        with_k3s = faults(make_evidence(boot=line, bootargs=bootargs, root={"/usr/local/bin/k3s": "x"}))
        assert Severity.ERROR in {f.severity for f in with_k3s if f.rule == "memory-cgroup"}


def test_a_reference_that_leads_nowhere_or_elsewhere_is_an_error() -> None:
    nowhere = RootReference(place="cmdline.txt", mount="/", names="PARTUUID=00000000-02", partition=None)
    elsewhere = RootReference(place="/etc/fstab", mount="/boot/firmware", names="LABEL=rootfs", partition=2)
    facts = make_facts(seeds=("user-data", "meta-data"), references=(nowhere, elsewhere))
    found = [f for f in faults(make_evidence(facts=facts)) if f.rule == "partition-reference"]
    assert [f.place for f in found] == ["boot:/cmdline.txt", "root:/etc/fstab"]
    assert f"disk {SIGNATURE}" in found[0].message


def test_an_fstab_without_the_boot_partition_is_a_warning() -> None:
    root = RootReference(place="/etc/fstab", mount="/", names=f"PARTUUID={SIGNATURE}-02", partition=2)
    facts = make_facts(seeds=("user-data", "meta-data"), references=(root,))
    assert "boot-mounted" in rules(make_evidence(facts=facts))


@pytest.mark.parametrize("text", ["cgroup_disable=memory", "", "x" * 300])
def test_bootargs_of_a_device_tree_are_read(text: str) -> None:
    assert read_bootargs(make_device_tree(text)) == text


def test_a_device_tree_without_bootargs_has_none() -> None:
    assert read_bootargs(make_device_tree(None)) == ""


def test_a_damaged_device_tree_is_an_error_at_every_length() -> None:
    whole = make_device_tree("cgroup_disable=memory")
    for length in range(len(whole)):
        with pytest.raises(DeviceTreeError):
            read_bootargs(whole[:length])
