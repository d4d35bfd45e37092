"""The boot firmware of a Raspberry Pi 4 or 5, as a server and a disk see it. Pure: frames, files and `now`
in, frames out.

Everything here is written from public documents and third-party logs; nothing was measured on a board by us.
"""
