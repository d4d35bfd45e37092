"""Files that a bootloader can not take are named before a board tries."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fakes_bramble import make_image
from fakes_fleet import cluster_spec, node_spec

from bramble import boot_sizes
from bramble.boot_sizes import boot_files, size_warnings, with_size_warnings
from bramble.boot_table import INSTALLER_INITRAMFS
from fleet.boards import BoardModel
from fleet.errors import InputError
from imagebuilder.build import Image


def image_with_installer(directory: Path) -> Image:
    image = make_image(directory)
    image.installer_initramfs.parent.mkdir(parents=True)
    image.installer_initramfs.write_bytes(b"cpio")
    return image


SPEC = cluster_spec(node_spec("five", 1), node_spec("four", 2, board=BoardModel.PI4))


def test_the_installer_stands_for_the_systems_own_initramfs(tmp_path: Path) -> None:
    image = image_with_installer(tmp_path)
    (image.boot_tree / "initramfs8").write_bytes(b"x")
    names = [name for name, _size in boot_files(image)]
    assert "config.txt" in names
    assert INSTALLER_INITRAMFS in names
    assert "initramfs8" not in names


def test_a_large_installer_concerns_the_boards_that_can_not_take_it(tmp_path: Path) -> None:
    image = image_with_installer(tmp_path)
    assert size_warnings(SPEC, image) == []
    os.truncate(image.installer_initramfs, 70_000_000)
    texts = size_warnings(SPEC, image)
    assert any("older than 2022-10-03" in text and "concerns four." in text for text in texts)
    assert any("needs 41 s" in text and "concerns four." in text for text in texts)
    assert not any("five" in text for text in texts)


def test_a_command_says_them_at_its_end_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_with_installer(tmp_path)
    os.truncate(image.installer_initramfs, 70_000_000)
    monkeypatch.setattr(boot_sizes, "load_cluster", lambda _file: SPEC)
    monkeypatch.setattr(boot_sizes, "find_image", lambda *_a, **_k: image)

    @click.command()
    @click.argument("file")
    @click.option("--code", default=0)
    @click.pass_context
    def look(context: click.Context, file: str, code: int) -> None:
        """Look."""
        click.echo(file)
        context.exit(code)

    wrapped = with_size_warnings(look, "file")
    good = CliRunner().invoke(wrapped, ["cluster.yaml"])
    assert (good.exit_code, good.stdout) == (0, "cluster.yaml\n")
    assert "warning: installer.img has 70.0 MB" in good.stderr
    bad = CliRunner().invoke(wrapped, ["cluster.yaml", "--code", "2"])
    assert (bad.exit_code, bad.stderr) == (2, "")


def test_without_an_image_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: object) -> None:
        raise InputError("no such file", "x")

    monkeypatch.setattr(boot_sizes, "load_cluster", fail)

    @click.command()
    @click.argument("file")
    def look(file: str) -> None:
        """Look."""

    result = CliRunner().invoke(with_size_warnings(look, "file"), ["cluster.yaml"])
    assert (result.exit_code, result.output) == (0, "")
