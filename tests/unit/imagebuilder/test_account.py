"""Account, keys, time zone and units of bases without cloud-init: the same result as cloud-init's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from fakes_facts import make_context, make_fake_disk
from fakes_image import SSH_KEY

from imagebuilder.disk.edits import Edit, PutDirectory, PutFile, PutLink
from imagebuilder.errors import ImageBuilderError, NotUnderstood
from imagebuilder.steps.account import Accounts, InPlaceStep, with_login
from imagebuilder.steps.units import UnitsStep

STEP = InPlaceStep(
    user="pi", ssh_authorized_keys=(SSH_KEY,), timezone="Europe/Madrid", packages=("nfs-common", "jq")
)
ACCOUNTS = Accounts(
    passwd=(
        "root:x:0:0:root:/root:/bin/bash",
        "daemon:x:1:1::/:/usr/sbin/nologin",
        "old:x:1000:1000::/home/old:/bin/sh",
    ),
    shadow=("root:*:1::::::", "daemon:*:1::::::", "old:!:1::::::"),
    group=("root:x:0:", "sudo:x:27:old", "adm:x:4:", "old:x:1000:"),
    gshadow=("root:*::", "sudo:*::old", "adm:*::", "old:!::"),
)


def files(edits: list[Edit]) -> Mapping[str, PutFile]:
    return {edit.path: edit for edit in edits if isinstance(edit, PutFile)}


def text(edit: PutFile) -> str:
    assert isinstance(edit.content, bytes)
    return edit.content.decode()


def test_the_bases_own_account_gets_keys_shell_and_groups() -> None:
    edits = list(STEP.edits(make_context("raspios-bookworm")))
    found = files(edits)
    assert "pi:x:1000:1000:,,,:/home/pi:/bin/bash\n" in text(found["/etc/passwd"])
    assert "pi:!:20000:" in text(found["/etc/shadow"])
    assert (found["/etc/shadow"].mode, found["/etc/shadow"].gid) == (0o640, 42)
    assert "sudo:x:27:pi\n" in text(found["/etc/group"])
    assert "video:x:44:pi\n" in text(found["/etc/group"])
    keys = found["/home/pi/.ssh/authorized_keys"]
    assert (text(keys), keys.mode, keys.uid, keys.gid) == (f"{SSH_KEY}\n", 0o600, 1000, 1000)
    assert PutDirectory(path="/home/pi/.ssh", mode=0o700, uid=1000, gid=1000) in edits
    assert found["/etc/sudoers.d/90-bramble"].mode == 0o440
    assert "PasswordAuthentication no" in text(found["/etc/ssh/sshd_config.d/50-bramble.conf"])
    assert PutLink(path="/etc/localtime", target="/usr/share/zoneinfo/Europe/Madrid") in edits
    assert text(found["/etc/timezone"]) == "Europe/Madrid\n"
    assert text(found["/etc/bramble/packages"]) == "nfs-common\njq\n"


def test_another_name_becomes_a_new_account_with_a_home() -> None:
    disk = make_fake_disk("raspios-bookworm")
    disk.root["etc/skel/.bashrc"] = b"# skeleton\n"
    edits = list(replace(STEP, user="ada").edits(make_context("raspios-bookworm", disk)))
    found = files(edits)
    assert "ada:x:1001:1001:ada:/home/ada:/bin/bash\n" in text(found["/etc/passwd"])
    assert "pi:x:1000:1000:,,,:/home/pi:/usr/sbin/nologin\n" in text(found["/etc/passwd"])
    assert "ada:!:" in text(found["/etc/shadow"])
    assert "ada:x:1001:\n" in text(found["/etc/group"])
    assert "sudo:x:27:pi,ada\n" in text(found["/etc/group"])
    assert "sudo:*::pi,ada\n" in text(found["/etc/gshadow"])
    assert PutDirectory(path="/home/ada", mode=0o700, uid=1001, gid=1001) in edits
    assert (found["/home/ada/.bashrc"].uid, text(found["/home/ada/.bashrc"])) == (1001, "# skeleton\n")


def test_a_second_pass_changes_nothing() -> None:
    once, login = with_login(ACCOUNTS, "new")
    assert with_login(once, "new") == (once, replace(login, is_new=False))


@pytest.mark.parametrize(
    ("user", "accounts", "message"),
    [
        ("daemon", ACCOUNTS, "account of the system in this base"),
        ("sudo", ACCOUNTS, "has a group 'sudo'"),
        ("bad", replace(ACCOUNTS, passwd=("bad:x:ten:1::/:/bin/sh",)), "cannot be read"),
        ("bad", replace(ACCOUNTS, passwd=("bad:x",)), "cannot be read"),
    ],
)
def test_a_name_that_cannot_be_a_login_is_refused(user: str, accounts: Accounts, message: str) -> None:
    with pytest.raises(NotUnderstood, match=message):
        with_login(accounts, user)


def test_missing_account_files_and_time_zones_are_told() -> None:
    disk = make_fake_disk("raspios-bookworm")
    del disk.root["etc/gshadow"]
    with pytest.raises(NotUnderstood, match="the base lacks /etc/gshadow"):
        STEP.edits(make_context("raspios-bookworm", disk))
    with pytest.raises(ImageBuilderError, match="knows no time zone 'Mars/Olympus'"):
        replace(STEP, timezone="Mars/Olympus").edits(make_context("raspios-bookworm"))


def test_with_cloud_init_only_a_locked_shell_is_opened() -> None:
    (edit,) = STEP.edits(make_context("raspios-trixie"))
    assert isinstance(edit, PutFile)
    assert edit.path == "/etc/passwd"
    assert "pi:x:1000:1000:,,,:/home/pi:/bin/bash\n" in text(edit)
    assert replace(STEP, user="ada").edits(make_context("raspios-trixie")) == []
    assert STEP.edits(make_context("debian")) == []


def test_units_that_would_ask_or_wear_are_masked_and_ssh_is_on() -> None:
    links = {
        edit.path: edit.target
        for edit in UnitsStep().edits(make_context("raspios-bookworm"))
        if isinstance(edit, PutLink)
    }
    assert links == {
        "/etc/systemd/system/userconfig.service": "/dev/null",
        "/etc/systemd/system/multi-user.target.wants/ssh.service": "/usr/lib/systemd/system/ssh.service",
    }
    assert UnitsStep().edits(make_context("ubuntu")) == []
