"""A zstd frame unpacked from memory into memory, by the system's libzstd: no process, no pipe, any thread.

Python has a zstd of its own from 3.14 on, images have older ones. The library is in every image that the
factory takes, because apt needs it; `imagebuilder.installer` puts it beside the installer's Python. These
functions are stable since 1.0 and may be called from several threads; ctypes lets go of the interpreter's
lock meanwhile.

    size_t ZSTD_decompress(void *dst, size_t dst_capacity, const void *src, size_t src_size)
    unsigned ZSTD_isError(size_t code) · const char *ZSTD_getErrorName(size_t code)

Source: zstd.h, "Simple API", 1.5.5. It writes at most `dst_capacity` bytes, whatever the frame says.
"""

from __future__ import annotations

import ctypes
import functools

from agent.errors import AgentError

LIBRARY = "libzstd.so.1"


class DamagedFrame(AgentError):
    """Bytes that are no zstd frame, or that hold more than they should."""


def unpack(frame: memoryview, into: memoryview) -> int:
    """Unpack one frame, or several in a row; returns the number of bytes that were written.

    Both views are writable memory, as `from_buffer` wants it.

    Raises:
        DamagedFrame: not what zstd packs, or more than `into` has room for.
        AgentError: the system has no libzstd.
    """
    library = _library()
    target = ctypes.byref(ctypes.c_char.from_buffer(into))
    source = ctypes.byref(ctypes.c_char.from_buffer(frame))
    size: int = library.ZSTD_decompress(target, len(into), source, len(frame))
    if library.ZSTD_isError(size):
        reason = library.ZSTD_getErrorName(size).decode("ascii", "replace")
        raise DamagedFrame(
            f"a frame of {len(frame)} bytes can not be unpacked: {reason}",
            "The image on the server is damaged or the network changes bytes; run 'bramble build' again.",
        )
    return size


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as exc:
        raise AgentError(
            f"{LIBRARY} can not be loaded: {exc}", "The installer lacks it; rebuild the image."
        ) from exc
    library.ZSTD_decompress.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t)
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    library.ZSTD_isError.restype = ctypes.c_uint
    library.ZSTD_getErrorName.argtypes = (ctypes.c_size_t,)
    library.ZSTD_getErrorName.restype = ctypes.c_char_p
    return library
