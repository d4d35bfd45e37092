"""The kernel command line and fstab: cgroups that Kubernetes needs, where cloud-init looks, the disk's name.

cmdline.txt is one line: the firmware ignores everything after the first line feed. Partitions are named by
PARTUUID, whatever the stock image does: with Ubuntu's LABEL=writable, a forgotten card next to a new NVMe
disk decides by chance which of the two is the root. The node's delta then replaces the PARTUUID in place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagebuilder.dialects import MANNERS
from imagebuilder.disk.edits import Edit, PutBootFile, PutFile
from imagebuilder.errors import NotUnderstood
from imagebuilder.slots import FSTAB_PATH
from imagebuilder.steps.step import Context, Json

DROPPED: Final = ("resize", "firstboot", "cgroup_memory=1", "quiet", "splash")
"""``resize`` and ``firstboot`` would give the disk a new signature at first boot, which the node's delta
already did; ``cgroup_memory`` is obsolete; a node's console is read by people in trouble."""

DROPPED_PREFIXES: Final = (
    "init=/usr/lib/raspberrypi-sys-mods/",
    "init=/usr/lib/raspi-config/",
    "systemd.run=",
    "systemd.run_success_action=",
    "systemd.run_failure_action=",
    "systemd.unit=kernel-command-line.target",
    "ds=nocloud",
)
"""First-boot programs of the stock images, leftovers of firstrun.sh, and other tools' word for the seed."""

MAX_BYTES: Final = 1023
"""What the firmware is reported to take of cmdline.txt (not verified on hardware). The kernel's own limit on
arm64 is 2048, of which the firmware uses some hundred."""

_BAD_BYTES: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class CmdlineStep:
    """Rewrites every cmdline.txt in use (with ``[tryboot]`` there are two)."""

    name: str = "kernel command line"

    def identity(self) -> Mapping[str, Json]:
        added = {dialect.value: list(manner.cmdline) for dialect, manner in MANNERS.items()}
        return {"cmdline": {"added": added, "dropped": [*DROPPED, *DROPPED_PREFIXES]}}

    def edits(self, context: Context) -> Sequence[Edit]:
        root = context.disk.mbr().partuuid(context.facts.root.partition)
        edits: list[Edit] = []
        for name in context.facts.cmdlines:
            path = f"/{name}"
            found = context.disk.read_boot(path)
            if found is None:
                raise NotUnderstood(
                    f"the base's boot partition holds no {name}",
                    "Use a Raspberry Pi image; others keep the kernel's command line elsewhere.",
                )
            words = edit_cmdline(decode_cmdline(found), context.manner.cmdline, f"PARTUUID={root}")
            if len(words) > MAX_BYTES:
                raise NotUnderstood(
                    f"{name} would have {len(words)} bytes, the firmware takes {MAX_BYTES}",
                    "Take words out of the base's command line; it holds more than a stock image's.",
                )
            edits.append(PutBootFile(path=path, content=f"{words}\n".encode()))
        return edits


@dataclass(frozen=True, slots=True)
class FstabStep:
    """Lets /etc/fstab name root and boot partition by PARTUUID, and takes swap files out of it."""

    name: str = "mounts"

    def identity(self) -> Mapping[str, Json]:
        return {"fstab": "partuuid, no swap files"}

    def edits(self, context: Context) -> Sequence[Edit]:
        facts, mbr = context.facts, context.disk.mbr()
        names = {
            reference.names: f"PARTUUID={mbr.partuuid(reference.partition)}"
            for reference in facts.references
            if reference.place == FSTAB_PATH and reference.partition is not None
        }
        found = context.disk.read_root(FSTAB_PATH)
        if found is None or not names:
            raise NotUnderstood(
                f"{FSTAB_PATH} of the base does not name a partition of its disk",
                "Use a stock image; without that line its boot partition is not mounted.",
            )
        return [PutFile(path=FSTAB_PATH, content=edit_fstab(found.decode("utf-8"), names).encode())]


def decode_cmdline(data: bytes) -> str:
    """The line that the firmware reads.

    Takes a byte order mark, CRLF, tabs, NULs at the end and further lines, and leaves one clean line.

    Raises:
        NotUnderstood: control characters in the line, or nothing in it.
    """
    line = data.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\0\r \t")
    if bad := _BAD_BYTES.search(line):
        raise NotUnderstood(
            f"cmdline.txt holds the control character {bad.group().hex()} at byte {bad.start()}: "
            f"{line[:80]!r}",
            "The file is damaged or in UTF-16; write it again as plain text.",
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise NotUnderstood(
            f"cmdline.txt is not UTF-8: byte {exc.start} is {line[exc.start : exc.start + 1].hex()}",
            "Write it again as plain text.",
        ) from exc
    if not text.split():
        raise NotUnderstood(
            f"the first line of cmdline.txt is empty; the file starts with {data[:40]!r}",
            "The firmware reads the first line only: put the kernel's words there.",
        )
    return text


def edit_cmdline(line: str, added: Sequence[str], root: str) -> str:
    """The line with our words at its end and the root by its name; doing it twice changes nothing."""
    kept = []
    for word in line.split():
        if word in DROPPED or word in added or word.startswith(DROPPED_PREFIXES):
            continue
        kept.append(f"root={root}" if word.startswith("root=") else word)
    return " ".join([*kept, *added])


def edit_fstab(text: str, names: Mapping[str, str]) -> str:
    """fstab with devices replaced by ``names``; lines of swap files go, all others stay as they are."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[2] == "swap" and words[0].startswith("/") and "/dev/" not in words[0]:
            continue
        if words and not line.lstrip().startswith("#") and words[0] in names:
            line = line.replace(words[0], names[words[0]], 1)
        lines.append(line)
    return "\n".join(lines) + "\n"
