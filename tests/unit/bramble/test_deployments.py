"""The recipe of the container and the manifests for Kubernetes hang together."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bramble.service.unit import CACHE, CLUSTER, STATE
from fleet.spec import load_cluster

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes"
RECIPE = ROOT / "deploy" / "container" / "Containerfile"
QUADLET = ROOT / "deploy" / "container" / "bramble.container"
GUIDE = ROOT / "docs" / "containers.md"
KUBERNETES = "1.33"
KUSTOMIZATION = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())


def documents() -> Iterator[dict[str, Any]]:
    for name in KUSTOMIZATION["resources"]:
        yield from yaml.safe_load_all((MANIFESTS / name).read_text())


DOCUMENTS = {f"{one['kind']}/{one['metadata']['name']}": one for one in documents()}
WORKLOADS = [one for one in DOCUMENTS.values() if one["kind"] == "StatefulSet"]


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_kubernetes_knows_every_field(name: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[name], KUBERNETES, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    broken = json.loads(json.dumps(DOCUMENTS["StatefulSet/bramble"]))
    broken["spec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_every_file_is_used_and_every_used_file_is_there() -> None:
    generated = [name for one in KUSTOMIZATION["configMapGenerator"] for name in one["files"]]
    used = {*KUSTOMIZATION["resources"], *generated, "kustomization.yaml"}
    assert used == {path.name for path in MANIFESTS.iterdir()}


def test_selectors_choose_the_pods_that_they_mean() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in WORKLOADS]
    for one in DOCUMENTS.values():
        selector = one.get("spec", {}).get("selector", {})
        selector = selector.get("matchLabels", selector)
        if selector:
            assert sum(selector.items() <= each.items() for each in labels) == 1, one["metadata"]["name"]


def test_references_lead_somewhere() -> None:
    maps = {one["name"] for one in KUSTOMIZATION["configMapGenerator"]}
    for workload in WORKLOADS:
        spec = pod(workload)
        claims = {one["metadata"]["name"] for one in workload["spec"]["volumeClaimTemplates"]}
        volumes = claims | {one["name"] for one in spec["volumes"]}
        for volume in spec["volumes"]:
            assert "configMap" not in volume or volume["configMap"]["name"] in maps
        assert f"Service/{workload['spec']['serviceName']}" in DOCUMENTS
        for container in spec["containers"]:
            assert {one["name"] for one in container["volumeMounts"]} == volumes
            for variable in container["env"]:
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    assert reference["key"] in DOCUMENTS[f"Secret/{reference['name']}"]["stringData"]


def test_nobody_is_root_and_only_the_server_has_capabilities() -> None:
    for workload in WORKLOADS:
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"]["drop"] == ["ALL"]
            added = rights["capabilities"].get("add", [])
            assert added == (["NET_BIND_SERVICE", "NET_RAW"] if container["name"] == "bramble" else [])
            assert "memory" in container["resources"]["limits"]


def test_the_server_is_probed_where_it_answers() -> None:
    spec = load_cluster(MANIFESTS / "cluster.yaml")
    (server,) = pod(DOCUMENTS["StatefulSet/bramble"])["containers"]
    ports = {one["name"]: one["containerPort"] for one in server["ports"]}
    assert ports["content"] == spec.network.ports.http
    assert ports["control"] == spec.network.ports.control
    assert server["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "content"}
    for probe in ("startupProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/healthz", "port": "content"}
    mounts = {one["name"]: one["mountPath"] for one in server["volumeMounts"]}
    assert mounts["state"] == str(STATE)
    assert mounts["cache"] == str(CACHE)
    assert server["args"] == ["serve", str(CLUSTER)]
    assert mounts["cluster"] == str(CLUSTER.parent)


def test_no_service_puts_variables_among_brambles_own() -> None:
    # Kubernetes would set BRAMBLE_PORT, BRAMBLE_SERVICE_HOST and more for the Service of that name.
    assert {pod(workload)["enableServiceLinks"] for workload in WORKLOADS} == {False}


def test_the_record_is_asked_by_its_own_host_alone_and_the_server_is_there() -> None:
    policy = DOCUMENTS["NetworkPolicy/postgres"]["spec"]
    record, server = DOCUMENTS["StatefulSet/postgres"], DOCUMENTS["StatefulSet/bramble"]
    assert policy["policyTypes"] == ["Ingress"]
    assert "ingress" not in policy
    assert policy["podSelector"] == record["spec"]["selector"]
    assert pod(server)["hostNetwork"] is True
    (term,) = pod(record)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term == {"labelSelector": server["spec"]["selector"], "topologyKey": "kubernetes.io/hostname"}
    assert pod(record)["tolerations"] == pod(server)["tolerations"]  # else it could not follow


def test_there_is_one_of_each_and_a_drain_of_its_host_is_not_held_up() -> None:
    assert {workload["spec"]["replicas"] for workload in WORKLOADS} == {1}
    # A budget for one pod either does nothing or lets no drain end.
    assert not [name for name in DOCUMENTS if name.startswith("PodDisruptionBudget/")]


def instructions() -> list[tuple[str, str]]:
    """The recipe's instructions, without comments, with lines that go on put together."""
    lines = [line for line in RECIPE.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def test_the_image_runs_the_packages_program_as_nobody_in_particular() -> None:
    found = dict(instructions())
    assert found["USER"] == "10001:10001"
    assert f"UID={found['USER'].split(':')[0]}" in [rest for word, rest in instructions() if word == "ARG"]
    assert json.loads(found["ENTRYPOINT"]) == ["/usr/bin/bramble"]
    assert json.loads(found["CMD"]) == ["serve", str(CLUSTER)]
    assert json.loads(found["VOLUME"]) == [str(STATE), str(CACHE)]
    (container,) = pod(DOCUMENTS["StatefulSet/bramble"])["containers"]
    assert pod(DOCUMENTS["StatefulSet/bramble"])["securityContext"]["runAsUser"] == 10001
    assert container["image"] == "bramble"


def test_the_image_takes_nothing_but_the_package_and_debian() -> None:
    words = {word for word, _ in instructions()}
    assert words == {
        "ARG",
        "FROM",
        "RUN",
        "ENV",
        "VOLUME",
        "EXPOSE",
        "USER",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
    }
    (script,) = [rest for word, rest in instructions() if word == "RUN"]
    assert "curl" not in shlex.split(script)
    assert "pip" not in shlex.split(script)
    # What is taken out again may take Bramble with it: iproute2 depends on libcap2-bin.
    assert not {"purge", "remove", "autoremove"} & set(shlex.split(script))
    assert "set -eu" in script


def test_the_ports_are_those_that_the_server_opens() -> None:
    spec = load_cluster(MANIFESTS / "cluster.yaml")
    exposed = set(dict(instructions())["EXPOSE"].split())
    assert {
        f"{spec.network.ports.http}/tcp",
        f"{spec.network.ports.control}/tcp",
        "67/udp",
        "69/udp",
    } <= exposed


def test_a_package_of_another_architecture_or_age_is_never_taken() -> None:
    (script,) = [rest for word, rest in instructions() if word == "RUN"]
    # A builder's TARGETARCH is not set by all, and its default here would be taken for the truth by others.
    assert "$(dpkg --print-architecture).deb" in script
    assert "TARGETARCH" not in RECIPE.read_text()
    assert '[ "$#" != 1 ]' in script
    for page in (RECIPE, GUIDE):
        assert "podman build --no-cache -f deploy/container/Containerfile" in page.read_text()


def quadlet() -> dict[str, list[str]]:
    """Values of the unit's [Container] section, by key: some keys stand several times."""
    section = QUADLET.read_text().partition("[Container]\n")[2].partition("\n[")[0]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_systemd_runs_the_same_container_as_the_guide() -> None:
    typed = re.sub(r"\\\n\s*", " ", GUIDE.read_text()).partition("podman run -d ")[2].partition("\n")[0]
    *words, image = shlex.split(typed)
    assert f"localhost/{image}:latest" == quadlet()["Image"][0]
    options: dict[str, list[str]] = {}
    while words:
        name = words.pop(0)
        options.setdefault(name, []).append("" if not words or words[0].startswith("-") else words.pop(0))
    assert options == {
        "--name": quadlet()["ContainerName"],
        "--network": quadlet()["Network"],
        "--cap-drop": quadlet()["DropCapability"],
        "--cap-add": [quadlet()["AddCapability"][0].lower().replace(" ", ",")],
        "--read-only": ["" if quadlet()["ReadOnly"] == ["true"] else "not"],
        "--tmpfs": quadlet()["Tmpfs"],
        "-v": [
            volume.replace("/etc/bramble/cluster.yaml:", "./cluster.yaml:", 1)
            for volume in quadlet()["Volume"]
        ],
    }
    assert {volume.split(":")[1] for volume in quadlet()["Volume"]} == {str(CLUSTER), str(STATE), str(CACHE)}


def test_only_a_server_that_does_not_answer_is_unwell() -> None:
    from bramble.cli_status import CANNOT_TELL, FINE, NEEDS_ATTENTION

    (test,) = quadlet()["HealthCmd"]
    for code, unwell in ((FINE, False), (NEEDS_ATTENTION, False), (CANNOT_TELL, True)):
        limit = re.fullmatch(r"bramble status >/dev/null; test \$\? -lt (\d)", test)
        assert limit is not None
        assert (code >= int(limit[1])) is unwell
