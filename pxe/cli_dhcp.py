"""`bramble dhcp`: help with DHCP servers that are not Bramble's."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import click

from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import cluster_file
from fleet.spec import load_cluster
from pxe.dhcp_guide.render import DhcpServerKind, make_guide, render_guide
from pxe.net.interfaces import require_interface


@click.group(cls=HelpfulGroup)
def dhcp() -> None:
    """Help with DHCP servers that are not Bramble's."""


@dhcp.command()
@cluster_file
@click.option(
    "--for",
    "kinds",
    type=click.Choice([kind.value for kind in DhcpServerKind]),
    multiple=True,
    help="Which server. May be repeated. Default: all of them.",
)
@click.option("--server", metavar="ADDRESS", help="The boot server's address. Default: this machine's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: server → settings.")
def settings(file: Path, kinds: tuple[str, ...], server: str | None, as_json: bool) -> None:
    """Print what your own DHCP server has to be told, for 'dhcp: off'.

    \b
    bramble dhcp settings --for dnsmasq > /etc/dnsmasq.d/bramble.conf
    bramble dhcp settings cluster.yaml --for kea --server 192.168.86.10
    """
    spec = load_cluster(file)
    guide = make_guide(spec, _address(server) or spec.network.server_address or _own(spec.network.interface))
    chosen = [DhcpServerKind(kind) for kind in kinds] or list(DhcpServerKind)
    texts = {kind: render_guide(kind, guide) for kind in chosen}
    if as_json:
        click.echo(json.dumps({kind.value: text for kind, text in texts.items()}, indent=2))
        return
    for kind, text in texts.items():
        if len(texts) > 1:
            click.secho(f"--- {kind.product}", bold=True)
        click.echo(text, nl=len(texts) > 1)


def _address(text: str | None) -> IPv4Address | None:
    if text is None:
        return None
    try:
        return IPv4Address(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is no IPv4 address", param_hint="--server") from exc


def _own(interface: str) -> IPv4Address:
    return require_interface(interface).address
