"""The kernel command line: cgroups that Kubernetes needs, and where cloud-init looks.

The device tree of Raspberry Pi OS says ``cgroup_disable=memory``; the last word wins, so
``cgroup_enable=memory`` must come after it (raspberrypi/linux#6980). cmdline.txt is one line: the firmware
ignores everything after the first line feed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagebuilder.disk.edits import Edit, PutBootFile
from imagebuilder.errors import NotUnderstood
from imagebuilder.slots import CMDLINE_PATH
from imagebuilder.steps.step import Context, Json

ADDED: Final = ("cgroup_enable=cpuset", "cgroup_enable=memory", "ds=nocloud")
"""In this order, at the end of the line."""

DROPPED: Final = ("resize", "cgroup_memory=1")
"""``resize`` would give the disk a new signature at first boot, which the node's delta already did;
``cgroup_memory`` is obsolete."""


@dataclass(frozen=True, slots=True)
class CmdlineStep:
    """Rewrites cmdline.txt of the boot partition."""

    name: str = "kernel command line"

    def identity(self) -> Mapping[str, Json]:
        return {"cmdline": {"added": ADDED, "dropped": DROPPED}}

    def edits(self, context: Context) -> Sequence[Edit]:
        found = context.disk.read_boot(CMDLINE_PATH)
        if found is None:
            raise NotUnderstood(
                "the base's boot partition holds no cmdline.txt",
                "Use a Raspberry Pi image; others keep the kernel's command line elsewhere.",
            )
        return [PutBootFile(path=CMDLINE_PATH, content=(edit_cmdline(found.decode("utf-8")) + "\n").encode())]


def edit_cmdline(text: str) -> str:
    """The one line with our words at its end; doing it twice changes nothing."""
    words = text.split("\n", 1)[0].split()
    kept = [word for word in words if word not in DROPPED and word not in ADDED]
    return " ".join([*kept, *ADDED])
