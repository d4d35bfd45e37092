"""What the boot files told the installer: `bramble.*` words of the kernel command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.errors import AgentError

_PREFIX = "bramble."
_KNOWN = frozenset({"control", "pin", "intent", "node"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallerConfig:
    """`pin` is the SHA-256 of the control server's certificate (DER), hex; `node` is for the console only."""

    control_urls: tuple[str, ...]
    pin: str
    intent: int
    node: str | None = None


def parse_cmdline(text: str) -> InstallerConfig:
    """Parse /proc/cmdline. Words of others are left alone; a repeated word counts as the kernel counts it:
    the last.

    Raises:
        AgentError: a word of ours is missing or malformed.
    """
    words: dict[str, str] = {}
    for word in text.split():
        key, separator, value = word.partition("=")
        name = key[len(_PREFIX) :] if key.startswith(_PREFIX) else ""
        if separator and name in _KNOWN:
            words[name] = value
    hint = "The installer is started by boot files that 'bramble serve' renders; it is not run by hand."
    for name in ("control", "pin", "intent"):
        if not words.get(name):
            raise AgentError(f"the kernel command line has no {_PREFIX}{name}=", hint)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", words["pin"]):
        raise AgentError(f"{_PREFIX}pin={words['pin']!r} is no SHA-256: 64 hex digits are expected", hint)
    if not re.fullmatch(r"[0-9]{1,18}", words["intent"]):
        raise AgentError(f"{_PREFIX}intent={words['intent']!r} is not a number", hint)
    return InstallerConfig(
        control_urls=tuple(url for url in words["control"].split(",") if url),
        pin=words["pin"].lower(),
        intent=int(words["intent"]),
        node=words.get("node") or None,
    )
