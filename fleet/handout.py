"""What makes an image one node's own, as a value that travels over the admin socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from fleet.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Handout:
    """One node's values for one installation.

    Attributes:
        intent: The number under which the end is reported.
        ticket: Enrols the node once; 64 hex digits.
        disk_signature: 32 bits, never 0.
        control_urls: Where the node finds the control server.
        ca_pem: The certificate that it knows that server by.
    """

    node: str
    intent: int
    ticket: Secret
    disk_signature: int
    instance_id: str
    control_urls: tuple[str, ...]
    ca_pem: str

    def as_json(self) -> dict[str, Any]:
        """With the ticket in clear: for the admin socket, which only its owner can open."""
        return {
            "node": self.node,
            "intent": self.intent,
            "ticket": self.ticket.reveal(),
            "disk_signature": self.disk_signature,
            "instance_id": self.instance_id,
            "control_urls": list(self.control_urls),
            "ca_pem": self.ca_pem,
        }

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Raises KeyError, TypeError, ValueError: it is not one."""
        return cls(
            node=str(values["node"]),
            intent=int(values["intent"]),
            ticket=Secret(values["ticket"]),
            disk_signature=int(values["disk_signature"]),
            instance_id=str(values["instance_id"]),
            control_urls=tuple(str(url) for url in values["control_urls"]),
            ca_pem=str(values["ca_pem"]),
        )
