"""`kubectl get nodes`, on a server. Everything else says that a simulator has no containers to show."""

from __future__ import annotations

import base64
import calendar
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.k3s_sim.node import options, tokens
from lab.k3s_sim.node.client import KeyPair, TransportError, TrustedServer
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.objects import Object

_ROLE_PREFIX = "node-role.kubernetes.io/"
_NODE_WORDS = ("node", "nodes", "no")
_UNKNOWN = "<none>"


@dataclass(frozen=True)
class GetNodes:
    """What the command line asked for."""

    kubeconfig: Path
    output: str
    name: str
    headers: bool


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> GetNodes:
    """Understand `get nodes [NAME] [-o wide|json] [--no-headers] [--kubeconfig FILE]`.

    Raises:
        K3sError: for anything else.
    """
    kubeconfig, output, headers = environ.get("KUBECONFIG") or options.KUBECONFIG, "", True
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in ("-o", "--output", "--kubeconfig"):
            if not equals and not rest:
                raise K3sError(f"flag needs an argument: {word}")
            value = value if equals else rest.pop(0)
            kubeconfig, output = (value, output) if name == "--kubeconfig" else (kubeconfig, value)
        elif word == "--no-headers":
            headers = False
        else:
            words.append(word)
    is_known = words[:1] == ["get"] and len(words) in (2, 3) and words[1] in _NODE_WORDS
    if not is_known or output not in ("", "wide", "json"):
        raise K3sError(
            "this k3s is a simulator: it runs no containers and knows only "
            "'kubectl get nodes [NAME] [-o wide|json]'"
        )
    return GetNodes(Path(kubeconfig), output, words[2] if len(words) == 3 else "", headers)


def get_nodes(asked: GetNodes) -> str:
    """Ask the API server and render its answer.

    Raises:
        K3sError: no kubeconfig, no server, or a refusal.
    """
    path = "/api/v1/nodes" + (f"/{asked.name}" if asked.name else "")
    answer = _call(asked.kubeconfig, path)
    if asked.output == "json":
        return json.dumps(answer, indent=4) + "\n"
    return render_table(
        [answer] if asked.name else answer["items"], asked.output == "wide", asked.headers, time.time()
    )


def _call(kubeconfig: Path, path: str) -> Any:
    try:
        config = json.loads(kubeconfig.read_text("utf-8"))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    except OSError as error:
        raise K3sError(
            f"unable to read {kubeconfig}: {error.strerror}. Run this on a server, as root"
        ) from error
    except (ValueError, KeyError, IndexError) as error:
        raise K3sError(f"{kubeconfig} is not a kubeconfig that the simulator wrote") from error
    with tempfile.TemporaryDirectory() as directory:  # the ssl module reads keys from files only
        pair = KeyPair(Path(directory, "tls.crt"), Path(directory, "tls.key"))
        pair.certificate.write_bytes(base64.b64decode(user["client-certificate-data"]))
        pair.key.write_bytes(base64.b64decode(user["client-key-data"]))
        server = TrustedServer(
            cluster["server"], base64.b64decode(cluster["certificate-authority-data"]), tokens.NO_TOKEN
        )
        try:
            answer = server.call("GET", path, identity=pair)
        except TransportError as error:
            raise K3sError(f"Unable to connect to the server: {error}") from error
    value = json.loads(answer.body)
    if answer.status != 200:
        raise K3sError(
            f"Error from server ({value.get('reason', answer.status)}): {value.get('message', '')}"
        )
    return value


def render_table(nodes: Sequence[Object], wide: bool, headers: bool, now: float) -> str:
    """The table that kubectl prints."""
    rows = [["NAME", "STATUS", "ROLES", "AGE", "VERSION"]] if headers else []
    if headers and wide:
        rows[0] += ["INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"]
    rows += [_row(node, wide, now) for node in nodes]
    if not nodes:
        return "No resources found\n"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(line.rstrip() + "\n" for line in lines)


def _row(node: Object, wide: bool, now: float) -> list[str]:
    metadata, status = node["metadata"], node.get("status", {})
    info = status.get("nodeInfo", {})
    created = calendar.timegm(time.strptime(metadata["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ"))
    roles = sorted(
        key[len(_ROLE_PREFIX) :] for key in metadata.get("labels", {}) if key.startswith(_ROLE_PREFIX)
    )
    row = [
        metadata["name"],
        _status(node),
        ",".join(roles) or _UNKNOWN,
        _age(now - created),
        info.get("kubeletVersion", ""),
    ]
    if wide:
        addresses = {item["type"]: item["address"] for item in status.get("addresses", ())}
        row += [addresses.get("InternalIP", _UNKNOWN), addresses.get("ExternalIP", _UNKNOWN)]
        row += [info.get(key, _UNKNOWN) for key in ("osImage", "kernelVersion", "containerRuntimeVersion")]
    return row


def _status(node: Object) -> str:
    conditions = {item["type"]: item["status"] for item in node.get("status", {}).get("conditions", ())}
    words = ["Ready" if conditions.get("Ready") == "True" else "NotReady"]
    if node.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _age(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 2 * 3600:
        return f"{whole // 60}m"
    return f"{whole // 3600}h" if whole < 48 * 3600 else f"{whole // 86400}d"
