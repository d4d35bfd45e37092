"""The thin shell around `NetworkBoot`: frames to and from a tap, timers on the monotonic clock."""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Callable
from typing import Final

from lab.bootloader.client import FIRST_PORT, NetworkBoot
from lab.bootloader.files import BoardStuckError, BootFiles, ModeFailedError
from lab.bootloader.profile import BoardIdentity, EepromProfile
from lab.events import Notice
from lab.tap import Tap

_PORT_SPREAD: Final = 8192


def boot_from_network(
    tap: Tap,
    board: BoardIdentity,
    profile: EepromProfile,
    *,
    wake_fd: int,
    on_notice: Callable[[Notice], None],
) -> BootFiles | None:
    """Run the network mode to its end.

    Returns:
        The files; None where `wake_fd` became readable, that is, the plug was pulled.

    Raises:
        ModeFailedError: The next boot mode's turn.
        BoardStuckError: The board needs a power cycle.
    """
    boot = NetworkBoot(
        board,
        profile,
        xid=secrets.randbits(32),
        first_port=FIRST_PORT + secrets.randbelow(_PORT_SPREAD),
        now=time.monotonic(),
    )
    poller = select.epoll(2)
    try:
        poller.register(tap.fd, select.EPOLLIN)
        poller.register(wake_fd, select.EPOLLIN)
        while True:
            for frame in boot.frames_to_send():
                tap.write(frame)
            while notice := boot.next_notice():
                on_notice(notice)
            match boot.outcome:
                case BootFiles():
                    return boot.outcome
                case ModeFailedError() | BoardStuckError():
                    raise boot.outcome
            now = time.monotonic()
            deadline = boot.next_timeout()
            ready = poller.poll(None if deadline is None else max(0.0, deadline - now))
            if any(fd == wake_fd for fd, _ in ready):
                return None
            now = time.monotonic()
            if not ready:
                boot.handle_timeout(now)
            elif (received := tap.read()) is not None:
                boot.receive_frame(received, now)
                # A flood of other people's frames must not keep our own timers from running.
                if deadline is not None and now >= deadline:
                    boot.handle_timeout(now)
    finally:
        poller.close()
