"""``bramble image check`` on clones of the stock images, and on clones that were spoiled in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stock_clones import CLONES, Clone, ready_clone

from imagebuilder.cli_preflight import check
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.runner import run

pytestmark = pytest.mark.integration

CLOUD_INIT = [name for name in CLONES if name != "raspios-lite-bookworm"]


def _check(disk: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(check, [str(disk), "--json", *options])
    return result.exit_code, json.loads(result.stdout)


def _rules(report: dict[str, Any], severity: str) -> set[str]:
    return {finding["rule"] for finding in report["findings"] if finding["severity"] == severity}


@pytest.fixture
def spoiled(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Clone, Path]]:
    clone = ready_clone(request.param)
    disk = tmp_path / "disk.img"
    copy_sparse(clone.disk, disk)
    yield clone, disk
    disk.unlink()


def _put_boot(clone: Clone, disk: Path, name: str, content: bytes) -> None:
    source = disk.with_name("content")
    source.write_bytes(content)
    place = f"{disk}@@{clone.layout.boot_start * 512}"
    run(["mcopy", "-D", "o", "-i", place, source, f"::/{name}"], env={"MTOOLSRC": "/dev/null"})


@pytest.mark.parametrize("name", CLONES)
def test_a_stock_image_has_no_errors_and_its_seed_is_found(name: str) -> None:
    code, report = _check(ready_clone(name).disk)
    assert (code, _rules(report, "error")) == (0, set())
    assert ("nocloud-seed" in _rules(report, "note")) == (name in CLOUD_INIT)
    raspios = name.startswith("raspios")
    assert ("memory-cgroup" in _rules(report, "warning")) == raspios, "its device trees turn it off"
    assert ("page-size" in _rules(report, "warning")) == raspios, "kernel_2712.img has pages of 16 KiB"
    assert ("disk-signature" in _rules(report, "note")) == raspios
    assert _check(ready_clone(name).disk, "--strict")[0] == 1


@pytest.mark.parametrize("spoiled", CLOUD_INIT, indirect=True)
def test_the_image_s_own_schema_finds_what_its_cloud_init_would_reject(spoiled: tuple[Clone, Path]) -> None:
    clone, disk = spoiled
    _put_boot(
        clone, disk, "user-data", b"#cloud-config\nusers:\n- name: x\n  lock_passwd: maybe\nssh_pwauth: [1]\n"
    )
    _put_boot(
        clone, disk, "network-config", b"network:\n  version: 2\n  ethernets:\n    eth0: {dhcp4: maybe}\n"
    )
    code, report = _check(disk)
    assert code == 1
    told = [finding for finding in report["findings"] if finding["rule"] == "schema"]
    assert {finding["place"] for finding in told} == {"boot:/user-data", "boot:/network-config"}


@pytest.mark.parametrize("spoiled", ["ubuntu-24.04"], indirect=True)
def test_a_boot_partition_with_another_label_hides_ubuntu_s_seed(spoiled: tuple[Clone, Path]) -> None:
    clone, disk = spoiled
    run(["mlabel", "-i", f"{disk}@@{clone.layout.boot_start * 512}", "::BOOT"], env={"MTOOLSRC": "/dev/null"})
    code, report = _check(disk)
    assert code == 1
    assert {"nocloud-seed", "partition-reference"} <= _rules(report, "error")


@pytest.mark.parametrize("spoiled", ["raspios-lite-trixie"], indirect=True)
def test_a_changed_signature_is_told_for_every_place_that_names_the_old_one(
    spoiled: tuple[Clone, Path],
) -> None:
    _, disk = spoiled
    with disk.open("r+b") as file:
        file.seek(440)
        file.write(bytes(4 * [7]))
    code, report = _check(disk, "--board", "pi4")
    places = sorted(f["place"] for f in report["findings"] if f["rule"] == "partition-reference")
    assert (code, places) == (1, ["boot:/cmdline.txt", "root:/etc/fstab", "root:/etc/fstab"])


def test_wrong_usage_ends_with_two() -> None:
    disk = str(ready_clone("ubuntu-22.04").disk)
    assert CliRunner().invoke(check, [disk, "--node", "x"]).exit_code == 2
    assert CliRunner().invoke(check, [disk, "--board", "pi4", "-c", __file__]).exit_code == 2
