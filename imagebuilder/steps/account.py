"""The login, its keys, the time zone: written into the root filesystem of a base that has no cloud-init.

The result is what cloud-init makes on the other bases: an account without a password, its public keys, sudo
without one, no passwords over SSH. A base's own account is used where it has that name (``pi`` on Raspberry
Pi OS, which comes locked and without a shell).

Lines (passwd(5), shadow(5), group(5), gshadow(5)):
    passwd   name:x:uid:gid:comment:home:shell
    shadow   name:hash:last change in days since 1970:min:max:warn:inactive:expire:
    group    name:x:gid:members         gshadow  name:hash:administrators:members
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from imagebuilder.disk.edits import EPOCH, Edit, PutDirectory, PutFile, PutLink
from imagebuilder.errors import ImageBuilderError, NotUnderstood
from imagebuilder.steps.step import Context, Json

GROUPS: Final = ("adm", "dialout", "audio", "video", "plugdev", "sudo")
"""As in user-data; a group that the base lacks is passed over."""
FIRST_UID: Final = 1000
LAST_UID: Final = 59999
SHELL: Final = "/bin/bash"
SKELETON: Final = (".bashrc", ".profile", ".bash_logout")
PACKAGES_PATH: Final = "/etc/bramble/packages"
_DAYS: Final = EPOCH // 86400
_FILES: Final = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The four account files, as lines."""

    passwd: tuple[str, ...]
    shadow: tuple[str, ...]
    group: tuple[str, ...]
    gshadow: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Where the account is: numbers and home."""

    uid: int
    gid: int
    home: str
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InPlaceStep:
    """Account, keys, time zone and the list of packages, for dialects that are written in place.

    On the others it gives an account of the base a shell: cloud-init leaves one that exists as it is."""

    user: str
    ssh_authorized_keys: tuple[str, ...]
    timezone: str
    packages: tuple[str, ...]
    name: str = "account"

    def identity(self) -> Mapping[str, Json]:
        return {
            "account": {
                "user": self.user,
                "keys": list(self.ssh_authorized_keys),
                "timezone": self.timezone,
                "packages": list(self.packages),
                "groups": list(GROUPS),
            }
        }

    def edits(self, context: Context) -> Sequence[Edit]:
        if not context.manner.in_place:
            return self._shell_alone(context)
        texts = [context.disk.read_root(path) for path in _FILES]
        if any(text is None for text in texts):
            missing = [path for path, text in zip(_FILES, texts, strict=True) if text is None]
            raise NotUnderstood(f"the base lacks {', '.join(missing)}", "Use a stock image.")
        lines = [tuple((text or b"").decode("utf-8", "surrogateescape").splitlines()) for text in texts]
        accounts = Accounts(passwd=lines[0], shadow=lines[1], group=lines[2], gshadow=lines[3])
        changed, login = with_login(accounts, self.user)
        return [
            *_put_accounts(changed),
            *self._home(context, login),
            *self._timezone(context),
            PutFile(
                path="/etc/sudoers.d/90-bramble",
                content=f"{self.user} ALL=(ALL) NOPASSWD:ALL\n".encode(),
                mode=0o440,
            ),
            PutFile(
                path="/etc/ssh/sshd_config.d/50-bramble.conf",
                content=b"PasswordAuthentication no\nPermitRootLogin prohibit-password\n",
            ),
            *self._packages(),
        ]

    def _shell_alone(self, context: Context) -> Sequence[Edit]:
        found = context.disk.read_root("/etc/passwd") or b""
        lines = found.decode("utf-8", "surrogateescape").splitlines()
        changed = [_with_shell(line) if line.startswith(f"{self.user}:") else line for line in lines]
        if changed == lines:
            return []
        return [PutFile(path="/etc/passwd", content=_text(changed))]

    def _home(self, context: Context, login: Login) -> Sequence[Edit]:
        uid, gid = login.uid, login.gid
        edits: list[Edit] = []
        if login.is_new:
            edits.append(PutDirectory(path=login.home, mode=0o700, uid=uid, gid=gid))
            for name in SKELETON:
                content = context.disk.read_root(f"/etc/skel/{name}")
                if content is not None:
                    edits.append(PutFile(path=f"{login.home}/{name}", content=content, uid=uid, gid=gid))
        keys = "".join(f"{key.strip()}\n" for key in self.ssh_authorized_keys)
        edits.append(PutDirectory(path=f"{login.home}/.ssh", mode=0o700, uid=uid, gid=gid))
        edits.append(
            PutFile(
                path=f"{login.home}/.ssh/authorized_keys", content=keys.encode(), mode=0o600, uid=uid, gid=gid
            )
        )
        return edits

    def _timezone(self, context: Context) -> Sequence[Edit]:
        zone = f"/usr/share/zoneinfo/{self.timezone}"
        if context.disk.read_root(zone) is None:
            raise ImageBuilderError(
                f"image.timezone: the base knows no time zone {self.timezone!r} ({zone} is not there)",
                "Old names moved to the package tzdata-legacy; use the present one, like Europe/Madrid.",
            )
        return [
            PutLink(path="/etc/localtime", target=zone),
            PutFile(path="/etc/timezone", content=f"{self.timezone}\n".encode()),
        ]

    def _packages(self) -> Sequence[Edit]:
        if not self.packages:
            return []
        return [PutFile(path=PACKAGES_PATH, content=_text(self.packages))]


def with_login(accounts: Accounts, user: str) -> tuple[Accounts, Login]:
    """The account files with ``user`` in them, able to log in by key and in the usual groups.

    Raises:
        NotUnderstood: the account exists and is a system's, or its line cannot be read.
    """
    found = next((line for line in accounts.passwd if line.split(":")[0] == user), None)
    if found is None:
        accounts, login = _add(accounts, user)
    else:
        login = _existing(found, user)
        accounts = replace(
            accounts,
            passwd=tuple(_with_shell(line) if line == found else line for line in accounts.passwd),
        )
    group, gshadow = list(accounts.group), list(accounts.gshadow)
    for name in GROUPS:
        _add_member(group, name, user)
        _add_member(gshadow, name, user)
    return replace(accounts, group=tuple(group), gshadow=tuple(gshadow)), login


def _existing(line: str, user: str) -> Login:
    fields = line.split(":")
    if len(fields) != 7 or not fields[2].isdecimal() or not fields[3].isdecimal():
        raise NotUnderstood(
            f"/etc/passwd of the base has a line that cannot be read: {line!r}", "Use a stock image."
        )
    uid = int(fields[2])
    if not FIRST_UID <= uid <= LAST_UID:
        raise NotUnderstood(
            f"image.user.name: {user!r} is an account of the system in this base (uid {uid})",
            "Choose another name for the login, like 'pi'.",
        )
    return Login(uid=uid, gid=int(fields[3]), home=fields[5], is_new=False)


def _add(accounts: Accounts, user: str) -> tuple[Accounts, Login]:
    taken = {
        int(fields[2])
        for line in (*accounts.passwd, *accounts.group)
        if len(fields := line.split(":")) > 2 and fields[2].isdecimal()
    }
    number = next(candidate for candidate in range(FIRST_UID, LAST_UID) if candidate not in taken)
    login = Login(uid=number, gid=number, home=f"/home/{user}", is_new=True)
    has_group = any(line.split(":")[0] == user for line in accounts.group)
    if has_group:
        raise NotUnderstood(
            f"image.user.name: the base has a group {user!r} and no account of that name",
            "Choose another name for the login, like 'pi'.",
        )
    return (
        Accounts(
            passwd=(*accounts.passwd, f"{user}:x:{number}:{number}:{user}:{login.home}:{SHELL}"),
            # "!": no password opens it; keys do.
            shadow=(*accounts.shadow, f"{user}:!:{_DAYS}:0:99999:7:::"),
            group=(*accounts.group, f"{user}:x:{number}:"),
            gshadow=(*accounts.gshadow, f"{user}:!::"),
        ),
        login,
    )


def _with_shell(line: str) -> str:
    fields = line.split(":")
    if len(fields) == 7 and fields[6].endswith(("/nologin", "/false")):
        fields[6] = SHELL
    return ":".join(fields)


def _add_member(lines: list[str], group: str, user: str) -> None:
    for index, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == group and len(fields) == 4:
            members = [name for name in fields[3].split(",") if name]
            if user not in members:
                lines[index] = ":".join([*fields[:3], ",".join([*members, user])])


def _put_accounts(accounts: Accounts) -> Sequence[Edit]:
    return [
        PutFile(path="/etc/passwd", content=_text(accounts.passwd)),
        PutFile(path="/etc/group", content=_text(accounts.group)),
        # Group 42 is "shadow" on every Debian: base-passwd fixes it.
        PutFile(path="/etc/shadow", content=_text(accounts.shadow), mode=0o640, gid=42),
        PutFile(path="/etc/gshadow", content=_text(accounts.gshadow), mode=0o640, gid=42),
    ]


def _text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
