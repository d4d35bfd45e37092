"""The demo's cluster and a store to build it in, without touching the user's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.errors import NotPossible
from bramble.demo import BASE, write_spec
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.bases import Base, find_base
from imagebuilder.store import Store

LINKED: Final = ("bases", "installer-runtimes")
"""Kinds of entries that a warm build finds."""


def require_base(store: Store) -> Base:
    """The base of the demo.

    Raises:
        NotPossible: it is not in the store.
    """
    base = find_base(BASE, store)
    if base is None:
        raise NotPossible(
            f"the base {BASE} is not in {store.root}", f"Make it with: bramble base build {BASE}"
        )
    return base


def demo_spec(work: Path) -> ClusterSpec:
    """The demo's cluster with the simulated k3s release, written below `work`."""
    return load_cluster(write_spec(work, None))


@contextlib.contextmanager
def linked_store(bench: Bench) -> Iterator[Store]:
    """An empty store in which the user's bases show as links: a build finds its inputs there and nothing
    else, and what it writes goes with the block."""
    with bench.directory("store") as root:
        for kind in LINKED:
            (root / kind).mkdir()
            for entry in bench.store.entries(kind):
                (root / kind / entry.name).symlink_to(entry.resolve())
        yield Store(root)
