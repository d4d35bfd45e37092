"""Bramble on the node: the installer in RAM and the service on disk. Standard library, Python >= 3.10."""

__version__ = "0.1.0"
