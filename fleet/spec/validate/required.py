"""What a cluster cannot do without."""

from __future__ import annotations

from collections.abc import Iterator

from fleet.boards import BoardModel
from fleet.spec.document import Key, dotted
from fleet.spec.draft import Draft, DraftNode
from fleet.spec.shape import Finding


def check_required(draft: Draft) -> Iterator[Finding]:
    """Find absent values that have no sensible default."""
    network = draft.network
    wanted: list[tuple[Key, object, str]] = [
        (("version",), draft.document.version, "Write 'version: 1' at the top: the version of the format."),
        (("cluster", "name"), draft.cluster.name, "Give the cluster a name, 'name: attic'."),
        (
            ("cluster", "k3s", "version"),
            draft.k3s.version,
            "Pin a release, 'version: v1.33.5+k3s1'; see https://github.com/k3s-io/k3s/releases.",
        ),
        (
            ("network", "interface"),
            network.interface,
            "Name the interface on the boards' network; 'ip -br link' lists them.",
        ),
        (
            ("network", "subnet"),
            network.subnet,
            "Write the boards' network, 'subnet: 192.168.86.0/24'; 'ip -br addr' shows it.",
        ),
    ]
    for key, value, hint in wanted:
        if value is None and not draft.is_faulty(key):
            yield Finding(key, f"the key {key[-1]!r} is missing in {_section(key)}", hint)
    if not draft.document.nodes and not draft.is_faulty(("nodes",)):
        yield Finding(("nodes",), "no node is declared", "List at least one, with 'role: server'.")
    for node in draft.nodes:
        yield from _node(draft, node)


def _section(key: Key) -> str:
    return repr(dotted(key[:-1])) if len(key) > 1 else "the file"


def _node(draft: Draft, node: DraftNode) -> Iterator[Finding]:
    section = node.section
    boards = ", ".join(model.yaml_name for model in BoardModel)
    wanted: list[tuple[str, object, str]] = [
        ("name", section.name, "Each node has a name, 'name: pi5-1'."),
        ("board", section.board, f"Write one of: {boards}."),
        ("role", section.role, "Write 'role: server' or 'role: agent'."),
        (
            "disk",
            section.disk and section.disk.kind,
            "Say which disk may be erased, 'disk: nvme', here or under 'defaults'.",
        ),
    ]
    for name, value, hint in wanted:
        key = node.at(name)
        if value is None and not draft.is_faulty(key) and not draft.is_faulty((*key, "kind")):
            yield Finding(key, f"node {node.label} has no {name!r}", hint)
    identified = section.mac or section.serial
    if not identified and not draft.is_faulty(node.at("mac")) and not draft.is_faulty(node.at("serial")):
        yield Finding(
            node.key,
            f"node {node.label} has neither 'mac' nor 'serial', so its board cannot be recognised",
            "Add one: the bootloader's screen shows both, 'bramble nodes' lists boards that tried to boot.",
        )
