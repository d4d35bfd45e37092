"""Stand-ins for the stock images of Raspberry Pi OS and Ubuntu, made from our debian-trixie base.

What is faithful is the layout: partition tables with their sectors, types and signatures, FAT cluster sizes
and labels, ext4 features and labels, file names on both partitions, cmdline.txt and config.txt, os-release,
fstab, accounts, cloud-init's settings and seeds, and the hooks that a first boot runs through. What is inside
is Debian: kernel, programs and modules, so that a clone boots on a virtual board. Scripts of other
distributions are written anew, do the part of the original that an image builder has to reckon with, and say
that they are stand-ins. Nothing here was compared with a real stock image; where the facts leave something
open, the module says so.

    clone = ready_clone("raspios-lite-trixie")     # 4 s the first time, then from the user's store
    clone.disk                                     # the raw image, read only
    published = publish(clone, directory, "xz")    # FILE.img.xz and its sums, as on a download site
"""

from stock_clones.make import CLONES, Clone, make_clone
from stock_clones.publish import Published, publish
from stock_clones.ready import ready_clone

__all__ = ["CLONES", "Clone", "Published", "make_clone", "publish", "ready_clone"]
