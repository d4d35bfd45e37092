"""A process of its own that builds a test image, as often as asked, and dies where it is told to.

    build_process.py PLAN.json

PLAN: {"store", "bases", "agent", "k3s", "cluster"}: the store to build in, the directory whose bases show in
it as links, the agent's package, a k3s release, and the path that cluster.yaml has. Reads numbers N from
stdin, one a line, and forks for each a child that kills itself (SIGKILL) at the N-th operation on files or
commands; 0 means that it lives. Prints one JSON line per child: {"status": how it ended} and, unless it was
killed, {"operations": how many it did, "image": the built image's directory or null, "error", "hint",
"room_bytes": left in the store}.

Results are written with writev(2), which nothing else here uses: a test may let write(2) fail.

The room on the disk is not looked at before the build: it may be gone a moment later, and that is what a full
disk is here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dying_process import Death
from fakes_image import make_spec

from imagebuilder import build
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import Store

SMALL_ROOM = 100 * 2**20


class DeathWhileRunning(Death):
    """Counts commands twice: it may come before one starts, or while it runs."""

    def watch(self) -> None:
        super().watch()
        communicate = subprocess.Popen.communicate

        def counted(child: subprocess.Popen[Any], *args: Any, **options: Any) -> Any:
            self.step()
            return communicate(child, *args, **options)

        subprocess.Popen.communicate = counted  # type: ignore[assignment,method-assign]


def build_one(plan: dict[str, Any], death: DeathWhileRunning) -> dict[str, Any]:
    store = Store(Path(plan["store"]))
    (store.root / "bases").mkdir(parents=True, exist_ok=True)
    for base in Path(plan["bases"]).iterdir():
        link = store.root / "bases" / base.name
        if not link.is_symlink():
            link.symlink_to(base)
    result: dict[str, Any] = {"image": None, "error": None, "hint": None}
    death.watch()
    try:
        spec = make_spec(Path(plan["k3s"]), path=Path(plan["cluster"]))
        image = build.build_image(spec, store=store, agent_package=Path(plan["agent"]))
        result["image"] = str(image.root)
    except ImageBuilderError as error:
        result |= {"error": error.message, "hint": error.hint}
    except Exception as error:  # what a user would see as a traceback
        result["error"] = f"{type(error).__name__}: {error}"
    room = os.statvfs(store.root)
    return {**result, "operations": death.count, "room_bytes": room.f_bavail * room.f_frsize}


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    build.FREE_ROOT_BYTES = SMALL_ROOM  # type: ignore[misc]  # real images keep 1.5 GiB free
    build.require_room = lambda path, needed_bytes: None  # type: ignore[attr-defined]
    for line in sys.stdin:
        reading, writing_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            result = build_one(plan, DeathWhileRunning(int(line)))
            os.writev(writing_end, [json.dumps(result).encode()])
            os._exit(0)
        os.close(writing_end)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        _, ended = os.waitpid(child, 0)
        result = {"status": os.waitstatus_to_exitcode(ended), **json.loads(told or b"{}")}
        os.writev(sys.stdout.fileno(), [json.dumps(result).encode() + b"\n"])


if __name__ == "__main__":
    main()
