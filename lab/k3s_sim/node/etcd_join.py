"""How a server gets into an etcd cluster: by the addresses that an older server names, as a learner first.

Waits where k3s waits (another learner, a cluster that is not well), ends where k3s ends (a second member of
the same node). Texts are those of k3s.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from lab.k3s_sim.node import log
from lab.k3s_sim.node.client import TransportError, TrustedServer
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.etcd_client import TOO_MANY_LEARNERS, UNHEALTHY, EtcdError, Member
from lab.k3s_sim.node.etcd_member import EtcdMember, InitialCluster

JOIN_TIMEOUT_S = 20.0
_RETRY_S = 1.0
_FAILED = "etcd cluster join failed"
_DUPLICATE = "duplicate node name found, please use a unique name for this node"


class MemberListError(Exception):
    """The older server can not say who the members are."""


def join_etcd(
    server: TrustedServer, member: EtcdMember, node_name: str, stop: threading.Event
) -> InitialCluster | None:
    """Have this member added, waiting for as long as it takes; None if told to stop.

    Raises:
        K3sError: it can never be.
    """
    while not stop.is_set():
        try:
            return _join(server, member, node_name)
        except MemberListError as error:
            log.info(f"Waiting to retrieve etcd cluster member list: {error}")
        except EtcdError as error:
            if str(error) not in (TOO_MANY_LEARNERS, UNHEALTHY):
                raise K3sError(f"{_FAILED}: {error}") from error
            log.info(f"Waiting for other members to finish joining etcd cluster: {error}")
        stop.wait(_RETRY_S)
    return None


def _join(server: TrustedServer, member: EtcdMember, node_name: str) -> InitialCluster:
    known = _fetch_members(server)
    listed: list[str] = []
    is_member = False
    for other in known:
        name = other.name
        if not name and member.address in other.hosts:  # added before, and not started yet: it is us
            name = member.name
        if name == member.name and member.address in other.hosts:
            is_member = True
        listed += [f"{name}={url}" for url in other.peer_urls[:1]]
        if name != member.name and other.node_name == node_name:
            member.forget_name()
            raise K3sError(f"{_FAILED}: {_DUPLICATE}")
    if not is_member:
        log.info(f"Adding member {member.name}={member.peer_url} to etcd cluster [{' '.join(listed)}]")
        member.client(*_voters(known, member.address)).add_learner(member.peer_url, JOIN_TIMEOUT_S)
        listed.append(f"{member.name}={member.peer_url}")
    log.info(f"Starting etcd to join cluster with members [{' '.join(listed)}]")
    return InitialCluster(",".join(listed), "existing")


def _fetch_members(server: TrustedServer) -> list[Member]:
    try:
        answer = server.call("GET", "/db/info")
    except TransportError as error:
        raise MemberListError(f"failed to get MemberList from server: {error}") from error
    if answer.status == 404:
        raise K3sError(f"{_FAILED}: {server.url}/db/info: 404 Not Found")  # its datastore is not etcd
    if answer.status != 200:
        raise MemberListError(f"failed to get MemberList from server: {answer.status_line}")
    return [Member.parse(item) for item in json.loads(answer.body)["members"]]


def _voters(members: Sequence[Member], own_address: str) -> list[str]:
    """Client URLs of those who can add a member."""
    return [
        url
        for other in members
        if not other.is_learner
        for url in other.client_urls
        if urlsplit(url).hostname != own_address
    ]
