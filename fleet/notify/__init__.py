"""Telling people elsewhere of what needs them.

ledger     what was told to whom, what waits; pure     fleet.attention → notices → outbox
messages   notices as JSON and as text; pure
channels   webhook, ntfy, e-mail: the sockets
desk       keeps the ledger in the store, sends, tries again
"""
