"""Firmware that is not a Raspberry Pi's boots our kernel with our initramfs and our words, over every road.

Real edk2, U-Boot and iPXE on arm64 QEMU, in a private network with our own boot server. The kernel is the
base's; the initramfs holds an /init that can not run, whose name on the console shows that it arrived.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from efi_peers import IPXE, STUB, efi_peers

from imagebuilder.bases import find_base
from imagebuilder.cpio import encode_archive, regular
from imagebuilder.store import Store

pytestmark = pytest.mark.e2e

SUPPORT = Path(__file__).parents[1] / "support"
CHECKOUT = Path(__file__).parents[2]
EDK2 = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
U_BOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
MAC = "52:54:00:12:34:56"
U_BOOT_MAC = "52:52:52:52:52:52"  # what U-Boot for QEMU says, whatever address the device has
DEADLINE_S = 150
KERNEL = [
    "Booting Linux on physical CPU",
    "bramble.node=virt-1 bramble.intent=7",
    "Run /init as init process",
]
NO_IPV6 = ("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
NO_PXE = ("-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Kernel, initramfs, stub and iPXE."""
    for path, package in ((EDK2, "qemu-efi-aarch64"), (U_BOOT, "u-boot-qemu")):
        if not path.is_file():
            pytest.skip(f"{path} is not installed ({package})")
    base = find_base("debian-trixie", Store.default())
    if base is None:
        pytest.skip("the base debian-trixie is not built (bramble base build debian-trixie)")
    work = tmp_path_factory.mktemp("firmware")
    start = base.info.layout[0].start_lba * 512
    kernel, initramfs = work / "kernel8.img", work / "initramfs"
    subprocess.run(["mcopy", "-i", f"{base.disk}@@{start}", "::kernel8.img", kernel], check=True)
    initramfs.write_bytes(encode_archive([regular("init", b"#!/nothing\n", 0o755)], 0))
    peers = efi_peers()
    return {
        "kernel": str(kernel),
        "initramfs": str(initramfs),
        "stub": str(peers / STUB),
        "ipxe": str(peers / IPXE),
    }


def boot(parts: dict[str, str], work: Path, *qemu: str, **changes: Any) -> dict[str, Any]:
    """Let a machine boot; what was seen of it."""
    scenario = {
        **parts,
        "mode": "full",
        "mac": MAC,
        "wanted": KERNEL,
        "deadline_s": DEADLINE_S,
        "work": str(work),
        "qemu": qemu,
        **changes,
    }
    (work / "scenario.json").write_text(json.dumps(scenario), "utf-8")
    result = subprocess.run(
        [sys.executable, SUPPORT / "firmware_in_namespace.py", work / "scenario.json"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S + 60,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{SUPPORT}"},
    )
    seen: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert seen["seen"] == scenario["wanted"], seen["console"][-3000:]
    return seen


def texts(seen: dict[str, Any], kind: str) -> list[str]:
    return [event["text"] for event in seen["events"] if event["kind"] == kind]


def test_edk2_boots_over_pxe(parts: dict[str, str], tmp_path: Path) -> None:
    seen = boot(parts, tmp_path, "-bios", str(EDK2), *NO_IPV6)
    assert any("UEFI, PXE" in text for text in texts(seen, "dhcp-discover"))
    assert any("bramble.efi: sent" in text for text in texts(seen, "boot-file"))


def test_edk2_boots_over_pxe_beside_a_router(parts: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq is not installed (dnsmasq-base)")
    seen = boot(parts, tmp_path, "-bios", str(EDK2), *NO_IPV6, mode="proxy")
    assert any("10.77.0.254" in text for text in texts(seen, "foreign-server-chosen"))
    assert any("bramble.efi: sent" in text for text in texts(seen, "boot-file"))


def test_edk2_boots_over_http(parts: dict[str, str], tmp_path: Path) -> None:
    seen = boot(parts, tmp_path, "-bios", str(EDK2), *NO_IPV6, *NO_PXE)
    assert all("HTTP boot" in text for text in texts(seen, "dhcp-discover"))
    assert any("read bramble.efi" in text for text in texts(seen, "transfer-done"))


def test_ipxe_boots_from_its_script(parts: dict[str, str], tmp_path: Path) -> None:
    seen = boot(parts, tmp_path, "-bios", str(EDK2), "-kernel", parts["ipxe"])
    assert any("iPXE" in text for text in texts(seen, "dhcp-discover"))
    assert any("read installer.img" in text for text in texts(seen, "transfer-done"))


def test_without_a_stub_edk2_is_taken_to_ipxe(parts: dict[str, str], tmp_path: Path) -> None:
    seen = boot(parts, tmp_path, "-bios", str(EDK2), *NO_IPV6, stub=None)
    discovers = texts(seen, "dhcp-discover")
    assert any("UEFI, PXE" in text for text in discovers)
    assert any("iPXE" in text for text in discovers)


def test_u_boot_boots_without_efi(parts: dict[str, str], tmp_path: Path) -> None:
    seen = boot(parts, tmp_path, "-bios", str(U_BOOT), mac=U_BOOT_MAC, stub=None, ipxe=None)
    assert any("U-Boot" in text for text in texts(seen, "dhcp-discover"))
    assert any("pxelinux.cfg/01-52-52" in text for text in texts(seen, "boot-file"))
    assert any("kernel8.img: sent" in text for text in texts(seen, "boot-file"))
