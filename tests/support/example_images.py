"""The examples as they are built in tests: on a base that is here, with the simulator's k3s.

What differs from the file: its base (a clone of the stock image that it names, of the same layout), the k3s
release, and no `image.packages`, whose installation under emulation takes minutes and has tests of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml
from stock_clones import CLONES, ready_clone

from bramble.paths import agent_package, apt_access, store
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image, build_image
from lab.k3s_sim.release import build_release

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
KINDS: Final = ("first-node", "three-pi4-poe", "eight-mixed-ha", "six-cm5-carrier")
"""One for each kind of cluster that people build at home."""


def buildable(name: str, work: Path) -> ClusterSpec:
    """The example `name`, written below `work` so that it can be built here."""
    document = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    image, k3s = document["image"], document["cluster"]["k3s"]
    image.pop("packages", None)
    if image["base"] in CLONES:
        image["base"] = {"path": str(ready_clone(image["base"]).disk)}
    release = work / f"k3s-{k3s['version']}"
    if not release.exists():
        build_release(release, k3s["version"])
    k3s["source"] = str(release)
    for node in document["nodes"]:
        power = node.get("power", {})
        if "community_file" in power:
            power["community_file"] = str(EXAMPLES / power["community_file"])
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_cluster(path)


def build(spec: ClusterSpec) -> Image:
    """Its image, from the user's store where it is there already."""
    return build_image(spec, store=store(), agent_package=agent_package(), apt=apt_access())
