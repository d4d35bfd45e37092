"""Sockets: the thin shell around the protocol cores."""
