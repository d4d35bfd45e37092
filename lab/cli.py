"""`bramble lab …`: commands that a person uses to rehearse with virtual boards."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click

from fleet.boards import BoardError, BoardModel, DiskKind, MacAddress, Serial
from lab.board import DEFAULT_MEMORY_MIB, BoardConfig, VirtualBoard
from lab.bootloader.boot_order import parse_boot_order
from lab.bootloader.profile import PROFILES
from lab.disk import VirtualDisk
from lab.errors import UsageError
from lab.events import BoardEvent, EventKind
from lab.network import add_tap, enter_private_network, has_private_network, remove_tap
from lab.runner import replace_process

DEFAULT_DISK_BYTES: Final = 8 << 30
_UNITS: Final = {"": 1, "M": 1 << 20, "G": 1 << 30}
_LAST_EVENTS: Final = frozenset(
    (EventKind.POWERED_OFF, EventKind.POWER_CUT, EventKind.STUCK, EventKind.BROKEN)
)


def parse_disk(text: str) -> VirtualDisk:
    """Read `KIND:PATH[:SIZE]`, like `nvme:/tmp/a.img:16G`.

    Raises:
        UsageError: It is not of that form.
    """
    kind, _, rest = text.partition(":")
    match = re.fullmatch(r"(.+?)(?::(\d+)([MG]?))?", rest)
    if kind not in set(DiskKind) or match is None:
        kinds = ", ".join(DiskKind)
        raise UsageError(
            f"{text!r} is not a disk",
            f"Write KIND:PATH or KIND:PATH:SIZE, with KIND one of {kinds}; SIZE like 8G.",
        )
    path, number, unit = Path(match[1]), match[2], match[3] or ""
    if number is not None:
        size_bytes = int(number) * _UNITS[unit]
    else:
        size_bytes = path.stat().st_size if path.exists() else DEFAULT_DISK_BYTES
    serial = "LAB-" + re.sub(r"[^A-Z0-9]", "", path.stem.upper())[:16]
    return VirtualDisk(kind=DiskKind(kind), path=path, size_bytes=size_bytes, serial=serial)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def shell(command: tuple[str, ...]) -> None:
    """Run COMMAND in a private network for virtual boards.

    The network has one bridge, bramble0, on which this machine is 10.77.0.1. Nothing reaches the network
    outside.

    \b
    bramble lab shell -- bash
    """
    enter_private_network()
    replace_process(command)


@click.command()
@click.option("--model", required=True, metavar="MODEL", help="Board model, like pi4, pi5, cm5.")
@click.option(
    "--serial",
    default="10000000b0a4d001",
    show_default=True,
    metavar="HEX",
    help="Serial, 16 or 8 hex digits.",
)
@click.option("--mac", default="2c:cf:67:00:00:01", show_default=True, metavar="MAC", help="MAC address.")
@click.option("--disk", "disks", multiple=True, metavar="KIND:PATH[:SIZE]", help="A disk; made if absent.")
@click.option(
    "--memory",
    "memory_mib",
    default=DEFAULT_MEMORY_MIB,
    show_default=True,
    metavar="MIB",
    help="Memory in MiB.",
)
@click.option("--boot-order", metavar="HEX", help="BOOT_ORDER, like 0xf12. Default: network, then the disks.")
@click.option("--eeprom", type=click.Choice(sorted(PROFILES)), help="Age of the EEPROM. Default: by model.")
@click.option(
    "--tap", default="board0", show_default=True, metavar="NAME", help="Name of the board's network cable."
)
def board(
    model: str,
    serial: str,
    mac: str,
    disks: tuple[str, ...],
    memory_mib: int,
    boot_order: str | None,
    eeprom: str | None,
    tap: str,
) -> None:
    """Power on one virtual board and show its bootloader and console; ^C pulls the plug.

    Runs inside 'bramble lab shell': the board boots from whatever answers on that network. In the background
    of that shell, 'kill' pulls the plug.

    \b
    bramble lab board --model pi5 --disk nvme:./board0.img:16G
    """
    try:
        config = BoardConfig(
            name=tap,
            model=BoardModel.parse(model),
            serial=Serial.parse(serial),
            mac=MacAddress.parse(mac),
            tap=tap,
            disks=tuple(map(parse_disk, disks)),
            memory_mib=memory_mib,
            boot_order=_parse_order(boot_order),
            profile=PROFILES[eeprom] if eeprom else None,
        )
    except BoardError as exc:
        raise UsageError(exc.message, exc.hint) from exc
    if not has_private_network():
        raise UsageError(
            "there is no lab network here",
            "Start one with 'bramble lab shell -- bash' and run this inside it.",
        )
    with _terminated_like_interrupted():
        add_tap(tap)
        try:
            _run_on_terminal(config)
        finally:
            remove_tap(tap)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM pulls the plug as ^C does. A board in the background gets no ^C, and one that merely died would
    leave its cable behind, which the next start then finds in use."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parse_order(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        value = int(text, 16)
        parse_boot_order(value)
    except ValueError as exc:
        raise UsageError(
            f"--boot-order: {text!r} is not one", "Write up to eight hex digits, like 0xf12."
        ) from exc
    return value


def _run_on_terminal(config: BoardConfig) -> None:
    ended = threading.Event()

    def show(event: BoardEvent) -> None:
        click.echo(f"[{event.board}] {event.kind}: {event.text}", err=True)
        if event.kind in _LAST_EVENTS:
            ended.set()

    def echo(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    with (
        tempfile.TemporaryDirectory(prefix="bramble-board-") as folder,
        VirtualBoard(config, run_dir=Path(folder), on_event=show, on_console=echo) as running,
    ):
        running.power_on()
        ended.wait()
