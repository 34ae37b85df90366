"""Keep freed memory in the process.

By default glibc gives every large block back to the system when it is freed, and asks for it again at once: each tensor
and each picture then costs a page fault per 4 KiB. On a small virtual machine that slowed a network a lot
(zoobot with ConvNeXt-Nano on two cores: 33 images/s with the faults, 53 without; docs/performance.md).
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory", "worker_environment"]

KEEP_BYTES = 2**30
"""Blocks up to this size stay in the process when freed, and so does as much at the end of the heap."""
OPTIONS = {-1: KEEP_BYTES, -3: KEEP_BYTES, -8: 1}
"""M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h: a thread's own arena would hold no more than
64 MiB, and give back what is larger."""


def worker_environment() -> dict[str, str]:
    """Environment variables that make a new process keep freed memory, for Ray's ``runtime_env``."""
    return {
        "MALLOC_TRIM_THRESHOLD_": str(KEEP_BYTES),
        "MALLOC_MMAP_THRESHOLD_": str(KEEP_BYTES),
        "MALLOC_ARENA_MAX": "1",
    }


def keep_freed_memory() -> bool:
    """Make this process keep freed memory from now on; threads that are there already may keep to their ways.

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
    return all(mallopt(option, value) == 1 for option, value in OPTIONS.items())
