"""Releases of the agent, as the image factory packs them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import agent
from imagebuilder.steps.agent import pack_agent

VERSION = "9.9.0"


def make_release(version: str = VERSION) -> bytes:
    """This checkout's agent that calls itself `version`."""
    source = io.BytesIO(pack_agent(Path(agent.__file__).parent))
    target = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "agent/__init__.py":
                content = content.replace(agent.__version__.encode(), version.encode())
            new.writestr(name, content)
    return target.getvalue()


def without_service(content: bytes) -> bytes:
    """A release whose `--version` works and whose service does not."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            text = b"raise SystemExit('broken')\n" if name == "agent/service.py" else old.read(name)
            new.writestr(name, text)
    return target.getvalue()
