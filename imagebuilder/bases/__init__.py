"""Bases: stock images that customisation starts from, and the one that we make from Debian's own packages."""
