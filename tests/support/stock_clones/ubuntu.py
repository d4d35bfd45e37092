"""Ubuntu Server for the Raspberry Pi, preinstalled, arm64: 22.04, 24.04 and 26.04.

Open in the facts and chosen here: the length of 22.04's and 26.04's root partitions, that 22.04's boot
partition has 256 MiB, the signatures of 22.04 and 26.04, which ext4 features 24.04 has beyond 22.04's (none
here), the text of 26.04's config.txt beyond ``os_prefix`` and ``[tryboot]``, what autoboot.txt says (a
comment here), and the name of the file that points cloud-init at system-boot. apt's sources name
ports.ubuntu.com as Ubuntu's do; the keyring that they name is not here, tests bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stock_clones import debian
from stock_clones.plan import BootFiles, BootSources, ClonePlan, Layout
from stock_clones.raspios import TREES
from stock_clones.tree import Tree

CMDLINE_2204: Final = (
    "console=serial0,115200 dwc_otg.lpm_enable=0 console=tty1 root=LABEL=writable rootfstype=ext4 "
    "rootwait fixrtc quiet splash\n"
)
CMDLINE_2404: Final = (
    "console=serial0,115200 multipath=off dwc_otg.lpm_enable=0 console=tty1 root=LABEL=writable "
    "rootfstype=ext4 rootwait fixrtc\n"
)
FSTAB: Final = """\
LABEL=writable\t/\text4\tdiscard,errors=remount-ro\t0 1
LABEL=system-boot\t/boot/firmware\tvfat\tdefaults\t0 1
"""
CONFIG_TXT: Final = """\
[all]
kernel=vmlinuz
cmdline=cmdline.txt
initramfs initrd.img followkernel

[pi4]
max_framebuffers=2
arm_boost=1

[all]
# Enable the audio output, I2C and SPI interfaces on the GPIO header.
dtparam=audio=on
dtparam=i2c_arm=on
dtparam=spi=on
disable_overscan=1

[pi3+]
# Use a smaller contiguous memory area, specifically on the 3A+
dtoverlay=vc4-kms-v3d,cma-128

[pi02]
dtoverlay=vc4-kms-v3d,cma-128

[all]
# Config settings specific to arm64
arm_64bit=1
dtoverlay=dwc2

[cm4]
# Enable the USB2 outputs on the IO board
dtoverlay=dwc2,dr_mode=host

[all]
"""
CONFIG_TXT_AB: Final = (
    "# The assets that the last good boot used are in current/, those to be tried in new/.\n"
    "os_check=0\n\n[all]\nos_prefix=current/\n\n[tryboot]\nos_prefix=new/\n\n" + CONFIG_TXT
)
META_DATA: Final = "dsmode: local\ninstance_id: cloud-image\n"
NETWORK_CONFIG: Final = """\
# The wired port uses DHCP and need not be connected.
network:
  version: 2

  ethernets:
    eth0:
      dhcp4: true
      optional: true
"""
USER_DATA_2204: Final = """\
#cloud-config
# On first boot, set the (default) ubuntu user's password to "ubuntu" and expire it
chpasswd:
  expire: true
  list:
  - ubuntu:ubuntu

# Enable password authentication with the SSH daemon
ssh_pwauth: true
"""
USER_DATA_2404: Final = """\
#cloud-config
# On first boot, set the (default) ubuntu user's password to "ubuntu" and expire it
chpasswd:
  expire: true
  users:
  - name: ubuntu
    password: ubuntu
    type: text

# Password authentication with the SSH daemon stays off
ssh_pwauth: false
"""
OS_RELEASE: Final = """\
PRETTY_NAME="Ubuntu {point} LTS"
NAME="Ubuntu"
VERSION_ID="{version}"
VERSION="{point} LTS ({title})"
VERSION_CODENAME={codename}
ID=ubuntu
ID_LIKE=debian
HOME_URL="https://www.ubuntu.com/"
SUPPORT_URL="https://help.ubuntu.com/"
BUG_REPORT_URL="https://bugs.launchpad.net/ubuntu/"
UBUNTU_CODENAME={codename}
"""
LSB_RELEASE: Final = """\
DISTRIB_ID=Ubuntu
DISTRIB_RELEASE={version}
DISTRIB_CODENAME={codename}
DISTRIB_DESCRIPTION="Ubuntu {point} LTS"
"""
FAKE_CLOUD: Final = """\
# The seed is on the partition labelled system-boot.
datasource_list: [ NoCloud, None ]
datasource:
  NoCloud:
    fs_label: system-boot
"""
SOURCES_LIST: Final = """\
deb http://ports.ubuntu.com/ubuntu-ports {codename} main restricted universe multiverse
# deb-src http://ports.ubuntu.com/ubuntu-ports {codename} main restricted universe multiverse
deb http://ports.ubuntu.com/ubuntu-ports {codename}-updates main restricted universe multiverse
deb http://ports.ubuntu.com/ubuntu-ports {codename}-security main restricted universe multiverse
"""
KEYRING: Final = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
UBUNTU_SOURCES: Final = f"""\
# The archive, and what was changed in it after the release.
Types: deb
URIs: http://ports.ubuntu.com/ubuntu-ports/
Suites: {{codename}} {{codename}}-updates {{codename}}-backports
Components: main universe restricted multiverse
Signed-By: {KEYRING}

## Security updates come from the same place on this architecture.
Types: deb
URIs: http://ports.ubuntu.com/ubuntu-ports/
Suites: {{codename}}-security
Components: main universe restricted multiverse
Signed-By: {KEYRING}
"""
MOVED: Final = "# Ubuntu sources have moved to /etc/apt/sources.list.d/ubuntu.sources\n"
DEB822: Final = {"/etc/apt/sources.list": MOVED, "/etc/apt/sources.list.d/ubuntu.sources": UBUNTU_SOURCES}
DPKG_CFG: Final = (
    "# to update this file, run dpkg-reconfigure cloud-init\ndatasource_list: [ NoCloud, None ]\n"
)
PACKAGES: Final = {"ubuntu-server-raspi": "1.500", "flash-kernel": "3.107ubuntu13"}
BOOT_START: Final = 2048
BOOTARGS: Final = "coherent_pool=1M 8250.nr_uarts=1"
DEFAULT_USER: Final = """\
   default_user:
     name: ubuntu
     lock_passwd: True
     gecos: Ubuntu
     groups: [adm, cdrom, dip, lxd, sudo]
     sudo: ["ALL=(ALL) NOPASSWD:ALL"]
     shell: /bin/bash
   network:
     renderers: ['netplan', 'eni', 'sysconfig', 'networkd']
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What differs between the releases' root filesystems. ``sources``: path → apt's sources."""

    version: str
    point: str
    codename: str
    title: str
    packages: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=lambda: DEB822)


def _assets(sources: BootSources, prefix: str, cmdline: str) -> dict[str, bytes | Path]:
    return {
        **{f"{prefix}{name}": sources.tree(name) for name in TREES},
        **{f"{prefix}overlays/{name}": content for name, content in sources.overlays.items()},
        f"{prefix}overlays/README": b"Stand-in: the overlays of the vendor's kernel are not in this image.\n",
        f"{prefix}vmlinuz": sources.kernel,
        f"{prefix}initrd.img": sources.initramfs,
        f"{prefix}cmdline.txt": cmdline.encode(),
    }


def _firmware(sources: BootSources) -> dict[str, bytes | Path]:
    return {name: path for name, path in sources.firmware.items() if not name.endswith(".dtb")}


def _seed(user_data: str) -> dict[str, bytes | Path]:
    return {
        "meta-data": META_DATA.encode(),
        "network-config": NETWORK_CONFIG.encode(),
        "user-data": user_data.encode(),
        "README": b"Stand-in for the boot partition of Ubuntu Server.\n",
    }


def _boot(cmdline: str, user_data: str) -> Callable[[Layout, BootSources], BootFiles]:
    def files(layout: Layout, sources: BootSources) -> BootFiles:
        config = {"config.txt": CONFIG_TXT.encode()}
        return {**_firmware(sources), **_assets(sources, "", cmdline), **_seed(user_data), **config}

    return files


def _boot_2604(layout: Layout, sources: BootSources) -> BootFiles:
    return {
        **_firmware(sources),
        **_assets(sources, "current/", CMDLINE_2404),
        **_seed(USER_DATA_2404),
        "config.txt": CONFIG_TXT_AB.encode(),
        "autoboot.txt": b"# Stand-in: the partition to boot from is this one.\n",
        "current/state": b"good\n",
    }


def _root(release: Release) -> Callable[[Layout, Tree], None]:
    def change(layout: Layout, tree: Tree) -> None:
        debian.neutralise(tree)
        debian.remove_user(tree, "pi")
        debian.add_group(tree, "lxd", 105)
        debian.add_group(tree, "netdev", 106)
        words = {"version": release.version, "point": release.point, "codename": release.codename}
        tree.put("/usr/lib/os-release", OS_RELEASE.format(**words, title=release.title))
        tree.put("/etc/lsb-release", LSB_RELEASE.format(**words))
        tree.put("/etc/fstab", FSTAB)
        tree.put("/etc/hostname", "ubuntu\n")
        tree.put(
            "/etc/hosts", "127.0.0.1 localhost\n\n::1 ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\n"
        )
        tree.remove("/etc/apt/sources.list.d/debian.sources")
        for path, text in release.sources.items():
            tree.put(path, text.format(codename=release.codename))
        tree.edit("/etc/cloud/cloud.cfg", _cloud_cfg)
        tree.put("/etc/cloud/cloud.cfg.d/90_dpkg.cfg", DPKG_CFG)
        tree.put("/etc/cloud/cloud.cfg.d/99-fake_cloud.cfg", FAKE_CLOUD)
        hosts = tree.read("/etc/cloud/templates/hosts.debian.tmpl")
        tree.put("/etc/cloud/templates/hosts.ubuntu.tmpl", hosts)
        for name, version in {**PACKAGES, **release.packages}.items():
            tree.package(name, version)

    return change


def _cloud_cfg(text: str) -> str:
    """Debian's cloud.cfg with Ubuntu's distribution and account."""
    head, _, rest = text.partition("   default_user:\n")
    tail = rest[rest.index("   # Other config here") :]
    return head.replace("distro: debian", "distro: ubuntu") + DEFAULT_USER + tail


def _layout(
    *, signature: int, boot_sectors: int = 1_048_576, root_sectors: int, disk_sectors: int, ext4_features: str
) -> Layout:
    return Layout(
        signature=signature,
        boot_start=BOOT_START,
        boot_sectors=boot_sectors,
        root_start=BOOT_START + boot_sectors,
        root_sectors=root_sectors,
        disk_sectors=disk_sectors,
        boot_active=True,
        fat_label="system-boot",
        cluster_sectors=None,
        ext4_label="writable",
        ext4_features=ext4_features,
        ext4_64bit=True,
    )


JAMMY: Final = ClonePlan(
    name="ubuntu-22.04",
    file_name="ubuntu-22.04.5-preinstalled-server-arm64+raspi.img",
    layout=_layout(
        signature=0x2B41C0DE,
        boot_sectors=524_288,
        root_sectors=6_553_600,
        disk_sectors=7_079_936,
        ext4_features="^orphan_file,^metadata_csum_seed,huge_file",
    ),
    boot=_boot(CMDLINE_2204, USER_DATA_2204),
    root=_root(
        Release(
            version="22.04",
            point="22.04.5",
            codename="jammy",
            title="Jammy Jellyfish",
            packages={"linux-image-5.15.0-1061-raspi": "5.15.0-1061.64"},
            sources={"/etc/apt/sources.list": SOURCES_LIST},
        )
    ),
    bootargs=BOOTARGS,
)

NOBLE: Final = ClonePlan(
    name="ubuntu-24.04",
    file_name="ubuntu-24.04.4-preinstalled-server-arm64+raspi.img",
    # The image is longer than its partitions, and the root's length is no multiple of 4 KiB.
    layout=_layout(
        signature=0x1634EC00,
        root_sectors=6_196_636,
        disk_sectors=7_280_640,
        ext4_features="^orphan_file,^metadata_csum_seed,huge_file",
    ),
    boot=_boot(CMDLINE_2404, USER_DATA_2404),
    root=_root(
        Release(
            version="24.04",
            point="24.04.4",
            codename="noble",
            title="Noble Numbat",
            packages={"linux-image-6.8.0-1010-raspi": "6.8.0-1010.11"},
        )
    ),
    bootargs=BOOTARGS,
)

RESOLUTE: Final = ClonePlan(
    name="ubuntu-26.04",
    file_name="ubuntu-26.04.1-preinstalled-server-arm64+raspi.img",
    layout=_layout(
        signature=0x3C9D27A1,
        root_sectors=7_340_032,
        disk_sectors=8_390_656,
        ext4_features="huge_file",
    ),
    boot=_boot_2604,
    root=_root(
        Release(
            version="26.04",
            point="26.04.1",
            codename="resolute",
            title="Resolute Raccoon",
            packages={"linux-image-7.0.0-1005-raspi": "7.0.0-1005.5", "piboot-try": "1.0"},
        )
    ),
    bootargs=BOOTARGS,
)
