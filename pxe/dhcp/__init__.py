"""DHCP: the wire format (RFC 2131, 2132, 3396), the lease table and the responder. No I/O in here."""
