"""Steps: overlays, the command line, user-data, the agent's archive, the plan's id."""

from __future__ import annotations

import io
import os
import re
import runpy
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fakes_facts import make_context
from fakes_image import SSH_KEY, make_agent, make_spec

from fleet.spec.model import PackagesAt
from imagebuilder import bases
from imagebuilder.dialects import MANNERS
from imagebuilder.disk.edits import PutBootFile, PutDirectory, PutFile, PutLink
from imagebuilder.errors import ImageBuilderError
from imagebuilder.plan import Plan
from imagebuilder.render import render_user_data
from imagebuilder.resources import data_dir
from imagebuilder.steps.agent import AgentStep, pack_agent
from imagebuilder.steps.cmdline import CmdlineStep
from imagebuilder.steps.overlay import OverlayError, OwnOverlay, load_overlay
from imagebuilder.steps.seed import SeedStep
from imagebuilder.steps.step import Step

CONTEXT = make_context()


def overlay(root: Path, files: Mapping[str, str], manifest: str = "") -> Path:
    for name, text in files.items():
        path = root / "rootfs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root.mkdir(exist_ok=True)
    (root / "overlay.toml").write_text(manifest)
    return root


def test_an_overlay_becomes_edits_with_owner_mode_and_links(tmp_path: Path) -> None:
    directory = overlay(
        tmp_path / "mine",
        {"etc/plain": "1", "etc/secret": "2", "usr/local/bin/run": "3", "boot/firmware/extra.txt": "4"},
        '[files]\n"/etc/secret" = { mode = "0600", uid = 1000 }\n'
        '[directories]\n"/var/lib/mine" = { mode = "0700", gid = 5 }\n[links]\n"/etc/link" = "plain"\n',
    )
    (directory / "rootfs/usr/local/bin/run").chmod(0o755)
    edits = load_overlay(directory, "mine").edits(CONTEXT)
    rootfs = directory / "rootfs"
    assert list(edits) == [
        PutDirectory(path="/var/lib/mine", mode=0o700, gid=5),
        PutBootFile(path="/extra.txt", content=b"4"),
        PutFile(path="/etc/plain", content=rootfs / "etc/plain", mode=0o644),
        PutFile(path="/etc/secret", content=rootfs / "etc/secret", mode=0o600, uid=1000),
        PutFile(path="/usr/local/bin/run", content=rootfs / "usr/local/bin/run", mode=0o755),
        PutLink(path="/etc/link", target="plain"),
    ]


def test_every_problem_of_an_overlay_is_told_at_once(tmp_path: Path) -> None:
    directory = overlay(
        tmp_path / "bad",
        {"etc/a": ""},
        '[file]\n"/x" = {}\n[files]\n"/etc/a" = { mod = "0600", mode = 384 }\n"/etc/none" = {}\n'
        '[links]\n"/etc/../passwd" = "x"\n"/etc/a" = "b"\n"/boot/firmware/l" = "x"\n'
        '[directories]\n"/d" = { uid = -1 }\n"relative" = {}\n"/x" = { xattrs = { "user.a" = "00" } }\n',
    )
    (directory / "rootfs/etc").joinpath(os.fsdecode(b"caf\xe9")).write_text("")  # codespell:ignore
    (directory / "rootfs/etc/bell\a").write_text("")
    os.mkfifo(directory / "rootfs/etc/pipe")
    (directory / "rootfs/etc/link").symlink_to("a")
    with pytest.raises(OverlayError) as caught:
        load_overlay(directory, "bad")
    text = "\n".join(caught.value.problems)
    for part in (
        "unknown section 'file'; did you mean 'files'?",
        "unknown key 'mod'; did you mean 'mode'?",
        "mode is 384",
        "'/etc/none', which is not in rootfs/",
        "'/etc/../passwd' is not a plain absolute path",
        "'/etc/a' is a file in rootfs/ as well",
        "the boot partition is a FAT",
        "uid is -1",
        "'relative' is not a plain absolute path",
        "rootfs/etc/link is a link; put it under [links]",
        "control character or bytes that are no UTF-8",
        "/etc/bell",
        "rootfs/etc/pipe is neither a file nor a directory",
        "'/x': xattrs are for files",
    ):
        assert part in text


def test_attributes_are_bytes_in_hex(tmp_path: Path) -> None:
    good = '[files]\n"/etc/a" = { xattrs = { "security.capability" = "0x0100", "user.x" = "" } }\n'
    (edit,) = load_overlay(overlay(tmp_path / "good", {"etc/a": ""}, good), "good").edits(CONTEXT)
    assert isinstance(edit, PutFile)
    assert edit.xattrs == {"security.capability": b"\1\0", "user.x": b""}
    bad = '[files]\n"/etc/a" = { xattrs = { "system.x" = "00", "user.y" = "0", "user.z" = 1 } }\n'
    with pytest.raises(OverlayError) as caught:
        load_overlay(overlay(tmp_path / "bad", {"etc/a": ""}, bad), "bad")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("manifest", ["[files", "files = 3\n"], ids=["syntax", "shape"])
def test_a_manifest_that_cannot_be_read_is_told(tmp_path: Path, manifest: str) -> None:
    with pytest.raises(OverlayError, match=r"overlay\.toml"):
        load_overlay(overlay(tmp_path / "bad", {"etc/a": ""}, manifest), "bad")


def test_an_empty_directory_is_no_overlay(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(OverlayError, match="neither rootfs/ nor overlay"):
        load_overlay(tmp_path / "nothing", "nothing")


def test_at_first_boot_a_preset_that_enables_services_is_read_before_the_bases_own() -> None:
    """systemd reads presets in the order of their names, wherever they are. Source: systemd.preset(5)."""
    (own,) = (Path(bases.__file__).parent / "debian/rootfs/etc/systemd/system-preset").iterdir()
    unit = data_dir("overlays") / "first-boot/rootfs/etc/systemd/system/bramble-packages.service"
    named = set(re.findall(r"[\w-]+\.preset\b", unit.read_text("utf-8")))
    (enabling,) = named - {own.name}
    assert own.name in named
    assert enabling < own.name


@pytest.mark.parametrize(
    ("dialect", "enabled"),
    [
        ("debian", {"agent"}),
        ("ubuntu", {"agent"}),
        ("raspios-trixie", {"agent", "grow-root"}),
        ("raspios-bookworm", {"agent", "grow-root", "host-keys", "packages"}),
        ("rpi-preseed", {"agent", "grow-root", "host-keys", "packages"}),
    ],
)
def test_each_dialect_gets_its_overlays_and_no_k3s_unit_is_enabled(dialect: str, enabled: set[str]) -> None:
    context = make_context(dialect)
    names = {name for manner in MANNERS.values() for name in manner.overlays}
    edits = [
        edit
        for name in sorted(names)
        for edit in OwnOverlay(load_overlay(data_dir("overlays") / name, name)).edits(context)
    ]
    links = {edit.path: edit.target for edit in edits if isinstance(edit, PutLink)}
    wants = "/etc/systemd/system/multi-user.target.wants/"
    assert set(links) == {f"{wants}bramble-{name}.service" for name in enabled}
    written = {edit.path for edit in edits}
    assert set(links.values()) <= written, "an enabled unit is not there"
    assert ("/etc/cloud/cloud.cfg.d/95-bramble.cfg" in written) == (
        dialect in ("debian", "ubuntu", "raspios-trixie")
    )


@pytest.mark.parametrize("templates", ["debian", "raspios-trixie", "ubuntu"])
def test_user_data_makes_the_user_and_holds_nothing_of_one_node(templates: str) -> None:
    spec = make_spec(packages=("nfs-common",))
    later = replace(spec, image=replace(spec.image, packages_at=PackagesAt.FIRST_BOOT))
    text = render_user_data(later, templates)
    assert text.startswith("#cloud-config\n")
    document = yaml.safe_load(text)
    assert document["timezone"] == "Europe/Madrid"
    assert document["users"][0]["ssh_authorized_keys"] == [SSH_KEY]
    assert document["users"][0]["lock_passwd"] is True
    assert document["packages"] == ["nfs-common"]
    assert "hostname" not in document
    at_build = yaml.safe_load(render_user_data(spec, templates))
    assert "packages" not in at_build, "they are in the image already"


@pytest.mark.parametrize("templates", ["debian", "raspios-trixie", "ubuntu"])
def test_user_data_of_a_cluster_without_keys_has_no_empty_list_of_them(templates: str) -> None:
    spec = make_spec()
    image = replace(spec.image, user=replace(spec.image.user, ssh_authorized_keys=()))
    (user,) = yaml.safe_load(render_user_data(replace(spec, image=image), templates))["users"]
    assert "ssh_authorized_keys" not in user, "cloud-init takes a list with keys, or none"
    assert user["name"] == "pi"


def test_a_value_cannot_change_the_structure_of_user_data() -> None:
    spec = make_spec()
    wicked = 'x"\nruncmd: [reboot]\n#'
    changed = replace(spec, image=replace(spec.image, timezone=wicked))
    document = yaml.safe_load(render_user_data(changed, "debian"))
    assert document["timezone"] == wicked
    assert "runcmd" not in document


def test_the_packed_agent_runs_and_is_the_same_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = make_agent(tmp_path)
    archive = pack_agent(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.py").write_text("no")
    (package / "__main__.py").touch()
    assert pack_agent(package) == archive
    assert archive.startswith(b"#!/usr/bin/python3\nPK")
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        assert members.namelist() == ["__main__.py", "agent/__init__.py", "agent/__main__.py"]
    path = tmp_path / "agent.pyz"
    path.write_bytes(archive)
    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "agent"}
    arguments, sys.argv = sys.argv, [str(path), "install"]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = arguments
        for name in [name for name in sys.modules if name.split(".")[0] == "agent"]:
            del sys.modules[name]
        sys.modules.update(saved)
    assert capsys.readouterr().out == "agent install\n"


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageBuilderError, match="is not the agent's package"):
        pack_agent(tmp_path)


def plan(*steps: Step, base_id: str = "base", tools: Mapping[str, str] | None = None) -> Plan:
    return Plan(base_id=base_id, steps=steps, installer={"init": "1"}, tools=tools or {"e2fsprogs": "1.47.0"})


def test_the_image_id_covers_base_steps_order_installer_and_tools(tmp_path: Path) -> None:
    one = load_overlay(overlay(tmp_path / "one", {"etc/a": "1"}), "one")
    seed = SeedStep("attic", {"debian": "#cloud-config\n"})
    same = plan(one, seed, CmdlineStep())
    ids = {
        same.image_id,
        plan(seed, one, CmdlineStep()).image_id,
        plan(one, seed).image_id,
        plan(one, seed, CmdlineStep(), base_id="other").image_id,
        plan(one, seed, CmdlineStep(), tools={"e2fsprogs": "1.47.1"}).image_id,
        replace(same, installer={"init": "2"}).image_id,
        plan(one, replace(seed, user_data={"debian": "#cloud-config\n\n"}), CmdlineStep()).image_id,
        plan(one, seed, CmdlineStep(), AgentStep(b"agent")).image_id,
        plan(one, seed, CmdlineStep(), AgentStep(b"other")).image_id,
    }
    assert len(ids) == 9
    assert plan(one, seed, CmdlineStep()).image_id == same.image_id
    overlay(tmp_path / "one", {"etc/a": "2"})
    assert plan(load_overlay(tmp_path / "one", "one"), seed, CmdlineStep()).image_id not in ids
