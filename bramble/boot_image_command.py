"""`bramble boot-image`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from fleet.boards import BoardError, BoardModel
from fleet.cli.names import NODE, RenamedOption, file_option
from fleet.errors import InputError
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.spec.values import suggest


def eeprom_text(address: str, port: int, serial: str, public: str) -> str:
    """What has to stand in a board's EEPROM, ready to be copied."""
    return (
        "In the board's EEPROM (rpi-eeprom-config --edit, or rpiboot with usbboot's recovery folder):\n"
        f"  public key     rpi-eeprom-config --pubkey {public}\n"
        "  BOOT_ORDER     with a 7 for HTTP, like 0xf67: HTTP, then NVMe, then over again.\n"
        "                 On a cm4 the 7 has to stand behind the disk, like 0xf762; see --help\n"
        f"  HTTP_HOST={address}\n"
        f"  HTTP_PORT={port}\n"
        f"  HTTP_PATH=boot/{serial}\n"
        "HTTP_CACERT_HASH stays empty: the image is proved by its signature, and plain HTTP carries it.\n"
        "It needs a bootloader of 2022-03-10 (Pi 4, CM4) or 2024-01-15 (Pi 5, CM5) or later."
    )


@click.command("boot-image")
@file_option
@click.option("--node", "names", multiple=True, type=NODE, metavar="NODE", help="A node. May be repeated.")
@click.option("--all", "every", is_flag=True, help="Every node for which an install is open.")
@click.option("--board", "model", metavar="MODEL", help="Of these only boards of this model, like pi5.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="For NODE/boot.img and NODE/boot.sig. Default: where 'bramble serve' serves them from.",
)
@click.option(
    "--sign-key",
    "key_file",
    cls=RenamedOption,
    before="--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PEM",
    help="RSA-2048 private key (PEM) to sign with. Without it boot.sig is unsigned: no HTTP boot takes it.",
)
@click.option(
    "--new-key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PEM",
    help="Make a key in this file and its public half beside it, and say what goes into the EEPROM.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def boot_image(
    file: Path,
    names: tuple[str, ...],
    every: bool,
    model: str | None,
    output: Path | None,
    key_file: Path | None,
    new_key: Path | None,
    as_json: bool,
) -> None:
    """Make boot.img and boot.sig, with which a board installs over HTTP boot or as a signed RAM disk.

    One image holds everything that one board boots for one install. 'bramble serve' gives it out while that
    install is open, and not a second longer; for a later install make another one.

    On a cm4 HTTP must not stand before the disk in BOOT_ORDER. An installed board is told 404 over HTTP, and
    a cm4's bootloader of 2025-08-27 stops there (rpi-eeprom#763) where others go on to their disk. Let it try
    TFTP first and HTTP last, as in 0xf762; 'bramble eeprom check' says where an order is wrong.

    \b
    bramble boot-image --new-key boot-key.pem  # once; then put the public half into the boards
    bramble boot-image --node pi5-1 --sign-key boot-key.pem
    bramble boot-image --all --board pi5 --sign-key boot-key.pem -o ./boot-images
    """
    if new_key is not None:
        _new_key(new_key, as_json=as_json)
        return
    from bramble.boot_images import make_node_boot_image
    from bramble.boot_sources import load_sources
    from imagebuilder.boot_image.sign import load_signing_key

    if bool(names) == every:
        raise click.UsageError("Name nodes with --node, or take all of them with --all.")
    key = load_signing_key(key_file) if key_file is not None else None
    sources = load_sources(file)
    chosen = _choose(sources.spec, names, _parse_model(model))
    states = {state.name: state for state in sources.states}
    if every:
        chosen = [node for node in chosen if states[node.name].install_intent is not None]
    directory = output if output is not None else sources.boot_images
    timestamp = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    results: list[dict[str, Any]] = []
    for node in chosen:
        if not as_json:
            click.echo(f"{node.name}: making boot.img", err=True)
        made = make_node_boot_image(
            states[node.name],
            node.board,
            sources.image,
            sources.control,
            directory,
            key=key,
            timestamp=timestamp,
        )
        results.append(
            {
                "node": made.node,
                "intent": made.intent,
                "image": os.fspath(made.image.path),
                "signature": os.fspath(made.signature),
                "size_bytes": made.image.size_bytes,
                "sha256": made.image.sha256,
                "signed": made.is_signed,
                "warning": made.image.warning,
            }
        )
        if not as_json:
            _say(made.node, results[-1])
    if as_json:
        click.echo(json.dumps(results))
    elif not results:
        click.echo("no install is open for any of these nodes; nothing was made")


def _say(node: str, result: dict[str, Any]) -> None:
    kind = "signed" if result["signed"] else "UNSIGNED: HTTP boot refuses it, sign it with --sign-key"
    size = result["size_bytes"] / 2**20
    click.echo(f"{node}: {result['image']} ({size:.0f} MiB, intent {result['intent']}, {kind})")
    if result["warning"]:
        click.echo(f"  {result['warning']}")


def _new_key(path: Path, *, as_json: bool) -> None:
    from imagebuilder.boot_image.sign import make_signing_key

    public = make_signing_key(path)
    if as_json:
        click.echo(json.dumps({"key": os.fspath(path), "public_key": os.fspath(public)}))
        return
    click.echo(f"private key  {path} (keep it; whoever has it can boot anything on your boards)")
    click.echo(f"public key   {public}\n")
    click.echo(eeprom_text("<address of this server>", 7080, "<last 8 digits of the serial>", str(public)))


def _parse_model(text: str | None) -> BoardModel | None:
    if text is None:
        return None
    try:
        return BoardModel.parse(text)
    except BoardError as exc:
        raise click.BadParameter(f"{exc.message} {exc.hint}", param_hint="--board") from exc


def _choose(spec: ClusterSpec, names: tuple[str, ...], model: BoardModel | None) -> list[NodeSpec]:
    unknown = [name for name in names if spec.find_node(name) is None]
    if unknown:
        raise InputError(
            f"{spec.path}: there is no node {' and no node '.join(map(repr, unknown))}",
            suggest(unknown[0], (node.name for node in spec.nodes)),
        )
    wanted = [node for node in spec.nodes if not names or node.name in names]
    return [node for node in wanted if model is None or node.board is model]
