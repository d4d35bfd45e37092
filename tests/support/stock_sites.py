"""Stock images on a test site, laid out as their publishers lay them out, with a throw-away key."""

from __future__ import annotations

import hashlib
import lzma
import re
from pathlib import Path

from fakes_image import make_disk
from fakes_systems import SYSTEMS
from image_site import SigningKey, Site

from imagebuilder.bases.catalogue import Publisher, StockImage, catalogue

UBUNTU = "ubuntu-24.04"
RASPIOS = "raspios-lite-trixie"


def packed_disk(directory: Path, system: str = "debian", *, preset: int = 0) -> bytes:
    """A small disk image that Bramble understands, as .xz."""
    disk = make_disk(directory / f"{system}.img", system=SYSTEMS[system])
    return lzma.compress(disk.read_bytes(), preset=preset)


def raw_sha256(packed: bytes) -> str:
    """The digest of the image in a .xz."""
    return hashlib.sha256(lzma.decompress(packed)).hexdigest()


def stock_image(name: str, *keys: str, publisher: str = "Test", key_urls: tuple[str, ...] = ()) -> StockImage:
    """The catalogue's entry ``name`` with other pinned keys, and no key files or sites but ``key_urls``."""
    known = catalogue().stock[name]
    return StockImage(
        name=name,
        title=known.title,
        publisher=Publisher(
            name="test",
            title=publisher,
            url=known.publisher.url,
            mirror_variable=known.publisher.mirror_variable,
            keys=keys or ("0" * 40,),
            key_urls=key_urls,
        ),
        locate=known.locate,
        directory=known.directory,
        file=known.file,
        signature=known.signature,
        max_download_mib=64,
        max_disk_mib=256,
        latest=known.latest,
        folder=known.folder,
    )


def put_ubuntu(site: Site, packed: bytes, key: SigningKey | None, release: str = "24.04.4") -> str:
    """Serve ``packed`` as Ubuntu's image; returns the path of the file. Older releases stay in the list."""
    folder = f"/releases/{re.sub(r'[.][0-9]+$', '', release) if release.count('.') > 1 else release}/release/"
    name = f"ubuntu-{release}-preinstalled-server-arm64+raspi.img.xz"
    digest = hashlib.sha256(packed).hexdigest()
    old = site.pages[f"{folder}SHA256SUMS"].body if f"{folder}SHA256SUMS" in site.pages else b""
    other = f"{'1' * 64} *ubuntu-{release}-live-server-arm64.iso\n".encode()
    site.put(f"{folder}SHA256SUMS", old + other + f"{digest} *{name}\n".encode())
    if key is not None:
        site.put(f"{folder}SHA256SUMS.gpg", key.sign(site.pages[f"{folder}SHA256SUMS"].body, armour=True))
    site.put(folder + name, packed)
    return folder + name


def put_raspios(
    site: Site,
    packed: bytes,
    key: SigningKey | None,
    published: str = "2025-12-04",
    built: str = "2025-12-04",
    suite: str = "trixie",
    *,
    latest: bool = True,
) -> str:
    """Serve ``packed`` as Raspberry Pi OS Lite; returns the path of the file."""
    folder = f"/raspios_lite_arm64/images/raspios_lite_arm64-{published}/"
    name = f"{built}-raspios-{suite}-arm64-lite.img.xz"
    site.put(folder + name, packed)
    site.put(f"{folder}{name}.sha256", f"{hashlib.sha256(packed).hexdigest()}  {name}\n".encode())
    site.put(f"{folder}{built}-raspios-{suite}-arm64-lite.info", b"packages\n")
    if key is not None:
        site.put(f"{folder}{name}.sig", key.sign(packed))
    if latest:
        site.put("/raspios_lite_arm64_latest", b"").location = folder + name
    return folder + name
