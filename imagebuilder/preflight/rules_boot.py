"""Rules over what the firmware and the kernel do: boards, command line, partitions, memory cgroup. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from imagebuilder.inspect import BoardFacts
from imagebuilder.preflight.evidence import Evidence, command_line
from imagebuilder.preflight.finding import Finding, error, note, warning

MAX_CMDLINE_BYTES: Final = 2047
"""COMMAND_LINE_SIZE of arm64 less its NUL; the kernel cuts off the rest.
Source: Linux, arch/arm64/include/uapi/asm/setup.h."""

PAGE_4K: Final = 4096


def check_boards(evidence: Evidence) -> Iterator[Finding]:
    """Each board has a kernel, a device tree, modules for that kernel, and pages of the usual size."""
    versions = {kernel.path: kernel.version for kernel in evidence.facts.kernels}
    installed = evidence.facts.module_versions
    # Of boards that nobody asked for it is good to know and no fault.
    unbootable = warning if evidence.is_for_all_boards else error
    for board in evidence.boards:
        if board.problem is not None:
            yield unbootable(
                "board-boots",
                "boot:/config.txt",
                f"a {board.model.title} does not boot: {board.problem}",
                "Take a base with files for this board, or leave the board out of cluster.yaml.",
            )
        elif board.device_tree is None:
            yield warning(
                "device-tree",
                "boot:/",
                f"a {board.model.title} finds no device tree of its own ({', '.join(board.model.dtb_names)})",
                "Take a newer base, or name a tree that fits in config.txt: device_tree=FILE.",
            )
    for kernel, boards in _by(evidence.boards, lambda board: board.kernel or ""):
        if not kernel:
            continue
        pages = boards[0].page_bytes
        if pages is not None and pages != PAGE_4K:
            yield warning(
                "page-size",
                f"boot:/{kernel}",
                f"{_titles(boards)} run with pages of {pages // 1024} KiB; programs that were built for 4 "
                "KiB pages (some databases, allocators and container images among them) crash at start",
                "In config.txt, below [pi5]: kernel=kernel8.img, and: initramfs initramfs8 followkernel",
            )
        version = versions.get(kernel)
        if version is not None and installed and version not in installed:
            yield error(
                "kernel-modules",
                f"boot:/{kernel}",
                f"{_titles(boards)} run kernel {version}, /lib/modules has {', '.join(installed)}: they come "
                "up without network, vfat and container networking",
                "Put kernel and modules of one build on both partitions; build the image again.",
            )
    for fault in evidence.facts.boot.faults:
        yield warning("fat-clean", "boot:/", f"the boot partition: {fault}", "Run fsck.vfat on it.")


def check_cmdline(evidence: Evidence) -> Iterator[Finding]:
    """Each command line file is one line that the firmware reads whole."""
    for name in evidence.facts.cmdlines:
        place = f"boot:/{name}"
        data = evidence.boot.read(f"/{name}") or b""
        rest = data.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[1:]
        if data.startswith(b"\xef\xbb\xbf"):
            yield error(
                "cmdline-bom",
                place,
                "it begins with a byte order mark, which becomes part of the first word",
                "Save it as UTF-8 without a byte order mark.",
            )
        if rest and rest[0].strip():
            ignored = rest[0].strip().decode("utf-8", "replace").splitlines()[0]
            yield error(
                "cmdline-one-line",
                place,
                f"it has more than one line; everything after the first is ignored: {ignored[:80]!r}",
                "Put all words on the first line.",
            )
        if b"\r" in data:
            yield warning(
                "cmdline-cr",
                place,
                "it has a carriage return, which becomes part of the last word",
                "Save it with Unix line ends.",
            )
        if b"\0" in data.rstrip(b"\0") or data.endswith(b"\0"):
            yield warning("cmdline-nul", place, "it holds a NUL; what follows it is ignored", "Remove it.")
        line = command_line(data)
        if len(line.encode()) > MAX_CMDLINE_BYTES:
            yield error(
                "cmdline-length",
                place,
                f"it has {len(line.encode())} bytes, the kernel takes {MAX_CMDLINE_BYTES}",
                "Shorten it.",
            )
        words = line.split()
        roots = [word for word in words if word.startswith("root=")]
        if not roots:
            yield error("cmdline-root", place, "it names no root= partition", "Add root=PARTUUID=….")
        elif len(roots) > 1:
            yield warning(
                "cmdline-root", place, f"it has {len(roots)} times root=; the last one counts", "Keep one."
            )
        yield from _rewriters(evidence, place, words)


def _rewriters(evidence: Evidence, place: str, words: list[str]) -> Iterator[Finding]:
    """Words that make the stock system give the disk a new signature at first boot."""
    armed = [word for word in words if word == "resize" or (word.startswith("init=") and "firstboot" in word)]
    for word in armed:
        effect = f"{word!r} makes the first boot grow the root and give the disk a new signature"
        if evidence.is_ours:
            yield error(
                "disk-signature",
                place,
                f"{effect}; the node's own was written into cmdline.txt and fstab already",
                "Take the word out; Bramble's images grow by themselves.",
            )
        else:
            yield note("disk-signature", place, f"{effect}; cmdline.txt and fstab follow")
    for word in words:
        if word.startswith("systemd.run=") and not evidence.boot.has(
            "/" + word.partition("=")[2].rpartition("/")[2]
        ):
            yield error(
                "systemd-run",
                place,
                f"{word!r} runs a script that is not on the boot partition; the boot ends there",
                "Remove the systemd.* words, or put the script back.",
            )


def check_references(evidence: Evidence) -> Iterator[Finding]:
    """fstab and command line lead to partitions of this disk."""
    facts = evidence.facts
    wanted = {
        "/": facts.root.partition,
        "/boot/firmware": facts.boot.partition,
        "/boot": facts.boot.partition,
    }
    for reference in facts.references:
        side = "root" if reference.place.startswith("/") else "boot"
        place = f"{side}:/{reference.place.lstrip('/')}"
        if reference.partition is None:
            ids = ", ".join(entry.partuuid for entry in facts.table.partitions)
            yield error(
                "partition-reference",
                place,
                f"{reference.mount} is {reference.names}, which no partition of this disk is called (disk "
                f"{facts.table.disk_id} has PARTUUIDs {ids}; labels {facts.boot.label!r}, "
                f"{facts.root.label!r})",
                "The disk's signature was changed, or this file was taken from another image: make them "
                "agree.",
            )
        elif reference.partition != wanted[reference.mount]:
            yield error(
                "partition-reference",
                place,
                f"{reference.mount} is {reference.names}, which is partition {reference.partition}, expected "
                f"partition {wanted[reference.mount]}",
                "Name the right partition.",
            )
    mounted = {reference.mount for reference in facts.references if reference.place == "/etc/fstab"}
    if not mounted & {"/boot/firmware", "/boot"}:
        yield warning(
            "boot-mounted",
            "root:/etc/fstab",
            "it does not mount the boot partition: kernel updates go nowhere, and seed files are not found "
            "there",
            "Add a line for /boot/firmware.",
        )


def check_memory_cgroup(evidence: Evidence) -> Iterator[Finding]:
    """The memory cgroup is on, which kubelet insists on; of contradicting words the last one counts."""
    if not evidence.facts.cmdlines:
        return
    place = f"boot:/{evidence.facts.cmdlines[0]}"
    words = evidence.cmdline.split()
    has_k3s = evidence.root.has("/usr/local/bin/k3s")

    def bootargs(board: BoardFacts) -> str:
        return evidence.bootargs.get(board.device_tree or "", "")

    for given, boards in _by(evidence.boards, bootargs):
        if _memory_is_on([*given.split(), *words]):
            continue
        off = next(word for word in reversed([*given.split(), *words]) if word.startswith("cgroup_disable="))
        late = "cgroup_enable=memory" in words
        message = (
            f"the memory cgroup is off on {_titles(boards)}: "
            f"{'the command line' if off in words else 'the device tree'} says {off}"
            + (", after cgroup_enable=memory: the last word counts" if late else "")
            + (", and current kernels do not know cgroup_memory=1" if "cgroup_memory=1" in words else "")
        )
        mend = "Put cgroup_enable=memory at the end of the line."
        if has_k3s:
            yield error("memory-cgroup", place, f"{message}. k3s does not start without it", mend)
        else:
            yield warning("memory-cgroup", place, message, mend)


def _by(
    boards: tuple[BoardFacts, ...], key: Callable[[BoardFacts], str]
) -> Iterator[tuple[str, list[BoardFacts]]]:
    groups: dict[str, list[BoardFacts]] = {}
    for board in boards:
        groups.setdefault(key(board), []).append(board)
    yield from groups.items()


def _titles(boards: list[BoardFacts]) -> str:
    names = [board.model.title.removeprefix("Raspberry ") for board in boards]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _memory_is_on(words: list[str]) -> bool:
    on = True
    for word in words:
        key, _, value = word.partition("=")
        if key in ("cgroup_enable", "cgroup_disable") and "memory" in value.split(","):
            on = key == "cgroup_enable"
    return on
