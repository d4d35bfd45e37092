"""Raspberry Pi OS Lite, arm64: trixie (2025-12, cloud-init) and bookworm (2024-03, firstboot, custom.toml).

Open in the facts and chosen here: the texts of the vendor's scripts (written anew under ``node/``), in which
unit trixie's first boot does its work (in the original an initramfs script, here a service after the root is
mounted), that a preset keeps ssh off at first boot, and the contents of rpi-cloud-init-mods.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from imagebuilder.cpio import encode_archive, pad, regular
from stock_clones import debian
from stock_clones.plan import BootFiles, BootSources, ClonePlan, Layout
from stock_clones.tree import Tree

NODE: Final = Path(__file__).with_name("node")
TRIXIE_DATE: Final = "2025-12-04"
BOOKWORM_DATE: Final = "2024-03-15"
SYS_MODS: Final = "/usr/lib/raspberrypi-sys-mods"

TREES: Final = (
    "bcm2711-rpi-4-b.dtb",
    "bcm2711-rpi-400.dtb",
    "bcm2711-rpi-cm4.dtb",
    "bcm2712-rpi-5-b.dtb",
    "bcm2712d0-rpi-5-b.dtb",
    "bcm2712-rpi-500.dtb",
    "bcm2712-rpi-cm5-cm5io.dtb",
    "bcm2712-rpi-cm5l-cm5io.dtb",
)

CONFIG_TXT: Final = """\
# For more options and information see
# http://rptl.io/configtxt

#dtparam=i2c_arm=on
#dtparam=spi=on
dtparam=audio=on
camera_auto_detect=1
display_auto_detect=1
auto_initramfs=1
dtoverlay=vc4-kms-v3d
max_framebuffers=2
disable_fw_kms_setup=1
arm_64bit=1
disable_overscan=1
arm_boost=1

[cm4]
otg_mode=1

[cm5]
dtoverlay=dwc2,dr_mode=host
{pi5}
[all]
"""
PI5: Final = "\n[pi5]\ndtoverlay=nospi10\n"

ISSUE: Final = """\
Raspberry Pi reference {date}
Generated using pi-gen, https://github.com/RPi-Distro/pi-gen, stand-in for tests, stage2
"""

TRIXIE_CMDLINE: Final = (
    "console=serial0,115200 console=tty1 root=PARTUUID={root} rootfstype=ext4 fsck.repair=yes "
    "rootwait resize\n"
)
BOOKWORM_CMDLINE: Final = (
    "console=serial0,115200 console=tty1 root=PARTUUID={root} rootfstype=ext4 fsck.repair=yes rootwait quiet "
    "init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
)
FSTAB: Final = """\
proc            /proc           proc    defaults          0       0
PARTUUID={boot}  /boot/firmware  vfat    defaults          0       2
PARTUUID={root}  /               ext4    defaults,noatime  0       1
"""
META_DATA: Final = "dsmode: local\ninstance_id: rpios-image\n"
NETWORK_CONFIG: Final = """\
# Network settings for cloud-init, none of them active.
#network:
#  version: 2
#  ethernets:
#    eth0:
#      dhcp4: true
#      optional: true
"""
USER_DATA: Final = """\
#cloud-config

# Settings for the first boot, none of them active.
#hostname: raspberrypi
#users:
#- name: pi
"""
CLOUD_CFG: Final = """\
datasource_list: [ NoCloud, None ]
datasource:
  NoCloud:
    seedfrom: file:///boot/firmware
ssh:
  emit_keys_to_console: false
no_ssh_fingerprints: true
ssh_deletekeys: false
ssh_genkeytypes: []
"""
SSHSWITCH: Final = """\
[Unit]
Description=Turn on SSH if /boot/firmware/ssh is there (stand-in)
ConditionPathExistsGlob=/boot/firmware/ssh{,.txt}
After=regenerate_ssh_host_keys.service

[Service]
Type=oneshot
ExecStart=/bin/sh -c "systemctl enable --now ssh && rm -f /boot/firmware/ssh /boot/firmware/ssh.txt"

[Install]
WantedBy=multi-user.target
"""
RESIZE: Final = """\
[Unit]
Description=Pull in the growth of the root filesystem (stand-in; the initramfs has done the work)

[Service]
Type=oneshot
ExecStart=/usr/bin/true

[Install]
WantedBy=multi-user.target
"""
LOCAL_BOTTOM: Final = """\
/scripts/local-bottom/set_partuuid "$@"
[ -e /conf/param.conf ] && . /conf/param.conf
"""
NETWORK_MANAGER: Final = """\
[Unit]
Description=Network Manager (stand-in: systemd-networkd with NetworkManager's files)
Before=systemd-networkd.service network-pre.target
Wants=systemd-networkd.service
After=local-fs.target
DefaultDependencies=no

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/NetworkManager/stand-in

[Install]
WantedBy=multi-user.target
"""
BOOTARGS: Final = "coherent_pool=1M 8250.nr_uarts=1 cgroup_disable=memory numa_policy=interleave"
"""The vendor's device trees turn the memory cgroup off; the command line has the last word."""
GROUPS: Final = (("netdev", 106), ("gpio", 984), ("i2c", 985), ("spi", 986))
USER_GROUPS: Final = (
    "adm",
    "dialout",
    "cdrom",
    "sudo",
    "audio",
    "video",
    "plugdev",
    "games",
    "users",
    "input",
    "render",
    "netdev",
    "gpio",
    "i2c",
    "spi",
)


def _boot(
    layout: Layout, sources: BootSources, initramfs: bytes | Path, cmdline: str, config: str, date: str
) -> dict[str, bytes | Path]:
    return {
        **{name: path for name, path in sources.firmware.items() if not name.endswith(".dtb")},
        **{name: sources.tree(name) for name in TREES},
        **{f"overlays/{name}": content for name, content in sources.overlays.items()},
        "overlays/README": b"Stand-in: the overlays of the vendor's kernel are not part of this image.\n",
        "kernel8.img": sources.kernel,
        "kernel_2712.img": sources.kernel_16k,
        "initramfs8": initramfs,
        "initramfs_2712": initramfs,
        "cmdline.txt": cmdline.format(root=layout.partuuid(2)).encode(),
        "config.txt": config.encode(),
        "issue.txt": ISSUE.format(date=date).encode(),
    }


def _with_resize(sources: BootSources) -> bytes:
    """The initramfs with the script that the word ``resize`` arms; it works through the root's own
    programs."""
    script = (NODE / "set_partuuid.sh").read_bytes()
    entries = [
        regular("scripts/local-bottom/ORDER", LOCAL_BOTTOM.encode()),
        regular("scripts/local-bottom/set_partuuid", script, 0o755),
    ]
    return pad(sources.initramfs.read_bytes()) + encode_archive(entries, 1_700_000_000)


def _boot_trixie(layout: Layout, sources: BootSources) -> BootFiles:
    return {
        **_boot(
            layout, sources, _with_resize(sources), TRIXIE_CMDLINE, CONFIG_TXT.format(pi5=PI5), TRIXIE_DATE
        ),
        "meta-data": META_DATA.encode(),
        "network-config": NETWORK_CONFIG.encode(),
        "user-data": USER_DATA.encode(),
    }


def _boot_bookworm(layout: Layout, sources: BootSources) -> BootFiles:
    return _boot(
        layout, sources, sources.initramfs, BOOKWORM_CMDLINE, CONFIG_TXT.format(pi5=""), BOOKWORM_DATE
    )


def _root(layout: Layout, tree: Tree, date: str) -> None:
    """What both releases have in common."""
    debian.neutralise(tree)
    tree.put("/etc/fstab", FSTAB.format(boot=layout.partuuid(1), root=layout.partuuid(2)))
    tree.put("/etc/hostname", "raspberrypi\n")
    tree.put("/etc/rpi-issue", ISSUE.format(date=date))
    tree.put("/boot/cmdline.txt", "DO NOT EDIT THIS FILE\n\nThe file you are looking for has moved to "
                                  "/boot/firmware/cmdline.txt\n")  # fmt: skip
    tree.put("/boot/config.txt", "DO NOT EDIT THIS FILE\n\nThe file you are looking for has moved to "
                                 "/boot/firmware/config.txt\n")  # fmt: skip
    for group, number in GROUPS:
        debian.add_group(tree, group, number)
    debian.join_groups(tree, "pi", USER_GROUPS)
    debian.disable_ssh(tree)
    tree.put("/usr/lib/systemd/system/sshswitch.service", SSHSWITCH)
    tree.enable("sshswitch.service")
    tree.put(
        "/usr/lib/systemd/system-preset/80-raspberrypi.preset", "disable ssh.service\ndisable ssh.socket\n"
    )
    tree.put("/usr/lib/userconf-pi/userconf", (NODE / "userconf.sh").read_text(), mode=0o755)
    tree.package("userconf-pi", "0.10", ["/usr/lib/userconf-pi/userconf"])
    tree.package("raspberrypi-net-mods", "1.4.3")
    tree.put("/usr/lib/NetworkManager/stand-in", (NODE / "network_manager.py").read_text(), mode=0o755)
    tree.put("/usr/lib/systemd/system/NetworkManager.service", NETWORK_MANAGER)
    tree.enable("NetworkManager.service")
    tree.directory("/etc/NetworkManager/system-connections", mode=0o700)
    tree.package("network-manager", "1.52.1-1", ["/usr/lib/NetworkManager/stand-in"])
    # NetworkManager's own wait ends with the first connection.
    tree.put(
        "/usr/lib/systemd/system/systemd-networkd-wait-online.service.d/stand-in.conf",
        "[Service]\nExecStart=\nExecStart=/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=60\n",
    )


def _root_trixie(layout: Layout, tree: Tree) -> None:
    _root(layout, tree, TRIXIE_DATE)
    debian.set_shell(tree, "pi", "/usr/sbin/nologin")
    tree.put("/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg", CLOUD_CFG)
    tree.put(
        "/usr/lib/systemd/system/cloud-init-main.service.d/rpi-boot-partition.conf",
        "# Stand-in for rpi-cloud-init-mods: the seed is on the boot partition.\n"
        "[Unit]\nRequiresMountsFor=/boot/firmware\n",
    )
    tree.put(f"{SYS_MODS}/resize", (NODE / "resize.sh").read_text(), mode=0o755)
    tree.put("/usr/lib/systemd/system/rpi-resize.service", RESIZE)
    tree.enable("rpi-resize.service")
    tree.put("/etc/rpi/swap.conf", "# Stand-in for rpi-swap's settings.\n[Main]\n#Mechanism=auto\n")
    tree.package("raspberrypi-sys-mods", "20251121", [f"{SYS_MODS}/resize"])
    tree.package("rpi-cloud-init-mods", "0.0.10", ["/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg"])
    tree.package("rpi-swap", "1.3", ["/etc/rpi/swap.conf"])
    tree.package("linux-image-rpi-v8", "1:6.12.47-1+rpt1")
    tree.package("linux-image-rpi-2712", "1:6.12.47-1+rpt1")


def _root_bookworm(layout: Layout, tree: Tree) -> None:
    _root(layout, tree, BOOKWORM_DATE)
    debian.remove_cloud_init(tree)
    tree.put("/usr/lib/os-release", debian.OS_RELEASE_BOOKWORM)
    tree.put("/etc/debian_version", "12.5\n")
    tree.put(f"{SYS_MODS}/firstboot", (NODE / "firstboot.py").read_text(), mode=0o755)
    tree.put(f"{SYS_MODS}/imager_custom", (NODE / "imager_custom.sh").read_text(), mode=0o755)
    tree.put("/etc/dphys-swapfile", "# Stand-in for dphys-swapfile's settings.\nCONF_SWAPSIZE=512\n")
    tree.package("raspberrypi-sys-mods", "20240222", [f"{SYS_MODS}/firstboot", f"{SYS_MODS}/imager_custom"])
    tree.package("dphys-swapfile", "20100506-7+rpt1", ["/etc/dphys-swapfile"])
    tree.package("linux-image-rpi-v8", "1:6.6.20-1+rpt1")
    tree.package("linux-image-rpi-2712", "1:6.6.20-1+rpt1")


TRIXIE: Final = ClonePlan(
    name="raspios-lite-trixie",
    file_name="2025-12-04-raspios-trixie-arm64-lite.img",
    # 8 MiB alignment (from 2025-03-12), one sector per cluster, features of mke2fs 1.47.
    layout=Layout(
        signature=0x8A3C51E7,
        boot_start=16384,
        boot_sectors=1_048_576,
        root_start=1_064_960,
        root_sectors=4_947_968,
        disk_sectors=6_012_928,
        fat_label="bootfs",
        cluster_sectors=1,
        ext4_label="rootfs",
    ),
    boot=_boot_trixie,
    root=_root_trixie,
    bootargs=BOOTARGS,
)

BOOKWORM: Final = ClonePlan(
    name="raspios-lite-bookworm",
    file_name="2024-03-15-raspios-bookworm-arm64-lite.img",
    # 4 MiB alignment, four sectors per cluster; bookworm's mke2fs makes neither orphan_file nor a checksum
    # seed.
    layout=Layout(
        signature=0x4E639091,
        boot_start=8192,
        boot_sectors=1_048_576,
        root_start=1_056_768,
        root_sectors=4_349_952,
        disk_sectors=5_406_720,
        fat_label="bootfs",
        cluster_sectors=4,
        ext4_label="rootfs",
        ext4_features="^orphan_file,^metadata_csum_seed",
    ),
    boot=_boot_bookworm,
    root=_root_bookworm,
    bootargs=BOOTARGS,
)
