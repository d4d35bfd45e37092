"""The units of the service. Pure: values in, text out.

The server needs two capabilities (ports below 1024; raw ARP and DHCP replies to boards without an address)
and nothing else of root's. What is left out of the sandbox, and why:

    PrivateNetwork, IPAddressDeny       it is a network service for a whole LAN
    RootDirectory, PrivateUsers         over the host's network a user namespace's capabilities are none
    ProtectHome=yes                     a program installed below /home: read-only instead

Installing packages into an image needs user namespaces and set-uid helpers (newuidmap), so that is a unit of
its own without capabilities: `bramble-build.service`.
Source: systemd.exec(5), systemd.service(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.cli.names import SERVICE_FILE
from fleet.cli.places import SERVICE_STATE

USER: Final = "bramble"
UNIT: Final = "bramble.service"
BUILD_UNIT: Final = "bramble-build.service"
STATE: Final = SERVICE_STATE
CACHE: Final = Path("/var/cache/bramble")
CLUSTER: Final = SERVICE_FILE
SETTINGS: Final = Path("/etc/default/bramble")
NODE: Final = Path("/etc/bramble/node.json")
"""What makes a machine a node: its agent keeps its keys in `STATE` too, so no server runs there."""
HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./+:@,=")
"""Characters that a word of ExecStart= needs no quotes for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """What differs between machines.

    Attributes:
        program: The installed `bramble`, absolute.
        cluster: The cluster.yaml that is served, absolute.
    """

    program: Path
    cluster: Path

    @property
    def is_below_home(self) -> bool:
        return any(path.is_relative_to(home) for path in (self.program, self.cluster) for home in HOMES)


def quoted(word: str) -> str:
    """One word of a command line. Source: systemd.service(5), "Command lines"."""
    if word and set(word) <= _BARE:
        return word
    inner = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{inner}"'


def render_unit(spec: ServiceSpec) -> str:
    """`bramble.service`."""
    return f"""\
# Written by 'bramble service install'. Own settings: 'systemctl edit {USER}'.
[Unit]
Description=Bramble: network boot, installation and care of Raspberry Pi nodes
Wants=network-online.target
After=network-online.target time-sync.target postgresql.service
ConditionPathExists={str(spec.cluster).replace("%", "%%")}
ConditionPathExists=!{NODE}
StartLimitIntervalSec=600
StartLimitBurst=10

[Service]
Type=notify
NotifyAccess=main
ExecStart={quoted(str(spec.program))} serve {quoted(str(spec.cluster))}
{_common(spec)}
# The image is built at the first start, where it is not there yet.
TimeoutStartSec=30min
TimeoutStopSec=30s
WatchdogSec=2min
Restart=on-failure
RestartSec=5s
RestartPreventExitStatus=2

AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_RAW
CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_NET_RAW
NoNewPrivileges=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateIPC=yes
RemoveIPC=yes
ProtectProc=invisible
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def render_build_unit(spec: ServiceSpec) -> str:
    """`bramble-build.service`: builds the image that the service will serve, as the same user."""
    return f"""\
# Written by 'bramble service install'. After a change of cluster.yaml:
#   systemctl start {BUILD_UNIT} && systemctl restart {UNIT}
[Unit]
Description=Bramble: build the image of {str(spec.cluster).replace("%", "%%")}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={quoted(str(spec.program))} build {quoted(str(spec.cluster))}
{_common(spec)}
TimeoutStartSec=2h
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
"""


def _common(spec: ServiceSpec) -> str:
    return f"""\
User={USER}
Group={USER}
UMask=0077
StateDirectory={STATE.name}
StateDirectoryMode=0700
CacheDirectory={CACHE.name}
CacheDirectoryMode=0700
WorkingDirectory={STATE}
Environment=HOME={STATE}
Environment=BRAMBLE_STATE_DIR={STATE}
Environment=BRAMBLE_CACHE_DIR={CACHE}
EnvironmentFile=-{SETTINGS}
SyslogIdentifier={USER}
PrivateTmp=yes
ProtectSystem=strict
ProtectHome={"read-only" if spec.is_below_home else "yes"}"""
