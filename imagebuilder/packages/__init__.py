"""Debian packages in the image at build time: the image's own apt, run over the base's tree in the sandbox.

What apt changed is kept as a *layer*: the files that were added, changed and removed, with owners, modes,
links and extended attributes. A layer is made once for a base and a list of packages, and laid into any
number of images through debugfs. Nothing of the base that apt did not touch is rewritten.
"""
