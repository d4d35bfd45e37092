"""A board's firmware from power-on to the kernel: BOOT_ORDER, pauses, resets and all modes, as one pure
machine on whatever clock its owner has.

It is Bramble's regression client for boot servers: deterministic (randomness is handed in), sans-IO (Ethernet
frames in, Ethernet frames out), and usable against any server. `lab.netclient` runs it on real wires;
`tests/support/fakes_boot_server.py` on a virtual clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fleet.boards import BootMode, DiskKind
from lab.bootloader.boot_order import DISK_MODES, Attempt, RestartsUsedUpError, walk
from lab.bootloader.client import FIRST_PORT, NetworkBoot, NetworkOutcome, make_boot
from lab.bootloader.console import mode_line, render_console_line
from lab.bootloader.disk_boot import BootDisk, boot_from_disk
from lab.bootloader.eeprom_config import parse_eeprom_config
from lab.bootloader.files import BoardResetError, BoardStuckError, Boot, BootFiles, ModeFailedError
from lab.bootloader.filters import Circumstances
from lab.bootloader.profile import AnyBoard, BoardIdentity, EepromProfile
from lab.bootloader.signature import RsaPublicKey
from lab.events import EventKind, Notice

LINK_UP_S: Final = 3.2
"""From the reset of the Ethernet chip to a link, measured by a user on a Pi 5 (rpi-eeprom#687)."""
RESTART_PAUSE_S: Final = 1.0
"""Between two rounds of BOOT_ORDER; the firmware's own pause is not published."""
FATAL_PATTERN_S: Final = 15.0
"""Three rounds of the error pattern before a reset (since 2026-04-14); the length of a round is ours."""
_PORT_BITS: Final = 13


@dataclass(slots=True, kw_only=True)
class Registers:
    """What survives a reset and not a power cut: the one-shot flags that a running system sets.

    Attributes:
        one_shot_order: BOOT_ORDER of the next boot, cleared when it is read (BCM2712 since 2025-01-14:
            `vcmailbox 0x0003808b 4 4 ORDER`, or `set_reboot_order` in config.txt).
        tryboot: `reboot '0 tryboot'`.
        partition: `reboot N`.
        boot_count, boot_arg1: Variables for filters.
    """

    one_shot_order: int | None = None
    tryboot: bool = False
    partition: int = 0
    boot_count: int = 0
    boot_arg1: int = 0


@dataclass(slots=True, kw_only=True)
class Hardware:
    """A board with what is plugged into it.

    Attributes:
        board: Who it is.
        profile: Its EEPROM.
        eeprom_config: bootconf.txt inside the EEPROM; None for the profile's settings as they are.
        eeprom_timestamp: When the EEPROM was last updated; grows when it updates itself.
        public_key: For signed boot images; None where the EEPROM holds none.
        disks: Its disks.
        has_cable: Whether the network is plugged in.
        link_up_s: From the start of a network mode to a link.
    """

    board: AnyBoard
    profile: EepromProfile
    eeprom_config: bytes | None = None
    eeprom_timestamp: int = 0
    public_key: RsaPublicKey | None = None
    disks: Mapping[DiskKind, BootDisk] = field(default_factory=dict)
    has_cable: bool = True
    link_up_s: float = LINK_UP_S


class Bootrom:
    """One power-on.

    Args:
        hardware: The board; its `eeprom_timestamp` changes when the EEPROM updates itself.
        random_bits: n → a number of n random bits.
        now: Seconds, monotonic.
        registers: What the running system left behind before a reset; None after a power cut.

    Attributes:
        outcome: None while it runs; then the files, or why it has stopped for good.
        console: The firmware's text; the owner empties it.
        resets: How often it has reset itself.
    """

    def __init__(
        self,
        hardware: Hardware,
        *,
        random_bits: Callable[[int], int],
        now: float,
        registers: Registers | None = None,
    ) -> None:
        self.outcome: BootFiles | BoardStuckError | None = None
        self.console: list[str] = []
        self.resets = 0
        self._hardware = hardware
        self._random_bits = random_bits
        self._registers = registers or Registers()
        self._frames: list[bytes] = []
        self._notices: list[Notice] = []
        self._network: NetworkBoot | None = None
        self._attempts: Iterator[Attempt] = iter(())
        self._attempt: Attempt | None = None
        self._wait_until: float | None = None
        self._resets_at: float | None = None
        self._watchdog_at: float | None = None
        self._profile = hardware.profile
        self._circumstances = Circumstances(model=None, serial=hardware.board.serial)
        self._start(now)

    # --- the five methods of a session

    def receive_frame(self, frame: bytes, now: float) -> None:
        """Take one Ethernet frame from the wire."""
        if self._network is not None:
            self._network.receive_frame(frame, now)
            self._collect(self._network, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if self.outcome is not None:
            return
        if self._watchdog_at is not None and now >= self._watchdog_at:
            self._reset("BOOT_WATCHDOG_TIMEOUT has passed", now)
        elif self._resets_at is not None:
            if now >= self._resets_at:
                self._reset("a fatal error", now)
        elif self._wait_until is not None:
            if now >= self._wait_until:
                self._wait_until = None
                self._begin_mode(now)
        elif self._network is not None:
            self._network.handle_timeout(now)
            self._collect(self._network, now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        if self.outcome is not None:
            return None
        own = self._resets_at if self._resets_at is not None else self._wait_until
        if own is None and self._network is not None:
            own = self._network.next_timeout()
        due = [moment for moment in (own, self._watchdog_at) if moment is not None]
        return min(due) if due else None

    def frames_to_send(self) -> Sequence[bytes]:
        """Frames for the wire, oldest first; each is given out once."""
        if self._network is not None:
            self._frames += self._network.frames_to_send()
        frames, self._frames = self._frames, []
        return frames

    def next_notice(self) -> Notice | None:
        return self._notices.pop(0) if self._notices else None

    # --- inside

    def _start(self, now: float) -> None:
        """From reset: read the EEPROM's configuration and the one-shot flags."""
        hardware, registers = self._hardware, self._registers
        board, profile = hardware.board, hardware.profile
        self._circumstances = Circumstances(
            model=board.model if isinstance(board, BoardIdentity) else None,
            serial=board.serial,
            tryboot=registers.tryboot,
            partition=registers.partition,
            boot_count=registers.boot_count,
            boot_arg1=registers.boot_arg1,
        )
        if hardware.eeprom_config is not None:
            config = parse_eeprom_config(hardware.eeprom_config, profile, self._circumstances)
            profile = profile.with_settings(config.settings)
            for problem in config.problems:
                self._note(EventKind.EEPROM_PROBLEM, problem)
        self._profile = profile
        settings = profile.settings
        order = settings.boot_order
        if registers.one_shot_order is not None and profile.has_one_shot_order:
            order = registers.one_shot_order
        registers.one_shot_order, registers.tryboot, registers.partition = None, False, 0
        registers.boot_count += 1
        self._attempts = walk(
            order,
            net_boot_max_retries=settings.net_boot_max_retries,
            sd_boot_max_retries=settings.sd_boot_max_retries,
            max_restarts=settings.max_restarts,
        )
        self._watchdog_at = now + settings.watchdog_s if settings.watchdog_s else None
        self._resets_at = self._wait_until = None
        self._network = None
        self._attempt = None
        self._next_attempt(now, order)

    def _next_attempt(self, now: float, order: int) -> None:
        was_first = self._attempt is None
        try:
            attempt = next(self._attempts, None)
        except RestartsUsedUpError as error:
            self._reset(str(error), now)
            return
        if attempt is None:
            self._stop(BoardStuckError(f"BOOT_ORDER {order:#x} is at its end, nothing could be booted"), now)
            return
        self._attempt = attempt
        pause_s = attempt.pause_s
        if attempt.begins_round and not was_first:
            pause_s += RESTART_PAUSE_S
        if attempt.mode in (BootMode.NETWORK, BootMode.HTTP) and self._hardware.has_cable:
            pause_s += self._hardware.link_up_s
        self._say(mode_line(attempt.mode, attempt.rest))
        self._note(EventKind.MODE_STARTED, f"boot mode {attempt.mode.name} ({attempt.mode.value:x})")
        self._wait_until = now + pause_s

    def _begin_mode(self, now: float) -> None:
        attempt = self._attempt
        if attempt is None:
            raise RuntimeError("a mode begins after it was chosen")
        boot = make_boot(
            self._hardware.board,
            self._profile,
            attempt.mode,
            circumstances=self._circumstances,
            public_key=self._hardware.public_key,
            eeprom_timestamp=self._hardware.eeprom_timestamp,
        )
        if attempt.mode in (BootMode.NETWORK, BootMode.HTTP):
            self._begin_network(boot, now)
            return
        if attempt.mode is BootMode.RPIBOOT:
            # It has neither a timeout nor retries: only the watchdog ends it.
            waiting = BoardStuckError("RPIBOOT waits for a host on its USB port, without end")
            self._note(EventKind.STUCK, str(waiting))
            self.outcome = waiting if self._watchdog_at is None else None
            return
        try:
            self._end_mode(self._load_from_disk(boot), now)
        except (ModeFailedError, BoardStuckError, BoardResetError) as error:
            self._end_mode(error, now)

    def _begin_network(self, boot: Boot, now: float) -> None:
        if not self._hardware.has_cable:
            self._end_mode(ModeFailedError("no link: the cable is not plugged in"), now)
            return
        self._network = NetworkBoot(
            self._hardware.board,
            self._profile,
            xid=self._random_bits(32),
            first_port=FIRST_PORT + self._random_bits(_PORT_BITS),
            now=now,
            boot=boot,
        )
        self._collect(self._network, now)

    def _load_from_disk(self, boot: Boot) -> BootFiles:
        wanted = DISK_MODES.get(boot.source)
        disk = self._hardware.disks.get(wanted) if wanted is not None else None
        if disk is None:
            raise ModeFailedError("no such device" if wanted else "this mode is not emulated")
        return boot_from_disk(boot, disk)

    def _collect(self, network: NetworkBoot, now: float) -> None:
        self.console += network.console
        network.console.clear()
        while (notice := network.next_notice()) is not None:
            self._notices.append(notice)
        if network.outcome is not None:
            self._frames += network.frames_to_send()
            self._network = None
            self._end_mode(network.outcome, now)

    def _end_mode(self, outcome: NetworkOutcome, now: float) -> None:
        match outcome:
            case BootFiles():
                self.outcome = outcome
            case ModeFailedError():
                mode = self._attempt.mode.name if self._attempt else "?"
                self._note(EventKind.MODE_FAILED, f"{mode}: {outcome}")
                self._next_attempt(now, self._profile.settings.boot_order)
            case BoardStuckError():
                self._stop(outcome, now)
            case BoardResetError():
                self._hardware.eeprom_timestamp = outcome.timestamp
                self._reset(str(outcome), now)

    def _stop(self, error: BoardStuckError, now: float) -> None:
        """A fatal error: a reset after the pattern, where the EEPROM or its watchdog does that."""
        self._note(EventKind.STUCK, str(error))
        self._network = None
        if self._profile.resets_on_fatal:
            self._resets_at = now + FATAL_PATTERN_S
        elif self._watchdog_at is None:
            self.outcome = error

    def _reset(self, reason: str, now: float) -> None:
        self.resets += 1
        self._note(EventKind.REBOOTED, f"reset: {reason}")
        self._start(now)

    def _say(self, line: str) -> None:
        self.console.append(line)
        if (target := self._profile.settings.netconsole) is not None:
            mac = (self._profile.settings.mac_address or self._hardware.board.mac).octets
            self._frames.append(render_console_line(line, target, mac))

    def _note(self, kind: EventKind, text: str) -> None:
        self._notices.append(Notice(kind, text))
