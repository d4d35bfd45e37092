"""A bootloader's network client, thin and real: sockets, DHCP, TFTP. Run in a namespace by tests.

``python netboot_pi_client.py INTERFACE`` prints one JSON object with what the board was told. Like firmware
it reads frames, so it hears what is sent to an address that it does not have yet.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

from fakes_pxe import PI4_SERIAL_LOW, PI_CLASS, client_message, pi_discover

from pxe.dhcp.frames import parse_datagram
from pxe.dhcp.wire import DhcpMessage, MessageType, Option, parse_reply
from pxe.errors import WireError
from pxe.tftp.wire import Ack, Data, Error, OptionAck, Request, parse_packet

EARLY_TERMINATE = Error(0, "Early terminate")


def exchange(
    sock: socket.socket, frames: socket.socket, message: DhcpMessage, wanted: MessageType, ways: list[str]
) -> DhcpMessage:
    """Broadcast a message and wait for its reply; how that came goes into `ways`."""
    for _attempt in range(10):
        sock.sendto(message.encode(), ("255.255.255.255", 67))
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                packet, sender = frames.recvfrom(2048)
                datagram = parse_datagram(packet)
            except (TimeoutError, WireError):
                continue
            if datagram.target_port != 68:
                continue
            reply = parse_reply(datagram.payload)
            if reply.xid == message.xid and reply.message_type is MessageType.NAK:
                raise SystemExit("refused")
            if reply.xid == message.xid and reply.message_type is wanted:
                ways.append({0: "unicast", 1: "broadcast"}.get(sender[2], "other"))
                return reply
    raise SystemExit(f"no {wanted.name}")


def fetch(server: str, name: str, *, probe: bool = False) -> tuple[str, int, float]:
    """Ask for one file: ("ok", size), ("probed", size) or ("error N", 0), and the seconds that it took."""
    started = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
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
    ways: list[str] = []
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as frames,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind(("", 68))
        frames.bind((interface, 0x0800))
        frames.settimeout(1)
        offer = exchange(sock, frames, pi_discover(), MessageType.OFFER, ways)
        request = client_message(
            MessageType.REQUEST, requested=offer.yiaddr, server=offer.server_id, vendor_class=PI_CLASS
        )
        told: dict[str, object] = {
            "yiaddr": str(offer.yiaddr),
            "siaddr": str(offer.siaddr),
            "menu": (offer.option(Option.VENDOR_SPECIFIC) or b"").hex(),
            "tftp": (offer.option(Option.TFTP_SERVER) or b"").decode(),
            "ways": ways,
        }
        if int(offer.yiaddr) == 0:
            print(json.dumps(told))
            return
        ack = exchange(sock, frames, request, MessageType.ACK, ways)
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
