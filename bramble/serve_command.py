"""`bramble serve CLUSTER.yaml`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from agent.notify import ServiceManager, parse_environment
from bramble.boot_sizes import warn_of_sizes
from bramble.ending import ended_by_sigterm
from bramble.paths import agent_package, apt_access, state_layout, store
from bramble.proofs import require_proven
from fleet.cli.names import cluster_file
from fleet.cli.places import STORE_VARIABLE
from fleet.printable import counted
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec, DhcpMode
from imagebuilder.build import Image, find_image
from imagebuilder.cli import ProgressLine, build_shown


@click.command()
@cluster_file
@click.option(
    "--proven-only", is_flag=True, help="Refuse an image that 'bramble build --prove' did not prove."
)
@click.option(
    "--store",
    "store_url",
    metavar="URL",
    envvar=STORE_VARIABLE,
    help="Keep the record in this PostgreSQL database (postgresql://user@host/database, no password in it).",
)
def serve(file: Path, proven_only: bool, store_url: str | None) -> None:
    """Boot, install, enrol and join the nodes of a cluster.yaml, until interrupted.

    The cluster's image is built first where it is not in the store. Ports 67 and 69 need root, or the
    capability cap_net_bind_service.

    The record of the fleet is a file of the state directory, or a PostgreSQL database that several servers
    may share. Its password comes from $PGPASSWORD, ~/.pgpass, or the file that '?passfile=' names.

    \b
    bramble serve
    bramble serve --store postgresql://bramble@db.attic.internal/bramble
    """
    with ended_by_sigterm():
        _serve(load_cluster(file), file, store_url, proven_only=proven_only)


def _serve(spec: ClusterSpec, file: Path, store_url: str | None, *, proven_only: bool) -> None:
    from bramble.image_store import CachedImages
    from bramble.serve import Server, serve_until_signal
    from pxe.server import PxeConfig

    state = state_layout(spec, store_url)
    # What is wrong with the network is said before an image is built.
    PxeConfig.from_spec(spec.network, spec.domain, state.directory, boards=len(spec.nodes))
    manager = parse_environment(dict(os.environ))
    manager.tell("STATUS=looking for the cluster's image, or building it")
    image = _image(spec, manager)
    warn_of_sizes(spec, image)
    if proven_only:
        require_proven(store(), image.id, file)
    server = Server(spec, image, state, CachedImages(store()), os.environ)

    def say_ready() -> None:
        click.echo(_ready_text(spec, image, server.control.url))
        manager.tell("READY=1", f"STATUS=serving {counted(len(spec.nodes), 'node')} of {spec.name}")

    asyncio.run(serve_until_signal(server, say_ready, manager))
    manager.tell("STOPPING=1")
    click.echo("stopped")


def _image(spec: ClusterSpec, manager: ServiceManager) -> Image:
    found = find_image(spec, store=store(), agent_package=agent_package(), apt=apt_access())
    if found is not None:
        return found
    click.echo("building the cluster's image (this happens once)", err=True)

    def tell(step: str) -> None:
        manager.tell(f"STATUS=building the cluster's image: {step}")

    with ProgressLine(show=True, on_step=tell) as line:
        return build_shown(spec, line)


def _ready_text(spec: ClusterSpec, image: Image, control_url: str) -> str:
    how = {
        DhcpMode.FULL: "gives addresses and boots boards",
        DhcpMode.PROXY: "boots boards beside the network's own DHCP server",
        DhcpMode.OFF: "answers TFTP and HTTP only; your DHCP server must send boards here: "
        "'bramble dhcp settings' prints how",
    }[spec.network.dhcp]
    return (
        f"{spec.name}: serving {counted(len(spec.nodes), 'node')} on {spec.network.interface}; {how}.\n"
        f"image {image.id[:12]}, control {control_url}\n"
        "Switch boards on. 'bramble nodes --watch' shows them."
    )
