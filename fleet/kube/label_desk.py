"""Keeps labels and taints of the cluster's Node objects as they are declared."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fleet.ground import Ground
from fleet.kube.client import KubeApi, KubeNode, KubeRefusedError
from fleet.kube.node_labels import desired_labels, node_patch

log = logging.getLogger(__name__)


class LabelDesk:
    """Patches what differs; remembers nothing."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def reconcile(self, api: KubeApi, listing: Mapping[str, KubeNode]) -> None:
        """Bring every declared node's object in line. One that is refused does not keep the others waiting.

        Raises:
            KubeError: The API does not answer any more.
        """
        with self._ground.store.read() as reader:
            records = {record.name: record for record in reader.nodes()}
        declared = {node.name: node for node in self._ground.spec.nodes}
        for name, seen in listing.items():
            spec, record = declared.get(name), records.get(name)
            if spec is None or record is None:
                continue
            patch = node_patch(seen, desired_labels(spec, record.status), spec.taints)
            if patch is None:
                continue
            try:
                await api.patch_node(name, patch)
            except KubeRefusedError as error:
                # 409: somebody changed the taints in between; the next round has read that.
                level = logging.DEBUG if error.status == 409 else logging.WARNING
                log.log(level, "labels were not set: %s", error.message, extra={"node": name})
