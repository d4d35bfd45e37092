"""What is on a disk: partition table, filesystems, mapped blocks."""
