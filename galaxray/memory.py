"""Keep freed memory in the process.

By default glibc gives every large block back to the system when it is freed, and asks for it again at once: each tensor
and each picture then costs a page fault per 4 KiB. On two cores that is half of the time of a convolutional network
(ConvNeXt-Nano: 31 images/s with, 72 without) and most of the time of `galaxray.images.View`.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory", "worker_environment"]

KEEP_BYTES = 2**30
"""Blocks up to this size stay in the process when freed, and so does as much at the end of the heap."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def worker_environment() -> dict[str, str]:
    """Environment variables that make a new process keep freed memory, for Ray's ``runtime_env``."""
    return {"MALLOC_MMAP_THRESHOLD_": str(KEEP_BYTES), "MALLOC_TRIM_THRESHOLD_": str(KEEP_BYTES)}


def keep_freed_memory() -> bool:
    """Make this process keep freed memory from now on.

    Returns
    -------
    bool
        Whether it does; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, KEEP_BYTES) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
