"""The installer: from RAM, one image onto one disk, safe against power loss at any byte.

`layout` is the pure part (which bytes go where, and in which order), `occupant` knows what a disk held
before, `stream` brings verified bytes, `device` is the disk, `writer` applies one to the other, `session`
talks to the control server, `run` is the order of it all.
"""
