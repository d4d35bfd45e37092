"""The installer from its first line on the console to the reboot.

`install` is the order of the steps with all its surroundings given by the caller; `main` is what runs as
process 1.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent import commands
from agent.client import ControlClient, PinnedTrust
from agent.device_key import DeviceKey, ProveDevice, prove_nothing
from agent.errors import AgentError
from agent.hardware import Disk, format_size, read_disks, read_hardware, read_interfaces
from agent.installer.cmdline import InstallerConfig, parse_cmdline
from agent.installer.consoles import Consoles, say_here
from agent.installer.device import TargetDisk
from agent.installer.disks import find_disk
from agent.installer.index import ImageIndex, parse_index
from agent.installer.kept import Kept, find_kept, require_room
from agent.installer.layout import HEAD_BYTES, Overlay
from agent.installer.occupant import Finding, encode_marker, inspect_head
from agent.installer.reboot import reboot
from agent.installer.report import Reporter
from agent.installer.session import InstallSession
from agent.installer.stream import ImageStream, StreamBroken, fetch_small
from agent.installer.supply import Supply, await_supply
from agent.installer.writer import ImageWriter, OnProgress
from agent.protocol import (
    DiskIdentity,
    Hardware,
    InstallComplete,
    InstallPlan,
    InstallProgress,
    InstallStep,
    Occupant,
)
from agent.reboot import read_boot_arg

FAILURE_PAUSE_S = 20.0
"""Time to read the console; also keeps a board that fails at once from hammering the server."""
INDEX_ATTEMPTS = 8
CONSOLE_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the installer needs of the machine; a rehearsal replaces it."""

    hardware: Hardware
    boot_id: str
    find_disks: Callable[[], Sequence[Disk]] = read_disks
    say: Callable[[str], None] = field(default_factory=lambda: Consoles().say)
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    keep_address: Callable[[], None] = field(default=lambda: None)
    """Called often, whatever goes on; costs nothing before half of the lease is over."""
    prove_device: ProveDevice = prove_nothing
    boot_arg1: int | None = None
    is_supply_low: Callable[[], bool | None] = field(default=lambda: None)


class _Progress:
    """One place that knows the current step: console lines for people, reports for the server."""

    def __init__(self, intent: int, reporter: Reporter, around: Surroundings) -> None:
        self._intent = intent
        self._reporter = reporter
        self._around = around
        self._said_at = 0.0
        self.step = InstallStep.FIND_DISK
        self.percent = 0.0

    def begin(self, step: InstallStep, message: str) -> None:
        self.step = step
        self.percent = 100.0 if step is InstallStep.DONE else 0.0
        self._around.say(f"[{step.value}] {message}")
        self._said_at = self._around.clock()
        self._report(message)

    def found(self, disk: Disk, finding: Finding) -> InstallProgress:
        """What FIND_DISK found, as the question that the session asks of the server."""
        message = f"{disk.describe()}: {finding.text}"
        self._around.say(f"[{self.step.value}] {message}")
        identity = DiskIdentity(disk.kind, disk.model, disk.serial, disk.wwn, disk.size_bytes)
        return self._make(message, occupant=finding.occupant, disk=identity)

    def note(self, message: str) -> None:
        self._around.say(f"[{self.step.value}] {message}")
        self._report(message)

    def check(self) -> None:
        """What has to be looked at now and then; raises what the server answered if it closed the install."""
        self._reporter.check()
        self._around.keep_address()

    def meter(self) -> OnProgress:
        """A callback for the current step that says percent, amount and rate, and stops a closed install."""
        started = self._around.clock()

        def on_progress(done: int, total: int) -> None:
            self.check()
            self.percent = 100.0 * done / total if total else 100.0
            now = self._around.clock()
            rate = done / (now - started) if now > started else 0.0
            message = f"{format_size(done)} of {format_size(total)}, {format_size(int(rate))}/s"
            if now - self._said_at >= CONSOLE_EVERY_S:
                self._said_at = now
                self._around.say(f"[{self.step.value}] {self.percent:.0f} % {message}")
            self._report(message)

        return on_progress

    def fail(self, error: AgentError) -> None:
        self._reporter.put(self._make(error.message, failed=True, hint=error.hint))

    def _report(self, message: str) -> None:
        self._reporter.put(self._make(message))

    def _make(
        self,
        message: str,
        *,
        failed: bool = False,
        hint: str = "",
        occupant: Occupant | None = None,
        disk: DiskIdentity | None = None,
    ) -> InstallProgress:
        return InstallProgress(
            intent=self._intent,
            step=self.step,
            percent=round(self.percent, 1),
            message=message,
            failed=failed,
            hint=hint,
            occupant=occupant,
            disk=disk,
        )


def install(config: InstallerConfig, client: ControlClient, around: Surroundings) -> InstallComplete:
    """Install this board once. On return the disk boots and the server knows.

    Raises:
        AgentError: what went wrong; reported to the server as far as it could be reached.
    """
    started = around.clock()
    session = InstallSession(
        client,
        around.hardware,
        intent=config.intent,
        boot_id=around.boot_id,
        say=around.say,
        sleep=around.sleep,
        clock=around.clock,
        keep_address=around.keep_address,
        prove_device=around.prove_device,
        boot_arg1=around.boot_arg1,
    )
    outcome = None
    while outcome is None:
        session.be_admitted()
        plan = session.fetch_plan()
        around.say(f"intent {plan.intent}: install {plan.image.image_id} as {plan.node} of {plan.cluster}")
        outcome = _install_once(plan, session, client, around)
    disk, writer = outcome
    done = InstallComplete(
        intent=plan.intent,
        image_id=plan.image.image_id,
        disk=disk.describe(),
        bytes_written=writer.bytes_written,
        bytes_verified=writer.bytes_verified,
        seconds=round(around.clock() - started, 1),
    )
    session.complete(done)
    around.say(
        f"installed {plan.node} on {disk.describe()}: {format_size(done.bytes_written)} written, "
        f"{format_size(done.bytes_verified)} verified, {done.seconds:.0f} s"
    )
    return done


def _install_once(
    plan: InstallPlan, session: InstallSession, client: ControlClient, around: Surroundings
) -> tuple[Disk, ImageWriter] | None:
    """Carry out the plan; None when the server wants a person's word first, and nothing was changed."""
    with Reporter(lambda report: client.send("/v1/install/progress", report)) as reporter:
        progress = _Progress(plan.intent, reporter, around)
        try:
            around.say(f"[{progress.step.value}] looking for a disk of kind {plan.disk.kind}")
            disk = find_disk(
                around.find_disks,
                plan.disk,
                plan.image.size_bytes,
                clock=around.clock,
                sleep=around.sleep,
                say=lambda text: around.say(f"[{progress.step.value}] {text}"),
            )
            # One descriptor from the look to the last write: what was looked at is what is written.
            with TargetDisk(disk.path) as target:
                if disk not in around.find_disks():  # a bus that was reset gives names anew
                    raise AgentError(
                        f"{disk.describe()} went away or became another disk when it was opened",
                        "Check its cable and the power supply; nothing was changed.",
                    )
                finding = inspect_head(bytes(target.read_back(0, min(HEAD_BYTES, target.size_bytes))))
                # The reporter has nothing to send yet: the client belongs to one thread at a time.
                if not session.may_overwrite(progress.found(disk, finding)):
                    return None
                await_supply(
                    around.is_supply_low,
                    note=progress.note,
                    check=progress.check,
                    sleep=around.sleep,
                    clock=around.clock,
                )
                kept = _find_kept(plan, target, progress)
                writer = _write_disk(plan, target, kept, progress, around)
            progress.begin(InstallStep.DONE, "the disk is complete")
        except AgentError as exc:
            progress.fail(exc)
            raise
        except Exception as exc:
            progress.fail(
                AgentError(f"unexpected {type(exc).__name__}: {exc}", "This is a bug; please report it.")
            )
            raise
    return disk, writer


def _find_kept(plan: InstallPlan, target: TargetDisk, progress: _Progress) -> tuple[Kept, ...]:
    """What stays of the disk, before anything of it is changed."""

    def read(offset: int, length: int) -> bytes:
        return bytes(target.read_back(offset, max(min(length, target.size_bytes - offset), 0)))

    kept = find_kept(read, target.size_bytes, plan.keep, may_be_absent=plan.keep_may_be_absent)
    require_room(kept, plan.image.size_bytes)
    if kept:
        progress.note(f"kept as they are: {', '.join(one.describe() for one in kept)}")
    elif plan.keep:
        progress.note(f"the disk is blank, there is no {' and no '.join(plan.keep)} to keep")
    return kept


def _write_disk(
    plan: InstallPlan,
    target: TargetDisk,
    kept: tuple[Kept, ...],
    progress: _Progress,
    around: Surroundings,
) -> ImageWriter:
    index = _fetch_index(plan, around)
    stream = ImageStream(
        plan.image.image_url,
        sleep=around.sleep,
        on_retry=lambda exc: progress.note(f"{exc.message}; going on"),
    )
    delta = [Overlay(patch.offset, _parse_hex(patch.data_hex)) for patch in plan.delta]
    marker = encode_marker(Occupant(plan.cluster, plan.node, plan.image.image_id, plan.installation))
    writer = ImageWriter(
        target, index, delta, stream.chunks, marker=marker, kept=kept, root_bytes=plan.root_bytes
    )
    progress.begin(
        InstallStep.INVALIDATE, f"{target.path}: nothing boots from here until the install is done"
    )
    writer.invalidate()
    progress.begin(InstallStep.WRITE, f"{format_size(index.mapped_bytes)} of {format_size(index.size_bytes)}")
    writer.write(progress.meter())
    progress.begin(InstallStep.VERIFY, "reading back from the medium")
    writer.verify(progress.meter())
    progress.begin(InstallStep.COMMIT, "boot sector, marker and partition table")
    writer.commit()
    return writer


def _fetch_index(plan: InstallPlan, around: Surroundings) -> ImageIndex:
    for attempt in range(1, INDEX_ATTEMPTS + 1):
        try:
            body = fetch_small(plan.image.index_url, plan.image.index_sha256)
            break
        except StreamBroken as exc:
            if attempt == INDEX_ATTEMPTS:
                raise
            around.say(f"{exc.message}; trying again")
            around.sleep(float(attempt))
    index = parse_index(body)
    if index.size_bytes != plan.image.size_bytes:
        raise AgentError(
            f"the index is of an image of {index.size_bytes} bytes, the plan says {plan.image.size_bytes}",
            "Run 'bramble build' again.",
        )
    return index


def _parse_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as exc:
        raise AgentError(f"the node delta is not hex: {exc}", "Update 'bramble serve'.") from exc


def main() -> int:
    """The installer's program: network, install, reboot. In the installer's RAM system it does not return.

    Run by a person on another system it refuses at once and restarts nothing: only a kernel that was
    started by our boot files has the `bramble.*` words on its command line.
    """
    status = 1
    may_reboot = False
    say = say_here
    try:
        config = parse_cmdline(Path("/proc/cmdline").read_text())
        may_reboot = True
        say = Consoles().say
        _install_here(config, say)
        status = 0
    except AgentError as exc:
        say(f"FAILED: {exc.message}")
        if exc.hint:
            say(f"  {exc.hint}")
    except Exception as exc:  # the board must start again whatever happened, and the console must say why
        say(f"FAILED: unexpected {type(exc).__name__}: {exc}")
        say("  This is a bug; please report it with this text.")
    if may_reboot:
        if status:
            say(f"the board starts again in {FAILURE_PAUSE_S:g} s")
            time.sleep(FAILURE_PAUSE_S)
        reboot()
    return status


def _install_here(config: InstallerConfig, say: Callable[[str], None]) -> None:
    from agent import network

    say(f"installer for {config.node or 'this board'}, intent {config.intent}")
    hardware = read_hardware()
    say(f"{hardware.model}, serial {hardware.serial}")
    interface = network.choose_interface(read_interfaces)
    connection = network.Connection(interface.name, interface.mac, say=say)
    lease = connection.refresh(secrets.randbits(32))
    say(f"{interface.name} has {lease.address} from {lease.server}")
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    client = ControlClient(config.control_urls, PinnedTrust(config.pin))
    around = Surroundings(
        hardware=hardware,
        boot_id=boot_id,
        say=say,
        keep_address=lambda: connection.keep(secrets.randbits(32)),
        prove_device=DeviceKey(commands.run).prove,
        boot_arg1=read_boot_arg(),
        is_supply_low=Supply().is_low,
    )
    install(config, client, around)
