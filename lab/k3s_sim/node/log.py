"""Log lines in the shape k3s writes them (`time=… level=… msg=…`), each with the simulator's prefix, on
standard error.
"""

from __future__ import annotations

import json
import sys
import threading
import time

PREFIX = "(simulator)"
_lock = threading.Lock()


def info(message: str) -> None:
    """Somebody may want to know."""
    _write("info", message)


def warning(message: str) -> None:
    """Works, but not as it should."""
    _write("warning", message)


def error(message: str) -> None:
    """Failed; the program goes on."""
    _write("error", message)


def fatal(message: str) -> None:
    """Failed; the caller ends the program."""
    _write("fatal", message)


def _write(level: str, message: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = f'{PREFIX} time="{stamp}" level={level} msg={json.dumps(message, ensure_ascii=False)}\n'
    with _lock:
        sys.stderr.write(line)
        sys.stderr.flush()
