"""The installer's pipeline beside what bounds it: bringing the image, and writing a disk (a file here)."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.installer.device import TargetDisk
from agent.installer.index import ImageIndex, parse_index
from agent.installer.occupant import encode_marker
from agent.installer.stream import ImageStream
from agent.installer.writer import ImageWriter
from agent.protocol import Occupant
from benchmarks.bench import Bench, require_private_network
from benchmarks.demo_image import demo_spec, linked_store, require_base
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.measure import Better, Subject, Table, interleave
from benchmarks.processes import LOOPBACK
from benchmarks.programs import Program, not_installed
from benchmarks.servers import bramble_server
from bramble.paths import agent_package
from imagebuilder.build import Image, build_image

NAME: Final = "images/bench/disk.img.zst"
SPARE_BYTES: Final = 64 << 20
"""What the disk has beyond the image, for the root partition to grow into."""
TIMEOUT_S: Final = 900
LINK_MBIT: Final = 940
"""What is left of a gigabit for the payload of TCP."""
MARKER: Final = encode_marker(Occupant("bench", "bench", "bench", "0" * 32))


def run(bench: Bench) -> list[Table]:
    """One image, from Bramble's content server onto one disk: over a link of a gigabit, and without one."""
    curl, zstd, dd, tc = (_require(bench, name) for name in ("curl", "zstd", "dd", "tc"))
    require_base(bench.store)
    require_private_network()
    with bench.directory("installer") as work, linked_store(bench) as store:
        image = build_image(demo_spec(work), store=store, agent_package=agent_package())
        index = parse_index(image.index.read_bytes())
        served = work / "root" / NAME
        served.parent.mkdir(parents=True)
        shutil.copyfile(image.compressed, served)
        mapped, disk = work / "mapped", work / "disk"
        _write_mapped(image, index, mapped)
        with disk.open("wb") as file:
            file.truncate(index.size_bytes + SPARE_BYTES)
        written, sent = index.mapped_bytes / 1e6, served.stat().st_size / 1e6
        with bramble_server(work / "root", work) as server:
            url = f"http://{LOOPBACK}:{server.http}/{NAME}"
            writing = Subject(
                name="bramble installer, invalidating and writing",
                measure=lambda: written / _install(url, index, disk, image)[0],
                note="each chunk's SHA-256 is checked on the way; flushed every 32 MiB",
            )
            source = Subject(
                name="the source: curl into zstd -dc",
                measure=functools.partial(_rate, written, lambda: _bring(curl, zstd, url)),
                note="the whole image with its holes, unpacked and thrown away; nothing is checked",
            )
            target = Subject(
                name="the disk: dd, flushed once",
                measure=functools.partial(_rate, written, lambda: _copy(dd, mapped, disk)),
                note="as many bytes from the page cache, in a row",
            )
            proving = Subject(
                name="bramble installer, reading back and committing",
                measure=lambda: written / _install(url, index, disk, image)[1],
                note="past the page cache, with SHA-256; nothing boots before",
            )
            with _link(tc):
                over_link = interleave([writing, source, target], bench.rounds)
            without = interleave([writing, source, target, proving], bench.rounds)
    work_done = (
        f"The demo's image ({written:.0f} MB mapped of {index.size_bytes / 1e6:.0f} MB, {sent:.0f} MB as it "
        "is sent) onto a file that holds an older copy. Rates are of mapped bytes. Server, client and "
        "decompression share this machine's cores; on a board the server is elsewhere. Afterwards every "
        "mapped byte on the disk is compared with the image."
    )
    titles = {
        f"The installer's pipeline, over {LINK_MBIT} Mbit/s": over_link,
        "The installer's pipeline, over the loopback interface": without,
    }
    return [
        Table(title=title, unit="MB/s", better=Better.HIGHER, work=work_done, rows=rows)
        for title, rows in titles.items()
    ]


@contextlib.contextmanager
def _link(tc: Program) -> Iterator[None]:
    """Loopback as slow as the boards' Ethernet: a token bucket, in the network that is this process's own."""
    limit = ["rate", f"{LINK_MBIT}mbit", "burst", "256k", "latency", "50ms"]
    made = subprocess.run(
        [str(tc.path), "qdisc", "replace", "dev", "lo", "root", "tbf", *limit],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise NotPossible(f"the loopback interface can not be limited: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([str(tc.path), "qdisc", "del", "dev", "lo", "root"], check=True)


def _require(bench: Bench, name: str) -> Program:
    program = bench.programs.find(name)
    if program is None:
        raise NotPossible(f"the program {name} is {not_installed(name)}")
    return program


def _rate(megabytes: float, measure: Callable[[], float]) -> float:
    return megabytes / measure()


def _write_mapped(image: Image, index: ImageIndex, target: Path) -> None:
    with image.disk.open("rb") as source, target.open("wb") as file:
        for chunk in index.chunks:
            source.seek(chunk.offset)
            file.write(source.read(chunk.length))


def _install(url: str, index: ImageIndex, disk: Path, image: Image) -> tuple[float, float]:
    """Seconds to write, and seconds to read back and commit."""
    with TargetDisk(disk) as target:
        writer = ImageWriter(target, index, (), ImageStream(url).chunks, marker=MARKER)
        started = time.perf_counter()
        writer.invalidate()
        writer.write(lambda done, total: None)
        wrote = time.perf_counter()
        writer.verify(lambda done, total: None)
        writer.commit()
        ended = time.perf_counter()
    _require_whole(image, index, disk)
    return wrote - started, ended - wrote


def _require_whole(image: Image, index: ImageIndex, disk: Path) -> None:
    """But for sector 0, whose root partition was grown, and the marker."""
    with image.disk.open("rb") as source, disk.open("rb") as written:
        for chunk in index.chunks:
            if chunk.offset < 1 << 20:
                continue
            source.seek(chunk.offset)
            written.seek(chunk.offset)
            if source.read(chunk.length) != written.read(chunk.length):
                raise BenchmarkError(f"the disk differs from the image at {chunk.offset}")


def _bring(curl: Program, zstd: Program, url: str) -> float:
    started = time.perf_counter()
    with (
        subprocess.Popen(
            [str(curl.path), "--silent", "--show-error", "--fail", url], stdout=subprocess.PIPE
        ) as fetching,
        subprocess.Popen(
            [str(zstd.path), "-dcq"], stdin=fetching.stdout, stdout=subprocess.DEVNULL
        ) as unpacking,
    ):
        if fetching.stdout is not None:
            fetching.stdout.close()
        codes = (unpacking.wait(TIMEOUT_S), fetching.wait(TIMEOUT_S))
    if any(codes):
        raise BenchmarkError(f"zstd and curl ended with {codes}")
    return time.perf_counter() - started


def _copy(dd: Program, source: Path, disk: Path) -> float:
    started = time.perf_counter()
    argv = [str(dd.path), f"if={source}", f"of={disk}", "bs=4M", "conv=notrunc,fsync", "status=none"]
    subprocess.run(argv, check=True, timeout=TIMEOUT_S)
    return time.perf_counter() - started
