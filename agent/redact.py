"""Takes secrets out of log lines before they leave the node. Pure.

What it knows: k3s tokens (full and bootstrap), bearer and basic credentials, private keys in PEM, values that
stand behind words such as `token=`, `password:`, `--token` or a kubeconfig's `client-key-data:`. Their quotes
may be escaped (JSON in a logged message) or missing (the line was cut). It is the second line of defence:
nothing of ours logs secrets, but k3s's journal and a container's messages are other people's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

HIDDEN = "[hidden]"
# From the start of a word only: at every hyphen anew, a long line would take minutes.
_NAME = (
    r"(?<![\w-])[\w-]*(?:token|passw(?:or)?d|passphrase|secret|api[_-]?key|private[_-]?key|key-data|credential)s?"
    r"(?:\\*[\"'])?"
)
_VALUE = (
    r"(?:(?P<quote>\\+[\"'])(?:(?!(?P=quote)).)*(?:(?P=quote)|$)"  # \"in a quoted text\"
    r"|\"(?:[^\"\\]|\\.)*(?:\"|\\?$)|'[^']*(?:'|$)|[^\s,;&]+)"
)
_RULES = (
    # K10<64 hex>::<user>:<password>, the pin of the CA is no secret
    (re.compile(r"(K10[0-9a-f]{64}::)\S+"), rf"\1{HIDDEN}"),
    # bootstrap token: <6>.<16>; its id alone is shown by 'k3s token list'
    (re.compile(r"\b([a-z0-9]{6})\.[a-z0-9]{16}\b"), rf"\1.{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/-]{8,}=*"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)://([^/\s:@]+):[^/\s@]+@"), rf"://\1:{HIDDEN}@"),
    (re.compile(rf"(?is)({_NAME}\s*[=:]\s*){_VALUE}"), rf"\1{HIDDEN}"),
    # --token abc; as a list of words too: "--token", "abc"
    (re.compile(rf"(?is)((?=--){_NAME}(?:\s*,\s*|\s+))(?!-){_VALUE}"), rf"\1{HIDDEN}"),
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
    return (shown for _line, shown in redact_pairs(lines))


def redact_pairs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Like `redact_lines`, each with the line as it was: for finding something in it, not for showing."""
    in_key = False
    for line in lines:
        if in_key:
            in_key = _KEY_END.search(line) is None
            continue
        begin = _KEY_BEGIN.search(line)
        if begin is not None:
            in_key = _KEY_END.search(line, begin.end()) is None
            yield line, f"{redact(line[: begin.start()])}{HIDDEN}"
            continue
        yield line, redact(line)
