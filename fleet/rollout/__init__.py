"""Another image for the whole fleet, node by node: what comes next, and the desk that orders it."""
