"""Messages to systemd: ready, alive, status. Source: sd_notify(3)."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """`address` is NOTIFY_SOCKET, or None when nobody listens; `watchdog_s` is WATCHDOG_USEC in seconds."""

    address: str | None = None
    watchdog_s: float | None = None

    @property
    def ping_interval_s(self) -> float | None:
        """How often to say that the service lives: a third of what systemd grants."""
        return self.watchdog_s / 3 if self.watchdog_s else None

    def tell(self, *assignments: str) -> None:
        """Send `READY=1`, `WATCHDOG=1`, `STATUS=…`; best effort, systemd has its own deadlines."""
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto("\n".join(assignments).encode(), address)
            except OSError:
                return


def parse_environment(environment: dict[str, str]) -> ServiceManager:
    """From the variables that systemd sets."""
    watchdog = environment.get("WATCHDOG_USEC", "")
    return ServiceManager(
        address=environment.get("NOTIFY_SOCKET") or None,
        watchdog_s=int(watchdog) / 1e6 if watchdog.isdigit() and int(watchdog) else None,
    )
