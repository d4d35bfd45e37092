"""May this node be taken down? What every node has to pass; servers, disks and the policy add more. Pure."""

from __future__ import annotations

from fleet.lifecycle import REIMAGE_FROM, REIMAGING
from fleet.reimage import drain
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.problems import Problem
from fleet.reimage.seams import Findings, Situation
from fleet.spec.model import Role


def base_findings(situation: Situation) -> Findings:
    """What stands against it, and what is lost with the node."""
    return Findings(
        (*_of_record(situation), *_of_cluster(situation)),
        _warnings(situation),
    )


def _of_record(situation: Situation) -> tuple[Problem, ...]:
    node, found = situation.node, []
    if situation.spec is None:
        found.append(
            Problem("undeclared", f"{node.name} is not in cluster.yaml", "Declare it, then 'bramble apply'.")
        )
    # While the order is under way its own state is no obstacle.
    if node.state not in REIMAGE_FROM and node.state not in REIMAGING:
        found.append(
            Problem(
                "state",
                f"{node.name} is '{node.state}': only a node that was installed is installed again",
                f"'bramble show {node.name}' tells what it waits for.",
            )
        )
    return tuple(found)


def _of_cluster(situation: Situation) -> tuple[Problem, ...]:
    if situation.listing is None:
        return (
            Problem(
                "api",
                f"the cluster's Kubernetes API does not answer: {situation.silence}",
                "Bring a server of the cluster back first; 'bramble nodes' shows them.",
            ),
        )
    if situation.load is None:
        return (Problem("pods", f"what runs on {situation.node.name} is not known: {situation.silence}"),)
    own = situation.listing.get(situation.node.name)
    unattended = situation.silent or (own is not None and not own.ready)
    found = drain.problems(situation.load, force=situation.force, silent=unattended)
    places = [
        name
        for name, seen in situation.listing.items()
        if name != situation.node.name and seen.ready and not seen.unschedulable
    ]
    if not places and drain.leaving(situation.load.pods) and not situation.force:
        found += (
            Problem(
                "nowhere",
                "no other node of the cluster is Ready and takes pods: everything on it would stop",
                "Bring another node up, or order with --force-drain.",
            ),
        )
    return found


def _warnings(situation: Situation) -> tuple[Problem, ...]:
    node, found = situation.node, list[Problem]()
    if situation.load is not None:
        found += drain.warnings(situation.load, force=situation.force)
    if situation.listing is not None and node.name not in situation.listing:
        found.append(Problem("no-node-object", f"{node.name} has no Node object: there is nothing to drain"))
    if situation.silent:
        found.append(
            Problem("silent", f"{node.name} is silent: nothing is drained, its pods go with its Node object")
        )
    if situation.kind is ReimageKind.DECOMMISSION:
        found.append(
            Problem(
                "still-on",
                "its disk keeps its installation: a kubelet that starts from it may register the node anew",
                "Switch it off, or wipe its disk, when it is decommissioned.",
            )
        )
    elif node.role is Role.SERVER:
        found.append(
            Problem(
                "approval",
                "a server's installer waits for a person, unless its board has a device key on record",
                f"Compare the fingerprint on its screen, then 'bramble approve {node.name}'.",
            )
        )
    return tuple(found)
