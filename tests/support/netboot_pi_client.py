"""A bootloader's network client, thin and real: sockets, broadcast DHCP, TFTP. Run in a namespace by tests.

``python netboot_pi_client.py INTERFACE`` prints one JSON object with what the board was told.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

from fakes_pxe import PI4_SERIAL_LOW, PI_CLASS, client_message, pi_discover

from pxe.dhcp.wire import DhcpMessage, MessageType, Option, parse_reply
from pxe.tftp.wire import Ack, Data, Error, OptionAck, Request, parse_packet

EARLY_TERMINATE = Error(0, "Early terminate")


def exchange(sock: socket.socket, message: DhcpMessage, wanted: MessageType) -> DhcpMessage:
    """Broadcast a message and wait for its reply."""
    for _attempt in range(3):
        sock.sendto(message.encode(), ("255.255.255.255", 67))
        try:
            while (reply := parse_reply(sock.recv(2048))).xid != message.xid:
                pass
        except TimeoutError:
            continue
        if reply.message_type is wanted:
            return reply
    raise SystemExit(f"no {wanted.name}")


def fetch(server: str, name: str, *, probe: bool = False) -> tuple[str, int, float]:
    """Ask for one file: ("ok", size), ("probed", size) or ("error N", 0), and the seconds that it took."""
    started = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(Request(name, (("tsize", "0"), ("blksize", "1468"))).encode(), (server, 69))
        size = 0
        while True:
            data, peer = sock.recvfrom(2048)
            match parse_packet(data):
                case OptionAck() as oack if probe:
                    sock.sendto(EARLY_TERMINATE.encode(), peer)
                    return "probed", int(oack.option("tsize") or "-1"), time.monotonic() - started
                case OptionAck():
                    sock.sendto(Ack(0).encode(), peer)
                case Data(block, payload):
                    size += len(payload)
                    sock.sendto(Ack(block).encode(), peer)
                    if len(payload) < 1468:
                        return "ok", size, time.monotonic() - started
                case Error(code):
                    return f"error {code}", 0, time.monotonic() - started
                case other:
                    raise SystemExit(f"unexpected {other}")


def main() -> None:
    interface = sys.argv[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind(("", 68))
        sock.settimeout(3)
        offer = exchange(sock, pi_discover(), MessageType.OFFER)
        request = client_message(
            MessageType.REQUEST, requested=offer.yiaddr, server=offer.server_id, vendor_class=PI_CLASS
        )
        told: dict[str, object] = {
            "yiaddr": str(offer.yiaddr),
            "siaddr": str(offer.siaddr),
            "menu": (offer.option(Option.VENDOR_SPECIFIC) or b"").hex(),
            "tftp": (offer.option(Option.TFTP_SERVER) or b"").decode(),
        }
        if int(offer.yiaddr) == 0:
            print(json.dumps(told))
            return
        ack = exchange(sock, request, MessageType.ACK)
    subprocess.run(["ip", "address", "replace", f"{ack.yiaddr}/24", "dev", interface], check=True)
    server, prefix = str(told["tftp"]), f"{PI4_SERIAL_LOW:08x}"
    files = {
        "probe": fetch(server, f"{prefix}/start4.elf", probe=True),
        "config": fetch(server, f"{prefix}//config.txt"),
        "kernel": fetch(server, f"{prefix}/kernel8.img"),
        "root": fetch(server, "kernel8.img"),
        "update": fetch(server, f"{prefix}/pieeprom.sig"),
        "missing": fetch(server, f"{prefix}/nope"),
    }
    told["files"] = {name: [status, size] for name, (status, size, _seconds) in files.items()}
    told["missing_ms"] = round(files["missing"][2] * 1000, 1)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
