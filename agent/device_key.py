"""The device key in the board's OTP memory, through the firmware's own tool.

`rpi-fw-crypto` asks the firmware to sign with key 1; the key does not leave it. A board without the tool,
without such a key, or with firmware from before it has no device proof, and shows none: what that means is
the control server's to decide.

Source: raspberrypi/utils, rpifwcrypto (README and main.c, read 2026-11): `pubkey` writes the key as DER,
`sign` hashes the file with SHA-256 and writes an ECDSA signature; without `--out` both go to stdout, in hex
with `--outform hex`; the status is 0, or 255 with a text on stderr.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from agent.commands import CommandError, Runner
from agent.proofs import device_message
from agent.protocol import DeviceProof, Hello, Welcome

log = logging.getLogger("bramble.agent")

TOOL = "rpi-fw-crypto"
DEVICE_KEY_ID = "1"
"""The device's own key; other numbers are the customer's."""
TIMEOUT_S = 10.0
ProveDevice = Callable[[Hello, Welcome], Optional[DeviceProof]]  # noqa: UP045  (evaluated, on Python 3.10 too)
_HEX = re.compile(r"(?:[0-9a-f]{2}){32,256}")


def prove_nothing(_hello: Hello, _welcome: Welcome) -> DeviceProof | None:
    """The proof of a board without a device key."""
    return None


class DeviceKey:
    """The board's device key, as far as it has one."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._public_key: str | None = None
        self._is_absent = False

    def prove(self, hello: Hello, welcome: Welcome) -> DeviceProof | None:
        """Have this conversation signed; None where the board can not."""
        try:
            public_key = self._find_public_key()
            if public_key is None:
                return None
            signature = self._sign(device_message(hello, welcome))
        except (CommandError, OSError) as exc:
            log.warning("the device key was not used: %s", exc)
            return None
        return DeviceProof(public_key=public_key, signature=signature) if signature else None

    def _find_public_key(self) -> str | None:
        """Hex of the public key; it is asked for once, as it never changes while the board is on."""
        if self._public_key is None and not self._is_absent:
            try:
                found = self._run(
                    [TOOL, "pubkey", "--key-id", DEVICE_KEY_ID, "--outform", "hex"], timeout_s=TIMEOUT_S
                )
            except CommandError as exc:
                # No tool, or the firmware's verdict: no key. Both stay so. A tool that hangs is asked again.
                self._is_absent = exc.returncode is not None or "not installed" in exc.message
                log.info("this board shows no device key: %s", exc.message.splitlines()[0])
                return None
            self._public_key = _hex(found.text)
        return self._public_key

    def _sign(self, message: bytes) -> str | None:
        import tempfile  # half a MiB of a service that enrols once

        with tempfile.NamedTemporaryFile(prefix="bramble-", suffix=".proof") as file:
            file.write(message)
            file.flush()
            argv = [TOOL, "sign", "--in", str(Path(file.name)), "--key-id", DEVICE_KEY_ID, "--alg", "ec"]
            return _hex(self._run([*argv, "--outform", "hex"], timeout_s=TIMEOUT_S).text)


def _hex(text: str) -> str | None:
    digits = text.strip().lower()
    return digits if _HEX.fullmatch(digits) else None
