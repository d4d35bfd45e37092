"""Inputs of a build, the files that it has to give, and processes that build.

What may go wrong with a build is tested against one ``World``: whatever happens, its base stays as it is and
no image has its name but the one that was built undisturbed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from fakes_image import make_agent, make_base, make_release

from imagebuilder.store import Store, allocated_bytes
from imagebuilder.store_verify import verify_store

SUPPORT = Path(__file__).parent


def sums(directory: Path) -> dict[str, str]:
    """The digest of every file below ``directory``."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


class Builder:
    """One process that builds, possibly behind other words (``unshare …``)."""

    def __init__(
        self, world: World, work: Path, *, before: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.store = Store(work / "store")
        plan = work / "plan.json"
        plan.write_text(
            json.dumps(
                {
                    "store": str(self.store.root),
                    "bases": str(world.root / "store" / "bases"),
                    "agent": str(world.agent),
                    "k3s": str(world.release),
                    "cluster": str(work / "cluster.yaml"),
                }
            )
        )
        paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
        self._process = subprocess.Popen(
            [*before, sys.executable, SUPPORT / "build_process.py", plan],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=work,
            env={**os.environ, "PYTHONPATH": paths, **(env or {})},
        )

    def begin(self, point: int = 0) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{point}\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def build(self, point: int = 0) -> dict[str, Any]:
        """Build once, and die at ``point``; how it ended."""
        self.begin(point)
        return self.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=120)


class World:
    """Inputs, and the files that a build of them has to give."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_base(Store(root / "store"))
        self.agent = make_agent(root)
        self.release = make_release(root / "k3s")
        self.base = sums(root / "store" / "bases")
        with Builder(self, root / "first") as builder:
            whole = builder.build()
            assert whole["error"] is None
            self.operations: int = whole["operations"]
            self.image = Path(whole["image"])
            self.expected = sums(self.image)
            self.allocated = allocated_bytes(self.image)

    def check(self, store: Store) -> bool:
        """No image but a whole one has its name, and the base is untouched; says whether it is there."""
        assert sums(self.root / "store" / "bases") == self.base
        assert all(not finding.problems for finding in verify_store(store) if finding.kind == "images")
        entries = store.entries("images")
        assert [entry.name for entry in entries] in ([], [self.image.name])
        return bool(entries) and sums(entries[0]) == self.expected
