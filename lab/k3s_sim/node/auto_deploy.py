"""What lies in <data-dir>/server/manifests is applied to the cluster, again whenever a file changes.

As in k3s: a file that is removed undoes nothing, and `<file>.skip` keeps a file from being applied. An object
of a kind that the simulator does not know (HelmChart, say) is passed over with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import log
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.patches import strategic_patch
from lab.k3s_sim.node.resources import find_kind
from lab.k3s_sim.node.yaml_subset import YamlError, parse_manifests

_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass
class AutoDeploy:
    """The manifests of one server."""

    directory: Path
    cluster: Cluster
    _applied: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def run(self) -> None:
        """Apply the files that are new or have changed; a bad one is logged, and tried when it changes."""
        if not self.directory.is_dir():
            return
        for file in sorted(self.directory.iterdir()):
            if file.suffix not in _SUFFIXES or file.with_name(f"{file.name}.skip").exists():
                continue
            state = file.stat()
            seen = (state.st_mtime_ns, state.st_size)
            if self._applied.get(file) != seen and self._apply(file):
                self._applied[file] = seen

    def _apply(self, file: Path) -> bool:
        """Whether this version of the file is done with."""
        try:
            documents = parse_manifests(file.read_text("utf-8"), str(file))
        except (YamlError, UnicodeDecodeError) as error:
            log.error(f"Failed to process config: failed to process {file}: {error}")
            return True
        for document in documents:
            try:
                self._put(file, document)
            except StatusError as error:
                log.error(f"Failed to process config: failed to process {file}: {error.message}")
                return error.code < 500
        log.info(f"Applied manifest at {file}")
        return True

    def _put(self, file: Path, document: Object) -> None:
        kind = find_kind(str(document.get("apiVersion", "")), str(document.get("kind", "")))
        name = (document.get("metadata") or {}).get("name")
        if kind is None or not isinstance(name, str):
            found = f"{document.get('apiVersion')} {document.get('kind')}"
            log.warning(f"the simulator has no {found}, which {file} holds")
            return
        namespace = str(document["metadata"].get("namespace", "default")) if kind.namespaced else ""
        if self.cluster.find(kind.plural, namespace, name) is None:
            self.cluster.ensure(kind.plural, namespace, document)
        else:
            self.cluster.update(
                kind.plural, namespace, name, lambda current: strategic_patch(current, document)
            )
