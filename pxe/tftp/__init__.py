"""TFTP: the wire format, one read transfer as a state machine, and the worker process that serves them."""
