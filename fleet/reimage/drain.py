"""Emptying a node: which pods leave, which stay, what is lost with it, and what each refusal means. Pure.

Source: Kubernetes documentation, "Safely Drain a Node", "API-initiated Eviction", "Pod Lifecycle".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from fleet.kube.pods import KubePod
from fleet.reimage.problems import Problem

EVICTION_INTERVAL_S: Final = 5.0
"""Between two requests to evict one pod; what kubectl takes after a refusal."""
POLITE_S: Final = 600.0
"""How long pods are asked to leave before a forced drain deletes those that stay. The state's own limit is
fifteen minutes."""
NAMED: Final = 5
"""Pods that a text names; of the others it has the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is on a node.

    Attributes:
        pods: All that are bound to it.
        local: Pods whose volumes' only copy is on the node's disk, by title → the claims' names.
        unknown: Claims that could not be looked at.
    """

    pods: tuple[KubePod, ...] = ()
    local: Mapping[str, str] | None = None
    unknown: tuple[str, ...] = ()


def leaving(pods: Iterable[KubePod]) -> tuple[KubePod, ...]:
    """The pods that have to leave. Those of DaemonSets would come back at once, those from files can not be
    moved, and what has ended holds nothing.
    """
    return tuple(pod for pod in pods if not (pod.is_mirror or pod.owner == "DaemonSet" or pod.is_finished))


def problems(load: Load, *, force: bool, silent: bool) -> tuple[Problem, ...]:
    """What would be lost for good with the node; a drain by force consents to it, so all of it is named.

    Args:
        silent: The node's kubelet is not heard of: nobody there ends a pod.
    """
    if force:
        return ()
    going = leaving(load.pods)
    found = []
    unmanaged = [pod.title for pod in going if not pod.owner]
    if unmanaged:
        found.append(
            Problem(
                "pods-unmanaged",
                f"nothing makes these pods anew elsewhere: {', '.join(unmanaged)}",
                "Delete them, or order with --force-drain, which ends them for good.",
            )
        )
    if load.local:
        found.append(
            Problem(
                "local-volumes",
                "the only copy of these volumes is on its disk, which is overwritten: "
                + _volumes(load.local),
                "Copy what is needed elsewhere, or order with --force-drain, which gives it up.",
            )
        )
    if silent and (twice := stateful(load.pods)):
        found.append(
            Problem(
                "stateful-on-silent",
                f"its kubelet does not answer and may still run what must not run twice: {names(twice)}",
                "Switch its power off, then order with --force-drain.",
            )
        )
    return tuple(found)


def warnings(load: Load, *, force: bool) -> tuple[Problem, ...]:
    """What a person should know before."""
    going = leaving(load.pods)
    found = []
    scratch = [pod.title for pod in going if pod.scratch]
    if scratch:
        found.append(
            Problem("empty-dir", f"the scratch data (emptyDir) of these pods is lost: {names(scratch)}")
        )
    if load.unknown:
        found.append(
            Problem(
                "volumes-unknown", f"whether these claims are on its disk is not known: {names(load.unknown)}"
            )
        )
    if force and load.local:
        found.append(Problem("local-volumes", f"these volumes are given up: {_volumes(load.local)}"))
    if force and (lost := [pod.title for pod in going if not pod.owner]):
        found.append(Problem("pods-unmanaged", f"these pods end for good: {', '.join(lost)}"))
    return tuple(found)


def _volumes(local: Mapping[str, str]) -> str:
    return ", ".join(f"{title} ({claim})" for title, claim in sorted(local.items()))


def stateful(pods: Iterable[KubePod]) -> list[str]:
    """Pods of which there must never be two: those that have to leave, by title."""
    return [pod.title for pod in leaving(pods) if pod.owner == "StatefulSet"]


def stuck(pods: Iterable[KubePod]) -> tuple[KubePod, ...]:
    """Pods that were deleted and whose objects only stay because of finalizers."""
    return tuple(pod for pod in pods if pod.leaving and pod.finalizers)


def refusal_text(pod: KubePod, status: int, message: str) -> str:
    """Why a pod stays, for people."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return f"{pod.title}: a disruption budget keeps it ({message})"
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"{pod.title}: it can not be evicted, several disruption budgets select it ({message})"
    return f"{pod.title}: {message}"


def waiting_text(pods: Sequence[KubePod], refusals: Mapping[str, str]) -> str:
    """What a drain waits for.

    Args:
        refusals: uid of a pod → why it stays.
    """
    held = [f"{pod.title} ends only when {', '.join(pod.finalizers)} let it" for pod in stuck(pods)]
    refused = [refusals[pod.uid] for pod in pods if pod.uid in refusals and not pod.leaving]
    said = [*refused, *held]
    return f"{len(pods)} pod(s) still to leave" + (f": {'; '.join(said[:NAMED])}" if said else "")


def names(titles: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(titles) - NAMED
    return ", ".join(titles[:NAMED]) + (f" and {more} more" if more > 0 else "")
