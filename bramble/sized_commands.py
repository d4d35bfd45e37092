"""`bramble check` and `bramble build`, which also look at the sizes of what boards will read."""

from __future__ import annotations

from bramble.boot_sizes import with_size_warnings
from fleet.cli.spec import check as _check
from imagebuilder.cli import build as _build

check = with_size_warnings(_check, "file")
build = with_size_warnings(_build, "file")
