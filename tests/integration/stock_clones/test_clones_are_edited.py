"""Each clone of a stock image is understood, can be edited, and gets the edits of its own dialect.

The edits are computed over the clone's own files; that they boot is for the tests in ``tests/e2e``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_image import SSH_KEY
from stock_clones import CLONES, Clone, ready_clone

from fleet.boards import BoardModel
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.edits import Edit, PutBootFile, PutFile, PutLink
from imagebuilder.editable import find_problems
from imagebuilder.inspect import Dialect, ImageFacts, inspect_image
from imagebuilder.inspect.config_txt import evaluate
from imagebuilder.steps.account import InPlaceStep
from imagebuilder.steps.cmdline import CmdlineStep, FstabStep
from imagebuilder.steps.config_txt import ConfigTxtStep
from imagebuilder.steps.step import Context
from imagebuilder.steps.units import UnitsStep

pytestmark = pytest.mark.integration

EXPECTED = {
    "raspios-lite-trixie": (Dialect.RASPIOS_TRIXIE, "raspios", "trixie", ""),
    "raspios-lite-bookworm": (Dialect.RASPIOS_BOOKWORM, "raspios", "bookworm", ""),
    "ubuntu-22.04": (Dialect.UBUNTU, "ubuntu", "jammy", ""),
    "ubuntu-24.04": (Dialect.UBUNTU, "ubuntu", "noble", ""),
    "ubuntu-26.04": (Dialect.UBUNTU, "ubuntu", "resolute", "current/"),
}


@pytest.fixture(scope="module", params=CLONES)
def clone(request: pytest.FixtureRequest) -> Clone:
    return ready_clone(request.param)


@pytest.fixture(scope="module")
def facts(clone: Clone) -> ImageFacts:
    return inspect_image(clone.disk)


@pytest.fixture
def context(clone: Clone, facts: ImageFacts, tmp_path: Path) -> Context:
    return Context(image_id="an-id", disk=DiskImage(clone.disk, tmp_path), facts=facts)


def text(edit: Edit) -> str:
    assert isinstance(edit, PutBootFile | PutFile)
    assert isinstance(edit.content, bytes)
    return edit.content.decode()


def test_it_is_understood_and_nothing_stands_against_editing(clone: Clone, facts: ImageFacts) -> None:
    dialect, distribution, release, prefix = EXPECTED[clone.name]
    assert (facts.dialect, facts.os_prefix) == (dialect, prefix)
    assert (facts.system.distribution, facts.system.release) == (distribution, release)
    assert facts.table.disk_id == f"{clone.layout.signature:08x}"
    assert facts.boot.offset == clone.layout.boot_start * 512
    assert facts.root.offset == clone.layout.root_start * 512
    assert facts.boot.label.casefold() == clone.layout.fat_label.casefold()
    assert list(find_problems(facts)) == []
    for model in (BoardModel.PI4, BoardModel.PI5, BoardModel.CM5):
        assert facts.board(model).problem is None
        assert facts.board(model).initramfs is not None


def test_every_command_line_ends_in_the_cgroups_and_names_the_disk(clone: Clone, context: Context) -> None:
    edits = CmdlineStep().edits(context)
    assert [edit.path for edit in edits] == [f"/{path}" for path in context.facts.cmdlines]
    for edit in edits:
        words = text(edit).split()
        assert f"root=PARTUUID={clone.layout.partuuid(2)}" in words
        assert "cgroup_enable=memory" in words[-3:]
        assert not any(word == "resize" or word.startswith("init=") for word in words)
    (fstab,) = FstabStep().edits(context)
    assert f"PARTUUID={clone.layout.partuuid(1)}" in text(fstab)
    assert f"PARTUUID={clone.layout.partuuid(2)}" in text(fstab)


def test_a_pi_5_gets_small_pages_where_its_own_kernel_has_large_ones(context: Context) -> None:
    (edit,) = ConfigTxtStep().edits(context)
    five = evaluate(text(edit), BoardModel.PI5)
    if context.facts.board(BoardModel.PI5).page_bytes == 16384:
        assert (five.values["kernel"], five.initramfs) == ("kernel8.img", "initramfs8")
    else:
        assert text(edit).encode() == context.disk.read_boot("/config.txt")


def test_the_login_works_whichever_way_it_is_made(context: Context) -> None:
    step = InPlaceStep(user="pi", ssh_authorized_keys=(SSH_KEY,), timezone="Europe/Madrid", packages=())
    edits = {edit.path: edit for edit in step.edits(context)}
    if context.facts.dialect.has_cloud_init:
        assert set(edits) <= {"/etc/passwd"}
    else:
        assert text(edits["/home/pi/.ssh/authorized_keys"]) == f"{SSH_KEY}\n"
        assert edits["/etc/localtime"] == PutLink(
            path="/etc/localtime", target="/usr/share/zoneinfo/Europe/Madrid"
        )
    enabled = {edit.path.rpartition("/")[2] for edit in UnitsStep().edits(context)}
    assert ("ssh.service" in enabled) == (context.facts.system.distribution == "raspios")
