"""Switching boards: drivers of plugs, relays and PoE switches, and the desk that orders go through.

`driver` is what they have in common, `open` makes one of what cluster.yaml declares, `desk` decides whether
an order is carried out and sees to it that a board that was switched off comes on again.
"""
