"""The user's own commands: argument lists without a shell, with a time limit and a small environment.

The one place of the fleet that starts processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.power.driver import PowerError, PowerState
from fleet.spec.power import CommandPower

PASSED: Final = ("PATH", "HOME", "LANG")
OUTPUT_BYTES: Final = 16 * 1024
LINES_SHOWN: Final = 20
KILL_GRACE_S: Final = 2.0
_TOLD: Final = {
    (0, ""): PowerState.ON,
    (0, "on"): PowerState.ON,
    (0, "off"): PowerState.OFF,
    (1, ""): PowerState.OFF,
    (1, "off"): PowerState.OFF,
}
"""Exit code and output → state. A script that fails ends with 1 too, and says why: that is not 'off'."""


@dataclass(frozen=True, slots=True)
class _Ended:
    returncode: int
    output: str


class CommandDriver:
    """The commands of one node. They find `BRAMBLE_NODE` and `BRAMBLE_POWER` (on, off, status) set."""

    def __init__(self, power: CommandPower, node: str, environ: Mapping[str, str]) -> None:
        self._power = power
        self._node = node
        self._environ = environ

    async def on(self) -> None:
        await self._switch(self._power.on, "on")

    async def off(self) -> None:
        await self._switch(self._power.off, "off")

    async def state(self) -> PowerState:
        argv = self._power.status
        if argv is None:
            return PowerState.UNKNOWN
        ended = await self._run(argv, "status")
        said = ended.output.strip().lower()
        found = _TOLD.get((ended.returncode, said))
        if found is None:
            expected = "0 and the word 'on' or 'off', or 0 for on and 1 for off without a word, was expected"
            raise _failure(argv, f"ended with status {ended.returncode}; {expected}", ended)
        return found

    async def _switch(self, argv: Sequence[str], what: str) -> None:
        ended = await self._run(argv, what)
        if ended.returncode != 0:
            raise _failure(argv, f"ended with status {ended.returncode}", ended)

    async def _run(self, argv: Sequence[str], what: str) -> _Ended:
        """Run to the end, with what it started; a group of its own, so that nothing of it stays behind."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._make_environment(what),
                start_new_session=True,
            )
        except OSError as error:
            raise PowerError(
                f"'{shlex.join(argv)}' could not be started: {error.strerror}",
                "Is the program installed where 'bramble serve' runs, and in its PATH?",
            ) from error
        stdout = process.stdout
        if stdout is None:
            raise PowerError(f"'{shlex.join(argv)}' has no output", "This is a mistake in Bramble.")
        output = bytearray()
        has_ended = False
        try:
            async with asyncio.timeout(self._power.timeout_s):
                while piece := await stdout.read(4096):
                    output += piece[: max(OUTPUT_BYTES - len(output), 0)]
                returncode = await process.wait()
            has_ended = True
        except TimeoutError as error:
            raise _failure(
                argv,
                f"did not end within {self._power.timeout_s} s and was killed",
                _Ended(0, output.decode(errors="replace")),
            ) from error
        finally:
            if not has_ended:
                await _end_group(process)
        return _Ended(returncode, output.decode(errors="replace"))

    def _make_environment(self, what: str) -> dict[str, str]:
        names = (*PASSED, *self._power.pass_env)
        passed = {name: self._environ[name] for name in names if name in self._environ}
        return {**passed, "BRAMBLE_NODE": self._node, "BRAMBLE_POWER": what}


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """Kill the command with whatever it started: a child may keep its output open after the parent's end."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_GRACE_S):
            await process.wait()


def _failure(argv: Sequence[str], reason: str, ended: _Ended) -> PowerError:
    tail = "\n".join(ended.output.strip().splitlines()[-LINES_SHOWN:])
    return PowerError(
        f"'{shlex.join(argv)}' {reason}" + (f":\n{tail}" if tail else ""),
        "Run it by hand as the user who runs 'bramble serve'.",
    )
