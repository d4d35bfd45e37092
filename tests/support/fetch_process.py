"""A process of its own that fetches a test image, as often as asked, and dies where it is told to.

    fetch_process.py PLAN.json

PLAN: {"site", "store", "key_file", "fingerprint", "name"}. Reads numbers N from stdin, one a line, and forks
for each a child that kills itself (SIGKILL) at the N-th operation on files or sockets; 0 means that it lives.
Prints one JSON line per child: {"status": how it ended, "operations": how many it did}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from dying_process import Death
from stock_sites import stock_image

from imagebuilder import writing
from imagebuilder.bases.fetch import fetch_image
from imagebuilder.bases.http import Http
from imagebuilder.store import Store


class TearingDeath(Death):
    """Counts writes as well; at the wanted one the first half reaches the file."""

    def watch(self) -> None:
        super().watch()
        pwrite, fsync = writing.pwrite, writing.fsync

        def counted_pwrite(descriptor: int, data: bytes | memoryview, offset: int) -> int:
            self.step()
            half = len(data) // 2
            if self.count + 1 == self.at and half:  # torn: the first half reaches the file
                pwrite(descriptor, memoryview(data)[:half], offset)
            return pwrite(descriptor, data, offset)

        def counted_fsync(descriptor: int) -> None:
            self.step()
            fsync(descriptor)

        writing.pwrite, writing.fsync = counted_pwrite, counted_fsync


def fetch(plan: dict[str, Any], death: TearingDeath) -> None:
    image = stock_image(plan["name"], plan["fingerprint"])
    death.watch()
    with Http(wait=lambda seconds: None) as http:
        fetch_image(
            image,
            store=Store(Path(plan["store"])),
            mirror=plan["site"],
            key_files=[Path(plan["key_file"])],
            http=http,
        )


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    for line in sys.stdin:
        at = int(line)
        reading, writing_end = os.pipe()
        child = os.fork()
        if child == 0:
            death = TearingDeath(at)
            status = 1
            try:
                fetch(plan, death)
                status = 0
            finally:
                os.write(writing_end, str(death.count).encode())
                os._exit(status)
        os.close(writing_end)
        _, ended = os.waitpid(child, 0)
        operations = os.read(reading, 100)
        os.close(reading)
        print(
            json.dumps({"status": os.waitstatus_to_exitcode(ended), "operations": int(operations or b"0")}),
            flush=True,
        )


if __name__ == "__main__":
    main()
