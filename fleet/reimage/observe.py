"""Looking at a node that is being taken down, through the Kubernetes API."""

from __future__ import annotations

from fleet.join.secrets import node_password_name
from fleet.kube.client import KubeApi, KubeError, KubeNode
from fleet.kube.pods import KubePod, is_on_the_node
from fleet.reimage.drain import Load, leaving
from fleet.store.records import NodeRecord

MAX_CLAIMS = 200
"""Claims of one node that are looked at; a kubelet runs 110 pods."""


def is_silent(node: NodeRecord, seen: KubeNode | None, now: float, started: float, silence_s: float) -> bool:
    """Whether neither the node's kubelet nor its agent is heard of.

    Args:
        started: When this server began to listen; what was before is nobody's silence.
        silence_s: How long an agent may keep silent (`fleet.health.pace`).
    """
    heard = max(node.status_at or 0.0, started)
    return now - heard > silence_s and (seen is None or not seen.ready)


async def read_load(api: KubeApi, name: str) -> Load:
    """What is on a node, and which volumes are on its disk.

    Raises:
        KubeError: The API does not answer, or refuses to list pods.
    """
    pods = await api.pods_on(name)
    local: dict[str, str] = {}
    claims = _claims(pods)
    unknown = [f"{pod.namespace}/{claim}" for pod, claim in claims[MAX_CLAIMS:]]
    for pod, claim in claims[:MAX_CLAIMS]:
        try:
            volume = await api.volume_of(pod.namespace, claim)
        except KubeError:
            unknown.append(f"{pod.namespace}/{claim}")
            continue
        if volume is not None and is_on_the_node(volume):
            local[pod.title] = ", ".join(filter(None, (local.get(pod.title), claim)))
    return Load(pods=pods, local=local, unknown=tuple(unknown))


def _claims(pods: tuple[KubePod, ...]) -> list[tuple[KubePod, str]]:
    return [(pod, claim) for pod in leaving(pods) for claim in pod.claims]


async def has_password(api: KubeApi, name: str) -> bool:
    """Whether the node's password is still in the cluster."""
    return await api.secret(node_password_name(name)) is not None
