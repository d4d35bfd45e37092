"""One parser per kind of value that people write into cluster.yaml: text in, inner value out.

Each raises `ValueFault` (or `BoardError`, which has the same shape) with what was found, what was expected
and what to do. A text that may be a secret is never quoted.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from fleet.boards import BoardModel, MacAddress, Serial
from fleet.errors import InputError
from fleet.spec.model import AddressPool, Taint
from fleet.store_place import PlaceError, parse_postgres

EnumT = TypeVar("EnumT", bound=StrEnum)

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_KUBERNETES_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_K3S_VERSION: Final = re.compile(r"v\d+\.\d+\.\d+(-rc\d+)?\+k3s\d+", re.ASCII)
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")
_SECONDS_PER_UNIT: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SSH_KEY_TYPES: Final = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_TAINT_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class ValueFault(InputError, ValueError):
    """A text that is not the value its key needs."""


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of what is known where nothing is near."""
    choices = list(known)
    near = difflib.get_close_matches(word.casefold(), choices, n=1, cutoff=0.6)
    near = near or [choice for choice in choices if word and choice.startswith(word.casefold())]
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"Known here: {', '.join(sorted(choices))}."


def expect_text(value: Any, expected: str) -> str:
    """Refuse a list or mapping where one word belongs."""
    if isinstance(value, str):
        return value.strip()
    kind = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    raise ValueFault(f"found {kind}, expected {expected}")


def enum_parser(choices: type[EnumT]) -> Callable[[Any], EnumT]:
    """A parser for the members of a StrEnum by their values."""
    names = [member.value for member in choices]

    def parse(value: Any) -> EnumT:
        text = expect_text(value, f"one of {', '.join(names)}")
        if text.casefold() in names:
            return choices(text.casefold())
        raise ValueFault(f"{text!r} is not one of {', '.join(names)}", suggest(text, names))

    return parse


def parse_board(value: Any) -> BoardModel:
    return BoardModel.parse(expect_text(value, "the name of a board"))


def parse_mac(value: Any) -> MacAddress:
    return MacAddress.parse(expect_text(value, "a MAC address"))


def parse_serial(value: Any) -> Serial:
    return Serial.parse(expect_text(value, "a serial of 16 hexadecimal digits"))


_IMAGE_REFERENCE = re.compile(
    r"[a-z0-9][a-z0-9.-]*(?::[0-9]{1,5})?(?:/[a-z0-9._-]+)+(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
"""Source: the distribution project's reference grammar, without its short forms."""


def parse_image_reference(value: Any) -> str:
    """A container image with its registry, and with a tag or a digest: `ghcr.io/owner/name:v1.2.3`."""
    text = expect_text(value, "a container image")
    if not _IMAGE_REFERENCE.fullmatch(text) or not re.search(r"(:[^/]+|@sha256:.*)$", text):
        raise ValueFault(
            f"{text!r} is not the full name of a container image",
            "Write registry, path and tag, like 'ghcr.io/kube-vip/kube-vip:v1.0.4'.",
        )
    return text


def parse_label(value: Any) -> str:
    """A node's or cluster's name: one RFC 1123 label, because host and Kubernetes object get it."""
    text = expect_text(value, "a name")
    if len(text) > 63:
        raise ValueFault(f"{text!r} has {len(text)} characters, a host name has at most 63", "Shorten it.")
    if not _LABEL.fullmatch(text):
        mended = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")[:63].strip("-")
        hint = f"Write {mended!r}." if mended else "Use a to z, 0 to 9 and '-'."
        raise ValueFault(
            f"{text!r} is not a host name: lower-case letters, digits and inner '-' are allowed", hint
        )
    return text


def parse_domain(value: Any) -> str:
    text = expect_text(value, "a domain name").removesuffix(".").casefold()
    if len(text) > 190:
        # 253 octets is DNS's limit (RFC 1035 §2.3.4); a node's label and its dot need up to 64 of them.
        raise ValueFault(f"the domain has {len(text)} characters, at most 190 leave room for node names")
    for label in text.split("."):
        if not _LABEL.fullmatch(label):
            raise ValueFault(f"{text!r} is not a domain name: {label!r} is not a host name label")
    if text == "local" or text.endswith(".local"):
        raise ValueFault(f"{text!r} belongs to multicast DNS (RFC 6762)", "Use a name under 'internal'.")
    return text


def parse_ipv4(value: Any) -> IPv4Address:
    text = expect_text(value, "an IPv4 address")
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        hint = "Write the address without '/…'." if "/" in text else ""
        raise ValueFault(f"{text!r} is not an IPv4 address like 192.168.86.33", hint) from error


def parse_subnet(value: Any) -> IPv4Network:
    """A network with its prefix length; a host address with one is corrected in the hint, not silently."""
    text = expect_text(value, "a subnet like 192.168.86.0/24")
    if "/" not in text:
        raise ValueFault(f"{text!r} has no prefix length, a subnet is written 192.168.86.0/24")
    try:
        loose = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise ValueFault(f"{text!r} is not a subnet like 192.168.86.0/24") from error
    if str(loose.network_address) != text.split("/")[0]:
        raise ValueFault(f"{text!r} has host bits set, a subnet has none", f"Write '{loose}'.")
    if loose.prefixlen > 30:
        raise ValueFault(f"{text!r} has no room for a server and a node", "Use a prefix length up to 30.")
    return loose


def parse_network(value: Any) -> IPv4Network:
    """A network or a single address; an address alone is a network of one."""
    text = expect_text(value, "a network like 192.168.86.0/24")
    try:
        return IPv4Network(text)
    except ValueError as error:
        hint = "Host bits have to be zero, and the prefix length is from 0 to 32."
        raise ValueFault(f"{text!r} is not a network like 192.168.86.0/24", hint) from error


def parse_pool(value: Any) -> AddressPool:
    text = expect_text(value, "a range like 192.168.86.200-192.168.86.230")
    first, dash, last = text.partition("-")
    if not dash:
        raise ValueFault(f"{text!r} is not a range like 192.168.86.200-192.168.86.230")
    pool = AddressPool(parse_ipv4(first), parse_ipv4(last))
    if pool.last < pool.first:
        raise ValueFault(f"the pool runs backwards, {pool.last} lies before {pool.first}", "Swap its ends.")
    return pool


def parse_k3s_version(value: Any) -> str:
    text = expect_text(value, "a k3s version")
    if not _K3S_VERSION.fullmatch(text):
        raise ValueFault(
            f"{text!r} is not an exact k3s version like v1.33.5+k3s1",
            "Channels such as 'stable' move; take the tag from https://github.com/k3s-io/k3s/releases.",
        )
    return text


def parse_package(value: Any) -> str:
    text = expect_text(value, "a Debian package name")
    if not _PACKAGE.fullmatch(text):
        raise ValueFault(f"{text!r} is not a Debian package name (lower-case letters, digits, '+', '-', '.')")
    return text


def parse_user(value: Any) -> str:
    text = expect_text(value, "a login name")
    if not _USER.fullmatch(text):
        raise ValueFault(f"{text!r} is not a login name: lower-case letters, digits, '_' and '-', at most 32")
    if text == "root":
        raise ValueFault("'root' cannot be the login of a node", "Name a user; it may use sudo.")
    return text


def parse_interface(value: Any) -> str:
    text = expect_text(value, "the name of a network interface")
    if not _INTERFACE.fullmatch(text):
        raise ValueFault(
            f"{text!r} is not a network interface: at most 15 characters, no '/' or ':'", "See 'ip -br link'."
        )
    return text


def parse_ssh_key(value: Any) -> str:
    """One line of an authorized_keys file, options included. Never quoted back: it may be private."""
    text = expect_text(value, "an SSH public key")
    convert = "Convert it with 'ssh-keygen -i -f KEYFILE' and paste the line that it prints."
    if "PRIVATE KEY" in text or "PuTTY-User-Key-File" in text:
        raise ValueFault(
            "this is a private key; it must not stand here and is not shown",
            "Put the line of the .pub file here, and take this file out of version control if it is in one.",
        )
    if "BEGIN SSH2 PUBLIC KEY" in text:
        raise ValueFault("the key is in PuTTY's format, expected one line of OpenSSH's", convert)
    if re.search(r"[\r\n]", text):
        raise ValueFault(
            "the key has a line break in it, an OpenSSH public key is one line", "Join the lines."
        )
    words = text.split()
    kind = next((word for word in words if word in _SSH_KEY_TYPES), None)
    if kind is None:
        if re.fullmatch(r"\S+\.pub", text):
            raise ValueFault(
                f"{text!r} is a file name, expected the key itself", f"Paste what 'cat {text}' prints."
            )
        if "ssh-dss" in words:
            raise ValueFault("OpenSSH no longer accepts DSA keys", "Make one with 'ssh-keygen -t ed25519'.")
        raise ValueFault(
            f"the text names no key type that OpenSSH knows ({', '.join(_SSH_KEY_TYPES[:3])}, …)",
            "Paste the line of ~/.ssh/id_ed25519.pub.",
        )
    position = words.index(kind) + 1
    body = words[position] if position < len(words) else ""
    try:
        blob = base64.b64decode(body, validate=True)
    except binascii.Error:
        blob = b""
    # Source: RFC 4253 §6.6: a key blob opens with its type as a string, uint32 length first.
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind.encode()) or len(blob) < len(kind) + 4 + 32:
        raise ValueFault(f"the {kind} key is cut off or damaged", "Paste the whole line of the .pub file.")
    return text


def parse_duration(value: Any) -> int:
    """`90s`, `15m`, `2h`, `1d` → seconds."""
    text = expect_text(value, "a duration like 15m")
    match = re.fullmatch(r"(\d{1,6})\s*([smhd])", text)
    if not match:
        raise ValueFault(f"{text!r} is not a duration like 90s, 15m or 2h", "Write the unit.")
    return int(match[1]) * _SECONDS_PER_UNIT[match[2]]


def render_duration(seconds: int) -> str:
    """Seconds → what a person writes: `7d`, `90s`. `parse_duration` reads it again, whatever it had read."""
    unit = next((unit for unit in "dhm" if seconds and seconds % _SECONDS_PER_UNIT[unit] == 0), "s")
    return f"{seconds // _SECONDS_PER_UNIT[unit]}{unit}"


def parse_memory(value: Any) -> int:
    """`1G`, `8 GB`, `512M` → MiB. Boards are sold in powers of two, so G means GiB."""
    text = expect_text(value, "a memory size like 4G")
    match = re.fullmatch(r"(\d{1,6})\s*([MG])(i?B)?", text, re.IGNORECASE)
    if not match or not int(match[1]):
        raise ValueFault(f"{text!r} is not a memory size like 1G, 4G or 512M")
    return int(match[1]) * (1024 if match[2].upper() == "G" else 1)


def render_memory(mib: int) -> str:
    """MiB → what a person writes: `4G`, `1500M`. `parse_memory` reads it again."""
    return f"{mib}M" if mib % 1024 else f"{mib // 1024}G"


def parse_http_url(value: Any) -> str:
    """An http(s) URL without a password in it."""
    text = expect_text(value, "a URL")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueFault(f"{text!r} is not a URL that starts with http:// or https:// and a host")
    return text


def parse_store_url(value: Any) -> str:
    """A PostgreSQL URL without a password in it."""
    try:
        return parse_postgres(expect_text(value, "a URL")).url
    except PlaceError as error:
        raise ValueFault(error.message, error.hint) from error


def parse_sha256(value: Any) -> str:
    text = expect_text(value, "a SHA-256 of 64 hexadecimal digits").casefold()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueFault(
            f"{text!r} is not a SHA-256: it has {len(text)} characters, expected 64 hexadecimal digits",
            "Take it from the .sha256 file beside the image.",
        )
    return text


def parse_host(value: Any) -> str:
    text = expect_text(value, "a host name or address").casefold()
    if not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueFault(f"{text!r} is not a host name or an IPv4 address")
    return text


def parse_file_system_label(value: Any) -> str:
    """The label of a file system; ext4 has 16 bytes for it, XFS 12."""
    text = expect_text(value, "the label of a file system")
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,16}", text):
        raise ValueFault(
            f"{text!r} is not a label of 1 to 16 letters, digits and _ . + -",
            "Give the file system such a label, 'e2label /dev/nvme0n1p3 data', and write that.",
        )
    return text


def parse_variable(value: Any) -> str:
    """The name of an environment variable; one that begins with the secret itself is not a name."""
    text = expect_text(value, "the name of an environment variable")
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", text):
        raise ValueFault(
            "the text is not the name of an environment variable (not shown here)",
            "Write a name in capitals like SWITCH_COMMUNITY, and set the variable where 'bramble serve' "
            "runs.",
        )
    return text


def parse_kubernetes_key(value: Any) -> str:
    """The key of a label or taint: `name` or `prefix.example/name`.

    Source: Kubernetes documentation, "Labels and Selectors", syntax and character set.
    """
    text = expect_text(value, "a key")
    prefix, slash, name = text.rpartition("/")
    prefix_ok = not slash or (
        len(prefix) <= 253 and all(_LABEL.fullmatch(label) for label in prefix.split("."))
    )
    if not prefix_ok or not _KUBERNETES_NAME.fullmatch(name):
        raise ValueFault(f"{text!r} is not a Kubernetes key like 'tier' or 'example.org/tier'")
    return text


def parse_kubernetes_value(value: Any) -> str:
    text = "" if value is None else expect_text(value, "a text")
    if text and not _KUBERNETES_NAME.fullmatch(text):
        raise ValueFault(f"{text!r} is not a label value (up to 63 letters, digits, inner '-', '_' and '.')")
    return text


def parse_taint(value: Any) -> Taint:
    """`key=value:Effect` or `key:Effect`."""
    text = expect_text(value, "a taint like 'gpu=yes:NoSchedule'")
    body, colon, effect = text.rpartition(":")
    if not colon:
        raise ValueFault(f"{text!r} has no effect, a taint is written 'gpu=yes:NoSchedule'")
    if effect not in _TAINT_EFFECTS:
        raise ValueFault(f"{effect!r} is not an effect of a taint", suggest(effect, _TAINT_EFFECTS))
    key, _, taint_value = body.partition("=")
    return Taint(parse_kubernetes_key(key), parse_kubernetes_value(taint_value), effect)
