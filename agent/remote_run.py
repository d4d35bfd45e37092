"""Runs one command for a person, where the node's own image permits it.

Twice off by default: the server wants `policy.remote_run: on` in cluster.yaml, and the node wants the same
word in the node.json that it was installed with, which no order can change. The command is a list, no shell
reads it; systemd runs it in a unit of its own, because in this service's sandbox half of all commands would
lie.
"""

from __future__ import annotations

import json
import time

from agent.commands import CommandError, run_bounded
from agent.errands import (
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    MAX_OUTPUT_BYTES,
    MAX_OUTPUT_JSON_BYTES,
    MAX_RUN_S,
    Errand,
    RunResult,
)
from agent.redact import redact_lines

GRACE_S = 5.0
"""For systemd to end the unit, before this side gives up."""
STOP_S = 2.0
"""From SIGTERM to SIGKILL: what ignores the first must not outlive the answer."""


def find_objection(errand: Errand, *, permitted: bool) -> str:
    """Why a command is not run; empty where nothing speaks against it."""
    if not permitted:
        return "the image of this node says remote_run: off"
    if not errand.argv or not errand.argv[0]:
        return "no command is named"
    if len(errand.argv) > MAX_ARGUMENTS:
        return f"it has {len(errand.argv)} arguments, the limit is {MAX_ARGUMENTS}"
    if any("\0" in word or len(word.encode()) > MAX_ARGUMENT_BYTES for word in errand.argv):
        return f"an argument holds a NUL or more than {MAX_ARGUMENT_BYTES} bytes"
    if not 0 < errand.timeout_s <= MAX_RUN_S:
        return f"its time limit is {errand.timeout_s:g} s, expected up to {MAX_RUN_S:g}"
    return ""


def carry_out(errand: Errand, *, permitted: bool) -> RunResult:
    """Run the command to its end, or to the end of its time; never raises for what the command does."""
    objection = find_objection(errand, permitted=permitted)
    if objection:
        return RunResult(errand.number, refused=objection)
    unit = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]
    limits = [f"--property=RuntimeMaxSec={errand.timeout_s:g}", f"--property=TimeoutStopSec={STOP_S:g}"]
    started = time.monotonic()
    try:
        done = run_bounded(
            [*unit, *limits, "--", *_escape(errand.argv)],
            timeout_s=errand.timeout_s + GRACE_S,
            limit_bytes=MAX_OUTPUT_BYTES,
        )
    except CommandError as exc:
        return RunResult(errand.number, refused=exc.message)
    seconds = time.monotonic() - started
    in_time = not done.timed_out and seconds < errand.timeout_s
    stdout, cut_out = _fit(_clean(done.stdout))
    stderr, cut_err = _fit(_clean(done.stderr))
    return RunResult(
        number=errand.number,
        returncode=done.returncode if in_time else None,
        stdout=stdout,
        stderr=stderr,
        dropped_bytes=done.dropped + cut_out + cut_err,
        seconds=round(seconds, 3),
    )


def _escape(argv: tuple[str, ...]) -> list[str]:
    """systemd puts its environment in place of `$NAME` in arguments, and takes `$$` for `$`.

    Source: systemd.service(5), "Command lines". The program's own name is left as it is.
    """
    return [argv[0], *(word.replace("$", "$$") for word in argv[1:])]


def _clean(output: bytes) -> str:
    return "\n".join(redact_lines(output.decode("utf-8", "replace").split("\n")))


def _fit(text: str) -> tuple[str, int]:
    """As much of the beginning as may be sent, and how many bytes of the rest there are."""
    kept, beyond = len(text), len(text) + 1
    if len(json.dumps(text)) > MAX_OUTPUT_JSON_BYTES:
        kept = 0
        while beyond - kept > 1:
            middle = (kept + beyond) // 2
            if len(json.dumps(text[:middle])) > MAX_OUTPUT_JSON_BYTES:
                beyond = middle
            else:
                kept = middle
    return text[:kept], len(text[kept:].encode())
