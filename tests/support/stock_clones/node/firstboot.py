#!/usr/bin/python3
"""Stand-in for raspberrypi-sys-mods' firstboot of Raspberry Pi OS bookworm, written for test images.

The kernel starts it as the first process, on a root that is mounted read-only. It applies
/boot/firmware/custom.toml, gives the disk a new signature (fstab and cmdline.txt follow), takes itself off
the command line and reboots.
"""

import re
import secrets
import subprocess
import tomllib
from pathlib import Path
from typing import Any

BOOT = Path("/boot/firmware")
SYS_MODS = "/usr/lib/raspberrypi-sys-mods"


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def apply(settings: dict[str, Any]) -> None:
    if settings.get("config_version") != 1:
        raise ValueError("custom.toml: config_version is not 1")
    system, user, ssh, locale = (settings.get(name, {}) for name in ("system", "user", "ssh", "locale"))
    if name := user.get("name"):
        password = user.get("password", "*")
        if not user.get("password_encrypted"):
            password = run("openssl", "passwd", "-6", password)
        run("/usr/lib/userconf-pi/userconf", name, password)
    if hostname := system.get("hostname"):
        run(f"{SYS_MODS}/imager_custom", "set_hostname", hostname)
    if keys := ssh.get("authorized_keys"):
        run(f"{SYS_MODS}/imager_custom", "enable_ssh", "-k", *keys)
    elif ssh.get("enabled"):
        run(f"{SYS_MODS}/imager_custom", "enable_ssh")
    if zone := locale.get("timezone"):
        run(f"{SYS_MODS}/imager_custom", "set_timezone", zone)


def new_signature() -> str:
    partition = run("findmnt", "-n", "-o", "SOURCE", "/")
    disk = "/dev/" + run("lsblk", "-n", "-d", "-o", "PKNAME", partition)
    old = run("sfdisk", "--disk-id", disk).removeprefix("0x")
    new = secrets.token_hex(4)
    run("sfdisk", "--no-reread", "--force", "--disk-id", disk, f"0x{new}")
    for path in (Path("/etc/fstab"), BOOT / "cmdline.txt"):
        path.write_text(path.read_text().replace(f"PARTUUID={old}", f"PARTUUID={new}"))
    return f"{old} is now {new}"


def main() -> None:
    run("mount", "-o", "remount,rw", "/")
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")):
        subprocess.run(["mount", "-t", kind, kind, place], check=False, capture_output=True)
    boot = re.search(r"^(PARTUUID=\S+)\s+/boot/firmware", Path("/etc/fstab").read_text(), re.MULTILINE)
    if boot is None:
        raise SystemExit("fstab does not name the boot partition")
    run("mount", boot[1], str(BOOT))
    try:
        custom = BOOT / "custom.toml"
        if custom.is_file():
            apply(tomllib.loads(custom.read_text()))
            custom.unlink()
        print(f"first boot (stand-in): disk signature {new_signature()}", flush=True)
    except Exception as exc:
        print(f"first boot (stand-in) failed: {exc}", flush=True)
    cmdline = BOOT / "cmdline.txt"
    cmdline.write_text(re.sub(r" init=\S*firstboot", "", cmdline.read_text()))
    run("umount", str(BOOT))
    run("mount", "-o", "remount,ro", "/")
    run("sync")
    run("reboot", "-f")


main()
