"""What this disk holds of the cluster that the node is a member of: the pairs of key and certificate of k3s.

k3s asks a server for them with the join token, and needs no token as long as the kubelet's pair loads (k3s,
pkg/cli/agent). A power cut or a bad block can leave one half of a pair empty; k3s parses a key that is there
and makes none in its place, so what does not load has to be out of the way before the node joins again.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from agent.errors import AgentError
from agent.files import sync_directory
from agent.protocol import MEMBERSHIP_LOST, Problem

log = logging.getLogger("bramble.agent")

DIRECTORY = Path("var/lib/rancher/k3s/agent")
KUBELET = "client-kubelet"
PAIRS = (KUBELET, "serving-kubelet", "client-kube-proxy", "client-k3s-controller")
DAMAGED_SUFFIX = ".damaged"


def loads(root: Path, name: str) -> bool:
    """Whether a pair is there, can be read, and belongs together."""
    directory = root / DIRECTORY
    try:
        # An encrypted key would be asked for on a terminal; k3s writes none.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            directory / f"{name}.crt", directory / f"{name}.key", password=lambda: ""
        )
    except (OSError, ValueError):  # SSLError is an OSError
        return False
    return True


def put_damaged_aside(root: Path) -> None:
    """Rename what does not load, so that k3s makes it anew with its token.

    Raises:
        AgentError: the disk refuses; repeating is safe.
    """
    directory = root / DIRECTORY
    for name in PAIRS:
        found = [path for end in ("key", "crt") if (path := directory / f"{name}.{end}").is_file()]
        if not found or loads(root, name):
            continue
        log.warning("the k3s certificate %s does not load and is put aside", name)
        try:
            for path in found:
                path.replace(path.with_name(path.name + DAMAGED_SUFFIX))
            sync_directory(directory)
        except OSError as exc:
            raise AgentError(
                f"{directory / name}.* is damaged and can not be renamed: {exc.strerror}",
                "Did the kernel remount the disk read-only ('dmesg')?",
            ) from exc


def describe_loss(node: str, role: str) -> Problem:
    """For the report of a node that is a member by the server's record and not by its own disk."""
    if role == "server":
        hint = (
            f"Was its card written without an order? 'bramble reimage {node}' takes its old etcd member out "
            "and installs it. Nothing is done by itself; if it was the only server: docs/recovery.md."
        )
    else:
        hint = "It joins anew by itself. If nobody wrote its card, look at its disk (dmesg)."
    return Problem(
        code=MEMBERSHIP_LOST,
        message="by the control server's record this node has joined, and its disk holds nothing of that",
        hint=hint,
    )
