"""What a disk or a store refuses, in one line that tells where it was and how to mend it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from galaxray.errors import RunError

__all__ = ["storage_errors"]

HINTS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or have the quota raised",
    errno.EROFS: "have it mounted for writing again",
    errno.EACCES: "see to it that you may write there",
    errno.EPERM: "see to it that you may write there",
    errno.ENOENT: "where a run has several nodes, all of them have to share this disk",
    errno.EBUSY: "wait until the store has fewer requests to answer",
}


@contextmanager
def storage_errors(root: str) -> Iterator[None]:
    """Turn what a disk or a store refuses into the error that ends a run.

    Parameters
    ----------
    root : str
        The folder that is worked on; named where the refusal itself names no file.

    Raises
    ------
    RunError
        Instead of an OSError, or of what the S3 client raises for a store that cannot be reached.
    """
    failures: tuple[type[Exception], ...] = (OSError,)
    if root.startswith("s3://"):
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError

        failures = (OSError, BotoCoreError, ClientError)  # the last two of connections that break
    try:
        yield
    except failures as error:
        number = getattr(error, "errno", None)
        text = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        if number == errno.ENOSPC:  # Arrow says it in words of its own
            text = os.strerror(number)
        # A copy that fails names the source first and what was written second. A name in .staging/ says nothing.
        place = str(getattr(error, "filename2", None) or getattr(error, "filename", None) or root)
        place = root if place.startswith(f"{root}/") else place
        hint = HINTS.get(number or 0, f"see whether the {'store is up' if len(failures) > 1 else 'disk is well'}")
        raise RunError(
            f"{place}: {text.rstrip('.')}; {hint}. What is written is kept: the same command goes on"
        ) from error
