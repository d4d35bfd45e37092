"""A cluster's image: planned, found in the store or built there.

    disk.img                  the raw image, sparse
    disk.img.zst  index.json  the same as independent frames, and where each chunk is in it
    disk.bmap                 block map for bmaptool
    boot/                     the boot partition's files, for the network boot
    installer/initramfs       boots the same kernel into the installer
    sbom.spdx.json            what is in it: packages with their versions
    manifest.json             what all this is

An entry of the store is there completely or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fleet.spec.model import ClusterSpec, PackagesAt
from imagebuilder.bases import Base, FetchProgress, find_declared, require_declared
from imagebuilder.boot_tree import netboot_kernel, write_boot_tree
from imagebuilder.delta import NodeValues, render_delta
from imagebuilder.dialects import MANNERS
from imagebuilder.digests import DigestCache, hash_file
from imagebuilder.disk.behind import written_behind
from imagebuilder.disk.blockmap import mapped_ranges
from imagebuilder.disk.debugfs import needed_bytes
from imagebuilder.disk.edit import DiskImage, is_clean
from imagebuilder.disk.edits import Edit, PutBootFile, Written
from imagebuilder.disk.source import FileSource, open_source
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.disk.table import TableKind
from imagebuilder.editable import first_free_sectors, mbr_in_place_of, require_editable
from imagebuilder.inspect import ImageFacts, inspect_image
from imagebuilder.installer import MAX_INITRAMFS_BYTES, build_initramfs, installer_identity
from imagebuilder.k3s_release import (
    K3sRelease,
    fetch_release,
    find_fetched,
    open_release,
    verify_payload,
)
from imagebuilder.manifest import FILE_NAME, BaseRecord, K3sRecord, Manifest, Output, load_manifest
from imagebuilder.packages.apply import apply_layer, layer_room_bytes
from imagebuilder.packages.install import (
    HOST_APT,
    AptAccess,
    PackageRequest,
    StoredLayer,
    find_layer,
    make_layer,
)
from imagebuilder.plan import Plan, tool_versions
from imagebuilder.render import render_user_data
from imagebuilder.resources import data_dir
from imagebuilder.runner import require_tools
from imagebuilder.seal.bmap import render_bmap
from imagebuilder.seal.chunks import clear_unmapped, compress, render_index
from imagebuilder.seal.known import open_known
from imagebuilder.seal.origins import input_records, write_sbom
from imagebuilder.slots import find_slots
from imagebuilder.steps.account import InPlaceStep
from imagebuilder.steps.agent import AgentStep, pack_agent
from imagebuilder.steps.cmdline import CmdlineStep, FstabStep
from imagebuilder.steps.config_txt import ConfigTxtStep
from imagebuilder.steps.k3s import K3sStep
from imagebuilder.steps.overlay import OwnOverlay, load_overlay
from imagebuilder.steps.seed import SeedStep
from imagebuilder.steps.step import Context, Step
from imagebuilder.steps.units import UnitsStep
from imagebuilder.still import FileState
from imagebuilder.store import Store, flush_file, require_room
from imagebuilder.store_gc import keep_budget

KIND: Final = "images"
COMPRESSED: Final = "disk.img.zst"
FREE_ROOT_BYTES: Final = 3 * 2**29
"""Room that stays free on the root before it grows to its disk: k3s unpacks itself and its images at the
first start."""

TOOLS: Final = ("cp", "debugfs", "e2fsck", "fsck.vfat", "mcopy", "resize2fs")


Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole work that is done, 0.0–1.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A finished image in the store."""

    id: str
    root: Path
    manifest: Manifest

    @property
    def disk(self) -> Path:
        return self.root / "disk.img"

    @property
    def compressed(self) -> Path:
        return self.root / COMPRESSED

    @property
    def index(self) -> Path:
        return self.root / "index.json"

    @property
    def block_map(self) -> Path:
        return self.root / "disk.bmap"

    @property
    def boot_tree(self) -> Path:
        return self.root / "boot"

    @property
    def installer_kernel(self) -> Path:
        return self.boot_tree / netboot_kernel((self.boot_tree / "config.txt").read_text("utf-8"))

    @property
    def installer_initramfs(self) -> Path:
        return self.root / "installer" / "initramfs"

    @property
    def index_sha256(self) -> str:
        """Digest of index.json, which proves every chunk."""
        return self.manifest.output("index.json").sha256

    def render_delta(self, values: NodeValues) -> tuple[tuple[int, bytes], ...]:
        """What makes the image one node's own: (offset on the disk, bytes), ascending."""
        return render_delta(self.manifest.slots, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    base: Base
    release: K3sRelease
    agent_archive: bytes
    plan: Plan
    layer: StoredLayer | None
    base_state: FileState | None = None


def find_image(
    spec: ClusterSpec, *, store: Store, agent_package: Path, apt: AptAccess = HOST_APT
) -> Image | None:
    """The finished image of this cluster, if nothing that it depends on has changed since it was built.

    Raises:
        ImageBuilderError: an input is missing or damaged (k3s files, overlays).
    """
    base = find_declared(spec.image.base, store)
    directory = _find_release(spec, store)
    if base is None or directory is None:
        return None
    request = _packages(spec, base, apt)
    layer = find_layer(request, store) if request else None
    if request and layer is None:
        return None
    return open_image(_inputs(spec, base, directory, store, agent_package, layer).plan.image_id, store)


def build_image(
    spec: ClusterSpec,
    *,
    store: Store,
    agent_package: Path,
    apt: AptAccess = HOST_APT,
    progress: Progress = lambda text, share: None,
    on_fetch: Callable[[FetchProgress], None] = lambda step: None,
) -> Image:
    """The image of this cluster: out of the store, or built now.

    Args:
        spec: the cluster.
        store: where bases are found and the image is kept.
        agent_package: the agent's package directory.
        apt: how to reach the archives of ``image.packages``.
        progress: called from this thread.
        on_fetch: the same, for what is brought into the store first.

    Raises:
        BaseMissing: the base is not in the store.
        ImageBuilderError: any other input is missing or damaged, or a tool failed; nothing is left in the
            store.
    """
    base = require_declared(spec.image.base, store, on_fetch)
    state = base.require_intact(DigestCache(store.root / "digests"))
    directory = _find_release(spec, store) or fetch_release(
        str(spec.k3s.source),
        spec.k3s.version,
        airgap=spec.k3s.airgap_images,
        store=store,
        on_progress=on_fetch,
    )
    progress("checking inputs", 0.0)
    request = _packages(spec, base, apt, state)
    layer = make_layer(request, store=store, progress=progress) if request else None
    inputs = replace(_inputs(spec, base, directory, store, agent_package, layer), base_state=state)
    image_id = inputs.plan.image_id
    if found := open_image(image_id, store):
        return found
    require_tools(*TOOLS)

    def build(into: Path) -> None:
        with state.holding(base.disk):
            _build(spec, inputs, into, store, progress)

    entry = store.get_or_create(KIND, image_id, build)
    keep_budget(store, time.time())
    return Image(id=image_id, root=entry, manifest=load_manifest(entry))


def plan_steps(spec: ClusterSpec, release: K3sRelease, agent_archive: bytes) -> tuple[Step, ...]:
    """What is done to the base, in order; of two steps that write the same path the later one wins."""
    names = dict.fromkeys(name for manner in MANNERS.values() for name in manner.overlays)
    own = [OwnOverlay(load_overlay(data_dir("overlays") / name, name)) for name in names]
    theirs = [load_overlay(path, f"overlay {path.name}") for path in spec.image.overlays]
    image = spec.image
    folders = [manner.templates for manner in MANNERS.values() if manner.templates]
    return (
        *own,
        UnitsStep(),
        AgentStep(agent_archive),
        K3sStep(release, spec.k3s.registries),
        InPlaceStep(
            user=image.user.name,
            ssh_authorized_keys=image.user.ssh_authorized_keys,
            timezone=image.timezone,
            packages=image.packages if image.packages_at is PackagesAt.FIRST_BOOT else (),
        ),
        CmdlineStep(),
        FstabStep(),
        ConfigTxtStep(image.pages),
        *theirs,
        SeedStep(spec.name, {name: render_user_data(spec, name) for name in folders}, release.simulator),
    )


def _packages(
    spec: ClusterSpec, base: Base, apt: AptAccess, state: FileState | None = None
) -> PackageRequest | None:
    """What apt is to install into the image; None where it is nothing."""
    image = spec.image
    if not image.packages or image.packages_at is not PackagesAt.BUILD:
        return None
    return PackageRequest(
        base_id=base.content_id, base_disk=base.disk, packages=image.packages, access=apt, state=state
    )


def _inputs(
    spec: ClusterSpec,
    base: Base,
    directory: Path,
    store: Store,
    agent_package: Path,
    layer: StoredLayer | None,
) -> _Inputs:
    digests = DigestCache(store.root / "digests")
    release = open_release(directory, spec.k3s.version, airgap=spec.k3s.airgap_images, digests=digests)
    archive = pack_agent(agent_package)
    plan = Plan(
        base_id=base.content_id,
        steps=plan_steps(spec, release, archive),
        installer=installer_identity(archive),
        tools=tool_versions(),
        layer=layer.sha256 if layer else None,
    )
    return _Inputs(base=base, release=release, agent_archive=archive, plan=plan, layer=layer)


def _build(spec: ClusterSpec, inputs: _Inputs, into: Path, store: Store, progress: Progress) -> None:
    progress("reading the k3s release", 0.01)
    _require_room(inputs, store)
    scratch = into / "scratch"
    scratch.mkdir()
    disk = DiskImage(into / "disk.img", scratch)
    base = inputs.base.disk
    with written_behind(disk.path):
        with ThreadPoolExecutor(1) as beside:
            copied = beside.submit(copy_sparse, base, disk.path)
            verify_payload(inputs.release)
            progress("looking at the base", 0.03)
            facts = inspect_image(base)
            require_editable(facts, inputs.plan.tools["e2fsprogs"])
            clean = is_clean(base, facts.root.offset)
            progress("copying the base", 0.05)
            copied.result()
        if facts.table.kind is TableKind.GPT:
            disk.replace_table(mbr_in_place_of(facts.table), first_free_sectors(facts.table))
        packaged = _lay_packages(inputs.layer, disk, clean, progress)
        if packaged and facts.table.kind is TableKind.MBR:
            facts = inspect_image(disk.path)  # a package may bring a kernel, a unit, an account
        on_boot, read_back = _apply(inputs.plan, disk, facts, clean, progress)
    # From here on nobody writes to the disk but `clear_unmapped`, into what no filesystem uses.
    with ThreadPoolExecutor(2) as beside:
        flushed = beside.submit(flush_file, disk.path)
        on_root = beside.submit(read_back)
        progress("checking the filesystems", 0.35)
        disk.check()
        scratch.rmdir()
        progress("extracting the boot files", 0.38)
        with open_source(disk.path) as source:
            tree = write_boot_tree(source, facts, into / "boot")
        progress("building the installer", 0.40)
        installer = into / "installer" / "initramfs"
        installer.parent.mkdir()
        build_initramfs(
            installer,
            tree.initramfs,
            inputs.base.content_id,
            base,
            inputs.agent_archive,
            store,
            inputs.base_state,
        )
        digests = beside.submit(_digests, into, _output_files(into))
        progress("reading everything back", 0.42)
        written = (*packaged, *on_boot, *on_root.result())
        manifest = _seal(spec, inputs, disk, facts, written, digests, into, store, progress)
        flushed.result()
    (into / FILE_NAME).write_text(manifest.render(), encoding="utf-8")
    progress("done", 1.0)


def _lay_packages(
    layer: StoredLayer | None, disk: DiskImage, clean: bool, progress: Progress
) -> tuple[Written, ...]:
    if layer is None:
        return ()
    progress("laying the packages into the image", 0.08)
    disk.grow_root(layer_room_bytes(layer.layer) + FREE_ROOT_BYTES, clean=clean)
    return tuple(apply_layer(layer, disk))


def _apply(
    plan: Plan, disk: DiskImage, facts: ImageFacts, clean: bool, progress: Progress
) -> tuple[list[Written], Callable[[], list[Written]]]:
    """Do the plan's edits: the record of the boot partition's, and what reads the root's back."""
    context = Context(image_id=plan.image_id, disk=disk, facts=facts)
    edits: dict[tuple[bool, str], Edit] = {}
    for step in plan.steps:
        for edit in step.edits(context):
            edits[isinstance(edit, PutBootFile), edit.path] = edit
    boot = [edit for edit in edits.values() if isinstance(edit, PutBootFile)]
    root = [edit for edit in edits.values() if not isinstance(edit, PutBootFile)]
    progress("growing the root filesystem", 0.12)
    disk.grow_root(needed_bytes(root, 4096) + FREE_ROOT_BYTES, clean=clean)
    progress("writing the boot partition", 0.15)
    written = disk.put_boot(boot)
    progress("writing the root filesystem", 0.18)
    return written, disk.write_root(root)


def _seal(
    spec: ClusterSpec,
    inputs: _Inputs,
    disk: DiskImage,
    facts: ImageFacts,
    written: Sequence[Written],
    digests: Future[dict[str, str]],
    into: Path,
    store: Store,
    progress: Progress,
) -> Manifest:
    """Compress, and describe everything; ``digests`` are those of the outputs that were there before."""
    size = disk.size_bytes
    descriptor = os.open(disk.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        source = FileSource(descriptor)
        slots = find_slots(source, MANNERS[facts.dialect].slots, [f"/{path}" for path in facts.cmdlines])
        ranges = mapped_ranges(source, size)
        clear_unmapped(descriptor, size, ranges)
        progress("compressing", 0.45)
        with (
            written_behind(into / COMPRESSED),
            open_known(inputs.base.content_id, inputs.base.disk, store, inputs.base_state) as known,
        ):
            packed = compress(
                source,
                size,
                ranges,
                into / COMPRESSED,
                lambda share: progress("compressing", 0.45 + share * 0.5),
                known.packed,
            )
            flush_file(into / COMPRESSED)
    finally:
        os.close(descriptor)
    chunks = packed.chunks
    (into / "index.json").write_bytes(render_index(inputs.plan.image_id, size, chunks))
    (into / "disk.bmap").write_text(render_bmap(size, chunks))
    progress("recording digests", 0.96)
    release, info = inputs.release, inputs.base.info
    base_sha256 = info.disk_sha256 or DigestCache(store.root / "digests").sha256(inputs.base.disk)
    records = input_records(inputs.base, base_sha256, release, inputs.agent_archive, inputs.layer)
    write_sbom(
        into,
        disk.path,
        facts,
        image_id=inputs.plan.image_id,
        cluster=spec.name,
        base=inputs.base,
        release=release,
        inputs=records,
    )
    return Manifest(
        image_id=inputs.plan.image_id,
        cluster=spec.name,
        base=BaseRecord(
            id=inputs.base.id, name=inputs.base.name, kernel=info.kernel_version, packages=info.packages
        ),
        k3s=K3sRecord(
            version=release.version,
            simulator=release.simulator,
            airgap_images=release.airgap.name if release.airgap else None,
        ),
        size_bytes=size,
        mapped_bytes=sum(chunk.length for chunk in chunks),
        compressed_bytes=packed.size_bytes,
        slots=slots,
        tools=inputs.plan.tools,
        changes=tuple(written),
        outputs=_outputs(into, {**digests.result(), COMPRESSED: packed.sha256}),
        packages=inputs.layer.layer.packages if inputs.layer else (),
        inputs=records,
    )


def _output_files(directory: Path) -> list[str]:
    """Every file below a directory but the raw disk, by its path there."""
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(set(files) - {"disk.img"})


def _digests(directory: Path, paths: Iterable[str]) -> dict[str, str]:
    return {path: hash_file(directory / path) for path in paths}


def _outputs(directory: Path, known: Mapping[str, str]) -> tuple[Output, ...]:
    return tuple(
        Output(
            path=path,
            size_bytes=(directory / path).stat().st_size,
            sha256=known.get(path) or hash_file(directory / path),
        )
        for path in _output_files(directory)
    )


def _require_room(inputs: _Inputs, store: Store) -> None:
    """Raise ``NoSpace`` before anything is written: image, its compressed form, boot tree and installer."""
    release = inputs.release
    payload = release.binary.size_bytes + (release.airgap.size_bytes if release.airgap else 0)
    base = inputs.base.disk.stat().st_blocks * 512
    # The copy; compressed, the base gives a third and the payload nothing; the boot tree and the FAT's check
    # copy.
    needed = (base + payload) + (base // 2 + payload) + 3 * MAX_INITRAMFS_BYTES
    require_room(store.root, needed + needed // 10)


def open_image(image_id: str, store: Store) -> Image | None:
    """The finished image of this id, in use by ``store`` from now on; None where there is none."""
    entry = store.find(KIND, image_id)
    return None if entry is None else Image(id=image_id, root=entry, manifest=load_manifest(entry))


def _find_release(spec: ClusterSpec, store: Store) -> Path | None:
    """The directory of the release's files, None where they have yet to be downloaded."""
    k3s = spec.k3s
    if isinstance(k3s.source, Path):
        return k3s.source
    return find_fetched(k3s.source, k3s.version, airgap=k3s.airgap_images, store=store)
