"""What small disks hold in place of stock systems: boot partition and root tree, one per first-boot dialect.

Names, texts and machinery are those of the stock images; programs and kernels are a few bytes long.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

SIGNATURE = 0x5AB1E0FF
BOOT = f"PARTUUID={SIGNATURE:08x}-01"
ROOT = f"PARTUUID={SIGNATURE:08x}-02"


def make_kernel(version: str = "6.12.0-test", *, page_code: int = 1, padding: int = 3000) -> bytes:
    """An arm64 kernel's header and banner. ``page_code`` 1: 4 KiB pages, 2: 16 KiB."""
    header = struct.pack("<IIQQQ", 0, 0, 0, 0, page_code << 1).ljust(56, b"\0") + b"ARM\x64"
    return header + bytes(padding) + f"Linux version {version} (a@b) #1\n".encode() + bytes(padding)


def make_elf(machine: int = 183) -> bytes:
    """The start of a 64-bit program for ``machine``."""
    return b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + machine.to_bytes(2, "little") + bytes(44)


@dataclass(frozen=True, kw_only=True)
class FakeSystem:
    """Files of both partitions by absolute path; root values that start with ``-> `` are links."""

    boot: Mapping[str, bytes]
    root: Mapping[str, str | bytes]
    boot_label: str = "bootfs"
    root_label: str = "rootfs"
    users: Mapping[str, str] = field(default_factory=dict)


_PI4_TREES = ("bcm2711-rpi-4-b.dtb", "bcm2711-rpi-400.dtb", "bcm2711-rpi-cm4.dtb")
_PI5_TREES = (
    "bcm2712-rpi-5-b.dtb",
    "bcm2712d0-rpi-5-b.dtb",
    "bcm2712-rpi-500.dtb",
    "bcm2712-rpi-cm5-cm5io.dtb",
    "bcm2712-rpi-cm5l-cm5io.dtb",
)
TREES = {name: b"\xd0\x0d\xfe\xed" for name in (*_PI4_TREES, *_PI5_TREES)}

_RASPIOS_CONFIG = (
    "dtparam=audio=on\ncamera_auto_detect=1\nauto_initramfs=1\ndtoverlay=vc4-kms-v3d\narm_64bit=1\n"
    "[cm4]\notg_mode=1\n[cm5]\ndtoverlay=dwc2,dr_mode=host\n[all]\n"
)
_UBUNTU_CONFIG = (
    "[all]\narm_64bit=1\nkernel=vmlinuz\ncmdline=cmdline.txt\ninitramfs initrd.img followkernel\n"
    "dtoverlay=vc4-kms-v3d\n[pi4]\nmax_framebuffers=2\n[cm4]\ndtoverlay=dwc2,dr_mode=host\n[all]\n"
)
_AB_CONFIG = f"[all]\nos_prefix=current/\n[tryboot]\nos_prefix=new/\n{_UBUNTU_CONFIG}"
_RASPIOS_CMDLINE = f"console=serial0,115200 console=tty1 root={ROOT} rootfstype=ext4 fsck.repair=yes rootwait"
_UBUNTU_CMDLINE = (
    "console=serial0,115200 multipath=off dwc_otg.lpm_enable=0 console=tty1 root=LABEL=writable "
    "rootfstype=ext4 rootwait fixrtc\n"
)
_RASPIOS_BOOT = {
    "config.txt": _RASPIOS_CONFIG.encode(),
    "kernel8.img": make_kernel("6.12.47+rpt-rpi-v8"),
    "initramfs8": b"initramfs for v8",
    "kernel_2712.img": make_kernel("6.12.47+rpt-rpi-2712", page_code=2),
    "initramfs_2712": b"initramfs for 2712",
    "overlays/README": b"overlays\n",
    **TREES,
}
_FSTAB = (
    f"proc /proc proc defaults 0 0\n{BOOT} /boot/firmware vfat defaults 0 2\n"
    f"{ROOT} / ext4 defaults,noatime 0 1\n"
)
_PASSWD = "root:x:0:0:root:/root:/bin/bash\nmessagebus:x:100:101::/nonexistent:/usr/sbin/nologin\n"
_SHADOW = "root:*:20000:0:99999:7:::\nmessagebus:!:20000::::::\n"
_GROUP = (
    "root:x:0:\nadm:x:4:\ntty:x:5:\nsudo:x:27:\naudio:x:29:\ndialout:x:20:\nvideo:x:44:\nplugdev:x:46:\n"
    "messagebus:x:101:\n"
)
_GSHADOW = (
    "root:*::\nadm:*::\ntty:*::\nsudo:*::\naudio:*::\ndialout:*::\nvideo:*::\nplugdev:*::\nmessagebus:!::\n"
)
_PI = {
    "etc/passwd": _PASSWD + "pi:x:1000:1000:,,,:/home/pi:/usr/sbin/nologin\n",
    "etc/shadow": _SHADOW + "pi:!:20000:0:99999:7:::\n",
    "etc/group": _GROUP.replace("sudo:x:27:\n", "sudo:x:27:pi\n") + "pi:x:1000:\n",
    "etc/gshadow": _GSHADOW.replace("sudo:*::", "sudo:*::pi") + "pi:!::\n",
    "home/pi/.bashrc": "# pi\n",
}


def _root(os_release: str, **files: str | bytes) -> dict[str, str | bytes]:
    return {
        "etc/os-release": os_release,
        "etc/hostname": "raspberrypi\n",
        "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 raspberrypi\n",
        "etc/localtime": "-> /usr/share/zoneinfo/Etc/UTC",
        "etc/timezone": "Etc/UTC\n",
        "usr/share/zoneinfo/Etc/UTC": b"TZif2",
        "usr/share/zoneinfo/Europe/Madrid": b"TZif2 Madrid",
        "var/lib/dpkg/status": (
            "Package: libc6\nStatus: install ok installed\nArchitecture: arm64\nVersion: 2.41\n\n"
        ),
        "usr/lib/systemd/system/ssh.service": "[Unit]\n[Install]\nWantedBy=multi-user.target\n",
        "usr/lib/modules/6.12.0-test/modules.dep": "",
        "usr/lib/systemd/systemd": make_elf(),
        "etc/passwd": _PASSWD,
        "etc/shadow": _SHADOW,
        "etc/group": _GROUP,
        "etc/gshadow": _GSHADOW,
        "usr/sbin/sfdisk": "sfdisk\n",
        **files,
    }


_DEBIAN_13 = (
    'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\nVERSION_CODENAME=trixie\nID=debian\n'
)
_DEBIAN_12 = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n'
)
_CLOUD_INIT = {"usr/bin/cloud-init": "cloud-init\n", "etc/cloud/cloud.cfg": "users: [default]\n"}
_SEED = {"user-data": b"#cloud-config\n", "meta-data": b"instance_id: x\n", "network-config": b"version: 2\n"}


def _ubuntu(codename: str, version: str) -> dict[str, str | bytes]:
    return _root(
        f'PRETTY_NAME="Ubuntu {version} LTS"\nVERSION_ID="{version}"\n'
        f"VERSION_CODENAME={codename}\nID=ubuntu\n",
        **_CLOUD_INIT,
        **{
            "etc/fstab": "LABEL=writable\t/\text4\tdefaults\t0\t1\n"
            "LABEL=system-boot\t/boot/firmware\tvfat\tdefaults\t0\t1\n",
            "etc/cloud/cloud.cfg.d/99-fake_cloud.cfg": "datasource_list: [ NoCloud, None ]\n",
        },
    )


SYSTEMS: Mapping[str, FakeSystem] = {
    "debian": FakeSystem(
        boot={
            "config.txt": b"kernel=kernel8.img\n[all]\narm_64bit=1\ninitramfs initramfs8 followkernel\n",
            "cmdline.txt": f"console=tty1 root={ROOT} rootfstype=ext4 fsck.repair=yes rootwait\n".encode(),
            "kernel8.img": make_kernel(padding=30_000),
            "initramfs8": bytes(range(256)) * 350,
            "overlays/a long file name.dtbo": b"overlay",
            **{name: b"\xd0\x0d\xfe\xed" for name in ("bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb")},
            **_SEED,
        },
        root=_root(_DEBIAN_13, **_CLOUD_INIT, **{"etc/fstab": _FSTAB}),
    ),
    "raspios-trixie": FakeSystem(
        boot={**_RASPIOS_BOOT, "cmdline.txt": f"{_RASPIOS_CMDLINE} resize\n".encode(), **_SEED},
        root=_root(
            _DEBIAN_13,
            **_CLOUD_INIT,
            **_PI,
            **{
                "etc/fstab": _FSTAB,
                "etc/rpi-issue": "Raspberry Pi reference 2025-11-24\n",
                "usr/lib/raspberrypi-sys-mods/regenerate_ssh_host_keys": "#!/bin/sh\n",
                "etc/rpi/swap.conf": "[Main]\n",
                "usr/lib/systemd/system/rpi-resize.service": "[Service]\nExecStart=/usr/bin/true\n",
            },
        ),
    ),
    "raspios-bookworm": FakeSystem(
        boot={
            **_RASPIOS_BOOT,
            "cmdline.txt": (
                f"{_RASPIOS_CMDLINE} quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n".encode()
            ),
        },
        root=_root(
            _DEBIAN_12,
            **_PI,
            **{
                "etc/fstab": _FSTAB,
                "etc/rpi-issue": "Raspberry Pi reference 2024-03-15\n",
                "usr/lib/raspberrypi-sys-mods/firstboot": "#!/bin/bash\n",
                "usr/lib/raspberrypi-sys-mods/imager_custom": "#!/bin/sh\n",
                "usr/lib/systemd/system/userconfig.service": "[Service]\n",
                "etc/dphys-swapfile": "CONF_SWAPSIZE=200\n",
                "usr/sbin/dphys-swapfile": "#!/bin/sh\n",
                "etc/NetworkManager/NetworkManager.conf": "[main]\n",
            },
        ),
    ),
    "rpi-preseed": FakeSystem(
        boot={**_RASPIOS_BOOT, "cmdline.txt": f"{_RASPIOS_CMDLINE} resize\n".encode()},
        root=_root(
            _DEBIAN_13,
            **_PI,
            **{
                "etc/fstab": _FSTAB,
                "etc/rpi-issue": "Raspberry Pi reference 2026-09-15\n",
                "usr/lib/systemd/system/rpi-preseed.service": (
                    "[Unit]\nConditionPathExists=/boot/firmware/rpi-preseed.toml\n[Service]\n"
                ),
                "etc/NetworkManager/NetworkManager.conf": "[main]\n",
            },
        ),
    ),
    "ubuntu": FakeSystem(
        boot={
            "config.txt": _UBUNTU_CONFIG.encode(),
            "cmdline.txt": _UBUNTU_CMDLINE.encode(),
            "vmlinuz": make_kernel("6.8.0-1013-raspi"),
            "initrd.img": b"initrd",
            "overlays/README": b"overlays\n",
            **TREES,
            **_SEED,
        },
        root=_ubuntu("noble", "24.04"),
        boot_label="system-boot",
        root_label="writable",
    ),
    "ubuntu-ab": FakeSystem(
        boot={
            "config.txt": _AB_CONFIG.encode(),
            "autoboot.txt": b"[all]\ntryboot_a_b=1\n",
            "current/cmdline.txt": _UBUNTU_CMDLINE.encode(),
            "current/vmlinuz": make_kernel("7.0.0-1002-raspi"),
            "current/initrd.img": b"initrd",
            "current/overlays/README": b"overlays\n",
            **{f"current/{name}": content for name, content in TREES.items()},
            **_SEED,
        },
        root=_ubuntu("resolute", "26.04"),
        boot_label="system-boot",
        root_label="writable",
    ),
}
"""Dialect (``ubuntu-ab`` for the layout with ``os_prefix``) → system."""
