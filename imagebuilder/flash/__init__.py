"""Images onto cards and disks: mapped blocks only, boot blocks last, everything read back from the medium."""
