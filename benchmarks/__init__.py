"""Measurements against peers: `python -m benchmarks`, or `make bench`.

A case is a module in `benchmarks.cases` that measures a few subjects which do the same work, checks that they
did, and gives a table. Everything runs on this machine, in temporary directories; servers run on the loopback
interface of a private network. Nothing here decides pass or fail by the clock.
"""
