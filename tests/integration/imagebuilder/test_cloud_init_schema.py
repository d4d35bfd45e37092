"""cloud-init's own checker has nothing against what is written for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes_image import SSH_KEY, make_spec

from fleet.spec.model import PackagesAt, UserSpec
from imagebuilder.dialects import MANNERS
from imagebuilder.errors import CommandFailed
from imagebuilder.render import render_user_data
from imagebuilder.runner import run

pytestmark = pytest.mark.integration

FOLDERS = sorted({manner.templates for manner in MANNERS.values() if manner.templates})


def check(path: Path) -> None:
    run(["cloud-init", "schema", "--config-file", path])


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("packages", [(), ("nfs-common", "open-iscsi")], ids=["no packages", "packages"])
@pytest.mark.parametrize("keys", [(), (SSH_KEY, 'ssh-ed25519 AAAA "odd": name # y')], ids=["none", "odd"])
def test_user_data_passes(
    folder: str, packages: tuple[str, ...], keys: tuple[str, ...], tmp_path: Path
) -> None:
    spec = make_spec(packages=packages)
    image = replace(spec.image, packages_at=PackagesAt.FIRST_BOOT, user=UserSpec("ada", keys))
    (tmp_path / "user-data").write_text(render_user_data(replace(spec, image=image), folder))
    check(tmp_path / "user-data")


def test_the_checker_finds_what_is_wrong(tmp_path: Path) -> None:
    text = render_user_data(make_spec(), "debian")
    (tmp_path / "user-data").write_text(text.replace("ssh_pwauth: false", "ssh_pwauth: [never]"))
    with pytest.raises(CommandFailed, match="ssh_pwauth"):
        check(tmp_path / "user-data")
