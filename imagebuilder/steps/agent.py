"""The node agent: its package directory as one zipapp at /usr/lib/bramble/agent.pyz.

The package is shipped as a file and never imported here. The archive is the same for the same sources: sorted
names, fixed times and modes, stored by deflate at a fixed level.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imagebuilder.disk.edits import Edit, PutFile
from imagebuilder.errors import ImageBuilderError
from imagebuilder.steps.step import Context, Json

AGENT_PATH: Final = "/usr/lib/bramble/agent.pyz"
_SHEBANG: Final = b"#!/usr/bin/python3\n"
_ZIP_TIME: Final = (2020, 9, 13, 12, 26, 40)
_MAIN: Final = "__main__.py"


@dataclass(frozen=True, slots=True)
class AgentStep:
    """Puts the packed agent into the image."""

    archive: bytes = field(repr=False)
    name: str = "agent"

    def identity(self) -> Mapping[str, Json]:
        return {"agent": hashlib.sha256(self.archive).hexdigest()}

    def edits(self, context: Context) -> Sequence[Edit]:
        return [PutFile(path=AGENT_PATH, content=self.archive, mode=0o755)]


def pack_agent(package: Path) -> bytes:
    """The agent's package directory as an executable zipapp that runs ``python -m <package>``.

    Raises:
        ImageBuilderError: the directory is not a package with a ``__main__`` module.
    """
    sources = sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts)
    if package / "__init__.py" not in sources or package / _MAIN not in sources:
        raise ImageBuilderError(
            f"{package} is not the agent's package: it lacks __init__.py or {_MAIN}",
            "The install is incomplete. Install Bramble again, or run it from a complete checkout.",
        )
    start = f"import runpy\n\nrunpy.run_module({package.name!r}, run_name='__main__', alter_sys=True)\n"
    members = {_MAIN: start.encode()}
    members.update((path.relative_to(package.parent).as_posix(), path.read_bytes()) for path in sources)
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, content in sorted(members.items()):
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            # Not compressed: 200 KB more of a disk, but no zlib in the memory of the agent, 0.25 MB less.
            info.compress_type = zipfile.ZIP_STORED
            info.external_attr = 0o100644 << 16
            info.create_system = 3  # Unix, whatever host packs it
            archive.writestr(info, content)
    return _SHEBANG + body.getvalue()
