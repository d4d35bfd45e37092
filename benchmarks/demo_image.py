"""The demo's cluster and a store to build it in, without touching the user's own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.errors import NotPossible
from bramble.demo import BASE, write_spec
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.bases import Base, find_base
from imagebuilder.seal.known import open_known
from imagebuilder.store import Store

LINKED: Final = ("bases", "installer-runtimes", "base-chunks")
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
    """An empty store in which what a warm build finds shows as links: what is written goes with the block."""
    warm = _warm_store(bench)
    with bench.directory("store") as root:
        _link(warm, root)
        yield Store(root)


def _warm_store(bench: Bench) -> Store:
    """The run's own store: the user's entries as links, and what a first build with the base leaves."""
    warm = Store(bench.work / "warm")
    if not warm.root.exists():
        warm.root.mkdir()
        _link(bench.store, warm.root)
        if (base := find_base(BASE, warm)) is not None:
            with open_known(base.content_id, base.disk, warm):
                pass
    return warm


def _link(store: Store, root: Path) -> None:
    for kind in LINKED:
        (root / kind).mkdir()
        for entry in store.entries(kind):
            (root / kind / entry.name).symlink_to(entry.resolve())
    if (digests := store.root / "digests").is_dir():
        shutil.copytree(digests, root / "digests")
