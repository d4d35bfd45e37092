"""Option 43 as PXE clients use it: a list of sub-options, of which the Raspberry Pi reads the boot menu.

The EEPROM bootloader takes a server for its own when the text of a menu item contains "Raspberry Pi Boot".
Source: Raspberry Pi documentation, "Network booting" (the dump of a working answer), and its release note of
2020-03-11 (PXE_OPTION43).
"""

from __future__ import annotations

from typing import Final

from pxe.errors import WireError

DISCOVERY_CONTROL: Final = 6
BOOT_MENU: Final = 9
MENU_PROMPT: Final = 10
END: Final = 255
PI_MENU_TEXT: Final = b"Raspberry Pi Boot"
NO_DISCOVERY: Final = 3  # neither broadcast nor multicast discovery of boot servers
USE_NAMED_FILE: Final = 8  # no menu, no discovery: PXE specification 2.1, table 2-1, PXE_DISCOVERY_CONTROL
BOOT_LOCAL: Final = 0  # menu item type 0: the server that made the offer


def encode_sub_options(options: tuple[tuple[int, bytes], ...]) -> bytes:
    """Sub-options with their end mark, which the bootloader needs: it reads a little past the last item."""
    for code, value in options:
        if not 0 < code < END or len(value) > 255:
            raise WireError(f"sub-option {code} with {len(value)} bytes can not be written")
    return b"".join(bytes((code, len(value))) + value for code, value in options) + bytes((END,))


def parse_sub_options(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Read sub-options up to their end mark, or to the end of the data where the mark is missing.

    Raises:
        WireError: a length points past the end. A bare text, as some servers send it, usually ends here.
    """
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data) and data[position] != END:
        if data[position] == 0:
            position += 1
            continue
        header = data[position : position + 2]
        if len(header) != 2:
            raise WireError(f"sub-option {header[0]} has no length")
        value = data[position + 2 : position + 2 + header[1]]
        if len(value) != header[1]:
            raise WireError(f"sub-option {header[0]} says {header[1]} bytes, {len(value)} are left")
        found.append((header[0], value))
        position += 2 + header[1]
    return tuple(found)


def _menu_item(kind: int, text: bytes) -> bytes:
    return kind.to_bytes(2, "big") + bytes((len(text),)) + text


NAMED_FILE_OPTION_43: Final = encode_sub_options(((DISCOVERY_CONTROL, bytes((USE_NAMED_FILE,))),))
"""For UEFI: begin with the boot file of this offer. Without it UEFI takes an offer with option 60 for one of
a server that has more to say on port 4011."""

PI_BOOT_OPTION_43: Final = encode_sub_options(
    (
        (DISCOVERY_CONTROL, bytes((NO_DISCOVERY,))),
        (MENU_PROMPT, b"\0PXE"),  # timeout 0 s, then the prompt
        (BOOT_MENU, _menu_item(BOOT_LOCAL, PI_MENU_TEXT)),
    )
)
"""32 bytes: the answer that every EEPROM since 2019 accepts."""
