#!/usr/bin/python3
"""Stand-in for NetworkManager, written for test images: hands its connection files to systemd-networkd.

Like the original it reads /etc/NetworkManager/system-connections/*.nmconnection, ignores files that others
may read, and knows what a wired connection needs: type, MAC address, method, address, gateway, name servers.
"""

import configparser
from pathlib import Path

CONNECTIONS = Path("/etc/NetworkManager/system-connections")
TARGET = Path("/run/systemd/network")


def render(connection: configparser.ConfigParser) -> str:
    ipv4 = dict(connection["ipv4"]) if connection.has_section("ipv4") else {}
    mac = connection.get("ethernet", "mac-address", fallback="")
    match = f"PermanentMACAddress={mac}" if mac else "Name=e*"
    lines = ["[Match]", match, "", "[Network]"]
    if ipv4.get("method") == "manual":
        address, _, gateway = ipv4["address1"].partition(",")
        lines += [f"Address={address}", *([f"Gateway={gateway}"] if gateway else [])]
    else:
        lines.append("DHCP=yes")
    lines += [f"DNS={server}" for server in ipv4.get("dns", "").split(";") if server]
    lines += [f"Domains={domain}" for domain in ipv4.get("dns-search", "").split(";") if domain]
    return "\n".join(lines) + "\n"


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    found = sorted(CONNECTIONS.glob("*.nmconnection"))
    for path in found:
        if path.stat().st_mode & 0o077 or path.stat().st_uid:
            print(f"NetworkManager (stand-in): {path} is not root's alone, ignored", flush=True)
            continue
        connection = configparser.ConfigParser(interpolation=None)
        connection.read_string(path.read_text())
        if connection.get("connection", "type", fallback="") == "ethernet":
            (TARGET / f"10-{path.stem}.network").write_text(render(connection))
    if not found:
        (TARGET / "90-default.network").write_text("[Match]\nName=e*\n\n[Network]\nDHCP=yes\n")


main()
