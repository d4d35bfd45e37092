"""The cluster's etcd, at the addresses of its servers as the record knows them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from fleet.etcd.client import EtcdClient
from fleet.etcd.view import EtcdView
from fleet.ground import Ground
from fleet.k3s.material import ClientIdentity
from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.store.records import NodeRecord

MakeEtcd = Callable[[Mapping[str, str], ClientIdentity], EtcdClient]
"""Addresses by node name → a client."""
_NEVER_JOINED: Final = frozenset(
    {State.DECLARED, State.NETBOOTING, State.PENDING, State.FLASHED, State.FAILED_NETBOOT}
)


class EtcdDoor:
    """Makes clients for one observation or a few; the certificate is renewed meanwhile."""

    def __init__(self, ground: Ground, make: MakeEtcd = EtcdClient) -> None:
        self._ground = ground
        self._make = make

    def client(self, *, without: Collection[str] = ()) -> EtcdClient:
        """A client that asks every server that may have a member, but for those that are named."""
        with self._ground.store.read() as reader:
            records = reader.nodes()
        addresses = {
            node.name: address
            for node in records
            if _may_be_member(node)
            and node.name not in without
            and (address := self._ground.address_of(node)) is not None
        }
        return self._make(addresses, self._ground.k3s.etcd_identity(self._ground.clock()))

    async def observe(self) -> EtcdView:
        """Who etcd's members are, and how each is.

        Raises:
            EtcdError: None answers.
        """
        return await self.client().observe()


def _may_be_member(node: NodeRecord) -> bool:
    """A server that was re-imaged may have an old member yet; one that was never installed has none."""
    return node.role is Role.SERVER and (node.state not in _NEVER_JOINED or node.image_id is not None)
