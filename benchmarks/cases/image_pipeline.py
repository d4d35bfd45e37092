"""A cluster's image with a k3s payload of real size, beside other ways to put files into a stock image."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from benchmarks.bench import Bench, write_noise
from benchmarks.demo_image import linked_store, require_base
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import timed
from benchmarks.programs import not_installed
from bramble.demo import write_spec
from bramble.paths import agent_package
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.build import FREE_ROOT_BYTES, Image, build_image
from imagebuilder.digests import DigestCache
from imagebuilder.disk.blockmap import ROOT_PARTITION, ByteRange
from imagebuilder.disk.mbr import MBR_BYTES, parse_mbr
from imagebuilder.disk.source import open_source
from imagebuilder.seal.chunks import Chunk, load_chunks
from imagebuilder.seal.known import open_known
from imagebuilder.store import Store

MIB: Final = 2**20
BINARY_BYTES: Final = 64_000_000
AIRGAP_BYTES: Final = 133_000_000
COMPRESSING: Final = "compressing"
SEALED: Final = "recording digests"
PLACES: Final = (
    ("k3s-arm64", "/usr/local/bin/k3s"),
    ("k3s-airgap-images-arm64.tar.zst", "/var/lib/rancher/k3s/agent/images/k3s-airgap-images-arm64.tar.zst"),
)


@dataclass(frozen=True, slots=True)
class _Job:
    """What every subject is given: the base, the payload, and how large the root has to become."""

    bench: Bench
    spec: ClusterSpec
    release: Path
    base: Path

    @property
    def payload(self) -> list[tuple[Path, str]]:
        return [(self.release / name, place) for name, place in PLACES]

    @property
    def grown_bytes(self) -> int:
        needed = sum(path.stat().st_size for path, _ in self.payload) + FREE_ROOT_BYTES
        return (self.base.stat().st_size + needed) // MIB * MIB


def run(bench: Bench) -> list[Table]:
    """Time of one image, then the memory that a build takes."""
    base = require_base(bench.store)
    with bench.directory("payload") as directory:
        release = make_release(bench, directory / "release")
        spec = load_cluster(write_spec(directory, release))
        job = _Job(bench, spec, release, base.disk)
        subjects = [
            Subject(
                name="bramble: sealed, not compressed",
                measure=lambda: _build(job),
                note="without root: checked, customised, every file read back, fsck, hashed",
            ),
            Subject(
                name="cp --sparse=always",
                measure=lambda: _copy(job),
                note="the same bytes: the finished image once more, flushed",
            ),
        ]
        rows: list[Row] = []
        if os.geteuid() == 0:
            subjects.append(
                Subject(
                    name="losetup, resize2fs, mount, cp, umount, e2fsck",
                    measure=lambda: _loop_mount(job),
                    note="root only; the two payload files alone, nothing read back",
                )
            )
        else:
            rows.append(Row(name="losetup, mount, cp", note="needs root"))
        subjects.append(
            Subject(
                name="bramble: the whole build",
                measure=lambda: _build_whole(job),
                note="compressed, with installer, boot tree, block map, SBOM and provenance",
            )
        )
        if (tool := bench.programs.find("virt-customize")) is not None:
            subjects.append(
                Subject(
                    name="virt-customize --upload",
                    measure=lambda: _virt_customize(job, tool.path),
                    note="starts a machine of its own, emulated where there is no KVM; the two files alone",
                )
            )
        else:
            rows.append(Row(name="virt-customize", note=not_installed("virt-customize")))
        measured = interleave(subjects, bench.rounds)
        memory = _memory(job)
    return [
        Table(
            title="Cluster image with k3s",
            unit="s",
            better=Better.LOWER,
            work=f"The base with a k3s binary of {BINARY_BYTES / 1e6:.0f} MB and airgap images of "
            f"{AIRGAP_BYTES / 1e6:.0f} MB, from a warm cache. Bramble's figure is the whole build less its "
            "compression, plus having the digest of every mapped chunk, which compression makes on the way. "
            "After each run both files are read out of the image and compared.",
            rows=(*measured, *rows),
        ),
        Table(
            title="Memory of a build",
            unit="MiB",
            better=Better.LOWER,
            work="Largest resident size of the process that builds that image, compression included.",
            rows=(Row(name="bramble: build", samples=(memory,)),),
        ),
    ]


def make_release(bench: Bench, directory: Path) -> Path:
    """Files in the form of a k3s release that cannot be compressed."""
    directory.mkdir()
    noise = directory / "noise"
    binary = directory / "k3s-arm64"
    write_noise(binary, bench.size(BINARY_BYTES))
    with binary.open("r+b") as file:
        file.write(b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + (183).to_bytes(2, "little"))
    write_noise(noise, bench.size(AIRGAP_BYTES))
    with (
        (directory / PLACES[1][0]).open("wb") as raw,
        zstandard.ZstdCompressor(level=1).stream_writer(raw, closefd=False) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        index = tarfile.TarInfo("manifest.json")
        index.size = 2
        archive.addfile(index, io.BytesIO(b"[]"))
        archive.add(noise, "layer.tar")
    noise.unlink()
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(directory.iterdir())
    ]
    (directory / "sha256sum-arm64.txt").write_text("".join(lines))
    return directory


def _build(job: _Job) -> float:
    with linked_store(job.bench) as store:
        _lend_digests(job, store)
        marks: dict[str, float] = {}

        def note(text: str, share: float) -> None:
            marks.setdefault(text, time.perf_counter())

        started = time.perf_counter()
        image = build_image(job.spec, store=store, agent_package=agent_package(), progress=note)
        seconds = time.perf_counter() - started
        _require_payload(job, image.disk)
        return seconds - (marks[SEALED] - marks[COMPRESSING]) + _hashing(job, image, store)


def _build_whole(job: _Job) -> float:
    with linked_store(job.bench) as store:
        _lend_digests(job, store)
        started = time.perf_counter()
        build_image(job.spec, store=store, agent_package=agent_package())
        return time.perf_counter() - started


def _lend_digests(job: _Job, store: Store) -> None:
    """The digests of base and payload, which the user's own store remembers after its first build."""
    digests = DigestCache(job.release.parent / "digests")
    for path in (job.base, *(path for path, _ in job.payload)):
        digests.sha256(path)
    shutil.copytree(job.release.parent / "digests", store.root / "digests", dirs_exist_ok=True)


def _hashing(job: _Job, image: Image, store: Store) -> float:
    """Seconds to have the digest of every mapped chunk, as sealing has them without compression."""
    chunks = load_chunks(image.index)
    base = require_base(store)
    started = time.perf_counter()
    with (
        open_source(image.disk) as source,
        open_known(base.content_id, base.disk, store) as known,
        ThreadPoolExecutor(2) as pool,
    ):

        def digest(chunk: Chunk) -> str:
            piece = ByteRange(chunk.offset, chunk.offset + chunk.length)
            if found := known.digest(source, piece):
                return found
            return hashlib.sha256(source.read_at(chunk.offset, chunk.length)).hexdigest()

        for chunk, found in zip(chunks, pool.map(digest, chunks), strict=True):
            if chunk.sha256 != found:
                raise BenchmarkError(f"the chunk at {chunk.offset} is not what the index says")
    return time.perf_counter() - started


def _copy(job: _Job) -> float:
    """The floor: the bytes of the finished image, which is made once and kept for all rounds."""
    finished = job.release.parent / "finished.img"
    if not finished.exists():
        with linked_store(job.bench) as store:
            image = build_image(job.spec, store=store, agent_package=agent_package())
            timed(["cp", "--sparse=always", image.disk, finished])
    with job.bench.directory("copy") as directory:
        started = time.perf_counter()
        timed(["cp", "--sparse=always", finished, directory / "disk.img"])
        timed(["sync", directory / "disk.img"])
        return time.perf_counter() - started


@contextlib.contextmanager
def _grown_copy(job: _Job) -> Iterator[tuple[Path, int]]:
    """A copy of the base with room, and the offset of its root; what every other way begins with."""
    with job.bench.directory("peer") as directory:
        disk = directory / "disk.img"
        timed(["cp", "--sparse=always", job.base, disk])
        os.truncate(disk, job.grown_bytes)
        with open_source(disk) as source:
            mbr = parse_mbr(source.read_at(0, MBR_BYTES))
        script = b", +\n"
        subprocess.run(
            ["sfdisk", "--quiet", "--no-reread", "-N", "2", disk],
            input=script,
            check=True,
            capture_output=True,
        )
        yield disk, mbr.partition(ROOT_PARTITION).offset


def _loop_mount(job: _Job) -> float:
    started = time.perf_counter()
    with _grown_copy(job) as (disk, offset), job.bench.directory("mount") as place:
        _, output = timed(["losetup", "--find", "--show", "--offset", str(offset), disk])
        device = output.decode().split()[-1]
        try:
            timed(["e2fsck", "-fy", device])
            timed(["resize2fs", device])
            timed(["mount", device, place])
            try:
                for path, where in job.payload:
                    target = place / where.lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    timed(["cp", path, target])
            finally:
                timed(["umount", place])
            timed(["e2fsck", "-fn", device])
        finally:
            timed(["losetup", "--detach", device])
        timed(["sync", disk])
        seconds = time.perf_counter() - started
        _require_payload(job, disk)
    return seconds


def _virt_customize(job: _Job, tool: Path) -> float:
    environment = {
        **os.environ,
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
    }
    uploads = [word for path, where in job.payload for word in ("--upload", f"{path}:{where}")]
    folder = str(Path(job.payload[1][1]).parent)
    started = time.perf_counter()
    with _grown_copy(job) as (disk, offset):
        timed(["e2fsck", "-fy", f"{disk}?offset={offset}"])
        # resize2fs takes the file for the filesystem: a longer file would lose its end.
        os.truncate(disk, job.grown_bytes - offset)
        timed(["resize2fs", f"{disk}?offset={offset}", f"{(job.grown_bytes - offset) // 512}s"])
        os.truncate(disk, job.grown_bytes)
        timed([tool, "-q", "-a", disk, "--no-network", "--mkdir", folder, *uploads], environment=environment)
        timed(["sync", disk])
        seconds = time.perf_counter() - started
        _require_payload(job, disk)
    return seconds


def _require_payload(job: _Job, disk: Path) -> None:
    with open_source(disk) as source:
        offset = parse_mbr(source.read_at(0, MBR_BYTES)).partition(ROOT_PARTITION).offset
    for path, where in job.payload:
        _, content = timed(["debugfs", "-R", f"dump {where} /dev/stdout", f"{disk}?offset={offset}"])
        if path.read_bytes() not in content:
            raise BenchmarkError(f"{where} is not in the image as it was given")


def _memory(job: _Job) -> float:
    """Largest resident size of a build, MiB; the process is one of its own.

    From VmHWM (KiB, proc(5)): ru_maxrss would also count what its parent had when it was started.
    """
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bramble.paths import agent_package\n"
        "from fleet.spec import load_cluster\n"
        "from imagebuilder.build import build_image\n"
        "from imagebuilder.store import Store\n"
        "spec, store = load_cluster(Path(sys.argv[1])), Store(Path(sys.argv[2]))\n"
        "build_image(spec, store=store, agent_package=agent_package())\n"
        "(peak,) = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print('peak', peak)\n"
    )
    with linked_store(job.bench) as store:
        _, output = timed([sys.executable, "-c", code, job.spec.path, store.root])
    return int(output.decode().rpartition("peak ")[2]) / 1024
