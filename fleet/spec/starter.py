"""The starter file of `bramble init`: a small cluster that passes the check, a comment for each choice."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

STARTER_K3S_VERSION: Final = "v1.33.5+k3s1"
_PLACEHOLDER_SUBNET: Final = IPv4Network("192.168.86.0/24")
_PLACEHOLDER_GATEWAY: Final = IPv4Address("192.168.86.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterValues:
    """What the starter file is filled with; the defaults are the placeholders of the documentation."""

    name: str = "attic"
    interface: str = "eth0"
    subnet: IPv4Network = _PLACEHOLDER_SUBNET
    gateway: IPv4Address | None = _PLACEHOLDER_GATEWAY
    ssh_key: str | None = None
    timezone: str = "Etc/UTC"


def render_starter(values: StarterValues) -> str:
    """Write the file. Its only node has a placeholder MAC that the user replaces."""
    subnet = values.subnet
    example = _example_address(subnet, values.gateway)
    stem = values.name[:60].rstrip("-")
    has_router = values.gateway is not None
    gateway = f"gateway: {values.gateway}" if has_router else f"# gateway: {subnet[1]}"
    dns = f"dns: [{values.gateway}]" if has_router else f"# dns: [{subnet[1]}]"
    key = (
        f"[{_quoted(values.ssh_key)}]" if values.ssh_key else "[]   # paste the line of ~/.ssh/id_ed25519.pub"
    )
    return f"""\
# A cluster of Raspberry Pis, as Bramble builds it. Check this file with: bramble check FILE
# Secrets never stand here: Bramble makes the cluster's tokens and keys itself.
version: 1

cluster:
  name: {values.name}
  # Nodes are called <name>.<domain>. Default: {values.name}.internal
  # domain: {values.name}.internal
  k3s:
    # An exact release, so that every node runs the same: https://github.com/k3s-io/k3s/releases
    version: {STARTER_K3S_VERSION}
    # Where its files come from: 'upstream', a directory, or a URL of a mirror.
    source: upstream
    # A free address that the API answers on whichever server is up; worth it with three servers.
    # api_vip: {subnet[-2]}
    # Passed through to config.yaml of the servers.
    # config: {{disable: [traefik]}}

image:
  # From 'bramble base fetch': raspios-lite-trixie, raspios-lite-bookworm, ubuntu-26.04, ubuntu-24.04, …
  # From 'bramble base build': debian-trixie (its kernel lacks the Ethernet port of a Pi 5)
  # {{path: my.img}} or {{url: https://…, sha256: …}}
  base: raspios-lite-trixie
  # open-iscsi and nfs-common let pods mount volumes of a NAS. They are put into the image.
  packages: []
  user:
    name: pi
    ssh_authorized_keys: {key}
  timezone: {values.timezone}

network:
  # Where this machine meets the boards.
  interface: {values.interface}
  # proxy: beside the router's DHCP server · full: Bramble is the only DHCP server · off
  dhcp: {"proxy" if has_router else "full"}
  subnet: {subnet}
  {gateway}
  {dns}
  # Addresses for boards that have none below (dhcp: full).
  # pool: {subnet[-4] if subnet.num_addresses > 8 else subnet[-2]}-{subnet[-2]}

# What a node takes where it says nothing itself.
defaults:
  # The disk that Bramble erases and installs: nvme, sd (card or eMMC) or usb.
  disk: nvme

nodes:
  # One line per board. board: pi4, pi400, cm4, pi5, pi500, cm5, cm5-lite
  # role: server (holds etcd; one, or three to survive a failure) or agent
  # mac or serial say which board it is; the bootloader's screen shows both, and 'bramble nodes' lists
  # boards that tried to boot and are not in this file.
  - name: {stem}-1
    board: pi5
    role: server
    mac: "2c:cf:67:00:00:01"   # put the MAC of your board here
    address: {example}
  # The same on one line:
  # - {{name: {stem}-2, board: pi4, role: agent, serial: 10000000d03114aa, disk: sd}}

policy:
  # A board that is not in this file: hold (list it), refuse, or adopt (as the next node of its type).
  unknown_boards: hold
  # May a declared board install by itself? A server holds the keys of the whole cluster, so it waits for
  # 'bramble approve NODE'.
  first_boot: {{agent: trust-lan, server: approve}}
"""


def _example_address(subnet: IPv4Network, gateway: IPv4Address | None) -> IPv4Address:
    preferred = subnet[min(10, subnet.num_addresses - 2)]
    return preferred if preferred != gateway else subnet[int(preferred) - int(subnet[0]) - 1]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
