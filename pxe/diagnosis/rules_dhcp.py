"""Problems on the way to an address and a boot server.

Numbers in the docstrings of the rules say where the problem was met: EE is raspberrypi/rpi-eeprom's issue
tracker, FW is raspberrypi/firmware's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleet.spec.model import DhcpMode
from pxe.diagnosis.finding import Severity
from pxe.diagnosis.history import FILE_EVENTS, Attempt, Observation
from pxe.diagnosis.scene import Clue, Rule, Scene
from pxe.events import (
    AddressConflict,
    AddressDeclined,
    ContentRefused,
    DhcpAck,
    DhcpDiscover,
    DhcpNak,
    DhcpOffer,
    ForeignAnswer,
    ForeignNak,
    ForeignServerChosen,
    NoAddressLeft,
    NoProgram,
    RestartExpected,
    TransferDone,
)

REPEATS: Final = 4  # of a DISCOVER; one or two are lost anywhere
REPEATS_S: Final = 10.0  # a bootloader repeats after DHCP_REQ_TIMEOUT, 4 s by default
FILES_DUE_S: Final = 12.0  # after the address; the first file request follows within a second
ROUNDS: Final = 2  # with an address of ours and without a file; one may have ended by a power cut
ASKED_HERE: Final = (*FILE_EVENTS, TransferDone, ContentRefused)
"""Signs that the board knows this server as its boot server."""
NAKS: Final = 3
RESTART_S: Final = 30.0  # a healthy board asks 10 to 15 s after it restarted: firmware, then 3 s for the link
UNATTENDED_S: Final = 150.0  # later than this somebody has switched it on


def _discovers(attempt: Attempt) -> list[Observation]:
    """The bootloader's DISCOVERs, where it repeated them in vain; else nothing."""
    seen = _requests(attempt)
    if not seen or attempt.has(*FILE_EVENTS, TransferDone):
        return []
    repeated = sum(one.count for one in seen) >= REPEATS
    lasting = max(one.last_at for one in seen) - min(one.first_at for one in seen) >= REPEATS_S
    return seen if repeated and lasting else []


def offers_unheard(scene: Scene) -> Clue | None:
    """DISCOVER again and again, each answered by an offer with an address, and no REQUEST (EE#182,
    EE#826).
    """
    seen, offers = _discovers(scene.attempt), scene.attempt.of(DhcpOffer)
    if scene.setting.dhcp is not DhcpMode.FULL or not seen or not offers:
        return None
    if scene.attempt.has(DhcpAck, ForeignServerChosen):
        return None
    return Clue(
        "the board repeats its request for an address and takes no offer: the offers do not reach it",
        "Look between this server and the board: DHCP snooping or a guest VLAN on the switch (trust this "
        "server's port), a firewall here that drops packets from port 67, a relay that does not forward "
        "answers. 'bramble doctor' checks this machine's part.",
        (*seen, *offers),
    )


def no_address_server(scene: Scene) -> Clue | None:
    """Beside another server: boot offers are sent, and nobody gives an address (EE#559)."""
    seen, offers = _discovers(scene.attempt), scene.attempt.of(DhcpOffer)
    if scene.setting.dhcp is not DhcpMode.PROXY or not seen or not offers:
        return None
    if scene.attempt.has(ForeignServerChosen) or _foreign_addresses(scene.attempt):
        return None
    return Clue(
        "the board is told where to boot from, and no DHCP server was heard that gives it an address",
        "With 'dhcp: proxy' the router's DHCP server has to answer as well: is it on, has its pool a free "
        "address, does it hear this network? Where there is none, set 'dhcp: full'. If the router's log says "
        "that it did offer one, the boot offer is what the board misses or does not believe: DHCP snooping "
        "on the switch, or a PXE_OPTION43 in the EEPROM.",
        (*seen, *offers),
    )


def boot_offer_unheard(scene: Scene) -> Clue | None:
    """Beside another server whose offers were heard: the board takes none of them, for it waits until it has
    an address and a boot server (EE#60, EE#182, EE#826)."""
    seen, offers = _discovers(scene.attempt), scene.attempt.of(DhcpOffer)
    addresses = _foreign_addresses(scene.attempt)
    if scene.setting.dhcp is not DhcpMode.PROXY or not seen or not offers or not addresses:
        return None
    if scene.attempt.has(ForeignServerChosen):
        return None
    return Clue(
        "the board is offered an address and told where to boot from, and repeats its request: this server's "
        "half of the answer does not reach it, or is not believed",
        "DHCP snooping on the switch drops the offers of all but the router: trust this server's port. Is "
        "there a firewall here that drops packets from port 67 ('bramble doctor' looks)? Does PXE_OPTION43 "
        "in the EEPROM say something else than 'Raspberry Pi Boot'? Remove that line.",
        (*seen, *addresses, *offers),
    )


def boot_offer_ignored(scene: Scene) -> Clue | None:
    """It takes an address and asks for no file: where to boot from was not believed, or the board has its own
    idea of it (EE#60; Raspberry Pi documentation, TFTP_IP)."""
    match scene.setting.dhcp:
        case DhcpMode.PROXY:
            return _other_address_unused(scene)
        case DhcpMode.FULL:
            return _own_address_unused(scene)
        case DhcpMode.OFF:
            return None  # what happens before the first file is not seen then


def _other_address_unused(scene: Scene) -> Clue | None:
    attempt = scene.attempt
    taken, offers = attempt.of(ForeignServerChosen), attempt.of(DhcpOffer)
    if not offers or attempt.has(*ASKED_HERE) or not _in_vain(_requests(attempt), taken, scene.now, 1):
        return None
    if not any(event.board.is_pi for _seen, event in attempt.events(ForeignServerChosen)):
        return None
    return Clue(
        "the board has an address from the network's DHCP server, and never asked this server for a file",
        "Either another server names itself as boot server (options 43 or 66; switch that off on the "
        "router), or PXE_OPTION43 in the EEPROM is not 'Raspberry Pi Boot' (remove that line), or TFTP_IP in "
        "the EEPROM names another machine.",
        (*offers, *taken),
    )


def _own_address_unused(scene: Scene) -> Clue | None:
    """Here only where the board came round again: one lease without a file is a power cut as well."""
    asked: list[Observation] = []
    given: list[Observation] = []
    for attempt in reversed(scene.history.attempts):
        if attempt.has(*ASKED_HERE, ForeignServerChosen):
            break
        asked += _requests(attempt)
        given += [seen for seen, event in attempt.events(DhcpAck) if event.boots and event.board.is_pi]
    if not _in_vain(asked, given, scene.now, ROUNDS):
        return None
    return Clue(
        f"the board was given an address here {sum(one.count for one in given)} times, and never asked this "
        "server for a file",
        "Does TFTP_IP in the EEPROM name another machine, or PXE_OPTION43 something else than 'Raspberry Pi "
        "Boot'? Remove those lines ('bramble eeprom config' prints a whole configuration). If neither, a "
        "firewall here or on the way drops UDP port 69: 'bramble doctor' looks at this machine's.",
        (*asked, *given),
    )


def _in_vain(asked: Sequence[Observation], given: Sequence[Observation], now: float, rounds: int) -> bool:
    """Whether the board was given an address so often and went on to nothing.

    The newest time counts once it is old enough; a board that comes round faster is judged by those before.
    """
    if not asked or not given:
        return False
    done = min(sum(one.count for one in asked), sum(one.count for one in given))
    first, last = min(one.first_at for one in given), max(one.last_at for one in given)
    is_over = now - last >= FILES_DUE_S
    if not is_over:
        done -= 1
    return done >= rounds and (last - first >= FILES_DUE_S or (is_over and rounds == 1))


def _requests(attempt: Attempt) -> list[Observation]:
    """DISCOVERs of the bootloader."""
    return [seen for seen, event in attempt.events(DhcpDiscover) if event.board.is_pi]


def other_server_won(scene: Scene) -> Clue | None:
    """`dhcp: full`, and the board took another server's offer (faults: two servers on one network)."""
    chosen = [one for one, event in scene.attempt.events(ForeignServerChosen) if not event.expected]
    if scene.setting.dhcp is not DhcpMode.FULL or not chosen:
        return None
    servers = sorted({str(event.server) for _one, event in scene.attempt.events(ForeignServerChosen)})
    return Clue(
        f"the board took the address of another DHCP server, {', '.join(servers)}; that one does not say "
        "where to boot from",
        "Two DHCP servers on one network disturb each other: switch the other one off, or set 'dhcp: proxy' "
        "in cluster.yaml so that this server only adds the boot part.",
        (*_foreign_addresses(scene.attempt), *chosen),
    )


def no_address_left(scene: Scene) -> Clue | None:
    """The pool is used up: the bootloader and the system of one node often hold an address each."""
    seen = scene.attempt.of(NoAddressLeft)
    if not seen:
        return None
    own = next((event.own for _seen, event in scene.attempt.events(NoAddressLeft) if event.own), None)
    if own is not None:
        return Clue(
            f"the node's address {own} is kept from the board, and no address of the pool is free meanwhile",
            "The timeline says who has it: switch that machine off, or give it or the node another address. "
            "With a larger network.pool the board boots in the meantime.",
            tuple(seen),
        )
    return Clue(
        "no address of the pool is free for the board",
        "Make network.pool larger, or declare an 'address' for the node; bootloader and operating system may "
        "hold an address each.",
        tuple(seen),
    )


def no_program(scene: Scene) -> Clue | None:
    """Firmware that is not a Pi's may install, and this server has nothing that it could begin with."""
    missing = list(scene.attempt.events(NoProgram))
    if not missing:
        return None
    seen, event = missing[-1]
    return Clue(
        f"the board's firmware ({event.board.firmware.value}) needs {event.program} to begin with, and this "
        "server has nothing to make it of",
        "Put linuxaa64.efi.stub of Debian's arm64 package systemd-boot-efi into /usr/lib/systemd/boot/efi/ "
        "of this server (on an arm64 server: 'apt install systemd-boot-efi'), or install ipxe of Debian 13. "
        "For the first, the base's kernel8.img has to be an EFI program itself: not compressed.",
        (seen,),
    )


def address_in_use(scene: Scene) -> Clue | None:
    """The board found its address taken."""
    seen = scene.attempt.of(AddressDeclined, AddressConflict)
    if not seen:
        return None
    return Clue(
        "another machine uses an address of this server's pool",
        "Find the device with a fixed address inside network.pool, and move it or the pool.",
        tuple(seen),
    )


def refused_again(scene: Scene) -> Clue | None:
    """It asks again and again for an address that it can not have."""
    seen = scene.attempt.of(DhcpNak)
    if sum(one.count for one in seen) < NAKS or scene.attempt.has(DhcpAck):
        return None
    return Clue(
        "the board asks again and again for an address that it may not have",
        "Does the node's 'address' in cluster.yaml lie in network.subnet and belong to it alone? A second "
        "DHCP server that offers such addresses does this as well.",
        tuple(seen),
    )


def two_addresses(scene: Scene) -> Clue | None:
    """Bootloader and operating system of one board were given different addresses (bootloaders send no client
    id, operating systems do)."""
    acks = [(seen, event) for attempt in scene.history.attempts for seen, event in attempt.events(DhcpAck)]
    firmware = [(seen, event) for seen, event in acks if event.boots]
    system = [(seen, event) for seen, event in acks if not event.boots]
    if not firmware or not system or firmware[-1][1].address == system[-1][1].address:
        return None
    return Clue(
        f"the bootloader has the address {firmware[-1][1].address}, the operating system "
        f"{system[-1][1].address}: two leases for one board",
        "Declare an 'address' for the node in cluster.yaml; both then get that one.",
        (firmware[-1][0], system[-1][0]),
    )


def late_link(scene: Scene) -> Clue | None:
    """Restarted, and not heard for as long as a switch port learns: STP (EE#480)."""
    restarts = [
        seen for attempt in scene.history.attempts for seen, _event in attempt.events(RestartExpected)
    ]
    asked = [
        one.first_at
        for attempt in scene.history.attempts
        for one, event in attempt.events(DhcpDiscover)
        if event.board.is_pi and restarts and one.first_at > restarts[-1].last_at
    ]
    if not asked or not RESTART_S <= min(asked) - restarts[-1].last_at <= UNATTENDED_S:
        return None
    waited_s = min(asked) - restarts[-1].last_at
    first = [one for attempt in scene.history.attempts for one in attempt.of(DhcpDiscover)]
    return Clue(
        f"the first request came {waited_s:.0f} s after the restart, a board asks after 10 to 15 s: its "
        "switch port is likely to wait for spanning tree (STP) first",
        "Set the port to edge/portfast (or RSTP) on the switch. Where that is not possible keep DHCP_TIMEOUT "
        "at 45000 or more in the EEPROM, or the bootloader gives up before it is heard.",
        (restarts[-1], *(one for one in first if one.first_at == min(asked))),
    )


def foreign_boot_server(scene: Scene) -> Clue | None:
    """Another server tells the board to boot from somewhere else (EE#376, EE#687)."""
    rivals = [
        (seen, event)
        for seen, event in scene.attempt.events(ForeignAnswer)
        if event.names_boot_server and (event.tftp_server or str(event.server)) != str(scene.setting.server)
    ]
    if not rivals:
        return None
    _seen, event = rivals[-1]
    named = event.tftp_server or str(event.server)
    return Clue(
        f"the DHCP server {event.server} tells the board to boot from {named}; which of two boot servers a "
        "bootloader takes is not defined",
        f"Remove the network boot settings of {event.server} (option 66 or 'next server', option 43), or "
        f"give them this server's address, {scene.setting.server}.",
        tuple(seen for seen, _event in rivals),
    )


def foreign_boot_file(scene: Scene) -> Clue | None:
    """A boot file name from the router: made for PCs, and never looked at by a Raspberry Pi (FW#1850,
    EE#69).
    """
    attempt = scene.attempt
    named = [
        (seen, event)
        for seen, event in attempt.events(ForeignAnswer)
        if event.boot_file and not event.names_boot_server
    ]
    if not named or attempt.has(*FILE_EVENTS, TransferDone) or scene.quiet_s < FILES_DUE_S:
        return None
    _seen, event = named[-1]
    return Clue(
        f"the DHCP server {event.server} names the boot file '{event.boot_file}'; a Raspberry Pi never reads "
        "that option, it looks for options 43 and 66",
        "Nothing to mend where that server boots PCs. To boot boards through it, 'bramble dhcp settings' "
        "prints what it has to send.",
        tuple(seen for seen, _event in named),
    )


def foreign_refusal(scene: Scene) -> Clue | None:
    """A second server refuses what the first one gave."""
    seen = scene.attempt.of(ForeignNak)
    if not seen or scene.setting.dhcp is not DhcpMode.FULL:
        return None
    return Clue(
        "another DHCP server refuses the board the address that it was given here",
        "There must be one DHCP server on the network with 'dhcp: full': switch the other one off.",
        tuple(seen),
    )


def _foreign_addresses(attempt: Attempt) -> list[Observation]:
    """Addresses that other servers gave or offered, as overheard."""
    return [seen for seen, event in attempt.events(ForeignAnswer) if event.address is not None]


RULES: Final = (
    Rule("offers-unheard", Severity.ERROR, "offers do not reach the board", offers_unheard),
    Rule("no-address-server", Severity.ERROR, "proxy mode without a DHCP server", no_address_server),
    Rule("boot-offer-unheard", Severity.ERROR, "boot offer not heard or not believed", boot_offer_unheard),
    Rule("boot-offer-ignored", Severity.ERROR, "address taken, no file asked for", boot_offer_ignored),
    Rule("other-server-won", Severity.ERROR, "another DHCP server was faster", other_server_won),
    Rule("no-address-left", Severity.ERROR, "the pool is used up", no_address_left),
    Rule("no-program", Severity.ERROR, "nothing for UEFI to begin with", no_program),
    Rule("address-in-use", Severity.WARNING, "an address of the pool is taken", address_in_use),
    Rule("refused-again", Severity.ERROR, "refused the same address again and again", refused_again),
    Rule("two-addresses", Severity.INFO, "bootloader and system have an address each", two_addresses),
    Rule("foreign-boot-server", Severity.ERROR, "another boot server is named", foreign_boot_server),
    Rule("foreign-boot-file", Severity.INFO, "a boot file name that no board reads", foreign_boot_file),
    Rule("foreign-refusal", Severity.ERROR, "another server refuses the address", foreign_refusal),
    Rule("late-link", Severity.WARNING, "the switch port waits for spanning tree", late_link),
)
