"""A virtual Raspberry Pi: a bootloader, then QEMU with what it fetched, and back to the bootloader when the
guest reboots.

Each board runs on a thread of its own from power-on to power-off; the caller's side is synchronous and safe
from any thread. The thread owns the tap (bootloader and QEMU take turns on it), the QEMU process and the
files in `run_dir`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fleet.boards import BoardModel, MacAddress, Serial
from lab import raspi4b
from lab.bootloader.boot_order import network_first
from lab.bootloader.files import BoardStuckError, BootFiles
from lab.bootloader.machine import Bootrom, Hardware
from lab.bootloader.profile import BoardIdentity, EepromProfile, default_profile
from lab.bootloader.signature import RsaPublicKey
from lab.console import Console
from lab.devicetree import write_board_dtb
from lab.disk import DiskFiles, VirtualDisk
from lab.errors import LabError, WaitTimeoutError
from lab.events import BoardEvent, EventHandler, EventKind, Notice
from lab.netclient import run_bootrom
from lab.network import require_tun
from lab.qemu import Cpu, End, Machine, MachineKind, MachineSpec, UserNetwork, require_qemu
from lab.registers import clear_registers, read_registers, write_registers
from lab.tap import Tap

DEFAULT_MEMORY_MIB: Final = 1024
_PANIC: Final = re.compile(r"Kernel panic - not syncing: (.*)\n")
_PANIC_LINE_CHARS: Final = 200
_STOP_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardConfig:
    """A board as it lies on the table.

    Attributes:
        name: Its name in the lab: of events and files.
        tap: Tap device that its cable is plugged into (`network.add_tap`); None for no cable.
        memory_mib: Memory of the machine; it does not have to be what the revision code says.
        revision: Revision code; None for one of the model.
        boot_order: None for network first, then the disks as listed, then over again.
        profile: EEPROM; None for the model's usual one.
        link_up_s: From power-on to a link; about 3 s on a board, and there is nothing to learn from waiting
            for it.
        public_key: In its EEPROM, for signed boot images (the HTTP mode); None for none.
        kind: QEMU's machine.
        user_network: Instead of a tap: a link that reaches nobody. The firmware sees no cable.
        amend: What a rehearsal adds to the files between firmware and kernel; the disk stays as it is.
    """

    name: str
    model: BoardModel
    serial: Serial
    mac: MacAddress
    tap: str | None
    disks: tuple[VirtualDisk, ...] = ()
    memory_mib: int = DEFAULT_MEMORY_MIB
    cpu_count: int = 2
    revision: int | None = None
    boot_order: int | None = None
    profile: EepromProfile | None = None
    link_up_s: float = 0.3
    public_key: RsaPublicKey | None = None
    kind: MachineKind = MachineKind.VIRT
    user_network: UserNetwork | None = None
    amend: Callable[[BootFiles], BootFiles] | None = None

    @property
    def identity(self) -> BoardIdentity:
        return BoardIdentity(
            model=self.model,
            serial=self.serial,
            mac=self.mac,
            revision=self.revision if self.revision is not None else self.model.revision_codes[-1],
        )

    @property
    def effective_boot_order(self) -> int:
        return self.boot_order if self.boot_order is not None else network_first([d.kind for d in self.disks])


class VirtualBoard:
    """One board. A context manager: leaving it pulls the plug and closes the files.

    Args:
        config: What it is.
        run_dir: Directory for its kernel, device tree and logs; made if absent. `console.log` grows there,
            and `registers.json` holds what outlives a restart and no power cut (`lab.registers`).
        on_event: Called for every event on the board's thread.
        on_console: Called with what comes over the serial line, on the board's thread.
        dtb_cache: Where QEMU's device trees are kept between boards; inside `run_dir` by default.
    """

    def __init__(
        self,
        config: BoardConfig,
        *,
        run_dir: Path,
        on_event: EventHandler | None = None,
        on_console: Callable[[bytes], None] | None = None,
        dtb_cache: Path | None = None,
    ) -> None:
        self.config = config
        self._profile = config.profile or default_profile(config.model)
        self._run_dir = run_dir
        self._on_event = on_event
        self._on_console = on_console
        self._dtb_cache = dtb_cache or run_dir / "dtb-cache"
        run_dir.mkdir(parents=True, exist_ok=True)
        self.console = Console(run_dir / "console.log")
        self._registers_file = run_dir / "registers.json"
        self._events: list[BoardEvent] = []
        self._changed = threading.Condition()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._searched = 0
        self._machine: Machine | None = None

    # --- what a person does to a board

    def power_on(self) -> None:
        """Plug it in.

        Raises:
            LabError: It is on already, or this machine can not run virtual boards.
        """
        if self.is_on:
            raise LabError(f"{self.config.name} is on already")
        require_qemu()
        if self.config.tap is not None:
            require_tun()
        for disk in self.config.disks:
            disk.create()
        self._drain_wake()
        clear_registers(self._registers_file)
        self._thread = threading.Thread(target=self._run, name=f"board-{self.config.name}", daemon=True)
        self._thread.start()

    def power_cut(self) -> None:
        """Pull the plug, at once and whatever it does. Nothing happens to a board that is off."""
        thread = self._thread
        if thread is None:
            return
        os.eventfd_write(self._wake_fd, 1)
        thread.join(_STOP_TIMEOUT_S)
        if thread.is_alive():
            raise LabError(f"{self.config.name} did not stop within {_STOP_TIMEOUT_S:g} s")
        self._thread = None

    def hang(self) -> None:
        """Let its system hang: the power is on, and nothing answers any more. Only a power cut helps.

        Raises:
            LabError: No system runs on it.
        """
        machine = self._machine
        if machine is None:
            raise LabError(f"no system runs on {self.config.name} that could hang")
        os.kill(machine.pid, signal.SIGSTOP)

    def close(self) -> None:
        """Pull the plug and release everything."""
        if self._wake_fd < 0:
            return
        self.power_cut()
        os.close(self._wake_fd)
        self._wake_fd = -1
        self.console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what a person sees of it

    @property
    def is_on(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def events(self) -> Sequence[BoardEvent]:
        """All events so far, oldest first."""
        with self._changed:
            return tuple(self._events)

    def wait_for(self, *kinds: EventKind, timeout_s: float, since: int = 0) -> BoardEvent:
        """Wait for the first event of one of these kinds, beginning with event number `since`.

        Raises:
            WaitTimeoutError: Not in time, or the lab broke; the text carries the last events and console
                lines.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self._events[since:]:
                    if event.kind in kinds:
                        return event
                    if event.kind is EventKind.BROKEN:
                        raise WaitTimeoutError(
                            self._report(f"waited for {' or '.join(kinds)}, and the lab broke")
                        )
                left = deadline - time.monotonic()
                if left <= 0:
                    raise WaitTimeoutError(self._report(f"no {' or '.join(kinds)} within {timeout_s:g} s"))
                self._changed.wait(left)

    def wait_for_console(self, pattern: str, *, timeout_s: float, since: int = 0) -> re.Match[str]:
        """Wait for a regular expression on the console after position `since` (`console.position`).

        Raises:
            WaitTimeoutError: Not in time.
        """
        found = self.console.wait_for(pattern, timeout_s, since=since)
        if found is None:
            raise WaitTimeoutError(self._report(f"no {pattern!r} on the console within {timeout_s:g} s"))
        return found

    def _report(self, what: str) -> str:
        events = "\n".join(f"  {event.kind}: {event.text}" for event in self._events[-10:])
        return f"{self.config.name}: {what}. Last events:\n{events}\nConsole:\n{self.console.tail()}"

    # --- the board's own thread

    def _run(self) -> None:
        try:
            self._emit(EventKind.POWERED_ON, f"{self.config.model.title}, serial {self.config.serial}")
            while self._boot() is End.REBOOT:
                self._emit(EventKind.REBOOTED, "the guest asked for a reboot")
        except BoardStuckError:  # the firmware has said so
            self._sleep(None)
            self._emit(EventKind.POWER_CUT, "power cut")
        except LabError as error:
            self._emit(EventKind.BROKEN, str(error))
        except OSError as error:
            self._emit(EventKind.BROKEN, f"the host failed: {error}")

    def _boot(self) -> End:
        """From reset to the end of the guest: the firmware until it brings files, then the machine.

        The tap is the firmware's until it has an outcome; QEMU takes it over then.
        """
        config = self.config
        hardware = Hardware(
            board=config.identity,
            profile=self._profile.with_settings(
                replace(self._profile.settings, boot_order=config.effective_boot_order)
            ),
            disks={disk.kind: DiskFiles(disk.path) for disk in config.disks},
            has_cable=config.tap is not None,
            link_up_s=config.link_up_s,
            public_key=config.public_key,
        )
        with contextlib.ExitStack() as stack:
            port = None
            if config.tap is not None:
                port = stack.enter_context(Tap(config.tap))
                port.wait_for_link()
            registers = read_registers(self._registers_file)
            boot_arg1 = registers.boot_arg1
            rom = Bootrom(hardware, random_bits=secrets.randbits, now=time.monotonic(), registers=registers)
            write_registers(self._registers_file, registers)  # the order for one start was read
            if not run_bootrom(port, rom, wake_fd=self._wake_fd, on_notice=self._notice):
                return self._cut()
        if isinstance(rom.outcome, BootFiles):
            return self._start(rom.outcome, boot_arg1)
        raise rom.outcome or BoardStuckError("the firmware ended without an outcome")

    def _start(self, files: BootFiles, boot_arg1: int) -> End:
        if self.config.amend is not None:
            files = self.config.amend(files)
        kernel = self._run_dir / "kernel"
        initramfs = self._run_dir / "initramfs" if files.initramfs is not None else None
        dtb = self._run_dir / "board.dtb"
        kernel.write_bytes(files.kernel)
        if initramfs is not None and files.initramfs is not None:
            initramfs.write_bytes(files.initramfs)
        cpu = Cpu.of(self.config.model.soc, self.config.cpu_count)
        self._write_device_tree(dtb, files, cpu, boot_arg1)
        machine = Machine(
            MachineSpec(
                name=self.config.name,
                cpu=cpu,
                memory_mib=self.config.memory_mib,
                kernel=kernel,
                initramfs=initramfs,
                dtb=dtb,
                cmdline=files.cmdline,
                disks=self.config.disks,
                mac=self.config.mac,
                tap=self.config.tap,
                user_network=self.config.user_network,
                kind=self.config.kind,
            ),
            self._run_dir,
        )
        loaded = f"{files.kernel_name}" + (f" and {files.initramfs_name}" if files.initramfs_name else "")
        self._emit(EventKind.KERNEL_STARTED, f"{loaded} from {files.source.name}")
        del files  # a hundred megabytes, for as long as the guest runs
        self._machine = machine
        try:
            end = machine.run(self._wake_fd, self._console_data)
        finally:
            self._machine = None
        match end:
            case End.CUT:
                return self._cut()
            case End.SHUTDOWN:
                self._emit(EventKind.POWERED_OFF, "the guest shut down")
            case End.PANIC | End.REBOOT:
                pass
        return end

    def _write_device_tree(self, target: Path, files: BootFiles, cpu: Cpu, boot_arg1: int) -> None:
        config = self.config
        if config.kind is MachineKind.RASPI4B:
            raspi4b.write_device_tree(
                target, self._read_device_tree(files), board=config.identity, boot_mode=files.source
            )
            return
        write_board_dtb(
            target,
            cache=self._dtb_cache,
            board=config.identity,
            boot_mode=files.source,
            cpu=cpu,
            memory_mib=config.memory_mib,
            boot_arg1=boot_arg1 if self._profile.has_one_shot_order else None,
        )

    def _read_device_tree(self, files: BootFiles) -> bytes:
        """The image's own device tree, from the disk that the firmware read the other files from."""
        name = f"{files.config.os_prefix}{files.dtb_name or self.config.model.dtb_names[0]}"
        for disk in self.config.disks:
            on_disk = DiskFiles(disk.path)
            on_disk.partitions()
            data = on_disk.read(files.partition, name)
            if data is not None:
                return data
        raise LabError(f"{name} is not on the disk that {self.config.name} boots from")

    def _console_data(self, data: bytes) -> None:
        self.console.write(data)
        if self._on_console is not None:
            self._on_console(data)
        found = self.console.wait_for(_PANIC.pattern, 0.0, since=self._searched)
        if found:
            self._emit(EventKind.PANIC, found[1].strip())
        # The line may arrive in pieces: the next search begins a line's length before the end of this one.
        self._searched = self.console.position - (0 if found else _PANIC_LINE_CHARS)

    def _cut(self) -> End:
        clear_registers(self._registers_file)
        self._emit(EventKind.POWER_CUT, "power cut")
        return End.CUT

    def _sleep(self, seconds: float | None) -> bool:
        """Wait; True as soon as the plug is pulled."""
        return bool(select.select([self._wake_fd], [], [], seconds)[0])

    def _drain_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return

    def _notice(self, notice: Notice) -> None:
        self._emit(notice.kind, notice.text)

    def _emit(self, kind: EventKind, text: str) -> None:
        event = BoardEvent(board=self.config.name, kind=kind, text=text, at=time.monotonic())
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()
        if self._on_event is not None:
            self._on_event(event)
