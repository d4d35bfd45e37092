"""Takes secrets out of log lines before they leave the node. Pure.

What it knows: k3s tokens (full and bootstrap), bearer and basic credentials, private keys in PEM, values that
stand behind words such as `token=` or `password:`. It is the second line of defence: nothing of ours logs
secrets, but k3s's journal and a container's messages are other people's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

HIDDEN = "[hidden]"
_RULES = (
    # K10<64 hex>::<user>:<password>, the pin of the CA is no secret
    (re.compile(r"(K10[0-9a-f]{64}::)\S+"), rf"\1{HIDDEN}"),
    # bootstrap token: <6>.<16>; its id alone is shown by 'k3s token list'
    (re.compile(r"\b([a-z0-9]{6})\.[a-z0-9]{16}\b"), rf"\1.{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/-]{8,}=*"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)://([^/\s:@]+):[^/\s@]+@"), rf"://\1:{HIDDEN}@"),
    (
        re.compile(
            r"(?i)\b([\w-]*(?:token|passw(?:or)?d|passphrase|secret|api[_-]?key|credential)s?[\"']?\s*[=:]\s*)"
            r"(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
        ),
        rf"\1{HIDDEN}",
    ),
)
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_END = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")


def redact(line: str) -> str:
    """The line with what looks like a secret replaced."""
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line


def redact_lines(lines: Iterable[str]) -> Iterator[str]:
    """Line by line; a private key is left out over all its lines, also one that never ends."""
    in_key = False
    for line in lines:
        if in_key:
            in_key = _KEY_END.search(line) is None
            continue
        begin = _KEY_BEGIN.search(line)
        if begin is not None:
            in_key = _KEY_END.search(line, begin.end()) is None
            yield f"{redact(line[: begin.start()])}{HIDDEN}"
            continue
        yield redact(line)
