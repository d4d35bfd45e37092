"""A blocking TFTP client with windows, for tests on loopback."""

from __future__ import annotations

from collections.abc import Mapping

from fakes_pxe import udp_socket

from pxe.tftp.wire import Ack, Data, Error, OptionAck, Request, parse_packet


def read_file(
    server: tuple[str, int], name: str, options: Mapping[str, str], client: int = 0, *, retries: int = 10
) -> bytes:
    """Read a whole file; what was lost is asked for again after a second."""
    received = bytearray()
    with udp_socket(client) as sock:
        sock.settimeout(1.0)
        last, peer = Request(name, tuple(options.items())).encode(), server
        sock.sendto(last, peer)
        blksize, windowsize, block, in_window, gap_told = 512, 1, 0, 0, False
        while True:
            try:
                data, source = sock.recvfrom(65536)
            except TimeoutError:
                retries -= 1
                assert retries, f"{name}: the server is silent after block {block}"
                sock.sendto(last, peer)
                continue
            packet = parse_packet(data)
            match packet:
                case OptionAck():
                    blksize = int(packet.option("blksize") or blksize)
                    windowsize = int(packet.option("windowsize") or windowsize)
                    peer = source
                    if block:
                        continue
                case Data(number, payload) if number == (block + 1) % 65536:
                    peer, gap_told = source, False
                    received += payload
                    block += 1
                    in_window += 1
                    if len(payload) < blksize:
                        sock.sendto(Ack(number).encode(), peer)
                        return bytes(received)
                    if in_window < windowsize:
                        continue
                case Data() if windowsize > 1 and not gap_told:
                    gap_told = True
                case Error():
                    raise AssertionError(packet)
                case _:
                    continue
            in_window = 0
            last = Ack(block % 65536).encode()
            sock.sendto(last, peer)
