"""The installer's initramfs: the base's own, and two archives appended.

    initramfs8        of the base: busybox, udev, kmod and all drivers, exactly for its kernel
    runtime           Python with the parts of its library that the agent uses, OpenSSL and libzstd,
                      out of the base's root filesystem
    program           /init and the agent

Nothing of arm64 is executed to make it: files are read out of the ext4, and the libraries that they need are
found by reading their ELF headers. The runtime depends on the base alone and is kept in the store.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shutil
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zstandard

from imagebuilder.cpio import ARCHIVE_ALIGNMENT, CpioEntry, encode_archive, regular, symlink
from imagebuilder.disk.blockmap import ROOT_PARTITION
from imagebuilder.disk.edits import EPOCH
from imagebuilder.disk.ext4 import Ext4Volume, Inode
from imagebuilder.disk.source import open_source
from imagebuilder.disk.table import read_table
from imagebuilder.elf import is_elf, parse_needs
from imagebuilder.errors import ImageBuilderError, NotUnderstood
from imagebuilder.resources import data_dir
from imagebuilder.steps.agent import AGENT_PATH
from imagebuilder.steps.step import Json
from imagebuilder.still import FileState
from imagebuilder.store import Store

MAX_INITRAMFS_BYTES: Final = 60_000_000
"""A board loads kernel and initramfs at some 10 MB/s over TFTP and keeps them in RAM; a Pi 4 may have 1 GB.
"""

RUNTIME_FORMAT: Final = 3
"""Raised when the choice of files below changes."""

LEVEL: Final = 19
COPY_BYTES: Final = 2**20
STORE_KIND: Final = "installer-runtimes"
RUNTIME_FILE: Final = "runtime.cpio.zst"

PROGRAMS: Final = ("/usr/bin/python3",)
LIBRARIES: Final = ("libzstd.so.1",)
"""What the agent loads by itself (`agent.installer.zstd`), so that no program names it."""
OPTIONAL_PROGRAMS: Final = ("/usr/bin/rpi-fw-crypto",)
"""Taken where the base has them: with the firmware's tool a board can prove its device key."""
LIBRARY_PATH: Final = ("/usr/lib/aarch64-linux-gnu", "/usr/lib")

_OMITTED_PACKAGES: Final = frozenset(
    (
        *(
            "test",
            "idlelib",
            "ensurepip",
            "lib2to3",
            "tkinter",
            "turtledemo",
            "pydoc_data",
            "sqlite3",
            "curses",
        ),
        *("dbm", "unittest", "venv", "wsgiref", "xmlrpc", "_pyrepl", "config-3.13-aarch64-linux-gnu"),
    )
)
"""Parts of Python's library that no installer needs; by their path below it."""

_OMITTED_EXTENSIONS: Final = re.compile(
    r"lib-dynload/(_?(test|xx|ctypes_test|tkinter|curses|dbm|gdbm|sqlite3|interp|codecs_(cn|hk|iso2022|jp|kr|tw))"
    r"|readline|ossaudiodev|nis|_multibytecodec)"
)
_PYTHON_LIBRARY: Final = re.compile(r"python3\.\d+$")


def installer_identity(agent_archive: bytes) -> dict[str, Json]:
    """What the initramfs depends on apart from the base."""
    return {
        "runtime": RUNTIME_FORMAT,
        "level": LEVEL,
        "init": hashlib.sha256(_init_script()).hexdigest(),
        "agent": hashlib.sha256(agent_archive).hexdigest(),
    }


def build_initramfs(
    target: Path,
    base_initramfs: Path,
    base_id: str,
    base_disk: Path,
    agent_archive: bytes,
    store: Store,
    state: FileState | None = None,
) -> None:
    """Write the whole initramfs to ``target``.

    ``base_id`` names the content of ``base_disk``, ``state`` is that in which it has it (None: as it is now).

    Raises:
        ImageBuilderError: it came out larger than ``MAX_INITRAMFS_BYTES``.
        NotUnderstood: the base lacks Python or a library that it needs.
    """

    def make_runtime(work: Path) -> None:
        with (state or FileState.of(base_disk)).holding(base_disk):
            _write(work / RUNTIME_FILE, build_runtime(base_disk))

    entry = store.get_or_create(STORE_KIND, f"{base_id}-{RUNTIME_FORMAT}", make_runtime)
    program = encode_archive(
        [
            regular("init", _init_script(), 0o755),
            regular(AGENT_PATH.lstrip("/"), agent_archive, 0o755),
            # Interfaces keep the kernel's names (eth0), as on the installed system.
            symlink("etc/systemd/network/99-default.link", "/dev/null"),
        ],
        EPOCH,
    )
    with target.open("wb") as file:
        for part in (base_initramfs, entry / RUNTIME_FILE):
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, COPY_BYTES)
            file.write(bytes(-file.tell() % ARCHIVE_ALIGNMENT))
        file.write(program)
    size = target.stat().st_size
    if size > MAX_INITRAMFS_BYTES:
        raise ImageBuilderError(
            f"the installer's initramfs has {size} bytes, at most {MAX_INITRAMFS_BYTES} are allowed; "
            f"the base's own has {base_initramfs.stat().st_size}",
            "Use a base whose initramfs is smaller (fewer modules, zstd or xz compression).",
        )


def build_runtime(base_disk: Path) -> bytes:
    """Python and libzstd out of a base's root filesystem, as a compressed cpio archive."""
    with open_source(base_disk) as source:
        table = read_table(source, base_disk.stat().st_size)
        root = Ext4Volume(source, table.partition(ROOT_PARTITION).offset)
        archive = encode_archive(_runtime_entries(root), EPOCH)
    compressor = zstandard.ZstdCompressor(
        level=LEVEL, threads=2, write_content_size=True, write_checksum=True
    )
    return compressor.compress(archive)


def _runtime_entries(root: Ext4Volume) -> Iterator[CpioEntry]:
    """Programs, the Python library and the libraries that they need; links are kept, each path comes once."""
    seen: set[str] = set()
    optional = [path for path in OPTIONAL_PROGRAMS if root.find(path) is not None]
    libraries = [_library(root, name) for name in LIBRARIES]
    todo = deque([*PROGRAMS, *libraries, *optional, *_python_files(root)])
    while todo:
        path = todo.popleft()
        if path in seen:
            continue
        seen.add(path)
        inode = root.find(path, follow=False)
        if inode is None:
            raise NotUnderstood(f"the base's root filesystem holds no {path}", "Use another base.")
        if inode.is_symlink:
            target = root.read_link(inode)
            yield symlink(path.lstrip("/"), target)
            todo.append(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
            continue
        content = root.read_inode(inode)
        yield regular(path.lstrip("/"), content, stat.S_IMODE(inode.mode))
        if is_elf(content):
            needs = parse_needs(content)
            todo.extend(_library(root, name) for name in needs.libraries)
            if needs.interpreter is not None:
                todo.append(_merged_usr(needs.interpreter))


def _python_files(root: Ext4Volume) -> Iterator[str]:
    """The kept part of /usr/lib/python3.X, byte code included where the base has it: it halves the start."""
    names = [name for name in root.list_directory(root.require("/usr/lib")) if _PYTHON_LIBRARY.match(name)]
    if len(names) != 1:
        raise NotUnderstood(
            f"/usr/lib of the base holds {len(names)} libraries of Python 3: {sorted(names)}",
            "Use a base with exactly one Python 3.",
        )
    top = f"/usr/lib/{names[0]}"
    for path, inode in root.walk(top):
        if not inode.is_directory and _is_kept(path.removeprefix(f"{top}/"), inode):
            yield path


def _is_kept(relative: str, inode: Inode) -> bool:
    parts = relative.split("/")
    if any("/".join(parts[:depth]) in _OMITTED_PACKAGES for depth in range(1, len(parts))):
        return False
    if inode.is_file and not relative.endswith((".py", ".pyc", ".so")):
        return False
    return not _OMITTED_EXTENSIONS.match(relative)


def _library(root: Ext4Volume, name: str) -> str:
    for directory in LIBRARY_PATH:
        if root.find(f"{directory}/{name}") is not None:
            return f"{directory}/{name}"
    raise NotUnderstood(
        f"the base lacks the library {name}; looked in {', '.join(LIBRARY_PATH)}",
        "The base is incomplete; build it again.",
    )


def _merged_usr(path: str) -> str:
    """Where a path of the root lies in the initramfs, whose /lib, /bin and /sbin are links into /usr."""
    return f"/usr{path}" if path.startswith(("/lib/", "/bin/", "/sbin/")) else path


def _init_script() -> bytes:
    return (data_dir("overlays") / "installer" / "init").read_bytes()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
