"""A machine described as a Kubernetes Node: what is read from it, and the object made of that."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.objects import Object, timestamp
from lab.k3s_sim.node.settings import AgentSettings

SIMULATOR_KEY = "bramble.dev/simulator"
"""Label and annotation of every simulated node."""

_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
_KUBERNETES_DOMAIN = re.compile(r"(.*\.)?(kubernetes|k8s)\.io")
_ALLOWED_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_ALLOWED_LABELS = (
    "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os",
    "kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
)  # fmt: skip
"""Labels in the kubernetes.io domain that a kubelet may give itself. Source: Kubernetes, NodeRestriction."""


@dataclass(frozen=True)
class MachineFacts:
    """What the node's status says about the machine."""

    architecture: str
    kernel: str
    os_image: str
    machine_id: str
    boot_id: str
    cpus: int
    memory_kib: int
    disk_kib: int


def observe_machine(data_dir: Path) -> MachineFacts:
    """Read the facts from this machine."""
    disk = os.statvfs(data_dir)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    os_image = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return MachineFacts(
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        kernel=platform.release(),
        os_image=os_image[1] if os_image else "Linux",
        machine_id=_read("/etc/machine-id").strip(),
        boot_id=_read("/proc/sys/kernel/random/boot_id").strip(),
        cpus=os.cpu_count() or 1,
        memory_kib=int(memory[1]) if memory else 0,
        disk_kib=disk.f_blocks * disk.f_frsize // 1024,
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def require_allowed_labels(settings: AgentSettings) -> None:
    """Refuse labels that a kubelet may not give itself, with the kubelet's text."""
    refused = sorted(label for label in settings.labels if not _is_allowed(label))
    if refused:
        names = " ".join(refused)
        raise K3sError(
            "failed to validate kubelet flags: unknown 'kubernetes.io' or 'k8s.io' labels specified with "
            f"--node-labels: [{names}]"
        )


def _is_allowed(label: str) -> bool:
    domain, slash, _ = label.partition("/")
    if not slash or not _KUBERNETES_DOMAIN.fullmatch(domain) or label in _ALLOWED_LABELS:
        return True
    return any(domain == prefix or domain.endswith(f".{prefix}") for prefix in _ALLOWED_PREFIXES)


def render_node(settings: AgentSettings, machine: MachineFacts, version: str, now: float) -> Object:
    """The Node as the kubelet registers it, status included."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": render_metadata(settings, machine),
        "spec": {
            "providerID": f"k3s://{settings.node_name}",
            "taints": [_taint(item) for item in settings.taints],
        },
        "status": render_status(settings, machine, version, now),
    }


def render_metadata(settings: AgentSettings, machine: MachineFacts) -> Object:
    """Name, labels and annotations; also what a restart brings up to date."""
    name, ips = settings.node_name, ",".join(settings.node_ips)
    return {
        "name": name,
        "labels": {
            "beta.kubernetes.io/arch": machine.architecture,
            "beta.kubernetes.io/instance-type": "k3s",
            "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": machine.architecture,
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": "k3s",
            SIMULATOR_KEY: "true",
            **settings.labels,
        },
        "annotations": {SIMULATOR_KEY: "true", "k3s.io/hostname": name, "k3s.io/internal-ip": ips},
    }


def render_status(settings: AgentSettings, machine: MachineFacts, version: str, now: float) -> Object:
    """The whole status."""
    resources = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory_kib}Ki",
        "ephemeral-storage": f"{machine.disk_kib}Ki",
        "pods": "110",
    }
    addresses = [{"type": "InternalIP", "address": address} for address in settings.node_ips]
    return {
        "addresses": [*addresses, {"type": "Hostname", "address": settings.node_name}],
        "capacity": resources,
        "allocatable": resources,
        "conditions": render_conditions(now, now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": machine.architecture,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": "none://simulator",
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": f"{version}-simulator",
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.machine_id,
        },
    }


def render_conditions(now: float, since: float) -> list[Object]:
    """Conditions of a node that is well, since `since`."""
    well = (
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status (simulator)"),
    )
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": timestamp(now),
            "lastTransitionTime": timestamp(since),
        }
        for kind, status, reason, message in well
    ]


def _taint(item: str) -> Object:
    """`key=value:Effect` or `key:Effect`."""
    head, _, effect = item.rpartition(":")
    key, separator, value = head.partition("=")
    taint: Object = {"key": key, "effect": effect}
    return {**taint, "value": value} if separator else taint
