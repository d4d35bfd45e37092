"""Releases of the agent on the node's disk: staged whole, switched by one rename, left in peace when old.

    /var/lib/bramble/agent/releases/<sha256>.pyz    a release, never changed once it has its name
    /var/lib/bramble/agent/current                  link to the one in force; absent: the image's own
    /var/lib/bramble/agent/trial.json               the release on trial
    /var/lib/bramble/agent/outcome.json             how the last trial ended, until it was reported

Every step may be the last one before a power cut: the link is old or new, and what is not linked is not used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from agent.commands import CommandError, Runner
from agent.errors import AgentError
from agent.files import disk_errors, sync_directory, write_atomically
from agent.orders import AgentOrder
from agent.releases import Outcome, Start, Trial, decide, find_objection
from agent.wire import ProtocolError, decode, encode

MAX_BYTES = 8 << 20
"""Of a release; it has about 100 KiB."""
TRIAL_TIMER = "bramble-agent-trial.timer"
SELF_TEST_TIMEOUT_S = 60.0

Message = TypeVar("Message")


class Releases:
    """Owns the directory. Launcher, service and the trial's timer use it, in processes of their own."""

    def __init__(self, state_directory: Path) -> None:
        self._directory = state_directory / "agent"
        self._files = self._directory / "releases"
        self._link = self._directory / "current"
        self._trial = self._directory / "trial.json"
        self._outcome = self._directory / "outcome.json"

    def path(self, sha256: str) -> Path:
        return self._files / f"{sha256}.pyz"

    def current(self) -> str | None:
        """SHA-256 of the release in force; None: that of the image."""
        try:
            return self._link.readlink().name.removesuffix(".pyz")
        except OSError:
            return None

    def trial(self) -> Trial | None:
        return _read(Trial, self._trial)

    def outcome(self) -> Outcome | None:
        """How the last trial ended, as long as nobody has been told."""
        return _read(Outcome, self._outcome)

    def is_intact(self, sha256: str) -> bool:
        """Whether the file is what its name says."""
        try:
            return hashlib.sha256(self.path(sha256).read_bytes()).hexdigest() == sha256
        except OSError:
            return False

    def decide(self) -> Start:
        """What the launcher is to start."""
        return decide(self.current(), self.trial(), self.is_intact)

    def carry_out(self, start: Start) -> None:
        """Bring the directory in line with the launcher's decision, before the release is started.

        Raises:
            AgentError: the disk refuses.
        """
        with self._alone():
            if start.outcome is not None:
                self._switch(start.release)
                write_atomically(self._outcome, encode(start.outcome))
                self._trial.unlink(missing_ok=True)
            elif start.trial is not None:
                known = self.trial()
                # Its time may have ended since the decision: the next start is to know.
                is_over = known is not None and known.number == start.trial.number and known.expired
                write_atomically(self._trial, encode(dataclasses.replace(start.trial, expired=is_over)))

    def stage(self, order: AgentOrder, content: bytes, run: Runner) -> None:
        """Put a release in place under its own name, and see that it starts here.

        Raises:
            AgentError: it is not what was ordered, does not start, or the disk refuses. Nothing was switched.
        """
        digest = hashlib.sha256(content).hexdigest()
        if digest != order.sha256 or len(content) != order.size_bytes:
            raise AgentError(
                f"the release has {len(content)} bytes and sha256 {digest[:16]}…, ordered were "
                f"{order.size_bytes} bytes and {order.sha256[:16]}…",
                "Nothing was changed. The download is damaged, or the server is newer by now: order again.",
            )
        try:
            self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise AgentError(f"{self._files} can not be made: {exc.strerror}", "Is the disk full?") from exc
        path = self.path(order.sha256)
        write_atomically(path, content, 0o600)
        try:
            said = run(
                [sys.executable, "-I", str(path), "--version"], timeout_s=SELF_TEST_TIMEOUT_S
            ).text.strip()
        except CommandError as exc:
            raise AgentError(
                f"release {order.version} does not start on this node: {exc.message}",
                "Nothing was changed. It may need a newer Python than the node's.",
            ) from exc
        if said != f"bramble-agent {order.version}":
            raise AgentError(
                f"the release calls itself {said!r}, ordered was version {order.version}",
                "Nothing was changed. This is a bug of the control server; please report it.",
            )

    def switch(self, order: AgentOrder) -> None:
        """Make a staged release the one that is started next, on trial.

        One that is in force already (a power cut came before the order's number was noted) is never its own
        predecessor: it could not be given up then.

        Raises:
            AgentError: the disk refuses; the old release stays in force.
        """
        with self._alone():
            previous, known = self.current(), self.trial()
            if previous == order.sha256:
                previous = known.previous if known is not None and known.sha256 == order.sha256 else None
            write_atomically(self._trial, encode(Trial(order.number, order.sha256, order.version, previous)))
            self._outcome.unlink(missing_ok=True)
            self._switch(order.sha256)

    def confirm(self, running: str) -> bool:
        """The running release was heard: its trial is over. False where it was not on trial.

        Raises:
            AgentError: the disk refuses.
        """
        with self._alone():
            trial = self.trial()
            if trial is None or trial.sha256 != running or self.current() != running:
                return False
            write_atomically(self._outcome, encode(Outcome(trial.number, trial.version, True)))
            self._trial.unlink(missing_ok=True)
            self._prune({running, trial.previous})
            return True

    def expire(self) -> bool:
        """The trial's time is over: the next start goes back. False where nothing is on trial.

        Raises:
            AgentError: the disk refuses.
        """
        with self._alone():
            trial = self.trial()
            if trial is None or trial.sha256 != self.current():
                return False
            write_atomically(self._trial, encode(dataclasses.replace(trial, expired=True)))
            return True

    def told(self) -> None:
        """The outcome was reported."""
        with contextlib.suppress(OSError):
            self._outcome.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from deciding on the same trial; the lock is on the directory itself."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # not there: nothing is on trial
            descriptor = -1
        try:
            if descriptor >= 0:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _switch(self, sha256: str | None) -> None:
        try:
            if sha256 is None:
                self._link.unlink(missing_ok=True)
            else:
                fresh = self._link.with_name("current.new")
                fresh.unlink(missing_ok=True)
                fresh.symlink_to(Path("releases") / f"{sha256}.pyz")
                fresh.replace(self._link)
            sync_directory(self._directory)
        except OSError as exc:
            raise AgentError(
                f"{self._link} can not be changed: {os.strerror(exc.errno or 0)}",
                "Is the disk full ('df -h'), or did the kernel remount it read-only ('dmesg')?",
            ) from exc

    def _prune(self, keep: set[str | None]) -> None:
        with contextlib.suppress(OSError):
            for path in self._files.iterdir():
                if path.name.removesuffix(".pyz") not in keep:
                    path.unlink()


def refuse_unsuitable(order: AgentOrder, running: str) -> None:
    """Raises AgentError: the order is malformed, or a downgrade that nobody ordered."""
    objection = find_objection(running=running, offered=order.version, allow_downgrade=order.allow_downgrade)
    if objection is None and not 0 < order.size_bytes <= MAX_BYTES:
        objection = f"it has {order.size_bytes} bytes, the limit is {MAX_BYTES}"
    if objection is None and (len(order.sha256) != 64 or order.sha256.strip("0123456789abcdef")):
        objection = "its digest is no SHA-256"
    if objection is not None:
        raise AgentError(
            f"the release was not taken: {objection}", "Order it with --allow-downgrade if meant."
        )


def _read(kind: type[Message], path: Path) -> Message | None:
    """None also for a torn file: then the release that is linked counts as proven or is found damaged."""
    try:
        return decode(kind, path.read_bytes(), newer_peer=True)
    except (OSError, ProtocolError):
        return None


def launch(
    state_directory: Path,
    run: Runner,
    execute: Callable[[Path, str], None],
    complain: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> None:
    """Start the release in force by `execute(path, sha256)`, which does not return; return to run this one.

    Whatever goes wrong here, the agent of the image runs: it can always be told to try again.
    """
    releases = Releases(state_directory)
    start = releases.decide()
    try:
        if start.trial is not None:
            # Before the first start the clock begins anew; a repeated start must not set it back.
            verb = "restart" if start.trial.starts == 1 else "start"
            run(["systemctl", verb, "--no-block", TRIAL_TIMER])
        with disk_errors():
            releases.carry_out(start)
    except AgentError as exc:
        complain(f"WARNING release {(start.release or '')[:12]} is not started: {exc.message}")
        if start.trial is not None:
            outcome = Outcome(start.trial.number, start.trial.version, False, exc.message)
            with contextlib.suppress(AgentError), disk_errors():
                releases.carry_out(Start(start.trial.previous, outcome=outcome))
        return
    if start.outcome is not None:
        complain(f"WARNING agent {start.outcome.version} was given up: {start.outcome.reason}")
    if start.release is not None:
        execute(releases.path(start.release), start.release)
