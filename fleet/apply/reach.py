"""What a cluster.yaml may make this server touch when it comes over the network, or out of a shared database.

A cluster.yaml names files that the server looks at (a base, overlays, a password) and commands that it
runs to switch boards; what is in some of the files it sends elsewhere. Whoever types 'bramble apply' on the
server's machine could do all of that anyway. A token is shown from anywhere, and is for the cluster, not for
the machine of its control server: a file that comes with one names no file and no command that the
cluster.yaml in force does not name, and is not even told whether it exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fleet.refusal import RefusedError
from fleet.spec.draft import PathKind, Surroundings
from fleet.spec.model import (
    ClusterSpec,
    FileBase,
)
from fleet.spec.notify_model import secret_files
from fleet.spec.power import CommandPower, PowerSpec, secret_places


@dataclass(slots=True)
class Reach:
    """Watches over one file that came with a token.

    Attributes:
        running: The cluster.yaml in force.
        foreign: Paths that the file names and `running` does not, in the order in which they were asked for.
    """

    running: ClusterSpec
    foreign: list[Path] = field(default_factory=list)

    def limit(self, around: Surroundings) -> Surroundings:
        """The same surroundings, in which nothing is looked at but what is named already."""
        known = frozenset(named_paths(self.running))

        def probe(path: Path) -> PathKind:
            if path in known:
                return around.probe(path)
            self.foreign.append(path)
            return PathKind.MISSING

        return replace(around, probe=probe)

    def require_known_paths(self) -> None:
        """Before a word is said about the file: what is said of a path would tell whether it exists.

        Raises:
            RefusedError: The file names a path of this machine that is not in force.
        """
        if self.foreign:
            raise RefusedError(
                403,
                "paths",
                f"the file names {self.foreign[0]}, which the cluster.yaml in force does not; a token of the "
                "control API does not reach the files of the server's machine",
                "Run 'bramble apply' on the server's machine.",
            )

    def require_known_powers(self, spec: ClusterSpec) -> None:
        """How boards are switched may run commands here, and send a password somewhere.

        Raises:
            RefusedError: A command is not in force, or a file's content would go to another device.
        """
        known = {node.power for node in self.running.nodes}
        for node in spec.nodes:
            if node.power not in known and _touches_this_machine(node.power):
                raise RefusedError(
                    403,
                    "power",
                    f"nodes.{node.name}.power runs a command or reads a file on the server's machine, and is "
                    "not in force; a token of the control API does not reach that far",
                    "Run 'bramble apply' on the server's machine.",
                )

    def require_known_channels(self, spec: ClusterSpec) -> None:
        """Where people are told may send a password or a token somewhere.

        Raises:
            RefusedError: A file's content would go elsewhere than it does.
        """
        for channel in spec.notify:
            if channel not in self.running.notify and secret_files(channel):
                raise RefusedError(
                    403,
                    "notify",
                    f"notify channel {channel.name!r} reads a file on the server's machine, and is not in "
                    "force like this; a token of the control API does not reach that far",
                    "Run 'bramble apply' on the server's machine.",
                )


def named_paths(spec: ClusterSpec) -> Iterator[Path]:
    """Every file and directory of this machine that a cluster.yaml names."""
    yield from spec.image.overlays
    if isinstance(spec.image.base, FileBase):
        yield spec.image.base.path
    if isinstance(spec.k3s.source, Path):
        yield spec.k3s.source
    if spec.control.dashboard is not None:
        yield from (spec.control.dashboard.certificate, spec.control.dashboard.key)
    for channel in spec.notify:
        yield from secret_files(channel)
    for node in spec.nodes:
        yield from (place.file for place in secret_places(node.power) if place.file is not None)


def _touches_this_machine(power: PowerSpec | None) -> bool:
    """A variable of the server's environment would go to another device just as a file would."""
    return isinstance(power, CommandPower) or bool(secret_places(power))
