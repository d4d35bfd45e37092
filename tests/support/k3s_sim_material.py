"""Join material laid where a simulated k3s of the lab looks for it: what the agent does on a real node."""

from __future__ import annotations

from pathlib import Path

from k3s_sim_processes import Lab

from agent.protocol import JoinMaterial, NodeFile


def put(lab: Lab, node: str, files: tuple[NodeFile, ...]) -> None:
    """Write the files where the simulator of this node looks for them."""
    root = lab.directory / f"{node}-root"
    for file in files:
        path = root / file.path.removeprefix("/")
        if file.path.startswith("/var/lib/rancher/k3s/"):
            path = lab.data(node) / file.path.removeprefix("/var/lib/rancher/k3s/")
        elif file.path.startswith("/etc/rancher/node/"):
            path = lab.data(node) / "agent" / file.path.removeprefix("/")
        elif file.path.startswith("/etc/rancher/k3s/config.yaml.d/"):
            path = Path(f"{lab.config(node)}.d") / Path(file.path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = file.content.replace("/etc/rancher/k3s/bramble-", f"{root}/etc/rancher/k3s/bramble-")
        # As the agent does it: k3s may read what is put there again (its CAs, while a restore goes on).
        whole = path.with_name(f".{path.name}.new")
        whole.write_text(content.replace("/var/lib/rancher/bramble-", f"{root}/var/lib/rancher/bramble-"))
        whole.replace(path)


def finish(lab: Lab, node: str, material: JoinMaterial) -> None:
    """What the agent does when k3s runs: the drop-in without its token, then the token file goes."""
    put(lab, node, material.files_after_ready)
    for path in material.remove_after_ready:
        (lab.directory / f"{node}-root" / path.removeprefix("/")).unlink()
