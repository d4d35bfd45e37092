"""The contract of the control server's own client, with the control server's own certificate and narrow role.

Every test runs against the simulator, and with `make test-k3s K3S=DIR` against the real API server in DIR.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from k3s_hosts import Hosts
from k3s_objects import JSON, make_budget, make_node, make_pod

from fleet.join.secrets import (
    BootstrapToken,
    accepts_password,
    bootstrap_token_object,
    expires_at,
    node_password_name,
    node_password_object,
)
from fleet.k3s.manifests import access_objects, object_path
from fleet.kube.client import KubeApi, KubeRefusedError
from fleet.kube.vip import LEASE
from fleet.secret import Secret

pytestmark = pytest.mark.integration

GONE_S = 60.0
Ask = Callable[[Callable[[KubeApi], Awaitable[Any]]], Any]
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


@pytest.fixture(scope="module")
def ask(hosts: Hosts) -> Ask:
    """Tell the client what to do, once our role is in force."""
    hosts.wait_role()

    def run(story: Callable[[KubeApi], Awaitable[Any]]) -> Any:
        async def told() -> Any:
            async with hosts.kube() as api:
                return await story(api)

        return hosts.run(told())

    return run


def test_a_cordon_is_conditional(hosts: Hosts, ask: Ask) -> None:
    make_node(hosts, "ours")

    async def story(api: KubeApi) -> None:
        seen = (await api.nodes())["ours"]
        patch = {"metadata": {"resourceVersion": seen.resource_version}, "spec": {"unschedulable": True}}
        await api.patch_node("ours", patch)
        assert (await api.nodes())["ours"].unschedulable
        with pytest.raises(KubeRefusedError) as refused:
            await api.patch_node("ours", patch)
        assert refused.value.status == 409

    ask(story)


def test_pods_are_evicted_or_deleted_and_never_others_of_their_name(hosts: Hosts, ask: Ask) -> None:
    make_node(hosts, "emptied")
    for name in ("easy", "kept", "forced"):
        make_pod(hosts, name, "emptied", name)
    make_budget(hosts, "keeper", "kept", 1)

    async def story(api: KubeApi) -> None:
        pods = {pod.name: pod for pod in await api.pods_on("emptied")}
        assert pods.keys() == {"easy", "kept", "forced"}
        kind = hosts.release.eviction_version
        await api.evict(pods["easy"], kind)
        with pytest.raises(KubeRefusedError) as refused:
            await api.evict(pods["kept"], kind)
        assert refused.value.status == 429
        await api.delete_pod(pods["forced"])
        await api.delete_pod(pods["forced"])  # one that is gone is no error

    ask(story)


def test_a_node_goes_by_its_uid(hosts: Hosts, ask: Ask) -> None:
    make_node(hosts, "leaves")

    async def story(api: KubeApi) -> None:
        seen = (await api.nodes())["leaves"]
        await api.delete_node("leaves", "00000000-0000-0000-0000-000000000000")
        assert not (await api.nodes())["leaves"].leaving
        await api.delete_node("leaves", seen.uid)
        async with asyncio.timeout(GONE_S):  # k3s's own controllers look at it first
            while "leaves" in (listing := await api.nodes()):
                assert listing["leaves"].leaving
                await asyncio.sleep(0.1)
        await api.delete_node("leaves", seen.uid)

    ask(story)


def test_the_secrets_of_a_join_are_made_read_and_deleted(hosts: Hosts, ask: Ask) -> None:
    token, until = BootstrapToken("abc123", "0123456789abcdef"), float(int(time.time()) + 600)

    async def story(api: KubeApi) -> None:
        password = Secret("correct horse")
        await api.create_secret(node_password_object("made", password, b"\1" * 8, hosts.release.version))
        found = await api.secret(node_password_name("made"))
        assert found is not None
        assert accepts_password(found, password)
        with pytest.raises(KubeRefusedError) as refused:
            await api.create_secret(node_password_object("made", password, b"\2" * 8, hosts.release.version))
        assert refused.value.status == 409
        await api.delete_secret(found)
        assert await api.secret(node_password_name("made")) is None

        await api.create_secret(bootstrap_token_object(token, "made", until))
        (listed,) = [
            one for one in await api.bootstrap_tokens() if one["metadata"]["name"] == token.object_name
        ]
        assert expires_at(listed) == until
        await api.delete_secret(listed)
        assert await api.secret(token.object_name) is None

    ask(story)


def test_the_lease_of_the_virtual_address_is_handed_on(hosts: Hosts, ask: Ask) -> None:
    body = {"metadata": {"name": LEASE}, "spec": {"holderIdentity": "s1", "leaseDurationSeconds": 15}}
    assert hosts.api().call("POST", LEASES, body, JSON)[0] == 201

    async def story(api: KubeApi) -> None:
        seen = await api.lease(LEASE)
        assert seen is not None
        await api.give_lease(LEASE, seen, "s2")
        with pytest.raises(KubeRefusedError) as refused:
            await api.give_lease(LEASE, seen, "s3")
        assert refused.value.status == 409
        now = await api.lease(LEASE)
        assert now is not None
        assert now["spec"]["holderIdentity"] == "s2"

    ask(story)


def test_our_role_is_put_in_place_by_an_administrator_and_by_nobody_else(hosts: Hosts, ask: Ask) -> None:
    """A cluster in which somebody deleted the role is given it again; that is no right of the role itself."""

    async def story(api: KubeApi) -> None:
        async with KubeApi(hosts.url("s1"), hosts.keys.admin_identity(time.time())) as admin:
            for item in access_objects():
                await admin.put_object(*object_path(item), item)
                with pytest.raises(KubeRefusedError) as refused:
                    await api.put_object(*object_path(item), item)
                assert refused.value.status == 403

    ask(story)


def test_a_claim_that_is_not_there_has_no_volume(hosts: Hosts, ask: Ask) -> None:
    assert ask(lambda api: api.volume_of("default", "absent")) is None
