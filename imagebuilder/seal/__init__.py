"""A finished disk image in the forms that others read: compressed chunks with an index, and a bmap."""
