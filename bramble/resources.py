"""Files that come with the program: in the wheel below `bramble/_data`, in a checkout beside the packages."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def example(name: str) -> Path:
    """An example cluster.yaml by its file name."""
    packaged = _HERE / "_data" / "examples" / name
    return packaged if packaged.exists() else _HERE.parent / "examples" / name
