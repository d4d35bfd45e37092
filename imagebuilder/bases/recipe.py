"""What a Debian base consists of, and the id that follows from it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

RECIPE_VERSION: Final = 1
"""Raise it when code changes what comes out of a build: only the recipe and its data files show in the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianRecipe:
    """Inputs of a base made from Debian's own packages."""

    name: str
    suite: str
    extra_suites: tuple[str, ...]
    components: tuple[str, ...]
    architecture: str
    packages: tuple[str, ...]

    def entry_id(self, data: Mapping[str, bytes]) -> str:
        """The content id: name and 16 hex digits over everything that the base depends on, archives excepted.

        Args:
            data: relative path → content of the scripts and files that go into the base.
        """
        inputs = {
            "version": RECIPE_VERSION,
            "recipe": asdict(self),
            "data": {path: hashlib.sha256(content).hexdigest() for path, content in sorted(data.items())},
        }
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:16]}"


DEBIAN_TRIXIE: Final = DebianRecipe(
    name="debian-trixie",
    suite="trixie",
    extra_suites=("trixie-updates", "trixie-security"),
    components=("main", "non-free-firmware"),
    architecture="arm64",
    packages=(
        # boot: kernel, initramfs, the boards' firmware
        "linux-image-arm64",
        "raspi-firmware",
        "initramfs-tools",
        "busybox",
        "kmod",
        "zstd",
        # system
        "systemd-sysv",
        "systemd-resolved",
        "systemd-timesyncd",
        "libpam-systemd",
        "udev",
        "dbus",
        "apt",
        "sudo",
        "netbase",
        "ca-certificates",
        # first boot
        "cloud-init",
        "cloud-guest-utils",
        "fdisk",
        "e2fsprogs",
        "dosfstools",
        # the agent, and people
        "python3",
        "openssl",
        "openssh-server",
        "openssh-client",
        "procps",
        "less",
        "iproute2",
        "iputils-ping",
        # k3s: kube-proxy, flannel and the network policy controller call these
        "iptables",
        "nftables",
        "ipset",
        "conntrack",
    ),
)
