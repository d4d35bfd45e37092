"""Two boards that say one serial and a stranger, power cuts, lost answers, restarts of the server: no address
is ever used by two that live.

The clients do what RFC 2131 and RFC 5227 ask of them and no more: each believes what it was acknowledged, and
answers ARP for it within half a second, for as long as it is on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address

from fakes_dhcp import FIRST, LEASE_S, NODE, NOW, RESERVED, SERVER, Network
from fakes_pxe import client_message, pi_discover
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleet.boards import MacAddress
from fleet.spec.model import AddressPool
from pxe.dhcp.wire import DhcpMessage, MessageType, Option

ARP_S = 0.5


class Fault(Enum):
    LOST_ANSWER = auto()  # the next one
    RELEASE = auto()
    DECLINE = auto()
    SERVER_KILLED = auto()
    CABLE_NOT_ASKED = auto()  # the next time


@dataclass
class Client:
    """A board or a stranger. `had` outlasts a power cut, as a disk does; `uses` does not."""

    mac: MacAddress
    is_board: bool
    offered: IPv4Address | None = None
    uses: IPv4Address | None = None
    had: IPv4Address | None = None
    until: float = 0.0

    def discover(self) -> DhcpMessage:
        if self.is_board:
            return pi_discover(mac=self.mac)
        return client_message(MessageType.DISCOVER, mac=self.mac)

    def next_message(self) -> DhcpMessage:
        """Selecting, renewing, asking for what it had, or beginning anew: RFC 2131 §4.3.2."""
        if self.offered is not None:
            return client_message(MessageType.REQUEST, mac=self.mac, requested=self.offered, server=SERVER)
        if self.uses is not None:
            return client_message(MessageType.REQUEST, mac=self.mac, ciaddr=self.uses)
        if self.had is not None:
            wanted, self.had = self.had, None
            return client_message(MessageType.REQUEST, mac=self.mac, requested=wanted)
        return self.discover()


BOARDS = st.sampled_from([0, 1])
PAUSES = st.sampled_from([0.0, 1.0])


class AddressMachine(RuleBasedStateMachine):
    """What happens on one network, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.network = Network(NODE, pool=AddressPool(FIRST, FIRST))
        macs = [MacAddress(bytes((2, 0, 0, 0, 0, number))) for number in range(3)]
        self.clients = [Client(mac, is_board=number < 2) for number, mac in enumerate(macs)]
        self.asked: list[IPv4Address] = []
        self.pending: set[Fault] = set()

    @initialize()
    def the_first_board_has_the_address_of_the_node(self) -> None:
        self.say(self.clients[0])
        self.say(self.clients[0])
        assert self.clients[0].uses == RESERVED

    def say(self, client: Client, message: DhcpMessage | None = None) -> None:
        reply = self.network.hear(message or client.next_message(), self.now)
        if Fault.CABLE_NOT_ASKED in self.pending:
            for address in self.network.probed:
                self.network.responder.not_asked(address, self.now)
        else:
            self.asked += self.network.probed
        self.pending.discard(Fault.CABLE_NOT_ASKED)
        if reply is None or Fault.LOST_ANSWER in self.pending:
            self.pending.discard(Fault.LOST_ANSWER)
            return
        answer = reply.message
        client.offered = answer.yiaddr if answer.message_type is MessageType.OFFER else None
        match answer.message_type:
            case MessageType.ACK:
                client.uses = client.had = answer.yiaddr
                client.until = self.now + int.from_bytes(answer.option(Option.LEASE_TIME) or b"", "big")
            case MessageType.NAK:
                client.uses = client.had = None

    def pass_time(self, seconds: float) -> None:
        if seconds >= ARP_S:
            self.now += ARP_S
            asked, self.asked = self.asked, []
            for address in asked:
                for client in self.clients:
                    if client.uses == address:
                        self.network.responder.conflict(address, client.mac, self.now)
            seconds -= ARP_S
        self.now += seconds
        for client in self.clients:
            if self.now >= client.until:
                client.uses = None

    @rule(index=BOARDS, pause_s=PAUSES)
    def go_on(self, index: int, pause_s: float) -> None:
        """A board does what it does next; one that was off begins anew."""
        self.pass_time(pause_s)
        self.say(self.clients[index])

    @rule(index=BOARDS, pause_s=PAUSES)
    def go_on_again(self, index: int, pause_s: float) -> None:
        """The same: twice as likely as anything else."""
        self.go_on(index, pause_s)

    @rule(index=BOARDS)
    def lose_power(self, index: int) -> None:
        self.clients[index].uses = self.clients[index].offered = None

    @rule(index=BOARDS, fault=st.sampled_from(Fault))
    def meet(self, index: int, fault: Fault) -> None:
        client = self.clients[index]
        match fault:
            case Fault.SERVER_KILLED:
                self.asked = []
                self.network.restart()
            case Fault.LOST_ANSWER | Fault.CABLE_NOT_ASKED:
                self.pending.add(fault)
            case Fault.RELEASE | Fault.DECLINE if client.uses is not None:
                mac, address = client.mac, client.uses
                client.uses = client.had = None
                if fault is Fault.RELEASE:
                    message = client_message(MessageType.RELEASE, mac=mac, ciaddr=address, server=SERVER)
                else:
                    message = client_message(MessageType.DECLINE, mac=mac, requested=address, server=SERVER)
                self.say(client, message)

    @rule(seconds=st.sampled_from([4.0, 65.0, 600.0, LEASE_S / 2, float(LEASE_S)]), stranger=st.booleans())
    def wait(self, seconds: float, stranger: bool) -> None:
        self.pass_time(seconds)
        if stranger:
            self.say(self.clients[2])

    @invariant()
    def nobody_shares_an_address(self) -> None:
        used = [client.uses for client in self.clients if client.uses is not None]
        assert len(used) == len(set(used)), [str(address) for address in used]


AddressMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAddresses = AddressMachine.TestCase
