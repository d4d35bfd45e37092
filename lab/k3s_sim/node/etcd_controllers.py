"""What k3s does about the members of etcd: names them on their nodes, promotes learners, evicts those that do
not get on, removes members on request and when their node is deleted, and says on each node whether it votes.

Annotations, conditions and texts are those of k3s. Promotion and removal are the leader's, so that one server
at a time does them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.k3s_sim.node import log
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.errors import K3sError, StatusError
from lab.k3s_sim.node.etcd_client import MEMBER_NOT_FOUND, EtcdClient, EtcdError, Member
from lab.k3s_sim.node.etcd_member import EtcdMember
from lab.k3s_sim.node.etcd_words import (
    ADDRESS,
    ETCD_LABEL,
    FINALIZER,
    NAME,
    REMOVE,
    REMOVED,
    ROLE_LABELS,
    set_condition,
)
from lab.k3s_sim.node.objects import Object

REMOVAL_TIMEOUT_S = 60.0
_PROGRESS_KEY = "k3s/etcd/learnerProgress"


@dataclass
class EtcdControllers:
    """The controllers of one server. `node_name` is empty where the server has no node of its own."""

    cluster: Cluster
    member: EtcdMember
    client: EtcdClient
    node_name: str
    learner_stall_s: float

    def run(self, now: float) -> None:
        """One pass. `now` is wall time.

        Raises:
            EtcdError, StatusError: etcd does not answer; the next pass tries again.
        """
        if self.node_name:
            self._describe_own_node()
        status = self.client.status()
        if status.member_id != status.leader:
            return
        members = self.client.members()
        for learner in (item for item in members if item.is_learner):
            self._promote(learner, now)
        for node in self.cluster.select("nodes", ""):
            if ETCD_LABEL in (node["metadata"].get("labels") or {}):
                self._look_after(node, members, now)

    def _describe_own_node(self) -> None:
        wanted = {NAME: self.member.name, ADDRESS: self.member.address}

        def edit(node: Object) -> Object:
            metadata = node["metadata"]
            if "deletionTimestamp" in metadata:
                return node
            metadata["labels"] = {**(metadata.get("labels") or {}), **ROLE_LABELS}
            annotations = {**(metadata.get("annotations") or {}), **wanted}
            metadata["annotations"] = annotations
            finalizers = metadata.get("finalizers") or []
            metadata["finalizers"] = finalizers if FINALIZER in finalizers else [*finalizers, FINALIZER]
            return node

        try:
            self.cluster.update("nodes", "", self.node_name, edit)
        except StatusError as error:
            if error.code != 404:  # the kubelet has not registered yet
                raise

    def _look_after(self, node: Object, members: Sequence[Member], now: float) -> None:
        metadata = node["metadata"]
        name, annotations = metadata["name"], metadata.get("annotations") or {}
        if "deletionTimestamp" in metadata:
            if FINALIZER in (metadata.get("finalizers") or ()):
                self._on_deleted(name, annotations)
            return
        if annotations.get(REMOVE) is not None and REMOVED in annotations:
            if annotations.get(NAME, annotations[REMOVED]) != annotations[REMOVED]:
                log.info("Resetting removed node flag as removed node name did not match current node name")
                self._annotate(name, {REMOVED: None, REMOVE: "false"})
        elif str(annotations.get(REMOVE, "")).lower() == "true":
            self._remove_member(name, annotations)
            self._annotate(name, {REMOVED: annotations[NAME], NAME: None, ADDRESS: None})
            return
        self._say_whether_it_votes(node, members, now)

    def _on_deleted(self, name: str, annotations: Object) -> None:
        """The node is being deleted: its member goes first."""
        log.info(f"Removing etcd member {name} from cluster")
        removed = annotations.get(REMOVED)
        if str(annotations.get(REMOVE, "")).lower() == "true" and removed:
            log.info(
                f"etcd member {name} was already removed as member name {removed} "
                "via annotation from the cluster"
            )
        else:
            self._remove_member(name, annotations)

        def release(node: Object) -> Object:
            kept = [item for item in node["metadata"].get("finalizers") or () if item != FINALIZER]
            node["metadata"]["finalizers"] = kept
            return node

        self.cluster.update("nodes", "", name, release)

    def _remove_member(self, node: str, annotations: Object) -> None:
        for what, key in (("name", NAME), ("address", ADDRESS)):
            if key not in annotations:
                raise StatusError(500, "InternalError", f"node {what} annotation for node {node} not found")
        name, address = annotations[NAME], annotations[ADDRESS]
        for member in self.client.members():
            if member.name == name and address in member.hosts:
                log.info(f"Removing name={name} id={member.id} address={address} from etcd")
                self._remove(member.id)

    def _remove(self, member_id: int) -> None:
        try:
            self.client.remove(member_id, REMOVAL_TIMEOUT_S)
        except EtcdError as error:
            if str(error) != MEMBER_NOT_FOUND:
                raise

    def _annotate(self, node: str, values: dict[str, str | None]) -> None:
        def edit(current: Object) -> Object:
            annotations = {**(current["metadata"].get("annotations") or {}), **values}
            kept = {key: value for key, value in annotations.items() if value is not None}
            current["metadata"]["annotations"] = kept
            return current

        self.cluster.update("nodes", "", node, edit)

    def _promote(self, learner: Member, now: float) -> None:
        """Promote it if it has caught up; evict it if it has not moved for long."""
        try:
            self.client.promote(learner.id)
        except EtcdError as error:
            if not error.answered:
                raise
        else:
            log.info(f"Promoted learner {learner.name}")
            return
        progress = self._progress(learner, now)
        applied = _applied_index(self.member, learner)
        if applied > progress["raftAppliedIndex"]:
            progress.update(raftAppliedIndex=applied, lastProgress=now)
        stalled_s = now - progress["lastProgress"]
        if stalled_s > 0:
            log.warning(
                f"Learner {learner.name} stalled at RaftAppliedIndex={progress['raftAppliedIndex']} "
                f"for {stalled_s:.3f}s"
            )
        if stalled_s > self.learner_stall_s:
            self._remove(learner.id)
            log.warning(f"Removed learner {learner.name} from etcd cluster")
            return
        self.client.put(_PROGRESS_KEY, json.dumps(progress).encode())

    def _progress(self, learner: Member, now: float) -> dict[str, Any]:
        kept = self.client.get(_PROGRESS_KEY)
        progress: dict[str, Any] = json.loads(kept.value) if kept else {}
        if progress.get("id") != learner.id:
            return {"id": learner.id, "name": learner.name, "raftAppliedIndex": 0, "lastProgress": now}
        return progress

    def _say_whether_it_votes(self, node: Object, members: Sequence[Member], now: float) -> None:
        name = node["metadata"]["name"]
        own = (node["metadata"].get("annotations") or {}).get(NAME)
        member = next((item for item in members if item.name and item.name == own), None)
        message = ""
        if member is None:
            kind = "unjoined"
        else:
            kind, message = self._state(member)
        self.cluster.update("nodes", "", name, lambda current: set_condition(current, kind, message, now))

    def _state(self, member: Member) -> tuple[str, str]:
        if member.is_learner:
            return "learner", ""
        client = self.member.client(*member.client_urls[:1])
        try:
            client.status()
        except EtcdError as error:
            return "unhealthy", f"failed to check etcd member status: {error}"
        finally:
            client.close()
        return "voter", ""


def _applied_index(own: EtcdMember, learner: Member) -> int:
    for url in learner.client_urls:
        client = own.client(url)
        try:
            return client.status().applied_index
        except EtcdError:
            continue
        finally:
            client.close()
    return 0


def require_voter(member: EtcdMember, client: EtcdClient) -> None:
    """Whether this server may serve: its member votes, and the cluster knows it by its name and address.

    Raises:
        EtcdError: not yet.
        K3sError: never.
    """
    if client.status().is_learner:
        raise EtcdError("this server has not yet been promoted from learner to voting member")
    members = client.members(timeout_s=10.0)
    if any(item.name == member.name and member.peer_url in item.peer_urls for item in members):
        return
    found = " ".join(f"{item.name}={item.peer_urls[0]}" for item in members if item.peer_urls)
    raise K3sError(
        f"this server is a not a member of the etcd cluster. Found [{found}], "
        f"expect: {member.name}={member.peer_url}"
    )
