from __future__ import annotations

from pathlib import Path

import pytest

from imagebuilder.sandbox import (
    IdRange,
    find_subids,
    is_usable_entry,
    keep_all_ids,
    parse_id_map,
    registration,
    sandboxed,
)


def test_id_map_is_read_as_the_kernel_writes_it() -> None:
    text = "         0       1000          1\n         1     100000      65536\n"
    assert parse_id_map(text) == [IdRange(0, 1000, 1), IdRange(1, 100000, 65536)]


def test_root_keeps_every_id_that_it_has() -> None:
    own = parse_id_map("0 100000 65536\n70000 300000 10\n")
    assert keep_all_ids(own) == [IdRange(0, 0, 65536), IdRange(70000, 70000, 10)]


def test_subordinate_ids_are_found_by_name_or_number() -> None:
    table = "root:1:2\nada:100000:65536\n1001:200000:65536\nbroken line\nada:x:y\n"
    assert find_subids(table, "ada", 1000) == IdRange(1, 100000, 65536)
    assert find_subids(table, "bob", 1001) == IdRange(1, 200000, 65536)
    assert find_subids(table, "eve", 1002) is None


def test_registration_matches_arm64_programs_and_opens_the_interpreter_at_once() -> None:
    name, kind, offset, magic, mask, interpreter, flags = registration(Path("/usr/bin/qemu"))[1:].split(":")
    assert (name, kind, offset, interpreter, flags) == ("qemu-aarch64", "M", "", "/usr/bin/qemu", "F")
    magic_bytes, mask_bytes = (bytes.fromhex(text.replace(r"\x", "")) for text in (magic, mask))
    # The first 20 bytes of an arm64 ELF program and of an amd64 one: e_ident, e_type, e_machine.
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    arm64, amd64 = ident + b"\x03\x00\xb7\x00", ident + b"\x03\x00\x3e\x00"

    def matches(header: bytes) -> bool:
        return bytes(a & b for a, b in zip(header, mask_bytes, strict=True)) == magic_bytes

    assert matches(arm64)
    assert not matches(amd64)


def test_emulation_is_asked_for_only_where_it_is_needed() -> None:
    assert "--no-arm64" not in sandboxed(["true"])
    assert sandboxed(["rm", "-rf"], arm64=False)[-4:] == ["--no-arm64", "--", "rm", "-rf"]


@pytest.mark.parametrize(
    ("flags", "state", "usable"),
    [
        ("OPF", "enabled", True),
        ("F", "enabled", True),
        ("OC", "enabled", False),
        ("", "enabled", False),
        ("F", "disabled", False),
    ],
)
def test_hosts_registration_counts_if_it_works_in_a_tree(flags: str, state: str, usable: bool) -> None:
    text = f"{state}\ninterpreter /usr/bin/qemu-aarch64\nflags: {flags}\noffset 0\nmagic 7f454c46\n"
    assert is_usable_entry(text) is usable
