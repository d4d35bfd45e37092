"""`bramble lab bootrom`: one board's firmware, or a crowd of them, against any boot server."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fleet.boards import BoardError, BoardModel, DiskKind, MacAddress, Serial
from lab.bootloader.eeprom_config import parse_eeprom_config
from lab.bootloader.faults import Fault, parse_fault
from lab.bootloader.filters import Circumstances
from lab.bootloader.machine import LINK_UP_S, Hardware
from lab.bootloader.profile import (
    PROFILES,
    AnyBoard,
    BoardIdentity,
    EepromProfile,
    Family,
    LegacyBoard,
)
from lab.bootloader.signature import RsaPublicKey
from lab.bootrom import Ending, play_on_wire, play_over_sockets
from lab.disk import DiskFiles
from lab.errors import LabError, UsageError
from lab.light_boards import LightResult, run_light_boards
from lab.netclient import PacketPort

_USUAL_MODELS = {"cm4": BoardModel.CM4, "cm5": BoardModel.CM5}


@click.command()
@click.option("--profile", required=True, type=click.Choice(list(PROFILES)), help="Firmware and its age.")
@click.option("--server", metavar="ADDRESS[:PORT]", help="Fetch over TFTP from here, without DHCP or rights.")
@click.option(
    "--interface", metavar="NAME", help="Be a board on this interface: DHCP, ARP and all. Needs root."
)
@click.option(
    "--model", metavar="MODEL", help="Board model, like pi4. Default: the usual one of the profile."
)
@click.option(
    "--serial",
    default="10000000d03114aa",
    show_default=True,
    metavar="HEX",
    help="Serial, 16 or 8 hex digits.",
)
@click.option("--mac", default="2c:cf:67:00:00:01", show_default=True, metavar="MAC", help="MAC address.")
@click.option("--revision", metavar="HEX", help="Revision code. Default: the newest of the model.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The EEPROM's configuration (bootconf.txt).",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One line of it, like BOOT_ORDER=0xf2."
)
@click.option("--disk", "disks", multiple=True, metavar="KIND:PATH", help="A disk image: nvme, sd or usb.")
@click.option(
    "--pubkey",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Public key in the EEPROM (PEM), for signed boot images.",
)
@click.option(
    "--fault", "faults", multiple=True, metavar="SPEC", help="A fault, like lose:ack:3 or cut:any:40."
)
@click.option(
    "--boards", default=1, show_default=True, type=click.IntRange(1, 4096), metavar="N", help="With --server."
)
@click.option(
    "--within",
    "within_s",
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="In which all are switched on.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Until it is switched off.",
)
@click.option("--no-wait", is_flag=True, help="Leave out the 3 s that a board's link takes.")
@click.option("--console", is_flag=True, help="Also show the firmware's own text.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the last one the result.")
def bootrom(
    profile: str,
    server: str | None,
    interface: str | None,
    model: str | None,
    serial: str,
    mac: str,
    revision: str | None,
    config: Path | None,
    settings: tuple[str, ...],
    disks: tuple[str, ...],
    pubkey: Path | None,
    faults: tuple[str, ...],
    boards: int,
    within_s: float,
    timeout_s: float,
    no_wait: bool,
    console: bool,
    as_json: bool,
) -> None:
    """Play a board's boot firmware against a server and tell what it does, up to the kernel.

    Nothing is started and nothing is written. Exits with 0 where the board would boot something, else with 1.

    \b
    bramble lab bootrom --profile pi5-2025 --server 10.77.0.1
    bramble lab bootrom --profile pi4-2021 --interface eth1 --set BOOT_ORDER=0xf2 --console
    bramble lab bootrom --profile cm5 --interface eth1 --config bootconf.txt --pubkey key.pub.pem
    bramble lab bootrom --profile pi5-2025 --server 10.77.0.1 --boards 256
    bramble lab bootrom --profile pi5-2025 --server 10.77.0.1 --fault silence:any:90
    """
    if (server is None) == (interface is None):
        raise UsageError("say where the server is", "Give --server ADDRESS or --interface NAME.")
    chosen = PROFILES[profile]
    try:
        board = _make_board(chosen, model, serial, mac, revision)
    except BoardError as exc:
        raise UsageError(exc.message, exc.hint) from exc
    text = (config.read_bytes() if config else b"") + "".join(f"\n{line}" for line in settings).encode()
    plan = _parse_faults(faults)
    tell = _teller(as_json=as_json, console=console)
    if server is not None:
        address, port = _parse_server(server)
        used = _apply(chosen, board, text, tell)
        if boards > 1:
            sys.exit(_storm(board, used, address, port, boards, within_s, timeout_s, as_json=as_json))
        ending = play_over_sockets(board, used, server=address, tftp_port=port, faults=plan, tell=tell)
    else:
        hardware = Hardware(
            board=board,
            profile=chosen,
            eeprom_config=text,
            public_key=_load_public_key(pubkey) if pubkey else None,
            disks=dict(map(_parse_disk, disks)),
            link_up_s=0.0 if no_wait else LINK_UP_S,
        )
        with PacketPort(interface or "") as wire:
            ending = play_on_wire(
                wire, hardware, random_bits=secrets.randbits, faults=plan, timeout_s=timeout_s, tell=tell
            )
    _say_ending(ending, as_json=as_json)
    sys.exit(0 if ending.files is not None else 1)


def _make_board(
    profile: EepromProfile, model: str | None, serial: str, mac: str, revision: str | None
) -> AnyBoard:
    if profile.soc is None:
        return LegacyBoard(serial=Serial.parse(serial), mac=MacAddress.parse(mac))
    usual = BoardModel.PI4 if profile.family is Family.BCM2711 else BoardModel.PI5
    chosen = BoardModel.parse(model) if model else _USUAL_MODELS.get(profile.name, usual)
    if chosen.soc is not profile.soc:
        raise UsageError(f"a {chosen.title} has no firmware {profile.name}", "Choose another --profile.")
    code = int(revision, 16) if revision else chosen.revision_codes[-1]
    return BoardIdentity(model=chosen, serial=Serial.parse(serial), mac=MacAddress.parse(mac), revision=code)


def _apply(
    profile: EepromProfile, board: AnyBoard, text: bytes, tell: Callable[[float, str, str], None]
) -> EepromProfile:
    model = board.model if isinstance(board, BoardIdentity) else None
    config = parse_eeprom_config(text, profile, Circumstances(model=model, serial=board.serial))
    for problem in config.problems:
        tell(0.0, "eeprom-problem", problem)
    return profile.with_settings(config.settings)


def _parse_server(text: str) -> tuple[IPv4Address, int]:
    host, _, port = text.partition(":")
    try:
        return IPv4Address(host), int(port or 69)
    except (AddressValueError, ValueError) as exc:
        raise UsageError(
            f"--server: {text!r} is no address", "Write one like 10.77.0.1 or 127.0.0.1:6969."
        ) from exc


def _parse_faults(texts: tuple[str, ...]) -> list[Fault]:
    try:
        return [parse_fault(text) for text in texts]
    except ValueError as exc:
        raise UsageError(f"--fault: {exc}") from exc


def _parse_disk(text: str) -> tuple[DiskKind, DiskFiles]:
    kind, _, path = text.partition(":")
    if kind not in set(DiskKind) or not Path(path).is_file():
        raise UsageError(f"--disk: {text!r} is no disk", "Write KIND:PATH, like nvme:/tmp/node.img.")
    return DiskKind(kind), DiskFiles(Path(path))


def _load_public_key(path: Path) -> RsaPublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except ValueError as exc:
        raise LabError(
            f"{path} is no public key in PEM form", "'bramble boot-image --new-key' makes one."
        ) from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise LabError(f"{path} is no RSA key, and the bootloader knows no other")
    numbers = key.public_numbers()
    return RsaPublicKey(numbers.n, numbers.e)


def _teller(*, as_json: bool, console: bool) -> Callable[[float, str, str], None]:
    def tell(seconds: float, kind: str, text: str) -> None:
        if kind == "console" and not console:
            return
        if as_json:
            click.echo(json.dumps({"at": round(seconds, 4), "kind": kind, "text": text}))
        else:
            click.echo(f"{seconds:8.3f}  {kind:14} {text}")

    return tell


def _say_ending(ending: Ending, *, as_json: bool) -> None:
    files = ending.files
    if as_json:
        result: dict[str, Any] = {"booted": files is not None, "seconds": round(ending.seconds, 4)}
        if files is None:
            result["reason"] = ending.reason
        else:
            result |= {
                "source": files.source.name,
                "kernel": files.kernel_name,
                "kernel_bytes": len(files.kernel),
                "initramfs": files.initramfs_name,
                "initramfs_bytes": len(files.initramfs or b""),
                "device_tree": files.dtb_name,
                "cmdline": files.cmdline,
                "from_ramdisk": files.from_ramdisk,
                "partition": files.partition,
            }
        click.echo(json.dumps(result))
    elif files is None:
        click.echo(f"nothing to boot after {ending.seconds:.1f} s: {ending.reason}")
    else:
        where = files.source.name + (", out of boot.img" if files.from_ramdisk else "")
        size = f"{len(files.kernel):,} bytes"
        click.echo(f"boots {files.kernel_name} ({size}) from {where} after {ending.seconds:.1f} s")
        if files.initramfs_name:
            click.echo(f"  initramfs    {files.initramfs_name} ({len(files.initramfs or b''):,} bytes)")
        click.echo(f"  device tree  {files.dtb_name}")
        click.echo(f"  command line {files.cmdline}")


def _storm(
    board: AnyBoard,
    profile: EepromProfile,
    server: IPv4Address,
    port: int,
    count: int,
    within_s: float,
    timeout_s: float,
    *,
    as_json: bool,
) -> int:
    """Many boards, whose serials count up from the first one's."""
    crowd = [
        replace(board, serial=Serial.parse(f"{(board.serial.low + number) & 0xFFFFFFFF or 1:08x}"))
        for number in range(count)
    ]
    done = 0

    def show(result: LightResult) -> None:
        nonlocal done
        done += 1
        if not as_json and (done % 16 == 0 or done == count):
            click.echo(f"\r{done} of {count} boards are done", nl=done == count, err=True)

    results = run_light_boards(
        crowd,
        profile,
        server=server,
        tftp_port=port,
        start_within_s=within_s,
        timeout_s=timeout_s,
        on_result=show,
    )
    booted = [result for result in results if result.booted]
    times = sorted(result.finished - result.started for result in booted if result.finished is not None)
    received = sum(result.received_bytes for result in results)
    errors = sorted({result.error for result in results if result.error})
    summary = {
        "boards": count,
        "booted": len(booted),
        "received_bytes": received,
        "fastest_s": round(times[0], 3) if times else None,
        "median_s": round(times[len(times) // 2], 3) if times else None,
        "slowest_s": round(times[-1], 3) if times else None,
        "errors": errors,
    }
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(f"{len(booted)} of {count} boards would boot; {received / 1e6:,.0f} MB were sent")
        if times:
            median = times[len(times) // 2]
            click.echo(f"seconds: fastest {times[0]:.1f}, median {median:.1f}, slowest {times[-1]:.1f}")
        for error in errors[:5]:
            click.echo(f"  {error}")
    return 0 if len(booted) == count else 1
