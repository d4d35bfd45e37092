"""Who a board is, what it gets to boot, and the files that it may read."""
