"""Facts in, results out. Every complaint says what to do; nothing here touches the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bramble.doctor.facts import Facts, Room
from bramble.doctor.firewall import Packet, Verdict
from bramble.doctor.report import Check, Status
from fleet.spec.model import DhcpMode

ORDINARY_MTU: Final = 1500
GIGABIT: Final = 1000
FULL_BYTES: Final = 512 * 1024**2
TIGHT_BYTES: Final = 5 * 1024**3  # an image, its base and its layers
FEW_INODES: Final = 1000
NERVOUS_CHANGES: Final = 20
BEHIND_S: Final = 60.0
SILENT_S: Final = 3.5
"""A port without spanning tree passes packets at once; the shortest forward delay is 2 s, waited twice."""
ROOT: Final = "Run it again with sudo."


def run_checks(facts: Facts) -> list[Check]:
    """Everything that can be said, in the order in which one would look."""
    checks = [_link(facts)]
    if not facts.link.exists:
        return checks  # the rest would only repeat it
    checks += [*_speed(facts), _mtu(facts), _address(facts), _rights(facts), *_ports(facts)]
    checks += [_firewall(facts), _servers(facts), _spanning_tree(facts), *_link_delay(facts), _clock(facts)]
    checks += [_room(room) for room in facts.rooms]
    checks += _answers(facts)
    return checks


def _link(facts: Facts) -> Check:
    link = facts.link
    if not link.exists:
        return Check(
            id="interface",
            status=Status.FAIL,
            text=f"there is no network interface {link.name}",
            evidence=(f"this machine has {', '.join(link.known)}",),
            mend="Set network.interface in cluster.yaml to the one that the boards are connected to.",
        )
    if not link.is_up or link.has_carrier is False:
        what = "is switched off" if not link.is_up else "has no link: no cable, or nothing at its other end"
        return Check(
            id="interface",
            status=Status.FAIL,
            text=f"{link.name} {what}",
            mend="Plug it in." if link.is_up else f"Switch it on: ip link set {link.name} up",
        )
    if link.is_wireless:
        return Check(
            id="interface",
            status=Status.WARN,
            text=f"{link.name} is wireless; many access points do not pass on DHCP broadcasts as boards "
            "need them",
            mend="Connect this machine to the boards' switch by cable.",
        )
    if link.changes > NERVOUS_CHANGES:
        return Check(
            id="interface",
            status=Status.WARN,
            text=f"the link of {link.name} went up and down {link.changes} times since this machine started",
            mend="Try another cable and another port; switch energy-efficient Ethernet off (ethtool "
            "--set-eee).",
        )
    return Check(id="interface", status=Status.OK, text=f"{link.name} is up and has a link")


def _speed(facts: Facts) -> Iterator[Check]:
    link = facts.link
    if link.is_full_duplex is False:
        yield Check(
            id="speed",
            status=Status.FAIL,
            text=f"{link.name} runs at half duplex",
            mend="Let both ends negotiate; a fixed setting at one end only does this.",
        )
    elif link.speed_mbit is not None and link.speed_mbit < GIGABIT:
        yield Check(
            id="speed",
            status=Status.WARN,
            text=f"{link.name} runs at {link.speed_mbit} Mbit/s; a bootloader gives each file 30 s",
            mend="Use a cable with all four pairs, and a gigabit port.",
        )
    elif link.speed_mbit is not None:
        yield Check(id="speed", status=Status.OK, text=f"{link.name} runs at {link.speed_mbit} Mbit/s")


def _mtu(facts: Facts) -> Check:
    link = facts.link
    if link.mtu == ORDINARY_MTU:
        return Check(id="mtu", status=Status.OK, text=f"packets of {link.mtu} bytes fit through {link.name}")
    if link.mtu < ORDINARY_MTU:
        return Check(
            id="mtu",
            status=Status.WARN,
            text=f"the MTU of {link.name} is {link.mtu}; TFTP blocks of 1,468 bytes do not fit and are made "
            "smaller",
            mend=f"If this is no tunnel: ip link set {link.name} mtu {ORDINARY_MTU}",
        )
    text = f"the MTU of {link.name} is {link.mtu}; boards are sent packets of {ORDINARY_MTU} bytes at most"
    return Check(id="mtu", status=Status.OK, text=text)


def _address(facts: Facts) -> Check:
    link, wanted = facts.link, facts.wanted
    if not link.addresses:
        return Check(
            id="address",
            status=Status.FAIL,
            text=f"{link.name} has no IPv4 address",
            mend=f"Give it a fixed one: ip address add {_example(facts)} dev {link.name}",
        )
    shown = ", ".join(map(str, link.addresses))
    if wanted.server_address is not None and wanted.server_address not in link.addresses:
        return Check(
            id="address",
            status=Status.FAIL,
            text=f"network.server_address is {wanted.server_address}; {link.name} has {shown}",
            mend="Correct network.server_address in cluster.yaml, or the interface.",
        )
    if wanted.subnet is not None and not any(address in wanted.subnet for address in link.addresses):
        return Check(
            id="address",
            status=Status.FAIL,
            text=f"{link.name} has {shown}; network.subnet is {wanted.subnet}",
            mend="The server has to be on the boards' network: correct network.subnet or network.interface.",
        )
    return Check(id="address", status=Status.OK, text=f"{link.name} has the address {shown}")


def _example(facts: Facts) -> str:
    subnet = facts.wanted.subnet
    return f"{subnet[1]}/{subnet.prefixlen}" if subnet is not None else "10.0.0.1/24"


def _rights(facts: Facts) -> Check:
    rights = facts.rights
    if rights.may_bind or rights.lowest_port <= 67:
        if rights.may_send_raw:
            return Check(id="rights", status=Status.OK, text="this user may serve DHCP and TFTP")
        return Check(
            id="rights",
            status=Status.OK,
            text="this user may serve DHCP and TFTP; DHCP answers go out as broadcasts (no cap_net_raw)",
        )
    return Check(
        id="rights",
        status=Status.WARN,
        text=f"this user may not listen on ports below {rights.lowest_port}; DHCP needs 67, TFTP 69",
        mend="Run 'bramble serve' with sudo or as a systemd service with AmbientCapabilities="
        "CAP_NET_BIND_SERVICE CAP_NET_RAW.",
    )


def _ports(facts: Facts) -> Iterator[Check]:
    taken = [port for port in facts.ports if port.holder is not None and not port.is_ours]
    for port in taken:
        yield Check(
            id="ports",
            status=Status.FAIL,
            text=f"{port.service} needs {port.protocol} port {port.number}, and {port.holder} has it",
            mend="Stop that program, or give Bramble another machine. systemd's units of dnsmasq and tftpd "
            "come back by themselves: 'systemctl disable --now NAME'.",
        )
    if not taken:
        ours = any(port.is_ours for port in facts.ports)
        text = "this cluster's server has its ports" if ours else "the ports that the server needs are free"
        numbers = ", ".join(f"{port.protocol} {port.number}" for port in facts.ports)
        yield Check(id="ports", status=Status.OK, text=text, evidence=(numbers,))


def _firewall(facts: Facts) -> Check:
    if facts.firewall is None:
        return Check(
            id="firewall",
            status=Status.SKIP,
            text=facts.firewall_problem or "the firewall's rules could not be read",
            mend=ROOT,
        )
    if not facts.firewall.inputs:
        return Check(id="firewall", status=Status.OK, text="no firewall stands before this machine's ports")
    blocked: list[str] = []
    doubtful: list[str] = []
    services: set[str] = set()
    for port in facts.ports:
        packet = Packet(facts.wanted.interface, port.protocol, port.number)
        verdict, why = facts.firewall.judge(packet)
        line = f"{port.protocol} port {port.number} ({port.service}): {why}"
        if verdict is Verdict.DROP:
            blocked.append(line)
            services.add(f"{port.number}/{port.protocol}")
        elif verdict is Verdict.UNKNOWN:
            doubtful.append(line)
    if blocked:
        return Check(
            id="firewall",
            status=Status.FAIL,
            text="the firewall drops what boards send to this machine",
            evidence=tuple(blocked),
            mend=f"Let in {', '.join(sorted(services))} on {facts.wanted.interface}, for example: "
            f"ufw allow in on {facts.wanted.interface}, or firewall-cmd --zone=trusted --change-interface="
            f"{facts.wanted.interface}.",
        )
    if doubtful:
        return Check(
            id="firewall",
            status=Status.WARN,
            text="the firewall has rules here that this check does not understand",
            evidence=tuple(doubtful),
            mend="Look at them: 'nft list ruleset'. If boards do not boot, let the ports in explicitly.",
        )
    return Check(id="firewall", status=Status.OK, text="the firewall lets boards in")


def _how_to_listen(facts: Facts) -> str:
    return ROOT if facts.listened_s > 0 else "Run it again without '--listen 0'."


def _servers(facts: Facts) -> Check:
    wanted = facts.wanted
    if facts.servers is None:
        return Check(
            id="dhcp-servers",
            status=Status.SKIP,
            text=f"other DHCP servers were not looked for: {facts.servers_problem}",
            mend=_how_to_listen(facts),
        )
    ours = {*facts.link.addresses, wanted.server_address}
    others = [server for server in facts.servers if server.server not in ours]
    givers = [server for server in others if server.address is not None]
    lines = tuple(server.describe() for server in others)
    rivals = [s for s in others if s.boot_server and s.boot_server not in {str(a) for a in ours if a}]
    quiet = f"no other DHCP server answered within {facts.listened_s:.0f} s"
    if rivals:
        return Check(
            id="dhcp-servers",
            status=Status.FAIL,
            text="another DHCP server tells boards to boot from somewhere else",
            evidence=lines,
            mend="Remove its network boot settings (options 43 and 66), or write this machine's address "
            "there.",
        )
    if wanted.dhcp is DhcpMode.FULL and others:
        return Check(
            id="dhcp-servers",
            status=Status.FAIL,
            text="there is another DHCP server on this network, and cluster.yaml says 'dhcp: full'",
            evidence=lines,
            mend="Switch the other one off, or set 'dhcp: proxy' in cluster.yaml.",
        )
    if wanted.dhcp is DhcpMode.PROXY and not givers:
        return Check(
            id="dhcp-servers",
            status=Status.FAIL,
            text=f"cluster.yaml says 'dhcp: proxy', and {quiet.replace('other ', '', 1)} with an address",
            evidence=lines,
            mend="Is the router on, and on this network? Has its pool a free address? Where there is none, "
            "set 'dhcp: full'.",
        )
    if len(givers) > 1:
        return Check(
            id="dhcp-servers",
            status=Status.WARN,
            text=f"{len(givers)} DHCP servers give addresses on this network",
            evidence=lines,
            mend="Keep one: boards and nodes get addresses of either, as it happens.",
        )
    text = f"{others[0].describe()}, as expected" if others and wanted.dhcp else None
    return Check(
        id="dhcp-servers", status=Status.OK, text=text or (lines[0] if lines else quiet), evidence=lines
    )


def _spanning_tree(facts: Facts) -> Check:
    if facts.bpdus is None:
        return Check(
            id="spanning-tree",
            status=Status.SKIP,
            text=f"spanning tree was not looked for: {facts.bpdus_problem}",
            mend=_how_to_listen(facts),
        )
    if not facts.bpdus:
        return Check(
            id="spanning-tree",
            status=Status.OK,
            text="the switch sends no spanning tree messages to this port",
        )
    bpdu = facts.bpdus[0]
    return Check(
        id="spanning-tree",
        status=Status.WARN,
        text=f"the switch runs {bpdu.name}: a port that is no edge port waits {bpdu.wait_s:.0f} s after "
        "link-up, and a bootloader gives up DHCP after 45 s",
        mend="Set the boards' ports to edge/portfast on the switch, or switch spanning tree off for them.",
    )


def _link_delay(facts: Facts) -> Iterator[Check]:
    delay = facts.link_delay
    if delay is None:
        return
    if delay.problem:
        yield Check(id="link-delay", status=Status.SKIP, text=delay.problem, mend=ROOT)
    elif delay.seconds is None:
        yield Check(
            id="link-delay",
            status=Status.WARN,
            text=f"nothing came through steadily within {delay.waited_s:.0f} s after link-up",
            mend="Is anybody else on this network? If so, look at the switch port's VLAN and spanning tree.",
        )
    elif delay.seconds > SILENT_S:
        yield Check(
            id="link-delay",
            status=Status.WARN,
            text=f"the first packet came {delay.seconds:.1f} s after link-up: this switch's ports wait for "
            "spanning tree",
            mend="Set the boards' ports to edge/portfast. Boards on such ports need DHCP_TIMEOUT=45000.",
        )
    else:
        yield Check(
            id="link-delay",
            status=Status.OK,
            text=f"the first packet came {delay.seconds:.1f} s after link-up",
        )


def _clock(facts: Facts) -> Check:
    clock = facts.clock
    if clock.newest_file is not None and clock.now < clock.newest_file - BEHIND_S:
        return Check(
            id="clock",
            status=Status.FAIL,
            text="the clock is behind: this machine has written files that are newer than now",
            mend="Set it (timedatectl set-ntp true). Certificates of nodes depend on it.",
        )
    if not clock.is_synchronised:
        return Check(
            id="clock",
            status=Status.WARN,
            text="nobody keeps this machine's clock right",
            mend="timedatectl set-ntp true, or install chrony. Nodes take their time from it.",
        )
    return Check(id="clock", status=Status.OK, text="the clock is synchronised")


def _room(room: Room) -> Check:
    free_gib, total_gib = room.free_bytes / 1024**3, room.total_bytes / 1024**3
    free = f"{free_gib:.1f} GiB of {total_gib:.0f} GiB are free at {room.path}"
    if room.free_bytes < FULL_BYTES or (room.free_inodes is not None and room.free_inodes < FEW_INODES):
        return Check(id="disk", status=Status.FAIL, text=free, mend="Make room: images and leases need it.")
    if room.free_bytes < TIGHT_BYTES:
        return Check(
            id="disk",
            status=Status.WARN,
            text=free,
            mend="A base, its image and a build need about 5 GiB; remove images that are not needed.",
        )
    return Check(id="disk", status=Status.OK, text=free)


def _answers(facts: Facts) -> Iterator[Check]:
    if facts.answers is None:
        yield Check(
            id="server",
            status=Status.SKIP,
            text="no server of this cluster runs",
            mend="Start 'bramble serve'.",
        )
        return
    broken = [answer for answer in facts.answers if answer.problem is not None]
    for answer in broken:
        yield Check(
            id="server",
            status=Status.FAIL,
            text=f"the running server's {answer.service} does not answer: {answer.problem}",
            mend="Its log says why. Restart 'bramble serve'.",
        )
    if not broken:
        times = ", ".join(f"{one.service} in {one.seconds * 1000:.0f} ms" for one in facts.answers)
        yield Check(id="server", status=Status.OK, text=f"the running server answers: {times}")
